/* bpe.h - merges: the symbols of one pre-token to token ids.
 *
 * The symbols, bytes or characters, become tokens in a doubly linked list; then the adjacent pair
 * whose merge has the lowest rank, the leftmost of several, is joined, until no pair has a merge
 * (Sennrich, Haddow, Birch 2016, in the order of Hugging Face tokenizers). A heap over (rank,
 * position) finds that pair:
 *
 *     h e l l o         heap: (l l, 7) (h e, 12) ...       joining makes at most two new pairs;
 *     h e [ll] o        heap: (h e, 12) (e ll, 40) ...     entries of pairs that are gone stay, and
 *                                                          are skipped when they come up
 *
 * So n symbols cost O(n log n), also when a pre-token is a whole megabyte, and 28 bytes of memory
 * for each symbol of the longest pre-token.
 *
 * Where merges come from:
 *     a list       "left right" in the order of their ranks (gpt2 in GGUF, tokenizer.json)
 *     scores       SentencePiece joins whatever pair makes the best-scored token; so every way to
 *                  put a token together from two is a merge, ranked by the token's score, and
 *                  tokens of one score share a rank (llama in GGUF)
 *
 * A character that is no token becomes the tokens of its bytes (byte fallback, <0xNN>) if there are
 * all of them, otherwise the unknown token (several in a row: one, if they are fused), or nothing.
 *
 * Internal to the tokenizer. Thread: a bpe is immutable; a work area belongs to one thread.
 */
#ifndef MLXD_MODEL_BPE_H
#define MLXD_MODEL_BPE_H

#include "model/tokenizer.h"
#include "model/lexicon.h"

typedef struct mlxd_bpe_merge {
    int32_t left, right; /* left -1: a free slot */
    uint32_t rank;
    int32_t id; /* what they become */
} mlxd_bpe_merge;

typedef struct mlxd_bpe {
    const mlxd_lexicon *lexicon; /* lent */
    mlxd_bpe_merge *slots;       /* open addressing by (left, right) */
    size_t slot_mask;            /* number of slots - 1 */
    /* Bytes are symbols: the token of each. Characters are: the token <0xNN>. -1: there is none. */
    int32_t byte_ids[256];
    bool fallback; /* characters that are no tokens become those bytes */
    bool fuse_unknown;
    bool ignore_merges; /* a word that is a token becomes that token, whatever the merges say */
    int32_t unknown;    /* -1: none */
    /* No merge makes a token with U+2581 behind another character: words can be cut there. */
    bool cut_words;
    bool complete; /* every symbol gives a token, so that a word's bytes bound its tokens */
} mlxd_bpe;

/* Begins a bpe over `x`, which must outlive it, with room for `merges` merges. Byte ids are found
 * here: DATA when bytes are symbols and an everyday character has no token (tokenizer.h). Deinit
 * also after an error, and of a zeroed one. */
mlxd_err mlxd_bpe_init(mlxd_bpe *b, const mlxd_lexicon *x, size_t merges,
                       mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_bpe_deinit(mlxd_bpe *b);
/* Says which token stands for the byte, when characters are symbols. */
void mlxd_bpe_set_byte(mlxd_bpe *b, uint8_t byte, int32_t id);

/* What a merge of a list is: the texts as the file spells them. */
typedef struct mlxd_bpe_rule {
    mlxd_slice left, right;
    uint32_t rank;
} mlxd_bpe_rule;
/* Adds a merge; the number given to init must not be passed (asserted). DATA for halves or a result
 * that are no merged tokens. One that is there already: DATA, or the later one wins if `again`. */
mlxd_err mlxd_bpe_add(mlxd_bpe *b, mlxd_bpe_rule rule, bool again, mlxd_why *why) MLXD_MUST_CHECK;

/* Makes all merges from the scores of the merged tokens [lexicon->count]; instead of init and add.
 * DATA for scores that are no numbers, and for a vocabulary whose texts are so long that looking at
 * all their halves would take minutes. */
mlxd_err mlxd_bpe_init_scores(mlxd_bpe *b, const mlxd_lexicon *x, const float *scores,
                              mlxd_why *why) MLXD_MUST_CHECK;

struct mlxd_bpe_symbol;

/* Begins zeroed; grows to the longest pre-token. */
typedef struct mlxd_bpe_work {
    struct mlxd_bpe_symbol *symbols;
    uint64_t *heap; /* pairs that may be joined */
    size_t symbols_cap, heap_cap, heap_count;
    uint64_t heap_steps; /* entries moved in the heap so far: what tests count instead of time */
} mlxd_bpe_work;
void mlxd_bpe_work_deinit(mlxd_bpe_work *w);

/* Appends the ids of `word` (fewer than 2^31 bytes; UTF-8 where characters are symbols) to `out`.
 * NOMEM; RANGE, at once where it is certain, when they cannot fit `tokens_max` (0 = no bound). */
mlxd_err mlxd_bpe_encode(const mlxd_bpe *b, mlxd_bpe_work *w, mlxd_slice word, size_t tokens_max,
                         mlxd_tokens *out) MLXD_MUST_CHECK;
/* The merge of two adjacent tokens; NULL: none. */
const mlxd_bpe_merge *mlxd_bpe_find(const mlxd_bpe *b, int32_t left, int32_t right);

#endif
