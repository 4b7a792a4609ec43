/* vector_avx512.c - the small operations, sixteen lanes at a time, tails by masks. Masked lanes
 * hold zeros, which every operation here survives, and are not stored. */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx512.h"

#include <math.h>

#define LANES 16

void mlxd_rmsnorm_avx512(const float *x, const float *w, size_t n, float eps, float *y) {
    __m512 lanes = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) { /* a missing element adds fma(0, 0, lane) = lane */
        __m512 v = _mm512_maskz_loadu_ps(mlxd_avx512_mask(n - i), x + i);
        lanes = _mm512_fmadd_ps(v, v, lanes);
    }
    float r = 1.0f / sqrtf(mlxd_avx512_lanes_sum(lanes) / (float)n + eps);
    __m512 factor = _mm512_set1_ps(r);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
        v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, w + i));
        _mm512_mask_storeu_ps(y + i, mask, v);
    }
}

/* (g / (1 + exp(z))) * u */
MLXD_INLINE __m512 gate(__m512 g, __m512 z, __m512 u) {
    __m512 divisor = _mm512_add_ps(_mm512_set1_ps(1.0f), mlxd_avx512_exp(z));
    return _mm512_mul_ps(_mm512_div_ps(g, divisor), u);
}

void mlxd_swiglu_avx512(const float *g, const float *u, size_t n, float *out) {
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, g + i);
        __m512 z = _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
        v = gate(v, z, _mm512_maskz_loadu_ps(mask, u + i));
        _mm512_mask_storeu_ps(out + i, mask, v);
    }
}

void mlxd_geglu_avx512(const float *g, const float *u, size_t n, float *out) {
    const __m512 c1 = _mm512_set1_ps(MLXD_GELU_C1), c3 = _mm512_set1_ps(MLXD_GELU_C3);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, g + i);
        __m512 z = _mm512_mul_ps(v, _mm512_fmadd_ps(_mm512_mul_ps(v, v), c3, c1));
        v = gate(v, z, _mm512_maskz_loadu_ps(mask, u + i));
        _mm512_mask_storeu_ps(out + i, mask, v);
    }
}

void mlxd_clipglu_avx512(const float *g, const float *u, size_t n, float *out) {
    const __m512 limit = _mm512_set1_ps(MLXD_CLIP_LIMIT), least = _mm512_set1_ps(-MLXD_CLIP_LIMIT);
    for (size_t i = 0; i < n; i += LANES) { /* min and max in this order: NaN stays */
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 a = _mm512_min_ps(limit, _mm512_maskz_loadu_ps(mask, g + i));
        __m512 b = _mm512_min_ps(limit, _mm512_maskz_loadu_ps(mask, u + i));
        b = _mm512_add_ps(_mm512_max_ps(least, b), _mm512_set1_ps(1.0f));
        __m512 v = gate(a, _mm512_mul_ps(a, _mm512_set1_ps(MLXD_CLIP_ALPHA)), b);
        _mm512_mask_storeu_ps(out + i, mask, v);
    }
}

void mlxd_softcap_avx512(float *x, size_t n, float cap) {
    const __m512 factor = _mm512_set1_ps(2.0f / cap), twice = _mm512_set1_ps(2.0f * cap);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
        v = _mm512_div_ps(twice, _mm512_add_ps(mlxd_avx512_exp(v), _mm512_set1_ps(1.0f)));
        _mm512_mask_storeu_ps(x + i, mask, _mm512_sub_ps(_mm512_set1_ps(cap), v));
    }
}

/* Eight pairs a0 b0 a1 b1 ... of every head at once; with the factors c0 s0 c1 s1 ... and
 * -s0 c0 -s1 c1 ... both results are fma(a, first, b * second). */
void mlxd_rope_pairs_avx512(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                            const float *sin) {
    const size_t pairs = LANES / 2;
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __mmask16 odd = 0xaaaa;
    for (size_t i = 0; i < rot / 2; i += pairs) {
        __mmask16 one = mlxd_avx512_mask(MLXD_MIN(rot / 2 - i, pairs));
        __mmask16 both = mlxd_avx512_mask(2 * (rot / 2 - i));
        __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(one, cos + i));
        __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(one, sin + i));
        __m512 first = _mm512_mask_blend_ps(odd, c, s);
        __m512 second = _mm512_mask_blend_ps(odd, _mm512_xor_ps(s, _mm512_set1_ps(-0.0f)), c);
        float *at = x + 2 * i;
        for (size_t h = 0; h < heads; h++, at += head_dim) {
            __m512 v = _mm512_maskz_loadu_ps(both, at);
            __m512 product = _mm512_mul_ps(_mm512_movehdup_ps(v), second);
            v = _mm512_fmadd_ps(_mm512_moveldup_ps(v), first, product);
            _mm512_mask_storeu_ps(at, both, v);
        }
    }
}

void mlxd_rope_halves_avx512(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                             const float *sin) {
    const __m512 sign = _mm512_set1_ps(-0.0f);
    size_t half = rot / 2;
    for (size_t i = 0; i < half; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(half - i);
        __m512 c = _mm512_maskz_loadu_ps(mask, cos + i), s = _mm512_maskz_loadu_ps(mask, sin + i);
        float *at = x + i;
        for (size_t h = 0; h < heads; h++, at += head_dim) {
            __m512 a = _mm512_maskz_loadu_ps(mask, at), b = _mm512_maskz_loadu_ps(mask, at + half);
            __m512 minus = _mm512_xor_ps(_mm512_mul_ps(b, s), sign);
            _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(a, c, minus));
            _mm512_mask_storeu_ps(at + half, mask, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
        }
    }
}

void mlxd_to_f16_avx512(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = mlxd_avx512_mask(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        _mm256_mask_storeu_epi16(out + i, mask, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
}

bool mlxd_is_finite_avx512(const float *x, size_t n) {
    enum { QUIET = 0x01, INFINITE = 0x08, MINUS_INFINITE = 0x10, SIGNALLING = 0x80 };
    __mmask16 odd = 0;
    for (size_t i = 0; i < n; i += LANES) {
        __m512 v = _mm512_maskz_loadu_ps(mlxd_avx512_mask(n - i), x + i);
        odd |= _mm512_fpclass_ps_mask(v, QUIET | INFINITE | MINUS_INFINITE | SIGNALLING);
    }
    return odd == 0;
}
#endif
