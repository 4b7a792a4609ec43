/* worker.h - the worker's side of mlxd.StageService: loads the layers its coordinator assigns, runs
 * its steps, answers its beats.
 *
 * It has a model of its own, which must be the coordinator's, or none: then it fetches its layers
 * from the coordinator and keeps them in a directory (docs/internals/shards.md).
 *
 * One coordinator at a time: a new Work stream that says hello replaces the old one (its
 * coordinator may have been cut off without our noticing) unless its epoch is older. Without a
 * coordinator any epoch is taken: one whose clock was set back must not stay locked out. When the
 * stream ends, every session is dropped, but the layers stay loaded, so that a coordinator that
 * comes back can go on at once.
 *
 * Threads: callbacks on the gRPC poller decode and hand over; steps run on the compute driver;
 * loading and stateless forward passes on a background thread of the worker's own.
 */
#ifndef MLXD_CLUSTER_WORKER_H
#define MLXD_CLUSTER_WORKER_H

#include "cluster/forward.h"
#include "model/manifest.h"
#include "net/transport.h"

typedef struct mlxd_worker mlxd_worker;

typedef struct mlxd_worker_params {
    const mlxd_checkpoint *checkpoint; /* lent; NULL: it has no model file */
    const mlxd_config *config;         /* of it */
    const char *shards;                /* without one: the directory of what is fetched */
    uint64_t shards_bytes_max;         /* what it may hold, 0: as much as the disk does */
    const mlxd_kernels *kernels;
    mlxd_driver *driver;
    const char *device;
    const char *version;
    double speed; /* bytes of weights per second, measured */
} mlxd_worker_params;

mlxd_err mlxd_worker_open(mlxd_worker **out, const mlxd_worker_params *p,
                          mlxd_why *why) MLXD_MUST_CHECK;
/* The server with our methods must be closed before. */
void mlxd_worker_close(mlxd_worker *w);

/* Rows for the server's method table: Work and Beat. */
#define MLXD_WORKER_METHODS 2
void mlxd_worker_methods(mlxd_worker *w, mlxd_rpc_method out[MLXD_WORKER_METHODS]);

/* Stateless forward passes over the worker's layers. Lent. */
mlxd_forward *mlxd_worker_forward(mlxd_worker *w);

typedef enum mlxd_worker_state {
    MLXD_WORKER_WAITING, /* for a coordinator */
    MLXD_WORKER_LOADING,
    MLXD_WORKER_READY, /* layers loaded, coordinator connected */
} mlxd_worker_state;

typedef struct mlxd_worker_status {
    mlxd_worker_state state;
    char coordinator[MLXD_LIMIT_DEVICE_ID + 1]; /* "" when none is connected */
    uint32_t first, end;                        /* loaded layers; both 0: none */
    uint32_t positions;                         /* context of the loaded layers */
    uint64_t epoch;
    uint32_t assigned_first, assigned_end; /* what is being fetched or loaded */
    bool fetching;                         /* LOADING: not yet loading, but downloading */
    uint64_t load_done, load_total;        /* bytes, while loading */
    uint64_t received_bytes;               /* of model files, since start */
    uint32_t hidden, layers;               /* of the model; zeros: there is none yet */
    char model[128];                       /* its name */
    uint64_t coordinator_seen_ns;          /* last message or beat; monotonic; 0 = never */
    uint64_t stale_steps;                  /* refused: of an older epoch */
    mlxd_cpu_stats stats;                  /* zeros without layers */
} mlxd_worker_status;
/* Any thread. */
void mlxd_worker_get_status(mlxd_worker *w, mlxd_worker_status *out);

#endif
