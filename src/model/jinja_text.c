/* jinja_text.c - strings of the interpreter: UTF-8 with marks of trust. Everything that makes a new
 * string goes through a builder, which takes pieces of strings together with their marks, so no
 * operation can forget them. */
#include "format/utf8.h"
#include "model/jinja_internal.h"

#include <string.h>
#include <utf8proc.h>

/* ---- builder ---- */

/* Room for `n` more of `size` in an array of the arena; false: failed. */
static bool grow(run *r, void **array, size_t used, size_t *cap, size_t n, size_t size) {
    size_t need, want = *cap ? *cap : 64;
    if (!mlxd_add_size(used, n, &need)) {
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "a text is too long");
        return false;
    }
    if (need <= *cap)
        return true;
    while (want < need)
        want = want > SIZE_MAX / 2 ? need : want * 2;
    void *p = mlxd_jinja_new(r, want, size);
    if (!p)
        return false;
    if (used)
        memcpy(p, *array, used * size);
    *array = p;
    *cap = want;
    return true;
}

static void mark(builder *b, size_t start, size_t end) {
    void *spans = b->spans;
    if (start == end)
        return;
    if (b->n_spans > 0 && b->spans[b->n_spans - 1].end == start) {
        b->spans[b->n_spans - 1].end = end;
        return;
    }
    if (!grow(b->r, &spans, b->n_spans, &b->cap_spans, 1, sizeof *b->spans))
        return;
    b->spans = spans;
    b->spans[b->n_spans++] = (mlxd_text_range){start, end};
}

static bool add_bytes(builder *b, const void *bytes, size_t len) {
    void *data = b->data;
    if (b->r->err || !mlxd_jinja_step(b->r, len / 64))
        return false;
    if (len > MLXD_LIMIT_TEXT_BYTES - b->len) {
        mlxd_jinja_fail(b->r, MLXD_ERR_RANGE, "a text of more than %u bytes",
                        MLXD_LIMIT_TEXT_BYTES);
        return false;
    }
    if (!grow(b->r, &data, b->len, &b->cap, len, 1))
        return false;
    b->data = data;
    if (len)
        memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return true;
}

void mlxd_jinja_put(builder *b, const void *data, size_t len, bool trusted) {
    size_t start = b->len;
    if (add_bytes(b, data, len) && trusted)
        mark(b, start, b->len);
}

void mlxd_jinja_put_str(builder *b, const char *s) {
    mlxd_jinja_put(b, s, strlen(s), true);
}

void mlxd_jinja_put_part(builder *b, const string *s, size_t from, size_t to) {
    MLXD_ASSERT(from <= to && to <= s->len);
    size_t start = b->len;
    if (from == to || !add_bytes(b, s->data + from, to - from))
        return;
    size_t lo = 0, hi = s->n_trusted; /* the first span that ends behind `from` */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->trusted[mid].end <= from)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < s->n_trusted && s->trusted[lo].start < to; lo++)
        mark(b, start + MLXD_MAX(s->trusted[lo].start, from) - from,
             start + MLXD_MIN(s->trusted[lo].end, to) - from);
}

void mlxd_jinja_put_string(builder *b, const string *s) {
    if (s)
        mlxd_jinja_put_part(b, s, 0, s->len);
}

static size_t count_chars(const uint8_t *data, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += (data[i] & 0xc0) != 0x80;
    return n;
}

const string *mlxd_jinja_built(builder *b) {
    string *s = b->r->err ? NULL : mlxd_jinja_new(b->r, 1, sizeof *s);
    if (!s)
        return NULL;
    *s = (string){.data = b->data ? b->data : (const uint8_t *)"",
                  .len = b->len,
                  .chars = count_chars(b->data, b->len),
                  .trusted = b->spans,
                  .n_trusted = b->n_spans};
    return s;
}

const string *mlxd_jinja_str(run *r, mlxd_slice text, bool trusted) {
    string *s = mlxd_jinja_new(r, 1, sizeof *s);
    if (!s || !mlxd_jinja_step(r, text.len / 64))
        return NULL;
    *s = (string){.data = text.len ? text.data : (const uint8_t *)"",
                  .len = text.len,
                  .chars = count_chars(text.data, text.len),
                  .whole = {0, text.len}};
    s->trusted = &s->whole;
    s->n_trusted = trusted && text.len;
    return s;
}

const string *mlxd_jinja_part(run *r, const string *s, size_t from, size_t to) {
    if (from == 0 && to == s->len)
        return s;
    if (s->n_trusted == 0 ||
        (s->n_trusted == 1 && s->trusted[0].end - s->trusted[0].start == s->len))
        return mlxd_jinja_str(r, (mlxd_slice){s->data + from, to - from}, s->n_trusted > 0);
    builder b = {.r = r};
    mlxd_jinja_put_part(&b, s, from, to);
    return mlxd_jinja_built(&b);
}

/* ---- looking ---- */

bool mlxd_jinja_trusted_at(const string *s, size_t at) {
    size_t lo = 0, hi = s->n_trusted;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->trusted[mid].end <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->n_trusted && s->trusted[lo].start <= at;
}

bool mlxd_jinja_same(const string *a, const string *b) {
    return mlxd_slice_eq(mlxd_jinja_bytes(a), mlxd_jinja_bytes(b));
}

size_t mlxd_jinja_offset(const string *s, size_t n) {
    MLXD_ASSERT(n <= s->chars);
    if (s->chars == s->len)
        return n;
    size_t at = 0;
    for (; n > 0; n--)
        do
            at++;
        while (at < s->len && (s->data[at] & 0xc0) == 0x80);
    return at;
}

size_t mlxd_jinja_find(const string *s, const string *what, size_t from) {
    if (what->len == 0)
        return from <= s->len ? from : SIZE_MAX;
    while (from < s->len && s->len - from >= what->len) {
        const uint8_t *p = memchr(s->data + from, what->data[0], s->len - from - what->len + 1);
        if (!p)
            return SIZE_MAX;
        from = (size_t)(p - s->data);
        if (memcmp(p, what->data, what->len) == 0)
            return from;
        from++;
    }
    return SIZE_MAX;
}

/* What str.isspace() of Python says. */
bool mlxd_jinja_is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static bool strips(const string *chars, const uint8_t *p, size_t n, uint32_t cp) {
    if (!chars)
        return mlxd_jinja_is_space(cp);
    for (size_t at = 0; at + n <= chars->len; at++)
        if (memcmp(chars->data + at, p, n) == 0)
            return true;
    return false;
}

const string *mlxd_jinja_strip(run *r, const string *s, const string *chars, int sides) {
    size_t from = 0, to = s->len, n;
    size_t cost = chars ? chars->len / 16 + 1 : 1;
    uint32_t cp;
    for (; (sides & STRIP_LEFT) && from < to && mlxd_jinja_step(r, cost); from += n) {
        n = mlxd_utf8_next(s->data + from, to - from, &cp);
        if (!strips(chars, s->data + from, n, cp))
            break;
    }
    while ((sides & STRIP_RIGHT) && to > from && mlxd_jinja_step(r, cost)) {
        size_t before = to - 1;
        while (before > from && (s->data[before] & 0xc0) == 0x80)
            before--;
        (void)mlxd_utf8_next(s->data + before, to - before, &cp);
        if (!strips(chars, s->data + before, to - before, cp))
            break;
        to = before;
    }
    return mlxd_jinja_part(r, s, from, to);
}

/* ---- case ---- */

static bool is_cased(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

static uint32_t change_case(uint32_t cp, letter_case how) {
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    if (how == CASE_LOWER)
        return (uint32_t)utf8proc_tolower(c);
    return (uint32_t)(how == CASE_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c));
}

/* The letter that has no upper case of its own. */
#define SHARP_S 0xdfu

/* `words`: TITLE as the filter of Jinja does it, where only blanks, hyphens and opening brackets
 * begin a word; otherwise as str.title(), where everything that is no letter does. */
const string *mlxd_jinja_case(run *r, const string *s, letter_case how, bool words) {
    builder b = {.r = r};
    bool first = true;
    for (size_t at = 0, n; at < s->len && mlxd_jinja_step(r, 1); at += n) {
        uint32_t cp;
        uint8_t out[4];
        n = mlxd_utf8_next(s->data + at, s->len - at, &cp);
        letter_case one = how;
        if (how == CASE_TITLE || how == CASE_CAPITAL)
            one = !first ? CASE_LOWER : words && how == CASE_TITLE ? CASE_UPPER : CASE_TITLE;
        if (cp == SHARP_S && one != CASE_LOWER)
            mlxd_jinja_put(&b, one == CASE_UPPER ? "SS" : "Ss", 2, mlxd_jinja_trusted_at(s, at));
        else
            mlxd_jinja_put(&b, out, mlxd_utf8_put(change_case(cp, one), out),
                           mlxd_jinja_trusted_at(s, at));
        if (how == CASE_CAPITAL)
            first = false;
        else if (words)
            first = mlxd_jinja_is_space(cp) || strchr("-({[<", cp < 0x80 ? (int)cp : 'x');
        else
            first = !is_cased(cp);
    }
    return mlxd_jinja_built(&b);
}

/* ---- replace ---- */

/* As str.replace: an empty `old` stands before each character and at the end. */
const string *mlxd_jinja_replace(run *r, const string *s, const string *old, const string *with,
                                 int64_t count) {
    builder b = {.r = r};
    size_t at = 0;
    for (; count != 0 && mlxd_jinja_step(r, 1); count--) {
        size_t hit = mlxd_jinja_find(s, old, at);
        if (hit == SIZE_MAX)
            break;
        mlxd_jinja_put_part(&b, s, at, hit);
        mlxd_jinja_put_string(&b, with);
        at = hit + old->len;
        if (old->len > 0)
            continue;
        if (at == s->len)
            return mlxd_jinja_built(&b);
        size_t n = mlxd_jinja_offset(
            &(string){.data = s->data + at, .len = s->len - at, .chars = SIZE_MAX}, 1);
        mlxd_jinja_put_part(&b, s, at, at + n);
        at += n;
    }
    mlxd_jinja_put_part(&b, s, at, s->len);
    return mlxd_jinja_built(&b);
}

/* ---- markup ---- */

/* Markup of Python's markupsafe, as far as templates without autoescaping meet it: what is added to
 * a string that `safe` has marked is escaped for HTML. */
const string *mlxd_jinja_mark_safe(run *r, const string *s) {
    string *copy = mlxd_jinja_new(r, 1, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *s; /* `trusted` may point into the old one, which lives as long */
    copy->safe = true;
    return copy;
}

const string *mlxd_jinja_escape(run *r, const string *s) {
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    builder b = {.r = r};
    size_t start = 0;
    if (s->safe)
        return s;
    for (size_t at = 0; at < s->len && mlxd_jinja_step(r, 1); at++) {
        const char *p = s->data[at] ? strchr(from, s->data[at]) : NULL;
        if (!p)
            continue;
        mlxd_jinja_put_part(&b, s, start, at);
        mlxd_jinja_put(&b, to[p - from], strlen(to[p - from]), mlxd_jinja_trusted_at(s, at));
        start = at + 1;
    }
    mlxd_jinja_put_part(&b, s, start, s->len);
    const string *out = mlxd_jinja_built(&b);
    return out ? mlxd_jinja_mark_safe(r, out) : NULL;
}
