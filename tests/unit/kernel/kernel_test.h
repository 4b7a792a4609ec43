/* kernel_test.h - what the kernel tests share: a seeded generator, a digest, comparison by bits, a
 * benchmark's clock.
 *
 * MLXD_CPU=avx2 tests the tables up to that one only. With --bench a test program measures its
 * kernels instead of testing them (`make bench-kernel`).
 *
 * Inputs are made from integers by exact operations, never with libm, so that the digests of fixed
 * inputs are the same on every machine. Random tests print their seed; MLXD_SEED=n repeats one.
 */
#ifndef MLXD_TEST_KERNEL_TEST_H
#define MLXD_TEST_KERNEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/os.h"
#include "kernel/kernel.h"

/* SplitMix64. */
static uint64_t rng_state;

static inline uint64_t rng_next(void) {
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t rng_below(uint64_t n) {
    return rng_next() % n;
}

/* Uniform in [-1, 1), a multiple of 2^-23. */
static inline float rng_unit(void) {
    return (float)((int64_t)rng_below(1u << 24) - (1 << 23)) * 0x1p-23f;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Any finite f32, denormals and both zeros included. */
static inline float rng_finite(void) {
    uint32_t u;
    do
        u = (uint32_t)rng_next();
    while ((u & 0x7f800000u) == 0x7f800000u);
    return float_of(u);
}

/* Any finite f16. */
static inline uint16_t rng_half(void) {
    uint16_t h;
    do
        h = (uint16_t)rng_next();
    while ((h & 0x7c00u) == 0x7c00u);
    return h;
}

/* Starts a random test: the seed is MLXD_SEED, or the time, and printed either way. */
static inline void rng_start(const char *test) {
    const char *text = getenv("MLXD_SEED");
    rng_state = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    print_message("%s: MLXD_SEED=%llu\n", test, (unsigned long long)rng_state);
}

static inline int setup_fpu(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    return 0;
}

/* How many of mlxd_kernels_at are tested; an unknown name in MLXD_CPU fails. */
static inline size_t table_count(void) {
    const mlxd_kernels *last;
    size_t count = 1;
    const char *cap = getenv("MLXD_CPU");
    if (mlxd_kernels_get(&last, cap && *cap ? cap : NULL, NULL) != MLXD_OK) {
        print_message("MLXD_CPU=%s is no instruction set\n", cap);
        abort();
    }
    while (mlxd_kernels_at(count - 1) != last)
        count++;
    return count;
}

static inline bool bench_wanted(int argc, char **argv) {
    mlxd_os_fpu_init();
    return argc > 1 && strcmp(argv[1], "--bench") == 0;
}

static inline double bench_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* FNV-1a over bytes, 64 bits. */
#define DIGEST_START 0xcbf29ce484222325u

static inline uint64_t digest(uint64_t h, const void *data, size_t bytes) {
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static inline void assert_digest(const char *name, uint64_t got, uint64_t expected) {
    if (got != expected)
        print_message("%s: digest 0x%016llx, expected 0x%016llx\n", name, (unsigned long long)got,
                      (unsigned long long)expected);
    assert_true(got == expected);
}

static inline int is_nan(float f) {
    return (bits_of(f) & 0x7fffffffu) > 0x7f800000u;
}

/* The same bits, except that any NaN equals any NaN (payloads are outside the contract). */
static inline int same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bits_of(a[i]) != bits_of(b[i]) && !(is_nan(a[i]) && is_nan(b[i]))) {
            print_message("element %zu of %zu: %.9g (%08x) != %.9g (%08x)\n", i, n, (double)a[i],
                          bits_of(a[i]), (double)b[i], bits_of(b[i]));
            return 0;
        }
    return 1;
}

static inline void *must_alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    assert_true(p != NULL);
    return p;
}

#endif
