/* manifest.h - the fingerprint of a checkpoint: metadata digest and the SHA-256 of every tensor.
 *
 * Nodes compare tensor by tensor before they compute together, so a flipped bit or another
 * quantization is found by name and not by a strange answer. Hashing a large file takes seconds, so
 * the result is remembered in the user's cache directory under the checkpoint's identity (device,
 * inode, size, times); a remembered result that does not fit exactly is ignored, and one of a file
 * that was written a moment ago is not kept.
 */
#ifndef MLXD_MODEL_MANIFEST_H
#define MLXD_MODEL_MANIFEST_H

#include "model/weights.h"

typedef struct mlxd_manifest {
    uint8_t meta[MLXD_SHA256_BYTES];  /* of the metadata section */
    uint8_t model[MLXD_SHA256_BYTES]; /* of metadata digest, names, types, shapes, digests */
    mlxd_tensor_digest *tensors;      /* in the order of the file; owned */
    size_t count;
} mlxd_manifest;

/* Hashes every tensor (in parallel), or takes the remembered result. `cache_dir`: where results are
 * remembered; NULL: the default ($XDG_CACHE_HOME or ~/.cache, /mlxd/digests); "": nowhere. */
mlxd_err mlxd_manifest_open(mlxd_manifest *out, const mlxd_checkpoint *c, mlxd_pool *pool,
                            const char *cache_dir, const mlxd_progress *progress,
                            mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_manifest_close(mlxd_manifest *m);

/* Digest of one tensor, NULL when there is none of that name. */
const mlxd_tensor_digest *mlxd_manifest_find(const mlxd_manifest *m, const char *name);

#endif
