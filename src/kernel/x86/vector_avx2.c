/* vector_avx2.c - the small operations, eight lanes at a time, tails by masks. Masked lanes hold
 * zeros, which every operation here survives, and are not stored. */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

#include <math.h>

void mlxd_rmsnorm_avx2(const float *x, const float *w, size_t n, float eps, float *y) {
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 16) { /* a missing element adds fma(0, 0, lane) = lane */
        size_t left = MLXD_MIN(n - i, (size_t)16);
        __m256 a = _mm256_maskload_ps(x + i, mlxd_avx2_mask(MLXD_MIN(left, (size_t)8)));
        __m256 b = _mm256_setzero_ps();
        if (left > 8)
            b = _mm256_maskload_ps(x + i + 8, mlxd_avx2_mask(left - 8));
        low = _mm256_fmadd_ps(a, a, low);
        high = _mm256_fmadd_ps(b, b, high);
    }
    float r = 1.0f / sqrtf(mlxd_avx2_lanes_sum(low, high) / (float)n + eps);
    __m256 factor = _mm256_set1_ps(r);
    for (size_t i = 0; i < n; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(n - i, (size_t)8));
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, mask), factor);
        _mm256_maskstore_ps(y + i, mask, _mm256_mul_ps(v, _mm256_maskload_ps(w + i, mask)));
    }
}

/* out[i] = (g[i] / (1 + exp(z))) * u[i]: both gates, which differ in z. */
MLXD_INLINE void gate(const bool gelu, const float *g, const float *u, size_t n, float *out) {
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    const __m256 c1 = _mm256_set1_ps(MLXD_GELU_C1), c3 = _mm256_set1_ps(MLXD_GELU_C3);
    for (size_t i = 0; i < n; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(n - i, (size_t)8));
        __m256 v = _mm256_maskload_ps(g + i, mask), z = _mm256_xor_ps(v, sign);
        if (gelu)
            z = _mm256_mul_ps(v, _mm256_fmadd_ps(_mm256_mul_ps(v, v), c3, c1));
        v = _mm256_div_ps(v, _mm256_add_ps(one, mlxd_avx2_exp(z)));
        _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(v, _mm256_maskload_ps(u + i, mask)));
    }
}

void mlxd_swiglu_avx2(const float *g, const float *u, size_t n, float *out) {
    gate(false, g, u, n, out);
}

void mlxd_geglu_avx2(const float *g, const float *u, size_t n, float *out) {
    gate(true, g, u, n, out);
}

void mlxd_clipglu_avx2(const float *g, const float *u, size_t n, float *out) {
    const __m256 limit = _mm256_set1_ps(MLXD_CLIP_LIMIT), least = _mm256_set1_ps(-MLXD_CLIP_LIMIT);
    const __m256 one = _mm256_set1_ps(1.0f), alpha = _mm256_set1_ps(MLXD_CLIP_ALPHA);
    for (size_t i = 0; i < n; i += 8) { /* min and max in this order: NaN stays */
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(n - i, (size_t)8));
        __m256 a = _mm256_min_ps(limit, _mm256_maskload_ps(g + i, mask));
        __m256 b = _mm256_min_ps(limit, _mm256_maskload_ps(u + i, mask));
        b = _mm256_add_ps(_mm256_max_ps(least, b), one);
        __m256 divisor = _mm256_add_ps(one, mlxd_avx2_exp(_mm256_mul_ps(a, alpha)));
        _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(_mm256_div_ps(a, divisor), b));
    }
}

void mlxd_softcap_avx2(float *x, size_t n, float cap) {
    const __m256 factor = _mm256_set1_ps(2.0f / cap), twice = _mm256_set1_ps(2.0f * cap);
    const __m256 one = _mm256_set1_ps(1.0f), most = _mm256_set1_ps(cap);
    for (size_t i = 0; i < n; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(n - i, (size_t)8));
        __m256 v = mlxd_avx2_exp(_mm256_mul_ps(_mm256_maskload_ps(x + i, mask), factor));
        v = _mm256_sub_ps(most, _mm256_div_ps(twice, _mm256_add_ps(v, one)));
        _mm256_maskstore_ps(x + i, mask, v);
    }
}

/* Four pairs a0 b0 a1 b1 ...; with the factors c0 s0 c1 s1 ... and -s0 c0 -s1 c1 ... both results
 * are fma(a, first, b * second). */
static void rotate_four(float *x, const float *cos, const float *sin) {
    __m256 v = _mm256_loadu_ps(x);
    __m128 c = _mm_loadu_ps(cos), s = _mm_loadu_ps(sin);
    __m128 minus = _mm_xor_ps(s, _mm_set1_ps(-0.0f));
    __m256 first = _mm256_set_m128(_mm_unpackhi_ps(c, s), _mm_unpacklo_ps(c, s));
    __m256 second = _mm256_set_m128(_mm_unpackhi_ps(minus, c), _mm_unpacklo_ps(minus, c));
    __m256 product = _mm256_mul_ps(_mm256_movehdup_ps(v), second);
    _mm256_storeu_ps(x, _mm256_fmadd_ps(_mm256_moveldup_ps(v), first, product));
}

void mlxd_rope_pairs_avx2(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                          const float *sin) {
    size_t pairs = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *v = x + h * head_dim;
        size_t i = 0;
        for (; i + 4 <= pairs; i += 4)
            rotate_four(v + 2 * i, cos + i, sin + i);
        for (; i < pairs; i++) {
            float a = v[2 * i], b = v[2 * i + 1];
            v[2 * i] = fmaf(a, cos[i], -(b * sin[i]));
            v[2 * i + 1] = fmaf(a, sin[i], b * cos[i]);
        }
    }
}

void mlxd_rope_halves_avx2(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                           const float *sin) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    size_t half = rot / 2;
    for (size_t i = 0; i < half; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(half - i, (size_t)8));
        __m256 c = _mm256_maskload_ps(cos + i, mask), s = _mm256_maskload_ps(sin + i, mask);
        float *at = x + i;
        for (size_t h = 0; h < heads; h++, at += head_dim) {
            __m256 a = _mm256_maskload_ps(at, mask), b = _mm256_maskload_ps(at + half, mask);
            __m256 minus = _mm256_xor_ps(_mm256_mul_ps(b, s), sign);
            _mm256_maskstore_ps(at, mask, _mm256_fmadd_ps(a, c, minus));
            _mm256_maskstore_ps(at + half, mask, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
        }
    }
}

void mlxd_to_f16_avx2(const float *x, size_t n, uint16_t *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + i), h);
    }
    for (; i < n; i++)
        out[i] = mlxd_f32_to_f16(x[i]);
}

bool mlxd_is_finite_avx2(const float *x, size_t n) {
    const __m256i ones = _mm256_set1_epi32(0x7f800000);
    __m256i odd = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(n - i, (size_t)8));
        __m256i v = _mm256_castps_si256(_mm256_maskload_ps(x + i, mask));
        odd = _mm256_or_si256(odd, _mm256_cmpeq_epi32(_mm256_and_si256(v, ones), ones));
    }
    return _mm256_testz_si256(odd, odd);
}
#endif
