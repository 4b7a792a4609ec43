/* pool.c - the compute pool of thread.h.
 *
 * A run's tasks are dealt to the threads in equal shares. Each share has a slot on cache lines of
 * its own: one 64-bit word, generation of the run (high 32 bits) and tasks left (low 32 bits), and
 * what to call. A thread takes tasks of its own share by compare-and-swap on the word, which costs
 * next to nothing as long as nobody else does; with nothing left there it helps the others. So a
 * thread that was held up, or has not woken yet, holds up nobody, and one that wakes late can never
 * take a task of another run. Who is done says how many tasks it has run; the caller, which takes
 * tasks too, waits until these are all.
 *
 * A slot's word is also what its thread waits for. It looks for a new generation for some
 * microseconds, then parks on a condition variable; a run wakes the parked ones. The caller looks
 * for parked threads without a fence: it may miss one that is just parking, which then sleeps
 * through that run; hence the first sleep is a short one.
 */
#include "base/thread.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#define SPIN_ROUNDS 2000
#define FIRST_SLEEP_NS MLXD_NS_PER_MS
#define APART 128 /* bytes: neighbouring lines are fetched in pairs */

/* A share of the current run. All but `word` is written by the caller, between runs. */
struct slot {
    _Atomic uint64_t word; /* generation << 32 | tasks left */
    uint32_t end;          /* behind the last task */
    mlxd_pool_fn fn;
    void *ctx;
    char apart[APART];
};

struct helper {
    mlxd_pool *pool;
    unsigned index;
    mlxd_thread thread;
    bool started;
};

struct mlxd_pool {
    unsigned threads;
    uint32_t generation;
    struct slot *slots; /* [threads] */
    mlxd_mutex lock;
    mlxd_cond wake;
    struct helper *helpers; /* threads - 1 */
    _Atomic unsigned parked;
    _Atomic bool stop;
    char apart[APART];
    _Atomic uint32_t done; /* tasks of the current run */
};

static void relax(void) {
#if defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Runs the tasks of one share of run `generation` that are left; returns how many. */
static uint32_t work_on(struct slot *slot, uint32_t generation, unsigned thread) {
    uint64_t t = atomic_load_explicit(&slot->word, memory_order_acquire);
    uint32_t ran = 0;
    for (;;) {
        uint32_t left = (uint32_t)t;
        if ((uint32_t)(t >> 32) != generation || left == 0)
            return ran;
        if (!atomic_compare_exchange_weak_explicit(&slot->word, &t, t - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        /* The run cannot end before this task is counted, so the slot is this run's. */
        slot->fn(slot->ctx, slot->end - left, thread);
        ran++;
        t = atomic_load_explicit(&slot->word, memory_order_acquire);
    }
}

/* Takes part in run `generation`: the thread's own share, then what others have left. */
static void work(mlxd_pool *p, uint32_t generation, unsigned thread) {
    for (unsigned i = 0; i < p->threads; i++) {
        struct slot *slot = &p->slots[(thread + i) % p->threads];
        uint32_t ran = work_on(slot, generation, thread);
        if (ran > 0)
            atomic_fetch_add_explicit(&p->done, ran, memory_order_release);
    }
}

static uint32_t current(const struct slot *slot) {
    return (uint32_t)(atomic_load_explicit(&slot->word, memory_order_acquire) >> 32);
}

static void park(mlxd_pool *p, const struct slot *slot, uint32_t seen) {
    bool again = true;
    mlxd_mutex_lock(&p->lock);
    atomic_fetch_add(&p->parked, 1);
    uint64_t deadline_ns = mlxd_clock_now_ns() + FIRST_SLEEP_NS;
    while (current(slot) == seen && !atomic_load(&p->stop))
        if (again)
            again = mlxd_cond_wait_until(&p->wake, &p->lock, deadline_ns);
        else
            mlxd_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->parked, 1);
    mlxd_mutex_unlock(&p->lock);
}

/* Waits for a generation other than `seen`; false when the pool stops. */
static bool next_generation(mlxd_pool *p, unsigned thread, uint32_t *seen) {
    const struct slot *slot = &p->slots[thread];
    for (unsigned i = 0; i < SPIN_ROUNDS && current(slot) == *seen; i++)
        relax();
    if (current(slot) == *seen)
        park(p, slot, *seen);
    *seen = current(slot);
    return !atomic_load_explicit(&p->stop, memory_order_relaxed);
}

static void helper_main(void *arg) {
    struct helper *h = arg;
    uint32_t seen = 0;
    mlxd_os_fpu_init();
    while (next_generation(h->pool, h->index, &seen))
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
    p->slots = mlxd_mem_new(threads, sizeof *p->slots);
    bool ok = p->helpers && p->slots;
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
    mlxd_mem_free(p->slots);
    mlxd_mem_free(p->helpers);
    mlxd_cond_deinit(&p->wake);
    mlxd_mutex_deinit(&p->lock);
    mlxd_mem_free(p);
}

mlxd_err mlxd_pool_pin(mlxd_pool *p) {
    mlxd_err err = MLXD_OK;
    /* The owner last: the processors that its thread may use are those of the process. */
    for (unsigned i = p->threads; i-- > 0 && !err;)
        err = mlxd_os_thread_pin(i == 0 ? pthread_self() : p->helpers[i - 1].thread.id, i);
    return err;
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
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    p->generation++;
    for (unsigned i = 0; i < p->threads; i++) {
        struct slot *slot = &p->slots[i];
        uint32_t first = (uint32_t)(tasks * i / p->threads);
        slot->end = (uint32_t)(tasks * (i + 1) / p->threads);
        slot->fn = fn;
        slot->ctx = ctx;
        atomic_store_explicit(&slot->word, (uint64_t)p->generation << 32 | (slot->end - first),
                              memory_order_release);
    }
    if (atomic_load_explicit(&p->parked, memory_order_relaxed) > 0) {
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
