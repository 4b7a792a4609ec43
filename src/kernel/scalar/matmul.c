/* matmul.c - the definition of the quantized and the float product (see matmul.h).
 *
 * Written to be read, and so that a compiler vectorises what costs: the weights of one group are
 * widened to int16 once for a tile of tokens, and each dot product is a plain sum over 32 columns,
 * which is multiply-and-add-pairs on every CPU. The sums over groups stay in order: `acc` holds one
 * accumulator per output element of the tile while the groups go by.
 */
#include "kernel/tables.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TOKENS 16 /* tile: tokens that share one unpacking of the weights */

/* ---- activations to int8 ---- */

/* The bits of |x|: as integers they are ordered like the values, infinity and NaN on top. */
static uint32_t magnitude(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x7fffffffu;
}

/* Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. */
static int32_t round_to_int(float x) {
    float shifted = x + 0x1.8p23f;
    int32_t u;
    memcpy(&u, &shifted, sizeof u);
    return u - 0x4b400000;
}

static float quantize_group(const float *x, int8_t *q, float *sum) {
    uint32_t top = 0;
    for (size_t i = 0; i < GROUP; i++)
        top = MLXD_MAX(top, magnitude(x[i]));
    float amax;
    memcpy(&amax, &top, sizeof amax);
    if (top >= 0x7f800000u || amax < 0x1p-100f) {
        memset(q, 0, GROUP);
        *sum = 0;
        return top >= 0x7f800000u ? NAN : 0.0f;
    }
    float inverse = 127.0f / amax;
    int32_t total = 0;
    for (size_t i = 0; i < GROUP; i++) {
        int32_t v = round_to_int(x[i] * inverse);
        q[i] = (int8_t)v;
        total += v;
    }
    *sum = (float)total;
    return amax / 127.0f;
}

void mlxd_quantize_scalar(const float *x, size_t k, int8_t *q, float *scale, float *sum) {
    MLXD_ASSERT(k % GROUP == 0);
    for (size_t g = 0; g < k / GROUP; g++)
        scale[g] = quantize_group(x + g * GROUP, q + g * GROUP, &sum[g]);
}

/* ---- quantized weights ---- */

/* One group of a panel, widened: q' of matmul.h, and per row d and m. */
typedef struct group {
    int16_t q[ROWS][GROUP];
    float d[ROWS], m[ROWS];
} group;

static void unpack_nibbles(const uint8_t *p, int zero, int16_t q[ROWS][GROUP]) {
    for (size_t r = 0; r < ROWS; r++)
        for (size_t j = 0; j < 4; j++)
            for (size_t b = 0; b < 4; b++) {
                uint8_t v = p[4 * ROWS * j + 4 * r + b];
                q[r][4 * j + b] = (int16_t)((v & 15) - zero);
                q[r][16 + 4 * j + b] = (int16_t)((v >> 4) - zero);
            }
}

static void unpack_bytes(const uint8_t *p, int16_t q[ROWS][GROUP]) {
    for (size_t r = 0; r < ROWS; r++)
        for (size_t j = 0; j < 8; j++)
            for (size_t b = 0; b < 4; b++)
                q[r][4 * j + b] = (int8_t)p[4 * ROWS * j + 4 * r + b];
}

static void widen_f16(const uint8_t *p, float out[ROWS]) {
    uint16_t h[ROWS];
    memcpy(h, p, sizeof h);
    for (size_t r = 0; r < ROWS; r++)
        out[r] = mlxd_f16_to_f32(h[r]);
}

/* Reads the group at p; returns where the next one starts. */
static const uint8_t *unpack(mlxd_weight_type type, const uint8_t *p, group *out) {
    size_t payload = type == MLXD_WEIGHT_Q8_0 ? 32 * ROWS : 16 * ROWS;
    if (type == MLXD_WEIGHT_Q8_0)
        unpack_bytes(p, out->q);
    else
        unpack_nibbles(p, type == MLXD_WEIGHT_Q4_0 ? 8 : 0, out->q);
    p += payload;
    widen_f16(p, out->d);
    p += 2 * ROWS;
    if (type != MLXD_WEIGHT_Q4_1)
        return p;
    widen_f16(p, out->m);
    return p + 2 * ROWS;
}

static int32_t dot(const int16_t w[GROUP], const int16_t a[GROUP]) {
    int32_t sum = 0;
    for (size_t i = 0; i < GROUP; i++)
        sum += w[i] * a[i];
    return sum;
}

/* acc[t][r] of one panel and tokens t0 ... t0+tokens-1. */
static void panel_quantized(const mlxd_matrix *w, const mlxd_activations *a, const uint8_t *p,
                            size_t t0, size_t tokens, float acc[TOKENS][ROWS]) {
    size_t groups = w->cols / GROUP;
    group panel;
    for (size_t g = 0; g < groups; g++) {
        p = unpack(w->type, p, &panel);
        for (size_t t = 0; t < tokens; t++) {
            const int8_t *q = a->q + (t0 + t) * a->k + g * GROUP;
            float scale = a->scale[(t0 + t) * groups + g];
            float offset = scale * a->sum[(t0 + t) * groups + g];
            int16_t x[GROUP];
            for (size_t i = 0; i < GROUP; i++)
                x[i] = q[i];
            for (size_t r = 0; r < ROWS; r++) {
                float isum = (float)dot(panel.q[r], x);
                acc[t][r] = fmaf(panel.d[r] * scale, isum, acc[t][r]);
                if (w->type == MLXD_WEIGHT_Q4_1)
                    acc[t][r] = fmaf(panel.m[r], offset, acc[t][r]);
            }
        }
    }
}

/* ---- float weights ---- */

/* The 16 weights of one column. */
static void widen_column(mlxd_weight_type type, const uint8_t *p, float out[ROWS]) {
    if (type == MLXD_WEIGHT_F32) {
        memcpy(out, p, ROWS * sizeof(float));
    } else if (type == MLXD_WEIGHT_F16) {
        widen_f16(p, out);
    } else {
        uint16_t h[ROWS];
        memcpy(h, p, sizeof h);
        for (size_t r = 0; r < ROWS; r++)
            out[r] = mlxd_bf16_to_f32(h[r]);
    }
}

static void panel_float(const mlxd_matrix *w, const mlxd_activations *a, const uint8_t *p,
                        size_t t0, size_t tokens, float acc[TOKENS][ROWS]) {
    size_t column_bytes = mlxd_weight_panel_bytes(w->type, 1);
    float column[ROWS];
    for (size_t k = 0; k < w->cols; k++, p += column_bytes) {
        widen_column(w->type, p, column);
        for (size_t t = 0; t < tokens; t++) {
            float x = a->x[(t0 + t) * a->k + k];
            for (size_t r = 0; r < ROWS; r++)
                acc[t][r] = fmaf(column[r], x, acc[t][r]);
        }
    }
}

/* ---- the product ---- */

void mlxd_product_scalar(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                         size_t panel1, float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    size_t panel_bytes = mlxd_weight_panel_bytes(w->type, w->cols);
    bool quantized = mlxd_weight_is_quantized(w->type);
    for (size_t panel = panel0; panel < panel1; panel++) {
        const uint8_t *p = w->data + panel * panel_bytes;
        size_t rows = MLXD_MIN(w->rows - panel * ROWS, (size_t)ROWS);
        for (size_t t0 = 0; t0 < a->n; t0 += TOKENS) {
            size_t tokens = MLXD_MIN(a->n - t0, (size_t)TOKENS);
            float acc[TOKENS][ROWS] = {{0}};
            if (quantized)
                panel_quantized(w, a, p, t0, tokens, acc);
            else
                panel_float(w, a, p, t0, tokens, acc);
            for (size_t t = 0; t < tokens; t++)
                memcpy(y + (t0 + t) * ldy + panel * ROWS, acc[t], rows * sizeof(float));
        }
    }
}
