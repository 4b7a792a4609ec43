/* product.h - the product with quantized weights as all tables of arm64 do it; they differ in how
 * the integers of a group are multiplied, which is a parameter (mlxd_arm_dot).
 *
 * A register holds four of a panel's sixteen rows ("a quarter"), four columns ("a quad") each: one
 * 16-byte piece of a payload vector, format.h draws them. For each group of 32 columns
 *
 *     for each quarter:  unpack its eight quads to int8                         8 registers
 *                        sum[t] = its rows times token t, exact in int32        1 register a token
 *                        acc[t] = fma(d * scale[t], (float)sum[t], acc[t])
 *                        affine: acc[t] = fma(m, offset[t], acc[t])
 *
 * the last three once for the first four quads and once for the others where halves of a group have
 * their own scales.
 *
 * What is multiplied is q as it lies, which as int8 is right up to 6 bits, and q - zero for 8 bits
 * and for what a book has looked up; the difference to what the format means is the same for all q
 * of a matrix, so the sum starts from that difference times the sum of activations, which quantize
 * left in `sums`. All of it is below 2^24: the conversion to f32 is exact.
 *
 * Unpacking is paid once for all tokens of a tile, and d * scale and the conversion once per token,
 * quarter and group, so tiles are 8, 4, 2 or 1 tokens. A single token (decode) is bound by memory:
 * it takes two panels at once, so that two streams are read and twice as many chains are in flight,
 * and asks for what comes AHEAD. The accumulators of one and two tokens stay in registers; those of
 * more go to the stack and back once a group, which load and store units do beside the products.
 */
#ifndef MLXD_KERNEL_ARM_PRODUCT_H
#define MLXD_KERNEL_ARM_PRODUCT_H

#include "kernel/arm/neon.h"
#include "kernel/tables.h"

#define MLXD_ARM_QUADS (MLXD_GROUP / 4)
#define MLXD_ARM_TOKENS 8   /* of a tile, at most */
#define MLXD_ARM_OPERANDS 8 /* registers of a token's activations of a group, at most */
#define MLXD_ARM_AHEAD 2048 /* bytes that are prefetched ahead */

/* How a table multiplies; each function is inlined with all of its ints constant. */
typedef struct mlxd_arm_dot {
    /* One group's activations of all tokens, 32 bytes each from a on, into x, arranged as
     * `multiply` wants them. */
    void (*load)(const int tokens, const int8_t *a, int8x16_t *x);
    /* sum[t] += four rows, w[j] being their quad j, times token t, for the quads [from, to): all
     * eight or four of them. The sums come with one value in all lanes and leave with row r's in
     * lane r. `bits` bounds |w|: 2^bits - 1, or 128 for 8. */
    void (*multiply)(const int bits, const int from, const int to, const int tokens,
                     const int8x16_t *w, const int8x16_t *x, int32x4_t *sum);
} mlxd_arm_dot;

/* ---- a quarter's integers ---- */

/* Intrinsics want the count of a shift, or the number of a lane, as a literal. */
MLXD_INLINE uint8x16_t mlxd_arm_shift_right(uint8x16_t v, const int count) {
    switch (count) {
    case 1:
        return vshrq_n_u8(v, 1);
    case 2:
        return vshrq_n_u8(v, 2);
    case 3:
        return vshrq_n_u8(v, 3);
    case 4:
        return vshrq_n_u8(v, 4);
    case 5:
        return vshrq_n_u8(v, 5);
    case 6:
        return vshrq_n_u8(v, 6);
    case 7:
        return vshrq_n_u8(v, 7);
    default:
        return v;
    }
}

/* Where quad j stands in a plane of `width` bits. */
MLXD_INLINE int mlxd_arm_shift_of(const int width, const int j) {
    return width == 4 ? j / 4 * 4 : j * width % 8;
}

/* Quad j from a plane of `width` bits; above it stands what else is in the bytes. */
MLXD_INLINE uint8x16_t mlxd_arm_plane(const int width, const uint8_t *p, const int j) {
    const int vector = width == 4 ? j % 4 : j * width / 8;
    return mlxd_arm_shift_right(vld1q_u8(p + 64 * vector), mlxd_arm_shift_of(width, j));
}

/* Quad j of the quarter whose part of the payload's first vector is at p. */
MLXD_INLINE int8x16_t mlxd_arm_quad(const mlxd_kind kind, const uint8_t *p, const int j) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const int bits = f.stored;
    const int wide = bits == 8 ? 8 : bits >= 4 ? 4 : 2, narrow = bits - wide;
    const int last = narrow ? narrow : wide; /* the plane of the highest bits */
    uint8x16_t q = mlxd_arm_plane(wide, p, j);
    if (bits == 8)
        q = veorq_u8(q, vdupq_n_u8(0x80));
    else if (bits == 3)
        q = vsliq_n_u8(q, mlxd_arm_plane(narrow, p + 64 * wide, j), 2);
    else if (narrow)
        q = vsliq_n_u8(q, mlxd_arm_plane(narrow, p + 64 * wide, j), 4);
    if (mlxd_arm_shift_of(last, j) + last < 8)
        q = vandq_u8(q, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
    if (f.book != MLXD_BOOK_NONE) {
        uint8x16_t zero = vdupq_n_u8((uint8_t)(1 << (f.bits - 1)));
        q = vqtbl1q_u8(vsubq_u8(vld1q_u8(mlxd_books[f.book]), zero), q);
    }
    return vreinterpretq_s8_u8(q);
}

/* What is missing from each integer that is multiplied. */
MLXD_INLINE int mlxd_arm_missing(const mlxd_kind kind) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    if (f.stored == 8)
        return f.affine ? 128 : 0;
    return f.affine || f.book != MLXD_BOOK_NONE ? 0 : -(1 << (f.bits - 1));
}

/* ---- a quarter's scales ---- */

/* What a block has for all its groups: 16 numbers, and 16 more where it is affine (nested: negated)
 * or has plain scales for halves. */
typedef struct mlxd_arm_block {
    mlxd_neon_rows first, second;
    const uint8_t *factors; /* nested: the integers of its first group */
} mlxd_arm_block;

/* p: behind the block's payloads. */
MLXD_INLINE void mlxd_arm_load_block(const mlxd_kind kind, mlxd_float type, const uint8_t *p,
                                     mlxd_arm_block *out) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const size_t next = MLXD_PANEL_ROWS * mlxd_float_bytes(type);
    const bool two = f.affine || (f.halves && !f.nested);
    mlxd_neon_load_rows(type, p, &out->first);
    out->second = out->first;
    if (two)
        mlxd_neon_load_rows(type, p + next, &out->second);
    MLXD_UNROLL
    for (int i = 0; i < 4; i++)
        if (f.affine && f.nested)
            out->second.quarter[i] = vnegq_f32(out->second.quarter[i]);
    out->factors = p + (two ? 2 : 1) * next;
}

/* Scales and offsets of four rows, per part. */
typedef struct mlxd_arm_scales {
    float32x4_t d[2], m[2];
} mlxd_arm_scales;

/* v times the four int8 at p, or their low or high nibbles. */
MLXD_INLINE float32x4_t mlxd_arm_times(float32x4_t v, const uint8_t *p, const int nibble) {
    uint8x8_t s = vreinterpret_u8_u32(vld1_dup_u32((const uint32_t *)(const void *)p));
    if (nibble == 0)
        s = vand_u8(s, vdup_n_u8(15));
    else if (nibble == 4)
        s = vshr_n_u8(s, 4);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(s));
    return vmulq_f32(v, vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))));
}

/* Quarter i of group g. */
MLXD_INLINE mlxd_arm_scales mlxd_arm_scales_of(const mlxd_kind kind, const mlxd_arm_block *block,
                                               size_t g, int i) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    float32x4_t first = block->first.quarter[i], second = block->second.quarter[i];
    mlxd_arm_scales s = {{first, second}, {second, second}};
    if (!f.nested)
        return s;
    const uint8_t *p = block->factors + g * mlxd_kind_factor_bytes(kind) + 4 * i;
    const uint8_t *next = p + MLXD_PANEL_ROWS;
    s.d[0] = mlxd_arm_times(first, p, f.affine && f.halves ? 0 : -1);
    if (f.halves)
        s.d[1] = mlxd_arm_times(first, next, f.affine ? 0 : -1);
    if (f.affine)
        s.m[0] = mlxd_arm_times(second, f.halves ? p : next, f.halves ? 4 : -1);
    if (f.affine && f.halves)
        s.m[1] = mlxd_arm_times(second, next, 4);
    return s;
}

/* ---- tiles ---- */

/* What the tokens of a tile bring to a group. */
typedef struct mlxd_arm_group {
    int8x16_t x[MLXD_ARM_OPERANDS * MLXD_ARM_TOKENS];
    int32x4_t start[2][MLXD_ARM_TOKENS]; /* of the sums of each part */
    float offset[2][MLXD_ARM_TOKENS];
    const float *scale;
} mlxd_arm_group;

MLXD_INLINE void mlxd_arm_load_group(const mlxd_arm_dot dot, const mlxd_kind kind, const int tokens,
                                     mlxd_quants z, mlxd_arm_group *out) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const int missing = mlxd_arm_missing(kind);
    out->scale = z.scale;
    dot.load(tokens, z.q, out->x);
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        int32_t first = mlxd_quants_asum(z.sums[t], 0), last = mlxd_quants_asum(z.sums[t], 1);
        out->start[0][t] = vdupq_n_s32((f.halves ? first : first + last) * missing);
        out->offset[0][t] = z.offset[t];
        if (!f.halves)
            continue;
        out->start[1][t] = vdupq_n_s32(last * missing);
        out->offset[0][t] = z.scale[t] * (float)first;
        out->offset[1][t] = z.scale[t] * (float)last;
    }
}

/* acc[t] += a part of quarter i, whose quads are w. */
MLXD_INLINE void mlxd_arm_add_part(const mlxd_arm_dot dot, const mlxd_kind kind, const int part,
                                   const int tokens, const int8x16_t *w, int i,
                                   const mlxd_arm_scales *s, const mlxd_arm_group *group,
                                   mlxd_neon_rows *acc) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const int quads = f.halves ? MLXD_ARM_QUADS / 2 : MLXD_ARM_QUADS;
    int32x4_t sum[MLXD_ARM_TOKENS];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        sum[t] = group->start[part][t];
    dot.multiply(f.bits, part * quads, part * quads + quads, tokens, w, group->x, sum);
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        float32x4_t factor = vmulq_n_f32(s->d[part], group->scale[t]);
        acc[t].quarter[i] = vfmaq_f32(acc[t].quarter[i], factor, vcvtq_f32_s32(sum[t]));
    }
    if (!f.affine)
        return;
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        acc[t].quarter[i] = vfmaq_n_f32(acc[t].quarter[i], s->m[part], group->offset[part][t]);
}

/* acc[t] += quarter i of group g, whose payload is at p. */
MLXD_INLINE void mlxd_arm_add_quarter(const mlxd_arm_dot dot, const mlxd_kind kind,
                                      const int tokens, const uint8_t *p, size_t g, int i,
                                      const mlxd_arm_block *block, const mlxd_arm_group *group,
                                      mlxd_neon_rows *acc) {
    int8x16_t w[MLXD_ARM_QUADS];
    mlxd_arm_scales s = mlxd_arm_scales_of(kind, block, g, i);
    MLXD_UNROLL
    for (int j = 0; j < MLXD_ARM_QUADS; j++)
        w[j] = mlxd_arm_quad(kind, p + 16 * i, j);
    mlxd_arm_add_part(dot, kind, 0, tokens, w, i, &s, group, acc);
    if (mlxd_kind_facts(kind).halves)
        mlxd_arm_add_part(dot, kind, 1, tokens, w, i, &s, group, acc);
}

/* acc[t] += group g of a block; its payload is at p. */
MLXD_INLINE void mlxd_arm_add_group(const mlxd_arm_dot dot, const mlxd_kind kind, const int tokens,
                                    const uint8_t *p, size_t g, const mlxd_arm_block *block,
                                    mlxd_quants z, mlxd_neon_rows *acc) {
    mlxd_arm_group group;
    mlxd_arm_load_group(dot, kind, tokens, z, &group);
    if (tokens <= 2) { /* all in registers */
        MLXD_UNROLL
        for (int i = 0; i < 4; i++)
            mlxd_arm_add_quarter(dot, kind, tokens, p, g, i, block, &group, acc);
    } else { /* one quarter's worth, or compilers mix them and run out of registers */
        for (int i = 0; i < 4; i++)
            mlxd_arm_add_quarter(dot, kind, tokens, p, g, i, block, &group, acc);
    }
}

/* `panels` panels from p on times `tokens` tokens; one of the two counts is 1. The tokens' groups
 * are `stride` tokens apart. */
MLXD_INLINE void mlxd_arm_run_tile(const mlxd_arm_dot dot, const mlxd_kind kind, const int panels,
                                   const int tokens, const mlxd_matrix *w, const uint8_t *p,
                                   mlxd_quants z, size_t stride, mlxd_neon_rows *out) {
    const mlxd_format f = w->format;
    const size_t payload = mlxd_kind_payload_bytes(kind), scales = f.share * payload;
    const size_t panel_bytes = mlxd_format_panel_bytes(f, w->cols);
    const size_t block_bytes = mlxd_format_block_bytes(f);
    const uint8_t *end = p + panel_bytes;
    mlxd_neon_rows acc[MLXD_ARM_TOKENS];
    mlxd_arm_block block[2];
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++) {
        MLXD_UNROLL
        for (int j = 0; j < 4; j++)
            acc[i].quarter[j] = vdupq_n_f32(0);
    }
    for (; p < end; p += block_bytes) {
        MLXD_UNROLL
        for (int i = 0; i < panels; i++)
            mlxd_arm_load_block(kind, f.type, p + (size_t)i * panel_bytes + scales, &block[i]);
        for (size_t g = 0; g < f.share; g++) {
            MLXD_UNROLL
            for (int i = 0; i < panels; i++) {
                const uint8_t *group = p + (size_t)i * panel_bytes + g * payload;
                if (tokens == 1)
                    mlxd_neon_prefetch(group, MLXD_ARM_AHEAD, payload);
                mlxd_arm_add_group(dot, kind, tokens, group, g, &block[i], z, acc + i * tokens);
            }
            z = mlxd_quants_skip(z, stride);
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        out[i] = acc[i];
}

/* ---- the product ---- */

/* The largest tile that `left` tokens fill; returns its tokens. */
MLXD_INLINE size_t mlxd_arm_run_shape(const mlxd_arm_dot dot, const mlxd_kind kind, size_t panels,
                                      size_t left, const mlxd_matrix *w, const uint8_t *p,
                                      mlxd_quants z, size_t stride, mlxd_neon_rows *out) {
    if (left >= 8) {
        mlxd_arm_run_tile(dot, kind, 1, 8, w, p, z, stride, out);
        return 8;
    }
    if (left >= 4) {
        mlxd_arm_run_tile(dot, kind, 1, 4, w, p, z, stride, out);
        return 4;
    }
    if (left >= 2) {
        mlxd_arm_run_tile(dot, kind, 1, 2, w, p, z, stride, out);
        return 2;
    }
    if (panels == 2)
        mlxd_arm_run_tile(dot, kind, 2, 1, w, p, z, stride, out);
    else
        mlxd_arm_run_tile(dot, kind, 1, 1, w, p, z, stride, out);
    return 1;
}

/* The product for one kind. */
MLXD_INLINE void mlxd_arm_product_kind(const mlxd_arm_dot dot, const mlxd_kind kind,
                                       const mlxd_matrix *w, const mlxd_activations *a,
                                       size_t panel0, size_t panel1, bool add, float *y,
                                       size_t ldy) {
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    for (size_t panel = panel0, panels; panel < panel1; panel += panels) {
        const uint8_t *p = w->data + panel * panel_bytes;
        size_t stride, row = panel * MLXD_PANEL_ROWS;
        panels = a->n == 1 && panel1 - panel >= 2 ? 2 : 1;
        for (size_t t = 0, tokens; t < a->n; t += tokens) {
            mlxd_neon_rows acc[MLXD_ARM_TOKENS];
            mlxd_quants z = mlxd_quants_row(a->z, a->n, a->k, t, &stride);
            tokens =
                mlxd_arm_run_shape(dot, kind, panels, stride - t % MLXD_TILE, w, p, z, stride, acc);
            for (size_t i = 0; i < panels * tokens; i++) {
                size_t r = row + (panels == 2 ? i * MLXD_PANEL_ROWS : 0);
                float *to = y + r - panel0 * MLXD_PANEL_ROWS + (panels == 2 ? 0 : (t + i) * ldy);
                mlxd_neon_store_rows(&acc[i], MLXD_MIN(w->rows - r, (size_t)MLXD_PANEL_ROWS), add,
                                     to);
            }
        }
    }
}

/* The product of a table that multiplies by `dot`. */
MLXD_INLINE void mlxd_arm_product(const mlxd_arm_dot dot, const mlxd_matrix *w,
                                  const mlxd_activations *a, size_t panel0, size_t panel1, bool add,
                                  float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    switch (w->format.kind) {
    case MLXD_KIND_SYMMETRIC_4:
        mlxd_arm_product_kind(dot, MLXD_KIND_SYMMETRIC_4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_SYMMETRIC_5:
        mlxd_arm_product_kind(dot, MLXD_KIND_SYMMETRIC_5, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_SYMMETRIC_8:
        mlxd_arm_product_kind(dot, MLXD_KIND_SYMMETRIC_8, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_2:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_2, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_3:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_3, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_4:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_5:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_5, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_6:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_6, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_AFFINE_8:
        mlxd_arm_product_kind(dot, MLXD_KIND_AFFINE_8, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_BOOK_IQ4:
        mlxd_arm_product_kind(dot, MLXD_KIND_BOOK_IQ4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_BOOK_FP4:
        mlxd_arm_product_kind(dot, MLXD_KIND_BOOK_FP4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_HALVES_FP4:
        mlxd_arm_product_kind(dot, MLXD_KIND_HALVES_FP4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_2:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_2, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_3:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_3, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_4:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_4, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_5:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_5, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_6:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_6, w, a, panel0, panel1, add, y, ldy);
        break;
    case MLXD_KIND_NESTED_IQ4:
        mlxd_arm_product_kind(dot, MLXD_KIND_NESTED_IQ4, w, a, panel0, panel1, add, y, ldy);
        break;
    default:
        mlxd_product_float_neon(w, a, panel0, panel1, add, y, ldy);
    }
}

#endif
