/* line.h - reads lines from a terminal: editing, history, pasted text, several lines as one.
 * libedit does the editing (Emacs keys; ~/.editrc may say otherwise), in UTF-8 whatever the locale.
 *
 *   - A line that ends with a backslash is continued on the next one.
 *   - A line that begins with """ is continued until one ends with """.
 *   - Pasted text is one piece, line feeds included (bracketed paste, which terminals of today
 *     know); it is sent with Enter.
 *   - Ctrl-C drops the line, Ctrl-D on an empty one is the end.
 *
 * The history is kept in a file that only the user can read.
 *
 * Thread: the main one, the only one that takes signals. One at a time in a process.
 */
#ifndef MLXD_CLI_LINE_H
#define MLXD_CLI_LINE_H

#include "base/mem.h"

typedef struct mlxd_line mlxd_line;

typedef enum mlxd_line_result {
    MLXD_LINE_TEXT,
    MLXD_LINE_INTERRUPT, /* Ctrl-C, on an empty line */
    MLXD_LINE_DROPPED,   /* Ctrl-C, a line was thrown away */
    MLXD_LINE_END,       /* Ctrl-D, or the terminal is gone */
} mlxd_line_result;

/* `history`: path of the file, made with its folders if it is not there; "" keeps none. A file that
 * cannot be read or written is no reason to fail: `why` then says so, otherwise it is empty. NOMEM,
 * or STATE where the terminal cannot be used. */
mlxd_err mlxd_line_open(mlxd_line **out, const char *history, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_line_close(mlxd_line *l);

/* Reads one text, without the line feed at its end, and appends it to `out`; what came before an
 * interrupt is not there. Notes it in the history, which is written at once. */
mlxd_line_result mlxd_line_read(mlxd_line *l, mlxd_buf *out);

/* Where the history is kept: $XDG_STATE_HOME/mlxd/history, else ~/.local/state/mlxd/history; ""
 * when neither is known. */
void mlxd_line_history_path(char *out, size_t size);

#endif
