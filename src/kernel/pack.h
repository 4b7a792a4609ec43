/* pack.h - from the layouts of model files to panels (format.h). Values are moved, never computed
 * with: what a file means by its bytes is what a panel means by its own. (MXFP8 is the exception.)
 *
 * GGUF: rows one after the other, each of blocks, all little-endian. Blocks of 32 columns, where
 * "nibbles" are 16 bytes: byte i holds column i in its low and column 16+i in its high nibble:
 *   Q4_0    f16 d, nibbles
 *   Q4_1    f16 d, f16 m, nibbles
 *   Q5_0    f16 d, u32 with bit i = bit 4 of column i, nibbles
 *   Q5_1    f16 d, f16 m, the same
 *   Q8_0    f16 d, 32 int8; stored as q = value + 128, so that it is symmetric like the others
 *   IQ4_NL  f16 d, nibbles: indices of mlxd_books
 *   MXFP4   u8 e, nibbles: FP4 (E2M1), times 2^(e-127)
 *   F32, F16, BF16  as they are
 * of 64 columns:
 *   NVFP4   4 E4M3 scales without sign, one for 16 columns (0x7f means 0), and 8 bytes of FP4 for
 *           each: byte i holds column i in its low and column 8+i in its high nibble
 * of 256 columns, in eight groups of 32 (s, t: integers; w = D*s*(q - zero), or D*s*q - M*t):
 *   Q2_K    16 bytes (s low nibble, t high) for 16 columns each; 64 bytes; f16 D, f16 M
 *   Q3_K    32 bytes: bit g of byte i is bit 2 of column i of group g; 64 bytes; 12 bytes:
 *           16 s + 32 of 6 bits; f16 D
 *   Q4_K    f16 D, f16 M, 12 bytes: 8 pairs s, t of 6 bits; 128 bytes
 *   Q5_K    f16 D, f16 M, 12 bytes: the same; 32 bytes: bit g of byte i is bit 4 of column i of
 *           group g; 128 bytes
 *   Q6_K    128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 int8 s, f16 D
 *   IQ4_XS  f16 D, 6 bytes: 8 s + 32 of 6 bits; eight times nibbles as in IQ4_NL
 *
 * A scale that is not finite makes the weights and then the products that it belongs to NaN or
 * infinite, so that a step fails where that is checked. E8M0's 255 is infinity.
 *
 * MLX, affine: three arrays. Weights: each row one bit stream in little-endian u32 words, column i
 * in bits [i*bits, (i+1)*bits). Scales and biases: [rows][cols / group], w = scale * q + bias.
 *
 * MLX, the other modes: two arrays, and Hugging Face's gpt-oss has them too (blocks, scales).
 *   mxfp4   FP4, column 2*i in the low nibble of byte i; an E8M0 scale for 32 columns
 *   nvfp4   the same; an E4M3 scale (signed, 0x7f is NaN) for 16. With a global scale G, one number
 *           for the matrix, a scale means scale * G / (448 * 6); the panels then have f32 scales
 *           instead of f16, which makes a weight 6 bits instead of 5
 *   mxfp8   E4M3 bytes (0x7f is NaN), an E8M0 scale for 32 columns. They become BF16, which holds
 *           each exactly, except that products below 2^-133 round to multiples of it and those from
 *           2^128 on become infinite: scales of 2^-124 and less, or 2^120 and more.
 *           (int8 cannot hold E4M3, and 448 is beyond f16 for most scales.)
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
    MLXD_WEIGHT_Q2_K,
    MLXD_WEIGHT_Q3_K,
    MLXD_WEIGHT_Q4_K,
    MLXD_WEIGHT_Q5_K,
    MLXD_WEIGHT_Q6_K,
    MLXD_WEIGHT_IQ4_NL,
    MLXD_WEIGHT_IQ4_XS,
    MLXD_WEIGHT_MXFP4,
    MLXD_WEIGHT_NVFP4,
    MLXD_WEIGHT_TYPE_COUNT
} mlxd_weight_type;

/* The packed format of a GGUF type. */
mlxd_format mlxd_weight_format(mlxd_weight_type type);
/* Columns of a GGUF block: 1, 32, 64 or 256. */
size_t mlxd_weight_block_cols(mlxd_weight_type type);
/* Bytes of one row as GGUF stores it; cols must be a multiple of the block's. */
size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols);
/* Packs panel `panel` (rows 16*panel ...) of a matrix whose rows lie one after the other in GGUF's
 * layout at `src` (any alignment) into `dst`, mlxd_format_panel_bytes. */
void mlxd_pack_gguf(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                    size_t panel, uint8_t *dst);

/* An affine MLX matrix as its file stores it; any alignment. */
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

typedef enum mlxd_mx_mode {
    MLXD_MX_MXFP4,
    MLXD_MX_MXFP8,
    MLXD_MX_NVFP4,
    MLXD_MX_MODE_COUNT
} mlxd_mx_mode;

/* A matrix of small floats as its file stores it: q [rows][cols * bits / 8], scales
 * [rows][cols / group]; any alignment. */
typedef struct mlxd_mx {
    mlxd_mx_mode mode;
    size_t rows, cols; /* cols: a multiple of 32, also where a group is 16 */
    const uint8_t *q, *scales;
    float global; /* nvfp4: G; 0: there is none */
} mlxd_mx;

/* Bits of an element: 4 or 8. Columns with one scale: 32 or 16. */
unsigned mlxd_mx_bits(mlxd_mx_mode mode);
unsigned mlxd_mx_group(mlxd_mx_mode mode);
mlxd_format mlxd_mx_format(const mlxd_mx *m);
/* Packs rows 16*panel ... into `dst`. */
void mlxd_pack_mx(const mlxd_mx *m, size_t panel, uint8_t *dst);

#endif
