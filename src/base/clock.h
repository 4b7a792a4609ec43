/* clock.h - time as a table, so that a simulator can stand in for it.
 *
 * Decisions use monotonic nanoseconds only; wall time is for people (log lines, `created`).
 */
#ifndef MLXD_BASE_CLOCK_H
#define MLXD_BASE_CLOCK_H

#include "base/base.h"

#define MLXD_NS_PER_MS 1000000ull
#define MLXD_NS_PER_S 1000000000ull

typedef struct mlxd_clock {
    uint64_t (*now_ns)(void *ctx);  /* monotonic */
    uint64_t (*wall_ns)(void *ctx); /* since 1970-01-01 UTC */
    void *ctx;
} mlxd_clock;

/* The machine's clocks. */
const mlxd_clock *mlxd_clock_real(void);
/* Shorthands for the machine's clocks, for code outside the engine. */
uint64_t mlxd_clock_now_ns(void);
uint64_t mlxd_clock_wall_ns(void);
/* "2026-11-23T15:04:05.123Z" of `wall_ns` into `out` (25 bytes with NUL). */
void mlxd_clock_format(uint64_t wall_ns, char out[25]);

#endif
