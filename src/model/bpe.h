/* bpe.h - byte-pair merges: the bytes of one pre-token to token ids.
 *
 * The bytes become single-byte tokens in a doubly linked list; then the adjacent pair whose merge
 * has the lowest rank, the leftmost of several, is joined, until no pair has a merge (Sennrich,
 * Haddow, Birch 2016, in the order of Hugging Face tokenizers). A heap over (rank, position) finds
 * that pair:
 *
 *     h e l l o         heap: (l l, 7) (h e, 12) ...       joining makes at most two new pairs;
 *     h e [ll] o        heap: (h e, 12) (e ll, 40) ...     entries of pairs that are gone stay, and
 *                                                          are skipped when they come up
 *
 * So n bytes cost O(n log n), also when a pre-token is a whole megabyte, and 28 bytes of memory for
 * each byte of the longest pre-token.
 *
 * Internal to the tokenizer. Thread: a bpe is immutable; a work area belongs to one thread.
 */
#ifndef MLXD_MODEL_BPE_H
#define MLXD_MODEL_BPE_H

#include "model/tokenizer.h"
#include "model/lexicon.h"

typedef struct mlxd_bpe_merge {
    int32_t left, right; /* left -1: a free slot */
    uint32_t rank;       /* position in the file */
    int32_t id;          /* what they become */
} mlxd_bpe_merge;

typedef struct mlxd_bpe {
    mlxd_bpe_merge *slots; /* open addressing by (left, right) */
    size_t slot_mask;      /* number of slots - 1 */
    int32_t byte_ids[256]; /* token of each byte; -1: the vocabulary has none */
    size_t longest;        /* bytes of the longest normal token */
} mlxd_bpe;

/* Reads tokenizer.ggml.merges ("left right"). DATA for a merge whose halves or result are no normal
 * tokens, for one that is there twice, and when an everyday character has no token (tokenizer.h).
 * Deinit also after an error, and of a zeroed one. */
mlxd_err mlxd_bpe_init(mlxd_bpe *b, const mlxd_lexicon *x, const mlxd_gguf *g,
                       mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_bpe_deinit(mlxd_bpe *b);

struct mlxd_bpe_symbol;

/* Begins zeroed; grows to the longest pre-token. */
typedef struct mlxd_bpe_work {
    struct mlxd_bpe_symbol *symbols;
    uint64_t *heap; /* pairs that may be joined */
    size_t symbols_cap, heap_cap, heap_count;
    uint64_t heap_steps; /* entries moved in the heap so far: what tests count instead of time */
} mlxd_bpe_work;
void mlxd_bpe_work_deinit(mlxd_bpe_work *w);

/* Appends the ids of `word` (any bytes, fewer than 2^31) to `out`. NOMEM; RANGE, at once, when its
 * ids cannot fit `tokens_max` (0 = no bound). */
mlxd_err mlxd_bpe_encode(const mlxd_bpe *b, mlxd_bpe_work *w, mlxd_slice word, size_t tokens_max,
                         mlxd_tokens *out) MLXD_MUST_CHECK;

#endif
