/* health.h - grpc.health.v1.Health over transport.h: the method table for a server, and a client's
 * Check (`mlxd healthcheck`).
 *
 *     HealthCheckRequest  { string service = 1; }
 *     HealthCheckResponse { ServingStatus status = 1; }   0 UNKNOWN, 1 SERVING, 2 NOT_SERVING
 *
 * Check of a name that is not in the table is NOT_FOUND. Watch is not offered: it is UNIMPLEMENTED,
 * which the protocol's definition tells clients to treat as "do not watch".
 */
#ifndef MLXD_NET_HEALTH_H
#define MLXD_NET_HEALTH_H

#include "base/base.h"
#include "net/transport.h"

typedef enum mlxd_health_status {
    MLXD_HEALTH_UNKNOWN = 0,
    MLXD_HEALTH_SERVING = 1,
    MLXD_HEALTH_NOT_SERVING = 2,
} mlxd_health_status;

#define MLXD_HEALTH_SERVICES_MAX 16
#define MLXD_HEALTH_NAME_MAX 256 /* longer names in a request are INVALID_ARGUMENT */

/* `name` is "" for the whole node. `status` is called on the poller thread: it reads an atomic and
 * returns. Strings are lent and must outlive the table. */
typedef struct mlxd_health_service {
    const char *name;
    mlxd_health_status (*status)(void *ctx);
    void *ctx;
} mlxd_health_service;

/* Caller's memory; must outlive the servers whose methods point to it. */
typedef struct mlxd_health {
    mlxd_health_service services[MLXD_HEALTH_SERVICES_MAX];
    size_t count;
} mlxd_health;

/* Adds a row; FULL beyond MLXD_HEALTH_SERVICES_MAX. Before a server is opened. */
mlxd_err mlxd_health_add(mlxd_health *health, const char *name,
                         mlxd_health_status (*status)(void *ctx), void *ctx) MLXD_MUST_CHECK;
/* The row for a server's method table; open to every role. */
mlxd_rpc_method mlxd_health_method(mlxd_health *health);

/* Asks a peer. `on_status` is called exactly once on the poller thread: err OK and a status, or the
 * reason (NOTFOUND: the peer does not know that service). Errors of mlxd_rpc_channel_call. */
typedef struct mlxd_health_request {
    const char *service;
    uint64_t deadline_ns;
    void (*on_status)(void *user, const mlxd_rpc_status *rpc, mlxd_health_status status);
    void *user;
} mlxd_health_request;
mlxd_err mlxd_health_check(mlxd_rpc_channel *channel, const mlxd_health_request *request,
                           mlxd_why *why) MLXD_MUST_CHECK;

/* The codec, exposed for tests and fuzzing: pure. A request's service name is lent from `bytes`;
 * unknown fields are skipped, the last `service` wins, malformed bytes are INVALID. */
mlxd_err mlxd_health_decode_request(mlxd_slice bytes, mlxd_slice *service) MLXD_MUST_CHECK;
mlxd_err mlxd_health_decode_response(mlxd_slice bytes, mlxd_health_status *status) MLXD_MUST_CHECK;

#endif
