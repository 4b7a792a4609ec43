/* worker_internal.h - what worker.c (streams, steps, beats) and worker_load.c (models and layers)
 * share. See worker.h.
 *
 * What may touch a Work stream: the poller thread (its callbacks), the background thread (loading)
 * and the driver thread (answers to steps). Its handle is freed only after all three are through
 * with it: on_close posts a job to the background thread (when it ever had to load for it), which
 * posts one to the driver, which closes it.
 *
 * Only the active link loads and computes. `ready` is set by the background thread for the link for
 * which it has loaded, and taken back by the poller; layers, and the model, are replaced while no
 * link is ready.
 */
#ifndef MLXD_CLUSTER_WORKER_INTERNAL_H
#define MLXD_CLUSTER_WORKER_INTERNAL_H

#include "cluster/pull.h"
#include "cluster/worker.h"

#include <stdatomic.h>

#define MLXD_WORKER_FLIGHTS 64 /* steps that may wait here */

/* One Work stream. */
typedef struct mlxd_worker_link {
    mlxd_worker *worker;
    mlxd_rpc_stream *stream;
    _Atomic bool closed;
    bool greeted, asked;  /* said hello, asked for layers; poller thread */
    _Atomic bool refused; /* its end is on the way: what still comes is ignored */
    _Atomic bool loading, ready;
    uint64_t epoch;
    char coordinator[MLXD_LIMIT_DEVICE_ID + 1];
    /* of a worker without a model, from hello on; NULL and zeros otherwise */
    mlxd_pull *pull;
    mlxd_replica_spec spec;
    uint8_t meta[MLXD_SHA256_BYTES];
} mlxd_worker_link;

/* A step that is computed here. */
typedef struct mlxd_worker_flight {
    mlxd_step *step;
    mlxd_worker_link *link;
    bool used;
} mlxd_worker_flight;

struct mlxd_worker {
    mlxd_worker_params p;
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char version[64];
    char shards[1024];               /* directory of replicas; "": it has a model of its own */
    uint8_t meta[MLXD_SHA256_BYTES]; /* of its own model */
    mlxd_driver *background;
    mlxd_forward *forward;
    mlxd_mutex lock;
    /* under lock; replaced by the background thread while no link is ready */
    const mlxd_checkpoint *checkpoint; /* NULL: there is no model yet */
    mlxd_config config;
    mlxd_cpu *cpu;
    uint32_t positions, tokens_max, kv_pages; /* of cpu */
    /* under lock */
    mlxd_worker_link *active;
    char coordinator[MLXD_LIMIT_DEVICE_ID + 1];
    uint64_t epoch;
    uint32_t first, end; /* layers that are being fetched or loaded */
    mlxd_worker_flight flights[MLXD_WORKER_FLIGHTS];
    /* background thread */
    mlxd_replica *replica;
    mlxd_checkpoint *fetched; /* of the replica: what `checkpoint` is then */
    uint64_t said_ns;         /* when progress was logged last */
    _Atomic unsigned loads;   /* queued or running */
    _Atomic bool fetching;
    _Atomic uint64_t seen_ns, stale, load_done, load_total, progress_ns, received;
};

/* Sends a message; a stream that does not take it is cut. */
void mlxd_worker_reply(mlxd_worker_link *l, const Mlxd__WorkReply *m);
/* Ends the stream with an error that the coordinator shows to its operator. */
void mlxd_worker_refuse(mlxd_worker_link *l, mlxd_err err, const mlxd_why *why);
/* A step has been computed: `done` of the stage, with the worker as its ctx. */
void mlxd_worker_step_done(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                           const mlxd_why *why);

/* What a pull tells of itself: its ctx is the link. */
void mlxd_worker_fetched(void *ctx, uint64_t done, uint64_t total);

/* A load has come; poller thread. */
void mlxd_worker_on_load(mlxd_worker_link *l, const Mlxd__Load *m);
/* Closes layers and what was fetched; nothing else runs. */
void mlxd_worker_drop_model(mlxd_worker *w);

#endif
