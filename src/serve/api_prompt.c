/* api_prompt.c - see api_prompt.h. */
#include "serve/api_prompt.h"

#include <stdio.h>
#include <string.h>

/* A prompt that is too long is still counted this far beyond the context, so that the answer can
 * name its length; one that is longer yet costs no more. */
#define COUNT_BEYOND (64u << 10)
/* Joined parts and the list of messages; the texts themselves stay in the document. */
#define ARENA_BYTES_MAX (MLXD_LIMIT_BODY_BYTES + (1u << 20))

struct reader {
    mlxd_api_fields *fields;
    mlxd_api_refusal *r;
    mlxd_arena *arena;
    size_t index;    /* of the message */
    char where[48];  /* "messages[3]" */
    char param[128]; /* scratch */
};

/* ---- errors ---- */

static bool refuse(struct reader *m, const char *code, const char *field, const char *what) {
    snprintf(m->param, sizeof m->param, "%s%s%s", m->where, *field ? "." : "", field);
    return mlxd_api_refuse(m->r, 400, code, m->param, "%s: %s", m->param, what);
}

static bool refuse_nomem(mlxd_api_refusal *r) {
    mlxd_api_refuse_err(r, MLXD_ERR_NOMEM, NULL);
    return false;
}

static bool is_absent(const mlxd_json *v) {
    return !v || mlxd_json_get_kind(v) == MLXD_JSON_NULL;
}

/* ---- content ---- */

/* The text of one part; the part is an object of type "text". */
static bool read_part(struct reader *m, const mlxd_json *part, size_t index, mlxd_slice *out) {
    char field[64];
    mlxd_slice type;
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
    if (!text || mlxd_json_get_str(text, out)) {
        snprintf(field, sizeof field, "content[%zu].text", index);
        return refuse(m, "invalid_type", field, "expected a string");
    }
    return true;
}

/* Joins the parts; a single one is lent as it is. */
static bool read_parts(struct reader *m, const mlxd_json *parts, mlxd_slice *out) {
    size_t count = mlxd_json_count(parts), len = 0, i = 0, at = 0;
    mlxd_slice s;
    if (count == 0)
        return refuse(m, "invalid_value", "content", "expected at least one part");
    for (const mlxd_json *p = mlxd_json_first(parts, NULL); p; p = mlxd_json_next(parts, p, NULL)) {
        if (!read_part(m, p, i++, &s))
            return false;
        len += s.len + 1; /* all of it lies in the body */
    }
    if (count == 1) {
        *out = s;
        return true;
    }
    uint8_t *text = mlxd_arena_new(m->arena, len, 1);
    if (!text)
        return refuse_nomem(m->r);
    i = 0;
    for (const mlxd_json *p = mlxd_json_first(parts, NULL); p; p = mlxd_json_next(parts, p, NULL)) {
        if (!read_part(m, p, i++, &s))
            return false;
        if (at > 0)
            text[at++] = '\n';
        memcpy(text + at, s.data, s.len);
        at += s.len;
    }
    *out = (mlxd_slice){text, at};
    return true;
}

static bool read_content(struct reader *m, const mlxd_json *v, bool may_be_null, mlxd_slice *out) {
    if (is_absent(v)) {
        *out = (mlxd_slice){(const uint8_t *)"", 0};
        return may_be_null ||
               refuse(m, "invalid_type", "content", "expected a string or an array of parts");
    }
    if (!mlxd_json_get_str(v, out))
        return true;
    if (mlxd_json_get_kind(v) == MLXD_JSON_ARRAY)
        return read_parts(m, v, out);
    return refuse(m, "invalid_type", "content", "expected a string or an array of parts");
}

/* ---- messages ---- */

static bool read_role(struct reader *m, const mlxd_json *v, mlxd_slice *out) {
    static const struct {
        const char *name, *template_name;
    } roles[] = {
        {"system", "system"},
        {"developer", "system"},
        {"user", "user"},
        {"assistant", "assistant"},
    };
    mlxd_slice s;
    char what[96];
    if (is_absent(v) || mlxd_json_get_str(v, &s))
        return refuse(m, "invalid_type", "role", "expected a string");
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++)
        if (mlxd_json_is_str(v, roles[i].name)) {
            *out = mlxd_slice_str(roles[i].template_name);
            return true;
        }
    if (mlxd_json_is_str(v, "tool") || mlxd_json_is_str(v, "function"))
        return refuse(m, "unsupported_parameter", "role", "tools are not supported by this server");
    snprintf(what, sizeof what,
             "expected \"system\", \"developer\", \"user\" or \"assistant\", got \"%.32s\"",
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
    static const char *const known[] = {"role",    "content",     "name",
                                        "refusal", "annotations", "reasoning_content"};
    static const char *const refused[] = {"tool_calls", "tool_call_id", "function_call", "audio"};
    mlxd_slice key;
    for (const mlxd_json *f = mlxd_json_first(v, &key); f; f = mlxd_json_next(v, f, &key)) {
        if (is_one_of(key, known, MLXD_COUNT_OF(known)))
            continue;
        if (!is_one_of(key, refused, MLXD_COUNT_OF(refused))) {
            if (!mlxd_api_fields_unknown(m->fields, m->where, key, m->r))
                return false;
        } else if (!is_absent(f) &&
                   !(mlxd_json_get_kind(f) == MLXD_JSON_ARRAY && mlxd_json_count(f) == 0)) {
            return refuse(m, "unsupported_parameter", (const char *)key.data,
                          "not supported by this server");
        }
    }
    return true;
}

static bool read_message(struct reader *m, const mlxd_json *v, mlxd_chat_message *out) {
    snprintf(m->where, sizeof m->where, "messages[%zu]", m->index);
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return refuse(m, "invalid_type", "", "expected an object");
    if (!read_role(m, mlxd_json_find(v, "role"), &out->role))
        return false;
    bool assistant = mlxd_slice_eq(out->role, mlxd_slice_str("assistant"));
    return check_others(m, v) &&
           read_content(m, mlxd_json_find(v, "content"), assistant, &out->content);
}

static bool read_messages(struct reader *m, const mlxd_json *v, mlxd_chat_message **out,
                          size_t *count) {
    *count = v ? mlxd_json_count(v) : 0;
    if (!v)
        return mlxd_api_refuse(m->r, 400, "missing_required_parameter", "messages",
                               "messages: a conversation is needed");
    if (*count == 0 || *count > MLXD_LIMIT_MESSAGES)
        return mlxd_api_refuse(m->r, 400, "invalid_value", "messages",
                               "messages: expected 1 to %d messages, got %zu", MLXD_LIMIT_MESSAGES,
                               *count);
    *out = mlxd_arena_new(m->arena, *count, sizeof **out);
    if (!*out)
        return refuse_nomem(m->r);
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e; e = mlxd_json_next(v, e, NULL)) {
        if (!read_message(m, e, &(*out)[m->index]))
            return false;
        m->index++;
    }
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
    mlxd_chat_message *messages;
    mlxd_why why;
    size_t count;
    if (!read_messages(m, m->fields->messages, &messages, &count))
        return false;
    if (!h->chat)
        return mlxd_api_refuse(m->r, 400, "no_chat_template", "messages",
                               "%s; POST /v1/completions takes raw prompts", h->chat_why.text);
    mlxd_err err =
        mlxd_chat_encode(h->chat, h->tokenizer, messages, count, context + COUNT_BEYOND, out, &why);
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
    struct reader m = {.fields = f, .r = r, .arena = mlxd_arena_open(ARENA_BYTES_MAX)};
    bool good = m.arena ? encode_chat(h, context, &m, out) : refuse_nomem(r);
    mlxd_arena_close(m.arena);
    return good;
}
