/* config.c - see config.h: the table of families, and what must hold for each. config_gguf.c and
 * config_hf.c read. */
#include "model/config_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define QWEN_WINDOW (MLXD_FAMILY_WINDOW_TYPES | MLXD_FAMILY_WINDOW_FLAG)
#define GEMMA_ALL (MLXD_FAMILY_GEMMA | MLXD_FAMILY_POST_NORMS | MLXD_FAMILY_WINDOW_TYPES)

static const mlxd_family families[] = {
    {"llama", "llama", MLXD_FAMILY_PAIRS | MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_MLP_BIAS_KEY, 0},
    {"mistral3", "mistral", MLXD_FAMILY_PAIRS | MLXD_FAMILY_WINDOW_ALL, 0},
    {"qwen2", "qwen2", MLXD_FAMILY_QKV_BIAS | QWEN_WINDOW, 0},
    {"qwen3", "qwen3", MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_HEAD_NORM | QWEN_WINDOW, 0},
    {"qwen3moe", "qwen3_moe",
     MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_HEAD_NORM | MLXD_FAMILY_EXPERTS | MLXD_FAMILY_WINDOW_ALL |
         MLXD_FAMILY_WINDOW_FLAG,
     0},
    {"gemma2", "gemma2", MLXD_FAMILY_BIAS_KEY | GEMMA_ALL, 2},
    {"gemma3", "gemma3_text",
     MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_HEAD_NORM | MLXD_FAMILY_LOCAL_ROPE | GEMMA_ALL, 6},
    {"phi3", "phi3", MLXD_FAMILY_WINDOW_ALL, 0},
    {"granite", "granite",
     MLXD_FAMILY_PAIRS | MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_MLP_BIAS_KEY | MLXD_FAMILY_MULTIPLIERS,
     0},
    {"olmo2", "olmo2", MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_WIDE_NORM | MLXD_FAMILY_ONLY_POST, 0},
    {"smollm3", "smollm3",
     MLXD_FAMILY_PAIRS | MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_MLP_BIAS_KEY | MLXD_FAMILY_NO_ROPE |
         MLXD_FAMILY_WINDOW_TYPES | MLXD_FAMILY_WINDOW_FLAG,
     0},
    {"gpt-oss", "gpt_oss",
     MLXD_FAMILY_BIAS_KEY | MLXD_FAMILY_EXPERTS | MLXD_FAMILY_GPT_OSS | MLXD_FAMILY_WINDOW_TYPES,
     2},
};

const mlxd_family *mlxd_family_find(bool hf, mlxd_slice name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(families); i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(hf ? families[i].hf : families[i].gguf)))
            return &families[i];
    return NULL;
}

mlxd_err mlxd_family_refuse(bool hf, mlxd_slice name, mlxd_why *why) {
    char list[256], shown[64];
    size_t at = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(families); i++) {
        int n = snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "",
                         hf ? families[i].hf : families[i].gguf);
        at += (size_t)n;
        MLXD_ASSERT(n > 0 && at < sizeof list);
    }
    mlxd_config_copy_text(name, shown, sizeof shown);
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s \"%s\" is not supported (supported: %s)",
                     hf ? "model_type" : "architecture", shown, list);
}

void mlxd_family_apply(mlxd_config *c, const mlxd_family *f) {
    const uint32_t flags = f->flags;
    snprintf(c->arch, sizeof c->arch, "%s", f->gguf);
    c->pre_norms = !(flags & MLXD_FAMILY_ONLY_POST);
    c->post_norms = flags & (MLXD_FAMILY_ONLY_POST | MLXD_FAMILY_POST_NORMS);
    c->qk_norm = flags & MLXD_FAMILY_HEAD_NORM   ? MLXD_QK_NORM_HEAD
                 : flags & MLXD_FAMILY_WIDE_NORM ? MLXD_QK_NORM_WIDE
                                                 : MLXD_QK_NORM_NONE;
    c->gate = flags & MLXD_FAMILY_GEMMA     ? MLXD_GATE_GEGLU
              : flags & MLXD_FAMILY_GPT_OSS ? MLXD_GATE_CLIPPED
                                            : MLXD_GATE_SWIGLU;
    c->qkv_bias = flags & (MLXD_FAMILY_QKV_BIAS | MLXD_FAMILY_GPT_OSS);
    c->o_bias = c->sinks = c->expert_bias = flags & MLXD_FAMILY_GPT_OSS;
    c->expert_renorm = flags & MLXD_FAMILY_EXPERTS;
    c->embedding_scale = c->residual_scale = c->logit_divisor = 1;
    for (int i = 0; i < MLXD_ROPE_TABLES; i++)
        c->rope[i] = (mlxd_rope_rule){.theta = 10000, .factor = 1, .attention = 1};
}

void mlxd_config_copy_text(mlxd_slice from, char *out, size_t size) {
    size_t n = MLXD_MIN(from.len, size - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = from.data[i] < 0x20 || from.data[i] == 0x7f ? '?' : (char)from.data[i];
    out[n] = 0;
}

float mlxd_config_inverse_sqrt(double x) {
    return 1.0f / sqrtf((float)x);
}

/* ---- checks ---- */

mlxd_err mlxd_config_check(const mlxd_config *c, mlxd_why *why) {
    if (c->heads % c->kv_heads != 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%u attention heads are no multiple of %u key/value heads", c->heads,
                         c->kv_heads);
    if (c->rope_dims % 2 != 0 || c->rope_dims > c->head_dim || c->rope_dims == 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "rope dimension count is %u, expected an even number up to %u",
                         c->rope_dims, c->head_dim);
    if (c->experts && c->experts_used > c->experts)
        return mlxd_fail(why, MLXD_ERR_DATA, "%u experts are used of %u", c->experts_used,
                         c->experts);
    bool dense = false, window = false, experts = false;
    for (uint32_t i = 0; i < c->layers; i++) {
        dense = dense || !(c->layer[i] & MLXD_LAYER_EXPERTS);
        experts = experts || c->layer[i] & MLXD_LAYER_EXPERTS;
        window = window || c->layer[i] & MLXD_LAYER_WINDOW;
    }
    if (dense && !c->ffn)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "a layer has no experts, and no feed-forward width is given");
    if (experts && (!c->experts || !c->experts_used || !c->expert_ffn))
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "layers have experts, and their numbers or width are not given");
    if (window && !c->window)
        return mlxd_fail(why, MLXD_ERR_DATA, "layers have a window, and its size is not given");
    return MLXD_OK;
}

static bool has_in_some_layer(const mlxd_config *c, const mlxd_checkpoint *f, const char *name) {
    char full[MLXD_LIMIT_GGUF_NAME];
    for (uint32_t i = 0; i < c->layers; i++) {
        snprintf(full, sizeof full, "blk.%u.%s", i, name);
        if (mlxd_checkpoint_find(f, full))
            return true;
    }
    return false;
}

/* What the same family's checkpoints store in different ways. */
static void read_layout(mlxd_config *c, const mlxd_checkpoint *f) {
    c->fused_qkv = has_in_some_layer(c, f, "attn_qkv.weight");
    if (has_in_some_layer(c, f, "ffn_gate_up_exps.weight"))
        c->gate_up = MLXD_GATE_UP_TURNS;
    else if (has_in_some_layer(c, f, "ffn_up.weight") &&
             !has_in_some_layer(c, f, "ffn_gate.weight"))
        c->gate_up = MLXD_GATE_UP_HALVES;
    c->late_name = c->pre_norms && !c->post_norms && !has_in_some_layer(c, f, "ffn_norm.weight") &&
                   has_in_some_layer(c, f, "post_attention_norm.weight");
}

mlxd_err mlxd_config_read(mlxd_config *c, const mlxd_checkpoint *f, mlxd_why *why) {
    mlxd_slice json = mlxd_checkpoint_document(f, "config.json");
    *c = (mlxd_config){0};
    mlxd_err err = mlxd_checkpoint_gguf(f) ? mlxd_config_read_gguf(c, f, why)
                   : json.len > 0 ? mlxd_config_read_hf(c, mlxd_checkpoint_path(f), json, why)
                                  : mlxd_fail(why, MLXD_ERR_DATA, "%s: there is no config.json",
                                              mlxd_checkpoint_path(f));
    if (err)
        return err;
    const mlxd_checkpoint_tensor *embd = mlxd_checkpoint_find(f, "token_embd.weight");
    if (!embd || embd->n_dims != 2 || embd->dims[1] < 1 || embd->dims[1] > MLXD_LIMIT_VOCAB)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "tensor token_embd.weight is missing or has no sensible shape");
    c->vocab = (uint32_t)embd->dims[1];
    if (!mlxd_checkpoint_find(f, "output.weight")) {
        if (!c->tied && !mlxd_checkpoint_gguf(f)) /* GGUF has no word for it */
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "tensor lm_head.weight is missing, and config.json does not say "
                             "tie_word_embeddings");
        c->tied = true;
    }
    read_layout(c, f);
    return mlxd_config_check(c, why);
}
