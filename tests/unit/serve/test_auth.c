/* test_auth.c - key files that are taken and refused, and the judging of keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "serve/auth.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_A "mlxd_0123456789abcdef0123"
#define KEY_B "mlxd_ffffeeeeddddccccbbbb"

static char path[64];
static uint64_t now_ns;

static uint64_t fake_now(void *ctx) {
    (void)ctx;
    return now_ns;
}

static const mlxd_clock fake_clock = {fake_now, fake_now, NULL};

static void write_file(const void *text, size_t len, mode_t mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), (ssize_t)len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static mlxd_auth *open_text(const char *text) {
    mlxd_auth *a = NULL;
    mlxd_why why = {0};
    write_file(text, strlen(text), 0600);
    if (mlxd_auth_open(&a, path, &fake_clock, &why))
        fail_msg("%s", why.text);
    return a;
}

static void refused(const char *text, size_t len, const char *expected) {
    mlxd_auth *a = NULL;
    mlxd_why why = {0};
    write_file(text, len, 0600);
    assert_int_equal(mlxd_auth_open(&a, path, &fake_clock, &why), MLXD_ERR_CONFIG);
    if (!strstr(why.text, path) || !strstr(why.text, expected))
        fail_msg("expected \"%s\" in \"%s\"", expected, why.text);
    assert_null(strstr(why.text, "mlxd_"));
}

static mlxd_http_verdict judge(mlxd_auth *a, const char *key, const char *peer) {
    uint32_t id = 0;
    return mlxd_auth_check(a, key, peer, &id);
}

static void test_reads_keys(void **state) {
    (void)state;
    uint32_t id = 77;
    mlxd_auth *a = open_text("# comment\n\n  alice:" KEY_A "  \r\n\t\n" KEY_B);
    assert_int_equal(mlxd_auth_count(a), 2);
    assert_int_equal(mlxd_auth_check(a, KEY_A, "127.0.0.1", &id), MLXD_HTTP_AUTH_OK);
    assert_string_equal(mlxd_auth_name(a, id), "alice");
    assert_int_equal(mlxd_auth_check(a, KEY_B, "127.0.0.1", &id), MLXD_HTTP_AUTH_OK);
    assert_string_equal(mlxd_auth_name(a, id), "key-5");
    assert_string_equal(mlxd_auth_name(a, 0), "");
    assert_string_equal(mlxd_auth_name(a, 3), "");
    mlxd_auth_close(a);
}

static void test_judges_keys(void **state) {
    (void)state;
    mlxd_auth *a = open_text("alice:" KEY_A "\n" KEY_B "\n");
    assert_int_equal(judge(a, NULL, "127.0.0.1"), MLXD_HTTP_AUTH_MISSING);
    assert_int_equal(judge(a, "", "127.0.0.1"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, KEY_A "x", "127.0.0.1"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, "alice:" KEY_A, "127.0.0.1"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, "mlxd_0123456789abcdef012", "127.0.0.1"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, KEY_A, "127.0.0.1"), MLXD_HTTP_AUTH_OK);
    assert_int_equal(mlxd_auth_wrong(a), 4);
    mlxd_auth_close(a);
}

static void test_limits_wrong_keys(void **state) {
    (void)state;
    mlxd_auth *a = open_text(KEY_A "\n");
    now_ns = 1000 * MLXD_NS_PER_S;
    for (int i = 0; i < MLXD_AUTH_WRONG_PER_MINUTE; i++)
        assert_int_equal(judge(a, KEY_B, "192.0.2.1"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, KEY_B, "192.0.2.1"), MLXD_HTTP_AUTH_LIMITED);
    /* Others, and who has a key, are not affected. */
    assert_int_equal(judge(a, KEY_B, "192.0.2.2"), MLXD_HTTP_AUTH_WRONG);
    assert_int_equal(judge(a, KEY_A, "192.0.2.1"), MLXD_HTTP_AUTH_OK);
    now_ns += 59 * MLXD_NS_PER_S;
    assert_int_equal(judge(a, KEY_B, "192.0.2.1"), MLXD_HTTP_AUTH_LIMITED);
    now_ns += MLXD_NS_PER_S;
    assert_int_equal(judge(a, KEY_B, "192.0.2.1"), MLXD_HTTP_AUTH_WRONG);
    mlxd_auth_close(a);
}

static void test_limits_networks(void **state) {
    (void)state;
    char peer[64];
    mlxd_auth *a = open_text(KEY_A "\n");
    for (int i = 0; i < MLXD_AUTH_WRONG_PER_MINUTE; i++) {
        snprintf(peer, sizeof peer, "2001:db8:1:2::%x", i + 1);
        assert_int_equal(judge(a, KEY_B, peer), MLXD_HTTP_AUTH_WRONG);
    }
    assert_int_equal(judge(a, KEY_B, "2001:db8:1:2:ffff::1"), MLXD_HTTP_AUTH_LIMITED);
    assert_int_equal(judge(a, KEY_B, "2001:db8:1:3::1"), MLXD_HTTP_AUTH_WRONG);
    /* Ten thousand addresses neither fill memory nor make anybody pass. */
    for (int i = 0; i < 10000; i++) {
        snprintf(peer, sizeof peer, "10.1.%d.%d", i / 250, i % 250);
        assert_int_equal(judge(a, KEY_B, peer), MLXD_HTTP_AUTH_WRONG);
    }
    assert_int_equal(judge(a, KEY_A, "10.1.0.0"), MLXD_HTTP_AUTH_OK);
    mlxd_auth_close(a);
}

static void test_refuses_files(void **state) {
    (void)state;
    static const char nul[] = KEY_A "\0" KEY_B "\n";
    mlxd_auth *a = NULL;
    mlxd_why why = {0};
    refused("", 0, "no API key");
    refused("# nothing\n\n", 11, "no API key");
    refused("short:abc\n", 10, ":1: expected a key of 16");
    refused(KEY_A " " KEY_B "\n", strlen(KEY_A " " KEY_B "\n"), ":1: expected a key");
    refused(nul, sizeof nul - 1, ":1: expected a key");
    refused("\n\xef\xbb\xbf" KEY_A, strlen("\n\xef\xbb\xbf" KEY_A), ":2: expected a key");
    refused("a b:" KEY_A, strlen("a b:" KEY_A), "expected a name");
    refused(":" KEY_A, strlen(":" KEY_A), "expected a name");
    refused(KEY_A "\nbob:" KEY_A, strlen(KEY_A "\nbob:" KEY_A), ":2: the same key as \"key-1\"");
    refused("a:" KEY_A "\na:" KEY_B, strlen("a:" KEY_A "\na:" KEY_B), ":2: the name \"a\"");
    write_file(KEY_A, strlen(KEY_A), 0640);
    assert_int_equal(mlxd_auth_open(&a, path, NULL, &why), MLXD_ERR_PERM);
    assert_non_null(strstr(why.text, path));
    assert_non_null(strstr(why.text, "chmod 600"));
    assert_int_equal(mlxd_auth_open(&a, "/nonexistent/keys", NULL, &why), MLXD_ERR_NOTFOUND);
    assert_int_equal(mlxd_auth_open(&a, "/dev/null", NULL, &why), MLXD_ERR_CONFIG);
    assert_int_equal(mlxd_auth_open(&a, "/", NULL, &why), MLXD_ERR_CONFIG);
}

static void test_many_keys(void **state) {
    (void)state;
    size_t size = 64 * (MLXD_LIMIT_API_KEYS + 1), len = 0;
    char *text = calloc(1, size), key[32];
    uint32_t id = 0;
    for (int i = 0; i < MLXD_LIMIT_API_KEYS; i++)
        len += (size_t)snprintf(text + len, size - len, "n%d:key-of-some-length-%06d\n", i, i);
    mlxd_auth *a = open_text(text);
    for (int i = 0; i < MLXD_LIMIT_API_KEYS; i++) {
        snprintf(key, sizeof key, "key-of-some-length-%06d", i);
        assert_int_equal(mlxd_auth_check(a, key, "::1", &id), MLXD_HTTP_AUTH_OK);
        assert_int_equal(id, i + 1);
    }
    mlxd_auth_close(a);
    len += (size_t)snprintf(text + len, size - len, "one-more-key-than-there-may-be\n");
    mlxd_why why = {0};
    write_file(text, len, 0600);
    assert_int_equal(mlxd_auth_open(&a, path, NULL, &why), MLXD_ERR_CONFIG);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_keys),        cmocka_unit_test(test_judges_keys),
        cmocka_unit_test(test_limits_wrong_keys), cmocka_unit_test(test_limits_networks),
        cmocka_unit_test(test_refuses_files),     cmocka_unit_test(test_many_keys),
    };
    snprintf(path, sizeof path, "/tmp/mlxd-test-auth-%ld", (long)getpid());
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
