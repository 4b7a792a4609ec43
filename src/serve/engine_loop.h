/* engine_loop.h - the engine on its thread: a queue of events in front, the seams behind.
 *
 *   any thread --submit, cancel--> queue --> engine thread --> head, stages (compute driver, gRPC)
 *   driver, gRPC --step is back--> queue        |
 *                                               +--> sinks of requests (token, end)
 */
#ifndef MLXD_SERVE_ENGINE_LOOP_H
#define MLXD_SERVE_ENGINE_LOOP_H

#include "backend/head.h"
#include "base/clock.h"
#include "cluster/pipeline.h"
#include "serve/engine.h"

typedef struct mlxd_loop mlxd_loop;

typedef struct mlxd_loop_params {
    mlxd_engine_params engine;
    mlxd_head *head;         /* lent; its done callback is taken over */
    const mlxd_clock *clock; /* stamps events */
    const char *trace_path;  /* NULL: no trace. Written from the engine thread: for debugging */
} mlxd_loop_params;

/* Starts without a pipeline: requests are refused until set_pipeline. */
mlxd_err mlxd_loop_open(mlxd_loop **out, const mlxd_loop_params *p, mlxd_why *why) MLXD_MUST_CHECK;
/* Cancels what is alive, waits until every step is back, ends the thread. Stages must still work
 * (or fail) until then. */
void mlxd_loop_close(mlxd_loop *l);

/* Gives a request to the engine; its id is set before anything can happen to it. FULL: too many
 * events are queued; the request is still the caller's then. Any thread. */
mlxd_err mlxd_loop_submit(mlxd_loop *l, mlxd_request *r) MLXD_MUST_CHECK;
/* The client is gone. Harmless for ids that have ended. Any thread. */
void mlxd_loop_cancel(mlxd_loop *l, uint64_t id);
/* Takes no more requests and ends those that run or wait with CANCELLED; their ends come through
 * their sinks. Any thread. */
void mlxd_loop_stop(mlxd_loop *l, const char *reason);
/* Replaces the pipeline (copied; the epoch must grow). The `done` callback of its stages is set
 * here: a stage that had another place before must be idle. Blocks until the engine has let go of
 * the old one: after that no step of the old pipeline will be submitted. One call at a time, on any
 * thread but the engine's. */
void mlxd_loop_set_pipeline(mlxd_loop *l, const mlxd_pipeline *p);
/* Snapshot. Any thread. */
void mlxd_loop_stats(mlxd_loop *l, mlxd_engine_stats *out);
/* Is there a pipeline, so that requests are taken? */
bool mlxd_loop_ready(mlxd_loop *l);

#endif
