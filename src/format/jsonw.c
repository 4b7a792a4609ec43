/* jsonw.c - the writer of json.h; the reader is json.c.
 *
 * The state is two bits per open level: is it an object, has it a member. begin_value() is called
 * before every value and puts the comma, or checks that the key was written.
 */
#include "format/json.h"

#include "format/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void mlxd_jsonw_init(mlxd_jsonw *w, mlxd_buf *buf) {
    MLXD_ASSERT(w && buf);
    *w = (mlxd_jsonw){.buf = buf};
}

bool mlxd_jsonw_done(const mlxd_jsonw *w) {
    return w->rooted && w->depth == 0;
}

static uint64_t level_bit(const mlxd_jsonw *w) {
    return UINT64_C(1) << (w->depth - 1);
}

static bool in_object(const mlxd_jsonw *w) {
    return w->depth > 0 && (w->objects & level_bit(w)) != 0;
}

static void put_comma(mlxd_jsonw *w) {
    if (w->nonempty & level_bit(w))
        mlxd_buf_add_byte(w->buf, ',');
    w->nonempty |= level_bit(w);
}

static void begin_value(mlxd_jsonw *w) {
    if (w->depth == 0) {
        MLXD_ASSERT(!w->rooted); /* one value per writer */
        w->rooted = true;
    } else if (in_object(w)) {
        MLXD_ASSERT(w->keyed); /* a member needs a key */
        w->keyed = false;
    } else {
        put_comma(w);
    }
}

static void begin_level(mlxd_jsonw *w, bool object) {
    begin_value(w);
    MLXD_ASSERT(w->depth < MLXD_JSONW_DEPTH);
    w->depth++;
    w->nonempty &= ~level_bit(w);
    w->objects = object ? w->objects | level_bit(w) : w->objects & ~level_bit(w);
    mlxd_buf_add_byte(w->buf, object ? '{' : '[');
}

static void end_level(mlxd_jsonw *w, bool object) {
    MLXD_ASSERT(w->depth > 0 && in_object(w) == object);
    MLXD_ASSERT(!w->keyed); /* the key's value is missing */
    w->depth--;
    mlxd_buf_add_byte(w->buf, object ? '}' : ']');
}

void mlxd_jsonw_object_begin(mlxd_jsonw *w) {
    begin_level(w, true);
}

void mlxd_jsonw_object_end(mlxd_jsonw *w) {
    end_level(w, true);
}

void mlxd_jsonw_array_begin(mlxd_jsonw *w) {
    begin_level(w, false);
}

void mlxd_jsonw_array_end(mlxd_jsonw *w) {
    end_level(w, false);
}

/* ---- strings ---- */

/* The character after the backslash for `c`; 'u' for \u00XX; 0 when it stays as it is. */
static char escape_for(uint8_t c) {
    switch (c) {
    case '"':
        return '"';
    case '\\':
        return '\\';
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return c < 0x20 || c == 0x7f ? 'u' : 0;
    }
}

static void put_escape(mlxd_buf *b, uint8_t c, char escape) {
    static const char digits[] = "0123456789abcdef";
    char text[6] = {'\\', escape, '0', '0', digits[c >> 4], digits[c & 15]};
    mlxd_buf_add(b, text, escape == 'u' ? 6 : 2);
}

/* Copies runs of plain characters, and interrupts them for what needs another form. */
static void put_quoted(mlxd_buf *b, mlxd_slice s) {
    size_t run = 0, i = 0;
    mlxd_buf_add_byte(b, '"');
    while (i < s.len) {
        uint32_t cp;
        size_t n = mlxd_utf8_next(s.data + i, s.len - i, &cp);
        char escape = cp < 0x80 ? escape_for((uint8_t)cp) : 0;
        if (cp != MLXD_UTF8_BAD && !escape) {
            i += n;
            continue;
        }
        mlxd_buf_add(b, s.data + run, i - run);
        if (escape)
            put_escape(b, (uint8_t)cp, escape);
        else
            mlxd_buf_add_str(b, "\xEF\xBF\xBD"); /* U+FFFD */
        i += n;
        run = i;
    }
    if (s.len > run)
        mlxd_buf_add(b, s.data + run, s.len - run);
    mlxd_buf_add_byte(b, '"');
}

void mlxd_jsonw_key_slice(mlxd_jsonw *w, mlxd_slice key) {
    MLXD_ASSERT(in_object(w) && !w->keyed);
    put_comma(w);
    put_quoted(w->buf, key);
    mlxd_buf_add_byte(w->buf, ':');
    w->keyed = true;
}

void mlxd_jsonw_key(mlxd_jsonw *w, const char *key) {
    mlxd_jsonw_key_slice(w, mlxd_slice_str(key));
}

void mlxd_jsonw_slice(mlxd_jsonw *w, mlxd_slice text) {
    begin_value(w);
    put_quoted(w->buf, text);
}

void mlxd_jsonw_str(mlxd_jsonw *w, const char *text) {
    if (text)
        mlxd_jsonw_slice(w, mlxd_slice_str(text));
    else
        mlxd_jsonw_null(w);
}

/* ---- other scalars ---- */

void mlxd_jsonw_raw(mlxd_jsonw *w, mlxd_slice json) {
    MLXD_ASSERT(json.len > 0);
    begin_value(w);
    mlxd_buf_add(w->buf, json.data, json.len);
}

static void put_text(mlxd_jsonw *w, const char *text) {
    begin_value(w);
    mlxd_buf_add_str(w->buf, text);
}

void mlxd_jsonw_int(mlxd_jsonw *w, int64_t v) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, v);
    put_text(w, text);
}

void mlxd_jsonw_uint(mlxd_jsonw *w, uint64_t v) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, v);
    put_text(w, text);
}

/* 15 (float: 6) digits survive every decimal, 17 (float: 9) every number: %g drops the zeros in
 * between, so the first length that reads back is the shortest that matters. */
void mlxd_jsonw_double(mlxd_jsonw *w, double v) {
    char text[32] = "null";
    for (int digits = 15; digits <= 17 && isfinite(v); digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    put_text(w, text);
}

void mlxd_jsonw_float(mlxd_jsonw *w, float v) {
    char text[32] = "null";
    for (int digits = 6; digits <= 9 && isfinite(v); digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    put_text(w, text);
}

void mlxd_jsonw_bool(mlxd_jsonw *w, bool v) {
    put_text(w, v ? "true" : "false");
}

void mlxd_jsonw_null(mlxd_jsonw *w) {
    put_text(w, "null");
}

/* ---- members ---- */

void mlxd_jsonw_member_str(mlxd_jsonw *w, const char *key, const char *text) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_str(w, text);
}

void mlxd_jsonw_member_int(mlxd_jsonw *w, const char *key, int64_t v) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_int(w, v);
}

void mlxd_jsonw_member_uint(mlxd_jsonw *w, const char *key, uint64_t v) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_uint(w, v);
}

void mlxd_jsonw_member_double(mlxd_jsonw *w, const char *key, double v) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_double(w, v);
}

void mlxd_jsonw_member_bool(mlxd_jsonw *w, const char *key, bool v) {
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_bool(w, v);
}
