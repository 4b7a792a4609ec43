/* config_hf.c - see config.h: Hugging Face's config.json, old spellings (rope_scaling, torch_dtype)
 * and those of transformers 5 (rope_parameters, dtype). A key that is null or absent has the value
 * that transformers' configuration class gives it.
 */
#include "model/config_internal.h"

#include "format/json.h"
#include "kernel/math.h"
#include "kernel/vector.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct reader {
    const mlxd_json *root; /* the file */
    const mlxd_json *o;    /* the object with the numbers: root, or its text_config */
    const mlxd_family *family;
    const char *path;
    mlxd_why *why;
    mlxd_err err; /* sticky: the first failure */
};

/* What transformers assumes where it is not simply 0, false or null; "" = every family. */
static const struct {
    const char *hf, *key;
    double value;
} defaults[] = {
    {"gemma3_text", "num_attention_heads", 8},
    {"gemma3_text", "num_key_value_heads", 4},
    {"gemma3_text", "head_dim", 256},
    {"gemma3_text", "max_position_embeddings", 131072},
    {"gemma3_text", "query_pre_attn_scalar", 256},
    {"gemma3_text", "sliding_window", 4096},
    {"gemma3_text", "rope_theta", 1e6},
    {"gemma3_text", "tie_word_embeddings", 1},
    {"gemma2", "num_attention_heads", 8},
    {"gemma2", "num_key_value_heads", 4},
    {"gemma2", "head_dim", 256},
    {"gemma2", "max_position_embeddings", 8192},
    {"gemma2", "query_pre_attn_scalar", 256},
    {"gemma2", "sliding_window", 4096},
    {"gemma2", "attn_logit_softcapping", 50},
    {"gemma2", "final_logit_softcapping", 30},
    {"gemma2", "tie_word_embeddings", 1},
    {"mistral", "num_key_value_heads", 8},
    {"mistral", "sliding_window", 4096},
    {"mistral", "max_position_embeddings", 131072},
    {"qwen2", "num_key_value_heads", 32},
    {"qwen2", "max_window_layers", 28},
    {"qwen3", "num_key_value_heads", 32},
    {"qwen3", "max_window_layers", 28},
    {"qwen3", "head_dim", 128},
    {"qwen3_moe", "num_key_value_heads", 4},
    {"qwen3_moe", "num_experts", 128},
    {"qwen3_moe", "num_experts_per_tok", 8},
    {"qwen3_moe", "moe_intermediate_size", 768},
    {"qwen3_moe", "decoder_sparse_step", 1},
    {"phi3", "rms_norm_eps", 1e-5},
    {"phi3", "original_max_position_embeddings", 4096},
    {"olmo2", "rms_norm_eps", 1e-5},
    {"smollm3", "num_key_value_heads", 4},
    {"smollm3", "no_rope_layer_interval", 4},
    {"smollm3", "rope_theta", 2e6},
    {"smollm3", "tie_word_embeddings", 1},
    {"gpt_oss", "rms_norm_eps", 1e-5},
    {"gpt_oss", "head_dim", 64},
    {"gpt_oss", "num_key_value_heads", 8},
    {"gpt_oss", "sliding_window", 128},
    {"gpt_oss", "rope_theta", 150000},
    {"gpt_oss", "attention_bias", 1},
    {"gpt_oss", "num_experts", 128},
    {"gpt_oss", "num_experts_per_tok", 4},
    {"gpt_oss", "max_position_embeddings", 131072},
    {"gpt_oss", "swiglu_alpha", 1.702},
    {"gpt_oss", "swiglu_limit", 7},
    {"", "rms_norm_eps", 1e-6},
    {"", "rope_theta", 10000},
    {"", "rope_local_base_freq", 10000},
};

/* ---- keys ---- */

static const mlxd_json *member(const mlxd_json *o, const char *key) {
    const mlxd_json *v = o ? mlxd_json_find(o, key) : NULL;
    return v && mlxd_json_get_kind(v) != MLXD_JSON_NULL ? v : NULL;
}

static bool default_of(const struct reader *r, const char *key, double *out) {
    for (size_t i = 0; i < MLXD_COUNT_OF(defaults); i++)
        if (strcmp(defaults[i].key, key) == 0 &&
            (!*defaults[i].hf || strcmp(defaults[i].hf, r->family->hf) == 0)) {
            *out = defaults[i].value;
            return true;
        }
    return false;
}

static void fail_at(struct reader *r, const char *key, const char *expected) {
    if (!r->err)
        r->err = mlxd_fail(r->why, MLXD_ERR_DATA, "%s: %s is not %s", r->path, key, expected);
}

/* A number of `o` in [min, max]; absent: `*fallback`, or required when that is NULL. */
static double number_in(struct reader *r, const mlxd_json *o, const char *key, double min,
                        double max, const double *fallback) {
    const mlxd_json *v = member(o, key);
    double n = fallback ? *fallback : 0;
    if (r->err)
        return 0;
    if (!v && !fallback)
        r->err = mlxd_fail(r->why, MLXD_ERR_DATA, "%s: %s is missing", r->path, key);
    else if (v && mlxd_json_get_double(v, &n) != MLXD_OK)
        fail_at(r, key, "a number");
    if (!r->err && !(n >= min && n <= max))
        r->err = mlxd_fail(r->why, MLXD_ERR_DATA, "%s: %s is %g, expected %g..%g", r->path, key, n,
                           min, max);
    return r->err ? 0 : n;
}

static double number(struct reader *r, const char *key, double min, double max,
                     const double *fallback) {
    double known;
    if (!fallback && default_of(r, key, &known))
        fallback = &known;
    return number_in(r, r->o, key, min, max, fallback);
}

static uint32_t integer(struct reader *r, const char *key, uint32_t min, uint32_t max,
                        const double *fallback) {
    double n = number(r, key, min, max, fallback);
    if (!r->err && n != floor(n))
        fail_at(r, key, "an integer");
    return r->err ? 0 : (uint32_t)n;
}

static bool flag(struct reader *r, const char *key) {
    const mlxd_json *v = member(r->o, key);
    double known = 0;
    bool out = default_of(r, key, &known) && known != 0;
    if (v && mlxd_json_get_bool(v, &out) != MLXD_OK)
        fail_at(r, key, "true or false");
    return out;
}

static void refuse_text(struct reader *r, const char *key, const mlxd_json *v,
                        const char *supported) {
    mlxd_slice s = {0};
    char shown[64];
    if (mlxd_json_get_str(v, &s) != MLXD_OK) {
        fail_at(r, key, "a string");
        return;
    }
    mlxd_config_copy_text(s, shown, sizeof shown);
    if (!r->err)
        r->err = mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                           "%s: %s \"%s\" is not supported (supported: %s)", r->path, key, shown,
                           supported);
}

/* ---- rope ---- */

#define ROPE_TYPES "default, linear, llama3, yarn, longrope"

static void read_list(mlxd_config *c, struct reader *r, const mlxd_json *o, const char *key,
                      float *out) {
    const mlxd_json *v = member(o, key);
    size_t n = c->rope_dims / 2;
    if (r->err)
        return;
    if (!v || mlxd_json_get_kind(v) != MLXD_JSON_ARRAY || mlxd_json_count(v) != n) {
        r->err = mlxd_fail(r->why, MLXD_ERR_DATA, "%s: %s is not a list of %zu numbers", r->path,
                           key, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        double x = 0;
        if (mlxd_json_get_double(mlxd_json_at(v, i), &x) != MLXD_OK || !(x >= 1e-6 && x <= 1e6)) {
            fail_at(r, key, "a list of sensible numbers");
            return;
        }
        out[i] = (float)x;
    }
}

static double yarn_share(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * mlxd_log_f64(factor) + 1;
}

static void read_yarn(struct reader *r, const mlxd_json *o, mlxd_rope_rule *rule) {
    const double fast = 32, slow = 1, none = 0;
    double mscale = number_in(r, o, "mscale", 0, 1e3, &none);
    double all = number_in(r, o, "mscale_all_dim", 0, 1e3, &none);
    const mlxd_json *truncate = member(o, "truncate");
    rule->kind = MLXD_ROPE_YARN;
    rule->high = number_in(r, o, "beta_fast", 1e-3, 1e6, &fast);
    rule->low = number_in(r, o, "beta_slow", 1e-3, 1e6, &slow);
    rule->truncate = true;
    if (truncate && mlxd_json_get_bool(truncate, &rule->truncate) != MLXD_OK)
        fail_at(r, "truncate", "true or false");
    double attention = mscale > 0 && all > 0
                           ? yarn_share(rule->factor, mscale) / yarn_share(rule->factor, all)
                           : yarn_share(rule->factor, 1);
    rule->attention = number_in(r, o, "attention_factor", 1e-3, 1e3, &attention);
}

static void read_longrope(mlxd_config *c, struct reader *r, const mlxd_json *o,
                          mlxd_rope_rule *rule) {
    double attention = 1;
    rule->kind = MLXD_ROPE_LONGROPE;
    read_list(c, r, o, "short_factor", c->rope_lists[MLXD_ROPE_SHORT]);
    read_list(c, r, o, "long_factor", c->rope_lists[MLXD_ROPE_LONG]);
    if (!r->err && rule->factor > 1 && rule->original > 1)
        attention = sqrt(1 + mlxd_log_f64(rule->factor) / mlxd_log_f64(rule->original));
    rule->attention = number_in(r, o, "attention_factor", 1e-3, 1e3, &attention);
}

/* The positions that a scaled model was first trained for: phi3 says so beside the rope object,
 * which then counts. */
static double original_of(struct reader *r, const mlxd_config *c, const mlxd_json *o) {
    const char *key = "original_max_position_embeddings";
    double known, context = c->context;
    if (member(r->o, key) || (default_of(r, key, &known) && !member(o, key)))
        return number(r, key, 1, MLXD_LIMIT_CONTEXT, NULL);
    return number_in(r, o, key, 1, MLXD_LIMIT_CONTEXT, &context);
}

/* One rope object, `o` may be NULL; theta stands in it or beside it. */
static void read_rule(mlxd_config *c, struct reader *r, const mlxd_json *o, const char *theta_key,
                      mlxd_rope_rule *rule) {
    const mlxd_json *type = member(o, "rope_type") ? member(o, "rope_type") : member(o, "type");
    *rule = (mlxd_rope_rule){.factor = 1, .attention = 1};
    rule->theta = member(o, "rope_theta") ? number_in(r, o, "rope_theta", 1, 1e12, NULL)
                                          : number(r, theta_key, 1, 1e12, NULL);
    if (!type || mlxd_json_is_str(type, "default"))
        return;
    const bool phi3 = strcmp(r->family->hf, "phi3") == 0;
    const bool longrope = mlxd_json_is_str(type, "longrope") || mlxd_json_is_str(type, "su") ||
                          (phi3 && mlxd_json_is_str(type, "yarn"));
    rule->original = original_of(r, c, o);
    double ratio = c->context / MLXD_MAX(rule->original, 1.0);
    const double *fallback =
        longrope || mlxd_json_is_str(type, "yarn") ? &ratio : NULL; /* required otherwise */
    rule->factor = number_in(r, o, "factor", 1e-6, 1e6, fallback);
    if (mlxd_json_is_str(type, "linear")) {
        rule->kind = MLXD_ROPE_LINEAR;
    } else if (mlxd_json_is_str(type, "llama3")) {
        rule->kind = MLXD_ROPE_LLAMA3;
        rule->low = number_in(r, o, "low_freq_factor", 1e-3, 1e6, NULL);
        rule->high = number_in(r, o, "high_freq_factor", 1e-3, 1e6, NULL);
        if (!r->err && rule->low == rule->high)
            fail_at(r, "high_freq_factor", "another number than low_freq_factor");
    } else if (longrope) {
        read_longrope(c, r, o, rule);
    } else if (mlxd_json_is_str(type, "yarn")) {
        read_yarn(r, o, rule);
    } else {
        r->err = MLXD_OK; /* the type's name is what matters */
        refuse_text(r, "rope type", type, ROPE_TYPES);
    }
}

static void read_rope(mlxd_config *c, struct reader *r) {
    const mlxd_json *v5 = member(r->o, "rope_parameters"), *o = v5;
    if (!o)
        o = member(r->o, "rope_scaling");
    if (o && mlxd_json_get_kind(o) != MLXD_JSON_OBJECT) {
        fail_at(r, v5 ? "rope_parameters" : "rope_scaling", "an object");
        return;
    }
    const mlxd_json *full = member(o, "full_attention"), *local = member(o, "sliding_attention");
    if ((full && mlxd_json_get_kind(full) != MLXD_JSON_OBJECT) ||
        (local && mlxd_json_get_kind(local) != MLXD_JSON_OBJECT)) {
        fail_at(r, "rope_parameters", "an object of objects");
        return;
    }
    const double whole = 1;
    double part = number(r, "partial_rotary_factor", 0, 1, &whole);
    part = number_in(r, full ? full : o, "partial_rotary_factor", 0, 1, &part);
    c->rope_dims = (uint32_t)(c->head_dim * part);
    read_rule(c, r, full || local ? full : o, "rope_theta", &c->rope[MLXD_ROPE_GLOBAL]);
    if (r->family->flags & MLXD_FAMILY_LOCAL_ROPE)
        read_rule(c, r, local, "rope_local_base_freq", &c->rope[MLXD_ROPE_LOCAL]);
}

/* ---- what a layer is ---- */

/* layer_types where it is given; otherwise the family's pattern. */
static void read_layer_types(mlxd_config *c, struct reader *r, bool windowed) {
    const mlxd_json *types = member(r->o, "layer_types");
    const uint32_t flags = r->family->flags;
    uint32_t pattern = r->family->pattern, after = 0;
    if (types &&
        (mlxd_json_get_kind(types) != MLXD_JSON_ARRAY || mlxd_json_count(types) != c->layers)) {
        fail_at(r, "layer_types", "a list with an entry for each layer");
        return;
    }
    if (flags & MLXD_FAMILY_LOCAL_ROPE) {
        double known = pattern;
        pattern = integer(r, "sliding_window_pattern", 1, MLXD_LIMIT_LAYERS, &known);
    }
    if (!types && !pattern && windowed && !(flags & MLXD_FAMILY_NO_ROPE))
        after = integer(r, "max_window_layers", 0, MLXD_LIMIT_LAYERS * 2, NULL);
    for (uint32_t i = 0; i < c->layers && !r->err; i++) {
        const mlxd_json *type = types ? mlxd_json_at(types, i) : NULL;
        bool window = flags & MLXD_FAMILY_NO_ROPE ? c->layer[i] & MLXD_LAYER_NO_ROPE
                      : pattern                   ? (i + 1) % pattern != 0
                                                  : i >= after;
        if (type && !mlxd_json_is_str(type, "sliding_attention") &&
            !mlxd_json_is_str(type, "full_attention"))
            refuse_text(r, "layer type", type, "sliding_attention, full_attention");
        if (type)
            window = mlxd_json_is_str(type, "sliding_attention");
        if (window && windowed)
            c->layer[i] |= MLXD_LAYER_WINDOW;
        if (window && flags & MLXD_FAMILY_LOCAL_ROPE)
            c->layer[i] |= MLXD_LAYER_LOCAL_ROPE;
    }
}

static void read_window(mlxd_config *c, struct reader *r) {
    const uint32_t flags = r->family->flags;
    const double none = 0;
    double known;
    if (!(flags & (MLXD_FAMILY_WINDOW_ALL | MLXD_FAMILY_WINDOW_TYPES)))
        return;
    /* null is "no window" here, and not the default */
    const mlxd_json *v = mlxd_json_find(r->o, "sliding_window");
    bool given =
        v ? mlxd_json_get_kind(v) != MLXD_JSON_NULL : default_of(r, "sliding_window", &known);
    if (given)
        c->window = integer(r, "sliding_window", 0, MLXD_LIMIT_CONTEXT, v ? &none : NULL);
    if (flags & MLXD_FAMILY_WINDOW_FLAG && !flag(r, "use_sliding_window"))
        c->window = 0;
    if (flags & MLXD_FAMILY_WINDOW_TYPES)
        read_layer_types(c, r, c->window > 0);
    for (uint32_t i = 0; i < c->layers && flags & MLXD_FAMILY_WINDOW_ALL && c->window; i++)
        c->layer[i] |= MLXD_LAYER_WINDOW;
}

static void read_no_rope(mlxd_config *c, struct reader *r) {
    const mlxd_json *list = member(r->o, "no_rope_layers");
    uint32_t every = integer(r, "no_rope_layer_interval", 1, MLXD_LIMIT_LAYERS, NULL);
    if (list &&
        (mlxd_json_get_kind(list) != MLXD_JSON_ARRAY || mlxd_json_count(list) < c->layers)) {
        fail_at(r, "no_rope_layers", "a list with an entry for each layer");
        return;
    }
    for (uint32_t i = 0; i < c->layers && !r->err; i++) {
        int64_t rotates = (i + 1) % every != 0;
        if (list && mlxd_json_get_int64(mlxd_json_at(list, i), &rotates) != MLXD_OK)
            fail_at(r, "no_rope_layers", "a list of 0 and 1");
        if (!rotates)
            c->layer[i] |= MLXD_LAYER_NO_ROPE;
    }
}

static void read_experts(mlxd_config *c, struct reader *r) {
    const mlxd_json *dense = member(r->o, "mlp_only_layers");
    const bool oss = r->family->flags & MLXD_FAMILY_GPT_OSS;
    const char *key = member(r->o, "num_local_experts") ? "num_local_experts" : "num_experts";
    const double every = 1;
    c->experts = integer(r, key, 1, MLXD_LIMIT_EXPERTS, NULL);
    c->experts_used = integer(r, "num_experts_per_tok", 1, MLXD_LIMIT_EXPERTS_USED, NULL);
    c->expert_ffn = oss ? c->ffn : integer(r, "moe_intermediate_size", 1, MLXD_LIMIT_FFN, NULL);
    c->expert_renorm = oss || flag(r, "norm_topk_prob");
    uint32_t step = integer(r, "decoder_sparse_step", 1, MLXD_LIMIT_LAYERS, oss ? &every : NULL);
    if (dense && mlxd_json_get_kind(dense) != MLXD_JSON_ARRAY)
        fail_at(r, "mlp_only_layers", "a list");
    for (uint32_t i = 0; i < c->layers && !r->err; i++)
        if ((i + 1) % step == 0)
            c->layer[i] |= MLXD_LAYER_EXPERTS;
    for (size_t i = 0; dense && !r->err && i < mlxd_json_count(dense); i++) {
        int64_t layer;
        if (mlxd_json_get_int64(mlxd_json_at(dense, i), &layer) != MLXD_OK || layer < 0)
            fail_at(r, "mlp_only_layers", "a list of layers");
        else if (layer < c->layers)
            c->layer[layer] &= (uint8_t)~MLXD_LAYER_EXPERTS;
    }
}

/* ---- the family's numbers ---- */

static void check_gate(struct reader *r) {
    const bool gemma = r->family->flags & MLXD_FAMILY_GEMMA;
    const char *key = gemma ? "hidden_activation" : "hidden_act";
    const char *want = gemma ? "gelu_pytorch_tanh" : "silu";
    const mlxd_json *v = member(r->o, key);
    if (v && !mlxd_json_is_str(v, want) && !(!gemma && mlxd_json_is_str(v, "swish")))
        refuse_text(r, key, v, want);
}

/* Gemma multiplies embeddings in the type of its weights, so the factor is rounded to that. */
static float gemma_embedding_scale(const mlxd_config *c, const struct reader *r) {
    static const char *const keys[] = {"dtype", "torch_dtype"};
    float scale = (float)sqrt(c->hidden);
    const mlxd_json *type = NULL;
    for (size_t i = 0; i < MLXD_COUNT_OF(keys) && !type; i++)
        type = member(r->o, keys[i]) ? member(r->o, keys[i]) : member(r->root, keys[i]);
    if (type && mlxd_json_is_str(type, "float16"))
        return mlxd_f16_to_f32(mlxd_f32_to_f16(scale));
    if (!type || !mlxd_json_is_str(type, "bfloat16"))
        return scale;
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bits += 0x7fff + (bits >> 16 & 1); /* round to nearest even */
    return mlxd_bf16_to_f32((uint16_t)(bits >> 16));
}

static void read_gemma(mlxd_config *c, struct reader *r) {
    const double none = 0;
    double known = 0;
    c->norm_plus = 1;
    c->embedding_scale = gemma_embedding_scale(c, r);
    c->attention_scale =
        mlxd_config_inverse_sqrt(number(r, "query_pre_attn_scalar", 1e-3, 1e6, NULL));
    /* null is "no cap", and so is absent in Gemma 3 */
    const struct {
        const char *key;
        float *out;
    } caps[] = {{"attn_logit_softcapping", &c->attention_softcap},
                {"final_logit_softcapping", &c->final_softcap}};
    for (size_t i = 0; i < MLXD_COUNT_OF(caps); i++)
        if (mlxd_json_find(r->o, caps[i].key) || default_of(r, caps[i].key, &known))
            *caps[i].out = (float)number(r, caps[i].key, 0, 1e6,
                                         mlxd_json_find(r->o, caps[i].key) ? &none : NULL);
    if (flag(r, "use_bidirectional_attention") && !r->err)
        r->err = mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                           "%s: use_bidirectional_attention is not supported", r->path);
}

static void read_family(mlxd_config *c, struct reader *r) {
    const uint32_t flags = r->family->flags;
    const double one = 1;
    c->attention_scale = mlxd_config_inverse_sqrt(c->head_dim);
    if (flags & MLXD_FAMILY_BIAS_KEY)
        c->qkv_bias = c->o_bias = flag(r, "attention_bias");
    c->ffn_bias = flags & MLXD_FAMILY_MLP_BIAS_KEY && flag(r, "mlp_bias");
    if (flags & MLXD_FAMILY_GEMMA)
        read_gemma(c, r);
    if (flags & MLXD_FAMILY_MULTIPLIERS) {
        c->attention_scale = (float)number(r, "attention_multiplier", 1e-9, 1e6, &one);
        c->embedding_scale = (float)number(r, "embedding_multiplier", 1e-9, 1e6, &one);
        c->residual_scale = (float)number(r, "residual_multiplier", 1e-9, 1e6, &one);
        c->logit_divisor = (float)number(r, "logits_scaling", 1e-9, 1e6, &one);
    }
    if (flags & MLXD_FAMILY_GPT_OSS) {
        double alpha = number(r, "swiglu_alpha", 0, 1e6, NULL);
        double limit = number(r, "swiglu_limit", 0, 1e6, NULL);
        if (!r->err && (alpha != 1.702 || limit != 7))
            r->err = mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                               "%s: swiglu_alpha %g and swiglu_limit %g are not supported "
                               "(supported: 1.702 and 7)",
                               r->path, alpha, limit);
    }
    if (flags & MLXD_FAMILY_NO_ROPE)
        read_no_rope(c, r);
    read_window(c, r);
    if (flags & MLXD_FAMILY_EXPERTS)
        read_experts(c, r);
    check_gate(r);
}

static void read_numbers(mlxd_config *c, struct reader *r) {
    c->layers = integer(r, "num_hidden_layers", 1, MLXD_LIMIT_LAYERS, NULL);
    c->hidden = integer(r, "hidden_size", 1, MLXD_LIMIT_HIDDEN, NULL);
    c->ffn = integer(r, "intermediate_size", 1, MLXD_LIMIT_FFN, NULL);
    c->heads = integer(r, "num_attention_heads", 1, MLXD_LIMIT_HEADS, NULL);
    c->context = integer(r, "max_position_embeddings", 1, MLXD_LIMIT_CONTEXT, NULL);
    c->rms_eps = (float)number(r, "rms_norm_eps", 0, 1, NULL);
    const mlxd_json *whole = member(r->root, "tie_word_embeddings"); /* a wrapper says it, too */
    c->tied = flag(r, "tie_word_embeddings");
    if (!c->tied && whole && mlxd_json_get_bool(whole, &c->tied) != MLXD_OK)
        fail_at(r, "tie_word_embeddings", "true or false");
    if (r->err)
        return;
    double heads = c->heads, known, head_dim = c->hidden / c->heads;
    bool kv_known = default_of(r, "num_key_value_heads", &known);
    c->kv_heads = integer(r, "num_key_value_heads", 1, c->heads, kv_known ? NULL : &heads);
    bool dim_known = default_of(r, "head_dim", &known);
    if (!member(r->o, "head_dim") && !dim_known && c->hidden % c->heads != 0)
        r->err = mlxd_fail(r->why, MLXD_ERR_DATA,
                           "%s: hidden_size %u is no multiple of num_attention_heads %u", r->path,
                           c->hidden, c->heads);
    c->head_dim = integer(r, "head_dim", 2, MLXD_LIMIT_HEAD_DIM, dim_known ? NULL : &head_dim);
}

/* The file's family; a model with a text_config is the language part of something larger. */
static mlxd_err find_family(struct reader *r) {
    const mlxd_json *text = member(r->root, "text_config");
    const mlxd_json *type = member(r->root, "model_type");
    mlxd_slice name = {0};
    r->o = r->root;
    if (text && mlxd_json_get_kind(text) == MLXD_JSON_OBJECT && type &&
        (mlxd_json_is_str(type, "gemma3") || mlxd_json_is_str(type, "mistral3"))) {
        r->o = text;
        type = member(text, "model_type");
    }
    if (!type || mlxd_json_get_str(type, &name) != MLXD_OK)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "%s: model_type is missing", r->path);
    r->family = mlxd_family_find(true, name);
    return r->family ? MLXD_OK : mlxd_family_refuse(true, name, r->why);
}

/* The last part of the path, which is what people call the model. */
static void name_model(mlxd_config *c, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    mlxd_slice name = {(const uint8_t *)path + begin, end - begin};
    mlxd_config_copy_text(name.len ? name : mlxd_slice_str(c->arch), c->name, sizeof c->name);
}

mlxd_err mlxd_config_read_hf(mlxd_config *c, const char *path, mlxd_slice json, mlxd_why *why) {
    struct reader r = {.path = "config.json", .why = why};
    mlxd_json_doc *doc;
    mlxd_why inner = {0};
    if (mlxd_json_parse(&doc, json, MLXD_LIMIT_JSON_DEPTH, &inner) != MLXD_OK)
        return mlxd_fail(why, MLXD_ERR_DATA, "config.json: %s", inner.text);
    r.root = mlxd_json_root(doc);
    if (mlxd_json_get_kind(r.root) != MLXD_JSON_OBJECT)
        fail_at(&r, "the text", "an object");
    if (!r.err)
        r.err = find_family(&r);
    if (!r.err) {
        mlxd_family_apply(c, r.family);
        name_model(c, path);
        read_numbers(c, &r);
    }
    if (!r.err)
        read_rope(c, &r);
    if (!r.err)
        read_family(c, &r);
    mlxd_json_close(doc);
    return r.err;
}
