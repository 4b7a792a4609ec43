/* pull.c - see pull.h. Workers take the next file from one list under one mutex; the caller's
 * thread looks at their states ten times a second. */
#include "hub/pull.h"

#include "base/clock.h"
#include "base/thread.h"
#include "format/json.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TICK_NS (100 * MLXD_NS_PER_MS)
#define ROOM_SPARE (1u << 20) /* for folders and links */

struct pull {
    const mlxd_hub_pull_params *p;
    mlxd_hub_pulled *out;
    mlxd_hub_repo repo;
    mlxd_hub_conn *conn; /* of the calling thread */
    mlxd_hub_files files;
    mlxd_hub_choice choice;
    const mlxd_hub_file **wanted; /* owned */
    mlxd_hub_state *states;       /* owned; under `lock` while workers run */
    mlxd_hub_state *seen;         /* owned; the copy that the caller looks at */
    size_t count;
    mlxd_mutex lock;
    mlxd_cond changed;
    size_t next, running; /* under `lock` */
    mlxd_err err;         /* under `lock`: the first failure */
    mlxd_why why;
    atomic_bool stop;
};

/* ---- list of files ---- */

static bool tick_alone(void *ctx) {
    struct pull *u = ctx;
    return !u->p->tick || u->p->tick(u->p->ctx, NULL);
}

static mlxd_err get(struct pull *u, mlxd_buf *url, mlxd_buf *out, mlxd_hub_reply *reply,
                    mlxd_why *why) {
    if (url->failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    return mlxd_hub_get_small(u->conn, mlxd_buf_str(url), tick_alone, u, out, reply, why);
}

static void begin_url(struct pull *u, mlxd_buf *url, const char *between) {
    mlxd_buf_clear(url);
    mlxd_buf_add_str(url, u->p->settings->endpoint);
    mlxd_buf_add_str(url, between);
    mlxd_hub_url_add(url, u->p->name->repo, true);
}

static mlxd_err read_commit(struct pull *u, mlxd_slice json, mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_slice sha;
    mlxd_err err = mlxd_json_parse(&doc, json, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_NOMEM ? err : MLXD_ERR_PROTO, "the hub's answer");
    const mlxd_json *root = mlxd_json_root(doc);
    const mlxd_json *v =
        mlxd_json_get_kind(root) == MLXD_JSON_OBJECT ? mlxd_json_find(root, "sha") : NULL;
    if (!v || mlxd_json_get_str(v, &sha) || !mlxd_hub_commit_ok(sha))
        err = mlxd_fail(why, MLXD_ERR_PROTO, "the hub's answer names no commit");
    else
        memcpy(u->out->commit, sha.data, sha.len + 1);
    mlxd_json_close(doc);
    return err;
}

static mlxd_err find_commit(struct pull *u, mlxd_buf *url, mlxd_buf *body, mlxd_why *why) {
    mlxd_hub_reply reply;
    begin_url(u, url, "/api/models/");
    mlxd_buf_add_str(url, "/revision/");
    mlxd_hub_url_add(url, u->p->name->revision, false);
    mlxd_err err = get(u, url, body, &reply, why);
    if (err == MLXD_ERR_NOTFOUND && strcmp(reply.error_code, "RevisionNotFound") == 0)
        return mlxd_fail(why, err, "the hub has no revision \"%.100s\" of it (404)",
                         u->p->name->revision);
    return err ? err : read_commit(u, (mlxd_slice){body->data, body->len}, why);
}

static mlxd_err list_files(struct pull *u, mlxd_why *why) {
    mlxd_buf url, body;
    mlxd_hub_reply reply;
    char next[sizeof reply.link];
    mlxd_buf_init(&url, 1u << 16);
    mlxd_buf_init(&body, MLXD_LIMIT_HUB_REPLY);
    mlxd_err err = find_commit(u, &url, &body, why);
    if (!err)
        err = mlxd_hub_files_init(&u->files, why);
    begin_url(u, &url, "/api/models/");
    mlxd_buf_addf(&url, "/tree/%s?recursive=true", u->out->commit);
    for (unsigned page = 0; !err; page++) {
        if (page == MLXD_LIMIT_HUB_PAGES)
            err = mlxd_fail(why, MLXD_ERR_PROTO, "the hub's list of files has more than %u pages",
                            MLXD_LIMIT_HUB_PAGES);
        if (!err)
            err = get(u, &url, &body, &reply, why);
        if (!err)
            err = mlxd_hub_files_add_page(&u->files, (mlxd_slice){body.data, body.len}, why);
        if (err || !mlxd_hub_link_next(reply.link, next, sizeof next))
            break;
        if (strcmp(next, mlxd_buf_str(&url)) == 0)
            err = mlxd_fail(why, MLXD_ERR_PROTO,
                            "the hub's list of files names a page as the one after itself");
        mlxd_buf_clear(&url);
        mlxd_buf_add_str(&url, next);
    }
    mlxd_buf_deinit(&url);
    mlxd_buf_deinit(&body);
    return err ? err : mlxd_hub_files_sort(&u->files, why);
}

/* ---- fetching ---- */

struct worker {
    struct pull *u;
    mlxd_hub_conn *conn;
    mlxd_thread thread;
    size_t at; /* the file it fetches */
};

static void on_state(void *ctx, const mlxd_hub_state *state) {
    struct worker *w = ctx;
    mlxd_mutex_lock(&w->u->lock);
    w->u->states[w->at] = *state;
    mlxd_mutex_unlock(&w->u->lock);
}

static bool on_more(void *ctx) {
    struct worker *w = ctx;
    return !atomic_load(&w->u->stop);
}

static mlxd_err fetch_one(struct worker *w, const mlxd_hub_file *file, mlxd_why *why) {
    struct pull *u = w->u;
    mlxd_buf url;
    mlxd_buf_init(&url, 1u << 16);
    begin_url(u, &url, "/");
    mlxd_buf_addf(&url, "/resolve/%s/", u->out->commit);
    mlxd_hub_url_add(&url, file->path, true);
    mlxd_hub_fetch f = {.repo = &u->repo,
                        .file = file,
                        .url = mlxd_buf_str(&url),
                        .tell = on_state,
                        .more = on_more,
                        .ctx = w};
    mlxd_err err = url.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_hub_fetch_run(w->conn, &f, why);
    mlxd_buf_deinit(&url);
    return err ? mlxd_fail_in(why, err, "%.200s", file->path) : MLXD_OK;
}

static void work(void *arg) {
    struct worker *w = arg;
    struct pull *u = w->u;
    mlxd_mutex_lock(&u->lock);
    while (u->next < u->count && !u->err && !atomic_load(&u->stop)) {
        mlxd_why why = {0};
        w->at = u->next++;
        mlxd_mutex_unlock(&u->lock);
        mlxd_err err = fetch_one(w, u->wanted[w->at], &why);
        mlxd_mutex_lock(&u->lock);
        if (err && (!u->err || u->err == MLXD_ERR_CANCELLED)) {
            u->err = err;
            u->why = why;
        }
        if (err)
            atomic_store(&u->stop, true);
    }
    u->running--;
    mlxd_cond_signal(&u->changed);
    mlxd_mutex_unlock(&u->lock);
}

/* Shows the caller how far it is; with `lock` held, which is let go meanwhile. */
static void show(struct pull *u) {
    mlxd_hub_progress p = {.repo = u->p->name->repo,
                           .commit = u->out->commit,
                           .count = u->count,
                           .files = u->wanted,
                           .states = u->seen,
                           .bytes_total = u->out->bytes};
    memcpy(u->seen, u->states, u->count * sizeof *u->seen);
    for (size_t i = 0; i < u->count; i++)
        p.bytes_done += u->seen[i].done;
    mlxd_mutex_unlock(&u->lock);
    if (u->p->tick && !u->p->tick(u->p->ctx, &p))
        atomic_store(&u->stop, true);
    mlxd_mutex_lock(&u->lock);
}

static mlxd_err fetch_all(struct pull *u, mlxd_why *why) {
    struct worker workers[MLXD_LIMIT_HUB_CONNECTIONS];
    unsigned n = 0, most = (unsigned)MLXD_MIN((size_t)u->p->connections, u->count);
    mlxd_err err = MLXD_OK;
    for (; n < most && !err; n++) {
        struct worker *w = &workers[n];
        *w = (struct worker){.u = u};
        err = mlxd_hub_conn_open(&w->conn, u->p->settings, why);
        if (err)
            break;
        mlxd_mutex_lock(&u->lock);
        u->running++;
        mlxd_mutex_unlock(&u->lock);
        if (mlxd_thread_start(&w->thread, "pull", MLXD_PRIORITY_NORMAL, work, w) == MLXD_OK)
            continue;
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "cannot start a thread");
        mlxd_hub_conn_close(w->conn);
        mlxd_mutex_lock(&u->lock);
        u->running--;
        mlxd_mutex_unlock(&u->lock);
        break;
    }
    mlxd_mutex_lock(&u->lock);
    if (err)
        atomic_store(&u->stop, true);
    while (u->running > 0) {
        show(u);
        if (u->running > 0)
            (void)mlxd_cond_wait_until(&u->changed, &u->lock, mlxd_clock_now_ns() + TICK_NS);
    }
    show(u);
    mlxd_mutex_unlock(&u->lock);
    for (unsigned i = 0; i < n; i++) {
        mlxd_thread_join(&workers[i].thread);
        mlxd_hub_conn_close(workers[i].conn);
    }
    if (err || !u->err)
        return err                     ? err
               : atomic_load(&u->stop) ? mlxd_fail(why, MLXD_ERR_CANCELLED, "interrupted")
                                       : MLXD_OK;
    if (why)
        *why = u->why;
    return u->err;
}

/* ---- which ones, and is there room ---- */

static mlxd_err load_blob(struct pull *u, const mlxd_hub_file *f, mlxd_buf *out, mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    snprintf(path, sizeof path, "%s/blobs/%s", u->repo.dir, f->digest);
    return mlxd_hub_file_load(path, out, why);
}

/* Fetches the index, by which the shards are chosen. */
static mlxd_err choose_shards(struct pull *u, mlxd_why *why) {
    mlxd_hub_state state = {0};
    mlxd_buf json;
    const mlxd_hub_file *index = u->choice.index;
    if (index->size > MLXD_LIMIT_HUB_INDEX)
        return mlxd_fail(why, MLXD_ERR_FULL, "%.100s: larger than %u bytes", index->path,
                         MLXD_LIMIT_HUB_INDEX);
    u->states = &state;
    struct worker w = {.u = u, .conn = u->conn};
    mlxd_err err = fetch_one(&w, index, why);
    u->states = NULL;
    mlxd_buf_init(&json, MLXD_LIMIT_HUB_INDEX);
    if (!err)
        err = load_blob(u, index, &json, why);
    if (!err)
        err = mlxd_hub_choose_shards(&u->choice, &u->files, (mlxd_slice){json.data, json.len}, why);
    mlxd_buf_deinit(&json);
    if (!err && state.status == MLXD_HUB_DONE)
        u->out->fetched += index->size;
    return err;
}

static mlxd_err collect(struct pull *u, mlxd_why *why) {
    u->wanted = mlxd_mem_new(u->files.count + 1, sizeof(const mlxd_hub_file *));
    for (size_t i = 0; u->wanted && i < u->files.count; i++)
        if (u->choice.wanted[i])
            u->wanted[u->count++] = &u->files.items[i];
    u->states = mlxd_mem_new(u->count + 1, sizeof *u->states);
    u->seen = mlxd_mem_new(u->count + 1, sizeof *u->seen);
    if (!u->wanted || !u->states || !u->seen)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < u->count; i++)
        if (!mlxd_add_u64(u->out->bytes, u->wanted[i]->size, &u->out->bytes))
            return mlxd_fail(why, MLXD_ERR_DATA, "the files' sizes are too large to add");
    u->out->files = u->count;
    return MLXD_OK;
}

static uint64_t file_bytes(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

static mlxd_err check_room(struct pull *u, mlxd_why *why) {
    struct statvfs fs;
    uint64_t need = 0, have;
    for (size_t i = 0; i < u->count; i++) {
        char path[MLXD_HUB_FILE_MAX];
        snprintf(path, sizeof path, "%s/blobs/%s", u->repo.dir, u->wanted[i]->digest);
        uint64_t there = file_bytes(path);
        strncat(path, MLXD_HUB_PARTIAL, sizeof path - strlen(path) - 1);
        there = MLXD_MAX(there, file_bytes(path));
        need += u->wanted[i]->size - MLXD_MIN(there, u->wanted[i]->size);
    }
    if (need == 0)
        return MLXD_OK;
    if (statvfs(u->repo.dir, &fs) != 0 || !mlxd_mul_u64(fs.f_bavail, fs.f_frsize, &have))
        return MLXD_OK; /* a file system that cannot say: writing will tell */
    if (need + ROOM_SPARE <= have)
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_FULL,
                     "%llu MiB are missing, %.300s has room for %llu MiB: free some (`mlxd ls`, "
                     "`mlxd rm`), or set HF_HUB_CACHE to another disk",
                     (unsigned long long)(need >> 20) + 1, u->p->settings->cache,
                     (unsigned long long)(have >> 20));
}

/* ---- making it visible ---- */

/* What a loader looks for comes last. */
static bool is_last(const struct pull *u, const mlxd_hub_file *f) {
    return f == u->choice.index || strcmp(f->path, "config.json") == 0 ||
           (u->choice.open && strcmp(f->path, u->choice.open) == 0);
}

static mlxd_err publish(struct pull *u, mlxd_why *why) {
    const char *commit = u->out->commit;
    mlxd_err err = MLXD_OK;
    for (int last = 0; last < 2; last++)
        for (size_t i = 0; i < u->count && !err; i++)
            if (is_last(u, u->wanted[i]) == (last == 1))
                err = mlxd_hub_snapshot_link(&u->repo, commit, u->wanted[i]->path,
                                             u->wanted[i]->digest, why);
    if (!err && strcmp(u->p->name->revision, commit) != 0)
        err = mlxd_hub_ref_write(&u->repo, u->p->name->revision, commit, why);
    const char *open = u->choice.open;
    snprintf(u->out->path, sizeof u->out->path, "%s/snapshots/%s%s%s", u->repo.dir, commit,
             open ? "/" : "", open ? open : "");
    return err;
}

static mlxd_err pull_locked(struct pull *u, mlxd_why *why) {
    mlxd_err err = u->choice.index ? choose_shards(u, why) : MLXD_OK;
    if (!err)
        err = collect(u, why);
    if (!err)
        err = check_room(u, why);
    if (!err)
        err = fetch_all(u, why);
    for (size_t i = 0; i < u->count && !err; i++)
        if (u->states[i].status == MLXD_HUB_DONE)
            u->out->fetched += u->states[i].done - u->states[i].resumed;
    return err ? err : publish(u, why);
}

static mlxd_err pull(struct pull *u, mlxd_why *why) {
    int lock = -1;
    mlxd_err err = mlxd_hub_conn_open(&u->conn, u->p->settings, why);
    if (!err)
        err = list_files(u, why);
    if (err)
        return mlxd_fail_in(why, err, "%.200s", u->p->name->repo);
    err = mlxd_hub_choose(&u->choice, &u->files, u->p->name, u->p->patterns, u->p->n_patterns, why);
    if (!err)
        err = mlxd_hub_make_dirs(u->repo.dir, why);
    if (!err)
        err = mlxd_hub_lock(&u->repo, "mlxd", true, &lock, why);
    if (err == MLXD_ERR_AGAIN)
        err = mlxd_fail(why, err, "%.200s is being removed by another process", u->p->name->repo);
    if (err)
        return err;
    err = pull_locked(u, why);
    close(lock);
    return err ? mlxd_fail_in(why, err, "%.200s", u->p->name->repo) : MLXD_OK;
}

mlxd_err mlxd_hub_pull(const mlxd_hub_pull_params *p, mlxd_hub_pulled *out, mlxd_why *why) {
    MLXD_ASSERT(p->connections >= 1 && p->connections <= MLXD_LIMIT_HUB_CONNECTIONS);
    struct pull u = {.p = p, .out = out};
    *out = (mlxd_hub_pulled){.path = ""};
    if (p->settings->offline)
        return mlxd_fail(why, MLXD_ERR_STATE,
                         "%.200s: nothing is fetched while HF_HUB_OFFLINE is "
                         "set",
                         p->name->repo);
    mlxd_hub_repo_init(&u.repo, p->settings->cache, p->name->repo);
    mlxd_mutex_init(&u.lock);
    mlxd_cond_init(&u.changed);
    mlxd_err err = pull(&u, why);
    mlxd_cond_deinit(&u.changed);
    mlxd_mutex_deinit(&u.lock);
    mlxd_hub_conn_close(u.conn);
    mlxd_hub_choice_deinit(&u.choice);
    mlxd_hub_files_deinit(&u.files);
    mlxd_mem_free(u.wanted);
    mlxd_mem_free(u.states);
    mlxd_mem_free(u.seen);
    return err;
}
