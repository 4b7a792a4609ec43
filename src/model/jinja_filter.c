/* jinja_filter.c - filters on one value: text, numbers, tojson. Those on sequences are in
 * jinja_filter_seq.c. What they do to arguments that make no sense is what Jinja's do. */
#include "model/jinja_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED_ARGS ((void)r, (void)self, (void)v, (void)a)

static value text(const string *s) {
    return mlxd_jinja_of_string(s);
}

static const string *own_text(run *r, value v) {
    return mlxd_jinja_to_string(r, v);
}

/* An integer argument; `fallback` when it was not given. */
static int64_t int_arg(run *r, value v, int64_t fallback, const char *what) {
    int64_t i = fallback;
    if (v.kind != K_ABSENT && !mlxd_jinja_get_int(v, &i))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: expected an integer, got '%s'", what,
                        mlxd_jinja_type(v));
    return i;
}

/* ---- text ---- */

static value f_string(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return text(own_text(r, self));
}

static value f_safe(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = own_text(r, self);
    return s ? text(mlxd_jinja_mark_safe(r, s)) : UNDEFINED;
}

static value change_case(run *r, value self, letter_case how) {
    const string *s = own_text(r, self);
    return s ? text(mlxd_jinja_case(r, s, how, how == CASE_TITLE)) : UNDEFINED;
}
static value f_upper(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return change_case(r, self, CASE_UPPER);
}
static value f_lower(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return change_case(r, self, CASE_LOWER);
}
static value f_title(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return change_case(r, self, CASE_TITLE);
}
static value f_capitalize(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return change_case(r, self, CASE_CAPITAL);
}

static value f_trim(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = own_text(r, self), *chars = NULL;
    if (v[0].kind == K_STRING)
        chars = v[0].as.s;
    else if (v[0].kind != K_ABSENT && v[0].kind != K_NONE)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "trim: expected a string, got '%s'",
                        mlxd_jinja_type(v[0]));
    return s ? text(mlxd_jinja_strip(r, s, chars, STRIP_LEFT | STRIP_RIGHT)) : UNDEFINED;
}

static value f_replace(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = own_text(r, self), *old = own_text(r, v[0]), *with = own_text(r, v[1]);
    int64_t count = v[2].kind == K_NONE ? -1 : int_arg(r, v[2], -1, "replace");
    return s && old && with ? text(mlxd_jinja_replace(r, s, old, with, count)) : UNDEFINED;
}

/* Length of the line end at `at` as str.splitlines sees it; 0: none. */
static size_t line_end(const string *s, size_t at) {
    const uint8_t *p = s->data + at;
    size_t left = s->len - at;
    if (p[0] == '\r')
        return left > 1 && p[1] == '\n' ? 2 : 1;
    if ((p[0] >= '\n' && p[0] <= '\f') || (p[0] >= 0x1c && p[0] <= 0x1e))
        return 1;
    if (left >= 2 && p[0] == 0xc2 && p[1] == 0x85)
        return 2;
    return left >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9) ? 3 : 0;
}

static value f_indent(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    const string *s = own_text(r, self);
    const string *by = v[0].kind == K_STRING ? v[0].as.s : NULL;
    bool first = mlxd_jinja_truth(v[1]), blank = mlxd_jinja_truth(v[2]);
    if (!by) {
        value space = text(mlxd_jinja_str(r, mlxd_slice_str(" "), true));
        value width = v[0].kind == K_ABSENT ? mlxd_jinja_int(4) : v[0];
        value spaces = mlxd_jinja_binary(r, OP_MUL, space, width);
        by = spaces.kind == K_STRING ? spaces.as.s : NULL;
    }
    if (!s || !by || r->err)
        return UNDEFINED;
    if (first)
        mlxd_jinja_put_string(&b, by);
    size_t start = 0, n = 0;
    for (size_t at = 0; at <= s->len && mlxd_jinja_step(r, 1); at += n ? n : 1) {
        n = at < s->len ? line_end(s, at) : 0;
        if (at < s->len && n == 0)
            continue;
        if (start > 0)
            mlxd_jinja_put_str(&b, "\n");
        if (start > 0 && (at > start || blank))
            mlxd_jinja_put_string(&b, by);
        mlxd_jinja_put_part(&b, s, start, at);
        if (at == s->len)
            break;
        start = at + n;
    }
    return text(mlxd_jinja_built(&b));
}

static value f_center(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    const string *s = own_text(r, self);
    int64_t width = int_arg(r, v[0], 80, "center");
    if (!s)
        return UNDEFINED;
    int64_t room = width - (int64_t)s->chars, left = room / 2 + (room & width & 1);
    for (int64_t i = 0; i < left && room > 0 && mlxd_jinja_step(r, 1); i++)
        mlxd_jinja_put_str(&b, " ");
    mlxd_jinja_put_string(&b, s);
    for (int64_t i = left; i < room && mlxd_jinja_step(r, 1); i++)
        mlxd_jinja_put_str(&b, " ");
    return text(mlxd_jinja_built(&b));
}

static value f_escape(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = own_text(r, self);
    return s ? text(mlxd_jinja_escape(r, s)) : UNDEFINED;
}

/* Runs of letters, digits and underscores. */
static value f_wordcount(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = own_text(r, self);
    int64_t n = 0;
    bool in = false;
    for (size_t at = 0; s && at < s->len && mlxd_jinja_step(r, 1); at++) {
        uint8_t c = s->data[at];
        bool word = c >= 0x80 || c == '_' || (c >= '0' && c <= '9') ||
                    ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        n += word && !in;
        in = word;
    }
    return mlxd_jinja_int(n);
}

/* ---- numbers ---- */

/* A number as float() of Python reads it. */
static bool read_float(run *r, value v, double *out) {
    char copy[64], *end;
    if (mlxd_jinja_get_number(v, out))
        return true;
    if (v.kind != K_STRING)
        return false;
    const string *s = mlxd_jinja_strip(r, v.as.s, NULL, STRIP_LEFT | STRIP_RIGHT);
    if (!s || s->len == 0 || s->len >= sizeof copy || memchr(s->data, 'x', s->len) ||
        memchr(s->data, 'X', s->len) || memchr(s->data, '(', s->len))
        return false;
    memcpy(copy, s->data, s->len);
    copy[s->len] = 0;
    *out = strtod(copy, &end);
    return *end == 0;
}

static bool read_int(run *r, value v, int64_t base, int64_t *out) {
    double f;
    *out = 0;
    if (v.kind == K_STRING) {
        const string *s = mlxd_jinja_strip(r, v.as.s, NULL, STRIP_LEFT | STRIP_RIGHT);
        char copy[72], *end;
        if (s && s->len > 0 && s->len < sizeof copy && !mlxd_jinja_is_space(s->data[0])) {
            memcpy(copy, s->data, s->len);
            copy[s->len] = 0;
            errno = 0;
            long long n = strtoll(copy, &end, (int)base);
            if (*end == 0 && !errno) {
                *out = n;
                return true;
            }
        }
    }
    if (mlxd_jinja_get_int(v, out))
        return true;
    if (!read_float(r, v, &f) || !(fabs(f) < 9.2e18))
        return false;
    *out = (int64_t)f;
    return true;
}

static value f_int(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    int64_t out, base = int_arg(r, v[1], 10, "int");
    if (self.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, self);
    if (base < 2 || base > 36)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "int: the base must be from 2 to 36");
    if (!r->err && read_int(r, self, base, &out))
        return mlxd_jinja_int(out);
    return v[0].kind == K_ABSENT ? mlxd_jinja_int(0) : v[0];
}

static value f_float(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    double out;
    if (self.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, self);
    if (read_float(r, self, &out))
        return mlxd_jinja_float(out);
    return v[0].kind == K_ABSENT ? mlxd_jinja_float(0) : v[0];
}

static value f_abs(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    int64_t i;
    if (self.kind == K_FLOAT)
        return mlxd_jinja_float(fabs(self.as.f));
    if (mlxd_jinja_get_int(self, &i))
        return i < 0 ? mlxd_jinja_binary(r, OP_SUB, mlxd_jinja_int(0), self) : mlxd_jinja_int(i);
    if (self.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, self);
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "bad operand type for abs(): '%s'", mlxd_jinja_type(self));
    return UNDEFINED;
}

/* "common": to the nearest decimal, halves (of the exact binary value) to even. */
static value f_round(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    double f, scale = 1;
    char copy[400];
    int64_t precision = int_arg(r, v[0], 0, "round");
    bool common = v[1].kind == K_ABSENT;
    bool up = false;
    if (v[1].kind == K_STRING) {
        common = mlxd_slice_eq(mlxd_jinja_bytes(v[1].as.s), mlxd_slice_str("common"));
        up = mlxd_slice_eq(mlxd_jinja_bytes(v[1].as.s), mlxd_slice_str("ceil"));
        if (!common && !up && !mlxd_slice_eq(mlxd_jinja_bytes(v[1].as.s), mlxd_slice_str("floor")))
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "method must be common, ceil or floor");
    }
    if (self.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, self);
    if (!mlxd_jinja_get_number(self, &f))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "round: expected a number, got '%s'",
                        mlxd_jinja_type(self));
    if (precision < 0 || precision > 30)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "round: expected a precision from 0 to 30");
    if (r->err)
        return UNDEFINED;
    if (common && self.kind != K_FLOAT)
        return self.kind == K_BOOL ? mlxd_jinja_int(self.as.b) : self;
    if (common) {
        snprintf(copy, sizeof copy, "%.*f", (int)precision, f);
        return mlxd_jinja_float(strtod(copy, NULL));
    }
    for (int64_t i = 0; i < precision; i++)
        scale *= 10;
    return mlxd_jinja_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
}

/* ---- others ---- */

static value f_default(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (self.kind != K_UNDEFINED && !(mlxd_jinja_truth(v[1]) && !mlxd_jinja_truth(self)))
        return self;
    return v[0].kind == K_ABSENT ? text(mlxd_jinja_str(r, (mlxd_slice){0}, true)) : v[0];
}

static value f_attr(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *name = own_text(r, v[0]);
    if (!name)
        return UNDEFINED;
    if (self.kind == K_DICT && !mlxd_jinja_find_method(self, mlxd_jinja_bytes(name)))
        return UNDEFINED; /* attributes only, no keys */
    return mlxd_jinja_attr(r, self, name);
}

static bool json_separators(run *r, value v, json_style *style) {
    const seq *s = v.kind == K_TUPLE || v.kind == K_LIST ? v.as.seq : NULL;
    if (!s || s->count != 2 || s->items[0].kind != K_STRING || s->items[1].kind != K_STRING) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "tojson: expected two strings as separators");
        return false;
    }
    style->item = s->items[0].as.s;
    style->key = s->items[1].as.s;
    return true;
}

static value f_tojson(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    json_style style = {.ascii = mlxd_jinja_truth(v[0]), .sorted = mlxd_jinja_truth(v[3])};
    if (v[1].kind == K_STRING) {
        style.indent = v[1].as.s;
    } else if (v[1].kind != K_ABSENT && v[1].kind != K_NONE) {
        value space = text(mlxd_jinja_str(r, mlxd_slice_str(" "), true));
        value spaces = mlxd_jinja_binary(r, OP_MUL, space, v[1]);
        style.indent = spaces.kind == K_STRING ? spaces.as.s : NULL;
    }
    style.item = mlxd_jinja_str(r, mlxd_slice_str(style.indent ? "," : ", "), false);
    style.key = mlxd_jinja_str(r, mlxd_slice_str(": "), false);
    if (v[2].kind != K_ABSENT && v[2].kind != K_NONE && !json_separators(r, v[2], &style))
        return UNDEFINED;
    mlxd_jinja_json(&b, self, &style, 0);
    return text(mlxd_jinja_built(&b));
}

static const builtin rows[] = {
    {"string", f_string, 0, {NULL}},
    {"safe", f_safe, 0, {NULL}},
    {"upper", f_upper, 0, {NULL}},
    {"lower", f_lower, 0, {NULL}},
    {"title", f_title, 0, {NULL}},
    {"capitalize", f_capitalize, 0, {NULL}},
    {"trim", f_trim, 0, {"chars"}},
    {"replace", f_replace, 2, {"old", "new", "count"}},
    {"indent", f_indent, 0, {"width", "first", "blank"}},
    {"center", f_center, 0, {"width"}},
    {"escape", f_escape, 0, {NULL}},
    {"e", f_escape, 0, {NULL}},
    {"wordcount", f_wordcount, 0, {NULL}},
    {"int", f_int, 0, {"default", "base"}},
    {"float", f_float, 0, {"default"}},
    {"abs", f_abs, 0, {NULL}},
    {"round", f_round, 0, {"precision", "method"}},
    {"default", f_default, 0, {"default_value", "boolean"}},
    {"d", f_default, 0, {"default_value", "boolean"}},
    {"attr", f_attr, 1, {"name"}},
    {"tojson", f_tojson, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
};

const builtin *mlxd_jinja_find_filter(mlxd_slice name) {
    const builtin *b = mlxd_jinja_find_row(rows, MLXD_COUNT_OF(rows), name);
    return b ? b : mlxd_jinja_find_filter_seq(name);
}
