/* jinja_parse.h - the parser's state, shared by jinja_parse.c (statements) and jinja_parse_expr.c
 * (expressions). Recursive descent over one token of look-ahead, as Jinja's own parser; errors are
 * sticky: after one, p->token is END and everything unwinds. */
#ifndef MLXD_MODEL_JINJA_PARSE_H
#define MLXD_MODEL_JINJA_PARSE_H

#include "model/jinja_internal.h"
#include "model/jinja_lex.h"

typedef struct parser {
    mlxd_jinja *t;
    mlxd_jinja_lexer lexer;
    mlxd_jinja_token token;
    size_t nodes;
    unsigned depth;
    unsigned loops; /* around the statement that is read */
    node nowhere;   /* stands for nodes that could not be made; never read by a render */
    mlxd_err err;
    mlxd_why *why;
} parser;

/* ---- jinja_parse.c ---- */
/* Always false. */
bool mlxd_jinja_parse_fail(parser *p, mlxd_err err, size_t at, const char *fmt, ...)
    MLXD_PRINTF(4, 5);
void mlxd_jinja_parse_next(parser *p);
bool mlxd_jinja_parse_is(const parser *p, mlxd_jinja_token_kind kind, const char *text);
/* Takes the token if it is this one. */
bool mlxd_jinja_parse_accept(parser *p, mlxd_jinja_token_kind kind, const char *text);
/* Takes it, or fails. */
void mlxd_jinja_parse_expect(parser *p, mlxd_jinja_token_kind kind, const char *text);
/* Never NULL; after a failure a node that nobody looks at. */
node *mlxd_jinja_parse_node(parser *p, node_kind kind, size_t at);
/* A string of the template: trusted. */
const string *mlxd_jinja_parse_string(parser *p, mlxd_slice text);
/* Appends to a chain: `end` is where the next one goes. */
static inline node **mlxd_jinja_parse_append(node **end, node *n) {
    *end = n;
    return &n->next;
}
/* Counts nesting up; false: too deep. */
bool mlxd_jinja_parse_enter(parser *p);

/* ---- jinja_parse_expr.c ---- */
node *mlxd_jinja_parse_expression(parser *p); /* with "a if b else c" */
/* One or more, separated by commas: a tuple unless it is one without comma. `conditional`: may it
 * have "if"? */
node *mlxd_jinja_parse_tuple(parser *p, bool conditional);
node *mlxd_jinja_parse_unary(parser *p);
/* The filters behind `n`: | name(args) ... */
node *mlxd_jinja_parse_filters(parser *p, node *n);
/* At a filter's name, without the "|" in front of it. */
node *mlxd_jinja_parse_filter(parser *p, node *n);

#endif
