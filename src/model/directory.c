/* directory.c - see directory.h. */
#include "model/directory.h"

#include "base/limits.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mlxd_directory {
    char *path;         /* as given */
    char *root;         /* without links */
    size_t allowed_len; /* of root: what links may point beneath */
    char **names;
    size_t count;
};

/* ---- open and close ---- */

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mlxd_err refuse(const char *path, int error, mlxd_why *why) {
    mlxd_err err = error == ENOENT    ? MLXD_ERR_NOTFOUND
                   : error == EACCES  ? MLXD_ERR_PERM
                   : error == ENOTDIR ? MLXD_ERR_DATA
                   : error == ENOMEM  ? MLXD_ERR_NOMEM
                                      : MLXD_ERR_IO;
    return mlxd_fail(why, err, "%s: cannot read the directory (errno %d)", path, error);
}

/* Bytes of `root` that lead to what its links may use: all, or in the cache up to the model. */
static size_t allowed_part(const char *root) {
    const char *snapshots = strstr(root, "/snapshots/"), *model = NULL;
    for (const char *p = root; snapshots && (p = strstr(p, "/models--")) && p < snapshots; p++)
        model = p;
    return model && !memchr(model + 1, '/', (size_t)(snapshots - model - 1))
               ? (size_t)(snapshots - root)
               : strlen(root);
}

/* Adds a name; there is room for a power of two of them, at least 64. */
static mlxd_err add_name(mlxd_directory *d, const char *name, mlxd_why *why) {
    if (d->count >= MLXD_LIMIT_DIRECTORY)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: more than %u entries", d->path,
                         MLXD_LIMIT_DIRECTORY);
    if (d->count == 0 || (d->count >= 64 && (d->count & (d->count - 1)) == 0)) {
        char **names = mlxd_mem_resize(d->names, MLXD_MAX(d->count * 2, (size_t)64), sizeof *names);
        if (!names)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", d->path);
        d->names = names;
    }
    d->names[d->count] = mlxd_mem_dup_str(name);
    if (!d->names[d->count])
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", d->path);
    d->count++;
    return MLXD_OK;
}

static mlxd_err list(mlxd_directory *d, mlxd_why *why) {
    DIR *dir = opendir(d->root);
    if (!dir)
        return refuse(d->path, errno, why);
    mlxd_err err = MLXD_OK;
    struct dirent *e;
    errno = 0;
    while (!err && (e = readdir(dir)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            err = add_name(d, e->d_name, why);
    if (!err && errno)
        err = refuse(d->path, errno, why);
    closedir(dir);
    if (d->count > 0)
        qsort(d->names, d->count, sizeof *d->names, by_bytes);
    return err;
}

/* The path without links, in memory that mem.h counts; NULL with errno. */
static char *resolve(const char *path) {
    char room[PATH_MAX];
    if (!realpath(path, room))
        return NULL;
    char *copy = mlxd_mem_dup_str(room);
    if (!copy)
        errno = ENOMEM;
    return copy;
}

mlxd_err mlxd_directory_open(mlxd_directory **out, const char *path, mlxd_why *why) {
    mlxd_directory *d = mlxd_mem_new(1, sizeof *d);
    mlxd_err err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    if (!d)
        return err;
    d->path = mlxd_mem_dup_str(path);
    d->root = d->path ? resolve(path) : NULL;
    if (d->path && !d->root)
        err = refuse(path, errno, why);
    if (d->root) {
        d->allowed_len = allowed_part(d->root);
        err = list(d, why);
    }
    if (err) {
        mlxd_directory_close(d);
        return err;
    }
    *out = d;
    return MLXD_OK;
}

void mlxd_directory_close(mlxd_directory *d) {
    if (!d)
        return;
    for (size_t i = 0; i < d->count; i++)
        mlxd_mem_free(d->names[i]);
    mlxd_mem_free(d->names);
    mlxd_mem_free(d->root);
    mlxd_mem_free(d->path);
    mlxd_mem_free(d);
}

/* ---- entries ---- */

size_t mlxd_directory_count(const mlxd_directory *d) {
    return d->count;
}

const char *mlxd_directory_at(const mlxd_directory *d, size_t index) {
    MLXD_ASSERT(index < d->count);
    return d->names[index];
}

bool mlxd_directory_has(const mlxd_directory *d, const char *name) {
    return d->count > 0 && bsearch(&name, d->names, d->count, sizeof *d->names, by_bytes);
}

static bool is_plain(const char *name) {
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Where the entry really lies; PERM when that is outside of the model. */
static mlxd_err locate(const mlxd_directory *d, const char *name, const char *shown, char **out,
                       mlxd_why *why) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", d->root, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s: the path is too long", shown);
    *out = resolve(path);
    if (!*out)
        return mlxd_fail(why,
                         errno == ENOENT   ? MLXD_ERR_NOTFOUND
                         : errno == EACCES ? MLXD_ERR_PERM
                                           : MLXD_ERR_IO,
                         "%s: cannot open model file (errno %d)", shown, errno);
    if (strncmp(*out, d->root, d->allowed_len) == 0 &&
        ((*out)[d->allowed_len] == '/' || strcmp(d->root, "/") == 0))
        return MLXD_OK;
    mlxd_err err =
        mlxd_fail(why, MLXD_ERR_PERM, "%s: the link leads to %s, outside of the model's directory",
                  shown, *out);
    mlxd_mem_free(*out);
    return err;
}

mlxd_err mlxd_directory_open_file(mlxd_model_file **out, const mlxd_directory *d, const char *name,
                                  mlxd_why *why) {
    char *real;
    if (!is_plain(name))
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s: \"%s\" is no name of a file in it", d->path,
                         name);
    size_t size = strlen(d->path) + strlen(name) + 2;
    char *shown = mlxd_mem_new(size, 1);
    if (!shown)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", d->path);
    size_t len = strlen(d->path);
    snprintf(shown, size, "%s%s%s", d->path, len && d->path[len - 1] == '/' ? "" : "/", name);
    mlxd_err err = locate(d, name, shown, &real, why);
    if (!err) {
        err = mlxd_model_file_open_as(out, real, shown, why);
        mlxd_mem_free(real);
    }
    mlxd_mem_free(shown);
    return err;
}

mlxd_err mlxd_directory_read(const mlxd_directory *d, const char *name, size_t bytes_max,
                             uint8_t **out, size_t *len, mlxd_why *why) {
    mlxd_model_file *f;
    mlxd_err err = mlxd_directory_open_file(&f, d, name, why);
    if (err)
        return err;
    uint64_t bytes = mlxd_model_file_bytes(f);
    uint8_t *data = NULL;
    if (bytes > bytes_max)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: the file has %llu bytes, expected at most %zu",
                        mlxd_model_file_path(f), (unsigned long long)bytes, bytes_max);
    if (!err && !(data = mlxd_mem_new((size_t)bytes, 1)))
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", mlxd_model_file_path(f));
    if (!err)
        err = mlxd_model_file_read(f, 0, data, (size_t)bytes, why);
    mlxd_model_file_close(f);
    if (err) {
        mlxd_mem_free(data);
        return err;
    }
    *out = data;
    *len = (size_t)bytes;
    return MLXD_OK;
}
