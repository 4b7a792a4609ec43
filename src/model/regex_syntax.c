/* regex_syntax.c - Oniguruma's syntax (Ruby's) to pcre2's, see regex.h.
 *
 * One pass over the pattern, which copies what both read alike. What it does not know it refuses:
 * a letter behind a backslash that is not in the tables below, a group that is not listed. The only
 * state is where the last atom begins in the output, for a{2,3}+ wraps it in a group.
 */
#include "model/regex.h"

#include "base/limits.h"
#include "format/utf8.h"

#include <ctype.h>
#include <string.h>

#define GROUPS_MAX 64
#define NO_ATOM SIZE_MAX

/* White_Space. pcre2's own \s also has U+180E, which left White_Space in 2013. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
/* Letters, marks, numbers, connectors, and the symbols that are alphabetic. */
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{N}\\p{Pc}\\x{24b6}-\\x{24e9}"                                                 \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

typedef struct parser {
    mlxd_slice in;
    size_t at;
    mlxd_buf *out;
    size_t atom; /* where the last atom begins in `out`; NO_ATOM: nothing to repeat */
    size_t groups[GROUPS_MAX];
    size_t depth;
    mlxd_why *why;
} parser;

static mlxd_err refuse(const parser *p, const char *what) {
    return mlxd_fail(p->why, MLXD_ERR_UNSUPPORTED, "pattern \"%.*s\": %s at byte %zu",
                     (int)MLXD_MIN(p->in.len, 256), (const char *)p->in.data, what, p->at);
}

/* The byte `ahead` of the next one; 0 at the end. */
static uint8_t peek(const parser *p, size_t ahead) {
    return ahead < p->in.len - p->at ? p->in.data[p->at + ahead] : 0;
}

static bool begins(const parser *p, const char *with) {
    size_t n = strlen(with);
    return p->in.len - p->at >= n && memcmp(p->in.data + p->at, with, n) == 0;
}

/* Copies one character. */
static void copy(parser *p) {
    uint32_t cp;
    size_t n = mlxd_utf8_next(p->in.data + p->at, p->in.len - p->at, &cp);
    mlxd_buf_add(p->out, p->in.data + p->at, n);
    p->at += n;
}

/* ---- what stands behind a backslash ---- */

static const struct {
    char letter;
    const char *outside, *inside; /* of a set; NULL: refused */
} escapes[] = {
    {'s', "[" SPACE "]", SPACE},
    {'S', "[^" SPACE "]", "\\S\\x{180e}"},
    {'w', "[" WORD "]", WORD},
    {'W', "[^" WORD "]", NULL},
    {'d', "\\p{Nd}", "\\p{Nd}"},
    {'D', "\\P{Nd}", "\\P{Nd}"},
    {'h', "[0-9A-Fa-f]", "0-9A-Fa-f"},
    {'H', "[^0-9A-Fa-f]", NULL},
    {'b', "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))", "\\x08"},
    {'B', "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))", NULL},
    {'n', "\\n", "\\n"},
    {'r', "\\r", "\\r"},
    {'t', "\\t", "\\t"},
    {'f', "\\f", "\\f"},
    {'v', "\\x0b", "\\x0b"},
    {'a', "\\x07", "\\x07"},
    {'e', "\\x1b", "\\x1b"},
    {'A', "\\A", NULL},
    {'z', "\\z", NULL},
    {'Z', "\\Z", NULL},
};

/* \p{Name}; names of general categories have one or two letters, longer ones are scripts. */
static mlxd_err property(parser *p) {
    static const char *const categories[][2] = {
        {"Letter", "L"}, {"Mark", "M"},      {"Number", "N"}, {"Punctuation", "P"},
        {"Symbol", "S"}, {"Separator", "Z"}, {"Other", "C"},  {"Any", "Any"},
    };
    bool negated = peek(p, 1) == 'P';
    if (peek(p, 2) != '{')
        return refuse(p, "a property without braces");
    const uint8_t *name = p->in.data + p->at + 3;
    const uint8_t *end = memchr(name, '}', p->in.len - p->at - 3);
    if (!end)
        return refuse(p, "a property without its end");
    if (name < end && *name == '^') {
        negated = !negated;
        name++;
    }
    mlxd_slice s = {name, (size_t)(end - name)};
    for (size_t i = 0; i < s.len; i++)
        if (!isalpha(s.data[i]) && s.data[i] != '_')
            return refuse(p, "a property that is not known");
    mlxd_buf_add_str(p->out, negated ? "\\P{" : "\\p{");
    const char *category = NULL;
    for (size_t i = 0; i < MLXD_COUNT_OF(categories); i++)
        if (mlxd_slice_eq(s, mlxd_slice_str(categories[i][0])))
            category = categories[i][1];
    if (category) {
        mlxd_buf_add_str(p->out, category);
    } else {
        mlxd_buf_add_str(p->out, s.len > 2 ? "sc:" : "");
        mlxd_buf_add(p->out, s.data, s.len);
    }
    mlxd_buf_add_byte(p->out, '}');
    p->at = (size_t)(end - p->in.data) + 1;
    return MLXD_OK;
}

/* \xHH, \x{H...}, \uHHHH */
static mlxd_err code_point(parser *p) {
    bool u = peek(p, 1) == 'u', braces = !u && peek(p, 2) == '{';
    size_t at = braces ? 3 : 2, digits = u ? 4 : braces ? 6 : 2, n = 0;
    uint32_t cp = 0;
    for (; n < digits && isxdigit(peek(p, at + n)); n++) {
        uint8_t c = peek(p, at + n);
        cp = cp << 4 | (uint32_t)(isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    bool complete = braces ? n > 0 && peek(p, at + n) == '}' : n == digits;
    bool scalar = cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff);
    if (!complete || !scalar || (!u && !braces && cp > 0x7f))
        return refuse(p, "a code point that cannot be read");
    mlxd_buf_addf(p->out, "\\x{%x}", (unsigned)cp);
    p->at += at + n + braces;
    return MLXD_OK;
}

static mlxd_err escape(parser *p, bool inside) {
    uint8_t c = peek(p, 1);
    if (c == 'p' || c == 'P')
        return property(p);
    if (c == 'x' || c == 'u')
        return code_point(p);
    for (size_t i = 0; i < MLXD_COUNT_OF(escapes); i++) {
        const char *to = inside ? escapes[i].inside : escapes[i].outside;
        if (escapes[i].letter != c || !to)
            continue;
        mlxd_buf_add_str(p->out, to);
        p->at += 2;
        return MLXD_OK;
    }
    if (isalnum(c) || c == 0)
        return refuse(p, "an escape that is not known");
    if (ispunct(c)) {
        mlxd_buf_add(p->out, p->in.data + p->at, 2);
        p->at += 2;
        return MLXD_OK;
    }
    p->at++; /* a character that needs no backslash */
    copy(p);
    return MLXD_OK;
}

/* ---- sets ---- */

static mlxd_err set(parser *p) {
    copy(p);
    if (peek(p, 0) == '^')
        copy(p);
    if (peek(p, 0) == ']')
        return refuse(p, "an empty set");
    while (p->at < p->in.len && peek(p, 0) != ']') {
        mlxd_err err = MLXD_OK;
        if (peek(p, 0) == '[')
            err = refuse(p, "a set inside a set");
        else if (begins(p, "&&"))
            err = refuse(p, "an intersection of sets");
        else if (peek(p, 0) == '\\')
            err = escape(p, true);
        else
            copy(p);
        if (err)
            return err;
    }
    if (p->at == p->in.len)
        return refuse(p, "a set without its end");
    copy(p);
    return MLXD_OK;
}

/* ---- groups and repetition ---- */

/* (?i) and (?i:, also -i; pcre2 reads them alike. Other letters mean other things. */
static size_t flags_len(const parser *p) {
    size_t n = 2 + (peek(p, 2) == '-');
    if (peek(p, n) != 'i' || (peek(p, n + 1) != ')' && peek(p, n + 1) != ':'))
        return 0;
    return n + 2;
}

static mlxd_err open_group(parser *p) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t start = p->out->len, len = 0;
    if (peek(p, 1) == '?') {
        for (size_t i = 0; i < MLXD_COUNT_OF(known); i++)
            if (begins(p, known[i]))
                len = strlen(known[i]);
        if (len == 0)
            len = flags_len(p);
        if (len == 0)
            return refuse(p, "a group of a kind that is not known");
        mlxd_buf_add(p->out, p->in.data + p->at, len);
    } else {
        mlxd_buf_add_str(p->out, "(?:"); /* nothing refers to it */
        len = 1;
    }
    bool whole = p->in.data[p->at + len - 1] == ')'; /* (?i) */
    if (whole && p->at > 0) /* in Ruby it also groups the alternatives behind it */
        return refuse(p, "(?i) that is not at the beginning");
    p->at += len;
    p->atom = NO_ATOM;
    if (whole)
        return MLXD_OK;
    if (p->depth == GROUPS_MAX)
        return refuse(p, "groups nested too deep");
    p->groups[p->depth++] = start;
    return MLXD_OK;
}

static mlxd_err close_group(parser *p) {
    if (p->depth == 0)
        return refuse(p, "a ')' without '('");
    p->atom = p->groups[--p->depth];
    copy(p);
    return MLXD_OK;
}

/* Bytes of {n}, {n,}, {n,m} or {,m}; 0: the brace stands for itself. */
static size_t interval_len(const parser *p) {
    size_t n = 1, digits = 0;
    for (; isdigit(peek(p, n)); n++)
        digits++;
    if (peek(p, n) == ',')
        for (n++; isdigit(peek(p, n)); n++)
            digits++;
    return digits > 0 && peek(p, n) == '}' ? n + 1 : 0;
}

/* Puts "(?:" before the last atom and ")" behind it. */
static void wrap_atom(parser *p) {
    mlxd_buf_add_str(p->out, "????");
    if (p->out->failed)
        return;
    uint8_t *atom = p->out->data + p->atom;
    memmove(atom + 3, atom, p->out->len - 4 - p->atom);
    memcpy(atom, "(?:", 3);
    p->out->data[p->out->len - 1] = ')';
}

static mlxd_err interval(parser *p, size_t len) {
    if (p->atom == NO_ATOM)
        return refuse(p, "nothing to repeat");
    bool exact = !memchr(p->in.data + p->at, ',', len);
    mlxd_buf_add_str(p->out, peek(p, 1) == ',' ? "{0" : "{");
    mlxd_buf_add(p->out, p->in.data + p->at + 1, len - 1);
    p->at += len;
    if (peek(p, 0) == '?' && exact)
        return refuse(p, "{n}?");
    if (peek(p, 0) == '?')
        copy(p);
    else if (peek(p, 0) == '+')
        wrap_atom(p); /* and the '+' then repeats the group */
    return MLXD_OK;
}

static mlxd_err repeat(parser *p) {
    if (p->atom == NO_ATOM)
        return refuse(p, "nothing to repeat");
    copy(p);
    if (peek(p, 0) == '+' || peek(p, 0) == '?')
        copy(p);
    return MLXD_OK;
}

/* ---- the pattern ---- */

static mlxd_err element(parser *p) {
    uint8_t c = peek(p, 0);
    size_t start = p->out->len;
    mlxd_err err = MLXD_OK;
    switch (c) {
    case '(':
        return open_group(p);
    case ')':
        return close_group(p);
    case '*':
    case '+':
    case '?':
        return repeat(p);
    case '{':
        if (interval_len(p))
            return interval(p, interval_len(p));
        mlxd_buf_add_byte(p->out, '\\');
        copy(p);
        break;
    case '|':
        copy(p);
        p->atom = NO_ATOM;
        return MLXD_OK;
    case '\\':
        err = escape(p, false);
        break;
    case '[':
        err = set(p);
        break;
    case '.':
    case '^':
    case '$':
        p->at++;
        mlxd_buf_add_str(p->out, c == '.' ? "[^\\n]" : c == '^' ? "(?m:^)" : "(?m:$)");
        break;
    case ']':
    case '}':
        mlxd_buf_add_byte(p->out, '\\');
        copy(p);
        break;
    default:
        copy(p);
    }
    p->atom = start;
    return err;
}

mlxd_err mlxd_regex_translate(mlxd_slice pattern, mlxd_buf *out, mlxd_why *why) {
    MLXD_ASSERT(out);
    if (pattern.len == 0 || pattern.len > MLXD_LIMIT_PATTERN_BYTES)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "a pattern of %zu bytes, expected 1..%d",
                         pattern.len, MLXD_LIMIT_PATTERN_BYTES);
    parser p = {.in = pattern, .out = out, .atom = NO_ATOM, .why = why};
    size_t good = mlxd_utf8_check(pattern);
    if (good != pattern.len)
        return mlxd_fail(why, MLXD_ERR_DATA, "the pattern is not UTF-8 at byte %zu", good);
    while (p.at < pattern.len) {
        mlxd_err err = element(&p);
        if (err)
            return err;
    }
    if (p.depth > 0)
        return refuse(&p, "a group without its end");
    if (out->failed)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a pattern");
    return MLXD_OK;
}
