/* cluster_fixture.h - a coordinator and its workers in one process, over real gRPC with mutual TLS
 * on loopback: certificates, nodes, requests and their digests, for tests of clusters.
 */
#ifndef MLXD_TESTS_CLUSTER_FIXTURE_H
#define MLXD_TESTS_CLUSTER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>

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

static inline void nap_us(long us) {
    struct timespec t = {.tv_nsec = us * 1000};
    nanosleep(&t, NULL);
}

static inline void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static inline mlxd_rpc_creds *load_creds(const char *device) {
    char ca[128], cert[128], key[128];
    mlxd_rpc_creds *creds;
    mlxd_why why = {0};
    snprintf(ca, sizeof ca, "%s/ca.crt", dir);
    snprintf(cert, sizeof cert, "%s/%s.crt", dir, device);
    snprintf(key, sizeof key, "%s/%s.key", dir, device);
    check(mlxd_rpc_creds_load(&creds, ca, cert, key, &why), &why);
    return creds;
}

static inline int set_up(void **state) {
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

static inline int tear_down(void **state) {
    char command[128];
    (void)state;
    mlxd_rpc_runtime_close(rpc);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

/* ---- a worker ---- */

static uint64_t shards_bytes_max; /* of the next worker that is started */

struct worker {
    mlxd_host host;
    mlxd_worker *worker;
    mlxd_rpc_server *server;
    int port;
};

/* `model`: a golden file or an absolute path; NULL: none, its layers come from the coordinator. */
static inline void start_worker(struct worker *w, const char *device, const char *model, int port) {
    char path[512], listen[64], shards[128];
    mlxd_why why = {0};
    if (model)
        snprintf(path, sizeof path, "%s%s%s", model[0] == '/' ? "" : MLXD_GOLDEN,
                 model[0] == '/' ? "" : "/", model);
    snprintf(shards, sizeof shards, "%s/shards-%s", dir, device);
    mlxd_host_params h = {.path = model ? path : NULL, .threads = 1};
    check(mlxd_host_open(&w->host, &h, &why), &why);
    mlxd_worker_params p = {.checkpoint = w->host.checkpoint,
                            .config = &w->host.config,
                            .shards = model ? NULL : shards,
                            .shards_bytes_max = shards_bytes_max,
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

static inline void stop_worker(struct worker *w) {
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

static inline void on_pipeline(void *ctx, const mlxd_pipeline *p) {
    struct coordinator *c = ctx;
    for (long left = c->pipeline_nap_us; left > 0; left -= 100000)
        nap_us(100000);
    mlxd_loop_set_pipeline(c->loop, p);
}

static inline void on_failed(void *ctx, mlxd_err err, const mlxd_why *why) {
    struct coordinator *c = ctx;
    c->failed_why = *why;
    atomic_store(&c->failed, (int)err);
}

static inline void hash_job(mlxd_pool *pool, void *a, void *b) {
    struct coordinator *c = a;
    mlxd_why why = {0};
    (void)b;
    check(mlxd_manifest_open(&c->manifest, c->host.checkpoint, pool, "", NULL, &why), &why);
}

static inline void start_coordinator(struct coordinator *c, const char *model,
                                     const struct worker *workers, size_t n, uint32_t chunk) {
    static const char *const devices[] = {"mini2", "master"};
    char path[512];
    mlxd_why why = {0};
    *c = (struct coordinator){.creds = load_creds("mini1"), .pipeline_nap_us = c->pipeline_nap_us};
    snprintf(path, sizeof path, "%s%s%s", model[0] == '/' ? "" : MLXD_GOLDEN,
             model[0] == '/' ? "" : "/", model);
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

static inline void stop_coordinator(struct coordinator *c) {
    mlxd_members_close(c->members);
    mlxd_loop_close(c->loop);
    mlxd_manifest_close(&c->manifest);
    mlxd_host_close(&c->host);
    mlxd_rpc_creds_close(c->creds);
}

static inline bool wait_ready(struct coordinator *c, bool ready) {
    uint64_t until = mlxd_clock_now_ns() + 60 * MLXD_NS_PER_S;
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

static inline void on_token(void *ctx, mlxd_request *r) {
    struct answer *a = ctx;
    (void)r;
    atomic_fetch_add(&a->tokens, 1);
}

static inline void on_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    struct answer *a = ctx;
    a->err = err;
    a->why = *why;
    a->request = r;
    (void)mlxd_generation_digest(r->generation, a->digest);
    atomic_store(&a->ended, true);
}

static inline void ask(struct coordinator *c, struct answer *a, uint32_t n_prompt,
                       uint32_t max_tokens, double temperature) {
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

static inline void wait_end(struct answer *a) {
    uint64_t until = mlxd_clock_now_ns() + 30 * MLXD_NS_PER_S;
    while (!atomic_load(&a->ended) && mlxd_clock_now_ns() < until)
        nap_us(500);
    assert_true(atomic_load(&a->ended));
}

/* Two requests at once, greedy and seeded; their digests. */
static inline void ask_two(struct coordinator *c, char greedy[MLXD_SHA256_HEX],
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

/* The reason for which the first worker is not there. */
static inline bool view_says(struct coordinator *c, const char *text) {
    mlxd_member_view *v = mlxd_mem_new(MLXD_LIMIT_NODES, sizeof *v);
    uint64_t until = mlxd_clock_now_ns() + 60 * MLXD_NS_PER_S;
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

#endif
