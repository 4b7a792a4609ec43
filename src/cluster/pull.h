/* pull.h - the worker's side of shards: fetches ranges of the coordinator's model files over a Work
 * stream into a replica.
 *
 * A few fetches are on their way at a time (MLXD_WIRE_FETCH_WINDOW), so that the network does not
 * wait for the disks. A chunk counts when it was asked for, has the length that was asked for, and
 * fits its digest; anything else ends the pull with an error. Every second, and when a pull ends,
 * however it does, what came is put on disk and listed: the next one goes on there.
 *
 * Threads: run is called by one (it blocks); take by the poller; end by any.
 */
#ifndef MLXD_CLUSTER_PULL_H
#define MLXD_CLUSTER_PULL_H

#include "cluster/wire.h"
#include "net/transport.h"

typedef struct mlxd_pull mlxd_pull;

typedef struct mlxd_pull_params {
    /* Sends an encoded message to the coordinator. On the thread of run. */
    mlxd_err (*send)(void *ctx, mlxd_slice message);
    /* Bytes of this run that have come, and of all of it. On the thread of run. */
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
    uint64_t silence_ns; /* without a chunk: TIMEOUT; 0 = two minutes */
} mlxd_pull_params;

mlxd_err mlxd_pull_open(mlxd_pull **out, const mlxd_pull_params *p, mlxd_why *why) MLXD_MUST_CHECK;
/* Nobody may be inside. NULL is fine. */
void mlxd_pull_close(mlxd_pull *p);

/* Fetches what `r` lacks of `wanted`. *received (if not NULL) is the number of bytes, also after an
 * error. PROTO, CORRUPT: what came is not what was asked for; CANCELLED: ended; TIMEOUT; IO. */
mlxd_err mlxd_pull_run(mlxd_pull *p, mlxd_replica *r, const mlxd_span *wanted, size_t n,
                       _Atomic uint64_t *received, mlxd_why *why) MLXD_MUST_CHECK;
/* A chunk has come: takes `msg`, whose payload is `data`, unless the answer is PROTO (nothing was
 * asked for). */
mlxd_err mlxd_pull_take(mlxd_pull *p, mlxd_rpc_msg *msg, const Mlxd__Chunk *chunk, mlxd_slice data,
                        mlxd_why *why) MLXD_MUST_CHECK;
/* Nothing will come any more: a run ends with CANCELLED, now and later. */
void mlxd_pull_end(mlxd_pull *p);

#endif
