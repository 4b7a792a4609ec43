/* test_replica.c - partial copies of checkpoints on disk: what is there after a crash, after
 * damage, when names are hostile or somebody else put something into the folder; sets of ranges;
 * and how folders are removed to make room. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/golden.h"

#include "base/log.h"
#include "model/replica.h"
#include "model/shelf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL MLXD_GOLDEN "/tiny-q4_1.gguf"
#define TENSOR "blk.2.ffn_up.weight"

static char root[64];
static mlxd_checkpoint *original;
static mlxd_manifest manifest;
static mlxd_replica_spec spec;

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static void expect(mlxd_err got, mlxd_err want, const mlxd_why *why, const char *text) {
    if (got != want || !strstr(why->text, text))
        fail_msg("%s: \"%s\", expected %s: \"%s\"", mlxd_err_name(got), why->text,
                 mlxd_err_name(want), text);
}

static int set_up(void **state) {
    mlxd_why why = {0};
    (void)state;
    snprintf(root, sizeof root, "/tmp/mlxd-replica-XXXXXX");
    assert_non_null(mkdtemp(root));
    mlxd_pool *pool = mlxd_pool_open(1);
    check(mlxd_checkpoint_open(&original, MODEL, &why), &why);
    check(mlxd_manifest_open(&manifest, original, pool, "", NULL, &why), &why);
    check(mlxd_replica_spec_open(&spec, original, &manifest, &why), &why);
    mlxd_pool_close(pool);
    return 0;
}

static int empty(void **state) {
    char command[256];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s && mkdir -m 700 %s", root, root);
    return system(command);
}

static int tear_down(void **state) {
    (void)empty(state);
    mlxd_replica_spec_close(&spec);
    mlxd_manifest_close(&manifest);
    mlxd_checkpoint_close(original);
    return rmdir(root);
}

/* ---- ranges ---- */

static bool is_in(const mlxd_spans *s, uint32_t file, uint64_t byte) {
    mlxd_span gap;
    return !mlxd_spans_gap(s, &(mlxd_span){file, byte, byte + 1}, &gap);
}

/* Against a bitmap. */
static void test_spans(void **state) {
    enum { FILES = 3, BYTES = 40 };
    static bool want[FILES][BYTES];
    mlxd_spans s = {0};
    uint32_t rng = 1;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        rng = rng * 1664525u + 1013904223u;
        uint32_t file = (rng >> 8) % FILES, a = (rng >> 12) % BYTES, b = (rng >> 20) % (BYTES + 1);
        mlxd_span span = {file, MLXD_MIN(a, b), MLXD_MAX(a, b)};
        bool add = (rng >> 30) != 0 || round % 97 < 30;
        assert_true(add ? mlxd_spans_add(&s, &span) : mlxd_spans_remove(&s, &span));
        for (uint64_t i = span.begin; i < span.end; i++)
            want[file][i] = add;
        uint64_t total = 0, missing = 0;
        for (uint32_t f = 0; f < FILES; f++)
            for (uint64_t i = 0; i < BYTES; i++) {
                assert_int_equal(is_in(&s, f, i), want[f][i]);
                total += want[f][i];
                missing += f == file && !want[f][i];
            }
        assert_int_equal(mlxd_spans_bytes(&s), total);
        assert_int_equal(mlxd_spans_missing(&s, &(mlxd_span){file, 0, BYTES}), missing);
        for (size_t i = 1; i < s.count; i++) /* sorted, and no two that touch */
            assert_true(s.items[i - 1].file < s.items[i].file ||
                        s.items[i - 1].end < s.items[i].begin);
    }
    mlxd_spans_deinit(&s);
}

/* ---- helpers ---- */

static mlxd_replica *open_replica(void) {
    mlxd_replica *r;
    mlxd_why why = {0};
    check(mlxd_replica_open(&r, root, &spec, &why), &why);
    return r;
}

static mlxd_span head_span(void) {
    return (mlxd_span){0, 0, spec.files[0].head_bytes};
}

static mlxd_span tensor_span(const char *name) {
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(original, name);
    const mlxd_extent *e = &t->streams[0].extents[0];
    return (mlxd_span){e->file, e->offset, e->offset + e->bytes};
}

/* Copies bytes of `c`. */
static void copy_of(const mlxd_checkpoint *c, mlxd_replica *r, mlxd_span span) {
    mlxd_why why = {0};
    size_t n = (size_t)(span.end - span.begin);
    uint8_t *data = mlxd_mem_new(n, 1);
    check(mlxd_checkpoint_part_read(c, span.file, span.begin, data, n, &why), &why);
    check(mlxd_replica_write(r, span.file, span.begin, data, n, &why), &why);
    mlxd_mem_free(data);
}

static void copy(mlxd_replica *r, mlxd_span span) {
    copy_of(original, r, span);
}

static bool is_there(const mlxd_replica *r, mlxd_span span) {
    mlxd_span gap;
    return !mlxd_replica_gap(r, &span, &gap);
}

/* A path in the replica's folder. */
static const char *path_of(const char *file) {
    static char path[512];
    char name[MLXD_SHA256_HEX];
    mlxd_why why = {0};
    check(mlxd_replica_spec_name(&spec, name, &why), &why);
    snprintf(path, sizeof path, "%s/%s%s%s", root, name, file[0] ? "/" : "", file);
    return path;
}

static void damage(const char *path, long at, const char *bytes) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, strlen(bytes), f), strlen(bytes));
    fclose(f);
}

/* ---- a copy ---- */

static void test_it_is_a_checkpoint(void **state) {
    mlxd_checkpoint *c;
    mlxd_why why = {0};
    struct stat st;
    uint8_t meta[MLXD_SHA256_BYTES], want_meta[MLXD_SHA256_BYTES];
    (void)state;
    mlxd_replica *r = open_replica();
    copy(r, head_span());
    copy(r, tensor_span(TENSOR));
    check(mlxd_replica_sync(r, &why), &why);
    check(mlxd_checkpoint_open(&c, mlxd_replica_path(r), &why), &why);
    assert_int_equal(mlxd_checkpoint_count(c), mlxd_checkpoint_count(original));
    mlxd_checkpoint_meta_digest(c, meta);
    mlxd_checkpoint_meta_digest(original, want_meta);
    assert_memory_equal(meta, want_meta, sizeof meta);
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(c, TENSOR);
    uint8_t *data = mlxd_mem_new((size_t)t->bytes, 1), digest[MLXD_SHA256_BYTES];
    check(mlxd_checkpoint_read(c, t, 0, 0, data, (size_t)t->bytes, &why), &why);
    mlxd_sha256_once(data, (size_t)t->bytes, digest);
    assert_memory_equal(digest, mlxd_manifest_find(&manifest, TENSOR)->sha256, sizeof digest);
    mlxd_mem_free(data);
    assert_int_equal(stat(mlxd_replica_path(r), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, mlxd_checkpoint_bytes(original));
    assert_int_equal(stat(path_of(""), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    mlxd_checkpoint_close(c);
    mlxd_replica_close(r);
}

static void same_tensor(const mlxd_checkpoint *a, const mlxd_checkpoint *b, size_t index) {
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(a, index),
                                 *u = mlxd_checkpoint_at(b, index);
    mlxd_why why = {0};
    assert_string_equal(t->name, u->name);
    assert_string_equal(t->encoding.label, u->encoding.label);
    assert_int_equal(t->bytes, u->bytes);
    for (size_t s = 0; s < t->n_streams; s++) {
        size_t n = (size_t)t->streams[s].bytes;
        uint8_t *x = mlxd_mem_new(n, 1), *y = mlxd_mem_new(n, 1);
        check(mlxd_checkpoint_read(a, t, s, 0, x, n, &why), &why);
        check(mlxd_checkpoint_read(b, u, s, 0, y, n, &why), &why);
        assert_memory_equal(x, y, n);
        mlxd_mem_free(x);
        mlxd_mem_free(y);
    }
}

/* A copy of the checkpoint's heads and of its last tensor, however many pieces that has. */
static void copy_kind(const char *path) {
    mlxd_checkpoint *from, *to;
    mlxd_manifest m;
    mlxd_replica_spec s;
    mlxd_replica *r;
    mlxd_why why = {0};
    uint8_t meta[2][MLXD_SHA256_BYTES];
    mlxd_pool *pool = mlxd_pool_open(1);
    check(mlxd_checkpoint_open(&from, path, &why), &why);
    check(mlxd_manifest_open(&m, from, pool, "", NULL, &why), &why);
    check(mlxd_replica_spec_open(&s, from, &m, &why), &why);
    check(mlxd_replica_open(&r, root, &s, &why), &why);
    for (size_t i = 0; i < s.n_files; i++)
        copy_of(from, r, (mlxd_span){(uint32_t)i, 0, s.files[i].head_bytes});
    size_t wrong, last = mlxd_checkpoint_count(from) - 1;
    check(mlxd_replica_check_heads(r, &wrong, &why), &why);
    assert_int_equal(wrong, 0);
    check(mlxd_checkpoint_open(&to, mlxd_replica_path(r), &why), &why);
    mlxd_checkpoint_meta_digest(from, meta[0]);
    mlxd_checkpoint_meta_digest(to, meta[1]);
    assert_memory_equal(meta[0], meta[1], sizeof meta[0]);
    assert_int_equal(mlxd_checkpoint_count(to), last + 1);
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_at(to, last);
    for (size_t i = 0; i < t->n_streams; i++)
        for (size_t j = 0; j < t->streams[i].n_extents; j++) {
            const mlxd_extent *e = &t->streams[i].extents[j];
            copy_of(from, r, (mlxd_span){e->file, e->offset, e->offset + e->bytes});
        }
    same_tensor(from, to, last);
    print_message("%s: %zu files, %llu of %llu bytes\n", path, s.n_files,
                  (unsigned long long)mlxd_replica_bytes(r),
                  (unsigned long long)mlxd_checkpoint_bytes(from));
    mlxd_checkpoint_close(to);
    mlxd_replica_close(r);
    mlxd_replica_spec_close(&s);
    mlxd_manifest_close(&m);
    mlxd_checkpoint_close(from);
    mlxd_pool_close(pool);
}

static void test_all_kinds(void **state) {
    (void)state;
    copy_kind(MLXD_GOLDEN "/tiny-f32.gguf");
    copy_kind(MLXD_GOLDEN "/checkpoints/split/model-00002-of-00003.gguf");
    copy_kind(MLXD_GOLDEN "/checkpoints/moe-sharded");
    copy_kind(MLXD_GOLDEN "/checkpoints/mlx-affine");
    copy_kind(MLXD_GOLDEN "/checkpoints/gpt-oss");
}

/* What was synced is there when it is opened again; what was only written is not, although its
 * bytes may be. */
static void test_what_survives_a_crash(void **state) {
    mlxd_why why = {0};
    mlxd_span first = tensor_span(TENSOR), second = tensor_span("blk.3.ffn_up.weight");
    (void)state;
    mlxd_replica *r = open_replica();
    copy(r, head_span());
    copy(r, (mlxd_span){0, first.begin, first.begin + 100});
    check(mlxd_replica_sync(r, &why), &why);
    copy(r, second);
    assert_true(is_there(r, second));
    mlxd_replica_close(r); /* a crash as far as the list of ranges can tell */
    r = open_replica();
    mlxd_span gap;
    assert_true(is_there(r, head_span()));
    assert_true(mlxd_replica_gap(r, &first, &gap));
    assert_int_equal(gap.begin, first.begin + 100);
    assert_int_equal(gap.end, first.end);
    assert_false(is_there(r, second));
    assert_int_equal(mlxd_replica_bytes(r), spec.files[0].head_bytes + 100);
    const mlxd_span head = head_span();
    check(mlxd_replica_forget(r, &head, &why), &why);
    mlxd_replica_close(r);
    r = open_replica(); /* forgotten for good */
    assert_false(is_there(r, head_span()));
    assert_int_equal(mlxd_replica_bytes(r), 100);
    mlxd_replica_close(r);
}

static void test_damage_is_found(void **state) {
    static const char *const lists[] = {"",
                                        "mlxd-shards 1 0123\nend 0\n",
                                        "%s0 0 10\n",
                                        "%s0 0 10\nend 2\n",
                                        "%s0 0 10\nend 1\nmore",
                                        "%s0 10 10\nend 1\n",
                                        "%s0 0 99999999999\nend 1\n",
                                        "%s1 0 10\nend 1\n",
                                        "%s0 -1 10\nend 1\n",
                                        "%s0 0 18446744073709551616\nend 1\n",
                                        "%s0  0 10\nend 1\n"};
    mlxd_why why = {0};
    (void)state;
    mlxd_replica *r = open_replica();
    copy(r, head_span());
    copy(r, tensor_span(TENSOR));
    check(mlxd_replica_sync(r, &why), &why);
    mlxd_replica_close(r);
    damage(path_of("model/tiny-q4_1.gguf"), 200, "damaged");
    r = open_replica(); /* the head only: tensors are digested when they are loaded */
    assert_false(is_there(r, head_span()));
    assert_true(is_there(r, tensor_span(TENSOR)));
    copy(r, head_span());
    check(mlxd_replica_sync(r, &why), &why);
    mlxd_replica_close(r);
    assert_int_equal(truncate(path_of("model/tiny-q4_1.gguf"), 5000), 0);
    r = open_replica(); /* another length: nothing of it counts */
    assert_int_equal(mlxd_replica_bytes(r), 0);
    mlxd_replica_close(r);
    for (size_t i = 0; i < MLXD_COUNT_OF(lists); i++) {
        char begin[128], name[MLXD_SHA256_HEX];
        check(mlxd_replica_spec_name(&spec, name, &why), &why);
        snprintf(begin, sizeof begin, "mlxd-shards 1 %s\n", name);
        FILE *f = fopen(path_of("ranges"), "w");
        if (strncmp(lists[i], "%s", 2) == 0)
            fputs(begin, f);
        fputs(lists[i] + (strncmp(lists[i], "%s", 2) == 0 ? 2 : 0), f);
        fclose(f);
        r = open_replica();
        if (mlxd_replica_bytes(r) != 0)
            fail_msg("list %zu counts", i);
        mlxd_replica_close(r);
    }
}

/* ---- hostile neighbours ---- */

static void refused(mlxd_err want, const char *text) {
    mlxd_replica *r = NULL;
    mlxd_why why = {0};
    expect(mlxd_replica_open(&r, root, &spec, &why), want, &why, text);
}

static void test_nothing_is_followed(void **state) {
    char outside[128], folder[512];
    mlxd_why why = {0};
    (void)state;
    mlxd_replica_close(open_replica());
    snprintf(outside, sizeof outside, "%s/outside", root);
    FILE *f = fopen(outside, "w");
    fputs("precious", f);
    fclose(f);
    snprintf(folder, sizeof folder, "%s", path_of("model/tiny-q4_1.gguf"));
    assert_int_equal(unlink(folder), 0);
    assert_int_equal(symlink(outside, folder), 0);
    refused(MLXD_ERR_IO, "tiny-q4_1.gguf");
    assert_int_equal(unlink(folder), 0);
    assert_int_equal(link(outside, folder), 0);
    refused(MLXD_ERR_PERM, "not a plain file of ours alone");
    assert_int_equal(unlink(folder), 0);
    assert_int_equal(mkfifo(folder, 0600), 0);
    refused(MLXD_ERR_PERM, "not a plain file");
    assert_int_equal(unlink(folder), 0);
    assert_int_equal(unlink(path_of("ranges")) == 0 || access(path_of("ranges"), F_OK) != 0, 1);
    assert_int_equal(symlink(outside, path_of("ranges.new")), 0);
    mlxd_replica *r = open_replica();
    copy(r, head_span());
    expect(mlxd_replica_sync(r, &why), MLXD_ERR_IO, &why, "ranges.new");
    mlxd_replica_close(r);
    snprintf(folder, sizeof folder, "%s", path_of(""));
    assert_int_equal(chmod(folder, 0750), 0);
    refused(MLXD_ERR_PERM, "ours alone");
    f = fopen(outside, "r");
    char text[16] = "";
    assert_non_null(fgets(text, sizeof text, f));
    assert_string_equal(text, "precious");
    fclose(f);
}

static void test_another_process_has_it(void **state) {
    int ready[2], go[2], status;
    char byte;
    (void)state;
    assert_int_equal(pipe(ready) | pipe(go), 0);
    pid_t pid = fork();
    if (pid == 0) {
        mlxd_replica *r;
        mlxd_why why;
        mlxd_err err = mlxd_replica_open(&r, root, &spec, &why);
        _exit(err || write(ready[1], "r", 1) != 1 || read(go[0], &byte, 1) != 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    refused(MLXD_ERR_STATE, "another process uses it");
    assert_int_equal(write(go[1], "g", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    mlxd_replica_close(open_replica());
    close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
}

static void test_hostile_specs(void **state) {
    static const char *const names[] = {"",        ".",    "..",    "../x", "/etc/passwd", "a/b",
                                        ".hidden", "a\nb", "a\x7f", "a\\b", "\x1b[2J"};
    mlxd_replica_file files[3] = {{.name = "a.gguf", .bytes = 100, .head_bytes = 10},
                                  {.name = "b.gguf", .bytes = 100, .head_bytes = 10},
                                  {.name = "config.json", .bytes = 5, .head_bytes = 5}};
    mlxd_replica_spec s = {.files = files, .n_files = 3};
    mlxd_why why = {0};
    (void)state;
    check(mlxd_replica_spec_check(&s, &why), &why);
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        snprintf(files[1].name, sizeof files[1].name, "%s", names[i]);
        expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "a plain name");
    }
    memset(files[1].name, 'x', sizeof files[1].name);
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "a plain name");
    snprintf(files[1].name, sizeof files[1].name, "A.gguf");
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "two files named");
    snprintf(files[1].name, sizeof files[1].name, "b.gguf");
    files[1].head_bytes = 101;
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "out of range");
    files[1] = (mlxd_replica_file){.name = "b.gguf", .bytes = UINT64_MAX - 50, .head_bytes = 10};
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "out of range");
    files[1] = (mlxd_replica_file){.name = "b.gguf", .bytes = 1u << 30, .head_bytes = 1u << 30};
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "out of range");
    s.n_files = 0;
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "0 files");
    s.n_files = MLXD_LIMIT_MODEL_FILES + 1;
    expect(mlxd_replica_spec_check(&s, &why), MLXD_ERR_INVALID, &why, "1025 files");
}

/* Whatever differs, the folder is another one. */
static void test_fingerprints(void **state) {
    mlxd_replica_file files[2] = {{.name = "a", .bytes = 100, .head_bytes = 10},
                                  {.name = "b", .bytes = 100, .head_bytes = 10}};
    mlxd_replica_spec s = {.files = files, .n_files = 2};
    char names[8][MLXD_SHA256_HEX];
    mlxd_why why = {0};
    (void)state;
    for (size_t i = 0; i < 8; i++) {
        mlxd_replica_file saved = files[1];
        s.model[3] = i == 1;
        s.directory = i == 2;
        s.n_files = i == 3 ? 1 : 2;
        files[1].bytes += i == 4;
        files[1].head_bytes += i == 5;
        files[1].head_sha256[31] = i == 6;
        files[1].name[0] = i == 7 ? 'c' : 'b';
        check(mlxd_replica_spec_name(&s, names[i], &why), &why);
        files[1] = saved;
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(names[i], names[j]);
    }
}

/* ---- room ---- */

/* A folder named by sixty-four `digit`s with `kib` KiB in it, last used at `time`. */
static void make_model(char digit, size_t kib, time_t time) {
    char path[256], name[65];
    uint8_t block[1024];
    memset(block, 7, sizeof block);
    memset(name, digit, 64);
    name[64] = 0;
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/%s/model", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/%s/model/m.gguf", root, name);
    FILE *f = fopen(path, "w");
    for (size_t i = 0; i < kib; i++)
        assert_int_equal(fwrite(block, 1, sizeof block, f), sizeof block);
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/%s/ranges", root, name);
    fclose(fopen(path, "w"));
    struct timespec times[2] = {{.tv_sec = time}, {.tv_sec = time}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static bool has_model(char digit) {
    char path[256], name[65];
    memset(name, digit, 64);
    name[64] = 0;
    snprintf(path, sizeof path, "%s/%s", root, name);
    return access(path, F_OK) == 0;
}

static void test_room(void **state) {
    const uint64_t kib = 1024;
    char keep[65], other[128];
    mlxd_shelf_usage usage;
    mlxd_why why = {0};
    (void)state;
    memset(keep, 'b', 64);
    keep[64] = 0;
    make_model('a', 400, 3000);
    make_model('b', 400, 1000);
    make_model('c', 400, 2000);
    snprintf(other, sizeof other, "%s/notes", root);
    assert_int_equal(mkdir(other, 0700), 0); /* not ours: never touched, never counted */
    check(mlxd_shelf_get_usage(root, &usage, &why), &why);
    assert_int_equal(usage.models, 3);
    assert_in_range(usage.bytes, 1200 * kib, 1300 * kib);
    check(mlxd_shelf_make_room(root, keep, 100 * kib, 0, &why), &why);
    check(mlxd_shelf_make_room(root, keep, 100 * kib, 1400 * kib, &why), &why);
    assert_true(has_model('a') && has_model('b') && has_model('c'));
    /* c was used before a; b longest ago, but it is what room is made for */
    check(mlxd_shelf_make_room(root, keep, 100 * kib, 1000 * kib, &why), &why);
    assert_true(has_model('a') && has_model('b') && !has_model('c'));
    expect(mlxd_shelf_make_room(root, keep, 700 * kib, 1000 * kib, &why), MLXD_ERR_FULL, &why,
           "--shards-max");
    assert_true(has_model('a') && has_model('b')); /* in vain: nothing is removed for it */
    expect(mlxd_shelf_make_room(root, keep, UINT64_MAX, 1000 * kib, &why), MLXD_ERR_FULL, &why,
           "--shards-max");
    expect(mlxd_shelf_make_room(root, keep, UINT64_MAX / 4, 0, &why), MLXD_ERR_FULL, &why,
           "the disk has");
    assert_int_equal(access(other, F_OK), 0);
}

/* A replica that a process uses stays, however old it is. */
static void test_room_leaves_what_is_in_use(void **state) {
    int ready[2], go[2], status;
    char byte, keep[65];
    mlxd_why why = {0};
    (void)state;
    memset(keep, 'b', 64);
    keep[64] = 0;
    assert_int_equal(pipe(ready) | pipe(go), 0);
    pid_t pid = fork();
    if (pid == 0) {
        mlxd_replica *r = open_replica();
        copy(r, head_span());
        mlxd_err err = mlxd_replica_sync(r, &why);
        _exit(err || write(ready[1], "r", 1) != 1 || read(go[0], &byte, 1) != 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    expect(mlxd_shelf_make_room(root, keep, 900, 1000, &why), MLXD_ERR_FULL, &why, "--shards-max");
    assert_int_equal(access(path_of("model/tiny-q4_1.gguf"), F_OK), 0);
    assert_int_equal(write(go[1], "g", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    check(mlxd_shelf_make_room(root, keep, 900, 1000, &why), &why);
    assert_int_not_equal(access(path_of(""), F_OK), 0);
    close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),
        cmocka_unit_test_setup(test_it_is_a_checkpoint, empty),
        cmocka_unit_test_setup(test_all_kinds, empty),
        cmocka_unit_test_setup(test_what_survives_a_crash, empty),
        cmocka_unit_test_setup(test_damage_is_found, empty),
        cmocka_unit_test_setup(test_nothing_is_followed, empty),
        cmocka_unit_test_setup(test_another_process_has_it, empty),
        cmocka_unit_test(test_hostile_specs),
        cmocka_unit_test(test_fingerprints),
        cmocka_unit_test_setup(test_room, empty),
        cmocka_unit_test_setup(test_room_leaves_what_is_in_use, empty),
    };
    mlxd_log_init(getenv("VERBOSE") ? MLXD_LOG_DEBUG : MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
