/* test_config.c - the numbers of a model: read, defaulted, checked against each other, and refused
 * with the key's name. */
#include "../../support/model_file.h"

#include "model/config.h"

/* What a test changes about a good model. A negative number leaves the key out. */
struct numbers {
    const char *arch, *name, *scaling;
    int64_t layers, hidden, ffn, heads, kv_heads, context, key_length, value_length, rope_dims,
        experts;
    double eps, theta, factor, scale_linear;
    uint64_t vocab;
    uint32_t embd_dims;
    bool no_embd, output, freqs;
};

static const struct numbers good = {.arch = "llama",
                                    .name = "A model",
                                    .layers = 3,
                                    .hidden = 64,
                                    .ffn = 96,
                                    .heads = 4,
                                    .kv_heads = 2,
                                    .context = 512,
                                    .key_length = -1,
                                    .value_length = -1,
                                    .rope_dims = -1,
                                    .experts = -1,
                                    .eps = 1e-5,
                                    .theta = -1,
                                    .factor = -1,
                                    .scale_linear = -1,
                                    .vocab = 70,
                                    .embd_dims = 2};

static void put_int(mini_gguf *kv, const char *key, int64_t v) {
    if (v >= 0) {
        mini_key(kv, key, MLXD_GGUF_U64);
        mini_u64(&kv->kv, (uint64_t)v);
    }
}

static void put_float(mini_gguf *kv, const char *key, double v) {
    if (v >= 0 || v != v) {
        uint64_t bits;
        memcpy(&bits, &v, sizeof bits);
        mini_key(kv, key, MLXD_GGUF_F64);
        mini_u64(&kv->kv, bits);
    }
}

static const char *write_model(const struct numbers *n) {
    random_state r = {1};
    model_file m = {0};
    mini_gguf *kv = &m.kv;
    if (n->arch)
        mini_put_str(kv, "general.architecture", n->arch);
    if (n->name)
        mini_put_str(kv, "general.name", n->name);
    put_int(kv, "llama.block_count", n->layers);
    put_int(kv, "llama.embedding_length", n->hidden);
    put_int(kv, "llama.feed_forward_length", n->ffn);
    put_int(kv, "llama.attention.head_count", n->heads);
    put_int(kv, "llama.attention.head_count_kv", n->kv_heads);
    put_int(kv, "llama.context_length", n->context);
    put_int(kv, "llama.attention.key_length", n->key_length);
    put_int(kv, "llama.attention.value_length", n->value_length);
    put_int(kv, "llama.rope.dimension_count", n->rope_dims);
    put_int(kv, "llama.expert_count", n->experts);
    put_float(kv, "llama.attention.layer_norm_rms_epsilon", n->eps);
    put_float(kv, "llama.rope.freq_base", n->theta);
    if (n->scaling)
        mini_put_str(kv, "llama.rope.scaling.type", n->scaling);
    put_float(kv, "llama.rope.scaling.factor", n->factor);
    put_float(kv, "llama.rope.scale_linear", n->scale_linear);
    if (!n->no_embd)
        model_file_add(&m, "token_embd.weight", MLXD_GGUF_TYPE_F32, (uint64_t[]){8, n->vocab, 2},
                       n->embd_dims, &r);
    if (n->output)
        model_file_add(&m, "output.weight", MLXD_GGUF_TYPE_F32, (uint64_t[]){8}, 1, &r);
    if (n->freqs)
        model_file_add(&m, "rope_freqs.weight", MLXD_GGUF_TYPE_F32, (uint64_t[]){8}, 1, &r);
    const char *path = model_file_write(&m, "config.gguf");
    model_file_free(&m);
    return path;
}

static mlxd_err read_numbers(const struct numbers *n, mlxd_config *c, mlxd_why *why) {
    mlxd_checkpoint *f = model_file_open(write_model(n));
    *why = (mlxd_why){0};
    mlxd_err err = mlxd_config_read(c, f, why);
    mlxd_checkpoint_close(f);
    return err;
}

static mlxd_config read_good(const struct numbers *n) {
    mlxd_config c;
    mlxd_why why;
    model_file_check(read_numbers(n, &c, &why), &why);
    return c;
}

static void refused(struct numbers n, mlxd_err want, const char *text) {
    mlxd_config c;
    mlxd_why why;
    mlxd_err err = read_numbers(&n, &c, &why);
    if (err != want || !strstr(why.text, text))
        fail_msg("expected %s \"...%s...\", got %s \"%s\"", mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
}

static void a_model_is_read(void **state) {
    (void)state;
    mlxd_config c = read_good(&good);
    assert_string_equal(c.arch, "llama");
    assert_string_equal(c.name, "A model");
    assert_true(c.layers == 3 && c.hidden == 64 && c.ffn == 96 && c.heads == 4 && c.kv_heads == 2);
    assert_true(c.head_dim == 16 && c.rope_dims == 16 && c.vocab == 70 && c.context == 512);
    assert_true(c.rms_eps == 1e-5f && c.rope[0].theta == 10000 && c.rope[0].factor == 1 && c.tied);
    struct numbers n = good;
    n.name = NULL;
    n.kv_heads = -1;
    n.key_length = n.value_length = 24;
    n.rope_dims = 8;
    n.theta = 500000;
    n.scaling = "linear";
    n.factor = 4;
    n.output = true;
    c = read_good(&n);
    assert_string_equal(c.name, "llama");
    assert_true(c.kv_heads == 4 && c.head_dim == 24 && c.rope_dims == 8);
    assert_true(c.rope[0].theta == 500000 && c.rope[0].factor == 4 && !c.tied);
    n.scaling = "none";
    assert_true(read_good(&n).rope[0].factor == 1);
    n.scaling = NULL;
    n.scale_linear = 2;
    assert_true(read_good(&n).rope[0].factor == 2);
}

/* Control bytes in a name would forge lines, an overlong one is cut. */
static void names_are_harmless(void **state) {
    struct numbers n = good;
    char name[300];
    (void)state;
    n.name = "a\nb\x1b\x7f";
    assert_string_equal(read_good(&n).name, "a?b??");
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    n.name = name;
    assert_int_equal(strlen(read_good(&n).name), sizeof((mlxd_config *)0)->name - 1);
    n.arch = name;
    refused(n, MLXD_ERR_UNSUPPORTED, "architecture \"xxx");
}

#define WITH(field, value) (refuse = good, refuse.field = (value), refuse)

static void missing_and_absurd_numbers_are_refused(void **state) {
    struct numbers refuse;
    (void)state;
    refused(WITH(layers, -1), MLXD_ERR_DATA, "llama.block_count is missing");
    refused(WITH(layers, 0), MLXD_ERR_DATA, "llama.block_count is 0");
    refused(WITH(layers, MLXD_LIMIT_LAYERS + 1), MLXD_ERR_DATA, "llama.block_count");
    refused(WITH(layers, INT64_MAX), MLXD_ERR_DATA, "llama.block_count");
    refused(WITH(layers, (INT64_C(1) << 32) + 3), MLXD_ERR_DATA, "llama.block_count");
    refused(WITH(hidden, -1), MLXD_ERR_DATA, "llama.embedding_length");
    refused(WITH(hidden, MLXD_LIMIT_HIDDEN + 1), MLXD_ERR_DATA, "llama.embedding_length");
    refused(WITH(hidden, 63), MLXD_ERR_DATA, "63");
    refused(WITH(hidden, 4), MLXD_ERR_DATA, "key_length");
    refused(WITH(ffn, 0), MLXD_ERR_DATA, "llama.feed_forward_length");
    refused(WITH(ffn, MLXD_LIMIT_FFN + 1), MLXD_ERR_DATA, "llama.feed_forward_length");
    refused(WITH(heads, 0), MLXD_ERR_DATA, "llama.attention.head_count");
    refused(WITH(heads, MLXD_LIMIT_HEADS + 1), MLXD_ERR_DATA, "llama.attention.head_count");
    refused(WITH(kv_heads, 0), MLXD_ERR_DATA, "head_count_kv");
    refused(WITH(kv_heads, 8), MLXD_ERR_DATA, "head_count_kv");
    refused(WITH(kv_heads, 3), MLXD_ERR_DATA, "4 attention heads");
    refused(WITH(context, 0), MLXD_ERR_DATA, "llama.context_length");
    refused(WITH(context, MLXD_LIMIT_CONTEXT + 1), MLXD_ERR_DATA, "llama.context_length");
    refused(WITH(key_length, MLXD_LIMIT_HEAD_DIM + 1), MLXD_ERR_DATA, "key_length");
    refused(WITH(key_length, 15), MLXD_ERR_DATA, "rope dimension count is 15");
    refused(WITH(rope_dims, 7), MLXD_ERR_DATA, "rope dimension count is 7");
    refused(WITH(rope_dims, 18), MLXD_ERR_DATA, "rope dimension count is 18");
    refused(WITH(eps, -1), MLXD_ERR_DATA, "rms_epsilon is missing");
    refused(WITH(eps, 2), MLXD_ERR_DATA, "rms_epsilon");
    refused(WITH(eps, 0.0 / 0.0), MLXD_ERR_DATA, "rms_epsilon");
    refused(WITH(theta, 0.5), MLXD_ERR_DATA, "freq_base");
    refused(WITH(theta, 1e13), MLXD_ERR_DATA, "freq_base");
    refused(WITH(theta, 1.0 / 0.0), MLXD_ERR_DATA, "freq_base");
    refused(WITH(scale_linear, 0), MLXD_ERR_DATA, "scale_linear");
    refused(WITH(arch, NULL), MLXD_ERR_DATA, "general.architecture");
    refused(WITH(no_embd, true), MLXD_ERR_DATA, "token_embd.weight");
    refused(WITH(embd_dims, 1), MLXD_ERR_DATA, "token_embd.weight");
    refused(WITH(embd_dims, 3), MLXD_ERR_DATA, "token_embd.weight");
}

static void what_is_not_computed_is_refused_by_name(void **state) {
    struct numbers refuse;
    (void)state;
    refused(WITH(arch, "falcon"), MLXD_ERR_UNSUPPORTED, "\"falcon\"");
    refused(WITH(arch, "falcon"), MLXD_ERR_UNSUPPORTED, "supported: llama, mistral3, qwen2, qwen3");
    refused(WITH(arch, ""), MLXD_ERR_UNSUPPORTED, "\"\"");
    refused(WITH(scaling, "dynamic"), MLXD_ERR_UNSUPPORTED, "\"dynamic\"");
    refused(WITH(scaling, "yarn"), MLXD_ERR_DATA, "rope.scaling.factor is missing");
    refused(WITH(scaling, "linear"), MLXD_ERR_DATA, "rope.scaling.factor is missing");
    refused(WITH(value_length, 8), MLXD_ERR_UNSUPPORTED, "value length 8");
    refused(WITH(experts, 8), MLXD_ERR_UNSUPPORTED, "8 experts");
    refuse = good;
    refuse.experts = 0;
    read_good(&refuse);
}

/* Every golden checkpoint is read; an architecture with a NUL inside is not llama. */
static void golden_files_and_hidden_bytes(void **state) {
    mlxd_config c;
    mlxd_why why = {0};
    model_file m = {0};
    (void)state;
    mlxd_checkpoint *f = model_file_open(MLXD_GOLDEN "/tiny-untied.gguf");
    model_file_check(mlxd_config_read(&c, f, &why), &why);
    assert_true(c.layers == 3 && c.hidden == 48 && c.ffn == 88 && c.heads == 3 && c.kv_heads == 1 &&
                c.head_dim == 16 && c.vocab == 515 && !c.tied);
    mlxd_checkpoint_close(f);
    mini_key(&m.kv, "general.architecture", MLXD_GGUF_STRING);
    mini_bytes(&m.kv.kv, "llama\0x", 7);
    f = model_file_open(model_file_write(&m, "nul.gguf"));
    assert_int_equal(mlxd_config_read(&c, f, &why), MLXD_ERR_UNSUPPORTED);
    mlxd_checkpoint_close(f);
    model_file_free(&m);
    mini_put_u32(&m.kv, "general.architecture", 7);
    f = model_file_open(model_file_write(&m, "number.gguf"));
    assert_int_equal(mlxd_config_read(&c, f, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "general.architecture"));
    mlxd_checkpoint_close(f);
    model_file_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_read),
        cmocka_unit_test(names_are_harmless),
        cmocka_unit_test(missing_and_absurd_numbers_are_refused),
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(golden_files_and_hidden_bytes),
    };
    return cmocka_run_group_tests(tests, model_file_set_up, model_file_tear_down);
}
