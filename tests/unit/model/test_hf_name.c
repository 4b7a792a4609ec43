/* test_hf_name.c - canonical names of the tensors in Hugging Face's and MLX's files: all plain ones
 * of the families against gguf-py's tables, and what those do not know by hand. */
#include "../../support/golden.h"

#include "model/hf_name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void names_of_the_families(void **state) {
    mlxd_json_doc *doc = golden_json("checkpoints/names.json");
    const mlxd_json *root = mlxd_json_root(doc);
    mlxd_slice family, name, want;
    size_t n = 0;
    (void)state;
    for (const mlxd_json *f = mlxd_json_first(root, &family); f;
         f = mlxd_json_next(root, f, &family)) {
        bool post = mlxd_hf_has_post_norms((const char *)family.data);
        for (const mlxd_json *v = mlxd_json_first(f, &name); v; v = mlxd_json_next(f, v, &name)) {
            mlxd_hf_name got;
            assert_int_equal(mlxd_json_get_str(v, &want), MLXD_OK);
            assert_true(mlxd_hf_name_read((const char *)name.data, post, &got));
            if (strcmp(got.canonical, (const char *)want.data) != 0)
                fail_msg("%s: %s is %s, expected %s", (const char *)family.data,
                         (const char *)name.data, got.canonical, (const char *)want.data);
            assert_int_equal(got.part, MLXD_HF_WEIGHT);
            assert_int_equal(got.expert, MLXD_HF_NO_EXPERT);
            n++;
        }
    }
    assert_true(n > 200);
    mlxd_json_close(doc);
}

#define NONE MLXD_HF_NO_EXPERT

static void names_by_hand(void **state) {
    static const struct {
        const char *stored, *canonical;
        mlxd_hf_part part;
        uint32_t expert;
        bool blocks, transposed;
    } cases[] = {
        {"model.layers.3.mlp.experts.127.up_proj.weight", "blk.3.ffn_up_exps.weight", 0, 127, 0, 0},
        {"model.layers.3.mlp.experts.0.gate_proj.scales", "blk.3.ffn_gate_exps.weight", 1, 0, 0, 0},
        {"model.layers.3.mlp.experts.07.up_proj.weight", "blk.3.mlp.experts.07.up_proj.weight", 0,
         NONE, 0, 0},
        {"model.layers.3.mlp.experts.4096.up_proj.weight", "blk.3.mlp.experts.4096.up_proj.weight",
         0, NONE, 0, 0},
        {"model.layers.3.mlp.experts.5.more.weight", "blk.3.mlp.experts.5.more.weight", 0, NONE, 0,
         0},
        {"model.layers.3.mlp.switch_mlp.down_proj.biases", "blk.3.ffn_down_exps.weight", 2, NONE, 0,
         0},
        {"model.layers.3.mlp.experts.gate_proj.bias", "blk.3.ffn_gate_exps.bias", 0, NONE, 0, 0},
        {"model.layers.3.mlp.experts.gate_up_proj_blocks", "blk.3.ffn_gate_up_exps.weight", 0, NONE,
         1, 0},
        {"model.layers.3.mlp.experts.gate_up_proj_scales", "blk.3.ffn_gate_up_exps.weight", 1, NONE,
         1, 0},
        {"model.layers.3.mlp.experts.down_proj_bias", "blk.3.ffn_down_exps.bias", 0, NONE, 0, 0},
        {"model.layers.3.mlp.experts.down_proj", "blk.3.ffn_down_exps.weight", 0, NONE, 0, 1},
        {"model.layers.3.mlp.experts.down_proj.weight", "blk.3.ffn_down_exps.weight", 0, NONE, 0,
         0},
        {"model.layers.3.self_attn.sinks", "blk.3.attn_sinks.weight", 0, NONE, 0, 0},
        {"model.layers.3.self_attn.q_proj", "blk.3.self_attn.q_proj", 0, NONE, 0, 0},
        {"model.layers.3.self_attn.q_proj.weight_scale_inv",
         "blk.3.self_attn.q_proj.weight_scale_inv", 0, NONE, 0, 0},
        {"model.layers.1023.mlp.gate.weight", "blk.1023.ffn_gate_inp.weight", 0, NONE, 0, 0},
        {"model.layers.1024.mlp.gate.weight", "model.layers.1024.mlp.gate.weight", 0, NONE, 0, 0},
        {"model.layers.00.mlp.gate.weight", "model.layers.00.mlp.gate.weight", 0, NONE, 0, 0},
        {"model.layers.x.mlp.gate.weight", "model.layers.x.mlp.gate.weight", 0, NONE, 0, 0},
        {"model.layers.", "model.layers.", 0, NONE, 0, 0},
        {"language_model.model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 0, NONE, 0, 0},
        {"model.language_model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 0, NONE, 0, 0},
        {"language_model.lm_head.scales", "output.weight", 1, NONE, 0, 0},
        {"lm_head.weight", "output.weight", 0, NONE, 0, 0},
        {"model.embed_tokens.biases", "token_embd.weight", 2, NONE, 0, 0},
        {"model.norm.weight", "output_norm.weight", 0, NONE, 0, 0},
        {"model.normal.weight", "model.normal.weight", 0, NONE, 0, 0},
        {"", "", 0, NONE, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_hf_name got;
        assert_true(mlxd_hf_name_read(cases[i].stored, false, &got));
        assert_string_equal(got.canonical, cases[i].canonical);
        assert_int_equal(got.part, cases[i].part);
        assert_int_equal(got.expert, cases[i].expert);
        assert_int_equal(got.blocks, cases[i].blocks);
        assert_int_equal(got.transposed, cases[i].transposed);
    }
}

static void what_a_language_model_does_not_need(void **state) {
    static const char *const names[] = {
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.vision_tower.x.weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
    };
    mlxd_hf_name got;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        assert_false(mlxd_hf_name_read(names[i], false, &got));
    assert_true(mlxd_hf_name_read("model.layers.0.rotary_emb.inv_freq.weight", false, &got));
}

/* The longest name has room, also as a module without a table row. */
static void long_names(void **state) {
    char name[MLXD_LIMIT_TENSOR_NAME];
    mlxd_hf_name got;
    (void)state;
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    memcpy(name, "model.layers.1000.", 18);
    assert_true(mlxd_hf_name_read(name, false, &got));
    assert_memory_equal(got.canonical, "blk.1000.xxx", 12);
    assert_int_equal(strlen(got.canonical), strlen(name) - 9);
    memcpy(name, "layers.7.", 9);
    assert_true(mlxd_hf_name_read(name, false, &got));
    assert_int_equal(strlen(got.canonical), strlen(name) - 3);
    memcpy(name, "mlp.experts.1000.", 17);
    assert_true(mlxd_hf_name_read(name, false, &got));
    assert_string_equal(got.canonical, name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_the_families),
        cmocka_unit_test(names_by_hand),
        cmocka_unit_test(what_a_language_model_does_not_need),
        cmocka_unit_test(long_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
