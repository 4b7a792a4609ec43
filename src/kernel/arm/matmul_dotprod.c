/* matmul_dotprod.c - the product by sdot: product.h's loops around sdot.h's sums. */
#if defined(__aarch64__)
#include "kernel/arm/sdot.h"

void mlxd_product_dotprod(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                          size_t panel1, bool add, float *y, size_t ldy) {
    const mlxd_arm_dot dot = {mlxd_sdot_load, mlxd_sdot_multiply};
    mlxd_arm_product(dot, w, a, panel0, panel1, add, y, ldy);
}
#endif
