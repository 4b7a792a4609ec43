/* cmd_run.c - `mlxd run`: one prompt, or without one a conversation on the terminal (talk.h), in
 * one process, without a network.
 */
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/talk.h"
#include "cli/local.h"
#include "cli/report.h"
#include "cli/screen.h"

#include <stdio.h>
#include <unistd.h>

/* One prompt and its answer. */
struct run {
    const mlxd_options *o;
    mlxd_local local;
    mlxd_tokens prompt;
    mlxd_screen screen;
    mlxd_buf text, reasoning;
    uint64_t seed;
};

/* ---- prompt ---- */

static mlxd_err read_stdin(mlxd_buf *out, mlxd_why *why) {
    uint8_t chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0)
        mlxd_buf_add(out, chunk, n);
    if (out->failed)
        return mlxd_fail(why, MLXD_ERR_INVALID, "the prompt is larger than %u bytes",
                         MLXD_LIMIT_BODY_BYTES);
    return MLXD_OK;
}

static mlxd_err encode(struct run *run, mlxd_slice text, mlxd_why *why) {
    const mlxd_options *o = run->o;
    const mlxd_host *h = &run->local.host;
    if (o->raw) {
        if (mlxd_tokenizer_add_bos(h->tokenizer)) {
            mlxd_slice bos = mlxd_tokenizer_bytes(h->tokenizer, mlxd_tokenizer_bos(h->tokenizer));
            mlxd_err err = mlxd_tokenizer_encode(h->tokenizer, bos, true, 0, &run->prompt, why);
            if (err)
                return err;
        }
        return mlxd_tokenizer_encode(h->tokenizer, text, true, run->local.context, &run->prompt,
                                     why);
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
    return mlxd_chat_encode(h->chat, h->tokenizer, &in, run->local.context, &run->prompt, why);
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
    if (err == MLXD_ERR_RANGE || (!err && run->prompt.count > run->local.context))
        err = mlxd_fail(why, MLXD_ERR_RANGE,
                        "the prompt has %zu tokens or more, the context holds %u with the answer",
                        run->prompt.count, run->local.context);
    return err;
}

/* ---- the answer ---- */

static mlxd_err make_request(struct run *run, mlxd_request **out, mlxd_why *why) {
    const mlxd_options *o = run->o;
    const mlxd_host *h = &run->local.host;
    mlxd_slice stop[MLXD_OPTION_LIST_MAX];
    mlxd_generation_params p = {.stop = stop,
                                .stop_count = o->stop.count,
                                .ignore_end = o->ignore_eos,
                                .reasoning = h->reasoning,
                                .max_tokens = h->defaults.max_tokens};
    /* A text that is continued has no parts, unless somebody says so. */
    if (o->raw && !mlxd_reasoning_find(mlxd_slice_str(o->reasoning_format), &p.reasoning))
        p.reasoning = MLXD_REASONING_NONE;
    if (o->max_tokens != UINT64_MAX)
        p.max_tokens = (uint32_t)o->max_tokens;
    mlxd_err err = mlxd_local_sampling(&run->local, &p.sampling, why);
    if (err)
        return err;
    p.sampling.digest = o->json;
    run->seed = p.sampling.seed;
    for (size_t i = 0; i < o->stop.count; i++)
        stop[i] = mlxd_slice_str(o->stop.items[i]);
    return mlxd_local_request(&run->local, &run->prompt, &p, out, why);
}

static mlxd_err take_text(void *ctx, bool reasoning, mlxd_slice text, mlxd_why *why) {
    struct run *run = ctx;
    mlxd_buf *to = reasoning ? &run->reasoning : &run->text;
    if (!run->o->json)
        return mlxd_screen_write(&run->screen, reasoning, text, why);
    mlxd_buf_add(to, text.data, text.len);
    return to->failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the answer's text") : MLXD_OK;
}

/* Ends what was written; `err` is how the answer ended. */
static mlxd_err finish(struct run *run, const mlxd_report *report, mlxd_err err, mlxd_why *why) {
    if (run->o->json)
        return err ? err : mlxd_report_json(report, why);
    mlxd_why unused;
    mlxd_err end = mlxd_screen_end(&run->screen, err ? &unused : why);
    if (!err && !end && !run->o->quiet)
        mlxd_report_speed(report);
    return err ? err : end;
}

static mlxd_err answer(struct run *run, mlxd_why *why) {
    const mlxd_local *l = &run->local;
    mlxd_request *r;
    mlxd_err err = make_request(run, &r, why);
    if (err)
        return err;
    err = mlxd_local_answer(&run->local, r, take_text, run, why);
    if (err == MLXD_ERR_CANCELLED)
        (void)mlxd_fail(why, err, "interrupted");
    mlxd_report report = {.request = r,
                          .text = {run->text.data, run->text.len},
                          .reasoning = {run->reasoning.data, run->reasoning.len},
                          .seed = run->seed,
                          .isa = l->host.kernels->isa,
                          .n_stages = l->n_stages,
                          .threads = mlxd_driver_threads(l->host.driver),
                          .load_ms = l->load_ms,
                          .stages = l->stages};
    err = finish(run, &report, err, why);
    mlxd_request_close(r);
    return err;
}

static mlxd_err run_once(struct run *run, mlxd_why *why) {
    mlxd_screen_init(&run->screen);
    mlxd_buf_init(&run->text, 0);
    mlxd_buf_init(&run->reasoning, 0);
    mlxd_err err = make_prompt(run, why);
    if (!err)
        err = answer(run, why);
    mlxd_buf_deinit(&run->reasoning);
    mlxd_buf_deinit(&run->text);
    mlxd_screen_deinit(&run->screen);
    mlxd_tokens_deinit(&run->prompt);
    return err;
}

static mlxd_err check_options(mlxd_options *o, bool chat, mlxd_why *why) {
    if (o->n_args > 1 || (o->n_args == 1 && o->model[0]))
        return mlxd_fail(why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"",
                         o->args[o->n_args - 1]);
    if (o->n_args == 1)
        o->model = o->args[0];
    if (!o->model[0])
        return mlxd_fail(why, MLXD_ERR_USAGE, "no model: give one, as in `mlxd run MODEL`");
    if (!o->prompt && isatty(STDIN_FILENO) && !chat)
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "no prompt: give -p TEXT, or a text on standard input; a conversation "
                         "needs a terminal, and goes without --json and --raw");
    return MLXD_OK;
}

int mlxd_cmd_run(const mlxd_options *given) {
    mlxd_options o = *given;
    struct run run = {.o = &o};
    mlxd_why why = {0};
    bool chat = !o.prompt && !o.json && !o.raw && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    mlxd_err err = mlxd_cli_log(&o, "warn", &why);
    if (!err)
        err = check_options(&o, chat, &why);
    if (err)
        return mlxd_cli_fail(err, &why);
    /* The second one ends the process at once, also while a large model loads. */
    mlxd_local_catch(true);
    err = mlxd_local_open(&run.local, &o, &why);
    if (!err)
        err = chat ? mlxd_talk_run(&run.local, &why) : run_once(&run, &why);
    mlxd_local_close(&run.local);
    if (err == MLXD_ERR_CANCELLED)
        return 130;
    return err ? mlxd_cli_fail(err, &why) : 0;
}
