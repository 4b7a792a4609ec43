/* matmul_i8mm.c - the product by smmla, which multiplies two tokens' eight columns with two rows'.
 *
 *     activations   t0 c0 ... c7 | t1 c0 ... c7      weights   r0 c0 ... c7 | r1 c0 ... c7
 *     smmla adds    t0*r0  t0*r1 | t1*r0  t1*r1      four int32
 *
 * Quads 2*i and 2*i+1 of four rows, zipped by dwords, are two such registers of weights: rows 0 and
 * 1, rows 2 and 3. Of activations, ld4 takes two tokens' groups (64 bytes) apart into the four that
 * are wanted, column eights 0 to 3. A last zip puts each token's four sums side by side.
 *
 * Four rows of a group take sdot 8 instructions a token. Here they take 8 zips for all tokens, and
 * a pair of tokens 8 products and 2 zips: that is 48 for eight tokens instead of 64, 28 for four
 * instead of 32, and more for two, which therefore go by sdot like a single one.
 */
#if defined(__aarch64__)
#include "kernel/arm/sdot.h"

#define PAIRS_FROM 4 /* tokens */

/* x[4*i + c]: columns 8*c ... of tokens 2*i and 2*i+1. */
MLXD_INLINE void load(const int tokens, const int8_t *a, int8x16_t *x) {
    if (tokens < PAIRS_FROM) {
        mlxd_sdot_load(tokens, a, x);
        return;
    }
    MLXD_UNROLL
    for (int i = 0; i < tokens / 2; i++) {
        int64x2x4_t pair = vld4q_s64((const int64_t *)(const void *)(a + 2 * MLXD_GROUP * i));
        MLXD_UNROLL
        for (int c = 0; c < 4; c++)
            x[4 * i + c] = vreinterpretq_s8_s64(pair.val[c]);
    }
}

/* Columns 8*c ... of rows 0 and 1, or 2 and 3. */
MLXD_INLINE int8x16_t zip(int8x16_t even, int8x16_t odd, const int upper) {
    int32x4_t a = vreinterpretq_s32_s8(even), b = vreinterpretq_s32_s8(odd);
    return vreinterpretq_s8_s32(upper ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
}

/* Rows 0 to 3 of the even or the odd token of a pair, from its sums with rows 0 and 1, 2 and 3. */
MLXD_INLINE int32x4_t token_of(int32x4_t low, int32x4_t high, const int odd) {
    int64x2_t a = vreinterpretq_s64_s32(low), b = vreinterpretq_s64_s32(high);
    return vreinterpretq_s32_s64(odd ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
}

MLXD_INLINE void multiply(const int bits, const int from, const int to, const int tokens,
                          const int8x16_t *w, const int8x16_t *x, int32x4_t *sum) {
    if (tokens < PAIRS_FROM) {
        mlxd_sdot_multiply(bits, from, to, tokens, w, x, sum);
        return;
    }
    int32x4_t low[MLXD_ARM_TOKENS / 2], high[MLXD_ARM_TOKENS / 2];
    MLXD_UNROLL
    for (int i = 0; i < tokens / 2; i++) /* a sum's four lanes are equal here */
        low[i] = high[i] = token_of(sum[2 * i], sum[2 * i + 1], 0);
    MLXD_UNROLL
    for (int c = from / 2; c < to / 2; c++) {
        int8x16_t rows01 = zip(w[2 * c], w[2 * c + 1], 0), rows23 = zip(w[2 * c], w[2 * c + 1], 1);
        MLXD_UNROLL
        for (int i = 0; i < tokens / 2; i++) {
            low[i] = vmmlaq_s32(low[i], x[4 * i + c], rows01);
            high[i] = vmmlaq_s32(high[i], x[4 * i + c], rows23);
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        sum[t] = token_of(low[t / 2], high[t / 2], t % 2);
}

void mlxd_product_i8mm(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                       size_t panel1, bool add, float *y, size_t ldy) {
    const mlxd_arm_dot dot = {load, multiply};
    mlxd_arm_product(dot, w, a, panel0, panel1, add, y, ldy);
}
#endif
