/* config_gguf.c - see config.h. Keys are "<architecture>.<what>" as in the GGUF specification; what
 * a file does not say is what llama.cpp takes for it. */
#include "model/config_internal.h"

#include "kernel/math.h"

#include <math.h>
#include <stdio.h>

struct reader {
    const mlxd_checkpoint *f;
    const mlxd_gguf *g;
    const mlxd_family *family;
    mlxd_why *why;
    mlxd_err err; /* sticky: the first failure */
};

static const char *key_of(const struct reader *r, const char *what, char key[96]) {
    snprintf(key, 96, "%s.%s", r->family->gguf, what);
    return key;
}

static bool has_key(const struct reader *r, const char *what) {
    char key[96];
    return mlxd_gguf_has(r->g, key_of(r, what, key));
}

static bool has_tensor(const struct reader *r, const char *name) {
    return mlxd_checkpoint_find(r->f, name) != NULL;
}

/* Integer key in [min, max]; `fallback` when absent (0 = the key is required). */
static uint32_t read_u32(struct reader *r, const char *what, uint64_t min, uint64_t max,
                         uint64_t fallback) {
    char key[96];
    uint64_t v = fallback;
    if (r->err)
        return 0;
    mlxd_err err = mlxd_gguf_get_u64(r->g, key_of(r, what, key), &v, r->why);
    if (err == MLXD_ERR_NOTFOUND && fallback)
        err = MLXD_OK;
    if (err == MLXD_ERR_NOTFOUND)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is missing", key);
    if (!err && (v < min || v > max))
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is %llu, expected %llu..%llu", key,
                        (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
    r->err = err;
    return err ? 0 : (uint32_t)v;
}

static double read_f64(struct reader *r, const char *what, double min, double max,
                       double fallback) {
    char key[96];
    double v = fallback;
    if (r->err)
        return 0;
    mlxd_err err = mlxd_gguf_get_f64(r->g, key_of(r, what, key), &v, r->why);
    if (err == MLXD_ERR_NOTFOUND && fallback > 0)
        err = MLXD_OK;
    if (err == MLXD_ERR_NOTFOUND)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is missing", key);
    if (!err && !(v >= min && v <= max))
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is %g, expected %g..%g", key, v,
                        min, max);
    r->err = err;
    return v;
}

/* ---- rope ---- */

/* llama.cpp's YaRN: the ramp between whole dimensions, and the factor that the paper suggests. */
static void read_yarn(mlxd_config *c, struct reader *r) {
    mlxd_rope_rule *rule = &c->rope[MLXD_ROPE_GLOBAL];
    rule->kind = MLXD_ROPE_YARN;
    rule->factor = read_f64(r, "rope.scaling.factor", 1e-3, 1e4, 0);
    rule->original =
        read_u32(r, "rope.scaling.original_context_length", 1, MLXD_LIMIT_CONTEXT, c->context);
    rule->high = read_f64(r, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32);
    rule->low = read_f64(r, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
    rule->truncate = true;
    rule->attention = read_f64(r, "rope.scaling.attn_factor", 1e-3, 1e3, 1);
    if (rule->factor > 1)
        rule->attention *= 1 + 0.1 * mlxd_log_f64(rule->factor);
}

static void read_lists(mlxd_config *c, struct reader *r) {
    mlxd_rope_rule *rule = &c->rope[MLXD_ROPE_GLOBAL];
    if (has_tensor(r, "rope_freqs.weight")) {
        rule->kind = MLXD_ROPE_FACTORS;
        c->rope_tensors = 1;
    }
    if (has_tensor(r, "rope_factors_long.weight")) {
        rule->kind = MLXD_ROPE_LONGROPE;
        rule->original =
            read_u32(r, "rope.scaling.original_context_length", 1, MLXD_LIMIT_CONTEXT, c->context);
        rule->attention = read_f64(r, "rope.scaling.attn_factor", 1e-3, 1e3, 1);
        c->rope_tensors = 2;
    }
}

static mlxd_err read_rope(mlxd_config *c, struct reader *r) {
    char key[96];
    mlxd_slice type = {0};
    mlxd_rope_rule *rule = &c->rope[MLXD_ROPE_GLOBAL];
    rule->theta = read_f64(r, "rope.freq_base", 1, 1e12, 10000);
    mlxd_err err = mlxd_gguf_get_str(r->g, key_of(r, "rope.scaling.type", key), &type, NULL);
    if (r->err)
        return r->err;
    if (err && err != MLXD_ERR_NOTFOUND)
        return mlxd_fail(r->why, err, "metadata key %s is no string", key);
    if (!err && mlxd_slice_eq(type, mlxd_slice_str("linear"))) {
        rule->factor = read_f64(r, "rope.scaling.factor", 1e-3, 1e4, 0);
    } else if (!err && mlxd_slice_eq(type, mlxd_slice_str("yarn"))) {
        read_yarn(c, r);
    } else if (!err && !mlxd_slice_eq(type, mlxd_slice_str("none")) &&
               !mlxd_slice_eq(type, mlxd_slice_str("longrope"))) {
        char shown[33];
        mlxd_config_copy_text(type, shown, sizeof shown);
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "rope scaling \"%s\" is not supported (supported: none, linear, yarn, "
                         "longrope)",
                         shown);
    } else if (err) {
        rule->factor = read_f64(r, "rope.scale_linear", 1e-3, 1e4, 1);
    }
    if (rule->kind == MLXD_ROPE_PLAIN && rule->factor != 1)
        rule->kind = MLXD_ROPE_LINEAR;
    read_lists(c, r);
    c->rope[MLXD_ROPE_LOCAL].theta = read_f64(r, "rope.freq_base_swa", 1, 1e12, 10000);
    return r->err;
}

/* ---- what families add ---- */

/* The largest models of Gemma 2 and 3 scale q.k by another number than their head size; files do
 * not say so, and llama.cpp knows them by their layers. */
static float gemma_scale(const mlxd_config *c, const mlxd_family *f) {
    bool largest = c->layers == (f->flags & MLXD_FAMILY_LOCAL_ROPE ? 62u : 46u);
    return mlxd_config_inverse_sqrt(largest ? c->hidden / c->heads : c->head_dim);
}

static void read_window(mlxd_config *c, struct reader *r) {
    uint32_t flags = r->family->flags, pattern = r->family->pattern;
    if (!(flags & MLXD_FAMILY_WINDOW_TYPES) || !pattern)
        return;
    c->window = read_u32(r, "attention.sliding_window", 1, MLXD_LIMIT_CONTEXT, 0);
    pattern = read_u32(r, "attention.sliding_window_pattern", 1, MLXD_LIMIT_LAYERS, pattern);
    for (uint32_t i = 0; i < c->layers && pattern; i++)
        if ((i + 1) % pattern != 0)
            c->layer[i] |=
                MLXD_LAYER_WINDOW | (flags & MLXD_FAMILY_LOCAL_ROPE ? MLXD_LAYER_LOCAL_ROPE : 0);
}

static void read_experts(mlxd_config *c, struct reader *r) {
    c->experts = read_u32(r, "expert_count", 1, MLXD_LIMIT_EXPERTS, 0);
    c->experts_used = read_u32(r, "expert_used_count", 1, MLXD_LIMIT_EXPERTS_USED, 0);
    c->expert_ffn = read_u32(r, "expert_feed_forward_length", 1, MLXD_LIMIT_FFN, 0);
    for (uint32_t i = 0; i < c->layers; i++) {
        char name[MLXD_LIMIT_GGUF_NAME];
        snprintf(name, sizeof name, "blk.%u.ffn_gate_inp.weight", i);
        if (has_tensor(r, name))
            c->layer[i] |= MLXD_LAYER_EXPERTS;
    }
}

static void read_family(mlxd_config *c, struct reader *r) {
    const uint32_t flags = r->family->flags;
    c->rope_pairs = flags & MLXD_FAMILY_PAIRS;
    c->attention_scale = mlxd_config_inverse_sqrt(c->head_dim);
    c->qkv_bias = c->qkv_bias || has_tensor(r, "blk.0.attn_q.bias");
    c->o_bias = c->o_bias || has_tensor(r, "blk.0.attn_output.bias");
    c->ffn_bias = has_tensor(r, "blk.0.ffn_up.bias");
    if (flags & MLXD_FAMILY_GEMMA) {
        c->attention_scale = gemma_scale(c, r->family);
        c->embedding_scale = sqrtf((float)c->hidden);
    }
    if (flags & MLXD_FAMILY_GEMMA && !(flags & MLXD_FAMILY_HEAD_NORM)) { /* Gemma 2 */
        c->attention_softcap = (float)read_f64(r, "attn_logit_softcapping", 1e-3, 1e6, 50);
        c->final_softcap = (float)read_f64(r, "final_logit_softcapping", 1e-3, 1e6, 30);
    }
    if (flags & MLXD_FAMILY_MULTIPLIERS) {
        double scale = c->attention_scale;
        c->attention_scale = (float)read_f64(r, "attention.scale", 1e-9, 1e6, scale);
        c->embedding_scale = (float)read_f64(r, "embedding_scale", 1e-9, 1e6, 1);
        c->residual_scale = (float)read_f64(r, "residual_scale", 1e-9, 1e6, 1);
        c->logit_divisor = (float)read_f64(r, "logit_scale", 1e-9, 1e6, 1);
    }
    for (uint32_t i = 0; i < c->layers && flags & MLXD_FAMILY_NO_ROPE; i++)
        if ((i + 1) % 4 == 0)
            c->layer[i] |= MLXD_LAYER_NO_ROPE;
    read_window(c, r);
    if (flags & MLXD_FAMILY_EXPERTS)
        read_experts(c, r);
}

/* What these keys say would change the result and is not computed. */
static mlxd_err refuse_extras(const mlxd_config *c, struct reader *r) {
    char key[96];
    uint64_t n = 0;
    const uint32_t flags = r->family->flags;
    if (!(flags & MLXD_FAMILY_EXPERTS) && has_key(r, "expert_count")) {
        mlxd_err err = mlxd_gguf_get_u64(r->g, key_of(r, "expert_count", key), &n, r->why);
        if (err)
            return err;
        if (n > 0)
            return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                             "%s with a mixture of %llu experts is not supported", c->arch,
                             (unsigned long long)n);
    }
    if (flags & MLXD_FAMILY_ONLY_POST && has_key(r, "attention.sliding_window"))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "%s with a sliding window (OLMo 3) is not supported", c->arch);
    if (has_key(r, "attention.temperature_scale"))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "%s.attention.temperature_scale is not supported", c->arch);
    return MLXD_OK;
}

static mlxd_err read_numbers(mlxd_config *c, struct reader *r) {
    const bool experts = r->family->flags & MLXD_FAMILY_EXPERTS;
    c->layers = read_u32(r, "block_count", 1, MLXD_LIMIT_LAYERS, 0);
    c->hidden = read_u32(r, "embedding_length", 1, MLXD_LIMIT_HIDDEN, 0);
    if (!experts || has_key(r, "feed_forward_length"))
        c->ffn = read_u32(r, "feed_forward_length", experts ? 0 : 1, MLXD_LIMIT_FFN, 0);
    c->heads = read_u32(r, "attention.head_count", 1, MLXD_LIMIT_HEADS, 0);
    c->context = read_u32(r, "context_length", 1, MLXD_LIMIT_CONTEXT, 0);
    c->rms_eps = (float)read_f64(r, "attention.layer_norm_rms_epsilon", 0, 1, 0);
    if (r->err)
        return r->err;
    c->kv_heads = read_u32(r, "attention.head_count_kv", 1, c->heads, c->heads);
    if (!r->err && !has_key(r, "attention.key_length") && c->hidden % c->heads != 0)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "hidden size %u is no multiple of %u heads",
                         c->hidden, c->heads);
    c->head_dim = read_u32(r, "attention.key_length", 2, MLXD_LIMIT_HEAD_DIM,
                           MLXD_MAX(c->hidden / c->heads, 1u));
    uint32_t v_dim = read_u32(r, "attention.value_length", 2, MLXD_LIMIT_HEAD_DIM, c->head_dim);
    c->rope_dims = read_u32(r, "rope.dimension_count", 2, MLXD_LIMIT_HEAD_DIM, c->head_dim);
    if (!r->err && v_dim != c->head_dim)
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "value length %u differs from key length %u: not supported", v_dim,
                         c->head_dim);
    return r->err;
}

mlxd_err mlxd_config_read_gguf(mlxd_config *c, const mlxd_checkpoint *f, mlxd_why *why) {
    struct reader r = {.f = f, .g = mlxd_checkpoint_gguf(f), .why = why};
    mlxd_slice arch, name;
    mlxd_err err = mlxd_gguf_get_str(r.g, "general.architecture", &arch, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "metadata key general.architecture is missing");
    if (err)
        return err;
    r.family = mlxd_family_find(false, arch);
    if (!r.family)
        return mlxd_family_refuse(false, arch, why);
    mlxd_family_apply(c, r.family);
    if (mlxd_gguf_get_str(r.g, "general.name", &name, NULL) != MLXD_OK)
        name = arch;
    mlxd_config_copy_text(name, c->name, sizeof c->name);
    err = read_numbers(c, &r);
    if (!err)
        err = read_rope(c, &r);
    if (!err)
        read_family(c, &r);
    if (!err)
        err = r.err ? r.err : refuse_extras(c, &r);
    return err;
}
