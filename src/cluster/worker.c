/* worker.c - see worker.h.
 *
 * What may touch a Work stream: the poller thread (its callbacks), the background thread (loading)
 * and the driver thread (answers to steps). Its handle is freed only after all three are through
 * with it: on_close posts a job to the background thread (when it ever had to load for it), which
 * posts one to the driver, which closes it.
 *
 * Only the active link loads and computes. `ready` is set by the background thread for the link for
 * which it has loaded, and taken back by the poller; layers are replaced while no link is ready.
 */
#include "cluster/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/wire.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define FLIGHTS_MAX 64 /* steps that may wait here */
#define PROGRESS_NS (100 * MLXD_NS_PER_MS)
#define LOADS_MAX 8    /* assignments that may wait for the one that runs */
#define DROPS_MAX 4096 /* drops that may wait; far from where the driver's queue would block */

/* One Work stream. */
struct link {
    mlxd_worker *worker;
    mlxd_rpc_stream *stream;
    _Atomic bool closed;
    bool greeted, asked;  /* said hello, asked for layers; poller thread */
    _Atomic bool refused; /* its end is on the way: what still comes is ignored */
    _Atomic bool loading, ready;
    uint64_t epoch;
};

/* A step that is computed here. */
struct flight {
    mlxd_step *step;
    struct link *link;
    bool used;
};

struct mlxd_worker {
    mlxd_worker_params p;
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char version[64];
    uint8_t meta[MLXD_SHA256_BYTES];
    mlxd_driver *background;
    mlxd_forward *forward;
    mlxd_mutex lock;
    /* under lock */
    mlxd_cpu *cpu; /* replaced by the background thread while no link is ready */
    uint32_t positions, tokens_max, kv_pages; /* of cpu */
    struct link *active;
    char coordinator[MLXD_LIMIT_DEVICE_ID + 1];
    uint64_t epoch;
    struct flight flights[FLIGHTS_MAX];
    _Atomic unsigned loads; /* queued or running */
    _Atomic uint64_t seen_ns, stale, load_done, load_total, progress_ns;
};

/* ---- sending ---- */

static void send_reply(struct link *l, const Mlxd__WorkReply *m) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    mlxd_wire_reply(&buf, m);
    mlxd_rpc_part part = {.bytes = {buf.data, buf.len}};
    if (!atomic_load(&l->closed) && (buf.failed || mlxd_rpc_stream_send(l->stream, &part, 1)))
        mlxd_rpc_stream_cancel(l->stream);
    mlxd_buf_deinit(&buf);
}

/* Ends the stream with an error that the coordinator shows to its operator. */
static void refuse(struct link *l, mlxd_err err, const mlxd_why *why) {
    if (atomic_exchange(&l->refused, true))
        return;
    mlxd_log(MLXD_LOG_ERROR, "worker", "refused the coordinator: %s", why->text);
    if (!atomic_load(&l->closed))
        mlxd_rpc_stream_finish(l->stream, err, why->text);
}

/* ---- steps ---- */

static struct flight *take_flight(mlxd_worker *w, struct link *l) {
    struct flight *f = NULL;
    mlxd_mutex_lock(&w->lock);
    for (size_t i = 0; i < FLIGHTS_MAX && !f; i++)
        if (!w->flights[i].used)
            f = &w->flights[i];
    if (f && (!f->step || f->step->tokens_max != w->tokens_max)) {
        mlxd_step_close(f->step);
        f->step = mlxd_step_open(MLXD_MIN(w->tokens_max, (uint32_t)MLXD_LIMIT_STEP_ROWS),
                                 w->tokens_max, w->p.config->hidden);
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

static void free_flight(mlxd_worker *w, struct flight *f) {
    mlxd_mutex_lock(&w->lock);
    f->used = false;
    mlxd_mutex_unlock(&w->lock);
}

/* Answers one step; on the driver thread, or on the poller for a step that never ran. */
static void answer(struct flight *f, mlxd_err err, const mlxd_why *why) {
    struct link *l = f->link;
    mlxd_step *s = f->step;
    mlxd_buf header;
    mlxd_buf_init(&header, 0);
    mlxd_wire_step_reply(&header, s, err, why);
    mlxd_rpc_part parts[2] = {
        {.bytes = {header.data, header.len}},
        {.bytes = {(const uint8_t *)s->hidden, (size_t)s->n_hidden * s->width * sizeof(float)}}};
    size_t n = err || s->n_hidden == 0 ? 1 : 2;
    if (!atomic_load(&l->closed) && (header.failed || mlxd_rpc_stream_send(l->stream, parts, n)))
        mlxd_rpc_stream_cancel(l->stream);
    mlxd_buf_deinit(&header);
    free_flight(l->worker, f);
}

static void on_step_done(void *ctx, mlxd_stage *stage, mlxd_step *step, mlxd_err err,
                         const mlxd_why *why) {
    mlxd_worker *w = ctx;
    (void)stage;
    if (err && err != MLXD_ERR_CANCELLED)
        mlxd_log(MLXD_LOG_WARN, "worker", "step %llu failed: %s", (unsigned long long)step->id,
                 why->text);
    struct flight *f = NULL;
    mlxd_mutex_lock(&w->lock);
    for (size_t i = 0; i < FLIGHTS_MAX && !f; i++)
        if (w->flights[i].used && w->flights[i].step == step)
            f = &w->flights[i];
    mlxd_mutex_unlock(&w->lock);
    MLXD_ASSERT(f);
    answer(f, err, why);
}

static void set_epoch(struct link *l, uint64_t epoch) {
    l->epoch = epoch;
    mlxd_mutex_lock(&l->worker->lock);
    l->worker->epoch = epoch;
    mlxd_mutex_unlock(&l->worker->lock);
}

static void on_step(struct link *l, const Mlxd__Step *m, mlxd_slice hidden) {
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    bool last = false;
    if (!l->ready) {
        refuse(l, mlxd_fail(&why, MLXD_ERR_STATE, "a step before layers are loaded"), &why);
        return;
    }
    struct flight *f = take_flight(w, l);
    if (!f) {
        (void)mlxd_fail(&why, MLXD_ERR_FULL, "more than %d steps in flight, or no memory for one",
                        FLIGHTS_MAX);
        refuse(l, MLXD_ERR_FULL, &why);
        return;
    }
    mlxd_err err = mlxd_wire_read_step(f->step, m, hidden, &last, &why);
    if (err) {
        free_flight(w, f);
        refuse(l, err, &why);
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

static void on_drop(struct link *l, uint64_t session) {
    mlxd_why why = {0};
    if (!l->ready)
        return;
    if (mlxd_cpu_drops_waiting(l->worker->cpu) >= DROPS_MAX) {
        refuse(l, mlxd_fail(&why, MLXD_ERR_FULL, "more than %d drops wait", DROPS_MAX), &why);
        return;
    }
    mlxd_stage *stage = mlxd_cpu_stage(l->worker->cpu);
    stage->ops->drop(stage, session);
}

/* ---- hello ---- */

static void send_hello(struct link *l) {
    mlxd_worker *w = l->worker;
    Mlxd__HelloReply hello = MLXD__HELLO_REPLY__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.version = w->version;
    hello.device = w->device;
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
    send_reply(l, &m);
}

static void on_hello(struct link *l, const Mlxd__Hello *m) {
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    mlxd_err err = MLXD_OK;
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    snprintf(device, sizeof device, "%s", m->device);
    const mlxd_identity *peer = &mlxd_rpc_stream_info(l->stream)->peer;
    mlxd_mutex_lock(&w->lock);
    uint64_t epoch = w->active ? w->epoch : 0;
    mlxd_mutex_unlock(&w->lock);
    if (peer->role != MLXD_ROLE_NONE && strcmp(peer->device, m->device) != 0)
        err = mlxd_fail(&why, MLXD_ERR_PERM, "%s calls itself \"%s\"", peer->device, device);
    else if (m->protocol != MLXD_WIRE_PROTOCOL)
        err = mlxd_fail(&why, MLXD_ERR_STATE,
                        "%s speaks protocol %u (mlxd %.20s), %s speaks %u (mlxd %s)", device,
                        m->protocol, m->version, w->device, MLXD_WIRE_PROTOCOL, w->version);
    else if (m->meta_sha256.len != MLXD_SHA256_BYTES ||
             !mlxd_digest_eq(m->meta_sha256.data, w->meta, MLXD_SHA256_BYTES))
        err = mlxd_fail(&why, MLXD_ERR_STATE,
                        "the model files differ: %s has another configuration, tokenizer or "
                        "template than %s",
                        w->device, device);
    else if (m->epoch < epoch)
        err = mlxd_fail(&why, MLXD_ERR_STATE, "%s comes with epoch %llu, the last one was %llu",
                        device, (unsigned long long)m->epoch, (unsigned long long)epoch);
    if (err) {
        refuse(l, err, &why);
        return;
    }
    l->greeted = true;
    l->epoch = m->epoch;
    mlxd_mutex_lock(&w->lock);
    struct link *old = w->active;
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

/* ---- load ---- */

struct load {
    struct link *link;
    uint32_t first, end, positions, tokens_max, kv_pages;
    size_t n_expected;
    mlxd_tensor_digest *expected; /* owned */
};

static void on_load_progress(void *ctx, uint64_t done, uint64_t total) {
    struct link *l = ctx;
    mlxd_worker *w = l->worker;
    uint64_t now = mlxd_clock_now_ns(), last = atomic_load(&w->progress_ns);
    atomic_store(&w->load_done, done);
    atomic_store(&w->load_total, total);
    if (now - last < PROGRESS_NS || !atomic_compare_exchange_strong(&w->progress_ns, &last, now))
        return;
    Mlxd__LoadProgress progress = MLXD__LOAD_PROGRESS__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    progress.done = done;
    progress.total = total;
    m.body_case = MLXD__WORK_REPLY__BODY_PROGRESS;
    m.progress = &progress;
    send_reply(l, &m);
}

static mlxd_err compare_digests(const mlxd_worker *w, const struct load *load, const mlxd_cpu *cpu,
                                mlxd_why *why) {
    size_t n;
    const mlxd_tensor_digest *have = mlxd_layers_digests(mlxd_cpu_layers(cpu), &n);
    if (n != load->n_expected)
        return mlxd_fail(why, MLXD_ERR_STATE, "%zu tensors in layers %u..%u on %s, expected %zu", n,
                         load->first, load->end - 1, w->device, load->n_expected);
    for (size_t i = 0; i < n; i++)
        if (strcmp(have[i].name, load->expected[i].name) != 0 ||
            !mlxd_digest_eq(have[i].sha256, load->expected[i].sha256, MLXD_SHA256_BYTES))
            return mlxd_fail(why, MLXD_ERR_STATE,
                             "the model files differ: tensor %s on %s is not the coordinator's",
                             have[i].name, w->device);
    return MLXD_OK;
}

static void send_loaded(struct link *l, const mlxd_cpu *cpu) {
    size_t n;
    const mlxd_tensor_digest *have = mlxd_layers_digests(mlxd_cpu_layers(cpu), &n);
    Mlxd__TensorDigest *digests = mlxd_mem_new(n, sizeof *digests);
    Mlxd__TensorDigest **pointers = mlxd_mem_new(n, sizeof *pointers);
    Mlxd__Loaded loaded = MLXD__LOADED__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    mlxd_cpu_stats stats;
    mlxd_cpu_stats_get(cpu, &stats);
    loaded.first = mlxd_layers_first(mlxd_cpu_layers(cpu));
    loaded.end = mlxd_layers_end(mlxd_cpu_layers(cpu));
    loaded.memory_bytes = stats.memory_bytes;
    for (size_t i = 0; digests && pointers && i < n; i++) {
        mlxd__tensor_digest__init(&digests[i]);
        digests[i].name = (char *)(uintptr_t)have[i].name;
        digests[i].sha256 =
            (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)have[i].sha256};
        pointers[i] = &digests[i];
        loaded.n_tensors = i + 1;
    }
    loaded.tensors = pointers;
    m.body_case = MLXD__WORK_REPLY__BODY_LOADED;
    m.loaded = &loaded;
    send_reply(l, &m); /* with too few digests when memory is out: the coordinator refuses */
    mlxd_mem_free(pointers);
    mlxd_mem_free(digests);
}

static bool loaded_already(const mlxd_worker *w, const struct load *load) {
    return w->cpu && mlxd_layers_first(mlxd_cpu_layers(w->cpu)) == load->first &&
           mlxd_layers_end(mlxd_cpu_layers(w->cpu)) == load->end &&
           w->positions == load->positions && w->tokens_max == load->tokens_max &&
           w->kv_pages == load->kv_pages;
}

/* Rather no than an out-of-memory killer later: KV pages are only reserved when they are opened. */
static mlxd_err check_memory(const mlxd_worker *w, const struct load *load, mlxd_why *why) {
    uint64_t weights, kv, have = mlxd_os_memory_available();
    uint64_t page = mlxd_kv_page_bytes(w->p.config, load->end - load->first);
    mlxd_err err =
        mlxd_layers_size(w->p.checkpoint, w->p.config, load->first, load->end, &weights, why);
    if (err)
        return err;
    if (!mlxd_mul_u64(page, load->kv_pages, &kv) || kv > have || weights > have - kv)
        return mlxd_fail(why, MLXD_ERR_NOMEM,
                         "%s has %llu MiB free; layers %u..%u take %llu MiB and %u KV pages of "
                         "%llu KiB",
                         w->device, (unsigned long long)(have >> 20), load->first, load->end - 1,
                         (unsigned long long)(weights >> 20), load->kv_pages,
                         (unsigned long long)(page >> 10));
    return MLXD_OK;
}

/* Replaces the loaded layers; background thread, no link is ready. */
static mlxd_err replace_layers(mlxd_worker *w, const struct load *load, mlxd_why *why) {
    mlxd_progress progress = {on_load_progress, load->link};
    mlxd_cpu_params p = {.driver = w->p.driver,
                         .kv_pages = load->kv_pages,
                         .device = w->device,
                         .layers = {.checkpoint = w->p.checkpoint,
                                    .config = w->p.config,
                                    .kernels = w->p.kernels,
                                    .first = load->first,
                                    .end = load->end,
                                    .positions = load->positions,
                                    .tokens_max = load->tokens_max,
                                    .progress = &progress}};
    mlxd_mutex_lock(&w->lock);
    mlxd_cpu *old = w->cpu;
    w->cpu = NULL;
    mlxd_mutex_unlock(&w->lock);
    mlxd_cpu_close(old);
    mlxd_cpu *cpu;
    atomic_store(&w->load_done, 0);
    atomic_store(&w->load_total, 0);
    mlxd_err err = check_memory(w, load, why);
    if (!err)
        err = mlxd_cpu_open(&cpu, &p, why);
    if (err)
        return err;
    mlxd_cpu_stage(cpu)->done = on_step_done;
    mlxd_cpu_stage(cpu)->done_ctx = w;
    mlxd_mutex_lock(&w->lock);
    w->cpu = cpu;
    w->positions = load->positions;
    w->tokens_max = load->tokens_max;
    w->kv_pages = load->kv_pages;
    mlxd_mutex_unlock(&w->lock);
    return MLXD_OK;
}

static bool is_active(struct link *l) {
    mlxd_mutex_lock(&l->worker->lock);
    bool active = l->worker->active == l;
    mlxd_mutex_unlock(&l->worker->lock);
    return active;
}

static void run_load(const struct load *load) {
    struct link *l = load->link;
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    mlxd_err err = MLXD_OK;
    uint64_t t0 = mlxd_clock_now_ns();
    bool kept = loaded_already(w, load);
    if (!kept)
        err = replace_layers(w, load, &why);
    if (!err)
        err = compare_digests(w, load, w->cpu, &why);
    mlxd_mutex_lock(&w->lock);
    l->loading = false;
    l->ready = !err && w->active == l;
    mlxd_mutex_unlock(&w->lock);
    if (err) {
        refuse(l, err, &why);
        return;
    }
    mlxd_log(MLXD_LOG_INFO, "worker", "layers %u..%u %s in %.2f s", load->first, load->end - 1,
             kept ? "kept" : "loaded", (double)(mlxd_clock_now_ns() - t0) / 1e9);
    send_loaded(l, w->cpu);
}

/* For a coordinator that has left or was replaced meanwhile nothing is loaded: another one may be
 * using the layers that are here. */
static void load_job(mlxd_pool *pool, void *a, void *b) {
    struct load *load = a;
    (void)pool;
    (void)b;
    if (is_active(load->link))
        run_load(load);
    atomic_fetch_sub(&load->link->worker->loads, 1);
    mlxd_mem_free(load->expected);
    mlxd_mem_free(load);
}

static mlxd_err check_load(const mlxd_worker *w, const struct link *l, const Mlxd__Load *m,
                           mlxd_why *why) {
    if (!l->greeted || l->asked)
        return mlxd_fail(why, MLXD_ERR_STATE, "load is expected once, after hello");
    if (atomic_load(&w->loads) >= LOADS_MAX)
        return mlxd_fail(why, MLXD_ERR_FULL, "%d coordinators wait for layers", LOADS_MAX);
    if (m->first >= m->end || m->end > w->p.config->layers)
        return mlxd_fail(why, MLXD_ERR_INVALID, "layers [%u, %u) of a model of %u", m->first,
                         m->end, w->p.config->layers);
    if (m->positions == 0 || m->positions > MLXD_LIMIT_CONTEXT || m->tokens_max == 0 ||
        m->tokens_max > MLXD_LIMIT_STEP_TOKENS || mlxd_kv_pages(m->positions) > m->kv_pages)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "a context of %u, steps of %u tokens and %u KV pages are out of range",
                         m->positions, m->tokens_max, m->kv_pages);
    size_t tensors = mlxd_layers_tensors(w->p.config, m->first, m->end, NULL);
    if (m->n_tensors != tensors)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%zu tensors for layers [%u, %u), expected %zu",
                         m->n_tensors, m->first, m->end, tensors);
    for (size_t i = 0; i < m->n_tensors; i++)
        if (m->tensors[i]->sha256.len != MLXD_SHA256_BYTES ||
            strlen(m->tensors[i]->name) >= MLXD_LIMIT_GGUF_NAME)
            return mlxd_fail(why, MLXD_ERR_INVALID, "malformed digest of tensor %zu", i);
    return MLXD_OK;
}

static void on_load(struct link *l, const Mlxd__Load *m) {
    mlxd_why why = {0};
    mlxd_err err = check_load(l->worker, l, m, &why);
    struct load *load = err ? NULL : mlxd_mem_new(1, sizeof *load);
    if (load)
        load->expected = mlxd_mem_new(m->n_tensors, sizeof *load->expected);
    if (!err && (!load || !load->expected))
        err = mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory");
    if (err) {
        mlxd_mem_free(load);
        refuse(l, err, &why);
        return;
    }
    load->link = l;
    load->first = m->first;
    load->end = m->end;
    load->positions = m->positions;
    load->tokens_max = m->tokens_max;
    load->kv_pages = m->kv_pages;
    load->n_expected = m->n_tensors;
    for (size_t i = 0; i < m->n_tensors; i++) {
        snprintf(load->expected[i].name, MLXD_LIMIT_GGUF_NAME, "%s", m->tensors[i]->name);
        memcpy(load->expected[i].sha256, m->tensors[i]->sha256.data, MLXD_SHA256_BYTES);
    }
    l->asked = true;
    atomic_fetch_add(&l->worker->loads, 1);
    mlxd_mutex_lock(&l->worker->lock);
    l->loading = true;
    mlxd_mutex_unlock(&l->worker->lock);
    mlxd_driver_post(l->worker->background, (mlxd_job){load_job, load, NULL});
}

/* ---- the Work stream ---- */

static void on_work_open(void *ctx, mlxd_rpc_stream *s) {
    struct link *l = mlxd_mem_new(1, sizeof *l);
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
    struct link *l = mlxd_rpc_stream_user(s);
    mlxd_slice header, hidden;
    mlxd_why why = {0};
    Mlxd__WorkRequest *m = NULL;
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
        refuse(l, err, &why);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_STEP) {
        on_step(l, m->step, hidden);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_DROP) {
        on_drop(l, m->drop->session);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_LOAD) {
        on_load(l, m->load);
    } else if (m->body_case == MLXD__WORK_REQUEST__BODY_HELLO && !l->greeted) {
        on_hello(l, m->hello);
    } else {
        (void)mlxd_fail(&why, MLXD_ERR_PROTO, "unexpected message");
        refuse(l, MLXD_ERR_PROTO, &why);
    }
    if (m)
        mlxd__work_request__free_unpacked(m, NULL);
    mlxd_rpc_msg_free(msg);
}

/* Third and last: nobody can use the handle any more. */
static void close_link_job(mlxd_pool *pool, void *a, void *b) {
    struct link *l = a;
    (void)pool;
    (void)b;
    mlxd_rpc_stream_close(l->stream);
    mlxd_mem_free(l);
}

/* Second: loading for this link is over. */
static void retire_link_job(mlxd_pool *pool, void *a, void *b) {
    struct link *l = a;
    (void)pool;
    (void)b;
    mlxd_driver_post(l->worker->p.driver, (mlxd_job){close_link_job, l, NULL});
}

static void on_work_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    mlxd_worker *w = ctx;
    struct link *l = mlxd_rpc_stream_user(s);
    if (!l) {
        mlxd_rpc_stream_close(s);
        return;
    }
    atomic_store(&l->closed, true);
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
    mlxd_checkpoint_meta_digest(p->checkpoint, w->meta);
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
    mlxd_cpu_close(w->cpu);
    for (size_t i = 0; i < FLIGHTS_MAX; i++)
        mlxd_step_close(w->flights[i].step);
    mlxd_mutex_deinit(&w->lock);
    mlxd_mem_free(w);
}

void mlxd_worker_get_status(mlxd_worker *w, mlxd_worker_status *out) {
    *out = (mlxd_worker_status){.coordinator_seen_ns = atomic_load(&w->seen_ns),
                                .stale_steps = atomic_load(&w->stale),
                                .load_done = atomic_load(&w->load_done),
                                .load_total = atomic_load(&w->load_total)};
    mlxd_mutex_lock(&w->lock);
    snprintf(out->coordinator, sizeof out->coordinator, "%s", w->coordinator);
    out->epoch = w->epoch;
    if (w->active)
        out->state = w->active->ready     ? MLXD_WORKER_READY
                     : w->active->loading ? MLXD_WORKER_LOADING
                                          : MLXD_WORKER_WAITING;
    if (w->cpu) {
        out->first = mlxd_layers_first(mlxd_cpu_layers(w->cpu));
        out->end = mlxd_layers_end(mlxd_cpu_layers(w->cpu));
        out->positions = w->positions;
        mlxd_cpu_stats_get(w->cpu, &out->stats);
    }
    mlxd_mutex_unlock(&w->lock);
}
