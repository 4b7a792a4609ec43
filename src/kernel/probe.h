/* probe.h - what the machine can do at most with the instructions of a table: reading memory and
 * multiplying bytes. Nothing is inferred with these; a benchmark puts its numbers beside them.
 *
 * A variant uses the widest loads and the best byte multiplication that the other kernels of its
 * table use. The multiplication runs on registers alone, on enough independent sums to cover its
 * latency, so that no kernel can pass it. Each multiplication and each addition of two products or
 * sums counts as one operation: a dot product of n pairs is 2n.
 */
#ifndef MLXD_KERNEL_PROBE_H
#define MLXD_KERNEL_PROBE_H

#include "base/base.h"

typedef struct mlxd_probe_kernels {
    /* Exclusive or of the 64-bit words of `bytes` bytes, a multiple of 512, at a 64-byte aligned
     * address. All of them are read, in ascending order; every variant returns the same. */
    uint64_t (*read)(const void *p, size_t bytes);
    /* Multiplies `rounds` times a fixed number of bytes; returns the operations done. */
    uint64_t (*int8)(uint64_t rounds);
} mlxd_probe_kernels;

#endif
