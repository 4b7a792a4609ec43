/* pipeline.h - an ordered list of stages that covers every layer exactly once, with an epoch.
 *
 * It is a value: nothing in it changes. Losing a stage, getting it back or planning anew makes a
 * new pipeline with a higher epoch; late answers of an old epoch are recognised by it.
 */
#ifndef MLXD_CLUSTER_PIPELINE_H
#define MLXD_CLUSTER_PIPELINE_H

#include "backend/stage.h"

typedef struct mlxd_pipeline {
    uint64_t epoch;
    uint32_t n_stages;                     /* 0: nothing can be computed now, `why` says why */
    uint32_t context;                      /* positions of one session */
    uint32_t kv_pages;                     /* page pool of every stage */
    mlxd_stage *stages[MLXD_LIMIT_STAGES]; /* lent */
    mlxd_why why;
} mlxd_pipeline;

/* STATE unless the stages cover layers [0, layers) in order, without gap or overlap. */
mlxd_err mlxd_pipeline_check(const mlxd_pipeline *p, uint32_t layers,
                             mlxd_why *why) MLXD_MUST_CHECK;

#endif
