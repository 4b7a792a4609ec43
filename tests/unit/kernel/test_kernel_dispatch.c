/* test_kernel_dispatch.c - which table of kernels a cap chooses. */
#include "kernel_test.h"

static const char *isa_for(const char *cap) {
    const mlxd_kernels *k = NULL;
    mlxd_why why;
    assert_int_equal(mlxd_kernels_get(&k, cap, &why), MLXD_OK);
    assert_true(k != NULL);
    return k->isa;
}

static void test_tables_are_complete(void **state) {
    (void)state;
    assert_true(mlxd_kernels_count() >= 1);
    assert_true(mlxd_kernels_at(0) == mlxd_kernels_scalar());
    for (size_t i = 0; i < mlxd_kernels_count(); i++) {
        const mlxd_kernels *k = mlxd_kernels_at(i);
        assert_true(k->isa && k->matmul.quantize && k->matmul.product);
        assert_true(k->vector.rmsnorm && k->vector.swiglu);
        assert_true(k->vector.geglu);
        assert_true(k->vector.rope_pairs && k->vector.rope_halves && k->vector.clipglu &&
                    k->vector.softcap && k->vector.to_f16 && k->vector.is_finite);
        assert_true(k->attention.page && k->attention.merge && k->attention.finish);
        assert_true(strcmp(isa_for(k->isa), k->isa) == 0);
        for (size_t j = 0; j < i; j++)
            assert_true(strcmp(mlxd_kernels_at(j)->isa, k->isa) != 0);
    }
}

static void test_caps(void **state) {
    (void)state;
    const char *best = mlxd_kernels_at(mlxd_kernels_count() - 1)->isa;
    assert_true(strcmp(isa_for(NULL), best) == 0);
    assert_true(strcmp(isa_for("scalar"), "scalar") == 0);
#if defined(__x86_64__)
    const char *avx2 = mlxd_os_cpu_flags() & MLXD_CPU_AVX2 ? "avx2" : "scalar";
    assert_true(strcmp(isa_for("avx2"), avx2) == 0);
    assert_true(strcmp(isa_for("amx"), best) == 0);
    assert_true(strcmp(isa_for("neon"), "scalar") == 0);
    assert_true(strcmp(isa_for("i8mm"), "scalar") == 0);
#else
    assert_true(strcmp(isa_for("i8mm"), best) == 0);
    assert_true(strcmp(isa_for("avx2"), "scalar") == 0);
    assert_true(strcmp(isa_for("amx"), "scalar") == 0);
#endif
}

static void test_unknown_name(void **state) {
    (void)state;
    const char *names[] = {"", "sse9", "AVX2", "avx2 "};
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        const mlxd_kernels *k = NULL;
        mlxd_why why = {{0}};
        assert_int_equal(mlxd_kernels_get(&k, names[i], &why), MLXD_ERR_INVALID);
        assert_true(k == NULL);
        assert_true(strstr(why.text, names[i]) != NULL);
        assert_true(strstr(why.text, "scalar") && strstr(why.text, "avx512"));
        assert_true(strstr(why.text, "amx") && strstr(why.text, "i8mm"));
        assert_int_equal(mlxd_kernels_get(&k, names[i], NULL), MLXD_ERR_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_complete),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_unknown_name),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
