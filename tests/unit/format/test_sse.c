/* test_sse.c - server-sent events byte by byte. */
#include "format/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void check(mlxd_buf *b, const char *want) {
    assert_false(b->failed);
    assert_string_equal(mlxd_buf_str(b), want);
    mlxd_buf_clear(b);
}

static void test_events(void **state) {
    (void)state;
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    mlxd_sse_data(&b, mlxd_slice_str("{\"a\":1}"));
    check(&b, "data: {\"a\":1}\n\n");
    mlxd_sse_data(&b, (mlxd_slice){NULL, 0});
    check(&b, "data: \n\n");
    mlxd_sse_data(&b, mlxd_slice_str("one\ntwo\r\nthree\rfour\n"));
    check(&b, "data: one\ndata: two\ndata: three\ndata: four\ndata: \n\n");
    mlxd_sse_event(&b, "message_stop", mlxd_slice_str("{}"));
    check(&b, "event: message_stop\ndata: {}\n\n");
    mlxd_sse_comment(&b, "keepalive 512/4096");
    check(&b, ": keepalive 512/4096\n\n");
    mlxd_sse_comment(&b, "a\n\ndata: forged");
    check(&b, ": a  data: forged\n\n");
    mlxd_sse_done(&b);
    check(&b, "data: [DONE]\n\n");
    mlxd_buf_deinit(&b);
}

static void test_bound(void **state) {
    (void)state;
    mlxd_buf b;
    mlxd_buf_init(&b, 8);
    mlxd_sse_data(&b, mlxd_slice_str("longer than eight"));
    assert_true(b.failed);
    mlxd_buf_deinit(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_bound),
    };
    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
