/* test_tokenizer.c - text to ids, against Hugging Face tokenizers (golden files) on three
 * vocabularies; control and user-defined tokens; round trips; files that must be refused.
 */
#include "model/tokenizer.h"

#include "base/thread.h"
#include "format/json.h"
#include "mini_gguf.h"

#include <time.h>

typedef struct fixture {
    mini_gguf file;
    mlxd_tokenizer *t;
} fixture;

static void open_vocab(fixture *f, const mini_vocab *v) {
    mlxd_why why = {{0}};
    if (mlxd_tokenizer_open(&f->t, mini_vocab_open(&f->file, v), &why))
        fail_msg("%s", why.text);
}

static void close_vocab(fixture *f) {
    mlxd_tokenizer_close(f->t);
    mini_close(&f->file);
}

/* A tokenizer from a file on disk; it copies what it keeps. */
static mlxd_tokenizer *open_file(const char *path) {
    size_t len = 0;
    uint8_t *data = mini_read_file(path, &len);
    if (!data)
        fail_msg("missing file %s", path);
    mlxd_gguf *g;
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    if (mlxd_gguf_open(&g, (mlxd_slice){data, len}, path, &why) || mlxd_tokenizer_open(&t, g, &why))
        fail_msg("%s: %s", path, why.text);
    mlxd_gguf_close(g);
    memset(data, 0xff, len);
    free(data);
    return t;
}

static void golden_path(char *out, size_t size, const char *name) {
    snprintf(out, size, "%s/%s", MLXD_GOLDEN, name);
}

static void encode(const mlxd_tokenizer *t, mlxd_slice text, bool special, mlxd_tokens *out) {
    mlxd_why why = {{0}};
    out->count = 0;
    if (mlxd_tokenizer_encode(t, text, special, 0, out, &why))
        fail_msg("%s", why.text);
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

static int base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(digits, c) : NULL;
    return p ? (int)(p - digits) : -1;
}

static void read_base64(mlxd_slice in, mlxd_buf *out) {
    uint32_t bits = 0;
    mlxd_buf_clear(out);
    for (size_t i = 0, have = 0; i < in.len && in.data[i] != '='; i++) {
        int digit = base64_digit((char)in.data[i]);
        assert_true(digit >= 0);
        bits = bits << 6 | (uint32_t)digit;
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

/* How many of the entries of list `name` come out otherwise. */
static size_t check_list(const mlxd_tokenizer *t, const mlxd_json *root, const char *name,
                         const char *key, bool special) {
    const mlxd_json *list = mlxd_json_find(root, name);
    assert_non_null(list);
    size_t wrong = 0;
    mlxd_buf text;
    mlxd_buf_init(&text, 0);
    mlxd_tokens got = {0};
    for (size_t i = 0; i < mlxd_json_count(list); i++) {
        mlxd_slice base64;
        const mlxd_json *row = mlxd_json_at(list, i);
        assert_int_equal(mlxd_json_get_str(mlxd_json_find(row, "text"), &base64), MLXD_OK);
        read_base64(base64, &text);
        encode(t, (mlxd_slice){text.data, text.len}, special, &got);
        if (same_ids(mlxd_json_find(row, key), &got))
            continue;
        wrong++;
        print_message("%s, entry %zu: other ids for base64 %.200s\n", name, i, base64.data);
    }
    mlxd_tokens_deinit(&got);
    mlxd_buf_deinit(&text);
    return wrong;
}

static void check_golden(const mlxd_tokenizer *t, const char *name) {
    char path[4096];
    golden_path(path, sizeof path, name);
    size_t len = 0;
    uint8_t *text = mini_read_file(path, &len);
    if (!text)
        fail_msg("missing golden file %s", path);
    mlxd_json_doc *doc;
    mlxd_why why = {{0}};
    if (mlxd_json_parse(&doc, (mlxd_slice){text, len}, 8, &why))
        fail_msg("%s: %s", path, why.text);
    free(text);
    const mlxd_json *root = mlxd_json_root(doc);
    assert_true(mlxd_json_count(mlxd_json_find(root, "plain")) > 100);
    size_t wrong = check_list(t, root, "plain", "ids", false);
    wrong += check_list(t, root, "plain", "ids", true);
    wrong += check_list(t, root, "lossy", "ids", false);
    wrong += check_list(t, root, "special", "ids", true);
    wrong += check_list(t, root, "special", "ids_plain", false);
    assert_int_equal(wrong, 0);
    /* Characters younger than the tables of the pcre2 that is installed: information only. */
    size_t newer = check_list(t, root, "newer_unicode", "ids", false);
    if (newer)
        print_message("%s: %zu strings with new characters differ\n", name, newer);
    mlxd_json_close(doc);
}

static void tiny_smollm_equals_huggingface(void **state) {
    (void)state;
    char path[4096];
    golden_path(path, sizeof path, "tiny-f32.gguf");
    mlxd_tokenizer *t = open_file(path);
    check_golden(t, "tiny-smollm.tokenizer.json");
    mlxd_tokenizer_close(t);
}

static void tiny_gpt2_equals_huggingface(void **state) {
    (void)state;
    char path[4096];
    golden_path(path, sizeof path, "tiny-gpt2.gguf");
    mlxd_tokenizer *t = open_file(path);
    check_golden(t, "tiny-gpt2.tokenizer.json");
    mlxd_tokenizer_close(t);
}

static void real_model_equals_huggingface(void **state) {
    (void)state;
    const char *path = getenv("MLXD_TEST_MODEL");
    if (!path)
        skip();
    clock_t begin = clock();
    mlxd_tokenizer *t = open_file(path);
    print_message("opened in %.0f ms (reading included)\n",
                  1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    assert_int_equal(mlxd_tokenizer_vocab(t), 49152);
    assert_int_equal(mlxd_tokenizer_bos(t), 1);
    assert_int_equal(mlxd_tokenizer_eos(t), 2);
    assert_false(mlxd_tokenizer_add_bos(t));
    size_t ends = 0;
    for (int32_t id = -1; id < 49200; id++)
        ends += mlxd_tokenizer_is_end(t, id);
    assert_int_equal(ends, 2);
    assert_true(mlxd_tokenizer_is_end(t, 0) && mlxd_tokenizer_is_end(t, 2));
    check_golden(t, "tokenizer.json");
    mlxd_tokenizer_close(t);
}

/* ---- round trips ---- */

static void random_text(unsigned *seed, mlxd_buf *out) {
    static const char *const pieces[] = {"the ",       " and", "\n\n", "    ", "don't",  "12345",
                                         "\t",         "é",    "世界", "😀",    "<|",     "|>",
                                         "<|im_end|>", "\r\n", "...",  " ½",   "e\u0301"};
    mlxd_buf_clear(out);
    for (int n = rand_r(seed) % 40; n > 0; n--) {
        if (rand_r(seed) % 2) {
            mlxd_buf_add_str(out, pieces[(size_t)rand_r(seed) % MLXD_COUNT_OF(pieces)]);
            continue;
        }
        uint32_t cp = (uint32_t)rand_r(seed) % (rand_r(seed) % 2 ? 0x180 : 0x110000);
        uint8_t utf8[4];
        if (cp < 0xd800 || cp > 0xdfff)
            mlxd_buf_add(out, utf8, mlxd_utf8_put(cp, utf8));
    }
}

static void decode_of_encode_is_the_text(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    static const char *const files[] = {"tiny-f32.gguf", "tiny-gpt2.gguf", "tiny-untied.gguf"};
    mlxd_buf text, back;
    mlxd_buf_init(&text, 0);
    mlxd_buf_init(&back, 0);
    mlxd_tokens ids = {0};
    for (size_t i = 0; i < MLXD_COUNT_OF(files); i++) {
        char path[4096];
        golden_path(path, sizeof path, files[i]);
        mlxd_tokenizer *t = open_file(path);
        for (int round = 0; round < 3000; round++) {
            random_text(&seed, &text);
            encode(t, (mlxd_slice){text.data, text.len}, false, &ids);
            mlxd_detok d;
            mlxd_detok_init(&d);
            mlxd_buf_clear(&back);
            for (size_t k = 0; k < ids.count; k++) {
                assert_false(mlxd_tokenizer_is_control(t, ids.ids[k]));
                mlxd_detok_add(&d, t, ids.ids[k], &back);
            }
            assert_int_equal(d.n_held, 0);
            assert_int_equal(back.len, text.len);
            assert_memory_equal(mlxd_buf_str(&back), mlxd_buf_str(&text), text.len);
        }
        mlxd_tokenizer_close(t);
    }
    mlxd_tokens_deinit(&ids);
    mlxd_buf_deinit(&text);
    mlxd_buf_deinit(&back);
}

/* ---- special tokens ---- */

static void control_tokens_only_in_trusted_text(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    int32_t unknown = mini_add(v, "<unk>", 2), unused = mini_add(v, "<pad1>", 5);
    int32_t longer = mini_add(v, "<|im_end|>>", 3);
    fixture f;
    open_vocab(&f, v);
    EXPECT_IDS(f.t, "a<|im_end|>b", true, MINI_BYTE('a'), 2, MINI_BYTE('b'));
    EXPECT_IDS(f.t, "<|im_end|>><|im_end|> >", true, longer, 2, MINI_BYTE(' '), MINI_BYTE('>'));
    EXPECT_IDS(f.t, "<unk><|im_start|>", true, unknown, 1);
    expect_ids(f.t, "", true, 0, NULL);
    expect_ids(f.t, "", false, 0, NULL);
    mlxd_tokens ids = {0};
    static const char text[] = "<|im_end|><|im_end|>><unk><pad1><|endoftext|><0x41>";
    encode(f.t, mlxd_slice_str(text), false, &ids);
    assert_int_equal(ids.count, strlen(text));
    for (size_t i = 0; i < ids.count; i++)
        assert_int_equal(ids.ids[i], MINI_BYTE(text[i]));
    encode(f.t, mlxd_slice_str("<pad1>"), true, &ids);
    assert_int_equal(ids.count, 6);
    mlxd_tokens_deinit(&ids);
    assert_true(mlxd_tokenizer_is_control(f.t, unknown));
    assert_false(mlxd_tokenizer_is_control(f.t, unused));
    assert_int_equal(mlxd_tokenizer_bytes(f.t, unused).len, 0);
    close_vocab(&f);
    free(v);
}

static void user_defined_tokens_in_every_text(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    int32_t two = mini_add(v, "  ", 4), three = mini_add(v, "   ", 4);
    int32_t tool = mini_add(v, "<tool>", 4), tools = mini_add(v, "<tool>s", 4);
    int32_t merged = mini_merge(v, " ", " "); /* the same bytes as `two`, but made by a merge */
    fixture f;
    open_vocab(&f, v);
    for (int special = 0; special < 2; special++) {
        EXPECT_IDS(f.t, "<tool>s<tool>", special, tools, tool);
        EXPECT_IDS(f.t, "a    b", special, MINI_BYTE('a'), three, MINI_BYTE(' '), MINI_BYTE('b'));
        EXPECT_IDS(f.t, "     ", special, three, two); /* longest first, not best fit */
        EXPECT_IDS(f.t, "<<tool>", special, MINI_BYTE('<'), tool);
    }
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str("  ")), two);
    assert_int_not_equal(merged, two);
    assert_false(mlxd_tokenizer_is_control(f.t, tool));
    close_vocab(&f);
    free(v);
}

/* Types that converters got wrong: what looks like a control token must not be reachable. */
static void wrong_types_are_corrected(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    int32_t user = mini_add(v, "<|tool|>", 4), plain = mini_add(v, "<|eot_id|>", 1);
    int32_t harmless = mini_add(v, "<|what|>", 1), eos = mini_add(v, "<done>", 4);
    v->eos = eos;
    fixture f;
    open_vocab(&f, v);
    assert_true(mlxd_tokenizer_is_control(f.t, user));
    assert_false(mlxd_tokenizer_is_end(f.t, user));
    assert_true(mlxd_tokenizer_is_control(f.t, plain));
    assert_true(mlxd_tokenizer_is_end(f.t, plain));
    assert_false(mlxd_tokenizer_is_control(f.t, harmless));
    assert_true(mlxd_tokenizer_is_end(f.t, eos)); /* the file says so */
    assert_true(mlxd_tokenizer_is_end(f.t, 0));
    assert_true(mlxd_tokenizer_is_end(f.t, 2));
    assert_false(mlxd_tokenizer_is_end(f.t, 1));
    assert_false(mlxd_tokenizer_is_end(f.t, -1));
    mlxd_tokens ids = {0};
    encode(f.t, mlxd_slice_str("<|tool|><|eot_id|>"), false, &ids);
    assert_int_equal(ids.count, 18);
    mlxd_tokens_deinit(&ids);
    close_vocab(&f);
    free(v);
}

static void find_and_bytes(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("gpt-2");
    int32_t hi = mini_merge(v, " ", "h"), empty = mini_add(v, "", 1),
            byte = mini_add(v, "<0x0a>", 6);
    v->bos = v->eos = -1;
    fixture f;
    open_vocab(&f, v);
    assert_int_equal(mlxd_tokenizer_bos(f.t), -1);
    assert_int_equal(mlxd_tokenizer_eos(f.t), -1);
    assert_int_equal(mlxd_tokenizer_vocab(f.t), v->n_tokens);
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str(" h")), hi);
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str("<|im_end|>")), 2);
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str("<|im_end|")), -1);
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str("<|im_end|>x")), -1);
    assert_int_equal(mlxd_tokenizer_find(f.t, mlxd_slice_str("")), -1);
    for (unsigned b = 0; b < 256; b++) {
        uint8_t c = (uint8_t)b;
        assert_int_equal(mlxd_tokenizer_find(f.t, (mlxd_slice){&c, 1}), MINI_BYTE(b));
        mlxd_slice s = mlxd_tokenizer_bytes(f.t, (int32_t)MINI_BYTE(b));
        assert_true(s.len == 1 && s.data[0] == b);
    }
    assert_true(mlxd_slice_eq(mlxd_tokenizer_bytes(f.t, byte), mlxd_slice_str("\n")));
    assert_int_equal(mlxd_tokenizer_bytes(f.t, empty).len, 0);
    assert_int_equal(mlxd_tokenizer_bytes(f.t, -1).len, 0);
    assert_int_equal(mlxd_tokenizer_bytes(f.t, (int32_t)v->n_tokens).len, 0);
    close_vocab(&f);
    free(v);
}

/* ---- bounds ---- */

static void bounds_and_bad_text(void **state) {
    (void)state;
    fixture f;
    mini_vocab *v = mini_vocab_new("smollm");
    open_vocab(&f, v);
    mlxd_tokens ids = {0};
    mlxd_why why;
    mlxd_slice text = mlxd_slice_str("abc<|im_end|>");
    assert_int_equal(mlxd_tokenizer_encode(f.t, text, true, 4, &ids, &why), MLXD_OK);
    assert_int_equal(ids.count, 4);
    /* What is there already counts. */
    assert_int_equal(mlxd_tokenizer_encode(f.t, text, true, 7, &ids, &why), MLXD_ERR_RANGE);
    assert_string_equal(why.text, "the text has more than 7 tokens");
    assert_true(ids.count <= 7);
    ids.count = 0;
    assert_int_equal(mlxd_tokenizer_encode(f.t, text, true, 3, &ids, &why), MLXD_ERR_RANGE);
    ids.count = 0;
    static const char *const bad[] = {"abc\xff", "abc\xc3", "abc\xed\xa0\x80", "abc\xc0\x80x"};
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        assert_int_equal(mlxd_tokenizer_encode(f.t, mlxd_slice_str(bad[i]), false, 0, &ids, &why),
                         MLXD_ERR_INVALID);
        assert_string_equal(why.text, "the text is not UTF-8 at byte 3");
        assert_int_equal(ids.count, 0);
    }
    mlxd_slice huge = {text.data, (size_t)MLXD_LIMIT_TEXT_BYTES + 1}; /* refused unread */
    assert_int_equal(mlxd_tokenizer_encode(f.t, huge, false, 0, &ids, &why), MLXD_ERR_RANGE);
    mlxd_tokens_deinit(&ids);
    close_vocab(&f);
    free(v);
}

/* Text that would be slow if anything were quadratic; the test's time limit is the assertion. */
static void hostile_texts(void **state) {
    (void)state;
    static const char *const units[] = {"a",  " ",    "\n", "1",  "😀\u200d",     "<|im_en",
                                        "<|", " the", "'",  "世", "<|im_start|>"};
    const char *path = getenv("MLXD_TEST_MODEL");
    char tiny[4096];
    golden_path(tiny, sizeof tiny, "tiny-f32.gguf");
    mlxd_tokenizer *t = open_file(path ? path : tiny);
    mlxd_tokens ids = {0};
    for (size_t i = 0; i < MLXD_COUNT_OF(units); i++) {
        double ms[2];
        for (size_t k = 0; k < 2; k++) {
            size_t unit = strlen(units[i]), len = (k ? 1u << 20 : 1u << 19) / unit * unit;
            uint8_t *text = malloc(len);
            for (size_t at = 0; at < len; at += unit)
                memcpy(text + at, units[i], unit);
            clock_t begin = clock();
            encode(t, (mlxd_slice){text, len}, true, &ids);
            ms[k] = 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC;
            assert_true(ids.count > 0);
            free(text);
        }
        print_message("1 MiB, unit %zu: %zu ids, %.0f ms (half of it: %.0f ms)\n", i, ids.count,
                      ms[1], ms[0]);
    }
    mlxd_tokens_deinit(&ids);
    mlxd_tokenizer_close(t);
}

/* Any number of threads may encode with one tokenizer. */

typedef struct encoder {
    const mlxd_tokenizer *t;
    mlxd_slice text;
    mlxd_tokens ids;
    mlxd_err err;
} encoder;

static void encode_often(void *arg) {
    encoder *e = arg;
    for (int i = 0; i < 50 && !e->err; i++) {
        e->ids.count = 0;
        e->err = mlxd_tokenizer_encode(e->t, e->text, i % 2, 0, &e->ids, NULL);
    }
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    char path[4096];
    golden_path(path, sizeof path, "tiny-f32.gguf");
    mlxd_tokenizer *t = open_file(path);
    mlxd_buf text;
    mlxd_buf_init(&text, 0);
    for (int i = 0; i < 50; i++)
        mlxd_buf_addf(&text, "Hello the world's %d\n\n  世界 😀 <|im_", i);
    encoder e[4] = {{0}};
    mlxd_thread threads[4];
    for (size_t i = 0; i < 4; i++) {
        e[i] = (encoder){.t = t, .text = {text.data, text.len}};
        assert_int_equal(
            mlxd_thread_start(&threads[i], "encode", MLXD_PRIORITY_NORMAL, encode_often, &e[i]),
            MLXD_OK);
    }
    mlxd_tokens alone = {0};
    encode(t, e[0].text, false, &alone);
    for (size_t i = 0; i < 4; i++) {
        mlxd_thread_join(&threads[i]);
        assert_int_equal(e[i].err, MLXD_OK);
        assert_int_equal(e[i].ids.count, alone.count);
        assert_memory_equal(e[i].ids.ids, alone.ids, alone.count * sizeof *alone.ids);
        mlxd_tokens_deinit(&e[i].ids);
    }
    mlxd_tokens_deinit(&alone);
    mlxd_buf_deinit(&text);
    mlxd_tokenizer_close(t);
}

/* ---- bytes without a token ---- */

/* As Hugging Face: left out, and what is on both sides of it becomes neighbours. */
static void bytes_without_a_token_are_left_out(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    strcpy(v->tokens[MINI_BYTE(0x04)], "zz4");
    strcpy(v->tokens[MINI_BYTE(0xf1)], "zz5");
    int32_t pair = mini_merge(v, "!", "!");
    fixture f;
    open_vocab(&f, v);
    EXPECT_IDS(f.t, "!\x04!", false, pair);
    EXPECT_IDS(f.t, "a\x04", false, MINI_BYTE('a'));
    EXPECT_IDS(f.t, "\U00040000", false, MINI_BYTE(0x80), MINI_BYTE(0x80), MINI_BYTE(0x80));
    expect_ids(f.t, "\x04\x04", false, 0, NULL);
    close_vocab(&f);
    free(v);
}

/* ---- files that must be refused ---- */

static void refuse(const mini_vocab *v, mlxd_err err, const char *part) {
    mini_gguf file;
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    mlxd_err got = mlxd_tokenizer_open(&t, mini_vocab_open(&file, v), &why);
    if (got != err || !strstr(why.text, part))
        fail_msg("error %d (%s), expected %d (%s)", got, why.text, err, part);
    assert_null(t);
    mini_close(&file);
}

static void refuses_bad_vocabularies(void **state) {
    (void)state;
    mini_vocab *good = mini_vocab_new("smollm"), *v = malloc(sizeof *v);
    mini_merge(good, "a", "b");
    fixture f;
    open_vocab(&f, good);
    close_vocab(&f);
#define CASE(change, err, part)                                                                    \
    do {                                                                                           \
        *v = *good;                                                                                \
        change;                                                                                    \
        refuse(v, err, part);                                                                      \
    } while (0)
    CASE(v->model = NULL, MLXD_ERR_UNSUPPORTED, "tokenizer.ggml.model is missing");
    CASE(v->model = "bert", MLXD_ERR_UNSUPPORTED, "\"bert\" is not known; known: gpt2, llama");
    CASE(v->model = "llama", MLXD_ERR_DATA, "no array tokenizer.ggml.scores");
    CASE(v->pre = NULL, MLXD_ERR_UNSUPPORTED, "tokenizer.ggml.pre is missing");
    CASE(v->pre = "default", MLXD_ERR_UNSUPPORTED, "\"default\" is not known");
    CASE(v->n_tokens = v->n_types = 0, MLXD_ERR_DATA, "0 tokens");
    CASE(v->n_types--, MLXD_ERR_DATA, "types for");
    CASE(v->types[7] = 0, MLXD_ERR_DATA, "token 7 has type 0");
    CASE(v->types[7] = -1, MLXD_ERR_DATA, "token 7 has type -1");
    CASE(v->types[7] = 7, MLXD_ERR_DATA, "token 7 has type 7");
    CASE(mini_add(v, "x y", 1), MLXD_ERR_DATA, "token 260, \"x y\"");
    CASE(mini_add(v, "\xff\xfe", 1), MLXD_ERR_DATA, "token 260 is not UTF-8 at byte 0");
    CASE(mini_add(v, "<\xed\xa0\x80>", 3), MLXD_ERR_DATA, "token 260 is not UTF-8 at byte 1");
    CASE(mini_add(v, "ab", 1), MLXD_ERR_DATA, "tokens 259 and 260 are the same");
    CASE(mini_add(v, "<|im_end|>", 4), MLXD_ERR_DATA, "tokens 2 and 260 are the same");
    CASE(mini_add(v, "<0x-1>", 6), MLXD_ERR_DATA, "\"<0x-1>\", is a byte");
    CASE(mini_add(v, "<0x123>", 6), MLXD_ERR_DATA, "is a byte");
    CASE(mini_add(v, "<0xFG>", 6), MLXD_ERR_DATA, "is a byte");
    CASE(v->eos = 260, MLXD_ERR_DATA, "eos_token_id: token 260 of a vocabulary of 260");
    CASE(v->bos = 0xffffffff, MLXD_ERR_DATA, "bos_token_id");
    CASE(v->eot = 100000, MLXD_ERR_DATA, "eot_token_id");
    CASE((v->bos = -1, v->add_bos = 1), MLXD_ERR_DATA, "add_bos_token");
    CASE(strcpy(v->tokens[MINI_BYTE('e')], "zz"), MLXD_ERR_DATA, "byte 0x65");
    CASE(strcpy(v->tokens[MINI_BYTE('\n')], "zz"), MLXD_ERR_DATA, "byte 0x0a");
    CASE(v->types[MINI_BYTE(' ')] = 3, MLXD_ERR_DATA, "byte 0x20");
    char long_text[MINI_TEXT] = "";
    memset(long_text, 'x', MLXD_LIMIT_SPECIAL_BYTES + 1);
    CASE(mini_add(v, long_text, 3), MLXD_ERR_DATA, "token 260 has 257 bytes");
    free(v);
    free(good);
}

static void refuses_bad_merges(void **state) {
    (void)state;
    mini_vocab *good = mini_vocab_new("smollm"), *v = malloc(sizeof *v);
    mini_merge(good, "a", "b");
    static const struct {
        const char *merge, *part;
    } cases[] = {
        {"a c", "merge 1, \"a c\": its result is no normal token"},
        {"a abcd", "its right half is no normal token"},
        {"xy b", "its left half is no normal token"},
        {"a b", "merges 0 and 1 are the same"},
        {"", "is not two tokens"},
        {"ab", "is not two tokens"},
        {" ab", "is not two tokens"},
        {"ab ", "is not two tokens"},
        {"a b c", "is not two tokens"},
        {"a \xff", "is not two tokens"},
        {"a \xe4\xb8\x96", "is not two tokens"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        *v = *good;
        strcpy(v->merges[v->n_merges++], cases[i].merge);
        refuse(v, MLXD_ERR_DATA, cases[i].part);
    }
    /* A merge must not make a control token: user text could become one. */
    *v = *good;
    strcpy(v->merges[v->n_merges++], "< |");
    mini_add(v, "<|", 3);
    refuse(v, MLXD_ERR_DATA, "its result is no normal token");
    free(v);
    free(good);
}

/* Keys of another type than they must have. */
static void refuses_keys_of_wrong_types(void **state) {
    (void)state;
    static const char *const texts[] = {"a"};
    static const int32_t numbers[] = {1};
    for (int i = 0; i < 4; i++) {
        mini_gguf m = {0};
        mini_put_str(&m, "general.architecture", "llama");
        mini_put_str(&m, "tokenizer.ggml.model", "gpt2");
        if (i == 0)
            mini_put_u32(&m, "tokenizer.ggml.pre", 1);
        else
            mini_put_str(&m, "tokenizer.ggml.pre", "gpt-2");
        if (i == 1)
            mini_put_i32s(&m, "tokenizer.ggml.tokens", numbers, 1);
        else
            mini_put_strs(&m, "tokenizer.ggml.tokens", texts, 1);
        if (i == 2)
            mini_put_strs(&m, "tokenizer.ggml.token_type", texts, 1);
        else if (i != 3)
            mini_put_i32s(&m, "tokenizer.ggml.token_type", numbers, 1);
        mlxd_tokenizer *t;
        mlxd_why why = {{0}};
        assert_int_equal(mlxd_tokenizer_open(&t, mini_open(&m), &why), MLXD_ERR_DATA);
        assert_non_null(strstr(why.text, "tokenizer.ggml."));
        mini_close(&m);
    }
}

/* Bytes of the metadata changed at random: opened or refused with a reason, and what was opened can
 * be used. */
static void damaged_files(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    char path[4096];
    golden_path(path, sizeof path, "tiny-gpt2.gguf");
    size_t len = 0, opened = 0, refused = 0;
    uint8_t *data = mini_read_file(path, &len);
    assert_non_null(data);
    uint8_t *end = data; /* of the metadata, roughly: where the name of the first tensor is */
    while (end < data + len && memcmp(end, "token_embd.weight", 17) != 0)
        end++;
    mlxd_tokens ids = {0};
    for (int round = 0; round < 3000; round++) {
        uint8_t *at = data + (size_t)rand_r(&seed) % (size_t)(end - data), old = *at;
        *at = rand_r(&seed) % 2 ? (uint8_t)rand_r(&seed) : (uint8_t)(old ^ 1u << rand_r(&seed) % 8);
        mlxd_gguf *g;
        mlxd_tokenizer *t;
        mlxd_why why = {{0}};
        if (mlxd_gguf_open(&g, (mlxd_slice){data, len}, "damaged", NULL) == MLXD_OK) {
            if (mlxd_tokenizer_open(&t, g, &why) == MLXD_OK) {
                encode(t, mlxd_slice_str("It's <|im_end|> 12 \n\n世界"), true, &ids);
                mlxd_tokenizer_close(t);
                opened++;
            } else {
                assert_true(strlen(why.text) > 10);
                refused++;
            }
            mlxd_gguf_close(g);
        }
        *at = old;
    }
    print_message("of 3000, %zu were opened, %zu refused here, the rest before\n", opened, refused);
    assert_true(opened > 100 && refused > 100);
    mlxd_tokens_deinit(&ids);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_smollm_equals_huggingface),
        cmocka_unit_test(tiny_gpt2_equals_huggingface),
        cmocka_unit_test(real_model_equals_huggingface),
        cmocka_unit_test(decode_of_encode_is_the_text),
        cmocka_unit_test(control_tokens_only_in_trusted_text),
        cmocka_unit_test(user_defined_tokens_in_every_text),
        cmocka_unit_test(wrong_types_are_corrected),
        cmocka_unit_test(find_and_bytes),
        cmocka_unit_test(bounds_and_bad_text),
        cmocka_unit_test(hostile_texts),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(bytes_without_a_token_are_left_out),
        cmocka_unit_test(refuses_bad_vocabularies),
        cmocka_unit_test(refuses_bad_merges),
        cmocka_unit_test(refuses_keys_of_wrong_types),
        cmocka_unit_test(damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
