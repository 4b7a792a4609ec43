/* api_prompt.c - see api_prompt.h. */
#include "serve/api_prompt.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* A prompt that is too long is still counted this far beyond the context, so that the answer can
 * name its length; one that is longer yet costs no more. */
#define COUNT_BEYOND (64u << 10)

struct reader {
    mlxd_api_fields *fields;
    mlxd_api_refusal *r;
    size_t index;    /* of the message */
    char where[48];  /* "messages[3]" */
    char param[128]; /* scratch */
};

/* ---- errors ---- */

static bool refuse(struct reader *m, const char *code, const char *field, const char *what) {
    snprintf(m->param, sizeof m->param, "%s%s%s", m->where, *field ? "." : "", field);
    return mlxd_api_refuse(m->r, 400, code, m->param, "%s: %s", m->param, what);
}

static bool is_absent(const mlxd_json *v) {
    return !v || mlxd_json_get_kind(v) == MLXD_JSON_NULL;
}

/* ---- content ---- */

/* One part: an object of type "text". */
static bool check_part(struct reader *m, const mlxd_json *part, size_t index) {
    char field[64];
    mlxd_slice type, s;
    snprintf(field, sizeof field, "content[%zu]", index);
    if (mlxd_json_get_kind(part) != MLXD_JSON_OBJECT)
        return refuse(m, "invalid_type", field, "expected an object");
    const mlxd_json *t = mlxd_json_find(part, "type");
    if (!t || mlxd_json_get_str(t, &type)) {
        snprintf(field, sizeof field, "content[%zu].type", index);
        return refuse(m, "invalid_type", field, "expected a string");
    }
    if (!mlxd_json_is_str(t, "text")) {
        char what[96];
        snprintf(field, sizeof field, "content[%zu].type", index);
        snprintf(what, sizeof what, "\"%.32s\" is not supported, only \"text\" is",
                 (const char *)type.data);
        return refuse(m, "unsupported_parameter", field, what);
    }
    const mlxd_json *text = mlxd_json_find(part, "text");
    if (!text || mlxd_json_get_str(text, &s)) {
        snprintf(field, sizeof field, "content[%zu].text", index);
        return refuse(m, "invalid_type", field, "expected a string");
    }
    return true;
}

static bool check_content(struct reader *m, const mlxd_json *v, bool may_be_null) {
    size_t index = 0;
    if (is_absent(v) && may_be_null)
        return true;
    if (!is_absent(v) && mlxd_json_get_kind(v) == MLXD_JSON_STRING)
        return true;
    if (is_absent(v) || mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return refuse(m, "invalid_type", "content", "expected a string or an array of parts");
    if (mlxd_json_count(v) == 0)
        return refuse(m, "invalid_value", "content", "expected at least one part");
    for (const mlxd_json *p = mlxd_json_first(v, NULL); p; p = mlxd_json_next(v, p, NULL))
        if (!check_part(m, p, index++))
            return false;
    return true;
}

/* ---- tool calls ---- */

/* Of type "function", with its name and arguments: a JSON text, or an object already. */
static bool check_call(struct reader *m, const mlxd_json *call, size_t index) {
    char field[64];
    bool object = mlxd_json_get_kind(call) == MLXD_JSON_OBJECT;
    const mlxd_json *type = object ? mlxd_json_find(call, "type") : NULL;
    const mlxd_json *f = object ? mlxd_json_find(call, "function") : NULL;
    snprintf(field, sizeof field, "tool_calls[%zu]", index);
    if (!is_absent(type) && !mlxd_json_is_str(type, "function"))
        return refuse(m, "unsupported_parameter", field, "only type \"function\" is supported");
    if (is_absent(f) || mlxd_json_get_kind(f) != MLXD_JSON_OBJECT)
        return refuse(m, "invalid_type", field, "expected an object with an object \"function\"");
    const mlxd_json *name = mlxd_json_find(f, "name"), *args = mlxd_json_find(f, "arguments");
    if (is_absent(name) || mlxd_json_get_kind(name) != MLXD_JSON_STRING)
        return refuse(m, "invalid_type", field, "function.name: expected a string");
    if (is_absent(args) || (mlxd_json_get_kind(args) != MLXD_JSON_STRING &&
                            mlxd_json_get_kind(args) != MLXD_JSON_OBJECT))
        return refuse(m, "invalid_type", field, "function.arguments: expected a JSON text");
    return true;
}

static bool check_calls(struct reader *m, const mlxd_json *v) {
    size_t index = 0;
    if (is_absent(v))
        return true;
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return refuse(m, "invalid_type", "tool_calls", "expected an array");
    for (const mlxd_json *c = mlxd_json_first(v, NULL); c; c = mlxd_json_next(v, c, NULL))
        if (!check_call(m, c, index++))
            return false;
    return true;
}

/* ---- messages ---- */

static bool check_role(struct reader *m, const mlxd_json *v) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    mlxd_slice s;
    char what[112];
    if (is_absent(v) || mlxd_json_get_str(v, &s))
        return refuse(m, "invalid_type", "role", "expected a string");
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++)
        if (mlxd_json_is_str(v, roles[i]))
            return true;
    snprintf(what, sizeof what,
             "expected \"system\", \"developer\", \"user\", \"assistant\" or \"tool\", got "
             "\"%.32s\"",
             (const char *)s.data);
    return refuse(m, "invalid_value", "role", what);
}

static bool is_one_of(mlxd_slice name, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(list[i])))
            return true;
    return false;
}

/* Fields besides role and content. */
static bool check_others(struct reader *m, const mlxd_json *v) {
    static const char *const known[] = {
        "role",      "content",           "name",     "refusal",     "annotations", "tool_calls",
        "reasoning", "reasoning_content", "thinking", "tool_call_id"};
    static const char *const refused[] = {"function_call", "audio"};
    mlxd_slice key;
    for (const mlxd_json *f = mlxd_json_first(v, &key); f; f = mlxd_json_next(v, f, &key)) {
        if (is_one_of(key, known, MLXD_COUNT_OF(known)))
            continue;
        if (!is_one_of(key, refused, MLXD_COUNT_OF(refused))) {
            if (!mlxd_api_fields_unknown(m->fields, m->where, key, m->r))
                return false;
        } else if (!is_absent(f)) {
            return refuse(m, "unsupported_parameter", (const char *)key.data,
                          "not supported by this server");
        }
    }
    return check_calls(m, mlxd_json_find(v, "tool_calls"));
}

static bool check_message(struct reader *m, const mlxd_json *v) {
    snprintf(m->where, sizeof m->where, "messages[%zu]", m->index++);
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return refuse(m, "invalid_type", "", "expected an object");
    const mlxd_json *role = mlxd_json_find(v, "role");
    return check_role(m, role) && check_others(m, v) &&
           check_content(m, mlxd_json_find(v, "content"), mlxd_json_is_str(role, "assistant"));
}

static bool check_messages(struct reader *m, const mlxd_json *v) {
    size_t count = v ? mlxd_json_count(v) : 0;
    if (!v)
        return mlxd_api_refuse(m->r, 400, "missing_required_parameter", "messages",
                               "messages: a conversation is needed");
    if (count == 0 || count > MLXD_LIMIT_MESSAGES)
        return mlxd_api_refuse(m->r, 400, "invalid_value", "messages",
                               "messages: expected 1 to %d messages, got %zu", MLXD_LIMIT_MESSAGES,
                               count);
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e; e = mlxd_json_next(v, e, NULL))
        if (!check_message(m, e))
            return false;
    return true;
}

/* ---- what else the template gets ---- */

/* A field that says something to the template is refused when the template cannot hear it. */
static bool takes(const mlxd_chat *c, const char *variable, const char *field,
                  mlxd_api_refusal *r) {
    return mlxd_chat_mentions(c, variable) ||
           mlxd_api_refuse(r, 400, "unsupported_parameter", field,
                           "%s: the model's chat template does not use it", field);
}

static bool add_variable(mlxd_chat_input *in, const char *name, const mlxd_json *v) {
    MLXD_ASSERT(in->n_variables < MLXD_CHAT_VARIABLES_MAX);
    in->variables[in->n_variables++] = (mlxd_chat_variable){name, v};
    return true;
}

static bool note_kwargs(const mlxd_chat *c, mlxd_api_fields *f, mlxd_api_refusal *r) {
    mlxd_slice key;
    const mlxd_json *k = f->kwargs;
    for (const mlxd_json *v = k ? mlxd_json_first(k, &key) : NULL; v;
         v = mlxd_json_next(k, v, &key))
        if (!mlxd_chat_mentions(c, (const char *)key.data) &&
            !mlxd_api_fields_unknown(f, "chat_template_kwargs", key, r))
            return false;
    return true;
}

static bool fill_input(const mlxd_chat *c, mlxd_api_fields *f, mlxd_chat_input *in,
                       mlxd_api_refusal *r) {
    *in = (mlxd_chat_input){.messages = f->messages,
                            .tools = f->tools_off ? NULL : f->tools,
                            .documents = f->documents,
                            .kwargs = f->kwargs,
                            .add_generation_prompt = true,
                            .now_s = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S)};
    if ((in->tools && !takes(c, "tools", "tools", r)) ||
        (in->documents && !takes(c, "documents", "documents", r)) || !note_kwargs(c, f, r))
        return false;
    if (f->reasoning_effort) {
        if (mlxd_chat_mentions(c, "reasoning_effort"))
            add_variable(in, "reasoning_effort", f->reasoning_effort);
        else if (!mlxd_json_is_str(f->reasoning_effort, "none"))
            return takes(c, "reasoning_effort", "reasoning_effort", r);
    }
    if (f->enable_thinking && mlxd_chat_mentions(c, "enable_thinking"))
        add_variable(in, "enable_thinking", f->enable_thinking);
    else if (f->enable_thinking)
        return mlxd_api_fields_unknown(f, "", mlxd_slice_str("enable_thinking"), r);
    return true;
}

/* ---- tokens ---- */

static bool check_length(mlxd_err err, const mlxd_why *why, uint32_t context, const char *param,
                         const mlxd_tokens *tokens, mlxd_api_refusal *r) {
    if (err == MLXD_OK && tokens->count <= context)
        return true;
    if (err == MLXD_OK)
        return mlxd_api_refuse(r, 400, "context_length_exceeded", param,
                               "the prompt has %zu tokens, the context holds %u", tokens->count,
                               context);
    if (err == MLXD_ERR_RANGE)
        return mlxd_api_refuse(r, 400, "context_length_exceeded", param,
                               "the prompt has more than %u tokens, the context holds %u",
                               context + COUNT_BEYOND, context);
    if (err == MLXD_ERR_INVALID)
        return mlxd_api_refuse(r, 400, "invalid_value", param, "%s", why->text);
    mlxd_api_refuse_err(r, err, why);
    return false;
}

static bool encode_chat(const mlxd_host *h, uint32_t context, struct reader *m, mlxd_tokens *out) {
    mlxd_chat_input in;
    mlxd_why why;
    if (!check_messages(m, m->fields->messages))
        return false;
    if (!h->chat)
        return mlxd_api_refuse(m->r, 400, "no_chat_template", "messages",
                               "%s; POST /v1/completions takes raw prompts", h->chat_why.text);
    if (!fill_input(h->chat, m->fields, &in, m->r))
        return false;
    mlxd_err err = mlxd_chat_encode(h->chat, h->tokenizer, &in, context + COUNT_BEYOND, out, &why);
    /* The template's own words, or where it fails: either way it does not take these messages. */
    if (err == MLXD_ERR_DATA || err == MLXD_ERR_UNSUPPORTED ||
        (err == MLXD_ERR_RANGE && strncmp(why.text, "chat template", 13) == 0))
        return mlxd_api_refuse(m->r, 400, "chat_template_failed", "messages", "%s", why.text);
    return check_length(err, &why, context, "messages", out, m->r);
}

static bool encode_ids(const mlxd_host *h, uint32_t context, const mlxd_json *v, mlxd_tokens *out,
                       mlxd_api_refusal *r) {
    mlxd_err err = MLXD_OK;
    mlxd_why why = {0};
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e && !err; e = mlxd_json_next(v, e, NULL)) {
        int64_t id;
        if (mlxd_json_get_int64(e, &id) || id < 0 ||
            (uint64_t)id >= mlxd_tokenizer_vocab(h->tokenizer))
            return mlxd_api_refuse(r, 400, "invalid_value", "prompt",
                                   "prompt: expected token ids from 0 to %zu",
                                   mlxd_tokenizer_vocab(h->tokenizer) - 1);
        err = mlxd_tokens_add(out, (int32_t)id, context + COUNT_BEYOND);
    }
    return check_length(err, &why, context, "prompt", out, r);
}

static bool encode_raw(const mlxd_host *h, uint32_t context, const mlxd_json *v, mlxd_tokens *out,
                       mlxd_api_refusal *r) {
    mlxd_slice text;
    mlxd_why why;
    if (!v)
        return mlxd_api_refuse(r, 400, "missing_required_parameter", "prompt",
                               "prompt: a text is needed");
    if (mlxd_json_get_kind(v) == MLXD_JSON_ARRAY && mlxd_json_count(v) > 0) {
        mlxd_json_kind first = mlxd_json_get_kind(mlxd_json_at(v, 0));
        if (first == MLXD_JSON_INT)
            return encode_ids(h, context, v, out, r);
        if (first != MLXD_JSON_STRING || mlxd_json_count(v) > 1)
            return mlxd_api_refuse(r, 400, "unsupported_parameter", "prompt",
                                   "prompt: only one prompt per request is supported");
        v = mlxd_json_at(v, 0);
    }
    if (mlxd_json_get_str(v, &text))
        return mlxd_api_refuse(r, 400, "invalid_type", "prompt",
                               "prompt: expected a string or an array of token ids");
    mlxd_err err = MLXD_OK;
    if (mlxd_tokenizer_add_bos(h->tokenizer) && mlxd_tokenizer_bos(h->tokenizer) >= 0)
        err = mlxd_tokens_add(out, mlxd_tokenizer_bos(h->tokenizer), 0);
    if (!err)
        err = mlxd_tokenizer_encode(h->tokenizer, text, false, context + COUNT_BEYOND, out, &why);
    if (!err && out->count == 0)
        return mlxd_api_refuse(r, 400, "invalid_value", "prompt", "prompt: it has no tokens");
    return check_length(err, &why, context, "prompt", out, r);
}

bool mlxd_api_prompt(const mlxd_host *h, uint32_t context, mlxd_api_fields *f, mlxd_tokens *out,
                     mlxd_api_refusal *r) {
    if (f->api == MLXD_API_TEXT)
        return encode_raw(h, context, f->prompt, out, r);
    struct reader m = {.fields = f, .r = r};
    return encode_chat(h, context, &m, out);
}
