/* vector.h - the small operations between the matrix products. Lengths n >= 0 of any value;
 * pointers need natural alignment only; outputs may equal inputs where it is said. */
#ifndef MLXD_KERNEL_VECTOR_H
#define MLXD_KERNEL_VECTOR_H

#include "base/base.h"

/* -2 * sqrt(2/pi), and that times 0.044715. */
#define MLXD_GELU_C1 (-0x1.988454p+0f)
#define MLXD_GELU_C3 (-0x1.2444f2p-4f)

/* The clipped gate of gpt-oss: its limit, and minus the factor in front of its sigmoid. */
#define MLXD_CLIP_LIMIT 7.0f
#define MLXD_CLIP_ALPHA (-1.702f)

typedef struct mlxd_vector_kernels {
    /* RMSNorm: ss = 16-lane sum of fma(x, x, lane); r = 1 / sqrt(ss / (float)n + eps);
     * y[i] = (x[i] * r) * w[i]. y may be x. */
    void (*rmsnorm)(const float *x, const float *w, size_t n, float eps, float *y);
    /* SwiGLU: out[i] = (g[i] / (1 + exp(-g[i]))) * u[i]. out may be g or u. */
    void (*swiglu)(const float *g, const float *u, size_t n, float *out);
    /* GELU (tanh form) gate: t = g*g; z = g * fma(t, c3, c1), c1 = MLXD_GELU_C1,
     * c3 = MLXD_GELU_C3; out[i] = (g[i] / (1 + exp(z))) * u[i]. out may be g or u. */
    void (*geglu)(const float *g, const float *u, size_t n, float *out);
    /* Clipped gate: a = min(g, limit), b = max(-limit, min(u, limit)), limit = MLXD_CLIP_LIMIT,
     * NaN stays; out[i] = (a / (1 + exp(a * MLXD_CLIP_ALPHA))) * (b + 1). out may be g or u. */
    void (*clipglu)(const float *g, const float *u, size_t n, float *out);
    /* cap * tanh(x / cap): x[i] = cap - (2*cap) / (exp(x[i] * (2/cap)) + 1); cap > 0. */
    void (*softcap)(float *x, size_t n, float cap);
    /* Rotates pairs (x[2i], x[2i+1]), i < rot/2, of each of `heads` vectors of head_dim values:
     *   a = x[2i], b = x[2i+1]:  x[2i] = fma(a, cos[i], -(b * sin[i]))
     *                            x[2i+1] = fma(a, sin[i], b * cos[i])
     * ("NORM" order of GGUF's llama). Values beyond rot stay. */
    void (*rope_pairs)(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                       const float *sin);
    /* The same with pairs (x[i], x[i + rot/2]) ("NEOX" order: most families, and all that come
     * from Hugging Face). */
    void (*rope_halves)(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                        const float *sin);
    /* f32 -> f16, round to nearest even, overflow to infinity. */
    void (*to_f16)(const float *x, size_t n, uint16_t *out);
    /* No NaN and no infinity among n values. */
    bool (*is_finite)(const float *x, size_t n);
} mlxd_vector_kernels;

/* Element by element, so whatever the compiler makes of them has the same bits: y += x;
 * y = y * a; y = y + a * x, product and sum rounded each. */
void mlxd_vector_add(const float *x, size_t n, float *y);
void mlxd_vector_scale(float a, size_t n, float *y);
void mlxd_vector_add_scaled(float a, const float *x, size_t n, float *y);

/* Exact widening of one f16 / bf16, and the one rounding back. */
float mlxd_f16_to_f32(uint16_t h);
uint16_t mlxd_f32_to_f16(float f);
float mlxd_bf16_to_f32(uint16_t h);

#endif
