/* lexicon.h - the tokens of a byte-level vocabulary: bytes, types, and normal tokens by bytes.
 *
 * A normal token is spelled in the byte alphabet of GPT-2, one printable character per byte:
 *     21..7E, A1..AC, AE..FF   stand for themselves (as U+0021 ... U+00FF)
 *     the other 68, ascending  U+0100 .. U+0143      (so the blank, 20, is U+0120)
 * It is unspelled once, at open; everything after that works on bytes. The other types have literal
 * texts, see tokenizer.h.
 *
 * Internal to the tokenizer. Thread: immutable after init.
 */
#ifndef MLXD_MODEL_LEXICON_H
#define MLXD_MODEL_LEXICON_H

#include "format/gguf.h"

typedef enum mlxd_token_type {
    MLXD_TOKEN_NORMAL = 1,
    MLXD_TOKEN_UNKNOWN,
    MLXD_TOKEN_CONTROL,
    MLXD_TOKEN_USER_DEFINED,
    MLXD_TOKEN_UNUSED,
    MLXD_TOKEN_BYTE
} mlxd_token_type;

typedef struct mlxd_lexicon {
    size_t count;
    uint8_t *bytes;   /* of all tokens, back to back */
    size_t *starts;   /* [count + 1] into `bytes` */
    uint8_t *types;   /* [count] mlxd_token_type */
    int32_t *slots;   /* open addressing: ids of normal tokens, -1 = free */
    size_t slot_mask; /* number of slots - 1 */
    size_t longest;   /* bytes of the longest normal token */
} mlxd_lexicon;

/* Reads tokenizer.ggml.tokens and .token_type. `x` is caller's memory; deinit also after an error,
 * and of a zeroed one. */
mlxd_err mlxd_lexicon_init(mlxd_lexicon *x, const mlxd_gguf *g, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_lexicon_deinit(mlxd_lexicon *x);

/* `id` must be in the vocabulary (asserted). */
mlxd_slice mlxd_lexicon_bytes(const mlxd_lexicon *x, int32_t id);
mlxd_token_type mlxd_lexicon_type(const mlxd_lexicon *x, int32_t id);
/* The normal token with these bytes; -1 if none. */
int32_t mlxd_lexicon_find(const mlxd_lexicon *x, mlxd_slice bytes);
/* Is this the text of a token that ends a turn or the text, in a model that has it as control? */
bool mlxd_lexicon_names_end(mlxd_slice text);

/* Text in the byte alphabet to bytes; `out` has room for text.len. False when it is not spelled in
 * the alphabet; then *len is the offset of the first character that is not. */
bool mlxd_lexicon_unspell(mlxd_slice text, uint8_t *out, size_t *len);

#endif
