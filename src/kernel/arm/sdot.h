/* sdot.h - a group's integers by sdot; for files compiled with the dotprod extension.
 *
 *     w    r0c0 r0c1 r0c2 r0c3 | r1c0 ... r1c3 | r2c0 ... r2c3 | r3c0 ... r3c3    quad j
 *     x    a0   a1   a2   a3   | a4   ... a7   | a8   ... a11  | a12  ... a15     half a group
 *
 * sdot by lane adds to each of four sums the products of its row's four columns with one dword of
 * x: the whole register of weights is used, and an activation never moves.
 */
#ifndef MLXD_KERNEL_ARM_SDOT_H
#define MLXD_KERNEL_ARM_SDOT_H

#include "kernel/arm/product.h"

MLXD_INLINE void mlxd_sdot_load(const int tokens, const int8_t *a, int8x16_t *x) {
    MLXD_UNROLL
    for (int i = 0; i < 2 * tokens; i++)
        x[i] = vld1q_s8(a + 16 * i);
}

MLXD_INLINE int32x4_t mlxd_sdot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, const int lane) {
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, w, x, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, x, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, x, 2);
    default:
        return vdotq_laneq_s32(sum, w, x, 3);
    }
}

/* Any width: sdot's sums are 32 bits. */
MLXD_INLINE void mlxd_sdot_multiply(const int bits, const int from, const int to, const int tokens,
                                    const int8x16_t *w, const int8x16_t *x, int32x4_t *sum) {
    (void)bits;
    MLXD_UNROLL
    for (int j = from; j < to; j++) {
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++)
            sum[t] = mlxd_sdot_lane(sum[t], w[j], x[2 * t + j / 4], j % 4);
    }
}

#endif
