/* cmd_version.c - `mlxd version`. */
#include "cli/cli.h"

#include "base/mem.h"
#include "format/json.h"
#include "kernel/kernel.h"

int mlxd_cmd_version(const mlxd_options *o) {
    mlxd_buf out;
    mlxd_why why = {0};
    const char *isa = mlxd_kernels_at(mlxd_kernels_count() - 1)->isa;
    if (o->n_args > 0)
        return mlxd_cli_fail(
            mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]), &why);
    mlxd_buf_init(&out, 0);
    if (o->json) {
        mlxd_jsonw w;
        mlxd_jsonw_init(&w, &out);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "version", MLXD_VERSION);
        mlxd_jsonw_member_str(&w, "commit", MLXD_COMMIT);
        mlxd_jsonw_member_str(&w, "isa", isa);
        mlxd_jsonw_object_end(&w);
        mlxd_buf_add_byte(&out, '\n');
    } else {
        mlxd_buf_addf(&out, "mlxd %s (%s), kernels: %s\n", MLXD_VERSION, MLXD_COMMIT, isa);
    }
    mlxd_err err = mlxd_cli_print(out.data, out.len, &why);
    mlxd_buf_deinit(&out);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
