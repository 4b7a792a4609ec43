/* engine_world.h - for tests of the engine's core: everything around it, by hand. Stages and head
 * are queues of steps that the test completes when it wants; nothing is computed. What the engine
 * does is checked against what it may do:
 *
 *   - a request ends exactly once, and nothing happens to it afterwards
 *   - rows of a session are computed once and in order, at every stage, on the right tokens
 *   - requests are admitted in their order, as soon as a slot and their pages are there
 *   - as many steps are in flight as there are stages, as long as a session has work
 *
 * With `trace` set the world writes the lines that engine_loop.c writes.
 */
#ifndef MLXD_TESTS_ENGINE_WORLD_H
#define MLXD_TESTS_ENGINE_WORLD_H

#include "../../support/random.h"

#include "base/mem.h"
#include "serve/engine.h"
#include "serve/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define WORLD_REQUESTS 4000
#define WORLD_STAGES 6
#define WORLD_QUEUE 256

/* A request as the world sees it; its id is its index + 1. */
typedef struct world_request {
    mlxd_request *r; /* NULL: has ended */
    uint32_t n_prompt, max_tokens;
    uint32_t n_tokens;          /* prompt and drawn */
    uint32_t submitted;         /* positions in steps so far */
    uint32_t kv[WORLD_STAGES];  /* positions each stage has */
    bool dropped[WORLD_STAGES]; /* the stage was told to forget it */
    bool ending;                /* no more work for it: cancelled, finished, failed */
    bool lost;                  /* a stage left it out of a step */
    uint64_t epoch;             /* when it was admitted */
    unsigned ended;             /* times */
    mlxd_err err;
    char why[80];
    uint64_t served; /* number of the last step with a row of it */
} world_request;

enum { WORLD_EMBED, WORLD_STAGE, WORLD_DRAW };

typedef struct world_work {
    mlxd_step *step;
    int kind;
    uint32_t index;
} world_work;

/* The rows of a step when it was formed. */
typedef struct world_flight {
    mlxd_step *step;
    uint64_t ids[64];
    uint32_t n;
} world_flight;

typedef struct world_place { /* first in, first out */
    world_work work[WORLD_QUEUE];
    uint32_t head, len;
} world_place;

typedef struct world {
    mlxd_engine *e;
    mlxd_engine_params p;
    uint64_t now, epoch;
    uint32_t stages, context, kv_pages;
    world_request requests[WORLD_REQUESTS];
    uint32_t n_requests;
    uint32_t n_flights;
    world_flight flights[2 * MLXD_LIMIT_STAGES];
    world_place head, stage[WORLD_STAGES];
    uint32_t out;           /* steps given out */
    uint64_t steps;         /* formed */
    uint64_t tokens, drops; /* actions seen */
    bool endless;           /* the head never says that an answer is over */
    mlxd_buf *trace;
} world;

static inline world_request *world_find(world *w, uint64_t id) {
    if (id < 1 || id > w->n_requests)
        abort();
    return &w->requests[id - 1];
}

static inline void world_put(world *w, world_place *p, mlxd_step *s, int kind, uint32_t index) {
    world_work *work = &p->work[(p->head + p->len++) % WORLD_QUEUE];
    assert_true(p->len < WORLD_QUEUE);
    *work = (world_work){.step = s, .kind = kind, .index = index};
    w->out++;
}

static inline world_flight *world_flight_of(world *w, const mlxd_step *s) {
    for (uint32_t i = 0; i < w->n_flights; i++)
        if (w->flights[i].step == s)
            return &w->flights[i];
    return NULL;
}

/* Steps that carry the request. */
static inline uint32_t world_in_flight(world *w, uint64_t id) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_flights; i++)
        for (uint32_t r = 0; r < w->flights[i].n; r++)
            n += w->flights[i].ids[r] == id && mlxd_engine_in_flight(w->e, w->flights[i].step);
    return n;
}

/* Notes what is in a step. */
static inline void world_add_flight(world *w, mlxd_step *s) {
    world_flight *f = world_flight_of(w, s);
    if (!f) {
        assert_true(w->n_flights < MLXD_COUNT_OF(w->flights));
        f = &w->flights[w->n_flights++];
    }
    assert_true(s->n_rows <= MLXD_COUNT_OF(f->ids));
    *f = (world_flight){.step = s, .n = s->n_rows};
    for (uint32_t r = 0; r < s->n_rows; r++)
        f->ids[r] = s->rows[r].session;
}

/* ---- actions ---- */

static inline void world_check_row(world *w, const mlxd_step *s, uint32_t r) {
    const mlxd_row *row = &s->rows[r];
    world_request *q = world_find(w, row->session);
    assert_true(q->r && !q->ending);
    assert_true(row->n_tokens > 0 && row->n_tokens <= w->p.prefill_chunk);
    assert_int_equal(row->position, q->submitted);
    assert_true(row->position + row->n_tokens <= q->n_tokens);
    /* A drawn token is computed when its draw is over, alone. */
    assert_true(row->position < q->n_prompt || world_in_flight(w, row->session) == 0);
    assert_memory_equal(row->tokens, q->r->tokens + row->position, row->n_tokens * 4);
    uint64_t hash = mlxd_kv_hash_init();
    for (uint32_t i = 0; i < row->position; i++)
        hash = mlxd_kv_hash_add(hash, q->r->tokens[i]);
    assert_true(hash == row->prefix_hash);
    bool draws = row->position + row->n_tokens == q->n_tokens;
    assert_int_equal(row->n_out, draws);
    assert_ptr_equal(s->generations[r], draws ? q->r->generation : NULL);
    for (uint32_t other = 0; other < r; other++)
        assert_true(s->rows[other].session != row->session);
    q->submitted += row->n_tokens;
    q->served = w->steps;
}

static inline void world_embed(void *ctx, mlxd_step *s) {
    world *w = ctx;
    if (w->trace)
        mlxd_trace_step(w->trace, "embed", s, 0);
    w->steps++;
    assert_true(s->epoch == w->epoch && w->stages > 0);
    assert_true(s->n_rows > 0 && s->n_tokens <= w->p.step_tokens);
    assert_int_equal(s->n_hidden, s->n_tokens);
    world_flight *old = world_flight_of(w, s);
    if (old)
        old->n = 0;
    for (uint32_t r = 0; r < s->n_rows; r++)
        world_check_row(w, s, r);
    world_add_flight(w, s);
    world_put(w, &w->head, s, WORLD_EMBED, 0);
}

static inline void world_stage(void *ctx, mlxd_step *s, uint32_t index, bool last) {
    world *w = ctx;
    if (w->trace)
        mlxd_trace_step(w->trace, last ? "stage-last" : "stage", s, index);
    assert_true(s->epoch == w->epoch && index < w->stages);
    assert_int_equal(last, index + 1 == w->stages);
    assert_true(s->n_rows > 0);
    for (uint32_t r = 0; r < s->n_rows; r++)
        assert_non_null(world_find(w, s->rows[r].session)->r);
    world_put(w, &w->stage[index], s, WORLD_STAGE, index);
}

static inline void world_head(void *ctx, mlxd_step *s) {
    world *w = ctx;
    bool draws = false;
    if (w->trace)
        mlxd_trace_step(w->trace, "head", s, 0);
    assert_true(s->epoch == w->epoch);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        if (!s->generations[r])
            continue;
        draws = true; /* for those who still want it; the head may touch it until it is back */
        const world_request *q = world_find(w, s->rows[r].session);
        assert_ptr_equal(q->r->generation, s->generations[r]);
        assert_false(q->ending);
    }
    assert_true(draws);
    world_put(w, &w->head, s, WORLD_DRAW, 0);
}

static inline void world_drop(void *ctx, uint32_t index, uint64_t id) {
    world *w = ctx;
    if (w->trace)
        mlxd_trace_drop(w->trace, index, id);
    world_request *q = world_find(w, id);
    assert_true(index < w->stages && !q->dropped[index] && q->submitted > 0);
    q->dropped[index] = true;
    w->drops++;
}

static inline void world_token(void *ctx, mlxd_request *r) {
    world *w = ctx;
    if (w->trace)
        mlxd_trace_request(w->trace, "token", r->id, MLXD_OK);
    assert_ptr_equal(world_find(w, r->id)->r, r);
    w->tokens++;
}

static inline void world_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    world *w = ctx;
    if (w->trace)
        mlxd_trace_request(w->trace, "end", r->id, err);
    world_request *q = world_find(w, r->id);
    assert_ptr_equal(q->r, r);
    assert_int_equal(world_in_flight(w, r->id), 0);
    if (q->submitted > 0 && q->epoch == w->epoch)
        for (uint32_t i = 0; i < w->stages; i++)
            assert_true(q->dropped[i]);
    q->ended++;
    q->err = err;
    snprintf(q->why, sizeof q->why, "%.79s", why ? why->text : "");
    assert_true(err == MLXD_OK || err == MLXD_ERR_CANCELLED || q->why[0]);
    q->r = NULL;
    r->generation = NULL; /* not a real one */
    mlxd_request_close(r);
}

/* ---- what must always hold ---- */

static inline uint32_t world_pages(const world_request *q) {
    return (q->n_prompt + q->max_tokens - 1 + MLXD_PAGE - 1) / MLXD_PAGE;
}

static inline bool world_ready(world *w, uint64_t id) {
    world_request *q = world_find(w, id);
    if (!q->r || !q->epoch || q->ending || q->lost)
        return false;
    return q->submitted < q->n_prompt ||
           (q->submitted < q->n_tokens && world_in_flight(w, id) == 0);
}

static inline void world_check(world *w) {
    const mlxd_engine_stats *s = mlxd_engine_get_stats(w->e);
    uint32_t running = 0, waiting = 0, ready = 0, pages = 0;
    const world_request *next = NULL; /* the oldest that waits */
    for (uint32_t i = 0; i < w->n_requests; i++) {
        world_request *q = &w->requests[i];
        if (!q->r)
            continue;
        bool admitted = q->r->timings.admitted_ns > 0;
        if (admitted && !q->epoch)
            q->epoch = w->epoch;
        running += admitted;
        waiting += !admitted;
        pages += q->epoch == w->epoch ? world_pages(q) : 0;
        ready += world_ready(w, i + 1);
        if (admitted)
            assert_null(next); /* nobody overtakes */
        else if (!next)
            next = q;
    }
    assert_int_equal(s->running, running);
    assert_int_equal(s->waiting, waiting);
    assert_int_equal(s->kv_pages_reserved, pages);
    assert_int_equal(s->kv_pages_max, w->kv_pages);
    assert_true(running <= w->p.sessions_max && waiting <= w->p.queue_max);
    assert_true(s->in_flight <= w->stages && pages <= w->kv_pages);
    if (ready && s->in_flight < w->stages && w->out < 2 * w->stages)
        fail_msg("%u sessions have work, %u of %u steps are in flight", ready, s->in_flight,
                 w->stages);
    if (next && running < w->p.sessions_max)
        assert_true(pages + world_pages(next) > w->kv_pages);
    assert_int_equal(mlxd_engine_idle(w->e), running + waiting + w->out == 0);
}

static inline void world_handle(world *w, mlxd_event *ev) {
    ev->time_ns = ++w->now;
    if (w->trace)
        mlxd_trace_event(w->trace, ev);
    mlxd_engine_handle(w->e, ev);
}

/* ---- events ---- */

static inline void world_open(world *w, const mlxd_engine_params *p) {
    mlxd_engine_ops ops = {world_embed, world_stage, world_head, world_drop,
                           world_token, world_end,   w};
    mlxd_why why = {0};
    mlxd_buf *trace = w->trace;
    memset(w, 0, sizeof *w);
    w->trace = trace;
    w->p = *p;
    if (trace)
        mlxd_trace_params(trace, p);
    if (mlxd_engine_open(&w->e, p, &ops, &why))
        fail_msg("%s", why.text);
}

static inline void world_pipeline(world *w, uint32_t stages, uint32_t context, uint32_t pages) {
    mlxd_event ev = {.type = MLXD_EVENT_PIPELINE,
                     .stages = stages,
                     .epoch = w->epoch + 1,
                     .context = context,
                     .kv_pages = pages};
    (void)mlxd_fail(&ev.why, MLXD_ERR_PEER, "mini2 is gone");
    for (uint32_t i = 0; i < w->n_requests; i++)
        w->requests[i].ending = true;
    /* The engine ends what there is with the old pipeline still in place. */
    world_handle(w, &ev);
    w->stages = stages;
    w->epoch++;
    w->context = context;
    w->kv_pages = pages;
    for (uint32_t i = 0; i < w->n_requests; i++)
        memset(w->requests[i].kv, 0, sizeof w->requests[i].kv);
    world_check(w);
}

static inline uint64_t world_ask(world *w, uint32_t n_prompt, uint32_t max_tokens) {
    int32_t prompt[2000];
    assert_true(w->n_requests < WORLD_REQUESTS && n_prompt <= MLXD_COUNT_OF(prompt));
    world_request *q = &w->requests[w->n_requests++];
    uint64_t id = w->n_requests;
    *q = (world_request){.n_prompt = n_prompt, .max_tokens = max_tokens, .n_tokens = n_prompt};
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)(id * 1000 + i);
    mlxd_request_sink none = {0};
    q->r = mlxd_request_open(prompt, n_prompt, max_tokens, (mlxd_generation *)(uintptr_t)id, none);
    assert_non_null(q->r);
    q->r->id = id;
    mlxd_event ev = {.type = MLXD_EVENT_REQUEST, .request = q->r};
    world_handle(w, &ev);
    world_check(w);
    return id;
}

static inline void world_cancel(world *w, uint64_t id) {
    mlxd_event ev = {.type = MLXD_EVENT_CANCEL, .id = id};
    if (id >= 1 && id <= w->n_requests)
        world_find(w, id)->ending = true;
    world_handle(w, &ev);
    world_check(w);
}

static inline void world_stop(world *w) {
    mlxd_event ev = {.type = MLXD_EVENT_STOP};
    for (uint32_t i = 0; i < w->n_requests; i++)
        w->requests[i].ending = true;
    world_handle(w, &ev);
    world_check(w);
}

/* ---- steps come back ---- */

typedef enum world_fault {
    WORLD_WELL,
    WORLD_FAIL,      /* the whole step, CORRUPT */
    WORLD_LEAVE_OUT, /* a row that nobody dropped */
    WORLD_GIVE_UP,   /* CANCELLED, although nobody cancelled */
} world_fault;

typedef struct world_choice {
    world *w;
    uint32_t index;
    uint64_t leave_out; /* 0: nobody */
    bool late;          /* drops arrive when the step is computed */
} world_choice;

static inline bool world_row_gone(void *ctx, uint64_t id) {
    const world_choice *c = ctx;
    return id == c->leave_out || (world_find(c->w, id)->dropped[c->index] && !c->late);
}

/* What the stage does with the rows: leaves dropped ones out, if it knows, computes the others. */
static inline mlxd_err world_compute(world *w, const world_work *work, world_fault fault) {
    mlxd_step *s = work->step;
    world_choice c = {w, work->index, 0, s->id % 3 == 0};
    if (fault == WORLD_LEAVE_OUT) {
        c.leave_out = s->rows[s->n_rows / 2].session;
        world_find(w, c.leave_out)->lost = true;
    }
    mlxd_step_remove(s, world_row_gone, &c);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        world_request *q = world_find(w, s->rows[r].session);
        /* In order, once. */
        assert_true(q->lost || q->ending || s->rows[r].position == q->kv[work->index]);
        q->kv[work->index] += s->rows[r].n_tokens;
        q->lost = q->lost || fault == WORLD_GIVE_UP;
    }
    if (s->n_rows == 0 || fault == WORLD_GIVE_UP)
        return MLXD_ERR_CANCELLED;
    if (work->index + 1 == w->stages)
        mlxd_step_compact(s);
    return MLXD_OK;
}

/* A token for each row that draws; one answer in `one_in` stops after each (0: none). */
static inline void world_draw(world *w, mlxd_step *s, random_state *rng, uint32_t one_in) {
    for (uint32_t r = 0; r < s->n_rows; r++) {
        world_request *q = world_find(w, s->rows[r].session);
        if (!s->generations[r])
            continue;
        assert_int_equal(s->rows[r].position + s->rows[r].n_tokens, q->n_tokens);
        s->drawn[r] = (int32_t)(s->rows[r].session * 1000 + q->n_tokens);
        bool stop = one_in && random_below(rng, one_in) == 0;
        s->finish[r] = stop ? MLXD_FINISH_STOP : MLXD_FINISH_NONE;
        bool full = q->n_tokens + 1 == q->n_prompt + q->max_tokens;
        if (full && !w->endless)
            s->finish[r] = MLXD_FINISH_LENGTH;
        if (q->ending)
            continue;
        q->n_tokens++;
        q->ending = full || s->finish[r] != MLXD_FINISH_NONE;
    }
}

/* The oldest work of a place is done. */
static inline void world_complete(world *w, world_place *p, world_fault fault, random_state *rng,
                                  uint32_t one_in) {
    assert_true(p->len > 0);
    world_work work = p->work[p->head];
    mlxd_step *s = work.step;
    mlxd_event ev = {.type = work.kind == WORLD_EMBED   ? MLXD_EVENT_EMBEDDED
                             : work.kind == WORLD_STAGE ? MLXD_EVENT_STAGED
                                                        : MLXD_EVENT_DRAWN,
                     .step = s,
                     .index = work.index};
    p->head = (p->head + 1) % WORLD_QUEUE;
    p->len--;
    w->out--;
    s->compute_ns = 1;
    if (s->epoch != w->epoch)
        ev.err = fault ? MLXD_ERR_PEER : MLXD_OK;
    else if (fault == WORLD_FAIL)
        ev.err = MLXD_ERR_CORRUPT;
    else if (work.kind == WORLD_STAGE)
        ev.err = world_compute(w, &work, fault);
    else if (work.kind == WORLD_DRAW)
        world_draw(w, s, rng, one_in);
    if (ev.err)
        (void)mlxd_fail(&ev.why, ev.err, "stage %u fails", work.index);
    if (ev.err && ev.err != MLXD_ERR_CANCELLED) {
        const world_flight *f = world_flight_of(w, s);
        for (uint32_t i = 0; i < f->n; i++)
            world_find(w, f->ids[i])->ending = true;
    }
    world_handle(w, &ev);
    world_check(w);
}

static inline world_place *world_at(world *w, uint32_t place) {
    return place == 0 ? &w->head : &w->stage[place - 1];
}

/* Completes work everywhere, without faults, until nothing is out. */
static inline void world_run(world *w) {
    random_state rng = {1};
    while (w->out > 0)
        for (uint32_t i = 0; i <= WORLD_STAGES; i++)
            if (world_at(w, i)->len > 0)
                world_complete(w, world_at(w, i), WORLD_WELL, &rng, 0);
}

/* Everything ends, everything comes back. */
static inline void world_close(world *w) {
    world_stop(w);
    world_run(w);
    assert_true(mlxd_engine_idle(w->e));
    assert_int_equal(mlxd_engine_get_stats(w->e)->kv_pages_reserved, 0);
    for (uint32_t i = 0; i < w->n_requests; i++)
        assert_int_equal(w->requests[i].ended, 1);
    mlxd_engine_close(w->e);
}

#endif
