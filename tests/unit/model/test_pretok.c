/* test_pretok.c - where text is cut. Most of the proof is in the goldens of test_tokenizer.c; here
 * are the cuts themselves, in the places where engines for regular expressions disagree, and the
 * texts that make such engines slow. */
#include "model/pretok.h"

#include "base/mem.h"
#include "format/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void open_pretok(mlxd_pretok *p, const char *name, bool jit) {
    mlxd_why why = {{0}};
    mlxd_pretok_family family;
    *p = (mlxd_pretok){0};
    if (mlxd_pretok_add_named(p, mlxd_slice_str(name), jit, &family, &why))
        fail_msg("%s", why.text);
}

static mlxd_err add_word(void *ctx, mlxd_slice word) {
    mlxd_buf *out = ctx;
    assert_true(word.len > 0);
    mlxd_buf_add(out, word.data, word.len);
    mlxd_buf_add_byte(out, '|');
    return MLXD_OK;
}

static mlxd_err count_word(void *ctx, mlxd_slice word) {
    (void)word;
    ++*(size_t *)ctx;
    return MLXD_OK;
}

static mlxd_err run(const mlxd_pretok *p, mlxd_slice text, bool first, mlxd_pretok_sink sink,
                    void *ctx, mlxd_why *why) {
    mlxd_pretok_work w;
    mlxd_regex_work *regex = mlxd_regex_work_open(text.len);
    assert_non_null(regex);
    mlxd_pretok_work_init(&w, regex);
    mlxd_err err = mlxd_pretok_run(p, &w, text, first, sink, ctx, why);
    mlxd_pretok_work_deinit(&w);
    mlxd_regex_work_close(regex);
    return err;
}

/* The pre-tokens of `text`, each followed by "|" (no test text holds one). */
static void cut(const mlxd_pretok *p, mlxd_slice text, mlxd_buf *out) {
    mlxd_why why = {{0}};
    if (run(p, text, true, add_word, out, &why))
        fail_msg("%s", why.text);
}

static void known_cuts(void **state) {
    (void)state;
    static const struct {
        const char *text, *gpt2, *smollm;
    } cases[] = {
        {"Hello, world!", "Hello|,| world|!|", "Hello|,| world|!|"},
        {"it's IT'S we'll we'LL 's", "it|'s| IT|'|S| we|'ll| we|'|LL| '|s|",
         "it|'s| IT|'|S| we|'ll| we|'|LL| '|s|"},
        {"a  b   ", "a| | b|   |", "a| | b|   |"},
        {"12 345", "12| 345|", "1|2| |3|4|5|"},
        {"a  1", "a| | 1|", "a|  |1|"}, /* a digit ends the blanks as the end of the text does */
        {"a \n1", "a| |\n|1|", "a| \n|1|"},
        {"x2y", "x|2|y|", "x|2|y|"},
        {"½Ⅳ②", "½Ⅳ②|", "½|Ⅳ|②|"}, /* \p{No}, \p{Nl}: all of N is a digit */
        {" ½", " ½|", " |½|"},
        {"\n\n x", "\n\n| x|", "\n\n| x|"},
        {"\t\tx", "\t|\t|x|", "\t|\t|x|"},
        {"a\u00a0\u00a0b", "a|\u00a0|\u00a0|b|", "a|\u00a0|\u00a0|b|"},
        {"a\u180e b", "a|\u180e| b|", "a|\u180e| b|"}, /* no White_Space since Unicode 6.3 */
        {" \u180e\u180ea", " \u180e\u180e|a|", " \u180e\u180e|a|"},
        {"a\302\205\302\205b", "a|\302\205|\302\205|b|", "a|\302\205|\302\205|b|"}, /* U+0085 */
        {"a\034\034b", "a|\034\034|b|", "a|\034\034|b|"}, /* white space to Python only */
        {"e\u0301e", "e|\u0301|e|", "e|\u0301|e|"},
        {"你好，世界", "你好|，|世界|", "你好|，|世界|"},
        {" 😀😀!", " 😀😀!|", " 😀😀!|"},
        {"", "", ""},
    };
    for (int jit = 0; jit < 2; jit++) {
        mlxd_pretok gpt2, smollm;
        open_pretok(&gpt2, "gpt-2", jit);
        open_pretok(&smollm, "smollm", jit);
        assert_true(jit || !mlxd_pretok_jit(&gpt2));
        mlxd_buf out;
        mlxd_buf_init(&out, 0);
        for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
            mlxd_buf_clear(&out);
            cut(&gpt2, mlxd_slice_str(cases[i].text), &out);
            assert_string_equal(mlxd_buf_str(&out), cases[i].gpt2);
            mlxd_buf_clear(&out);
            cut(&smollm, mlxd_slice_str(cases[i].text), &out);
            assert_string_equal(mlxd_buf_str(&out), cases[i].smollm);
        }
        mlxd_buf_deinit(&out);
        mlxd_pretok_deinit(&gpt2);
        mlxd_pretok_deinit(&smollm);
    }
}

static uint32_t random_char(unsigned *seed) {
    static const uint32_t likely[] = {' ',    ' ',    '\n',   '\t', '\r',  'a',   'Z',
                                      's',    '\'',   '1',    '.',  0,     0x85,  0xa0,
                                      0x180e, 0x2028, 0x3000, 0xbd, 0x301, 0x4e2d};
    if (rand_r(seed) % 8)
        return likely[(size_t)rand_r(seed) % MLXD_COUNT_OF(likely)];
    uint32_t cp = (uint32_t)rand_r(seed) % 0x110000;
    return cp >= 0xd800 && cp < 0xe000 ? 'x' : cp;
}

/* Nothing is lost, whatever the family. */
static bool same_but_for_bars(const mlxd_buf *text, const mlxd_buf *cut_text) {
    size_t at = 0;
    for (size_t i = 0; i < cut_text->len; i++) {
        if (at < text->len && cut_text->data[i] == text->data[at])
            at++;
        else if (cut_text->data[i] != '|')
            return false;
    }
    return at == text->len;
}

static const char *const names[] = {"gpt-2",  "smollm", "llama-bpe",      "qwen2",
                                    "qwen35", "gpt-4o", "tekken",         "deepseek-v3",
                                    "falcon", "bloom",  "deepseek-coder", "viking"};

/* Every character of Unicode is covered by every expression, compiled or interpreted. */
static void covers_everything_and_jit_agrees(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (size_t n = 0; n < MLXD_COUNT_OF(names); n++) {
        mlxd_pretok fast, slow;
        open_pretok(&fast, names[n], true);
        open_pretok(&slow, names[n], false);
        print_message("%s: jit %s\n", names[n], mlxd_pretok_jit(&fast) ? "yes" : "not available");
        mlxd_buf text, a, b;
        mlxd_buf_init(&text, 0);
        mlxd_buf_init(&a, 0);
        mlxd_buf_init(&b, 0);
        for (int round = 0; round < 31; round++) {
            mlxd_buf_clear(&text);
            uint8_t utf8[4];
            if (round == 0)
                for (uint32_t cp = 0; cp < 0x110000; cp += cp == 0xd7ff ? 0x801 : 1)
                    mlxd_buf_add(&text, utf8, mlxd_utf8_put(cp, utf8));
            else
                for (int i = 0; i < 200; i++)
                    mlxd_buf_add(&text, utf8, mlxd_utf8_put(random_char(&seed), utf8));
            mlxd_buf_clear(&a);
            mlxd_buf_clear(&b);
            cut(&fast, (mlxd_slice){text.data, text.len}, &a);
            cut(&slow, (mlxd_slice){text.data, text.len}, &b);
            assert_int_equal(a.len, b.len);
            assert_memory_equal(a.data, b.data, a.len);
            assert_true(same_but_for_bars(&text, &a));
        }
        mlxd_buf_deinit(&text);
        mlxd_buf_deinit(&a);
        mlxd_buf_deinit(&b);
        mlxd_pretok_deinit(&fast);
        mlxd_pretok_deinit(&slow);
    }
}

static size_t count_cuts(const mlxd_pretok *p, mlxd_slice text, double *ms) {
    mlxd_why why = {{0}};
    size_t count = 0;
    clock_t begin = clock();
    if (run(p, text, true, count_word, &count, &why))
        fail_msg("%s", why.text);
    *ms = 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC;
    return count;
}

static void a_mebibyte_of_anything(void **state) {
    (void)state;
    static const struct {
        const char *unit;
        size_t bytes_per_cut; /* 0: one pre-token for all of it */
    } cases[] = {
        {"a", 0},        {" ", 0},  {"\n", 0},       {"1", 1},   {"'", 0}, {" a", 2},
        {"\t\u200d", 2}, {"'s", 2}, {"👨\u200d👩", 0}, {" \n", 0}, {"!", 0}, {"\u00e9", 0},
    };
    for (int jit = 1; jit >= 0; jit--) {
        mlxd_pretok p;
        open_pretok(&p, "smollm", jit);
        for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
            size_t unit = strlen(cases[i].unit), len = (1u << 20) / unit * unit;
            uint8_t *text = malloc(len);
            for (size_t at = 0; at < len; at += unit)
                memcpy(text + at, cases[i].unit, unit);
            double whole, half;
            size_t n = count_cuts(&p, (mlxd_slice){text, len}, &whole);
            count_cuts(&p, (mlxd_slice){text, len / 2 / unit * unit}, &half);
            print_message("jit %d, 1 MiB of unit %zu: %zu pre-tokens, %.1f ms (half: %.1f ms)\n",
                          jit, i, n, whole, half);
            if (cases[i].bytes_per_cut == 0)
                assert_int_equal(n, 1);
            else
                assert_in_range(n, len / cases[i].bytes_per_cut, len / cases[i].bytes_per_cut + 1);
            free(text);
        }
        mlxd_pretok_deinit(&p);
    }
}

/* The same for every family, with the units that their patterns go back and forth over. */
static void a_mebibyte_for_every_family(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ",   "\n",     "A", "aB",
                                        "1", " \n", "\u4e2d", "!", "\u0301"};
    for (size_t n = 0; n < 2 * MLXD_COUNT_OF(names); n++) {
        mlxd_pretok p;
        open_pretok(&p, names[n / 2], n % 2);
        for (size_t i = 0; i < MLXD_COUNT_OF(units); i++) {
            size_t unit = strlen(units[i]), len = (n % 2 ? 1u << 20 : 1u << 17) / unit * unit;
            uint8_t *text = malloc(len);
            for (size_t at = 0; at < len; at += unit)
                memcpy(text + at, units[i], unit);
            double ms;
            count_cuts(&p, (mlxd_slice){text, len}, &ms);
            if (ms > 500)
                print_message("%s, jit %d, unit %zu: %.0f ms\n", names[n / 2], (int)n % 2, i, ms);
            free(text);
        }
        mlxd_pretok_deinit(&p);
    }
}

/* Hugging Face's results (tokenizers 0.23) for a hyphen, and for a pattern that matches nothing. */
static void behaviors(void **state) {
    (void)state;
    static const struct {
        mlxd_pretok_behavior behavior;
        bool invert;
        const char *pattern, *text, *cuts;
    } cases[] = {
        {MLXD_PRETOK_ISOLATED, false, "-", "--a--b--", "-|-|a|-|-|b|-|-|"},
        {MLXD_PRETOK_REMOVED, false, "-", "--a--b--", "a|b|"},
        {MLXD_PRETOK_MERGED_WITH_PREVIOUS, false, "-", "--a--b--", "-|-|a-|-|b-|-|"},
        {MLXD_PRETOK_MERGED_WITH_NEXT, false, "-", "--a--b--", "-|-a|-|-b|-|-|"},
        {MLXD_PRETOK_CONTIGUOUS, false, "-", "--a--b--", "--|a|--|b|--|"},
        {MLXD_PRETOK_ISOLATED, true, "-", "--a--b--", "-|-|a|-|-|b|-|-|"},
        {MLXD_PRETOK_REMOVED, true, "-", "--a--b--", "-|-|-|-|-|-|"},
        {MLXD_PRETOK_MERGED_WITH_PREVIOUS, true, "-", "--a--b--", "-|-a|-|-b|-|-|"},
        {MLXD_PRETOK_MERGED_WITH_NEXT, true, "-", "--a--b--", "-|-|a-|-|b-|-|"},
        {MLXD_PRETOK_CONTIGUOUS, true, "-", "--a--b--", "--|a|--|b|--|"},
        {MLXD_PRETOK_ISOLATED, false, "(?=[A-Z])", "aBcDE", "a|Bc|D|E|"},
        {MLXD_PRETOK_ISOLATED, false, "x*", "axxb", "a|xx|b|"},
        {MLXD_PRETOK_REMOVED, false, "x*", "axxb", "a|b|"},
        {MLXD_PRETOK_MERGED_WITH_NEXT, false, "x*", "axxb", "a|xxb|"},
        {MLXD_PRETOK_REMOVED, false, "-", "----", ""},
        {MLXD_PRETOK_ISOLATED, false, "-", "", ""},
    };
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_pretok p = {0};
        mlxd_why why = {{0}};
        if (mlxd_pretok_add_split(&p, mlxd_slice_str(cases[i].pattern), cases[i].behavior,
                                  cases[i].invert, true, &why))
            fail_msg("%s", why.text);
        mlxd_buf_clear(&out);
        cut(&p, mlxd_slice_str(cases[i].text), &out);
        if (strcmp(mlxd_buf_str(&out), cases[i].cuts) != 0)
            fail_msg("case %zu: %s, expected %s", i, mlxd_buf_str(&out), cases[i].cuts);
        mlxd_pretok_deinit(&p);
    }
    mlxd_buf_deinit(&out);
}

static void blanks_and_prefixes(void **state) {
    (void)state;
#define M "\xe2\x96\x81"
    static const struct {
        bool metaspace, split, first;
        mlxd_pretok_prefix prefix;
        const char *text, *cuts;
    } cases[] = {
        {true, true, true, MLXD_PRETOK_ALWAYS, "a  b c", M "a|" M "|" M "b|" M "c|"},
        {true, true, false, MLXD_PRETOK_FIRST, "a b", "a|" M "b|"},
        {true, true, true, MLXD_PRETOK_FIRST, "a b", M "a|" M "b|"},
        {true, false, true, MLXD_PRETOK_NEVER, "a b", "a" M "b|"},
        {true, false, true, MLXD_PRETOK_ALWAYS, " a b", M "a" M "b|"},
        {true, false, true, MLXD_PRETOK_ALWAYS, M "a", M "a|"},
        {true, true, true, MLXD_PRETOK_ALWAYS, "", ""},
        {false, false, true, MLXD_PRETOK_ALWAYS, "a b", " a b|"},
        {false, false, true, MLXD_PRETOK_ALWAYS, " a b", " a b|"},
    };
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_pretok p = {0};
        mlxd_pretok_step s = {.metaspace = cases[i].metaspace,
                              .prefix = cases[i].prefix,
                              .behavior = MLXD_PRETOK_MERGED_WITH_NEXT};
        if (cases[i].split)
            assert_int_equal(mlxd_regex_open_text(&s.pattern, mlxd_slice_str(M), NULL), MLXD_OK);
        assert_int_equal(mlxd_pretok_add(&p, s, NULL), MLXD_OK);
        mlxd_buf_clear(&out);
        assert_int_equal(
            run(&p, mlxd_slice_str(cases[i].text), cases[i].first, add_word, &out, NULL), MLXD_OK);
        if (strcmp(mlxd_buf_str(&out), cases[i].cuts) != 0)
            fail_msg("case %zu: %s, expected %s", i, mlxd_buf_str(&out), cases[i].cuts);
        mlxd_pretok_deinit(&p);
    }
    mlxd_buf_deinit(&out);
}

static void unknown_names_are_refused(void **state) {
    (void)state;
    static const char *const unknown[] = {"", "default", "gpt2", "llama", "smollm ", "gpt-2 phi-2"};
    for (size_t i = 0; i < MLXD_COUNT_OF(unknown); i++) {
        mlxd_pretok p = {0};
        mlxd_pretok_family family;
        mlxd_why why;
        assert_int_equal(mlxd_pretok_add_named(&p, mlxd_slice_str(unknown[i]), true, &family, &why),
                         MLXD_ERR_UNSUPPORTED);
        assert_int_equal(p.count, 0);
        assert_non_null(strstr(why.text, unknown[i]));
        assert_non_null(strstr(why.text, "known: gpt-2 "));
        assert_non_null(strstr(why.text, " smollm "));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_cuts),
        cmocka_unit_test(covers_everything_and_jit_agrees),
        cmocka_unit_test(a_mebibyte_of_anything),
        cmocka_unit_test(a_mebibyte_for_every_family),
        cmocka_unit_test(behaviors),
        cmocka_unit_test(blanks_and_prefixes),
        cmocka_unit_test(unknown_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
