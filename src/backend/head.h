/* head.h - the coordinator's end of the pipeline: embeddings in front, final norm, vocabulary
 * projection and sampling behind. Submitted like a stage, run by the compute driver, never inside
 * the engine thread.
 */
#ifndef MLXD_BACKEND_HEAD_H
#define MLXD_BACKEND_HEAD_H

#include "backend/driver.h"
#include "backend/stage.h"
#include "model/vocab.h"

typedef struct mlxd_head mlxd_head;

/* A step has come back from embed (`drawn` false) or draw (true). On the driver thread. */
typedef void mlxd_head_done(void *ctx, mlxd_step *step, bool drawn, mlxd_err err,
                            const mlxd_why *why);

/* `vocab` is taken (closed by close). */
mlxd_err mlxd_head_open(mlxd_head **out, mlxd_driver *driver, mlxd_vocab *vocab,
                        const mlxd_config *c, mlxd_why *why) MLXD_MUST_CHECK;
/* No step may be in flight. NULL is fine. */
void mlxd_head_close(mlxd_head *h);
/* Before the first submit. */
void mlxd_head_set_done(mlxd_head *h, mlxd_head_done *done, void *ctx);
const mlxd_vocab *mlxd_head_vocab(const mlxd_head *h);

/* hidden = embeddings of the step's tokens. */
void mlxd_head_embed(mlxd_head *h, mlxd_step *step);
/* For each row with n_out = 1 and a generation: logits of its hidden state, and a draw for the
 * position behind the row; results in drawn[] and finish[]. Fails as a whole (CORRUPT). */
void mlxd_head_draw(mlxd_head *h, mlxd_step *step);

#endif
