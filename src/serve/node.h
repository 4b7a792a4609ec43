/* node.h - what a node knows about itself and its cluster, as one snapshot: the source of /health,
 * /device-info, /cluster-status, /distributed-stats and /metrics, on coordinator and worker alike.
 * Filled by `serve` and `worker`; read by the API.
 */
#ifndef MLXD_SERVE_NODE_H
#define MLXD_SERVE_NODE_H

#include "base/limits.h"
#include "serve/engine.h"

typedef enum mlxd_device_status {
    MLXD_DEVICE_OFFLINE,    /* not reachable, or lost */
    MLXD_DEVICE_CONNECTING, /* never reached since start */
    MLXD_DEVICE_LOADING,    /* loads its layers */
    MLXD_DEVICE_ONLINE,
} mlxd_device_status;

/* "offline", "connecting", "loading", "online" */
const char *mlxd_device_status_name(mlxd_device_status s);

/* "downloading layers 10..18: 1.2 of 3.4 GB" */
void mlxd_node_say_fetching(mlxd_why *out, uint32_t first, uint32_t end, uint64_t done,
                            uint64_t total);

/* One device of the cluster as this node sees it. */
typedef struct mlxd_device_view {
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char hostname[256]; /* as configured, without port */
    uint16_t port;      /* gRPC */
    bool coordinator;
    uint32_t first, end; /* layers [first, end); both 0: none */
    mlxd_device_status status;
    mlxd_why why;          /* of not being online; may be empty */
    uint64_t last_seen_ns; /* monotonic clock; 0 = never */
    uint64_t rtt_ns;       /* last beat's round trip; 0 for this node */
    uint32_t sessions, kv_pages_used, kv_pages_max;
    uint64_t steps, compute_ns;
    uint64_t memory_bytes; /* weights, working memory, KV pool */
    uint64_t rss_bytes;
    double load_done;     /* 0..1 while LOADING */
    uint64_t shard_bytes; /* of model files that were fetched: sent to it, or received here */
    uint64_t reconnects;
} mlxd_device_view;

typedef struct mlxd_node_view {
    char device[MLXD_LIMIT_DEVICE_ID + 1]; /* this node */
    char hostname[256];
    uint16_t rest_port;
    bool coordinator;
    char model[256];  /* name in the API */
    uint32_t layers;  /* of the model */
    uint32_t context; /* positions of one request; 0 on a worker without layers */
    char isa[16];
    unsigned threads;
    bool ready;          /* requests (a worker: steps) can be served now */
    bool degraded;       /* something that should be there is not */
    mlxd_why why;        /* of not being ready, or of being degraded */
    uint64_t started_ns; /* monotonic */
    uint32_t n_devices;  /* this node first */
    mlxd_device_view devices[MLXD_LIMIT_NODES];
    mlxd_engine_stats engine; /* zeros on a worker */
} mlxd_node_view;

/* Fills *out; any thread, must not block. The struct is large: keep it off small stacks. */
typedef void mlxd_node_view_fn(void *ctx, mlxd_node_view *out);

#endif
