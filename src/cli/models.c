/* models.c - see models.h. */
#include "cli/models.h"

#include "hub/resolve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* What people call it: the repository's name, with the quantization they asked for. */
static mlxd_err take(mlxd_options *o, const mlxd_hub_name *name, const char *path, mlxd_why *why) {
    const char *slash = strrchr(name->repo, '/');
    char text[MLXD_LIMIT_HUB_REPO + MLXD_LIMIT_HUB_TAG + 2];
    snprintf(text, sizeof text, "%s%s%s", slash ? slash + 1 : name->repo, name->tag[0] ? ":" : "",
             name->tag);
    o->model = mlxd_options_keep(o, path);
    o->model_name = mlxd_options_keep(o, text);
    return o->model && o->model_name ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

static mlxd_err find_or_pull(mlxd_options *o, unsigned command, const mlxd_hub_settings *settings,
                             const mlxd_hub_name *name, mlxd_why *why) {
    char path[MLXD_HUB_FILE_MAX];
    mlxd_hub_pulled pulled;
    mlxd_err err = mlxd_hub_resolve(settings->cache, name, path, why);
    bool pulls = (command & (MLXD_CMD_RUN | MLXD_CMD_SERVE)) && !settings->offline;
    if (err == MLXD_ERR_NOTFOUND && pulls) {
        err = mlxd_cli_pull(o, settings, name, false, &pulled, why);
        if (!err)
            snprintf(path, sizeof path, "%s", pulled.path);
    } else if (err == MLXD_ERR_NOTFOUND) {
        err = mlxd_fail_in(why, err, "%s", settings->offline ? "offline" : "not pulled yet");
    }
    return err ? err : take(o, name, path, why);
}

mlxd_err mlxd_cli_locate(mlxd_options *o, unsigned command, mlxd_why *why) {
    struct stat st;
    mlxd_hub_settings settings;
    mlxd_hub_name name;
    /* What is wrong with a path, the loader says. */
    if (!o->model[0] || strchr("/.~", o->model[0]) || stat(o->model, &st) == 0 || errno != ENOENT)
        return MLXD_OK;
    mlxd_err err = mlxd_hub_settings_read(&settings, why);
    if (err)
        return err;
    err = mlxd_hub_name_parse(&name, o->model, settings.endpoint, NULL);
    if (!err)
        err = find_or_pull(o, command, &settings, &name, why);
    else
        err = mlxd_fail(why, MLXD_ERR_NOTFOUND,
                        "%.200s: no such file, nor a model's name (org/name, org/name:Q4_K_M, "
                        "org/name/file.gguf)",
                        o->model);
    mlxd_hub_settings_deinit(&settings);
    return err;
}
