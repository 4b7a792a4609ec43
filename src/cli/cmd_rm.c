/* cmd_rm.c - `mlxd rm`: a model out of the cache. */
#include "cli/cli.h"

#include "cli/pull_view.h"
#include "format/json.h"
#include "hub/remove.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Asks on the terminal; without one, --yes must say so. */
static mlxd_err ask(const char *name, const mlxd_hub_removal_sum *sum, mlxd_why *why) {
    char size[16], answer[16];
    mlxd_cli_bytes(sum->bytes, size);
    if (!isatty(STDIN_FILENO))
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "%s: would free %s; say --yes to do so without a terminal", name, size);
    fprintf(stderr, "remove %s (%zu files, frees %s)? [y/N] ", name, sum->files, size);
    if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y'))
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_CANCELLED, "nothing removed");
}

static mlxd_err report(const mlxd_options *o, const char *name, const mlxd_hub_removal_sum *sum,
                       mlxd_why *why) {
    char size[16], kept[16];
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    mlxd_cli_bytes(sum->bytes, size);
    mlxd_cli_bytes(sum->kept, kept);
    if (o->json) {
        mlxd_jsonw_init(&w, &out);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "removed", name);
        mlxd_jsonw_member_uint(&w, "files", sum->files);
        mlxd_jsonw_member_uint(&w, "revisions", sum->revisions);
        mlxd_jsonw_member_uint(&w, "freed", sum->bytes);
        mlxd_jsonw_member_uint(&w, "kept", sum->kept);
        mlxd_jsonw_object_end(&w);
        mlxd_buf_add_byte(&out, '\n');
    } else if (!o->quiet) {
        mlxd_buf_addf(&out, "removed %s: %zu files, %s freed", name, sum->files, size);
        if (sum->kept > 0)
            mlxd_buf_addf(&out, "; %s stay, another revision uses them", kept);
        mlxd_buf_add_byte(&out, '\n');
    }
    mlxd_err err = out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_cli_print(out.data, out.len, why);
    mlxd_buf_deinit(&out);
    return err;
}

int mlxd_cmd_rm(const mlxd_options *o) {
    mlxd_hub_settings settings = {.token = ""};
    mlxd_hub_removal *r = NULL;
    mlxd_hub_name name;
    mlxd_why why = {0};
    char text[320] = "";
    mlxd_err err = MLXD_OK;
    if (o->n_args != 1)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "expected one model name, got %zu", o->n_args);
    if (!err)
        err = mlxd_hub_settings_read(&settings, &why);
    if (!err)
        err = mlxd_hub_name_parse(&name, o->args[0], settings.endpoint, &why);
    if (!err) {
        mlxd_hub_name_format(&name, text, sizeof text);
        err = mlxd_hub_removal_open(&r, settings.cache, &name, &why);
    }
    if (!err && !o->yes)
        err = ask(text, mlxd_hub_removal_get(r), &why);
    if (!err)
        err = mlxd_hub_removal_run(r, &why);
    if (!err)
        err = report(o, text, mlxd_hub_removal_get(r), &why);
    mlxd_hub_removal_close(r);
    mlxd_hub_settings_deinit(&settings);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
