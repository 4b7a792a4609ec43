/* jinja_eval.c - expressions of a template to values. Recursion over the tree, bounded by
 * MLXD_JINJA_DEPTH; r->here follows, so that an error knows its place. */
#include "model/jinja_internal.h"

/* ---- variables ---- */

value mlxd_jinja_lookup(run *r, const string *name) {
    for (const scope *s = r->scope; s; s = s->parent)
        for (const var *v = s->vars; v; v = v->next)
            if (v->name == name || mlxd_jinja_same(v->name, name))
                return v->value;
    const value *v = mlxd_jinja_dict_find(r->globals, mlxd_jinja_bytes(name));
    if (v)
        return *v;
    const builtin *b = mlxd_jinja_find_global(mlxd_jinja_bytes(name));
    if (b)
        return (value){.kind = K_BUILTIN, .as.builtin = b};
    absent *a = mlxd_jinja_new(r, 1, sizeof *a);
    if (a)
        *a = (absent){.name = name, .owner = ABSENT};
    return (value){.kind = K_UNDEFINED, .as.absent = a};
}

void mlxd_jinja_assign(run *r, const string *name, value v) {
    for (var *old = r->scope->vars; old; old = old->next)
        if (mlxd_jinja_same(old->name, name)) {
            old->value = v;
            return;
        }
    var *new = r->spare;
    if (new)
        r->spare = new->next;
    else if (!(new = mlxd_jinja_new(r, 1, sizeof *new)))
        return;
    *new = (var){r->scope->vars, name, v};
    r->scope->vars = new;
}

/* ---- literals ---- */

static value eval_seq(run *r, const node *n) {
    seq *s = mlxd_jinja_seq(r, 0);
    for (const node *e = n->list; e && !r->err; e = e->next)
        mlxd_jinja_push(r, s, mlxd_jinja_eval(r, e));
    return mlxd_jinja_of_seq(s, n->kind == N_LIST ? K_LIST : K_TUPLE);
}

static value eval_dict(run *r, const node *n) {
    dict *d = mlxd_jinja_dict_new(r);
    for (const node *e = n->list; e && !r->err; e = e->next->next) {
        value key = mlxd_jinja_eval(r, e);
        mlxd_jinja_dict_set(r, d, key, mlxd_jinja_eval(r, e->next));
    }
    return d ? (value){.kind = K_DICT, .as.dict = d} : UNDEFINED;
}

static value eval_concat(run *r, const node *n) {
    builder b = {.r = r};
    for (const node *e = n->list; e && !r->err; e = e->next)
        mlxd_jinja_print(&b, mlxd_jinja_eval(r, e));
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

/* ---- operators ---- */

static value eval_sign(run *r, const node *n) {
    value v = mlxd_jinja_eval(r, n->a);
    int64_t i;
    if (v.kind == K_FLOAT)
        return n->kind == N_PLUS ? v : mlxd_jinja_float(-v.as.f);
    if (mlxd_jinja_get_int(v, &i))
        return n->kind == N_PLUS ? mlxd_jinja_int(i)
                                 : mlxd_jinja_binary(r, OP_SUB, mlxd_jinja_int(0), v);
    if (v.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, v);
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "bad operand type for a sign: '%s'", mlxd_jinja_type(v));
    return UNDEFINED;
}

/* a < b < c: each operand once, until one comparison does not hold. */
static value eval_compare(run *r, const node *n) {
    value left = mlxd_jinja_eval(r, n->a);
    bool holds = true;
    for (const node *e = n->list; e && holds && !r->err; e = e->next) {
        value right = mlxd_jinja_eval(r, e->a);
        holds = mlxd_jinja_compare(r, e->op, left, right);
        left = right;
    }
    return mlxd_jinja_bool(holds);
}

static value eval_slice(run *r, const node *n) {
    value v = mlxd_jinja_eval(r, n->a);
    value start = n->b ? mlxd_jinja_eval(r, n->b) : ABSENT;
    value stop = n->c ? mlxd_jinja_eval(r, n->c) : ABSENT;
    value step = n->d ? mlxd_jinja_eval(r, n->d) : ABSENT;
    return mlxd_jinja_slice(r, v, start, stop, step);
}

/* ---- calls ---- */

/* Arguments of a call in the tree; keyword arguments are the nodes with a name around them. */
static bool eval_args(run *r, const node *list, args *a) {
    size_t n = 0;
    *a = (args){0};
    for (const node *e = list; e; e = e->next)
        n++;
    if (n == 0)
        return true;
    a->pos = mlxd_jinja_new(r, n, sizeof *a->pos);
    a->kw = mlxd_jinja_new(r, n, sizeof *a->kw);
    a->names = mlxd_jinja_new(r, n, sizeof *a->names);
    if (!a->pos || !a->kw || !a->names)
        return false;
    for (const node *e = list; e && !r->err; e = e->next) {
        value v = mlxd_jinja_eval(r, e->kind == N_PARAM ? e->a : e);
        if (e->kind == N_PARAM) {
            a->names[a->n_kw] = e->name;
            a->kw[a->n_kw++] = v;
        } else {
            a->pos[a->n++] = v;
        }
    }
    return r->err == MLXD_OK;
}

static value eval_call(run *r, const node *n) {
    args a;
    value callee = mlxd_jinja_eval(r, n->a);
    if (r->err || !eval_args(r, n->list, &a))
        return UNDEFINED;
    return mlxd_jinja_call(r, callee, &a);
}

static value eval_filter(run *r, const node *n) {
    args a;
    value v = mlxd_jinja_eval(r, n->a);
    if (r->err || !eval_args(r, n->list, &a))
        return UNDEFINED;
    return mlxd_jinja_filter(r, n->builtin, n->name, v, &a);
}

static value eval_test(run *r, const node *n) {
    args a;
    value v = mlxd_jinja_eval(r, n->a);
    if (r->err || !eval_args(r, n->list, &a))
        return UNDEFINED;
    if (!n->builtin) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "no test named '%.*s'", (int)MLXD_MIN(n->name->len, 64),
                        (const char *)n->name->data);
        return UNDEFINED;
    }
    bool holds = mlxd_jinja_truth(mlxd_jinja_call_builtin(r, n->builtin, v, &a));
    return mlxd_jinja_bool(holds != n->negated);
}

/* ---- all of them ---- */

static value eval_logic(run *r, const node *n) {
    value a = mlxd_jinja_eval(r, n->a);
    switch (n->kind) {
    case N_AND:
        return mlxd_jinja_truth(a) ? mlxd_jinja_eval(r, n->b) : a;
    case N_OR:
        return mlxd_jinja_truth(a) ? a : mlxd_jinja_eval(r, n->b);
    case N_COND:
        if (mlxd_jinja_truth(a))
            return mlxd_jinja_eval(r, n->b);
        return n->c ? mlxd_jinja_eval(r, n->c) : UNDEFINED;
    default:
        return mlxd_jinja_bool(!mlxd_jinja_truth(a));
    }
}

static value eval_kind(run *r, const node *n) {
    value a, b;
    switch (n->kind) {
    case N_CONST:
        return n->constant;
    case N_NAME:
        return mlxd_jinja_lookup(r, n->name);
    case N_BLOCK:
        return r->block;
    case N_LIST:
    case N_TUPLE:
        return eval_seq(r, n);
    case N_DICT:
        return eval_dict(r, n);
    case N_CONCAT:
        return eval_concat(r, n);
    case N_ATTR:
        return mlxd_jinja_attr(r, mlxd_jinja_eval(r, n->a), n->name);
    case N_ITEM:
        a = mlxd_jinja_eval(r, n->a);
        b = mlxd_jinja_eval(r, n->b);
        return mlxd_jinja_item(r, a, b);
    case N_SLICE:
        return eval_slice(r, n);
    case N_CALL:
        return eval_call(r, n);
    case N_FILTER:
        return eval_filter(r, n);
    case N_TEST:
        return eval_test(r, n);
    case N_NEGATE:
    case N_PLUS:
        return eval_sign(r, n);
    case N_BINARY:
        a = mlxd_jinja_eval(r, n->a);
        b = mlxd_jinja_eval(r, n->b);
        return mlxd_jinja_binary(r, n->op, a, b);
    case N_COMPARE:
        return eval_compare(r, n);
    case N_AND:
    case N_OR:
    case N_NOT:
    case N_COND:
        return eval_logic(r, n);
    default:
        MLXD_ASSERT(false && "a statement among expressions");
        return UNDEFINED;
    }
}

value mlxd_jinja_eval(run *r, const node *n) {
    MLXD_ASSERT(n);
    if (!mlxd_jinja_step(r, 1))
        return UNDEFINED;
    const node *outer = r->here;
    r->here = n;
    value v = UNDEFINED;
    if (++r->depth > MLXD_JINJA_DEPTH)
        mlxd_jinja_fail(r, MLXD_ERR_RANGE,
                        "the template is nested too deeply (a macro that calls "
                        "itself without end?)");
    else
        v = eval_kind(r, n);
    r->depth--;
    r->here = outer;
    return v;
}
