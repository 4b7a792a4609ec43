/* cli.h - what the subcommands share: how each is called, and how a failure ends the process. */
#ifndef MLXD_CLI_CLI_H
#define MLXD_CLI_CLI_H

#include "cli/options.h"

/* A row of the table in main.c. `run` returns the process's exit code. */
typedef struct mlxd_command {
    const char *name;
    unsigned bit;
    const char *summary; /* one line for `mlxd help` */
    const char *usage;   /* first lines of `mlxd NAME --help` */
    int (*run)(const mlxd_options *o);
} mlxd_command;

int mlxd_cmd_run(const mlxd_options *o);
int mlxd_cmd_serve(const mlxd_options *o);
int mlxd_cmd_worker(const mlxd_options *o);
int mlxd_cmd_plan(const mlxd_options *o);
int mlxd_cmd_bench(const mlxd_options *o);
int mlxd_cmd_pull(const mlxd_options *o);
int mlxd_cmd_ls(const mlxd_options *o);
int mlxd_cmd_rm(const mlxd_options *o);
int mlxd_cmd_inspect(const mlxd_options *o);
int mlxd_cmd_template(const mlxd_options *o);
int mlxd_cmd_certs(const mlxd_options *o);
int mlxd_cmd_healthcheck(const mlxd_options *o);
int mlxd_cmd_version(const mlxd_options *o);

/* "mlxd: <text>" on stderr; returns the exit code of `err`. */
int mlxd_cli_fail(mlxd_err err, const mlxd_why *why);
/* Log level and form from the options; `fallback` when none was given. CONFIG: unknown level. */
mlxd_err mlxd_cli_log(const mlxd_options *o, const char *fallback, mlxd_why *why) MLXD_MUST_CHECK;
/* Writes all of it to standard output and flushes; IO when that fails (a closed pipe, a full
 * disk). */
mlxd_err mlxd_cli_print(const void *data, size_t len, mlxd_why *why) MLXD_MUST_CHECK;

#endif
