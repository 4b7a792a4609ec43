/* weights.h - tensors of a model file, packed for the kernels.
 *
 * The caller lists what it wants (name, shape, where the result goes); one call checks every tensor
 * against the file, reserves one region for all of them, and then reads, hashes and packs them in
 * parallel. The SHA-256 of each tensor's bytes in the file comes out beside
 * it: nodes compare them before they compute together.
 */
#ifndef MLXD_MODEL_WEIGHTS_H
#define MLXD_MODEL_WEIGHTS_H

#include "base/thread.h"
#include "kernel/format.h"
#include "model/file.h"

/* Exactly one of `matrix` and `vector` is set. A matrix has `rows` output rows of `cols` columns
 * (dims [cols, rows] in GGUF); a vector has `cols` values, widened to f32. */
typedef struct mlxd_weight_spec {
    char name[MLXD_LIMIT_GGUF_NAME];
    size_t rows, cols;
    mlxd_matrix *matrix;
    const float **vector;
} mlxd_weight_spec;

typedef struct mlxd_tensor_digest {
    char name[MLXD_LIMIT_GGUF_NAME];
    uint8_t sha256[MLXD_SHA256_BYTES];
} mlxd_tensor_digest;

/* Called from compute threads with the bytes read so far and in all; must not block. */
typedef struct mlxd_progress {
    void (*fn)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
} mlxd_progress;

typedef struct mlxd_weights mlxd_weights;

/* DATA: missing, wrong shape; UNSUPPORTED: a type we have no kernel for, by name; NOMEM. */
mlxd_err mlxd_weights_load(mlxd_weights **out, const mlxd_model_file *f,
                           const mlxd_weight_spec *specs, size_t count, mlxd_pool *pool,
                           const mlxd_progress *progress, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_weights_close(mlxd_weights *w);
size_t mlxd_weights_bytes(const mlxd_weights *w);
/* In the order of the specs; owned by `w`. */
const mlxd_tensor_digest *mlxd_weights_digests(const mlxd_weights *w, size_t *count);

/* Checks and sizes only: the packed bytes the specs would take. For the plan. */
mlxd_err mlxd_weights_size(const mlxd_model_file *f, const mlxd_weight_spec *specs, size_t count,
                           uint64_t *out, mlxd_why *why) MLXD_MUST_CHECK;

#endif
