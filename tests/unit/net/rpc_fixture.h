/* rpc_fixture.h - what the transport's tests share: certificates of a small cluster in a temporary
 * directory, one runtime, a server whose methods cover the API, and blocking calls for a client.
 */
#ifndef MLXD_TESTS_RPC_FIXTURE_H
#define MLXD_TESTS_RPC_FIXTURE_H

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "net/certs.h"
#include "net/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SECONDS(n) (mlxd_clock_now_ns() + (uint64_t)(n)*MLXD_NS_PER_S)

static char cert_dir[64];
static mlxd_rpc_runtime *rt;
static mlxd_rpc_creds *coordinator, *worker, *operator, * plain;

/* Everything that callbacks count or hand over; tests wait on it. */
static struct {
    mlxd_mutex mutex;
    mlxd_cond cond;
    unsigned calls, cancels, opens, closes, messages, ends;
    mlxd_identity peer;
    char request_id[64];
    uint64_t deadline_ns;
    mlxd_rpc_call *held[128]; /* by "hold" */
    mlxd_rpc_msg *held_msg[128];
    unsigned held_count;
    mlxd_rpc_status closed; /* of the server's last stream */
} seen;

static void lock(void) {
    mlxd_mutex_lock(&seen.mutex);
}

static void unlock(void) {
    mlxd_cond_broadcast(&seen.cond);
    mlxd_mutex_unlock(&seen.mutex);
}

static void count(unsigned *counter) {
    lock();
    ++*counter;
    unlock();
}

/* Waits up to 10 s until *counter >= n. */
static bool wait_for(const unsigned *counter, unsigned n) {
    uint64_t until = SECONDS(10);
    bool in_time = true;
    mlxd_mutex_lock(&seen.mutex);
    while (*counter < n && in_time)
        in_time = mlxd_cond_wait_until(&seen.cond, &seen.mutex, until);
    bool ok = *counter >= n;
    mlxd_mutex_unlock(&seen.mutex);
    return ok;
}

static unsigned get(const unsigned *counter) {
    mlxd_mutex_lock(&seen.mutex);
    unsigned n = *counter;
    mlxd_mutex_unlock(&seen.mutex);
    return n;
}

static inline void sleep_ms(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* ---- certificates and runtime ---- */

static const char *cert_path(const char *stem, const char *suffix) {
    static char paths[6][128];
    static unsigned next;
    char *path = paths[next++ % 6];
    snprintf(path, sizeof paths[0], "%s/%s%s", cert_dir, stem, suffix);
    return path;
}

static mlxd_rpc_creds *load_creds(const char *ca, const char *stem) {
    mlxd_rpc_creds *creds;
    mlxd_why why;
    if (mlxd_rpc_creds_load(&creds, cert_path(ca, ".crt"), cert_path(stem, ".crt"),
                            cert_path(stem, ".key"), &why))
        fail_msg("%s", why.text);
    return creds;
}

static mlxd_rpc_creds *make_creds(mlxd_role role, const char *device) {
    mlxd_why why;
    mlxd_certs_node_options o = {.role = role, .device = device};
    if (mlxd_certs_node(cert_dir, &o, &why))
        fail_msg("%s", why.text);
    return load_creds("ca", device);
}

static int set_up(void **state) {
    mlxd_why why;
    (void)state;
    mlxd_mutex_init(&seen.mutex);
    mlxd_cond_init(&seen.cond);
    snprintf(cert_dir, sizeof cert_dir, "/tmp/mlxd-rpc-XXXXXX");
    if (!mkdtemp(cert_dir) || mlxd_certs_init(cert_dir, "home", false, &why))
        return -1;
    coordinator = make_creds(MLXD_ROLE_COORDINATOR, "mini1");
    worker = make_creds(MLXD_ROLE_WORKER, "mini2");
    operator= make_creds(MLXD_ROLE_OPERATOR, "admin");
    plain = mlxd_rpc_creds_plaintext();
    return mlxd_rpc_runtime_open(&rt, &why) ? -1 : 0;
}

static int tear_down(void **state) {
    char command[128];
    (void)state;
    mlxd_rpc_runtime_close(rt);
    mlxd_rpc_creds_close(coordinator);
    mlxd_rpc_creds_close(worker);
    mlxd_rpc_creds_close(operator);
    mlxd_rpc_creds_close(plain);
    mlxd_cond_deinit(&seen.cond);
    mlxd_mutex_deinit(&seen.mutex);
    snprintf(command, sizeof command, "rm -rf %s", cert_dir);
    return system(command);
}

/* ---- the server's methods ---- */

static void free_msg(void *msg) {
    mlxd_rpc_msg_free(msg);
}

/* Replies with the request's own bytes, from where they are. */
static void on_echo(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    const mlxd_rpc_info *info = mlxd_rpc_call_info(call);
    mlxd_slice id;
    (void)ctx;
    lock();
    seen.calls++;
    seen.peer = info->peer;
    seen.deadline_ns = info->deadline_ns;
    seen.request_id[0] = 0;
    if (mlxd_rpc_info_metadata(info, "x-request-id", &id))
        snprintf(seen.request_id, sizeof seen.request_id, "%.*s", (int)id.len,
                 (const char *)id.data);
    unlock();
    mlxd_rpc_part part = {mlxd_rpc_msg_bytes(msg), free_msg, msg};
    mlxd_rpc_call_reply(call, &part, 1);
}

static void on_hold(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    (void)ctx;
    lock();
    MLXD_ASSERT(seen.held_count < MLXD_COUNT_OF(seen.held));
    seen.held_msg[seen.held_count] = msg;
    seen.held[seen.held_count++] = call;
    unlock();
}

static void on_hold_cancel(void *ctx, mlxd_rpc_call *call) {
    (void)ctx;
    (void)call;
    count(&seen.cancels);
}

static inline void answer_held(void) {
    mlxd_rpc_part part = {.bytes = mlxd_slice_str("late")};
    for (;;) {
        lock();
        unsigned n = seen.held_count;
        mlxd_rpc_call *call = n ? seen.held[n - 1] : NULL;
        mlxd_rpc_msg *msg = n ? seen.held_msg[n - 1] : NULL;
        seen.held_count -= n ? 1 : 0;
        unlock();
        if (!n)
            return;
        mlxd_rpc_msg_free(msg);
        mlxd_rpc_call_reply(call, &part, 1);
    }
}

/* Fails with the mlxd_err that the first byte names. */
static void on_fail(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    mlxd_err err = (mlxd_err)mlxd_rpc_msg_bytes(msg).data[0];
    (void)ctx;
    mlxd_rpc_msg_free(msg);
    count(&seen.calls);
    mlxd_rpc_call_fail(call, err, "because of \xc3\xa4 test: 100%");
}

/* Stream echo: keeps messages that do not fit into the send queue; not freeing them is what slows
 * the client down. All on the poller thread. */
typedef struct echo_stream {
    mlxd_rpc_msg *kept[512];
    size_t first, n;
    bool ended; /* the client has said all: finish behind the last echo */
} echo_stream;

static void echo_pump(mlxd_rpc_stream *s) {
    echo_stream *e = mlxd_rpc_stream_user(s);
    while (e->n) {
        mlxd_rpc_msg *msg = e->kept[e->first % 512];
        mlxd_rpc_part part = {mlxd_rpc_msg_bytes(msg), free_msg, msg};
        mlxd_err err = mlxd_rpc_stream_send(s, &part, 1);
        if (err == MLXD_ERR_FULL)
            return;
        if (err)
            mlxd_rpc_msg_free(msg);
        e->first++;
        e->n--;
    }
    if (e->ended)
        mlxd_rpc_stream_finish(s, MLXD_OK, NULL);
}

static void echo_open(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    echo_stream *e = mlxd_mem_new(1, sizeof *e);
    MLXD_ASSERT(e);
    mlxd_rpc_stream_set_user(s, e);
    count(&seen.opens);
}

static void echo_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    echo_stream *e = mlxd_rpc_stream_user(s);
    (void)ctx;
    MLXD_ASSERT(e->n < 512);
    e->kept[(e->first + e->n++) % 512] = msg;
    count(&seen.messages);
    echo_pump(s);
}

static void echo_writable(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    echo_pump(s);
}

static void echo_end(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    echo_stream *e = mlxd_rpc_stream_user(s);
    e->ended = true;
    count(&seen.ends);
    echo_pump(s);
}

static void echo_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    echo_stream *e = mlxd_rpc_stream_user(s);
    (void)ctx;
    for (; e->n; e->n--)
        mlxd_rpc_msg_free(e->kept[e->first++ % 512]);
    mlxd_mem_free(e);
    mlxd_rpc_stream_close(s);
    lock();
    seen.closed = *status;
    seen.closes++;
    unlock();
}

#define ROLES_TEST ((unsigned)MLXD_ROLE_COORDINATOR | (unsigned)MLXD_ROLE_OPERATOR)

static const mlxd_rpc_method methods[] = {
    {.path = "/t.T/Echo", .roles = ROLES_TEST, .on_call = on_echo, .message_max = 16u << 20},
    {.path = "/t.T/Hold",
     .roles = ROLES_TEST,
     .on_call = on_hold,
     .on_cancel = on_hold_cancel,
     .message_max = 1u << 20},
    {.path = "/t.T/Fail", .roles = ROLES_TEST, .on_call = on_fail, .message_max = 100},
    {.path = "/t.T/Stream",
     .kind = MLXD_RPC_STREAM,
     .roles = MLXD_ROLE_COORDINATOR,
     .stream = {.on_open = echo_open,
                .on_message = echo_message,
                .on_writable = echo_writable,
                .on_end = echo_end,
                .on_close = echo_close},
     .limits = {.message_max = 1u << 20, .send_count_max = 4, .recv_count_max = 8}},
};

static mlxd_rpc_server *serve_with(const mlxd_rpc_creds *creds, int port, size_t peer_bytes_max) {
    char address[32];
    mlxd_rpc_server *server;
    mlxd_why why;
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    mlxd_rpc_server_options o = {.listen = address,
                                 .creds = creds,
                                 .methods = methods,
                                 .method_count = MLXD_COUNT_OF(methods),
                                 .peer_bytes_max = peer_bytes_max};
    if (mlxd_rpc_server_open(&server, rt, &o, &why))
        fail_msg("%s", why.text);
    return server;
}

static mlxd_rpc_channel *dial_port(int port, const mlxd_rpc_creds *creds, const char *device) {
    char address[32];
    mlxd_rpc_channel *channel;
    mlxd_why why;
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    mlxd_rpc_channel_options o = {
        .address = address, .creds = creds, .device = device, .own_connection = true};
    if (mlxd_rpc_channel_open(&channel, rt, &o, &why))
        fail_msg("%s", why.text);
    return channel;
}

static inline mlxd_rpc_channel *dial(const mlxd_rpc_server *server, const mlxd_rpc_creds *creds) {
    return dial_port(mlxd_rpc_server_port(server), creds, "mini2");
}

/* ---- a client that waits ---- */

typedef struct answer {
    unsigned done;
    mlxd_rpc_status status;
    mlxd_rpc_msg *reply;
} answer;

static void on_answer(void *user, const mlxd_rpc_status *status, mlxd_rpc_msg *reply) {
    answer *a = user;
    lock();
    a->status = *status;
    a->reply = reply;
    a->done++;
    unlock();
}

static void ask(mlxd_rpc_channel *channel, const char *path, mlxd_slice bytes, unsigned seconds,
                answer *a) {
    mlxd_rpc_part part = {.bytes = bytes};
    mlxd_why why;
    *a = (answer){0};
    mlxd_rpc_request r = {.path = path,
                          .deadline_ns = SECONDS(seconds),
                          .parts = &part,
                          .n = 1,
                          .request_id = "req-7",
                          .on_reply = on_answer,
                          .user = a};
    if (mlxd_rpc_channel_call(channel, &r, &why))
        fail_msg("%s", why.text);
}

/* One call from start to end; the reply is dropped. */
static inline mlxd_rpc_status call_status(mlxd_rpc_channel *channel, const char *path,
                                          mlxd_slice bytes) {
    answer a;
    ask(channel, path, bytes, 10, &a);
    assert_true(wait_for(&a.done, 1));
    mlxd_rpc_msg_free(a.reply);
    return a.status;
}

/* ---- a client's stream that checks the order of what it gets ---- */

typedef struct client_stream {
    unsigned got, ended, closed, writable;
    unsigned wrong; /* messages out of order or damaged */
    mlxd_rpc_status status;
    mlxd_rpc_stream *s;
} client_stream;

static void client_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    client_stream *c = ctx;
    mlxd_slice bytes = mlxd_rpc_msg_bytes(msg);
    uint32_t number = UINT32_MAX;
    (void)s;
    if (bytes.len >= sizeof number)
        memcpy(&number, bytes.data, sizeof number);
    lock();
    c->wrong += number != c->got;
    for (size_t i = sizeof number; i < bytes.len; i++)
        c->wrong += bytes.data[i] != (uint8_t)(number + i);
    c->got++;
    unlock();
    mlxd_rpc_msg_free(msg);
}

static void client_end(void *ctx, mlxd_rpc_stream *s) {
    (void)s;
    count(&((client_stream *)ctx)->ended);
}

static void client_writable(void *ctx, mlxd_rpc_stream *s) {
    (void)s;
    count(&((client_stream *)ctx)->writable);
}

static void client_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    client_stream *c = ctx;
    (void)s;
    lock();
    c->status = *status;
    c->closed++;
    unlock();
}

static inline void open_stream(client_stream *c, mlxd_rpc_channel *channel) {
    mlxd_why why;
    *c = (client_stream){0};
    mlxd_rpc_stream_options o = {.path = "/t.T/Stream",
                                 .deadline_ns = UINT64_MAX,
                                 .events = {.on_message = client_message,
                                            .on_end = client_end,
                                            .on_writable = client_writable,
                                            .on_close = client_close},
                                 .limits = {.send_count_max = 8},
                                 .ctx = c};
    if (mlxd_rpc_stream_open(&c->s, channel, &o, &why))
        fail_msg("%s", why.text);
}

/* Waits for on_close, then gives the handle back: only now nobody uses it any more. */
static inline bool end_stream(client_stream *c) {
    bool ok = wait_for(&c->closed, 1);
    mlxd_rpc_stream_close(c->s);
    return ok;
}

/* Message `number` of `len` bytes whose content says which one it is. */
static inline mlxd_err send_number(client_stream *c, uint32_t number, size_t len) {
    static uint8_t bytes[1u << 20];
    assert_true(len >= sizeof number && len <= sizeof bytes);
    memcpy(bytes, &number, sizeof number);
    for (size_t i = sizeof number; i < len; i++)
        bytes[i] = (uint8_t)(number + i);
    mlxd_rpc_part part = {.bytes = {bytes, len}};
    return mlxd_rpc_stream_send(c->s, &part, 1);
}

#endif
