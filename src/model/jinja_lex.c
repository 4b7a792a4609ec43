/* jinja_lex.c - see jinja_lex.h. Outside of tags the next "{{", "{%" or "{#" is searched, and the
 * text before it trimmed as its sign wants; inside, one token after the other is cut. */
#include "model/jinja_lex.h"

#include "format/utf8.h"
#include "model/jinja_internal.h"

#include <string.h>

void mlxd_jinja_lexer_init(mlxd_jinja_lexer *l, mlxd_slice source) {
    MLXD_ASSERT(l);
    *l = (mlxd_jinja_lexer){.source = source, .line_start = true};
}

static bool fail(mlxd_jinja_lexer *l, const char *error) {
    l->error = error;
    return false;
}

static uint8_t peek(const mlxd_jinja_lexer *l, size_t at) {
    return at < l->source.len ? l->source.data[at] : 0;
}

static bool is_word(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c >= 0x80;
}

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

/* Length of the white space character at `at`; 0: there is none. */
static size_t space_at(const mlxd_jinja_lexer *l, size_t at) {
    uint32_t cp;
    if (at >= l->source.len)
        return 0;
    size_t n = mlxd_utf8_next(l->source.data + at, l->source.len - at, &cp);
    return mlxd_jinja_is_space(cp) ? n : 0;
}

static void skip_space(mlxd_jinja_lexer *l) {
    for (size_t n; (n = space_at(l, l->at)) > 0; l->at += n)
        l->line_start = peek(l, l->at) == '\n';
}

/* `end` without the white space in front of it, down to `start`. */
static size_t strip_right(const mlxd_jinja_lexer *l, size_t start, size_t end) {
    while (end > start) {
        size_t before = end - 1;
        while (before > start && (l->source.data[before] & 0xc0) == 0x80)
            before--;
        if (!space_at(l, before))
            break;
        end = before;
    }
    return end;
}

/* Is there only white space between the start of the line and `end`? *cut is the line's start. */
static bool blank_line(const mlxd_jinja_lexer *l, size_t start, size_t end, size_t *cut) {
    size_t line = end;
    while (line > start && l->source.data[line - 1] != '\n')
        line--;
    if (line == start && !l->line_start)
        return false;
    for (size_t at = line, n; at < end; at += n)
        if (!(n = space_at(l, at)))
            return false;
    *cut = line;
    return true;
}

/* Does a name stand here, behind white space, as the only word of a tag? *end is behind it. */
static bool word_at(const mlxd_jinja_lexer *l, size_t at, const char *word, size_t *end) {
    size_t n, len = strlen(word);
    while ((n = space_at(l, at)) > 0)
        at += n;
    if (l->source.len - at < len || memcmp(l->source.data + at, word, len) != 0)
        return false;
    at += len;
    while ((n = space_at(l, at)) > 0)
        at += n;
    *end = at;
    return true;
}

/* The end of a {% %} or {# #} tag at l->at, `mark` being '%' or '#': with its sign and what it
 * drops. False: no end is here. */
static bool end_block(mlxd_jinja_lexer *l, uint8_t mark) {
    uint8_t sign = peek(l, l->at);
    size_t n = sign == '-' || sign == '+' ? 1 : 0;
    if (peek(l, l->at + n) != mark || peek(l, l->at + n + 1) != '}')
        return false;
    l->at += n + 2;
    l->line_start = false;
    l->strip = sign == '-';
    if (sign != '-' && sign != '+' && peek(l, l->at) == '\n') {
        l->at++;
        l->line_start = true;
    }
    return true;
}

static bool skip_comment(mlxd_jinja_lexer *l) {
    size_t start = l->at;
    l->at += 2;
    uint8_t sign = peek(l, l->at);
    l->at += sign == '-' || sign == '+' ? 1 : 0;
    for (; l->at < l->source.len; l->at++)
        if (end_block(l, '#')) {
            if (l->strip)
                skip_space(l);
            l->strip = false;
            return true;
        }
    l->at = start;
    return fail(l, "this comment is not closed with #}");
}

/* A tag stands at `tag`, its mark is {, % or #; in raw mode only endraw counts. */
static bool tag_at(const mlxd_jinja_lexer *l, size_t tag, uint8_t *mark, uint8_t *sign) {
    size_t end;
    if (peek(l, tag) != '{')
        return false;
    *mark = peek(l, tag + 1);
    *sign = peek(l, tag + 2);
    if (*sign != '-' && *sign != '+')
        *sign = 0;
    if (!l->raw)
        return *mark == '{' || *mark == '%' || *mark == '#';
    if (*mark != '%' || !word_at(l, tag + (*sign ? 3 : 2), "endraw", &end))
        return false;
    end += peek(l, end) == '-' || peek(l, end) == '+';
    return peek(l, end) == '%' && peek(l, end + 1) == '}';
}

/* {% raw %} at `tag`: *end is behind it. */
static bool raw_at(const mlxd_jinja_lexer *l, size_t tag, uint8_t sign, size_t *end, bool *strip) {
    size_t at;
    if (!word_at(l, tag + (sign ? 3 : 2), "raw", &at))
        return false;
    *strip = peek(l, at) == '-';
    at += *strip;
    *end = at + 2;
    return peek(l, at) == '%' && peek(l, at + 1) == '}';
}

/* Enters the tag at l->at; l->end stays END when it was a comment, raw or endraw. */
static bool enter_tag(mlxd_jinja_lexer *l, uint8_t mark, uint8_t sign, mlxd_jinja_token *out) {
    size_t end;
    bool strip;
    if (mark == '#')
        return skip_comment(l);
    if (l->raw) {
        bool found = word_at(l, l->at + (sign ? 3 : 2), "endraw", &l->at);
        MLXD_ASSERT(found); /* tag_at has seen it */
        found = end_block(l, '%');
        MLXD_ASSERT(found);
        l->raw = false;
    } else if (mark == '%' && raw_at(l, l->at, sign, &end, &strip)) {
        l->raw = true;
        l->strip = strip;
        l->line_start = false;
        l->at = end;
    } else {
        bool block = mark == '%';
        *out = (mlxd_jinja_token){block ? MLXD_JINJA_BLOCK_BEGIN : MLXD_JINJA_OUTPUT_BEGIN,
                                  {l->source.data + l->at, 2},
                                  l->at};
        l->end = block ? MLXD_JINJA_BLOCK_END : MLXD_JINJA_OUTPUT_END;
        l->at += sign ? 3 : 2;
        l->line_start = false;
        l->opened = 0;
        return true;
    }
    if (l->strip)
        skip_space(l);
    l->strip = false;
    return true;
}

/* Outside of tags. One call gives a TEXT or the begin of a tag. */
static bool next_outside(mlxd_jinja_lexer *l, mlxd_jinja_token *out) {
    while (l->end == MLXD_JINJA_END) {
        size_t start = l->at, tag = start, cut;
        uint8_t mark = 0, sign = 0;
        while (tag < l->source.len && !tag_at(l, tag, &mark, &sign))
            tag++;
        size_t end = tag;
        if (tag == l->source.len && l->raw)
            return fail(l, "{% raw %} is not closed with {% endraw %}");
        if (tag < l->source.len && sign == '-')
            end = strip_right(l, start, end);
        else if (tag < l->source.len && sign != '+' && mark != '{' &&
                 blank_line(l, start, end, &cut))
            end = cut;
        if (end > start) {
            *out =
                (mlxd_jinja_token){MLXD_JINJA_TEXT, {l->source.data + start, end - start}, start};
            l->at = tag;
            l->line_start = false; /* the text was looked at, up to the tag */
            return true;
        }
        if (tag == l->source.len) {
            *out = (mlxd_jinja_token){MLXD_JINJA_END, {l->source.data + tag, 0}, tag};
            return true;
        }
        l->at = tag;
        if (!enter_tag(l, mark, sign, out))
            return false;
    }
    return true;
}

/* ---- inside a tag ---- */

/* What ends the tag, when it stands here and no bracket is open. */
static bool end_tag(mlxd_jinja_lexer *l, mlxd_jinja_token *out) {
    size_t start = l->at;
    if (l->opened > 0)
        return false;
    if (l->end == MLXD_JINJA_BLOCK_END) {
        if (!end_block(l, '%'))
            return false;
    } else {
        size_t n = peek(l, l->at) == '-';
        if (peek(l, l->at + n) != '}' || peek(l, l->at + n + 1) != '}')
            return false;
        l->at += n + 2;
        l->strip = n > 0;
        l->line_start = false;
    }
    *out = (mlxd_jinja_token){l->end, {l->source.data + start, l->at - start}, start};
    l->end = MLXD_JINJA_END;
    if (l->strip)
        skip_space(l);
    l->strip = false;
    return true;
}

static size_t scan_string(const mlxd_jinja_lexer *l) {
    uint8_t quote = peek(l, l->at);
    for (size_t at = l->at + 1; at < l->source.len; at++) {
        if (l->source.data[at] == '\\')
            at++;
        else if (l->source.data[at] == quote)
            return at + 1 - l->at;
    }
    return 0;
}

static size_t scan_digits(const mlxd_jinja_lexer *l, size_t at) {
    size_t start = at;
    while (is_digit(peek(l, at)) || (at > start && peek(l, at) == '_' && is_digit(peek(l, at + 1))))
        at++;
    return at - start;
}

/* 12, 1_000, 0x1f, 1.5, 1e5; behind a dot (x.0.1) never a fraction. */
static size_t scan_number(const mlxd_jinja_lexer *l, mlxd_jinja_token_kind *kind) {
    size_t at = l->at, n;
    uint8_t second = peek(l, at + 1) | 0x20;
    *kind = MLXD_JINJA_INTEGER;
    if (peek(l, at) == '0' && (second == 'x' || second == 'o' || second == 'b')) {
        at += 2;
        while (is_word(peek(l, at)))
            at++;
        return at - l->at;
    }
    at += scan_digits(l, at);
    if (l->at > 0 && peek(l, l->at - 1) == '.')
        return at - l->at;
    if (peek(l, at) == '.' && (n = scan_digits(l, at + 1)) > 0) {
        at += 1 + n;
        *kind = MLXD_JINJA_REAL;
    }
    if ((peek(l, at) | 0x20) == 'e') {
        size_t sign = peek(l, at + 1) == '+' || peek(l, at + 1) == '-';
        if ((n = scan_digits(l, at + 1 + sign)) > 0) {
            at += 1 + sign + n;
            *kind = MLXD_JINJA_REAL;
        }
    }
    return at - l->at;
}

static size_t scan_operator(const mlxd_jinja_lexer *l) {
    static const char *const two[] = {"==", "!=", ">=", "<=", "//", "**"};
    for (size_t i = 0; i < MLXD_COUNT_OF(two); i++)
        if (peek(l, l->at) == (uint8_t)two[i][0] && peek(l, l->at + 1) == (uint8_t)two[i][1])
            return 2;
    uint8_t c = peek(l, l->at);
    return c && strchr("+-/*%~[](){}><=.:|,;", c) ? 1 : 0;
}

/* Keeps account of brackets, so that "}}" inside of a dict does not end the tag. */
static bool track_bracket(mlxd_jinja_lexer *l, uint8_t c) {
    static const char open[] = "([{", close[] = ")]}";
    const char *p = strchr(open, c);
    if (c && p) {
        if (l->opened == sizeof l->brackets)
            return fail(l, "too many brackets are open");
        l->brackets[l->opened++] = close[p - open];
    } else if (c && strchr(close, c)) {
        if (l->opened == 0 || l->brackets[l->opened - 1] != (char)c)
            return fail(l, "this bracket closes nothing");
        l->opened--;
    }
    return true;
}

static bool next_inside(mlxd_jinja_lexer *l, mlxd_jinja_token *out) {
    skip_space(l);
    if (l->at == l->source.len)
        return fail(l, l->end == MLXD_JINJA_BLOCK_END ? "the source ends inside of {% %}"
                                                      : "the source ends inside of {{ }}");
    if (end_tag(l, out))
        return true;
    uint8_t c = peek(l, l->at);
    size_t len = 0;
    mlxd_jinja_token_kind kind = MLXD_JINJA_OPERATOR;
    if (c == '\'' || c == '"') {
        kind = MLXD_JINJA_STRING;
        len = scan_string(l);
        if (len == 0)
            return fail(l, "this string is not closed");
    } else if (is_digit(c)) {
        len = scan_number(l, &kind);
    } else if (is_word(c)) {
        kind = MLXD_JINJA_NAME;
        while (is_word(peek(l, l->at + len)))
            len++;
    } else {
        len = scan_operator(l);
        if (len == 0)
            return fail(l, "a character that means nothing here");
        if (len == 1 && !track_bracket(l, c))
            return false;
    }
    *out = (mlxd_jinja_token){kind, {l->source.data + l->at, len}, l->at};
    l->at += len;
    return true;
}

bool mlxd_jinja_lexer_next(mlxd_jinja_lexer *l, mlxd_jinja_token *out) {
    MLXD_ASSERT(l && out && !l->error);
    return l->end == MLXD_JINJA_END ? next_outside(l, out) : next_inside(l, out);
}
