/* config.h - the numbers of a model, read from GGUF metadata and checked against each other.
 *
 * Families are recognised by `general.architecture`; one that is not known is refused by name
 * before any weight is read, and so is a rope scaling that this build does not compute.
 */
#ifndef MLXD_MODEL_CONFIG_H
#define MLXD_MODEL_CONFIG_H

#include "format/gguf.h"

typedef struct mlxd_config {
    char arch[32];      /* "llama" */
    char name[128];     /* general.name, or the architecture when absent */
    uint32_t layers;    /* transformer blocks */
    uint32_t hidden;    /* width of the residual stream */
    uint32_t ffn;       /* width of the feed-forward layer */
    uint32_t heads;     /* query heads */
    uint32_t kv_heads;  /* key/value heads; heads % kv_heads == 0 (GQA) */
    uint32_t head_dim;  /* of q, k and v */
    uint32_t rope_dims; /* leading dimensions of a head that are rotated; even */
    uint32_t vocab;     /* rows of the embedding */
    uint32_t context;   /* positions the model was trained for */
    float rms_eps;
    double rope_theta;
    double rope_scale; /* positions are divided by it (linear scaling); 1 = none */
    bool tied;         /* the head is the embedding */
} mlxd_config;

/* DATA: missing, contradictory or out of limits (the key is named); UNSUPPORTED: by name. */
mlxd_err mlxd_config_read(mlxd_config *out, const mlxd_gguf *g, mlxd_why *why) MLXD_MUST_CHECK;

#endif
