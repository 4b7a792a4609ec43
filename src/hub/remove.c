/* remove.c - see remove.h. */
#include "hub/remove.h"

#include "hub/choose.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SNAPSHOTS_MAX 4096

typedef char digest[MLXD_SHA256_HEX];

struct snapshot {
    char commit[MLXD_HUB_COMMIT + 1];
    mlxd_hub_files files;
    bool *doomed; /* per file; owned */
    size_t n_doomed;
    bool goes; /* all of it */
};

struct digests {
    digest *items;
    size_t count, cap;
};

struct mlxd_hub_removal {
    mlxd_hub_repo repo;
    mlxd_hub_removal_sum sum;
    bool all; /* nothing remains of the repository */
    struct snapshot *snapshots;
    size_t count;
    struct digests freed; /* sorted, each once */
    int lock;
};

static mlxd_err nomem(mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

/* ---- sets of digests ---- */

static bool add_digest(struct digests *d, const char *text) {
    if (d->count == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 64;
        digest *more = mlxd_mem_resize(d->items, cap, sizeof *more);
        if (!more)
            return false;
        d->items = more;
        d->cap = cap;
    }
    snprintf(d->items[d->count++], sizeof(digest), "%s", text);
    return true;
}

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

static void sort_digests(struct digests *d) {
    size_t kept = 0;
    if (d->count == 0)
        return;
    qsort(d->items, d->count, sizeof *d->items, by_text);
    for (size_t i = 0; i < d->count; i++)
        if (i == 0 || strcmp(d->items[i], d->items[kept - 1]) != 0)
            memmove(d->items[kept++], d->items[i], sizeof *d->items);
    d->count = kept;
}

static bool has_digest(const struct digests *d, const char *text) {
    return d->count && bsearch(text, d->items, d->count, sizeof *d->items, by_text);
}

/* ---- plan ---- */

static mlxd_err read_snapshots(mlxd_hub_removal *r, mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_err err = MLXD_OK;
    snprintf(path, sizeof path, "%s/snapshots", r->repo.dir);
    r->snapshots = mlxd_mem_new(SNAPSHOTS_MAX, sizeof *r->snapshots);
    if (!r->snapshots)
        return nomem(why);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && !err && (e = readdir(dir));) {
        struct snapshot *s = &r->snapshots[r->count];
        if (!mlxd_hub_commit_ok(mlxd_slice_str(e->d_name)))
            continue;
        if (r->count == SNAPSHOTS_MAX) {
            err = mlxd_fail(why, MLXD_ERR_FULL, "%.300s: more than %d revisions", path,
                            SNAPSHOTS_MAX);
            break;
        }
        snprintf(s->commit, sizeof s->commit, "%.40s", e->d_name);
        err = mlxd_hub_snapshot_read(&r->repo, s->commit, &s->files, why);
        r->count += !err;
        if (!err)
            s->doomed = mlxd_mem_new(s->files.count + 1, sizeof *s->doomed);
        if (!err && !s->doomed)
            err = nomem(why);
    }
    if (dir)
        closedir(dir);
    return err;
}

/* Which files of a snapshot go. */
static mlxd_err doom(struct snapshot *s, const mlxd_hub_name *n, mlxd_why *why) {
    mlxd_hub_choice c = {.wanted = NULL};
    mlxd_hub_name name = *n;
    mlxd_err err = MLXD_OK;
    if (n->tag[0] || n->file[0]) {
        err = mlxd_hub_choose(&c, &s->files, &name, NULL, 0, why);
        if (err)
            return err;
    }
    for (size_t i = 0; i < s->files.count; i++) {
        s->doomed[i] = !c.wanted || c.wanted[i];
        s->n_doomed += s->doomed[i];
    }
    s->goes = s->n_doomed == s->files.count;
    mlxd_hub_choice_deinit(&c);
    return err;
}

static mlxd_err doom_all(mlxd_hub_removal *r, const mlxd_hub_name *n, mlxd_why *why) {
    char commit[MLXD_HUB_COMMIT + 1], text[256];
    bool part = n->tag[0] || n->file[0], found = false;
    mlxd_err err =
        n->has_revision ? mlxd_hub_ref_read(&r->repo, n->revision, commit, why) : MLXD_OK;
    mlxd_hub_name_format(n, text, sizeof text);
    for (size_t i = 0; i < r->count && !err; i++) {
        if (n->has_revision && strcmp(r->snapshots[i].commit, commit) != 0)
            continue;
        mlxd_err here = doom(&r->snapshots[i], n, why);
        found = found || here == MLXD_OK;
        err = here == MLXD_ERR_NOTFOUND ? MLXD_OK : here; /* another revision may have it */
    }
    r->all = !part && !n->has_revision;
    if (!err && !found && !r->all)
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND, "%s is not in the cache", text);
    return err;
}

static uint64_t blob_bytes(const mlxd_hub_removal *r, const char *name) {
    char path[MLXD_HUB_FILE_MAX];
    struct stat st;
    snprintf(path, sizeof path, "%s/blobs/%s", r->repo.dir, name);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

/* Everything below blobs/: of a repository that goes as a whole. */
static mlxd_err sum_blobs(mlxd_hub_removal *r) {
    char path[MLXD_HUB_FILE_MAX];
    snprintf(path, sizeof path, "%s/blobs", r->repo.dir);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));)
        r->sum.bytes += blob_bytes(r, e->d_name);
    if (dir)
        closedir(dir);
    return MLXD_OK;
}

static mlxd_err sum_up(mlxd_hub_removal *r, mlxd_why *why) {
    struct digests kept = {.items = NULL};
    bool ok = true;
    for (size_t i = 0; i < r->count; i++) {
        const struct snapshot *s = &r->snapshots[i];
        r->sum.files += s->n_doomed;
        r->sum.revisions += s->goes;
        for (size_t f = 0; f < s->files.count && ok; f++)
            if (s->files.items[f].digest[0])
                ok = add_digest(s->doomed[f] ? &r->freed : &kept, s->files.items[f].digest);
    }
    sort_digests(&kept);
    sort_digests(&r->freed);
    size_t n = 0;
    for (size_t i = 0; i < r->freed.count; i++) {
        uint64_t bytes = blob_bytes(r, r->freed.items[i]);
        if (has_digest(&kept, r->freed.items[i])) {
            r->sum.kept += bytes;
            continue;
        }
        r->sum.bytes += bytes;
        memmove(r->freed.items[n++], r->freed.items[i], sizeof(digest));
    }
    r->freed.count = n;
    mlxd_mem_free(kept.items);
    r->all = r->all || r->sum.revisions == r->count;
    if (!ok)
        return nomem(why);
    if (!r->all)
        return MLXD_OK;
    r->sum.bytes = 0;
    return sum_blobs(r);
}

mlxd_err mlxd_hub_removal_open(mlxd_hub_removal **out, const char *cache, const mlxd_hub_name *name,
                               mlxd_why *why) {
    struct stat st;
    mlxd_hub_removal *r = mlxd_mem_new(1, sizeof *r);
    *out = NULL;
    if (!r)
        return nomem(why);
    r->lock = -1;
    mlxd_hub_repo_init(&r->repo, cache, name->repo);
    mlxd_err err = MLXD_OK;
    if (lstat(r->repo.dir, &st) != 0 || !S_ISDIR(st.st_mode))
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND, "%.200s is not in the cache (%.200s)", name->repo,
                        cache);
    if (!err)
        err = mlxd_hub_lock(&r->repo, "mlxd", false, &r->lock, why);
    if (err == MLXD_ERR_AGAIN)
        err =
            mlxd_fail(why, err, "%.200s is being pulled or removed by another process", name->repo);
    if (!err)
        err = read_snapshots(r, why);
    if (!err)
        err = doom_all(r, name, why);
    if (!err)
        err = sum_up(r, why);
    if (err) {
        mlxd_hub_removal_close(r);
        return err;
    }
    *out = r;
    return MLXD_OK;
}

const mlxd_hub_removal_sum *mlxd_hub_removal_get(const mlxd_hub_removal *r) {
    return &r->sum;
}

void mlxd_hub_removal_close(mlxd_hub_removal *r) {
    if (!r)
        return;
    for (size_t i = 0; i < r->count; i++) {
        mlxd_hub_files_deinit(&r->snapshots[i].files);
        mlxd_mem_free(r->snapshots[i].doomed);
    }
    mlxd_mem_free(r->snapshots);
    mlxd_mem_free(r->freed.items);
    if (r->lock >= 0)
        close(r->lock);
    mlxd_mem_free(r);
}

/* ---- deed ---- */

static mlxd_err remove_path(const char *path, mlxd_why *why) {
    return unlink(path) == 0 || errno == ENOENT
               ? MLXD_OK
               : mlxd_hub_io_error(path, "cannot remove it", errno, why);
}

/* A folder with all that is in it; links are removed, not followed. */
static mlxd_err remove_tree(const char *path, unsigned depth, mlxd_why *why) {
    char below[MLXD_HUB_FILE_MAX];
    mlxd_err err = MLXD_OK;
    struct stat st;
    if (lstat(path, &st) != 0)
        return MLXD_OK;
    if (!S_ISDIR(st.st_mode))
        return remove_path(path, why);
    if (depth > MLXD_LIMIT_HUB_DEPTH + 4)
        return mlxd_fail(why, MLXD_ERR_FULL, "%.300s: too deep", path);
    DIR *dir = opendir(path);
    if (!dir)
        return mlxd_hub_io_error(path, "cannot read the folder", errno, why);
    for (const struct dirent *e; !err && (e = readdir(dir));) {
        int n = snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        err = n > 0 && (size_t)n < sizeof below
                  ? remove_tree(below, depth + 1, why)
                  : mlxd_fail(why, MLXD_ERR_IO, "%.300s: the path is too long", path);
    }
    closedir(dir);
    if (!err && rmdir(path) != 0)
        err = mlxd_hub_io_error(path, "cannot remove the folder", errno, why);
    return err;
}

static bool goes(const mlxd_hub_removal *r, const char *commit) {
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->snapshots[i].commit, commit) == 0)
            return r->snapshots[i].goes;
    return true; /* nothing that it could point to */
}

/* References to revisions that go: one that points nowhere is an error to huggingface_hub. */
static mlxd_err remove_refs(const mlxd_hub_removal *r, const char *below, unsigned depth,
                            mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX], commit[MLXD_HUB_COMMIT + 1];
    mlxd_err err = MLXD_OK;
    snprintf(path, sizeof path, "%s/refs/%s", r->repo.dir, below);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && !err && (e = readdir(dir));) {
        char name[MLXD_LIMIT_HUB_REVISION + 1];
        int n = snprintf(name, sizeof name, "%s%s", below, e->d_name);
        if (n < 0 || (size_t)n + 2 > sizeof name || !mlxd_hub_revision_ok(mlxd_slice_str(name)))
            continue;
        if (mlxd_hub_ref_read(&r->repo, name, commit, NULL) == MLXD_OK) {
            snprintf(path, sizeof path, "%s/refs/%s", r->repo.dir, name);
            err = goes(r, commit) ? remove_path(path, why) : MLXD_OK;
        } else if (depth < 3) {
            snprintf(name + n, sizeof name - (size_t)n, "/");
            err = remove_refs(r, name, depth + 1, why);
        }
    }
    if (dir)
        closedir(dir);
    return err;
}

static mlxd_err remove_snapshot(const mlxd_hub_removal *r, const struct snapshot *s,
                                mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_err err = MLXD_OK;
    if (s->goes) {
        snprintf(path, sizeof path, "%s/snapshots/%s", r->repo.dir, s->commit);
        return remove_tree(path, 0, why);
    }
    for (size_t i = 0; i < s->files.count && !err; i++) {
        if (!s->doomed[i])
            continue;
        snprintf(path, sizeof path, "%s/snapshots/%s/%s", r->repo.dir, s->commit,
                 s->files.items[i].path);
        err = remove_path(path, why);
        size_t top = strlen(r->repo.dir) + sizeof "/snapshots/" + MLXD_HUB_COMMIT;
        for (char *p; !err && (p = strrchr(path, '/')) && (size_t)(p - path) >= top;) {
            *p = 0;
            if (rmdir(path) != 0)
                break; /* something else is in it */
        }
    }
    return err;
}

mlxd_err mlxd_hub_removal_run(mlxd_hub_removal *r, mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_err err = remove_refs(r, "", 0, why);
    for (size_t i = 0; i < r->count && !err; i++)
        if (r->snapshots[i].goes || r->snapshots[i].n_doomed > 0)
            err = remove_snapshot(r, &r->snapshots[i], why);
    if (!err && r->all) {
        err = remove_tree(r->repo.dir, 0, why);
        return err ? err : remove_tree(r->repo.locks, 0, why);
    }
    for (size_t i = 0; i < r->freed.count && !err; i++) {
        snprintf(path, sizeof path, "%s/blobs/%s", r->repo.dir, r->freed.items[i]);
        err = remove_path(path, why);
    }
    return err;
}
