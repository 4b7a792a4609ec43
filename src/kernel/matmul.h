/* matmul.h - products of weight matrices with activations.
 *
 * Per output element y = W[r] . x, W in the panels of format.h:
 *
 *   float weights:  acc = 0; for k ascending: acc = fma(widen(w[k]), x[k], acc)
 *   quantized:      x is quantized per 32 columns; for groups g ascending, and their parts
 *                   (format.h: all 32 columns, or the first 16 and then the last 16):
 *                     isum = sum of (q - zero) * a, exact in int32, zero = 2^(bits-1) or, affine, 0
 *                     acc = fma(d * scale[g], (float)isum, acc)
 *                     affine then: acc = fma(m, scale[g] * (float)asum, acc)
 *                   d and m in f32 (exact), d * scale and scale * asum rounded; asum = sum of the
 *                   part's a. acc starts at +0.
 *
 * Quantized activations lie in tiles of up to 16 tokens, group by group, so that a tile's group is
 * contiguous: an A operand of a matrix unit as it is. n tokens make ceil(n/16) tiles; tile i holds
 * h = min(16, n - 16*i) tokens and, for group g and token t of the tile,
 *
 *     q      32 bytes at q + 16*i*k + (g*h + t)*32
 *     scale, offset, sums    at [16*i*(k/32) + g*h + t]
 */
#ifndef MLXD_KERNEL_MATMUL_H
#define MLXD_KERNEL_MATMUL_H

#include "kernel/format.h"

#define MLXD_TILE 16 /* tokens of a tile */

typedef struct mlxd_quants {
    int8_t *q;     /* within [-127, 127] */
    float *scale;  /* a = scale * q */
    float *offset; /* scale * asum of all 32, rounded once */
    int32_t *sums; /* two int16: asum of the first 16 in the lower half, of the last 16 above it */
} mlxd_quants;

/* asum of the first or the last 16 columns. (A sum over unsigned q starts from -zero times asum to
 * be one over q - zero; an instruction that multiplies int16 in pairs makes that of `sums`.) */
static inline int32_t mlxd_quants_asum(int32_t sums, size_t half) {
    return (int16_t)(uint16_t)((uint32_t)sums >> 16 * half);
}

static inline int32_t mlxd_quants_pair(int32_t first, int32_t last) {
    return (int32_t)((uint32_t)first & 0xffff) | (int32_t)((uint32_t)last << 16);
}

/* The same, `tokens` tokens further on; a group is as many as its tile has. */
static inline mlxd_quants mlxd_quants_skip(mlxd_quants z, size_t tokens) {
    return (mlxd_quants){z.q + tokens * MLXD_GROUP, z.scale + tokens, z.offset + tokens,
                         z.sums + tokens};
}

/* Where token t of n keeps its first group; *stride: groups are that many tokens apart. */
static inline mlxd_quants mlxd_quants_row(mlxd_quants z, size_t n, size_t k, size_t t,
                                          size_t *stride) {
    size_t first = t / MLXD_TILE * MLXD_TILE, groups = k / MLXD_GROUP;
    *stride = MLXD_MIN(n - first, (size_t)MLXD_TILE);
    return mlxd_quants_skip(z, first * groups + (t - first));
}

/* Activations of n tokens x k columns. Float weights use x, quantized ones z. */
typedef struct mlxd_activations {
    const float *x; /* [n][k] */
    mlxd_quants z;
    size_t n, k;
} mlxd_activations;

/* The tokens from t on, `n` of them; t is a multiple of MLXD_TILE, and n too unless they are the
 * last ones. */
static inline mlxd_activations mlxd_activations_part(const mlxd_activations *a, size_t t,
                                                     size_t n) {
    mlxd_activations part = {a->x ? a->x + t * a->k : NULL, a->z, n, a->k};
    if (a->z.q)
        part.z = mlxd_quants_skip(a->z, t * (a->k / MLXD_GROUP));
    return part;
}

typedef struct mlxd_matmul_kernels {
    /* One row of k values (k a multiple of 32), per group: amax = max |x|; when amax < 2^-100:
     * scale = 0 and q = 0; otherwise scale = amax / 127, q = rne(x * (127 / amax)), which is
     * within [-127, 127]. A group with a NaN or an infinity gets q = 0 and scale = offset = NaN, so
     * every product with it is NaN and the step fails where that is checked. Group g goes to z.q +
     * g*stride*32, z.scale + g*stride and so on. */
    void (*quantize)(const float *x, size_t k, mlxd_quants z, size_t stride);
    /* y[t*ldy + r - 16*panel0] = W[r] . x[t] for all tokens t < a->n and the rows r of panels
     * [panel0, panel1); with `add` it is added: y = y + acc. Rows beyond w->rows are not written.
     * Threads split panels and token tiles. w->cols == a->k. */
    void (*product)(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0, size_t panel1,
                    bool add, float *y, size_t ldy);
} mlxd_matmul_kernels;

#endif
