/* convert.c - f16 and bf16 to f32 and back, on the bits.
 *
 *   f32  s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm   bias 127
 *   f16  s eeeee mmmmmmmmmm                   bias 15, denormals are m * 2^-24
 *   bf16 the upper half of an f32
 */
#include "kernel/vector.h"

#include <string.h>

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float mlxd_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31u;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0) /* zero or denormal: an integer times 2^-24, a normal f32 */
        return float_of(sign | bits_of((float)mantissa * 0x1p-24f));
    if (exponent == 31) /* infinity or NaN */
        return float_of(sign | 0x7f800000u | mantissa << 13);
    return float_of(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t mlxd_f32_to_f16(float f) {
    uint32_t u = bits_of(f);
    uint32_t sign = u >> 16 & 0x8000u;
    uint32_t a = u & 0x7fffffffu;
    uint32_t h;
    if (a > 0x7f800000u) /* NaN, made quiet */
        h = 0x7e00u | (a >> 13 & 0x3ffu);
    else if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        h = 0x7c00u;
    else if (a < 0x38800000u) /* below 2^-14: one ulp of 0.5 is 2^-24, so the addition rounds */
        h = bits_of(float_of(a) + 0.5f) - bits_of(0.5f);
    else /* exponent from bias 127 to 15; then to nearest, ties to even */
        h = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    return (uint16_t)(sign | h);
}

float mlxd_bf16_to_f32(uint16_t h) {
    return float_of((uint32_t)h << 16);
}
