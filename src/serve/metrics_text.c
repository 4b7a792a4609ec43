/* metrics_text.c - the numbers of metrics.h in Prometheus' text format 0.0.4:
 *
 *     # HELP mlx_requests_total HTTP requests by route and status code.
 *     # TYPE mlx_requests_total counter
 *     mlx_requests_total{route="/v1/chat/completions",code="200"} 12
 */
#include "serve/metrics_internal.h"

#include "base/os.h"
#include "format/json.h"
#include "serve/api_stages.h"

#include <stdio.h>

struct label {
    const char *name, *value;
};

#define LABELS_MAX 4

static void family(mlxd_buf *out, const char *name, const char *type, const char *help) {
    mlxd_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_labels(mlxd_buf *out, const struct label *labels, size_t n) {
    for (size_t i = 0; i < n; i++) {
        mlxd_buf_addf(out, "%s%s=\"", i ? "," : "{", labels[i].name);
        for (const char *c = labels[i].value; *c; c++) {
            if (*c == '\\' || *c == '"')
                mlxd_buf_add_byte(out, '\\');
            if (*c == '\n')
                mlxd_buf_add_str(out, "\\n");
            else
                mlxd_buf_add_byte(out, (uint8_t)*c);
        }
        mlxd_buf_add_byte(out, '"');
    }
    mlxd_buf_add_str(out, n ? "} " : " ");
}

/* The shortest digits that read back as the same number, as in JSON. */
static void add_double(mlxd_buf *out, double v) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_double(&w, v);
    mlxd_buf_add_byte(out, '\n');
}

static void sample(mlxd_buf *out, const char *name, const struct label *labels, size_t n,
                   double v) {
    mlxd_buf_add_str(out, name);
    add_labels(out, labels, n);
    add_double(out, v);
}

static void sample_uint(mlxd_buf *out, const char *name, const struct label *labels, size_t n,
                        uint64_t v) {
    mlxd_buf_add_str(out, name);
    add_labels(out, labels, n);
    mlxd_buf_addf(out, "%llu\n", (unsigned long long)v);
}

/* A family of one sample without labels. */
static void single(mlxd_buf *out, const char *name, const char *type, const char *help, double v) {
    family(out, name, type, help);
    sample(out, name, NULL, 0, v);
}

static void single_uint(mlxd_buf *out, const char *name, const char *type, const char *help,
                        uint64_t v) {
    family(out, name, type, help);
    sample_uint(out, name, NULL, 0, v);
}

/* ---- the specification's gauges, and what they stand for ---- */

/* Share of the sampled time in which there was work, 0..1; negative: not two samples yet. */
static double utilization(const mlxd_metrics *m) {
    if (m->n_samples < 2)
        return -1;
    uint64_t n = m->n_samples;
    uint64_t first = n > MLXD_METRICS_SAMPLES ? n - MLXD_METRICS_SAMPLES : 0;
    const struct mlxd_metrics_sample *a = &m->samples[first % MLXD_METRICS_SAMPLES];
    const struct mlxd_metrics_sample *b = &m->samples[(n - 1) % MLXD_METRICS_SAMPLES];
    if (b->at_ns <= a->at_ns || b->busy_ns < a->busy_ns)
        return -1;
    double share = (double)(b->busy_ns - a->busy_ns) / (double)(b->at_ns - a->at_ns);
    return MLXD_MIN(share, 1.0);
}

static void add_contract(const mlxd_metrics *m, const mlxd_metrics_scrape *s, mlxd_buf *out) {
    const mlxd_node_view *v = s->view;
    const mlxd_device_view *self = &v->devices[0];
    struct label device = {"device", v->device};
    double share = utilization(m);
    family(out, "mlx_gpu_utilization", "gauge",
           "Share of the last 15 s in which the compute pool had work, in percent (0-100); "
           "this build computes on CPUs. See mlx_compute_busy_seconds_total.");
    if (share >= 0)
        sample(out, "mlx_gpu_utilization", &device, 1, 100 * share);
    uint64_t rss = mlxd_os_rss();
    family(out, "mlx_memory_usage_mb", "gauge",
           "Resident memory of this process in megabytes (10^6 bytes). "
           "See process_resident_memory_bytes.");
    if (rss)
        sample(out, "mlx_memory_usage_mb", &device, 1, (double)rss / 1e6);
    family(out, "mlx_inference_latency_ms", "gauge",
           "Mean since start, in milliseconds: on a coordinator of a completion from submission to "
           "end, on a worker of one step's computation. No sample before the first.");
    if (v->coordinator && v->engine.succeeded)
        sample(out, "mlx_inference_latency_ms", &device, 1,
               (double)v->engine.duration_ns / 1e6 / (double)v->engine.succeeded);
    if (!v->coordinator && v->n_devices > 0 && self->steps)
        sample(out, "mlx_inference_latency_ms", &device, 1,
               (double)self->compute_ns / 1e6 / (double)self->steps);
    family(out, "mlx_compute_busy_seconds_total", "counter",
           "Time in which this process computed layers or logits.");
    sample(out, "mlx_compute_busy_seconds_total", &device, 1, (double)s->busy_ns / 1e9);
}

/* ---- requests ---- */

static void add_requests(const mlxd_metrics *m, const mlxd_metrics_scrape *s, mlxd_buf *out) {
    family(out, "mlx_requests_total", "counter",
           "HTTP requests by route and status code; 499: the client left first.");
    for (size_t r = 0; r < m->n_routes; r++)
        for (size_t c = 0; c <= MLXD_METRICS_CODES; c++) {
            char code[12] = "other";
            uint64_t count = m->requests[r][c];
            if (count == 0 && (c > 0 || r + 1 == m->n_routes))
                continue;
            if (c < MLXD_METRICS_CODES)
                snprintf(code, sizeof code, "%u", mlxd_metrics_codes[c]);
            struct label labels[] = {{"route", m->routes[r]}, {"code", code}};
            sample_uint(out, "mlx_requests_total", labels, 2, count);
        }
    single_uint(out, "mlx_requests_in_flight", "gauge", "HTTP requests without a complete reply.",
                s->http.requests_live);
    single_uint(out, "mlx_http_connections", "gauge", "Open HTTP connections.",
                s->http.connections_open);
    single_uint(out, "mlx_wrong_api_keys_total", "counter", "Requests with a wrong API key.",
                s->wrong_keys);
}

static void add_histograms(const mlxd_metrics *m, bool coordinator, mlxd_buf *out) {
    for (size_t i = 0; i < (coordinator ? MLXD_HISTOGRAMS : MLXD_HISTOGRAM_REQUEST + 1); i++) {
        const struct mlxd_histogram *h = &m->histograms[i];
        uint64_t sum = 0;
        family(out, h->name, "histogram", h->help);
        for (size_t b = 0; b <= h->n_bounds; b++) {
            char bound[32] = "+Inf";
            if (b < h->n_bounds)
                snprintf(bound, sizeof bound, "%g", h->bounds[b]);
            struct label le = {"le", bound};
            sum += h->buckets[b];
            mlxd_buf_addf(out, "%s_bucket", h->name);
            sample_uint(out, "", &le, 1, sum);
        }
        mlxd_buf_addf(out, "%s_sum", h->name);
        sample(out, "", NULL, 0, h->sum);
        mlxd_buf_addf(out, "%s_count", h->name);
        sample_uint(out, "", NULL, 0, h->count);
    }
}

/* ---- engine ---- */

static void add_completions(const mlxd_metrics *m, const mlxd_engine_stats *e, mlxd_buf *out) {
    const struct {
        const char *outcome;
        uint64_t count;
    } outcomes[] = {{"succeeded", e->succeeded},
                    {"failed", e->failed},
                    {"cancelled", e->cancelled},
                    {"rejected", e->rejected}};
    family(out, "mlx_completions_total", "counter", "Completions that have ended, by outcome.");
    for (size_t i = 0; i < MLXD_COUNT_OF(outcomes); i++) {
        struct label outcome = {"outcome", outcomes[i].outcome};
        sample_uint(out, "mlx_completions_total", &outcome, 1, outcomes[i].count);
    }
    family(out, "mlx_finished_total", "counter", "Succeeded completions by finish reason.");
    for (mlxd_finish f = MLXD_FINISH_STOP; f <= MLXD_FINISH_LENGTH; f++) {
        struct label reason = {"reason", mlxd_finish_name(f)};
        sample_uint(out, "mlx_finished_total", &reason, 1, m->finished[f]);
    }
    single_uint(out, "mlx_prompt_tokens_total", "counter", "Prompt tokens of all completions.",
                e->prompt_tokens);
    single_uint(out, "mlx_generated_tokens_total", "counter", "Tokens drawn.", e->generated_tokens);
    single_uint(out, "mlx_ignored_fields_total", "counter",
                "Unknown fields in completion requests that were ignored.", m->ignored);
}

static void add_engine(const mlxd_metrics_scrape *s, mlxd_buf *out) {
    const mlxd_engine_stats *e = &s->view->engine;
    single_uint(out, "mlx_requests_running", "gauge", "Completions that hold KV pages.",
                e->running);
    single_uint(out, "mlx_queue_depth", "gauge", "Completions that wait for KV pages or a slot.",
                e->waiting);
    single_uint(out, "mlx_parse_queue_depth", "gauge", "Requests that wait to be parsed.",
                s->work_waiting);
    single_uint(out, "mlx_parse_queue_capacity", "gauge", "Room for requests to be parsed.",
                s->work_max);
    if (e->kv_pages_max)
        single(out, "mlx_kv_cache_used_ratio", "gauge", "Reserved share of the KV page pool, 0-1.",
               (double)e->kv_pages_reserved / e->kv_pages_max);
    single_uint(out, "mlx_steps_total", "counter", "Steps (micro-batches) formed.", e->steps);
    single_uint(out, "mlx_step_rows_total", "counter", "Rows of all steps; by steps: batch size.",
                e->step_rows);
    single_uint(out, "mlx_stale_steps_total", "counter",
                "Steps that came back from a pipeline that was given up.", e->stale_steps);
    single_uint(out, "mlx_pipeline_stages", "gauge", "Stages of the pipeline; 0: there is none.",
                e->stages);
    single_uint(out, "mlx_pipeline_epoch", "gauge", "Grows with every change of the pipeline.",
                e->epoch);
    single(out, "mlx_head_seconds_total", "counter",
           "Time of steps in embedding, vocabulary projection and sampling, queue included.",
           (double)e->head_ns / 1e9);
}

/* ---- stages and devices ---- */

enum stage_number { STAGE_COMPUTE, STAGE_HOP };

static void add_stages(const mlxd_node_view *v, enum stage_number which, const char *name,
                       const char *help, mlxd_buf *out) {
    uint32_t order[MLXD_LIMIT_NODES];
    uint32_t n = mlxd_api_stages(v, order);
    family(out, name, "counter", help);
    for (uint32_t i = 0; i < v->engine.stages && i < MLXD_LIMIT_STAGES; i++) {
        char index[12];
        snprintf(index, sizeof index, "%u", i);
        struct label labels[] = {{"stage", index},
                                 {"device", i < n ? v->devices[order[i]].device : ""}};
        uint64_t compute = v->engine.stage[i].compute_ns, total = v->engine.stage[i].total_ns;
        uint64_t ns = which == STAGE_COMPUTE ? compute : total - MLXD_MIN(compute, total);
        sample(out, name, labels, 2, (double)ns / 1e9);
    }
}

enum device_number { UP, RTT, AGE, RECONNECTS, LAYERS, SESSIONS, PAGES, PAGES_MAX, MEMORY, SHARDS };

/* One device's value; false: not known, or not of this kind of device. */
static bool device_value(const mlxd_metrics_scrape *s, uint32_t i, enum device_number which,
                         double *out) {
    const mlxd_device_view *d = &s->view->devices[i];
    switch (which) {
    case UP:
        *out = d->status == MLXD_DEVICE_ONLINE;
        return i > 0;
    case RTT:
        *out = (double)d->rtt_ns / 1e9;
        return i > 0 && d->rtt_ns;
    case AGE:
        *out = d->last_seen_ns < s->now_ns ? (double)(s->now_ns - d->last_seen_ns) / 1e9 : 0;
        return i > 0 && d->last_seen_ns;
    case RECONNECTS:
        *out = (double)d->reconnects;
        return i > 0;
    case LAYERS:
        *out = d->end - d->first;
        return true;
    case SHARDS:
        *out = (double)d->shard_bytes;
        return i > 0 || !s->view->coordinator;
    case SESSIONS:
        *out = d->sessions;
        return true;
    case PAGES:
        *out = d->kv_pages_used;
        return d->kv_pages_max;
    case PAGES_MAX:
        *out = d->kv_pages_max;
        return d->kv_pages_max;
    case MEMORY:
        *out = (double)d->memory_bytes;
        return d->memory_bytes;
    }
    return false;
}

static void add_devices(const mlxd_metrics_scrape *s, mlxd_buf *out) {
    static const struct {
        enum device_number which;
        const char *name, *type, *help;
    } rows[] = {
        {UP, "mlx_worker_up", "gauge", "1: the worker is online."},
        {RTT, "mlx_worker_rtt_seconds", "gauge", "Round trip of the last heartbeat."},
        {AGE, "mlx_worker_heartbeat_age_seconds", "gauge", "Since the worker was heard last."},
        {RECONNECTS, "mlx_worker_reconnects_total", "counter", "Times the worker came back."},
        {LAYERS, "mlx_shard_layers", "gauge", "Layers that the device holds."},
        {SHARDS, "mlx_shard_bytes_total", "counter",
         "Bytes of model files that went to the device because it has none of its own."},
        {SESSIONS, "mlx_device_sessions", "gauge", "Sessions with KV pages on the device."},
        {PAGES, "mlx_kv_cache_pages_used", "gauge", "KV pages in use on the device."},
        {PAGES_MAX, "mlx_kv_cache_pages", "gauge", "KV pages that the device has."},
        {MEMORY, "mlx_device_memory_bytes", "gauge", "Weights, working memory and KV pool."},
    };
    for (size_t r = 0; r < MLXD_COUNT_OF(rows); r++) {
        family(out, rows[r].name, rows[r].type, rows[r].help);
        for (uint32_t i = 0; i < s->view->n_devices; i++) {
            struct label device = {"device", s->view->devices[i].device};
            double v;
            if (device_value(s, i, rows[r].which, &v))
                sample(out, rows[r].name, &device, 1, v);
        }
    }
}

/* ---- process ---- */

static void add_process(const mlxd_metrics_scrape *s, mlxd_buf *out) {
    const mlxd_node_view *v = s->view;
    char layers[16], context[16];
    snprintf(layers, sizeof layers, "%u", v->layers);
    snprintf(context, sizeof context, "%u", v->context);
    struct label build[] = {{"version", s->version}, {"commit", s->commit}, {"isa", v->isa}};
    struct label model[] = {{"model", v->model}, {"layers", layers}, {"context", context}};
    family(out, "mlx_build_info", "gauge", "1; what runs is in the labels.");
    sample_uint(out, "mlx_build_info", build, 3, 1);
    family(out, "mlx_model_info", "gauge", "1; the model is in the labels.");
    sample_uint(out, "mlx_model_info", model, 3, 1);
    single_uint(out, "mlx_ready", "gauge", "1: requests (on a worker: steps) can be served.",
                v->ready);
    single_uint(out, "mlx_cluster_degraded", "gauge", "1: something is missing.", v->degraded);
    single(out, "process_cpu_seconds_total", "counter", "User and system CPU time.",
           mlxd_os_cpu_seconds());
    uint64_t rss = mlxd_os_rss(), peak = mlxd_os_rss_peak();
    if (rss)
        single_uint(out, "process_resident_memory_bytes", "gauge", "Resident memory.", rss);
    if (peak)
        single_uint(out, "mlx_memory_peak_bytes", "gauge", "Largest resident memory.", peak);
    if (v->started_ns && v->started_ns <= s->now_ns)
        single(out, "process_start_time_seconds", "gauge", "Start, in seconds since 1970.",
               (double)(s->wall_ns - (s->now_ns - v->started_ns)) / 1e9);
}

void mlxd_metrics_write(mlxd_metrics *m, const mlxd_metrics_scrape *s, mlxd_buf *out) {
    const mlxd_node_view *v = s->view;
    mlxd_mutex_lock(&m->lock);
    add_contract(m, s, out);
    add_requests(m, s, out);
    add_histograms(m, v->coordinator, out);
    if (v->coordinator)
        add_completions(m, &v->engine, out);
    mlxd_mutex_unlock(&m->lock);
    if (v->coordinator) {
        add_engine(s, out);
        add_stages(v, STAGE_COMPUTE, "mlx_stage_compute_seconds_total",
                   "Time of steps that the stage computed.", out);
        add_stages(v, STAGE_HOP, "mlx_stage_hop_seconds_total",
                   "Time of steps on the way to a stage and back, and in its queue.", out);
    }
    add_devices(s, out);
    add_process(s, out);
}
