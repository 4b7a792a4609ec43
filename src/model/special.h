/* special.h - finds control and user-defined tokens in text: leftmost, then longest.
 *
 * The tokens are sorted; from each position of the text the range of tokens that agree with what
 * was read so far is narrowed byte by byte. A position costs at most MLXD_LIMIT_SPECIAL_BYTES
 * steps, and in practice one look into a table of first bytes: time is linear in the text.
 *
 * Internal to the tokenizer. Thread: immutable after init.
 */
#ifndef MLXD_MODEL_SPECIAL_H
#define MLXD_MODEL_SPECIAL_H

#include "model/lexicon.h"

typedef struct mlxd_special_entry {
    mlxd_slice text; /* lent by the vocabulary; not empty */
    int32_t id;
} mlxd_special_entry;

typedef struct mlxd_special {
    mlxd_special_entry *entries; /* sorted by text */
    size_t count;
    size_t first[257]; /* entries that begin with byte b: first[b] .. first[b + 1] */
} mlxd_special;

typedef struct mlxd_special_match {
    size_t start, end; /* in the text */
    int32_t id;
} mlxd_special_match;

/* User-defined tokens of `x`, and control and unknown ones if `control`. DATA when two have the
 * same text. `x` must outlive it. Deinit also after an error, and of a zeroed one. */
mlxd_err mlxd_special_init(mlxd_special *s, const mlxd_lexicon *x, bool control,
                           mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_special_deinit(mlxd_special *s);

/* The first match at or behind `from`; false: none. */
bool mlxd_special_next(const mlxd_special *s, mlxd_slice text, size_t from,
                       mlxd_special_match *match);
/* The token whose text is exactly this; -1 if none. */
int32_t mlxd_special_find(const mlxd_special *s, mlxd_slice text);

#endif
