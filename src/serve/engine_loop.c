/* engine_loop.c - see engine_loop.h. */
#include "serve/engine_loop.h"

#include "base/log.h"
#include "base/mem.h"
#include "serve/trace.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define EVENTS_MAX 8192
/* Clients may fill half of the queue. The other half takes what their requests bring with them,
 * steps and cancels, so that nobody who must not wait finds it full: a stage may complete a step
 * inside submit, on the engine thread. */
#define REQUESTS_MAX (EVENTS_MAX / 2)

struct mlxd_loop {
    mlxd_engine *engine;
    mlxd_head *head;
    const mlxd_clock *clock;
    mlxd_queue *events;
    mlxd_thread thread;
    bool started;
    _Atomic bool closing;
    _Atomic uint64_t next_id;
    mlxd_pipeline pipeline; /* engine thread */
    /* handed over by set_pipeline, snapshot for stats; under lock */
    mlxd_mutex lock;
    mlxd_cond changed;
    mlxd_pipeline next;
    uint64_t epoch_set; /* of the pipeline that the engine has taken */
    mlxd_engine_stats stats;
    FILE *trace;
    mlxd_buf line;
};

static uint64_t now(const mlxd_loop *l) {
    return l->clock->now_ns(l->clock->ctx);
}

/* ---- events in ---- */

static void post(mlxd_loop *l, mlxd_event *ev) {
    ev->time_ns = now(l);
    mlxd_err err = mlxd_queue_push_wait(l->events, ev);
    MLXD_ASSERT(err == MLXD_OK);
}

static void on_staged(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                      const mlxd_why *why) {
    mlxd_loop *l = ctx;
    mlxd_event ev = {.type = MLXD_EVENT_STAGED, .step = step, .err = err, .index = stage->index};
    if (err)
        ev.why = *why;
    post(l, &ev);
}

static void on_head(void *ctx, mlxd_step *step, bool drawn, mlxd_err err, const mlxd_why *why) {
    mlxd_loop *l = ctx;
    mlxd_event ev = {
        .type = drawn ? MLXD_EVENT_DRAWN : MLXD_EVENT_EMBEDDED, .step = step, .err = err};
    if (err)
        ev.why = *why;
    post(l, &ev);
}

mlxd_err mlxd_loop_submit(mlxd_loop *l, mlxd_request *r) {
    mlxd_event ev = {.type = MLXD_EVENT_REQUEST, .time_ns = now(l), .request = r};
    if (mlxd_queue_len(l->events) >= REQUESTS_MAX)
        return MLXD_ERR_FULL;
    r->id = atomic_fetch_add(&l->next_id, 1) + 1;
    return mlxd_queue_push(l->events, &ev);
}

void mlxd_loop_cancel(mlxd_loop *l, uint64_t id) {
    mlxd_event ev = {.type = MLXD_EVENT_CANCEL, .id = id};
    post(l, &ev);
}

void mlxd_loop_stop(mlxd_loop *l, const char *reason) {
    mlxd_event ev = {.type = MLXD_EVENT_STOP};
    (void)mlxd_fail(&ev.why, MLXD_ERR_CANCELLED, "%s", reason);
    post(l, &ev);
}

void mlxd_loop_set_pipeline(mlxd_loop *l, const mlxd_pipeline *p) {
    mlxd_event ev = {.type = MLXD_EVENT_PIPELINE,
                     .stages = p->n_stages,
                     .epoch = p->epoch,
                     .context = p->context,
                     .kv_pages = p->kv_pages,
                     .why = p->why};
    mlxd_mutex_lock(&l->lock);
    l->next = *p;
    mlxd_mutex_unlock(&l->lock);
    for (uint32_t i = 0; i < p->n_stages; i++) {
        mlxd_stage *s = p->stages[i];
        /* One that had this place before may still be busy with a step of an old epoch. */
        if (s->index == i && s->done == on_staged && s->done_ctx == l)
            continue;
        s->index = i;
        s->done = on_staged;
        s->done_ctx = l;
    }
    post(l, &ev);
    mlxd_mutex_lock(&l->lock);
    while (l->epoch_set < p->epoch)
        mlxd_cond_wait(&l->changed, &l->lock);
    mlxd_mutex_unlock(&l->lock);
}

void mlxd_loop_stats(mlxd_loop *l, mlxd_engine_stats *out) {
    mlxd_mutex_lock(&l->lock);
    *out = l->stats;
    mlxd_mutex_unlock(&l->lock);
}

bool mlxd_loop_ready(mlxd_loop *l) {
    mlxd_mutex_lock(&l->lock);
    bool ready = l->stats.stages > 0;
    mlxd_mutex_unlock(&l->lock);
    return ready;
}

/* ---- actions out ---- */

static void act_embed(void *ctx, mlxd_step *step) {
    mlxd_loop *l = ctx;
    if (l->trace)
        mlxd_trace_step(&l->line, "embed", step, 0);
    mlxd_head_embed(l->head, step);
}

static void act_stage(void *ctx, mlxd_step *step, uint32_t index, bool last) {
    mlxd_loop *l = ctx;
    MLXD_ASSERT(index < l->pipeline.n_stages);
    if (l->trace)
        mlxd_trace_step(&l->line, last ? "stage-last" : "stage", step, index);
    mlxd_stage *s = l->pipeline.stages[index];
    s->ops->submit(s, step, last);
}

static void act_head(void *ctx, mlxd_step *step) {
    mlxd_loop *l = ctx;
    if (l->trace)
        mlxd_trace_step(&l->line, "head", step, 0);
    mlxd_head_draw(l->head, step);
}

static void act_drop(void *ctx, uint32_t index, uint64_t session) {
    mlxd_loop *l = ctx;
    MLXD_ASSERT(index < l->pipeline.n_stages);
    if (l->trace)
        mlxd_trace_drop(&l->line, index, session);
    mlxd_stage *s = l->pipeline.stages[index];
    s->ops->drop(s, session);
}

static void act_token(void *ctx, mlxd_request *r) {
    mlxd_loop *l = ctx;
    if (l->trace)
        mlxd_trace_request(&l->line, "token", r->id, MLXD_OK);
    if (r->sink.on_token)
        r->sink.on_token(r->sink.ctx, r);
}

static void act_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    mlxd_loop *l = ctx;
    static const mlxd_why none;
    if (l->trace)
        mlxd_trace_request(&l->line, "end", r->id, err);
    r->sink.on_end(r->sink.ctx, r, err, why ? why : &none);
}

/* ---- the thread ---- */

static void write_trace(mlxd_loop *l) {
    if (!l->trace)
        return;
    if (l->line.failed || fwrite(l->line.data, 1, l->line.len, l->trace) != l->line.len) {
        mlxd_log(MLXD_LOG_ERROR, "engine", "the trace cannot be written any more, it ends here");
        fclose(l->trace);
        l->trace = NULL;
    }
    mlxd_buf_clear(&l->line);
}

static void handle(mlxd_loop *l, const mlxd_event *ev) {
    if (l->trace)
        mlxd_trace_event(&l->line, ev);
    mlxd_engine_handle(l->engine, ev);
    write_trace(l);
    mlxd_mutex_lock(&l->lock);
    l->stats = *mlxd_engine_get_stats(l->engine);
    if (ev->type == MLXD_EVENT_PIPELINE) {
        l->pipeline = l->next;
        l->epoch_set = ev->epoch;
        mlxd_cond_broadcast(&l->changed);
    }
    mlxd_mutex_unlock(&l->lock);
}

static void loop_main(void *arg) {
    mlxd_loop *l = arg;
    mlxd_event ev;
    bool last = false; /* the STOP of mlxd_loop_close has been handled */
    while (!(last && mlxd_engine_idle(l->engine)) &&
           mlxd_queue_pop(l->events, &ev, UINT64_MAX) == MLXD_OK) {
        handle(l, &ev);
        last = last || (ev.type == MLXD_EVENT_STOP && atomic_load(&l->closing));
    }
}

mlxd_err mlxd_loop_open(mlxd_loop **out, const mlxd_loop_params *p, mlxd_why *why) {
    mlxd_loop *l = mlxd_mem_new(1, sizeof *l);
    if (!l)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&l->lock);
    mlxd_cond_init(&l->changed);
    mlxd_buf_init(&l->line, 0);
    l->head = p->head;
    l->clock = p->clock;
    mlxd_engine_ops ops = {act_embed, act_stage, act_head, act_drop, act_token, act_end, l};
    mlxd_err err = mlxd_engine_open(&l->engine, &p->engine, &ops, why);
    if (!err && p->trace_path) {
        l->trace = fopen(p->trace_path, "we");
        if (!l->trace)
            err = mlxd_fail(why, MLXD_ERR_IO, "%s: cannot write the trace (errno %d)",
                            p->trace_path, errno);
        else
            mlxd_trace_params(&l->line, &p->engine);
    }
    if (!err) {
        l->events = mlxd_queue_open(sizeof(mlxd_event), EVENTS_MAX);
        err = l->events
                  ? mlxd_thread_start(&l->thread, "engine", MLXD_PRIORITY_NORMAL, loop_main, l)
                  : MLXD_ERR_NOMEM;
        if (err)
            (void)mlxd_fail(why, err, "cannot start the engine thread");
    }
    if (err) {
        mlxd_loop_close(l);
        return err;
    }
    l->started = true;
    mlxd_head_set_done(p->head, on_head, l);
    *out = l;
    return MLXD_OK;
}

void mlxd_loop_close(mlxd_loop *l) {
    if (!l)
        return;
    if (l->started) {
        mlxd_event ev = {.type = MLXD_EVENT_STOP};
        atomic_store(&l->closing, true);
        post(l, &ev);
        mlxd_thread_join(&l->thread);
    }
    /* Events that came after everything had ended: cancels, late requests. */
    mlxd_event ev;
    while (l->events && mlxd_queue_pop(l->events, &ev, 0) == MLXD_OK)
        handle(l, &ev);
    if (l->trace)
        fclose(l->trace);
    mlxd_buf_deinit(&l->line);
    mlxd_queue_close(l->events);
    mlxd_engine_close(l->engine);
    mlxd_cond_deinit(&l->changed);
    mlxd_mutex_deinit(&l->lock);
    mlxd_mem_free(l);
}
