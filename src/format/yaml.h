/* yaml.h - configuration text (YAML 1.1 by libyaml) read into a tree of scalars, sequences and
 * mappings that knows its line numbers.
 *
 * A configuration needs little of YAML, and the rest is where it surprises people or costs memory,
 * so it is refused with the line: anchors and aliases, tags, directives, several documents, keys
 * that are not plain text, duplicate keys, NUL, a byte order mark, UTF-16, ill-formed UTF-8,
 * nesting beyond MLXD_LIMIT_CONFIG_DEPTH, text beyond MLXD_LIMIT_CONFIG_BYTES.
 * Scalars stay text: what "no" or "0x10" means is the business of the one who asks for a boolean or
 * a number. An empty file, or one of comments only, is an empty mapping.
 *
 * Errors are MLXD_ERR_CONFIG and begin with file and line, or MLXD_ERR_NOMEM:
 *     mlxd.yaml:12: duplicate key "port", first on line 4
 *
 * Ownership: the document owns nodes and texts; they are lent until close.
 * Thread: a parsed document is immutable; any thread may read it.
 */
#ifndef MLXD_FORMAT_YAML_H
#define MLXD_FORMAT_YAML_H

#include "base/base.h"
#include "base/limits.h"

typedef enum mlxd_yaml_kind {
    MLXD_YAML_SCALAR,
    MLXD_YAML_SEQUENCE,
    MLXD_YAML_MAPPING
} mlxd_yaml_kind;

typedef struct mlxd_yaml_doc mlxd_yaml_doc;
typedef struct mlxd_yaml mlxd_yaml; /* a node inside a document */

/* `name` (the file's) is used in error texts, now and by mlxd_yaml_fail; it is copied. */
mlxd_err mlxd_yaml_parse(mlxd_yaml_doc **out, mlxd_slice text, const char *name,
                         mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_yaml_close(mlxd_yaml_doc *doc);
const mlxd_yaml *mlxd_yaml_root(const mlxd_yaml_doc *doc); /* always a mapping */

mlxd_yaml_kind mlxd_yaml_get_kind(const mlxd_yaml *v);
const char *mlxd_yaml_kind_name(mlxd_yaml_kind kind); /* "scalar", ... for error texts */
uint32_t mlxd_yaml_get_line(const mlxd_yaml *v);      /* from 1 */
/* Text of a scalar (asserted): UTF-8 without NUL inside. "key:" with nothing behind it gives "",
 * not quoted. */
const char *mlxd_yaml_get_text(const mlxd_yaml *scalar);
/* Written in quotes or as a block: it is meant as text, even when it reads "123" or "true". */
bool mlxd_yaml_is_quoted(const mlxd_yaml *scalar);

/* Items of a sequence, members of a mapping (asserts the kind). */
size_t mlxd_yaml_count(const mlxd_yaml *v);
/* Item `index` of a sequence, value number `index` of a mapping, in the order of the file. */
const mlxd_yaml *mlxd_yaml_at(const mlxd_yaml *v, size_t index);
/* The key (a scalar with its own line) of member `index` of a mapping. */
const mlxd_yaml *mlxd_yaml_key_at(const mlxd_yaml *mapping, size_t index);
const mlxd_yaml *mlxd_yaml_find(const mlxd_yaml *mapping, const char *key); /* or NULL */

/* Writes "file:line: <text>" for the place of `v` and returns MLXD_ERR_CONFIG: how the readers of
 * a configuration report a value they do not want. */
mlxd_err mlxd_yaml_fail(const mlxd_yaml *v, mlxd_why *why, const char *fmt, ...) MLXD_PRINTF(3, 4);

#endif
