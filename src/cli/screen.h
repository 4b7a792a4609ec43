/* screen.h - a model's text on standard output.
 *
 * On a terminal, what the model thinks is dimmed (SGR 2), or between two lines that say so where
 * colour is not wanted (NO_COLOR, TERM=dumb); and control characters are shown, not sent, so that
 * a text can neither move the cursor, nor change the title, nor answer for the user:
 *
 *     ESC [ 2 J  ->  ^[[2J      U+009B  ->  <U+009B>      line feed and tab pass
 *
 * In a pipe or a file the answer is written as it is, without what the model thinks.
 */
#ifndef MLXD_CLI_SCREEN_H
#define MLXD_CLI_SCREEN_H

#include "base/mem.h"

typedef struct mlxd_screen {
    bool terminal, colour;
    bool thinking; /* reasoning was shown last */
    bool line;     /* the cursor is at the beginning of a line */
    mlxd_buf out;  /* private */
} mlxd_screen;

void mlxd_screen_init(mlxd_screen *s);
void mlxd_screen_deinit(mlxd_screen *s);
/* IO as mlxd_cli_print. */
mlxd_err mlxd_screen_write(mlxd_screen *s, bool reasoning, mlxd_slice text,
                           mlxd_why *why) MLXD_MUST_CHECK;
/* The answer has ended: switches dimming off, ends the line unless it is. */
mlxd_err mlxd_screen_end(mlxd_screen *s, mlxd_why *why) MLXD_MUST_CHECK;
/* Appends whole UTF-8 characters with control characters made visible. */
void mlxd_screen_neutralize(mlxd_buf *out, mlxd_slice text);

#endif
