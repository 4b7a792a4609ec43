/* grpc_stream.c - a bidirectional stream, the same machine on both ends.
 *
 *     batch          server                         client
 *     open           SEND_INITIAL_METADATA          SEND_ + RECV_INITIAL_METADATA
 *     end            RECV_CLOSE_ON_SERVER           RECV_STATUS_ON_CLIENT     the death notice
 *     send           SEND_MESSAGE                   SEND_MESSAGE              one at a time
 *     recv           RECV_MESSAGE                   RECV_MESSAGE              one at a time
 *     finish         SEND_STATUS_FROM_SERVER        SEND_CLOSE_FROM_CLIENT    behind the queue
 *
 * `tags` counts batches in flight. When the end notice has come (`ended`) and no batch is left, the
 * grpc_call is released and on_close is called; since batches come back on the poller only, so
 * does on_close. `open` and `end` are counted together before either is started, so that moment
 * cannot come too early.
 *
 * Sending: a list bounded in bytes and messages; a message counts until gRPC has taken it.
 * Receiving pauses while the application holds more than its window (messages not yet freed), which
 * closes the HTTP/2 window and so reaches the sender's queue. On a server the bytes of each
 * reception are taken from the peer's budget first (grpc_budget.c); `recv_busy` covers that wait.
 *
 * References: the application's handle, open batches together, a wait for budget, each unfreed
 * message.
 */
#include "net/grpc_core.h"

#include <stdio.h>
#include <string.h>

#define SEND_COUNT_DEFAULT 256
#define RECV_COUNT_DEFAULT 256

typedef struct unsent {
    struct unsent *next;
    grpc_byte_buffer *buffer;
    size_t len;
} unsent;

struct mlxd_rpc_stream {
    mlxd_mutex mutex;
    unsigned refs;
    unsigned tags;
    grpc_call *call; /* NULL when on_close has begun */
    mlxd_rpc_stream_seed seed;
    mlxd_rpc_stream_events events;
    mlxd_rpc_stream_limits limits;
    mlxd_rpc_info info;
    mlxd_rpc_peer *peer; /* server */
    void *user;

    mlxd_rpc_tag open_tag, end_tag, send_tag, recv_tag, finish_tag;
    grpc_metadata_array initial, trailing;

    unsent *first, *last; /* behind the one in flight */
    size_t queued_bytes, queued_count;
    size_t flight_len;
    bool send_busy;
    bool full_told;   /* a send returned FULL: on_writable is owed */
    bool finish_told; /* no more sends */
    bool finish_sent;
    grpc_status_code finish_code;
    grpc_slice finish_text;

    grpc_byte_buffer *recv_buffer;
    mlxd_rpc_waiter waiter;
    size_t held_bytes, held_count;
    bool recv_busy;
    bool recv_ended;

    bool ended;
    bool closed; /* on_close has begun: the handle may be closed */
    bool aborted;
    int cancelled; /* server: written by gRPC */
    grpc_status_code code;
    grpc_slice details;
    mlxd_rpc_status status;
};

static void pump_send(mlxd_rpc_stream *s);
static void pump_recv(mlxd_rpc_stream *s);
static void on_opened(void *owner, bool ok);
static void on_ended(void *owner, bool ok);
static void on_sent(void *owner, bool ok);
static void on_received(void *owner, bool ok);
static void on_finished(void *owner, bool ok);
static void on_budget(void *owner);

/* ---- life ---- */

void mlxd_rpc_stream_ref(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    MLXD_ASSERT(s->refs > 0);
    s->refs++;
    mlxd_mutex_unlock(&s->mutex);
}

void mlxd_rpc_stream_unref(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    MLXD_ASSERT(s->refs > 0);
    bool last = --s->refs == 0;
    mlxd_mutex_unlock(&s->mutex);
    if (!last)
        return;
    MLXD_ASSERT(!s->call && !s->first && s->held_count == 0);
    if (s->peer)
        mlxd_rpc_peer_unref(s->peer);
    mlxd_mutex_deinit(&s->mutex);
    mlxd_rpc_info_disown(&s->info);
    mlxd_mem_free(s);
}

static mlxd_rpc_stream_limits fill_limits(const mlxd_rpc_stream_limits *in) {
    mlxd_rpc_stream_limits l = *in;
    const size_t bytes = MLXD_LIMIT_GRPC_STREAM_MESSAGE;
    l.message_max = l.message_max ? l.message_max : bytes;
    l.send_bytes_max = l.send_bytes_max ? l.send_bytes_max : bytes;
    l.send_count_max = l.send_count_max ? l.send_count_max : SEND_COUNT_DEFAULT;
    l.recv_bytes_max = l.recv_bytes_max ? l.recv_bytes_max : bytes;
    l.recv_count_max = l.recv_count_max ? l.recv_count_max : RECV_COUNT_DEFAULT;
    return l;
}

mlxd_rpc_stream *mlxd_rpc_stream_new(const mlxd_rpc_stream_seed *seed) {
    MLXD_ASSERT(seed->events->on_message && seed->events->on_close);
    mlxd_rpc_stream *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return NULL;
    mlxd_mutex_init(&s->mutex);
    s->refs = 1;
    s->seed = *seed;
    s->events = *seed->events;
    s->limits = fill_limits(seed->limits);
    s->finish_text = grpc_empty_slice();
    s->details = grpc_empty_slice();
    s->waiter.resume = on_budget;
    s->waiter.owner = s;
    mlxd_rpc_tag_init(&s->open_tag, on_opened, s);
    mlxd_rpc_tag_init(&s->end_tag, on_ended, s);
    mlxd_rpc_tag_init(&s->send_tag, on_sent, s);
    mlxd_rpc_tag_init(&s->recv_tag, on_received, s);
    mlxd_rpc_tag_init(&s->finish_tag, on_finished, s);
    return s;
}

mlxd_rpc_info *mlxd_rpc_stream_info_mut(mlxd_rpc_stream *s) {
    return &s->info;
}

void mlxd_rpc_stream_start(mlxd_rpc_stream *s, grpc_call *call, mlxd_rpc_peer *peer,
                           grpc_metadata *metadata, size_t metadata_count, uint32_t flags) {
    mlxd_mutex_lock(&s->mutex);
    s->call = call;
    s->peer = peer;
    s->refs += 2; /* the batches', until on_close is through, and this function's */
    s->tags = 2;
    bool aborted = s->aborted; /* the channel began to close before we got here */
    mlxd_mutex_unlock(&s->mutex);
    grpc_op open[2], end[1];
    memset(open, 0, sizeof open);
    memset(end, 0, sizeof end);
    open[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    open[0].flags = flags;
    open[0].data.send_initial_metadata.metadata = metadata;
    open[0].data.send_initial_metadata.count = metadata_count;
    if (s->seed.server) {
        end[0].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        end[0].data.recv_close_on_server.cancelled = &s->cancelled;
    } else {
        grpc_metadata_array_init(&s->initial);
        grpc_metadata_array_init(&s->trailing);
        open[1].op = GRPC_OP_RECV_INITIAL_METADATA;
        open[1].data.recv_initial_metadata.recv_initial_metadata = &s->initial;
        end[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
        end[0].data.recv_status_on_client.trailing_metadata = &s->trailing;
        end[0].data.recv_status_on_client.status = &s->code;
        end[0].data.recv_status_on_client.status_details = &s->details;
    }
    mlxd_rpc_batch(call, open, s->seed.server ? 1 : 2, &s->open_tag);
    mlxd_rpc_batch(call, end, 1, &s->end_tag);
    if (aborted)
        (void)grpc_call_cancel(call, NULL);
    if (s->seed.server)
        s->events.on_open(s->seed.ctx, s);
    pump_recv(s);
    mlxd_rpc_stream_unref(s);
}

/* Drops what was queued; the caller has seen `ended`, so nobody adds to it any more. */
static void drop_queue(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    unsent *u = s->first;
    s->first = s->last = NULL;
    s->queued_bytes = s->queued_count = 0;
    mlxd_mutex_unlock(&s->mutex);
    while (u) {
        unsent *next = u->next;
        grpc_byte_buffer_destroy(u->buffer);
        mlxd_mem_free(u);
        u = next;
    }
}

/* On the poller: no batch is left and the end notice has come. */
static void close_down(mlxd_rpc_stream *s, grpc_call *call) {
    if (s->seed.server) {
        if (!s->aborted)
            mlxd_rpc_status_set(&s->status, s->cancelled ? GRPC_STATUS_CANCELLED : GRPC_STATUS_OK,
                                "the client left or the server is closing");
    } else {
        char *text = grpc_slice_to_c_string(s->details);
        if (!s->aborted)
            mlxd_rpc_status_set(&s->status, (int)s->code, text);
        gpr_free(text);
        grpc_metadata_array_destroy(&s->initial);
        grpc_metadata_array_destroy(&s->trailing);
    }
    grpc_slice_unref(s->details);
    grpc_slice_unref(s->finish_text);
    drop_queue(s);
    mlxd_rpc_stream_seed seed = s->seed;
    s->events.on_close(seed.ctx, s, &s->status);
    grpc_call_unref(call);
    seed.gone(seed.owner, s);
    mlxd_rpc_stream_unref(s);
}

/* A batch has come back and everything that follows from it is done. */
static void tag_done(mlxd_rpc_stream *s) {
    grpc_call *call = NULL;
    mlxd_mutex_lock(&s->mutex);
    MLXD_ASSERT(s->tags > 0);
    s->tags--;
    if (s->tags == 0 && s->ended) {
        MLXD_ASSERT(!s->closed);
        call = s->call;
        s->call = NULL;
        s->closed = true;
    }
    mlxd_mutex_unlock(&s->mutex);
    if (call)
        close_down(s, call);
}

static void on_opened(void *owner, bool ok) {
    (void)ok; /* the end notice tells why */
    tag_done(owner);
}

static void on_ended(void *owner, bool ok) {
    mlxd_rpc_stream *s = owner;
    (void)ok;
    mlxd_mutex_lock(&s->mutex);
    s->ended = true;
    mlxd_mutex_unlock(&s->mutex);
    bool waited = s->peer && mlxd_rpc_peer_leave(s->peer, &s->waiter);
    if (waited)
        mlxd_rpc_stream_unref(s); /* the wait's reference; the batches' one is still there */
    tag_done(s);
}

void mlxd_rpc_stream_close(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    bool closed = s->closed;
    mlxd_mutex_unlock(&s->mutex);
    MLXD_ASSERT(closed);
    mlxd_rpc_stream_unref(s);
}

/* ---- sending ---- */

static void pump_send(mlxd_rpc_stream *s) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    unsent *u = NULL;
    mlxd_mutex_lock(&s->mutex);
    bool finish = false;
    if (!s->send_busy && !s->finish_sent && !s->ended && s->call) {
        u = s->first;
        finish = !u && s->finish_told;
    }
    if (u) {
        s->first = u->next;
        if (!s->first)
            s->last = NULL;
        s->send_busy = true;
        s->flight_len = u->len;
    }
    if (finish)
        s->finish_sent = true;
    if (u || finish)
        s->tags++;
    grpc_call *call = s->call;
    mlxd_mutex_unlock(&s->mutex);
    if (u) {
        op.op = GRPC_OP_SEND_MESSAGE;
        op.data.send_message.send_message = u->buffer;
        mlxd_rpc_batch(call, &op, 1, &s->send_tag);
        grpc_byte_buffer_destroy(u->buffer);
        mlxd_mem_free(u);
    } else if (finish && s->seed.server) {
        op.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op.data.send_status_from_server.status = s->finish_code;
        op.data.send_status_from_server.status_details = &s->finish_text;
        mlxd_rpc_batch(call, &op, 1, &s->finish_tag);
    } else if (finish) {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        mlxd_rpc_batch(call, &op, 1, &s->finish_tag);
    }
}

static void on_sent(void *owner, bool ok) {
    mlxd_rpc_stream *s = owner;
    (void)ok; /* a failed send means that the end notice is under way */
    mlxd_mutex_lock(&s->mutex);
    s->send_busy = false;
    s->queued_count -= s->queued_count ? 1 : 0;
    s->queued_bytes -= MLXD_MIN(s->queued_bytes, s->flight_len);
    bool writable = s->full_told && !s->ended && !s->finish_told &&
                    s->queued_bytes <= s->limits.send_bytes_max / 2 &&
                    s->queued_count <= s->limits.send_count_max / 2;
    if (writable)
        s->full_told = false;
    mlxd_mutex_unlock(&s->mutex);
    pump_send(s);
    if (writable && s->events.on_writable)
        s->events.on_writable(s->seed.ctx, s);
    tag_done(s);
}

static void on_finished(void *owner, bool ok) {
    (void)ok;
    tag_done(owner);
}

/* Reserves room for a message; on FULL on_writable is owed. */
static mlxd_err reserve(mlxd_rpc_stream *s, size_t len) {
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&s->mutex);
    if (s->ended || s->finish_told || s->aborted) {
        err = MLXD_ERR_PEER;
    } else if (s->queued_count > 0 && (s->queued_count >= s->limits.send_count_max ||
                                       s->queued_bytes >= s->limits.send_bytes_max ||
                                       len > s->limits.send_bytes_max - s->queued_bytes)) {
        s->full_told = true;
        err = MLXD_ERR_FULL;
    } else {
        s->queued_count++;
        s->queued_bytes += len;
        s->refs++; /* the stream may end while the parts are joined */
    }
    mlxd_mutex_unlock(&s->mutex);
    return err;
}

mlxd_err mlxd_rpc_stream_send(mlxd_rpc_stream *s, const mlxd_rpc_part *parts, size_t n) {
    size_t len;
    mlxd_err err = mlxd_rpc_bytes_len(parts, n, &len);
    if (err)
        return err;
    unsent *u = mlxd_mem_new(1, sizeof *u);
    if (!u)
        return MLXD_ERR_NOMEM;
    err = reserve(s, len);
    if (err) {
        mlxd_mem_free(u);
        return err;
    }
    u->buffer = mlxd_rpc_bytes_join(parts, n);
    u->len = len;
    mlxd_mutex_lock(&s->mutex);
    bool late = s->ended || s->finish_sent;
    if (!late) {
        *(s->last ? &s->last->next : &s->first) = u;
        s->last = u;
    }
    mlxd_mutex_unlock(&s->mutex);
    if (late) {
        grpc_byte_buffer_destroy(u->buffer);
        mlxd_mem_free(u);
    } else {
        pump_send(s);
    }
    mlxd_rpc_stream_unref(s);
    return MLXD_OK;
}

void mlxd_rpc_stream_finish(mlxd_rpc_stream *s, mlxd_err err, const char *text) {
    MLXD_ASSERT(s->seed.server || err == MLXD_OK);
    grpc_slice slice = mlxd_rpc_text_slice(text);
    mlxd_mutex_lock(&s->mutex);
    bool first = !s->finish_told && !s->ended;
    if (first) {
        s->finish_told = true;
        s->finish_code = (grpc_status_code)mlxd_err_get(err)->grpc_status;
        s->finish_text = slice;
    }
    s->refs++;
    mlxd_mutex_unlock(&s->mutex);
    if (!first)
        grpc_slice_unref(slice);
    pump_send(s);
    mlxd_rpc_stream_unref(s);
}

void mlxd_rpc_stream_abort(mlxd_rpc_stream *s, grpc_status_code code, const char *text) {
    grpc_call *call = NULL;
    mlxd_mutex_lock(&s->mutex);
    if (!s->closed && !s->ended && !s->aborted) {
        s->aborted = true;
        mlxd_rpc_status_set(&s->status, (int)code, text);
        call = s->call; /* NULL: not started yet */
        if (call)
            grpc_call_ref(call);
    }
    mlxd_mutex_unlock(&s->mutex);
    if (!call)
        return;
    grpc_call_error error = grpc_call_cancel_with_status(call, code, text, NULL);
    MLXD_ASSERT(error == GRPC_CALL_OK);
    grpc_call_unref(call);
}

void mlxd_rpc_stream_cancel(mlxd_rpc_stream *s) {
    mlxd_rpc_stream_abort(s, GRPC_STATUS_CANCELLED, "cancelled");
}

/* ---- receiving ---- */

/* The budget has been taken and `recv_busy` is set. */
static void start_recv(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    bool go = !s->ended && s->call;
    if (go)
        s->tags++;
    else
        s->recv_busy = false;
    grpc_call *call = s->call;
    mlxd_mutex_unlock(&s->mutex);
    if (!go) {
        if (s->peer)
            mlxd_rpc_peer_give(s->peer, s->limits.message_max);
        return;
    }
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->recv_buffer;
    mlxd_rpc_batch(call, &op, 1, &s->recv_tag);
}

static void on_budget(void *owner) {
    start_recv(owner);
    mlxd_rpc_stream_unref(owner);
}

static void pump_recv(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    bool go = !s->recv_busy && !s->recv_ended && !s->ended && !s->aborted && s->call &&
              s->held_bytes < s->limits.recv_bytes_max && s->held_count < s->limits.recv_count_max;
    if (go) {
        s->recv_busy = true;
        s->refs++; /* over the wait for budget */
    }
    mlxd_mutex_unlock(&s->mutex);
    if (!go)
        return;
    mlxd_err err =
        s->peer ? mlxd_rpc_peer_take(s->peer, &s->waiter, s->limits.message_max) : MLXD_OK;
    if (err == MLXD_ERR_AGAIN) {
        /* The end notice may have come between the check and the line. */
        mlxd_mutex_lock(&s->mutex);
        bool ended = s->ended;
        mlxd_mutex_unlock(&s->mutex);
        if (ended && mlxd_rpc_peer_leave(s->peer, &s->waiter))
            mlxd_rpc_stream_unref(s);
        return;
    }
    if (err)
        mlxd_rpc_stream_abort(s, GRPC_STATUS_RESOURCE_EXHAUSTED,
                              "too many calls of this peer wait for its memory budget");
    else
        start_recv(s);
    mlxd_rpc_stream_unref(s);
}

/* The application has freed a message. */
static void on_freed(void *owner, size_t len) {
    mlxd_rpc_stream *s = owner;
    mlxd_mutex_lock(&s->mutex);
    s->held_count--;
    s->held_bytes -= len;
    mlxd_mutex_unlock(&s->mutex);
    if (s->peer)
        mlxd_rpc_peer_give(s->peer, len);
    pump_recv(s);
    mlxd_rpc_stream_unref(s);
}

/* The peer will send no more, or the stream is broken. */
static void receive_end(mlxd_rpc_stream *s) {
    mlxd_mutex_lock(&s->mutex);
    s->recv_ended = true;
    s->recv_busy = false;
    bool told = !s->ended && !s->aborted;
    mlxd_mutex_unlock(&s->mutex);
    if (s->peer)
        mlxd_rpc_peer_give(s->peer, s->limits.message_max);
    if (told && s->events.on_end)
        s->events.on_end(s->seed.ctx, s);
    else if (told && s->seed.server)
        mlxd_rpc_stream_finish(s, MLXD_OK, NULL);
}

static void deliver(mlxd_rpc_stream *s, grpc_byte_buffer *buffer) {
    size_t len = grpc_byte_buffer_length(buffer), max = s->limits.message_max;
    char text[128] = "out of memory for a message";
    mlxd_rpc_msg *msg = NULL;
    if (len > max) {
        grpc_byte_buffer_destroy(buffer);
        snprintf(text, sizeof text, "message of %zu bytes, at most %zu are allowed", len, max);
    } else {
        msg = mlxd_rpc_msg_from(buffer);
    }
    mlxd_mutex_lock(&s->mutex);
    s->recv_busy = false;
    bool drop = msg && s->aborted;
    if (msg && !drop) {
        s->refs++;
        s->held_count++;
        s->held_bytes += len;
    }
    mlxd_mutex_unlock(&s->mutex);
    if (s->peer)
        mlxd_rpc_peer_give(s->peer, msg && !drop ? max - len : max);
    if (drop) {
        mlxd_rpc_msg_free(msg);
    } else if (msg) {
        msg->freed = on_freed;
        msg->owner = s;
        s->events.on_message(s->seed.ctx, s, msg);
        pump_recv(s);
    } else {
        mlxd_rpc_stream_abort(s, GRPC_STATUS_RESOURCE_EXHAUSTED, text);
    }
}

static void on_received(void *owner, bool ok) {
    mlxd_rpc_stream *s = owner;
    grpc_byte_buffer *buffer = s->recv_buffer;
    s->recv_buffer = NULL;
    if (ok && buffer) {
        deliver(s, buffer);
    } else {
        if (buffer)
            grpc_byte_buffer_destroy(buffer);
        receive_end(s);
    }
    tag_done(s);
}

/* ---- small questions ---- */

const mlxd_rpc_info *mlxd_rpc_stream_info(const mlxd_rpc_stream *s) {
    return &s->info;
}

void mlxd_rpc_stream_set_user(mlxd_rpc_stream *s, void *user) {
    s->user = user;
}

void *mlxd_rpc_stream_user(const mlxd_rpc_stream *s) {
    return s->user;
}

void mlxd_rpc_stream_queued(mlxd_rpc_stream *s, size_t *messages, size_t *bytes) {
    mlxd_mutex_lock(&s->mutex);
    if (messages)
        *messages = s->queued_count;
    if (bytes)
        *bytes = s->queued_bytes;
    mlxd_mutex_unlock(&s->mutex);
}
