/* cmd_pull.c - `mlxd pull`: a model from the hub into the cache. */
#include "cli/cli.h"

#include "cli/models.h"
#include "cli/pull_view.h"
#include "format/json.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static bool tick(void *ctx, const mlxd_hub_progress *p) {
    mlxd_pull_view_show(ctx, p);
    return !interrupted;
}

mlxd_err mlxd_cli_pull(const mlxd_options *o, const mlxd_hub_settings *settings,
                       const mlxd_hub_name *name, bool events, mlxd_hub_pulled *out,
                       mlxd_why *why) {
    mlxd_pull_view view;
    mlxd_pull_view_init(&view, o->quiet, events);
    mlxd_hub_pull_params p = {.settings = settings,
                              .name = name,
                              .patterns = o->files.items,
                              .n_patterns = o->files.count,
                              .connections = (unsigned)o->connections,
                              .tick = tick,
                              .ctx = &view};
    struct sigaction sa = {.sa_handler = on_interrupt}, old_int, old_term;
    interrupted = 0;
    sigaction(SIGINT, &sa, &old_int);
    sigaction(SIGTERM, &sa, &old_term);
    mlxd_err err = mlxd_hub_pull(&p, out, why);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    mlxd_pull_view_deinit(&view);
    return err;
}

static mlxd_err print_result(const mlxd_options *o, const mlxd_hub_name *name,
                             const mlxd_hub_pulled *r, mlxd_why *why) {
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    if (o->json) {
        mlxd_jsonw_init(&w, &out);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "event", "done");
        mlxd_jsonw_member_str(&w, "repo", name->repo);
        mlxd_jsonw_member_str(&w, "revision", name->revision);
        mlxd_jsonw_member_str(&w, "commit", r->commit);
        mlxd_jsonw_member_str(&w, "path", r->path);
        mlxd_jsonw_member_uint(&w, "files", r->files);
        mlxd_jsonw_member_uint(&w, "bytes", r->bytes);
        mlxd_jsonw_member_uint(&w, "fetched", r->fetched);
        mlxd_jsonw_object_end(&w);
    } else {
        mlxd_buf_add_str(&out, r->path);
    }
    mlxd_buf_add_byte(&out, '\n');
    mlxd_err err = out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_cli_print(out.data, out.len, why);
    mlxd_buf_deinit(&out);
    return err;
}

int mlxd_cmd_pull(const mlxd_options *o) {
    mlxd_hub_settings settings = {.token = ""};
    mlxd_hub_name name;
    mlxd_hub_pulled result;
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    if (!err && o->n_args != 1)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "expected one model name, got %zu", o->n_args);
    if (!err)
        err = mlxd_hub_settings_read(&settings, &why);
    if (!err)
        err = mlxd_hub_name_parse(&name, o->args[0], settings.endpoint, &why);
    if (!err)
        err = mlxd_cli_pull(o, &settings, &name, o->json, &result, &why);
    mlxd_hub_settings_deinit(&settings);
    if (!err && !o->quiet && !o->json) {
        char all[16], fetched[16];
        mlxd_cli_bytes(result.bytes, all);
        mlxd_cli_bytes(result.fetched, fetched);
        fprintf(stderr, "%s: %zu files, %s, of which %s were fetched\n", name.repo, result.files,
                all, fetched);
    }
    if (!err)
        err = print_result(o, &name, &result, &why);
    if (err == MLXD_ERR_CANCELLED) {
        fprintf(stderr, "mlxd: interrupted; what has come is kept, the same command goes on\n");
        return 130;
    }
    return err ? mlxd_cli_fail(err, &why) : 0;
}
