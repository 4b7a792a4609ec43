/* shelf.c - see shelf.h. When a replica was used last is the time of its `ranges`, which is set
 * whenever it is opened. Nothing here follows a link below the shelf.
 */
#include "model/shelf.h"

#include "base/log.h"
#include "base/mem.h"
#include "format/digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FOLDER (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define MODELS_MAX 4096
#define SPARE_BYTES (UINT64_C(64) << 20) /* of the disk: stay free */
#define BLOCK 512                        /* the unit of st_blocks */

static mlxd_err system_error(const char *path, const char *what, mlxd_why *why) {
    int error = errno;
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0)
        text[0] = 0;
    return mlxd_fail(why, error == EACCES || error == EPERM ? MLXD_ERR_PERM : MLXD_ERR_IO,
                     "%s: %s: %s", path, what, text);
}

mlxd_err mlxd_shelf_default(char out[MLXD_SHELF_PATH], mlxd_why *why) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (xdg && *xdg)
        n = snprintf(out, MLXD_SHELF_PATH, "%s/mlxd/shards", xdg);
    else if (home && *home)
        n = snprintf(out, MLXD_SHELF_PATH, "%s/.cache/mlxd/shards", home);
    if (n <= 0 || n >= MLXD_SHELF_PATH)
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "no place for layers that are fetched: give --shards DIR (neither "
                         "XDG_CACHE_HOME nor HOME says where caches are)");
    return MLXD_OK;
}

mlxd_err mlxd_shelf_open(int *fd, const char *path, mlxd_why *why) {
    char part[MLXD_SHELF_PATH];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "--shards: a path of %zu bytes", n);
    for (size_t i = 1; i <= n; i++)
        if (path[i] == '/' || path[i] == 0) {
            memcpy(part, path, i);
            part[i] = 0;
            if (mkdir(part, 0700) != 0 && errno != EEXIST && path[i] == 0)
                return system_error(path, "cannot make the directory", why);
        }
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? MLXD_OK : system_error(path, "cannot open the directory", why);
}

mlxd_err mlxd_shelf_lock(int dir, int *fd, mlxd_why *why) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *fd = openat(dir, MLXD_SHELF_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*fd < 0)
        return system_error(MLXD_SHELF_LOCK, "cannot open", why);
    if (fcntl(*fd, F_SETLK, &lock) == 0)
        return MLXD_OK;
    bool taken = errno == EAGAIN || errno == EACCES;
    mlxd_err err = taken ? mlxd_fail(why, MLXD_ERR_STATE,
                                     "another process uses it; give each worker of this machine a "
                                     "--shards of its own")
                         : system_error(MLXD_SHELF_LOCK, "cannot lock", why);
    close(*fd);
    *fd = -1;
    return err;
}

/* ---- looking ---- */

struct model {
    char name[MLXD_SHA256_HEX];
    uint64_t bytes;
    time_t used;
};

static bool is_fingerprint(const char *name) {
    uint8_t digest[MLXD_SHA256_BYTES];
    return mlxd_unhex(name, digest, sizeof digest);
}

/* Calls fn for each entry of directory `name` in `dir`. */
static void each_entry(int dir, const char *name, void (*fn)(int dir, const char *name, void *ctx),
                       void *ctx) {
    int fd = openat(dir, name, FOLDER);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            fn(fd, e->d_name, ctx);
    closedir(d);
}

static void add_blocks(int dir, const char *name, void *ctx) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        *(uint64_t *)ctx += (uint64_t)st.st_blocks * BLOCK;
}

static void look_at(int shelf, struct model *m) {
    struct stat st = {0};
    int fd = openat(shelf, m->name, FOLDER);
    if (fd < 0)
        return;
    each_entry(fd, MLXD_SHELF_MODEL, add_blocks, &m->bytes);
    if (fstatat(fd, MLXD_SHELF_RANGES, &st, AT_SYMLINK_NOFOLLOW) == 0)
        m->used = st.st_mtime;
    close(fd);
}

static int by_use(const void *a, const void *b) {
    const struct model *p = a, *q = b;
    return p->used != q->used ? (p->used < q->used ? -1 : 1) : strcmp(p->name, q->name);
}

struct list {
    struct model *models; /* owned; the one that was not used for longest first */
    size_t n;
};

static void list_entry(int dir, const char *name, void *ctx) {
    struct list *l = ctx;
    if (!is_fingerprint(name) || l->n >= MODELS_MAX)
        return;
    struct model *m = &l->models[l->n++];
    memcpy(m->name, name, sizeof m->name);
    look_at(dir, m);
}

static mlxd_err list_models(int shelf, struct list *l, mlxd_why *why) {
    *l = (struct list){.models = mlxd_mem_new(MODELS_MAX, sizeof *l->models)};
    if (!l->models)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    each_entry(shelf, ".", list_entry, l);
    if (l->n > 0)
        qsort(l->models, l->n, sizeof *l->models, by_use);
    return MLXD_OK;
}

mlxd_err mlxd_shelf_get_usage(const char *path, mlxd_shelf_usage *out, mlxd_why *why) {
    int shelf;
    struct list l;
    *out = (mlxd_shelf_usage){0};
    mlxd_err err = mlxd_shelf_open(&shelf, path, why);
    if (err)
        return err;
    err = list_models(shelf, &l, why);
    for (size_t i = 0; i < l.n && !err; i++)
        out->bytes += l.models[i].bytes;
    out->models = l.n;
    mlxd_mem_free(l.models);
    close(shelf);
    return err;
}

/* ---- removing ---- */

static void remove_entry(int dir, const char *name, void *ctx) {
    (void)ctx;
    (void)unlinkat(dir, name, 0);
}

/* First the list of ranges, so that what is left half removed counts for nothing. */
static bool remove_model(int shelf, const char *name) {
    static const char *const files[] = {MLXD_SHELF_RANGES, MLXD_SHELF_TMP, MLXD_SHELF_LOCK};
    int lock, dir = openat(shelf, name, FOLDER);
    mlxd_why why;
    if (dir < 0)
        return false;
    if (mlxd_shelf_lock(dir, &lock, &why)) {
        close(dir);
        return false;
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(files); i++) {
        if (i + 1 == MLXD_COUNT_OF(files)) {
            each_entry(dir, MLXD_SHELF_MODEL, remove_entry, NULL);
            (void)unlinkat(dir, MLXD_SHELF_MODEL, AT_REMOVEDIR);
        }
        (void)unlinkat(dir, files[i], 0);
    }
    close(lock);
    close(dir);
    return unlinkat(shelf, name, AT_REMOVEDIR) == 0;
}

static mlxd_err keep_within(int shelf, const char *path, const char *keep, uint64_t bytes,
                            uint64_t bytes_max, mlxd_why *why) {
    struct list l;
    uint64_t used = 0, kept = 0;
    mlxd_err err = list_models(shelf, &l, why);
    if (err)
        return err;
    for (size_t i = 0; i < l.n; i++) {
        used += l.models[i].bytes;
        if (strcmp(l.models[i].name, keep) == 0)
            kept = l.models[i].bytes;
    }
    for (size_t i = 0; i < l.n && (bytes > bytes_max || used > bytes_max - bytes); i++) {
        const struct model *m = &l.models[i];
        if (strcmp(m->name, keep) == 0 || bytes > bytes_max || kept > bytes_max - bytes)
            continue;
        if (!remove_model(shelf, m->name))
            continue;
        mlxd_log(MLXD_LOG_INFO, "shards", "removed %.12s..., %llu MB, to make room (--shards-max)",
                 m->name, (unsigned long long)(m->bytes / 1000000));
        used -= m->bytes;
    }
    mlxd_mem_free(l.models);
    if (bytes > bytes_max || used > bytes_max - bytes)
        return mlxd_fail(why, MLXD_ERR_FULL,
                         "%s: %llu MB are to be fetched, %llu MB stay there, --shards-max is %llu "
                         "MB",
                         path, (unsigned long long)(bytes / 1000000),
                         (unsigned long long)(used / 1000000),
                         (unsigned long long)(bytes_max / 1000000));
    return MLXD_OK;
}

mlxd_err mlxd_shelf_make_room(const char *path, const char *keep, uint64_t bytes,
                              uint64_t bytes_max, mlxd_why *why) {
    int shelf;
    struct statvfs fs;
    mlxd_err err = mlxd_shelf_open(&shelf, path, why);
    if (err)
        return err;
    if (bytes_max > 0)
        err = keep_within(shelf, path, keep, bytes, bytes_max, why);
    if (!err && fstatvfs(shelf, &fs) == 0) {
        uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
        if (have < SPARE_BYTES || bytes > have - SPARE_BYTES)
            err = mlxd_fail(
                why, MLXD_ERR_FULL, "%s: %llu MB are to be fetched, the disk has %llu MB free",
                path, (unsigned long long)(bytes / 1000000), (unsigned long long)(have / 1000000));
    }
    close(shelf);
    return err;
}
