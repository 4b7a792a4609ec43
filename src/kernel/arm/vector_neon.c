/* vector_neon.c - the small operations, four lanes at a time. There are no masked loads, so what is
 * left over at the end of a vector goes through the scalar functions, which have the same bits. */
#if defined(__aarch64__)
#include "kernel/tables.h"

#include "kernel/arm/neon.h"
#include "kernel/scalar/lanes.h"

#include <math.h>

void mlxd_rmsnorm_neon(const float *x, const float *w, size_t n, float eps, float *y) {
    float32x4_t sum[4];
    float lane[MLXD_LANES];
    size_t i = 0;
    MLXD_UNROLL
    for (int j = 0; j < 4; j++)
        sum[j] = vdupq_n_f32(0);
    for (; i + MLXD_LANES <= n; i += MLXD_LANES) {
        MLXD_UNROLL
        for (int j = 0; j < 4; j++) {
            float32x4_t v = vld1q_f32(x + i + 4 * j);
            sum[j] = vfmaq_f32(sum[j], v, v);
        }
    }
    MLXD_UNROLL
    for (int j = 0; j < 4; j++)
        vst1q_f32(lane + 4 * j, sum[j]);
    for (; i < n; i++)
        lane[i % MLXD_LANES] = fmaf(x[i], x[i], lane[i % MLXD_LANES]);
    float r = 1.0f / sqrtf(mlxd_lanes_sum(lane) / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
    for (; i < n; i++)
        y[i] = (x[i] * r) * w[i];
}

/* (g / (1 + e)) * u */
MLXD_INLINE float32x4_t gate(float32x4_t g, float32x4_t e, float32x4_t u) {
    return vmulq_f32(vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0f), e)), u);
}

void mlxd_swiglu_neon(const float *g, const float *u, size_t n, float *out) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vld1q_f32(g + i);
        vst1q_f32(out + i, gate(v, mlxd_neon_exp(vnegq_f32(v)), vld1q_f32(u + i)));
    }
    mlxd_swiglu_scalar(g + i, u + i, n - i, out + i);
}

void mlxd_geglu_neon(const float *g, const float *u, size_t n, float *out) {
    const float32x4_t c1 = vdupq_n_f32(MLXD_GELU_C1), c3 = vdupq_n_f32(MLXD_GELU_C3);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vld1q_f32(g + i);
        float32x4_t z = vmulq_f32(v, vfmaq_f32(c1, vmulq_f32(v, v), c3));
        vst1q_f32(out + i, gate(v, mlxd_neon_exp(z), vld1q_f32(u + i)));
    }
    mlxd_geglu_scalar(g + i, u + i, n - i, out + i);
}

void mlxd_clipglu_neon(const float *g, const float *u, size_t n, float *out) {
    const float32x4_t limit = vdupq_n_f32(MLXD_CLIP_LIMIT), least = vdupq_n_f32(-MLXD_CLIP_LIMIT);
    const float32x4_t one = vdupq_n_f32(1.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t a = vminq_f32(vld1q_f32(g + i), limit), b = vminq_f32(vld1q_f32(u + i), limit);
        b = vaddq_f32(vmaxq_f32(b, least), one);
        vst1q_f32(out + i, gate(a, mlxd_neon_exp(vmulq_n_f32(a, MLXD_CLIP_ALPHA)), b));
    }
    mlxd_clipglu_scalar(g + i, u + i, n - i, out + i);
}

void mlxd_softcap_neon(float *x, size_t n, float cap) {
    const float factor = 2.0f / cap;
    const float32x4_t twice = vdupq_n_f32(2.0f * cap), one = vdupq_n_f32(1.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t e = mlxd_neon_exp(vmulq_n_f32(vld1q_f32(x + i), factor));
        vst1q_f32(x + i, vsubq_f32(vdupq_n_f32(cap), vdivq_f32(twice, vaddq_f32(e, one))));
    }
    mlxd_softcap_scalar(x + i, n - i, cap);
}

void mlxd_rope_pairs_neon(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                          const float *sin) {
    size_t pairs = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *v = x + h * head_dim;
        size_t i = 0;
        for (; i + 4 <= pairs; i += 4) {
            float32x4x2_t ab = vld2q_f32(v + 2 * i);
            float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
            float32x4_t minus = vnegq_f32(vmulq_f32(ab.val[1], s));
            float32x4_t plus = vmulq_f32(ab.val[1], c);
            float32x4x2_t turned = {
                {vfmaq_f32(minus, ab.val[0], c), vfmaq_f32(plus, ab.val[0], s)}};
            vst2q_f32(v + 2 * i, turned);
        }
        mlxd_rope_pairs_scalar(v + 2 * i, 1, head_dim - 2 * i, 2 * (pairs - i), cos + i, sin + i);
    }
}

void mlxd_rope_halves_neon(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                           const float *sin) {
    size_t half = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *v = x + h * head_dim;
        size_t i = 0;
        for (; i + 4 <= half; i += 4) {
            float32x4_t a = vld1q_f32(v + i), b = vld1q_f32(v + half + i);
            float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
            vst1q_f32(v + i, vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c));
            vst1q_f32(v + half + i, vfmaq_f32(vmulq_f32(b, c), a, s));
        }
        for (; i < half; i++) {
            float a = v[i], b = v[half + i];
            v[i] = fmaf(a, cos[i], -(b * sin[i]));
            v[half + i] = fmaf(a, sin[i], b * cos[i]);
        }
    }
}

void mlxd_to_f16_neon(const float *x, size_t n, uint16_t *out) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    mlxd_to_f16_scalar(x + i, n - i, out + i);
}

bool mlxd_is_finite_neon(const float *x, size_t n) {
    const uint32x4_t ones = vdupq_n_u32(0x7f800000);
    uint32x4_t odd = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint32x4_t v = vreinterpretq_u32_f32(vld1q_f32(x + i));
        odd = vorrq_u32(odd, vceqq_u32(vandq_u32(v, ones), ones));
    }
    return vmaxvq_u32(odd) == 0 && mlxd_is_finite_scalar(x + i, n - i);
}
#endif
