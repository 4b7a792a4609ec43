/* test_jsonw.c - the JSON writer: exact bytes, numbers that read back, and misuse that is noticed
 * (each in a child process, because it ends the process). */
#include "format/json.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static mlxd_buf buf;
static mlxd_jsonw w;

static void begin(void) {
    mlxd_buf_init(&buf, 0);
    mlxd_jsonw_init(&w, &buf);
}

static void expect(const char *text) {
    assert_true(mlxd_jsonw_done(&w));
    assert_string_equal(mlxd_buf_str(&buf), text);
    mlxd_buf_deinit(&buf);
}

static void test_structure(void **state) {
    (void)state;
    begin();
    assert_false(mlxd_jsonw_done(&w));
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "id", "chatcmpl-1");
    mlxd_jsonw_key(&w, "choices");
    mlxd_jsonw_array_begin(&w);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_int(&w, "index", -1);
    mlxd_jsonw_member_uint(&w, "n", UINT64_MAX);
    mlxd_jsonw_member_double(&w, "p", 0.5);
    mlxd_jsonw_member_bool(&w, "last", true);
    mlxd_jsonw_member_str(&w, "reason", NULL);
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_array_begin(&w);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_raw(&w, mlxd_slice_str("{\"raw\":1}"));
    mlxd_jsonw_null(&w);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key_slice(&w, mlxd_slice_str("k\n"));
    mlxd_jsonw_bool(&w, false);
    assert_false(mlxd_jsonw_done(&w));
    mlxd_jsonw_object_end(&w);
    expect("{\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":-1,\"n\":18446744073709551615,"
           "\"p\":0.5,\"last\":true,\"reason\":null},[],{},{\"raw\":1},null],\"k\\n\":false}");
}

static void test_strings(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"\"\\\b\f\n\r\t\x01\x1f\x7f/", "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f/\""},
        {"\xc3\xa9\xf0\x9f\x98\x80", "\"\xc3\xa9\xf0\x9f\x98\x80\""},
        {"a\xff\x62", "\"a\xef\xbf\xbd\x62\""},
        {"a\xf0\x9f\x98", "\"a\xef\xbf\xbd\""},       /* half a character: one mark */
        {"\xe2\x82\x41", "\"\xef\xbf\xbd\x41\""},     /* and what follows stays */
        {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""}, /* overlong */
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* surrogate */
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        begin();
        mlxd_jsonw_str(&w, cases[i].text);
        expect(cases[i].expected);
    }
    begin();
    mlxd_jsonw_slice(&w, (mlxd_slice){(const uint8_t *)"a\0b", 3});
    expect("\"a\\u0000b\"");
    begin();
    mlxd_jsonw_slice(&w, (mlxd_slice){NULL, 0});
    expect("\"\"");
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *expected;
    } doubles[] = {
        {0, "0"},
        {-0.0, "-0"},
        {1, "1"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1e21, "1e+21"},
        {-2.5e-7, "-2.5e-07"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {NAN, "null"},
        {INFINITY, "null"},
        {-INFINITY, "null"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(doubles); i++) {
        begin();
        mlxd_jsonw_double(&w, doubles[i].v);
        expect(doubles[i].expected);
    }
    begin();
    mlxd_jsonw_float(&w, 0.1f);
    expect("0.1");
    begin();
    mlxd_jsonw_float(&w, -NAN);
    expect("null");
    begin();
    mlxd_jsonw_int(&w, INT64_MIN);
    expect("-9223372036854775808");
}

/* Every finite double and float comes back bit for bit through our own reader. */
static void test_numbers_read_back(void **state) {
    (void)state;
    uint64_t seed = 20261123;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 100000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint64_t bits = seed ^ seed >> 29;
        uint32_t bits32 = (uint32_t)(seed >> 32);
        double d, back;
        float f;
        memcpy(&d, &bits, sizeof d);
        memcpy(&f, &bits32, sizeof f);
        for (int k = 0; k < 2; k++) {
            if (!isfinite(k ? (double)f : d))
                continue;
            begin();
            if (k)
                mlxd_jsonw_float(&w, f);
            else
                mlxd_jsonw_double(&w, d);
            mlxd_json_doc *doc;
            mlxd_why why;
            assert_int_equal(mlxd_json_parse(&doc, mlxd_slice_str(mlxd_buf_str(&buf)), 0, &why),
                             MLXD_OK);
            assert_int_equal(mlxd_json_get_double(mlxd_json_root(doc), &back), MLXD_OK);
            assert_true(k ? (float)back == f : back == d);
            mlxd_json_close(doc);
            mlxd_buf_deinit(&buf);
        }
    }
}

static void test_nesting_and_full_buffer(void **state) {
    (void)state;
    begin();
    for (int i = 0; i < MLXD_JSONW_DEPTH; i++)
        mlxd_jsonw_array_begin(&w);
    for (int i = 0; i < MLXD_JSONW_DEPTH; i++)
        mlxd_jsonw_array_end(&w);
    assert_int_equal(buf.len, 2 * MLXD_JSONW_DEPTH);
    assert_true(mlxd_jsonw_done(&w));
    mlxd_buf_deinit(&buf);

    mlxd_buf_init(&buf, 8); /* the writer goes on, the buffer remembers */
    mlxd_jsonw_init(&w, &buf);
    mlxd_jsonw_str(&w, "more than eight bytes");
    assert_true(mlxd_jsonw_done(&w));
    assert_true(buf.failed);
    mlxd_buf_deinit(&buf);
}

/* ---- misuse ---- */

static void value_without_key(void) {
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_int(&w, 1);
}

static void key_in_array(void) {
    mlxd_jsonw_array_begin(&w);
    mlxd_jsonw_key(&w, "k");
}

static void two_keys(void) {
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "k");
    mlxd_jsonw_key(&w, "k");
}

static void key_without_value(void) {
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "k");
    mlxd_jsonw_object_end(&w);
}

static void wrong_end(void) {
    mlxd_jsonw_array_begin(&w);
    mlxd_jsonw_object_end(&w);
}

static void end_at_root(void) {
    mlxd_jsonw_object_end(&w);
}

static void two_roots(void) {
    mlxd_jsonw_null(&w);
    mlxd_jsonw_null(&w);
}

static void too_deep(void) {
    for (int i = 0; i <= MLXD_JSONW_DEPTH; i++)
        mlxd_jsonw_array_begin(&w);
}

static void test_misuse_aborts(void **state) {
    (void)state;
    void (*const cases[])(void) = {value_without_key, key_in_array, two_keys,  key_without_value,
                                   wrong_end,         end_at_root,  two_roots, too_deep};
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            if (!freopen("/dev/null", "w", stderr))
                _exit(1);
            signal(SIGABRT, SIG_DFL);
            begin();
            cases[i]();
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_numbers_read_back),
        cmocka_unit_test(test_nesting_and_full_buffer),
        cmocka_unit_test(test_misuse_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
