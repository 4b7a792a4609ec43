/* layers_internal.h - what the parts of a range of layers share: layers.c (tensors, memory),
 * layers_step.c (a step), layers_attention.c and layers_ffn.c (the halves of a layer).
 */
#ifndef MLXD_MODEL_LAYERS_INTERNAL_H
#define MLXD_MODEL_LAYERS_INTERNAL_H

#include "model/layers.h"

#include <stdatomic.h>

enum { MLXD_Q, MLXD_K, MLXD_V, MLXD_O, MLXD_GATE, MLXD_UP, MLXD_DOWN, MLXD_LAYER_MATRICES };

/* Vectors are NULL where the family has none. */
typedef struct mlxd_layer {
    uint8_t kind; /* bits of config.h */
    const float *attn_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm;
    const float *q_norm, *k_norm;
    const float *sinks;                     /* [heads] */
    const float *bias[MLXD_LAYER_MATRICES]; /* of experts: one after the other */
    const float *router_bias;
    mlxd_matrix router;
    mlxd_matrix one[MLXD_LAYER_MATRICES]; /* what is there once */
    mlxd_matrix *m[MLXD_LAYER_MATRICES];  /* into `one`, or the experts' matrices */
} mlxd_layer;

/* A step this small has its norms computed by every thread for itself, which is cheaper than
 * waiting for each other: tokens times hidden size. */
#define MLXD_OWN_NORM_MAX 4096u

#define MLXD_PASS_BLOCK 128 /* tokens that a piece works on at a time */
#define MLXD_PASS_SPAN 16   /* tokens of a span at most */

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

/* An expert and the tokens that chose it: its slots, ascending by token. The dense layer is one
 * group of all tokens. */
typedef struct mlxd_group {
    uint32_t expert, first, count; /* first: of its slots */
} mlxd_group;

/* Who computes what in a layer with experts. A slot is a token at one of its experts; slots of an
 * expert follow each other. */
typedef struct mlxd_routing {
    float *logits;       /* [tokens][experts] */
    uint32_t *chosen;    /* [tokens][used], ascending */
    float *weight;       /* [tokens][used] */
    uint32_t *first;     /* [experts + 1]: of each expert's slots */
    uint32_t *token;     /* [slots] */
    uint32_t *group;     /* [slots] */
    float *share;        /* [slots]: weight of the expert's result */
    mlxd_inputs in, mid; /* [slots]: of gate and up, of down */
} mlxd_routing;

struct mlxd_layers {
    mlxd_config c;
    const mlxd_kernels *k;
    uint32_t first, end, tokens_max;
    mlxd_weights *weights;
    mlxd_layer *layers;
    mlxd_matrix *experts;                     /* of all layers */
    const float *rope_lists[MLXD_ROPE_LISTS]; /* where they are tensors */
    mlxd_rope rope[MLXD_ROPE_TABLES];         /* the local one only where a layer rotates by it */
    uint64_t phase;                           /* grows with each norm */
    /* working memory of one step, carved out of `work` */
    mlxd_inputs in;  /* of q, k, v, of o, and of gate and up */
    mlxd_inputs mid; /* of down; x only where a down matrix is float */
    float *q, *k_new, *v_new;
    float *compact; /* hidden states that are wanted, when not all are */
    float *branch;  /* what is added to the residual stream, where more than a sum is to do */
    mlxd_own *own;  /* [threads] */
    mlxd_group *groups;
    mlxd_routing routing;
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

/* What the tasks of a step share. */
typedef struct mlxd_pass {
    mlxd_layers *l;
    mlxd_kv *kv;
    const mlxd_row *rows;
    float *hidden;     /* of the tokens that are computed now */
    size_t n, n_spans; /* tokens; spans that cover them */
    size_t n_out;      /* tokens that attention and what follows it compute */
    bool own_norm;     /* every thread norms for itself */
    const mlxd_layer *layer;
    uint32_t layer_index;  /* in the KV cache */
    const mlxd_rope *rope; /* NULL: this layer does not rotate */
    uint32_t window;       /* positions that attention sees; UINT32_MAX: all */
    const float *norm;     /* weights of the current norm; NULL: none */
    bool quantize;         /* a matrix that reads the current inputs is quantized */
    size_t pieces, tasks;  /* of the current phase */
    size_t splits;         /* parts of the pages of a decoding token */
    /* a product that goes to the residual stream, and what is done to it before */
    const mlxd_matrix *matrix;
    mlxd_inputs from;
    float *to; /* the stream itself, or l->branch */
    const float *bias, *post_norm;
    size_t n_groups, group_max; /* experts at work; most slots of one */
} mlxd_pass;

/* ---- layers_tensors.c ---- */

#define MLXD_LAYER_SPECS_MAX 32

/* Says where the matrices of layer `index` are: `experts` has 3 * c->experts of them. */
void mlxd_layer_init(const mlxd_config *c, uint32_t index, mlxd_layer *layer, mlxd_matrix *experts);
/* The tensors of an initialized layer; returns their number. */
size_t mlxd_layer_specs(const mlxd_config *c, uint32_t index, mlxd_layer *layer,
                        mlxd_weight_spec specs[MLXD_LAYER_SPECS_MAX]);
/* Those with factors of rotations, which every range of layers needs. */
size_t mlxd_layers_rope_specs(const mlxd_config *c, const float *lists[MLXD_ROPE_LISTS],
                              mlxd_weight_spec specs[MLXD_ROPE_LISTS]);
/* UNSUPPORTED when a layer of [first, end) has a tensor that would be left out. */
mlxd_err mlxd_layers_check_extras(const mlxd_checkpoint *f, const mlxd_config *c, uint32_t first,
                                  uint32_t end, mlxd_why *why);

/* ---- layers_step.c: helpers of the halves ---- */

static inline size_t mlxd_pass_ceil(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* Runs fn over tasks of neighbouring pieces, each of which reads `bytes` of weights. */
void mlxd_pass_pieces(mlxd_pass *s, mlxd_pool *pool, size_t pieces, size_t bytes, mlxd_pool_fn fn);
/* The pieces of a task. */
void mlxd_pass_pieces_of(const mlxd_pass *s, size_t task, size_t *from, size_t *to);
/* Bytes of `rows` rows of a matrix. */
size_t mlxd_pass_bytes(const mlxd_matrix *m, size_t rows);
/* Columns [col0, col0 + cols), whole groups, of token t of n tokens of k columns. */
void mlxd_pass_quantize(const mlxd_pass *s, const float *x, size_t col0, size_t cols, mlxd_quants z,
                        size_t n, size_t k, size_t t);
/* Norms the residual stream: now, or (own_norm) when a thread asks for it. s->quantize says
 * whether the results are quantized, too. */
void mlxd_pass_norm(mlxd_pass *s, mlxd_pool *pool, const float *norm, bool own_norm);
bool mlxd_pass_is_small(const mlxd_pass *s);
mlxd_activations mlxd_pass_normed(mlxd_pass *s, unsigned thread);
/* Position of token t of the step. */
uint32_t mlxd_pass_position(const mlxd_pass *s, size_t t);
/* Adds the product of `m` with `a` to the residual stream, after `bias`, `norm` and the family's
 * factor, where there are any. */
void mlxd_pass_residual(mlxd_pass *s, mlxd_pool *pool, const mlxd_matrix *m, mlxd_inputs from,
                        const float *bias, const float *post_norm);
/* What is in l->branch goes to the residual stream in the same way. */
void mlxd_pass_join(mlxd_pass *s, mlxd_pool *pool, const float *bias, const float *post_norm);

/* ---- the halves of a layer ---- */

/* q, k and v of all tokens: K and V go to the cache. */
void mlxd_pass_qkv(mlxd_pass *s, mlxd_pool *pool);
/* Attention of the tokens in the spans, and its result to the residual stream. */
void mlxd_pass_attention(mlxd_pass *s, mlxd_pool *pool);
/* Feed-forward, dense or by experts. */
void mlxd_pass_ffn(mlxd_pass *s, mlxd_pool *pool);

/* ---- layers_ffn.c ---- */

/* A dense layer's matrices or an expert's, and where what its down matrix reads goes. */
typedef struct mlxd_expert {
    const mlxd_matrix *gate, *up, *down;
    const float *gate_bias, *up_bias; /* both or neither */
    mlxd_inputs mid;
} mlxd_expert;

/* Pieces [from, to) of gate and up: 32 rows of each, for all tokens of `a`. */
void mlxd_pass_gate_up(const mlxd_pass *s, const mlxd_expert *e, const mlxd_activations *a,
                       size_t from, size_t to);
size_t mlxd_pass_gate_up_pieces(const mlxd_matrix *gate);
/* Bytes of weights that a piece reads. */
size_t mlxd_pass_gate_up_bytes(const mlxd_matrix *gate, const mlxd_matrix *up);

/* ---- layers_experts.c ---- */

/* Feed-forward by experts of the normed tokens. */
void mlxd_pass_experts(mlxd_pass *s, mlxd_pool *pool);
/* Weights of the `used` experts with the largest logits, lowest number first among equals; ids
 * ascend. With renorm they sum up to 1, else the softmax over all experts does. */
void mlxd_experts_choose(const float *logits, uint32_t experts, uint32_t used, bool renorm,
                         uint32_t *ids, float *weights);

#endif
