/* jinja_filter_seq.c - filters on sequences and dicts: length, first, join, map, select, sort ...
 * Where Python gives a generator the result is an ITERATOR: it can be walked once, has no length
 * and is always true. */
#include "model/jinja_internal.h"

#include <string.h>

#define UNUSED_ARGS ((void)r, (void)self, (void)v, (void)a)

static value get_or(value v, value fallback) {
    return v.kind == K_ABSENT ? fallback : v;
}

/* ---- attributes by path ---- */

/* item of item: "a.b.0"; what is not there is undefined, or `fallback`. */
static value walk(run *r, value v, value path, value fallback) {
    int64_t i;
    if (mlxd_jinja_get_int(path, &i))
        return mlxd_jinja_item(r, v, path);
    const string *s = mlxd_jinja_to_string(r, path);
    for (size_t at = 0, end; s && at <= s->len && !r->err; at = end + 1) {
        int64_t n = 0;
        bool number = true;
        for (end = at; end < s->len && s->data[end] != '.'; end++) {
            number = number && s->data[end] >= '0' && s->data[end] <= '9' && end - at < 18;
            n = number ? n * 10 + (s->data[end] - '0') : n;
        }
        value key = number && end > at ? mlxd_jinja_int(n)
                                       : mlxd_jinja_of_string(mlxd_jinja_part(r, s, at, end));
        v = mlxd_jinja_item(r, v, key);
        if (v.kind == K_UNDEFINED && fallback.kind != K_ABSENT)
            v = fallback;
    }
    return v;
}

/* What `v` is sorted and compared by: an attribute, letters without case. */
static value sort_key(run *r, value v, value attribute, bool case_sensitive) {
    if (attribute.kind != K_ABSENT && attribute.kind != K_NONE)
        v = walk(r, v, attribute, ABSENT);
    if (v.kind == K_STRING && !case_sensitive)
        v = mlxd_jinja_of_string(mlxd_jinja_case(r, v.as.s, CASE_LOWER, false));
    return v;
}

/* ---- simple ones ---- */

static value f_length(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    size_t n;
    return mlxd_jinja_length(r, self, &n) ? mlxd_jinja_int((int64_t)n) : UNDEFINED;
}

static value f_first(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = mlxd_jinja_items(r, self);
    return s && s->count > 0 ? s->items[0] : UNDEFINED;
}

static value f_last(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (self.kind == K_ITERATOR)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'generator' object is not reversible");
    const seq *s = mlxd_jinja_items(r, self);
    return s && s->count > 0 ? s->items[s->count - 1] : UNDEFINED;
}

static value f_list(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = mlxd_jinja_items(r, self);
    seq *out = mlxd_jinja_seq(r, s ? s->count : 0);
    for (size_t i = 0; s && out && i < s->count && !r->err; i++)
        mlxd_jinja_push(r, out, s->items[i]);
    return mlxd_jinja_of_seq(out, K_LIST);
}

static seq *pairs(run *r, const dict *d) {
    seq *out = mlxd_jinja_seq(r, d->count);
    for (size_t i = 0; i < d->count && !r->err; i++)
        mlxd_jinja_push(r, out, mlxd_jinja_tuple2(r, d->entries[i].key, d->entries[i].value));
    return out;
}

static value f_items(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (self.kind != K_UNDEFINED && self.kind != K_DICT)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "Can only get item pairs from a mapping.");
    if (r->err)
        return UNDEFINED;
    seq *s = self.kind == K_DICT ? pairs(r, self.as.dict) : mlxd_jinja_seq(r, 0);
    return mlxd_jinja_iterator(s, "generator object do_items");
}

static value f_reverse(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (self.kind == K_STRING)
        return mlxd_jinja_slice(r, self, ABSENT, ABSENT, mlxd_jinja_int(-1));
    const seq *s = mlxd_jinja_items(r, self);
    seq *out = mlxd_jinja_seq(r, s ? s->count : 0);
    for (size_t i = s ? s->count : 0; i > 0 && !r->err; i--)
        mlxd_jinja_push(r, out, s->items[i - 1]);
    return mlxd_jinja_iterator(out, "list_reverseiterator object");
}

static value f_join(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    builder b = {.r = r};
    const seq *s = mlxd_jinja_items(r, self);
    const string *between = v[0].kind == K_ABSENT ? NULL : mlxd_jinja_to_string(r, v[0]);
    bool by = v[1].kind != K_ABSENT && v[1].kind != K_NONE;
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        if (i > 0)
            mlxd_jinja_put_string(&b, between);
        mlxd_jinja_print(&b, by ? walk(r, s->items[i], v[1], ABSENT) : s->items[i]);
    }
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

static value f_sum(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = mlxd_jinja_items(r, self);
    value sum = get_or(v[1], mlxd_jinja_int(0));
    bool by = v[0].kind != K_ABSENT && v[0].kind != K_NONE;
    for (size_t i = 0; s && i < s->count && !r->err; i++)
        sum = mlxd_jinja_binary(r, OP_ADD, sum,
                                by ? walk(r, s->items[i], v[0], ABSENT) : s->items[i]);
    return sum;
}

/* ---- order ---- */

typedef struct keyed {
    value key, item;
} keyed;

/* Merges the sorted halves of `in` into `out`; stable. */
static void merge(run *r, const keyed *in, size_t half, size_t n, keyed *out, bool reverse) {
    size_t i = 0, k = half, at = 0;
    while (at < n) {
        bool left = k == n;
        if (i < half && k < n) {
            int c = mlxd_jinja_order(r, in[k].key, in[i].key, "<");
            left = reverse ? c <= 0 : c >= 0;
        }
        out[at++] = left ? in[i++] : in[k++];
    }
}

static void sort(run *r, keyed *items, keyed *scratch, size_t n, bool reverse) {
    for (size_t width = 1; width < n && !r->err; width *= 2)
        for (size_t at = 0; at + width < n && !r->err; at += 2 * width) {
            size_t len = MLXD_MIN(2 * width, n - at);
            merge(r, items + at, width, len, scratch, reverse);
            memcpy(items + at, scratch, len * sizeof *items);
        }
}

/* Items of `in` in the order of their keys. */
static value sorted(run *r, const seq *in, value attribute, bool case_sensitive, bool reverse) {
    size_t n = in ? in->count : 0;
    keyed *items = mlxd_jinja_new(r, n + 1, sizeof *items);
    keyed *scratch = mlxd_jinja_new(r, n + 1, sizeof *scratch);
    seq *out = mlxd_jinja_seq(r, n);
    if (!items || !scratch || !out)
        return UNDEFINED;
    for (size_t i = 0; i < n && !r->err; i++)
        items[i] = (keyed){sort_key(r, in->items[i], attribute, case_sensitive), in->items[i]};
    sort(r, items, scratch, n, reverse);
    for (size_t i = 0; i < n && !r->err; i++)
        mlxd_jinja_push(r, out, items[i].item);
    return mlxd_jinja_of_seq(out, K_LIST);
}

static value f_sort(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return sorted(r, mlxd_jinja_items(r, self), v[2], mlxd_jinja_truth(v[1]),
                  mlxd_jinja_truth(v[0]));
}

static value f_dictsort(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    int64_t by = 0;
    if (v[1].kind == K_STRING &&
        mlxd_slice_eq(mlxd_jinja_bytes(v[1].as.s), mlxd_slice_str("value")))
        by = 1;
    else if (v[1].kind != K_ABSENT &&
             !(v[1].kind == K_STRING &&
               mlxd_slice_eq(mlxd_jinja_bytes(v[1].as.s), mlxd_slice_str("key"))))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "You can only sort by either \"key\" or \"value\"");
    if (self.kind != K_DICT)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "dictsort: expected a dict, got '%s'",
                        mlxd_jinja_type(self));
    if (r->err)
        return UNDEFINED;
    return sorted(r, pairs(r, self.as.dict), mlxd_jinja_int(by), mlxd_jinja_truth(v[0]),
                  mlxd_jinja_truth(v[2]));
}

static value extreme(run *r, value self, const value *v, int sign) {
    const seq *s = mlxd_jinja_items(r, self);
    value best = UNDEFINED, best_key = UNDEFINED;
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        value key = sort_key(r, s->items[i], v[1], mlxd_jinja_truth(v[0]));
        if (i == 0 || mlxd_jinja_order(r, key, best_key, sign < 0 ? "<" : ">") * sign > 0) {
            best = s->items[i];
            best_key = key;
        }
    }
    return best;
}
static value f_min(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return extreme(r, self, v, -1);
}
static value f_max(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return extreme(r, self, v, 1);
}

static value f_unique(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = mlxd_jinja_items(r, self);
    dict *seen = mlxd_jinja_dict_new(r);
    seq *out = mlxd_jinja_seq(r, 0);
    for (size_t i = 0; s && seen && i < s->count && !r->err; i++) {
        size_t before = seen->count;
        mlxd_jinja_dict_set(r, seen, sort_key(r, s->items[i], v[1], mlxd_jinja_truth(v[0])), NONE);
        if (seen->count > before)
            mlxd_jinja_push(r, out, s->items[i]);
    }
    return mlxd_jinja_iterator(out, "generator object do_unique");
}

/* ---- map and select ---- */

/* Keyword arguments that begin with `attribute` and `default` of map. */
static value keyword(const args *a, const char *name) {
    for (size_t i = 0; i < a->n_kw; i++)
        if (mlxd_slice_eq(mlxd_jinja_bytes(a->names[i]), mlxd_slice_str(name)))
            return a->kw[i];
    return ABSENT;
}

/* What map and select walk over; nothing when `v` is false, whatever it is. */
static const seq *items_or_none(run *r, value v) {
    return mlxd_jinja_truth(v) ? mlxd_jinja_items(r, v) : mlxd_jinja_seq(r, 0);
}

/* map(attribute="a.b", default=x), map("filter", args...) */
static value f_map(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = items_or_none(r, self);
    seq *out = mlxd_jinja_seq(r, s ? s->count : 0);
    value attribute = keyword(a, "attribute"), fallback = keyword(a, "default");
    const builtin *f = NULL;
    args rest = *a;
    bool by = a->n == 0 && attribute.kind != K_ABSENT;
    if (!by && (a->n == 0 || a->pos[0].kind != K_STRING))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "map requires a filter argument");
    if (r->err)
        return UNDEFINED;
    if (!by) {
        f = mlxd_jinja_find_filter(mlxd_jinja_bytes(a->pos[0].as.s));
        rest.pos++;
        rest.n--;
    }
    for (size_t i = 0; s && i < s->count && !r->err; i++)
        mlxd_jinja_push(r, out,
                        by ? walk(r, s->items[i], attribute, fallback)
                           : mlxd_jinja_filter(r, f, a->pos[0].as.s, s->items[i], &rest));
    return mlxd_jinja_iterator(out, "generator object do_map");
}

/* select(test, args...), selectattr(attribute, test, args...); without a test, what is true. */
static value choose(run *r, value self, const args *a, bool attribute, bool wanted) {
    const seq *s = items_or_none(r, self);
    seq *out = mlxd_jinja_seq(r, 0);
    args rest = *a;
    value path = ABSENT;
    const builtin *test = NULL;
    if (attribute && a->n == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "Missing parameter for attribute name");
    if (r->err)
        return UNDEFINED;
    if (attribute) {
        path = rest.pos[0];
        rest.pos++;
        rest.n--;
    }
    if (rest.n > 0) {
        const string *name = mlxd_jinja_to_string(r, rest.pos[0]);
        test = name ? mlxd_jinja_find_test(mlxd_jinja_bytes(name)) : NULL;
        if (name && !test)
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "No test named '%.*s'", (int)MLXD_MIN(name->len, 64),
                            (const char *)name->data);
        rest.pos++;
        rest.n--;
    }
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        value v = attribute ? walk(r, s->items[i], path, ABSENT) : s->items[i];
        if (test)
            v = mlxd_jinja_call_builtin(r, test, v, &rest);
        if (mlxd_jinja_truth(v) == wanted)
            mlxd_jinja_push(r, out, s->items[i]);
    }
    return mlxd_jinja_iterator(out, "generator object select_or_reject");
}
static value f_select(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return choose(r, self, a, false, true);
}
static value f_reject(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return choose(r, self, a, false, false);
}
static value f_selectattr(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return choose(r, self, a, true, true);
}
static value f_rejectattr(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return choose(r, self, a, true, false);
}

/* ---- pieces ---- */

/* Lists of `n` items; the last one is filled up with `fill` unless that is none. */
static value f_batch(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const seq *s = mlxd_jinja_items(r, self);
    seq *out = mlxd_jinja_seq(r, 0), *line = NULL;
    int64_t n = 0;
    if (!mlxd_jinja_get_int(v[0], &n) || n < 1)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "batch: expected a number of items from 1");
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        if (!line || line->count == (size_t)n) {
            line = mlxd_jinja_seq(r, 0);
            mlxd_jinja_push(r, out, mlxd_jinja_of_seq(line, K_LIST));
        }
        mlxd_jinja_push(r, line, s->items[i]);
    }
    if (line && v[1].kind != K_ABSENT && v[1].kind != K_NONE)
        while (line->count < (size_t)n && !r->err)
            mlxd_jinja_push(r, line, v[1]);
    return mlxd_jinja_iterator(out, "generator object do_batch");
}

static const builtin rows[] = {
    {"length", f_length, 0, {NULL}},
    {"count", f_length, 0, {NULL}},
    {"first", f_first, 0, {NULL}},
    {"last", f_last, 0, {NULL}},
    {"list", f_list, 0, {NULL}},
    {"items", f_items, 0, {NULL}},
    {"reverse", f_reverse, 0, {NULL}},
    {"join", f_join, 0, {"d", "attribute"}},
    {"sum", f_sum, 0, {"attribute", "start"}},
    {"sort", f_sort, 0, {"reverse", "case_sensitive", "attribute"}},
    {"dictsort", f_dictsort, 0, {"case_sensitive", "by", "reverse"}},
    {"min", f_min, 0, {"case_sensitive", "attribute"}},
    {"max", f_max, 0, {"case_sensitive", "attribute"}},
    {"unique", f_unique, 0, {"case_sensitive", "attribute"}},
    {"map", f_map, 0, {"*"}},
    {"select", f_select, 0, {"*"}},
    {"reject", f_reject, 0, {"*"}},
    {"selectattr", f_selectattr, 0, {"*"}},
    {"rejectattr", f_rejectattr, 0, {"*"}},
    {"batch", f_batch, 1, {"linecount", "fill_with"}},
};

const builtin *mlxd_jinja_find_filter_seq(mlxd_slice name) {
    return mlxd_jinja_find_row(rows, MLXD_COUNT_OF(rows), name);
}
