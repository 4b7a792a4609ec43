/* bpe.c - see bpe.h: joining the symbols of a word; the merges are read in bpe_merges.c. */
#include "model/bpe.h"

#include "base/mem.h"
#include "format/utf8.h"

#include <string.h>

#define NONE UINT32_MAX

/* ---- the heap: four children each, as it is cache misses that cost ---- */

#define CHILDREN 4

/* Rank above, index of the left symbol below: the smallest is the one to join next. */
typedef uint64_t pair;

/* The heap has room for every pair that can be in it, see prepare. */
static void push(mlxd_bpe_work *w, pair p) {
    MLXD_ASSERT(w->heap_count < w->heap_cap);
    size_t i = w->heap_count++;
    for (size_t parent; i > 0; i = parent, w->heap_steps++) {
        parent = (i - 1) / CHILDREN;
        if (p >= w->heap[parent])
            break;
        w->heap[i] = w->heap[parent];
    }
    w->heap[i] = p;
    w->heap_steps++;
}

static pair pop(mlxd_bpe_work *w) {
    MLXD_ASSERT(w->heap_count > 0);
    pair top = w->heap[0], last = w->heap[--w->heap_count];
    size_t i = 0;
    for (size_t first; (first = CHILDREN * i + 1) < w->heap_count; w->heap_steps++) {
        size_t end = MLXD_MIN(first + CHILDREN, w->heap_count), child = first;
        for (size_t c = first + 1; c < end; c++)
            if (w->heap[c] < w->heap[child])
                child = c;
        if (w->heap[child] >= last)
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    w->heap_steps++;
    return top;
}

/* ---- the list ---- */

struct mlxd_bpe_symbol {
    int32_t id;          /* -1: joined to its left neighbour */
    uint32_t prev, next; /* indices; NONE at the ends */
};
typedef struct mlxd_bpe_symbol symbol;

void mlxd_bpe_work_deinit(mlxd_bpe_work *w) {
    mlxd_mem_free(w->symbols);
    mlxd_mem_free(w->heap);
    *w = (mlxd_bpe_work){0};
}

/* Room for `n` symbols and their pairs: n - 1 at first; each join takes one out and puts at most
 * two in, and there are at most n - 1 joins. */
static bool prepare(mlxd_bpe_work *w, size_t n) {
    if (n > w->symbols_cap) {
        size_t cap = MLXD_MAX(n, 64u);
        symbol *p = mlxd_mem_resize(w->symbols, cap, sizeof *p);
        if (!p)
            return false;
        w->symbols = p;
        w->symbols_cap = cap;
    }
    if (2 * n > w->heap_cap) {
        size_t cap = MLXD_MAX(2 * n, 128u);
        pair *p = mlxd_mem_resize(w->heap, cap, sizeof *p);
        if (!p)
            return false;
        w->heap = p;
        w->heap_cap = cap;
    }
    w->heap_count = 0;
    return true;
}

/* ---- symbols ---- */

/* Symbols on their way into the list. */
typedef struct filling {
    symbol *symbols;
    uint32_t count;
    bool unknown; /* an unknown token waits: what follows may be fused with it */
} filling;

static void add_symbol(filling *f, int32_t id) {
    f->symbols[f->count] = (symbol){id, f->count ? f->count - 1 : NONE, f->count + 1};
    f->count++;
}

static void add_waiting(filling *f, int32_t unknown) {
    if (f->unknown)
        add_symbol(f, unknown);
    f->unknown = false;
}

/* A character that is no token. As in Hugging Face tokenizers, an unknown token that waits is put
 * behind bytes, not before them. */
static void add_stranger(const mlxd_bpe *b, filling *f, const uint8_t *c, size_t len) {
    bool bytes = b->fallback;
    for (size_t i = 0; i < len && bytes; i++)
        bytes = b->byte_ids[c[i]] >= 0;
    if (bytes) {
        for (size_t i = 0; i < len; i++)
            add_symbol(f, b->byte_ids[c[i]]);
    } else if (b->unknown >= 0) {
        if (!b->fuse_unknown)
            add_waiting(f, b->unknown);
        f->unknown = true;
    }
}

/* Writes the symbols of `word`, at most one for each byte, and returns how many. */
static uint32_t fill(const mlxd_bpe *b, mlxd_slice word, symbol *symbols) {
    filling f = {.symbols = symbols};
    for (size_t at = 0, len; at < word.len; at += len) {
        const uint8_t *c = word.data + at;
        uint32_t cp;
        len = 1;
        if (b->lexicon->byte_alphabet) {
            if (b->byte_ids[*c] >= 0)
                add_symbol(&f, b->byte_ids[*c]);
            continue;
        }
        len = *c < 0x80 ? 1 : mlxd_utf8_next(c, word.len - at, &cp);
        int32_t id = mlxd_lexicon_find(b->lexicon, (mlxd_slice){c, len});
        if (id < 0) {
            add_stranger(b, &f, c, len);
            continue;
        }
        add_waiting(&f, b->unknown);
        add_symbol(&f, id);
    }
    add_waiting(&f, b->unknown);
    if (f.count > 0)
        symbols[f.count - 1].next = NONE;
    return f.count;
}

/* ---- joining ---- */

/* The merge of the symbol at `at` and the next one; NULL: none. */
static const mlxd_bpe_merge *merge_at(const mlxd_bpe *b, const mlxd_bpe_work *w, uint32_t at) {
    const symbol *left = &w->symbols[at];
    if (left->id < 0 || left->next == NONE)
        return NULL;
    return mlxd_bpe_find(b, left->id, w->symbols[left->next].id);
}

static void offer(const mlxd_bpe *b, mlxd_bpe_work *w, uint32_t at) {
    const mlxd_bpe_merge *m = merge_at(b, w, at);
    if (m)
        push(w, (pair)m->rank << 32 | at);
}

/* Joins a pair, unless it is gone: if there is no merge here or its rank is another one, one of the
 * two has grown or was swallowed. (Pairs may share a rank; then this is the turn of either.) */
static void join(const mlxd_bpe *b, mlxd_bpe_work *w, pair p) {
    uint32_t at = (uint32_t)p;
    const mlxd_bpe_merge *m = merge_at(b, w, at);
    if (!m || m->rank != p >> 32)
        return;
    symbol *left = &w->symbols[at], *right = &w->symbols[left->next];
    left->id = m->id;
    left->next = right->next;
    right->id = -1;
    if (left->next != NONE)
        w->symbols[left->next].prev = at;
    offer(b, w, at);
    if (left->prev != NONE)
        offer(b, w, left->prev);
}

static mlxd_err encode_word(const mlxd_bpe *b, mlxd_bpe_work *w, mlxd_slice word, size_t tokens_max,
                            mlxd_tokens *out) {
    if (!prepare(w, word.len))
        return MLXD_ERR_NOMEM;
    uint32_t n = fill(b, word, w->symbols);
    for (uint32_t i = 0; i + 1 < n; i++)
        offer(b, w, i);
    while (w->heap_count > 0)
        join(b, w, pop(w));
    for (uint32_t i = 0; n > 0 && i != NONE; i = w->symbols[i].next) {
        mlxd_err err = mlxd_tokens_add(out, w->symbols[i].id, tokens_max);
        if (err)
            return err;
    }
    return MLXD_OK;
}

/* Bytes of `word` that give a token. */
static size_t count_bytes(const mlxd_bpe *b, mlxd_slice word) {
    size_t n = 0;
    if (!b->lexicon->byte_alphabet)
        return word.len;
    for (size_t i = 0; i < word.len; i++)
        n += b->byte_ids[word.data[i]] >= 0;
    return n;
}

/* Where the part of `word` from `at` ends: before a U+2581 behind another character, if no merge
 * reaches over such a place. So a text without pre-tokenizer does not become one huge word. */
static size_t part_end(const mlxd_bpe *b, mlxd_slice word, size_t at) {
    static const uint8_t mark[3] = {0xe2, 0x96, 0x81};
    if (!b->cut_words)
        return word.len;
    while (word.len - at >= 3 && memcmp(word.data + at, mark, 3) == 0)
        at += 3;
    while (at < word.len) {
        const uint8_t *p = memchr(word.data + at, mark[0], word.len - at);
        if (!p)
            return word.len;
        at = (size_t)(p - word.data);
        if (word.len - at >= 3 && memcmp(p, mark, 3) == 0)
            return at;
        at++;
    }
    return word.len;
}

mlxd_err mlxd_bpe_encode(const mlxd_bpe *b, mlxd_bpe_work *w, mlxd_slice word, size_t tokens_max,
                         mlxd_tokens *out) {
    MLXD_ASSERT(word.len < INT32_MAX);
    if (word.len == 0)
        return MLXD_OK;
    if (b->ignore_merges) {
        int32_t id = mlxd_lexicon_find(b->lexicon, word);
        if (id >= 0)
            return mlxd_tokens_add(out, id, tokens_max);
    }
    size_t n = count_bytes(b, word);
    if (n == 0)
        return MLXD_OK;
    bool bounded = b->complete && (b->lexicon->byte_alphabet || b->fallback);
    size_t least = bounded ? (n - 1) / b->lexicon->longest + 1 : 0;
    if (tokens_max && (out->count > tokens_max || least > tokens_max - out->count))
        return MLXD_ERR_RANGE;
    for (size_t at = 0, end; at < word.len; at = end) {
        end = part_end(b, word, at);
        mlxd_err err = encode_word(b, w, (mlxd_slice){word.data + at, end - at}, tokens_max, out);
        if (err)
            return err;
    }
    return MLXD_OK;
}
