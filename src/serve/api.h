/* api.h - the REST API of a node: the OpenAI endpoints, the endpoints of the specification, health
 * and metrics.
 *
 *     HTTP thread            API threads (2)                  engine thread
 *     handler --push--> queue: parse, validate, render,
 *        |              tokenize, check the context
 *        |                    `--mlxd_loop_submit----------> on_token: format a chunk, write it
 *     GET: answered                                          on_end:   the rest, [DONE], end
 *     at once           timer thread: keep-alive comments, utilisation
 *
 * Nothing blocks the HTTP thread: it answers GETs from a snapshot and puts POSTs into a bounded
 * queue (429 queue_full when there is no room). Nothing blocks the engine thread: it only formats
 * and appends to the stream's bounded buffer; a client that does not read fast enough is cancelled.
 * A client that leaves cancels its request, wherever that is.
 *
 * Endpoints. "key": needs an API key (when keys are configured).
 *
 *     GET  /                      public   what this is, as JSON
 *     GET  /health                public   200 healthy, 503 unhealthy; names only
 *     GET  /ready                 public   200 or 503; the reason only with a key
 *     GET  /version               key      version, commit, instruction set
 *     GET  /metrics               key, or public with metrics_public; Prometheus text 0.0.4
 *     GET  /device-info           key      this device
 *     GET  /distributed-stats     key      counters of this node
 *     GET  /cluster-status        key      all devices (a worker: itself)
 *     POST /register              key      known devices only; 403 on a worker
 *   coordinator only:
 *     GET  /v1/models, /v1/models/{id}
 *     POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize
 *
 * Request fields and their ranges are the table in api_fields.c; decisions about them are told in
 * api_fields.h. Errors are OpenAI's objects; api_errors.h has the table of engine errors.
 */
#ifndef MLXD_SERVE_API_H
#define MLXD_SERVE_API_H

#include "serve/auth.h"
#include "serve/engine_loop.h"
#include "serve/host.h"
#include "serve/node.h"

typedef struct mlxd_api mlxd_api;

/* Zero (or NULL) means the default given. Everything pointed to is lent until mlxd_api_close has
 * returned; strings included. */
typedef struct mlxd_api_params {
    /* Both for a coordinator, neither for a worker: then only the endpoints above
     * "coordinator only" exist. host has tokenizer and head; its defaults are those of requests. */
    const mlxd_host *host;
    mlxd_loop *loop;
    mlxd_node_view_fn *view; /* needed; called from the HTTP, API and timer threads */
    void *view_ctx;

    const char *bind_host; /* 127.0.0.1; IPv4 or IPv6 literal, or "localhost" */
    uint16_t port;         /* 0: any, see mlxd_api_port */
    /* Host names accepted besides loopback names and our address; see http.h. */
    const char *const *allowed_hosts;
    size_t allowed_hosts_len;
    mlxd_auth *auth;     /* NULL: no keys; then bind_host must be a loopback address */
    bool metrics_public; /* /metrics without a key */

    const char *model_name;      /* in the API; a coordinator needs it */
    const uint8_t *model_digest; /* 32 bytes (manifest.h) for system_fingerprint; NULL: the digest
                                    of the file's metadata */
    uint32_t context;            /* positions of one request while there is no pipeline to ask */
    int64_t created;             /* `created` of the model, seconds since 1970; 0: now */
    const char *version;         /* "0.1.0"; "unknown" */
    const char *commit;          /* "unknown" */
    const mlxd_clock *clock;     /* the machine's */

    uint32_t work_max;       /* POSTs waiting for an API thread: 256 */
    uint32_t keepalive_ms;   /* comment into a stream that was silent that long: 10 000 */
    size_t stream_bytes_max; /* unsent bytes of one stream; beyond it the client is cut: http.h's */
} mlxd_api_params;

/* Binds and serves. PERM: the address is not a loopback one and there are no keys; INVALID, IO,
 * NOMEM as mlxd_http_start; `why` names the address and the fix. */
mlxd_err mlxd_api_open(mlxd_api **out, const mlxd_api_params *p, mlxd_why *why) MLXD_MUST_CHECK;
/* Stops listening, answers new requests with 503, and waits up to `timeout_ms` for those that run;
 * true when none is left. Any thread but the server's and the engine's. */
bool mlxd_api_drain(mlxd_api *a, unsigned timeout_ms);
/* Closes all connections, cancels what runs and waits until the engine has given it back; so the
 * loop must still run: close the API before the loop. NULL is fine. */
void mlxd_api_close(mlxd_api *a);

uint16_t mlxd_api_port(const mlxd_api *a);
/* "http://127.0.0.1:8100"; owned by the API. */
const char *mlxd_api_url(const mlxd_api *a);

#endif
