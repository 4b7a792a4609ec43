/* rope.c - see rope.h. */
#include "model/rope.h"

#include "base/mem.h"
#include "kernel/math.h"

#define STRIDE 64u /* positions that are made at a time */

static size_t table_bytes(const mlxd_rope *r) {
    return (size_t)r->positions * r->half * sizeof(float);
}

mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, uint32_t positions, mlxd_why *why) {
    MLXD_ASSERT(positions > 0 && positions <= MLXD_LIMIT_CONTEXT);
    *r = (mlxd_rope){.positions = positions,
                     .half = c->rope_dims / 2,
                     .dims = c->rope_dims,
                     .theta = c->rope_theta,
                     .scale = c->rope_scale};
    r->cos = mlxd_mem_map(table_bytes(r));
    r->sin = mlxd_mem_map(table_bytes(r));
    if (r->cos && r->sin)
        return MLXD_OK;
    mlxd_rope_deinit(r);
    return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %u rope positions", positions);
}

void mlxd_rope_reach(mlxd_rope *r, uint32_t end) {
    MLXD_ASSERT(end <= r->positions);
    if (end <= r->reached)
        return;
    uint64_t up = ((uint64_t)end + STRIDE - 1) / STRIDE * STRIDE;
    end = (uint32_t)MLXD_MIN(up, (uint64_t)r->positions);
    for (uint32_t i = 0; i < r->half; i++) {
        double freq = mlxd_pow_f64(r->theta, -2.0 * i / r->dims) / r->scale;
        for (uint32_t p = r->reached; p < end; p++) {
            double sin, cos;
            mlxd_sincos_f64(p * freq, &sin, &cos);
            r->cos[(size_t)p * r->half + i] = (float)cos;
            r->sin[(size_t)p * r->half + i] = (float)sin;
        }
    }
    r->reached = end;
}

void mlxd_rope_deinit(mlxd_rope *r) {
    mlxd_mem_unmap(r->cos, table_bytes(r));
    mlxd_mem_unmap(r->sin, table_bytes(r));
    r->cos = r->sin = NULL;
}
