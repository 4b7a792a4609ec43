/* test_tokenizer_json.c - tokenizer.json of every kind against Hugging Face tokenizers, and a
 * SentencePiece vocabulary in GGUF against sentencepiece itself (tests/golden/tokenizers, made by
 * step_tokenizers.py); streams; flags of added tokens; files that must be refused.
 */
#include "model/tokenizer.h"

#include "format/json.h"
#include "mini_gguf.h"

#include <time.h>

static char *read_golden(const char *name, const char *end, size_t *len) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizers/%s%s", MLXD_GOLDEN, name, end);
    return (char *)mini_read_file(path, len);
}

static mlxd_slice slice_of(const char *text) {
    return text ? mlxd_slice_str(text) : (mlxd_slice){0};
}

static mlxd_err open_texts(mlxd_tokenizer **t, const char *tokenizer, const char *config,
                           const char *special_map, mlxd_why *why) {
    mlxd_tokenizer_files files = {slice_of(tokenizer), slice_of(config), slice_of(special_map)};
    return mlxd_tokenizer_open_json(t, &files, why);
}

/* The tokenizer of that name in tests/golden/tokenizers; it copies what it keeps. */
static mlxd_tokenizer *open_golden_as(const char *name, bool as_gguf) {
    mlxd_tokenizer *t = NULL;
    mlxd_why why = {{0}};
    size_t len = 0, config_len = 0;
    mlxd_err err;
    if (as_gguf) {
        mlxd_gguf *g;
        char *data = read_golden(name, ".gguf", &len);
        assert_non_null(data);
        err = mlxd_gguf_open(&g, (mlxd_slice){(uint8_t *)data, len}, name, &why);
        if (!err)
            err = mlxd_tokenizer_open(&t, g, &why);
        mlxd_gguf_close(g);
        free(data);
    } else {
        char *data = read_golden(name, ".tokenizer.json", &len);
        char *config = read_golden(name, ".config.json", &config_len);
        assert_non_null(data);
        mlxd_tokenizer_files files = {.tokenizer = {(uint8_t *)data, len},
                                      .config = {(uint8_t *)config, config_len}};
        err = mlxd_tokenizer_open_json(&t, &files, &why);
        memset(data, 0xff, len);
        free(data);
        free(config);
    }
    if (err)
        fail_msg("%s: %s", name, why.text);
    return t;
}

static mlxd_tokenizer *open_golden(const char *name) {
    return open_golden_as(name, strcmp(name, "spm") == 0);
}

static void encode(const mlxd_tokenizer *t, mlxd_slice text, bool special, mlxd_tokens *out) {
    mlxd_why why = {{0}};
    out->count = 0;
    if (mlxd_tokenizer_encode(t, text, special, 0, out, &why))
        fail_msg("%s", why.text);
}

/* What the ids show, in one piece. */
static void decode(const mlxd_tokenizer *t, const mlxd_tokens *ids, mlxd_buf *out) {
    mlxd_detok d;
    mlxd_detok_init(&d);
    mlxd_buf_clear(out);
    for (size_t i = 0; i < ids->count; i++)
        mlxd_detok_add(&d, t, ids->ids[i], out);
    mlxd_detok_flush(&d, out);
}

static void expect_ids(const mlxd_tokenizer *t, const char *text, bool special, size_t count,
                       const int32_t *ids) {
    mlxd_tokens got = {0};
    encode(t, mlxd_slice_str(text), special, &got);
    for (size_t i = 0; i < MLXD_MIN(count, got.count); i++)
        if (got.ids[i] != ids[i])
            fail_msg("\"%s\": id %zu is %d, expected %d", text, i, got.ids[i], ids[i]);
    assert_int_equal(got.count, count);
    mlxd_tokens_deinit(&got);
}
#define EXPECT_IDS(t, text, special, ...)                                                          \
    expect_ids(t, text, special, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t),               \
               (int32_t[]){__VA_ARGS__})

/* ---- goldens ---- */

static const char *const kinds[] = {"llama3", "qwen",    "o200k",   "deepseek", "smollm", "llama2",
                                    "gemma",  "mistral", "unknown", "apart",    "spm"};

static void read_base64(const mlxd_json *v, mlxd_buf *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    mlxd_slice in;
    uint32_t bits = 0;
    assert_int_equal(mlxd_json_get_str(v, &in), MLXD_OK);
    mlxd_buf_clear(out);
    for (size_t i = 0, have = 0; i < in.len && in.data[i] != '='; i++) {
        const char *digit = strchr(digits, in.data[i]);
        assert_non_null(digit);
        bits = bits << 6 | (uint32_t)(digit - digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            mlxd_buf_add_byte(out, (uint8_t)(bits >> have));
        }
    }
}

static bool same_ids(const mlxd_json *list, const mlxd_tokens *got) {
    if (mlxd_json_count(list) != got->count)
        return false;
    for (size_t i = 0; i < got->count; i++) {
        int64_t id;
        assert_int_equal(mlxd_json_get_int64(mlxd_json_at(list, i), &id), MLXD_OK);
        if (id != got->ids[i])
            return false;
    }
    return true;
}

static bool same_text(const mlxd_buf *a, const mlxd_buf *b) {
    return mlxd_slice_eq((mlxd_slice){a->data, a->len}, (mlxd_slice){b->data, b->len});
}

/* How many rows of a list come out otherwise. */
static size_t check_rows(const mlxd_tokenizer *t, const char *name, const mlxd_json *list,
                         bool special) {
    size_t wrong = 0;
    mlxd_buf text, shown, expected;
    mlxd_tokens got = {0};
    mlxd_buf_init(&text, 0);
    mlxd_buf_init(&shown, 0);
    mlxd_buf_init(&expected, 0);
    for (size_t i = 0; i < mlxd_json_count(list); i++) {
        const mlxd_json *row = mlxd_json_at(list, i);
        read_base64(mlxd_json_find(row, "text"), &text);
        read_base64(mlxd_json_find(row, "shown"), &expected);
        encode(t, (mlxd_slice){text.data, text.len}, special, &got);
        decode(t, &got, &shown);
        bool ids = same_ids(mlxd_json_find(row, "ids"), &got), same = same_text(&shown, &expected);
        if (ids && same)
            continue;
        wrong++;
        print_message("%s, special %d, row %zu: other %s for \"%s\"\n", name, special, i,
                      ids ? "text" : "ids", mlxd_buf_str(&text));
    }
    mlxd_tokens_deinit(&got);
    mlxd_buf_deinit(&text);
    mlxd_buf_deinit(&shown);
    mlxd_buf_deinit(&expected);
    return wrong;
}

/* How many rows of a golden file come out otherwise. */
static size_t check_golden(const mlxd_tokenizer *t, const char *name) {
    size_t len = 0;
    char *text = read_golden(name, ".golden.json", &len);
    mlxd_json_doc *doc;
    mlxd_why why = {{0}};
    assert_non_null(text);
    if (mlxd_json_parse(&doc, (mlxd_slice){(uint8_t *)text, len}, 8, &why))
        fail_msg("%s: %s", name, why.text);
    free(text);
    const mlxd_json *root = mlxd_json_root(doc), *special = mlxd_json_find(root, "special");
    assert_true(mlxd_json_count(mlxd_json_find(root, "plain")) > 100);
    size_t wrong = check_rows(t, name, mlxd_json_find(root, "plain"), false);
    if (special)
        wrong += check_rows(t, name, special, true);
    mlxd_json_close(doc);
    return wrong;
}

static void equals_the_libraries(void **state) {
    (void)state;
    size_t wrong = 0;
    for (size_t k = 0; k < MLXD_COUNT_OF(kinds); k++) {
        mlxd_tokenizer *t = open_golden(kinds[k]);
        wrong += check_golden(t, kinds[k]);
        mlxd_tokenizer_close(t);
    }
    assert_int_equal(wrong, 0);
}

/* The same vocabularies out of GGUF files, which know their pre-tokenizers by name. */
static void gguf_names_mean_the_same(void **state) {
    (void)state;
    static const char *const names[] = {"llama3", "qwen", "o200k", "deepseek"};
    size_t wrong = 0;
    for (size_t k = 0; k < MLXD_COUNT_OF(names); k++) {
        mlxd_tokenizer *t = open_golden_as(names[k], true);
        assert_int_equal(mlxd_tokenizer_add_bos(t), k == 0); /* the family's habit */
        wrong += check_golden(t, names[k]);
        mlxd_tokenizer_close(t);
    }
    assert_int_equal(wrong, 0);
}

static void bos_and_ends(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_golden("llama3");
    assert_int_equal(mlxd_tokenizer_bos(t),
                     mlxd_tokenizer_find(t, mlxd_slice_str("<|begin_of_text|>")));
    assert_true(mlxd_tokenizer_add_bos(t)); /* by the template */
    assert_int_equal(mlxd_tokenizer_eos(t), mlxd_tokenizer_find(t, mlxd_slice_str("<|eot_id|>")));
    assert_true(
        mlxd_tokenizer_is_end(t, mlxd_tokenizer_find(t, mlxd_slice_str("<|end_of_text|>"))));
    assert_false(mlxd_tokenizer_is_end(t, 5));
    assert_int_equal(mlxd_tokenizer_add_end(t, 5, NULL), MLXD_OK);
    assert_true(mlxd_tokenizer_is_end(t, 5));
    mlxd_why why;
    assert_int_equal(mlxd_tokenizer_add_end(t, 1000000, &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_tokenizer_add_end(t, -1, &why), MLXD_ERR_DATA);
    mlxd_tokenizer_close(t);
    t = open_golden("mistral"); /* by the configuration, which also has a token of its own */
    assert_int_equal(mlxd_tokenizer_bos(t), 1);
    assert_int_equal(mlxd_tokenizer_eos(t), 2);
    assert_true(mlxd_tokenizer_add_bos(t));
    assert_int_equal(mlxd_tokenizer_find(t, mlxd_slice_str("<late>")), 3000);
    assert_int_equal(mlxd_tokenizer_vocab(t), 3001);
    assert_int_equal(mlxd_tokenizer_bytes(t, 2999).len, 0); /* no token has this id */
    mlxd_tokenizer_close(t);
    t = open_golden("o200k"); /* Harmony: <|end|> ends a message, not the turn */
    assert_true(mlxd_tokenizer_is_end(t, mlxd_tokenizer_find(t, mlxd_slice_str("<|return|>"))));
    assert_true(mlxd_tokenizer_is_end(t, mlxd_tokenizer_find(t, mlxd_slice_str("<|call|>"))));
    assert_false(mlxd_tokenizer_is_end(t, mlxd_tokenizer_find(t, mlxd_slice_str("<|end|>"))));
    assert_int_equal(mlxd_tokenizer_bos(t), -1);
    assert_false(mlxd_tokenizer_add_bos(t));
    mlxd_tokenizer_close(t);
}

/* ---- streams and round trips ---- */

static void random_text(unsigned *seed, mlxd_buf *out) {
    static const char *const pieces[] = {
        "the ", " and", "\n\n", "    ", "don't", "12345", "\t",      "é",      "世界",   "😀",
        "<|",   "|>",   "</s>", "\r\n", "...",   " ½",    "e\u0301", "\u2581", "<0x41>", "  "};
    mlxd_buf_clear(out);
    for (int n = rand_r(seed) % 40; n > 0; n--) {
        if (rand_r(seed) % 2) {
            mlxd_buf_add_str(out, pieces[(size_t)rand_r(seed) % MLXD_COUNT_OF(pieces)]);
            continue;
        }
        uint32_t cp = 1 + (uint32_t)rand_r(seed) % (rand_r(seed) % 2 ? 0x180 : 0x10ffff);
        uint8_t utf8[4];
        if (cp < 0xd800 || cp > 0xdfff)
            mlxd_buf_add(out, utf8, mlxd_utf8_put(cp, utf8));
    }
}

/* Where nothing normalizes, what comes back is the text; U+2581 and the blank are one to those that
 * write the one for the other. */
static void decode_of_encode_is_the_text(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool marks;
    } lossless[] = {{"llama3", false}, {"o200k", false}, {"deepseek", false},
                    {"llama2", true},  {"gemma", true},  {"spm", true}};
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    mlxd_buf text, back;
    mlxd_buf_init(&text, 0);
    mlxd_buf_init(&back, 0);
    mlxd_tokens ids = {0};
    for (size_t k = 0; k < MLXD_COUNT_OF(lossless); k++) {
        mlxd_tokenizer *t = open_golden(lossless[k].name);
        for (int round = 0; round < 1000; round++) {
            random_text(&seed, &text);
            encode(t, (mlxd_slice){text.data, text.len}, false, &ids);
            decode(t, &ids, &back);
            mlxd_buf plain;
            mlxd_buf_init(&plain, 0);
            for (size_t i = 0; i < text.len; i++) {
                bool mark = lossless[k].marks && text.len - i >= 3 &&
                            memcmp(text.data + i, "\u2581", 3) == 0;
                mlxd_buf_add(&plain, mark ? (const uint8_t *)" " : text.data + i, 1);
                i += mark ? 2 : 0;
            }
            /* SentencePiece's blank in front comes once for every text between added tokens. */
            if (!same_text(&back, &plain) && !strstr(mlxd_buf_str(&text), "\n\n"))
                fail_msg("%s: \"%s\" came back as \"%s\"", lossless[k].name, mlxd_buf_str(&text),
                         mlxd_buf_str(&back));
            mlxd_buf_deinit(&plain);
        }
        mlxd_tokenizer_close(t);
    }
    mlxd_tokens_deinit(&ids);
    mlxd_buf_deinit(&text);
    mlxd_buf_deinit(&back);
}

/* Any ids, also such as no text gives: what a stream has shown so far is a prefix of what the ids
 * show in one piece, and whole characters. */
static void streams_equal_one_piece(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    mlxd_buf whole, stream;
    mlxd_buf_init(&whole, 0);
    mlxd_buf_init(&stream, 0);
    for (size_t k = 0; k < MLXD_COUNT_OF(kinds); k++) {
        mlxd_tokenizer *t = open_golden(kinds[k]);
        for (int round = 0; round < 500; round++) {
            int32_t list[24];
            mlxd_tokens ids = {list, (size_t)rand_r(&seed) % 24, 24};
            for (size_t i = 0; i < ids.count; i++)
                list[i] = rand_r(&seed) % (rand_r(&seed) % 2 ? 270 : (int)mlxd_tokenizer_vocab(t));
            decode(t, &ids, &whole);
            mlxd_detok d;
            mlxd_detok_init(&d);
            mlxd_buf_clear(&stream);
            for (size_t i = 0; i < ids.count; i++) {
                mlxd_detok_add(&d, t, list[i], &stream);
                assert_int_equal(mlxd_utf8_check((mlxd_slice){stream.data, stream.len}),
                                 stream.len);
                assert_true(stream.len <= whole.len &&
                            memcmp(mlxd_buf_str(&whole), mlxd_buf_str(&stream), stream.len) == 0);
            }
            mlxd_detok_flush(&d, &stream);
            assert_true(same_text(&stream, &whole));
        }
        mlxd_tokenizer_close(t);
    }
    mlxd_buf_deinit(&whole);
    mlxd_buf_deinit(&stream);
}

/* ---- a tokenizer in a few lines ---- */

/* a b c, the blank's mark, bytes of two characters; ab, and the mark with a. */
#define VOCAB                                                                                      \
    "\"<unk>\":0,\"</s>\":1,\"<0xC3>\":2,\"<0xA9>\":3,\"\u2581\":4,\"a\":5,\"b\":6,\"c\":7,"       \
    "\"ab\":8,\"\u2581a\":9"
#define MODEL(more)                                                                                \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,"                  \
    "\"vocab\":{" VOCAB "},\"merges\":[\"a b\",[\"\u2581\",\"a\"]]" more "}"
#define ADDED(more)                                                                                \
    "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"                         \
    "{\"id\":1,\"content\":\"</s>\",\"special\":true}" more "]"
#define NORMALIZER                                                                                 \
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}"
#define DECODER                                                                                    \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"          \
    "{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}"
#define FILE_OF(added, more) "{" ADDED(added) "," NORMALIZER "," DECODER "," MODEL(more) "}"

static mlxd_tokenizer *open_text(const char *text) {
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    if (open_texts(&t, text, NULL, NULL, &why))
        fail_msg("%s", why.text);
    return t;
}

static void characters_without_a_token(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_text(FILE_OF("", ""));
    EXPECT_IDS(t, "ab a", false, 8, 9);
    EXPECT_IDS(t, "\u00e9", false, 2, 3);             /* bytes */
    EXPECT_IDS(t, "x\u00e8y", false, 0, 0, 0);        /* no bytes for these */
    EXPECT_IDS(t, "<0xC3>", false, 0, 0, 0, 0, 0, 0); /* a text, not the byte */
    EXPECT_IDS(t, "</s>", true, 1);
    EXPECT_IDS(t, "</s>", false, 0, 0, 0, 0);
    assert_true(mlxd_slice_eq(mlxd_tokenizer_bytes(t, 9), mlxd_slice_str(" a")));
    assert_true(mlxd_slice_eq(mlxd_tokenizer_bytes(t, 2), mlxd_slice_str("\xc3")));
    assert_int_equal(mlxd_tokenizer_find(t, mlxd_slice_str("\u2581a")), 9);
    mlxd_tokenizer_close(t);
    t = open_text(FILE_OF("", ",\"fuse_unk\":true"));
    EXPECT_IDS(t, "x\u00e8y", false, 0);
    EXPECT_IDS(t, "xayz", false, 0, 5, 0);
    EXPECT_IDS(t, "x\u00e9z", false, 2, 3, 0); /* the library's order: bytes do not wait */
    mlxd_tokenizer_close(t);
    t = open_text(FILE_OF("", ",\"ignore_merges\":true"));
    EXPECT_IDS(t, "c", false, 7);
    mlxd_tokenizer_close(t);
}

/* What a control token spells stays text, whatever merges the file has. */
static void merges_make_no_control_token(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_text(FILE_OF(",{\"id\":8,\"content\":\"ab\",\"special\":true}", ""));
    EXPECT_IDS(t, "ab", false, 5, 6);
    EXPECT_IDS(t, "ab", true, 8);
    EXPECT_IDS(t, "cabc", true, 7, 8, 7);
    mlxd_tokenizer_close(t);
    t = open_text(
        FILE_OF(",{\"id\":8,\"content\":\"ab\",\"special\":true}", ",\"ignore_merges\":true"));
    EXPECT_IDS(t, "ab", false, 5, 6);
    mlxd_tokenizer_close(t);
    t = open_text(
        FILE_OF(",{\"id\":8,\"content\":\"ab\"}", "")); /* not special: merges make it, too */
    EXPECT_IDS(t, "ab", false, 8);
    assert_false(mlxd_tokenizer_is_control(t, 8));
    mlxd_tokenizer_close(t);
}

/* <|this|> that is not special: shown, but not for users to write. */
static void guarded_tokens(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_text(FILE_OF(",{\"id\":10,\"content\":\"<|a|>\"},"
                                          "{\"id\":11,\"content\":\"<tool>\"}",
                                          ""));
    EXPECT_IDS(t, "<|a|><tool>", true, 10, 11);
    EXPECT_IDS(t, "<|a|><tool>", false, 0, 0, 5, 0, 0, 11);
    assert_false(mlxd_tokenizer_is_control(t, 10));
    mlxd_tokenizer_close(t);
}

static void flags_of_added_tokens(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_text(
        FILE_OF(",{\"id\":10,\"content\":\"<l>\",\"lstrip\":true,\"special\":true},"
                "{\"id\":11,\"content\":\"<r>\",\"rstrip\":true,\"special\":true},"
                "{\"id\":12,\"content\":\"ca\",\"single_word\":true,\"normalized\":false},"
                "{\"id\":13,\"content\":\"c c\",\"normalized\":true}",
                ""));
    EXPECT_IDS(t, "a \n<l> a", true, 5, 10, 9);
    EXPECT_IDS(t, "a<r> \u3000\n a", true, 5, 11, 5);
    EXPECT_IDS(t, "<r>  <l>", true, 11, 10); /* the first one took the blanks */
    EXPECT_IDS(t, "ca aca ca,", false, 12, 9, 7, 5, 4, 12, 0);
    EXPECT_IDS(t, "\u00e9ca", false, 2, 3, 7, 5);
    EXPECT_IDS(t, "bc cb", false, 6, 13, 6); /* normalized: it is c_c that is searched */
    mlxd_tokenizer_close(t);
}

static void parts_that_are_not_trusted(void **state) {
    (void)state;
    mlxd_tokenizer *t = open_text(FILE_OF(",{\"id\":10,\"content\":\"<tool>\"}", ""));
    mlxd_tokens ids = {0};
    static const char text[] = "</s>a</s>b</s>a<tool>";
    /*                          0   4 5   9 0   4 5 */
    static const struct {
        mlxd_text_range plain[2];
        size_t n_plain, count;
        int32_t ids[16];
    } cases[] = {
        {{{0, 0}}, 0, 6, {1, 5, 1, 6, 1, 5}},
        {{{4, 10}}, 1, 9, {1, 5, 0, 0, 0, 0, 6, 1, 5}},
        {{{8, 9}}, 1, 9, {1, 5, 0, 0, 0, 0, 6, 1, 5}}, /* one byte of it */
        {{{1, 2}, {11, 12}}, 2, 12, {0, 0, 0, 0, 5, 1, 6, 0, 0, 0, 0, 5}},
        {{{4, 5}, {9, 10}}, 2, 6, {1, 5, 1, 6, 1, 5}},
        {{{0, 21}}, 1, 15, {0, 0, 0, 0, 5, 0, 0, 0, 0, 6, 0, 0, 0, 0, 5}},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_why why = {{0}};
        ids.count = 0;
        if (mlxd_tokenizer_encode_parts(t, mlxd_slice_str(text), cases[i].plain, cases[i].n_plain,
                                        0, &ids, &why))
            fail_msg("%s", why.text);
        assert_int_equal(ids.count, cases[i].count + 1);
        assert_memory_equal(ids.ids, cases[i].ids, cases[i].count * sizeof *ids.ids);
        assert_int_equal(ids.ids[ids.count - 1], 10); /* not special: in any text */
    }
    /* Words reach over the borders of parts. */
    mlxd_text_range middle = {1, 2};
    ids.count = 0;
    assert_int_equal(
        mlxd_tokenizer_encode_parts(t, mlxd_slice_str("cab"), &middle, 1, 0, &ids, NULL), MLXD_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.ids[1], 8);
    mlxd_tokens_deinit(&ids);
    mlxd_tokenizer_close(t);
}

/* Gemma 3's text models have a row less than the tokenizer has tokens. */
static void more_tokens_than_rows(void **state) {
    (void)state;
    mlxd_why why;
    mlxd_tokenizer *t = open_text(FILE_OF(",{\"id\":10,\"content\":\"<image>\",\"special\":true},"
                                          "{\"id\":11,\"content\":\"<eos>\",\"special\":true}",
                                          ""));
    assert_true(mlxd_tokenizer_is_end(t, 11));
    assert_int_equal(mlxd_tokenizer_fit(t, 20, NULL), MLXD_OK);
    assert_int_equal(mlxd_tokenizer_vocab(t), 12);
    EXPECT_IDS(t, "a<image>", true, 5, 10);
    assert_int_equal(mlxd_tokenizer_fit(t, 10, NULL), MLXD_OK);
    assert_int_equal(mlxd_tokenizer_vocab(t), 10);
    EXPECT_IDS(t, "a<image>", true, 5, 0, 0, 0, 5, 0, 0, 0);
    assert_int_equal(mlxd_tokenizer_find(t, mlxd_slice_str("<image>")), -1);
    assert_false(mlxd_tokenizer_is_end(t, 11));
    assert_int_equal(mlxd_tokenizer_fit(t, 9, &why), MLXD_ERR_DATA);
    assert_string_equal(why.text, "the tokenizer has 10 tokens, the embedding 9 rows");
    mlxd_tokenizer_close(t);
}

/* A model whose rows end before the tokens that its tokenizer calls BOS and EOS. */
static void bos_and_eos_beyond_the_rows(void **state) {
    (void)state;
    static const char added[] = FILE_OF(",{\"id\":10,\"content\":\"<bos>\",\"special\":true},"
                                        "{\"id\":11,\"content\":\"<eos>\",\"special\":true}",
                                        "");
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    mlxd_err err =
        open_texts(&t, added, "{\"bos_token\":\"<bos>\",\"eos_token\":\"<eos>\"}", NULL, &why);
    if (err)
        fail_msg("%s", why.text);
    assert_true(mlxd_tokenizer_bos(t) == 10 && mlxd_tokenizer_is_end(t, 11));
    assert_int_equal(mlxd_tokenizer_fit(t, 10, &why), MLXD_OK);
    assert_true(mlxd_tokenizer_bos(t) == -1 && mlxd_tokenizer_eos(t) == -1);
    assert_true(mlxd_tokenizer_has_end(t)); /* </s> is one by its name */
    assert_false(mlxd_tokenizer_is_end(t, 11));
    mlxd_tokenizer_close(t);
    assert_int_equal(
        open_texts(&t, added, "{\"bos_token\":\"<bos>\",\"add_bos_token\":true}", NULL, &why),
        MLXD_OK);
    assert_int_equal(mlxd_tokenizer_fit(t, 10, &why), MLXD_ERR_DATA);
    assert_string_equal(why.text, "a text is to begin with token 10 of 10");
    mlxd_tokenizer_close(t);
}

/* ---- files that must be refused ---- */

static void refuse(const char *text, const char *config, mlxd_err expected, const char *part) {
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    mlxd_err err = open_texts(&t, text, config, NULL, &why);
    if (err != expected || !strstr(why.text, part))
        fail_msg("error %d (%s), expected %d (%s)", err, why.text, expected, part);
    assert_null(t);
}

static void unknown_parts_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"\"model\":{\"type\":\"Unigram\",\"vocab\":[]}", "\"Unigram\" is not known; known: BPE"},
        {"\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}", "\"WordPiece\" is not known"},
        {"\"normalizer\":{\"type\":\"Precompiled\"}", "normalizer: \"Precompiled\" is not known"},
        {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"BertNormalizer\"}]}",
         "\"BertNormalizer\" is not known; known: NFC"},
        {"\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}", "\"UnicodeScripts\" is not known"},
        {"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
         "{\"type\":\"Digits\"}]}",
         "Digits behind ByteLevel"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":"
         "\"Isolated\"}",
         "pattern \"[a&&b]\": an intersection of sets at byte 2"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?<!a*)b\"},"
         "\"behavior\":\"Isolated\"}",
         "pattern \"(?<!a*)b\": pcre2 says"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":"
         "\"Sideways\"}",
         "behavior \"Sideways\" is not known"},
        {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "replacement \"_\""},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"}", "ByteLevel in only one of"},
        {"\"decoder\":{\"type\":\"WordPiece\"}", "decoder: \"WordPiece\" is not known"},
        {"\"decoder\":null", "decoder: none"},
        {"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
         "\"content\":\" \",\"start\":0,\"stop\":1}]}",
         "only blanks at the beginning"},
        {"\"post_processor\":{\"type\":\"BertProcessing\"}", "\"BertProcessing\" is not known"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        char text[4096], *key = strndup(cases[i].json, strcspn(cases[i].json, ":"));
        const char *rest[] = {"\"normalizer\":null", DECODER, MODEL("")};
        snprintf(text, sizeof text, "{%s", cases[i].json);
        for (size_t k = 0; k < MLXD_COUNT_OF(rest); k++)
            if (strncmp(rest[k], key, strlen(key)) != 0) {
                size_t len = strlen(text);
                snprintf(text + len, sizeof text - len, ",%s", rest[k]);
            }
        strcat(text, "}");
        refuse(text, NULL, MLXD_ERR_UNSUPPORTED, cases[i].part);
        free(key);
    }
}

static void malformed_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *config, *part;
    } cases[] = {
        {"[]", NULL, "tokenizer.json: expected an object"},
        {"{\"model\"", NULL, "tokenizer.json: offset"},
        {"{}", NULL, "model: expected an object"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"merges\":[]}}", NULL,
         "vocab: expected an object"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", NULL,
         "no tokens"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", NULL,
         "\"a\" has id -1"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}",
         NULL, "\"a\" has id 99999999"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"b\"},\"merges\":[]}}", NULL,
         "expected an id"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         NULL, "id 0 is both \"a\" and \"b\""},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
         NULL, "merges: merge 0, \"a b\": its right half is no normal token"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", NULL,
         "merge 0 is not two tokens"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}",
         NULL, "merge 0 is not two tokens"},
        {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"unk_token\":\"x\",\"vocab\":{\"a\":0},"
         "\"merges\":[]}}",
         NULL, "unk_token \"x\" is no token"},
        {FILE_OF(",{\"id\":7,\"content\":\"d\"}", ""), NULL, "id 7 is both \"c\" and \"d\""},
        {FILE_OF(",{\"id\":17}", ""), NULL, "added_tokens[2]"},
        {FILE_OF(",{\"content\":\"d\"}", ""), NULL, "added_tokens[2]"},
        {FILE_OF(",{\"id\":17,\"content\":\"d\"},{\"id\":18,\"content\":\"d\"}", ""), NULL,
         "tokens 17 and 18 are the same"},
        {FILE_OF("", ""), "{\"eos_token\":\"<eos>\"}", "eos_token \"<eos>\" is no token"},
        {FILE_OF("", ""), "{\"eos_token\":7}", "tokenizer_config.json: eos_token"},
        {FILE_OF("", ""), "{\"add_bos_token\":true}", "there is no such token"},
        {FILE_OF("", ""), "{\"add_bos_token\":1}", "add_bos_token: expected true or false"},
        {FILE_OF("", ""), "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}",
         "expected an id"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++)
        refuse(cases[i].text, cases[i].config, MLXD_ERR_DATA, cases[i].part);
    mlxd_tokenizer *t;
    mlxd_why why;
    assert_int_equal(open_texts(&t, NULL, NULL, NULL, &why), MLXD_ERR_NOTFOUND);
    refuse(FILE_OF("", ",\"dropout\":0.1"), NULL, MLXD_ERR_UNSUPPORTED, "dropout");
    refuse(FILE_OF("", ",\"end_of_word_suffix\":\"</w>\""), NULL, MLXD_ERR_UNSUPPORTED,
           "end_of_word_suffix");
}

/* bos and eos: the configuration goes before the special map, which goes before the template. */
static void where_bos_and_eos_come_from(void **state) {
    (void)state;
    mlxd_tokenizer *t;
    static const char special_map[] = "{\"eos_token\":{\"content\":\"</s>\"},\"bos_token\":\"c\"}";
    static const char config[] = "{\"eos_token\":\"ab\",\"bos_token\":null,\"add_bos_token\":true}";
    assert_int_equal(open_texts(&t, FILE_OF("", ""), config, special_map, NULL), MLXD_OK);
    assert_int_equal(mlxd_tokenizer_eos(t), 8);
    assert_int_equal(mlxd_tokenizer_bos(t), 7);
    assert_true(mlxd_tokenizer_add_bos(t));
    assert_true(mlxd_tokenizer_is_control(t, 8)); /* it was no added token before */
    EXPECT_IDS(t, "ab", false, 5, 6);
    EXPECT_IDS(t, "cab", true, 7, 8);
    assert_true(mlxd_tokenizer_is_end(t, 1)); /* by its name */
    mlxd_tokenizer_close(t);
    assert_int_equal(open_texts(&t, FILE_OF("", ""), NULL, special_map, NULL), MLXD_OK);
    assert_int_equal(mlxd_tokenizer_eos(t), 1);
    assert_false(mlxd_tokenizer_add_bos(t));
    mlxd_tokenizer_close(t);
}

/* Bytes of a file changed at random: opened or refused with a reason, and what was opened can be
 * used. */
static void damaged_files(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    size_t opened = 0, refused = 0;
    mlxd_tokens ids = {0};
    for (size_t k = 0; k + 1 < MLXD_COUNT_OF(kinds); k++) {
        size_t len = 0;
        char *data = read_golden(kinds[k], ".tokenizer.json", &len);
        assert_non_null(data);
        for (int round = 0; round < 150; round++) {
            char *at = data + (size_t)rand_r(&seed) % (rand_r(&seed) % 2 ? 2000 : len), old = *at;
            *at = (char)(rand_r(&seed) % 2 ? ' ' + rand_r(&seed) % 95 : rand_r(&seed) % 256);
            mlxd_tokenizer_files files = {.tokenizer = {(uint8_t *)data, len}};
            mlxd_tokenizer *t;
            mlxd_why why = {{0}};
            if (mlxd_tokenizer_open_json(&t, &files, &why) == MLXD_OK) {
                ids.count = 0;
                if (mlxd_tokenizer_encode(t, mlxd_slice_str("It's <|im_end|> 12 \n\n世界 </s>"),
                                          true, 0, &ids, &why))
                    assert_true(strlen(why.text) > 10);
                mlxd_tokenizer_close(t);
                opened++;
            } else {
                assert_true(strlen(why.text) > 10);
                refused++;
            }
            *at = old;
        }
        free(data);
    }
    print_message("%zu were opened, %zu refused\n", opened, refused);
    assert_true(opened > 50 && refused > 50);
    mlxd_tokens_deinit(&ids);
}

/* Text that would be slow if anything were quadratic; the test's time limit is the assertion. */
static void hostile_texts(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "a ", "\u0301\u0316", "\u2581", "</s", "A"};
    mlxd_tokens ids = {0};
    for (size_t k = 0; k < MLXD_COUNT_OF(kinds); k++) {
        mlxd_tokenizer *t = open_golden(kinds[k]);
        for (size_t i = 0; i < MLXD_COUNT_OF(units); i++) {
            size_t unit = strlen(units[i]), len = (1u << 18) / unit * unit;
            uint8_t *text = malloc(len);
            for (size_t at = 0; at < len; at += unit)
                memcpy(text + at, units[i], unit);
            clock_t begin = clock();
            encode(t, (mlxd_slice){text, len}, true, &ids);
            double ms = 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC;
            if (ms > 300)
                print_message("%s, unit %zu: %zu ids, %.0f ms\n", kinds[k], i, ids.count, ms);
            free(text);
        }
        mlxd_tokenizer_close(t);
    }
    mlxd_tokens_deinit(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_libraries),
        cmocka_unit_test(gguf_names_mean_the_same),
        cmocka_unit_test(bos_and_ends),
        cmocka_unit_test(decode_of_encode_is_the_text),
        cmocka_unit_test(streams_equal_one_piece),
        cmocka_unit_test(characters_without_a_token),
        cmocka_unit_test(merges_make_no_control_token),
        cmocka_unit_test(guarded_tokens),
        cmocka_unit_test(flags_of_added_tokens),
        cmocka_unit_test(parts_that_are_not_trusted),
        cmocka_unit_test(more_tokens_than_rows),
        cmocka_unit_test(bos_and_eos_beyond_the_rows),
        cmocka_unit_test(unknown_parts_are_refused_by_name),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test(where_bos_and_eos_come_from),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(hostile_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
