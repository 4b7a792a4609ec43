/* attention.c - the definition of attention over one KV page (see attention.h). */
#include "kernel/tables.h"

#include "base/limits.h"
#include "kernel/math.h"
#include "kernel/scalar/lanes.h"

#include <math.h>

#define PAGE MLXD_PAGE

/* A maximum that is zero is +0, so that the order of comparisons cannot show. */
static float larger(float a, float b) {
    return (a > b ? a : b) + 0.0f;
}

/* s[p] for all 64 positions, those that do not count too: the inner loop has a constant length. */
static void scores(const float *q, const uint16_t *k_page, size_t head_dim, mlxd_score score,
                   float s[PAGE]) {
    for (size_t p = 0; p < PAGE; p++)
        s[p] = 0;
    for (size_t d = 0; d < head_dim; d++)
        for (size_t p = 0; p < PAGE; p++)
            s[p] = fmaf(q[d], mlxd_f16_to_f32(k_page[d * PAGE + p]), s[p]);
    for (size_t p = 0; p < PAGE; p++)
        s[p] = s[p] * score.scale;
    if (score.softcap > 0)
        mlxd_softcap_scalar(s, PAGE, score.softcap);
}

/* The partial of one page; `out` is the caller's. */
static void partial(mlxd_query *part, const mlxd_query *query, const uint16_t *k_page,
                    const uint16_t *v_page, size_t head_dim, mlxd_score score) {
    size_t visible = query->visible, from = query->from;
    MLXD_ASSERT(visible >= 1 && visible <= PAGE && from < visible);
    float e[PAGE];
    scores(query->q, k_page, head_dim, score, e);
    float top = e[from];
    for (size_t p = from; p < visible; p++)
        top = larger(top, e[p]);
    float lane[MLXD_LANES] = {0};
    for (size_t p = 0; p < from; p++)
        e[p] = 0;
    for (size_t p = from; p < visible; p++) {
        e[p] = mlxd_exp_f32(e[p] - top);
        lane[p % MLXD_LANES] = lane[p % MLXD_LANES] + e[p];
    }
    for (size_t d = 0; d < head_dim; d++)
        part->out[d] = 0;
    for (size_t p = 0; p < visible; p++)
        for (size_t d = 0; d < head_dim; d++)
            part->out[d] = fmaf(e[p], mlxd_f16_to_f32(v_page[p * head_dim + d]), part->out[d]);
    part->max = top;
    part->sum = mlxd_lanes_sum(lane);
}

void mlxd_attention_page_scalar(mlxd_query *query, size_t n, const uint16_t *k_page,
                                const uint16_t *v_page, size_t head_dim, mlxd_score score,
                                bool first) {
    MLXD_ASSERT(head_dim <= MLXD_LIMIT_HEAD_DIM);
    for (size_t i = 0; i < n; i++) {
        float out[MLXD_LIMIT_HEAD_DIM];
        mlxd_query part = {.out = first ? query[i].out : out};
        partial(&part, &query[i], k_page, v_page, head_dim, score);
        if (first) {
            query[i].max = part.max;
            query[i].sum = part.sum;
        } else {
            mlxd_attention_merge_scalar(&query[i], &part, head_dim);
        }
    }
}

void mlxd_attention_merge_scalar(mlxd_query *into, const mlxd_query *from, size_t head_dim) {
    float m = larger(into->max, from->max);
    float a = mlxd_exp_f32(into->max - m);
    float b = mlxd_exp_f32(from->max - m);
    into->sum = fmaf(into->sum, a, from->sum * b);
    for (size_t d = 0; d < head_dim; d++)
        into->out[d] = fmaf(into->out[d], a, from->out[d] * b);
    into->max = m;
}

void mlxd_attention_finish_scalar(mlxd_query *query, size_t head_dim) {
    for (size_t d = 0; d < head_dim; d++)
        query->out[d] = query->out[d] / query->sum;
}
