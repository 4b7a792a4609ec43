/* test_json.c - the JSON reader: accepted texts and their values, refused texts and what is said
 * about them. Inputs are copied into blocks of exactly their size for AddressSanitizer. */
#include "base/mem.h"
#include "format/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mlxd_why why;

static mlxd_err parse(mlxd_json_doc **doc, const void *text, size_t len, uint32_t depth_max) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    memset(&why, 0, sizeof why);
    *doc = (mlxd_json_doc *)1;
    mlxd_err err = mlxd_json_parse(doc, (mlxd_slice){copy, len}, depth_max, &why);
    free(copy); /* the document must not need it any more */
    if (err)
        assert_null(*doc);
    return err;
}

static mlxd_json_doc *parse_ok(const char *text) {
    mlxd_json_doc *doc;
    if (parse(&doc, text, strlen(text), MLXD_LIMIT_JSON_DEPTH) != MLXD_OK)
        fail_msg("%s: refused: %s", text, why.text);
    return doc;
}

/* Writes what was read with the writer: shows structure, values and order. */
static void rewrite(mlxd_jsonw *w, const mlxd_json *v) {
    mlxd_slice s;
    int64_t i;
    double d;
    bool b;
    switch (mlxd_json_get_kind(v)) {
    case MLXD_JSON_NULL:
        mlxd_jsonw_null(w);
        return;
    case MLXD_JSON_BOOL:
        assert_int_equal(mlxd_json_get_bool(v, &b), MLXD_OK);
        mlxd_jsonw_bool(w, b);
        return;
    case MLXD_JSON_INT:
    case MLXD_JSON_DOUBLE:
        if (mlxd_json_get_int64(v, &i) == MLXD_OK) {
            mlxd_jsonw_int(w, i);
        } else {
            assert_int_equal(mlxd_json_get_double(v, &d), MLXD_OK);
            mlxd_jsonw_double(w, d);
        }
        return;
    case MLXD_JSON_STRING:
        assert_int_equal(mlxd_json_get_str(v, &s), MLXD_OK);
        assert_int_equal(strlen((const char *)s.data), s.len);
        mlxd_jsonw_slice(w, s);
        return;
    case MLXD_JSON_ARRAY:
        mlxd_jsonw_array_begin(w);
        for (size_t k = 0; k < mlxd_json_count(v); k++)
            rewrite(w, mlxd_json_at(v, k));
        mlxd_jsonw_array_end(w);
        return;
    case MLXD_JSON_OBJECT:
        mlxd_jsonw_object_begin(w);
        for (const mlxd_json *m = mlxd_json_first(v, &s); m; m = mlxd_json_next(v, m, &s)) {
            assert_ptr_equal(mlxd_json_find(v, (const char *)s.data), m);
            mlxd_jsonw_key_slice(w, s);
            rewrite(w, m);
        }
        mlxd_jsonw_object_end(w);
        return;
    }
    fail_msg("a kind that is none");
}

static void expect_rewritten(const char *text, const char *expected) {
    mlxd_json_doc *doc = parse_ok(text);
    mlxd_buf b;
    mlxd_jsonw w;
    mlxd_buf_init(&b, 0);
    mlxd_jsonw_init(&w, &b);
    rewrite(&w, mlxd_json_root(doc));
    assert_true(mlxd_jsonw_done(&w));
    assert_string_equal(mlxd_buf_str(&b), expected);
    mlxd_buf_deinit(&b);
    mlxd_json_close(doc);
}

static void test_accepted(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"null", "null"},
        {" \t\r\n true \n", "true"},
        {"false", "false"},
        {"0", "0"},
        {"-0", "0"},
        {"-0.0", "-0"},
        {"9223372036854775807", "9223372036854775807"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"1.5", "1.5"},
        {"0.1", "0.1"},
        {"1e3", "1000"},
        {"1E+2", "100"},
        {"1e-2", "0.01"},
        {"1e-400", "0"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"\"\"", "\"\""},
        {"\"a/b\\/c\"", "\"a/b/c\""},
        {"\"\\\"\\\\\\b\\f\\n\\r\\t\"", "\"\\\"\\\\\\b\\f\\n\\r\\t\""},
        {"\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"", "\"A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\"\\u0001\\u007f\"", "\"\\u0001\\u007f\""},
        {"\"\xc3\xa9\xf0\x9f\x98\x80\"", "\"\xc3\xa9\xf0\x9f\x98\x80\""},
        {"[]", "[]"},
        {"[ ]", "[]"},
        {"{ }", "{}"},
        {"[1,[2,[]],{}]", "[1,[2,[]],{}]"},
        {"{\"b\":[1,2],\"a\":{\"b\":null},\"\":0}", "{\"b\":[1,2],\"a\":{\"b\":null},\"\":0}"},
        {"[0,1,2,3,4,5,6,7,8,9,[10,[]],{}]", "[0,1,2,3,4,5,6,7,8,9,[10,[]],{}]"},
        {"{\"i\":1,\"h\":2,\"g\":[],\"f\":[3,{}],\"e\":4,\"d\":5,\"c\":6,\"b\":7,\"a\":8,\"\":9}",
         "{\"i\":1,\"h\":2,\"g\":[],\"f\":[3,{}],\"e\":4,\"d\":5,\"c\":6,\"b\":7,\"a\":8,\"\":9}"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++)
        expect_rewritten(cases[i].text, cases[i].expected);
}

struct refusal {
    const char *text, *expected;
};

static const struct refusal refusals[] = {
    {"", "offset 0: empty text, expected a JSON value"},
    {" \n ", "offset 3: empty text, expected a JSON value"},
    {"\xEF\xBB\xBF{}", "offset 0: byte order mark, expected a JSON value"},
    {"{", "offset 1: the text ends, expected a key in double quotes"},
    {"[", "offset 1: the text ends, expected a value"},
    {"[1", "offset 2: the text ends, expected ',' or ']'"},
    {"[1,]", "offset 3: got ], expected a value"},
    {"[,1]", "offset 1: got ,, expected a value"},
    {"[1 2]", "offset 3: got 2, expected ',' or ']'"},
    {"[1}", "offset 2: got }, expected ',' or ']'"},
    {"{\"a\":1]", "offset 6: got ], expected ',' or '}'"},
    {"{\"a\":1,}", "offset 7: got }, expected a key in double quotes"},
    {"{\"a\" 1}", "offset 5: got 1, expected ':' behind the key"},
    {"{\"a\"}", "offset 4: got }, expected ':' behind the key"},
    {"{\"a\":}", "offset 5: got }, expected a value"},
    {"{a:1}", "offset 1: got a, expected a key in double quotes"},
    {"{'a':1}", "offset 1: got ', expected a key in double quotes"},
    {"['a']", "offset 1: got ', expected a value"},
    {"{1:1}", "offset 1: got 1, expected a key in double quotes"},
    {"1 2", "offset 2: got 2, expected the end of the text"},
    {"{} x", "offset 3: got x, expected the end of the text"},
    {"[]]", "offset 2: got ], expected the end of the text"},
    {"// x\n1", "offset 0: got /, expected a value"},
    {"nul", "offset 0: got n, expected a value"},
    {"True", "offset 0: got T, expected a value"},
    {"truex", "offset 4: got x, expected the end of the text"},
    {"NaN", "offset 0: got N, expected a value"},
    {"-Infinity", "offset 1: got I, expected a digit"},
    {"[\x01]", "offset 1: got byte 0x01, expected a value"},
    {"\xc3\xa9", "offset 0: got byte 0xc3, expected a value"},
    {"+1", "offset 0: got +, expected a value"},
    {".5", "offset 0: got ., expected a value"},
    {"-", "offset 1: the text ends, expected a digit"},
    {"01", "offset 0: number with a leading zero"},
    {"-012", "offset 1: number with a leading zero"},
    {"0x10", "offset 1: got x, expected the end of the text"},
    {"1.", "offset 2: the text ends, expected a digit behind the decimal point"},
    {"1.e1", "offset 2: got e, expected a digit behind the decimal point"},
    {"1e", "offset 2: the text ends, expected a digit of the exponent"},
    {"1e+", "offset 3: the text ends, expected a digit of the exponent"},
    {"[1e999]", "offset 1: number beyond the range of double"},
    {"-1e309", "offset 0: number beyond the range of double"},
    {"\"", "offset 0: the string that begins here has no end"},
    {"[\"abc", "offset 1: the string that begins here has no end"},
    {"\"a\nb\"", "offset 2: control byte 0x0a in a string, expected an escape"},
    {"\"\\x41\"", "offset 1: unknown escape in a string"},
    {"\"\\'\"", "offset 1: unknown escape in a string"},
    {"\"\\", "offset 1: unknown escape in a string"},
    {"\"\\u12\"", "offset 1: \\u without four hexadecimal digits"},
    {"\"\\u12g4\"", "offset 1: \\u without four hexadecimal digits"},
    {"\"a\\u0000\"", "offset 2: \\u0000 is not accepted"},
    {"{\"\\u0000\":1}", "offset 2: \\u0000 is not accepted"},
    {"\"\\ud800\"", "offset 1: lone surrogate \\ud800"},
    {"\"\\udc00\"", "offset 1: lone surrogate \\udc00"},
    {"\"\\ud83dx\"", "offset 1: lone surrogate \\ud83d"},
    {"\"\\ud83d\\u0041\"", "offset 1: lone surrogate \\ud83d"},
    {"\"\\ud83d\\ud83d\"", "offset 1: lone surrogate \\ud83d"},
    {"\"\xff\"", "offset 1: byte 0xff is not valid UTF-8"},
    {"\"\xc0\x80\"", "offset 1: byte 0xc0 is not valid UTF-8"},
    {"\"a\xed\xa0\x80\"", "offset 2: byte 0xed is not valid UTF-8"},
    {"\"\xf4\x90\x80\x80\"", "offset 1: byte 0xf4 is not valid UTF-8"},
    {"\"\xe2\x82\"", "offset 1: byte 0xe2 is not valid UTF-8"},
    {"{\"a\":1,\"a\":2}", "offset 7: duplicate key \"a\""},
    {"{\"a\":1, \"\\u0061\":2}", "offset 8: duplicate key \"a\""},
    {"[{\"x\":{\"\":1,\"\":1}}]", "offset 12: duplicate key \"\""},
    {"{\"a\":0,\"b\":0,\"c\":0,\"d\":0,\"e\":0,\"f\":0,\"g\":0,\"h\":0,\"i\":0,\"d\":0}",
     "offset 55: duplicate key \"d\""},
};

static void test_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(refusals); i++) {
        mlxd_json_doc *doc;
        const struct refusal *r = &refusals[i];
        mlxd_err err = parse(&doc, r->text, strlen(r->text), MLXD_LIMIT_JSON_DEPTH);
        if (err != MLXD_ERR_DATA || strcmp(why.text, r->expected) != 0)
            fail_msg("%s: %s, \"%s\", expected \"%s\"", r->text, mlxd_err_name(err), why.text,
                     r->expected);
    }
    mlxd_json_doc *doc;
    assert_int_equal(parse(&doc, "1\0", 2, 8), MLXD_ERR_DATA);
    assert_string_equal(why.text, "offset 1: got byte 0x00, expected the end of the text");
    assert_int_equal(parse(&doc, "\"a\0b\"", 5, 8), MLXD_ERR_DATA);
    assert_string_equal(why.text, "offset 2: control byte 0x00 in a string, expected an escape");
}

/* A text cut anywhere is refused (never read beyond its end), as is one with a byte replaced by
 * something that can stand nowhere. */
static void test_cut_and_damaged(void **state) {
    (void)state;
    static const char text[] =
        "{\"m\":[{\"r\":\"u\\ud83d\\ude00\xc3\xa9\",\"n\":-1.25e+3},[],null],"
        "\"s\":true,\"t\":{\"x\":[false]}}";
    size_t len = sizeof text - 1;
    mlxd_json_doc *doc;
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(parse(&doc, text, cut, 8), MLXD_ERR_DATA);
    for (size_t at = 0; at < len; at++) {
        char copy[sizeof text];
        memcpy(copy, text, sizeof text);
        copy[at] = '\x02';
        assert_int_equal(parse(&doc, copy, len, 8), MLXD_ERR_DATA);
    }
    assert_int_equal(parse(&doc, text, len, 8), MLXD_OK);
    mlxd_json_close(doc);
}

static void test_random_damage(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\":[1,2.5,\"x\\n\\u0041\",{\"b\":[],\"c\":null}],\"d\":[0,1,2,3,"
        "4,5,6,7,8,9],\"e\":{\"0\":0,\"1\":1,\"2\":2}}";
    static const char bytes[] = "{}[]\",:\\u0e.-19 ta\xff";
    uint32_t seed = 20261123;
    print_message("seed %u\n", seed);
    for (int round = 0; round < 50000; round++) {
        char copy[sizeof text];
        memcpy(copy, text, sizeof text);
        for (int k = 0; k < 3; k++) {
            seed = seed * 1664525 + 1013904223;
            copy[(seed >> 8) % (sizeof text - 1)] = bytes[(seed >> 20) % (sizeof bytes - 1)];
        }
        mlxd_json_doc *doc;
        if (parse(&doc, copy, sizeof text - 1, 8) != MLXD_OK)
            continue;
        mlxd_buf b;
        mlxd_jsonw w;
        mlxd_buf_init(&b, 0);
        mlxd_jsonw_init(&w, &b);
        rewrite(&w, mlxd_json_root(doc));
        mlxd_json_close(doc);
        doc = parse_ok(mlxd_buf_str(&b)); /* what we write we accept */
        mlxd_json_close(doc);
        mlxd_buf_deinit(&b);
    }
}

static void test_depth(void **state) {
    (void)state;
    mlxd_json_doc *doc;
    static const struct {
        const char *text;
        uint32_t depth_max;
        mlxd_err err;
    } cases[] = {
        {"1", 0, MLXD_OK},           {"[]", 0, MLXD_ERR_RANGE},         {"[]", 1, MLXD_OK},
        {"[{}]", 1, MLXD_ERR_RANGE}, {"[{},[],{\"a\":1}]", 2, MLXD_OK},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        assert_int_equal(parse(&doc, cases[i].text, strlen(cases[i].text), cases[i].depth_max),
                         cases[i].err);
        mlxd_json_close(doc);
    }
    char deep[20000];
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    assert_int_equal(parse(&doc, deep, sizeof deep, MLXD_LIMIT_JSON_DEPTH), MLXD_ERR_RANGE);
    assert_string_equal(why.text, "offset 64: nested deeper than 64 levels");
    assert_int_equal(parse(&doc, deep + 10000 - 64, 128, MLXD_LIMIT_JSON_DEPTH), MLXD_OK);
    mlxd_json_close(doc);
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        mlxd_json_kind kind;
        mlxd_err int64, integral;
        int64_t value;
        double number;
    } cases[] = {
        {"5", MLXD_JSON_INT, MLXD_OK, MLXD_OK, 5, 5},
        {"1.0", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_OK, 1, 1},
        {"-2e3", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_OK, -2000, -2000},
        {"1.5", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_ERR_INVALID, 0, 1.5},
        {"1e300", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_ERR_RANGE, 0, 1e300},
        {"9223372036854775807", MLXD_JSON_INT, MLXD_OK, MLXD_OK, INT64_MAX, 0x1p63},
        {"9223372036854775808", MLXD_JSON_INT, MLXD_ERR_RANGE, MLXD_ERR_RANGE, 0, 0x1p63},
        {"-9223372036854775809", MLXD_JSON_INT, MLXD_ERR_RANGE, MLXD_ERR_RANGE, 0, -0x1p63},
        {"9223372036854775808.0", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_ERR_RANGE, 0, 0x1p63},
        {"-9223372036854775808.0", MLXD_JSON_DOUBLE, MLXD_ERR_INVALID, MLXD_OK, INT64_MIN, -0x1p63},
        {"100000000000000000000", MLXD_JSON_INT, MLXD_ERR_RANGE, MLXD_ERR_RANGE, 0, 1e20},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_json_doc *doc = parse_ok(cases[i].text);
        const mlxd_json *v = mlxd_json_root(doc);
        int64_t a = 77, b = 77;
        double d;
        assert_int_equal(mlxd_json_get_kind(v), cases[i].kind);
        assert_int_equal(mlxd_json_get_int64(v, &a), cases[i].int64);
        assert_true(a == (cases[i].int64 ? 77 : cases[i].value));
        assert_int_equal(mlxd_json_get_integral(v, &b), cases[i].integral);
        assert_true(b == (cases[i].integral ? 77 : cases[i].value));
        assert_int_equal(mlxd_json_get_double(v, &d), MLXD_OK);
        assert_true(d == cases[i].number);
        mlxd_json_close(doc);
    }
    char digits[2000];
    memset(digits, '1', sizeof digits);
    mlxd_json_doc *doc;
    assert_int_equal(parse(&doc, digits, sizeof digits, 1), MLXD_ERR_DATA);
    assert_string_equal(why.text, "offset 0: number of 2000 bytes, expected <= 1024");
}

static void test_access(void **state) {
    (void)state;
    mlxd_json_doc *doc = parse_ok("{\"s\":\"text\",\"n\":null,\"b\":true,\"a\":[1,\"x\"]}");
    const mlxd_json *o = mlxd_json_root(doc), *v;
    mlxd_slice s, key;
    bool b;
    int64_t i;
    double d;
    assert_int_equal(mlxd_json_count(o), 4);
    assert_null(mlxd_json_find(o, "missing"));
    assert_null(mlxd_json_find(o, ""));
    v = mlxd_json_find(o, "n"); /* present and null is not the same as absent */
    assert_non_null(v);
    assert_int_equal(mlxd_json_get_kind(v), MLXD_JSON_NULL);
    assert_int_equal(mlxd_json_get_bool(v, &b), MLXD_ERR_INVALID);
    v = mlxd_json_find(o, "s");
    assert_true(mlxd_json_is_str(v, "text"));
    assert_false(mlxd_json_is_str(v, "tex"));
    assert_int_equal(mlxd_json_get_int64(v, &i), MLXD_ERR_INVALID);
    assert_int_equal(mlxd_json_get_integral(v, &i), MLXD_ERR_INVALID);
    assert_int_equal(mlxd_json_get_double(v, &d), MLXD_ERR_INVALID);
    v = mlxd_json_find(o, "b");
    assert_int_equal(mlxd_json_get_bool(v, &b), MLXD_OK);
    assert_true(b);
    assert_int_equal(mlxd_json_get_str(v, &s), MLXD_ERR_INVALID);
    assert_false(mlxd_json_is_str(v, "true"));
    v = mlxd_json_find(o, "a");
    assert_true(mlxd_json_is_str(mlxd_json_at(v, 1), "x"));
    assert_ptr_equal(mlxd_json_first(v, &key), mlxd_json_at(v, 0));
    assert_int_equal(key.len, 0);
    assert_ptr_equal(mlxd_json_next(v, mlxd_json_at(v, 0), NULL), mlxd_json_at(v, 1));
    assert_null(mlxd_json_next(v, mlxd_json_at(v, 1), NULL));
    assert_string_equal(mlxd_json_kind_name(mlxd_json_get_kind(v)), "array");
    mlxd_json_close(doc);
    mlxd_json_close(NULL);
}

/* 10^5 keys in one object, all with the same long beginning, are no work; neither is finding each
 * of them. The second half of the test repeats the first key at the end. */
static void test_many_keys(void **state) {
    (void)state;
    enum { N = 100000 };
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    mlxd_buf_add_byte(&b, '{');
    for (int i = 0; i < N; i++)
        mlxd_buf_addf(&b, "\"a_long_common_beginning_%05d\":%d,", i * 7919 % N, i);
    b.data[b.len - 1] = '}';
    mlxd_json_doc *doc;
    assert_int_equal(parse(&doc, b.data, b.len, 1), MLXD_OK);
    for (int i = 0; i < N; i++) {
        char key[64];
        int64_t v;
        snprintf(key, sizeof key, "a_long_common_beginning_%05d", i * 7919 % N);
        const mlxd_json *m = mlxd_json_find(mlxd_json_root(doc), key);
        assert_non_null(m);
        assert_int_equal(mlxd_json_get_int64(m, &v), MLXD_OK);
        assert_int_equal(v, i);
    }
    mlxd_json_close(doc);
    b.data[b.len - 1] = ',';
    mlxd_buf_add_str(&b, "\"a_long_common_beginning_00000\":0}");
    assert_int_equal(parse(&doc, b.data, b.len, 1), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "duplicate key \"a_long_common_beginning_00000\""));
    mlxd_buf_deinit(&b);
}

static void test_too_many_values(void **state) {
    (void)state;
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    mlxd_buf_add_byte(&b, '[');
    for (unsigned i = 0; i < MLXD_LIMIT_JSON_VALUES; i++)
        mlxd_buf_add_str(&b, "[],");
    b.data[b.len - 1] = ']';
    mlxd_json_doc *doc;
    assert_int_equal(parse(&doc, b.data, b.len, 2), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "more than 1048576 values"));
    b.data[b.len - 4] = ']';
    assert_int_equal(parse(&doc, b.data, b.len - 3, 2), MLXD_OK);
    assert_int_equal(mlxd_json_count(mlxd_json_root(doc)), MLXD_LIMIT_JSON_VALUES - 1);
    mlxd_json_close(doc);
    mlxd_buf_deinit(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_and_damaged), cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_depth),           cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_access),          cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_too_many_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
