/* hf_name.c - see hf_name.h. A name is prefix, layer, module and suffix; each has its table. */
#include "model/hf_name.h"

#include <stdio.h>
#include <string.h>

/* Longer ones first. */
static const char *const prefixes[] = {"model.language_model.", "language_model.model.",
                                       "language_model.", "model."};

static const char *const foreign_prefixes[] = {
    "vision_tower.",          "model.vision_tower.",
    "multi_modal_projector.", "model.multi_modal_projector.",
    "vision_model.",          "visual.",
    "model.visual.",
};

static const char *const foreign_endings[] = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
                                              ".rotary_emb.sin_cached"};

/* In front of, or behind all layers. */
static const char *const outer[][2] = {
    {"embed_tokens", "token_embd"}, {"norm", "output_norm"}, {"lm_head", "output"}};

enum { PLAIN = 0, BARE = 1 }; /* BARE: suffixes without a dot, or none */

static const struct {
    const char *module, *canonical;
    int kind;
} modules[] = {
    {"input_layernorm", "attn_norm", PLAIN},
    {"post_attention_layernorm", "ffn_norm", PLAIN}, /* or POST_NORM */
    {"pre_feedforward_layernorm", "ffn_norm", PLAIN},
    {"post_feedforward_layernorm", "post_ffw_norm", PLAIN},
    {"self_attn.q_proj", "attn_q", PLAIN},
    {"self_attn.k_proj", "attn_k", PLAIN},
    {"self_attn.v_proj", "attn_v", PLAIN},
    {"self_attn.qkv_proj", "attn_qkv", PLAIN},
    {"self_attn.o_proj", "attn_output", PLAIN},
    {"self_attn.q_norm", "attn_q_norm", PLAIN},
    {"self_attn.k_norm", "attn_k_norm", PLAIN},
    {"self_attn.sinks", "attn_sinks", BARE},
    {"mlp.gate_proj", "ffn_gate", PLAIN},
    {"mlp.up_proj", "ffn_up", PLAIN},
    {"mlp.gate_up_proj", "ffn_up", PLAIN},
    {"mlp.down_proj", "ffn_down", PLAIN},
    {"mlp.gate", "ffn_gate_inp", PLAIN},
    {"mlp.router", "ffn_gate_inp", PLAIN},
    {"mlp.switch_mlp.gate_proj", "ffn_gate_exps", PLAIN},
    {"mlp.switch_mlp.up_proj", "ffn_up_exps", PLAIN},
    {"mlp.switch_mlp.down_proj", "ffn_down_exps", PLAIN},
    {"mlp.experts.gate_proj", "ffn_gate_exps", PLAIN},
    {"mlp.experts.up_proj", "ffn_up_exps", PLAIN},
    {"mlp.experts.down_proj", "ffn_down_exps", BARE},
    {"mlp.experts.gate_up_proj", "ffn_gate_up_exps", BARE},
};
static const char post_norm[] = "post_attention_norm";

static const struct {
    const char *suffix, *canonical;
    mlxd_hf_part part;
    int kind;
} suffixes[] = {
    {".weight", "weight", MLXD_HF_WEIGHT, PLAIN}, {".scales", "weight", MLXD_HF_SCALES, PLAIN},
    {".biases", "weight", MLXD_HF_BIASES, PLAIN}, {".bias", "bias", MLXD_HF_WEIGHT, PLAIN},
    {"", "weight", MLXD_HF_WEIGHT, BARE},         {"_blocks", "weight", MLXD_HF_WEIGHT, BARE},
    {"_scales", "weight", MLXD_HF_SCALES, BARE},  {"_bias", "bias", MLXD_HF_WEIGHT, BARE},
};

static const char *after(const char *text, const char *prefix) {
    size_t len = strlen(prefix);
    return strncmp(text, prefix, len) == 0 ? text + len : NULL;
}

static bool ends_with(const char *text, const char *ending) {
    size_t len = strlen(text), tail = strlen(ending);
    return len >= tail && strcmp(text + len - tail, ending) == 0;
}

/* A number below `max` in plain decimal and the dot behind it; NULL: there is none. */
static const char *take_number(const char *text, uint32_t max, uint32_t *out) {
    uint32_t n = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9' && n < max; p++)
        n = n * 10 + (uint32_t)(*p - '0');
    if (p == text || *p != '.' || n >= max || (*text == '0' && p - text > 1))
        return NULL;
    *out = n;
    return p + 1;
}

static bool is_foreign(const char *stored) {
    for (size_t i = 0; i < MLXD_COUNT_OF(foreign_prefixes); i++)
        if (after(stored, foreign_prefixes[i]))
            return true;
    for (size_t i = 0; i < MLXD_COUNT_OF(foreign_endings); i++)
        if (ends_with(stored, foreign_endings[i]))
            return true;
    return false;
}

/* Sets the part of `out` whose suffix this is; *name = what it becomes. */
static bool take_suffix(const char *suffix, bool bare, mlxd_hf_name *out, const char **name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(suffixes); i++) {
        if (strcmp(suffix, suffixes[i].suffix) != 0 || (suffixes[i].kind == BARE && !bare))
            continue;
        out->part = suffixes[i].part;
        out->blocks = ends_with(suffix, "_blocks") || ends_with(suffix, "_scales");
        *name = suffixes[i].canonical;
        return true;
    }
    return false;
}

static bool read_outer(const char *rest, mlxd_hf_name *out) {
    const char *suffix, *name;
    for (size_t i = 0; i < MLXD_COUNT_OF(outer); i++)
        if ((suffix = after(rest, outer[i][0])) && take_suffix(suffix, false, out, &name)) {
            snprintf(out->canonical, sizeof out->canonical, "%s.%s", outer[i][1], name);
            return true;
        }
    return false;
}

/* "mlp.experts.17.up_proj.weight": the module without the number, which goes to `out`. */
static const char *take_expert(const char *rest, char *room, size_t size, mlxd_hf_name *out) {
    const char *number = after(rest, "mlp.experts.");
    const char *tail = number ? take_number(number, MLXD_LIMIT_EXPERTS, &out->expert) : NULL;
    if (!tail)
        return rest;
    snprintf(room, size, "mlp.switch_mlp.%s", tail);
    return room;
}

static void read_layer(uint32_t layer, const char *rest, bool post_norms, mlxd_hf_name *out) {
    char room[MLXD_LIMIT_TENSOR_NAME + 16];
    const char *path = take_expert(rest, room, sizeof room, out), *suffix, *name;
    for (size_t i = 0; i < MLXD_COUNT_OF(modules); i++) {
        bool bare = modules[i].kind == BARE;
        if (!(suffix = after(path, modules[i].module)) || !take_suffix(suffix, bare, out, &name))
            continue;
        bool post = post_norms && strcmp(modules[i].module, "post_attention_layernorm") == 0;
        out->transposed = bare && !*suffix && ends_with(modules[i].canonical, "_exps");
        snprintf(out->canonical, sizeof out->canonical, "blk.%u.%s.%s", layer,
                 post ? post_norm : modules[i].canonical, name);
        return;
    }
    out->expert = MLXD_HF_NO_EXPERT;
    snprintf(out->canonical, sizeof out->canonical, "blk.%u.%s", layer, rest);
}

bool mlxd_hf_name_read(const char *stored, bool post_norms, mlxd_hf_name *out) {
    const char *rest = stored, *tail = NULL;
    uint32_t layer;
    MLXD_ASSERT(strlen(stored) < MLXD_LIMIT_TENSOR_NAME);
    *out = (mlxd_hf_name){.expert = MLXD_HF_NO_EXPERT};
    if (is_foreign(stored))
        return false;
    for (size_t i = 0; i < MLXD_COUNT_OF(prefixes) && rest == stored; i++)
        if ((tail = after(stored, prefixes[i])))
            rest = tail;
    tail = after(rest, "layers.");
    tail = tail ? take_number(tail, MLXD_LIMIT_LAYERS, &layer) : NULL;
    if (tail)
        read_layer(layer, tail, post_norms, out);
    else if (!read_outer(rest, out))
        snprintf(out->canonical, sizeof out->canonical, "%s", stored);
    return true;
}

bool mlxd_hf_has_post_norms(const char *model_type) {
    static const char *const families[] = {"gemma2", "gemma3", "gemma3_text", "olmo2", "gpt_oss"};
    for (size_t i = 0; i < MLXD_COUNT_OF(families); i++)
        if (strcmp(model_type, families[i]) == 0)
            return true;
    return false;
}
