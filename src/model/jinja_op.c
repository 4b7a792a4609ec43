/* jinja_op.c - operators of the interpreter: arithmetic and comparison with Python's rules.
 * Integers have 64 bits, and an overflow is an error. */
#include "model/jinja_internal.h"

#include <math.h>
#include <string.h>

static const char *const signs[] = {
    [OP_ADD] = "+", [OP_SUB] = "-",  [OP_MUL] = "*", [OP_DIV] = "/", [OP_FLOORDIV] = "//",
    [OP_MOD] = "%", [OP_POW] = "**", [OP_EQ] = "==", [OP_NE] = "!=", [OP_LT] = "<",
    [OP_LE] = "<=", [OP_GT] = ">",   [OP_GE] = ">=", [OP_IN] = "in", [OP_NOT_IN] = "not in",
};

static value overflow(run *r, op_code o) {
    mlxd_jinja_fail(r, MLXD_ERR_RANGE, "integer overflow in %s", signs[o]);
    return UNDEFINED;
}

static value by_zero(run *r) {
    mlxd_jinja_fail(r, MLXD_ERR_DATA, "division by zero");
    return UNDEFINED;
}

/* ---- numbers ---- */

static value power_int(run *r, int64_t a, int64_t b) {
    int64_t out = 1;
    if (b < 0) {
        double f = 1;
        if (a == 0)
            return by_zero(r);
        for (int64_t n = b; n < 0 && isfinite(f) && mlxd_jinja_step(r, 1); n++)
            f *= (double)a;
        return mlxd_jinja_float(1 / f);
    }
    if (a == 0 || a == 1)
        return mlxd_jinja_int(b == 0 ? 1 : a);
    if (a == -1)
        return mlxd_jinja_int(b % 2 ? -1 : 1);
    for (; b > 0; b--)
        if (!mlxd_mul_i64(out, a, &out))
            return overflow(r, OP_POW);
    return mlxd_jinja_int(out);
}

static value binary_int(run *r, op_code o, int64_t a, int64_t b) {
    int64_t out = 0;
    if (b == 0 && (o == OP_DIV || o == OP_FLOORDIV || o == OP_MOD))
        return by_zero(r);
    switch (o) {
    case OP_ADD:
        return mlxd_add_i64(a, b, &out) ? mlxd_jinja_int(out) : overflow(r, o);
    case OP_SUB:
        return mlxd_sub_i64(a, b, &out) ? mlxd_jinja_int(out) : overflow(r, o);
    case OP_MUL:
        return mlxd_mul_i64(a, b, &out) ? mlxd_jinja_int(out) : overflow(r, o);
    case OP_DIV:
        return mlxd_jinja_float((double)a / (double)b);
    case OP_POW:
        return power_int(r, a, b);
    default:
        break;
    }
    if (b == -1) /* INT64_MIN // -1 traps */
        return o == OP_MOD ? mlxd_jinja_int(0) : binary_int(r, OP_SUB, 0, a);
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { /* towards minus infinity */
        quotient--;
        rest += b;
    }
    return mlxd_jinja_int(o == OP_MOD ? rest : quotient);
}

static value power_float(run *r, double a, double b) {
    if (a == 0 && b < 0)
        return by_zero(r);
    if (a < 0 && floor(b) != b) {
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "a root of a negative number");
        return UNDEFINED;
    }
    /* tidy: allow banned - numbers that a template prints, not part of inference */
    double f = pow(a, b);
    if (isinf(f) && isfinite(a) && isfinite(b))
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "the result of ** is too large");
    return mlxd_jinja_float(f);
}

static value binary_float(run *r, op_code o, double a, double b) {
    if (b == 0 && (o == OP_DIV || o == OP_FLOORDIV || o == OP_MOD))
        return by_zero(r);
    double rest;
    switch (o) {
    case OP_ADD:
        return mlxd_jinja_float(a + b);
    case OP_SUB:
        return mlxd_jinja_float(a - b);
    case OP_MUL:
        return mlxd_jinja_float(a * b);
    case OP_DIV:
        return mlxd_jinja_float(a / b);
    case OP_POW:
        return power_float(r, a, b);
    default:
        break;
    }
    rest = fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0))
        rest += b;
    else if (rest == 0)
        rest = copysign(0, b);
    if (o == OP_MOD)
        return mlxd_jinja_float(rest);
    double quotient = (a - rest) / b, whole = floor(quotient);
    return mlxd_jinja_float(quotient - whole > 0.5 ? whole + 1 : whole);
}

/* ---- strings and lists ---- */

static value repeat(run *r, value v, int64_t n) {
    if (v.kind == K_STRING) {
        builder b = {.r = r};
        if (v.as.s->len == 0)
            return v;
        for (; n > 0 && mlxd_jinja_step(r, 1); n--)
            mlxd_jinja_put_string(&b, v.as.s);
        return mlxd_jinja_of_string(mlxd_jinja_built(&b));
    }
    seq *s = mlxd_jinja_seq(r, 0);
    const seq *in = v.as.seq;
    for (; n > 0 && in->count > 0 && mlxd_jinja_step(r, 1); n--)
        for (size_t i = 0; i < in->count && !r->err; i++)
            mlxd_jinja_push(r, s, in->items[i]);
    return mlxd_jinja_of_seq(s, v.kind);
}

static value join(run *r, value a, value b) {
    if (a.kind == K_STRING) {
        builder out = {.r = r};
        bool safe = a.as.s->safe || b.as.s->safe;
        mlxd_jinja_put_string(&out, safe ? mlxd_jinja_escape(r, a.as.s) : a.as.s);
        mlxd_jinja_put_string(&out, safe ? mlxd_jinja_escape(r, b.as.s) : b.as.s);
        const string *s = mlxd_jinja_built(&out);
        return mlxd_jinja_of_string(s && safe ? mlxd_jinja_mark_safe(r, s) : s);
    }
    seq *s = mlxd_jinja_seq(r, a.as.seq->count + b.as.seq->count);
    for (size_t i = 0; i < a.as.seq->count && !r->err; i++)
        mlxd_jinja_push(r, s, a.as.seq->items[i]);
    for (size_t i = 0; i < b.as.seq->count && !r->err; i++)
        mlxd_jinja_push(r, s, b.as.seq->items[i]);
    return mlxd_jinja_of_seq(s, a.kind);
}

static bool is_sequence(value v) {
    return v.kind == K_STRING || v.kind == K_LIST || v.kind == K_TUPLE;
}

value mlxd_jinja_binary(run *r, op_code o, value a, value b) {
    int64_t i, k;
    double f, g;
    if (r->err)
        return UNDEFINED;
    if (mlxd_jinja_get_int(a, &i) && mlxd_jinja_get_int(b, &k))
        return binary_int(r, o, i, k);
    if (mlxd_jinja_get_number(a, &f) && mlxd_jinja_get_number(b, &g))
        return binary_float(r, o, f, g);
    if (o == OP_ADD && is_sequence(a) && a.kind == b.kind)
        return join(r, a, b);
    if (o == OP_MUL && is_sequence(a) && mlxd_jinja_get_int(b, &k))
        return repeat(r, a, k);
    if (o == OP_MUL && is_sequence(b) && mlxd_jinja_get_int(a, &i))
        return repeat(r, b, i);
    if (a.kind == K_UNDEFINED || b.kind == K_UNDEFINED)
        mlxd_jinja_fail_undefined(r, a.kind == K_UNDEFINED ? a : b);
    else if (o == OP_MOD && a.kind == K_STRING)
        mlxd_jinja_fail(r, MLXD_ERR_UNSUPPORTED, "formatting with %% is not supported");
    else
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "unsupported operand types for %s: '%s' and '%s'",
                        signs[o], mlxd_jinja_type(a), mlxd_jinja_type(b));
    return UNDEFINED;
}

bool mlxd_jinja_compare(run *r, op_code o, value a, value b) {
    if (r->err)
        return false;
    switch (o) {
    case OP_EQ:
        return mlxd_jinja_equal(r, a, b);
    case OP_NE:
        return !mlxd_jinja_equal(r, a, b);
    case OP_IN:
        return mlxd_jinja_contains(r, b, a);
    case OP_NOT_IN:
        return !mlxd_jinja_contains(r, b, a);
    default:
        break;
    }
    int c = mlxd_jinja_order(r, a, b, signs[o]);
    if (c == 2)
        return false;
    return o == OP_LT ? c < 0 : o == OP_LE ? c <= 0 : o == OP_GT ? c > 0 : c >= 0;
}
