/* node_options.h - what `serve` and `worker` share: names, ports, credentials and keys from the
 * options, with the defaults that depend on the role; and waiting for the signal to stop.
 */
#ifndef MLXD_CLI_NODE_OPTIONS_H
#define MLXD_CLI_NODE_OPTIONS_H

#include "cli/options.h"
#include "net/health.h"
#include "net/transport.h"
#include "serve/auth.h"

typedef struct mlxd_node_options {
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char hostname[256];
    uint16_t port;         /* REST */
    char grpc_listen[300]; /* "host:port" */
    char health_listen[300];
    mlxd_rpc_creds *creds; /* owned; plaintext with --insecure */
    mlxd_auth *auth;       /* owned; NULL with --no-auth */
} mlxd_node_options;

/* Reads certificates and keys; CONFIG, USAGE and the errors of mlxd_certs_load and
 * mlxd_auth_open. */
mlxd_err mlxd_node_options_open(mlxd_node_options *n, const mlxd_options *o, mlxd_role role,
                                mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_node_options_close(mlxd_node_options *n);

/* Opens the node's two gRPC ports: `methods` with its credentials, and grpc.health.v1 alone, in
 * plaintext, for probes that cannot do TLS. The bound ports go into n->grpc_listen and
 * n->health_listen. What was opened before an error is in *server and is the caller's to close. */
mlxd_err mlxd_node_open_grpc(mlxd_node_options *n, mlxd_rpc_runtime *rpc,
                             const mlxd_rpc_method *methods, size_t count, mlxd_health *health,
                             mlxd_rpc_server **server, mlxd_rpc_server **health_server,
                             mlxd_why *why) MLXD_MUST_CHECK;

/* Blocks SIGTERM, SIGINT and SIGHUP in this thread and all it starts. Before any thread exists
 * that does not block them itself (those of base/thread.h do). */
void mlxd_signals_block(void);
/* Waits for SIGTERM or SIGINT, or for mlxd_signals_wake; SIGHUP is ignored with a log line. A
 * second signal after this returned ends the process at once. */
void mlxd_signals_wait(void);
/* Ends the wait from another thread. */
void mlxd_signals_wake(void);

#endif
