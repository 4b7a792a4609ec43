/* matmul_avx2.c - the product with quantized weights by vpmaddubsw, which multiplies unsigned by
 * signed bytes and adds pairs to int16, saturating. What may be added up as int16 before it is
 * widened depends on the bits, with a quad's pair sum at most 2 * (2^bits - 1) * 127 in size:
 *
 *     up to 4 bits   8 quads   30480
 *     5 bits         4 quads   31496
 *     6 bits         2 quads   32004
 *     8 bits         a pair sum alone is too large. q - 128 is signed; its magnitude times a with
 *                    its sign makes at most 2 * 128 * 127 = 32512, which is widened at once.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

typedef struct sums {
    __m256i wide, narrow;
} sums;

MLXD_INLINE int taken_off(const int bits) {
    return bits == 8 ? 128 : 0;
}

MLXD_INLINE sums begin(__m256i first) {
    return (sums){first, _mm256_setzero_si256()};
}

/* The sum is wanted now. Compilers know that integer sums may be regrouped, gather all terms of a
 * group before adding them, and run out of registers. */
MLXD_INLINE void keep(__m256i *sum) {
    __asm__("" : "+x"(*sum));
}

MLXD_INLINE void add_quad(const int bits, const int quads, const int i, __m256i w, __m256i a,
                          sums *s) {
    const int room = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    const int span = room < quads ? room : quads;
    if (bits == 8) {
        w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
        a = _mm256_sign_epi8(a, w);
        w = _mm256_abs_epi8(w);
    }
    __m256i pairs = _mm256_maddubs_epi16(w, a);
    s->narrow = i % span == 0 ? pairs : _mm256_add_epi16(s->narrow, pairs);
    if (i % span == span - 1) {
        pairs = _mm256_madd_epi16(s->narrow, _mm256_set1_epi16(1));
        s->wide = _mm256_add_epi32(s->wide, pairs);
        keep(&s->wide);
    } else {
        keep(&s->narrow);
    }
}

MLXD_INLINE __m256i end(sums s) {
    return s.wide;
}

#include "kernel/x86/matmul_256.h"

void mlxd_product_avx2(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                       size_t panel1, bool add, float *y, size_t ldy) {
    const task k = {w, a, panel0, panel1, add, y, ldy};
    MLXD_ASSERT(w->cols == a->k);
    if (mlxd_format_is_quantized(w->format))
        run(&k);
    else
        mlxd_product_float_avx2(w, a, panel0, panel1, add, y, ldy);
}
#endif
