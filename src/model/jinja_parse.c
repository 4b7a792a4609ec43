/* jinja_parse.c - see jinja.h and jinja_parse.h: opens a template; statements to nodes. */
#include "model/jinja_parse.h"

#include "format/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- the parser ---- */

bool mlxd_jinja_parse_fail(parser *p, mlxd_err err, size_t at, const char *fmt, ...) {
    char text[300];
    va_list ap;
    if (p->err)
        return false;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    p->err = mlxd_jinja_explain(p->t, at, err, text, p->why);
    p->token = (mlxd_jinja_token){.kind = MLXD_JINJA_END, .at = at};
    return false;
}

void mlxd_jinja_parse_next(parser *p) {
    if (!p->err && !mlxd_jinja_lexer_next(&p->lexer, &p->token))
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->lexer.at, "%s", p->lexer.error);
}

bool mlxd_jinja_parse_is(const parser *p, mlxd_jinja_token_kind kind, const char *text) {
    return p->token.kind == kind && (!text || mlxd_slice_eq(p->token.text, mlxd_slice_str(text)));
}

bool mlxd_jinja_parse_accept(parser *p, mlxd_jinja_token_kind kind, const char *text) {
    if (!mlxd_jinja_parse_is(p, kind, text))
        return false;
    mlxd_jinja_parse_next(p);
    return true;
}

static const char *kind_name(mlxd_jinja_token_kind kind) {
    static const char *const names[] = {
        "the end of the template",
        "text",
        "{{",
        "}}",
        "{%",
        "%}",
        "a name",
        "a number",
        "a number",
        "a string",
        "an operator",
    };
    return names[kind];
}

void mlxd_jinja_parse_expect(parser *p, mlxd_jinja_token_kind kind, const char *text) {
    if (mlxd_jinja_parse_accept(p, kind, text))
        return;
    bool end = p->token.kind == MLXD_JINJA_END;
    const char *what = kind_name(p->token.kind);
    int len = end ? (int)strlen(what) : (int)MLXD_MIN(p->token.text.len, 40);
    mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "expected %s, got %.*s",
                          text ? text : kind_name(kind), len,
                          end ? what : (const char *)p->token.text.data);
}

node *mlxd_jinja_parse_node(parser *p, node_kind kind, size_t at) {
    node *n = NULL;
    if (!p->err && ++p->nodes > MLXD_LIMIT_TEMPLATE_NODES)
        mlxd_jinja_parse_fail(p, MLXD_ERR_RANGE, at, "the template is too large (limit %u nodes)",
                              MLXD_LIMIT_TEMPLATE_NODES);
    if (!p->err && !(n = mlxd_arena_new(p->t->arena, 1, sizeof *n)))
        mlxd_jinja_parse_fail(p, MLXD_ERR_NOMEM, at, "no memory for the template");
    if (!n)
        return &p->nowhere;
    n->kind = kind;
    n->at = (uint32_t)at;
    return n;
}

const string *mlxd_jinja_parse_string(parser *p, mlxd_slice text) {
    static const string empty = {.data = (const uint8_t *)""};
    string *s = p->err ? NULL : mlxd_arena_new(p->t->arena, 1, sizeof *s);
    if (!s)
        return &empty;
    *s = (string){.data = text.data, .len = text.len, .whole = {0, text.len}};
    s->trusted = &s->whole;
    s->n_trusted = text.len > 0;
    for (size_t i = 0; i < text.len; i++)
        s->chars += (text.data[i] & 0xc0) != 0x80;
    return s;
}

bool mlxd_jinja_parse_enter(parser *p) {
    if (++p->depth <= MLXD_JINJA_NEST)
        return true;
    return mlxd_jinja_parse_fail(p, MLXD_ERR_RANGE, p->token.at, "nested more than %d levels deep",
                                 MLXD_JINJA_NEST);
}

/* ---- targets ---- */

static const string *parse_name(parser *p) {
    mlxd_slice text = p->token.text;
    mlxd_jinja_parse_expect(p, MLXD_JINJA_NAME, NULL);
    return mlxd_jinja_parse_string(p, text);
}

static node *parse_target_tuple(parser *p, bool attributes);

static node *parse_target_one(parser *p, bool attributes) {
    size_t at = p->token.at;
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    if (mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, "(")) {
        node *inner = &p->nowhere;
        if (mlxd_jinja_parse_enter(p))
            inner = parse_target_tuple(p, attributes);
        p->depth--;
        mlxd_jinja_parse_expect(p, MLXD_JINJA_OPERATOR, ")");
        return inner;
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(constants); i++)
        if (mlxd_jinja_parse_is(p, MLXD_JINJA_NAME, constants[i]))
            mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, at, "cannot assign to %s", constants[i]);
    if (p->loops > 0 && mlxd_jinja_parse_is(p, MLXD_JINJA_NAME, "loop"))
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, at, "cannot assign to loop inside of a loop");
    node *n = mlxd_jinja_parse_node(p, N_NAME, at);
    n->name = parse_name(p);
    if (!attributes || !mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, "."))
        return n;
    n->kind = N_ASSIGN_ATTR;
    n->b = mlxd_jinja_parse_node(p, N_CONST, p->token.at);
    n->b->constant = (value){.kind = K_STRING, .as.s = parse_name(p)};
    return n;
}

/* a   a, b   (a, b)   ns.a */
static node *parse_target_tuple(parser *p, bool attributes) {
    node *first = parse_target_one(p, attributes);
    if (!mlxd_jinja_parse_is(p, MLXD_JINJA_OPERATOR, ","))
        return first;
    node *tuple = mlxd_jinja_parse_node(p, N_TUPLE, first->at);
    node **end = mlxd_jinja_parse_append(&tuple->list, first);
    while (mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, ",") &&
           (p->token.kind == MLXD_JINJA_NAME || mlxd_jinja_parse_is(p, MLXD_JINJA_OPERATOR, "(")) &&
           !mlxd_jinja_parse_is(p, MLXD_JINJA_NAME, "in"))
        end = mlxd_jinja_parse_append(end, parse_target_one(p, attributes));
    return tuple;
}

/* ---- statements ---- */

static node *parse_body(parser *p, const char *const *ends, size_t *which);

static void end_tag(parser *p) {
    mlxd_jinja_parse_expect(p, MLXD_JINJA_BLOCK_END, NULL);
}

/* The rest of a tag, then statements up to {% end %}, which is taken. */
static node *parse_block(parser *p, const char *end) {
    const char *const ends[] = {end, NULL};
    size_t which;
    end_tag(p);
    node *list = parse_body(p, ends, &which);
    end_tag(p);
    return list;
}

/* Behind "if" or "elif". */
static node *parse_if(parser *p, size_t at) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const endif[] = {"endif", NULL};
    size_t which;
    node *top = mlxd_jinja_parse_node(p, N_IF, at), *n = top;
    for (;;) {
        n->a = mlxd_jinja_parse_tuple(p, false);
        end_tag(p);
        n->list = parse_body(p, ends, &which);
        if (which != 0 || p->err)
            break;
        n->more = mlxd_jinja_parse_node(p, N_IF, p->token.at);
        n = n->more;
    }
    end_tag(p);
    if (which == 1) {
        n->more = parse_body(p, endif, &which);
        end_tag(p);
    }
    return top;
}

static node *parse_for(parser *p, size_t at) {
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const endfor[] = {"endfor", NULL};
    size_t which;
    node *n = mlxd_jinja_parse_node(p, N_FOR, at);
    n->name = mlxd_jinja_parse_string(p, mlxd_slice_str("loop"));
    p->loops++;
    n->a = parse_target_tuple(p, false);
    p->loops--;
    mlxd_jinja_parse_expect(p, MLXD_JINJA_NAME, "in");
    n->b = mlxd_jinja_parse_tuple(p, false);
    if (mlxd_jinja_parse_accept(p, MLXD_JINJA_NAME, "if"))
        n->c = mlxd_jinja_parse_expression(p);
    if (mlxd_jinja_parse_is(p, MLXD_JINJA_NAME, "recursive"))
        mlxd_jinja_parse_fail(p, MLXD_ERR_UNSUPPORTED, p->token.at,
                              "recursive loops are not supported");
    end_tag(p);
    p->loops++;
    n->list = parse_body(p, ends, &which);
    p->loops--;
    end_tag(p);
    if (which == 0) {
        n->more = parse_body(p, endfor, &which);
        end_tag(p);
    }
    return n;
}

static node *parse_set(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_SET, at);
    n->a = parse_target_tuple(p, true);
    if (mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, "=")) {
        n->b = mlxd_jinja_parse_tuple(p, true);
        end_tag(p);
        return n;
    }
    n->kind = N_SETBLOCK;
    if (mlxd_jinja_parse_is(p, MLXD_JINJA_OPERATOR, "|"))
        n->b = mlxd_jinja_parse_filters(p, mlxd_jinja_parse_node(p, N_BLOCK, at));
    n->list = parse_block(p, "endset");
    return n;
}

/* (a, b=1) */
static node *parse_params(parser *p) {
    node *list = NULL, **end = &list;
    mlxd_jinja_parse_expect(p, MLXD_JINJA_OPERATOR, "(");
    while (!p->err && !mlxd_jinja_parse_is(p, MLXD_JINJA_OPERATOR, ")")) {
        node *n = mlxd_jinja_parse_node(p, N_PARAM, p->token.at);
        n->name = parse_name(p);
        if (mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, "="))
            n->a = mlxd_jinja_parse_expression(p);
        end = mlxd_jinja_parse_append(end, n);
        if (!mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, ","))
            break;
    }
    mlxd_jinja_parse_expect(p, MLXD_JINJA_OPERATOR, ")");
    return list;
}

/* The body of a macro is outside of the loops around it. */
static node *parse_macro_body(parser *p, const char *end) {
    unsigned loops = p->loops;
    p->loops = 0;
    node *list = parse_block(p, end);
    p->loops = loops;
    return list;
}

static node *parse_macro(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_MACRO, at);
    n->name = parse_name(p);
    n->b = parse_params(p);
    n->list = parse_macro_body(p, "endmacro");
    return n;
}

static node *parse_call(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_CALLBLOCK, at);
    n->name = mlxd_jinja_parse_string(p, mlxd_slice_str("caller"));
    if (mlxd_jinja_parse_is(p, MLXD_JINJA_OPERATOR, "("))
        n->b = parse_params(p);
    n->a = mlxd_jinja_parse_expression(p);
    if (!p->err && n->a->kind != N_CALL)
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, at, "expected a call of a macro");
    n->list = parse_macro_body(p, "endcall");
    return n;
}

static node *parse_filter_block(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_FILTERBLOCK, at);
    n->a = mlxd_jinja_parse_filter(p, mlxd_jinja_parse_node(p, N_BLOCK, at));
    n->a = mlxd_jinja_parse_filters(p, n->a);
    n->list = parse_block(p, "endfilter");
    return n;
}

static node *parse_with(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_WITH, at), **end = &n->b;
    while (!p->err && p->token.kind != MLXD_JINJA_BLOCK_END) {
        node *set = mlxd_jinja_parse_node(p, N_SET, p->token.at);
        set->a = parse_target_one(p, false);
        mlxd_jinja_parse_expect(p, MLXD_JINJA_OPERATOR, "=");
        set->b = mlxd_jinja_parse_expression(p);
        end = mlxd_jinja_parse_append(end, set);
        if (!mlxd_jinja_parse_accept(p, MLXD_JINJA_OPERATOR, ","))
            break;
    }
    n->list = parse_block(p, "endwith");
    return n;
}

/* Marks what the assistant said, for training; here it is only a scope. */
static node *parse_generation(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_WITH, at);
    n->list = parse_block(p, "endgeneration");
    return n;
}

static node *parse_jump(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_BREAK, at);
    if (p->loops == 0)
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, at, "break or continue outside of a loop");
    end_tag(p);
    return n;
}

static node *parse_continue(parser *p, size_t at) {
    node *n = parse_jump(p, at);
    n->kind = N_CONTINUE;
    return n;
}

static node *parse_do(parser *p, size_t at) {
    node *n = mlxd_jinja_parse_node(p, N_DO, at);
    n->a = mlxd_jinja_parse_tuple(p, true);
    end_tag(p);
    return n;
}

static node *refuse(parser *p, size_t at) {
    mlxd_jinja_parse_fail(p, MLXD_ERR_UNSUPPORTED, at,
                          "a chat template cannot use other templates, blocks or extensions");
    return &p->nowhere;
}

/* Behind "{%": a statement up to the end of its (last) tag. */
static node *parse_statement(parser *p) {
    static const struct {
        const char *name;
        node *(*parse)(parser *p, size_t at);
    } rows[] = {
        {"if", parse_if},       {"for", parse_for},
        {"set", parse_set},     {"macro", parse_macro},
        {"call", parse_call},   {"filter", parse_filter_block},
        {"with", parse_with},   {"generation", parse_generation},
        {"break", parse_jump},  {"continue", parse_continue},
        {"do", parse_do},       {"include", refuse},
        {"import", refuse},     {"from", refuse},
        {"extends", refuse},    {"block", refuse},
        {"autoescape", refuse}, {"trans", refuse},
    };
    mlxd_slice name = p->token.text;
    size_t at = p->token.at;
    mlxd_jinja_parse_expect(p, MLXD_JINJA_NAME, NULL);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(rows[i].name)))
            return rows[i].parse(p, at);
    mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, at, "unknown tag '%.*s'", (int)MLXD_MIN(name.len, 40),
                          (const char *)name.data);
    return &p->nowhere;
}

/* Text, output and statements, up to one of the tags in `ends` (NULL: the end of the source), whose
 * name is taken. */
static node *parse_body(parser *p, const char *const *ends, size_t *which) {
    node *list = NULL, **end = &list, *n;
    *which = 0;
    if (!mlxd_jinja_parse_enter(p))
        return list;
    for (;;) {
        size_t at = p->token.at;
        if (mlxd_jinja_parse_is(p, MLXD_JINJA_TEXT, NULL)) {
            n = mlxd_jinja_parse_node(p, N_TEXT, at);
            n->constant =
                (value){.kind = K_STRING, .as.s = mlxd_jinja_parse_string(p, p->token.text)};
            mlxd_jinja_parse_next(p);
        } else if (mlxd_jinja_parse_accept(p, MLXD_JINJA_OUTPUT_BEGIN, NULL)) {
            n = mlxd_jinja_parse_node(p, N_OUTPUT, at);
            n->a = mlxd_jinja_parse_tuple(p, true);
            mlxd_jinja_parse_expect(p, MLXD_JINJA_OUTPUT_END, NULL);
        } else if (mlxd_jinja_parse_accept(p, MLXD_JINJA_BLOCK_BEGIN, NULL)) {
            for (size_t i = 0; ends && ends[i]; i++)
                if (mlxd_jinja_parse_accept(p, MLXD_JINJA_NAME, ends[i])) {
                    *which = i;
                    p->depth--;
                    return list;
                }
            n = parse_statement(p);
        } else {
            break; /* the end, or an error */
        }
        if (p->err)
            break;
        end = mlxd_jinja_parse_append(end, n);
    }
    p->depth--;
    if (ends)
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "expected {%% %s %%}",
                              ends[1] && ends[2] ? ends[2]
                              : ends[1]          ? ends[1]
                                                 : ends[0]);
    return list;
}

/* ---- open ---- */

/* "\r\n" and "\r" become "\n"; one at the very end is dropped. */
static bool normalise(mlxd_jinja *t) {
    uint8_t *out = mlxd_arena_new(t->arena, t->original.len + 1, 1);
    size_t n = 0;
    if (!out)
        return false;
    for (size_t i = 0; i < t->original.len; i++) {
        uint8_t c = t->original.data[i];
        if (c == '\r') {
            c = '\n';
            i += i + 1 < t->original.len && t->original.data[i + 1] == '\n';
        }
        out[n++] = c;
    }
    t->source = (mlxd_slice){out, n > 0 && out[n - 1] == '\n' ? n - 1 : n};
    return true;
}

static mlxd_err parse(mlxd_jinja *t, mlxd_why *why) {
    parser p = {.t = t, .why = why};
    size_t which;
    mlxd_jinja_lexer_init(&p.lexer, t->source);
    mlxd_jinja_parse_next(&p);
    t->body = parse_body(&p, NULL, &which);
    return p.err;
}

mlxd_err mlxd_jinja_open(mlxd_jinja **out, mlxd_slice source, mlxd_why *why) {
    MLXD_ASSERT(out);
    *out = NULL;
    if (source.len > MLXD_LIMIT_TEMPLATE_BYTES)
        return mlxd_fail(why, MLXD_ERR_RANGE, "chat template: %zu bytes, limit %u", source.len,
                         MLXD_LIMIT_TEMPLATE_BYTES);
    size_t good = mlxd_utf8_check(source);
    if (good != source.len)
        return mlxd_fail(why, MLXD_ERR_DATA, "chat template: byte %zu is not UTF-8", good);
    mlxd_jinja *t = mlxd_mem_new(1, sizeof *t);
    mlxd_err err = MLXD_ERR_NOMEM;
    if (t && (t->arena = mlxd_arena_open(0)) != NULL) {
        t->original.data = (const uint8_t *)mlxd_arena_dup(t->arena, source.data, source.len);
        t->original.len = source.len;
        if (t->original.data && normalise(t))
            err = parse(t, why);
        else
            (void)mlxd_fail(why, err, "no memory for the chat template");
    } else {
        (void)mlxd_fail(why, err, "no memory for the chat template");
    }
    if (err) {
        mlxd_jinja_close(t);
        return err;
    }
    *out = t;
    return MLXD_OK;
}

void mlxd_jinja_close(mlxd_jinja *t) {
    if (!t)
        return;
    mlxd_arena_close(t->arena);
    mlxd_mem_free(t);
}

mlxd_slice mlxd_jinja_source(const mlxd_jinja *t) {
    return t->original;
}

static bool is_word(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool mlxd_jinja_mentions(const mlxd_jinja *t, const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i + len <= t->source.len; i++)
        if (memcmp(t->source.data + i, name, len) == 0 &&
            (i == 0 || !is_word(t->source.data[i - 1])) &&
            (i + len == t->source.len || !is_word(t->source.data[i + len])))
            return true;
    return false;
}
