/* replay.c - drives a fresh engine with the events of a trace and compares its actions, line by
 * line, with the recorded ones. Steps carry no hidden states and generations are only told apart
 * from NULL, so nothing is computed.
 */
#include "serve/trace.h"

#include "base/mem.h"
#include "format/json.h"
#include "serve/trace_names.h"

#include <stdio.h>
#include <string.h>

const char *const mlxd_trace_event_names[MLXD_EVENT_TYPES] = {
    [MLXD_EVENT_REQUEST] = "request",   [MLXD_EVENT_CANCEL] = "cancel",
    [MLXD_EVENT_EMBEDDED] = "embedded", [MLXD_EVENT_STAGED] = "staged",
    [MLXD_EVENT_DRAWN] = "drawn",       [MLXD_EVENT_PIPELINE] = "pipeline",
    [MLXD_EVENT_STOP] = "stop",
};

#define STEPS_KNOWN (2 * MLXD_LIMIT_STAGES)            /* as many as an engine makes */
#define PROMPTS_MAX (UINT64_C(4) * MLXD_LIMIT_CONTEXT) /* tokens of all requests alive */

struct replay {
    mlxd_engine *engine;
    mlxd_buf acted;                /* what the engine did for the current event */
    mlxd_buf wanted;               /* what the trace says it did */
    mlxd_step *steps[STEPS_KNOWN]; /* every one that was ever given out */
    size_t n_steps;
    uint64_t prompts; /* tokens */
    unsigned line;
};

/* ---- the engine's actions: written down, nothing else ---- */

static void remember(struct replay *r, mlxd_step *s) {
    for (size_t i = 0; i < r->n_steps; i++)
        if (r->steps[i] == s)
            return;
    MLXD_ASSERT(r->n_steps < STEPS_KNOWN);
    r->steps[r->n_steps++] = s;
}

/* NULL unless a step of this id is in flight. */
static mlxd_step *find_step(const struct replay *r, uint64_t id) {
    for (size_t i = 0; i < r->n_steps; i++)
        if (r->steps[i]->id == id && mlxd_engine_in_flight(r->engine, r->steps[i]))
            return r->steps[i];
    return NULL;
}

static void act_embed(void *ctx, mlxd_step *s) {
    struct replay *r = ctx;
    remember(r, s);
    mlxd_trace_step(&r->acted, "embed", s, 0);
}

static void act_stage(void *ctx, mlxd_step *s, uint32_t index, bool last) {
    struct replay *r = ctx;
    mlxd_trace_step(&r->acted, last ? "stage-last" : "stage", s, index);
}

static void act_head(void *ctx, mlxd_step *s) {
    struct replay *r = ctx;
    mlxd_trace_step(&r->acted, "head", s, 0);
}

static void act_drop(void *ctx, uint32_t index, uint64_t session) {
    struct replay *r = ctx;
    mlxd_trace_drop(&r->acted, index, session);
}

static void act_token(void *ctx, mlxd_request *request) {
    struct replay *r = ctx;
    mlxd_trace_request(&r->acted, "token", request->id, MLXD_OK);
}

static void act_end(void *ctx, mlxd_request *request, mlxd_err err, const mlxd_why *why) {
    struct replay *r = ctx;
    (void)why;
    mlxd_trace_request(&r->acted, "end", request->id, err);
    r->prompts -= request->n_prompt;
    request->generation = NULL;
    mlxd_request_close(request);
}

/* ---- reading ---- */

static mlxd_err read_uint(const mlxd_json *o, const char *key, uint64_t *out, mlxd_why *why) {
    int64_t v;
    const mlxd_json *n = mlxd_json_find(o, key);
    if (!n || mlxd_json_get_int64(n, &v) != MLXD_OK || v < 0)
        return mlxd_fail(why, MLXD_ERR_DATA, "no number \"%s\"", key);
    *out = (uint64_t)v;
    return MLXD_OK;
}

static mlxd_err open_engine(struct replay *r, const mlxd_json *params, mlxd_why *why) {
    static const char *const keys[] = {"prefill_chunk", "step_tokens", "sessions_max", "queue_max"};
    uint64_t v[MLXD_COUNT_OF(keys)];
    for (size_t i = 0; i < MLXD_COUNT_OF(keys); i++) {
        mlxd_err err = read_uint(params, keys[i], &v[i], why);
        if (err)
            return err;
        if (v[i] == 0 || v[i] > MLXD_LIMIT_STEP_TOKENS)
            return mlxd_fail(why, MLXD_ERR_DATA, "%s is out of range", keys[i]);
    }
    if (v[1] < v[0] || v[2] > MLXD_LIMIT_SESSIONS)
        return mlxd_fail(why, MLXD_ERR_DATA, "parameters out of range");
    /* Hidden states are never touched: width 1 saves their memory. */
    mlxd_engine_params p = {.width = 1,
                            .prefill_chunk = (uint32_t)v[0],
                            .step_tokens = (uint32_t)v[1],
                            .sessions_max = (uint32_t)v[2],
                            .queue_max = (uint32_t)v[3]};
    mlxd_engine_ops ops = {act_embed, act_stage, act_head, act_drop, act_token, act_end, r};
    return mlxd_engine_open(&r->engine, &p, &ops, why);
}

static mlxd_err read_request(struct replay *r, const mlxd_json *o, mlxd_event *ev, mlxd_why *why) {
    uint64_t id, n_prompt, max_tokens, keep = 0, continues = 0, cached = 0;
    mlxd_err err = read_uint(o, "id", &id, why);
    if (!err)
        err = read_uint(o, "n_prompt", &n_prompt, why);
    if (!err)
        err = read_uint(o, "max_tokens", &max_tokens, why);
    if (!err && mlxd_json_find(o, "keep")) /* the others never say it */
        err = read_uint(o, "keep", &keep, why);
    if (!err && mlxd_json_find(o, "keep"))
        err = read_uint(o, "continues", &continues, why);
    if (!err && mlxd_json_find(o, "keep"))
        err = read_uint(o, "cached", &cached, why);
    if (err)
        return err;
    if (n_prompt == 0 || max_tokens == 0 || n_prompt > MLXD_LIMIT_CONTEXT ||
        max_tokens > MLXD_LIMIT_CONTEXT || cached > MLXD_LIMIT_CONTEXT ||
        n_prompt > PROMPTS_MAX - r->prompts)
        return mlxd_fail(why, MLXD_ERR_DATA, "request out of range");
    int32_t *zeros = mlxd_mem_new((size_t)n_prompt, sizeof *zeros);
    /* Any pointer will do for a generation: it is only passed on. */
    if (zeros)
        ev->request = mlxd_request_open(zeros, (uint32_t)n_prompt, (uint32_t)max_tokens,
                                        (mlxd_generation *)zeros, (mlxd_request_sink){0});
    mlxd_mem_free(zeros);
    if (!ev->request)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    ev->request->id = id;
    ev->request->keep = keep;
    ev->request->continues = continues;
    ev->request->cached = (uint32_t)cached;
    r->prompts += n_prompt;
    return MLXD_OK;
}

/* Sessions that a stage left out are left out here too; finish reasons of a draw are taken over. */
static bool row_left_out(void *ctx, uint64_t session) {
    const mlxd_json *rows = ctx;
    int64_t id;
    for (const mlxd_json *v = mlxd_json_first(rows, NULL); v; v = mlxd_json_next(rows, v, NULL)) {
        const mlxd_json *n = mlxd_json_get_kind(v) == MLXD_JSON_ARRAY && mlxd_json_count(v) == 2
                                 ? mlxd_json_at(v, 0)
                                 : v;
        if (mlxd_json_get_int64(n, &id) == MLXD_OK && (uint64_t)id == session)
            return false;
    }
    return true;
}

static mlxd_err read_step(struct replay *r, const mlxd_json *o, mlxd_event *ev, mlxd_why *why) {
    uint64_t id, index, code;
    mlxd_err err = read_uint(o, "step", &id, why);
    if (!err)
        err = read_uint(o, "index", &index, why);
    if (!err)
        err = read_uint(o, "err", &code, why);
    if (err)
        return err;
    mlxd_step *s = find_step(r, id);
    const mlxd_json *rows = mlxd_json_find(o, "rows");
    if (!s || index >= MLXD_LIMIT_STAGES || code >= MLXD_ERR_COUNT || !rows ||
        mlxd_json_get_kind(rows) != MLXD_JSON_ARRAY)
        return mlxd_fail(why, MLXD_ERR_DATA, "no such step in flight");
    ev->step = s;
    ev->index = (uint32_t)index;
    ev->err = (mlxd_err)code;
    if (ev->type == MLXD_EVENT_STAGED) {
        s->n_hidden = s->n_tokens;
        mlxd_step_remove(s, row_left_out, (void *)(uintptr_t)rows);
    }
    for (uint32_t i = 0; ev->type == MLXD_EVENT_DRAWN && i < s->n_rows; i++) {
        int64_t finish = 0;
        if (i >= mlxd_json_count(rows) ||
            mlxd_json_get_kind(mlxd_json_at(rows, i)) != MLXD_JSON_ARRAY ||
            mlxd_json_count(mlxd_json_at(rows, i)) != 2 ||
            mlxd_json_get_int64(mlxd_json_at(mlxd_json_at(rows, i), 1), &finish) != MLXD_OK ||
            finish < 0 || finish > MLXD_FINISH_LENGTH)
            return mlxd_fail(why, MLXD_ERR_DATA, "malformed rows");
        s->finish[i] = (mlxd_finish)finish;
        s->drawn[i] = 0;
    }
    return MLXD_OK;
}

static mlxd_err read_pipeline(struct replay *r, const mlxd_json *o, mlxd_event *ev, mlxd_why *why) {
    uint64_t stages, context, kv_pages;
    mlxd_err err = read_uint(o, "stages", &stages, why);
    if (!err)
        err = read_uint(o, "epoch", &ev->epoch, why);
    if (!err)
        err = read_uint(o, "context", &context, why);
    if (!err)
        err = read_uint(o, "kv_pages", &kv_pages, why);
    if (err)
        return err;
    if (stages > MLXD_LIMIT_STAGES || context > MLXD_LIMIT_CONTEXT || kv_pages > UINT32_MAX ||
        ev->epoch <= mlxd_engine_get_stats(r->engine)->epoch)
        return mlxd_fail(why, MLXD_ERR_DATA, "impossible pipeline");
    ev->stages = (uint32_t)stages;
    ev->context = (uint32_t)context;
    ev->kv_pages = (uint32_t)kv_pages;
    return MLXD_OK;
}

static mlxd_err read_event(struct replay *r, const mlxd_json *o, mlxd_event *ev, mlxd_why *why) {
    const mlxd_json *name = mlxd_json_find(o, "event");
    *ev = (mlxd_event){.type = MLXD_EVENT_TYPES};
    for (int i = 0; i < MLXD_EVENT_TYPES; i++)
        if (mlxd_json_is_str(name, mlxd_trace_event_names[i]))
            ev->type = (mlxd_event_type)i;
    mlxd_err err = read_uint(o, "t", &ev->time_ns, why);
    if (err)
        return err;
    switch (ev->type) {
    case MLXD_EVENT_REQUEST:
        return read_request(r, o, ev, why);
    case MLXD_EVENT_CANCEL:
        return read_uint(o, "id", &ev->id, why);
    case MLXD_EVENT_PIPELINE:
        return read_pipeline(r, o, ev, why);
    case MLXD_EVENT_STOP:
        return MLXD_OK;
    case MLXD_EVENT_EMBEDDED:
    case MLXD_EVENT_STAGED:
    case MLXD_EVENT_DRAWN:
        return read_step(r, o, ev, why);
    default:
        return mlxd_fail(why, MLXD_ERR_DATA, "unknown event");
    }
}

/* The actions of the last event, now that all its recorded ones are known. */
static mlxd_err compare(struct replay *r, mlxd_why *why) {
    mlxd_slice did = {r->acted.data, r->acted.len}, want = {r->wanted.data, r->wanted.len};
    if (r->acted.failed || r->wanted.failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!mlxd_slice_eq(did, want))
        return mlxd_fail(why, MLXD_ERR_CORRUPT,
                         "before line %u the engine did:\n%.200s"
                         "\ninstead of:\n%.200s",
                         r->line, mlxd_buf_str(&r->acted), mlxd_buf_str(&r->wanted));
    mlxd_buf_clear(&r->acted);
    mlxd_buf_clear(&r->wanted);
    return MLXD_OK;
}

static mlxd_err replay_line(struct replay *r, mlxd_slice line, mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_event ev;
    mlxd_err err = mlxd_json_parse(&doc, line, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return err;
    const mlxd_json *o = mlxd_json_root(doc);
    if (mlxd_json_get_kind(o) != MLXD_JSON_OBJECT) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "not an object");
    } else if (!r->engine) {
        const mlxd_json *params = mlxd_json_find(o, "params");
        err = params && mlxd_json_get_kind(params) == MLXD_JSON_OBJECT
                  ? open_engine(r, params, why)
                  : mlxd_fail(why, MLXD_ERR_DATA, "no parameters");
    } else if (mlxd_json_find(o, "act")) {
        mlxd_buf_add(&r->wanted, line.data, line.len);
        mlxd_buf_add_byte(&r->wanted, '\n');
    } else if (!mlxd_json_find(o, "event")) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "neither event nor action");
    } else {
        err = compare(r, why);
        if (!err)
            err = read_event(r, o, &ev, why);
        if (!err)
            mlxd_engine_handle(r->engine, &ev);
    }
    mlxd_json_close(doc);
    return err;
}

/* Lets the engine give back what is still alive: everything ends and every step comes home. */
static void wind_down(struct replay *r) {
    mlxd_event ev = {.type = MLXD_EVENT_STOP};
    mlxd_engine_handle(r->engine, &ev);
    for (size_t i = 0; i < r->n_steps; i++) {
        if (!mlxd_engine_in_flight(r->engine, r->steps[i]))
            continue;
        ev = (mlxd_event){.type = MLXD_EVENT_DRAWN, .step = r->steps[i], .err = MLXD_ERR_CANCELLED};
        mlxd_engine_handle(r->engine, &ev);
    }
    mlxd_engine_close(r->engine);
}

mlxd_err mlxd_trace_replay(mlxd_slice text, mlxd_why *why) {
    struct replay *r = mlxd_mem_new(1, sizeof *r);
    mlxd_err err = MLXD_OK;
    if (!r)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_buf_init(&r->acted, 0);
    mlxd_buf_init(&r->wanted, 0);
    for (size_t at = 0; at < text.len && !err;) {
        const uint8_t *end = memchr(text.data + at, '\n', text.len - at);
        size_t len = end ? (size_t)(end - (text.data + at)) : text.len - at;
        r->line++;
        if (len > 0)
            err = replay_line(r, (mlxd_slice){text.data + at, len}, why);
        at += len + 1;
    }
    if (!err && !r->engine)
        err = mlxd_fail(why, MLXD_ERR_DATA, "empty trace");
    if (!err)
        err = compare(r, why);
    if (err)
        err = mlxd_fail_in(why, err, "line %u", r->line);
    if (r->engine)
        wind_down(r);
    mlxd_buf_deinit(&r->acted);
    mlxd_buf_deinit(&r->wanted);
    mlxd_mem_free(r);
    return err;
}
