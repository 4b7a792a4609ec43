/* weights.c - sizes of weight types, packing into panels of 16 rows, and reading one row back.
 *
 * GGUF's blocks of 32 columns, all little-endian:
 *   Q4_0  f16 d, 16 bytes: byte i holds column i in its low and column 16+i in its high nibble
 *   Q4_1  f16 d, f16 m, 16 bytes as above
 *   Q8_0  f16 d, 32 int8
 * A panel keeps the same bytes, four at a time: four bytes of row 0, four of row 1, ... row 15,
 * then the next four; behind them the 16 d, then the 16 m (see matmul.h). Float weights are blocks
 * of one column. So packing moves bytes and computes nothing.
 */
#include "kernel/matmul.h"
#include "kernel/vector.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS

/* One block: so many columns, f16 scales in front, then payload bytes moved in units. */
typedef struct layout {
    size_t cols, scales, payload, unit;
} layout;

static const layout layouts[MLXD_WEIGHT_TYPE_COUNT] = {
    [MLXD_WEIGHT_F32] = {1, 0, 4, 4},    [MLXD_WEIGHT_F16] = {1, 0, 2, 2},
    [MLXD_WEIGHT_BF16] = {1, 0, 2, 2},   [MLXD_WEIGHT_Q4_0] = {32, 1, 16, 4},
    [MLXD_WEIGHT_Q4_1] = {32, 2, 16, 4}, [MLXD_WEIGHT_Q8_0] = {32, 1, 32, 4},
};

static const layout *layout_of(mlxd_weight_type type) {
    MLXD_ASSERT((unsigned)type < MLXD_WEIGHT_TYPE_COUNT);
    return &layouts[type];
}

static size_t block_bytes(const layout *l) {
    return 2 * l->scales + l->payload;
}

bool mlxd_weight_is_quantized(mlxd_weight_type type) {
    return layout_of(type)->scales > 0;
}

size_t mlxd_weight_row_bytes(mlxd_weight_type type, size_t cols) {
    const layout *l = layout_of(type);
    MLXD_ASSERT(cols % l->cols == 0);
    return cols / l->cols * block_bytes(l);
}

size_t mlxd_weight_panel_bytes(mlxd_weight_type type, size_t cols) {
    return ROWS * mlxd_weight_row_bytes(type, cols);
}

bool mlxd_weight_packed_bytes(mlxd_weight_type type, size_t rows, size_t cols, size_t *out) {
    const layout *l = layout_of(type);
    MLXD_ASSERT(cols % l->cols == 0);
    size_t padded, panel;
    if (!mlxd_add_size(rows, ROWS - 1, &padded) ||
        !mlxd_mul_size(cols / l->cols, ROWS * block_bytes(l), &panel))
        return false;
    return mlxd_mul_size(padded / ROWS, panel, out);
}

void mlxd_weight_pack_panel(mlxd_weight_type type, size_t rows, size_t cols, const uint8_t *src,
                            size_t panel, uint8_t *dst) {
    const layout *l = layout_of(type);
    size_t row_bytes = mlxd_weight_row_bytes(type, cols);
    size_t first = panel * ROWS;
    MLXD_ASSERT(first < rows);
    size_t count = MLXD_MIN(rows - first, (size_t)ROWS);
    if (count < ROWS)
        memset(dst, 0, mlxd_weight_panel_bytes(type, cols));
    for (size_t r = 0; r < count; r++) {
        const uint8_t *from = src + (first + r) * row_bytes;
        uint8_t *to = dst;
        for (size_t c = 0; c < cols; c += l->cols) {
            const uint8_t *payload = from + 2 * l->scales;
            for (size_t i = 0; i < l->payload; i += l->unit)
                memcpy(to + i * ROWS + r * l->unit, payload + i, l->unit);
            for (size_t s = 0; s < l->scales; s++)
                memcpy(to + l->payload * ROWS + 2 * (s * ROWS + r), from + 2 * s, 2);
            from += block_bytes(l);
            to += ROWS * block_bytes(l);
        }
    }
}

static float get_f16(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return mlxd_f16_to_f32(h);
}

/* Row r of one group of 32. */
static void get_group(mlxd_weight_type type, const uint8_t *group, size_t r, float *out) {
    const layout *l = layout_of(type);
    const uint8_t *scales = group + l->payload * ROWS + 2 * r;
    float d = get_f16(scales);
    float m = l->scales == 2 ? get_f16(scales + 2 * ROWS) : 0;
    for (size_t c = 0; c < MLXD_GROUP; c++) {
        size_t i = c % l->payload; /* the byte's place in GGUF's block */
        uint8_t byte = group[i / 4 * (4 * ROWS) + 4 * r + i % 4];
        int nibble = c < 16 ? byte & 15 : byte >> 4;
        if (type == MLXD_WEIGHT_Q8_0)
            out[c] = d * (float)(int8_t)byte;
        else if (type == MLXD_WEIGHT_Q4_0)
            out[c] = d * (float)(nibble - 8);
        else
            out[c] = fmaf(d, (float)nibble, m);
    }
}

void mlxd_matrix_get_row(const mlxd_matrix *w, size_t row, float *out) {
    MLXD_ASSERT(row < w->rows);
    size_t r = row % ROWS;
    const uint8_t *p = w->data + row / ROWS * mlxd_weight_panel_bytes(w->type, w->cols);
    const layout *l = layout_of(w->type);
    for (size_t c = 0; c < w->cols; c += l->cols, p += ROWS * block_bytes(l)) {
        uint16_t h;
        if (l->scales > 0) {
            get_group(w->type, p, r, out + c);
        } else if (w->type == MLXD_WEIGHT_F32) {
            memcpy(out + c, p + 4 * r, 4);
        } else {
            memcpy(&h, p + 2 * r, 2);
            out[c] = w->type == MLXD_WEIGHT_F16 ? mlxd_f16_to_f32(h) : mlxd_bf16_to_f32(h);
        }
    }
}
