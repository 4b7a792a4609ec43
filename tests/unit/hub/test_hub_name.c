/* test_hub_name.c - names of models as people write them, and what must not become a path. */
#include "base/mem.h"
#include "hub/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HUB "https://huggingface.co"

static void good(const char *text, const char *repo, const char *revision, const char *tag,
                 const char *file) {
    mlxd_hub_name n;
    mlxd_why why = {0};
    mlxd_err err = mlxd_hub_name_parse(&n, text, HUB, &why);
    if (err)
        fail_msg("%s: %s", text, why.text);
    assert_string_equal(n.repo, repo);
    assert_string_equal(n.revision, revision);
    assert_string_equal(n.tag, tag);
    assert_string_equal(n.file, file);
}

static void bad(const char *text, const char *reason) {
    mlxd_hub_name n;
    mlxd_why why = {0};
    if (mlxd_hub_name_parse(&n, text, HUB, &why) != MLXD_ERR_INVALID)
        fail_msg("%s: not refused", text);
    if (!strstr(why.text, reason))
        fail_msg("%s: expected \"%s\" in: %s", text, reason, why.text);
}

static void test_names(void **state) {
    (void)state;
    good("org/name", "org/name", "main", "", "");
    good("Qwen/Qwen3-0.6B_x.y", "Qwen/Qwen3-0.6B_x.y", "main", "", "");
    good("org/name:Q4_K_M", "org/name", "main", "Q4_K_M", "");
    good("org/name:q4_k_m@v1.0", "org/name", "v1.0", "q4_k_m", "");
    good("org/name@v1.0:Q8_0", "org/name", "v1.0", "Q8_0", "");
    good("org/name@refs/pr/12", "org/name", "refs/pr/12", "", "");
    good("org/name@feature/x", "org/name", "feature/x", "", "");
    good("org/name/file.gguf", "org/name", "main", "", "file.gguf");
    good("org/name/a/b.gguf@dev", "org/name", "dev", "", "a/b.gguf");
    good("hf://org/name", "org/name", "main", "", "");
    good("hf://org/name@dev/a/b.gguf", "org/name", "dev", "", "a/b.gguf");
    good("hf://org/name@refs/pr/1/b.gguf", "org/name", "refs/pr/1", "", "b.gguf");
    good("hf://org/name:Q8_0", "org/name", "main", "Q8_0", "");
    good("hf://gpt2", "gpt2", "main", "", "");
    good("hf://gpt2@dev:Q8_0", "gpt2", "dev", "Q8_0", "");
}

static void test_addresses(void **state) {
    (void)state;
    good(HUB "/org/name", "org/name", "main", "", "");
    good(HUB "/org/name/", "org/name", "main", "", "");
    good(HUB "/org/name?library=x#card", "org/name", "main", "", "");
    good("https://hf.co/org/name/tree/dev", "org/name", "dev", "", "");
    good("HTTPS://HuggingFace.co/org/name/blob/main/a/b.gguf", "org/name", "main", "", "a/b.gguf");
    good(HUB "/org/name/resolve/refs%2Fpr%2F1/b%20c.gguf?download=true", "org/name", "refs/pr/1",
         "", "b c.gguf");
    good(HUB "/org/name/resolve/refs/pr/1/b.gguf", "org/name", "refs/pr/1", "", "b.gguf");
    mlxd_hub_name n;
    assert_int_equal(mlxd_hub_name_parse(&n, "http://mirror:81/org/name", "http://mirror:81", NULL),
                     MLXD_OK);
    bad("http://mirror:81/org/name", "not that of the hub");
    bad("https://huggingface.co.evil.org/org/name", "not that of the hub");
    bad(HUB "/datasets", "not that of a model");
    bad(HUB "/org/name/commits/main", "not that of a model or of a file");
    bad(HUB "/org/name/tree/main/folder", "folder");
    bad(HUB "/org/name/blob/main/%2e%2e/x", "not relative and plain");
    bad(HUB "/org/name/blob/main/a%00b", "malformed");
    bad(HUB "/org/name/blob/main/a%zzb", "malformed");
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const not_begun[] = {
        "",          "model",      "model.gguf",  "/etc/passwd", "./a/b",    "../a/b",
        "~/a",       "org/",       "/name",       "org/..",      "../name",  "org/.",
        "o rg/name", "org/na\nme", "org/name--x", "-org/name",   "org/name."};
    for (size_t i = 0; i < MLXD_COUNT_OF(not_begun); i++)
        bad(not_begun[i], "does not begin with org/name");
    bad("hf://", "does not begin");
    bad("hf://..", "does not begin");
    bad("hf://a--b", "does not begin");
    bad("models/file.gguf", "reads like a file's path");
    bad("org/name:", "ends too early");
    bad("org/name@", "ends too early");
    bad("org/name/", "ends too early");
    bad("org/name:a:b", "twice");
    bad("org/name@a@b", "twice");
    bad("hf://org/name:Q8_0@main/f.gguf", "file and a quantization");
    bad("org/name:Q8/0", "character");
    bad("org/name/../x", "not relative");
    bad("org/name//x", "not relative");
    bad("org/name/a/./b", "not relative");
    bad("org/name@../../etc", "the revision is not one");
    bad("org/name@-x", "the revision is not one");
    bad("org/name@a b", "the revision is not one");
    char longer[3000];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    bad(longer, "");
    memcpy(longer, "org/name@", 9);
    bad(longer, "too long");
    memcpy(longer, "org/name/", 9);
    bad(longer, "too long");
}

static void test_paths(void **state) {
    (void)state;
    static const char *const fine[] = {"a", "a/b", "...", "a..b", ".gitattributes", "\xc3\xa4/x"};
    static const char *const wrong[] = {"",     "/a",   "a/",   "a//b", ".",    "..",
                                        "../x", "a/..", "a\\b", "a\nb", "\xff", "a/../b"};
    for (size_t i = 0; i < MLXD_COUNT_OF(fine); i++)
        assert_true(mlxd_hub_path_ok(mlxd_slice_str(fine[i])));
    for (size_t i = 0; i < MLXD_COUNT_OF(wrong); i++)
        assert_false(mlxd_hub_path_ok(mlxd_slice_str(wrong[i])));
    assert_false(mlxd_hub_path_ok((mlxd_slice){(const uint8_t *)"a\0b", 3}));
    char part[300];
    memset(part, 'x', sizeof part);
    assert_true(mlxd_hub_path_ok((mlxd_slice){(uint8_t *)part, 255}));
    assert_false(mlxd_hub_path_ok((mlxd_slice){(uint8_t *)part, 256}));
    assert_false(mlxd_hub_commit_ok(mlxd_slice_str("0123456789abcdef0123456789abcdef0123456")));
    assert_true(mlxd_hub_commit_ok(mlxd_slice_str("0123456789abcdef0123456789abcdef01234567")));
    assert_false(mlxd_hub_commit_ok(mlxd_slice_str("0123456789ABCDEF0123456789abcdef01234567")));
}

static void test_format(void **state) {
    (void)state;
    static const char *const same[] = {"org/name", "org/name:Q8_0", "org/name:Q8_0@dev",
                                       "org/name/a/b.gguf@dev"};
    for (size_t i = 0; i < MLXD_COUNT_OF(same); i++) {
        char text[256];
        mlxd_hub_name n;
        assert_int_equal(mlxd_hub_name_parse(&n, same[i], HUB, NULL), MLXD_OK);
        mlxd_hub_name_format(&n, text, sizeof text);
        assert_string_equal(text, same[i]);
        assert_int_equal(n.has_revision, strchr(same[i], '@') != NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_addresses),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_paths), cmocka_unit_test(test_format)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
