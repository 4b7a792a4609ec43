/* probe_avxvnni.c - the multiplication of probe.h with AVX-VNNI: vpdpbusd adds the products of four
 * pairs to each of eight 32-bit sums. Two of them start in a cycle and each takes five. */
#include "kernel/tables.h"

#include <immintrin.h>

#define SUMS 10

uint64_t mlxd_probe_int8_avxvnni(uint64_t rounds) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), zero = _mm256_setzero_si256();
    __m256i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero,
            s8 = zero, s9 = zero;
    /* Written out, because GCC 12 copies or spills the sums of a loop over intrinsics. */
    for (uint64_t r = 0; r < rounds; r++)
        __asm__ volatile(
            "%{vex%} vpdpbusd %[b], %[a], %[s0]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s1]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s2]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s3]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s4]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s5]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s6]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s7]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s8]\n\t"
            "%{vex%} vpdpbusd %[b], %[a], %[s9]\n\t"
            : [s0] "+x"(s0), [s1] "+x"(s1), [s2] "+x"(s2), [s3] "+x"(s3), [s4] "+x"(s4),
              [s5] "+x"(s5), [s6] "+x"(s6), [s7] "+x"(s7), [s8] "+x"(s8), [s9] "+x"(s9)
            : [a] "x"(a), [b] "x"(b));
    return rounds * SUMS * 32 * 2;
}
