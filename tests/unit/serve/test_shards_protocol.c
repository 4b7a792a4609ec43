/* test_shards_protocol.c - hostile ends of the transfer of model files over real gRPC: a
 * coordinator that offers what cannot be copied and sends chunks that are not what was asked for,
 * to a worker without a model; and a worker that asks for what it should not. Neither may crash,
 * hang, or reach beyond its folder or the model's files; a link that ends in the middle costs
 * nothing that came; and the next honest peer must be served. */
#include <setjmp.h>
#include <stdarg.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/remote.h"
#include "cluster/worker.h"
#include "serve/host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define FIRST 1 /* layers that are asked for */
#define END 4
#define TENSORS_MAX 64

static char dir[64], shards[96];
static mlxd_rpc_runtime *rpc;
static mlxd_rpc_creds *plain;
static mlxd_host host; /* of the model: the coordinator's */
static mlxd_manifest manifest;
static mlxd_replica_spec spec;

static void nap_us(long us) {
    struct timespec t = {.tv_nsec = us * 1000};
    nanosleep(&t, NULL);
}

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static void hash_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_why why = {0};
    (void)a;
    (void)b;
    check(mlxd_manifest_open(&manifest, host.checkpoint, pool, "", NULL, &why), &why);
}

static bool reached(_Atomic unsigned *counter, unsigned n) {
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    while (atomic_load(counter) < n && mlxd_clock_now_ns() < until)
        nap_us(200);
    return atomic_load(counter) >= n;
}

static int set_up(void **state) {
    mlxd_why why = {0};
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mlxd-shards-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(shards, sizeof shards, "%s/shards", dir);
    check(mlxd_rpc_runtime_open(&rpc, &why), &why);
    plain = mlxd_rpc_creds_plaintext();
    mlxd_host_params h = {.path = MLXD_GOLDEN "/tiny-f32.gguf", .threads = 1};
    check(mlxd_host_open(&host, &h, &why), &why);
    mlxd_driver_run(host.driver, (mlxd_job){hash_job, NULL, NULL});
    check(mlxd_replica_spec_open(&spec, host.checkpoint, &manifest, &why), &why);
    return 0;
}

static int no_shards(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", shards);
    return system(command);
}

static int tear_down(void **state) {
    (void)no_shards(state);
    mlxd_replica_spec_close(&spec);
    mlxd_manifest_close(&manifest);
    mlxd_host_close(&host);
    mlxd_rpc_creds_close(plain);
    mlxd_rpc_runtime_close(rpc);
    return rmdir(dir);
}

/* ---- an honest worker without a model ---- */

struct worker {
    mlxd_host host;
    mlxd_worker *worker;
    mlxd_rpc_server *server;
    char address[32];
};

static void start_worker(struct worker *w) {
    mlxd_why why = {0};
    mlxd_rpc_method methods[MLXD_WORKER_METHODS];
    mlxd_host_params h = {.threads = 1};
    check(mlxd_host_open(&w->host, &h, &why), &why);
    mlxd_worker_params p = {.shards = shards,
                            .kernels = w->host.kernels,
                            .driver = w->host.driver,
                            .device = "mini2",
                            .version = "test",
                            .speed = 1e9};
    check(mlxd_worker_open(&w->worker, &p, &why), &why);
    mlxd_worker_methods(w->worker, methods);
    mlxd_rpc_server_options s = {.listen = "127.0.0.1:0",
                                 .creds = plain,
                                 .methods = methods,
                                 .method_count = MLXD_WORKER_METHODS};
    check(mlxd_rpc_server_open(&w->server, rpc, &s, &why), &why);
    snprintf(w->address, sizeof w->address, "127.0.0.1:%d", mlxd_rpc_server_port(w->server));
}

static void stop_worker(struct worker *w) {
    mlxd_rpc_server_close(w->server, 0);
    mlxd_worker_close(w->worker);
    mlxd_host_close(&w->host);
}

/* ---- a coordinator that says what it likes ---- */

enum lie {
    HONEST,
    WRONG_DIGEST,  /* of a chunk */
    WRONG_CONTENT, /* with the right digest of it */
    SHORT_CHUNK,
    LONG_CHUNK,
    OTHER_PLACE,
    OTHER_FILE,
    TWICE,
    SHORT_DIGEST,
    SILENT,
};

struct client {
    mlxd_rpc_channel *channel;
    mlxd_rpc_stream *stream;
    enum lie lie;
    uint64_t lie_at; /* it lies about the file from here on */
    _Atomic unsigned fetches, loads, hellos;
    _Atomic uint64_t bytes;
    _Atomic bool closed;
    mlxd_rpc_status status;
};

static void send_buf(struct client *c, mlxd_buf *buf) {
    mlxd_rpc_part part = {.bytes = {buf->data, buf->len}};
    (void)!mlxd_rpc_stream_send(c->stream, &part, 1);
    mlxd_buf_deinit(buf);
}

static void send_chunk(struct client *c, mlxd_span at, const uint8_t *data, size_t len,
                       const uint8_t *digest) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    at.end = at.begin + len;
    mlxd_wire_chunk(&buf, &at, digest);
    mlxd_buf_add(&buf, data, len);
    send_buf(c, &buf);
}

static void answer_fetch(struct client *c, const Mlxd__Fetch *m) {
    mlxd_why why = {0};
    mlxd_span at = {m->file, m->offset, m->offset + m->bytes};
    uint8_t *data = mlxd_mem_new(m->bytes + 1, 1), digest[MLXD_SHA256_BYTES];
    enum lie lie = m->offset >= c->lie_at ? c->lie : HONEST;
    atomic_fetch_add(&c->fetches, 1);
    check(mlxd_checkpoint_part_read(host.checkpoint, m->file, m->offset, data, m->bytes, &why),
          &why);
    size_t len = m->bytes - (lie == SHORT_CHUNK) + (lie == LONG_CHUNK);
    data[0] ^= lie == WRONG_CONTENT;
    mlxd_sha256_once(data, len, digest);
    data[0] ^= lie == WRONG_DIGEST;
    at.begin += lie == OTHER_PLACE;
    at.file += lie == OTHER_FILE;
    atomic_fetch_add(&c->bytes, len);
    if (lie == SHORT_DIGEST) {
        Mlxd__Chunk chunk = MLXD__CHUNK__INIT;
        Mlxd__WorkRequest r = MLXD__WORK_REQUEST__INIT;
        mlxd_buf buf;
        mlxd_buf_init(&buf, 0);
        chunk.sha256 = (ProtobufCBinaryData){31, digest};
        r.body_case = MLXD__WORK_REQUEST__BODY_CHUNK;
        r.chunk = &chunk;
        mlxd_wire_request(&buf, &r);
        send_buf(c, &buf);
    } else if (lie != SILENT) {
        send_chunk(c, at, data, len, digest);
    }
    if (lie == TWICE)
        for (int i = 0; i < 20; i++)
            send_chunk(c, at, data, len, digest);
    mlxd_mem_free(data);
}

static void on_reply(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    struct client *c = ctx;
    mlxd_slice bytes = mlxd_rpc_msg_bytes(msg);
    Mlxd__WorkReply *m = mlxd__work_reply__unpack(NULL, bytes.len, bytes.data);
    (void)s;
    assert_non_null(m);
    if (m->body_case == MLXD__WORK_REPLY__BODY_FETCH)
        answer_fetch(c, m->fetch);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_LOADED)
        atomic_fetch_add(&c->loads, 1);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_HELLO)
        atomic_fetch_add(&c->hellos, 1);
    mlxd__work_reply__free_unpacked(m, NULL);
    mlxd_rpc_msg_free(msg);
}

static void on_closed(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    struct client *c = ctx;
    (void)s;
    c->status = *status;
    atomic_store(&c->closed, true);
}

static void open_client(struct client *c, const struct worker *w) {
    mlxd_why why = {0};
    *c = (struct client){0};
    mlxd_rpc_channel_options o = {.address = w->address, .creds = plain, .own_connection = true};
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

static void say_hello(struct client *c, const mlxd_replica_spec *offer) {
    Mlxd__Hello hello = MLXD__HELLO__INIT;
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.version = "test";
    hello.device = "mini1";
    hello.epoch = 1;
    hello.meta_sha256 = (ProtobufCBinaryData){MLXD_SHA256_BYTES, manifest.meta};
    mlxd_wire_hello(&buf, &hello, offer);
    send_buf(c, &buf);
}

static size_t list_tensors(mlxd_tensor_name names[TENSORS_MAX]) {
    size_t n = mlxd_layers_tensors(&host.config, FIRST, END, NULL);
    assert_in_range(n, 1, TENSORS_MAX);
    return mlxd_layers_tensors(&host.config, FIRST, END, names);
}

static void send_load(struct client *c) {
    Mlxd__TensorDigest digests[TENSORS_MAX], *pointers[TENSORS_MAX];
    mlxd_tensor_name names[TENSORS_MAX];
    Mlxd__Load load = MLXD__LOAD__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    mlxd_buf buf;
    load.n_tensors = list_tensors(names);
    for (size_t i = 0; i < load.n_tensors; i++) {
        const mlxd_tensor_digest *d = mlxd_manifest_find(&manifest, names[i].text);
        mlxd__tensor_digest__init(&digests[i]);
        digests[i].name = names[i].text;
        digests[i].sha256 =
            (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)d->sha256};
        pointers[i] = &digests[i];
    }
    load.first = FIRST;
    load.end = END;
    load.positions = 64;
    load.tokens_max = 32;
    load.kv_pages = 4;
    load.tensors = pointers;
    m.body_case = MLXD__WORK_REQUEST__BODY_LOAD;
    m.load = &load;
    mlxd_buf_init(&buf, 0);
    mlxd_wire_request(&buf, &m);
    send_buf(c, &buf);
}

static void wait_closed(struct client *c, const char *text) {
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    while (!atomic_load(&c->closed) && mlxd_clock_now_ns() < until)
        nap_us(200);
    assert_true(atomic_load(&c->closed));
    if (!strstr(c->status.why.text, text))
        fail_msg("closed with \"%s\", expected \"%s\"", c->status.why.text, text);
}

/* The head, and the tensors of layers FIRST to END. */
static uint64_t all_bytes(void) {
    uint64_t bytes = spec.files[0].head_bytes;
    mlxd_tensor_name names[TENSORS_MAX];
    for (size_t i = 0, n = list_tensors(names); i < n; i++)
        bytes += mlxd_checkpoint_find(host.checkpoint, names[i].text)->bytes;
    return bytes;
}

/* An honest coordinator is served; returns the bytes it had to send. */
static uint64_t load_honestly(const struct worker *w) {
    struct client c;
    uint64_t until = mlxd_clock_now_ns() + 20 * MLXD_NS_PER_S;
    open_client(&c, w);
    say_hello(&c, &spec);
    send_load(&c);
    while (!atomic_load(&c.loads) && !atomic_load(&c.closed) && mlxd_clock_now_ns() < until)
        nap_us(200);
    if (!atomic_load(&c.loads))
        fail_msg("not loaded: %s", c.status.why.text);
    uint64_t bytes = atomic_load(&c.bytes);
    close_client(&c);
    return bytes;
}

/* ---- tests of the worker ---- */

static void refused_offer(const struct worker *w, const mlxd_replica_spec *offer,
                          const char *text) {
    struct client c;
    open_client(&c, w);
    say_hello(&c, offer);
    wait_closed(&c, text);
    assert_int_equal(atomic_load(&c.hellos), 0);
    close_client(&c);
}

static void test_offers(void **state) {
    static mlxd_replica_file files[MLXD_LIMIT_MODEL_FILES + 1];
    static const char *const names[] = {"../x", "/tmp/x", "..", "", "a/../../b"};
    mlxd_replica_spec offer = {.files = files, .n_files = 1};
    struct worker w;
    (void)state;
    start_worker(&w);
    refused_offer(&w, NULL, "does not offer its own");
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        files[0] = spec.files[0];
        snprintf(files[0].name, sizeof files[0].name, "%s", names[i]);
        refused_offer(&w, &offer, "a plain name");
    }
    files[0] = spec.files[0];
    files[1] = spec.files[0];
    offer.n_files = 2;
    refused_offer(&w, &offer, "two files named");
    offer.n_files = 1;
    files[0].bytes = UINT64_MAX;
    refused_offer(&w, &offer, "out of range");
    files[0] = spec.files[0];
    files[0].head_bytes = files[0].bytes + 1;
    refused_offer(&w, &offer, "out of range");
    for (size_t i = 0; i < MLXD_COUNT_OF(files); i++) {
        files[i] = (mlxd_replica_file){.bytes = 10, .head_bytes = 1};
        snprintf(files[i].name, sizeof files[i].name, "%zu", i);
    }
    offer.n_files = MLXD_COUNT_OF(files);
    refused_offer(&w, &offer, "1025 files");
    assert_int_equal(access(shards, F_OK), -1); /* nothing was made for any of them */
    assert_int_equal(load_honestly(&w), all_bytes());
    stop_worker(&w);
}

/* The disk does not hold it, whatever it is: known before anything is asked for. */
static void test_a_model_that_is_too_large(void **state) {
    mlxd_replica_file file = spec.files[0];
    mlxd_replica_spec offer = {.files = &file, .n_files = 1};
    struct worker w;
    struct client c;
    (void)state;
    file.bytes = UINT64_C(1) << 50;
    start_worker(&w);
    open_client(&c, &w);
    say_hello(&c, &offer);
    send_load(&c);
    wait_closed(&c, ""); /* the file system's limit, or the truth about the model's length */
    assert_int_equal(atomic_load(&c.loads), 0);
    close_client(&c);
    stop_worker(&w);
}

/* A lie about the head, or about the tensors when the head is there. */
static void lied_to(const struct worker *w, enum lie lie, bool tensors, const char *text) {
    struct client c;
    open_client(&c, w);
    c.lie = lie;
    c.lie_at = tensors ? spec.files[0].head_bytes : 0;
    say_hello(&c, &spec);
    send_load(&c);
    wait_closed(&c, text);
    assert_int_equal(atomic_load(&c.loads), 0);
    close_client(&c);
}

static void test_chunks(void **state) {
    static const struct {
        enum lie lie;
        bool tensors;
        const char *text;
    } cases[] = {
        {WRONG_DIGEST, false, "does not fit its digest"},
        {WRONG_CONTENT, false, "not what mini1 announced"},
        {SHORT_CHUNK, false, "a chunk of 9471 bytes at 0 of file 0, asked were 9472"},
        {LONG_CHUNK, false, "a chunk of 9473 bytes at 0 of file 0, asked were 9472"},
        {OTHER_PLACE, false, "not asked for (file 0, offset 1)"},
        {OTHER_FILE, false, "not asked for (file 1, offset 0)"},
        {SHORT_DIGEST, false, "a digest of 31 bytes"},
        {TWICE, false, "not asked for"},
        {WRONG_DIGEST, true, "does not fit its digest"},
        {SHORT_CHUNK, true, "asked were"},
        {LONG_CHUNK, true, "asked were"},
        {OTHER_PLACE, true, "not asked for"},
        {WRONG_CONTENT, true, "the model files differ: tensor blk."},
    };
    struct worker w;
    (void)state;
    assert_int_equal(spec.files[0].head_bytes, 9472);
    start_worker(&w);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++)
        lied_to(&w, cases[i].lie, cases[i].tensors, cases[i].text);
    uint64_t bytes = load_honestly(&w);
    assert_true(bytes > 0 && bytes < all_bytes());
    stop_worker(&w);
}

static void test_chunks_out_of_turn(void **state) {
    uint8_t digest[MLXD_SHA256_BYTES] = {0};
    struct worker w;
    struct client c;
    (void)state;
    start_worker(&w);
    for (int after_hello = 0; after_hello < 2; after_hello++) {
        open_client(&c, &w);
        if (after_hello)
            say_hello(&c, &spec);
        send_chunk(&c, (mlxd_span){0, 0, 0}, digest, sizeof digest, digest);
        wait_closed(&c, "not asked for");
        close_client(&c);
    }
    assert_int_equal(load_honestly(&w), all_bytes());
    open_client(&c, &w); /* and when all is loaded */
    say_hello(&c, &spec);
    send_load(&c);
    assert_true(reached(&c.loads, 1));
    assert_int_equal(atomic_load(&c.fetches), 0);
    send_chunk(&c, (mlxd_span){0, 0, 0}, digest, sizeof digest, digest);
    wait_closed(&c, "not asked for");
    close_client(&c);
    stop_worker(&w);
}

/* The coordinator leaves in the middle: what came is not asked for again, by this worker or by one
 * that was started later. */
static void test_an_end_in_the_middle(void **state) {
    struct worker w;
    struct client c;
    (void)state;
    start_worker(&w);
    open_client(&c, &w);
    c.lie = SILENT;
    c.lie_at = spec.files[0].head_bytes;
    say_hello(&c, &spec);
    send_load(&c);
    assert_true(reached(&c.fetches, 2));
    close_client(&c);
    stop_worker(&w);
    start_worker(&w);
    assert_int_equal(load_honestly(&w), all_bytes() - spec.files[0].head_bytes);
    stop_worker(&w);
    start_worker(&w);
    assert_int_equal(load_honestly(&w), 0);
    stop_worker(&w);
}

/* Somebody deletes the folder of a worker that runs: the next load makes it anew. */
static void test_a_folder_that_is_deleted(void **state) {
    struct worker w;
    (void)state;
    start_worker(&w);
    lied_to(&w, WRONG_DIGEST, true, "does not fit its digest");
    assert_int_equal(no_shards(NULL), 0);
    assert_int_equal(load_honestly(&w), all_bytes());
    stop_worker(&w);
}

/* ---- a worker that asks for what it likes ---- */

struct thief {
    mlxd_rpc_server *server;
    const mlxd_span *asks;
    size_t n;
    bool early;   /* before it is told to load */
    bool offered; /* hello listed the model's file */
    bool deaf;    /* takes no chunk off the stream */
    char address[32];
    _Atomic unsigned chunks;
    mlxd_rpc_msg *held[4];
};

struct told {
    mlxd_remote *remote;
    _Atomic unsigned hello, lost;
    mlxd_why why;
};

static void thief_open(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    (void)s;
}

static void thief_say(mlxd_rpc_stream *s, mlxd_buf *buf) {
    mlxd_rpc_part part = {.bytes = {buf->data, buf->len}};
    (void)!mlxd_rpc_stream_send(s, &part, 1);
    mlxd_buf_deinit(buf);
}

static void thief_hello(mlxd_rpc_stream *s) {
    Mlxd__HelloReply hello = MLXD__HELLO_REPLY__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.device = "mini2";
    hello.memory_total = hello.memory_available = 1u << 30;
    hello.speed = 1e9;
    hello.takes_shards = true;
    m.body_case = MLXD__WORK_REPLY__BODY_HELLO;
    m.hello = &hello;
    mlxd_wire_reply(&buf, &m);
    thief_say(s, &buf);
}

static void thief_ask(struct thief *t, mlxd_rpc_stream *s) {
    for (size_t i = 0; i < t->n; i++) {
        mlxd_buf buf;
        mlxd_buf_init(&buf, 0);
        mlxd_wire_fetch(&buf, &t->asks[i]);
        thief_say(s, &buf);
    }
}

static void check_chunk(struct thief *t, const Mlxd__Chunk *m, mlxd_slice data) {
    uint8_t digest[MLXD_SHA256_BYTES], want[64];
    mlxd_why why = {0};
    size_t n = MLXD_MIN(data.len, sizeof want);
    mlxd_sha256_once(data.data, data.len, digest);
    assert_int_equal(m->sha256.len, sizeof digest);
    assert_memory_equal(m->sha256.data, digest, sizeof digest);
    check(mlxd_checkpoint_part_read(host.checkpoint, m->file, m->offset, want, n, &why), &why);
    assert_memory_equal(data.data, want, n);
    atomic_fetch_add(&t->chunks, 1);
}

static void thief_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    struct thief *t = ctx;
    mlxd_slice header, payload;
    mlxd_why why = {0};
    check(mlxd_wire_split(mlxd_rpc_msg_bytes(msg), &header, &payload, &why), &why);
    Mlxd__WorkRequest *m = mlxd__work_request__unpack(NULL, header.len, header.data);
    assert_non_null(m);
    if (m->body_case == MLXD__WORK_REQUEST__BODY_HELLO) {
        t->offered = m->hello->model && m->hello->model->n_files == 1;
        thief_hello(s);
        if (t->early)
            thief_ask(t, s);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_LOAD) {
        thief_ask(t, s);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_CHUNK) {
        check_chunk(t, m->chunk, payload);
    }
    bool chunk = m->body_case == MLXD__WORK_REQUEST__BODY_CHUNK;
    mlxd__work_request__free_unpacked(m, NULL);
    for (size_t i = 0; chunk && t->deaf && i < MLXD_COUNT_OF(t->held); i++)
        if (!t->held[i]) {
            t->held[i] = msg;
            return;
        }
    mlxd_rpc_msg_free(msg);
}

static void thief_beat(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    (void)ctx;
    (void)s;
    mlxd_rpc_msg_free(msg);
}

static void thief_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    (void)ctx;
    (void)status;
    mlxd_rpc_stream_close(s);
}

static void on_note(void *ctx, const mlxd_remote_note *note) {
    struct told *t = ctx;
    if (note->event == MLXD_REMOTE_LOST)
        t->why = note->why;
    if (note->event == MLXD_REMOTE_HELLO || note->event == MLXD_REMOTE_LOST)
        atomic_fetch_add(note->event == MLXD_REMOTE_HELLO ? &t->hello : &t->lost, 1);
}

static void start_thief(struct thief *t) {
    mlxd_why why = {0};
    const mlxd_rpc_method methods[2] = {
        {.path = MLXD_WIRE_WORK,
         .kind = MLXD_RPC_STREAM,
         .roles = MLXD_ROLE_COORDINATOR,
         .ctx = t,
         .stream = {.on_open = thief_open, .on_message = thief_message, .on_close = thief_close},
         .limits = {.recv_bytes_max = t->deaf ? 1 : 0}},
        {.path = MLXD_WIRE_BEAT,
         .kind = MLXD_RPC_STREAM,
         .roles = MLXD_ROLE_COORDINATOR,
         .ctx = t,
         .stream = {.on_open = thief_open, .on_message = thief_beat, .on_close = thief_close}}};
    mlxd_rpc_server_options s = {
        .listen = "127.0.0.1:0", .creds = plain, .methods = methods, .method_count = 2};
    check(mlxd_rpc_server_open(&t->server, rpc, &s, &why), &why);
    snprintf(t->address, sizeof t->address, "127.0.0.1:%d", mlxd_rpc_server_port(t->server));
}

/* What comes of a worker that asks so; `text`: why its link ends, NULL: it does not. */
static void meet_thief(mlxd_source *source, struct thief *t, const char *text) {
    struct told told = {0};
    mlxd_why why = {0};
    start_thief(t);
    mlxd_remote_params p = {.rpc = rpc,
                            .creds = plain,
                            .device = "mini2",
                            .address = t->address,
                            .self = "mini1",
                            .version = "test",
                            .config = &host.config,
                            .manifest = &manifest,
                            .source = source,
                            .epoch = 1,
                            .link = 1,
                            .note = on_note,
                            .note_ctx = &told};
    check(mlxd_remote_open(&told.remote, &p, &why), &why);
    assert_true(reached(&told.hello, 1));
    if (!t->early)
        check(mlxd_remote_load(told.remote, FIRST, END, 64, 32, 4, &why), &why);
    if (text) {
        assert_true(reached(&told.lost, 1));
        if (!strstr(told.why.text, text))
            fail_msg("lost with \"%s\", expected \"%s\"", told.why.text, text);
    } else {
        assert_true(reached(&t->chunks, (unsigned)t->n));
        assert_int_equal(atomic_load(&told.lost), 0);
    }
    mlxd_remote_close(told.remote);
    mlxd_rpc_server_close(t->server, 0);
    assert_int_equal(t->offered, source != NULL);
    for (size_t i = 0; i < MLXD_COUNT_OF(t->held); i++)
        mlxd_rpc_msg_free(t->held[i]);
}

static void test_fetches(void **state) {
    const uint64_t end = spec.files[0].bytes;
    const struct {
        mlxd_span span;
        const char *text;
    } cases[] = {
        {{0, 0, 10}, NULL},
        {{0, end - 1, end}, NULL},
        {{0, 3, end}, NULL},
        {{0, 10, 10}, "does not have"},
        {{1, 0, 10}, "does not have"},
        {{UINT32_MAX, 0, 10}, "does not have"},
        {{0, end, end + 1}, "does not have"},
        {{0, end - 5, end + 1}, "does not have"},
        {{0, UINT64_MAX - 1, UINT64_MAX}, "does not have"},
        {{0, UINT64_MAX - 1, 5}, "does not have"}, /* around the end of all numbers */
        {{0, 0, MLXD_LIMIT_SHARD_CHUNK + 1}, "does not have"},
    };
    mlxd_source *source;
    mlxd_why why = {0};
    (void)state;
    check(mlxd_source_open(&source, host.checkpoint, &manifest, &why), &why);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        struct thief t = {.asks = &cases[i].span, .n = 1};
        meet_thief(source, &t, cases[i].text);
    }
    struct thief early = {.asks = &cases[0].span, .n = 1, .early = true};
    meet_thief(source, &early, "\"fetch\" out of turn");
    struct thief late = {.asks = &cases[0].span, .n = 1};
    meet_thief(NULL, &late, "not given out");
    mlxd_source_close(source);
}

/* A worker that asks and asks and reads nothing: what is held for it is bounded. */
static void test_a_flood_of_fetches(void **state) {
    static mlxd_span asks[400];
    mlxd_source *source;
    mlxd_why why = {0};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(asks); i++)
        asks[i] = (mlxd_span){0, 0, spec.files[0].bytes};
    check(mlxd_source_open(&source, host.checkpoint, &manifest, &why), &why);
    struct thief t = {.asks = asks, .n = MLXD_COUNT_OF(asks), .deaf = true};
    meet_thief(source, &t, "fetches that wait");
    struct thief honest = {.asks = asks, .n = MLXD_WIRE_FETCH_WINDOW};
    meet_thief(source, &honest, NULL);
    mlxd_source_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_offers, no_shards),
        cmocka_unit_test_setup(test_a_model_that_is_too_large, no_shards),
        cmocka_unit_test_setup(test_chunks, no_shards),
        cmocka_unit_test_setup(test_chunks_out_of_turn, no_shards),
        cmocka_unit_test_setup(test_an_end_in_the_middle, no_shards),
        cmocka_unit_test_setup(test_a_folder_that_is_deleted, no_shards),
        cmocka_unit_test(test_fetches),
        cmocka_unit_test(test_a_flood_of_fetches),
    };
    /* Refusals are what is tested here; their log lines only hide the results. */
    mlxd_log_init(getenv("VERBOSE") ? MLXD_LOG_DEBUG : MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
