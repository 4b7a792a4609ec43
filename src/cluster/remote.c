/* remote.c - see remote.h. Two channels, so that a big message on one connection cannot hold up the
 * beat on the other. The table of steps in flight is the meeting point of engine and poller; its
 * lock is never held across a call into the transport.
 */
#include "cluster/remote.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/wire.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_MS 3000 /* gRPC takes the shortest back-off as the connect timeout, too */
#define FLIGHTS_MAX (2 * MLXD_LIMIT_STAGES)
#define MEMORY_MAX (UINT64_C(1) << 50) /* of one device, bytes: more is nonsense */

/* What the worker may say next. */
enum phase { GREETING, GREETED, LOADING, LOADED };

struct flight {
    mlxd_step *step; /* NULL: free */
    bool last;
};

struct mlxd_remote {
    mlxd_stage stage; /* first: the stage is the object */
    mlxd_remote_params p;
    uint32_t width;
    mlxd_rpc_channel *work_channel, *beat_channel;
    mlxd_rpc_stream *work, *beat;
    mlxd_source_link shards;
    mlxd_mutex lock;
    /* under lock */
    struct flight flights[FLIGHTS_MAX];
    enum phase phase;
    bool dead;
    mlxd_err err; /* why it died */
    mlxd_why why;
    mlxd_pulse pulse;
    uint64_t beat_sent_ns, sequence;
};

static void tell(mlxd_remote *r, mlxd_remote_note *note) {
    note->link = r->p.link;
    r->p.note(r->p.note_ctx, note);
}

/* ---- death ---- */

/* Marks the link dead, once, and fails what is in flight. */
static void die(mlxd_remote *r, mlxd_err err, const char *reason) {
    mlxd_step *steps[FLIGHTS_MAX];
    size_t n = 0;
    mlxd_remote_note note = {.event = MLXD_REMOTE_LOST, .err = err};
    mlxd_mutex_lock(&r->lock);
    bool first = !r->dead;
    if (first) {
        r->dead = true;
        r->err = err;
        (void)mlxd_fail(&r->why, err, "%s: %s", r->stage.device, reason);
        for (size_t i = 0; i < FLIGHTS_MAX; i++)
            if (r->flights[i].step) {
                steps[n++] = r->flights[i].step;
                r->flights[i].step = NULL;
            }
    }
    note.why = r->why;
    mlxd_mutex_unlock(&r->lock);
    if (!first)
        return;
    for (size_t i = 0; i < n; i++)
        r->stage.done(r->stage.done_ctx, &r->stage, steps[i], MLXD_ERR_PEER, &note.why);
    tell(r, &note);
}

void mlxd_remote_fail(mlxd_remote *r, mlxd_err err, const char *reason) {
    die(r, err, reason);
    mlxd_rpc_stream_cancel(r->work);
}

/* The worker's turn to say something: true when it is in `from`, which becomes `to`. Otherwise the
 * link ends. Nobody is told anything of a dead link. */
static bool advance(mlxd_remote *r, enum phase from, enum phase to, const char *what) {
    mlxd_mutex_lock(&r->lock);
    bool dead = r->dead, ok = r->phase == from;
    if (ok && !dead)
        r->phase = to;
    mlxd_mutex_unlock(&r->lock);
    if (!ok && !dead) {
        char text[64];
        snprintf(text, sizeof text, "it sent \"%s\" out of turn", what);
        mlxd_remote_fail(r, MLXD_ERR_PROTO, text);
    }
    return ok && !dead;
}

/* ---- stage: called by the engine thread ---- */

static bool add_flight(mlxd_remote *r, mlxd_step *step, bool last, mlxd_why *why) {
    bool added = false;
    mlxd_mutex_lock(&r->lock);
    for (size_t i = 0; i < FLIGHTS_MAX && !added && !r->dead; i++)
        if (!r->flights[i].step) {
            r->flights[i] = (struct flight){step, last};
            added = true;
        }
    if (r->dead)
        *why = r->why;
    else if (!added)
        (void)mlxd_fail(why, MLXD_ERR_FULL, "%s: too many steps in flight", r->stage.device);
    mlxd_mutex_unlock(&r->lock);
    return added;
}

static void submit(mlxd_stage *stage, mlxd_step *step, bool last) {
    mlxd_remote *r = (mlxd_remote *)stage;
    mlxd_why why = {0};
    mlxd_buf header;
    if (!add_flight(r, step, last, &why)) {
        stage->done(stage->done_ctx, stage, step, MLXD_ERR_PEER, &why);
        return;
    }
    mlxd_buf_init(&header, 0);
    mlxd_wire_step(&header, step, last);
    mlxd_rpc_part parts[2] = {{.bytes = {header.data, header.len}},
                              {.bytes = {(const uint8_t *)step->hidden,
                                         (size_t)step->n_hidden * step->width * sizeof(float)}}};
    mlxd_err err = header.failed ? MLXD_ERR_NOMEM : mlxd_rpc_stream_send(r->work, parts, 2);
    mlxd_buf_deinit(&header);
    if (err) /* also the answer for this step, which is in the table */
        mlxd_remote_fail(r, MLXD_ERR_PEER,
                         err == MLXD_ERR_FULL ? "it does not take the steps it is sent"
                                              : "the connection is gone");
}

/* Sends what is in `buf`, which is freed. */
static void send_buf(mlxd_remote *r, mlxd_buf *buf) {
    mlxd_rpc_part part = {.bytes = {buf->data, buf->len}};
    if (buf->failed || mlxd_rpc_stream_send(r->work, &part, 1))
        mlxd_remote_fail(r, MLXD_ERR_PEER, "the connection is gone");
    mlxd_buf_deinit(buf);
}

static void send_request(mlxd_remote *r, const Mlxd__WorkRequest *m) {
    mlxd_buf buf;
    mlxd_buf_init(&buf, 0);
    mlxd_wire_request(&buf, m);
    send_buf(r, &buf);
}

static void drop(mlxd_stage *stage, uint64_t session) {
    Mlxd__Drop body = MLXD__DROP__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    body.session = session;
    m.body_case = MLXD__WORK_REQUEST__BODY_DROP;
    m.drop = &body;
    send_request((mlxd_remote *)stage, &m);
}

static void close_stage(mlxd_stage *stage) {
    mlxd_remote_close((mlxd_remote *)stage);
}

static const mlxd_stage_ops ops = {submit, drop, close_stage};

/* ---- the Work stream: poller thread ---- */

static void on_step_reply(mlxd_remote *r, const Mlxd__StepReply *m, mlxd_slice hidden) {
    struct flight f = {0};
    mlxd_why why = {0};
    mlxd_mutex_lock(&r->lock);
    for (size_t i = 0; i < FLIGHTS_MAX; i++)
        if (r->flights[i].step && r->flights[i].step->id == m->id) {
            f = r->flights[i];
            r->flights[i].step = NULL;
        }
    mlxd_mutex_unlock(&r->lock);
    if (!f.step) {
        mlxd_remote_fail(r, MLXD_ERR_PROTO, "it answered a step that is not in flight");
        return;
    }
    mlxd_err err = mlxd_wire_read_step_reply(f.step, f.last, m, hidden, &why);
    bool broken = err == MLXD_ERR_PROTO;
    r->stage.done(r->stage.done_ctx, &r->stage, f.step, broken ? MLXD_ERR_PEER : err, &why);
    if (broken)
        mlxd_remote_fail(r, MLXD_ERR_PROTO, why.text);
}

static void on_hello(mlxd_remote *r, const Mlxd__HelloReply *m) {
    mlxd_remote_note note = {.event = MLXD_REMOTE_HELLO};
    if (!advance(r, GREETING, GREETED, "hello"))
        return;
    if (m->protocol != MLXD_WIRE_PROTOCOL) {
        (void)mlxd_fail(&note.why, MLXD_ERR_STATE,
                        "it speaks protocol %u (mlxd %.20s), we speak %u", m->protocol, m->version,
                        MLXD_WIRE_PROTOCOL);
        mlxd_remote_fail(r, MLXD_ERR_STATE, note.why.text);
        return;
    }
    if (strcmp(m->device, r->p.device) != 0) {
        (void)mlxd_fail(&note.why, MLXD_ERR_STATE, "it calls itself \"%.63s\"", m->device);
        mlxd_remote_fail(r, MLXD_ERR_STATE, note.why.text);
        return;
    }
    if (!m->takes_shards &&
        (m->meta_sha256.len != MLXD_SHA256_BYTES ||
         !mlxd_digest_eq(m->meta_sha256.data, r->p.manifest->meta, MLXD_SHA256_BYTES))) {
        mlxd_remote_fail(r, MLXD_ERR_STATE,
                         "the model files differ: it has another configuration, tokenizer or "
                         "template");
        return;
    }
    if (!isfinite(m->speed) || m->speed <= 0 || m->memory_available > m->memory_total ||
        m->memory_total > MEMORY_MAX) {
        mlxd_remote_fail(r, MLXD_ERR_PROTO, "it reports impossible speed or memory");
        return;
    }
    note.facts = (mlxd_remote_facts){.memory_total = m->memory_total,
                                     .memory_available = m->memory_available,
                                     .speed = m->speed,
                                     .threads = m->threads,
                                     .first = m->first,
                                     .end = m->end,
                                     .takes_shards = m->takes_shards};
    snprintf(note.facts.isa, sizeof note.facts.isa, "%s", m->isa);
    snprintf(note.facts.version, sizeof note.facts.version, "%s", m->version);
    tell(r, &note);
}

/* The names of the tensors of layers [first, end), owned by the caller; NULL: no memory. */
static mlxd_tensor_name *list_tensors(const mlxd_remote *r, uint32_t first, uint32_t end,
                                      size_t *count) {
    *count = mlxd_layers_tensors(r->p.config, first, end, NULL);
    mlxd_tensor_name *names = mlxd_mem_new(*count, sizeof *names);
    if (names)
        (void)mlxd_layers_tensors(r->p.config, first, end, names);
    return names;
}

static mlxd_err compare_digests(const mlxd_remote *r, const Mlxd__Loaded *m, mlxd_why *why) {
    if (m->first != r->stage.first || m->end != r->stage.end)
        return mlxd_fail(why, MLXD_ERR_PROTO, "it loaded layers [%u, %u), asked were [%u, %u)",
                         m->first, m->end, r->stage.first, r->stage.end);
    size_t expected;
    mlxd_tensor_name *names = list_tensors(r, r->stage.first, r->stage.end, &expected);
    if (!names)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_err err = MLXD_OK;
    if (m->n_tensors != expected)
        err = mlxd_fail(why, MLXD_ERR_STATE, "it reports %zu tensors, expected %zu", m->n_tensors,
                        expected);
    for (size_t i = 0; i < m->n_tensors && !err; i++) {
        const Mlxd__TensorDigest *d = m->tensors[i];
        const mlxd_tensor_digest *want = mlxd_manifest_find(r->p.manifest, names[i].text);
        if (!want || strcmp(d->name, names[i].text) != 0 || d->sha256.len != MLXD_SHA256_BYTES ||
            !mlxd_digest_eq(d->sha256.data, want->sha256, MLXD_SHA256_BYTES))
            err = mlxd_fail(why, MLXD_ERR_STATE,
                            "the model files differ: its tensor %.60s is not ours", d->name);
    }
    mlxd_mem_free(names);
    return err;
}

static void on_loaded(mlxd_remote *r, const Mlxd__Loaded *m) {
    mlxd_remote_note note = {.event = MLXD_REMOTE_LOADED, .memory_bytes = m->memory_bytes};
    if (!advance(r, LOADING, LOADED, "loaded"))
        return;
    mlxd_err err = compare_digests(r, m, &note.why);
    if (err)
        mlxd_remote_fail(r, err, note.why.text);
    else
        tell(r, &note);
}

static void on_progress(mlxd_remote *r, const Mlxd__LoadProgress *m) {
    mlxd_remote_note note = {
        .event = MLXD_REMOTE_PROGRESS, .done = m->done, .total = m->total, .fetching = m->fetching};
    if (advance(r, LOADING, LOADING, "progress"))
        tell(r, &note);
}

/* ---- shards ---- */

static void on_fetch(mlxd_remote *r, const Mlxd__Fetch *m) {
    mlxd_why why = {0};
    if (!advance(r, LOADING, LOADING, "fetch"))
        return;
    mlxd_err err = r->p.source ? mlxd_source_fetch(r->p.source, &r->shards, m, &why)
                               : mlxd_fail(&why, MLXD_ERR_PROTO, "the model is not given out");
    if (err)
        mlxd_remote_fail(r, err, why.text);
}

/* A file of ours cannot be read. */
static void on_source_failed(void *ctx, mlxd_err err, const mlxd_why *why) {
    mlxd_remote_fail(ctx, err, why->text);
}

uint64_t mlxd_remote_shard_bytes(const mlxd_remote *r) {
    return atomic_load(&r->shards.sent);
}

static void on_work_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    mlxd_remote *r = ctx;
    mlxd_slice header, hidden;
    mlxd_why why = {0};
    Mlxd__WorkReply *m = NULL;
    (void)s;
    mlxd_err err = mlxd_wire_split(mlxd_rpc_msg_bytes(msg), &header, &hidden, &why);
    if (!err && header.len <= MLXD_LIMIT_WIRE_HEADER)
        m = mlxd__work_reply__unpack(NULL, header.len, header.data);
    if (!m)
        mlxd_remote_fail(r, MLXD_ERR_PROTO, err ? why.text : "malformed message");
    else if (m->body_case == MLXD__WORK_REPLY__BODY_STEP)
        on_step_reply(r, m->step, hidden);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_PROGRESS)
        on_progress(r, m->progress);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_FETCH)
        on_fetch(r, m->fetch);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_HELLO)
        on_hello(r, m->hello);
    else if (m->body_case == MLXD__WORK_REPLY__BODY_LOADED)
        on_loaded(r, m->loaded);
    else
        mlxd_remote_fail(r, MLXD_ERR_PROTO, "unexpected message");
    if (m)
        mlxd__work_reply__free_unpacked(m, NULL);
    mlxd_rpc_msg_free(msg);
}

static void on_work_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    mlxd_remote *r = ctx;
    (void)s;
    const char *text = status->why.text[0] ? status->why.text : "it ended the stream";
    die(r, status->err == MLXD_OK ? MLXD_ERR_PEER : status->err, text);
}

/* ---- the Beat stream ---- */

static void on_beat(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    mlxd_remote *r = ctx;
    mlxd_slice in = mlxd_rpc_msg_bytes(msg);
    Mlxd__BeatReply *m = in.len <= 256 ? mlxd__beat_reply__unpack(NULL, in.len, in.data) : NULL;
    uint64_t now = mlxd_clock_now_ns();
    if (!m) {
        mlxd_rpc_stream_cancel(s);
    } else {
        mlxd_mutex_lock(&r->lock);
        r->pulse = (mlxd_pulse){.answered = true,
                                .last_ns = now,
                                .progress = m->progress,
                                .rtt_ns = m->sequence == r->sequence ? now - r->beat_sent_ns
                                                                     : r->pulse.rtt_ns,
                                .sessions = m->sessions,
                                .kv_pages_used = m->kv_pages_used,
                                .steps = m->steps,
                                .compute_ns = m->compute_ns,
                                .rss_bytes = m->rss_bytes};
        mlxd_mutex_unlock(&r->lock);
        mlxd__beat_reply__free_unpacked(m, NULL);
    }
    mlxd_rpc_msg_free(msg);
}

/* Without its beat a link would only live until its silence is noticed. */
static void on_beat_close(void *ctx, mlxd_rpc_stream *s, const mlxd_rpc_status *status) {
    mlxd_remote *r = ctx;
    (void)s;
    const char *text = status->why.text[0] ? status->why.text : "it ended the beat stream";
    mlxd_remote_fail(r, status->err == MLXD_OK ? MLXD_ERR_PEER : status->err, text);
}

void mlxd_remote_beat(mlxd_remote *r) {
    uint8_t out[32];
    Mlxd__BeatRequest m = MLXD__BEAT_REQUEST__INIT;
    mlxd_mutex_lock(&r->lock);
    m.sequence = ++r->sequence;
    m.epoch = r->p.epoch;
    r->beat_sent_ns = mlxd_clock_now_ns();
    mlxd_mutex_unlock(&r->lock);
    MLXD_ASSERT(mlxd__beat_request__get_packed_size(&m) <= sizeof out);
    mlxd_rpc_part part = {.bytes = {out, mlxd__beat_request__pack(&m, out)}};
    mlxd_err err = mlxd_rpc_stream_send(r->beat, &part, 1);
    if (err)
        mlxd_log(MLXD_LOG_DEBUG, "cluster", "%s: no beat sent: %s", r->stage.device,
                 mlxd_err_name(err));
}

void mlxd_remote_pulse(mlxd_remote *r, mlxd_pulse *out) {
    mlxd_mutex_lock(&r->lock);
    *out = r->pulse;
    mlxd_mutex_unlock(&r->lock);
}

/* ---- open, load, close ---- */

static void say_hello(mlxd_remote *r) {
    Mlxd__Hello hello = MLXD__HELLO__INIT;
    mlxd_buf buf;
    hello.protocol = MLXD_WIRE_PROTOCOL;
    hello.version = (char *)(uintptr_t)r->p.version;
    hello.device = (char *)(uintptr_t)r->p.self;
    hello.epoch = r->p.epoch;
    hello.meta_sha256 =
        (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)r->p.manifest->meta};
    mlxd_buf_init(&buf, 0);
    mlxd_wire_hello(&buf, &hello, r->p.source ? mlxd_source_spec(r->p.source) : NULL);
    send_buf(r, &buf);
}

static mlxd_err open_channels(mlxd_remote *r, mlxd_why *why) {
    mlxd_rpc_channel_options o = {.address = r->p.address,
                                  .creds = r->p.creds,
                                  .device = r->p.device,
                                  .own_connection = true,
                                  .reconnect_min_ms = CONNECT_MS,
                                  .reconnect_max_ms = CONNECT_MS};
    mlxd_err err = mlxd_rpc_channel_open(&r->work_channel, r->p.rpc, &o, why);
    if (!err)
        err = mlxd_rpc_channel_open(&r->beat_channel, r->p.rpc, &o, why);
    if (err)
        return err;
    mlxd_rpc_stream_options work = {
        .path = MLXD_WIRE_WORK,
        .deadline_ns = UINT64_MAX,
        .ctx = r,
        .events = {.on_message = on_work_message, .on_close = on_work_close},
        .limits = {.send_bytes_max = MLXD_WIRE_UNSENT_MAX}};
    err = mlxd_rpc_stream_open(&r->work, r->work_channel, &work, why);
    r->shards.stream = r->work;
    mlxd_rpc_stream_options beat = {.path = MLXD_WIRE_BEAT,
                                    .deadline_ns = UINT64_MAX,
                                    .ctx = r,
                                    .events = {.on_message = on_beat, .on_close = on_beat_close}};
    if (!err)
        err = mlxd_rpc_stream_open(&r->beat, r->beat_channel, &beat, why);
    return err;
}

mlxd_err mlxd_remote_open(mlxd_remote **out, const mlxd_remote_params *p, mlxd_why *why) {
    mlxd_remote *r = mlxd_mem_new(1, sizeof *r);
    if (!r)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&r->lock);
    r->p = *p;
    r->width = p->config->hidden;
    r->stage.ops = &ops;
    r->shards.failed = on_source_failed;
    r->shards.ctx = r;
    snprintf(r->stage.device, sizeof r->stage.device, "%s", p->device);
    r->pulse.last_ns = mlxd_clock_now_ns();
    mlxd_err err = open_channels(r, why);
    if (err) {
        mlxd_remote_close(r);
        return err;
    }
    *out = r;
    say_hello(r);
    return MLXD_OK;
}

void mlxd_remote_close(mlxd_remote *r) {
    if (!r)
        return;
    /* Closing a channel waits for the last callback of its streams. */
    mlxd_rpc_channel_close(r->beat_channel);
    mlxd_rpc_channel_close(r->work_channel);
    if (r->p.source)
        mlxd_source_drop(r->p.source, &r->shards);
    if (r->beat)
        mlxd_rpc_stream_close(r->beat);
    if (r->work)
        mlxd_rpc_stream_close(r->work);
    mlxd_mutex_deinit(&r->lock);
    mlxd_mem_free(r);
}

mlxd_err mlxd_remote_load(mlxd_remote *r, uint32_t first, uint32_t end, uint32_t positions,
                          uint32_t tokens_max, uint32_t kv_pages, mlxd_why *why) {
    const mlxd_manifest *all = r->p.manifest;
    size_t n;
    mlxd_tensor_name *names = list_tensors(r, first, end, &n);
    Mlxd__TensorDigest *digests = mlxd_mem_new(n, sizeof *digests);
    Mlxd__TensorDigest **pointers = mlxd_mem_new(n, sizeof *pointers);
    Mlxd__Load load = MLXD__LOAD__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    mlxd_err err =
        names && digests && pointers ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_lock(&r->lock);
    MLXD_ASSERT(r->phase == GREETED);
    r->stage.first = first;
    r->stage.end = end;
    r->phase = LOADING;
    mlxd_mutex_unlock(&r->lock);
    for (size_t i = 0; i < n && !err; i++) {
        const mlxd_tensor_digest *d = mlxd_manifest_find(all, names[i].text);
        if (!d) {
            err = mlxd_fail(why, MLXD_ERR_DATA, "tensor %s is missing", names[i].text);
            break;
        }
        mlxd__tensor_digest__init(&digests[i]);
        digests[i].name = (char *)(uintptr_t)d->name;
        digests[i].sha256 =
            (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)d->sha256};
        pointers[i] = &digests[i];
    }
    load.first = first;
    load.end = end;
    load.positions = positions;
    load.tokens_max = tokens_max;
    load.kv_pages = kv_pages;
    load.n_tensors = n;
    load.tensors = pointers;
    m.body_case = MLXD__WORK_REQUEST__BODY_LOAD;
    m.load = &load;
    if (!err)
        send_request(r, &m);
    mlxd_mem_free(pointers);
    mlxd_mem_free(names);
    mlxd_mem_free(digests);
    return err;
}

mlxd_stage *mlxd_remote_stage(mlxd_remote *r) {
    return &r->stage;
}
