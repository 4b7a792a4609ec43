/* engine.h - the coordinator's engine: an event-driven state machine that owns sessions, micro-
 * batches and the pipeline's order of work.
 *
 *             events in                                        actions out
 *   REQUEST, CANCEL (clients)          +--------+     embed(step)  stage(step, i)  head(step)
 *   EMBEDDED, STAGED, DRAWN (seams) -->| engine |-->  drop(session)
 *   PIPELINE (membership)              +--------+     token(request)  end(request)
 *
 * It has one thread, the caller of mlxd_engine_handle. It never blocks, computes, reads a clock or
 * opens a socket: time comes with the event, work goes out through `ops`, and the same
 * events in the same order give the same actions, so a recorded trace can be replayed and a
 * simulator can drive it. engine_loop.h puts it on a thread with a queue.
 *
 * A session's life: queued until its KV pages can be reserved (prompt + max_tokens, so that it can
 * never run out on the way) and a slot is free; then its prompt goes out in chunks, several of
 * which may be in flight in different stages; then one token per step until it finishes. A step
 * carries rows of many sessions. With S stages up to S steps are in flight, and ready sessions are
 * dealt evenly over the steps that may still be formed, so that no stage waits while there is work.
 *
 * When its request says so (mlxd_request.keep) a session that has ended keeps slot, pages and KV
 * for a request that continues it. Such a session is only a cache: it goes as soon as a request
 * that waits needs its place.
 *
 * A pipeline is a value with an epoch. When one is lost, every running session ends with PEER and
 * steps of the old epoch that come back later are dropped and counted.
 */
#ifndef MLXD_SERVE_ENGINE_H
#define MLXD_SERVE_ENGINE_H

#include "backend/stage.h"
#include "serve/request.h"

typedef struct mlxd_engine mlxd_engine;

typedef struct mlxd_engine_params {
    uint32_t width;         /* hidden size */
    uint32_t prefill_chunk; /* tokens of one prompt per step, at most */
    uint32_t step_tokens;   /* tokens of a step, at most; >= prefill_chunk */
    uint32_t sessions_max;  /* running at once */
    uint32_t queue_max;     /* requests that may wait; at least 1 */
} mlxd_engine_params;

/* Actions. Called from inside mlxd_engine_handle; none may block or call back into the engine. */
typedef struct mlxd_engine_ops {
    void (*embed)(void *ctx, mlxd_step *step);
    void (*stage)(void *ctx, mlxd_step *step, uint32_t index, bool last);
    void (*head)(void *ctx, mlxd_step *step);
    void (*drop)(void *ctx, uint32_t index, uint64_t session);
    void (*token)(void *ctx, mlxd_request *r);
    void (*end)(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why);
    void *ctx;
} mlxd_engine_ops;

typedef enum mlxd_event_type {
    MLXD_EVENT_REQUEST,  /* request */
    MLXD_EVENT_CANCEL,   /* id */
    MLXD_EVENT_EMBEDDED, /* step */
    MLXD_EVENT_STAGED,   /* step, index, err */
    MLXD_EVENT_DRAWN,    /* step, err */
    MLXD_EVENT_PIPELINE, /* stages (0 = none), epoch, context, kv_pages, why (of the loss) */
    MLXD_EVENT_STOP,     /* cancel everything; no more requests are taken */
    MLXD_EVENT_TYPES
} mlxd_event_type;

typedef struct mlxd_event {
    mlxd_event_type type;
    uint64_t time_ns; /* when it happened, monotonic */
    mlxd_request *request;
    uint64_t id;
    mlxd_step *step;
    uint32_t index;    /* stage */
    uint32_t stages;   /* of the new pipeline */
    uint32_t context;  /* positions of one session in the new pipeline */
    uint32_t kv_pages; /* page pool of its stages */
    uint64_t epoch;
    mlxd_err err;
    mlxd_why why;
} mlxd_event;

typedef struct mlxd_engine_stats {
    uint64_t requests, succeeded, failed, cancelled, rejected;
    uint64_t prompt_tokens, generated_tokens;
    uint64_t steps, step_rows, step_tokens; /* formed */
    uint64_t stale_steps;                   /* came back from an old epoch */
    uint64_t duration_ns;                   /* of succeeded requests, submit to end, summed */
    uint32_t running, waiting, in_flight;
    uint32_t kv_pages_reserved, kv_pages_max;
    uint32_t stages, context;
    uint64_t epoch;
    struct {
        uint64_t steps, compute_ns, total_ns;
    } stage[MLXD_LIMIT_STAGES];
    uint64_t head_ns;
} mlxd_engine_stats;

mlxd_err mlxd_engine_open(mlxd_engine **out, const mlxd_engine_params *p,
                          const mlxd_engine_ops *ops, mlxd_why *why) MLXD_MUST_CHECK;
/* No request may be alive and no step in flight (see MLXD_EVENT_STOP and mlxd_engine_idle). */
void mlxd_engine_close(mlxd_engine *e);
/* Handles one event and performs its actions. */
void mlxd_engine_handle(mlxd_engine *e, const mlxd_event *event);
/* Nothing runs, waits or is in flight. */
bool mlxd_engine_idle(const mlxd_engine *e);
/* Has this step been given out and not come back? */
bool mlxd_engine_in_flight(const mlxd_engine *e, const mlxd_step *step);
const mlxd_engine_stats *mlxd_engine_get_stats(const mlxd_engine *e);

#endif
