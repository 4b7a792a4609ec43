/* api_node.c - what this node says about itself and its model: /, /health, /ready, /version,
 * /metrics, /v1/models. On the HTTP thread, from a snapshot.
 *
 * The public ones tell names only; reasons, versions and addresses need a key.
 */
#include "serve/api_internal.h"

#include "format/json.h"

#include <string.h>

static double seconds(uint64_t ns) {
    return (double)(ns / 1000) / 1e6; /* whole microseconds print short */
}

static const char *exactness(void) {
    return "bitwise"; /* every stage of this build computes on CPUs, canonically (design) */
}

static void reply(mlxd_http_req *req, unsigned status, mlxd_jsonw *w, mlxd_buf *body) {
    mlxd_jsonw_object_end(w);
    mlxd_api_reply_json(req, status, body);
    mlxd_buf_deinit(body);
}

static void begin(mlxd_jsonw *w, mlxd_buf *body) {
    mlxd_buf_init(body, 0);
    mlxd_jsonw_init(w, body);
    mlxd_jsonw_object_begin(w);
}

void mlxd_api_get_root(void *ctx, mlxd_http_req *req) {
    const mlxd_node_view *v = mlxd_api_view(ctx);
    mlxd_buf body;
    mlxd_jsonw w;
    begin(&w, &body);
    mlxd_jsonw_member_str(&w, "message", "mlxd: one model over several machines");
    mlxd_jsonw_member_str(&w, "device", v->device);
    mlxd_jsonw_member_str(&w, "role", v->coordinator ? "coordinator" : "worker");
    mlxd_jsonw_member_str(&w, "model", v->model);
    mlxd_jsonw_member_str(&w, "status", v->ready ? "ready" : "not ready");
    reply(req, 200, &w, &body);
}

void mlxd_api_get_health(void *ctx, mlxd_http_req *req) {
    mlxd_api *a = ctx;
    const mlxd_node_view *v = mlxd_api_view(a);
    mlxd_buf body;
    mlxd_jsonw w;
    begin(&w, &body);
    mlxd_jsonw_member_str(&w, "status", v->ready ? "healthy" : "unhealthy");
    mlxd_jsonw_member_str(&w, "device", v->device);
    mlxd_jsonw_member_str(&w, "model", v->model);
    mlxd_jsonw_member_double(&w, "timestamp", seconds(mlxd_api_wall(a)));
    mlxd_jsonw_member_bool(&w, "degraded", v->degraded);
    mlxd_jsonw_member_str(&w, "exactness", exactness());
    reply(req, v->ready ? 200 : 503, &w, &body);
}

void mlxd_api_get_ready(void *ctx, mlxd_http_req *req) {
    const mlxd_node_view *v = mlxd_api_view(ctx);
    mlxd_buf body;
    mlxd_jsonw w;
    begin(&w, &body);
    mlxd_jsonw_member_bool(&w, "ready", v->ready);
    mlxd_jsonw_member_bool(&w, "degraded", v->degraded);
    if (mlxd_http_authorized(req) && v->why.text[0])
        mlxd_jsonw_member_str(&w, "reason", v->why.text);
    reply(req, v->ready ? 200 : 503, &w, &body);
}

void mlxd_api_get_version(void *ctx, mlxd_http_req *req) {
    mlxd_api *a = ctx;
    const mlxd_node_view *v = mlxd_api_view(a);
    mlxd_buf body;
    mlxd_jsonw w;
    begin(&w, &body);
    mlxd_jsonw_member_str(&w, "version", a->p.version);
    mlxd_jsonw_member_str(&w, "commit", a->p.commit);
    mlxd_jsonw_member_str(&w, "isa", v->isa);
    reply(req, 200, &w, &body);
}

void mlxd_api_get_metrics(void *ctx, mlxd_http_req *req) {
    mlxd_api *a = ctx;
    const mlxd_node_view *v = mlxd_api_view(a);
    mlxd_metrics_scrape s = {.view = v,
                             .now_ns = mlxd_api_now(a),
                             .wall_ns = mlxd_api_wall(a),
                             .busy_ns = mlxd_api_busy_ns(a, v),
                             .wrong_keys = a->p.auth ? mlxd_auth_wrong(a->p.auth) : 0,
                             .work_waiting = a->work ? mlxd_queue_len(a->work) : 0,
                             .work_max = a->p.work_max,
                             .version = a->p.version,
                             .commit = a->p.commit};
    mlxd_buf body;
    mlxd_buf_init(&body, 0);
    mlxd_mutex_lock(&a->lock);
    mlxd_http *http = a->http;
    mlxd_mutex_unlock(&a->lock);
    if (http) /* else it is just being opened */
        mlxd_http_stats_get(http, &s.http);
    mlxd_metrics_write(a->metrics, &s, &body);
    if (body.failed)
        mlxd_api_reply_json(req, 200, &body);
    else
        (void)mlxd_http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8",
                              (mlxd_slice){body.data, body.len}, NULL);
    mlxd_buf_deinit(&body);
}

/* ---- models ---- */

static void write_model(const mlxd_api *a, mlxd_jsonw *w) {
    const mlxd_config *c = &a->p.host->config;
    const mlxd_generation_config *d = &a->p.host->defaults;
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "id", a->p.model_name);
    mlxd_jsonw_member_str(w, "object", "model");
    mlxd_jsonw_member_int(w, "created", a->p.created);
    mlxd_jsonw_member_str(w, "owned_by", "mlx-distributed");
    mlxd_jsonw_member_uint(w, "max_model_len", mlxd_api_context(a));
    mlxd_jsonw_key(w, "meta");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "context_length", mlxd_api_context(a));
    mlxd_jsonw_member_uint(w, "n_ctx_train", c->context);
    mlxd_jsonw_member_uint(w, "n_vocab", c->vocab);
    mlxd_jsonw_member_uint(w, "n_embd", c->hidden);
    mlxd_jsonw_member_uint(w, "n_layer", c->layers);
    mlxd_jsonw_member_str(w, "reasoning_format", mlxd_reasoning_name(a->p.host->reasoning));
    mlxd_jsonw_object_end(w);
    mlxd_jsonw_key(w, "default_generation_settings");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_double(w, "temperature", d->sampling.temperature);
    mlxd_jsonw_member_double(w, "top_p", d->sampling.top_p);
    mlxd_jsonw_member_int(w, "top_k", d->sampling.top_k);
    mlxd_jsonw_member_double(w, "min_p", d->sampling.min_p);
    mlxd_jsonw_member_double(w, "repetition_penalty", d->sampling.repetition_penalty);
    mlxd_jsonw_member_uint(w, "max_tokens", d->max_tokens);
    mlxd_jsonw_object_end(w);
    mlxd_jsonw_object_end(w);
}

void mlxd_api_get_models(void *ctx, mlxd_http_req *req) {
    mlxd_buf body;
    mlxd_jsonw w;
    begin(&w, &body);
    mlxd_jsonw_member_str(&w, "object", "list");
    mlxd_jsonw_key(&w, "data");
    mlxd_jsonw_array_begin(&w);
    write_model(ctx, &w);
    mlxd_jsonw_array_end(&w);
    reply(req, 200, &w, &body);
}

void mlxd_api_get_model(void *ctx, mlxd_http_req *req) {
    mlxd_api *a = ctx;
    mlxd_buf body;
    mlxd_jsonw w;
    if (strcmp(mlxd_http_param(req), a->p.model_name) != 0) {
        mlxd_api_refusal r;
        (void)mlxd_api_refuse(&r, 404, "model_not_found", "model",
                              "model \"%s\" is not served here; this server has \"%.200s\"",
                              mlxd_http_param(req), a->p.model_name);
        mlxd_api_reply_refusal(req, &r);
        return;
    }
    mlxd_buf_init(&body, 0);
    mlxd_jsonw_init(&w, &body);
    write_model(a, &w);
    mlxd_api_reply_json(req, 200, &body);
    mlxd_buf_deinit(&body);
}
