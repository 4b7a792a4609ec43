/* test_regex.c - expressions of tokenizer.json in Oniguruma's syntax: what they match (Hugging Face
 * tokenizers 0.23 gave the expected cuts), what is refused, and that no text takes for ever; and
 * the normal forms of unicode.c. */
#include "model/regex.h"
#include "model/unicode.h"

#include "format/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* Two bits say how: interpreted, linear. */
static mlxd_regex *open_regex(const char *pattern, size_t how) {
    mlxd_regex *r;
    mlxd_why why = {{0}};
    mlxd_regex_options options = {.interpreted = how & 1, .linear = how & 2};
    if (mlxd_regex_open(&r, mlxd_slice_str(pattern), options, &why))
        fail_msg("%s", why.text);
    return r;
}

/* Matches in brackets, the rest as it is. */
static void mark(const mlxd_regex *r, const char *text, mlxd_buf *out) {
    mlxd_regex_work *w = mlxd_regex_work_open(strlen(text));
    mlxd_slice s = mlxd_slice_str(text);
    assert_non_null(w);
    mlxd_buf_clear(out);
    size_t at = 0;
    for (;;) {
        mlxd_regex_match m;
        bool found;
        mlxd_why why = {{0}};
        if (mlxd_regex_next(r, w, s, at, &m, &found, &why))
            fail_msg("%s", why.text);
        if (!found || m.start == m.end)
            break;
        mlxd_buf_add(out, s.data + at, m.start - at);
        mlxd_buf_add_byte(out, '[');
        mlxd_buf_add(out, s.data + m.start, m.end - m.start);
        mlxd_buf_add_byte(out, ']');
        at = m.end;
    }
    mlxd_buf_add(out, s.data + at, s.len - at);
    mlxd_regex_work_close(w);
}

static void reads_as_oniguruma_does(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text, *marked;
    } cases[] = {
        {"(?i:'s|'t)", "a'\u017fx'Sx'sK", "a['\u017f]x['S]x['s]K"},
        {"\\p{N}{1,3}+", "a1234567b", "a[1234567]b"}, /* not possessive: any number of threes */
        {"\\p{N}{,2}3", "a1234b", "a[123]4b"},
        {"a{1,2}?b", "aab", "[aab]"},
        {"x{a}", "x{a} xa", "[x{a}] xa"},
        {"\\w+", "a\u24b6b\u0301 _x\u200dy\u2160\u00bd\u0663",
         "[a\u24b6b\u0301] [_x]\u200d[y\u2160\u00bd\u0663]"},
        {"\\s+", "a\u180e\302\205\u200b\u00a0b", "a\u180e[\302\205]\u200b[\u00a0]b"},
        {"[^\\s]+", "a\u180e b", "[a\u180e] [b]"},
        {"[\\S]+", "a\u180e b", "[a\u180e] [b]"},
        {"\\h+", "xaFg", "x[aF]g"},
        {"\\v", "a\x0b\n", "a[\x0b]\n"},
        {"^a", "a\na", "[a]\n[a]"},
        {"a$", "a\na\n", "[a]\n[a]\n"},
        {".+", "ab\ncd\r\n", "[ab]\n[cd\r]\n"},
        {"\\p{Han}+", "\u3001\u3005\u3007\u6f22\u5b57\u30fc",
         "\u3001[\u3005\u3007\u6f22\u5b57]\u30fc"},
        {"\\p{^L}+", "a1-b", "a[1-]b"},
        {"\\P{L}+", "a1-b", "a[1-]b"},
        {"\\bfoo\\b", "foo foox \u00e9foo foo", "[foo] foox \u00e9foo [foo]"},
        {"[\\x{41}-\\u005A&]+", "aBC&d", "a[BC&]d"},
        {"[a-c\\]\\-]+", "xa]-d", "x[a]-]d"},
        {"a++b|a+", "aac", "[aa]c"},
        {"(?<=a)b(?!c)", "ab abc bb", "a[b] abc bb"},
        {"\xe4\xb8\x96+", "a\u4e16\u4e16", "a[\u4e16\u4e16]"},
        {"(a|b)+?c", "abac", "[abac]"},
        {"(?i)ab|C", "aBc", "[aB][c]"},
        {"}]", "a}]", "a[}]]"},
    };
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < 4 * MLXD_COUNT_OF(cases); i++) {
        mlxd_regex *r = open_regex(cases[i / 4].pattern, i % 4);
        mark(r, cases[i / 4].text, &out);
        if (strcmp(mlxd_buf_str(&out), cases[i / 4].marked) != 0)
            fail_msg("%s: %s, expected %s", cases[i / 4].pattern, mlxd_buf_str(&out),
                     cases[i / 4].marked);
        mlxd_regex_close(r);
    }
    mlxd_buf_deinit(&out);
}

static void what_is_not_known_is_refused(void **state) {
    (void)state;
    static const char *const patterns[] = {
        "[a[bc]]", "[[:alpha:]]", "[a&&b]",    "\\R",      "\\X",      "\\K",     "\\G",
        "\\pL",    "a{2}?",       "(?m:a.b)",  "(?x)a",    "a(?i)b|c", "(?<n>a)", "(?~a)",
        "(?#a)",   "\\1",         "(a)\\k<1>", "[]a]",     "[a",       "(a",      "a)",
        "*a",      "|*",          "\\",        "\\p{Foo}", "\\p{L",    "\\xe9",   "\\x{d800}",
        "\\u12",   "[\\W]",       "(?<!a*)b",  "",         "\\Qa\\E",  "\\C",     "\\p{Is Han}",
        "\xff"};
    for (size_t i = 0; i < MLXD_COUNT_OF(patterns); i++) {
        mlxd_regex *r;
        mlxd_why why = {{0}};
        mlxd_err err =
            mlxd_regex_open(&r, mlxd_slice_str(patterns[i]), (mlxd_regex_options){0}, &why);
        if (err != MLXD_ERR_UNSUPPORTED && err != MLXD_ERR_DATA)
            fail_msg("%s: error %d", patterns[i], err);
        assert_null(r);
        if (err == MLXD_ERR_UNSUPPORTED && *patterns[i])
            assert_non_null(strstr(why.text, patterns[i]));
    }
}

/* Exponential and quadratic expressions end with an error; a long run alone does not. */
static void steps_are_bounded(void **state) {
    (void)state;
    size_t len = 1u << 20;
    uint8_t *text = malloc(len);
    memset(text, 'a', len);
    static const struct {
        const char *pattern;
        size_t len;
        mlxd_err err;
    } cases[] = {
        {"(?:a|a)*[bc]", 64, MLXD_ERR_INVALID},
        {"(?:a|aa)+[bc]", 256, MLXD_ERR_INVALID},
        {"a*[bc]\\z", 1u << 20, MLXD_ERR_INVALID}, /* quadratic: every start goes to the end */
        {"a*[b]|a+(?!a)|a", 1u << 20, MLXD_OK},
    };
    for (size_t i = 0; i < 2 * MLXD_COUNT_OF(cases); i++) {
        mlxd_regex *r = open_regex(cases[i / 2].pattern, i % 2);
        mlxd_regex_work *w = mlxd_regex_work_open(cases[i / 2].len);
        mlxd_regex_match m;
        mlxd_why why = {{0}};
        bool found;
        clock_t begin = clock();
        mlxd_err err =
            mlxd_regex_next(r, w, (mlxd_slice){text, cases[i / 2].len}, 0, &m, &found, &why);
        print_message("%s, interpreted %zu: %s, %.0f ms\n", cases[i / 2].pattern, i % 2, why.text,
                      1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
        assert_int_equal(err, cases[i / 2].err);
        if (err)
            assert_non_null(strstr(why.text, "too many steps"));
        mlxd_regex_work_close(w);
        mlxd_regex_close(r);
    }
    free(text);
}

static void plain_strings(void **state) {
    (void)state;
    mlxd_regex *r;
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    assert_int_equal(mlxd_regex_open_text(&r, mlxd_slice_str("aab"), NULL), MLXD_OK);
    mark(r, "aaab aab a.b aa", &out);
    assert_string_equal(mlxd_buf_str(&out), "a[aab] [aab] a.b aa");
    mark(r, "", &out);
    assert_string_equal(mlxd_buf_str(&out), "");
    mlxd_regex_close(r);
    mlxd_buf_deinit(&out);
}

/* ---- unicode.c ---- */

/* Expected: Python's unicodedata (Unicode 14). */
static void normal_forms(void **state) {
    (void)state;
    static const struct {
        const char *text, *nfc, *nfd, *nfkc;
    } cases[] = {
        {"plain", "plain", "plain", "plain"},
        {"e\u0301", "\u00e9", "e\u0301", "\u00e9"},
        {"\u00e9\u0316", "\u00e9\u0316", "e\u0316\u0301", "\u00e9\u0316"},
        {"a\u0301\u0316b", "\u00e1\u0316b", "a\u0316\u0301b", "\u00e1\u0316b"},
        {"\u212b", "\u00c5", "A\u030a", "\u00c5"},
        {"\u1100\u1161\u11a8", "\uac01", "\u1100\u1161\u11a8", "\uac01"},
        {"\uac00\u11a8", "\uac01", "\u1100\u1161\u11a8", "\uac01"},
        {"\ufb03\u2460\u00bd", "\ufb03\u2460\u00bd", "\ufb03\u2460\u00bd", "ffi11\u20442"},
        {"\u0344", "\u0308\u0301", "\u0308\u0301", "\u0308\u0301"},
        {"\u0915\u093c", "\u0915\u093c", "\u0915\u093c", "\u0915\u093c"},
        {"\u0958", "\u0915\u093c", "\u0915\u093c", "\u0915\u093c"},
        {"\u0301\u0316", "\u0316\u0301", "\u0316\u0301", "\u0316\u0301"},
        {"q\u0307\u0323", "q\u0323\u0307", "q\u0323\u0307", "q\u0323\u0307"},
        {"\u1e0b\u0323", "\u1e0d\u0307", "d\u0323\u0307", "\u1e0d\u0307"},
        {"\u4e16\u3099", "\u4e16\u3099", "\u4e16\u3099", "\u4e16\u3099"},
        {"\u304b\u3099x", "\u304cx", "\u304b\u3099x", "\u304cx"},
    };
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_slice text = mlxd_slice_str(cases[i].text);
        mlxd_buf_clear(&out);
        mlxd_unicode_normalize(text, MLXD_UNICODE_NFC, &out);
        assert_string_equal(mlxd_buf_str(&out), cases[i].nfc);
        mlxd_buf_clear(&out);
        mlxd_unicode_normalize(text, MLXD_UNICODE_NFD, &out);
        assert_string_equal(mlxd_buf_str(&out), cases[i].nfd);
        mlxd_buf_clear(&out);
        mlxd_unicode_normalize(text, MLXD_UNICODE_NFKC, &out);
        assert_string_equal(mlxd_buf_str(&out), cases[i].nfkc);
    }
    mlxd_buf_clear(&out);
    mlxd_unicode_lower(mlxd_slice_str("AB\u00c9\u0130\u03a3\u1e9e1"), &out);
    assert_string_equal(mlxd_buf_str(&out), "ab\u00e9i\u0307\u03c3\u00df1");
    mlxd_buf_deinit(&out);
}

/* A million marks in the wrong order: sorted in n log n, not by swapping neighbours. */
static void long_runs_of_marks(void **state) {
    (void)state;
    size_t pairs = 1u << 18;
    mlxd_buf text, out;
    mlxd_buf_init(&text, 0);
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < pairs; i++)
        mlxd_buf_add_str(&text, "\u0301\u0316");
    clock_t begin = clock();
    mlxd_unicode_normalize((mlxd_slice){text.data, text.len}, MLXD_UNICODE_NFC, &out);
    print_message("%zu marks: %.0f ms\n", 2 * pairs,
                  1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    assert_false(out.failed);
    assert_int_equal(out.len, text.len);
    for (size_t i = 0; i < 2 * pairs; i++)
        assert_memory_equal(out.data + 2 * i, i < pairs ? "\u0316" : "\u0301", 2);
    mlxd_buf_deinit(&text);
    mlxd_buf_deinit(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_as_oniguruma_does),
        cmocka_unit_test(what_is_not_known_is_refused),
        cmocka_unit_test(steps_are_bounded),
        cmocka_unit_test(plain_strings),
        cmocka_unit_test(normal_forms),
        cmocka_unit_test(long_runs_of_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
