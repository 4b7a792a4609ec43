/* matmul.h - weight matrices in row-interleaved panels, and their products with activations.
 *
 * A matrix of `rows` x `cols` (each row produces one output element) is stored as panels of 16
 * rows, so that SIMD lanes are output rows and no horizontal sum exists. Rows beyond the last one
 * of the matrix are zero. Inside a panel, per group of 32 columns (quantized) or per column:
 *
 *   Q4_0  256 B quads: vector j = 0..3 of 64 B; byte 4*r+b holds in its low nibble column 4*j+b and
 *         in its high nibble column 16+4*j+b of row r (values 0..15); then 16 f16 scales d.
 *         w = d*(q-8)                                                              288 B per group
 *   Q4_1  the same 256 B; then 16 f16 scales d, 16 f16 offsets m.  w = d*q + m      320 B
 *   Q8_0  512 B: vector j = 0..7 of 64 B; byte 4*r+b is column 4*j+b of row r (int8);
 *         then 16 f16 scales d.                                    w = d*q          544 B
 *   F16, BF16, F32  per column 16 values, row r at index r                          32 / 64 B
 *
 * (Within GGUF's own blocks of 32 the low nibbles are columns 0..15 and the high ones 16..31, so a
 * quad of low nibbles and the quad 16 columns later share bytes there as well as here.)
 *
 * The product, per output element y = W[r] . x:
 *   float weights:  acc = 0; for k ascending: acc = fma(widen(w[k]), x[k], acc)
 *   quantized:      x is first quantized per 32 columns (see mlxd_matmul_kernels.quantize);
 *                   for groups g ascending: isum = sum of q'[k]*a[k] exact in int32, where q' = q-8
 *                   (Q4_0) or q; acc = fma(d*scale[g], (float)isum, acc), and for Q4_1 then
 *                   acc = fma(m, scale[g]*sum[g], acc). d, m widened from f16; d*scale and
 *                   scale*sum rounded to f32. acc starts at +0.
 */
#ifndef MLXD_KERNEL_MATMUL_H
#define MLXD_KERNEL_MATMUL_H

#include "base/base.h"

#define MLXD_PANEL_ROWS 16
#define MLXD_GROUP 32 /* columns per quantization group */

typedef enum mlxd_weight_type {
    MLXD_WEIGHT_F32,
    MLXD_WEIGHT_F16,
    MLXD_WEIGHT_BF16,
    MLXD_WEIGHT_Q4_0,
    MLXD_WEIGHT_Q4_1,
    MLXD_WEIGHT_Q8_0,
    MLXD_WEIGHT_TYPE_COUNT
} mlxd_weight_type;

/* A packed matrix. `data` is lent: whoever packed it owns it. */
typedef struct mlxd_matrix {
    mlxd_weight_type type;
    size_t rows, cols;
    const uint8_t *data; /* panels, 64-byte aligned */
} mlxd_matrix;

bool mlxd_weight_is_quantized(mlxd_weight_type type);
/* Bytes of one row as GGUF stores it; cols must be a multiple of 32 for quantized types. */
size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols);
/* Bytes of one packed panel of 16 rows. */
size_t mlxd_weight_panel_bytes(mlxd_weight_type type, size_t cols);
/* Bytes of the whole packed matrix; false on overflow. */
bool mlxd_weight_packed_bytes(mlxd_weight_type type, size_t rows, size_t cols,
                              size_t *out) MLXD_MUST_CHECK;
/* Packs panel `panel` (rows 16*panel ...) of a matrix whose rows lie one after the other in GGUF's
 * layout at `src` (any alignment) into `dst`, mlxd_weight_panel_bytes. In a packed matrix panel p
 * starts at p times that many bytes. */
void mlxd_weight_pack_panel(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                            size_t panel, uint8_t *dst);
/* Row `row` widened to f32: exact, except one rounding in Q4_1 (fma(d, q, m)). For embeddings. */
void mlxd_matrix_get_row(const mlxd_matrix *w, size_t row, float *out);

/* Activations of n rows (tokens) x k columns. */
typedef struct mlxd_activations {
    const float *x;     /* [n][k] */
    const int8_t *q;    /* [n][k]; only for quantized weights */
    const float *scale; /* [n][k/32] */
    const float *sum;   /* [n][k/32]: sum of the group's q, an integer, exact in f32 */
    size_t n, k;
} mlxd_activations;

typedef struct mlxd_matmul_kernels {
    /* One row of k values (k a multiple of 32), per group: amax = max |x|; when amax < 2^-100:
     * scale = 0 and q = 0; otherwise scale = amax / 127, q = rne(x * (127 / amax)), which is
     * within [-127, 127]. sum = sum of q. A group with a NaN or an infinity gets q = 0 and
     * scale = NaN, so every product with it is NaN and the step fails where that is checked. */
    void (*quantize)(const float *x, size_t k, int8_t *q, float *scale, float *sum);
    /* y[t*ldy + r] for all tokens t < a->n and the rows r of panels [panel0, panel1). Rows beyond
     * w->rows are not written. Threads split panels. w->cols == a->k; quantized weights use only
     * a->q, scale and sum, the others only a->x. Expects a->q within [-127, 127]. */
    void (*product)(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0, size_t panel1,
                    float *y, size_t ldy);
} mlxd_matmul_kernels;

#endif
