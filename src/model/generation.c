/* generation.c - see generation.h. */
#include "model/generation.h"

#include "base/mem.h"

struct mlxd_generation {
    const mlxd_tokenizer *tokenizer;
    mlxd_sampler *sampler;
    mlxd_stop *stop;
    mlxd_detok detok;
    mlxd_reasoning split;
    mlxd_sample sample;
    mlxd_buf piece;   /* text of the last token */
    mlxd_buf content; /* of it, before stop strings */
    mlxd_buf reasoning, text;
    uint32_t tokens, reasoning_tokens, max_tokens;
    bool logprobs, ignore_end, ended;
    mlxd_finish finish;
};

const char *mlxd_finish_name(mlxd_finish f) {
    static const char *const names[] = {"", "stop", "length"};
    MLXD_ASSERT((unsigned)f < MLXD_COUNT_OF(names));
    return names[f];
}

mlxd_err mlxd_generation_open(mlxd_generation **out, const mlxd_generation_params *p,
                              const mlxd_tokenizer *t, uint32_t vocab, const int32_t *prompt,
                              size_t prompt_count, mlxd_why *why) {
    MLXD_ASSERT(p->max_tokens > 0);
    mlxd_generation *g = mlxd_mem_new(1, sizeof *g);
    if (!g)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    g->tokenizer = t;
    g->max_tokens = p->max_tokens;
    g->ignore_end = p->ignore_end;
    g->logprobs = p->sampling.logprobs;
    mlxd_detok_init(&g->detok);
    mlxd_buf_init(&g->piece, 0);
    mlxd_buf_init(&g->content, 0);
    mlxd_buf_init(&g->reasoning, 0);
    mlxd_buf_init(&g->text, 0);
    mlxd_reasoning_init(&g->split, p->reasoning, t, prompt, prompt_count);
    /* A row may be padded beyond the tokenizer's ids; those are never drawn. */
    uint32_t ids = (uint32_t)MLXD_MIN((size_t)vocab, mlxd_tokenizer_vocab(t));
    mlxd_err err = mlxd_sampler_open(&g->sampler, &p->sampling, vocab, ids, prompt, prompt_count,
                                     p->max_tokens, why);
    if (!err)
        err = mlxd_stop_open(&g->stop, p->stop, p->stop_count, why);
    /* Room for the text of some tokens, so that drawing does not allocate. */
    if (!err && (!mlxd_buf_reserve(&g->piece, 256) || !mlxd_buf_reserve(&g->content, 1024) ||
                 !mlxd_buf_reserve(&g->reasoning, 4096) || !mlxd_buf_reserve(&g->text, 4096)))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (err) {
        mlxd_generation_close(g);
        return err;
    }
    *out = g;
    return MLXD_OK;
}

void mlxd_generation_close(mlxd_generation *g) {
    if (!g)
        return;
    mlxd_buf_deinit(&g->text);
    mlxd_buf_deinit(&g->reasoning);
    mlxd_buf_deinit(&g->content);
    mlxd_buf_deinit(&g->piece);
    mlxd_stop_close(g->stop);
    mlxd_sampler_close(g->sampler);
    mlxd_mem_free(g);
}

static void split(mlxd_generation *g) {
    mlxd_reasoning_add(&g->split, (mlxd_slice){g->piece.data, g->piece.len}, &g->reasoning,
                       &g->content);
    g->content.failed = g->content.failed || g->piece.failed;
    mlxd_buf_clear(&g->piece);
}

/* Text of the last token. A control token has none, but may say what the text around it is; a
 * character cannot continue behind one that does. */
static void add_token(mlxd_generation *g, int32_t token) {
    bool inside = mlxd_reasoning_inside(&g->split);
    mlxd_slice name = mlxd_tokenizer_bytes(g->tokenizer, token);
    if (mlxd_tokenizer_is_control(g->tokenizer, token) && mlxd_reasoning_wants(&g->split, name)) {
        mlxd_detok_flush(&g->detok, &g->piece);
        split(g);
        mlxd_reasoning_control(&g->split, name, &g->reasoning, &g->content);
    } else {
        mlxd_detok_add(&g->detok, g->tokenizer, token, &g->piece);
        split(g);
    }
    g->reasoning_tokens += inside || mlxd_reasoning_inside(&g->split);
}

mlxd_err mlxd_generation_draw(mlxd_generation *g, mlxd_sampler_scratch *scratch,
                              const float *logits, uint32_t position, int32_t *token,
                              mlxd_finish *finish, mlxd_why *why) {
    MLXD_ASSERT(g->finish == MLXD_FINISH_NONE && g->tokens < g->max_tokens);
    mlxd_err err = mlxd_sampler_draw(g->sampler, scratch, logits, position, &g->sample, why);
    if (err)
        return err;
    *token = g->sample.token;
    g->tokens++;
    g->ended = !g->ignore_end && mlxd_reasoning_is_end(g->split.format, g->tokenizer, *token);
    mlxd_buf_clear(&g->content);
    if (g->ended)
        g->finish = MLXD_FINISH_STOP;
    else if (g->tokens == g->max_tokens)
        g->finish = MLXD_FINISH_LENGTH;
    if (!g->ended)
        add_token(g, *token);
    if (g->finish != MLXD_FINISH_NONE) {
        mlxd_detok_flush(&g->detok, &g->piece);
        split(g);
        mlxd_reasoning_end(&g->split, &g->reasoning, &g->content);
    }
    if (mlxd_stop_feed(g->stop, (mlxd_slice){g->content.data, g->content.len}, &g->text))
        g->finish = MLXD_FINISH_STOP;
    else if (g->finish != MLXD_FINISH_NONE)
        mlxd_stop_flush(g->stop, &g->text);
    if (g->content.failed || g->reasoning.failed || g->text.failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the answer's text");
    *finish = g->finish;
    return MLXD_OK;
}

const mlxd_sample *mlxd_generation_sample(const mlxd_generation *g) {
    return &g->sample;
}

mlxd_buf *mlxd_generation_text(mlxd_generation *g) {
    return &g->text;
}

mlxd_buf *mlxd_generation_reasoning(mlxd_generation *g) {
    return &g->reasoning;
}

uint32_t mlxd_generation_tokens(const mlxd_generation *g) {
    return g->tokens;
}

uint32_t mlxd_generation_reasoning_tokens(const mlxd_generation *g) {
    return g->reasoning_tokens;
}

bool mlxd_generation_ended(const mlxd_generation *g) {
    return g->ended;
}

mlxd_finish mlxd_generation_finish(const mlxd_generation *g) {
    return g->finish;
}

bool mlxd_generation_wants_logprobs(const mlxd_generation *g) {
    return g->logprobs;
}

bool mlxd_generation_digest(const mlxd_generation *g, char hex[MLXD_SHA256_HEX]) {
    return mlxd_sampler_get_digest(g->sampler, hex);
}
