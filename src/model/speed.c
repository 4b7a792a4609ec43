/* speed.c - see speed.h. One packed panel is made, copied all over the region, and multiplied again
 * and again; the fastest pass counts, so that other work on the machine disturbs little. */
#include "model/speed.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

#define COLS 2048u                       /* hidden size of a model of a few billion weights */
#define REGION_BYTES ((size_t)64 << 20)  /* what one pass reads */
#define PANELS_PER_TASK 8u               /* as in a product over a layer's matrix */
#define BUDGET_NS (100 * MLXD_NS_PER_MS) /* for all passes */
#define PASSES_MIN 2u

struct speed {
    const mlxd_kernels *k;
    mlxd_matrix m;
    mlxd_activations a;
    size_t panels, panel_bytes;
    uint8_t *region;
    const uint8_t *panel;
    float *y;
};

static void copy_task(void *ctx, size_t task, unsigned thread) {
    struct speed *s = ctx;
    (void)thread;
    size_t end = MLXD_MIN((task + 1) * PANELS_PER_TASK, s->panels);
    for (size_t p = task * PANELS_PER_TASK; p < end; p++)
        memcpy(s->region + p * s->panel_bytes, s->panel, s->panel_bytes);
}

static void product_task(void *ctx, size_t task, unsigned thread) {
    struct speed *s = ctx;
    (void)thread;
    size_t p0 = task * PANELS_PER_TASK, p1 = MLXD_MIN(p0 + PANELS_PER_TASK, s->panels);
    s->k->matmul.product(&s->m, &s->a, p0, p1, s->y, s->m.rows);
}

/* Sixteen rows of Q4_1 blocks {f16 d, f16 m, 16 bytes of nibbles} with ordinary values, packed. */
static void make_panel(uint8_t *rows, uint8_t *panel) {
    const size_t row_bytes = mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, COLS);
    const uint16_t d = 0x211f, m = 0xa800; /* 0.01 and -0.03125 */
    for (size_t at = 0; at < MLXD_PANEL_ROWS * row_bytes; at += 20) {
        memcpy(rows + at, &d, 2);
        memcpy(rows + at + 2, &m, 2);
        for (size_t i = 0; i < 16; i++)
            rows[at + 4 + i] = (uint8_t)(at * 7 + i * 37);
    }
    mlxd_weight_pack_panel(MLXD_WEIGHT_Q4_1, MLXD_PANEL_ROWS, COLS, rows, 0, panel);
}

/* One token's activations, quantized by the kernel under test. */
static void make_activations(struct speed *s, float *x, int8_t *q, float *scale, float *sum) {
    for (size_t i = 0; i < COLS; i++)
        x[i] = (float)((i * 53) % 201) / 100 - 1;
    s->k->matmul.quantize(x, COLS, q, scale, sum);
    s->a = (mlxd_activations){x, q, scale, sum, 1, COLS};
}

static double run(struct speed *s, mlxd_pool *pool) {
    size_t tasks = (s->panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK;
    uint64_t best = UINT64_MAX, begin = mlxd_clock_now_ns(), now = begin;
    mlxd_pool_run(pool, tasks, copy_task, s);
    for (unsigned pass = 0; pass < PASSES_MIN || now - begin < BUDGET_NS; pass++) {
        uint64_t t0 = mlxd_clock_now_ns();
        mlxd_pool_run(pool, tasks, product_task, s);
        now = mlxd_clock_now_ns();
        best = MLXD_MIN(best, MLXD_MAX(now - t0, (uint64_t)1));
    }
    return (double)(s->panels * s->panel_bytes) * (double)MLXD_NS_PER_S / (double)best;
}

double mlxd_speed_measure(const mlxd_kernels *k, mlxd_pool *pool) {
    struct speed s = {.k = k};
    double result = 0;
    s.panel_bytes = mlxd_weight_panel_bytes(MLXD_WEIGHT_Q4_1, COLS);
    s.panels = REGION_BYTES / s.panel_bytes;
    s.m = (mlxd_matrix){MLXD_WEIGHT_Q4_1, s.panels * MLXD_PANEL_ROWS, COLS, NULL};
    size_t row_bytes = mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, COLS);
    uint8_t *rows = mlxd_mem_new(MLXD_PANEL_ROWS, row_bytes);
    uint8_t *panel = mlxd_mem_new(1, s.panel_bytes);
    float *x = mlxd_mem_new(COLS + 2 * (COLS / MLXD_GROUP), sizeof *x);
    int8_t *q = mlxd_mem_new(COLS, 1);
    s.y = mlxd_mem_new(s.m.rows, sizeof *s.y);
    s.region = mlxd_mem_map(s.panels * s.panel_bytes);
    if (rows && panel && x && q && s.y && s.region) {
        make_panel(rows, panel);
        make_activations(&s, x, q, x + COLS, x + COLS + COLS / MLXD_GROUP);
        s.m.data = s.region;
        s.panel = panel;
        result = run(&s, pool);
    }
    if (s.region)
        mlxd_mem_unmap(s.region, s.panels * s.panel_bytes);
    mlxd_mem_free(s.y);
    mlxd_mem_free(q);
    mlxd_mem_free(x);
    mlxd_mem_free(panel);
    mlxd_mem_free(rows);
    return result;
}
