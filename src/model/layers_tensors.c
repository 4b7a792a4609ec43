/* layers_tensors.c - which tensors a layer is made of, for every family; see layers.h. The order is
 * that of the digests: matrices, then what is beside them. */
#include "model/layers_internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct list {
    const mlxd_config *c;
    uint32_t index; /* of the layer in the model */
    mlxd_weight_spec *specs;
    size_t n;
};

static mlxd_weight_spec *add(struct list *l, const char *name) {
    MLXD_ASSERT(l->n < MLXD_LAYER_SPECS_MAX);
    mlxd_weight_spec *s = &l->specs[l->n++];
    *s = (mlxd_weight_spec){0};
    snprintf(s->name, sizeof s->name, "blk.%u.%s", l->index, name);
    return s;
}

static mlxd_weight_spec *add_matrix(struct list *l, const char *name, mlxd_matrix *m, size_t rows,
                                    size_t cols) {
    mlxd_weight_spec *s = add(l, name);
    s->matrix = m;
    s->rows = rows;
    s->cols = cols;
    return s;
}

static mlxd_weight_spec *add_vector(struct list *l, const char *name, const float **v, size_t n) {
    mlxd_weight_spec *s = add(l, name);
    s->vector = v;
    s->cols = n;
    return s;
}

static void add_norm(struct list *l, const char *name, const float **v, size_t n) {
    add_vector(l, name, v, n)->plus = l->c->norm_plus;
}

/* Of `total` rows (or values) the tensor of `s` has, every `step`-th from `first` on is meant. */
static void take(mlxd_weight_spec *s, size_t first, size_t step, size_t total) {
    s->row_first = first;
    s->row_step = step;
    s->rows_total = total;
}

static void add_attention(struct list *l, mlxd_layer *layer) {
    static const char *const names[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
    const mlxd_config *c = l->c;
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    for (int i = MLXD_Q; i <= MLXD_V; i++) {
        mlxd_weight_spec *s = add_matrix(l, c->fused_qkv ? "attn_qkv.weight" : names[i],
                                         layer->m[i], i == MLXD_Q ? q : kv, c->hidden);
        if (c->fused_qkv)
            take(s, i == MLXD_Q ? 0 : i == MLXD_K ? q : q + kv, 1, q + 2 * kv);
    }
    add_matrix(l, "attn_output.weight", layer->m[MLXD_O], c->hidden, q);
}

/* Gate and up: two tensors, or both in one. */
static void add_gate_up(struct list *l, mlxd_layer *layer, bool experts) {
    const mlxd_config *c = l->c;
    const size_t ffn = experts ? c->expert_ffn : c->ffn;
    const char *apart[] = {experts ? "ffn_gate_exps.weight" : "ffn_gate.weight",
                           experts ? "ffn_up_exps.weight" : "ffn_up.weight"};
    const char *fused = experts ? "ffn_gate_up_exps.weight" : "ffn_up.weight";
    const bool turns = c->gate_up == MLXD_GATE_UP_TURNS;
    for (size_t i = 0; i < 2; i++) {
        mlxd_weight_spec *s = add_matrix(l, c->gate_up == MLXD_GATE_UP_APART ? apart[i] : fused,
                                         layer->m[i == 0 ? MLXD_GATE : MLXD_UP], ffn, c->hidden);
        s->count = experts ? c->experts : 1;
        if (c->gate_up != MLXD_GATE_UP_APART)
            take(s, turns ? i : i * ffn, turns ? 2 : 1, 2 * ffn);
    }
}

static void add_dense(struct list *l, mlxd_layer *layer) {
    const mlxd_config *c = l->c;
    add_gate_up(l, layer, false);
    add_matrix(l, "ffn_down.weight", layer->m[MLXD_DOWN], c->hidden, c->ffn);
}

static void add_experts(struct list *l, mlxd_layer *layer) {
    const mlxd_config *c = l->c;
    add_matrix(l, "ffn_gate_inp.weight", &layer->router, c->experts, c->hidden);
    add_gate_up(l, layer, true);
    add_matrix(l, "ffn_down_exps.weight", layer->m[MLXD_DOWN], c->hidden, c->expert_ffn)->count =
        c->experts;
}

static void add_expert_biases(struct list *l, mlxd_layer *layer) {
    const mlxd_config *c = l->c;
    const bool apart = c->gate_up == MLXD_GATE_UP_APART;
    const char *names[] = {"ffn_gate_exps.bias", "ffn_up_exps.bias"};
    add_vector(l, "ffn_gate_inp.bias", &layer->router_bias, c->experts);
    for (size_t i = 0; i < 2; i++) {
        mlxd_weight_spec *s = add_vector(l, apart ? names[i] : "ffn_gate_up_exps.bias",
                                         &layer->bias[i == 0 ? MLXD_GATE : MLXD_UP], c->expert_ffn);
        s->count = c->experts;
        if (!apart)
            take(s, c->gate_up == MLXD_GATE_UP_TURNS ? i : i * c->expert_ffn,
                 c->gate_up == MLXD_GATE_UP_TURNS ? 2 : 1, 2 * (size_t)c->expert_ffn);
    }
    add_vector(l, "ffn_down_exps.bias", &layer->bias[MLXD_DOWN], c->hidden)->count = c->experts;
}

static void add_norms(struct list *l, mlxd_layer *layer) {
    const mlxd_config *c = l->c;
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    const bool head = c->qk_norm == MLXD_QK_NORM_HEAD;
    if (c->pre_norms) {
        add_norm(l, "attn_norm.weight", &layer->attn_norm, c->hidden);
        add_norm(l, c->late_name ? "post_attention_norm.weight" : "ffn_norm.weight",
                 &layer->ffn_norm, c->hidden);
    }
    if (c->post_norms) {
        add_norm(l, "post_attention_norm.weight", &layer->attn_post_norm, c->hidden);
        add_norm(l, "post_ffw_norm.weight", &layer->ffn_post_norm, c->hidden);
    }
    if (c->qk_norm != MLXD_QK_NORM_NONE) {
        add_norm(l, "attn_q_norm.weight", &layer->q_norm, head ? c->head_dim : q);
        add_norm(l, "attn_k_norm.weight", &layer->k_norm, head ? c->head_dim : kv);
    }
}

static void add_biases(struct list *l, mlxd_layer *layer) {
    const mlxd_config *c = l->c;
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    if (c->qkv_bias) {
        add_vector(l, "attn_q.bias", &layer->bias[MLXD_Q], q);
        add_vector(l, "attn_k.bias", &layer->bias[MLXD_K], kv);
        add_vector(l, "attn_v.bias", &layer->bias[MLXD_V], kv);
    }
    if (c->o_bias)
        add_vector(l, "attn_output.bias", &layer->bias[MLXD_O], c->hidden);
    if (c->ffn_bias && !(layer->kind & MLXD_LAYER_EXPERTS)) {
        add_vector(l, "ffn_gate.bias", &layer->bias[MLXD_GATE], c->ffn);
        add_vector(l, "ffn_up.bias", &layer->bias[MLXD_UP], c->ffn);
        add_vector(l, "ffn_down.bias", &layer->bias[MLXD_DOWN], c->hidden);
    }
}

size_t mlxd_layer_specs(const mlxd_config *c, uint32_t index, mlxd_layer *layer,
                        mlxd_weight_spec specs[MLXD_LAYER_SPECS_MAX]) {
    struct list l = {c, index, specs, 0};
    const bool experts = layer->kind & MLXD_LAYER_EXPERTS;
    add_attention(&l, layer);
    if (experts)
        add_experts(&l, layer);
    else
        add_dense(&l, layer);
    add_norms(&l, layer);
    add_biases(&l, layer);
    if (c->sinks)
        add_vector(&l, "attn_sinks.weight", &layer->sinks, c->heads);
    if (experts && c->expert_bias)
        add_expert_biases(&l, layer);
    return l.n;
}

void mlxd_layer_init(const mlxd_config *c, uint32_t index, mlxd_layer *layer,
                     mlxd_matrix *experts) {
    layer->kind = c->layer[index];
    for (int i = 0; i < MLXD_LAYER_MATRICES; i++)
        layer->m[i] = &layer->one[i];
    for (int i = MLXD_GATE; i <= MLXD_DOWN && layer->kind & MLXD_LAYER_EXPERTS; i++)
        layer->m[i] = experts + (size_t)(i - MLXD_GATE) * c->experts;
}

size_t mlxd_layers_rope_specs(const mlxd_config *c, const float *lists[MLXD_ROPE_LISTS],
                              mlxd_weight_spec specs[MLXD_ROPE_LISTS]) {
    static const char *const names[MLXD_ROPE_LISTS + 1][MLXD_ROPE_LISTS] = {
        {NULL, NULL},
        {"rope_freqs.weight", NULL},
        {"rope_factors_short.weight", "rope_factors_long.weight"}};
    for (uint32_t i = 0; i < c->rope_tensors; i++) {
        specs[i] = (mlxd_weight_spec){.cols = c->rope_dims / 2, .vector = &lists[i]};
        snprintf(specs[i].name, sizeof specs[i].name, "%s", names[c->rope_tensors][i]);
    }
    return c->rope_tensors;
}

/* ---- names ---- */

/* Appends the names of `specs` to out[n ...], each once; out may be NULL. */
static size_t add_names(const mlxd_weight_spec *specs, size_t count, mlxd_tensor_name *out,
                        size_t n) {
    for (size_t i = 0; i < count; i++) {
        bool again = false;
        for (size_t j = 0; j < i; j++)
            again = again || strcmp(specs[i].name, specs[j].name) == 0;
        if (again)
            continue;
        if (out)
            memcpy(out[n].text, specs[i].name, sizeof out[n].text);
        n++;
    }
    return n;
}

size_t mlxd_layers_tensors(const mlxd_config *c, uint32_t first, uint32_t end,
                           mlxd_tensor_name *out) {
    mlxd_weight_spec specs[MLXD_LAYER_SPECS_MAX];
    const float *lists[MLXD_ROPE_LISTS];
    size_t n = 0;
    for (uint32_t i = first; i < end; i++) {
        mlxd_layer layer = {0};
        mlxd_layer_init(c, i, &layer, layer.one);
        n = add_names(specs, mlxd_layer_specs(c, i, &layer, specs), out, n);
    }
    return add_names(specs, mlxd_layers_rope_specs(c, lists, specs), out, n);
}

/* A tensor of a block that we would silently leave out changes the result: refuse it by name. */
mlxd_err mlxd_layers_check_extras(const mlxd_checkpoint *f, const mlxd_config *c, uint32_t first,
                                  uint32_t end, mlxd_why *why) {
    mlxd_weight_spec specs[MLXD_LAYER_SPECS_MAX];
    for (size_t t = 0; t < mlxd_checkpoint_count(f); t++) {
        const char *name = mlxd_checkpoint_at(f, t)->name;
        unsigned index;
        char dot;
        if (sscanf(name, "blk.%9u%c", &index, &dot) != 2 || dot != '.' || index < first ||
            index >= end)
            continue;
        mlxd_layer layer = {0};
        mlxd_layer_init(c, index, &layer, layer.one);
        size_t n = mlxd_layer_specs(c, index, &layer, specs), i = 0;
        while (i < n && strcmp(specs[i].name, name) != 0)
            i++;
        if (i == n)
            return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: tensor %s is not supported",
                             mlxd_checkpoint_path(f), name);
    }
    return MLXD_OK;
}
