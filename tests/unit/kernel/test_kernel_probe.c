/* test_kernel_probe.c - the probes read every byte, and count what they multiply. */
#include "kernel_test.h"

/* All variants agree with a sum made word by word, for sizes around what they unroll; and each
 * single byte is seen. */
static void test_read(void **state) {
    (void)state;
    enum { BYTES = 8 * 512 };
    uint64_t *region = aligned_alloc(64, BYTES);
    assert_true(region != NULL);
    rng_start("read");
    for (size_t i = 0; i < BYTES / 8; i++)
        region[i] = rng_next();
    for (size_t bytes = 0; bytes <= BYTES; bytes += 512) {
        uint64_t expected = 0;
        for (size_t i = 0; i < bytes / 8; i++)
            expected ^= region[i];
        for (size_t i = 0; i < mlxd_kernels_count(); i++)
            assert_true(mlxd_kernels_at(i)->probe.read(region, bytes) == expected);
    }
    for (size_t i = 0; i < mlxd_kernels_count(); i++) {
        const mlxd_kernels *k = mlxd_kernels_at(i);
        uint64_t before = k->probe.read(region, BYTES);
        for (size_t at = 0; at < BYTES; at++) {
            ((uint8_t *)region)[at] ^= 1;
            assert_true((k->probe.read(region, BYTES) ^ before) == (uint64_t)1 << at % 8 * 8);
            ((uint8_t *)region)[at] ^= 1;
        }
    }
    free(region);
}

static void test_int8(void **state) {
    (void)state;
    for (size_t i = 0; i < mlxd_kernels_count(); i++) {
        const mlxd_kernels *k = mlxd_kernels_at(i);
        uint64_t one = k->probe.int8(1);
        assert_true(one > 0 && one % 2 == 0);
        assert_true(k->probe.int8(0) == 0);
        assert_true(k->probe.int8(1000) == 1000 * one);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_int8),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
