/* cpu.h - a stage of this process: layers, their KV cache, and the compute driver they run on. */
#ifndef MLXD_BACKEND_CPU_H
#define MLXD_BACKEND_CPU_H

#include "backend/driver.h"
#include "backend/stage.h"

typedef struct mlxd_cpu mlxd_cpu;

typedef struct mlxd_cpu_params {
    mlxd_driver *driver; /* must outlive the stage */
    mlxd_layers_params layers;
    uint32_t kv_pages; /* size of the page pool */
    const char *device;
} mlxd_cpu_params;

/* Loads the layers (blocks; not on the driver thread). `done` of the stage is to be set before the
 * first submit. */
mlxd_err mlxd_cpu_open(mlxd_cpu **out, const mlxd_cpu_params *p, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_cpu_close(mlxd_cpu *c);
mlxd_stage *mlxd_cpu_stage(mlxd_cpu *c);
const mlxd_layers *mlxd_cpu_layers(const mlxd_cpu *c);
/* Hidden size. */
uint32_t mlxd_cpu_width(const mlxd_cpu *c);

/* Drops that wait behind steps: a caller that passes them on from others bounds them. */
uint32_t mlxd_cpu_drops_waiting(const mlxd_cpu *c);
/* Frees all sessions (a new coordinator, a lost stream). Asynchronous, in order with steps. */
void mlxd_cpu_drop_all(mlxd_cpu *c);

/* Runs layers [first, end), inside the range, statelessly over `n` positions of a sequence that
 * begins with them: hidden [n][width] in and out. Blocks until it is done; any thread but the
 * driver's. FULL when the page pool has no room for it now. */
mlxd_err mlxd_cpu_forward(mlxd_cpu *c, uint32_t first, uint32_t end, float *hidden, uint32_t n,
                          mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_cpu_stats {
    uint32_t sessions, kv_pages_used, kv_pages_max;
    uint64_t steps, tokens; /* computed since open */
    uint64_t compute_ns;
    uint64_t memory_bytes; /* weights, working memory, KV pool */
} mlxd_cpu_stats;
/* Any thread; the numbers are those after the last finished job. */
void mlxd_cpu_stats_get(const mlxd_cpu *c, mlxd_cpu_stats *out);

#endif
