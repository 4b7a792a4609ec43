/* test_checkpoint.c - opening a model: what is none is refused by name and never waited for, and a
 * file that changes under our hands is an error, not a crash. */
#include "../../support/model_file.h"

#include "base/clock.h"
#include "model/checkpoint.h"
#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <utime.h>

static void refused(const char *path, mlxd_err want, const char *text) {
    mlxd_checkpoint *f;
    mlxd_why why = {0};
    uint64_t t0 = mlxd_clock_now_ns();
    mlxd_err err = mlxd_checkpoint_open(&f, path, &why);
    if (err != want || !strstr(why.text, text) || strncmp(why.text, path, strlen(path)) != 0)
        fail_msg("%s: expected %s \"...%s...\", got %s \"%s\"", path, mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
    assert_true(mlxd_clock_now_ns() - t0 < 30 * MLXD_NS_PER_S);
    assert_int_equal(mlxd_checkpoint_open(&f, path, NULL), want);
}

static void what_is_no_model_file(void **state) {
    const char *fifo = model_file_path("fifo"), *loop = model_file_path("loop");
    (void)state;
    refused(model_file_path("missing.gguf"), MLXD_ERR_NOTFOUND, "cannot open");
    refused("", MLXD_ERR_NOTFOUND, "cannot open");
    model_file_put("plain", "x", 1);
    refused(model_file_path("plain/x"), MLXD_ERR_NOTFOUND, "cannot open");
    refused(model_file_dir, MLXD_ERR_NOTFOUND, "no model in this directory");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refused(fifo, MLXD_ERR_DATA, "not a regular file");
    refused("/dev/zero", MLXD_ERR_DATA, "not a regular file");
    refused("/dev/null", MLXD_ERR_DATA, "not a regular file");
    assert_int_equal(symlink(loop, loop), 0);
    refused(loop, MLXD_ERR_IO, "cannot open");
    refused(model_file_put("empty", "", 0), MLXD_ERR_DATA, "");
    refused(model_file_put("text", "hello, this is no model", 23), MLXD_ERR_DATA, "magic");
}

/* As root nothing is unreadable, so this runs in a child without privileges. */
static void an_unreadable_file(void **state) {
    const char *path = model_file_put("secret.gguf", "GGUF", 4);
    int status;
    (void)state;
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(chmod(model_file_dir, 0755), 0);
    pid_t child = fork();
    if (child == 0) {
        mlxd_checkpoint *f;
        mlxd_why why = {0};
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(3);
        mlxd_err err = mlxd_checkpoint_open(&f, path, &why);
        _exit(err != MLXD_ERR_PERM ? 1 : strstr(why.text, path) == NULL ? 2 : 0);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_int_equal(status, 0);
}

/* Every length of a valid file, in the head one by one. */
static void truncated_files(void **state) {
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    mlxd_checkpoint *f = model_file_open(MLXD_GOLDEN "/tiny-gpt2.gguf");
    uint64_t data = mlxd_gguf_tensor_at(mlxd_checkpoint_gguf(f), 0)->file_offset;
    (void)state;
    assert_int_equal(mlxd_checkpoint_bytes(f), all.len);
    assert_string_equal(mlxd_checkpoint_path(f), MLXD_GOLDEN "/tiny-gpt2.gguf");
    mlxd_checkpoint_close(f);
    const char *path = model_file_put("cut.gguf", all.data, all.len);
    for (size_t len = all.len - 64; len > 0; len -= len > data ? 977 : len > 600 ? 13 : 1) {
        mlxd_why why = {0};
        assert_int_equal(truncate(path, (off_t)len), 0);
        assert_int_equal(mlxd_checkpoint_open(&f, path, &why), MLXD_ERR_DATA);
        assert_int_equal(strncmp(why.text, path, strlen(path)), 0);
    }
    mlxd_buf_deinit(&all);
}

static mlxd_model_file *open_file(const char *path) {
    mlxd_model_file *f;
    mlxd_why why = {0};
    model_file_check(mlxd_model_file_open(&f, path, &why), &why);
    return f;
}

static void reading(void **state) {
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    uint8_t *got = mlxd_mem_new(all.len, 1);
    mlxd_why why = {0};
    (void)state;
    mlxd_model_file *f = open_file(MLXD_GOLDEN "/tiny-gpt2.gguf");
    assert_int_equal(mlxd_model_file_read(f, 0, got, all.len, &why), MLXD_OK);
    assert_memory_equal(got, all.data, all.len);
    assert_int_equal(mlxd_model_file_read(f, 4711, got, 1000, &why), MLXD_OK);
    assert_memory_equal(got, all.data + 4711, 1000);
    assert_int_equal(mlxd_model_file_read(f, all.len, got, 0, &why), MLXD_OK);
    assert_int_equal(mlxd_model_file_read(f, all.len - 7, got, 8, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "tiny-gpt2.gguf: offset"));
    assert_int_equal(mlxd_model_file_read(f, all.len + 100, got, 1, &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_model_file_read(f, UINT64_MAX, got, 1, &why), MLXD_ERR_IO);
    mlxd_model_file_close(f);
    mlxd_mem_free(got);
    mlxd_buf_deinit(&all);
}

static void a_file_that_shrinks_while_open(void **state) {
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    uint8_t got[100];
    mlxd_why why = {0};
    (void)state;
    const char *path = model_file_put("shrinks.gguf", all.data, all.len);
    mlxd_model_file *f = open_file(path);
    assert_int_equal(truncate(path, (off_t)all.len / 2), 0);
    assert_int_equal(mlxd_model_file_read(f, all.len / 2 - 50, got, 100, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "expected 50 more bytes"));
    assert_int_equal(unlink(path), 0); /* the open file stays readable */
    assert_int_equal(mlxd_model_file_read(f, 0, got, 100, &why), MLXD_OK);
    assert_memory_equal(got, all.data, 100);
    mlxd_model_file_close(f);
    mlxd_buf_deinit(&all);
}

/* Metadata beyond the first piece that is read. */
static void long_metadata(void **state) {
    model_file m = {0};
    random_state r = {3};
    char *text = mlxd_mem_new(MLXD_LIMIT_GGUF_STRING, 1), key[32];
    (void)state;
    memset(text, 'x', MLXD_LIMIT_GGUF_STRING - 1);
    for (int i = 0; i < 11; i++) {
        snprintf(key, sizeof key, "key.%d", i);
        mini_put_str(&m.kv, key, text);
    }
    model_file_add(&m, "t", MLXD_GGUF_TYPE_F32, (uint64_t[]){64}, 1, &r);
    mlxd_checkpoint *f = model_file_open(model_file_write(&m, "long.gguf"));
    assert_int_equal(mlxd_gguf_kv_count(mlxd_checkpoint_gguf(f)), 11);
    uint8_t want[MLXD_SHA256_BYTES], got[MLXD_SHA256_BYTES];
    mlxd_sha256_once(m.kv.kv.data, m.kv.kv.len, want);
    mlxd_checkpoint_meta_digest(f, got);
    assert_memory_equal(got, want, sizeof got);
    mlxd_checkpoint_close(f);
    model_file_free(&m);
    mlxd_mem_free(text);
}

/* Digests are remembered under the identity, so it must change with the content, and a file that
 * may still change unseen has none. */
static void identities(void **state) {
    char a[128], b[128];
    (void)state;
    mlxd_checkpoint *f = model_file_open(MLXD_GOLDEN "/tiny-f32.gguf");
    snprintf(a, sizeof a, "%s", mlxd_checkpoint_identity(f));
    mlxd_checkpoint_close(f);
    f = model_file_open(MLXD_GOLDEN "/tiny-f32.gguf");
    assert_string_equal(mlxd_checkpoint_identity(f), a);
    mlxd_checkpoint_close(f);
    f = model_file_open(MLXD_GOLDEN "/tiny-f16.gguf");
    snprintf(b, sizeof b, "%s", mlxd_checkpoint_identity(f));
    mlxd_checkpoint_close(f);
    assert_true(a[0] && b[0] && strcmp(a, b) != 0 && !strchr(a, '/'));
    mlxd_buf all = golden_read("tiny-gpt2.gguf");
    const char *path = model_file_put("new.gguf", all.data, all.len);
    struct utimbuf long_ago = {1000000000, 1000000000};
    assert_int_equal(utime(path, &long_ago), 0); /* a date can be set; its change is seen */
    f = model_file_open(path);
    assert_string_equal(mlxd_checkpoint_identity(f), "");
    mlxd_checkpoint_close(f);
    mlxd_buf_deinit(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_model_file),
        cmocka_unit_test(an_unreadable_file),
        cmocka_unit_test(truncated_files),
        cmocka_unit_test(reading),
        cmocka_unit_test(a_file_that_shrinks_while_open),
        cmocka_unit_test(long_metadata),
        cmocka_unit_test(identities),
    };
    return cmocka_run_group_tests(tests, model_file_set_up, model_file_tear_down);
}
