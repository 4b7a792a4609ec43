/* test_engine_loop.c - the engine on its thread, with a real model in several stages: an answer is
 * the same to the last bit however the work is cut and shared; requests may come, go and be
 * cancelled from any thread while pipelines change; what happened can be replayed. */
#include "../../support/model_file.h"

#include "backend/cpu.h"
#include "serve/engine_loop.h"
#include "serve/host.h"
#include "serve/timings.h"
#include "serve/trace.h"

#include <stdatomic.h>
#include <time.h>

#define MODEL MLXD_GOLDEN "/tiny-q4_0.gguf" /* 5 layers */
#define CONTEXT 300
#define PAGES 40
#define STAGES_MAX 3

/* ---- the rig: host, stages, loop ---- */

struct rig {
    mlxd_host host;
    mlxd_cpu *cpus[STAGES_MAX];
    uint32_t n_stages;
    uint64_t epoch;
    mlxd_loop *loop;
    const char *trace;
};

struct setup {
    unsigned threads;
    uint32_t stages, chunk;
    bool trace;
};

static void set_pipeline(struct rig *g, bool up) {
    mlxd_pipeline p = {.epoch = ++g->epoch, .context = CONTEXT, .kv_pages = PAGES};
    mlxd_why why = {0};
    if (up) {
        p.n_stages = g->n_stages;
        for (uint32_t i = 0; i < g->n_stages; i++)
            p.stages[i] = mlxd_cpu_stage(g->cpus[i]);
        model_file_check(mlxd_pipeline_check(&p, g->host.config.layers, &why), &why);
    } else {
        (void)mlxd_fail(&p.why, MLXD_ERR_PEER, "mini2 is gone");
    }
    mlxd_loop_set_pipeline(g->loop, &p);
    assert_int_equal(mlxd_loop_ready(g->loop), up);
}

static struct rig *open_rig(struct setup s) {
    static struct rig rig;
    struct rig *g = &rig;
    mlxd_host_params h = {.path = MODEL, .threads = s.threads, .text = true, .head = true};
    mlxd_why why = {0};
    *g = (struct rig){.n_stages = s.stages};
    model_file_check(mlxd_host_open(&g->host, &h, &why), &why);
    for (uint32_t i = 0; i < s.stages; i++) {
        mlxd_cpu_params p = {.driver = g->host.driver,
                             .layers = {.checkpoint = g->host.checkpoint,
                                        .config = &g->host.config,
                                        .kernels = g->host.kernels,
                                        .first = g->host.config.layers * i / s.stages,
                                        .end = g->host.config.layers * (i + 1) / s.stages,
                                        .positions = CONTEXT,
                                        .tokens_max = s.chunk + 8},
                             .kv_pages = PAGES,
                             .device = "mini1"};
        model_file_check(mlxd_cpu_open(&g->cpus[i], &p, &why), &why);
    }
    g->trace = s.trace ? model_file_path("trace.json") : NULL;
    mlxd_loop_params l = {.engine = {.width = g->host.config.hidden,
                                     .prefill_chunk = s.chunk,
                                     .step_tokens = s.chunk + 8,
                                     .sessions_max = 8,
                                     .queue_max = 8},
                          .head = g->host.head,
                          .clock = mlxd_clock_real(),
                          .trace_path = g->trace};
    model_file_check(mlxd_loop_open(&g->loop, &l, &why), &why);
    assert_false(mlxd_loop_ready(g->loop));
    return g;
}

/* The engine has ended; a trace of its life replays. */
static void close_rig(struct rig *g) {
    mlxd_why why = {0};
    mlxd_loop_close(g->loop);
    for (uint32_t i = 0; i < g->n_stages; i++)
        mlxd_cpu_close(g->cpus[i]);
    mlxd_host_close(&g->host);
    if (g->trace) {
        mlxd_buf text = golden_read(g->trace);
        model_file_check(mlxd_trace_replay((mlxd_slice){text.data, text.len}, &why), &why);
        assert_true(text.len > 1000);
        mlxd_buf_deinit(&text);
    }
}

/* ---- clients ---- */

#define TOKENS_MAX 130

struct client {
    mlxd_request *r;
    mlxd_mutex lock;
    mlxd_cond changed;
    unsigned ended, n_tokens; /* under lock */
    mlxd_err err;
    mlxd_why why;
    int32_t tokens[TOKENS_MAX];
    char digest[MLXD_SHA256_HEX], text[4000];
    mlxd_finish finish;
    mlxd_timings timings;
    mlxd_speed speed;
    void (*hook)(void); /* on the engine thread, at each token */
};

static void on_token(void *ctx, mlxd_request *r) {
    struct client *c = ctx;
    mlxd_buf *text = mlxd_generation_text(r->generation);
    mlxd_mutex_lock(&c->lock);
    size_t at = strlen(c->text);
    snprintf(c->text + at, sizeof c->text - at, "%s", mlxd_buf_str(text));
    mlxd_buf_clear(text);
    c->n_tokens = mlxd_generation_tokens(r->generation);
    mlxd_cond_broadcast(&c->changed);
    mlxd_mutex_unlock(&c->lock);
    if (c->hook)
        c->hook();
}

static void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    struct client *c = ctx;
    if (r->generation) {
        uint32_t n = mlxd_generation_tokens(r->generation);
        memcpy(c->tokens, r->tokens + r->n_prompt, n * sizeof *c->tokens);
        (void)mlxd_generation_digest(r->generation, c->digest);
        c->finish = mlxd_generation_finish(r->generation);
        if (err == MLXD_OK)
            on_token(ctx, r);
        c->speed = mlxd_timings_speed(r);
    }
    mlxd_mutex_lock(&c->lock);
    c->timings = r->timings;
    c->err = err;
    c->why = *why;
    c->ended++;
    mlxd_cond_broadcast(&c->changed);
    mlxd_mutex_unlock(&c->lock);
    mlxd_request_close(r);
}

static void start_client(struct rig *g, struct client *c, const int32_t *prompt, uint32_t n,
                         uint32_t max_tokens, bool greedy) {
    mlxd_generation_params p = {.max_tokens = max_tokens, .ignore_end = true};
    mlxd_generation *generation;
    mlxd_why why = {0};
    void (*hook)(void) = c->hook;
    *c = (struct client){.hook = hook};
    mlxd_mutex_init(&c->lock);
    mlxd_cond_init(&c->changed);
    mlxd_sampling_init(&p.sampling);
    p.sampling.digest = true;
    p.sampling.temperature = greedy ? 0 : 1.2;
    p.sampling.top_p = 0.95;
    p.sampling.repetition_penalty = 1.05;
    p.sampling.seed = 7;
    model_file_check(mlxd_generation_open(&generation, &p, g->host.tokenizer, g->host.config.vocab,
                                          prompt, n, &why),
                     &why);
    c->r = mlxd_request_open(prompt, n, max_tokens, generation,
                             (mlxd_request_sink){on_token, on_end, c});
    assert_non_null(c->r);
    mlxd_err err = mlxd_loop_submit(g->loop, c->r);
    model_file_check(err, &why);
}

static void wait_client(struct client *c) {
    mlxd_mutex_lock(&c->lock);
    while (!c->ended)
        mlxd_cond_wait(&c->changed, &c->lock);
    mlxd_mutex_unlock(&c->lock);
}

static void wait_tokens(struct client *c, unsigned n) {
    mlxd_mutex_lock(&c->lock);
    while (!c->ended && c->n_tokens < n)
        mlxd_cond_wait(&c->changed, &c->lock);
    mlxd_mutex_unlock(&c->lock);
}

/* Nothing may come after the end. */
static void free_client(struct client *c) {
    assert_int_equal(c->ended, 1);
    mlxd_cond_deinit(&c->changed);
    mlxd_mutex_deinit(&c->lock);
}

static void finished(const struct client *c) {
    if (c->err)
        fail_msg("%s: %s", mlxd_err_name(c->err), c->why.text);
}

/* ---- the questions and what is right ---- */

#define QUESTIONS 4
#define ANSWER 9

static int32_t prompts[QUESTIONS][100];
static const uint32_t prompt_len[QUESTIONS] = {1, 77, 30, 64};
static struct client right[QUESTIONS];

static void ask(struct rig *g, struct client *c, int question) {
    start_client(g, c, prompts[question], prompt_len[question], ANSWER, question % 2 == 0);
}

static bool is_answer(const struct client *c, int question) {
    const struct client *want = &right[question];
    return memcmp(c->tokens, want->tokens, ANSWER * sizeof *c->tokens) == 0 &&
           strcmp(c->digest, want->digest) == 0 && strcmp(c->text, want->text) == 0 &&
           c->finish == want->finish;
}

static void same_answer(const struct client *c, int question) {
    finished(c);
    if (!is_answer(c, question))
        fail_msg("question %d: another answer: %s, %s", question, c->digest,
                 right[question].digest);
}

/* One stage, one thread, the whole prompt at once, alone. */
static int set_up(void **state) {
    random_state rng = random_open("questions");
    if (model_file_set_up(state))
        return -1;
    for (int q = 0; q < QUESTIONS; q++)
        for (uint32_t i = 0; i < prompt_len[q]; i++)
            prompts[q][i] = (int32_t)random_below(&rng, 320);
    struct rig *g = open_rig((struct setup){.threads = 1, .stages = 1, .chunk = 128});
    set_pipeline(g, true);
    for (int q = 0; q < QUESTIONS; q++) {
        ask(g, &right[q], q);
        wait_client(&right[q]);
        free_client(&right[q]);
        finished(&right[q]);
        assert_int_equal(right[q].finish, MLXD_FINISH_LENGTH);
        assert_int_equal(strlen(right[q].digest), 64);
    }
    close_rig(g);
    return 0;
}

/* ---- tests ---- */

static void the_same_bits_however_it_is_computed(void **state) {
    static const uint32_t chunks[] = {1, 7, 64, 128};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(chunks); i++)
        for (uint32_t stages = 1; stages <= 3; stages++) {
            struct setup s = {.threads = 1 + (unsigned)(i + stages) % 2,
                              .stages = stages,
                              .chunk = chunks[i],
                              .trace = true};
            struct rig *g = open_rig(s);
            struct client c[QUESTIONS], alone;
            set_pipeline(g, true);
            ask(g, &alone, (int)stages % QUESTIONS);
            wait_client(&alone);
            free_client(&alone);
            same_answer(&alone, (int)stages % QUESTIONS);
            for (int q = 0; q < QUESTIONS; q++) /* beside each other */
                ask(g, &c[q], q);
            for (int q = 0; q < QUESTIONS; q++) {
                wait_client(&c[q]);
                free_client(&c[q]);
                same_answer(&c[q], q);
            }
            close_rig(g);
        }
}

/* ---- cost ---- */

static unsigned tokens_seen;
static uint64_t count_warm, count_later;

static void sample_count(void) {
    tokens_seen++;
    if (tokens_seen == 30)
        count_warm = mlxd_mem_count();
    if (tokens_seen == 230)
        count_later = mlxd_mem_count();
}

static void decoding_does_not_allocate(void **state) {
    (void)state;
    for (uint32_t stages = 1; stages <= 2; stages++) {
        struct rig *g =
            open_rig((struct setup){.threads = 2, .stages = stages, .chunk = 16, .trace = false});
        static struct client c[2];
        set_pipeline(g, true);
        tokens_seen = 0;
        for (int i = 0; i < 2; i++) {
            c[i].hook = sample_count;
            start_client(g, &c[i], prompts[1], 5 + (uint32_t)i, 125, i == 0);
        }
        for (int i = 0; i < 2; i++) {
            wait_client(&c[i]);
            free_client(&c[i]);
            finished(&c[i]);
        }
        assert_true(tokens_seen > 230);
        assert_int_equal(count_later, count_warm);
        close_rig(g);
    }
}

/* ---- cancels and losses ---- */

static uint32_t sessions(const struct rig *g) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_stages; i++) {
        mlxd_cpu_stats s;
        mlxd_cpu_stats_get(g->cpus[i], &s);
        n += s.sessions + s.kv_pages_used;
    }
    return n;
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void a_client_that_leaves(void **state) {
    struct rig *g = open_rig((struct setup){.threads = 2, .stages = 2, .chunk = 7, .trace = true});
    struct client leaves, stays;
    (void)state;
    set_pipeline(g, true);
    start_client(g, &leaves, prompts[0], 1, 120, true);
    ask(g, &stays, 1);
    wait_tokens(&leaves, 3);
    mlxd_loop_cancel(g->loop, leaves.r->id);
    wait_client(&leaves);
    assert_int_equal(leaves.err, MLXD_ERR_CANCELLED);
    assert_true(leaves.n_tokens >= 3 && leaves.n_tokens < 120);
    wait_client(&stays);
    same_answer(&stays, 1);
    for (int i = 0; i < 10000 && sessions(g) > 0; i++)
        nap();
    assert_int_equal(sessions(g), 0); /* every stage has forgotten both */
    mlxd_engine_stats s = {.running = 1};
    for (int i = 0; i < 10000 && s.running > 0; i++) {
        nap(); /* the snapshot follows the end */
        mlxd_loop_stats(g->loop, &s);
    }
    assert_true(s.running == 0 && s.kv_pages_reserved == 0 && s.cancelled == 1);
    free_client(&leaves);
    free_client(&stays);
    close_rig(g);
}

static void requests_alive_at_the_end(void **state) {
    struct rig *g = open_rig((struct setup){.threads = 1, .stages = 3, .chunk = 7, .trace = true});
    static struct client c[14]; /* 8 run, 6 wait */
    (void)state;
    set_pipeline(g, true);
    for (int i = 0; i < 14; i++)
        start_client(g, &c[i], prompts[1], 70, 100, true);
    wait_tokens(&c[0], 2);
    close_rig(g);
    for (int i = 0; i < 14; i++) {
        free_client(&c[i]);
        assert_int_equal(c[i].err, MLXD_ERR_CANCELLED);
    }
}

static void stop_says_why(void **state) {
    struct rig *g = open_rig((struct setup){.threads = 1, .stages = 1, .chunk = 7, .trace = true});
    struct client alive, late;
    (void)state;
    set_pipeline(g, true);
    start_client(g, &alive, prompts[1], 70, 100, true);
    wait_tokens(&alive, 1);
    mlxd_loop_stop(g->loop, "the server is stopping");
    wait_client(&alive);
    assert_int_equal(alive.err, MLXD_ERR_CANCELLED);
    assert_non_null(strstr(alive.why.text, "stopping"));
    ask(g, &late, 0);
    wait_client(&late);
    assert_int_equal(late.err, MLXD_ERR_STATE);
    free_client(&alive);
    free_client(&late);
    close_rig(g);
}

/* ---- everything at once ---- */

struct crowd {
    struct rig *g;
    uint64_t seed;
    mlxd_thread thread;
};

static _Atomic bool crowd_stop;
static _Atomic unsigned crowd_answered, crowd_asked;

/* On a thread of its own, where a test cannot fail: what is wrong ends the process. */
static void crowd_main(void *arg) {
    struct crowd *w = arg;
    random_state rng = {w->seed};
    while (!atomic_load(&crowd_stop)) {
        static _Thread_local struct client c[3];
        for (int j = 0; j < 3; j++)
            ask(w->g, &c[j], (int)((w->seed + (uint64_t)j) % QUESTIONS));
        for (int j = 0; j < 3; j++) {
            if (random_below(&rng, 4) == 0) { /* perhaps a stranger's request */
                wait_tokens(&c[j], random_below(&rng, 4));
                mlxd_loop_cancel(w->g->loop, 1 + random_below(&rng, 300));
            }
            wait_client(&c[j]);
            atomic_fetch_add(&crowd_asked, 1);
            atomic_fetch_add(&crowd_answered, c[j].err == MLXD_OK);
            bool right_one = is_answer(&c[j], (int)((w->seed + (uint64_t)j) % QUESTIONS));
            if (c[j].ended != 1 || (c[j].err == MLXD_OK && !right_one))
                abort();
            if (c[j].err && c[j].err != MLXD_ERR_CANCELLED && c[j].err != MLXD_ERR_PEER &&
                c[j].err != MLXD_ERR_AGAIN && c[j].err != MLXD_ERR_FULL)
                abort();
            if (c[j].err)
                nap();
            free_client(&c[j]);
        }
    }
}

/* Clients on many threads, cancels, and a pipeline that goes and comes back while steps of the old
 * one are still being computed: who gets an answer gets the right one. */
static void a_crowd_and_changing_pipelines(void **state) {
    random_state rng = random_open("crowd");
    struct rig *g = open_rig((struct setup){.threads = 2, .stages = 3, .chunk = 16, .trace = true});
    struct crowd w[3];
    mlxd_engine_stats s = {0};
    (void)state;
    set_pipeline(g, true);
    atomic_store(&crowd_stop, false);
    for (int i = 0; i < 3; i++) {
        w[i] = (struct crowd){.g = g, .seed = random_u64(&rng)};
        assert_int_equal(
            mlxd_thread_start(&w[i].thread, "crowd", MLXD_PRIORITY_NORMAL, crowd_main, &w[i]),
            MLXD_OK);
    }
    for (int i = 0; i < 10; i++) {
        unsigned before = atomic_load(&crowd_answered);
        for (uint32_t ms = 1 + random_below(&rng, 30); ms > 0; ms--)
            nap();
        while (i % 2 && atomic_load(&crowd_answered) < before + 3)
            nap();
        set_pipeline(g, false);
        if (random_below(&rng, 2))
            nap();
        set_pipeline(g, true);
    }
    atomic_store(&crowd_stop, true);
    for (int i = 0; i < 3; i++)
        mlxd_thread_join(&w[i].thread);
    struct client last;
    ask(g, &last, 2);
    wait_client(&last);
    free_client(&last);
    same_answer(&last, 2);
    for (int i = 0; i < 10000 && s.succeeded <= atomic_load(&crowd_answered); i++) {
        nap(); /* the snapshot follows the end */
        mlxd_loop_stats(g->loop, &s);
    }
    assert_int_equal(s.requests, atomic_load(&crowd_asked) + 1);
    assert_int_equal(s.succeeded, atomic_load(&crowd_answered) + 1);
    assert_int_equal(s.requests, s.succeeded + s.failed + s.cancelled + s.rejected);
    close_rig(g);
}

/* ---- back-pressure ---- */

static _Atomic bool hold_engine;

static void hold(void) {
    while (atomic_load(&hold_engine))
        nap();
}

static void flood_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    (void)why;
    if (err != MLXD_ERR_RANGE)
        abort();
    atomic_fetch_add((_Atomic unsigned *)ctx, 1);
    mlxd_request_close(r);
}

/* While the engine is busy requests are refused before steps and cancels would have to wait. */
static void a_flood_of_requests(void **state) {
    struct rig *g = open_rig((struct setup){.threads = 1, .stages = 1, .chunk = 7, .trace = false});
    struct client c = {.hook = hold};
    _Atomic unsigned ends = 0;
    unsigned sent = 0;
    (void)state;
    set_pipeline(g, true);
    atomic_store(&hold_engine, true);
    start_client(g, &c, prompts[0], 1, 120, true);
    wait_tokens(&c, 1);
    uint64_t id = c.r->id;
    for (;; sent++) { /* each would be refused for its length, when the engine sees it */
        mlxd_request *r = mlxd_request_open(prompts[0], 1, 100000, NULL,
                                            (mlxd_request_sink){NULL, flood_end, (void *)&ends});
        mlxd_err err = mlxd_loop_submit(g->loop, r);
        if (err) {
            assert_int_equal(err, MLXD_ERR_FULL);
            mlxd_request_close(r);
            break;
        }
        assert_true(sent < 100000);
    }
    assert_true(sent > 100);
    for (int i = 0; i < 1000; i++)
        mlxd_loop_cancel(g->loop, id); /* does not block */
    atomic_store(&hold_engine, false);
    wait_client(&c);
    free_client(&c);
    assert_int_equal(c.err, MLXD_ERR_CANCELLED);
    close_rig(g);
    assert_int_equal(atomic_load(&ends), sent);
}

/* ---- the rest ---- */

static void a_trace_that_cannot_be_written(void **state) {
    struct rig *g = open_rig((struct setup){.threads = 1, .stages = 1, .chunk = 7, .trace = false});
    mlxd_loop_params l = {.engine = {1, 1, 1, 1, 1},
                          .head = g->host.head,
                          .clock = mlxd_clock_real(),
                          .trace_path = "/nowhere/trace.json"};
    mlxd_loop *loop;
    mlxd_why why = {0};
    (void)state;
    assert_int_equal(mlxd_loop_open(&loop, &l, &why), MLXD_ERR_IO);
    assert_non_null(strstr(why.text, "/nowhere/trace.json"));
    mlxd_loop_close(NULL);
    close_rig(g);
}

static void where_the_time_went(void **state) {
    struct rig *g =
        open_rig((struct setup){.threads = 1, .stages = 2, .chunk = 16, .trace = false});
    struct client c;
    (void)state;
    set_pipeline(g, true);
    ask(g, &c, 1);
    wait_client(&c);
    free_client(&c);
    finished(&c);
    const mlxd_timings *t = &c.timings;
    assert_true(t->submitted_ns > 0 && t->admitted_ns >= t->submitted_ns);
    assert_true(t->first_ns > t->admitted_ns && t->ended_ns > t->first_ns);
    assert_int_equal(t->stages, 2);
    assert_int_equal(t->steps, 5 + ANSWER - 1); /* 77 tokens by 16, then one by one */
    uint64_t in_stages = t->head_ns;
    for (int i = 0; i < 2; i++) {
        assert_true(t->stage[i].compute_ns > 0 && t->stage[i].total_ns >= t->stage[i].compute_ns);
        in_stages += t->stage[i].total_ns;
    }
    /* Chunks overlap, so at most twice the wall time; nothing is counted that did not pass. */
    assert_true(in_stages <= 2 * (t->ended_ns - t->admitted_ns));
    assert_true(c.speed.prompt_per_second > 0 && c.speed.predicted_per_second > 0);
    close_rig(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_however_it_is_computed),
        cmocka_unit_test(decoding_does_not_allocate),
        cmocka_unit_test(a_client_that_leaves),
        cmocka_unit_test(requests_alive_at_the_end),
        cmocka_unit_test(stop_says_why),
        cmocka_unit_test(a_crowd_and_changing_pipelines),
        cmocka_unit_test(a_flood_of_requests),
        cmocka_unit_test(a_trace_that_cannot_be_written),
        cmocka_unit_test(where_the_time_went),
    };
    return cmocka_run_group_tests(tests, set_up, model_file_tear_down);
}
