/* stage.h - the seam between what decides and what computes: a loaded, contiguous layer range on
 * some device. The scheduler cannot tell whether it is this process (cpu.h) or a worker (cluster/
 * remote_stage.h).
 *
 * Work travels as steps. A step belongs to the stage from submit until `done` is called with it,
 * once, on any thread; the stage replaces its hidden states by the result. Steps of a stage are
 * computed in the order of submission, so a chunk of a prompt may be submitted while the one before
 * it is still in flight.
 */
#ifndef MLXD_BACKEND_STAGE_H
#define MLXD_BACKEND_STAGE_H

#include "model/generation.h"
#include "model/layers.h"

/* One micro-batch on its way through the pipeline. Made by the engine, reused. */
typedef struct mlxd_step {
    uint64_t id;    /* unique in this process */
    uint64_t epoch; /* of the pipeline it was made for */
    /* Rows still to be computed. A stage removes rows of sessions that were dropped meanwhile,
     * together with their tokens and hidden states. */
    mlxd_row *rows;
    mlxd_generation **generations; /* of each row; NULL when nothing is drawn for it */
    uint32_t n_rows, rows_max;
    int32_t *tokens; /* of all rows, one after the other */
    uint32_t n_tokens, tokens_max;
    float *hidden;     /* [n_hidden][hidden size], room for tokens_max */
    uint32_t n_hidden; /* n_tokens between stages; the wanted ones after the last stage */
    uint32_t width;    /* hidden size */
    /* filled by the head, per row */
    int32_t *drawn;
    mlxd_finish *finish;
    uint64_t compute_ns; /* of the last stage or head that ran: time it computed */
} mlxd_step;

/* Memory for steps of up to `rows_max` rows and `tokens_max` tokens; NULL: none. */
mlxd_step *mlxd_step_open(uint32_t rows_max, uint32_t tokens_max, uint32_t width) MLXD_MUST_CHECK;
void mlxd_step_close(mlxd_step *s);
/* Empties it for the next micro-batch. */
void mlxd_step_clear(mlxd_step *s);
/* Adds a row (its tokens are copied); false when it does not fit. */
bool mlxd_step_add(mlxd_step *s, const mlxd_row *row, mlxd_generation *g) MLXD_MUST_CHECK;
/* Removes the rows whose session `gone` says is dropped. hidden has n_tokens rows then. */
void mlxd_step_remove(mlxd_step *s, bool (*gone)(void *ctx, uint64_t session), void *ctx);
/* Keeps only the wanted hidden states: the last n_out of each row. */
void mlxd_step_compact(mlxd_step *s);

typedef struct mlxd_stage mlxd_stage;

/* A step has come back. err OK: computed. CANCELLED: every row's session was dropped. PEER: the
 * device is gone. Others: the step failed, the text says why. */
typedef void mlxd_stage_done(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                             const mlxd_why *why);

typedef struct mlxd_stage_ops {
    /* Takes the step. `last`: only the wanted hidden states come back. Never blocks. */
    void (*submit)(mlxd_stage *s, mlxd_step *step, bool last);
    /* Frees the session's KV and forgets it; its id is never used again. Rows of it that are
     * already on their way are left out. Never blocks. */
    void (*drop)(mlxd_stage *s, uint64_t session);
    /* No step may be in flight. */
    void (*close)(mlxd_stage *s);
} mlxd_stage_ops;

struct mlxd_stage {
    const mlxd_stage_ops *ops;
    uint32_t first, end; /* layers [first, end) */
    uint32_t index;      /* place in the pipeline; set with `done` by who owns the pipeline */
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    mlxd_stage_done *done;
    void *done_ctx;
};

#endif
