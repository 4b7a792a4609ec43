/* grpc_core.h - private to src/net/grpc_*.c: what the pieces of the transport share.
 *
 *     grpc_runtime.c  completion queue, poller thread, log      grpc_stream.c  stream, either end
 *     grpc_creds.c    PEM files -> credentials, peer identity   grpc_server.c  listen, accept
 *     grpc_bytes.c    parts -> byte buffer -> message, status   grpc_call.c    unary call, server
 *     grpc_budget.c   bytes held for one peer                   grpc_client.c  channel, unary call
 *
 * RULES that all of them keep:
 *   - A tag is armed, then given to one gRPC batch; it comes back exactly once, on the poller.
 *   - No mutex is held while calling into gRPC: a batch may run a part's release callback inline,
 *     and that callback may call us.
 *   - Whoever has a batch in flight has counted it first, so the grpc_call stays until it is back.
 *   - What must be waited for (server, channel) is counted under the runtime's mutex, which
 *     outlives the waiting object.
 */
#ifndef MLXD_NET_GRPC_CORE_H
#define MLXD_NET_GRPC_CORE_H

#include "base/base.h"
#include "base/mem.h"
#include "base/thread.h"
#include "net/certs.h"
#include "net/transport.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include <stdatomic.h>

/* ---- runtime ---- */

/* What comes back from the completion queue. `armed` asserts "one event per batch" and orders the
 * memory of whoever started the batch before the event. */
typedef struct mlxd_rpc_tag {
    void (*fn)(void *owner, bool ok);
    void *owner;
    atomic_bool armed;
} mlxd_rpc_tag;

struct mlxd_rpc_runtime {
    grpc_completion_queue *cq;
    mlxd_thread poller;
    mlxd_mutex mutex; /* counts that close functions wait for */
    mlxd_cond cond;   /* broadcast when one of them changes */
    unsigned users;   /* servers and channels */
};

void mlxd_rpc_tag_init(mlxd_rpc_tag *tag, void (*fn)(void *owner, bool ok), void *owner);
/* Marks the tag as in flight and returns what gRPC is given. */
void *mlxd_rpc_tag_arm(mlxd_rpc_tag *tag);
/* Starts a batch; the caller has counted it. */
void mlxd_rpc_batch(grpc_call *call, const grpc_op *ops, size_t count, mlxd_rpc_tag *tag);
void mlxd_rpc_runtime_attach(mlxd_rpc_runtime *rt);
void mlxd_rpc_runtime_detach(mlxd_rpc_runtime *rt);
uint64_t mlxd_rpc_next_id(void);
uint64_t mlxd_rpc_deadline_from(gpr_timespec t);
gpr_timespec mlxd_rpc_deadline_to(uint64_t deadline_ns);
/* Checks "host:port" and says whether the host can only be this machine. */
mlxd_err mlxd_rpc_address_check(const char *address, bool *loopback, mlxd_why *why);

/* Channel arguments, collected in a fixed table. Strings are lent until create. */
typedef struct mlxd_rpc_args {
    grpc_arg rows[24];
    size_t count;
} mlxd_rpc_args;
void mlxd_rpc_args_int(mlxd_rpc_args *args, const char *key, int value);
void mlxd_rpc_args_str(mlxd_rpc_args *args, const char *key, const char *value);
/* The ones both ends share: keepalive, compression off. */
void mlxd_rpc_args_common(mlxd_rpc_args *args, uint32_t keepalive_ms, uint32_t timeout_ms);

/* ---- credentials ---- */

struct mlxd_rpc_creds {
    bool plaintext;
    mlxd_certs_bundle bundle; /* empty when plaintext */
};
/* The new configuration for a server's next handshakes. */
grpc_ssl_server_certificate_config *mlxd_rpc_creds_server_config(const mlxd_rpc_creds *creds);
/* Server credentials whose certificate comes from `fetch` at every handshake. */
grpc_server_credentials *mlxd_rpc_creds_server(grpc_ssl_server_certificate_config_callback fetch,
                                               void *ctx);
grpc_channel_credentials *mlxd_rpc_creds_channel(const mlxd_rpc_creds *creds);
/* Who called: exactly one URI SAN that is an identity, otherwise PERM. */
mlxd_err mlxd_rpc_creds_peer(grpc_call *call, mlxd_identity *out, mlxd_why *why);

/* ---- bytes ---- */

/* Total length of parts; INVALID when there are too many or they are too long. */
mlxd_err mlxd_rpc_bytes_len(const mlxd_rpc_part *parts, size_t n, size_t *out);
/* Joins parts that passed mlxd_rpc_bytes_len. Their releases now belong to the buffer. */
grpc_byte_buffer *mlxd_rpc_bytes_join(const mlxd_rpc_part *parts, size_t n);
void mlxd_rpc_bytes_release(const mlxd_rpc_part *parts, size_t n);

struct mlxd_rpc_msg {
    size_t len;
    void (*freed)(void *owner, size_t len); /* gives window and budget back; NULL = none */
    void *owner;
    uint8_t data[];
};
/* Flattens and destroys `buffer`. NULL when memory is out. */
mlxd_rpc_msg *mlxd_rpc_msg_from(grpc_byte_buffer *buffer);

/* Nearest mlxd_err of a gRPC status code, and the reverse. */
mlxd_err mlxd_rpc_err_of(int code);
void mlxd_rpc_status_set(mlxd_rpc_status *status, int code, const char *text);
grpc_slice mlxd_rpc_text_slice(const char *text);

/* Gives `info` its own copy of path and headers (`array` may be NULL); false: no memory. */
bool mlxd_rpc_info_own(mlxd_rpc_info *info, const char *path, const grpc_metadata_array *array);
void mlxd_rpc_info_disown(mlxd_rpc_info *info);
/* Fills one x-request-id header; INVALID when the id has bytes that a header may not have. */
mlxd_err mlxd_rpc_request_id_check(const char *id, mlxd_why *why);

/* ---- budget ---- */

typedef struct mlxd_rpc_budget mlxd_rpc_budget; /* one per server, reference counted */
typedef struct mlxd_rpc_peer mlxd_rpc_peer;     /* one per known peer, reference counted */

/* In line for bytes. `resume` is called without locks, on any thread, with the bytes taken. */
typedef struct mlxd_rpc_waiter {
    struct mlxd_rpc_waiter *next;
    size_t bytes;
    void (*resume)(void *owner);
    void *owner;
} mlxd_rpc_waiter;

mlxd_rpc_budget *mlxd_rpc_budget_open(size_t peer_bytes_max);
void mlxd_rpc_budget_unref(mlxd_rpc_budget *budget);
/* NULL when memory is out. */
mlxd_rpc_peer *mlxd_rpc_peer_get(mlxd_rpc_budget *budget, const mlxd_rpc_info *info);
void mlxd_rpc_peer_unref(mlxd_rpc_peer *peer);
/* OK: taken. AGAIN: `w` waits and will be resumed. FULL: too many are waiting. */
mlxd_err mlxd_rpc_peer_take(mlxd_rpc_peer *peer, mlxd_rpc_waiter *w, size_t bytes);
void mlxd_rpc_peer_give(mlxd_rpc_peer *peer, size_t bytes);
/* True when `w` was waiting: it will not be resumed. */
bool mlxd_rpc_peer_leave(mlxd_rpc_peer *peer, mlxd_rpc_waiter *w);

/* ---- streams ---- */

typedef struct mlxd_rpc_stream_seed {
    bool server;
    const mlxd_rpc_stream_events *events;
    const mlxd_rpc_stream_limits *limits;
    void *ctx;
    /* After on_close, when the grpc_call is released: the stream no longer needs its server or
     * channel. */
    void (*gone)(void *owner, mlxd_rpc_stream *s);
    void *owner;
} mlxd_rpc_stream_seed;

/* NULL when memory is out. The handle belongs to the application. */
mlxd_rpc_stream *mlxd_rpc_stream_new(const mlxd_rpc_stream_seed *seed);
/* To be filled before start. */
mlxd_rpc_info *mlxd_rpc_stream_info_mut(mlxd_rpc_stream *s);
/* For whoever uses a stream while others may close it; the first reference is the handle's, so
 * unref also undoes `new` when `start` was never called. */
void mlxd_rpc_stream_ref(mlxd_rpc_stream *s);
void mlxd_rpc_stream_unref(mlxd_rpc_stream *s);
/* Takes `call` and, on a server, `peer`; calls on_open (server) and begins to read. `metadata` is
 * what a client sends. */
void mlxd_rpc_stream_start(mlxd_rpc_stream *s, grpc_call *call, mlxd_rpc_peer *peer,
                           grpc_metadata *metadata, size_t metadata_count, uint32_t flags);
/* Ends with a gRPC status of our making (over a limit). */
void mlxd_rpc_stream_abort(mlxd_rpc_stream *s, grpc_status_code code, const char *text);

/* ---- unary calls of a server ---- */

typedef struct mlxd_rpc_call_seed {
    const mlxd_rpc_method *method;
    grpc_call *call;     /* taken */
    mlxd_rpc_info info;  /* metadata is taken */
    mlxd_rpc_peer *peer; /* taken */
    void (*gone)(void *owner);
    void *owner;
} mlxd_rpc_call_seed;
/* On the poller. False when memory is out: then nothing was taken. */
bool mlxd_rpc_call_start(const mlxd_rpc_call_seed *seed);

#endif
