/* test_stop.c - stop strings: hand-written cases, and random ones against a search over the whole
 * text, cut at every place or at random. */
#include "model/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static mlxd_stop *open_stop(const char *const *strings, size_t count) {
    mlxd_slice slices[MLXD_LIMIT_STOP_STRINGS] = {0};
    for (size_t i = 0; i < count; i++)
        slices[i] = mlxd_slice_str(strings[i]);
    mlxd_stop *s;
    assert_int_equal(mlxd_stop_open(&s, slices, count, NULL), MLXD_OK);
    return s;
}

static void expect(mlxd_stop *s, const char *piece, const char *shown, bool hit) {
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    assert_int_equal(mlxd_stop_feed(s, mlxd_slice_str(piece), &out), hit);
    assert_string_equal(mlxd_buf_str(&out), shown);
    mlxd_buf_deinit(&out);
}

static void expect_flush(mlxd_stop *s, const char *shown) {
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    mlxd_stop_flush(s, &out);
    assert_string_equal(mlxd_buf_str(&out), shown);
    mlxd_buf_deinit(&out);
}

static void holds_back_what_may_become_a_stop(void **state) {
    (void)state;
    mlxd_stop *s = open_stop((const char *[]){"###"}, 1);
    expect(s, "a#", "a", false);
    assert_int_equal(mlxd_stop_held(s), 1);
    expect(s, "#b", "##b", false);
    expect(s, "##", "", false);
    expect(s, "#c", "", true);
    assert_int_equal(mlxd_stop_which(s), 0);
    expect(s, "never read", "", true);
    expect_flush(s, "");
    mlxd_stop_close(s);
}

static void flush_shows_the_rest(void **state) {
    (void)state;
    mlxd_stop *s = open_stop((const char *[]){"\n\nUser:", "\n\n\n"}, 2);
    expect(s, "text\n\nUse", "text", false);
    expect_flush(s, "\n\nUse");
    expect_flush(s, "");
    assert_int_equal(mlxd_stop_which(s), -1);
    mlxd_stop_close(s);
}

static void overlapping_beginnings(void **state) {
    (void)state;
    mlxd_stop *s = open_stop((const char *[]){"aab"}, 1);
    expect(s, "aaaa", "aa", false); /* "aa" may still begin it */
    expect(s, "b", "", true);
    mlxd_stop_close(s);
    s = open_stop((const char *[]){"abcabd"}, 1);
    expect(s, "abcabcab", "abc", false);
    expect(s, "d!", "", true);
    mlxd_stop_close(s);
}

static void first_to_complete_wins_then_the_longest(void **state) {
    (void)state;
    mlxd_stop *s = open_stop((const char *[]){"abcd", "bc"}, 2);
    expect(s, "xabcd", "xa", true);
    assert_int_equal(mlxd_stop_which(s), 1);
    mlxd_stop_close(s);
    s = open_stop((const char *[]){"c", "abc", "bc"}, 3);
    expect(s, "xabc", "x", true);
    assert_int_equal(mlxd_stop_which(s), 1);
    mlxd_stop_close(s);
    /* A longer string was growing when a shorter one was found. */
    s = open_stop((const char *[]){"xxab!", "b"}, 2);
    expect(s, "xxa", "", false);
    expect(s, "b!", "xxa", true);
    mlxd_stop_close(s);
}

static void whole_characters(void **state) {
    (void)state;
    mlxd_stop *s = open_stop((const char *[]){"é!"}, 1);
    expect(s, "è", "è", false); /* shares the first byte */
    expect(s, "é", "", false);
    expect(s, "è", "éè", false);
    expect(s, "aé!", "a", true);
    mlxd_stop_close(s);
}

static void no_strings_pass_everything(void **state) {
    (void)state;
    mlxd_stop *s = open_stop(NULL, 0);
    expect(s, "anything", "anything", false);
    expect_flush(s, "");
    mlxd_stop_close(s);
    mlxd_stop_close(NULL);
}

static void refuses(void **state) {
    (void)state;
    mlxd_stop *s;
    mlxd_why why;
    mlxd_slice five[5];
    for (size_t i = 0; i < 5; i++)
        five[i] = mlxd_slice_str("x");
    assert_int_equal(mlxd_stop_open(&s, five, 5, &why), MLXD_ERR_INVALID);
    assert_null(s);
    five[1] = mlxd_slice_str("");
    assert_int_equal(mlxd_stop_open(&s, five, 2, &why), MLXD_ERR_INVALID);
    assert_non_null(strstr(why.text, "stop string 1 has 0 bytes"));
    five[1] = mlxd_slice_str("\xff");
    assert_int_equal(mlxd_stop_open(&s, five, 2, &why), MLXD_ERR_INVALID);
    char *long_text = calloc(1, MLXD_LIMIT_STOP_BYTES + 2);
    memset(long_text, 'a', MLXD_LIMIT_STOP_BYTES + 1);
    five[1] = mlxd_slice_str(long_text);
    assert_int_equal(mlxd_stop_open(&s, five, 2, &why), MLXD_ERR_INVALID);
    five[1].len--;
    assert_int_equal(mlxd_stop_open(&s, five, 2, &why), MLXD_OK);
    mlxd_stop_close(s);
    free(long_text);
}

/* ---- random: against a search over the whole text ---- */

/* Length of what is shown, and the string that matched, -1: none. */
static size_t search(const char *text, size_t len, char strings[][8], size_t count, int *which) {
    for (size_t end = 1; end <= len; end++) {
        size_t best = 0;
        for (size_t i = 0; i < count; i++) {
            size_t n = strlen(strings[i]);
            if (n <= end && n > best && memcmp(text + end - n, strings[i], n) == 0) {
                best = n;
                *which = (int)i;
            }
        }
        if (best)
            return end - best;
    }
    *which = -1;
    return len;
}

static void random_text(unsigned *seed, char *out, size_t len, int letters) {
    for (size_t i = 0; i < len; i++)
        out[i] = (char)('a' + rand_r(seed) % letters);
    out[len] = 0;
}

static void equals_a_search_however_it_is_cut(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int round = 0; round < 20000; round++) {
        char strings[4][8], text[64];
        const char *pointers[4];
        size_t count = 1 + (size_t)rand_r(&seed) % 4, len = (size_t)rand_r(&seed) % 60;
        int letters = 1 + rand_r(&seed) % 3;
        for (size_t i = 0; i < count; i++) {
            random_text(&seed, strings[i], 1 + (size_t)rand_r(&seed) % 6, letters);
            pointers[i] = strings[i];
        }
        random_text(&seed, text, len, letters);
        int which;
        size_t shown = search(text, len, strings, count, &which);
        mlxd_stop *s = open_stop(pointers, count);
        mlxd_buf out;
        mlxd_buf_init(&out, 0);
        bool hit = false;
        for (size_t at = 0; at < len;) {
            size_t n = 1 + (size_t)rand_r(&seed) % 5;
            n = MLXD_MIN(n, len - at);
            hit = mlxd_stop_feed(s, (mlxd_slice){(uint8_t *)text + at, n}, &out);
            at += n;
            /* Nothing is held back that could have been shown: some string continues it. */
            size_t held = mlxd_stop_held(s);
            bool needed = held == 0;
            for (size_t i = 0; i < count; i++)
                needed |=
                    held < strlen(strings[i]) && memcmp(text + at - held, strings[i], held) == 0;
            assert_true(needed);
        }
        mlxd_stop_flush(s, &out);
        assert_int_equal(hit, which >= 0);
        assert_int_equal(out.len, shown);
        assert_memory_equal(mlxd_buf_str(&out), text, shown);
        if (which >= 0)
            assert_string_equal(strings[mlxd_stop_which(s)], strings[which]);
        mlxd_buf_deinit(&out);
        mlxd_stop_close(s);
    }
}

static void hostile_text_is_not_held_for_ever(void **state) {
    (void)state;
    char stop[MLXD_LIMIT_STOP_BYTES + 1];
    memset(stop, 'a', sizeof stop);
    stop[MLXD_LIMIT_STOP_BYTES - 1] = 'b';
    stop[MLXD_LIMIT_STOP_BYTES] = 0;
    mlxd_stop *s = open_stop((const char *[]){stop}, 1);
    size_t len = 4u << 20;
    char *text = malloc(len);
    memset(text, 'a', len);
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    clock_t begin = clock();
    assert_false(mlxd_stop_feed(s, (mlxd_slice){(uint8_t *)text, len}, &out));
    print_message("4 MiB of 'a' against a^1023 b: %.0f ms\n",
                  1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    assert_int_equal(out.len, len - (MLXD_LIMIT_STOP_BYTES - 1));
    mlxd_stop_flush(s, &out);
    assert_int_equal(out.len, len);
    mlxd_buf_deinit(&out);
    free(text);
    mlxd_stop_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_back_what_may_become_a_stop),
        cmocka_unit_test(flush_shows_the_rest),
        cmocka_unit_test(overlapping_beginnings),
        cmocka_unit_test(first_to_complete_wins_then_the_longest),
        cmocka_unit_test(whole_characters),
        cmocka_unit_test(no_strings_pass_everything),
        cmocka_unit_test(refuses),
        cmocka_unit_test(equals_a_search_however_it_is_cut),
        cmocka_unit_test(hostile_text_is_not_held_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
