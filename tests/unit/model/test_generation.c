/* test_generation.c - from rows of logits to text: what is shown, when it ends, what it costs. */
#include "../../support/model_file.h"

#include "model/generation.h"

#define VOCAB 320
#define ROW 330 /* rows are longer than the vocabulary: padding is never drawn */

static mlxd_tokenizer *tokenizer;
static mlxd_sampler_scratch *scratch;

static int set_up(void **state) {
    mlxd_why why = {0};
    (void)state;
    mlxd_os_fpu_init();
    mlxd_checkpoint *f = model_file_open(MLXD_GOLDEN "/tiny-f32.gguf");
    model_file_check(mlxd_tokenizer_open(&tokenizer, mlxd_checkpoint_gguf(f), &why), &why);
    mlxd_checkpoint_close(f);
    scratch = mlxd_sampler_scratch_open(ROW);
    return mlxd_tokenizer_vocab(tokenizer) == VOCAB && scratch ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_sampler_scratch_close(scratch);
    mlxd_tokenizer_close(tokenizer);
    return 0;
}

static mlxd_generation *open_generation(const mlxd_generation_params *p) {
    mlxd_generation *g;
    mlxd_why why = {0};
    mlxd_generation_params q = *p;
    if (q.sampling.top_p == 0)
        mlxd_sampling_init(&q.sampling);
    q.sampling.temperature = 0;
    q.sampling.digest = p->sampling.digest;
    model_file_check(mlxd_generation_open(&g, &q, tokenizer, ROW, NULL, 0, &why), &why);
    return g;
}

/* A row whose best token is `token`. */
static const float *row_of(int32_t token) {
    static float row[ROW];
    for (int i = 0; i < ROW; i++)
        row[i] = i == token ? 9 : i >= VOCAB ? 50 : (float)(i % 7) / 8;
    return row;
}

static mlxd_finish draw(mlxd_generation *g, int32_t token) {
    mlxd_finish finish = MLXD_FINISH_NONE;
    mlxd_why why = {0};
    int32_t drawn = -1;
    model_file_check(mlxd_generation_draw(g, scratch, row_of(token), mlxd_generation_tokens(g) + 5,
                                          &drawn, &finish, &why),
                     &why);
    assert_int_equal(drawn, token);
    assert_int_equal(mlxd_generation_sample(g)->token, token);
    assert_int_equal(mlxd_generation_finish(g), finish);
    return finish;
}

/* Draws the tokens of `text`; stops at the first finish. */
static mlxd_finish draw_text(mlxd_generation *g, const char *text) {
    mlxd_tokens t = {0};
    mlxd_why why = {0};
    mlxd_finish f = MLXD_FINISH_NONE;
    model_file_check(mlxd_tokenizer_encode(tokenizer, mlxd_slice_str(text), true, 0, &t, &why),
                     &why);
    for (size_t i = 0; i < t.count && !f; i++)
        f = draw(g, t.ids[i]);
    mlxd_tokens_deinit(&t);
    return f;
}

static const char *text_of(mlxd_generation *g) {
    return mlxd_buf_str(mlxd_generation_text(g));
}

static void text_grows_until_max_tokens(void **state) {
    mlxd_generation *g = open_generation(&(mlxd_generation_params){.max_tokens = 3});
    (void)state;
    assert_int_equal(draw(g, mlxd_tokenizer_find(tokenizer, mlxd_slice_str("a"))), 0);
    assert_string_equal(text_of(g), "a");
    mlxd_buf_clear(mlxd_generation_text(g)); /* the reader has it */
    assert_int_equal(draw(g, mlxd_tokenizer_find(tokenizer, mlxd_slice_str("b"))), 0);
    assert_string_equal(text_of(g), "b");
    assert_int_equal(draw(g, mlxd_tokenizer_find(tokenizer, mlxd_slice_str("c"))),
                     MLXD_FINISH_LENGTH);
    assert_string_equal(text_of(g), "bc");
    assert_int_equal(mlxd_generation_tokens(g), 3);
    assert_false(mlxd_generation_wants_logprobs(g));
    mlxd_generation_close(g);
    mlxd_generation_close(NULL);
    assert_string_equal(mlxd_finish_name(MLXD_FINISH_NONE), "");
    assert_string_equal(mlxd_finish_name(MLXD_FINISH_STOP), "stop");
    assert_string_equal(mlxd_finish_name(MLXD_FINISH_LENGTH), "length");
}

static void the_end_of_a_turn(void **state) {
    int32_t end = mlxd_tokenizer_find(tokenizer, mlxd_slice_str("<|im_end|>"));
    (void)state;
    mlxd_generation *g = open_generation(&(mlxd_generation_params){.max_tokens = 50});
    assert_int_equal(draw_text(g, "hello"), MLXD_FINISH_NONE);
    assert_int_equal(draw(g, end), MLXD_FINISH_STOP);
    assert_string_equal(text_of(g), "hello"); /* the end itself is not shown */
    mlxd_generation_close(g);
    g = open_generation(&(mlxd_generation_params){.max_tokens = 1});
    assert_int_equal(draw(g, end), MLXD_FINISH_STOP); /* also as the last one allowed */
    mlxd_generation_close(g);
    g = open_generation(&(mlxd_generation_params){.max_tokens = 3, .ignore_end = true});
    assert_int_equal(draw(g, end), MLXD_FINISH_NONE);
    assert_int_equal(draw(g, end), MLXD_FINISH_NONE);
    assert_int_equal(draw(g, end), MLXD_FINISH_LENGTH);
    assert_string_equal(text_of(g), "");
    mlxd_generation_close(g);
}

/* The one stop string that spreads over several tokens, at the end of what is allowed or not. */
static void stop_strings(void **state) {
    mlxd_slice stop[] = {mlxd_slice_str("lo w"), mlxd_slice_str("##")};
    (void)state;
    mlxd_generation *g =
        open_generation(&(mlxd_generation_params){.max_tokens = 50, .stop = stop, .stop_count = 2});
    assert_int_equal(draw_text(g, "hello world"), MLXD_FINISH_STOP);
    assert_string_equal(text_of(g), "hel");
    mlxd_generation_close(g);
    /* What might have become a stop string is shown when the answer ends first. */
    g = open_generation(&(mlxd_generation_params){.max_tokens = 3, .stop = stop, .stop_count = 2});
    assert_int_equal(draw_text(g, "x"), MLXD_FINISH_NONE);
    assert_int_equal(draw_text(g, "y"), MLXD_FINISH_NONE);
    assert_int_equal(draw_text(g, "#"), MLXD_FINISH_LENGTH);
    assert_string_equal(text_of(g), "xy#");
    mlxd_generation_close(g);
    g = open_generation(&(mlxd_generation_params){.max_tokens = 2, .stop = stop, .stop_count = 2});
    assert_int_equal(draw_text(g, "#"), MLXD_FINISH_NONE);
    assert_string_equal(text_of(g), "");                   /* held back */
    assert_int_equal(draw_text(g, "#"), MLXD_FINISH_STOP); /* not "length" */
    assert_string_equal(text_of(g), "");
    mlxd_generation_close(g);
}

/* A character may take several tokens; half a one is never shown. */
static void characters_in_pieces(void **state) {
    static const uint8_t euro[] = {0xe2, 0x82, 0xac};
    mlxd_generation *g = open_generation(&(mlxd_generation_params){.max_tokens = 50});
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_string_equal(text_of(g), "");
        draw(g, 3 + euro[i]); /* byte b has id 3 + b in the tiny vocabulary */
    }
    assert_string_equal(text_of(g), "\xe2\x82\xac");
    draw(g, 3 + 0xe2);
    assert_int_equal(draw(g, mlxd_tokenizer_find(tokenizer, mlxd_slice_str("<|im_end|>"))),
                     MLXD_FINISH_STOP);
    assert_string_equal(text_of(g), "\xe2\x82\xac\xef\xbf\xbd"); /* half a one becomes U+FFFD */
    mlxd_generation_close(g);
}

static void the_digest_covers_the_rows(void **state) {
    char hex[MLXD_SHA256_HEX], want[MLXD_SHA256_HEX];
    uint8_t digest[MLXD_SHA256_BYTES];
    (void)state;
    mlxd_generation *g =
        open_generation(&(mlxd_generation_params){.max_tokens = 5, .sampling = {.digest = true}});
    mlxd_sha256 *sha = mlxd_sha256_open();
    for (int32_t token = 40; token < 43; token++) {
        draw(g, token);
        mlxd_sha256_add(sha, row_of(token), ROW * sizeof(float));
    }
    mlxd_sha256_get(sha, digest);
    mlxd_sha256_close(sha);
    mlxd_hex(digest, sizeof digest, want);
    assert_true(mlxd_generation_digest(g, hex));
    assert_string_equal(hex, want);
    mlxd_generation_close(g);
    g = open_generation(&(mlxd_generation_params){.max_tokens = 5});
    draw(g, 40);
    assert_false(mlxd_generation_digest(g, hex));
    mlxd_generation_close(g);
}

/* A row that is not finite draws nothing and changes nothing. */
static void rows_that_are_not_finite(void **state) {
    static float row[ROW];
    mlxd_generation *g = open_generation(&(mlxd_generation_params){.max_tokens = 2});
    mlxd_finish finish;
    mlxd_why why = {0};
    int32_t token;
    (void)state;
    memcpy(row, row_of(40), sizeof row);
    row[ROW - 1] = 0.0f / 0.0f;
    assert_int_equal(mlxd_generation_draw(g, scratch, row, 5, &token, &finish, &why),
                     MLXD_ERR_CORRUPT);
    assert_int_equal(mlxd_generation_tokens(g), 0);
    assert_int_equal(draw(g, 3 + 'a'), MLXD_FINISH_NONE);
    assert_string_equal(text_of(g), "a");
    mlxd_generation_close(g);
}

static void drawing_does_not_allocate(void **state) {
    mlxd_slice stop = mlxd_slice_str("abcdefgh");
    mlxd_generation_params p = {.max_tokens = 2000, .stop = &stop, .stop_count = 1};
    (void)state;
    mlxd_sampling_init(&p.sampling);
    p.sampling.repetition_penalty = 1.1;
    p.sampling.frequency_penalty = 0.1;
    p.sampling.logprobs = true;
    p.sampling.top_logprobs = 20;
    p.sampling.digest = true;
    mlxd_generation *g;
    mlxd_why why = {0};
    int32_t token;
    mlxd_finish finish;
    model_file_check(mlxd_generation_open(&g, &p, tokenizer, ROW, NULL, 0, &why), &why);
    assert_true(mlxd_generation_wants_logprobs(g));
    uint64_t before = mlxd_mem_count();
    for (uint32_t i = 0; i < 1000; i++) {
        model_file_check(mlxd_generation_draw(g, scratch, row_of(3 + (int32_t)(i * 37 % 300)), i,
                                              &token, &finish, &why),
                         &why);
        if (finish)
            break;
        mlxd_buf_clear(mlxd_generation_text(g));
    }
    assert_int_equal(mlxd_mem_count(), before);
    mlxd_generation_close(g);
}

static void parameters_out_of_range(void **state) {
    mlxd_slice stops[] = {mlxd_slice_str("a"), mlxd_slice_str("")};
    mlxd_generation_params p = {.max_tokens = 1, .stop = stops, .stop_count = 2};
    mlxd_generation *g;
    mlxd_why why = {0};
    int32_t bad_prompt = VOCAB;
    (void)state;
    mlxd_sampling_init(&p.sampling);
    assert_int_equal(mlxd_generation_open(&g, &p, tokenizer, ROW, NULL, 0, &why), MLXD_ERR_INVALID);
    p.stop_count = 1;
    p.sampling.temperature = 3;
    assert_int_equal(mlxd_generation_open(&g, &p, tokenizer, ROW, NULL, 0, &why), MLXD_ERR_INVALID);
    p.sampling.temperature = 1;
    assert_int_equal(mlxd_generation_open(&g, &p, tokenizer, ROW, &bad_prompt, 1, &why),
                     MLXD_ERR_INVALID);
    model_file_check(mlxd_generation_open(&g, &p, tokenizer, ROW, NULL, 0, &why), &why);
    mlxd_generation_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_until_max_tokens),
        cmocka_unit_test(the_end_of_a_turn),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(characters_in_pieces),
        cmocka_unit_test(the_digest_covers_the_rows),
        cmocka_unit_test(rows_that_are_not_finite),
        cmocka_unit_test(drawing_does_not_allocate),
        cmocka_unit_test(parameters_out_of_range),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
