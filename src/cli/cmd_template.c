/* cmd_template.c - `mlxd template`: what a model's chat template makes of a conversation, as text
 * or as tokens, without loading weights. On a terminal control tokens stand out.
 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "format/json.h"
#include "format/utf8.h"
#include "serve/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Not every template takes a system message. */
#define SAMPLE                                                                                     \
    "[{\"role\":\"user\",\"content\":\"Hello!\"},"                                                 \
    "{\"role\":\"assistant\",\"content\":\"Hi! What can I do for you?\"},"                         \
    "{\"role\":\"user\",\"content\":\"Name a river in France.\"}]"

struct session {
    const mlxd_options *o;
    mlxd_host host;
    mlxd_json_doc *messages, *tools, *kwargs; /* NULL: not given */
    mlxd_chat_input in;
    mlxd_buf out;
};

/* ---- input ---- */

static mlxd_err read_all(const char *path, mlxd_buf *out, mlxd_why *why) {
    uint8_t chunk[4096];
    size_t n;
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");
    if (!f)
        return mlxd_fail(why, errno == ENOENT ? MLXD_ERR_NOTFOUND : MLXD_ERR_IO, "%s: %s", path,
                         strerror(errno));
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        mlxd_buf_add(out, chunk, n);
    bool failed = ferror(f) != 0;
    if (!standard)
        (void)fclose(f);
    if (failed)
        return mlxd_fail(why, MLXD_ERR_IO, "%s: cannot be read", path);
    if (out->failed)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s: more than %u bytes", path,
                         MLXD_LIMIT_BODY_BYTES);
    return MLXD_OK;
}

static mlxd_err parse(mlxd_json_doc **doc, mlxd_slice text, const char *what, mlxd_json_kind kind,
                      mlxd_why *why) {
    mlxd_err err = mlxd_json_parse(doc, text, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err, "%s", what);
    mlxd_json_kind got = mlxd_json_get_kind(mlxd_json_root(*doc));
    return got == kind ? MLXD_OK
                       : mlxd_fail(why, MLXD_ERR_INVALID, "%s: expected an %s, got %s", what,
                                   mlxd_json_kind_name(kind), mlxd_json_kind_name(got));
}

static mlxd_err parse_file(mlxd_json_doc **doc, const char *path, mlxd_why *why) {
    mlxd_buf text;
    mlxd_buf_init(&text, MLXD_LIMIT_BODY_BYTES);
    mlxd_err err = read_all(path, &text, why);
    if (!err)
        err = parse(doc, (mlxd_slice){text.data, text.len}, path, MLXD_JSON_ARRAY, why);
    mlxd_buf_deinit(&text);
    return err;
}

static mlxd_err read_input(struct session *s, mlxd_why *why) {
    const mlxd_options *o = s->o;
    mlxd_err err = o->messages[0] ? parse_file(&s->messages, o->messages, why)
                                  : parse(&s->messages, mlxd_slice_str(SAMPLE), "sample",
                                          MLXD_JSON_ARRAY, why);
    if (!err && o->tools[0])
        err = parse_file(&s->tools, o->tools, why);
    if (!err && o->kwargs[0])
        err = parse(&s->kwargs, mlxd_slice_str(o->kwargs), "--kwargs", MLXD_JSON_OBJECT, why);
    if (err)
        return err;
    s->in = (mlxd_chat_input){.messages = mlxd_json_root(s->messages),
                              .tools = s->tools ? mlxd_json_root(s->tools) : NULL,
                              .kwargs = s->kwargs ? mlxd_json_root(s->kwargs) : NULL,
                              .add_generation_prompt = !o->no_generation_prompt,
                              .now_s = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S)};
    return MLXD_OK;
}

/* ---- output ---- */

/* {"text": .., "trusted": [[start, end], ..], "tokens": [..]}: spans in bytes of the text. */
static void write_json(struct session *s, const mlxd_chat_prompt *p, const mlxd_tokens *t) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, &s->out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "text");
    mlxd_jsonw_slice(&w, p->text);
    mlxd_jsonw_key(&w, "trusted");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < p->n_trusted; i++) {
        mlxd_jsonw_array_begin(&w);
        mlxd_jsonw_uint(&w, p->trusted[i].start);
        mlxd_jsonw_uint(&w, p->trusted[i].end);
        mlxd_jsonw_array_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key(&w, "tokens");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < t->count; i++)
        mlxd_jsonw_int(&w, t->ids[i]);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(&s->out, '\n');
}

/* A line for each token: its id, "control" or nothing, its text as JSON writes one. */
static void write_tokens(struct session *s, const mlxd_tokens *t) {
    for (size_t i = 0; i < t->count; i++) {
        mlxd_jsonw w;
        bool control = mlxd_tokenizer_is_control(s->host.tokenizer, t->ids[i]);
        mlxd_buf_addf(&s->out, "%8d  %-7s  ", t->ids[i], control ? "control" : "");
        mlxd_jsonw_init(&w, &s->out);
        mlxd_jsonw_slice(&w, mlxd_tokenizer_bytes(s->host.tokenizer, t->ids[i]));
        mlxd_buf_add_byte(&s->out, '\n');
    }
}

/* The text, control tokens in reverse video. Escape sequences of the text are made harmless. */
static void write_marked(struct session *s, const mlxd_tokens *t) {
    mlxd_detok d;
    mlxd_detok_init(&d);
    for (size_t i = 0; i < t->count; i++) {
        mlxd_slice bytes = mlxd_tokenizer_bytes(s->host.tokenizer, t->ids[i]);
        bool control = mlxd_tokenizer_is_control(s->host.tokenizer, t->ids[i]);
        size_t start = s->out.len + (control ? 4 : 0);
        if (control)
            mlxd_buf_add_str(&s->out, "\033[7m");
        mlxd_detok_add_bytes(&d, bytes, &s->out);
        for (size_t k = start; k < s->out.len && !s->out.failed; k++)
            if (s->out.data[k] < 0x20 && s->out.data[k] != '\n' && s->out.data[k] != '\t')
                s->out.data[k] = '?';
        if (control)
            mlxd_buf_add_str(&s->out, "\033[0m");
    }
    mlxd_detok_flush(&d, &s->out);
    mlxd_buf_add_byte(&s->out, '\n');
}

static mlxd_err show(struct session *s, mlxd_why *why) {
    const mlxd_options *o = s->o;
    mlxd_tokens t = {0};
    mlxd_chat_prompt p;
    mlxd_err err = mlxd_chat_render(s->host.chat, &s->in, &p, why);
    if (err)
        return err;
    err = mlxd_chat_prompt_encode(&p, s->host.tokenizer, 0, &t, why);
    if (!err && o->json)
        write_json(s, &p, &t);
    else if (!err && o->tokens)
        write_tokens(s, &t);
    else if (!err && isatty(STDOUT_FILENO))
        write_marked(s, &t);
    else if (!err)
        mlxd_buf_add(&s->out, p.text.data, p.text.len);
    mlxd_tokens_deinit(&t);
    mlxd_chat_prompt_deinit(&p);
    return err;
}

static mlxd_err run(struct session *s, mlxd_why *why) {
    const mlxd_options *o = s->o;
    const char *path = o->model;
    mlxd_host_params params = {.path = path, .threads = 1, .text = true};
    if (o->n_args > 0)
        return mlxd_fail(why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!path[0])
        return mlxd_fail(why, MLXD_ERR_USAGE, "no model: mlxd template MODEL");
    mlxd_err err = read_input(s, why);
    if (!err)
        err = mlxd_host_open(&s->host, &params, why);
    if (!err && !s->host.chat)
        err = mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: %s", path, s->host.chat_why.text);
    if (!err && o->source) {
        mlxd_slice text = mlxd_chat_template(s->host.chat, s->tools != NULL);
        mlxd_buf_add(&s->out, text.data, text.len);
    } else if (!err) {
        err = show(s, why);
    }
    if (!err && s->out.failed)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    return err ? err : mlxd_cli_print(s->out.data, s->out.len, why);
}

int mlxd_cmd_template(const mlxd_options *o) {
    struct session s = {.o = o};
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    mlxd_buf_init(&s.out, 0);
    if (!err)
        err = run(&s, &why);
    mlxd_host_close(&s.host);
    mlxd_json_close(s.messages);
    mlxd_json_close(s.tools);
    mlxd_json_close(s.kwargs);
    mlxd_buf_deinit(&s.out);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
