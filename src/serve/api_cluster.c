/* api_cluster.c - the specification's view of devices: /device-info, /distributed-stats,
 * /cluster-status and /register.
 */
#include "serve/api_internal.h"

#include "format/json.h"

#include <string.h>

static void write_layers(mlxd_jsonw *w, const char *key, const mlxd_device_view *d) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_array_begin(w);
    for (uint32_t i = d->first; i < d->end; i++)
        mlxd_jsonw_uint(w, i);
    mlxd_jsonw_array_end(w);
}

static const char *role(bool coordinator) {
    return coordinator ? "coordinator" : "worker";
}

static void reply(mlxd_http_req *req, unsigned status, mlxd_buf *body) {
    mlxd_api_reply_json(req, status, body);
    mlxd_buf_deinit(body);
}

/* ---- statistics ---- */

static uint32_t devices_online(const mlxd_node_view *v) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n_devices; i++)
        n += v->devices[i].status == MLXD_DEVICE_ONLINE;
    return n;
}

static void write_stats(mlxd_jsonw *w, const mlxd_node_view *v) {
    const mlxd_engine_stats *e = &v->engine;
    const mlxd_device_view *self = &v->devices[0];
    double mean = e->succeeded ? (double)e->duration_ns / 1e9 / (double)e->succeeded : 0;
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "total_requests", e->requests);
    mlxd_jsonw_member_uint(w, "successful_requests", e->succeeded);
    mlxd_jsonw_member_uint(w, "failed_requests", e->failed);
    mlxd_jsonw_member_uint(w, "cancelled_requests", e->cancelled);
    mlxd_jsonw_member_uint(w, "rejected_requests", e->rejected);
    mlxd_jsonw_member_double(w, "average_processing_time", mean);
    mlxd_jsonw_member_uint(w, "total_prompt_tokens", e->prompt_tokens);
    mlxd_jsonw_member_uint(w, "total_tokens_generated", e->generated_tokens);
    mlxd_jsonw_member_uint(w, "running_requests", e->running);
    mlxd_jsonw_member_uint(w, "waiting_requests", e->waiting);
    mlxd_jsonw_member_uint(w, "connected_devices", devices_online(v));
    mlxd_jsonw_member_str(w, "device_id", v->device);
    mlxd_jsonw_member_bool(w, "is_coordinator", v->coordinator);
    write_layers(w, "assigned_layers", self);
    mlxd_jsonw_member_uint(w, "sessions", self->sessions);
    mlxd_jsonw_member_uint(w, "kv_pages_used", self->kv_pages_used);
    mlxd_jsonw_member_uint(w, "kv_pages", self->kv_pages_max);
    mlxd_jsonw_member_uint(w, "steps", self->steps);
    mlxd_jsonw_member_double(w, "compute_seconds", (double)self->compute_ns / 1e9);
    mlxd_jsonw_member_bool(w, "degraded", v->degraded);
    mlxd_jsonw_member_str(w, "exactness", "bitwise");
    mlxd_jsonw_object_end(w);
}

void mlxd_api_get_stats(void *ctx, mlxd_http_req *req) {
    mlxd_buf body;
    mlxd_jsonw w;
    mlxd_buf_init(&body, 0);
    mlxd_jsonw_init(&w, &body);
    write_stats(&w, mlxd_api_view(ctx));
    reply(req, 200, &body);
}

/* ---- devices ---- */

void mlxd_api_get_device(void *ctx, mlxd_http_req *req) {
    const mlxd_node_view *v = mlxd_api_view(ctx);
    const mlxd_device_view *self = &v->devices[0];
    mlxd_buf body;
    mlxd_jsonw w;
    mlxd_buf_init(&body, 0);
    mlxd_jsonw_init(&w, &body);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "device_id", v->device);
    mlxd_jsonw_member_str(&w, "hostname", v->hostname);
    mlxd_jsonw_member_uint(&w, "port", v->rest_port);
    mlxd_jsonw_member_uint(&w, "grpc_port", self->port);
    mlxd_jsonw_member_str(&w, "role", role(v->coordinator));
    write_layers(&w, "layers", self);
    mlxd_jsonw_member_str(&w, "mlx_device", "cpu");
    mlxd_jsonw_member_bool(&w, "metal_available", false);
    mlxd_jsonw_member_str(&w, "isa", v->isa);
    mlxd_jsonw_member_uint(&w, "threads", v->threads);
    mlxd_jsonw_member_uint(&w, "memory_bytes", self->memory_bytes);
    mlxd_jsonw_member_bool(&w, "model_loaded",
                           self->status == MLXD_DEVICE_ONLINE &&
                               (self->end > self->first || v->coordinator));
    mlxd_jsonw_member_str(&w, "model_name", v->model);
    mlxd_jsonw_member_bool(&w, "distributed_engine_ready", v->ready);
    mlxd_jsonw_key(&w, "distributed_stats");
    write_stats(&w, v);
    mlxd_jsonw_object_end(&w);
    reply(req, 200, &body);
}

/* `last_seen` in seconds since 1970, as the wall clock is now; null: never. */
static void write_last_seen(const mlxd_api *a, mlxd_jsonw *w, const mlxd_device_view *d,
                            bool self) {
    uint64_t now = mlxd_api_now(a), wall = mlxd_api_wall(a);
    uint64_t ago = d->last_seen_ns < now ? now - d->last_seen_ns : 0;
    mlxd_jsonw_key(w, "last_seen");
    if (!self && d->last_seen_ns == 0)
        mlxd_jsonw_null(w);
    else
        mlxd_jsonw_double(w, (double)((wall - (self ? 0 : ago)) / 1000000) / 1e3);
}

static void write_device(const mlxd_api *a, mlxd_jsonw *w, const mlxd_device_view *d, bool self) {
    mlxd_jsonw_key(w, d->device);
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "hostname", d->hostname);
    mlxd_jsonw_member_uint(w, "port", d->port);
    mlxd_jsonw_member_str(w, "role", role(d->coordinator));
    write_layers(w, "layers", d);
    mlxd_jsonw_member_str(w, "status", mlxd_device_status_name(d->status));
    write_last_seen(a, w, d, self);
    if (d->status == MLXD_DEVICE_LOADING)
        mlxd_jsonw_member_double(w, "load_done", d->load_done);
    if (d->why.text[0])
        mlxd_jsonw_member_str(w, "reason", d->why.text);
    mlxd_jsonw_object_end(w);
}

void mlxd_api_get_cluster(void *ctx, mlxd_http_req *req) {
    mlxd_api *a = ctx;
    const mlxd_node_view *v = mlxd_api_view(a);
    mlxd_buf body;
    mlxd_jsonw w;
    mlxd_buf_init(&body, 0);
    mlxd_jsonw_init(&w, &body);
    mlxd_jsonw_object_begin(&w);
    if (v->coordinator) {
        mlxd_jsonw_member_str(&w, "coordinator", v->device);
        mlxd_jsonw_member_str(&w, "model", v->model);
        mlxd_jsonw_member_uint(&w, "layers", v->layers);
        mlxd_jsonw_member_bool(&w, "ready", v->ready);
        mlxd_jsonw_member_bool(&w, "degraded", v->degraded);
        mlxd_jsonw_member_str(&w, "reason", v->why.text[0] ? v->why.text : NULL);
        mlxd_jsonw_member_uint(&w, "epoch", v->engine.epoch);
        mlxd_jsonw_key(&w, "devices");
        mlxd_jsonw_object_begin(&w);
        for (uint32_t i = 0; i < v->n_devices; i++)
            write_device(a, &w, &v->devices[i], i == 0);
        mlxd_jsonw_object_end(&w);
    } else {
        mlxd_jsonw_member_str(&w, "device", v->device);
        mlxd_jsonw_member_str(&w, "status", mlxd_device_status_name(v->devices[0].status));
        mlxd_jsonw_member_str(&w, "model", v->model);
    }
    mlxd_jsonw_object_end(&w);
    reply(req, 200, &body);
}

/* ---- registration ---- */

void mlxd_api_refuse_register(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    (void)mlxd_http_reply_error(req, 403, "not_coordinator", NULL,
                                "this device is a worker; register with the coordinator", NULL);
}

/* The fields of the contract. What a device is and where it listens is configured here, so they are
 * only checked for their types. */
static bool read_registration(const mlxd_json *root, mlxd_slice *device, mlxd_api_refusal *r) {
    static const struct {
        const char *name;
        mlxd_json_kind kind;
    } fields[] = {
        {"hostname", MLXD_JSON_STRING}, {"port", MLXD_JSON_INT}, {"layers", MLXD_JSON_ARRAY}};
    const mlxd_json *id = mlxd_json_find(root, "device_id");
    if (!id || mlxd_json_get_str(id, device))
        return mlxd_api_refuse(r, 400, "missing_required_parameter", "device_id",
                               "device_id: expected the device's name");
    for (size_t i = 0; i < MLXD_COUNT_OF(fields); i++) {
        const mlxd_json *v = mlxd_json_find(root, fields[i].name);
        if (v && mlxd_json_get_kind(v) != fields[i].kind && mlxd_json_get_kind(v) != MLXD_JSON_NULL)
            return mlxd_api_refuse(r, 400, "invalid_type", fields[i].name, "%s: expected %s",
                                   fields[i].name, mlxd_json_kind_name(fields[i].kind));
    }
    return true;
}

static bool is_known(mlxd_api *a, mlxd_slice device, mlxd_api_refusal *r) {
    mlxd_node_view *v = mlxd_mem_new(1, sizeof *v);
    bool known = false;
    if (!v) {
        mlxd_api_refuse_err(r, MLXD_ERR_NOMEM, NULL);
        return false;
    }
    a->p.view(a->p.view_ctx, v);
    for (uint32_t i = 0; i < v->n_devices; i++)
        known = known || mlxd_slice_eq(device, mlxd_slice_str(v->devices[i].device));
    mlxd_mem_free(v);
    return known || mlxd_api_refuse(r, 404, "unknown_device", "device_id",
                                    "device \"%.63s\" is not in this cluster's configuration",
                                    (const char *)device.data);
}

void mlxd_api_do_register(mlxd_api *a, mlxd_http_req *req) {
    mlxd_json_doc *doc = NULL;
    mlxd_api_refusal r = {0};
    mlxd_slice device;
    mlxd_buf body;
    mlxd_jsonw w;
    if (mlxd_api_parse(req, &doc, &r) && read_registration(mlxd_json_root(doc), &device, &r) &&
        is_known(a, device, &r)) {
        mlxd_buf_init(&body, 0);
        mlxd_jsonw_init(&w, &body);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "status", "registered");
        mlxd_jsonw_key(&w, "device_id");
        mlxd_jsonw_slice(&w, device);
        mlxd_jsonw_object_end(&w);
        reply(req, 200, &body);
    } else {
        mlxd_api_reply_refusal(req, &r);
    }
    mlxd_json_close(doc);
}
