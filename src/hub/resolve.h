/* resolve.h - from names to what is in the cache, without any network.
 *
 * Thread: reads folders; any thread.
 */
#ifndef MLXD_HUB_RESOLVE_H
#define MLXD_HUB_RESOLVE_H

#include "hub/cache.h"
#include "hub/choose.h"

/* The path that a loader opens: a GGUF file (the first of its parts), or the folder of a snapshot.
 * Only when all its files are there. NOTFOUND: nothing of it is, or a part is missing, with what;
 * INVALID: more than one fits; DATA: the cache is damaged. */
mlxd_err mlxd_hub_resolve(const char *cache, const mlxd_hub_name *name,
                          char path[MLXD_HUB_FILE_MAX], mlxd_why *why) MLXD_MUST_CHECK;

/* A model in the cache: the weights of a snapshot, in one format. */
typedef struct mlxd_hub_model {
    char repo[MLXD_LIMIT_HUB_REPO + 1];
    char label[MLXD_LIMIT_HUB_TAG + 1]; /* GGUF: quantization; else "" */
    char commit[MLXD_HUB_COMMIT + 1];
    char refs[128]; /* "main, v1": what points to the commit; "" = nothing */
    mlxd_hub_format format;
    bool whole; /* a loader can open it; `missing` says why not */
    char missing[160];
    const char *path; /* what a loader opens */
    uint64_t bytes;   /* of its files; of those of the whole snapshot for safetensors */
    uint64_t used_s;  /* when a file of it was read or written last */
} mlxd_hub_model;

/* What an interrupted pull has left in a repository. */
typedef struct mlxd_hub_leftover {
    char repo[MLXD_LIMIT_HUB_REPO + 1];
    size_t files;
    uint64_t bytes;
} mlxd_hub_leftover;

typedef struct mlxd_hub_models {
    mlxd_hub_model *models; /* by repository, newest commit first */
    size_t count, cap;
    mlxd_hub_leftover *leftovers;
    size_t leftover_count, leftover_cap;
    mlxd_arena *arena;
} mlxd_hub_models;

/* All of the cache; none when there is no cache. */
mlxd_err mlxd_hub_models_read(const char *cache, mlxd_hub_models *out,
                              mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hub_models_deinit(mlxd_hub_models *m);

#endif
