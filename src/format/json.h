/* json.h - JSON from clients and files, read strictly; JSON for clients and files, written.
 *
 *     mlxd_json_doc *doc;
 *     mlxd_err err = mlxd_json_parse(&doc, body, MLXD_LIMIT_JSON_DEPTH, &why);
 *     if (err)
 *         return err; // DATA, RANGE (too deep) or NOMEM
 *     const mlxd_json *n = mlxd_json_find(mlxd_json_root(doc), "max_tokens");
 *     int64_t n_tokens;
 *     if (n && mlxd_json_get_integral(n, &n_tokens)) ... not an integer ...
 *     mlxd_json_close(doc);
 *
 * Reading follows RFC 8259 to the letter, and refuses what it leaves open: duplicate keys (compared
 * after unescaping), U+0000, unpaired surrogates, ill-formed UTF-8, a byte order mark, numbers
 * beyond the range of double, nesting deeper than the caller wants. Every refusal names the byte
 * offset:
 *     offset 17: duplicate key "model"
 *     offset 0: empty text, expected a JSON value
 *
 * One scan both checks and builds: a checker in front of another parser would have to agree with it
 * on everything, and json-c, measured, turns 1 MiB of "[{},{},...]" into 270 MB. Here a value takes
 * 24 bytes in one array, and 4 more in an index when its parent has many; strings are unescaped in
 * place in one private copy of the text. So a document costs its length plus at most 28 MiB (52
 * while it grows) at MLXD_LIMIT_JSON_VALUES, time is n log n in the worst case (many keys in one
 * object), and there is no recursion.
 *
 * Ownership: the document owns everything; nodes and strings are lent and live until close. The
 * text given to parse is not needed afterwards.
 * Thread: a parsed document is immutable; any thread may read it.
 */
#ifndef MLXD_FORMAT_JSON_H
#define MLXD_FORMAT_JSON_H

#include "base/base.h"
#include "base/limits.h"
#include "base/mem.h"

/* ---- reading ---- */

typedef enum mlxd_json_kind {
    MLXD_JSON_NULL,
    MLXD_JSON_BOOL,
    MLXD_JSON_INT, /* written without fraction and exponent; may lie outside int64 */
    MLXD_JSON_DOUBLE,
    MLXD_JSON_STRING,
    MLXD_JSON_ARRAY,
    MLXD_JSON_OBJECT
} mlxd_json_kind;

typedef struct mlxd_json_doc mlxd_json_doc;
typedef struct mlxd_json mlxd_json; /* a value inside a document */

/* Parses all of `text`. `depth_max` counts nested arrays and objects: 0 admits only a scalar, 1
 * also "[]"; at most MLXD_LIMIT_JSON_DEPTH (asserted).
 * Errors: MLXD_ERR_RANGE only for "too deep"; MLXD_ERR_DATA for everything else that is wrong with
 * the text; MLXD_ERR_NOMEM. On success *out is owned by the caller, on error it is NULL. */
mlxd_err mlxd_json_parse(mlxd_json_doc **out, mlxd_slice text, uint32_t depth_max,
                         mlxd_why *why) MLXD_MUST_CHECK;
/* The same for a file of the operator's, which may have more values than a client's request: up to
 * `values_max` instead of MLXD_LIMIT_JSON_VALUES. */
mlxd_err mlxd_json_parse_file(mlxd_json_doc **out, mlxd_slice text, uint32_t depth_max,
                              uint32_t values_max, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_json_close(mlxd_json_doc *doc);
const mlxd_json *mlxd_json_root(const mlxd_json_doc *doc); /* never NULL */

mlxd_json_kind mlxd_json_get_kind(const mlxd_json *v);
/* "null", "boolean", "integer", "number", "string", "array", "object": for error texts. */
const char *mlxd_json_kind_name(mlxd_json_kind kind);

/* Scalars. MLXD_ERR_INVALID when the value is of another kind; *out is then unchanged. */
mlxd_err mlxd_json_get_bool(const mlxd_json *v, bool *out) MLXD_MUST_CHECK;
/* Only INT; MLXD_ERR_RANGE when it does not fit. */
mlxd_err mlxd_json_get_int64(const mlxd_json *v, int64_t *out) MLXD_MUST_CHECK;
/* INT, or a DOUBLE without a fraction (1.0, 1e3); MLXD_ERR_RANGE when it does not fit, INVALID when
 * it has a fraction. */
mlxd_err mlxd_json_get_integral(const mlxd_json *v, int64_t *out) MLXD_MUST_CHECK;
/* INT (rounded to nearest) or DOUBLE; always finite. */
mlxd_err mlxd_json_get_double(const mlxd_json *v, double *out) MLXD_MUST_CHECK;
/* Well-formed UTF-8 without NUL inside, and with a NUL behind it: .data is also a C string. */
mlxd_err mlxd_json_get_str(const mlxd_json *v, mlxd_slice *out) MLXD_MUST_CHECK;
/* Is it this string? false for other kinds. */
bool mlxd_json_is_str(const mlxd_json *v, const char *text);

/* Elements of an array, members of an object (asserts the kind). */
size_t mlxd_json_count(const mlxd_json *v);
/* Element `index` of an array, in constant time; asserts kind and index. */
const mlxd_json *mlxd_json_at(const mlxd_json *array, size_t index);
/* The member's value; NULL when there is none (a member that is null gives a node of kind NULL).
 * Asserts that `object` is one. */
const mlxd_json *mlxd_json_find(const mlxd_json *object, const char *key);

/* Walk over the elements of an array, or the members of an object in the order of the text:
 *     for (const mlxd_json *v = mlxd_json_first(o, &key); v; v = mlxd_json_next(o, v, &key))
 * `key` may be NULL; for an array it is set to the empty slice. Keys are C strings, too. */
const mlxd_json *mlxd_json_first(const mlxd_json *container, mlxd_slice *key);
const mlxd_json *mlxd_json_next(const mlxd_json *container, const mlxd_json *v, mlxd_slice *key);

/* ---- writing ----
 * Appends compact JSON (no white space) to a buffer whose sticky failure is checked by the caller
 * at the end; the writer itself owns nothing and cannot fail. Misuse (a value without a key, an end
 * that does not match, a second root, more than MLXD_JSONW_DEPTH levels) is a programmer's error
 * and asserts.
 *     mlxd_jsonw w;
 *     mlxd_jsonw_init(&w, &buf);
 *     mlxd_jsonw_object_begin(&w);
 *     mlxd_jsonw_key(&w, "choices");
 *     ...
 *     mlxd_jsonw_object_end(&w);
 *     MLXD_ASSERT(mlxd_jsonw_done(&w));
 */
#define MLXD_JSONW_DEPTH 64

typedef struct mlxd_jsonw {
    mlxd_buf *buf;     /* lent */
    uint64_t objects;  /* bit d: level d is an object, else an array */
    uint64_t nonempty; /* bit d: level d has a member already, so a comma comes next */
    uint32_t depth;    /* open levels */
    bool keyed;        /* a key was written, its value comes next */
    bool rooted;       /* the root value was begun */
} mlxd_jsonw;

void mlxd_jsonw_init(mlxd_jsonw *w, mlxd_buf *buf);
/* One whole value was written. */
bool mlxd_jsonw_done(const mlxd_jsonw *w);

void mlxd_jsonw_object_begin(mlxd_jsonw *w);
void mlxd_jsonw_object_end(mlxd_jsonw *w);
void mlxd_jsonw_array_begin(mlxd_jsonw *w);
void mlxd_jsonw_array_end(mlxd_jsonw *w);
void mlxd_jsonw_key(mlxd_jsonw *w, const char *key);
void mlxd_jsonw_key_slice(mlxd_jsonw *w, mlxd_slice key);

/* Ill-formed UTF-8 becomes U+FFFD; quotes, backslashes and control bytes are escaped. */
void mlxd_jsonw_slice(mlxd_jsonw *w, mlxd_slice text);
void mlxd_jsonw_str(mlxd_jsonw *w, const char *text); /* NULL writes null */
void mlxd_jsonw_int(mlxd_jsonw *w, int64_t v);
void mlxd_jsonw_uint(mlxd_jsonw *w, uint64_t v);
/* The fewest digits (up to 17, for float up to 9) that read back as the same number; NaN and
 * infinities become null. */
void mlxd_jsonw_double(mlxd_jsonw *w, double v);
void mlxd_jsonw_float(mlxd_jsonw *w, float v);
void mlxd_jsonw_bool(mlxd_jsonw *w, bool v);
void mlxd_jsonw_null(mlxd_jsonw *w);
/* `json` is one complete JSON value that the caller answers for; written as it is. */
void mlxd_jsonw_raw(mlxd_jsonw *w, mlxd_slice json);

/* Shorthands for members of an object: key and value in one call. */
void mlxd_jsonw_member_str(mlxd_jsonw *w, const char *key, const char *text);
void mlxd_jsonw_member_int(mlxd_jsonw *w, const char *key, int64_t v);
void mlxd_jsonw_member_uint(mlxd_jsonw *w, const char *key, uint64_t v);
void mlxd_jsonw_member_double(mlxd_jsonw *w, const char *key, double v);
void mlxd_jsonw_member_bool(mlxd_jsonw *w, const char *key, bool v);

#endif
