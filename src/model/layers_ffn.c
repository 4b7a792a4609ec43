/* layers_ffn.c - the second half of a layer: gate, up and down; see layers_step.c. Experts are in
 * layers_experts.c, which shares gate_up with the dense layer.
 *
 *   gate, up    32 rows:     both products > biases > gate's function > quantize
 *   down        rows:        product, added to the residual stream
 */
#include "model/layers_internal.h"

#define ROWS MLXD_PANEL_ROWS
#define BLOCK MLXD_PASS_BLOCK
#define PIECE_ROWS MLXD_GROUP /* of gate and up: one group of down's input */

/* The gate's function and, for a quantized down matrix, the quantization: columns [col0, col0 +
 * cols) of down's input, tokens t0 ... t0+n-1 of `all`; rows of gate and up are `ld` apart. */
static void activate(const mlxd_pass *s, const mlxd_expert *e, size_t col0, size_t cols, size_t t0,
                     size_t n, size_t all, float *gate, float *up, size_t ld) {
    const mlxd_layers *l = s->l;
    const mlxd_vector_kernels *k = &l->k->vector;
    void (*fn)(const float *, const float *, size_t, float *) =
        l->c.gate == MLXD_GATE_GEGLU     ? k->geglu
        : l->c.gate == MLXD_GATE_CLIPPED ? k->clipglu
                                         : k->swiglu;
    size_t width = e->down->cols;
    bool quantized = mlxd_format_is_quantized(e->down->format);
    for (size_t t = 0; t < n; t++, gate += ld, up += ld) {
        if (e->gate_bias) {
            mlxd_vector_add(e->gate_bias + col0, cols, gate);
            mlxd_vector_add(e->up_bias + col0, cols, up);
        }
        float *out = quantized ? gate : e->mid.x + (t0 + t) * width + col0;
        fn(gate, up, cols, out);
        if (quantized)
            mlxd_pass_quantize(s, out, col0, cols, e->mid.z, all, width, t0 + t);
    }
}

/* Few tokens take many pieces at once, so that weights are read in long streams. */
void mlxd_pass_gate_up(const mlxd_pass *s, const mlxd_expert *e, const mlxd_activations *a,
                       size_t from, size_t to) {
    float gate[BLOCK * PIECE_ROWS] MLXD_UNCLEARED, up[BLOCK * PIECE_ROWS] MLXD_UNCLEARED;
    size_t panels = mlxd_matrix_panels(e->gate);
    size_t at_once = BLOCK / MLXD_MIN(a->n, (size_t)BLOCK);
    for (size_t i = from; i < to; i += at_once) {
        size_t pieces = MLXD_MIN(at_once, to - i), col0 = i * PIECE_ROWS;
        size_t p0 = col0 / ROWS, p1 = MLXD_MIN((i + pieces) * (PIECE_ROWS / ROWS), panels);
        size_t cols = MLXD_MIN(pieces * PIECE_ROWS, e->gate->rows - col0), ld = (p1 - p0) * ROWS;
        for (size_t t = 0; t < a->n; t += BLOCK) {
            mlxd_activations part = mlxd_activations_part(a, t, MLXD_MIN(a->n - t, (size_t)BLOCK));
            s->l->k->matmul.product(e->gate, &part, p0, p1, false, gate, ld);
            s->l->k->matmul.product(e->up, &part, p0, p1, false, up, ld);
            activate(s, e, col0, cols, t, part.n, a->n, gate, up, ld);
        }
    }
}

size_t mlxd_pass_gate_up_pieces(const mlxd_matrix *gate) {
    return mlxd_pass_ceil(gate->rows, PIECE_ROWS);
}

size_t mlxd_pass_gate_up_bytes(const mlxd_matrix *gate, const mlxd_matrix *up) {
    return mlxd_pass_bytes(gate, PIECE_ROWS) + mlxd_pass_bytes(up, PIECE_ROWS);
}

static void dense_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_layer *layer = s->layer;
    const mlxd_expert e = {layer->m[MLXD_GATE],    layer->m[MLXD_UP],    layer->m[MLXD_DOWN],
                           layer->bias[MLXD_GATE], layer->bias[MLXD_UP], s->l->mid};
    size_t from, to;
    mlxd_pass_pieces_of(s, task, &from, &to);
    mlxd_activations a = mlxd_pass_normed(s, thread);
    mlxd_pass_gate_up(s, &e, &a, from, to);
}

void mlxd_pass_ffn(mlxd_pass *s, mlxd_pool *pool) {
    const mlxd_layer *layer = s->layer;
    const mlxd_matrix *gate = layer->m[MLXD_GATE], *up = layer->m[MLXD_UP];
    if (layer->kind & MLXD_LAYER_EXPERTS) {
        mlxd_pass_experts(s, pool);
        return;
    }
    s->quantize = mlxd_format_is_quantized(gate->format) || mlxd_format_is_quantized(up->format);
    mlxd_pass_norm(s, pool, layer->ffn_norm, mlxd_pass_is_small(s));
    mlxd_pass_pieces(s, pool, mlxd_pass_gate_up_pieces(gate), mlxd_pass_gate_up_bytes(gate, up),
                     dense_task);
    mlxd_pass_residual(s, pool, layer->m[MLXD_DOWN], s->l->mid, layer->bias[MLXD_DOWN],
                       layer->ffn_post_norm);
}
