/* template.c - see template.h. One pass over the source; every function advances `at`. */
#include "model/template.h"

#include <string.h>

typedef struct reader {
    mlxd_buf source; /* line ends normalised, the last one dropped */
    size_t at;
    bool line_start; /* nothing but blanks can be before `at` on its line */
    mlxd_template *t;
} reader;

/* ---- items ---- */

static bool begin_item(mlxd_template *t, mlxd_template_kind kind) {
    if (t->count == MLXD_TEMPLATE_ITEMS)
        return false;
    t->items[t->count].kind = kind;
    t->items[t->count].start = t->text.len;
    t->items[t->count].len = 0;
    t->count++;
    return true;
}

static void extend_item(mlxd_template *t, const void *bytes, size_t len) {
    MLXD_ASSERT(t->count > 0);
    mlxd_buf_add(&t->text, bytes, len);
    t->items[t->count - 1].len += len;
}

static bool add_text(mlxd_template *t, const uint8_t *bytes, size_t len) {
    if (len == 0)
        return true;
    if (t->count == 0 || t->items[t->count - 1].kind != MLXD_TEMPLATE_TEXT)
        if (!begin_item(t, MLXD_TEMPLATE_TEXT))
            return false;
    extend_item(t, bytes, len);
    return true;
}

/* ---- characters ---- */

/* The byte `ahead` of here; 0 behind the end. */
static uint8_t peek(const reader *r, size_t ahead) {
    return r->at + ahead < r->source.len ? r->source.data[r->at + ahead] : 0;
}

static bool is_space(uint8_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static void skip_space(reader *r) {
    while (r->at < r->source.len && is_space(r->source.data[r->at]))
        r->at++;
}

/* ---- inside {{ }} and {% %} ---- */

/* A string literal, at its quote, appended to `out` without its quotes. */
static bool read_string(reader *r, mlxd_buf *out) {
    uint8_t quote = r->source.data[r->at++];
    for (; r->at < r->source.len; r->at++) {
        uint8_t c = r->source.data[r->at];
        if (c == quote) {
            r->at++;
            return true;
        }
        if (c == '\\') {
            static const char from[] = "ntr\\'\"", to[] = "\n\t\r\\'\"";
            const char *p = peek(r, 1) ? strchr(from, peek(r, 1)) : NULL;
            if (!p)
                return false;
            c = (uint8_t)to[p - from];
            r->at++;
        }
        mlxd_buf_add_byte(out, c);
    }
    return false;
}

/* .name or ['name'] behind an operand, appended to the current item as " .name". */
static bool read_member(reader *r) {
    mlxd_buf name;
    mlxd_buf_init(&name, 256);
    size_t back = r->at;
    bool subscript = peek(r, 0) == '[';
    r->at++;
    skip_space(r);
    bool ok = true;
    if (subscript) {
        ok = (peek(r, 0) == '\'' || peek(r, 0) == '"') && read_string(r, &name);
        skip_space(r);
        ok = ok && peek(r, 0) == ']';
        r->at++;
    } else {
        for (; is_word(peek(r, 0)); r->at++)
            mlxd_buf_add_byte(&name, peek(r, 0));
    }
    ok = ok && !name.failed && name.len > 0;
    for (size_t i = 0; ok && i < name.len; i++)
        ok = is_word(name.data[i]);
    if (ok) {
        extend_item(r->t, " .", 2);
        extend_item(r->t, name.data, name.len);
    } else {
        r->at = back;
    }
    mlxd_buf_deinit(&name);
    return ok;
}

/* One token of a statement, appended to the current item. */
static bool read_token(reader *r) {
    uint8_t c = peek(r, 0);
    bool behind_operand =
        r->t->items[r->t->count - 1].len > 0 && (is_word(r->t->text.data[r->t->text.len - 1]) ||
                                                 r->t->text.data[r->t->text.len - 1] == ']');
    if ((c == '[' || c == '.') && behind_operand && read_member(r))
        return true;
    if (r->t->items[r->t->count - 1].len > 0)
        extend_item(r->t, " ", 1);
    if (c == '\'' || c == '"') {
        mlxd_buf string;
        mlxd_buf_init(&string, 0);
        bool ok = read_string(r, &string) && !string.failed;
        /* Such a string could not be told from several tokens. */
        ok = ok && !(string.len && (memchr(string.data, '\'', string.len) ||
                                    memchr(string.data, '\\', string.len)));
        if (ok) {
            extend_item(r->t, "'", 1);
            extend_item(r->t, string.data, string.len);
            extend_item(r->t, "'", 1);
        }
        mlxd_buf_deinit(&string);
        return ok;
    }
    size_t len = 1;
    if (is_word(c))
        while (is_word(peek(r, len)))
            len++;
    else if (c && strchr("=!<>", c) && peek(r, 1) == '=')
        len = 2;
    extend_item(r->t, r->source.data + r->at, len);
    r->at += len;
    return true;
}

/* Is `mark` ("%}" or "}}"), perhaps with - or + before it, here? */
static bool at_close(const reader *r, const char *mark) {
    size_t sign = peek(r, 0) == '-' || peek(r, 0) == '+';
    return peek(r, sign) == (uint8_t)mark[0] && peek(r, sign + 1) == (uint8_t)mark[1];
}

static bool read_statement(reader *r) {
    if (!begin_item(r->t, MLXD_TEMPLATE_STATEMENT))
        return false;
    for (skip_space(r); !at_close(r, "%}"); skip_space(r))
        if (r->at >= r->source.len || !read_token(r))
            return false;
    return true;
}

/* A string, or a name with members. */
static bool read_operand(reader *r) {
    uint8_t c = peek(r, 0);
    if (c == '\'' || c == '"') {
        mlxd_buf string;
        mlxd_buf_init(&string, 0);
        bool ok =
            read_string(r, &string) && !string.failed && add_text(r->t, string.data, string.len);
        mlxd_buf_deinit(&string);
        return ok;
    }
    if (!is_word(c) || (c >= '0' && c <= '9') || !begin_item(r->t, MLXD_TEMPLATE_VALUE))
        return false;
    for (; is_word(peek(r, 0)); r->at++)
        extend_item(r->t, r->source.data + r->at, 1);
    for (skip_space(r); peek(r, 0) == '.' || peek(r, 0) == '['; skip_space(r))
        if (!read_member(r))
            return false;
    return true;
}

static bool read_output(reader *r) {
    for (;;) {
        skip_space(r);
        if (!read_operand(r))
            return false;
        skip_space(r);
        if (at_close(r, "}}"))
            return true;
        if (peek(r, 0) != '+' && peek(r, 0) != '~')
            return false;
        r->at++;
    }
}

static bool skip_comment(reader *r) {
    while (r->at < r->source.len && !at_close(r, "#}"))
        r->at++;
    return r->at < r->source.len;
}

/* ---- between them ---- */

/* The mark that closes here, and what it does to the white space behind it. */
static void close_tag(reader *r, uint8_t kind) {
    uint8_t sign = peek(r, 0);
    bool has_sign = sign == '-' || sign == '+';
    r->at += has_sign ? 3 : 2;
    r->line_start = false;
    if (sign == '-') {
        size_t from = r->at;
        skip_space(r);
        r->line_start = r->at > from && r->source.data[r->at - 1] == '\n';
    } else if (sign != '+' && kind != '{' && peek(r, 0) == '\n') {
        r->at++;
        r->line_start = true;
    }
}

/* Text up to the next tag; false only when there is no room. Leaves `at` at the tag or the end. */
static bool read_text(reader *r) {
    size_t start = r->at, end = r->at;
    const uint8_t *s = r->source.data;
    while (end < r->source.len && !(s[end] == '{' && end + 1 < r->source.len &&
                                    (s[end + 1] == '{' || s[end + 1] == '%' || s[end + 1] == '#')))
        end++;
    r->at = end;
    if (end < r->source.len) {
        uint8_t sign = peek(r, 2);
        if (sign == '-') {
            while (end > start && is_space(s[end - 1]))
                end--;
        } else if (sign != '+' && s[r->at + 1] != '{') {
            size_t line = end;
            while (line > start && s[line - 1] != '\n' && is_space(s[line - 1]))
                line--;
            if (line > start ? s[line - 1] == '\n' : r->line_start)
                end = line;
        }
    }
    return add_text(r->t, s + start, end - start);
}

static bool read_all(reader *r) {
    while (r->at < r->source.len) {
        if (!read_text(r))
            return false;
        if (r->at == r->source.len)
            break;
        uint8_t kind = peek(r, 1);
        r->at += 2;
        if (peek(r, 0) == '-' || peek(r, 0) == '+')
            r->at++;
        if (!(kind == '{' ? read_output(r) : kind == '%' ? read_statement(r) : skip_comment(r)))
            return false;
        close_tag(r, kind);
    }
    return true;
}

static void normalise_lines(mlxd_buf *out, mlxd_slice source) {
    for (size_t i = 0; i < source.len; i++) {
        uint8_t c = source.data[i];
        if (c == '\r') {
            c = '\n';
            i += i + 1 < source.len && source.data[i + 1] == '\n';
        }
        mlxd_buf_add_byte(out, c);
    }
    if (!out->failed && out->len && out->data[out->len - 1] == '\n')
        out->len--;
}

mlxd_err mlxd_template_init(mlxd_template *t, mlxd_slice source) {
    MLXD_ASSERT(t);
    t->count = 0;
    mlxd_buf_init(&t->text, 0);
    reader r = {.t = t, .line_start = true};
    mlxd_buf_init(&r.source, 0);
    normalise_lines(&r.source, source);
    bool ok = r.source.failed || read_all(&r);
    bool nomem = r.source.failed || t->text.failed;
    mlxd_buf_deinit(&r.source);
    if (nomem)
        return MLXD_ERR_NOMEM;
    return ok ? MLXD_OK : MLXD_ERR_UNSUPPORTED;
}

void mlxd_template_deinit(mlxd_template *t) {
    mlxd_buf_deinit(&t->text);
    t->count = 0;
}

mlxd_slice mlxd_template_text(const mlxd_template *t, size_t item) {
    MLXD_ASSERT(item < t->count);
    return (mlxd_slice){t->text.data + t->items[item].start, t->items[item].len};
}
