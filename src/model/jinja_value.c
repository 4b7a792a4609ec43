/* jinja_value.c - values of the interpreter, with the meaning that Python gives them: truth,
 * equality, order, iteration, membership, attributes, items, slices. */
#include "model/jinja_internal.h"

#include <math.h>
#include <string.h>

/* ---- making ---- */

seq *mlxd_jinja_seq(run *r, size_t cap) {
    seq *s = mlxd_jinja_new(r, 1, sizeof *s);
    if (s && cap > 0) {
        s->items = mlxd_jinja_new(r, cap, sizeof *s->items);
        s->cap = s->items ? cap : 0;
    }
    return s;
}

void mlxd_jinja_push(run *r, seq *s, value v) {
    if (!s || !mlxd_jinja_step(r, 1))
        return;
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        value *items = mlxd_jinja_new(r, cap, sizeof *items);
        if (!items)
            return;
        if (s->count)
            memcpy(items, s->items, s->count * sizeof *items);
        s->items = items;
        s->cap = cap;
    }
    s->items[s->count++] = v;
}

value mlxd_jinja_of_seq(seq *s, value_kind k) {
    return s ? (value){.kind = k, .as.seq = s} : UNDEFINED;
}

value mlxd_jinja_tuple2(run *r, value a, value b) {
    seq *s = mlxd_jinja_seq(r, 2);
    mlxd_jinja_push(r, s, a);
    mlxd_jinja_push(r, s, b);
    return mlxd_jinja_of_seq(s, K_TUPLE);
}

value mlxd_jinja_iterator(seq *s, const char *title) {
    if (s)
        s->title = title;
    return mlxd_jinja_of_seq(s, K_ITERATOR);
}

static value number_of_json(const mlxd_json *v) {
    int64_t i;
    double f = 0;
    if (mlxd_json_get_kind(v) == MLXD_JSON_INT && !mlxd_json_get_int64(v, &i))
        return mlxd_jinja_int(i);
    mlxd_err err = mlxd_json_get_double(v, &f);
    MLXD_ASSERT(err == MLXD_OK); /* the kind says so */
    return mlxd_jinja_float(f);
}

/* Recursion: a document is at most MLXD_LIMIT_JSON_DEPTH deep. */
value mlxd_jinja_of_json(run *r, const mlxd_json *v) {
    mlxd_slice text, key;
    bool b = false;
    mlxd_json_kind k = mlxd_json_get_kind(v);
    if (!mlxd_jinja_step(r, 1) || k == MLXD_JSON_NULL)
        return NONE;
    if (k == MLXD_JSON_BOOL) {
        mlxd_err err = mlxd_json_get_bool(v, &b);
        MLXD_ASSERT(err == MLXD_OK);
        return mlxd_jinja_bool(b);
    }
    if (k == MLXD_JSON_INT || k == MLXD_JSON_DOUBLE)
        return number_of_json(v);
    if (k == MLXD_JSON_STRING) {
        mlxd_err err = mlxd_json_get_str(v, &text);
        MLXD_ASSERT(err == MLXD_OK);
        return mlxd_jinja_of_string(mlxd_jinja_str(r, text, false));
    }
    if (k == MLXD_JSON_ARRAY) {
        seq *s = mlxd_jinja_seq(r, mlxd_json_count(v));
        for (const mlxd_json *e = mlxd_json_first(v, NULL); e; e = mlxd_json_next(v, e, NULL))
            mlxd_jinja_push(r, s, mlxd_jinja_of_json(r, e));
        return mlxd_jinja_of_seq(s, K_LIST);
    }
    dict *d = mlxd_jinja_dict_new(r);
    for (const mlxd_json *e = mlxd_json_first(v, &key); e; e = mlxd_json_next(v, e, &key))
        mlxd_jinja_dict_set(r, d, mlxd_jinja_of_string(mlxd_jinja_str(r, key, false)),
                            mlxd_jinja_of_json(r, e));
    return d ? (value){.kind = K_DICT, .as.dict = d} : UNDEFINED;
}

/* ---- looking ---- */

const char *mlxd_jinja_type(value v) {
    static const char *const names[] = {
        [K_ABSENT] = "nothing",   [K_UNDEFINED] = "Undefined",
        [K_NONE] = "NoneType",    [K_BOOL] = "bool",
        [K_INT] = "int",          [K_FLOAT] = "float",
        [K_STRING] = "str",       [K_LIST] = "list",
        [K_TUPLE] = "tuple",      [K_RANGE] = "range",
        [K_VIEW] = "dict view",   [K_ITERATOR] = "generator",
        [K_DICT] = "dict",        [K_NAMESPACE] = "Namespace",
        [K_LOOP] = "LoopContext", [K_MACRO] = "Macro",
        [K_BUILTIN] = "function", [K_METHOD] = "method",
        [K_CYCLER] = "Cycler",    [K_JOINER] = "Joiner",
    };
    return names[v.kind];
}

bool mlxd_jinja_truth(value v) {
    switch (v.kind) {
    case K_ABSENT:
    case K_UNDEFINED:
    case K_NONE:
        return false;
    case K_BOOL:
        return v.as.b;
    case K_INT:
        return v.as.i != 0;
    case K_FLOAT:
        return v.as.f != 0;
    case K_STRING:
        return v.as.s->len > 0;
    case K_LIST:
    case K_TUPLE:
    case K_RANGE:
    case K_VIEW:
        return v.as.seq->count > 0;
    case K_DICT:
        return v.as.dict->count > 0;
    default:
        return true;
    }
}

bool mlxd_jinja_get_int(value v, int64_t *out) {
    if (v.kind != K_INT && v.kind != K_BOOL)
        return false;
    *out = v.kind == K_INT ? v.as.i : v.as.b;
    return true;
}

bool mlxd_jinja_get_number(value v, double *out) {
    int64_t i;
    if (v.kind == K_FLOAT)
        *out = v.as.f;
    else if (mlxd_jinja_get_int(v, &i))
        *out = (double)i;
    else
        return false;
    return true;
}

void mlxd_jinja_fail_undefined(run *r, value v) {
    const absent *a = v.kind == K_UNDEFINED ? v.as.absent : NULL;
    if (!a)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "a value is undefined");
    else if (a->owner.kind == K_ABSENT)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%.*s' is undefined", (int)MLXD_MIN(a->name->len, 80),
                        (const char *)a->name->data);
    else if (!a->name)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s object' has no element %lld",
                        mlxd_jinja_type(a->owner), (long long)a->index);
    else
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s object' has no attribute '%.*s'",
                        mlxd_jinja_type(a->owner), (int)MLXD_MIN(a->name->len, 80),
                        (const char *)a->name->data);
}

/* ---- equality and order ---- */

static bool equal(run *r, value a, value b, unsigned depth);

static bool equal_seq(run *r, const seq *a, const seq *b, unsigned depth) {
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!equal(r, a->items[i], b->items[i], depth + 1))
            return false;
    return true;
}

static bool equal_dict(run *r, const dict *a, const dict *b, unsigned depth) {
    value other;
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!mlxd_jinja_dict_get(r, b, a->entries[i].key, &other) ||
            !equal(r, a->entries[i].value, other, depth + 1))
            return false;
    return true;
}

static bool equal_numbers(value a, value b) {
    int64_t i, k;
    double f, g;
    if (mlxd_jinja_get_int(a, &i) && mlxd_jinja_get_int(b, &k))
        return i == k;
    return mlxd_jinja_get_number(a, &f) && mlxd_jinja_get_number(b, &g) && f == g;
}

static bool equal(run *r, value a, value b, unsigned depth) {
    if (!mlxd_jinja_step(r, 1))
        return false;
    if (depth > MLXD_JINJA_NEST) {
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "values that are nested too deeply are compared");
        return false;
    }
    if (a.kind != b.kind)
        return equal_numbers(a, b);
    switch (a.kind) {
    case K_ABSENT:
    case K_UNDEFINED:
    case K_NONE:
        return true;
    case K_BOOL:
    case K_INT:
    case K_FLOAT:
        return equal_numbers(a, b);
    case K_STRING:
        return mlxd_jinja_step(r, a.as.s->len / 64) && mlxd_jinja_same(a.as.s, b.as.s);
    case K_LIST:
    case K_TUPLE:
    case K_RANGE:
        return a.as.seq == b.as.seq || equal_seq(r, a.as.seq, b.as.seq, depth);
    case K_DICT:
        return a.as.dict == b.as.dict || equal_dict(r, a.as.dict, b.as.dict, depth);
    case K_METHOD:
    case K_BUILTIN:
        return a.as.builtin == b.as.builtin;
    default:
        return (const void *)a.as.seq == (const void *)b.as.seq;
    }
}

bool mlxd_jinja_equal(run *r, value a, value b) {
    return equal(r, a, b, 0);
}

static int order(run *r, value a, value b, const char *op, unsigned depth) {
    double f, g;
    int64_t i, k;
    if (!mlxd_jinja_step(r, 1))
        return 0;
    if (mlxd_jinja_get_int(a, &i) && mlxd_jinja_get_int(b, &k))
        return (i > k) - (i < k);
    if (mlxd_jinja_get_number(a, &f) && mlxd_jinja_get_number(b, &g))
        return f < g ? -1 : f > g ? 1 : f == g ? 0 : 2; /* 2: not a number, neither holds */
    if (a.kind == K_STRING && b.kind == K_STRING) {
        const string *s = a.as.s, *t = b.as.s;
        int c = memcmp(s->data, t->data, MLXD_MIN(s->len, t->len));
        return c ? (c > 0) - (c < 0) : (s->len > t->len) - (s->len < t->len);
    }
    if (a.kind == b.kind && (a.kind == K_LIST || a.kind == K_TUPLE) && depth < MLXD_JINJA_NEST) {
        const seq *s = a.as.seq, *t = b.as.seq;
        for (size_t n = 0; n < s->count && n < t->count && !r->err; n++)
            if (!equal(r, s->items[n], t->items[n], depth))
                return order(r, s->items[n], t->items[n], op, depth + 1);
        return (s->count > t->count) - (s->count < t->count);
    }
    if (a.kind == K_UNDEFINED || b.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, a.kind == K_UNDEFINED ? a : b);
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s' not supported between instances of '%s' and '%s'", op,
                    mlxd_jinja_type(a), mlxd_jinja_type(b));
    return 0;
}

int mlxd_jinja_order(run *r, value a, value b, const char *op) {
    return order(r, a, b, op, 0);
}

/* ---- items ---- */

static seq *chars_of(run *r, const string *s) {
    seq *out = mlxd_jinja_seq(r, s->chars);
    for (size_t at = 0, n; at < s->len && !r->err; at += n) {
        n = 1;
        while (at + n < s->len && (s->data[at + n] & 0xc0) == 0x80)
            n++;
        mlxd_jinja_push(r, out, mlxd_jinja_of_string(mlxd_jinja_part(r, s, at, at + n)));
    }
    return out;
}

static seq *keys_of(run *r, const dict *d) {
    seq *out = mlxd_jinja_seq(r, d->count);
    for (size_t i = 0; i < d->count; i++)
        mlxd_jinja_push(r, out, d->entries[i].key);
    return out;
}

seq *mlxd_jinja_items(run *r, value v) {
    if (r->err)
        return NULL;
    switch (v.kind) {
    case K_UNDEFINED:
        return mlxd_jinja_seq(r, 0);
    case K_STRING:
        return chars_of(r, v.as.s);
    case K_LIST:
    case K_TUPLE:
    case K_RANGE:
    case K_VIEW:
        return v.as.seq;
    case K_ITERATOR:
        if (v.as.seq->consumed)
            return mlxd_jinja_seq(r, 0);
        v.as.seq->consumed = true;
        return v.as.seq;
    case K_DICT:
        return keys_of(r, v.as.dict);
    default:
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s' object is not iterable", mlxd_jinja_type(v));
        return NULL;
    }
}

bool mlxd_jinja_length(run *r, value v, size_t *out) {
    *out = 0;
    if (v.kind == K_STRING)
        *out = v.as.s->chars;
    else if (v.kind == K_DICT)
        *out = v.as.dict->count;
    else if (v.kind >= K_LIST && v.kind <= K_VIEW)
        *out = v.as.seq->count;
    else if (v.kind == K_LOOP)
        *out = v.as.loop->items->count;
    else if (v.kind != K_UNDEFINED)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "object of type '%s' has no len()", mlxd_jinja_type(v));
    return r->err == MLXD_OK;
}

bool mlxd_jinja_contains(run *r, value container, value v) {
    value found;
    if (container.kind == K_STRING) {
        if (v.kind != K_STRING) {
            mlxd_jinja_fail(r, MLXD_ERR_DATA,
                            "'in <string>' requires string as left operand, not %s",
                            mlxd_jinja_type(v));
            return false;
        }
        return mlxd_jinja_step(r, container.as.s->len / 64) &&
               mlxd_jinja_find(container.as.s, v.as.s, 0) != SIZE_MAX;
    }
    if (container.kind == K_DICT)
        return mlxd_jinja_dict_get(r, container.as.dict, v, &found);
    if (container.kind != K_UNDEFINED && !mlxd_jinja_is_seq(container)) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "argument of type '%s' is not iterable",
                        mlxd_jinja_type(container));
        return false;
    }
    const seq *s = mlxd_jinja_items(r, container);
    for (size_t i = 0; s && i < s->count; i++)
        if (mlxd_jinja_equal(r, s->items[i], v))
            return true;
    return false;
}

/* ---- attributes and items ---- */

static value missing(run *r, value owner, const string *name, int64_t index) {
    absent *a = mlxd_jinja_new(r, 1, sizeof *a);
    if (a)
        *a = (absent){name, index, owner};
    return (value){.kind = K_UNDEFINED, .as.absent = a};
}

static value loop_attr(run *r, value v, const string *name) {
    const loop *l = v.as.loop;
    size_t n = l->items->count;
    const struct {
        const char *name;
        value v;
    } rows[] = {
        {"index", mlxd_jinja_int((int64_t)l->at + 1)},
        {"index0", mlxd_jinja_int((int64_t)l->at)},
        {"revindex", mlxd_jinja_int((int64_t)(n - l->at))},
        {"revindex0", mlxd_jinja_int((int64_t)(n - l->at) - 1)},
        {"first", mlxd_jinja_bool(l->at == 0)},
        {"last", mlxd_jinja_bool(l->at + 1 == n)},
        {"length", mlxd_jinja_int((int64_t)n)},
        {"depth", mlxd_jinja_int(1)},
        {"depth0", mlxd_jinja_int(0)},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        if (mlxd_slice_eq(mlxd_jinja_bytes(name), mlxd_slice_str(rows[i].name)))
            return rows[i].v;
    bool previous = mlxd_slice_eq(mlxd_jinja_bytes(name), mlxd_slice_str("previtem"));
    bool next = mlxd_slice_eq(mlxd_jinja_bytes(name), mlxd_slice_str("nextitem"));
    if (previous && l->at > 0)
        return l->items->items[l->at - 1];
    if (next && l->at + 1 < n)
        return l->items->items[l->at + 1];
    return missing(r, v, name, 0);
}

/* Methods first, then keys; names that begin with "_" do not exist. */
value mlxd_jinja_attr(run *r, value v, const string *name) {
    const value *found = NULL;
    if (r->err)
        return UNDEFINED;
    if (v.kind == K_UNDEFINED) {
        mlxd_jinja_fail_undefined(r, v);
        return UNDEFINED;
    }
    const builtin *b = mlxd_jinja_find_method(v, mlxd_jinja_bytes(name));
    if (b) {
        bound *m = mlxd_jinja_new(r, 1, sizeof *m);
        if (!m)
            return UNDEFINED;
        *m = (bound){v, b};
        return b->call ? (value){.kind = K_METHOD, .as.method = m} : missing(r, v, name, 0);
    }
    if (v.kind == K_LOOP)
        return loop_attr(r, v, name);
    if (v.kind == K_DICT || v.kind == K_NAMESPACE)
        found = mlxd_jinja_dict_find(v.as.dict, mlxd_jinja_bytes(name));
    return found ? *found : missing(r, v, name, 0);
}

/* Item number `i` of a string or a sequence; false: there is none. */
static bool item_at(run *r, value v, int64_t i, value *out) {
    size_t count = v.kind == K_STRING ? v.as.s->chars : v.as.seq->count;
    if (i < 0)
        i += (int64_t)count;
    if (i < 0 || (uint64_t)i >= count)
        return false;
    if (v.kind == K_STRING) {
        size_t from = mlxd_jinja_offset(v.as.s, (size_t)i);
        size_t to = mlxd_jinja_offset(v.as.s, (size_t)i + 1);
        (void)mlxd_jinja_step(r, from / 64);
        *out = mlxd_jinja_of_string(mlxd_jinja_part(r, v.as.s, from, to));
    } else {
        *out = v.as.seq->items[i];
    }
    return true;
}

value mlxd_jinja_item(run *r, value v, value key) {
    value out = UNDEFINED;
    int64_t i;
    if (r->err)
        return UNDEFINED;
    if (v.kind == K_UNDEFINED) {
        mlxd_jinja_fail_undefined(r, v);
        return UNDEFINED;
    }
    if (v.kind == K_DICT) {
        if (key.kind != K_LIST && key.kind != K_DICT &&
            mlxd_jinja_dict_get(r, v.as.dict, key, &out))
            return out;
    } else if (mlxd_jinja_get_int(key, &i) &&
               (v.kind == K_STRING || v.kind == K_LIST || v.kind == K_TUPLE || v.kind == K_RANGE)) {
        if (item_at(r, v, i, &out))
            return out;
        return missing(r, v, NULL, i);
    }
    if (key.kind == K_STRING)
        return mlxd_jinja_attr(r, v, key.as.s);
    return mlxd_jinja_get_int(key, &i) ? missing(r, v, NULL, i) : missing(r, v, NULL, 0);
}

/* ---- slices ---- */

/* A bound of a slice as Python takes it: negative ones from the end, all cut to lo .. hi. */
static bool slice_bound(run *r, value v, int64_t count, int64_t fallback, int64_t lo, int64_t hi,
                        int64_t *out) {
    *out = fallback;
    if (v.kind == K_ABSENT || v.kind == K_NONE)
        return true;
    if (!mlxd_jinja_get_int(v, out)) {
        if (v.kind == K_UNDEFINED)
            mlxd_jinja_fail_undefined(r, v);
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "slice indices must be integers or None");
        return false;
    }
    if (*out < 0)
        *out += count;
    *out = MLXD_MAX(lo, MLXD_MIN(*out, hi));
    return true;
}

static value slice_string(run *r, const string *s, int64_t from, int64_t to, int64_t step) {
    builder b = {.r = r};
    if (step == 1) {
        size_t start = mlxd_jinja_offset(s, (size_t)from);
        size_t end = mlxd_jinja_offset(s, (size_t)MLXD_MAX(from, to));
        return mlxd_jinja_of_string(mlxd_jinja_part(r, s, start, end));
    }
    const seq *chars = chars_of(r, s);
    for (int64_t i = from; chars && !r->err && (step > 0 ? i < to : i > to);) {
        mlxd_jinja_put_string(&b, chars->items[i].as.s);
        if (!mlxd_add_i64(i, step, &i))
            break;
    }
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

value mlxd_jinja_slice(run *r, value v, value start, value stop, value step) {
    int64_t from, to, by = 1;
    if (v.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, v);
    if (r->err)
        return UNDEFINED;
    if (v.kind != K_STRING && v.kind != K_LIST && v.kind != K_TUPLE && v.kind != K_RANGE)
        return missing(r, v, NULL, 0);
    if (step.kind != K_ABSENT && step.kind != K_NONE && !mlxd_jinja_get_int(step, &by))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "slice indices must be integers or None");
    if (by == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "slice step cannot be zero");
    int64_t n = (int64_t)(v.kind == K_STRING ? v.as.s->chars : v.as.seq->count);
    bool up = by > 0;
    if (!slice_bound(r, start, n, up ? 0 : n - 1, up ? 0 : -1, up ? n : n - 1, &from) ||
        !slice_bound(r, stop, n, up ? n : -1, up ? 0 : -1, up ? n : n - 1, &to) || r->err)
        return UNDEFINED;
    if (v.kind == K_STRING)
        return slice_string(r, v.as.s, from, to, by);
    seq *out = mlxd_jinja_seq(r, 0);
    for (int64_t i = from; !r->err && (up ? i < to : i > to);) {
        mlxd_jinja_push(r, out, v.as.seq->items[i]);
        if (!mlxd_add_i64(i, by, &i))
            break;
    }
    if (out && v.kind == K_RANGE) {
        const seq *s = v.as.seq;
        out->start = s->start + from * s->step;
        out->stop = s->start + to * s->step;
        out->step = s->step * by;
    }
    return mlxd_jinja_of_seq(out, v.kind);
}
