/* cmd_healthcheck.c - `mlxd healthcheck`: asks a node's grpc.health.v1, for container probes.
 *
 * Without --device in plaintext, which only the health port answers; with --device over mutual TLS,
 * where the node must be that device of our cluster. Whatever the node's answer or silence is, the
 * exit code is 0 for "serving" and 69 for everything else; only what is wrong on this side
 * (arguments, certificate files) has its own code.
 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "format/json.h"
#include "net/health.h"

#include <stdio.h>

#define DEADLINE_MS 5000 /* the contract's, for a health check */

/* What the poller thread hands to the main thread. */
struct mailbox {
    mlxd_mutex lock;
    mlxd_cond changed;
    bool answered;
    mlxd_rpc_status rpc;
    mlxd_health_status status;
};

struct answer {
    mlxd_err err; /* no answer: the reason is in why */
    mlxd_why why;
    mlxd_health_status status;
    double ms;
};

static void on_status(void *user, const mlxd_rpc_status *rpc, mlxd_health_status status) {
    struct mailbox *box = user;
    mlxd_mutex_lock(&box->lock);
    box->rpc = *rpc;
    box->status = status;
    box->answered = true;
    mlxd_cond_signal(&box->changed);
    mlxd_mutex_unlock(&box->lock);
}

/* ---- the question ---- */

static const char *or_path(const char *given, char out[4096], const char *dir, const char *stem,
                           const char *suffix) {
    if (given[0])
        return given;
    (void)snprintf(out, 4096, "%s/%s%s", dir, stem, suffix);
    return out;
}

static mlxd_err load_creds(const mlxd_options *o, mlxd_rpc_creds **out, mlxd_why *why) {
    char ca[4096], cert[4096], key[4096];
    if (!o->device[0]) { /* certificates in the environment are the node's, not the question's */
        *out = mlxd_rpc_creds_plaintext();
        return *out ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    return mlxd_rpc_creds_load(out, or_path(o->ca, ca, o->certs, "ca", ".crt"),
                               or_path(o->cert, cert, o->certs, o->device, ".crt"),
                               or_path(o->key, key, o->certs, o->device, ".key"), why);
}

/* Returns only errors of this side; what the node did is in *a. */
static mlxd_err ask(mlxd_rpc_channel *channel, const char *service, struct answer *a,
                    mlxd_why *why) {
    struct mailbox box = {0};
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_health_request r = {.service = service,
                             .deadline_ns = t0 + DEADLINE_MS * MLXD_NS_PER_MS,
                             .on_status = on_status,
                             .user = &box};
    mlxd_mutex_init(&box.lock);
    mlxd_cond_init(&box.changed);
    mlxd_err err = mlxd_health_check(channel, &r, why);
    if (!err) {
        mlxd_mutex_lock(&box.lock);
        while (!box.answered)
            mlxd_cond_wait(&box.changed, &box.lock);
        mlxd_mutex_unlock(&box.lock);
        a->err = box.rpc.err;
        a->why = box.rpc.why;
        a->status = box.status;
        a->ms = (double)(mlxd_clock_now_ns() - t0) / 1e6;
    }
    mlxd_cond_deinit(&box.changed);
    mlxd_mutex_deinit(&box.lock);
    return err;
}

static mlxd_err check(const mlxd_options *o, struct answer *a, mlxd_why *why) {
    mlxd_rpc_runtime *rt = NULL;
    mlxd_rpc_creds *creds = NULL;
    mlxd_rpc_channel *channel = NULL;
    mlxd_err err = mlxd_rpc_runtime_open(&rt, why);
    if (!err)
        err = load_creds(o, &creds, why);
    if (!err) {
        mlxd_rpc_channel_options options = {
            .address = o->address,
            .creds = creds,
            .device = o->device,
            .plaintext_public = true,
            .reconnect_min_ms = DEADLINE_MS, /* also bounds one attempt to connect: a node that is
                                                slow to answer is not absent */
            .reconnect_max_ms = DEADLINE_MS,
        };
        err = mlxd_rpc_channel_open(&channel, rt, &options, why);
    }
    if (!err)
        err = ask(channel, o->service, a, why);
    if (channel)
        mlxd_rpc_channel_close(channel);
    if (creds)
        mlxd_rpc_creds_close(creds);
    mlxd_rpc_runtime_close(rt);
    return err;
}

/* ---- the answer ---- */

static const char *status_name(const struct answer *a) {
    static const char *const names[] = {
        [MLXD_HEALTH_UNKNOWN] = "unknown",
        [MLXD_HEALTH_SERVING] = "serving",
        [MLXD_HEALTH_NOT_SERVING] = "not serving",
    };
    if (a->err)
        return a->err == MLXD_ERR_NOTFOUND ? "no such service" : "no answer";
    return (size_t)a->status < MLXD_COUNT_OF(names) ? names[a->status] : "unknown";
}

static mlxd_err print_json(const mlxd_options *o, const struct answer *a, mlxd_why *why) {
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    mlxd_jsonw_init(&w, &out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "address", o->address);
    mlxd_jsonw_member_str(&w, "device", o->device[0] ? o->device : NULL);
    mlxd_jsonw_member_str(&w, "service", o->service);
    mlxd_jsonw_member_bool(&w, "serving", !a->err && a->status == MLXD_HEALTH_SERVING);
    mlxd_jsonw_member_str(&w, "status", status_name(a));
    mlxd_jsonw_member_double(&w, "ms", a->ms);
    if (a->err)
        mlxd_jsonw_member_str(&w, "why", a->why.text);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(&out, '\n');
    mlxd_err err = out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_cli_print(out.data, out.len, why);
    mlxd_buf_deinit(&out);
    return err;
}

int mlxd_cmd_healthcheck(const mlxd_options *o) {
    static const char serving[] = "serving\n";
    struct answer a = {0};
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "error", &why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err)
        err = check(o, &a, &why);
    if (err)
        return mlxd_cli_fail(err, &why);
    bool ok = !a.err && a.status == MLXD_HEALTH_SERVING;
    if (o->json)
        err = print_json(o, &a, &why);
    else if (ok)
        err = mlxd_cli_print(serving, sizeof serving - 1, &why);
    else
        fprintf(stderr, "mlxd: %s: %s%s%s\n", o->address, status_name(&a),
                a.why.text[0] ? ": " : "", a.why.text);
    if (err)
        return mlxd_cli_fail(err, &why);
    return ok ? 0 : mlxd_err_get(MLXD_ERR_PEER)->exit_code;
}
