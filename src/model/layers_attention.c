/* layers_attention.c - the first half of a layer: q, k, v and attention; see layers_step.c.
 *
 *   q, k, v     heads:       product > bias > norm > rotate > (k, v) store as f16
 *   attention   kv heads x spans of tokens: page after page > quantize
 *   o           rows:        product, added to the residual stream
 *
 * Where a norm goes over all heads of a token, it and what follows it have a phase of their own.
 *
 * One decoding token has few kv heads to share out, and at depth its attention is long: then the
 * pages are split too. Partials are kept page by page, and who finishes last merges them in
 * ascending order, as the definition wants it.
 *
 * With a sliding window the pages in front of it are left out. A sink is a partial of its own
 * behind the last page: its score as maximum, a sum of 1, zeros as output.
 */
#include "model/layers_internal.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define BLOCK MLXD_PASS_BLOCK
#define QUERIES 64               /* queries of an attention task at a time */
#define SPLIT_PAGES 4            /* fewer pages are not worth a task */
#define TOKEN_BYTES (256u << 10) /* what a token of a phase without weights counts as */

/* ---- q, k, v ---- */

/* Rotates `heads` heads of tokens t0 ... t1-1; x is the first head of the first token. */
static void rotate(const mlxd_pass *s, float *x, size_t width, uint32_t heads, size_t t0,
                   size_t t1) {
    const mlxd_rope *rope = s->rope;
    const mlxd_config *c = &s->l->c;
    if (!rope)
        return;
    const mlxd_vector_kernels *k = &s->l->k->vector;
    for (size_t t = t0; t < t1; t++, x += width) {
        size_t at = (size_t)mlxd_pass_position(s, t) * rope->half;
        (c->rope_pairs ? k->rope_pairs : k->rope_halves)(x, heads, c->head_dim, c->rope_dims,
                                                         rope->cos + at, rope->sin + at);
    }
}

/* Tokens from t on that lie in one page: at most `end` - t. */
static size_t same_page(const mlxd_pass *s, size_t t, size_t end) {
    size_t n = MLXD_PAGE - mlxd_pass_position(s, t) % MLXD_PAGE;
    for (size_t i = 1; i < n && t + i < end; i++)
        if (s->l->row_of[t + i] != s->l->row_of[t])
            return i;
    return MLXD_MIN(n, end - t);
}

/* K of one head: dimension-major, so tokens of a page are turned a span at a time. */
static void store_k(const mlxd_pass *s, const float *k, size_t width, uint32_t head, size_t t0,
                    size_t t1) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim;
    uint16_t half[MLXD_PASS_SPAN][MLXD_LIMIT_HEAD_DIM] MLXD_UNCLEARED;
    for (size_t t = t0, n; t < t1; t += n) {
        uint32_t pos = mlxd_pass_position(s, t);
        uint16_t *page =
            mlxd_kv_k(s->kv, l->sessions[l->row_of[t]], s->layer_index, pos / MLXD_PAGE, head);
        n = same_page(s, t, MLXD_MIN(t1, t + MLXD_PASS_SPAN));
        for (size_t i = 0; i < n; i++)
            l->k->vector.to_f16(k + (t - t0 + i) * width, dim, half[i]);
        for (size_t d = 0; d < dim; d++)
            for (size_t i = 0; i < n; i++)
                page[d * MLXD_PAGE + pos % MLXD_PAGE + i] = half[i][d];
    }
}

static void store_v(const mlxd_pass *s, const float *v, size_t width, uint32_t head, size_t t0,
                    size_t t1) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim;
    for (size_t t = t0; t < t1; t++, v += width) {
        uint32_t pos = mlxd_pass_position(s, t);
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

/* Heads h0 ... of q or k, tokens t0 ... t1-1, normed where each head is for itself, and rotated;
 * x is the first head of the first token. */
static void turn(const mlxd_pass *s, int which, float *x, size_t width, uint32_t heads, size_t t0,
                 size_t t1) {
    const mlxd_config *c = &s->l->c;
    const float *norm = which == MLXD_Q ? s->layer->q_norm : s->layer->k_norm;
    for (size_t t = t0; t < t1 && c->qk_norm == MLXD_QK_NORM_HEAD; t++)
        for (uint32_t h = 0; h < heads; h++) {
            float *head = x + (t - t0) * width + h * c->head_dim;
            s->l->k->vector.rmsnorm(head, norm, c->head_dim, c->rms_eps, head);
        }
    rotate(s, x, width, heads, t0, t1);
}

/* Heads h0 ... h0+heads-1 of one of the three matrices. */
static void project(mlxd_pass *s, const mlxd_activations *a, int which, uint32_t h0,
                    uint32_t heads) {
    mlxd_layers *l = s->l;
    const mlxd_matrix *m = s->layer->m[which];
    const float *bias = s->layer->bias[which];
    const bool turns = which != MLXD_V && l->c.qk_norm != MLXD_QK_NORM_WIDE;
    size_t dim = l->c.head_dim, width = m->rows;
    size_t panel0 = h0 * dim / ROWS, panel1 = mlxd_pass_ceil((h0 + heads) * dim, ROWS);
    float *out = which == MLXD_Q ? l->q : which == MLXD_K ? l->k_new : l->v_new;
    for (size_t t = 0; t < a->n; t += BLOCK) {
        size_t n = MLXD_MIN(a->n - t, (size_t)BLOCK);
        mlxd_activations part = mlxd_activations_part(a, t, n);
        float *x = out + t * width + h0 * dim;
        l->k->matmul.product(m, &part, panel0, panel1, false, x, width);
        for (size_t i = 0; i < n && bias; i++)
            mlxd_vector_add(bias + h0 * dim, heads * dim, x + i * width);
        if (turns)
            turn(s, which, x, width, heads, t, t + n);
        for (uint32_t h = 0; h < heads && which == MLXD_K && turns; h++)
            store_k(s, x + h * dim, width, h0 + h, t, t + n);
        for (uint32_t h = 0; h < heads && which == MLXD_V; h++)
            store_v(s, x + h * dim, width, h0 + h, t, t + n);
    }
}

static void qkv_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_config *c = &s->l->c;
    mlxd_activations a = mlxd_pass_normed(s, thread);
    uint32_t unit = heads_of_piece(c);
    size_t from, to, q_pieces = unit ? c->heads / unit : 1,
                     kv_pieces = unit ? c->kv_heads / unit : 1;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t i = from, end; i < to; i = end) { /* neighbours of one matrix together */
        int which = i < q_pieces ? MLXD_Q : i < q_pieces + kv_pieces ? MLXD_K : MLXD_V;
        size_t first = which == MLXD_Q ? 0 : q_pieces + (which == MLXD_V ? kv_pieces : 0);
        end = MLXD_MIN(to, first + (which == MLXD_Q ? q_pieces : kv_pieces));
        uint32_t all = which == MLXD_Q ? c->heads : c->kv_heads;
        project(s, &a, which, (uint32_t)(i - first) * unit,
                unit ? (uint32_t)(end - i) * unit : all);
    }
}

/* The norms over all heads of q and of k, and what has to wait for them. */
static void wide_norm_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    const size_t dim = c->head_dim, q_width = c->heads * dim, k_width = c->kv_heads * dim;
    size_t from, to;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++) {
        float *q = l->q + t * q_width, *k = l->k_new + t * k_width;
        l->k->vector.rmsnorm(q, s->layer->q_norm, q_width, c->rms_eps, q);
        l->k->vector.rmsnorm(k, s->layer->k_norm, k_width, c->rms_eps, k);
        rotate(s, q, q_width, c->heads, t, t + 1);
        rotate(s, k, k_width, c->kv_heads, t, t + 1);
        for (uint32_t h = 0; h < c->kv_heads; h++)
            store_k(s, k + h * dim, k_width, h, t, t + 1);
    }
}

void mlxd_pass_qkv(mlxd_pass *s, mlxd_pool *pool) {
    const mlxd_config *c = &s->l->c;
    mlxd_matrix *const *m = s->layer->m;
    uint32_t unit = heads_of_piece(c);
    size_t pieces = unit ? (c->heads + 2 * c->kv_heads) / unit : 3, rows = 0;
    s->quantize = false;
    for (int i = MLXD_Q; i <= MLXD_V; i++) {
        s->quantize = s->quantize || mlxd_format_is_quantized(m[i]->format);
        rows += m[i]->rows;
    }
    mlxd_pass_norm(s, pool, s->layer->attn_norm, mlxd_pass_is_small(s));
    mlxd_pass_pieces(s, pool, pieces, mlxd_pass_bytes(m[MLXD_Q], rows) / pieces, qkv_task);
    if (c->qk_norm == MLXD_QK_NORM_WIDE)
        mlxd_pass_pieces(s, pool, s->n_out, TOKEN_BYTES, wide_norm_task);
}

/* ---- attention ---- */

static mlxd_score score_of(const mlxd_config *c) {
    return (mlxd_score){c->attention_scale, c->attention_softcap};
}

/* The first position that a token at `pos` sees. */
static uint32_t window_start(const mlxd_pass *s, uint32_t pos) {
    return pos >= s->window ? pos - s->window + 1 : 0;
}

/* Whether the columns of one kv head's queries are whole groups of o's input. */
static bool head_groups_whole(const mlxd_config *c) {
    return c->heads / c->kv_heads * c->head_dim % MLXD_GROUP == 0;
}

/* The result of the queries of one kv head, for the token whose place in the output is `t`. */
static void finish_token(const mlxd_pass *s, mlxd_query *query, uint32_t kv_head, size_t t) {
    static const float zeros[MLXD_LIMIT_HEAD_DIM];
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim, group = l->c.heads / l->c.kv_heads, width = l->c.heads * dim;
    for (size_t i = 0; i < group; i++) {
        if (s->layer->sinks) {
            const mlxd_query sink = {.out = (float *)(uintptr_t)zeros,
                                     .max = s->layer->sinks[kv_head * group + i],
                                     .sum = 1};
            l->k->attention.merge(&query[i], &sink, dim);
        }
        l->k->attention.finish(&query[i], dim);
    }
    if (!s->quantize || !head_groups_whole(&l->c))
        return;
    size_t col0 = kv_head * group * dim;
    mlxd_pass_quantize(s, l->in.x + t * width + col0, col0, group * dim, l->in.z, s->n_out, width,
                       t);
}

/* Queries of `count` tokens, the first of them at `pos`, over one page: `query` is the first of
 * kv head `kv_head`. Tokens in front do not see the page yet, tokens behind do not see it any
 * more; for some the page is the first that they see. */
static void attend_page(const mlxd_pass *s, const mlxd_span *span, uint32_t p, uint32_t pos,
                        size_t count, uint32_t kv_head, mlxd_query *query) {
    const mlxd_layers *l = s->l;
    const mlxd_kv_session *session = l->sessions[span->row];
    const uint16_t *k = mlxd_kv_k(s->kv, session, s->layer_index, p, kv_head);
    const uint16_t *v = mlxd_kv_v(s->kv, session, s->layer_index, p, kv_head);
    size_t dim = l->c.head_dim, group = l->c.heads / l->c.kv_heads;
    uint32_t begin = p * MLXD_PAGE;
    size_t from = begin > pos ? begin - pos : 0, fresh = count, end = from;
    for (; end < count; end++) {
        uint32_t at = pos + (uint32_t)end, start = window_start(s, at);
        if (start / MLXD_PAGE > p)
            break;
        if (start / MLXD_PAGE == p)
            fresh = MLXD_MIN(fresh, end);
        for (size_t h = 0; h < group; h++) {
            query[end * group + h].visible = MLXD_MIN(at + 1 - begin, (uint32_t)MLXD_PAGE);
            query[end * group + h].from = start > begin ? start - begin : 0;
        }
    }
    fresh = MLXD_MIN(fresh, end);
    if (fresh > from)
        l->k->attention.page(query + from * group, (fresh - from) * group, k, v, dim,
                             score_of(&l->c), false);
    if (end > fresh)
        l->k->attention.page(query + fresh * group, (end - fresh) * group, k, v, dim,
                             score_of(&l->c), true);
}

/* Queries h0 ... of tokens [first, first + count) over all pages that they see. */
static void attend_block(const mlxd_pass *s, const mlxd_span *span, size_t first, size_t count,
                         uint32_t kv_head, mlxd_query *query) {
    const mlxd_layers *l = s->l;
    size_t dim = l->c.head_dim, group = l->c.heads / l->c.kv_heads;
    for (size_t i = 0; i < count * group; i++) {
        size_t t = first + i / group, h = kv_head * group + i % group;
        query[i].q = l->q + (t * l->c.heads + h) * dim;
        query[i].out = l->in.x + (l->out_of[t] * l->c.heads + h) * dim;
    }
    uint32_t pos = mlxd_pass_position(s, first), end = pos + (uint32_t)count;
    for (uint32_t p = window_start(s, pos) / MLXD_PAGE; p * MLXD_PAGE < end; p++)
        attend_page(s, span, p, pos, count, kv_head, query);
    for (size_t i = 0; i < count; i++)
        finish_token(s, query + i * group, kv_head, l->out_of[first + i]);
}

static void attention_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_config *c = &s->l->c;
    (void)thread;
    const mlxd_span *span = &s->l->spans[task / c->kv_heads];
    uint32_t kv_head = (uint32_t)(task % c->kv_heads), group = c->heads / c->kv_heads;
    mlxd_query query[MLXD_MAX(QUERIES, MLXD_LIMIT_HEADS)] MLXD_UNCLEARED;
    size_t at_once = MLXD_MAX(QUERIES / group, 1u);
    for (size_t i = 0; i < span->count; i += at_once)
        attend_block(s, span, span->first + i, MLXD_MIN(at_once, span->count - i), kv_head, query);
}

/* Part `task` / kv_heads of the pages that the one token sees, for one kv head. */
static void split_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    mlxd_layers *l = s->l;
    const mlxd_config *c = &l->c;
    (void)thread;
    uint32_t kv_head = (uint32_t)(task % c->kv_heads), group = c->heads / c->kv_heads;
    size_t part = task / c->kv_heads, dim = c->head_dim, h0 = kv_head * group;
    uint32_t pos = mlxd_pass_position(s, 0), start = window_start(s, pos), end = pos + 1;
    size_t first = start / MLXD_PAGE, last = mlxd_kv_pages(end), pages = last - first;
    size_t p1 = first + pages * (part + 1) / s->splits;
    for (size_t p = first + pages * part / s->splits; p < p1; p++) {
        mlxd_query *query = l->parts + p * c->heads + h0;
        uint32_t begin = (uint32_t)p * MLXD_PAGE;
        for (uint32_t h = 0; h < group; h++)
            query[h] = (mlxd_query){.q = l->q + (h0 + h) * dim,
                                    .out = l->part_out + (p * c->heads + h0 + h) * dim,
                                    .visible = MLXD_MIN(end - begin, (uint32_t)MLXD_PAGE),
                                    .from = start > begin ? start - begin : 0};
        l->k->attention.page(query, group,
                             mlxd_kv_k(s->kv, l->sessions[0], s->layer_index, (uint32_t)p, kv_head),
                             mlxd_kv_v(s->kv, l->sessions[0], s->layer_index, (uint32_t)p, kv_head),
                             dim, score_of(c), true);
    }
    if (atomic_fetch_sub(&l->parts_left[kv_head], 1) > 1)
        return;
    mlxd_query *all = l->parts + first * c->heads + h0;
    for (uint32_t h = 0; h < group; h++) {
        for (size_t p = 1; p < pages; p++)
            l->k->attention.merge(&all[h], &all[h + p * c->heads], dim);
        memcpy(l->in.x + (h0 + h) * dim, all[h].out, dim * sizeof(float));
        all[h].out = l->in.x + (h0 + h) * dim;
    }
    finish_token(s, all, kv_head, 0);
}

static void quantize_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    size_t from, to, width = (size_t)s->l->c.heads * s->l->c.head_dim;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++)
        mlxd_pass_quantize(s, s->l->in.x + t * width, 0, width, s->l->in.z, s->n_out, width, t);
}

void mlxd_pass_attention(mlxd_pass *s, mlxd_pool *pool) {
    mlxd_layers *l = s->l;
    size_t tasks = s->n_spans * l->c.kv_heads, threads = mlxd_pool_threads(pool);
    s->quantize = mlxd_format_is_quantized(s->layer->m[MLXD_O]->format);
    s->splits = 1;
    if (s->n == 1 && threads > 1) {
        uint32_t pos = mlxd_pass_position(s, 0);
        size_t pages = mlxd_kv_pages((uint64_t)pos + 1) - window_start(s, pos) / MLXD_PAGE;
        s->splits =
            MLXD_MIN(mlxd_pass_ceil(threads * 4, tasks), mlxd_pass_ceil(pages, SPLIT_PAGES));
    }
    if (s->splits > 1) {
        for (uint32_t h = 0; h < l->c.kv_heads; h++)
            atomic_store(&l->parts_left[h], (uint32_t)s->splits);
        mlxd_pool_run(pool, s->splits * l->c.kv_heads, split_task, s);
    } else {
        mlxd_pool_run(pool, tasks, attention_task, s);
    }
    if (s->quantize && !head_groups_whole(&l->c))
        mlxd_pass_pieces(s, pool, s->n_out, TOKEN_BYTES, quantize_task);
    mlxd_pass_residual(s, pool, s->layer->m[MLXD_O], l->in, s->layer->bias[MLXD_O],
                       s->layer->attn_post_norm);
}
