/* jinja_print.c - values to text: as str(), repr() and json.dumps() of Python write them. Text that
 * comes out of strings keeps its marks; quotes and brackets around them are not trusted. */
#include "format/utf8.h"
#include "model/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void put_plain(builder *b, const char *s) {
    mlxd_jinja_put(b, s, strlen(s), false);
}

/* ---- numbers ---- */

/* The fewest digits that read back as the same number; an exponent below 1e-4 and from 1e16. */
void mlxd_jinja_format_float(double f, char out[MLXD_JINJA_FLOAT]) {
    char digits[MLXD_JINJA_FLOAT];
    int precision = 0, exponent;
    if (!isfinite(f)) {
        snprintf(out, MLXD_JINJA_FLOAT, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && precision++ < 17);
    exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16)
        snprintf(out, MLXD_JINJA_FLOAT, "%.*f", MLXD_MAX(precision - exponent, 1), f);
    else
        snprintf(out, MLXD_JINJA_FLOAT, "%s", digits);
}

/* ---- repr ---- */

/* As str.isprintable: no control, format, private, unassigned ones, and of blanks only ' '. */
static bool is_printable(uint32_t cp) {
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}

/* The escape for `cp` in repr of a string in `quote`; false: it stays as it is. */
static bool repr_escape(uint32_t cp, char quote, char out[16]) {
    if (cp == (uint32_t)quote || cp == '\\')
        snprintf(out, 16, "\\%c", (char)cp);
    else if (cp == '\n' || cp == '\r' || cp == '\t')
        snprintf(out, 16, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    else if (is_printable(cp))
        return false;
    else
        snprintf(out, 16, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    return true;
}

static void repr_string(builder *b, const string *s) {
    bool single = memchr(s->data, '\'', s->len), twice = memchr(s->data, '"', s->len);
    char quote = single && !twice ? '"' : '\'', escape[16];
    size_t run_start = 0;
    if (s->safe)
        put_plain(b, "Markup(");
    mlxd_jinja_put(b, &quote, 1, false);
    for (size_t at = 0, n; at < s->len && mlxd_jinja_step(b->r, 1); at += n) {
        uint32_t cp;
        n = mlxd_utf8_next(s->data + at, s->len - at, &cp);
        if (!repr_escape(cp, quote, escape))
            continue;
        mlxd_jinja_put_part(b, s, run_start, at);
        put_plain(b, escape);
        run_start = at + n;
    }
    mlxd_jinja_put_part(b, s, run_start, s->len);
    mlxd_jinja_put(b, &quote, 1, false);
    if (s->safe)
        put_plain(b, ")");
}

static void repr_items(builder *b, const char *open, const seq *s, const char *close,
                       unsigned depth) {
    put_plain(b, open);
    for (size_t i = 0; i < s->count && !b->r->err; i++) {
        if (i > 0)
            put_plain(b, ", ");
        mlxd_jinja_repr(b, s->items[i], depth + 1);
    }
    put_plain(b, close);
}

static void repr_dict(builder *b, const dict *d, unsigned depth) {
    put_plain(b, "{");
    for (size_t i = 0; i < d->count && !b->r->err; i++) {
        if (i > 0)
            put_plain(b, ", ");
        mlxd_jinja_repr(b, d->entries[i].key, depth + 1);
        put_plain(b, ": ");
        mlxd_jinja_repr(b, d->entries[i].value, depth + 1);
    }
    put_plain(b, "}");
}

static void repr_range(builder *b, const seq *s) {
    char text[96];
    snprintf(text, sizeof text, s->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
             (long long)s->start, (long long)s->stop, (long long)s->step);
    put_plain(b, text);
}

static void print_scalar(builder *b, value v) {
    char text[MLXD_JINJA_FLOAT];
    if (v.kind == K_BOOL)
        snprintf(text, sizeof text, "%s", v.as.b ? "True" : "False");
    else if (v.kind == K_INT)
        snprintf(text, sizeof text, "%lld", (long long)v.as.i);
    else if (v.kind == K_FLOAT)
        mlxd_jinja_format_float(v.as.f, text);
    else
        snprintf(text, sizeof text, "None");
    mlxd_jinja_put_str(b, text);
}

void mlxd_jinja_repr(builder *b, value v, unsigned depth) {
    if (!mlxd_jinja_step(b->r, 1))
        return;
    if (depth > MLXD_JINJA_NEST) {
        mlxd_jinja_fail(b->r, MLXD_ERR_RANGE, "a value that is nested too deeply is printed");
        return;
    }
    switch (v.kind) {
    case K_NONE:
    case K_BOOL:
    case K_INT:
    case K_FLOAT:
        print_scalar(b, v);
        return;
    case K_STRING:
        repr_string(b, v.as.s);
        return;
    case K_LIST:
        repr_items(b, "[", v.as.seq, "]", depth);
        return;
    case K_TUPLE:
        repr_items(b, "(", v.as.seq, v.as.seq->count == 1 ? ",)" : ")", depth);
        return;
    case K_RANGE:
        repr_range(b, v.as.seq);
        return;
    case K_VIEW:
        put_plain(b, v.as.seq->title);
        repr_items(b, "([", v.as.seq, "])", depth);
        return;
    case K_DICT:
        repr_dict(b, v.as.dict, depth);
        return;
    case K_NAMESPACE:
        put_plain(b, "<Namespace ");
        repr_dict(b, v.as.dict, depth);
        put_plain(b, ">");
        return;
    case K_ITERATOR:
        put_plain(b, "<");
        put_plain(b, v.as.seq->title);
        put_plain(b, ">");
        return;
    default:
        put_plain(b, v.kind == K_UNDEFINED ? "Undefined" : mlxd_jinja_type(v));
    }
}

void mlxd_jinja_print(builder *b, value v) {
    if (v.kind == K_STRING)
        mlxd_jinja_put_string(b, v.as.s);
    else if (v.kind != K_UNDEFINED)
        mlxd_jinja_repr(b, v, 0);
}

const string *mlxd_jinja_to_string(run *r, value v) {
    if (v.kind == K_STRING)
        return v.as.s;
    builder b = {.r = r};
    mlxd_jinja_print(&b, v);
    return mlxd_jinja_built(&b);
}

/* ---- JSON ---- */

static bool json_escape(uint32_t cp, bool ascii, char out[16]) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *p = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (p)
        snprintf(out, 16, "\\%c", to[p - from]);
    else if (cp < 0x20 || (ascii && cp > 0x7e && cp < 0x10000))
        snprintf(out, 16, "\\u%04x", cp);
    else if (ascii && cp >= 0x10000)
        snprintf(out, 16, "\\u%04x\\u%04x", 0xd7c0u + (cp >> 10), 0xdc00u + (cp & 0x3ff));
    else
        return false;
    return true;
}

static void json_string(builder *b, const string *s, bool ascii) {
    char escape[16];
    size_t run_start = 0;
    put_plain(b, "\"");
    for (size_t at = 0, n; at < s->len && mlxd_jinja_step(b->r, at % 16 == 0); at += n) {
        uint32_t cp;
        n = mlxd_utf8_next(s->data + at, s->len - at, &cp);
        if (!json_escape(cp, ascii, escape))
            continue;
        mlxd_jinja_put_part(b, s, run_start, at);
        put_plain(b, escape);
        run_start = at + n;
    }
    mlxd_jinja_put_part(b, s, run_start, s->len);
    put_plain(b, "\"");
}

static void json_scalar(builder *b, value v) {
    if (v.kind == K_NONE)
        mlxd_jinja_put_str(b, "null");
    else if (v.kind == K_BOOL)
        mlxd_jinja_put_str(b, v.as.b ? "true" : "false");
    else if (v.kind == K_INT || isfinite(v.as.f))
        print_scalar(b, v);
    else
        mlxd_jinja_put_str(b, isnan(v.as.f) ? "NaN" : v.as.f > 0 ? "Infinity" : "-Infinity");
}

static void json_key(builder *b, value key, const json_style *style) {
    if (key.kind == K_STRING) {
        json_string(b, key.as.s, style->ascii);
    } else if (key.kind == K_NONE || key.kind == K_BOOL || key.kind == K_INT ||
               key.kind == K_FLOAT) {
        put_plain(b, "\"");
        json_scalar(b, key);
        put_plain(b, "\"");
    } else {
        mlxd_jinja_fail(b->r, MLXD_ERR_DATA,
                        "tojson: keys must be str, int, float, bool or None, not %s",
                        mlxd_jinja_type(key));
    }
}

static void json_newline(builder *b, const json_style *style, unsigned depth) {
    if (!style->indent)
        return;
    put_plain(b, "\n");
    for (unsigned i = 0; i < depth; i++)
        mlxd_jinja_put_string(b, style->indent);
}

/* Entries by key, by insertion into a sorted array of their numbers: dicts in prompts are small. */
static uint32_t *sort_keys(run *r, const dict *d) {
    uint32_t *at = mlxd_jinja_new(r, d->count, sizeof *at);
    for (size_t i = 0; at && i < d->count; i++) {
        size_t k = i;
        for (; k > 0 && !r->err &&
               mlxd_jinja_order(r, d->entries[i].key, d->entries[at[k - 1]].key, "<") < 0;
             k--)
            at[k] = at[k - 1];
        at[k] = (uint32_t)i;
    }
    return at;
}

static void json_dict(builder *b, const dict *d, const json_style *style, unsigned depth) {
    uint32_t *sorted = style->sorted ? sort_keys(b->r, d) : NULL;
    put_plain(b, "{");
    for (size_t i = 0; i < d->count && !b->r->err; i++) {
        const entry *e = &d->entries[sorted ? sorted[i] : i];
        if (i > 0)
            mlxd_jinja_put_string(b, style->item);
        json_newline(b, style, depth + 1);
        json_key(b, e->key, style);
        mlxd_jinja_put_string(b, style->key);
        mlxd_jinja_json(b, e->value, style, depth + 1);
    }
    if (d->count > 0)
        json_newline(b, style, depth);
    put_plain(b, "}");
}

static void json_list(builder *b, const seq *s, const json_style *style, unsigned depth) {
    put_plain(b, "[");
    for (size_t i = 0; i < s->count && !b->r->err; i++) {
        if (i > 0)
            mlxd_jinja_put_string(b, style->item);
        json_newline(b, style, depth + 1);
        mlxd_jinja_json(b, s->items[i], style, depth + 1);
    }
    if (s->count > 0)
        json_newline(b, style, depth);
    put_plain(b, "]");
}

void mlxd_jinja_json(builder *b, value v, const json_style *style, unsigned depth) {
    if (!mlxd_jinja_step(b->r, 1))
        return;
    if (depth > MLXD_JINJA_NEST) {
        mlxd_jinja_fail(b->r, MLXD_ERR_RANGE, "tojson: the value is nested too deeply");
        return;
    }
    switch (v.kind) {
    case K_NONE:
    case K_BOOL:
    case K_INT:
    case K_FLOAT:
        json_scalar(b, v);
        return;
    case K_STRING:
        json_string(b, v.as.s, style->ascii);
        return;
    case K_LIST:
    case K_TUPLE:
        json_list(b, v.as.seq, style, depth);
        return;
    case K_DICT:
        json_dict(b, v.as.dict, style, depth);
        return;
    default:
        mlxd_jinja_fail(b->r, MLXD_ERR_DATA, "Object of type %s is not JSON serializable",
                        mlxd_jinja_type(v));
    }
}
