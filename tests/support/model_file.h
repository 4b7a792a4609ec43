/* model_file.h - for tests of what reads model files: GGUF files with chosen tensors, written into
 * a directory of their own that goes away with the test.
 *
 *     model_file *m = model_file_new();       metadata: m->kv with the writers of mini_gguf.h
 *     model_file_tensor(m, "t", TYPE, cols, rows);
 *     char *path = model_file_write(m, "a.gguf");
 */
#ifndef MLXD_TESTS_SUPPORT_MODEL_FILE_H
#define MLXD_TESTS_SUPPORT_MODEL_FILE_H

#include "../unit/model/mini_gguf.h"
#include "golden.h"
#include "random.h"

#include <sys/stat.h>
#include <unistd.h>

/* ---- files ---- */

static char model_file_dir[64];

static inline const char *model_file_path(const char *name) {
    static char paths[16][200]; /* some may be in use at a time */
    static unsigned next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", model_file_dir, name);
    return path;
}

/* cmocka's group set-up and tear-down. */
static inline int model_file_set_up(void **state) {
    (void)state;
    snprintf(model_file_dir, sizeof model_file_dir, "/tmp/mlxd-test-XXXXXX");
    return mkdtemp(model_file_dir) ? 0 : -1;
}

static inline int model_file_tear_down(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", model_file_dir);
    return system(command);
}

static inline const char *model_file_put(const char *name, const void *data, size_t len) {
    const char *path = model_file_path(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return path;
}

static inline void model_file_check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static inline mlxd_checkpoint *model_file_open(const char *path) {
    mlxd_checkpoint *f;
    mlxd_why why = {0};
    model_file_check(mlxd_checkpoint_open(&f, path, &why), &why);
    return f;
}

/* ---- tensors ---- */

typedef struct model_file {
    mini_gguf kv;
    mlxd_buf infos, data;
    uint64_t n;
} model_file;

/* A tensor of up to four dimensions with random bytes; returns where its data begins in m->data. */
static inline size_t model_file_add(model_file *m, const char *name, uint32_t type,
                                    const uint64_t *dims, uint32_t n_dims, random_state *r) {
    uint32_t elems, bytes;
    uint64_t total = 1;
    assert_true(mlxd_gguf_type_size(type, &elems, &bytes));
    while (m->data.len % 32)
        mlxd_buf_add_byte(&m->data, 0);
    mini_bytes(&m->infos, name, strlen(name));
    mini_u32(&m->infos, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        mini_u64(&m->infos, dims[i]);
        total *= dims[i];
    }
    mini_u32(&m->infos, type);
    mini_u64(&m->infos, m->data.len);
    m->n++;
    size_t at = m->data.len;
    for (uint64_t i = 0; i < total / elems * bytes; i++)
        mlxd_buf_add_byte(&m->data, (uint8_t)random_u64(r));
    return at;
}

static inline const char *model_file_write(model_file *m, const char *name) {
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    mlxd_buf_add(&b, "GGUF", 4);
    mini_u32(&b, 3);
    mini_u64(&b, m->n);
    mini_u64(&b, m->kv.kv_count);
    mlxd_buf_add(&b, m->kv.kv.data, m->kv.kv.len);
    mlxd_buf_add(&b, m->infos.data, m->infos.len);
    while (b.len % 32)
        mlxd_buf_add_byte(&b, 0);
    mlxd_buf_add(&b, m->data.data, m->data.len);
    const char *path = model_file_put(name, b.data, b.len);
    mlxd_buf_deinit(&b);
    return path;
}

static inline void model_file_free(model_file *m) {
    mlxd_buf_deinit(&m->kv.kv);
    mlxd_buf_deinit(&m->infos);
    mlxd_buf_deinit(&m->data);
    *m = (model_file){0};
}

#endif
