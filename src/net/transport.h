/* transport.h - remote calls between nodes: messages over gRPC with mutual TLS.
 *
 * Message based and opaque: callers see bytes, identities and mlxd_err; gRPC's types stay inside
 * src/net/grpc_*.c.
 *
 *     runtime --+-- server ---- methods (path, roles, callbacks) --+-- call    one reply
 *               |                                                  +-- stream  both ways
 *               +-- channel --- unary call (on_reply), stream
 *
 * THREADS. The runtime owns one completion queue and one poller thread (gRPC core does all I/O of
 * the process in it, pings included). EVERY callback of this header runs on that thread, one at a
 * time: a callback posts to a queue and returns; it never computes, waits or takes a lock that is
 * held across a call into this header. All other functions may be called from any thread,
 * callbacks included, except the ones marked BLOCKS (never from a callback).
 *
 * OWNERSHIP. `msg` is given: whoever receives it frees it, on any thread, at any time (also after
 * its stream, server or runtime is closed). A server's `call` is given: it ends with exactly one
 * mlxd_rpc_call_reply or _fail. A `stream` is given by on_open (server) or mlxd_rpc_stream_open
 * (client): on_close comes exactly once and is the last callback; from then on (inside on_close or
 * later) the owner frees the handle with mlxd_rpc_stream_close. Late sends on a stream that has
 * ended are harmless errors.
 *
 * SHUTDOWN ORDER. Channels and servers first (each close BLOCKS until its last callback is
 * through), then the runtime.
 *
 * SECURITY. With credentials, TLS 1.3 with client certificates is required, and a peer is known by
 * the identity in its certificate (identity.h). Role and cluster are checked when a call's headers
 * arrive, before a message is received. Plaintext is an explicit value, refused off loopback.
 */
#ifndef MLXD_NET_TRANSPORT_H
#define MLXD_NET_TRANSPORT_H

#include "base/base.h"
#include "base/limits.h"
#include "net/identity.h"

typedef struct mlxd_rpc_runtime mlxd_rpc_runtime;
typedef struct mlxd_rpc_creds mlxd_rpc_creds;
typedef struct mlxd_rpc_server mlxd_rpc_server;
typedef struct mlxd_rpc_channel mlxd_rpc_channel;
typedef struct mlxd_rpc_call mlxd_rpc_call;
typedef struct mlxd_rpc_stream mlxd_rpc_stream;
typedef struct mlxd_rpc_msg mlxd_rpc_msg;

/* ---- runtime ---- */

/* One per process (asserted), before other threads exist: it sets environment variables that gRPC
 * reads once (TLS 1.3 only), raises the limit of open files, sends gRPC's log to base/log.h.
 * Do not fork without exec afterwards. */
mlxd_err mlxd_rpc_runtime_open(mlxd_rpc_runtime **out, mlxd_why *why) MLXD_MUST_CHECK;
/* BLOCKS. Every server and channel must be closed (asserted). NULL is fine. */
void mlxd_rpc_runtime_close(mlxd_rpc_runtime *rt);
/* Is the caller on the poller thread, i.e. inside a callback? */
bool mlxd_rpc_runtime_here(const mlxd_rpc_runtime *rt);

/* ---- credentials ---- */

/* Loads and checks PEM files (mlxd_certs_load has the list of checks and errors). Rotation: load
 * new credentials, open new channels with them, mlxd_rpc_server_renew. */
mlxd_err mlxd_rpc_creds_load(mlxd_rpc_creds **out, const char *ca_path, const char *cert_path,
                             const char *key_path, mlxd_why *why) MLXD_MUST_CHECK;
/* No encryption and no identity. NULL when memory is out. */
mlxd_rpc_creds *mlxd_rpc_creds_plaintext(void) MLXD_MUST_CHECK;
/* Servers and channels copy what they need: may be closed right after they are opened. */
void mlxd_rpc_creds_close(mlxd_rpc_creds *creds);
/* Our own identity; NULL for plaintext. Lent. */
const mlxd_identity *mlxd_rpc_creds_identity(const mlxd_rpc_creds *creds);
/* End of validity, seconds since 1970; 0 for plaintext. */
int64_t mlxd_rpc_creds_not_after(const mlxd_rpc_creds *creds);

/* ---- messages ---- */

/* A received message, contiguous. Valid until freed; counts against the sender's byte budget and
 * its stream's receive window until then. */
mlxd_slice mlxd_rpc_msg_bytes(const mlxd_rpc_msg *msg);
void mlxd_rpc_msg_free(mlxd_rpc_msg *msg); /* NULL is fine */

/* One piece of a message to send; pieces are joined. With `release` NULL the bytes are copied
 * before the function returns. Otherwise they are sent from where they are: they must stay
 * unchanged until release(release_ctx), called exactly once, on any thread, possibly inside a call
 * into this header (so it takes no lock that is held across one). */
typedef struct mlxd_rpc_part {
    mlxd_slice bytes;
    void (*release)(void *ctx);
    void *release_ctx;
} mlxd_rpc_part;
#define MLXD_RPC_PARTS_MAX 16

/* How a call or stream ended. */
typedef struct mlxd_rpc_status {
    mlxd_err err; /* nearest mlxd_err of the gRPC code */
    int code;     /* gRPC status code, 0 = OK */
    mlxd_why why; /* text of the peer or of gRPC; "" when OK */
} mlxd_rpc_status;

/* What the headers of an incoming call say. Lent by the call or stream, valid as long as that. */
typedef struct mlxd_rpc_info {
    uint64_t id;          /* unique in this process: name for logs and for late events */
    const char *path;     /* "/pkg.Service/Method" */
    mlxd_identity peer;   /* role MLXD_ROLE_NONE on a plaintext server */
    char address[64];     /* "ipv4:10.0.0.2:53210" */
    uint64_t deadline_ns; /* mlxd_clock_now_ns scale; UINT64_MAX = none */
    const void *metadata; /* private; use mlxd_rpc_info_metadata */
} mlxd_rpc_info;
/* First value of the header `key` (lower case); false when there is none. */
bool mlxd_rpc_info_metadata(const mlxd_rpc_info *info, const char *key, mlxd_slice *out);

/* ---- streams, either end ---- */

/* Zeros mean the defaults in brackets. */
typedef struct mlxd_rpc_stream_limits {
    size_t message_max;      /* one received message [MLXD_LIMIT_GRPC_STREAM_MESSAGE]: a longer one
                                ends the stream with RESOURCE_EXHAUSTED */
    size_t send_bytes_max;   /* unsent bytes queued here [MLXD_LIMIT_GRPC_STREAM_MESSAGE]; one
                                message is always taken when nothing is queued */
    uint32_t send_count_max; /* unsent messages [256] */
    size_t recv_bytes_max;   /* received and not yet freed [MLXD_LIMIT_GRPC_STREAM_MESSAGE]: at or
                                above it reading pauses, which blocks the sender in the end */
    uint32_t recv_count_max; /* [256] */
} mlxd_rpc_stream_limits;

/* Callbacks of one stream. `ctx` is the method's (server) or the opener's (client). */
typedef struct mlxd_rpc_stream_events {
    /* Server only, required there: a permitted peer opened the stream. The stream is given. */
    void (*on_open)(void *ctx, mlxd_rpc_stream *s);
    /* Required. In order of sending. `msg` is given. */
    void (*on_message)(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg);
    /* The peer will send no more. Optional; a server without it finishes with OK. */
    void (*on_end)(void *ctx, mlxd_rpc_stream *s);
    /* Optional. After a send returned FULL: the queue is at most half full again. */
    void (*on_writable)(void *ctx, mlxd_rpc_stream *s);
    /* Required. Last callback. On a server OK means that our own status was delivered to gRPC and
     * the client did not cancel; CANCELLED that the client left or the server is closing. */
    void (*on_close)(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status);
} mlxd_rpc_stream_events;

/* Queues one message. On error nothing was taken (no release is called):
 * FULL: queue bounds reached, wait for on_writable; PEER: the stream has ended or was finished;
 * INVALID: n > MLXD_RPC_PARTS_MAX or longer than MLXD_LIMIT_GRPC_MESSAGE; NOMEM. */
mlxd_err mlxd_rpc_stream_send(mlxd_rpc_stream *s, const mlxd_rpc_part *parts,
                              size_t n) MLXD_MUST_CHECK;
/* Ends our side behind what is queued. Server: with `err` and `text` (NULL = none) as the status.
 * Client: half-close; err must be OK. A second one is ignored. */
void mlxd_rpc_stream_finish(mlxd_rpc_stream *s, mlxd_err err, const char *text);
/* Ends both sides at once; queued messages are dropped. on_close follows. */
void mlxd_rpc_stream_cancel(mlxd_rpc_stream *s);
/* Frees the handle. Only from on_close on (asserted), and when no other thread of the owner still
 * uses it. */
void mlxd_rpc_stream_close(mlxd_rpc_stream *s);
/* The headers of a server's stream; of a client's, only `id` and `path` are set. */
const mlxd_rpc_info *mlxd_rpc_stream_info(const mlxd_rpc_stream *s);
/* A pointer of the owner's, NULL at first. Set it in on_open or before other threads know the
 * stream. */
void mlxd_rpc_stream_set_user(mlxd_rpc_stream *s, void *user);
void *mlxd_rpc_stream_user(const mlxd_rpc_stream *s);
/* Unsent messages and bytes, for metrics. Either pointer may be NULL. */
void mlxd_rpc_stream_queued(mlxd_rpc_stream *s, size_t *messages, size_t *bytes);

/* ---- server ---- */

typedef enum mlxd_rpc_kind { MLXD_RPC_UNARY, MLXD_RPC_STREAM } mlxd_rpc_kind;

typedef struct mlxd_rpc_method {
    const char *path; /* "/pkg.Service/Method" */
    mlxd_rpc_kind kind;
    unsigned roles; /* mask of mlxd_role that may call; asked only when the server has TLS */
    void *ctx;
    /* UNARY: `call` and `msg` are given. */
    void (*on_call)(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg);
    /* UNARY, optional: the client left or its deadline passed before the reply. `call` is only lent
     * (a reply may be under way on another thread): take its info's id and post it. The call must
     * still be answered; that answer goes nowhere. */
    void (*on_cancel)(void *ctx, mlxd_rpc_call *call);
    size_t message_max; /* UNARY: request bytes; 0 = MLXD_LIMIT_GRPC_MESSAGE */
    /* STREAM */
    mlxd_rpc_stream_events stream;
    mlxd_rpc_stream_limits limits;
} mlxd_rpc_method;

typedef struct mlxd_rpc_server_options {
    const char *listen;             /* "host:port"; IPv6 in brackets; port 0 = any */
    const mlxd_rpc_creds *creds;    /* required */
    const mlxd_rpc_method *methods; /* copied; paths too */
    size_t method_count;
    bool plaintext_public; /* plaintext may listen off loopback (health port) */
    size_t peer_bytes_max; /* one peer's messages in reception or held by handlers, over all its
                                   calls; 0 = MLXD_LIMIT_GRPC_PEER_BYTES. Calls wait for their
                                   turn; with MLXD_LIMIT_GRPC_PEER_WAITING waiting, the next is
                                   refused with RESOURCE_EXHAUSTED. Must hold the largest
                                   message_max. (gRPC core 1.51 sees that one message is over its
                                   cap only when it has come completely; only peers that may call
                                   the method get that far.) */
    uint32_t keepalive_time_ms;    /* 0 = 10 000 */
    uint32_t keepalive_timeout_ms; /* 0 = 5 000 */
} mlxd_rpc_server_options;

/* Listens and serves. IO: the address is in use or not ours; INVALID: malformed address or method;
 * PERM: plaintext off loopback. The text names the address. */
mlxd_err mlxd_rpc_server_open(mlxd_rpc_server **out, mlxd_rpc_runtime *rt,
                              const mlxd_rpc_server_options *options,
                              mlxd_why *why) MLXD_MUST_CHECK;
int mlxd_rpc_server_port(const mlxd_rpc_server *server);
/* New handshakes use these credentials; open connections stay. Same cluster and device required
 * (STATE); not for plaintext servers (asserted). */
mlxd_err mlxd_rpc_server_renew(mlxd_rpc_server *server, const mlxd_rpc_creds *creds,
                               mlxd_why *why) MLXD_MUST_CHECK;
/* BLOCKS. New calls are refused at once, running ones have `grace_ms` to end, then they are
 * cancelled. When it returns, no callback of this server runs any more; calls that handlers have
 * not answered yet may still be answered (harmlessly). */
void mlxd_rpc_server_close(mlxd_rpc_server *server, uint32_t grace_ms);

const mlxd_rpc_info *mlxd_rpc_call_info(const mlxd_rpc_call *call);
/* Has the client left? Handlers of long work ask now and then. */
bool mlxd_rpc_call_cancelled(mlxd_rpc_call *call);
/* Answers with OK and a message (n may be 0: an empty message). Takes call and parts, always. */
void mlxd_rpc_call_reply(mlxd_rpc_call *call, const mlxd_rpc_part *parts, size_t n);
/* Answers with the gRPC status of `err` (not OK) and a text for people. Takes the call. */
void mlxd_rpc_call_fail(mlxd_rpc_call *call, mlxd_err err, const char *text);

/* ---- client ---- */

typedef struct mlxd_rpc_channel_options {
    const char *address;         /* "host:port" */
    const mlxd_rpc_creds *creds; /* required */
    const char *device;          /* TLS: the peer's certificate must be for <device> of our cluster,
                                    whatever the address is; required. Plaintext: ignored. */
    bool own_connection;         /* do not share a TCP connection with equal channels */
    bool plaintext_public;       /* plaintext may go off loopback */
    uint32_t reconnect_min_ms;   /* first wait after a failed connection; 0 = 100 */
    uint32_t reconnect_max_ms;   /* 0 = 1 000 */
    uint32_t keepalive_time_ms;  /* 0 = 10 000 */
    uint32_t keepalive_timeout_ms; /* 0 = 5 000 */
    const char *const *idempotent; /* paths that gRPC itself may repeat (contract's retryPolicy:
                                           5 attempts, 0.1 s doubling to 10 s, UNAVAILABLE and
                                           DEADLINE_EXCEEDED). Never a call that advances state. */
    size_t idempotent_count;
} mlxd_rpc_channel_options;

/* Connects lazily, reconnects by itself. INVALID: address, device or path; PERM: plaintext off
 * loopback; NOMEM. */
mlxd_err mlxd_rpc_channel_open(mlxd_rpc_channel **out, mlxd_rpc_runtime *rt,
                               const mlxd_rpc_channel_options *options,
                               mlxd_why *why) MLXD_MUST_CHECK;
/* BLOCKS. Cancels what is running and waits until every on_reply and on_close has run. */
void mlxd_rpc_channel_close(mlxd_rpc_channel *channel);

typedef struct mlxd_rpc_request {
    const char *path;
    uint64_t deadline_ns;   /* mlxd_clock_now_ns scale, required */
    bool wait_for_ready;    /* false: fail at once with PEER while the peer cannot be reached */
    const char *request_id; /* sent as x-request-id; NULL = none; printable ASCII, <= 128 bytes */
    const mlxd_rpc_part *parts;
    size_t n;
    size_t reply_max; /* 0 = MLXD_LIMIT_GRPC_MESSAGE */
    /* Exactly once. `reply` is given, NULL unless status->err is OK. */
    void (*on_reply)(void *user, const mlxd_rpc_status *status, mlxd_rpc_msg *reply);
    void *user;
} mlxd_rpc_request;
/* Starts a unary call. On error nothing was taken and on_reply is never called:
 * INVALID (path, id, too long), STATE (channel is closing), NOMEM. */
mlxd_err mlxd_rpc_channel_call(mlxd_rpc_channel *channel, const mlxd_rpc_request *request,
                               mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_rpc_stream_options {
    const char *path;
    uint64_t deadline_ns;          /* UINT64_MAX = none */
    bool wait_for_ready;           /* as above */
    const char *request_id;        /* as above */
    mlxd_rpc_stream_events events; /* on_open is not used */
    mlxd_rpc_stream_limits limits;
    void *ctx;  /* of the events */
    void *user; /* first value of mlxd_rpc_stream_user */
} mlxd_rpc_stream_options;
/* Opens a bidirectional stream; messages may be sent at once. *out is set before the first event
 * can come. The connection may still fail: that is an on_close with PEER. Errors as above. */
mlxd_err mlxd_rpc_stream_open(mlxd_rpc_stream **out, mlxd_rpc_channel *channel,
                              const mlxd_rpc_stream_options *options,
                              mlxd_why *why) MLXD_MUST_CHECK;

#endif
