/* matmul_float_neon.c - the product with F32, F16 and BF16 weights.
 *
 * One fma per column, sixteen rows in four registers. The chain of one output element cannot be
 * shortened (its order is the definition), so the latency is hidden across elements, in sixteen
 * chains: a tile has four tokens by one panel (prefill) or, with a single token, one by four panels
 * (decode).
 */
#if defined(__aarch64__)
#include "kernel/tables.h"

#include "kernel/arm/neon.h"

#define ROWS MLXD_PANEL_ROWS
#define TILE 4     /* tokens, or panels */
#define AHEAD 1024 /* bytes that are prefetched ahead */

/* `panels` panels, panel_bytes apart, times `tokens` tokens; one of the two counts is 1. */
MLXD_INLINE void run_tile(const mlxd_float type, const int panels, const int tokens,
                          const uint8_t *p, size_t panel_bytes, const float *x, size_t k,
                          mlxd_neon_rows out[TILE]) {
    const size_t bytes = mlxd_float_bytes(type) * ROWS;
    mlxd_neon_rows acc[TILE], column;
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++) {
        MLXD_UNROLL
        for (int j = 0; j < 4; j++)
            acc[i].quarter[j] = vdupq_n_f32(0);
    }
    for (size_t c = 0; c < k; c++, p += bytes) {
        MLXD_UNROLL
        for (int i = 0; i < panels; i++) {
            const uint8_t *from = p + (size_t)i * panel_bytes;
            if (tokens == 1)
                mlxd_neon_prefetch(from, AHEAD, bytes);
            mlxd_neon_load_rows(type, from, &column);
            MLXD_UNROLL
            for (int t = 0; t < tokens; t++) {
                float v = x[(size_t)t * k + c];
                MLXD_UNROLL
                for (int j = 0; j < 4; j++)
                    acc[i + t].quarter[j] =
                        vfmaq_n_f32(acc[i + t].quarter[j], column.quarter[j], v);
            }
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        out[i] = acc[i];
}

/* One tile of the given shape: 4 x 1, or 1 x 1..4. */
MLXD_INLINE void run_shape(const mlxd_float type, size_t panels, size_t tokens, const uint8_t *p,
                           size_t panel_bytes, const float *x, size_t k, mlxd_neon_rows out[TILE]) {
    if (panels == TILE)
        run_tile(type, TILE, 1, p, panel_bytes, x, k, out);
    else if (tokens == 1)
        run_tile(type, 1, 1, p, panel_bytes, x, k, out);
    else if (tokens == 2)
        run_tile(type, 1, 2, p, panel_bytes, x, k, out);
    else if (tokens == 3)
        run_tile(type, 1, 3, p, panel_bytes, x, k, out);
    else
        run_tile(type, 1, TILE, p, panel_bytes, x, k, out);
}

static void tile_of(mlxd_float type, size_t panels, size_t tokens, const uint8_t *p,
                    size_t panel_bytes, const float *x, size_t k, mlxd_neon_rows out[TILE]) {
    if (type == MLXD_FLOAT_F32)
        run_shape(MLXD_FLOAT_F32, panels, tokens, p, panel_bytes, x, k, out);
    else if (type == MLXD_FLOAT_F16)
        run_shape(MLXD_FLOAT_F16, panels, tokens, p, panel_bytes, x, k, out);
    else
        run_shape(MLXD_FLOAT_BF16, panels, tokens, p, panel_bytes, x, k, out);
}

void mlxd_product_float_neon(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                             size_t panel1, bool add, float *y, size_t ldy) {
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    for (size_t panel = panel0, panels; panel < panel1; panel += panels) {
        const uint8_t *p = w->data + panel * panel_bytes;
        panels = a->n == 1 && panel1 - panel >= TILE ? TILE : 1;
        for (size_t t0 = 0; t0 < a->n; t0 += TILE) {
            size_t tokens = MLXD_MIN(a->n - t0, (size_t)TILE);
            mlxd_neon_rows acc[TILE];
            tile_of(w->format.type, panels, tokens, p, panel_bytes, a->x + t0 * a->k, a->k, acc);
            for (size_t i = 0; i < panels * tokens; i++) {
                size_t at = panel + (panels == 1 ? 0 : i), t = panels == 1 ? t0 + i : 0;
                mlxd_neon_store_rows(&acc[i], MLXD_MIN(w->rows - at * ROWS, (size_t)ROWS), add,
                                     y + t * ldy + (at - panel0) * ROWS);
            }
        }
    }
}
#endif
