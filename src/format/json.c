/* json.c - the reader of json.h; the writer is jsonw.c.
 *
 * A document is one array of nodes in the order of the text. A container is followed by everything
 * inside it; `span` says how many nodes that is, so the next sibling of v is v + v->span. A member
 * of an object is two nodes, the key (a string) and the value:
 *
 *     {"a": [1, 2], "b": null}     OBJECT  "a"  ARRAY  1  2  "b"  NULL
 *                            span       7    1      3  1  1    1     1
 *
 * The scan fills the array with a stack of open containers instead of recursion. A second pass
 * over the nodes gives each container of more than INDEX_MIN children an index: element positions
 * for an array, members sorted by key for an object, which also finds the duplicate keys.
 */
#include "format/json.h"

#include "format/names.h"
#include "format/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_MIN 8       /* so many children are found by walking */
#define NUMBER_BYTES 1024 /* every double can be written shorter */

struct mlxd_json {
    union {
        int64_t i;             /* INT */
        double d;              /* DOUBLE, and INT when `wide` */
        const char *s;         /* STRING: in the document's text */
        const uint32_t *index; /* containers: children as offsets from this node, or NULL */
    } u;
    uint32_t len;  /* BOOL: 0 or 1; STRING: bytes; containers: elements or members */
    uint32_t span; /* this node and all inside it */
    uint8_t kind;
    bool wide; /* an INT outside int64, kept as the nearest double */
};

struct mlxd_json_doc {
    char *text; /* private copy, strings unescaped in place and NUL-terminated */
    mlxd_json *nodes;
    uint32_t n_nodes, nodes_cap;
    uint32_t *index; /* pool of all containers' indexes */
};

struct parser {
    mlxd_json_doc *doc;
    char *text; /* text[len] is NUL */
    size_t len, pos;
    uint32_t open[MLXD_LIMIT_JSON_DEPTH]; /* nodes of the containers around pos */
    uint32_t depth, depth_max, values_max;
    mlxd_why *why;
};

/* ---- the scan ---- */

static uint8_t peek(const struct parser *p) {
    return (uint8_t)p->text[p->pos];
}

static void skip_space(struct parser *p) {
    while (p->pos < p->len &&
           (peek(p) == ' ' || peek(p) == '\n' || peek(p) == '\r' || peek(p) == '\t'))
        p->pos++;
}

/* Text: "offset N: ..." */
MLXD_PRINTF(3, 4)
static mlxd_err refuse(const struct parser *p, size_t offset, const char *fmt, ...) {
    char text[MLXD_WHY_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mlxd_fail(p->why, MLXD_ERR_DATA, "offset %zu: %s", offset, text);
}

/* "offset 5: got 'x', expected a value" */
static mlxd_err unexpected(const struct parser *p, const char *expected) {
    uint8_t c = peek(p);
    if (p->pos == p->len)
        return refuse(p, p->pos, "the text ends, expected %s", expected);
    if (c > 0x20 && c < 0x7f)
        return refuse(p, p->pos, "got %c, expected %s", c, expected);
    return refuse(p, p->pos, "got byte 0x%02x, expected %s", c, expected);
}

/* Appends a node of `kind` as a child of the innermost open container. */
static mlxd_err add_node(struct parser *p, mlxd_json_kind kind, mlxd_json **out) {
    mlxd_json_doc *doc = p->doc;
    if (doc->n_nodes == doc->nodes_cap) {
        if (doc->n_nodes >= p->values_max)
            return refuse(p, p->pos, "more than %u values", p->values_max);
        uint32_t cap = doc->nodes_cap ? 2 * doc->nodes_cap : 16;
        cap = MLXD_MIN(cap, p->values_max);
        mlxd_json *nodes = mlxd_mem_resize(doc->nodes, cap, sizeof *nodes);
        if (!nodes)
            return mlxd_fail(p->why, MLXD_ERR_NOMEM, "no memory for %u JSON values", cap);
        doc->nodes = nodes;
        doc->nodes_cap = cap;
    }
    *out = &doc->nodes[doc->n_nodes++];
    **out = (mlxd_json){.kind = (uint8_t)kind, .span = 1};
    return MLXD_OK;
}

static bool read_hex4(struct parser *p, uint32_t *out) {
    uint32_t v = 0;
    if (p->len - p->pos < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        uint8_t c = (uint8_t)p->text[p->pos + (size_t)i];
        if (!isxdigit(c))
            return false;
        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    p->pos += 4;
    *out = v;
    return true;
}

/* pos is behind the backslash and the "u"; `start` is the backslash. */
static mlxd_err read_unicode_escape(struct parser *p, size_t start, uint32_t *cp) {
    uint32_t low = 0;
    if (!read_hex4(p, cp))
        return refuse(p, start, "\\u without four hexadecimal digits");
    if (*cp == 0)
        return refuse(p, start, "\\u0000 is not accepted");
    if (*cp < 0xD800 || *cp > 0xDFFF)
        return MLXD_OK;
    bool paired = *cp < 0xDC00 && p->len - p->pos >= 6 && p->text[p->pos] == '\\' &&
                  p->text[p->pos + 1] == 'u';
    if (paired) {
        p->pos += 2;
        paired = read_hex4(p, &low) && low >= 0xDC00 && low <= 0xDFFF;
    }
    if (!paired)
        return refuse(p, start, "lone surrogate \\u%04x", (unsigned)*cp);
    *cp = 0x10000 + ((*cp - 0xD800) << 10) + (low - 0xDC00);
    return MLXD_OK;
}

/* pos is at the backslash; appends what the escape stands for at text[*end]. It never needs more
 * bytes than the escape took. */
static mlxd_err read_escape(struct parser *p, size_t *end) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t start = p->pos++;
    char c = p->text[p->pos];
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        p->text[(*end)++] = to[simple - from];
        p->pos++;
        return MLXD_OK;
    }
    if (c != 'u')
        return refuse(p, start, "unknown escape in a string");
    p->pos++;
    uint32_t cp = 0;
    mlxd_err err = read_unicode_escape(p, start, &cp);
    if (err)
        return err;
    *end += mlxd_utf8_put(cp, (uint8_t *)p->text + *end);
    return MLXD_OK;
}

/* pos is at the opening quote, afterwards behind the closing one. */
static mlxd_err read_string(struct parser *p) {
    mlxd_json *v;
    mlxd_err err = add_node(p, MLXD_JSON_STRING, &v);
    if (err)
        return err;
    size_t quote = p->pos++, start = p->pos, end = p->pos;
    for (;;) {
        uint8_t c = peek(p);
        uint32_t cp;
        if (p->pos == p->len)
            return refuse(p, quote, "the string that begins here has no end");
        if (c == '"')
            break;
        if (c == '\\') {
            err = read_escape(p, &end);
            if (err)
                return err;
            continue;
        }
        if (c < 0x20)
            return refuse(p, p->pos, "control byte 0x%02x in a string, expected an escape", c);
        size_t n = mlxd_utf8_next((const uint8_t *)p->text + p->pos, p->len - p->pos, &cp);
        if (cp == MLXD_UTF8_BAD)
            return refuse(p, p->pos, "byte 0x%02x is not valid UTF-8", c);
        for (size_t i = 0; i < n; i++)
            p->text[end++] = p->text[p->pos++];
    }
    p->text[end] = 0;
    p->pos++;
    v->u.s = p->text + start;
    v->len = (uint32_t)(end - start);
    return MLXD_OK;
}

static bool skip_digits(struct parser *p) {
    size_t start = p->pos;
    while (isdigit(peek(p)))
        p->pos++;
    return p->pos > start;
}

/* -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)? and tells whether it is an integer. */
static mlxd_err scan_number(struct parser *p, bool *integer) {
    *integer = true;
    if (peek(p) == '-')
        p->pos++;
    bool zero = peek(p) == '0';
    size_t start = p->pos;
    if (!skip_digits(p))
        return unexpected(p, "a digit");
    if (zero && p->pos > start + 1)
        return refuse(p, start, "number with a leading zero");
    if (peek(p) == '.') {
        *integer = false;
        p->pos++;
        if (!skip_digits(p))
            return unexpected(p, "a digit behind the decimal point");
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        *integer = false;
        p->pos++;
        if (peek(p) == '+' || peek(p) == '-')
            p->pos++;
        if (!skip_digits(p))
            return unexpected(p, "a digit of the exponent");
    }
    return MLXD_OK;
}

/* strtod follows LC_NUMERIC, which mlxd leaves at "C" (nothing in it calls setlocale). */
static mlxd_err read_number(struct parser *p) {
    mlxd_json *v;
    bool integer;
    size_t start = p->pos;
    mlxd_err err = add_node(p, MLXD_JSON_DOUBLE, &v);
    if (!err)
        err = scan_number(p, &integer);
    if (err)
        return err;
    char digits[NUMBER_BYTES + 1];
    size_t len = p->pos - start;
    if (len > NUMBER_BYTES)
        return refuse(p, start, "number of %zu bytes, expected <= %d", len, NUMBER_BYTES);
    memcpy(digits, p->text + start, len);
    digits[len] = 0;
    if (integer) {
        v->kind = MLXD_JSON_INT;
        errno = 0;
        v->u.i = strtoll(digits, NULL, 10);
        v->wide = errno == ERANGE;
        if (!v->wide)
            return MLXD_OK;
    }
    v->u.d = strtod(digits, NULL);
    if (!isfinite(v->u.d))
        return refuse(p, start, "number beyond the range of double");
    return MLXD_OK;
}

static mlxd_err read_word(struct parser *p) {
    static const struct {
        const char *word;
        mlxd_json_kind kind;
        uint32_t value;
    } words[] = {
        {"null", MLXD_JSON_NULL, 0},
        {"false", MLXD_JSON_BOOL, 0},
        {"true", MLXD_JSON_BOOL, 1},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(words); i++) {
        size_t len = strlen(words[i].word);
        if (p->len - p->pos < len || memcmp(p->text + p->pos, words[i].word, len) != 0)
            continue;
        mlxd_json *v;
        mlxd_err err = add_node(p, words[i].kind, &v);
        if (err)
            return err;
        v->len = words[i].value;
        p->pos += len;
        return MLXD_OK;
    }
    return unexpected(p, "a value");
}

/* A member's key and colon; pos is then at white space or the value. */
static mlxd_err read_key(struct parser *p) {
    skip_space(p);
    if (peek(p) != '"')
        return unexpected(p, "a key in double quotes");
    mlxd_err err = read_string(p);
    if (err)
        return err;
    skip_space(p);
    if (peek(p) != ':')
        return unexpected(p, "':' behind the key");
    p->pos++;
    return MLXD_OK;
}

static mlxd_json_kind open_kind(const struct parser *p) {
    return (mlxd_json_kind)p->doc->nodes[p->open[p->depth - 1]].kind;
}

static void close_container(struct parser *p) {
    uint32_t at = p->open[--p->depth];
    p->doc->nodes[at].span = p->doc->n_nodes - at;
    p->pos++;
}

/* pos is at the bracket. *empty: the container was closed at once. */
static mlxd_err open_container(struct parser *p, bool *empty) {
    mlxd_json *v;
    bool object = peek(p) == '{';
    if (p->depth == p->depth_max)
        return mlxd_fail(p->why, MLXD_ERR_RANGE, "offset %zu: nested deeper than %u levels", p->pos,
                         p->depth_max);
    mlxd_err err = add_node(p, object ? MLXD_JSON_OBJECT : MLXD_JSON_ARRAY, &v);
    if (err)
        return err;
    p->open[p->depth++] = p->doc->n_nodes - 1;
    p->pos++;
    skip_space(p);
    *empty = peek(p) == (object ? '}' : ']');
    if (*empty)
        close_container(p);
    else if (object)
        err = read_key(p);
    return err;
}

/* Reads a scalar or the beginning of a container; *complete: a whole value was read. */
static mlxd_err read_value(struct parser *p, bool *complete) {
    skip_space(p);
    if (p->depth > 0)
        p->doc->nodes[p->open[p->depth - 1]].len++;
    uint8_t c = peek(p);
    *complete = true;
    if (c == '{' || c == '[')
        return open_container(p, complete);
    if (c == '"')
        return read_string(p);
    if (c == '-' || isdigit(c))
        return read_number(p);
    return read_word(p);
}

/* Behind a value inside a container: a comma (and the next key) or the end of the container. */
static mlxd_err read_separator(struct parser *p, bool *complete) {
    bool object = open_kind(p) == MLXD_JSON_OBJECT;
    skip_space(p);
    if (peek(p) == (object ? '}' : ']')) {
        close_container(p);
        return MLXD_OK;
    }
    if (peek(p) != ',')
        return unexpected(p, object ? "',' or '}'" : "',' or ']'");
    p->pos++;
    *complete = false;
    return object ? read_key(p) : MLXD_OK;
}

static mlxd_err scan(struct parser *p) {
    if (p->len >= 3 && memcmp(p->text, "\xEF\xBB\xBF", 3) == 0)
        return mlxd_fail(p->why, MLXD_ERR_DATA, "offset 0: byte order mark, expected a JSON value");
    skip_space(p);
    if (p->pos == p->len)
        return refuse(p, p->pos, "empty text, expected a JSON value");
    bool complete = false;
    do {
        mlxd_err err = complete ? read_separator(p, &complete) : read_value(p, &complete);
        if (err)
            return err;
    } while (p->depth > 0 || !complete);
    skip_space(p);
    return p->pos == p->len ? MLXD_OK : unexpected(p, "the end of the text");
}

/* ---- the index ---- */

static mlxd_slice key_at(const void *ctx, uint32_t offset) {
    const mlxd_json *key = (const mlxd_json *)ctx + offset;
    return (mlxd_slice){(const uint8_t *)key->u.s, key->len};
}

static bool is_container(const mlxd_json *v) {
    return v->kind == MLXD_JSON_ARRAY || v->kind == MLXD_JSON_OBJECT;
}

/* Offsets of the children of `v` (for an object: of the keys), from v. */
static void list_children(const mlxd_json *v, uint32_t *out) {
    bool object = v->kind == MLXD_JSON_OBJECT;
    uint32_t at = 1;
    for (uint32_t i = 0; i < v->len; i++) {
        out[i] = at;
        at += object;
        at += v[at].span;
    }
    MLXD_ASSERT(at == v->span);
}

static mlxd_err index_container(const struct parser *p, mlxd_json *v, uint32_t **pool) {
    uint32_t few[INDEX_MIN];
    uint32_t *order = v->len > INDEX_MIN ? *pool : few;
    list_children(v, order);
    if (v->kind == MLXD_JSON_OBJECT) {
        uint32_t again = mlxd_names_sort(order, v->len, key_at, v);
        if (again != MLXD_NAMES_NONE)
            return refuse(p, (size_t)(v[again].u.s - 1 - p->text), "duplicate key \"%.64s\"",
                          v[again].u.s);
    }
    if (v->len > INDEX_MIN) {
        v->u.index = *pool;
        *pool += v->len;
    }
    return MLXD_OK;
}

static mlxd_err index_containers(const struct parser *p) {
    mlxd_json_doc *doc = p->doc;
    size_t total = 0;
    for (uint32_t i = 0; i < doc->n_nodes; i++)
        if (is_container(&doc->nodes[i]) && doc->nodes[i].len > INDEX_MIN)
            total += doc->nodes[i].len;
    uint32_t *pool = doc->index = mlxd_mem_new(total, sizeof *pool);
    if (!pool)
        return mlxd_fail(p->why, MLXD_ERR_NOMEM, "no memory for %zu JSON values", total);
    for (uint32_t i = 0; i < doc->n_nodes; i++) {
        if (!is_container(&doc->nodes[i]))
            continue;
        mlxd_err err = index_container(p, &doc->nodes[i], &pool);
        if (err)
            return err;
    }
    MLXD_ASSERT(pool == doc->index + total);
    return MLXD_OK;
}

mlxd_err mlxd_json_parse(mlxd_json_doc **out, mlxd_slice text, uint32_t depth_max, mlxd_why *why) {
    return mlxd_json_parse_file(out, text, depth_max, MLXD_LIMIT_JSON_VALUES, why);
}

mlxd_err mlxd_json_parse_file(mlxd_json_doc **out, mlxd_slice text, uint32_t depth_max,
                              uint32_t values_max, mlxd_why *why) {
    MLXD_ASSERT(out && depth_max <= MLXD_LIMIT_JSON_DEPTH);
    *out = NULL;
    if (text.len >= UINT32_MAX)
        return mlxd_fail(why, MLXD_ERR_DATA, "text of %zu bytes, expected less than 4 GiB",
                         text.len);
    mlxd_err err = MLXD_ERR_NOMEM;
    mlxd_json_doc *doc = mlxd_mem_new(1, sizeof *doc);
    if (!doc)
        goto fail;
    doc->text = mlxd_mem_dup(text.data, text.len);
    if (!doc->text)
        goto fail;
    struct parser p = {.doc = doc,
                       .text = doc->text,
                       .len = text.len,
                       .depth_max = depth_max,
                       .values_max = values_max,
                       .why = why};
    err = scan(&p);
    if (!err)
        err = index_containers(&p);
    if (err)
        goto fail;
    *out = doc;
    return MLXD_OK;

fail:
    if (err == MLXD_ERR_NOMEM)
        mlxd_fail(why, err, "no memory for %zu bytes of JSON", text.len);
    mlxd_json_close(doc);
    return err;
}

void mlxd_json_close(mlxd_json_doc *doc) {
    if (!doc)
        return;
    mlxd_mem_free(doc->index);
    mlxd_mem_free(doc->nodes);
    mlxd_mem_free(doc->text);
    mlxd_mem_free(doc);
}

/* ---- access ---- */

const mlxd_json *mlxd_json_root(const mlxd_json_doc *doc) {
    MLXD_ASSERT(doc);
    return doc->nodes;
}

mlxd_json_kind mlxd_json_get_kind(const mlxd_json *v) {
    MLXD_ASSERT(v);
    return (mlxd_json_kind)v->kind;
}

const char *mlxd_json_kind_name(mlxd_json_kind kind) {
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    MLXD_ASSERT((size_t)kind < MLXD_COUNT_OF(names));
    return names[kind];
}

mlxd_err mlxd_json_get_bool(const mlxd_json *v, bool *out) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_BOOL)
        return MLXD_ERR_INVALID;
    *out = v->len != 0;
    return MLXD_OK;
}

mlxd_err mlxd_json_get_int64(const mlxd_json *v, int64_t *out) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_INT)
        return MLXD_ERR_INVALID;
    if (v->wide)
        return MLXD_ERR_RANGE;
    *out = v->u.i;
    return MLXD_OK;
}

mlxd_err mlxd_json_get_integral(const mlxd_json *v, int64_t *out) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_DOUBLE)
        return mlxd_json_get_int64(v, out);
    if (v->u.d < -0x1p63 || v->u.d >= 0x1p63)
        return MLXD_ERR_RANGE; /* no double of this size has a fraction */
    int64_t i = (int64_t)v->u.d;
    if ((double)i != v->u.d)
        return MLXD_ERR_INVALID;
    *out = i;
    return MLXD_OK;
}

mlxd_err mlxd_json_get_double(const mlxd_json *v, double *out) {
    mlxd_json_kind kind = mlxd_json_get_kind(v);
    if (kind != MLXD_JSON_INT && kind != MLXD_JSON_DOUBLE)
        return MLXD_ERR_INVALID;
    *out = kind == MLXD_JSON_INT && !v->wide ? (double)v->u.i : v->u.d;
    return MLXD_OK;
}

mlxd_err mlxd_json_get_str(const mlxd_json *v, mlxd_slice *out) {
    if (mlxd_json_get_kind(v) != MLXD_JSON_STRING)
        return MLXD_ERR_INVALID;
    *out = key_at(v, 0);
    return MLXD_OK;
}

bool mlxd_json_is_str(const mlxd_json *v, const char *text) {
    return mlxd_json_get_kind(v) == MLXD_JSON_STRING && strcmp(v->u.s, text) == 0;
}

size_t mlxd_json_count(const mlxd_json *v) {
    MLXD_ASSERT(v && is_container(v));
    return v->len;
}

const mlxd_json *mlxd_json_at(const mlxd_json *array, size_t index) {
    MLXD_ASSERT(array && array->kind == MLXD_JSON_ARRAY);
    MLXD_ASSERT(index < array->len);
    if (array->u.index)
        return array + array->u.index[index];
    const mlxd_json *v = array + 1;
    while (index-- > 0)
        v += v->span;
    return v;
}

const mlxd_json *mlxd_json_find(const mlxd_json *object, const char *key) {
    MLXD_ASSERT(object && object->kind == MLXD_JSON_OBJECT);
    mlxd_slice want = mlxd_slice_str(key), have;
    if (object->u.index) {
        uint32_t at = mlxd_names_find(object->u.index, object->len, key_at, object, want);
        return at == MLXD_NAMES_NONE ? NULL : object + at + 1;
    }
    for (const mlxd_json *v = mlxd_json_first(object, &have); v;
         v = mlxd_json_next(object, v, &have))
        if (mlxd_slice_eq(have, want))
            return v;
    return NULL;
}

/* The child that begins at `v` (for an object: with its key), or NULL at the container's end. */
static const mlxd_json *child_at(const mlxd_json *container, const mlxd_json *v, mlxd_slice *key) {
    if (v == container + container->span)
        return NULL;
    bool object = container->kind == MLXD_JSON_OBJECT;
    if (key)
        *key = object ? key_at(v, 0) : (mlxd_slice){NULL, 0};
    return v + object;
}

const mlxd_json *mlxd_json_first(const mlxd_json *container, mlxd_slice *key) {
    MLXD_ASSERT(container && is_container(container));
    return child_at(container, container + 1, key);
}

const mlxd_json *mlxd_json_next(const mlxd_json *container, const mlxd_json *v, mlxd_slice *key) {
    MLXD_ASSERT(container && v > container && v < container + container->span);
    return child_at(container, v + v->span, key);
}
