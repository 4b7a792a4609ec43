/* test_hf_config.c - what config.json says about the storage of tensors. */
#include "model/hf_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mlxd_hf_config *read_config(const char *json) {
    mlxd_hf_config *c;
    mlxd_why why = {0};
    if (mlxd_hf_config_open(&c, mlxd_slice_str(json), "m/config.json", &why))
        fail_msg("%s: %s", json, why.text);
    return c;
}

static void expect(const mlxd_hf_config *c, const char *name, mlxd_encoding_kind kind, int bits,
                   int group) {
    const mlxd_hf_rule *r = mlxd_hf_config_find(c, name);
    assert_non_null(r);
    assert_int_equal(r->kind, kind);
    assert_int_equal(r->bits, bits);
    assert_int_equal(r->group, group);
}

static void rules_and_exceptions(void **state) {
    (void)state;
    mlxd_hf_config *c =
        read_config("{\"model_type\":\"qwen3_moe\",\"quantization\":{\"group_size\":32,\"bits\":6,"
                    "\"model.layers.3.mlp.gate\":{\"group_size\":64,\"bits\":8},"
                    "\"lm_head\":false,\"model.embed_tokens\":true,\"vision_tower.x\":false,"
                    "\"language_model.model.layers.4.mlp.up_proj\":{\"mode\":\"mxfp4\"},"
                    "\"model.layers.5.self_attn.q_proj\":{},"
                    "\"model.layers.6.mlp.switch_mlp.up_proj\":{\"bits\":3,\"group_size\":128}},"
                    "\"quantization_config\":{\"quant_method\":\"awq\"}}");
    expect(c, "blk.0.attn_q.weight", MLXD_ENCODING_AFFINE, 6, 32);
    expect(c, "token_embd.weight", MLXD_ENCODING_AFFINE, 6, 32);
    expect(c, "blk.3.ffn_gate_inp.weight", MLXD_ENCODING_AFFINE, 8, 64);
    expect(c, "blk.4.ffn_up.weight", MLXD_ENCODING_MXFP4, 4, 32);
    expect(c, "blk.5.attn_q.weight", MLXD_ENCODING_AFFINE, 4, 64); /* the mode's, not the file's */
    expect(c, "blk.6.ffn_up_exps.weight", MLXD_ENCODING_AFFINE, 3, 128);
    assert_int_equal(mlxd_hf_config_find(c, "output.weight")->kind, MLXD_ENCODING_OTHER);
    assert_false(mlxd_hf_config_has_blocks(c) || mlxd_hf_config_has_post_norms(c));
    mlxd_hf_config_close(c);
    mlxd_hf_config_close(NULL);
}

static void other_documents(void **state) {
    (void)state;
    mlxd_hf_config *c = read_config("{}");
    assert_null(mlxd_hf_config_find(c, "blk.0.attn_q.weight"));
    assert_false(mlxd_hf_config_is_tied(c));
    mlxd_hf_config_close(c);
    c = read_config("{\"model_type\":\"gemma3\",\"text_config\":{\"tie_word_embeddings\":true},"
                    "\"quantization_config\":{\"bits\":4,\"group_size\":16,\"mode\":\"nvfp4\"}}");
    expect(c, "output.weight", MLXD_ENCODING_NVFP4, 4, 16);
    assert_true(mlxd_hf_config_is_tied(c) && mlxd_hf_config_has_post_norms(c));
    mlxd_hf_config_close(c);
    c = read_config("{\"model_type\":\"gpt_oss\",\"quantization_config\":"
                    "{\"quant_method\":\"mxfp4\"},\"tie_word_embeddings\":false}");
    assert_null(mlxd_hf_config_find(c, "blk.0.attn_q.weight"));
    assert_true(mlxd_hf_config_has_blocks(c) && !mlxd_hf_config_is_tied(c));
    mlxd_hf_config_close(c);
}

static void refused(const char *json, mlxd_err want, const char *text) {
    mlxd_hf_config *c;
    mlxd_why why = {0};
    mlxd_err err = mlxd_hf_config_open(&c, mlxd_slice_str(json), "m/config.json", &why);
    if (err != want || !strstr(why.text, text) || strncmp(why.text, "m/config.json: ", 15) != 0)
        fail_msg("%s: expected %s \"...%s...\", got %s \"%s\"", json, mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
}

static void refusals(void **state) {
    static const char *const methods[] = {
        "awq", "gptq", "fp8", "bitnet", "compressed-tensors", "bitsandbytes"};
    static const char *const rules[] = {"{\"bits\":7}",
                                        "{\"bits\":1}",
                                        "{\"bits\":\"4\"}",
                                        "{\"bits\":260}",
                                        "{\"group_size\":16}",
                                        "{\"group_size\":-64}",
                                        "{\"group_size\":256}",
                                        "{\"mode\":\"mxfp4\",\"group_size\":64}",
                                        "{\"mode\":\"mxfp8\",\"bits\":4}"};
    char json[200];
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(methods); i++) {
        snprintf(json, sizeof json, "{\"quantization_config\":{\"quant_method\":\"%s\"}}",
                 methods[i]);
        refused(json, MLXD_ERR_UNSUPPORTED, methods[i]);
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(rules); i++) {
        snprintf(json, sizeof json, "{\"quantization\":%s}", rules[i]);
        refused(json, MLXD_ERR_UNSUPPORTED, "quantization: mode");
        snprintf(json, sizeof json, "{\"quantization\":{\"lm_head\":%s}}", rules[i]);
        refused(json, MLXD_ERR_UNSUPPORTED, "lm_head.weight: mode");
    }
    refused("{\"quantization\":{\"mode\":\"mxfp5\"}}", MLXD_ERR_UNSUPPORTED, "mode mxfp5");
    refused("{\"quantization\":{\"mode\":4}}", MLXD_ERR_UNSUPPORTED, "mode no string");
    refused("{\"quantization_config\":{\"quant_method\":4}}", MLXD_ERR_UNSUPPORTED, "no string");
    refused("{\"quantization\":{\"lm_head\":false,\"language_model.lm_head\":false}}",
            MLXD_ERR_DATA, "output.weight twice");
    refused("[]", MLXD_ERR_DATA, "no object");
    refused("{", MLXD_ERR_DATA, "offset 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_and_exceptions),
        cmocka_unit_test(other_documents),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
