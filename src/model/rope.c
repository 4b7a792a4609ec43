/* rope.c - see rope.h. */
#include "model/rope.h"

#include "base/mem.h"
#include "kernel/math.h"

#include <math.h>

#define STRIDE 64u /* positions that are made at a time */
#define TWO_PI 6.283185307179586476925286766559

static size_t table_bytes(const mlxd_rope *r) {
    return (size_t)r->positions * r->half * sizeof(float);
}

static double llama3(const mlxd_rope_rule *rule, double f) {
    double wave = TWO_PI / f;
    if (wave > rule->original / rule->low)
        return f / rule->factor;
    if (wave < rule->original / rule->high)
        return f;
    double smooth = (rule->original / wave - rule->low) / (rule->high - rule->low);
    return (1 - smooth) * f / rule->factor + smooth * f;
}

/* The dimension that turns `turns` times over the original positions. */
static double yarn_dimension(const mlxd_rope_rule *rule, uint32_t dims, double turns) {
    return dims * mlxd_log_f64(rule->original / (turns * TWO_PI)) / (2 * mlxd_log_f64(rule->theta));
}

static double yarn(const mlxd_rope_rule *rule, uint32_t dims, uint32_t i, double f) {
    double a = yarn_dimension(rule, dims, rule->high), b = yarn_dimension(rule, dims, rule->low);
    if (rule->truncate) {
        a = floor(a);
        b = ceil(b);
    }
    a = MLXD_MAX(a, 0.0);
    b = MLXD_MIN(b, dims - 1.0);
    double ramp = (i - a) / (a == b ? 0.001 : b - a);
    ramp = MLXD_MIN(MLXD_MAX(ramp, 0.0), 1.0);
    double own = 1 - ramp;
    return f / rule->factor * (1 - own) + f * own;
}

static double frequency(const mlxd_rope_rule *rule, const float *list, uint32_t dims, uint32_t i) {
    double f = mlxd_pow_f64(rule->theta, -2.0 * i / dims);
    switch (rule->kind) {
    case MLXD_ROPE_PLAIN:
        break;
    case MLXD_ROPE_LINEAR:
        return f / rule->factor;
    case MLXD_ROPE_LLAMA3:
        return llama3(rule, f);
    case MLXD_ROPE_YARN:
        return yarn(rule, dims, i, f);
    case MLXD_ROPE_FACTORS:
    case MLXD_ROPE_LONGROPE:
        return f / list[i];
    }
    return f;
}

mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, const mlxd_rope_rule *rule,
                        const float *const lists[MLXD_ROPE_LISTS], uint32_t positions,
                        mlxd_why *why) {
    MLXD_ASSERT(positions > 0 && positions <= MLXD_LIMIT_CONTEXT);
    const bool is_long = rule->kind == MLXD_ROPE_LONGROPE && positions > rule->original;
    const float *list = lists[is_long ? MLXD_ROPE_LONG : MLXD_ROPE_SHORT];
    *r =
        (mlxd_rope){.positions = positions, .half = c->rope_dims / 2, .attention = rule->attention};
    for (uint32_t i = 0; i < r->half; i++)
        r->frequency[i] = frequency(rule, list, c->rope_dims, i);
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
    for (uint32_t i = 0; i < r->half; i++)
        for (uint32_t p = r->reached; p < end; p++) {
            double sin, cos;
            mlxd_sincos_f64(p * r->frequency[i], &sin, &cos);
            r->cos[(size_t)p * r->half + i] = (float)(cos * r->attention);
            r->sin[(size_t)p * r->half + i] = (float)(sin * r->attention);
        }
    r->reached = end;
}

void mlxd_rope_deinit(mlxd_rope *r) {
    if (r->cos)
        mlxd_mem_unmap(r->cos, table_bytes(r));
    if (r->sin)
        mlxd_mem_unmap(r->sin, table_bytes(r));
    r->cos = r->sin = NULL;
}
