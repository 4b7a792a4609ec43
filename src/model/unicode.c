/* unicode.c - see unicode.h.
 *
 * Normal forms are made in four steps: decompose each character, order the marks by combining
 * class, compose, write. utf8proc does the first and third; its own ordering swaps neighbours and
 * is quadratic in the length of a run of marks, which a client chooses, so the order is made here.
 *
 * A text is cut before characters that never join what is before them, so that the memory needed
 * does not grow with the text, and most texts are copied without a look at the tables.
 */
#include "model/unicode.h"

#include "format/utf8.h"

#include <string.h>
#include <utf8proc.h>

/* Code points of the longest decomposition (U+FDFA has 18). */
#define DECOMPOSED_MAX 32

bool mlxd_unicode_is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
           cp == 0x205f || cp == 0x3000;
}

bool mlxd_unicode_is_word(uint32_t cp) {
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* letters in circles and squares; joiners */
        return (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
               (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) ||
               cp == 0x200c || cp == 0x200d;
    }
}

/* ---- normal forms ---- */

typedef struct run {
    int32_t *cps; /* owned */
    size_t count, cap;
    bool failed;
} run;

static int combining_class(int32_t cp) {
    return (int)utf8proc_get_property(cp)->combining_class;
}

static void decompose(run *r, uint32_t cp, utf8proc_option_t options) {
    if (r->count + DECOMPOSED_MAX > r->cap) {
        size_t cap = MLXD_MAX(2 * r->cap, (size_t)1024);
        int32_t *p = mlxd_mem_resize(r->cps, cap, sizeof *p);
        if (!p) {
            r->failed = true;
            return;
        }
        r->cps = p;
        r->cap = cap;
    }
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, r->cps + r->count,
                                                 DECOMPOSED_MAX, options, &boundary);
    MLXD_ASSERT(n >= 0 && n <= DECOMPOSED_MAX);
    r->count += (size_t)n;
}

/* Sorts marks [0, n) by class, equal ones as they were: insertion for a few, else by counting. */
static bool sort_marks(int32_t *cps, size_t n) {
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            int32_t cp = cps[i];
            size_t at = i;
            for (; at > 0 && combining_class(cps[at - 1]) > combining_class(cp); at--)
                cps[at] = cps[at - 1];
            cps[at] = cp;
        }
        return true;
    }
    size_t starts[257] = {0};
    int32_t *sorted = mlxd_mem_new(n, sizeof *sorted);
    if (!sorted)
        return false;
    for (size_t i = 0; i < n; i++)
        starts[combining_class(cps[i]) + 1]++;
    for (size_t c = 0; c < 256; c++)
        starts[c + 1] += starts[c];
    for (size_t i = 0; i < n; i++)
        sorted[starts[combining_class(cps[i])]++] = cps[i];
    memcpy(cps, sorted, n * sizeof *cps);
    mlxd_mem_free(sorted);
    return true;
}

static bool order(run *r) {
    for (size_t at = 0; at < r->count;) {
        size_t end = at;
        while (end < r->count && combining_class(r->cps[end]) > 0)
            end++;
        if (!sort_marks(r->cps + at, end - at))
            return false;
        at = end + 1;
    }
    return true;
}

static void finish(run *r, bool compose, mlxd_buf *out) {
    if (r->failed || !order(r)) {
        out->failed = true;
        return;
    }
    if (compose && r->count > 0) {
        utf8proc_ssize_t n = utf8proc_normalize_utf32(r->cps, (utf8proc_ssize_t)r->count,
                                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        MLXD_ASSERT(n >= 0 && (size_t)n <= r->count);
        r->count = (size_t)n;
    }
    for (size_t i = 0; i < r->count; i++) {
        uint8_t utf8[4];
        mlxd_buf_add(out, utf8, mlxd_utf8_put((uint32_t)r->cps[i], utf8));
    }
    r->count = 0;
}

/* A character that joins nothing before it: neither a mark nor the second half of a pair. Some are
 * left out; that costs time only. */
static bool stands_apart(uint32_t cp) {
    return cp < 0x300 || (cp >= 0x3400 && cp <= 0x9fff) || (cp >= 0xac00 && cp <= 0xd7a3) ||
           (cp >= 0x1f000 && cp <= 0x1faff);
}

void mlxd_unicode_normalize(mlxd_slice text, mlxd_unicode_form form, mlxd_buf *out) {
    bool compose = form == MLXD_UNICODE_NFC || form == MLXD_UNICODE_NFKC;
    bool compat = form == MLXD_UNICODE_NFKC || form == MLXD_UNICODE_NFKD;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    /* Below it, every character is in this form already, and none composes with one behind it but
     * those from U+0300. */
    uint32_t plain = form == MLXD_UNICODE_NFC ? 0x300 : 0x80;
    run r = {0};
    for (size_t at = 0; at < text.len && !r.failed && !out->failed;) {
        uint32_t cp, next = 0;
        size_t took = mlxd_utf8_next(text.data + at, text.len - at, &cp);
        MLXD_ASSERT(cp != MLXD_UTF8_BAD);
        if (stands_apart(cp))
            finish(&r, compose, out);
        if (at + took < text.len)
            mlxd_utf8_next(text.data + at + took, text.len - at - took, &next);
        if (r.count == 0 && cp < plain && stands_apart(next))
            mlxd_buf_add(out, text.data + at, took);
        else
            decompose(&r, cp, (utf8proc_option_t)options);
        at += took;
    }
    finish(&r, compose, out);
    mlxd_mem_free(r.cps);
}

void mlxd_unicode_lower(mlxd_slice text, mlxd_buf *out) {
    for (size_t at = 0; at < text.len;) {
        uint32_t cp;
        uint8_t utf8[4];
        at += mlxd_utf8_next(text.data + at, text.len - at, &cp);
        if (cp == 0x130) { /* the only one whose lower case is two characters */
            mlxd_buf_add_str(out, "i\xcc\x87");
            continue;
        }
        cp = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
        mlxd_buf_add(out, utf8, mlxd_utf8_put(cp, utf8));
    }
}
