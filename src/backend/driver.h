/* driver.h - the compute driver: one thread that runs jobs one after the other and owns the compute
 * pool they spread over. All local stages and the head of a process share it, so their work never
 * overlaps and never competes.
 */
#ifndef MLXD_BACKEND_DRIVER_H
#define MLXD_BACKEND_DRIVER_H

#include "base/thread.h"

typedef struct mlxd_driver mlxd_driver;

/* A job runs on the driver thread. `why` of a failure belongs in what it completes. */
typedef struct mlxd_job {
    void (*fn)(mlxd_pool *pool, void *a, void *b);
    void *a, *b;
} mlxd_job;

mlxd_err mlxd_driver_open(mlxd_driver **out, unsigned threads, mlxd_why *why) MLXD_MUST_CHECK;
/* Runs what is queued, then ends the thread. */
void mlxd_driver_close(mlxd_driver *d);
/* First in, first out. Any thread. Waits only when thousands of jobs are queued. */
void mlxd_driver_post(mlxd_driver *d, mlxd_job job);
/* Posts the job and waits until it has run. Not from the driver thread. */
void mlxd_driver_run(mlxd_driver *d, mlxd_job job);
/* Waits until every job that was posted before has run. Not from the driver thread. */
void mlxd_driver_flush(mlxd_driver *d);
unsigned mlxd_driver_threads(const mlxd_driver *d);
/* See mlxd_pool_pin. Not from the driver thread. */
mlxd_err mlxd_driver_pin(mlxd_driver *d, mlxd_why *why) MLXD_MUST_CHECK;
/* Nanoseconds spent in jobs so far; jobs finished so far (the progress counter of beats). */
uint64_t mlxd_driver_busy_ns(const mlxd_driver *d);
uint64_t mlxd_driver_jobs(const mlxd_driver *d);

#endif
