/* node_options.c - see node_options.h. */
#include "cli/node_options.h"

#include "base/log.h"
#include "net/http.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- names and ports ---- */

static mlxd_err read_role(const mlxd_options *o, mlxd_role role, mlxd_why *why) {
    if (o->role[0] && strcmp(o->role, mlxd_role_name(role)) != 0)
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "role is \"%.20s\" (--role, DEVICE_ROLE), this command runs a %s", o->role,
                         mlxd_role_name(role));
    return MLXD_OK;
}

static mlxd_err read_ports(mlxd_node_options *n, const mlxd_options *o, mlxd_role role,
                           mlxd_why *why) {
    uint64_t port = o->port != UINT64_MAX ? o->port : role == MLXD_ROLE_COORDINATOR ? 8100 : 8101;
    uint64_t grpc = o->grpc_port != UINT64_MAX ? o->grpc_port : port ? port + 1000 : 0;
    uint64_t health = o->health_port != UINT64_MAX ? o->health_port : grpc ? grpc + 100 : 0;
    if (grpc > 65535 || health > 65535)
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "gRPC port %llu and health port %llu, which follow from port %llu, are "
                         "beyond 65535",
                         (unsigned long long)grpc, (unsigned long long)health,
                         (unsigned long long)port);
    const char *host = o->grpc_host[0] ? o->grpc_host : o->host;
    bool v6 = strchr(host, ':') && host[0] != '[';
    n->port = (uint16_t)port;
    snprintf(n->grpc_listen, sizeof n->grpc_listen, v6 ? "[%.250s]:%u" : "%.250s:%u", host,
             (unsigned)grpc);
    snprintf(n->health_listen, sizeof n->health_listen, v6 ? "[%.250s]:%u" : "%.250s:%u", host,
             (unsigned)health);
    return MLXD_OK;
}

/* ---- certificates and keys ---- */

/* The servers refuse these too; here it is said before a large model is loaded. */
static mlxd_err check_open_doors(const mlxd_options *o, mlxd_why *why) {
    const char *grpc = o->grpc_host[0] ? o->grpc_host : o->host;
    if (o->insecure && !mlxd_http_is_loopback(grpc) && strcmp(grpc, "[::1]") != 0)
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "gRPC without TLS (--insecure) on %s: only loopback addresses may be "
                         "plaintext; leave --insecure out and give certificates",
                         grpc);
    if (o->no_auth && !mlxd_http_is_loopback(o->host))
        return mlxd_fail(why, MLXD_ERR_PERM,
                         "REST without keys (--no-auth) on %s: only on loopback addresses; give "
                         "--api-key-file",
                         o->host);
    return MLXD_OK;
}

/* An explicit path, or the first of the names in the directory that is there. */
static void find_pem(char out[1024], const char *given, const char *dir, const char *device,
                     const char *fallback, const char *suffix) {
    if (given[0]) {
        snprintf(out, 1024, "%s", given);
        return;
    }
    snprintf(out, 1024, "%.900s/%s.%s", dir, device, suffix);
    if (access(out, F_OK) != 0 && fallback[0]) {
        char other[1024];
        snprintf(other, sizeof other, "%.900s/%s.%s", dir, fallback, suffix);
        if (access(other, F_OK) == 0)
            memcpy(out, other, sizeof other);
    }
}

static mlxd_err read_creds(mlxd_node_options *n, const mlxd_options *o, mlxd_role role,
                           mlxd_why *why) {
    char ca[1024], cert[1024], key[1024];
    if (o->insecure) {
        n->creds = mlxd_rpc_creds_plaintext();
        mlxd_log(MLXD_LOG_WARN, "node", "gRPC without TLS (--insecure)");
        return n->creds ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    find_pem(ca, o->ca, o->certs, "ca", "", "crt");
    find_pem(cert, o->cert, o->certs, n->device, "server", "crt");
    find_pem(key, o->key, o->certs, n->device, "server", "key");
    mlxd_err err = mlxd_rpc_creds_load(&n->creds, ca, cert, key, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail_in(why, err,
                            "no certificate for %s (make them with `mlxd certs init` and "
                            "`mlxd certs node --device %s --role %s`)",
                            n->device, n->device, mlxd_role_name(role));
    if (err)
        return err;
    const mlxd_identity *id = mlxd_rpc_creds_identity(n->creds);
    if (id->role != role)
        return mlxd_fail(why, MLXD_ERR_PERM, "%s is a certificate for role %s, this node is a %s",
                         cert, mlxd_role_name(id->role), mlxd_role_name(role));
    if (o->device[0] && strcmp(id->device, o->device) != 0)
        return mlxd_fail(why, MLXD_ERR_PERM, "%s is a certificate for device %s, this one is %s",
                         cert, id->device, o->device);
    snprintf(n->device, sizeof n->device, "%s", id->device);
    return MLXD_OK;
}

static mlxd_err read_keys(mlxd_node_options *n, const mlxd_options *o, mlxd_why *why) {
    if (o->no_auth && o->api_key_file[0])
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "--no-auth and --api-key-file contradict each other");
    if (o->no_auth)
        return MLXD_OK;
    if (!o->api_key_file[0])
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "no REST keys: give --api-key-file FILE (one key per line, for example "
                         "from `openssl rand -hex 32`), or --no-auth on a loopback address");
    return mlxd_auth_open(&n->auth, o->api_key_file, NULL, why);
}

mlxd_err mlxd_node_options_open(mlxd_node_options *n, const mlxd_options *o, mlxd_role role,
                                mlxd_why *why) {
    *n = (mlxd_node_options){0};
    const char *device = o->device[0]                    ? o->device
                         : role == MLXD_ROLE_COORDINATOR ? "mini1"
                                                         : "mini2";
    snprintf(n->device, sizeof n->device, "%s", device);
    if (gethostname(n->hostname, sizeof n->hostname - 1) != 0)
        snprintf(n->hostname, sizeof n->hostname, "localhost");
    mlxd_err err = mlxd_identity_check_id(mlxd_slice_str(device), why);
    if (err)
        return mlxd_fail_in(why, MLXD_ERR_CONFIG, "device name");
    err = read_role(o, role, why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err && !o->model[0] && role == MLXD_ROLE_COORDINATOR)
        err = mlxd_fail(why, MLXD_ERR_USAGE, "no model: give -m FILE (or MLXD_MODEL)");
    if (!err)
        err = check_open_doors(o, why);
    if (!err)
        err = read_ports(n, o, role, why);
    if (!err)
        err = read_creds(n, o, role, why);
    if (!err)
        err = read_keys(n, o, why);
    if (err)
        mlxd_node_options_close(n);
    return err;
}

void mlxd_node_options_close(mlxd_node_options *n) {
    mlxd_rpc_creds_close(n->creds);
    mlxd_auth_close(n->auth);
    n->creds = NULL;
    n->auth = NULL;
}

/* Puts the bound port into "host:port", for people who asked for any free one. */
static void set_port(char listen[300], const mlxd_rpc_server *server) {
    char *colon = strrchr(listen, ':');
    MLXD_ASSERT(colon);
    snprintf(colon, (size_t)(listen + 300 - colon), ":%d", mlxd_rpc_server_port(server));
}

mlxd_err mlxd_node_open_grpc(mlxd_node_options *n, mlxd_rpc_runtime *rpc,
                             const mlxd_rpc_method *methods, size_t count, mlxd_health *health,
                             mlxd_rpc_server **server, mlxd_rpc_server **health_server,
                             mlxd_why *why) {
    mlxd_rpc_server_options o = {
        .listen = n->grpc_listen, .creds = n->creds, .methods = methods, .method_count = count};
    mlxd_err err = mlxd_rpc_server_open(server, rpc, &o, why);
    if (err)
        return err;
    set_port(n->grpc_listen, *server);
    mlxd_rpc_creds *plain = mlxd_rpc_creds_plaintext();
    mlxd_rpc_method method = mlxd_health_method(health);
    o = (mlxd_rpc_server_options){.listen = n->health_listen,
                                  .creds = plain,
                                  .methods = &method,
                                  .method_count = 1,
                                  .plaintext_public = true};
    err = plain ? mlxd_rpc_server_open(health_server, rpc, &o, why)
                : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_rpc_creds_close(plain);
    if (!err)
        set_port(n->health_listen, *health_server);
    return err;
}

/* ---- signals ---- */

static sigset_t stop_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1); /* mlxd_signals_wake */
    return set;
}

void mlxd_signals_block(void) {
    sigset_t set = stop_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void mlxd_signals_wait(void) {
    sigset_t set = stop_signals();
    int sig = 0;
    while (sigwait(&set, &sig) != 0 || sig == SIGHUP)
        mlxd_log(MLXD_LOG_INFO, "node", "hangup ignored");
    sigset_t again;
    sigemptyset(&again);
    sigaddset(&again, SIGTERM);
    sigaddset(&again, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &again, NULL);
}

void mlxd_signals_wake(void) {
    kill(getpid(), SIGUSR1);
}
