/* file.c - see file.h. */
#include "model/file.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SETTLED_S 2

struct mlxd_model_file {
    int fd;
    char *path;
    uint64_t bytes;
    char identity[MLXD_MODEL_FILE_IDENTITY];
};

static mlxd_err open_error(const char *path, int error, mlxd_why *why) {
    mlxd_err err = error == ENOENT || error == ENOTDIR ? MLXD_ERR_NOTFOUND
                   : error == EACCES || error == EPERM ? MLXD_ERR_PERM
                                                       : MLXD_ERR_IO;
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0)
        text[0] = 0;
    return mlxd_fail(why, err, "%s: cannot open model file: %s", path, text);
}

mlxd_err mlxd_model_file_read(const mlxd_model_file *f, uint64_t offset, void *out, size_t len,
                              mlxd_why *why) {
    uint8_t *p = out;
    while (len > 0) {
        ssize_t n = pread(f->fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mlxd_fail(why, MLXD_ERR_IO, "%s: offset %llu: read failed (errno %d)", f->path,
                             (unsigned long long)offset, errno);
        if (n == 0)
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "%s: offset %llu: the file ends here, expected %zu more bytes",
                             f->path, (unsigned long long)offset, len);
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return MLXD_OK;
}

/* A file that was written a moment ago may be written again without a change of its times, which
 * count seconds here: such a file has no identity yet. */
static void set_identity(mlxd_model_file *f, const struct stat *st) {
    time_t changed = MLXD_MAX(st->st_mtime, st->st_ctime);
    if (changed + SETTLED_S >= time(NULL))
        return;
    snprintf(f->identity, sizeof f->identity, "%llx-%llx-%llx-%llx-%llx",
             (unsigned long long)st->st_dev, (unsigned long long)st->st_ino,
             (unsigned long long)st->st_size, (unsigned long long)st->st_mtime,
             (unsigned long long)st->st_ctime);
}

/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
static mlxd_err open_file(mlxd_model_file **out, const char *path, const char *shown, int flags,
                          mlxd_why *why) {
    MLXD_ASSERT(out && path);
    mlxd_model_file *f = mlxd_mem_new(1, sizeof *f);
    if (!f)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    struct stat st;
    mlxd_err err;
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    if (f->fd < 0) {
        err = open_error(shown, errno, why);
        goto fail;
    }
    f->path = mlxd_mem_dup_str(shown);
    err = f->path ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!err && fstat(f->fd, &st) != 0)
        err = open_error(shown, errno, why);
    if (!err && !S_ISREG(st.st_mode))
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: not a regular file", shown);
    if (err)
        goto fail;
    f->bytes = (uint64_t)st.st_size;
    set_identity(f, &st);
    *out = f;
    return MLXD_OK;
fail:
    mlxd_model_file_close(f);
    return err;
}

mlxd_err mlxd_model_file_open(mlxd_model_file **out, const char *path, mlxd_why *why) {
    return open_file(out, path, path, 0, why);
}

mlxd_err mlxd_model_file_open_as(mlxd_model_file **out, const char *path, const char *shown,
                                 mlxd_why *why) {
    return open_file(out, path, shown, O_NOFOLLOW, why);
}

void mlxd_model_file_close(mlxd_model_file *f) {
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    mlxd_mem_free(f->path);
    mlxd_mem_free(f);
}

const char *mlxd_model_file_path(const mlxd_model_file *f) {
    return f->path;
}

uint64_t mlxd_model_file_bytes(const mlxd_model_file *f) {
    return f->bytes;
}

const char *mlxd_model_file_identity(const mlxd_model_file *f) {
    return f->identity;
}
