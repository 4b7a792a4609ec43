/* layers_experts.c - feed-forward by a mixture of experts; see layers_step.c.
 *
 *   router      rows:            product: the logits of all experts, for each token
 *   choose      tokens:          the experts with the largest logits, and their weights
 *   gather      slots:           (many tokens) what the experts read, expert by expert
 *   gate, up    expert x 32 rows: as in a dense layer
 *   down        rows:            expert after expert: product > bias > weight, and the sum
 *
 * A slot is a token at one of its experts. Slots are sorted by expert and, within it, by token, so
 * an expert's weights are read once for all of its tokens, and an expert that nobody chose is not
 * read at all. A task of `down` owns some columns of the result and walks through the experts in
 * ascending order: so the sum over a token's experts always has the same shape,
 *
 *     y = +0; for its experts ascending: y = y + w * (down(...) + bias);  hidden = hidden + y
 *
 * whoever shares the step.
 *
 * One decoding token needs no gathering: all of its experts read the same.
 */
#include "model/layers_internal.h"

#include "kernel/math.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define BLOCK MLXD_PASS_BLOCK
#define BUFFER (BLOCK * 2 * ROWS) /* results of down that a task holds at a time */
#define TOKEN_BYTES (32u << 10)   /* what choosing or gathering counts as */

/* ---- choosing ---- */

static void choose_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_config *c = &s->l->c;
    const mlxd_routing *r = &s->l->routing;
    size_t from, to, used = c->experts_used;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t t = from; t < to; t++) {
        float *logits = r->logits + t * c->experts;
        if (s->layer->router_bias)
            mlxd_vector_add(s->layer->router_bias, c->experts, logits);
        mlxd_experts_choose(logits, c->experts, c->experts_used, c->expert_renorm,
                            r->chosen + t * used, r->weight + t * used);
    }
}

void mlxd_experts_choose(const float *logits, uint32_t experts, uint32_t used, bool renorm,
                         uint32_t *ids, float *weights) {
    MLXD_ASSERT(used > 0 && used <= experts);
    bool taken[MLXD_LIMIT_EXPERTS] = {false};
    float top = 0, sum = 0;
    for (uint32_t n = 0; n < used; n++) {
        uint32_t best = experts;
        for (uint32_t e = 0; e < experts; e++) { /* a NaN is the largest: it will show */
            bool first = best == experts, stays = !first && logits[best] != logits[best];
            if (!taken[e] && (first || (!stays && !(logits[e] <= logits[best]))))
                best = e;
        }
        top = n == 0 ? logits[best] : top;
        taken[best] = true;
        ids[n] = best;
    }
    for (uint32_t i = 1; i < used; i++) /* by insertion: a handful */
        for (uint32_t j = i; j > 0 && ids[j - 1] > ids[j]; j--) {
            uint32_t id = ids[j];
            ids[j] = ids[j - 1];
            ids[j - 1] = id;
        }
    for (uint32_t i = 0; i < used; i++) {
        weights[i] = mlxd_exp_f32(logits[ids[i]] - top);
        sum += renorm ? weights[i] : 0;
    }
    for (uint32_t e = 0; e < experts && !renorm; e++)
        sum += mlxd_exp_f32(logits[e] - top);
    for (uint32_t i = 0; i < used; i++)
        weights[i] = weights[i] / sum;
}

static void router_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_matrix *m = &s->layer->router;
    size_t from, to;
    mlxd_pass_pieces_of(s, task, &from, &to);
    mlxd_activations a = mlxd_pass_normed(s, thread);
    s->l->k->matmul.product(m, &a, from, to, false, s->l->routing.logits + from * ROWS, m->rows);
}

/* Gives every token a slot at each of its experts, and lists the experts that have any. */
static void sort_slots(mlxd_pass *s) {
    mlxd_layers *l = s->l;
    mlxd_routing *r = &l->routing;
    const uint32_t experts = l->c.experts, used = l->c.experts_used;
    const size_t slots = s->n_out * used;
    memset(r->first, 0, (experts + 1) * sizeof *r->first);
    for (size_t i = 0; i < slots; i++)
        r->first[r->chosen[i] + 1]++;
    s->n_groups = s->group_max = 0;
    for (uint32_t e = 0; e < experts; e++) {
        uint32_t count = r->first[e + 1];
        if (count > 0)
            l->groups[s->n_groups++] = (mlxd_group){e, r->first[e], count};
        s->group_max = MLXD_MAX(s->group_max, (size_t)count);
        r->first[e + 1] += r->first[e];
    }
    for (size_t g = 0; g < s->n_groups; g++)
        for (uint32_t i = 0; i < l->groups[g].count; i++)
            r->group[l->groups[g].first + i] = (uint32_t)g;
    for (size_t i = 0; i < slots; i++) { /* first[e] becomes the end of e's slots */
        uint32_t slot = r->first[r->chosen[i]]++;
        r->token[slot] = (uint32_t)(i / used);
        r->share[slot] = r->weight[i];
    }
}

/* ---- computing ---- */

/* What an expert reads, or what its down matrix reads: rows of `k` columns from its first slot. */
static mlxd_inputs inputs_of(mlxd_inputs all, const mlxd_group *g, size_t k) {
    return (mlxd_inputs){all.x ? all.x + g->first * k : NULL,
                         mlxd_quants_skip(all.z, g->first * (k / MLXD_GROUP))};
}

static void gather_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_layers *l = s->l;
    const mlxd_routing *r = &l->routing;
    const size_t k = l->c.hidden;
    size_t from, to;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t i = from; i < to; i++) {
        const mlxd_group *g = &l->groups[r->group[i]];
        const float *x = l->in.x + r->token[i] * k;
        if (s->quantize)
            mlxd_pass_quantize(s, x, 0, k, inputs_of(r->in, g, k).z, g->count, k, i - g->first);
        if (r->in.x)
            memcpy(r->in.x + i * k, x, k * sizeof *x);
    }
}

static mlxd_expert expert_of(const mlxd_pass *s, const mlxd_group *g) {
    const mlxd_layer *layer = s->layer;
    const mlxd_config *c = &s->l->c;
    size_t e = g->expert;
    const float *gate = layer->bias[MLXD_GATE], *up = layer->bias[MLXD_UP];
    return (mlxd_expert){layer->m[MLXD_GATE] + e,
                         layer->m[MLXD_UP] + e,
                         layer->m[MLXD_DOWN] + e,
                         gate ? gate + e * c->expert_ffn : NULL,
                         up ? up + e * c->expert_ffn : NULL,
                         inputs_of(s->l->routing.mid, g, c->expert_ffn)};
}

static void gate_up_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_layers *l = s->l;
    const size_t each = mlxd_pass_gate_up_pieces(s->layer->m[MLXD_GATE]);
    size_t from, to;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t i = from, end; i < to; i = end) {
        const mlxd_group *g = &l->groups[i / each];
        const mlxd_expert e = expert_of(s, g);
        const size_t first = i / each * each;
        end = MLXD_MIN(to, first + each);
        mlxd_activations a;
        if (s->n_out == 1) {
            a = mlxd_pass_normed(s, thread);
        } else {
            mlxd_inputs in = inputs_of(l->routing.in, g, l->c.hidden);
            a = (mlxd_activations){in.x, in.z, g->count, l->c.hidden};
        }
        mlxd_pass_gate_up(s, &e, &a, i - first, end - first);
    }
}

/* Rows of panels [p0, p1) of down: every expert's results, weighted and added up in l->branch. */
static void add_experts(const mlxd_pass *s, size_t p0, size_t p1) {
    const mlxd_layers *l = s->l;
    const mlxd_routing *r = &l->routing;
    const float *bias = s->layer->bias[MLXD_DOWN];
    const size_t hidden = l->c.hidden, k = l->c.expert_ffn, col0 = p0 * ROWS;
    const size_t cols = MLXD_MIN(p1 * ROWS, hidden) - col0, ld = (p1 - p0) * ROWS;
    float out[BUFFER] MLXD_UNCLEARED;
    for (size_t g = 0; g < s->n_groups; g++) {
        const mlxd_group *group = &l->groups[g];
        mlxd_inputs in = inputs_of(r->mid, group, k);
        mlxd_activations all = {in.x, in.z, group->count, k};
        for (size_t t = 0; t < group->count; t += BLOCK) {
            mlxd_activations part =
                mlxd_activations_part(&all, t, MLXD_MIN(group->count - t, (size_t)BLOCK));
            l->k->matmul.product(s->layer->m[MLXD_DOWN] + group->expert, &part, p0, p1, false, out,
                                 ld);
            for (size_t i = 0; i < part.n; i++) {
                size_t slot = group->first + t + i;
                if (bias)
                    mlxd_vector_add(bias + group->expert * hidden + col0, cols, out + i * ld);
                mlxd_vector_add_scaled(r->share[slot], out + i * ld, cols,
                                       l->branch + r->token[slot] * hidden + col0);
            }
        }
    }
}

static void down_task(void *ctx, size_t task, unsigned thread) {
    mlxd_pass *s = ctx;
    const mlxd_layers *l = s->l;
    const size_t hidden = l->c.hidden;
    const size_t at_once = BUFFER / ROWS / MLXD_MIN(s->group_max, (size_t)BLOCK);
    size_t from, to;
    (void)thread;
    mlxd_pass_pieces_of(s, task, &from, &to);
    for (size_t p = from, end; p < to; p = end) {
        end = MLXD_MIN(to, p + at_once);
        const size_t col0 = p * ROWS, cols = MLXD_MIN(end * ROWS, hidden) - col0;
        for (size_t t = 0; t < s->n_out; t++)
            memset(l->branch + t * hidden + col0, 0, cols * sizeof(float));
        add_experts(s, p, end);
    }
}

void mlxd_pass_experts(mlxd_pass *s, mlxd_pool *pool) {
    const mlxd_layer *layer = s->layer;
    const mlxd_config *c = &s->l->c;
    const mlxd_matrix *router = &layer->router, *gate = layer->m[MLXD_GATE];
    const mlxd_matrix *up = layer->m[MLXD_UP], *down = layer->m[MLXD_DOWN];
    const bool quantized =
        mlxd_format_is_quantized(gate->format) || mlxd_format_is_quantized(up->format);
    s->quantize = mlxd_format_is_quantized(router->format) || (quantized && s->n_out == 1);
    mlxd_pass_norm(s, pool, layer->ffn_norm, s->n_out == 1 && mlxd_pass_is_small(s));
    mlxd_pass_pieces(s, pool, mlxd_matrix_panels(router), mlxd_pass_bytes(router, ROWS),
                     router_task);
    mlxd_pass_pieces(s, pool, s->n_out, TOKEN_BYTES, choose_task);
    sort_slots(s);
    s->quantize = quantized;
    if (s->n_out > 1)
        mlxd_pass_pieces(s, pool, s->n_out * c->experts_used, TOKEN_BYTES, gather_task);
    mlxd_pass_pieces(s, pool, s->n_groups * mlxd_pass_gate_up_pieces(gate),
                     mlxd_pass_gate_up_bytes(gate, up), gate_up_task);
    mlxd_pass_pieces(s, pool, mlxd_matrix_panels(down), s->n_groups * mlxd_pass_bytes(down, ROWS),
                     down_task);
    mlxd_pass_join(s, pool, NULL, layer->ffn_post_norm);
}
