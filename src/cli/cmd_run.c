/* cmd_run.c - `mlxd run`: one prompt, one process, no network. The same engine, stages and head as
 * the server's; with --layers-per-stage several stages, so that splits can be compared bit by bit.
 */
#include "cli/cli.h"

#include "backend/cpu.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "serve/engine_loop.h"
#include "serve/host.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the engine thread hands to the main thread. */
struct mailbox {
    mlxd_mutex lock;
    mlxd_cond changed;
    mlxd_buf text;
    mlxd_request *ended;
    mlxd_err err;
    mlxd_why why;
};

struct run {
    const mlxd_options *o;
    mlxd_host host;
    mlxd_cpu *stages[MLXD_LIMIT_STAGES];
    uint32_t n_stages;
    mlxd_loop *loop;
    struct mailbox box;
    mlxd_tokens prompt;
    uint32_t context, kv_pages;
    uint64_t seed;
    double load_ms;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static void take_text(struct mailbox *box, mlxd_request *r) {
    mlxd_buf *text = mlxd_generation_text(r->generation);
    mlxd_buf_add(&box->text, text->data, text->len);
    mlxd_buf_clear(text);
}

static void on_token(void *ctx, mlxd_request *r) {
    struct mailbox *box = ctx;
    mlxd_mutex_lock(&box->lock);
    take_text(box, r);
    mlxd_cond_signal(&box->changed);
    mlxd_mutex_unlock(&box->lock);
}

static void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    struct mailbox *box = ctx;
    mlxd_mutex_lock(&box->lock);
    take_text(box, r);
    box->ended = r;
    box->err = err;
    box->why = *why;
    mlxd_cond_signal(&box->changed);
    mlxd_mutex_unlock(&box->lock);
}

/* ---- prompt ---- */

static mlxd_err read_stdin(mlxd_buf *out, mlxd_why *why) {
    uint8_t chunk[4096];
    size_t n;
    if (isatty(STDIN_FILENO))
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "no prompt: give -p TEXT or a text on standard input");
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0)
        mlxd_buf_add(out, chunk, n);
    if (out->failed)
        return mlxd_fail(why, MLXD_ERR_INVALID, "the prompt is larger than %u bytes",
                         MLXD_LIMIT_BODY_BYTES);
    return MLXD_OK;
}

static mlxd_err encode(struct run *run, mlxd_slice text, mlxd_why *why) {
    const mlxd_options *o = run->o;
    mlxd_host *h = &run->host;
    if (o->raw) {
        if (mlxd_tokenizer_add_bos(h->tokenizer)) {
            mlxd_slice bos = mlxd_tokenizer_bytes(h->tokenizer, mlxd_tokenizer_bos(h->tokenizer));
            mlxd_err err = mlxd_tokenizer_encode(h->tokenizer, bos, true, 0, &run->prompt, why);
            if (err)
                return err;
        }
        return mlxd_tokenizer_encode(h->tokenizer, text, true, run->context, &run->prompt, why);
    }
    if (!h->chat)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s (use --raw to continue a text instead)",
                         h->chat_why.text);
    mlxd_chat_message messages[2];
    size_t n = 0;
    if (o->system[0])
        messages[n++] = (mlxd_chat_message){.role = mlxd_slice_str("system"),
                                            .content = mlxd_slice_str(o->system)};
    messages[n++] = (mlxd_chat_message){.role = mlxd_slice_str("user"), .content = text};
    mlxd_chat_input in = {.list = messages,
                          .n_list = n,
                          .add_generation_prompt = true,
                          .now_s = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S)};
    return mlxd_chat_encode(h->chat, h->tokenizer, &in, run->context, &run->prompt, why);
}

static mlxd_err make_prompt(struct run *run, mlxd_why *why) {
    mlxd_buf in;
    mlxd_err err = MLXD_OK;
    mlxd_buf_init(&in, MLXD_LIMIT_BODY_BYTES);
    mlxd_slice text = mlxd_slice_str(run->o->prompt ? run->o->prompt : "");
    if (!run->o->prompt) {
        err = read_stdin(&in, why);
        text = (mlxd_slice){in.data, in.len};
        if (!err && text.len == 0)
            err = mlxd_fail(why, MLXD_ERR_USAGE, "no prompt: standard input is empty");
    }
    if (!err)
        err = encode(run, text, why);
    mlxd_buf_deinit(&in);
    if (!err && run->prompt.count == 0)
        err = mlxd_fail(why, MLXD_ERR_INVALID, "the prompt is empty");
    if (err == MLXD_ERR_RANGE || (!err && run->prompt.count > run->context))
        err = mlxd_fail(why, MLXD_ERR_RANGE,
                        "the prompt has %zu tokens or more, the context holds %u with the answer",
                        run->prompt.count, run->context);
    return err;
}

/* ---- model ---- */

/* Ends of the stages, in layers; without --layers-per-stage one stage. */
static mlxd_err split(struct run *run, uint32_t ends[MLXD_LIMIT_STAGES], mlxd_why *why) {
    const mlxd_option_list *list = &run->o->layers_per_stage;
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
    run->n_stages = (uint32_t)list->count;
    if (list->count == 0) {
        ends[0] = run->host.config.layers;
        run->n_stages = 1;
    } else if (sum != run->host.config.layers) {
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "--layers-per-stage: the stages hold %llu layers, the model has %u",
                         (unsigned long long)sum, run->host.config.layers);
    }
    return MLXD_OK;
}

static mlxd_err load_stages(struct run *run, const mlxd_progress *progress, mlxd_why *why) {
    uint32_t ends[MLXD_LIMIT_STAGES], first = 0;
    mlxd_host *h = &run->host;
    uint64_t bytes;
    mlxd_err err = split(run, ends, why);
    if (!err)
        err = mlxd_layers_size(h->file, &h->config, 0, h->config.layers, &bytes, why);
    if (!err)
        err = mlxd_host_context(h, run->o->ctx, 1, h->config.layers, bytes, &run->context,
                                &run->kv_pages, why);
    for (uint32_t i = 0; i < run->n_stages && !err; i++) {
        mlxd_cpu_params p = {.driver = h->driver,
                             .kv_pages = run->kv_pages,
                             .device = "local",
                             .layers = {.file = h->file,
                                        .config = &h->config,
                                        .kernels = h->kernels,
                                        .first = first,
                                        .end = ends[i],
                                        .positions = run->context,
                                        .tokens_max = (uint32_t)run->o->prefill_chunk,
                                        .progress = progress}};
        err = mlxd_cpu_open(&run->stages[i], &p, why);
        first = ends[i];
    }
    return err;
}

static mlxd_err start_engine(struct run *run, mlxd_why *why) {
    mlxd_loop_params p = {
        .engine = {.width = run->host.config.hidden,
                   .prefill_chunk = (uint32_t)run->o->prefill_chunk,
                   .step_tokens = (uint32_t)run->o->prefill_chunk,
                   .sessions_max = 1,
                   .queue_max = 1},
        .head = run->host.head,
        .clock = mlxd_clock_real(),
        .trace_path = run->o->trace[0] ? run->o->trace : NULL,
    };
    mlxd_err err = mlxd_loop_open(&run->loop, &p, why);
    if (err)
        return err;
    mlxd_pipeline pipeline = {
        .epoch = 1, .n_stages = run->n_stages, .context = run->context, .kv_pages = run->kv_pages};
    for (uint32_t i = 0; i < run->n_stages; i++)
        pipeline.stages[i] = mlxd_cpu_stage(run->stages[i]);
    err = mlxd_pipeline_check(&pipeline, run->host.config.layers, why);
    if (!err)
        mlxd_loop_set_pipeline(run->loop, &pipeline);
    return err;
}

/* ---- the request ---- */

static mlxd_err read_seed(struct run *run, mlxd_why *why) {
    const char *s = run->o->seed;
    char *end;
    if (!*s)
        return mlxd_os_random(&run->seed, sizeof run->seed)
                   ? MLXD_OK
                   : mlxd_fail(why, MLXD_ERR_IO, "no entropy for a seed");
    run->seed = strtoull(s, &end, 10);
    if (*end || *s < '0' || *s > '9')
        return mlxd_fail(why, MLXD_ERR_USAGE, "--seed: expected a number, got \"%.40s\"", s);
    return MLXD_OK;
}

static mlxd_err make_request(struct run *run, mlxd_request **out, mlxd_why *why) {
    const mlxd_options *o = run->o;
    mlxd_slice stop[MLXD_OPTION_LIST_MAX];
    mlxd_generation_params p = {
        .stop = stop, .stop_count = o->stop.count, .ignore_end = o->ignore_eos};
    mlxd_sampling_init(&p.sampling);
    p.sampling.temperature = o->temperature;
    p.sampling.top_k = (int32_t)o->top_k;
    p.sampling.top_p = o->top_p;
    p.sampling.min_p = o->min_p;
    p.sampling.repetition_penalty = o->repetition_penalty;
    p.sampling.presence_penalty = o->presence_penalty;
    p.sampling.frequency_penalty = o->frequency_penalty;
    p.sampling.digest = o->json;
    mlxd_err err = read_seed(run, why);
    if (err)
        return err;
    p.sampling.seed = run->seed;
    for (size_t i = 0; i < o->stop.count; i++)
        stop[i] = mlxd_slice_str(o->stop.items[i]);
    uint32_t n_prompt = (uint32_t)run->prompt.count;
    p.max_tokens = (uint32_t)MLXD_MIN(o->max_tokens, (uint64_t)run->context - n_prompt + 1);
    mlxd_generation *g;
    err = mlxd_generation_open(&g, &p, run->host.tokenizer, run->host.config.vocab, run->prompt.ids,
                               n_prompt, why);
    if (err)
        return err;
    mlxd_request_sink sink = {on_token, on_end, &run->box};
    *out = mlxd_request_open(run->prompt.ids, n_prompt, p.max_tokens, g, sink);
    if (*out)
        return MLXD_OK;
    mlxd_generation_close(g);
    return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

/* Prints text as it comes until the request has ended. Ctrl-C cancels; the text so far stays. */
static mlxd_err follow(struct run *run, mlxd_request *r, mlxd_buf *all, mlxd_why *why) {
    struct mailbox *box = &run->box;
    mlxd_err err = MLXD_OK;
    bool cancelled = false;
    uint64_t id = r->id;
    mlxd_mutex_lock(&box->lock);
    while (!box->ended || box->text.len > 0) {
        if (box->text.len == 0)
            (void)mlxd_cond_wait_until(&box->changed, &box->lock,
                                       mlxd_clock_now_ns() + 100 * MLXD_NS_PER_MS);
        mlxd_buf text = box->text;
        mlxd_buf_init(&box->text, 0);
        mlxd_mutex_unlock(&box->lock);
        mlxd_buf_add(all, text.data, text.len);
        if (!run->o->json && !err)
            err = mlxd_cli_print(text.data, text.len, why);
        mlxd_buf_deinit(&text);
        if ((interrupted || err) && !cancelled) {
            cancelled = true;
            mlxd_loop_cancel(run->loop, id);
        }
        mlxd_mutex_lock(&box->lock);
    }
    mlxd_mutex_unlock(&box->lock);
    if (!err && box->err) {
        err = box->err;
        *why = box->why;
    }
    return err;
}

static mlxd_err answer(struct run *run, mlxd_why *why) {
    mlxd_request *r;
    mlxd_buf text;
    mlxd_err err = make_request(run, &r, why);
    if (err)
        return err;
    mlxd_buf_init(&text, 0);
    err = mlxd_loop_submit(run->loop, r);
    MLXD_ASSERT(err == MLXD_OK); /* the queue is empty */
    err = follow(run, r, &text, why);
    if (err == MLXD_ERR_CANCELLED)
        (void)mlxd_fail(why, err, "interrupted");
    if (!err) {
        mlxd_report report = {.request = r,
                              .text = {text.data, text.len},
                              .seed = run->seed,
                              .isa = run->host.kernels->isa,
                              .n_stages = run->n_stages,
                              .threads = mlxd_driver_threads(run->host.driver),
                              .load_ms = run->load_ms,
                              .stages = run->stages};
        err = run->o->json ? mlxd_report_json(&report, why)
                           : mlxd_report_text(&report, run->o->quiet, why);
    }
    mlxd_buf_deinit(&text);
    mlxd_request_close(r);
    return err;
}

static mlxd_err load(struct run *run, mlxd_why *why) {
    const mlxd_options *o = run->o;
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_bar bar;
    if (!o->model[0])
        return mlxd_fail(why, MLXD_ERR_USAGE, "no model: give -m FILE");
    mlxd_bar_init(&bar, "loading model", o->quiet);
    mlxd_progress progress = mlxd_bar_progress(&bar);
    mlxd_host_params p = {.path = o->model,
                          .threads = (unsigned)o->threads,
                          .pin = o->pin,
                          .cpu = o->cpu,
                          .text = true,
                          .head = true,
                          .progress = &progress};
    mlxd_err err = mlxd_host_open(&run->host, &p, why);
    if (!err)
        err = load_stages(run, &progress, why);
    mlxd_bar_clear(&bar);
    if (!err)
        err = start_engine(run, why);
    run->load_ms = (double)(mlxd_clock_now_ns() - t0) / 1e6;
    return err;
}

int mlxd_cmd_run(const mlxd_options *o) {
    struct run run = {.o = o};
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (err)
        return mlxd_cli_fail(err, &why);
    /* The second one ends the process at once, also while a large model loads. */
    struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    mlxd_mutex_init(&run.box.lock);
    mlxd_cond_init(&run.box.changed);
    mlxd_buf_init(&run.box.text, 0);
    err = load(&run, &why);
    if (!err)
        err = make_prompt(&run, &why);
    if (!err)
        err = answer(&run, &why);
    mlxd_loop_close(run.loop);
    for (uint32_t i = 0; i < run.n_stages; i++)
        mlxd_cpu_close(run.stages[i]);
    mlxd_host_close(&run.host);
    mlxd_mem_free(run.prompt.ids);
    mlxd_buf_deinit(&run.box.text);
    mlxd_cond_deinit(&run.box.changed);
    mlxd_mutex_deinit(&run.box.lock);
    if (err == MLXD_ERR_CANCELLED)
        return 130;
    return err ? mlxd_cli_fail(err, &why) : 0;
}
