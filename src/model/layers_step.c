/* layers_step.c - computing a step; see layers.h.
 *
 * A layer is five parallel phases over the pool, each of which splits tokens, heads or rows of
 * weights and never a sum. What belongs to a piece of a phase is done while the piece is in the
 * nearest caches, so that nothing else needs a phase of its own:
 *
 *   q, k, v     heads              layers_attention.c
 *   attention   kv heads x tokens
 *   o           rows
 *   gate, up    32 rows            layers_ffn.c, layers_experts.c
 *   down        rows
 *
 * The norm in front of q, k, v and of gate, up is done by every thread for itself when the step is
 * small (waiting for each other would take longer), otherwise in a phase of its own. Families that
 * do more to a branch than to add it to the residual stream (a bias, a norm, a factor) do so in a
 * phase behind o and down:
 *
 *     y = product;  y = y + bias;  y = norm(y);  y = y * factor;  hidden = hidden + y
 *
 * A piece takes all tokens of the step, BLOCK of them at a time: its weights come from memory once,
 * and what it works on fits the caches.
 */
#include "model/layers_internal.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define BLOCK MLXD_PASS_BLOCK
#define TASKS_PER_THREAD 8      /* evens out what threads get done, */
#define TASK_BYTES (256u << 10) /* but shorter streams of weights are slower than longer ones */

/* ---- handing out ---- */

void mlxd_pass_pieces(mlxd_pass *s, mlxd_pool *pool, size_t pieces, size_t bytes, mlxd_pool_fn fn) {
    size_t threads = mlxd_pool_threads(pool), passes = mlxd_pass_ceil(s->n_out, 8);
    size_t per_thread = pieces * bytes * passes / (threads * TASK_BYTES);
    per_thread = MLXD_MAX(MLXD_MIN(per_thread, (size_t)TASKS_PER_THREAD), (size_t)1);
    s->pieces = pieces;
    s->tasks = MLXD_MIN(per_thread * threads, pieces);
    mlxd_pool_run(pool, s->tasks, fn, s);
}

void mlxd_pass_pieces_of(const mlxd_pass *s, size_t task, size_t *from, size_t *to) {
    *from = s->pieces * task / s->tasks;
    *to = s->pieces * (task + 1) / s->tasks;
}

size_t mlxd_pass_bytes(const mlxd_matrix *m, size_t rows) {
    return mlxd_format_panel_bytes(m->format, m->cols) * rows / ROWS;
}

uint32_t mlxd_pass_position(const mlxd_pass *s, size_t t) {
    const mlxd_row *row = &s->rows[s->l->row_of[t]];
    return row->position + (uint32_t)(t - (size_t)(row->tokens - s->rows[0].tokens));
}

/* ---- norms ---- */

void mlxd_pass_quantize(const mlxd_pass *s, const float *x, size_t col0, size_t cols, mlxd_quants z,
                        size_t n, size_t k, size_t t) {
    size_t stride;
    mlxd_quants to = mlxd_quants_row(z, n, k, t, &stride);
    s->l->k->matmul.quantize(x, cols, mlxd_quants_skip(to, col0 / MLXD_GROUP * stride), stride);
}

static void norm_row(const mlxd_pass *s, size_t t, float *x, mlxd_quants z) {
    const mlxd_config *c = &s->l->c;
    const float *from = s->hidden + t * c->hidden;
    x += t * c->hidden;
    if (s->norm)
        s->l->k->vector.rmsnorm(from, s->norm, c->hidden, c->rms_eps, x);
    else
        memcpy(x, from, c->hidden * sizeof *x);
    if (s->quantize)
        mlxd_pass_quantize(s, x, 0, c->hidden, z, s->n_out, c->hidden, t);
}

static void norm_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    size_t from, to;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++)
        norm_row(s, t, s->l->in.x, s->l->in.z);
}

bool mlxd_pass_is_small(const mlxd_pass *s) {
    return s->n_out * s->l->c.hidden <= MLXD_OWN_NORM_MAX;
}

void mlxd_pass_norm(mlxd_pass *s, mlxd_pool *pool, const float *norm, bool own_norm) {
    s->norm = norm;
    s->l->phase++;
    s->own_norm = own_norm;
    if (!own_norm)
        mlxd_pass_pieces(s, pool, s->n_out, TASK_BYTES, norm_task);
}

mlxd_activations mlxd_pass_normed(mlxd_pass *s, unsigned thread) {
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

/* ---- to the residual stream ---- */

static void residual_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_matrix *m = s->matrix;
    const bool add = s->to == s->hidden;
    size_t from, to;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    mlxd_activations a = {s->from.x, s->from.z, s->n_out, m->cols};
    for (size_t t = 0; t < a.n; t += BLOCK) {
        mlxd_activations part = mlxd_activations_part(&a, t, MLXD_MIN(a.n - t, (size_t)BLOCK));
        s->l->k->matmul.product(m, &part, from, to, add, s->to + t * m->rows + from * ROWS,
                                m->rows);
    }
}

static void join_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_config *c = &s->l->c;
    size_t from, to, n = c->hidden;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++) {
        float *y = s->l->branch + t * n;
        if (s->bias)
            mlxd_vector_add(s->bias, n, y);
        if (s->post_norm)
            s->l->k->vector.rmsnorm(y, s->post_norm, n, c->rms_eps, y);
        if (c->residual_scale != 1)
            mlxd_vector_scale(c->residual_scale, n, y);
        mlxd_vector_add(y, n, s->hidden + t * n);
    }
}

void mlxd_pass_join(mlxd_pass *s, mlxd_pool *pool, const float *bias, const float *post_norm) {
    s->bias = bias;
    s->post_norm = post_norm;
    mlxd_pass_pieces(s, pool, s->n_out, TASK_BYTES, join_task);
}

void mlxd_pass_residual(mlxd_pass *s, mlxd_pool *pool, const mlxd_matrix *m, mlxd_inputs from,
                        const float *bias, const float *post_norm) {
    const bool joins = bias || post_norm || s->l->c.residual_scale != 1;
    s->matrix = m;
    s->from = from;
    s->to = joins ? s->l->branch : s->hidden;
    mlxd_pass_pieces(s, pool, mlxd_matrix_panels(m), mlxd_pass_bytes(m, ROWS), residual_task);
    if (joins)
        mlxd_pass_join(s, pool, bias, post_norm);
}

/* ---- a step ---- */

/* Cuts the last `wanted` tokens of each row, or all, into spans, and numbers them. */
static void list_spans(mlxd_pass *s, size_t n_rows, bool all) {
    mlxd_layers *l = s->l;
    s->n_spans = s->n_out = 0;
    size_t first = 0;
    for (size_t r = 0; r < n_rows; first += s->rows[r++].n_tokens) {
        const mlxd_row *row = &s->rows[r];
        size_t skip = all ? 0 : row->n_tokens - row->n_out;
        for (size_t i = skip; i < row->n_tokens; i++) {
            l->out_of[first + i] = (uint32_t)s->n_out++;
            if ((i - skip) % MLXD_PASS_SPAN == 0)
                l->spans[s->n_spans++] = (mlxd_span){(uint32_t)r, (uint32_t)(first + i), 0};
            l->spans[s->n_spans - 1].count++;
        }
    }
}

/* Makes layer `index` of the range the current one. */
static void enter_layer(mlxd_pass *s, uint32_t index) {
    mlxd_layers *l = s->l;
    const uint8_t kind = l->layers[index].kind;
    s->layer = &l->layers[index];
    s->layer_index = index;
    s->window = kind & MLXD_LAYER_WINDOW ? l->c.window : UINT32_MAX;
    s->rope = kind & MLXD_LAYER_NO_ROPE      ? NULL
              : kind & MLXD_LAYER_LOCAL_ROPE ? &l->rope[MLXD_ROPE_LOCAL]
                                             : &l->rope[MLXD_ROPE_GLOBAL];
}

/* A layer of which only some tokens are wanted. */
static void run_layer_wanted(mlxd_pass *s, mlxd_pool *pool, size_t n_rows) {
    mlxd_layers *l = s->l;
    size_t width = l->c.hidden;
    float *hidden = s->hidden;
    mlxd_pass_qkv(s, pool);
    list_spans(s, n_rows, false);
    if (s->n_out == 0)
        return;
    for (size_t i = 0; i < s->n_spans; i++) {
        const mlxd_span *span = &l->spans[i];
        memcpy(l->compact + l->out_of[span->first] * width, hidden + span->first * width,
               span->count * width * sizeof *hidden);
    }
    s->hidden = l->compact;
    mlxd_pass_attention(s, pool);
    mlxd_pass_ffn(s, pool);
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
        if (rows[r].position >= l->rope[0].positions ||
            rows[r].n_tokens > l->rope[0].positions - rows[r].position)
            return mlxd_fail(why, MLXD_ERR_RANGE, "positions %u..%llu are beyond the context of %u",
                             rows[r].position,
                             (unsigned long long)rows[r].position + rows[r].n_tokens - 1,
                             l->rope[0].positions);
        MLXD_ASSERT(rows[r].tokens == rows[0].tokens + *n && rows[r].n_out <= rows[r].n_tokens);
        mlxd_err err = mlxd_kv_begin(kv, rows[r].session, rows[r].position, rows[r].prefix_hash,
                                     rows[r].tokens, rows[r].n_tokens, &l->sessions[r], why);
        if (err)
            return err;
        for (int i = 0; i < MLXD_ROPE_TABLES; i++)
            if (l->rope[i].positions)
                mlxd_rope_reach(&l->rope[i], rows[r].position + rows[r].n_tokens);
        for (uint32_t i = 0; i < rows[r].n_tokens; i++)
            l->row_of[(*n)++] = (uint32_t)r;
    }
    return MLXD_OK;
}

/* All results that are defined: the spans are those of the last layer that ran. */
static mlxd_err check_finite(const mlxd_pass *s, uint32_t first, uint32_t end, mlxd_why *why) {
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
    mlxd_pass s = {.l = l, .kv = kv, .rows = rows, .hidden = hidden};
    mlxd_err err = begin_rows(l, kv, rows, n_rows, &s.n, why);
    if (err)
        return err;
    list_spans(&s, n_rows, true);
    for (uint32_t i = first; i < end; i++) {
        if (abort && abort->fn(abort->ctx))
            return MLXD_ERR_CANCELLED;
        enter_layer(&s, i - l->first);
        if (wanted_only && i + 1 == end) {
            run_layer_wanted(&s, pool, n_rows);
            break;
        }
        mlxd_pass_qkv(&s, pool);
        mlxd_pass_attention(&s, pool);
        mlxd_pass_ffn(&s, pool);
    }
    return check_finite(&s, first, end, why);
}
