/* special.c - see special.h. */
#include "model/special.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *pa, const void *pb) {
    const mlxd_special_entry *a = pa, *b = pb;
    int order = memcmp(a->text.data, b->text.data, MLXD_MIN(a->text.len, b->text.len));
    if (order)
        return order;
    return (a->text.len > b->text.len) - (a->text.len < b->text.len);
}

static bool belongs(const mlxd_lexicon *x, int32_t id, bool control) {
    if (mlxd_lexicon_bytes(x, id).len == 0)
        return false;
    mlxd_token_type type = mlxd_lexicon_type(x, id);
    return type == MLXD_TOKEN_USER_DEFINED ||
           (control && (type == MLXD_TOKEN_CONTROL || type == MLXD_TOKEN_UNKNOWN));
}

mlxd_err mlxd_special_init(mlxd_special *s, const mlxd_lexicon *x, bool control, mlxd_why *why) {
    MLXD_ASSERT(s && x);
    *s = (mlxd_special){0};
    size_t count = 0;
    for (size_t id = 0; id < x->count; id++)
        count += belongs(x, (int32_t)id, control);
    s->entries = mlxd_mem_new(count, sizeof *s->entries);
    if (!s->entries)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu special tokens", count);
    for (size_t id = 0; id < x->count; id++)
        if (belongs(x, (int32_t)id, control))
            s->entries[s->count++] =
                (mlxd_special_entry){mlxd_lexicon_bytes(x, (int32_t)id), (int32_t)id};
    MLXD_ASSERT(s->count == count);
    qsort(s->entries, count, sizeof *s->entries, compare);
    for (size_t i = 1; i < count; i++)
        if (mlxd_slice_eq(s->entries[i - 1].text, s->entries[i].text))
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "tokenizer.ggml.tokens: tokens %d and %d are the same",
                             MLXD_MIN(s->entries[i - 1].id, s->entries[i].id),
                             MLXD_MAX(s->entries[i - 1].id, s->entries[i].id));
    for (size_t i = 0; i < count; i++)
        s->first[s->entries[i].text.data[0] + 1]++;
    for (size_t b = 0; b < 256; b++)
        s->first[b + 1] += s->first[b];
    return MLXD_OK;
}

void mlxd_special_deinit(mlxd_special *s) {
    mlxd_mem_free(s->entries);
    *s = (mlxd_special){0};
}

/* First entry of [lo, hi) whose byte at `depth` is at least `byte`; all of them have one. */
static size_t lower_bound(const mlxd_special *s, size_t lo, size_t hi, size_t depth,
                          unsigned byte) {
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->entries[mid].text.data[depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest entry that `text` begins with; NULL: none. */
static const mlxd_special_entry *match_here(const mlxd_special *s, mlxd_slice text) {
    const mlxd_special_entry *best = NULL;
    size_t lo = s->first[text.data[0]], hi = s->first[text.data[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        /* The range agrees with the text up to `depth`; a shorter entry sorts first. */
        if (s->entries[lo].text.len == depth)
            best = &s->entries[lo++];
        if (depth == text.len)
            break;
        lo = lower_bound(s, lo, hi, depth, text.data[depth]);
        hi = lower_bound(s, lo, hi, depth, text.data[depth] + 1u);
    }
    return best;
}

bool mlxd_special_next(const mlxd_special *s, mlxd_slice text, size_t from,
                       mlxd_special_match *match) {
    MLXD_ASSERT(from <= text.len);
    if (s->count == 0)
        return false;
    for (size_t at = from; at < text.len; at++) {
        const mlxd_special_entry *e = match_here(s, (mlxd_slice){text.data + at, text.len - at});
        if (e) {
            *match = (mlxd_special_match){at, at + e->text.len, e->id};
            return true;
        }
    }
    return false;
}

int32_t mlxd_special_find(const mlxd_special *s, mlxd_slice text) {
    if (text.len == 0 || s->count == 0)
        return -1;
    const mlxd_special_entry *e = match_here(s, text);
    return e && e->text.len == text.len ? e->id : -1;
}
