/* shelf.h - the folder in which a worker keeps its replicas (replica.h), one folder for each model:
 * what they take, and removing those that were not used for longest.
 *
 * Only folders whose name is a fingerprint are looked at, and removed only what a replica puts into
 * one. A folder that a process uses is locked and stays.
 */
#ifndef MLXD_MODEL_SHELF_H
#define MLXD_MODEL_SHELF_H

#include "base/base.h"

#define MLXD_SHELF_PATH 1024

/* $XDG_CACHE_HOME/mlxd/shards, or ~/.cache/mlxd/shards. CONFIG: neither variable says where. */
mlxd_err mlxd_shelf_default(char out[MLXD_SHELF_PATH], mlxd_why *why) MLXD_MUST_CHECK;

/* Opens the directory, which is made (0700, with those above it) when it is not there. The
 * descriptor is the caller's to close. PERM, IO. */
mlxd_err mlxd_shelf_open(int *fd, const char *path, mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_shelf_usage {
    size_t models;
    uint64_t bytes; /* on disk */
} mlxd_shelf_usage;
mlxd_err mlxd_shelf_get_usage(const char *path, mlxd_shelf_usage *out,
                              mlxd_why *why) MLXD_MUST_CHECK;

/* Makes sure that `bytes` more can be written: there is so much free space on the disk and, when
 * `bytes_max` is not 0, all replicas together stay within it, for which others than `keep` are
 * removed, those first that were not used for longest. FULL with numbers when there is no room. */
mlxd_err mlxd_shelf_make_room(const char *path, const char *keep, uint64_t bytes,
                              uint64_t bytes_max, mlxd_why *why) MLXD_MUST_CHECK;

/* Takes the lock of the replica in directory `dir`. STATE: somebody else has it. Closing the
 * descriptor gives it back. */
mlxd_err mlxd_shelf_lock(int dir, int *fd, mlxd_why *why) MLXD_MUST_CHECK;

#define MLXD_SHELF_MODEL "model"
#define MLXD_SHELF_RANGES "ranges"
#define MLXD_SHELF_TMP "ranges.new"
#define MLXD_SHELF_LOCK "lock"

#endif
