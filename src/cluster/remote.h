/* remote.h - the coordinator's link to one worker: the stage behind it, and the beat beside it.
 *
 * A link is used once: it connects, says hello, loads, is ready, and at some point is lost. What
 * happens is told to the owner (members.c) as notes; the owner decides what follows and, to try
 * again, closes the link and opens a new one.
 *
 *   open -> HELLO (facts) -> load() -> PROGRESS* -> LOADED -> steps ... -> LOST
 *
 * Between load and LOADED a worker without a model file may fetch pieces of ours, which the source
 * sends.
 *
 * HELLO, LOADED, LOST come at most once, in this order, whatever the worker sends: what comes out
 * of turn ends the link. A note names its link by a number, because notes of a link may still be
 * queued when it is closed and another one has got its memory.
 *
 * Threads: notes come on the gRPC poller thread and must only be queued. Steps are submitted by the
 * engine thread and completed on the poller. open, load and close are the owner's.
 */
#ifndef MLXD_CLUSTER_REMOTE_H
#define MLXD_CLUSTER_REMOTE_H

#include "backend/stage.h"
#include "cluster/source.h"
#include "model/manifest.h"
#include "net/transport.h"

typedef struct mlxd_remote mlxd_remote;

typedef enum mlxd_remote_event {
    MLXD_REMOTE_HELLO,    /* facts are known */
    MLXD_REMOTE_PROGRESS, /* done and total bytes of downloading or loading */
    MLXD_REMOTE_LOADED,   /* layers loaded and compared: steps may be submitted */
    MLXD_REMOTE_LOST,     /* the link is dead; every step in flight has failed with PEER */
} mlxd_remote_event;

/* What a worker says of itself. */
typedef struct mlxd_remote_facts {
    uint64_t memory_total, memory_available; /* bytes */
    double speed;                            /* bytes of weights per second */
    uint32_t threads;
    uint32_t first, end; /* layers it has loaded already */
    bool takes_shards;   /* it has no model file */
    char isa[16], version[32];
} mlxd_remote_facts;

typedef struct mlxd_remote_note {
    uint64_t link; /* of the params */
    mlxd_remote_event event;
    mlxd_remote_facts facts;
    uint64_t done, total;
    bool fetching;         /* PROGRESS: of downloading */
    uint64_t memory_bytes; /* LOADED */
    mlxd_err err;          /* LOST: PEER when it may come back, STATE when it refuses us */
    mlxd_why why;
} mlxd_remote_note;

typedef struct mlxd_remote_params {
    mlxd_rpc_runtime *rpc;
    const mlxd_rpc_creds *creds;
    const char *device;  /* of the worker; bound by its certificate */
    const char *address; /* host:port */
    const char *self;    /* our device */
    const char *version;
    const mlxd_config *config;
    const mlxd_manifest *manifest;
    mlxd_source *source; /* NULL: the model is not given out */
    uint64_t epoch;
    uint64_t link; /* name of this link in its notes; not 0 */
    void (*note)(void *ctx, const mlxd_remote_note *note);
    void *note_ctx;
} mlxd_remote_params;

mlxd_err mlxd_remote_open(mlxd_remote **out, const mlxd_remote_params *p,
                          mlxd_why *why) MLXD_MUST_CHECK;
/* BLOCKS until no callback of it runs. No pipeline may hold its stage. Not on the poller. */
void mlxd_remote_close(mlxd_remote *r);

/* After HELLO: asks for layers [first, end). */
mlxd_err mlxd_remote_load(mlxd_remote *r, uint32_t first, uint32_t end, uint32_t positions,
                          uint32_t tokens_max, uint32_t kv_pages, mlxd_why *why) MLXD_MUST_CHECK;
/* After LOADED: the stage of this link. Lent. */
mlxd_stage *mlxd_remote_stage(mlxd_remote *r);
/* Bytes of model files that were sent to it. Any thread. */
uint64_t mlxd_remote_shard_bytes(const mlxd_remote *r);
/* Ends the link: LOST follows with this reason. Any thread. */
void mlxd_remote_fail(mlxd_remote *r, mlxd_err err, const char *reason);

/* Sends a beat; its answer updates the pulse. Owner's thread. */
void mlxd_remote_beat(mlxd_remote *r);
typedef struct mlxd_pulse {
    bool answered;    /* at least one beat was */
    uint64_t last_ns; /* when the last beat was answered; the time of connecting before that */
    uint64_t rtt_ns;
    uint64_t progress; /* jobs finished */
    uint32_t sessions, kv_pages_used;
    uint64_t steps, compute_ns, rss_bytes;
} mlxd_pulse;
/* Any thread. */
void mlxd_remote_pulse(mlxd_remote *r, mlxd_pulse *out);

#endif
