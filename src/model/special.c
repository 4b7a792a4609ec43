/* special.c - see special.h. */
#include "model/special.h"

#include "format/utf8.h"
#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>

void mlxd_special_init(mlxd_special *s) {
    *s = (mlxd_special){0};
    mlxd_buf_init(&s->texts, 0);
}

void mlxd_special_deinit(mlxd_special *s) {
    mlxd_mem_free(s->entries);
    mlxd_buf_deinit(&s->texts);
    *s = (mlxd_special){0};
}

mlxd_err mlxd_special_add(mlxd_special *s, mlxd_special_entry e, mlxd_slice text) {
    MLXD_ASSERT(text.len > 0 && text.len < UINT32_MAX);
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        mlxd_special_entry *p = mlxd_mem_resize(s->entries, cap, sizeof *p);
        if (!p)
            return MLXD_ERR_NOMEM;
        s->entries = p;
        s->cap = cap;
    }
    e.at = s->texts.len;
    e.len = (uint32_t)text.len;
    mlxd_buf_add(&s->texts, text.data, text.len);
    if (s->texts.failed)
        return MLXD_ERR_NOMEM;
    s->entries[s->count++] = e;
    return MLXD_OK;
}

/* ---- sorting ---- */

static int compare(const uint8_t *texts, const mlxd_special_entry *a, const mlxd_special_entry *b) {
    int order = memcmp(texts + a->at, texts + b->at, MLXD_MIN(a->len, b->len));
    if (order)
        return order;
    return (a->len > b->len) - (a->len < b->len);
}

/* Heapsort: the texts come from a file, and qsort has no way to be told where they are. */
static void sink(mlxd_special *s, size_t i, size_t count) {
    mlxd_special_entry e = s->entries[i];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count &&
            compare(s->texts.data, &s->entries[child], &s->entries[child + 1]) < 0)
            child++;
        if (compare(s->texts.data, &e, &s->entries[child]) >= 0)
            break;
        s->entries[i] = s->entries[child];
    }
    s->entries[i] = e;
}

static void sort(mlxd_special *s) {
    for (size_t i = s->count / 2; i-- > 0;)
        sink(s, i, s->count);
    for (size_t n = s->count; n > 1;) {
        mlxd_special_entry top = s->entries[0];
        s->entries[0] = s->entries[--n];
        s->entries[n] = top;
        sink(s, 0, n);
    }
}

static void count_first_bytes(mlxd_special *s) {
    memset(s->first, 0, sizeof s->first);
    for (size_t i = 0; i < s->count; i++)
        s->first[s->texts.data[s->entries[i].at] + 1]++;
    for (size_t b = 0; b < 256; b++)
        s->first[b + 1] += s->first[b];
}

mlxd_err mlxd_special_finish(mlxd_special *s, const char *where, mlxd_why *why) {
    sort(s);
    for (size_t i = 1; i < s->count; i++) {
        int32_t a = s->entries[i - 1].id, b = s->entries[i].id;
        if (compare(s->texts.data, &s->entries[i - 1], &s->entries[i]) == 0)
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: tokens %d and %d are the same", where,
                             MLXD_MIN(a, b), MLXD_MAX(a, b));
    }
    count_first_bytes(s);
    return MLXD_OK;
}

void mlxd_special_cut(mlxd_special *s, int32_t id) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->entries[i].id < id)
            s->entries[kept++] = s->entries[i];
    s->count = kept;
    count_first_bytes(s);
}

/* ---- searching ---- */

static uint8_t byte_at(const mlxd_special *s, size_t entry, size_t depth) {
    return s->texts.data[s->entries[entry].at + depth];
}

/* First entry of [lo, hi) whose byte at `depth` is at least `byte`; all of them have one. */
static size_t lower_bound(const mlxd_special *s, size_t lo, size_t hi, size_t depth,
                          unsigned byte) {
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (byte_at(s, mid, depth) < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest entry that `text` begins with; those that need trust must end within `trusted` bytes.
 * NULL: none. */
static const mlxd_special_entry *match_here(const mlxd_special *s, mlxd_slice text,
                                            size_t trusted) {
    const mlxd_special_entry *best = NULL;
    size_t lo = s->first[text.data[0]], hi = s->first[text.data[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        /* The range agrees with the text up to `depth`; a shorter entry sorts first. */
        if (s->entries[lo].len == depth) {
            if (!s->entries[lo].trusted || depth <= trusted)
                best = &s->entries[lo];
            lo++;
        }
        if (depth == text.len)
            break;
        lo = lower_bound(s, lo, hi, depth, text.data[depth]);
        hi = lower_bound(s, lo, hi, depth, text.data[depth] + 1u);
    }
    return best;
}

/* The character that ends at `at`; what it takes. */
static size_t char_before(mlxd_slice text, size_t at, uint32_t *cp) {
    size_t start = at - 1;
    while (start > 0 && at - start < 4 && (text.data[start] & 0xc0) == 0x80)
        start--;
    mlxd_utf8_next(text.data + start, at - start, cp);
    return at - start;
}

static bool stands_alone(mlxd_slice text, size_t start, size_t end) {
    uint32_t cp;
    if (start > 0) {
        char_before(text, start, &cp);
        if (mlxd_unicode_is_word(cp))
            return false;
    }
    if (end == text.len)
        return true;
    mlxd_utf8_next(text.data + end, text.len - end, &cp);
    return !mlxd_unicode_is_word(cp);
}

static void take_spaces(const mlxd_special_entry *e, mlxd_slice text, size_t done,
                        mlxd_special_match *m) {
    uint32_t cp;
    while (e->lstrip && m->start > done) {
        size_t took = char_before(text, m->start, &cp);
        if (!mlxd_unicode_is_space(cp))
            break;
        m->start -= took;
    }
    while (e->rstrip && m->end < text.len) {
        size_t took = mlxd_utf8_next(text.data + m->end, text.len - m->end, &cp);
        if (!mlxd_unicode_is_space(cp))
            break;
        m->end += took;
    }
}

/* How many bytes from `at` on are trusted. */
static size_t trusted_from(mlxd_special_scan *scan, size_t at) {
    size_t place = scan->base + at;
    while (scan->n_plain > 0 && scan->plain->end <= place) {
        scan->plain++;
        scan->n_plain--;
    }
    if (scan->n_plain == 0)
        return scan->text.len - at;
    return scan->plain->start > place ? scan->plain->start - place : 0;
}

bool mlxd_special_next(const mlxd_special *s, mlxd_special_scan *scan, mlxd_special_match *match) {
    mlxd_slice text = scan->text;
    if (s->count == 0)
        return false;
    while (scan->at < text.len) {
        size_t at = scan->at;
        unsigned first = text.data[at];
        const mlxd_special_entry *e = NULL;
        if (s->first[first] < s->first[first + 1])
            e = match_here(s, (mlxd_slice){text.data + at, text.len - at}, trusted_from(scan, at));
        scan->at += e ? e->len : 1;
        if (!e || (e->single_word && !stands_alone(text, at, at + e->len)))
            continue;
        *match = (mlxd_special_match){at, at + e->len, e->id};
        take_spaces(e, text, scan->done, match);
        scan->at = scan->done = match->end;
        return true;
    }
    return false;
}

int32_t mlxd_special_find(const mlxd_special *s, mlxd_slice text) {
    if (text.len == 0 || s->count == 0)
        return -1;
    const mlxd_special_entry *e = match_here(s, text, text.len);
    return e && e->len == text.len ? e->id : -1;
}
