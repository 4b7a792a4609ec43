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

typedef struct pair_f {
    __m256 half[2];
} pair_f;

/* Rows 8*i ... of the column at p. */
MLXD_INLINE __m256 widen(const mlxd_weight_type type, const uint8_t *p, int i) {
    if (type == MLXD_WEIGHT_F32)
        return _mm256_loadu_ps((const float *)(const void *)(p + 32 * i));
    if (type == MLXD_WEIGHT_F16)
        return mlxd_avx2_load_f16(p + 16 * i);
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

/* `panels` panels, panel_bytes apart, times `tokens` tokens; one of the two counts is 1. */
MLXD_INLINE void run_tile(const mlxd_weight_type type, const int panels, const int tokens,
                          const uint8_t *p, size_t panel_bytes, const float *x, size_t k,
                          pair_f out[TILE]) {
    const size_t bytes = (type == MLXD_WEIGHT_F32 ? 4 : 2) * ROWS;
    pair_f acc[TILE];
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        acc[i].half[0] = acc[i].half[1] = _mm256_setzero_ps();
    for (size_t c = 0; c < k; c++, p += bytes) {
        MLXD_UNROLL
        for (int i = 0; i < panels; i++) {
            mlxd_avx2_prefetch(p + (size_t)i * panel_bytes, AHEAD, bytes);
            __m256 w0 = widen(type, p + (size_t)i * panel_bytes, 0);
            __m256 w1 = widen(type, p + (size_t)i * panel_bytes, 1);
            MLXD_UNROLL
            for (int t = 0; t < tokens; t++) {
                __m256 v = _mm256_broadcast_ss(x + (size_t)t * k + c);
                acc[i + t].half[0] = _mm256_fmadd_ps(w0, v, acc[i + t].half[0]);
                acc[i + t].half[1] = _mm256_fmadd_ps(w1, v, acc[i + t].half[1]);
            }
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < panels * tokens; i++)
        out[i] = acc[i];
}

/* One tile of the given shape: 4 x 1, or 1 x 1..4. */
MLXD_INLINE void run_shape(const mlxd_weight_type type, size_t panels, size_t tokens,
                           const uint8_t *p, size_t panel_bytes, const float *x, size_t k,
                           pair_f out[TILE]) {
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

static void tile_of(mlxd_weight_type type, size_t panels, size_t tokens, const uint8_t *p,
                    size_t panel_bytes, const float *x, size_t k, pair_f out[TILE]) {
    if (type == MLXD_WEIGHT_F32)
        run_shape(MLXD_WEIGHT_F32, panels, tokens, p, panel_bytes, x, k, out);
    else if (type == MLXD_WEIGHT_F16)
        run_shape(MLXD_WEIGHT_F16, panels, tokens, p, panel_bytes, x, k, out);
    else
        run_shape(MLXD_WEIGHT_BF16, panels, tokens, p, panel_bytes, x, k, out);
}

static void store_rows(const pair_f *acc, const mlxd_matrix *w, size_t panel, float *y) {
    float all[ROWS];
    size_t rows = MLXD_MIN(w->rows - panel * ROWS, (size_t)ROWS);
    _mm256_storeu_ps(all, acc->half[0]);
    _mm256_storeu_ps(all + 8, acc->half[1]);
    memcpy(y + panel * ROWS, all, rows * sizeof(float));
}

void mlxd_product_float_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                             size_t panel1, float *y, size_t ldy) {
    size_t panel_bytes = mlxd_weight_panel_bytes(w->type, w->cols);
    size_t panels = 1;
    for (size_t panel = panel0; panel < panel1; panel += panels) {
        const uint8_t *p = w->data + panel * panel_bytes;
        panels = a->n == 1 && panel1 - panel >= TILE ? TILE : 1;
        for (size_t t0 = 0; t0 < a->n; t0 += TILE) {
            size_t tokens = MLXD_MIN(a->n - t0, (size_t)TILE);
            pair_f acc[TILE];
            tile_of(w->type, panels, tokens, p, panel_bytes, a->x + t0 * a->k, a->k, acc);
            for (size_t i = 0; i < panels * tokens; i++)
                store_rows(&acc[i], w, panels == 1 ? panel : panel + i,
                           panels == 1 ? y + (t0 + i) * ldy : y);
        }
    }
}
#endif
