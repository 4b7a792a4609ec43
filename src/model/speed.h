/* speed.h - how fast this machine computes: one number for the plan, measured in a moment.
 *
 * Decoding a token reads every weight once, so the time of a layer is its bytes divided by the
 * speed of the product kernel. Measured: the product of a quantized matrix of a common layer's
 * shape with one token's activations, over a region that is larger than most caches, on all threads
 * of the pool.
 */
#ifndef MLXD_MODEL_SPEED_H
#define MLXD_MODEL_SPEED_H

#include "base/thread.h"
#include "kernel/kernel.h"

/* Weight bytes per second; 0 when there is no memory for the measurement. Takes about 0.15 s, less
 * than 0.3 s, and the pool. */
double mlxd_speed_measure(const mlxd_kernels *k, mlxd_pool *pool);

#endif
