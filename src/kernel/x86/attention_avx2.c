/* attention_avx2.c - attention over one KV page, lanes across positions for scores and across
 * dimensions for the output.
 *
 * Queries go through in blocks of four, two or one. Both loops hold eight registers of sums, enough
 * to hide the latency of fma: q queries by 8/q registers of positions or dimensions, so that what
 * is loaded and widened from the page serves q queries, and a page is read once per block.
 *
 * Queries of a block may see different numbers of positions. Scores are made for whole registers
 * and those that do not count are overwritten with -infinity, whose e is +0 and which no maximum
 * takes. The output may not even multiply hidden positions (they may hold NaN): the block runs to
 * the smallest `visible`, then each query goes on alone. Where there is an earlier partial, it is
 * merged while the page's own output is still in registers.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "base/limits.h"
#include "kernel/math.h"
#include "kernel/x86/avx2.h"

#include <math.h>

#define PAGE MLXD_PAGE
#define BLOCK 4 /* queries at most */
#define SUMS 8  /* registers of sums */

/* A block of queries; s[i] are scores, then exponentials. `into` and `from` are the factors of what
 * was there and of this page's output. */
typedef struct block {
    mlxd_query *query;
    const uint16_t *v_page;
    size_t head_dim, visible_min, visible_max;
    mlxd_score score;
    bool first;
    float into[BLOCK], from[BLOCK];
    float s[BLOCK][PAGE] __attribute__((aligned(32)));
} block;

/* A maximum that is zero is +0. */
static float larger(float a, float b) {
    return (a > b ? a : b) + 0.0f;
}

/* ---- scores ---- */

/* s[i][p0 ... p0 + 64/queries). */
MLXD_INLINE void score_some(const int queries, block *b, const uint16_t *k_page, size_t p0) {
    const int registers = SUMS / queries;
    __m256 acc[SUMS];
    MLXD_UNROLL
    for (int i = 0; i < SUMS; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t d = 0; d < b->head_dim; d++) {
        __m256 k[SUMS];
        MLXD_UNROLL
        for (int r = 0; r < registers; r++)
            k[r] = mlxd_avx2_load_f16(k_page + d * PAGE + p0 + 8 * (size_t)r);
        MLXD_UNROLL
        for (int i = 0; i < queries; i++) {
            __m256 x = _mm256_broadcast_ss(b->query[i].q + d);
            MLXD_UNROLL
            for (int r = 0; r < registers; r++)
                acc[i * registers + r] = _mm256_fmadd_ps(x, k[r], acc[i * registers + r]);
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < queries; i++) {
        MLXD_UNROLL
        for (int r = 0; r < registers; r++)
            _mm256_store_ps(b->s[i] + p0 + 8 * r,
                            _mm256_mul_ps(acc[i * registers + r], _mm256_set1_ps(b->score.scale)));
    }
}

/* Largest of s[0..count), count a multiple of 8; +0 when zero. */
static float largest(const float *s, size_t count) {
    __m256 top = _mm256_load_ps(s);
    for (size_t p = 8; p < count; p += 8)
        top = _mm256_max_ps(top, _mm256_load_ps(s + p));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    four = _mm_max_ss(four, _mm_movehdup_ps(four));
    return _mm_cvtss_f32(four) + 0.0f;
}

/* Turns s[0..count), count a multiple of 8, into e; returns the sum. */
static float exponentials(float *s, size_t count, float max) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t p = 0; p < count; p += 8) {
        __m256 e = mlxd_avx2_exp(_mm256_sub_ps(_mm256_load_ps(s + p), _mm256_set1_ps(max)));
        _mm256_store_ps(s + p, e);
        sum[p / 8 % 2] = _mm256_add_ps(sum[p / 8 % 2], e);
    }
    return mlxd_avx2_lanes_sum(sum[0], sum[1]);
}

/* From scores to exponentials; the query gets its new maximum and sum, the block the factors. */
static void weigh(block *b, size_t i) {
    mlxd_query *query = &b->query[i];
    size_t whole = (query->visible + 7) / 8 * 8;
    if (b->score.softcap > 0)
        mlxd_softcap_avx2(b->s[i], whole, b->score.softcap);
    for (size_t p = 0; p < query->from; p++)
        b->s[i][p] = -INFINITY;
    for (size_t p = query->visible; p < whole; p++)
        b->s[i][p] = -INFINITY;
    float top = largest(b->s[i], whole), sum = exponentials(b->s[i], whole, top);
    if (b->first) {
        query->max = top;
        query->sum = sum;
        return;
    }
    float m = larger(query->max, top);
    b->into[i] = mlxd_exp_f32(query->max - m);
    b->from[i] = mlxd_exp_f32(top - m);
    query->sum = fmaf(query->sum, b->into[i], sum * b->from[i]);
    query->max = m;
}

/* ---- output ---- */

/* out[d0 ...), `registers` registers of dimensions, of each query. */
MLXD_INLINE void output_some(const int queries, const int registers, const block *b, size_t d0) {
    __m256 acc[SUMS];
    MLXD_UNROLL
    for (int i = 0; i < queries * registers; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t p = 0; p < b->visible_min; p++) {
        __m256 v[SUMS];
        MLXD_UNROLL
        for (int r = 0; r < registers; r++)
            v[r] = mlxd_avx2_load_f16(b->v_page + p * b->head_dim + d0 + 8 * (size_t)r);
        MLXD_UNROLL
        for (int i = 0; i < queries; i++) {
            __m256 e = _mm256_broadcast_ss(b->s[i] + p);
            MLXD_UNROLL
            for (int r = 0; r < registers; r++)
                acc[i * registers + r] = _mm256_fmadd_ps(e, v[r], acc[i * registers + r]);
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < queries; i++) {
        float *out = b->query[i].out + d0;
        for (size_t p = b->visible_min; p < b->query[i].visible; p++) {
            const uint16_t *v = b->v_page + p * b->head_dim + d0;
            __m256 e = _mm256_broadcast_ss(b->s[i] + p);
            MLXD_UNROLL
            for (int r = 0; r < registers; r++)
                acc[i * registers + r] =
                    _mm256_fmadd_ps(e, mlxd_avx2_load_f16(v + 8 * r), acc[i * registers + r]);
        }
        MLXD_UNROLL
        for (int r = 0; r < registers; r++) {
            __m256 sum = acc[i * registers + r];
            if (!b->first)
                sum = _mm256_fmadd_ps(_mm256_loadu_ps(out + 8 * r), _mm256_set1_ps(b->into[i]),
                                      _mm256_mul_ps(sum, _mm256_set1_ps(b->from[i])));
            _mm256_storeu_ps(out + 8 * r, sum);
        }
    }
}

/* One element: for what is left of a head_dim that is no multiple of 8. */
static void output_one(const block *b, size_t i, size_t d) {
    float acc = 0, *out = b->query[i].out + d;
    for (size_t p = 0; p < b->query[i].visible; p++)
        acc = fmaf(b->s[i][p], mlxd_f16_to_f32(b->v_page[p * b->head_dim + d]), acc);
    *out = b->first ? acc : fmaf(*out, b->into[i], acc * b->from[i]);
}

/* ---- a block ---- */

MLXD_INLINE void run_block(const int queries, block *b, const uint16_t *k_page) {
    const size_t positions = PAGE / (size_t)queries, dims = positions;
    for (size_t p = 0; p < b->visible_max; p += positions)
        score_some(queries, b, k_page, p);
    for (size_t i = 0; i < (size_t)queries; i++)
        weigh(b, i);
    size_t d = 0;
    for (; d + dims <= b->head_dim; d += dims)
        output_some(queries, SUMS / queries, b, d);
    for (; d + 8 <= b->head_dim; d += 8)
        output_some(queries, 1, b, d);
    for (; d < b->head_dim; d++)
        for (size_t i = 0; i < (size_t)queries; i++)
            output_one(b, i, d);
}

void mlxd_attention_page_avx2(mlxd_query *query, size_t n, const uint16_t *k_page,
                              const uint16_t *v_page, size_t head_dim, mlxd_score score,
                              bool first) {
    MLXD_ASSERT(head_dim <= MLXD_LIMIT_HEAD_DIM);
    block b = {.v_page = v_page, .head_dim = head_dim, .score = score, .first = first};
    for (size_t i = 0, step; i < n; i += step) {
        step = n - i >= 4 ? 4 : n - i >= 2 ? 2 : 1;
        b.query = query + i;
        b.visible_min = PAGE;
        b.visible_max = 0;
        for (size_t j = 0; j < step; j++) {
            MLXD_ASSERT(b.query[j].visible >= 1 && b.query[j].visible <= PAGE);
            MLXD_ASSERT(b.query[j].from < b.query[j].visible);
            b.visible_min = MLXD_MIN(b.visible_min, (size_t)b.query[j].visible);
            b.visible_max = MLXD_MAX(b.visible_max, (size_t)b.query[j].visible);
        }
        if (step == 4)
            run_block(4, &b, k_page);
        else if (step == 2)
            run_block(2, &b, k_page);
        else
            run_block(1, &b, k_page);
    }
}

/* ---- partials ---- */

void mlxd_attention_merge_avx2(mlxd_query *into, const mlxd_query *from, size_t head_dim) {
    float m = larger(into->max, from->max);
    float a = mlxd_exp_f32(into->max - m);
    float b = mlxd_exp_f32(from->max - m);
    into->sum = fmaf(into->sum, a, from->sum * b);
    __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b);
    for (size_t d = 0; d < head_dim; d += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(head_dim - d, (size_t)8));
        __m256 other = _mm256_mul_ps(_mm256_maskload_ps(from->out + d, mask), vb);
        __m256 own = _mm256_maskload_ps(into->out + d, mask);
        _mm256_maskstore_ps(into->out + d, mask, _mm256_fmadd_ps(own, va, other));
    }
    into->max = m;
}

void mlxd_attention_finish_avx2(mlxd_query *query, size_t head_dim) {
    __m256 divisor = _mm256_set1_ps(query->sum);
    for (size_t d = 0; d < head_dim; d += 8) {
        __m256i mask = mlxd_avx2_mask(MLXD_MIN(head_dim - d, (size_t)8));
        __m256 v = _mm256_maskload_ps(query->out + d, mask);
        _mm256_maskstore_ps(query->out + d, mask, _mm256_div_ps(v, divisor));
    }
}
#endif
