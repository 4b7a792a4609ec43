/* test_host.c - directories of Hugging Face as they are published: files that speak of more tokens
 * than the model has, templates in files of their own, parts that are missing. */
#include "../../support/model_file.h"

#include "serve/host.h"

#define FAMILY "families/qwen3/" /* 96 rows, tied */
#define TOKENIZER                                                                                  \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<e>\",\"special\":true}%s],"                       \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}]},"                      \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<e>\",\"vocab\":{\"<e>\":0,\"a\":1,\"b\":2},"     \
    "\"merges\":[]}}"

static const char *put(const char *dir, const char *name, const char *data, size_t len) {
    char path[100];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return model_file_put(path, data, len);
}

static void copy(const char *dir, const char *name) {
    char path[60];
    snprintf(path, sizeof path, FAMILY "%s", name);
    mlxd_buf data = golden_read(path);
    put(dir, name, (const char *)data.data, data.len);
    mlxd_buf_deinit(&data);
}

/* A directory with weights, config.json, and a tokenizer of 3 tokens and `added`. */
static const char *new_model(const char *added) {
    static unsigned n;
    static char dir[20];
    char text[600];
    snprintf(dir, sizeof dir, "model-%u", n++);
    assert_int_equal(mkdir(model_file_path(dir), 0755), 0);
    copy(dir, "config.json");
    copy(dir, "model.safetensors");
    int len = snprintf(text, sizeof text, TOKENIZER, added);
    put(dir, "tokenizer.json", text, (size_t)len);
    return dir;
}

static mlxd_err open_host(mlxd_host *h, const char *dir, mlxd_why *why) {
    *why = (mlxd_why){{0}};
    return mlxd_host_open(
        h, &(mlxd_host_params){.path = model_file_path(dir), .threads = 1, .text = true}, why);
}

static void refused(const char *dir, const char *text) {
    mlxd_host h;
    mlxd_why why;
    if (open_host(&h, dir, &why) != MLXD_ERR_DATA || !strstr(why.text, text))
        fail_msg("expected \"...%s...\", got \"%s\"", text, why.text);
}

/* Files of models whose vocabulary was cut, or that were copied from a larger one. */
static void ends_beyond_the_vocabulary(void **state) {
    (void)state;
    static const char ends[] = "{\"eos_token_id\": [2, 5000], \"pad_token_id\": 5000}";
    static const char none[] = "{\"eos_token_id\": 5000}",
                      *const added = ",{\"id\":200,\"content\":\"<beyond>\",\"special\":true}";
    mlxd_host h;
    mlxd_why why;
    const char *dir = new_model(added);
    put(dir, "generation_config.json", ends, sizeof ends - 1);
    model_file_check(open_host(&h, dir, &why), &why);
    assert_true(mlxd_tokenizer_is_end(h.tokenizer, 2));
    assert_int_equal(mlxd_tokenizer_vocab(h.tokenizer), 96);
    mlxd_host_close(&h);
    put(dir, "generation_config.json", none, sizeof none - 1);
    refused(dir, "eos_token_id: end-of-turn token 5000 of a vocabulary of 96, no other");
    static const char config[] = "{\"eos_token\": \"<e>\"}";
    put(dir, "tokenizer_config.json", config, sizeof config - 1);
    model_file_check(open_host(&h, dir, &why), &why);
    assert_true(mlxd_tokenizer_is_end(h.tokenizer, 0));
    mlxd_host_close(&h);
}

static void templates_of_processors(void **state) {
    (void)state;
    static const char text[] = "{\"chat_template\": \"seen\"}";
    mlxd_host h;
    mlxd_why why;
    const char *dir = new_model("");
    model_file_check(open_host(&h, dir, &why), &why);
    assert_null(h.chat);
    mlxd_host_close(&h);
    put(dir, "chat_template.json", text, sizeof text - 1);
    model_file_check(open_host(&h, dir, &why), &why);
    assert_true(mlxd_slice_eq(mlxd_chat_template(h.chat, false), mlxd_slice_str("seen")));
    mlxd_host_close(&h);
}

static void what_is_missing(void **state) {
    (void)state;
    static const char untied[] =
        "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"hidden_size\": 64, "
        "\"intermediate_size\": 96, \"num_attention_heads\": 4, "
        "\"max_position_embeddings\": 256, \"tie_word_embeddings\": false}";
    const char *dir = new_model("");
    put(dir, "config.json", untied, sizeof untied - 1);
    refused(dir, "tensor lm_head.weight is missing, and config.json does not say");
    dir = new_model("");
    char path[300];
    snprintf(path, sizeof path, "%s/tokenizer.json", model_file_path(dir));
    assert_int_equal(unlink(path), 0);
    refused(dir, "tokenizer.json is missing (tokenizer.model, tekken.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_beyond_the_vocabulary),
        cmocka_unit_test(templates_of_processors),
        cmocka_unit_test(what_is_missing),
    };
    return cmocka_run_group_tests(tests, model_file_set_up, model_file_tear_down);
}
