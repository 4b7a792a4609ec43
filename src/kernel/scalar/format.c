/* format.c - sizes of packed matrices, and reading one row back (see format.h). */
#include "kernel/format.h"
#include "kernel/scalar/planes.h"
#include "kernel/vector.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP

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
        memcpy(&h, p + 2 * i, 2);
        out[i] = type == MLXD_FLOAT_F16 ? mlxd_f16_to_f32(h) : mlxd_bf16_to_f32(h);
    }
}

/* Row r of one block. */
static void get_block(mlxd_format f, const uint8_t *block, size_t r, float *out) {
    size_t payload = mlxd_format_payload_bytes(f), one = mlxd_float_bytes(f.type);
    const uint8_t *scales = block + f.share * payload;
    int zero = f.affine ? 0 : 1 << (f.bits - 1);
    float d, m = 0;
    uint8_t q[GROUP];
    mlxd_widen(f.type, scales + r * one, 1, &d);
    if (f.affine)
        mlxd_widen(f.type, scales + (ROWS + r) * one, 1, &m);
    for (size_t g = 0; g < f.share; g++, block += payload, out += GROUP) {
        mlxd_planes_get_row(f.bits, block, r, q);
        for (size_t c = 0; c < GROUP; c++)
            out[c] = f.affine ? fmaf(d, (float)q[c], m) : d * (float)(q[c] - zero);
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
