/* tensor_service.c - see tensor_service.h.
 *
 *   poller      call + message --> jobs --> service thread --> answer
 *                                           |  store, waiters, line of passes
 *                                           '--> forward(one pass) ... done --> jobs --> answer
 *
 * A message stays as it came (and counts against its sender's budget) until its tensor is copied
 * once: into the store, or into the aligned buffer that the layers work in and that is then sent
 * from where it lies.
 *
 * Nothing is removed from a list behind the service thread's back: a client that leaves only wakes
 * it, and every turn of its loop looks for calls that are cancelled or late.
 */
#include "cluster/tensor_service.h"

#include "base/clock.h"
#include "base/mem.h"
#include "cluster/tensor_store.h"

#include <stdio.h>
#include <string.h>

#include <tensor_service.pb-c.h>

#define SERVICE "/tensor_service.TensorService/"
#define JOBS_MAX 1024
#define SMALL_MESSAGE_MAX (64u << 10) /* a request without a tensor; what surrounds one */
#define OUTPUT_SUFFIX ":out"

enum kind { SEND, GET, FORWARD, WAKE, PASS_DONE, CLOSE };

struct pass;

struct job {
    enum kind kind;
    mlxd_rpc_call *call; /* SEND, GET, FORWARD */
    mlxd_rpc_msg *msg;
    struct pass *pass; /* PASS_DONE */
};

/* A GetTensor call whose tensor has not come yet. */
struct waiter {
    mlxd_rpc_call *call;
    uint64_t deadline_ns;
    double timeout_s;
    size_t id_len;
    uint8_t id[MLXD_LIMIT_TENSOR_ID];
};

/* A ForwardPass call, checked: waiting in the line or running. */
struct pass {
    mlxd_tensor_service *service;
    mlxd_rpc_call *call;
    mlxd_rpc_msg *msg;        /* until it starts */
    mlxd_tensor_block *block; /* from then on: hidden states [n][hidden size] */
    mlxd_tensor tensor;       /* the input's shape; its data while msg is there */
    uint32_t first, end, n, width;
    size_t id_len;
    uint8_t id[MLXD_LIMIT_TENSOR_ID]; /* of the output */
    mlxd_err err;                     /* of the result */
    mlxd_why why;
};

struct mlxd_tensor_service {
    mlxd_tensor_service_params p;
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    mlxd_queue *jobs;
    mlxd_thread thread;
    bool started;
    /* poller thread */
    mlxd_tensor_view view;
    int32_t numbers[MLXD_LIMIT_LAYERS]; /* 0, 1, 2 ... */
    /* service thread */
    mlxd_tensor_store *store;
    mlxd_tensor_pool *outputs; /* of passes, until they are sent */
    struct waiter waiters[MLXD_LIMIT_TENSOR_WAITERS];
    size_t n_waiters;
    struct pass *line[MLXD_LIMIT_FORWARD_PASSES]; /* oldest first */
    size_t n_line;
    struct pass *running;
    bool closing;
};

/* ---- requests ---- */

/* SendTensorRequest */
struct send_fields {
    mlxd_tensor tensor;
    bool present;
};

static bool take_send_field(void *out, const mlxd_field *f) {
    struct send_fields *r = out;
    if (f->number != 1)
        return true;
    r->present = true;
    return mlxd_tensor_read(&r->tensor, f);
}

/* GetTensorRequest */
struct get_fields {
    mlxd_slice id;
    double timeout_s;
};

static bool take_get_field(void *out, const mlxd_field *f) {
    struct get_fields *r = out;
    if (f->number == 1)
        return mlxd_field_bytes(&r->id, f);
    return f->number != 2 || mlxd_field_double(&r->timeout_s, f);
}

/* ForwardPassRequest */
struct forward_fields {
    struct send_fields input;
    int32_t start, end;
    mlxd_slice pass_id;
};

static bool take_forward_field(void *out, const mlxd_field *f) {
    struct forward_fields *r = out;
    switch (f->number) {
    case 1:
        return take_send_field(&r->input, f);
    case 2:
        return mlxd_field_int32(&r->start, f);
    case 3:
        return mlxd_field_int32(&r->end, f);
    case 4:
        return mlxd_field_bytes(&r->pass_id, f);
    default:
        return true;
    }
}

/* HealthRequest and ClusterStatusRequest: who asks, which changes nothing. */
static bool take_name_field(void *out, const mlxd_field *f) {
    return f->number != 1 || mlxd_field_bytes(out, f);
}

/* ---- answers ---- */

/* Answers with {success = 1, tensor = 3}: GetTensorResponse and ForwardPassResponse alike. The data
 * lies in `block`, whose reference is taken. */
static void reply_tensor(mlxd_rpc_call *call, const mlxd_tensor *t, mlxd_tensor_block *block) {
    static const uint8_t success[] = {1 << 3, 1};
    mlxd_buf head, tensor;
    mlxd_buf_init(&head, 0);
    mlxd_buf_init(&tensor, 0);
    mlxd_tensor_write(&tensor, t);
    mlxd_buf_add(&head, success, sizeof success);
    mlxd_field_add_head(&head, 3, tensor.len + t->data.len);
    if (head.failed || tensor.failed) {
        mlxd_tensor_block_unref(block);
        mlxd_rpc_call_fail(call, MLXD_ERR_NOMEM, "out of memory");
    } else {
        mlxd_rpc_part parts[] = {
            {.bytes = {head.data, head.len}},
            {.bytes = {tensor.data, tensor.len}},
            {.bytes = t->data, .release = mlxd_tensor_block_unref, .release_ctx = block}};
        mlxd_rpc_call_reply(call, parts, MLXD_COUNT_OF(parts));
    }
    mlxd_buf_deinit(&tensor);
    mlxd_buf_deinit(&head);
}

static void reply_packed(mlxd_rpc_call *call, const ProtobufCMessage *m) {
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    uint8_t *p = mlxd_buf_reserve(&out, protobuf_c_message_get_packed_size(m));
    if (p) {
        mlxd_rpc_part part = {.bytes = {p, protobuf_c_message_pack(m, p)}};
        mlxd_rpc_call_reply(call, &part, 1);
    } else {
        mlxd_rpc_call_fail(call, MLXD_ERR_NOMEM, "out of memory");
    }
    mlxd_buf_deinit(&out);
}

/* ---- SendTensor, GetTensor ---- */

static void give_to_waiters(mlxd_tensor_service *s, mlxd_slice id) {
    mlxd_tensor t;
    mlxd_tensor_block *block;
    for (size_t i = 0; i < s->n_waiters;) {
        struct waiter *w = &s->waiters[i];
        if (!mlxd_slice_eq((mlxd_slice){w->id, w->id_len}, id) ||
            !mlxd_tensor_store_get(s->store, id, &t, &block)) {
            i++;
            continue;
        }
        reply_tensor(w->call, &t, block);
        *w = s->waiters[--s->n_waiters];
    }
}

static void run_send(mlxd_tensor_service *s, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    struct send_fields r = {0};
    mlxd_why why = {0};
    mlxd_err err = MLXD_OK;
    if (!mlxd_field_scan(mlxd_rpc_msg_bytes(msg), take_send_field, &r))
        err = mlxd_fail(&why, MLXD_ERR_PROTO, "malformed SendTensorRequest");
    else if (!r.present)
        err = mlxd_fail(&why, MLXD_ERR_INVALID, "tensor is missing");
    else
        err = mlxd_tensor_store_put(s->store, &r.tensor, &why);
    if (err) {
        mlxd_rpc_call_fail(call, err, why.text);
    } else {
        TensorService__SendTensorResponse m = TENSOR_SERVICE__SEND_TENSOR_RESPONSE__INIT;
        m.success = true;
        reply_packed(call, &m.base);
        give_to_waiters(s, r.tensor.id);
    }
    mlxd_rpc_msg_free(msg);
}

static mlxd_err add_waiter(mlxd_tensor_service *s, mlxd_rpc_call *call, const struct get_fields *r,
                           mlxd_why *why) {
    if (s->n_waiters == MLXD_LIMIT_TENSOR_WAITERS)
        return mlxd_fail(why, MLXD_ERR_FULL, "%zu calls wait for a tensor, that is the most",
                         s->n_waiters);
    struct waiter *w = &s->waiters[s->n_waiters++];
    w->call = call;
    w->timeout_s = r->timeout_s;
    w->deadline_ns = mlxd_clock_now_ns() + (uint64_t)(r->timeout_s * (double)MLXD_NS_PER_S);
    w->id_len = r->id.len;
    memcpy(w->id, r->id.data, r->id.len);
    return MLXD_OK;
}

static mlxd_err check_get(mlxd_slice bytes, struct get_fields *r, mlxd_why *why) {
    if (!mlxd_field_scan(bytes, take_get_field, r))
        return mlxd_fail(why, MLXD_ERR_PROTO, "malformed GetTensorRequest");
    if (!(r->timeout_s >= 0 && r->timeout_s <= MLXD_LIMIT_TENSOR_WAIT_S)) /* NaN neither */
        return mlxd_fail(why, MLXD_ERR_INVALID, "timeout is %g, expected 0..%d seconds",
                         r->timeout_s, MLXD_LIMIT_TENSOR_WAIT_S);
    return mlxd_tensor_check_id("tensor_id", r->id, why);
}

static void run_get(mlxd_tensor_service *s, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    struct get_fields r = {0};
    mlxd_tensor t;
    mlxd_tensor_block *block;
    mlxd_why why = {0};
    mlxd_err err = check_get(mlxd_rpc_msg_bytes(msg), &r, &why);
    if (!err) {
        if (mlxd_tensor_store_get(s->store, r.id, &t, &block))
            reply_tensor(call, &t, block);
        else if (r.timeout_s > 0)
            err = add_waiter(s, call, &r, &why);
        else
            err = mlxd_fail(&why, MLXD_ERR_NOTFOUND, "no tensor \"%.*s\" here", (int)r.id.len,
                            (const char *)r.id.data);
    }
    if (err)
        mlxd_rpc_call_fail(call, err, why.text);
    mlxd_rpc_msg_free(msg);
}

/* ---- ForwardPass ---- */

static void shape_text(const mlxd_tensor *t, char *out, size_t size) {
    size_t at = 0;
    for (uint32_t i = 0; i < t->n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%d", i ? ", " : "", (int)t->shape[i]);
}

/* The hidden states: float32 [n][hidden] or [1][n][hidden], finite. */
static mlxd_err check_input(const struct send_fields *input, uint32_t hidden, uint32_t *n,
                            mlxd_why *why) {
    const mlxd_tensor *t = &input->tensor;
    if (!input->present)
        return mlxd_fail(why, MLXD_ERR_INVALID, "input_tensor is missing");
    mlxd_err err = mlxd_tensor_check(t, why);
    if (err)
        return mlxd_fail_in(why, err, "input_tensor");
    if (!mlxd_slice_eq(t->dtype, mlxd_slice_str("float32")))
        return mlxd_fail(why, MLXD_ERR_INVALID, "input_tensor: dtype %.*s, expected float32",
                         (int)t->dtype.len, (const char *)t->dtype.data);
    const int32_t *shape = t->shape + (t->n_dims == 3 && t->shape[0] == 1);
    if (t->n_dims != (shape == t->shape ? 2u : 3u) || shape[1] != (int64_t)hidden) {
        char text[128] = "";
        shape_text(t, text, sizeof text);
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "input_tensor: shape [%s], expected [positions, %u] or [1, positions, %u]",
                         text, hidden, hidden);
    }
    if (shape[0] > MLXD_LIMIT_STEP_TOKENS)
        return mlxd_fail(why, MLXD_ERR_INVALID, "input_tensor: %d positions, at most %d in a pass",
                         (int)shape[0], MLXD_LIMIT_STEP_TOKENS);
    *n = (uint32_t)shape[0];
    err = mlxd_tensor_check_finite(t, why);
    return err ? mlxd_fail_in(why, err, "input_tensor") : MLXD_OK;
}

static mlxd_err check_pass(const mlxd_tensor_service *s, const struct forward_fields *r,
                           uint32_t *n, uint32_t *hidden, mlxd_why *why) {
    uint32_t layers;
    mlxd_err err = r->pass_id.len ? mlxd_tensor_check_id("pass_id", r->pass_id, why) : MLXD_OK;
    if (err)
        return err;
    if (r->pass_id.len > MLXD_LIMIT_TENSOR_ID - strlen(OUTPUT_SUFFIX))
        return mlxd_fail(why, MLXD_ERR_INVALID, "pass_id has %zu bytes, at most %zu are allowed",
                         r->pass_id.len, MLXD_LIMIT_TENSOR_ID - strlen(OUTPUT_SUFFIX));
    if (r->start < 0 || r->end < r->start)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "layers %d..%d: layer_start must be 0 or more, layer_end not below it",
                         (int)r->start, (int)r->end);
    if (!s->p.forward || !s->p.shape(s->p.forward_ctx, hidden, &layers))
        return mlxd_fail(why, MLXD_ERR_STATE, "no layers here");
    if (r->end >= (int64_t)layers)
        return mlxd_fail(why, MLXD_ERR_STATE, "layers %d..%d: the model has layers 0..%u",
                         (int)r->start, (int)r->end, layers - 1);
    return check_input(&r->input, *hidden, n, why);
}

static void free_pass(struct pass *p) {
    mlxd_rpc_msg_free(p->msg);
    if (p->block)
        mlxd_tensor_block_unref(p->block);
    mlxd_mem_free(p);
}

static void fail_pass(struct pass *p, mlxd_err err, const char *text) {
    mlxd_rpc_call_fail(p->call, err, text);
    free_pass(p);
}

/* Puts a checked pass into the line, which takes call and message. */
static mlxd_err queue_pass(mlxd_tensor_service *s, mlxd_rpc_call *call, mlxd_rpc_msg *msg,
                           const struct forward_fields *r, uint32_t n, uint32_t width,
                           mlxd_why *why) {
    if (s->n_line == MLXD_LIMIT_FORWARD_PASSES)
        return mlxd_fail(why, MLXD_ERR_FULL, "%zu forward passes are waiting, that is the most",
                         s->n_line);
    struct pass *p = mlxd_mem_new(1, sizeof *p);
    if (!p)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    p->service = s;
    p->call = call;
    p->msg = msg;
    p->tensor = r->input.tensor;
    p->first = (uint32_t)r->start;
    p->end = (uint32_t)r->end + 1;
    p->n = n;
    p->width = width;
    p->id_len = r->pass_id.len + strlen(OUTPUT_SUFFIX);
    if (r->pass_id.len)
        memcpy(p->id, r->pass_id.data, r->pass_id.len);
    memcpy(p->id + r->pass_id.len, OUTPUT_SUFFIX, strlen(OUTPUT_SUFFIX));
    s->line[s->n_line++] = p;
    return MLXD_OK;
}

static void run_forward(mlxd_tensor_service *s, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    struct forward_fields r = {0};
    uint32_t n = 0, width = 0;
    mlxd_why why = {0};
    mlxd_err err = MLXD_OK;
    if (!mlxd_field_scan(mlxd_rpc_msg_bytes(msg), take_forward_field, &r))
        err = mlxd_fail(&why, MLXD_ERR_PROTO, "malformed ForwardPassRequest");
    if (!err)
        err = check_pass(s, &r, &n, &width, &why);
    if (!err)
        err = queue_pass(s, call, msg, &r, n, width, &why);
    if (!err)
        return;
    mlxd_rpc_call_fail(call, err, why.text);
    mlxd_rpc_msg_free(msg);
}

static void on_pass_done(void *ctx, mlxd_err err, const mlxd_why *why) {
    struct pass *p = ctx;
    struct job job = {.kind = PASS_DONE, .pass = p};
    p->err = err;
    if (err)
        p->why = *why;
    err = mlxd_queue_push_wait(p->service->jobs, &job);
    MLXD_ASSERT(err == MLXD_OK); /* close waits for the running pass */
}

static mlxd_err start_pass(mlxd_tensor_service *s, struct pass *p, mlxd_why *why) {
    mlxd_slice data = p->tensor.data;
    if (mlxd_rpc_call_cancelled(p->call))
        return mlxd_fail(why, MLXD_ERR_CANCELLED, "the client has left");
    if (mlxd_rpc_call_info(p->call)->deadline_ns <= mlxd_clock_now_ns())
        return mlxd_fail(why, MLXD_ERR_TIMEOUT, "the deadline passed before the pass began");
    mlxd_err err = mlxd_tensor_block_open(&p->block, s->outputs, data.len, why);
    if (err)
        return mlxd_fail_in(why, err, "results that are not read yet");
    uint8_t *hidden = mlxd_tensor_block_data(p->block);
    memcpy(hidden, data.data, data.len);
    mlxd_rpc_msg_free(p->msg);
    p->msg = NULL;
    p->tensor = (mlxd_tensor){.id = {p->id, p->id_len},
                              .dtype = mlxd_slice_str("float32"),
                              .source = mlxd_slice_str(s->device),
                              .n_dims = p->tensor.n_dims,
                              .data = {hidden, data.len}};
    uint32_t dims[] = {1, p->n, p->width};
    for (uint32_t i = 0; i < p->tensor.n_dims; i++)
        p->tensor.shape[i] = (int32_t)dims[3 - p->tensor.n_dims + i];
    err = s->p.forward(s->p.forward_ctx, p->first, p->end, (float *)(void *)hidden, p->n, p->width,
                       on_pass_done, p);
    if (err)
        return mlxd_fail(why, err, "the layers take no pass now: %s", mlxd_err_name(err));
    s->running = p;
    return MLXD_OK;
}

static void start_next_pass(mlxd_tensor_service *s) {
    while (!s->running && s->n_line) {
        struct pass *p = s->line[0];
        mlxd_why why = {0};
        memmove(s->line, s->line + 1, --s->n_line * sizeof s->line[0]);
        mlxd_err err = start_pass(s, p, &why);
        if (err)
            fail_pass(p, err, why.text);
    }
}

static void finish_pass(mlxd_tensor_service *s, struct pass *p) {
    MLXD_ASSERT(s->running == p);
    s->running = NULL;
    if (p->err) {
        fail_pass(p, p->err, p->why.text);
        return;
    }
    p->tensor.timestamp = (double)mlxd_clock_wall_ns() / 1e9;
    reply_tensor(p->call, &p->tensor, p->block);
    p->block = NULL;
    free_pass(p);
}

/* ---- the service thread ---- */

static void fail_waiter(mlxd_tensor_service *s, size_t i, mlxd_err err, const char *text) {
    mlxd_rpc_call_fail(s->waiters[i].call, err, text);
    s->waiters[i] = s->waiters[--s->n_waiters];
}

/* Ends calls that nobody wants any more and waiters whose time is over. Returns when the next one's
 * will be. */
static uint64_t sweep(mlxd_tensor_service *s) {
    uint64_t now = mlxd_clock_now_ns(), next = UINT64_MAX;
    mlxd_why why;
    for (size_t i = 0; i < s->n_waiters;) {
        const struct waiter *w = &s->waiters[i];
        if (mlxd_rpc_call_cancelled(w->call)) {
            fail_waiter(s, i, MLXD_ERR_CANCELLED, "the client has left");
        } else if (w->deadline_ns <= now) {
            (void)mlxd_fail(&why, MLXD_ERR_NOTFOUND, "tensor \"%.*s\" did not come within %g s",
                            (int)w->id_len, (const char *)w->id, w->timeout_s);
            fail_waiter(s, i, MLXD_ERR_NOTFOUND, why.text);
        } else {
            next = MLXD_MIN(next, w->deadline_ns);
            i++;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < s->n_line; i++) {
        if (mlxd_rpc_call_cancelled(s->line[i]->call))
            fail_pass(s->line[i], MLXD_ERR_CANCELLED, "the client has left");
        else
            s->line[kept++] = s->line[i];
    }
    s->n_line = kept;
    return next;
}

static void end_all(mlxd_tensor_service *s) {
    static const char text[] = "the node is shutting down";
    s->closing = true;
    while (s->n_waiters)
        fail_waiter(s, s->n_waiters - 1, MLXD_ERR_PEER, text);
    while (s->n_line)
        fail_pass(s->line[--s->n_line], MLXD_ERR_PEER, text);
}

static void run_job(mlxd_tensor_service *s, const struct job *job) {
    if (job->call && mlxd_rpc_call_cancelled(job->call)) {
        mlxd_rpc_msg_free(job->msg);
        mlxd_rpc_call_fail(job->call, MLXD_ERR_CANCELLED, "the client has left");
        return;
    }
    switch (job->kind) {
    case SEND:
        run_send(s, job->call, job->msg);
        break;
    case GET:
        run_get(s, job->call, job->msg);
        break;
    case FORWARD:
        run_forward(s, job->call, job->msg);
        break;
    case PASS_DONE:
        finish_pass(s, job->pass);
        break;
    case CLOSE:
        end_all(s);
        break;
    case WAKE:
        break;
    }
}

static void service_main(void *arg) {
    mlxd_tensor_service *s = arg;
    struct job job;
    while (!s->closing || s->running) {
        mlxd_err err = mlxd_queue_pop(s->jobs, &job, sweep(s));
        MLXD_ASSERT(err == MLXD_OK || err == MLXD_ERR_AGAIN);
        if (!err)
            run_job(s, &job);
        start_next_pass(s);
    }
}

/* ---- callbacks: the poller thread ---- */

static void post(mlxd_tensor_service *s, enum kind kind, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    struct job job = {.kind = kind, .call = call, .msg = msg};
    if (mlxd_queue_push(s->jobs, &job) == MLXD_OK)
        return;
    mlxd_rpc_msg_free(msg);
    mlxd_rpc_call_fail(call, MLXD_ERR_FULL, "too many calls are waiting");
}

static void on_send(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    post(ctx, SEND, call, msg);
}

static void on_get(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    post(ctx, GET, call, msg);
}

static void on_forward(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    post(ctx, FORWARD, call, msg);
}

static void on_cancel(void *ctx, mlxd_rpc_call *call) {
    mlxd_tensor_service *s = ctx;
    struct job job = {.kind = WAKE};
    (void)call;
    /* When the queue is full the thread is awake and will look after the next job. */
    mlxd_err err = mlxd_queue_push(s->jobs, &job);
    (void)err;
}

/* Reads a request of which nothing is needed, and asks the node. False: the call is answered. */
static bool begin_query(mlxd_tensor_service *s, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    mlxd_slice name;
    bool ok = mlxd_field_scan(mlxd_rpc_msg_bytes(msg), take_name_field, &name);
    mlxd_rpc_msg_free(msg);
    if (!ok) {
        mlxd_rpc_call_fail(call, MLXD_ERR_PROTO, "malformed request");
        return false;
    }
    memset(&s->view, 0, sizeof s->view);
    s->p.view(s->p.view_ctx, &s->view);
    return true;
}

static void on_health(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    mlxd_tensor_service *s = ctx;
    if (!begin_query(s, call, msg))
        return;
    TensorService__HealthResponse m = TENSOR_SERVICE__HEALTH_RESPONSE__INIT;
    m.healthy = s->view.healthy;
    m.device_id = s->device;
    m.timestamp = (double)mlxd_clock_wall_ns() / 1e9;
    m.status_message = s->view.text.text;
    reply_packed(call, &m.base);
}

static void on_cluster(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    mlxd_tensor_service *s = ctx;
    TensorService__DeviceInfo infos[MLXD_LIMIT_NODES], *pointers[MLXD_LIMIT_NODES];
    if (!begin_query(s, call, msg))
        return;
    TensorService__ClusterStatusResponse m = TENSOR_SERVICE__CLUSTER_STATUS_RESPONSE__INIT;
    m.n_devices = MLXD_MIN(s->view.n_devices, (uint32_t)MLXD_LIMIT_NODES);
    m.devices = pointers;
    m.coordinator = s->view.coordinator;
    for (size_t i = 0; i < m.n_devices; i++) {
        mlxd_tensor_device *d = &s->view.devices[i];
        uint32_t end = MLXD_MIN(d->end, (uint32_t)MLXD_LIMIT_LAYERS),
                 first = MLXD_MIN(d->first, end);
        pointers[i] = &infos[i];
        tensor_service__device_info__init(&infos[i]);
        infos[i].device_id = d->device;
        infos[i].hostname = d->hostname;
        infos[i].port = d->port;
        infos[i].role = (char *)(uintptr_t)d->role;
        infos[i].n_layers = end - first;
        infos[i].layers = s->numbers + first;
        infos[i].status = (char *)(uintptr_t)d->status;
    }
    reply_packed(call, &m.base);
}

void mlxd_tensor_service_methods(mlxd_tensor_service *s, mlxd_rpc_method out[MLXD_TENSOR_METHODS]) {
    const unsigned owners = (unsigned)MLXD_ROLE_COORDINATOR | (unsigned)MLXD_ROLE_OPERATOR;
    /* The longest pass, and room beyond it: one that is too long is then refused with numbers. */
    size_t pass_max = (size_t)MLXD_LIMIT_STEP_TOKENS * s->p.hidden_max * sizeof(float);
    pass_max = MLXD_MIN(pass_max + pass_max / 8 + SMALL_MESSAGE_MAX, MLXD_LIMIT_GRPC_MESSAGE);
    const mlxd_rpc_method rows[MLXD_TENSOR_METHODS] = {
        {.path = SERVICE "SendTensor", .roles = owners, .on_call = on_send},
        {.path = SERVICE "GetTensor",
         .roles = owners,
         .on_call = on_get,
         .on_cancel = on_cancel,
         .message_max = SMALL_MESSAGE_MAX},
        {.path = SERVICE "HealthCheck",
         .roles = MLXD_ROLES_ALL,
         .on_call = on_health,
         .message_max = SMALL_MESSAGE_MAX},
        {.path = SERVICE "ForwardPass",
         .roles = owners,
         .on_call = on_forward,
         .on_cancel = on_cancel,
         .message_max = pass_max},
        {.path = SERVICE "GetClusterStatus",
         .roles = MLXD_ROLES_ALL,
         .on_call = on_cluster,
         .message_max = SMALL_MESSAGE_MAX}};
    for (size_t i = 0; i < MLXD_TENSOR_METHODS; i++) {
        out[i] = rows[i];
        out[i].kind = MLXD_RPC_UNARY;
        out[i].ctx = s;
    }
}

/* ---- open, close ---- */

mlxd_err mlxd_tensor_service_open(mlxd_tensor_service **out, const mlxd_tensor_service_params *p,
                                  mlxd_why *why) {
    MLXD_ASSERT(p->hidden_max >= 1 && p->hidden_max <= MLXD_LIMIT_HIDDEN);
    MLXD_ASSERT(p->view && (!p->forward || p->shape));
    mlxd_tensor_service *s = mlxd_mem_new(1, sizeof *s);
    mlxd_err err = MLXD_ERR_NOMEM;
    if (s) {
        s->p = *p;
        snprintf(s->device, sizeof s->device, "%s", p->device);
        for (int32_t i = 0; i < MLXD_LIMIT_LAYERS; i++)
            s->numbers[i] = i;
        s->jobs = mlxd_queue_open(sizeof(struct job), JOBS_MAX);
        s->store =
            mlxd_tensor_store_open(MLXD_LIMIT_TENSOR_STORE_COUNT, MLXD_LIMIT_TENSOR_STORE_BYTES);
        s->outputs = mlxd_tensor_pool_open(MLXD_LIMIT_FORWARD_BYTES);
        if (s->jobs && s->store && s->outputs)
            err = mlxd_thread_start(&s->thread, "tensor", MLXD_PRIORITY_NORMAL, service_main, s);
        s->started = !err;
    }
    if (err) {
        mlxd_tensor_service_close(s);
        return mlxd_fail(why, err, "no memory for the tensor service");
    }
    *out = s;
    return MLXD_OK;
}

void mlxd_tensor_service_close(mlxd_tensor_service *s) {
    if (!s)
        return;
    if (s->started) {
        struct job job = {.kind = CLOSE};
        mlxd_err err = mlxd_queue_push_wait(s->jobs, &job);
        MLXD_ASSERT(err == MLXD_OK);
        mlxd_thread_join(&s->thread);
    }
    mlxd_queue_close(s->jobs);
    mlxd_tensor_store_close(s->store);
    mlxd_tensor_pool_close(s->outputs);
    mlxd_mem_free(s);
}
