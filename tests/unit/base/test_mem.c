/* test_mem.c - allocation that may fail, the growable buffer, the arena and mapped regions. */
#include "../../support/random.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    uint64_t before = mlxd_mem_count();
    assert_null(mlxd_mem_new(SIZE_MAX / 2 + 1, 2));
    assert_null(mlxd_mem_resize(NULL, SIZE_MAX, 16));
    assert_null(mlxd_mem_dup("x", SIZE_MAX));
    assert_null(mlxd_mem_map(SIZE_MAX - 4096));
    assert_null(mlxd_mem_map(SIZE_MAX));
    assert_int_equal(mlxd_mem_count(), before);
}

static void memory_is_zeroed_and_counted(void **state) {
    (void)state;
    uint64_t before = mlxd_mem_count();
    uint8_t *p = mlxd_mem_new(100, 3), zeros[300] = {0};
    assert_non_null(p);
    assert_memory_equal(p, zeros, 300);
    memset(p, 7, 300);
    p = mlxd_mem_resize(p, 200, 3);
    assert_non_null(p);
    assert_true(p[0] == 7 && p[299] == 7);
    char *s = mlxd_mem_dup("ab\0c", 4), *t = mlxd_mem_dup_str("");
    assert_memory_equal(s, "ab\0c", 5);
    assert_string_equal(t, "");
    void *none = mlxd_mem_new(0, 8);
    assert_non_null(none);
    assert_int_equal(mlxd_mem_count(), before + 5);
    mlxd_mem_free(none);
    mlxd_mem_free(t);
    mlxd_mem_free(s);
    mlxd_mem_free(p);
    mlxd_mem_free(NULL);
    assert_int_equal(mlxd_mem_count(), before + 5);
}

/* ---- buffer ---- */

static void a_buffer_stops_at_its_limit(void **state) {
    mlxd_buf b;
    (void)state;
    mlxd_buf_init(&b, 10);
    mlxd_buf_add(&b, "12345", 5);
    mlxd_buf_add_byte(&b, '6');
    mlxd_buf_addf(&b, "%d", 789);
    mlxd_buf_add_str(&b, "0");
    assert_false(b.failed);
    assert_string_equal(mlxd_buf_str(&b), "1234567890");
    assert_int_equal(b.len, 10);
    mlxd_buf_add(&b, NULL, 0); /* nothing fits always */
    assert_false(b.failed);
    mlxd_buf_add_byte(&b, 'x');
    assert_true(b.failed);
    assert_string_equal(mlxd_buf_str(&b), "");
    mlxd_buf_clear(&b);
    assert_false(b.failed);
    mlxd_buf_add_str(&b, "again");
    assert_string_equal(mlxd_buf_str(&b), "again");
    mlxd_buf_deinit(&b);
    assert_true(!b.data && b.len == 0 && b.bytes_max == 10);
}

static void failure_sticks_until_cleared(void **state) {
    mlxd_buf b;
    (void)state;
    mlxd_buf_init(&b, 4);
    mlxd_buf_addf(&b, "%s", "12345");
    assert_true(b.failed);
    mlxd_buf_add_byte(&b, 'x'); /* would fit */
    assert_true(b.failed && b.len == 0);
    assert_null(mlxd_buf_reserve(&b, 1));
    mlxd_buf_deinit(&b);
    mlxd_buf_init(&b, 0);
    assert_null(mlxd_buf_reserve(&b, SIZE_MAX)); /* no room for the NUL */
    assert_true(b.failed);
    mlxd_buf_clear(&b);
    assert_string_equal(mlxd_buf_str(&b), "");
    mlxd_buf_add_byte(&b, 'y');
    assert_null(mlxd_buf_reserve(&b, SIZE_MAX - 1));
    mlxd_buf_deinit(&b);
}

static void a_buffer_equals_what_was_added(void **state) {
    random_state r = random_open("buffer");
    static uint8_t want[200000];
    (void)state;
    for (int round = 0; round < 20; round++) {
        mlxd_buf b;
        size_t n = 0;
        mlxd_buf_init(&b, 0);
        while (n < sizeof want - 5000) {
            uint8_t piece[4000];
            size_t len = random_below(&r, random_below(&r, 8) ? 40 : sizeof piece);
            for (size_t i = 0; i < len; i++)
                piece[i] = want[n + i] = (uint8_t)random_u64(&r);
            if (random_below(&r, 2)) {
                mlxd_buf_add(&b, piece, len);
            } else {
                uint8_t *p = mlxd_buf_reserve(&b, len);
                assert_non_null(p);
                memcpy(p, piece, len);
                b.len += len;
            }
            n += len;
        }
        assert_int_equal(b.len, n);
        assert_memory_equal(b.data, want, n);
        assert_int_equal(mlxd_buf_str(&b)[n], 0);
        mlxd_buf_deinit(&b);
    }
}

/* ---- arena ---- */

static void an_arena_gives_separate_aligned_memory(void **state) {
    random_state r = random_open("arena");
    static struct {
        uint8_t *p;
        size_t n;
    } got[3000];
    (void)state;
    mlxd_arena *a = mlxd_arena_open(0);
    assert_non_null(a);
    for (size_t i = 0; i < MLXD_COUNT_OF(got); i++) {
        got[i].n = random_below(&r, random_below(&r, 50) ? 200 : 100000);
        got[i].p = mlxd_arena_new(a, got[i].n, 1);
        assert_non_null(got[i].p);
        assert_int_equal((uintptr_t)got[i].p % _Alignof(max_align_t), 0);
        for (size_t j = 0; j < got[i].n; j++)
            assert_int_equal(got[i].p[j], 0);
        memset(got[i].p, (int)(i % 251) + 1, got[i].n);
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(got); i++)
        for (size_t j = 0; j < got[i].n; j++)
            assert_int_equal(got[i].p[j], i % 251 + 1);
    mlxd_arena_close(a);
    mlxd_arena_close(NULL);
}

static void an_arena_stops_at_its_limit(void **state) {
    (void)state;
    mlxd_arena *a = mlxd_arena_open(1024);
    assert_null(mlxd_arena_new(a, 1025, 1));
    assert_null(mlxd_arena_new(a, SIZE_MAX, 2));
    assert_null(mlxd_arena_new(a, SIZE_MAX, 1));
    assert_null(mlxd_arena_dup(a, "x", SIZE_MAX));
    size_t n = 0;
    while (mlxd_arena_new(a, 64, 1))
        n++;
    assert_int_equal(n, 16);
    assert_null(mlxd_arena_dup(a, "", 0));
    mlxd_arena_close(a);
    a = mlxd_arena_open(64);
    assert_string_equal(mlxd_arena_dup(a, "abcd", 3), "abc");
    mlxd_arena_close(a);
}

/* Many small objects cost few blocks. */
static void an_arena_allocates_in_growing_chunks(void **state) {
    (void)state;
    mlxd_arena *a = mlxd_arena_open(0);
    uint64_t before = mlxd_mem_count();
    for (int i = 0; i < 200000; i++)
        assert_non_null(mlxd_arena_new(a, 1, 32));
    assert_true(mlxd_mem_count() - before < 20); /* 6.4 MB: 8 chunks to 1 MiB, then 6 of 1 MiB */
    mlxd_arena_close(a);
}

static void mapped_regions_are_zero_and_aligned(void **state) {
    static const size_t sizes[] = {0, 1, 4096, 4097, (2 << 20) - 1, 2 << 20, (6 << 20) + 17};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(sizes); i++) {
        uint64_t before = mlxd_mem_count();
        uint8_t *p = mlxd_mem_map(sizes[i]);
        assert_non_null(p);
        assert_int_equal(mlxd_mem_count(), before + 1);
        assert_int_equal((uintptr_t)p % (2 << 20), 0);
        for (size_t j = 0; j < sizes[i]; j += 509)
            assert_int_equal(p[j], 0);
        if (sizes[i])
            p[sizes[i] - 1] = 1;
        mlxd_mem_unmap(p, sizes[i]);
    }
    mlxd_mem_unmap(NULL, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(memory_is_zeroed_and_counted),
        cmocka_unit_test(a_buffer_stops_at_its_limit),
        cmocka_unit_test(failure_sticks_until_cleared),
        cmocka_unit_test(a_buffer_equals_what_was_added),
        cmocka_unit_test(an_arena_gives_separate_aligned_memory),
        cmocka_unit_test(an_arena_stops_at_its_limit),
        cmocka_unit_test(an_arena_allocates_in_growing_chunks),
        cmocka_unit_test(mapped_regions_are_zero_and_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
