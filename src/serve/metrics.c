/* metrics.c - see metrics.h: what is counted here. metrics_text.c writes it. */
#include "serve/metrics_internal.h"

#include <string.h>

static const double seconds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                 0.5,   1,      2.5,   5,    10,    30,   60,  300};
static const double gaps[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                              0.25,  0.5,    1,     2.5,  5,     10};
static const double counts[] = {1,   2,    5,    10,   20,    50,    100,  200,
                                500, 1000, 2000, 5000, 10000, 20000, 50000};

#define BOUNDS(a) (a), MLXD_COUNT_OF(a)

static const struct {
    const char *name, *help;
    const double *bounds;
    size_t n_bounds;
} kinds[MLXD_HISTOGRAMS] = {
    [MLXD_HISTOGRAM_REQUEST] = {"mlx_request_duration_seconds",
                                "HTTP request line parsed to reply complete, all routes.",
                                BOUNDS(seconds)},
    [MLXD_HISTOGRAM_QUEUE] = {"mlx_queue_wait_seconds",
                              "Completion submitted to its first step formed.", BOUNDS(seconds)},
    [MLXD_HISTOGRAM_FIRST] = {"mlx_time_to_first_token_seconds",
                              "Completion submitted to its first token drawn.", BOUNDS(seconds)},
    [MLXD_HISTOGRAM_GAP] = {"mlx_inter_token_latency_seconds",
                            "Time between two tokens of one answer.", BOUNDS(gaps)},
    [MLXD_HISTOGRAM_PREFILL] = {"mlx_prefill_seconds", "First step formed to first token drawn.",
                                BOUNDS(seconds)},
    [MLXD_HISTOGRAM_DECODE] = {"mlx_decode_seconds", "First token drawn to the end.",
                               BOUNDS(seconds)},
    [MLXD_HISTOGRAM_PROMPT] = {"mlx_request_prompt_tokens", "Prompt tokens of a completion.",
                               BOUNDS(counts)},
    [MLXD_HISTOGRAM_OUTPUT] = {"mlx_request_output_tokens", "Tokens drawn for a completion.",
                               BOUNDS(counts)},
};

const unsigned mlxd_metrics_codes[MLXD_METRICS_CODES] = {
    200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 421, 429, 431, 499, 500, 501, 503, 504};

mlxd_metrics *mlxd_metrics_open(const mlxd_http_route *routes, size_t n_routes) {
    mlxd_metrics *m = mlxd_mem_new(1, sizeof *m);
    if (!m)
        return NULL;
    MLXD_ASSERT(n_routes < MLXD_METRICS_ROUTES);
    mlxd_mutex_init(&m->lock);
    for (size_t i = 0; i < n_routes; i++)
        m->routes[m->n_routes++] = routes[i].path;
    m->routes[m->n_routes++] = "other"; /* unknown paths, and refusals before the path is known */
    for (size_t i = 0; i < MLXD_HISTOGRAMS; i++) {
        m->histograms[i].name = kinds[i].name;
        m->histograms[i].help = kinds[i].help;
        m->histograms[i].bounds = kinds[i].bounds;
        m->histograms[i].n_bounds = kinds[i].n_bounds;
        MLXD_ASSERT(kinds[i].n_bounds <= MLXD_METRICS_BUCKETS);
    }
    return m;
}

void mlxd_metrics_close(mlxd_metrics *m) {
    if (!m)
        return;
    mlxd_mutex_deinit(&m->lock);
    mlxd_mem_free(m);
}

/* With the lock held. */
static void observe(mlxd_metrics *m, enum mlxd_histogram_id id, double v) {
    struct mlxd_histogram *h = &m->histograms[id];
    size_t i = 0;
    while (i < h->n_bounds && v > h->bounds[i])
        i++;
    h->buckets[i]++;
    h->count++;
    h->sum += v;
}

static void observe_ns(mlxd_metrics *m, enum mlxd_histogram_id id, uint64_t from, uint64_t to) {
    if (from && to >= from)
        observe(m, id, (double)(to - from) / 1e9);
}

void mlxd_metrics_add_http(mlxd_metrics *m, const mlxd_http_done *done) {
    unsigned status = done->status == 0 || done->gone ? 499 : done->status;
    size_t route = 0, code = 0;
    while (route + 1 < m->n_routes && !(done->route && strcmp(m->routes[route], done->route) == 0))
        route++;
    while (code < MLXD_METRICS_CODES && mlxd_metrics_codes[code] != status)
        code++;
    mlxd_mutex_lock(&m->lock);
    m->requests[route][code]++; /* the last column: other codes */
    observe(m, MLXD_HISTOGRAM_REQUEST, (double)done->duration_ns / 1e9);
    mlxd_mutex_unlock(&m->lock);
}

void mlxd_metrics_add_gap(mlxd_metrics *m, uint64_t ns) {
    mlxd_mutex_lock(&m->lock);
    observe(m, MLXD_HISTOGRAM_GAP, (double)ns / 1e9);
    mlxd_mutex_unlock(&m->lock);
}

void mlxd_metrics_add_end(mlxd_metrics *m, const mlxd_request *r, mlxd_err err) {
    const mlxd_timings *t = &r->timings;
    mlxd_mutex_lock(&m->lock);
    m->ended[err]++;
    observe_ns(m, MLXD_HISTOGRAM_QUEUE, t->submitted_ns, t->admitted_ns);
    observe_ns(m, MLXD_HISTOGRAM_FIRST, t->submitted_ns, t->first_ns);
    observe_ns(m, MLXD_HISTOGRAM_PREFILL, t->admitted_ns, t->first_ns);
    if (!err) {
        m->finished[mlxd_generation_finish(r->generation)]++;
        observe_ns(m, MLXD_HISTOGRAM_DECODE, t->first_ns, t->ended_ns);
        observe(m, MLXD_HISTOGRAM_PROMPT, r->n_prompt);
        observe(m, MLXD_HISTOGRAM_OUTPUT, mlxd_generation_tokens(r->generation));
    }
    mlxd_mutex_unlock(&m->lock);
}

void mlxd_metrics_add_ignored(mlxd_metrics *m, uint32_t fields) {
    mlxd_mutex_lock(&m->lock);
    m->ignored += fields;
    mlxd_mutex_unlock(&m->lock);
}

void mlxd_metrics_sample(mlxd_metrics *m, uint64_t now_ns, uint64_t busy_ns) {
    mlxd_mutex_lock(&m->lock);
    m->samples[m->n_samples++ % MLXD_METRICS_SAMPLES] =
        (struct mlxd_metrics_sample){now_ns, busy_ns};
    mlxd_mutex_unlock(&m->lock);
}
