/* forward.h - stateless forward passes over the layers of this node, one after the other on a
 * background thread: what TensorService.ForwardPass asks of workers and coordinator alike.
 */
#ifndef MLXD_CLUSTER_FORWARD_H
#define MLXD_CLUSTER_FORWARD_H

#include "backend/cpu.h"

typedef struct mlxd_forward mlxd_forward;

/* Jobs run on `background` (lent), the thread that also replaces the layers, so that they cannot go
 * while one runs; `cpu` is asked there and returns NULL while there are none. */
mlxd_err mlxd_forward_open(mlxd_forward **out, mlxd_driver *background, mlxd_cpu *(*cpu)(void *ctx),
                           void *ctx, mlxd_why *why) MLXD_MUST_CHECK;
/* After the background thread has ended. */
void mlxd_forward_close(mlxd_forward *f);

typedef void mlxd_forward_done(void *ctx, mlxd_err err, const mlxd_why *why);
/* Runs layers [first, end) on hidden [n][width], in place, and calls done(ctx, err, why) on the
 * background thread. `hidden` is lent until then. STATE: layers that are not here, or of a model of
 * another hidden size. FULL: too much is queued already; NOMEM. Any thread. */
mlxd_err mlxd_forward_submit(mlxd_forward *f, uint32_t first, uint32_t end, float *hidden,
                             uint32_t n, uint32_t width, mlxd_forward_done *done,
                             void *ctx) MLXD_MUST_CHECK;

#endif
