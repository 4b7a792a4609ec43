/* bpe.c - see bpe.h. */
#include "model/bpe.h"

#include "base/mem.h"

#include <string.h>

#define KEY_MERGES "tokenizer.ggml.merges"

/* As in lexicon.c: a longer run of full slots means a file made for collisions. */
#define PROBES_MAX 4096

#define NONE UINT32_MAX

/* ---- merges ---- */

static uint64_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right; /* splitmix64's finaliser */
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

/* The merge of two adjacent tokens; NULL: none. */
static const mlxd_bpe_merge *find_merge(const mlxd_bpe *b, int32_t left, int32_t right) {
    for (size_t i = hash_pair(left, right) & b->slot_mask;; i = (i + 1) & b->slot_mask) {
        const mlxd_bpe_merge *m = &b->slots[i];
        if (m->left < 0)
            return NULL;
        if (m->left == left && m->right == right)
            return m;
    }
}

static mlxd_err put_merge(mlxd_bpe *b, mlxd_bpe_merge m, mlxd_why *why) {
    size_t i = hash_pair(m.left, m.right) & b->slot_mask;
    for (size_t probes = 0; b->slots[i].left >= 0; i = (i + 1) & b->slot_mask) {
        if (b->slots[i].left == m.left && b->slots[i].right == m.right)
            return mlxd_fail(why, MLXD_ERR_DATA, KEY_MERGES ": merges %u and %u are the same",
                             b->slots[i].rank, m.rank);
        if (++probes > PROBES_MAX)
            return mlxd_fail(why, MLXD_ERR_DATA, KEY_MERGES ": made for hash collisions");
    }
    b->slots[i] = m;
    return MLXD_OK;
}

/* "left right": exactly one blank, for a blank inside a token is spelled otherwise. */
static mlxd_err read_merge(mlxd_bpe *b, const mlxd_lexicon *x, uint32_t rank, mlxd_slice text,
                           mlxd_why *why) {
    uint8_t bytes[2 * MLXD_LIMIT_TOKEN_BYTES + 1];
    size_t left_len, right_len;
    const uint8_t *blank = text.len ? memchr(text.data, ' ', text.len) : NULL;
    if (!blank || text.len > sizeof bytes)
        goto malformed;
    mlxd_slice left = {text.data, (size_t)(blank - text.data)};
    mlxd_slice right = {blank + 1, text.len - left.len - 1};
    if (!mlxd_lexicon_unspell(left, bytes, &left_len) || left_len == 0 ||
        !mlxd_lexicon_unspell(right, bytes + left_len, &right_len) || right_len == 0)
        goto malformed;
    mlxd_bpe_merge m = {
        .left = mlxd_lexicon_find(x, (mlxd_slice){bytes, left_len}),
        .right = mlxd_lexicon_find(x, (mlxd_slice){bytes + left_len, right_len}),
        .rank = rank,
        .id = mlxd_lexicon_find(x, (mlxd_slice){bytes, left_len + right_len}),
    };
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         KEY_MERGES ": merge %u, \"%.*s\": %s is no normal token", rank,
                         (int)MLXD_MIN(text.len, 128), (const char *)text.data,
                         m.left < 0    ? "its left half"
                         : m.right < 0 ? "its right half"
                                       : "its result");
    return put_merge(b, m, why);
malformed:
    return mlxd_fail(why, MLXD_ERR_DATA,
                     KEY_MERGES ": merge %u, \"%.*s\", is not two tokens with a blank between",
                     rank, (int)MLXD_MIN(text.len, 128), (const char *)text.data);
}

static bool everyday(unsigned byte) {
    return (byte >= 0x20 && byte <= 0x7e) || byte == '\t' || byte == '\n' || byte == '\r';
}

static mlxd_err find_bytes(mlxd_bpe *b, const mlxd_lexicon *x, mlxd_why *why) {
    for (unsigned i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        b->byte_ids[i] = mlxd_lexicon_find(x, (mlxd_slice){&byte, 1});
        if (b->byte_ids[i] < 0 && everyday(i))
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "tokenizer.ggml.tokens: no normal token for the byte 0x%02x", i);
    }
    return MLXD_OK;
}

mlxd_err mlxd_bpe_init(mlxd_bpe *b, const mlxd_lexicon *x, const mlxd_gguf *g, mlxd_why *why) {
    MLXD_ASSERT(b && x && g);
    *b = (mlxd_bpe){.longest = x->longest};
    mlxd_err err = find_bytes(b, x, why);
    if (err)
        return err;
    mlxd_gguf_array merges;
    err = mlxd_gguf_get_array(g, KEY_MERGES, &merges, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "no array " KEY_MERGES);
    if (err)
        return err;
    if (merges.type != MLXD_GGUF_STRING)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_MERGES ": expected strings, found type %d",
                         (int)merges.type);
    if (merges.count > MLXD_LIMIT_GGUF_ARRAY)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_MERGES ": %llu merges, limit %u",
                         (unsigned long long)merges.count, MLXD_LIMIT_GGUF_ARRAY);
    size_t slots = 16;
    while (slots < merges.count * 2)
        slots *= 2;
    b->slots = mlxd_mem_new(slots, sizeof *b->slots);
    if (!b->slots)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu merge slots", slots);
    b->slot_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        b->slots[i].left = -1;
    size_t cursor = 0;
    for (uint32_t rank = 0; rank < merges.count; rank++) {
        err = read_merge(b, x, rank, mlxd_gguf_array_next_str(&merges, &cursor), why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

void mlxd_bpe_deinit(mlxd_bpe *b) {
    mlxd_mem_free(b->slots);
    *b = (mlxd_bpe){0};
}

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

/* ---- one pre-token ---- */

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

/* The merge of the symbol at `at` and the next one; NULL: none. */
static const mlxd_bpe_merge *merge_at(const mlxd_bpe *b, const mlxd_bpe_work *w, uint32_t at) {
    const symbol *left = &w->symbols[at];
    if (left->id < 0 || left->next == NONE)
        return NULL;
    return find_merge(b, left->id, w->symbols[left->next].id);
}

static void offer(const mlxd_bpe *b, mlxd_bpe_work *w, uint32_t at) {
    const mlxd_bpe_merge *m = merge_at(b, w, at);
    if (m)
        push(w, (pair)m->rank << 32 | at);
}

/* Joins a pair, unless it is gone: a rank belongs to one pair of tokens, so if the merge here has
 * another rank, or there is none, one of the two has grown or was swallowed. */
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

mlxd_err mlxd_bpe_encode(const mlxd_bpe *b, mlxd_bpe_work *w, mlxd_slice word, size_t tokens_max,
                         mlxd_tokens *out) {
    MLXD_ASSERT(word.len < INT32_MAX);
    uint32_t n = 0;
    for (size_t i = 0; i < word.len; i++)
        n += b->byte_ids[word.data[i]] >= 0;
    if (n == 0)
        return MLXD_OK;
    size_t least = (n - 1) / b->longest + 1; /* ids that these bytes give at least */
    if (tokens_max && (out->count > tokens_max || least > tokens_max - out->count))
        return MLXD_ERR_RANGE;
    if (!prepare(w, n))
        return MLXD_ERR_NOMEM;
    uint32_t count = 0;
    for (size_t i = 0; i < word.len; i++) {
        int32_t id = b->byte_ids[word.data[i]];
        if (id < 0)
            continue;
        w->symbols[count] = (symbol){id, count ? count - 1 : NONE, count + 1};
        count++;
    }
    w->symbols[n - 1].next = NONE;
    for (uint32_t i = 0; i + 1 < n; i++)
        offer(b, w, i);
    while (w->heap_count > 0)
        join(b, w, pop(w));
    for (uint32_t i = 0; i != NONE; i = w->symbols[i].next) {
        mlxd_err err = mlxd_tokens_add(out, w->symbols[i].id, tokens_max);
        if (err)
            return err;
    }
    return MLXD_OK;
}
