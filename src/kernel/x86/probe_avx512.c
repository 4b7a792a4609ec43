/* probe_avx512.c - the probes of probe.h with AVX-512: whole cache lines, and vpdpbusd, which adds
 * the products of four pairs to each of sixteen 32-bit sums. */
#include "kernel/tables.h"

#include <immintrin.h>

#define READ_SUMS 8
#define SUMS 10

uint64_t mlxd_probe_read_avx512(const void *p, size_t bytes) {
    const char *at = p, *end = at + bytes;
    __m512i sum[READ_SUMS];
    uint64_t word[8];
    for (int i = 0; i < READ_SUMS; i++)
        sum[i] = _mm512_setzero_si512();
    for (; at < end; at += sizeof sum)
        for (int i = 0; i < READ_SUMS; i++)
            sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(at + 64 * i));
    for (int i = 1; i < READ_SUMS; i++)
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    _mm512_storeu_si512(word, sum[0]);
    return word[0] ^ word[1] ^ word[2] ^ word[3] ^ word[4] ^ word[5] ^ word[6] ^ word[7];
}

uint64_t mlxd_probe_int8_avx512(uint64_t rounds) {
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), zero = _mm512_setzero_si512();
    __m512i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero,
            s8 = zero, s9 = zero;
    /* Written out, because GCC 12 copies or spills the sums of a loop over intrinsics. */
    for (uint64_t r = 0; r < rounds; r++)
        __asm__ volatile(
            "vpdpbusd %[b], %[a], %[s0]\n\t"
            "vpdpbusd %[b], %[a], %[s1]\n\t"
            "vpdpbusd %[b], %[a], %[s2]\n\t"
            "vpdpbusd %[b], %[a], %[s3]\n\t"
            "vpdpbusd %[b], %[a], %[s4]\n\t"
            "vpdpbusd %[b], %[a], %[s5]\n\t"
            "vpdpbusd %[b], %[a], %[s6]\n\t"
            "vpdpbusd %[b], %[a], %[s7]\n\t"
            "vpdpbusd %[b], %[a], %[s8]\n\t"
            "vpdpbusd %[b], %[a], %[s9]\n\t"
            : [s0] "+v"(s0), [s1] "+v"(s1), [s2] "+v"(s2), [s3] "+v"(s3), [s4] "+v"(s4),
              [s5] "+v"(s5), [s6] "+v"(s6), [s7] "+v"(s7), [s8] "+v"(s8), [s9] "+v"(s9)
            : [a] "v"(a), [b] "v"(b));
    return rounds * SUMS * 64 * 2;
}
