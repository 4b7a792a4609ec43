/* normalize.h - what happens to text before it is cut into words: a few steps in order, each of
 * which reads a text and writes another (the "normalizer" of tokenizer.json).
 *
 *     form      a Unicode normal form          (qwen: NFC)
 *     lower     lower case
 *     prepend   a text in front, unless empty  (llama 2: U+2581)
 *     replace   every match of a pattern by a text (gemma: the blank by U+2581)
 *
 * Internal to the tokenizer. Thread: a normalizer is immutable once its steps are added; a work
 * area belongs to one thread.
 */
#ifndef MLXD_MODEL_NORMALIZE_H
#define MLXD_MODEL_NORMALIZE_H

#include "base/limits.h"
#include "model/regex.h"
#include "model/unicode.h"

typedef struct mlxd_normalizer_step {
    enum {
        MLXD_NORMALIZE_FORM,
        MLXD_NORMALIZE_LOWER,
        MLXD_NORMALIZE_PREPEND,
        MLXD_NORMALIZE_REPLACE
    } kind;
    mlxd_unicode_form form;
    mlxd_regex *pattern; /* owned; REPLACE */
    char *text;          /* owned; PREPEND and REPLACE */
    size_t text_len;
} mlxd_normalizer_step;

typedef struct mlxd_normalizer {
    mlxd_normalizer_step steps[MLXD_LIMIT_TOKENIZER_STEPS];
    size_t count;
} mlxd_normalizer;

/* Begins zeroed. Adding takes the pattern, also after an error, and copies the text. UNSUPPORTED
 * beyond MLXD_LIMIT_TOKENIZER_STEPS. */
mlxd_err mlxd_normalizer_add(mlxd_normalizer *n, mlxd_normalizer_step step, mlxd_slice text,
                             mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_normalizer_deinit(mlxd_normalizer *n);

/* Two texts take turns as source and target; begins with mlxd_normalizer_work_init. */
typedef struct mlxd_normalizer_work {
    mlxd_buf texts[2];
} mlxd_normalizer_work;
void mlxd_normalizer_work_init(mlxd_normalizer_work *w);
void mlxd_normalizer_work_deinit(mlxd_normalizer_work *w);

/* *out: `text` itself when nothing is to be done, otherwise lent by `w` until the next call.
 * NOMEM; RANGE when it would pass `bytes_max`; INVALID as mlxd_regex_next. */
mlxd_err mlxd_normalizer_run(const mlxd_normalizer *n, mlxd_normalizer_work *w, mlxd_regex_work *r,
                             mlxd_slice text, size_t bytes_max, mlxd_slice *out,
                             mlxd_why *why) MLXD_MUST_CHECK;

#endif
