/* test_cluster.c - a coordinator and its workers in one process, over real gRPC with mutual TLS on
 * loopback: the answer must be the one that a single process gives, and a worker that goes must end
 * requests cleanly and be taken back when it returns. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/golden.h"

#include "base/clock.h"
#include "base/log.h"
#include "cluster/members.h"
#include "cluster/worker.h"
#include "net/certs.h"
#include "serve/engine_loop.h"
#include "serve/host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define CONTEXT 512

static char dir[64];
static mlxd_rpc_runtime *rpc;

static void nap_us(long us) {
    struct timespec t = {.tv_nsec = us * 1000};
    nanosleep(&t, NULL);
}

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static mlxd_rpc_creds *load_creds(const char *device) {
    char ca[128], cert[128], key[128];
    mlxd_rpc_creds *creds;
    mlxd_why why = {0};
    snprintf(ca, sizeof ca, "%s/ca.crt", dir);
    snprintf(cert, sizeof cert, "%s/%s.crt", dir, device);
    snprintf(key, sizeof key, "%s/%s.key", dir, device);
    check(mlxd_rpc_creds_load(&creds, ca, cert, key, &why), &why);
    return creds;
}

static int set_up(void **state) {
    static const char *const devices[] = {"mini1", "mini2", "master"};
    mlxd_why why = {0};
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mlxd-cluster-XXXXXX");
    assert_non_null(mkdtemp(dir));
    check(mlxd_certs_init(dir, "test", false, &why), &why);
    for (size_t i = 0; i < MLXD_COUNT_OF(devices); i++) {
        mlxd_certs_node_options o = {.role = i == 0 ? MLXD_ROLE_COORDINATOR : MLXD_ROLE_WORKER,
                                     .device = devices[i]};
        check(mlxd_certs_node(dir, &o, &why), &why);
    }
    check(mlxd_rpc_runtime_open(&rpc, &why), &why);
    return 0;
}

static int tear_down(void **state) {
    char command[128];
    (void)state;
    mlxd_rpc_runtime_close(rpc);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

/* ---- a worker ---- */

struct worker {
    mlxd_host host;
    mlxd_worker *worker;
    mlxd_rpc_server *server;
    int port;
};

static void start_worker(struct worker *w, const char *device, const char *model, int port) {
    char path[512], listen[64];
    mlxd_why why = {0};
    snprintf(path, sizeof path, "%s%s%s", model[0] == '/' ? "" : MLXD_GOLDEN,
             model[0] == '/' ? "" : "/", model);
    mlxd_host_params h = {.path = path, .threads = 1};
    check(mlxd_host_open(&w->host, &h, &why), &why);
    mlxd_worker_params p = {.checkpoint = w->host.checkpoint,
                            .config = &w->host.config,
                            .kernels = w->host.kernels,
                            .driver = w->host.driver,
                            .device = device,
                            .version = "test",
                            .speed = 1e9};
    check(mlxd_worker_open(&w->worker, &p, &why), &why);
    mlxd_rpc_method methods[MLXD_WORKER_METHODS];
    mlxd_worker_methods(w->worker, methods);
    mlxd_rpc_creds *creds = load_creds(device);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", port);
    mlxd_rpc_server_options s = {
        .listen = listen, .creds = creds, .methods = methods, .method_count = MLXD_WORKER_METHODS};
    check(mlxd_rpc_server_open(&w->server, rpc, &s, &why), &why);
    w->port = mlxd_rpc_server_port(w->server);
    mlxd_rpc_creds_close(creds);
}

static void stop_worker(struct worker *w) {
    mlxd_rpc_server_close(w->server, 0);
    mlxd_worker_close(w->worker);
    mlxd_host_close(&w->host);
}

/* ---- the coordinator ---- */

struct coordinator {
    mlxd_host host;
    mlxd_manifest manifest;
    mlxd_loop *loop;
    mlxd_members *members;
    mlxd_rpc_creds *creds;
    mlxd_members_worker workers[4];
    char addresses[4][32];
    _Atomic int failed;
    long pipeline_nap_us; /* how long the members' thread is held up by each pipeline */
    mlxd_why failed_why;
};

static void on_pipeline(void *ctx, const mlxd_pipeline *p) {
    struct coordinator *c = ctx;
    for (long left = c->pipeline_nap_us; left > 0; left -= 100000)
        nap_us(100000);
    mlxd_loop_set_pipeline(c->loop, p);
}

static void on_failed(void *ctx, mlxd_err err, const mlxd_why *why) {
    struct coordinator *c = ctx;
    c->failed_why = *why;
    atomic_store(&c->failed, (int)err);
}

static void hash_job(mlxd_pool *pool, void *a, void *b) {
    struct coordinator *c = a;
    mlxd_why why = {0};
    (void)b;
    check(mlxd_manifest_open(&c->manifest, c->host.checkpoint, pool, "", NULL, &why), &why);
}

static void start_coordinator(struct coordinator *c, const char *model,
                              const struct worker *workers, size_t n, uint32_t chunk) {
    static const char *const devices[] = {"mini2", "master"};
    char path[512];
    mlxd_why why = {0};
    *c = (struct coordinator){.creds = load_creds("mini1"), .pipeline_nap_us = c->pipeline_nap_us};
    snprintf(path, sizeof path, "%s/%s", MLXD_GOLDEN, model);
    mlxd_host_params h = {.path = path, .threads = 2, .text = true, .head = true};
    check(mlxd_host_open(&c->host, &h, &why), &why);
    mlxd_driver_run(c->host.driver, (mlxd_job){hash_job, c, NULL});
    mlxd_loop_params l = {.engine = {.width = c->host.config.hidden,
                                     .prefill_chunk = chunk,
                                     .step_tokens = chunk + 64,
                                     .sessions_max = 16,
                                     .queue_max = 16},
                          .head = c->host.head,
                          .clock = mlxd_clock_real()};
    check(mlxd_loop_open(&c->loop, &l, &why), &why);
    for (size_t i = 0; i < n; i++) {
        snprintf(c->addresses[i], sizeof c->addresses[i], "127.0.0.1:%d", workers[i].port);
        c->workers[i] = (mlxd_members_worker){devices[i], c->addresses[i]};
    }
    mlxd_members_params p = {.checkpoint = c->host.checkpoint,
                             .config = &c->host.config,
                             .kernels = c->host.kernels,
                             .driver = c->host.driver,
                             .manifest = &c->manifest,
                             .rpc = rpc,
                             .creds = c->creds,
                             .device = "mini1",
                             .version = "test",
                             .workers = c->workers,
                             .n_workers = n,
                             .speed = 1e9,
                             .context = CONTEXT,
                             .parallel = 16,
                             .tokens_max = chunk + 64,
                             .worker_timeout_ms = c->pipeline_nap_us ? 300 : 5000,
                             .pipeline = on_pipeline,
                             .failed = on_failed,
                             .ctx = c};
    check(mlxd_members_open(&c->members, &p, &why), &why);
}

static void stop_coordinator(struct coordinator *c) {
    mlxd_members_close(c->members);
    mlxd_loop_close(c->loop);
    mlxd_manifest_close(&c->manifest);
    mlxd_host_close(&c->host);
    mlxd_rpc_creds_close(c->creds);
}

static bool wait_ready(struct coordinator *c, bool ready) {
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    while (mlxd_loop_ready(c->loop) != ready && mlxd_clock_now_ns() < until)
        nap_us(2000);
    return mlxd_loop_ready(c->loop) == ready;
}

/* ---- requests ---- */

struct answer {
    _Atomic bool ended;
    _Atomic unsigned tokens;
    mlxd_err err;
    mlxd_why why;
    mlxd_request *request;
    char digest[MLXD_SHA256_HEX];
};

static void on_token(void *ctx, mlxd_request *r) {
    struct answer *a = ctx;
    (void)r;
    atomic_fetch_add(&a->tokens, 1);
}

static void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    struct answer *a = ctx;
    a->err = err;
    a->why = *why;
    a->request = r;
    (void)mlxd_generation_digest(r->generation, a->digest);
    atomic_store(&a->ended, true);
}

static void ask(struct coordinator *c, struct answer *a, uint32_t n_prompt, uint32_t max_tokens,
                double temperature) {
    int32_t prompt[CONTEXT];
    mlxd_generation *g;
    mlxd_why why = {0};
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)((i * 37 + 11) % 250 + 1);
    mlxd_generation_params p = {.max_tokens = max_tokens, .ignore_end = true};
    mlxd_sampling_init(&p.sampling);
    p.sampling.temperature = temperature;
    p.sampling.seed = 42;
    p.sampling.digest = true;
    *a = (struct answer){0};
    check(mlxd_generation_open(&g, &p, c->host.tokenizer, c->host.config.vocab, prompt, n_prompt,
                               &why),
          &why);
    mlxd_request_sink sink = {on_token, on_end, a};
    mlxd_request *r = mlxd_request_open(prompt, n_prompt, max_tokens, g, sink);
    assert_non_null(r);
    assert_int_equal(mlxd_loop_submit(c->loop, r), MLXD_OK);
}

static void wait_end(struct answer *a) {
    uint64_t until = mlxd_clock_now_ns() + 30 * MLXD_NS_PER_S;
    while (!atomic_load(&a->ended) && mlxd_clock_now_ns() < until)
        nap_us(500);
    assert_true(atomic_load(&a->ended));
}

/* Two requests at once, greedy and seeded; their digests. */
static void ask_two(struct coordinator *c, char greedy[MLXD_SHA256_HEX],
                    char seeded[MLXD_SHA256_HEX]) {
    struct answer a, b;
    ask(c, &a, 100, 40, 0);
    ask(c, &b, 33, 50, 0.9);
    wait_end(&a);
    wait_end(&b);
    check(a.err, &a.why);
    check(b.err, &b.why);
    assert_int_equal(mlxd_generation_tokens(a.request->generation), 40);
    memcpy(greedy, a.digest, MLXD_SHA256_HEX);
    memcpy(seeded, b.digest, MLXD_SHA256_HEX);
    mlxd_request_close(a.request);
    mlxd_request_close(b.request);
}

/* ---- tests ---- */

static void test_same_answer(void **state) {
    static const char *const models[] = {"tiny-f32.gguf", "tiny-q4_1.gguf"};
    (void)state;
    for (size_t m = 0; m < MLXD_COUNT_OF(models); m++) {
        char want[2][MLXD_SHA256_HEX], got[2][MLXD_SHA256_HEX];
        struct coordinator c = {0};
        struct worker w[2];
        start_coordinator(&c, models[m], NULL, 0, 128);
        assert_true(wait_ready(&c, true));
        ask_two(&c, want[0], want[1]);
        stop_coordinator(&c);
        start_worker(&w[0], "mini2", models[m], 0);
        start_worker(&w[1], "master", models[m], 0);
        for (size_t n = 1; n <= 2; n++) {
            start_coordinator(&c, models[m], w, n, n == 1 ? 7 : 32);
            assert_true(wait_ready(&c, true));
            ask_two(&c, got[0], got[1]);
            assert_string_equal(got[0], want[0]);
            assert_string_equal(got[1], want[1]);
            mlxd_engine_stats stats;
            mlxd_loop_stats(c.loop, &stats);
            assert_int_equal(stats.stages, n + 1);
            stop_coordinator(&c);
        }
        stop_worker(&w[0]);
        stop_worker(&w[1]);
    }
}

static unsigned sessions_on(struct worker *w) {
    mlxd_worker_status s;
    mlxd_worker_get_status(w->worker, &s);
    return s.stats.sessions;
}

static void test_sessions_are_freed(void **state) {
    struct coordinator c = {0};
    struct worker w;
    struct answer a;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    ask(&c, &a, 50, CONTEXT - 60, 0);
    while (atomic_load(&a.tokens) < 3)
        nap_us(200);
    assert_int_equal(sessions_on(&w), 1);
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_loop_cancel(c.loop, 1);
    while (sessions_on(&w) > 0 && mlxd_clock_now_ns() - t0 < 5 * MLXD_NS_PER_S)
        nap_us(100);
    print_message("freed on the worker after %.2f ms\n", (double)(mlxd_clock_now_ns() - t0) / 1e6);
    assert_int_equal(sessions_on(&w), 0);
    wait_end(&a);
    assert_int_equal(a.err, MLXD_ERR_CANCELLED);
    mlxd_request_close(a.request);
    stop_coordinator(&c);
    stop_worker(&w);
}

static void test_worker_lost_and_back(void **state) {
    char want[2][MLXD_SHA256_HEX], got[2][MLXD_SHA256_HEX];
    struct coordinator c = {0};
    struct worker w;
    struct answer a, late;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    ask_two(&c, want[0], want[1]);
    ask(&c, &a, 50, CONTEXT - 60, 0);
    while (atomic_load(&a.tokens) < 3)
        nap_us(200);
    stop_worker(&w);
    wait_end(&a);
    assert_int_equal(a.err, MLXD_ERR_PEER);
    assert_non_null(strstr(a.why.text, "mini2"));
    mlxd_request_close(a.request);
    assert_true(wait_ready(&c, false));
    ask(&c, &late, 5, 5, 0);
    wait_end(&late);
    assert_int_equal(late.err, MLXD_ERR_AGAIN);
    assert_non_null(strstr(late.why.text, "mini2"));
    mlxd_request_close(late.request);
    start_worker(&w, "mini2", "tiny-f32.gguf", w.port);
    assert_true(wait_ready(&c, true));
    ask_two(&c, got[0], got[1]);
    assert_string_equal(got[0], want[0]);
    assert_string_equal(got[1], want[1]);
    stop_coordinator(&c);
    stop_worker(&w);
}

/* A copy of a checkpoint with one bit of one weight of the last layer flipped. */
static void write_flipped(const char *model, char path[128]) {
    mlxd_buf file = golden_read(model);
    snprintf(path, 128, "%s/flipped.gguf", dir);
    mlxd_gguf *g;
    mlxd_why why = {0};
    check(mlxd_gguf_open(&g, (mlxd_slice){file.data, file.len}, model, &why), &why);
    const mlxd_gguf_tensor *t = mlxd_gguf_tensor_find(g, "blk.4.ffn_up.weight");
    assert_non_null(t);
    file.data[t->file_offset + t->data_bytes / 2] ^= 1;
    mlxd_gguf_close(g);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file.data, 1, file.len, f), file.len);
    fclose(f);
    mlxd_buf_deinit(&file);
}

static bool view_says(struct coordinator *c, const char *text) {
    mlxd_member_view *v = mlxd_mem_new(MLXD_LIMIT_NODES, sizeof *v);
    uint64_t until = mlxd_clock_now_ns() + 10 * MLXD_NS_PER_S;
    bool said = false;
    while (!said && mlxd_clock_now_ns() < until) {
        (void)mlxd_members_view(c->members, v);
        said = strstr(v[1].why.text, text) != NULL;
        nap_us(2000);
    }
    if (!said)
        print_message("the member's reason is: %s\n", v[1].why.text);
    mlxd_mem_free(v);
    return said;
}

static void test_other_weights_are_refused(void **state) {
    char path[128];
    struct coordinator c = {0};
    struct worker w;
    (void)state;
    write_flipped("tiny-f32.gguf", path);
    start_worker(&w, "mini2", path, 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(view_says(&c, "tensor blk.4.ffn_up.weight"));
    assert_false(mlxd_loop_ready(c.loop));
    stop_coordinator(&c);
    stop_worker(&w);
    start_worker(&w, "mini2", "tiny-q4_1.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(view_says(&c, "model files differ"));
    assert_false(mlxd_loop_ready(c.loop));
    stop_coordinator(&c);
    stop_worker(&w);
}

/* The coordinator was held up for longer than workers may be silent: that is not their fault. */
static void test_own_stall_is_no_silence(void **state) {
    struct coordinator c = {.pipeline_nap_us = 1000000};
    struct worker w;
    (void)state;
    start_worker(&w, "mini2", "tiny-f32.gguf", 0);
    start_coordinator(&c, "tiny-f32.gguf", &w, 1, 32);
    assert_true(wait_ready(&c, true));
    uint64_t epoch, until = mlxd_clock_now_ns() + MLXD_NS_PER_S;
    mlxd_engine_stats stats;
    mlxd_loop_stats(c.loop, &stats);
    epoch = stats.epoch;
    while (mlxd_clock_now_ns() < until)
        nap_us(10000);
    mlxd_loop_stats(c.loop, &stats);
    assert_int_equal(stats.epoch, epoch);
    assert_true(mlxd_loop_ready(c.loop));
    c.pipeline_nap_us = 0;
    stop_coordinator(&c);
    stop_worker(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answer),
        cmocka_unit_test(test_sessions_are_freed),
        cmocka_unit_test(test_worker_lost_and_back),
        cmocka_unit_test(test_other_weights_are_refused),
        cmocka_unit_test(test_own_stall_is_no_silence),
    };
    mlxd_log_init(getenv("VERBOSE") ? MLXD_LOG_DEBUG : MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
