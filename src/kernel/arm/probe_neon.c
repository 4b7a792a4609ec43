/* probe_neon.c - the probes of probe.h with NEON: smull multiplies eight pairs, sadalp adds
 * neighbours to 32-bit sums. */
#include "kernel/tables.h"

#include <arm_neon.h>

#define READ_SUMS 8
#define SUMS 12

uint64_t mlxd_probe_read_neon(const void *p, size_t bytes) {
    const uint64_t *at = p, *end = at + bytes / sizeof *at;
    uint64x2_t sum[READ_SUMS];
    for (int i = 0; i < READ_SUMS; i++)
        sum[i] = vdupq_n_u64(0);
    for (; at < end; at += 2 * READ_SUMS)
        for (int i = 0; i < READ_SUMS; i++)
            sum[i] = veorq_u64(sum[i], vld1q_u64(at + 2 * i));
    for (int i = 1; i < READ_SUMS; i++)
        sum[0] = veorq_u64(sum[0], sum[i]);
    return vgetq_lane_u64(sum[0], 0) ^ vgetq_lane_u64(sum[0], 1);
}

uint64_t mlxd_probe_int8_neon(uint64_t rounds) {
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
    int32x4_t sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = vdupq_n_s32(i); /* different ones, or a single sum would do */
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) {
            __asm__("" : "+w"(a)); /* to the compiler another value: the product is made again */
            sum[i] = vpadalq_s16(sum[i], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        }
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "w"(sum[i]));
    return rounds * SUMS * 8 * 2;
}
