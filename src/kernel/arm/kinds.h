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

typedef void run_fn(const task *k);

MLXD_INLINE void run_kind(const mlxd_kind kind, const task *k) {
    mlxd_arm_product_kind(table_dot(), kind, k->w, k->a, k->panel0, k->panel1, k->add, k->y,
                          k->ldy);
}

static void run_symmetric_4(const task *k) {
    run_kind(MLXD_KIND_SYMMETRIC_4, k);
}

static void run_symmetric_5(const task *k) {
    run_kind(MLXD_KIND_SYMMETRIC_5, k);
}

static void run_symmetric_8(const task *k) {
    run_kind(MLXD_KIND_SYMMETRIC_8, k);
}

static void run_affine_2(const task *k) {
    run_kind(MLXD_KIND_AFFINE_2, k);
}

static void run_affine_3(const task *k) {
    run_kind(MLXD_KIND_AFFINE_3, k);
}

static void run_affine_4(const task *k) {
    run_kind(MLXD_KIND_AFFINE_4, k);
}

static void run_affine_5(const task *k) {
    run_kind(MLXD_KIND_AFFINE_5, k);
}

static void run_affine_6(const task *k) {
    run_kind(MLXD_KIND_AFFINE_6, k);
}

static void run_affine_8(const task *k) {
    run_kind(MLXD_KIND_AFFINE_8, k);
}

static void run_book_iq4(const task *k) {
    run_kind(MLXD_KIND_BOOK_IQ4, k);
}

static void run_book_fp4(const task *k) {
    run_kind(MLXD_KIND_BOOK_FP4, k);
}

static void run_halves_fp4(const task *k) {
    run_kind(MLXD_KIND_HALVES_FP4, k);
}

static void run_nested_2(const task *k) {
    run_kind(MLXD_KIND_NESTED_2, k);
}

static void run_nested_3(const task *k) {
    run_kind(MLXD_KIND_NESTED_3, k);
}

static void run_nested_4(const task *k) {
    run_kind(MLXD_KIND_NESTED_4, k);
}

static void run_nested_5(const task *k) {
    run_kind(MLXD_KIND_NESTED_5, k);
}

static void run_nested_6(const task *k) {
    run_kind(MLXD_KIND_NESTED_6, k);
}

static void run_nested_iq4(const task *k) {
    run_kind(MLXD_KIND_NESTED_IQ4, k);
}

static run_fn *const runs[MLXD_KIND_COUNT] = {
    [MLXD_KIND_SYMMETRIC_4] = run_symmetric_4, [MLXD_KIND_SYMMETRIC_5] = run_symmetric_5,
    [MLXD_KIND_SYMMETRIC_8] = run_symmetric_8, [MLXD_KIND_AFFINE_2] = run_affine_2,
    [MLXD_KIND_AFFINE_3] = run_affine_3,       [MLXD_KIND_AFFINE_4] = run_affine_4,
    [MLXD_KIND_AFFINE_5] = run_affine_5,       [MLXD_KIND_AFFINE_6] = run_affine_6,
    [MLXD_KIND_AFFINE_8] = run_affine_8,       [MLXD_KIND_BOOK_IQ4] = run_book_iq4,
    [MLXD_KIND_BOOK_FP4] = run_book_fp4,       [MLXD_KIND_HALVES_FP4] = run_halves_fp4,
    [MLXD_KIND_NESTED_2] = run_nested_2,       [MLXD_KIND_NESTED_3] = run_nested_3,
    [MLXD_KIND_NESTED_4] = run_nested_4,       [MLXD_KIND_NESTED_5] = run_nested_5,
    [MLXD_KIND_NESTED_6] = run_nested_6,       [MLXD_KIND_NESTED_IQ4] = run_nested_iq4,
};

static void run(const task *k) {
    MLXD_ASSERT(k->w->cols == k->a->k);
    if (mlxd_format_is_quantized(k->w->format))
        runs[k->w->format.kind](k);
    else
        mlxd_product_float_neon(k->w, k->a, k->panel0, k->panel1, k->add, k->y, k->ldy);
}

#endif
