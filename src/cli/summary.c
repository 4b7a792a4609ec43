/* summary.c - see summary.h. */
#include "cli/summary.h"

#include "format/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors ---- */

static uint64_t elements_of(const mlxd_checkpoint_tensor *t) {
    uint64_t n = 1;
    for (size_t d = 0; d < MLXD_LIMIT_GGUF_DIMS; d++)
        if (!mlxd_mul_u64(n, t->dims[d], &n))
            return 0;
    return n;
}

static void add_type(mlxd_summary *f, const char *label, uint64_t elements, uint64_t bytes) {
    size_t i = 0;
    while (i < f->n_types && strcmp(f->types[i].label, label) != 0)
        i++;
    if (i == MLXD_SUMMARY_TYPES)
        return;
    if (i == f->n_types) {
        snprintf(f->types[i].label, sizeof f->types[i].label, "%s", label);
        f->n_types++;
    }
    f->types[i].tensors++;
    f->types[i].elements += elements;
    f->types[i].bytes += bytes;
}

static int by_bytes(const void *a, const void *b) {
    uint64_t x = ((const mlxd_summary_type *)a)->bytes, y = ((const mlxd_summary_type *)b)->bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void read_tensors(mlxd_summary *f, const mlxd_checkpoint *c) {
    for (size_t i = 0; i < mlxd_checkpoint_count(c); i++) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(c, i);
        uint64_t elements = elements_of(t);
        char *end = NULL;
        unsigned long layer = MLXD_LIMIT_LAYERS;
        if (strncmp(t->name, "blk.", 4) == 0)
            layer = strtoul(t->name + 4, &end, 10);
        f->tensors++;
        f->parameters += elements;
        f->bytes += t->bytes;
        add_type(f, t->encoding.label, elements, t->bytes);
        if (end && *end == '.' && layer < MLXD_LIMIT_LAYERS) {
            f->layer_bytes[layer] += t->bytes;
            f->layer_parameters[layer] += elements;
            f->layers = MLXD_MAX(f->layers, (uint64_t)layer + 1);
        } else if (strcmp(t->name, "token_embd.weight") == 0) {
            f->embedding_bytes += t->bytes;
            f->hidden = t->dims[0];
            f->vocab = t->dims[1];
        } else if (strcmp(t->name, "output.weight") == 0) {
            f->head_bytes += t->bytes;
        } else {
            f->other_bytes += t->bytes;
        }
    }
    if (f->n_types > 0)
        qsort(f->types, f->n_types, sizeof *f->types, by_bytes);
}

/* ---- what both formats tell in their ways ---- */

static void copy_text(char *out, size_t size, mlxd_slice s) {
    size_t n = MLXD_MIN(s.len, size - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = s.data[i] < 0x20 || s.data[i] == 0x7f ? '?' : (char)s.data[i];
    out[n] = 0;
}

static bool mentions(mlxd_slice text, const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= text.len; i++)
        if (memcmp(text.data + i, word, n) == 0)
            return true;
    return false;
}

static void read_template(mlxd_summary *f, mlxd_slice text) {
    f->has_template = text.len > 0;
    f->template_bytes = text.len;
    f->template_tools = mentions(text, "tools");
    f->template_thinking = mentions(text, "enable_thinking") || mentions(text, "<think>") ||
                           mentions(text, "reasoning_content") || mentions(text, "thinking");
}

static void add_special(mlxd_summary *f, const char *role, int64_t id, mlxd_slice text) {
    if (f->n_special == MLXD_SUMMARY_TOKENS)
        return;
    mlxd_summary_token *t = &f->special[f->n_special++];
    *t = (mlxd_summary_token){.id = id};
    snprintf(t->role, sizeof t->role, "%s", role);
    copy_text(t->text, sizeof t->text, text);
}

/* ---- GGUF ---- */

/* "<architecture>.<what>", of an array the first element; *sum of all elements if wanted. */
static uint64_t gguf_number(const mlxd_gguf *g, const char *arch, const char *what, uint64_t *sum) {
    char key[128];
    uint64_t v = 0;
    mlxd_gguf_array a;
    snprintf(key, sizeof key, "%s.%s", arch, what);
    if (mlxd_gguf_get_u64(g, key, &v, NULL) == MLXD_OK || !mlxd_gguf_is_array(g, key) ||
        mlxd_gguf_get_array(g, key, &a, NULL) != MLXD_OK || a.count == 0 ||
        a.type == MLXD_GGUF_STRING || a.type == MLXD_GGUF_F32 || a.type == MLXD_GGUF_F64)
        return v;
    for (uint64_t i = 0; sum && i < a.count; i++)
        *sum += (uint64_t)MLXD_MAX(mlxd_gguf_array_int(&a, i), (int64_t)0);
    return (uint64_t)MLXD_MAX(mlxd_gguf_array_int(&a, 0), (int64_t)0);
}

/* The text of token `id`. */
static mlxd_slice gguf_token(const mlxd_gguf *g, uint64_t id) {
    mlxd_gguf_array a;
    mlxd_slice text = {NULL, 0};
    size_t cursor = 0;
    if (mlxd_gguf_get_array(g, "tokenizer.ggml.tokens", &a, NULL) != MLXD_OK ||
        a.type != MLXD_GGUF_STRING || id >= a.count)
        return text;
    for (uint64_t i = 0; i <= id; i++)
        text = mlxd_gguf_array_next_str(&a, &cursor);
    return text;
}

static void read_gguf(mlxd_summary *f, const mlxd_gguf *g) {
    static const char *const roles[] = {"bos", "eos", "eot", "eom", "unknown", "padding"};
    mlxd_slice s;
    uint64_t kv_heads = 0, id;
    const char *a = f->architecture;
    if (mlxd_gguf_get_str(g, "general.architecture", &s, NULL) == MLXD_OK)
        copy_text(f->architecture, sizeof f->architecture, s);
    if (mlxd_gguf_get_str(g, "general.name", &s, NULL) == MLXD_OK)
        copy_text(f->name, sizeof f->name, s);
    if (mlxd_gguf_get_str(g, "tokenizer.ggml.model", &s, NULL) == MLXD_OK)
        copy_text(f->tokenizer, sizeof f->tokenizer, s);
    if (mlxd_gguf_get_str(g, "tokenizer.chat_template", &s, NULL) == MLXD_OK)
        read_template(f, s);
    f->heads = gguf_number(g, a, "attention.head_count", NULL);
    f->kv_heads = gguf_number(g, a, "attention.head_count_kv", &kv_heads);
    f->kv_heads = f->kv_heads ? f->kv_heads : f->heads;
    f->context = gguf_number(g, a, "context_length", NULL);
    f->window = gguf_number(g, a, "attention.sliding_window", NULL);
    f->experts = gguf_number(g, a, "expert_count", NULL);
    f->experts_used = gguf_number(g, a, "expert_used_count", NULL);
    f->head_dim = gguf_number(g, a, "attention.key_length", NULL);
    if (f->head_dim == 0 && f->heads > 0)
        f->head_dim = f->hidden / f->heads;
    if (kv_heads == 0 && !mlxd_mul_u64(f->kv_heads, f->layers, &kv_heads))
        kv_heads = 0;
    if (!mlxd_mul_u64(kv_heads, f->head_dim, &f->kv_bytes_per_token) ||
        !mlxd_mul_u64(f->kv_bytes_per_token, 4, &f->kv_bytes_per_token))
        f->kv_bytes_per_token = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", roles[i]);
        if (mlxd_gguf_get_u64(g, key, &id, NULL) == MLXD_OK && id < MLXD_LIMIT_VOCAB)
            add_special(f, roles[i], (int64_t)id, gguf_token(g, id));
    }
}

/* ---- config.json and what lies beside it ---- */

/* A document of the checkpoint, if it is there and an object; closed by the caller. */
static mlxd_err open_document(const mlxd_checkpoint *c, const char *name, mlxd_json_doc **out,
                              mlxd_why *why) {
    mlxd_slice text = mlxd_checkpoint_document(c, name);
    *out = NULL;
    if (text.len == 0)
        return MLXD_OK;
    mlxd_err err = mlxd_json_parse(out, text, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_NOMEM ? err : MLXD_ERR_DATA, "%s", name);
    if (mlxd_json_get_kind(mlxd_json_root(*out)) == MLXD_JSON_OBJECT)
        return MLXD_OK;
    mlxd_json_close(*out);
    *out = NULL;
    return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected an object", name);
}

/* A member, which models with a vision part keep in "text_config". */
static const mlxd_json *member(const mlxd_json *root, const char *key) {
    const mlxd_json *v = mlxd_json_find(root, key), *text = mlxd_json_find(root, "text_config");
    if (!v && text && mlxd_json_get_kind(text) == MLXD_JSON_OBJECT)
        v = mlxd_json_find(text, key);
    return v;
}

/* The first of the names, ended by NULL, that is a number. */
static uint64_t number(const mlxd_json *root, const char *const *names) {
    for (; *names; names++) {
        int64_t n;
        const mlxd_json *v = member(root, *names);
        if (v && mlxd_json_get_integral(v, &n) == MLXD_OK && n >= 0)
            return (uint64_t)n;
    }
    return 0;
}

#define NUMBER(root, ...) number(root, (const char *const[]){__VA_ARGS__, NULL})

static void read_config(mlxd_summary *f, const mlxd_json *root) {
    mlxd_slice s;
    const mlxd_json *v = member(root, "model_type");
    if (v && mlxd_json_get_str(v, &s) == MLXD_OK)
        copy_text(f->architecture, sizeof f->architecture, s);
    v = mlxd_json_find(root, "_name_or_path");
    if (v && mlxd_json_get_str(v, &s) == MLXD_OK)
        copy_text(f->name, sizeof f->name, s);
    f->heads = NUMBER(root, "num_attention_heads");
    f->kv_heads = NUMBER(root, "num_key_value_heads", "num_attention_heads");
    f->context = NUMBER(root, "max_position_embeddings");
    f->window = NUMBER(root, "sliding_window");
    f->experts = NUMBER(root, "num_local_experts", "num_experts", "n_routed_experts");
    f->experts_used = NUMBER(root, "num_experts_per_tok", "experts_per_token");
    f->head_dim = NUMBER(root, "head_dim");
    uint64_t hidden = NUMBER(root, "hidden_size"), layers = NUMBER(root, "num_hidden_layers");
    f->hidden = hidden ? hidden : f->hidden;
    f->layers = layers ? layers : f->layers;
    if (f->head_dim == 0 && f->heads > 0)
        f->head_dim = f->hidden / f->heads;
    if (!mlxd_mul_u64(f->kv_heads, f->layers, &f->kv_bytes_per_token) ||
        !mlxd_mul_u64(f->kv_bytes_per_token, f->head_dim, &f->kv_bytes_per_token) ||
        !mlxd_mul_u64(f->kv_bytes_per_token, 4, &f->kv_bytes_per_token))
        f->kv_bytes_per_token = 0;
}

/* "eos_token": "<x>" or {"content": "<x>", ...}, and "eos_token_id": 2 or [2, 7]. */
static void read_special(mlxd_summary *f, const mlxd_json *texts, const mlxd_json *ids) {
    static const char *const roles[] = {"bos", "eos", "unk", "pad"};
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++) {
        char key[32];
        mlxd_slice text = {NULL, 0};
        int64_t id = -1;
        snprintf(key, sizeof key, "%s_token", roles[i]);
        const mlxd_json *v = texts ? mlxd_json_find(texts, key) : NULL;
        if (v && mlxd_json_get_kind(v) == MLXD_JSON_OBJECT)
            v = mlxd_json_find(v, "content");
        if (v && mlxd_json_get_str(v, &text) != MLXD_OK)
            text = (mlxd_slice){NULL, 0};
        snprintf(key, sizeof key, "%s_token_id", roles[i]);
        v = ids ? member(ids, key) : NULL;
        bool list = v && mlxd_json_get_kind(v) == MLXD_JSON_ARRAY;
        if (list && mlxd_json_count(v) > 1) /* whose text it is, it does not say */
            text = (mlxd_slice){NULL, 0};
        for (size_t n = 0; list && n < mlxd_json_count(v); n++)
            if (mlxd_json_get_int64(mlxd_json_at(v, n), &id) == MLXD_OK)
                add_special(f, roles[i], id, n == 0 ? text : (mlxd_slice){NULL, 0});
        if (!list && v && mlxd_json_get_int64(v, &id) != MLXD_OK)
            id = -1;
        if (!list && (id >= 0 || text.len > 0))
            add_special(f, roles[i], id, text);
    }
}

/* A file's chat_template: a text, or a list of {name, template}. false: it has none. */
static bool read_template_in(mlxd_summary *f, const mlxd_json *root) {
    mlxd_slice text;
    const mlxd_json *v = member(root, "chat_template");
    if (v && mlxd_json_get_kind(v) == MLXD_JSON_ARRAY && mlxd_json_count(v) > 0) {
        v = mlxd_json_at(v, 0);
        v = mlxd_json_get_kind(v) == MLXD_JSON_OBJECT ? mlxd_json_find(v, "template") : NULL;
    }
    if (!v || mlxd_json_get_str(v, &text) != MLXD_OK)
        return false;
    read_template(f, text);
    return true;
}

static mlxd_err read_documents(mlxd_summary *f, const mlxd_checkpoint *c, mlxd_why *why) {
    mlxd_json_doc *config = NULL, *tokens = NULL, *processor = NULL;
    mlxd_slice s = mlxd_checkpoint_document(c, "chat_template.jinja");
    mlxd_err err = open_document(c, "config.json", &config, why);
    if (!err)
        err = open_document(c, "tokenizer_config.json", &tokens, why);
    if (!err)
        err = open_document(c, "chat_template.json", &processor, why);
    if (!err && config)
        read_config(f, mlxd_json_root(config));
    if (!err)
        read_special(f, tokens ? mlxd_json_root(tokens) : NULL,
                     config ? mlxd_json_root(config) : NULL);
    if (!err && s.len > 0)
        read_template(f, s);
    else if (!err && !(tokens && read_template_in(f, mlxd_json_root(tokens))) && processor)
        (void)read_template_in(f, mlxd_json_root(processor));
    const mlxd_json *v = tokens ? mlxd_json_find(mlxd_json_root(tokens), "tokenizer_class") : NULL;
    if (v && mlxd_json_get_str(v, &s) == MLXD_OK)
        copy_text(f->tokenizer, sizeof f->tokenizer, s);
    mlxd_json_close(config);
    mlxd_json_close(tokens);
    mlxd_json_close(processor);
    return err;
}

mlxd_err mlxd_summary_read(mlxd_summary *out, const mlxd_checkpoint *c, mlxd_why *why) {
    *out = (mlxd_summary){.layers = 0};
    const mlxd_gguf *g = mlxd_checkpoint_gguf(c);
    read_tensors(out, c);
    if (!g)
        return read_documents(out, c, why);
    read_gguf(out, g);
    return MLXD_OK;
}

void mlxd_summary_name_tokens(mlxd_summary *f, const mlxd_tokenizer *t) {
    for (size_t i = 0; i < f->n_special; i++) {
        mlxd_summary_token *s = &f->special[i];
        if (s->id >= 0 && (uint64_t)s->id < mlxd_tokenizer_vocab(t))
            copy_text(s->text, sizeof s->text, mlxd_tokenizer_bytes(t, (int32_t)s->id));
    }
}
