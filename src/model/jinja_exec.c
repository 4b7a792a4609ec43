/* jinja_exec.c - see jinja.h: renders, and the statements of a template. A for loop, macro, block
 * of call, filter, set and with has a scope of its own; if has none. */
#include "format/utf8.h"
#include "model/jinja_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors and bounds ---- */

mlxd_err mlxd_jinja_explain(const mlxd_jinja *t, size_t at, mlxd_err err, const char *text,
                            mlxd_why *why) {
    size_t line = 1, start = 0, end = at, column = 1;
    const uint8_t *s = t->source.data;
    MLXD_ASSERT(at <= t->source.len);
    for (size_t i = 0; i < at; i++)
        if (s[i] == '\n') {
            line++;
            start = i + 1;
        }
    for (size_t i = start; i < at; i++)
        column += (s[i] & 0xc0) != 0x80;
    while (start < at && (s[start] == ' ' || s[start] == '\t' || at - start > 40))
        start++;
    while (end < t->source.len && s[end] != '\n' && end - start < 100)
        end++;
    while (start < end && (s[start] & 0xc0) == 0x80)
        start++;
    while (end > start && end < t->source.len && (s[end] & 0xc0) == 0x80)
        end--;
    return mlxd_fail(why, err, "chat template, line %zu, column %zu: %s: %.*s", line, column, text,
                     (int)(end - start), (const char *)s + start);
}

void mlxd_jinja_fail(run *r, mlxd_err err, const char *fmt, ...) {
    char text[300];
    va_list ap;
    if (r->err)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->err = mlxd_jinja_explain(r->t, r->here ? r->here->at : 0, err, text, &r->why);
}

void mlxd_jinja_reject(run *r, const char *fmt, ...) {
    char text[MLXD_WHY_MAX];
    va_list ap;
    if (r->err)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->err = mlxd_fail(&r->why, MLXD_ERR_INVALID, "%s", text);
}

bool mlxd_jinja_step(run *r, size_t n) {
    if (r->err)
        return false;
    r->steps += n;
    if (r->steps <= MLXD_LIMIT_TEMPLATE_STEPS)
        return true;
    mlxd_jinja_fail(r, MLXD_ERR_RANGE, "the template runs for too long (limit %u steps)",
                    MLXD_LIMIT_TEMPLATE_STEPS);
    return false;
}

void *mlxd_jinja_new(run *r, size_t count, size_t size) {
    size_t bytes;
    if (r->err)
        return NULL;
    if (!mlxd_mul_size(count, size, &bytes) || bytes > MLXD_LIMIT_TEMPLATE_MEMORY - r->bytes) {
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "the template needs too much memory (limit %u MiB)",
                        MLXD_LIMIT_TEMPLATE_MEMORY >> 20);
        return NULL;
    }
    void *p = mlxd_arena_new(r->arena, count, size);
    if (!p)
        mlxd_jinja_fail(r, MLXD_ERR_NOMEM, "no memory for the prompt");
    r->bytes += p ? bytes : 0;
    return p;
}

/* ---- scopes and targets ---- */

static void enter(run *r, scope *s) {
    *s = (scope){.parent = r->scope, .macros = r->macros};
    r->scope = s;
}

/* Its variables are used again, unless a macro was made that may see them. */
static void leave(run *r) {
    scope *s = r->scope;
    r->scope = s->parent;
    while (s->vars && s->macros == r->macros) {
        var *v = s->vars;
        s->vars = v->next;
        v->next = r->spare;
        r->spare = v;
    }
}

static void assign_attr(run *r, const node *target, value v) {
    value ns = mlxd_jinja_lookup(r, target->name);
    if (ns.kind != K_NAMESPACE) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "cannot assign attribute on non-namespace object");
        return;
    }
    const string *name = target->b->constant.as.s;
    if (name->data[0] == '_')
        mlxd_jinja_fail(r, MLXD_ERR_DATA,
                        "a namespace cannot have an attribute that begins with _");
    mlxd_jinja_dict_set(r, ns.as.dict, target->b->constant, v);
}

/* Names, attributes of namespaces, tuples of them. */
static void assign(run *r, const node *target, value v) {
    if (target->kind == N_NAME) {
        mlxd_jinja_assign(r, target->name, v);
        return;
    }
    if (target->kind == N_ASSIGN_ATTR) {
        assign_attr(r, target, v);
        return;
    }
    MLXD_ASSERT(target->kind == N_TUPLE);
    const seq *s = mlxd_jinja_items(r, v);
    size_t want = 0;
    for (const node *t = target->list; t; t = t->next)
        want++;
    if (s && s->count != want)
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "expected %zu values to unpack, got %zu", want, s->count);
    size_t i = 0;
    for (const node *t = target->list; t && s && !r->err; t = t->next)
        assign(r, t, s->items[i++]);
}

/* What `list` prints, in a scope of its own. */
static const string *capture(run *r, const node *list) {
    builder b = {.r = r}, *outer = r->out;
    scope s;
    r->out = &b;
    enter(r, &s);
    mlxd_jinja_exec(r, list);
    leave(r);
    r->out = outer;
    return mlxd_jinja_built(&b);
}

/* ---- for ---- */

/* The items that pass the loop's condition. */
static seq *filter_items(run *r, const node *n, seq *in) {
    seq *out = mlxd_jinja_seq(r, 0);
    scope s;
    enter(r, &s);
    for (size_t i = 0; in && out && i < in->count && !r->err; i++) {
        s.vars = NULL;
        assign(r, n->a, in->items[i]);
        if (mlxd_jinja_truth(mlxd_jinja_eval(r, n->c)))
            mlxd_jinja_push(r, out, in->items[i]);
    }
    leave(r);
    return out;
}

static void exec_for(run *r, const node *n) {
    seq *in = mlxd_jinja_items(r, mlxd_jinja_eval(r, n->b));
    if (in && n->c)
        in = filter_items(r, n, in);
    loop *l = mlxd_jinja_new(r, 1, sizeof *l);
    if (!in || !l)
        return;
    scope s;
    *l = (loop){.items = in, .changed = ABSENT};
    for (; l->at < in->count && mlxd_jinja_step(r, 1) && r->flow != FLOW_BREAK; l->at++) {
        enter(r, &s);
        r->flow = FLOW_ON;
        assign(r, n->a, in->items[l->at]);
        mlxd_jinja_assign(r, n->name, (value){.kind = K_LOOP, .as.loop = l});
        mlxd_jinja_exec(r, n->list);
        leave(r);
    }
    r->flow = FLOW_ON;
    if (in->count == 0 && n->more) {
        enter(r, &s);
        mlxd_jinja_exec(r, n->more);
        leave(r);
    }
}

/* ---- macros ---- */

static value macro_of(run *r, const node *n) {
    macro *m = mlxd_jinja_new(r, 1, sizeof *m);
    scope *copy = NULL;
    r->macros++;
    /* Scopes of loops are on the stack: a macro keeps copies of those that it can see. */
    scope **end = &copy;
    for (const scope *s = r->scope; s && m; s = s->parent) {
        if (!s->parent) { /* the template's own, which lives as long as the run and still grows */
            *end = (scope *)s;
            break;
        }
        *end = mlxd_jinja_new(r, 1, sizeof **end);
        if (!*end)
            return UNDEFINED;
        **end = (scope){.vars = s->vars};
        end = &(*end)->parent;
    }
    if (!m)
        return UNDEFINED;
    *m = (macro){n, copy};
    return (value){.kind = K_MACRO, .as.macro = m};
}

/* The argument for parameter number `i`; false: there is none. */
static bool find_argument(const args *a, const string *name, size_t i, value *out) {
    if (i < a->n) {
        *out = a->pos[i];
        return true;
    }
    for (size_t k = 0; k < a->n_kw; k++)
        if (mlxd_jinja_same(a->names[k], name)) {
            *out = a->kw[k];
            return true;
        }
    return false;
}

static bool is_param(const macro *m, const string *name) {
    for (const node *p = m->def->b; p; p = p->next)
        if (mlxd_jinja_same(p->name, name))
            return true;
    return false;
}

static void assign_named(run *r, const char *name, value v) {
    const string *s = mlxd_jinja_str(r, mlxd_slice_str(name), true);
    if (s)
        mlxd_jinja_assign(r, s, v);
}

/* Positional arguments behind the parameters: `varargs` of a template that mentions them. */
static void bind_varargs(run *r, const macro *m, const args *a, size_t n_params) {
    seq *rest = mlxd_jinja_seq(r, 0);
    if (a->n > n_params && !mlxd_jinja_mentions(r->t, "varargs"))
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "macro '%.*s' takes not more than %zu arguments",
                        (int)MLXD_MIN(m->def->name->len, 64), (const char *)m->def->name->data,
                        n_params);
    for (size_t i = n_params; i < a->n && !r->err; i++)
        mlxd_jinja_push(r, rest, a->pos[i]);
    assign_named(r, "varargs", mlxd_jinja_of_seq(rest, K_TUPLE));
}

/* Named arguments that are no parameters: `caller`, and `kwargs` as with varargs. */
static void bind_kwargs(run *r, const macro *m, const args *a) {
    dict *rest = mlxd_jinja_dict_new(r);
    bool takes = mlxd_jinja_mentions(r->t, "kwargs");
    for (size_t i = 0; i < a->n_kw && !r->err; i++) {
        const string *name = a->names[i];
        if (mlxd_slice_eq(mlxd_jinja_bytes(name), mlxd_slice_str("caller")))
            mlxd_jinja_assign(r, name, a->kw[i]);
        else if (!is_param(m, name) && !takes)
            mlxd_jinja_fail(r, MLXD_ERR_DATA, "macro '%.*s' takes no keyword argument '%.*s'",
                            (int)MLXD_MIN(m->def->name->len, 64), (const char *)m->def->name->data,
                            (int)MLXD_MIN(name->len, 64), (const char *)name->data);
        else if (!is_param(m, name))
            mlxd_jinja_dict_set(r, rest, mlxd_jinja_of_string(name), a->kw[i]);
    }
    if (takes && rest)
        assign_named(r, "kwargs", (value){.kind = K_DICT, .as.dict = rest});
}

value mlxd_jinja_call_macro(run *r, const macro *m, const args *a) {
    scope s, *outer = r->scope;
    builder b = {.r = r}, *out = r->out;
    size_t i = 0;
    r->scope = m->scope;
    enter(r, &s);
    r->out = &b;
    for (const node *p = m->def->b; p && !r->err; p = p->next, i++) {
        value v = UNDEFINED;
        if (!find_argument(a, p->name, i, &v) && p->a)
            v = mlxd_jinja_eval(r, p->a);
        mlxd_jinja_assign(r, p->name, v);
    }
    if (a->n > i)
        bind_varargs(r, m, a, i);
    if (a->n_kw > 0)
        bind_kwargs(r, m, a);
    mlxd_jinja_exec(r, m->def->list);
    leave(r);
    r->flow = FLOW_ON;
    r->out = out;
    r->scope = outer;
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

/* {% call(x) macro(y) %}: the macro gets the block as `caller`, as if that were an argument. Not on
 * the stack: this is where macros nest. */
static void exec_call(run *r, const node *n) {
    const string *name = mlxd_jinja_str(r, mlxd_slice_str("caller"), true);
    value block = macro_of(r, n);
    node *made = mlxd_jinja_new(r, 3, sizeof *made);
    if (!made)
        return;
    node *call = &made[0], *with = &made[1], *constant = &made[2];
    *constant = (node){.kind = N_CONST, .at = n->at, .constant = block};
    *with = (node){.kind = N_PARAM, .at = n->at, .name = name, .a = constant, .next = n->a->list};
    *call = *n->a;
    call->list = with;
    mlxd_jinja_print(r->out, mlxd_jinja_eval(r, call));
}

/* ---- statements ---- */

static value through_filters(run *r, const node *filters, const string *text) {
    value outer = r->block;
    r->block = mlxd_jinja_of_string(text);
    value v = filters ? mlxd_jinja_eval(r, filters) : r->block;
    r->block = outer;
    return v;
}

static void exec_with(run *r, const node *n) {
    scope s;
    seq *values = mlxd_jinja_seq(r, 0);
    size_t i = 0;
    for (const node *v = n->b; v; v = v->next)
        mlxd_jinja_push(r, values, mlxd_jinja_eval(r, v->b));
    enter(r, &s);
    for (const node *v = n->b; v && !r->err; v = v->next)
        assign(r, v->a, values->items[i++]);
    mlxd_jinja_exec(r, n->list);
    leave(r);
}

static void exec_one(run *r, const node *n) {
    switch (n->kind) {
    case N_TEXT:
        mlxd_jinja_put_string(r->out, n->constant.as.s);
        return;
    case N_OUTPUT:
        mlxd_jinja_print(r->out, mlxd_jinja_eval(r, n->a));
        return;
    case N_IF:
        mlxd_jinja_exec(r, mlxd_jinja_truth(mlxd_jinja_eval(r, n->a)) ? n->list : n->more);
        return;
    case N_FOR:
        exec_for(r, n);
        return;
    case N_SET:
        assign(r, n->a, mlxd_jinja_eval(r, n->b));
        return;
    case N_SETBLOCK:
        assign(r, n->a, through_filters(r, n->b, capture(r, n->list)));
        return;
    case N_MACRO:
        mlxd_jinja_assign(r, n->name, macro_of(r, n));
        return;
    case N_CALLBLOCK:
        exec_call(r, n);
        return;
    case N_FILTERBLOCK:
        mlxd_jinja_print(r->out, through_filters(r, n->a, capture(r, n->list)));
        return;
    case N_WITH:
        exec_with(r, n);
        return;
    case N_BREAK:
    case N_CONTINUE:
        r->flow = n->kind == N_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return;
    default:
        MLXD_ASSERT(n->kind == N_DO);
        (void)mlxd_jinja_eval(r, n->a);
    }
}

void mlxd_jinja_exec(run *r, const node *list) {
    const node *outer = r->here;
    if (++r->depth > MLXD_JINJA_DEPTH)
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "the template is nested too deeply");
    for (const node *n = list; n && r->flow == FLOW_ON && mlxd_jinja_step(r, 1); n = n->next) {
        r->here = n;
        exec_one(r, n);
    }
    r->depth--;
    r->here = outer;
}

/* ---- a render ---- */

struct kept {
    struct kept *next;
    mlxd_json_doc *doc;
};

void mlxd_jinja_keep(run *r, mlxd_json_doc *doc) {
    struct kept *k = mlxd_jinja_new(r, 1, sizeof *k);
    if (!k) {
        mlxd_json_close(doc);
        return;
    }
    *k = (struct kept){r->kept, doc};
    r->kept = k;
}

mlxd_err mlxd_jinja_begin(mlxd_jinja_run **out, const mlxd_jinja *t, int64_t now_s, mlxd_why *why) {
    MLXD_ASSERT(out && t);
    *out = NULL;
    mlxd_jinja_run *r = mlxd_mem_new(1, sizeof *r);
    if (r) {
        r->t = t;
        r->now_s = now_s;
        r->arena = mlxd_arena_open(0);
        r->globals = r->arena ? mlxd_jinja_dict_new(r) : NULL;
    }
    if (!r || !r->globals) {
        mlxd_jinja_end(r);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the prompt");
    }
    *out = r;
    return MLXD_OK;
}

void mlxd_jinja_end(mlxd_jinja_run *r) {
    if (!r)
        return;
    for (const struct kept *k = r->kept; k; k = k->next)
        mlxd_json_close(k->doc);
    mlxd_arena_close(r->arena);
    mlxd_mem_free(r);
}

void mlxd_jinja_set(run *r, const char *name, value v) {
    const string *key = mlxd_jinja_str(r, mlxd_slice_str(name), true);
    mlxd_jinja_dict_set(r, r->globals, mlxd_jinja_of_string(key), v);
}

void mlxd_jinja_set_json(mlxd_jinja_run *r, const char *name, const mlxd_json *v) {
    mlxd_jinja_set(r, name, mlxd_jinja_of_json(r, v));
}

void mlxd_jinja_set_str(mlxd_jinja_run *r, const char *name, mlxd_slice text, bool trusted) {
    mlxd_jinja_set(r, name, mlxd_jinja_of_string(mlxd_jinja_str(r, text, trusted)));
}

void mlxd_jinja_set_bool(mlxd_jinja_run *r, const char *name, bool v) {
    mlxd_jinja_set(r, name, mlxd_jinja_bool(v));
}

void mlxd_jinja_set_none(mlxd_jinja_run *r, const char *name) {
    mlxd_jinja_set(r, name, NONE);
}

bool mlxd_jinja_has(const mlxd_jinja_run *r, const char *name) {
    return mlxd_jinja_dict_find(r->globals, mlxd_slice_str(name)) != NULL;
}

mlxd_err mlxd_jinja_render(mlxd_jinja_run *r, mlxd_slice *text, const mlxd_text_range **trusted,
                           size_t *n_trusted, mlxd_why *why) {
    MLXD_ASSERT(r && text && trusted && n_trusted && !r->scope);
    scope s = {0};
    builder b = {.r = r};
    r->scope = &s;
    r->out = &b;
    mlxd_jinja_exec(r, r->t->body);
    const string *out = mlxd_jinja_built(&b);
    if (!out) {
        if (why)
            *why = r->why;
        return r->err;
    }
    *text = mlxd_jinja_bytes(out);
    *trusted = out->trusted;
    *n_trusted = out->n_trusted;
    return MLXD_OK;
}
