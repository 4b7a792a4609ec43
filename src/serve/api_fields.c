/* api_fields.c - see api_fields.h. */
#include "serve/api_fields.h"

#include "base/os.h"

#include <stdio.h>
#include <string.h>

enum type {
    BOOL,    /* into a bool */
    REAL,    /* into a double; its range is the sampler's (sampler.h) */
    INTEGER, /* into an int64_t, min .. max */
    CUSTOM,  /* `read` does it */
    IGNORED, /* accepted, whatever it is */
    /* Not implemented; accepted only with a value that asks for nothing: */
    ONLY_NULL,
    ONLY_EMPTY, /* [] {} "" */
    ONLY_FALSE,
    ONLY_ONE,
    ONLY_NONE, /* "none" */
};

typedef bool read_fn(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r);

static read_fn read_bias, read_documents, read_effort, read_format, read_kwargs, read_messages,
    read_mlxd, read_modalities, read_model, read_prompt, read_reasoning, read_seed, read_stop,
    read_stream_options, read_thinking, read_tool_choice, read_tools;

#define BOTH (MLXD_API_CHAT | MLXD_API_TEXT)
#define CHAT MLXD_API_CHAT
#define TEXT MLXD_API_TEXT
#define AT(member) offsetof(mlxd_api_fields, member)

/* The limits table. Sorted by what the fields are for, not by name: it is read more often by people
 * than searched by requests. */
static const struct field {
    const char *name;
    unsigned apis;
    enum type type;
    size_t offset;
    double min, max, value; /* range and default of integers; reals: see sampler.h, the model */
    read_fn *read;
} fields[] = {
    {"model", BOTH, CUSTOM, 0, 0, 0, 0, read_model},
    {"messages", CHAT, CUSTOM, 0, 0, 0, 0, read_messages},
    {"prompt", TEXT, CUSTOM, 0, 0, 0, 0, read_prompt},
    {"stream", BOTH, BOOL, AT(stream), 0, 1, 0, NULL},
    {"stream_options", BOTH, CUSTOM, 0, 0, 0, 0, read_stream_options},
    {"max_completion_tokens", CHAT, INTEGER, AT(max_tokens_new), 1, MLXD_LIMIT_CONTEXT, 0, NULL},
    {"max_tokens", BOTH, INTEGER, AT(max_tokens_old), 1, MLXD_LIMIT_CONTEXT, 0, NULL},
    {"stop", BOTH, CUSTOM, 0, 0, 0, 0, read_stop},
    {"ignore_eos", BOTH, BOOL, AT(ignore_eos), 0, 1, 0, NULL},
    {"n", BOTH, INTEGER, AT(n), 1, 128, 1, NULL},
    {"seed", BOTH, CUSTOM, 0, 0, 0, 0, read_seed},
    {"temperature", BOTH, REAL, AT(sampling.temperature), 0, 0, 0, NULL},
    {"top_p", BOTH, REAL, AT(sampling.top_p), 0, 0, 0, NULL},
    {"min_p", BOTH, REAL, AT(sampling.min_p), 0, 0, 0, NULL},
    {"top_k", BOTH, INTEGER, AT(top_k), -1, INT32_MAX, 0, NULL},
    {"frequency_penalty", BOTH, REAL, AT(sampling.frequency_penalty), 0, 0, 0, NULL},
    {"presence_penalty", BOTH, REAL, AT(sampling.presence_penalty), 0, 0, 0, NULL},
    {"repetition_penalty", BOTH, REAL, AT(sampling.repetition_penalty), 0, 0, 0, NULL},
    {"logit_bias", BOTH, CUSTOM, 0, 0, 0, 0, read_bias},
    {"logprobs", CHAT, BOOL, AT(sampling.logprobs), 0, 1, 0, NULL},
    {"top_logprobs", CHAT, INTEGER, AT(top_logprobs), 0, MLXD_LIMIT_TOP_LOGPROBS, 0, NULL},
    {"reasoning_format", CHAT, CUSTOM, 0, 0, 0, 0, read_reasoning},
    /* what the chat template gets */
    {"tools", CHAT, CUSTOM, 0, 0, 0, 0, read_tools},
    {"tool_choice", CHAT, CUSTOM, 0, 0, 0, 0, read_tool_choice},
    {"documents", CHAT, CUSTOM, 0, 0, 0, 0, read_documents},
    {"enable_thinking", CHAT, CUSTOM, 0, 0, 0, 0, read_thinking},
    {"reasoning_effort", CHAT, CUSTOM, 0, 0, 0, 0, read_effort},
    {"chat_template_kwargs", CHAT, CUSTOM, 0, 0, 0, 0, read_kwargs},
    {"strict_fields", BOTH, BOOL, AT(strict_fields), 0, 1, 0, NULL},
    {"mlxd", BOTH, CUSTOM, 0, 0, 0, 0, read_mlxd},
    /* what changes nothing here */
    {"user", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"store", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"metadata", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"service_tier", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"prompt_cache_key", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"prompt_cache_retention", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"safety_identifier", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"verbosity", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"prediction", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    {"parallel_tool_calls", BOTH, IGNORED, 0, 0, 0, 0, NULL},
    /* what would change the answer */
    {"response_format", BOTH, CUSTOM, 0, 0, 0, 0, read_format},
    {"modalities", CHAT, CUSTOM, 0, 0, 0, 0, read_modalities},
    {"audio", CHAT, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"functions", CHAT, ONLY_EMPTY, 0, 0, 0, 0, NULL},
    {"function_call", CHAT, ONLY_NONE, 0, 0, 0, 0, NULL},
    {"web_search_options", CHAT, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"logprobs", TEXT, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"echo", TEXT, ONLY_FALSE, 0, 0, 0, 0, NULL},
    {"suffix", TEXT, ONLY_EMPTY, 0, 0, 0, 0, NULL},
    {"best_of", BOTH, ONLY_ONE, 0, 0, 0, 0, NULL},
    {"return_token_ids", BOTH, ONLY_FALSE, 0, 0, 0, 0, NULL},
    /* templates, grammars and expressions are never taken from a client */
    {"chat_template", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"chat_template_kwargs", TEXT, ONLY_EMPTY, 0, 0, 0, 0, NULL},
    {"grammar", BOTH, ONLY_EMPTY, 0, 0, 0, 0, NULL},
    {"json_schema", BOTH, ONLY_EMPTY, 0, 0, 0, 0, NULL},
    {"structured_outputs", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"guided_json", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"guided_regex", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"guided_choice", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"guided_grammar", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"regex", BOTH, ONLY_NULL, 0, 0, 0, 0, NULL},
    {"stop_token_ids", BOTH, ONLY_EMPTY, 0, 0, 0, 0, NULL},
};

/* ---- errors ---- */

static const char *kind_name(const mlxd_json *v) {
    return mlxd_json_kind_name(mlxd_json_get_kind(v));
}

static bool wrong_type(const char *name, const char *expected, const mlxd_json *v,
                       mlxd_api_refusal *r) {
    return mlxd_api_refuse(r, 400, "invalid_type", name, "%s: expected %s, got %s", name, expected,
                           kind_name(v));
}

static bool unsupported(const char *name, const char *what, mlxd_api_refusal *r) {
    return mlxd_api_refuse(r, 400, "unsupported_parameter", name, "%s: %s", name, what);
}

static bool is_null(const mlxd_json *v) {
    return mlxd_json_get_kind(v) == MLXD_JSON_NULL;
}

/* ---- unknown fields ---- */

/* Appends "where.name" with only harmless bytes; what does not fit is left out, but counted. */
static void note_ignored(mlxd_api_fields *f, const char *where, mlxd_slice name) {
    char text[160];
    snprintf(text, sizeof text, "%s%s%.*s", where, *where ? "." : "",
             (int)MLXD_MIN(name.len, (size_t)64), (const char *)name.data);
    for (char *c = text; *c; c++)
        if (*c <= 0x20 || *c >= 0x7f || *c == ',' || *c == '"')
            *c = '?';
    size_t used = strlen(f->ignored), len = strlen(text);
    if (used + len + 3 <= sizeof f->ignored)
        snprintf(f->ignored + used, sizeof f->ignored - used, "%s%s", used ? ", " : "", text);
    f->n_ignored++;
}

bool mlxd_api_fields_unknown(mlxd_api_fields *f, const char *where, mlxd_slice name,
                             mlxd_api_refusal *r) {
    if (f->strict_fields) {
        char param[96];
        snprintf(param, sizeof param, "%s%s%.*s", where, *where ? "." : "",
                 (int)MLXD_MIN(name.len, (size_t)64), (const char *)name.data);
        return mlxd_api_refuse(r, 400, "unknown_parameter", param,
                               "%s: unknown field, and strict_fields is true", param);
    }
    note_ignored(f, where, name);
    return true;
}

/* ---- rows that need more than a range ---- */

static bool read_model(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    return !mlxd_json_get_str(v, &f->model) || wrong_type("model", "a string", v, r);
}

static bool read_messages(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return wrong_type("messages", "an array", v, r);
    f->messages = v;
    return true;
}

static bool read_prompt(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    (void)r;
    f->prompt = v;
    return true;
}

static bool read_seed(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    if (mlxd_json_get_integral(v, &f->seed))
        return mlxd_api_refuse(r, 400, "invalid_value", "seed",
                               "seed: expected an integer of 64 bits with sign");
    f->has_seed = true;
    return true;
}

static bool add_stop(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    mlxd_slice s;
    if (mlxd_json_get_str(v, &s))
        return wrong_type("stop", "a string or an array of strings", v, r);
    if (s.len == 0 || s.len > MLXD_LIMIT_STOP_BYTES)
        return mlxd_api_refuse(r, 400, "invalid_value", "stop",
                               "stop: expected strings of 1 to %d bytes, got %zu",
                               MLXD_LIMIT_STOP_BYTES, s.len);
    f->stop[f->stop_count++] = s;
    return true;
}

static bool read_stop(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return add_stop(f, v, r);
    if (mlxd_json_count(v) > MLXD_LIMIT_STOP_STRINGS)
        return mlxd_api_refuse(r, 400, "invalid_value", "stop",
                               "stop: expected at most %d strings, got %zu",
                               MLXD_LIMIT_STOP_STRINGS, mlxd_json_count(v));
    for (const mlxd_json *s = mlxd_json_first(v, NULL); s; s = mlxd_json_next(v, s, NULL))
        if (!add_stop(f, s, r))
            return false;
    return true;
}

/* Booleans of an object whose members are all known: `names` and where they go, NULL: ignored. */
static bool read_flags(mlxd_api_fields *f, const char *where, const mlxd_json *v,
                       const char *const *names, bool *const *out, size_t count,
                       mlxd_api_refusal *r) {
    mlxd_slice key;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return wrong_type(where, "an object", v, r);
    for (const mlxd_json *m = mlxd_json_first(v, &key); m; m = mlxd_json_next(v, m, &key)) {
        size_t i = 0;
        while (i < count && strcmp(names[i], (const char *)key.data) != 0)
            i++;
        if (i == count) {
            if (!mlxd_api_fields_unknown(f, where, key, r))
                return false;
        } else if (!is_null(m)) {
            char param[64];
            bool value;
            snprintf(param, sizeof param, "%s.%s", where, names[i]);
            if (mlxd_json_get_bool(m, &value))
                return wrong_type(param, "a boolean", m, r);
            if (out[i])
                *out[i] = value;
        }
    }
    return true;
}

static bool read_stream_options(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    static const char *const names[] = {"include_usage", "include_obfuscation"};
    bool *const out[] = {&f->include_usage, NULL};
    return read_flags(f, "stream_options", v, names, out, MLXD_COUNT_OF(names), r);
}

static bool read_mlxd(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    static const char *const names[] = {"logits_digest", "timings"};
    bool *const out[] = {&f->digest, &f->timings};
    return read_flags(f, "mlxd", v, names, out, MLXD_COUNT_OF(names), r);
}

/* A token id in decimal digits. */
static bool parse_token(mlxd_slice key, int32_t *out) {
    int64_t v = 0;
    if (key.len == 0 || key.len > 9)
        return false;
    for (size_t i = 0; i < key.len; i++) {
        if (key.data[i] < '0' || key.data[i] > '9')
            return false;
        v = v * 10 + (key.data[i] - '0');
    }
    *out = (int32_t)v;
    return true;
}

static bool read_bias(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    mlxd_slice key;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return wrong_type("logit_bias", "an object", v, r);
    if (mlxd_json_count(v) > MLXD_LIMIT_LOGIT_BIAS)
        return mlxd_api_refuse(r, 400, "invalid_value", "logit_bias",
                               "logit_bias: expected at most %d entries, got %zu",
                               MLXD_LIMIT_LOGIT_BIAS, mlxd_json_count(v));
    for (const mlxd_json *m = mlxd_json_first(v, &key); m; m = mlxd_json_next(v, m, &key)) {
        mlxd_logit_bias *b = &f->bias[f->sampling.bias_count];
        if (!parse_token(key, &b->token))
            return mlxd_api_refuse(r, 400, "invalid_value", "logit_bias",
                                   "logit_bias: expected token ids as keys, got \"%.32s\"",
                                   (const char *)key.data);
        if (mlxd_json_get_double(m, &b->bias))
            return wrong_type("logit_bias", "numbers as values", m, r);
        f->sampling.bias_count++;
    }
    f->sampling.bias = f->bias;
    return true;
}

/* An array of objects; an empty one counts as absent. */
static bool read_objects(const char *name, const mlxd_json *v, const mlxd_json **out,
                         mlxd_api_refusal *r) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return wrong_type(name, "an array", v, r);
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e; e = mlxd_json_next(v, e, NULL))
        if (mlxd_json_get_kind(e) != MLXD_JSON_OBJECT)
            return wrong_type(name, "an array of objects", e, r);
    *out = mlxd_json_count(v) > 0 ? v : NULL;
    return true;
}

static bool read_documents(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    return read_objects("documents", v, &f->documents, r);
}

/* Objects of type "function" whose "function" has a name; the rest is for the template. */
static bool read_tools(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    if (!read_objects("tools", v, &f->tools, r))
        return false;
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e; e = mlxd_json_next(v, e, NULL)) {
        const mlxd_json *type = mlxd_json_find(e, "type"), *g = mlxd_json_find(e, "function");
        bool object = g && mlxd_json_get_kind(g) == MLXD_JSON_OBJECT;
        const mlxd_json *name = object ? mlxd_json_find(g, "name") : NULL;
        if (type && !mlxd_json_is_str(type, "function"))
            return unsupported("tools", "only type \"function\" is supported", r);
        if (!name || mlxd_json_get_kind(name) != MLXD_JSON_STRING)
            return mlxd_api_refuse(r, 400, "invalid_value", "tools",
                                   "tools: expected objects with function.name");
    }
    return true;
}

/* Nothing forces the model to call a tool, or a certain one. */
static bool read_tool_choice(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    f->tools_off = mlxd_json_is_str(v, "none");
    return f->tools_off || mlxd_json_is_str(v, "auto") ||
           unsupported("tool_choice", "only \"auto\" and \"none\" are supported", r);
}

static bool read_thinking(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    bool b;
    f->enable_thinking = v;
    return !mlxd_json_get_bool(v, &b) || wrong_type("enable_thinking", "a boolean", v, r);
}

static bool read_effort(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    f->reasoning_effort = v;
    return mlxd_json_get_kind(v) == MLXD_JSON_STRING ||
           wrong_type("reasoning_effort", "a string", v, r);
}

static bool read_kwargs(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    f->kwargs = v;
    return mlxd_json_get_kind(v) == MLXD_JSON_OBJECT ||
           wrong_type("chat_template_kwargs", "an object", v, r);
}

static bool read_format(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    (void)f;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return wrong_type("response_format", "an object", v, r);
    const mlxd_json *type = mlxd_json_find(v, "type");
    if (type && mlxd_json_is_str(type, "text"))
        return true;
    return unsupported("response_format", "only {\"type\": \"text\"} is supported", r);
}

static bool read_reasoning(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    mlxd_slice s;
    if (mlxd_json_get_str(v, &s))
        return wrong_type("reasoning_format", "a string", v, r);
    if (mlxd_json_is_str(v, "none"))
        f->reasoning = MLXD_REASONING_NONE;
    else if (!mlxd_json_is_str(v, "auto") && !mlxd_json_is_str(v, "deepseek"))
        return mlxd_api_refuse(r, 400, "invalid_value", "reasoning_format",
                               "reasoning_format: expected \"auto\" or \"none\", got \"%.32s\"",
                               (const char *)s.data);
    return true;
}

static bool read_modalities(mlxd_api_fields *f, const mlxd_json *v, mlxd_api_refusal *r) {
    (void)f;
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return wrong_type("modalities", "an array", v, r);
    for (const mlxd_json *m = mlxd_json_first(v, NULL); m; m = mlxd_json_next(v, m, NULL))
        if (!mlxd_json_is_str(m, "text"))
            return unsupported("modalities", "only [\"text\"] is supported", r);
    return true;
}

/* ---- rows by type ---- */

static bool read_number(mlxd_api_fields *f, const struct field *row, const mlxd_json *v,
                        mlxd_api_refusal *r) {
    mlxd_json_kind kind = mlxd_json_get_kind(v);
    char *at = (char *)f + row->offset;
    if (kind != MLXD_JSON_INT && kind != MLXD_JSON_DOUBLE)
        return wrong_type(row->name, row->type == REAL ? "a number" : "an integer", v, r);
    if (row->type == REAL) {
        double value;
        mlxd_err err = mlxd_json_get_double(v, &value);
        MLXD_ASSERT(err == MLXD_OK);
        memcpy(at, &value, sizeof value);
        return true;
    }
    int64_t value;
    mlxd_err err = mlxd_json_get_integral(v, &value);
    if (err == MLXD_ERR_INVALID)
        return mlxd_api_refuse(r, 400, "invalid_type", row->name,
                               "%s: expected an integer, got a fraction", row->name);
    if (err || (double)value < row->min || (double)value > row->max)
        return mlxd_api_refuse(r, 400, "invalid_value", row->name,
                               "%s: expected an integer from %.0f to %.0f", row->name, row->min,
                               row->max);
    memcpy(at, &value, sizeof value);
    return true;
}

static bool is_empty(const mlxd_json *v) {
    mlxd_slice s;
    switch (mlxd_json_get_kind(v)) {
    case MLXD_JSON_ARRAY:
    case MLXD_JSON_OBJECT:
        return mlxd_json_count(v) == 0;
    default:
        return !mlxd_json_get_str(v, &s) && s.len == 0;
    }
}

static bool is_neutral(enum type type, const mlxd_json *v) {
    int64_t n;
    bool b;
    switch (type) {
    case ONLY_EMPTY:
        return is_empty(v);
    case ONLY_FALSE:
        return !mlxd_json_get_bool(v, &b) && !b;
    case ONLY_ONE:
        return !mlxd_json_get_integral(v, &n) && n == 1;
    case ONLY_NONE:
        return mlxd_json_is_str(v, "none");
    default:
        return false;
    }
}

static bool read_field(mlxd_api_fields *f, const struct field *row, const mlxd_json *v,
                       mlxd_api_refusal *r) {
    bool value;
    switch (row->type) {
    case IGNORED:
        return true;
    case BOOL:
        if (mlxd_json_get_bool(v, &value))
            return wrong_type(row->name, "a boolean", v, r);
        memcpy((char *)f + row->offset, &value, sizeof value);
        return true;
    case REAL:
    case INTEGER:
        return read_number(f, row, v, r);
    case CUSTOM:
        return row->read(f, v, r);
    default:
        return is_neutral(row->type, v) ||
               unsupported(row->name, "not supported by this server", r);
    }
}

static const struct field *find_field(mlxd_slice name, unsigned api) {
    for (size_t i = 0; i < MLXD_COUNT_OF(fields); i++)
        if ((fields[i].apis & api) && mlxd_slice_eq(mlxd_slice_str(fields[i].name), name))
            return &fields[i];
    return NULL;
}

static void set_defaults(mlxd_api_fields *f, const mlxd_api_defaults *d) {
    for (size_t i = 0; i < MLXD_COUNT_OF(fields); i++) {
        int64_t value = (int64_t)fields[i].value;
        if (fields[i].type == INTEGER)
            memcpy((char *)f + fields[i].offset, &value, sizeof value);
    }
    f->sampling = d->model->sampling;
    f->top_k = d->model->sampling.top_k;
    f->max_tokens = d->model->max_tokens;
    f->reasoning = f->api == MLXD_API_CHAT ? d->reasoning : MLXD_REASONING_NONE;
}

/* What is left when every field is there: fields that depend on each other, and the sampler's own
 * ranges. */
static bool conclude(mlxd_api_fields *f, const mlxd_api_defaults *d, mlxd_api_refusal *r) {
    const char *param = NULL;
    mlxd_why why;
    if (f->n != 1)
        return unsupported("n", "only one choice (1) is supported", r);
    if (f->max_tokens_new || f->max_tokens_old)
        f->max_tokens = (uint32_t)(f->max_tokens_new ? f->max_tokens_new : f->max_tokens_old);
    f->sampling.top_k = (int32_t)f->top_k;
    f->sampling.top_logprobs = (int32_t)f->top_logprobs;
    f->sampling.digest = f->digest;
    f->sampling.seed = (uint64_t)f->seed;
    if (!f->has_seed && !mlxd_os_random(&f->sampling.seed, sizeof f->sampling.seed)) {
        (void)mlxd_fail(&why, MLXD_ERR_IO, "no entropy for a seed");
        mlxd_api_refuse_err(r, MLXD_ERR_IO, &why);
        return false;
    }
    if (mlxd_sampling_check(&f->sampling, d->vocab, &param, &why))
        return mlxd_api_refuse(r, 400, "invalid_value", param, "%s", why.text);
    return true;
}

bool mlxd_api_fields_read(mlxd_api_fields *f, const mlxd_json *root, unsigned api,
                          const mlxd_api_defaults *d, mlxd_api_refusal *r) {
    MLXD_ASSERT(mlxd_json_get_kind(root) == MLXD_JSON_OBJECT);
    mlxd_slice key;
    *f = (mlxd_api_fields){.api = api};
    set_defaults(f, d);
    /* First, because it decides about the others. */
    const mlxd_json *strict = mlxd_json_find(root, "strict_fields");
    if (strict && !is_null(strict) && mlxd_json_get_bool(strict, &f->strict_fields))
        return wrong_type("strict_fields", "a boolean", strict, r);
    for (const mlxd_json *v = mlxd_json_first(root, &key); v; v = mlxd_json_next(root, v, &key)) {
        const struct field *row = find_field(key, api);
        if (!row) {
            if (!mlxd_api_fields_unknown(f, "", key, r))
                return false;
        } else if (!is_null(v) && !read_field(f, row, v, r)) {
            return false;
        }
    }
    return conclude(f, d, r);
}
