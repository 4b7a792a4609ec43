/* attention.h - attention of one query head over one page of 64 positions of the KV cache.
 *
 * K pages are stored dimension-major, f16 [head_dim][64]: SIMD runs across positions and each score
 * is a plain ascending sum over d. V pages are position-major, f16 [64][head_dim]: SIMD runs across
 * dimensions and each output element is an ascending sum over positions. Partials of the pages are
 * merged in ascending page order by whoever merges, so it does not matter which thread made them.
 * The first page's partial is the start of the merge. A NaN anywhere that counts makes the output
 * NaN (through e and sum; `max` itself may hide it).
 */
#ifndef MLXD_KERNEL_ATTENTION_H
#define MLXD_KERNEL_ATTENTION_H

#include "base/base.h"

#define MLXD_PAGE 64 /* positions of a KV page = one attention chunk = one prefix-cache block */

typedef struct mlxd_attention_kernels {
    /* q f32 [head_dim]; k_page, v_page as above; `count` = visible positions, 1..64.
     *   s[p] = (d ascending: acc = fma(q[d], widen(k[d][p]), acc)) * scale
     *   max = largest s[p], +0 when that is a zero;  e[p] = exp(s[p] - max)
     *   sum = 16-lane sum of e[p] over p < count (missing lanes are +0)
     *   out[d]: p ascending: acc = fma(e[p], widen(v[p][d]), acc), from 0
     * Positions from `count` on may hold anything; they are read but do not count. */
    void (*page)(const float *q, const uint16_t *k_page, const uint16_t *v_page, size_t head_dim,
                 size_t count, float scale, float *max, float *sum, float *out);
    /* Folds the next page's partial (max2, sum2, out2) into (max, sum, out):
     *   m = larger of max and max2, +0 when zero; a = exp(max - m); b = exp(max2 - m)
     *   sum = fma(sum, a, sum2 * b); out[d] = fma(out[d], a, out2[d] * b); max = m */
    void (*merge)(float *max, float *sum, float *out, float max2, float sum2, const float *out2,
                  size_t head_dim);
    /* out[d] = out[d] / sum */
    void (*finish)(float *out, float sum, size_t head_dim);
} mlxd_attention_kernels;

#endif
