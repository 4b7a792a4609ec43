/* members.h - the coordinator's membership: it dials the configured workers, makes the plan, has
 * layers loaded here and there, and hands complete pipelines to whoever runs them.
 *
 *   every worker said hello -> plan (once) -> everybody loads -> all loaded: pipeline, epoch n
 *   a worker is lost -> empty pipeline, epoch n+1 -> it is dialled again -> loads -> epoch n+2
 *
 * One thread owns all of it; links and loaders only queue notes for it. The plan is kept while the
 * process lives: a worker that comes back gets the layers it had. A worker to which the plan gives
 * no layers is watched, but nothing waits for it and losing it changes nothing.
 */
#ifndef MLXD_CLUSTER_MEMBERS_H
#define MLXD_CLUSTER_MEMBERS_H

#include "cluster/forward.h"
#include "cluster/pipeline.h"
#include "cluster/plan.h"
#include "cluster/remote.h"

typedef struct mlxd_members mlxd_members;

typedef struct mlxd_members_worker {
    const char *device;
    const char *address; /* host:port */
} mlxd_members_worker;

typedef struct mlxd_members_params {
    const mlxd_checkpoint *checkpoint;
    const mlxd_config *config;
    const mlxd_kernels *kernels;
    mlxd_driver *driver;
    const mlxd_manifest *manifest;
    mlxd_rpc_runtime *rpc;       /* NULL without workers */
    const mlxd_rpc_creds *creds; /* NULL without workers */
    const char *device;          /* this one */
    const char *version;
    const mlxd_members_worker *workers;
    size_t n_workers;
    const mlxd_plan_range *ranges; /* prescribed layers; none: the plan decides */
    size_t n_ranges;
    double speed;        /* of this device, bytes of weights per second */
    uint32_t context;    /* of one request; 0: the model's, cut to what memory holds */
    uint32_t parallel;   /* requests of full context that the KV pool holds */
    uint32_t tokens_max; /* of a step */
    uint64_t worker_timeout_ms;
    const mlxd_progress *progress; /* of loading here; may be NULL */
    /* A new pipeline (n_stages 0: none). Must have taken effect when it returns. Members'
     * thread. */
    void (*pipeline)(void *ctx, const mlxd_pipeline *p);
    /* Nothing will ever work: bad plan, layers cannot be loaded here, an address that cannot be
     * dialled. Members' thread. */
    void (*failed)(void *ctx, mlxd_err err, const mlxd_why *why);
    void *ctx;
} mlxd_members_params;

mlxd_err mlxd_members_open(mlxd_members **out, const mlxd_members_params *p,
                           mlxd_why *why) MLXD_MUST_CHECK;
/* Hands out an empty pipeline, closes links and local layers. */
void mlxd_members_close(mlxd_members *m);

/* Stateless forward passes over the layers of this device. Lent. */
mlxd_forward *mlxd_members_forward(mlxd_members *m);

typedef enum mlxd_member_state {
    MLXD_MEMBER_CONNECTING, /* not reached since start */
    MLXD_MEMBER_WAITING,    /* reached; the plan needs others first */
    MLXD_MEMBER_LOADING,
    MLXD_MEMBER_READY,
    MLXD_MEMBER_LOST,
} mlxd_member_state;

typedef struct mlxd_member_view {
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char address[256];
    bool local;
    mlxd_member_state state;
    uint32_t first, end; /* layers; both 0: none (yet) */
    mlxd_why why;        /* of the last loss */
    mlxd_pulse pulse;    /* of a worker; zeros when never reached */
    mlxd_cpu_stats cpu;  /* of this device; zeros before it has loaded */
    mlxd_remote_facts facts;
    bool fetching; /* LOADING: not yet loading, but downloading */
    uint64_t load_done, load_total, memory_bytes;
    uint64_t shard_bytes; /* of model files that were sent to it */
    uint64_t reconnects;  /* times it was ready again after it had been lost */
} mlxd_member_view;

/* Members, this device first; at most MLXD_LIMIT_NODES. Any thread. Returns the number. */
size_t mlxd_members_view(mlxd_members *m, mlxd_member_view out[MLXD_LIMIT_NODES]);
/* The plan, once it is made. */
bool mlxd_members_plan(mlxd_members *m, mlxd_plan *out);

#endif
