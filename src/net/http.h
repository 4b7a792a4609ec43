/* http.h - the HTTP/1.1 server: requests in, replies and event streams out, and the news that a
 * client has left. libmicrohttpd is inside http*.c and nowhere else.
 *
 * One request, seen from a handler:
 *
 *     handler(ctx, req) ------ HTTP thread; the body is complete; must not block
 *         |
 *         |  mlxd_http_reply(req, ...)              at once, or later from any thread
 *         |  or
 *         |  mlxd_http_stream_begin(req, ...)       headers go out
 *         |  mlxd_http_stream_write(req, bytes)*    from any thread, sent at once
 *         |  mlxd_http_stream_end(req)              the terminating chunk goes out at once
 *         |
 *         +- on_gone(ctx) may come meanwhile: the client closed, half-closed or cannot be written
 *
 * OWNERSHIP. The handler gets `req` and owns it until it makes exactly ONE finishing call:
 * mlxd_http_reply, mlxd_http_reply_error, mlxd_http_stream_end or mlxd_http_stream_abort. The
 * finishing call frees `req`, whatever it returns; every pointer that came from `req` is then
 * invalid. on_gone frees nothing: the owner still makes its finishing call, which then sends
 * nothing. All calls are harmless after the client has gone, and after mlxd_http_stop.
 *
 * GONE. on_gone is called at most once, on a thread of the server, without any lock held, and
 * never before the client is really lost to us. It must not block; it usually pushes a cancel
 * event into a queue. It may call the functions of `req`, the finishing call included. When a
 * finishing call has returned on another thread, on_gone is not running and will not be called,
 * so its ctx may be freed; therefore the finishing call waits for an on_gone that is just running,
 * and on_gone must not wait for the thread that finishes.
 *
 * WHAT IS CHECKED before a handler sees a request, in this order, and before a byte of the body is
 * taken: header names, count and framing (400, 431), Host (400, 421), key (400, 401, 403, 429),
 * draining (503), path (404), method (405 + Allow), Content-Type and Content-Encoding (415), length
 * (411, 413). So one who has no key learns nothing about paths. Chunked bodies are counted as they
 * come: over the limit they are read and dropped up to twice the limit and answered 413, beyond
 * that the connection is cut. The bodies of all requests together may hold
 * MLXD_LIMIT_HTTP_BODIES_BYTES (503 beyond). Every reply of ours carries x-request-id and, when it
 * is an error, {"error":{"message","type","param","code"}}. Requests that libmicrohttpd itself
 * cannot parse get its own short HTML reply and a close. A deadline that passes closes the
 * connection without a reply; no 408 can be sent then.
 */
#ifndef MLXD_NET_HTTP_H
#define MLXD_NET_HTTP_H

#include "base/base.h"
#include "base/mem.h"

typedef struct mlxd_http mlxd_http;         /* the server */
typedef struct mlxd_http_req mlxd_http_req; /* one request and its reply */

/* ---- routes ---- */

typedef enum mlxd_http_method {
    MLXD_HTTP_GET, /* HEAD, too: the handler answers as for GET, the body is not sent */
    MLXD_HTTP_POST,
    MLXD_HTTP_PUT,
    MLXD_HTTP_DELETE,
} mlxd_http_method;

/* Flags of a route. */
#define MLXD_HTTP_PUBLIC 1u /* no key needed; mlxd_http_authorized tells whether a good one came */
#define MLXD_HTTP_JSON 2u   /* takes a JSON body: needs a length (or chunks) and application/json */

/* One method of one path; several methods of a path are several rows. The path is compared byte by
 * byte with the raw request path, without decoding or normalising: a '%' , "//" or "/../" never
 * matches. A path may end in "/{id}": that stands for 1..MLXD_LIMIT_HTTP_PARAM bytes of
 * [A-Za-z0-9._:@+/-] without empty, "." or ".." segments. '/' is allowed because model ids hold it
 * ("org/model"); %XX is decoded there, once, and only when the result is in that set (SDKs send
 * %2F). An exact path wins over a parameter. Without MLXD_HTTP_JSON a body is read and dropped. */
typedef struct mlxd_http_route {
    mlxd_http_method method;
    const char *path;
    unsigned flags;
    void (*handler)(void *ctx, mlxd_http_req *req); /* HTTP thread; owns req, see above */
} mlxd_http_route;

/* ---- keys ---- */

typedef enum mlxd_http_verdict {
    MLXD_HTTP_AUTH_OK,
    MLXD_HTTP_AUTH_MISSING, /* 401 with WWW-Authenticate: Bearer */
    MLXD_HTTP_AUTH_WRONG,   /* 403 "Invalid API Key" */
    MLXD_HTTP_AUTH_LIMITED, /* 429: too many wrong keys from this peer */
} mlxd_http_verdict;

/* Judges one request, on the HTTP thread. `key` is what came as "Authorization: Bearer <key>" or
 * "X-API-Key: <key>" (several headers with the same key are one, with different keys a 400), NULL
 * when none came. `peer` is the client's address. On OK it may set *key_id, which the request then
 * carries (mlxd_http_key_id). Also called for public routes when a key came; these never refuse. */
typedef mlxd_http_verdict mlxd_http_auth(void *ctx, const char *key, const char *peer,
                                         uint32_t *key_id);

/* ---- server ---- */

/* One finished request, for access log, audit and counters. All pointers are lent for the call. */
typedef struct mlxd_http_done {
    const char *method;     /* as sent; cut to 15 bytes */
    const char *route;      /* path of its route row; NULL when it matched none or was refused */
    const char *request_id; /* "" when the request line was all that came */
    const char *peer;
    unsigned status; /* 0: no reply was made (client left first, deadline, stop) */
    uint32_t key_id;
    bool gone; /* the client left, or the server stopped, before its reply was complete */
    uint64_t duration_ns;
    uint64_t body_bytes; /* of the request, as received */
} mlxd_http_done;

/* Zero means the default given. Pointers are borrowed until mlxd_http_stop has returned. */
typedef struct mlxd_http_config {
    const char *host; /* IPv4 or IPv6 literal, or "localhost" (127.0.0.1); default 127.0.0.1 */
    uint16_t port;    /* 0: any, see mlxd_http_port */
    const mlxd_http_route *routes;
    size_t routes_len;
    void *ctx;                                           /* handed to handlers, auth and done */
    mlxd_http_auth *auth;                                /* NULL: everybody may do everything */
    void (*done)(void *ctx, const mlxd_http_done *done); /* HTTP thread; NULL: none */
    /* Names accepted in Host besides localhost, loopback literals and the address the connection
     * came in on; without port, case does not matter; "*" accepts everything. Others get 421. */
    const char *const *hosts;
    size_t hosts_len;
    size_t body_bytes_max;       /* MLXD_LIMIT_BODY_BYTES */
    size_t stream_bytes_max;     /* MLXD_LIMIT_STREAM_BYTES: unsent bytes of one stream */
    unsigned connections_max;    /* MLXD_LIMIT_HTTP_CONNECTIONS */
    unsigned connections_per_ip; /* connections_max */
    unsigned header_deadline_ms; /* 10 000: connection made -> headers complete */
    unsigned body_deadline_ms;   /* 60 000: headers complete -> body complete */
    unsigned idle_deadline_ms;   /* 75 000: nothing sent or received, also between requests */
} mlxd_http_config;

/* Binds, then serves. INVALID: host is neither; IO: the address is in use or not of this machine,
 * or a thread could not start; NOMEM. `why` names the address. */
mlxd_err mlxd_http_start(mlxd_http **out, const mlxd_http_config *config,
                         mlxd_why *why) MLXD_MUST_CHECK;
/* "localhost", or a literal of 127.0.0.0/8 or ::1 (without brackets): only this machine reaches it.
 * The one rule for what may be served without keys. */
bool mlxd_http_is_loopback(const char *host);
/* The bound port, and "http://127.0.0.1:8100" (owned by the server). */
uint16_t mlxd_http_port(const mlxd_http *h);
const char *mlxd_http_url(const mlxd_http *h);
/* Stops listening, answers new requests of open connections with 503 + Retry-After, and waits up to
 * `timeout_ms` for the live requests; true when none is left. Not from a thread of the server. */
bool mlxd_http_drain(mlxd_http *h, unsigned timeout_ms);
/* Ends everything: requests that are live are gone (on_gone is called), connections are closed,
 * threads have ended when it returns. Requests that are still owned may be finished afterwards.
 * NULL is fine. Not from a thread of the server. */
void mlxd_http_stop(mlxd_http *h);

typedef struct mlxd_http_stats {
    uint64_t connections;      /* accepted since start */
    uint64_t connections_open; /* now */
    uint64_t requests_live;    /* now, handed to handlers and not complete */
    uint64_t replies[6];       /* [2] = 2xx ... [5] = 5xx; [0] = no reply was made */
    uint64_t gone;             /* clients that left before their reply was complete */
    uint64_t deadlines;        /* connections closed by header or body deadline */
} mlxd_http_stats;
/* Any thread. */
void mlxd_http_stats_get(const mlxd_http *h, mlxd_http_stats *out);

/* ---- request: what came. Lent by `req`; valid until its finishing call ---- */

mlxd_http_method mlxd_http_req_method(const mlxd_http_req *req);
const char *mlxd_http_path(const mlxd_http_req *req);  /* raw, without the query */
const char *mlxd_http_param(const mlxd_http_req *req); /* decoded {id}; "" when there is none */
const char *mlxd_http_query(const mlxd_http_req *req); /* raw, behind '?'; "" when there is none */
mlxd_slice mlxd_http_body(const mlxd_http_req *req);   /* a NUL follows its last byte */
const char *mlxd_http_id(const mlxd_http_req *req);    /* the client's x-request-id or ours */
const char *mlxd_http_peer(const mlxd_http_req *req);  /* "192.0.2.7", "2001:db8::1" */
uint32_t mlxd_http_key_id(const mlxd_http_req *req);   /* from auth; 0 when it set none */
bool mlxd_http_authorized(const mlxd_http_req *req);   /* auth said OK, or there is no auth */
uint64_t mlxd_http_began_ns(const mlxd_http_req *req); /* monotonic; request line parsed */
/* First header of that name (case does not matter), NULL when absent. ONLY inside the handler:
 * headers are not kept. */
const char *mlxd_http_header(const mlxd_http_req *req, const char *name);

/* ---- reply ---- */

/* Extra header of a reply. Bytes that may not be in a header value are replaced by '?', so a value
 * may hold text from a client; values are cut at 1024 bytes, empty ones left out. Lists end with
 * {NULL, NULL}; NULL is an empty list. */
typedef struct mlxd_http_field {
    const char *name;
    const char *value;
} mlxd_http_field;

/* Asks to be told when the client leaves before the reply is complete. May be called again before
 * that to replace or (NULL) drop the callback. False: it has left already, and `fn` will not be
 * called; inside the handler it is always true. Any thread. */
bool mlxd_http_on_gone(mlxd_http_req *req, void (*fn)(void *ctx), void *ctx);
bool mlxd_http_gone(mlxd_http_req *req);

/* FINISHING. Whole reply; `body` and `fields` are copied. status 200..599; content_type NULL: none.
 * CANCELLED: the client had gone; NOMEM: the connection is cut. Any thread, not after a successful
 * stream_begin. */
mlxd_err mlxd_http_reply(mlxd_http_req *req, unsigned status, const char *content_type,
                         mlxd_slice body, const mlxd_http_field *fields);
/* FINISHING. Error object. `type` follows from the status ("invalid_request_error", ...); `code`
 * and `param` may be NULL (JSON null). `message` is any text for a person. */
mlxd_err mlxd_http_reply_error(mlxd_http_req *req, unsigned status, const char *code,
                               const char *param, const char *message,
                               const mlxd_http_field *fields);
/* The same object {"error":{...}} as text, for an error event inside a stream. */
void mlxd_http_error_json(mlxd_buf *out, unsigned status, const char *code, const char *param,
                          const char *message);

/* ---- stream: not FINISHING unless said; one thread at a time per request ---- */

/* Sends status and headers. text/event-stream also gets Cache-Control: no-cache and
 * X-Accel-Buffering: no. HTTP/1.1 clients get chunks, HTTP/1.0 ones a body ended by close.
 * CANCELLED: the client has gone; NOMEM: nothing was sent. The owner still makes a finishing call:
 * after NOMEM a reply or stream_abort, after CANCELLED any. */
mlxd_err mlxd_http_stream_begin(mlxd_http_req *req, unsigned status, const char *content_type,
                                const mlxd_http_field *fields) MLXD_MUST_CHECK;
/* Appends; never blocks. All or nothing. FULL: the client does not read and stream_bytes_max would
 * be passed; the caller cancels. CANCELLED: gone. NOMEM. */
mlxd_err mlxd_http_stream_write(mlxd_http_req *req, const void *data, size_t len) MLXD_MUST_CHECK;
/* Bytes that wait to be sent. */
size_t mlxd_http_stream_pending(mlxd_http_req *req);
/* FINISHING. What was written is still sent, then the end of the body. */
void mlxd_http_stream_end(mlxd_http_req *req);
/* FINISHING. Cuts the connection, so that the client sees that the body is not complete. Also the
 * way to drop a request without any reply. */
void mlxd_http_stream_abort(mlxd_http_req *req);

#endif
