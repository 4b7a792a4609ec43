/* format.c - sizes of packed matrices, and reading one row back (see format.h). */
#include "kernel/format.h"
#include "kernel/scalar/group.h"
#include "kernel/vector.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP

const uint8_t mlxd_books[MLXD_BOOK_COUNT][16] = {
    [MLXD_BOOK_IQ4] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    [MLXD_BOOK_FP4] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4},
};

size_t mlxd_format_panel_bytes(mlxd_format f, size_t cols) {
    MLXD_ASSERT(cols % mlxd_format_block_cols(f) == 0);
    return cols / mlxd_format_block_cols(f) * mlxd_format_block_bytes(f);
}

bool mlxd_format_packed_bytes(mlxd_format f, size_t rows, size_t cols, size_t *out) {
    MLXD_ASSERT(cols % mlxd_format_block_cols(f) == 0);
    size_t padded, panel;
    if (!mlxd_add_size(rows, ROWS - 1, &padded) ||
        !mlxd_mul_size(cols / mlxd_format_block_cols(f), mlxd_format_block_bytes(f), &panel))
        return false;
    return mlxd_mul_size(padded / ROWS, panel, out);
}

size_t mlxd_matrix_panels(const mlxd_matrix *w) {
    return (w->rows + ROWS - 1) / ROWS;
}

void mlxd_widen(mlxd_float type, const uint8_t *p, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        if (type == MLXD_FLOAT_F32) {
            memcpy(&out[i], p + 4 * i, 4);
            continue;
        }
        if (type == MLXD_FLOAT_E8M0) { /* 2^(e-127) is the bits e << 23, or a denormal for 0 */
            uint32_t u = MLXD_MAX((uint32_t)p[i] << 23, (uint32_t)1 << 22);
            memcpy(&out[i], &u, 4);
            out[i] *= 0.5f;
            continue;
        }
        memcpy(&h, p + 2 * i, 2);
        out[i] = type == MLXD_FLOAT_F16 ? mlxd_f16_to_f32(h) : mlxd_bf16_to_f32(h);
    }
}

/* Row r of one block. */
static void get_block(mlxd_format f, const uint8_t *block, size_t r, float *out) {
    bool affine = mlxd_kind_facts(f.kind).affine;
    for (size_t g = 0; g < f.share; g++, out += GROUP) {
        mlxd_group_row row;
        mlxd_group_get_row(f, block, g, r, &row);
        for (size_t c = 0; c < GROUP; c++) {
            float d = row.d[c / (GROUP / 2)], m = row.m[c / (GROUP / 2)], q = (float)row.q[c];
            out[c] = affine ? fmaf(d, q, m) : d * q;
        }
    }
}

void mlxd_matrix_get_row(const mlxd_matrix *w, size_t row, float *out) {
    MLXD_ASSERT(row < w->rows);
    size_t r = row % ROWS, cols = mlxd_format_block_cols(w->format);
    size_t bytes = mlxd_format_block_bytes(w->format), one = mlxd_float_bytes(w->format.type);
    const uint8_t *p = w->data + row / ROWS * mlxd_format_panel_bytes(w->format, w->cols);
    for (size_t c = 0; c < w->cols; c += cols, p += bytes)
        if (mlxd_format_is_quantized(w->format))
            get_block(w->format, p, r, out + c);
        else
            mlxd_widen(w->format.type, p + r * one, 1, out + c);
}
