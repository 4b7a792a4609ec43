/* test_pool.c - the compute pool: every task exactly once, whatever the sizes and how fast runs
 * follow each other. */
#include "../../support/random.h"

#include "base/mem.h"
#include "base/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>

#include <cmocka.h>

struct run {
    unsigned threads;
    size_t tasks;
    _Atomic uint32_t *times; /* each task ran */
    uint64_t *result;        /* written by the task, read by the caller without any lock */
    uint64_t salt;
    bool fpu_ok;
};

static void count_task(void *ctx, size_t task, unsigned thread) {
    struct run *r = ctx;
    if (thread >= r->threads || task >= r->tasks)
        abort();
    if (!mlxd_os_fpu_ok())
        abort();
    atomic_fetch_add_explicit(&r->times[task], 1, memory_order_relaxed);
    r->result[task] = r->salt + task;
}

static void check_run(mlxd_pool *p, struct run *r, size_t tasks, uint64_t salt) {
    r->tasks = tasks;
    r->salt = salt;
    mlxd_pool_run(p, tasks, count_task, r);
    for (size_t i = 0; i < tasks; i++) {
        if (atomic_exchange_explicit(&r->times[i], 0, memory_order_relaxed) != 1)
            fail_msg("%u threads, %zu tasks: task %zu did not run once", r->threads, tasks, i);
        if (r->result[i] != salt + i)
            fail_msg("%u threads, %zu tasks: the result of task %zu is not seen", r->threads, tasks,
                     i);
    }
}

#define TASKS_MAX 5000

static struct run open_run(unsigned threads) {
    struct run r = {.threads = threads};
    r.times = mlxd_mem_new(TASKS_MAX, sizeof *r.times);
    r.result = mlxd_mem_new(TASKS_MAX, sizeof *r.result);
    assert_true(r.times && r.result);
    return r;
}

static void close_run(struct run *r) {
    mlxd_mem_free((void *)r->times);
    mlxd_mem_free(r->result);
}

static void every_task_runs_once(void **state) {
    static const unsigned threads[] = {1, 2, 3, 4, 8, 17};
    random_state rng = random_open("pool");
    (void)state;
    mlxd_os_fpu_init();
    for (size_t t = 0; t < MLXD_COUNT_OF(threads); t++) {
        mlxd_pool *p = mlxd_pool_open(threads[t]);
        struct run r = open_run(threads[t]);
        assert_non_null(p);
        assert_int_equal(mlxd_pool_threads(p), threads[t]);
        for (size_t tasks = 0; tasks < 20; tasks++)
            check_run(p, &r, tasks, random_u64(&rng));
        for (int i = 0; i < 30; i++)
            check_run(p, &r, random_below(&rng, TASKS_MAX), random_u64(&rng));
        close_run(&r);
        mlxd_pool_close(p);
    }
    mlxd_pool_close(NULL);
}

/* Runs of a few tasks directly after each other: helpers that wake late meet the next run. */
static void tiny_runs_back_to_back(void **state) {
    static const unsigned threads[] = {2, 3, 5};
    random_state rng = random_open("tiny runs");
    (void)state;
    mlxd_os_fpu_init();
    for (size_t t = 0; t < MLXD_COUNT_OF(threads); t++) {
        mlxd_pool *p = mlxd_pool_open(threads[t]);
        struct run r = open_run(threads[t]);
        for (int i = 0; i < 4000; i++)
            check_run(p, &r, 1 + random_below(&rng, 6), (uint64_t)i << 20);
        close_run(&r);
        mlxd_pool_close(p);
    }
}

/* Between these runs the helpers have parked. */
static void runs_after_a_pause(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    mlxd_pool *p = mlxd_pool_open(3);
    struct run r = open_run(3);
    for (int i = 0; i < 30; i++) {
        struct timespec pause = {.tv_nsec = i % 3 * 500000};
        nanosleep(&pause, NULL);
        check_run(p, &r, 2 + (size_t)i, (uint64_t)i << 20);
    }
    close_run(&r);
    mlxd_pool_close(p);
}

static void helper_task(void *ctx, size_t task, unsigned thread) {
    _Atomic unsigned *seen = ctx;
    (void)task;
    atomic_fetch_or(seen, 1u << thread);
    struct timespec pause = {.tv_nsec = 2000000};
    nanosleep(&pause, NULL);
}

static void helpers_do_help(void **state) {
    _Atomic unsigned seen = 0;
    (void)state;
    mlxd_pool *p = mlxd_pool_open(4);
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL); /* all are parked */
    for (int i = 0; i < 100 && atomic_load(&seen) != 15; i++)
        mlxd_pool_run(p, 16, helper_task, (void *)&seen);
    assert_int_equal(atomic_load(&seen), 15);
    mlxd_pool_close(p);
}

static void open_and_close_at_once(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    struct run r = open_run(4);
    for (int i = 0; i < 100; i++) {
        mlxd_pool *p = mlxd_pool_open(4);
        assert_non_null(p);
        if (i % 2)
            check_run(p, &r, 3, (uint64_t)i);
        mlxd_pool_close(p);
    }
    close_run(&r);
}

static void a_run_does_not_allocate(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    mlxd_pool *p = mlxd_pool_open(2);
    struct run r = open_run(2);
    uint64_t before = mlxd_mem_count();
    for (int i = 0; i < 100; i++)
        check_run(p, &r, 50, (uint64_t)i);
    assert_int_equal(mlxd_mem_count(), before);
    close_run(&r);
    mlxd_pool_close(p);
}

struct pinning {
    mlxd_err err;
    unsigned before, after;
};

static void pin_on_a_thread(void *arg) {
    struct pinning *p = arg;
    mlxd_os_fpu_init();
    mlxd_pool *pool = mlxd_pool_open(3); /* more than there may be processors */
    struct run r = open_run(3);
    p->before = mlxd_os_cpus();
    p->err = mlxd_pool_pin(pool);
    p->after = mlxd_os_cpus();
    check_run(pool, &r, 100, 7);
    close_run(&r);
    mlxd_pool_close(pool);
}

/* The plan asks how many processors there are from a compute thread, which may have been pinned. */
static void pinning_keeps_the_count_of_processors(void **state) {
    struct pinning p = {MLXD_OK, 0, 0};
    mlxd_thread thread;
    (void)state;
    assert_int_equal(mlxd_thread_start(&thread, "owner", MLXD_PRIORITY_NORMAL, pin_on_a_thread, &p),
                     MLXD_OK);
    mlxd_thread_join(&thread);
    assert_true(p.err == MLXD_OK || p.err == MLXD_ERR_UNSUPPORTED);
    assert_int_equal(p.before, p.after);
    assert_int_equal(p.before, mlxd_os_cpus());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(tiny_runs_back_to_back),
        cmocka_unit_test(runs_after_a_pause),
        cmocka_unit_test(helpers_do_help),
        cmocka_unit_test(open_and_close_at_once),
        cmocka_unit_test(a_run_does_not_allocate),
        cmocka_unit_test(pinning_keeps_the_count_of_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
