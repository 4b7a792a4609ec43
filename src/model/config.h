/* config.h - the numbers of a model and the switches of its family, read from GGUF metadata or from
 * a Hugging Face config.json and checked against each other.
 *
 * All families share one forward pass (layers.h); what makes a family is here, as values: which
 * norms and biases there are, how heads are rotated, what the gate computes, which layers have a
 * window or experts. docs/models.md lists the families. One that is not known is refused by name
 * before any weight is read, and so is a rope scaling that this build does not compute.
 */
#ifndef MLXD_MODEL_CONFIG_H
#define MLXD_MODEL_CONFIG_H

#include "model/checkpoint.h"

/* ---- rotary positions ---- */

typedef enum mlxd_rope_kind {
    MLXD_ROPE_PLAIN,   /* period i = theta^(2i/dims) */
    MLXD_ROPE_LINEAR,  /* periods times `factor` */
    MLXD_ROPE_LLAMA3,  /* long periods times `factor`, short ones as they are, a ramp between */
    MLXD_ROPE_YARN,    /* the same, the ramp counted in dimensions */
    MLXD_ROPE_FACTORS, /* period i times number i of a list */
    MLXD_ROPE_LONGROPE /* of two such lists, the long one for contexts beyond `original` */
} mlxd_rope_kind;

/* How one table of rotations is made; rope.c has the formulas. */
typedef struct mlxd_rope_rule {
    mlxd_rope_kind kind;
    double theta;
    double factor;    /* LINEAR, LLAMA3, YARN */
    double low, high; /* LLAMA3: low and high frequency factor; YARN: beta_slow, beta_fast */
    double original;  /* LLAMA3, YARN, LONGROPE: positions the model was first trained for */
    double attention; /* cos and sin are multiplied by it; 1 = none */
    bool truncate;    /* YARN: the ramp begins and ends at whole dimensions */
} mlxd_rope_rule;

enum { MLXD_ROPE_GLOBAL, MLXD_ROPE_LOCAL, MLXD_ROPE_TABLES };
enum { MLXD_ROPE_SHORT, MLXD_ROPE_LONG, MLXD_ROPE_LISTS };

/* ---- switches ---- */

typedef enum mlxd_gate { MLXD_GATE_SWIGLU, MLXD_GATE_GEGLU, MLXD_GATE_CLIPPED } mlxd_gate;

typedef enum mlxd_qk_norm {
    MLXD_QK_NORM_NONE,
    MLXD_QK_NORM_HEAD, /* each head of q and k for itself */
    MLXD_QK_NORM_WIDE  /* all heads together */
} mlxd_qk_norm;

/* How gate and up lie in the checkpoint. */
typedef enum mlxd_gate_up {
    MLXD_GATE_UP_APART,
    MLXD_GATE_UP_HALVES, /* one tensor: all rows of gate, then all of up */
    MLXD_GATE_UP_TURNS   /* one tensor: row by row in turn */
} mlxd_gate_up;

/* What a layer is; bits. */
enum {
    MLXD_LAYER_WINDOW = 1,     /* attention sees `window` positions */
    MLXD_LAYER_LOCAL_ROPE = 2, /* rotates by the local table */
    MLXD_LAYER_NO_ROPE = 4,    /* does not rotate */
    MLXD_LAYER_EXPERTS = 8     /* feed-forward by a mixture of experts */
};

typedef struct mlxd_config {
    char arch[32];     /* GGUF's name of the family: "llama" */
    char name[128];    /* of the model, or the architecture when it has none */
    uint32_t layers;   /* transformer blocks */
    uint32_t hidden;   /* width of the residual stream */
    uint32_t ffn;      /* width of a dense feed-forward layer; 0 when there is none */
    uint32_t heads;    /* query heads */
    uint32_t kv_heads; /* key/value heads; heads % kv_heads == 0 (GQA) */
    uint32_t head_dim; /* of q, k and v */
    uint32_t vocab;    /* rows of the embedding */
    uint32_t context;  /* positions the model was trained for */
    uint32_t window;   /* of layers with MLXD_LAYER_WINDOW: a position sees itself and window-1 */
    uint8_t layer[MLXD_LIMIT_LAYERS]; /* bits */
    float rms_eps;
    bool tied; /* the head is the embedding */

    uint32_t rope_dims; /* leading dimensions of a head that are rotated; even */
    bool rope_pairs;    /* neighbours are rotated together, not halves ("NORM", not "NEOX") */
    mlxd_rope_rule rope[MLXD_ROPE_TABLES];
    uint32_t rope_tensors; /* lists of FACTORS (1) and LONGROPE (2) that are tensors, or 0: here */
    float rope_lists[MLXD_ROPE_LISTS][MLXD_LIMIT_HEAD_DIM / 2];

    mlxd_gate gate;
    mlxd_qk_norm qk_norm;
    mlxd_gate_up gate_up; /* of dense layers and experts */
    bool fused_qkv;       /* one tensor: rows of q, of k, of v */
    bool pre_norms;       /* in front of attention and feed-forward */
    bool post_norms;      /* behind them, before the residual is added */
    bool late_name;       /* the norm in front of feed-forward is called post_attention_norm */
    bool qkv_bias, o_bias, ffn_bias;
    bool sinks;      /* each head has a score that takes part in its softmax */
    float norm_plus; /* added to stored norm weights */

    float attention_scale;   /* of q.k */
    float attention_softcap; /* of scores; 0: none */
    float final_softcap;     /* of logits; 0: none */
    float embedding_scale;   /* embeddings are multiplied by it */
    float residual_scale;    /* so is what is added to the residual stream */
    float logit_divisor;     /* logits are divided by it */

    uint32_t experts, experts_used; /* of layers with experts; 0: the model has none */
    uint32_t expert_ffn;            /* width of an expert */
    bool expert_renorm;             /* weights of the chosen ones are made to sum up to 1 */
    bool expert_bias;               /* router and experts have biases */
} mlxd_config;

/* DATA: missing, contradictory or out of limits (the key is named); UNSUPPORTED: by name. Looks at
 * metadata, config.json and the names and shapes of tensors only. */
mlxd_err mlxd_config_read(mlxd_config *out, const mlxd_checkpoint *c,
                          mlxd_why *why) MLXD_MUST_CHECK;

/* Width of the widest thing that a down matrix reads. */
static inline uint32_t mlxd_config_wide(const mlxd_config *c) {
    return MLXD_MAX(c->ffn, c->expert_ffn);
}

#endif
