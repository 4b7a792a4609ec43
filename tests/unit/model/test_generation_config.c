/* test_generation_config.c - what models say about their sampling: files as they are published,
 * files that say nonsense, and the keys of GGUF. */
#include "mini_gguf.h"

#include "model/generation_config.h"
#include "model/tokenizer.h"

static mlxd_err read_json(mlxd_generation_config *c, const char *text, mlxd_why *why) {
    mlxd_generation_config_init(c);
    return mlxd_generation_config_read_json(c, mlxd_slice_str(text), why);
}

static void what_nobody_says(void **state) {
    mlxd_generation_config c;
    (void)state;
    assert_int_equal(read_json(&c, "{}", NULL), MLXD_OK);
    assert_true(c.sampling.temperature == 0.7 && c.sampling.top_p == 1 && c.sampling.min_p == 0);
    assert_true(c.sampling.repetition_penalty == 1 && c.sampling.top_k == 0);
    assert_int_equal(c.max_tokens, 512);
    assert_int_equal(c.n_ends, 0);
}

static void files_as_they_are(void **state) {
    mlxd_generation_config c;
    (void)state;
    assert_int_equal(read_json(&c,
                               "{\"bos_token_id\": 151643, \"do_sample\": true, "
                               "\"eos_token_id\": [151645, 151643], \"pad_token_id\": 151643, "
                               "\"repetition_penalty\": 1.05, \"temperature\": 0.6, \"top_k\": 20, "
                               "\"top_p\": 0.95, \"min_p\": 0.01, \"max_new_tokens\": 2048, "
                               "\"max_length\": 20, \"transformers_version\": \"4.51.0\"}",
                               NULL),
                     MLXD_OK);
    assert_true(c.sampling.temperature == 0.6 && c.sampling.top_p == 0.95);
    assert_true(c.sampling.min_p == 0.01 && c.sampling.repetition_penalty == 1.05);
    assert_int_equal(c.sampling.top_k, 20);
    assert_int_equal(c.max_tokens, 2048);
    assert_int_equal(c.n_ends, 2);
    assert_int_equal(c.ends[0], 151645);
    assert_int_equal(c.ends[1], 151643);
    /* one end, and everything else is null */
    assert_int_equal(read_json(&c,
                               "{\"eos_token_id\": 2, \"temperature\": null, \"top_k\": null, "
                               "\"do_sample\": null, \"max_new_tokens\": null}",
                               NULL),
                     MLXD_OK);
    assert_true(c.sampling.temperature == 0.7);
    assert_int_equal(c.n_ends, 1);
    /* Without sampling the temperature is not looked at. */
    assert_int_equal(read_json(&c, "{\"do_sample\": false, \"temperature\": 1.0}", NULL), MLXD_OK);
    assert_true(c.sampling.temperature == 0);
    assert_int_equal(read_json(&c, "{\"top_k\": 50.0}", NULL), MLXD_OK);
    assert_int_equal(c.sampling.top_k, 50);
}

static void files_that_say_nonsense(void **state) {
    static const char *const rows[][2] = {
        {"[]", "expected an object, got array"},
        {"{", "offset"},
        {"{\"temperature\": \"hot\"}", "temperature: expected a number, got string"},
        {"{\"temperature\": 3}", "temperature: expected 0 to 2, got 3"},
        {"{\"top_p\": -0.1}", "top_p"},
        {"{\"top_k\": 1.5}", "top_k: expected an integer"},
        {"{\"top_k\": true}", "top_k: expected an integer, got boolean"},
        {"{\"top_k\": 3000000000}", "top_k: expected an integer"},
        {"{\"max_new_tokens\": 0}", "max_new_tokens"},
        {"{\"repetition_penalty\": 0}", "repetition_penalty"},
        {"{\"do_sample\": 1}", "do_sample: expected a boolean, got integer"},
        {"{\"eos_token_id\": \"</s>\"}", "eos_token_id: expected a token id or a list of them"},
        {"{\"eos_token_id\": [1, [2]]}", "eos_token_id: expected a token id or a list of them"},
        {"{\"eos_token_id\": -1}", "eos_token_id: expected token ids from 0"},
        {"{\"eos_token_id\": 99999999999}", "eos_token_id: expected token ids from 0"},
        {"{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
         "26,27,28,29,30,31,32]}",
         "more than 32"},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        mlxd_generation_config c;
        mlxd_why why = {0};
        assert_int_equal(read_json(&c, rows[i][0], &why), MLXD_ERR_DATA);
        if (!strstr(why.text, rows[i][1]))
            fail_msg("%s: \"%s\"", rows[i][0], why.text);
    }
}

static void ends_of_config_json(void **state) {
    mlxd_generation_config c;
    mlxd_slice config = mlxd_slice_str("{\"eos_token_id\": [7, 8], \"temperature\": 9}");
    (void)state;
    mlxd_generation_config_init(&c);
    assert_int_equal(mlxd_generation_config_read_ends(&c, config, NULL), MLXD_OK);
    assert_int_equal(c.n_ends, 2);
    assert_true(c.sampling.temperature == 0.7);
    assert_int_equal(read_json(&c, "{\"eos_token_id\": 5}", NULL), MLXD_OK);
    assert_int_equal(mlxd_generation_config_read_ends(&c, config, NULL), MLXD_OK);
    assert_int_equal(c.n_ends, 1); /* generation_config.json overrides it */
    assert_int_equal(c.ends[0], 5);
}

/* ---- GGUF ---- */

static void put_f32(mini_gguf *m, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    mini_key(m, key, MLXD_GGUF_F32);
    mini_u32(&m->kv, bits);
}

static void put_i32(mini_gguf *m, const char *key, int32_t v) {
    mini_key(m, key, MLXD_GGUF_I32);
    mini_u32(&m->kv, (uint32_t)v);
}

static mlxd_err read_gguf(mlxd_generation_config *c, mini_gguf *m, mlxd_why *why) {
    mlxd_generation_config_init(c);
    mlxd_err err = mlxd_generation_config_read_gguf(c, mini_open(m), why);
    mini_close(m);
    return err;
}

static void keys_of_gguf(void **state) {
    mlxd_generation_config c;
    mlxd_why why = {0};
    mini_gguf m = {0};
    (void)state;
    put_f32(&m, "general.sampling.temp", 0.6f);
    put_f32(&m, "general.sampling.top_p", 0.95f);
    put_f32(&m, "general.sampling.min_p", 0.01f);
    put_f32(&m, "general.sampling.penalty_repeat", 1.05f);
    put_i32(&m, "general.sampling.top_k", 20);
    assert_int_equal(read_gguf(&c, &m, &why), MLXD_OK);
    /* The same numbers as in generation_config.json, from which they were made. */
    assert_true(c.sampling.temperature == 0.6 && c.sampling.top_p == 0.95);
    assert_true(c.sampling.min_p == 0.01 && c.sampling.repetition_penalty == 1.05);
    assert_int_equal(c.sampling.top_k, 20);

    m = (mini_gguf){0};
    assert_int_equal(read_gguf(&c, &m, &why), MLXD_OK);
    assert_true(c.sampling.temperature == 0.7);

    m = (mini_gguf){0};
    put_f32(&m, "general.sampling.temp", 0.0f / 0.0f);
    assert_int_equal(read_gguf(&c, &m, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "general.sampling: temperature"));

    m = (mini_gguf){0};
    put_i32(&m, "general.sampling.temp", 1);
    assert_int_equal(read_gguf(&c, &m, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "general.sampling.temp"));

    m = (mini_gguf){0};
    put_i32(&m, "general.sampling.top_k", -20);
    assert_int_equal(read_gguf(&c, &m, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "general.sampling.top_k"));
}

/* The ends go to the tokenizer. */
static void a_tokenizer_learns_ends(void **state) {
    mini_vocab *v = mini_vocab_new("gpt-2");
    mlxd_tokenizer *t;
    mini_gguf m;
    mlxd_why why = {0};
    (void)state;
    assert_int_equal(mlxd_tokenizer_open(&t, mini_vocab_open(&m, v), &why), MLXD_OK);
    int32_t last = (int32_t)mlxd_tokenizer_vocab(t) - 1;
    assert_false(mlxd_tokenizer_is_end(t, last));
    assert_int_equal(mlxd_tokenizer_add_end(t, last, &why), MLXD_OK);
    assert_int_equal(mlxd_tokenizer_add_end(t, last, &why), MLXD_OK); /* once is enough */
    assert_true(mlxd_tokenizer_is_end(t, last));
    assert_int_equal(mlxd_tokenizer_add_end(t, last + 1, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "a vocabulary of 259"));
    assert_int_equal(mlxd_tokenizer_add_end(t, -1, &why), MLXD_ERR_DATA);
    mlxd_err err = MLXD_OK;
    for (int32_t id = 10; id < 200 && !err; id++)
        err = mlxd_tokenizer_add_end(t, id, &why);
    assert_int_equal(err, MLXD_ERR_DATA);
    mlxd_tokenizer_close(t);
    mini_close(&m);
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_nobody_says),
        cmocka_unit_test(files_as_they_are),
        cmocka_unit_test(files_that_say_nonsense),
        cmocka_unit_test(ends_of_config_json),
        cmocka_unit_test(keys_of_gguf),
        cmocka_unit_test(a_tokenizer_learns_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
