/* test_tensor_service.c - the contract's service over loopback: tensors come back as they were
 * sent, ForwardPass has the bits of the layers themselves, every refusal has its status, waiting
 * and queued calls end when they must, damage is harmless, roles are kept. Requests are packed and
 * answers unpacked by protobuf-c. */
#include "cluster/tensor_service.h"

#include "base/clock.h"
#include "kernel/kernel.h"
#include "net/certs.h"
#include "net/transport.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <tensor_service.pb-c.h>

#define SECONDS(n) (mlxd_clock_now_ns() + (uint64_t)((n)*1e9))
#define FIRST 1 /* layer that is loaded first; the model has five */
#define CONTEXT 320

/* gRPC status codes */
enum { OK, CANCELLED, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 7 };
enum { RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION, OUT_OF_RANGE = 11, UNAVAILABLE = 14 };
enum { DATA_LOSS = 15 };

static mlxd_rpc_runtime *rt;
static mlxd_rpc_creds *plain;
static mlxd_checkpoint *file;
static mlxd_config config;
static mlxd_driver *compute, *background;
static mlxd_cpu *cpu;
static mlxd_forward *forward;

/* What callbacks hand to the test. */
static mlxd_mutex mutex;
static mlxd_cond cond;

static void notify(void) {
    mlxd_cond_broadcast(&cond);
    mlxd_mutex_unlock(&mutex);
}

/* Waits up to 20 s until *counter >= n. */
static bool wait_for(const unsigned *counter, unsigned n) {
    uint64_t until = SECONDS(20);
    bool in_time = true;
    mlxd_mutex_lock(&mutex);
    while (*counter < n && in_time)
        in_time = mlxd_cond_wait_until(&cond, &mutex, until);
    bool ok = *counter >= n;
    mlxd_mutex_unlock(&mutex);
    return ok;
}

static unsigned get(const unsigned *counter) {
    mlxd_mutex_lock(&mutex);
    unsigned n = *counter;
    mlxd_mutex_unlock(&mutex);
    return n;
}

static void sleep_ms(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static mlxd_cpu *current_cpu(void *ctx) {
    (void)ctx;
    return cpu;
}

static int set_up(void **state) {
    mlxd_why why = {0};
    const mlxd_kernels *kernels;
    (void)state;
    mlxd_os_fpu_init();
    mlxd_mutex_init(&mutex);
    mlxd_cond_init(&cond);
    check(mlxd_rpc_runtime_open(&rt, &why), &why);
    plain = mlxd_rpc_creds_plaintext();
    assert_non_null(plain);
    check(mlxd_checkpoint_open(&file, MLXD_GOLDEN "/tiny-f32.gguf", &why), &why);
    check(mlxd_config_read(&config, file, &why), &why);
    check(mlxd_kernels_get(&kernels, NULL, &why), &why);
    check(mlxd_driver_open(&compute, 2, &why), &why);
    check(mlxd_driver_open(&background, 1, &why), &why);
    mlxd_cpu_params p = {.driver = compute,
                         .kv_pages = mlxd_kv_pages(CONTEXT),
                         .device = "mini2",
                         .layers = {.checkpoint = file,
                                    .config = &config,
                                    .kernels = kernels,
                                    .first = FIRST,
                                    .end = config.layers,
                                    .positions = CONTEXT,
                                    .tokens_max = 512}};
    check(mlxd_cpu_open(&cpu, &p, &why), &why);
    check(mlxd_forward_open(&forward, background, current_cpu, NULL, &why), &why);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_driver_close(background);
    mlxd_forward_close(forward);
    mlxd_cpu_close(cpu);
    mlxd_driver_close(compute);
    mlxd_checkpoint_close(file);
    mlxd_rpc_creds_close(plain);
    mlxd_rpc_runtime_close(rt);
    mlxd_cond_deinit(&cond);
    mlxd_mutex_deinit(&mutex);
    return 0;
}

/* ---- a node ---- */

typedef struct node {
    mlxd_tensor_service *service;
    mlxd_rpc_server *server;
    mlxd_rpc_channel *channel;
} node;

static mlxd_err forward_real(void *ctx, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                             uint32_t width, mlxd_forward_done *done, void *done_ctx) {
    assert_int_equal((uintptr_t)hidden % 64, 0);
    return mlxd_forward_submit(ctx, first, end, hidden, n, width, done, done_ctx);
}

/* A forward that keeps its pass until the test lets it go. */
static struct {
    unsigned calls;
    uint32_t first;
    mlxd_forward_done *done;
    void *done_ctx;
    float *hidden;
} held;

static mlxd_err forward_hold(void *ctx, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                             uint32_t width, mlxd_forward_done *done, void *done_ctx) {
    (void)ctx, (void)end, (void)n, (void)width;
    mlxd_mutex_lock(&mutex);
    held.done = done;
    held.done_ctx = done_ctx;
    held.hidden = hidden;
    held.first = first;
    held.calls++;
    notify();
    return MLXD_OK;
}

static void release_held(mlxd_err err, const char *text) {
    mlxd_why why;
    (void)mlxd_fail(&why, err, "%s", text);
    held.done(held.done_ctx, err, &why);
}

static mlxd_err forward_full(void *ctx, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                             uint32_t width, mlxd_forward_done *done, void *done_ctx) {
    (void)ctx, (void)first, (void)end, (void)hidden, (void)n, (void)width, (void)done,
        (void)done_ctx;
    return MLXD_ERR_FULL;
}

static bool shape(void *ctx, uint32_t *hidden, uint32_t *layers) {
    return ctx && (*hidden = config.hidden) > 0 && (*layers = config.layers) > 0;
}

static bool healthy = true;

static void view(void *ctx, mlxd_tensor_view *out) {
    (void)ctx;
    out->healthy = healthy;
    snprintf(out->text.text, sizeof out->text.text, "%s", healthy ? "ready" : "mini3 is lost");
    snprintf(out->coordinator, sizeof out->coordinator, "mini1");
    out->n_devices = 3;
    out->devices[0] =
        (mlxd_tensor_device){"mini1", "localhost", 9100, "coordinator", 0, 1, "online"};
    out->devices[1] = (mlxd_tensor_device){"mini2", "10.0.0.2", 9101, "worker", 1, 5, "online"};
    out->devices[2] = (mlxd_tensor_device){"mini3", "10.0.0.3", 9102, "worker", 0, 0, "offline"};
}

static mlxd_rpc_channel *dial(const node *n, const mlxd_rpc_creds *creds) {
    char address[32];
    mlxd_rpc_channel *channel;
    mlxd_why why = {0};
    snprintf(address, sizeof address, "127.0.0.1:%d", mlxd_rpc_server_port(n->server));
    mlxd_rpc_channel_options o = {
        .address = address, .creds = creds, .device = "mini2", .own_connection = true};
    check(mlxd_rpc_channel_open(&channel, rt, &o, &why), &why);
    return channel;
}

static node serve(mlxd_tensor_forward *fn, const mlxd_rpc_creds *creds,
                  const mlxd_rpc_creds *client) {
    node n;
    mlxd_why why = {0};
    mlxd_rpc_method methods[MLXD_TENSOR_METHODS];
    mlxd_tensor_service_params p = {.device = "mini2",
                                    .hidden_max = config.hidden,
                                    .forward = fn,
                                    .shape = shape,
                                    .forward_ctx = forward,
                                    .view = view};
    check(mlxd_tensor_service_open(&n.service, &p, &why), &why);
    mlxd_tensor_service_methods(n.service, methods);
    mlxd_rpc_server_options o = {.listen = "127.0.0.1:0",
                                 .creds = creds,
                                 .methods = methods,
                                 .method_count = MLXD_TENSOR_METHODS};
    check(mlxd_rpc_server_open(&n.server, rt, &o, &why), &why);
    n.channel = dial(&n, client);
    return n;
}

static void stop(node *n) {
    mlxd_rpc_channel_close(n->channel);
    mlxd_rpc_server_close(n->server, 1000);
    mlxd_tensor_service_close(n->service);
}

/* ---- calls ---- */

typedef struct answer {
    unsigned done;
    mlxd_rpc_status status;
    mlxd_rpc_msg *msg;
} answer;

static void on_reply(void *user, const mlxd_rpc_status *status, mlxd_rpc_msg *msg) {
    answer *a = user;
    mlxd_mutex_lock(&mutex);
    a->status = *status;
    a->msg = msg;
    a->done++;
    notify();
}

static void start(mlxd_rpc_channel *channel, const char *method, mlxd_slice bytes, double seconds,
                  answer *a) {
    char path[64];
    mlxd_why why = {0};
    mlxd_rpc_part part = {.bytes = bytes};
    snprintf(path, sizeof path, "/tensor_service.TensorService/%s", method);
    mlxd_rpc_request r = {.path = path,
                          .deadline_ns = SECONDS(seconds),
                          .parts = &part,
                          .n = 1,
                          .on_reply = on_reply,
                          .user = a};
    *a = (answer){0};
    check(mlxd_rpc_channel_call(channel, &r, &why), &why);
}

static mlxd_buf pack(const ProtobufCMessage *m) {
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    uint8_t *p = mlxd_buf_reserve(&b, protobuf_c_message_get_packed_size(m) + 1);
    assert_non_null(p);
    b.len = protobuf_c_message_pack(m, p);
    return b;
}

static void start_packed(mlxd_rpc_channel *channel, const char *method, const ProtobufCMessage *m,
                         double seconds, answer *a) {
    mlxd_buf b = pack(m);
    start(channel, method, (mlxd_slice){b.data, b.len}, seconds, a);
    mlxd_buf_deinit(&b);
}

static void *unpack(answer *a, const ProtobufCMessageDescriptor *type) {
    assert_non_null(a->msg);
    mlxd_slice bytes = mlxd_rpc_msg_bytes(a->msg);
    void *m = protobuf_c_message_unpack(type, NULL, bytes.len, bytes.data);
    assert_non_null(m);
    mlxd_rpc_msg_free(a->msg);
    return m;
}

static void drop(ProtobufCMessage *m) {
    protobuf_c_message_free_unpacked(m, NULL);
}

static void expect(const answer *a, int code, const char *text) {
    if (a->status.code != code || !strstr(a->status.why.text, text))
        fail_msg("status %d \"%s\", expected %d \"%s\"", a->status.code, a->status.why.text, code,
                 text);
}

/* A call that is refused. */
static void refused(mlxd_rpc_channel *channel, const char *method, const ProtobufCMessage *m,
                    int code, const char *text) {
    answer a;
    start_packed(channel, method, m, 20, &a);
    assert_true(wait_for(&a.done, 1));
    mlxd_rpc_msg_free(a.msg);
    expect(&a, code, text);
}

static TensorService__TensorData tensor(char *id, char *dtype, int32_t *shape, size_t n_shape,
                                        const void *data, size_t len) {
    TensorService__TensorData t = TENSOR_SERVICE__TENSOR_DATA__INIT;
    t.tensor_id = id;
    t.dtype = dtype;
    t.shape = shape;
    t.n_shape = n_shape;
    t.data = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)data};
    return t;
}

static mlxd_rpc_status send_tensor(mlxd_rpc_channel *channel, TensorService__TensorData *t) {
    answer a;
    TensorService__SendTensorRequest m = TENSOR_SERVICE__SEND_TENSOR_REQUEST__INIT;
    m.tensor = t;
    start_packed(channel, "SendTensor", &m.base, 20, &a);
    assert_true(wait_for(&a.done, 1));
    if (a.status.code == OK) {
        TensorService__SendTensorResponse *r =
            unpack(&a, &tensor_service__send_tensor_response__descriptor);
        assert_true(r->success);
        assert_string_equal(r->message, "");
        drop(&r->base);
    }
    return a.status;
}

static mlxd_rpc_status send_byte(mlxd_rpc_channel *channel, char *id, uint8_t byte) {
    int32_t shape[] = {1};
    TensorService__TensorData t = tensor(id, "uint8", shape, 1, &byte, 1);
    return send_tensor(channel, &t);
}

static void start_get(mlxd_rpc_channel *channel, char *id, double timeout, double seconds,
                      answer *a) {
    TensorService__GetTensorRequest m = TENSOR_SERVICE__GET_TENSOR_REQUEST__INIT;
    m.tensor_id = id;
    m.timeout = timeout;
    start_packed(channel, "GetTensor", &m.base, seconds, a);
}

static TensorService__GetTensorResponse *got(answer *a) {
    assert_true(wait_for(&a->done, 1));
    expect(a, OK, "");
    TensorService__GetTensorResponse *r =
        unpack(a, &tensor_service__get_tensor_response__descriptor);
    assert_true(r->success && r->tensor);
    assert_string_equal(r->message, "");
    return r;
}

/* ---- SendTensor, GetTensor ---- */

static void tensors_come_back(void **state) {
    enum { N = 3u << 20 };
    answer a;
    int32_t shape[] = {3, 1, 1024, 1024};
    uint8_t *data = malloc(N);
    (void)state;
    node n = serve(NULL, plain, plain);
    assert_non_null(data);
    for (size_t i = 0; i < N; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 11);
    TensorService__TensorData t = tensor("act/7 \xc3\xa4", "int8", shape, 4, data, N);
    t.compression = "none";
    t.device_source = "mini1";
    t.device_target = "mini2";
    t.timestamp = 1234.5;
    assert_int_equal(send_tensor(n.channel, &t).code, OK);
    for (int round = 0; round < 2; round++) {
        start_get(n.channel, t.tensor_id, 0, 20, &a);
        TensorService__GetTensorResponse *r = got(&a);
        assert_string_equal(r->tensor->tensor_id, t.tensor_id);
        assert_string_equal(r->tensor->dtype, "int8");
        assert_string_equal(r->tensor->device_source, "mini1");
        assert_string_equal(r->tensor->device_target, "mini2");
        assert_true(r->tensor->timestamp == 1234.5);
        assert_int_equal(r->tensor->n_shape, 4);
        assert_memory_equal(r->tensor->shape, shape, sizeof shape);
        assert_int_equal(r->tensor->data.len, N);
        assert_memory_equal(r->tensor->data.data, data, N);
        drop(&r->base);
    }
    assert_int_equal(send_byte(n.channel, t.tensor_id, 9).code, OK); /* replaces */
    start_get(n.channel, t.tensor_id, 0, 20, &a);
    TensorService__GetTensorResponse *r = got(&a);
    assert_true(r->tensor->data.len == 1 && r->tensor->data.data[0] == 9);
    drop(&r->base);
    stop(&n);
    free(data);
}

/* One of each kind; test_tensor_store.c has the rest. */
static void bad_tensors_are_refused(void **state) {
    const float values[4] = {1, NAN, 2, 3};
    int32_t square[] = {2, 2}, huge[] = {1 << 30, 1 << 30, 1 << 30, 1 << 30};
    (void)state;
    node n = serve(NULL, plain, plain);
    TensorService__TensorData t = tensor("", "int32", square, 2, values, 16);
    TensorService__SendTensorRequest m = TENSOR_SERVICE__SEND_TENSOR_REQUEST__INIT;
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "tensor is missing");
    m.tensor = &t;
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "tensor_id is empty");
    t = tensor("t", "float64", square, 2, values, 16);
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "dtype \"float64\"");
    t = tensor("t", "int32", huge, 4, values, 16);
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "overflows");
    t = tensor("t", "int32", square, 2, values, 15);
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "15 bytes of data");
    t = tensor("t", "float32", square, 2, values, 16);
    refused(n.channel, "SendTensor", &m.base, DATA_LOSS, "element 1 of 4 is not finite");
    t = tensor("t", "int32", square, 2, values, 16);
    t.compression = "lz4";
    refused(n.channel, "SendTensor", &m.base, INVALID_ARGUMENT, "compression \"lz4\"");
    TensorService__GetTensorRequest g = TENSOR_SERVICE__GET_TENSOR_REQUEST__INIT;
    refused(n.channel, "GetTensor", &g.base, INVALID_ARGUMENT, "tensor_id is empty");
    g.tensor_id = "t";
    refused(n.channel, "GetTensor", &g.base, NOT_FOUND, "no tensor \"t\""); /* none was stored */
    stop(&n);
}

static void full_store(void **state) {
    char id[32];
    answer a;
    (void)state;
    node n = serve(NULL, plain, plain);
    for (int i = 0; i < MLXD_LIMIT_TENSOR_STORE_COUNT; i++) {
        snprintf(id, sizeof id, "t%d", i);
        assert_int_equal(send_byte(n.channel, id, (uint8_t)i).code, OK);
    }
    mlxd_rpc_status st = send_byte(n.channel, "one more", 1);
    assert_int_equal(st.code, RESOURCE_EXHAUSTED);
    assert_non_null(strstr(st.why.text, "1024 tensors"));
    assert_int_equal(send_byte(n.channel, "t77", 200).code, OK);
    for (int i = 76; i < 79; i++) {
        snprintf(id, sizeof id, "t%d", i);
        start_get(n.channel, id, 0, 20, &a);
        TensorService__GetTensorResponse *r = got(&a);
        assert_int_equal(r->tensor->data.data[0], i == 77 ? 200 : i);
        drop(&r->base);
    }
    stop(&n);
}

/* ---- waiting for a tensor ---- */

static void get_waits_for_send(void **state) {
    answer first, second, other;
    (void)state;
    node n = serve(NULL, plain, plain);
    start_get(n.channel, "later", 3600, 20, &first);
    start_get(n.channel, "later", 15, 20, &second);
    start_get(n.channel, "never", 15, 20, &other);
    sleep_ms(100);
    assert_int_equal(get(&first.done) + get(&second.done) + get(&other.done), 0);
    assert_int_equal(send_byte(n.channel, "later", 5).code, OK);
    TensorService__GetTensorResponse *r = got(&first);
    assert_int_equal(r->tensor->data.data[0], 5);
    drop(&r->base);
    drop(&got(&second)->base);
    assert_int_equal(get(&other.done), 0);
    stop(&n); /* the channel takes its call back */
    expect(&other, CANCELLED, "");
}

static void get_gives_up(void **state) {
    static const double bad[] = {-1, -1e-300, 3600.5, 1e300, INFINITY, NAN};
    answer a;
    (void)state;
    node n = serve(NULL, plain, plain);
    uint64_t begin = mlxd_clock_now_ns();
    start_get(n.channel, "x", 0.2, 20, &a);
    assert_true(wait_for(&a.done, 1));
    expect(&a, NOT_FOUND, "did not come within 0.2 s");
    uint64_t took = mlxd_clock_now_ns() - begin;
    assert_true(took >= 200 * MLXD_NS_PER_MS && took < 10 * MLXD_NS_PER_S);
    start_get(n.channel, "x", 30, 0.2, &a); /* the call's deadline comes first */
    assert_true(wait_for(&a.done, 1));
    expect(&a, DEADLINE_EXCEEDED, "");
    assert_int_equal(send_byte(n.channel, "x", 1).code, OK); /* nobody waits any more */
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        TensorService__GetTensorRequest m = TENSOR_SERVICE__GET_TENSOR_REQUEST__INIT;
        m.tensor_id = "x";
        m.timeout = bad[i];
        refused(n.channel, "GetTensor", &m.base, INVALID_ARGUMENT, "expected 0..3600 seconds");
    }
    stop(&n);
}

/* How many of them have been refused because something is full; waits until `n` are. */
static unsigned refused_of(answer *a, size_t count, unsigned n) {
    unsigned found = 0;
    uint64_t until = SECONDS(20);
    while (found < n && mlxd_clock_now_ns() < until) {
        sleep_ms(50); /* time for more than `n` to come in */
        found = 0;
        for (size_t i = 0; i < count; i++)
            found += get(&a[i].done) && a[i].status.code == RESOURCE_EXHAUSTED;
    }
    return found;
}

/* As many as allowed wait; others are refused; those whose client leaves make room at once. */
static void waiters_are_bounded(void **state) {
    enum { CHANNELS = 5, EACH = 60, MORE = CHANNELS * EACH - MLXD_LIMIT_TENSOR_WAITERS };
    static answer a[CHANNELS * EACH];
    mlxd_rpc_channel *channels[CHANNELS];
    answer probe;
    unsigned served = 0;
    (void)state;
    node n = serve(NULL, plain, plain);
    for (int c = 0; c < CHANNELS; c++) {
        channels[c] = dial(&n, plain);
        for (int i = 0; i < EACH; i++)
            start_get(channels[c], "never", 1000, 1000, &a[c * EACH + i]);
    }
    assert_int_equal(refused_of(a, CHANNELS * EACH, MORE), MORE);
    mlxd_rpc_channel_close(channels[0]);
    do { /* once its end has come here, others may wait again */
        start_get(n.channel, "never", 0.01, 20, &probe);
        assert_true(wait_for(&probe.done, 1));
    } while (probe.status.code == RESOURCE_EXHAUSTED);
    expect(&probe, NOT_FOUND, "did not come");
    assert_int_equal(send_byte(n.channel, "never", 1).code, OK);
    for (int i = EACH; i < CHANNELS * EACH; i++) {
        assert_true(wait_for(&a[i].done, 1));
        served += a[i].status.code == OK;
        mlxd_rpc_msg_free(a[i].msg);
    }
    assert_true(served >= MLXD_LIMIT_TENSOR_WAITERS - EACH);
    for (int c = 1; c < CHANNELS; c++)
        mlxd_rpc_channel_close(channels[c]);
    stop(&n);
}

/* ---- ForwardPass ---- */

static float *random_hidden(size_t n, uint32_t seed) {
    float *x = malloc(n * config.hidden * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n * config.hidden; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)(seed >> 8 & 0xffff) / 32768.0f - 1.0f;
    }
    return x;
}

/* Layers [first, end) over x, by mlxd_layers_step in one go on one thread. */
static void reference(float *x, uint32_t n, uint32_t first, uint32_t end) {
    static const int32_t tokens[CONTEXT];
    mlxd_layers *layers;
    mlxd_kv *kv;
    mlxd_why why = {0};
    mlxd_pool *pool = mlxd_pool_open(1);
    assert_non_null(pool);
    mlxd_layers_params p = {.checkpoint = file,
                            .config = &config,
                            .kernels = mlxd_kernels_scalar(),
                            .first = first,
                            .end = end,
                            .positions = CONTEXT,
                            .tokens_max = CONTEXT,
                            .pool = pool};
    check(mlxd_layers_open(&layers, &p, &why), &why);
    check(mlxd_kv_open(&kv, &config, end - first, mlxd_kv_pages(CONTEXT), &why), &why);
    mlxd_row row = {.session = 1,
                    .prefix_hash = mlxd_kv_hash_init(),
                    .n_tokens = n,
                    .n_out = n,
                    .tokens = tokens};
    check(mlxd_layers_step(layers, kv, pool, first, end, &row, 1, false, x, NULL, &why), &why);
    mlxd_kv_close(kv);
    mlxd_layers_close(layers);
    mlxd_pool_close(pool);
}

static TensorService__ForwardPassRequest pass(TensorService__TensorData *t, int first, int last) {
    TensorService__ForwardPassRequest m = TENSOR_SERVICE__FORWARD_PASS_REQUEST__INIT;
    m.input_tensor = t;
    m.layer_start = first;
    m.layer_end = last;
    m.pass_id = "pass-1";
    return m;
}

static TensorService__ForwardPassResponse *passed(answer *a) {
    assert_true(wait_for(&a->done, 1));
    expect(a, OK, "");
    TensorService__ForwardPassResponse *r =
        unpack(a, &tensor_service__forward_pass_response__descriptor);
    assert_true(r->success && r->output_tensor);
    assert_string_equal(r->message, "");
    return r;
}

static void forward_has_the_bits_of_the_layers(void **state) {
    static const struct {
        int first, last;
        uint32_t n;
        bool batch;
    } cases[] = {{1, 4, 1, false},  {1, 4, 7, true},    {2, 2, 65, false},
                 {3, 4, 150, true}, {1, 3, 300, false}, {4, 4, CONTEXT, true}};
    (void)state;
    node n = serve(forward_real, plain, plain);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        uint32_t count = cases[i].n;
        size_t bytes = (size_t)count * config.hidden * sizeof(float);
        int32_t shape[] = {1, (int32_t)count, (int32_t)config.hidden};
        int skip = !cases[i].batch;
        float *x = random_hidden(count, (uint32_t)i + 1);
        TensorService__TensorData t =
            tensor("", "float32", shape + skip, (size_t)(3 - skip), x, bytes);
        TensorService__ForwardPassRequest m = pass(&t, cases[i].first, cases[i].last);
        answer a;
        for (int round = 0; round < 2; round++) { /* it keeps nothing: again is the same */
            start_packed(n.channel, "ForwardPass", &m.base, 20, &a);
            TensorService__ForwardPassResponse *r = passed(&a);
            float *expected = malloc(bytes);
            assert_non_null(expected);
            memcpy(expected, x, bytes);
            reference(expected, count, (uint32_t)cases[i].first, (uint32_t)cases[i].last + 1);
            const TensorService__TensorData *out = r->output_tensor;
            assert_string_equal(out->tensor_id, "pass-1:out");
            assert_string_equal(out->dtype, "float32");
            assert_string_equal(out->device_source, "mini2");
            assert_true(out->timestamp > 1.6e9);
            assert_int_equal(out->n_shape, t.n_shape);
            assert_memory_equal(out->shape, t.shape, t.n_shape * sizeof *t.shape);
            assert_int_equal(out->data.len, bytes);
            assert_memory_equal(out->data.data, expected, bytes);
            assert_memory_not_equal(expected, x, bytes);
            free(expected);
            drop(&r->base);
        }
        free(x);
    }
    stop(&n);
}

static void refused_pass(const node *n, TensorService__ForwardPassRequest *m, int code,
                         const char *text) {
    refused(n->channel, "ForwardPass", &m->base, code, text);
}

static void bad_passes_are_refused(void **state) {
    static char long_id[254];
    enum { N = 5000 };
    int32_t h = (int32_t)config.hidden, shape[] = {2, h}, batch[] = {2, 1, h}, flat[] = {2 * h};
    int32_t wide[] = {2, h / 2, 2}, narrow[] = {4, h / 2}, many[] = {4097, h}, beyond[] = {400, h};
    (void)state;
    memset(long_id, 'x', sizeof long_id - 1);
    node n = serve(forward_real, plain, plain);
    float *x = random_hidden(N, 1);
    const size_t row = config.hidden * sizeof(float);
    TensorService__TensorData good = tensor("in", "float32", shape, 2, x, 2 * row), t = good;
    TensorService__ForwardPassRequest m = pass(NULL, 1, 4);
    refused_pass(&n, &m, INVALID_ARGUMENT, "input_tensor is missing");
    m = pass(&t, -1, 4);
    refused_pass(&n, &m, INVALID_ARGUMENT, "layers -1..4");
    m = pass(&t, 3, 2);
    refused_pass(&n, &m, INVALID_ARGUMENT, "layers 3..2");
    m = pass(&t, 0, 4);
    refused_pass(&n, &m, FAILED_PRECONDITION, "holds 1..4");
    m = pass(&t, 0, 0);
    refused_pass(&n, &m, FAILED_PRECONDITION, "holds 1..4");
    m = pass(&t, 4, 5);
    refused_pass(&n, &m, FAILED_PRECONDITION, "the model has layers 0..4");
    m = pass(&t, 2147483647, 2147483647);
    refused_pass(&n, &m, FAILED_PRECONDITION, "the model has layers 0..4");
    m = pass(&t, 1, 4);
    m.pass_id = long_id;
    refused_pass(&n, &m, INVALID_ARGUMENT, "pass_id has 253 bytes");
    m = pass(&t, 1, 4);
    t.dtype = "float16";
    t.data.len /= 2;
    refused_pass(&n, &m, INVALID_ARGUMENT, "dtype float16, expected float32");
    t = good;
    t.dtype = "f32";
    refused_pass(&n, &m, INVALID_ARGUMENT, "input_tensor: dtype \"f32\"");
    t = good;
    t.compression = "zstd";
    refused_pass(&n, &m, INVALID_ARGUMENT, "compression \"zstd\"");
    const struct {
        int32_t *shape;
        size_t n, rows;
        int code;
        const char *text;
    } shapes[] = {{batch, 3, 2, INVALID_ARGUMENT, "shape [2, 1, 64]"},
                  {flat, 1, 2, INVALID_ARGUMENT, "shape [128], expected [positions, 64]"},
                  {wide, 3, 2, INVALID_ARGUMENT, "shape [2, 32, 2]"},
                  {narrow, 2, 2, INVALID_ARGUMENT, "shape [4, 32]"},
                  {shape, 2, 1, INVALID_ARGUMENT, "256 bytes of data, shape x float32 is 512"},
                  {shape, 0, 2, INVALID_ARGUMENT, "0 dimensions"},
                  {many, 2, 4097, INVALID_ARGUMENT, "4097 positions, at most 4096"},
                  {many, 2, N, RESOURCE_EXHAUSTED, "bytes"},
                  {beyond, 2, 400, OUT_OF_RANGE, "beyond the context of 320"}};
    for (size_t i = 0; i < MLXD_COUNT_OF(shapes); i++) {
        t = tensor("in", "float32", shapes[i].shape, shapes[i].n, x, shapes[i].rows * row);
        refused_pass(&n, &m, shapes[i].code, shapes[i].text);
    }
    t = good;
    x[77] = INFINITY;
    refused_pass(&n, &m, DATA_LOSS, "input_tensor: element 77 of 128 is not finite");
    free(x);
    stop(&n);
}

/* One position; what the tests below need no more of. */
static TensorService__TensorData one_row(void) {
    static float x[MLXD_LIMIT_HEAD_DIM];
    static int32_t shape[2];
    shape[0] = 1;
    shape[1] = (int32_t)config.hidden;
    assert_true(config.hidden <= MLXD_COUNT_OF(x));
    return tensor("in", "float32", shape, 2, x, config.hidden * sizeof *x);
}

static void no_layers_and_no_room(void **state) {
    (void)state;
    TensorService__TensorData t = one_row();
    TensorService__ForwardPassRequest m = pass(&t, 0, 0);
    node n = serve(NULL, plain, plain);
    refused_pass(&n, &m, FAILED_PRECONDITION, "no layers here");
    stop(&n);
    n = serve(forward_full, plain, plain);
    refused_pass(&n, &m, RESOURCE_EXHAUSTED, "full");
    refused_pass(&n, &m, RESOURCE_EXHAUSTED, "full");
    stop(&n);
}

/* One pass runs, the allowed number waits, others are refused. Those whose client leaves or whose
 * deadline passes are never computed and make room. */
static void queued_passes(void **state) {
    enum { N = MLXD_LIMIT_FORWARD_PASSES + 3 };
    static answer running, waiting[N], late, probe, last;
    (void)state;
    TensorService__TensorData t = one_row();
    TensorService__ForwardPassRequest m = pass(&t, 0, 0);
    node n = serve(forward_hold, plain, plain);
    mlxd_rpc_channel *leaver = dial(&n, plain);
    held.calls = 0;
    start_packed(n.channel, "ForwardPass", &m.base, 1000, &running);
    assert_true(wait_for(&held.calls, 1));
    for (int i = 0; i < N; i++)
        start_packed(leaver, "ForwardPass", &m.base, 1000, &waiting[i]);
    assert_int_equal(refused_of(waiting, N, 3), 3);
    mlxd_rpc_channel_close(leaver);
    do { /* once its end has come here, there is room in the line */
        start_packed(n.channel, "ForwardPass", &m.base, 1000, &probe);
        start_get(n.channel, "never", 0.05, 20, &late);
        assert_true(wait_for(&late.done, 1)); /* and so, if it was refused, is the probe */
    } while (get(&probe.done));
    start_packed(n.channel, "ForwardPass", &m.base, 0.3, &late);
    m = pass(&t, 1, 1);
    start_packed(n.channel, "ForwardPass", &m.base, 1000, &last);
    assert_true(wait_for(&late.done, 1));
    expect(&late, DEADLINE_EXCEEDED, "");
    sleep_ms(300); /* the server counts from when the call came */
    assert_int_equal(get(&held.calls), 1);
    for (uint32_t i = 0; i < config.hidden; i++)
        held.hidden[i] = (float)i;
    release_held(MLXD_OK, "");
    TensorService__ForwardPassResponse *r = passed(&running);
    assert_true(((float *)(void *)r->output_tensor->data.data)[3] == 3.0f);
    drop(&r->base);
    assert_true(wait_for(&held.calls, 2)); /* behind all the others in the line, yet the next */
    release_held(MLXD_ERR_CORRUPT, "the result is not finite");
    assert_true(wait_for(&probe.done, 1));
    expect(&probe, DATA_LOSS, "the result is not finite");
    assert_true(wait_for(&held.calls, 3));
    assert_int_equal(held.first, 1); /* the late one was left out */
    release_held(MLXD_OK, "");
    drop(&passed(&last)->base);
    assert_int_equal(get(&held.calls), 3);
    stop(&n);
}

static void release_later(void *arg) {
    (void)arg;
    sleep_ms(100);
    release_held(MLXD_OK, "");
}

/* Waiting calls, a queue and a running pass: closing ends them all and waits for the pass. */
static void close_with_work(void **state) {
    answer a[6];
    mlxd_thread thread;
    (void)state;
    TensorService__TensorData t = one_row();
    TensorService__ForwardPassRequest m = pass(&t, 0, 0);
    node n = serve(forward_hold, plain, plain);
    held.calls = 0;
    for (int i = 0; i < 3; i++) {
        start_packed(n.channel, "ForwardPass", &m.base, 1000, &a[i]);
        start_get(n.channel, "never", 1000, 1000, &a[3 + i]);
    }
    assert_true(wait_for(&held.calls, 1));
    mlxd_rpc_server_close(n.server, 0);
    assert_int_equal(mlxd_thread_start(&thread, "later", MLXD_PRIORITY_NORMAL, release_later, NULL),
                     MLXD_OK);
    mlxd_tensor_service_close(n.service);
    mlxd_thread_join(&thread);
    assert_int_equal(held.calls, 1);
    for (int i = 0; i < 6; i++) {
        assert_true(wait_for(&a[i].done, 1));
        assert_int_not_equal(a[i].status.code, OK);
    }
    mlxd_rpc_channel_close(n.channel);
}

/* ---- HealthCheck, GetClusterStatus ---- */

static void status_tells_the_truth(void **state) {
    answer a;
    (void)state;
    node n = serve(NULL, plain, plain);
    TensorService__HealthRequest h = TENSOR_SERVICE__HEALTH_REQUEST__INIT;
    h.device_id = "whoever asks";
    for (int round = 0; round < 2; round++) {
        healthy = round == 0;
        start_packed(n.channel, "HealthCheck", &h.base, 20, &a);
        assert_true(wait_for(&a.done, 1));
        TensorService__HealthResponse *r = unpack(&a, &tensor_service__health_response__descriptor);
        assert_int_equal(r->healthy, healthy);
        assert_string_equal(r->device_id, "mini2");
        assert_string_equal(r->status_message, healthy ? "ready" : "mini3 is lost");
        assert_true(r->timestamp > 1.6e9);
        drop(&r->base);
    }
    healthy = true;
    TensorService__ClusterStatusRequest c = TENSOR_SERVICE__CLUSTER_STATUS_REQUEST__INIT;
    start_packed(n.channel, "GetClusterStatus", &c.base, 20, &a);
    assert_true(wait_for(&a.done, 1));
    TensorService__ClusterStatusResponse *r =
        unpack(&a, &tensor_service__cluster_status_response__descriptor);
    assert_string_equal(r->coordinator, "mini1");
    assert_int_equal(r->n_devices, 3);
    const TensorService__DeviceInfo *d = r->devices[1];
    assert_string_equal(d->device_id, "mini2");
    assert_string_equal(d->hostname, "10.0.0.2");
    assert_string_equal(d->role, "worker");
    assert_string_equal(d->status, "online");
    assert_int_equal(d->port, 9101);
    assert_int_equal(d->n_layers, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(d->layers[i], 1 + i);
    assert_true(r->devices[0]->n_layers == 1 && r->devices[0]->layers[0] == 0);
    assert_string_equal(r->devices[0]->role, "coordinator");
    assert_int_equal(r->devices[2]->n_layers, 0);
    assert_string_equal(r->devices[2]->status, "offline");
    drop(&r->base);
    stop(&n);
}

/* ---- damage ---- */

static const char *const methods[] = {"SendTensor", "GetTensor", "ForwardPass", "HealthCheck",
                                      "GetClusterStatus"};

static int code_of(const node *n, const char *method, const uint8_t *data, size_t len) {
    answer a;
    start(n->channel, method, (mlxd_slice){data, len}, 5, &a);
    assert_true(wait_for(&a.done, 1));
    mlxd_rpc_msg_free(a.msg);
    return a.status.code;
}

/* Cut at each byte, and with a few bytes changed at random: a refusal with its reason, or, where it
 * is still a request, an answer; and good calls are served afterwards. */
static void damage(void **state) {
    const char *given = getenv("MLXD_SEED");
    unsigned long long seed = given ? strtoull(given, NULL, 0) : (unsigned long long)time(NULL);
    mlxd_buf good[5];
    (void)state;
    print_message("damage: MLXD_SEED=%llu\n", seed);
    srand((unsigned)seed);
    node n = serve(forward_real, plain, plain);
    TensorService__TensorData t = one_row();
    t.device_source = "mini1";
    TensorService__SendTensorRequest send = TENSOR_SERVICE__SEND_TENSOR_REQUEST__INIT;
    send.tensor = &t;
    TensorService__GetTensorRequest get_it = TENSOR_SERVICE__GET_TENSOR_REQUEST__INIT;
    get_it.tensor_id = "in";
    TensorService__ForwardPassRequest forward_it = pass(&t, 2, 3);
    TensorService__HealthRequest health = TENSOR_SERVICE__HEALTH_REQUEST__INIT;
    health.device_id = "admin";
    TensorService__ClusterStatusRequest cluster = TENSOR_SERVICE__CLUSTER_STATUS_REQUEST__INIT;
    cluster.requesting_device = "admin";
    const ProtobufCMessage *all[] = {&send.base, &get_it.base, &forward_it.base, &health.base,
                                     &cluster.base};
    for (int m = 0; m < 5; m++) {
        good[m] = pack(all[m]);
        for (size_t len = 0; len < good[m].len; len++) {
            int code = code_of(&n, methods[m], good[m].data, len);
            if (code != INVALID_ARGUMENT) /* a prefix that is a message of its own */
                assert_true(m > 0 &&
                            (code == OK || code == FAILED_PRECONDITION || code == NOT_FOUND));
        }
        assert_int_equal(code_of(&n, methods[m], good[m].data, good[m].len), OK);
    }
    unsigned counts[20] = {0};
    for (int round = 0; round < 3000; round++) {
        int m = rand() % 5;
        uint8_t copy[1024];
        assert_true(good[m].len <= sizeof copy);
        memcpy(copy, good[m].data, good[m].len);
        for (int i = 1 + rand() % 3; i > 0; i--)
            copy[(size_t)rand() % good[m].len] = (uint8_t)rand();
        int code = code_of(&n, methods[m], copy, good[m].len);
        assert_true(code >= 0 && code < 20 && code != UNAVAILABLE);
        counts[code]++;
    }
    assert_true(counts[OK] > 100 && counts[INVALID_ARGUMENT] > 100);
    for (int m = 0; m < 5; m++) {
        assert_int_equal(code_of(&n, methods[m], good[m].data, good[m].len), OK);
        mlxd_buf_deinit(&good[m]);
    }
    stop(&n);
}

/* ---- roles ---- */

static mlxd_rpc_creds *make_creds(const char *dir, mlxd_role role, const char *device) {
    char path[3][128];
    mlxd_rpc_creds *creds;
    mlxd_why why = {0};
    mlxd_certs_node_options o = {.role = role, .device = device};
    check(mlxd_certs_node(dir, &o, &why), &why);
    snprintf(path[0], sizeof path[0], "%s/ca.crt", dir);
    snprintf(path[1], sizeof path[1], "%s/%s.crt", dir, device);
    snprintf(path[2], sizeof path[2], "%s/%s.key", dir, device);
    check(mlxd_rpc_creds_load(&creds, path[0], path[1], path[2], &why), &why);
    return creds;
}

static void roles_over_mtls(void **state) {
    static const mlxd_role roles[] = {MLXD_ROLE_COORDINATOR, MLXD_ROLE_OPERATOR, MLXD_ROLE_WORKER};
    static const char *const devices[] = {"mini1", "admin", "mini3"};
    char dir[] = "/tmp/mlxd-tensor-XXXXXX", command[64];
    mlxd_why why = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    check(mlxd_certs_init(dir, "home", false, &why), &why);
    mlxd_rpc_creds *server = make_creds(dir, MLXD_ROLE_WORKER, "mini2");
    TensorService__TensorData t = one_row();
    TensorService__SendTensorRequest send = TENSOR_SERVICE__SEND_TENSOR_REQUEST__INIT;
    send.tensor = &t;
    TensorService__GetTensorRequest get_it = TENSOR_SERVICE__GET_TENSOR_REQUEST__INIT;
    get_it.tensor_id = "in";
    TensorService__ForwardPassRequest forward_it = pass(&t, 1, 4);
    TensorService__HealthRequest nothing = TENSOR_SERVICE__HEALTH_REQUEST__INIT;
    const ProtobufCMessage *all[] = {&send.base, &get_it.base, &forward_it.base, &nothing.base,
                                     &nothing.base};
    for (int r = 0; r < 3; r++) {
        mlxd_rpc_creds *client = make_creds(dir, roles[r], devices[r]);
        node n = serve(forward_real, server, client);
        for (int m = 0; m < 5; m++) {
            bool allowed = roles[r] != MLXD_ROLE_WORKER || m >= 3;
            mlxd_buf b = pack(all[m]);
            int code = code_of(&n, methods[m], b.data, b.len);
            assert_int_equal(code, allowed ? OK : PERMISSION_DENIED);
            mlxd_buf_deinit(&b);
        }
        stop(&n);
        mlxd_rpc_creds_close(client);
    }
    mlxd_rpc_creds_close(server);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tensors_come_back),
                                       cmocka_unit_test(bad_tensors_are_refused),
                                       cmocka_unit_test(full_store),
                                       cmocka_unit_test(get_waits_for_send),
                                       cmocka_unit_test(get_gives_up),
                                       cmocka_unit_test(waiters_are_bounded),
                                       cmocka_unit_test(forward_has_the_bits_of_the_layers),
                                       cmocka_unit_test(bad_passes_are_refused),
                                       cmocka_unit_test(no_layers_and_no_room),
                                       cmocka_unit_test(queued_passes),
                                       cmocka_unit_test(close_with_work),
                                       cmocka_unit_test(status_tells_the_truth),
                                       cmocka_unit_test(damage),
                                       cmocka_unit_test(roles_over_mtls)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
