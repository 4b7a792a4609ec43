/* resolve.c - see resolve.h. */
#include "hub/resolve.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define REFS_MAX 256

/* ---- one model of a snapshot ---- */

/* Chooses as a pull would, and sees whether all of it is there. */
static mlxd_err choose_whole(const mlxd_hub_repo *r, const char *commit,
                             const mlxd_hub_files *files, const mlxd_hub_name *name,
                             mlxd_hub_choice *c, mlxd_why *why) {
    mlxd_err err = mlxd_hub_choose(c, files, name, NULL, 0, why);
    if (err)
        return err;
    if (c->index && !c->index->broken) {
        char path[MLXD_HUB_FILE_MAX];
        mlxd_buf json;
        mlxd_buf_init(&json, MLXD_LIMIT_HUB_INDEX);
        snprintf(path, sizeof path, "%s/snapshots/%s/%s", r->dir, commit, c->index->path);
        err = mlxd_hub_file_load(path, &json, why);
        if (!err)
            err = mlxd_hub_choose_shards(c, files, (mlxd_slice){json.data, json.len}, why);
        mlxd_buf_deinit(&json);
    }
    if (!err && c->format == MLXD_HUB_SAFETENSORS && !c->open &&
        !mlxd_hub_files_find(files, "config.json"))
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND, "config.json is missing");
    for (size_t i = 0; i < files->count && !err; i++)
        if (c->wanted[i] && files->items[i].broken)
            err = mlxd_fail(why, MLXD_ERR_NOTFOUND,
                            "\"%.200s\" is not there, or leads out of the cache",
                            files->items[i].path);
    return err;
}

mlxd_err mlxd_hub_resolve(const char *cache, const mlxd_hub_name *name,
                          char path[MLXD_HUB_FILE_MAX], mlxd_why *why) {
    char commit[MLXD_HUB_COMMIT + 1], text[256];
    mlxd_hub_repo repo;
    mlxd_hub_files files;
    mlxd_hub_choice choice = {.wanted = NULL};
    mlxd_hub_name_format(name, text, sizeof text);
    mlxd_hub_repo_init(&repo, cache, name->repo);
    mlxd_err err = mlxd_hub_ref_read(&repo, name->revision, commit, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, err, "%s is not in the cache (%.200s)", text, cache);
    if (!err)
        err = mlxd_hub_snapshot_read(&repo, commit, &files, why);
    if (err)
        return mlxd_fail_in(why, err, "%s is not in the cache", text);
    err = choose_whole(&repo, commit, &files, name, &choice, why);
    if (!err)
        snprintf(path, MLXD_HUB_FILE_MAX, "%s/snapshots/%s%s%s", repo.dir, commit,
                 choice.open ? "/" : "", choice.open ? choice.open : "");
    else
        err = mlxd_fail_in(why, err, "%s in the cache", text);
    mlxd_hub_choice_deinit(&choice);
    mlxd_hub_files_deinit(&files);
    return err;
}

/* ---- all models ---- */

struct ref {
    char name[64], commit[MLXD_HUB_COMMIT + 1];
};

struct scan {
    const char *cache;
    mlxd_hub_models *out;
    mlxd_why *why;
    /* of the repository that is looked at */
    mlxd_hub_repo repo;
    char name[MLXD_LIMIT_HUB_REPO + 1];
    struct ref refs[REFS_MAX];
    size_t n_refs;
};

static mlxd_err nomem(mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

static bool is_dot(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Reads refs/ below `below` ("" or "pr/"). */
static void scan_refs(struct scan *s, const char *below, unsigned depth) {
    char path[MLXD_HUB_FILE_MAX];
    snprintf(path, sizeof path, "%s/refs/%s", s->repo.dir, below);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && s->n_refs < REFS_MAX && (e = readdir(dir));) {
        struct ref *r = &s->refs[s->n_refs];
        char name[MLXD_LIMIT_HUB_REVISION + 1];
        int n = snprintf(name, sizeof name, "%s%s", below, e->d_name);
        if (is_dot(e->d_name) || n < 0 || (size_t)n >= sizeof name ||
            !mlxd_hub_revision_ok(mlxd_slice_str(name)))
            continue;
        if (mlxd_hub_ref_read(&s->repo, name, r->commit, NULL) == MLXD_OK) {
            snprintf(r->name, sizeof r->name, "%.63s", name);
            s->n_refs++;
        } else if (depth < 3 && strlen(name) + 2 < sizeof name) {
            snprintf(name + n, sizeof name - (size_t)n, "/");
            scan_refs(s, name, depth + 1);
        }
    }
    if (dir)
        closedir(dir);
}

static mlxd_hub_model *add_model(struct scan *s, const char *commit) {
    mlxd_hub_models *out = s->out;
    if (out->count == out->cap) {
        size_t cap = out->cap ? 2 * out->cap : 16;
        mlxd_hub_model *more = mlxd_mem_resize(out->models, cap, sizeof *more);
        if (!more)
            return NULL;
        out->models = more;
        out->cap = cap;
    }
    mlxd_hub_model *m = &out->models[out->count++];
    *m = (mlxd_hub_model){.path = ""};
    snprintf(m->repo, sizeof m->repo, "%s", s->name);
    snprintf(m->commit, sizeof m->commit, "%s", commit);
    for (size_t i = 0; i < s->n_refs; i++)
        if (strcmp(s->refs[i].commit, commit) == 0) {
            size_t n = strlen(m->refs);
            snprintf(m->refs + n, sizeof m->refs - n, "%s%s", n ? ", " : "", s->refs[i].name);
        }
    return m;
}

/* Fills in what a loader would open, or why it would not. */
static mlxd_err describe(struct scan *s, mlxd_hub_model *m, const mlxd_hub_files *files,
                         const mlxd_hub_name *name) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_why why = {0};
    mlxd_hub_choice c = {.wanted = NULL};
    mlxd_err err = choose_whole(&s->repo, m->commit, files, name, &c, &why);
    m->whole = err == MLXD_OK;
    snprintf(m->missing, sizeof m->missing, "%.159s", why.text);
    const char *open = m->whole && c.open ? c.open : "";
    snprintf(path, sizeof path, "%s/snapshots/%s%s%s", s->repo.dir, m->commit, *open ? "/" : "",
             open);
    for (size_t i = 0; i < files->count; i++)
        if (!c.wanted || c.wanted[i]) {
            m->bytes += files->items[i].size;
            m->used_s = MLXD_MAX(m->used_s, files->items[i].used_s);
        }
    mlxd_hub_choice_deinit(&c);
    m->path = mlxd_arena_dup(s->out->arena, path, strlen(path));
    return m->path ? MLXD_OK : nomem(s->why);
}

static mlxd_err add_ggufs(struct scan *s, const char *commit, const mlxd_hub_files *files,
                          size_t *found) {
    mlxd_hub_gguf *all;
    mlxd_err err = mlxd_hub_ggufs(files, &all, found, s->why);
    for (size_t i = 0; i < *found && !err; i++) {
        mlxd_hub_name name = {.revision = "main"};
        mlxd_hub_model *m = add_model(s, commit);
        if (!m) {
            err = nomem(s->why);
            break;
        }
        snprintf(name.repo, sizeof name.repo, "%s", s->name);
        snprintf(name.file, sizeof name.file, "%s", all[i].first);
        snprintf(m->label, sizeof m->label, "%s", all[i].label);
        m->format = MLXD_HUB_GGUF;
        err = describe(s, m, files, &name);
        if (!err && !m->whole) {
            m->bytes = all[i].bytes;
        }
    }
    mlxd_mem_free(all);
    return err;
}

static mlxd_err scan_snapshot(struct scan *s, const char *commit) {
    mlxd_hub_files files;
    size_t found = 0;
    if (mlxd_hub_snapshot_read(&s->repo, commit, &files, NULL) != MLXD_OK)
        return MLXD_OK; /* not a folder, or not readable: nothing that could be named */
    mlxd_err err = add_ggufs(s, commit, &files, &found);
    if (!err && (found == 0 || mlxd_hub_has_safetensors(&files))) {
        mlxd_hub_name name = {.revision = "main"};
        mlxd_hub_model *m = add_model(s, commit);
        snprintf(name.repo, sizeof name.repo, "%s", s->name);
        if (m)
            m->format = MLXD_HUB_SAFETENSORS;
        err = m ? describe(s, m, &files, &name) : nomem(s->why);
    }
    mlxd_hub_files_deinit(&files);
    return err;
}

/* Unfinished blobs, of any program. */
static mlxd_err scan_leftovers(struct scan *s) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_hub_leftover left = {.files = 0};
    snprintf(path, sizeof path, "%s/blobs", s->repo.dir);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        char file[MLXD_HUB_FILE_MAX + 256];
        struct stat st;
        size_t len = strlen(e->d_name);
        snprintf(file, sizeof file, "%s/%.255s", path, e->d_name);
        if (len <= 11 || strcmp(e->d_name + len - 11, ".incomplete") != 0 ||
            lstat(file, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        left.files++;
        left.bytes += (uint64_t)st.st_size;
    }
    if (dir)
        closedir(dir);
    if (left.files == 0)
        return MLXD_OK;
    mlxd_hub_models *out = s->out;
    if (out->leftover_count == out->leftover_cap) {
        size_t cap = out->leftover_cap ? 2 * out->leftover_cap : 8;
        mlxd_hub_leftover *more = mlxd_mem_resize(out->leftovers, cap, sizeof *more);
        if (!more)
            return nomem(s->why);
        out->leftovers = more;
        out->leftover_cap = cap;
    }
    snprintf(left.repo, sizeof left.repo, "%s", s->name);
    out->leftovers[out->leftover_count++] = left;
    return MLXD_OK;
}

static mlxd_err scan_repo(struct scan *s, const char *folder) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_err err = MLXD_OK;
    if (!mlxd_hub_repo_name(folder, s->name))
        return MLXD_OK;
    mlxd_hub_repo_init(&s->repo, s->cache, s->name);
    s->n_refs = 0;
    scan_refs(s, "", 0);
    snprintf(path, sizeof path, "%s/snapshots", s->repo.dir);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && !err && (e = readdir(dir));)
        if (mlxd_hub_commit_ok(mlxd_slice_str(e->d_name)))
            err = scan_snapshot(s, e->d_name);
    if (dir)
        closedir(dir);
    return err ? err : scan_leftovers(s);
}

static int by_repo(const void *a, const void *b) {
    const mlxd_hub_model *x = a, *y = b;
    int order = strcmp(x->repo, y->repo);
    if (order == 0 && strcmp(x->commit, y->commit) != 0)
        order = x->used_s != y->used_s ? (x->used_s < y->used_s ? 1 : -1)
                                       : strcmp(x->commit, y->commit);
    return order ? order : strcmp(x->path, y->path);
}

mlxd_err mlxd_hub_models_read(const char *cache, mlxd_hub_models *out, mlxd_why *why) {
    *out = (mlxd_hub_models){.arena = mlxd_arena_open(MLXD_LIMIT_HUB_LISTING)};
    struct scan *s = mlxd_mem_new(1, sizeof *s);
    if (!out->arena || !s) {
        mlxd_mem_free(s);
        mlxd_hub_models_deinit(out);
        return nomem(why);
    }
    s->cache = cache;
    s->out = out;
    s->why = why;
    DIR *dir = opendir(cache);
    mlxd_err err = dir || errno == ENOENT
                       ? MLXD_OK
                       : mlxd_hub_io_error(cache, "cannot read the folder", errno, why);
    for (const struct dirent *e; dir && !err && (e = readdir(dir));)
        err = scan_repo(s, e->d_name);
    if (dir)
        closedir(dir);
    mlxd_mem_free(s);
    if (err)
        mlxd_hub_models_deinit(out);
    else if (out->count > 0)
        qsort(out->models, out->count, sizeof *out->models, by_repo);
    return err;
}

void mlxd_hub_models_deinit(mlxd_hub_models *m) {
    if (m->arena)
        mlxd_arena_close(m->arena);
    mlxd_mem_free(m->models);
    mlxd_mem_free(m->leftovers);
    *m = (mlxd_hub_models){.models = NULL};
}
