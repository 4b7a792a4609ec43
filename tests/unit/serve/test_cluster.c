/* test_cluster.c - a coordinator and its workers in one process, over real gRPC with mutual TLS on
 * loopback: the answer must be the one that a single process gives, and a worker that goes must end
 * requests cleanly and be taken back when it returns. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/golden.h"
#include "cluster_fixture.h"

/* ---- tests ---- */

static void test_same_answer(void **state) {
    static const char *const models[] = {"tiny-f32.gguf", "tiny-q4_1.gguf"};
    (void)state;
    for (size_t m = 0; m < MLXD_COUNT_OF(models); m++) {
        char want[2][MLXD_SHA256_HEX], got[2][MLXD_SHA256_HEX];
        struct coordinator c = {0};
        struct worker w[2];
        start_coordinator(&c, models[m], NULL, 0, 128);
        assert_true(wait_ready(&c, true));
        ask_two(&c, want[0], want[1]);
        stop_coordinator(&c);
        start_worker(&w[0], "mini2", models[m], 0);
        start_worker(&w[1], "master", models[m], 0);
        for (size_t n = 1; n <= 2; n++) {
            start_coordinator(&c, models[m], w, n, n == 1 ? 7 : 32);
            assert_true(wait_ready(&c, true));
            ask_two(&c, got[0], got[1]);
            assert_string_equal(got[0], want[0]);
            assert_string_equal(got[1], want[1]);
            mlxd_engine_stats stats;
            mlxd_loop_stats(c.loop, &stats);
            assert_int_equal(stats.stages, n + 1);
            stop_coordinator(&c);
        }
        stop_worker(&w[0]);
        stop_worker(&w[1]);
    }
}

static unsigned sessions_on(struct worker *w) {
    mlxd_worker_status s;
    mlxd_worker_get_status(w->worker, &s);
    return s.stats.sessions;
}

static void test_sessions_are_freed(void **state) {
    struct coordinator c = {0};
    struct worker w;
    struct answer a;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    ask(&c, &a, 50, CONTEXT - 60, 0);
    while (atomic_load(&a.tokens) < 3)
        nap_us(200);
    assert_int_equal(sessions_on(&w), 1);
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_loop_cancel(c.loop, 1);
    while (sessions_on(&w) > 0 && mlxd_clock_now_ns() - t0 < 5 * MLXD_NS_PER_S)
        nap_us(100);
    print_message("freed on the worker after %.2f ms\n", (double)(mlxd_clock_now_ns() - t0) / 1e6);
    assert_int_equal(sessions_on(&w), 0);
    wait_end(&a);
    assert_int_equal(a.err, MLXD_ERR_CANCELLED);
    mlxd_request_close(a.request);
    stop_coordinator(&c);
    stop_worker(&w);
}

static void test_worker_lost_and_back(void **state) {
    char want[2][MLXD_SHA256_HEX], got[2][MLXD_SHA256_HEX];
    struct coordinator c = {0};
    struct worker w;
    struct answer a, late;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    ask_two(&c, want[0], want[1]);
    ask(&c, &a, 50, CONTEXT - 60, 0);
    while (atomic_load(&a.tokens) < 3)
        nap_us(200);
    stop_worker(&w);
    wait_end(&a);
    assert_int_equal(a.err, MLXD_ERR_PEER);
    assert_non_null(strstr(a.why.text, "mini2"));
    mlxd_request_close(a.request);
    assert_true(wait_ready(&c, false));
    ask(&c, &late, 5, 5, 0);
    wait_end(&late);
    assert_int_equal(late.err, MLXD_ERR_AGAIN);
    assert_non_null(strstr(late.why.text, "mini2"));
    mlxd_request_close(late.request);
    start_worker(&w, "mini2", "tiny-f32.gguf", w.port);
    assert_true(wait_ready(&c, true));
    ask_two(&c, got[0], got[1]);
    assert_string_equal(got[0], want[0]);
    assert_string_equal(got[1], want[1]);
    stop_coordinator(&c);
    stop_worker(&w);
}

/* A copy of a checkpoint with one bit of one weight of the last layer flipped. */
static void write_flipped(const char *model, char path[128]) {
    mlxd_buf file = golden_read(model);
    snprintf(path, 128, "%s/flipped.gguf", dir);
    mlxd_gguf *g;
    mlxd_why why = {0};
    check(mlxd_gguf_open(&g, (mlxd_slice){file.data, file.len}, model, &why), &why);
    const mlxd_gguf_tensor *t = mlxd_gguf_tensor_find(g, "blk.4.ffn_up.weight");
    assert_non_null(t);
    file.data[t->file_offset + t->data_bytes / 2] ^= 1;
    mlxd_gguf_close(g);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file.data, 1, file.len, f), file.len);
    fclose(f);
    mlxd_buf_deinit(&file);
}

static void test_other_weights_are_refused(void **state) {
    char path[128];
    struct coordinator c = {0};
    struct worker w;
    (void)state;
    write_flipped("tiny-f32.gguf", path);
    start_worker(&w, "mini2", path, 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(view_says(&c, "tensor blk.4.ffn_up.weight"));
    assert_false(mlxd_loop_ready(c.loop));
    stop_coordinator(&c);
    stop_worker(&w);
    start_worker(&w, "mini2", "tiny-q4_1.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(view_says(&c, "model files differ"));
    assert_false(mlxd_loop_ready(c.loop));
    stop_coordinator(&c);
    stop_worker(&w);
}

/* The coordinator was held up for longer than workers may be silent: that is not their fault. */
static void test_own_stall_is_no_silence(void **state) {
    struct coordinator c = {.pipeline_nap_us = 1000000};
    struct worker w;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    uint64_t epoch, until = mlxd_clock_now_ns() + MLXD_NS_PER_S;
    mlxd_engine_stats stats;
    mlxd_loop_stats(c.loop, &stats);
    epoch = stats.epoch;
    while (mlxd_clock_now_ns() < until)
        nap_us(10000);
    mlxd_loop_stats(c.loop, &stats);
    assert_int_equal(stats.epoch, epoch);
    assert_true(mlxd_loop_ready(c.loop));
    c.pipeline_nap_us = 0;
    stop_coordinator(&c);
    stop_worker(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answer),
        cmocka_unit_test(test_sessions_are_freed),
        cmocka_unit_test(test_worker_lost_and_back),
        cmocka_unit_test(test_other_weights_are_refused),
        cmocka_unit_test(test_own_stall_is_no_silence),
    };
    mlxd_log_init(getenv("VERBOSE") ? MLXD_LOG_DEBUG : MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
