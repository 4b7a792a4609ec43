/* talk.c - see talk.h: turns. The commands are in talk_commands.c. */
#include "cli/talk.h"

#include "base/os.h"
#include "cli/cli.h"
#include "cli/line.h"
#include "serve/timings.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROOM_SHARE 4 /* of the context, at most, is held free for an answer */

void mlxd_talk_say(const char *fmt, ...) {
    char text[1024];
    mlxd_buf out;
    mlxd_why unused;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mlxd_buf_init(&out, 0);
    mlxd_screen_neutralize(&out, mlxd_slice_str(text));
    mlxd_buf_add_byte(&out, '\n');
    /* A terminal that is gone is noticed by the next read. */
    if (mlxd_cli_print(out.data, out.failed ? 0 : out.len, &unused))
        clearerr(stdout);
    mlxd_buf_deinit(&out);
}

/* ---- an answer ---- */

/* Tokens that the prompt may have, so that there is room for an answer. */
static uint32_t prompt_max(const mlxd_talk *c) {
    uint32_t context = c->local->context, room = MLXD_MAX(context / ROOM_SHARE, 1);
    if (c->max_tokens)
        room = MLXD_MIN(room, c->max_tokens);
    return context - room + 1;
}

static uint32_t common(const mlxd_tokens *a, const mlxd_request *b) {
    uint32_t n = 0;
    while (n < a->count && n < b->n_tokens && a->ids[n] == b->tokens[n])
        n++;
    return n;
}

static mlxd_err make_request(mlxd_talk *c, const mlxd_tokens *prompt, mlxd_request **out,
                             mlxd_why *why) {
    const mlxd_options *o = c->local->o;
    mlxd_slice stop[MLXD_OPTION_LIST_MAX];
    mlxd_generation_params p = {.sampling = c->sampling,
                                .stop = stop,
                                .stop_count = o->stop.count,
                                .ignore_end = o->ignore_eos,
                                .reasoning = c->local->host.reasoning,
                                .max_tokens = c->max_tokens ? c->max_tokens : UINT32_MAX};
    for (size_t i = 0; i < o->stop.count; i++)
        stop[i] = mlxd_slice_str(o->stop.items[i]);
    if (!c->seeded && !mlxd_os_random(&p.sampling.seed, sizeof p.sampling.seed))
        return mlxd_fail(why, MLXD_ERR_IO, "no entropy for a seed");
    mlxd_err err = mlxd_local_request(c->local, prompt, &p, out, why);
    if (err)
        return err;
    (*out)->keep = true;
    if (c->last) {
        (*out)->continues = c->last->id;
        (*out)->cached = common(prompt, c->last);
    }
    return MLXD_OK;
}

static mlxd_err take_text(void *ctx, bool reasoning, mlxd_slice text, mlxd_why *why) {
    mlxd_talk *c = ctx;
    mlxd_message *m = &c->said.messages[c->said.count - 1];
    mlxd_buf *to = reasoning ? &m->reasoning : &m->content;
    mlxd_buf_add(to, text.data, text.len);
    if (to->failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the answer");
    return mlxd_screen_write(&c->screen, reasoning, text, why);
}

static void tell_end(const mlxd_talk *c, mlxd_err err) {
    const mlxd_request *r = c->last;
    mlxd_generation *g = r->generation;
    if (err == MLXD_ERR_CANCELLED)
        mlxd_talk_say("(stopped)");
    else if (mlxd_generation_finish(g) == MLXD_FINISH_LENGTH && c->max_tokens &&
             mlxd_generation_tokens(g) == c->max_tokens)
        mlxd_talk_say("(cut off at %u tokens, see /set max_tokens)", c->max_tokens);
    else if (mlxd_generation_finish(g) == MLXD_FINISH_LENGTH)
        mlxd_talk_say("(cut off: the context of %u tokens is full)", c->local->context);
    if (c->local->o->verbose) {
        mlxd_speed s = mlxd_timings_speed(r);
        mlxd_talk_say("(prompt %u tokens, %u of them cached, %.1f tokens/s; answer %u tokens, "
                      "%.1f tokens/s)",
                      r->n_prompt, r->cached, s.prompt_per_second, mlxd_generation_tokens(g),
                      s.predicted_per_second);
    }
}

/* The prompt; false when the conversation cannot be one, which the user is told. */
static bool encode(mlxd_talk *c, mlxd_tokens *prompt) {
    const mlxd_host *h = &c->local->host;
    size_t dropped;
    mlxd_why why = {0};
    mlxd_conversation_form form = {.chat = h->chat,
                                   .tokenizer = h->tokenizer,
                                   .enable_thinking =
                                       c->thinking ? mlxd_json_root(c->thinking) : NULL,
                                   .now_s = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S)};
    mlxd_err err = mlxd_conversation_encode(&c->said, &form, prompt_max(c), prompt, &dropped, &why);
    if (dropped)
        mlxd_talk_say("(the context of %u tokens is full: the oldest %zu %s left out)",
                      c->local->context, dropped, dropped == 1 ? "turn is" : "turns are");
    if (err == MLXD_ERR_RANGE)
        mlxd_talk_say("The message is too long: with it the prompt has more than %u of the "
                      "context's %u tokens.",
                      prompt_max(c), c->local->context);
    else if (err)
        mlxd_talk_say("%s", why.text);
    return err == MLXD_OK;
}

/* Lets the model answer; the answer's message is the last one of the conversation. */
static mlxd_err generate(mlxd_talk *c, const mlxd_tokens *prompt, mlxd_why *why) {
    mlxd_request *r;
    mlxd_err err = make_request(c, prompt, &r, why);
    if (err)
        return err;
    err = mlxd_local_answer(c->local, r, take_text, c, why);
    mlxd_request_close(c->last);
    c->last = r;
    mlxd_why unused;
    mlxd_err end = mlxd_screen_end(&c->screen, err ? &unused : why);
    if (!err || err == MLXD_ERR_CANCELLED)
        tell_end(c, err);
    return err ? err : end;
}

mlxd_err mlxd_talk_answer(mlxd_talk *c, mlxd_why *why) {
    mlxd_tokens prompt = {0};
    MLXD_ASSERT(c->said.count > 0 && c->said.messages[c->said.count - 1].role == MLXD_ROLE_USER);
    bool good = encode(c, &prompt);
    size_t question = c->said.count - 1; /* encoding may have moved it */
    mlxd_err err = MLXD_OK;
    if (good && !mlxd_conversation_add(&c->said, MLXD_ROLE_ASSISTANT, (mlxd_slice){0}))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "the conversation is too long; /clear begins anew");
    else if (good)
        err = generate(c, &prompt, why);
    mlxd_tokens_deinit(&prompt);
    const mlxd_message *m = &c->said.messages[c->said.count - 1];
    bool answered =
        good && (!err || (err == MLXD_ERR_CANCELLED && m->content.len + m->reasoning.len > 0));
    if (!answered)
        mlxd_conversation_cut(&c->said, question);
    mlxd_local_forget();
    if (err == MLXD_ERR_IO)
        return err;
    if (err && err != MLXD_ERR_CANCELLED)
        mlxd_talk_say("%s", why->text);
    return MLXD_OK;
}

/* ---- the loop ---- */

static mlxd_err take_line(mlxd_talk *c, const mlxd_buf *text, mlxd_why *why) {
    size_t from = strspn((const char *)text->data, " \t\n");
    if (from == text->len)
        return MLXD_OK;
    if (text->data[0] == '/')
        return mlxd_talk_command(c, (const char *)text->data, why);
    if (!mlxd_conversation_add(&c->said, MLXD_ROLE_USER, (mlxd_slice){text->data, text->len})) {
        mlxd_talk_say("The conversation is too long; /clear begins anew.");
        return MLXD_OK;
    }
    return mlxd_talk_answer(c, why);
}

static mlxd_err talk(mlxd_talk *c, mlxd_line *line, mlxd_why *why) {
    bool warned = false; /* of Ctrl-C, just now */
    mlxd_buf text;
    mlxd_err err = MLXD_OK;
    mlxd_buf_init(&text, MLXD_LIMIT_BODY_BYTES);
    while (!c->done && !err) {
        mlxd_buf_clear(&text);
        mlxd_line_result r = mlxd_line_read(line, &text);
        if (mlxd_local_terminated()) {
            err = mlxd_fail(why, MLXD_ERR_CANCELLED, "terminated");
        } else if (r == MLXD_LINE_TEXT) {
            (void)mlxd_buf_str(&text);
            if (text.failed)
                mlxd_talk_say("The message is larger than %u bytes.", MLXD_LIMIT_BODY_BYTES);
            else
                err = take_line(c, &text, why);
        } else {
            c->done = r == MLXD_LINE_END || (r == MLXD_LINE_INTERRUPT && warned);
            mlxd_talk_say(r == MLXD_LINE_INTERRUPT && !c->done ? "\n(Ctrl-C again, or Ctrl-D, ends)"
                                                               : "");
        }
        warned = r == MLXD_LINE_INTERRUPT;
    }
    mlxd_buf_deinit(&text);
    return err;
}

static mlxd_err begin(mlxd_talk *c, mlxd_line **line, mlxd_why *why) {
    const mlxd_options *o = c->local->o;
    char history[4096];
    if (!c->local->host.chat)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "%s (to continue a text instead, use --raw with -p)",
                         c->local->host.chat_why.text);
    mlxd_err err = mlxd_local_sampling(c->local, &c->sampling, why);
    if (!err && mlxd_conversation_set_system(&c->said, mlxd_slice_str(o->system)))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (err)
        return err;
    c->seeded = o->seed[0] != 0;
    c->max_tokens = o->max_tokens == UINT64_MAX ? 0 : (uint32_t)o->max_tokens;
    if (mlxd_local_interrupted())
        return mlxd_fail(why, MLXD_ERR_CANCELLED, "interrupted");
    mlxd_local_catch(false);
    mlxd_line_history_path(history, sizeof history);
    err = mlxd_line_open(line, history, why);
    if (!err && why->text[0])
        mlxd_talk_say("%s", why->text);
    if (!err && !o->quiet)
        mlxd_talk_say("%s, context %u tokens. /help lists the commands, Ctrl-D ends.", o->model,
                      c->local->context);
    return err;
}

mlxd_err mlxd_talk_run(mlxd_local *l, mlxd_why *why) {
    mlxd_talk c = {.local = l};
    mlxd_line *line = NULL;
    mlxd_screen_init(&c.screen);
    mlxd_err err = begin(&c, &line, why);
    if (!err)
        err = talk(&c, line, why);
    mlxd_line_close(line);
    mlxd_request_close(c.last);
    mlxd_json_close(c.thinking);
    mlxd_conversation_deinit(&c.said);
    mlxd_screen_deinit(&c.screen);
    return err;
}
