/* worker.c - streams, steps and beats of a worker: see worker.h, and worker_internal.h for who may
 * touch what. */
#include "cluster/worker_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define DROPS_MAX 4096 /* drops that may wait; far from where the driver's queue would block */

/* ---- sending ---- */

/* A stream that takes no message is cut, unless it is ending and the reason is on its way. */
static void cut(mlxd_worker_link *l) {
    if (!atomic_load(&l->refused))
        mlxd_rpc_stream_cancel(l->stream);
}

void mlxd_worker_reply(mlxd_worker_link *l, const Mlxd__WorkReply *m) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    mlxd_wire_reply(&buf, m);
    mlxd_rpc_part part = {.bytes = {buf.data, buf.len}};
    if (!atomic_load(&l->closed) && (buf.failed || mlxd_rpc_stream_send(l->stream, &part, 1)))
        cut(l);
    mlxd_buf_deinit(&buf);
}

void mlxd_worker_refuse(mlxd_worker_link *l, mlxd_err err, const mlxd_why *why) {
    if (atomic_exchange(&l->refused, true))
        return;
    mlxd_log(MLXD_LOG_ERROR, "worker", "refused the coordinator: %s", why->text);
    if (!atomic_load(&l->closed))
        mlxd_rpc_stream_finish(l->stream, err, why->text);
}

/* ---- steps ---- */

static mlxd_worker_flight *take_flight(mlxd_worker *w, mlxd_worker_link *l) {
    mlxd_worker_flight *f = NULL;
    mlxd_mutex_lock(&w->lock);
    for (size_t i = 0; i < MLXD_WORKER_FLIGHTS && !f; i++)
        if (!w->flights[i].used)
            f = &w->flights[i];
    if (f &&
        (!f->step || f->step->tokens_max != w->tokens_max || f->step->width != w->config.hidden)) {
        mlxd_step_close(f->step);
        f->step = mlxd_step_open(MLXD_MIN(w->tokens_max, (uint32_t)MLXD_LIMIT_STEP_ROWS),
                                 w->tokens_max, w->config.hidden);
        if (!f->step)
            f = NULL;
    }
    if (f) {
        f->used = true;
        f->link = l;
    }
    mlxd_mutex_unlock(&w->lock);
    return f;
}

static void free_flight(mlxd_worker *w, mlxd_worker_flight *f) {
    mlxd_mutex_lock(&w->lock);
    f->used = false;
    mlxd_mutex_unlock(&w->lock);
}

/* Answers one step; on the driver thread, or on the poller for a step that never ran. */
static void answer(mlxd_worker_flight *f, mlxd_err err, const mlxd_why *why) {
    mlxd_worker_link *l = f->link;
    mlxd_step *s = f->step;
    mlxd_buf header;
    mlxd_buf_init(&header, 0);
    mlxd_wire_step_reply(&header, s, err, why);
    mlxd_rpc_part parts[2] = {
        {.bytes = {header.data, header.len}},
        {.bytes = {(const uint8_t *)s->hidden, (size_t)s->n_hidden * s->width * sizeof(float)}}};
    size_t n = err || s->n_hidden == 0 ? 1 : 2;
    if (!atomic_load(&l->closed) && (header.failed || mlxd_rpc_stream_send(l->stream, parts, n)))
        cut(l);
    mlxd_buf_deinit(&header);
    free_flight(l->worker, f);
}

void mlxd_worker_step_done(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                           const mlxd_why *why) {
    mlxd_worker *w = ctx;
    (void)stage;
    if (err && err != MLXD_ERR_CANCELLED)
        mlxd_log(MLXD_LOG_WARN, "worker", "step %llu failed: %s", (unsigned long long)step->id,
                 why->text);
    mlxd_worker_flight *f = NULL;
    mlxd_mutex_lock(&w->lock);
    for (size_t i = 0; i < MLXD_WORKER_FLIGHTS && !f; i++)
        if (w->flights[i].used && w->flights[i].step == step)
            f = &w->flights[i];
    mlxd_mutex_unlock(&w->lock);
    MLXD_ASSERT(f);
    answer(f, err, why);
}

static void set_epoch(mlxd_worker_link *l, uint64_t epoch) {
    l->epoch = epoch;
    mlxd_mutex_lock(&l->worker->lock);
    l->worker->epoch = epoch;
    mlxd_mutex_unlock(&l->worker->lock);
}

static void on_step(mlxd_worker_link *l, const Mlxd__Step *m, mlxd_slice hidden) {
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    bool last = false;
    if (!l->ready) {
        mlxd_worker_refuse(l, mlxd_fail(&why, MLXD_ERR_STATE, "a step before layers are loaded"),
                           &why);
        return;
    }
    mlxd_worker_flight *f = take_flight(w, l);
    if (!f) {
        (void)mlxd_fail(&why, MLXD_ERR_FULL, "more than %d steps in flight, or no memory for one",
                        MLXD_WORKER_FLIGHTS);
        mlxd_worker_refuse(l, MLXD_ERR_FULL, &why);
        return;
    }
    mlxd_err err = mlxd_wire_read_step(f->step, m, hidden, &last, &why);
    if (err) {
        free_flight(w, f);
        mlxd_worker_refuse(l, err, &why);
        return;
    }
    if (m->epoch < l->epoch) {
        atomic_fetch_add(&w->stale, 1);
        answer(f,
               mlxd_fail(&why, MLXD_ERR_CANCELLED, "step of epoch %llu, now %llu",
                         (unsigned long long)m->epoch, (unsigned long long)l->epoch),
               &why);
        return;
    }
    if (m->epoch > l->epoch)
        set_epoch(l, m->epoch);
    mlxd_stage *stage = mlxd_cpu_stage(w->cpu);
    stage->ops->submit(stage, f->step, last);
}

static void on_drop(mlxd_worker_link *l, uint64_t session) {
    mlxd_why why = {0};
    if (!l->ready)
        return;
    if (mlxd_cpu_drops_waiting(l->worker->cpu) >= DROPS_MAX) {
        mlxd_worker_refuse(l, mlxd_fail(&why, MLXD_ERR_FULL, "more than %d drops wait", DROPS_MAX),
                           &why);
        return;
    }
    mlxd_stage *stage = mlxd_cpu_stage(l->worker->cpu);
    stage->ops->drop(stage, session);
}

/* ---- chunks of the model ---- */

static mlxd_err send_fetch(void *ctx, mlxd_slice message) {
    mlxd_worker_link *l = ctx;
    mlxd_rpc_part part = {.bytes = message};
    return atomic_load(&l->closed) ? MLXD_ERR_PEER : mlxd_rpc_stream_send(l->stream, &part, 1);
}

/* Returns whether the message was taken. */
static bool on_chunk(mlxd_worker_link *l, const Mlxd__Chunk *m, mlxd_rpc_msg *msg,
                     mlxd_slice data) {
    mlxd_why why = {0};
    mlxd_err err = l->pull ? mlxd_pull_take(l->pull, msg, m, data, &why)
                           : mlxd_fail(&why, MLXD_ERR_PROTO, "a chunk that was not asked for");
    if (err)
        mlxd_worker_refuse(l, err, &why);
    return err == MLXD_OK;
}

/* ---- hello ---- */

static void send_hello(mlxd_worker_link *l) {
    mlxd_worker *w = l->worker;
    Mlxd__HelloReply hello = MLXD__HELLO_REPLY__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.version = w->version;
    hello.device = w->device;
    hello.takes_shards = w->shards[0] != 0;
    if (!hello.takes_shards)
        hello.meta_sha256 = (ProtobufCBinaryData){sizeof w->meta, w->meta};
    hello.memory_total = mlxd_os_memory_total();
    hello.memory_available = mlxd_os_memory_available();
    hello.speed = w->p.speed;
    hello.threads = mlxd_driver_threads(w->p.driver);
    hello.isa = (char *)(uintptr_t)w->p.kernels->isa;
    mlxd_mutex_lock(&w->lock);
    if (w->cpu) {
        hello.first = mlxd_layers_first(mlxd_cpu_layers(w->cpu));
        hello.end = mlxd_layers_end(mlxd_cpu_layers(w->cpu));
        mlxd_cpu_stats stats;
        mlxd_cpu_stats_get(w->cpu, &stats);
        /* It may load something else instead. Of the KV pool only what was touched is in use. */
        hello.memory_available += MLXD_MIN(stats.memory_bytes, mlxd_os_rss());
    }
    mlxd_mutex_unlock(&w->lock);
    hello.memory_available = MLXD_MIN(hello.memory_available, hello.memory_total);
    m.body_case = MLXD__WORK_REPLY__BODY_HELLO;
    m.hello = &hello;
    mlxd_worker_reply(l, &m);
}

/* Everything a worker without a model needs to know of the coordinator's. */
static mlxd_err read_offer(mlxd_worker_link *l, const Mlxd__Hello *m, mlxd_why *why) {
    if (m->meta_sha256.len != MLXD_SHA256_BYTES)
        return mlxd_fail(why, MLXD_ERR_PROTO, "a malformed digest of the model's description");
    if (!m->model)
        return mlxd_fail(why, MLXD_ERR_STATE,
                         "%s has no model file (--model), and %s does not offer its own",
                         l->worker->device, l->coordinator);
    memcpy(l->meta, m->meta_sha256.data, MLXD_SHA256_BYTES);
    mlxd_pull_params p = {.send = send_fetch, .progress = mlxd_worker_fetched, .ctx = l};
    mlxd_err err = mlxd_wire_read_model(&l->spec, m->model, why);
    return err ? mlxd_fail_in(why, err, "%s offers what cannot be copied", l->coordinator)
               : mlxd_pull_open(&l->pull, &p, why);
}

static mlxd_err check_hello(mlxd_worker_link *l, const Mlxd__Hello *m, mlxd_why *why) {
    mlxd_worker *w = l->worker;
    const char *device = l->coordinator;
    const mlxd_identity *peer = &mlxd_rpc_stream_info(l->stream)->peer;
    mlxd_mutex_lock(&w->lock);
    uint64_t epoch = w->active ? w->epoch : 0;
    mlxd_mutex_unlock(&w->lock);
    if (peer->role != MLXD_ROLE_NONE && strcmp(peer->device, m->device) != 0)
        return mlxd_fail(why, MLXD_ERR_PERM, "%s calls itself \"%s\"", peer->device, device);
    if (m->protocol != MLXD_WIRE_PROTOCOL)
        return mlxd_fail(why, MLXD_ERR_STATE,
                         "%s speaks protocol %u (mlxd %.20s), %s speaks %u (mlxd %s)", device,
                         m->protocol, m->version, w->device, MLXD_WIRE_PROTOCOL, w->version);
    if (!w->shards[0] && (m->meta_sha256.len != MLXD_SHA256_BYTES ||
                          !mlxd_digest_eq(m->meta_sha256.data, w->meta, MLXD_SHA256_BYTES)))
        return mlxd_fail(why, MLXD_ERR_STATE,
                         "the model files differ: %s has another configuration, tokenizer or "
                         "template than %s",
                         w->device, device);
    if (m->epoch < epoch)
        return mlxd_fail(why, MLXD_ERR_STATE, "%s comes with epoch %llu, the last one was %llu",
                         device, (unsigned long long)m->epoch, (unsigned long long)epoch);
    return w->shards[0] ? read_offer(l, m, why) : MLXD_OK;
}

static void on_hello(mlxd_worker_link *l, const Mlxd__Hello *m) {
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    const char *device = l->coordinator;
    snprintf(l->coordinator, sizeof l->coordinator, "%s", m->device);
    mlxd_err err = check_hello(l, m, &why);
    if (err) {
        mlxd_worker_refuse(l, err, &why);
        return;
    }
    l->greeted = true;
    l->epoch = m->epoch;
    mlxd_mutex_lock(&w->lock);
    mlxd_worker_link *old = w->active;
    w->active = l;
    w->epoch = m->epoch;
    snprintf(w->coordinator, sizeof w->coordinator, "%s", device);
    bool had_sessions = old && atomic_exchange(&old->ready, false);
    mlxd_cpu *cpu = w->cpu;
    mlxd_mutex_unlock(&w->lock);
    if (old) {
        mlxd_log(MLXD_LOG_WARN, "worker", "%s connects anew, its old stream is cut", device);
        mlxd_rpc_stream_cancel(old->stream);
    }
    if (had_sessions)
        mlxd_cpu_drop_all(cpu);
    mlxd_log(MLXD_LOG_INFO, "worker", "coordinator %s connected, epoch %llu", device,
             (unsigned long long)m->epoch);
    send_hello(l);
}

/* ---- the Work stream ---- */

static void on_work_open(void *ctx, mlxd_rpc_stream *s) {
    mlxd_worker_link *l = mlxd_mem_new(1, sizeof *l);
    if (!l) {
        mlxd_rpc_stream_cancel(s);
        return;
    }
    l->worker = ctx;
    l->stream = s;
    mlxd_rpc_stream_set_user(s, l);
}

static void on_work_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    mlxd_worker *w = ctx;
    mlxd_worker_link *l = mlxd_rpc_stream_user(s);
    mlxd_slice header, hidden;
    mlxd_why why = {0};
    Mlxd__WorkRequest *m = NULL;
    bool taken = false;
    atomic_store(&w->seen_ns, mlxd_clock_now_ns());
    mlxd_err err = mlxd_wire_split(mlxd_rpc_msg_bytes(msg), &header, &hidden, &why);
    if (!err && header.len > MLXD_LIMIT_WIRE_HEADER)
        err = mlxd_fail(&why, MLXD_ERR_PROTO, "a message header of %zu bytes", header.len);
    if (!err) {
        m = mlxd__work_request__unpack(NULL, header.len, header.data);
        if (!m)
            err = mlxd_fail(&why, MLXD_ERR_PROTO, "malformed message");
    }
    if (!l || atomic_load(&l->refused)) {
        /* no memory when it was opened, or refused: its end is on the way */
    } else if (err) {
        mlxd_worker_refuse(l, err, &why);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_STEP) {
        on_step(l, m->step, hidden);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_DROP) {
        on_drop(l, m->drop->session);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_CHUNK) {
        taken = on_chunk(l, m->chunk, msg, hidden);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_LOAD) {
        mlxd_worker_on_load(l, m->load);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_HELLO && !l->greeted) {
        on_hello(l, m->hello);
    } else {
        (void)mlxd_fail(&why, MLXD_ERR_PROTO, "unexpected message");
        mlxd_worker_refuse(l, MLXD_ERR_PROTO, &why);
    }
    if (m)
        mlxd__work_request__free_unpacked(m, NULL);
    if (!taken)
        mlxd_rpc_msg_free(msg);
}

/* Third and last: nobody can use the handle any more. */
static void close_link_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_worker_link *l = a;
    (void)pool;
    (void)b;
    mlxd_rpc_stream_close(l->stream);
    mlxd_pull_close(l->pull);
    mlxd_replica_spec_close(&l->spec);
    mlxd_mem_free(l);
}

/* Second: loading for this link is over. */
static void retire_link_job(mlxd_pool *pool, void *a, void *b) {
    mlxd_worker_link *l = a;
    (void)pool;
    (void)b;
    mlxd_driver_post(l->worker->p.driver, (mlxd_job){close_link_job, l, NULL});
}

static void on_work_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    mlxd_worker *w = ctx;
    mlxd_worker_link *l = mlxd_rpc_stream_user(s);
    if (!l) {
        mlxd_rpc_stream_close(s);
        return;
    }
    atomic_store(&l->closed, true);
    if (l->pull)
        mlxd_pull_end(l->pull);
    mlxd_mutex_lock(&w->lock);
    bool active = w->active == l, ready = atomic_exchange(&l->ready, false);
    if (active) {
        w->active = NULL;
        w->coordinator[0] = 0;
    }
    mlxd_cpu *cpu = w->cpu;
    mlxd_mutex_unlock(&w->lock);
    if (active)
        mlxd_log(MLXD_LOG_INFO, "worker", "coordinator is gone%s%s", status->err ? ": " : "",
                 status->err ? mlxd_err_name(status->err) : "");
    if (active && ready)
        mlxd_cpu_drop_all(cpu);
    if (l->asked)
        mlxd_driver_post(w->background, (mlxd_job){retire_link_job, l, NULL});
    else
        retire_link_job(NULL, l, NULL);
}

/* ---- the Beat stream ---- */

static void on_beat_open(void *ctx, mlxd_rpc_stream *s) {
    (void)ctx;
    (void)s;
}

static void on_beat(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    mlxd_worker *w = ctx;
    mlxd_slice in = mlxd_rpc_msg_bytes(msg);
    Mlxd__BeatRequest *m = in.len <= 64 ? mlxd__beat_request__unpack(NULL, in.len, in.data) : NULL;
    mlxd_rpc_msg_free(msg);
    if (!m) {
        mlxd_rpc_stream_finish(s, MLXD_ERR_PROTO, "malformed beat");
        return;
    }
    uint8_t out[128];
    mlxd_worker_status status;
    mlxd_worker_get_status(w, &status);
    atomic_store(&w->seen_ns, mlxd_clock_now_ns());
    Mlxd__BeatReply reply = MLXD__BEAT_REPLY__INIT;
    reply.sequence = m->sequence;
    reply.epoch = status.epoch;
    reply.progress = mlxd_driver_jobs(w->p.driver);
    reply.sessions = status.stats.sessions;
    reply.kv_pages_used = status.stats.kv_pages_used;
    reply.compute_ns = status.stats.compute_ns;
    reply.steps = status.stats.steps;
    reply.rss_bytes = mlxd_os_rss();
    MLXD_ASSERT(mlxd__beat_reply__get_packed_size(&reply) <= sizeof out);
    mlxd_rpc_part part = {.bytes = {out, mlxd__beat_reply__pack(&reply, out)}};
    mlxd__beat_request__free_unpacked(m, NULL);
    if (mlxd_rpc_stream_send(s, &part, 1))
        mlxd_rpc_stream_cancel(s);
}

static void on_beat_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    (void)ctx;
    (void)status;
    mlxd_rpc_stream_close(s);
}

void mlxd_worker_methods(mlxd_worker *w, mlxd_rpc_method out[MLXD_WORKER_METHODS]) {
    out[0] = (mlxd_rpc_method){.path = MLXD_WIRE_WORK,
                               .kind = MLXD_RPC_STREAM,
                               .roles = MLXD_ROLE_COORDINATOR,
                               .ctx = w,
                               .stream = {.on_open = on_work_open,
                                          .on_message = on_work_message,
                                          .on_close = on_work_close},
                               .limits = {.send_bytes_max = MLXD_WIRE_UNSENT_MAX}};
    out[1] = (mlxd_rpc_method){
        .path = MLXD_WIRE_BEAT,
        .kind = MLXD_RPC_STREAM,
        .roles = MLXD_ROLE_COORDINATOR,
        .ctx = w,
        .stream = {.on_open = on_beat_open, .on_message = on_beat, .on_close = on_beat_close},
        .limits = {.message_max = 256}};
}

/* ---- open, close, status ---- */

static mlxd_cpu *current_cpu(void *ctx) {
    mlxd_worker *w = ctx;
    return w->cpu; /* replaced by the very thread that asks */
}

mlxd_forward *mlxd_worker_forward(mlxd_worker *w) {
    return w->forward;
}

mlxd_err mlxd_worker_open(mlxd_worker **out, const mlxd_worker_params *p, mlxd_why *why) {
    mlxd_worker *w = mlxd_mem_new(1, sizeof *w);
    if (!w)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&w->lock);
    w->p = *p;
    snprintf(w->device, sizeof w->device, "%s", p->device);
    snprintf(w->version, sizeof w->version, "%s", p->version);
    MLXD_ASSERT((p->checkpoint != NULL) != (p->shards != NULL));
    if (p->checkpoint) {
        mlxd_checkpoint_meta_digest(p->checkpoint, w->meta);
        w->checkpoint = p->checkpoint;
        w->config = *p->config;
    } else {
        MLXD_ASSERT(p->shards[0] && strlen(p->shards) < sizeof w->shards);
        snprintf(w->shards, sizeof w->shards, "%s", p->shards);
    }
    mlxd_err err = mlxd_driver_open(&w->background, 1, why);
    if (!err)
        err = mlxd_forward_open(&w->forward, w->background, current_cpu, w, why);
    if (err) {
        mlxd_worker_close(w);
        return err;
    }
    *out = w;
    return MLXD_OK;
}

void mlxd_worker_close(mlxd_worker *w) {
    if (!w)
        return;
    mlxd_driver_close(w->background);
    mlxd_forward_close(w->forward);
    mlxd_driver_flush(w->p.driver); /* links that are closing */
    mlxd_worker_drop_model(w);
    for (size_t i = 0; i < MLXD_WORKER_FLIGHTS; i++)
        mlxd_step_close(w->flights[i].step);
    mlxd_mutex_deinit(&w->lock);
    mlxd_mem_free(w);
}

void mlxd_worker_get_status(mlxd_worker *w, mlxd_worker_status *out) {
    *out = (mlxd_worker_status){.coordinator_seen_ns = atomic_load(&w->seen_ns),
                                .stale_steps = atomic_load(&w->stale),
                                .load_done = atomic_load(&w->load_done),
                                .load_total = atomic_load(&w->load_total),
                                .fetching = atomic_load(&w->fetching),
                                .received_bytes = atomic_load(&w->received)};
    mlxd_mutex_lock(&w->lock);
    snprintf(out->coordinator, sizeof out->coordinator, "%s", w->coordinator);
    out->epoch = w->epoch;
    if (w->active)
        out->state = w->active->ready     ? MLXD_WORKER_READY
                     : w->active->loading ? MLXD_WORKER_LOADING
                                          : MLXD_WORKER_WAITING;
    out->assigned_first = w->first;
    out->assigned_end = w->end;
    if (w->checkpoint) {
        out->hidden = w->config.hidden;
        out->layers = w->config.layers;
        snprintf(out->model, sizeof out->model, "%s", w->config.name);
    }
    if (w->cpu) {
        out->first = mlxd_layers_first(mlxd_cpu_layers(w->cpu));
        out->end = mlxd_layers_end(mlxd_cpu_layers(w->cpu));
        out->positions = w->positions;
        mlxd_cpu_stats_get(w->cpu, &out->stats);
    }
    mlxd_mutex_unlock(&w->lock);
}
