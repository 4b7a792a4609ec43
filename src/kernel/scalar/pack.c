/* pack.c - see pack.h.
 *
 * GGUF's nibbles pair columns 16 apart, as panels do, so Q4_0 and Q4_1 move four bytes at a time,
 * and Q8_0 too, with the sign bit turned. The others go through single values. */
#include "kernel/pack.h"
#include "kernel/scalar/planes.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP

/* A GGUF block: f16 scales, then `high` bytes of fifth bits, then `low` bytes. */
typedef struct block {
    mlxd_format format;
    size_t low, high;
} block;

static const block blocks[MLXD_WEIGHT_TYPE_COUNT] = {
    [MLXD_WEIGHT_F32] = {{32, 0, 0, MLXD_FLOAT_F32}, 0, 0},
    [MLXD_WEIGHT_F16] = {{16, 0, 0, MLXD_FLOAT_F16}, 0, 0},
    [MLXD_WEIGHT_BF16] = {{16, 0, 0, MLXD_FLOAT_BF16}, 0, 0},
    [MLXD_WEIGHT_Q4_0] = {{4, 0, 1, MLXD_FLOAT_F16}, 16, 0},
    [MLXD_WEIGHT_Q4_1] = {{4, 1, 1, MLXD_FLOAT_F16}, 16, 0},
    [MLXD_WEIGHT_Q5_0] = {{5, 0, 1, MLXD_FLOAT_F16}, 16, 4},
    [MLXD_WEIGHT_Q5_1] = {{5, 1, 1, MLXD_FLOAT_F16}, 16, 4},
    [MLXD_WEIGHT_Q8_0] = {{8, 0, 1, MLXD_FLOAT_F16}, 32, 0},
};

static const block *block_of(mlxd_weight_type type) {
    MLXD_ASSERT((unsigned)type < MLXD_WEIGHT_TYPE_COUNT);
    return &blocks[type];
}

mlxd_format mlxd_weight_format(mlxd_weight_type type) {
    return block_of(type)->format;
}

static size_t scale_bytes(const block *b) {
    return b->format.affine ? 4 : 2;
}

size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols) {
    const block *b = block_of(type);
    if (!mlxd_format_is_quantized(b->format))
        return cols * mlxd_float_bytes(b->format.type);
    MLXD_ASSERT(cols % GROUP == 0);
    return cols / GROUP * (scale_bytes(b) + b->high + b->low);
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

static void pack_group(const block *b, const uint8_t *from, size_t r, uint8_t *to) {
    const uint32_t flip = b->format.bits == 8 ? 0x80808080u : 0;
    size_t payload = mlxd_format_payload_bytes(b->format);
    for (size_t s = 0; s < scale_bytes(b); s += 2)
        memcpy(to + payload + s * ROWS + 2 * r, from + s, 2);
    from += scale_bytes(b);
    pack_quads(b->low, flip, from + b->high, to + 4 * r);
    if (b->high) {
        uint8_t *plane = to + 16 * ROWS + 4 * r;
        memset(plane, 0, 4);
        pack_fifth(from, plane);
    }
}

void mlxd_pack_gguf(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                    size_t panel, uint8_t *dst) {
    const block *b = block_of(type);
    size_t row_bytes = mlxd_weight_row_bytes(type, cols), first = panel * ROWS;
    MLXD_ASSERT(first < rows);
    size_t count = MLXD_MIN(rows - first, (size_t)ROWS);
    if (count < ROWS)
        memset(dst, 0, mlxd_format_panel_bytes(b->format, cols));
    for (size_t r = 0; r < count; r++) {
        const uint8_t *from = src + (first + r) * row_bytes;
        size_t bytes = mlxd_float_bytes(b->format.type);
        if (!mlxd_format_is_quantized(b->format))
            pack_float_row(bytes, cols, from, dst + r * bytes);
        else
            for (size_t g = 0; g < cols / GROUP; g++)
                pack_group(b, from + g * mlxd_weight_row_bytes(type, GROUP), r,
                           dst + g * mlxd_format_block_bytes(b->format));
    }
}

/* ---- MLX ---- */

mlxd_format mlxd_affine_format(const mlxd_affine *a) {
    MLXD_ASSERT(a->group == 32 || a->group == 64 || a->group == 128);
    return (mlxd_format){(uint8_t)a->bits, 1, (uint8_t)(a->group / GROUP), a->type};
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
    size_t row_bytes = a->cols * a->bits / 8, payload = mlxd_format_payload_bytes(f);
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
