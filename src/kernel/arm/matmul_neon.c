/* matmul_neon.c - quantize, and the product with quantized weights on the aarch64 baseline.
 *
 * Without sdot a register of weights (four rows by one quad) is multiplied in two halves, smlal and
 * smlal2, with the quad's activations repeated four times. The products stay apart in sixteen int16
 * lanes, one for each row and column of the quad, and are added there over as many quads as cannot
 * overflow; then neighbours are added pairwise to int32 and pairs to the four rows' sums.
 *
 *     bits       largest |q| x 127    quads in int16
 *     2 to 5             31 x 127     8: 31496
 *     6                  63 x 127     4: 32004
 *     8                 128 x 127     2: 32512
 */
#if defined(__aarch64__)
#include "kernel/arm/product.h"

#include <math.h>
#include <string.h>

/* ---- activations to int8 ---- */

static void quantize_group(const float *x, mlxd_quants z) {
    float32x4_t v[8];
    uint32x4_t top = vdupq_n_u32(0);
    MLXD_UNROLL
    for (int i = 0; i < 8; i++) { /* as integers, magnitudes are ordered like values */
        v[i] = vld1q_f32(x + 4 * i);
        top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    uint32_t bits = vmaxvq_u32(top);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    if (bits >= 0x7f800000u || amax < 0x1p-100f) {
        memset(z.q, 0, MLXD_GROUP);
        *z.sums = 0;
        *z.scale = *z.offset = bits >= 0x7f800000u ? NAN : 0.0f;
        return;
    }
    float inverse = 127.0f / amax;
    int16x8_t n[4];
    MLXD_UNROLL
    for (int i = 0; i < 4; i++) {
        int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], inverse));
        int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], inverse));
        n[i] = vcombine_s16(vmovn_s32(low), vmovn_s32(high));
    }
    vst1q_s8(z.q, vcombine_s8(vmovn_s16(n[0]), vmovn_s16(n[1])));
    vst1q_s8(z.q + 16, vcombine_s8(vmovn_s16(n[2]), vmovn_s16(n[3])));
    int32_t first = vaddvq_s16(vaddq_s16(n[0], n[1])), last = vaddvq_s16(vaddq_s16(n[2], n[3]));
    *z.scale = amax / 127.0f;
    *z.offset = *z.scale * (float)(first + last);
    *z.sums = mlxd_quants_pair(first, last);
}

void mlxd_quantize_neon(const float *x, size_t k, mlxd_quants z, size_t stride) {
    MLXD_ASSERT(k % MLXD_GROUP == 0);
    for (size_t g = 0; g < k / MLXD_GROUP; g++, x += MLXD_GROUP) {
        quantize_group(x, z);
        z = mlxd_quants_skip(z, stride);
    }
}

/* ---- the product ---- */

/* Dword `lane` of x, four times. */
MLXD_INLINE int8x16_t repeat(int8x16_t x, const int lane) {
    int32x4_t v = vreinterpretq_s32_s8(x);
    switch (lane) {
    case 0:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 0));
    case 1:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 1));
    case 2:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 2));
    default:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 3));
    }
}

/* x[8*t + j]: quad j of token t. */
MLXD_INLINE void load(const int tokens, const int8_t *a, int8x16_t *x) {
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        MLXD_UNROLL
        for (int j = 0; j < MLXD_ARM_QUADS; j++)
            x[8 * t + j] = repeat(vld1q_s8(a + MLXD_GROUP * t + j / 4 * 16), j % 4);
    }
}

MLXD_INLINE void multiply(const int bits, const int from, const int to, const int tokens,
                          const int8x16_t *w, const int8x16_t *x, int32x4_t *sum) {
    const int most = bits == 8 ? 2 : bits == 6 ? 4 : 8, quads = most < to - from ? most : to - from;
    MLXD_UNROLL
    for (int first = from; first < to; first += quads) {
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            int16x8_t low = vdupq_n_s16(0), high = low;
            MLXD_UNROLL
            for (int j = first; j < first + quads; j++) {
                int8x16_t a = x[8 * t + j];
                low = vmlal_s8(low, vget_low_s8(w[j]), vget_low_s8(a));
                high = vmlal_high_s8(high, w[j], a);
            }
            sum[t] = vaddq_s32(sum[t], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
        }
    }
}

void mlxd_product_neon(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                       size_t panel1, bool add, float *y, size_t ldy) {
    const mlxd_arm_dot dot = {load, multiply};
    mlxd_arm_product(dot, w, a, panel0, panel1, add, y, ldy);
}
#endif
