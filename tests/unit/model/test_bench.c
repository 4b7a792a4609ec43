/* test_bench.c - every kind of test runs on every kind of model, in any order; what cannot run is
 * refused before it is loaded. How fast it is, no test can say. */
#include "model/bench.h"
#include "model/roof.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define GIB 0x1p30

static mlxd_pool *pool;

/* A bench and what it was opened from. */
struct bench {
    mlxd_checkpoint *file;
    mlxd_config config;
    mlxd_bench *bench;
};

static mlxd_err open_bench(struct bench *b, const char *name, const mlxd_bench_test *tests,
                           size_t n, const mlxd_kernels *k, mlxd_why *why) {
    char path[1024];
    b->bench = NULL;
    snprintf(path, sizeof path, "%s/%s", MLXD_GOLDEN, name);
    assert_int_equal(mlxd_checkpoint_open(&b->file, path, why), MLXD_OK);
    assert_int_equal(mlxd_config_read(&b->config, b->file, why), MLXD_OK);
    mlxd_bench_params p = {.checkpoint = b->file,
                           .config = &b->config,
                           .kernels = k,
                           .tests = tests,
                           .n_tests = n,
                           .chunk = 24,
                           .pool = pool};
    return mlxd_bench_open(&b->bench, &p, why);
}

static void close_bench(struct bench *b) {
    mlxd_bench_close(b->bench);
    mlxd_checkpoint_close(b->file);
}

/* Depths and batches go up and down, so the cache is filled, kept, and filled again; lengths are no
 * multiples of chunks or pages; the batch is more than the vocabulary takes at a time. */
static void runs_every_test(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-f16.gguf", "tiny-q4_0.gguf", "tiny-q4_1.gguf",
                                        "tiny-q8_0.gguf", "tiny-untied.gguf"};
    static const mlxd_bench_test tests[] = {
        {.n_prompt = 50, .batch = 1},
        {.n_gen = 3, .batch = 1},
        {.n_prompt = 70, .depth = 65, .batch = 1},
        {.n_gen = 70, .depth = 65, .batch = 1},
        {.n_gen = 2, .depth = 64, .batch = 19},
        {.n_gen = 2, .depth = 1, .batch = 2},
        {.n_gen = 2, .batch = 3},
        {.n_prompt = 1, .depth = 511, .batch = 1},
    };
    const size_t count = MLXD_COUNT_OF(tests);
    for (size_t m = 0; m < MLXD_COUNT_OF(names) * mlxd_kernels_count(); m++) {
        const char *name = names[m % MLXD_COUNT_OF(names)];
        const mlxd_kernels *k = mlxd_kernels_at(m / MLXD_COUNT_OF(names));
        struct bench b;
        mlxd_why why = {0};
        mlxd_err err = open_bench(&b, name, tests, count, k, &why);
        if (err)
            fail_msg("%s: %s", name, why.text);
        for (size_t i = 0; i < 3 * count; i++) {
            uint64_t ns = 0;
            const mlxd_bench_test *t = &tests[i < count ? i : (i * 5 + i / count) % count];
            err = mlxd_bench_run(b.bench, pool, t, NULL, &ns, &why);
            if (err)
                fail_msg("%s, test %zu: %s", name, i, why.text);
            assert_true(ns > 0);
        }
        close_bench(&b);
    }
}

static bool yes(void *ctx) {
    int *left = ctx;
    return (*left)-- == 0;
}

/* A run that was cut short leaves nothing behind that the next one would stumble over. */
static void stops_when_asked(void **state) {
    (void)state;
    static const mlxd_bench_test tests[] = {{.n_gen = 40, .depth = 30, .batch = 2},
                                            {.n_prompt = 100, .depth = 30, .batch = 1}};
    struct bench b;
    mlxd_why why = {0};
    uint64_t ns;
    assert_int_equal(open_bench(&b, "tiny-q4_0.gguf", tests, 2, mlxd_kernels_scalar(), &why), 0);
    for (int after = 0; after < 12; after++) {
        int left = after;
        const mlxd_abort abort = {yes, &left};
        const mlxd_bench_test *t = &tests[after % 2];
        assert_int_equal(mlxd_bench_run(b.bench, pool, t, &abort, &ns, &why), MLXD_ERR_CANCELLED);
        assert_int_equal(mlxd_bench_run(b.bench, pool, t, NULL, &ns, &why), MLXD_OK);
    }
    close_bench(&b);
}

static void refuses_what_does_not_fit(void **state) {
    (void)state;
    static const struct {
        mlxd_bench_test test;
        mlxd_err err;
        const char *text;
    } cases[] = {
        {{.n_prompt = 513, .batch = 1}, MLXD_ERR_RANGE, "context of 512"},
        {{.n_gen = 2, .depth = 511, .batch = 1}, MLXD_ERR_RANGE, "depth 511 and 2 tokens"},
        {{.n_gen = 1, .depth = UINT32_MAX, .batch = 1}, MLXD_ERR_RANGE, "beyond"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        struct bench b;
        mlxd_why why = {0};
        mlxd_err err =
            open_bench(&b, "tiny-f16.gguf", &cases[i].test, 1, mlxd_kernels_scalar(), &why);
        assert_int_equal(err, cases[i].err);
        assert_non_null(strstr(why.text, cases[i].text));
        close_bench(&b);
    }
}

/* The file of 2 layers, 64 wide, ffn 96, 4 heads of which 2 are kept, vocabulary 320 and tied. */
static void counts_what_it_costs(void **state) {
    (void)state;
    static const mlxd_bench_test tests[] = {{.n_prompt = 10, .batch = 1},
                                            {.n_gen = 3, .depth = 64, .batch = 2}};
    struct bench b;
    mlxd_why why = {0};
    const double layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96, kv = 64 * 32 * 2, head = 320 * 64;
    assert_int_equal(open_bench(&b, "tiny-f16.gguf", tests, 2, mlxd_kernels_scalar(), &why), 0);
    const mlxd_bench_model *m = mlxd_bench_get_model(b.bench);
    assert_string_equal(m->type, "F16");
    assert_false(m->quantized);
    assert_true((double)m->layer_params == 2 * layer && (double)m->head_params == head);
    assert_true((double)m->last_params == layer - kv);
    assert_true((double)m->params == 2 * (layer + 2 * 64) + head + 64);
    assert_int_equal(m->position_bytes, 2 * 2 * 2 * 16 * 2);
    assert_int_equal(m->step_bytes, m->weights_bytes);
    assert_int_equal(mlxd_bench_tokens(&tests[0]), 10);
    assert_int_equal(mlxd_bench_tokens(&tests[1]), 6);
    assert_true(mlxd_bench_operations(m, &tests[0]) == 2 * (10 * (layer + kv) + layer - kv + head));
    assert_true(mlxd_bench_operations(m, &tests[1]) == 2 * 6 * (2 * layer + head));
    /* Steps see 65, 66 and 67 positions of each of two sequences. */
    assert_true(mlxd_bench_read_bytes(m, &tests[1]) ==
                3 * (double)m->step_bytes + 2 * (65 + 66 + 67) * (double)m->position_bytes);
    assert_int_equal(mlxd_bench_kv_bytes(m, &tests[1]), 2 * 128 * m->position_bytes);
    close_bench(&b);
}

/* Three layers, 32 wide, 4 heads of 16 of which 2 are kept; two layers with 4 experts of 32, of
 * which a token uses 2, and a dense one of 64 between. */
static void counts_the_experts_of_a_token(void **state) {
    (void)state;
    static const mlxd_bench_test test = {.n_gen = 1, .batch = 1};
    struct bench b;
    mlxd_why why = {0};
    const double attention = 2 * 32 * 64 + 2 * 32 * 32, expert = 3 * 32 * 32, router = 4 * 32;
    const double dense = 3 * 32 * 64, head = 96 * 32;
    assert_int_equal(open_bench(&b, "families/qwen3_moe", &test, 1, mlxd_kernels_scalar(), &why),
                     0);
    const mlxd_bench_model *m = mlxd_bench_get_model(b.bench);
    assert_true((double)m->layer_params == 3 * attention + 2 * (2 * expert + router) + dense);
    assert_true((double)m->head_params == head);
    /* What is not read: two experts of two layers, and the embedding beside the head (but for a
     * part of the last norm). */
    double unread = (double)(m->weights_bytes - m->step_bytes);
    assert_true(fabs(unread - (2 * 2 * expert + head) * 2) <= 32 * sizeof(float));
    close_bench(&b);
}

static void measures_the_machine(void **state) {
    (void)state;
    for (size_t i = 0; i < mlxd_kernels_count(); i++) {
        double read = mlxd_roof_read(mlxd_kernels_at(i), pool);
        double int8 = mlxd_roof_int8(mlxd_kernels_at(i), pool);
        assert_true(isfinite(read) && read > 0 && read < 100000 * GIB);
        assert_true(isfinite(int8) && int8 > 0);
    }
}

static int open_pool(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    pool = mlxd_pool_open(2);
    return pool ? 0 : -1;
}

static int close_pool(void **state) {
    (void)state;
    mlxd_pool_close(pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_every_test),
        cmocka_unit_test(stops_when_asked),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(counts_what_it_costs),
        cmocka_unit_test(counts_the_experts_of_a_token),
        cmocka_unit_test(measures_the_machine),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
