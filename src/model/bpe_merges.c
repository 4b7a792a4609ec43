/* bpe_merges.c - the table of merges, from a list or from scores; see bpe.h. */
#include "model/bpe.h"

#include "base/limits.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* As in lexicon.c: a longer run of full slots means a file made for collisions. */
#define PROBES_MAX 4096

/* Bytes to be hashed for looking at the halves of all tokens. Gemma's 262144 need 3e7. */
#define HALVES_MAX (1ull << 32)

#define MARK "\xe2\x96\x81" /* U+2581, the blank of SentencePiece */

static uint64_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right; /* splitmix64's finaliser */
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

const mlxd_bpe_merge *mlxd_bpe_find(const mlxd_bpe *b, int32_t left, int32_t right) {
    for (size_t i = hash_pair(left, right) & b->slot_mask;; i = (i + 1) & b->slot_mask) {
        const mlxd_bpe_merge *m = &b->slots[i];
        if (m->left < 0)
            return NULL;
        if (m->left == left && m->right == right)
            return m;
    }
}

static mlxd_err put_merge(mlxd_bpe *b, mlxd_bpe_merge m, bool again, mlxd_why *why) {
    size_t i = hash_pair(m.left, m.right) & b->slot_mask;
    for (size_t probes = 0; b->slots[i].left >= 0; i = (i + 1) & b->slot_mask) {
        bool same = b->slots[i].left == m.left && b->slots[i].right == m.right;
        if (same && again)
            break;
        if (same)
            return mlxd_fail(why, MLXD_ERR_DATA, "merges %u and %u are the same", b->slots[i].rank,
                             m.rank);
        if (++probes > PROBES_MAX)
            return mlxd_fail(why, MLXD_ERR_DATA, "merges made for hash collisions");
    }
    b->slots[i] = m;
    return MLXD_OK;
}

static mlxd_err make_slots(mlxd_bpe *b, size_t merges, mlxd_why *why) {
    size_t slots = 16;
    while (slots / 2 < merges)
        slots *= 2;
    b->slots = mlxd_mem_new(slots, sizeof *b->slots);
    if (!b->slots)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu merge slots", slots);
    b->slot_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        b->slots[i].left = -1;
    return MLXD_OK;
}

/* ---- symbols ---- */

static bool everyday(unsigned byte) {
    return (byte >= 0x20 && byte <= 0x7e) || byte == '\t' || byte == '\n' || byte == '\r';
}

static mlxd_err find_bytes(mlxd_bpe *b, mlxd_why *why) {
    for (unsigned i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        b->byte_ids[i] =
            b->lexicon->byte_alphabet ? mlxd_lexicon_find(b->lexicon, (mlxd_slice){&byte, 1}) : -1;
        if (b->lexicon->byte_alphabet && b->byte_ids[i] < 0 && everyday(i))
            return mlxd_fail(why, MLXD_ERR_DATA, "no normal token for the byte 0x%02x", i);
    }
    return MLXD_OK;
}

mlxd_err mlxd_bpe_init(mlxd_bpe *b, const mlxd_lexicon *x, size_t merges, mlxd_why *why) {
    MLXD_ASSERT(b && x);
    *b = (mlxd_bpe){.lexicon = x, .unknown = -1, .complete = x->byte_alphabet};
    b->cut_words = !x->byte_alphabet && mlxd_lexicon_find(x, mlxd_slice_str(MARK)) >= 0;
    mlxd_err err = find_bytes(b, why);
    return err ? err : make_slots(b, merges, why);
}

void mlxd_bpe_set_byte(mlxd_bpe *b, uint8_t byte, int32_t id) {
    MLXD_ASSERT(!b->lexicon->byte_alphabet);
    b->byte_ids[byte] = id;
    b->complete = true;
    for (size_t i = 0; i < 256; i++)
        b->complete &= b->byte_ids[i] >= 0;
}

void mlxd_bpe_deinit(mlxd_bpe *b) {
    mlxd_mem_free(b->slots);
    *b = (mlxd_bpe){0};
}

/* ---- from a list ---- */

/* Has it U+2581 behind another character? */
static bool has_inner_mark(mlxd_slice text) {
    bool other = false;
    for (size_t at = 0; at < text.len;) {
        bool is_mark = text.len - at >= 3 && memcmp(text.data + at, MARK, 3) == 0;
        if (is_mark && other)
            return true;
        other |= !is_mark;
        at += is_mark ? 3 : 1;
    }
    return false;
}

static mlxd_err add_found(mlxd_bpe *b, mlxd_bpe_merge m, bool again, mlxd_why *why) {
    if (b->cut_words && has_inner_mark(mlxd_lexicon_text(b->lexicon, m.id)))
        b->cut_words = false;
    return put_merge(b, m, again, why);
}

/* The two halves as merges see them, one behind the other. */
static bool join_halves(const mlxd_bpe *b, const mlxd_bpe_rule *r, uint8_t *bytes, size_t *left,
                        size_t *right) {
    if (r->left.len == 0 || r->right.len == 0 || r->left.len > MLXD_LIMIT_TOKEN_BYTES ||
        r->right.len > MLXD_LIMIT_TOKEN_BYTES)
        return false;
    if (b->lexicon->byte_alphabet)
        return mlxd_lexicon_unspell(r->left, bytes, left) && *left > 0 &&
               mlxd_lexicon_unspell(r->right, bytes + *left, right) && *right > 0;
    memcpy(bytes, r->left.data, r->left.len);
    memcpy(bytes + r->left.len, r->right.data, r->right.len);
    *left = r->left.len;
    *right = r->right.len;
    return true;
}

mlxd_err mlxd_bpe_add(mlxd_bpe *b, mlxd_bpe_rule r, bool again, mlxd_why *why) {
    uint8_t bytes[2 * MLXD_LIMIT_TOKEN_BYTES] MLXD_UNCLEARED;
    size_t left, right;
    if (!join_halves(b, &r, bytes, &left, &right))
        return mlxd_fail(why, MLXD_ERR_DATA, "merge %u, \"%.*s\" and \"%.*s\", is not two tokens",
                         r.rank, (int)MLXD_MIN(r.left.len, 64), (const char *)r.left.data,
                         (int)MLXD_MIN(r.right.len, 64), (const char *)r.right.data);
    mlxd_bpe_merge m = {
        .left = mlxd_lexicon_find(b->lexicon, (mlxd_slice){bytes, left}),
        .right = mlxd_lexicon_find(b->lexicon, (mlxd_slice){bytes + left, right}),
        .rank = r.rank,
        .id = mlxd_lexicon_find(b->lexicon, (mlxd_slice){bytes, left + right}),
    };
    if (m.left >= 0 && m.right >= 0 && m.id >= 0)
        return add_found(b, m, again, why);
    return mlxd_fail(why, MLXD_ERR_DATA, "merge %u, \"%.*s %.*s\": %s is no normal token", r.rank,
                     (int)MLXD_MIN(r.left.len, 64), (const char *)r.left.data,
                     (int)MLXD_MIN(r.right.len, 64), (const char *)r.right.data,
                     m.left < 0    ? "its left half"
                     : m.right < 0 ? "its right half"
                                   : "its result");
}

/* ---- from scores ---- */

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *pa, const void *pb) {
    const scored *a = pa, *b = pb;
    return (a->score < b->score) - (a->score > b->score);
}

/* ranks[id], 0 for the best score. Merged tokens only; the others have none. */
static mlxd_err rank_scores(const mlxd_lexicon *x, const float *scores, uint32_t *ranks,
                            mlxd_why *why) {
    scored *order = mlxd_mem_new(x->count, sizeof *order);
    if (!order)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu scores", x->count);
    mlxd_err err = MLXD_OK;
    for (size_t i = 0; i < x->count; i++) {
        if (scores[i] != scores[i])
            err = mlxd_fail(why, MLXD_ERR_DATA, "the score of token %zu is not a number", i);
        order[i] = (scored){scores[i], (int32_t)i};
    }
    if (!err)
        qsort(order, x->count, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; i < x->count && !err; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        ranks[order[i].id] = rank;
    }
    mlxd_mem_free(order);
    return err;
}

static bool is_inside(uint8_t byte) {
    return (byte & 0xc0) == 0x80; /* of a character */
}

/* Every way to make token `id` of two tokens; counts them, and adds them if `ranks`. */
static mlxd_err halves(mlxd_bpe *b, int32_t id, const uint32_t *ranks, size_t *count,
                       mlxd_why *why) {
    const mlxd_lexicon *x = b->lexicon;
    mlxd_slice text = mlxd_lexicon_text(x, id);
    if (mlxd_lexicon_find(x, text) != id)
        return MLXD_OK; /* merges do not make it */
    for (size_t cut = 1; cut < text.len; cut++) {
        if (is_inside(text.data[cut]))
            continue;
        int32_t left = mlxd_lexicon_find(x, (mlxd_slice){text.data, cut});
        if (left < 0)
            continue;
        int32_t right = mlxd_lexicon_find(x, (mlxd_slice){text.data + cut, text.len - cut});
        if (right < 0)
            continue;
        ++*count;
        if (!ranks)
            continue;
        mlxd_err err = add_found(b, (mlxd_bpe_merge){left, right, ranks[id], id}, false, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

mlxd_err mlxd_bpe_init_scores(mlxd_bpe *b, const mlxd_lexicon *x, const float *scores,
                              mlxd_why *why) {
    MLXD_ASSERT(b && x && scores);
    *b = (mlxd_bpe){.lexicon = x};
    uint64_t work = 0;
    for (size_t id = 0; id < x->count; id++) {
        uint64_t len = mlxd_lexicon_text(x, (int32_t)id).len;
        work += len * len;
    }
    if (work > HALVES_MAX)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "the tokens are too long to be scored (%llu, limit "
                         "%llu: the sum of their squared lengths)",
                         (unsigned long long)work, HALVES_MAX);
    size_t count = 0;
    mlxd_err err = MLXD_OK;
    for (size_t id = 0; id < x->count && !err; id++)
        err = halves(b, (int32_t)id, NULL, &count, why);
    if (!err)
        err = mlxd_bpe_init(b, x, count, why);
    if (err)
        return err;
    uint32_t *ranks = mlxd_mem_new(x->count, sizeof *ranks);
    if (!ranks)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu scores", x->count);
    err = rank_scores(x, scores, ranks, why);
    for (size_t id = 0; id < x->count && !err; id++)
        err = halves(b, (int32_t)id, ranks, &count, why);
    mlxd_mem_free(ranks);
    return err;
}
