/* grpc_server.c - listens, accepts calls, checks who is calling, hands over to grpc_call.c and
 * grpc_stream.c.
 *
 * Every method is registered with PAYLOAD_NONE, so a call is delivered when its headers have come:
 * certificate, cluster and role are checked before a message is received. One accept per method is
 * armed at any time, plus one for paths that nobody registered (UNIMPLEMENTED); an accept is armed
 * again before its call is handled.
 *
 * Close: shutdown_and_notify (no new calls), grace, cancel_all_calls, then wait until the notice,
 * every accept and every call are back.
 */
#include "net/grpc_core.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANDSHAKE_TIMEOUT_MS 10000
#define MIN_PING_INTERVAL_MS 5000

typedef struct acceptor {
    mlxd_rpc_server *server;
    const mlxd_rpc_method *method; /* NULL: the catch-all */
    void *handle;
    mlxd_rpc_tag tag;
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* catch-all */
} acceptor;

struct mlxd_rpc_server {
    mlxd_rpc_runtime *rt;
    grpc_server *core;
    int port;
    bool tls;
    mlxd_identity self;
    mlxd_rpc_method *methods; /* owned, with their paths */
    size_t method_count;
    acceptor *acceptors; /* one per method and the catch-all */
    mlxd_rpc_budget *budget;
    mlxd_rpc_tag down_tag;
    /* under the runtime's mutex */
    size_t armed; /* acceptors not yet returned for good */
    size_t live;  /* calls, streams, refusals */
    bool down;
    /* certificate for the next handshakes; NULL = unchanged */
    mlxd_mutex cert_mutex;
    grpc_ssl_server_certificate_config *next_cert;
};

static void count_live(mlxd_rpc_server *server, bool more) {
    mlxd_rpc_runtime *rt = server->rt;
    mlxd_mutex_lock(&rt->mutex);
    MLXD_ASSERT(more || server->live > 0);
    if (more)
        server->live++;
    else
        server->live--;
    mlxd_cond_broadcast(&rt->cond);
    mlxd_mutex_unlock(&rt->mutex);
}

static void on_call_gone(void *owner) {
    count_live(owner, false);
}

static void on_stream_gone(void *owner, mlxd_rpc_stream *s) {
    (void)s;
    count_live(owner, false);
}

/* ---- refusals ---- */

typedef struct refusal {
    mlxd_rpc_tag tag;
    mlxd_rpc_server *server;
    grpc_call *call;
    grpc_slice details;
    int cancelled;
} refusal;

static void on_refused(void *owner, bool ok) {
    refusal *r = owner;
    (void)ok;
    mlxd_rpc_server *server = r->server;
    grpc_call_unref(r->call);
    grpc_slice_unref(r->details);
    mlxd_mem_free(r);
    count_live(server, false);
}

/* Answers a call that nobody will handle. Takes `call`. */
static void refuse(mlxd_rpc_server *server, grpc_call *call, grpc_status_code code,
                   const char *text) {
    refusal *r = mlxd_mem_new(1, sizeof *r);
    if (!r) {
        grpc_call_unref(call);
        return;
    }
    *r = (refusal){.server = server, .call = call, .details = mlxd_rpc_text_slice(text)};
    mlxd_rpc_tag_init(&r->tag, on_refused, r);
    grpc_op ops[3];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[1].data.send_status_from_server.status = code;
    ops[1].data.send_status_from_server.status_details = &r->details;
    ops[2].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[2].data.recv_close_on_server.cancelled = &r->cancelled;
    count_live(server, true);
    mlxd_rpc_batch(call, ops, 3, &r->tag);
}

/* ---- accepting ---- */

/* May this peer call this method? Fills info->peer. */
static mlxd_err check_peer(const mlxd_rpc_server *server, const mlxd_rpc_method *method,
                           grpc_call *call, mlxd_rpc_info *info, mlxd_why *why) {
    if (!server->tls)
        return MLXD_OK;
    mlxd_err err = mlxd_rpc_creds_peer(call, &info->peer, why);
    if (err)
        return err;
    if (strcmp(info->peer.cluster, server->self.cluster) != 0)
        return mlxd_fail(why, MLXD_ERR_PERM, "%s is of cluster %s, this node of %s",
                         info->peer.device, info->peer.cluster, server->self.cluster);
    if (method->roles & (unsigned)info->peer.role)
        return MLXD_OK;
    char allowed[64];
    mlxd_role_mask_text(method->roles, allowed, sizeof allowed);
    return mlxd_fail(why, MLXD_ERR_PERM, "%s may be called by role %s, not by role %s (device %s)",
                     method->path, allowed, mlxd_role_name(info->peer.role), info->peer.device);
}

static void fill_address(grpc_call *call, mlxd_rpc_info *info) {
    char *address = grpc_call_get_peer(call);
    if (address)
        snprintf(info->address, sizeof info->address, "%s", address);
    gpr_free(address);
}

static bool start_stream(mlxd_rpc_server *server, const mlxd_rpc_method *method, grpc_call *call,
                         const mlxd_rpc_info *info, mlxd_rpc_peer *peer) {
    mlxd_rpc_stream_seed seed = {.server = true,
                                 .events = &method->stream,
                                 .limits = &method->limits,
                                 .ctx = method->ctx,
                                 .gone = on_stream_gone,
                                 .owner = server};
    mlxd_rpc_stream *s = mlxd_rpc_stream_new(&seed);
    if (!s)
        return false;
    *mlxd_rpc_stream_info_mut(s) = *info;
    mlxd_rpc_stream_start(s, call, peer, NULL, 0, 0);
    return true;
}

static void handle(mlxd_rpc_server *server, const mlxd_rpc_method *method, grpc_call *call,
                   gpr_timespec deadline, const grpc_metadata_array *metadata) {
    mlxd_why why;
    mlxd_rpc_info info = {.id = mlxd_rpc_next_id(),
                          .path = method->path,
                          .deadline_ns = mlxd_rpc_deadline_from(deadline)};
    fill_address(call, &info);
    if (check_peer(server, method, call, &info, &why)) {
        mlxd_log(MLXD_LOG_WARN, "grpc", "refused call from %s: %s", info.address, why.text);
        refuse(server, call, GRPC_STATUS_PERMISSION_DENIED, why.text);
        return;
    }
    bool owned = mlxd_rpc_info_own(&info, method->path, metadata);
    mlxd_rpc_peer *peer = owned ? mlxd_rpc_peer_get(server->budget, &info) : NULL;
    count_live(server, true);
    bool ok = false;
    if (peer && method->kind == MLXD_RPC_STREAM) {
        ok = start_stream(server, method, call, &info, peer);
    } else if (peer) {
        mlxd_rpc_call_seed seed = {.method = method,
                                   .call = call,
                                   .info = info,
                                   .peer = peer,
                                   .gone = on_call_gone,
                                   .owner = server};
        ok = mlxd_rpc_call_start(&seed);
    }
    if (ok)
        return;
    if (peer)
        mlxd_rpc_peer_unref(peer);
    mlxd_rpc_info_disown(&info);
    refuse(server, call, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    count_live(server, false);
}

static void refuse_unknown(mlxd_rpc_server *server, grpc_call *call, grpc_slice path) {
    char text[256];
    snprintf(text, sizeof text, "unknown method %.*s",
             (int)MLXD_MIN(GRPC_SLICE_LENGTH(path), (size_t)200),
             (const char *)GRPC_SLICE_START_PTR(path));
    refuse(server, call, GRPC_STATUS_UNIMPLEMENTED, text);
}

static void arm(acceptor *a) {
    mlxd_rpc_server *server = a->server;
    grpc_completion_queue *cq = server->rt->cq;
    a->call = NULL;
    grpc_metadata_array_init(&a->metadata);
    if (!a->method)
        grpc_call_details_init(&a->details);
    void *tag = mlxd_rpc_tag_arm(&a->tag); /* from here on the acceptor belongs to gRPC */
    grpc_call_error error;
    if (a->method) {
        error = grpc_server_request_registered_call(server->core, a->handle, &a->call, &a->deadline,
                                                    &a->metadata, NULL, cq, cq, tag);
    } else {
        error = grpc_server_request_call(server->core, &a->call, &a->details, &a->metadata, cq, cq,
                                         tag);
    }
    MLXD_ASSERT(error == GRPC_CALL_OK);
}

static void on_accept(void *owner, bool ok) {
    acceptor *a = owner;
    mlxd_rpc_server *server = a->server;
    grpc_call *call = a->call;
    grpc_metadata_array metadata = a->metadata;
    grpc_call_details details = a->details;
    gpr_timespec deadline = a->deadline;
    if (ok) {
        arm(a);
        if (a->method)
            handle(server, a->method, call, deadline, &metadata);
        else
            refuse_unknown(server, call, details.method);
    }
    grpc_metadata_array_destroy(&metadata);
    if (!a->method)
        grpc_call_details_destroy(&details);
    if (ok)
        return;
    mlxd_rpc_runtime *rt = server->rt;
    mlxd_mutex_lock(&rt->mutex);
    server->armed--; /* shutting down */
    mlxd_cond_broadcast(&rt->cond);
    mlxd_mutex_unlock(&rt->mutex);
}

/* ---- open ---- */

static grpc_ssl_certificate_config_reload_status
fetch_cert(void *ctx, grpc_ssl_server_certificate_config **out) {
    mlxd_rpc_server *server = ctx;
    mlxd_mutex_lock(&server->cert_mutex);
    *out = server->next_cert;
    server->next_cert = NULL;
    mlxd_mutex_unlock(&server->cert_mutex);
    return *out ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

static bool is_path(const char *path) {
    const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;
    return slash && slash > path + 1 && slash[1] && !strchr(slash + 1, '/');
}

static mlxd_err copy_method(mlxd_rpc_method *to, const mlxd_rpc_method *from, size_t peer_bytes_max,
                            size_t *message_max, mlxd_why *why) {
    bool unary = from->kind == MLXD_RPC_UNARY;
    MLXD_ASSERT(unary ? from->on_call != NULL : from->stream.on_open != NULL);
    if (!is_path(from->path))
        return mlxd_fail(why, MLXD_ERR_INVALID, "method \"%s\" is not /package.Service/Method",
                         from->path);
    if ((from->roles & MLXD_ROLES_ALL) == 0)
        return mlxd_fail(why, MLXD_ERR_INVALID, "method %s: no role may call it", from->path);
    size_t max = unary ? from->message_max : from->limits.message_max;
    if (!max)
        max = unary ? MLXD_LIMIT_GRPC_MESSAGE : MLXD_LIMIT_GRPC_STREAM_MESSAGE;
    if (max > peer_bytes_max || max > MLXD_LIMIT_GRPC_MESSAGE)
        return mlxd_fail(why, MLXD_ERR_INVALID, "method %s: messages of %zu bytes, at most %zu",
                         from->path, max,
                         MLXD_MIN(peer_bytes_max, (size_t)MLXD_LIMIT_GRPC_MESSAGE));
    *message_max = MLXD_MAX(*message_max, max);
    *to = *from;
    to->path = mlxd_mem_dup_str(from->path);
    return to->path ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "method table");
}

static void free_server(mlxd_rpc_server *server) {
    for (size_t i = 0; i < server->method_count; i++)
        mlxd_mem_free((char *)(uintptr_t)server->methods[i].path);
    mlxd_mem_free(server->methods);
    mlxd_mem_free(server->acceptors);
    if (server->budget)
        mlxd_rpc_budget_unref(server->budget);
    if (server->next_cert)
        grpc_ssl_server_certificate_config_destroy(server->next_cert);
    mlxd_mutex_deinit(&server->cert_mutex);
    mlxd_mem_free(server);
}

static void on_down(void *owner, bool ok) {
    mlxd_rpc_server *server = owner;
    (void)ok;
    mlxd_rpc_runtime *rt = server->rt;
    mlxd_mutex_lock(&rt->mutex);
    server->down = true;
    mlxd_cond_broadcast(&rt->cond);
    mlxd_mutex_unlock(&rt->mutex);
}

/* The tables of a server that gRPC does not know yet. */
static mlxd_err make_server(mlxd_rpc_server **out, mlxd_rpc_runtime *rt,
                            const mlxd_rpc_server_options *o, size_t *message_max, mlxd_why *why) {
    size_t budget = o->peer_bytes_max ? o->peer_bytes_max : MLXD_LIMIT_GRPC_PEER_BYTES;
    mlxd_rpc_server *server = mlxd_mem_new(1, sizeof *server);
    if (!server)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "server");
    mlxd_mutex_init(&server->cert_mutex);
    server->rt = rt;
    server->tls = !o->creds->plaintext;
    if (server->tls)
        server->self = o->creds->bundle.identity;
    server->methods = mlxd_mem_new(o->method_count, sizeof *server->methods);
    server->acceptors = mlxd_mem_new(o->method_count + 1, sizeof *server->acceptors);
    server->budget = mlxd_rpc_budget_open(budget);
    mlxd_err err = MLXD_OK;
    if (!server->methods || !server->acceptors || !server->budget)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "server");
    for (size_t i = 0; !err && i < o->method_count; i++) {
        err = copy_method(&server->methods[i], &o->methods[i], budget, message_max, why);
        if (!err)
            server->method_count++;
    }
    if (err) {
        free_server(server);
        return err;
    }
    mlxd_rpc_tag_init(&server->down_tag, on_down, server);
    *out = server;
    return MLXD_OK;
}

static grpc_server *make_core(const mlxd_rpc_server_options *o, size_t message_max) {
    mlxd_rpc_args args = {0};
    uint32_t keepalive = o->keepalive_time_ms ? o->keepalive_time_ms : MIN_PING_INTERVAL_MS;
    mlxd_rpc_args_common(&args, o->keepalive_time_ms, o->keepalive_timeout_ms);
    mlxd_rpc_args_int(&args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                      (int)MLXD_MIN(keepalive, (uint32_t)MIN_PING_INTERVAL_MS));
    mlxd_rpc_args_int(&args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)message_max);
    mlxd_rpc_args_int(&args, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)MLXD_LIMIT_GRPC_MESSAGE);
    mlxd_rpc_args_int(&args, GRPC_ARG_MAX_CONCURRENT_STREAMS, MLXD_LIMIT_GRPC_STREAMS);
    mlxd_rpc_args_int(&args, GRPC_ARG_MAX_METADATA_SIZE, (int)MLXD_LIMIT_GRPC_METADATA);
    mlxd_rpc_args_int(&args, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS);
    mlxd_rpc_args_int(&args, GRPC_ARG_ALLOW_REUSEPORT, 0);
    grpc_channel_args table = {args.count, args.rows};
    return grpc_server_create(&table, NULL);
}

/* gRPC says only "no": tries the same bind to learn why. */
static int bind_errno(const char *listen_on) {
    char host[256];
    snprintf(host, sizeof host, "%s", listen_on[0] == '[' ? listen_on + 1 : listen_on);
    char *colon = strrchr(host, ':');
    MLXD_ASSERT(colon);
    const char *port = colon + 1;
    *(listen_on[0] == '[' ? colon - 1 : colon) = 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    if (getaddrinfo(host, port, &hints, &list) != 0)
        return EADDRNOTAVAIL;
    int code = 0, one = 1;
    for (struct addrinfo *a = list; a && !code; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (fd < 0)
            continue;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1) != 0)
            code = errno;
        close(fd);
    }
    freeaddrinfo(list);
    return code;
}

static mlxd_err add_port(mlxd_rpc_server *server, const mlxd_rpc_server_options *o, mlxd_why *why) {
    grpc_server_credentials *creds;
    if (server->tls) {
        server->next_cert = mlxd_rpc_creds_server_config(o->creds);
        creds = mlxd_rpc_creds_server(fetch_cert, server);
    } else {
        creds = grpc_insecure_server_credentials_create();
    }
    server->port = grpc_server_add_http2_port(server->core, o->listen, creds);
    grpc_server_credentials_release(creds);
    if (server->port > 0)
        return MLXD_OK;
    int code = bind_errno(o->listen);
    return mlxd_fail(why, MLXD_ERR_IO, "cannot listen on %s: %s", o->listen,
                     code ? strerror(code) : "gRPC refused the address");
}

static void stop(mlxd_rpc_server *server, uint32_t grace_ms) {
    mlxd_rpc_runtime *rt = server->rt;
    uint64_t until = mlxd_clock_now_ns() + grace_ms * MLXD_NS_PER_MS;
    grpc_server_shutdown_and_notify(server->core, rt->cq, mlxd_rpc_tag_arm(&server->down_tag));
    mlxd_mutex_lock(&rt->mutex);
    while (!(server->down && server->live == 0) &&
           mlxd_cond_wait_until(&rt->cond, &rt->mutex, until))
        continue;
    mlxd_mutex_unlock(&rt->mutex);
    grpc_server_cancel_all_calls(server->core);
    mlxd_mutex_lock(&rt->mutex);
    while (!server->down || server->live || server->armed)
        mlxd_cond_wait(&rt->cond, &rt->mutex);
    mlxd_mutex_unlock(&rt->mutex);
    grpc_server_destroy(server->core);
    free_server(server);
}

static void start(mlxd_rpc_server *server, mlxd_rpc_runtime *rt) {
    grpc_server_start(server->core);
    server->armed = server->method_count + 1;
    mlxd_rpc_runtime_attach(rt);
    for (size_t i = 0; i < server->method_count + 1; i++) {
        acceptor *a = &server->acceptors[i];
        a->server = server;
        a->method = i < server->method_count ? &server->methods[i] : NULL;
        mlxd_rpc_tag_init(&a->tag, on_accept, a);
        arm(a);
    }
}

mlxd_err mlxd_rpc_server_open(mlxd_rpc_server **out, mlxd_rpc_runtime *rt,
                              const mlxd_rpc_server_options *options, mlxd_why *why) {
    bool loopback = false;
    size_t message_max = 0;
    mlxd_rpc_server *server = NULL;
    *out = NULL;
    MLXD_ASSERT(options->method_count > 0);
    mlxd_err err = mlxd_rpc_address_check(options->listen, &loopback, why);
    if (err)
        return err;
    if (options->creds->plaintext && !loopback && !options->plaintext_public)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "refusing to listen on %s without TLS: plaintext is for loopback only",
                         options->listen);
    err = make_server(&server, rt, options, &message_max, why);
    if (err)
        return err;
    server->core = make_core(options, message_max);
    grpc_server_register_completion_queue(server->core, rt->cq, NULL);
    for (size_t i = 0; i < server->method_count; i++) {
        server->acceptors[i].handle = grpc_server_register_method(
            server->core, server->methods[i].path, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
        if (!server->acceptors[i].handle)
            err = mlxd_fail(why, MLXD_ERR_INVALID, "method %s is there twice",
                            server->methods[i].path);
    }
    if (!err)
        err = add_port(server, options, why);
    if (err) {
        stop(server, 0);
        return err;
    }
    start(server, rt);
    *out = server;
    return MLXD_OK;
}

int mlxd_rpc_server_port(const mlxd_rpc_server *server) {
    return server->port;
}

mlxd_err mlxd_rpc_server_renew(mlxd_rpc_server *server, const mlxd_rpc_creds *creds,
                               mlxd_why *why) {
    MLXD_ASSERT(server->tls && !creds->plaintext);
    const mlxd_identity *id = &creds->bundle.identity;
    if (strcmp(id->cluster, server->self.cluster) || strcmp(id->device, server->self.device))
        return mlxd_fail(why, MLXD_ERR_STATE, "new certificate is for %s of %s, this is %s of %s",
                         id->device, id->cluster, server->self.device, server->self.cluster);
    grpc_ssl_server_certificate_config *config = mlxd_rpc_creds_server_config(creds), *old;
    mlxd_mutex_lock(&server->cert_mutex);
    old = server->next_cert;
    server->next_cert = config;
    mlxd_mutex_unlock(&server->cert_mutex);
    if (old)
        grpc_ssl_server_certificate_config_destroy(old);
    return MLXD_OK;
}

void mlxd_rpc_server_close(mlxd_rpc_server *server, uint32_t grace_ms) {
    if (!server)
        return;
    mlxd_rpc_runtime *rt = server->rt;
    MLXD_ASSERT(!mlxd_rpc_runtime_here(rt));
    stop(server, grace_ms);
    mlxd_rpc_runtime_detach(rt);
}
