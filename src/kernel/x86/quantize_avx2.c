/* quantize_avx2.c - activations to int8, a group of 32 in four registers. */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

#include <math.h>

#define GROUP MLXD_GROUP

static uint32_t largest_lane_u31(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 1));
    return (uint32_t)_mm_cvtsi128_si32(four);
}

static void quantize_group(const float *x, mlxd_quants z) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i top = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    uint32_t bits = largest_lane_u31(top); /* as integers, magnitudes are ordered like values */
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    if (bits >= 0x7f800000u || amax < 0x1p-100f) {
        memset(z.q, 0, GROUP);
        *z.sums = 0;
        *z.scale = *z.offset = bits >= 0x7f800000u ? NAN : 0.0f;
        return;
    }
    __m256 inverse = _mm256_set1_ps(127.0f / amax);
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    /* Pairs of halves, first and last 16 values: dwords a a b b | a a b b, then a b a b. */
    __m256i total = _mm256_hadd_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
    __m128i pair = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    pair = _mm_hadd_epi32(pair, pair);
    __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)z.q, packed);
    int32_t first = _mm_cvtsi128_si32(pair), last = _mm_extract_epi32(pair, 1);
    *z.scale = amax / 127.0f;
    *z.offset = *z.scale * (float)(first + last);
    *z.sums = mlxd_quants_pair(first, last);
}

void mlxd_quantize_avx2(const float *x, size_t k, mlxd_quants z, size_t stride) {
    MLXD_ASSERT(k % GROUP == 0);
    for (size_t g = 0; g < k / GROUP; g++, x += GROUP) {
        quantize_group(x, z);
        z = mlxd_quants_skip(z, stride);
    }
}
#endif
