/* philox.h - Philox4x32-10, the counter-based random number generator of the sampler.
 *
 * A pure function from (counter, key) to 128 random bits: no state that could get out of step with
 * the tokens, so a draw depends only on what names it, never on batching, placement or a restart.
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the
 * known answers of the authors' Random123 library are in the unit test.
 *
 * Thread: any.
 */
#ifndef MLXD_MODEL_PHILOX_H
#define MLXD_MODEL_PHILOX_H

#include <stdint.h>

typedef struct mlxd_philox_block {
    uint32_t word[4];
} mlxd_philox_block;

/* The block that stands at `counter` in the sequence of `key` (low half = first key word). */
mlxd_philox_block mlxd_philox_get(mlxd_philox_block counter, uint64_t key);

#endif
