/* driver.c - see driver.h. */
#include "backend/driver.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

#include <stdatomic.h>

#define JOBS_MAX 16384

struct mlxd_driver {
    mlxd_pool *pool;
    mlxd_queue *jobs;
    mlxd_thread thread;
    bool started;
    _Atomic uint64_t busy_ns, done;
};

static void driver_main(void *arg) {
    mlxd_driver *d = arg;
    mlxd_job job;
    mlxd_os_fpu_init();
    while (mlxd_queue_pop(d->jobs, &job, UINT64_MAX) == MLXD_OK) {
        uint64_t t0 = mlxd_clock_now_ns();
        job.fn(d->pool, job.a, job.b);
        atomic_fetch_add(&d->busy_ns, mlxd_clock_now_ns() - t0);
        atomic_fetch_add(&d->done, 1);
    }
}

mlxd_err mlxd_driver_open(mlxd_driver **out, unsigned threads, mlxd_why *why) {
    MLXD_ASSERT(threads >= 1 && threads <= MLXD_LIMIT_THREADS);
    mlxd_driver *d = mlxd_mem_new(1, sizeof *d);
    mlxd_err err = MLXD_ERR_NOMEM;
    if (d) {
        d->pool = mlxd_pool_open(threads);
        d->jobs = mlxd_queue_open(sizeof(mlxd_job), JOBS_MAX);
        if (d->pool && d->jobs)
            err = mlxd_thread_start(&d->thread, "compute0", MLXD_PRIORITY_COMPUTE, driver_main, d);
        d->started = err == MLXD_OK;
    }
    if (err) {
        mlxd_driver_close(d);
        return mlxd_fail(why, err, "cannot start %u compute threads", threads);
    }
    *out = d;
    return MLXD_OK;
}

void mlxd_driver_close(mlxd_driver *d) {
    if (!d)
        return;
    if (d->started) {
        mlxd_queue_shutdown(d->jobs);
        mlxd_thread_join(&d->thread);
    }
    mlxd_queue_close(d->jobs);
    mlxd_pool_close(d->pool);
    mlxd_mem_free(d);
}

void mlxd_driver_post(mlxd_driver *d, mlxd_job job) {
    MLXD_ASSERT(job.fn);
    mlxd_err err = mlxd_queue_push_wait(d->jobs, &job);
    MLXD_ASSERT(err == MLXD_OK); /* posting after close is a programmer error */
}

struct wait {
    mlxd_job job;
    mlxd_mutex lock;
    mlxd_cond cond;
    bool done;
};

static void run_and_signal(mlxd_pool *pool, void *a, void *b) {
    struct wait *w = a;
    (void)b;
    w->job.fn(pool, w->job.a, w->job.b);
    mlxd_mutex_lock(&w->lock);
    w->done = true;
    mlxd_cond_signal(&w->cond);
    mlxd_mutex_unlock(&w->lock);
}

void mlxd_driver_run(mlxd_driver *d, mlxd_job job) {
    struct wait w = {.job = job};
    mlxd_mutex_init(&w.lock);
    mlxd_cond_init(&w.cond);
    mlxd_driver_post(d, (mlxd_job){run_and_signal, &w, NULL});
    mlxd_mutex_lock(&w.lock);
    while (!w.done)
        mlxd_cond_wait(&w.cond, &w.lock);
    mlxd_mutex_unlock(&w.lock);
    mlxd_cond_deinit(&w.cond);
    mlxd_mutex_deinit(&w.lock);
}

static void nothing(mlxd_pool *pool, void *a, void *b) {
    (void)pool;
    (void)a;
    (void)b;
}

void mlxd_driver_flush(mlxd_driver *d) {
    mlxd_driver_run(d, (mlxd_job){nothing, NULL, NULL});
}

static void pin_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_err *err = a;
    (void)b;
    *err = mlxd_pool_pin(pool);
}

mlxd_err mlxd_driver_pin(mlxd_driver *d, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    mlxd_driver_run(d, (mlxd_job){pin_job, &err, NULL});
    if (!err)
        return MLXD_OK;
    return mlxd_fail(why, err, "--pin: %s",
                     err == MLXD_ERR_UNSUPPORTED ? "this system cannot keep a thread on a processor"
                                                 : "the system refused");
}

unsigned mlxd_driver_threads(const mlxd_driver *d) {
    return mlxd_pool_threads(d->pool);
}

uint64_t mlxd_driver_busy_ns(const mlxd_driver *d) {
    return atomic_load(&d->busy_ns);
}

uint64_t mlxd_driver_jobs(const mlxd_driver *d) {
    return atomic_load(&d->done);
}
