/* jinja_test.c - the tests of a template: `x is defined`, `x is divisibleby 3` ... */
#include "model/jinja_internal.h"

#include <string.h>

#define UNUSED_ARGS ((void)r, (void)self, (void)v, (void)a)

static value holds(bool b) {
    return mlxd_jinja_bool(b);
}

static value is_defined(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind != K_UNDEFINED);
}
static value is_undefined(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_UNDEFINED);
}
static value is_none(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_NONE);
}
static value is_true(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL && self.as.b);
}
static value is_false(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL && !self.as.b);
}
static value is_boolean(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL);
}
static value is_integer(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_INT);
}
static value is_float(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_FLOAT);
}
static value is_number(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_INT || self.kind == K_FLOAT || self.kind == K_BOOL);
}
static value is_string(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING);
}
static value is_mapping(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_DICT);
}
static value is_iterable(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING || self.kind == K_DICT || self.kind == K_UNDEFINED ||
                 self.kind == K_LOOP || mlxd_jinja_is_seq(self));
}
/* What has a length and items: len() and [] in Python. */
static value is_sequence(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING || self.kind == K_DICT || self.kind == K_LIST ||
                 self.kind == K_TUPLE || self.kind == K_RANGE || self.kind == K_UNDEFINED);
}
static value is_callable(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_MACRO || self.kind == K_BUILTIN || self.kind == K_METHOD ||
                 self.kind == K_JOINER || self.kind == K_UNDEFINED);
}
static value is_lower(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = mlxd_jinja_to_string(r, self);
    const string *low = s ? mlxd_jinja_case(r, s, CASE_LOWER, false) : NULL;
    const string *up = s ? mlxd_jinja_case(r, s, CASE_UPPER, false) : NULL;
    return holds(low && up && mlxd_jinja_same(s, low) && !mlxd_jinja_same(s, up));
}
static value is_upper(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    const string *s = mlxd_jinja_to_string(r, self);
    const string *low = s ? mlxd_jinja_case(r, s, CASE_LOWER, false) : NULL;
    const string *up = s ? mlxd_jinja_case(r, s, CASE_UPPER, false) : NULL;
    return holds(low && up && mlxd_jinja_same(s, up) && !mlxd_jinja_same(s, low));
}
static value is_filter(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING && mlxd_jinja_find_filter(mlxd_jinja_bytes(self.as.s)));
}
static value is_test(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING && mlxd_jinja_find_test(mlxd_jinja_bytes(self.as.s)));
}
static value is_sameas(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    if (self.kind == K_STRING || self.kind == K_FLOAT || self.kind != v[0].kind)
        return holds(self.kind == v[0].kind && self.kind == K_STRING && self.as.s == v[0].as.s);
    if (self.kind == K_INT || self.kind <= K_BOOL)
        return holds(mlxd_jinja_equal(r, self, v[0]));
    return holds((const void *)self.as.seq == (const void *)v[0].as.seq);
}

static value rest_is(run *r, value self, const value *divisor, int64_t rest) {
    value m = mlxd_jinja_binary(r, OP_MOD, self, *divisor);
    return holds(mlxd_jinja_equal(r, m, mlxd_jinja_int(rest)));
}
static value is_even(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return rest_is(r, self, &(value){.kind = K_INT, .as.i = 2}, 0);
}
static value is_odd(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return rest_is(r, self, &(value){.kind = K_INT, .as.i = 2}, 1);
}
static value is_divisibleby(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return rest_is(r, self, v, 0);
}

static value is_eq(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_EQ, self, v[0]));
}
static value is_ne(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_NE, self, v[0]));
}
static value is_lt(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_LT, self, v[0]));
}
static value is_le(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_LE, self, v[0]));
}
static value is_gt(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_GT, self, v[0]));
}
static value is_ge(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_GE, self, v[0]));
}
static value is_in(run *r, value self, const value *v, const args *a) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_contains(r, v[0], self));
}

static const builtin rows[] = {
    {"defined", is_defined, 0, {NULL}},   {"undefined", is_undefined, 0, {NULL}},
    {"none", is_none, 0, {NULL}},         {"true", is_true, 0, {NULL}},
    {"false", is_false, 0, {NULL}},       {"boolean", is_boolean, 0, {NULL}},
    {"integer", is_integer, 0, {NULL}},   {"float", is_float, 0, {NULL}},
    {"number", is_number, 0, {NULL}},     {"string", is_string, 0, {NULL}},
    {"mapping", is_mapping, 0, {NULL}},   {"iterable", is_iterable, 0, {NULL}},
    {"sequence", is_sequence, 0, {NULL}}, {"callable", is_callable, 0, {NULL}},
    {"lower", is_lower, 0, {NULL}},       {"upper", is_upper, 0, {NULL}},
    {"filter", is_filter, 0, {NULL}},     {"test", is_test, 0, {NULL}},
    {"sameas", is_sameas, 1, {"other"}},  {"even", is_even, 0, {NULL}},
    {"odd", is_odd, 0, {NULL}},           {"divisibleby", is_divisibleby, 1, {"num"}},
    {"eq", is_eq, 1, {"other"}},          {"equalto", is_eq, 1, {"other"}},
    {"ne", is_ne, 1, {"other"}},          {"lt", is_lt, 1, {"other"}},
    {"lessthan", is_lt, 1, {"other"}},    {"le", is_le, 1, {"other"}},
    {"gt", is_gt, 1, {"other"}},          {"greaterthan", is_gt, 1, {"other"}},
    {"ge", is_ge, 1, {"other"}},          {"in", is_in, 1, {"seq"}},
    {"==", is_eq, 1, {"other"}}, /* these for select("==", ...) */
    {"!=", is_ne, 1, {"other"}},          {"<", is_lt, 1, {"other"}},
    {"<=", is_le, 1, {"other"}},          {">", is_gt, 1, {"other"}},
    {">=", is_ge, 1, {"other"}},
};

const builtin *mlxd_jinja_find_test(mlxd_slice name) {
    return mlxd_jinja_find_row(rows, MLXD_COUNT_OF(rows), name);
}
