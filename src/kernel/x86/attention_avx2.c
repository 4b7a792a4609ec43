/* attention_avx2.c - attention over one KV page, lanes across positions for scores and across
 * dimensions for the output. Four registers of accumulators hide the latency of the fma chains;
 * widening f16 is what bounds both loops. */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/math.h"
#include "kernel/x86/avx2.h"

#include <math.h>

#define PAGE MLXD_PAGE
#define BLOCK 32 /* lanes of four registers */

MLXD_INLINE __m256 larger(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_max_ps(a, b), _mm256_setzero_ps());
}

/* s[p] for the 32 positions from p0. */
static void score_block(const float *q, const uint16_t *k_page, size_t head_dim, size_t p0,
                        float scale, float *s) {
    __m256 acc[BLOCK / 8];
    MLXD_UNROLL
    for (int i = 0; i < BLOCK / 8; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m256 x = _mm256_broadcast_ss(q + d);
        MLXD_UNROLL
        for (int i = 0; i < BLOCK / 8; i++)
            acc[i] = _mm256_fmadd_ps(x, mlxd_avx2_load_f16(k_page + d * PAGE + p0 + 8 * i), acc[i]);
    }
    MLXD_UNROLL
    for (int i = 0; i < BLOCK / 8; i++)
        _mm256_storeu_ps(s + p0 + 8 * i, _mm256_mul_ps(acc[i], _mm256_set1_ps(scale)));
}

/* Largest of s[0..count), +0 when zero; lanes beyond count hold s[0]. */
static float largest(const float *s, size_t count) {
    __m256 first = _mm256_broadcast_ss(s);
    __m256 top = first;
    for (size_t p = 0; p < count; p += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(count - p, (size_t)8));
        __m256 v = _mm256_loadu_ps(s + p);
        top = larger(top, _mm256_blendv_ps(first, v, _mm256_castsi256_ps(mask)));
    }
    float lane[8];
    _mm256_storeu_ps(lane, top);
    float max = lane[0];
    for (size_t i = 1; i < 8; i++)
        max = lane[i] > max ? lane[i] : max;
    return max;
}

/* Turns s[0..count) into e, sets the rest of the touched registers to +0, returns the sum. */
static float exponentials(float *s, size_t count, float max) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t p = 0; p < count; p += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(count - p, (size_t)8));
        __m256 e = mlxd_avx2_exp(_mm256_sub_ps(_mm256_loadu_ps(s + p), _mm256_set1_ps(max)));
        e = _mm256_and_ps(e, _mm256_castsi256_ps(mask));
        _mm256_storeu_ps(s + p, e);
        size_t half = p / 8 % 2;
        sum[half] = _mm256_add_ps(sum[half], e);
    }
    return mlxd_avx2_lanes_sum(sum[0], sum[1]);
}

/* out[d0 ... d0+32) */
static void output_block(const float *e, size_t count, const uint16_t *v_page, size_t head_dim,
                         size_t d0, float *out) {
    __m256 acc[BLOCK / 8];
    MLXD_UNROLL
    for (int i = 0; i < BLOCK / 8; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t p = 0; p < count; p++) {
        __m256 x = _mm256_broadcast_ss(e + p);
        const uint16_t *v = v_page + p * head_dim + d0;
        MLXD_UNROLL
        for (int i = 0; i < BLOCK / 8; i++)
            acc[i] = _mm256_fmadd_ps(x, mlxd_avx2_load_f16(v + 8 * i), acc[i]);
    }
    MLXD_UNROLL
    for (int i = 0; i < BLOCK / 8; i++)
        _mm256_storeu_ps(out + d0 + 8 * i, acc[i]);
}

void mlxd_attention_page_avx2(const float *q, const uint16_t *k_page, const uint16_t *v_page,
                              size_t head_dim, size_t count, float scale, float *max, float *sum,
                              float *out) {
    MLXD_ASSERT(count >= 1 && count <= PAGE);
    float s[PAGE];
    for (size_t p = 0; p < count; p += BLOCK)
        score_block(q, k_page, head_dim, p, scale, s);
    *max = largest(s, count);
    *sum = exponentials(s, count, *max);
    size_t d = 0;
    for (; d + BLOCK <= head_dim; d += BLOCK)
        output_block(s, count, v_page, head_dim, d, out);
    for (; d < head_dim; d++) {
        float acc = 0;
        for (size_t p = 0; p < count; p++)
            acc = fmaf(s[p], mlxd_f16_to_f32(v_page[p * head_dim + d]), acc);
        out[d] = acc;
    }
}

void mlxd_attention_merge_avx2(float *max, float *sum, float *out, float max2, float sum2,
                               const float *out2, size_t head_dim) {
    float m = (*max > max2 ? *max : max2) + 0.0f;
    float a = mlxd_exp_f32(*max - m);
    float b = mlxd_exp_f32(max2 - m);
    *sum = fmaf(*sum, a, sum2 * b);
    __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b);
    for (size_t d = 0; d < head_dim; d += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(head_dim - d, (size_t)8));
        __m256 other = _mm256_mul_ps(_mm256_maskload_ps(out2 + d, mask), vb);
        __m256 own = _mm256_maskload_ps(out + d, mask);
        _mm256_maskstore_ps(out + d, mask, _mm256_fmadd_ps(own, va, other));
    }
    *max = m;
}

void mlxd_attention_finish_avx2(float *out, float sum, size_t head_dim) {
    __m256 divisor = _mm256_set1_ps(sum);
    for (size_t d = 0; d < head_dim; d += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(head_dim - d, (size_t)8));
        __m256 v = _mm256_maskload_ps(out + d, mask);
        _mm256_maskstore_ps(out + d, mask, _mm256_div_ps(v, divisor));
    }
}
#endif
