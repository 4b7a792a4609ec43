/* bench.c - see bench.h. Sequences are sessions 1 to batch of one KV cache; each keeps its filled
 * positions between runs and is cut back to them after each. */
#include "model/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/os.h"
#include "model/vocab.h"

#include <stdio.h>
#include <string.h>

#define NOISE (MLXD_LIMIT_HEAD_DIM * MLXD_PAGE) /* f16 values: K or V of one head and page */

struct mlxd_bench {
    mlxd_config c;
    mlxd_bench_model model;
    uint32_t chunk, step_max; /* tokens of a prompt's step; of any step */
    mlxd_vocab *vocab;
    mlxd_layers *layers;
    mlxd_kv *kv;
    uint32_t depth, batch; /* what the cache is filled for */
    uint64_t *filled;      /* prefix hash at `depth` of each sequence, [step_max] */
    uint64_t *hashes;      /* prefix hash of each sequence as it grows, [step_max] */
    mlxd_row *rows;        /* [step_max] */
    int32_t *tokens;       /* [step_max] */
    float *hidden;         /* [step_max][hidden size] */
    float *logits;         /* [MLXD_VOCAB_ROWS][vocab] */
    uint16_t *noise;       /* [NOISE] */
};

/* ---- what it costs ---- */

uint64_t mlxd_bench_tokens(const mlxd_bench_test *t) {
    return t->n_prompt ? t->n_prompt : (uint64_t)t->n_gen * t->batch;
}

static uint64_t positions_of(const mlxd_bench_test *t) {
    return (uint64_t)t->depth + t->n_prompt + t->n_gen;
}

double mlxd_bench_read_bytes(const mlxd_bench_model *m, const mlxd_bench_test *t) {
    MLXD_ASSERT(t->n_gen > 0);
    double steps = t->n_gen, positions = (double)t->depth + (steps + 1) / 2; /* mean of a step */
    return steps * ((double)m->step_bytes + t->batch * positions * (double)m->position_bytes);
}

double mlxd_bench_operations(const mlxd_bench_model *m, const mlxd_bench_test *t) {
    double tokens = (double)mlxd_bench_tokens(t), wanted = t->n_prompt ? 1 : tokens;
    return 2 * (tokens * (double)(m->layer_params - m->last_params) +
                wanted * (double)(m->last_params + m->head_params));
}

uint64_t mlxd_bench_kv_bytes(const mlxd_bench_model *m, const mlxd_bench_test *t) {
    return (uint64_t)t->batch * mlxd_kv_pages(positions_of(t)) * MLXD_PAGE * m->position_bytes;
}

/* ---- open ---- */

static bool begins(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

static bool ends(const char *s, const char *with) {
    size_t n = strlen(s), tail = strlen(with);
    return n >= tail && strcmp(s + n - tail, with) == 0;
}

static bool is_wide(const mlxd_encoding *e) {
    return e->kind == MLXD_ENCODING_ROWS && !mlxd_format_is_quantized(mlxd_weight_format(e->type));
}

/* Is it of the last layer, and no K or V, which later tokens need? */
static bool is_last(const mlxd_config *c, const char *name) {
    char prefix[MLXD_LIMIT_GGUF_NAME];
    snprintf(prefix, sizeof prefix, "blk.%u.", c->layers - 1);
    return begins(name, prefix) && !begins(name + strlen(prefix), "attn_k.") &&
           !begins(name + strlen(prefix), "attn_v.");
}

/* Sums over the tensors of the checkpoint. */
static void count_tensors(mlxd_bench_model *m, const mlxd_config *c, const mlxd_checkpoint *f,
                          const char *head) {
    for (size_t i = 0; i < mlxd_checkpoint_count(f); i++) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(f, i);
        uint64_t count = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        bool layer = t->n_dims >= 2 && begins(t->name, "blk.") && !ends(t->name, ".bias");
        m->params += count;
        m->file_bytes += t->bytes;
        if (layer && t->n_dims == 3) /* experts, of which a token uses some */
            count = count / t->dims[2] * MLXD_MIN(t->dims[2], (uint64_t)c->experts_used);
        m->layer_params += layer ? count : 0;
        m->last_params += layer && is_last(c, t->name) ? count : 0;
        m->head_params += strcmp(t->name, head) == 0 ? count : 0;
        m->quantized = m->quantized || (layer && !is_wide(&t->encoding));
    }
}

/* The type of most bytes. */
static const char *main_type(const mlxd_checkpoint *f) {
    struct {
        const char *label;
        uint64_t bytes;
    } types[128];
    size_t n = 0, best = 0;
    for (size_t i = 0; i < mlxd_checkpoint_count(f); i++) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(f, i);
        size_t j = 0;
        while (j < n && strcmp(types[j].label, t->encoding.label) != 0)
            j++;
        if (j == MLXD_COUNT_OF(types))
            continue;
        if (j == n) {
            types[n].label = t->encoding.label;
            types[n++].bytes = 0;
        }
        types[j].bytes += t->bytes;
        best = types[j].bytes > types[best].bytes ? j : best;
    }
    return n ? types[best].label : "";
}

static mlxd_err describe(mlxd_bench_model *m, const mlxd_bench_params *p, mlxd_why *why) {
    const mlxd_checkpoint *f = p->checkpoint;
    const char *name = p->config->tied ? "token_embd.weight" : "output.weight";
    const mlxd_checkpoint_tensor *head = mlxd_checkpoint_find(f, name);
    const mlxd_checkpoint_tensor *embd = mlxd_checkpoint_find(f, "token_embd.weight");
    uint64_t layers = 0, read = 0, vocab = 0;
    mlxd_err err = mlxd_layers_size(f, p->config, 0, p->config->layers, &layers, why);
    if (!err)
        err = mlxd_layers_read_size(f, p->config, 0, p->config->layers, &read, why);
    if (!err)
        err = mlxd_vocab_size(f, p->config, &vocab, why);
    if (err)
        return err;
    count_tensors(m, p->config, f, name);
    m->type = main_type(f);
    m->weights_bytes = layers + vocab;
    /* Both matrices of an untied head were packed alike: their sizes in the file are the share. */
    double share = p->config->tied ? 1 : (double)head->bytes / (double)(head->bytes + embd->bytes);
    m->step_bytes = read + (uint64_t)((double)vocab * share);
    m->position_bytes = mlxd_kv_page_bytes(p->config, p->config->layers) / MLXD_PAGE;
    return MLXD_OK;
}

/* What the tests need; *pages and *positions are the most of any. */
static mlxd_err size_tests(mlxd_bench *b, const mlxd_bench_params *p, uint64_t *pages,
                           uint64_t *positions, mlxd_why *why) {
    uint32_t prompt_max = 1, batch_max = 1;
    *pages = *positions = 0;
    for (size_t i = 0; i < p->n_tests; i++) {
        const mlxd_bench_test *t = &p->tests[i];
        MLXD_ASSERT((t->n_prompt == 0) != (t->n_gen == 0) && t->batch > 0);
        MLXD_ASSERT(t->batch <= MLXD_LIMIT_STEP_ROWS && (t->n_gen > 0 || t->batch == 1));
        if (positions_of(t) > p->config->context)
            return mlxd_fail(why, MLXD_ERR_RANGE,
                             "depth %u and %u tokens are beyond the model's context of %u",
                             t->depth, t->n_prompt + t->n_gen, p->config->context);
        *positions = MLXD_MAX(*positions, positions_of(t));
        *pages = MLXD_MAX(*pages, (uint64_t)t->batch * mlxd_kv_pages(positions_of(t)));
        prompt_max = MLXD_MAX(prompt_max, t->n_prompt);
        batch_max = MLXD_MAX(batch_max, t->batch);
    }
    b->chunk = MLXD_MIN(p->chunk, prompt_max);
    b->step_max = MLXD_MAX(b->chunk, batch_max);
    uint64_t kv_bytes = *pages * MLXD_PAGE * b->model.position_bytes;
    uint64_t available = mlxd_os_memory_available();
    if (*pages > UINT32_MAX || b->model.weights_bytes + kv_bytes > available)
        return mlxd_fail(why, MLXD_ERR_NOMEM,
                         "%llu MiB of weights and %llu MiB of KV cache are needed, "
                         "%llu MiB are available",
                         (unsigned long long)(b->model.weights_bytes >> 20),
                         (unsigned long long)(kv_bytes >> 20),
                         (unsigned long long)(available >> 20));
    return MLXD_OK;
}

/* Numbers of both signs from 2^-4 to below 1/2: scores and sums stay ordinary. */
static void make_noise(uint16_t *noise) {
    uint64_t r = mlxd_kv_hash_init();
    for (size_t i = 0; i < NOISE; i++) {
        r = mlxd_kv_hash_add(r, (int32_t)i);
        noise[i] = (uint16_t)((r & 0x8000) | (0x2c00 + (r >> 32) % 0x0c00));
    }
}

static bool reserve(mlxd_bench *b) {
    b->filled = mlxd_mem_new(b->step_max, sizeof *b->filled);
    b->hashes = mlxd_mem_new(b->step_max, sizeof *b->hashes);
    b->rows = mlxd_mem_new(b->step_max, sizeof *b->rows);
    b->tokens = mlxd_mem_new(b->step_max, sizeof *b->tokens);
    b->hidden = mlxd_mem_new((size_t)b->step_max * b->c.hidden, sizeof *b->hidden);
    b->logits = mlxd_mem_new((size_t)MLXD_VOCAB_ROWS * b->c.vocab, sizeof *b->logits);
    b->noise = mlxd_mem_new(NOISE, sizeof *b->noise);
    return b->filled && b->hashes && b->rows && b->tokens && b->hidden && b->logits && b->noise;
}

mlxd_err mlxd_bench_open(mlxd_bench **out, const mlxd_bench_params *p, mlxd_why *why) {
    MLXD_ASSERT(p->n_tests > 0 && p->chunk > 0);
    uint64_t pages = 0, positions = 0;
    mlxd_bench *b = mlxd_mem_new(1, sizeof *b);
    if (!b)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    b->c = *p->config;
    mlxd_err err = describe(&b->model, p, why);
    if (!err)
        err = size_tests(b, p, &pages, &positions, why);
    if (!err && !reserve(b))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for steps of %u tokens", b->step_max);
    if (!err)
        err =
            mlxd_vocab_open(&b->vocab, p->checkpoint, &b->c, p->kernels, p->pool, p->progress, why);
    mlxd_layers_params l = {.checkpoint = p->checkpoint,
                            .config = &b->c,
                            .kernels = p->kernels,
                            .end = b->c.layers,
                            .positions = (uint32_t)positions,
                            .tokens_max = b->step_max,
                            .pool = p->pool,
                            .progress = p->progress};
    if (!err)
        err = mlxd_layers_open(&b->layers, &l, why);
    if (!err)
        err = mlxd_kv_open(&b->kv, &b->c, b->c.layers, (uint32_t)pages, why);
    if (err) {
        mlxd_bench_close(b);
        return err;
    }
    make_noise(b->noise);
    *out = b;
    return MLXD_OK;
}

void mlxd_bench_close(mlxd_bench *b) {
    if (!b)
        return;
    mlxd_kv_close(b->kv);
    mlxd_layers_close(b->layers);
    mlxd_vocab_close(b->vocab);
    mlxd_mem_free(b->noise);
    mlxd_mem_free(b->logits);
    mlxd_mem_free(b->hidden);
    mlxd_mem_free(b->tokens);
    mlxd_mem_free(b->rows);
    mlxd_mem_free(b->hashes);
    mlxd_mem_free(b->filled);
    mlxd_mem_free(b);
}

const mlxd_bench_model *mlxd_bench_get_model(const mlxd_bench *b) {
    return &b->model;
}

/* ---- run ---- */

/* The token of a sequence at a position: any, but always the same one. */
static int32_t token_at(const mlxd_bench *b, uint32_t sequence, uint32_t position) {
    uint64_t r = mlxd_kv_hash_add(sequence, (int32_t)position);
    return (int32_t)((r >> 32) % b->c.vocab);
}

/* Gives sequence i `depth` positions of noise. */
static mlxd_err fill_sequence(mlxd_bench *b, uint32_t i, uint32_t depth, mlxd_why *why) {
    size_t head_bytes = (size_t)b->c.head_dim * MLXD_PAGE * sizeof *b->noise;
    mlxd_kv_session *s = NULL;
    b->filled[i] = mlxd_kv_hash_init();
    for (uint32_t at = 0, n = 0; at < depth; at += n) {
        n = MLXD_MIN(b->step_max, depth - at);
        for (uint32_t j = 0; j < n; j++)
            b->tokens[j] = token_at(b, i, at + j);
        mlxd_err err = mlxd_kv_begin(b->kv, i + 1u, at, b->filled[i], b->tokens, n, &s, why);
        if (err)
            return err;
        for (uint32_t j = 0; j < n; j++)
            b->filled[i] = mlxd_kv_hash_add(b->filled[i], b->tokens[j]);
    }
    for (uint32_t page = 0; page < mlxd_kv_pages(depth); page++)
        for (uint32_t layer = 0; layer < b->c.layers; layer++)
            for (uint32_t head = 0; head < b->c.kv_heads; head++) {
                memcpy(mlxd_kv_k(b->kv, s, layer, page, head), b->noise, head_bytes);
                memcpy(mlxd_kv_v(b->kv, s, layer, page, head), b->noise, head_bytes);
            }
    return MLXD_OK;
}

static mlxd_err fill(mlxd_bench *b, const mlxd_bench_test *t, mlxd_why *why) {
    if (b->depth == t->depth && b->batch == t->batch)
        return MLXD_OK;
    mlxd_kv_drop_all(b->kv);
    b->batch = 0;
    for (uint32_t i = 0; i < t->batch; i++) {
        mlxd_err err = fill_sequence(b, i, t->depth, why);
        if (err)
            return err;
    }
    b->depth = t->depth;
    b->batch = t->batch;
    return MLXD_OK;
}

/* Appends row i to a step: `n` tokens behind the `hash`, of which the last n_out results are
 * wanted. */
static uint64_t set_row(mlxd_bench *b, uint32_t i, uint32_t position, uint32_t n, uint32_t n_out,
                        uint64_t hash) {
    int32_t *tokens = b->tokens + i;
    b->rows[i] = (mlxd_row){.session = i + 1u,
                            .prefix_hash = hash,
                            .position = position,
                            .n_tokens = n,
                            .n_out = n_out,
                            .tokens = tokens};
    for (uint32_t j = 0; j < n; j++) {
        tokens[j] = token_at(b, i, position + j);
        hash = mlxd_kv_hash_add(hash, tokens[j]);
    }
    return hash;
}

static mlxd_err step(mlxd_bench *b, mlxd_pool *pool, uint32_t rows, uint32_t tokens,
                     const mlxd_abort *abort, mlxd_why *why) {
    mlxd_vocab_embed(b->vocab, b->tokens, tokens, b->hidden);
    return mlxd_layers_step(b->layers, b->kv, pool, 0, b->c.layers, b->rows, rows, true, b->hidden,
                            abort, why);
}

static mlxd_err run_prompt(mlxd_bench *b, mlxd_pool *pool, const mlxd_bench_test *t,
                           const mlxd_abort *abort, mlxd_why *why) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < t->n_prompt; at += n) {
        n = MLXD_MIN(b->chunk, t->n_prompt - at);
        b->hashes[0] = set_row(b, 0, t->depth + at, n, at + n == t->n_prompt, b->hashes[0]);
        mlxd_err err = step(b, pool, 1, n, abort, why);
        if (err)
            return err;
    }
    mlxd_vocab_logits(b->vocab, pool, b->hidden + (size_t)(n - 1) * b->c.hidden, 1, b->logits);
    return MLXD_OK;
}

static mlxd_err run_generation(mlxd_bench *b, mlxd_pool *pool, const mlxd_bench_test *t,
                               const mlxd_abort *abort, mlxd_why *why) {
    for (uint32_t at = 0; at < t->n_gen; at++) {
        for (uint32_t i = 0; i < t->batch; i++)
            b->hashes[i] = set_row(b, i, t->depth + at, 1, 1, b->hashes[i]);
        mlxd_err err = step(b, pool, t->batch, t->batch, abort, why);
        if (err)
            return err;
        for (uint32_t i = 0; i < t->batch; i += MLXD_VOCAB_ROWS)
            mlxd_vocab_logits(b->vocab, pool, b->hidden + (size_t)i * b->c.hidden,
                              MLXD_MIN(t->batch - i, (uint32_t)MLXD_VOCAB_ROWS), b->logits);
    }
    return MLXD_OK;
}

mlxd_err mlxd_bench_run(mlxd_bench *b, mlxd_pool *pool, const mlxd_bench_test *t,
                        const mlxd_abort *abort, uint64_t *ns, mlxd_why *why) {
    MLXD_ASSERT(MLXD_MAX(t->batch, MLXD_MIN(b->chunk, t->n_prompt)) <= b->step_max);
    mlxd_err err = fill(b, t, why);
    if (err)
        return err;
    memcpy(b->hashes, b->filled, t->batch * sizeof *b->hashes);
    uint64_t t0 = mlxd_clock_now_ns();
    err = t->n_prompt ? run_prompt(b, pool, t, abort, why) : run_generation(b, pool, t, abort, why);
    *ns = mlxd_clock_now_ns() - t0;
    for (uint32_t i = 0; i < t->batch; i++)
        mlxd_kv_truncate(b->kv, i + 1u, t->depth);
    if (err)
        b->batch = 0; /* what is in the cache is not known any more */
    return err;
}
