/* thread.h - threads, the bounded queue through which they meet, and the compute pool.
 *
 * Threads of mlxd (I/O, engine, compute, heartbeat, background) share nothing but bounded queues;
 * a full queue is back-pressure. The mutexes are inside the objects of this header and of the few
 * modules that hand data between a library's thread and ours; they are `mlxd_mutex`, so that a
 * later check can see them.
 */
#ifndef MLXD_BASE_THREAD_H
#define MLXD_BASE_THREAD_H

#include "base/base.h"
#include "base/os.h"

#include <pthread.h>

typedef pthread_mutex_t mlxd_mutex;
void mlxd_mutex_init(mlxd_mutex *m);
void mlxd_mutex_deinit(mlxd_mutex *m);
void mlxd_mutex_lock(mlxd_mutex *m);
void mlxd_mutex_unlock(mlxd_mutex *m);

/* Condition variable on the monotonic clock. Wait with the mutex held. */
typedef pthread_cond_t mlxd_cond;
void mlxd_cond_init(mlxd_cond *c);
void mlxd_cond_deinit(mlxd_cond *c);
void mlxd_cond_wait(mlxd_cond *c, mlxd_mutex *m);
/* Returns false when `deadline_ns` (mlxd_clock_now_ns) passed. */
bool mlxd_cond_wait_until(mlxd_cond *c, mlxd_mutex *m, uint64_t deadline_ns);
void mlxd_cond_signal(mlxd_cond *c);
void mlxd_cond_broadcast(mlxd_cond *c);

/* Runs fn(arg) on a new thread. `name` (at most 15 bytes) is shown by top and perf. Signals are
 * blocked in it; the main thread waits for them. */
typedef struct mlxd_thread {
    pthread_t id;
    void (*fn)(void *arg);
    void *arg;
    char name[16];
    mlxd_os_priority priority;
} mlxd_thread;
mlxd_err mlxd_thread_start(mlxd_thread *t, const char *name, mlxd_os_priority priority,
                           void (*fn)(void *arg), void *arg) MLXD_MUST_CHECK;
void mlxd_thread_join(mlxd_thread *t);

/* Bounded first-in first-out queue of fixed-size values; any number of threads on both ends. */
typedef struct mlxd_queue mlxd_queue;
mlxd_queue *mlxd_queue_open(size_t item_size, size_t items_max) MLXD_MUST_CHECK;
void mlxd_queue_close(mlxd_queue *q); /* frees; nobody may be inside */
/* Copies *item in. FULL when there is no room, CANCELLED after shutdown. Never blocks. */
mlxd_err mlxd_queue_push(mlxd_queue *q, const void *item) MLXD_MUST_CHECK;
/* Like push, but waits for room. */
mlxd_err mlxd_queue_push_wait(mlxd_queue *q, const void *item) MLXD_MUST_CHECK;
/* Copies the oldest item out. AGAIN when `deadline_ns` passed (0: at once, UINT64_MAX: never),
 * CANCELLED when the queue is shut down and empty. */
mlxd_err mlxd_queue_pop(mlxd_queue *q, void *item, uint64_t deadline_ns) MLXD_MUST_CHECK;
/* No more pushes; poppers drain what is there, then get CANCELLED. */
void mlxd_queue_shutdown(mlxd_queue *q);
size_t mlxd_queue_len(mlxd_queue *q);

/* Compute pool: `threads` threads, the caller of mlxd_pool_run being one of them. Tasks are handed
 * out dynamically; canonical arithmetic never depends on which thread ran what. One run at a time;
 * a single owner thread calls run. Helpers spin briefly between runs, then park. */
typedef struct mlxd_pool mlxd_pool;
typedef void (*mlxd_pool_fn)(void *ctx, size_t task, unsigned thread);
mlxd_pool *mlxd_pool_open(unsigned threads) MLXD_MUST_CHECK; /* 1..MLXD_LIMIT_THREADS */
void mlxd_pool_close(mlxd_pool *p);
unsigned mlxd_pool_threads(const mlxd_pool *p);
/* Keeps each thread of the pool on a processor of its own, as far as there are enough; called by
 * the owner, which becomes the first. See mlxd_os_thread_pin for errors. */
mlxd_err mlxd_pool_pin(mlxd_pool *p) MLXD_MUST_CHECK;
/* Calls fn(ctx, 0..tasks-1, thread), each once, and returns when all are done. Does not
 * allocate. */
void mlxd_pool_run(mlxd_pool *p, size_t tasks, mlxd_pool_fn fn, void *ctx);

#endif
