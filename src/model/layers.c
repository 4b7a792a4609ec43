/* layers.c - see layers.h: loading a range of layers, and the working memory of a step.
 * layers_tensors.c lists the tensors, layers_step.c computes. */
#include "model/layers_internal.h"

#include "base/mem.h"

#include <string.h>

/* ---- tensors ---- */

/* Everything that layers [first, end) are loaded into, and from. */
struct table {
    mlxd_layer *layers;
    mlxd_matrix *experts;
    mlxd_weight_spec *specs;
    size_t n;
};

static void free_table(struct table *t) {
    mlxd_mem_free(t->specs);
    mlxd_mem_free(t->experts);
    mlxd_mem_free(t->layers);
    *t = (struct table){0};
}

static mlxd_err make_table(struct table *t, const mlxd_config *c, uint32_t first, uint32_t end,
                           const float **rope_lists, mlxd_why *why) {
    size_t count = end - first, experts = (size_t)3 * c->experts;
    *t = (struct table){
        .layers = mlxd_mem_new(count, sizeof *t->layers),
        .experts = mlxd_mem_new(count * experts + 1, sizeof *t->experts),
        .specs = mlxd_mem_new(count * MLXD_LAYER_SPECS_MAX + MLXD_ROPE_LISTS, sizeof *t->specs)};
    if (!t->layers || !t->experts || !t->specs) {
        free_table(t);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    for (uint32_t i = first; i < end; i++) {
        mlxd_layer *layer = &t->layers[i - first];
        mlxd_layer_init(c, i, layer, t->experts + (i - first) * experts);
        t->n += mlxd_layer_specs(c, i, layer, t->specs + t->n);
    }
    t->n += mlxd_layers_rope_specs(c, rope_lists, t->specs + t->n);
    return MLXD_OK;
}

static bool is_of_experts(const mlxd_weight_spec *s) {
    return s->matrix && s->count > 1;
}

/* Bytes of all layers; of their experts' matrices. */
static mlxd_err measure(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                        uint32_t end, uint64_t *all, uint64_t *experts, mlxd_why *why) {
    const float *lists[MLXD_ROPE_LISTS];
    struct table t = {0};
    MLXD_ASSERT(first <= end && end <= c->layers);
    *all = *experts = 0;
    if (first == end)
        return MLXD_OK;
    mlxd_err err = make_table(&t, c, first, end, lists, why);
    if (!err)
        err = mlxd_weights_size(file, t.specs, t.n, all, why);
    size_t n = 0;
    for (size_t i = 0; i < t.n && !err; i++)
        if (is_of_experts(&t.specs[i]))
            t.specs[n++] = t.specs[i];
    if (!err && n > 0)
        err = mlxd_weights_size(file, t.specs, n, experts, why);
    free_table(&t);
    return err;
}

mlxd_err mlxd_layers_size(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                          uint32_t end, uint64_t *out, mlxd_why *why) {
    uint64_t experts;
    mlxd_err err = measure(file, c, first, end, out, &experts, why);
    return err ? err : mlxd_layers_check_extras(file, c, first, end, why);
}

mlxd_err mlxd_layers_read_size(const mlxd_checkpoint *file, const mlxd_config *c, uint32_t first,
                               uint32_t end, uint64_t *out, mlxd_why *why) {
    uint64_t experts;
    mlxd_err err = measure(file, c, first, end, out, &experts, why);
    if (!err && c->experts)
        *out -= experts / c->experts * (c->experts - c->experts_used);
    return err;
}

/* ---- working memory ---- */

/* A piece of the working memory: where its address goes, and its size. */
struct part {
    void *at;
    size_t bytes;
};

/* Activations of so many columns in all; returns the parts added. */
static size_t list_quants(struct part *p, mlxd_quants *z, size_t columns) {
    size_t groups = columns / MLXD_GROUP * 4;
    p[0] = (struct part){&z->q, columns};
    p[1] = (struct part){&z->scale, groups};
    p[2] = (struct part){&z->offset, groups};
    p[3] = (struct part){&z->sums, groups};
    return 4;
}

/* Is matrix `which` of a layer float, among those with experts or those without? */
static bool has_float(const mlxd_layers *l, int which, bool experts) {
    for (uint32_t i = 0; i < l->end - l->first; i++)
        if ((l->layers[i].kind & MLXD_LAYER_EXPERTS) == (experts ? MLXD_LAYER_EXPERTS : 0) &&
            !mlxd_format_is_quantized(l->layers[i].m[which]->format))
            return true;
    return false;
}

static bool has_experts(const mlxd_layers *l) {
    for (uint32_t i = 0; i < l->end - l->first; i++)
        if (l->layers[i].kind & MLXD_LAYER_EXPERTS)
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

/* What routing needs; returns the parts added. */
static size_t list_routing(mlxd_layers *l, struct part *p) {
    const mlxd_config *c = &l->c;
    mlxd_routing *r = &l->routing;
    const size_t t = l->tokens_max, e = c->experts, slots = t * c->experts_used;
    const bool in = has_float(l, MLXD_GATE, true) || has_float(l, MLXD_UP, true);
    const bool mid = has_float(l, MLXD_DOWN, true);
    const struct part parts[] = {
        {&l->groups, MLXD_MIN(e, slots) * sizeof *l->groups},
        {&r->logits, t * e * 4},
        {&r->chosen, slots * 4},
        {&r->weight, slots * 4},
        {&r->first, (e + 1) * 4},
        {&r->token, slots * 4},
        {&r->group, slots * 4},
        {&r->share, slots * 4},
    };
    size_t count = MLXD_COUNT_OF(parts);
    memcpy(p, parts, sizeof parts);
    if (in)
        p[count++] = (struct part){&r->in.x, slots * c->hidden * 4};
    if (mid)
        p[count++] = (struct part){&r->mid.x, slots * c->expert_ffn * 4};
    count += list_quants(p + count, &r->in.z, slots * c->hidden);
    return count + list_quants(p + count, &r->mid.z, slots * c->expert_ffn);
}

static bool reserve_work(mlxd_layers *l, size_t threads, uint32_t positions) {
    const mlxd_config *c = &l->c;
    const bool experts = has_experts(l);
    const bool branch =
        experts || c->post_norms || c->o_bias || c->ffn_bias || c->residual_scale != 1;
    size_t t = l->tokens_max, q = (size_t)c->heads * c->head_dim;
    size_t kv = (size_t)c->kv_heads * c->head_dim, pages = mlxd_kv_pages(positions);
    size_t in = MLXD_MAX((size_t)c->hidden, q), mid = c->ffn;
    float *own_x;
    mlxd_quants own_z;
    struct part parts[64] = {
        {&l->in.x, t * in * 4},
        {&l->q, t * q * 4},
        {&l->k_new, t * kv * 4},
        {&l->v_new, t * kv * 4},
        {&l->compact, t * c->hidden * 4},
        {&l->branch, branch ? t * c->hidden * 4 : 0},
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
    if (has_float(l, MLXD_DOWN, false))
        parts[count++] = (struct part){&l->mid.x, t * mid * 4};
    count += list_quants(parts + count, &l->in.z, t * in);
    count += list_quants(parts + count, &l->mid.z, t * mid);
    count += list_quants(parts + count, &own_z, threads * MLXD_OWN_NORM_MAX);
    if (experts)
        count += list_routing(l, parts + count);
    MLXD_ASSERT(count <= MLXD_COUNT_OF(parts));
    if (!carve(l, parts, count))
        return false;
    cut_own(l, threads, own_x, own_z);
    return true;
}

/* ---- open and close ---- */

static mlxd_err make_ropes(mlxd_layers *l, uint32_t positions, mlxd_why *why) {
    const mlxd_config *c = &l->c;
    const float *lists[MLXD_ROPE_LISTS];
    for (uint32_t i = 0; i < MLXD_ROPE_LISTS; i++)
        lists[i] = i < c->rope_tensors ? l->rope_lists[i] : c->rope_lists[i];
    bool local = false;
    for (uint32_t i = l->first; i < l->end; i++)
        local = local || c->layer[i] & MLXD_LAYER_LOCAL_ROPE;
    mlxd_err err = mlxd_rope_init(&l->rope[MLXD_ROPE_GLOBAL], c, &c->rope[MLXD_ROPE_GLOBAL], lists,
                                  positions, why);
    if (!err && local)
        err = mlxd_rope_init(&l->rope[MLXD_ROPE_LOCAL], c, &c->rope[MLXD_ROPE_LOCAL], lists,
                             positions, why);
    return err;
}

mlxd_err mlxd_layers_open(mlxd_layers **out, const mlxd_layers_params *p, mlxd_why *why) {
    MLXD_ASSERT(p->first < p->end && p->end <= p->config->layers);
    MLXD_ASSERT(p->tokens_max > 0 && p->tokens_max <= MLXD_LIMIT_STEP_TOKENS);
    mlxd_layers *l = mlxd_mem_new(1, sizeof *l);
    struct table t = {0};
    if (!l)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    l->c = *p->config;
    l->k = p->kernels;
    l->first = p->first;
    l->end = p->end;
    l->tokens_max = p->tokens_max;
    uint64_t bytes;
    mlxd_err err = make_table(&t, &l->c, p->first, p->end, l->rope_lists, why);
    if (!err)
        err = mlxd_weights_size(p->checkpoint, t.specs, t.n, &bytes, why);
    if (!err)
        err = mlxd_layers_check_extras(p->checkpoint, &l->c, p->first, p->end, why);
    if (!err)
        err =
            mlxd_weights_load(&l->weights, p->checkpoint, t.specs, t.n, p->pool, p->progress, why);
    l->layers = t.layers; /* the specs point into them */
    l->experts = t.experts;
    mlxd_mem_free(t.specs);
    if (!err)
        err = make_ropes(l, p->positions, why);
    if (!err && !reserve_work(l, MLXD_LIMIT_THREADS, p->positions))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for steps of %u tokens", l->tokens_max);
    if (err) {
        mlxd_layers_close(l);
        return err;
    }
    *out = l;
    return MLXD_OK;
}

void mlxd_layers_close(mlxd_layers *l) {
    if (!l)
        return;
    if (l->work)
        mlxd_mem_unmap(l->work, l->work_bytes);
    for (int i = 0; i < MLXD_ROPE_TABLES; i++)
        mlxd_rope_deinit(&l->rope[i]);
    mlxd_weights_close(l->weights);
    mlxd_mem_free(l->experts);
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
    size_t rope = 0;
    for (int i = 0; i < MLXD_ROPE_TABLES; i++)
        rope += (size_t)l->rope[i].positions * l->rope[i].half * 2 * sizeof(float);
    return mlxd_weights_bytes(l->weights) + l->work_bytes + rope;
}

const mlxd_tensor_digest *mlxd_layers_digests(const mlxd_layers *l, size_t *count) {
    return mlxd_weights_digests(l->weights, count);
}
