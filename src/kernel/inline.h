/* inline.h - how overlays get their inner loops into registers: everything inlined, every loop of
 * constant length unrolled.
 */
#ifndef MLXD_KERNEL_INLINE_H
#define MLXD_KERNEL_INLINE_H

#define MLXD_INLINE static inline __attribute__((always_inline))

/* In front of a loop whose count is a constant once its function is inlined: its arrays of vectors
 * then live in registers. (Clang does a mere "unroll" too late for that.) */
#if defined(__clang__)
#define MLXD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MLXD_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
