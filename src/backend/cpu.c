/* cpu.c - see cpu.h. A submitted step becomes a job; so does a drop, in the same order. Because a
 * drop may overtake a step that is queued or running, dropped sessions are also noted at once in a
 * small ring: the step leaves their rows out, or stops between two layers when all rows are gone.
 */
#include "backend/cpu.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>

#define DROPS (2 * MLXD_LIMIT_SESSIONS) /* drops remembered while a step is on its way */
#define FORWARD_SESSION (UINT64_C(1) << 63)

/* A step on its way, with the number of drops that came before it. */
struct ticket {
    mlxd_step *step;
    uint64_t drops_before;
    bool last;
};

struct mlxd_cpu {
    mlxd_stage stage; /* first: the stage is the object */
    mlxd_driver *driver;
    mlxd_layers *layers;
    mlxd_kv *kv;
    mlxd_queue *tickets;
    uint32_t width, positions;
    mlxd_mutex lock;
    uint64_t drops;          /* so far; under lock */
    uint64_t dropped[DROPS]; /* ring of session ids; under lock */
    uint64_t forwards;       /* ids of stateless calls; driver thread */
    struct ticket current;   /* driver thread */
    _Atomic uint32_t sessions, pages_used, drops_waiting;
    _Atomic uint64_t steps, tokens, compute_ns;
    uint64_t memory_bytes;
};

static bool dropped_since(mlxd_cpu *c, uint64_t since, uint64_t session) {
    bool found = false;
    mlxd_mutex_lock(&c->lock);
    /* Leaving a row in costs time only, so drops that fell out of the ring may be forgotten. */
    if (c->drops - since > DROPS)
        since = c->drops - DROPS;
    for (uint64_t i = since; i < c->drops && !found; i++)
        found = c->dropped[i % DROPS] == session;
    mlxd_mutex_unlock(&c->lock);
    return found;
}

static bool row_gone(void *ctx, uint64_t session) {
    mlxd_cpu *c = ctx;
    return dropped_since(c, c->current.drops_before, session);
}

/* Between layers: nobody wants any row of this step any more. */
static bool all_gone(void *ctx) {
    mlxd_cpu *c = ctx;
    const mlxd_step *step = c->current.step;
    mlxd_mutex_lock(&c->lock);
    bool none = c->drops == c->current.drops_before;
    mlxd_mutex_unlock(&c->lock);
    if (none)
        return false;
    for (uint32_t r = 0; r < step->n_rows; r++)
        if (!row_gone(c, step->rows[r].session))
            return false;
    return true;
}

static void publish(mlxd_cpu *c) {
    atomic_store(&c->sessions, mlxd_kv_session_count(c->kv));
    atomic_store(&c->pages_used, mlxd_kv_pages_used(c->kv));
}

static void step_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_cpu *c = a;
    mlxd_why why = {0};
    (void)b;
    mlxd_err err = mlxd_queue_pop(c->tickets, &c->current, 0);
    MLXD_ASSERT(err == MLXD_OK);
    mlxd_step *s = c->current.step;
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_step_remove(s, row_gone, c);
    err = s->n_rows == 0 ? MLXD_ERR_CANCELLED : MLXD_OK;
    if (!err) {
        const mlxd_abort abort = {all_gone, c};
        err = mlxd_layers_step(c->layers, c->kv, pool, c->stage.first, c->stage.end, s->rows,
                               s->n_rows, c->current.last, s->hidden, &abort, &why);
        atomic_fetch_add(&c->steps, 1);
        atomic_fetch_add(&c->tokens, s->n_tokens);
    }
    if (!err && c->current.last)
        mlxd_step_compact(s);
    s->compute_ns = mlxd_clock_now_ns() - t0;
    atomic_fetch_add(&c->compute_ns, s->compute_ns);
    publish(c);
    c->stage.done(c->stage.done_ctx, &c->stage, s, err, &why);
}

static void submit(mlxd_stage *stage, mlxd_step *step, bool last) {
    mlxd_cpu *c = (mlxd_cpu *)stage;
    MLXD_ASSERT(step->n_hidden == step->n_tokens && step->width == c->width);
    mlxd_mutex_lock(&c->lock);
    struct ticket t = {step, c->drops, last};
    mlxd_mutex_unlock(&c->lock);
    mlxd_err err = mlxd_queue_push(c->tickets, &t);
    MLXD_ASSERT(err == MLXD_OK); /* engine and worker bound their steps to far less */
    mlxd_driver_post(c->driver, (mlxd_job){step_job, c, NULL});
}

static void drop_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_cpu *c = a;
    (void)pool;
    mlxd_kv_drop(c->kv, (uint64_t)(uintptr_t)b);
    atomic_fetch_sub(&c->drops_waiting, 1);
    publish(c);
}

static void drop(mlxd_stage *stage, uint64_t session) {
    mlxd_cpu *c = (mlxd_cpu *)stage;
    _Static_assert(sizeof(void *) >= sizeof session, "a job carries the session's id in a pointer");
    mlxd_mutex_lock(&c->lock);
    c->dropped[c->drops++ % DROPS] = session;
    mlxd_mutex_unlock(&c->lock);
    atomic_fetch_add(&c->drops_waiting, 1);
    mlxd_driver_post(c->driver, (mlxd_job){drop_job, c, (void *)(uintptr_t)session});
}

uint32_t mlxd_cpu_drops_waiting(const mlxd_cpu *c) {
    return atomic_load(&c->drops_waiting);
}

static void drop_all_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_cpu *c = a;
    (void)pool;
    (void)b;
    mlxd_kv_drop_all(c->kv);
    publish(c);
}

void mlxd_cpu_drop_all(mlxd_cpu *c) {
    mlxd_driver_post(c->driver, (mlxd_job){drop_all_job, c, NULL});
}

static void close_stage(mlxd_stage *stage) {
    mlxd_cpu_close((mlxd_cpu *)stage);
}

static const mlxd_stage_ops ops = {submit, drop, close_stage};

/* Loading runs on the driver thread: the pool has one owner. */
struct load {
    mlxd_cpu *cpu;
    mlxd_layers_params params;
    mlxd_err err;
    mlxd_why *why;
};

static void load_job(mlxd_pool *pool, void *a, void *b) {
    struct load *l = a;
    (void)b;
    l->params.pool = pool;
    l->err = mlxd_layers_open(&l->cpu->layers, &l->params, l->why);
}

mlxd_err mlxd_cpu_open(mlxd_cpu **out, const mlxd_cpu_params *p, mlxd_why *why) {
    mlxd_cpu *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&c->lock);
    c->driver = p->driver;
    c->width = p->layers.config->hidden;
    c->positions = p->layers.positions;
    c->stage = (mlxd_stage){.ops = &ops, .first = p->layers.first, .end = p->layers.end};
    snprintf(c->stage.device, sizeof c->stage.device, "%s", p->device);
    c->tickets = mlxd_queue_open(sizeof(struct ticket), 4096);
    struct load l = {c, p->layers, MLXD_ERR_NOMEM, why};
    uint32_t n_layers = p->layers.end - p->layers.first;
    if (c->tickets)
        mlxd_driver_run(c->driver, (mlxd_job){load_job, &l, NULL});
    else
        (void)mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!l.err)
        l.err = mlxd_kv_open(&c->kv, p->layers.config, n_layers, p->kv_pages, why);
    if (l.err) {
        mlxd_cpu_close(c);
        return l.err;
    }
    c->memory_bytes = mlxd_layers_bytes(c->layers) +
                      (uint64_t)p->kv_pages * mlxd_kv_page_bytes(p->layers.config, n_layers);
    *out = c;
    return MLXD_OK;
}

void mlxd_cpu_close(mlxd_cpu *c) {
    if (!c)
        return;
    mlxd_driver_flush(c->driver); /* drops that are queued */
    mlxd_kv_close(c->kv);
    mlxd_layers_close(c->layers);
    mlxd_queue_close(c->tickets);
    mlxd_mutex_deinit(&c->lock);
    mlxd_mem_free(c);
}

mlxd_stage *mlxd_cpu_stage(mlxd_cpu *c) {
    return &c->stage;
}

const mlxd_layers *mlxd_cpu_layers(const mlxd_cpu *c) {
    return c->layers;
}

uint32_t mlxd_cpu_width(const mlxd_cpu *c) {
    return c->width;
}

/* ---- stateless forward ---- */

struct forward {
    mlxd_cpu *cpu;
    uint32_t first, end, n;
    float *hidden;
    mlxd_err err;
    mlxd_why *why;
};

/* In steps of at most tokens_max, over a session of its own. */
static void forward_job(mlxd_pool *pool, void *a, void *b) {
    struct forward *f = a;
    mlxd_cpu *c = f->cpu;
    (void)b;
    uint64_t session = FORWARD_SESSION | c->forwards++, hash = mlxd_kv_hash_init();
    static const int32_t tokens[256]; /* the layers do not look at ids */
    f->err = MLXD_OK;
    for (uint32_t at = 0; at < f->n && !f->err;) {
        uint32_t count = MLXD_MIN(f->n - at, mlxd_layers_tokens_max(c->layers));
        count = MLXD_MIN(count, (uint32_t)MLXD_COUNT_OF(tokens));
        mlxd_row row = {.session = session,
                        .prefix_hash = hash,
                        .position = at,
                        .n_tokens = count,
                        .n_out = count,
                        .tokens = tokens};
        f->err = mlxd_layers_step(c->layers, c->kv, pool, f->first, f->end, &row, 1, false,
                                  f->hidden + (size_t)at * c->width, NULL, f->why);
        for (uint32_t i = 0; i < count; i++)
            hash = mlxd_kv_hash_add(hash, 0);
        at += count;
    }
    mlxd_kv_drop(c->kv, session);
    publish(c);
}

mlxd_err mlxd_cpu_forward(mlxd_cpu *c, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                          mlxd_why *why) {
    struct forward f = {c, first, end, n, hidden, MLXD_OK, why};
    if (first >= end || first < c->stage.first || end > c->stage.end)
        return mlxd_fail(why, MLXD_ERR_STATE,
                         "layers %u..%u are not on this device, which holds %u..%u", first,
                         end ? end - 1 : 0, c->stage.first, c->stage.end - 1);
    if (n > c->positions)
        return mlxd_fail(why, MLXD_ERR_RANGE, "%u positions are beyond the context of %u", n,
                         c->positions);
    mlxd_driver_run(c->driver, (mlxd_job){forward_job, &f, NULL});
    return f.err;
}

void mlxd_cpu_stats_get(const mlxd_cpu *c, mlxd_cpu_stats *out) {
    *out = (mlxd_cpu_stats){
        .sessions = atomic_load(&c->sessions),
        .kv_pages_used = atomic_load(&c->pages_used),
        .kv_pages_max = mlxd_kv_pages_max(c->kv),
        .steps = atomic_load(&c->steps),
        .tokens = atomic_load(&c->tokens),
        .compute_ns = atomic_load(&c->compute_ns),
        .memory_bytes = c->memory_bytes,
    };
}
