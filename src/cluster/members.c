/* members.c - see members.h. Every member has a state; notes from links, the local loader and the
 * clock move it, and after each of them `settle` looks whether a plan, loads or a pipeline are due.
 */
#include "cluster/members.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define BEAT_NS (100 * MLXD_NS_PER_MS)
#define RETRY_MIN_NS (50 * MLXD_NS_PER_MS)
#define RETRY_MAX_NS (5 * MLXD_NS_PER_S)
#define NOTES_MAX 1024
#define ANSWER_MS 3000 /* for the first beat: connecting and the TLS handshake come first */
#define SAY_NS (10 * MLXD_NS_PER_S) /* between two lines of the log about a download */
#define STALL_NS (5 * BEAT_NS)      /* a tick that is so late says nothing about the workers */

struct member {
    mlxd_member_view view; /* under lock where others read it; written by the members' thread */
    mlxd_remote *remote;   /* NULL while there is no link */
    uint64_t link;         /* names it in notes */
    bool greeted;          /* facts are those of this link */
    bool was_ready;        /* at least once since start */
    uint64_t retry_ns;     /* when to dial next */
    uint64_t backoff_ns;
    uint64_t said_ns; /* when its download was logged last */
};

/* Notes are those of links, and the end of loading here (link 0). Notes of a link are few but for
 * progress, which is left out when many wait: a note that has to wait for room would hold up the
 * poller, for which this thread waits when it closes a link. */
struct mlxd_members {
    mlxd_members_params p;
    mlxd_driver *background; /* loads the local layers */
    mlxd_source *source;     /* for workers without a model; NULL: there can be none */
    mlxd_forward *forward;
    mlxd_queue *notes;
    mlxd_thread thread;
    bool started;
    mlxd_mutex lock;        /* views, plan */
    struct member *members; /* [0] is this device */
    size_t count;
    mlxd_plan plan;
    bool planned, failed, serving;
    uint32_t context, kv_pages;
    uint64_t epoch, links;
    uint64_t ticked_ns, awake_ns; /* last tick; the last one that came late */
    mlxd_cpu *cpu;                /* local layers; under lock */
};

/* ---- views ---- */

static void set_state(mlxd_members *m, struct member *b, mlxd_member_state state,
                      const mlxd_why *why) {
    mlxd_mutex_lock(&m->lock);
    b->view.state = state;
    if (why)
        b->view.why = *why;
    mlxd_mutex_unlock(&m->lock);
}

size_t mlxd_members_view(mlxd_members *m, mlxd_member_view out[MLXD_LIMIT_NODES]) {
    mlxd_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->count; i++) {
        out[i] = m->members[i].view;
        mlxd_pulse pulse = {0};
        if (m->members[i].remote)
            mlxd_remote_pulse(m->members[i].remote, &pulse);
        if (pulse.answered)
            out[i].pulse = pulse;
        if (m->members[i].remote)
            out[i].shard_bytes += mlxd_remote_shard_bytes(m->members[i].remote);
    }
    if (m->cpu)
        mlxd_cpu_stats_get(m->cpu, &out[0].cpu);
    mlxd_mutex_unlock(&m->lock);
    return m->count;
}

bool mlxd_members_plan(mlxd_members *m, mlxd_plan *out) {
    mlxd_mutex_lock(&m->lock);
    bool planned = m->planned;
    if (planned)
        *out = m->plan;
    mlxd_mutex_unlock(&m->lock);
    return planned;
}

static void fail(mlxd_members *m, mlxd_err err, const mlxd_why *why) {
    if (m->failed)
        return;
    m->failed = true;
    mlxd_log(MLXD_LOG_ERROR, "cluster", "%s", why->text);
    m->p.failed(m->p.ctx, err, why);
}

/* ---- plan ---- */

/* A tenth of what is free stays free: for everything else of that machine. */
static void list_devices(const mlxd_members *m, mlxd_plan_device *out) {
    for (size_t i = 0; i < m->count; i++) {
        const mlxd_member_view *v = &m->members[i].view;
        out[i] = (mlxd_plan_device){.memory_bytes = i == 0 ? mlxd_os_memory_available()
                                                           : v->facts.memory_available,
                                    .speed = i == 0 ? m->p.speed : v->facts.speed};
        snprintf(out[i].id, sizeof out[i].id, "%s", v->device);
    }
}

/* Context and KV pool: what was asked for must fit; what was not is cut to what fits. */
static mlxd_err choose_context(mlxd_members *m, mlxd_plan_model *model,
                               const mlxd_plan_device *devices, mlxd_why *why) {
    uint64_t positions = m->p.context ? m->p.context : m->p.config->context;
    model->kv_pages = (uint32_t)MLXD_MIN((uint64_t)mlxd_kv_pages(positions) * m->p.parallel,
                                         (uint64_t)UINT32_MAX);
    uint32_t fits = m->p.n_ranges > 0 ? mlxd_plan_pages_prescribed(model, devices, m->count,
                                                                   m->p.ranges, m->p.n_ranges)
                                      : mlxd_plan_pages(model, devices, m->count);
    if (fits == 0)
        return MLXD_OK; /* the plan says why, with numbers */
    if (fits < mlxd_kv_pages(positions)) {
        if (m->p.context)
            return mlxd_fail(why, MLXD_ERR_NOMEM,
                             "memory holds a context of %llu tokens, --ctx asks for %u",
                             (unsigned long long)fits * MLXD_PAGE, m->p.context);
        positions = (uint64_t)fits * MLXD_PAGE;
    }
    m->context = (uint32_t)positions;
    m->kv_pages = model->kv_pages = fits;
    return MLXD_OK;
}

static mlxd_err make_plan(mlxd_members *m, mlxd_plan *plan, mlxd_why *why) {
    mlxd_plan_device *devices = mlxd_mem_new(m->count, sizeof *devices);
    mlxd_plan_model *model = mlxd_mem_new(1, sizeof *model);
    mlxd_err err = devices && model ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = mlxd_plan_model_read(model, m->p.checkpoint, m->p.config, 1, m->p.parallel, why);
    if (!err) {
        list_devices(m, devices);
        model->head_bytes = 0; /* it is loaded already: not part of what is available */
        err = choose_context(m, model, devices, why);
    }
    if (!err)
        err = m->p.n_ranges > 0 ? mlxd_plan_prescribe(plan, model, devices, m->count, m->p.ranges,
                                                      m->p.n_ranges, why)
                                : mlxd_plan_make(plan, model, devices, m->count, why);
    mlxd_mem_free(model);
    mlxd_mem_free(devices);
    return err;
}

static void log_plan(const mlxd_members *m) {
    for (size_t i = 0; i < m->count; i++) {
        const mlxd_plan_share *s = &m->plan.shares[i];
        if (s->end > 0)
            mlxd_log(MLXD_LOG_INFO, "cluster",
                     "plan: %s gets layers %u..%u, %llu MiB + %llu MiB KV",
                     m->members[i].view.device, s->first, s->end - 1,
                     (unsigned long long)(s->weights_bytes >> 20),
                     (unsigned long long)(s->kv_bytes >> 20));
        else
            mlxd_log(MLXD_LOG_WARN, "cluster", "plan: %s gets no layers",
                     m->members[i].view.device);
    }
}

/* ---- local layers ---- */

struct local_load {
    mlxd_members *m;
    mlxd_cpu_params params;
};

static void local_load_job(mlxd_pool *pool, void *a, void *b) {
    struct local_load *l = a;
    mlxd_remote_note note = {.event = MLXD_REMOTE_LOADED};
    mlxd_cpu *cpu = NULL;
    (void)pool;
    (void)b;
    note.err = mlxd_cpu_open(&cpu, &l->params, &note.why);
    mlxd_mutex_lock(&l->m->lock);
    l->m->cpu = cpu;
    mlxd_mutex_unlock(&l->m->lock);
    mlxd_err err = mlxd_queue_push_wait(l->m->notes, &note);
    MLXD_ASSERT(err == MLXD_OK || err == MLXD_ERR_CANCELLED); /* closing */
    mlxd_mem_free(l);
}

static void load_local(mlxd_members *m) {
    const mlxd_plan_share *s = &m->plan.shares[0];
    struct local_load *l = mlxd_mem_new(1, sizeof *l);
    mlxd_why why = {0};
    if (!l) {
        fail(m, mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory"), &why);
        return;
    }
    l->m = m;
    l->params = (mlxd_cpu_params){.driver = m->p.driver,
                                  .kv_pages = m->kv_pages,
                                  .device = m->p.device,
                                  .layers = {.checkpoint = m->p.checkpoint,
                                             .config = m->p.config,
                                             .kernels = m->p.kernels,
                                             .first = s->first,
                                             .end = s->end,
                                             .positions = m->context,
                                             .tokens_max = m->p.tokens_max,
                                             .progress = m->p.progress}};
    mlxd_driver_post(m->background, (mlxd_job){local_load_job, l, NULL});
}

/* ---- pipeline ---- */

static void hand_out(mlxd_members *m, mlxd_pipeline *p) {
    p->epoch = ++m->epoch;
    m->serving = p->n_stages > 0;
    m->p.pipeline(m->p.ctx, p);
}

static mlxd_stage *stage_of(mlxd_members *m, size_t i) {
    return i == 0 ? mlxd_cpu_stage(m->cpu) : mlxd_remote_stage(m->members[i].remote);
}

/* All stages in the order of their layers. */
static void start_serving(mlxd_members *m) {
    mlxd_pipeline p = {.context = m->context, .kv_pages = m->kv_pages};
    mlxd_why why = {0};
    for (uint32_t next = 0; next < m->p.config->layers;) {
        size_t i = 0;
        while (i < m->count && !(m->plan.shares[i].first == next && m->plan.shares[i].end > next))
            i++;
        MLXD_ASSERT(i < m->count);
        p.stages[p.n_stages++] = stage_of(m, i);
        next = m->plan.shares[i].end;
    }
    mlxd_err err = mlxd_pipeline_check(&p, m->p.config->layers, &why);
    MLXD_ASSERT(err == MLXD_OK);
    hand_out(m, &p);
    mlxd_log(MLXD_LOG_INFO, "cluster", "serving with %u stages, epoch %llu", p.n_stages,
             (unsigned long long)m->epoch);
}

static void stop_serving(mlxd_members *m, const mlxd_why *why) {
    mlxd_pipeline p = {.n_stages = 0, .why = *why};
    if (m->serving)
        hand_out(m, &p);
}

/* ---- links ---- */

static void on_note(void *ctx, const mlxd_remote_note *note) {
    mlxd_members *m = ctx;
    if (note->event == MLXD_REMOTE_PROGRESS && mlxd_queue_len(m->notes) > NOTES_MAX / 2)
        return;
    mlxd_err err = mlxd_queue_push_wait(m->notes, note);
    MLXD_ASSERT(err == MLXD_OK || err == MLXD_ERR_CANCELLED); /* closing */
}

static void dial(mlxd_members *m, struct member *b) {
    mlxd_why why = {0};
    mlxd_remote *r = NULL;
    mlxd_remote_params p = {.rpc = m->p.rpc,
                            .creds = m->p.creds,
                            .device = b->view.device,
                            .address = b->view.address,
                            .self = m->p.device,
                            .version = m->p.version,
                            .config = m->p.config,
                            .manifest = m->p.manifest,
                            .source = m->source,
                            .epoch = m->epoch,
                            .link = ++m->links,
                            .note = on_note,
                            .note_ctx = m};
    mlxd_err err = mlxd_remote_open(&r, &p, &why);
    mlxd_mutex_lock(&m->lock);
    b->remote = r;
    mlxd_mutex_unlock(&m->lock);
    b->link = p.link;
    if (err == MLXD_ERR_INVALID || err == MLXD_ERR_PERM) {
        (void)mlxd_fail_in(&why, err, "worker %s", b->view.device);
        fail(m, err, &why);
    }
    if (err) {
        if (strcmp(b->view.why.text, why.text) != 0)
            mlxd_log(MLXD_LOG_ERROR, "cluster", "%s: %s", b->view.device, why.text);
        b->retry_ns = mlxd_clock_now_ns() + RETRY_MAX_NS;
        set_state(m, b, MLXD_MEMBER_LOST, &why);
    }
}

/* Half to one and a half times the wait, so that workers are not dialled in step. */
static uint64_t jitter(uint64_t ns) {
    uint32_t r = 0;
    if (!mlxd_os_random(&r, sizeof r))
        r = 1u << 31;
    return ns / 2 + (uint64_t)((double)ns * ((double)r / 4294967296.0));
}

static void lose(mlxd_members *m, struct member *b, mlxd_err err, const mlxd_why *why) {
    bool was_up = b->view.state == MLXD_MEMBER_READY || b->view.state == MLXD_MEMBER_LOADING ||
                  b->view.state == MLXD_MEMBER_WAITING;
    if (was_up || strcmp(b->view.why.text, why->text) != 0)
        mlxd_log(was_up ? MLXD_LOG_ERROR : MLXD_LOG_WARN, "cluster", "%s%s",
                 was_up ? "lost: " : "not reached: ", why->text);
    set_state(m, b,
              b->view.state == MLXD_MEMBER_CONNECTING ? MLXD_MEMBER_CONNECTING : MLXD_MEMBER_LOST,
              why);
    if (b->view.end > 0)
        stop_serving(m, why); /* returns when the engine has let go of the stage */
    mlxd_remote *r = b->remote;
    mlxd_pulse pulse;
    mlxd_remote_pulse(r, &pulse);
    mlxd_mutex_lock(&m->lock);
    if (pulse.answered) /* what the last beat said stays to be seen */
        b->view.pulse = pulse;
    b->view.shard_bytes += mlxd_remote_shard_bytes(r);
    b->remote = NULL;
    mlxd_mutex_unlock(&m->lock);
    mlxd_remote_close(r);
    b->greeted = false;
    /* A worker that refuses us is asked less often than one that is away. */
    b->retry_ns =
        mlxd_clock_now_ns() +
        jitter(err == MLXD_ERR_PEER || err == MLXD_ERR_CANCELLED ? b->backoff_ns : RETRY_MAX_NS);
    b->backoff_ns = MLXD_MIN(b->backoff_ns * 2, RETRY_MAX_NS / 5);
}

static struct member *find_member(mlxd_members *m, uint64_t link) {
    for (size_t i = 1; i < m->count; i++)
        if (m->members[i].remote && m->members[i].link == link)
            return &m->members[i];
    return NULL;
}

static void set_ready(mlxd_members *m, struct member *b) {
    mlxd_mutex_lock(&m->lock);
    b->view.reconnects += b->was_ready;
    mlxd_mutex_unlock(&m->lock);
    b->was_ready = true;
    b->backoff_ns = RETRY_MIN_NS;
    set_state(m, b, MLXD_MEMBER_READY, &(mlxd_why){0});
    mlxd_log(MLXD_LOG_INFO, "cluster", "%s ready", b->view.device);
}

static void note_progress(mlxd_members *m, struct member *b, const mlxd_remote_note *n) {
    uint64_t now = mlxd_clock_now_ns();
    mlxd_mutex_lock(&m->lock);
    b->view.load_done = n->done;
    b->view.load_total = n->total;
    b->view.fetching = n->fetching;
    mlxd_mutex_unlock(&m->lock);
    if (!n->fetching || now - b->said_ns < SAY_NS)
        return;
    b->said_ns = now;
    mlxd_log(MLXD_LOG_INFO, "cluster", "%s is downloading layers %u..%u: %.1f of %.1f MB",
             b->view.device, b->view.first, b->view.end - 1, (double)n->done / 1e6,
             (double)n->total / 1e6);
}

static void handle_note(mlxd_members *m, const mlxd_remote_note *n) {
    struct member *b = n->link ? find_member(m, n->link) : &m->members[0];
    if (!b)
        return; /* of a link that was given up meanwhile */
    switch (n->event) {
    case MLXD_REMOTE_HELLO:
        mlxd_mutex_lock(&m->lock);
        b->view.facts = n->facts;
        mlxd_mutex_unlock(&m->lock);
        b->greeted = true;
        mlxd_log(MLXD_LOG_INFO, "cluster",
                 "%s connected: %llu MiB free, %.1f GB/s, %u threads, %s%s", b->view.device,
                 (unsigned long long)(n->facts.memory_available >> 20), n->facts.speed / 1e9,
                 n->facts.threads, n->facts.isa,
                 n->facts.takes_shards ? "; it gets its layers from here" : "");
        set_state(m, b, MLXD_MEMBER_WAITING, NULL);
        break;
    case MLXD_REMOTE_PROGRESS:
        note_progress(m, b, n);
        break;
    case MLXD_REMOTE_LOADED:
        if (n->err) {
            fail(m, n->err, &n->why);
            break;
        }
        mlxd_mutex_lock(&m->lock);
        b->view.memory_bytes = n->memory_bytes;
        b->view.load_done = b->view.load_total;
        b->view.fetching = false;
        mlxd_mutex_unlock(&m->lock);
        set_ready(m, b);
        break;
    case MLXD_REMOTE_LOST:
        lose(m, b, n->err, &n->why);
    }
}

/* ---- what is due ---- */

static void begin_load(mlxd_members *m, size_t i) {
    struct member *b = &m->members[i];
    const mlxd_plan_share *s = &m->plan.shares[i];
    mlxd_why why = {0};
    mlxd_mutex_lock(&m->lock);
    b->view.first = s->first;
    b->view.end = s->end;
    b->view.load_done = b->view.load_total = 0;
    b->view.fetching = false;
    mlxd_mutex_unlock(&m->lock);
    b->said_ns = mlxd_clock_now_ns();
    if (s->end == 0) {
        set_ready(m, b);
        return;
    }
    set_state(m, b, MLXD_MEMBER_LOADING, NULL);
    if (i == 0)
        load_local(m);
    else {
        mlxd_err err = mlxd_remote_load(b->remote, s->first, s->end, m->context, m->p.tokens_max,
                                        m->kv_pages, &why);
        if (err)
            mlxd_remote_fail(b->remote, err, why.text);
    }
}

static void settle_plan(mlxd_members *m) {
    mlxd_why why = {0};
    mlxd_plan *plan;
    for (size_t i = 1; i < m->count; i++)
        if (!m->members[i].greeted)
            return;
    plan = mlxd_mem_new(1, sizeof *plan);
    mlxd_err err = plan ? make_plan(m, plan, &why) : mlxd_fail(&why, MLXD_ERR_NOMEM, "no memory");
    if (err) {
        mlxd_mem_free(plan);
        fail(m, err, &why);
        return;
    }
    mlxd_mutex_lock(&m->lock);
    m->plan = *plan;
    m->planned = true;
    mlxd_mutex_unlock(&m->lock);
    mlxd_mem_free(plan);
    log_plan(m);
    begin_load(m, 0);
}

static void settle(mlxd_members *m) {
    if (m->failed)
        return;
    if (!m->planned)
        settle_plan(m);
    if (!m->planned)
        return;
    bool all = true;
    for (size_t i = 0; i < m->count; i++) {
        if (i > 0 && m->members[i].view.state == MLXD_MEMBER_WAITING)
            begin_load(m, i);
        all = all && (m->plan.shares[i].end == 0 || m->members[i].view.state == MLXD_MEMBER_READY);
    }
    if (all && !m->serving)
        start_serving(m);
}

/* Was nothing heard for too long? Silence while this thread did not send beats does not count. */
static void check_silence(mlxd_members *m, struct member *b, uint64_t now) {
    mlxd_pulse pulse;
    char text[64];
    mlxd_remote_pulse(b->remote, &pulse);
    uint64_t limit_ms = m->p.worker_timeout_ms, heard = MLXD_MAX(pulse.last_ns, m->awake_ns);
    if (!pulse.answered)
        limit_ms = MLXD_MAX(limit_ms, (uint64_t)ANSWER_MS);
    if (heard >= now || now - heard <= limit_ms * MLXD_NS_PER_MS)
        return;
    snprintf(text, sizeof text, pulse.answered ? "no beat for %llu ms" : "no answer for %llu ms",
             (unsigned long long)limit_ms);
    mlxd_remote_fail(b->remote, MLXD_ERR_PEER, text);
}

/* Beats, silence, and dialling; once per BEAT_NS. */
static void on_tick(mlxd_members *m, uint64_t now) {
    if (now - m->ticked_ns > STALL_NS)
        m->awake_ns = now;
    m->ticked_ns = now;
    for (size_t i = 1; i < m->count && !m->failed; i++) {
        struct member *b = &m->members[i];
        if (b->remote) {
            mlxd_remote_beat(b->remote);
            check_silence(m, b, now);
        } else if (now >= b->retry_ns) {
            dial(m, b);
        }
    }
}

static void members_main(void *arg) {
    mlxd_members *m = arg;
    mlxd_remote_note note;
    uint64_t next = 0;
    settle(m); /* without workers there is nobody to wait for */
    for (;;) {
        mlxd_err err = mlxd_queue_pop(m->notes, &note, next);
        if (err == MLXD_ERR_CANCELLED)
            return;
        if (err == MLXD_OK) {
            handle_note(m, &note);
            settle(m);
        }
        uint64_t now = mlxd_clock_now_ns();
        if (now >= next) {
            on_tick(m, now);
            next = now + BEAT_NS;
        }
    }
}

/* ---- open and close ---- */

static mlxd_cpu *local_cpu(void *ctx) {
    mlxd_members *m = ctx;
    mlxd_mutex_lock(&m->lock);
    mlxd_cpu *cpu = m->cpu;
    mlxd_mutex_unlock(&m->lock);
    return cpu;
}

mlxd_forward *mlxd_members_forward(mlxd_members *m) {
    return m->forward;
}

/* Without it only workers that have the model are of use, and they say so. */
static mlxd_err open_source(mlxd_members *m, mlxd_why *why) {
    if (m->p.n_workers == 0)
        return MLXD_OK;
    mlxd_err err = mlxd_source_open(&m->source, m->p.checkpoint, m->p.manifest, why);
    if (err != MLXD_ERR_INVALID && err != MLXD_ERR_UNSUPPORTED)
        return err;
    mlxd_log(MLXD_LOG_WARN, "cluster", "the model is not given out to workers: %s", why->text);
    return MLXD_OK;
}

mlxd_err mlxd_members_open(mlxd_members **out, const mlxd_members_params *p, mlxd_why *why) {
    MLXD_ASSERT(p->n_workers < MLXD_LIMIT_NODES && p->parallel > 0);
    uint64_t tokens_fit = (MLXD_LIMIT_GRPC_STREAM_MESSAGE - MLXD_LIMIT_WIRE_HEADER) /
                          (p->config->hidden * (uint64_t)sizeof(float));
    if (p->n_workers > 0 && p->tokens_max > tokens_fit)
        return mlxd_fail(
            why, MLXD_ERR_CONFIG,
            "steps of %u tokens are too large for one message to a worker, which holds "
            "%llu; lower --prefill-chunk",
            p->tokens_max, (unsigned long long)tokens_fit);
    mlxd_members *m = mlxd_mem_new(1, sizeof *m);
    mlxd_err err = MLXD_ERR_NOMEM;
    if (!m)
        return mlxd_fail(why, err, "out of memory");
    mlxd_mutex_init(&m->lock);
    m->p = *p;
    m->count = p->n_workers + 1;
    /* Epochs of a coordinator that was started later are higher, so workers know the old one. */
    m->epoch = mlxd_clock_wall_ns() / MLXD_NS_PER_MS;
    m->members = mlxd_mem_new(m->count, sizeof *m->members);
    m->notes = mlxd_queue_open(sizeof(mlxd_remote_note), NOTES_MAX);
    if (m->members && m->notes)
        err = mlxd_driver_open(&m->background, 1, why);
    if (!err)
        err = mlxd_forward_open(&m->forward, m->background, local_cpu, m, why);
    if (!err)
        err = open_source(m, why);
    if (err) {
        mlxd_members_close(m);
        return err == MLXD_ERR_NOMEM ? mlxd_fail(why, err, "out of memory") : err;
    }
    for (size_t i = 0; i < m->count; i++) {
        mlxd_member_view *v = &m->members[i].view;
        v->local = i == 0;
        m->members[i].backoff_ns = RETRY_MIN_NS;
        snprintf(v->device, sizeof v->device, "%s", i ? p->workers[i - 1].device : p->device);
        snprintf(v->address, sizeof v->address, "%s", i ? p->workers[i - 1].address : "");
    }
    err = mlxd_thread_start(&m->thread, "members", MLXD_PRIORITY_NORMAL, members_main, m);
    m->started = err == MLXD_OK;
    if (err) {
        mlxd_members_close(m);
        return mlxd_fail(why, err, "cannot start the membership thread");
    }
    *out = m;
    return MLXD_OK;
}

void mlxd_members_close(mlxd_members *m) {
    if (!m)
        return;
    if (m->started) {
        mlxd_queue_shutdown(m->notes);
        mlxd_thread_join(&m->thread);
        mlxd_why why;
        (void)mlxd_fail(&why, MLXD_ERR_STATE, "the server is shutting down");
        stop_serving(m, &why);
    }
    for (size_t i = 1; m->members && i < m->count; i++)
        mlxd_remote_close(m->members[i].remote);
    mlxd_source_close(m->source);
    mlxd_driver_close(m->background); /* a load that still runs */
    mlxd_forward_close(m->forward);
    mlxd_cpu_close(m->cpu);
    mlxd_queue_close(m->notes);
    mlxd_mem_free(m->members);
    mlxd_mutex_deinit(&m->lock);
    mlxd_mem_free(m);
}
