/* source.h - the coordinator's side of shards: answers workers' fetches with pieces of the model's
 * files, on a thread of its own, so that a slow disk holds up neither beats nor steps.
 *
 * Any number of links may use it. Fetches are answered in the order in which they came; a worker
 * has at most MLXD_WIRE_FETCHES_MAX of them, waiting here or not yet sent, so that what is held for
 * it is bounded whatever its network does, and no worker can keep the others waiting.
 */
#ifndef MLXD_CLUSTER_SOURCE_H
#define MLXD_CLUSTER_SOURCE_H

#include "cluster/wire.h"
#include "net/transport.h"

#include <stdatomic.h>

typedef struct mlxd_source mlxd_source;

/* `c` is lent. Reads the heads of all files, and starts the thread. */
mlxd_err mlxd_source_open(mlxd_source **out, const mlxd_checkpoint *c, const mlxd_manifest *m,
                          mlxd_why *why) MLXD_MUST_CHECK;
/* Every link must have been dropped. NULL is fine. */
void mlxd_source_close(mlxd_source *s);
const mlxd_replica_spec *mlxd_source_spec(const mlxd_source *s);

/* Whom a chunk goes to. `failed` is called on the source's thread when a file cannot be read. */
typedef struct mlxd_source_link {
    mlxd_rpc_stream *stream;
    _Atomic uint64_t sent; /* payload bytes so far */
    void (*failed)(void *ctx, mlxd_err err, const mlxd_why *why);
    void *ctx;
} mlxd_source_link;

/* Checks and queues a fetch; never blocks. PROTO: it is not in the model's files, or too large;
 * FULL: more wait than a worker may have. */
mlxd_err mlxd_source_fetch(mlxd_source *s, mlxd_source_link *link, const Mlxd__Fetch *f,
                           mlxd_why *why) MLXD_MUST_CHECK;
/* Forgets the link's fetches. When it returns, the source does not use the link any more. Waits for
 * a chunk that is being read. */
void mlxd_source_drop(mlxd_source *s, mlxd_source_link *link);

#endif
