/* matmul_avxvnni.c - the product with quantized weights by vpdpbusd, which multiplies unsigned by
 * signed bytes and adds four products to an int32, exactly. The loops are in matmul_256.h. */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx2.h"

typedef __m256i sums;

MLXD_INLINE int taken_off(const int bits) {
    (void)bits;
    return 0;
}

MLXD_INLINE sums begin(__m256i first) {
    return first;
}

MLXD_INLINE void add_quad(const int bits, const int quads, const int i, __m256i w, __m256i a,
                          sums *s) {
    (void)bits;
    (void)quads;
    (void)i;
    *s = _mm256_dpbusd_avx_epi32(*s, w, a);
}

MLXD_INLINE __m256i end(sums s) {
    return s;
}

#include "kernel/x86/matmul_256.h"

void mlxd_product_avxvnni(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                          size_t panel1, bool add, float *y, size_t ldy) {
    const task k = {w, a, panel0, panel1, add, y, ldy};
    MLXD_ASSERT(w->cols == a->k);
    if (mlxd_format_is_quantized(w->format))
        run(&k);
    else
        mlxd_product_float_avx2(w, a, panel0, panel1, add, y, ldy);
}
#endif
