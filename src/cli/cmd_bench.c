/* cmd_bench.c - `mlxd bench`: which tests, in which order, and the machine's limits around them.
 *
 * For each number of threads: limits, test, limits, test, ... A row takes the better ones of those
 * before and after its test; after a short test those before it still hold. The region that is read
 * for them is mapped only meanwhile, so that the memory of a test can be told: its peak is that of
 * loading, or what is resident after a test, for nothing is freed in between.
 *
 * Everything runs on a driver thread, as it does in a server.
 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/os.h"
#include "cli/bench_report.h"
#include "cli/progress.h"
#include "model/roof.h"
#include "serve/host.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define LIMITS_HOLD_NS (2 * MLXD_NS_PER_S)

struct bench {
    const mlxd_options *o;
    mlxd_host host;
    mlxd_bench *bench;
    mlxd_bench_test *tests;
    size_t n_tests;
    uint64_t *ns; /* of the repetitions */
    mlxd_bench_report report;
    mlxd_bar bar;
    double read_per_s, int8_per_s; /* limits as measured last */
    uint64_t limits_ns;            /* when that was */
    uint64_t rss_peak;
};

static volatile sig_atomic_t interrupted, running;

/* While nothing was measured there is nothing to print. */
static void on_interrupt(int sig) {
    (void)sig;
    if (!running)
        _exit(130);
    interrupted = 1;
}

static bool was_interrupted(void *ctx) {
    (void)ctx;
    return interrupted;
}

/* ---- tests ---- */

/* Prompts and generations at each depth; only generations have a batch. Zero stands for no test. */
static mlxd_err list_tests(struct bench *b, mlxd_why *why) {
    const mlxd_options *o = b->o;
    const mlxd_option_numbers *p = &o->prompt_lengths, *n = &o->gen_lengths;
    size_t most = o->depths.count * (p->count + o->batches.count * n->count);
    b->tests = mlxd_mem_new(most, sizeof *b->tests);
    b->ns = mlxd_mem_new(o->repetitions, sizeof *b->ns);
    if (!b->tests || !b->ns)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t d = 0; d < o->depths.count; d++) {
        mlxd_bench_test t = {.depth = (uint32_t)o->depths.items[d], .batch = 1};
        for (size_t i = 0; i < p->count; i++) {
            t.n_prompt = (uint32_t)p->items[i];
            if (t.n_prompt)
                b->tests[b->n_tests++] = t;
        }
        t.n_prompt = 0;
        for (size_t i = 0; i < o->batches.count * n->count; i++) {
            t.batch = (uint32_t)o->batches.items[i / n->count];
            t.n_gen = (uint32_t)n->items[i % n->count];
            if (t.n_gen)
                b->tests[b->n_tests++] = t;
        }
    }
    MLXD_ASSERT(b->n_tests <= most);
    if (b->n_tests == 0)
        return mlxd_fail(why, MLXD_ERR_USAGE, "nothing to measure: -p and -n are 0");
    return MLXD_OK;
}

static unsigned threads_of(uint64_t option) {
    unsigned all = MLXD_MIN(mlxd_os_cpus(), (unsigned)MLXD_LIMIT_THREADS);
    return option ? (unsigned)option : all;
}

/* ---- loading ---- */

struct load {
    struct bench *b;
    mlxd_err err;
    mlxd_why *why;
};

static void load_job(mlxd_pool *pool, void *a, void *unused) {
    struct load *l = a;
    struct bench *b = l->b;
    mlxd_progress progress = mlxd_bar_progress(&b->bar);
    (void)unused;
    mlxd_bench_params p = {.checkpoint = b->host.checkpoint,
                           .config = &b->host.config,
                           .kernels = b->host.kernels,
                           .tests = b->tests,
                           .n_tests = b->n_tests,
                           .chunk = (uint32_t)b->o->prefill_chunk,
                           .pool = pool,
                           .progress = &progress};
    l->err = mlxd_bench_open(&b->bench, &p, l->why);
}

/* Loads with as many threads as any test has. */
static mlxd_err load(struct bench *b, mlxd_why *why) {
    const mlxd_options *o = b->o;
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_host_params p = {.path = o->model, .cpu = o->cpu, .pin = o->pin};
    for (size_t i = 0; i < o->thread_counts.count; i++)
        p.threads = MLXD_MAX(p.threads, threads_of(o->thread_counts.items[i]));
    if (!o->model[0])
        return mlxd_fail(why, MLXD_ERR_USAGE, "no model: give -m FILE");
    mlxd_bar_init(&b->bar, "loading model", o->quiet);
    mlxd_err err = mlxd_host_open(&b->host, &p, why);
    if (err)
        return err;
    struct load l = {b, MLXD_OK, why};
    mlxd_driver_run(b->host.driver, (mlxd_job){load_job, &l, NULL});
    mlxd_bar_clear(&b->bar);
    b->report.load_ms = (double)(mlxd_clock_now_ns() - t0) / 1e6;
    b->rss_peak = mlxd_os_rss_peak();
    return l.err;
}

/* ---- measuring ---- */

static void limits_job(mlxd_pool *pool, void *a, void *unused) {
    struct bench *b = a;
    (void)unused;
    b->read_per_s = mlxd_roof_read(b->host.kernels, pool);
    b->int8_per_s = mlxd_roof_int8(b->host.kernels, pool);
    b->limits_ns = mlxd_clock_now_ns();
}

struct repetition {
    struct bench *b;
    const mlxd_bench_test *test;
    uint64_t ns;
    mlxd_err err;
    mlxd_why *why;
};

static void repetition_job(mlxd_pool *pool, void *a, void *unused) {
    struct repetition *r = a;
    const mlxd_abort abort = {was_interrupted, NULL};
    (void)unused;
    r->err = mlxd_bench_run(r->b->bench, pool, r->test, &abort, &r->ns, r->why);
}

/* All repetitions of a test and the limits after it. */
static mlxd_err run_test(struct bench *b, mlxd_driver *d, const mlxd_bench_test *t, mlxd_why *why) {
    const mlxd_options *o = b->o;
    char name[MLXD_BENCH_NAME], text[128];
    struct repetition r = {.b = b, .test = t, .why = why};
    mlxd_bench_row row = {.test = t,
                          .threads = mlxd_driver_threads(d),
                          .wall_ns = mlxd_clock_wall_ns(),
                          .ns = b->ns,
                          .n = (size_t)o->repetitions,
                          .read_per_s = b->read_per_s,
                          .int8_per_s = b->int8_per_s};
    mlxd_bench_report_name(t, name);
    for (size_t i = o->no_warmup ? 1 : 0; i <= row.n; i++) {
        snprintf(text, sizeof text, "%s, %u thread%s: %zu / %zu", name, row.threads,
                 row.threads == 1 ? "" : "s", i, row.n);
        mlxd_bar_text(&b->bar, text);
        mlxd_driver_run(d, (mlxd_job){repetition_job, &r, NULL});
        if (r.err)
            return r.err;
        if (i > 0)
            b->ns[i - 1] = r.ns;
    }
    b->rss_peak = MLXD_MAX(b->rss_peak, mlxd_os_rss());
    if (mlxd_clock_now_ns() - b->limits_ns >= LIMITS_HOLD_NS)
        mlxd_driver_run(d, (mlxd_job){limits_job, b, NULL});
    mlxd_bar_clear(&b->bar);
    if (interrupted)
        return MLXD_ERR_CANCELLED;
    row.read_per_s = MLXD_MAX(row.read_per_s, b->read_per_s);
    row.int8_per_s = MLXD_MAX(row.int8_per_s, b->int8_per_s);
    row.rss_peak = b->rss_peak;
    return mlxd_bench_report_row(&b->report, &row, why);
}

static mlxd_err run_tests(struct bench *b, unsigned threads, mlxd_why *why) {
    mlxd_driver *d;
    mlxd_err err = mlxd_driver_open(&d, threads, why);
    if (err)
        return err;
    if (b->o->pin)
        err = mlxd_driver_pin(d, why);
    mlxd_driver_run(d, (mlxd_job){limits_job, b, NULL});
    for (size_t i = 0; i < b->n_tests && !err; i++)
        err = interrupted ? MLXD_ERR_CANCELLED : run_test(b, d, &b->tests[i], why);
    mlxd_bar_clear(&b->bar);
    mlxd_driver_close(d);
    return err;
}

static mlxd_err run_all(struct bench *b, mlxd_why *why) {
    const mlxd_options *o = b->o;
    mlxd_err err = MLXD_OK;
    b->report.form = o->json ? MLXD_BENCH_JSON : o->csv ? MLXD_BENCH_CSV : MLXD_BENCH_MARKDOWN;
    b->report.path = o->model;
    b->report.arch = b->host.config.arch;
    b->report.isa = b->host.kernels->isa;
    b->report.model = mlxd_bench_get_model(b->bench);
    b->report.chunk = (uint32_t)o->prefill_chunk;
    mlxd_bench_report_begin(&b->report);
    running = 1;
    for (size_t i = 0; i < o->thread_counts.count && !err; i++)
        err = run_tests(b, threads_of(o->thread_counts.items[i]), why);
    mlxd_why print_why = {0};
    mlxd_err print_err = mlxd_bench_report_end(&b->report, &print_why);
    if (!err && print_err) {
        err = print_err;
        *why = print_why;
    }
    return err;
}

int mlxd_cmd_bench(const mlxd_options *o) {
    struct bench b = {.o = o};
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err && o->json && o->csv)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "--json and --csv exclude each other");
    if (!err)
        err = list_tests(&b, &why);
    /* The second one ends the process at once. */
    struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (!err)
        err = load(&b, &why);
    if (!err)
        err = run_all(&b, &why);
    mlxd_bench_close(b.bench);
    mlxd_host_close(&b.host);
    mlxd_mem_free(b.ns);
    mlxd_mem_free(b.tests);
    if (err == MLXD_ERR_CANCELLED)
        return 130;
    return err ? mlxd_cli_fail(err, &why) : 0;
}
