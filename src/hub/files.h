/* files.h - the files of a repository: from the hub's listing, or from a snapshot in the cache.
 *
 *     mlxd_hub_files_init(&files);
 *     mlxd_hub_files_add_page(&files, page, &why);      // as often as there are pages
 *     mlxd_hub_files_sort(&files, &why);
 *     const mlxd_hub_file *f = mlxd_hub_files_find(&files, "config.json");
 *
 * A listing is not trusted: paths must be such that they may be created below a directory of ours,
 * digests must be digests, sizes and counts have limits, no path comes twice, and none is a folder
 * of another.
 *
 * Thread: a plain value; once sorted, any number may read.
 */
#ifndef MLXD_HUB_FILES_H
#define MLXD_HUB_FILES_H

#include "base/mem.h"
#include "format/digest.h"

typedef struct mlxd_hub_file {
    const char *path;
    uint64_t size;
    /* Hexadecimal digest and the blob's name: SHA-256 (64 digits) of a file in large storage, or
     * git's SHA-1 (40 digits) of a small one. In a snapshot, the blob's name, or "". */
    char digest[MLXD_SHA256_HEX];
    bool broken;     /* snapshot: a link whose target is missing or is not in the cache */
    uint64_t used_s; /* snapshot: when it was read or written last, seconds since 1970 */
} mlxd_hub_file;

typedef struct mlxd_hub_files {
    mlxd_hub_file *items;
    size_t count, cap;
    mlxd_arena *arena; /* owns the paths */
} mlxd_hub_files;

mlxd_err mlxd_hub_files_init(mlxd_hub_files *f, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hub_files_deinit(mlxd_hub_files *f);
/* Copies the path. UNSUPPORTED beyond MLXD_LIMIT_HUB_FILES, INVALID for a path that is none. The
 * result is valid until the next addition. */
mlxd_err mlxd_hub_files_add(mlxd_hub_files *f, mlxd_slice path, mlxd_hub_file **out,
                            mlxd_why *why) MLXD_MUST_CHECK;
/* One page of /api/models/{repo}/tree/{revision}: a JSON array of objects {type, path, size, oid,
 * lfs: {oid, size}}. Entries that are no files are passed over. DATA with what is wrong. */
mlxd_err mlxd_hub_files_add_page(mlxd_hub_files *f, mlxd_slice json, mlxd_why *why) MLXD_MUST_CHECK;
/* By path; DATA when one comes twice or is a folder of another. After the last addition. */
mlxd_err mlxd_hub_files_sort(mlxd_hub_files *f, mlxd_why *why) MLXD_MUST_CHECK;
const mlxd_hub_file *mlxd_hub_files_find(const mlxd_hub_files *f, const char *path); /* or NULL */

/* The target of the link with rel="next" in the value of a Link header (RFC 8288), written into
 * `out` (`size` bytes); false when there is none or it does not fit. */
bool mlxd_hub_link_next(const char *link, char *out, size_t size);

#endif
