/* neon.h - what the arm64 files share: unrolling, widening, a panel's rows, exp on four lanes.
 *
 * Everything here is the aarch64 baseline. vfmaq stands only where the definition has fma; products
 * and sums are separate intrinsics everywhere else (-ffp-contract=off keeps the compiler from
 * joining them), and nothing computes in f16: halves are only converted.
 */
#ifndef MLXD_KERNEL_ARM_NEON_H
#define MLXD_KERNEL_ARM_NEON_H

#include "kernel/format.h"
#include "kernel/inline.h"

#include <arm_neon.h>

/* One value for each row of a panel; rows 4*i ... are quarter i. */
typedef struct mlxd_neon_rows {
    float32x4_t quarter[4];
} mlxd_neon_rows;

/* Four halves at p, widened: exact, denormals too. */
MLXD_INLINE float32x4_t mlxd_neon_load_f16(const void *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

MLXD_INLINE float32x4_t mlxd_neon_load_bf16(const void *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

/* Four E8M0 bytes at p, widened: 2^(e-127) is the bits e << 23, or a denormal for 0. */
MLXD_INLINE float32x4_t mlxd_neon_load_e8m0(const uint8_t *p) {
    uint8x8_t e = vreinterpret_u8_u32(vld1_dup_u32((const uint32_t *)(const void *)p));
    uint32x4_t bits = vshlq_n_u32(vmovl_u16(vget_low_u16(vmovl_u8(e))), 23);
    bits = vmaxq_u32(bits, vdupq_n_u32(1u << 22));
    return vmulq_n_f32(vreinterpretq_f32_u32(bits), 0.5f);
}

/* The sixteen numbers at p (any alignment), widened. */
MLXD_INLINE void mlxd_neon_load_rows(const mlxd_float type, const uint8_t *p, mlxd_neon_rows *out) {
    if (type == MLXD_FLOAT_F16) {
        MLXD_UNROLL
        for (int i = 0; i < 4; i++)
            out->quarter[i] = mlxd_neon_load_f16(p + 8 * i);
    } else if (type == MLXD_FLOAT_BF16) {
        MLXD_UNROLL
        for (int i = 0; i < 4; i++)
            out->quarter[i] = mlxd_neon_load_bf16(p + 8 * i);
    } else if (type == MLXD_FLOAT_E8M0) {
        MLXD_UNROLL
        for (int i = 0; i < 4; i++)
            out->quarter[i] = mlxd_neon_load_e8m0(p + 4 * i);
    } else {
        MLXD_UNROLL
        for (int i = 0; i < 4; i++)
            out->quarter[i] = vreinterpretq_f32_u8(vld1q_u8(p + 16 * i));
    }
}

/* y[0..rows) = acc, or y + acc. */
MLXD_INLINE void mlxd_neon_store_rows(const mlxd_neon_rows *acc, size_t rows, bool add, float *y) {
    if (rows == MLXD_PANEL_ROWS) {
        MLXD_UNROLL
        for (int i = 0; i < 4; i++) {
            float32x4_t v = acc->quarter[i];
            vst1q_f32(y + 4 * i, add ? vaddq_f32(vld1q_f32(y + 4 * i), v) : v);
        }
        return;
    }
    float all[MLXD_PANEL_ROWS];
    MLXD_UNROLL
    for (int i = 0; i < 4; i++)
        vst1q_f32(all + 4 * i, acc->quarter[i]);
    for (size_t r = 0; r < rows; r++)
        y[r] = add ? y[r] + all[r] : all[r];
}

/* Asks for `bytes` from p + ahead on. They may lie behind the matrix: a hint is not an access. */
MLXD_INLINE void mlxd_neon_prefetch(const uint8_t *p, size_t ahead, size_t bytes) {
    const size_t line = 64;
    for (size_t i = 0; i < bytes; i += line)
        __builtin_prefetch((const void *)((uintptr_t)p + ahead + i));
}

/* mlxd_exp_f32 on each lane, operation by operation; math.c explains them. */
MLXD_INLINE float32x4_t mlxd_neon_exp(float32x4_t x) {
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    x = vminq_f32(x, vdupq_n_f32(89.0f)); /* NaN stays */
    x = vmaxq_f32(x, vdupq_n_f32(-105.0f));
    float32x4_t shifted = vaddq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)), magic);
    float32x4_t n = vsubq_f32(shifted, magic);
    float32x4_t r = vsubq_f32(x, vmulq_f32(n, vdupq_n_f32(0x1.62e4p-1f)));
    r = vsubq_f32(r, vmulq_f32(n, vdupq_n_f32(0x1.7f7d1cp-20f)));
    float32x4_t c = vdupq_n_f32(0x1.6a2256p-10f);
    c = vaddq_f32(vmulq_f32(c, r), vdupq_n_f32(0x1.123b02p-7f));
    c = vaddq_f32(vmulq_f32(c, r), vdupq_n_f32(0x1.5558f8p-5f));
    c = vaddq_f32(vmulq_f32(c, r), vdupq_n_f32(0x1.55549p-3f));
    c = vaddq_f32(vmulq_f32(c, r), vdupq_n_f32(0x1.fffffcp-2f));
    float32x4_t e = vaddq_f32(vmulq_f32(c, vmulq_f32(r, r)), r);
    e = vaddq_f32(e, vdupq_n_f32(1.0f));
    int32x4_t k = vsubq_s32(vreinterpretq_s32_f32(shifted), vreinterpretq_s32_f32(magic));
    int32x4_t half = vshrq_n_s32(k, 1); /* any split will do: the first product is exact */
    int32x4_t rest = vsubq_s32(k, half);
    const int32x4_t bias = vdupq_n_s32(127);
    half = vshlq_n_s32(vaddq_s32(half, bias), 23);
    rest = vshlq_n_s32(vaddq_s32(rest, bias), 23);
    e = vmulq_f32(e, vreinterpretq_f32_s32(half));
    return vmulq_f32(e, vreinterpretq_f32_s32(rest));
}

#endif
