/* choose.h - which files of a repository are needed: the weights in one format, once, and what it
 * takes to use them. The same choice is made from the hub's listing (what to download) and from a
 * snapshot in the cache (what to open).
 *
 * Safetensors: config.json, generation_config.json, the tokenizer's and template's files, and the
 * weights that model.safetensors.index.json names (or model.safetensors). Never a second copy of
 * the weights (consolidated, original/, .bin, .pth, onnx).
 *
 * GGUF: one model, which may be split into parts. Files of a repository are models that differ in
 * their quantization, read from the name as people write it: model-Q4_K_M.gguf, model.q4_0.gguf,
 * Q8_0/model-Q8_0-00001-of-00002.gguf. Projectors (mmproj), draft heads and importance matrices are
 * none.
 *
 * Pure functions; any thread.
 */
#ifndef MLXD_HUB_CHOOSE_H
#define MLXD_HUB_CHOOSE_H

#include "hub/files.h"
#include "hub/name.h"

typedef enum mlxd_hub_format { MLXD_HUB_GGUF, MLXD_HUB_SAFETENSORS } mlxd_hub_format;

/* A model in GGUF. `stem`: the path of its files without "-00001-of-00002" and ".gguf". */
typedef struct mlxd_hub_gguf {
    mlxd_slice stem;                    /* lent by the files */
    char label[MLXD_LIMIT_HUB_TAG + 1]; /* "Q4_K_M", upper case; "" when the name tells none */
    const char *first;                  /* path of the (first) file */
    uint32_t parts, parts_want;         /* there, and as the names say; 1 and 1 when not split */
    uint64_t bytes;
    bool broken; /* one of the files is */
} mlxd_hub_gguf;

/* The GGUF models among `files` (sorted), by stem; *out is the caller's (mlxd_mem_free). */
mlxd_err mlxd_hub_ggufs(const mlxd_hub_files *files, mlxd_hub_gguf **out, size_t *count,
                        mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_hub_choice {
    mlxd_hub_format format;
    bool *wanted;     /* per file; owned */
    const char *open; /* what a loader opens: a path (lent), or NULL for the snapshot itself */
    const mlxd_hub_file *index; /* whose shards are still to be chosen; or NULL */
} mlxd_hub_choice;

/* Chooses for a name. `patterns` (fnmatch, of paths; none = 0) replace the choice. NOTFOUND: no
 * model, no such file or quantization; the text lists what there is. INVALID: the name fits more
 * than one model. */
mlxd_err mlxd_hub_choose(mlxd_hub_choice *out, const mlxd_hub_files *files, const mlxd_hub_name *n,
                         const char *const *patterns, size_t n_patterns,
                         mlxd_why *why) MLXD_MUST_CHECK;
/* Whether a name without tag and file means safetensors: there are weights and config.json. */
bool mlxd_hub_has_safetensors(const mlxd_hub_files *files);
/* Adds the files that `json`, the content of out->index, names. DATA: malformed, or a path that is
 * none; NOTFOUND: a file that is not in the repository. */
mlxd_err mlxd_hub_choose_shards(mlxd_hub_choice *c, const mlxd_hub_files *files, mlxd_slice json,
                                mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hub_choice_deinit(mlxd_hub_choice *c);

#endif
