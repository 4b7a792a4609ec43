/* http.c - the server: listening socket, start, drain, stop, and libmicrohttpd's callbacks, in the
 * order in which they come for one request:
 *
 *     connection started   -> slot, header deadline
 *     request line parsed  -> request object (the path is kept as it came, undecoded)
 *     first access call    -> decisions that need no body; a refusal goes out at once
 *     body pieces          -> collected, counted
 *     last access call     -> handler; then reply, or suspend and be watched
 *     (resumed: access)    -> reply
 *     completed            -> counters, on_gone if the owner was not finished
 *     connection closed    -> slot removed; the descriptor is still open here
 */
#include "net/http_internal.h"

#include "base/log.h"
#include "base/os.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 511

/* ---- connections ---- */

static void peer_text(const struct sockaddr *sa, char out[MLXD_HTTP_PEER_MAX]) {
    const char *got = NULL;
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        got = inet_ntop(AF_INET, &in.sin_addr, out, MLXD_HTTP_PEER_MAX);
    } else if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
            got = inet_ntop(AF_INET, &in6.sin6_addr.s6_addr[12], out, MLXD_HTTP_PEER_MAX);
        else
            got = inet_ntop(AF_INET6, &in6.sin6_addr, out, MLXD_HTTP_PEER_MAX);
    }
    if (!got)
        (void)snprintf(out, MLXD_HTTP_PEER_MAX, "?");
}

/* With server.lock held. */
static void set_deadline(mlxd_http *h, mlxd_http_slot *slot, uint64_t ms) {
    slot->deadline_ns = ms ? mlxd_clock_now_ns() + ms * MLXD_NS_PER_MS : 0;
    if (ms)
        mlxd_http_watch_wake(h, slot->deadline_ns);
}

static mlxd_http_slot *slot_open(mlxd_http *h, struct MHD_Connection *conn) {
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *address =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    mlxd_http_slot *slot = mlxd_mem_new(1, sizeof *slot);
    if (!slot || !fd || !address) {
        mlxd_mem_free(slot);
        return NULL;
    }
    slot->fd = fd->connect_fd;
    peer_text(address->client_addr, slot->peer);
    mlxd_mutex_lock(&h->lock);
    slot->next = h->slots;
    if (h->slots)
        h->slots->prev = slot;
    h->slots = slot;
    set_deadline(h, slot, h->config.header_deadline_ms);
    mlxd_mutex_unlock(&h->lock);
    return slot;
}

static void slot_close(mlxd_http *h, mlxd_http_slot *slot) {
    mlxd_mutex_lock(&h->lock);
    MLXD_ASSERT(!slot->req);
    if (slot->next)
        slot->next->prev = slot->prev;
    if (slot->prev)
        slot->prev->next = slot->next;
    else
        h->slots = slot->next;
    if (slot->linger)
        mlxd_http_watch_linger(h, slot->fd);
    if (slot->poll_index) /* poll() holds the socket open as long as it waits for it */
        mlxd_http_watch_wake(h, 0);
    mlxd_mutex_unlock(&h->lock);
    mlxd_mem_free(slot);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    mlxd_http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        atomic_fetch_add(&h->connections, 1);
        atomic_fetch_add(&h->open, 1);
        *socket_context = slot_open(h, conn); /* NULL: its requests are not served */
        return;
    }
    atomic_fetch_sub(&h->open, 1);
    if (*socket_context)
        slot_close(h, *socket_context);
    *socket_context = NULL;
}

/* ---- requests ---- */

static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *conn) {
    mlxd_http *h = cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!info || !info->socket_context)
        return NULL;
    return mlxd_http_req_open(h, info->socket_context, conn, uri ? uri : "");
}

static enum MHD_Result queue_refusal(mlxd_http_req *req) {
    struct MHD_Response *resp = mlxd_http_refusal_response(req);
    if (!resp)
        return MHD_NO;
    req->phase = MLXD_HTTP_PHASE_REPLIED;
    req->status = req->refusal.status;
    enum MHD_Result queued = MHD_queue_response(req->conn, req->status, resp);
    MHD_destroy_response(resp);
    return queued;
}

static enum MHD_Result on_headers(mlxd_http_req *req, const char *method, const char *version) {
    mlxd_http *h = req->h;
    bool has_body = false;
    mlxd_http_check(req, method, version, &has_body);
    bool accepted = req->refusal.status == 0;
    mlxd_mutex_lock(&h->lock);
    set_deadline(h, req->slot, accepted && has_body ? h->config.body_deadline_ms : 0);
    mlxd_mutex_unlock(&h->lock);
    req->phase = accepted ? MLXD_HTTP_PHASE_BODY : MLXD_HTTP_PHASE_REFUSED;
    if (accepted || !req->refusal.close)
        return MHD_YES;
    req->slot->linger = true;
    return queue_refusal(req); /* queued in the first call, it also ends the connection */
}

/* The request waits: from here on its client is watched. */
static void start_watching(mlxd_http_req *req) {
    mlxd_http *h = req->h;
    mlxd_mutex_lock(&h->lock);
    bool stopping = h->stopping;
    if (!stopping) {
        req->slot->req = req;
        mlxd_http_watch_wake(h, 0);
    }
    mlxd_mutex_unlock(&h->lock);
    if (stopping)
        mlxd_http_req_tell_gone(req);
}

static enum MHD_Result on_complete(mlxd_http_req *req) {
    mlxd_http *h = req->h;
    mlxd_mutex_lock(&h->lock);
    set_deadline(h, req->slot, 0);
    mlxd_mutex_unlock(&h->lock);
    if (req->refusal.status != 0)
        return queue_refusal(req);
    if (req->body.len > 0)
        (void)mlxd_buf_str(&req->body);
    if (req->body.failed)
        return MHD_NO;
    req->phase = MLXD_HTTP_PHASE_HANDED;
    req->handed = true;
    atomic_fetch_add(&h->live, 1);
    mlxd_http_req_ref(req); /* the owner's */
    req->in_handler = true;
    req->route->handler(h->config.ctx, req);
    req->in_handler = false;
    mlxd_mutex_lock(&req->lock);
    bool finished = req->finished && !req->streaming;
    mlxd_mutex_unlock(&req->lock);
    if (!finished)
        start_watching(req);
    return mlxd_http_req_advance(req);
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *data_len, void **con_cls) {
    mlxd_http_req *req = *con_cls;
    (void)cls;
    (void)conn;
    (void)url;
    if (!req)
        return MHD_NO;
    switch (req->phase) {
    case MLXD_HTTP_PHASE_HEADERS:
        return on_headers(req, method, version);
    case MLXD_HTTP_PHASE_BODY:
    case MLXD_HTTP_PHASE_REFUSED:
        if (*data_len == 0)
            return on_complete(req);
        bool go_on = mlxd_http_check_body(req, data, *data_len);
        *data_len = 0;
        return go_on ? MHD_YES : MHD_NO;
    case MLXD_HTTP_PHASE_HANDED:
        return mlxd_http_req_advance(req);
    case MLXD_HTTP_PHASE_REPLIED:
        break;
    }
    return MHD_YES;
}

static void report(mlxd_http_req *req, bool gone) {
    mlxd_http *h = req->h;
    atomic_fetch_add(&h->replies[req->status / 100], 1);
    if (gone)
        atomic_fetch_add(&h->gone, 1);
    if (!h->config.done)
        return;
    const mlxd_http_done done = {
        .method = req->method,
        .route = req->route ? req->route->path : NULL,
        .request_id = req->id,
        .peer = req->peer,
        .status = req->status,
        .key_id = req->key_id,
        .gone = gone,
        .duration_ns = mlxd_clock_now_ns() - req->began_ns,
        .body_bytes = req->body_seen,
    };
    h->config.done(h->config.ctx, &done);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode code) {
    mlxd_http *h = cls;
    mlxd_http_req *req = *con_cls;
    (void)conn;
    if (!req)
        return;
    *con_cls = NULL;
    mlxd_mutex_lock(&h->lock);
    req->slot->req = NULL;
    req->slot->hung_up = false;
    set_deadline(h, req->slot, (uint64_t)h->config.idle_deadline_ms + h->config.header_deadline_ms);
    mlxd_mutex_unlock(&h->lock);
    if (req->handed)
        mlxd_http_req_tell_gone(req); /* unless its owner has finished */
    mlxd_mutex_lock(&req->lock);
    struct MHD_Response *unused = req->response;
    req->response = NULL;
    bool cut = req->handed && !req->aborted && code != MHD_REQUEST_TERMINATED_COMPLETED_OK;
    /* A client may close as soon as it has read the last event, before the end of the body. */
    bool delivered = req->ended && req->in_time && req->ring_len == 0;
    bool gone = !delivered && (req->gone || cut);
    mlxd_mutex_unlock(&req->lock);
    if (unused)
        MHD_destroy_response(unused);
    report(req, gone);
    if (req->handed && atomic_fetch_sub(&h->live, 1) == 1 && atomic_load(&h->draining)) {
        mlxd_mutex_lock(&h->lock);
        mlxd_cond_broadcast(&h->quiet);
        mlxd_mutex_unlock(&h->lock);
    }
    req->slot = NULL;
    req->conn = NULL;
    mlxd_http_req_unref(req);
}

/* Paths are compared as they came. */
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s) {
    (void)cls;
    (void)conn;
    return strlen(s);
}

/* What libmicrohttpd says about its clients' mistakes is of interest only when debugging. */
MLXD_PRINTF(2, 0)
static void on_log(void *cls, const char *fmt, va_list args) {
    (void)cls;
    if (!mlxd_log_enabled(MLXD_LOG_DEBUG))
        return;
    char line[512];
    (void)vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = '\0';
    mlxd_log(MLXD_LOG_DEBUG, "http", "%s", line);
}

/* ---- start ---- */

static unsigned or_default(unsigned value, unsigned fallback) {
    return value ? value : fallback;
}

static void fill_config(mlxd_http_config *c) {
    c->host = c->host ? c->host : "127.0.0.1";
    c->body_bytes_max = c->body_bytes_max ? c->body_bytes_max : MLXD_LIMIT_BODY_BYTES;
    c->stream_bytes_max = c->stream_bytes_max ? c->stream_bytes_max : MLXD_LIMIT_STREAM_BYTES;
    c->connections_max = or_default(c->connections_max, MLXD_LIMIT_HTTP_CONNECTIONS);
    c->connections_per_ip = or_default(c->connections_per_ip, c->connections_max);
    c->header_deadline_ms = or_default(c->header_deadline_ms, 10000);
    c->body_deadline_ms = or_default(c->body_deadline_ms, 60000);
    c->idle_deadline_ms = or_default(c->idle_deadline_ms, 75000);
    MLXD_ASSERT(c->connections_max <= MLXD_LIMIT_HTTP_CONNECTIONS);
}

static bool parse_host(const mlxd_http_config *c, struct sockaddr_storage *sa, socklen_t *len) {
    const char *host = strcmp(c->host, "localhost") == 0 ? "127.0.0.1" : c->host;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(c->port)};
    memset(sa, 0, sizeof *sa);
    if (inet_pton(AF_INET, host, &in.sin_addr) == 1) {
        *len = sizeof in;
        memcpy(sa, &in, sizeof in);
        return true;
    }
    if (inet_pton(AF_INET6, host, &in6.sin6_addr) == 1) {
        *len = sizeof in6;
        memcpy(sa, &in6, sizeof in6);
        return true;
    }
    return false;
}

/* "http://127.0.0.1:8100", from the address that is bound. */
static void note_address(mlxd_http *h) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    memset(&sa, 0, sizeof sa);
    MLXD_ASSERT(getsockname(h->listen_fd, (struct sockaddr *)&sa, &len) == 0);
    char host[INET6_ADDRSTRLEN] = "?";
    if (sa.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &sa, sizeof in);
        h->port = ntohs(in.sin_port);
        (void)inet_ntop(AF_INET, &in.sin_addr, host, sizeof host);
        (void)snprintf(h->url, sizeof h->url, "http://%s:%u", host, h->port);
        return;
    }
    struct sockaddr_in6 in6;
    memcpy(&in6, &sa, sizeof in6);
    h->port = ntohs(in6.sin6_port);
    (void)inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof host);
    (void)snprintf(h->url, sizeof h->url, "http://[%s]:%u", host, h->port);
}

/* Our own socket, so that a failure names the address and nothing else listens meanwhile. */
static mlxd_err open_listener(mlxd_http *h, mlxd_why *why) {
    const mlxd_http_config *c = &h->config;
    struct sockaddr_storage sa;
    socklen_t len;
    if (!parse_host(c, &sa, &len))
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "%s: expected an IPv4 or IPv6 address or localhost to listen on", c->host);
    int fd = socket(sa.ss_family, SOCK_STREAM, 0);
    int on = 1;
    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&sa, len) != 0 || listen(fd, BACKLOG) != 0) {
        int e = errno;
        if (fd >= 0)
            (void)close(fd);
        bool v6 = sa.ss_family == AF_INET6;
        return mlxd_fail(why, MLXD_ERR_IO, "cannot listen on %s%s%s:%u: %s", v6 ? "[" : "", c->host,
                         v6 ? "]" : "", (unsigned)c->port, strerror(e));
    }
    h->listen_fd = fd;
    note_address(h);
    return MLXD_OK;
}

static mlxd_err start_daemon(mlxd_http *h, mlxd_why *why) {
    const mlxd_http_config *c = &h->config;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* libmicrohttpd's thread inherits it */
    h->daemon = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h, MHD_OPTION_LISTEN_SOCKET, h->listen_fd,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, h, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MLXD_LIMIT_HEADER_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, c->connections_max, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        c->connections_per_ip < c->connections_max ? c->connections_per_ip : 0u,
        MHD_OPTION_CONNECTION_TIMEOUT, (c->idle_deadline_ms + 999) / 1000, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!h->daemon)
        return mlxd_fail(why, MLXD_ERR_IO, "the HTTP server on %s did not start", h->url);
    return MLXD_OK;
}

static mlxd_err make_id_prefix(mlxd_http *h, mlxd_why *why) {
    uint64_t random;
    if (!mlxd_os_random(&random, sizeof random))
        return mlxd_fail(why, MLXD_ERR_IO, "the system has no random numbers");
    (void)snprintf(h->id_prefix, sizeof h->id_prefix, "%016llx", (unsigned long long)random);
    return MLXD_OK;
}

mlxd_err mlxd_http_start(mlxd_http **out, const mlxd_http_config *config, mlxd_why *why) {
    *out = NULL;
    mlxd_http *h = mlxd_mem_new(1, sizeof *h);
    if (!h)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the HTTP server");
    atomic_init(&h->refs, 1);
    h->config = *config;
    fill_config(&h->config);
    h->listen_fd = h->wake_fd[0] = h->wake_fd[1] = -1;
    mlxd_mutex_init(&h->lock);
    mlxd_cond_init(&h->quiet);
    mlxd_err err = make_id_prefix(h, why);
    if (!err)
        err = open_listener(h, why);
    if (!err)
        err = mlxd_http_watch_start(h, why);
    if (!err)
        err = start_daemon(h, why);
    if (err) {
        mlxd_http_stop(h);
        return err;
    }
    *out = h;
    return MLXD_OK;
}

uint16_t mlxd_http_port(const mlxd_http *h) {
    return h->port;
}

const char *mlxd_http_url(const mlxd_http *h) {
    return h->url;
}

void mlxd_http_stats_get(const mlxd_http *h, mlxd_http_stats *out) {
    out->connections = atomic_load(&h->connections);
    out->connections_open = atomic_load(&h->open);
    out->requests_live = atomic_load(&h->live);
    for (size_t i = 0; i < MLXD_COUNT_OF(out->replies); i++)
        out->replies[i] = atomic_load(&h->replies[i]);
    out->gone = atomic_load(&h->gone);
    out->deadlines = atomic_load(&h->deadlines);
}

/* ---- drain, stop ---- */

/* Stops listening. libmicrohttpd may be about to accept, so the descriptor must stay valid until
 * the daemon has ended: a socket that does not listen takes its place. */
static void close_listener(mlxd_http *h) {
    mlxd_mutex_lock(&h->lock);
    bool first = h->daemon && !h->quiesced;
    h->quiesced = true;
    mlxd_mutex_unlock(&h->lock);
    if (!first)
        return;
    (void)MHD_quiesce_daemon(h->daemon);
    int idle = socket(AF_INET, SOCK_STREAM, 0);
    if (idle < 0)
        return; /* no descriptor left; then it closes with the daemon */
    (void)dup2(idle, h->listen_fd);
    (void)fcntl(h->listen_fd, F_SETFD, FD_CLOEXEC);
    (void)close(idle);
}

bool mlxd_http_drain(mlxd_http *h, unsigned timeout_ms) {
    uint64_t deadline_ns = mlxd_clock_now_ns() + (uint64_t)timeout_ms * MLXD_NS_PER_MS;
    atomic_store(&h->draining, true);
    close_listener(h);
    mlxd_mutex_lock(&h->lock);
    while (atomic_load(&h->live) > 0)
        if (!mlxd_cond_wait_until(&h->quiet, &h->lock, deadline_ns))
            break;
    mlxd_mutex_unlock(&h->lock);
    return atomic_load(&h->live) == 0;
}

/* Every request that waits is told and resumed: libmicrohttpd must not stop with suspended
 * connections. Those that come to wait after this see `stopping`. */
static void release_waiting(mlxd_http *h) {
    mlxd_mutex_lock(&h->lock);
    h->stopping = true;
    mlxd_http_slot *s = h->slots;
    while (s) {
        mlxd_http_req *req = s->req;
        if (!req) {
            s = s->next;
            continue;
        }
        s->req = NULL;
        mlxd_http_req_ref(req);
        mlxd_mutex_unlock(&h->lock);
        mlxd_http_req_tell_gone(req);
        mlxd_http_req_unref(req);
        mlxd_mutex_lock(&h->lock);
        s = h->slots;
    }
    mlxd_mutex_unlock(&h->lock);
}

void mlxd_http_stop(mlxd_http *h) {
    if (!h)
        return;
    atomic_store(&h->draining, true);
    if (h->daemon) {
        close_listener(h);
        release_waiting(h);
        MHD_stop_daemon(h->daemon);
        h->daemon = NULL;
    }
    if (h->listen_fd >= 0)
        (void)close(h->listen_fd);
    h->listen_fd = -1;
    mlxd_http_watch_stop(h);
    MLXD_ASSERT(!h->slots);
    mlxd_http_unref(h);
}

void mlxd_http_unref(mlxd_http *h) {
    if (atomic_fetch_sub(&h->refs, 1) != 1)
        return;
    mlxd_cond_deinit(&h->quiet);
    mlxd_mutex_deinit(&h->lock);
    mlxd_mem_free(h);
}
