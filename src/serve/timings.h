/* timings.h - where a request's time went, as JSON: the same object in `mlxd run --json` and, over
 * REST, in answers that ask for it.
 *
 *   "timings": {"queue_ms", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n",
 *               "predicted_ms", "predicted_per_second", "head_ms",
 *               "stages": [{"device", "layers": [first, last], "compute_ms", "hop_ms"}]}
 *
 * prompt: from admission to the first token; predicted: from the first to the last token. A stage's
 * hop_ms is what the engine waited for it beyond its own compute time: queues and wire.
 */
#ifndef MLXD_SERVE_TIMINGS_H
#define MLXD_SERVE_TIMINGS_H

#include "backend/stage.h"
#include "format/json.h"
#include "serve/request.h"

typedef struct mlxd_speed {
    double queue_ms, prompt_ms, predicted_ms;
    double prompt_per_second, predicted_per_second; /* tokens; 0 when nothing was timed */
} mlxd_speed;

/* Device and layers of one stage, for the report. */
typedef struct mlxd_stage_name {
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    uint32_t first, end;
} mlxd_stage_name;

mlxd_speed mlxd_timings_speed(const mlxd_request *r);
/* Writes the object's value. `stages` has r->timings.stages entries, or fewer (`n_stages`). */
void mlxd_timings_write(mlxd_jsonw *w, const mlxd_request *r, const mlxd_stage_name *stages,
                        uint32_t n_stages);

#endif
