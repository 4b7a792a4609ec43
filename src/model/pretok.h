/* pretok.h - cuts text into pre-tokens, the pieces inside which symbols are merged.
 *
 * A pre-tokenizer is a few steps in order; every piece that a step makes goes through the next one.
 *
 *     split      where a pattern matches:
 *                    isolated              a-b  ->  a|-|b
 *                    removed               a-b  ->  a|b
 *                    merged with previous  a-b  ->  a-|b
 *                    merged with next      a-b  ->  a|-b
 *                    contiguous            a--b ->  a|--|b
 *                with `invert`, what lies between the matches counts as the match
 *     prefix     a blank in front of every piece that has none (ByteLevel, add_prefix_space)
 *     metaspace  blanks become U+2581, which also goes in front of the text, or of every piece
 *
 * GGUF files name theirs in tokenizer.ggml.pre, and pretok_names.c has the patterns that belong to
 * the names; tokenizer.json describes its own (tokenizer_steps.c).
 *
 * Internal to the tokenizer. Thread: immutable once its steps are added; a work area belongs to one
 * thread.
 */
#ifndef MLXD_MODEL_PRETOK_H
#define MLXD_MODEL_PRETOK_H

#include "base/limits.h"
#include "model/regex.h"

typedef enum mlxd_pretok_behavior {
    MLXD_PRETOK_ISOLATED,
    MLXD_PRETOK_REMOVED,
    MLXD_PRETOK_MERGED_WITH_PREVIOUS,
    MLXD_PRETOK_MERGED_WITH_NEXT,
    MLXD_PRETOK_CONTIGUOUS
} mlxd_pretok_behavior;

/* Where a step puts its prefix. */
typedef enum mlxd_pretok_prefix {
    MLXD_PRETOK_NEVER,
    MLXD_PRETOK_FIRST, /* in front of the piece that begins the whole text */
    MLXD_PRETOK_ALWAYS
} mlxd_pretok_prefix;

typedef struct mlxd_pretok_step {
    mlxd_regex *pattern; /* owned; NULL: nothing is split */
    mlxd_pretok_behavior behavior;
    bool invert;
    bool metaspace; /* blanks become U+2581, and the prefix is U+2581 instead of a blank */
    mlxd_pretok_prefix prefix;
} mlxd_pretok_step;

typedef struct mlxd_pretok {
    mlxd_pretok_step steps[MLXD_LIMIT_TOKENIZER_STEPS];
    size_t count;
} mlxd_pretok;

/* Begins zeroed. Adding takes the pattern, also after an error; UNSUPPORTED beyond
 * MLXD_LIMIT_TOKENIZER_STEPS. */
mlxd_err mlxd_pretok_add(mlxd_pretok *p, mlxd_pretok_step step, mlxd_why *why) MLXD_MUST_CHECK;
/* Adds a split by an expression. */
mlxd_err mlxd_pretok_add_split(mlxd_pretok *p, mlxd_slice pattern, mlxd_pretok_behavior behavior,
                               bool invert, bool jit, mlxd_why *why) MLXD_MUST_CHECK;
/* Is it one of the expressions of the known families, which are linear in every text? */
bool mlxd_pretok_knows(mlxd_slice pattern);
void mlxd_pretok_deinit(mlxd_pretok *p);
/* Was machine code made for all of its patterns? */
bool mlxd_pretok_jit(const mlxd_pretok *p);

/* What a name in tokenizer.ggml.pre stands for, beyond its patterns. */
typedef struct mlxd_pretok_family {
    bool ignore_merges; /* a word that is a token becomes that token */
    bool add_bos;       /* unless the file says otherwise */
    bool nfc;           /* its own tokenizer normalizes (llama.cpp does not) */
} mlxd_pretok_family;
/* Adds the steps of `name`. UNSUPPORTED, with the known names, for another one. `jit` false:
 * interpreted, for tests. */
mlxd_err mlxd_pretok_add_named(mlxd_pretok *p, mlxd_slice name, bool jit,
                               mlxd_pretok_family *family, mlxd_why *why) MLXD_MUST_CHECK;
/* GPT-2's pattern, which ByteLevel splits by. */
mlxd_slice mlxd_pretok_gpt2(void);

/* Memory for cutting; begins with mlxd_pretok_work_init. `regex` is lent. */
typedef struct mlxd_pretok_work {
    mlxd_regex_work *regex;
    mlxd_buf texts[MLXD_LIMIT_TOKENIZER_STEPS]; /* what a step with a prefix made */
} mlxd_pretok_work;
void mlxd_pretok_work_init(mlxd_pretok_work *w, mlxd_regex_work *regex);
void mlxd_pretok_work_deinit(mlxd_pretok_work *w);

/* Gets the pre-tokens in order; none is empty. An error ends the run and is its result. */
typedef mlxd_err (*mlxd_pretok_sink)(void *ctx, mlxd_slice word);

/* Cuts `text`, which must be UTF-8 (it is not checked again). `first`: it begins the whole text.
 * INVALID when a pattern takes too many steps; NOMEM. */
mlxd_err mlxd_pretok_run(const mlxd_pretok *p, mlxd_pretok_work *w, mlxd_slice text, bool first,
                         mlxd_pretok_sink sink, void *ctx, mlxd_why *why) MLXD_MUST_CHECK;

#endif
