/* random.h - for tests: a seeded generator (SplitMix64). A random test prints its seed;
 * MLXD_SEED=n repeats one. */
#ifndef MLXD_TESTS_SUPPORT_RANDOM_H
#define MLXD_TESTS_SUPPORT_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct random_state {
    uint64_t x;
} random_state;

static inline uint64_t random_u64(random_state *r) {
    uint64_t z = r->x += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* 0 .. n-1 */
static inline uint32_t random_below(random_state *r, uint32_t n) {
    return (uint32_t)(random_u64(r) % n);
}

/* From MLXD_SEED or the clock; says which. */
static inline random_state random_open(const char *what) {
    const char *text = getenv("MLXD_SEED");
    random_state r = {text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL)};
    printf("%s: MLXD_SEED=%llu\n", what, (unsigned long long)r.x);
    fflush(stdout);
    return r;
}

#endif
