/* spans.c - see spans.h. */
#include "model/spans.h"

#include "base/mem.h"

#include <string.h>

void mlxd_spans_deinit(mlxd_spans *s) {
    mlxd_mem_free(s->items);
    *s = (mlxd_spans){0};
}

/* Does `a` end before `at` in the order of the set? With `touching`, ending at it is not before. */
static bool is_before(const mlxd_span *a, uint32_t file, uint64_t at, bool touching) {
    if (a->file != file)
        return a->file < file;
    return touching ? a->end < at : a->end <= at;
}

/* The first item that does not end before `at`. */
static size_t find(const mlxd_spans *s, uint32_t file, uint64_t at, bool touching) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (is_before(&s->items[mid], file, at, touching))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Puts `n` items in the place of [from, to). */
static bool splice(mlxd_spans *s, size_t from, size_t to, const mlxd_span *items, size_t n) {
    size_t count = s->count - (to - from) + n;
    if (count > s->room) {
        size_t room = MLXD_MAX(count, 2 * s->room);
        mlxd_span *p = mlxd_mem_resize(s->items, room, sizeof *p);
        if (!p)
            return false;
        s->items = p;
        s->room = room;
    }
    if (s->count > to)
        memmove(s->items + from + n, s->items + to, (s->count - to) * sizeof *s->items);
    if (n > 0)
        memcpy(s->items + from, items, n * sizeof *s->items);
    s->count = count;
    return true;
}

bool mlxd_spans_add(mlxd_spans *s, const mlxd_span *span) {
    MLXD_ASSERT(span->begin <= span->end);
    if (span->begin == span->end)
        return true;
    mlxd_span all = *span;
    size_t from = find(s, span->file, span->begin, true), to = from;
    while (to < s->count && s->items[to].file == span->file && s->items[to].begin <= span->end) {
        all.begin = MLXD_MIN(all.begin, s->items[to].begin);
        all.end = MLXD_MAX(all.end, s->items[to].end);
        to++;
    }
    return splice(s, from, to, &all, 1);
}

bool mlxd_spans_remove(mlxd_spans *s, const mlxd_span *span) {
    MLXD_ASSERT(span->begin <= span->end);
    if (span->begin == span->end)
        return true;
    mlxd_span left[2];
    size_t n = 0, from = find(s, span->file, span->begin, false), to = from;
    while (to < s->count && s->items[to].file == span->file && s->items[to].begin < span->end) {
        const mlxd_span *i = &s->items[to++];
        if (i->begin < span->begin)
            left[n++] = (mlxd_span){i->file, i->begin, span->begin};
        if (i->end > span->end)
            left[n++] = (mlxd_span){i->file, span->end, i->end};
    }
    return splice(s, from, to, left, n);
}

bool mlxd_spans_gap(const mlxd_spans *s, const mlxd_span *span, mlxd_span *out) {
    *out = *span;
    for (size_t i = find(s, span->file, span->begin, false);
         i < s->count && s->items[i].file == span->file && s->items[i].begin < out->end; i++) {
        if (s->items[i].begin > out->begin)
            out->end = s->items[i].begin;
        else
            out->begin = MLXD_MIN(s->items[i].end, out->end);
    }
    return out->begin < out->end;
}

uint64_t mlxd_spans_missing(const mlxd_spans *s, const mlxd_span *span) {
    mlxd_span rest = *span, gap;
    uint64_t bytes = 0;
    for (; mlxd_spans_gap(s, &rest, &gap); rest.begin = gap.end)
        bytes += gap.end - gap.begin;
    return bytes;
}

uint64_t mlxd_spans_bytes(const mlxd_spans *s) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->count; i++)
        bytes += s->items[i].end - s->items[i].begin;
    return bytes;
}
