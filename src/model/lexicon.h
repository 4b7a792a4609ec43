/* lexicon.h - the tokens of a vocabulary: what merges see, what is shown, and tokens by text.
 *
 * Two spellings are in use:
 *
 *   byte alphabet (GPT-2): one printable character per byte, unspelled once, at open; everything
 *   after that works on bytes, and what is shown is what merges see.
 *       21..7E, A1..AC, AE..FF   stand for themselves (as U+0021 ... U+00FF)
 *       the other 68, ascending  U+0100 .. U+0143      (so the blank, 20, is U+0120)
 *
 *   plain (SentencePiece): the text itself, with U+2581 for the blank. Shown is the text after the
 *   decoder's replacements; a token <0xNN> stands for the byte.
 *
 * Internal to the tokenizer. Thread: immutable after init.
 */
#ifndef MLXD_MODEL_LEXICON_H
#define MLXD_MODEL_LEXICON_H

#include "base/mem.h"

/* Numbered as in GGUF; see tokenizer.h for what they mean. */
typedef enum mlxd_token_type {
    MLXD_TOKEN_NORMAL = 1,
    MLXD_TOKEN_UNKNOWN,
    MLXD_TOKEN_CONTROL,
    MLXD_TOKEN_USER_DEFINED,
    MLXD_TOKEN_UNUSED,
    MLXD_TOKEN_BYTE
} mlxd_token_type;

/* A token as a file gives it. */
typedef struct mlxd_token_def {
    mlxd_slice text;      /* lent */
    mlxd_token_type type; /* 0: no token has this id */
    bool merged;          /* merges may make it, and it is found by its text */
} mlxd_token_def;

#define MLXD_LEXICON_SHOWN_MAX 4

typedef struct mlxd_lexicon_style {
    const char *where;  /* "tokenizer.ggml.tokens", for error texts */
    bool byte_alphabet; /* else plain */
    bool lenient;       /* a token that is not spelled in the alphabet is taken literally */
    /* Of plain tokens, in this order: what is shown instead of a text. */
    struct {
        mlxd_slice from, to; /* lent during init */
    } shown[MLXD_LEXICON_SHOWN_MAX];
    size_t n_shown;
} mlxd_lexicon_style;

typedef struct mlxd_lexicon {
    size_t count;
    bool byte_alphabet;
    mlxd_buf texts, shown;        /* of all tokens, back to back; `shown` only of plain ones */
    uint32_t *text_at, *shown_at; /* [count + 1] where they begin */
    uint8_t *types;               /* [count] mlxd_token_type */
    int32_t *slots;               /* open addressing: ids of merged tokens, -1 = free */
    size_t slot_mask;             /* number of slots - 1 */
    size_t longest;               /* bytes of the longest merged token */
} mlxd_lexicon;

/* `x` is caller's memory; deinit also after an error, and of a zeroed one. DATA, with the id, for a
 * type that there is none, a text that is not UTF-8, too long, or (unless lenient) not in the byte
 * alphabet, a byte that is not <0xNN>, two merged tokens with the same text. `defs` are not needed
 * afterwards. */
mlxd_err mlxd_lexicon_init(mlxd_lexicon *x, const mlxd_token_def *defs, size_t count,
                           const mlxd_lexicon_style *style, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_lexicon_deinit(mlxd_lexicon *x);

/* What merges see, and what a token stands for. `id` must be in the vocabulary (asserted). */
mlxd_slice mlxd_lexicon_text(const mlxd_lexicon *x, int32_t id);
mlxd_slice mlxd_lexicon_shown(const mlxd_lexicon *x, int32_t id);
mlxd_token_type mlxd_lexicon_type(const mlxd_lexicon *x, int32_t id);
/* The merged token with this text (bytes, in the byte alphabet's case); -1 if none. */
int32_t mlxd_lexicon_find(const mlxd_lexicon *x, mlxd_slice text);

/* Is this the text of a token that ends a turn or the text, in a model that has it as control? */
bool mlxd_lexicon_names_end(mlxd_slice text);
/* <|this|>, also with the full-width bars that DeepSeek uses. */
bool mlxd_lexicon_looks_special(mlxd_slice text);
/* <0xNN>; then *byte is NN. */
bool mlxd_lexicon_is_byte(mlxd_slice text, uint8_t *byte);
/* Text in the byte alphabet to bytes; `out` has room for text.len. False when it is not spelled in
 * the alphabet; then *len is the offset of the first character that is not. */
bool mlxd_lexicon_unspell(mlxd_slice text, uint8_t *out, size_t *len);

#endif
