/* mini_gguf.h - writes GGUF files that hold metadata and no tensors, for tests of what reads
 * metadata; and a small byte-level vocabulary that a test can change before it is written.
 *
 * The vocabulary: <|endoftext|>, <|im_start|>, <|im_end|> (control), the 256 bytes by value (byte b
 * has id 3 + b), then whatever the test adds.
 */
#ifndef MLXD_TESTS_MINI_GGUF_H
#define MLXD_TESTS_MINI_GGUF_H

#include "base/mem.h"
#include "format/gguf.h"
#include "format/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MINI_TOKENS 600
#define MINI_TEXT 300
#define MINI_BYTE(b) (3 + (b))

/* ---- key-value pairs ---- */

typedef struct mini_gguf {
    mlxd_buf kv;
    uint64_t kv_count;
    mlxd_buf file;
    mlxd_gguf *gguf;
} mini_gguf;

static inline void mini_u32(mlxd_buf *b, uint32_t v) {
    for (int i = 0; i < 4; i++)
        mlxd_buf_add_byte(b, (uint8_t)(v >> (8 * i)));
}

static inline void mini_u64(mlxd_buf *b, uint64_t v) {
    mini_u32(b, (uint32_t)v);
    mini_u32(b, (uint32_t)(v >> 32));
}

static inline void mini_bytes(mlxd_buf *b, const char *s, size_t len) {
    mini_u64(b, len);
    mlxd_buf_add(b, s, len);
}

static inline void mini_key(mini_gguf *m, const char *key, uint32_t type) {
    mini_bytes(&m->kv, key, strlen(key));
    mini_u32(&m->kv, type);
    m->kv_count++;
}

static inline void mini_put_str(mini_gguf *m, const char *key, const char *value) {
    mini_key(m, key, MLXD_GGUF_STRING);
    mini_bytes(&m->kv, value, strlen(value));
}

static inline void mini_put_u32(mini_gguf *m, const char *key, uint32_t value) {
    mini_key(m, key, MLXD_GGUF_U32);
    mini_u32(&m->kv, value);
}

static inline void mini_put_bool(mini_gguf *m, const char *key, bool value) {
    mini_key(m, key, MLXD_GGUF_BOOL);
    mlxd_buf_add_byte(&m->kv, value);
}

static inline void mini_put_strs(mini_gguf *m, const char *key, const char *const *values,
                                 size_t count) {
    mini_key(m, key, MLXD_GGUF_ARRAY);
    mini_u32(&m->kv, MLXD_GGUF_STRING);
    mini_u64(&m->kv, count);
    for (size_t i = 0; i < count; i++)
        mini_bytes(&m->kv, values[i], strlen(values[i]));
}

static inline void mini_put_i32s(mini_gguf *m, const char *key, const int32_t *values,
                                 size_t count) {
    mini_key(m, key, MLXD_GGUF_ARRAY);
    mini_u32(&m->kv, MLXD_GGUF_I32);
    mini_u64(&m->kv, count);
    for (size_t i = 0; i < count; i++)
        mini_u32(&m->kv, (uint32_t)values[i]);
}

/* The finished file, parsed; it lives until mini_close. */
static inline const mlxd_gguf *mini_open(mini_gguf *m) {
    mlxd_buf_add(&m->file, "GGUF", 4);
    mini_u32(&m->file, 3);
    mini_u64(&m->file, 0);
    mini_u64(&m->file, m->kv_count);
    mlxd_buf_add(&m->file, m->kv.data, m->kv.len);
    while (m->file.len % 32)
        mlxd_buf_add_byte(&m->file, 0);
    mlxd_why why = {{0}};
    mlxd_err err =
        mlxd_gguf_open(&m->gguf, (mlxd_slice){m->file.data, m->file.len}, "mini.gguf", &why);
    if (err)
        fail_msg("mini.gguf: %s", why.text);
    return m->gguf;
}

static inline void mini_close(mini_gguf *m) {
    mlxd_gguf_close(m->gguf);
    mlxd_buf_deinit(&m->kv);
    mlxd_buf_deinit(&m->file);
    *m = (mini_gguf){0};
}

/* ---- the vocabulary ---- */

typedef struct mini_vocab {
    const char *model, *pre; /* NULL: key left out */
    char tokens[MINI_TOKENS][MINI_TEXT];
    int32_t types[MINI_TOKENS];
    size_t n_tokens, n_types;
    char merges[MINI_TOKENS][MINI_TEXT];
    size_t n_merges;
    int64_t bos, eos, eot; /* -1: key left out */
    int add_bos;           /* -1: key left out */
    const char *chat_template, *tool_template;
} mini_vocab;

/* `byte` in the byte alphabet, NUL-terminated; written down from GPT-2's definition. */
static inline void mini_spell_byte(unsigned byte, char out[5]) {
    uint32_t cp = byte, next = 0x100;
    for (unsigned b = 0; b <= byte; b++) {
        bool plain = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (!plain)
            cp = next++;
        else
            cp = b;
    }
    size_t n = mlxd_utf8_put(cp, (uint8_t *)out);
    out[n] = 0;
}

/* Bytes of `text` in the byte alphabet. */
static inline void mini_spell(const char *text, char *out) {
    *out = 0;
    for (; *text; text++) {
        char one[5];
        mini_spell_byte((uint8_t)*text, one);
        strcat(out, one);
    }
}

static inline int32_t mini_add(mini_vocab *v, const char *literal, int32_t type) {
    assert_true(v->n_tokens < MINI_TOKENS && strlen(literal) < MINI_TEXT);
    strcpy(v->tokens[v->n_tokens], literal);
    v->types[v->n_tokens++] = type;
    v->n_types = v->n_tokens;
    return (int32_t)v->n_tokens - 1;
}

/* A merge of `left` and `right` (plain bytes) and, unless it is there, their token; its id. */
static inline int32_t mini_merge(mini_vocab *v, const char *left, const char *right) {
    char a[MINI_TEXT], b[MINI_TEXT], ab[2 * MINI_TEXT];
    mini_spell(left, a);
    mini_spell(right, b);
    snprintf(v->merges[v->n_merges++], MINI_TEXT, "%.140s %.140s", a, b);
    snprintf(ab, sizeof ab, "%s%s", a, b);
    for (size_t i = 0; i < v->n_tokens; i++)
        if (strcmp(v->tokens[i], ab) == 0)
            return (int32_t)i;
    return mini_add(v, ab, 1);
}

static inline mini_vocab *mini_vocab_new(const char *pre) {
    mini_vocab *v = calloc(1, sizeof *v);
    assert_non_null(v);
    v->model = "gpt2";
    v->pre = pre;
    v->bos = 1;
    v->eos = 2;
    v->eot = -1;
    v->add_bos = -1;
    mini_add(v, "<|endoftext|>", 3);
    mini_add(v, "<|im_start|>", 3);
    mini_add(v, "<|im_end|>", 3);
    for (unsigned b = 0; b < 256; b++) {
        char one[5];
        mini_spell_byte(b, one);
        mini_add(v, one, 1);
    }
    return v;
}

static inline const mlxd_gguf *mini_vocab_open(mini_gguf *m, const mini_vocab *v) {
    static const char *texts[MINI_TOKENS];
    *m = (mini_gguf){0};
    mini_put_str(m, "general.architecture", "llama");
    if (v->model)
        mini_put_str(m, "tokenizer.ggml.model", v->model);
    if (v->pre)
        mini_put_str(m, "tokenizer.ggml.pre", v->pre);
    for (size_t i = 0; i < v->n_tokens; i++)
        texts[i] = v->tokens[i];
    mini_put_strs(m, "tokenizer.ggml.tokens", texts, v->n_tokens);
    mini_put_i32s(m, "tokenizer.ggml.token_type", v->types, v->n_types);
    for (size_t i = 0; i < v->n_merges; i++)
        texts[i] = v->merges[i];
    mini_put_strs(m, "tokenizer.ggml.merges", texts, v->n_merges);
    if (v->bos >= 0)
        mini_put_u32(m, "tokenizer.ggml.bos_token_id", (uint32_t)v->bos);
    if (v->eos >= 0)
        mini_put_u32(m, "tokenizer.ggml.eos_token_id", (uint32_t)v->eos);
    if (v->eot >= 0)
        mini_put_u32(m, "tokenizer.ggml.eot_token_id", (uint32_t)v->eot);
    if (v->add_bos >= 0)
        mini_put_bool(m, "tokenizer.ggml.add_bos_token", v->add_bos);
    if (v->chat_template)
        mini_put_str(m, "tokenizer.chat_template", v->chat_template);
    if (v->tool_template)
        mini_put_str(m, "tokenizer.chat_template.tool_use", v->tool_template);
    return mini_open(m);
}

/* ---- files ---- */

/* A whole file; NULL when it cannot be opened. The caller frees. */
static inline uint8_t *mini_read_file(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    assert_true(size >= 0);
    rewind(f);
    uint8_t *data = malloc((size_t)size + 1);
    assert_non_null(data);
    *len = fread(data, 1, (size_t)size, f);
    assert_int_equal(*len, (size_t)size);
    fclose(f);
    return data;
}

#endif
