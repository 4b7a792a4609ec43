/* probe_dotprod.c - the multiplication of probe.h with sdot, which adds the products of four pairs
 * to each of four 32-bit sums. */
#include "kernel/tables.h"

#include <arm_neon.h>

#define SUMS 16

uint64_t mlxd_probe_int8_dotprod(uint64_t rounds) {
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
    int32x4_t sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = vdupq_n_s32(i); /* different ones, or a single sum would do */
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = vdotq_s32(sum[i], a, b);
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "w"(sum[i]));
    return rounds * SUMS * 16 * 2;
}
