/* tokenizer.h - text to token ids and back.
 *
 * Byte-level BPE as GGUF files describe it (tokenizer.ggml.model = "gpt2"): text is cut into
 * pre-tokens by a regular expression (pcre2, JIT, bounded), each pre-token's bytes are merged by
 * rank with a heap over a linked list, O(n log n) whatever the input. Control tokens (<|im_end|>
 * ...) are recognised only where the caller marks text as trusted: user text can never become one.
 *
 * Token types, as GGUF numbers them, and what they mean here:
 *     1 normal        spelled in the byte alphabet; made by merges
 *     2 unknown       as control
 *     3 control       literal text; recognised in trusted text only, never shown
 *     4 user-defined  literal text; recognised in every text (added tokens that are not special)
 *     5 unused        stands for nothing, is never made
 *     6 byte          <0xNN>: that byte; never made (byte-level merges begin with normal tokens)
 * Types in files are sometimes wrong. A user-defined token that looks like <|this|>, and a normal
 * one that looks so and is a known end of turn, is taken as control, as other readers do.
 *
 * A byte for which the vocabulary has no token is left out of the ids, as Hugging Face tokenizers
 * and llama.cpp do: SmolLM2 lacks 21 (six control characters, bytes that UTF-8 never uses, and the
 * first bytes of U+40000..U+BFFFF, where no character is assigned). A file that lacks one of the
 * printable ASCII characters, blank, tab, line feed or carriage return is refused.
 *
 * Files: lexicon.c (tokens, names), special.c (control and user-defined tokens in text), pretok.c
 * (the regular expression), bpe.c (merges), detok.c (the way back).
 *
 * Thread: a tokenizer is immutable after open; encode keeps its working memory in the call, so any
 * number of threads may encode. A mlxd_detok belongs to one thread at a time.
 */
#ifndef MLXD_MODEL_TOKENIZER_H
#define MLXD_MODEL_TOKENIZER_H

#include "base/mem.h"
#include "format/gguf.h"

typedef struct mlxd_tokenizer mlxd_tokenizer;

/* Reads tokenizer.ggml.*. UNSUPPORTED, with the known ones, for another model or pre-tokenizer or
 * none at all; DATA, with key and index, for ids out of range, merges that name no normal token,
 * tokens that appear twice, texts that are not UTF-8 or not in the byte alphabet, missing keys.
 * Copies what it keeps (the GGUF may be closed). */
mlxd_err mlxd_tokenizer_open(mlxd_tokenizer **out, const mlxd_gguf *g,
                             mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_tokenizer_close(mlxd_tokenizer *t);

size_t mlxd_tokenizer_vocab(const mlxd_tokenizer *t);
/* -1 when the file names none. */
int32_t mlxd_tokenizer_bos(const mlxd_tokenizer *t);
int32_t mlxd_tokenizer_eos(const mlxd_tokenizer *t);
/* Should a raw prompt begin with BOS? (encode never adds it; a chat template writes its own.) */
bool mlxd_tokenizer_add_bos(const mlxd_tokenizer *t);
/* False where the system forbids executable memory: the same results, more slowly. */
bool mlxd_tokenizer_jit(const mlxd_tokenizer *t);

/* The next three accept any id: an output matrix may be padded beyond the vocabulary, and such an
 * id is no end, no control token, and stands for no bytes. */

/* Ends a turn or the text: generation stops here and the text is not shown. The ids that the file
 * names as eos, eot, eom, and control tokens with a known name (<|im_end|>, <|endoftext|>, ...). */
bool mlxd_tokenizer_is_end(const mlxd_tokenizer *t, int32_t id);
/* Makes it one: the model's other files know of more. Before the tokenizer is shared. DATA for an
 * id that is not in the vocabulary, or when there are too many. */
mlxd_err mlxd_tokenizer_add_end(mlxd_tokenizer *t, int32_t id, mlxd_why *why) MLXD_MUST_CHECK;
/* Control tokens are never part of the visible text. */
bool mlxd_tokenizer_is_control(const mlxd_tokenizer *t, int32_t id);
/* The bytes a token stands for (a control token: its text); lent. */
mlxd_slice mlxd_tokenizer_bytes(const mlxd_tokenizer *t, int32_t id);
/* Id of the token whose text is exactly `text`: a control or user-defined one, otherwise a normal
 * one; -1 if none. */
int32_t mlxd_tokenizer_find(const mlxd_tokenizer *t, mlxd_slice text);

/* Ids, growing; begin with {0}. */
typedef struct mlxd_tokens {
    int32_t *ids; /* owned; mlxd_mem_free */
    size_t count;
    size_t cap;
} mlxd_tokens;
void mlxd_tokens_deinit(mlxd_tokens *t);
/* NOMEM, or RANGE when more than `tokens_max` (0 = no bound) would be there. */
mlxd_err mlxd_tokens_add(mlxd_tokens *t, int32_t id, size_t tokens_max) MLXD_MUST_CHECK;

/* Appends the ids of `text` (UTF-8, checked: INVALID with the byte offset). `special`: control
 * tokens in the text become their ids (template text, --raw prompts); otherwise they are plain
 * text. User-defined tokens become their ids in both cases; where several tokens match, the
 * leftmost wins, then the longest. The empty text has no tokens, and nothing is added in front.
 * `tokens_max`: RANGE as soon as it is certain that out->count (including what was there before)
 * will pass it, so that a huge prompt costs no more than a context (0 = no bound).
 * After an error `out` holds what was appended so far. */
mlxd_err mlxd_tokenizer_encode(const mlxd_tokenizer *t, mlxd_slice text, bool special,
                               size_t tokens_max, mlxd_tokens *out, mlxd_why *why) MLXD_MUST_CHECK;

/* Bytes start .. end - 1 of a text. */
typedef struct mlxd_span {
    size_t start, end;
} mlxd_span;
/* The same, but control tokens are recognised only where all of their bytes lie inside one of the
 * `n_trusted` spans (ascending, not empty, not touching): what a chat template wrote, as opposed to
 * what was put into it. Borders of spans are not seen by the merges: with no control token outside
 * of them, the ids are those of encode(special). */
mlxd_err mlxd_tokenizer_encode_spans(const mlxd_tokenizer *t, mlxd_slice text,
                                     const mlxd_span *trusted, size_t n_trusted, size_t tokens_max,
                                     mlxd_tokens *out, mlxd_why *why) MLXD_MUST_CHECK;

/* Streaming decode: bytes of tokens in, whole UTF-8 characters out. At most 3 bytes are held back;
 * bytes that can never become a character turn into U+FFFD, exactly as a one-shot decode of the
 * same tokens (maximal-subpart replacement) would show them. */
typedef struct mlxd_detok {
    uint8_t held[4];
    uint8_t n_held;
} mlxd_detok;
void mlxd_detok_init(mlxd_detok *d);
/* Appends to `out` the text that is certain after token `id`; control tokens add nothing (and do
 * not flush: a character may continue behind one). */
void mlxd_detok_add(mlxd_detok *d, const mlxd_tokenizer *t, int32_t id, mlxd_buf *out);
/* The same for bytes that do not come from a token. */
void mlxd_detok_add_bytes(mlxd_detok *d, mlxd_slice bytes, mlxd_buf *out);
/* End of the text: what is held becomes U+FFFD. */
void mlxd_detok_flush(mlxd_detok *d, mlxd_buf *out);

#endif
