/* test_kernel_vector.c - conversions of f16 and bf16, exhaustively, and the small vector kernels:
 * the scalar ones against their formulas, the others against the scalar ones by bits. */
#include "kernel_test.h"

#include <math.h>

#include "kernel/math.h"

#define LENGTH_MAX 600

static const size_t lengths[] = {0,  1,  2,  3,  7,  8,  9,  15,  16,  17,  23,
                                 24, 25, 31, 32, 33, 64, 95, 100, 576, 577, 599};

/* ---- f16, bf16 ---- */

/* The value of a finite half by its definition, exact. */
static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31;
    double v = (h & 0x3ff) + (exponent ? 1024 : 0);
    for (int e = exponent ? exponent : 1; e < 25; e++)
        v *= 0.5;
    for (int e = 25; e < exponent; e++)
        v *= 2;
    return h & 0x8000 ? -v : v;
}

static void test_every_half_widens_exactly(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = mlxd_f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(is_nan(f));
            assert_true((mlxd_f32_to_f16(f) & 0x7fff) > 0x7c00);
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_true(bits_of(f) == ((h & 0x8000) << 16 | 0x7f800000));
        else
            assert_true((double)f == half_value((uint16_t)h));
        assert_int_equal(bits_of(f) >> 31, h >> 15);
        assert_int_equal(mlxd_f32_to_f16(f), h);
        assert_true(bits_of(mlxd_bf16_to_f32((uint16_t)h)) == h << 16);
    }
}

/* Checks the function and every table's to_f16, in a batch long enough for vectors. */
static void check_rounding(float f, uint16_t expected) {
    float x[9];
    uint16_t out[9];
    for (int sign = 0; sign < 2; sign++) {
        float v = sign ? -f : f;
        uint16_t e = (uint16_t)(expected | sign << 15);
        assert_int_equal(mlxd_f32_to_f16(v), e);
        for (size_t i = 0; i < 9; i++)
            x[i] = v;
        for (size_t k = 0; k < table_count(); k++) {
            mlxd_kernels_at(k)->vector.to_f16(x, 9, out);
            for (size_t i = 0; i < 9; i++)
                assert_int_equal(out[i], e);
        }
    }
}

/* Every midpoint of neighbours goes to the even one, and one step beside it to the nearer one. */
static void test_every_rounding_boundary(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double next = h == 0x7bff ? 65536 : half_value((uint16_t)(h + 1));
        float middle = (float)((half_value((uint16_t)h) + next) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        check_rounding(middle, even);
        check_rounding(float_of(bits_of(middle) - 1), (uint16_t)h);
        check_rounding(float_of(bits_of(middle) + 1), (uint16_t)(h + 1));
    }
    check_rounding(float_of(1), 0);
    check_rounding(float_of(0x007fffff), 0);
    check_rounding(0x1.fffffep127f, 0x7c00);
    check_rounding(float_of(0x7f800000), 0x7c00);
}

static void test_to_f16_lengths(void **state) {
    (void)state;
    rng_start("to_f16");
    float x[LENGTH_MAX];
    uint16_t out[LENGTH_MAX + 1], expected[LENGTH_MAX + 1];
    for (size_t l = 0; l < MLXD_COUNT_OF(lengths); l++) {
        for (size_t i = 0; i < lengths[l]; i++) {
            x[i] = i % 2 ? rng_finite() : rng_unit() * 8;
            expected[i] = mlxd_f32_to_f16(x[i]);
        }
        expected[lengths[l]] = 0x5555;
        for (size_t k = 0; k < table_count(); k++) {
            out[lengths[l]] = 0x5555;
            mlxd_kernels_at(k)->vector.to_f16(x, lengths[l], out);
            assert_memory_equal(out, expected, (lengths[l] + 1) * sizeof out[0]);
        }
    }
}

/* ---- the others ---- */

typedef struct vectors {
    float x[LENGTH_MAX], y[LENGTH_MAX], out[LENGTH_MAX + 1];
} vectors;

static void fill(vectors *v, int wild) {
    for (size_t i = 0; i < LENGTH_MAX; i++) {
        v->x[i] = wild ? rng_finite() : rng_unit() * 4;
        v->y[i] = wild ? rng_finite() : rng_unit() * 4;
        if (rng_below(20) == 0)
            v->x[i] = rng_next() & 1 ? 0.0f : -0.0f;
        v->out[i] = 77.0f;
    }
    v->out[LENGTH_MAX] = 77.0f;
}

typedef void (*vector_run)(const mlxd_vector_kernels *k, vectors *v, size_t n);

static void run_rmsnorm(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->rmsnorm(v->x, v->y, n, 1e-5f, v->out);
}

static void run_rmsnorm_in_place(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->rmsnorm(v->x, v->y, n, 1e-5f, v->x);
}

static void run_swiglu(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->swiglu(v->x, v->y, n, v->out);
}

static void run_swiglu_in_place(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->swiglu(v->x, v->y, n, v->x);
    k->swiglu(v->x, v->y, n, v->y);
}

static void run_geglu(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->geglu(v->x, v->y, n, v->out);
    k->geglu(v->x, v->y, n, v->x);
    k->geglu(v->x, v->y, n, v->y);
}

static void run_rope(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    size_t head_dim = n / 3, rot = head_dim / 2 * 2;
    k->rope_pairs(v->x, 3, head_dim, rot, v->y, v->y + 300);
    k->rope_pairs(v->x, 1, n, n / 4 * 2, v->y, v->y + 300); /* part of a head */
}

static void run_rope_halves(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    size_t head_dim = n / 3, rot = head_dim / 2 * 2;
    k->rope_halves(v->x, 3, head_dim, rot, v->y, v->y + 300);
    k->rope_halves(v->x, 1, n, n / 4 * 2, v->y, v->y + 300); /* part of a head */
}

static void run_clipglu(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->clipglu(v->x, v->y, n, v->out);
    k->clipglu(v->x, v->y, n, v->x);
    k->clipglu(v->x, v->y, n, v->y);
}

static void run_softcap(const mlxd_vector_kernels *k, vectors *v, size_t n) {
    k->softcap(v->x, n, 30);
    k->softcap(v->y, n, 0.75f);
}

static const vector_run runs[] = {
    run_rmsnorm, run_rmsnorm_in_place, run_swiglu,  run_swiglu_in_place, run_rope,
    run_geglu,   run_rope_halves,      run_clipglu, run_softcap};
#define RUNS_OF_DIGEST 6 /* the first ones: older than the others */

static void test_tables_agree(void **state) {
    (void)state;
    rng_start("vector");
    static vectors start, expected, got;
    for (size_t r = 0; r < MLXD_COUNT_OF(runs); r++)
        for (size_t l = 0; l < MLXD_COUNT_OF(lengths); l++)
            for (int repeat = 0; repeat < 8; repeat++) {
                fill(&start, repeat & 1);
                expected = start;
                runs[r](&mlxd_kernels_scalar()->vector, &expected, lengths[l]);
                for (size_t k = 1; k < table_count(); k++) {
                    got = start;
                    runs[r](&mlxd_kernels_at(k)->vector, &got, lengths[l]);
                    if (!same_floats(got.x, expected.x, LENGTH_MAX) ||
                        !same_floats(got.y, expected.y, LENGTH_MAX) ||
                        !same_floats(got.out, expected.out, LENGTH_MAX + 1)) {
                        print_message("run %zu, n %zu\n", r, lengths[l]);
                        assert_true(false);
                    }
                }
            }
}

/* In place or not, the result is the same, and nothing beyond n changes. */
static void test_in_place_and_bounds(void **state) {
    (void)state;
    rng_start("in place");
    static vectors a, b;
    for (size_t k = 0; k < table_count(); k++)
        for (size_t l = 0; l < MLXD_COUNT_OF(lengths); l++) {
            const mlxd_vector_kernels *v = &mlxd_kernels_at(k)->vector;
            size_t n = lengths[l];
            fill(&a, 0);
            b = a;
            v->swiglu(a.x, a.y, n, a.out);
            for (size_t i = n; i <= LENGTH_MAX; i++)
                assert_true(a.out[i] == 77.0f);
            v->swiglu(b.x, b.y, n, b.x);
            assert_memory_equal(a.out, b.x, n * sizeof(float));
            assert_memory_equal(a.x + n, b.x + n, (LENGTH_MAX - n) * sizeof(float));
            b = a;
            v->rmsnorm(a.x, a.y, n, 1e-6f, a.out);
            v->rmsnorm(b.x, b.y, n, 1e-6f, b.x);
            assert_memory_equal(a.out, b.x, n * sizeof(float));
            assert_memory_equal(a.x + n, b.x + n, (LENGTH_MAX - n) * sizeof(float));
        }
}

static void test_rmsnorm_is_its_formula(void **state) {
    (void)state;
    rng_start("rmsnorm");
    static vectors v;
    for (size_t l = 0; l < MLXD_COUNT_OF(lengths); l++) {
        size_t n = lengths[l];
        fill(&v, 0);
        float lane[16] = {0};
        for (size_t i = 0; i < n; i++)
            lane[i % 16] = fmaf(v.x[i], v.x[i], lane[i % 16]);
        for (size_t i = 0; i < 8; i++)
            lane[i] += lane[i + 8];
        for (size_t i = 0; i < 4; i++)
            lane[i] += lane[i + 4];
        float left = lane[0] + lane[2], right = lane[1] + lane[3];
        float ss = left + right;
        float r = 1.0f / sqrtf(ss / (float)n + 1e-5f);
        double exact = 0;
        for (size_t i = 0; i < n; i++)
            exact += (double)v.x[i] * v.x[i];
        mlxd_kernels_scalar()->vector.rmsnorm(v.x, v.y, n, 1e-5f, v.out);
        for (size_t i = 0; i < n; i++) {
            float scaled = v.x[i] * r;
            assert_true(v.out[i] == scaled * v.y[i]);
            double right_value = v.x[i] / sqrt(exact / (double)n + 1e-5) * v.y[i];
            assert_true(fabs(v.out[i] - right_value) <= 1e-5 * fabs(right_value));
        }
    }
}

static void test_swiglu_is_its_formula(void **state) {
    (void)state;
    rng_start("swiglu");
    for (int repeat = 0; repeat < 100000; repeat++) {
        float g = rng_unit() * 120, u = rng_unit() * 4, out;
        mlxd_kernels_scalar()->vector.swiglu(&g, &u, 1, &out);
        double right = g / (1 + exp(-(double)g)) * u;
        /* From -88.73 down exp(-g) is infinite in f32 and the result a zero: 1.1e-36 is lost. */
        assert_true(fabs(out - right) <= 4e-7 * fabs(right) + 1.2e-36);
    }
}

static void test_geglu_is_its_formula(void **state) {
    (void)state;
    rng_start("geglu");
    for (int repeat = 0; repeat < 100000; repeat++) {
        float g = rng_unit() * 12, u = rng_unit() * 4, out;
        mlxd_kernels_scalar()->vector.geglu(&g, &u, 1, &out);
        double inner = sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * pow(g, 3));
        double right = 0.5 * g * (1 + tanh(inner)) * u, scale = fabs(g * (double)u);
        assert_true(fabs(out - right) <= 1e-6 * scale + 1.2e-36);
    }
}

static void test_clipglu_is_its_formula(void **state) {
    (void)state;
    rng_start("clipglu");
    for (int repeat = 0; repeat < 100000; repeat++) {
        float g = rng_unit() * 20, u = rng_unit() * 20, out;
        mlxd_kernels_scalar()->vector.clipglu(&g, &u, 1, &out);
        double a = fmin(g, 7), b = fmax(fmin(u, 7), -7);
        double right = a / (1 + exp(-1.702 * a)) * (b + 1);
        assert_true(fabs(out - right) <= 5e-6 * fabs(right) + 1e-6);
    }
    for (size_t k = 0; k < table_count(); k++)
        for (int both = 0; both < 2; both++) {
            float g[8], u[8], out[8], nan = float_of(0x7fc00000);
            for (size_t i = 0; i < 8; i++) {
                g[i] = both ? 1 : nan;
                u[i] = both ? nan : 1;
            }
            mlxd_kernels_at(k)->vector.clipglu(g, u, 8, out);
            for (size_t i = 0; i < 8; i++)
                assert_true(is_nan(out[i]));
        }
}

static void test_softcap_is_its_formula(void **state) {
    (void)state;
    rng_start("softcap");
    for (int repeat = 0; repeat < 100000; repeat++) {
        float cap = 0.5f + (float)rng_below(60), x = rng_unit() * (repeat % 2 ? 300 : 4);
        float got = x;
        mlxd_kernels_scalar()->vector.softcap(&got, 1, cap);
        assert_true(fabs(got - cap * tanh((double)x / cap)) <= 4e-7 * cap);
        assert_true(fabsf(got) <= cap);
    }
    float ends[] = {0, INFINITY, -INFINITY};
    mlxd_kernels_scalar()->vector.softcap(ends, 3, 30);
    assert_true(ends[0] == 0 && ends[1] == 30 && ends[2] == -30);
}

/* Both orders are the same rotation of values that lie elsewhere. */
static void test_rope_orders_agree(void **state) {
    (void)state;
    rng_start("orders");
    static vectors v;
    const size_t dim = 80, rot = 64, heads = 3;
    for (size_t k = 0; k < table_count(); k++) {
        float pairs[3 * 80], halves[3 * 80];
        fill(&v, 0);
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < dim; i++) {
                size_t to = i >= rot ? i : i < rot / 2 ? 2 * i : 2 * (i - rot / 2) + 1;
                halves[h * dim + i] = pairs[h * dim + to] = v.x[h * dim + i];
            }
        mlxd_kernels_at(k)->vector.rope_pairs(pairs, heads, dim, rot, v.y, v.y + 100);
        mlxd_kernels_at(k)->vector.rope_halves(halves, heads, dim, rot, v.y, v.y + 100);
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < dim; i++) {
                size_t to = i >= rot ? i : i < rot / 2 ? 2 * i : 2 * (i - rot / 2) + 1;
                assert_true(same_floats(&halves[h * dim + i], &pairs[h * dim + to], 1));
            }
    }
}

static void test_sums(void **state) {
    (void)state;
    rng_start("sums");
    static vectors v;
    for (size_t l = 0; l < MLXD_COUNT_OF(lengths); l++) {
        fill(&v, 0);
        static vectors w;
        w = v;
        mlxd_vector_add(v.x, lengths[l], v.y);
        mlxd_vector_scale(0.3f, lengths[l], v.y);
        mlxd_vector_add_scaled(0.7f, v.x, lengths[l], v.y);
        for (size_t i = 0; i < LENGTH_MAX; i++) {
            float sum = w.x[i] + w.y[i], scaled = sum * 0.3f, part = 0.7f * w.x[i];
            float right = i < lengths[l] ? scaled + part : w.y[i];
            assert_true(same_floats(&v.y[i], &right, 1));
        }
    }
}

static void test_rope_turns(void **state) {
    (void)state;
    rng_start("rope");
    float x[2 * 10], before[2 * 10], c[4], s[4];
    for (size_t k = 0; k < table_count(); k++) {
        for (size_t i = 0; i < 4; i++) {
            double sine, cosine;
            mlxd_sincos_f64((double)(i + 1) * 0.7, &sine, &cosine);
            c[i] = (float)cosine;
            s[i] = (float)sine;
        }
        for (size_t i = 0; i < 20; i++)
            before[i] = x[i] = rng_unit();
        mlxd_kernels_at(k)->vector.rope_pairs(x, 2, 10, 8, c, s);
        for (size_t h = 0; h < 2; h++) {
            for (size_t i = 0; i < 4; i++) {
                double a = before[h * 10 + 2 * i], b = before[h * 10 + 2 * i + 1];
                assert_true(fabs(x[h * 10 + 2 * i] - (a * c[i] - b * s[i])) < 1e-6);
                assert_true(fabs(x[h * 10 + 2 * i + 1] - (a * s[i] + b * c[i])) < 1e-6);
            }
            assert_memory_equal(x + h * 10 + 8, before + h * 10 + 8, 2 * sizeof(float));
        }
    }
}

static void test_is_finite(void **state) {
    (void)state;
    rng_start("is_finite");
    const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001};
    float x[101];
    for (size_t k = 0; k < table_count(); k++) {
        bool (*is_finite)(const float *, size_t) = mlxd_kernels_at(k)->vector.is_finite;
        for (size_t n = 0; n <= 100; n++) {
            for (size_t i = 0; i < n; i++)
                x[i] = i % 5 ? rng_finite() : 0x1.fffffep127f;
            x[n] = float_of(0x7f800000); /* behind the end: does not count */
            assert_true(is_finite(x, n));
            for (size_t i = 0; i < n; i++) {
                float kept = x[i];
                x[i] = float_of(bad[rng_below(MLXD_COUNT_OF(bad))]);
                assert_true(!is_finite(x, n));
                x[i] = kept;
            }
        }
    }
}

static void test_digest(void **state) {
    (void)state;
    for (size_t k = 0; k < table_count(); k++) {
        const mlxd_vector_kernels *kernels = &mlxd_kernels_at(k)->vector;
        static vectors v;
        uint16_t halves[LENGTH_MAX];
        uint64_t h = DIGEST_START;
        rng_state = 19690720;
        for (size_t r = 0; r < MLXD_COUNT_OF(runs); r++) {
            if (r == RUNS_OF_DIGEST) {
                assert_digest("vector", h, 0x61f8ee58e8ee4656u);
                h = DIGEST_START;
            }
            fill(&v, 0);
            runs[r](kernels, &v, 577);
            h = digest(h, &v, sizeof v);
            kernels->to_f16(v.x, LENGTH_MAX, halves);
            h = digest(h, halves, sizeof halves);
        }
        assert_digest("vector, families", h, 0xd56a0e3924dae760u);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half_widens_exactly),
        cmocka_unit_test(test_every_rounding_boundary),
        cmocka_unit_test(test_to_f16_lengths),
        cmocka_unit_test(test_tables_agree),
        cmocka_unit_test(test_in_place_and_bounds),
        cmocka_unit_test(test_rmsnorm_is_its_formula),
        cmocka_unit_test(test_swiglu_is_its_formula),
        cmocka_unit_test(test_geglu_is_its_formula),
        cmocka_unit_test(test_clipglu_is_its_formula),
        cmocka_unit_test(test_softcap_is_its_formula),
        cmocka_unit_test(test_rope_turns),
        cmocka_unit_test(test_rope_orders_agree),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_is_finite),
        cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
