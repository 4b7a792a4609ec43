/* speed.h - how fast this machine computes: one number for the plan, measured in a moment.
 *
 * Decoding a token reads every weight once, so the time of a layer is about its bytes divided by a
 * speed. Two ways to measure it: the product kernel alone, which needs no model and is what nodes
 * compare; and decoding with the first layers of a model, which also counts what small layers spend
 * between the products (norms, attention, handing out work): half of the time at 500 wide.
 */
#ifndef MLXD_MODEL_SPEED_H
#define MLXD_MODEL_SPEED_H

#include "base/thread.h"
#include "kernel/kernel.h"
#include "model/config.h"
#include "model/checkpoint.h"

/* Weight bytes per second of the product of a quantized matrix of a common layer's width with one
 * token's activations, over a region larger than most caches, on all threads of the pool. Takes
 * about 0.15 s. 0 when there is no memory for it. */
double mlxd_speed_measure(const mlxd_kernels *k, mlxd_pool *pool);

/* Weight bytes per second of decoding steps through the first layers of `f`, as many as
 * MLXD_SPEED_BYTES hold; it loads them for that. Takes about 0.2 s. When not even one fits, its
 * products dominate: then *out is mlxd_speed_measure's. NOMEM, or an error of loading a layer. */
#define MLXD_SPEED_BYTES (24u << 20)
mlxd_err mlxd_speed_measure_model(double *out, const mlxd_checkpoint *f, const mlxd_config *c,
                                  const mlxd_kernels *k, mlxd_pool *pool,
                                  mlxd_why *why) MLXD_MUST_CHECK;

#endif
