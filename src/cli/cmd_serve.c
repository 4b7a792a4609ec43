/* cmd_serve.c - `mlxd serve`: the coordinator. Puts together the model's ends on this machine, the
 * engine, the members that compute the layers, and the doors: REST, gRPC, health.
 *
 *   REST --> api --> engine loop --> head (here), stages (here and at workers)
 *                        ^---------- members: pipelines
 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/node_options.h"
#include "cli/progress.h"
#include "cluster/members.h"
#include "cluster/tensor_service.h"
#include "net/health.h"
#include "serve/api.h"
#include "serve/engine_loop.h"
#include "serve/host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAIN_MS 5000 /* running requests may end by themselves for so long after SIGTERM */

struct node {
    const mlxd_options *o;
    mlxd_node_options n;
    mlxd_host host;
    mlxd_manifest manifest;
    double speed;
    mlxd_rpc_runtime *rpc;
    mlxd_members_worker workers[MLXD_LIMIT_NODES];
    char texts[MLXD_LIMIT_NODES][320]; /* device and address of each worker */
    size_t n_workers;
    mlxd_plan_range ranges[MLXD_LIMIT_NODES];
    size_t n_ranges;
    mlxd_loop *loop;
    _Atomic(mlxd_members *) members; /* NULL until all ports are ours */
    mlxd_tensor_service *tensors;
    mlxd_health health;
    mlxd_rpc_server *server, *health_server;
    mlxd_api *api;
    char model_name[256];
    uint64_t started_ns;
    _Atomic unsigned rest_port, grpc_port; /* bound ones, once they are */
    _Atomic bool draining;
    /* set once by the members' thread, read after mlxd_signals_wait */
    _Atomic int failed; /* mlxd_err */
    mlxd_why failed_why;
};

/* ---- what others ask ---- */

static mlxd_device_status status_of(mlxd_member_state s) {
    switch (s) {
    case MLXD_MEMBER_CONNECTING:
        return MLXD_DEVICE_CONNECTING;
    case MLXD_MEMBER_WAITING:
    case MLXD_MEMBER_LOADING:
        return MLXD_DEVICE_LOADING;
    case MLXD_MEMBER_READY:
        return MLXD_DEVICE_ONLINE;
    default:
        return MLXD_DEVICE_OFFLINE;
    }
}

static void fill_device(mlxd_device_view *d, const mlxd_member_view *m, uint64_t now) {
    const char *colon = strrchr(m->address, ':');
    *d = (mlxd_device_view){.coordinator = m->local,
                            .first = m->first,
                            .end = m->end,
                            .status = status_of(m->state),
                            .why = m->why,
                            .reconnects = m->reconnects,
                            .memory_bytes = m->local ? m->cpu.memory_bytes : m->memory_bytes};
    memcpy(d->device, m->device, sizeof d->device);
    snprintf(d->hostname, sizeof d->hostname, "%.*s",
             colon ? (int)(colon - m->address) : (int)strlen(m->address), m->address);
    d->port = colon ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
    d->shard_bytes = m->shard_bytes;
    if (m->state == MLXD_MEMBER_LOADING && m->fetching)
        mlxd_node_say_fetching(&d->why, m->first, m->end, m->load_done, m->load_total);
    d->load_done = m->load_total ? (double)m->load_done / (double)m->load_total : 0;
    d->last_seen_ns = m->local ? now : m->pulse.last_ns;
    d->rtt_ns = m->pulse.rtt_ns;
    d->sessions = m->local ? m->cpu.sessions : m->pulse.sessions;
    d->kv_pages_used = m->local ? m->cpu.kv_pages_used : m->pulse.kv_pages_used;
    d->steps = m->local ? m->cpu.steps : m->pulse.steps;
    d->compute_ns = m->local ? m->cpu.compute_ns : m->pulse.compute_ns;
    d->rss_bytes = m->local ? mlxd_os_rss() : m->pulse.rss_bytes;
}

/* A device that is not what it should be, as a reason: the first that can say why, because others
 * may only be waiting for it. */
static void explain(mlxd_node_view *v) {
    const mlxd_device_view *found = NULL;
    for (uint32_t i = 0; i < v->n_devices; i++) {
        const mlxd_device_view *d = &v->devices[i];
        if (d->status != MLXD_DEVICE_ONLINE && (!found || (!found->why.text[0] && d->why.text[0])))
            found = d;
    }
    if (!found)
        return;
    v->degraded = true;
    /* What a link says of itself begins with its device. */
    const char *text = found->why.text;
    size_t n = strlen(found->device);
    if (strncmp(text, found->device, n) == 0 && strncmp(text + n, ": ", 2) == 0)
        text += n + 2;
    (void)mlxd_fail(&v->why, MLXD_ERR_STATE, "%s is %s%s%s", found->device,
                    mlxd_device_status_name(found->status), text[0] ? ": " : "", text);
}

static void fill_view(void *ctx, mlxd_node_view *v) {
    struct node *node = ctx;
    uint64_t now = mlxd_clock_now_ns();
    *v = (mlxd_node_view){.rest_port = (uint16_t)atomic_load(&node->rest_port),
                          .coordinator = true,
                          .layers = node->host.config.layers,
                          .threads = mlxd_driver_threads(node->host.driver),
                          .started_ns = node->started_ns};
    snprintf(v->device, sizeof v->device, "%s", node->n.device);
    snprintf(v->hostname, sizeof v->hostname, "%s", node->n.hostname);
    snprintf(v->model, sizeof v->model, "%s", node->model_name);
    snprintf(v->isa, sizeof v->isa, "%s", node->host.kernels->isa);
    mlxd_loop_stats(node->loop, &v->engine);
    v->ready = v->engine.stages > 0;
    v->context = v->engine.context;
    mlxd_members *from = atomic_load(&node->members);
    mlxd_member_view *members = mlxd_mem_new(MLXD_LIMIT_NODES, sizeof *members);
    if (!members || !from) {
        (void)mlxd_fail(&v->why, MLXD_ERR_STATE, "starting");
        mlxd_mem_free(members);
        return;
    }
    v->n_devices = (uint32_t)mlxd_members_view(from, members);
    for (uint32_t i = 0; i < v->n_devices; i++) {
        fill_device(&v->devices[i], &members[i], now);
        v->devices[i].kv_pages_max = v->engine.kv_pages_max;
    }
    mlxd_mem_free(members);
    memcpy(v->devices[0].hostname, v->hostname, sizeof v->hostname);
    v->devices[0].port = (uint16_t)atomic_load(&node->grpc_port);
    explain(v);
}

static mlxd_health_status alive(void *ctx) {
    (void)ctx;
    return MLXD_HEALTH_SERVING;
}

static mlxd_health_status serving(void *ctx) {
    struct node *node = ctx;
    bool takes = mlxd_loop_ready(node->loop) && !atomic_load(&node->draining);
    return takes ? MLXD_HEALTH_SERVING : MLXD_HEALTH_NOT_SERVING;
}

static mlxd_err forward(void *ctx, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                        uint32_t width, mlxd_forward_done *done, void *done_ctx) {
    struct node *node = ctx;
    mlxd_members *members = atomic_load(&node->members);
    if (!members)
        return MLXD_ERR_STATE;
    return mlxd_forward_submit(mlxd_members_forward(members), first, end, hidden, n, width, done,
                               done_ctx);
}

static bool model_shape(void *ctx, uint32_t *hidden, uint32_t *layers) {
    const struct node *node = ctx;
    *hidden = node->host.config.hidden;
    *layers = node->host.config.layers;
    return true;
}

static void fill_status(void *ctx, mlxd_tensor_view *out) {
    struct node *node = ctx;
    *out = (mlxd_tensor_view){0};
    mlxd_node_view *v = mlxd_mem_new(1, sizeof *v);
    if (!v)
        return;
    fill_view(node, v);
    out->healthy = v->ready;
    snprintf(out->text.text, sizeof out->text.text, "%s", v->why.text[0] ? v->why.text : "ready");
    snprintf(out->coordinator, sizeof out->coordinator, "%s", v->device);
    for (uint32_t i = 0; i < v->n_devices; i++) {
        mlxd_tensor_device *d = &out->devices[out->n_devices++];
        const mlxd_device_view *in = &v->devices[i];
        memcpy(d->device, in->device, sizeof d->device);
        snprintf(d->hostname, sizeof d->hostname, "%s", in->hostname);
        d->port = in->port;
        d->role = in->coordinator ? "coordinator" : "worker";
        d->first = in->first;
        d->end = in->end;
        d->status = mlxd_device_status_name(in->status);
    }
    mlxd_mem_free(v);
}

/* ---- options ---- */

static mlxd_err read_workers(struct node *node, mlxd_why *why) {
    const mlxd_option_list *list = &node->o->workers;
    for (size_t i = 0; i < list->count; i++) {
        const char *text = list->items[i], *eq = strchr(text, '=');
        const char *colon = eq ? strrchr(eq, ':') : NULL;
        char *end = NULL;
        unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
        if (!colon || colon == eq + 1 || strlen(text) >= sizeof node->texts[i] || *end ||
            colon[1] < '0' || colon[1] > '9' || port == 0 || port > 65535)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "worker \"%.80s\": expected DEVICE=HOST:PORT",
                             text);
        if (i + 1 >= MLXD_LIMIT_NODES)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "more than %d workers", MLXD_LIMIT_NODES - 1);
        snprintf(node->texts[i], sizeof node->texts[i], "%s", text);
        node->texts[i][eq - text] = 0;
        mlxd_slice id = mlxd_slice_str(node->texts[i]);
        mlxd_err err = mlxd_identity_check_id(id, why);
        if (err)
            return mlxd_fail_in(why, MLXD_ERR_CONFIG, "worker \"%.80s\"", text);
        node->workers[i] = (mlxd_members_worker){node->texts[i], node->texts[i] + id.len + 1};
        bool taken = strcmp(node->texts[i], node->n.device) == 0;
        for (size_t j = 0; j < i; j++)
            taken = taken || strcmp(node->texts[i], node->texts[j]) == 0;
        if (taken)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "device %s is there twice", node->texts[i]);
        node->n_workers++;
    }
    for (size_t i = 0; i < node->o->layers.count; i++) {
        mlxd_err err = mlxd_plan_parse_range(node->o->layers.items[i], &node->ranges[i], why);
        if (err)
            return mlxd_fail_in(why, MLXD_ERR_CONFIG, "--layers");
        node->n_ranges++;
    }
    return MLXD_OK;
}

static void name_model(struct node *node) {
    char path[4096]; /* of a directory: perhaps with a slash behind */
    snprintf(path, sizeof path, "%s", node->o->model);
    for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
        path[len - 1] = 0;
    const char *slash = strrchr(path, '/');
    const char *name = slash && slash[1] ? slash + 1 : path;
    if (node->o->served_name[0])
        name = node->o->served_name;
    else if (node->o->model_name[0])
        name = node->o->model_name;
    snprintf(node->model_name, sizeof node->model_name, "%.255s", name);
    size_t n = strlen(node->model_name);
    if (!node->o->served_name[0] && n > 5 && strcmp(node->model_name + n - 5, ".gguf") == 0)
        node->model_name[n - 5] = 0;
}

/* ---- start ---- */

struct hash {
    struct node *node;
    const mlxd_progress *progress;
    mlxd_err err;
    mlxd_why *why;
};

static void hash_job(mlxd_pool *pool, void *a, void *b) {
    struct hash *h = a;
    (void)b;
    h->err = mlxd_manifest_open(&h->node->manifest, h->node->host.checkpoint, pool, NULL,
                                h->progress, h->why);
}

static mlxd_err open_model(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_bar bar;
    mlxd_bar_init(&bar, "loading model", o->quiet);
    mlxd_progress progress = mlxd_bar_progress(&bar);
    mlxd_host_params p = {.path = o->model,
                          .threads = (unsigned)o->threads,
                          .pin = o->pin,
                          .cpu = o->cpu,
                          .text = true,
                          .reasoning = o->reasoning_format,
                          .head = true,
                          .progress = &progress};
    mlxd_err err = mlxd_host_open(&node->host, &p, why);
    if (!err) {
        mlxd_bar_init(&bar, "fingerprint", o->quiet);
        struct hash h = {node, &progress, MLXD_OK, why};
        mlxd_driver_run(node->host.driver, (mlxd_job){hash_job, &h, NULL});
        err = h.err;
    }
    mlxd_bar_clear(&bar);
    if (err)
        return err;
    node->speed = mlxd_host_speed(&node->host);
    if (!node->host.chat)
        mlxd_log(MLXD_LOG_WARN, "serve", "no chat: %s", node->host.chat_why.text);
    mlxd_loop_params l = {
        .engine = {.width = node->host.config.hidden,
                   .prefill_chunk = (uint32_t)o->prefill_chunk,
                   .step_tokens = (uint32_t)MLXD_MIN(o->prefill_chunk + MLXD_LIMIT_STEP_ROWS,
                                                     (uint64_t)MLXD_LIMIT_STEP_TOKENS),
                   .sessions_max = MLXD_LIMIT_STEP_ROWS,
                   .queue_max = (uint32_t)o->queue},
        .head = node->host.head,
        .clock = mlxd_clock_real(),
        .trace_path = o->trace[0] ? o->trace : NULL,
    };
    return mlxd_loop_open(&node->loop, &l, why);
}

static void on_pipeline(void *ctx, const mlxd_pipeline *p) {
    struct node *node = ctx;
    mlxd_loop_set_pipeline(node->loop, p);
}

static void on_failed(void *ctx, mlxd_err err, const mlxd_why *why) {
    struct node *node = ctx;
    node->failed_why = *why;
    atomic_store(&node->failed, (int)err);
    mlxd_signals_wake();
}

static mlxd_err open_members(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_members_params p = {.checkpoint = node->host.checkpoint,
                             .config = &node->host.config,
                             .kernels = node->host.kernels,
                             .driver = node->host.driver,
                             .manifest = &node->manifest,
                             .rpc = node->rpc,
                             .creds = node->n.creds,
                             .device = node->n.device,
                             .version = MLXD_VERSION,
                             .workers = node->workers,
                             .n_workers = node->n_workers,
                             .ranges = node->ranges,
                             .n_ranges = node->n_ranges,
                             .speed = node->speed,
                             .context = (uint32_t)o->ctx,
                             .parallel = (uint32_t)o->parallel,
                             .tokens_max =
                                 (uint32_t)MLXD_MIN(o->prefill_chunk + MLXD_LIMIT_STEP_ROWS,
                                                    (uint64_t)MLXD_LIMIT_STEP_TOKENS),
                             .worker_timeout_ms = o->worker_timeout_ms,
                             .pipeline = on_pipeline,
                             .failed = on_failed,
                             .ctx = node};
    mlxd_members *members = NULL;
    mlxd_err err = mlxd_members_open(&members, &p, why);
    atomic_store(&node->members, members);
    return err;
}

static mlxd_err open_grpc(struct node *node, mlxd_why *why) {
    static const char *const names[] = {"", "readiness", "tensor_service.TensorService"};
    mlxd_rpc_method methods[MLXD_TENSOR_METHODS + 1];
    mlxd_err err = mlxd_health_add(&node->health, "liveness", alive, node);
    for (size_t i = 0; i < MLXD_COUNT_OF(names) && !err; i++)
        err = mlxd_health_add(&node->health, names[i], serving, node);
    mlxd_tensor_service_params t = {.device = node->n.device,
                                    .hidden_max = node->host.config.hidden,
                                    .forward = forward,
                                    .shape = model_shape,
                                    .forward_ctx = node,
                                    .view = fill_status,
                                    .view_ctx = node};
    if (!err)
        err = mlxd_tensor_service_open(&node->tensors, &t, why);
    if (err)
        return err;
    mlxd_tensor_service_methods(node->tensors, methods);
    methods[MLXD_TENSOR_METHODS] = mlxd_health_method(&node->health);
    err = mlxd_node_open_grpc(&node->n, node->rpc, methods, MLXD_COUNT_OF(methods), &node->health,
                              &node->server, &node->health_server, why);
    if (!err)
        atomic_store(&node->grpc_port, (unsigned)mlxd_rpc_server_port(node->server));
    return err;
}

static mlxd_err open_rest(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_api_params p = {.host = &node->host,
                         .loop = node->loop,
                         .view = fill_view,
                         .view_ctx = node,
                         .bind_host = o->host,
                         .port = node->n.port,
                         .allowed_hosts = o->allowed_hosts.items,
                         .allowed_hosts_len = o->allowed_hosts.count,
                         .auth = node->n.auth,
                         .metrics_public = o->metrics_public,
                         .model_name = node->model_name,
                         .model_digest = node->manifest.model,
                         .context = o->ctx ? (uint32_t)o->ctx : node->host.config.context,
                         .version = MLXD_VERSION,
                         .commit = MLXD_COMMIT};
    atomic_store(&node->rest_port, node->n.port);
    mlxd_err err = mlxd_api_open(&node->api, &p, why);
    if (!err)
        atomic_store(&node->rest_port, mlxd_api_port(node->api));
    return err;
}

static void stop(struct node *node) {
    mlxd_api_close(node->api);
    mlxd_rpc_server_close(node->health_server, 0);
    mlxd_rpc_server_close(node->server, 0);
    mlxd_tensor_service_close(node->tensors);
    mlxd_members_close(atomic_load(&node->members));
    mlxd_loop_close(node->loop);
    mlxd_rpc_runtime_close(node->rpc);
    mlxd_manifest_close(&node->manifest);
    mlxd_host_close(&node->host);
    mlxd_node_options_close(&node->n);
}

int mlxd_cmd_serve(const mlxd_options *o) {
    struct node *node = mlxd_mem_new(1, sizeof *node);
    mlxd_why why = {0};
    if (!node)
        return mlxd_cli_fail(mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory"), &why);
    node->o = o;
    node->started_ns = mlxd_clock_now_ns();
    mlxd_err err = mlxd_cli_log(o, "info", &why);
    if (!err)
        err = mlxd_node_options_open(&node->n, o, MLXD_ROLE_COORDINATOR, &why);
    if (!err)
        err = read_workers(node, &why);
    name_model(node);
    if (!err)
        err = open_model(node, &why);
    /* From here on there is something to shut down; until then a signal just ends the process. */
    mlxd_signals_block();
    if (!err)
        err = mlxd_rpc_runtime_open(&node->rpc, &why);
    if (!err)
        err = open_grpc(node, &why);
    if (!err)
        err = open_rest(node, &why);
    /* Last: it takes the workers over from another coordinator, which one that was started by
     * mistake, on ports that are in use, must not do. */
    if (!err)
        err = open_members(node, &why);
    if (!err) {
        mlxd_log(MLXD_LOG_INFO, "serve",
                 "%s: REST on %s, gRPC on %s, health on %s; model %s; %s, "
                 "%u threads",
                 node->n.device, mlxd_api_url(node->api), node->n.grpc_listen,
                 node->n.health_listen, node->model_name, node->host.kernels->isa,
                 mlxd_driver_threads(node->host.driver));
        mlxd_signals_wait();
        err = (mlxd_err)atomic_load(&node->failed);
        why = node->failed_why;
        mlxd_log(MLXD_LOG_INFO, "serve", "stopping");
        atomic_store(&node->draining, true);
        if (!err && !mlxd_api_drain(node->api, DRAIN_MS)) {
            mlxd_log(MLXD_LOG_WARN, "serve", "requests that still run are ended");
            mlxd_loop_stop(node->loop, "the server is shutting down");
            (void)mlxd_api_drain(node->api, 1000);
        }
    }
    stop(node);
    mlxd_mem_free(node);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
