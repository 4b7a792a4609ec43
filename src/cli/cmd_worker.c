/* cmd_worker.c - `mlxd worker`: waits for its coordinator and computes the layers it is given. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/log.h"
#include "cli/node_options.h"
#include "cluster/tensor_service.h"
#include "cluster/worker.h"
#include "model/shelf.h"
#include "net/health.h"
#include "serve/api.h"
#include "serve/host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct node {
    const mlxd_options *o;
    mlxd_node_options n;
    mlxd_host host;
    char shards[MLXD_SHELF_PATH]; /* without a model */
    mlxd_rpc_runtime *rpc;
    mlxd_worker *worker;
    mlxd_tensor_service *tensors;
    mlxd_rpc_server *server, *health_server;
    mlxd_health health;
    mlxd_api *api;
    double speed;
    uint64_t started_ns;
    _Atomic unsigned rest_port, grpc_port; /* bound ones, once they are */
};

/* ---- what others ask ---- */

static void fill_view(void *ctx, mlxd_node_view *v) {
    struct node *node = ctx;
    mlxd_worker_status s;
    mlxd_worker_get_status(node->worker, &s);
    *v = (mlxd_node_view){.rest_port = (uint16_t)atomic_load(&node->rest_port),
                          .layers = s.layers,
                          .context = s.positions,
                          .threads = mlxd_driver_threads(node->host.driver),
                          .started_ns = node->started_ns,
                          .n_devices = 1};
    snprintf(v->device, sizeof v->device, "%s", node->n.device);
    snprintf(v->hostname, sizeof v->hostname, "%s", node->n.hostname);
    snprintf(v->model, sizeof v->model, "%s", s.model);
    snprintf(v->isa, sizeof v->isa, "%s", node->host.kernels->isa);
    /* A worker is ready to work when it can take a coordinator: it must not be restarted or taken
     * out of service because its coordinator is away. */
    v->ready = true;
    v->degraded = s.state != MLXD_WORKER_READY;
    if (s.state == MLXD_WORKER_WAITING)
        (void)mlxd_fail(&v->why, MLXD_ERR_STATE, "no coordinator is connected");
    if (s.state == MLXD_WORKER_LOADING && s.fetching)
        mlxd_node_say_fetching(&v->why, s.assigned_first, s.assigned_end, s.load_done,
                               s.load_total);
    else if (s.state == MLXD_WORKER_LOADING)
        (void)mlxd_fail(&v->why, MLXD_ERR_STATE, "layers are loading");
    mlxd_device_view *d = &v->devices[0];
    memcpy(d->device, v->device, sizeof d->device);
    memcpy(d->hostname, v->hostname, sizeof d->hostname);
    d->port = (uint16_t)atomic_load(&node->grpc_port);
    d->first = s.first;
    d->end = s.end;
    d->status = s.state == MLXD_WORKER_LOADING ? MLXD_DEVICE_LOADING : MLXD_DEVICE_ONLINE;
    d->last_seen_ns = mlxd_clock_now_ns();
    d->sessions = s.stats.sessions;
    d->kv_pages_used = s.stats.kv_pages_used;
    d->kv_pages_max = s.stats.kv_pages_max;
    d->steps = s.stats.steps;
    d->compute_ns = s.stats.compute_ns;
    d->memory_bytes = s.stats.memory_bytes;
    d->rss_bytes = mlxd_os_rss();
    d->shard_bytes = s.received_bytes;
    d->load_done = s.load_total ? (double)s.load_done / (double)s.load_total : 0;
}

static mlxd_health_status always_serving(void *ctx) {
    (void)ctx;
    return MLXD_HEALTH_SERVING;
}

static mlxd_err forward(void *ctx, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                        uint32_t width, mlxd_forward_done *done, void *done_ctx) {
    struct node *node = ctx;
    return mlxd_forward_submit(mlxd_worker_forward(node->worker), first, end, hidden, n, width,
                               done, done_ctx);
}

/* None while layers are fetched: a pass would wait for them, perhaps for hours. */
static bool model_shape(void *ctx, uint32_t *hidden, uint32_t *layers) {
    struct node *node = ctx;
    mlxd_worker_status s;
    mlxd_worker_get_status(node->worker, &s);
    *hidden = s.hidden;
    *layers = s.layers;
    return s.layers > 0 && !s.fetching;
}

static void fill_status(void *ctx, mlxd_tensor_view *out) {
    struct node *node = ctx;
    mlxd_worker_status s;
    mlxd_worker_get_status(node->worker, &s);
    *out = (mlxd_tensor_view){.healthy = true, .n_devices = 1};
    snprintf(out->text.text, sizeof out->text.text, "%s",
             s.state == MLXD_WORKER_READY     ? "ready"
             : s.fetching                     ? "downloading layers"
             : s.state == MLXD_WORKER_LOADING ? "loading layers"
                                              : "waiting for a coordinator");
    snprintf(out->coordinator, sizeof out->coordinator, "%s", s.coordinator);
    mlxd_tensor_device *d = &out->devices[0];
    snprintf(d->device, sizeof d->device, "%s", node->n.device);
    snprintf(d->hostname, sizeof d->hostname, "%s", node->n.hostname);
    d->port = (uint16_t)atomic_load(&node->grpc_port);
    d->role = "worker";
    d->first = s.first;
    d->end = s.end;
    d->status = s.state == MLXD_WORKER_LOADING ? "loading" : "online";
}

/* ---- start ---- */

/* Where the layers go that the coordinator sends, and what is there. */
static mlxd_err open_shards(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_shelf_usage usage;
    mlxd_err err = MLXD_OK;
    if (!o->shards[0])
        err = mlxd_shelf_default(node->shards, why);
    else if (strlen(o->shards) >= sizeof node->shards)
        err = mlxd_fail(why, MLXD_ERR_CONFIG, "--shards: the path is too long");
    else
        snprintf(node->shards, sizeof node->shards, "%s", o->shards);
    if (!err)
        err = mlxd_shelf_get_usage(node->shards, &usage, why);
    if (!err)
        mlxd_log(MLXD_LOG_INFO, "worker",
                 "no model file: layers come from the coordinator and are kept in %s, which holds "
                 "%.1f MB of %zu models",
                 node->shards, (double)usage.bytes / 1e6, usage.models);
    return err;
}

static mlxd_err open_model(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_host_params p = {.path = o->model[0] ? o->model : NULL,
                          .threads = (unsigned)o->threads,
                          .pin = o->pin,
                          .cpu = o->cpu};
    mlxd_err err = mlxd_host_open(&node->host, &p, why);
    if (!err && !p.path)
        err = open_shards(node, why);
    if (err)
        return err;
    node->speed = mlxd_host_speed(&node->host);
    mlxd_worker_params w = {.checkpoint = node->host.checkpoint,
                            .config = &node->host.config,
                            .shards = p.path ? NULL : node->shards,
                            .shards_bytes_max = o->shards_max * 1000000000,
                            .kernels = node->host.kernels,
                            .driver = node->host.driver,
                            .device = node->n.device,
                            .version = MLXD_VERSION,
                            .speed = node->speed};
    return mlxd_worker_open(&node->worker, &w, why);
}

static mlxd_err open_grpc(struct node *node, mlxd_why *why) {
    static const char *const names[] = {"", "liveness", "readiness",
                                        "tensor_service.TensorService"};
    mlxd_rpc_method methods[MLXD_WORKER_METHODS + MLXD_TENSOR_METHODS + 1];
    mlxd_err err = mlxd_rpc_runtime_open(&node->rpc, why);
    for (size_t i = 0; i < MLXD_COUNT_OF(names) && !err; i++)
        err = mlxd_health_add(&node->health, names[i], always_serving, node);
    mlxd_tensor_service_params t = {.device = node->n.device,
                                    .hidden_max = node->host.checkpoint
                                                      ? node->host.config.hidden
                                                      : (uint32_t)MLXD_LIMIT_HIDDEN,
                                    .forward = forward,
                                    .shape = model_shape,
                                    .forward_ctx = node,
                                    .view = fill_status,
                                    .view_ctx = node};
    if (!err)
        err = mlxd_tensor_service_open(&node->tensors, &t, why);
    if (err)
        return err;
    mlxd_worker_methods(node->worker, methods);
    mlxd_tensor_service_methods(node->tensors, methods + MLXD_WORKER_METHODS);
    methods[MLXD_WORKER_METHODS + MLXD_TENSOR_METHODS] = mlxd_health_method(&node->health);
    err = mlxd_node_open_grpc(&node->n, node->rpc, methods, MLXD_COUNT_OF(methods), &node->health,
                              &node->server, &node->health_server, why);
    if (!err)
        atomic_store(&node->grpc_port, (unsigned)mlxd_rpc_server_port(node->server));
    return err;
}

static mlxd_err open_rest(struct node *node, mlxd_why *why) {
    const mlxd_options *o = node->o;
    mlxd_api_params p = {.view = fill_view,
                         .view_ctx = node,
                         .bind_host = o->host,
                         .port = node->n.port,
                         .allowed_hosts = o->allowed_hosts.items,
                         .allowed_hosts_len = o->allowed_hosts.count,
                         .auth = node->n.auth,
                         .metrics_public = o->metrics_public,
                         .version = MLXD_VERSION,
                         .commit = MLXD_COMMIT};
    atomic_store(&node->rest_port, node->n.port);
    mlxd_err err = mlxd_api_open(&node->api, &p, why);
    if (!err)
        atomic_store(&node->rest_port, mlxd_api_port(node->api));
    return err;
}

static void announce(const struct node *node) {
    mlxd_log(MLXD_LOG_INFO, "worker",
             "%s: gRPC on %s, REST on %s, health on %s; %s, %u threads, %.1f GB/s", node->n.device,
             node->n.grpc_listen, mlxd_api_url(node->api), node->n.health_listen,
             node->host.kernels->isa, mlxd_driver_threads(node->host.driver), node->speed / 1e9);
}

int mlxd_cmd_worker(const mlxd_options *o) {
    struct node node = {.o = o, .started_ns = mlxd_clock_now_ns()};
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "info", &why);
    if (!err)
        err = mlxd_node_options_open(&node.n, o, MLXD_ROLE_WORKER, &why);
    if (!err)
        err = open_model(&node, &why);
    /* From here on there is something to shut down; until then a signal just ends the process. */
    mlxd_signals_block();
    if (!err)
        err = open_grpc(&node, &why);
    if (!err)
        err = open_rest(&node, &why);
    if (!err) {
        announce(&node);
        mlxd_signals_wait();
        mlxd_log(MLXD_LOG_INFO, "worker", "stopping");
        (void)mlxd_api_drain(node.api, 1000);
    }
    mlxd_api_close(node.api);
    mlxd_rpc_server_close(node.health_server, 0);
    mlxd_rpc_server_close(node.server, 0);
    mlxd_tensor_service_close(node.tensors);
    mlxd_worker_close(node.worker);
    mlxd_rpc_runtime_close(node.rpc);
    mlxd_host_close(&node.host);
    mlxd_node_options_close(&node.n);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
