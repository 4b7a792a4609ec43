/* vector.c - the definition of the small operations between the matrix products (see vector.h). */
#include "kernel/tables.h"

#include "kernel/math.h"
#include "kernel/scalar/lanes.h"

#include <math.h>
#include <string.h>

void mlxd_rmsnorm_scalar(const float *x, const float *w, size_t n, float eps, float *y) {
    float lane[MLXD_LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % MLXD_LANES] = fmaf(x[i], x[i], lane[i % MLXD_LANES]);
    float r = 1.0f / sqrtf(mlxd_lanes_sum(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] * r) * w[i];
}

void mlxd_swiglu_scalar(const float *g, const float *u, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = (g[i] / (1.0f + mlxd_exp_f32(-g[i]))) * u[i];
}

void mlxd_geglu_scalar(const float *g, const float *u, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        float z = g[i] * fmaf(g[i] * g[i], MLXD_GELU_C3, MLXD_GELU_C1);
        out[i] = (g[i] / (1.0f + mlxd_exp_f32(z))) * u[i];
    }
}

void mlxd_clipglu_scalar(const float *g, const float *u, size_t n, float *out) {
    const float limit = MLXD_CLIP_LIMIT;
    for (size_t i = 0; i < n; i++) {
        float a = limit < g[i] ? limit : g[i], b = limit < u[i] ? limit : u[i];
        b = -limit > b ? -limit : b;
        out[i] = (a / (1.0f + mlxd_exp_f32(a * MLXD_CLIP_ALPHA))) * (b + 1.0f);
    }
}

void mlxd_softcap_scalar(float *x, size_t n, float cap) {
    const float factor = 2.0f / cap, twice = 2.0f * cap;
    for (size_t i = 0; i < n; i++)
        x[i] = cap - twice / (mlxd_exp_f32(x[i] * factor) + 1.0f);
}

void mlxd_rope_pairs_scalar(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                            const float *sin) {
    for (size_t h = 0; h < heads; h++) {
        float *v = x + h * head_dim;
        for (size_t i = 0; i < rot / 2; i++) {
            float a = v[2 * i], b = v[2 * i + 1];
            v[2 * i] = fmaf(a, cos[i], -(b * sin[i]));
            v[2 * i + 1] = fmaf(a, sin[i], b * cos[i]);
        }
    }
}

void mlxd_rope_halves_scalar(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                             const float *sin) {
    size_t half = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *v = x + h * head_dim;
        for (size_t i = 0; i < half; i++) {
            float a = v[i], b = v[half + i];
            v[i] = fmaf(a, cos[i], -(b * sin[i]));
            v[half + i] = fmaf(a, sin[i], b * cos[i]);
        }
    }
}

void mlxd_vector_add(const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] + x[i];
}

void mlxd_vector_scale(float a, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] * a;
}

void mlxd_vector_add_scaled(float a, const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] + a * x[i];
}

void mlxd_to_f16_scalar(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = mlxd_f32_to_f16(x[i]);
}

bool mlxd_is_finite_scalar(const float *x, size_t n) {
    uint32_t odd = 0; /* counts exponents of all ones: infinity and NaN */
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        odd |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return odd == 0;
}
