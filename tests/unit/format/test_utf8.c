/* test_utf8.c - utf8.h over all code points and all three-byte sequences that are not ASCII. */
#include "format/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static bool is_scalar_value(uint32_t cp) {
    return cp <= 0x10FFFF && (cp < 0xD800 || cp > 0xDFFF);
}

static void test_utf8_round_trip(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        uint8_t text[4];
        uint32_t back;
        if (!is_scalar_value(cp))
            continue;
        size_t n = mlxd_utf8_put(cp, text);
        assert_int_equal(n, cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        assert_int_equal(mlxd_utf8_next(text, n, &back), n);
        assert_int_equal(back, cp);
        for (size_t cut = 1; cut < n; cut++) { /* what is missing is not read */
            assert_int_equal(mlxd_utf8_next(text, cut, &back), cut);
            assert_int_equal(back, MLXD_UTF8_BAD);
        }
    }
}

/* Whatever the decoder accepts is the one encoding of what it returns. */
static void test_utf8_accepts_only_the_shortest_form(void **state) {
    (void)state;
    for (uint32_t lead = 0x80; lead < 0x100; lead++)
        for (uint32_t rest = 0; rest < 0x10000; rest++) {
            uint8_t in[4] = {(uint8_t)lead, (uint8_t)(rest >> 8), (uint8_t)rest, 0x80}, out[4];
            uint32_t cp;
            size_t n = mlxd_utf8_next(in, 4, &cp);
            assert_in_range(n, 1, 4);
            if (cp == MLXD_UTF8_BAD)
                continue;
            assert_true(is_scalar_value(cp));
            assert_int_equal(mlxd_utf8_put(cp, out), n);
            assert_memory_equal(in, out, n);
        }
}

static void test_utf8_check(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t bad;
    } cases[] = {
        {"", 0},
        {"plain", 5},
        {"\xc3\xa9\xf0\x9f\x98\x80", 6},
        {"ab\xff", 2},
        {"a\xc0\x80", 1},
        {"\xe0\x9f\xbf", 0},
        {"a\xed\xa0\x80", 1},
        {"\xf4\x90\x80\x80", 0},
        {"ab\xe2\x82", 2},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\x80", 0},
        {"\xf5\x80\x80\x80", 0},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++)
        assert_int_equal(mlxd_utf8_check(mlxd_slice_str(cases[i].text)), cases[i].bad);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_utf8_accepts_only_the_shortest_form),
        cmocka_unit_test(test_utf8_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
