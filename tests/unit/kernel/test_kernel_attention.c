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

static partial run(const mlxd_kernels *k, const page *p, const float *q, size_t head_dim,
                   size_t count) {
    partial r;
    memset(&r, 0x7f, sizeof r);
    k->attention.page(q, p->k, p->v, head_dim, count, 0.125f, &r.max, &r.sum, r.out);
    return r;
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
                partial a = run(mlxd_kernels_scalar(), &p, q, dims[i], count);
                for (size_t k = 1; k < mlxd_kernels_count(); k++) {
                    partial b = run(mlxd_kernels_at(k), &p, q, dims[i], count);
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
        for (size_t k = 1; k < mlxd_kernels_count(); k++) {
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
    for (size_t k = 0; k < mlxd_kernels_count(); k++)
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
    for (size_t k = 0; k < mlxd_kernels_count(); k++)
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
        float s[MLXD_PAGE], lane[16] = {0}, max = -INFINITY;
        for (size_t i = 0; i < count; i++) {
            float acc = 0;
            for (size_t d = 0; d < dim; d++)
                acc = fmaf(q[d], mlxd_f16_to_f32(p.k[d * MLXD_PAGE + i]), acc);
            s[i] = acc * 0.125f;
            max = s[i] > max ? s[i] : max;
        }
        for (size_t i = 0; i < count; i++) {
            s[i] = mlxd_exp_f32(s[i] - max);
            lane[i % 16] += s[i];
        }
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        partial r = run(mlxd_kernels_scalar(), &p, q, dim, count);
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
    float q[64], out[64], max, sum;
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
        for (size_t k = 0; k < mlxd_kernels_count(); k++) {
            mlxd_kernels_at(k)->attention.page(q, p.k, p.v, 64, 64, scale, &max, &sum, out);
            for (size_t i = 0; i < 64; i++) {
                float score = q[0] * mlxd_f16_to_f32(p.k[i]);
                score = score * scale;
                float e = mlxd_exp_f32(score - max);
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
        k->attention.merge(&all.max, &all.sum, all.out, next.max, next.sum, next.out, DIM);
    }
    k->attention.finish(all.out, all.sum, DIM);
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
        for (size_t k = 1; k < mlxd_kernels_count(); k++) {
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
        for (size_t k = 0; k < mlxd_kernels_count(); k++) {
            partial r = start;
            mlxd_kernels_at(k)->attention.merge(&r.max, &r.sum, r.out, other.max, other.sum,
                                                other.out, dim);
            float part = other.sum * b, sum = fmaf(start.sum, a, part);
            assert_true(same_floats(&r.max, &m, 1) && same_floats(&r.sum, &sum, 1));
            for (size_t d = 0; d < dim; d++) {
                part = other.out[d] * b;
                float out = fmaf(start.out[d], a, part);
                assert_true(same_floats(&r.out[d], &out, 1));
            }
            partial f = r;
            mlxd_kernels_at(k)->attention.finish(f.out, f.sum, dim);
            for (size_t d = 0; d < dim; d++)
                assert_true(f.out[d] == r.out[d] / r.sum);
            for (size_t d = dim; d <= DIM_MAX; d++)
                assert_true(f.out[d] == 0);
        }
    }
}

static void test_digest(void **state) {
    (void)state;
    static page pages[PAGES];
    float q[DIM_MAX];
    for (size_t k = 0; k < mlxd_kernels_count(); k++) {
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_agree),
        cmocka_unit_test(test_tables_agree_on_edges),
        cmocka_unit_test(test_hidden_positions_do_not_count),
        cmocka_unit_test(test_nan_is_not_hidden),
        cmocka_unit_test(test_page_is_its_definition),
        cmocka_unit_test(test_exp_in_every_lane),
        cmocka_unit_test(test_pages_make_softmax),
        cmocka_unit_test(test_merge_and_finish_agree),
        cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
