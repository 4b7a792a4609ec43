/* head.c - see head.h. Logits are made for MLXD_VOCAB_ROWS rows at a time, so that their memory is
 * bounded whatever the batch. */
#include "backend/head.h"

#include "base/clock.h"
#include "base/mem.h"

struct mlxd_head {
    mlxd_driver *driver;
    mlxd_vocab *vocab;
    uint32_t n_vocab, width;
    float *logits; /* [MLXD_VOCAB_ROWS][n_vocab] */
    float *states; /* [MLXD_VOCAB_ROWS][width]: hidden states of the rows that draw */
    mlxd_sampler_scratch *scratch;
    mlxd_head_done *done;
    void *done_ctx;
};

mlxd_err mlxd_head_open(mlxd_head **out, mlxd_driver *driver, mlxd_vocab *vocab,
                        const mlxd_config *c, mlxd_why *why) {
    mlxd_head *h = mlxd_mem_new(1, sizeof *h);
    if (h) {
        h->driver = driver;
        h->n_vocab = c->vocab;
        h->width = c->hidden;
        h->logits = mlxd_mem_new((size_t)MLXD_VOCAB_ROWS * c->vocab, sizeof *h->logits);
        h->states = mlxd_mem_new((size_t)MLXD_VOCAB_ROWS * c->hidden, sizeof *h->states);
        h->scratch = mlxd_sampler_scratch_open(c->vocab);
    }
    if (!h || !h->logits || !h->states || !h->scratch) {
        mlxd_head_close(h);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for logits");
    }
    h->vocab = vocab;
    *out = h;
    return MLXD_OK;
}

void mlxd_head_close(mlxd_head *h) {
    if (!h)
        return;
    mlxd_sampler_scratch_close(h->scratch);
    mlxd_mem_free(h->states);
    mlxd_mem_free(h->logits);
    mlxd_vocab_close(h->vocab);
    mlxd_mem_free(h);
}

void mlxd_head_set_done(mlxd_head *h, mlxd_head_done *done, void *ctx) {
    h->done = done;
    h->done_ctx = ctx;
}

const mlxd_vocab *mlxd_head_vocab(const mlxd_head *h) {
    return h->vocab;
}

static void embed_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_head *h = a;
    mlxd_step *s = b;
    mlxd_why why = {0};
    (void)pool;
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_vocab_embed(h->vocab, s->tokens, s->n_tokens, s->hidden);
    s->compute_ns = mlxd_clock_now_ns() - t0;
    h->done(h->done_ctx, s, false, MLXD_OK, &why);
}

/* Rows that draw, collected until there are MLXD_VOCAB_ROWS of them. */
struct batch {
    uint32_t rows[MLXD_VOCAB_ROWS];
    uint32_t n;
};

static mlxd_err draw_batch(mlxd_head *h, mlxd_pool *pool, mlxd_step *s, struct batch *b,
                           mlxd_why *why) {
    if (b->n == 0)
        return MLXD_OK;
    mlxd_vocab_logits(h->vocab, pool, h->states, b->n, h->logits);
    for (uint32_t i = 0; i < b->n; i++) {
        uint32_t r = b->rows[i];
        mlxd_err err = mlxd_generation_draw(
            s->generations[r], h->scratch, h->logits + (size_t)i * h->n_vocab,
            s->rows[r].position + s->rows[r].n_tokens, &s->drawn[r], &s->finish[r], why);
        if (err)
            return err;
    }
    b->n = 0;
    return MLXD_OK;
}

static void draw_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_head *h = a;
    mlxd_step *s = b;
    mlxd_why why = {0};
    mlxd_err err = MLXD_OK;
    struct batch batch = {.n = 0};
    uint64_t t0 = mlxd_clock_now_ns();
    uint32_t at = 0; /* hidden state of the row's first wanted token */
    for (uint32_t r = 0; r < s->n_rows && !err; at += s->rows[r++].n_out) {
        if (!s->generations[r])
            continue;
        MLXD_ASSERT(s->rows[r].n_out == 1 && at < s->n_hidden);
        const float *state = s->hidden + (size_t)at * h->width;
        float *copy = h->states + (size_t)batch.n * h->width;
        for (uint32_t i = 0; i < h->width; i++)
            copy[i] = state[i];
        batch.rows[batch.n++] = r;
        if (batch.n == MLXD_VOCAB_ROWS)
            err = draw_batch(h, pool, s, &batch, &why);
    }
    if (!err)
        err = draw_batch(h, pool, s, &batch, &why);
    s->compute_ns = mlxd_clock_now_ns() - t0;
    h->done(h->done_ctx, s, true, err, &why);
}

void mlxd_head_embed(mlxd_head *h, mlxd_step *step) {
    MLXD_ASSERT(h->done && step->width == h->width);
    mlxd_driver_post(h->driver, (mlxd_job){embed_job, h, step});
}

void mlxd_head_draw(mlxd_head *h, mlxd_step *step) {
    MLXD_ASSERT(h->done && step->width == h->width);
    mlxd_driver_post(h->driver, (mlxd_job){draw_job, h, step});
}
