/* grpc_runtime.c - the completion queue, its one poller thread, gRPC's environment and log.
 *
 * On gRPC core 1.51 all I/O of the process runs inside grpc_completion_queue_next, keepalive pings
 * included: a process that is not in it is taken for dead by its peers. So one thread does nothing
 * else, and callbacks on it must return at once. More pollers were measured to be slower.
 *
 * TLS 1.3 only: 1.51 has no setting for it. TLS 1.2 and 1.3 suites are configured apart, and the
 * variable GRPC_SSL_CIPHER_SUITES sets those of 1.2 only. It is set to a pre-shared-key suite; no
 * key is ever shared, so no 1.2 handshake can find a common suite, whatever the certificate's type.
 */
#include "net/grpc_core.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define TLS12_SUITES_NONE "ECDHE-PSK-AES128-CBC-SHA"

static atomic_flag runtime_open = ATOMIC_FLAG_INIT;
static atomic_uint_fast64_t last_id;
/* The poller's own runtime: how a function knows that it is called from a callback. */
static _Thread_local const mlxd_rpc_runtime *here;

/* ---- tags ---- */

void mlxd_rpc_tag_init(mlxd_rpc_tag *tag, void (*fn)(void *owner, bool ok), void *owner) {
    tag->fn = fn;
    tag->owner = owner;
    atomic_store_explicit(&tag->armed, false, memory_order_relaxed);
}

void *mlxd_rpc_tag_arm(mlxd_rpc_tag *tag) {
    bool was = atomic_exchange_explicit(&tag->armed, true, memory_order_release);
    MLXD_ASSERT(!was);
    return tag;
}

void mlxd_rpc_batch(grpc_call *call, const grpc_op *ops, size_t count, mlxd_rpc_tag *tag) {
    grpc_call_error error = grpc_call_start_batch(call, ops, count, mlxd_rpc_tag_arm(tag), NULL);
    MLXD_ASSERT(error == GRPC_CALL_OK);
}

static void poll_loop(void *arg) {
    mlxd_rpc_runtime *rt = arg;
    here = rt;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(rt->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        mlxd_rpc_tag *tag = event.tag;
        bool was = atomic_exchange_explicit(&tag->armed, false, memory_order_acquire);
        MLXD_ASSERT(was);
        tag->fn(tag->owner, event.success != 0);
    }
}

/* ---- log ---- */

#ifndef MLXD_GRPC_NO_LOG_FUNCTION /* defined by the build where gRPC has lost the function */
#include <grpc/support/log.h>

/* gRPC's own errors are mostly about peers (refused handshakes): warnings to us. */
static void log_line(gpr_log_func_args *args) {
    const char *file = strrchr(args->file, '/');
    mlxd_log(args->severity == GPR_LOG_SEVERITY_ERROR ? MLXD_LOG_WARN : MLXD_LOG_DEBUG, "grpc",
             "%s (%s:%d)", args->message, file ? file + 1 : args->file, args->line);
}

static void route_log(void) {
    gpr_set_log_function(log_line);
    gpr_set_log_verbosity(mlxd_log_enabled(MLXD_LOG_DEBUG) ? GPR_LOG_SEVERITY_INFO
                                                           : GPR_LOG_SEVERITY_ERROR);
}
#else
static void route_log(void) {
}
#endif

/* ---- open and close ---- */

mlxd_err mlxd_rpc_runtime_open(mlxd_rpc_runtime **out, mlxd_why *why) {
    bool again = atomic_flag_test_and_set(&runtime_open);
    MLXD_ASSERT(!again);
    *out = NULL;
    mlxd_rpc_runtime *rt = mlxd_mem_new(1, sizeof *rt);
    if (!rt) {
        atomic_flag_clear(&runtime_open);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "gRPC runtime");
    }
    mlxd_os_files_raise();
    /* Names are resolved by the system (also .local), unless the user says otherwise. */
    if (setenv("GRPC_SSL_CIPHER_SUITES", TLS12_SUITES_NONE, 1) ||
        setenv("GRPC_DNS_RESOLVER", "native", 0)) {
        mlxd_mem_free(rt);
        atomic_flag_clear(&runtime_open);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "environment for gRPC");
    }
    route_log();
    /* gRPC's own threads inherit this mask: signals belong to the main thread. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    grpc_init();
    mlxd_mutex_init(&rt->mutex);
    mlxd_cond_init(&rt->cond);
    rt->cq = grpc_completion_queue_create_for_next(NULL);
    mlxd_err err = mlxd_thread_start(&rt->poller, "grpc-poll", MLXD_PRIORITY_NORMAL, poll_loop, rt);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        grpc_completion_queue_shutdown(rt->cq);
        grpc_completion_queue_destroy(rt->cq);
        grpc_shutdown();
        mlxd_cond_deinit(&rt->cond);
        mlxd_mutex_deinit(&rt->mutex);
        mlxd_mem_free(rt);
        atomic_flag_clear(&runtime_open);
        return mlxd_fail(why, err, "cannot start the gRPC thread");
    }
    *out = rt;
    return MLXD_OK;
}

void mlxd_rpc_runtime_close(mlxd_rpc_runtime *rt) {
    if (!rt)
        return;
    MLXD_ASSERT(!mlxd_rpc_runtime_here(rt));
    mlxd_mutex_lock(&rt->mutex);
    unsigned users = rt->users;
    mlxd_mutex_unlock(&rt->mutex);
    MLXD_ASSERT(users == 0);
    grpc_completion_queue_shutdown(rt->cq);
    mlxd_thread_join(&rt->poller);
    grpc_completion_queue_destroy(rt->cq);
    grpc_shutdown();
    mlxd_cond_deinit(&rt->cond);
    mlxd_mutex_deinit(&rt->mutex);
    mlxd_mem_free(rt);
    atomic_flag_clear(&runtime_open);
}

bool mlxd_rpc_runtime_here(const mlxd_rpc_runtime *rt) {
    return here == rt;
}

void mlxd_rpc_runtime_attach(mlxd_rpc_runtime *rt) {
    mlxd_mutex_lock(&rt->mutex);
    rt->users++;
    mlxd_mutex_unlock(&rt->mutex);
}

void mlxd_rpc_runtime_detach(mlxd_rpc_runtime *rt) {
    mlxd_mutex_lock(&rt->mutex);
    MLXD_ASSERT(rt->users > 0);
    rt->users--;
    mlxd_mutex_unlock(&rt->mutex);
}

/* ---- small common things ---- */

uint64_t mlxd_rpc_next_id(void) {
    return atomic_fetch_add(&last_id, 1) + 1;
}

uint64_t mlxd_rpc_deadline_from(gpr_timespec t) {
    t = gpr_convert_clock_type(t, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(t, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return UINT64_MAX;
    gpr_timespec left = gpr_time_sub(t, gpr_now(GPR_CLOCK_MONOTONIC));
    uint64_t now = mlxd_clock_now_ns();
    if (left.tv_sec < 0)
        return now;
    if ((uint64_t)left.tv_sec > UINT32_MAX)
        return UINT64_MAX;
    return now + (uint64_t)left.tv_sec * (uint64_t)MLXD_NS_PER_S + (uint64_t)left.tv_nsec;
}

gpr_timespec mlxd_rpc_deadline_to(uint64_t deadline_ns) {
    if (deadline_ns == UINT64_MAX)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    uint64_t now = mlxd_clock_now_ns();
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    if (left > (uint64_t)UINT32_MAX * MLXD_NS_PER_S)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_nanos((int64_t)left, GPR_TIMESPAN));
}

static bool is_host_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.';
}

static bool is_port(const char *text) {
    size_t len = strlen(text);
    if (len == 0 || len > 5 || strspn(text, "0123456789") != len)
        return false;
    return strtoul(text, NULL, 10) <= 65535;
}

mlxd_err mlxd_rpc_address_check(const char *address, bool *loopback, mlxd_why *why) {
    char host[256];
    const char *begin = address, *end = strrchr(address, ':');
    bool v6 = address[0] == '[';
    if (v6) {
        begin++;
        end = strchr(address, ']');
    }
    const char *port = end ? end + (v6 ? 2 : 1) : NULL;
    if (!end || (v6 && end[1] != ':') || !is_port(port) || end == begin ||
        (size_t)(end - begin) >= sizeof host)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "address \"%s\" is not host:port or [IPv6]:port with a port up to 65535",
                         address);
    size_t len = (size_t)(end - begin);
    memcpy(host, begin, len);
    host[len] = 0;
    struct in6_addr six;
    struct in_addr four;
    if (v6) {
        if (inet_pton(AF_INET6, host, &six) != 1)
            return mlxd_fail(why, MLXD_ERR_INVALID, "address \"%s\": no IPv6 address in brackets",
                             address);
        *loopback = IN6_IS_ADDR_LOOPBACK(&six);
        return MLXD_OK;
    }
    for (size_t i = 0; i < len; i++)
        if (!is_host_byte(host[i]))
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "address \"%s\": host may have letters, digits, '-' and '.'", address);
    if (inet_pton(AF_INET, host, &four) == 1)
        *loopback = (ntohl(four.s_addr) >> 24) == 127;
    else
        *loopback = strcmp(host, "localhost") == 0;
    return MLXD_OK;
}

void mlxd_rpc_args_int(mlxd_rpc_args *args, const char *key, int value) {
    MLXD_ASSERT(args->count < MLXD_COUNT_OF(args->rows));
    grpc_arg *row = &args->rows[args->count++];
    row->type = GRPC_ARG_INTEGER;
    row->key = (char *)(uintptr_t)key;
    row->value.integer = value;
}

void mlxd_rpc_args_str(mlxd_rpc_args *args, const char *key, const char *value) {
    MLXD_ASSERT(args->count < MLXD_COUNT_OF(args->rows));
    grpc_arg *row = &args->rows[args->count++];
    row->type = GRPC_ARG_STRING;
    row->key = (char *)(uintptr_t)key;
    row->value.string = (char *)(uintptr_t)value;
}

void mlxd_rpc_args_common(mlxd_rpc_args *args, uint32_t keepalive_ms, uint32_t timeout_ms) {
    int time_ms = (int)MLXD_MIN(keepalive_ms ? keepalive_ms : 10000u, 86400000u);
    int wait_ms = (int)MLXD_MIN(timeout_ms ? timeout_ms : 5000u, 86400000u);
    mlxd_rpc_args_int(args, GRPC_ARG_KEEPALIVE_TIME_MS, time_ms);
    mlxd_rpc_args_int(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, wait_ms);
    mlxd_rpc_args_int(args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    mlxd_rpc_args_int(args, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    /* Bit 0 = identity only: a compressed message is refused, so none can expand. */
    mlxd_rpc_args_int(args, GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
}
