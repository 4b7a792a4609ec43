/* test_digest.c - SHA-256 against the vectors of FIPS 180-4, hexadecimal, comparison. */
#include "format/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void expect_hex(const uint8_t digest[MLXD_SHA256_BYTES], const char *expected) {
    char hex[MLXD_SHA256_HEX];
    mlxd_hex(digest, MLXD_SHA256_BYTES, hex);
    assert_string_equal(hex, expected);
}

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define MILLION_A "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"

static void test_once(void **state) {
    (void)state;
    uint8_t d[MLXD_SHA256_BYTES];
    mlxd_sha256_once(NULL, 0, d);
    expect_hex(d, EMPTY);
    mlxd_sha256_once("abc", 3, d);
    expect_hex(d, ABC);
}

static void test_in_pieces(void **state) {
    (void)state;
    uint8_t d[MLXD_SHA256_BYTES];
    mlxd_sha256 *s = mlxd_sha256_open();
    assert_non_null(s);
    mlxd_sha256_get(s, d);
    expect_hex(d, EMPTY);
    mlxd_sha256_add(s, "a", 1);
    mlxd_sha256_add(s, NULL, 0);
    mlxd_sha256_add(s, "bc", 2);
    for (int i = 0; i < 2; i++) { /* getting changes nothing */
        mlxd_sha256_get(s, d);
        expect_hex(d, ABC);
    }
    mlxd_sha256_close(s);

    s = mlxd_sha256_open();
    assert_non_null(s);
    char block[1000];
    memset(block, 'a', sizeof block);
    for (int i = 0; i < 1000; i++) {
        mlxd_sha256_add(s, block, sizeof block);
        if (i % 100 == 0)
            mlxd_sha256_get(s, d);
    }
    mlxd_sha256_get(s, d);
    expect_hex(d, MILLION_A);
    mlxd_sha256_close(s);
    mlxd_sha256_close(NULL);
}

static void test_hex(void **state) {
    (void)state;
    uint8_t out[3];
    char text[7];
    assert_true(mlxd_unhex("00fFa9", out, 3));
    assert_memory_equal(out, "\x00\xff\xa9", 3);
    mlxd_hex(out, 3, text);
    assert_string_equal(text, "00ffa9");
    assert_true(mlxd_unhex("", out, 0));
    static const char *const bad[] = {"",        "0",      "00ff",   "00ffa",       "00ffa90",
                                      "00ffa9 ", "00ffg9", "0x00ff", "00f\xc3\xa9", " 0ffa9"};
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++)
        assert_false(mlxd_unhex(bad[i], out, 3));
}

static void test_equal(void **state) {
    (void)state;
    uint8_t a[MLXD_SHA256_BYTES], b[MLXD_SHA256_BYTES];
    mlxd_sha256_once("abc", 3, a);
    for (size_t bit = 0; bit < sizeof a * 8; bit++) {
        memcpy(b, a, sizeof b);
        assert_true(mlxd_digest_eq(a, b, sizeof a));
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(mlxd_digest_eq(a, b, sizeof a));
    }
    assert_true(mlxd_digest_eq(NULL, NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_in_pieces),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
