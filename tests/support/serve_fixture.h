/* serve_fixture.h - for tests of the REST API: a coordinator in this process. The tiny model, a
 * real engine loop and a real CPU stage behind a gate that can delay steps or fail them, and the
 * API on a loopback port.
 *
 *     engine --submit--> gate --(thread: delay, fail)--> cpu stage --done--> engine
 *
 *     fixture *f = fixture_open(&(fixture_params){.delay_ms = 5});
 *     ... ask(f->port, ...) ...
 *     fixture_close(f);
 */
#ifndef MLXD_TESTS_SERVE_FIXTURE_H
#define MLXD_TESTS_SERVE_FIXTURE_H

#include "../unit/net/http_client.h"

#include "backend/cpu.h"
#include "base/thread.h"
#include "format/json.h"
#include "serve/api.h"

#include <stdatomic.h>

#define FIXTURE_MODEL "tiny-f32"
#define FIXTURE_CONTEXT 512
#define FIXTURE_CHUNK 64
#define FIXTURE_DROPPED_MAX 4096

typedef struct fixture_params {
    unsigned context;      /* FIXTURE_CONTEXT */
    unsigned delay_ms;     /* each step waits so long in front of the stage */
    unsigned sessions_max; /* 8 */
    unsigned queue_max;    /* 64 */
    bool worker;           /* the API without host and loop */
    bool no_pipeline;
    mlxd_auth *auth;
    bool metrics_public;
    unsigned keepalive_ms;
    unsigned work_max;
    size_t stream_bytes_max;
    const char *bind_host;
} fixture_params;

typedef struct fixture {
    fixture_params p;
    mlxd_host host;
    mlxd_cpu *cpu;
    mlxd_stage gate;
    mlxd_queue *steps; /* of held */
    mlxd_thread thread;
    atomic_int fail; /* mlxd_err that steps fail with from now on; 0: none */
    mlxd_mutex lock;
    uint64_t dropped[FIXTURE_DROPPED_MAX];
    size_t n_dropped;
    mlxd_loop *loop;
    mlxd_api *api;
    uint16_t port;
    atomic_bool degraded;
    uint64_t started_ns;
} fixture;

/* ---- the gate ---- */

struct held {
    mlxd_step *step;
    bool last;
};

static inline fixture *fixture_of(mlxd_stage *s) {
    return (fixture *)(void *)((char *)s - offsetof(fixture, gate));
}

static inline void gate_submit(mlxd_stage *s, mlxd_step *step, bool last) {
    struct held h = {step, last};
    assert_int_equal(mlxd_queue_push(fixture_of(s)->steps, &h), MLXD_OK);
}

static inline void gate_drop(mlxd_stage *s, uint64_t session) {
    fixture *f = fixture_of(s);
    mlxd_mutex_lock(&f->lock);
    assert_true(f->n_dropped < FIXTURE_DROPPED_MAX);
    f->dropped[f->n_dropped++] = session;
    mlxd_cpu_stage(f->cpu)->ops->drop(mlxd_cpu_stage(f->cpu), session);
    mlxd_mutex_unlock(&f->lock);
}

static inline void gate_close(mlxd_stage *s) {
    (void)s;
}

/* With f->lock held. */
static inline bool gate_is_dropped(void *ctx, uint64_t session) {
    fixture *f = ctx;
    bool gone = false;
    for (size_t i = 0; i < f->n_dropped; i++)
        gone = gone || f->dropped[i] == session;
    return gone;
}

static inline void gate_main(void *arg) {
    fixture *f = arg;
    struct held h;
    while (mlxd_queue_pop(f->steps, &h, UINT64_MAX) == MLXD_OK) {
        mlxd_why why = {0};
        if (f->p.delay_ms)
            pause_us(f->p.delay_ms * 1000l);
        mlxd_err err = (mlxd_err)atomic_load(&f->fail);
        if (err)
            (void)mlxd_fail(&why, err, "the gate fails steps");
        /* Looking and submitting are one action: a drop in between would come too early. */
        mlxd_mutex_lock(&f->lock);
        if (!err)
            mlxd_step_remove(h.step, gate_is_dropped, f);
        if (!err && h.step->n_rows == 0)
            err = MLXD_ERR_CANCELLED;
        if (!err)
            mlxd_cpu_stage(f->cpu)->ops->submit(mlxd_cpu_stage(f->cpu), h.step, h.last);
        mlxd_mutex_unlock(&f->lock);
        if (err)
            f->gate.done(f->gate.done_ctx, &f->gate, h.step, err, &why);
    }
}

static inline void gate_done(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                             const mlxd_why *why) {
    fixture *f = ctx;
    (void)stage;
    f->gate.done(f->gate.done_ctx, &f->gate, step, err, why);
}

static inline void gate_open(fixture *f) {
    static const mlxd_stage_ops ops = {gate_submit, gate_drop, gate_close};
    mlxd_stage *inner = mlxd_cpu_stage(f->cpu);
    f->gate = *inner;
    f->gate.ops = &ops;
    inner->done = gate_done;
    inner->done_ctx = f;
    f->steps = mlxd_queue_open(sizeof(struct held), 256);
    assert_non_null(f->steps);
    assert_int_equal(mlxd_thread_start(&f->thread, "gate", MLXD_PRIORITY_NORMAL, gate_main, f),
                     MLXD_OK);
}

/* ---- the node ---- */

static inline void fixture_view(void *ctx, mlxd_node_view *v) {
    fixture *f = ctx;
    mlxd_cpu_stats cpu = {0};
    *v = (mlxd_node_view){.device = "mini1",
                          .hostname = "mini1.example",
                          .rest_port = 8100,
                          .coordinator = !f->p.worker,
                          .model = FIXTURE_MODEL,
                          .layers = 5,
                          .context = f->p.context,
                          .isa = "test",
                          .threads = 1,
                          .started_ns = f->started_ns,
                          .n_devices = 2};
    v->devices[0] = (mlxd_device_view){.device = "mini1",
                                       .hostname = "mini1.example",
                                       .port = 9100,
                                       .coordinator = !f->p.worker,
                                       .end = 5,
                                       .status = MLXD_DEVICE_ONLINE};
    v->devices[1] = (mlxd_device_view){.device = "mini2",
                                       .hostname = "mini2.example",
                                       .port = 9101,
                                       .coordinator = f->p.worker,
                                       .status = MLXD_DEVICE_CONNECTING,
                                       .why = {"nobody is there"}};
    v->degraded = atomic_load(&f->degraded);
    if (f->cpu)
        mlxd_cpu_stats_get(f->cpu, &cpu);
    v->devices[0].sessions = cpu.sessions;
    v->devices[0].steps = cpu.steps;
    v->devices[0].compute_ns = cpu.compute_ns;
    v->devices[0].kv_pages_used = cpu.kv_pages_used;
    v->devices[0].kv_pages_max = cpu.kv_pages_max;
    if (f->loop)
        mlxd_loop_stats(f->loop, &v->engine);
    v->ready = f->p.worker || v->engine.stages > 0;
    if (!v->ready)
        (void)mlxd_fail(&v->why, MLXD_ERR_STATE, "layers 0..4 have no device");
}

#define FIXTURE_CHECK(call)                                                                        \
    do {                                                                                           \
        mlxd_why why_ = {0};                                                                       \
        mlxd_why *why = &why_;                                                                     \
        mlxd_err err_ = (call);                                                                    \
        if (err_)                                                                                  \
            fail_msg("%s: %s", mlxd_err_name(err_), why_.text);                                    \
    } while (0)

static inline void fixture_set_pipeline(fixture *f, uint64_t epoch, bool any) {
    mlxd_pipeline p = {.epoch = epoch,
                       .n_stages = any,
                       .context = f->p.context,
                       .kv_pages = 8 * (f->p.context / 64)};
    p.stages[0] = &f->gate;
    if (!any)
        (void)mlxd_fail(&p.why, MLXD_ERR_PEER, "mini2 was lost");
    mlxd_loop_set_pipeline(f->loop, &p);
}

static inline void fixture_load(fixture *f) {
    mlxd_host_params h = {
        .path = MLXD_GOLDEN "/tiny-f32.gguf", .threads = 1, .text = true, .head = true};
    FIXTURE_CHECK(mlxd_host_open(&f->host, &h, why));
    mlxd_cpu_params c = {.driver = f->host.driver,
                         .kv_pages = 8 * (f->p.context / 64),
                         .device = "mini1",
                         .layers = {.checkpoint = f->host.checkpoint,
                                    .config = &f->host.config,
                                    .kernels = f->host.kernels,
                                    .end = f->host.config.layers,
                                    .positions = f->p.context,
                                    .tokens_max = 4 * FIXTURE_CHUNK}};
    FIXTURE_CHECK(mlxd_cpu_open(&f->cpu, &c, why));
    gate_open(f);
    mlxd_loop_params l = {.engine = {.width = f->host.config.hidden,
                                     .prefill_chunk = FIXTURE_CHUNK,
                                     .step_tokens = 4 * FIXTURE_CHUNK,
                                     .sessions_max = f->p.sessions_max ? f->p.sessions_max : 8,
                                     .queue_max = f->p.queue_max ? f->p.queue_max : 64},
                          .head = f->host.head,
                          .clock = mlxd_clock_real()};
    FIXTURE_CHECK(mlxd_loop_open(&f->loop, &l, why));
    if (!f->p.no_pipeline)
        fixture_set_pipeline(f, 1, true);
}

static inline mlxd_api_params fixture_api_params(fixture *f) {
    return (mlxd_api_params){.host = f->p.worker ? NULL : &f->host,
                             .loop = f->loop,
                             .view = fixture_view,
                             .view_ctx = f,
                             .bind_host = f->p.bind_host,
                             .auth = f->p.auth,
                             .metrics_public = f->p.metrics_public,
                             .model_name = FIXTURE_MODEL,
                             .context = f->p.context,
                             .created = 1700000000,
                             .version = "9.8.7",
                             .commit = "abc",
                             .work_max = f->p.work_max,
                             .keepalive_ms = f->p.keepalive_ms,
                             .stream_bytes_max = f->p.stream_bytes_max};
}

/* NULL params: all defaults. */
static inline fixture *fixture_open(const fixture_params *p) {
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    if (p)
        f->p = *p;
    if (!f->p.context)
        f->p.context = FIXTURE_CONTEXT;
    mlxd_mutex_init(&f->lock);
    f->started_ns = mlxd_clock_now_ns();
    if (!f->p.worker)
        fixture_load(f);
    mlxd_api_params a = fixture_api_params(f);
    FIXTURE_CHECK(mlxd_api_open(&f->api, &a, why));
    f->port = mlxd_api_port(f->api);
    return f;
}

static inline void fixture_close(fixture *f) {
    mlxd_api_close(f->api);
    mlxd_loop_close(f->loop);
    if (f->steps) {
        mlxd_queue_shutdown(f->steps);
        mlxd_thread_join(&f->thread);
        mlxd_queue_close(f->steps);
    }
    mlxd_cpu_close(f->cpu);
    if (!f->p.worker)
        mlxd_host_close(&f->host);
    mlxd_mutex_deinit(&f->lock);
    free(f);
}

static inline mlxd_engine_stats fixture_stats(fixture *f) {
    mlxd_engine_stats s;
    mlxd_loop_stats(f->loop, &s);
    return s;
}

/* Waits until the engine has nothing left; fails after 5 s. Returns how long it took. */
static inline uint64_t fixture_wait_idle(fixture *f) {
    uint64_t began = mlxd_clock_now_ns();
    for (;;) {
        mlxd_engine_stats s = fixture_stats(f);
        mlxd_cpu_stats cpu;
        mlxd_cpu_stats_get(f->cpu, &cpu);
        if (s.running == 0 && s.waiting == 0 && s.kv_pages_reserved == 0 && cpu.sessions == 0)
            return mlxd_clock_now_ns() - began;
        if (mlxd_clock_now_ns() - began > 5 * MLXD_NS_PER_S)
            fail_msg("%u sessions still run, %u wait, %u at the stage", s.running, s.waiting,
                     cpu.sessions);
        pause_us(1000);
    }
}

/* ---- talking to it ---- */

static inline void say_post_with(client *c, const char *path, const char *headers,
                                 const char *body) {
    char head[512];
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n%s\r\n",
             path, strlen(body), headers);
    assert_true(client_say(c, head));
    assert_true(client_say(c, body));
}

static inline void say_post(client *c, const char *path, const char *body) {
    say_post_with(c, path, "", body);
}

static inline answer post(uint16_t port, const char *path, const char *body) {
    client c = client_open(port);
    say_post(&c, path, body);
    answer a = client_read(&c);
    client_close(&c);
    return a;
}

static inline answer chat(uint16_t port, const char *body) {
    return post(port, "/v1/chat/completions", body);
}

static inline answer get_with(uint16_t port, const char *path, const char *headers) {
    char text[1024];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, headers);
    return ask(port, text);
}

static inline answer get(uint16_t port, const char *path) {
    return get_with(port, path, "");
}

/* ---- reading JSON ---- */

/* The tiny model's weights are random, so byte 0 is a likely candidate of its tokens. In JSON it is
 * legal, but our reader refuses it: it is replaced by the picture of it before parsing. */
static inline mlxd_json_doc *parse_json(const char *text, size_t len) {
    mlxd_json_doc *doc = NULL;
    mlxd_why why = {0};
    char *copy = mlxd_mem_dup(text, len);
    assert_non_null(copy);
    for (char *p = strstr(copy, "\\u0000"); p; p = strstr(p, "\\u0000"))
        memcpy(p, "\\u2400", 6);
    if (mlxd_json_parse(&doc, (mlxd_slice){(const uint8_t *)copy, len}, MLXD_LIMIT_JSON_DEPTH,
                        &why))
        fail_msg("not JSON: %s\n%.*s", why.text, (int)len, text);
    mlxd_mem_free(copy);
    return doc;
}

/* The value at a path such as "choices.0.message.content"; NULL when it is not there. */
static inline const mlxd_json *at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = mlxd_json_root(doc);
    char part[64];
    while (*path && v) {
        size_t n = strcspn(path, ".");
        assert_true(n < sizeof part);
        memcpy(part, path, n);
        part[n] = 0;
        path += n + (path[n] == '.');
        if (mlxd_json_get_kind(v) == MLXD_JSON_ARRAY) {
            size_t i = strtoul(part, NULL, 10);
            v = i < mlxd_json_count(v) ? mlxd_json_at(v, i) : NULL;
        } else {
            v = mlxd_json_get_kind(v) == MLXD_JSON_OBJECT ? mlxd_json_find(v, part) : NULL;
        }
    }
    return v;
}

static inline const char *str_at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = at(doc, path);
    mlxd_slice s;
    if (!v || mlxd_json_get_str(v, &s))
        fail_msg("no string at %s", path);
    return (const char *)s.data;
}

static inline int64_t int_at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = at(doc, path);
    int64_t n;
    if (!v || mlxd_json_get_integral(v, &n))
        fail_msg("no integer at %s", path);
    return n;
}

static inline double double_at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = at(doc, path);
    double n;
    if (!v || mlxd_json_get_double(v, &n))
        fail_msg("no number at %s", path);
    return n;
}

static inline bool bool_at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = at(doc, path);
    bool b;
    if (!v || mlxd_json_get_bool(v, &b))
        fail_msg("no boolean at %s", path);
    return b;
}

static inline bool is_null_at(const mlxd_json_doc *doc, const char *path) {
    const mlxd_json *v = at(doc, path);
    return v && mlxd_json_get_kind(v) == MLXD_JSON_NULL;
}

#endif
