/* test_detok.c - streaming decode: whole characters only, and the same text however the bytes are
 * divided; replacement as Unicode 3.9 (table 3-8, "maximal subparts") and browsers do it. */
#include "model/tokenizer.h"

#include "mini_gguf.h"

#include <time.h>

#define R "\xef\xbf\xbd" /* U+FFFD */

static void add(mlxd_detok *d, const char *bytes, size_t len, mlxd_buf *out) {
    mlxd_detok_add_bytes(d, (mlxd_slice){(const uint8_t *)bytes, len}, out);
}

static void known_replacements(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"plain", "plain"},
        {"\xc3\xa9 \xe4\xb8\x96 \xf0\x9f\x98\x80", "é 世 😀"},
        /* Unicode 15, 3.9: tables 3-8 to 3-11 */
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "a" R R R "b" R "c" R R "d"},
        {"\xf0\x9f\x98", R},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "😀"},
        {"\xc3", R},
        {"\xf8\xf9", R R},
        {"\xf4\x8f\xbf\xbf\xf4\x90\x80\x80", "\xf4\x8f\xbf\xbf" R R R R},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_detok d;
        mlxd_detok_init(&d);
        mlxd_buf out;
        mlxd_buf_init(&out, 0);
        add(&d, cases[i].bytes, strlen(cases[i].bytes), &out);
        mlxd_detok_flush(&d, &out);
        assert_string_equal(mlxd_buf_str(&out), cases[i].text);
        mlxd_buf_deinit(&out);
    }
}

/* Decode of all bytes at once, with the reader of format/utf8.h. */
static void decode_at_once(const uint8_t *bytes, size_t len, mlxd_buf *out) {
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        uint8_t utf8[4];
        at += mlxd_utf8_next(bytes + at, len - at, &cp);
        mlxd_buf_add(out, utf8, mlxd_utf8_put(cp == MLXD_UTF8_BAD ? 0xfffd : cp, utf8));
    }
}

static size_t random_bytes(unsigned *seed, uint8_t *out, size_t max) {
    static const uint8_t likely[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc2, 0xe0, 0xe1,
                                     0xed, 0xf0, 0xf3, 0xf4, 0xf5, 0xff, 'a',  0xc1};
    size_t len = (size_t)rand_r(seed) % max;
    for (size_t i = 0; i < len; i++)
        out[i] =
            rand_r(seed) % 4 ? likely[(size_t)rand_r(seed) % sizeof likely] : (uint8_t)rand_r(seed);
    return len;
}

static void the_same_at_every_split(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[24];
        size_t len = random_bytes(&seed, bytes, sizeof bytes);
        mlxd_buf whole, parts;
        mlxd_buf_init(&whole, 0);
        mlxd_buf_init(&parts, 0);
        decode_at_once(bytes, len, &whole);
        for (size_t first = 0; first <= len; first++) {
            mlxd_detok d;
            mlxd_detok_init(&d);
            mlxd_buf_clear(&parts);
            size_t second = first + (size_t)rand_r(&seed) % (len - first + 1);
            size_t cuts[] = {0, first, second, len};
            for (int i = 0; i < 3; i++) {
                mlxd_detok_add_bytes(&d, (mlxd_slice){bytes + cuts[i], cuts[i + 1] - cuts[i]},
                                     &parts);
                assert_true(d.n_held <= 3);
                /* What came out so far is whole characters. */
                assert_int_equal(mlxd_utf8_check((mlxd_slice){parts.data, parts.len}), parts.len);
            }
            mlxd_detok_flush(&d, &parts);
            assert_int_equal(parts.len, whole.len);
            assert_memory_equal(mlxd_buf_str(&parts), mlxd_buf_str(&whole), whole.len);
        }
        mlxd_buf_deinit(&whole);
        mlxd_buf_deinit(&parts);
    }
}

static void a_character_comes_out_with_its_last_byte(void **state) {
    (void)state;
    mlxd_detok d;
    mlxd_detok_init(&d);
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    add(&d, "a\xf0", 2, &out);
    assert_string_equal(mlxd_buf_str(&out), "a");
    add(&d, "\x9f\x98", 2, &out);
    assert_string_equal(mlxd_buf_str(&out), "a");
    add(&d, "\x80", 1, &out);
    assert_string_equal(mlxd_buf_str(&out), "a😀");
    mlxd_detok_flush(&d, &out);
    assert_string_equal(mlxd_buf_str(&out), "a😀");
    mlxd_buf_deinit(&out);
}

/* Tokens: control tokens are silent and do not part a character; unused ones and ids beyond the
 * vocabulary stand for nothing; user-defined and byte tokens for their bytes. */
static void tokens_of_every_type(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    int32_t user = mini_add(v, "<tool>", 4), unused = mini_add(v, "[PAD1]", 5);
    int32_t byte = mini_add(v, "<0xA9>", 6), unknown = mini_add(v, "<unk>", 2);
    int32_t hello = mini_merge(v, " h", "i");
    v->n_merges--; /* the token without its merge: decoding needs none */
    mini_gguf file;
    mlxd_tokenizer *t;
    assert_int_equal(mlxd_tokenizer_open(&t, mini_vocab_open(&file, v), NULL), MLXD_OK);
    int32_t ids[] = {1,
                     hello,
                     2,
                     MINI_BYTE(0xc3),
                     2,
                     unused,
                     -1,
                     1 << 30,
                     unknown,
                     byte,
                     user,
                     -7,
                     MINI_BYTE('\n'),
                     MINI_BYTE(0xe4),
                     0};
    mlxd_detok d;
    mlxd_detok_init(&d);
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    for (size_t i = 0; i < MLXD_COUNT_OF(ids); i++)
        mlxd_detok_add(&d, t, ids[i], &out);
    assert_string_equal(mlxd_buf_str(&out), " hié<tool>\n");
    mlxd_detok_flush(&d, &out);
    assert_string_equal(mlxd_buf_str(&out), " hié<tool>\n" R);
    mlxd_buf_deinit(&out);
    mlxd_tokenizer_close(t);
    mini_close(&file);
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_replacements),
        cmocka_unit_test(the_same_at_every_split),
        cmocka_unit_test(a_character_comes_out_with_its_last_byte),
        cmocka_unit_test(tokens_of_every_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
