/* attention.c - the definition of attention over one KV page (see attention.h). */
#include "kernel/tables.h"

#include "kernel/math.h"
#include "kernel/scalar/lanes.h"

#include <math.h>

#define PAGE MLXD_PAGE

/* A maximum that is zero is +0, so that the order of comparisons cannot show. */
static float larger(float a, float b) {
    return (a > b ? a : b) + 0.0f;
}

/* s[p] for all 64 positions, those that do not count too: the inner loop has a constant length. */
static void scores(const float *q, const uint16_t *k_page, size_t head_dim, float scale,
                   float s[PAGE]) {
    for (size_t p = 0; p < PAGE; p++)
        s[p] = 0;
    for (size_t d = 0; d < head_dim; d++)
        for (size_t p = 0; p < PAGE; p++)
            s[p] = fmaf(q[d], mlxd_f16_to_f32(k_page[d * PAGE + p]), s[p]);
    for (size_t p = 0; p < PAGE; p++)
        s[p] = s[p] * scale;
}

void mlxd_attention_page_scalar(const float *q, const uint16_t *k_page, const uint16_t *v_page,
                                size_t head_dim, size_t count, float scale, float *max, float *sum,
                                float *out) {
    MLXD_ASSERT(count >= 1 && count <= PAGE);
    float e[PAGE];
    scores(q, k_page, head_dim, scale, e);
    float top = e[0];
    for (size_t p = 0; p < count; p++)
        top = larger(top, e[p]);
    float lane[MLXD_LANES] = {0};
    for (size_t p = 0; p < count; p++) {
        e[p] = mlxd_exp_f32(e[p] - top);
        lane[p % MLXD_LANES] = lane[p % MLXD_LANES] + e[p];
    }
    for (size_t d = 0; d < head_dim; d++)
        out[d] = 0;
    for (size_t p = 0; p < count; p++)
        for (size_t d = 0; d < head_dim; d++)
            out[d] = fmaf(e[p], mlxd_f16_to_f32(v_page[p * head_dim + d]), out[d]);
    *max = top;
    *sum = mlxd_lanes_sum(lane);
}

void mlxd_attention_merge_scalar(float *max, float *sum, float *out, float max2, float sum2,
                                 const float *out2, size_t head_dim) {
    float m = larger(*max, max2);
    float a = mlxd_exp_f32(*max - m);
    float b = mlxd_exp_f32(max2 - m);
    *sum = fmaf(*sum, a, sum2 * b);
    for (size_t d = 0; d < head_dim; d++)
        out[d] = fmaf(out[d], a, out2[d] * b);
    *max = m;
}

void mlxd_attention_finish_scalar(float *out, float sum, size_t head_dim) {
    for (size_t d = 0; d < head_dim; d++)
        out[d] = out[d] / sum;
}
