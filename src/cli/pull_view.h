/* pull_view.h - how far a pull is, for whoever looks:
 *
 *     a terminal      a bar for each file that is being fetched, and one for all of them
 *     a log           a line for each file, and one every ten seconds
 *     --json          JSON lines on standard output: plan, progress, retry, file, done
 *
 * Everything but JSON goes to standard error.
 */
#ifndef MLXD_CLI_PULL_VIEW_H
#define MLXD_CLI_PULL_VIEW_H

#include "hub/pull.h"

#define MLXD_PULL_RATE_SLOTS 32

typedef struct mlxd_pull_view {
    bool quiet, json, terminal;
    bool begun;
    unsigned drawn; /* lines of bars that are on the screen */
    uint64_t begun_ns, told_ns;
    uint64_t resumed;      /* bytes that were there at the beginning */
    mlxd_hub_status *seen; /* per file: what was told last; owned */
    struct {
        uint64_t ns, bytes;
    } slots[MLXD_PULL_RATE_SLOTS]; /* the last seconds, for the rate */
    unsigned slot;
} mlxd_pull_view;

void mlxd_pull_view_init(mlxd_pull_view *v, bool quiet, bool json);
/* Removes the bars. */
void mlxd_pull_view_deinit(mlxd_pull_view *v);
/* A mlxd_hub_pull_params.tick, but for the answer. */
void mlxd_pull_view_show(mlxd_pull_view *v, const mlxd_hub_progress *p);

/* "1.2 GiB" */
void mlxd_cli_bytes(uint64_t bytes, char out[16]);

#endif
