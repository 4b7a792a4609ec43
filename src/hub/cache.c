/* cache.c - see cache.h. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "hub/cache.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

mlxd_err mlxd_hub_io_error(const char *path, const char *what, int error, mlxd_why *why) {
    char text[128];
    mlxd_err err = error == ENOENT || error == ENOTDIR                   ? MLXD_ERR_NOTFOUND
                   : error == EACCES || error == EPERM || error == EROFS ? MLXD_ERR_PERM
                                                                         : MLXD_ERR_IO;
    if (strerror_r(error, text, sizeof text) != 0)
        snprintf(text, sizeof text, "errno %d", error);
    return mlxd_fail(why, err, "%.300s: %s: %s", path, what, text);
}

void mlxd_hub_repo_init(mlxd_hub_repo *r, const char *cache, const char *repo) {
    char folder[MLXD_LIMIT_HUB_REPO + 16];
    MLXD_ASSERT(mlxd_hub_repo_ok(mlxd_slice_str(repo)) && strlen(cache) < MLXD_HUB_DIR_MAX);
    const char *slash = strchr(repo, '/');
    int org = slash ? (int)(slash - repo) : 0;
    snprintf(folder, sizeof folder, "models--%.*s%s%s", org, repo, slash ? "--" : "",
             slash ? slash + 1 : repo);
    snprintf(r->dir, sizeof r->dir, "%s/%s", cache, folder);
    snprintf(r->locks, sizeof r->locks, "%s/.locks/%s", cache, folder);
    snprintf(r->shared, sizeof r->shared, "%s/blobs", cache);
}

bool mlxd_hub_repo_name(const char *folder, char out[MLXD_LIMIT_HUB_REPO + 1]) {
    if (strncmp(folder, "models--", 8) != 0 || strlen(folder + 8) > MLXD_LIMIT_HUB_REPO)
        return false;
    snprintf(out, MLXD_LIMIT_HUB_REPO + 1, "%s", folder + 8);
    char *dashes = strstr(out, "--");
    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    return mlxd_hub_repo_ok(mlxd_slice_str(out));
}

/* ---- folders ---- */

mlxd_err mlxd_hub_make_dirs(const char *path, mlxd_why *why) {
    char part[MLXD_HUB_FILE_MAX];
    if (strlen(path) >= sizeof part)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%.300s: the path is too long", path);
    for (const char *p = path + 1;; p++) {
        if (*p && *p != '/')
            continue;
        memcpy(part, path, (size_t)(p - path));
        part[p - path] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return mlxd_hub_io_error(part, "cannot make the folder", errno, why);
        if (!*p)
            return MLXD_OK;
    }
}

/* The folder that `path` is in, made if need be. */
static mlxd_err make_parent(const char *path, char *parent, size_t size, mlxd_why *why) {
    const char *slash = strrchr(path, '/');
    MLXD_ASSERT(slash && (size_t)(slash - path) < size);
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = 0;
    return mlxd_hub_make_dirs(parent, why);
}

mlxd_err mlxd_hub_sync_dir(const char *path, mlxd_why *why) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return mlxd_hub_io_error(path, "cannot open the folder", errno, why);
    int rc = fsync(fd);
    int error = errno;
    close(fd);
    /* Some file systems cannot do this for folders, and say so. */
    return rc == 0 || error == EINVAL || error == ENOTSUP
               ? MLXD_OK
               : mlxd_hub_io_error(path, "cannot write the folder to disk", error, why);
}

/* ---- refs ---- */

static mlxd_err ref_path(const mlxd_hub_repo *r, const char *revision, char *out, size_t size,
                         mlxd_why *why) {
    int n = snprintf(out, size, "%s/refs/%s", r->dir, revision);
    return n > 0 && (size_t)n < size
               ? MLXD_OK
               : mlxd_fail(why, MLXD_ERR_INVALID, "%.300s: the path is too long", r->dir);
}

mlxd_err mlxd_hub_ref_read(const mlxd_hub_repo *r, const char *revision,
                           char commit[MLXD_HUB_COMMIT + 1], mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX], text[MLXD_HUB_COMMIT + 2];
    MLXD_ASSERT(mlxd_hub_revision_ok(mlxd_slice_str(revision)));
    if (mlxd_hub_commit_ok(mlxd_slice_str(revision))) {
        memcpy(commit, revision, MLXD_HUB_COMMIT + 1);
        return MLXD_OK;
    }
    mlxd_err err = ref_path(r, revision, path, sizeof path, why);
    if (err)
        return err;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return mlxd_hub_io_error(path, "cannot read the revision", errno, why);
    ssize_t n = read(fd, text, sizeof text);
    int error = errno;
    close(fd);
    if (n < 0)
        return mlxd_hub_io_error(path, "cannot read the revision", error, why);
    if (n == MLXD_HUB_COMMIT + 1 && text[MLXD_HUB_COMMIT] == '\n')
        n--;
    if (!mlxd_hub_commit_ok((mlxd_slice){(uint8_t *)text, (size_t)n}))
        return mlxd_fail(why, MLXD_ERR_DATA, "%.300s: expected the 40 digits of a commit", path);
    memcpy(commit, text, MLXD_HUB_COMMIT);
    commit[MLXD_HUB_COMMIT] = 0;
    return MLXD_OK;
}

/* A name beside `dir` that no other process and no earlier one of ours uses. */
static void temporary(const mlxd_hub_repo *r, char *out, size_t size) {
    snprintf(out, size, "%s/.mlxd-%ld-%llx.tmp", r->dir, (long)getpid(),
             (unsigned long long)mlxd_clock_now_ns());
}

static mlxd_err write_file(const char *path, const char *text, mlxd_why *why) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return mlxd_hub_io_error(path, "cannot create the file", errno, why);
    size_t len = strlen(text);
    ssize_t n = write(fd, text, len);
    int error = n < 0 ? errno : ENOSPC;
    bool ok = n >= 0 && (size_t)n == len;
    if (ok && fsync(fd) != 0) {
        error = errno;
        ok = false;
    }
    close(fd);
    return ok ? MLXD_OK : mlxd_hub_io_error(path, "cannot write the file", error, why);
}

mlxd_err mlxd_hub_ref_write(const mlxd_hub_repo *r, const char *revision, const char *commit,
                            mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX], tmp[MLXD_HUB_FILE_MAX], parent[MLXD_HUB_FILE_MAX];
    MLXD_ASSERT(mlxd_hub_revision_ok(mlxd_slice_str(revision)));
    mlxd_err err = ref_path(r, revision, path, sizeof path, why);
    if (!err)
        err = make_parent(path, parent, sizeof parent, why);
    if (err)
        return err;
    temporary(r, tmp, sizeof tmp);
    err = write_file(tmp, commit, why);
    if (!err && rename(tmp, path) != 0)
        err = mlxd_hub_io_error(path, "cannot write the revision", errno, why);
    if (err)
        (void)unlink(tmp);
    return err ? err : mlxd_hub_sync_dir(parent, why);
}

/* ---- snapshots: reading ---- */

struct scan {
    const mlxd_hub_repo *repo;
    char root[MLXD_HUB_FILE_MAX];               /* of the snapshot */
    char real[PATH_MAX], real_shared[PATH_MAX]; /* the repository's folder, the shared blobs */
    mlxd_hub_files *out;
    mlxd_why *why;
};

static bool is_below(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return n > 0 && strncmp(path, dir, n) == 0 && path[n] == '/';
}

/* Size and digest of a file of a snapshot; a link must stay where cached contents are. */
static void look_at(const struct scan *s, const char *path, mlxd_hub_file *f) {
    struct stat st;
    char real[PATH_MAX], link[PATH_MAX];
    f->broken = !realpath(path, real) || stat(real, &st) != 0 || !S_ISREG(st.st_mode) ||
                !(is_below(real, s->real) || is_below(real, s->real_shared));
    if (!f->broken) {
        f->size = (uint64_t)st.st_size;
        f->used_s = (uint64_t)MLXD_MAX(st.st_atime, st.st_mtime);
    }
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n <= 0)
        return;
    link[n] = 0;
    const char *slash = strrchr(link, '/');
    size_t len = slash ? strlen(slash + 1) : 0;
    if (len > 0 && len < sizeof f->digest)
        memcpy(f->digest, slash + 1, len + 1);
}

static mlxd_err scan_dir(struct scan *s, const char *below, unsigned depth);

static mlxd_err scan_entry(struct scan *s, const char *path, unsigned depth) {
    char full[MLXD_HUB_FILE_MAX];
    struct stat st;
    mlxd_hub_file *f;
    int n = snprintf(full, sizeof full, "%s/%s", s->root, path);
    if (n < 0 || (size_t)n >= sizeof full || lstat(full, &st) != 0)
        return MLXD_OK; /* gone meanwhile, or nothing that we could have made */
    if (S_ISDIR(st.st_mode))
        return depth < MLXD_LIMIT_HUB_DEPTH ? scan_dir(s, path, depth + 1) : MLXD_OK;
    if (!S_ISLNK(st.st_mode) && !S_ISREG(st.st_mode))
        return MLXD_OK;
    mlxd_err err = mlxd_hub_files_add(s->out, mlxd_slice_str(path), &f, s->why);
    if (err == MLXD_ERR_INVALID)
        return MLXD_OK; /* no name of the hub's */
    if (!err)
        look_at(s, full, f);
    return err;
}

static mlxd_err scan_dir(struct scan *s, const char *below, unsigned depth) {
    char path[MLXD_HUB_FILE_MAX + MLXD_LIMIT_HUB_PATH + 2];
    mlxd_err err = MLXD_OK;
    snprintf(path, sizeof path, "%s%s%s", s->root, *below ? "/" : "", below);
    DIR *dir = opendir(path);
    if (!dir)
        return mlxd_hub_io_error(path, "cannot read the folder", errno, s->why);
    for (const struct dirent *e; !err && (e = readdir(dir));) {
        char name[MLXD_LIMIT_HUB_PATH + 1];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        int n = snprintf(name, sizeof name, "%s%s%s", below, *below ? "/" : "", e->d_name);
        if (n > 0 && (size_t)n < sizeof name)
            err = scan_entry(s, name, depth);
    }
    closedir(dir);
    return err;
}

mlxd_err mlxd_hub_snapshot_read(const mlxd_hub_repo *r, const char *commit, mlxd_hub_files *out,
                                mlxd_why *why) {
    MLXD_ASSERT(mlxd_hub_commit_ok(mlxd_slice_str(commit)));
    struct scan s = {.repo = r, .out = out, .why = why};
    snprintf(s.root, sizeof s.root, "%s/snapshots/%s", r->dir, commit);
    mlxd_err err = mlxd_hub_files_init(out, why);
    if (err)
        return err;
    if (!realpath(r->dir, s.real))
        s.real[0] = 0;
    if (!realpath(r->shared, s.real_shared))
        s.real_shared[0] = 0;
    err = scan_dir(&s, "", 0);
    if (!err)
        err = mlxd_hub_files_sort(out, why);
    if (err)
        mlxd_hub_files_deinit(out);
    return err;
}

mlxd_err mlxd_hub_file_load(const char *path, mlxd_buf *out, mlxd_why *why) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return mlxd_hub_io_error(path, "cannot open the file", errno, why);
    mlxd_err err = MLXD_OK;
    for (ssize_t n = 1; n != 0 && !err;) {
        uint8_t chunk[1 << 14];
        n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno != EINTR)
            err = mlxd_hub_io_error(path, "cannot read the file", errno, why);
        else if (n > 0)
            mlxd_buf_add(out, chunk, (size_t)n);
        if (!err && out->failed)
            err = mlxd_fail(why, MLXD_ERR_FULL, "%.300s: larger than %zu bytes", path,
                            out->bytes_max);
    }
    close(fd);
    return err;
}

/* ---- snapshots: writing ---- */

mlxd_err mlxd_hub_snapshot_link(const mlxd_hub_repo *r, const char *commit, const char *path,
                                const char *digest, mlxd_why *why) {
    char full[MLXD_HUB_FILE_MAX], tmp[MLXD_HUB_FILE_MAX], parent[MLXD_HUB_FILE_MAX];
    char target[MLXD_LIMIT_HUB_PATH * 2 + 128], now[sizeof target];
    MLXD_ASSERT(mlxd_hub_path_ok(mlxd_slice_str(path)));
    snprintf(full, sizeof full, "%s/snapshots/%s/%s", r->dir, commit, path);
    size_t at = 0;
    for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/'))
        at += (size_t)snprintf(target + at, sizeof target - at, "../");
    snprintf(target + at, sizeof target - at, "../../blobs/%s", digest);
    mlxd_err err = make_parent(full, parent, sizeof parent, why);
    if (err)
        return err;
    ssize_t n = readlink(full, now, sizeof now);
    if (n == (ssize_t)strlen(target) && memcmp(now, target, (size_t)n) == 0)
        return MLXD_OK;
    temporary(r, tmp, sizeof tmp);
    if (symlink(target, tmp) != 0)
        return mlxd_hub_io_error(tmp,
                                 "cannot make a link (the cache needs a file system with "
                                 "symbolic links)",
                                 errno, why);
    if (rename(tmp, full) != 0) {
        err = mlxd_hub_io_error(full, "cannot make the link", errno, why);
        (void)unlink(tmp);
        return err;
    }
    return mlxd_hub_sync_dir(parent, why);
}

/* ---- locks ---- */

mlxd_err mlxd_hub_lock(const mlxd_hub_repo *r, const char *name, bool shared, int *fd,
                       mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    snprintf(path, sizeof path, "%s/%s.lock", r->locks, name);
    mlxd_err err = mlxd_hub_make_dirs(r->locks, why);
    while (!err) {
        struct stat mine, there;
        *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
        if (*fd < 0)
            return mlxd_hub_io_error(path, "cannot open the lock", errno, why);
        if (flock(*fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
            err = errno == EWOULDBLOCK
                      ? mlxd_fail(why, MLXD_ERR_AGAIN, "%.300s: held by another process", path)
                      : mlxd_hub_io_error(path, "cannot take the lock", errno, why);
        } else if (fstat(*fd, &mine) == 0 && stat(path, &there) == 0 &&
                   mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            return MLXD_OK;
        }
        close(*fd); /* its holder has removed the file: take the new one */
        *fd = -1;
    }
    return err;
}
