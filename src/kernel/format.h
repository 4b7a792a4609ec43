/* format.h - how a weight matrix lies in memory once it is loaded: panels of 16 rows.
 *
 * A matrix of `rows` x `cols` (each row makes one output element) is stored as panels of 16 rows,
 * so that SIMD lanes are output rows and no horizontal sum exists. Rows that fill up the last panel
 * are zeros. Panels follow each other; inside a panel the columns ascend, so a product reads its
 * weights once, front to back.
 *
 * Float weights, per column:      16 values, row r at index r                     32 or 64 B
 *
 * Quantized weights, per block of `share` groups of 32 columns:
 *
 *     payload of each group, then 16 scales d, then (affine) 16 offsets m
 *
 * The payload of a group of 16 rows x 32 columns is unsigned integers q of `bits` bits, split into
 * planes of 4, 2 and 1 bits so that a vector of 64 B (or its 32- or 16-byte parts) is used whole.
 * In every plane, byte 4*r+b of a vector belongs to row r; "quad j" are columns 4*j ... 4*j+3,
 * b = 0..3 among them:
 *
 *     8 bits   8 vectors: vector j is quad j
 *     4 bits   4 vectors: vector j holds quad j in the low nibbles, quad j+4 in the high ones
 *     2 bits   2 vectors: vector j holds quad 4*j+i in bits 2*i, 2*i+1 of each byte, i = 0..3
 *     1 bit    1 vector:  quad j in bit j of each byte
 *
 *     q of 3 bits = 2-bit plane + 4 * 1-bit plane; 5 bits = 4-bit plane + 16 * 1-bit plane;
 *          6 bits = 4-bit plane + 16 * 2-bit plane; the wider plane comes first
 *
 *     symmetric: w = d * (q - 2^(bits-1))        affine: w = d * q + m
 *
 * (One layout serves every instruction set: a vector is one operand of AVX-512's vpdpbusd, two of
 * AVX2's, four of NEON's sdot, and a group is a B tile of AMX.)
 */
#ifndef MLXD_KERNEL_FORMAT_H
#define MLXD_KERNEL_FORMAT_H

#include "base/base.h"

#define MLXD_PANEL_ROWS 16
#define MLXD_GROUP 32 /* columns of a group: the unit in which activations are quantized */

typedef enum mlxd_float { MLXD_FLOAT_F16, MLXD_FLOAT_BF16, MLXD_FLOAT_F32 } mlxd_float;

typedef struct mlxd_format {
    uint8_t bits;    /* 2, 3, 4, 5, 6 or 8: quantized; 16 or 32: float */
    uint8_t affine;  /* quantized: has offsets */
    uint8_t share;   /* quantized: groups with one scale, 1, 2 or 4 */
    mlxd_float type; /* of scales and offsets, or of float weights */
} mlxd_format;

/* A packed matrix. `data` is lent: whoever packed it owns it. */
typedef struct mlxd_matrix {
    mlxd_format format;
    size_t rows, cols;   /* cols: a multiple of 32 * share when quantized */
    const uint8_t *data; /* panels, 64-byte aligned */
} mlxd_matrix;

static inline bool mlxd_format_is_quantized(mlxd_format f) {
    return f.bits <= 8;
}

static inline size_t mlxd_float_bytes(mlxd_float type) {
    return type == MLXD_FLOAT_F32 ? 4 : 2;
}

/* Bytes of a group's payload in a panel. */
static inline size_t mlxd_format_payload_bytes(mlxd_format f) {
    return (size_t)64 * f.bits;
}

/* Bytes of a block: `share` groups with their scales; of one column when not quantized. */
static inline size_t mlxd_format_block_bytes(mlxd_format f) {
    size_t floats = MLXD_PANEL_ROWS * mlxd_float_bytes(f.type);
    if (!mlxd_format_is_quantized(f))
        return floats;
    return f.share * mlxd_format_payload_bytes(f) + (f.affine ? 2 : 1) * floats;
}

/* Columns of a block. */
static inline size_t mlxd_format_block_cols(mlxd_format f) {
    return mlxd_format_is_quantized(f) ? (size_t)MLXD_GROUP * f.share : 1;
}

/* Bytes of one panel; cols is a multiple of the block's. */
size_t mlxd_format_panel_bytes(mlxd_format f, size_t cols);
/* Bytes of the whole packed matrix; false on overflow. */
bool mlxd_format_packed_bytes(mlxd_format f, size_t rows, size_t cols, size_t *out) MLXD_MUST_CHECK;
size_t mlxd_matrix_panels(const mlxd_matrix *w);
/* n numbers at p (any alignment), widened exactly. */
void mlxd_widen(mlxd_float type, const uint8_t *p, size_t n, float *out);
/* Row `row` widened to f32: exact for float weights; d * (q - zero), or fma(d, q, m), rounded once
 * for quantized ones. For embeddings. */
void mlxd_matrix_get_row(const mlxd_matrix *w, size_t row, float *out);

#endif
