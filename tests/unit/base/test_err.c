/* test_err.c - the table of errors, and texts that cannot forge a line. */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void every_error_is_mapped(void **state) {
    (void)state;
    for (int e = 0; e < MLXD_ERR_COUNT; e++) {
        const mlxd_err_info *i = mlxd_err_get((mlxd_err)e);
        assert_non_null(i->name);
        assert_string_equal(i->name, mlxd_err_name((mlxd_err)e));
        for (int other = 0; other < e; other++)
            assert_string_not_equal(i->name, mlxd_err_name((mlxd_err)other));
        assert_int_equal(i->exit_code == 0, e == MLXD_OK);
        assert_true(i->exit_code >= 0 && i->exit_code <= 78);
        assert_true(e == MLXD_OK ? i->http_status == 200
                                 : i->http_status >= 400 && i->http_status <= 599);
        assert_int_equal(i->grpc_status == 0, e == MLXD_OK);
        assert_true(i->grpc_status >= 0 && i->grpc_status <= 16);
    }
}

/* What clients and scripts see: these do not change. */
static void the_statuses_people_rely_on(void **state) {
    static const struct {
        mlxd_err err;
        int http, exit_code;
    } want[] = {
        {MLXD_ERR_FULL, 429, 75},     {MLXD_ERR_PERM, 403, 77},    {MLXD_ERR_INVALID, 400, 65},
        {MLXD_ERR_PEER, 503, 69},     {MLXD_ERR_USAGE, 400, 64},   {MLXD_ERR_CONFIG, 500, 78},
        {MLXD_ERR_NOTFOUND, 404, 66}, {MLXD_ERR_TIMEOUT, 504, 75}, {MLXD_ERR_RANGE, 400, 65},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(want); i++) {
        assert_int_equal(mlxd_err_get(want[i].err)->http_status, want[i].http);
        assert_int_equal(mlxd_err_get(want[i].err)->exit_code, want[i].exit_code);
    }
}

/* A status that we send comes back as an error with the same status; unknown ones are IO. */
static void grpc_statuses_go_both_ways(void **state) {
    (void)state;
    for (int e = 0; e < MLXD_ERR_COUNT; e++) {
        int status = mlxd_err_get((mlxd_err)e)->grpc_status;
        assert_int_equal(mlxd_err_get(mlxd_err_from_grpc(status))->grpc_status, status);
    }
    assert_int_equal(mlxd_err_from_grpc(1), MLXD_ERR_CANCELLED);
    assert_int_equal(mlxd_err_from_grpc(8), MLXD_ERR_FULL);
    assert_int_equal(mlxd_err_from_grpc(14), MLXD_ERR_PEER);
    assert_int_equal(mlxd_err_from_grpc(2), MLXD_ERR_IO);
    assert_int_equal(mlxd_err_from_grpc(16), MLXD_ERR_IO);
    assert_int_equal(mlxd_err_from_grpc(-1), MLXD_ERR_IO);
    assert_int_equal(mlxd_err_from_grpc(1 << 30), MLXD_ERR_IO);
}

static void a_text_cannot_forge_a_line(void **state) {
    mlxd_why why;
    (void)state;
    assert_int_equal(mlxd_fail(&why, MLXD_ERR_DATA, "tensor %s", "a\nERROR b\r\x1b[2J\x7f"),
                     MLXD_ERR_DATA);
    assert_string_equal(why.text, "tensor a?ERROR b??[2J?");
    assert_int_equal(mlxd_fail_in(&why, MLXD_ERR_IO, "file\n%d", 7), MLXD_ERR_IO);
    assert_string_equal(why.text, "file?7: tensor a?ERROR b??[2J?");
    assert_int_equal(mlxd_fail(NULL, MLXD_ERR_PEER, "%s", "x"), MLXD_ERR_PEER);
    assert_int_equal(mlxd_fail_in(NULL, MLXD_ERR_PEER, "%s", "x"), MLXD_ERR_PEER);
}

/* Every length of prefix and text, around the end of the buffer. */
static void long_texts_are_cut(void **state) {
    static char prefix[600], body[600];
    (void)state;
    memset(body, 'b', sizeof body - 1);
    for (size_t p = 490; p < 530; p++)
        for (size_t b = 0; b < 530; b += b < 30 ? 1 : 250) {
            mlxd_why why[2]; /* the second one is a canary */
            char want[1300];
            memset(&why[1], 0x5a, sizeof why[1]);
            memset(prefix, 'p', p);
            prefix[p] = 0;
            (void)mlxd_fail(&why[0], MLXD_ERR_IO, "%.*s", (int)b, body);
            assert_int_equal(strlen(why[0].text), MLXD_MIN(b, (size_t)MLXD_WHY_MAX - 1));
            (void)mlxd_fail_in(&why[0], MLXD_ERR_IO, "%s", prefix);
            snprintf(want, sizeof want, "%s: %.*s", prefix, (int)b, body);
            size_t len = strlen(why[0].text);
            assert_memory_equal(why[0].text, want, len);
            assert_true(len >= MLXD_MIN(strlen(want), (size_t)MLXD_WHY_MAX - 3));
            assert_int_equal(((unsigned char *)&why[1])[0], 0x5a);
        }
}

static void checked_arithmetic(void **state) {
    size_t s;
    uint64_t u;
    (void)state;
    assert_false(mlxd_add_size(SIZE_MAX, 1, &s));
    assert_true(mlxd_add_size(SIZE_MAX - 1, 1, &s) && s == SIZE_MAX);
    assert_false(mlxd_mul_size(SIZE_MAX / 2 + 1, 2, &s));
    assert_true(mlxd_mul_size(0, SIZE_MAX, &s) && s == 0);
    assert_false(mlxd_add_u64(UINT64_MAX, 1, &u));
    assert_false(mlxd_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u));
    assert_true(mlxd_align_u64(65, 64, &u) && u == 128);
    assert_true(mlxd_align_u64(0, 64, &u) && u == 0);
    assert_false(mlxd_align_u64(UINT64_MAX - 3, 64, &u));
}

static void slices(void **state) {
    (void)state;
    mlxd_slice none = {NULL, 0}, a = mlxd_slice_str("abc");
    assert_int_equal(a.len, 3);
    assert_true(mlxd_slice_eq(none, mlxd_slice_str("")));
    assert_true(mlxd_slice_eq(a, (mlxd_slice){(const uint8_t *)"abcd", 3}));
    assert_false(mlxd_slice_eq(a, mlxd_slice_str("abd")));
    assert_false(mlxd_slice_eq(a, mlxd_slice_str("ab")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_is_mapped),
        cmocka_unit_test(the_statuses_people_rely_on),
        cmocka_unit_test(grpc_statuses_go_both_ways),
        cmocka_unit_test(a_text_cannot_forge_a_line),
        cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(checked_arithmetic),
        cmocka_unit_test(slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
