/* matmul_avx2.c - quantize, and the product with quantized weights.
 *
 * A register holds eight of a panel's sixteen rows, four columns (one dword) each; the activations
 * of those four columns are one broadcast dword, and vpmaddubsw multiplies and adds pairs:
 *
 *   weights      r0c0 r0c1 r0c2 r0c3 | r1c0 r1c1 r1c2 r1c3 | ... r7c3      32 bytes
 *   activations   a0   a1   a2   a3  |  a0   a1   a2   a3  | ...           broadcast
 *   pair sums      r0c0*a0+r0c1*a1, r0c2*a2+r0c3*a3, ...                   16 x int16
 *
 * Nibbles: 0..15 times -127..127; the pair sums of all eight dwords of a group stay within
 * 8*2*15*127 = 30480, so they are added as int16 and widened once per group. Q4_0's zero point is
 * taken off behind: isum = sum(q*a) - 8*sum(a), in f32, where both terms and the difference are
 * integers below 2^24 and so exact. Bytes (Q8_0): |w| as unsigned times a with w's sign; a pair sum
 * is at most 2*128*127 = 32512, so nothing saturates, and each is widened at once.
 *
 * A tile is up to four tokens by sixteen rows: every group's weights are loaded and unpacked once
 * for its tokens, and the panel stays in the nearest caches from tile to tile.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

#include <math.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TILE 4     /* tokens of a tile */
#define AHEAD 2048 /* bytes that are prefetched ahead: twice the speed from DRAM */

/* ---- activations to int8 ---- */

static int32_t sum_lanes_i32(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(four) + _mm_extract_epi32(four, 1);
}

static uint32_t largest_lane_u31(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 1));
    return (uint32_t)_mm_cvtsi128_si32(four);
}

static float quantize_group(const float *x, int8_t *q, float *sum) {
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
        memset(q, 0, GROUP);
        *sum = 0;
        return bits >= 0x7f800000u ? NAN : 0.0f;
    }
    __m256 inverse = _mm256_set1_ps(127.0f / amax);
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    __m256i total = _mm256_add_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
    __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)q, packed);
    *sum = (float)sum_lanes_i32(total);
    return amax / 127.0f;
}

void mlxd_quantize_avx2(const float *x, size_t k, int8_t *q, float *scale, float *sum) {
    MLXD_ASSERT(k % GROUP == 0);
    for (size_t g = 0; g < k / GROUP; g++)
        scale[g] = quantize_group(x + g * GROUP, q + g * GROUP, &sum[g]);
}

/* ---- one group of a panel times its tokens ---- */

/* The activations of one token of a tile. */
typedef struct token {
    const int8_t *q;
    const float *scale, *sum;
} token;

/* Both halves of a panel: rows 0-7 and 8-15. */
typedef struct pair_i {
    __m256i half[2];
} pair_i;
typedef struct pair_f {
    __m256 half[2];
} pair_f;

MLXD_INLINE __m256i broadcast_quad(const int8_t *a) {
    int32_t v;
    memcpy(&v, a, sizeof v);
    return _mm256_set1_epi32(v);
}

MLXD_INLINE __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* The sum is wanted now. Compilers know that integer sums may be regrouped, gather all terms of a
 * group before adding them, and run out of registers. */
MLXD_INLINE void keep(__m256i *sum) {
    __asm__("" : "+x"(*sum));
}

/* dot[t] = sum of q*a as int32, q the unsigned nibbles. */
MLXD_INLINE void dot_nibbles(const uint8_t *p, const token *x, size_t g, const int tokens,
                             pair_i dot[TILE]) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    MLXD_UNROLL
    for (int j = 0; j < 4; j++) {
        pair_i l, h;
        MLXD_UNROLL
        for (int i = 0; i < 2; i++) {
            __m256i v = load(p + 64 * j + 32 * i);
            l.half[i] = _mm256_and_si256(v, low);
            h.half[i] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        }
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m256i a = broadcast_quad(x[t].q + GROUP * g + 4 * j);
            __m256i b = broadcast_quad(x[t].q + GROUP * g + 16 + 4 * j);
            MLXD_UNROLL
            for (int i = 0; i < 2; i++) {
                __m256i s = _mm256_maddubs_epi16(l.half[i], a);
                dot[t].half[i] = j == 0 ? s : _mm256_add_epi16(dot[t].half[i], s);
                s = _mm256_maddubs_epi16(h.half[i], b);
                dot[t].half[i] = _mm256_add_epi16(dot[t].half[i], s);
                keep(&dot[t].half[i]);
            }
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        MLXD_UNROLL
        for (int i = 0; i < 2; i++)
            dot[t].half[i] = _mm256_madd_epi16(dot[t].half[i], ones);
    }
}

/* dot[t] = sum of q*a as int32, q the signed bytes. */
MLXD_INLINE void dot_bytes(const uint8_t *p, const token *x, size_t g, const int tokens,
                           pair_i dot[TILE]) {
    const __m256i ones = _mm256_set1_epi16(1);
    MLXD_UNROLL
    for (int j = 0; j < 8; j++) {
        pair_i w, magnitude;
        MLXD_UNROLL
        for (int i = 0; i < 2; i++) {
            w.half[i] = load(p + 64 * j + 32 * i);
            magnitude.half[i] = _mm256_abs_epi8(w.half[i]);
        }
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m256i a = broadcast_quad(x[t].q + GROUP * g + 4 * j);
            MLXD_UNROLL
            for (int i = 0; i < 2; i++) {
                __m256i signed_a = _mm256_sign_epi8(a, w.half[i]);
                __m256i s = _mm256_maddubs_epi16(magnitude.half[i], signed_a);
                s = _mm256_madd_epi16(s, ones);
                dot[t].half[i] = j == 0 ? s : _mm256_add_epi32(dot[t].half[i], s);
                keep(&dot[t].half[i]);
            }
        }
    }
}

/* acc[t] += the group's part, in the order and with the roundings of matmul.h; `scales` lie behind
 * the group's weights. */
MLXD_INLINE void accumulate(const mlxd_weight_type type, const uint8_t *scales, const token *x,
                            size_t g, const int tokens, const pair_i dot[TILE], pair_f acc[TILE]) {
    pair_f d, m;
    MLXD_UNROLL
    for (int i = 0; i < 2; i++) {
        d.half[i] = mlxd_avx2_load_f16(scales + 16 * i);
        m.half[i] = d.half[i];
        if (type == MLXD_WEIGHT_Q4_1)
            m.half[i] = mlxd_avx2_load_f16(scales + 2 * ROWS + 16 * i);
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        __m256 scale = _mm256_broadcast_ss(x[t].scale + g);
        __m256 sum = _mm256_setzero_ps();
        if (type != MLXD_WEIGHT_Q8_0)
            sum = _mm256_broadcast_ss(x[t].sum + g);
        MLXD_UNROLL
        for (int i = 0; i < 2; i++) {
            __m256 isum = _mm256_cvtepi32_ps(dot[t].half[i]);
            if (type == MLXD_WEIGHT_Q4_0) /* exact, so fused or not is the same */
                isum = _mm256_fnmadd_ps(_mm256_set1_ps(8), sum, isum);
            __m256 factor = _mm256_mul_ps(d.half[i], scale);
            acc[t].half[i] = _mm256_fmadd_ps(factor, isum, acc[t].half[i]);
            if (type == MLXD_WEIGHT_Q4_1)
                acc[t].half[i] =
                    _mm256_fmadd_ps(m.half[i], _mm256_mul_ps(scale, sum), acc[t].half[i]);
        }
    }
}

/* ---- tiles ---- */

static void store_rows(pair_f acc, size_t rows, float *y) {
    if (rows == ROWS) {
        _mm256_storeu_ps(y, acc.half[0]);
        _mm256_storeu_ps(y + 8, acc.half[1]);
        return;
    }
    float all[ROWS];
    _mm256_storeu_ps(all, acc.half[0]);
    _mm256_storeu_ps(all + 8, acc.half[1]);
    memcpy(y, all, rows * sizeof(float));
}

/* The panel at p times tokens t0 ...; the constants `type` and `tokens` make one loop of each. */
MLXD_INLINE void run_tile(const mlxd_weight_type type, const int tokens, const uint8_t *p,
                          const mlxd_activations *a, size_t t0, pair_f acc[TILE]) {
    const size_t payload = type == MLXD_WEIGHT_Q8_0 ? 32 * ROWS : 16 * ROWS;
    const size_t scales = type == MLXD_WEIGHT_Q4_1 ? 2 : 1;
    const size_t bytes = payload + 2 * scales * ROWS;
    size_t groups = a->k / GROUP;
    token x[TILE];
    pair_f sums[TILE];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        size_t row = t0 + (size_t)t;
        x[t] = (token){a->q + row * a->k, a->scale + row * groups, a->sum + row * groups};
        sums[t].half[0] = sums[t].half[1] = _mm256_setzero_ps();
    }
    for (size_t g = 0; g < groups; g++, p += bytes) {
        pair_i dot[TILE];
        mlxd_avx2_prefetch(p, AHEAD, bytes);
        if (type == MLXD_WEIGHT_Q8_0)
            dot_bytes(p, x, g, tokens, dot);
        else
            dot_nibbles(p, x, g, tokens, dot);
        accumulate(type, p + payload, x, g, tokens, dot, sums);
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        acc[t] = sums[t];
}

MLXD_INLINE void run_tokens(const mlxd_weight_type type, size_t tokens, const uint8_t *p,
                            const mlxd_activations *a, size_t t0, pair_f acc[TILE]) {
    switch (tokens) {
    case 1:
        run_tile(type, 1, p, a, t0, acc);
        break;
    case 2:
        run_tile(type, 2, p, a, t0, acc);
        break;
    case 3:
        run_tile(type, 3, p, a, t0, acc);
        break;
    default:
        run_tile(type, 4, p, a, t0, acc);
        break;
    }
}

static void tile_q4_0(size_t tokens, const uint8_t *p, const mlxd_activations *a, size_t t0,
                      pair_f acc[TILE]) {
    run_tokens(MLXD_WEIGHT_Q4_0, tokens, p, a, t0, acc);
}

static void tile_q4_1(size_t tokens, const uint8_t *p, const mlxd_activations *a, size_t t0,
                      pair_f acc[TILE]) {
    run_tokens(MLXD_WEIGHT_Q4_1, tokens, p, a, t0, acc);
}

static void tile_q8_0(size_t tokens, const uint8_t *p, const mlxd_activations *a, size_t t0,
                      pair_f acc[TILE]) {
    run_tokens(MLXD_WEIGHT_Q8_0, tokens, p, a, t0, acc);
}

void mlxd_product_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                       size_t panel1, float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    if (!mlxd_weight_is_quantized(w->type)) {
        mlxd_product_float_avx2(w, a, panel0, panel1, y, ldy);
        return;
    }
    void (*tile)(size_t, const uint8_t *, const mlxd_activations *, size_t, pair_f *) =
        w->type == MLXD_WEIGHT_Q4_0   ? tile_q4_0
        : w->type == MLXD_WEIGHT_Q4_1 ? tile_q4_1
                                      : tile_q8_0;
    size_t panel_bytes = mlxd_weight_panel_bytes(w->type, w->cols);
    for (size_t panel = panel0; panel < panel1; panel++) {
        const uint8_t *p = w->data + panel * panel_bytes;
        size_t rows = MLXD_MIN(w->rows - panel * ROWS, (size_t)ROWS);
        for (size_t t0 = 0; t0 < a->n; t0 += TILE) {
            size_t tokens = MLXD_MIN(a->n - t0, (size_t)TILE);
            pair_f acc[TILE];
            tile(tokens, p, a, t0, acc);
            for (size_t t = 0; t < tokens; t++)
                store_rows(acc[t], rows, y + (t0 + t) * ldy + panel * ROWS);
        }
    }
}
#endif
