/* worker_load.c - how a worker comes by its layers; everything but taking the order runs on its
 * background thread. With a model file of its own it loads them. Without one it first makes itself
 * a replica of the coordinator's (model/replica.h):
 *
 *     heads and documents -> the model is known -> data of the tensors in `load` -> loading
 *
 * each step of which takes only what is not there already. Loading digests every tensor; those that
 * are not what the coordinator says are fetched once more.
 */
#include "cluster/worker_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/shelf.h"

#include <stdio.h>
#include <string.h>

#define PROGRESS_NS (100 * MLXD_NS_PER_MS)
#define SAY_NS (10 * MLXD_NS_PER_S) /* between two lines of the log about a download */
#define LOADS_MAX 8                 /* assignments that may wait for the one that runs */
#define HASH_BYTES (1u << 20)

struct load {
    mlxd_worker_link *link;
    uint32_t first, end, positions, tokens_max, kv_pages;
    size_t n_expected;
    mlxd_tensor_digest *expected; /* owned */
};

/* ---- progress ---- */

static void tell_progress(mlxd_worker_link *l, uint64_t done, uint64_t total, bool fetching) {
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
    progress.fetching = fetching;
    m.body_case = MLXD__WORK_REPLY__BODY_PROGRESS;
    m.progress = &progress;
    mlxd_worker_reply(l, &m);
}

static void on_load_progress(void *ctx, uint64_t done, uint64_t total) {
    tell_progress(ctx, done, total, false);
}

void mlxd_worker_fetched(void *ctx, uint64_t done, uint64_t total) {
    mlxd_worker_link *l = ctx;
    mlxd_worker *w = l->worker;
    uint64_t now = mlxd_clock_now_ns();
    tell_progress(l, done, total, true);
    if (now - w->said_ns < SAY_NS)
        return;
    w->said_ns = now;
    mlxd_log(MLXD_LOG_INFO, "worker", "downloading layers %u..%u: %.1f of %.1f MB", w->first,
             w->end - 1, (double)done / 1e6, (double)total / 1e6);
}

/* ---- fetching ---- */

/* Fetches what the replica lacks of `wanted`; `what` is for the log. */
static mlxd_err fetch(mlxd_worker_link *l, const mlxd_spans *wanted, const char *what,
                      mlxd_why *why) {
    mlxd_worker *w = l->worker;
    uint64_t bytes = mlxd_replica_missing(w->replica, wanted->items, wanted->count),
             t0 = mlxd_clock_now_ns();
    if (bytes == 0)
        return MLXD_OK;
    mlxd_err err = mlxd_shelf_make_room(w->shards, mlxd_replica_name(w->replica), bytes,
                                        w->p.shards_bytes_max, why);
    if (err)
        return err;
    mlxd_log(MLXD_LOG_INFO, "worker", "downloading %s from %s: %llu bytes", what, l->coordinator,
             (unsigned long long)bytes);
    w->said_ns = t0;
    atomic_store(&w->load_done, 0);
    atomic_store(&w->load_total, bytes);
    atomic_store(&w->fetching, true);
    err = mlxd_pull_run(l->pull, w->replica, wanted->items, wanted->count, &w->received, why);
    atomic_store(&w->fetching, false);
    uint64_t left = mlxd_replica_missing(w->replica, wanted->items, wanted->count);
    mlxd_log(err ? MLXD_LOG_WARN : MLXD_LOG_INFO, "worker",
             "downloaded %llu of %llu bytes of %s in %.2f s%s%s",
             (unsigned long long)(bytes - left), (unsigned long long)bytes, what,
             (double)(mlxd_clock_now_ns() - t0) / 1e9, err ? ": " : "", err ? why->text : "");
    return err;
}

static bool add_tensor(mlxd_spans *spans, const mlxd_checkpoint_tensor *t) {
    for (size_t s = 0; s < t->n_streams; s++)
        for (size_t i = 0; i < t->streams[s].n_extents; i++) {
            const mlxd_extent *e = &t->streams[s].extents[i];
            const mlxd_span span = {e->file, e->offset, e->offset + e->bytes};
            if (!mlxd_spans_add(spans, &span))
                return false;
        }
    return true;
}

static mlxd_err fetch_layers(const struct load *load, mlxd_why *why) {
    mlxd_worker *w = load->link->worker;
    mlxd_spans wanted = {0};
    mlxd_err err = MLXD_OK;
    char what[64];
    for (size_t i = 0; i < load->n_expected && !err; i++) {
        const char *name = load->expected[i].name;
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(w->checkpoint, name);
        if (!t)
            err = mlxd_fail(why, MLXD_ERR_DATA, "tensor %s is not in the model", name);
        else if (!add_tensor(&wanted, t))
            err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    snprintf(what, sizeof what, "layers %u..%u", load->first, load->end - 1);
    if (!err)
        err = fetch(load->link, &wanted, what, why);
    mlxd_spans_deinit(&wanted);
    return err;
}

/* ---- mending ---- */

/* Is the tensor in the replica what it should be? What cannot be read is not. */
static bool is_right(const mlxd_worker *w, const mlxd_checkpoint_tensor *t,
                     const uint8_t want[MLXD_SHA256_BYTES], uint8_t *buf) {
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t digest[MLXD_SHA256_BYTES];
    mlxd_why why;
    bool ok = sha != NULL;
    for (size_t s = 0; s < t->n_streams && ok; s++)
        for (uint64_t at = 0; at < t->streams[s].bytes && ok;) {
            size_t n = (size_t)MLXD_MIN((uint64_t)HASH_BYTES, t->streams[s].bytes - at);
            ok = mlxd_checkpoint_read(w->checkpoint, t, s, at, buf, n, &why) == MLXD_OK;
            if (ok)
                mlxd_sha256_add(sha, buf, n);
            at += n;
        }
    if (ok)
        mlxd_sha256_get(sha, digest);
    mlxd_sha256_close(sha);
    return ok && mlxd_digest_eq(digest, want, sizeof digest);
}

static mlxd_err forget_tensor(mlxd_worker *w, const mlxd_checkpoint_tensor *t, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    for (size_t s = 0; s < t->n_streams; s++)
        for (size_t i = 0; i < t->streams[s].n_extents && !err; i++) {
            const mlxd_extent *e = &t->streams[s].extents[i];
            const mlxd_span span = {e->file, e->offset, e->offset + e->bytes};
            err = mlxd_replica_forget(w->replica, &span, why);
        }
    return err;
}

/* Fetches again what has been damaged on disk; *mended: whether that was anything. */
static mlxd_err mend(const struct load *load, bool *mended, mlxd_why *why) {
    mlxd_worker *w = load->link->worker;
    uint8_t *buf = mlxd_mem_new(HASH_BYTES, 1);
    mlxd_err err = buf ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    *mended = false;
    for (size_t i = 0; i < load->n_expected && !err; i++) {
        const mlxd_tensor_digest *d = &load->expected[i];
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(w->checkpoint, d->name);
        if (!t || is_right(w, t, d->sha256, buf))
            continue;
        mlxd_log(MLXD_LOG_WARN, "worker", "tensor %s is damaged here: it is downloaded again",
                 d->name);
        *mended = true;
        err = forget_tensor(w, t, why);
    }
    mlxd_mem_free(buf);
    return err || !*mended ? err : fetch_layers(load, why);
}

/* ---- the model ---- */

void mlxd_worker_drop_model(mlxd_worker *w) {
    mlxd_mutex_lock(&w->lock);
    mlxd_cpu *cpu = w->cpu;
    w->cpu = NULL;
    if (w->shards[0])
        w->checkpoint = NULL;
    mlxd_mutex_unlock(&w->lock);
    mlxd_cpu_close(cpu);
    mlxd_checkpoint_close(w->fetched);
    mlxd_replica_close(w->replica);
    w->fetched = NULL;
    w->replica = NULL;
}

static mlxd_err fetch_heads(mlxd_worker_link *l, mlxd_why *why) {
    mlxd_worker *w = l->worker;
    mlxd_spans heads = {0};
    mlxd_err err = MLXD_OK;
    size_t wrong = 0;
    for (size_t i = 0; i < l->spec.n_files && !err; i++) {
        const mlxd_span head = {(uint32_t)i, 0, l->spec.files[i].head_bytes};
        if (!mlxd_spans_add(&heads, &head))
            err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    bool there = !err && mlxd_replica_missing(w->replica, heads.items, heads.count) ==
                             0; /* and checked, when it was opened */
    if (!err && !there)
        err = fetch(l, &heads, "the model's description", why);
    if (!err && !there)
        err = mlxd_replica_check_heads(w->replica, &wrong, why);
    if (!err && wrong)
        err = mlxd_fail(why, MLXD_ERR_CORRUPT,
                        "the description of the model is not what %s announced", l->coordinator);
    mlxd_spans_deinit(&heads);
    return err;
}

static mlxd_err open_fetched(mlxd_worker_link *l, mlxd_config *config, mlxd_why *why) {
    mlxd_worker *w = l->worker;
    uint8_t meta[MLXD_SHA256_BYTES];
    mlxd_err err = mlxd_checkpoint_open(&w->fetched, mlxd_replica_path(w->replica), why);
    if (err)
        return err;
    mlxd_checkpoint_meta_digest(w->fetched, meta);
    if (!mlxd_digest_eq(meta, l->meta, sizeof meta))
        return mlxd_fail(why, MLXD_ERR_CORRUPT,
                         "the description of the model is not the one %s has", l->coordinator);
    err = mlxd_config_read(config, w->fetched, why);
    return err ? mlxd_fail_in(why, err, "%s", mlxd_checkpoint_path(w->fetched)) : MLXD_OK;
}

/* Makes the coordinator's model this worker's, when it is not yet. */
static mlxd_err acquire_model(mlxd_worker_link *l, mlxd_why *why) {
    mlxd_worker *w = l->worker;
    char name[MLXD_SHA256_HEX];
    mlxd_config config;
    mlxd_err err = mlxd_replica_spec_name(&l->spec, name, why);
    if (err || (w->checkpoint && strcmp(name, mlxd_replica_name(w->replica)) == 0))
        return err;
    mlxd_worker_drop_model(w);
    err = mlxd_replica_open(&w->replica, w->shards, &l->spec, why);
    if (!err)
        err = fetch_heads(l, why);
    if (!err)
        err = open_fetched(l, &config, why);
    if (err) {
        mlxd_worker_drop_model(w);
        return err;
    }
    mlxd_mutex_lock(&w->lock);
    w->config = config;
    w->checkpoint = w->fetched;
    mlxd_mutex_unlock(&w->lock);
    mlxd_log(MLXD_LOG_INFO, "worker", "the model is %s, kept in %s: %.1f MB of %.1f MB are there",
             config.name, w->shards, (double)mlxd_replica_bytes(w->replica) / 1e6,
             (double)mlxd_checkpoint_bytes(w->fetched) / 1e6);
    return MLXD_OK;
}

/* ---- layers ---- */

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

static void send_loaded(mlxd_worker_link *l, const mlxd_cpu *cpu) {
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
    mlxd_worker_reply(l, &m); /* with too few digests when memory is out: the coordinator refuses */
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
    uint64_t page = mlxd_kv_page_bytes(&w->config, load->end - load->first);
    mlxd_err err =
        mlxd_layers_size(w->checkpoint, &w->config, load->first, load->end, &weights, why);
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
                         .layers = {.checkpoint = w->checkpoint,
                                    .config = &w->config,
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
    mlxd_cpu_stage(cpu)->done = mlxd_worker_step_done;
    mlxd_cpu_stage(cpu)->done_ctx = w;
    mlxd_mutex_lock(&w->lock);
    w->cpu = cpu;
    w->positions = load->positions;
    w->tokens_max = load->tokens_max;
    w->kv_pages = load->kv_pages;
    mlxd_mutex_unlock(&w->lock);
    return MLXD_OK;
}

/* What can only be said when the model is known. */
static mlxd_err check_range(const mlxd_worker *w, const struct load *load, mlxd_why *why) {
    if (load->first >= load->end || load->end > w->config.layers)
        return mlxd_fail(why, MLXD_ERR_INVALID, "layers [%u, %u) of a model of %u", load->first,
                         load->end, w->config.layers);
    size_t n = mlxd_layers_tensors(&w->config, load->first, load->end, NULL);
    if (load->n_expected != n)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%zu tensors for layers [%u, %u), expected %zu",
                         load->n_expected, load->first, load->end, n);
    return MLXD_OK;
}

/* Loads what was fetched. What is not as it should be is mended, once. */
static mlxd_err load_fetched(const struct load *load, mlxd_why *why) {
    mlxd_worker *w = load->link->worker;
    mlxd_err err = fetch_layers(load, why);
    for (bool mended = false;; mended = true) {
        if (err)
            return err;
        err = replace_layers(w, load, why);
        if (!err)
            err = compare_digests(w, load, w->cpu, why);
        bool damaged = err == MLXD_ERR_STATE || err == MLXD_ERR_DATA || err == MLXD_ERR_CORRUPT ||
                       err == MLXD_ERR_IO;
        if (!damaged || mended)
            return err;
        mlxd_why mend_why = {0};
        bool any;
        mlxd_err mend_err = mend(load, &any, &mend_why);
        if (!mend_err && !any)
            return err; /* the files are right: it is something else */
        err = mend_err;
        if (err)
            *why = mend_why;
    }
}

static mlxd_err load_layers(const struct load *load, bool *kept, mlxd_why *why) {
    mlxd_worker_link *l = load->link;
    mlxd_worker *w = l->worker;
    mlxd_err err = l->pull ? acquire_model(l, why) : MLXD_OK;
    if (!err)
        err = check_range(w, load, why);
    if (err)
        return err;
    *kept = loaded_already(w, load);
    if (!*kept && l->pull) {
        err = load_fetched(load, why);
        if (err) /* whatever was wrong with the files: the next load opens them anew */
            mlxd_worker_drop_model(w);
        return err;
    }
    if (!*kept)
        err = replace_layers(w, load, why);
    return err ? err : compare_digests(w, load, w->cpu, why);
}

static bool is_active(mlxd_worker_link *l) {
    mlxd_mutex_lock(&l->worker->lock);
    bool active = l->worker->active == l;
    mlxd_mutex_unlock(&l->worker->lock);
    return active;
}

static void run_load(const struct load *load) {
    mlxd_worker_link *l = load->link;
    mlxd_worker *w = l->worker;
    mlxd_why why = {0};
    uint64_t t0 = mlxd_clock_now_ns();
    bool kept = false;
    mlxd_mutex_lock(&w->lock);
    w->first = load->first;
    w->end = load->end;
    mlxd_mutex_unlock(&w->lock);
    mlxd_err err = load_layers(load, &kept, &why);
    mlxd_mutex_lock(&w->lock);
    l->loading = false;
    l->ready = !err && w->active == l;
    mlxd_mutex_unlock(&w->lock);
    if (err && atomic_load(&l->closed)) {
        mlxd_log(MLXD_LOG_INFO, "worker", "layers %u..%u are not loaded: %s", load->first,
                 load->end - 1, why.text);
        return;
    }
    if (err) {
        mlxd_worker_refuse(l, err, &why);
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

static mlxd_err check_load(const mlxd_worker *w, const mlxd_worker_link *l, const Mlxd__Load *m,
                           mlxd_why *why) {
    if (!l->greeted || l->asked)
        return mlxd_fail(why, MLXD_ERR_STATE, "load is expected once, after hello");
    if (atomic_load(&w->loads) >= LOADS_MAX)
        return mlxd_fail(why, MLXD_ERR_FULL, "%d coordinators wait for layers", LOADS_MAX);
    if (m->positions == 0 || m->positions > MLXD_LIMIT_CONTEXT || m->tokens_max == 0 ||
        m->tokens_max > MLXD_LIMIT_STEP_TOKENS || mlxd_kv_pages(m->positions) > m->kv_pages)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "a context of %u, steps of %u tokens and %u KV pages are out of range",
                         m->positions, m->tokens_max, m->kv_pages);
    for (size_t i = 0; i < m->n_tensors; i++)
        if (m->tensors[i]->sha256.len != MLXD_SHA256_BYTES ||
            strlen(m->tensors[i]->name) >= sizeof(mlxd_tensor_digest){0}.name)
            return mlxd_fail(why, MLXD_ERR_INVALID, "malformed digest of tensor %zu", i);
    return MLXD_OK;
}

void mlxd_worker_on_load(mlxd_worker_link *l, const Mlxd__Load *m) {
    mlxd_why why = {0};
    mlxd_err err = check_load(l->worker, l, m, &why);
    struct load *load = err ? NULL : mlxd_mem_new(1, sizeof *load);
    if (load)
        load->expected = mlxd_mem_new(m->n_tensors, sizeof *load->expected);
    if (!err && (!load || !load->expected))
        err = mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory");
    if (err) {
        mlxd_mem_free(load);
        mlxd_worker_refuse(l, err, &why);
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
        snprintf(load->expected[i].name, sizeof load->expected[i].name, "%s", m->tensors[i]->name);
        memcpy(load->expected[i].sha256, m->tensors[i]->sha256.data, MLXD_SHA256_BYTES);
    }
    l->asked = true;
    atomic_fetch_add(&l->worker->loads, 1);
    mlxd_mutex_lock(&l->worker->lock);
    l->loading = true;
    mlxd_mutex_unlock(&l->worker->lock);
    mlxd_driver_post(l->worker->background, (mlxd_job){load_job, load, NULL});
}
