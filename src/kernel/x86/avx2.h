/* avx2.h - what the AVX2 files share: unrolling, masks for tails, panels of 16 rows as two
 * registers, exp on eight lanes.
 *
 * Only for files compiled with -mavx2 -mfma -mf16c; FMA is written as an intrinsic where the
 * definition has fma, and nowhere else (-ffp-contract=off keeps the compiler from adding any).
 */
#ifndef MLXD_KERNEL_X86_AVX2_H
#define MLXD_KERNEL_X86_AVX2_H

#include "kernel/format.h"
#include "kernel/inline.h"

#include <immintrin.h>
#include <string.h>

/* Lanes below n are all ones, for maskload and maskstore; n <= 8. */
MLXD_INLINE __m256i mlxd_avx2_mask(size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

/* Eight halves at p (any alignment), widened. */
MLXD_INLINE __m256 mlxd_avx2_load_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* A panel's sixteen rows: 0-7 and 8-15. */
typedef struct mlxd_avx2_pair {
    __m256 half[2];
} mlxd_avx2_pair;

/* Eight E8M0 bytes at p, widened: 2^(e-127) is the bits e << 23, or a denormal for 0. */
MLXD_INLINE __m256 mlxd_avx2_load_e8m0(const uint8_t *p) {
    __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    __m256i bits = _mm256_max_epi32(_mm256_slli_epi32(e, 23), _mm256_set1_epi32(1 << 22));
    return _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0.5f));
}

/* Sixteen numbers of `type` at p (any alignment), widened. */
MLXD_INLINE mlxd_avx2_pair mlxd_avx2_widen(const mlxd_float type, const uint8_t *p) {
    mlxd_avx2_pair out;
    MLXD_UNROLL
    for (int i = 0; i < 2; i++) {
        const __m128i *words = (const __m128i *)(const void *)(p + 16 * i);
        if (type == MLXD_FLOAT_F32)
            out.half[i] = _mm256_loadu_ps((const float *)(const void *)(p + 32 * i));
        else if (type == MLXD_FLOAT_F16)
            out.half[i] = mlxd_avx2_load_f16(words);
        else if (type == MLXD_FLOAT_E8M0)
            out.half[i] = mlxd_avx2_load_e8m0(p + 8 * i);
        else
            out.half[i] = _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(words)), 16));
    }
    return out;
}

/* y[0..rows) = sums, or y + sums; rows beyond 16 are not there. */
MLXD_INLINE void mlxd_avx2_store_rows(mlxd_avx2_pair sums, size_t rows, bool add, float *y) {
    MLXD_UNROLL
    for (size_t i = 0; i < 16 && i < rows; i += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(rows - i, (size_t)8));
        __m256 v = sums.half[i / 8];
        if (add)
            v = _mm256_add_ps(_mm256_maskload_ps(y + i, mask), v);
        _mm256_maskstore_ps(y + i, mask, v);
    }
}

/* Asks for `bytes` from p + ahead on. They may lie behind the matrix: a hint is not an access. */
MLXD_INLINE void mlxd_avx2_prefetch(const uint8_t *p, size_t ahead, size_t bytes) {
    const size_t line = 64;
    for (size_t i = 0; i < bytes; i += line)
        _mm_prefetch((const char *)((uintptr_t)p + ahead + i), _MM_HINT_T0);
}

/* mlxd_exp_f32 on each lane, operation by operation; math.c explains them. */
MLXD_INLINE __m256 mlxd_avx2_exp(__m256 x) {
    const __m256 magic = _mm256_set1_ps(0x1.8p23f);
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), x); /* in this order NaN stays */
    x = _mm256_max_ps(_mm256_set1_ps(-105.0f), x);
    __m256 shifted = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)), magic);
    __m256 n = _mm256_sub_ps(shifted, magic);
    __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(0x1.62e4p-1f)));
    r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f)));
    __m256 c = _mm256_set1_ps(0x1.6a2256p-10f);
    c = _mm256_add_ps(_mm256_mul_ps(c, r), _mm256_set1_ps(0x1.123b02p-7f));
    c = _mm256_add_ps(_mm256_mul_ps(c, r), _mm256_set1_ps(0x1.5558f8p-5f));
    c = _mm256_add_ps(_mm256_mul_ps(c, r), _mm256_set1_ps(0x1.55549p-3f));
    c = _mm256_add_ps(_mm256_mul_ps(c, r), _mm256_set1_ps(0x1.fffffcp-2f));
    __m256 e = _mm256_add_ps(_mm256_mul_ps(c, _mm256_mul_ps(r, r)), r);
    e = _mm256_add_ps(e, _mm256_set1_ps(1.0f));
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(magic));
    __m256i half = _mm256_srai_epi32(k, 1); /* any split will do: the first product is exact */
    __m256i rest = _mm256_sub_epi32(k, half);
    const __m256i bias = _mm256_set1_epi32(127);
    half = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    rest = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    e = _mm256_mul_ps(e, _mm256_castsi256_ps(half));
    return _mm256_mul_ps(e, _mm256_castsi256_ps(rest));
}

/* The tree of lanes.h; lane i of the sixteen is lane i of `low` or lane i-8 of `high`. */
MLXD_INLINE float mlxd_avx2_lanes_sum(__m256 low, __m256 high) {
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
