/* probe_avx2.c - the probes of probe.h with AVX2. vpmaddubsw multiplies 32 pairs and adds
 * neighbours; the sums stay in 16 bits, as in a kernel that widens them only now and then. */
#include "kernel/tables.h"

#include <immintrin.h>

#define SUMS 8

uint64_t mlxd_probe_read_avx2(const void *p, size_t bytes) {
    const char *at = p, *end = at + bytes;
    __m256i sum[SUMS];
    uint64_t word[4];
    for (int i = 0; i < SUMS; i++)
        sum[i] = _mm256_setzero_si256();
    for (; at < end; at += sizeof sum)
        for (int i = 0; i < SUMS; i++)
            sum[i] =
                _mm256_xor_si256(sum[i], _mm256_load_si256((const __m256i *)(const void *)at + i));
    for (int i = 1; i < SUMS; i++)
        sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    _mm256_storeu_si256((__m256i *)(void *)word, sum[0]);
    return word[0] ^ word[1] ^ word[2] ^ word[3];
}

uint64_t mlxd_probe_int8_avx2(uint64_t rounds) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), zero = _mm256_setzero_si256();
    __m256i t, s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero,
               s7 = zero;
    /* Written out, because GCC 12 copies or spills the sums of a loop over intrinsics. */
    for (uint64_t r = 0; r < rounds; r++)
        __asm__ volatile("vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s0], %[s0]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s1], %[s1]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s2], %[s2]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s3], %[s3]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s4], %[s4]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s5], %[s5]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s6], %[s6]\n\t"
                         "vpmaddubsw %[b], %[a], %[t]\n\tvpaddw %[t], %[s7], %[s7]\n\t"
                         : [t] "=&x"(t), [s0] "+x"(s0), [s1] "+x"(s1), [s2] "+x"(s2), [s3] "+x"(s3),
                           [s4] "+x"(s4), [s5] "+x"(s5), [s6] "+x"(s6), [s7] "+x"(s7)
                         : [a] "x"(a), [b] "x"(b));
    return rounds * SUMS * 32 * 2;
}
