/* matmul_dotprod.c - the product by sdot: product.h's loops around sdot.h's sums. */
#if defined(__aarch64__)
#include "kernel/arm/sdot.h"

MLXD_INLINE mlxd_arm_dot table_dot(void) {
    return (mlxd_arm_dot){mlxd_sdot_load, mlxd_sdot_multiply};
}

#include "kernel/arm/kinds.h"

void mlxd_product_dotprod(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                          size_t panel1, bool add, float *y, size_t ldy) {
    const task k = {w, a, panel0, panel1, add, y, ldy};
    run(&k);
}
#endif
