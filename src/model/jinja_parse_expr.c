/* jinja_parse_expr.c - see jinja_parse.h: expressions to nodes. One function for each level of
 * binding, loosest first: a if b else c, or, and, not, comparisons, + -, ~, * / // %, **, signs,
 * then what stands behind an operand: .name [item] (call) | filter, is test. */
#include "format/utf8.h"
#include "model/jinja_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OPERATOR MLXD_JINJA_OPERATOR
#define NAME MLXD_JINJA_NAME

/* ---- literals ---- */

static node *parse_constant(parser *p, value v) {
    node *n = mlxd_jinja_parse_node(p, N_CONST, p->token.at);
    n->constant = v;
    return n;
}

/* 1_000, 0x1f, 0o17, 0b11 */
static node *parse_integer(parser *p) {
    int64_t v = 0;
    mlxd_slice s = p->token.text;
    size_t i = 0;
    int64_t base = 10;
    if (s.len > 2 && s.data[0] == '0' && (s.data[1] | 0x20) >= 'a') {
        base = (s.data[1] | 0x20) == 'x' ? 16 : (s.data[1] | 0x20) == 'o' ? 8 : 2;
        i = 2;
    }
    for (; i < s.len && !p->err; i++) {
        uint8_t c = s.data[i];
        int64_t digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
        if (c == '_')
            continue;
        if (digit < 0 || digit >= base)
            mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "a malformed number");
        else if (!mlxd_mul_i64(v, base, &v) || !mlxd_add_i64(v, digit, &v))
            mlxd_jinja_parse_fail(p, MLXD_ERR_RANGE, p->token.at, "the number is too large");
    }
    return parse_constant(p, mlxd_jinja_int(v));
}

static node *parse_real(parser *p) {
    char text[64];
    size_t n = 0;
    for (size_t i = 0; i < p->token.text.len; i++)
        if (p->token.text.data[i] != '_' && n + 1 < sizeof text)
            text[n++] = (char)p->token.text.data[i];
    text[n] = 0;
    if (n + 1 == sizeof text)
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "the number is too long");
    return parse_constant(p, mlxd_jinja_float(strtod(text, NULL)));
}

/* Up to `max` digits of base 8 or 16 at s[*i]; false: fewer than `min`. */
static bool read_digits(mlxd_slice s, size_t *i, int base, size_t min, size_t max, uint32_t *out) {
    size_t n = 0;
    *out = 0;
    for (; n < max && *i < s.len; n++, ++*i) {
        uint8_t c = s.data[*i], low = c | 0x20;
        uint32_t digit = c >= '0' && c <= '9'       ? (uint32_t)(c - '0')
                         : low >= 'a' && low <= 'f' ? (uint32_t)(low - 'a' + 10)
                                                    : 99;
        if (digit >= (uint32_t)base)
            break;
        *out = *out * (uint32_t)base + digit;
    }
    return n >= min;
}

/* What stands behind a backslash at s[*i], written to `b`; false: malformed. */
static bool unescape(mlxd_slice s, size_t *i, mlxd_buf *b) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    uint8_t c = s.data[*i], out[4];
    uint32_t cp;
    const char *p = c ? strchr(from, c) : NULL;
    ++*i;
    if (p) {
        mlxd_buf_add_byte(b, (uint8_t)to[p - from]);
        return true;
    }
    if (c == '\n')
        return true;
    if (c == 'x' || c == 'u' || c == 'U') {
        size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        if (!read_digits(s, i, 16, n, n, &cp))
            return false;
    } else if (c >= '0' && c <= '7') {
        --*i;
        (void)read_digits(s, i, 8, 1, 3, &cp);
    } else {
        mlxd_buf_add_byte(b, '\\');
        mlxd_buf_add_byte(b, c);
        return c != 'N';
    }
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return false;
    mlxd_buf_add(b, out, mlxd_utf8_put(cp, out));
    return true;
}

/* One string or several that follow each other. */
static node *parse_string(parser *p) {
    mlxd_buf b;
    node *n = parse_constant(p, UNDEFINED);
    mlxd_buf_init(&b, 0);
    while (!p->err && p->token.kind == MLXD_JINJA_STRING) {
        mlxd_slice s = {p->token.text.data + 1, p->token.text.len - 2};
        for (size_t i = 0; i < s.len;) {
            if (s.data[i] != '\\')
                mlxd_buf_add_byte(&b, s.data[i++]);
            else if (i++, !unescape(s, &i, &b)) {
                mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "a malformed escape");
                break;
            }
        }
        mlxd_jinja_parse_next(p);
    }
    char *text = p->err ? NULL : mlxd_arena_dup(p->t->arena, b.data, b.len);
    if (!p->err && (b.failed || !text))
        mlxd_jinja_parse_fail(p, MLXD_ERR_NOMEM, p->token.at, "no memory for the template");
    if (text)
        n->constant =
            (value){.kind = K_STRING,
                    .as.s = mlxd_jinja_parse_string(p, (mlxd_slice){(const uint8_t *)text, b.len})};
    mlxd_buf_deinit(&b);
    return n;
}

static node *parse_list(parser *p) {
    node *n = mlxd_jinja_parse_node(p, N_LIST, p->token.at), **end = &n->list;
    mlxd_jinja_parse_expect(p, OPERATOR, "[");
    while (!p->err && !mlxd_jinja_parse_is(p, OPERATOR, "]")) {
        end = mlxd_jinja_parse_append(end, mlxd_jinja_parse_expression(p));
        if (!mlxd_jinja_parse_accept(p, OPERATOR, ","))
            break;
    }
    mlxd_jinja_parse_expect(p, OPERATOR, "]");
    return n;
}

static node *parse_dict(parser *p) {
    node *n = mlxd_jinja_parse_node(p, N_DICT, p->token.at), **end = &n->list;
    mlxd_jinja_parse_expect(p, OPERATOR, "{");
    while (!p->err && !mlxd_jinja_parse_is(p, OPERATOR, "}")) {
        end = mlxd_jinja_parse_append(end, mlxd_jinja_parse_expression(p));
        mlxd_jinja_parse_expect(p, OPERATOR, ":");
        end = mlxd_jinja_parse_append(end, mlxd_jinja_parse_expression(p));
        if (!mlxd_jinja_parse_accept(p, OPERATOR, ","))
            break;
    }
    mlxd_jinja_parse_expect(p, OPERATOR, "}");
    return n;
}

/* ( ) with nothing, an expression or a tuple inside. */
static node *parse_parentheses(parser *p) {
    size_t at = p->token.at;
    node *n;
    mlxd_jinja_parse_expect(p, OPERATOR, "(");
    if (mlxd_jinja_parse_is(p, OPERATOR, ")"))
        n = mlxd_jinja_parse_node(p, N_TUPLE, at);
    else
        n = mlxd_jinja_parse_tuple(p, true);
    mlxd_jinja_parse_expect(p, OPERATOR, ")");
    return n;
}

static node *parse_name(parser *p) {
    static const struct {
        const char *name;
        value v;
    } constants[] = {
        {"true", {.kind = K_BOOL, .as.b = true}},
        {"True", {.kind = K_BOOL, .as.b = true}},
        {"false", {.kind = K_BOOL, .as.b = false}},
        {"False", {.kind = K_BOOL, .as.b = false}},
        {"none", {.kind = K_NONE}},
        {"None", {.kind = K_NONE}},
    };
    node *n = NULL;
    for (size_t i = 0; i < MLXD_COUNT_OF(constants) && !n; i++)
        if (mlxd_jinja_parse_is(p, NAME, constants[i].name))
            n = parse_constant(p, constants[i].v);
    if (!n) {
        n = mlxd_jinja_parse_node(p, N_NAME, p->token.at);
        n->name = mlxd_jinja_parse_string(p, p->token.text);
    }
    mlxd_jinja_parse_next(p);
    return n;
}

static node *parse_primary(parser *p) {
    node *n = NULL;
    switch (p->token.kind) {
    case MLXD_JINJA_NAME:
        return parse_name(p);
    case MLXD_JINJA_STRING:
        return parse_string(p);
    case MLXD_JINJA_INTEGER:
        n = parse_integer(p);
        mlxd_jinja_parse_next(p);
        return n;
    case MLXD_JINJA_REAL:
        n = parse_real(p);
        mlxd_jinja_parse_next(p);
        return n;
    default:
        break;
    }
    if (mlxd_jinja_parse_is(p, OPERATOR, "("))
        return parse_parentheses(p);
    if (mlxd_jinja_parse_is(p, OPERATOR, "["))
        return parse_list(p);
    if (mlxd_jinja_parse_is(p, OPERATOR, "{"))
        return parse_dict(p);
    mlxd_jinja_parse_expect(p, NAME, "an expression"); /* fails: no token has that text */
    return mlxd_jinja_parse_node(p, N_CONST, p->token.at);
}

/* ---- behind an operand ---- */

/* (a, b, name=c): named ones are N_PARAM. */
static node *parse_arguments(parser *p) {
    node *list = NULL, **end = &list;
    bool named = false;
    mlxd_jinja_parse_expect(p, OPERATOR, "(");
    while (!p->err && !mlxd_jinja_parse_is(p, OPERATOR, ")")) {
        if (mlxd_jinja_parse_is(p, OPERATOR, "*") || mlxd_jinja_parse_is(p, OPERATOR, "**"))
            mlxd_jinja_parse_fail(p, MLXD_ERR_UNSUPPORTED, p->token.at,
                                  "*args and **kwargs are not supported");
        node *n = mlxd_jinja_parse_expression(p);
        if (n->kind == N_NAME && mlxd_jinja_parse_accept(p, OPERATOR, "=")) {
            n->kind = N_PARAM;
            n->a = mlxd_jinja_parse_expression(p);
            named = true;
        } else if (named) {
            mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, n->at,
                                  "a positional argument behind a named one");
        }
        end = mlxd_jinja_parse_append(end, n);
        if (!mlxd_jinja_parse_accept(p, OPERATOR, ","))
            break;
    }
    mlxd_jinja_parse_expect(p, OPERATOR, ")");
    return list;
}

static bool at_slice_end(const parser *p) {
    return mlxd_jinja_parse_is(p, OPERATOR, ":") || mlxd_jinja_parse_is(p, OPERATOR, "]") ||
           mlxd_jinja_parse_is(p, OPERATOR, ",");
}

/* [a]   [a:b:c]   [a, b] */
static node *parse_subscript(parser *p, node *of) {
    node *n = mlxd_jinja_parse_node(p, N_ITEM, p->token.at), *first = NULL;
    n->a = of;
    mlxd_jinja_parse_expect(p, OPERATOR, "[");
    if (!at_slice_end(p))
        first = mlxd_jinja_parse_tuple(p, true);
    n->b = first;
    if (mlxd_jinja_parse_accept(p, OPERATOR, ":")) {
        n->kind = N_SLICE;
        if (!at_slice_end(p))
            n->c = mlxd_jinja_parse_expression(p);
        if (mlxd_jinja_parse_accept(p, OPERATOR, ":") && !at_slice_end(p))
            n->d = mlxd_jinja_parse_expression(p);
    } else if (!first) {
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "expected a subscript");
    }
    mlxd_jinja_parse_expect(p, OPERATOR, "]");
    return n;
}

static node *parse_member(parser *p, node *of) {
    node *n = mlxd_jinja_parse_node(p, N_ATTR, p->token.at);
    mlxd_jinja_parse_next(p);
    n->a = of;
    if (p->token.kind == MLXD_JINJA_INTEGER) {
        n->kind = N_ITEM;
        n->b = parse_integer(p);
        mlxd_jinja_parse_next(p);
        return n;
    }
    n->name = mlxd_jinja_parse_string(p, p->token.text);
    mlxd_jinja_parse_expect(p, NAME, NULL);
    return n;
}

static node *parse_call(parser *p, node *callee) {
    node *n = mlxd_jinja_parse_node(p, N_CALL, callee->at);
    n->a = callee;
    n->list = parse_arguments(p);
    return n;
}

static node *parse_postfix(parser *p, node *n) {
    while (!p->err) {
        if (mlxd_jinja_parse_is(p, OPERATOR, "."))
            n = parse_member(p, n);
        else if (mlxd_jinja_parse_is(p, OPERATOR, "["))
            n = parse_subscript(p, n);
        else if (mlxd_jinja_parse_is(p, OPERATOR, "("))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

node *mlxd_jinja_parse_filter(parser *p, node *n) {
    node *f = mlxd_jinja_parse_node(p, N_FILTER, p->token.at);
    f->a = n;
    f->name = mlxd_jinja_parse_string(p, p->token.text);
    f->builtin = mlxd_jinja_find_filter(p->token.text);
    mlxd_jinja_parse_expect(p, NAME, NULL);
    if (mlxd_jinja_parse_is(p, OPERATOR, "("))
        f->list = parse_arguments(p);
    return f;
}

node *mlxd_jinja_parse_filters(parser *p, node *n) {
    while (!p->err && mlxd_jinja_parse_accept(p, OPERATOR, "|"))
        n = mlxd_jinja_parse_filter(p, n);
    return n;
}

/* Does an argument without parentheses stand behind a test's name? */
static bool at_argument(const parser *p) {
    static const char *const words[] = {"else", "or", "and"};
    for (size_t i = 0; i < MLXD_COUNT_OF(words); i++)
        if (mlxd_jinja_parse_is(p, NAME, words[i]))
            return false;
    return p->token.kind == NAME || p->token.kind == MLXD_JINJA_STRING ||
           p->token.kind == MLXD_JINJA_INTEGER || p->token.kind == MLXD_JINJA_REAL ||
           mlxd_jinja_parse_is(p, OPERATOR, "[") || mlxd_jinja_parse_is(p, OPERATOR, "{");
}

/* Behind "is". */
static node *parse_test(parser *p, node *n) {
    node *t = mlxd_jinja_parse_node(p, N_TEST, p->token.at);
    t->a = n;
    t->negated = mlxd_jinja_parse_accept(p, NAME, "not");
    t->name = mlxd_jinja_parse_string(p, p->token.text);
    t->builtin = mlxd_jinja_find_test(p->token.text);
    mlxd_jinja_parse_expect(p, NAME, NULL);
    if (mlxd_jinja_parse_is(p, NAME, "is"))
        mlxd_jinja_parse_fail(p, MLXD_ERR_DATA, p->token.at, "tests cannot be chained");
    if (mlxd_jinja_parse_is(p, OPERATOR, "("))
        t->list = parse_arguments(p);
    else if (at_argument(p))
        t->list = parse_postfix(p, parse_primary(p));
    return t;
}

static node *parse_behind(parser *p, node *n) {
    while (!p->err) {
        if (mlxd_jinja_parse_accept(p, OPERATOR, "|"))
            n = mlxd_jinja_parse_filter(p, n);
        else if (mlxd_jinja_parse_accept(p, NAME, "is"))
            n = parse_test(p, n);
        else if (mlxd_jinja_parse_is(p, OPERATOR, "("))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---- operators ---- */

static node *parse_sign(parser *p, bool filters) {
    size_t at = p->token.at;
    node *n = NULL;
    if (!mlxd_jinja_parse_enter(p))
        return mlxd_jinja_parse_node(p, N_CONST, at);
    bool minus = mlxd_jinja_parse_is(p, OPERATOR, "-");
    if (minus || mlxd_jinja_parse_is(p, OPERATOR, "+")) {
        mlxd_jinja_parse_next(p);
        n = mlxd_jinja_parse_node(p, minus ? N_NEGATE : N_PLUS, at);
        n->a = parse_sign(p, false);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    p->depth--;
    return filters ? parse_behind(p, n) : n;
}

node *mlxd_jinja_parse_unary(parser *p) {
    return parse_sign(p, true);
}

static node *binary(parser *p, op_code o, size_t at, node *a, node *b) {
    node *n = mlxd_jinja_parse_node(p, N_BINARY, at);
    n->op = o;
    n->a = a;
    n->b = b;
    return n;
}

/* Operators of one level of binding, from `first` on in this list, applied from left to right. */
static const struct {
    const char *text;
    op_code op;
} signs[] = {
    {"**", OP_POW}, {"*", OP_MUL}, {"//", OP_FLOORDIV}, {"/", OP_DIV},
    {"%", OP_MOD},  {"+", OP_ADD}, {"-", OP_SUB},
};

static node *parse_level(parser *p, size_t first, size_t end, node *(*operand)(parser *p)) {
    node *n = operand(p);
    for (size_t i = first; i < end && !p->err;) {
        size_t at = p->token.at;
        if (mlxd_jinja_parse_accept(p, OPERATOR, signs[i].text)) {
            n = binary(p, signs[i].op, at, n, operand(p));
            i = first;
        } else {
            i++;
        }
    }
    return n;
}

static node *parse_power(parser *p) {
    return parse_level(p, 0, 1, mlxd_jinja_parse_unary);
}

static node *parse_product(parser *p) {
    return parse_level(p, 1, 5, parse_power);
}

static node *parse_concat(parser *p) {
    node *first = parse_product(p);
    if (!mlxd_jinja_parse_is(p, OPERATOR, "~"))
        return first;
    node *n = mlxd_jinja_parse_node(p, N_CONCAT, first->at);
    node **end = mlxd_jinja_parse_append(&n->list, first);
    while (!p->err && mlxd_jinja_parse_accept(p, OPERATOR, "~"))
        end = mlxd_jinja_parse_append(end, parse_product(p));
    return n;
}

static node *parse_sum(parser *p) {
    return parse_level(p, 5, 7, parse_concat);
}

/* The comparison that stands here, taken; false: none. */
static bool accept_comparison(parser *p, op_code *out) {
    static const struct {
        const char *text;
        op_code op;
    } rows[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        if (mlxd_jinja_parse_accept(p, OPERATOR, rows[i].text)) {
            *out = rows[i].op;
            return true;
        }
    *out = OP_IN;
    if (mlxd_jinja_parse_accept(p, NAME, "in"))
        return true;
    if (!mlxd_jinja_parse_is(p, NAME, "not"))
        return false;
    mlxd_jinja_lexer lexer = p->lexer; /* "not in"? The one place with two tokens ahead. */
    mlxd_jinja_token token = p->token;
    mlxd_jinja_parse_next(p);
    *out = OP_NOT_IN;
    if (mlxd_jinja_parse_accept(p, NAME, "in"))
        return true;
    if (!p->err) {
        p->lexer = lexer;
        p->token = token;
    }
    return false;
}

static node *parse_comparison(parser *p) {
    op_code o;
    node *first = parse_sum(p), *n = NULL, **end = NULL;
    while (!p->err && accept_comparison(p, &o)) {
        if (!n) {
            n = mlxd_jinja_parse_node(p, N_COMPARE, first->at);
            n->a = first;
            end = &n->list;
        }
        node *operand = mlxd_jinja_parse_node(p, N_PARAM, p->token.at);
        operand->a = parse_sum(p);
        operand->op = o;
        end = mlxd_jinja_parse_append(end, operand);
    }
    return n ? n : first;
}

static node *parse_not(parser *p) {
    size_t at = p->token.at;
    if (!mlxd_jinja_parse_accept(p, NAME, "not"))
        return parse_comparison(p);
    node *n = mlxd_jinja_parse_node(p, N_NOT, at);
    if (mlxd_jinja_parse_enter(p))
        n->a = parse_not(p);
    p->depth--;
    return n;
}

static node *logic(parser *p, node_kind kind, node *a, node *b) {
    node *n = mlxd_jinja_parse_node(p, kind, a->at);
    n->a = a;
    n->b = b;
    return n;
}

static node *parse_and(parser *p) {
    node *n = parse_not(p);
    while (!p->err && mlxd_jinja_parse_accept(p, NAME, "and"))
        n = logic(p, N_AND, n, parse_not(p));
    return n;
}

static node *parse_or(parser *p) {
    node *n = parse_and(p);
    while (!p->err && mlxd_jinja_parse_accept(p, NAME, "or"))
        n = logic(p, N_OR, n, parse_and(p));
    return n;
}

node *mlxd_jinja_parse_expression(parser *p) {
    node *n = mlxd_jinja_parse_enter(p) ? parse_or(p) : mlxd_jinja_parse_node(p, N_CONST, 0);
    while (!p->err && mlxd_jinja_parse_is(p, NAME, "if")) {
        node *cond = mlxd_jinja_parse_node(p, N_COND, n->at);
        mlxd_jinja_parse_next(p);
        cond->b = n;
        cond->a = parse_or(p);
        if (mlxd_jinja_parse_accept(p, NAME, "else"))
            cond->c = mlxd_jinja_parse_expression(p);
        n = cond;
    }
    p->depth--;
    return n;
}

/* Does a tuple end here, behind a comma? */
static bool at_tuple_end(const parser *p) {
    return p->token.kind == MLXD_JINJA_OUTPUT_END || p->token.kind == MLXD_JINJA_BLOCK_END ||
           p->token.kind == MLXD_JINJA_END || mlxd_jinja_parse_is(p, OPERATOR, ")") ||
           mlxd_jinja_parse_is(p, OPERATOR, "]") || mlxd_jinja_parse_is(p, NAME, "recursive");
}

node *mlxd_jinja_parse_tuple(parser *p, bool conditional) {
    node *(*one)(parser * p) = conditional ? mlxd_jinja_parse_expression : parse_or;
    if (!mlxd_jinja_parse_enter(p))
        return mlxd_jinja_parse_node(p, N_CONST, 0);
    node *first = one(p), *n = first;
    if (mlxd_jinja_parse_is(p, OPERATOR, ",")) {
        n = mlxd_jinja_parse_node(p, N_TUPLE, first->at);
        node **end = mlxd_jinja_parse_append(&n->list, first);
        while (!p->err && mlxd_jinja_parse_accept(p, OPERATOR, ",") && !at_tuple_end(p))
            end = mlxd_jinja_parse_append(end, one(p));
    }
    p->depth--;
    return n;
}
