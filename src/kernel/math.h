/* math.h - the elementary functions of the inference and sampling path, ours so that every machine
 * computes the same bits: only IEEE operations, fma where written, no libm besides fma.
 *
 * NaN gives NaN; no argument makes them undefined. They expect round to nearest even and denormals
 * kept (mlxd_os_fpu_init).
 */
#ifndef MLXD_KERNEL_MATH_H
#define MLXD_KERNEL_MATH_H

/* e^x in f32, at most 1 ulp off, denormal results too; 0 for x < -104, +inf for x > 88.73, exact 1
 * at 0. Plain products and sums without fma. The overlay kernels repeat these operations lane by
 * lane. */
float mlxd_exp_f32(float x);
/* Double precision, at most 1 ulp off. */
double mlxd_exp_f64(double x);
double mlxd_log_f64(double x); /* log(0) = -inf, NaN below 0 */
/* x > 0: exp(y * log(x)), the logarithm in double-double, at most 2 ulp off; NaN for other x. */
double mlxd_pow_f64(double x, double y);
/* At most 1 ulp off for |x| <= 2^31 (a position times a frequency), NaN beyond. */
void mlxd_sincos_f64(double x, double *sin, double *cos);

#endif
