/* test_kernel_math.c - accuracy of the elementary functions in units of the last place, against
 * libm in long double, their edges, and a digest that holds every machine to the same bits. */
#include "kernel_test.h"

#include <float.h>
#include <math.h>

#include "kernel/math.h"

/* Distance of got from the exact value in ulps of the exact value's binade (of a denormal when it
 * is one), for a format with `digits` bits and smallest exponent `lowest` (DBL_MIN_EXP ...). */
static double ulps(double got, long double exact, int digits, int lowest) {
    int exponent;
    frexpl(exact, &exponent);
    if (exponent < lowest)
        exponent = lowest;
    return (double)fabsl(((long double)got - exact) / ldexpl(1, exponent - digits));
}

static double ulps_f32(float got, long double exact) {
    return ulps((double)got, exact, FLT_MANT_DIG, FLT_MIN_EXP);
}

static double ulps_f64(double got, long double exact) {
    return ulps(got, exact, DBL_MANT_DIG, DBL_MIN_EXP);
}

typedef struct worst {
    double ulps, at;
} worst;

static void note(worst *w, double ulps_off, double at) {
    if (!(ulps_off <= w->ulps))
        *w = (worst){ulps_off, at};
}

static void check(const char *name, worst w, double limit) {
    print_message("%s: at most %.3f ulp off, at %.17g\n", name, w.ulps, w.at);
    assert_true(w.ulps <= limit);
}

/* Tries of each kind; fewer where long double is done in software. */
#define TRIES (LDBL_MANT_DIG > 64 ? 10000 : 200000)

/* Uniform in [-1, 1) with 53 bits. */
static double unit_f64(void) {
    return (double)((int64_t)rng_below((uint64_t)1 << 54) - ((int64_t)1 << 53)) * 0x1p-53;
}

static void test_exp_f32(void **state) {
    (void)state;
    rng_start("exp_f32");
    worst w = {0, 0}, tiny = {0, 0};
    for (uint32_t u = (uint32_t)rng_below(1000);
         u<0x43000000u; u += LDBL_MANT_DIG> 64 ? 100003 : 1009)
        for (int sign = 0; sign < 2; sign++) {
            float x = float_of(u | (uint32_t)sign << 31);
            if (x > 88.72f || x < -104)
                continue;
            long double exact = expl((long double)x);
            note(exact < FLT_MIN ? &tiny : &w, ulps_f32(mlxd_exp_f32(x), exact), (double)x);
        }
    for (int i = 0; i < TRIES; i++) {
        float x = -96 + rng_unit() * 8;
        long double exact = expl((long double)x);
        note(exact < FLT_MIN ? &tiny : &w, ulps_f32(mlxd_exp_f32(x), exact), (double)x);
    }
    check("exp_f32", w, 1.0);
    check("exp_f32, denormal results", tiny, 1.0);
    assert_true(bits_of(mlxd_exp_f32(0.0f)) == 0x3f800000);
    assert_true(bits_of(mlxd_exp_f32(-0.0f)) == 0x3f800000);
    assert_true(bits_of(mlxd_exp_f32(-104.0f)) == 0);
    assert_true(bits_of(mlxd_exp_f32(-0x1.fffffep127f)) == 0);
    assert_true(bits_of(mlxd_exp_f32(-INFINITY)) == 0);
    assert_true(mlxd_exp_f32(88.72f) < INFINITY);
    assert_true(bits_of(mlxd_exp_f32(88.73f)) == 0x7f800000);
    assert_true(bits_of(mlxd_exp_f32(INFINITY)) == 0x7f800000);
    assert_true(is_nan(mlxd_exp_f32(NAN)) && is_nan(mlxd_exp_f32(-NAN)));
}

static void test_exp_f64(void **state) {
    (void)state;
    rng_start("exp_f64");
    worst w = {0, 0}, tiny = {0, 0};
    for (int i = 0; i < 2 * TRIES; i++) {
        double x = unit_f64() * (i % 4 == 0 ? 1 : i % 4 == 1 ? 20 : 709.7);
        if (i % 16 == 3)
            x = -727 + unit_f64() * 18;
        long double exact = expl((long double)x);
        note(exact < DBL_MIN ? &tiny : &w, ulps_f64(mlxd_exp_f64(x), exact), x);
    }
    check("exp_f64", w, 1.0);
    check("exp_f64, denormal results", tiny, 1.0);
    assert_true(mlxd_exp_f64(0) == 1 && mlxd_exp_f64(-0.0) == 1);
    assert_true(mlxd_exp_f64(-746) == 0 && mlxd_exp_f64((double)-INFINITY) == 0);
    assert_true(mlxd_exp_f64(710) == (double)INFINITY);
    assert_true(mlxd_exp_f64((double)INFINITY) == (double)INFINITY);
    assert_true(isnan(mlxd_exp_f64((double)NAN)));
}

static void test_log_f64(void **state) {
    (void)state;
    rng_start("log_f64");
    worst w = {0, 0};
    for (int i = 0; i < 2 * TRIES; i++) {
        double x;
        uint64_t u = rng_below(0x7ff0000000000000u - 1) + 1; /* every magnitude, denormals too */
        memcpy(&x, &u, sizeof x);
        if (i % 2)
            x = 1 + unit_f64() * (i % 4 == 1 ? 0.5 : 0x1p-20);
        note(&w, ulps_f64(mlxd_log_f64(x), logl((long double)x)), x);
    }
    check("log_f64", w, 1.0);
    assert_true(mlxd_log_f64(1) == 0);
    assert_true(mlxd_log_f64(0) == -(double)INFINITY);
    assert_true(mlxd_log_f64(-0.0) == -(double)INFINITY);
    assert_true(mlxd_log_f64((double)INFINITY) == (double)INFINITY);
    assert_true(isnan(mlxd_log_f64(-1)) && isnan(mlxd_log_f64((double)NAN)));
}

static void test_pow_f64(void **state) {
    (void)state;
    rng_start("pow_f64");
    worst w = {0, 0};
    const double bases[] = {10000, 500000, 1e6, 1e7, 0.5, 2, 1.0001, 1e-5};
    for (int i = 0; i < TRIES; i++) { /* RoPE's: base^(-2i/d) */
        double x = bases[rng_below(MLXD_COUNT_OF(bases))], y = unit_f64();
        note(&w, ulps_f64(mlxd_pow_f64(x, y), powl((long double)x, (long double)y)), x);
    }
    for (int i = 0; i < TRIES; i++) {
        double x = (1 + unit_f64() * 0.999) * 1000, y = unit_f64() * 80;
        long double exact = powl((long double)x, (long double)y);
        if (exact > DBL_MIN && exact < DBL_MAX)
            note(&w, ulps_f64(mlxd_pow_f64(x, y), exact), x);
    }
    check("pow_f64", w, 2.0);
    assert_true(mlxd_pow_f64(10000, 0) == 1);
    assert_true(mlxd_pow_f64(10, 400) == (double)INFINITY && mlxd_pow_f64(10, -400) == 0);
    assert_true(isnan(mlxd_pow_f64(0, 1)) && isnan(mlxd_pow_f64(-1, 1)));
    assert_true(isnan(mlxd_pow_f64((double)NAN, 1)) && isnan(mlxd_pow_f64(2, (double)NAN)));
}

static void check_sincos(worst *w, double x) {
    double s, c;
    mlxd_sincos_f64(x, &s, &c);
    note(w, ulps_f64(s, sinl((long double)x)), x);
    note(w, ulps_f64(c, cosl((long double)x)), x);
}

static void test_sincos_f64(void **state) {
    (void)state;
    rng_start("sincos_f64");
    worst w = {0, 0}, near = {0, 0};
    for (int i = 0; i < TRIES; i++) {
        const double sizes[] = {1, 4, 1000, 0x1p24, 0x1p31, 0x1p-30};
        check_sincos(&w, unit_f64() * sizes[i % 6]);
        check_sincos(&w, (double)rng_below(1u << 24)); /* a position at frequency 1 */
    }
    for (int i = 0; i < TRIES / 4; i++) { /* next to the zeros of both */
        double n = (double)rng_below(i % 2 ? 1000 : 1367130551);
        double x = n * 1.57079632679489661923;
        uint64_t u;
        memcpy(&u, &x, sizeof u);
        u += rng_below(5);
        memcpy(&x, &u, sizeof x);
        if (x <= 0x1p31)
            check_sincos(&near, x);
    }
    check("sincos_f64", w, 1.0);
    check("sincos_f64 near multiples of pi/2", near, 1.0);
    double s, c;
    mlxd_sincos_f64(0, &s, &c);
    assert_true(s == 0 && c == 1);
    mlxd_sincos_f64(-0.0, &s, &c);
    assert_true(s == 0 && c == 1);
    const double beyond[] = {0x1.0000000000001p31, -1e300, (double)INFINITY, (double)NAN};
    for (size_t i = 0; i < MLXD_COUNT_OF(beyond); i++) {
        mlxd_sincos_f64(beyond[i], &s, &c);
        assert_true(isnan(s) && isnan(c));
    }
}

static void test_digest(void **state) {
    (void)state;
    uint64_t h = DIGEST_START;
    rng_state = 314159;
    for (int i = 0; i < 20000; i++) {
        float f = mlxd_exp_f32(rng_unit() * 105);
        double d[5];
        d[0] = mlxd_exp_f64(unit_f64() * 740);
        d[1] = mlxd_log_f64(1.5 + unit_f64());
        d[2] = mlxd_pow_f64(10000, unit_f64());
        mlxd_sincos_f64(unit_f64() * (i % 2 ? 0x1p31 : 10), &d[3], &d[4]);
        h = digest(h, &f, sizeof f);
        h = digest(h, d, sizeof d);
    }
    assert_digest("math", h, 0x3a42cfd00b170136u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_f32),    cmocka_unit_test(test_exp_f64),
        cmocka_unit_test(test_log_f64),    cmocka_unit_test(test_pow_f64),
        cmocka_unit_test(test_sincos_f64), cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
