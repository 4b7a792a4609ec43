/* source.c - see source.h. Fetches wait in a ring; the thread takes the oldest, and while it works
 * on it `running` names its link, for which a drop waits.
 */
#include "cluster/source.h"

#include "base/log.h"
#include "base/mem.h"

#include <string.h>

#define JOBS_MAX (MLXD_LIMIT_NODES * MLXD_WIRE_FETCHES_MAX)

struct job {
    mlxd_source_link *link;
    mlxd_span span;
};

struct mlxd_source {
    const mlxd_checkpoint *checkpoint;
    mlxd_replica_spec spec;
    mlxd_thread thread;
    bool started;
    mlxd_mutex lock;
    mlxd_cond changed; /* a job came, one is done, or closing */
    /* under lock */
    struct job jobs[JOBS_MAX]; /* [0] is the oldest */
    size_t n;
    mlxd_source_link *running;
    bool closing;
};

/* A chunk on its way: freed when the transport has sent it. */
static void free_chunk(void *ctx) {
    mlxd_mem_free(ctx);
}

static mlxd_err send_chunk(mlxd_source_link *link, const mlxd_span *span, uint8_t *data) {
    size_t len = (size_t)(span->end - span->begin);
    uint8_t digest[MLXD_SHA256_BYTES];
    mlxd_buf header;
    mlxd_sha256_once(data, len, digest);
    mlxd_buf_init(&header, 0);
    mlxd_wire_chunk(&header, span, digest);
    mlxd_rpc_part parts[2] = {{.bytes = {header.data, header.len}},
                              {.bytes = {data, len}, .release = free_chunk, .release_ctx = data}};
    mlxd_err err = header.failed ? MLXD_ERR_NOMEM : mlxd_rpc_stream_send(link->stream, parts, 2);
    if (!err)
        atomic_fetch_add(&link->sent, len);
    else
        mlxd_mem_free(data);
    mlxd_buf_deinit(&header);
    return err;
}

static void run(mlxd_source *s, const struct job *j) {
    size_t len = (size_t)(j->span.end - j->span.begin);
    uint8_t *data = mlxd_mem_resize(NULL, len, 1);
    mlxd_why why = {0};
    mlxd_err err = data ? mlxd_checkpoint_part_read(s->checkpoint, j->span.file, j->span.begin,
                                                    data, len, &why)
                        : mlxd_fail(&why, MLXD_ERR_NOMEM, "no memory for a chunk");
    if (err) {
        mlxd_mem_free(data);
    } else {
        err = send_chunk(j->link, &j->span, data);
        if (err == MLXD_ERR_PEER)
            return; /* it has left */
        if (err)
            (void)mlxd_fail(&why, err, "a chunk cannot be sent: %s", mlxd_err_name(err));
    }
    if (err)
        j->link->failed(j->link->ctx, err, &why);
}

static void source_main(void *arg) {
    mlxd_source *s = arg;
    mlxd_mutex_lock(&s->lock);
    for (;;) {
        while (!s->closing && s->n == 0)
            mlxd_cond_wait(&s->changed, &s->lock);
        if (s->closing)
            break;
        struct job j = s->jobs[0];
        memmove(s->jobs, s->jobs + 1, --s->n * sizeof s->jobs[0]);
        s->running = j.link;
        mlxd_mutex_unlock(&s->lock);
        run(s, &j);
        mlxd_mutex_lock(&s->lock);
        s->running = NULL;
        mlxd_cond_broadcast(&s->changed);
    }
    mlxd_mutex_unlock(&s->lock);
}

/* ---- links ---- */

mlxd_err mlxd_source_fetch(mlxd_source *s, mlxd_source_link *link, const Mlxd__Fetch *f,
                           mlxd_why *why) {
    const mlxd_replica_file *file = f->file < s->spec.n_files ? &s->spec.files[f->file] : NULL;
    size_t waiting = 0;
    if (!file || f->bytes == 0 || f->bytes > MLXD_LIMIT_SHARD_CHUNK || f->offset > file->bytes ||
        f->bytes > file->bytes - f->offset)
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "it asked for %u bytes at %llu of file %u, which the model does not have",
                         f->bytes, (unsigned long long)f->offset, f->file);
    mlxd_rpc_stream_queued(link->stream, &waiting, NULL);
    mlxd_mutex_lock(&s->lock);
    waiting += s->running == link;
    for (size_t i = 0; i < s->n; i++)
        waiting += s->jobs[i].link == link;
    bool room = waiting < MLXD_WIRE_FETCHES_MAX && s->n < JOBS_MAX;
    if (room) {
        s->jobs[s->n++] = (struct job){link, {f->file, f->offset, f->offset + f->bytes}};
        mlxd_cond_broadcast(&s->changed);
    }
    mlxd_mutex_unlock(&s->lock);
    return room ? MLXD_OK
                : mlxd_fail(why, MLXD_ERR_FULL, "it has more than %d fetches that wait",
                            MLXD_WIRE_FETCHES_MAX);
}

void mlxd_source_drop(mlxd_source *s, mlxd_source_link *link) {
    size_t kept = 0;
    mlxd_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n; i++)
        if (s->jobs[i].link != link)
            s->jobs[kept++] = s->jobs[i];
    s->n = kept;
    while (s->running == link)
        mlxd_cond_wait(&s->changed, &s->lock);
    mlxd_mutex_unlock(&s->lock);
}

/* ---- open and close ---- */

mlxd_err mlxd_source_open(mlxd_source **out, const mlxd_checkpoint *c, const mlxd_manifest *m,
                          mlxd_why *why) {
    mlxd_source *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_mutex_init(&s->lock);
    mlxd_cond_init(&s->changed);
    s->checkpoint = c;
    mlxd_err err = mlxd_replica_spec_open(&s->spec, c, m, why);
    if (!err) {
        err = mlxd_thread_start(&s->thread, "shards", MLXD_PRIORITY_NORMAL, source_main, s);
        s->started = !err;
        if (err)
            err = mlxd_fail(why, err, "cannot start the thread that reads shards");
    }
    if (err) {
        mlxd_source_close(s);
        return err;
    }
    *out = s;
    return MLXD_OK;
}

void mlxd_source_close(mlxd_source *s) {
    if (!s)
        return;
    mlxd_mutex_lock(&s->lock);
    MLXD_ASSERT(s->n == 0);
    s->closing = true;
    mlxd_cond_broadcast(&s->changed);
    mlxd_mutex_unlock(&s->lock);
    if (s->started)
        mlxd_thread_join(&s->thread);
    mlxd_replica_spec_close(&s->spec);
    mlxd_cond_deinit(&s->changed);
    mlxd_mutex_deinit(&s->lock);
    mlxd_mem_free(s);
}

const mlxd_replica_spec *mlxd_source_spec(const mlxd_source *s) {
    return &s->spec;
}
