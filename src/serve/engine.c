/* engine.c - see engine.h. Sessions live in an array of fixed size, waiting requests in a ring, and
 * steps in a pool of twice as many as may be in flight. Memory is taken when the engine opens and
 * when a pipeline has more stages than any before it, never by a step.
 */
#include "serve/engine.h"

#include "base/mem.h"

#include <string.h>

/* Steps in flight are bounded by the number of stages; a lost pipeline may leave some of the old
 * epoch behind while the new one fills. */
#define STEPS_MAX (2 * MLXD_LIMIT_STAGES)

struct session {
    mlxd_request *request; /* NULL: slot is free, or kept */
    uint64_t id;           /* on the stages; of the first request */
    uint64_t kept;         /* the request after whose end this is kept; 0: it is not */
    uint32_t computed;     /* of a kept one: positions that every stage has */
    uint32_t submitted;    /* positions given to steps */
    uint32_t in_flight;    /* steps that carry a row of it */
    uint32_t pages;        /* reserved */
    uint64_t hash;         /* prefix hash before `submitted` */
    bool ending;           /* no more steps; ends when none is in flight */
    bool keep;             /* then it is kept */
    mlxd_err err;          /* how it ends */
    mlxd_why why;
};

/* A step with what the engine must remember about it while stages work on it. */
struct flight {
    mlxd_step *step; /* NULL: not yet made */
    bool used;
    uint64_t epoch;
    uint64_t handed_ns; /* to the stage or head that has it */
    uint32_t n_sessions;
    uint32_t *sessions; /* slots of the rows at formation; room for rows_max */
    uint64_t *ids;      /* of them */
};

struct mlxd_engine {
    mlxd_engine_params p;
    mlxd_engine_ops ops;
    uint32_t stages; /* 0: no pipeline */
    uint64_t epoch;
    uint32_t context, kv_pages; /* of the pipeline */
    mlxd_why down;              /* why there is no pipeline */
    bool stopped;
    bool served; /* there has been a pipeline: what is missing now was lost */
    struct session *sessions;
    uint32_t next_slot;     /* where the next step starts to look: round robin */
    mlxd_request **waiting; /* ring */
    uint32_t wait_head, wait_len;
    uint32_t pages_free;
    struct flight flights[STEPS_MAX];
    uint32_t in_flight; /* of the current epoch */
    uint64_t next_step;
    mlxd_engine_stats stats;
};

/* ---- open and close ---- */

mlxd_err mlxd_engine_open(mlxd_engine **out, const mlxd_engine_params *p,
                          const mlxd_engine_ops *ops, mlxd_why *why) {
    MLXD_ASSERT(p->prefill_chunk > 0 && p->step_tokens >= p->prefill_chunk);
    MLXD_ASSERT(p->step_tokens <= MLXD_LIMIT_STEP_TOKENS);
    MLXD_ASSERT(p->sessions_max > 0 && p->sessions_max <= MLXD_LIMIT_SESSIONS);
    MLXD_ASSERT(p->queue_max > 0);
    mlxd_engine *e = mlxd_mem_new(1, sizeof *e);
    if (e) {
        e->p = *p;
        e->ops = *ops;
        e->sessions = mlxd_mem_new(p->sessions_max, sizeof *e->sessions);
        e->waiting = mlxd_mem_new(p->queue_max, sizeof *e->waiting);
    }
    if (!e || !e->sessions || !e->waiting) {
        mlxd_engine_close(e);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the engine");
    }
    (void)mlxd_fail(&e->down, MLXD_ERR_STATE, "the model is still loading");
    *out = e;
    return MLXD_OK;
}

void mlxd_engine_close(mlxd_engine *e) {
    if (!e)
        return;
    for (size_t i = 0; i < STEPS_MAX; i++) {
        MLXD_ASSERT(!e->flights[i].used);
        mlxd_step_close(e->flights[i].step);
        mlxd_mem_free(e->flights[i].sessions);
        mlxd_mem_free(e->flights[i].ids);
    }
    mlxd_mem_free(e->waiting);
    mlxd_mem_free(e->sessions);
    mlxd_mem_free(e);
}

bool mlxd_engine_idle(const mlxd_engine *e) {
    for (size_t i = 0; i < STEPS_MAX; i++)
        if (e->flights[i].used)
            return false;
    return e->stats.running == 0 && e->wait_len == 0;
}

bool mlxd_engine_in_flight(const mlxd_engine *e, const mlxd_step *step) {
    for (size_t i = 0; i < STEPS_MAX; i++)
        if (e->flights[i].used && e->flights[i].step == step)
            return true;
    return false;
}

const mlxd_engine_stats *mlxd_engine_get_stats(const mlxd_engine *e) {
    return &e->stats;
}

/* ---- sessions ---- */

static uint32_t rows_max(const mlxd_engine *e) {
    return MLXD_MIN(MLXD_MIN(e->p.sessions_max, MLXD_LIMIT_STEP_ROWS), e->p.step_tokens);
}

/* Hands the request back. Its session, if it had one, is gone by now. */
static void end_request(mlxd_engine *e, mlxd_request *r, mlxd_err err, const mlxd_why *why,
                        uint64_t now) {
    r->timings.ended_ns = now;
    r->timings.stages = e->stages;
    if (err == MLXD_OK) {
        e->stats.succeeded++;
        e->stats.duration_ns += now - r->timings.submitted_ns;
    } else if (err == MLXD_ERR_CANCELLED) {
        e->stats.cancelled++;
    } else if (err == MLXD_ERR_FULL) {
        e->stats.rejected++;
    } else {
        e->stats.failed++;
    }
    e->ops.end(e->ops.ctx, r, err, why);
}

static void free_pages(mlxd_engine *e, struct session *s) {
    e->pages_free += s->pages;
    e->stats.kv_pages_reserved -= s->pages;
    s->pages = 0;
}

/* Frees the session's slot and pages, unless it is kept, and hands its request back. */
static void end_session(mlxd_engine *e, struct session *s, uint64_t now) {
    MLXD_ASSERT(s->request && s->ending && s->in_flight == 0);
    mlxd_request *r = s->request;
    if (s->keep)
        s->kept = r->id;
    else
        free_pages(e, s);
    e->stats.running--;
    s->request = NULL;
    end_request(e, r, s->err, &s->why, now);
}

static void drop(mlxd_engine *e, const struct session *s) {
    for (uint32_t i = 0; i < e->stages; i++)
        e->ops.drop(e->ops.ctx, i, s->id);
}

/* Forgets a kept session, any but `except`; NULL: there is none. */
static struct session *evict(mlxd_engine *e, const struct session *except) {
    for (uint32_t i = 0; i < e->p.sessions_max; i++) {
        struct session *s = &e->sessions[i];
        if (!s->kept || s == except)
            continue;
        drop(e, s);
        free_pages(e, s);
        s->kept = 0;
        return s;
    }
    return NULL;
}

/* No more work for this session. Its KV is freed at once, or kept; the request ends when no step in
 * flight can touch its generation any more. */
static void finish(mlxd_engine *e, struct session *s, mlxd_err err, const mlxd_why *why,
                   uint64_t now) {
    if (s->ending)
        return;
    s->err = err;
    s->why = why ? *why : (mlxd_why){0};
    mlxd_request *r = s->request;
    s->keep = r->keep && !e->stopped && (err == MLXD_OK || err == MLXD_ERR_CANCELLED);
    /* The last token was drawn and not computed on; without one only the beginning is certain. */
    s->computed = r->n_tokens > r->n_prompt ? r->n_tokens - 1 : r->cached;
    if (!s->keep && s->submitted > 0)
        drop(e, s);
    s->ending = true;
    if (s->in_flight == 0)
        end_session(e, s, now);
}

/* By its id on the stages. */
static struct session *find_session(mlxd_engine *e, uint64_t id) {
    for (uint32_t i = 0; i < e->p.sessions_max; i++)
        if (e->sessions[i].request && e->sessions[i].id == id)
            return &e->sessions[i];
    return NULL;
}

static uint32_t pages_for(const mlxd_request *r) {
    /* The last token that is drawn is never computed on. */
    return mlxd_kv_pages((uint64_t)r->n_prompt + r->max_tokens - 1);
}

static struct session *find_kept(mlxd_engine *e, uint64_t request) {
    for (uint32_t i = 0; i < e->p.sessions_max && request; i++)
        if (e->sessions[i].kept == request)
            return &e->sessions[i];
    return NULL;
}

static struct session *find_free(mlxd_engine *e) {
    for (uint32_t i = 0; i < e->p.sessions_max; i++)
        if (!e->sessions[i].request && !e->sessions[i].kept)
            return &e->sessions[i];
    return NULL;
}

/* A slot for the request, with enough free pages beside those that it has; NULL: not now. */
static struct session *find_place(mlxd_engine *e, const mlxd_request *r) {
    struct session *s = find_kept(e, r->continues);
    const struct session *kept = s;
    uint32_t have = s ? s->pages : 0;
    if (!s)
        s = find_free(e);
    if (!s)
        s = evict(e, NULL);
    if (!s)
        return NULL;
    while (pages_for(r) > have + e->pages_free)
        if (!evict(e, kept))
            return NULL;
    return s;
}

/* Gives waiting requests their session while there are slots and pages, oldest first. */
static void admit(mlxd_engine *e, uint64_t now) {
    while (e->wait_len > 0) {
        mlxd_request *r = e->waiting[e->wait_head];
        struct session *s = find_place(e, r);
        if (!s)
            return;
        e->wait_head = (e->wait_head + 1) % e->p.queue_max;
        e->wait_len--;
        r->cached = s->kept ? MLXD_MIN(MLXD_MIN(r->cached, s->computed), r->n_prompt - 1) : 0;
        free_pages(e, s);
        *s = (struct session){.request = r,
                              .id = s->kept ? s->id : r->id,
                              .submitted = r->cached,
                              .pages = pages_for(r),
                              .hash = mlxd_kv_hash_init()};
        for (uint32_t i = 0; i < r->cached; i++)
            s->hash = mlxd_kv_hash_add(s->hash, r->tokens[i]);
        r->timings.admitted_ns = now;
        e->pages_free -= s->pages;
        e->stats.kv_pages_reserved += s->pages;
        e->stats.running++;
    }
}

/* ---- steps ---- */

/* A prompt's chunks may follow each other; a drawn token waits for its step. */
static bool ready(const struct session *s) {
    if (!s->request || s->ending || s->submitted == s->request->n_tokens)
        return false;
    return s->submitted < s->request->n_prompt || s->in_flight == 0;
}

/* Memory for `count` flights; what exists is kept. */
static bool make_flights(mlxd_engine *e, uint32_t count) {
    for (size_t i = 0; i < count; i++) {
        struct flight *f = &e->flights[i];
        if (!f->step)
            f->step = mlxd_step_open(rows_max(e), e->p.step_tokens, e->p.width);
        if (!f->sessions)
            f->sessions = mlxd_mem_new(rows_max(e), sizeof *f->sessions);
        if (!f->ids)
            f->ids = mlxd_mem_new(rows_max(e), sizeof *f->ids);
        if (!f->step || !f->sessions || !f->ids)
            return false;
    }
    return true;
}

/* A flight with memory that nobody uses; NULL while steps of an old epoch hold them all. */
static struct flight *take_flight(mlxd_engine *e) {
    for (size_t i = 0; i < STEPS_MAX; i++)
        if (!e->flights[i].used && e->flights[i].ids)
            return &e->flights[i];
    return NULL;
}

/* Adds the session's next piece of work to the step; false when there is no room for any. */
static bool add_row(mlxd_engine *e, struct flight *f, uint32_t slot) {
    struct session *s = &e->sessions[slot];
    const mlxd_request *r = s->request;
    uint32_t room = f->step->tokens_max - f->step->n_tokens;
    uint32_t n = MLXD_MIN(r->n_tokens - s->submitted, MLXD_MIN(e->p.prefill_chunk, room));
    if (n == 0)
        return false;
    bool draws = s->submitted + n == r->n_tokens;
    mlxd_row row = {.session = s->id,
                    .prefix_hash = s->hash,
                    .position = s->submitted,
                    .n_tokens = n,
                    .n_out = draws ? 1 : 0,
                    .tokens = r->tokens + s->submitted};
    if (!mlxd_step_add(f->step, &row, draws ? r->generation : NULL))
        return false;
    for (uint32_t i = 0; i < n; i++)
        s->hash = mlxd_kv_hash_add(s->hash, r->tokens[s->submitted + i]);
    s->submitted += n;
    s->in_flight++;
    f->sessions[f->n_sessions] = slot;
    f->ids[f->n_sessions++] = s->id;
    return true;
}

/* One step of up to `share` ready sessions, decoding ones first: they are the ones somebody is
 * watching, and they are small. */
static void form_step(mlxd_engine *e, struct flight *f, uint32_t share, uint64_t now) {
    mlxd_step_clear(f->step);
    f->step->id = ++e->next_step;
    f->step->epoch = f->epoch = e->epoch;
    f->n_sessions = 0;
    for (int prefill = 0; prefill < 2; prefill++)
        for (uint32_t i = 0; i < e->p.sessions_max && f->n_sessions < share; i++) {
            uint32_t slot = (e->next_slot + i) % e->p.sessions_max;
            struct session *s = &e->sessions[slot];
            if (ready(s) && (s->submitted < s->request->n_prompt) == prefill)
                if (!add_row(e, f, slot))
                    break;
        }
    MLXD_ASSERT(f->n_sessions > 0);
    e->next_slot = (f->sessions[f->n_sessions - 1] + 1) % e->p.sessions_max;
    f->used = true;
    f->handed_ns = now;
    e->in_flight++;
    e->stats.steps++;
    e->stats.step_rows += f->step->n_rows;
    e->stats.step_tokens += f->step->n_tokens;
    e->ops.embed(e->ops.ctx, f->step);
}

static void form_steps(mlxd_engine *e, uint64_t now) {
    while (e->stages > 0 && e->in_flight < e->stages) {
        uint32_t n = 0, open = e->stages - e->in_flight;
        for (uint32_t i = 0; i < e->p.sessions_max; i++)
            n += ready(&e->sessions[i]);
        struct flight *f = n > 0 ? take_flight(e) : NULL;
        if (!f)
            return;
        form_step(e, f, MLXD_MIN((n + open - 1) / open, rows_max(e)), now);
    }
}

static struct flight *find_flight(mlxd_engine *e, const mlxd_step *step) {
    for (size_t i = 0; i < STEPS_MAX; i++)
        if (e->flights[i].used && e->flights[i].step == step)
            return &e->flights[i];
    mlxd_assert_failed("the step that came back is in flight", __FILE__, __LINE__);
}

/* The step is over: its sessions may go on, or end if they were waiting for that. */
static void land(mlxd_engine *e, struct flight *f, mlxd_err err, const mlxd_why *why,
                 uint64_t now) {
    const mlxd_step *step = f->step;
    static const mlxd_why lost = {"a stage left the request out of a step"};
    f->used = false;
    if (f->epoch == e->epoch)
        e->in_flight--;
    else
        e->stats.stale_steps++;
    for (uint32_t i = 0, r = 0; i < f->n_sessions; i++) {
        struct session *s = &e->sessions[f->sessions[i]];
        /* Rows that were left out are gone, the others are in their old order. */
        bool there = r < step->n_rows && step->rows[r].session == f->ids[i];
        r += there;
        MLXD_ASSERT(s->request && s->id == f->ids[i] && s->in_flight > 0);
        s->in_flight--;
        if (s->ending && s->in_flight == 0)
            end_session(e, s, now);
        else if (err && err != MLXD_ERR_CANCELLED)
            finish(e, s, err, why, now);
        else if (err || !there) /* that is only for sessions which were dropped */
            finish(e, s, MLXD_ERR_PEER, &lost, now);
    }
}

static bool session_gone(void *ctx, uint64_t id) {
    const struct session *s = find_session(ctx, id);
    return !s || s->ending;
}

/* Adds the time the step spent at stage `index` (the head: index = stages) to those who rode it. */
static void account(mlxd_engine *e, struct flight *f, bool head, uint32_t index, uint64_t now) {
    uint64_t total = now - f->handed_ns, compute = f->step->compute_ns;
    if (head) {
        e->stats.head_ns += total;
    } else {
        e->stats.stage[index].steps++;
        e->stats.stage[index].compute_ns += compute;
        e->stats.stage[index].total_ns += total;
    }
    for (uint32_t i = 0; i < f->n_sessions; i++) {
        mlxd_timings *t = &e->sessions[f->sessions[i]].request->timings;
        if (head) {
            t->head_ns += total;
            continue;
        }
        t->stage[index].compute_ns += compute;
        t->stage[index].total_ns += total;
        t->steps += index == 0;
    }
}

/* Passes a step that came back from the embedding or from stage `index` - 1 on to stage `index`,
 * or to the head, or lands it when nothing is drawn. */
static void advance(mlxd_engine *e, struct flight *f, uint32_t index, uint64_t now) {
    mlxd_step *s = f->step;
    bool draws = false;
    f->handed_ns = now;
    if (index < e->stages) {
        mlxd_step_remove(s, session_gone, e);
        if (s->n_rows == 0)
            land(e, f, MLXD_OK, NULL, now);
        else
            e->ops.stage(e->ops.ctx, s, index, index + 1 == e->stages);
        return;
    }
    for (uint32_t r = 0; r < s->n_rows; r++) {
        if (s->generations[r] && session_gone(e, s->rows[r].session))
            s->generations[r] = NULL;
        draws = draws || s->generations[r];
    }
    if (draws)
        e->ops.head(e->ops.ctx, s);
    else
        land(e, f, MLXD_OK, NULL, now);
}

/* Appends what was drawn to the transcripts and lets the clients have it. */
static void deliver(mlxd_engine *e, struct flight *f, uint64_t now) {
    const mlxd_step *s = f->step;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        struct session *session = find_session(e, s->rows[r].session);
        if (!s->generations[r] || !session || session->ending)
            continue;
        mlxd_request *request = session->request;
        MLXD_ASSERT(request->n_tokens < request->n_prompt + request->max_tokens);
        request->tokens[request->n_tokens++] = s->drawn[r];
        e->stats.generated_tokens++;
        if (!request->timings.first_ns)
            request->timings.first_ns = now;
        bool full = request->n_tokens == request->n_prompt + request->max_tokens;
        if (s->finish[r] == MLXD_FINISH_NONE && !full)
            e->ops.token(e->ops.ctx, request);
        else
            finish(e, session, MLXD_OK, NULL, now);
    }
}

/* ---- events ---- */

static void on_request(mlxd_engine *e, mlxd_request *r, uint64_t now) {
    mlxd_why why;
    mlxd_err err = MLXD_OK;
    r->timings = (mlxd_timings){.submitted_ns = now};
    e->stats.requests++;
    e->stats.prompt_tokens += r->n_prompt;
    uint64_t positions = (uint64_t)r->n_prompt + r->max_tokens - 1;
    if (e->stopped)
        err = mlxd_fail(&why, MLXD_ERR_STATE, "the server is shutting down");
    else if (e->stages == 0)
        err = mlxd_fail(&why, e->served ? MLXD_ERR_AGAIN : MLXD_ERR_STATE, "%s", e->down.text);
    else if (positions > e->context || pages_for(r) > e->kv_pages)
        err = mlxd_fail(&why, MLXD_ERR_RANGE, "%llu positions do not fit the context of %u",
                        (unsigned long long)positions, e->context);
    else if (e->wait_len == e->p.queue_max)
        err = mlxd_fail(&why, MLXD_ERR_FULL, "%u requests are waiting already", e->wait_len);
    if (err) {
        end_request(e, r, err, &why, now);
        return;
    }
    e->waiting[(e->wait_head + e->wait_len++) % e->p.queue_max] = r;
}

static void on_cancel(mlxd_engine *e, uint64_t id, uint64_t now) {
    for (uint32_t i = 0; i < e->p.sessions_max; i++) {
        struct session *s = &e->sessions[i];
        if (s->request && s->request->id == id) {
            finish(e, s, MLXD_ERR_CANCELLED, NULL, now);
            return;
        }
    }
    for (uint32_t i = 0; i < e->wait_len; i++) {
        mlxd_request *r = e->waiting[(e->wait_head + i) % e->p.queue_max];
        if (r->id != id)
            continue;
        for (; i + 1 < e->wait_len; i++)
            e->waiting[(e->wait_head + i) % e->p.queue_max] =
                e->waiting[(e->wait_head + i + 1) % e->p.queue_max];
        e->wait_len--;
        end_request(e, r, MLXD_ERR_CANCELLED, NULL, now);
        return;
    }
}

/* Ends everything that runs or waits. */
static void end_all(mlxd_engine *e, mlxd_err err, const mlxd_why *why, uint64_t now) {
    while (e->wait_len > 0) {
        mlxd_request *r = e->waiting[e->wait_head];
        e->wait_head = (e->wait_head + 1) % e->p.queue_max;
        e->wait_len--;
        end_request(e, r, err, why, now);
    }
    for (uint32_t i = 0; i < e->p.sessions_max; i++)
        if (e->sessions[i].request)
            finish(e, &e->sessions[i], err, why, now);
}

static void on_pipeline(mlxd_engine *e, const mlxd_event *ev) {
    MLXD_ASSERT(ev->stages <= MLXD_LIMIT_STAGES && ev->epoch > e->epoch);
    end_all(e, MLXD_ERR_PEER, &ev->why, ev->time_ns);
    e->served = e->served || e->stages > 0;
    e->stages = ev->stages;
    e->epoch = ev->epoch;
    e->in_flight = 0;
    e->context = ev->context;
    e->down = ev->why;
    /* Sessions that still wait for steps of the old epoch hold nothing of the new pool. */
    for (uint32_t i = 0; i < e->p.sessions_max; i++) {
        e->sessions[i].pages = 0;
        e->sessions[i].kept = 0;
        e->sessions[i].keep = false;
    }
    e->kv_pages = e->pages_free = e->stats.kv_pages_max = ev->kv_pages;
    e->stats.kv_pages_reserved = 0;
    if (!make_flights(e, 2 * e->stages)) {
        e->stages = 0;
        (void)mlxd_fail(&e->down, MLXD_ERR_NOMEM, "no memory for steps of %u tokens",
                        e->p.step_tokens);
    }
}

static void on_step(mlxd_engine *e, const mlxd_event *ev) {
    struct flight *f = find_flight(e, ev->step);
    bool head = ev->type == MLXD_EVENT_DRAWN || ev->type == MLXD_EVENT_EMBEDDED;
    if (f->epoch != e->epoch) {
        land(e, f, MLXD_OK, NULL, ev->time_ns);
        return;
    }
    account(e, f, head, ev->index, ev->time_ns);
    if (ev->err) {
        land(e, f, ev->err, &ev->why, ev->time_ns);
        return;
    }
    if (ev->type == MLXD_EVENT_DRAWN) {
        deliver(e, f, ev->time_ns);
        land(e, f, MLXD_OK, NULL, ev->time_ns);
        return;
    }
    advance(e, f, ev->type == MLXD_EVENT_EMBEDDED ? 0 : ev->index + 1, ev->time_ns);
}

void mlxd_engine_handle(mlxd_engine *e, const mlxd_event *ev) {
    MLXD_ASSERT((unsigned)ev->type < MLXD_EVENT_TYPES);
    switch (ev->type) {
    case MLXD_EVENT_REQUEST:
        on_request(e, ev->request, ev->time_ns);
        break;
    case MLXD_EVENT_CANCEL:
        on_cancel(e, ev->id, ev->time_ns);
        break;
    case MLXD_EVENT_PIPELINE:
        on_pipeline(e, ev);
        break;
    case MLXD_EVENT_STOP:
        e->stopped = true;
        end_all(e, MLXD_ERR_CANCELLED, &ev->why, ev->time_ns);
        while (evict(e, NULL))
            ;
        break;
    default:
        on_step(e, ev);
    }
    admit(e, ev->time_ns);
    form_steps(e, ev->time_ns);
    e->stats.waiting = e->wait_len;
    e->stats.in_flight = e->in_flight;
    e->stats.stages = e->stages;
    e->stats.context = e->context;
    e->stats.epoch = e->epoch;
}
