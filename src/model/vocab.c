/* vocab.c - see vocab.h. */
#include "model/vocab.h"

#include "base/mem.h"

#include <stdio.h>

struct mlxd_vocab {
    mlxd_config c;
    const mlxd_kernels *k;
    mlxd_weights *weights;
    mlxd_matrix embd, output; /* the same one when tied */
    const float *norm;
    /* activations of up to MLXD_VOCAB_ROWS rows */
    float *x;
    mlxd_quants z;
};

static size_t list_tensors(mlxd_vocab *v, const mlxd_config *c, mlxd_weight_spec specs[3]) {
    size_t n = 0;
    specs[n] = (mlxd_weight_spec){.rows = c->vocab, .cols = c->hidden, .matrix = &v->embd};
    snprintf(specs[n++].name, sizeof specs[0].name, "token_embd.weight");
    specs[n] = (mlxd_weight_spec){.cols = c->hidden, .vector = &v->norm, .plus = c->norm_plus};
    snprintf(specs[n++].name, sizeof specs[0].name, "output_norm.weight");
    if (!c->tied) {
        specs[n] = (mlxd_weight_spec){.rows = c->vocab, .cols = c->hidden, .matrix = &v->output};
        snprintf(specs[n++].name, sizeof specs[0].name, "output.weight");
    }
    return n;
}

mlxd_err mlxd_vocab_size(const mlxd_checkpoint *f, const mlxd_config *c, uint64_t *out,
                         mlxd_why *why) {
    mlxd_vocab v;
    mlxd_weight_spec specs[3];
    return mlxd_weights_size(f, specs, list_tensors(&v, c, specs), out, why);
}

mlxd_err mlxd_vocab_open(mlxd_vocab **out, const mlxd_checkpoint *f, const mlxd_config *c,
                         const mlxd_kernels *k, mlxd_pool *pool, const mlxd_progress *progress,
                         mlxd_why *why) {
    mlxd_weight_spec specs[3];
    mlxd_vocab *v = mlxd_mem_new(1, sizeof *v);
    if (!v)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    v->c = *c;
    v->k = k;
    size_t n = list_tensors(v, c, specs);
    mlxd_err err = mlxd_weights_load(&v->weights, f, specs, n, pool, progress, why);
    if (err)
        goto fail;
    if (c->tied)
        v->output = v->embd;
    size_t groups = (c->hidden + MLXD_GROUP - 1) / MLXD_GROUP;
    v->x = mlxd_mem_new((size_t)MLXD_VOCAB_ROWS * c->hidden, sizeof *v->x);
    v->z = (mlxd_quants){mlxd_mem_new(MLXD_VOCAB_ROWS * groups, MLXD_GROUP),
                         mlxd_mem_new(MLXD_VOCAB_ROWS * groups, sizeof *v->z.scale),
                         mlxd_mem_new(MLXD_VOCAB_ROWS * groups, sizeof *v->z.offset),
                         mlxd_mem_new(MLXD_VOCAB_ROWS * groups, sizeof *v->z.sums)};
    if (!v->x || !v->z.q || !v->z.scale || !v->z.offset || !v->z.sums) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
        goto fail;
    }
    *out = v;
    return MLXD_OK;
fail:
    mlxd_vocab_close(v);
    return err;
}

void mlxd_vocab_close(mlxd_vocab *v) {
    if (!v)
        return;
    mlxd_mem_free(v->z.sums);
    mlxd_mem_free(v->z.offset);
    mlxd_mem_free(v->z.scale);
    mlxd_mem_free(v->z.q);
    mlxd_mem_free(v->x);
    mlxd_weights_close(v->weights);
    mlxd_mem_free(v);
}

const mlxd_tensor_digest *mlxd_vocab_digests(const mlxd_vocab *v, size_t *count) {
    return mlxd_weights_digests(v->weights, count);
}

size_t mlxd_vocab_bytes(const mlxd_vocab *v) {
    return mlxd_weights_bytes(v->weights);
}

void mlxd_vocab_embed(const mlxd_vocab *v, const int32_t *tokens, size_t n, float *hidden) {
    for (size_t i = 0; i < n; i++) {
        MLXD_ASSERT(tokens[i] >= 0 && (uint32_t)tokens[i] < v->c.vocab);
        mlxd_matrix_get_row(&v->embd, (size_t)tokens[i], hidden + i * v->c.hidden);
        if (v->c.embedding_scale != 1)
            mlxd_vector_scale(v->c.embedding_scale, v->c.hidden, hidden + i * v->c.hidden);
    }
}

struct product {
    mlxd_vocab *v;
    size_t n, panels, panels_per_task;
    float *logits;
};

static void product_task(void *ctx, size_t task, unsigned thread) {
    struct product *p = ctx;
    mlxd_vocab *v = p->v;
    (void)thread;
    mlxd_activations a = {v->x, v->z, p->n, v->c.hidden};
    size_t p0 = task * p->panels_per_task, p1 = MLXD_MIN(p0 + p->panels_per_task, p->panels);
    size_t row0 = p0 * MLXD_PANEL_ROWS, rows = MLXD_MIN(p1 * MLXD_PANEL_ROWS, v->c.vocab) - row0;
    v->k->matmul.product(&v->output, &a, p0, p1, false, p->logits + row0, v->c.vocab);
    for (size_t t = 0; t < p->n; t++) {
        float *x = p->logits + t * v->c.vocab + row0;
        for (size_t i = 0; i < rows && v->c.logit_divisor != 1; i++)
            x[i] = x[i] / v->c.logit_divisor;
        if (v->c.final_softcap > 0)
            v->k->vector.softcap(x, rows, v->c.final_softcap);
    }
}

void mlxd_vocab_logits(mlxd_vocab *v, mlxd_pool *pool, const float *hidden, size_t n,
                       float *logits) {
    MLXD_ASSERT(n > 0 && n <= MLXD_VOCAB_ROWS);
    size_t h = v->c.hidden, stride;
    for (size_t t = 0; t < n; t++) {
        v->k->vector.rmsnorm(hidden + t * h, v->norm, h, v->c.rms_eps, v->x + t * h);
        if (!mlxd_format_is_quantized(v->output.format))
            continue;
        mlxd_quants to = mlxd_quants_row(v->z, n, h, t, &stride);
        v->k->matmul.quantize(v->x + t * h, h, to, stride);
    }
    struct product p = {.v = v, .n = n, .logits = logits};
    p.panels = mlxd_matrix_panels(&v->output);
    p.panels_per_task = p.panels / ((size_t)mlxd_pool_threads(pool) * 8) + 1;
    size_t tasks = (p.panels + p.panels_per_task - 1) / p.panels_per_task;
    mlxd_pool_run(pool, tasks, product_task, &p);
}
