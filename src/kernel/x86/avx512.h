/* avx512.h - what the AVX-512 files share: unrolling, masks for tails, widening loads, exp on
 * sixteen lanes, the tree that adds sixteen lanes up.
 *
 * Only for files compiled with the flags that CMakeLists.txt gives *_avx512.c; FMA is written as an
 * intrinsic where the definition has fma, and nowhere else (-ffp-contract=off keeps the compiler
 * from adding any).
 */
#ifndef MLXD_KERNEL_X86_AVX512_H
#define MLXD_KERNEL_X86_AVX512_H

#include "kernel/format.h"
#include "kernel/inline.h"

#include <immintrin.h>

/* Lanes below n. */
MLXD_INLINE __mmask16 mlxd_avx512_mask(size_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1);
}

/* Sixteen halves at p (any alignment), widened. */
MLXD_INLINE __m512 mlxd_avx512_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Sixteen bfloat16 at p (any alignment), widened. */
MLXD_INLINE __m512 mlxd_avx512_load_bf16(const void *p) {
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Sixteen E8M0 bytes at p, widened: 2^(e-127) is the bits e << 23, or a denormal for 0. */
MLXD_INLINE __m512 mlxd_avx512_load_e8m0(const void *p) {
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    __m512i bits = _mm512_max_epi32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(1 << 22));
    return _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5f));
}

/* Sixteen numbers of any type at p (any alignment), widened. */
MLXD_INLINE __m512 mlxd_avx512_widen(const mlxd_float type, const uint8_t *p) {
    if (type == MLXD_FLOAT_F32)
        return _mm512_loadu_ps((const void *)p);
    if (type == MLXD_FLOAT_E8M0)
        return mlxd_avx512_load_e8m0(p);
    return type == MLXD_FLOAT_F16 ? mlxd_avx512_load_f16(p) : mlxd_avx512_load_bf16(p);
}

/* mlxd_exp_f32 on each lane, operation by operation; math.c explains them. Its last two products,
 * the first of which is exact, are one here: scalef multiplies by 2^n and rounds once. */
MLXD_INLINE __m512 mlxd_avx512_exp(__m512 x) {
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), x); /* in this order NaN stays */
    x = _mm512_max_ps(_mm512_set1_ps(-105.0f), x);
    __m512 shifted = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), magic);
    __m512 n = _mm512_sub_ps(shifted, magic);
    __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(n, _mm512_set1_ps(0x1.62e4p-1f)));
    r = _mm512_sub_ps(r, _mm512_mul_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f)));
    __m512 c = _mm512_set1_ps(0x1.6a2256p-10f);
    c = _mm512_add_ps(_mm512_mul_ps(c, r), _mm512_set1_ps(0x1.123b02p-7f));
    c = _mm512_add_ps(_mm512_mul_ps(c, r), _mm512_set1_ps(0x1.5558f8p-5f));
    c = _mm512_add_ps(_mm512_mul_ps(c, r), _mm512_set1_ps(0x1.55549p-3f));
    c = _mm512_add_ps(_mm512_mul_ps(c, r), _mm512_set1_ps(0x1.fffffcp-2f));
    __m512 e = _mm512_add_ps(_mm512_mul_ps(c, _mm512_mul_ps(r, r)), r);
    e = _mm512_add_ps(e, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(e, n);
}

/* The tree of lanes.h. */
MLXD_INLINE float mlxd_avx512_lanes_sum(__m512 v) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
