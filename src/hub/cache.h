/* cache.h - the model cache, in the layout of huggingface_hub, which it is shared with:
 *
 *     <cache>/models--org--name/refs/main                    a commit
 *                               blobs/<digest>               contents
 *                               blobs/<digest>.mlxd.incomplete   what has come of one (ours)
 *                               snapshots/<commit>/<path>    links to ../../blobs/<digest>
 *             .locks/models--org--name/<digest>.lock         held while a blob is written
 *                                      mlxd.lock             held while we pull (shared) or remove
 *             blobs/                                         contents that repositories share
 *
 * What is read from it is not trusted: a link counts only when what it leads to lies below the
 * repository's folder, or in the blobs that repositories share. Nothing of it is changed but by
 * rename: a blob appears when it is whole and checked, a link when the blob is there, a ref last.
 *
 * Thread: functions on paths; any thread.
 */
#ifndef MLXD_HUB_CACHE_H
#define MLXD_HUB_CACHE_H

#include "hub/files.h"
#include "hub/name.h"
#include "hub/settings.h"

#define MLXD_HUB_PARTIAL ".mlxd.incomplete"
/* A path below the cache. */
#define MLXD_HUB_FILE_MAX (MLXD_HUB_DIR_MAX + MLXD_LIMIT_HUB_REPO + MLXD_LIMIT_HUB_PATH + 128)

/* The folder of a repository. */
typedef struct mlxd_hub_repo {
    char dir[MLXD_HUB_DIR_MAX + MLXD_LIMIT_HUB_REPO + 32];
    char locks[MLXD_HUB_DIR_MAX + MLXD_LIMIT_HUB_REPO + 32];
    char shared[MLXD_HUB_DIR_MAX + 16]; /* the blobs that repositories share */
} mlxd_hub_repo;

void mlxd_hub_repo_init(mlxd_hub_repo *r, const char *cache, const char *repo);
/* "models--org--name" -> "org/name"; false for another folder. */
bool mlxd_hub_repo_name(const char *folder, char out[MLXD_LIMIT_HUB_REPO + 1]);

/* The commit that a branch, tag or commit is in the cache; NOTFOUND, DATA (no commit in it). */
mlxd_err mlxd_hub_ref_read(const mlxd_hub_repo *r, const char *revision,
                           char commit[MLXD_HUB_COMMIT + 1], mlxd_why *why) MLXD_MUST_CHECK;
mlxd_err mlxd_hub_ref_write(const mlxd_hub_repo *r, const char *revision, const char *commit,
                            mlxd_why *why) MLXD_MUST_CHECK;

/* The files of a snapshot, sorted; of a link the size of its target, or `broken`. NOTFOUND: there
 * is no such snapshot. */
mlxd_err mlxd_hub_snapshot_read(const mlxd_hub_repo *r, const char *commit, mlxd_hub_files *out,
                                mlxd_why *why) MLXD_MUST_CHECK;
/* Puts a link to a blob that is there into a snapshot, in place of what was there. */
mlxd_err mlxd_hub_snapshot_link(const mlxd_hub_repo *r, const char *commit, const char *path,
                                const char *digest, mlxd_why *why) MLXD_MUST_CHECK;
/* Reads a file whole; FULL beyond out->bytes_max. */
mlxd_err mlxd_hub_file_load(const char *path, mlxd_buf *out, mlxd_why *why) MLXD_MUST_CHECK;

/* Creates a folder and those above it; `path` is absolute or relative to the working directory. */
mlxd_err mlxd_hub_make_dirs(const char *path, mlxd_why *why) MLXD_MUST_CHECK;
/* Makes what happened in a folder (a rename, a link) survive a power failure. */
mlxd_err mlxd_hub_sync_dir(const char *path, mlxd_why *why) MLXD_MUST_CHECK;

/* A lock between processes (flock, as huggingface_hub takes it), on <locks>/<name>.lock. AGAIN:
 * somebody else holds it. *fd is the caller's; closing it releases the lock. */
mlxd_err mlxd_hub_lock(const mlxd_hub_repo *r, const char *name, bool shared, int *fd,
                       mlxd_why *why) MLXD_MUST_CHECK;

/* MLXD_ERR_IO (or PERM, NOTFOUND, FULL when there is no room) with "path: what: reason". */
mlxd_err mlxd_hub_io_error(const char *path, const char *what, int error, mlxd_why *why);

#endif
