/* roof.h - the two limits of this machine under which every speed stays: how many bytes its threads
 * read from memory in a second, and how many operations on bytes they do.
 *
 * Decoding one sequence reads all weights for each token, so it cannot be faster than the first; a
 * long prompt multiplies every weight once per token, so it cannot be faster than the second. Both
 * are measured with the probes of the kernel table in use (see kernel/probe.h), on all threads of
 * the pool, as the best of several passes: a limit is what the machine does when nothing disturbs
 * it.
 */
#ifndef MLXD_MODEL_ROOF_H
#define MLXD_MODEL_ROOF_H

#include "base/thread.h"
#include "kernel/kernel.h"

/* Bytes per second over a region of 1 GiB, which is larger than the last cache of nearly all
 * processors, or a quarter of the available memory if that is less. The region is mapped for the
 * call. Takes about half a second. 0 when there is no memory. */
double mlxd_roof_read(const mlxd_kernels *k, mlxd_pool *pool);

/* Operations per second; a multiplication and an addition are two. Takes about 30 ms. */
double mlxd_roof_int8(const mlxd_kernels *k, mlxd_pool *pool);

#endif
