/* fuzz_config.c - any config.json is refused, or gives numbers with which tensors can be listed and
 * rotations made. */
#include "model/config_internal.h"
#include "model/layers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define POSITIONS 70

static void make_rope(const mlxd_config *c, const mlxd_rope_rule *rule) {
    const float *lists[MLXD_ROPE_LISTS] = {c->rope_lists[0], c->rope_lists[1]};
    mlxd_rope r;
    mlxd_why why;
    if (mlxd_rope_init(&r, c, rule, lists, POSITIONS, &why) != MLXD_OK)
        return;
    mlxd_rope_reach(&r, 3);
    mlxd_rope_reach(&r, POSITIONS);
    mlxd_rope_deinit(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mlxd_config c;
    mlxd_why why;
    c = (mlxd_config){0};
    if (mlxd_config_read_hf(&c, "tiny", (mlxd_slice){data, size}, &why) != MLXD_OK ||
        mlxd_config_check(&c, &why) != MLXD_OK)
        return 0;
    MLXD_ASSERT(c.layers > 0 && c.layers <= MLXD_LIMIT_LAYERS && c.hidden > 0 && c.heads > 0);
    MLXD_ASSERT(c.kv_heads > 0 && c.heads % c.kv_heads == 0);
    MLXD_ASSERT(c.rope_dims <= c.head_dim && c.head_dim <= MLXD_LIMIT_HEAD_DIM);
    MLXD_ASSERT(c.experts_used <= c.experts && c.experts <= MLXD_LIMIT_EXPERTS);
    MLXD_ASSERT(mlxd_layers_tensors(&c, 0, c.layers, NULL) >= (size_t)c.layers * 8);
    for (int i = 0; i < MLXD_ROPE_TABLES; i++)
        make_rope(&c, &c.rope[i]);
    return 0;
}
