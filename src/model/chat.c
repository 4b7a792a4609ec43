/* chat.c - see chat.h: where templates come from, what form of messages they take, renders. */
#include "model/chat.h"

#include "model/chat_values.h"
#include "model/jinja.h"

#include <string.h>

#define KEY "tokenizer.chat_template"

struct mlxd_chat {
    mlxd_jinja *plain, *tool_use; /* tool_use NULL: plain does it all */
    mlxd_chat_form form, tool_form;
    mlxd_chat_token tokens[MLXD_CHAT_TOKENS_MAX]; /* texts are owned */
    size_t n_tokens;
};

/* ---- rendering ---- */

static void set_or_none(mlxd_jinja_run *r, const char *name, const mlxd_json *v) {
    if (v)
        mlxd_jinja_set_json(r, name, v);
    else
        mlxd_jinja_set_none(r, name);
}

/* Names that a client's kwargs cannot take. */
static bool is_reserved(const char *name) {
    static const char *const names[] = {"messages", "tools", "documents", "add_generation_prompt"};
    size_t len = strlen(name);
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return len > 6 && strcmp(name + len - 6, "_token") == 0;
}

static void set_variables(mlxd_jinja_run *r, const mlxd_chat *c, const mlxd_chat_input *in,
                          const mlxd_chat_form *form) {
    mlxd_slice key;
    const mlxd_json *k = in->kwargs;
    for (const mlxd_json *v = k ? mlxd_json_first(k, &key) : NULL; v;
         v = mlxd_json_next(k, v, &key))
        if (!is_reserved((const char *)key.data))
            mlxd_jinja_set_json(r, (const char *)key.data, v);
    for (size_t i = 0; i < in->n_variables; i++)
        mlxd_jinja_set_json(r, in->variables[i].name, in->variables[i].value);
    for (size_t i = 0; i < c->n_tokens; i++)
        mlxd_jinja_set_str(r, c->tokens[i].name, c->tokens[i].text, true);
    mlxd_chat_set_messages(r, in, form);
    set_or_none(r, "tools", in->tools);
    set_or_none(r, "documents", in->documents);
    mlxd_jinja_set_bool(r, "add_generation_prompt", in->add_generation_prompt);
}

static mlxd_err render(const mlxd_chat *c, const mlxd_jinja *t, const mlxd_chat_form *form,
                       const mlxd_chat_input *in, mlxd_chat_prompt *out, mlxd_why *why) {
    mlxd_jinja_run *r;
    *out = (mlxd_chat_prompt){0};
    mlxd_err err = mlxd_jinja_begin(&r, t, in->now_s, why);
    if (err)
        return err;
    set_variables(r, c, in, form);
    err = mlxd_jinja_render(r, &out->text, &out->trusted, &out->n_trusted, why);
    if (err)
        mlxd_jinja_end(r);
    else
        out->owned = r;
    return err;
}

static bool has_tools(const mlxd_chat_input *in) {
    return in->tools && mlxd_json_count(in->tools) > 0;
}

mlxd_err mlxd_chat_render(const mlxd_chat *c, const mlxd_chat_input *in, mlxd_chat_prompt *out,
                          mlxd_why *why) {
    MLXD_ASSERT(c && in && out);
    bool tools = c->tool_use && has_tools(in);
    return render(c, tools ? c->tool_use : c->plain, tools ? &c->tool_form : &c->form, in, out,
                  why);
}

void mlxd_chat_prompt_deinit(mlxd_chat_prompt *p) {
    mlxd_jinja_end(p->owned);
    *p = (mlxd_chat_prompt){0};
}

mlxd_err mlxd_chat_prompt_encode(const mlxd_chat_prompt *p, const mlxd_tokenizer *t,
                                 size_t tokens_max, mlxd_tokens *out, mlxd_why *why) {
    MLXD_ASSERT(p && t && out);
    mlxd_text_range *plain = mlxd_mem_new(p->n_trusted + 1, sizeof *plain);
    if (!plain)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the prompt");
    size_t n = 0, at = 0;
    for (size_t i = 0; i <= p->n_trusted; i++) {
        size_t end = i < p->n_trusted ? p->trusted[i].start : p->text.len;
        if (end > at)
            plain[n++] = (mlxd_text_range){at, end};
        at = i < p->n_trusted ? p->trusted[i].end : end;
    }
    mlxd_err err = mlxd_tokenizer_encode_parts(t, p->text, plain, n, tokens_max, out, why);
    mlxd_mem_free(plain);
    return err;
}

mlxd_err mlxd_chat_encode(const mlxd_chat *c, const mlxd_tokenizer *t, const mlxd_chat_input *in,
                          size_t tokens_max, mlxd_tokens *out, mlxd_why *why) {
    mlxd_chat_prompt p;
    mlxd_err err = mlxd_chat_render(c, in, &p, why);
    if (err)
        return err;
    err = mlxd_chat_prompt_encode(&p, t, tokens_max, out, why);
    mlxd_chat_prompt_deinit(&p);
    return err;
}

/* ---- which form a template takes ---- */

#define CALL(arguments)                                                                            \
    "{\"id\":\"call00001\",\"type\":\"function\",\"function\":{\"name\":\"f\","                    \
    "\"arguments\":" arguments "}}"
#define CALLED(content, arguments)                                                                 \
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":" content          \
    ",\"tool_calls\":[" CALL(arguments) "]},{\"role\":\"tool\",\"name\":\"f\",\"tool_call_id\":"   \
                                        "\"call00001\",\"content\":\"r\"}]"

static bool contains(mlxd_slice text, const char *part) {
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= text.len; i++)
        if (memcmp(text.data + i, part, n) == 0)
            return true;
    return false;
}

/* Does the conversation, given as it is, render to a text with `with` and without `without`? */
static bool probe(const mlxd_chat *c, const mlxd_jinja *t, const char *messages, const char *with,
                  const char *without) {
    static const mlxd_chat_form as_it_is = {.parts = true, .null_content = true, .developer = true};
    mlxd_json_doc *doc;
    mlxd_chat_prompt p;
    if (mlxd_json_parse(&doc, mlxd_slice_str(messages), MLXD_LIMIT_JSON_DEPTH, NULL))
        return false; /* no memory */
    mlxd_chat_input in = {.messages = mlxd_json_root(doc), .add_generation_prompt = true};
    mlxd_err err = render(c, t, &as_it_is, &in, &p, NULL);
    bool good = !err && contains(p.text, with) && !contains(p.text, without);
    if (!err)
        mlxd_chat_prompt_deinit(&p);
    mlxd_json_close(doc);
    return good;
}

static mlxd_chat_form find_form(const mlxd_chat *c, const mlxd_jinja *t) {
    mlxd_chat_form form = {.developer = mlxd_jinja_mentions(t, "developer")};
    form.parts =
        probe(c, t, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"MARK\"}]}]",
              "MARK", "'type'");
    form.only_parts =
        form.parts && !probe(c, t, "[{\"role\":\"user\",\"content\":\"MARK\"}]", "MARK", "\1");
    form.null_content = probe(c, t, CALLED("null", "{\"k\":\"MARK\"}"), "", "None");
    /* An object that is printed as Python prints one was meant to be a text. */
    form.text_arguments = probe(c, t, CALLED("\"\"", "{\"k\":\"MARK\"}"), "{'k': 'MARK'}", "\1");
    return form;
}

/* ---- open ---- */

static mlxd_err copy_tokens(mlxd_chat *c, const mlxd_chat_source *source, mlxd_why *why) {
    for (size_t i = 0; i < source->n_tokens; i++) {
        mlxd_slice text = source->tokens[i].text;
        char *copy = mlxd_mem_dup(text.data, text.len);
        if (!copy)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the chat template");
        c->tokens[c->n_tokens++] =
            (mlxd_chat_token){source->tokens[i].name, {(const uint8_t *)copy, text.len}};
    }
    return MLXD_OK;
}

mlxd_err mlxd_chat_open(mlxd_chat **out, const mlxd_chat_source *source, mlxd_why *why) {
    MLXD_ASSERT(out && source && source->n_tokens <= MLXD_CHAT_TOKENS_MAX);
    *out = NULL;
    if (!source->text.data)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND,
                         "the model has no chat template: only raw prompts are possible");
    mlxd_chat *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the chat template");
    mlxd_err err = copy_tokens(c, source, why);
    if (!err)
        err = mlxd_jinja_open(&c->plain, source->text, why);
    if (!err && source->tool_use.data)
        err = mlxd_jinja_open(&c->tool_use, source->tool_use, why);
    if (err) {
        mlxd_chat_close(c);
        return err;
    }
    c->form = find_form(c, c->plain);
    if (c->tool_use)
        c->tool_form = find_form(c, c->tool_use);
    *out = c;
    return MLXD_OK;
}

void mlxd_chat_close(mlxd_chat *c) {
    if (!c)
        return;
    mlxd_jinja_close(c->plain);
    mlxd_jinja_close(c->tool_use);
    for (size_t i = 0; i < c->n_tokens; i++)
        mlxd_mem_free((void *)(uintptr_t)c->tokens[i].text.data);
    mlxd_mem_free(c);
}

mlxd_slice mlxd_chat_template(const mlxd_chat *c, bool tools) {
    return mlxd_jinja_source(tools && c->tool_use ? c->tool_use : c->plain);
}

bool mlxd_chat_mentions(const mlxd_chat *c, const char *name) {
    return mlxd_jinja_mentions(c->plain, name) ||
           (c->tool_use && mlxd_jinja_mentions(c->tool_use, name));
}

/* ---- GGUF ---- */

/* The first file that names a token wins. */
static void add_token(mlxd_chat_source *s, const char *name, mlxd_slice text) {
    for (size_t i = 0; i < s->n_tokens; i++)
        if (strcmp(s->tokens[i].name, name) == 0)
            return;
    if (text.len > 0 && s->n_tokens < MLXD_CHAT_TOKENS_MAX)
        s->tokens[s->n_tokens++] = (mlxd_chat_token){name, text};
}

mlxd_err mlxd_chat_open_gguf(mlxd_chat **out, const mlxd_gguf *g, const mlxd_tokenizer *t,
                             mlxd_why *why) {
    static const struct {
        const char *name, *key;
    } ids[] = {
        {"bos_token", "tokenizer.ggml.bos_token_id"},
        {"eos_token", "tokenizer.ggml.eos_token_id"},
        {"unk_token", "tokenizer.ggml.unknown_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"},
        {"sep_token", "tokenizer.ggml.seperator_token_id"},
    };
    MLXD_ASSERT(out && g && t);
    mlxd_chat_source s = {0};
    *out = NULL;
    mlxd_err err = mlxd_gguf_get_str(g, KEY, &s.text, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, err, "the model has no " KEY ": only raw prompts are possible");
    if (!err && mlxd_gguf_has(g, KEY ".tool_use"))
        err = mlxd_gguf_get_str(g, KEY ".tool_use", &s.tool_use, why);
    if (err)
        return err;
    if (!s.text.data)
        s.text = mlxd_slice_str("");
    for (size_t i = 0; i < MLXD_COUNT_OF(ids); i++) {
        uint64_t id;
        if (mlxd_gguf_has(g, ids[i].key) && !mlxd_gguf_get_u64(g, ids[i].key, &id, NULL) &&
            id < mlxd_tokenizer_vocab(t))
            add_token(&s, ids[i].name, mlxd_tokenizer_bytes(t, (int32_t)id));
    }
    return mlxd_chat_open(out, &s, why);
}

/* ---- files of Hugging Face ---- */

/* A string, or an object whose "content" is one. */
static void read_token(mlxd_chat_source *s, const mlxd_json *root, const char *name) {
    const mlxd_json *v = mlxd_json_find(root, name);
    mlxd_slice text;
    if (v && mlxd_json_get_kind(v) == MLXD_JSON_OBJECT)
        v = mlxd_json_find(v, "content");
    if (v && !mlxd_json_get_str(v, &text))
        add_token(s, name, text);
}

/* An element of a list of templates: an object with name and template. */
static mlxd_err read_named(mlxd_chat_source *s, const mlxd_json *v, mlxd_why *why) {
    mlxd_slice text;
    bool object = mlxd_json_get_kind(v) == MLXD_JSON_OBJECT;
    const mlxd_json *name = object ? mlxd_json_find(v, "name") : NULL;
    const mlxd_json *source = object ? mlxd_json_find(v, "template") : NULL;
    if (!name || !source || mlxd_json_get_str(source, &text))
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "chat_template: expected objects with name and template");
    if (mlxd_json_is_str(name, "default"))
        s->text = text;
    else if (mlxd_json_is_str(name, "tool_use"))
        s->tool_use = text;
    return MLXD_OK;
}

static mlxd_err read_template(mlxd_chat_source *s, const mlxd_json *v, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    if (!v || mlxd_json_get_kind(v) == MLXD_JSON_NULL || !mlxd_json_get_str(v, &s->text))
        return MLXD_OK;
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return mlxd_fail(why, MLXD_ERR_DATA, "chat_template: expected a string or a list, got %s",
                         mlxd_json_kind_name(mlxd_json_get_kind(v)));
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e && !err; e = mlxd_json_next(v, e, NULL))
        err = read_named(s, e, why);
    if (!s->text.data)
        s->text = s->tool_use;
    return err;
}

/* Special tokens, and the template if there is none yet: each file has some of them. */
static mlxd_err read_root(mlxd_chat_source *s, const mlxd_json *root, mlxd_why *why) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                        "sep_token", "cls_token", "mask_token"};
    if (mlxd_json_get_kind(root) != MLXD_JSON_OBJECT)
        return mlxd_fail(why, MLXD_ERR_DATA, "expected an object");
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        read_token(s, root, names[i]);
    return s->text.data ? MLXD_OK : read_template(s, mlxd_json_find(root, "chat_template"), why);
}

/* `doc` lends `s` its texts. */
static mlxd_err read_file(mlxd_chat_source *s, mlxd_slice text, const char *name,
                          mlxd_json_doc **doc, mlxd_why *why) {
    if (!text.data)
        return MLXD_OK;
    mlxd_err err = mlxd_json_parse(doc, text, MLXD_LIMIT_JSON_DEPTH, why);
    if (!err)
        err = read_root(s, mlxd_json_root(*doc), why);
    return err ? mlxd_fail_in(why, err, "%s", name) : MLXD_OK;
}

mlxd_err mlxd_chat_open_files(mlxd_chat **out, const mlxd_chat_files *files, mlxd_why *why) {
    MLXD_ASSERT(out && files);
    const struct {
        const char *name;
        mlxd_slice text;
    } all[] = {{"tokenizer_config.json", files->config},
               {"special_tokens_map.json", files->special_map},
               {"chat_template.json", files->processor}};
    mlxd_chat_source s = {.text = files->jinja};
    mlxd_json_doc *docs[MLXD_COUNT_OF(all)] = {NULL};
    mlxd_err err = MLXD_OK;
    *out = NULL;
    for (size_t i = 0; i < MLXD_COUNT_OF(all) && !err; i++)
        err = read_file(&s, all[i].text, all[i].name, &docs[i], why);
    if (!err)
        err = mlxd_chat_open(out, &s, why);
    for (size_t i = 0; i < MLXD_COUNT_OF(all); i++)
        mlxd_json_close(docs[i]);
    return err;
}
