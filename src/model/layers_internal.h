/* layers_internal.h - what layers.c (loading, memory) and layers_step.c (computing) share. */
#ifndef MLXD_MODEL_LAYERS_INTERNAL_H
#define MLXD_MODEL_LAYERS_INTERNAL_H

#include "model/layers.h"

#include <stdatomic.h>

enum { MLXD_Q, MLXD_K, MLXD_V, MLXD_O, MLXD_GATE, MLXD_UP, MLXD_DOWN, MLXD_LAYER_MATRICES };

typedef struct mlxd_layer {
    const float *attn_norm, *ffn_norm;
    mlxd_matrix m[MLXD_LAYER_MATRICES];
} mlxd_layer;

/* A step this small has its norms computed by every thread for itself, which is cheaper than
 * waiting for each other: tokens times hidden size. */
#define MLXD_OWN_NORM_MAX 4096u

typedef struct mlxd_inputs {
    float *x;
    mlxd_quants z;
} mlxd_inputs;

/* One thread's own normed and quantized rows. */
typedef struct mlxd_own {
    _Alignas(64) uint64_t phase; /* for which they were made */
    mlxd_quants z;
    float *x;
} mlxd_own;

/* Consecutive tokens of one row whose attention is one task per kv head. */
typedef struct mlxd_span {
    uint32_t row, first, count; /* first: index in the step */
} mlxd_span;

struct mlxd_layers {
    mlxd_config c;
    const mlxd_kernels *k;
    uint32_t first, end, tokens_max;
    mlxd_weights *weights;
    mlxd_layer *layers;
    mlxd_rope rope;
    uint64_t phase; /* grows with each norm */
    /* working memory of one step, carved out of `work` */
    mlxd_inputs in;  /* of q, k, v, of o, and of gate and up */
    mlxd_inputs mid; /* of down; x only where a down matrix is float */
    float *q, *k_new, *v_new;
    float *compact; /* hidden states that are wanted, when not all are */
    mlxd_own *own;  /* [threads] */
    /* one decoding token: its partials, page by page */
    float *part_out;              /* [pages][heads][head_dim] */
    mlxd_query *parts;            /* [pages][heads] */
    _Atomic uint32_t *parts_left; /* [kv_heads] */
    mlxd_kv_session **sessions;   /* of the rows, [tokens_max] */
    uint32_t *row_of;             /* row index of each token */
    uint32_t *out_of;             /* of each token: its place among the wanted ones */
    mlxd_span *spans;
    uint8_t *work;
    size_t work_bytes;
};

#endif
