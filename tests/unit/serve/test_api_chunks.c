/* test_api_chunks.c - a reasoning model's answer as a client reads it: what it thinks apart from
 * what it says, in streams and in whole answers, with stop strings, log-probabilities and usage.
 * The tokens are given; everything behind the logits is real.
 */
#include "../../support/model_file.h"

#include "serve/api_chunks.h"

#define VOCAB 320

static mlxd_tokenizer *tokenizer;
static mlxd_sampler_scratch *scratch;

static int set_up(void **state) {
    mlxd_why why = {0};
    (void)state;
    mlxd_os_fpu_init();
    mlxd_checkpoint *f = model_file_open(MLXD_GOLDEN "/tiny-f32.gguf");
    model_file_check(mlxd_tokenizer_open(&tokenizer, mlxd_checkpoint_gguf(f), &why), &why);
    mlxd_checkpoint_close(f);
    scratch = mlxd_sampler_scratch_open(VOCAB);
    return scratch ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_sampler_scratch_close(scratch);
    mlxd_tokenizer_close(tokenizer);
    return 0;
}

/* One answer: the request's JSON, then the model's text, byte by byte, and the end of the turn. */
struct answer {
    mlxd_api_fields *fields;
    mlxd_json_doc *doc;
    mlxd_chunks chunks;
    mlxd_request request;
};

static void answer_open(struct answer *a, const char *fields) {
    mlxd_generation_config config;
    mlxd_generation_config_init(&config);
    config.sampling.temperature = 0;
    mlxd_api_defaults d = {.model = &config, .reasoning = MLXD_REASONING_THINK, .vocab = VOCAB};
    mlxd_api_refusal r = {0};
    mlxd_why why = {0};
    a->fields = calloc(1, sizeof *a->fields);
    model_file_check(mlxd_json_parse(&a->doc, mlxd_slice_str(fields), 8, &why), &why);
    if (!mlxd_api_fields_read(a->fields, mlxd_json_root(a->doc), MLXD_API_CHAT, &d, &r))
        fail_msg("%s", r.message);
    mlxd_generation_params p = {.sampling = a->fields->sampling,
                                .stop = a->fields->stop,
                                .stop_count = a->fields->stop_count,
                                .max_tokens = a->fields->max_tokens,
                                .reasoning = a->fields->reasoning};
    a->request = (mlxd_request){.n_prompt = 1};
    model_file_check(
        mlxd_generation_open(&a->request.generation, &p, tokenizer, VOCAB, NULL, 0, &why), &why);
    mlxd_chunks_init(&a->chunks, MLXD_API_CHAT, a->fields);
    a->chunks.model = "m";
    a->chunks.fingerprint = "f";
    a->chunks.tokenizer = tokenizer;
    strcpy(a->chunks.id, "x");
}

static void answer_close(struct answer *a) {
    mlxd_chunks_deinit(&a->chunks);
    mlxd_generation_close(a->request.generation);
    mlxd_json_close(a->doc);
    free(a->fields);
}

static bool draw(struct answer *a, int32_t token) {
    float row[VOCAB] = {0};
    mlxd_finish finish;
    mlxd_why why = {0};
    int32_t drawn;
    row[token] = 9;
    model_file_check(
        mlxd_generation_draw(a->request.generation, scratch, row, 1, &drawn, &finish, &why), &why);
    assert_int_equal(drawn, token);
    if (finish == MLXD_FINISH_NONE)
        mlxd_chunks_token(&a->chunks, a->request.generation);
    else
        mlxd_chunks_end(&a->chunks, &a->request);
    return finish != MLXD_FINISH_NONE;
}

static const char *run(struct answer *a, const char *text) {
    bool ended = false;
    for (; *text && !ended; text++)
        ended = draw(a, 3 + (uint8_t)*text); /* byte b has id 3 + b in the tiny vocabulary */
    if (!ended)
        draw(a, mlxd_tokenizer_find(tokenizer, mlxd_slice_str("<|im_end|>")));
    return mlxd_buf_str(&a->chunks.out);
}

static void expect_in(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("\"%s\" is not in: %s", part, text);
}

/* The texts of a member in all chunks, joined. */
static void collect(const char *stream, const char *member, char *out) {
    char key[40];
    snprintf(key, sizeof key, "\"%s\":\"", member);
    *out = 0;
    for (const char *s = strstr(stream, key); s; s = strstr(s, key)) {
        s += strlen(key);
        strncat(out, s, strcspn(s, "\""));
    }
}

#define THOUGHT "<think>\nHm, x.\n</think>\n\nFour."

static void a_whole_answer(void **state) {
    struct answer a;
    (void)state;
    answer_open(&a, "{}");
    const char *json = run(&a, THOUGHT);
    expect_in(json, "\"message\":{\"role\":\"assistant\",\"content\":\"Four.\","
                    "\"reasoning_content\":\"Hm, x.\",\"refusal\":null}");
    /* The last byte of <think> to the last one of </think>. */
    expect_in(json, "\"completion_tokens\":31,");
    expect_in(json, "\"reasoning_tokens\":17}");
    answer_close(&a);
    /* Without reasoning there is no such member. */
    answer_open(&a, "{}");
    json = run(&a, "Four.");
    expect_in(json, "\"message\":{\"role\":\"assistant\",\"content\":\"Four.\",\"refusal\":null}");
    answer_close(&a);
}

static void a_stream(void **state) {
    struct answer a;
    char text[200];
    (void)state;
    answer_open(&a, "{\"stream\":true}");
    const char *stream = run(&a, THOUGHT);
    collect(stream, "reasoning_content", text);
    assert_string_equal(text, "Hm, x.");
    collect(stream, "content", text);
    assert_string_equal(text, "Four.");
    expect_in(stream, "\"delta\":{\"reasoning_content\":\"H\"}");
    expect_in(stream, "\"delta\":{\"content\":\"F\"}");
    assert_null(strstr(stream, "think"));
    assert_true(strstr(stream, "reasoning_content") < strstr(stream, "\"content\":\"F\""));
    answer_close(&a);
}

static void as_the_model_wrote_it(void **state) {
    static const char *const same[] = {"{\"reasoning_format\":\"auto\"}",
                                       "{\"reasoning_format\":\"deepseek\"}",
                                       "{\"reasoning_format\":null}"};
    struct answer a;
    (void)state;
    answer_open(&a, "{\"reasoning_format\":\"none\"}");
    expect_in(run(&a, THOUGHT), "\"content\":\"<think>\\nHm, x.\\n</think>\\n\\nFour.\",\"refusal");
    answer_close(&a);
    for (size_t i = 0; i < MLXD_COUNT_OF(same); i++) {
        answer_open(&a, same[i]);
        expect_in(run(&a, THOUGHT), "\"reasoning_content\":\"Hm, x.\"");
        answer_close(&a);
    }
}

/* A stop string in the reasoning does not end the answer; max_tokens does. */
static void ends(void **state) {
    struct answer a;
    (void)state;
    answer_open(&a, "{\"stop\":\"x.\"}");
    const char *json = run(&a, THOUGHT " x. y");
    expect_in(json, "\"content\":\"Four. \",\"reasoning_content\":\"Hm, x.\"");
    expect_in(json, "\"finish_reason\":\"stop\"");
    answer_close(&a);
    answer_open(&a, "{\"max_tokens\":10}");
    json = run(&a, THOUGHT);
    expect_in(json, "\"content\":\"\",\"reasoning_content\":\"Hm\"");
    expect_in(json, "\"finish_reason\":\"length\"");
    expect_in(json, "\"reasoning_tokens\":4}");
    answer_close(&a);
}

/* Every token's log-probability comes once, with the text that it belongs to. */
static void log_probabilities(void **state) {
    struct answer a;
    size_t n = 0;
    (void)state;
    answer_open(&a, "{\"stream\":true,\"logprobs\":true}");
    const char *stream = run(&a, THOUGHT);
    for (const char *s = stream; (s = strstr(s, "\"logprob\":")); s++)
        n++;
    assert_int_equal(n, strlen(THOUGHT));
    answer_close(&a);
}

static void other_formats(void **state) {
    static const char *const rows[][2] = {
        {"{\"reasoning_format\":\"yaml\"}", "expected \"auto\" or \"none\", got \"yaml\""},
        {"{\"reasoning_format\":1}", "reasoning_format: expected a string, got integer"},
    };
    mlxd_generation_config config;
    (void)state;
    mlxd_generation_config_init(&config);
    mlxd_api_defaults d = {.model = &config, .vocab = VOCAB};
    mlxd_api_fields *f = calloc(1, sizeof *f);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_json_doc *doc;
        mlxd_api_refusal r = {0};
        assert_int_equal(mlxd_json_parse(&doc, mlxd_slice_str(rows[i][0]), 8, NULL), MLXD_OK);
        assert_false(mlxd_api_fields_read(f, mlxd_json_root(doc), MLXD_API_CHAT, &d, &r));
        assert_int_equal(r.status, 400);
        expect_in(r.message, rows[i][1]);
        mlxd_json_close(doc);
    }
    free(f);
}

/* What a request does not say, the model's files say. */
static void defaults_of_the_model(void **state) {
    mlxd_generation_config config;
    (void)state;
    mlxd_generation_config_init(&config);
    config.sampling.temperature = 0.6;
    config.sampling.top_p = 0.95;
    config.sampling.top_k = 20;
    config.sampling.repetition_penalty = 1.05;
    config.max_tokens = 99;
    mlxd_api_defaults d = {.model = &config, .vocab = VOCAB};
    mlxd_api_fields *f = calloc(1, sizeof *f);
    mlxd_json_doc *doc;
    mlxd_api_refusal r = {0};
    assert_int_equal(
        mlxd_json_parse(&doc, mlxd_slice_str("{\"top_p\":1,\"temperature\":null,\"seed\":1}"), 8,
                        NULL),
        MLXD_OK);
    assert_true(mlxd_api_fields_read(f, mlxd_json_root(doc), MLXD_API_TEXT, &d, &r));
    assert_true(f->sampling.temperature == 0.6 && f->sampling.top_p == 1);
    assert_true(f->sampling.top_k == 20 && f->sampling.repetition_penalty == 1.05);
    assert_true(f->sampling.seed == 1 && f->max_tokens == 99);
    assert_int_equal(f->reasoning, MLXD_REASONING_NONE);
    mlxd_json_close(doc);
    free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_answer),        cmocka_unit_test(a_stream),
        cmocka_unit_test(as_the_model_wrote_it), cmocka_unit_test(ends),
        cmocka_unit_test(log_probabilities),     cmocka_unit_test(other_formats),
        cmocka_unit_test(defaults_of_the_model),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
