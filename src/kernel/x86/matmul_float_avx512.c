/* matmul_float_avx512.c - the product with F32, F16 and BF16 weights.
 *
 * One fma per column, the sixteen rows of a panel in one register. The chain of one output element
 * cannot be shortened (its order is the definition), so the latency is hidden across elements: a
 * tile is so many panels by so many tokens that there are 8 to 24 chains. Many tokens share what is
 * read of the weights; a single one reads eight panels side by side. Where a tile sticks out, the
 * missing panels and tokens are the last one again, and not stored.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx512.h"

#define ROWS MLXD_PANEL_ROWS
#define PANELS_MAX 8
#define TOKENS_MAX 12
#define AHEAD 1024 /* bytes that are prefetched ahead in each panel */

typedef struct tile {
    const uint8_t *w[PANELS_MAX];
    const float *x[TOKENS_MAX];
    size_t k;
    __m512 y[PANELS_MAX][TOKENS_MAX];
} tile;

MLXD_INLINE void run_tile(const mlxd_float type, const int panels, const int tokens, tile *o) {
    const size_t bytes = (type == MLXD_FLOAT_F32 ? 4 : 2) * ROWS;
    __m512 acc[PANELS_MAX][TOKENS_MAX];
    const uint8_t *w[PANELS_MAX];
    const float *x[TOKENS_MAX];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        x[t] = o->x[t];
    MLXD_UNROLL
    for (int i = 0; i < panels; i++) {
        w[i] = o->w[i];
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++)
            acc[i][t] = _mm512_setzero_ps();
    }
    for (size_t c = 0; c < o->k; c++) {
        __m512 v[PANELS_MAX];
        MLXD_UNROLL
        for (int i = 0; i < panels; i++) {
            _mm_prefetch((const char *)((uintptr_t)w[i] + c * bytes + AHEAD), _MM_HINT_T0);
            v[i] = mlxd_avx512_widen(type, w[i] + c * bytes);
        }
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m512 factor = _mm512_set1_ps(x[t][c]);
            MLXD_UNROLL
            for (int i = 0; i < panels; i++)
                acc[i][t] = _mm512_fmadd_ps(v[i], factor, acc[i][t]);
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < panels; i++) {
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++)
            o->y[i][t] = acc[i][t];
    }
}

MLXD_INLINE void run_shape(const mlxd_float type, size_t tokens, tile *o) {
    if (tokens == 1)
        run_tile(type, PANELS_MAX, 1, o);
    else if (tokens == 2)
        run_tile(type, 4, 2, o);
    else if (tokens == 4)
        run_tile(type, 2, 4, o);
    else if (tokens == 8)
        run_tile(type, 2, 8, o);
    else
        run_tile(type, 2, TOKENS_MAX, o);
}

static void run(mlxd_float type, size_t tokens, tile *o) {
    if (type == MLXD_FLOAT_F32)
        run_shape(MLXD_FLOAT_F32, tokens, o);
    else if (type == MLXD_FLOAT_F16)
        run_shape(MLXD_FLOAT_F16, tokens, o);
    else
        run_shape(MLXD_FLOAT_BF16, tokens, o);
}

static void store_rows(__m512 v, size_t rows, bool add, float *y) {
    __mmask16 mask = mlxd_avx512_mask(rows);
    if (add)
        v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), v);
    _mm512_mask_storeu_ps(y, mask, v);
}

void mlxd_product_float_avx512(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                               size_t panel1, bool add, float *y, size_t ldy) {
    tile o;
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    size_t panels = a->n == 1 ? PANELS_MAX : a->n == 2 ? 4 : 2, tokens;
    o.k = a->k;
    for (size_t p = panel0; p < panel1; p += panels) {
        for (size_t i = 0; i < panels; i++)
            o.w[i] = w->data + MLXD_MIN(p + i, panel1 - 1) * panel_bytes;
        for (size_t t0 = 0; t0 < a->n; t0 += tokens) {
            size_t left = a->n - t0;
            tokens = a->n <= 2 ? a->n : left <= 4 ? 4 : left <= 8 ? 8 : TOKENS_MAX;
            for (size_t t = 0; t < tokens; t++)
                o.x[t] = a->x + MLXD_MIN(t0 + t, a->n - 1) * a->k;
            run(w->format.type, tokens, &o);
            for (size_t i = 0; i < panels && p + i < panel1; i++)
                for (size_t t = 0; t < tokens && t < left; t++)
                    store_rows(o.y[i][t], w->rows - (p + i) * ROWS, add,
                               y + (t0 + t) * ldy + (p + i - panel0) * ROWS);
        }
    }
}
#endif
