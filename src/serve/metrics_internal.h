/* metrics_internal.h - the numbers of metrics.h; shared by metrics.c (counts) and metrics_text.c
 * (writes).
 */
#ifndef MLXD_SERVE_METRICS_INTERNAL_H
#define MLXD_SERVE_METRICS_INTERNAL_H

#include "serve/metrics.h"

#include "base/thread.h"

#define MLXD_METRICS_ROUTES 24
#define MLXD_METRICS_CODES 18   /* HTTP codes with a column of their own */
#define MLXD_METRICS_BUCKETS 16 /* finite ones of a histogram, at most */
#define MLXD_METRICS_SAMPLES 16 /* of the busy time, a second apart: 15 s */

enum mlxd_histogram_id {
    MLXD_HISTOGRAM_REQUEST,
    MLXD_HISTOGRAM_QUEUE,
    MLXD_HISTOGRAM_FIRST,
    MLXD_HISTOGRAM_GAP,
    MLXD_HISTOGRAM_PREFILL,
    MLXD_HISTOGRAM_DECODE,
    MLXD_HISTOGRAM_PROMPT,
    MLXD_HISTOGRAM_OUTPUT,
    MLXD_HISTOGRAMS
};

struct mlxd_histogram {
    const char *name, *help;
    const double *bounds;
    size_t n_bounds;
    uint64_t buckets[MLXD_METRICS_BUCKETS + 1]; /* not cumulative; the last is +Inf's own */
    uint64_t count;
    double sum;
};

struct mlxd_metrics_sample {
    uint64_t at_ns, busy_ns;
};

struct mlxd_metrics {
    const char *routes[MLXD_METRICS_ROUTES]; /* the last: "other" */
    size_t n_routes;
    mlxd_mutex lock; /* of what follows */
    uint64_t requests[MLXD_METRICS_ROUTES][MLXD_METRICS_CODES + 1];
    uint64_t ended[MLXD_ERR_COUNT];
    uint64_t finished[MLXD_FINISH_LENGTH + 1];
    uint64_t ignored;
    struct mlxd_histogram histograms[MLXD_HISTOGRAMS];
    struct mlxd_metrics_sample samples[MLXD_METRICS_SAMPLES];
    uint64_t n_samples; /* ever taken */
};

extern const unsigned mlxd_metrics_codes[MLXD_METRICS_CODES];

#endif
