/* test_hub_files.c - listings of the hub, honest and not, the Link header, and which files of a
 * repository are chosen. */
#include "base/mem.h"
#include "hub/choose.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SHA1 "0123456789abcdef0123456789abcdef01234567"
#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"
#define ENTRY(path) "{\"type\":\"file\",\"path\":\"" path "\",\"size\":5,\"oid\":\"" SHA1 "\"}"

/* Reads one page and sorts. */
static mlxd_err read_page(mlxd_hub_files *f, const char *json, mlxd_why *why) {
    assert_int_equal(mlxd_hub_files_init(f, why), MLXD_OK);
    mlxd_err err = mlxd_hub_files_add_page(f, mlxd_slice_str(json), why);
    return err ? err : mlxd_hub_files_sort(f, why);
}

static void test_listing(void **state) {
    (void)state;
    mlxd_hub_files f;
    mlxd_why why = {0};
    const char *json =
        "[{\"type\":\"directory\",\"path\":\"d\",\"oid\":\"x\",\"size\":0},"
        "{\"type\":\"file\",\"path\":\"d/w.safetensors\",\"size\":134,\"oid\":\"" SHA1
        "\",\"lfs\":{\"oid\":\"" SHA256 "\",\"size\":7000000000,\"pointerSize\":134},"
        "\"xetHash\":\"y\"}," ENTRY("config.json") "]";
    assert_int_equal(read_page(&f, json, &why), MLXD_OK);
    assert_int_equal(f.count, 2);
    const mlxd_hub_file *w = mlxd_hub_files_find(&f, "d/w.safetensors");
    assert_non_null(w);
    assert_true(w->size == 7000000000u);
    assert_int_equal(strlen(w->digest), 64);
    assert_null(strpbrk(w->digest, "ABCDEF")); /* it becomes a blob's name */
    assert_string_equal(mlxd_hub_files_find(&f, "config.json")->digest, SHA1);
    assert_null(mlxd_hub_files_find(&f, "d"));
    mlxd_hub_files_deinit(&f);
    assert_int_equal(read_page(&f, "[]", &why), MLXD_OK);
    assert_null(mlxd_hub_files_find(&f, "x"));
    mlxd_hub_files_deinit(&f);
}

static void test_listing_hostile(void **state) {
    (void)state;
    static const struct {
        const char *json, *reason;
    } cases[] = {
        {"", "empty text"},
        {"{}", "expected an array"},
        {"[1]", "no object"},
        {"[{\"type\":\"file\"}]", "no path"},
        {"[{\"type\":\"file\",\"path\":7}]", "no path"},
        {"[" ENTRY("../x") "]", "no path inside"},
        {"[" ENTRY("/etc/passwd") "]", "no path inside"},
        {"[" ENTRY("a/../../x") "]", "no path inside"},
        {"[" ENTRY("a\\u0000b") "]", "offset"},
        {"[" ENTRY("a\\nb") "]", "no path inside"},
        {"[" ENTRY("x") "," ENTRY("x") "]", "twice"},
        {"[" ENTRY("a/b") "," ENTRY("a") "]", "is a file"},
        {"[" ENTRY("a") "," ENTRY("a-b") "," ENTRY("a/c/d") "]", "is a file"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":5}]", "no digest"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":5,\"oid\":\"../../../../../../../../../../"
         "etc/"
         "passwd\"}]",
         "no digest"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":-1,\"oid\":\"" SHA1 "\"}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":1e30,\"oid\":\"" SHA1 "\"}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":20000000000000,\"oid\":\"" SHA1 "\"}]",
         "no size"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":5,\"oid\":\"" SHA1 "\",\"lfs\":{}}]",
         "no SHA-256"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":5,\"oid\":\"" SHA1
         "\",\"lfs\":{\"oid\":\"" SHA1 "\"}}]",
         "no SHA-256"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_hub_files f;
        mlxd_why why = {0};
        assert_int_equal(read_page(&f, cases[i].json, &why), MLXD_ERR_DATA);
        if (!strstr(why.text, cases[i].reason))
            fail_msg("%s: expected \"%s\", got: %s", cases[i].json, cases[i].reason, why.text);
        mlxd_hub_files_deinit(&f);
    }
}

static void test_many_files(void **state) {
    (void)state;
    mlxd_hub_files f;
    mlxd_why why = {0};
    assert_int_equal(mlxd_hub_files_init(&f, &why), MLXD_OK);
    mlxd_err err = MLXD_OK;
    for (unsigned i = 0; i <= MLXD_LIMIT_HUB_FILES && !err; i++) {
        char path[32];
        mlxd_hub_file *file;
        snprintf(path, sizeof path, "f%u", i);
        err = mlxd_hub_files_add(&f, mlxd_slice_str(path), &file, &why);
    }
    assert_int_equal(err, MLXD_ERR_UNSUPPORTED);
    assert_int_equal(f.count, MLXD_LIMIT_HUB_FILES);
    mlxd_hub_files_deinit(&f);
}

static void test_link(void **state) {
    (void)state;
    static const struct {
        const char *link, *next;
    } cases[] = {
        {"<https://h/a?cursor=x%3D>; rel=\"next\"", "https://h/a?cursor=x%3D"},
        {"<https://h/1>; rel=\"prev\", <https://h/2>; rel=\"next\"", "https://h/2"},
        {"<https://h/a,b>;rel=next", "https://h/a,b"},
        {"<https://h/1>; title=\"a, <b>; rel=next\"; rel=\"last\"", NULL},
        {"<https://h/1>; rel=\"nextish\"", NULL},
        {"<https://h/1>", NULL},
        {"<https://h/1; rel=next", NULL},
        {"<>; rel=next", NULL},
        {"", NULL},
        {"<<<<<,,,>>>;;;\"", NULL},
        {"<https://h/1>; REL = \"Next\"", "https://h/1"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        char next[64];
        bool found = mlxd_hub_link_next(cases[i].link, next, sizeof next);
        if (found != (cases[i].next != NULL) || (found && strcmp(next, cases[i].next) != 0))
            fail_msg("%s: %s", cases[i].link, found ? next : "nothing");
    }
    char small[8];
    assert_false(mlxd_hub_link_next("<https://h/a>; rel=next", small, sizeof small));
}

/* ---- choice ---- */

static void make(mlxd_hub_files *f, const char *const *paths, size_t count) {
    mlxd_why why;
    assert_int_equal(mlxd_hub_files_init(f, &why), MLXD_OK);
    for (size_t i = 0; i < count; i++) {
        mlxd_hub_file *file;
        assert_int_equal(mlxd_hub_files_add(f, mlxd_slice_str(paths[i]), &file, &why), MLXD_OK);
        file->size = 1000;
    }
    assert_int_equal(mlxd_hub_files_sort(f, &why), MLXD_OK);
}

/* The chosen paths, joined by blanks; or "ERROR text". */
static const char *chosen(const mlxd_hub_files *f, const char *name, const char *index_json) {
    static char out[2048];
    mlxd_hub_choice c;
    mlxd_hub_name n;
    mlxd_why why = {0};
    assert_int_equal(mlxd_hub_name_parse(&n, name, "https://h", &why), MLXD_OK);
    mlxd_err err = mlxd_hub_choose(&c, f, &n, NULL, 0, &why);
    if (!err && c.index && index_json)
        err = mlxd_hub_choose_shards(&c, f, mlxd_slice_str(index_json), &why);
    out[0] = 0;
    for (size_t i = 0; i < f->count && !err; i++)
        if (c.wanted[i]) {
            size_t len = strlen(out);
            snprintf(out + len, sizeof out - len, "%s%s", len ? " " : "", f->items[i].path);
        }
    mlxd_hub_choice_deinit(&c);
    if (err)
        snprintf(out, sizeof out, "%s: %s", mlxd_err_name(err), why.text);
    return out;
}

static void test_choose_safetensors(void **state) {
    (void)state;
    static const char *const paths[] = {"config.json",
                                        "README.md",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "model.safetensors.index.json",
                                        "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors",
                                        "consolidated.safetensors",
                                        "pytorch_model.bin",
                                        "original/model.safetensors",
                                        "onnx/model.onnx",
                                        "chat_template.jinja",
                                        "adapter_model.safetensors"};
    mlxd_hub_files f;
    make(&f, paths, MLXD_COUNT_OF(paths));
    static const char index[] = "{\"metadata\":{},\"weight_map\":{"
                                "\"a\":\"model-00001-of-00002.safetensors\","
                                "\"b\":\"model-00002-of-00002.safetensors\","
                                "\"c\":\"model-00001-of-00002.safetensors\"}}";
    assert_string_equal(chosen(&f, "o/n", index),
                        "chat_template.jinja config.json model-00001-of-00002.safetensors "
                        "model-00002-of-00002.safetensors model.safetensors.index.json "
                        "tokenizer.json tokenizer_config.json");
    assert_non_null(strstr(chosen(&f, "o/n", "{\"weight_map\":{\"a\":\"../x\"}}"), "plain name"));
    assert_non_null(strstr(chosen(&f, "o/n", "{\"weight_map\":{\"a\":\"y\"}}"), "not there"));
    assert_non_null(strstr(chosen(&f, "o/n", "{\"weight_map\":{}}"), "expected an object"));
    assert_non_null(strstr(chosen(&f, "o/n", "[]"), "expected an object"));
    assert_non_null(strstr(chosen(&f, "o/n", "{"), "offset"));
    assert_non_null(strstr(chosen(&f, "o/n:Q8_0", NULL), "no GGUF files"));
    assert_string_equal(chosen(&f, "o/n/README.md", NULL), "README.md");
    assert_non_null(strstr(chosen(&f, "o/n/nothing", NULL), "not found"));
    mlxd_hub_files_deinit(&f);
    static const char *const single[] = {"config.json", "model.safetensors", "vocab.json",
                                         "model-00001-of-00001.safetensors", "merges.txt"};
    make(&f, single, MLXD_COUNT_OF(single));
    assert_string_equal(chosen(&f, "o/n", NULL),
                        "config.json merges.txt model.safetensors vocab.json");
    mlxd_hub_files_deinit(&f);
    static const char *const none[] = {"config.json", "pytorch_model.bin"};
    make(&f, none, MLXD_COUNT_OF(none));
    assert_non_null(strstr(chosen(&f, "o/n", NULL), "no weights"));
    mlxd_hub_files_deinit(&f);
}

static void test_choose_gguf(void **state) {
    (void)state;
    static const char *const paths[] = {"m-IQ2_XXS.gguf",
                                        "m-Q4_K_M.gguf",
                                        "m-Q4_K_S.gguf",
                                        "m-UD-Q4_K_XL.gguf",
                                        "mmproj-F16.gguf",
                                        "m.bf16.gguf",
                                        "imatrix.gguf",
                                        "mtp-m-Q8_0.gguf",
                                        "config.json",
                                        "Q8_0/m-Q8_0-00001-of-00003.gguf",
                                        "Q8_0/m-Q8_0-00001-of-00003.gguf.md5",
                                        "Q8_0/m-Q8_0-00002-of-00003.gguf",
                                        "Q8_0/m-Q8_0-00003-of-00003.gguf"};
    mlxd_hub_files f;
    make(&f, paths, MLXD_COUNT_OF(paths));
    const char *parts = "Q8_0/m-Q8_0-00001-of-00003.gguf Q8_0/m-Q8_0-00002-of-00003.gguf "
                        "Q8_0/m-Q8_0-00003-of-00003.gguf";
    assert_string_equal(chosen(&f, "o/n", NULL), "m-Q4_K_M.gguf");
    assert_string_equal(chosen(&f, "o/n:q4_k_s", NULL), "m-Q4_K_S.gguf");
    assert_string_equal(chosen(&f, "o/n:Q4_K_XL", NULL), "m-UD-Q4_K_XL.gguf");
    assert_string_equal(chosen(&f, "o/n:ud-q4_k_xl", NULL), "m-UD-Q4_K_XL.gguf");
    assert_string_equal(chosen(&f, "o/n:BF16", NULL), "m.bf16.gguf");
    assert_string_equal(chosen(&f, "o/n:iq2_xxs", NULL), "m-IQ2_XXS.gguf");
    assert_string_equal(chosen(&f, "o/n:Q8_0", NULL), parts);
    assert_string_equal(chosen(&f, "o/n/Q8_0/m-Q8_0-00002-of-00003.gguf", NULL), parts);
    const char *text = chosen(&f, "o/n:Q5_0", NULL);
    assert_non_null(strstr(text, "has no Q5_0"));
    assert_non_null(strstr(text, "IQ2_XXS"));
    assert_null(strstr(text, "mmproj"));
    mlxd_hub_files_deinit(&f);
}

static void test_choose_unclear(void **state) {
    (void)state;
    mlxd_hub_files f;
    static const char *const two[] = {"a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "b-Q8_0.gguf"};
    make(&f, two, MLXD_COUNT_OF(two));
    assert_non_null(strstr(chosen(&f, "o/n", NULL), "2 models that fit"));
    assert_non_null(strstr(chosen(&f, "o/n:Q4_K_M", NULL), "2 models that fit"));
    assert_string_equal(chosen(&f, "o/n:Q8_0", NULL), "b-Q8_0.gguf");
    assert_string_equal(chosen(&f, "o/n:b-Q4_K_M", NULL), "b-Q4_K_M.gguf");
    mlxd_hub_files_deinit(&f);
    static const char *const odd[] = {"first.gguf", "second.gguf"};
    make(&f, odd, MLXD_COUNT_OF(odd));
    assert_non_null(strstr(chosen(&f, "o/n", NULL), "2 models that fit"));
    assert_string_equal(chosen(&f, "o/n:second", NULL), "second.gguf");
    mlxd_hub_files_deinit(&f);
    static const char *const one[] = {"whatever.gguf"};
    make(&f, one, 1);
    assert_string_equal(chosen(&f, "o/n", NULL), "whatever.gguf");
    mlxd_hub_files_deinit(&f);
    static const char *const missing[] = {"m-Q8_0-00001-of-00003.gguf",
                                          "m-Q8_0-00003-of-00003.gguf"};
    make(&f, missing, MLXD_COUNT_OF(missing));
    assert_non_null(strstr(chosen(&f, "o/n", NULL), "2 of its 3 parts"));
    mlxd_hub_files_deinit(&f);
    make(&f, NULL, 0);
    assert_non_null(strstr(chosen(&f, "o/n", NULL), "no weights"));
    mlxd_hub_files_deinit(&f);
}

static void test_choose_patterns(void **state) {
    (void)state;
    static const char *const paths[] = {"a.json", "b.json", "c-Q8_0.gguf", "d/e.json"};
    static const char *const patterns[] = {"[ab].json", "*.gguf"}, *const none[] = {"*.bin"};
    mlxd_hub_files f;
    mlxd_hub_choice c;
    mlxd_hub_name n = {.repo = "o/n", .revision = "main"};
    mlxd_why why = {0};
    make(&f, paths, MLXD_COUNT_OF(paths));
    assert_int_equal(mlxd_hub_choose(&c, &f, &n, patterns, 2, &why), MLXD_OK);
    assert_true(c.wanted[0] && c.wanted[1] && c.wanted[2] && !c.wanted[3]);
    assert_string_equal(c.open, "c-Q8_0.gguf");
    mlxd_hub_choice_deinit(&c);
    assert_int_equal(mlxd_hub_choose(&c, &f, &n, none, 1, &why), MLXD_ERR_NOTFOUND);
    mlxd_hub_files_deinit(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_listing),
                                       cmocka_unit_test(test_listing_hostile),
                                       cmocka_unit_test(test_many_files),
                                       cmocka_unit_test(test_link),
                                       cmocka_unit_test(test_choose_safetensors),
                                       cmocka_unit_test(test_choose_gguf),
                                       cmocka_unit_test(test_choose_unclear),
                                       cmocka_unit_test(test_choose_patterns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
