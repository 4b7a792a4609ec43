/* weights.h - tensors of a checkpoint, packed for the kernels.
 *
 * The caller lists what it wants (name, shape, where the result goes); one call checks every tensor
 * against the checkpoint, reserves one region for all of them, and then reads, hashes and packs
 * them in parallel. The SHA-256 of each tensor's bytes on disk comes out beside it: nodes compare
 * them before they compute together.
 */
#ifndef MLXD_MODEL_WEIGHTS_H
#define MLXD_MODEL_WEIGHTS_H

#include "base/thread.h"
#include "kernel/format.h"
#include "model/checkpoint.h"

/* What is wanted of one tensor: matrices or vectors, exactly one of `matrix` and `vector` is set.
 *
 * Matrices: `count` stacked ones (experts) of `rows` output rows and `cols` columns. Vectors:
 * `count` stacked ones of `cols` values, widened to f32.
 *
 * A stored matrix may hold more rows than are wanted (Q, K and V in one tensor; gate and up, row by
 * row in turn): of its `rows_total` rows, row_first + i * row_step is row i of the result. For
 * vectors the same holds for values. */
typedef struct mlxd_weight_spec {
    char name[MLXD_LIMIT_GGUF_NAME]; /* canonical */
    size_t rows, cols;
    size_t count;                           /* 0: 1 */
    size_t row_first, row_step, rows_total; /* step 0: 1; total 0: what is wanted is all there is */
    mlxd_matrix *matrix;                    /* [count] */
    const float **vector;                   /* to [count][cols] */
    float plus;    /* added to each value of a vector (norms that are stored as w - 1) */
    bool optional; /* when the tensor is absent, matrix->data and *vector are NULL */
} mlxd_weight_spec;

typedef struct mlxd_tensor_digest {
    char name[MLXD_LIMIT_TENSOR_NAME];
    uint8_t sha256[MLXD_SHA256_BYTES];
} mlxd_tensor_digest;

/* Called from compute threads with the bytes read so far and in all; must not block. */
typedef struct mlxd_progress {
    void (*fn)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
} mlxd_progress;

typedef struct mlxd_weights mlxd_weights;

/* DATA: missing, wrong shape; UNSUPPORTED: a type we have no kernel for, by name; NOMEM. */
mlxd_err mlxd_weights_load(mlxd_weights **out, const mlxd_checkpoint *c,
                           const mlxd_weight_spec *specs, size_t count, mlxd_pool *pool,
                           const mlxd_progress *progress, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_weights_close(mlxd_weights *w);
size_t mlxd_weights_bytes(const mlxd_weights *w);
/* One per distinct tensor, in the order in which the specs name them first; owned by `w`. */
const mlxd_tensor_digest *mlxd_weights_digests(const mlxd_weights *w, size_t *count);

/* Checks and sizes only: the packed bytes the specs would take. For the plan. */
mlxd_err mlxd_weights_size(const mlxd_checkpoint *c, const mlxd_weight_spec *specs, size_t count,
                           uint64_t *out, mlxd_why *why) MLXD_MUST_CHECK;

#endif
