/* matmul_float_avx2.c - the product with F32, F16 and BF16 weights.
 *
 * One fma per column, sixteen rows in two registers. The chain of one output element cannot be
 * shortened (its order is the definition), so the latency is hidden across elements: a tile has
 * four tokens by one panel (prefill) or, with a single token, one by four panels (decode).
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

#define ROWS MLXD_PANEL_ROWS
#define TILE 4     /* tokens, or panels */
#define AHEAD 1024 /* bytes that are prefetched ahead */

/* `panels` panels, panel_bytes apart, times `tokens` tokens; one of the two counts is 1. */
MLXD_INLINE void run_tile(const mlxd_float type, const int panels, const int tokens,
                          const uint8_t *p, size_t panel_bytes, const float *x, size_t k,
                          mlxd_avx2_pair out[TILE]) {
    const size_t bytes = ROWS * mlxd_float_bytes(type);
    mlxd_avx2_pair acc[TILE];
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        acc[i].half[0] = acc[i].half[1] = _mm256_setzero_ps();
    for (size_t c = 0; c < k; c++, p += bytes) {
        MLXD_UNROLL
        for (int i = 0; i < panels; i++) {
            mlxd_avx2_prefetch(p + (size_t)i * panel_bytes, AHEAD, bytes);
            mlxd_avx2_pair w = mlxd_avx2_widen(type, p + (size_t)i * panel_bytes);
            MLXD_UNROLL
            for (int t = 0; t < tokens; t++) {
                __m256 v = _mm256_broadcast_ss(x + (size_t)t * k + c);
                acc[i + t].half[0] = _mm256_fmadd_ps(w.half[0], v, acc[i + t].half[0]);
                acc[i + t].half[1] = _mm256_fmadd_ps(w.half[1], v, acc[i + t].half[1]);
            }
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        out[i] = acc[i];
}

/* One tile of the given shape: 4 x 1, or 1 x 1..4. */
MLXD_INLINE void run_shape(const mlxd_float type, size_t panels, size_t tokens, const uint8_t *p,
                           size_t panel_bytes, const float *x, size_t k, mlxd_avx2_pair out[TILE]) {
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
                    size_t panel_bytes, const float *x, size_t k, mlxd_avx2_pair out[TILE]) {
    if (type == MLXD_FLOAT_F32)
        run_shape(MLXD_FLOAT_F32, panels, tokens, p, panel_bytes, x, k, out);
    else if (type == MLXD_FLOAT_F16)
        run_shape(MLXD_FLOAT_F16, panels, tokens, p, panel_bytes, x, k, out);
    else
        run_shape(MLXD_FLOAT_BF16, panels, tokens, p, panel_bytes, x, k, out);
}

void mlxd_product_float_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                             size_t panel1, bool add, float *y, size_t ldy) {
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    size_t panels = 1;
    for (size_t panel = panel0; panel < panel1; panel += panels) {
        const uint8_t *p = w->data + panel * panel_bytes;
        panels = a->n == 1 && panel1 - panel >= TILE ? TILE : 1;
        for (size_t t0 = 0; t0 < a->n; t0 += TILE) {
            size_t tokens = MLXD_MIN(a->n - t0, (size_t)TILE);
            mlxd_avx2_pair acc[TILE];
            tile_of(w->format.type, panels, tokens, p, panel_bytes, a->x + t0 * a->k, a->k, acc);
            for (size_t i = 0; i < panels * tokens; i++) {
                size_t at = panels == 1 ? panel : panel + i, t = panels == 1 ? t0 + i : 0;
                mlxd_avx2_store_rows(acc[i], w->rows - at * ROWS, add,
                                     y + t * ldy + (at - panel0) * ROWS);
            }
        }
    }
}
#endif
