/* math.c - exp, log, pow, sin and cos from IEEE operations only (see math.h).
 *
 * All follow the classic plan: reduce the argument with constants split so that nothing is lost,
 * evaluate a short polynomial, put the exponent back. Coefficients are Taylor's, written as the
 * fractions they are (the compiler rounds a quotient of constants like the machine does); only
 * exp_f32 uses a minimax polynomial, fitted over |r| <= 1.002 * ln2 / 2 for relative error, 4.2e-9
 * with its rounded coefficients. Rounding to an integer is adding and subtracting 1.5 * 2^23 (or
 * 2^52), which also leaves the integer in the low bits: it needs no conversion, so no argument is
 * undefined behaviour, and NaN flows through. Results of exp get their power of two in two factors,
 * the first exact, so that denormal results are rounded once.
 */
#include "kernel/math.h"

#include "base/base.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "float and double must be computed in their own precision");

static uint64_t bits_of(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double double_of(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* ---- exp in f32 ---- */

/* 2^n for -126 <= n <= 127. */
static float power_of_two_f32(int32_t n) {
    uint32_t u = (uint32_t)(n + 127) << 23;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float mlxd_exp_f32(float x) {
    const float log2e = 0x1.715476p+0f;
    const float ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f; /* n * ln2_hi is exact */
    x = 89.0f < x ? 89.0f : x;
    x = -105.0f > x ? -105.0f : x;
    float shifted = x * log2e + 0x1.8p23f;
    float n = shifted - 0x1.8p23f;
    float r = (x - n * ln2_hi) - n * ln2_lo;
    float c = 0x1.6a2256p-10f;
    c = c * r + 0x1.123b02p-7f;
    c = c * r + 0x1.5558f8p-5f;
    c = c * r + 0x1.55549p-3f;
    c = c * r + 0x1.fffffcp-2f;
    float e = (c * (r * r) + r) + 1.0f;
    uint32_t u;
    memcpy(&u, &shifted, sizeof u);
    if (e != e)
        return e;
    int32_t k = (int32_t)u - 0x4b400000; /* n as an integer */
    int32_t half = k / 2;
    return (e * power_of_two_f32(half)) * power_of_two_f32(k - half);
}

/* ---- exp, log and pow in f64 ---- */

/* ln 2 = LN2_HI + LN2_LO; LN2_HI has 40 bits, so its product with an 11-bit integer is exact. */
#define LN2_HI 0x1.62e42fefa2p-1
#define LN2_LO 0x1.9ef35793c7673p-41

static double power_of_two_f64(int64_t n) {
    return double_of((uint64_t)(n + 1023) << 52);
}

double mlxd_exp_f64(double x) {
    const double log2e = 0x1.71547652b82fep+0;
    x = 710.0 < x ? 710.0 : x;
    x = -746.0 > x ? -746.0 : x;
    double shifted = x * log2e + 0x1.8p52;
    double n = shifted - 0x1.8p52;
    double exact = x - n * LN2_HI;
    double r = exact - n * LN2_LO;
    double r_lo = (exact - r) - n * LN2_LO;
    double z = r * r;
    double even = 1.0 / 479001600; /* 1/12! and down to 1/2! */
    even = even * z + 1.0 / 3628800;
    even = even * z + 1.0 / 40320;
    even = even * z + 1.0 / 720;
    even = even * z + 1.0 / 24;
    even = even * z + 1.0 / 2;
    double odd = 1.0 / 6227020800; /* 1/13! and down to 1/3! */
    odd = odd * z + 1.0 / 39916800;
    odd = odd * z + 1.0 / 362880;
    odd = odd * z + 1.0 / 5040;
    odd = odd * z + 1.0 / 120;
    odd = odd * z + 1.0 / 6;
    double one_r = 1.0 + r;
    double one_r_lo = (1.0 - one_r) + r;
    double e = one_r + (one_r_lo + ((odd * r + even) * z + r_lo));
    if (e != e)
        return e;
    int64_t k = (int64_t)(bits_of(shifted) - bits_of(0x1.8p52));
    int64_t half = k / 2;
    return (e * power_of_two_f64(half)) * power_of_two_f64(k - half);
}

/* log(x) = hi + *lo to about 2^-60 relative; x positive and finite.
 * x = m * 2^k with m in [sqrt(1/2), sqrt(2)); with s = (m-1)/(m+1), log m = 2 atanh s
 * = 2s + 2s (z/3 + z^2/5 + ...), z = s*s <= 0.0295. */
static double log_pair(double x, double *lo) {
    int64_t k = 0;
    if (x < DBL_MIN) {
        x *= 0x1p54;
        k = -54;
    }
    /* Exponent of x / sqrt(1/2); taking it off the bits of x leaves m. */
    uint64_t above = bits_of(x) - bits_of(0x1.6a09e667f3bcdp-1);
    int64_t e = (int64_t)(above >> 52);
    e = e >= 2048 ? e - 4096 : e; /* 12-bit two's complement */
    k += e;
    double f = double_of(bits_of(x) - ((uint64_t)e << 52)) - 1.0;
    double d = 2.0 + f;
    double d_lo = f - (d - 2.0);
    double s = f / d;
    double s_lo = (fma(-s, d, f) - s * d_lo) / d;
    double z = s * s;
    double c = 1.0 / 25;
    for (int i = 23; i >= 3; i -= 2)
        c = c * z + 1.0 / i;
    double tail = 2.0 * (s * (z * c) + s_lo * (1.0 + z));
    double n = (double)k;
    double hi = n * LN2_HI + 2.0 * s;
    double rest = (n * LN2_HI - hi) + 2.0 * s;
    rest += n * LN2_LO + tail;
    double sum = hi + rest;
    *lo = rest - (sum - hi);
    return sum;
}

double mlxd_log_f64(double x) {
    double lo;
    if (!(x > 0) || x > DBL_MAX)
        return x == 0 ? -(double)INFINITY : x > 0 ? x : (double)NAN;
    return log_pair(x, &lo);
}

double mlxd_pow_f64(double x, double y) {
    if (!(x > 0) || x > DBL_MAX)
        return (double)NAN;
    double lo;
    double hi = log_pair(x, &lo);
    double p = y * hi;
    double p_lo = fma(y, hi, -p) + y * lo;
    double e = mlxd_exp_f64(p);
    if (!(fabs(p) < 745)) /* 0, infinity or NaN: p_lo says nothing any more */
        return e;
    return fma(e, p_lo, e);
}

/* ---- sin and cos ---- */

/* sin(r + c) and cos(r + c) for |r| <= 0.79 and a c below r's last bit. */
static double sin_near_zero(double r, double c) {
    double z = r * r;
    double s = 1.0 / 355687428096000; /* 1/17! with alternating signs down to 1/3! */
    s = s * z - 1.0 / 1307674368000;
    s = s * z + 1.0 / 6227020800;
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    return r + (s * (z * r) + c * (1.0 - 0.5 * z));
}

static double cos_near_zero(double r, double c) {
    double z = r * r;
    double s = 1.0 / 20922789888000; /* 1/16! with alternating signs down to 1/4! */
    s = s * z - 1.0 / 87178291200;
    s = s * z + 1.0 / 479001600;
    s = s * z - 1.0 / 3628800;
    s = s * z + 1.0 / 40320;
    s = s * z - 1.0 / 720;
    s = s * z + 1.0 / 24;
    double half = 0.5 * z;
    double w = 1.0 - half;
    double w_lo = (1.0 - w) - half;
    return w + (w_lo + (s * (z * z) - r * c));
}

/* x = n * pi/2 + r + c. pi/2 is the sum of three doubles (Cody and Waite): the product with the
 * first and the difference are exact in one fma, the second is carried with its rounding errors. */
static double reduce(double x, int64_t *quadrant, double *c) {
    const double pio2_1 = 0x1.921fb54442d18p+0, pio2_2 = 0x1.1a62633145c07p-54,
                 pio2_3 = -0x1.f1976b7ed8fbcp-110;
    double n = x * 0x1.45f306dc9c883p-1 + 0x1.8p52;
    *quadrant = (int64_t)(bits_of(n) & 3);
    n -= 0x1.8p52;
    double a = fma(-n, pio2_1, x);
    double b = n * pio2_2;
    double b_lo = fma(n, pio2_2, -b) + n * pio2_3;
    double r = a - b;
    double back = r - a; /* two-sum: the error of a - b */
    double tail = ((a - (r - back)) - (b + back)) - b_lo;
    double sum = r + tail;
    *c = tail - (sum - r);
    return sum;
}

void mlxd_sincos_f64(double x, double *sin, double *cos) {
    if (!(fabs(x) <= 0x1p31)) {
        *sin = *cos = (double)NAN;
        return;
    }
    int64_t quadrant;
    double c;
    double r = reduce(x, &quadrant, &c);
    double s = sin_near_zero(r, c), k = cos_near_zero(r, c);
    switch (quadrant) {
    case 0:
        *sin = s, *cos = k;
        break;
    case 1:
        *sin = k, *cos = -s;
        break;
    case 2:
        *sin = -s, *cos = -k;
        break;
    default:
        *sin = -k, *cos = s;
        break;
    }
}
