/* golden.c - see golden.h. */
#include "golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

mlxd_buf golden_read(const char *name) {
    char path[1024];
    mlxd_buf out;
    uint8_t chunk[65536];
    size_t n;
    snprintf(path, sizeof path, "%s%s%s", name[0] == '/' ? "" : MLXD_GOLDEN,
             name[0] == '/' ? "" : "/", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("missing golden file %s", path);
    mlxd_buf_init(&out, 0);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        mlxd_buf_add(&out, chunk, n);
    fclose(f);
    assert_false(out.failed);
    return out;
}

mlxd_json_doc *golden_json(const char *name) {
    mlxd_buf text = golden_read(name);
    mlxd_json_doc *doc;
    mlxd_why why = {0};
    if (mlxd_json_parse(&doc, (mlxd_slice){text.data, text.len}, MLXD_LIMIT_JSON_DEPTH, &why))
        fail_msg("%s: %s", name, why.text);
    mlxd_buf_deinit(&text);
    return doc;
}

int32_t *golden_ints(const mlxd_json *array, size_t *count) {
    *count = mlxd_json_count(array);
    int32_t *out = mlxd_mem_new(*count, sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < *count; i++) {
        int64_t v;
        assert_int_equal(mlxd_json_get_int64(mlxd_json_at(array, i), &v), MLXD_OK);
        out[i] = (int32_t)v;
    }
    return out;
}

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

/* The stages of a run, with their KV caches. */
struct stages {
    mlxd_layers *layers[64];
    mlxd_kv *kv[64];
    uint32_t first[65];
    size_t n;
};

static void open_stages(struct stages *s, const golden_run *run, const mlxd_checkpoint *file,
                        const mlxd_config *c, mlxd_pool *pool) {
    mlxd_why why = {0};
    s->n = 0;
    s->first[0] = 0;
    for (size_t i = 0; s->first[s->n] < c->layers; i++) {
        uint32_t first = s->first[s->n], end = run->splits ? first + run->splits[i] : c->layers;
        mlxd_layers_params p = {.checkpoint = file,
                                .config = c,
                                .kernels = run->kernels,
                                .first = first,
                                .end = end,
                                .positions = (uint32_t)run->n_tokens,
                                .tokens_max = (uint32_t)run->chunk,
                                .pool = pool};
        check(mlxd_layers_open(&s->layers[s->n], &p, &why), &why);
        check(mlxd_kv_open(&s->kv[s->n], c, end - first, mlxd_kv_pages(run->n_tokens), &why), &why);
        s->first[++s->n] = end;
    }
}

static void close_stages(struct stages *s) {
    for (size_t i = 0; i < s->n; i++) {
        mlxd_layers_close(s->layers[i]);
        mlxd_kv_close(s->kv[i]);
    }
}

static void run_chunks(struct stages *s, const golden_run *run, const mlxd_config *c,
                       mlxd_vocab *vocab, mlxd_pool *pool, float *logits) {
    float *hidden = mlxd_mem_new(run->chunk * c->hidden, sizeof *hidden);
    uint64_t hash = mlxd_kv_hash_init();
    mlxd_why why = {0};
    assert_non_null(hidden);
    for (size_t at = 0; at < run->n_tokens; at += run->chunk) {
        size_t n = MLXD_MIN(run->chunk, run->n_tokens - at);
        mlxd_row row = {.session = 1,
                        .prefix_hash = hash,
                        .position = (uint32_t)at,
                        .n_tokens = (uint32_t)n,
                        .n_out = (uint32_t)n,
                        .tokens = run->tokens + at};
        mlxd_vocab_embed(vocab, row.tokens, n, hidden);
        for (size_t i = 0; i < s->n; i++)
            check(mlxd_layers_step(s->layers[i], s->kv[i], pool, s->first[i], s->first[i + 1], &row,
                                   1, false, hidden, NULL, &why),
                  &why);
        for (size_t i = 0; i < n; i += MLXD_VOCAB_ROWS)
            mlxd_vocab_logits(vocab, pool, hidden + i * c->hidden,
                              MLXD_MIN(n - i, (size_t)MLXD_VOCAB_ROWS),
                              logits + (at + i) * c->vocab);
        for (size_t i = 0; i < n; i++)
            hash = mlxd_kv_hash_add(hash, row.tokens[i]);
    }
    mlxd_mem_free(hidden);
}

static mlxd_checkpoint *open_model(const char *name, mlxd_config *c) {
    char path[1024];
    mlxd_checkpoint *file;
    mlxd_why why = {0};
    snprintf(path, sizeof path, "%s%s%s", name[0] == '/' ? "" : MLXD_GOLDEN,
             name[0] == '/' ? "" : "/", name);
    check(mlxd_checkpoint_open(&file, path, &why), &why);
    check(mlxd_config_read(c, file, &why), &why);
    return file;
}

uint32_t golden_layers(const char *path) {
    mlxd_config c;
    mlxd_checkpoint_close(open_model(path, &c));
    return c.layers;
}

bool golden_spoils(const golden_run *run) {
    mlxd_config c;
    mlxd_checkpoint_close(open_model(run->path, &c));
    mlxd_config before = c;
    run->spoil(&c);
    return memcmp(&before, &c, sizeof c) != 0;
}

float *golden_logits(const golden_run *run, uint32_t *n_vocab) {
    mlxd_config c;
    mlxd_vocab *vocab;
    struct stages stages;
    mlxd_why why = {0};
    mlxd_os_fpu_init();
    mlxd_pool *pool = mlxd_pool_open(run->threads);
    assert_non_null(pool);
    mlxd_checkpoint *file = open_model(run->path, &c);
    if (run->spoil)
        run->spoil(&c);
    check(mlxd_vocab_open(&vocab, file, &c, run->kernels, pool, NULL, &why), &why);
    open_stages(&stages, run, file, &c, pool);
    float *logits = mlxd_mem_new(run->n_tokens * c.vocab, sizeof *logits);
    assert_non_null(logits);
    run_chunks(&stages, run, &c, vocab, pool, logits);
    close_stages(&stages);
    mlxd_vocab_close(vocab);
    mlxd_checkpoint_close(file);
    mlxd_pool_close(pool);
    *n_vocab = c.vocab;
    return logits;
}
