/* thread.c - mutex, condition, thread and queue of thread.h over pthreads. */
#include "base/thread.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void mlxd_mutex_init(mlxd_mutex *m) {
    MLXD_ASSERT(pthread_mutex_init(m, NULL) == 0);
}

void mlxd_mutex_deinit(mlxd_mutex *m) {
    MLXD_ASSERT(pthread_mutex_destroy(m) == 0);
}

void mlxd_mutex_lock(mlxd_mutex *m) {
    MLXD_ASSERT(pthread_mutex_lock(m) == 0);
}

void mlxd_mutex_unlock(mlxd_mutex *m) {
    MLXD_ASSERT(pthread_mutex_unlock(m) == 0);
}

void mlxd_cond_init(mlxd_cond *c) {
    pthread_condattr_t attr;
    MLXD_ASSERT(pthread_condattr_init(&attr) == 0);
#ifndef __APPLE__ /* macOS has no monotonic condition; mlxd_cond_wait_until waits relatively */
    MLXD_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
#endif
    MLXD_ASSERT(pthread_cond_init(c, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

void mlxd_cond_deinit(mlxd_cond *c) {
    MLXD_ASSERT(pthread_cond_destroy(c) == 0);
}

void mlxd_cond_wait(mlxd_cond *c, mlxd_mutex *m) {
    MLXD_ASSERT(pthread_cond_wait(c, m) == 0);
}

static struct timespec to_timespec(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / MLXD_NS_PER_S),
                             .tv_nsec = (long)(ns % MLXD_NS_PER_S)};
}

bool mlxd_cond_wait_until(mlxd_cond *c, mlxd_mutex *m, uint64_t deadline_ns) {
    if (deadline_ns == UINT64_MAX) {
        mlxd_cond_wait(c, m);
        return true;
    }
#ifdef __APPLE__
    uint64_t now = mlxd_clock_now_ns();
    struct timespec t = to_timespec(deadline_ns > now ? deadline_ns - now : 0);
    int rc = pthread_cond_timedwait_relative_np(c, m, &t);
#else
    struct timespec t = to_timespec(deadline_ns);
    int rc = pthread_cond_timedwait(c, m, &t);
#endif
    MLXD_ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

void mlxd_cond_signal(mlxd_cond *c) {
    MLXD_ASSERT(pthread_cond_signal(c) == 0);
}

void mlxd_cond_broadcast(mlxd_cond *c) {
    MLXD_ASSERT(pthread_cond_broadcast(c) == 0);
}

/* ---- threads ---- */

static void *thread_main(void *p) {
    mlxd_thread *t = p;
    mlxd_os_thread_class(t->name, t->priority);
    t->fn(t->arg);
    return NULL;
}

mlxd_err mlxd_thread_start(mlxd_thread *t, const char *name, mlxd_os_priority priority,
                           void (*fn)(void *arg), void *arg) {
    *t = (mlxd_thread){.fn = fn, .arg = arg, .priority = priority};
    snprintf(t->name, sizeof t->name, "%s", name);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&t->id, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc == 0 ? MLXD_OK : MLXD_ERR_NOMEM;
}

void mlxd_thread_join(mlxd_thread *t) {
    MLXD_ASSERT(pthread_join(t->id, NULL) == 0);
}

/* ---- queue: a ring under one mutex ---- */

struct mlxd_queue {
    mlxd_mutex lock;
    mlxd_cond not_empty, not_full;
    size_t item_size, items_max;
    size_t head, len; /* oldest item, number of items */
    bool shut;
    uint8_t *ring;
};

mlxd_queue *mlxd_queue_open(size_t item_size, size_t items_max) {
    MLXD_ASSERT(item_size > 0 && items_max > 0);
    mlxd_queue *q = mlxd_mem_new(1, sizeof *q);
    if (!q)
        return NULL;
    q->ring = mlxd_mem_new(items_max, item_size);
    if (!q->ring) {
        mlxd_mem_free(q);
        return NULL;
    }
    q->item_size = item_size;
    q->items_max = items_max;
    mlxd_mutex_init(&q->lock);
    mlxd_cond_init(&q->not_empty);
    mlxd_cond_init(&q->not_full);
    return q;
}

void mlxd_queue_close(mlxd_queue *q) {
    if (!q)
        return;
    mlxd_cond_deinit(&q->not_full);
    mlxd_cond_deinit(&q->not_empty);
    mlxd_mutex_deinit(&q->lock);
    mlxd_mem_free(q->ring);
    mlxd_mem_free(q);
}

static mlxd_err push(mlxd_queue *q, const void *item, bool wait) {
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&q->lock);
    while (wait && !q->shut && q->len == q->items_max)
        mlxd_cond_wait(&q->not_full, &q->lock);
    if (q->shut) {
        err = MLXD_ERR_CANCELLED;
    } else if (q->len == q->items_max) {
        err = MLXD_ERR_FULL;
    } else {
        size_t at = (q->head + q->len) % q->items_max;
        memcpy(q->ring + at * q->item_size, item, q->item_size);
        q->len++;
        mlxd_cond_signal(&q->not_empty);
    }
    mlxd_mutex_unlock(&q->lock);
    return err;
}

mlxd_err mlxd_queue_push(mlxd_queue *q, const void *item) {
    return push(q, item, false);
}

mlxd_err mlxd_queue_push_wait(mlxd_queue *q, const void *item) {
    return push(q, item, true);
}

mlxd_err mlxd_queue_pop(mlxd_queue *q, void *item, uint64_t deadline_ns) {
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&q->lock);
    while (q->len == 0 && !q->shut)
        if (deadline_ns == 0 || !mlxd_cond_wait_until(&q->not_empty, &q->lock, deadline_ns))
            break;
    if (q->len > 0) {
        memcpy(item, q->ring + q->head * q->item_size, q->item_size);
        q->head = (q->head + 1) % q->items_max;
        q->len--;
        mlxd_cond_signal(&q->not_full);
    } else {
        err = q->shut ? MLXD_ERR_CANCELLED : MLXD_ERR_AGAIN;
    }
    mlxd_mutex_unlock(&q->lock);
    return err;
}

void mlxd_queue_shutdown(mlxd_queue *q) {
    mlxd_mutex_lock(&q->lock);
    q->shut = true;
    mlxd_cond_broadcast(&q->not_empty);
    mlxd_cond_broadcast(&q->not_full);
    mlxd_mutex_unlock(&q->lock);
}

size_t mlxd_queue_len(mlxd_queue *q) {
    mlxd_mutex_lock(&q->lock);
    size_t n = q->len;
    mlxd_mutex_unlock(&q->lock);
    return n;
}
