/* tables.h - the functions that dispatch.c puts into the tables; private to kernel/.
 *
 * What each computes is said in matmul.h, vector.h, attention.h and probe.h, where its type is the
 * member of that name. Only dispatch.c decides whether the CPU has an overlay's instructions;
 * nothing else may call an overlay's functions, but for overlays that build on weaker ones.
 */
#ifndef MLXD_KERNEL_TABLES_H
#define MLXD_KERNEL_TABLES_H

#include "kernel/kernel.h"

/* The type of a member of a table of functions. */
#define MLXD_MEMBER(family, member) __typeof__(*((const family *)0)->member)

typedef MLXD_MEMBER(mlxd_matmul_kernels, quantize) mlxd_quantize_fn;
typedef MLXD_MEMBER(mlxd_matmul_kernels, product) mlxd_product_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, rmsnorm) mlxd_rmsnorm_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, swiglu) mlxd_gate_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, softcap) mlxd_softcap_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, rope_pairs) mlxd_rope_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, to_f16) mlxd_to_f16_fn;
typedef MLXD_MEMBER(mlxd_vector_kernels, is_finite) mlxd_is_finite_fn;
typedef MLXD_MEMBER(mlxd_attention_kernels, page) mlxd_page_fn;
typedef MLXD_MEMBER(mlxd_attention_kernels, merge) mlxd_merge_fn;
typedef MLXD_MEMBER(mlxd_attention_kernels, finish) mlxd_finish_fn;
typedef MLXD_MEMBER(mlxd_probe_kernels, read) mlxd_probe_read_fn;
typedef MLXD_MEMBER(mlxd_probe_kernels, int8) mlxd_probe_int8_fn;

mlxd_quantize_fn mlxd_quantize_scalar;
mlxd_product_fn mlxd_product_scalar;
mlxd_rmsnorm_fn mlxd_rmsnorm_scalar;
mlxd_gate_fn mlxd_swiglu_scalar, mlxd_geglu_scalar, mlxd_clipglu_scalar;
mlxd_softcap_fn mlxd_softcap_scalar;
mlxd_rope_fn mlxd_rope_pairs_scalar, mlxd_rope_halves_scalar;
mlxd_to_f16_fn mlxd_to_f16_scalar;
mlxd_is_finite_fn mlxd_is_finite_scalar;
mlxd_page_fn mlxd_attention_page_scalar;
mlxd_merge_fn mlxd_attention_merge_scalar;
mlxd_finish_fn mlxd_attention_finish_scalar;
mlxd_probe_read_fn mlxd_probe_read_scalar;
mlxd_probe_int8_fn mlxd_probe_int8_scalar;

/* mlxd_product_float_<isa> is the part of mlxd_product_<isa> for F32, F16 and BF16. */
#if defined(__x86_64__)
mlxd_quantize_fn mlxd_quantize_avx2, mlxd_quantize_avx512;
mlxd_product_fn mlxd_product_avx2, mlxd_product_avxvnni, mlxd_product_avx512, mlxd_product_amx;
mlxd_product_fn mlxd_product_float_avx2, mlxd_product_float_avx512;
mlxd_rmsnorm_fn mlxd_rmsnorm_avx2, mlxd_rmsnorm_avx512;
mlxd_gate_fn mlxd_swiglu_avx2, mlxd_geglu_avx2, mlxd_clipglu_avx2;
mlxd_gate_fn mlxd_swiglu_avx512, mlxd_geglu_avx512, mlxd_clipglu_avx512;
mlxd_softcap_fn mlxd_softcap_avx2, mlxd_softcap_avx512;
mlxd_rope_fn mlxd_rope_pairs_avx2, mlxd_rope_pairs_avx512;
mlxd_rope_fn mlxd_rope_halves_avx2, mlxd_rope_halves_avx512;
mlxd_to_f16_fn mlxd_to_f16_avx2, mlxd_to_f16_avx512;
mlxd_is_finite_fn mlxd_is_finite_avx2, mlxd_is_finite_avx512;
mlxd_page_fn mlxd_attention_page_avx2, mlxd_attention_page_avx512;
mlxd_merge_fn mlxd_attention_merge_avx2, mlxd_attention_merge_avx512;
mlxd_finish_fn mlxd_attention_finish_avx2, mlxd_attention_finish_avx512;
mlxd_probe_read_fn mlxd_probe_read_avx2, mlxd_probe_read_avx512;
mlxd_probe_int8_fn mlxd_probe_int8_avx2, mlxd_probe_int8_avxvnni, mlxd_probe_int8_avx512;
mlxd_probe_int8_fn mlxd_probe_int8_amx;
#elif defined(__aarch64__)
mlxd_quantize_fn mlxd_quantize_neon;
mlxd_product_fn mlxd_product_neon, mlxd_product_dotprod, mlxd_product_i8mm;
mlxd_product_fn mlxd_product_float_neon;
mlxd_rmsnorm_fn mlxd_rmsnorm_neon;
mlxd_gate_fn mlxd_swiglu_neon, mlxd_geglu_neon, mlxd_clipglu_neon;
mlxd_softcap_fn mlxd_softcap_neon;
mlxd_rope_fn mlxd_rope_pairs_neon, mlxd_rope_halves_neon;
mlxd_to_f16_fn mlxd_to_f16_neon;
mlxd_is_finite_fn mlxd_is_finite_neon;
mlxd_page_fn mlxd_attention_page_neon;
mlxd_merge_fn mlxd_attention_merge_neon;
mlxd_finish_fn mlxd_attention_finish_neon;
mlxd_probe_read_fn mlxd_probe_read_neon;
mlxd_probe_int8_fn mlxd_probe_int8_neon, mlxd_probe_int8_dotprod, mlxd_probe_int8_i8mm;
#endif

#endif
