/* quads512.h - the payload of a group (format.h) as eight vectors of unsigned bytes, one for each
 * quad of columns: what vpdpbusd multiplies, and what a row of an AMX tile holds; and its scales.
 * `kind` is a constant in every place of use, so that only its branches remain.
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

/* Quad j of the group at p, as stored. */
MLXD_INLINE __m512i mlxd_quads512_stored(const int bits, const uint8_t *p, int j) {
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

/* The same as q: looked up where the kind has a book. */
MLXD_INLINE __m512i mlxd_quads512_get(const mlxd_kind kind, const uint8_t *p, int j) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    __m512i q = mlxd_quads512_stored(f.stored, p, j);
    if (f.book == MLXD_BOOK_NONE)
        return q;
    __m128i book = _mm_loadu_si128((const __m128i *)(const void *)mlxd_books[f.book]);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(book), q);
}

/* Scales and offsets of parts; of a nested block first its D and -M. */
typedef struct mlxd_scales512 {
    __m512 d[2], m[2];
} mlxd_scales512;

/* What a block has for all its groups; p: behind its payloads. */
MLXD_INLINE mlxd_scales512 mlxd_scales512_load(const mlxd_kind kind, mlxd_float type,
                                               const uint8_t *p) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const size_t next = MLXD_PANEL_ROWS * mlxd_float_bytes(type);
    mlxd_scales512 s;
    s.d[0] = s.d[1] = s.m[0] = s.m[1] = mlxd_avx512_widen(type, p);
    if (f.affine)
        s.m[0] = mlxd_avx512_widen(type, p + next);
    else if (f.halves && !f.nested)
        s.d[1] = mlxd_avx512_widen(type, p + next);
    if (f.affine && f.nested)
        s.m[0] = _mm512_xor_ps(s.m[0], _mm512_set1_ps(-0.0f));
    return s;
}

/* d times the sixteen int8 at p, or their low or high nibbles. */
MLXD_INLINE __m512 mlxd_scales512_times(__m512 d, const uint8_t *p, const int nibble) {
    __m128i s = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (nibble >= 0)
        s = _mm_and_si128(_mm_srli_epi16(s, nibble), _mm_set1_epi8(15));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s)));
}

/* The parts of group g; p as above. */
MLXD_INLINE mlxd_scales512 mlxd_scales512_of(const mlxd_kind kind, const mlxd_scales512 *block,
                                             const uint8_t *p, size_t g) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const size_t rows = MLXD_PANEL_ROWS;
    mlxd_scales512 s = *block;
    if (!f.nested)
        return s;
    p += (size_t)(f.affine ? 4 : 2) * rows + g * mlxd_kind_factor_bytes(kind);
    s.d[0] = mlxd_scales512_times(block->d[0], p, f.affine && f.halves ? 0 : -1);
    if (f.halves)
        s.d[1] = mlxd_scales512_times(block->d[0], p + rows, f.affine ? 0 : -1);
    if (f.affine)
        s.m[0] = mlxd_scales512_times(block->m[0], f.halves ? p : p + rows, f.halves ? 4 : -1);
    if (f.affine && f.halves)
        s.m[1] = mlxd_scales512_times(block->m[0], p + rows, 4);
    return s;
}

#endif
