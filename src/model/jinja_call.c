/* jinja_call.c - calls: macros, methods, built-in functions with their arguments bound by the names
 * in their row, and the global functions. */
#include "model/jinja_internal.h"

#include <string.h>

/* ---- binding ---- */

const builtin *mlxd_jinja_find_row(const builtin *rows, size_t count, mlxd_slice name) {
    for (size_t i = 0; i < count; i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(rows[i].name)))
            return &rows[i];
    return NULL;
}

static size_t count_params(const builtin *b) {
    size_t n = 0;
    while (n < ARGS_MAX && b->params[n])
        n++;
    return n;
}

static void bind_keyword(run *r, const builtin *b, const string *name, value v, value *out) {
    for (size_t i = 0; i < ARGS_MAX && b->params[i]; i++)
        if (mlxd_slice_eq(mlxd_jinja_bytes(name), mlxd_slice_str(b->params[i]))) {
            if (out[i].kind != K_ABSENT)
                mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: argument '%s' is given twice", b->name,
                                b->params[i]);
            out[i] = v;
            return;
        }
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: unexpected argument '%.*s'", b->name,
                    (int)MLXD_MIN(name->len, 64), (const char *)name->data);
}

value mlxd_jinja_call_builtin(run *r, const builtin *b, value self, const args *a) {
    value v[ARGS_MAX];
    size_t n = count_params(b);
    if (r->err)
        return UNDEFINED;
    for (size_t i = 0; i < ARGS_MAX; i++)
        v[i] = ABSENT;
    if (n > 0 && strcmp(b->params[0], "*") == 0)
        return b->call(r, self, v, a);
    if (a->n > n)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: expected at most %zu arguments, got %zu", b->name, n,
                        a->n);
    for (size_t i = 0; i < a->n && i < n; i++)
        v[i] = a->pos[i];
    for (size_t i = 0; i < a->n_kw; i++)
        bind_keyword(r, b, a->names[i], a->kw[i], v);
    for (size_t i = 0; i < b->required; i++)
        if (v[i].kind == K_ABSENT)
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "%s: argument '%s' is missing", b->name,
                            b->params[i]);
    return r->err ? UNDEFINED : b->call(r, self, v, a);
}

value mlxd_jinja_filter(run *r, const builtin *f, const string *name, value v, const args *a) {
    if (!f) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "no filter named '%.*s'", (int)MLXD_MIN(name->len, 64),
                        (const char *)name->data);
        return UNDEFINED;
    }
    return mlxd_jinja_call_builtin(r, f, v, a);
}

/* The separator, but nothing the first time. */
static value call_joiner(run *r, struct counter *c) {
    value empty = mlxd_jinja_of_string(mlxd_jinja_str(r, (mlxd_slice){0}, true));
    return c->at++ > 0 ? c->separator : empty;
}

value mlxd_jinja_call(run *r, value callee, const args *a) {
    if (r->err)
        return UNDEFINED;
    switch (callee.kind) {
    case K_MACRO:
        return mlxd_jinja_call_macro(r, callee.as.macro, a);
    case K_METHOD:
        return mlxd_jinja_call_builtin(r, callee.as.method->builtin, callee.as.method->self, a);
    case K_BUILTIN:
        return mlxd_jinja_call_builtin(r, callee.as.builtin, NONE, a);
    case K_JOINER:
        return call_joiner(r, callee.as.counter);
    case K_UNDEFINED:
        mlxd_jinja_fail_undefined(r, callee);
        return UNDEFINED;
    default:
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s' object is not callable", mlxd_jinja_type(callee));
        return UNDEFINED;
    }
}

/* ---- global functions ---- */

/* The sandbox of Jinja has the same limit. */
#define RANGE_MAX 100000

static value call_range(run *r, value self, const value *v, const args *a) {
    int64_t n[3] = {0, 0, 1}, at;
    size_t given = v[1].kind == K_ABSENT ? 1 : v[2].kind == K_ABSENT ? 2 : 3;
    (void)self;
    (void)a;
    for (size_t i = 0; i < given; i++)
        if (!mlxd_jinja_get_int(v[i], given == 1 ? &n[1] : &n[i])) {
            if (v[i].kind == K_UNDEFINED)
                mlxd_jinja_fail_undefined(r, v[i]);
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "'%s' object cannot be interpreted as an integer",
                            mlxd_jinja_type(v[i]));
        }
    if (n[2] == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "range() arg 3 must not be zero");
    seq *s = mlxd_jinja_seq(r, 0);
    for (at = n[0]; s && (n[2] > 0 ? at < n[1] : at > n[1]) && !r->err;) {
        if (s->count == RANGE_MAX)
            mlxd_jinja_fail(r, MLXD_ERR_RANGE, "range: more than %d items", RANGE_MAX);
        mlxd_jinja_push(r, s, mlxd_jinja_int(at));
        if (!mlxd_add_i64(at, n[2], &at))
            break;
    }
    if (s) {
        s->start = n[0];
        s->stop = n[1];
        s->step = n[2];
    }
    return mlxd_jinja_of_seq(s, K_RANGE);
}

/* Copies the entries of a dict, or pairs of a sequence. */
static void copy_entries(run *r, dict *d, value from) {
    if (from.kind == K_DICT) {
        for (size_t i = 0; i < from.as.dict->count && !r->err; i++)
            mlxd_jinja_dict_set(r, d, from.as.dict->entries[i].key, from.as.dict->entries[i].value);
        return;
    }
    const seq *s = mlxd_jinja_items(r, from);
    for (size_t i = 0; s && i < s->count && !r->err; i++) {
        const seq *pair = mlxd_jinja_items(r, s->items[i]);
        if (pair && pair->count != 2)
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "expected pairs of a key and a value");
        else if (pair)
            mlxd_jinja_dict_set(r, d, pair->items[0], pair->items[1]);
    }
}

static value make_dict(run *r, const args *a, value_kind k) {
    dict *d = mlxd_jinja_dict_new(r);
    if (a->n > 1)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "expected at most 1 positional argument, got %zu", a->n);
    if (d && a->n == 1)
        copy_entries(r, d, a->pos[0]);
    for (size_t i = 0; d && i < a->n_kw; i++)
        mlxd_jinja_dict_set(r, d, mlxd_jinja_of_string(a->names[i]), a->kw[i]);
    for (size_t i = 0; d && k == K_NAMESPACE && i < d->count; i++) {
        value key = d->entries[i].key;
        if (key.kind == K_STRING && key.as.s->len > 0 && key.as.s->data[0] == '_')
            mlxd_jinja_fail(r, MLXD_ERR_DATA,
                            "a namespace cannot have an attribute that begins with _");
    }
    return d ? (value){.kind = k, .as.dict = d} : UNDEFINED;
}

static value call_dict(run *r, value self, const value *v, const args *a) {
    (void)self;
    (void)v;
    return make_dict(r, a, K_DICT);
}

static value call_namespace(run *r, value self, const value *v, const args *a) {
    (void)self;
    (void)v;
    return make_dict(r, a, K_NAMESPACE);
}

/* The message is the client's to read: it becomes the whole error text. */
static value call_raise(run *r, value self, const value *v, const args *a) {
    (void)self;
    (void)a;
    const string *s = mlxd_jinja_to_string(r, v[0]);
    if (s)
        mlxd_jinja_reject(r, "%.*s", (int)MLXD_MIN(s->len, MLXD_WHY_MAX), (const char *)s->data);
    return UNDEFINED;
}

static value call_strftime(run *r, value self, const value *v, const args *a) {
    builder b = {.r = r};
    (void)self;
    (void)a;
    const string *format = mlxd_jinja_to_string(r, v[0]);
    if (format && !mlxd_jinja_strftime(&b, mlxd_jinja_bytes(format), r->now_s))
        mlxd_jinja_fail(r, MLXD_ERR_UNSUPPORTED, "strftime_now: a directive that is not known");
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

static value call_joiner_new(run *r, value self, const value *v, const args *a) {
    struct counter *c = mlxd_jinja_new(r, 1, sizeof *c);
    (void)self;
    (void)a;
    if (!c)
        return UNDEFINED;
    c->separator = v[0].kind == K_ABSENT
                       ? mlxd_jinja_of_string(mlxd_jinja_str(r, mlxd_slice_str(", "), true))
                       : v[0];
    return (value){.kind = K_JOINER, .as.counter = c};
}

static value call_cycler(run *r, value self, const value *v, const args *a) {
    struct counter *c = mlxd_jinja_new(r, 1, sizeof *c);
    (void)self;
    (void)v;
    if (a->n == 0)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "cycler: at least one item has to be provided");
    if (!c || r->err)
        return UNDEFINED;
    c->items = mlxd_jinja_seq(r, a->n);
    for (size_t i = 0; i < a->n; i++)
        mlxd_jinja_push(r, c->items, a->pos[i]);
    return (value){.kind = K_CYCLER, .as.counter = c};
}

static const builtin globals[] = {
    {"range", call_range, 1, {"start", "stop", "step"}},
    {"dict", call_dict, 0, {"*"}},
    {"namespace", call_namespace, 0, {"*"}},
    {"raise_exception", call_raise, 1, {"message"}},
    {"strftime_now", call_strftime, 1, {"format"}},
    {"joiner", call_joiner_new, 0, {"sep"}},
    {"cycler", call_cycler, 0, {"*"}},
};

const builtin *mlxd_jinja_find_global(mlxd_slice name) {
    return mlxd_jinja_find_row(globals, MLXD_COUNT_OF(globals), name);
}
