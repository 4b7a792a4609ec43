/* metrics.h - what /metrics says: Prometheus text format 0.0.4.
 *
 * Counters and histograms that only the API can see are kept here; the rest is read from the node's
 * snapshot when it is scraped. Units are base units, except in the specification's three gauges
 * mlx_gpu_utilization, mlx_memory_usage_mb and mlx_inference_latency_ms, which keep their names and
 * say in HELP what they hold. A number that is not known has no sample; none is invented.
 *
 * mlx_gpu_utilization: there is no GPU here. It is the share of the last 15 s in which the compute
 * pool had work, sampled once a second by mlxd_metrics_sample, so that it does not depend on who
 * scrapes how often.
 *
 * Thread: any; a lock is inside.
 */
#ifndef MLXD_SERVE_METRICS_H
#define MLXD_SERVE_METRICS_H

#include "net/http.h"
#include "serve/node.h"

typedef struct mlxd_metrics mlxd_metrics;

/* `routes`: the label values of mlx_requests_total, lent until close. NULL: no memory. */
mlxd_metrics *mlxd_metrics_open(const mlxd_http_route *routes, size_t n_routes) MLXD_MUST_CHECK;
void mlxd_metrics_close(mlxd_metrics *m);

/* A request was answered, or its client left (counted with code 499). */
void mlxd_metrics_add_http(mlxd_metrics *m, const mlxd_http_done *done);
/* Time between two tokens of one answer. */
void mlxd_metrics_add_gap(mlxd_metrics *m, uint64_t ns);
/* A completion has ended. */
void mlxd_metrics_add_end(mlxd_metrics *m, const mlxd_request *r, mlxd_err err);
/* So many unknown request fields were ignored. */
void mlxd_metrics_add_ignored(mlxd_metrics *m, uint32_t fields);
/* Computed so far by this process, at monotonic time `now_ns`; once a second. */
void mlxd_metrics_sample(mlxd_metrics *m, uint64_t now_ns, uint64_t busy_ns);

/* What is read at the time of a scrape. */
typedef struct mlxd_metrics_scrape {
    const mlxd_node_view *view;
    mlxd_http_stats http;
    uint64_t now_ns, wall_ns; /* monotonic, since 1970 */
    uint64_t busy_ns;
    uint64_t wrong_keys;
    size_t work_waiting, work_max; /* POSTs that wait to be parsed */
    const char *version, *commit;
} mlxd_metrics_scrape;

/* Appends the whole text. */
void mlxd_metrics_write(mlxd_metrics *m, const mlxd_metrics_scrape *s, mlxd_buf *out);

#endif
