/* layers.c - see layers.h. Loading: the tensor list of a llama block. Computing: every layer is a
 * handful of parallel phases over the pool, each of which splits tokens, panels or heads and never
 * a sum:
 *
 *   norm+quantize (tokens) > q,k,v (panels) > rope, store K and V (tokens) > attention (token, kv
 *   head) > quantize (tokens) > o (panels) > add, norm+quantize (tokens) > gate,up (panels)
 *   > swiglu+quantize (tokens) > down (panels) > add (tokens, folded into the next layer's norm)
 */
#include "model/layers.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { Q, K, V, O, GATE, UP, DOWN, MATRICES };

struct layer {
    const float *attn_norm, *ffn_norm;
    mlxd_matrix m[MATRICES];
};

/* Activations of one phase: the f32 rows and their quantized form. */
struct act {
    float *x;
    int8_t *q;
    float *scale, *sum;
};

struct mlxd_layers {
    mlxd_config c;
    const mlxd_kernels *k;
    uint32_t first, end, tokens_max;
    mlxd_weights *weights;
    struct layer *layers;
    mlxd_rope rope;
    /* working memory of one step, [tokens_max][...] */
    struct act act; /* max(hidden, heads*head_dim, ffn) wide */
    float *proj[3]; /* q, k, v; gate and up use the first two */
    float *out;     /* hidden wide: what is added to the residual stream */
    float *attn;    /* per thread: a page's partial output of a head */
    uint8_t *work;
    size_t work_bytes;
    mlxd_kv_session **sessions; /* of the rows of the step, [tokens_max] */
    uint32_t *row_of;           /* row index of each token, [tokens_max] */
};

/* ---- loading ---- */

static const char *const matrix_names[MATRICES] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                   "ffn_gate", "ffn_up", "ffn_down"};

#define SPECS_PER_LAYER (MATRICES + 2)

size_t mlxd_layers_tensors(uint32_t first, uint32_t end) {
    return (size_t)(end - first) * SPECS_PER_LAYER;
}

void mlxd_layers_tensor_name(uint32_t first, size_t index, char out[MLXD_LIMIT_GGUF_NAME]) {
    static const char *const norms[] = {"attn_norm", "ffn_norm"};
    size_t i = index % SPECS_PER_LAYER;
    snprintf(out, MLXD_LIMIT_GGUF_NAME, "blk.%u.%s.weight",
             first + (uint32_t)(index / SPECS_PER_LAYER),
             i < MATRICES ? matrix_names[i] : norms[i - MATRICES]);
}

/* The tensors of layer `index` of the model; results go to `l`. */
static void list_layer(const mlxd_config *c, uint32_t index, struct layer *l,
                       mlxd_weight_spec specs[SPECS_PER_LAYER]) {
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    const size_t rows[MATRICES] = {q, kv, kv, c->hidden, c->ffn, c->ffn, c->hidden};
    const size_t cols[MATRICES] = {c->hidden, c->hidden, c->hidden, q,
                                   c->hidden, c->hidden, c->ffn};
    for (int i = 0; i < MATRICES; i++) {
        specs[i] = (mlxd_weight_spec){.rows = rows[i], .cols = cols[i], .matrix = &l->m[i]};
    }
    specs[MATRICES] = (mlxd_weight_spec){.cols = c->hidden, .vector = &l->attn_norm};
    specs[MATRICES + 1] = (mlxd_weight_spec){.cols = c->hidden, .vector = &l->ffn_norm};
    for (size_t i = 0; i < SPECS_PER_LAYER; i++)
        mlxd_layers_tensor_name(index, i, specs[i].name);
}

static mlxd_weight_spec *list_layers(const mlxd_config *c, uint32_t first, uint32_t end,
                                     struct layer *layers) {
    mlxd_weight_spec *specs = mlxd_mem_new((size_t)(end - first) * SPECS_PER_LAYER, sizeof *specs);
    for (uint32_t i = first; specs && i < end; i++)
        list_layer(c, i, &layers[i - first], specs + (size_t)(i - first) * SPECS_PER_LAYER);
    return specs;
}

/* A tensor of a block that we would silently leave out changes the result: refuse it by name. */
static mlxd_err check_no_extras(const mlxd_model_file *f, uint32_t first, uint32_t end,
                                mlxd_why *why) {
    static const char *const extras[] = {
        "attn_q.bias",        "attn_k.bias",        "attn_v.bias",   "attn_output.bias",
        "ffn_gate.bias",      "ffn_up.bias",        "ffn_down.bias", "attn_q_norm.weight",
        "attn_k_norm.weight", "ffn_gate_inp.weight"};
    char name[MLXD_LIMIT_GGUF_NAME];
    for (uint32_t i = first; i < end; i++)
        for (size_t j = 0; j < MLXD_COUNT_OF(extras); j++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, extras[j]);
            if (mlxd_gguf_tensor_find(mlxd_model_file_gguf(f), name))
                return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: tensor %s is not supported",
                                 mlxd_model_file_path(f), name);
        }
    return MLXD_OK;
}

mlxd_err mlxd_layers_size(const mlxd_model_file *file, const mlxd_config *c, uint32_t first,
                          uint32_t end, uint64_t *out, mlxd_why *why) {
    MLXD_ASSERT(first <= end && end <= c->layers);
    *out = 0;
    if (first == end)
        return MLXD_OK;
    struct layer *layers = mlxd_mem_new(end - first, sizeof *layers);
    mlxd_weight_spec *specs = layers ? list_layers(c, first, end, layers) : NULL;
    mlxd_err err =
        specs ? mlxd_weights_size(file, specs, (size_t)(end - first) * SPECS_PER_LAYER, out, why)
              : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mem_free(specs);
    mlxd_mem_free(layers);
    return err;
}

/* Carves the working memory out of one region. */
static bool reserve_work(mlxd_layers *l, unsigned threads) {
    const mlxd_config *c = &l->c;
    size_t t = l->tokens_max, q = (size_t)c->heads * c->head_dim;
    size_t kv = (size_t)c->kv_heads * c->head_dim;
    size_t wide = MLXD_MAX(MLXD_MAX((size_t)c->hidden, q), (size_t)c->ffn);
    wide = (wide + MLXD_GROUP - 1) / MLXD_GROUP * MLXD_GROUP;
    struct {
        void *at; /* the pointer to set */
        size_t bytes;
    } parts[] = {
        {&l->act.x, t * wide * 4},
        {&l->act.q, t * wide},
        {&l->act.scale, t * (wide / MLXD_GROUP) * 4},
        {&l->act.sum, t * (wide / MLXD_GROUP) * 4},
        {&l->proj[0], t * MLXD_MAX(q, (size_t)c->ffn) * 4},
        {&l->proj[1], t * MLXD_MAX(kv, (size_t)c->ffn) * 4},
        {&l->proj[2], t * kv * 4},
        {&l->out, t * c->hidden * 4},
        {&l->attn, (size_t)threads * c->head_dim * 4},
        {&l->sessions, t * sizeof *l->sessions},
        {&l->row_of, t * sizeof *l->row_of},
    };
    size_t total = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(parts); i++)
        total += (parts[i].bytes + 127) / 64 * 64;
    l->work = mlxd_mem_map(total);
    if (!l->work)
        return false;
    l->work_bytes = total;
    uint8_t *p = l->work;
    for (size_t i = 0; i < MLXD_COUNT_OF(parts); i++) {
        memcpy(parts[i].at, &p, sizeof p);
        p += (parts[i].bytes + 127) / 64 * 64;
    }
    return true;
}

mlxd_err mlxd_layers_open(mlxd_layers **out, const mlxd_layers_params *p, mlxd_why *why) {
    MLXD_ASSERT(p->first < p->end && p->end <= p->config->layers);
    MLXD_ASSERT(p->tokens_max > 0 && p->tokens_max <= MLXD_LIMIT_STEP_TOKENS);
    mlxd_layers *l = mlxd_mem_new(1, sizeof *l);
    mlxd_weight_spec *specs = NULL;
    mlxd_err err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!l)
        return err;
    l->c = *p->config;
    l->k = p->kernels;
    l->first = p->first;
    l->end = p->end;
    l->tokens_max = p->tokens_max;
    l->layers = mlxd_mem_new(p->end - p->first, sizeof *l->layers);
    if (!l->layers)
        goto fail;
    err = check_no_extras(p->file, p->first, p->end, why);
    if (err)
        goto fail;
    specs = list_layers(&l->c, p->first, p->end, l->layers);
    err = specs ? mlxd_weights_load(&l->weights, p->file, specs,
                                    (size_t)(p->end - p->first) * SPECS_PER_LAYER, p->pool,
                                    p->progress, why)
                : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = mlxd_rope_init(&l->rope, &l->c, p->positions, why);
    if (!err && !reserve_work(l, MLXD_LIMIT_THREADS))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for steps of %u tokens", l->tokens_max);
    if (err)
        goto fail;
    mlxd_mem_free(specs);
    *out = l;
    return MLXD_OK;
fail:
    mlxd_mem_free(specs);
    mlxd_layers_close(l);
    return err;
}

void mlxd_layers_close(mlxd_layers *l) {
    if (!l)
        return;
    if (l->work)
        mlxd_mem_unmap(l->work, l->work_bytes);
    mlxd_rope_deinit(&l->rope);
    mlxd_weights_close(l->weights);
    mlxd_mem_free(l->layers);
    mlxd_mem_free(l);
}

uint32_t mlxd_layers_first(const mlxd_layers *l) {
    return l->first;
}

uint32_t mlxd_layers_end(const mlxd_layers *l) {
    return l->end;
}

uint32_t mlxd_layers_tokens_max(const mlxd_layers *l) {
    return l->tokens_max;
}

size_t mlxd_layers_bytes(const mlxd_layers *l) {
    size_t rope = (size_t)l->rope.positions * l->rope.half * 2 * sizeof(float);
    return mlxd_weights_bytes(l->weights) + l->work_bytes + rope;
}

const mlxd_tensor_digest *mlxd_layers_digests(const mlxd_layers *l, size_t *count) {
    return mlxd_weights_digests(l->weights, count);
}

/* ---- computing ---- */

/* What the tasks of a step share. */
struct step {
    mlxd_layers *l;
    mlxd_kv *kv;
    const mlxd_row *rows;
    float *hidden;
    size_t n; /* tokens */
    const struct layer *layer;
    uint32_t layer_index; /* in the KV cache */
    const float *norm;
    size_t cols; /* width of the activations of the current phase */
    bool quantize;
    /* a group of products over the same activations */
    const mlxd_matrix *m[3];
    float *y[3];
    size_t n_m;
    size_t panels_per_task;
};

static void quantize_row(const struct step *s, size_t t) {
    const struct act *a = &s->l->act;
    size_t groups = s->cols / MLXD_GROUP;
    if (s->quantize)
        s->l->k->matmul.quantize(a->x + t * s->cols, s->cols, a->q + t * s->cols,
                                 a->scale + t * groups, a->sum + t * groups);
}

static void norm_task(void *ctx, size_t t, unsigned thread) {
    struct step *s = ctx;
    const mlxd_layers *l = s->l;
    (void)thread;
    l->k->vector.rmsnorm(s->hidden + t * l->c.hidden, s->norm, l->c.hidden, l->c.rms_eps,
                         l->act.x + t * l->c.hidden);
    quantize_row(s, t);
}

static void quantize_task(void *ctx, size_t t, unsigned thread) {
    (void)thread;
    quantize_row(ctx, t);
}

static void add_task(void *ctx, size_t t, unsigned thread) {
    struct step *s = ctx;
    (void)thread;
    s->l->k->vector.add(s->hidden + t * s->l->c.hidden, s->l->out + t * s->l->c.hidden,
                        s->l->c.hidden);
}

static void swiglu_task(void *ctx, size_t t, unsigned thread) {
    struct step *s = ctx;
    const mlxd_layers *l = s->l;
    size_t n = l->c.ffn;
    (void)thread;
    l->k->vector.swiglu(l->proj[0] + t * n, l->proj[1] + t * n, n, l->act.x + t * n);
    quantize_row(s, t);
}

static size_t panels_of(const mlxd_matrix *m) {
    return (m->rows + MLXD_PANEL_ROWS - 1) / MLXD_PANEL_ROWS;
}

/* Task `task` of a product group: some panels of one of its matrices. */
static void product_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    const struct act *a = &s->l->act;
    (void)thread;
    size_t i = 0, start = task;
    for (;; i++) {
        size_t tasks = (panels_of(s->m[i]) + s->panels_per_task - 1) / s->panels_per_task;
        if (start < tasks)
            break;
        start -= tasks;
    }
    mlxd_activations x = {a->x, a->q, a->scale, a->sum, s->n, s->cols};
    size_t p0 = start * s->panels_per_task;
    size_t p1 = MLXD_MIN(p0 + s->panels_per_task, panels_of(s->m[i]));
    s->l->k->matmul.product(s->m[i], &x, p0, p1, s->y[i], s->m[i]->rows);
}

static bool any_quantized(const mlxd_matrix *a, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (mlxd_weight_is_quantized(a[i].type))
            return true;
    return false;
}

/* y[i] = m[i] . activations, for `n_m` neighbouring matrices of the layer. */
static void products(struct step *s, mlxd_pool *pool, const mlxd_matrix *m, size_t n_m,
                     float *const *y) {
    size_t panels = 0, tasks = 0;
    for (size_t i = 0; i < n_m; i++) {
        s->m[i] = &m[i];
        s->y[i] = y[i];
        panels += panels_of(&m[i]);
    }
    s->n_m = n_m;
    /* A few tasks per thread: enough to even out, not so many that handing out shows. */
    s->panels_per_task = panels / ((size_t)mlxd_pool_threads(pool) * 4) + 1;
    for (size_t i = 0; i < n_m; i++)
        tasks += (panels_of(&m[i]) + s->panels_per_task - 1) / s->panels_per_task;
    mlxd_pool_run(pool, tasks, product_task, s);
}

/* Rotates q and k of token t and stores its K and V as f16. */
static void store_task(void *ctx, size_t t, unsigned thread) {
    struct step *s = ctx;
    mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    (void)thread;
    uint32_t r = l->row_of[t];
    size_t first = (size_t)(s->rows[r].tokens - s->rows[0].tokens);
    uint32_t pos = s->rows[r].position + (uint32_t)(t - first);
    const float *cos = l->rope.cos + (size_t)pos * l->rope.half;
    const float *sin = l->rope.sin + (size_t)pos * l->rope.half;
    float *q = l->proj[0] + t * c->heads * c->head_dim;
    float *k = l->proj[1] + t * c->kv_heads * c->head_dim;
    const float *v = l->proj[2] + t * c->kv_heads * c->head_dim;
    l->k->vector.rope_pairs(q, c->heads, c->head_dim, c->rope_dims, cos, sin);
    l->k->vector.rope_pairs(k, c->kv_heads, c->head_dim, c->rope_dims, cos, sin);
    uint16_t half[MLXD_LIMIT_HEAD_DIM];
    uint32_t page = pos / MLXD_PAGE, slot = pos % MLXD_PAGE;
    for (uint32_t h = 0; h < c->kv_heads; h++) {
        uint16_t *kp = mlxd_kv_k(s->kv, l->sessions[r], s->layer_index, page, h);
        uint16_t *vp = mlxd_kv_v(s->kv, l->sessions[r], s->layer_index, page, h);
        l->k->vector.to_f16(k + (size_t)h * c->head_dim, c->head_dim, half);
        for (uint32_t d = 0; d < c->head_dim; d++)
            kp[d * MLXD_PAGE + slot] = half[d];
        l->k->vector.to_f16(v + (size_t)h * c->head_dim, c->head_dim,
                            vp + (size_t)slot * c->head_dim);
    }
}

/* Attention of one token and the query heads of one kv head; result into the activations. */
static void attention_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    const mlxd_attention_kernels *k = &l->k->attention;
    size_t t = task / c->kv_heads, dim = c->head_dim;
    uint32_t kv_head = (uint32_t)(task % c->kv_heads), group = c->heads / c->kv_heads;
    uint32_t r = l->row_of[t];
    size_t first = (size_t)(s->rows[r].tokens - s->rows[0].tokens);
    uint32_t end = s->rows[r].position + (uint32_t)(t - first) + 1; /* visible positions */
    float scale = 1.0f / sqrtf((float)c->head_dim);
    float *part = l->attn + (size_t)thread * dim;
    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
        const float *q = l->proj[0] + (t * c->heads + h) * dim;
        float *out = l->act.x + (t * c->heads + h) * dim;
        float max = 0, sum = 0, max2, sum2;
        for (uint32_t p = 0; p * MLXD_PAGE < end; p++) {
            const uint16_t *kp = mlxd_kv_k(s->kv, l->sessions[r], s->layer_index, p, kv_head);
            const uint16_t *vp = mlxd_kv_v(s->kv, l->sessions[r], s->layer_index, p, kv_head);
            size_t count = MLXD_MIN(end - p * MLXD_PAGE, (uint32_t)MLXD_PAGE);
            if (p == 0) {
                k->page(q, kp, vp, dim, count, scale, &max, &sum, out);
                continue;
            }
            k->page(q, kp, vp, dim, count, scale, &max2, &sum2, part);
            k->merge(&max, &sum, out, max2, sum2, part, dim);
        }
        k->finish(out, sum, dim);
    }
}

static void run_layer(struct step *s, mlxd_pool *pool) {
    mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    const mlxd_matrix *m = s->layer->m;
    float *out[1] = {l->out};
    s->norm = s->layer->attn_norm;
    s->cols = c->hidden;
    s->quantize = any_quantized(&m[Q], 3);
    mlxd_pool_run(pool, s->n, norm_task, s);
    products(s, pool, &m[Q], 3, l->proj);
    mlxd_pool_run(pool, s->n, store_task, s);
    mlxd_pool_run(pool, s->n * c->kv_heads, attention_task, s);
    s->cols = (size_t)c->heads * c->head_dim;
    s->quantize = any_quantized(&m[O], 1);
    if (s->quantize)
        mlxd_pool_run(pool, s->n, quantize_task, s);
    products(s, pool, &m[O], 1, out);
    mlxd_pool_run(pool, s->n, add_task, s);

    s->norm = s->layer->ffn_norm;
    s->cols = c->hidden;
    s->quantize = any_quantized(&m[GATE], 2);
    mlxd_pool_run(pool, s->n, norm_task, s);
    products(s, pool, &m[GATE], 2, l->proj);
    s->cols = c->ffn;
    s->quantize = any_quantized(&m[DOWN], 1);
    mlxd_pool_run(pool, s->n, swiglu_task, s);
    products(s, pool, &m[DOWN], 1, out);
    mlxd_pool_run(pool, s->n, add_task, s);
}

/* Two rows of one session would write the same KV at the same time. */
static bool session_twice(const mlxd_row *rows, size_t n_rows) {
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < r; i++)
            if (rows[i].session == rows[r].session)
                return true;
    return false;
}

/* Opens the rows' sessions at their positions and notes which row each token belongs to. */
static mlxd_err begin_rows(mlxd_layers *l, mlxd_kv *kv, const mlxd_row *rows, size_t n_rows,
                           size_t *n, mlxd_why *why) {
    *n = 0;
    if (session_twice(rows, n_rows))
        return mlxd_fail(why, MLXD_ERR_INVALID, "a step has two rows of one session");
    for (size_t r = 0; r < n_rows; r++) {
        if (rows[r].n_tokens == 0 || rows[r].n_tokens > l->tokens_max - *n)
            return mlxd_fail(why, MLXD_ERR_RANGE, "a step holds 1..%u tokens", l->tokens_max);
        if (rows[r].position >= l->rope.positions ||
            rows[r].n_tokens > l->rope.positions - rows[r].position)
            return mlxd_fail(why, MLXD_ERR_RANGE, "positions %u..%llu are beyond the context of %u",
                             rows[r].position,
                             (unsigned long long)rows[r].position + rows[r].n_tokens - 1,
                             l->rope.positions);
        MLXD_ASSERT(rows[r].tokens == rows[0].tokens + *n);
        mlxd_err err = mlxd_kv_begin(kv, rows[r].session, rows[r].position, rows[r].prefix_hash,
                                     rows[r].tokens, rows[r].n_tokens, &l->sessions[r], why);
        if (err)
            return err;
        for (uint32_t i = 0; i < rows[r].n_tokens; i++)
            l->row_of[(*n)++] = (uint32_t)r;
    }
    return MLXD_OK;
}

mlxd_err mlxd_layers_step(mlxd_layers *l, mlxd_kv *kv, mlxd_pool *pool, uint32_t first,
                          uint32_t end, const mlxd_row *rows, size_t n_rows, float *hidden,
                          const mlxd_abort *abort, mlxd_why *why) {
    MLXD_ASSERT(first >= l->first && first < end && end <= l->end);
    MLXD_ASSERT(mlxd_os_fpu_ok());
    struct step s = {.l = l, .kv = kv, .rows = rows, .hidden = hidden};
    mlxd_err err = begin_rows(l, kv, rows, n_rows, &s.n, why);
    if (err)
        return err;
    for (uint32_t i = first; i < end; i++) {
        if (abort && abort->fn(abort->ctx))
            return MLXD_ERR_CANCELLED;
        s.layer = &l->layers[i - l->first];
        s.layer_index = i - l->first;
        run_layer(&s, pool);
    }
    for (size_t t = 0; t < s.n; t++)
        if (!l->k->vector.is_finite(hidden + t * l->c.hidden, l->c.hidden)) {
            const mlxd_row *row = &rows[l->row_of[t]];
            return mlxd_fail(why, MLXD_ERR_CORRUPT,
                             "session %llu: the result of layers %u..%u is not finite",
                             (unsigned long long)row->session, first, end - 1);
        }
    return MLXD_OK;
}
