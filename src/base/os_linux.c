/* os_linux.c - os.h for Linux. Facts come from /proc, /sys/fs/cgroup and system calls. */
#ifdef __linux__
#define _GNU_SOURCE
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

/* Reads a small text file into `out`; false when it is not there. */
static bool read_text(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    if (n < 0)
        return false;
    out[n] = 0;
    return true;
}

static uint64_t number_from(const char *path) {
    char text[64];
    if (!read_text(path, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

/* The number behind `key` in a small text file; 0 when there is none. */
static uint64_t number_after(const char *path, const char *key) {
    char text[4096];
    if (!read_text(path, text, sizeof text))
        return 0;
    const char *p = strstr(text, key);
    return p ? strtoull(p + strlen(key), NULL, 10) : 0;
}

/* "Key:   123 kB" in a /proc file, in bytes; 0 when absent. */
static uint64_t proc_kib(const char *path, const char *key) {
    return number_after(path, key) * 1024;
}

/* ---- cgroups: version 2 has one tree, version 1 one per controller ---- */

/* Path of this process in the tree of `controller` ("" = version 2), from /proc/self/cgroup. */
static bool cgroup_path(const char *controller, char *out, size_t size) {
    char text[4096];
    if (!read_text("/proc/self/cgroup", text, sizeof text))
        return false;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        bool found = false;
        char *rest = NULL;
        for (char *n = strtok_r(names + 1, ",", &rest); n; n = strtok_r(NULL, ",", &rest))
            found = found || strcmp(n, controller) == 0;
        if (found || (names[1] == 0 && !*controller)) {
            snprintf(out, size, "%s", path);
            return true;
        }
    }
    return false;
}

/* Calls `look` with the directory of this process's cgroup and of each of its parents. */
static void each_cgroup(const char *controller, void (*look)(const char *dir, void *ctx),
                        void *ctx) {
    char path[1024], dir[1200];
    if (!cgroup_path(controller, path, sizeof path))
        return;
    for (;;) {
        snprintf(dir, sizeof dir, "/sys/fs/cgroup%s%s%s", *controller ? "/" : "", controller, path);
        look(dir, ctx);
        char *slash = strrchr(path, '/');
        if (!slash || (slash == path && path[1] == 0))
            return;
        slash[slash == path] = 0; /* the root stays "/" */
    }
}

/* What the tightest memory limit leaves: the limit itself, and the room below it. */
struct memory_room {
    const char *limit, *usage; /* names of the files */
    uint64_t total, room;
};

static void look_at_memory(const char *dir, void *ctx) {
    struct memory_room *m = ctx;
    char file[1300];
    snprintf(file, sizeof file, "%s/%s", dir, m->limit);
    uint64_t limit = number_from(file);
    snprintf(file, sizeof file, "%s/%s", dir, m->usage);
    uint64_t usage = number_from(file);
    /* The page cache counts as used, but gives way. */
    snprintf(file, sizeof file, "%s/memory.stat", dir);
    uint64_t cache = number_after(file, "\ninactive_file ") + number_after(file, "\nactive_file ");
    usage -= usage != UINT64_MAX ? MLXD_MIN(cache, usage) : 0;
    m->total = MLXD_MIN(m->total, limit);
    if (limit != UINT64_MAX && usage != UINT64_MAX)
        m->room = MLXD_MIN(m->room, limit > usage ? limit - usage : 0);
}

static struct memory_room memory_room(void) {
    struct memory_room v2 = {"memory.max", "memory.current", UINT64_MAX, UINT64_MAX};
    struct memory_room v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", UINT64_MAX,
                             UINT64_MAX};
    each_cgroup("", look_at_memory, &v2);
    each_cgroup("memory", look_at_memory, &v1);
    v2.total = MLXD_MIN(v2.total, v1.total);
    v2.room = MLXD_MIN(v2.room, v1.room);
    return v2;
}

static void look_at_quota(const char *dir, void *ctx) {
    double *quota = ctx;
    char file[1300], text[64];
    long long used = 0, period = 0;
    snprintf(file, sizeof file, "%s/cpu.max", dir);
    if (!read_text(file, text, sizeof text) || sscanf(text, "%lld %lld", &used, &period) != 2) {
        snprintf(file, sizeof file, "%s/cpu.cfs_quota_us", dir);
        uint64_t us = number_from(file); /* "-1" is no number: no quota */
        snprintf(file, sizeof file, "%s/cpu.cfs_period_us", dir);
        uint64_t per = number_from(file);
        used = us == UINT64_MAX ? 0 : (long long)us;
        period = per == UINT64_MAX ? 0 : (long long)per;
    }
    if (used > 0 && period > 0 && (*quota <= 0 || (double)used / (double)period < *quota))
        *quota = (double)used / (double)period;
}

uint64_t mlxd_os_memory_total(void) {
    return MLXD_MIN(proc_kib("/proc/meminfo", "MemTotal:"), memory_room().total);
}

uint64_t mlxd_os_memory_available(void) {
    return MLXD_MIN(proc_kib("/proc/meminfo", "MemAvailable:"), memory_room().room);
}

uint64_t mlxd_os_rss(void) {
    return proc_kib("/proc/self/status", "VmRSS:");
}

uint64_t mlxd_os_rss_peak(void) {
    return proc_kib("/proc/self/status", "VmHWM:");
}

double mlxd_os_cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint64_t mlxd_os_thread_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Of the main thread: compute threads may have been pinned. */
unsigned mlxd_os_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(getpid(), sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? (unsigned)n : 1;
}

double mlxd_os_cpu_quota(void) {
    double quota = 0;
    each_cgroup("", look_at_quota, &quota);
    each_cgroup("cpu", look_at_quota, &quota);
    return quota;
}

#if defined(__x86_64__)
static uint64_t xgetbv0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* Tile registers are large: Linux saves them only for processes that asked. Threads that are
 * started later inherit the permission. */
static bool request_tiles(void) {
    const int request = 0x1023 /* ARCH_REQ_XCOMP_PERM */, tile_data = 18;
    return (xgetbv0() & 0x60000) == 0x60000 && syscall(SYS_arch_prctl, request, tile_data) == 0;
}

unsigned mlxd_os_cpu_flags(void) {
    unsigned a, b, c, d, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    bool fma = c & bit_FMA, f16c = c & bit_F16C, osxsave = c & bit_OSXSAVE;
    if (!osxsave || (xgetbv0() & 6) != 6)
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || !fma || !f16c)
        return 0;
    flags |= MLXD_CPU_AVX2;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((b & avx512) == avx512 && (c & bit_AVX512VNNI) && (xgetbv0() & 0xe6) == 0xe6)
        flags |= MLXD_CPU_AVX512;
    const unsigned amx = 1u << 24 | 1u << 25; /* AMX-TILE, AMX-INT8; older headers lack the names */
    if ((flags & MLXD_CPU_AVX512) && (d & amx) == amx && request_tiles())
        flags |= MLXD_CPU_AMX;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVXVNNI))
        flags |= MLXD_CPU_AVXVNNI;
    return flags;
}

static unsigned get_mxcsr(void) {
    unsigned v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

/* All exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero. */
void mlxd_os_fpu_init(void) {
    unsigned v = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(v));
}

bool mlxd_os_fpu_ok(void) {
    return (get_mxcsr() & 0xffc0) == 0x1f80;
}
#else
unsigned mlxd_os_cpu_flags(void) {
    unsigned flags = MLXD_CPU_NEON;
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        flags |= MLXD_CPU_DOTPROD;
    if (getauxval(AT_HWCAP2) & HWCAP2_I8MM)
        flags |= MLXD_CPU_I8MM;
    return flags;
}

/* FPCR 0: round to nearest even, no flush-to-zero, no default NaN. */
void mlxd_os_fpu_init(void) {
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
}

bool mlxd_os_fpu_ok(void) {
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v));
    return (v & 0x03c80000u) == 0;
}
#endif

void mlxd_os_cpu_name(char *out, size_t size) {
    char text[4096];
    MLXD_ASSERT(size > 0);
    snprintf(out, size, "unknown");
    if (!read_text("/proc/cpuinfo", text, sizeof text))
        return;
    const char *p = strstr(text, "model name");
    p = p ? strchr(p, ':') : NULL;
    if (p)
        snprintf(out, size, "%.*s", (int)strcspn(p + 2, "\n"), p + 2);
}

void mlxd_os_thread_class(const char *name, mlxd_os_priority priority) {
    prctl(PR_SET_NAME, name);
    /* nice +10 for compute: on machines that are shared with other work SCHED_IDLE would starve
     * it. On Linux the nice value belongs to the thread. */
    if (priority == MLXD_PRIORITY_COMPUTE)
        (void)setpriority(PRIO_PROCESS, 0, 10);
}

mlxd_err mlxd_os_thread_pin(pthread_t thread, unsigned index) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0)
        return MLXD_ERR_IO;
    unsigned left = index % (unsigned)CPU_COUNT(&allowed);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && left-- == 0)
            CPU_SET(cpu, &one);
    return pthread_setaffinity_np(thread, sizeof one, &one) == 0 ? MLXD_OK : MLXD_ERR_IO;
}

uint64_t mlxd_os_files_raise(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return 0;
    r.rlim_cur = r.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &r);
    (void)getrlimit(RLIMIT_NOFILE, &r);
    return r.rlim_cur;
}

void *mlxd_os_map(size_t bytes) {
    size_t n;
    if (!mlxd_add_size(bytes, 2 * HUGE_PAGE - 1, &n))
        return NULL;
    n &= ~(HUGE_PAGE - 1);
    char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    /* Cut both ends off, so that the region starts on a huge page and ends behind `bytes`. */
    char *start = (char *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t keep = (bytes + page - 1) & ~(page - 1);
    if (start > p)
        munmap(p, (size_t)(start - p));
    if (start + keep < p + n)
        munmap(start + keep, (size_t)(p + n - (start + keep)));
    (void)madvise(start, keep, MADV_HUGEPAGE);
    return start;
}

void mlxd_os_unmap(void *p, size_t bytes) {
    if (!p)
        return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(p, (bytes + page - 1) & ~(page - 1));
}

bool mlxd_os_random(void *out, size_t len) {
    uint8_t *p = out;
    while (len > 0) {
        ssize_t n = getrandom(p, MLXD_MIN(len, (size_t)256), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}
#endif
