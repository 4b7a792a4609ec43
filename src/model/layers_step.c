/* layers_step.c - computing a step; see layers.h.
 *
 * A layer is five parallel phases over the pool, each of which splits tokens, heads or rows of
 * weights and never a sum. What belongs to a piece of a phase is done while the piece is in the
 * nearest caches, so that nothing else needs a phase of its own:
 *
 *   q, k, v     heads:       product > rotate > (k, v) store as f16
 *   attention   kv heads x spans of tokens: page after page > quantize
 *   o           rows:        product, added to the residual stream
 *   gate, up    32 rows:     both products > SwiGLU > quantize
 *   down        rows:        product, added to the residual stream
 *
 * The norm in front of q, k, v and of gate, up is done by every thread for itself when the step is
 * small (waiting for each other would take longer), otherwise in a phase of its own.
 *
 * A piece takes all tokens of the step, BLOCK of them at a time: its weights come from memory once,
 * and what it works on fits the caches.
 *
 * One decoding token has few kv heads to share out, and at depth its attention is long: then the
 * pages are split too. Partials are kept page by page, and who finishes last merges them in
 * ascending order, as the definition wants it.
 */
#include "model/layers_internal.h"

#include <math.h>
#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define BLOCK 128               /* tokens that a piece works on at a time */
#define QUERIES 64              /* queries of an attention task at a time */
#define SPAN 16                 /* tokens of a span at most */
#define TASKS_PER_THREAD 8      /* evens out what threads get done, */
#define TASK_BYTES (256u << 10) /* but shorter streams of weights are slower than longer ones */
#define SPLIT_PAGES 4           /* fewer pages are not worth a task */

/* What the tasks of a step share. */
struct step {
    mlxd_layers *l;
    mlxd_kv *kv;
    const mlxd_row *rows;
    float *hidden;     /* of the tokens that are computed now */
    size_t n, n_spans; /* tokens; spans that cover them */
    size_t n_out;      /* tokens that attention and what follows it compute */
    bool own_norm;     /* every thread norms for itself */
    const mlxd_layer *layer;
    uint32_t layer_index; /* in the KV cache */
    const float *norm;    /* weights of the current norm */
    bool quantize;        /* a matrix that reads the current inputs is quantized */
    size_t pieces, tasks; /* of the current phase */
    size_t splits;        /* parts of the pages of a decoding token */
};

/* ---- handing out ---- */

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* Runs fn over tasks of neighbouring pieces, each of which reads `bytes` of weights. */
static void run_pieces(struct step *s, mlxd_pool *pool, size_t pieces, size_t bytes,
                       mlxd_pool_fn fn) {
    size_t threads = mlxd_pool_threads(pool), passes = ceil_div(s->n_out, 8);
    size_t per_thread = pieces * bytes * passes / (threads * TASK_BYTES);
    per_thread = MLXD_MAX(MLXD_MIN(per_thread, (size_t)TASKS_PER_THREAD), (size_t)1);
    s->pieces = pieces;
    s->tasks = MLXD_MIN(per_thread * threads, pieces);
    mlxd_pool_run(pool, s->tasks, fn, s);
}

/* The pieces of a task. */
static void pieces_of(const struct step *s, size_t task, size_t *from, size_t *to) {
    *from = s->pieces * task / s->tasks;
    *to = s->pieces * (task + 1) / s->tasks;
}

/* Bytes of `rows` rows of a matrix. */
static size_t rows_bytes(const mlxd_matrix *m, size_t rows) {
    return mlxd_format_panel_bytes(m->format, m->cols) * rows / ROWS;
}

/* ---- norms ---- */

/* Says what the matrices m[0..count) read. */
static void want(struct step *s, const mlxd_matrix *m, size_t count) {
    s->quantize = false;
    for (size_t i = 0; i < count; i++)
        s->quantize = s->quantize || mlxd_format_is_quantized(m[i].format);
}

/* Columns [col0, col0 + cols), whole groups, of token t of s->n_out tokens of k columns. */
static void quantize_part(const struct step *s, const float *x, size_t col0, size_t cols,
                          mlxd_quants z, size_t k, size_t t) {
    size_t stride;
    mlxd_quants to = mlxd_quants_row(z, s->n_out, k, t, &stride);
    s->l->k->matmul.quantize(x, cols, mlxd_quants_skip(to, col0 / MLXD_GROUP * stride), stride);
}

static void norm_row(const struct step *s, size_t t, float *x, mlxd_quants z) {
    const mlxd_config *c = &s->l->c;
    x += t * c->hidden;
    s->l->k->vector.rmsnorm(s->hidden + t * c->hidden, s->norm, c->hidden, c->rms_eps, x);
    if (s->quantize)
        quantize_part(s, x, 0, c->hidden, z, c->hidden, t);
}

static void norm_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    size_t from, to;
    (void)thread;
    pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++)
        norm_row(s, t, s->l->in.x, s->l->in.z);
}

/* Norms the residual stream for the matrices m[0..count), now or when they are read. */
static void start_norm(struct step *s, mlxd_pool *pool, const float *norm, const mlxd_matrix *m,
                       size_t count) {
    s->norm = norm;
    s->l->phase++;
    s->own_norm = s->n_out * s->l->c.hidden <= MLXD_OWN_NORM_MAX;
    want(s, m, count);
    if (!s->own_norm)
        run_pieces(s, pool, s->n_out, TASK_BYTES, norm_task);
}

static mlxd_activations normed(struct step *s, unsigned thread) {
    mlxd_layers *l = s->l;
    mlxd_own *own = &l->own[thread];
    if (!s->own_norm)
        return (mlxd_activations){l->in.x, l->in.z, s->n_out, l->c.hidden};
    if (own->phase != l->phase)
        for (size_t t = 0; t < s->n_out; t++)
            norm_row(s, t, own->x, own->z);
    own->phase = l->phase;
    return (mlxd_activations){own->x, own->z, s->n_out, l->c.hidden};
}

/* ---- q, k, v ---- */

static uint32_t position_of(const struct step *s, size_t t) {
    const mlxd_row *row = &s->rows[s->l->row_of[t]];
    return row->position + (uint32_t)(t - (size_t)(row->tokens - s->rows[0].tokens));
}

/* Rotates `heads` heads of tokens t0 ... t1-1; x is the first head of the first token. */
static void rotate(const struct step *s, float *x, size_t width, uint32_t heads, size_t t0,
                   size_t t1) {
    const mlxd_rope *rope = &s->l->rope;
    const mlxd_config *c = &s->l->c;
    for (size_t t = t0; t < t1; t++, x += width) {
        size_t at = (size_t)position_of(s, t) * rope->half;
        s->l->k->vector.rope_pairs(x, heads, c->head_dim, c->rope_dims, rope->cos + at,
                                   rope->sin + at);
    }
}

/* Tokens from t on that lie in one page: at most `end` - t. */
static size_t same_page(const struct step *s, size_t t, size_t end) {
    size_t n = MLXD_PAGE - position_of(s, t) % MLXD_PAGE;
    for (size_t i = 1; i < n && t + i < end; i++)
        if (s->l->row_of[t + i] != s->l->row_of[t])
            return i;
    return MLXD_MIN(n, end - t);
}

/* K of one head: dimension-major, so tokens of a page are turned SPAN at a time. */
static void store_k(const struct step *s, const float *k, size_t width, uint32_t head, size_t t0,
                    size_t t1) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim;
    uint16_t half[SPAN][MLXD_LIMIT_HEAD_DIM] MLXD_UNCLEARED;
    for (size_t t = t0, n; t < t1; t += n) {
        uint32_t pos = position_of(s, t);
        uint16_t *page =
            mlxd_kv_k(s->kv, l->sessions[l->row_of[t]], s->layer_index, pos / MLXD_PAGE, head);
        n = same_page(s, t, MLXD_MIN(t1, t + SPAN));
        for (size_t i = 0; i < n; i++)
            l->k->vector.to_f16(k + (t - t0 + i) * width, dim, half[i]);
        for (size_t d = 0; d < dim; d++)
            for (size_t i = 0; i < n; i++)
                page[d * MLXD_PAGE + pos % MLXD_PAGE + i] = half[i][d];
    }
}

static void store_v(const struct step *s, const float *v, size_t width, uint32_t head, size_t t0,
                    size_t t1) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim;
    for (size_t t = t0; t < t1; t++, v += width) {
        uint32_t pos = position_of(s, t);
        uint16_t *page =
            mlxd_kv_v(s->kv, l->sessions[l->row_of[t]], s->layer_index, pos / MLXD_PAGE, head);
        l->k->vector.to_f16(v, dim, page + pos % MLXD_PAGE * dim);
    }
}

/* Heads of a piece: whole panels, or all heads where these cannot be cut between panels. */
static uint32_t heads_of_piece(const mlxd_config *c) {
    uint32_t heads = 1;
    while (heads * c->head_dim % ROWS != 0 && heads < ROWS)
        heads *= 2;
    return c->kv_heads % heads == 0 && heads * c->head_dim % ROWS == 0 ? heads : 0;
}

/* Heads h0 ... h0+heads-1 of one of the three matrices. */
static void project(struct step *s, const mlxd_activations *a, int which, uint32_t h0,
                    uint32_t heads) {
    mlxd_layers *l = s->l;
    const mlxd_matrix *m = &s->layer->m[which];
    size_t dim = l->c.head_dim, width = m->rows;
    size_t panel0 = h0 * dim / ROWS, panel1 = ceil_div((h0 + heads) * dim, ROWS);
    float *out = which == MLXD_Q ? l->q : which == MLXD_K ? l->k_new : l->v_new;
    for (size_t t = 0; t < a->n; t += BLOCK) {
        size_t n = MLXD_MIN(a->n - t, (size_t)BLOCK);
        mlxd_activations part = mlxd_activations_part(a, t, n);
        float *x = out + t * width + h0 * dim;
        l->k->matmul.product(m, &part, panel0, panel1, false, x, width);
        if (which != MLXD_V)
            rotate(s, x, width, heads, t, t + n);
        for (uint32_t h = 0; h < heads && which == MLXD_K; h++)
            store_k(s, x + h * dim, width, h0 + h, t, t + n);
        for (uint32_t h = 0; h < heads && which == MLXD_V; h++)
            store_v(s, x + h * dim, width, h0 + h, t, t + n);
    }
}

static void qkv_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    const mlxd_config *c = &s->l->c;
    mlxd_activations a = normed(s, thread);
    uint32_t unit = heads_of_piece(c);
    size_t from, to, q_pieces = unit ? c->heads / unit : 1,
                     kv_pieces = unit ? c->kv_heads / unit : 1;
    pieces_of(s, task, &from, &to);
    for (size_t i = from, end; i < to; i = end) { /* neighbours of one matrix together */
        int which = i < q_pieces ? MLXD_Q : i < q_pieces + kv_pieces ? MLXD_K : MLXD_V;
        size_t first = which == MLXD_Q ? 0 : q_pieces + (which == MLXD_V ? kv_pieces : 0);
        end = MLXD_MIN(to, first + (which == MLXD_Q ? q_pieces : kv_pieces));
        uint32_t all = which == MLXD_Q ? c->heads : c->kv_heads;
        project(s, &a, which, (uint32_t)(i - first) * unit,
                unit ? (uint32_t)(end - i) * unit : all);
    }
}

static size_t qkv_pieces(const mlxd_config *c) {
    uint32_t unit = heads_of_piece(c);
    return unit ? (c->heads + 2 * c->kv_heads) / unit : 3;
}

/* ---- attention ---- */

/* Whether the columns of one kv head's queries are whole groups of o's input. */
static bool head_groups_whole(const mlxd_config *c) {
    return c->heads / c->kv_heads * c->head_dim % MLXD_GROUP == 0;
}

/* The result of the queries of one kv head, for the token whose place in the output is `t`. */
static void finish_token(const struct step *s, mlxd_query *query, uint32_t kv_head, size_t t) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim, group = l->c.heads / l->c.kv_heads, width = l->c.heads * dim;
    for (size_t i = 0; i < group; i++)
        l->k->attention.finish(&query[i], dim);
    if (!s->quantize || !head_groups_whole(&l->c))
        return;
    size_t col0 = kv_head * group * dim;
    quantize_part(s, l->in.x + t * width + col0, col0, group * dim, l->in.z, width, t);
}

/* Queries h0 ... of tokens [first, first + count) over all pages that they see. */
static void attend_block(const struct step *s, const mlxd_span *span, size_t first, size_t count,
                         uint32_t kv_head, mlxd_query *query) {
    const mlxd_layers *l = s->l;
    const mlxd_kv_session *session = l->sessions[span->row];
    size_t dim = l->c.head_dim, group = l->c.heads / l->c.kv_heads;
    const mlxd_score scale = {1.0f / sqrtf((float)dim), 0};
    for (size_t i = 0; i < count * group; i++) {
        size_t t = first + i / group, h = kv_head * group + i % group;
        query[i].q = l->q + (t * l->c.heads + h) * dim;
        query[i].out = l->in.x + (l->out_of[t] * l->c.heads + h) * dim;
    }
    uint32_t pos = position_of(s, first), end = pos + (uint32_t)count;
    for (uint32_t p = 0; p * MLXD_PAGE < end; p++) {
        /* tokens before `from` do not see this page */
        size_t from = p * MLXD_PAGE > pos ? p * MLXD_PAGE - pos : 0;
        for (size_t i = from; i < count; i++) {
            uint32_t visible = pos + (uint32_t)i + 1 - p * MLXD_PAGE;
            for (size_t h = 0; h < group; h++)
                query[i * group + h].visible = MLXD_MIN(visible, (uint32_t)MLXD_PAGE);
        }
        l->k->attention.page(query + from * group, (count - from) * group,
                             mlxd_kv_k(s->kv, session, s->layer_index, p, kv_head),
                             mlxd_kv_v(s->kv, session, s->layer_index, p, kv_head), dim, scale,
                             p == 0);
    }
    for (size_t i = 0; i < count; i++)
        finish_token(s, query + i * group, kv_head, l->out_of[first + i]);
}

static void attention_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    const mlxd_config *c = &s->l->c;
    (void)thread;
    const mlxd_span *span = &s->l->spans[task / c->kv_heads];
    uint32_t kv_head = (uint32_t)(task % c->kv_heads), group = c->heads / c->kv_heads;
    mlxd_query query[MLXD_MAX(QUERIES, MLXD_LIMIT_HEADS)] MLXD_UNCLEARED;
    size_t at_once = MLXD_MAX(QUERIES / group, 1u);
    for (size_t i = 0; i < span->count; i += at_once)
        attend_block(s, span, span->first + i, MLXD_MIN(at_once, span->count - i), kv_head, query);
}

/* Part `task` / kv_heads of the pages of the one token, for one kv head. */
static void split_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    (void)thread;
    uint32_t kv_head = (uint32_t)(task % c->kv_heads), group = c->heads / c->kv_heads;
    size_t part = task / c->kv_heads, dim = c->head_dim, h0 = kv_head * group;
    uint32_t end = position_of(s, 0) + 1, pages = mlxd_kv_pages(end);
    const mlxd_score scale = {1.0f / sqrtf((float)dim), 0};
    for (size_t p = pages * part / s->splits; p < pages * (part + 1) / s->splits; p++) {
        mlxd_query *query = l->parts + p * c->heads + h0;
        for (uint32_t h = 0; h < group; h++)
            query[h] = (mlxd_query){
                .q = l->q + (h0 + h) * dim,
                .out = l->part_out + (p * c->heads + h0 + h) * dim,
                .visible = MLXD_MIN(end - (uint32_t)p * MLXD_PAGE, (uint32_t)MLXD_PAGE)};
        l->k->attention.page(query, group,
                             mlxd_kv_k(s->kv, l->sessions[0], s->layer_index, (uint32_t)p, kv_head),
                             mlxd_kv_v(s->kv, l->sessions[0], s->layer_index, (uint32_t)p, kv_head),
                             dim, scale, true);
    }
    if (atomic_fetch_sub(&l->parts_left[kv_head], 1) > 1)
        return;
    mlxd_query *all = l->parts + h0;
    for (uint32_t h = 0; h < group; h++) {
        for (size_t p = 1; p < pages; p++)
            l->k->attention.merge(&all[h], &all[h + p * c->heads], dim);
        memcpy(l->in.x + (h0 + h) * dim, all[h].out, dim * sizeof(float));
        all[h].out = l->in.x + (h0 + h) * dim;
    }
    finish_token(s, all, kv_head, 0);
}

static void quantize_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    size_t from, to, width = (size_t)s->l->c.heads * s->l->c.head_dim;
    (void)thread;
    pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++)
        quantize_part(s, s->l->in.x + t * width, 0, width, s->l->in.z, width, t);
}

static void attention(struct step *s, mlxd_pool *pool) {
    mlxd_layers *l = s->l;
    size_t tasks = s->n_spans * l->c.kv_heads, threads = mlxd_pool_threads(pool);
    want(s, &s->layer->m[MLXD_O], 1);
    s->splits = 1;
    if (s->n == 1 && threads > 1) {
        size_t pages = mlxd_kv_pages((uint64_t)position_of(s, 0) + 1);
        s->splits = MLXD_MIN(ceil_div(threads * 4, tasks), ceil_div(pages, SPLIT_PAGES));
    }
    if (s->splits > 1) {
        for (uint32_t h = 0; h < l->c.kv_heads; h++)
            atomic_store(&l->parts_left[h], (uint32_t)s->splits);
        mlxd_pool_run(pool, s->splits * l->c.kv_heads, split_task, s);
    } else {
        mlxd_pool_run(pool, tasks, attention_task, s);
    }
    if (s->quantize && !head_groups_whole(&l->c))
        run_pieces(s, pool, s->n_out, TASK_BYTES, quantize_task);
}

/* ---- o, gate and up, down ---- */

/* Rows of the panels of pieces [from, to) of `m`, added to the residual stream. */
static void add_product(struct step *s, const mlxd_matrix *m, const mlxd_activations *a,
                        size_t from, size_t to) {
    for (size_t t = 0; t < a->n; t += BLOCK) {
        mlxd_activations part = mlxd_activations_part(a, t, MLXD_MIN(a->n - t, (size_t)BLOCK));
        s->l->k->matmul.product(m, &part, from, to, true, s->hidden + t * m->rows + from * ROWS,
                                m->rows);
    }
}

static void o_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    mlxd_layers *l = s->l;
    size_t from, to;
    (void)thread;
    pieces_of(s, task, &from, &to);
    mlxd_activations a = {l->in.x, l->in.z, s->n_out, (size_t)l->c.heads * l->c.head_dim};
    add_product(s, &s->layer->m[MLXD_O], &a, from, to);
}

static void down_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    mlxd_layers *l = s->l;
    size_t from, to;
    (void)thread;
    pieces_of(s, task, &from, &to);
    mlxd_activations a = {l->mid.x, l->mid.z, s->n_out, l->c.ffn};
    add_product(s, &s->layer->m[MLXD_DOWN], &a, from, to);
}

#define PIECE_ROWS MLXD_GROUP /* of gate and up: one group of down's input */

/* Columns [col0, col0 + cols) of down's input, tokens t0 ... of all, from their gate and up, whose
 * rows are `ld` apart. */
static void activate(const struct step *s, size_t col0, size_t cols, size_t t0, size_t n,
                     float *gate, const float *up, size_t ld) {
    const mlxd_layers *l = s->l;
    bool quantized = mlxd_format_is_quantized(s->layer->m[MLXD_DOWN].format);
    for (size_t t = 0; t < n; t++, gate += ld, up += ld) {
        float *out = quantized ? gate : l->mid.x + (t0 + t) * l->c.ffn + col0;
        l->k->vector.swiglu(gate, up, cols, out);
        if (quantized)
            quantize_part(s, out, col0, cols, l->mid.z, l->c.ffn, t0 + t);
    }
}

/* Few tokens take many pieces at once, so that weights are read in long streams. */
static void gate_up_task(void *ctx, size_t task, unsigned thread) {
    struct step *s = ctx;
    const mlxd_matrix *m = s->layer->m;
    float gate[BLOCK * PIECE_ROWS] MLXD_UNCLEARED, up[BLOCK * PIECE_ROWS] MLXD_UNCLEARED;
    size_t from, to, panels = mlxd_matrix_panels(&m[MLXD_GATE]);
    mlxd_activations a = normed(s, thread);
    size_t at_once = BLOCK / MLXD_MIN(a.n, (size_t)BLOCK);
    pieces_of(s, task, &from, &to);
    for (size_t i = from; i < to; i += at_once) {
        size_t pieces = MLXD_MIN(at_once, to - i), col0 = i * PIECE_ROWS;
        size_t p0 = col0 / ROWS, p1 = MLXD_MIN((i + pieces) * (PIECE_ROWS / ROWS), panels);
        size_t cols = MLXD_MIN(pieces * PIECE_ROWS, s->l->c.ffn - col0), ld = (p1 - p0) * ROWS;
        for (size_t t = 0; t < a.n; t += BLOCK) {
            mlxd_activations part = mlxd_activations_part(&a, t, MLXD_MIN(a.n - t, (size_t)BLOCK));
            s->l->k->matmul.product(&m[MLXD_GATE], &part, p0, p1, false, gate, ld);
            s->l->k->matmul.product(&m[MLXD_UP], &part, p0, p1, false, up, ld);
            activate(s, col0, cols, t, part.n, gate, up, ld);
        }
    }
}

/* ---- a layer ---- */

static void run_layer(struct step *s, mlxd_pool *pool) {
    const mlxd_config *c = &s->l->c;
    const mlxd_matrix *m = s->layer->m;
    attention(s, pool);
    run_pieces(s, pool, mlxd_matrix_panels(&m[MLXD_O]), rows_bytes(&m[MLXD_O], ROWS), o_task);
    start_norm(s, pool, s->layer->ffn_norm, &m[MLXD_GATE], 2);
    run_pieces(s, pool, ceil_div(c->ffn, PIECE_ROWS),
               rows_bytes(&m[MLXD_GATE], PIECE_ROWS) + rows_bytes(&m[MLXD_UP], PIECE_ROWS),
               gate_up_task);
    run_pieces(s, pool, mlxd_matrix_panels(&m[MLXD_DOWN]), rows_bytes(&m[MLXD_DOWN], ROWS),
               down_task);
}

static void run_qkv(struct step *s, mlxd_pool *pool) {
    start_norm(s, pool, s->layer->attn_norm, &s->layer->m[MLXD_Q], 3);
    size_t pieces = qkv_pieces(&s->l->c), rows = 0;
    for (int i = MLXD_Q; i <= MLXD_V; i++)
        rows += s->layer->m[i].rows;
    run_pieces(s, pool, pieces, rows_bytes(&s->layer->m[MLXD_Q], rows) / pieces, qkv_task);
}

/* ---- a step ---- */

/* Cuts the last `wanted` tokens of each row, or all, into spans, and numbers them. */
static void list_spans(struct step *s, size_t n_rows, bool all) {
    mlxd_layers *l = s->l;
    s->n_spans = s->n_out = 0;
    size_t first = 0;
    for (size_t r = 0; r < n_rows; first += s->rows[r++].n_tokens) {
        const mlxd_row *row = &s->rows[r];
        size_t skip = all ? 0 : row->n_tokens - row->n_out;
        for (size_t i = skip; i < row->n_tokens; i++) {
            l->out_of[first + i] = (uint32_t)s->n_out++;
            if ((i - skip) % SPAN == 0)
                l->spans[s->n_spans++] = (mlxd_span){(uint32_t)r, (uint32_t)(first + i), 0};
            l->spans[s->n_spans - 1].count++;
        }
    }
}

/* A layer of which only some tokens are wanted. */
static void run_layer_wanted(struct step *s, mlxd_pool *pool, size_t n_rows) {
    mlxd_layers *l = s->l;
    size_t width = l->c.hidden;
    float *hidden = s->hidden;
    run_qkv(s, pool);
    list_spans(s, n_rows, false);
    if (s->n_out == 0)
        return;
    for (size_t i = 0; i < s->n_spans; i++) {
        const mlxd_span *span = &l->spans[i];
        memcpy(l->compact + l->out_of[span->first] * width, hidden + span->first * width,
               span->count * width * sizeof *hidden);
    }
    s->hidden = l->compact;
    run_layer(s, pool);
    s->hidden = hidden;
    for (size_t i = 0; i < s->n_spans; i++) {
        const mlxd_span *span = &l->spans[i];
        memcpy(hidden + span->first * width, l->compact + l->out_of[span->first] * width,
               span->count * width * sizeof *hidden);
    }
}

/* Two rows of one session would write the same KV at the same time. */
static bool session_twice(const mlxd_row *rows, size_t n_rows) {
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < r; i++)
            if (rows[i].session == rows[r].session)
                return true;
    return false;
}

/* Opens the rows' sessions at their positions and notes which row each token belongs to. */
static mlxd_err begin_rows(mlxd_layers *l, mlxd_kv *kv, const mlxd_row *rows, size_t n_rows,
                           size_t *n, mlxd_why *why) {
    *n = 0;
    if (session_twice(rows, n_rows))
        return mlxd_fail(why, MLXD_ERR_INVALID, "a step has two rows of one session");
    for (size_t r = 0; r < n_rows; r++) {
        if (rows[r].n_tokens == 0 || rows[r].n_tokens > l->tokens_max - *n)
            return mlxd_fail(why, MLXD_ERR_RANGE, "a step holds 1..%u tokens", l->tokens_max);
        if (rows[r].position >= l->rope.positions ||
            rows[r].n_tokens > l->rope.positions - rows[r].position)
            return mlxd_fail(why, MLXD_ERR_RANGE, "positions %u..%llu are beyond the context of %u",
                             rows[r].position,
                             (unsigned long long)rows[r].position + rows[r].n_tokens - 1,
                             l->rope.positions);
        MLXD_ASSERT(rows[r].tokens == rows[0].tokens + *n && rows[r].n_out <= rows[r].n_tokens);
        mlxd_err err = mlxd_kv_begin(kv, rows[r].session, rows[r].position, rows[r].prefix_hash,
                                     rows[r].tokens, rows[r].n_tokens, &l->sessions[r], why);
        if (err)
            return err;
        mlxd_rope_reach(&l->rope, rows[r].position + rows[r].n_tokens);
        for (uint32_t i = 0; i < rows[r].n_tokens; i++)
            l->row_of[(*n)++] = (uint32_t)r;
    }
    return MLXD_OK;
}

/* All results that are defined: the spans are those of the last layer that ran. */
static mlxd_err check_finite(const struct step *s, uint32_t first, uint32_t end, mlxd_why *why) {
    const mlxd_layers *l = s->l;
    size_t width = l->c.hidden;
    for (size_t i = 0; i < s->n_spans; i++) {
        const mlxd_span *span = &l->spans[i];
        if (!l->k->vector.is_finite(s->hidden + span->first * width, span->count * width))
            return mlxd_fail(why, MLXD_ERR_CORRUPT,
                             "session %llu: the result of layers %u..%u is not finite",
                             (unsigned long long)s->rows[span->row].session, first, end - 1);
    }
    return MLXD_OK;
}

mlxd_err mlxd_layers_step(mlxd_layers *l, mlxd_kv *kv, mlxd_pool *pool, uint32_t first,
                          uint32_t end, const mlxd_row *rows, size_t n_rows, bool wanted_only,
                          float *hidden, const mlxd_abort *abort, mlxd_why *why) {
    MLXD_ASSERT(first >= l->first && first < end && end <= l->end);
    MLXD_ASSERT(mlxd_os_fpu_ok());
    struct step s = {.l = l, .kv = kv, .rows = rows, .hidden = hidden};
    mlxd_err err = begin_rows(l, kv, rows, n_rows, &s.n, why);
    if (err)
        return err;
    list_spans(&s, n_rows, true);
    for (uint32_t i = first; i < end; i++) {
        if (abort && abort->fn(abort->ctx))
            return MLXD_ERR_CANCELLED;
        s.layer = &l->layers[i - l->first];
        s.layer_index = i - l->first;
        if (wanted_only && i + 1 == end) {
            run_layer_wanted(&s, pool, n_rows);
            break;
        }
        run_qkv(&s, pool);
        run_layer(&s, pool);
    }
    return check_finite(&s, first, end, why);
}
