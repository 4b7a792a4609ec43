/* matmul.c - the definition of the quantized and the float product (see matmul.h).
 *
 * Written to be read, and so that a compiler vectorises what costs: the weights of one group are
 * widened to int16 once for a tile of tokens, and each dot product is a plain sum over 32 columns,
 * which is multiply-and-add-pairs on every CPU. The sums over groups stay in order: `acc` holds one
 * accumulator per output element of the tile while the groups go by.
 */
#include "kernel/scalar/group.h"
#include "kernel/tables.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TILE MLXD_TILE

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

static void quantize_group(const float *x, mlxd_quants z) {
    uint32_t top = 0;
    for (size_t i = 0; i < GROUP; i++)
        top = MLXD_MAX(top, magnitude(x[i]));
    float amax;
    memcpy(&amax, &top, sizeof amax);
    if (top >= 0x7f800000u || amax < 0x1p-100f) {
        memset(z.q, 0, GROUP);
        *z.sums = 0;
        *z.scale = *z.offset = top >= 0x7f800000u ? NAN : 0.0f;
        return;
    }
    float inverse = 127.0f / amax;
    int32_t sum[2] = {0};
    for (size_t i = 0; i < GROUP; i++) {
        int32_t v = round_to_int(x[i] * inverse);
        z.q[i] = (int8_t)v;
        sum[i / (GROUP / 2)] += v;
    }
    *z.scale = amax / 127.0f;
    *z.offset = *z.scale * (float)(sum[0] + sum[1]);
    *z.sums = mlxd_quants_pair(sum[0], sum[1]);
}

void mlxd_quantize_scalar(const float *x, size_t k, mlxd_quants z, size_t stride) {
    MLXD_ASSERT(k % GROUP == 0);
    for (size_t g = 0; g < k / GROUP; g++, x += GROUP, z = mlxd_quants_skip(z, stride))
        quantize_group(x, z);
}

/* ---- quantized weights ---- */

static int32_t dot(const int16_t *w, const int16_t *a, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += w[i] * a[i];
    return sum;
}

/* acc[r] of one group and one token, whose activations are x. */
static void add_group(mlxd_facts f, const mlxd_group_row rows[ROWS], const int16_t x[GROUP],
                      float scale, int32_t sums, float acc[ROWS]) {
    size_t parts = f.halves ? 2 : 1, n = GROUP / parts;
    for (size_t i = 0; i < parts; i++) {
        int32_t asum = mlxd_quants_asum(sums, i) + (f.halves ? 0 : mlxd_quants_asum(sums, 1));
        float offset = scale * (float)asum;
        for (size_t r = 0; r < ROWS; r++) {
            float isum = (float)dot(rows[r].q + i * n, x + i * n, n);
            acc[r] = fmaf(rows[r].d[i] * scale, isum, acc[r]);
            if (f.affine)
                acc[r] = fmaf(rows[r].m[i], offset, acc[r]);
        }
    }
}

/* acc[t][r] of one panel and one tile of tokens. */
static void panel_quantized(const mlxd_matrix *w, const mlxd_activations *a, const uint8_t *p,
                            float acc[TILE][ROWS]) {
    mlxd_format f = w->format;
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    mlxd_group_row rows[ROWS];
    int16_t x[GROUP];
    for (size_t g = 0; g < w->cols / GROUP; g++) {
        for (size_t r = 0; r < ROWS; r++)
            mlxd_group_get_row(f, p, g % f.share, r, &rows[r]);
        for (size_t t = 0; t < a->n; t++) {
            size_t at = g * a->n + t;
            for (size_t i = 0; i < GROUP; i++)
                x[i] = a->z.q[at * GROUP + i];
            add_group(facts, rows, x, a->z.scale[at], a->z.sums[at], acc[t]);
        }
        if (g % f.share + 1 == f.share)
            p += mlxd_format_block_bytes(f);
    }
}

/* ---- float weights ---- */

static void panel_float(const mlxd_matrix *w, const mlxd_activations *a, const uint8_t *p,
                        float acc[TILE][ROWS]) {
    float column[ROWS];
    for (size_t k = 0; k < w->cols; k++, p += mlxd_format_block_bytes(w->format)) {
        mlxd_widen(w->format.type, p, ROWS, column);
        for (size_t t = 0; t < a->n; t++)
            for (size_t r = 0; r < ROWS; r++)
                acc[t][r] = fmaf(column[r], a->x[t * a->k + k], acc[t][r]);
    }
}

/* ---- the product ---- */

void mlxd_product_scalar(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                         size_t panel1, bool add, float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    for (size_t panel = panel0; panel < panel1; panel++) {
        const uint8_t *p = w->data + panel * panel_bytes;
        size_t rows = MLXD_MIN(w->rows - panel * ROWS, (size_t)ROWS);
        for (size_t t0 = 0; t0 < a->n; t0 += TILE) {
            mlxd_activations tile = mlxd_activations_part(a, t0, MLXD_MIN(a->n - t0, (size_t)TILE));
            float acc[TILE][ROWS] = {{0}};
            if (mlxd_format_is_quantized(w->format))
                panel_quantized(w, &tile, p, acc);
            else
                panel_float(w, &tile, p, acc);
            for (size_t t = 0; t < tile.n; t++) {
                float *to = y + (t0 + t) * ldy + (panel - panel0) * ROWS;
                for (size_t r = 0; r < rows; r++)
                    to[r] = add ? to[r] + acc[t][r] : acc[t][r];
            }
        }
    }
}
