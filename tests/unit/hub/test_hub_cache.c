/* test_hub_cache.c - the cache on disk: names of folders, links that lead astray, refs, locks,
 * resolving, listing and removing. */
#include "base/mem.h"
#include "hub/remove.h"
#include "hub/resolve.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* A cache in a folder of its own, removed at the end of each test. */
struct world {
    char cache[64];
    mlxd_hub_repo repo;
};

static int set_up(void **state) {
    static struct world w;
    snprintf(w.cache, sizeof w.cache, "/tmp/mlxd-hub-XXXXXX");
    assert_non_null(mkdtemp(w.cache));
    mlxd_hub_repo_init(&w.repo, w.cache, "org/name");
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", w->cache);
    return system(command);
}

static void write_text(const char *path, const char *text) {
    char parent[MLXD_HUB_FILE_MAX];
    snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(path, '/') - path), path);
    assert_int_equal(mlxd_hub_make_dirs(parent, NULL), MLXD_OK);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* A file of a snapshot, whose content is `text` in a blob called `digest`. */
static void add_file(struct world *w, const char *commit, const char *path, const char *digest,
                     const char *text) {
    char blob[MLXD_HUB_FILE_MAX];
    snprintf(blob, sizeof blob, "%s/blobs/%s", w->repo.dir, digest);
    write_text(blob, text);
    assert_int_equal(mlxd_hub_snapshot_link(&w->repo, commit, path, digest, NULL), MLXD_OK);
}

static bool exists(const struct world *w, const char *below) {
    char path[MLXD_HUB_FILE_MAX];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", w->repo.dir, below);
    return lstat(path, &st) == 0;
}

/* The path below the repository's folder, or "ERROR: text". */
static const char *resolve(struct world *w, const char *text) {
    static char out[MLXD_HUB_FILE_MAX];
    mlxd_hub_name n;
    mlxd_why why = {0};
    assert_int_equal(mlxd_hub_name_parse(&n, text, "https://h", &why), MLXD_OK);
    mlxd_err err = mlxd_hub_resolve(w->cache, &n, out, &why);
    if (err)
        snprintf(out, sizeof out, "%s: %s", mlxd_err_name(err), why.text);
    size_t skip = strncmp(out, w->repo.dir, strlen(w->repo.dir)) ? 0 : strlen(w->repo.dir) + 1;
    return out + skip;
}

static void test_folders(void **state) {
    struct world *w = *state;
    char name[MLXD_LIMIT_HUB_REPO + 1];
    assert_non_null(strstr(w->repo.dir, "/models--org--name"));
    assert_true(mlxd_hub_repo_name("models--org--name", name));
    assert_string_equal(name, "org/name");
    assert_true(mlxd_hub_repo_name("models--gpt2", name));
    assert_string_equal(name, "gpt2");
    static const char *const not [] = {"datasets--a--b", "models--",        "models--..--x",
                                       ".locks",         "models--a--b--c", "blobs"};
    for (size_t i = 0; i < MLXD_COUNT_OF(not ); i++)
        assert_false(mlxd_hub_repo_name(not [i], name));
}

static void test_refs(void **state) {
    struct world *w = *state;
    char commit[MLXD_HUB_COMMIT + 1], path[MLXD_HUB_FILE_MAX];
    mlxd_why why;
    assert_int_equal(mlxd_hub_ref_read(&w->repo, "main", commit, &why), MLXD_ERR_NOTFOUND);
    assert_int_equal(mlxd_hub_make_dirs(w->repo.dir, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "refs/pr/1", A, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "main", A, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "main", B, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_ref_read(&w->repo, "main", commit, &why), MLXD_OK);
    assert_string_equal(commit, B);
    assert_int_equal(mlxd_hub_ref_read(&w->repo, "refs/pr/1", commit, &why), MLXD_OK);
    assert_string_equal(commit, A);
    assert_int_equal(mlxd_hub_ref_read(&w->repo, B, commit, &why), MLXD_OK);
    snprintf(path, sizeof path, "%s/refs/main", w->repo.dir);
    static const char *const bad[] = {"", "main", "../../../../etc", A "x", A "\n\n"};
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        write_text(path, bad[i]);
        assert_int_equal(mlxd_hub_ref_read(&w->repo, "main", commit, &why), MLXD_ERR_DATA);
    }
    write_text(path, A "\n");
    assert_int_equal(mlxd_hub_ref_read(&w->repo, "main", commit, &why), MLXD_OK);
}

static void test_resolve(void **state) {
    struct world *w = *state;
    assert_non_null(strstr(resolve(w, "org/name"), "not in the cache"));
    add_file(w, A, "sub/m-Q8_0.gguf", "d1", "12345");
    assert_non_null(strstr(resolve(w, "org/name"), "not in the cache")); /* no ref yet */
    assert_string_equal(resolve(w, "org/name@" A), "snapshots/" A "/sub/m-Q8_0.gguf");
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "main", A, NULL), MLXD_OK);
    assert_string_equal(resolve(w, "org/name"), "snapshots/" A "/sub/m-Q8_0.gguf");
    assert_string_equal(resolve(w, "org/name:q8_0"), "snapshots/" A "/sub/m-Q8_0.gguf");
    assert_non_null(strstr(resolve(w, "org/name:Q4_0"), "has no Q4_0"));
    assert_non_null(strstr(resolve(w, "org/name@v2"), "not in the cache"));
    add_file(w, B, "model.safetensors.index.json", "d2",
             "{\"weight_map\":{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\"}}");
    add_file(w, B, "model-1.safetensors", "d3", "x");
    assert_non_null(strstr(resolve(w, "org/name@" B), "model-2.safetensors"));
    add_file(w, B, "model-2.safetensors", "d4", "x");
    assert_non_null(strstr(resolve(w, "org/name@" B), "config.json is missing"));
    add_file(w, B, "config.json", "d5", "{}");
    assert_string_equal(resolve(w, "org/name@" B), "snapshots/" B);
    char blob[MLXD_HUB_FILE_MAX];
    snprintf(blob, sizeof blob, "%s/blobs/d4", w->repo.dir);
    assert_int_equal(unlink(blob), 0);
    assert_non_null(strstr(resolve(w, "org/name@" B), "model-2.safetensors"));
}

/* Links that leave the repository are as good as none; those into the shared blobs are good. */
static void test_links(void **state) {
    struct world *w = *state;
    char path[MLXD_HUB_FILE_MAX], secret[MLXD_HUB_FILE_MAX];
    add_file(w, A, "config.json", "d1", "{}");
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "main", A, NULL), MLXD_OK);
    snprintf(secret, sizeof secret, "%s/secret", w->cache);
    write_text(secret, "secret");
    snprintf(path, sizeof path, "%s/snapshots/%s/m.gguf", w->repo.dir, A);
    static const char *const targets[] = {"../../../secret",
                                          "/etc/passwd",
                                          "../../blobs",
                                          "m.gguf",
                                          "../../../models--org--name-evil/x",
                                          "nothing"};
    for (size_t i = 0; i < MLXD_COUNT_OF(targets); i++) {
        assert_int_equal(symlink(targets[i], path), 0);
        const char *text = resolve(w, "org/name");
        if (!strstr(text, "leads out of the cache"))
            fail_msg("%s: %s", targets[i], text);
        assert_int_equal(unlink(path), 0);
    }
    snprintf(secret, sizeof secret, "%s/blobs/ab/abcd", w->cache);
    write_text(secret, "12345");
    snprintf(secret, sizeof secret, "%s/blobs/d9", w->repo.dir);
    assert_int_equal(symlink("../../blobs/ab/abcd", secret), 0);
    assert_int_equal(symlink("../../blobs/d9", path), 0);
    assert_string_equal(resolve(w, "org/name"), "snapshots/" A "/m.gguf");
}

static void test_locks(void **state) {
    struct world *w = *state;
    int a, b, c;
    mlxd_why why;
    assert_int_equal(mlxd_hub_lock(&w->repo, "x", false, &a, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_lock(&w->repo, "x", false, &b, &why), MLXD_ERR_AGAIN);
    assert_int_equal(mlxd_hub_lock(&w->repo, "y", true, &b, &why), MLXD_OK);
    assert_int_equal(mlxd_hub_lock(&w->repo, "y", true, &c, &why), MLXD_OK);
    close(c);
    assert_int_equal(mlxd_hub_lock(&w->repo, "y", false, &c, &why), MLXD_ERR_AGAIN);
    close(a);
    assert_int_equal(mlxd_hub_lock(&w->repo, "x", false, &a, &why), MLXD_OK);
    close(a);
    close(b);
}

static mlxd_err removal(struct world *w, const char *text, mlxd_hub_removal_sum *sum) {
    mlxd_hub_removal *r;
    mlxd_hub_name n;
    mlxd_why why;
    assert_int_equal(mlxd_hub_name_parse(&n, text, "https://h", &why), MLXD_OK);
    mlxd_err err = mlxd_hub_removal_open(&r, w->cache, &n, &why);
    if (err)
        return err;
    *sum = *mlxd_hub_removal_get(r);
    err = mlxd_hub_removal_run(r, &why);
    mlxd_hub_removal_close(r);
    return err;
}

static void test_remove(void **state) {
    struct world *w = *state;
    mlxd_hub_removal_sum sum;
    mlxd_hub_models all;
    assert_int_equal(removal(w, "org/name", &sum), MLXD_ERR_NOTFOUND);
    add_file(w, A, "m-Q8_0.gguf", "d1", "12345");
    add_file(w, A, "dir/m-Q4_0.gguf", "d2", "123");
    add_file(w, B, "m-Q8_0.gguf", "d1", "12345");
    add_file(w, B, "m-Q5_0.gguf", "d3", "1234567");
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "old", A, NULL), MLXD_OK);
    assert_int_equal(mlxd_hub_ref_write(&w->repo, "main", B, NULL), MLXD_OK);
    assert_int_equal(mlxd_hub_models_read(w->cache, &all, NULL), MLXD_OK);
    assert_int_equal(all.count, 4);
    assert_true(all.models[0].whole);
    mlxd_hub_models_deinit(&all);

    assert_int_equal(removal(w, "org/name:IQ1_S", &sum), MLXD_ERR_NOTFOUND);
    assert_int_equal(removal(w, "org/name@nothing", &sum), MLXD_ERR_NOTFOUND);
    assert_int_equal(removal(w, "org/name:q4_0", &sum), MLXD_OK);
    assert_int_equal(sum.bytes, 3);
    assert_int_equal(sum.revisions, 0);
    assert_false(exists(w, "blobs/d2"));
    assert_false(exists(w, "snapshots/" A "/dir"));
    assert_true(exists(w, "snapshots/" A "/m-Q8_0.gguf"));

    assert_int_equal(removal(w, "org/name@old", &sum), MLXD_OK);
    assert_int_equal(sum.bytes, 0);
    assert_int_equal(sum.kept, 5);
    assert_false(exists(w, "refs/old"));
    assert_false(exists(w, "snapshots/" A));
    assert_true(exists(w, "blobs/d1"));
    assert_string_equal(resolve(w, "org/name:q8_0"), "snapshots/" B "/m-Q8_0.gguf");

    char partial[MLXD_HUB_FILE_MAX];
    snprintf(partial, sizeof partial, "%s/blobs/d7%s", w->repo.dir, MLXD_HUB_PARTIAL);
    write_text(partial, "1234");
    assert_int_equal(mlxd_hub_models_read(w->cache, &all, NULL), MLXD_OK);
    assert_int_equal(all.leftover_count, 1);
    assert_int_equal(all.leftovers[0].bytes, 4);
    mlxd_hub_models_deinit(&all);
    assert_int_equal(removal(w, "org/name", &sum), MLXD_OK);
    assert_int_equal(sum.bytes, 5 + 7 + 4);
    assert_false(exists(w, ""));
}

/* What is outside stays, however the links in the repository's folder lead there. */
static void test_remove_links(void **state) {
    struct world *w = *state;
    mlxd_hub_removal_sum sum;
    char secret[MLXD_HUB_FILE_MAX], path[MLXD_HUB_FILE_MAX];
    struct stat st;
    add_file(w, A, "m.gguf", "d1", "12345");
    snprintf(secret, sizeof secret, "%s/outside/secret", w->cache);
    write_text(secret, "secret");
    snprintf(path, sizeof path, "%s/snapshots/%s/evil", w->repo.dir, A);
    assert_int_equal(symlink("../../../outside", path), 0);
    snprintf(path, sizeof path, "%s/blobs/evil", w->repo.dir);
    assert_int_equal(symlink("../../outside/secret", path), 0);
    assert_int_equal(removal(w, "org/name", &sum), MLXD_OK);
    assert_int_equal(stat(secret, &st), 0);
    assert_false(exists(w, ""));
}

static void test_remove_while_pulled(void **state) {
    struct world *w = *state;
    mlxd_hub_removal_sum sum;
    int lock;
    add_file(w, A, "m.gguf", "d1", "12345");
    assert_int_equal(mlxd_hub_lock(&w->repo, "mlxd", true, &lock, NULL), MLXD_OK);
    assert_int_equal(removal(w, "org/name", &sum), MLXD_ERR_AGAIN);
    assert_true(exists(w, "blobs/d1"));
    close(lock);
    assert_int_equal(removal(w, "org/name", &sum), MLXD_OK);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_folders),      TEST(test_refs),
                                       TEST(test_resolve),      TEST(test_links),
                                       TEST(test_locks),        TEST(test_remove),
                                       TEST(test_remove_links), TEST(test_remove_while_pulled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
