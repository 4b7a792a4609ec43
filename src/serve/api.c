/* api.c - see api.h: routes, threads, open and close. */
#include "serve/api_internal.h"

#include "base/log.h"
#include "serve/api_answer.h"

#include <stdio.h>
#include <string.h>

#define WORK_MAX 256
#define KEEPALIVE_MS 10000
#define MAX_TOKENS 512
#define TEMPERATURE 0.7
#define TICK_NS MLXD_NS_PER_S

/* ---- POSTs that need work go to the API threads ---- */

static void enqueue(mlxd_api *a, mlxd_http_req *req, void (*fn)(mlxd_api *, mlxd_http_req *)) {
    mlxd_api_work work = {fn, req};
    mlxd_api_refusal r;
    mlxd_err err = mlxd_queue_push(a->work, &work);
    if (!err)
        return;
    if (err == MLXD_ERR_FULL)
        (void)mlxd_api_refuse(&r, 429, "queue_full", NULL, "%u requests wait to be read already",
                              a->p.work_max);
    else
        mlxd_api_refuse_err(&r, err, NULL);
    mlxd_api_reply_refusal(req, &r);
}

static void post_chat(void *ctx, mlxd_http_req *req) {
    enqueue(ctx, req, mlxd_api_do_chat);
}

static void post_completion(void *ctx, mlxd_http_req *req) {
    enqueue(ctx, req, mlxd_api_do_completion);
}

static void post_tokenize(void *ctx, mlxd_http_req *req) {
    enqueue(ctx, req, mlxd_api_do_tokenize);
}

static void post_detokenize(void *ctx, mlxd_http_req *req) {
    enqueue(ctx, req, mlxd_api_do_detokenize);
}

static void post_register(void *ctx, mlxd_http_req *req) {
    enqueue(ctx, req, mlxd_api_do_register);
}

bool mlxd_api_parse(mlxd_http_req *req, mlxd_json_doc **doc, mlxd_api_refusal *r) {
    mlxd_why why;
    mlxd_err err = mlxd_json_parse(doc, mlxd_http_body(req), MLXD_LIMIT_JSON_DEPTH, &why);
    if (err == MLXD_ERR_NOMEM) {
        mlxd_api_refuse_err(r, err, &why);
        return false;
    }
    if (err)
        return mlxd_api_refuse(r, 400, err == MLXD_ERR_RANGE ? "json_too_deep" : "invalid_json",
                               NULL, "the body is not valid JSON: %s", why.text);
    if (mlxd_json_get_kind(mlxd_json_root(*doc)) == MLXD_JSON_OBJECT)
        return true;
    return mlxd_api_refuse(r, 400, "invalid_type", NULL, "the body: expected a JSON object");
}

/* ---- routes ---- */

static const mlxd_http_route both[] = {
    {MLXD_HTTP_GET, "/", MLXD_HTTP_PUBLIC, mlxd_api_get_root},
    {MLXD_HTTP_GET, "/health", MLXD_HTTP_PUBLIC, mlxd_api_get_health},
    {MLXD_HTTP_GET, "/ready", MLXD_HTTP_PUBLIC, mlxd_api_get_ready},
    {MLXD_HTTP_GET, "/version", 0, mlxd_api_get_version},
    {MLXD_HTTP_GET, "/metrics", 0, mlxd_api_get_metrics},
    {MLXD_HTTP_GET, "/device-info", 0, mlxd_api_get_device},
    {MLXD_HTTP_GET, "/distributed-stats", 0, mlxd_api_get_stats},
    {MLXD_HTTP_GET, "/cluster-status", 0, mlxd_api_get_cluster},
};

static const mlxd_http_route of_worker[] = {
    {MLXD_HTTP_POST, "/register", 0, mlxd_api_refuse_register},
};

static const mlxd_http_route of_coordinator[] = {
    {MLXD_HTTP_POST, "/register", MLXD_HTTP_JSON, post_register},
    {MLXD_HTTP_GET, "/v1/models", 0, mlxd_api_get_models},
    {MLXD_HTTP_GET, "/v1/models/{id}", 0, mlxd_api_get_model},
    {MLXD_HTTP_POST, "/v1/chat/completions", MLXD_HTTP_JSON, post_chat},
    {MLXD_HTTP_POST, "/v1/completions", MLXD_HTTP_JSON, post_completion},
    {MLXD_HTTP_POST, "/tokenize", MLXD_HTTP_JSON, post_tokenize},
    {MLXD_HTTP_POST, "/detokenize", MLXD_HTTP_JSON, post_detokenize},
};

static void add_routes(mlxd_api *a, const mlxd_http_route *routes, size_t count) {
    MLXD_ASSERT(a->n_routes + count <= MLXD_API_ROUTES);
    memcpy(a->routes + a->n_routes, routes, count * sizeof *routes);
    a->n_routes += count;
}

static void make_routes(mlxd_api *a) {
    add_routes(a, both, MLXD_COUNT_OF(both));
    if (mlxd_api_is_coordinator(a))
        add_routes(a, of_coordinator, MLXD_COUNT_OF(of_coordinator));
    else
        add_routes(a, of_worker, MLXD_COUNT_OF(of_worker));
    for (size_t i = 0; i < a->n_routes; i++)
        if (a->p.metrics_public && strcmp(a->routes[i].path, "/metrics") == 0)
            a->routes[i].flags |= MLXD_HTTP_PUBLIC;
}

static mlxd_http_verdict judge_key(void *ctx, const char *key, const char *peer, uint32_t *key_id) {
    mlxd_api *a = ctx;
    return mlxd_auth_check(a->p.auth, key, peer, key_id);
}

/* Probes and scrapes come every few seconds: what went well with GET is for debugging. */
static void on_done(void *ctx, const mlxd_http_done *d) {
    mlxd_api *a = ctx;
    bool usual = d->status == 200 && strcmp(d->method, "GET") == 0;
    mlxd_metrics_add_http(a->metrics, d);
    mlxd_log(usual ? MLXD_LOG_DEBUG : MLXD_LOG_INFO, "http",
             "%s %s %u%s %.1f ms {peer=%s, key=%s, id=%s}", d->method, d->route ? d->route : "-",
             d->status, d->gone ? " client left" : "", (double)d->duration_ns / 1e6, d->peer,
             a->p.auth && d->key_id ? mlxd_auth_name(a->p.auth, d->key_id) : "-", d->request_id);
}

/* ---- threads ---- */

static void work_main(void *arg) {
    mlxd_api *a = arg;
    mlxd_api_work work;
    while (mlxd_queue_pop(a->work, &work, UINT64_MAX) == MLXD_OK) {
        if (mlxd_http_gone(work.req))
            mlxd_http_stream_abort(work.req); /* it left while it waited */
        else
            work.fn(a, work.req);
    }
}

uint64_t mlxd_api_busy_ns(const mlxd_api *a, const mlxd_node_view *v) {
    if (a->p.host)
        return mlxd_driver_busy_ns(a->p.host->driver);
    return v->n_devices > 0 ? v->devices[0].compute_ns : 0;
}

uint32_t mlxd_api_context(const mlxd_api *a) {
    mlxd_engine_stats e;
    mlxd_loop_stats(a->p.loop, &e);
    return e.stages > 0 && e.context > 0 ? e.context : a->p.context;
}

/* Samples the busy time once a second; looks at silent streams four times as often as they may be
 * silent. The timer has a snapshot of its own: the other one is the HTTP thread's. */
static void timer_main(void *arg) {
    mlxd_api *a = arg;
    mlxd_node_view *v = a->timer_view;
    uint64_t tick = MLXD_MIN(a->p.keepalive_ms * MLXD_NS_PER_MS / 4 + 1, TICK_NS);
    uint64_t sampled = 0;
    mlxd_mutex_lock(&a->lock);
    while (!a->closing) {
        mlxd_mutex_unlock(&a->lock);
        uint64_t now = mlxd_api_now(a);
        if (now - sampled >= TICK_NS) {
            sampled = now;
            if (!a->p.host)
                a->p.view(a->p.view_ctx, v);
            mlxd_metrics_sample(a->metrics, now, mlxd_api_busy_ns(a, v));
        }
        mlxd_answers_keep_alive(a);
        mlxd_mutex_lock(&a->lock);
        uint64_t until = mlxd_clock_now_ns() + tick;
        while (!a->closing && mlxd_cond_wait_until(&a->changed, &a->lock, until))
            ;
    }
    mlxd_mutex_unlock(&a->lock);
}

static mlxd_err start_threads(mlxd_api *a, mlxd_why *why) {
    mlxd_err err = mlxd_thread_start(&a->timer, "api-timer", MLXD_PRIORITY_NORMAL, timer_main, a);
    a->timer_started = !err;
    for (; !err && mlxd_api_is_coordinator(a) && a->threads_started < MLXD_API_THREADS;
         a->threads_started += !err)
        err = mlxd_thread_start(&a->threads[a->threads_started], "api", MLXD_PRIORITY_NORMAL,
                                work_main, a);
    return err ? mlxd_fail(why, err, "cannot start the API's threads") : MLXD_OK;
}

/* ---- open, close ---- */

static mlxd_err check_address(const mlxd_api_params *p, mlxd_why *why) {
    if (p->auth || mlxd_http_is_loopback(p->bind_host))
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_PERM,
                     "%s can be reached from other machines and there are no API keys: give a file "
                     "of keys (--api-key-file), or listen on 127.0.0.1",
                     p->bind_host);
}

static mlxd_api_params with_defaults(const mlxd_api_params *in) {
    mlxd_api_params p = *in;
    p.bind_host = p.bind_host && *p.bind_host ? p.bind_host : "127.0.0.1";
    p.clock = p.clock ? p.clock : mlxd_clock_real();
    p.version = p.version ? p.version : "unknown";
    p.commit = p.commit ? p.commit : "unknown";
    p.max_tokens = p.max_tokens ? p.max_tokens : MAX_TOKENS;
    p.temperature = p.temperature > 0 ? p.temperature : TEMPERATURE;
    p.work_max = p.work_max ? p.work_max : WORK_MAX;
    p.keepalive_ms = p.keepalive_ms ? p.keepalive_ms : KEEPALIVE_MS;
    if (!p.created)
        p.created = (int64_t)(p.clock->wall_ns(p.clock->ctx) / MLXD_NS_PER_S);
    return p;
}

/* What answers depend on besides the request: version and model. */
static void make_fingerprint(mlxd_api *a) {
    uint8_t digest[MLXD_SHA256_BYTES];
    char hex[9];
    if (!a->p.host)
        return;
    if (a->p.model_digest)
        memcpy(digest, a->p.model_digest, sizeof digest);
    else
        mlxd_checkpoint_meta_digest(a->p.host->checkpoint, digest);
    mlxd_hex(digest, 4, hex);
    snprintf(a->fingerprint, sizeof a->fingerprint, "mlxd-%.40s-%s", a->p.version, hex);
}

static mlxd_err start_http(mlxd_api *a, mlxd_why *why) {
    mlxd_http_config c = {.host = a->p.bind_host,
                          .port = a->p.port,
                          .routes = a->routes,
                          .routes_len = a->n_routes,
                          .ctx = a,
                          .auth = a->p.auth ? judge_key : NULL,
                          .done = on_done,
                          .hosts = a->p.allowed_hosts,
                          .hosts_len = a->p.allowed_hosts_len,
                          .stream_bytes_max = a->p.stream_bytes_max};
    mlxd_http *http;
    mlxd_err err = mlxd_http_start(&http, &c, why);
    if (err)
        return err;
    mlxd_mutex_lock(&a->lock); /* handlers run already */
    a->http = http;
    mlxd_mutex_unlock(&a->lock);
    return MLXD_OK;
}

static mlxd_err make(mlxd_api *a, mlxd_why *why) {
    a->view = mlxd_mem_new(1, sizeof *a->view);
    a->timer_view = mlxd_mem_new(1, sizeof *a->timer_view);
    a->metrics = mlxd_metrics_open(a->routes, a->n_routes);
    a->work = mlxd_queue_open(sizeof(mlxd_api_work), a->p.work_max);
    if (!a->view || !a->timer_view || !a->metrics || !a->work)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_err err = start_threads(a, why);
    return err ? err : start_http(a, why);
}

mlxd_err mlxd_api_open(mlxd_api **out, const mlxd_api_params *params, mlxd_why *why) {
    MLXD_ASSERT(params->view && !params->host == !params->loop);
    mlxd_api_params p = with_defaults(params);
    mlxd_err err = check_address(&p, why);
    if (err)
        return err;
    mlxd_api *a = mlxd_mem_new(1, sizeof *a);
    if (!a)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    a->p = p;
    MLXD_ASSERT(!p.host || (p.model_name && p.context && p.host->tokenizer && p.host->head));
    mlxd_mutex_init(&a->lock);
    mlxd_cond_init(&a->changed);
    make_routes(a);
    make_fingerprint(a);
    err = make(a, why);
    if (err) {
        mlxd_api_close(a);
        return err;
    }
    *out = a;
    return MLXD_OK;
}

bool mlxd_api_drain(mlxd_api *a, unsigned timeout_ms) {
    return mlxd_http_drain(a->http, timeout_ms);
}

/* In the order in which work flows: no new requests, those that wait are dropped (their clients are
 * gone now), those in the engine are cancelled and come back. */
void mlxd_api_close(mlxd_api *a) {
    if (!a)
        return;
    mlxd_http_stop(a->http);
    if (a->work)
        mlxd_queue_shutdown(a->work);
    for (unsigned i = 0; i < a->threads_started; i++)
        mlxd_thread_join(&a->threads[i]);
    mlxd_answers_wait(a);
    mlxd_mutex_lock(&a->lock);
    a->closing = true;
    mlxd_cond_broadcast(&a->changed);
    mlxd_mutex_unlock(&a->lock);
    if (a->timer_started)
        mlxd_thread_join(&a->timer);
    mlxd_queue_close(a->work);
    mlxd_metrics_close(a->metrics);
    mlxd_mem_free(a->timer_view);
    mlxd_mem_free(a->view);
    mlxd_cond_deinit(&a->changed);
    mlxd_mutex_deinit(&a->lock);
    mlxd_mem_free(a);
}

uint16_t mlxd_api_port(const mlxd_api *a) {
    return mlxd_http_port(a->http);
}

const char *mlxd_api_url(const mlxd_api *a) {
    return mlxd_http_url(a->http);
}
