/* replica.c - see replica.h. `have` is what is there, on disk or still on its way to it; a sync
 * makes both the same. Files are opened when they are first written to and closed by the sync.
 */
#include "model/replica.h"

#include "base/log.h"
#include "base/mem.h"
#include "model/shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)
#define FOLDER (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define RANGES_MAX (1u << 20) /* lines of the list */
#define LINE_MAX_BYTES 128

struct mlxd_replica {
    mlxd_replica_spec spec; /* a copy */
    char name[MLXD_SHA256_HEX];
    char *path;           /* of the folder */
    char *checkpoint;     /* what is opened */
    int dir, model, lock; /* descriptors; -1: none */
    int *fds;             /* of files that were written to since the last sync; -1: others */
    mlxd_spans have;
};

static mlxd_err io_error(const mlxd_replica *r, const char *name, const char *what, mlxd_why *why) {
    int error = errno;
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0)
        text[0] = 0;
    return mlxd_fail(why, error == EACCES || error == EPERM ? MLXD_ERR_PERM : MLXD_ERR_IO,
                     "%s: %s: %s: %s", r->path, name, what, text);
}

static mlxd_err no_memory(mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

/* ---- the list of ranges ---- */

/* A line "file begin end" that is inside its file. */
static bool read_range(const mlxd_replica *r, const char *line, mlxd_span *out) {
    unsigned long long v[3];
    const char *p = line;
    for (size_t i = 0; i < 3; i++) {
        char *end;
        if (*p < '0' || *p > '9')
            return false;
        errno = 0;
        v[i] = strtoull(p, &end, 10);
        if (errno || *end != (i < 2 ? ' ' : '\n'))
            return false;
        p = end + 1;
    }
    if (v[0] >= r->spec.n_files || v[1] >= v[2] || v[2] > r->spec.files[v[0]].bytes)
        return false;
    *out = (mlxd_span){(uint32_t)v[0], v[1], v[2]};
    return true;
}

static bool read_lines(mlxd_replica *r, FILE *in) {
    char line[LINE_MAX_BYTES], want[LINE_MAX_BYTES];
    mlxd_span span;
    snprintf(want, sizeof want, "mlxd-shards 1 %s\n", r->name);
    if (!fgets(line, sizeof line, in) || strcmp(line, want) != 0)
        return false;
    for (size_t n = 0; n <= RANGES_MAX; n++) {
        if (!fgets(line, sizeof line, in))
            return false;
        snprintf(want, sizeof want, "end %zu\n", n);
        if (strcmp(line, want) == 0)
            return fgetc(in) == EOF;
        if (!read_range(r, line, &span) || !mlxd_spans_add(&r->have, &span))
            return false;
    }
    return false;
}

/* What the list says; a list that is not whole says nothing. Its time says when it was used. */
static void read_ranges(mlxd_replica *r) {
    int fd = openat(r->dir, MLXD_SHELF_RANGES, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    FILE *in = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!in) {
        if (fd >= 0)
            close(fd);
        return;
    }
    (void)futimens(fd, NULL);
    if (!read_lines(r, in)) {
        mlxd_log(MLXD_LOG_WARN, "shards", "%s/%s is damaged: all is fetched again", r->path,
                 MLXD_SHELF_RANGES);
        mlxd_spans_deinit(&r->have);
    }
    fclose(in);
}

static mlxd_err write_ranges(mlxd_replica *r, mlxd_why *why) {
    int fd =
        openat(r->dir, MLXD_SHELF_TMP, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!out) {
        mlxd_err err = io_error(r, MLXD_SHELF_TMP, "cannot write", why);
        if (fd >= 0)
            close(fd);
        return err;
    }
    bool ok = fprintf(out, "mlxd-shards 1 %s\n", r->name) > 0;
    for (size_t i = 0; i < r->have.count && ok; i++)
        ok = fprintf(out, "%u %llu %llu\n", r->have.items[i].file,
                     (unsigned long long)r->have.items[i].begin,
                     (unsigned long long)r->have.items[i].end) > 0;
    ok = ok && fprintf(out, "end %zu\n", r->have.count) > 0;
    ok = ok && fflush(out) == 0 && fsync(fd) == 0;
    mlxd_err err = ok ? MLXD_OK : io_error(r, MLXD_SHELF_TMP, "cannot write", why);
    if (fclose(out) != 0 && !err)
        err = io_error(r, MLXD_SHELF_TMP, "cannot write", why);
    if (!err &&
        (renameat(r->dir, MLXD_SHELF_TMP, r->dir, MLXD_SHELF_RANGES) != 0 || fsync(r->dir) != 0))
        err = io_error(r, MLXD_SHELF_RANGES, "cannot replace", why);
    return err;
}

/* ---- files ---- */

static mlxd_err open_file(const mlxd_replica *r, size_t i, int flags, int *out, mlxd_why *why) {
    const char *name = r->spec.files[i].name;
    struct stat st;
    *out = openat(r->model, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (*out < 0)
        return io_error(r, name, "cannot open", why);
    if (fstat(*out, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        st.st_nlink != 1) {
        close(*out);
        *out = -1;
        return mlxd_fail(why, MLXD_ERR_PERM, "%s: %s is not a plain file of ours alone", r->path,
                         name);
    }
    return MLXD_OK;
}

/* Makes the file, or brings it to its size; what it then had is forgotten. */
static mlxd_err settle_file(mlxd_replica *r, size_t i, mlxd_why *why) {
    const mlxd_replica_file *f = &r->spec.files[i];
    const mlxd_span all = {(uint32_t)i, 0, f->bytes};
    struct stat st;
    int fd;
    mlxd_err err = open_file(r, i, O_RDWR | O_CREAT, &fd, why);
    if (err)
        return err;
    if (fstat(fd, &st) != 0)
        err = io_error(r, f->name, "cannot look at it", why);
    if (!err && (uint64_t)st.st_size != f->bytes) {
        if (!mlxd_spans_remove(&r->have, &all))
            err = no_memory(why);
        else if (ftruncate(fd, 0) != 0 || ftruncate(fd, (off_t)f->bytes) != 0)
            err = io_error(r, f->name, "cannot make it as long as it must be", why);
    }
    close(fd);
    return err;
}

mlxd_err mlxd_replica_write(mlxd_replica *r, uint32_t file, uint64_t offset, const void *data,
                            size_t len, mlxd_why *why) {
    MLXD_ASSERT(file < r->spec.n_files && offset <= r->spec.files[file].bytes &&
                len <= r->spec.files[file].bytes - offset);
    const mlxd_span span = {file, offset, offset + len};
    const uint8_t *p = data;
    if (r->fds[file] < 0) {
        mlxd_err err = open_file(r, file, O_RDWR, &r->fds[file], why);
        if (err)
            return err;
    }
    while (len > 0) {
        ssize_t n = pwrite(r->fds[file], p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_error(r, r->spec.files[file].name, "cannot write", why);
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return mlxd_spans_add(&r->have, &span) ? MLXD_OK : no_memory(why);
}

mlxd_err mlxd_replica_sync(mlxd_replica *r, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    bool written = false;
    for (size_t i = 0; i < r->spec.n_files && !err; i++) {
        if (r->fds[i] < 0)
            continue;
        written = true;
        if (fsync(r->fds[i]) != 0)
            err = io_error(r, r->spec.files[i].name, "cannot put it on disk", why);
        close(r->fds[i]);
        r->fds[i] = -1;
    }
    return err || !written ? err : write_ranges(r, why);
}

/* First the list, then nothing: should we die now, the range counts as not there. */
mlxd_err mlxd_replica_forget(mlxd_replica *r, const mlxd_span *span, mlxd_why *why) {
    mlxd_err err = mlxd_replica_sync(r, why);
    if (!err && !mlxd_spans_remove(&r->have, span))
        err = no_memory(why);
    return err ? err : write_ranges(r, why);
}

/* ---- heads ---- */

static mlxd_err read_head(const mlxd_replica *r, size_t i, uint8_t *buf, mlxd_sha256 *sha,
                          mlxd_why *why) {
    int fd;
    mlxd_err err = open_file(r, i, O_RDONLY, &fd, why);
    for (uint64_t at = 0, end = r->spec.files[i].head_bytes; at < end && !err;) {
        ssize_t n = pread(fd, buf, (size_t)MLXD_MIN((uint64_t)CHUNK_BYTES, end - at), (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            err = io_error(r, r->spec.files[i].name, "cannot read", why);
            break;
        }
        mlxd_sha256_add(sha, buf, (size_t)n);
        at += (uint64_t)n;
    }
    if (fd >= 0)
        close(fd);
    return err;
}

static mlxd_err check_head(mlxd_replica *r, size_t i, bool *right, mlxd_why *why) {
    uint8_t digest[MLXD_SHA256_BYTES];
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t *buf = mlxd_mem_new(CHUNK_BYTES, 1);
    mlxd_err err = sha && buf ? read_head(r, i, buf, sha, why) : no_memory(why);
    if (!err) {
        mlxd_sha256_get(sha, digest);
        *right = mlxd_digest_eq(digest, r->spec.files[i].head_sha256, sizeof digest);
    }
    mlxd_mem_free(buf);
    mlxd_sha256_close(sha);
    return err;
}

mlxd_err mlxd_replica_check_heads(mlxd_replica *r, size_t *wrong, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    size_t n = 0;
    for (size_t i = 0; i < r->spec.n_files && !err; i++) {
        const mlxd_span head = {(uint32_t)i, 0, r->spec.files[i].head_bytes};
        mlxd_span gap;
        bool right = true;
        if (mlxd_spans_gap(&r->have, &head, &gap))
            continue;
        err = check_head(r, i, &right, why);
        if (err || right)
            continue;
        mlxd_log(MLXD_LOG_WARN, "shards", "%s: the head of %s is damaged", r->path,
                 r->spec.files[i].name);
        err = mlxd_replica_forget(r, &head, why);
        n++;
    }
    if (wrong)
        *wrong = n;
    return err;
}

/* ---- the folder ---- */

/* A directory below `at` that only we may enter. */
static mlxd_err open_folder(const mlxd_replica *r, int at, const char *name, int *out,
                            mlxd_why *why) {
    struct stat st;
    if (mkdirat(at, name, 0700) != 0 && errno != EEXIST)
        return io_error(r, name, "cannot make the directory", why);
    *out = openat(at, name, FOLDER);
    if (*out < 0 || fstat(*out, &st) != 0)
        return io_error(r, name, "cannot open the directory", why);
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return mlxd_fail(why, MLXD_ERR_PERM, "%s: the directory %s must be ours alone (mode 0700)",
                         r->path, name);
    return MLXD_OK;
}

static mlxd_err copy_spec(mlxd_replica *r, const mlxd_replica_spec *spec, const char *root,
                          mlxd_why *why) {
    size_t bytes = strlen(root) + MLXD_SHA256_HEX + MLXD_LIMIT_FILE_NAME + 16;
    mlxd_err err = mlxd_replica_spec_name(spec, r->name, why);
    if (err)
        return err;
    r->spec = *spec;
    r->spec.files = mlxd_mem_new(spec->n_files, sizeof *spec->files);
    r->fds = mlxd_mem_new(spec->n_files, sizeof *r->fds);
    r->path = mlxd_mem_new(bytes, 1);
    r->checkpoint = mlxd_mem_new(bytes, 1);
    if (!r->spec.files || !r->fds || !r->path || !r->checkpoint)
        return no_memory(why);
    memcpy(r->spec.files, spec->files, spec->n_files * sizeof *spec->files);
    for (size_t i = 0; i < spec->n_files; i++)
        r->fds[i] = -1;
    snprintf(r->path, bytes, "%s/%s", root, r->name);
    snprintf(r->checkpoint, bytes, "%s/%s%s%s", r->path, MLXD_SHELF_MODEL,
             spec->directory ? "" : "/", spec->directory ? "" : spec->files[0].name);
    return MLXD_OK;
}

mlxd_err mlxd_replica_open(mlxd_replica **out, const char *root, const mlxd_replica_spec *spec,
                           mlxd_why *why) {
    MLXD_ASSERT(spec->n_files > 0 && spec->n_files <= MLXD_LIMIT_MODEL_FILES);
    mlxd_replica *r = mlxd_mem_new(1, sizeof *r);
    int shelf = -1;
    if (!r)
        return no_memory(why);
    r->dir = r->model = r->lock = -1;
    mlxd_err err = copy_spec(r, spec, root, why);
    if (!err)
        err = mlxd_shelf_open(&shelf, root, why);
    if (!err)
        err = open_folder(r, shelf, r->name, &r->dir, why);
    if (!err) {
        err = mlxd_shelf_lock(r->dir, &r->lock, why);
        if (err)
            err = mlxd_fail_in(why, err, "%s", r->path);
    }
    if (!err)
        err = open_folder(r, r->dir, MLXD_SHELF_MODEL, &r->model, why);
    if (!err)
        read_ranges(r);
    for (size_t i = 0; i < spec->n_files && !err; i++)
        err = settle_file(r, i, why);
    if (!err)
        err = mlxd_replica_check_heads(r, NULL, why);
    if (shelf >= 0)
        close(shelf);
    if (err) {
        mlxd_replica_close(r);
        return err;
    }
    *out = r;
    return MLXD_OK;
}

static void close_fd(int fd) {
    if (fd >= 0)
        close(fd);
}

void mlxd_replica_close(mlxd_replica *r) {
    if (!r)
        return;
    for (size_t i = 0; r->fds && i < r->spec.n_files; i++)
        close_fd(r->fds[i]);
    close_fd(r->model);
    close_fd(r->lock);
    close_fd(r->dir);
    mlxd_spans_deinit(&r->have);
    mlxd_mem_free(r->checkpoint);
    mlxd_mem_free(r->path);
    mlxd_mem_free(r->fds);
    mlxd_replica_spec_close(&r->spec);
    mlxd_mem_free(r);
}

const char *mlxd_replica_path(const mlxd_replica *r) {
    return r->checkpoint;
}

const char *mlxd_replica_name(const mlxd_replica *r) {
    return r->name;
}

const mlxd_replica_spec *mlxd_replica_get_spec(const mlxd_replica *r) {
    return &r->spec;
}

bool mlxd_replica_gap(const mlxd_replica *r, const mlxd_span *wanted, mlxd_span *out) {
    return mlxd_spans_gap(&r->have, wanted, out);
}

uint64_t mlxd_replica_missing(const mlxd_replica *r, const mlxd_span *wanted, size_t n) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        mlxd_span rest = wanted[i], gap;
        for (; mlxd_replica_gap(r, &rest, &gap); rest.begin = gap.end)
            bytes += gap.end - gap.begin;
    }
    return bytes;
}

uint64_t mlxd_replica_bytes(const mlxd_replica *r) {
    return mlxd_spans_bytes(&r->have);
}
