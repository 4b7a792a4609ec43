/* attention.h - attention of query heads over one page of 64 positions of the KV cache.
 *
 * K pages are stored dimension-major, f16 [head_dim][64]: SIMD runs across positions and each score
 * is a plain ascending sum over d. V pages are position-major, f16 [64][head_dim]: SIMD runs across
 * dimensions and each output element is an ascending sum over positions. Partials of the pages are
 * merged in ascending page order by whoever merges, so it does not matter which thread made them.
 * The first page's partial is the start of the merge. A NaN anywhere that counts makes the output
 * NaN (through e and sum; `max` itself may hide it).
 *
 * A sliding window hides the first positions of a page. They are multiplied with e = +0, so what
 * lies there must be finite; pages that are hidden altogether are not given to the kernels.
 */
#ifndef MLXD_KERNEL_ATTENTION_H
#define MLXD_KERNEL_ATTENTION_H

#include "base/base.h"

#define MLXD_PAGE 64 /* positions of a KV page = one attention chunk = one prefix-cache block */

/* One query head of one token, with what it has gathered so far. */
typedef struct mlxd_query {
    const float *q; /* [head_dim] */
    float *out;     /* [head_dim], not yet divided by sum */
    float max, sum;
    uint32_t visible; /* of the page it sees positions from ... visible-1: 1..64 */
    uint32_t from;    /* below `visible`; 0 without a window */
} mlxd_query;

/* What becomes of q.k. */
typedef struct mlxd_score {
    float scale;
    float softcap; /* 0: none */
} mlxd_score;

typedef struct mlxd_attention_kernels {
    /* n query heads that share the K and V of a page. For each, its partial of the page:
     *   s[p] = (d ascending: acc = fma(q[d], widen(k[d][p]), acc)) * scale
     *   with a softcap > 0: s[p] = softcap(s[p]) as in vector.h
     *   max = largest s[p] over from <= p < visible, +0 when that is a zero
     *   e[p] = exp(s[p] - max), but +0 for p < from
     *   sum = 16-lane sum of e[p] over p < visible (missing lanes are +0)
     *   out[d]: p ascending from 0: acc = fma(e[p], widen(v[p][d]), acc), from +0
     * which `first` stores, and otherwise merges into what is there. Positions from `visible` on
     * may hold anything; they are read but do not count. */
    void (*page)(mlxd_query *query, size_t n, const uint16_t *k_page, const uint16_t *v_page,
                 size_t head_dim, mlxd_score score, bool first);
    /* Folds the partial (max, sum, out) of later pages into `into`:
     *   m = larger of max and max2, +0 when zero; a = exp(max - m); b = exp(max2 - m)
     *   sum = fma(sum, a, sum2 * b); out[d] = fma(out[d], a, out2[d] * b); max = m */
    void (*merge)(mlxd_query *into, const mlxd_query *from, size_t head_dim);
    /* out[d] = out[d] / sum */
    void (*finish)(mlxd_query *query, size_t head_dim);
} mlxd_attention_kernels;

#endif
