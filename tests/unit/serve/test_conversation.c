/* test_conversation.c - requests that continue others: what is in the KV cache is not computed
 * again, the answer is the same to the last bit, and what is kept goes when others need its place.
 * The engine on its thread, a real model in two stages; what happened is replayed.
 */
#include "../../support/model_file.h"

#include "backend/cpu.h"
#include "serve/engine_loop.h"
#include "serve/host.h"
#include "serve/trace.h"

#include <time.h>

#define MODEL MLXD_GOLDEN "/tiny-q4_0.gguf" /* 5 layers */
#define CONTEXT 300
#define PAGES 5 /* one whole context, 64 positions a page */
#define STAGES 2

struct rig {
    mlxd_host host;
    mlxd_cpu *cpus[STAGES];
    mlxd_loop *loop;
    const char *trace;
};

struct turn {
    mlxd_request *r;
    mlxd_mutex lock;
    mlxd_cond changed;
    unsigned tokens;
    bool ended;
    mlxd_err err;
    mlxd_why why;
    char digest[MLXD_SHA256_HEX];
};

static int32_t text[CONTEXT];

static void open_rig(struct rig *g) {
    mlxd_host_params h = {.path = MODEL, .threads = 1, .text = true, .head = true};
    mlxd_why why = {0};
    random_state rng = random_open("conversation");
    for (size_t i = 0; i < CONTEXT; i++)
        text[i] = (int32_t)random_below(&rng, 320);
    *g = (struct rig){.trace = model_file_path("trace.json")};
    model_file_check(mlxd_host_open(&g->host, &h, &why), &why);
    for (uint32_t i = 0; i < STAGES; i++) {
        mlxd_cpu_params p = {.driver = g->host.driver,
                             .layers = {.checkpoint = g->host.checkpoint,
                                        .config = &g->host.config,
                                        .kernels = g->host.kernels,
                                        .first = 2 * i,
                                        .end = i ? 5 : 2,
                                        .positions = CONTEXT,
                                        .tokens_max = 24},
                             .kv_pages = PAGES,
                             .device = "mini1"};
        model_file_check(mlxd_cpu_open(&g->cpus[i], &p, &why), &why);
    }
    mlxd_loop_params l = {.engine = {.width = g->host.config.hidden,
                                     .prefill_chunk = 16,
                                     .step_tokens = 24,
                                     .sessions_max = 2,
                                     .queue_max = 4},
                          .head = g->host.head,
                          .clock = mlxd_clock_real(),
                          .trace_path = g->trace};
    model_file_check(mlxd_loop_open(&g->loop, &l, &why), &why);
    mlxd_pipeline p = {.epoch = 1, .n_stages = STAGES, .context = CONTEXT, .kv_pages = PAGES};
    for (uint32_t i = 0; i < STAGES; i++)
        p.stages[i] = mlxd_cpu_stage(g->cpus[i]);
    mlxd_loop_set_pipeline(g->loop, &p);
}

static void close_rig(struct rig *g) {
    mlxd_why why = {0};
    mlxd_loop_close(g->loop);
    mlxd_driver_flush(g->host.driver);
    for (uint32_t i = 0; i < STAGES; i++) {
        mlxd_cpu_stats s;
        mlxd_cpu_stats_get(g->cpus[i], &s);
        assert_int_equal(s.sessions, 0); /* also what was kept */
        mlxd_cpu_close(g->cpus[i]);
    }
    mlxd_host_close(&g->host);
    mlxd_buf trace = golden_read(g->trace);
    model_file_check(mlxd_trace_replay((mlxd_slice){trace.data, trace.len}, &why), &why);
    mlxd_buf_deinit(&trace);
}

/* Tokens computed by a stage so far. */
static uint64_t computed(struct rig *g) {
    mlxd_cpu_stats s;
    mlxd_cpu_stats_get(g->cpus[1], &s);
    return s.tokens;
}

static void on_token(void *ctx, mlxd_request *r) {
    struct turn *t = ctx;
    mlxd_mutex_lock(&t->lock);
    t->tokens = mlxd_generation_tokens(r->generation);
    mlxd_cond_broadcast(&t->changed);
    mlxd_mutex_unlock(&t->lock);
}

static void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    struct turn *t = ctx;
    mlxd_mutex_lock(&t->lock);
    t->ended = true;
    t->err = err;
    t->why = *why;
    (void)mlxd_generation_digest(r->generation, t->digest);
    mlxd_cond_broadcast(&t->changed);
    mlxd_mutex_unlock(&t->lock);
}

/* Gives the first `n` tokens of the text. `before`: NULL, or the turn that it continues. */
static void start(struct rig *g, struct turn *t, uint32_t n, uint32_t max_tokens, bool keep,
                  const struct turn *before) {
    mlxd_generation_params p = {.max_tokens = max_tokens, .ignore_end = true};
    mlxd_generation *generation;
    mlxd_why why = {0};
    *t = (struct turn){0};
    mlxd_mutex_init(&t->lock);
    mlxd_cond_init(&t->changed);
    mlxd_sampling_init(&p.sampling);
    p.sampling.digest = true;
    p.sampling.temperature = 0;
    model_file_check(mlxd_generation_open(&generation, &p, g->host.tokenizer, g->host.config.vocab,
                                          text, n, &why),
                     &why);
    t->r = mlxd_request_open(text, n, max_tokens, generation,
                             (mlxd_request_sink){on_token, on_end, t});
    assert_non_null(t->r);
    t->r->keep = keep;
    if (before) {
        t->r->continues = before->r->id;
        while (t->r->cached < n && t->r->cached < before->r->n_tokens &&
               text[t->r->cached] == before->r->tokens[t->r->cached])
            t->r->cached++;
    }
    assert_int_equal(mlxd_loop_submit(g->loop, t->r), MLXD_OK);
}

static void wait_end(struct turn *t) {
    mlxd_mutex_lock(&t->lock);
    while (!t->ended)
        mlxd_cond_wait(&t->changed, &t->lock);
    mlxd_mutex_unlock(&t->lock);
}

static void ask(struct rig *g, struct turn *t, uint32_t n, uint32_t max_tokens, bool keep,
                const struct turn *before) {
    start(g, t, n, max_tokens, keep, before);
    wait_end(t);
    if (t->err)
        fail_msg("%s: %s", mlxd_err_name(t->err), t->why.text);
}

static void free_turn(struct turn *t) {
    mlxd_request_close(t->r);
    mlxd_cond_deinit(&t->changed);
    mlxd_mutex_deinit(&t->lock);
}

/* What a turn drew becomes part of the text, as in a conversation. */
static uint32_t take_answer(const struct turn *t) {
    memcpy(text, t->r->tokens, t->r->n_tokens * sizeof *text);
    return t->r->n_tokens;
}

/* ---- tests ---- */

static void only_new_tokens_are_computed(void **state) {
    struct rig g;
    struct turn a, b, c, fresh;
    (void)state;
    open_rig(&g);
    ask(&g, &a, 40, 10, true, NULL);
    assert_int_equal(a.r->n_tokens, 50);
    assert_int_equal(a.r->cached, 0);
    uint32_t n = take_answer(&a) + 20;
    uint64_t before = computed(&g);
    ask(&g, &b, n, 5, true, &a);
    /* 49 of the first turn's 50: the last one was drawn, not computed on. */
    assert_int_equal(b.r->cached, 49);
    assert_int_equal(computed(&g) - before, 21 + 4);
    n = take_answer(&b) + 3;
    ask(&g, &c, n, 5, true, &b);
    assert_int_equal(c.r->cached, 74);
    /* The same as without all that. */
    ask(&g, &fresh, n, 5, false, NULL);
    assert_int_equal(fresh.r->cached, 0);
    assert_string_equal(c.digest, fresh.digest);
    assert_memory_equal(c.r->tokens, fresh.r->tokens, c.r->n_tokens * sizeof *text);
    free_turn(&a);
    free_turn(&b);
    free_turn(&c);
    free_turn(&fresh);
    close_rig(&g);
}

/* Another question behind the same beginning; and the very same question again. */
static void a_beginning_in_common(void **state) {
    struct rig g;
    struct turn a, b, c, fresh;
    (void)state;
    open_rig(&g);
    ask(&g, &a, 100, 10, true, NULL);
    for (size_t i = 70; i < 90; i++)
        text[i] = (text[i] + 1) % 320;
    ask(&g, &b, 90, 10, true, &a);
    assert_int_equal(b.r->cached, 70);
    ask(&g, &c, 90, 10, true, &b);
    assert_int_equal(c.r->cached, 89); /* one token must be computed to draw from */
    ask(&g, &fresh, 90, 10, false, NULL);
    assert_string_equal(b.digest, fresh.digest);
    assert_string_equal(c.digest, fresh.digest);
    free_turn(&a);
    free_turn(&b);
    free_turn(&c);
    free_turn(&fresh);
    close_rig(&g);
}

static void a_cancelled_turn_is_continued(void **state) {
    struct rig g;
    struct turn a, b, fresh;
    (void)state;
    open_rig(&g);
    start(&g, &a, 40, 200, true, NULL);
    mlxd_mutex_lock(&a.lock);
    while (a.tokens < 3)
        mlxd_cond_wait(&a.changed, &a.lock);
    mlxd_mutex_unlock(&a.lock);
    mlxd_loop_cancel(g.loop, a.r->id);
    wait_end(&a);
    assert_int_equal(a.err, MLXD_ERR_CANCELLED);
    uint32_t had = a.r->n_tokens;
    assert_true(had >= 43 && had < 240);
    uint32_t n = MLXD_MIN(take_answer(&a) + 10, CONTEXT - 10);
    ask(&g, &b, n, 5, true, &a);
    assert_int_equal(b.r->cached, had - 1);
    ask(&g, &fresh, n, 5, false, NULL);
    assert_string_equal(b.digest, fresh.digest);
    free_turn(&a);
    free_turn(&b);
    free_turn(&fresh);
    close_rig(&g);
}

/* What is kept is only a cache: it goes for a request that needs its pages, or its slot. */
static void others_come_first(void **state) {
    struct rig g;
    struct turn a, b, c, d, e;
    mlxd_engine_stats s = {.running = 1};
    (void)state;
    open_rig(&g);
    ask(&g, &a, 100, 10, true, NULL);  /* 2 pages */
    ask(&g, &b, 250, 10, false, NULL); /* 5: all of them */
    ask(&g, &c, 100, 10, true, &a);
    assert_int_equal(c.r->cached, 0); /* a is gone */
    assert_string_equal(c.digest, a.digest);
    ask(&g, &d, 10, 10, true, NULL); /* the second slot, and then no third */
    ask(&g, &e, 10, 10, false, NULL);
    for (int i = 0; i < 10000 && s.running > 0; i++) {
        nanosleep(&(struct timespec){0, 100000}, NULL); /* the snapshot follows the end */
        mlxd_loop_stats(g.loop, &s);
    }
    assert_int_equal(s.running, 0);
    assert_int_equal(s.kv_pages_reserved, 1); /* d's; c had to go */
    free_turn(&a);
    free_turn(&b);
    free_turn(&c);
    free_turn(&d);
    free_turn(&e);
    close_rig(&g);
}

/* Once continued, the older turn is no longer there to be continued. */
static void a_turn_is_continued_once(void **state) {
    struct rig g;
    struct turn a, b, c;
    (void)state;
    open_rig(&g);
    ask(&g, &a, 100, 10, true, NULL);
    ask(&g, &b, 100, 10, true, &a);
    ask(&g, &c, 100, 10, true, &a);
    assert_int_equal(b.r->cached, 99);
    assert_int_equal(c.r->cached, 0);
    assert_string_equal(c.digest, a.digest);
    free_turn(&a);
    free_turn(&b);
    free_turn(&c);
    close_rig(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_new_tokens_are_computed),  cmocka_unit_test(a_beginning_in_common),
        cmocka_unit_test(a_cancelled_turn_is_continued), cmocka_unit_test(others_come_first),
        cmocka_unit_test(a_turn_is_continued_once),
    };
    return cmocka_run_group_tests(tests, model_file_set_up, model_file_tear_down);
}
