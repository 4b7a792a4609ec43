/* layers.h - a contiguous range [first, end) of transformer blocks, loaded and ready to compute.
 *
 * One call advances several sequences at once: the rows of a step may belong to different sessions,
 * at different positions, some decoding one token and some taking a prefill chunk. Results do not
 * depend on what shares the step (see kernel.h).
 *
 * Thread: step and close belong to one thread at a time (the compute driver); it spreads the work
 * over the pool it is given.
 */
#ifndef MLXD_MODEL_LAYERS_H
#define MLXD_MODEL_LAYERS_H

#include "kernel/kernel.h"
#include "model/kv.h"
#include "model/rope.h"
#include "model/weights.h"

/* `n_tokens` consecutive positions of one session. */
typedef struct mlxd_row {
    uint64_t session;
    uint64_t prefix_hash; /* of the tokens before `position` */
    uint32_t position;    /* of the first token */
    uint32_t n_tokens;
    uint32_t n_out; /* hidden states wanted: of the last n_out tokens */
    const int32_t *tokens;
} mlxd_row;

typedef struct mlxd_layers mlxd_layers;

typedef struct mlxd_layers_params {
    const mlxd_checkpoint *checkpoint;
    const mlxd_config *config;
    const mlxd_kernels *kernels;
    uint32_t first, end; /* layers [first, end) */
    uint32_t positions;  /* context: rope table */
    uint32_t tokens_max; /* largest step, token positions */
    mlxd_pool *pool;     /* used for loading; not kept */
    const mlxd_progress *progress;
} mlxd_layers_params;

mlxd_err mlxd_layers_open(mlxd_layers **out, const mlxd_layers_params *p,
                          mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_layers_close(mlxd_layers *l);

/* Packed bytes that layers [first, end) would take, without loading them. Refuses what
 * mlxd_layers_open would for their tensors. */
mlxd_err mlxd_layers_size(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                          uint32_t end, uint64_t *out, mlxd_why *why) MLXD_MUST_CHECK;
/* Those of them that are read for one token: of a layer's experts only as many as it uses. */
mlxd_err mlxd_layers_read_size(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                               uint32_t end, uint64_t *out, mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_tensor_name {
    char text[MLXD_LIMIT_GGUF_NAME];
} mlxd_tensor_name;

/* Number of tensors of layers [first, end); their names, in the order of mlxd_layers_digests, go to
 * `out` when it is not NULL. */
size_t mlxd_layers_tensors(const mlxd_config *c, uint32_t first, uint32_t end,
                           mlxd_tensor_name *out);

uint32_t mlxd_layers_first(const mlxd_layers *l);
uint32_t mlxd_layers_end(const mlxd_layers *l);
uint32_t mlxd_layers_tokens_max(const mlxd_layers *l);
size_t mlxd_layers_bytes(const mlxd_layers *l); /* weights, rope table and working memory */
const mlxd_tensor_digest *mlxd_layers_digests(const mlxd_layers *l, size_t *count);

/* Asked between layers: true ends the step early with CANCELLED (its result is then useless, and so
 * is the KV of its rows). */
typedef struct mlxd_abort {
    bool (*fn)(void *ctx);
    void *ctx;
} mlxd_abort;

/* Runs layers [first, end), a part of the loaded range, over all rows. hidden [n][hidden size],
 * n = sum of n_tokens <= tokens_max, rows one after the other; replaced by the result. With
 * `wanted_only` the last of these layers computes only what is wanted: of each row, only the last
 * n_out results are defined. `kv` must have been opened with all layers of the loaded range.
 * `abort` may be NULL. RANGE, STATE, FULL, NOMEM as mlxd_kv_begin; INVALID: two rows of one
 * session; CORRUPT: a result is not finite. After an error the KV of all its rows is undefined. */
mlxd_err mlxd_layers_step(mlxd_layers *l, mlxd_kv *kv, mlxd_pool *pool, uint32_t first,
                          uint32_t end, const mlxd_row *rows, size_t n_rows, bool wanted_only,
                          float *hidden, const mlxd_abort *abort, mlxd_why *why) MLXD_MUST_CHECK;

#endif
