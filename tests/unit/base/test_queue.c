/* test_queue.c - the bounded queue: order, limits, deadlines, shutdown, many threads. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void nap_ms(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void first_in_first_out_and_full(void **state) {
    struct item {
        uint64_t n;
        char text[13]; /* an odd size */
    } item = {0}, out;
    (void)state;
    mlxd_queue *q = mlxd_queue_open(sizeof item, 5);
    assert_non_null(q);
    uint64_t in = 0, next = 0;
    for (int round = 0; round < 50; round++) { /* the ring's end passes by at every offset */
        for (int i = 0; i < round % 6; i++) {
            item.n = in;
            mlxd_err err = mlxd_queue_push(q, &item);
            assert_int_equal(err, in - next < 5 ? MLXD_OK : MLXD_ERR_FULL);
            in += !err;
        }
        assert_int_equal(mlxd_queue_len(q), in - next);
        for (int i = 0; i < round % 5; i++) {
            mlxd_err err = mlxd_queue_pop(q, &out, 0);
            assert_int_equal(err, next < in ? MLXD_OK : MLXD_ERR_AGAIN);
            if (!err)
                assert_int_equal(out.n, next++);
        }
    }
    mlxd_queue_close(q);
    mlxd_queue_close(NULL);
}

static void impossible_queues_are_refused(void **state) {
    (void)state;
    assert_null(mlxd_queue_open(SIZE_MAX / 2, 3));
}

static void a_deadline_passes(void **state) {
    int item;
    (void)state;
    mlxd_queue *q = mlxd_queue_open(sizeof item, 1);
    uint64_t t0 = mlxd_clock_now_ns();
    assert_int_equal(mlxd_queue_pop(q, &item, t0 + 20 * MLXD_NS_PER_MS), MLXD_ERR_AGAIN);
    assert_true(mlxd_clock_now_ns() - t0 >= 20 * MLXD_NS_PER_MS);
    t0 = mlxd_clock_now_ns();
    assert_int_equal(mlxd_queue_pop(q, &item, 1), MLXD_ERR_AGAIN); /* long ago */
    item = 7;
    assert_int_equal(mlxd_queue_push(q, &item), MLXD_OK);
    assert_int_equal(mlxd_queue_pop(q, &item, 1), MLXD_OK); /* what is there is had anyway */
    mlxd_queue_close(q);
}

static void shutdown_drains_then_cancels(void **state) {
    int item = 1;
    (void)state;
    mlxd_queue *q = mlxd_queue_open(sizeof item, 3);
    assert_int_equal(mlxd_queue_push(q, &item), MLXD_OK);
    item = 2;
    assert_int_equal(mlxd_queue_push_wait(q, &item), MLXD_OK);
    mlxd_queue_shutdown(q);
    assert_int_equal(mlxd_queue_push(q, &item), MLXD_ERR_CANCELLED);
    assert_int_equal(mlxd_queue_push_wait(q, &item), MLXD_ERR_CANCELLED);
    assert_int_equal(mlxd_queue_pop(q, &item, 0), MLXD_OK);
    assert_int_equal(item, 1);
    assert_int_equal(mlxd_queue_pop(q, &item, UINT64_MAX), MLXD_OK);
    assert_int_equal(item, 2);
    assert_int_equal(mlxd_queue_pop(q, &item, UINT64_MAX), MLXD_ERR_CANCELLED);
    assert_int_equal(mlxd_queue_pop(q, &item, 0), MLXD_ERR_CANCELLED);
    mlxd_queue_shutdown(q);
    mlxd_queue_close(q);
}

/* ---- threads that wait ---- */

struct waiter {
    mlxd_queue *q;
    bool push;
    mlxd_err err;
    mlxd_thread thread;
};

static void wait_main(void *arg) {
    struct waiter *w = arg;
    int item = 9;
    w->err = w->push ? mlxd_queue_push_wait(w->q, &item) : mlxd_queue_pop(w->q, &item, UINT64_MAX);
}

static void start_waiters(struct waiter *w, size_t n, mlxd_queue *q, bool push) {
    for (size_t i = 0; i < n; i++) {
        w[i] = (struct waiter){.q = q, .push = push};
        assert_int_equal(
            mlxd_thread_start(&w[i].thread, "waiter", MLXD_PRIORITY_NORMAL, wait_main, &w[i]),
            MLXD_OK);
    }
    nap_ms(20);
}

static void shutdown_wakes_everybody(void **state) {
    struct waiter poppers[3], pushers[3];
    int item = 0;
    (void)state;
    mlxd_queue *empty = mlxd_queue_open(sizeof item, 1), *full = mlxd_queue_open(sizeof item, 1);
    assert_int_equal(mlxd_queue_push(full, &item), MLXD_OK);
    start_waiters(poppers, 3, empty, false);
    start_waiters(pushers, 3, full, true);
    mlxd_queue_shutdown(empty);
    mlxd_queue_shutdown(full);
    for (int i = 0; i < 3; i++) {
        mlxd_thread_join(&poppers[i].thread);
        mlxd_thread_join(&pushers[i].thread);
        assert_int_equal(poppers[i].err, MLXD_ERR_CANCELLED);
        assert_int_equal(pushers[i].err, MLXD_ERR_CANCELLED);
    }
    assert_int_equal(mlxd_queue_len(full), 1);
    mlxd_queue_close(empty);
    mlxd_queue_close(full);
}

static void waiting_pushers_get_their_turn(void **state) {
    struct waiter pushers[4];
    int item = 0;
    (void)state;
    mlxd_queue *q = mlxd_queue_open(sizeof item, 1);
    assert_int_equal(mlxd_queue_push(q, &item), MLXD_OK);
    start_waiters(pushers, 4, q, true);
    for (int i = 0; i < 5; i++)
        assert_int_equal(mlxd_queue_pop(q, &item, UINT64_MAX), MLXD_OK);
    for (int i = 0; i < 4; i++) {
        mlxd_thread_join(&pushers[i].thread);
        assert_int_equal(pushers[i].err, MLXD_OK);
    }
    assert_int_equal(mlxd_queue_len(q), 0);
    mlxd_queue_close(q);
}

/* ---- many on both ends ---- */

#define PRODUCERS 4
#define CONSUMERS 3
#define ITEMS 5000

struct traffic {
    mlxd_queue *q;
    _Atomic uint32_t producers, seen[PRODUCERS * ITEMS];
};

static void produce(void *arg) {
    struct traffic *t = arg;
    uint32_t first = atomic_fetch_add(&t->producers, 1) * ITEMS;
    for (uint32_t i = first; i < first + ITEMS; i++) {
        mlxd_err err = i % 2 ? mlxd_queue_push(t->q, &i) : MLXD_ERR_FULL;
        if (err == MLXD_ERR_FULL)
            err = mlxd_queue_push_wait(t->q, &i);
        assert_int_equal(err, MLXD_OK);
    }
}

/* Items of one producer come out in its order. */
static void consume(void *arg) {
    struct traffic *t = arg;
    uint32_t item, last[PRODUCERS] = {0};
    for (;;) {
        mlxd_err err = mlxd_queue_pop(t->q, &item, mlxd_clock_now_ns() + 1000000);
        if (err == MLXD_ERR_CANCELLED)
            return;
        if (err)
            continue;
        assert_true(item < PRODUCERS * ITEMS);
        atomic_fetch_add(&t->seen[item], 1);
        assert_true(item % ITEMS == 0 || item % ITEMS > last[item / ITEMS]);
        last[item / ITEMS] = item % ITEMS;
    }
}

static void nothing_is_lost_or_doubled(void **state) {
    static struct traffic t;
    mlxd_thread threads[PRODUCERS + CONSUMERS];
    (void)state;
    t.q = mlxd_queue_open(sizeof(uint32_t), 7);
    for (size_t i = 0; i < MLXD_COUNT_OF(threads); i++)
        assert_int_equal(mlxd_thread_start(&threads[i], "a name that is far too long",
                                           MLXD_PRIORITY_NORMAL, i < PRODUCERS ? produce : consume,
                                           &t),
                         MLXD_OK);
    for (size_t i = 0; i < PRODUCERS; i++)
        mlxd_thread_join(&threads[i]);
    mlxd_queue_shutdown(t.q);
    for (size_t i = PRODUCERS; i < MLXD_COUNT_OF(threads); i++)
        mlxd_thread_join(&threads[i]);
    for (size_t i = 0; i < PRODUCERS * ITEMS; i++)
        assert_int_equal(atomic_load(&t.seen[i]), 1);
    mlxd_queue_close(t.q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out_and_full),
        cmocka_unit_test(impossible_queues_are_refused),
        cmocka_unit_test(a_deadline_passes),
        cmocka_unit_test(shutdown_drains_then_cancels),
        cmocka_unit_test(shutdown_wakes_everybody),
        cmocka_unit_test(waiting_pushers_get_their_turn),
        cmocka_unit_test(nothing_is_lost_or_doubled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
