/* vocab.h - both ends of the transformer: token embeddings in, final norm and vocabulary
 * projection out. They stay with the coordinator; workers only see hidden states.
 *
 * Thread: logits and embed belong to one thread at a time (the compute driver).
 */
#ifndef MLXD_MODEL_VOCAB_H
#define MLXD_MODEL_VOCAB_H

#include "kernel/kernel.h"
#include "model/config.h"
#include "model/weights.h"

typedef struct mlxd_vocab mlxd_vocab;

mlxd_err mlxd_vocab_open(mlxd_vocab **out, const mlxd_checkpoint *f, const mlxd_config *c,
                         const mlxd_kernels *k, mlxd_pool *pool, const mlxd_progress *progress,
                         mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_vocab_close(mlxd_vocab *v);
mlxd_err mlxd_vocab_size(const mlxd_checkpoint *f, const mlxd_config *c, uint64_t *out,
                         mlxd_why *why) MLXD_MUST_CHECK;
const mlxd_tensor_digest *mlxd_vocab_digests(const mlxd_vocab *v, size_t *count);
size_t mlxd_vocab_bytes(const mlxd_vocab *v);

/* hidden[i] = embedding of tokens[i]; ids must be inside the vocabulary. */
void mlxd_vocab_embed(const mlxd_vocab *v, const int32_t *tokens, size_t n, float *hidden);
/* logits [n][vocab] of n <= MLXD_VOCAB_ROWS hidden states; hidden [n][hidden size] is kept. */
#define MLXD_VOCAB_ROWS 16
void mlxd_vocab_logits(mlxd_vocab *v, mlxd_pool *pool, const float *hidden, size_t n,
                       float *logits);

#endif
