/* fetch.c - see fetch.h. */
#include "hub/fetch.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK ((size_t)1 << 20)

struct fetch {
    const mlxd_hub_fetch *f;
    mlxd_hub_state state;
    char dir[sizeof((mlxd_hub_repo *)0)->dir + 8]; /* <repo>/blobs */
    char blob[MLXD_HUB_FILE_MAX], partial[MLXD_HUB_FILE_MAX + sizeof MLXD_HUB_PARTIAL];
    int fd;
    EVP_MD_CTX *hash;
    bool ranged;  /* this try asked for the rest */
    uint64_t got; /* bytes of this try */
};

static void tell(struct fetch *x, mlxd_hub_status status) {
    x->state.status = status;
    x->f->tell(x->f->ctx, &x->state);
}

static bool more(void *ctx) {
    struct fetch *x = ctx;
    return x->f->more(x->f->ctx);
}

static mlxd_err interrupted(mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_CANCELLED, "interrupted");
}

/* ---- digest: SHA-256, or git's SHA-1 over "blob <size>\0" and the content ---- */

static mlxd_err hash_begin(struct fetch *x, mlxd_why *why) {
    bool large = strlen(x->f->file->digest) == 2 * (size_t)MLXD_SHA256_BYTES;
    char head[40];
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)x->f->file->size);
    if (EVP_DigestInit_ex(x->hash, large ? EVP_sha256() : EVP_sha1(), NULL) != 1 ||
        (!large && EVP_DigestUpdate(x->hash, head, (size_t)n + 1) != 1))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "libcrypto cannot compute the file's digest");
    return MLXD_OK;
}

static bool hash_is_right(struct fetch *x) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE + 1];
    unsigned len = 0;
    int ok = EVP_DigestFinal_ex(x->hash, digest, &len);
    MLXD_ASSERT(ok == 1);
    mlxd_hex(digest, len, text);
    return strcmp(text, x->f->file->digest) == 0;
}

/* ---- the partial file ---- */

/* Forgets what there is. */
static mlxd_err start_over(struct fetch *x, mlxd_why *why) {
    if (ftruncate(x->fd, 0) != 0)
        return mlxd_hub_io_error(x->partial, "cannot empty the file", errno, why);
    x->state.done = x->state.resumed = 0;
    return hash_begin(x, why);
}

/* Hashes what an earlier run has left. */
static mlxd_err take_partial(struct fetch *x, mlxd_why *why) {
    struct stat st;
    x->fd = open(x->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (x->fd < 0 || fstat(x->fd, &st) != 0)
        return mlxd_hub_io_error(x->partial, "cannot open the file", errno, why);
    if (!S_ISREG(st.st_mode))
        return mlxd_fail(why, MLXD_ERR_IO, "%.300s: not a regular file", x->partial);
    if (st.st_size <= 0 || (uint64_t)st.st_size > x->f->file->size)
        return start_over(x, why);
    mlxd_err err = hash_begin(x, why);
    uint8_t *chunk = mlxd_mem_new(1, CHUNK);
    if (!err && !chunk)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (uint64_t at = 0; !err && at < (uint64_t)st.st_size;) {
        if (!more(x))
            err = interrupted(why);
        ssize_t n = err ? 0 : pread(x->fd, chunk, CHUNK, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (!err && n <= 0)
            err = mlxd_hub_io_error(x->partial, "cannot read the file", n < 0 ? errno : EIO, why);
        if (err)
            break;
        int ok = EVP_DigestUpdate(x->hash, chunk, (size_t)n);
        MLXD_ASSERT(ok == 1);
        at += (uint64_t)n;
        x->state.done = x->state.resumed = at;
        tell(x, MLXD_HUB_CHECKING);
    }
    mlxd_mem_free(chunk);
    return err;
}

static mlxd_err write_all(struct fetch *x, const uint8_t *data, size_t len, mlxd_why *why) {
    for (uint64_t at = x->state.done; len > 0;) {
        ssize_t n = pwrite(x->fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return mlxd_hub_io_error(x->dir, "cannot write the file", n < 0 ? errno : ENOSPC, why);
        data += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return MLXD_OK;
}

/* ---- one answer ---- */

static mlxd_err on_begin(void *ctx, const mlxd_hub_reply *r, mlxd_why *why) {
    struct fetch *x = ctx;
    uint64_t size = x->f->file->size;
    mlxd_err err = MLXD_OK;
    if (r->status == 206 && (!r->has_range || r->range_first != x->state.done || !x->ranged ||
                             (r->range_total != size && r->range_total != UINT64_MAX)))
        err = mlxd_fail(why, MLXD_ERR_RANGE, "the hub sends another part than it was asked for");
    else if (r->status == 200 && x->state.done > 0)
        err = start_over(x, why);
    if (!err && r->has_length && r->length != size - x->state.done)
        err = mlxd_fail(why, MLXD_ERR_AGAIN, "the hub sends %llu bytes, its list says %llu",
                        (unsigned long long)r->length, (unsigned long long)(size - x->state.done));
    if (!err)
        tell(x, MLXD_HUB_FETCHING);
    return err;
}

static mlxd_err on_body(void *ctx, const void *data, size_t len, mlxd_why *why) {
    struct fetch *x = ctx;
    if (len > x->f->file->size - x->state.done)
        return mlxd_fail(why, MLXD_ERR_RANGE, "the hub sends more bytes than its list says");
    mlxd_err err = write_all(x, data, len, why);
    if (err)
        return err;
    int ok = EVP_DigestUpdate(x->hash, data, len);
    MLXD_ASSERT(ok == 1);
    x->state.done += len;
    x->got += len;
    tell(x, MLXD_HUB_FETCHING);
    return MLXD_OK;
}

/* Tries until all bytes are there. */
static mlxd_err fill(struct fetch *x, mlxd_hub_conn *conn, mlxd_why *why) {
    mlxd_hub_tries tries = {0};
    mlxd_hub_reply reply = {0};
    while (x->state.done < x->f->file->size) {
        mlxd_hub_request r = {.url = x->f->url,
                              .from = x->state.done,
                              .begin = on_begin,
                              .body = on_body,
                              .more = more,
                              .ctx = x};
        x->ranged = r.from > 0;
        x->got = 0;
        mlxd_err err = mlxd_hub_get(conn, &r, &reply, why);
        if (x->state.done == x->f->file->size)
            break; /* however the connection ended */
        if (!err)
            err = mlxd_fail(why, MLXD_ERR_AGAIN, "the hub's answer ended early");
        bool odd = err == MLXD_ERR_RANGE;
        if (odd) {
            mlxd_err again = start_over(x, why);
            if (again)
                return again;
        } else if (err != MLXD_ERR_AGAIN) {
            return err;
        }
        if (x->got > 0 && !odd)
            tries.failed = 0;
        snprintf(x->state.note, sizeof x->state.note, "%.199s", why->text);
        tell(x, MLXD_HUB_RETRYING);
        if (!mlxd_hub_try_again(&tries, &reply, more, x))
            return more(x) ? mlxd_hub_give_up(MLXD_ERR_AGAIN, &reply, why) : interrupted(why);
        tell(x, MLXD_HUB_FETCHING);
    }
    return MLXD_OK;
}

/* ---- all of it ---- */

static mlxd_err fill_and_check(struct fetch *x, mlxd_hub_conn *conn, mlxd_why *why) {
    for (unsigned round = 0;; round++) {
        mlxd_err err = fill(x, conn, why);
        if (err)
            return err;
        if (hash_is_right(x))
            return MLXD_OK;
        err = start_over(x, why);
        if (err)
            return err;
        (void)mlxd_fail(why, MLXD_ERR_CORRUPT,
                        "what the hub sent is not what its list says: expected digest %s",
                        x->f->file->digest);
        if (round == 1) {
            (void)unlink(x->partial);
            return MLXD_ERR_CORRUPT;
        }
        snprintf(x->state.note, sizeof x->state.note, "wrong content; fetching it again");
        tell(x, MLXD_HUB_RETRYING);
    }
}

static mlxd_err publish(struct fetch *x, mlxd_why *why) {
    if (fsync(x->fd) != 0)
        return mlxd_hub_io_error(x->partial, "cannot write the file to disk", errno, why);
    if (rename(x->partial, x->blob) != 0)
        return mlxd_hub_io_error(x->blob, "cannot rename the file", errno, why);
    return mlxd_hub_sync_dir(x->dir, why);
}

static bool is_there(const struct fetch *x) {
    struct stat st;
    return stat(x->blob, &st) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size == x->f->file->size;
}

static mlxd_err wait_for_lock(struct fetch *x, int *lock, mlxd_why *why) {
    const struct timespec nap = {.tv_nsec = (long)(100 * MLXD_NS_PER_MS)};
    for (;;) {
        mlxd_err err = mlxd_hub_lock(x->f->repo, x->f->file->digest, false, lock, why);
        if (err != MLXD_ERR_AGAIN)
            return err;
        if (!more(x))
            return interrupted(why);
        tell(x, MLXD_HUB_LOCKED);
        (void)nanosleep(&nap, NULL);
    }
}

static mlxd_err run_locked(struct fetch *x, mlxd_hub_conn *conn, mlxd_why *why) {
    if (is_there(x)) {
        x->state.done = x->f->file->size;
        tell(x, MLXD_HUB_PRESENT);
        return MLXD_OK;
    }
    mlxd_err err = take_partial(x, why);
    if (!err)
        err = fill_and_check(x, conn, why);
    if (!err)
        err = publish(x, why);
    if (!err)
        tell(x, MLXD_HUB_DONE);
    return err;
}

mlxd_err mlxd_hub_fetch_run(mlxd_hub_conn *conn, const mlxd_hub_fetch *f, mlxd_why *why) {
    mlxd_why unused = {0};
    struct fetch x = {.f = f, .fd = -1, .hash = EVP_MD_CTX_new()};
    int lock = -1;
    why = why ? why : &unused;
    snprintf(x.dir, sizeof x.dir, "%s/blobs", f->repo->dir);
    snprintf(x.blob, sizeof x.blob, "%s/%s", x.dir, f->file->digest);
    snprintf(x.partial, sizeof x.partial, "%s%s", x.blob, MLXD_HUB_PARTIAL);
    mlxd_err err =
        x.hash ? mlxd_hub_make_dirs(x.dir, why) : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = wait_for_lock(&x, &lock, why);
    if (!err)
        err = run_locked(&x, conn, why);
    if (err) {
        snprintf(x.state.note, sizeof x.state.note, "%.199s", why->text);
        tell(&x, MLXD_HUB_FAILED);
    }
    EVP_MD_CTX_free(x.hash);
    if (x.fd >= 0)
        close(x.fd);
    if (lock >= 0)
        close(lock);
    return err;
}
