/* run_kinds.h - one function per kind of weights, and a table of them: as one function the loops of
 * all kinds compile badly. For a file that has defined, before it includes this,
 *
 *     task                          what a call has to do
 *     run_kind(kind, const task *)   always inlined, so that `kind` is a constant in each of them
 */
#ifndef MLXD_KERNEL_RUN_KINDS_H
#define MLXD_KERNEL_RUN_KINDS_H

typedef void run_fn(const task *k);

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

#endif
