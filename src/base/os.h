/* os.h - what differs between Linux and macOS, and nothing else. Implemented by os_linux.c and
 * os_darwin.c; no other file asks which system it is on.
 */
#ifndef MLXD_BASE_OS_H
#define MLXD_BASE_OS_H

#include "base/base.h"

#include <pthread.h>

/* Physical memory and what a new process could take of it, in bytes. On Linux a cgroup limit that
 * is lower than the machine's memory counts as the machine's memory. */
uint64_t mlxd_os_memory_total(void);
uint64_t mlxd_os_memory_available(void);
/* Resident set size of this process, now and at its peak, bytes; 0 when unknown. */
uint64_t mlxd_os_rss(void);
uint64_t mlxd_os_rss_peak(void);
/* CPU seconds (user + system) this process has used. */
double mlxd_os_cpu_seconds(void);
/* Processor time of the calling thread, nanoseconds. */
uint64_t mlxd_os_thread_cpu_ns(void);
/* Processors this process may run on (affinity counted, a cgroup quota not); at least 1. */
unsigned mlxd_os_cpus(void);
/* CPU quota of the cgroup in processors (1.5 = one and a half); 0 = none. */
double mlxd_os_cpu_quota(void);

/* What the CPU can do, as far as kernels ask. */
typedef enum mlxd_cpu_flag {
    MLXD_CPU_AVX2 = 1u << 0,    /* AVX2 + FMA + F16C, and the OS saves the registers */
    MLXD_CPU_NEON = 1u << 1,    /* aarch64 baseline */
    MLXD_CPU_AVXVNNI = 1u << 2, /* vpdpbusd on 256 bits, VEX-coded */
    MLXD_CPU_AVX512 = 1u << 3,  /* AVX-512 F, BW, DQ, VL and VNNI */
    MLXD_CPU_AMX = 1u << 4,     /* AMX tiles and int8, and the OS has let this process use them */
    MLXD_CPU_DOTPROD = 1u << 5, /* sdot */
    MLXD_CPU_I8MM = 1u << 6,    /* smmla, usdot */
} mlxd_cpu_flag;
unsigned mlxd_os_cpu_flags(void);
/* "Intel(R) Xeon(R) Processor"; "unknown" when the system does not say. `size` >= 1. */
void mlxd_os_cpu_name(char *out, size_t size);

/* Denormals kept, round to nearest even: sets the floating-point control register of the calling
 * thread to what canonical arithmetic needs. mlxd_os_fpu_ok() says whether it still is. */
void mlxd_os_fpu_init(void);
bool mlxd_os_fpu_ok(void);

/* Class of a thread: compute yields to I/O and heartbeats. */
typedef enum mlxd_os_priority { MLXD_PRIORITY_NORMAL, MLXD_PRIORITY_COMPUTE } mlxd_os_priority;
/* Applies to the calling thread; failure is harmless and ignored by contract. */
void mlxd_os_thread_class(const char *name, mlxd_os_priority priority);

/* Keeps a thread on the index-th processor that this process may use (index modulo their number).
 * UNSUPPORTED where the system has no such thing; IO when it refuses. */
mlxd_err mlxd_os_thread_pin(pthread_t thread, unsigned index) MLXD_MUST_CHECK;

/* Raises the soft limit of open files to the hard one; returns the limit. */
uint64_t mlxd_os_files_raise(void);

/* See mlxd_mem_map in mem.h. */
void *mlxd_os_map(size_t bytes);
void mlxd_os_unmap(void *p, size_t bytes);

/* Entropy for keys, ids and seeds; false when the system has none (treat as fatal). */
bool mlxd_os_random(void *out, size_t len) MLXD_MUST_CHECK;

#endif
