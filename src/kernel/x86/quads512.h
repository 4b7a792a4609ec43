/* quads512.h - the payload of a group (format.h) as eight vectors of unsigned bytes, one for each
 * quad of columns: what vpdpbusd multiplies, and what a row of an AMX tile holds. `bits` is a
 * constant in every place of use, so that only its branch remains.
 */
#ifndef MLXD_KERNEL_X86_QUADS512_H
#define MLXD_KERNEL_X86_QUADS512_H

#include "kernel/format.h"
#include "kernel/x86/avx512.h"

#define MLXD_QUADS 8

/* How the compiler's header declares counts of shifts by an immediate. */
#if defined(__clang__)
typedef unsigned mlxd_shift;
#else
typedef int mlxd_shift;
#endif

/* The bits of `mask` of each byte of v >> right (v << -right when negative); bits that come in from
 * a neighbouring byte are not in the mask. */
MLXD_INLINE __m512i mlxd_quads512_part(__m512i v, int right, int mask) {
    __m512i moved = right >= 0 ? _mm512_srli_epi16(v, (mlxd_shift)right)
                               : _mm512_slli_epi16(v, (mlxd_shift)-right);
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)mask));
}

MLXD_INLINE __m512i mlxd_quads512_load(const uint8_t *p) {
    return _mm512_loadu_si512((const void *)p);
}

/* Quad j of the group at p. */
MLXD_INLINE __m512i mlxd_quads512_get(const int bits, const uint8_t *p, int j) {
    if (bits == 8)
        return mlxd_quads512_load(p + 64 * j);
    __m512i q;
    if (bits >= 4) /* 4-bit plane, four vectors */
        q = mlxd_quads512_part(mlxd_quads512_load(p + 64 * (j % 4)), j / 4 * 4, 15);
    else /* 2-bit plane, two vectors */
        q = mlxd_quads512_part(mlxd_quads512_load(p + 64 * (j / 4)), j % 4 * 2, 3);
    if (bits == 5)
        q = _mm512_or_si512(q, mlxd_quads512_part(mlxd_quads512_load(p + 256), j - 4, 16));
    else if (bits == 6)
        q = _mm512_or_si512(
            q, mlxd_quads512_part(mlxd_quads512_load(p + 256 + 64 * (j / 4)), j % 4 * 2 - 4, 48));
    else if (bits == 3)
        q = _mm512_or_si512(q, mlxd_quads512_part(mlxd_quads512_load(p + 128), j - 2, 4));
    return q;
}

#endif
