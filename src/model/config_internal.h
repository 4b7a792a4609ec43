/* config_internal.h - what config.c (families, checks) and its two readers share. */
#ifndef MLXD_MODEL_CONFIG_INTERNAL_H
#define MLXD_MODEL_CONFIG_INTERNAL_H

#include "model/config.h"

/* What a family is, whatever container its checkpoint has. */
enum {
    MLXD_FAMILY_PAIRS = 1 << 0,        /* GGUF files have q and k permuted: rotate pairs */
    MLXD_FAMILY_QKV_BIAS = 1 << 1,     /* always */
    MLXD_FAMILY_BIAS_KEY = 1 << 2,     /* config.json's attention_bias counts */
    MLXD_FAMILY_MLP_BIAS_KEY = 1 << 3, /* and its mlp_bias */
    MLXD_FAMILY_HEAD_NORM = 1 << 4,    /* q and k, per head */
    MLXD_FAMILY_WIDE_NORM = 1 << 5,    /* q and k, over all heads */
    MLXD_FAMILY_POST_NORMS = 1 << 6,   /* beside the ones in front */
    MLXD_FAMILY_ONLY_POST = 1 << 7,    /* instead of them */
    MLXD_FAMILY_GEMMA = 1 << 8,        /* gelu, (1+w) norms, scaled embeddings, own q.k scale */
    MLXD_FAMILY_LOCAL_ROPE = 1 << 9,   /* layers with a window have a rope of their own */
    MLXD_FAMILY_EXPERTS = 1 << 11,
    MLXD_FAMILY_GPT_OSS = 1 << 12,      /* clipped gate, sinks, biases everywhere */
    MLXD_FAMILY_MULTIPLIERS = 1 << 13,  /* granite's */
    MLXD_FAMILY_WINDOW_ALL = 1 << 14,   /* sliding_window is of all layers */
    MLXD_FAMILY_WINDOW_TYPES = 1 << 15, /* of those that layer_types or a pattern names */
    MLXD_FAMILY_WINDOW_FLAG = 1 << 16,  /* only with use_sliding_window */
    MLXD_FAMILY_NO_ROPE = 1 << 17       /* every fourth layer does not rotate */
};

typedef struct mlxd_family {
    const char *gguf, *hf; /* general.architecture, model_type; NULL: none */
    uint32_t flags;
    uint32_t pattern; /* WINDOW_TYPES: one layer in so many sees everything; 0: by config only */
} mlxd_family;

const mlxd_family *mlxd_family_find(bool hf, mlxd_slice name);
/* UNSUPPORTED, with the list of what is. */
mlxd_err mlxd_family_refuse(bool hf, mlxd_slice name, mlxd_why *why);
/* What follows from the family alone. */
void mlxd_family_apply(mlxd_config *c, const mlxd_family *f);

mlxd_err mlxd_config_read_gguf(mlxd_config *c, const mlxd_checkpoint *f, mlxd_why *why);
/* `path`: of the directory; its last part becomes the model's name. */
mlxd_err mlxd_config_read_hf(mlxd_config *c, const char *path, mlxd_slice json, mlxd_why *why);
/* What must hold between the numbers of any model. */
mlxd_err mlxd_config_check(const mlxd_config *c, mlxd_why *why);

/* Copies text that comes from a file: control bytes become '?', and it is cut to fit. */
void mlxd_config_copy_text(mlxd_slice from, char *out, size_t size);
/* 1/sqrt(x) as the forward pass has always computed it. */
float mlxd_config_inverse_sqrt(double x);

#endif
