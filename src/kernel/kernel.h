/* kernel.h - the numeric kernels: one table of function pointers per instruction set.
 *
 * Every operation has ONE defined result, down to the last bit. src/kernel/scalar is the
 * definition; an overlay (x86/ AVX2 ...) replaces functions by faster ones with the same bits, for
 * every input whose results are not NaN. Tests compare with memcmp. The rules:
 *
 *   - round to nearest even, denormals kept; no contraction: a fused multiply-add stands only where
 *     fma() is written below, and then in every variant;
 *   - a sum has a fixed shape. Products over k or d are strictly ascending with one f32 accumulator
 *     per output element; SIMD runs across output elements. The few reductions over a vector use 16
 *     strided lanes (lane i sums elements i, i+16, ... ascending) and then the tree
 *     l[i] += l[i+8] (i<8), l[i] += l[i+4] (i<4), l[i] += l[i+2] (i<2), l[0] += l[1];
 *   - exp and log are ours (math.h), made of the same operations in every variant.
 *
 * So results do not depend on ISA, thread count, batch size, chunking or placement. Kernels do not
 * allocate, do not check their arguments beyond asserts at the seams, and may run on any thread
 * whose floating-point state was set by mlxd_os_fpu_init().
 */
#ifndef MLXD_KERNEL_KERNEL_H
#define MLXD_KERNEL_KERNEL_H

#include "kernel/attention.h"
#include "kernel/matmul.h"
#include "kernel/probe.h"
#include "kernel/vector.h"

typedef struct mlxd_kernels {
    const char *isa; /* "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "dotprod", "i8mm" */
    mlxd_matmul_kernels matmul;
    mlxd_vector_kernels vector;
    mlxd_attention_kernels attention;
    mlxd_probe_kernels probe;
} mlxd_kernels;

/* The best table for this CPU that is not above `cap`: scalar < avx2 < avxvnni < avx512 < amx, or
 * scalar < neon < dotprod < i8mm; NULL = no cap. A cap above what exists is no error, and one of
 * the other architecture means scalar. Tables are static. INVALID: unknown name, `why` lists
 * them. */
mlxd_err mlxd_kernels_get(const mlxd_kernels **out, const char *cap, mlxd_why *why) MLXD_MUST_CHECK;
/* The definition. */
const mlxd_kernels *mlxd_kernels_scalar(void);
/* Number of tables this CPU can run (>= 1) and each of them, weakest first; for tests. */
size_t mlxd_kernels_count(void);
const mlxd_kernels *mlxd_kernels_at(size_t index);

#endif
