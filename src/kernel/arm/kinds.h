/* kinds.h - product.h's loops, once for each kind of weights: separate functions, because compilers
 * do badly with all of them in one. Only the matmul_*.c of this folder include it, after they have
 * said by table_dot() how they multiply.
 */
#ifndef MLXD_KERNEL_ARM_KINDS_H
#define MLXD_KERNEL_ARM_KINDS_H

#include "kernel/arm/product.h"

/* A product, as product() gets it. */
typedef struct task {
    const mlxd_matrix *w;
    const mlxd_activations *a;
    size_t panel0, panel1;
    bool add;
    float *y;
    size_t ldy;
} task;

MLXD_INLINE void run_kind(const mlxd_kind kind, const task *k) {
    mlxd_arm_product_kind(table_dot(), kind, k->w, k->a, k->panel0, k->panel1, k->add, k->y,
                          k->ldy);
}

#include "kernel/run_kinds.h"

static void run(const task *k) {
    MLXD_ASSERT(k->w->cols == k->a->k);
    if (mlxd_format_is_quantized(k->w->format))
        runs[k->w->format.kind](k);
    else
        mlxd_product_float_neon(k->w, k->a, k->panel0, k->panel1, k->add, k->y, k->ldy);
}

#endif
