/* cmd_ls.c - `mlxd ls`: the models in the cache. */
#include "cli/cli.h"

#include "base/clock.h"
#include "cli/pull_view.h"
#include "format/json.h"
#include "hub/resolve.h"

#include <stdio.h>
#include <string.h>

/* "3 days ago" */
static void format_age(uint64_t used_s, char out[24]) {
    static const struct {
        uint64_t seconds;
        const char *name;
    } units[] = {{86400 * 365, "year"},
                 {86400 * 30, "month"},
                 {86400, "day"},
                 {3600, "hour"},
                 {60, "minute"}};
    uint64_t now = mlxd_clock_wall_ns() / MLXD_NS_PER_S, age = now > used_s ? now - used_s : 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(units); i++) {
        unsigned n = (unsigned)MLXD_MIN(age / units[i].seconds, (uint64_t)999);
        if (n > 0) {
            snprintf(out, 24, "%u %s%s ago", n, units[i].name, n > 1 ? "s" : "");
            return;
        }
    }
    snprintf(out, 24, "just now");
}

/* What `-m` takes: org/name, with a quantization when the name alone may mean another model. */
static void format_name(const mlxd_hub_model *m, char *out, size_t size) {
    snprintf(out, size, "%s%s%s%s", strchr(m->repo, '/') ? "" : "hf://", m->repo,
             m->label[0] ? ":" : "", m->label);
}

static void format_revision(const mlxd_hub_model *m, char *out, size_t size) {
    snprintf(out, size, "%.8s%s%.40s%s", m->commit, m->refs[0] ? " (" : "", m->refs,
             m->refs[0] ? ")" : "");
}

static const char *format_of(const mlxd_hub_model *m) {
    return m->format == MLXD_HUB_GGUF ? "gguf" : "safetensors";
}

static void write_json(mlxd_buf *out, const mlxd_hub_models *all, const char *cache) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "cache", cache);
    mlxd_jsonw_key(&w, "models");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < all->count; i++) {
        const mlxd_hub_model *m = &all->models[i];
        char name[320];
        format_name(m, name, sizeof name);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "name", name);
        mlxd_jsonw_member_str(&w, "repo", m->repo);
        mlxd_jsonw_member_str(&w, "commit", m->commit);
        mlxd_jsonw_member_str(&w, "refs", m->refs);
        mlxd_jsonw_member_str(&w, "format", format_of(m));
        mlxd_jsonw_member_str(&w, "quantization", m->label[0] ? m->label : NULL);
        mlxd_jsonw_member_uint(&w, "bytes", m->bytes);
        mlxd_jsonw_member_uint(&w, "used", m->used_s);
        mlxd_jsonw_member_bool(&w, "complete", m->whole);
        mlxd_jsonw_member_str(&w, "missing", m->whole ? NULL : m->missing);
        mlxd_jsonw_member_str(&w, "path", m->path);
        mlxd_jsonw_object_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key(&w, "unfinished");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < all->leftover_count; i++) {
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "repo", all->leftovers[i].repo);
        mlxd_jsonw_member_uint(&w, "files", all->leftovers[i].files);
        mlxd_jsonw_member_uint(&w, "bytes", all->leftovers[i].bytes);
        mlxd_jsonw_object_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

static void write_table(mlxd_buf *out, const mlxd_hub_models *all) {
    int wide = 4;
    char name[320], revision[80], size[16], age[24];
    for (size_t i = 0; i < all->count; i++) {
        format_name(&all->models[i], name, sizeof name);
        wide = MLXD_MAX(wide, (int)strlen(name));
    }
    if (all->count > 0)
        mlxd_buf_addf(out, "%-*s  %-24s %-11s %10s  %s\n", wide, "NAME", "REVISION", "FORMAT",
                      "SIZE", "USED");
    for (size_t i = 0; i < all->count; i++) {
        const mlxd_hub_model *m = &all->models[i];
        format_name(m, name, sizeof name);
        format_revision(m, revision, sizeof revision);
        mlxd_cli_bytes(m->bytes, size);
        format_age(m->used_s, age);
        mlxd_buf_addf(out, "%-*s  %-24s %-11s %10s  %s%s%s\n", wide, name, revision, format_of(m),
                      size, age, m->whole ? "" : "; incomplete: ", m->whole ? "" : m->missing);
    }
    for (size_t i = 0; i < all->leftover_count; i++) {
        mlxd_cli_bytes(all->leftovers[i].bytes, size);
        mlxd_buf_addf(out, "%s: %zu unfinished file%s, %s (`mlxd pull` goes on with it)\n",
                      all->leftovers[i].repo, all->leftovers[i].files,
                      all->leftovers[i].files > 1 ? "s" : "", size);
    }
}

int mlxd_cmd_ls(const mlxd_options *o) {
    mlxd_hub_settings settings = {.token = ""};
    mlxd_hub_models all = {.count = 0};
    mlxd_why why = {0};
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    mlxd_err err = MLXD_OK;
    if (o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err)
        err = mlxd_hub_settings_read(&settings, &why);
    if (!err)
        err = mlxd_hub_models_read(settings.cache, &all, &why);
    if (!err && o->json)
        write_json(&out, &all, settings.cache);
    else if (!err && all.count + all.leftover_count == 0)
        mlxd_buf_addf(&out, "no models in %s; `mlxd pull org/name` fetches one\n", settings.cache);
    else if (!err)
        write_table(&out, &all);
    if (!err && out.failed)
        err = mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory");
    if (!err)
        err = mlxd_cli_print(out.data, out.len, &why);
    mlxd_buf_deinit(&out);
    mlxd_hub_models_deinit(&all);
    mlxd_hub_settings_deinit(&settings);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
