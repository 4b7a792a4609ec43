/* progress.h - a bar on stderr while something loads; nothing when stderr is no terminal.
 *
 *     loading layers  [##########..........]  49 / 98 MiB
 */
#ifndef MLXD_CLI_PROGRESS_H
#define MLXD_CLI_PROGRESS_H

#include "model/weights.h"

typedef struct mlxd_bar {
    const char *label;
    bool shown; /* stderr is a terminal and the user wants it */
    _Atomic uint64_t last_ns;
} mlxd_bar;

void mlxd_bar_init(mlxd_bar *b, const char *label, bool quiet);
/* The callback for loaders; any thread. */
mlxd_progress mlxd_bar_progress(mlxd_bar *b);
/* Shows a line of text in place of the bar. */
void mlxd_bar_text(mlxd_bar *b, const char *text);
/* Removes the bar. */
void mlxd_bar_clear(mlxd_bar *b);

#endif
