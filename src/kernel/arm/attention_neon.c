/* attention_neon.c - attention over one KV page, for many queries at once.
 *
 * Scores and output are the same sum: rows of halves, each widened and multiplied with one value of
 * the query, row after row into one accumulator per element.
 *
 *     scores   rows are dimensions (K page), elements are positions, values are q[d]
 *     output   rows are positions (V page), elements are dimensions, values are e[p]
 *
 * A row's halves are widened once for a block of up to four queries; sixteen accumulators (queries
 * by four elements each) hide the latency of the fma chains. Queries of a block may see different
 * positions: rows that all of them see are multiplied for all, and what is left for each alone, so
 * that nothing which may hold a NaN is ever multiplied for a query that does not see it.
 */
#if defined(__aarch64__)
#include "kernel/tables.h"

#include "base/limits.h"
#include "kernel/arm/neon.h"
#include "kernel/math.h"
#include "kernel/scalar/lanes.h"

#include <math.h>

#define PAGE MLXD_PAGE
#define BLOCK 4 /* queries */

/* ---- rows of halves times the values of queries ---- */

/* What the queries of a block are multiplied with: `rows` rows of `width` halves. */
typedef struct halves {
    const uint16_t *data;
    size_t width;
} halves;

/* out[j][i ... i + 4*registers) += x[j][r] * row r, for rows [r0, r1) ascending. */
MLXD_INLINE void multiply(const int queries, const int registers, halves m, size_t i, size_t r0,
                          size_t r1, const float *const *x, float *const *out) {
    float32x4_t acc[BLOCK][16];
    MLXD_UNROLL
    for (int j = 0; j < queries; j++) {
        MLXD_UNROLL
        for (int c = 0; c < registers; c++)
            acc[j][c] = vld1q_f32(out[j] + i + 4 * c);
    }
    for (size_t r = r0; r < r1; r++) {
        const uint16_t *row = m.data + r * m.width + i;
        MLXD_UNROLL
        for (int c = 0; c < registers; c++) {
            float32x4_t v = mlxd_neon_load_f16(row + 4 * c);
            MLXD_UNROLL
            for (int j = 0; j < queries; j++)
                acc[j][c] = vfmaq_n_f32(acc[j][c], v, x[j][r]);
        }
    }
    MLXD_UNROLL
    for (int j = 0; j < queries; j++) {
        MLXD_UNROLL
        for (int c = 0; c < registers; c++)
            vst1q_f32(out[j] + i + 4 * c, acc[j][c]);
    }
}

/* The same for all elements: as many at once as there are registers for. */
MLXD_INLINE void multiply_all(const int queries, halves m, size_t r0, size_t r1,
                              const float *const *x, float *const *out) {
    const int registers = queries == 1 ? 16 : queries == 2 ? 8 : 4;
    const size_t lanes = 4 * (size_t)registers;
    size_t i = 0;
    for (; i + lanes <= m.width; i += lanes)
        multiply(queries, registers, m, i, r0, r1, x, out);
    for (; i + 16 <= m.width; i += 16)
        multiply(queries, 4, m, i, r0, r1, x, out);
    for (; i + 4 <= m.width; i += 4)
        multiply(queries, 1, m, i, r0, r1, x, out);
    for (; i < m.width; i++)
        for (int j = 0; j < queries; j++)
            for (size_t r = r0; r < r1; r++)
                out[j][i] = fmaf(x[j][r], mlxd_f16_to_f32(m.data[r * m.width + i]), out[j][i]);
}

static void multiply_block(size_t queries, halves m, size_t r0, size_t r1, const float *const *x,
                           float *const *out) {
    if (queries == 4)
        multiply_all(4, m, r0, r1, x, out);
    else if (queries == 3)
        multiply_all(3, m, r0, r1, x, out);
    else if (queries == 2)
        multiply_all(2, m, r0, r1, x, out);
    else
        multiply_all(1, m, r0, r1, x, out);
}

/* ---- scores to exponentials ---- */

/* All ones in the lanes of positions p ... p+3 that lie in [from, visible). */
MLXD_INLINE uint32x4_t seen(size_t p, size_t from, size_t visible) {
    const uint32_t lane[4] = {0, 1, 2, 3};
    uint32x4_t position = vaddq_u32(vld1q_u32(lane), vdupq_n_u32((uint32_t)p));
    return vandq_u32(vcltq_u32(position, vdupq_n_u32((uint32_t)visible)),
                     vcgeq_u32(position, vdupq_n_u32((uint32_t)from)));
}

/* Scales the sums of q*k in s, makes them e[p] and +0 where p is not visible. */
static void exponentials(float s[PAGE], size_t from, size_t visible, mlxd_score score, float *max,
                         float *sum) {
    float32x4_t v[PAGE / 4], lanes[4];
    float scale = score.scale;
    if (score.softcap > 0) {
        mlxd_vector_scale(scale, PAGE, s);
        mlxd_softcap_neon(s, PAGE, score.softcap);
        scale = 1;
    }
    MLXD_UNROLL
    for (int i = 0; i < PAGE / 4; i++)
        v[i] = vmulq_n_f32(vld1q_f32(s + 4 * i), scale);
    const float32x4_t first = vdupq_n_f32(s[from] * scale);
    float32x4_t top = first;
    MLXD_UNROLL
    for (int i = 0; i < PAGE / 4; i++)
        top = vmaxq_f32(top, vbslq_f32(seen(4 * (size_t)i, from, visible), v[i], first));
    *max = vmaxvq_f32(top) + 0.0f; /* a zero is +0 */
    MLXD_UNROLL
    for (int i = 0; i < PAGE / 4; i++) {
        float32x4_t e = mlxd_neon_exp(vsubq_f32(v[i], vdupq_n_f32(*max)));
        uint32x4_t mask = seen(4 * (size_t)i, from, visible);
        e = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(e), mask));
        vst1q_f32(s + 4 * i, e);
        lanes[i % 4] = i < 4 ? e : vaddq_f32(lanes[i % 4], e);
    }
    float lane[MLXD_LANES];
    MLXD_UNROLL
    for (int i = 0; i < 4; i++)
        vst1q_f32(lane + 4 * i, lanes[i]);
    *sum = mlxd_lanes_sum(lane);
}

/* ---- one page ---- */

/* The partials of up to BLOCK queries; what part[j].out points to is the caller's. */
static void partials(mlxd_query *part, const mlxd_query *query, size_t queries, halves k, halves v,
                     mlxd_score score) {
    float s[BLOCK][PAGE] = {{0}};
    const float *q[BLOCK] = {NULL}, *e[BLOCK] = {NULL};
    float *scores[BLOCK] = {NULL}, *out[BLOCK] = {NULL};
    size_t all = PAGE; /* positions that every query sees */
    for (size_t j = 0; j < queries; j++) {
        MLXD_ASSERT(query[j].visible >= 1 && query[j].visible <= PAGE);
        MLXD_ASSERT(query[j].from < query[j].visible);
        q[j] = query[j].q;
        e[j] = scores[j] = s[j];
        out[j] = part[j].out;
        all = MLXD_MIN(all, (size_t)query[j].visible);
        for (size_t d = 0; d < v.width; d++)
            out[j][d] = 0;
    }
    multiply_block(queries, k, 0, v.width, q, scores);
    for (size_t j = 0; j < queries; j++)
        exponentials(s[j], query[j].from, query[j].visible, score, &part[j].max, &part[j].sum);
    multiply_block(queries, v, 0, all, e, out);
    for (size_t j = 0; j < queries; j++)
        if (query[j].visible > all)
            multiply_block(1, v, all, query[j].visible, &e[j], &out[j]);
}

void mlxd_attention_page_neon(mlxd_query *query, size_t n, const uint16_t *k_page,
                              const uint16_t *v_page, size_t head_dim, mlxd_score score,
                              bool first) {
    MLXD_ASSERT(head_dim <= MLXD_LIMIT_HEAD_DIM);
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t queries = MLXD_MIN(n - i, (size_t)BLOCK);
        float out[BLOCK][MLXD_LIMIT_HEAD_DIM];
        mlxd_query part[BLOCK];
        for (size_t j = 0; j < queries; j++)
            part[j] = (mlxd_query){.out = first ? query[i + j].out : out[j]};
        partials(part, query + i, queries, (halves){k_page, PAGE}, (halves){v_page, head_dim},
                 score);
        for (size_t j = 0; j < queries; j++)
            if (first) {
                query[i + j].max = part[j].max;
                query[i + j].sum = part[j].sum;
            } else {
                mlxd_attention_merge_neon(&query[i + j], &part[j], head_dim);
            }
    }
}

void mlxd_attention_merge_neon(mlxd_query *into, const mlxd_query *from, size_t head_dim) {
    float m = (into->max > from->max ? into->max : from->max) + 0.0f;
    float a = mlxd_exp_f32(into->max - m);
    float b = mlxd_exp_f32(from->max - m);
    into->sum = fmaf(into->sum, a, from->sum * b);
    size_t d = 0;
    for (; d + 4 <= head_dim; d += 4) {
        float32x4_t other = vmulq_n_f32(vld1q_f32(from->out + d), b);
        vst1q_f32(into->out + d, vfmaq_n_f32(other, vld1q_f32(into->out + d), a));
    }
    for (; d < head_dim; d++)
        into->out[d] = fmaf(into->out[d], a, from->out[d] * b);
    into->max = m;
}

void mlxd_attention_finish_neon(mlxd_query *query, size_t head_dim) {
    const float32x4_t sum = vdupq_n_f32(query->sum);
    size_t d = 0;
    for (; d + 4 <= head_dim; d += 4)
        vst1q_f32(query->out + d, vdivq_f32(vld1q_f32(query->out + d), sum));
    for (; d < head_dim; d++)
        query->out[d] = query->out[d] / query->sum;
}
#endif
