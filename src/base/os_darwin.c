/* os_darwin.c - os.h for macOS (arm64). Facts come from sysctl and mach; compiled by check-cross,
 * since there is no Mac where this was written. */
#ifdef __APPLE__
#include "base/os.h"

#include <mach/mach.h>
#include <pthread.h>
#include <pthread/qos.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#include <time.h>
#include <unistd.h>

uint64_t mlxd_os_memory_total(void) {
    uint64_t bytes = 0;
    size_t len = sizeof bytes;
    return sysctlbyname("hw.memsize", &bytes, &len, NULL, 0) == 0 ? bytes : 0;
}

uint64_t mlxd_os_memory_available(void) {
    vm_statistics64_data_t s;
    mach_msg_type_number_t n = HOST_VM_INFO64_COUNT;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&s, &n) != KERN_SUCCESS)
        return 0;
    return ((uint64_t)s.free_count + s.inactive_count) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool task_info_basic(mach_task_basic_info_data_t *info) {
    mach_msg_type_number_t n = MACH_TASK_BASIC_INFO_COUNT;
    return task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)info, &n) == KERN_SUCCESS;
}

uint64_t mlxd_os_rss(void) {
    mach_task_basic_info_data_t info;
    return task_info_basic(&info) ? info.resident_size : 0;
}

uint64_t mlxd_os_rss_peak(void) {
    mach_task_basic_info_data_t info;
    return task_info_basic(&info) ? info.resident_size_max : 0;
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

unsigned mlxd_os_cpus(void) {
    int n = 0;
    size_t len = sizeof n;
    return sysctlbyname("hw.physicalcpu", &n, &len, NULL, 0) == 0 && n > 0 ? (unsigned)n : 1;
}

double mlxd_os_cpu_quota(void) {
    return 0;
}

static bool has_feature(const char *name) {
    int value = 0;
    size_t len = sizeof value;
    return sysctlbyname(name, &value, &len, NULL, 0) == 0 && value != 0;
}

unsigned mlxd_os_cpu_flags(void) {
    unsigned flags = MLXD_CPU_NEON;
    if (has_feature("hw.optional.arm.FEAT_DotProd"))
        flags |= MLXD_CPU_DOTPROD;
    if (has_feature("hw.optional.arm.FEAT_I8MM"))
        flags |= MLXD_CPU_I8MM;
    return flags;
}

void mlxd_os_cpu_name(char *out, size_t size) {
    MLXD_ASSERT(size > 0);
    size_t len = size;
    if (sysctlbyname("machdep.cpu.brand_string", out, &len, NULL, 0) != 0)
        strlcpy(out, "unknown", size);
    out[size - 1] = 0;
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

void mlxd_os_thread_class(const char *name, mlxd_os_priority priority) {
    pthread_setname_np(name);
    pthread_set_qos_class_self_np(priority == MLXD_PRIORITY_COMPUTE ? QOS_CLASS_USER_INITIATED
                                                                    : QOS_CLASS_USER_INTERACTIVE,
                                  0);
}

uint64_t mlxd_os_files_raise(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return 0;
    r.rlim_cur = MLXD_MIN(r.rlim_max, (rlim_t)10240);
    (void)setrlimit(RLIMIT_NOFILE, &r);
    (void)getrlimit(RLIMIT_NOFILE, &r);
    return r.rlim_cur;
}

mlxd_err mlxd_os_thread_pin(pthread_t thread, unsigned index) {
    (void)thread;
    (void)index;
    return MLXD_ERR_UNSUPPORTED;
}

void *mlxd_os_map(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void mlxd_os_unmap(void *p, size_t bytes) {
    if (p)
        munmap(p, bytes);
}

bool mlxd_os_random(void *out, size_t len) {
    arc4random_buf(out, len);
    return true;
}
#endif
