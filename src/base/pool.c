/* pool.c - the compute pool of thread.h.
 *
 * A run is published as one 64-bit word: generation (high 32 bits) and tasks left (low 32
 * bits). A thread takes a task by compare-and-swap on the whole word, so a helper that wakes late
 * can never take a task of another run. The caller takes tasks too and then waits until `done`
 * reaches the number of tasks. Helpers look for a new generation for a few microseconds, then park
 * on a condition variable; a run wakes them only if any is parked.
 */
#include "base/thread.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#define SPIN_ROUNDS 2000

struct helper {
    mlxd_pool *pool;
    unsigned index;
    mlxd_thread thread;
    bool started;
};

struct mlxd_pool {
    unsigned threads;
    _Atomic uint64_t ticket; /* generation << 32 | tasks left */
    _Atomic uint32_t done;
    _Atomic unsigned parked;
    _Atomic bool stop;
    mlxd_pool_fn fn;
    void *ctx;
    uint32_t tasks; /* of the current run */
    uint32_t generation;
    mlxd_mutex lock;
    mlxd_cond wake;
    struct helper *helpers; /* threads - 1 */
};

static void relax(void) {
#if defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes and runs tasks of `generation` until none is left. */
static void work(mlxd_pool *p, uint32_t generation, unsigned thread) {
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    while ((uint32_t)(t >> 32) == generation) {
        uint32_t left = (uint32_t)t;
        if (left == 0)
            return;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        /* The run cannot end before this task does, so fn, ctx and tasks are this run's. */
        p->fn(p->ctx, p->tasks - left, thread);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

/* Sequentially consistent: see the store of the ticket in mlxd_pool_run. */
static uint32_t current(mlxd_pool *p) {
    return (uint32_t)(atomic_load(&p->ticket) >> 32);
}

/* Waits for a generation other than `seen`; false when the pool stops. */
static bool next_generation(mlxd_pool *p, uint32_t *seen) {
    for (unsigned i = 0; i < SPIN_ROUNDS; i++) {
        if (current(p) != *seen) {
            *seen = current(p);
            return true;
        }
        relax();
    }
    mlxd_mutex_lock(&p->lock);
    atomic_fetch_add(&p->parked, 1);
    while (current(p) == *seen && !atomic_load(&p->stop))
        mlxd_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->parked, 1);
    mlxd_mutex_unlock(&p->lock);
    *seen = current(p);
    return !atomic_load(&p->stop);
}

static void helper_main(void *arg) {
    struct helper *h = arg;
    uint32_t seen = 0;
    mlxd_os_fpu_init();
    while (next_generation(h->pool, &seen))
        work(h->pool, seen, h->index);
}

mlxd_pool *mlxd_pool_open(unsigned threads) {
    MLXD_ASSERT(threads >= 1 && threads <= MLXD_LIMIT_THREADS);
    mlxd_pool *p = mlxd_mem_new(1, sizeof *p);
    if (!p)
        return NULL;
    p->threads = threads;
    mlxd_mutex_init(&p->lock);
    mlxd_cond_init(&p->wake);
    p->helpers = mlxd_mem_new(threads, sizeof *p->helpers);
    bool ok = p->helpers != NULL;
    for (unsigned i = 0; ok && i + 1 < threads; i++) {
        struct helper *h = &p->helpers[i];
        *h = (struct helper){.pool = p, .index = i + 1};
        char name[16];
        snprintf(name, sizeof name, "compute%u", i + 1);
        ok = mlxd_thread_start(&h->thread, name, MLXD_PRIORITY_COMPUTE, helper_main, h) == MLXD_OK;
        h->started = ok;
    }
    if (!ok) {
        mlxd_pool_close(p);
        return NULL;
    }
    return p;
}

void mlxd_pool_close(mlxd_pool *p) {
    if (!p)
        return;
    mlxd_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    mlxd_cond_broadcast(&p->wake);
    mlxd_mutex_unlock(&p->lock);
    for (unsigned i = 0; p->helpers && i + 1 < p->threads; i++)
        if (p->helpers[i].started)
            mlxd_thread_join(&p->helpers[i].thread);
    mlxd_mem_free(p->helpers);
    mlxd_cond_deinit(&p->wake);
    mlxd_mutex_deinit(&p->lock);
    mlxd_mem_free(p);
}

unsigned mlxd_pool_threads(const mlxd_pool *p) {
    return p->threads;
}

void mlxd_pool_run(mlxd_pool *p, size_t tasks, mlxd_pool_fn fn, void *ctx) {
    MLXD_ASSERT(tasks <= UINT32_MAX);
    if (p->threads == 1 || tasks <= 1) {
        for (size_t i = 0; i < tasks; i++)
            fn(ctx, i, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->tasks = (uint32_t)tasks;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    p->generation++;
    /* Sequentially consistent with `parked`: either the helper sees the new ticket or we see it
     * parked. */
    atomic_store(&p->ticket, (uint64_t)p->generation << 32 | tasks);
    if (atomic_load(&p->parked) > 0) {
        mlxd_mutex_lock(&p->lock);
        mlxd_cond_broadcast(&p->wake);
        mlxd_mutex_unlock(&p->lock);
    }
    work(p, p->generation, 0);
    for (unsigned i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < tasks; i++) {
        relax();
        if (i % 1024 == 1023)
            sched_yield();
    }
}
