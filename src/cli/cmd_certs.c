/* cmd_certs.c - `mlxd certs init|node|show`: makes and lists the certificates of a cluster.
 *
 * Besides making the files it says where each of them belongs, because that is what goes wrong: a
 * node needs ca.crt and its own pair; ca.key stays where it was made.
 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "format/json.h"
#include "net/certs.h"
#include "net/certs_info.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
#define FILES_MAX 4096 /* certificates that `show` lists */

static int64_t now_s(void) {
    return (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S);
}

static mlxd_err join(char out[PATH_BYTES], const char *dir, const char *stem, const char *suffix,
                     mlxd_why *why) {
    int n = snprintf(out, PATH_BYTES, "%s/%s%s", dir, stem, suffix);
    if (n < 0 || n >= PATH_BYTES)
        return mlxd_fail(why, MLXD_ERR_USAGE, "--certs: the path is too long");
    return MLXD_OK;
}

static mlxd_err print(mlxd_buf *out, mlxd_why *why) {
    return out->failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                       : mlxd_cli_print(out->data, out->len, why);
}

/* "not_after": when it ends, for programs. */
static void write_time(mlxd_jsonw *w, const char *key, int64_t seconds) {
    char text[25];
    mlxd_clock_format((uint64_t)MLXD_MAX(seconds, (int64_t)0) * MLXD_NS_PER_S, text);
    mlxd_jsonw_member_str(w, key, text);
}

/* ---- init ---- */

static mlxd_err init(const mlxd_options *o, mlxd_buf *out, mlxd_why *why) {
    char crt[PATH_BYTES], key[PATH_BYTES], until[64];
    mlxd_certs_info info;
    mlxd_err err = join(crt, o->certs, "ca", ".crt", why);
    if (!err)
        err = join(key, o->certs, "ca", ".key", why);
    if (!err)
        err = mlxd_certs_init(o->certs, o->cluster, o->force, why);
    if (!err)
        err = mlxd_certs_info_read(&info, crt, why);
    if (err)
        return err;
    if (o->json) {
        mlxd_jsonw w;
        mlxd_jsonw_init(&w, out);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "cluster", o->cluster);
        mlxd_jsonw_member_str(&w, "ca", crt);
        mlxd_jsonw_member_str(&w, "ca_key", key);
        write_time(&w, "not_after", info.not_after);
        mlxd_jsonw_object_end(&w);
        mlxd_buf_add_byte(out, '\n');
        return MLXD_OK;
    }
    mlxd_certs_expiry_text(info.not_after, now_s(), until, sizeof until);
    mlxd_buf_addf(out, "made %s and %s: the CA of cluster %s, valid until %s\n", crt, key,
                  o->cluster, until);
    if (!o->quiet)
        mlxd_buf_addf(out,
                      "%s stays on this machine; every node needs %s\n\n"
                      "next, a certificate for each node:\n"
                      "  mlxd certs node --certs %s --device mini1 --role coordinator\n"
                      "  mlxd certs node --certs %s --device mini2 --role worker\n",
                      key, crt, o->certs, o->certs);
    return MLXD_OK;
}

/* ---- node ---- */

static void add_node_text(const mlxd_options *o, const mlxd_certs_info *info, mlxd_buf *out) {
    const mlxd_identity *id = &info->identity;
    const char *dir = o->certs;
    char until[64];
    mlxd_certs_expiry_text(info->not_after, now_s(), until, sizeof until);
    mlxd_buf_addf(out, "made %s/%s.crt and %s/%s.key: %s %s of cluster %s, valid until %s\n", dir,
                  id->device, dir, id->device, mlxd_role_name(id->role), id->device, id->cluster,
                  until);
    if (o->server_pair)
        mlxd_buf_addf(out, "the same as %s/server.crt and %s/server.key\n", dir, dir);
    if (o->quiet)
        return;
    mlxd_buf_addf(out, "\ncopy to %s, into one directory:\n  %s/ca.crt\n  %s/%s.crt\n  %s/%s.key",
                  id->device, dir, dir, id->device, dir, id->device);
    mlxd_buf_addf(out, "   (private: mode 600, over ssh)\n");
    if (id->role == MLXD_ROLE_OPERATOR)
        mlxd_buf_addf(out,
                      "there, for gRPC clients and for\n"
                      "  mlxd healthcheck --address HOST:PORT --device NODE --cert %s.crt "
                      "--key %s.key --ca ca.crt\n",
                      id->device, id->device);
    else
        mlxd_buf_addf(out, "there:\n  mlxd %s -m FILE --device %s --certs DIR\n",
                      id->role == MLXD_ROLE_WORKER ? "worker" : "serve", id->device);
}

static void add_node_json(const mlxd_options *o, const mlxd_certs_info *info, mlxd_buf *out) {
    const mlxd_identity *id = &info->identity;
    const struct {
        const char *key, *stem, *suffix;
    } files[] = {{"ca", "ca", ".crt"},
                 {"certificate", id->device, ".crt"},
                 {"key", id->device, ".key"},
                 {"server_certificate", "server", ".crt"},
                 {"server_key", "server", ".key"}};
    char path[PATH_BYTES];
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "cluster", id->cluster);
    mlxd_jsonw_member_str(&w, "device", id->device);
    mlxd_jsonw_member_str(&w, "role", mlxd_role_name(id->role));
    for (size_t i = 0; i < (o->server_pair ? 5u : 3u); i++) {
        (void)snprintf(path, sizeof path, "%s/%s%s", o->certs, files[i].stem, files[i].suffix);
        mlxd_jsonw_member_str(&w, files[i].key, path);
    }
    write_time(&w, "not_before", info->not_before);
    write_time(&w, "not_after", info->not_after);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

static mlxd_err node(const mlxd_options *o, mlxd_buf *out, mlxd_why *why) {
    char crt[PATH_BYTES];
    mlxd_certs_info info;
    mlxd_certs_node_options n = {.device = o->device,
                                 .hosts = o->hosts.items,
                                 .host_count = o->hosts.count,
                                 .days = (int)o->days,
                                 .server_pair = o->server_pair,
                                 .force = o->force};
    if (!o->device[0])
        return mlxd_fail(why, MLXD_ERR_USAGE, "no device: give --device ID");
    if (!o->role[0])
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "no role: give --role coordinator, worker or operator");
    if (!mlxd_role_parse(mlxd_slice_str(o->role), &n.role))
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "--role: expected coordinator, worker or operator, got \"%.40s\"",
                         o->role);
    mlxd_err err = join(crt, o->certs, o->device, ".crt", why);
    if (!err)
        err = mlxd_certs_node(o->certs, &n, why);
    if (!err)
        err = mlxd_certs_info_read(&info, crt, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail_in(why, err, "no CA to sign with (mlxd certs init makes it, once)");
    if (err)
        return err;
    if (o->json)
        add_node_json(o, &info, out);
    else
        add_node_text(o, &info, out);
    return MLXD_OK;
}

/* ---- show ---- */

struct list {
    char *names[FILES_MAX];
    size_t count;
};

/* One certificate of the directory and what is wrong with it. */
struct entry {
    const char *file;
    mlxd_certs_info info;
    bool has_key;
    mlxd_err err;
    mlxd_why why;
};

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mlxd_err list_files(const char *dir, struct list *list, mlxd_why *why) {
    struct dirent *e;
    mlxd_err err = MLXD_OK;
    DIR *d = opendir(dir);
    if (!d)
        return mlxd_fail(why, errno == EACCES ? MLXD_ERR_PERM : MLXD_ERR_NOTFOUND,
                         "cannot read directory %s: %s (mlxd certs init makes it)", dir,
                         strerror(errno));
    while (!err && (e = readdir(d))) {
        size_t len = strlen(e->d_name);
        if (len <= 4 || e->d_name[0] == '.' || strcmp(e->d_name + len - 4, ".crt") != 0)
            continue;
        if (list->count == FILES_MAX)
            err = mlxd_fail(why, MLXD_ERR_FULL, "%s has more than %d certificates", dir, FILES_MAX);
        else if (!(list->names[list->count] = mlxd_mem_dup_str(e->d_name)))
            err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
        else
            list->count++;
    }
    closedir(d);
    qsort(list->names, list->count, sizeof *list->names, by_name);
    return err;
}

/* A node's files are checked as the node itself would check them. */
static mlxd_err check_node(const char *dir, const char *crt, const char *stem, struct entry *e) {
    char ca[PATH_BYTES], key[PATH_BYTES];
    mlxd_certs_bundle b;
    mlxd_certs_info ca_info;
    mlxd_err err = join(ca, dir, "ca", ".crt", &e->why);
    if (!err)
        err = join(key, dir, stem, ".key", &e->why);
    if (!err)
        err = mlxd_certs_info_read(&ca_info, ca, &e->why);
    if (err)
        return err;
    err = mlxd_certs_load(&b, ca, crt, key, now_s(), &e->why);
    mlxd_certs_bundle_deinit(&b);
    /* The key may rightly be on its node only. */
    e->has_key = err != MLXD_ERR_NOTFOUND;
    return e->has_key ? err : MLXD_OK;
}

static void inspect(const char *dir, const char *name, struct entry *e) {
    char crt[PATH_BYTES], key[PATH_BYTES], stem[256], until[64];
    *e = (struct entry){.file = name};
    snprintf(stem, sizeof stem, "%.*s", (int)strlen(name) - 4, name);
    e->err = join(crt, dir, name, "", &e->why);
    if (!e->err)
        e->err = join(key, dir, stem, ".key", &e->why);
    if (!e->err)
        e->err = mlxd_certs_info_read(&e->info, crt, &e->why);
    if (e->err)
        return;
    int64_t now = now_s();
    if (now > e->info.not_after) {
        mlxd_certs_expiry_text(e->info.not_after, now, until, sizeof until);
        e->err = mlxd_fail(&e->why, MLXD_ERR_STATE, "%s expired on %s", crt, until);
        return;
    }
    if (e->info.is_ca) {
        FILE *f = fopen(key, "re");
        e->has_key = f != NULL;
        if (f)
            (void)fclose(f);
        return;
    }
    e->err = check_node(dir, crt, stem, e);
}

static void add_entry_text(const struct entry *e, mlxd_buf *out) {
    const mlxd_identity *id = &e->info.identity;
    char until[64] = "-";
    if (e->info.not_after)
        mlxd_certs_expiry_text(e->info.not_after, now_s(), until, sizeof until);
    mlxd_buf_addf(out, "%-20s  %-11s  %-16s  %-36s  %s\n", e->file,
                  e->info.is_ca ? "CA" : mlxd_role_name(id->role),
                  id->role ? id->device : e->info.name, until,
                  e->err          ? e->why.text
                  : e->has_key    ? "ok, with its key"
                  : e->info.is_ca ? "ok"
                                  : "key not here, not checked");
}

static void write_entry(const struct entry *e, mlxd_jsonw *w) {
    const mlxd_identity *id = &e->info.identity;
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "file", e->file);
    mlxd_jsonw_member_str(w, "role", e->info.is_ca ? "ca" : mlxd_role_name(id->role));
    mlxd_jsonw_member_str(w, "name", e->info.name);
    mlxd_jsonw_member_str(w, "cluster", id->role ? id->cluster : NULL);
    mlxd_jsonw_member_str(w, "device", id->role ? id->device : NULL);
    if (e->info.not_after) {
        write_time(w, "not_before", e->info.not_before);
        write_time(w, "not_after", e->info.not_after);
        mlxd_jsonw_member_int(w, "days_left", (e->info.not_after - now_s()) / 86400);
    }
    mlxd_jsonw_member_bool(w, "key", e->has_key);
    mlxd_jsonw_member_bool(w, "ok", !e->err);
    if (e->err)
        mlxd_jsonw_member_str(w, "why", e->why.text);
    mlxd_jsonw_object_end(w);
}

/* Lists all; *bad is the first problem, which becomes the exit code. */
static void add_entries(const mlxd_options *o, const struct list *list, mlxd_buf *out,
                        mlxd_err *bad) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    if (o->json) {
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "directory", o->certs);
        mlxd_jsonw_key(&w, "certificates");
        mlxd_jsonw_array_begin(&w);
    } else {
        mlxd_buf_addf(out, "%-20s  %-11s  %-16s  %-36s  %s\n", "file", "role", "name",
                      "valid until", "state");
    }
    for (size_t i = 0; i < list->count; i++) {
        struct entry e;
        inspect(o->certs, list->names[i], &e);
        *bad = *bad ? *bad : e.err;
        if (o->json)
            write_entry(&e, &w);
        else
            add_entry_text(&e, out);
    }
    if (o->json) {
        mlxd_jsonw_array_end(&w);
        mlxd_jsonw_object_end(&w);
        mlxd_buf_add_byte(out, '\n');
    }
}

static mlxd_err show(const mlxd_options *o, mlxd_buf *out, mlxd_err *bad, mlxd_why *why) {
    struct list *list = mlxd_mem_new(1, sizeof *list);
    if (!list)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_err err = list_files(o->certs, list, why);
    if (!err && list->count == 0)
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND,
                        "%s has no certificates (mlxd certs init makes the CA)", o->certs);
    if (!err)
        add_entries(o, list, out, bad);
    for (size_t i = 0; i < list->count; i++)
        mlxd_mem_free(list->names[i]);
    mlxd_mem_free(list);
    return err;
}

int mlxd_cmd_certs(const mlxd_options *o) {
    const char *what = o->n_args > 0 ? o->args[0] : "";
    mlxd_why why = {0};
    mlxd_buf out;
    mlxd_err err, bad = MLXD_OK;
    mlxd_buf_init(&out, 0);
    if (o->n_args > 1)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[1]);
    else if (strcmp(what, "init") == 0)
        err = init(o, &out, &why);
    else if (strcmp(what, "node") == 0)
        err = node(o, &out, &why);
    else if (strcmp(what, "show") == 0)
        err = show(o, &out, &bad, &why);
    else
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "expected init, node or show%s%.40s%s",
                        *what ? ", got \"" : "", what, *what ? "\"" : "");
    if (!err)
        err = print(&out, &why);
    mlxd_buf_deinit(&out);
    return err ? mlxd_cli_fail(err, &why) : mlxd_err_get(bad)->exit_code;
}
