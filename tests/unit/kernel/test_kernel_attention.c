/* test_kernel_attention.c - attention over KV pages: against softmax in double, against
 * attention.h restated, and every table against the scalar one by bits. */
#include "kernel_test.h"

#include <math.h>

#include "kernel/math.h"

#define DIM_MAX 256

static const size_t dims[] = {1, 2, 8, 30, 32, 40, 64, 80, 96, 100, 128, 256};

typedef struct page {
    uint16_t k[DIM_MAX * MLXD_PAGE], v[MLXD_PAGE * DIM_MAX];
} page;

typedef struct partial {
    float max, sum, out[DIM_MAX + 1];
} partial;

static uint16_t small_half(void) {
    return mlxd_f32_to_f16(rng_unit());
}

static void fill(page *p, float *q, size_t head_dim, int wild) {
    for (size_t i = 0; i < head_dim * MLXD_PAGE; i++) {
        p->k[i] = wild ? rng_half() : small_half();
        p->v[i] = wild ? rng_half() : small_half();
    }
    for (size_t d = 0; d < head_dim; d++)
        q[d] = rng_unit() * (wild ? 0.001f : 4.0f);
}

/* Of the positions [from, count). */
static partial run_window(const mlxd_kernels *k, const page *p, const float *q, size_t head_dim,
                          size_t from, size_t count, float softcap) {
    partial r;
    memset(&r, 0x7f, sizeof r);
    mlxd_query query = {.q = q, .out = r.out, .visible = (uint32_t)count, .from = (uint32_t)from};
    k->attention.page(&query, 1, p->k, p->v, head_dim, (mlxd_score){0.125f, softcap}, true);
    r.max = query.max;
    r.sum = query.sum;
    return r;
}

static partial run(const mlxd_kernels *k, const page *p, const float *q, size_t head_dim,
                   size_t count) {
    return run_window(k, p, q, head_dim, 0, count, 0);
}

/* `next` merged into `all` by table k. */
static partial merged(const mlxd_kernels *k, partial all, partial next, size_t head_dim) {
    mlxd_query into = {.out = all.out, .max = all.max, .sum = all.sum};
    mlxd_query from = {.out = next.out, .max = next.max, .sum = next.sum};
    k->attention.merge(&into, &from, head_dim);
    all.max = into.max;
    all.sum = into.sum;
    return all;
}

static int same_partials(const partial *a, const partial *b) {
    return same_floats(&a->max, &b->max, 1) && same_floats(&a->sum, &b->sum, 1) &&
           same_floats(a->out, b->out, DIM_MAX + 1);
}

static void test_tables_agree(void **state) {
    (void)state;
    rng_start("attention");
    static page p;
    float q[DIM_MAX];
    for (size_t i = 0; i < MLXD_COUNT_OF(dims); i++)
        for (size_t count = 1; count <= MLXD_PAGE; count++)
            for (int wild = 0; wild < 2; wild++) {
                fill(&p, q, dims[i], wild);
                size_t from = count % 3 ? 0 : rng_below((uint32_t)count);
                float cap = count % 4 ? 0 : 0.5f + (float)rng_below(50);
                partial a = run_window(mlxd_kernels_scalar(), &p, q, dims[i], from, count, cap);
                for (size_t k = 1; k < table_count(); k++) {
                    partial b = run_window(mlxd_kernels_at(k), &p, q, dims[i], from, count, cap);
                    if (!same_partials(&a, &b)) {
                        print_message("head_dim %zu count %zu wild %d\n", dims[i], count, wild);
                        assert_true(false);
                    }
                }
            }
}

/* Zeros of both signs, equal scores, huge and vanishing ones; q is zero but for its first. */
static void test_tables_agree_on_edges(void **state) {
    (void)state;
    rng_start("edges");
    static page p;
    const uint16_t halves[] = {0, 0x8000, 0x0001, 0x8001, 0x7bff, 0xfbff, 0x3c00, 0xbc00};
    const float factors[] = {0.0f, -0.0f, 1.0f, -1.0f, 0x1p-140f, 0x1p100f};
    float q[DIM_MAX] = {0};
    for (int repeat = 0; repeat < 3000; repeat++) {
        size_t head_dim = dims[rng_below(5)], count = 1 + rng_below(MLXD_PAGE);
        size_t kinds = 1 + rng_below(MLXD_COUNT_OF(halves));
        fill(&p, q, head_dim, 0);
        for (size_t i = 0; i < MLXD_PAGE; i++)
            p.k[i] = halves[rng_below(kinds)];
        for (size_t d = 0; d < head_dim; d++)
            q[d] = 0;
        q[0] = factors[rng_below(MLXD_COUNT_OF(factors))];
        partial a = run(mlxd_kernels_scalar(), &p, q, head_dim, count);
        assert_true(a.max != 0 || bits_of(a.max) == 0);
        for (size_t k = 1; k < table_count(); k++) {
            partial b = run(mlxd_kernels_at(k), &p, q, head_dim, count);
            assert_true(same_partials(&a, &b));
        }
    }
}

/* Positions from `count` on may hold anything, NaN and infinity too. */
static void test_hidden_positions_do_not_count(void **state) {
    (void)state;
    rng_start("hidden");
    static page clean, dirty;
    const uint16_t junk[] = {0x7c00, 0xfc00, 0x7e00, 0xffff, 0x7bff};
    float q[DIM_MAX];
    for (size_t k = 0; k < table_count(); k++)
        for (size_t count = 1; count <= MLXD_PAGE; count++) {
            size_t head_dim = dims[count % MLXD_COUNT_OF(dims)];
            fill(&clean, q, head_dim, 0);
            dirty = clean;
            for (size_t p = count; p < MLXD_PAGE; p++)
                for (size_t d = 0; d < head_dim; d++) {
                    dirty.k[d * MLXD_PAGE + p] = junk[rng_below(MLXD_COUNT_OF(junk))];
                    dirty.v[p * head_dim + d] = junk[rng_below(MLXD_COUNT_OF(junk))];
                }
            partial a = run(mlxd_kernels_at(k), &clean, q, head_dim, count);
            partial b = run(mlxd_kernels_at(k), &dirty, q, head_dim, count);
            assert_memory_equal(&a, &b, sizeof a);
            for (size_t d = head_dim; d <= DIM_MAX; d++)
                assert_true(bits_of(a.out[d]) == 0x7f7f7f7f);
        }
}

/* A NaN or an overflowed score in a visible position reaches the output. */
static void test_nan_is_not_hidden(void **state) {
    (void)state;
    rng_start("nan");
    static page p;
    float q[DIM_MAX];
    for (size_t k = 0; k < table_count(); k++)
        for (size_t where = 0; where < MLXD_PAGE; where++)
            for (int infinite = 0; infinite < 2; infinite++) {
                fill(&p, q, 64, 0);
                q[3] = 1;
                p.k[3 * MLXD_PAGE + where] = infinite ? 0x7c00 : 0x7e00;
                partial r = run(mlxd_kernels_at(k), &p, q, 64, MLXD_PAGE);
                for (size_t d = 0; d < 64; d++)
                    assert_true(is_nan(r.out[d]));
            }
}

/* attention.h restated, with exp from math.h. */
static void test_page_is_its_definition(void **state) {
    (void)state;
    rng_start("definition");
    static page p;
    float q[DIM_MAX];
    for (size_t count = 1; count <= MLXD_PAGE; count++) {
        size_t dim = dims[count % MLXD_COUNT_OF(dims)];
        fill(&p, q, dim, 0);
        size_t from = count % 3 ? 0 : rng_below((uint32_t)count);
        float cap = count % 4 ? 0 : 0.5f + (float)rng_below(50);
        float s[MLXD_PAGE] = {0}, lane[16] = {0}, max = -INFINITY;
        for (size_t i = from; i < count; i++) {
            float acc = 0;
            for (size_t d = 0; d < dim; d++)
                acc = fmaf(q[d], mlxd_f16_to_f32(p.k[d * MLXD_PAGE + i]), acc);
            s[i] = acc * 0.125f;
            if (cap > 0)
                s[i] = cap - (2 * cap) / (mlxd_exp_f32(s[i] * (2 / cap)) + 1);
            max = s[i] > max ? s[i] : max;
        }
        for (size_t i = from; i < count; i++) {
            s[i] = mlxd_exp_f32(s[i] - max);
            lane[i % 16] += s[i];
        }
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        partial r = run_window(mlxd_kernels_scalar(), &p, q, dim, from, count, cap);
        assert_true(r.max == max);
        assert_true(same_floats(&r.sum, lane, 1));
        for (size_t d = 0; d < dim; d++) {
            float acc = 0;
            for (size_t i = 0; i < count; i++)
                acc = fmaf(s[i], mlxd_f16_to_f32(p.v[i * dim + d]), acc);
            assert_true(same_floats(&r.out[d], &acc, 1));
        }
    }
}

/* The exponentials of single lanes: V is the identity, so out[d] = e[d]. */
static void test_exp_in_every_lane(void **state) {
    (void)state;
    rng_start("exp");
    static page p;
    float q[64], out[64];
    for (size_t i = 0; i < MLXD_PAGE; i++)
        for (size_t d = 0; d < 64; d++)
            p.v[i * 64 + d] = i == d ? 0x3c00 : 0;
    for (int repeat = 0; repeat < 5000; repeat++) {
        for (size_t i = 0; i < 64; i++)
            q[i] = 0;
        q[0] = 1 + rng_unit() / 2;
        float scale = repeat % 2 ? 110 : 1 + rng_unit();
        for (size_t i = 0; i < MLXD_PAGE; i++)
            p.k[i] = mlxd_f32_to_f16(rng_unit() / 2);
        for (size_t k = 0; k < table_count(); k++) {
            mlxd_query query = {.q = q, .out = out, .visible = 64};
            mlxd_kernels_at(k)->attention.page(&query, 1, p.k, p.v, 64, (mlxd_score){scale, 0},
                                               true);
            for (size_t i = 0; i < 64; i++) {
                float score = q[0] * mlxd_f16_to_f32(p.k[i]);
                score = score * scale;
                float e = mlxd_exp_f32(score - query.max);
                assert_true(same_floats(&out[i], &e, 1));
            }
        }
    }
}

/* ---- several pages ---- */

enum { PAGES = 3, DIM = 64 };

static partial over_pages(const mlxd_kernels *k, const page *pages, const float *q, size_t last) {
    partial all = run(k, &pages[0], q, DIM, MLXD_PAGE);
    for (size_t i = 1; i < PAGES; i++) {
        partial next = run(k, &pages[i], q, DIM, i + 1 < PAGES ? MLXD_PAGE : last);
        all = merged(k, all, next, DIM);
    }
    mlxd_query done = {.out = all.out, .sum = all.sum};
    k->attention.finish(&done, DIM);
    return all;
}

static void test_pages_make_softmax(void **state) {
    (void)state;
    rng_start("pages");
    static page pages[PAGES];
    float q[DIM_MAX];
    for (size_t last = 1; last <= MLXD_PAGE; last += 7) {
        for (size_t i = 0; i < PAGES; i++)
            fill(&pages[i], q, DIM, 0);
        size_t positions = (PAGES - 1) * MLXD_PAGE + last;
        double e[PAGES * MLXD_PAGE], total = 0;
        for (size_t p = 0; p < positions; p++) {
            double s = 0;
            for (size_t d = 0; d < DIM; d++)
                s += (double)q[d] *
                     mlxd_f16_to_f32(pages[p / MLXD_PAGE].k[d * MLXD_PAGE + p % MLXD_PAGE]);
            e[p] = exp(s * 0.125);
            total += e[p];
        }
        partial got = over_pages(mlxd_kernels_scalar(), pages, q, last);
        for (size_t d = 0; d < DIM; d++) {
            double right = 0;
            for (size_t p = 0; p < positions; p++)
                right +=
                    e[p] / total * mlxd_f16_to_f32(pages[p / MLXD_PAGE].v[p % MLXD_PAGE * DIM + d]);
            assert_true(fabs(got.out[d] - right) < 1e-5);
        }
        for (size_t k = 1; k < table_count(); k++) {
            partial other = over_pages(mlxd_kernels_at(k), pages, q, last);
            assert_true(same_partials(&got, &other));
        }
    }
}

static void test_merge_and_finish_agree(void **state) {
    (void)state;
    rng_start("merge");
    for (int repeat = 0; repeat < 2000; repeat++) {
        partial start, other;
        size_t dim = 1 + rng_below(DIM_MAX);
        float size = repeat % 3 ? 10 : 100;
        memset(&start, 0, sizeof start);
        memset(&other, 0, sizeof other);
        start.max = rng_below(10) ? rng_unit() * size : -0.0f;
        other.max = rng_below(10) ? rng_unit() * size : start.max;
        start.sum = 1 + rng_unit() / 2;
        other.sum = 1 + rng_unit() / 2;
        for (size_t d = 0; d < dim; d++) {
            start.out[d] = rng_unit();
            other.out[d] = rng_unit();
        }
        float m = (start.max > other.max ? start.max : other.max) + 0.0f;
        float a = mlxd_exp_f32(start.max - m), b = mlxd_exp_f32(other.max - m);
        for (size_t k = 0; k < table_count(); k++) {
            partial r = merged(mlxd_kernels_at(k), start, other, dim);
            float part = other.sum * b, sum = fmaf(start.sum, a, part);
            assert_true(same_floats(&r.max, &m, 1) && same_floats(&r.sum, &sum, 1));
            for (size_t d = 0; d < dim; d++) {
                part = other.out[d] * b;
                float out = fmaf(start.out[d], a, part);
                assert_true(same_floats(&r.out[d], &out, 1));
            }
            partial f = r;
            mlxd_query done = {.out = f.out, .sum = f.sum};
            mlxd_kernels_at(k)->attention.finish(&done, dim);
            for (size_t d = 0; d < dim; d++)
                assert_true(f.out[d] == r.out[d] / r.sum);
            for (size_t d = dim; d <= DIM_MAX; d++)
                assert_true(f.out[d] == 0);
        }
    }
}

/* Many queries at once, each seeing as much as it likes, over two pages: as each of them alone. */
static void test_queries_do_not_see_each_other(void **state) {
    (void)state;
    rng_start("queries");
    enum { MANY = 150 };
    static page pages[2];
    static float q[MANY][DIM_MAX], out[MANY][DIM_MAX];
    mlxd_query query[MANY];
    for (int repeat = 0; repeat < 60; repeat++) {
        size_t dim = dims[rng_below(MLXD_COUNT_OF(dims))], n = 1 + rng_below(MANY);
        bool falling = rng_below(2);
        for (size_t i = 0; i < 2; i++)
            fill(&pages[i], q[0], dim, 0);
        for (size_t p = 0; p < MLXD_PAGE * dim; p++) /* what must not count in the second page */
            if (p / dim >= 60)
                pages[1].v[p] = 0x7e00;
        for (size_t k = 0; k < table_count(); k++) {
            for (size_t i = 0; i < n; i++) {
                for (size_t d = 0; d < dim && k == 0; d++)
                    q[i][d] = rng_unit() * 4;
                query[i] = (mlxd_query){.q = q[i], .out = out[i], .visible = MLXD_PAGE};
            }
            const mlxd_score score = {0.125f, 0};
            mlxd_kernels_at(k)->attention.page(query, n, pages[0].k, pages[0].v, dim, score, true);
            for (size_t i = 0; i < n; i++) {
                query[i].visible = (uint32_t)(1 + (falling ? i * 7 + n : i) % 60);
                query[i].from = repeat % 2 ? (uint32_t)(i * 5) % query[i].visible : 0;
            }
            mlxd_kernels_at(k)->attention.page(query, n, pages[1].k, pages[1].v, dim, score, false);
            for (size_t i = 0; i < n; i++) {
                const mlxd_kernels *scalar = mlxd_kernels_scalar();
                partial expected = run(scalar, &pages[0], q[i], dim, MLXD_PAGE);
                partial next =
                    run_window(scalar, &pages[1], q[i], dim, query[i].from, query[i].visible, 0);
                expected = merged(scalar, expected, next, dim);
                assert_true(same_floats(&query[i].max, &expected.max, 1));
                assert_true(same_floats(&query[i].sum, &expected.sum, 1));
                assert_true(same_floats(out[i], expected.out, dim));
            }
        }
    }
}

static void test_digest(void **state) {
    (void)state;
    static page pages[PAGES];
    float q[DIM_MAX];
    for (size_t k = 0; k < table_count(); k++) {
        uint64_t h = DIGEST_START;
        rng_state = 1961;
        for (size_t last = 1; last <= MLXD_PAGE; last += 9) {
            for (size_t i = 0; i < PAGES; i++)
                fill(&pages[i], q, DIM, 0);
            partial r = over_pages(mlxd_kernels_at(k), pages, q, last);
            h = digest(h, &r, sizeof r);
        }
        assert_digest("attention", h, 0xe90b0a117d8688c4u);
    }
}

/* ---- benchmark ---- */

/* Billions of multiply-adds a second: one group of heads decoding, and a tile of a prompt. */
static void bench(void) {
    const size_t n[] = {1, 4, 64}, head_dims[] = {64, 128};
    enum { MANY = 64 };
    static page p;
    static float q[MANY][DIM_MAX], out[MANY][DIM_MAX];
    mlxd_query query[MANY];
    printf("%-8s %-20s %8s %10s\n", "isa", "attention, one page", "queries", "GMAC/s");
    for (size_t h = 0; h < MLXD_COUNT_OF(head_dims); h++)
        for (size_t i = 0; i < MLXD_COUNT_OF(n); i++)
            for (size_t k = 0; k < table_count(); k++) {
                double seconds = 1e9;
                fill(&p, q[0], head_dims[h], 0);
                for (size_t j = 0; j < n[i]; j++)
                    query[j] = (mlxd_query){.q = q[j], .out = out[j], .visible = MLXD_PAGE};
                for (int repeat = 0; repeat < 20; repeat++) {
                    double from = bench_seconds();
                    for (int times = 0; times < 20; times++)
                        mlxd_kernels_at(k)->attention.page(query, n[i], p.k, p.v, head_dims[h],
                                                           (mlxd_score){0.125f, 0}, false);
                    seconds = MLXD_MIN(seconds, (bench_seconds() - from) / 20);
                }
                double macs = 2.0 * MLXD_PAGE * (double)(head_dims[h] * n[i]);
                printf("%-8s head_dim %-11zu %8zu %10.1f\n", mlxd_kernels_at(k)->isa, head_dims[h],
                       n[i], macs / seconds / 1e9);
            }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_agree),
        cmocka_unit_test(test_tables_agree_on_edges),
        cmocka_unit_test(test_hidden_positions_do_not_count),
        cmocka_unit_test(test_nan_is_not_hidden),
        cmocka_unit_test(test_page_is_its_definition),
        cmocka_unit_test(test_exp_in_every_lane),
        cmocka_unit_test(test_pages_make_softmax),
        cmocka_unit_test(test_merge_and_finish_agree),
        cmocka_unit_test(test_queries_do_not_see_each_other),
        cmocka_unit_test(test_digest),
    };
    if (bench_wanted(argc, argv)) {
        bench();
        return 0;
    }
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
