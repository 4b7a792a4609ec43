/* jinja_method.c - methods of strings, lists, dicts, loops and cyclers. A row without a function is
 * a method that Python has and a template must not use (it would change a value): it is undefined,
 * and hides a key of that name behind a dot, as in Jinja's sandbox. */
#include "model/jinja_internal.h"

#include <string.h>

#define UNUSED_ARGS ((void)r, (void)self, (void)v, (void)a)

static value text(const string *s) {
    return mlxd_jinja_of_string(s);
}

static bool is_given(value v) {
    return v.kind != K_ABSENT && v.kind != K_NONE;
}

/* A string argument; NULL: it is none, and the run has failed. */
static const string *string_arg(run *r, value v, const char *method) {
    if (v.kind == K_STRING)
        return v.as.s;
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: expected a string, got '%s'", method,
                    mlxd_jinja_type(v));
    return NULL;
}

static bool int_arg(run *r, value v, const char *method, int64_t *out) {
    if (v.kind == K_ABSENT || mlxd_jinja_get_int(v, out))
        return true;
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: expected an integer, got '%s'", method,
                    mlxd_jinja_type(v));
    return false;
}

/* ---- strings: case and white space ---- */

static value str_upper(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return text(mlxd_jinja_case(r, self.as.s, CASE_UPPER, false));
}
static value str_lower(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return text(mlxd_jinja_case(r, self.as.s, CASE_LOWER, false));
}
static value str_title(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return text(mlxd_jinja_case(r, self.as.s, CASE_TITLE, false));
}
static value str_capitalize(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return text(mlxd_jinja_case(r, self.as.s, CASE_CAPITAL, false));
}

static value strip(run *r, value self, value chars, int sides) {
    const string *c = is_given(chars) ? string_arg(r, chars, "strip") : NULL;
    return r->err ? UNDEFINED : text(mlxd_jinja_strip(r, self.as.s, c, sides));
}
static value str_strip(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return strip(r, self, v[0], STRIP_LEFT | STRIP_RIGHT);
}
static value str_lstrip(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return strip(r, self, v[0], STRIP_LEFT);
}
static value str_rstrip(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return strip(r, self, v[0], STRIP_RIGHT);
}

/* ---- strings: searching ---- */

static bool affix(const string *s, const string *what, bool at_end) {
    return what->len <= s->len &&
           memcmp(s->data + (at_end ? s->len - what->len : 0), what->data, what->len) == 0;
}

/* startswith and endswith: a string or a tuple of them. */
static value has_affix(run *r, value self, value what, bool at_end) {
    if (what.kind != K_TUPLE) {
        const string *s = string_arg(r, what, at_end ? "endswith" : "startswith");
        return mlxd_jinja_bool(s && affix(self.as.s, s, at_end));
    }
    for (size_t i = 0; i < what.as.seq->count && !r->err; i++) {
        const string *s = string_arg(r, what.as.seq->items[i], "startswith");
        if (s && affix(self.as.s, s, at_end))
            return mlxd_jinja_bool(true);
    }
    return mlxd_jinja_bool(false);
}
static value str_startswith(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return has_affix(r, self, v[0], false);
}
static value str_endswith(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return has_affix(r, self, v[0], true);
}

static value remove_affix(run *r, value self, value what, bool at_end) {
    const string *s = self.as.s, *w = string_arg(r, what, "removeprefix");
    if (!w || !affix(s, w, at_end))
        return self;
    return text(mlxd_jinja_part(r, s, at_end ? 0 : w->len, at_end ? s->len - w->len : s->len));
}
static value str_removeprefix(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return remove_affix(r, self, v[0], false);
}
static value str_removesuffix(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return remove_affix(r, self, v[0], true);
}

static int64_t chars_before(const string *s, size_t at) {
    int64_t n = 0;
    for (size_t i = 0; i < at; i++)
        n += (s->data[i] & 0xc0) != 0x80;
    return n;
}

/* The last occurrence that begins before `end`; SIZE_MAX: none. */
static size_t find_last(run *r, const string *s, const string *what) {
    size_t found = SIZE_MAX;
    for (size_t at = 0; mlxd_jinja_step(r, 1); at = found + 1) {
        size_t next = mlxd_jinja_find(s, what, at);
        if (next == SIZE_MAX)
            break;
        found = next;
    }
    return found;
}

static value find(run *r, value self, value what, bool last, bool must) {
    const string *w = string_arg(r, what, "find");
    if (!w || !mlxd_jinja_step(r, self.as.s->len / 64))
        return UNDEFINED;
    size_t at = last ? find_last(r, self.as.s, w) : mlxd_jinja_find(self.as.s, w, 0);
    if (at == SIZE_MAX && must)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "substring not found");
    return mlxd_jinja_int(at == SIZE_MAX ? -1 : chars_before(self.as.s, at));
}
static value str_find(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return find(r, self, v[0], false, false);
}
static value str_rfind(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return find(r, self, v[0], true, false);
}
static value str_index(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return find(r, self, v[0], false, true);
}

static value str_count(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = self.as.s, *what = string_arg(r, v[0], "count");
    int64_t n = 0;
    if (what && what->len == 0)
        return mlxd_jinja_int((int64_t)s->chars + 1);
    for (size_t at = 0; what && mlxd_jinja_step(r, 1); n++) {
        at = mlxd_jinja_find(s, what, at);
        if (at == SIZE_MAX)
            break;
        at += what->len;
    }
    return mlxd_jinja_int(n);
}

static value str_replace(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *old = string_arg(r, v[0], "replace"), *with = string_arg(r, v[1], "replace");
    int64_t count = -1;
    if (!old || !with || !int_arg(r, v[2], "replace", &count))
        return UNDEFINED;
    return text(mlxd_jinja_replace(r, self.as.s, old, with, count));
}

static value is_all(value self, bool (*is)(uint8_t c)) {
    const string *s = self.as.s;
    for (size_t i = 0; i < s->len; i++)
        if (!is(s->data[i]))
            return mlxd_jinja_bool(false);
    return mlxd_jinja_bool(s->len > 0);
}
static bool digit(uint8_t c) {
    return c >= '0' && c <= '9';
}
static bool letter(uint8_t c) {
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}
static bool letter_or_digit(uint8_t c) {
    return letter(c) || digit(c);
}
static value str_isdigit(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return is_all(self, digit);
}
static value str_isalpha(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return is_all(self, letter);
}
static value str_isalnum(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return is_all(self, letter_or_digit);
}

/* ---- strings: splitting ---- */

static void push_part(run *r, seq *out, const string *s, size_t from, size_t to) {
    mlxd_jinja_push(r, out, text(mlxd_jinja_part(r, s, from, to)));
}

/* Length of the white space at `at`; 0: none, or the end. */
static size_t space_at(const string *s, size_t at) {
    size_t n = 1;
    uint32_t cp = at < s->len ? s->data[at] : 'x';
    if (cp >= 0x80) {
        while (at + n < s->len && (s->data[at + n] & 0xc0) == 0x80)
            n++;
        cp = n == 2 ? (cp & 0x1f) << 6 | (s->data[at + 1] & 0x3fu)
             : n == 3
                 ? (cp & 0x0f) << 12 | (s->data[at + 1] & 0x3fu) << 6 | (s->data[at + 2] & 0x3fu)
                 : 'x';
    }
    return mlxd_jinja_is_space(cp) ? n : 0;
}

/* split() without a separator: runs of white space, none at the ends. */
static void split_space(run *r, const string *s, int64_t count, seq *out) {
    size_t at = 0, n;
    while (mlxd_jinja_step(r, 1)) {
        while ((n = space_at(s, at)) > 0)
            at += n;
        if (at == s->len)
            return;
        size_t start = at;
        if (count-- == 0) {
            const string *rest = mlxd_jinja_part(r, s, start, s->len);
            if (rest)
                mlxd_jinja_push(r, out, text(mlxd_jinja_strip(r, rest, NULL, STRIP_RIGHT)));
            return;
        }
        while (at < s->len && !space_at(s, at))
            at++;
        push_part(r, out, s, start, at);
    }
}

static void split_at(run *r, const string *s, const string *by, int64_t count, seq *out) {
    size_t start = 0;
    for (; count != 0 && mlxd_jinja_step(r, 1); count--) {
        size_t hit = mlxd_jinja_find(s, by, start);
        if (hit == SIZE_MAX)
            break;
        push_part(r, out, s, start, hit);
        start = hit + by->len;
    }
    push_part(r, out, s, start, s->len);
}

static value str_split(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    seq *out = mlxd_jinja_seq(r, 0);
    int64_t count = -1;
    const string *by = is_given(v[0]) ? string_arg(r, v[0], "split") : NULL;
    if (by && by->len == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "empty separator");
    if (!int_arg(r, v[1], "split", &count) || r->err)
        return UNDEFINED;
    if (by)
        split_at(r, self.as.s, by, count, out);
    else
        split_space(r, self.as.s, count, out);
    return mlxd_jinja_of_seq(out, K_LIST);
}

/* From the right: the same pieces, when there are not more than `count` of them. */
static value str_rsplit(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    seq *all = mlxd_jinja_seq(r, 0), *out = mlxd_jinja_seq(r, 0);
    int64_t count = -1;
    const string *s = self.as.s, *by = string_arg(r, v[0], "rsplit");
    if (by && by->len == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "empty separator");
    if (!int_arg(r, v[1], "rsplit", &count) || r->err)
        return UNDEFINED;
    split_at(r, s, by, -1, all);
    size_t joined =
        count >= 0 && all && (uint64_t)count < all->count - 1 ? all->count - 1 - (size_t)count : 0;
    size_t end = 0;
    for (size_t i = 0; all && i < all->count && !r->err; i++) {
        end += all->items[i].as.s->len + (i > 0 ? by->len : 0);
        if (i == joined)
            push_part(r, out, s, 0, end);
        else if (i > joined)
            mlxd_jinja_push(r, out, all->items[i]);
    }
    return mlxd_jinja_of_seq(out, K_LIST);
}

static value str_splitlines(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    seq *out = mlxd_jinja_seq(r, 0);
    const string *s = self.as.s;
    bool keep = mlxd_jinja_truth(v[0]);
    for (size_t at = 0, start = 0; at < s->len && mlxd_jinja_step(r, 1);) {
        size_t n = s->data[at] == '\n' ? 1 : 0;
        if (s->data[at] == '\r')
            n = at + 1 < s->len && s->data[at + 1] == '\n' ? 2 : 1;
        if (n == 0 && at + 1 < s->len) {
            at++;
            continue;
        }
        push_part(r, out, s, start, n == 0 ? s->len : keep ? at + n : at);
        at += n ? n : 1;
        start = at;
    }
    return mlxd_jinja_of_seq(out, K_LIST);
}

static value str_join(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    const seq *s = mlxd_jinja_items(r, v[0]);
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        if (i > 0)
            mlxd_jinja_put_string(&b, self.as.s);
        mlxd_jinja_put_string(&b, string_arg(r, s->items[i], "join"));
    }
    return text(mlxd_jinja_built(&b));
}

/* "{} and {}": only plain and numbered places. */
static value str_format(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    const string *s = self.as.s;
    size_t next = 0;
    for (size_t at = 0; at < s->len && mlxd_jinja_step(r, 1); at++) {
        uint8_t c = s->data[at];
        if (c != '{' && c != '}') {
            mlxd_jinja_put_part(&b, s, at, at + 1);
            continue;
        }
        size_t index = next, end = at + 1;
        if (end < s->len && s->data[end] == c) {
            mlxd_jinja_put_part(&b, s, at, at + 1);
            at++;
            continue;
        }
        if (end < s->len && digit(s->data[end]))
            index = (size_t)(s->data[end++] - '0');
        else
            next++;
        if (c != '{' || end >= s->len || s->data[end] != '}' || index >= a->n)
            mlxd_jinja_fail(r, MLXD_ERR_UNSUPPORTED, "format: only {} and {0} are supported");
        else
            mlxd_jinja_print(&b, a->pos[index]);
        at = end;
    }
    return text(mlxd_jinja_built(&b));
}

static const builtin string_rows[] = {
    {"upper", str_upper, 0, {NULL}},
    {"lower", str_lower, 0, {NULL}},
    {"title", str_title, 0, {NULL}},
    {"capitalize", str_capitalize, 0, {NULL}},
    {"strip", str_strip, 0, {"chars"}},
    {"lstrip", str_lstrip, 0, {"chars"}},
    {"rstrip", str_rstrip, 0, {"chars"}},
    {"startswith", str_startswith, 1, {"prefix"}},
    {"endswith", str_endswith, 1, {"suffix"}},
    {"removeprefix", str_removeprefix, 1, {"prefix"}},
    {"removesuffix", str_removesuffix, 1, {"suffix"}},
    {"find", str_find, 1, {"sub"}},
    {"rfind", str_rfind, 1, {"sub"}},
    {"index", str_index, 1, {"sub"}},
    {"count", str_count, 1, {"sub"}},
    {"replace", str_replace, 2, {"old", "new", "count"}},
    {"isdigit", str_isdigit, 0, {NULL}},
    {"isalpha", str_isalpha, 0, {NULL}},
    {"isalnum", str_isalnum, 0, {NULL}},
    {"split", str_split, 0, {"sep", "maxsplit"}},
    {"rsplit", str_rsplit, 1, {"sep", "maxsplit"}},
    {"splitlines", str_splitlines, 0, {"keepends"}},
    {"join", str_join, 1, {"iterable"}},
    {"format", str_format, 0, {"*"}},
};

/* ---- lists and tuples ---- */

static value list_append(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    mlxd_jinja_push(r, self.as.seq, v[0]);
    return NONE;
}

/* list.pop(i), from the end without an index. */
static value list_pop(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    seq *s = self.as.seq;
    int64_t i = -1, n = (int64_t)s->count;
    if (!int_arg(r, v[0], "pop", &i) || !mlxd_jinja_step(r, s->count / 16))
        return UNDEFINED;
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "pop index out of range");
        return UNDEFINED;
    }
    value out = s->items[i];
    memmove(s->items + i, s->items + i + 1, (size_t)(n - i - 1) * sizeof *s->items);
    s->count--;
    return out;
}

static value list_index(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    for (size_t i = 0; i < self.as.seq->count && !r->err; i++)
        if (mlxd_jinja_equal(r, self.as.seq->items[i], v[0]))
            return mlxd_jinja_int((int64_t)i);
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "the value is not in the list");
    return UNDEFINED;
}

static value list_count(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    int64_t n = 0;
    for (size_t i = 0; i < self.as.seq->count && !r->err; i++)
        n += mlxd_jinja_equal(r, self.as.seq->items[i], v[0]);
    return mlxd_jinja_int(n);
}

static value list_copy(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return mlxd_jinja_slice(r, self, ABSENT, ABSENT, ABSENT);
}

static const builtin list_rows[] = {
    {"append", list_append, 1, {"object"}},
    {"index", list_index, 1, {"value"}},
    {"count", list_count, 1, {"value"}},
    {"copy", list_copy, 0, {NULL}},
    {"clear", NULL, 0, {NULL}},
    {"extend", NULL, 0, {NULL}},
    {"insert", NULL, 0, {NULL}},
    {"pop", list_pop, 0, {"index"}},
    {"remove", NULL, 0, {NULL}},
    {"reverse", NULL, 0, {NULL}},
    {"sort", NULL, 0, {NULL}},
};
static const builtin tuple_rows[] = {
    {"index", list_index, 1, {"value"}},
    {"count", list_count, 1, {"value"}},
};

/* ---- dicts ---- */

static value dict_get(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    value out;
    if (mlxd_jinja_dict_get(r, self.as.dict, v[0], &out))
        return out;
    return v[1].kind == K_ABSENT ? NONE : v[1];
}

static value view(run *r, const dict *d, const char *title, bool keys, bool values) {
    seq *s = mlxd_jinja_seq(r, d->count);
    for (size_t i = 0; i < d->count && !r->err; i++) {
        const entry *e = &d->entries[i];
        mlxd_jinja_push(r, s,
                        keys && values ? mlxd_jinja_tuple2(r, e->key, e->value)
                        : keys         ? e->key
                                       : e->value);
    }
    if (s)
        s->title = title;
    return mlxd_jinja_of_seq(s, K_VIEW);
}
static value dict_keys(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return view(r, self.as.dict, "dict_keys", true, false);
}
static value dict_values(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return view(r, self.as.dict, "dict_values", false, true);
}
static value dict_items(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return view(r, self.as.dict, "dict_items", true, true);
}

static value dict_copy(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    dict *d = mlxd_jinja_dict_new(r);
    for (size_t i = 0; d && i < self.as.dict->count && !r->err; i++)
        mlxd_jinja_dict_set(r, d, self.as.dict->entries[i].key, self.as.dict->entries[i].value);
    return d ? (value){.kind = K_DICT, .as.dict = d} : UNDEFINED;
}

static const builtin dict_rows[] = {
    {"get", dict_get, 1, {"key", "default"}},
    {"keys", dict_keys, 0, {NULL}},
    {"values", dict_values, 0, {NULL}},
    {"items", dict_items, 0, {NULL}},
    {"copy", dict_copy, 0, {NULL}},
    {"clear", NULL, 0, {NULL}},
    {"fromkeys", NULL, 0, {NULL}},
    {"pop", NULL, 0, {NULL}},
    {"popitem", NULL, 0, {NULL}},
    {"setdefault", NULL, 0, {NULL}},
    {"update", NULL, 0, {NULL}},
};

/* ---- loops, cyclers ---- */

static value loop_cycle(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (a->n == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "no items for cycling given");
    return r->err ? UNDEFINED : a->pos[self.as.loop->at % a->n];
}

static value loop_changed(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    loop *l = self.as.loop;
    seq *now = mlxd_jinja_seq(r, a->n);
    for (size_t i = 0; i < a->n; i++)
        mlxd_jinja_push(r, now, a->pos[i]);
    value v_now = mlxd_jinja_of_seq(now, K_TUPLE);
    bool same = l->changed.kind == K_TUPLE && mlxd_jinja_equal(r, l->changed, v_now);
    l->changed = v_now;
    return mlxd_jinja_bool(!same);
}

static value cycler_next(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    struct counter *c = self.as.counter;
    value out = c->items->items[c->at];
    c->at = (c->at + 1) % c->items->count;
    return out;
}

static value cycler_reset(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    self.as.counter->at = 0;
    return NONE;
}

static const builtin loop_rows[] = {
    {"cycle", loop_cycle, 0, {"*"}},
    {"changed", loop_changed, 0, {"*"}},
};
static const builtin cycler_rows[] = {
    {"next", cycler_next, 0, {NULL}},
    {"reset", cycler_reset, 0, {NULL}},
};

const builtin *mlxd_jinja_find_method(value v, mlxd_slice name) {
    switch (v.kind) {
    case K_STRING:
        return mlxd_jinja_find_row(string_rows, MLXD_COUNT_OF(string_rows), name);
    case K_LIST:
        return mlxd_jinja_find_row(list_rows, MLXD_COUNT_OF(list_rows), name);
    case K_TUPLE:
        return mlxd_jinja_find_row(tuple_rows, MLXD_COUNT_OF(tuple_rows), name);
    case K_DICT:
        return mlxd_jinja_find_row(dict_rows, MLXD_COUNT_OF(dict_rows), name);
    case K_LOOP:
        return mlxd_jinja_find_row(loop_rows, MLXD_COUNT_OF(loop_rows), name);
    case K_CYCLER:
        return mlxd_jinja_find_row(cycler_rows, MLXD_COUNT_OF(cycler_rows), name);
    default:
        return NULL;
    }
}
