/* test_config_hf.c - config.json: both spellings, what transformers assumes for what is not said,
 * and what is refused, by name. (That the values are used as transformers uses them is tested with
 * whole checkpoints in test_families.c.) */
#include "../../support/model_file.h"

#include "model/config_internal.h"

#define NUMBERS                                                                                    \
    "\"num_hidden_layers\": 4, \"hidden_size\": 64, \"intermediate_size\": 96, "                   \
    "\"num_attention_heads\": 4, \"max_position_embeddings\": 512"
#define OF(type) "{\"model_type\": \"" type "\", " NUMBERS ", "

static mlxd_err read_text(const char *json, mlxd_config *c, mlxd_why *why) {
    *c = (mlxd_config){0};
    *why = (mlxd_why){0};
    return mlxd_config_read_hf(c, "models/tiny/", mlxd_slice_str(json), why);
}

static mlxd_config good(const char *json) {
    mlxd_config c;
    mlxd_why why;
    model_file_check(read_text(json, &c, &why), &why);
    return c;
}

static void refused(const char *json, mlxd_err want, const char *text) {
    mlxd_config c;
    mlxd_why why;
    mlxd_err err = read_text(json, &c, &why);
    if (err != want || !strstr(why.text, text))
        fail_msg("%s: expected %s \"...%s...\", got %s \"%s\"", json, mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
}

static void what_is_not_said(void **state) {
    (void)state;
    mlxd_config c = good(OF("llama") "\"rope_scaling\": null, \"head_dim\": null}");
    assert_string_equal(c.arch, "llama");
    assert_string_equal(c.name, "tiny");
    assert_true(c.layers == 4 && c.hidden == 64 && c.ffn == 96 && c.heads == 4 && c.context == 512);
    assert_true(c.kv_heads == 4 && c.head_dim == 16 && c.rope_dims == 16 && !c.rope_pairs);
    assert_true(c.rms_eps == 1e-6f && c.rope[0].theta == 10000 && !c.tied && c.pre_norms);
    assert_true(c.rope[0].kind == MLXD_ROPE_PLAIN && c.rope[0].attention == 1);
    assert_true(c.attention_scale == 0.25f && c.embedding_scale == 1 && c.logit_divisor == 1);
    assert_true(!c.qkv_bias && !c.o_bias && !c.ffn_bias && !c.post_norms && c.norm_plus == 0);
    c = good(OF("qwen2") "\"num_key_value_heads\": 2}");
    assert_true(c.qkv_bias && !c.o_bias && c.kv_heads == 2 && c.window == 0);
    c = good(OF("mistral") "\"num_key_value_heads\": 4}");
    assert_true(c.window == 4096 && c.layer[3] == MLXD_LAYER_WINDOW);
    c = good(OF("mistral") "\"num_key_value_heads\": 4, \"sliding_window\": null}");
    assert_true(c.window == 0 && c.layer[3] == 0);
    c = good(OF("smollm3") "\"num_key_value_heads\": 2}");
    assert_true(c.rope[0].theta == 2e6 && c.tied && c.layer[3] == MLXD_LAYER_NO_ROPE &&
                !c.layer[2]);
    c = good(OF("olmo2") "\"attention_bias\": true}");
    assert_true(!c.pre_norms && c.post_norms && c.qk_norm == MLXD_QK_NORM_WIDE && c.o_bias);
    c = good(OF("gemma2") "\"head_dim\": 16}");
    assert_true(c.attention_softcap == 50 && c.final_softcap == 30 && c.window == 4096);
    assert_true(c.attention_scale == 0.0625f && c.norm_plus == 1 && c.embedding_scale == 8);
    assert_true(c.layer[0] == MLXD_LAYER_WINDOW && c.layer[1] == 0);
    c = good(OF("gemma2") "\"head_dim\": 16, \"attn_logit_softcapping\": null}");
    assert_true(c.attention_softcap == 0 && c.final_softcap == 30);
}

/* The 4B model says no more than this about its language part. */
static void a_part_of_something_larger(void **state) {
    (void)state;
    mlxd_config c = good("{\"model_type\": \"gemma3\", \"torch_dtype\": \"bfloat16\", "
                         "\"text_config\": {\"model_type\": \"gemma3_text\", "
                         "\"hidden_size\": 2560, \"intermediate_size\": 10240, "
                         "\"num_hidden_layers\": 34, \"sliding_window\": 1024, "
                         "\"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"linear\"}}}");
    assert_string_equal(c.arch, "gemma3");
    assert_true(c.layers == 34 && c.heads == 8 && c.kv_heads == 4 && c.head_dim == 256 && c.tied);
    assert_true(c.context == 131072 && c.window == 1024 && c.embedding_scale == 50.5f);
    assert_true(c.rope[0].kind == MLXD_ROPE_LINEAR && c.rope[0].factor == 8);
    assert_true(c.rope[0].theta == 1e6 && c.rope[1].theta == 10000);
    assert_true(c.rope[1].kind == MLXD_ROPE_PLAIN && c.final_softcap == 0);
    for (uint32_t i = 0; i < 34; i++)
        assert_int_equal(c.layer[i], i % 6 == 5 ? 0 : MLXD_LAYER_WINDOW | MLXD_LAYER_LOCAL_ROPE);
}

static void rope_in_both_spellings(void **state) {
    (void)state;
    static const char *const same[] = {
        OF("llama") "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", "
                    "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                    "\"original_max_position_embeddings\": 128}}",
        OF("llama") "\"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", "
                    "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                    "\"original_max_position_embeddings\": 128}}"};
    for (size_t i = 0; i < MLXD_COUNT_OF(same); i++) {
        mlxd_config c = good(same[i]);
        const mlxd_rope_rule *r = &c.rope[0];
        assert_true(r->kind == MLXD_ROPE_LLAMA3 && r->theta == 500000 && r->factor == 8);
        assert_true(r->low == 1 && r->high == 4 && r->original == 128);
    }
    mlxd_config c = good(OF("qwen2") "\"num_key_value_heads\": 4, \"rope_scaling\": {"
                                     "\"type\": \"yarn\", \"factor\": 4.0}}");
    assert_true(c.rope[0].kind == MLXD_ROPE_YARN && c.rope[0].original == 512);
    assert_true(c.rope[0].truncate && c.rope[0].high == 32 && c.rope[0].low == 1);
    assert_true(c.rope[0].attention > 1.1386 && c.rope[0].attention < 1.1387);
    c = good(OF("phi3") "\"partial_rotary_factor\": 0.25, "
                        "\"original_max_position_embeddings\": 128, \"rope_scaling\": {"
                        "\"type\": \"su\", \"short_factor\": [1, 2], \"long_factor\": [3, 4.5]}}");
    assert_true(c.rope_dims == 4 && c.rope[0].kind == MLXD_ROPE_LONGROPE);
    assert_true(c.rope[0].original == 128 && c.rope_lists[MLXD_ROPE_LONG][1] == 4.5f);
    assert_true(c.rope[0].attention > 1.1338 && c.rope[0].attention < 1.134);
}

static void layers_of_several_kinds(void **state) {
    (void)state;
    mlxd_config c = good(OF("qwen3_moe") "\"num_experts\": 8, \"num_experts_per_tok\": 2, "
                                         "\"moe_intermediate_size\": 32, \"mlp_only_layers\": [3], "
                                         "\"decoder_sparse_step\": 2}");
    assert_true(c.experts == 8 && c.experts_used == 2 && c.expert_ffn == 32 && !c.expert_renorm);
    assert_true(c.layer[0] == 0 && c.layer[1] == MLXD_LAYER_EXPERTS && c.layer[3] == 0);
    c = good(OF("gpt_oss") "\"num_key_value_heads\": 2, \"num_local_experts\": 4, \"layer_types\": "
                           "[\"full_attention\", \"sliding_attention\", \"full_attention\", "
                           "\"full_attention\"]}");
    assert_true(c.sinks && c.qkv_bias && c.o_bias && c.expert_bias && c.expert_renorm);
    assert_true(c.experts == 4 && c.experts_used == 4 && c.expert_ffn == 96 && c.window == 128);
    assert_true(c.gate == MLXD_GATE_CLIPPED && c.head_dim == 64);
    assert_int_equal(c.layer[0], MLXD_LAYER_EXPERTS);
    assert_int_equal(c.layer[1], MLXD_LAYER_EXPERTS | MLXD_LAYER_WINDOW);
    c = good(OF("smollm3") "\"num_key_value_heads\": 2, \"no_rope_layers\": [1, 0, 1, 1]}");
    assert_true(c.layer[1] == MLXD_LAYER_NO_ROPE && c.layer[3] == 0);
    c = good(OF("qwen3") "\"num_key_value_heads\": 4, \"use_sliding_window\": true, "
                         "\"sliding_window\": 100, \"max_window_layers\": 3}");
    assert_true(c.window == 100 && c.layer[2] == 0 && c.layer[3] == MLXD_LAYER_WINDOW);
}

static void what_is_refused(void **state) {
    (void)state;
    refused("[]", MLXD_ERR_DATA, "not an object");
    refused("{\"model_type\": ", MLXD_ERR_DATA, "config.json: offset");
    refused("{}", MLXD_ERR_DATA, "model_type is missing");
    refused("{\"model_type\": 3}", MLXD_ERR_DATA, "model_type is missing");
    refused("{\"model_type\": \"bert\"}", MLXD_ERR_UNSUPPORTED, "\"bert\" is not supported");
    refused("{\"model_type\": \"bert\"}", MLXD_ERR_UNSUPPORTED, "qwen3_moe, gemma2, gemma3_text");
    refused("{\"model_type\": \"llama\"}", MLXD_ERR_DATA, "num_hidden_layers is missing");
    refused(OF("llama") "\"rms_norm_eps\": \"1\"}", MLXD_ERR_DATA, "rms_norm_eps is not a number");
    refused(OF("llama") "\"head_dim\": 16.5}", MLXD_ERR_DATA, "head_dim is not an integer");
    refused(OF("llama") "\"head_dim\": 1000}", MLXD_ERR_DATA, "head_dim is 1000, expected 2..512");
    refused(OF("llama") "\"num_key_value_heads\": 5}", MLXD_ERR_DATA, "num_key_value_heads is 5");
    refused(OF("llama") "\"attention_bias\": 1}", MLXD_ERR_DATA, "attention_bias is not true");
    refused(OF("llama") "\"hidden_act\": \"relu\"}", MLXD_ERR_UNSUPPORTED, "\"relu\"");
    refused(OF("llama") "\"rope_scaling\": 3}", MLXD_ERR_DATA, "rope_scaling is not an object");
    refused(OF("llama") "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
            MLXD_ERR_UNSUPPORTED, "\"dynamic\" is not supported (supported: default, linear");
    refused(OF("llama") "\"rope_scaling\": {\"type\": \"mrope\"}}", MLXD_ERR_UNSUPPORTED,
            "\"mrope\"");
    refused(OF("llama") "\"rope_scaling\": {\"type\": \"linear\"}}", MLXD_ERR_DATA,
            "factor is missing");
    refused(OF("llama") "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", MLXD_ERR_DATA,
            "factor is 0");
    refused(OF("phi3") "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1], "
                       "\"long_factor\": [1]}}",
            MLXD_ERR_DATA, "short_factor is not a list of 8 numbers");
    refused(OF("gemma2") "\"head_dim\": 16, \"layer_types\": [\"full_attention\"]}", MLXD_ERR_DATA,
            "layer_types is not a list with an entry for each layer");
    refused(OF("qwen3") "\"num_key_value_heads\": 4, \"layer_types\": [\"chunked_attention\", "
                        "\"full_attention\", \"full_attention\", \"full_attention\"]}",
            MLXD_ERR_UNSUPPORTED, "\"chunked_attention\"");
    refused(OF("smollm3") "\"num_key_value_heads\": 4, \"no_rope_layers\": [1]}", MLXD_ERR_DATA,
            "no_rope_layers");
    refused(OF("qwen3_moe") "\"mlp_only_layers\": [\"x\"]}", MLXD_ERR_DATA, "mlp_only_layers");
    refused(OF("qwen3_moe") "\"num_experts\": 100000}", MLXD_ERR_DATA, "num_experts is 100000");
    refused(OF("gpt_oss") "\"num_key_value_heads\": 4, \"swiglu_limit\": 9}", MLXD_ERR_UNSUPPORTED,
            "swiglu_limit 9");
    refused(OF("gemma2") "\"head_dim\": 16, \"use_bidirectional_attention\": true}",
            MLXD_ERR_UNSUPPORTED, "use_bidirectional_attention");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_said),       cmocka_unit_test(a_part_of_something_larger),
        cmocka_unit_test(rope_in_both_spellings), cmocka_unit_test(layers_of_several_kinds),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
