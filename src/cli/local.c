/* local.c - see local.h. */
#include "cli/local.h"

#include "base/mem.h"
#include "base/os.h"
#include "cli/progress.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- signals ---- */

static volatile sig_atomic_t interrupted, terminated;

static void on_signal(int sig) {
    interrupted = 1;
    if (sig == SIGTERM)
        terminated = 1;
}

void mlxd_local_catch(bool once) {
    /* Not restarted: a read from the terminal must notice. */
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = once ? (int)SA_RESETHAND : 0};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

bool mlxd_local_interrupted(void) {
    return interrupted;
}

void mlxd_local_forget(void) {
    interrupted = terminated;
}

bool mlxd_local_terminated(void) {
    return terminated;
}

/* ---- the mailbox ---- */

/* Adds text to the mailbox; the buffer is then empty. With the lock held. */
static void put(mlxd_local *l, mlxd_buf *text, bool reasoning) {
    mlxd_local_run *last = NULL;
    if (text->len == 0)
        return;
    if (l->runs.len > 0)
        last = (mlxd_local_run *)(void *)(l->runs.data + l->runs.len) - 1;
    if (last && last->reasoning == reasoning) {
        last->len += text->len;
    } else {
        mlxd_local_run run = {text->len, reasoning};
        mlxd_buf_add(&l->runs, &run, sizeof run);
    }
    mlxd_buf_add(&l->text, text->data, text->len);
    mlxd_buf_clear(text);
}

static void take_text(mlxd_local *l, mlxd_request *r) {
    put(l, mlxd_generation_reasoning(r->generation), true);
    put(l, mlxd_generation_text(r->generation), false);
}

static void on_token(void *ctx, mlxd_request *r) {
    mlxd_local *l = ctx;
    mlxd_mutex_lock(&l->lock);
    take_text(l, r);
    mlxd_cond_signal(&l->changed);
    mlxd_mutex_unlock(&l->lock);
}

static void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    mlxd_local *l = ctx;
    mlxd_mutex_lock(&l->lock);
    take_text(l, r);
    l->ended = true;
    l->err = err;
    l->why = *why;
    mlxd_cond_signal(&l->changed);
    mlxd_mutex_unlock(&l->lock);
}

/* ---- model ---- */

/* Ends of the stages, in layers; without --layers-per-stage one stage. */
static mlxd_err split(mlxd_local *l, uint32_t ends[MLXD_LIMIT_STAGES], mlxd_why *why) {
    const mlxd_option_list *list = &l->o->layers_per_stage;
    uint64_t sum = 0;
    for (size_t i = 0; i < list->count; i++) {
        char *end;
        unsigned long n = strtoul(list->items[i], &end, 10);
        if (*end || n == 0 || n > MLXD_LIMIT_LAYERS)
            return mlxd_fail(why, MLXD_ERR_USAGE,
                             "--layers-per-stage: expected numbers from 1, got \"%.20s\"",
                             list->items[i]);
        sum += n;
        ends[i] = (uint32_t)sum;
    }
    l->n_stages = (uint32_t)list->count;
    if (list->count == 0) {
        ends[0] = l->host.config.layers;
        l->n_stages = 1;
    } else if (sum != l->host.config.layers) {
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "--layers-per-stage: the stages hold %llu layers, the model has %u",
                         (unsigned long long)sum, l->host.config.layers);
    }
    return MLXD_OK;
}

static mlxd_err load_stages(mlxd_local *l, const mlxd_progress *progress, mlxd_why *why) {
    uint32_t ends[MLXD_LIMIT_STAGES], first = 0;
    mlxd_host *h = &l->host;
    uint64_t bytes;
    mlxd_err err = split(l, ends, why);
    if (!err)
        err = mlxd_layers_size(h->checkpoint, &h->config, 0, h->config.layers, &bytes, why);
    if (!err)
        err = mlxd_host_context(h, l->o->ctx, 1, h->config.layers, bytes, &l->context, &l->kv_pages,
                                why);
    for (uint32_t i = 0; i < l->n_stages && !err; i++) {
        mlxd_cpu_params p = {.driver = h->driver,
                             .kv_pages = l->kv_pages,
                             .device = "local",
                             .layers = {.checkpoint = h->checkpoint,
                                        .config = &h->config,
                                        .kernels = h->kernels,
                                        .first = first,
                                        .end = ends[i],
                                        .positions = l->context,
                                        .tokens_max = (uint32_t)l->o->prefill_chunk,
                                        .progress = progress}};
        err = mlxd_cpu_open(&l->stages[i], &p, why);
        first = ends[i];
    }
    return err;
}

static mlxd_err start_engine(mlxd_local *l, mlxd_why *why) {
    mlxd_loop_params p = {
        .engine = {.width = l->host.config.hidden,
                   .prefill_chunk = (uint32_t)l->o->prefill_chunk,
                   .step_tokens = (uint32_t)l->o->prefill_chunk,
                   .sessions_max = 1,
                   .queue_max = 1},
        .head = l->host.head,
        .clock = mlxd_clock_real(),
        .trace_path = l->o->trace[0] ? l->o->trace : NULL,
    };
    mlxd_err err = mlxd_loop_open(&l->loop, &p, why);
    if (err)
        return err;
    mlxd_pipeline pipeline = {
        .epoch = 1, .n_stages = l->n_stages, .context = l->context, .kv_pages = l->kv_pages};
    for (uint32_t i = 0; i < l->n_stages; i++)
        pipeline.stages[i] = mlxd_cpu_stage(l->stages[i]);
    err = mlxd_pipeline_check(&pipeline, l->host.config.layers, why);
    if (!err)
        mlxd_loop_set_pipeline(l->loop, &pipeline);
    return err;
}

mlxd_err mlxd_local_open(mlxd_local *l, const mlxd_options *o, mlxd_why *why) {
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_bar bar;
    *l = (mlxd_local){.o = o};
    mlxd_mutex_init(&l->lock);
    mlxd_cond_init(&l->changed);
    mlxd_buf_init(&l->text, 0);
    mlxd_buf_init(&l->runs, 0);
    mlxd_bar_init(&bar, "loading model", o->quiet);
    mlxd_progress progress = mlxd_bar_progress(&bar);
    mlxd_host_params p = {.path = o->model,
                          .threads = (unsigned)o->threads,
                          .pin = o->pin,
                          .cpu = o->cpu,
                          .text = true,
                          .reasoning = o->reasoning_format,
                          .head = true,
                          .progress = &progress};
    mlxd_err err = mlxd_host_open(&l->host, &p, why);
    if (!err)
        err = load_stages(l, &progress, why);
    mlxd_bar_clear(&bar);
    if (!err)
        err = start_engine(l, why);
    l->load_ms = (double)(mlxd_clock_now_ns() - t0) / 1e6;
    return err;
}

void mlxd_local_close(mlxd_local *l) {
    if (!l->o)
        return;
    mlxd_loop_close(l->loop);
    for (uint32_t i = 0; i < l->n_stages; i++)
        mlxd_cpu_close(l->stages[i]);
    mlxd_host_close(&l->host);
    mlxd_buf_deinit(&l->runs);
    mlxd_buf_deinit(&l->text);
    mlxd_cond_deinit(&l->changed);
    mlxd_mutex_deinit(&l->lock);
    *l = (mlxd_local){0};
}

/* ---- requests ---- */

static mlxd_err read_seed(const char *s, uint64_t *seed, mlxd_why *why) {
    char *end;
    if (!*s)
        return mlxd_os_random(seed, sizeof *seed)
                   ? MLXD_OK
                   : mlxd_fail(why, MLXD_ERR_IO, "no entropy for a seed");
    *seed = strtoull(s, &end, 10);
    if (*end || *s < '0' || *s > '9')
        return mlxd_fail(why, MLXD_ERR_USAGE, "--seed: expected a number, got \"%.40s\"", s);
    return MLXD_OK;
}

/* What was given. */
static void set(double *out, double given) {
    if (!isnan(given))
        *out = given;
}

mlxd_err mlxd_local_sampling(const mlxd_local *l, mlxd_sampling *out, mlxd_why *why) {
    const mlxd_options *o = l->o;
    *out = l->host.defaults.sampling;
    set(&out->temperature, o->temperature);
    set(&out->top_p, o->top_p);
    set(&out->min_p, o->min_p);
    set(&out->repetition_penalty, o->repetition_penalty);
    if (o->top_k != INT64_MIN)
        out->top_k = (int32_t)o->top_k;
    out->presence_penalty = o->presence_penalty;
    out->frequency_penalty = o->frequency_penalty;
    return read_seed(o->seed, &out->seed, why);
}

mlxd_err mlxd_local_request(mlxd_local *l, const mlxd_tokens *prompt, mlxd_generation_params *p,
                            mlxd_request **out, mlxd_why *why) {
    MLXD_ASSERT(prompt->count > 0 && prompt->count <= l->context);
    uint32_t n = (uint32_t)prompt->count;
    mlxd_generation *g;
    p->max_tokens = MLXD_MIN(p->max_tokens, l->context - n + 1);
    mlxd_err err =
        mlxd_generation_open(&g, p, l->host.tokenizer, l->host.config.vocab, prompt->ids, n, why);
    if (err)
        return err;
    mlxd_request_sink sink = {on_token, on_end, l};
    *out = mlxd_request_open(prompt->ids, n, p->max_tokens, g, sink);
    if (*out)
        return MLXD_OK;
    mlxd_generation_close(g);
    return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

/* Gives the mailbox's text to the sink. */
static mlxd_err deliver(mlxd_buf *text, mlxd_buf *runs, mlxd_local_sink *sink, void *ctx,
                        mlxd_why *why) {
    const mlxd_local_run *run = (const mlxd_local_run *)(void *)runs->data;
    size_t at = 0;
    if (text->failed || runs->failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the answer's text");
    for (size_t i = 0; i < runs->len / sizeof *run; at += run[i++].len) {
        mlxd_err err = sink(ctx, run[i].reasoning, (mlxd_slice){text->data + at, run[i].len}, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

mlxd_err mlxd_local_answer(mlxd_local *l, mlxd_request *r, mlxd_local_sink *sink, void *ctx,
                           mlxd_why *why) {
    mlxd_err err = mlxd_loop_submit(l->loop, r);
    MLXD_ASSERT(err == MLXD_OK); /* the queue is empty */
    bool cancelled = false, more = true;
    uint64_t id = r->id;
    while (more) {
        mlxd_mutex_lock(&l->lock);
        if (l->text.len == 0 && !l->ended)
            (void)mlxd_cond_wait_until(&l->changed, &l->lock,
                                       mlxd_clock_now_ns() + 100 * MLXD_NS_PER_MS);
        mlxd_buf text = l->text, runs = l->runs;
        mlxd_buf_init(&l->text, 0);
        mlxd_buf_init(&l->runs, 0);
        more = !l->ended;
        mlxd_mutex_unlock(&l->lock);
        if (!err)
            err = deliver(&text, &runs, sink, ctx, why);
        mlxd_buf_deinit(&text);
        mlxd_buf_deinit(&runs);
        if ((interrupted || err) && !cancelled) {
            cancelled = true;
            mlxd_loop_cancel(l->loop, id);
        }
    }
    /* Nothing comes after the end. */
    l->ended = false;
    if (!err && l->err) {
        err = l->err;
        *why = l->why;
    }
    return err;
}
