/* http_req.c - the request object: what came, and the reply or stream that goes out.
 *
 * A reply is made on the owner's thread and left in req->response; the HTTP thread queues it. A
 * stream is a ring of unsent bytes that libmicrohttpd's reader empties: when the ring is empty the
 * reader suspends the connection, when something is written the writer resumes it.
 *
 *     owner            write -> [ ring ] -> read          HTTP thread
 *                        resume  <----  suspend when empty
 */
#include "net/http_internal.h"

#include "format/json.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define RING_MIN (16u << 10)
#define READ_BLOCK 4096u     /* hint for libmicrohttpd; it asks for what its buffer holds */
#define FIELD_BYTES_MAX 1024 /* of a reply header's value; longer ones are cut */

/* ---- life ---- */

mlxd_http_req *mlxd_http_req_open(mlxd_http *h, mlxd_http_slot *slot, struct MHD_Connection *conn,
                                  const char *uri) {
    mlxd_http_req *req = mlxd_mem_new(1, sizeof *req);
    char *copy = mlxd_mem_dup_str(uri);
    if (!req || !copy) {
        mlxd_mem_free(req);
        mlxd_mem_free(copy);
        return NULL;
    }
    atomic_init(&req->refs, 1);
    mlxd_mutex_init(&req->lock);
    mlxd_cond_init(&req->told);
    mlxd_buf_init(&req->body, h->config.body_bytes_max + 1);
    req->h = h;
    atomic_fetch_add(&h->refs, 1);
    req->slot = slot;
    req->conn = conn;
    req->uri = copy;
    char *query = strchr(copy, '?');
    req->query = query ? query + 1 : "";
    if (query)
        *query = '\0';
    memcpy(req->peer, slot->peer, sizeof req->peer);
    req->began_ns = mlxd_clock_now_ns();
    return req;
}

void mlxd_http_req_ref(mlxd_http_req *req) {
    atomic_fetch_add(&req->refs, 1);
}

void mlxd_http_req_unref(mlxd_http_req *req) {
    if (atomic_fetch_sub(&req->refs, 1) != 1)
        return;
    MLXD_ASSERT(!req->suspended);
    if (req->response)
        MHD_destroy_response(req->response);
    atomic_fetch_sub(&req->h->bodies_bytes, req->body_budgeted);
    mlxd_buf_deinit(&req->body);
    mlxd_mem_free(req->ring);
    mlxd_mem_free(req->uri);
    mlxd_cond_deinit(&req->told);
    mlxd_mutex_deinit(&req->lock);
    mlxd_http_unref(req->h);
    mlxd_mem_free(req);
}

/* ---- what came ---- */

mlxd_http_method mlxd_http_req_method(const mlxd_http_req *req) {
    return req->route->method;
}

const char *mlxd_http_path(const mlxd_http_req *req) {
    return req->uri;
}

const char *mlxd_http_param(const mlxd_http_req *req) {
    return req->param;
}

const char *mlxd_http_query(const mlxd_http_req *req) {
    return req->query;
}

mlxd_slice mlxd_http_body(const mlxd_http_req *req) {
    const uint8_t *data = req->body.len ? req->body.data : (const uint8_t *)"";
    return (mlxd_slice){data, req->body.len};
}

const char *mlxd_http_id(const mlxd_http_req *req) {
    return req->id;
}

const char *mlxd_http_peer(const mlxd_http_req *req) {
    return req->peer;
}

uint32_t mlxd_http_key_id(const mlxd_http_req *req) {
    return req->key_id;
}

bool mlxd_http_authorized(const mlxd_http_req *req) {
    return req->authorized;
}

uint64_t mlxd_http_began_ns(const mlxd_http_req *req) {
    return req->began_ns;
}

const char *mlxd_http_header(const mlxd_http_req *req, const char *name) {
    MLXD_ASSERT(req->in_handler);
    return MHD_lookup_connection_value(req->conn, MHD_HEADER_KIND, name);
}

/* ---- the state of the reply, under lock ---- */

/* Lets the HTTP thread look again. */
static void resume(mlxd_http_req *req) {
    if (!req->suspended)
        return;
    req->suspended = false;
    MHD_resume_connection(req->conn);
}

typedef enum ending { REPLY, END, ABORT } ending;

/* The finishing call: takes `resp` (for REPLY, else NULL), gives up the owner's reference. */
static mlxd_err finish(mlxd_http_req *req, ending how, unsigned status, struct MHD_Response *resp) {
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&req->lock);
    MLXD_ASSERT(!req->finished);
    req->finished = true;
    req->ended = how == END;
    req->in_time = !req->gone;
    req->aborted = how == ABORT;
    if (req->gone) {
        err = MLXD_ERR_CANCELLED;
    } else {
        if (how == REPLY) {
            req->response = resp;
            req->response_status = status;
            resp = NULL;
        }
        resume(req);
    }
    while (req->telling && !pthread_equal(req->teller, pthread_self()))
        mlxd_cond_wait(&req->told, &req->lock);
    mlxd_mutex_unlock(&req->lock);
    if (resp)
        MHD_destroy_response(resp);
    mlxd_http_req_unref(req);
    return err;
}

void mlxd_http_req_tell_gone(mlxd_http_req *req) {
    mlxd_mutex_lock(&req->lock);
    if (req->gone || req->finished) {
        mlxd_mutex_unlock(&req->lock);
        return;
    }
    req->gone = true;
    resume(req);
    void (*fn)(void *ctx) = req->on_gone;
    void *ctx = req->on_gone_ctx;
    req->telling = fn != NULL;
    req->teller = pthread_self();
    mlxd_mutex_unlock(&req->lock);
    if (!fn)
        return;
    fn(ctx);
    mlxd_mutex_lock(&req->lock);
    req->telling = false;
    mlxd_cond_broadcast(&req->told);
    mlxd_mutex_unlock(&req->lock);
}

enum MHD_Result mlxd_http_req_advance(mlxd_http_req *req) {
    mlxd_mutex_lock(&req->lock);
    if (req->gone || req->aborted) {
        mlxd_mutex_unlock(&req->lock);
        return MHD_NO;
    }
    struct MHD_Response *resp = req->response;
    unsigned status = req->response_status;
    req->response = NULL;
    if (!resp) {
        MLXD_ASSERT(!req->suspended);
        MHD_suspend_connection(req->conn);
        req->suspended = true;
    }
    mlxd_mutex_unlock(&req->lock);
    if (!resp)
        return MHD_YES;
    req->phase = MLXD_HTTP_PHASE_REPLIED;
    req->status = status;
    enum MHD_Result queued = MHD_queue_response(req->conn, status, resp);
    MHD_destroy_response(resp);
    return queued;
}

bool mlxd_http_on_gone(mlxd_http_req *req, void (*fn)(void *ctx), void *ctx) {
    mlxd_mutex_lock(&req->lock);
    MLXD_ASSERT(!req->finished);
    bool here = !req->gone;
    if (here) {
        req->on_gone = fn;
        req->on_gone_ctx = ctx;
    }
    mlxd_mutex_unlock(&req->lock);
    return here;
}

bool mlxd_http_gone(mlxd_http_req *req) {
    mlxd_mutex_lock(&req->lock);
    bool gone = req->gone;
    mlxd_mutex_unlock(&req->lock);
    return gone;
}

/* ---- replies ---- */

static bool add_field(struct MHD_Response *resp, const char *name, const char *value) {
    char clean[FIELD_BYTES_MAX + 1];
    size_t n = 0;
    for (; value[n] && n < FIELD_BYTES_MAX; n++)
        clean[n] = value[n] >= 0x20 && value[n] < 0x7f ? value[n] : '?';
    clean[n] = '\0';
    return n == 0 || MHD_add_response_header(resp, name, clean) == MHD_YES;
}

/* Adds what every reply has; frees `resp` and returns NULL when memory is out. */
static struct MHD_Response *dress(const mlxd_http_req *req, struct MHD_Response *resp,
                                  const char *content_type, const mlxd_http_field *fields) {
    if (!resp)
        return NULL;
    bool good = add_field(resp, "x-request-id", req->id);
    if (content_type)
        good = good && add_field(resp, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    for (const mlxd_http_field *f = fields; f && f->name; f++)
        good = good && add_field(resp, f->name, f->value);
    if (good)
        return resp;
    MHD_destroy_response(resp);
    return NULL;
}

static struct MHD_Response *buffer_response(const mlxd_http_req *req, const char *content_type,
                                            mlxd_slice body, const mlxd_http_field *fields) {
    /* The cast drops const only on paper: the bytes are copied. */
    struct MHD_Response *resp = MHD_create_response_from_buffer(
        body.len, (void *)(uintptr_t)body.data, MHD_RESPMEM_MUST_COPY);
    return dress(req, resp, content_type, fields);
}

mlxd_err mlxd_http_reply(mlxd_http_req *req, unsigned status, const char *content_type,
                         mlxd_slice body, const mlxd_http_field *fields) {
    MLXD_ASSERT(status >= 200 && status <= 599);
    MLXD_ASSERT(!req->streaming);
    struct MHD_Response *resp = buffer_response(req, content_type, body, fields);
    mlxd_err err = finish(req, resp ? REPLY : ABORT, status, resp);
    return resp ? err : MLXD_ERR_NOMEM;
}

static const char *error_type(unsigned status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "unavailable_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void mlxd_http_error_json(mlxd_buf *out, unsigned status, const char *code, const char *param,
                          const char *message) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "error");
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "message", message);
    mlxd_jsonw_member_str(&w, "type", error_type(status));
    mlxd_jsonw_member_str(&w, "param", param);
    mlxd_jsonw_member_str(&w, "code", code);
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_object_end(&w);
    MLXD_ASSERT(mlxd_jsonw_done(&w));
}

static struct MHD_Response *error_response(const mlxd_http_req *req, unsigned status,
                                           const char *code, const char *param, const char *message,
                                           const mlxd_http_field *fields) {
    mlxd_buf body;
    mlxd_buf_init(&body, 0);
    mlxd_http_error_json(&body, status, code, param, message);
    struct MHD_Response *resp = NULL;
    if (!body.failed)
        resp = buffer_response(req, "application/json", (mlxd_slice){body.data, body.len}, fields);
    mlxd_buf_deinit(&body);
    return resp;
}

mlxd_err mlxd_http_reply_error(mlxd_http_req *req, unsigned status, const char *code,
                               const char *param, const char *message,
                               const mlxd_http_field *fields) {
    MLXD_ASSERT(status >= 400 && status <= 599);
    MLXD_ASSERT(!req->streaming);
    struct MHD_Response *resp = error_response(req, status, code, param, message, fields);
    mlxd_err err = finish(req, resp ? REPLY : ABORT, status, resp);
    return resp ? err : MLXD_ERR_NOMEM;
}

struct MHD_Response *mlxd_http_refusal_response(mlxd_http_req *req) {
    const mlxd_http_refusal *r = &req->refusal;
    MLXD_ASSERT(r->status != 0);
    const mlxd_http_field fields[] = {{r->header, r->value}, {NULL, NULL}};
    return error_response(req, r->status, r->code, NULL, r->message, fields);
}

/* ---- streams ---- */

static size_t ring_take(mlxd_http_req *req, char *out, size_t max) {
    size_t n = MLXD_MIN(max, req->ring_len);
    size_t first = MLXD_MIN(n, req->ring_cap - req->ring_at);
    memcpy(out, req->ring + req->ring_at, first);
    memcpy(out + first, req->ring, n - first);
    req->ring_len -= n;
    req->ring_at = req->ring_len ? (req->ring_at + n) % req->ring_cap : 0;
    return n;
}

/* Makes room for `len` more; the unsent bytes end up at the start of the new ring. */
static bool ring_grow(mlxd_http_req *req, size_t len) {
    size_t need = req->ring_len + len;
    size_t cap = MLXD_MAX(req->ring_cap, RING_MIN);
    while (cap < need)
        cap *= 2;
    if (cap == req->ring_cap)
        return true;
    uint8_t *ring = mlxd_mem_new(cap, 1);
    if (!ring)
        return false;
    size_t kept = req->ring_len;
    if (kept)
        ring_take(req, (char *)ring, kept);
    mlxd_mem_free(req->ring);
    req->ring = ring;
    req->ring_cap = cap;
    req->ring_at = 0;
    req->ring_len = kept;
    return true;
}

static void ring_put(mlxd_http_req *req, const uint8_t *data, size_t len) {
    size_t at = (req->ring_at + req->ring_len) % req->ring_cap;
    size_t first = MLXD_MIN(len, req->ring_cap - at);
    memcpy(req->ring + at, data, first);
    memcpy(req->ring, data + first, len - first);
    req->ring_len += len;
}

/* libmicrohttpd's reader, on the HTTP thread. It must not return 0 without suspending. */
static ssize_t read_stream(void *cls, uint64_t pos, char *out, size_t max) {
    mlxd_http_req *req = cls;
    (void)pos;
    ssize_t n = 0;
    mlxd_mutex_lock(&req->lock);
    if (req->gone || req->aborted) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (req->ring_len) {
        n = (ssize_t)ring_take(req, out, max);
    } else if (req->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        MLXD_ASSERT(!req->suspended);
        MHD_suspend_connection(req->conn);
        req->suspended = true;
    }
    mlxd_mutex_unlock(&req->lock);
    return n;
}

static void free_stream(void *cls) {
    mlxd_http_req_unref(cls);
}

static struct MHD_Response *stream_response(mlxd_http_req *req, const char *content_type,
                                            const mlxd_http_field *fields) {
    mlxd_http_req_ref(req);
    struct MHD_Response *resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READ_BLOCK,
                                                                  read_stream, req, free_stream);
    if (!resp) {
        mlxd_http_req_unref(req);
        return NULL;
    }
    /* To a HEAD, libmicrohttpd 0.9.75 would send the terminating chunk of the body that it leaves
     * out. Without chunks it ends by close instead. */
    if (strcmp(req->method, "HEAD") == 0)
        (void)MHD_set_response_options(resp, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
    if (strncasecmp(content_type, "text/event-stream", 17) == 0 &&
        !(add_field(resp, "Cache-Control", "no-cache") &&
          add_field(resp, "X-Accel-Buffering", "no"))) {
        MHD_destroy_response(resp);
        return NULL;
    }
    return dress(req, resp, content_type, fields);
}

mlxd_err mlxd_http_stream_begin(mlxd_http_req *req, unsigned status, const char *content_type,
                                const mlxd_http_field *fields) {
    MLXD_ASSERT(status >= 200 && status <= 599);
    struct MHD_Response *resp = stream_response(req, content_type, fields);
    mlxd_err err = resp ? MLXD_OK : MLXD_ERR_NOMEM;
    mlxd_mutex_lock(&req->lock);
    MLXD_ASSERT(!req->finished && !req->streaming);
    if (err == MLXD_OK && !ring_grow(req, RING_MIN))
        err = MLXD_ERR_NOMEM;
    if (err == MLXD_OK && req->gone)
        err = MLXD_ERR_CANCELLED;
    if (err == MLXD_OK) {
        req->streaming = true;
        req->response = resp;
        req->response_status = status;
        resp = NULL;
        resume(req);
    }
    mlxd_mutex_unlock(&req->lock);
    if (resp)
        MHD_destroy_response(resp);
    return err;
}

mlxd_err mlxd_http_stream_write(mlxd_http_req *req, const void *data, size_t len) {
    size_t max = req->h->config.stream_bytes_max;
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&req->lock);
    MLXD_ASSERT(!req->finished);
    if (req->gone)
        err = MLXD_ERR_CANCELLED;
    else if (len > max || req->ring_len > max - len)
        err = MLXD_ERR_FULL;
    else if (!ring_grow(req, len))
        err = MLXD_ERR_NOMEM;
    if (err == MLXD_OK && len > 0) {
        MLXD_ASSERT(req->streaming);
        ring_put(req, data, len);
        resume(req);
    }
    mlxd_mutex_unlock(&req->lock);
    return err;
}

size_t mlxd_http_stream_pending(mlxd_http_req *req) {
    mlxd_mutex_lock(&req->lock);
    size_t n = req->ring_len;
    mlxd_mutex_unlock(&req->lock);
    return n;
}

void mlxd_http_stream_end(mlxd_http_req *req) {
    MLXD_ASSERT(req->streaming || mlxd_http_gone(req));
    (void)finish(req, END, 0, NULL);
}

void mlxd_http_stream_abort(mlxd_http_req *req) {
    (void)finish(req, ABORT, 0, NULL);
}
