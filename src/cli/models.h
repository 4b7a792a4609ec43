/* models.h - the models that this machine can name: what the commands share that take a model.
 */
#ifndef MLXD_CLI_MODELS_H
#define MLXD_CLI_MODELS_H

#include "cli/options.h"
#include "hub/pull.h"

/* Pulls, with progress as the options want it, or as JSON lines on standard output (`events`).
 * Ctrl-C and SIGTERM interrupt it (CANCELLED); what has come is kept. */
mlxd_err mlxd_cli_pull(const mlxd_options *o, const mlxd_hub_settings *settings,
                       const mlxd_hub_name *name, bool events, mlxd_hub_pulled *out,
                       mlxd_why *why) MLXD_MUST_CHECK;

/* Replaces o->model, for the commands that take one, by a path: a path that exists stays; else it
 * is looked up as a name in the cache; else `run` and `serve` pull it, unless HF_HUB_OFFLINE is
 * set. o->model_name is what a person would call it, or "". */
mlxd_err mlxd_cli_locate(mlxd_options *o, unsigned command, mlxd_why *why) MLXD_MUST_CHECK;

#endif
