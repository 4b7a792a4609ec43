/* pull.h - `mlxd pull`: a model from the hub into the cache.
 *
 *     GET  /api/models/{repo}/revision/{revision}      which commit that is
 *     GET  /api/models/{repo}/tree/{commit}            its files, page by page
 *     choose (choose.h), ask for room on the disk
 *     GET  /{repo}/resolve/{commit}/{path}             a few at a time (fetch.h)
 *     link them into the snapshot, then write the ref
 *
 * Links are made only when every blob is there and checked, weights first, and what a loader looks
 * for last; so an interrupted pull leaves no snapshot that looks whole and is not. Blobs that are
 * there are not fetched again, and half of one goes on where it ended, in this run or another.
 *
 * Only an operator's command or configuration may lead here, never the request of an API's client.
 *
 * Thread: runs in the caller's, which is told about progress; fetches in threads of its own.
 */
#ifndef MLXD_HUB_PULL_H
#define MLXD_HUB_PULL_H

#include "hub/choose.h"
#include "hub/fetch.h"

typedef struct mlxd_hub_progress {
    const char *repo, *commit;
    size_t count;
    const mlxd_hub_file *const *files; /* the chosen ones */
    const mlxd_hub_state *states;      /* of each, as of now */
    uint64_t bytes_total, bytes_done;  /* of all; done includes what was there */
} mlxd_hub_progress;

typedef struct mlxd_hub_pull_params {
    const mlxd_hub_settings *settings;
    const mlxd_hub_name *name;
    const char *const *patterns; /* choose.h */
    size_t n_patterns;
    unsigned connections; /* 1..MLXD_LIMIT_HUB_CONNECTIONS */
    /* A few times a second, from the calling thread; false ends the pull with CANCELLED. `p` is
     * NULL while the list of files is asked for. */
    bool (*tick)(void *ctx, const mlxd_hub_progress *p);
    void *ctx;
} mlxd_hub_pull_params;

typedef struct mlxd_hub_pulled {
    char path[MLXD_HUB_FILE_MAX]; /* what a loader opens: a file, or the snapshot's folder */
    char commit[MLXD_HUB_COMMIT + 1];
    size_t files;
    uint64_t bytes, fetched; /* of all files; of these from the hub, now */
} mlxd_hub_pulled;

/* The errors of fetch.h and choose.h, with the repository (and file) in front; FULL: no room on the
 * disk, with both numbers; STATE: HF_HUB_OFFLINE forbids it. */
mlxd_err mlxd_hub_pull(const mlxd_hub_pull_params *p, mlxd_hub_pulled *out,
                       mlxd_why *why) MLXD_MUST_CHECK;

#endif
