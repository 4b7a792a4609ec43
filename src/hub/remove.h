/* remove.h - `mlxd rm`: models out of the cache. Contents that another revision links to stay.
 *
 *     org/name               the repository with all revisions, and what is unfinished
 *     org/name@revision      that revision
 *     org/name:Q4_K_M        that model, from the revision that is named, or from all
 *
 * First a plan, so that one can be asked, then the deed. From the plan on a pull of the repository
 * is refused by a lock. References go first, then links, then contents, so that an interruption
 * leaves nothing that looks whole. Contents that huggingface_hub keeps for all repositories are
 * not freed here, only the links to them.
 */
#ifndef MLXD_HUB_REMOVE_H
#define MLXD_HUB_REMOVE_H

#include "hub/cache.h"

typedef struct mlxd_hub_removal mlxd_hub_removal;

typedef struct mlxd_hub_removal_sum {
    size_t files;     /* links that go */
    size_t revisions; /* snapshots that go with their last file */
    uint64_t bytes;   /* freed */
    uint64_t kept;    /* bytes that stay for another revision */
} mlxd_hub_removal_sum;

/* NOTFOUND: nothing of it is in the cache; AGAIN: it is being pulled or removed. */
mlxd_err mlxd_hub_removal_open(mlxd_hub_removal **out, const char *cache, const mlxd_hub_name *name,
                               mlxd_why *why) MLXD_MUST_CHECK;
const mlxd_hub_removal_sum *mlxd_hub_removal_get(const mlxd_hub_removal *r);
/* Removes it. An error names what could not be removed; the rest may be gone. */
mlxd_err mlxd_hub_removal_run(mlxd_hub_removal *r, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hub_removal_close(mlxd_hub_removal *r);

#endif
