/* test_golden.c - the forward pass against an independent implementation, and against itself.
 *
 * The tiny checkpoints of tests/golden were run by Hugging Face transformers in f32 on the
 * dequantized weights (`reference`) and by a numpy model of our canonical arithmetic in f64
 * (`design`); tests/golden/README.md tells how. Then the same checkpoints are run by every kernel
 * table, thread count, chunk size and split, and must give the same bits. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/golden.h"

#include <math.h>
#include <string.h>

#include <cmocka.h>

static const mlxd_json *field(const mlxd_json *o, const char *key) {
    const mlxd_json *v = mlxd_json_find(o, key);
    if (!v)
        fail_msg("index.json: no %s", key);
    return v;
}

static double number(const mlxd_json *o, const char *key) {
    double v;
    assert_int_equal(mlxd_json_get_double(field(o, key), &v), MLXD_OK);
    return v;
}

static const char *text(const mlxd_json *o, const char *key) {
    mlxd_slice s;
    assert_int_equal(mlxd_json_get_str(field(o, key), &s), MLXD_OK);
    return (const char *)s.data;
}

/* Tokens of one checkpoint; free with mlxd_mem_free. */
static int32_t *read_tokens(const mlxd_json *entry, size_t *count) {
    mlxd_json_doc *doc = golden_json(text(entry, "tokens"));
    int32_t *tokens = golden_ints(mlxd_json_root(doc), count);
    mlxd_json_close(doc);
    return tokens;
}

struct distance {
    double worst;     /* largest difference of a logit */
    double within;    /* share of rows whose own largest difference is at most row_abs */
    double mean_kl;   /* of the stored distribution from ours */
    double same_best; /* share of rows with the same most likely token */
};

static double log_sum_exp(const float *x, uint32_t n) {
    double max = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

static void add_row(struct distance *d, const float *want, const float *got, uint32_t vocab,
                    double row_abs) {
    double worst = 0, kl = 0, zw = log_sum_exp(want, vocab), zg = log_sum_exp(got, vocab);
    uint32_t best_want = 0, best_got = 0;
    for (uint32_t t = 0; t < vocab; t++) {
        worst = fmax(worst, fabs((double)want[t] - got[t]));
        kl += exp(want[t] - zw) * ((want[t] - zw) - (got[t] - zg));
        best_want = want[t] > want[best_want] ? t : best_want;
        best_got = got[t] > got[best_got] ? t : best_got;
    }
    d->worst = fmax(d->worst, worst);
    d->within += worst <= row_abs;
    d->mean_kl += kl;
    d->same_best += best_want == best_got;
}

/* Runs what the stored rows of `golden` were computed from: rows of the whole sequence ("rows" is
 * absent or "positions"), or the last row of many short sequences. */
static struct distance compare(const mlxd_json *golden, golden_run run, double row_abs) {
    struct distance d = {0};
    uint32_t vocab;
    size_t rows;
    mlxd_buf file = golden_read(text(golden, "file"));
    const float *want = (const float *)(const void *)file.data;
    if (mlxd_json_find(golden, "positions")) {
        int32_t *positions = golden_ints(field(golden, "positions"), &rows);
        float *got = golden_logits(&run, &vocab);
        assert_int_equal(file.len, rows * vocab * sizeof(float));
        for (size_t i = 0; i < rows; i++)
            add_row(&d, want + i * vocab, got + (size_t)positions[i] * vocab, vocab, row_abs);
        mlxd_mem_free(got);
        mlxd_mem_free(positions);
    } else {
        const int32_t *tokens = run.tokens;
        size_t n = (size_t)number(golden, "sequence_length");
        rows = (size_t)number(golden, "sequences");
        for (size_t i = 0; i < rows; i++) {
            run.tokens = tokens + i * n;
            run.n_tokens = run.chunk = n;
            float *got = golden_logits(&run, &vocab);
            assert_int_equal(file.len, rows * vocab * sizeof(float));
            add_row(&d, want + i * vocab, got + (n - 1) * vocab, vocab, row_abs);
            mlxd_mem_free(got);
        }
    }
    d.within /= (double)rows;
    d.mean_kl /= (double)rows;
    d.same_best /= (double)rows;
    mlxd_buf_deinit(&file);
    return d;
}

static double optional(const mlxd_json *o, const char *key, double fallback) {
    return mlxd_json_find(o, key) ? number(o, key) : fallback;
}

static void check_entry(const mlxd_json *entry) {
    size_t n;
    int32_t *tokens = read_tokens(entry, &n);
    golden_run run = {.path = text(entry, "file"),
                      .tokens = tokens,
                      .n_tokens = n,
                      .threads = 1,
                      .kernels = mlxd_kernels_scalar(),
                      .chunk = n};
    const mlxd_json *limits = field(field(entry, "reference"), "tolerance");
    struct distance d = compare(field(entry, "reference"), run, 0);
    print_message("%-18s reference: max %.2g, KL %.2g, same best %.0f %%", run.path, d.worst,
                  d.mean_kl, d.same_best * 100);
    assert_true(d.worst <= number(limits, "max_abs"));
    assert_true(d.mean_kl <= optional(limits, "mean_kl", 1e-6));
    assert_true(d.same_best >= optional(limits, "same_best", 1));
    limits = field(field(entry, "design"), "tolerance");
    d = compare(field(entry, "design"), run, number(limits, "row_abs"));
    print_message("; design: max %.2g, %.0f %% of rows within %.1g\n", d.worst, d.within * 100,
                  number(limits, "row_abs"));
    assert_true(d.within >= number(limits, "rows_within"));
    assert_true(d.worst <= number(limits, "max_abs"));
    mlxd_mem_free(tokens);
}

static void test_reference(void **state) {
    (void)state;
    mlxd_json_doc *doc = golden_json("index.json");
    const mlxd_json *tiny = field(mlxd_json_root(doc), "tiny");
    assert_true(mlxd_json_count(tiny) >= 8);
    for (size_t i = 0; i < mlxd_json_count(tiny); i++)
        check_entry(mlxd_json_at(tiny, i));
    mlxd_json_close(doc);
}

static void check_same_bits(const mlxd_json *entry) {
    static const uint32_t whole[] = {5, 0}, uneven[] = {1, 3, 1, 0}, single[] = {1, 1, 1, 1, 1, 0};
    static const uint32_t *const splits[] = {whole, uneven, single};
    static const size_t chunks[] = {1, 7, 64, 1000};
    size_t n, runs = 0;
    uint32_t vocab;
    int32_t *tokens = read_tokens(entry, &n);
    golden_run run = {.path = text(entry, "file"),
                      .tokens = tokens,
                      .n_tokens = n,
                      .threads = 1,
                      .kernels = mlxd_kernels_scalar(),
                      .chunk = n};
    float *want = golden_logits(&run, &vocab);
    double layers = number(entry, "layers");
    for (size_t k = 0; k < mlxd_kernels_count(); k++)
        for (size_t c = 0; c < MLXD_COUNT_OF(chunks); c++)
            for (unsigned threads = 1; threads <= 3; threads++) {
                run.kernels = mlxd_kernels_at(k);
                run.chunk = MLXD_MIN(chunks[c], n);
                run.threads = threads;
                run.splits = layers == 5 ? splits[runs % MLXD_COUNT_OF(splits)] : NULL;
                float *got = golden_logits(&run, &vocab);
                if (memcmp(got, want, n * vocab * sizeof *got) != 0)
                    fail_msg("%s: %s, chunk %zu, %u threads, split %zu: other bits", run.path,
                             run.kernels->isa, run.chunk, threads, runs % MLXD_COUNT_OF(splits));
                mlxd_mem_free(got);
                runs++;
            }
    mlxd_mem_free(want);
    mlxd_mem_free(tokens);
}

static void test_same_bits(void **state) {
    (void)state;
    mlxd_json_doc *doc = golden_json("index.json");
    const mlxd_json *tiny = field(mlxd_json_root(doc), "tiny");
    for (size_t i = 0; i < mlxd_json_count(tiny); i++)
        check_same_bits(mlxd_json_at(tiny, i));
    mlxd_json_close(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
