/* grpc_call.c - a unary call on the server: one request, one reply.
 *
 *     accept -> [wait for budget] -> RECV_MESSAGE -> on_call ... reply or fail -> one batch:
 *               SEND_INITIAL_METADATA, SEND_MESSAGE when OK, SEND_STATUS_FROM_SERVER
 *     RECV_CLOSE_ON_SERVER runs beside it from the start: the client has left, or all is done.
 *
 * The grpc_call is released when the close notice has come and no batch is left; then the server
 * may forget the call (`gone`). The handler's handle may live longer: its reply then goes nowhere.
 *
 * References: the handler's handle, open batches together, the unfreed message.
 */
#include "net/grpc_core.h"

#include <stdio.h>
#include <string.h>

struct mlxd_rpc_call {
    mlxd_mutex mutex;
    unsigned refs;
    unsigned tags;
    grpc_call *call; /* NULL when released */
    mlxd_rpc_call_seed seed;
    mlxd_rpc_info info;
    size_t message_max;
    mlxd_rpc_tag close_tag, recv_tag, reply_tag;
    grpc_byte_buffer *recv_buffer;
    mlxd_rpc_waiter waiter;
    int cancelled_out; /* written by gRPC */
    bool cancelled;
    bool closed;    /* the close notice has come */
    bool delivered; /* on_call was called */
    bool answered;
};

static void on_closed(void *owner, bool ok);
static void on_received(void *owner, bool ok);
static void on_replied(void *owner, bool ok);
static void on_budget(void *owner);

static void unref(mlxd_rpc_call *c) {
    mlxd_mutex_lock(&c->mutex);
    MLXD_ASSERT(c->refs > 0);
    bool last = --c->refs == 0;
    mlxd_mutex_unlock(&c->mutex);
    if (!last)
        return;
    MLXD_ASSERT(!c->call);
    mlxd_rpc_peer_unref(c->seed.peer);
    mlxd_mutex_deinit(&c->mutex);
    mlxd_rpc_info_disown(&c->info);
    mlxd_mem_free(c);
}

static void tag_done(mlxd_rpc_call *c) {
    grpc_call *call = NULL;
    mlxd_mutex_lock(&c->mutex);
    MLXD_ASSERT(c->tags > 0);
    c->tags--;
    if (c->tags == 0 && c->closed) {
        call = c->call;
        c->call = NULL;
    }
    mlxd_mutex_unlock(&c->mutex);
    if (!call)
        return;
    grpc_call_unref(call);
    c->seed.gone(c->seed.owner);
    unref(c);
}

/* ---- answering ---- */

/* Claims the right to answer. True: a batch is counted and must be started with *call. */
static bool begin_answer(mlxd_rpc_call *c, grpc_call **call) {
    mlxd_mutex_lock(&c->mutex);
    MLXD_ASSERT(!c->answered);
    c->answered = true;
    bool go = c->call && !c->closed;
    if (go)
        c->tags++;
    *call = c->call;
    mlxd_mutex_unlock(&c->mutex);
    return go;
}

static void start_answer(mlxd_rpc_call *c, grpc_call *call, grpc_byte_buffer *buffer,
                         grpc_status_code code, const char *text) {
    grpc_op ops[3];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (buffer) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = buffer;
    }
    grpc_slice details = mlxd_rpc_text_slice(text);
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[n].data.send_status_from_server.status = code;
    ops[n++].data.send_status_from_server.status_details = &details;
    mlxd_rpc_batch(call, ops, n, &c->reply_tag);
    grpc_slice_unref(details);
}

static void answer_error(mlxd_rpc_call *c, grpc_status_code code, const char *text) {
    grpc_call *call;
    if (begin_answer(c, &call))
        start_answer(c, call, NULL, code, text);
    unref(c);
}

void mlxd_rpc_call_reply(mlxd_rpc_call *c, const mlxd_rpc_part *parts, size_t n) {
    size_t len;
    grpc_call *call;
    if (mlxd_rpc_bytes_len(parts, n, &len)) {
        mlxd_rpc_bytes_release(parts, n);
        answer_error(c, GRPC_STATUS_RESOURCE_EXHAUSTED, "the reply is too long for one message");
        return;
    }
    if (begin_answer(c, &call)) {
        grpc_byte_buffer *buffer = mlxd_rpc_bytes_join(parts, n);
        start_answer(c, call, buffer, GRPC_STATUS_OK, NULL);
        grpc_byte_buffer_destroy(buffer);
    } else {
        mlxd_rpc_bytes_release(parts, n);
    }
    unref(c);
}

void mlxd_rpc_call_fail(mlxd_rpc_call *c, mlxd_err err, const char *text) {
    MLXD_ASSERT(err != MLXD_OK);
    answer_error(c, (grpc_status_code)mlxd_err_get(err)->grpc_status, text);
}

static void on_replied(void *owner, bool ok) {
    (void)ok; /* the client left meanwhile */
    tag_done(owner);
}

/* ---- receiving ---- */

/* The budget has been taken. The handle's reference belongs to whoever answers. */
static void start_recv(mlxd_rpc_call *c) {
    mlxd_mutex_lock(&c->mutex);
    bool go = !c->closed;
    if (go)
        c->tags++;
    grpc_call *call = c->call;
    mlxd_mutex_unlock(&c->mutex);
    if (!go) {
        mlxd_rpc_peer_give(c->seed.peer, c->message_max);
        answer_error(c, GRPC_STATUS_CANCELLED, NULL);
        return;
    }
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &c->recv_buffer;
    mlxd_rpc_batch(call, &op, 1, &c->recv_tag);
}

static void on_budget(void *owner) {
    start_recv(owner);
}

static void on_freed(void *owner, size_t len) {
    mlxd_rpc_call *c = owner;
    mlxd_rpc_peer_give(c->seed.peer, len);
    unref(c);
}

/* What came, or NULL with the reason in *code and `text`. */
static mlxd_rpc_msg *take_message(mlxd_rpc_call *c, grpc_byte_buffer *buffer,
                                  grpc_status_code *code, char text[128]) {
    size_t len = buffer ? grpc_byte_buffer_length(buffer) : 0;
    if (!buffer) {
        *code = GRPC_STATUS_INVALID_ARGUMENT;
        snprintf(text, 128, "the call has no request message");
        return NULL;
    }
    *code = GRPC_STATUS_RESOURCE_EXHAUSTED;
    if (len > c->message_max) {
        grpc_byte_buffer_destroy(buffer);
        snprintf(text, 128, "message of %zu bytes, at most %zu are allowed", len, c->message_max);
        return NULL;
    }
    mlxd_rpc_msg *msg = mlxd_rpc_msg_from(buffer);
    if (!msg)
        snprintf(text, 128, "out of memory for a message of %zu bytes", len);
    return msg;
}

static void on_received(void *owner, bool ok) {
    mlxd_rpc_call *c = owner;
    grpc_byte_buffer *buffer = c->recv_buffer;
    c->recv_buffer = NULL;
    if (!ok && buffer) {
        grpc_byte_buffer_destroy(buffer);
        buffer = NULL;
    }
    grpc_status_code code;
    char text[128];
    mlxd_rpc_msg *msg = take_message(c, buffer, &code, text);
    mlxd_mutex_lock(&c->mutex);
    bool cancelled = c->cancelled;
    c->delivered = msg && !cancelled;
    if (c->delivered)
        c->refs++; /* the message's */
    mlxd_mutex_unlock(&c->mutex);
    if (msg && !cancelled) {
        mlxd_rpc_peer_give(c->seed.peer, c->message_max - msg->len);
        msg->freed = on_freed;
        msg->owner = c;
        c->seed.method->on_call(c->seed.method->ctx, c, msg);
    } else {
        mlxd_rpc_msg_free(msg);
        mlxd_rpc_peer_give(c->seed.peer, c->message_max);
        answer_error(c, cancelled ? GRPC_STATUS_CANCELLED : code, cancelled ? NULL : text);
    }
    tag_done(c);
}

static void on_closed(void *owner, bool ok) {
    mlxd_rpc_call *c = owner;
    mlxd_mutex_lock(&c->mutex);
    c->closed = true;
    c->cancelled = !ok || c->cancelled_out != 0;
    bool tell = c->cancelled && c->delivered && !c->answered;
    mlxd_mutex_unlock(&c->mutex);
    if (mlxd_rpc_peer_leave(c->seed.peer, &c->waiter))
        answer_error(c, GRPC_STATUS_CANCELLED, NULL);
    if (tell && c->seed.method->on_cancel)
        c->seed.method->on_cancel(c->seed.method->ctx, c);
    tag_done(c);
}

/* ---- begin ---- */

bool mlxd_rpc_call_start(const mlxd_rpc_call_seed *seed) {
    mlxd_rpc_call *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return false;
    mlxd_mutex_init(&c->mutex);
    c->refs = 2; /* the handle and the batches */
    c->tags = 1;
    c->call = seed->call;
    c->seed = *seed;
    c->info = seed->info;
    c->message_max =
        seed->method->message_max ? seed->method->message_max : MLXD_LIMIT_GRPC_MESSAGE;
    c->waiter.resume = on_budget;
    c->waiter.owner = c;
    mlxd_rpc_tag_init(&c->close_tag, on_closed, c);
    mlxd_rpc_tag_init(&c->recv_tag, on_received, c);
    mlxd_rpc_tag_init(&c->reply_tag, on_replied, c);
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &c->cancelled_out;
    mlxd_rpc_batch(c->call, &op, 1, &c->close_tag);
    /* Called on the poller, so the close notice cannot come in between. */
    mlxd_err err = mlxd_rpc_peer_take(seed->peer, &c->waiter, c->message_max);
    if (err == MLXD_OK)
        start_recv(c);
    else if (err != MLXD_ERR_AGAIN)
        answer_error(c, GRPC_STATUS_RESOURCE_EXHAUSTED,
                     "too many calls of this peer wait for its memory budget");
    return true;
}

const mlxd_rpc_info *mlxd_rpc_call_info(const mlxd_rpc_call *call) {
    return &call->info;
}

bool mlxd_rpc_call_cancelled(mlxd_rpc_call *c) {
    mlxd_mutex_lock(&c->mutex);
    bool cancelled = c->cancelled;
    mlxd_mutex_unlock(&c->mutex);
    return cancelled;
}
