/* lanes.h - the one shape in which kernels add up a vector: 16 strided lanes, then a binary tree.
 *
 * Lane i holds the sum of elements i, i+16, i+32 ... in ascending order, starting from +0; the tree
 * adds halves: 16 -> 8 -> 4 -> 2 -> 1. It is what two 8-wide or one 16-wide register do naturally.
 */
#ifndef MLXD_KERNEL_SCALAR_LANES_H
#define MLXD_KERNEL_SCALAR_LANES_H

#include "base/base.h"

#define MLXD_LANES 16

/* The tree; destroys the lanes. */
static inline float mlxd_lanes_sum(float lane[MLXD_LANES]) {
    for (size_t half = MLXD_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

#endif
