/* rope.c - see rope.h. */
#include "model/rope.h"

#include "base/mem.h"
#include "kernel/math.h"

mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, uint32_t positions, mlxd_why *why) {
    MLXD_ASSERT(positions > 0 && positions <= MLXD_LIMIT_CONTEXT);
    *r = (mlxd_rope){.positions = positions, .half = c->rope_dims / 2};
    r->cos = mlxd_mem_new((size_t)positions * r->half, sizeof(float));
    r->sin = mlxd_mem_new((size_t)positions * r->half, sizeof(float));
    if (!r->cos || !r->sin) {
        mlxd_rope_deinit(r);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %u rope positions", positions);
    }
    for (uint32_t i = 0; i < r->half; i++) {
        double freq = mlxd_pow_f64(c->rope_theta, -2.0 * i / c->rope_dims) / c->rope_scale;
        for (uint32_t p = 0; p < positions; p++) {
            double sin, cos;
            mlxd_sincos_f64(p * freq, &sin, &cos);
            r->cos[(size_t)p * r->half + i] = (float)cos;
            r->sin[(size_t)p * r->half + i] = (float)sin;
        }
    }
    return MLXD_OK;
}

void mlxd_rope_deinit(mlxd_rope *r) {
    mlxd_mem_free(r->cos);
    mlxd_mem_free(r->sin);
    r->cos = r->sin = NULL;
}
