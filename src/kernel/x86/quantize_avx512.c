/* quantize_avx512.c - activations to int8, four groups of 32 columns at a time.
 *
 * A group is two vectors; its largest magnitude and its sum are reductions over them. Those of four
 * groups go through the same instructions: each step interleaves the groups' halves and combines
 * them, until one register of four has a value per group, and the divisions are done on four as
 * well. Where fewer than four groups are left at the end of a row, the missing ones are the first
 * one again, and not stored.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx512.h"

#include <string.h>

#define GROUP MLXD_GROUP
#define BATCH 4

/* What goes to z, one value per group. */
typedef struct batch {
    float scale[BATCH], offset[BATCH];
    int32_t sums[BATCH];
    int8_t q[BATCH][GROUP];
} batch;

/* The largest |x| of each group, as bits: as integers they are ordered like the values, infinity
 * and NaN on top. */
MLXD_INLINE __m128i magnitudes(__m512 x[BATCH][2]) {
    const __m512i positive = _mm512_set1_epi32(0x7fffffff);
    __m512i m[BATCH];
    MLXD_UNROLL
    for (int g = 0; g < BATCH; g++) {
        __m512i a = _mm512_and_si512(_mm512_castps_si512(x[g][0]), positive);
        __m512i b = _mm512_and_si512(_mm512_castps_si512(x[g][1]), positive);
        m[g] = _mm512_max_epu32(a, b);
    }
    __m512i m01 =
        _mm512_max_epu32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
    __m512i m23 =
        _mm512_max_epu32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
    __m512i all =
        _mm512_max_epu32(_mm512_unpacklo_epi64(m01, m23), _mm512_unpackhi_epi64(m01, m23));
    __m256i half = _mm256_max_epu32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_max_epu32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* rne(x * factor) as integers. */
MLXD_INLINE __m512i round_to_int(__m512 x, float factor) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(factor)));
}

/* q = rne(x * inverse) of the groups, and the sums of their first and last 16. Packing works within
 * 128 bits, so it leaves the quads of two groups in the order that `quads` undoes. */
MLXD_INLINE void round_groups(__m512 x[BATCH][2], const float inverse[BATCH], batch *to,
                              __m128i *first, __m128i *last) {
    const __m512i quads = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sum[BATCH / 2];
    MLXD_UNROLL
    for (int i = 0; i < BATCH / 2; i++) {
        const int g = 2 * i;
        __m512i one = _mm512_packs_epi32(round_to_int(x[g][0], inverse[g]),
                                         round_to_int(x[g][1], inverse[g]));
        __m512i two = _mm512_packs_epi32(round_to_int(x[g + 1][0], inverse[g + 1]),
                                         round_to_int(x[g + 1][1], inverse[g + 1]));
        __m512i q = _mm512_permutexvar_epi32(quads, _mm512_packs_epi16(one, two));
        _mm512_storeu_si512(to->q[g], q);
        sum[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, q);
    }
    /* 128 bits of a sum are four parts of a half: of groups 0 0 1 1, and 2 2 3 3. Added up within
     * 128 bits, dwords 0 and 1 of s are those of sum[0] and of sum[1]. */
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi32(sum[0], sum[1]),
                                 _mm512_unpackhi_epi32(sum[0], sum[1]));
    s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
    const __m512i lanes = _mm512_setr_epi32(0, 8, 1, 9, 4, 12, 5, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    s = _mm512_permutexvar_epi32(lanes, s);
    *first = _mm512_castsi512_si128(s);
    *last = _mm512_extracti32x4_epi32(s, 1);
}

MLXD_INLINE void quantize_batch(__m512 x[BATCH][2], batch *to) {
    const __m128 limit = _mm_set1_ps(127.0f);
    float inverse[BATCH];
    __m128i top = magnitudes(x);
    __m128 amax = _mm_castsi128_ps(top);
    __mmask8 odd = _mm_cmpge_epu32_mask(top, _mm_set1_epi32(0x7f800000)); /* infinity, NaN */
    __mmask8 used = _mm_cmp_ps_mask(amax, _mm_set1_ps(0x1p-100f), _CMP_GE_OQ) & (__mmask8)~odd;
    _mm_storeu_ps(inverse, _mm_maskz_div_ps(used, limit, amax));
    __m128 scale = _mm_maskz_div_ps(used, amax, limit);
    __m128i first, last;
    round_groups(x, inverse, to, &first, &last);
    first = _mm_maskz_mov_epi32(used, first);
    last = _mm_maskz_mov_epi32(used, last);
    const __m128 nan = _mm_castsi128_ps(_mm_set1_epi32(0x7fc00000));
    __m128 offset = _mm_mul_ps(scale, _mm_cvtepi32_ps(_mm_add_epi32(first, last)));
    _mm_storeu_ps(to->scale, _mm_mask_mov_ps(scale, odd, nan));
    _mm_storeu_ps(to->offset, _mm_mask_mov_ps(offset, odd, nan));
    __m128i sums = _mm_mask_blend_epi16(0xaa, first, _mm_slli_epi32(last, 16));
    _mm_storeu_si128((__m128i *)(void *)to->sums, sums);
    if (odd)
        for (size_t g = 0; g < BATCH; g++)
            if (odd >> g & 1)
                memset(to->q[g], 0, GROUP);
}

static void put(const batch *b, size_t count, mlxd_quants z, size_t stride) {
    if (stride == 1 && count == BATCH) {
        memcpy(z.q, b->q, sizeof b->q);
        memcpy(z.scale, b->scale, sizeof b->scale);
        memcpy(z.offset, b->offset, sizeof b->offset);
        memcpy(z.sums, b->sums, sizeof b->sums);
        return;
    }
    MLXD_UNROLL
    for (size_t i = 0; i < BATCH; i++) {
        if (i == count)
            break;
        memcpy(z.q + i * stride * GROUP, b->q[i], GROUP);
        z.scale[i * stride] = b->scale[i];
        z.offset[i * stride] = b->offset[i];
        z.sums[i * stride] = b->sums[i];
    }
}

void mlxd_quantize_avx512(const float *x, size_t k, mlxd_quants z, size_t stride) {
    MLXD_ASSERT(k % GROUP == 0);
    for (size_t g = 0, count; g < k / GROUP; g += count, x += count * GROUP) {
        batch b;
        __m512 v[BATCH][2];
        count = MLXD_MIN(k / GROUP - g, (size_t)BATCH);
        MLXD_UNROLL
        for (size_t i = 0; i < BATCH; i++) {
            const float *from = i < count ? x + i * GROUP : x;
            v[i][0] = _mm512_loadu_ps(from);
            v[i][1] = _mm512_loadu_ps(from + 16);
        }
        quantize_batch(v, &b);
        put(&b, count, z, stride);
        size_t next = count * stride;
        z = mlxd_quants_skip(z, next);
    }
}
#endif
