/* clock.c - the machine's clocks behind clock.h. */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t read_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * MLXD_NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t real_now(void *ctx) {
    (void)ctx;
    return read_clock(CLOCK_MONOTONIC);
}

static uint64_t real_wall(void *ctx) {
    (void)ctx;
    return read_clock(CLOCK_REALTIME);
}

const mlxd_clock *mlxd_clock_real(void) {
    static const mlxd_clock real = {real_now, real_wall, NULL};
    return &real;
}

uint64_t mlxd_clock_now_ns(void) {
    return real_now(NULL);
}

uint64_t mlxd_clock_wall_ns(void) {
    return real_wall(NULL);
}

void mlxd_clock_format(uint64_t wall_ns, char out[25]) {
    time_t s = (time_t)(wall_ns / MLXD_NS_PER_S);
    struct tm tm;
    gmtime_r(&s, &tm);
    size_t n = strftime(out, 25, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 25 - n, ".%03uZ", (unsigned)(wall_ns / MLXD_NS_PER_MS % 1000));
}
