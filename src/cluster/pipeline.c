/* pipeline.c - see pipeline.h. */
#include "cluster/pipeline.h"

mlxd_err mlxd_pipeline_check(const mlxd_pipeline *p, uint32_t layers, mlxd_why *why) {
    uint32_t next = 0;
    MLXD_ASSERT(p->n_stages <= MLXD_LIMIT_STAGES);
    for (uint32_t i = 0; i < p->n_stages; i++) {
        const mlxd_stage *s = p->stages[i];
        if (s->first != next || s->end <= s->first)
            return mlxd_fail(why, MLXD_ERR_STATE,
                             "stage %u (%s) holds layers [%u, %u), expected it to begin at %u", i,
                             s->device, s->first, s->end, next);
        next = s->end;
    }
    if (next != layers)
        return mlxd_fail(why, MLXD_ERR_STATE, "the stages end at layer %u, the model has %u", next,
                         layers);
    return MLXD_OK;
}
