/* probe.c - the probes of probe.h in plain C; how fast that is, the compiler decides. */
#include "kernel/tables.h"

#define BYTES 512u

uint64_t mlxd_probe_read_scalar(const void *p, size_t bytes) {
    const uint64_t *word = p;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *word; i += MLXD_COUNT_OF(sum))
        for (size_t j = 0; j < MLXD_COUNT_OF(sum); j++)
            sum[j] ^= word[i + j];
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

uint64_t mlxd_probe_int8_scalar(uint64_t rounds) {
    int8_t a[BYTES], b[BYTES];
    int32_t sum = 0;
    for (size_t i = 0; i < BYTES; i++) {
        a[i] = (int8_t)(i % 15);
        b[i] = (int8_t)(i % 251);
    }
    for (uint64_t r = 0; r < rounds; r++) {
        /* The operands may have changed, the sum is needed: nothing can be left out. */
        __asm__ volatile("" : "+r"(sum) : "r"(a), "r"(b) : "memory");
        sum = 0;
        for (size_t i = 0; i < BYTES; i++)
            sum += (int32_t)a[i] * b[i];
    }
    __asm__ volatile("" : : "r"(sum));
    return rounds * BYTES * 2;
}
