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
 *     payload of each group, then the scales
 *
 * The payload of a group of 16 rows x 32 columns is unsigned integers of `stored` bits, split into
 * planes of 4, 2 and 1 bits so that a vector of 64 B (or its 32- or 16-byte parts) is used whole.
 * In every plane, byte 4*r+b of a vector belongs to row r; "quad j" are columns 4*j ... 4*j+3,
 * b = 0..3 among them:
 *
 *     8 bits   8 vectors: vector j is quad j
 *     4 bits   4 vectors: vector j holds quad j in the low nibbles, quad j+4 in the high ones
 *     2 bits   2 vectors: vector j holds quad 4*j+i in bits 2*i, 2*i+1 of each byte, i = 0..3
 *     1 bit    1 vector:  quad j in bit j of each byte
 *
 *     3 bits = 2-bit plane + 4 * 1-bit plane; 5 bits = 4-bit plane + 16 * 1-bit plane;
 *     6 bits = 4-bit plane + 16 * 2-bit plane; the wider plane comes first
 *
 * What is stored is q, of `bits` bits, or with a book the index of q in one of mlxd_books; a book
 * has its values moved up so that q is unsigned and its zero is where a symmetric q has it:
 *
 *     symmetric: w = d * (q - 2^(bits-1))        affine: w = d * q + m
 *
 * d and m belong to a row and to the 32 columns of a group, or (`halves`) to its first or last 16;
 * below, "per part" means once per group, or for halves once for each half. How they lie:
 *
 *     plain   16 d [per part], then (affine) 16 m: numbers of `type`, for all groups of the block
 *
 *     nested  16 f16 D, then (affine) 16 f16 M: for all 8 groups of the block. Then per group what
 *             they are multiplied with, integers: 16 int8 s [per part], then (affine) 16 int8 t;
 *             or, affine with halves, per half 16 bytes: s in the low nibble, t in the high one.
 *             d = D * s and m = -M * t, both exact in f32
 *
 * Nested scales stay nested, since reading weights is what limits decoding: as f32 they would make
 * a weight of Q4_K 6 bits instead of 4.6. Their integers are bytes, which costs Q4_K, Q5_K, Q3_K
 * and IQ4_XS 1.5 to 4 % of what the file has. NVFP4's E4M3 scales become f16 for lack of a quick
 * way to widen them.
 *
 * (One layout serves every instruction set: a vector is one operand of AVX-512's vpdpbusd, two of
 * AVX2's, four of NEON's sdot, and a group is a B tile of AMX.)
 */
#ifndef MLXD_KERNEL_FORMAT_H
#define MLXD_KERNEL_FORMAT_H

#include "base/base.h"

#define MLXD_PANEL_ROWS 16
#define MLXD_GROUP 32 /* columns of a group: the unit in which activations are quantized */

/* MLXD_FLOAT_E8M0 is a byte e that stands for 2^(e-128), or infinity when it is 255: half of what
 * model files mean by it, because mlxd_books has FP4 doubled. */
typedef enum mlxd_float {
    MLXD_FLOAT_F16,
    MLXD_FLOAT_BF16,
    MLXD_FLOAT_F32,
    MLXD_FLOAT_E8M0
} mlxd_float;

/* What there are loops for. */
typedef enum mlxd_kind {
    MLXD_KIND_FLOAT,       /* not quantized */
    MLXD_KIND_SYMMETRIC_4, /* Q4_0 */
    MLXD_KIND_SYMMETRIC_5, /* Q5_0 */
    MLXD_KIND_SYMMETRIC_8, /* Q8_0 */
    MLXD_KIND_AFFINE_2,    /* MLX */
    MLXD_KIND_AFFINE_3,    /* MLX */
    MLXD_KIND_AFFINE_4,    /* Q4_1, MLX */
    MLXD_KIND_AFFINE_5,    /* Q5_1, MLX */
    MLXD_KIND_AFFINE_6,    /* MLX */
    MLXD_KIND_AFFINE_8,    /* MLX */
    MLXD_KIND_BOOK_IQ4,    /* IQ4_NL */
    MLXD_KIND_BOOK_FP4,    /* MXFP4 */
    MLXD_KIND_HALVES_FP4,  /* NVFP4 */
    MLXD_KIND_NESTED_2,    /* Q2_K */
    MLXD_KIND_NESTED_3,    /* Q3_K */
    MLXD_KIND_NESTED_4,    /* Q4_K */
    MLXD_KIND_NESTED_5,    /* Q5_K */
    MLXD_KIND_NESTED_6,    /* Q6_K */
    MLXD_KIND_NESTED_IQ4,  /* IQ4_XS */
    MLXD_KIND_COUNT
} mlxd_kind;

typedef enum mlxd_book { MLXD_BOOK_NONE, MLXD_BOOK_IQ4, MLXD_BOOK_FP4, MLXD_BOOK_COUNT } mlxd_book;

/* q by index, with its zero at 128 (IQ4, the numbers of GGUF's IQ4_NL) and at 16 (FP4, doubled). */
extern const uint8_t mlxd_books[MLXD_BOOK_COUNT][16];

/* What is the same for all matrices of a kind. */
typedef struct mlxd_facts {
    uint8_t stored; /* bits of a number in the payload */
    uint8_t bits;   /* bits of q */
    bool affine;    /* has m */
    bool halves;    /* a part is 16 columns, not 32 */
    bool nested;
    mlxd_book book;
} mlxd_facts;

typedef struct mlxd_format {
    mlxd_kind kind;
    uint8_t share;   /* quantized: groups of a block: 1, 2 or 4, nested 8 */
    mlxd_float type; /* of scales (nested: F16), or of float weights */
} mlxd_format;

/* A packed matrix. `data` is lent: whoever packed it owns it. */
typedef struct mlxd_matrix {
    mlxd_format format;
    size_t rows, cols;   /* cols: a multiple of 32 * share when quantized */
    const uint8_t *data; /* panels, 64-byte aligned */
} mlxd_matrix;

/* Inline, so that it is a constant where `kind` is one. */
static inline mlxd_facts mlxd_kind_facts(mlxd_kind kind) {
    static const mlxd_facts facts[MLXD_KIND_COUNT] = {
        [MLXD_KIND_SYMMETRIC_4] = {4, 4, false, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_SYMMETRIC_5] = {5, 5, false, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_SYMMETRIC_8] = {8, 8, false, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_2] = {2, 2, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_3] = {3, 3, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_4] = {4, 4, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_5] = {5, 5, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_6] = {6, 6, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_AFFINE_8] = {8, 8, true, false, false, MLXD_BOOK_NONE},
        [MLXD_KIND_BOOK_IQ4] = {4, 8, false, false, false, MLXD_BOOK_IQ4},
        [MLXD_KIND_BOOK_FP4] = {4, 5, false, false, false, MLXD_BOOK_FP4},
        [MLXD_KIND_HALVES_FP4] = {4, 5, false, true, false, MLXD_BOOK_FP4},
        [MLXD_KIND_NESTED_2] = {2, 2, true, true, true, MLXD_BOOK_NONE},
        [MLXD_KIND_NESTED_3] = {3, 3, false, true, true, MLXD_BOOK_NONE},
        [MLXD_KIND_NESTED_4] = {4, 4, true, false, true, MLXD_BOOK_NONE},
        [MLXD_KIND_NESTED_5] = {5, 5, true, false, true, MLXD_BOOK_NONE},
        [MLXD_KIND_NESTED_6] = {6, 6, false, true, true, MLXD_BOOK_NONE},
        [MLXD_KIND_NESTED_IQ4] = {4, 8, false, false, true, MLXD_BOOK_IQ4},
    };
    return facts[kind];
}

static inline bool mlxd_format_is_quantized(mlxd_format f) {
    return f.kind != MLXD_KIND_FLOAT;
}

static inline size_t mlxd_float_bytes(mlxd_float type) {
    return type == MLXD_FLOAT_F32 ? 4 : type == MLXD_FLOAT_E8M0 ? 1 : 2;
}

/* Bytes of a group's payload in a panel. */
static inline size_t mlxd_kind_payload_bytes(mlxd_kind kind) {
    return (size_t)64 * mlxd_kind_facts(kind).stored;
}

/* Nested scales: bytes of a group's integers. */
static inline size_t mlxd_kind_factor_bytes(mlxd_kind kind) {
    mlxd_facts f = mlxd_kind_facts(kind);
    return MLXD_PANEL_ROWS * (f.affine || f.halves ? 2 : 1);
}

/* Bytes of a block: `share` groups with their scales; of one column when not quantized. */
static inline size_t mlxd_format_block_bytes(mlxd_format f) {
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    size_t floats = MLXD_PANEL_ROWS * mlxd_float_bytes(f.type);
    if (!mlxd_format_is_quantized(f))
        return floats;
    size_t payload = f.share * mlxd_kind_payload_bytes(f.kind);
    if (facts.nested)
        return payload + (facts.affine ? 2 : 1) * floats + f.share * mlxd_kind_factor_bytes(f.kind);
    return payload + (facts.affine || facts.halves ? 2 : 1) * floats;
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
