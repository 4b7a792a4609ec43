/* test_manifest.c - the fingerprint of a model file: what changes it, and what is remembered. */
#include "../../support/model_file.h"

#include "model/manifest.h"

#include <dirent.h>
#include <fcntl.h>

#define MODEL MLXD_GOLDEN "/tiny-gpt2.gguf" /* older than this test: it has an identity */

static mlxd_pool *pool;

static int set_up(void **state) {
    pool = mlxd_pool_open(2);
    return pool ? model_file_set_up(state) : -1;
}

static int tear_down(void **state) {
    mlxd_pool_close(pool);
    return model_file_tear_down(state);
}

/* Bytes that were hashed; 0 when the result was remembered. */
static void on_progress(void *ctx, uint64_t done, uint64_t total) {
    _Atomic uint64_t *most = ctx;
    if (done == total)
        *most = total;
}

static mlxd_manifest read_manifest(const char *path, const char *cache, uint64_t *hashed) {
    mlxd_manifest m;
    mlxd_why why = {0};
    _Atomic uint64_t most = 0;
    mlxd_progress progress = {on_progress, (void *)&most};
    mlxd_checkpoint *f = model_file_open(path);
    model_file_check(mlxd_manifest_open(&m, f, pool, cache, &progress, &why), &why);
    mlxd_checkpoint_close(f);
    *hashed = most;
    return m;
}

static void same(const mlxd_manifest *a, const mlxd_manifest *b) {
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->meta, b->meta, sizeof a->meta);
    assert_memory_equal(a->model, b->model, sizeof a->model);
    assert_memory_equal(a->tensors, b->tensors, a->count * sizeof *a->tensors);
}

/* The only file of a directory; NULL: none. */
static const char *only_file(const char *dir) {
    static char path[700];
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            n++;
        }
    if (d)
        closedir(d);
    assert_true(n <= 1);
    return n ? path : NULL;
}

static void digests_are_those_of_the_bytes(void **state) {
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    uint8_t want[MLXD_SHA256_BYTES];
    uint64_t hashed;
    (void)state;
    mlxd_manifest m = read_manifest(MODEL, "", &hashed);
    mlxd_checkpoint *f = model_file_open(MODEL);
    const mlxd_gguf *g = mlxd_checkpoint_gguf(f);
    assert_int_equal(m.count, mlxd_gguf_tensor_count(g));
    uint64_t bytes = 0;
    for (size_t i = 0; i < m.count; i++) {
        const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(g, i);
        mlxd_sha256_once(all.data + t->file_offset, t->data_bytes, want);
        assert_memory_equal(m.tensors[i].sha256, want, sizeof want);
        assert_ptr_equal(mlxd_manifest_find(&m, t->name), &m.tensors[i]);
        bytes += t->data_bytes;
    }
    assert_int_equal(hashed, bytes);
    assert_null(mlxd_manifest_find(&m, "blk.99.attn_q.weight"));
    mlxd_checkpoint_close(f);
    mlxd_manifest_close(&m);
    mlxd_manifest_close(&m);
    mlxd_buf_deinit(&all);
}

static void flip_bit(const char *path, uint64_t at, unsigned bit) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* In place, in the same second, with the cache on: the change is seen all the same. */
static void a_flipped_bit_changes_one_digest(void **state) {
    random_state r = random_open("manifest");
    mlxd_buf all = golden_read("tiny-q4_1.gguf");
    const char *cache = model_file_path("flip-cache");
    const char *path = model_file_put("flip.gguf", all.data, all.len);
    uint64_t hashed;
    (void)state;
    mlxd_manifest before = read_manifest(path, cache, &hashed);
    for (int round = 0; round < 40; round++) {
        mlxd_checkpoint *f = model_file_open(path);
        size_t which = random_below(&r, (uint32_t)before.count);
        const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(mlxd_checkpoint_gguf(f), which);
        uint64_t at = t->file_offset + (round == 0   ? 0
                                        : round == 1 ? t->data_bytes - 1
                                                     : random_u64(&r) % t->data_bytes);
        unsigned bit = random_below(&r, 8);
        flip_bit(path, at, bit);
        mlxd_manifest after = read_manifest(path, cache, &hashed);
        assert_memory_equal(after.meta, before.meta, sizeof after.meta);
        assert_memory_not_equal(after.model, before.model, sizeof after.model);
        for (size_t i = 0; i < before.count; i++)
            assert_int_equal(
                memcmp(after.tensors[i].sha256, before.tensors[i].sha256, MLXD_SHA256_BYTES) != 0,
                i == which);
        mlxd_manifest_close(&after);
        flip_bit(path, at, bit);
        mlxd_checkpoint_close(f);
    }
    assert_null(only_file(cache)); /* so new a file is not remembered */
    mlxd_manifest_close(&before);
    mlxd_buf_deinit(&all);
}

/* Names, types and shapes count, and so does metadata. */
static void what_else_changes_the_fingerprint(void **state) {
    mlxd_manifest m[5];
    uint64_t hashed;
    (void)state;
    for (int i = 0; i < 5; i++) {
        model_file file = {0};
        random_state r = {7};
        mini_put_str(&file.kv, "general.name", i == 1 ? "b" : "a");
        model_file_add(&file, i == 2 ? "u" : "t", i == 3 ? MLXD_GGUF_TYPE_BF16 : MLXD_GGUF_TYPE_F16,
                       i == 4 ? (uint64_t[]){8, 4} : (uint64_t[]){4, 8}, 2, &r);
        m[i] = read_manifest(model_file_write(&file, "shapes.gguf"), "", &hashed);
        model_file_free(&file);
    }
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(m[i].model, m[j].model, MLXD_SHA256_BYTES);
        assert_memory_equal(m[i].tensors[0].sha256, m[0].tensors[0].sha256, MLXD_SHA256_BYTES);
        assert_int_equal(memcmp(m[i].meta, m[0].meta, MLXD_SHA256_BYTES) != 0, i == 1);
    }
    for (int i = 0; i < 5; i++)
        mlxd_manifest_close(&m[i]);
}

/* ---- the cache ---- */

static void results_are_remembered(void **state) {
    const char *cache = model_file_path("cache");
    uint64_t hashed;
    (void)state;
    mlxd_manifest first = read_manifest(MODEL, cache, &hashed);
    assert_true(hashed > 0);
    assert_non_null(only_file(cache));
    mlxd_manifest again = read_manifest(MODEL, cache, &hashed);
    assert_int_equal(hashed, 0);
    same(&first, &again);
    mlxd_manifest_close(&again);
    again = read_manifest(MODEL, "", &hashed); /* nowhere: hashed again */
    assert_true(hashed > 0);
    same(&first, &again);
    mlxd_manifest_close(&again);
    mlxd_manifest_close(&first);
}

/* Whatever somebody did to the remembered text, unless it is whole and of this very file: ignored
 * and replaced. */
static void a_spoiled_cache_is_ignored(void **state) {
    random_state r = random_open("cache");
    const char *cache = model_file_path("spoiled");
    uint64_t hashed;
    (void)state;
    mlxd_manifest first = read_manifest(MODEL, cache, &hashed);
    const char *path = only_file(cache);
    size_t len;
    char *good = (char *)mini_read_file(path, &len);
    char *bad = malloc(len + 200);
    for (int round = 0; round < 150; round++) {
        size_t n = len, at = random_below(&r, (uint32_t)len);
        memcpy(bad, good, len);
        switch (round % 6) {
        case 0: /* cut */
            n = round == 0 ? 0 : at;
            break;
        case 1: /* longer */
            memcpy(bad + n, "x\n", 2);
            n += 2;
            break;
        case 2: /* no digit, no separator, a NUL */
            bad[at] = (char)"g\0\n\xff/"[random_below(&r, 5)];
            n -= bad[at] == good[at];
            break;
        case 3: /* another file's */
            bad[(char *)memchr(bad, ' ', len) - bad + 3] ^= 1;
            break;
        case 4: /* one line too many, one too long */
            memset(bad + at, 'a', len - at);
            memset(bad + len, 'a', 199);
            n += 199;
            break;
        default: /* lines in another order */
            memcpy(bad + len - 30, bad + 20, 20);
        }
        FILE *f = fopen(path, "wb");
        assert_int_equal(fwrite(bad, 1, n, f), n);
        fclose(f);
        mlxd_manifest m = read_manifest(MODEL, cache, &hashed);
        if (hashed == 0)
            fail_msg("round %d: a spoiled result was believed", round);
        same(&first, &m);
        mlxd_manifest_close(&m);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0755), 0); /* a directory in its place */
    mlxd_manifest m = read_manifest(MODEL, cache, &hashed);
    same(&first, &m);
    mlxd_manifest_close(&m);
    mlxd_manifest_close(&first);
    free(good);
    free(bad);
}

/* Nothing about a cache directory can make the fingerprint fail. */
static void places_of_the_cache(void **state) {
    char deep[2000], expected[200];
    uint64_t hashed;
    (void)state;
    mlxd_manifest first = read_manifest(MODEL, "", &hashed);
    memset(deep, 'd', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    const char *bad[] = {"/proc/nowhere", "/dev/null", deep, deep + 1300};
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        mlxd_manifest m = read_manifest(MODEL, bad[i], &hashed);
        same(&first, &m);
        mlxd_manifest_close(&m);
        setenv("XDG_CACHE_HOME", bad[i], 1);
        m = read_manifest(MODEL, NULL, &hashed);
        same(&first, &m);
        mlxd_manifest_close(&m);
    }
    setenv("XDG_CACHE_HOME", model_file_path("xdg"), 1);
    for (int i = 0; i < 2; i++) {
        mlxd_manifest m = read_manifest(MODEL, NULL, &hashed);
        assert_int_equal(hashed == 0, i);
        mlxd_manifest_close(&m);
    }
    snprintf(expected, sizeof expected, "%s/mlxd/digests", model_file_path("xdg"));
    assert_non_null(only_file(expected));
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", model_file_path("home"), 1);
    assert_int_equal(mkdir(model_file_path("home"), 0755), 0);
    mlxd_manifest m = read_manifest(MODEL, NULL, &hashed);
    mlxd_manifest_close(&m);
    snprintf(expected, sizeof expected, "%s/.cache/mlxd/digests", model_file_path("home"));
    assert_non_null(only_file(expected));
    unsetenv("HOME");
    m = read_manifest(MODEL, NULL, &hashed);
    assert_true(hashed > 0);
    mlxd_manifest_close(&m);
    mlxd_manifest_close(&first);
}

static void a_file_that_shrinks(void **state) {
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    const char *path = model_file_put("shrinks.gguf", all.data, all.len);
    mlxd_manifest m;
    mlxd_why why = {0};
    (void)state;
    mlxd_checkpoint *f = model_file_open(path);
    assert_int_equal(truncate(path, (off_t)all.len / 2), 0);
    assert_int_equal(mlxd_manifest_open(&m, f, pool, "", NULL, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "shrinks.gguf: offset"));
    assert_int_equal(mlxd_manifest_open(&m, f, pool, "", NULL, NULL), MLXD_ERR_DATA);
    mlxd_checkpoint_close(f);
    mlxd_buf_deinit(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_those_of_the_bytes),
        cmocka_unit_test(a_flipped_bit_changes_one_digest),
        cmocka_unit_test(what_else_changes_the_fingerprint),
        cmocka_unit_test(results_are_remembered),
        cmocka_unit_test(a_spoiled_cache_is_ignored),
        cmocka_unit_test(places_of_the_cache),
        cmocka_unit_test(a_file_that_shrinks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
