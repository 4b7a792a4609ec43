/* test_yaml.c - configuration text: what is read, with which lines, and what is refused. */
#include "base/mem.h"
#include "format/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mlxd_why why;

static mlxd_err parse(mlxd_yaml_doc **doc, const void *text, size_t len) {
    uint8_t *copy = malloc(len ? len : 1); /* exactly its size, for AddressSanitizer */
    assert_non_null(copy);
    memcpy(copy, text, len);
    memset(&why, 0, sizeof why);
    mlxd_err err = mlxd_yaml_parse(doc, (mlxd_slice){copy, len}, "c.yaml", &why);
    free(copy);
    return err;
}

static mlxd_yaml_doc *parse_ok(const char *text) {
    mlxd_yaml_doc *doc;
    if (parse(&doc, text, strlen(text)) != MLXD_OK)
        fail_msg("%s: refused: %s", text, why.text);
    return doc;
}

static void test_tree(void **state) {
    (void)state;
    mlxd_yaml_doc *doc = parse_ok("# a comment\r\n"
                                  "device_id: mini1\n"
                                  "ports:\n"
                                  "  rest: 8100   # REST\n"
                                  "  grpc: \"9100\"\n"
                                  "workers:\n"
                                  "  - id: mini2\n"
                                  "    address: 10.0.0.2:9101\n"
                                  "  - {id: master, address: 'h:1'}\n"
                                  "empty:\n"
                                  "list: [a, b , 1]\n"
                                  "text: |\n"
                                  "  two\n"
                                  "  lines\n"
                                  "k\xc3\xa9y: \xe2\x82\xac\n");
    const mlxd_yaml *root = mlxd_yaml_root(doc), *v, *w;
    assert_int_equal(mlxd_yaml_get_kind(root), MLXD_YAML_MAPPING);
    assert_int_equal(mlxd_yaml_count(root), 7);
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_key_at(root, 1)), "ports");
    assert_int_equal(mlxd_yaml_get_line(mlxd_yaml_key_at(root, 1)), 3);
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(root, "device_id")), "mini1");
    assert_int_equal(mlxd_yaml_get_line(mlxd_yaml_find(root, "device_id")), 2);

    v = mlxd_yaml_find(root, "ports");
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(v, "rest")), "8100");
    assert_false(mlxd_yaml_is_quoted(mlxd_yaml_find(v, "rest")));
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(v, "grpc")), "9100");
    assert_true(mlxd_yaml_is_quoted(mlxd_yaml_find(v, "grpc")));
    assert_null(mlxd_yaml_find(v, "workers"));

    v = mlxd_yaml_find(root, "workers");
    assert_int_equal(mlxd_yaml_get_kind(v), MLXD_YAML_SEQUENCE);
    assert_int_equal(mlxd_yaml_count(v), 2);
    w = mlxd_yaml_at(v, 1);
    assert_int_equal(mlxd_yaml_get_line(w), 9);
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_at(w, 0)), "master");
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(w, "address")), "h:1");
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(mlxd_yaml_at(v, 0), "address")),
                        "10.0.0.2:9101");

    v = mlxd_yaml_find(root, "empty");
    assert_string_equal(mlxd_yaml_get_text(v), "");
    assert_false(mlxd_yaml_is_quoted(v));
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_at(mlxd_yaml_find(root, "list"), 1)), "b");
    v = mlxd_yaml_find(root, "text");
    assert_string_equal(mlxd_yaml_get_text(v), "two\nlines\n");
    assert_true(mlxd_yaml_is_quoted(v));
    assert_string_equal(mlxd_yaml_get_text(mlxd_yaml_find(root, "k\xc3\xa9y")), "\xe2\x82\xac");

    assert_int_equal(mlxd_yaml_fail(v, &why, "%d is not a text", 7), MLXD_ERR_CONFIG);
    assert_string_equal(why.text, "c.yaml:12: 7 is not a text");
    mlxd_yaml_close(doc);
    mlxd_yaml_close(NULL);
}

static void test_empty_files(void **state) {
    (void)state;
    static const char *const texts[] = {"", "\n\n", "# only a comment\n", "---\n", "--- \n...\n"};
    for (size_t i = 0; i < MLXD_COUNT_OF(texts); i++) {
        mlxd_yaml_doc *doc = parse_ok(texts[i]);
        assert_int_equal(mlxd_yaml_get_kind(mlxd_yaml_root(doc)), MLXD_YAML_MAPPING);
        assert_int_equal(mlxd_yaml_count(mlxd_yaml_root(doc)), 0);
        assert_null(mlxd_yaml_find(mlxd_yaml_root(doc), "x"));
        mlxd_yaml_close(doc);
    }
}

static const struct {
    const char *text, *expected;
} refusals[] = {
    {"a: 1\nb: 2\na: 3\n", "c.yaml:3: duplicate key \"a\", first on line 1"},
    {"m:\n  x: 1\n  'x': 2\n", "c.yaml:3: duplicate key \"x\", first on line 2"},
    {"a: &anchor 1\n", "c.yaml:1: anchor &anchor, anchors are not accepted"},
    {"a: 1\nb: *other\n", "c.yaml:2: alias *other, aliases are not accepted"},
    {"a: &m\n  x: 1\n", "c.yaml:1: anchor &m, anchors are not accepted"},
    {"\na: &l [1]\n", "c.yaml:2: anchor &l, anchors are not accepted"},
    {"a: !!int 5\n", "c.yaml:1: tag tag:yaml.org,2002:int, tags are not accepted"},
    {"a: ! x\n", "c.yaml:1: tag !, tags are not accepted"},
    {"a: !!map {}\n", "c.yaml:1: tag tag:yaml.org,2002:map, tags are not accepted"},
    {"a: 1\n---\nb: 2\n", "c.yaml:2: a second document begins, expected one"},
    {"%YAML 1.1\n---\na: 1\n", "c.yaml:1: directives (%...) are not accepted"},
    {"- a\n- b\n", "c.yaml:1: a sequence, expected a mapping (\"key: value\" lines)"},
    {"just text\n", "c.yaml:1: a scalar, expected a mapping (\"key: value\" lines)"},
    {"''\n", "c.yaml:1: a scalar, expected a mapping (\"key: value\" lines)"},
    {"a: 1\n[x]: 2\n", "c.yaml:2: a sequence as a key, expected text"},
    {"? {x: 1}\n: 2\n", "c.yaml:1: a mapping as a key, expected text"},
    {"a: \"x\\0y\"\n", "c.yaml:1: NUL character in a text"},
    {"\xEF\xBB\xBF"
     "a: 1\n",
     "c.yaml:1: byte order mark, remove it"},
    {"\xFF\xFE"
     "a",
     "c.yaml:1: UTF-16 text, expected UTF-8"},
    {"\xFE\xFF", "c.yaml:1: UTF-16 text, expected UTF-8"},
    {"a: 1\nb: \xff\n", "c.yaml:2: byte 0xff is not valid UTF-8"},
    {"a: 1\nb: 2\nc: \x07\n", "c.yaml:3: control character U+0007"},
    {"a: \xc2\x80\n", "c.yaml:1: control character U+0080"},
};

static void test_refused(void **state) {
    (void)state;
    mlxd_yaml_doc *doc;
    for (size_t i = 0; i < MLXD_COUNT_OF(refusals); i++) {
        doc = (mlxd_yaml_doc *)1;
        mlxd_err err = parse(&doc, refusals[i].text, strlen(refusals[i].text));
        if (err != MLXD_ERR_CONFIG || strcmp(why.text, refusals[i].expected) != 0)
            fail_msg("%s: %s, \"%s\", expected \"%s\"", refusals[i].text, mlxd_err_name(err),
                     why.text, refusals[i].expected);
        assert_null(doc);
    }
    assert_int_equal(parse(&doc, "a: 1\nb\0: 2\n", 12), MLXD_ERR_CONFIG);
    assert_string_equal(why.text, "c.yaml:2: NUL byte (UTF-16?), expected UTF-8 text");
}

/* libyaml words these; the place is ours to promise. */
static void test_syntax_errors_name_the_line(void **state) {
    (void)state;
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"a: 1\nb: [1, 2\nc: 3\n", "c.yaml:3: "}, {"a: 1\n\tb: 2\n", "c.yaml:2: "},
        {"a: 1\n b: 2\n", "c.yaml:2: "},          {"a: 'x\n", "c.yaml:2: "},
        {"a: 1\nb: }\n", "c.yaml:2: "},           {"a: \"\\q\"\n", "c.yaml:1: "},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_yaml_doc *doc;
        assert_int_equal(parse(&doc, cases[i].text, strlen(cases[i].text)), MLXD_ERR_CONFIG);
        if (strncmp(why.text, cases[i].place, strlen(cases[i].place)) != 0)
            fail_msg("%s: \"%s\", expected it to begin with \"%s\"", cases[i].text, why.text,
                     cases[i].place);
    }
}

static void test_limits(void **state) {
    (void)state;
    mlxd_yaml_doc *doc;
    mlxd_buf b;
    for (int deeper = 0; deeper < 2; deeper++) {
        int levels = MLXD_LIMIT_CONFIG_DEPTH - 1 + deeper; /* inside the root mapping */
        mlxd_buf_init(&b, 0);
        mlxd_buf_add_str(&b, "a: ");
        for (int i = 0; i < levels; i++)
            mlxd_buf_add_byte(&b, '[');
        for (int i = 0; i < levels; i++)
            mlxd_buf_add_byte(&b, ']');
        if (deeper) {
            assert_int_equal(parse(&doc, b.data, b.len), MLXD_ERR_CONFIG);
            assert_string_equal(why.text, "c.yaml:1: nested deeper than 16 levels");
        } else {
            assert_int_equal(parse(&doc, b.data, b.len), MLXD_OK);
            mlxd_yaml_close(doc);
        }
        mlxd_buf_deinit(&b);
    }
    mlxd_buf_init(&b, 0);
    while (b.len < MLXD_LIMIT_CONFIG_BYTES)
        mlxd_buf_add_byte(&b, '\n');
    assert_int_equal(parse(&doc, b.data, b.len), MLXD_OK);
    mlxd_yaml_close(doc);
    mlxd_buf_add_byte(&b, '\n');
    assert_int_equal(parse(&doc, b.data, b.len), MLXD_ERR_CONFIG);
    assert_string_equal(why.text, "c.yaml: 1048577 bytes, expected at most 1048576");
    mlxd_buf_deinit(&b);
}

static void test_cut_and_damaged(void **state) {
    (void)state;
    static const char text[] =
        "a: {x: [1, \"t\\u0041\", 'q'], y: |\n  no}\nb:\n  - c: 1\n    d: >\n"
        "     folded\n  - [x, {y: z}]\n\"k\": v # end\n";
    static const char bytes[] = ":-[]{},'\"\n #&*!|>%@?\t\\ a\xff";
    uint32_t seed = 20261123;
    print_message("seed %u\n", seed);
    mlxd_yaml_doc *doc;
    for (size_t cut = 0; cut < sizeof text; cut++)
        if (parse(&doc, text, cut) == MLXD_OK)
            mlxd_yaml_close(doc);
    for (int round = 0; round < 20000; round++) {
        char copy[sizeof text];
        memcpy(copy, text, sizeof text);
        for (int k = 0; k < 3; k++) {
            seed = seed * 1664525 + 1013904223;
            copy[(seed >> 8) % (sizeof text - 1)] = bytes[(seed >> 20) % (sizeof bytes - 1)];
        }
        mlxd_err err = parse(&doc, copy, sizeof text - 1);
        assert_true(err == MLXD_OK || err == MLXD_ERR_CONFIG);
        if (err == MLXD_OK)
            mlxd_yaml_close(doc);
        else
            assert_memory_equal(why.text, "c.yaml:", 7);
    }
}

/* Many keys and many items: access by index and by key stays cheap. */
static void test_many_keys(void **state) {
    (void)state;
    enum { N = 20000 };
    mlxd_buf b;
    mlxd_yaml_doc *doc;
    mlxd_buf_init(&b, 0);
    for (int i = 0; i < N; i++)
        mlxd_buf_addf(&b, "a_common_beginning_%05d: %d\n", i * 7919 % N, i);
    assert_int_equal(parse(&doc, b.data, b.len), MLXD_OK);
    const mlxd_yaml *root = mlxd_yaml_root(doc);
    assert_int_equal(mlxd_yaml_count(root), N);
    for (size_t i = 0; i < N; i++) {
        const char *key = mlxd_yaml_get_text(mlxd_yaml_key_at(root, i));
        assert_ptr_equal(mlxd_yaml_find(root, key), mlxd_yaml_at(root, i));
        assert_int_equal(mlxd_yaml_get_line(mlxd_yaml_at(root, i)), i + 1);
    }
    mlxd_yaml_close(doc);
    mlxd_buf_deinit(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),      cmocka_unit_test(test_empty_files),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_syntax_errors_name_the_line),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_cut_and_damaged),
        cmocka_unit_test(test_many_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
