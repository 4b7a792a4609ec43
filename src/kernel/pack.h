/* pack.h - from the layouts of model files to panels (format.h). Values are moved, never computed
 * with: what a file stores is what a panel stores.
 *
 * GGUF: rows one after the other, each of blocks of 32 columns, all little-endian:
 *   Q4_0  f16 d, 16 bytes: byte i holds column i in its low and column 16+i in its high nibble
 *   Q4_1  f16 d, f16 m, 16 bytes as above
 *   Q5_0  f16 d, u32 with bit i = bit 4 of column i, 16 bytes as above
 *   Q5_1  f16 d, f16 m, the same
 *   Q8_0  f16 d, 32 int8; stored as q = value + 128, so that it is symmetric like the others
 *   F32, F16, BF16  as they are
 *
 * MLX: three arrays. Weights: each row one bit stream in little-endian u32 words, column i in bits
 * [i*bits, (i+1)*bits). Scales and biases: [rows][cols / group], w = scale * q + bias.
 */
#ifndef MLXD_KERNEL_PACK_H
#define MLXD_KERNEL_PACK_H

#include "kernel/format.h"

typedef enum mlxd_weight_type {
    MLXD_WEIGHT_F32,
    MLXD_WEIGHT_F16,
    MLXD_WEIGHT_BF16,
    MLXD_WEIGHT_Q4_0,
    MLXD_WEIGHT_Q4_1,
    MLXD_WEIGHT_Q5_0,
    MLXD_WEIGHT_Q5_1,
    MLXD_WEIGHT_Q8_0,
    MLXD_WEIGHT_TYPE_COUNT
} mlxd_weight_type;

/* The packed format of a GGUF type. */
mlxd_format mlxd_weight_format(mlxd_weight_type type);
/* Bytes of one row as GGUF stores it; cols must be a multiple of 32 for quantized types. */
size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols);
/* Packs panel `panel` (rows 16*panel ...) of a matrix whose rows lie one after the other in GGUF's
 * layout at `src` (any alignment) into `dst`, mlxd_format_panel_bytes. */
void mlxd_pack_gguf(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                    size_t panel, uint8_t *dst);

/* An MLX-quantized matrix as its file stores it; any alignment. */
typedef struct mlxd_affine {
    unsigned bits;  /* 2, 3, 4, 5, 6, 8 */
    unsigned group; /* columns with one scale: 32, 64, 128 */
    mlxd_float type;
    size_t rows, cols; /* cols: a multiple of group */
    const uint8_t *q, *scales, *biases;
} mlxd_affine;

mlxd_format mlxd_affine_format(const mlxd_affine *a);
/* Packs rows 16*panel ... into `dst`. */
void mlxd_pack_affine(const mlxd_affine *a, size_t panel, uint8_t *dst);

#endif
