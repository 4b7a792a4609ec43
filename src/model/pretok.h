/* pretok.h - cuts text into pre-tokens, the pieces inside which bytes are merged.
 *
 * A pre-tokenizer is one regular expression that matches at every position of every text; its
 * successive matches are the pre-tokens. Known by the names that GGUF uses (tokenizer.ggml.pre):
 *
 *     gpt-2   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *     smollm  every \p{N} alone, then gpt-2 in what is between (Hugging Face: Digits(individual),
 *             ByteLevel). As one expression: \p{N} first, and a digit ends a run of white space as
 *             the end of the text does, \s+(?!\S) becoming \s+(?![^\s\p{N}]).
 *
 * \s is Unicode's White_Space. The expressions are ours, not the file's; they are possessive, so
 * nothing backtracks further than one character, and the limits on matching are a second fence.
 * pcre2 compiles them to machine code where the system allows it.
 *
 * Internal to the tokenizer. Thread: a pretok is immutable; a scan belongs to one thread.
 */
#ifndef MLXD_MODEL_PRETOK_H
#define MLXD_MODEL_PRETOK_H

#include "base/base.h"

typedef struct mlxd_pretok mlxd_pretok;
typedef struct mlxd_pretok_scan mlxd_pretok_scan;

/* UNSUPPORTED, with the known names, for another name. `jit` false: interpreted, for tests. */
mlxd_err mlxd_pretok_open(mlxd_pretok **out, mlxd_slice name, bool jit,
                          mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_pretok_close(mlxd_pretok *p);
/* The known names, "gpt-2, smollm". */
const char *mlxd_pretok_names(void);
/* Was machine code made? */
bool mlxd_pretok_jit(const mlxd_pretok *p);

/* Memory for matching; NULL: none. `p` must outlive it. */
mlxd_pretok_scan *mlxd_pretok_scan_open(const mlxd_pretok *p) MLXD_MUST_CHECK;
void mlxd_pretok_scan_close(mlxd_pretok_scan *s);
/* Sets *end to the end of the pre-token that begins at `start` < text.len. `text` must be UTF-8 (it
 * is not checked again) and `start` the start of a character. INVALID when a limit was hit. */
mlxd_err mlxd_pretok_next(mlxd_pretok_scan *s, mlxd_slice text, size_t start, size_t *end,
                          mlxd_why *why) MLXD_MUST_CHECK;

#endif
