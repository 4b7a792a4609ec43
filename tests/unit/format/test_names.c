/* test_names.c - the sorted index: order, look-up, the first duplicate, and its cost on names that
 * are chosen badly. */
#include "base/mem.h"
#include "format/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mlxd_slice name_at(const void *ctx, uint32_t id) {
    return mlxd_slice_str(((const char *const *)ctx)[id]);
}

static void test_names_find(void **state) {
    (void)state;
    static const char *const names[] = {"b", "", "abc", "ab", "a", "\xff", "abd", "B"};
    uint32_t order[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    assert_int_equal(mlxd_names_sort(order, 8, name_at, names), MLXD_NAMES_NONE);
    static const uint32_t sorted[] = {1, 7, 4, 3, 2, 6, 0, 5};
    assert_memory_equal(order, sorted, sizeof sorted);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(mlxd_names_find(order, 8, name_at, names, mlxd_slice_str(names[i])), i);
    static const char *const absent[] = {"abe", "A", "c", "a\x01", "\xff\xff"};
    for (size_t i = 0; i < MLXD_COUNT_OF(absent); i++)
        assert_int_equal(mlxd_names_find(order, 8, name_at, names, mlxd_slice_str(absent[i])),
                         MLXD_NAMES_NONE);
    assert_int_equal(mlxd_names_sort(NULL, 0, name_at, names), MLXD_NAMES_NONE);
    assert_int_equal(mlxd_names_find(NULL, 0, name_at, names, mlxd_slice_str("")), MLXD_NAMES_NONE);
}

static void test_names_duplicates(void **state) {
    (void)state;
    static const char *const names[] = {"x", "c", "b", "c", "b", "c"};
    uint32_t order[] = {5, 4, 3, 2, 1, 0};
    assert_int_equal(mlxd_names_sort(order, 6, name_at, names), 3); /* the first repetition */
    uint32_t some[] = {0, 4, 5};
    assert_int_equal(mlxd_names_sort(some, 3, name_at, names), MLXD_NAMES_NONE);
}

static size_t lookups;

static mlxd_slice number_at(const void *ctx, uint32_t id) {
    lookups++;
    return (mlxd_slice){(const uint8_t *)ctx + 4 * (size_t)id, 4};
}

/* Sorted, reversed, equal and random input: correct order, and n log n looks at a name. */
static void test_names_cost(void **state) {
    (void)state;
    enum { N = 65536 };
    uint32_t seed = 20261123;
    print_message("seed %u\n", seed);
    uint8_t *text = mlxd_mem_new(N, 4);
    uint32_t *order = mlxd_mem_new(N, sizeof *order);
    assert_true(text && order);
    for (int kind = 0; kind < 4; kind++) {
        for (uint32_t i = 0; i < N; i++) {
            seed = seed * 1664525 + 1013904223;
            uint32_t v = kind == 0 ? i : kind == 1 ? N - i : kind == 2 ? 7 : seed >> 4;
            for (int k = 0; k < 4; k++)
                text[4 * i + (uint32_t)k] = (uint8_t)(v >> (24 - 8 * k));
            order[i] = i;
        }
        lookups = 0;
        uint32_t repeated = mlxd_names_sort(order, N, number_at, text);
        assert_in_range(lookups, N, 6 * N * 16);
        if (kind == 2)
            assert_int_equal(repeated, 1);
        else if (kind < 2)
            assert_int_equal(repeated, MLXD_NAMES_NONE);
        for (uint32_t i = 1; i < N; i++)
            assert_true(memcmp(text + 4 * order[i - 1], text + 4 * order[i], 4) <= 0);
    }
    mlxd_mem_free(text);
    mlxd_mem_free(order);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_find),
        cmocka_unit_test(test_names_duplicates),
        cmocka_unit_test(test_names_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
