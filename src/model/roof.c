/* roof.c - see roof.h. Threads take pieces as they come, so one that was held up does not hold up
 * the others; the bytes or operations of a whole pass count against the time that passed. */
#include "model/roof.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/os.h"

#include <stdatomic.h>
#include <string.h>

#define REGION_BYTES ((size_t)1 << 30)
#define PIECE_BYTES ((size_t)2 << 20) /* a huge page */
#define PASSES 3
#define PIECES_PER_THREAD 8
#define PIECE_NS MLXD_NS_PER_MS /* of multiplying */

static double per_second(double amount, uint64_t ns) {
    return amount * (double)MLXD_NS_PER_S / (double)MLXD_MAX(ns, (uint64_t)1);
}

/* ---- reading ---- */

struct reading {
    const mlxd_kernels *k;
    uint8_t *region;
    _Atomic uint64_t sum; /* keeps the reads from being left out */
};

/* Memory that was never written is one page of zeros, which no cache has to fetch. */
static void fill_task(void *ctx, size_t task, unsigned thread) {
    struct reading *r = ctx;
    (void)thread;
    memset(r->region + task * PIECE_BYTES, (int)(task % 255 + 1), PIECE_BYTES);
}

static void read_task(void *ctx, size_t task, unsigned thread) {
    struct reading *r = ctx;
    (void)thread;
    atomic_fetch_xor(&r->sum, r->k->probe.read(r->region + task * PIECE_BYTES, PIECE_BYTES));
}

double mlxd_roof_read(const mlxd_kernels *k, mlxd_pool *pool) {
    MLXD_ASSERT(k->probe.read);
    struct reading r = {.k = k};
    uint64_t room = mlxd_os_memory_available() / 4;
    size_t pieces = (size_t)MLXD_MIN((uint64_t)REGION_BYTES, room) / PIECE_BYTES;
    double best = 0;
    r.region = pieces > 0 ? mlxd_mem_map(pieces * PIECE_BYTES) : NULL;
    if (!r.region)
        return 0;
    mlxd_pool_run(pool, pieces, fill_task, &r);
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t t0 = mlxd_clock_now_ns();
        mlxd_pool_run(pool, pieces, read_task, &r);
        double speed = per_second((double)(pieces * PIECE_BYTES), mlxd_clock_now_ns() - t0);
        best = MLXD_MAX(best, speed);
    }
    mlxd_mem_unmap(r.region, pieces * PIECE_BYTES);
    return best;
}

/* ---- multiplying ---- */

struct multiplying {
    const mlxd_kernels *k;
    uint64_t rounds; /* of a piece */
    _Atomic uint64_t operations;
};

static void multiply_task(void *ctx, size_t task, unsigned thread) {
    struct multiplying *m = ctx;
    (void)task;
    (void)thread;
    atomic_fetch_add(&m->operations, m->k->probe.int8(m->rounds));
}

double mlxd_roof_int8(const mlxd_kernels *k, mlxd_pool *pool) {
    MLXD_ASSERT(k->probe.int8);
    struct multiplying m = {.k = k, .rounds = 64};
    double best = 0;
    for (uint64_t ns = 0; ns < PIECE_NS; m.rounds *= 2) {
        uint64_t t0 = mlxd_clock_now_ns();
        (void)k->probe.int8(m.rounds);
        ns = mlxd_clock_now_ns() - t0;
    }
    for (int pass = 0; pass < PASSES; pass++) {
        atomic_store(&m.operations, 0);
        uint64_t t0 = mlxd_clock_now_ns();
        mlxd_pool_run(pool, (size_t)mlxd_pool_threads(pool) * PIECES_PER_THREAD, multiply_task, &m);
        uint64_t ns = mlxd_clock_now_ns() - t0;
        best = MLXD_MAX(best, per_second((double)atomic_load(&m.operations), ns));
    }
    return best;
}
