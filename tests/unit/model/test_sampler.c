/* test_sampler.c - the sampler against (a) published and hand-computed values, (b) draws computed
 * by an independent implementation in f64 (a Python script's numbers, and a slow one in this file
 * that sorts and uses libm), (c) the frequencies that the probabilities promise.
 *
 * Everything is seeded with constants, so a result never varies from run to run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "model/philox.h"
#include "model/sampler.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED UINT64_C(0x0123456789abcdef)
#define ROW_MAX 4096

/* ---- helpers ---- */

static uint64_t random_state = 1;

static uint32_t random_u32(uint32_t below) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % below);
}

static double random_unit(void) {
    return random_u32(1u << 30) / (double)(1u << 30);
}

static mlxd_sampling make_params(double temperature) {
    mlxd_sampling p;
    mlxd_sampling_init(&p);
    p.temperature = temperature;
    p.seed = SEED;
    return p;
}

static mlxd_sampler *open_sampler(const mlxd_sampling *p, uint32_t row_len, uint32_t vocab,
                                  const int32_t *prompt, size_t count, size_t tokens_max) {
    mlxd_sampler *s;
    mlxd_why why = {""};
    if (mlxd_sampler_open(&s, p, row_len, vocab, prompt, count, tokens_max, &why) != MLXD_OK)
        fail_msg("open: %s", why.text);
    return s;
}

static mlxd_sample draw(mlxd_sampler *s, mlxd_sampler_scratch *t, const float *x, uint64_t at) {
    mlxd_sample out;
    mlxd_why why = {""};
    if (mlxd_sampler_draw(s, t, x, at, &out, &why) != MLXD_OK)
        fail_msg("draw: %s", why.text);
    return out;
}

/* One draw of a fresh sampler without a prompt. */
static int32_t draw_once(const mlxd_sampling *p, const float *x, uint32_t vocab, uint64_t at) {
    mlxd_sampler *s = open_sampler(p, vocab, vocab, NULL, 0, 1);
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(vocab);
    assert_non_null(t);
    int32_t token = draw(s, t, x, at).token;
    mlxd_sampler_scratch_close(t);
    mlxd_sampler_close(s);
    return token;
}

/* The set of tokens that 400 draws give, as a bit mask (vocab <= 32). */
static uint32_t draw_set(const mlxd_sampling *p, const float *x, uint32_t vocab) {
    uint32_t set = 0;
    for (uint64_t at = 0; at < 400; at++)
        set |= 1u << draw_once(p, x, vocab, at);
    return set;
}

/* ---- Philox ---- */

/* Random123's kat_vectors file, "philox4x32 10". */
static void philox_gives_the_published_answers(void **state) {
    (void)state;
    static const struct {
        mlxd_philox_block counter;
        uint64_t key;
        mlxd_philox_block want;
    } rows[] = {
        {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
         UINT64_MAX,
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         UINT64_C(0x299f31d0a4093822),
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_philox_block got = mlxd_philox_get(rows[i].counter, rows[i].key);
        assert_memory_equal(got.word, rows[i].want.word, sizeof got.word);
    }
}

/* ---- parameters ---- */

static void expect_refused(const mlxd_sampling *p, uint32_t vocab, const char *name) {
    const char *param = "";
    mlxd_why why = {""};
    assert_int_equal(mlxd_sampling_check(p, vocab, &param, &why), MLXD_ERR_INVALID);
    assert_string_equal(param, name);
    assert_non_null(strstr(why.text, name));
    mlxd_sampler *s = (void *)&why;
    assert_int_equal(mlxd_sampler_open(&s, p, vocab, vocab, NULL, 0, 1, &why), MLXD_ERR_INVALID);
    assert_null(s);
    assert_int_equal(mlxd_sampling_check(p, vocab, NULL, NULL), MLXD_ERR_INVALID);
}

static void every_range_is_checked_by_name(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t offset;
        double min, max;
    } rows[] = {
        {"temperature", offsetof(mlxd_sampling, temperature), 0, 2},
        {"top_p", offsetof(mlxd_sampling, top_p), 0, 1},
        {"min_p", offsetof(mlxd_sampling, min_p), 0, 1},
        {"repetition_penalty", offsetof(mlxd_sampling, repetition_penalty), 0.01, 100},
        {"presence_penalty", offsetof(mlxd_sampling, presence_penalty), -2, 2},
        {"frequency_penalty", offsetof(mlxd_sampling, frequency_penalty), -2, 2},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        const double bad[] = {rows[i].min - 1e-9, rows[i].max + 1e-9, NAN,
                              INFINITY,           -INFINITY,          DBL_MAX};
        const double good[] = {rows[i].min, rows[i].max};
        mlxd_sampling p = make_params(1.0);
        double *field = (double *)(void *)((char *)&p + rows[i].offset);
        for (size_t j = 0; j < MLXD_COUNT_OF(bad); j++) {
            *field = bad[j];
            expect_refused(&p, 10, rows[i].name);
        }
        for (size_t j = 0; j < MLXD_COUNT_OF(good); j++) {
            *field = good[j];
            assert_int_equal(mlxd_sampling_check(&p, 10, NULL, NULL), MLXD_OK);
        }
    }
    mlxd_sampling p = make_params(1.0);
    p.top_k = -2;
    expect_refused(&p, 10, "top_k");
    p.top_k = INT32_MAX;
    assert_int_equal(mlxd_sampling_check(&p, 10, NULL, NULL), MLXD_OK);
    p.top_logprobs = 1; /* without logprobs */
    expect_refused(&p, 10, "top_logprobs");
    p.logprobs = true;
    p.top_logprobs = 20;
    assert_int_equal(mlxd_sampling_check(&p, 10, NULL, NULL), MLXD_OK);
    p.top_logprobs = 21;
    expect_refused(&p, 10, "top_logprobs");
    p.top_logprobs = -1;
    expect_refused(&p, 10, "top_logprobs");
}

static void logit_bias_is_checked(void **state) {
    (void)state;
    static const mlxd_logit_bias bad[][2] = {
        {{0, 1}, {10, 1}},      {{0, 1}, {-1, 1}},        {{0, 1}, {1, 100.01}},
        {{0, 1}, {1, -100.01}}, {{0, 1}, {1, NAN}},       {{0, 1}, {1, -INFINITY}},
        {{0, 1}, {0, 2}},       {{INT32_MAX, 1}, {1, 1}}, {{INT32_MIN, 1}, {1, 1}},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        mlxd_sampling p = make_params(1.0);
        p.bias = bad[i];
        p.bias_count = 2;
        expect_refused(&p, 10, "logit_bias");
    }
    mlxd_logit_bias many[MLXD_LIMIT_LOGIT_BIAS + 1];
    for (int32_t i = 0; i <= MLXD_LIMIT_LOGIT_BIAS; i++)
        many[i] = (mlxd_logit_bias){i, -100};
    mlxd_sampling p = make_params(1.0);
    p.bias = many;
    p.bias_count = MLXD_COUNT_OF(many);
    expect_refused(&p, 5000, "logit_bias");
    p.bias_count--;
    assert_int_equal(mlxd_sampling_check(&p, 5000, NULL, NULL), MLXD_OK);
    /* Nothing would be left to draw: refused before any compute. */
    expect_refused(&p, MLXD_LIMIT_LOGIT_BIAS, "logit_bias");
    assert_int_equal(mlxd_sampling_check(&p, MLXD_LIMIT_LOGIT_BIAS + 1, NULL, NULL), MLXD_OK);
}

static void prompt_ids_are_checked(void **state) {
    (void)state;
    const int32_t prompts[][2] = {{1, 10}, {1, -1}, {1, INT32_MAX}};
    mlxd_sampling p = make_params(1.0);
    for (int penalty = 0; penalty < 2; penalty++) {
        p.repetition_penalty = penalty ? 1.5 : 1.0;
        for (size_t i = 0; i < MLXD_COUNT_OF(prompts); i++) {
            mlxd_sampler *s;
            mlxd_why why = {""};
            assert_int_equal(mlxd_sampler_open(&s, &p, 12, 10, prompts[i], 2, 5, &why),
                             MLXD_ERR_INVALID);
            assert_null(s);
            assert_non_null(strstr(why.text, "index 1"));
        }
    }
}

/* ---- hand-made logits ---- */

static void greedy_takes_the_lowest_id_of_the_best(void **state) {
    (void)state;
    mlxd_sampling p = make_params(0.0);
    assert_int_equal(draw_once(&p, (float[]){1, 3, 2, 3}, 4, 0), 1);
    assert_int_equal(draw_once(&p, (float[]){-0.0f, 0.0f, -1}, 3, 0), 0);
    assert_int_equal(draw_once(&p, (float[]){-7}, 1, 0), 0);
    p.temperature = 9.9e-6;
    assert_int_equal(draw_once(&p, (float[]){1, 1, 1}, 3, 0), 0);
    for (uint64_t at = 0; at < 20; at++) /* parameters that only matter when drawing */
        assert_int_equal(draw_once(&p, (float[]){1, 3, 2, 3}, 4, at), 1);
}

/* Equal logits make the token floor(vocab * u); u is Philox's published first block, 0.8805. */
static void a_uniform_draw_is_the_random_number(void **state) {
    (void)state;
    float zeros[1000] = {0};
    mlxd_sampling p = make_params(1.0);
    p.seed = 0;
    assert_int_equal(draw_once(&p, zeros, 4, 0), 3);
    assert_int_equal(draw_once(&p, zeros, 8, 0), 7);
    assert_int_equal(draw_once(&p, zeros, 1000, 0), 880);
}

static void padding_is_never_drawn(void **state) {
    (void)state;
    const float x[8] = {0, 1, 0, 1, 1e30f, 50, 50, 50};
    mlxd_sampling p = make_params(2.0);
    p.logprobs = true;
    p.top_logprobs = 20;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(4);
    for (int greedy = 0; greedy < 2; greedy++) {
        p.temperature = greedy ? 0.0 : 2.0;
        mlxd_sampler *s = open_sampler(&p, 8, 4, NULL, 0, 200);
        for (uint64_t at = 0; at < 200; at++) {
            mlxd_sample out = draw(s, t, x, at);
            assert_in_range(out.token, 0, 3);
            assert_int_equal(out.top_count, 4);
            double sum = 0;
            for (uint32_t i = 0; i < 4; i++)
                sum += exp(out.top[i].logprob);
            assert_true(fabs(sum - 1.0) < 1e-12);
        }
        mlxd_sampler_close(s);
    }
    mlxd_sampler_scratch_close(t);
}

static void bias_moves_bans_and_forces(void **state) {
    (void)state;
    const float x[5] = {1, 2, 3, 4, 5};
    mlxd_sampling p = make_params(0.0);
    p.bias = (mlxd_logit_bias[]){{1, 3.5}};
    p.bias_count = 1;
    assert_int_equal(draw_once(&p, x, 5, 0), 1); /* 5.5 beats 5 */
    p.bias = (mlxd_logit_bias[]){{4, -100}, {3, -100}};
    p.bias_count = 2;
    assert_int_equal(draw_once(&p, x, 5, 0), 2);
    p.temperature = 2.0;
    assert_int_equal(draw_set(&p, x, 5), 0x07);
    /* A ban holds whatever the logits are, and against every penalty that would lift a token. */
    const float wild[5] = {-1e30f, -1e30f, 0, 1e30f, FLT_MAX};
    p.repetition_penalty = 0.01;
    p.presence_penalty = p.frequency_penalty = -2;
    assert_int_equal(draw_once(&p, wild, 5, 0), 2);
    p.bias = (mlxd_logit_bias[]){{0, 100}};
    p.bias_count = 1;
    assert_int_equal(draw_set(&p, x, 5), 0x01);
    /* Four of five banned: the last one left is drawn, however unlikely. */
    p.bias = (mlxd_logit_bias[]){{4, -100}, {3, -100}, {2, -100}, {1, -100}};
    p.bias_count = 4;
    assert_int_equal(draw_set(&p, wild, 5), 0x01);
}

/* Greedy draws from one row, so that each penalty's arithmetic shows in which token wins when. */
static void expect_draws(const mlxd_sampling *p, const float *x, uint32_t vocab,
                         const int32_t *prompt, size_t count, const int32_t *want, size_t wanted) {
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(vocab);
    mlxd_sampler *s = open_sampler(p, vocab, vocab, prompt, count, wanted);
    for (size_t i = 0; i < wanted; i++)
        assert_int_equal(draw(s, t, x, i).token, want[i]);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

static void penalties_follow_their_definitions(void **state) {
    (void)state;
    mlxd_sampling p = make_params(0.0);
    /* Repetition: positive logits are divided, negative ones multiplied, the prompt counts, and
     * a token is penalised once however often it came. 8/2 = 4; -1*2 = -2. */
    p.repetition_penalty = 2.0;
    const int32_t prompt[] = {0, 3, 3, 3, 0};
    expect_draws(&p, (float[]){8, 4.5f, -9, 1}, 4, prompt, 5, (int32_t[]){1, 0, 0}, 3);
    expect_draws(&p, (float[]){-1, -1.5f, -2.5f, -1.5f}, 4, prompt, 5, (int32_t[]){1, 0, 0}, 3);
    p.repetition_penalty = 0.5; /* a reward: 3 rises to 2 */
    expect_draws(&p, (float[]){0, 1.5f, 1.9f, 1}, 4, prompt, 5, (int32_t[]){3, 3}, 2);

    /* Frequency: each draw takes 0.75; the prompt does not count.
     * 3, 2.25, 1.5 against 2: token 0 twice, then 1, then (1.5 against 1.25) 0. */
    p.repetition_penalty = 1.0;
    p.frequency_penalty = 0.75;
    expect_draws(&p, (float[]){3, 2, -5}, 3, (int32_t[]){0, 0, 0, 0}, 4, (int32_t[]){0, 0, 1, 0},
                 4);
    /* Presence: 1.5 once. 3 -> 1.5 for good; 2 -> 0.5. */
    p.frequency_penalty = 0.0;
    p.presence_penalty = 1.5;
    expect_draws(&p, (float[]){3, 2, -5}, 3, (int32_t[]){0}, 1, (int32_t[]){0, 1, 0, 0, 0}, 5);
    /* Together, repetition first: 6/2 - 1 - 1.5 = 0.5 (the other order would give 1.75). */
    p.repetition_penalty = 2.0;
    p.frequency_penalty = 1.0;
    expect_draws(&p, (float[]){6, 1, -50}, 3, NULL, 0, (int32_t[]){0, 1}, 2);
    /* Bias before penalties: (4 + 4) / 2 = 4 < 5, not 4 / 2 + 4 = 6. */
    p.frequency_penalty = p.presence_penalty = 0.0;
    p.bias = (mlxd_logit_bias[]){{0, 4}};
    p.bias_count = 1;
    expect_draws(&p, (float[]){4, 5}, 2, (int32_t[]){0}, 1, (int32_t[]){1}, 1);
}

static void penalties_count_more_tokens_than_the_vocabulary_has(void **state) {
    (void)state;
    /* Falling logits and a frequency penalty: round robin in an order that hits the middle of the
     * table of seen tokens, for far more draws than there are tokens. */
    enum { VOCAB = 97, DRAWS = 1000 };
    float x[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)((i * 31) % VOCAB) / 128.0f; /* all within 1 */
    mlxd_sampling p = make_params(0.0);
    p.frequency_penalty = 1.0;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(VOCAB);
    mlxd_sampler *s = open_sampler(&p, VOCAB, VOCAB, NULL, 0, SIZE_MAX);
    int order[VOCAB], counts[VOCAB] = {0};
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = draw(s, t, x, (uint64_t)i).token;
        counts[token]++;
        if (i < VOCAB)
            order[i] = token;
        assert_int_equal(token, order[i % VOCAB]);
    }
    for (int i = 0; i < VOCAB; i++)
        assert_in_range(counts[i], DRAWS / VOCAB, DRAWS / VOCAB + 1);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

/* exp: 1, .5, .25, .125 ... of the best: every second power of two has a known probability. */
static void filters_keep_the_right_set(void **state) {
    (void)state;
    const float ln2 = 0.69314718f;
    const float x[6] = {-1 * ln2, 0, -3 * ln2, -2 * ln2, -4 * ln2, 0}; /* .5 1 .125 .25 .0625 1 */
    mlxd_sampling p = make_params(1.0);
    assert_int_equal(draw_set(&p, x, 6), 0x3f);
    p.top_k = -1;
    assert_int_equal(draw_set(&p, x, 6), 0x3f);
    p.top_k = 6;
    assert_int_equal(draw_set(&p, x, 6), 0x3f);
    p.top_k = 3;
    assert_int_equal(draw_set(&p, x, 6), 0x23);
    p.top_k = 1; /* a tie: exactly one stays, the lowest id */
    assert_int_equal(draw_set(&p, x, 6), 0x02);
    p.top_k = 0;
    p.min_p = 0.2;
    assert_int_equal(draw_set(&p, x, 6), 0x2b);
    p.min_p = 1.0;
    assert_int_equal(draw_set(&p, x, 6), 0x22);
    p.min_p = 0.0; /* sums in order 1, 5, 0, 3, 2, 4 of 2.9375: 1, 2, 2.5, 2.75, 2.875 */
    p.top_p = 0.3;
    assert_int_equal(draw_set(&p, x, 6), 0x02);
    p.top_p = 0.68; /* 2 / 2.9375 = 0.6809 reaches it */
    assert_int_equal(draw_set(&p, x, 6), 0x22);
    p.top_p = 0.69; /* the token that crosses stays */
    assert_int_equal(draw_set(&p, x, 6), 0x23);
    p.top_p = 0.0;
    assert_int_equal(draw_set(&p, x, 6), 0x02);
    p.top_p = 1.0 - 1e-12;
    assert_int_equal(draw_set(&p, x, 6), 0x3f);
    /* top_p is a share of what top_k and min_p have left: 2 of 2.5 is 0.8. */
    p.top_p = 0.79;
    assert_int_equal(draw_set(&p, x, 6), 0x23);
    p.top_k = 3;
    assert_int_equal(draw_set(&p, x, 6), 0x22);
    p.top_k = 0;
    p.min_p = 0.4;
    assert_int_equal(draw_set(&p, x, 6), 0x22);
    /* Filters come after temperature: at T = 0.5 the ratios are 1, 1, .25, .0625 ... */
    p.temperature = 0.5;
    p.min_p = 0.2;
    p.top_p = 1.0;
    assert_int_equal(draw_set(&p, x, 6), 0x23);
    p.temperature = 2.0;
    p.min_p = 0.49; /* ratio .25 becomes .5 */
    assert_int_equal(draw_set(&p, x, 6), 0x2b);
}

/* Values that differ only before the best one is subtracted keep their order. */
static void filters_see_the_smallest_difference(void **state) {
    (void)state;
    const float x[4] = {1e-9f, 2e-9f, 0, 2};
    mlxd_sampling p = make_params(2.0);
    p.top_k = 2;
    assert_int_equal(draw_set(&p, x, 4), 0x0a);
    p.top_k = 3;
    assert_int_equal(draw_set(&p, x, 4), 0x0b);
    p.top_k = 0;
    p.top_p = 0.6; /* e / (e + 3) = 0.475, (e + 1) / (e + 3) = 0.65 */
    assert_int_equal(draw_set(&p, x, 4), 0x0a);
}

static void filters_cut_long_ties_at_the_lowest_ids(void **state) {
    (void)state;
    float x[32] = {0};
    mlxd_sampling p = make_params(1.0);
    p.top_k = 5;
    assert_int_equal(draw_set(&p, x, 32), 0x1f);
    p.top_k = 0;
    p.top_p = 0.25; /* exactly 8 of 32 */
    assert_int_equal(draw_set(&p, x, 32), 0xff);
    p.top_p = 0.25 + 1e-15; /* a unit more needs one more token */
    assert_int_equal(draw_set(&p, x, 32), 0x1ff);
    p.top_p = 0.25;
    for (int i = 0; i < 32; i += 2)
        x[i] = -0.0f; /* equal to 0 in every comparison */
    assert_int_equal(draw_set(&p, x, 32), 0xff);
    x[31] = 1.0f; /* weighs e: e + n >= 0.25 * (e + 31) from n = 6 on */
    assert_int_equal(draw_set(&p, x, 32), 0x8000003f);
}

static void narrow_filters_are_greedy(void **state) {
    (void)state;
    float x[300];
    random_state = 11;
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < 300; i++) /* few different values: ties */
            x[i] = (float)random_u32(round % 2 ? 40 : 100000) / 3.0f - 7.0f;
        mlxd_sampling p = make_params(0.0);
        int32_t want = draw_once(&p, x, 300, 5);
        p.temperature = 2.0;
        p.top_k = 1;
        assert_int_equal(draw_once(&p, x, 300, 5), want);
        p.top_k = 0;
        p.top_p = 0.0;
        assert_int_equal(draw_once(&p, x, 300, 5), want);
        p.top_p = 1.0;
        p.temperature = 1e-5; /* not greedy, but a spread of 1/3 is 33,000 units then */
        p.min_p = 1.0;
        int32_t token = draw_once(&p, x, 300, 5);
        assert_true(x[token] == x[want]);
    }
}

/* ---- an independent, slow sampler ---- */

typedef struct reference_item {
    double x, e;
    int32_t token;
} reference_item;

static int compare_by_value(const void *a, const void *b) {
    const reference_item *p = a, *q = b;
    if (p->x != q->x)
        return p->x < q->x ? 1 : -1;
    return p->token < q->token ? -1 : 1;
}

static int compare_by_token(const void *a, const void *b) {
    const reference_item *p = a, *q = b;
    return p->token < q->token ? -1 : p->token > q->token;
}

/* The draw in f64, with libm and a sort. *margin: how far the nearest decision was from going the
 * other way, as a probability. `x` holds the logits after bias and penalties. */
static int32_t reference_draw(const mlxd_sampling *p, const double *x, uint32_t vocab,
                              uint64_t position, double *margin) {
    static reference_item items[ROW_MAX];
    double max = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++)
        max = fmax(max, x[i]);
    size_t n = 0;
    *margin = 1.0;
    for (uint32_t i = 0; i < vocab; i++) {
        double e = exp((x[i] - max) / p->temperature);
        if (p->min_p > 0)
            *margin = fmin(*margin, fabs(e - p->min_p));
        if (e >= p->min_p)
            items[n++] = (reference_item){x[i], e, (int32_t)i};
    }
    qsort(items, n, sizeof *items, compare_by_value);
    if (p->top_k > 0 && (size_t)p->top_k < n)
        n = (size_t)p->top_k;
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += items[i].e;
    size_t kept = 0;
    while (kept < n && (p->top_p >= 1.0 || kept == 0 || sum < p->top_p * total)) {
        sum += items[kept++].e;
        if (p->top_p < 1.0)
            *margin = fmin(*margin, fabs(sum / total - p->top_p));
    }
    qsort(items, kept, sizeof *items, compare_by_token);
    mlxd_philox_block b = mlxd_philox_get(
        (mlxd_philox_block){{(uint32_t)position, (uint32_t)(position >> 32), p->choice, 0}},
        p->seed);
    double u = (b.word[1] * 4294967296.0 + b.word[0]) / 18446744073709551616.0, up_to = 0;
    for (size_t i = 0; i < kept; i++) {
        double from = up_to / sum;
        up_to += items[i].e;
        if (u < up_to / sum || i + 1 == kept) {
            *margin = fmin(*margin, fmin(u - from, up_to / sum - u));
            return items[i].token;
        }
    }
    return -1;
}

static void reference_adjust(const mlxd_sampling *p, const float *logits, uint32_t vocab,
                             const int *in_prompt, const int *drawn, double *x) {
    for (uint32_t i = 0; i < vocab; i++) {
        x[i] = (double)logits[i];
        for (size_t j = 0; j < p->bias_count; j++)
            if (p->bias[j].token == (int32_t)i)
                x[i] = p->bias[j].bias <= -100 ? -INFINITY : x[i] + p->bias[j].bias;
        if (in_prompt[i] || drawn[i])
            x[i] = x[i] > 0 ? x[i] / p->repetition_penalty : x[i] * p->repetition_penalty;
        x[i] -= p->frequency_penalty * drawn[i];
        x[i] -= p->presence_penalty * (drawn[i] > 0);
    }
}

static mlxd_sampling make_random_params(mlxd_logit_bias bias[8], uint32_t vocab) {
    static const double temperatures[] = {0.3, 0.7, 1.0, 1.3, 2.0};
    mlxd_sampling p = make_params(temperatures[random_u32(5)]);
    p.seed = random_state;
    p.choice = random_u32(4);
    p.top_k = random_u32(2) ? (int32_t)random_u32(vocab + 20) : 0;
    p.top_p = random_u32(2) ? random_unit() : 1.0;
    p.min_p = random_u32(2) ? random_unit() * 0.2 : 0.0;
    /* Values that f32 holds exactly, so that f32 and f64 agree on which logits tie. */
    p.repetition_penalty = random_u32(2) ? 0.5 + random_u32(16) * 0.25 : 1.0;
    p.presence_penalty = random_u32(2) ? random_u32(65) / 16.0 - 2.0 : 0.0;
    p.frequency_penalty = random_u32(2) ? random_u32(65) / 16.0 - 2.0 : 0.0;
    p.bias = bias;
    p.bias_count = random_u32(2) ? random_u32(9) : 0;
    uint32_t first = random_u32(vocab);
    for (uint32_t i = 0; i < p.bias_count; i++)
        bias[i] = (mlxd_logit_bias){(int32_t)((first + i) % vocab),
                                    random_u32(3) ? random_u32(201) / 16.0 - 6.0 : -100.0};
    return p;
}

static void draws_equal_the_reference(void **state) {
    (void)state;
    enum { SEQUENCES = 300, DRAWS = 20 };
    static float logits[ROW_MAX];
    static double x[ROW_MAX];
    static int in_prompt[ROW_MAX], drawn[ROW_MAX];
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(ROW_MAX);
    random_state = 2026;
    int close = 0;
    for (int sequence = 0; sequence < SEQUENCES; sequence++) {
        uint32_t vocab = 10 + random_u32(random_u32(4) ? 200 : ROW_MAX - 10);
        mlxd_logit_bias bias[8];
        mlxd_sampling p = make_random_params(bias, vocab);
        int32_t prompt[30];
        memset(in_prompt, 0, sizeof in_prompt);
        memset(drawn, 0, sizeof drawn);
        for (size_t i = 0; i < 30; i++)
            in_prompt[prompt[i] = (int32_t)random_u32(vocab)] = 1;
        mlxd_sampler *s = open_sampler(&p, vocab, vocab, prompt, 30, DRAWS);
        bool ties = random_u32(3) == 0; /* repeated values, multiples of 1/4 */
        for (uint64_t at = 30; at < 30 + DRAWS; at++) {
            for (uint32_t i = 0; i < vocab; i++)
                logits[i] = ties ? (float)random_u32(60) / 4.0f - 8.0f
                                 : (float)(random_unit() * random_unit() * 24.0 - 10.0);
            reference_adjust(&p, logits, vocab, in_prompt, drawn, x);
            double margin;
            int32_t want = reference_draw(&p, x, vocab, at, &margin);
            int32_t got = draw(s, t, logits, at).token;
            if (margin < 3e-6)
                close++; /* f32 may decide the other way */
            else if (got != want)
                fail_msg("sequence %d position %d: token %d, reference %d (margin %g)", sequence,
                         (int)at, (int)got, (int)want, margin);
            drawn[got]++;
        }
        mlxd_sampler_close(s);
    }
    mlxd_sampler_scratch_close(t);
    assert_true(close < SEQUENCES * DRAWS / 20);
}

/* Tokens drawn by a Python script (f64, math.exp, sorted()) from x[i] = ((7919 i) mod 4001 - 2000)
 * / 256, seed 0x0123456789abcdef, choice 2, at positions that cross 2^32. The nearest decision was
 * 1.3e-6 away. */
static void draws_equal_the_script(void **state) {
    (void)state;
    static const struct {
        double temperature, min_p, top_p;
        int32_t top_k;
        int32_t want[12];
    } rows[] = {
        {1.0, 0, 1, 0, {532, 291, 675, 583, 242, 293, 919, 290, 688, 387, 972, 49}},
        {0.8, 0.01, 1, 0, {532, 291, 675, 583, 242, 293, 918, 290, 684, 387, 971, 49}},
        {1.25, 0, 1, 40, {532, 291, 675, 627, 242, 338, 917, 291, 724, 387, 966, 49}},
        {0.7, 0, 0.9, 0, {531, 291, 675, 582, 242, 292, 917, 290, 679, 387, 968, 49}},
        {1.5, 0.001, 0.75, 200, {532, 291, 675, 582, 242, 292, 918, 290, 724, 387, 969, 49}},
    };
    static float x[1000];
    for (int i = 0; i < 1000; i++)
        x[i] = (float)((i * 7919) % 4001 - 2000) / 256.0f;
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_sampling p = make_params(rows[i].temperature);
        p.choice = 2;
        p.min_p = rows[i].min_p;
        p.top_p = rows[i].top_p;
        p.top_k = rows[i].top_k;
        for (uint64_t j = 0; j < 12; j++)
            assert_int_equal(draw_once(&p, x, 1000, 0xfffffffcu + j), rows[i].want[j]);
    }
}

/* ---- frequencies ---- */

/* Pearson's statistic of `draws` draws against exp(x / T). */
static double measure_chi_square(const mlxd_sampling *p, const float *x, uint32_t vocab,
                                 uint32_t draws) {
    uint32_t counts[32] = {0};
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(vocab);
    mlxd_sampler *s = open_sampler(p, vocab, vocab, NULL, 0, draws);
    for (uint32_t i = 0; i < draws; i++)
        counts[draw(s, t, x, i).token]++;
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
    double total = 0, chi = 0;
    for (uint32_t i = 0; i < vocab; i++)
        total += exp((double)x[i] / p->temperature);
    for (uint32_t i = 0; i < vocab; i++) {
        double want = draws * exp((double)x[i] / p->temperature) / total;
        chi += (counts[i] - want) * (counts[i] - want) / want;
    }
    return chi;
}

static void frequencies_are_the_probabilities(void **state) {
    (void)state;
    const float x[8] = {0.5f, -1.0f, 2.0f, 1.0f, -2.0f, 0.0f, 2.0f, 1.5f};
    static const double temperatures[] = {0.6, 1.0, 2.0};
    for (size_t i = 0; i < MLXD_COUNT_OF(temperatures); i++) {
        mlxd_sampling p = make_params(temperatures[i]);
        /* 7 degrees of freedom: mean 7, 1 in 10^5 above 34; and not suspiciously even either. */
        double chi = measure_chi_square(&p, x, 8, 40000);
        assert_true(chi < 34 && chi > 0.3);
        p.choice = 1;
        chi = measure_chi_square(&p, x, 8, 40000);
        assert_true(chi < 34 && chi > 0.3);
    }
}

static void draws_depend_on_seed_choice_and_position_only(void **state) {
    (void)state;
    enum { N = 64, VOCAB = 512 };
    float x[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)(i % 7) / 8.0f;
    mlxd_sampling p = make_params(1.0);
    int32_t base[N];
    for (uint64_t i = 0; i < N; i++)
        base[i] = draw_once(&p, x, VOCAB, i);
    int same_choice = 0, same_seed = 0, same_shift = 0, same_high = 0;
    for (uint64_t i = N; i-- > 0;) { /* another order: there is no hidden state */
        assert_int_equal(draw_once(&p, x, VOCAB, i), base[i]);
        mlxd_sampling q = p;
        q.choice = 1;
        same_choice += draw_once(&q, x, VOCAB, i) == base[i];
        q = p;
        q.seed ^= UINT64_C(1) << 63;
        same_seed += draw_once(&q, x, VOCAB, i) == base[i];
        same_shift += draw_once(&p, x, VOCAB, i + 1) == base[i];
        same_high += draw_once(&p, x, VOCAB, i + (UINT64_C(1) << 32)) == base[i];
    }
    assert_true(same_choice < 4 && same_seed < 4 && same_shift < 4 && same_high < 4);
}

/* ---- extremes ---- */

static void rows_that_are_not_finite_are_refused(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    mlxd_sampling p = make_params(0.0);
    p.digest = true;
    p.frequency_penalty = 2.0;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(4);
    mlxd_sampler *s = open_sampler(&p, 6, 4, NULL, 0, 2);
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        for (int at = 0; at < 6; at++) { /* 4 and 5 are padding */
            float x[6] = {9, 8, 7, 6, 0, 0};
            x[at] = bad[i];
            mlxd_sample out;
            mlxd_why why = {""};
            char text[32];
            snprintf(text, sizeof text, "first token %d", at);
            assert_int_equal(mlxd_sampler_draw(s, t, x, 77, &out, &why), MLXD_ERR_CORRUPT);
            assert_non_null(strstr(why.text, "position 77"));
            assert_non_null(strstr(why.text, text));
        }
    }
    /* Nothing was counted or digested: the two draws are still there, token 0 is not penalised. */
    char hex[MLXD_SHA256_HEX];
    assert_true(mlxd_sampler_get_digest(s, hex));
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(draw(s, t, (float[6]){9, 8, 7, 6, 0, 0}, 0).token, 0);
    assert_int_equal(draw(s, t, (float[6]){9, 8, 7, 6, 0, 0}, 1).token, 1);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

static void extreme_values_stay_ordered(void **state) {
    (void)state;
    static const double temperatures[] = {0.0, 1e-5, 0.1, 1.0, 2.0};
    const float far[4] = {-FLT_MAX, 1e30f, FLT_MAX, -1e30f};
    const float low[4] = {-FLT_MAX, -FLT_MAX, -1e30f, -FLT_MAX};
    const float tiny[4] = {1e-40f, -1e-40f, 0, -0.0f}; /* denormal */
    const float near[3] = {0, 1e-4f, 0};               /* 10 units apart at T = 1e-5 */
    for (size_t i = 0; i < MLXD_COUNT_OF(temperatures); i++) {
        mlxd_sampling p = make_params(temperatures[i]);
        assert_int_equal(draw_set(&p, far, 4), 1 << 2);
        assert_int_equal(draw_set(&p, low, 4), 1 << 2);
        if (i >= 2)
            assert_int_equal(draw_set(&p, tiny, 4), 0x0f);
    }
    mlxd_sampling p = make_params(1e-5);
    p.seed = 3;
    assert_int_equal(draw_set(&p, near, 3), 1 << 1);
}

/* Penalties that overflow f32 saturate: such tokens are then equal, not infinite. */
static void penalties_saturate(void **state) {
    (void)state;
    static const struct {
        double repetition;
        float x[3];
        unsigned set; /* tokens that are drawn */
    } rows[] = {
        {0.01, {1e38f, 2e38f, 3e38f}, 0x3},     /* two at FLT_MAX */
        {0.01, {1e38f, -3e38f, 3e38f}, 0x1},    /* one at FLT_MAX */
        {100, {-3e38f, -2e38f, -FLT_MAX}, 0x7}, /* all at -FLT_MAX */
        {100, {-3e38f, -3e38f, -3e38f}, 0x4},
    };
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(3);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_sampling p = make_params(1.0);
        p.repetition_penalty = rows[i].repetition;
        unsigned set = 0;
        for (uint64_t at = 0; at < 100; at++) {
            mlxd_sampler *s = open_sampler(&p, 3, 3, (int32_t[]){0, 1}, 2, 1);
            set |= 1u << draw(s, t, rows[i].x, at).token;
            mlxd_sampler_close(s);
        }
        assert_int_equal(set, rows[i].set);
    }
    mlxd_sampler_scratch_close(t);
    /* A ban stays below what has sunk to -FLT_MAX. */
    mlxd_sampling p = make_params(0.0);
    p.repetition_penalty = 100;
    p.bias = (mlxd_logit_bias[]){{0, -100}};
    p.bias_count = 1;
    expect_draws(&p, (float[]){5, -3e38f}, 2, (int32_t[]){0, 1}, 2, (int32_t[]){1}, 1);
}

/* ---- log-probabilities, digest, memory ---- */

static void logprobs_are_those_of_the_raw_row(void **state) {
    (void)state;
    enum { VOCAB = 700 };
    static float x[VOCAB];
    random_state = 5;
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)random_u32(40) / 2.0f; /* ties, also at rank 20 */
    x[3] = -1e30f;
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)x[i] - 20.0);
    mlxd_sampling p = make_params(1.7);
    p.logprobs = true;
    p.top_logprobs = 20;
    p.repetition_penalty = 3.0;
    p.presence_penalty = 2.0;
    p.top_k = 5;
    p.bias = (mlxd_logit_bias[]){{3, 100}, {17, 90}};
    p.bias_count = 2;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(VOCAB);
    mlxd_sampler *s = open_sampler(&p, VOCAB, VOCAB, NULL, 0, 50);
    for (uint64_t at = 0; at < 50; at++) {
        mlxd_sample out = draw(s, t, x, at);
        double want = (double)x[out.token] - 20.0 - log(sum);
        assert_true(fabs(out.logprob - want) <= 1e-12 * fmax(1.0, fabs(want)));
        assert_int_equal(out.top_count, 20);
        for (uint32_t i = 0; i < 20; i++) {
            /* Rank i: exactly i tokens come before it (larger, or equal with a lower id). */
            uint32_t before = 0;
            int32_t token = out.top[i].token;
            for (int32_t j = 0; j < VOCAB; j++)
                before += x[j] > x[token] || (x[j] == x[token] && j < token);
            assert_int_equal(before, i);
            assert_true(fabs(out.top[i].logprob - ((double)x[token] - 20.0 - log(sum))) < 1e-12);
        }
    }
    mlxd_sampler_close(s);
    p.top_logprobs = 0;
    s = open_sampler(&p, VOCAB, VOCAB, NULL, 0, 1);
    mlxd_sample out = draw(s, t, x, 0);
    assert_int_equal(out.top_count, 0);
    assert_true(out.logprob < 0);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
    p = make_params(0.0);
    p.logprobs = true; /* a certain token: exactly 0 */
    t = mlxd_sampler_scratch_open(3);
    s = open_sampler(&p, 3, 3, NULL, 0, 1);
    assert_true(draw(s, t, (float[]){-1e30f, 5, -1e30f}, 0).logprob == 0.0);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

/* The hexadecimal values are Python's hashlib over struct.pack("<5f", ...). */
static void the_digest_covers_whole_raw_rows_in_order(void **state) {
    (void)state;
    static const float rows[2][5] = {{1.0f, -2.5f, 0.0f, 3.25f, -0.0f},
                                     {0.1f, 2.0f, -1e30f, 7.0f, 1e-40f}};
    char hex[MLXD_SHA256_HEX];
    mlxd_sampling p = make_params(1.0);
    p.digest = true;
    p.repetition_penalty = 4.0;
    p.bias = (mlxd_logit_bias[]){{0, 9}};
    p.bias_count = 1;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(8);
    mlxd_sampler *s = open_sampler(&p, 5, 4, (int32_t[]){1}, 1, 2); /* the fifth is padding */
    draw(s, t, rows[0], 1);
    assert_true(mlxd_sampler_get_digest(s, hex));
    assert_string_equal(hex, "f947079e43a593365230168145dd486e2541db9fcc873f9a320fccf3ac23639d");
    draw(s, t, rows[1], 2);
    assert_true(mlxd_sampler_get_digest(s, hex));
    assert_string_equal(hex, "64ea402317862d649ea8fe09b9c1608c2b5fbd36e8e6f7c2fb89621e1dba1996");
    mlxd_sampler_close(s);
    p.digest = false;
    s = open_sampler(&p, 5, 4, NULL, 0, 1);
    assert_false(mlxd_sampler_get_digest(s, hex));
    assert_string_equal(hex, "");
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

static void parameters_are_copied(void **state) {
    (void)state;
    mlxd_logit_bias bias[1] = {{2, 50}};
    mlxd_sampling p = make_params(0.0);
    p.bias = bias;
    p.bias_count = 1;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(3);
    mlxd_sampler *s = open_sampler(&p, 3, 3, NULL, 0, 1);
    bias[0] = (mlxd_logit_bias){0, -100};
    memset(&p, 0xff, sizeof p);
    assert_int_equal(draw(s, t, (float[]){0, 1, 0}, 0).token, 2);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
}

static void a_draw_allocates_nothing(void **state) {
    (void)state;
    enum { VOCAB = 2000, DRAWS = 500 };
    static float x[VOCAB];
    mlxd_sampling p = make_params(1.5);
    p.top_k = 1500;
    p.top_p = 0.99;
    p.min_p = 1e-6;
    p.repetition_penalty = 1.1;
    p.frequency_penalty = p.presence_penalty = 0.5;
    p.logprobs = p.digest = true;
    p.top_logprobs = 20;
    p.bias = (mlxd_logit_bias[]){{1, -100}};
    p.bias_count = 1;
    random_state = 9;
    mlxd_sampler_scratch *t = mlxd_sampler_scratch_open(VOCAB);
    mlxd_sampler *s = open_sampler(&p, VOCAB, VOCAB, (int32_t[]){5, 6, 7}, 3, DRAWS);
    uint64_t before = mlxd_mem_count();
    for (uint64_t at = 0; at < DRAWS; at++) {
        for (int i = 0; i < VOCAB; i++)
            x[i] = (float)(random_unit() * 10);
        draw(s, t, x, at);
    }
    assert_true(mlxd_mem_count() == before);
    mlxd_sampler_close(s);
    mlxd_sampler_scratch_close(t);
    mlxd_sampler_close(NULL);
    mlxd_sampler_scratch_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(every_range_is_checked_by_name),
        cmocka_unit_test(logit_bias_is_checked),
        cmocka_unit_test(prompt_ids_are_checked),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_the_best),
        cmocka_unit_test(a_uniform_draw_is_the_random_number),
        cmocka_unit_test(padding_is_never_drawn),
        cmocka_unit_test(bias_moves_bans_and_forces),
        cmocka_unit_test(penalties_follow_their_definitions),
        cmocka_unit_test(penalties_count_more_tokens_than_the_vocabulary_has),
        cmocka_unit_test(filters_keep_the_right_set),
        cmocka_unit_test(filters_see_the_smallest_difference),
        cmocka_unit_test(filters_cut_long_ties_at_the_lowest_ids),
        cmocka_unit_test(narrow_filters_are_greedy),
        cmocka_unit_test(draws_equal_the_reference),
        cmocka_unit_test(draws_equal_the_script),
        cmocka_unit_test(frequencies_are_the_probabilities),
        cmocka_unit_test(draws_depend_on_seed_choice_and_position_only),
        cmocka_unit_test(rows_that_are_not_finite_are_refused),
        cmocka_unit_test(extreme_values_stay_ordered),
        cmocka_unit_test(penalties_saturate),
        cmocka_unit_test(logprobs_are_those_of_the_raw_row),
        cmocka_unit_test(the_digest_covers_whole_raw_rows_in_order),
        cmocka_unit_test(parameters_are_copied),
        cmocka_unit_test(a_draw_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
