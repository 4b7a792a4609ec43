/* grpc_client.c - channel and unary call of a client.
 *
 * The TLS target name is overridden with "<device>.<cluster>.mlxd": the handshake proves that the
 * peer is that device, whatever its address. A channel keeps a list of what runs on it, so that
 * close can cancel it all and wait. Only the methods named idempotent get gRPC's retryPolicy.
 */
#include "net/grpc_core.h"

#include <stdio.h>
#include <string.h>

/* Something that runs on a channel: a unary call or a stream. */
typedef struct running {
    struct running *next, *prev;
    mlxd_rpc_channel *channel;
    grpc_call *call;         /* unary */
    mlxd_rpc_stream *stream; /* or stream */
    bool told;               /* cancelled by close */
} running;

struct mlxd_rpc_channel {
    mlxd_rpc_runtime *rt;
    grpc_channel *core;
    running list; /* under the runtime's mutex, like the rest */
    size_t live;
    bool closing;
};

/* ---- the list ---- */

static mlxd_err enlist(mlxd_rpc_channel *channel, running *r, mlxd_why *why) {
    mlxd_rpc_runtime *rt = channel->rt;
    r->channel = channel;
    mlxd_mutex_lock(&rt->mutex);
    bool closing = channel->closing;
    if (!closing) {
        r->next = channel->list.next;
        r->prev = &channel->list;
        r->next->prev = r;
        channel->list.next = r;
        channel->live++;
    }
    mlxd_mutex_unlock(&rt->mutex);
    return closing ? mlxd_fail(why, MLXD_ERR_STATE, "the channel is closing") : MLXD_OK;
}

static void delist(running *r) {
    mlxd_mutex_lock(&r->channel->rt->mutex);
    r->next->prev = r->prev;
    r->prev->next = r->next;
    mlxd_mutex_unlock(&r->channel->rt->mutex);
}

static void count_gone(mlxd_rpc_channel *channel) {
    mlxd_rpc_runtime *rt = channel->rt;
    mlxd_mutex_lock(&rt->mutex);
    channel->live--;
    mlxd_cond_broadcast(&rt->cond);
    mlxd_mutex_unlock(&rt->mutex);
}

static running *next_untold(mlxd_rpc_channel *channel) {
    for (running *r = channel->list.next; r != &channel->list; r = r->next)
        if (!r->told)
            return r;
    return NULL;
}

/* Under the runtime's mutex, which it drops while calling gRPC. */
static void cancel_all(mlxd_rpc_channel *channel) {
    running *r;
    while ((r = next_untold(channel))) {
        grpc_call *call = r->call;
        mlxd_rpc_stream *s = r->stream;
        r->told = true;
        if (call)
            grpc_call_ref(call);
        if (s)
            mlxd_rpc_stream_ref(s);
        mlxd_mutex_unlock(&channel->rt->mutex);
        if (call) {
            (void)grpc_call_cancel(call, NULL);
            grpc_call_unref(call);
        }
        if (s) {
            mlxd_rpc_stream_cancel(s);
            mlxd_rpc_stream_unref(s);
        }
        mlxd_mutex_lock(&channel->rt->mutex);
    }
}

/* ---- channel ---- */

static bool is_path(const char *path) {
    static const char bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
    if (path[0] != '/')
        return false;
    size_t service = strspn(path + 1, bytes);
    const char *slash = path + 1 + service;
    size_t method = *slash == '/' ? strspn(slash + 1, bytes) : 0;
    return service > 0 && method > 0 && !slash[1 + method] && service + method < 256;
}

static mlxd_err bad_path(const char *path, mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_INVALID, "method \"%s\" is not /package.Service/Method", path);
}

/* The contract's retry policy for the given paths; "{}" for none. */
static mlxd_err service_config(const mlxd_rpc_channel_options *o, mlxd_buf *json, mlxd_why *why) {
    mlxd_buf_add_str(json, o->idempotent_count ? "{\"methodConfig\":[{\"name\":[" : "{}");
    for (size_t i = 0; i < o->idempotent_count; i++) {
        const char *path = o->idempotent[i];
        if (!is_path(path))
            return bad_path(path, why);
        int service = (int)strcspn(path + 1, "/");
        mlxd_buf_addf(json, "%s{\"service\":\"%.*s\",\"method\":\"%s\"}", i ? "," : "", service,
                      path + 1, path + service + 2);
    }
    if (o->idempotent_count)
        mlxd_buf_add_str(json,
                         "],\"retryPolicy\":{\"maxAttempts\":5,\"initialBackoff\":\"0.1s\","
                         "\"maxBackoff\":\"10s\",\"backoffMultiplier\":2,"
                         "\"retryableStatusCodes\":[\"UNAVAILABLE\",\"DEADLINE_EXCEEDED\"]}}]}");
    (void)mlxd_buf_str(json);
    return json->failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "service config") : MLXD_OK;
}

static void fill_args(mlxd_rpc_args *args, const mlxd_rpc_channel_options *o, const char *name,
                      const char *config) {
    int first = (int)MLXD_MIN(o->reconnect_min_ms ? o->reconnect_min_ms : 100u, 3600000u);
    int last = (int)MLXD_MIN(o->reconnect_max_ms ? o->reconnect_max_ms : 1000u, 3600000u);
    mlxd_rpc_args_common(args, o->keepalive_time_ms, o->keepalive_timeout_ms);
    mlxd_rpc_args_int(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)MLXD_LIMIT_GRPC_MESSAGE);
    mlxd_rpc_args_int(args, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)MLXD_LIMIT_GRPC_MESSAGE);
    mlxd_rpc_args_int(args, GRPC_ARG_MAX_METADATA_SIZE, (int)MLXD_LIMIT_GRPC_METADATA);
    mlxd_rpc_args_int(args, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, first);
    mlxd_rpc_args_int(args, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, first);
    mlxd_rpc_args_int(args, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, MLXD_MAX(first, last));
    mlxd_rpc_args_int(args, GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    mlxd_rpc_args_int(args, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, o->own_connection);
    mlxd_rpc_args_str(args, GRPC_ARG_SERVICE_CONFIG, config);
    if (!o->creds->plaintext)
        mlxd_rpc_args_str(args, GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, name);
}

static mlxd_err check_channel(const mlxd_rpc_channel_options *o, char name[MLXD_IDENTITY_DNS_MAX],
                              mlxd_why *why) {
    bool loopback = false;
    mlxd_err err = mlxd_rpc_address_check(o->address, &loopback, why);
    if (err)
        return err;
    if (o->creds->plaintext)
        return loopback || o->plaintext_public
                   ? MLXD_OK
                   : mlxd_fail(why, MLXD_ERR_PERM,
                               "refusing to call %s without TLS: plaintext is for loopback only",
                               o->address);
    MLXD_ASSERT(o->device);
    err = mlxd_identity_check_id(mlxd_slice_str(o->device), why);
    if (err)
        return mlxd_fail_in(why, err, "device name");
    mlxd_identity_dns(o->creds->bundle.identity.cluster, o->device, name);
    return MLXD_OK;
}

mlxd_err mlxd_rpc_channel_open(mlxd_rpc_channel **out, mlxd_rpc_runtime *rt,
                               const mlxd_rpc_channel_options *options, mlxd_why *why) {
    char name[MLXD_IDENTITY_DNS_MAX] = "", target[300];
    mlxd_rpc_channel *channel = NULL;
    mlxd_buf json;
    *out = NULL;
    mlxd_buf_init(&json, 64u << 10);
    mlxd_err err = check_channel(options, name, why);
    if (!err)
        err = service_config(options, &json, why);
    if (!err && !(channel = mlxd_mem_new(1, sizeof *channel)))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "channel");
    if (!err) {
        mlxd_rpc_args args = {0};
        fill_args(&args, options, name, (const char *)json.data);
        grpc_channel_args table = {args.count, args.rows};
        /* The scheme keeps a host called "unix" a host; IPv6 literals must not have one. */
        snprintf(target, sizeof target, "%s%s", options->address[0] == '[' ? "" : "dns:///",
                 options->address);
        grpc_channel_credentials *creds = mlxd_rpc_creds_channel(options->creds);
        channel->rt = rt;
        channel->list.next = channel->list.prev = &channel->list;
        channel->core = grpc_channel_create(target, creds, &table);
        grpc_channel_credentials_release(creds);
        mlxd_rpc_runtime_attach(rt);
        *out = channel;
    }
    mlxd_buf_deinit(&json);
    return err;
}

void mlxd_rpc_channel_close(mlxd_rpc_channel *channel) {
    if (!channel)
        return;
    mlxd_rpc_runtime *rt = channel->rt;
    MLXD_ASSERT(!mlxd_rpc_runtime_here(rt));
    mlxd_mutex_lock(&rt->mutex);
    channel->closing = true;
    cancel_all(channel);
    while (channel->live)
        mlxd_cond_wait(&rt->cond, &rt->mutex);
    mlxd_mutex_unlock(&rt->mutex);
    grpc_channel_destroy(channel->core);
    mlxd_mem_free(channel);
    mlxd_rpc_runtime_detach(rt);
}

static grpc_call *make_call(mlxd_rpc_channel *channel, const char *path, uint64_t deadline_ns) {
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call =
        grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, channel->rt->cq,
                                 method, NULL, mlxd_rpc_deadline_to(deadline_ns), NULL);
    grpc_slice_unref(method);
    return call;
}

static mlxd_err check_request(const char *path, const char *request_id, mlxd_why *why) {
    if (!is_path(path))
        return bad_path(path, why);
    return request_id ? mlxd_rpc_request_id_check(request_id, why) : MLXD_OK;
}

/* The x-request-id header; returns how many rows were written. gRPC keeps references of its own. */
static size_t fill_metadata(grpc_metadata *row, const char *request_id) {
    memset(row, 0, sizeof *row);
    row->key = grpc_slice_from_static_string("x-request-id");
    row->value = mlxd_rpc_text_slice(request_id);
    return request_id ? 1 : 0;
}

static uint32_t call_flags(bool wait_for_ready) {
    uint32_t set = GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    return wait_for_ready ? set | GRPC_INITIAL_METADATA_WAIT_FOR_READY : set;
}

/* ---- unary ---- */

typedef struct unary {
    running run;
    mlxd_rpc_tag tag;
    void (*on_reply)(void *user, const mlxd_rpc_status *status, mlxd_rpc_msg *reply);
    void *user;
    size_t reply_max;
    grpc_metadata header; /* gRPC reads it until the headers are sent */
    grpc_byte_buffer *reply;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
} unary;

/* Status and message of a call that has come back; consumes the reply buffer. */
static mlxd_rpc_msg *take_reply(unary *u, mlxd_rpc_status *status) {
    mlxd_rpc_msg *msg = NULL;
    char *text = grpc_slice_to_c_string(u->details);
    mlxd_rpc_status_set(status, (int)u->code, text);
    gpr_free(text);
    if (status->err == MLXD_OK && !u->reply) {
        mlxd_rpc_status_set(status, GRPC_STATUS_INTERNAL, "OK without a reply message");
    } else if (status->err == MLXD_OK && grpc_byte_buffer_length(u->reply) > u->reply_max) {
        mlxd_rpc_status_set(status, GRPC_STATUS_RESOURCE_EXHAUSTED, "the reply is too long");
    } else if (status->err == MLXD_OK) {
        msg = mlxd_rpc_msg_from(u->reply);
        u->reply = NULL;
        if (!msg)
            mlxd_rpc_status_set(status, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                "out of memory for the reply");
    }
    if (u->reply)
        grpc_byte_buffer_destroy(u->reply);
    return msg;
}

static void on_unary(void *owner, bool ok) {
    unary *u = owner;
    (void)ok; /* the status tells */
    mlxd_rpc_status status;
    mlxd_rpc_channel *channel = u->run.channel;
    mlxd_rpc_msg *msg = take_reply(u, &status);
    u->on_reply(u->user, &status, msg);
    delist(&u->run);
    grpc_metadata_array_destroy(&u->initial);
    grpc_metadata_array_destroy(&u->trailing);
    grpc_slice_unref(u->details);
    grpc_slice_unref(u->header.value);
    grpc_call_unref(u->run.call);
    mlxd_mem_free(u);
    count_gone(channel);
}

static void start_unary(unary *u, const mlxd_rpc_request *r) {
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    grpc_byte_buffer *message = mlxd_rpc_bytes_join(r->parts, r->n);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].flags = call_flags(r->wait_for_ready);
    ops[0].data.send_initial_metadata.count = fill_metadata(&u->header, r->request_id);
    ops[0].data.send_initial_metadata.metadata = &u->header;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = message;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &u->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &u->reply;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &u->trailing;
    ops[5].data.recv_status_on_client.status = &u->code;
    ops[5].data.recv_status_on_client.status_details = &u->details;
    mlxd_rpc_batch(u->run.call, ops, 6, &u->tag);
    grpc_byte_buffer_destroy(message);
}

mlxd_err mlxd_rpc_channel_call(mlxd_rpc_channel *channel, const mlxd_rpc_request *request,
                               mlxd_why *why) {
    MLXD_ASSERT(request->on_reply && request->deadline_ns);
    size_t len;
    mlxd_err err = check_request(request->path, request->request_id, why);
    if (!err && mlxd_rpc_bytes_len(request->parts, request->n, &len))
        err = mlxd_fail(why, MLXD_ERR_INVALID, "the request is too long for one message");
    if (err)
        return err;
    unary *u = mlxd_mem_new(1, sizeof *u);
    if (!u)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "call");
    u->on_reply = request->on_reply;
    u->user = request->user;
    u->reply_max = request->reply_max ? request->reply_max : MLXD_LIMIT_GRPC_MESSAGE;
    u->details = grpc_empty_slice();
    grpc_metadata_array_init(&u->initial);
    grpc_metadata_array_init(&u->trailing);
    mlxd_rpc_tag_init(&u->tag, on_unary, u);
    u->run.call = make_call(channel, request->path, request->deadline_ns);
    err = enlist(channel, &u->run, why);
    if (err) {
        grpc_call_unref(u->run.call);
        mlxd_mem_free(u);
        return err;
    }
    start_unary(u, request);
    return MLXD_OK;
}

/* ---- streams ---- */

typedef struct stream_run {
    running run;
    grpc_metadata header;
} stream_run;

static void on_stream_gone(void *owner, mlxd_rpc_stream *s) {
    stream_run *r = owner;
    (void)s;
    mlxd_rpc_channel *channel = r->run.channel;
    delist(&r->run);
    grpc_slice_unref(r->header.value);
    mlxd_mem_free(r);
    count_gone(channel);
}

mlxd_err mlxd_rpc_stream_open(mlxd_rpc_stream **out, mlxd_rpc_channel *channel,
                              const mlxd_rpc_stream_options *options, mlxd_why *why) {
    *out = NULL;
    mlxd_err err = check_request(options->path, options->request_id, why);
    if (err)
        return err;
    stream_run *r = mlxd_mem_new(1, sizeof *r);
    mlxd_rpc_stream_seed seed = {.events = &options->events,
                                 .limits = &options->limits,
                                 .ctx = options->ctx,
                                 .gone = on_stream_gone,
                                 .owner = r};
    mlxd_rpc_stream *s = r ? mlxd_rpc_stream_new(&seed) : NULL;
    if (!s || !mlxd_rpc_info_own(mlxd_rpc_stream_info_mut(s), options->path, NULL)) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "stream");
        goto fail;
    }
    r->run.stream = s;
    mlxd_rpc_stream_info_mut(s)->id = mlxd_rpc_next_id();
    mlxd_rpc_stream_info_mut(s)->deadline_ns = options->deadline_ns;
    mlxd_rpc_stream_set_user(s, options->user);
    err = enlist(channel, &r->run, why);
    if (err)
        goto fail;
    *out = s;
    size_t count = fill_metadata(&r->header, options->request_id);
    grpc_call *call = make_call(channel, options->path, options->deadline_ns);
    mlxd_rpc_stream_start(s, call, NULL, &r->header, count, call_flags(options->wait_for_ready));
    return MLXD_OK;
fail:
    if (s)
        mlxd_rpc_stream_unref(s);
    mlxd_mem_free(r);
    return err;
}
