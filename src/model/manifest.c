/* manifest.c - see manifest.h. A remembered result is a text file:
 *
 *     mlxd-digests 1 <identity> <metadata digest>
 *     <digest> <tensor name>       one line per tensor, in the order of the file
 */
#include "model/manifest.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)

/* ---- hashing ---- */

struct hashing {
    const mlxd_checkpoint *checkpoint;
    mlxd_manifest *m;
    const mlxd_progress *progress;
    uint64_t total;
    _Atomic uint64_t done;
    mlxd_mutex lock;
    mlxd_err err; /* the first failure; under lock */
    mlxd_why why;
};

static void note_failure(struct hashing *h, mlxd_err err, const mlxd_why *why) {
    mlxd_mutex_lock(&h->lock);
    if (!h->err) {
        h->err = err;
        h->why = *why;
    }
    mlxd_mutex_unlock(&h->lock);
}

/* Adds one stream of tensor `t` to `sha`. */
static mlxd_err hash_stream(struct hashing *h, const mlxd_checkpoint_tensor *t, size_t stream,
                            mlxd_sha256 *sha, uint8_t *buf, mlxd_why *why) {
    uint64_t bytes = t->streams[stream].bytes;
    for (uint64_t at = 0; at < bytes;) {
        size_t n = (size_t)MLXD_MIN((uint64_t)CHUNK_BYTES, bytes - at);
        mlxd_err err = mlxd_checkpoint_read(h->checkpoint, t, stream, at, buf, n, why);
        if (err)
            return err;
        mlxd_sha256_add(sha, buf, n);
        at += n;
        uint64_t done = atomic_fetch_add(&h->done, n) + n;
        if (h->progress)
            h->progress->fn(h->progress->ctx, done, h->total);
    }
    return MLXD_OK;
}

static void hash_task(void *ctx, size_t task, unsigned thread) {
    struct hashing *h = ctx;
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(h->checkpoint, task);
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t *buf = mlxd_mem_new(CHUNK_BYTES, 1);
    mlxd_why why = {0};
    mlxd_err err = sha && buf ? MLXD_OK : mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory");
    (void)thread;
    for (size_t i = 0; i < t->n_streams && !err; i++)
        err = hash_stream(h, t, i, sha, buf, &why);
    if (err)
        note_failure(h, err, &why);
    else
        mlxd_sha256_get(sha, h->m->tensors[task].sha256);
    mlxd_mem_free(buf);
    mlxd_sha256_close(sha);
}

static mlxd_err hash_all(mlxd_manifest *m, const mlxd_checkpoint *c, mlxd_pool *pool,
                         const mlxd_progress *progress, mlxd_why *why) {
    struct hashing h = {.checkpoint = c, .m = m, .progress = progress};
    for (size_t i = 0; i < m->count; i++)
        h.total += mlxd_checkpoint_at(c, i)->bytes;
    mlxd_mutex_init(&h.lock);
    mlxd_pool_run(pool, m->count, hash_task, &h);
    mlxd_mutex_deinit(&h.lock);
    if (h.err && why)
        *why = h.why;
    return h.err;
}

/* ---- remembering ---- */

/* Makes the last `depth` directories of `path` where they are missing. */
static void make_dirs(char *path, unsigned depth) {
    char *slash = depth > 1 ? strrchr(path, '/') : NULL;
    if (slash && slash > path) {
        *slash = 0;
        make_dirs(path, depth - 1);
        *slash = '/';
    }
    (void)mkdir(path, 0755);
}

/* File of the remembered result, its directory made; false: there is none. */
static bool cache_path(const mlxd_checkpoint *c, const char *dir, char *out, size_t size) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *identity = mlxd_checkpoint_identity(c);
    char base[768];
    int n = 0;
    if (!*identity)
        return false;
    if (dir)
        n = snprintf(base, sizeof base, "%s", dir);
    else if (xdg && *xdg)
        n = snprintf(base, sizeof base, "%s/mlxd/digests", xdg);
    else if (home && *home)
        n = snprintf(base, sizeof base, "%s/.cache/mlxd/digests", home);
    if (n <= 0 || (size_t)n >= sizeof base)
        return false;
    make_dirs(base, dir ? 1 : 3);
    n = snprintf(out, size, "%s/%s", base, identity);
    return n > 0 && (size_t)n < size;
}

static bool recall(mlxd_manifest *m, const mlxd_checkpoint *c, const char *path) {
    char meta[MLXD_SHA256_HEX], want[256], line[MLXD_SHA256_HEX + MLXD_LIMIT_TENSOR_NAME + 2];
    FILE *in = fopen(path, "re");
    if (!in)
        return false;
    mlxd_hex(m->meta, sizeof m->meta, meta);
    snprintf(want, sizeof want, "mlxd-digests 1 %s %s\n", mlxd_checkpoint_identity(c), meta);
    bool ok = fgets(line, sizeof line, in) && strcmp(line, want) == 0;
    for (size_t i = 0; i < m->count && ok; i++) {
        ok = fgets(line, sizeof line, in) != NULL;
        size_t len = ok ? strlen(line) : 0;
        ok = ok && len > MLXD_SHA256_HEX && line[len - 1] == '\n' && line[64] == ' ';
        if (!ok)
            break;
        line[len - 1] = line[64] = 0;
        ok = strcmp(line + 65, m->tensors[i].name) == 0 &&
             mlxd_unhex(line, m->tensors[i].sha256, MLXD_SHA256_BYTES);
    }
    ok = ok && fgetc(in) == EOF;
    fclose(in);
    return ok;
}

/* Failing to remember costs time at the next start and nothing else. */
static void remember(const mlxd_manifest *m, const mlxd_checkpoint *c, const char *path) {
    char hex[MLXD_SHA256_HEX], tmp[1100];
    snprintf(tmp, sizeof tmp, "%s.%ld", path, (long)getpid());
    FILE *out = fopen(tmp, "we");
    if (!out) {
        mlxd_log(MLXD_LOG_DEBUG, "model", "digests are not remembered: cannot write %s", tmp);
        return;
    }
    mlxd_hex(m->meta, sizeof m->meta, hex);
    bool ok = fprintf(out, "mlxd-digests 1 %s %s\n", mlxd_checkpoint_identity(c), hex) > 0;
    for (size_t i = 0; i < m->count && ok; i++) {
        mlxd_hex(m->tensors[i].sha256, MLXD_SHA256_BYTES, hex);
        ok = fprintf(out, "%s %s\n", hex, m->tensors[i].name) > 0;
    }
    ok = fclose(out) == 0 && ok;
    if (!ok || rename(tmp, path) != 0) {
        mlxd_log(MLXD_LOG_DEBUG, "model", "digests are not remembered: cannot write %s", path);
        (void)unlink(tmp);
    }
}

/* ---- the manifest ---- */

static mlxd_err digest_model(mlxd_manifest *m, const mlxd_checkpoint *c, mlxd_why *why) {
    mlxd_sha256 *sha = mlxd_sha256_open();
    if (!sha)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_sha256_add(sha, m->meta, sizeof m->meta);
    for (size_t i = 0; i < m->count; i++) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(c, i);
        char line[MLXD_LIMIT_TENSOR_NAME + 192], type[sizeof t->encoding.label];
        if (t->encoding.gguf == MLXD_ENCODING_NO_GGUF)
            snprintf(type, sizeof type, "%s", t->encoding.label);
        else
            snprintf(type, sizeof type, "%u", t->encoding.gguf);
        int n = snprintf(line, sizeof line, "%s %s %llu %llu %llu %llu ", t->name, type,
                         (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                         (unsigned long long)t->dims[2], (unsigned long long)t->dims[3]);
        mlxd_sha256_add(sha, line, (size_t)n);
        mlxd_sha256_add(sha, m->tensors[i].sha256, MLXD_SHA256_BYTES);
    }
    mlxd_sha256_get(sha, m->model);
    mlxd_sha256_close(sha);
    return MLXD_OK;
}

mlxd_err mlxd_manifest_open(mlxd_manifest *m, const mlxd_checkpoint *c, mlxd_pool *pool,
                            const char *cache_dir, const mlxd_progress *progress, mlxd_why *why) {
    char path[1024];
    *m = (mlxd_manifest){.count = mlxd_checkpoint_count(c)};
    mlxd_checkpoint_meta_digest(c, m->meta);
    m->tensors = mlxd_mem_new(m->count, sizeof *m->tensors);
    if (!m->tensors)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < m->count; i++)
        snprintf(m->tensors[i].name, sizeof m->tensors[i].name, "%s",
                 mlxd_checkpoint_at(c, i)->name);
    bool cached = cache_path(c, cache_dir, path, sizeof path);
    mlxd_err err = MLXD_OK;
    if (!cached || !recall(m, c, path)) {
        err = hash_all(m, c, pool, progress, why);
        if (!err && cached)
            remember(m, c, path);
    }
    if (!err)
        err = digest_model(m, c, why);
    if (err)
        mlxd_manifest_close(m);
    return err;
}

void mlxd_manifest_close(mlxd_manifest *m) {
    mlxd_mem_free(m->tensors);
    m->tensors = NULL;
    m->count = 0;
}

const mlxd_tensor_digest *mlxd_manifest_find(const mlxd_manifest *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return &m->tensors[i];
    return NULL;
}
