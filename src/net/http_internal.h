/* http_internal.h - what the files of the HTTP server share; nobody else includes it.
 *
 *     http.c        start, drain, stop, counters; the callbacks of libmicrohttpd
 *     http_check.c  what is decided about a request before its body is read
 *     http_req.c    the request object: reply, stream, gone
 *     http_watch.c  the watcher thread: clients that left, deadlines, lingering close
 *
 * Threads and locks. The HTTP thread is libmicrohttpd's; it runs every callback of http.c. A
 * connection is a `slot`; one request at a time lives on it.
 *   server.lock   slots, watcher state. Never held while a request's lock is taken.
 *   request.lock  state of one reply. libmicrohttpd's own mutex may be taken inside it (suspend,
 *                 resume); nothing of ours is.
 * No callback of the application runs under a lock.
 *
 * A connection is suspended only by the HTTP thread, under request.lock, when there is nothing to
 * send; `suspended` says so, and whoever clears it resumes the connection. While it is set, the
 * connection cannot end, so `conn` is valid.
 */
#ifndef MLXD_NET_HTTP_INTERNAL_H
#define MLXD_NET_HTTP_INTERNAL_H

#include "net/http.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/thread.h"

#include <microhttpd.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define MLXD_HTTP_PEER_MAX 46     /* INET6_ADDRSTRLEN */
#define MLXD_HTTP_ID_MAX 128      /* bytes of an x-request-id */
#define MLXD_HTTP_LINGER_MAX 64   /* connections in lingering close */
#define MLXD_HTTP_LINGER_MS 2000u /* how long one lingers */
#define MLXD_HTTP_LINGER_BYTES (64u << 20)

/* One connection. Created and removed by the HTTP thread, linked under server.lock. */
typedef struct mlxd_http_slot {
    struct mlxd_http_slot *prev, *next;
    int fd;               /* libmicrohttpd's; open as long as the slot is linked */
    uint64_t deadline_ns; /* server.lock: connection is shut down then; 0 = none */
    mlxd_http_req *req;   /* server.lock: the request whose client is watched; NULL = none */
    size_t poll_index;    /* server.lock: place in the watcher's current poll set; 0 = not in it */
    bool hung_up;         /* server.lock: seen; watched no more, or poll would spin */
    bool linger;          /* HTTP thread: a body was left unread, close must not reset */
    char peer[MLXD_HTTP_PEER_MAX];
} mlxd_http_slot;

/* A connection that libmicrohttpd has closed, but whose client may still be sending the body of a
 * request we refused. Closing with unread data would reset it, and the client, in the middle of
 * write(), would never see the refusal. So a duplicate of the descriptor is read and dropped for
 * a while. */
typedef struct mlxd_http_linger {
    int fd;
    uint64_t deadline_ns;
    uint64_t bytes;
} mlxd_http_linger;

struct mlxd_http {
    atomic_uint refs;        /* the starter and every request */
    mlxd_http_config config; /* defaults filled in */
    struct MHD_Daemon *daemon;
    int listen_fd;
    uint16_t port;
    char url[MLXD_HTTP_PEER_MAX + 20];
    char id_prefix[17];
    atomic_uint_fast64_t ids;
    atomic_bool draining;

    mlxd_mutex lock;
    mlxd_cond quiet;       /* signalled when `live` becomes 0 while draining */
    bool quiesced;         /* listens no more */
    bool stopping;         /* no request may wait any more */
    mlxd_http_slot *slots; /* list */
    size_t slots_len;

    mlxd_thread watcher;
    bool watching;  /* its thread runs */
    int wake_fd[2]; /* pipe: [1] is written to wake the watcher */
    bool watch_end;
    uint64_t wake_at_ns;     /* when the watcher wakes by itself; 0: it is awake */
    struct pollfd *polls;    /* connections_max + MLXD_HTTP_LINGER_MAX + 1 */
    mlxd_http_req **hung_up; /* connections_max: scratch of the watcher */
    mlxd_http_linger lingers[MLXD_HTTP_LINGER_MAX];
    size_t lingers_len;

    atomic_uint_fast64_t connections, open, live, gone, deadlines, replies[6];
    atomic_uint_fast64_t bodies_bytes;
};

/* Why a request is refused before its body. status 0: it is not. */
typedef struct mlxd_http_refusal {
    unsigned status;
    const char *code;
    char message[256];
    const char *header; /* an extra header's name, NULL = none */
    char value[64];
    bool close; /* the connection ends with it: what follows is not the next request */
} mlxd_http_refusal;

typedef enum mlxd_http_phase {
    MLXD_HTTP_PHASE_HEADERS, /* request line parsed */
    MLXD_HTTP_PHASE_BODY,    /* accepted, body is coming */
    MLXD_HTTP_PHASE_REFUSED, /* refused, no body outstanding; reply goes out with the final call */
    MLXD_HTTP_PHASE_HANDED,  /* the handler has it (or had) */
    MLXD_HTTP_PHASE_REPLIED, /* response queued */
} mlxd_http_phase;

struct mlxd_http_req {
    atomic_uint refs; /* HTTP side, owner, stream reader, watcher while it works on it */
    mlxd_http *h;     /* a reference */

    /* What came; written by the HTTP thread before the handler is called. */
    const mlxd_http_route *route;
    char method[16];
    char *uri;         /* owned; path, NUL, query */
    const char *query; /* into uri */
    char param[MLXD_LIMIT_HTTP_PARAM + 1];
    char id[MLXD_HTTP_ID_MAX + 1];
    char peer[MLXD_HTTP_PEER_MAX];
    uint32_t key_id;
    bool authorized;
    bool http10;
    mlxd_buf body;
    uint64_t body_seen;     /* bytes received, kept or not */
    uint64_t body_budgeted; /* bytes counted in server.bodies_bytes */
    uint64_t began_ns;

    /* HTTP thread only. */
    mlxd_http_phase phase;
    mlxd_http_slot *slot;
    struct MHD_Connection *conn; /* until completed */
    mlxd_http_refusal refusal;
    unsigned status; /* of the response that was queued; 0 = none */
    bool in_handler;
    bool handed; /* to its handler */

    /* Under lock. */
    mlxd_mutex lock;
    mlxd_cond told; /* on_gone has returned */
    bool suspended;
    bool gone;     /* client left, connection over, or server stopped */
    bool finished; /* the owner made its finishing call */
    bool streaming;
    bool ended;   /* stream_end */
    bool in_time; /* ... which came before the client left */
    bool aborted; /* cut the connection */
    bool telling; /* on_gone is running, on thread `teller` */
    pthread_t teller;
    void (*on_gone)(void *ctx);
    void *on_gone_ctx;
    struct MHD_Response *response; /* ready to be queued; owned */
    unsigned response_status;
    uint8_t *ring; /* unsent bytes of the stream: ring_len bytes from ring_at on, wrapping */
    size_t ring_cap, ring_at, ring_len;
};

/* ---- http_req.c ---- */

/* A request as its line was parsed; NULL: no memory. One reference. */
mlxd_http_req *mlxd_http_req_open(mlxd_http *h, mlxd_http_slot *slot, struct MHD_Connection *conn,
                                  const char *uri);
void mlxd_http_req_ref(mlxd_http_req *req);
void mlxd_http_req_unref(mlxd_http_req *req);
/* The client is gone: tells the owner unless it has finished or knows. The caller holds a
 * reference. */
void mlxd_http_req_tell_gone(mlxd_http_req *req);
/* HTTP thread: queues the response if there is one, else suspends; NO closes the connection. */
enum MHD_Result mlxd_http_req_advance(mlxd_http_req *req);
/* The reply that `refusal` asks for; NULL: no memory. */
struct MHD_Response *mlxd_http_refusal_response(mlxd_http_req *req);

/* ---- http_check.c ---- */

/* Decides about headers, Host, key, route, method, type and length, and fills in the request;
 * req->refusal says what is wrong. *has_body: a body follows (or what claims to be one). */
void mlxd_http_check(mlxd_http_req *req, const char *method, const char *version, bool *has_body);
/* Takes a piece of the body, or drops it when the request is or becomes refused; false: too much,
 * cut the connection. */
bool mlxd_http_check_body(mlxd_http_req *req, const char *data, size_t len);

/* ---- http_watch.c ---- */

mlxd_err mlxd_http_watch_start(mlxd_http *h, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_http_watch_stop(mlxd_http *h);
/* With server.lock held: wakes the watcher if it sleeps beyond `at_ns` (0: in any case). */
void mlxd_http_watch_wake(mlxd_http *h, uint64_t at_ns);
/* With server.lock held: takes a duplicate of `fd` into lingering close, if there is room. */
void mlxd_http_watch_linger(mlxd_http *h, int fd);

void mlxd_http_unref(mlxd_http *h);

#endif
