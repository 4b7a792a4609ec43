/* api_internal.h - shared by api.c and api_*.c: the API's state and who may touch it.
 *
 * Locks, in the order in which they may be taken: api.lock, then an answer's lock (api_answer.h).
 * No finishing call of http.h is made with either held: it waits for on_gone, which takes them.
 */
#ifndef MLXD_SERVE_API_INTERNAL_H
#define MLXD_SERVE_API_INTERNAL_H

#include "format/json.h"
#include "serve/api.h"
#include "serve/api_errors.h"
#include "serve/metrics.h"

#define MLXD_API_THREADS 2
#define MLXD_API_ROUTES 16
/* Completions that are alive at once. Each posts at most two events to the engine, and those of
 * ended ones are consumed before as many new ones can be: 4 x this bounds the events of the API
 * in the engine's queue of 8192, so that posting a cancel never waits, not even on the engine's own
 * thread. */
#define MLXD_API_ANSWERS_MAX 1900

struct mlxd_answer;

/* A POST that waits for an API thread. */
typedef struct mlxd_api_work {
    void (*fn)(mlxd_api *a, mlxd_http_req *req); /* FINISHING, or hands `req` on */
    mlxd_http_req *req;
} mlxd_api_work;

struct mlxd_api {
    /* written by open, then read by everybody */
    mlxd_api_params p; /* defaults filled in */
    mlxd_http_route routes[MLXD_API_ROUTES];
    size_t n_routes;
    mlxd_metrics *metrics;
    mlxd_queue *work;
    char fingerprint[64]; /* "mlxd-0.1.0-1a2b3c4d" */
    mlxd_thread threads[MLXD_API_THREADS], timer;
    unsigned threads_started;
    bool timer_started;

    mlxd_node_view *view;       /* HTTP thread: scratch */
    mlxd_node_view *timer_view; /* timer thread: scratch */

    mlxd_mutex lock; /* of what follows */
    mlxd_cond changed;
    mlxd_http *http;             /* set once it has started; open and close need no lock */
    struct mlxd_answer *answers; /* list of the live ones */
    uint32_t n_answers;
    bool closing;
};

static inline uint64_t mlxd_api_now(const mlxd_api *a) {
    return a->p.clock->now_ns(a->p.clock->ctx);
}
static inline uint64_t mlxd_api_wall(const mlxd_api *a) {
    return a->p.clock->wall_ns(a->p.clock->ctx);
}
static inline bool mlxd_api_is_coordinator(const mlxd_api *a) {
    return a->p.loop != NULL;
}
/* Snapshot into the HTTP thread's scratch; valid until its next call. */
static inline const mlxd_node_view *mlxd_api_view(mlxd_api *a) {
    a->p.view(a->p.view_ctx, a->view);
    return a->view;
}
/* Positions of one request now: the pipeline's; without one, what was configured. */
uint32_t mlxd_api_context(const mlxd_api *a);
/* Nanoseconds this process has computed: of the driver, or as the node reports it. */
uint64_t mlxd_api_busy_ns(const mlxd_api *a, const mlxd_node_view *v);

/* Handlers; HTTP thread. api_node.c, and below api_cluster.c */
void mlxd_api_get_root(void *ctx, mlxd_http_req *req);
void mlxd_api_get_health(void *ctx, mlxd_http_req *req);
void mlxd_api_get_ready(void *ctx, mlxd_http_req *req);
void mlxd_api_get_version(void *ctx, mlxd_http_req *req);
void mlxd_api_get_metrics(void *ctx, mlxd_http_req *req);
void mlxd_api_get_models(void *ctx, mlxd_http_req *req);
void mlxd_api_get_model(void *ctx, mlxd_http_req *req);
void mlxd_api_get_device(void *ctx, mlxd_http_req *req);
void mlxd_api_get_stats(void *ctx, mlxd_http_req *req);
void mlxd_api_get_cluster(void *ctx, mlxd_http_req *req);
void mlxd_api_refuse_register(void *ctx, mlxd_http_req *req); /* on a worker */

/* Work of the API threads. */
void mlxd_api_do_chat(mlxd_api *a, mlxd_http_req *req); /* api_complete.c */
void mlxd_api_do_completion(mlxd_api *a, mlxd_http_req *req);
void mlxd_api_do_tokenize(mlxd_api *a, mlxd_http_req *req); /* api_text.c */
void mlxd_api_do_detokenize(mlxd_api *a, mlxd_http_req *req);
void mlxd_api_do_register(mlxd_api *a, mlxd_http_req *req); /* api_node.c */

/* Parses the request's body, which must be a JSON object; false: *r says why not. */
bool mlxd_api_parse(mlxd_http_req *req, mlxd_json_doc **doc, mlxd_api_refusal *r);

#endif
