/* test_worker_protocol.c - hostile ends of mlxd.StageService over real gRPC: a client that sends a
 * worker everything it should not, and a worker that answers a coordinator out of turn. Neither may
 * crash, hang or be talked into computing; and the next honest peer must be served. */
#include <setjmp.h>
#include <stdarg.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/members.h"
#include "cluster/wire.h"
#include "cluster/worker.h"
#include "serve/host.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define TOKENS_MAX 32

static mlxd_rpc_runtime *rpc;
static mlxd_rpc_creds *plain;
static mlxd_host host;
static mlxd_manifest manifest;
static mlxd_worker *worker;
static mlxd_rpc_server *server;
static char address[32];
static uint64_t random_state;

static void nap_us(long us) {
    struct timespec t = {.tv_nsec = us * 1000};
    nanosleep(&t, NULL);
}

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static void hash_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_why why = {0};
    (void)a;
    (void)b;
    check(mlxd_manifest_open(&manifest, host.checkpoint, pool, "", NULL, &why), &why);
}

static int set_up(void **state) {
    mlxd_why why = {0};
    mlxd_rpc_method methods[MLXD_WORKER_METHODS];
    (void)state;
    const char *seed = getenv("SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : mlxd_clock_wall_ns();
    print_message("SEED=%llu\n", (unsigned long long)random_state);
    check(mlxd_rpc_runtime_open(&rpc, &why), &why);
    plain = mlxd_rpc_creds_plaintext();
    mlxd_host_params h = {.path = MLXD_GOLDEN "/tiny-q4_1.gguf", .threads = 1};
    check(mlxd_host_open(&host, &h, &why), &why);
    mlxd_driver_run(host.driver, (mlxd_job){hash_job, NULL, NULL});
    mlxd_worker_params p = {.checkpoint = host.checkpoint,
                            .config = &host.config,
                            .kernels = host.kernels,
                            .driver = host.driver,
                            .device = "mini2",
                            .version = "test",
                            .speed = 1e9};
    check(mlxd_worker_open(&worker, &p, &why), &why);
    mlxd_worker_methods(worker, methods);
    mlxd_rpc_server_options s = {.listen = "127.0.0.1:0",
                                 .creds = plain,
                                 .methods = methods,
                                 .method_count = MLXD_WORKER_METHODS};
    check(mlxd_rpc_server_open(&server, rpc, &s, &why), &why);
    snprintf(address, sizeof address, "127.0.0.1:%d", mlxd_rpc_server_port(server));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_rpc_server_close(server, 0);
    mlxd_worker_close(worker);
    mlxd_manifest_close(&manifest);
    mlxd_host_close(&host);
    mlxd_rpc_creds_close(plain);
    mlxd_rpc_runtime_close(rpc);
    return 0;
}

/* ---- a client that says what it likes ---- */

struct client {
    mlxd_rpc_channel *channel;
    mlxd_rpc_stream *stream;
    _Atomic unsigned hellos, loads, steps, steps_failed;
    _Atomic bool closed;
    mlxd_rpc_status status;
    mlxd_why step_why;
};

static void on_reply(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    struct client *c = ctx;
    mlxd_slice header, hidden;
    mlxd_why why = {0};
    (void)s;
    check(mlxd_wire_split(mlxd_rpc_msg_bytes(msg), &header, &hidden, &why), &why);
    Mlxd__WorkReply *m = mlxd__work_reply__unpack(NULL, header.len, header.data);
    assert_non_null(m);
    if (m->body_case == MLXD__WORK_REPLY__BODY_STEP && m->step->status) {
        (void)mlxd_fail(&c->step_why, MLXD_OK, "%s", m->step->message);
        atomic_fetch_add(&c->steps_failed, 1);
    }
    atomic_fetch_add(m->body_case == MLXD__WORK_REPLY__BODY_HELLO    ? &c->hellos
                     : m->body_case == MLXD__WORK_REPLY__BODY_LOADED ? &c->loads
                                                                     : &c->steps,
                     m->body_case != MLXD__WORK_REPLY__BODY_PROGRESS);
    mlxd__work_reply__free_unpacked(m, NULL);
    mlxd_rpc_msg_free(msg);
}

static void on_closed(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    struct client *c = ctx;
    (void)s;
    c->status = *status;
    atomic_store(&c->closed, true);
}

static void open_client(struct client *c) {
    mlxd_why why = {0};
    *c = (struct client){0};
    mlxd_rpc_channel_options o = {.address = address, .creds = plain, .own_connection = true};
    check(mlxd_rpc_channel_open(&c->channel, rpc, &o, &why), &why);
    mlxd_rpc_stream_options s = {.path = MLXD_WIRE_WORK,
                                 .deadline_ns = UINT64_MAX,
                                 .wait_for_ready = true,
                                 .events = {.on_message = on_reply, .on_close = on_closed},
                                 .ctx = c};
    check(mlxd_rpc_stream_open(&c->stream, c->channel, &s, &why), &why);
}

static void close_client(struct client *c) {
    mlxd_rpc_channel_close(c->channel);
    mlxd_rpc_stream_close(c->stream);
}

static void send_bytes(struct client *c, const void *data, size_t len) {
    mlxd_rpc_part part = {.bytes = {data, len}};
    (void)!mlxd_rpc_stream_send(c->stream, &part, 1);
}

static void send_message(struct client *c, const Mlxd__WorkRequest *m) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    mlxd_wire_request(&buf, m);
    send_bytes(c, buf.data, buf.len);
    mlxd_buf_deinit(&buf);
}

static void send_hello(struct client *c, uint64_t epoch) {
    Mlxd__Hello hello = MLXD__HELLO__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.version = "test";
    hello.device = "mini1";
    hello.epoch = epoch;
    hello.meta_sha256 = (ProtobufCBinaryData){MLXD_SHA256_BYTES, manifest.meta};
    m.body_case = MLXD__WORK_REQUEST__BODY_HELLO;
    m.hello = &hello;
    send_message(c, &m);
}

static void send_load(struct client *c, uint32_t first, uint32_t end, uint32_t positions,
                      uint32_t kv_pages, size_t n_tensors) {
    Mlxd__TensorDigest digests[64], *pointers[64];
    mlxd_tensor_name names[64];
    Mlxd__Load load = MLXD__LOAD__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    assert_true(n_tensors <= 64);
    if (n_tensors > 0)
        assert_int_equal(mlxd_layers_tensors(&host.config, first, end, names), n_tensors);
    for (size_t i = 0; i < n_tensors; i++) {
        const mlxd_tensor_digest *d = mlxd_manifest_find(&manifest, names[i].text);
        mlxd__tensor_digest__init(&digests[i]);
        digests[i].name = names[i].text;
        digests[i].sha256 = (ProtobufCBinaryData){
            MLXD_SHA256_BYTES, d ? (uint8_t *)(uintptr_t)d->sha256 : manifest.meta};
        pointers[i] = &digests[i];
    }
    load.first = first;
    load.end = end;
    load.positions = positions;
    load.tokens_max = TOKENS_MAX;
    load.kv_pages = kv_pages;
    load.n_tensors = n_tensors;
    load.tensors = pointers;
    m.body_case = MLXD__WORK_REQUEST__BODY_LOAD;
    m.load = &load;
    send_message(c, &m);
}

/* A step of one row, encoded as a coordinator would. */
static void encode_step(mlxd_buf *out, uint64_t epoch, uint64_t session, uint32_t position,
                        uint32_t n, float value) {
    static const int32_t tokens[TOKENS_MAX] = {1, 2, 3};
    mlxd_step *s = mlxd_step_open(4, TOKENS_MAX, host.config.hidden);
    assert_non_null(s);
    mlxd_row row = {.session = session,
                    .prefix_hash = mlxd_kv_hash_init(),
                    .position = position,
                    .n_tokens = n,
                    .n_out = n,
                    .tokens = tokens};
    s->id = 77;
    s->epoch = epoch;
    assert_true(mlxd_step_add(s, &row, NULL));
    for (size_t i = 0; i < (size_t)n * s->width; i++)
        s->hidden[i] = value;
    mlxd_wire_step(out, s, true);
    mlxd_buf_add(out, s->hidden, (size_t)n * s->width * sizeof(float));
    mlxd_step_close(s);
}

static void send_step(struct client *c, uint64_t epoch, uint64_t session, uint32_t position,
                      float value) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    encode_step(&buf, epoch, session, position, 3, value);
    send_bytes(c, buf.data, buf.len);
    mlxd_buf_deinit(&buf);
}

static bool reached(_Atomic unsigned *counter, unsigned n) {
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    while (atomic_load(counter) < n && mlxd_clock_now_ns() < until)
        nap_us(200);
    return atomic_load(counter) >= n;
}

static void wait_closed(struct client *c, const char *text) {
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    while (!atomic_load(&c->closed) && mlxd_clock_now_ns() < until)
        nap_us(200);
    assert_true(atomic_load(&c->closed));
    if (!strstr(c->status.why.text, text))
        fail_msg("closed with \"%s\", expected \"%s\"", c->status.why.text, text);
}

/* Connected, layers 1 and 2 loaded. A worker that is still busy with the loads of coordinators
 * which have gone says so; then it is asked again, as a coordinator would. */
static void open_ready(struct client *c, uint64_t epoch) {
    uint64_t until = mlxd_clock_now_ns() + 30 * MLXD_NS_PER_S;
    for (;;) {
        open_client(c);
        send_hello(c, epoch);
        send_load(c, 1, 3, 64, 4, mlxd_layers_tensors(&host.config, 1, 3, NULL));
        while (!atomic_load(&c->loads) && !atomic_load(&c->closed) && mlxd_clock_now_ns() < until)
            nap_us(200);
        if (atomic_load(&c->loads))
            return;
        if (!strstr(c->status.why.text, "wait for layers") || mlxd_clock_now_ns() >= until)
            fail_msg("not loaded: %s", c->status.why.text);
        close_client(c);
        nap_us(20000);
    }
}

/* ---- tests of the worker ---- */

static void test_wrong_order(void **state) {
    struct client c;
    (void)state;
    open_client(&c);
    send_step(&c, 1, 1, 0, 0.5f);
    wait_closed(&c, "before layers are loaded");
    close_client(&c);
    open_client(&c);
    send_load(&c, 1, 3, 64, 4, mlxd_layers_tensors(&host.config, 1, 3, NULL));
    wait_closed(&c, "once, after hello");
    close_client(&c);
    open_client(&c);
    send_hello(&c, 1);
    send_hello(&c, 2);
    wait_closed(&c, "unexpected message");
    close_client(&c);
    open_ready(&c, 1);
    send_load(&c, 1, 3, 64, 4, mlxd_layers_tensors(&host.config, 1, 3, NULL));
    wait_closed(&c, "once, after hello");
    close_client(&c);
}

static void test_impossible_loads(void **state) {
    const struct {
        uint32_t first, end, positions, pages;
        size_t tensors;
        const char *text;
    } cases[] = {
        {3, 3, 64, 4, 0, "layers [3, 3)"},
        {0, UINT32_MAX, 64, 4, 0, "layers [0, 4294967295)"},
        {1, 2, UINT32_MAX, 4, 9, "out of range"},
        {1, 2, 64, 0, 9, "out of range"},
        {1, 2, 640, 4, 9, "out of range"}, /* a context that the pool cannot hold */
        {1, 2, 64, 4, 0, "0 tensors"},
        {1, 2, 64, UINT32_MAX, 9, "MiB free"},
    };
    (void)state;
    assert_int_equal(mlxd_layers_tensors(&host.config, 1, 2, NULL), 9);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        struct client c;
        open_client(&c);
        send_hello(&c, 1);
        send_load(&c, cases[i].first, cases[i].end, cases[i].positions, cases[i].pages,
                  cases[i].tensors);
        wait_closed(&c, cases[i].text);
        close_client(&c);
    }
}

static void test_steps_out_of_place(void **state) {
    struct client c;
    (void)state;
    open_ready(&c, 5);
    send_step(&c, 5, 1, 0, 0.5f);
    send_step(&c, 5, 1, 0, 0.5f); /* again: harmless */
    assert_true(reached(&c.steps, 2));
    assert_int_equal(atomic_load(&c.steps_failed), 0);
    send_step(&c, 5, 1, 9, 0.5f); /* a gap */
    assert_true(reached(&c.steps_failed, 1));
    assert_non_null(strstr(c.step_why.text, "step starts at 9"));
    send_step(&c, 5, 1, 2, 0.5f); /* the hash of another prefix */
    assert_true(reached(&c.steps_failed, 2));
    assert_non_null(strstr(c.step_why.text, "other tokens"));
    send_step(&c, 5, 2, UINT32_MAX, 0.5f);
    assert_true(reached(&c.steps_failed, 3));
    assert_non_null(strstr(c.step_why.text, "beyond the context"));
    send_step(&c, 4, 3, 0, 0.5f); /* an old epoch */
    assert_true(reached(&c.steps_failed, 4));
    assert_non_null(strstr(c.step_why.text, "epoch 4, now 5"));
    send_step(&c, 5, 4, 0, NAN);
    send_step(&c, 5, 5, 0, INFINITY);
    assert_true(reached(&c.steps_failed, 6));
    assert_non_null(strstr(c.step_why.text, "not finite"));
    send_step(&c, 6, 1, 0, 0.25f); /* and it still works, in a newer epoch */
    assert_true(reached(&c.steps, 9));
    assert_int_equal(atomic_load(&c.steps_failed), 6);
    mlxd_worker_status s;
    mlxd_worker_get_status(worker, &s);
    assert_int_equal(s.epoch, 6);
    assert_int_equal(s.stale_steps, 1);
    close_client(&c);
}

static void test_drop_flood(void **state) {
    struct client c;
    Mlxd__Drop body = MLXD__DROP__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    (void)state;
    open_ready(&c, 7);
    m.body_case = MLXD__WORK_REQUEST__BODY_DROP;
    m.drop = &body;
    for (body.session = 0; body.session < 50000; body.session++)
        send_message(&c, &m);
    close_client(&c);
    open_ready(&c, 8); /* whether or not the flood was cut off */
    close_client(&c);
}

static void test_epochs(void **state) {
    struct client old, new, later;
    (void)state;
    open_ready(&new, UINT64_MAX);
    open_client(&old);
    send_hello(&old, 100);
    wait_closed(&old, "comes with epoch 100");
    close_client(&old);
    assert_false(atomic_load(&new.closed));
    close_client(&new);
    /* With nobody there, a coordinator whose clock was set back is not locked out. */
    mlxd_worker_status s;
    do {
        nap_us(500);
        mlxd_worker_get_status(worker, &s);
    } while (s.coordinator[0]);
    open_ready(&old, 100);
    open_ready(&later, 101);
    wait_closed(&old, "");
    send_step(&later, 101, 1, 0, 0.5f);
    assert_true(reached(&later.steps, 1));
    assert_int_equal(atomic_load(&later.steps_failed), 0);
    close_client(&old);
    close_client(&later);
}

/* Coordinators that ask for different layers and leave at once, in every order. */
static void test_takeovers(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 60; i++) {
        struct client a, b;
        uint32_t first = random_below(3);
        open_client(&a);
        open_client(&b);
        send_hello(&a, 1000 + i);
        send_load(&a, first, first + 1, 64, 4, 9);
        send_hello(&b, 1000 + i);
        send_load(&b, first + 1, first + 2, 64, 4, 9);
        if (random_below(2))
            (void)reached(&b.hellos, 1);
        send_step(&b, 1000 + i, i, 0, 0.5f);
        close_client(&a);
        close_client(&b);
    }
    struct client c;
    open_ready(&c, 5000);
    send_step(&c, 5000, 1, 0, 0.5f);
    assert_true(reached(&c.steps, 1));
    assert_int_equal(atomic_load(&c.steps_failed), 0);
    close_client(&c);
}

static void test_damage(void **state) {
    mlxd_buf step;
    (void)state;
    mlxd_buf_init(&step, 0);
    encode_step(&step, 9000, 1, 0, 3, 0.5f);
    for (unsigned round = 0; round < 150; round++) {
        struct client c;
        if (round % 10 == 0) /* layers are loaded already, so this is quick */
            open_ready(&c, 9000);
        else
            open_client(&c);
        char *copy = mlxd_mem_dup(step.data, step.len);
        size_t len = random_below(2) ? step.len : random_below((uint32_t)step.len);
        for (uint32_t i = random_below(8); i > 0; i--)
            copy[random_below(random_below(2) ? 80 : (uint32_t)step.len)] ^=
                (char)(1u << random_below(7));
        send_bytes(&c, copy, len);
        mlxd_mem_free(copy);
        if (random_below(4) == 0)
            nap_us(2000);
        close_client(&c);
    }
    mlxd_buf_deinit(&step);
    struct client c;
    open_ready(&c, UINT64_MAX);
    close_client(&c);
}

/* ---- a worker that says what it likes ---- */

struct liar {
    mlxd_rpc_server *server;
    const Mlxd__WorkReply *const *says; /* in answer to the first message */
    size_t n;
    char address[32];
};

struct told {
    _Atomic unsigned hello, loaded, lost;
    mlxd_why why;
};

static void ignore_open(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    (void)s;
}

static void lie(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    struct liar *l = ctx;
    mlxd_rpc_msg_free(msg);
    for (size_t i = 0; i < l->n; i++) {
        mlxd_buf buf;
        mlxd_buf_init(&buf, 0);
        mlxd_wire_reply(&buf, l->says[i]);
        mlxd_rpc_part part = {.bytes = {buf.data, buf.len}};
        (void)!mlxd_rpc_stream_send(s, &part, 1);
        mlxd_buf_deinit(&buf);
    }
    l->n = 0;
}

static void ignore_beat(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    (void)ctx;
    (void)s;
    mlxd_rpc_msg_free(msg);
}

static void close_stream(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    (void)ctx;
    (void)status;
    mlxd_rpc_stream_close(s);
}

static void on_note(void *ctx, const mlxd_remote_note *note) {
    struct told *t = ctx;
    if (note->event == MLXD_REMOTE_LOST)
        t->why = note->why;
    atomic_fetch_add(note->event == MLXD_REMOTE_HELLO    ? &t->hello
                     : note->event == MLXD_REMOTE_LOADED ? &t->loaded
                                                         : &t->lost,
                     1);
}

/* What a coordinator is told of a worker that answers its hello with `says`. */
static void meet_liar(struct told *t, const Mlxd__WorkReply *const *says, size_t n) {
    struct liar l = {.says = says, .n = n};
    mlxd_remote *r;
    mlxd_why why = {0};
    mlxd_rpc_method methods[2] = {
        {.path = MLXD_WIRE_WORK,
         .kind = MLXD_RPC_STREAM,
         .roles = MLXD_ROLE_COORDINATOR,
         .ctx = &l,
         .stream = {.on_open = ignore_open, .on_message = lie, .on_close = close_stream}},
        {.path = MLXD_WIRE_BEAT,
         .kind = MLXD_RPC_STREAM,
         .roles = MLXD_ROLE_COORDINATOR,
         .ctx = &l,
         .stream = {.on_open = ignore_open, .on_message = ignore_beat, .on_close = close_stream}}};
    mlxd_rpc_server_options s = {
        .listen = "127.0.0.1:0", .creds = plain, .methods = methods, .method_count = 2};
    check(mlxd_rpc_server_open(&l.server, rpc, &s, &why), &why);
    snprintf(l.address, sizeof l.address, "127.0.0.1:%d", mlxd_rpc_server_port(l.server));
    *t = (struct told){0};
    mlxd_remote_params p = {.rpc = rpc,
                            .creds = plain,
                            .device = "mini2",
                            .address = l.address,
                            .self = "mini1",
                            .version = "test",
                            .config = &host.config,
                            .manifest = &manifest,
                            .epoch = 1,
                            .link = 1,
                            .note = on_note,
                            .note_ctx = t};
    check(mlxd_remote_open(&r, &p, &why), &why);
    assert_true(reached(&t->lost, 1));
    mlxd_remote_close(r);
    mlxd_rpc_server_close(l.server, 0);
    assert_int_equal(atomic_load(&t->lost), 1);
    assert_int_equal(atomic_load(&t->loaded), 0);
}

static void test_lying_worker(void **state) {
    struct told t;
    Mlxd__HelloReply hello = MLXD__HELLO_REPLY__INIT;
    Mlxd__Loaded loaded = MLXD__LOADED__INIT;
    Mlxd__LoadProgress progress = MLXD__LOAD_PROGRESS__INIT;
    Mlxd__WorkReply h = MLXD__WORK_REPLY__INIT, l = MLXD__WORK_REPLY__INIT,
                    p = MLXD__WORK_REPLY__INIT;
    (void)state;
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.device = "mini2";
    hello.meta_sha256 = (ProtobufCBinaryData){MLXD_SHA256_BYTES, manifest.meta};
    hello.memory_total = hello.memory_available = 1u << 30;
    hello.speed = 1e9;
    h.body_case = MLXD__WORK_REPLY__BODY_HELLO;
    h.hello = &hello;
    l.body_case = MLXD__WORK_REPLY__BODY_LOADED;
    l.loaded = &loaded; /* no layers, no tensors */
    p.body_case = MLXD__WORK_REPLY__BODY_PROGRESS;
    p.progress = &progress;
    meet_liar(&t, (const Mlxd__WorkReply *[]){&l}, 1);
    assert_non_null(strstr(t.why.text, "out of turn"));
    meet_liar(&t, (const Mlxd__WorkReply *[]){&h, &l}, 2);
    assert_non_null(strstr(t.why.text, "\"loaded\" out of turn"));
    assert_int_equal(t.hello, 1);
    meet_liar(&t, (const Mlxd__WorkReply *[]){&h, &h, &h}, 3);
    assert_non_null(strstr(t.why.text, "\"hello\" out of turn"));
    assert_int_equal(t.hello, 1);
    meet_liar(&t, (const Mlxd__WorkReply *[]){&p}, 1);
    assert_non_null(strstr(t.why.text, "\"progress\" out of turn"));
    hello.speed = NAN;
    meet_liar(&t, (const Mlxd__WorkReply *[]){&h}, 1);
    assert_non_null(strstr(t.why.text, "impossible speed"));
    assert_int_equal(t.hello, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_order),
        cmocka_unit_test(test_impossible_loads),
        cmocka_unit_test(test_steps_out_of_place),
        cmocka_unit_test(test_drop_flood),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_takeovers),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_lying_worker),
    };
    /* Refusals are what is tested here; their log lines only hide the results. */
    mlxd_log_init(MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
