/* special.h - finds added tokens (control, user-defined) in text: leftmost, then longest.
 *
 * The tokens are sorted; from each position of the text the range of tokens that agree with what
 * was read so far is narrowed byte by byte. A position costs at most MLXD_LIMIT_SPECIAL_BYTES
 * steps, and in practice one look into a table of first bytes: time is linear in the text.
 *
 * A token may want the white space on its left or right swallowed, or no word character next to it
 * (Hugging Face's lstrip, rstrip, single_word).
 *
 * Internal to the tokenizer. Thread: immutable once finished.
 */
#ifndef MLXD_MODEL_SPECIAL_H
#define MLXD_MODEL_SPECIAL_H

#include "base/mem.h"
#include "model/tokenizer.h"

typedef struct mlxd_special_entry {
    size_t at; /* its text in `texts` */
    uint32_t len;
    int32_t id;
    bool trusted; /* matched in trusted text only */
    bool lstrip, rstrip, single_word;
} mlxd_special_entry;

typedef struct mlxd_special {
    mlxd_special_entry *entries; /* sorted by text */
    size_t count, cap;
    mlxd_buf texts;
    size_t first[257]; /* entries that begin with byte b: first[b] .. first[b + 1] */
} mlxd_special;

typedef struct mlxd_special_match {
    size_t start, end; /* in the text */
    int32_t id;
} mlxd_special_match;

void mlxd_special_init(mlxd_special *s);
void mlxd_special_deinit(mlxd_special *s);
/* Adds a token with this text (not empty, copied); `e` gives the rest. NOMEM. */
mlxd_err mlxd_special_add(mlxd_special *s, mlxd_special_entry e, mlxd_slice text) MLXD_MUST_CHECK;
/* To be called once, behind the last add. DATA when two tokens have the same text. */
mlxd_err mlxd_special_finish(mlxd_special *s, const char *where, mlxd_why *why) MLXD_MUST_CHECK;
/* Takes out the tokens with ids from `id` on. */
void mlxd_special_cut(mlxd_special *s, int32_t id);

/* What is searched, and how far. */
typedef struct mlxd_special_scan {
    mlxd_slice text;
    size_t at;   /* where the search goes on */
    size_t done; /* end of the last match with the blanks it took */
    /* Ranges in which, also in part, no trusted-only token is found: sorted, disjoint, in bytes of
     * a text in which this one begins at `base`. */
    const mlxd_text_range *plain;
    size_t n_plain, base;
} mlxd_special_scan;

/* The next match; false: none. Moves on. */
bool mlxd_special_next(const mlxd_special *s, mlxd_special_scan *scan, mlxd_special_match *match);
/* The token whose text is exactly this; -1 if none. */
int32_t mlxd_special_find(const mlxd_special *s, mlxd_slice text);

#endif
