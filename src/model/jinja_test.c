/* jinja_test.c - the tests of a template: `x is defined`, `x is divisibleby 3` ... */
#include "model/jinja_internal.h"

#include <string.h>

#define TEST(name) static value name(run *r, value self, const value *v, const args *a)
#define UNUSED_ARGS ((void)r, (void)self, (void)v, (void)a)

static value holds(bool b) {
    return mlxd_jinja_bool(b);
}

TEST(is_defined) {
    UNUSED_ARGS;
    return holds(self.kind != K_UNDEFINED);
}
TEST(is_undefined) {
    UNUSED_ARGS;
    return holds(self.kind == K_UNDEFINED);
}
TEST(is_none) {
    UNUSED_ARGS;
    return holds(self.kind == K_NONE);
}
TEST(is_true) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL && self.as.b);
}
TEST(is_false) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL && !self.as.b);
}
TEST(is_boolean) {
    UNUSED_ARGS;
    return holds(self.kind == K_BOOL);
}
TEST(is_integer) {
    UNUSED_ARGS;
    return holds(self.kind == K_INT);
}
TEST(is_float) {
    UNUSED_ARGS;
    return holds(self.kind == K_FLOAT);
}
TEST(is_number) {
    UNUSED_ARGS;
    return holds(self.kind == K_INT || self.kind == K_FLOAT || self.kind == K_BOOL);
}
TEST(is_string) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING);
}
TEST(is_mapping) {
    UNUSED_ARGS;
    return holds(self.kind == K_DICT);
}
TEST(is_iterable) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING || self.kind == K_DICT || self.kind == K_UNDEFINED ||
                 self.kind == K_LOOP || mlxd_jinja_is_seq(self));
}
/* What has a length and items: len() and [] in Python. */
TEST(is_sequence) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING || self.kind == K_DICT || self.kind == K_LIST ||
                 self.kind == K_TUPLE || self.kind == K_RANGE || self.kind == K_UNDEFINED);
}
TEST(is_callable) {
    UNUSED_ARGS;
    return holds(self.kind == K_MACRO || self.kind == K_BUILTIN || self.kind == K_METHOD ||
                 self.kind == K_JOINER || self.kind == K_UNDEFINED);
}
TEST(is_lower) {
    UNUSED_ARGS;
    const string *s = mlxd_jinja_to_string(r, self);
    const string *low = s ? mlxd_jinja_case(r, s, CASE_LOWER, false) : NULL;
    const string *up = s ? mlxd_jinja_case(r, s, CASE_UPPER, false) : NULL;
    return holds(low && up && mlxd_jinja_same(s, low) && !mlxd_jinja_same(s, up));
}
TEST(is_upper) {
    UNUSED_ARGS;
    const string *s = mlxd_jinja_to_string(r, self);
    const string *low = s ? mlxd_jinja_case(r, s, CASE_LOWER, false) : NULL;
    const string *up = s ? mlxd_jinja_case(r, s, CASE_UPPER, false) : NULL;
    return holds(low && up && mlxd_jinja_same(s, up) && !mlxd_jinja_same(s, low));
}
TEST(is_filter) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING && mlxd_jinja_find_filter(mlxd_jinja_bytes(self.as.s)));
}
TEST(is_test) {
    UNUSED_ARGS;
    return holds(self.kind == K_STRING && mlxd_jinja_find_test(mlxd_jinja_bytes(self.as.s)));
}
TEST(is_sameas) {
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
TEST(is_even) {
    UNUSED_ARGS;
    return rest_is(r, self, &(value){.kind = K_INT, .as.i = 2}, 0);
}
TEST(is_odd) {
    UNUSED_ARGS;
    return rest_is(r, self, &(value){.kind = K_INT, .as.i = 2}, 1);
}
TEST(is_divisibleby) {
    UNUSED_ARGS;
    return rest_is(r, self, v, 0);
}

TEST(is_eq) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_EQ, self, v[0]));
}
TEST(is_ne) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_NE, self, v[0]));
}
TEST(is_lt) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_LT, self, v[0]));
}
TEST(is_le) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_LE, self, v[0]));
}
TEST(is_gt) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_GT, self, v[0]));
}
TEST(is_ge) {
    UNUSED_ARGS;
    return holds(mlxd_jinja_compare(r, OP_GE, self, v[0]));
}
TEST(is_in) {
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
