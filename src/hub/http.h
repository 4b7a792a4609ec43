/* http.h - GET from the hub, over libcurl: what fetch.h and pull.h have in common.
 *
 * One try, to its end: redirects are followed here, not by libcurl, so that the token goes to the
 * hub's own host only and never to the storage that the hub points to. TLS certificates are always
 * checked; from https nothing leads back to http. A connection on which no byte moves for
 * settings.stall_s is given up.
 *
 * Errors say what to do. The address that the hub redirected to carries a signature, so texts name
 * its host only.
 *     AGAIN      it may work later: unreachable, dropped, stalled, 408, 425, 429, 5xx; from the
 *                storage that the hub redirects to any status that is an error
 *     PERM       401 and 403: no token, a bad one, or a licence that is not accepted yet
 *     RANGE      416: nothing behind `from`
 *     PEER       it will not work later either: certificates, addresses, protocols
 *     NOTFOUND   404: no such repository, revision or file
 *     CANCELLED  `more` said so
 *     PROTO      anything else that is not what was asked for
 *     others     are those of the sink
 *
 * Thread: an mlxd_hub_conn belongs to one thread at a time; it keeps its connections open for the
 * next request.
 */
#ifndef MLXD_HUB_HTTP_H
#define MLXD_HUB_HTTP_H

#include "base/mem.h"
#include "hub/settings.h"

typedef struct mlxd_hub_conn mlxd_hub_conn;

/* What came before the body. */
typedef struct mlxd_hub_reply {
    long status;
    bool has_length;
    uint64_t length; /* of this body */
    bool has_range;
    uint64_t range_first, range_total; /* Content-Range; total UINT64_MAX when it is not said */
    unsigned retry_after_s;
    char link[2048];
    char error_code[64], error_message[200]; /* X-Error-Code, X-Error-Message */
} mlxd_hub_reply;

typedef struct mlxd_hub_request {
    const char *url;
    uint64_t from; /* first byte that is wanted; > 0: a range from there */
    /* Before the body of an answer 200 or 206. An error ends the try with it. */
    mlxd_err (*begin)(void *ctx, const mlxd_hub_reply *reply, mlxd_why *why);
    mlxd_err (*body)(void *ctx, const void *data, size_t len, mlxd_why *why);
    bool (*more)(void *ctx); /* at least once a second; false cancels */
    void *ctx;
} mlxd_hub_request;

/* `s` must live as long. */
mlxd_err mlxd_hub_conn_open(mlxd_hub_conn **out, const mlxd_hub_settings *s,
                            mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hub_conn_close(mlxd_hub_conn *c);

mlxd_err mlxd_hub_get(mlxd_hub_conn *c, const mlxd_hub_request *r, mlxd_hub_reply *reply,
                      mlxd_why *why) MLXD_MUST_CHECK;

/* Decides whether to try again after AGAIN: waits 0.2 s, then twice as long each time up to 10 s,
 * or as long as the hub asked for; false when MLXD_LIMIT_HUB_TRIES in a row have failed, when the
 * hub asks for more than MLXD_LIMIT_HUB_WAIT_S, or when `more` ended the wait. Begin with zeros;
 * set `failed` to 0 when there was progress. */
typedef struct mlxd_hub_tries {
    unsigned failed;
} mlxd_hub_tries;
bool mlxd_hub_try_again(mlxd_hub_tries *t, const mlxd_hub_reply *reply, bool (*more)(void *ctx),
                        void *ctx);
/* What a try that will not be repeated ends with: AGAIN only when rate limited, else PEER. */
mlxd_err mlxd_hub_give_up(mlxd_err err, const mlxd_hub_reply *reply, mlxd_why *why);

/* The body of a small answer, which is not empty, into `out` (PROTO beyond its bytes_max), with
 * tries. */
mlxd_err mlxd_hub_get_small(mlxd_hub_conn *c, const char *url, bool (*more)(void *ctx), void *ctx,
                            mlxd_buf *out, mlxd_hub_reply *reply, mlxd_why *why) MLXD_MUST_CHECK;

/* Appends `text` with everything escaped that is not plain in a path; '/' is kept if `slash`. */
void mlxd_hub_url_add(mlxd_buf *url, const char *text, bool slash);

#endif
