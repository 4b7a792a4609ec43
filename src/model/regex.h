/* regex.h - the patterns of tokenizer files: regular expressions and plain strings, searched in
 * bounded time.
 *
 * tokenizer.json holds expressions in the syntax of Oniguruma (as Ruby has it); pcre2 runs them.
 * Where the two read the same text differently, regex_syntax.c rewrites it:
 *     \s \S \w \W \b \B   Unicode's White_Space and word characters, as Oniguruma sees them
 *     \h \H \v            a hexadecimal digit, and the vertical tab
 *     ^ $ .               ends of lines; anything but a line feed
 *     x{2,3}+ x{,3}       more of x{2,3}, not possessive; {0,3}
 *     \p{Han}             the script, not its extensions
 * What is left (sets inside sets, && in sets, back references, named groups, absent groups ...) is
 * refused with the pattern, never read otherwise than Oniguruma would.
 *
 * Time: a search may take so many steps as a budget that grows with the text allows. An expression
 * that would take exponential or quadratic time fails with a clear error; a run of a million blanks
 * does not. pcre2's own limit counts where it goes back, but not how far it reads: `a*[bc]` reads a
 * run of a's again from each of them. So every item of an expression calls back, and what was read
 * since the last call is taken off the budget. For expressions that are known to match wherever
 * they are tried, and so read everything once, this is left out; they run three times as fast.
 *
 * Internal to the tokenizer. Thread: a regex is immutable; a work area belongs to one thread.
 */
#ifndef MLXD_MODEL_REGEX_H
#define MLXD_MODEL_REGEX_H

#include "base/mem.h"

typedef struct mlxd_regex mlxd_regex;
typedef struct mlxd_regex_work mlxd_regex_work;

typedef struct mlxd_regex_options {
    bool linear;      /* known to take linear time on every text */
    bool interpreted; /* no machine code; for tests */
} mlxd_regex_options;

/* UNSUPPORTED, with the pattern and the place, when it cannot be translated or compiled. */
mlxd_err mlxd_regex_open(mlxd_regex **out, mlxd_slice pattern, mlxd_regex_options options,
                         mlxd_why *why) MLXD_MUST_CHECK;
/* Finds `text` (not empty) as it is. */
mlxd_err mlxd_regex_open_text(mlxd_regex **out, mlxd_slice text, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_regex_close(mlxd_regex *r);
/* Was machine code made? (Nothing is to be made of a plain string: true.) */
bool mlxd_regex_jit(const mlxd_regex *r);

/* Memory for searching, and the budget for texts of `text_bytes` together; NULL: none. It serves
 * any number of expressions, which must outlive it. */
mlxd_regex_work *mlxd_regex_work_open(size_t text_bytes) MLXD_MUST_CHECK;
void mlxd_regex_work_close(mlxd_regex_work *w);

typedef struct mlxd_regex_match {
    size_t start, end; /* in the text; may be empty */
} mlxd_regex_match;

/* The first match at or behind `from` <= text.len; *found false: none. `text` must be UTF-8 (it is
 * not checked again) and `from` the start of a character; what is before `from` is seen by
 * look-behind. INVALID when the budget is spent. */
mlxd_err mlxd_regex_next(const mlxd_regex *r, mlxd_regex_work *w, mlxd_slice text, size_t from,
                         mlxd_regex_match *match, bool *found, mlxd_why *why) MLXD_MUST_CHECK;

/* The same expression in pcre2's syntax, appended to `out`; for regex.c and its tests. */
mlxd_err mlxd_regex_translate(mlxd_slice pattern, mlxd_buf *out, mlxd_why *why) MLXD_MUST_CHECK;

#endif
