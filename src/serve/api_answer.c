/* api_answer.c - see api_answer.h: life of an answer. What is written is in api_chunks.c. */
#include "serve/api_answer.h"

#include "base/os.h"
#include "format/sse.h"
#include "serve/api_chunks.h"
#include "serve/api_stages.h"

#include <stdio.h>
#include <string.h>

struct mlxd_answer {
    mlxd_api *api;
    mlxd_request *request; /* owned; the engine works on it between submit and on_end */
    /* under api.lock */
    unsigned refs;
    mlxd_answer *next, *prev;

    /* engine thread, after submit */
    mlxd_chunks chunks;
    uint64_t token_ns; /* the last token's time; 0: none yet */

    /* under lock */
    mlxd_mutex lock;
    mlxd_http_req *req; /* owned; NULL: the finishing call is being made, or was */
    uint64_t id;        /* of the request in the engine; 0: not known yet */
    bool gone;          /* the client has left */
    bool cancelled;     /* mlxd_loop_cancel was called */
    bool begun;         /* the stream's headers are out */
    mlxd_err write_err; /* of the stream; nothing more is written then */
    uint64_t sent_ns;   /* last bytes into the stream, or the beginning */
};

/* ---- references ---- */

static void ref(mlxd_answer *x) {
    mlxd_mutex_lock(&x->api->lock);
    x->refs++;
    mlxd_mutex_unlock(&x->api->lock);
}

static void destroy(mlxd_answer *x) {
    mlxd_request_close(x->request);
    mlxd_chunks_deinit(&x->chunks);
    mlxd_mutex_deinit(&x->lock);
    mlxd_mem_free(x);
}

/* The last one takes it off the list; after that the API may be gone. */
static void unref(mlxd_answer *x) {
    mlxd_api *a = x->api;
    mlxd_mutex_lock(&a->lock);
    bool last = --x->refs == 0;
    if (last) {
        if (x->prev)
            x->prev->next = x->next;
        else
            a->answers = x->next;
        if (x->next)
            x->next->prev = x->prev;
        a->n_answers--;
        mlxd_cond_broadcast(&a->changed);
    }
    mlxd_mutex_unlock(&a->lock);
    if (last) {
        MLXD_ASSERT(!x->req);
        destroy(x);
    }
}

/* Puts it on the list; false when there are too many. */
static bool enlist(mlxd_answer *x) {
    mlxd_api *a = x->api;
    mlxd_mutex_lock(&a->lock);
    bool room = a->n_answers < MLXD_API_ANSWERS_MAX;
    if (room) {
        x->next = a->answers;
        if (x->next)
            x->next->prev = x;
        a->answers = x;
        a->n_answers++;
    }
    mlxd_mutex_unlock(&a->lock);
    return room;
}

/* ---- cancelling ---- */

/* Cancels the request if its id is known and it was not cancelled yet. */
static void cancel(mlxd_answer *x) {
    mlxd_mutex_lock(&x->lock);
    uint64_t id = x->cancelled ? 0 : x->id;
    x->cancelled = x->cancelled || id;
    mlxd_mutex_unlock(&x->lock);
    if (id)
        mlxd_loop_cancel(x->api->p.loop, id);
}

/* HTTP thread. The answer lives: its finishing call waits for us. */
static void on_gone(void *ctx) {
    mlxd_answer *x = ctx;
    mlxd_mutex_lock(&x->lock);
    x->gone = true;
    mlxd_mutex_unlock(&x->lock);
    cancel(x);
}

/* ---- writing ---- */

/* Appends to the stream, after its headers if these are not out. With the lock held, or after the
 * request was taken off the answer. */
static mlxd_err write_stream(mlxd_answer *x, mlxd_http_req *req, const mlxd_buf *bytes) {
    if (x->write_err)
        return x->write_err;
    mlxd_err err = bytes->failed ? MLXD_ERR_NOMEM : MLXD_OK;
    if (!err && !x->begun) {
        const mlxd_http_field fields[] = {{"x-mlxd-ignored", x->chunks.ignored}, {NULL, NULL}};
        err = mlxd_http_stream_begin(req, 200, "text/event-stream", fields);
        x->begun = !err;
    }
    if (!err)
        err = mlxd_http_stream_write(req, bytes->data, bytes->len);
    x->write_err = err;
    x->sent_ns = mlxd_api_now(x->api);
    return err;
}

/* Engine thread. */
static void on_token(void *ctx, mlxd_request *r) {
    mlxd_answer *x = ctx;
    uint64_t now = mlxd_api_now(x->api);
    if (x->token_ns)
        mlxd_metrics_add_gap(x->api->metrics, now - x->token_ns);
    x->token_ns = now;
    mlxd_chunks_token(&x->chunks, r->generation);
    if (!x->chunks.stream || x->chunks.out.len == 0)
        return;
    mlxd_mutex_lock(&x->lock);
    mlxd_err err = write_stream(x, x->req, &x->chunks.out);
    mlxd_mutex_unlock(&x->lock);
    mlxd_buf_clear(&x->chunks.out);
    if (err)
        cancel(x);
}

/* ---- the end ---- */

static void end_stream(mlxd_answer *x, mlxd_http_req *req) {
    if (write_stream(x, req, &x->chunks.out))
        mlxd_http_stream_abort(req);
    else
        mlxd_http_stream_end(req);
}

static void end_badly(mlxd_answer *x, mlxd_http_req *req, const mlxd_api_refusal *r) {
    if (!x->begun) {
        mlxd_api_reply_refusal(req, r);
        return;
    }
    mlxd_buf_clear(&x->chunks.out);
    mlxd_chunks_error(&x->chunks, r);
    end_stream(x, req);
}

static void end_whole(mlxd_answer *x, mlxd_http_req *req) {
    const mlxd_http_field fields[] = {{"x-mlxd-ignored", x->chunks.ignored}, {NULL, NULL}};
    const mlxd_buf *out = &x->chunks.out;
    mlxd_api_refusal r;
    if (!out->failed) {
        (void)mlxd_http_reply(req, 200, "application/json", (mlxd_slice){out->data, out->len},
                              fields);
        return;
    }
    mlxd_api_refuse_err(&r, MLXD_ERR_NOMEM, NULL);
    mlxd_api_reply_refusal(req, &r);
}

/* Makes the finishing call. From here on neither the timer nor a late on_gone uses the request. */
static void finish(mlxd_answer *x, const mlxd_api_refusal *r) {
    mlxd_mutex_lock(&x->lock);
    mlxd_http_req *req = x->req;
    x->req = NULL;
    mlxd_err write_err = x->write_err;
    mlxd_mutex_unlock(&x->lock);
    if (write_err)
        mlxd_http_stream_abort(req); /* gone, not reading, or no memory for the stream */
    else if (r)
        end_badly(x, req, r);
    else if (x->chunks.stream)
        end_stream(x, req);
    else
        end_whole(x, req);
}

/* Engine thread; or the API thread when the engine did not take the request. */
static void on_end(void *ctx, mlxd_request *request, mlxd_err err, const mlxd_why *why) {
    mlxd_answer *x = ctx;
    mlxd_api_refusal r;
    mlxd_metrics_add_end(x->api->metrics, request, err);
    if (err)
        mlxd_api_refuse_err(&r, err, why);
    else
        mlxd_chunks_end(&x->chunks, request);
    finish(x, err ? &r : NULL);
    unref(x);
}

/* ---- the beginning ---- */

static bool make_id(mlxd_chunks *c, unsigned api) {
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    if (!mlxd_os_random(bytes, sizeof bytes))
        return false;
    mlxd_hex(bytes, sizeof bytes, hex);
    snprintf(c->id, sizeof c->id, "%s-%s", api == MLXD_API_CHAT ? "chatcmpl" : "cmpl", hex);
    return true;
}

mlxd_answer *mlxd_answer_open(mlxd_api *a, mlxd_http_req *req, unsigned api,
                              const mlxd_api_fields *f, mlxd_api_refusal *r) {
    mlxd_answer *x = mlxd_mem_new(1, sizeof *x);
    if (!x) {
        mlxd_api_refuse_err(r, MLXD_ERR_NOMEM, NULL);
        return NULL;
    }
    x->api = a;
    x->req = req;
    x->refs = 1;
    mlxd_mutex_init(&x->lock);
    mlxd_chunks_init(&x->chunks, api, f);
    x->chunks.model = a->p.model_name;
    x->chunks.fingerprint = a->fingerprint;
    x->chunks.tokenizer = a->p.host->tokenizer;
    x->chunks.created = (int64_t)(mlxd_api_wall(a) / MLXD_NS_PER_S);
    x->sent_ns = mlxd_api_now(a);
    if (!make_id(&x->chunks, api)) {
        mlxd_why why;
        mlxd_api_refuse_err(r, mlxd_fail(&why, MLXD_ERR_IO, "no entropy for an id"), &why);
    } else if (!enlist(x)) {
        (void)mlxd_api_refuse(r, 429, "queue_full", NULL, "%d completions are running or waiting",
                              MLXD_API_ANSWERS_MAX);
    } else {
        return x;
    }
    destroy(x);
    return NULL;
}

/* Devices and layers for the timings, as they are now: while the request runs the pipeline cannot
 * change without ending it. */
static void name_stages(mlxd_answer *x) {
    mlxd_api *a = x->api;
    mlxd_node_view *v = mlxd_mem_new(1, sizeof *v);
    uint32_t order[MLXD_LIMIT_NODES];
    if (!v)
        return; /* timings without stages */
    a->p.view(a->p.view_ctx, v);
    uint32_t n = mlxd_api_stages(v, order);
    x->chunks.stages = mlxd_mem_new(MLXD_MAX(n, 1u), sizeof *x->chunks.stages);
    for (uint32_t i = 0; x->chunks.stages && i < n; i++) {
        const mlxd_device_view *d = &v->devices[order[i]];
        mlxd_stage_name *s = &x->chunks.stages[x->chunks.n_stages++];
        snprintf(s->device, sizeof s->device, "%s", d->device);
        s->first = d->first;
        s->end = d->end;
    }
    mlxd_mem_free(v);
}

void mlxd_answer_submit(mlxd_answer *x, const int32_t *prompt, uint32_t n_prompt,
                        uint32_t max_tokens, mlxd_generation *generation) {
    mlxd_request_sink sink = {on_token, on_end, x};
    mlxd_api_refusal r;
    if (x->chunks.timings)
        name_stages(x);
    x->request = mlxd_request_open(prompt, n_prompt, max_tokens, generation, sink);
    if (!x->request) {
        mlxd_generation_close(generation);
        mlxd_api_refuse_err(&r, MLXD_ERR_NOMEM, NULL);
        finish(x, &r);
        unref(x);
        return;
    }
    ref(x); /* the engine's */
    mlxd_err err = mlxd_http_on_gone(x->req, on_gone, x)
                       ? mlxd_loop_submit(x->api->p.loop, x->request)
                       : MLXD_ERR_CANCELLED;
    if (err) {
        mlxd_why why;
        (void)mlxd_fail(&why, err, "the server has too much to do");
        on_end(x, x->request, err, &why);
    } else {
        mlxd_mutex_lock(&x->lock);
        x->id = x->request->id;
        bool gone = x->gone;
        mlxd_mutex_unlock(&x->lock);
        if (gone)
            cancel(x);
    }
    unref(x);
}

/* ---- all of them ---- */

static void keep_alive(mlxd_answer *x) {
    mlxd_buf comment;
    mlxd_err err = MLXD_OK;
    mlxd_buf_init(&comment, 0);
    mlxd_sse_comment(&comment, "keepalive");
    mlxd_mutex_lock(&x->lock);
    uint64_t silent_ns = mlxd_api_now(x->api) - x->sent_ns;
    if (x->req && !x->gone && silent_ns >= x->api->p.keepalive_ms * MLXD_NS_PER_MS)
        err = write_stream(x, x->req, &comment);
    mlxd_mutex_unlock(&x->lock);
    mlxd_buf_deinit(&comment);
    if (err)
        cancel(x);
}

/* Walks the list without holding its lock while writing: `x` is referenced, so it stays listed. */
void mlxd_answers_keep_alive(mlxd_api *a) {
    mlxd_answer *last = NULL;
    for (;;) {
        mlxd_mutex_lock(&a->lock);
        mlxd_answer *x = last ? last->next : a->answers;
        while (x && !x->chunks.stream)
            x = x->next;
        if (x)
            x->refs++;
        mlxd_mutex_unlock(&a->lock);
        if (last)
            unref(last);
        if (!x)
            return;
        keep_alive(x);
        last = x;
    }
}

void mlxd_answers_wait(mlxd_api *a) {
    mlxd_mutex_lock(&a->lock);
    while (a->n_answers > 0)
        mlxd_cond_wait(&a->changed, &a->lock);
    mlxd_mutex_unlock(&a->lock);
}
