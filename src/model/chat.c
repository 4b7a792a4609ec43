/* chat.c - see chat.h.
 *
 * The known templates are written below as templates; they and the one in the file are read by
 * template.c, and must have the same items. The output DEFAULT_SYSTEM stands for any text.
 */
#include "model/chat.h"

#include "format/utf8.h"
#include "model/template.h"

#include <string.h>

#define KEY "tokenizer.chat_template"
#define ANY_TEXT "DEFAULT_SYSTEM"

/* ---- known templates ---- */

#define PROMPT_OFF                                                                                 \
    "{% if not add_generation_prompt is defined %}"                                                \
    "{% set add_generation_prompt = false %}{% endif %}"
#define DEFAULT                                                                                    \
    "{% if loop.first and messages[0]['role'] != 'system' %}"                                      \
    "{{ '<|im_start|>system\\n' + " ANY_TEXT " + '<|im_end|>\\n' }}{% endif %}"
#define FOR "{% for message in messages %}"
#define TURNS                                                                                      \
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"        \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

static const struct {
    const char *name;
    const char *text;
} known[] = {
    {"chatml", FOR TURNS},
    {"chatml", FOR DEFAULT TURNS},
    {"chatml", PROMPT_OFF FOR TURNS},
    {"chatml", PROMPT_OFF FOR DEFAULT TURNS},
};

#define START "<|im_start|>"
#define END "<|im_end|>"

struct mlxd_chat {
    const char *name;
    bool has_default;
    char *default_system; /* owned; NULL unless has_default */
    size_t default_len;
};

static bool contains(mlxd_slice s, const char *part) {
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= s.len; i++)
        if (memcmp(s.data + i, part, n) == 0)
            return true;
    return false;
}

/* Is `text` before + something + after? The something goes to *middle. */
static bool split_text(mlxd_slice text, mlxd_slice before, mlxd_slice after, mlxd_slice *middle) {
    if (text.len < before.len + after.len)
        return false;
    *middle = (mlxd_slice){text.data + before.len, text.len - before.len - after.len};
    mlxd_slice head = {text.data, before.len};
    mlxd_slice tail = {middle->data + middle->len, after.len};
    /* "<|" would be a control token, or part of the structure. */
    return mlxd_slice_eq(head, before) && mlxd_slice_eq(tail, after) && !contains(*middle, "<|");
}

/* Does `found` have the items of `pattern`? *any is what stood in the place of ANY_TEXT; its data
 * is NULL when the pattern has none. */
static bool match(const mlxd_template *pattern, const mlxd_template *found, mlxd_slice *any) {
    *any = (mlxd_slice){0};
    size_t f = 0;
    for (size_t p = 0; p < pattern->count; p++, f++) {
        if (f == found->count || pattern->items[p].kind != found->items[f].kind)
            return false;
        bool wild = p + 2 < pattern->count && pattern->items[p + 1].kind == MLXD_TEMPLATE_VALUE &&
                    mlxd_slice_eq(mlxd_template_text(pattern, p + 1), mlxd_slice_str(ANY_TEXT));
        mlxd_slice wanted = mlxd_template_text(pattern, p), text = mlxd_template_text(found, f);
        if (wild) {
            if (!split_text(text, wanted, mlxd_template_text(pattern, p + 2), any))
                return false;
            p += 2;
        } else if (!mlxd_slice_eq(wanted, text)) {
            return false;
        }
    }
    return f == found->count;
}

/* Fills in `c`; UNSUPPORTED when no known template has the items of `found`. */
static mlxd_err recognise(mlxd_chat *c, const mlxd_template *found) {
    for (size_t i = 0; i < MLXD_COUNT_OF(known); i++) {
        mlxd_template pattern;
        mlxd_slice any = {0};
        mlxd_err err = mlxd_template_init(&pattern, mlxd_slice_str(known[i].text));
        bool same = !err && match(&pattern, found, &any);
        mlxd_template_deinit(&pattern);
        if (err) {
            MLXD_ASSERT(err == MLXD_ERR_NOMEM); /* the table is readable */
            return err;
        }
        if (!same)
            continue;
        c->name = known[i].name;
        c->has_default = any.data != NULL;
        if (c->has_default) {
            c->default_system = mlxd_mem_dup(any.data, any.len);
            if (!c->default_system)
                return MLXD_ERR_NOMEM;
            c->default_len = any.len;
        }
        return MLXD_OK;
    }
    return MLXD_ERR_UNSUPPORTED;
}

static mlxd_err refuse(mlxd_slice source, mlxd_why *why) {
    size_t start = 0, len = 0;
    while (start < source.len && (source.data[start] == '\n' || source.data[start] == '\r'))
        start++;
    while (start + len < source.len && source.data[start + len] != '\n' && len < 120)
        len++;
    while (start + len < source.len && (source.data[start + len] & 0xc0) == 0x80)
        len--; /* not within a character */
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                     KEY ": this template is not known (known: chatml); it begins: %.*s", (int)len,
                     source.len ? (const char *)source.data + start : "");
}

mlxd_err mlxd_chat_open(mlxd_chat **out, const mlxd_gguf *g, mlxd_why *why) {
    MLXD_ASSERT(out && g);
    *out = NULL;
    mlxd_slice source;
    mlxd_err err = mlxd_gguf_get_str(g, KEY, &source, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, err, "the model has no " KEY ": only raw prompts are possible");
    if (err)
        return err;
    if (source.len > MLXD_LIMIT_TEMPLATE_BYTES)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY ": %zu bytes, limit %u", source.len,
                         MLXD_LIMIT_TEMPLATE_BYTES);
    if (mlxd_utf8_check(source) != source.len)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY ": byte %zu is not UTF-8",
                         mlxd_utf8_check(source));
    mlxd_chat *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the chat template");
    mlxd_template found;
    err = mlxd_template_init(&found, source);
    if (!err)
        err = recognise(c, &found);
    mlxd_template_deinit(&found);
    if (err) {
        mlxd_chat_close(c);
        return err == MLXD_ERR_UNSUPPORTED ? refuse(source, why)
                                           : mlxd_fail(why, err, "no memory for the chat template");
    }
    *out = c;
    return MLXD_OK;
}

void mlxd_chat_close(mlxd_chat *c) {
    if (!c)
        return;
    mlxd_mem_free(c->default_system);
    mlxd_mem_free(c);
}

const char *mlxd_chat_name(const mlxd_chat *c) {
    return c->name;
}

mlxd_slice mlxd_chat_default_system(const mlxd_chat *c) {
    return (mlxd_slice){(const uint8_t *)c->default_system, c->default_len};
}

/* ---- rendering ---- */

/* Where a prompt goes: all of it to `text`; or, with a tokenizer, as tokens to `out`, and `text`
 * holds the plain text since the last control token. */
typedef struct writer {
    mlxd_buf *text;
    const mlxd_tokenizer *tokenizer; /* NULL: render only */
    mlxd_tokens *out;
    size_t tokens_max;
    mlxd_err err; /* sticky */
    mlxd_why *why;
} writer;

static void put(writer *w, mlxd_slice text) {
    if (!w->err)
        mlxd_buf_add(w->text, text.data, text.len);
}

/* Tokenizes the plain text that was collected. */
static void flush(writer *w) {
    if (!w->err && w->text->failed)
        w->err = mlxd_fail(w->why, MLXD_ERR_NOMEM, "no memory for the prompt");
    if (w->err || !w->tokenizer)
        return;
    w->err = mlxd_tokenizer_encode(w->tokenizer, (mlxd_slice){w->text->data, w->text->len}, false,
                                   w->tokens_max, w->out, w->why);
    mlxd_buf_clear(w->text);
}

/* A control token of the template. In a vocabulary that does not have it as one it is plain text,
 * as it would be in the whole rendered text. */
static void put_control(writer *w, const char *text) {
    int32_t id = w->tokenizer ? mlxd_tokenizer_find(w->tokenizer, mlxd_slice_str(text)) : -1;
    if (id < 0 || !mlxd_tokenizer_is_control(w->tokenizer, id)) {
        put(w, mlxd_slice_str(text));
        return;
    }
    flush(w);
    if (!w->err)
        w->err = mlxd_tokens_add(w->out, id, w->tokens_max);
    if (w->err == MLXD_ERR_RANGE)
        w->err = mlxd_fail(w->why, w->err, "the prompt has more than %zu tokens", w->tokens_max);
}

static void put_message(writer *w, mlxd_slice role, mlxd_slice content) {
    put_control(w, START);
    put(w, role);
    put(w, mlxd_slice_str("\n"));
    put(w, content);
    put_control(w, END);
    put(w, mlxd_slice_str("\n"));
}

static mlxd_err check_message(const mlxd_chat_message *m, size_t index, mlxd_why *why) {
    size_t role = mlxd_utf8_check(m->role), content = mlxd_utf8_check(m->content);
    if (role == m->role.len && content == m->content.len)
        return MLXD_OK;
    bool in_role = role != m->role.len;
    return mlxd_fail(why, MLXD_ERR_INVALID, "message %zu: %s is not UTF-8 at byte %zu", index,
                     in_role ? "role" : "content", in_role ? role : content);
}

static mlxd_err write_prompt(const mlxd_chat *c, const mlxd_chat_message *messages, size_t count,
                             bool add_generation_prompt, writer *w) {
    mlxd_slice system = mlxd_slice_str("system");
    for (size_t i = 0; i < count && !w->err; i++) {
        w->err = check_message(&messages[i], i, w->why);
        if (i == 0 && c->has_default && !mlxd_slice_eq(messages[0].role, system))
            put_message(w, system, mlxd_chat_default_system(c));
        put_message(w, messages[i].role, messages[i].content);
    }
    if (add_generation_prompt) {
        put_control(w, START);
        put(w, mlxd_slice_str("assistant\n"));
    }
    flush(w);
    return w->err;
}

mlxd_err mlxd_chat_render(const mlxd_chat *c, const mlxd_chat_message *messages, size_t count,
                          bool add_generation_prompt, mlxd_buf *out, mlxd_why *why) {
    MLXD_ASSERT(c && out && (messages || count == 0));
    writer w = {.text = out, .why = why};
    return write_prompt(c, messages, count, add_generation_prompt, &w);
}

mlxd_err mlxd_chat_encode(const mlxd_chat *c, const mlxd_tokenizer *t,
                          const mlxd_chat_message *messages, size_t count, size_t tokens_max,
                          mlxd_tokens *out, mlxd_why *why) {
    MLXD_ASSERT(c && t && out && (messages || count == 0));
    mlxd_buf run;
    mlxd_buf_init(&run, 0);
    writer w = {.text = &run, .tokenizer = t, .out = out, .tokens_max = tokens_max, .why = why};
    mlxd_err err = write_prompt(c, messages, count, true, &w);
    mlxd_buf_deinit(&run);
    return err;
}
