/* tokenizer.h - text to token ids and back.
 *
 * Two kinds of file say how: the metadata of a GGUF file (tokenizer.ggml.*), and Hugging Face's
 * tokenizer.json with its companions. What they describe is one pipeline:
 *
 *     text --special.c---> added tokens, and between them text   <|im_end|> and the like
 *          --normalize.c-> normal form, blanks to U+2581 ...
 *          --special.c---> added tokens that want normalized text
 *          --pretok.c----> words (regular expressions: pcre2, JIT, bounded)
 *          --bpe.c-------> ids: symbols merged by rank with a heap over a linked list
 *
 * Symbols are bytes (byte-level BPE: GPT-2, Llama 3, Qwen, DeepSeek, GPT-OSS) or characters
 * (SentencePiece's BPE: Llama 2, Mistral, Gemma). Time is O(n log n) whatever the text. What a file
 * asks for and mlxd does not know is refused by name, never guessed.
 *
 * Control tokens (<|im_end|> ...) are recognised only where the caller marks text as trusted: user
 * text can never become one, whatever merges the file has.
 *
 * Token types, as GGUF numbers them, and what they mean here:
 *     1 normal        made by merges
 *     2 unknown       as control; stands for characters that have no token
 *     3 control       literal text; recognised in trusted text only, never shown
 *     4 user-defined  literal text; recognised in every text (added tokens that are not special)
 *     5 unused        stands for nothing, is never made (also an id that no token has)
 *     6 byte          <0xNN>: that byte; what characters without a token become (byte fallback)
 * Types in GGUF files are sometimes wrong. A user-defined token that looks like <|this|>, and a
 * normal one that looks so and is a known end of turn, is taken as control, as other readers do. In
 * tokenizer.json a token that looks so and is not special is shown, but recognised in trusted text
 * only: DeepSeek marks its turns with such tokens.
 *
 * A byte for which a byte-level vocabulary has no token is left out of the ids, as Hugging Face
 * tokenizers and llama.cpp do: SmolLM2 lacks 21 (six control characters, bytes that UTF-8 never
 * uses, and the first bytes of U+40000..U+BFFFF, where no character is assigned). A file that lacks
 * one of the printable ASCII characters, blank, tab, line feed or carriage return is refused.
 *
 * Files: tokenizer_gguf.c, tokenizer_json.c and tokenizer_steps.c (reading), lexicon.c (tokens,
 * names), special.c, normalize.c, pretok.c, bpe.c, detok.c (the way back).
 *
 * Thread: a tokenizer is immutable after open (and add_end, fit); encode keeps its working memory
 * in the call, so any number of threads may encode. A mlxd_detok belongs to one thread at a time.
 */
#ifndef MLXD_MODEL_TOKENIZER_H
#define MLXD_MODEL_TOKENIZER_H

#include "base/mem.h"
#include "format/gguf.h"

typedef struct mlxd_tokenizer mlxd_tokenizer;

/* Reads tokenizer.ggml.*: models gpt2 (byte-level BPE) and llama (SentencePiece by scores; Gemma
 * too). UNSUPPORTED, with the known ones, for another model or pre-tokenizer or none at all; DATA,
 * with key and index, for ids out of range, merges that name no normal token, tokens that appear
 * twice, texts that are not UTF-8 or not in the byte alphabet, missing keys. Copies what it keeps
 * (the GGUF may be closed). */
mlxd_err mlxd_tokenizer_open(mlxd_tokenizer **out, const mlxd_gguf *g,
                             mlxd_why *why) MLXD_MUST_CHECK;

/* The texts of a checkpoint's files; {0} for one that is not there. */
typedef struct mlxd_tokenizer_files {
    mlxd_slice tokenizer;   /* tokenizer.json; needed */
    mlxd_slice config;      /* tokenizer_config.json: bos, eos, add_bos_token, added tokens */
    mlxd_slice special_map; /* special_tokens_map.json: bos and eos, if the config has none */
} mlxd_tokenizer_files;
/* Reads tokenizer.json: model BPE, the normalizers, pre-tokenizers and decoders listed in
 * tokenizer_steps.c. UNSUPPORTED, with its name, for another one; DATA, with file and place, for
 * what is malformed. Copies what it keeps. Ends that only generation_config.json or config.json
 * names are added with mlxd_tokenizer_add_end. */
mlxd_err mlxd_tokenizer_open_json(mlxd_tokenizer **out, const mlxd_tokenizer_files *files,
                                  mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_tokenizer_close(mlxd_tokenizer *t);

/* One id more that ends a turn. DATA when it is not in the vocabulary or there are too many. Only
 * before the tokenizer is shared. */
mlxd_err mlxd_tokenizer_add_end(mlxd_tokenizer *t, int64_t id, mlxd_why *why) MLXD_MUST_CHECK;
bool mlxd_tokenizer_has_end(const mlxd_tokenizer *t); /* does any token end a turn? */
/* The model embeds `rows` ids. A larger number than the vocabulary is padding: nothing to be done
 * but to mask the logits from mlxd_tokenizer_vocab on. With a smaller one (Gemma 3's text models
 * lack the image token) added tokens from there on are taken out, BOS and ends among them, and
 * their text stays text; DATA when that would not do, because merges make such an id or each text
 * is to begin with it. Only before the tokenizer is shared. */
mlxd_err mlxd_tokenizer_fit(mlxd_tokenizer *t, size_t rows, mlxd_why *why) MLXD_MUST_CHECK;

/* The highest id plus one. */
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
 * names as eos, eot, eom, those of add_end, and control tokens with a known name (<|im_end|>,
 * <|endoftext|>, ...). Where there are <|return|> and <|call|> (Harmony), <|end|> is none. */
bool mlxd_tokenizer_is_end(const mlxd_tokenizer *t, int32_t id);
/* Control tokens are never part of the visible text. */
bool mlxd_tokenizer_is_control(const mlxd_tokenizer *t, int32_t id);
/* The bytes a token stands for (a control token: its text); lent. At the beginning of a text the
 * detokenizer may leave a blank out of them. */
mlxd_slice mlxd_tokenizer_bytes(const mlxd_tokenizer *t, int32_t id);
/* Id of the token whose text is exactly `text`: a control or user-defined one, otherwise one that
 * merges make, by its bytes (where characters are symbols: by its text, with U+2581 for the blank);
 * -1 if none. */
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
 * leftmost wins, then the longest. The empty text has no tokens, and no BOS is added in front.
 * `tokens_max`: RANGE as soon as it is certain that out->count (including what was there before)
 * will pass it, so that a huge prompt costs no more than a context (0 = no bound). INVALID too when
 * a pattern of the file would take more than linear time on the text.
 * After an error `out` holds what was appended so far. */
mlxd_err mlxd_tokenizer_encode(const mlxd_tokenizer *t, mlxd_slice text, bool special,
                               size_t tokens_max, mlxd_tokens *out, mlxd_why *why) MLXD_MUST_CHECK;

/* A part of a text, in bytes. */
typedef struct mlxd_text_range {
    size_t start, end;
} mlxd_text_range;
/* The same for a text that is trusted but for `n_plain` parts of it (sorted, disjoint, within the
 * text: asserted): a rendered chat template, in which messages are what users wrote. It is one text
 * all the same: words reach over the borders, as they do for those who render and then encode. A
 * control token that lies in such a part or reaches into it is plain text. */
mlxd_err mlxd_tokenizer_encode_parts(const mlxd_tokenizer *t, mlxd_slice text,
                                     const mlxd_text_range *plain, size_t n_plain,
                                     size_t tokens_max, mlxd_tokens *out,
                                     mlxd_why *why) MLXD_MUST_CHECK;

/* Streaming decode: bytes of tokens in, whole UTF-8 characters out. At most 3 bytes are held back;
 * bytes that can never become a character turn into U+FFFD, exactly as a one-shot decode of the
 * same tokens (maximal-subpart replacement) would show them. Where SentencePiece puts a blank in
 * front of every text, the first one is left out. */
typedef struct mlxd_detok {
    uint8_t held[4];
    uint8_t n_held;
    uint8_t stripped; /* blanks left out so far */
    bool begun;       /* the first visible token has come */
} mlxd_detok;
void mlxd_detok_init(mlxd_detok *d);
/* Appends to `out` the text that is certain after token `id`; control tokens add nothing (and do
 * not flush: a character may continue behind one). */
void mlxd_detok_add(mlxd_detok *d, const mlxd_tokenizer *t, int32_t id, mlxd_buf *out);
/* The same, but control tokens add their text, too: all of what the ids say. */
void mlxd_detok_add_shown(mlxd_detok *d, const mlxd_tokenizer *t, int32_t id, mlxd_buf *out);
/* Appends what is certain after these bytes, which do not come from a token. */
void mlxd_detok_add_bytes(mlxd_detok *d, mlxd_slice bytes, mlxd_buf *out);
/* End of the text: what is held becomes U+FFFD. */
void mlxd_detok_flush(mlxd_detok *d, mlxd_buf *out);

#endif
