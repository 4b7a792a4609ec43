/* layers.c - see layers.h: the tensor list of a llama block, loading, and the working memory of a
 * step. layers_step.c computes. */
#include "model/layers_internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define MATRICES MLXD_LAYER_MATRICES

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
static void list_layer(const mlxd_config *c, uint32_t index, mlxd_layer *l,
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
                                     mlxd_layer *layers) {
    mlxd_weight_spec *specs = mlxd_mem_new((size_t)(end - first) * SPECS_PER_LAYER, sizeof *specs);
    for (uint32_t i = first; specs && i < end; i++)
        list_layer(c, i, &layers[i - first], specs + (size_t)(i - first) * SPECS_PER_LAYER);
    return specs;
}

/* A tensor of a block that we would silently leave out changes the result: refuse it by name. */
static mlxd_err check_no_extras(const mlxd_checkpoint *f, uint32_t first, uint32_t end,
                                mlxd_why *why) {
    static const char *const extras[] = {
        "attn_q.bias",        "attn_k.bias",        "attn_v.bias",   "attn_output.bias",
        "ffn_gate.bias",      "ffn_up.bias",        "ffn_down.bias", "attn_q_norm.weight",
        "attn_k_norm.weight", "ffn_gate_inp.weight"};
    char name[MLXD_LIMIT_GGUF_NAME];
    for (uint32_t i = first; i < end; i++)
        for (size_t j = 0; j < MLXD_COUNT_OF(extras); j++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, extras[j]);
            if (mlxd_checkpoint_find(f, name))
                return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: tensor %s is not supported",
                                 mlxd_checkpoint_path(f), name);
        }
    return MLXD_OK;
}

mlxd_err mlxd_layers_size(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                          uint32_t end, uint64_t *out, mlxd_why *why) {
    MLXD_ASSERT(first <= end && end <= c->layers);
    *out = 0;
    if (first == end)
        return MLXD_OK;
    mlxd_layer *layers = mlxd_mem_new(end - first, sizeof *layers);
    mlxd_weight_spec *specs = layers ? list_layers(c, first, end, layers) : NULL;
    mlxd_err err =
        specs ? mlxd_weights_size(file, specs, (size_t)(end - first) * SPECS_PER_LAYER, out, why)
              : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mem_free(specs);
    mlxd_mem_free(layers);
    return err;
}

/* A piece of the working memory: where its address goes, and its size. */
struct part {
    void *at;
    size_t bytes;
};

/* Activations of t tokens, `wide` columns; returns the parts added. */
static size_t list_quants(struct part *p, mlxd_quants *z, size_t t, size_t wide) {
    size_t groups = wide / MLXD_GROUP * t * 4;
    p[0] = (struct part){&z->q, t * wide};
    p[1] = (struct part){&z->scale, groups};
    p[2] = (struct part){&z->offset, groups};
    p[3] = (struct part){&z->sums, groups};
    return 4;
}

static bool has_float_down(const mlxd_layers *l) {
    for (uint32_t i = l->first; i < l->end; i++)
        if (!mlxd_format_is_quantized(l->layers[i - l->first].m[MLXD_DOWN].format))
            return true;
    return false;
}

/* Reserves one region and gives each part a place in it, on cache lines of its own. */
static bool carve(mlxd_layers *l, const struct part *parts, size_t count) {
    const size_t line = 64, apart = 2 * line; /* neighbours are prefetched in pairs of lines */
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += (parts[i].bytes + apart - 1) / line * line;
    l->work = mlxd_mem_map(total);
    if (!l->work)
        return false;
    l->work_bytes = total;
    uint8_t *p = l->work;
    for (size_t i = 0; i < count; i++) {
        memcpy(parts[i].at, &p, sizeof p);
        p += (parts[i].bytes + apart - 1) / line * line;
    }
    return true;
}

/* Every thread's own rows: one array for all threads, cut here. */
static void cut_own(mlxd_layers *l, size_t threads, float *x, mlxd_quants z) {
    const size_t n = MLXD_OWN_NORM_MAX, groups = n / MLXD_GROUP;
    for (size_t i = 0; i < threads; i++) {
        mlxd_own *o = &l->own[i];
        o->x = x + i * n;
        o->z = (mlxd_quants){z.q + i * n, z.scale + i * groups, z.offset + i * groups,
                             z.sums + i * groups};
    }
}

static bool reserve_work(mlxd_layers *l, size_t threads, uint32_t positions) {
    const mlxd_config *c = &l->c;
    size_t t = l->tokens_max, q = (size_t)c->heads * c->head_dim;
    size_t kv = (size_t)c->kv_heads * c->head_dim, pages = mlxd_kv_pages(positions);
    size_t in = MLXD_MAX((size_t)c->hidden, q), mid = c->ffn;
    float *own_x, *mid_x;
    mlxd_quants own_z;
    struct part parts[32] = {
        {&l->in.x, t * in * 4},
        {&mid_x, has_float_down(l) ? t * mid * 4 : 0},
        {&l->q, t * q * 4},
        {&l->k_new, t * kv * 4},
        {&l->v_new, t * kv * 4},
        {&l->compact, t * c->hidden * 4},
        {&l->own, threads * sizeof *l->own},
        {&own_x, threads * MLXD_OWN_NORM_MAX * 4},
        {&l->part_out, pages * q * 4},
        {&l->parts, pages * c->heads * sizeof *l->parts},
        {&l->parts_left, c->kv_heads * sizeof *l->parts_left},
        {&l->sessions, t * sizeof *l->sessions},
        {&l->row_of, t * sizeof *l->row_of},
        {&l->out_of, t * sizeof *l->out_of},
        {&l->spans, t * sizeof *l->spans},
    };
    size_t count = 15;
    count += list_quants(parts + count, &l->in.z, t, in);
    count += list_quants(parts + count, &l->mid.z, t, mid);
    count += list_quants(parts + count, &own_z, threads, MLXD_OWN_NORM_MAX);
    if (!carve(l, parts, count))
        return false;
    l->mid.x = has_float_down(l) ? mid_x : NULL;
    cut_own(l, threads, own_x, own_z);
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
    err = check_no_extras(p->checkpoint, p->first, p->end, why);
    if (err)
        goto fail;
    specs = list_layers(&l->c, p->first, p->end, l->layers);
    err = specs ? mlxd_weights_load(&l->weights, p->checkpoint, specs,
                                    (size_t)(p->end - p->first) * SPECS_PER_LAYER, p->pool,
                                    p->progress, why)
                : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = mlxd_rope_init(&l->rope, &l->c, p->positions, why);
    if (!err && !reserve_work(l, MLXD_LIMIT_THREADS, p->positions))
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
