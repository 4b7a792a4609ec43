/* pack.c - see pack.h.
 *
 * GGUF's nibbles pair columns 16 apart, as panels do, so types that are bytes in a block of 32 move
 * four bytes at a time (Q8_0 with the sign bit turned). The others are taken apart to single values
 * and put together again, group by group: pack_nested.c has those of 256 columns.
 */
#include "kernel/pack.h"
#include "kernel/scalar/pack_nested.h"
#include "kernel/scalar/planes.h"
#include "kernel/vector.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP

/* A GGUF block: scales, then `high` bytes of fifth bits, then `low` bytes. */
typedef struct block {
    mlxd_format format;
    uint16_t cols, bytes;
    uint8_t low, high;
} block;

#define F16 MLXD_FLOAT_F16

static const block blocks[MLXD_WEIGHT_TYPE_COUNT] = {
    [MLXD_WEIGHT_F32] = {{MLXD_KIND_FLOAT, 0, MLXD_FLOAT_F32}, 1, 4, 0, 0},
    [MLXD_WEIGHT_F16] = {{MLXD_KIND_FLOAT, 0, F16}, 1, 2, 0, 0},
    [MLXD_WEIGHT_BF16] = {{MLXD_KIND_FLOAT, 0, MLXD_FLOAT_BF16}, 1, 2, 0, 0},
    [MLXD_WEIGHT_Q4_0] = {{MLXD_KIND_SYMMETRIC_4, 1, F16}, 32, 18, 16, 0},
    [MLXD_WEIGHT_Q4_1] = {{MLXD_KIND_AFFINE_4, 1, F16}, 32, 20, 16, 0},
    [MLXD_WEIGHT_Q5_0] = {{MLXD_KIND_SYMMETRIC_5, 1, F16}, 32, 22, 16, 4},
    [MLXD_WEIGHT_Q5_1] = {{MLXD_KIND_AFFINE_5, 1, F16}, 32, 24, 16, 4},
    [MLXD_WEIGHT_Q8_0] = {{MLXD_KIND_SYMMETRIC_8, 1, F16}, 32, 34, 32, 0},
    [MLXD_WEIGHT_Q2_K] = {{MLXD_KIND_NESTED_2, 8, F16}, 256, 84, 0, 0},
    [MLXD_WEIGHT_Q3_K] = {{MLXD_KIND_NESTED_3, 8, F16}, 256, 110, 0, 0},
    [MLXD_WEIGHT_Q4_K] = {{MLXD_KIND_NESTED_4, 8, F16}, 256, 144, 0, 0},
    [MLXD_WEIGHT_Q5_K] = {{MLXD_KIND_NESTED_5, 8, F16}, 256, 176, 0, 0},
    [MLXD_WEIGHT_Q6_K] = {{MLXD_KIND_NESTED_6, 8, F16}, 256, 210, 0, 0},
    [MLXD_WEIGHT_IQ4_NL] = {{MLXD_KIND_BOOK_IQ4, 1, F16}, 32, 18, 16, 0},
    [MLXD_WEIGHT_IQ4_XS] = {{MLXD_KIND_NESTED_IQ4, 8, F16}, 256, 136, 0, 0},
    [MLXD_WEIGHT_MXFP4] = {{MLXD_KIND_BOOK_FP4, 1, MLXD_FLOAT_E8M0}, 32, 17, 16, 0},
    [MLXD_WEIGHT_NVFP4] = {{MLXD_KIND_HALVES_FP4, 1, F16}, 64, 36, 0, 0},
};

static const block *block_of(mlxd_weight_type type) {
    MLXD_ASSERT((unsigned)type < MLXD_WEIGHT_TYPE_COUNT);
    return &blocks[type];
}

mlxd_format mlxd_weight_format(mlxd_weight_type type) {
    return block_of(type)->format;
}

size_t mlxd_weight_block_cols(mlxd_weight_type type) {
    return block_of(type)->cols;
}

size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols) {
    const block *b = block_of(type);
    MLXD_ASSERT(cols % b->cols == 0);
    return cols / b->cols * b->bytes;
}

/* One row of a float matrix: column after column, 16 rows apart. */
static void pack_float_row(size_t bytes, size_t cols, const uint8_t *from, uint8_t *to) {
    for (size_t c = 0; c < cols; c++)
        memcpy(to + c * ROWS * bytes, from + c * bytes, bytes);
}

/* The payload of one row of a group whose bytes stay together in fours. */
static void pack_quads(size_t bytes, uint32_t flip, const uint8_t *from, uint8_t *to) {
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t quad;
        memcpy(&quad, from + i, 4);
        quad ^= flip;
        memcpy(to + i * ROWS, &quad, 4);
    }
}

/* Five bits: the low four as above, bit 4 of column i from bit i of `high`. */
static void pack_fifth(const uint8_t *high, uint8_t *to) {
    for (size_t c = 0; c < GROUP; c++) /* quad c/4 is bit c/4 of the byte */
        to[c % 4] |= (uint8_t)((high[c / 8] >> (c % 8) & 1) << (c / 4));
}

/* Row r of a block of one group. */
static void pack_group(const block *b, const uint8_t *from, size_t r, uint8_t *to) {
    const uint32_t flip = b->low == 32 ? 0x80808080u : 0;
    size_t one = mlxd_float_bytes(b->format.type), head = (size_t)b->bytes - b->high - b->low;
    uint8_t *scales = to + mlxd_kind_payload_bytes(b->format.kind) + one * r;
    for (size_t s = 0; s < head; s += one)
        memcpy(scales + s * ROWS, from + s, one);
    from += head;
    pack_quads(b->low, flip, from + b->high, to + 4 * r);
    if (b->high) {
        uint8_t *plane = to + 16 * ROWS + 4 * r;
        memset(plane, 0, 4);
        pack_fifth(from, plane);
    }
}

/* ---- NVFP4's scales ---- */

/* An E4M3 number, sign included; its exponent has a bias of 7. */
static float widen_e4m3(uint8_t code) {
    int exponent = code >> 3 & 15, mantissa = code & 7;
    float v = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    if ((code & 0x7f) == 0x7f)
        v = NAN;
    return code & 0x80 ? -v : v;
}

/* Half of it (mlxd_books has FP4 doubled) as the 16 bits of an f16: exact. */
static uint16_t half_of_e4m3(uint8_t code) {
    return mlxd_f32_to_f16(0.5f * widen_e4m3(code));
}

/* One row of a GGUF block of NVFP4: two groups, of two halves each. */
static void unpack_nvfp4(const uint8_t *from, size_t g, uint8_t q[GROUP], uint16_t d[2]) {
    for (size_t h = 0; h < 2; h++) {
        const uint8_t *bytes = from + 4 + 8 * (2 * g + h);
        uint8_t code = from[2 * g + h] & 0x7f;
        d[h] = half_of_e4m3(code == 0x7f ? 0 : code);
        for (size_t i = 0; i < 8; i++) {
            q[16 * h + i] = bytes[i] & 15;
            q[16 * h + 8 + i] = bytes[i] >> 4;
        }
    }
}

/* Rows at `from`, `row_bytes` apart, of two groups. */
static void pack_nvfp4(const uint8_t *from, size_t row_bytes, size_t count, uint8_t *to) {
    const mlxd_format f = blocks[MLXD_WEIGHT_NVFP4].format;
    uint8_t q[ROWS][GROUP] = {{0}};
    for (size_t g = 0; g < 2; g++, to += mlxd_format_block_bytes(f)) {
        uint8_t *scales = to + mlxd_kind_payload_bytes(f.kind);
        memset(scales, 0, 4 * ROWS);
        for (size_t r = 0; r < count; r++) {
            uint16_t d[2];
            unpack_nvfp4(from + r * row_bytes, g, q[r], d);
            memcpy(scales + 2 * r, &d[0], 2);
            memcpy(scales + 2 * (ROWS + r), &d[1], 2);
        }
        mlxd_planes_put(4, q, to);
    }
}

void mlxd_pack_gguf(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                    size_t panel, uint8_t *dst) {
    const block *b = block_of(type);
    size_t row_bytes = mlxd_weight_row_bytes(type, cols), first = panel * ROWS;
    MLXD_ASSERT(first < rows);
    size_t count = MLXD_MIN(rows - first, (size_t)ROWS);
    size_t step = mlxd_format_panel_bytes(b->format, b->cols); /* a block of all rows */
    if (count < ROWS)
        memset(dst, 0, mlxd_format_panel_bytes(b->format, cols));
    src += first * row_bytes;
    if (b->cols == GROUP) { /* row by row, as the file lies */
        for (size_t r = 0; r < count; r++)
            for (size_t i = 0; i < cols / GROUP; i++)
                pack_group(b, src + r * row_bytes + i * b->bytes, r, dst + i * step);
        return;
    }
    if (b->cols == 1) {
        for (size_t r = 0; r < count; r++)
            pack_float_row(b->bytes, cols, src + r * row_bytes, dst + r * b->bytes);
        return;
    }
    for (size_t i = 0; i < cols / b->cols; i++, src += b->bytes, dst += step)
        if (type == MLXD_WEIGHT_NVFP4)
            pack_nvfp4(src, row_bytes, count, dst);
        else
            mlxd_pack_nested(type, src, row_bytes, count, dst);
}

/* ---- MLX, affine ---- */

mlxd_format mlxd_affine_format(const mlxd_affine *a) {
    static const mlxd_kind kinds[9] = {
        [2] = MLXD_KIND_AFFINE_2, [3] = MLXD_KIND_AFFINE_3, [4] = MLXD_KIND_AFFINE_4,
        [5] = MLXD_KIND_AFFINE_5, [6] = MLXD_KIND_AFFINE_6, [8] = MLXD_KIND_AFFINE_8,
    };
    MLXD_ASSERT(a->group == 32 || a->group == 64 || a->group == 128);
    MLXD_ASSERT(a->bits < MLXD_COUNT_OF(kinds) && kinds[a->bits] != MLXD_KIND_FLOAT);
    return (mlxd_format){kinds[a->bits], (uint8_t)(a->group / GROUP), a->type};
}

/* 32 values of a bit stream that begins at p: 4 * bits bytes. */
static void unpack_bits(unsigned bits, const uint8_t *p, uint8_t q[GROUP]) {
    uint64_t hold = 0;
    unsigned have = 0;
    for (size_t i = 0; i < GROUP; i++) {
        for (; have < bits; have += 8)
            hold |= (uint64_t)*p++ << have;
        q[i] = (uint8_t)(hold & ((1u << bits) - 1));
        hold >>= bits;
        have -= bits;
    }
}

void mlxd_pack_affine(const mlxd_affine *a, size_t panel, uint8_t *dst) {
    mlxd_format f = mlxd_affine_format(a);
    size_t first = panel * ROWS, one = mlxd_float_bytes(a->type), blocks_n = a->cols / a->group;
    MLXD_ASSERT(first < a->rows && a->cols % a->group == 0);
    size_t count = MLXD_MIN(a->rows - first, (size_t)ROWS);
    size_t row_bytes = a->cols * a->bits / 8, payload = mlxd_kind_payload_bytes(f.kind);
    uint8_t q[ROWS][GROUP] = {{0}};
    for (size_t i = 0; i < blocks_n; i++, dst += mlxd_format_block_bytes(f)) {
        uint8_t *scales = dst + f.share * payload, *biases = scales + ROWS * one;
        for (size_t g = 0; g < f.share; g++) {
            size_t at = (i * f.share + g) * 4 * a->bits;
            for (size_t r = 0; r < count; r++)
                unpack_bits(a->bits, a->q + (first + r) * row_bytes + at, q[r]);
            mlxd_planes_put(a->bits, q, dst + g * payload);
        }
        memset(scales, 0, 2 * ROWS * one);
        for (size_t r = 0; r < count; r++) {
            size_t at = ((first + r) * blocks_n + i) * one;
            memcpy(scales + r * one, a->scales + at, one);
            memcpy(biases + r * one, a->biases + at, one);
        }
    }
}

/* ---- MLX, small floats ---- */

unsigned mlxd_mx_bits(mlxd_mx_mode mode) {
    return mode == MLXD_MX_MXFP8 ? 8 : 4;
}

unsigned mlxd_mx_group(mlxd_mx_mode mode) {
    return mode == MLXD_MX_NVFP4 ? 16 : 32;
}

mlxd_format mlxd_mx_format(const mlxd_mx *m) {
    if (m->mode == MLXD_MX_MXFP4)
        return (mlxd_format){MLXD_KIND_BOOK_FP4, 1, MLXD_FLOAT_E8M0};
    if (m->mode == MLXD_MX_MXFP8)
        return (mlxd_format){MLXD_KIND_FLOAT, 0, MLXD_FLOAT_BF16};
    return (mlxd_format){MLXD_KIND_HALVES_FP4, 1, m->global != 0 ? MLXD_FLOAT_F32 : F16};
}

/* To nearest, ties to even; NaN stays. */
static uint16_t bf16_of(float v) {
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* 32 columns of a row of mxfp8 from column c on. */
static void pack_mxfp8(const uint8_t *q, uint8_t e, size_t r, uint8_t *to) {
    float d; /* half the scale */
    mlxd_widen(MLXD_FLOAT_E8M0, &e, 1, &d);
    for (size_t i = 0; i < GROUP; i++) {
        uint16_t h = bf16_of(widen_e4m3(q[i]) * d * 2);
        memcpy(to + (i * ROWS + r) * sizeof h, &h, sizeof h);
    }
}

/* Scale i of a row of nvfp4, halved, to `to`. */
static void pack_e4m3(const mlxd_mx *m, uint8_t code, uint8_t *to) {
    uint16_t h = half_of_e4m3(code);
    float d = widen_e4m3(code) * (m->global / 2688) * 0.5f;
    if (m->global != 0)
        memcpy(to, &d, sizeof d);
    else
        memcpy(to, &h, sizeof h);
}

/* The scales of row r of group g. */
static void pack_mx_scales(const mlxd_mx *m, const uint8_t *from, size_t r, uint8_t *to) {
    size_t one = mlxd_float_bytes(mlxd_mx_format(m).type);
    if (m->mode == MLXD_MX_MXFP4) {
        to[r] = *from;
        return;
    }
    pack_e4m3(m, from[0], to + r * one);
    pack_e4m3(m, from[1], to + (ROWS + r) * one);
}

void mlxd_pack_mx(const mlxd_mx *m, size_t panel, uint8_t *dst) {
    mlxd_format f = mlxd_mx_format(m);
    size_t first = panel * ROWS, step = mlxd_format_panel_bytes(f, GROUP);
    MLXD_ASSERT(first < m->rows && m->cols % GROUP == 0);
    size_t count = MLXD_MIN(m->rows - first, (size_t)ROWS), group_bytes = GROUP / 8;
    size_t row_bytes = m->cols / 8 * mlxd_mx_bits(m->mode),
           per_group = GROUP / mlxd_mx_group(m->mode);
    group_bytes *= mlxd_mx_bits(m->mode);
    uint8_t q[ROWS][GROUP] = {{0}};
    for (size_t g = 0; g < m->cols / GROUP; g++, dst += step) {
        memset(dst, 0, step);
        for (size_t r = 0; r < count; r++) {
            const uint8_t *from = m->q + (first + r) * row_bytes + g * group_bytes;
            const uint8_t *scale = m->scales + ((first + r) * (m->cols / GROUP) + g) * per_group;
            if (m->mode == MLXD_MX_MXFP8) {
                pack_mxfp8(from, *scale, r, dst);
                continue;
            }
            unpack_bits(4, from, q[r]);
            pack_mx_scales(m, scale, r, dst + mlxd_kind_payload_bytes(f.kind));
        }
        if (m->mode != MLXD_MX_MXFP8)
            mlxd_planes_put(4, q, dst);
    }
}
