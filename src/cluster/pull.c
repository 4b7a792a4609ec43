/* pull.c - see pull.h. `owed` is the number of chunks that were asked for and have not come: the
 * poller refuses one when it is 0, so the queue to the running thread never holds more than the
 * window.
 */
#include "cluster/pull.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>

#define SILENCE_NS (120 * MLXD_NS_PER_S)
#define SYNC_NS MLXD_NS_PER_S

struct chunk {
    mlxd_rpc_msg *msg;
    uint32_t file;
    uint64_t offset;
    mlxd_slice data; /* in msg */
    uint8_t sha256[MLXD_SHA256_BYTES];
};

struct mlxd_pull {
    mlxd_pull_params p;
    mlxd_queue *chunks;
    _Atomic uint32_t owed;
    /* thread of run */
    mlxd_span asked[MLXD_WIRE_FETCH_WINDOW];
    size_t n_asked;
    mlxd_replica *replica;
    const mlxd_span *wanted;
    size_t n_wanted, next; /* the range of `wanted` that is being asked for */
    uint64_t at;           /* in it: what lies before was asked for, or is there */
    uint64_t done, total, synced_ns;
};

mlxd_err mlxd_pull_open(mlxd_pull **out, const mlxd_pull_params *params, mlxd_why *why) {
    mlxd_pull *p = mlxd_mem_new(1, sizeof *p);
    if (p) {
        p->p = *params;
        if (p->p.silence_ns == 0)
            p->p.silence_ns = SILENCE_NS;
        p->chunks = mlxd_queue_open(sizeof(struct chunk), MLXD_WIRE_FETCH_WINDOW);
    }
    if (!p || !p->chunks) {
        mlxd_mem_free(p);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    }
    *out = p;
    return MLXD_OK;
}

void mlxd_pull_close(mlxd_pull *p) {
    struct chunk c;
    if (!p)
        return;
    while (mlxd_queue_pop(p->chunks, &c, 0) == MLXD_OK)
        mlxd_rpc_msg_free(c.msg);
    mlxd_queue_close(p->chunks);
    mlxd_mem_free(p);
}

void mlxd_pull_end(mlxd_pull *p) {
    mlxd_queue_shutdown(p->chunks);
}

/* ---- poller ---- */

mlxd_err mlxd_pull_take(mlxd_pull *p, mlxd_rpc_msg *msg, const Mlxd__Chunk *m, mlxd_slice data,
                        mlxd_why *why) {
    struct chunk c = {.msg = msg, .file = m->file, .offset = m->offset, .data = data};
    if (atomic_load(&p->owed) == 0)
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "a chunk that was not asked for (file %u, offset %llu)", m->file,
                         (unsigned long long)m->offset);
    if (m->sha256.len != MLXD_SHA256_BYTES)
        return mlxd_fail(why, MLXD_ERR_PROTO, "a chunk with a digest of %zu bytes", m->sha256.len);
    memcpy(c.sha256, m->sha256.data, MLXD_SHA256_BYTES);
    atomic_fetch_sub(&p->owed, 1);
    mlxd_err err = mlxd_queue_push(p->chunks, &c);
    MLXD_ASSERT(err == MLXD_OK || err == MLXD_ERR_CANCELLED);
    if (err)
        mlxd_rpc_msg_free(msg);
    return MLXD_OK;
}

/* ---- the thread that pulls ---- */

/* The next piece to ask for. */
static bool next_piece(mlxd_pull *p, mlxd_span *out) {
    for (; p->next < p->n_wanted; p->next++, p->at = 0) {
        mlxd_span rest = p->wanted[p->next];
        rest.begin = MLXD_MAX(rest.begin, p->at);
        if (rest.begin < rest.end && mlxd_replica_gap(p->replica, &rest, out)) {
            out->end = MLXD_MIN(out->end, out->begin + MLXD_WIRE_FETCH_BYTES);
            p->at = out->end;
            return true;
        }
    }
    return false;
}

static mlxd_err fill_window(mlxd_pull *p, mlxd_why *why) {
    mlxd_span piece;
    while (p->n_asked < MLXD_WIRE_FETCH_WINDOW && next_piece(p, &piece)) {
        mlxd_buf out;
        p->asked[p->n_asked++] = piece;
        atomic_fetch_add(&p->owed, 1);
        mlxd_buf_init(&out, 0);
        mlxd_wire_fetch(&out, &piece);
        mlxd_err err =
            out.failed ? MLXD_ERR_NOMEM : p->p.send(p->p.ctx, (mlxd_slice){out.data, out.len});
        mlxd_buf_deinit(&out);
        if (err == MLXD_ERR_PEER)
            return mlxd_fail(why, MLXD_ERR_CANCELLED, "the coordinator has left");
        if (err)
            return mlxd_fail(why, err, "a fetch cannot be sent: %s", mlxd_err_name(err));
    }
    return MLXD_OK;
}

static mlxd_err check_chunk(mlxd_pull *p, const struct chunk *c, mlxd_why *why) {
    uint8_t digest[MLXD_SHA256_BYTES];
    size_t i = 0;
    while (i < p->n_asked && !(p->asked[i].file == c->file && p->asked[i].begin == c->offset))
        i++;
    if (i == p->n_asked)
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "a chunk that was not asked for (file %u, offset %llu)", c->file,
                         (unsigned long long)c->offset);
    if (c->data.len != p->asked[i].end - p->asked[i].begin)
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "a chunk of %zu bytes at %llu of file %u, asked were %llu", c->data.len,
                         (unsigned long long)c->offset, c->file,
                         (unsigned long long)(p->asked[i].end - p->asked[i].begin));
    mlxd_sha256_once(c->data.data, c->data.len, digest);
    if (!mlxd_digest_eq(digest, c->sha256, sizeof digest))
        return mlxd_fail(why, MLXD_ERR_CORRUPT,
                         "the chunk at %llu of file %u does not fit its digest",
                         (unsigned long long)c->offset, c->file);
    p->asked[i] = p->asked[--p->n_asked];
    return MLXD_OK;
}

static mlxd_err take_chunk(mlxd_pull *p, mlxd_why *why) {
    struct chunk c;
    mlxd_err err = mlxd_queue_pop(p->chunks, &c, mlxd_clock_now_ns() + p->p.silence_ns);
    if (err == MLXD_ERR_AGAIN)
        return mlxd_fail(why, MLXD_ERR_TIMEOUT, "no chunk of the model has come for %llu s",
                         (unsigned long long)(p->p.silence_ns / MLXD_NS_PER_S));
    if (err)
        return mlxd_fail(why, MLXD_ERR_CANCELLED, "the coordinator has left");
    err = check_chunk(p, &c, why);
    if (!err)
        err = mlxd_replica_write(p->replica, c.file, c.offset, c.data.data, c.data.len, why);
    size_t len = c.data.len;
    mlxd_rpc_msg_free(c.msg);
    if (err)
        return err;
    p->done += len;
    p->p.progress(p->p.ctx, p->done, p->total);
    if (mlxd_clock_now_ns() - p->synced_ns < SYNC_NS)
        return MLXD_OK;
    err = mlxd_replica_sync(p->replica, why);
    p->synced_ns = mlxd_clock_now_ns();
    return err;
}

mlxd_err mlxd_pull_run(mlxd_pull *p, mlxd_replica *r, const mlxd_span *wanted, size_t n,
                       _Atomic uint64_t *received, mlxd_why *why) {
    MLXD_ASSERT(p->n_asked == 0);
    p->replica = r;
    p->wanted = wanted;
    p->n_wanted = n;
    p->next = 0;
    p->at = p->done = 0;
    p->synced_ns = mlxd_clock_now_ns();
    p->total = mlxd_replica_missing(r, wanted, n);
    mlxd_err err = MLXD_OK;
    for (;;) {
        err = fill_window(p, why);
        if (err || p->n_asked == 0)
            break;
        uint64_t before = p->done;
        err = take_chunk(p, why);
        if (received)
            atomic_fetch_add(received, p->done - before);
        if (err)
            break;
    }
    mlxd_why sync_why = {0};
    mlxd_err sync_err = mlxd_replica_sync(r, &sync_why);
    if (sync_err && !err) {
        *why = sync_why;
        err = sync_err;
    }
    return err;
}
