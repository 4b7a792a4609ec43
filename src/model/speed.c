/* speed.c - see speed.h.
 *
 * The product alone: one packed panel is made, copied all over a region, and the region multiplied
 * again and again. What counts is the processor time of the threads, not the time that passed:
 * a plan outlives the moment in which it was made, so what else the
 * machine was doing just then must not be in the number. A cgroup's quota is.
 * With a model: one token after the other goes through the loaded layers, from position 0 to the
 * end of a KV page, and again. The mean counts, as it will for a user. */
#include "model/speed.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kernel/pack.h"
#include "model/kv.h"
#include "model/layers.h"

#include <stdatomic.h>
#include <string.h>

#define COLS 2048u /* hidden size of a model of a few billion weights */
#define GROUPS (COLS / MLXD_GROUP)
#define REGION_BYTES ((size_t)64 << 20)  /* what one pass reads */
#define PANELS_PER_TASK 64u              /* of 20 KiB: asking for the time does not show */
#define BUDGET_NS (100 * MLXD_NS_PER_MS) /* for all passes */
#define PASSES_MIN 3u

/* ---- the product alone ---- */

struct speed {
    const mlxd_kernels *k;
    mlxd_matrix m;
    mlxd_activations a;
    size_t panels, panel_bytes;
    uint8_t *region;
    const uint8_t *panel;
    float *y;
    _Atomic uint64_t cpu_ns; /* processor time of all threads */
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
    uint64_t t0 = mlxd_os_thread_cpu_ns();
    s->k->matmul.product(&s->m, &s->a, p0, p1, false, s->y + p0 * MLXD_PANEL_ROWS, s->m.rows);
    atomic_fetch_add(&s->cpu_ns, mlxd_os_thread_cpu_ns() - t0);
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
    mlxd_pack_gguf(MLXD_WEIGHT_Q4_1, MLXD_PANEL_ROWS, COLS, rows, 0, panel);
}

/* One token's activations, quantized by the kernel under test. */
static void make_activations(struct speed *s, float *x, mlxd_quants z) {
    for (size_t i = 0; i < COLS; i++)
        x[i] = (float)((i * 53) % 201) / 100 - 1;
    s->k->matmul.quantize(x, COLS, z, 1);
    s->a = (mlxd_activations){x, z, 1, COLS};
}

/* The first pass finds cold caches and is left out. */
static double run(struct speed *s, mlxd_pool *pool) {
    size_t tasks = (s->panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK;
    uint64_t begin = mlxd_clock_now_ns();
    unsigned passes = 0;
    mlxd_pool_run(pool, tasks, copy_task, s);
    mlxd_pool_run(pool, tasks, product_task, s);
    atomic_store(&s->cpu_ns, 0);
    for (; passes < PASSES_MIN || mlxd_clock_now_ns() - begin < BUDGET_NS; passes++)
        mlxd_pool_run(pool, tasks, product_task, s);
    double quota = mlxd_os_cpu_quota(), threads = (double)mlxd_pool_threads(pool);
    threads = MLXD_MIN(threads, (double)mlxd_os_cpus());
    if (quota > 0 && quota < threads)
        threads = quota;
    double cpu_s = (double)MLXD_MAX(atomic_load(&s->cpu_ns), (uint64_t)1) / (double)MLXD_NS_PER_S;
    return (double)passes * (double)(s->panels * s->panel_bytes) * threads / cpu_s;
}

double mlxd_speed_measure(const mlxd_kernels *k, mlxd_pool *pool) {
    struct speed s = {.k = k};
    double result = 0;
    const mlxd_format format = mlxd_weight_format(MLXD_WEIGHT_Q4_1);
    s.panel_bytes = mlxd_format_panel_bytes(format, COLS);
    s.panels = REGION_BYTES / s.panel_bytes;
    s.m = (mlxd_matrix){format, s.panels * MLXD_PANEL_ROWS, COLS, NULL};
    size_t row_bytes = mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, COLS);
    uint8_t *rows = mlxd_mem_new(MLXD_PANEL_ROWS, row_bytes);
    uint8_t *panel = mlxd_mem_new(1, s.panel_bytes);
    float *x = mlxd_mem_new(COLS + 2 * GROUPS, sizeof *x);
    int32_t *sums = mlxd_mem_new(GROUPS, sizeof *sums);
    int8_t *q = mlxd_mem_new(COLS, 1);
    s.y = mlxd_mem_new(s.m.rows, sizeof *s.y);
    s.region = mlxd_mem_map(s.panels * s.panel_bytes);
    if (rows && panel && x && sums && q && s.y && s.region) {
        make_panel(rows, panel);
        make_activations(&s, x, (mlxd_quants){q, x + COLS, x + COLS + GROUPS, sums});
        s.m.data = s.region;
        s.panel = panel;
        result = run(&s, pool);
    }
    if (s.region)
        mlxd_mem_unmap(s.region, s.panels * s.panel_bytes);
    mlxd_mem_free(s.y);
    mlxd_mem_free(q);
    mlxd_mem_free(sums);
    mlxd_mem_free(x);
    mlxd_mem_free(panel);
    mlxd_mem_free(rows);
    return result;
}

/* ---- a model's layers ---- */

struct decode {
    mlxd_layers *layers;
    mlxd_kv *kv;
    mlxd_pool *pool;
    uint32_t count; /* layers */
    size_t width;
    float *hidden;
};

static mlxd_err decode_token(struct decode *d, uint32_t position, uint64_t hash, mlxd_why *why) {
    const int32_t token = 0;
    mlxd_row row = {.session = 1,
                    .prefix_hash = hash,
                    .position = position,
                    .n_tokens = 1,
                    .n_out = 1,
                    .tokens = &token};
    for (size_t i = 0; i < d->width; i++)
        d->hidden[i] = (float)((i * 53 + position) % 201) / 100 - 1;
    return mlxd_layers_step(d->layers, d->kv, d->pool, 0, d->count, &row, 1, false, d->hidden, NULL,
                            why);
}

/* The mean time of a step in nanoseconds; the first one, which finds cold caches, is left out. */
static mlxd_err time_steps(struct decode *d, double *out, mlxd_why *why) {
    uint64_t begin = 0, now = 0, hash = 0;
    uint32_t steps = 0;
    mlxd_err err = MLXD_OK;
    for (; !err && (steps < PASSES_MIN || now - begin < BUDGET_NS); steps++) {
        uint32_t position = steps % MLXD_PAGE;
        if (position == 0)
            hash = mlxd_kv_hash_init();
        err = decode_token(d, position, hash, why);
        hash = mlxd_kv_hash_add(hash, 0);
        now = mlxd_clock_now_ns();
        if (steps == 0)
            begin = now;
    }
    *out = (double)MLXD_MAX(now - begin, (uint64_t)1) / (double)(MLXD_MAX(steps, 2u) - 1);
    return err;
}

mlxd_err mlxd_speed_measure_model(double *out, const mlxd_checkpoint *f, const mlxd_config *c,
                                  const mlxd_kernels *k, mlxd_pool *pool, mlxd_why *why) {
    struct decode d = {.pool = pool, .width = c->hidden};
    uint64_t bytes = 0, more = 0;
    double step_ns;
    mlxd_err err = MLXD_OK;
    for (; d.count < c->layers; d.count++, bytes = more) {
        err = mlxd_layers_size(f, c, 0, d.count + 1, &more, why);
        if (err || more > MLXD_SPEED_BYTES)
            break;
    }
    if (!err)
        err = mlxd_layers_read_size(f, c, 0, d.count, &bytes, why);
    if (err)
        return err;
    if (d.count == 0) {
        *out = mlxd_speed_measure(k, pool);
        return *out > 0 ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    mlxd_layers_params p = {.checkpoint = f,
                            .config = c,
                            .kernels = k,
                            .end = d.count,
                            .positions = MLXD_PAGE,
                            .tokens_max = 1,
                            .pool = pool};
    err = mlxd_layers_open(&d.layers, &p, why);
    if (!err)
        err = mlxd_kv_open(&d.kv, c, d.count, 1, why);
    d.hidden = mlxd_mem_new(c->hidden, sizeof *d.hidden);
    if (!err && !d.hidden)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = time_steps(&d, &step_ns, why);
    if (!err)
        *out = (double)bytes * (double)MLXD_NS_PER_S / step_ns;
    mlxd_mem_free(d.hidden);
    mlxd_kv_close(d.kv);
    mlxd_layers_close(d.layers);
    return err;
}
