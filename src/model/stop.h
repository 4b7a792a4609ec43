/* stop.h - stop strings in a stream of text.
 *
 * Text goes in in arbitrary pieces, text that is certain to be shown comes out: the longest suffix
 * that could still begin a stop string is held back, until it becomes one (and is dropped) or
 * cannot any more (and is shown).
 *
 *     stop "###"     in: "a#"   "#b"    "##"   "#c"
 *                    out: "a"   "##b"   ""     ""    hit; "c" is not read
 *
 * The match that is complete first wins; among those that are complete at the same byte the
 * longest, that is the one that begins first. So the result does not depend on how the text was
 * cut. The text before the match is shown, the match and what follows is not.
 *
 * One Knuth-Morris-Pratt automaton per string: linear time in the text, whatever it is. What is
 * held back is always the beginning of a stop string, so no text has to be kept.
 *
 * Thread: one at a time.
 */
#ifndef MLXD_MODEL_STOP_H
#define MLXD_MODEL_STOP_H

#include "base/limits.h"
#include "base/mem.h"

typedef struct mlxd_stop mlxd_stop;

/* Copies the strings. INVALID, with the index, for more than MLXD_LIMIT_STOP_STRINGS, and for a
 * string that is empty, longer than MLXD_LIMIT_STOP_BYTES or not UTF-8. `count` may be 0: then all
 * text passes. */
mlxd_err mlxd_stop_open(mlxd_stop **out, const mlxd_slice *strings, size_t count,
                        mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_stop_close(mlxd_stop *s);

/* Reads `text` (whole UTF-8 characters; then what comes out is whole characters, too) and appends
 * to `out` what may be shown now. True: a stop string is complete, now or in an earlier call;
 * everything after it is ignored. Allocates nothing but what `out` needs. */
bool mlxd_stop_feed(mlxd_stop *s, mlxd_slice text, mlxd_buf *out);
/* The text has ended: appends what was held back (nothing after a hit). */
void mlxd_stop_flush(mlxd_stop *s, mlxd_buf *out);
/* Index of the string that matched, -1 when none has. */
int mlxd_stop_which(const mlxd_stop *s);
/* Bytes held back now. */
size_t mlxd_stop_held(const mlxd_stop *s);

#endif
