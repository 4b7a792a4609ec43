/* tables.h - the functions that dispatch.c puts into the tables; private to kernel/.
 *
 * What each computes is said in matmul.h, vector.h and attention.h. Only dispatch.c decides whether
 * the CPU has an overlay's instructions; nothing else may call an overlay's functions.
 */
#ifndef MLXD_KERNEL_TABLES_H
#define MLXD_KERNEL_TABLES_H

#include "kernel/kernel.h"

void mlxd_quantize_scalar(const float *x, size_t k, int8_t *q, float *scale, float *sum);
void mlxd_product_scalar(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                         size_t panel1, float *y, size_t ldy);
void mlxd_rmsnorm_scalar(const float *x, const float *w, size_t n, float eps, float *y);
void mlxd_add_scalar(float *x, const float *y, size_t n);
void mlxd_swiglu_scalar(const float *g, const float *u, size_t n, float *out);
void mlxd_rope_pairs_scalar(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                            const float *sin);
void mlxd_to_f16_scalar(const float *x, size_t n, uint16_t *out);
bool mlxd_is_finite_scalar(const float *x, size_t n);
void mlxd_attention_page_scalar(const float *q, const uint16_t *k_page, const uint16_t *v_page,
                                size_t head_dim, size_t count, float scale, float *max, float *sum,
                                float *out);
void mlxd_attention_merge_scalar(float *max, float *sum, float *out, float max2, float sum2,
                                 const float *out2, size_t head_dim);
void mlxd_attention_finish_scalar(float *out, float sum, size_t head_dim);

#if defined(__x86_64__)
void mlxd_quantize_avx2(const float *x, size_t k, int8_t *q, float *scale, float *sum);
void mlxd_product_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                       size_t panel1, float *y, size_t ldy);
/* The part of mlxd_product_avx2 for F32, F16 and BF16. */
void mlxd_product_float_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                             size_t panel1, float *y, size_t ldy);
void mlxd_rmsnorm_avx2(const float *x, const float *w, size_t n, float eps, float *y);
void mlxd_add_avx2(float *x, const float *y, size_t n);
void mlxd_swiglu_avx2(const float *g, const float *u, size_t n, float *out);
void mlxd_rope_pairs_avx2(float *x, size_t heads, size_t head_dim, size_t rot, const float *cos,
                          const float *sin);
void mlxd_to_f16_avx2(const float *x, size_t n, uint16_t *out);
bool mlxd_is_finite_avx2(const float *x, size_t n);
void mlxd_attention_page_avx2(const float *q, const uint16_t *k_page, const uint16_t *v_page,
                              size_t head_dim, size_t count, float scale, float *max, float *sum,
                              float *out);
void mlxd_attention_merge_avx2(float *max, float *sum, float *out, float max2, float sum2,
                               const float *out2, size_t head_dim);
void mlxd_attention_finish_avx2(float *out, float sum, size_t head_dim);
#endif

#endif
