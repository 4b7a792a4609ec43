/* checkpoint_gguf.c - GGUF files as a checkpoint. A container's head is read in growing pieces
 * until the parser has all it wants, so a file of any size costs no more memory than its metadata.
 */
#include "model/checkpoint_internal.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define HEAD_FIRST ((size_t)4 << 20)
#define HEAD_MAX ((size_t)512 << 20)

static const struct {
    uint32_t gguf;
    mlxd_weight_type type;
} types[] = {
    {MLXD_GGUF_TYPE_F32, MLXD_WEIGHT_F32},       {MLXD_GGUF_TYPE_F16, MLXD_WEIGHT_F16},
    {MLXD_GGUF_TYPE_BF16, MLXD_WEIGHT_BF16},     {MLXD_GGUF_TYPE_Q4_0, MLXD_WEIGHT_Q4_0},
    {MLXD_GGUF_TYPE_Q4_1, MLXD_WEIGHT_Q4_1},     {MLXD_GGUF_TYPE_Q5_0, MLXD_WEIGHT_Q5_0},
    {MLXD_GGUF_TYPE_Q5_1, MLXD_WEIGHT_Q5_1},     {MLXD_GGUF_TYPE_Q8_0, MLXD_WEIGHT_Q8_0},
    {MLXD_GGUF_TYPE_Q2_K, MLXD_WEIGHT_Q2_K},     {MLXD_GGUF_TYPE_Q3_K, MLXD_WEIGHT_Q3_K},
    {MLXD_GGUF_TYPE_Q4_K, MLXD_WEIGHT_Q4_K},     {MLXD_GGUF_TYPE_Q5_K, MLXD_WEIGHT_Q5_K},
    {MLXD_GGUF_TYPE_Q6_K, MLXD_WEIGHT_Q6_K},     {MLXD_GGUF_TYPE_IQ4_NL, MLXD_WEIGHT_IQ4_NL},
    {MLXD_GGUF_TYPE_IQ4_XS, MLXD_WEIGHT_IQ4_XS}, {MLXD_GGUF_TYPE_MXFP4, MLXD_WEIGHT_MXFP4},
    {MLXD_GGUF_TYPE_NVFP4, MLXD_WEIGHT_NVFP4},
};

mlxd_encoding mlxd_checkpoint_encode_gguf(uint32_t type) {
    mlxd_encoding e = {.kind = MLXD_ENCODING_OTHER, .gguf = type};
    snprintf(e.label, sizeof e.label, "%s", mlxd_gguf_type_name(type));
    for (size_t i = 0; i < MLXD_COUNT_OF(types); i++)
        if (types[i].gguf == type) {
            e.kind = MLXD_ENCODING_ROWS;
            e.type = types[i].type;
        }
    return e;
}

static mlxd_err parse_head(mlxd_checkpoint_file *f, mlxd_why *why) {
    const char *path = mlxd_model_file_path(f->file);
    uint64_t bytes = mlxd_model_file_bytes(f->file);
    mlxd_err err = MLXD_ERR_AGAIN;
    for (size_t want = HEAD_FIRST, have = 0; err == MLXD_ERR_AGAIN; want *= 2) {
        if (have >= HEAD_MAX)
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: metadata is larger than %zu MiB", path,
                             HEAD_MAX >> 20);
        size_t len = (size_t)MLXD_MIN((uint64_t)want, bytes);
        uint8_t *p = mlxd_mem_resize(f->head, MLXD_MAX(len, (size_t)1), 1);
        if (!p)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: no memory for its metadata", path);
        f->head = p;
        err = mlxd_model_file_read(f->file, have, p + have, len - have, why);
        if (err)
            return err;
        have = len;
        err = mlxd_gguf_open_head(&f->gguf, (mlxd_slice){p, len}, bytes, path, why);
    }
    return err;
}

/* The tensors of file `number`. */
static bool take_tensors(mlxd_checkpoint *c, uint32_t number) {
    const mlxd_gguf *g = c->files[number].gguf;
    size_t n = mlxd_gguf_tensor_count(g);
    mlxd_extent *extents = mlxd_arena_new(c->arena, n, sizeof *extents);
    for (size_t i = 0; extents && i < n; i++) {
        const mlxd_gguf_tensor *from = mlxd_gguf_tensor_at(g, i);
        mlxd_checkpoint_tensor *t = &c->tensors[c->n_tensors++];
        uint64_t rows = from->dims[1] * from->dims[2] * from->dims[3];
        extents[i] = (mlxd_extent){number, from->file_offset, from->data_bytes};
        *t = (mlxd_checkpoint_tensor){.name = from->name,
                                      .encoding = mlxd_checkpoint_encode_gguf(from->type),
                                      .n_dims = from->n_dims,
                                      .bytes = from->data_bytes,
                                      .n_streams = 1};
        memcpy(t->dims, from->dims, sizeof t->dims);
        t->streams[0] = (mlxd_stream){from->data_bytes / rows, from->data_bytes, &extents[i], 1};
    }
    return extents != NULL;
}

/* ---- parts ---- */

/* "model-00002-of-00005.gguf": five digits each, as gguf-split writes and reads them. */
bool mlxd_checkpoint_is_split(const char *name, uint32_t *part, uint32_t *parts) {
    static const char shape[] = "-#####-of-#####.gguf";
    size_t len = strlen(name), tail = sizeof shape - 1;
    uint32_t n[2] = {0, 0};
    if (len <= tail)
        return false;
    const char *p = name + len - tail;
    for (size_t i = 0; i < tail; i++) {
        bool digit = p[i] >= '0' && p[i] <= '9';
        if (shape[i] == '#' ? !digit : p[i] != shape[i])
            return false;
        if (digit)
            n[i > 6] = n[i > 6] * 10 + (uint32_t)(p[i] - '0');
    }
    *part = n[0];
    *parts = n[1];
    return n[0] >= 1 && n[0] <= n[1];
}

static mlxd_err expect_key(const mlxd_checkpoint_file *f, const char *key, uint64_t want,
                           mlxd_why *why) {
    uint64_t got;
    mlxd_err err = mlxd_gguf_get_u64(f->gguf, key, &got, why);
    if (!err && got != want)
        err = mlxd_fail(why, MLXD_ERR_DATA, "%s: %s is %llu, expected %llu",
                        mlxd_model_file_path(f->file), key, (unsigned long long)got,
                        (unsigned long long)want);
    return err == MLXD_ERR_NOTFOUND ? MLXD_ERR_DATA : err;
}

/* A file knows whether it is a part. */
static mlxd_err check_part(const mlxd_checkpoint_file *f, uint32_t part, uint32_t parts,
                           mlxd_why *why) {
    uint64_t count = 1;
    mlxd_err err = MLXD_OK;
    if (parts > 1 || mlxd_gguf_has(f->gguf, "split.count"))
        err = mlxd_gguf_get_u64(f->gguf, "split.count", &count, why);
    if (!err && count != parts && parts == 1)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: is one of %llu parts of a model, whose names must end in "
                         "-00001-of-%05llu.gguf and so on",
                         mlxd_model_file_path(f->file), (unsigned long long)count,
                         (unsigned long long)count);
    if (!err && parts > 1)
        err = expect_key(f, "split.count", parts, why);
    if (!err && parts > 1)
        err = expect_key(f, "split.no", part - 1, why);
    return err == MLXD_ERR_NOTFOUND ? MLXD_ERR_DATA : err;
}

static mlxd_err open_part(mlxd_checkpoint *c, const mlxd_directory *d, const char *name,
                          uint32_t part, uint32_t parts, mlxd_why *why) {
    mlxd_checkpoint_file *f = &c->files[c->n_files];
    mlxd_err err = d ? mlxd_directory_open_file(&f->file, d, name, why)
                     : mlxd_model_file_open(&f->file, name, why);
    if (err)
        return err;
    c->n_files++;
    err = parse_head(f, why);
    return err ? err : check_part(f, part, parts, why);
}

static mlxd_err take_all(mlxd_checkpoint *c, mlxd_why *why) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_files; i++)
        n += mlxd_gguf_tensor_count(c->files[i].gguf);
    if (n > MLXD_LIMIT_TENSORS)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: %zu tensors, expected at most %u", c->path, n,
                         MLXD_LIMIT_TENSORS);
    if (c->n_files > 1) {
        mlxd_err err = expect_key(&c->files[0], "split.tensors.count", n, why);
        if (err)
            return err;
    }
    c->tensors = mlxd_mem_new(n, sizeof *c->tensors);
    for (uint32_t i = 0; c->tensors && i < c->n_files; i++)
        if (!take_tensors(c, i))
            return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
    return c->tensors ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
}

mlxd_err mlxd_checkpoint_open_gguf(mlxd_checkpoint *c, const mlxd_directory *d, const char *name,
                                   mlxd_why *why) {
    uint32_t part = 1, parts = 1;
    char other[NAME_MAX + 1];
    size_t len = strlen(name);
    if (d && mlxd_checkpoint_is_split(name, &part, &parts) &&
        (parts > MLXD_LIMIT_MODEL_FILES || len > NAME_MAX))
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: %u parts, expected at most %u", c->path, parts,
                         MLXD_LIMIT_MODEL_FILES);
    mlxd_err err = mlxd_checkpoint_reserve(c, parts, why);
    for (uint32_t i = 1; i <= parts && !err; i++) {
        const char *which = name;
        if (parts > 1) {
            snprintf(other, sizeof other, "%.*s%05u%s", (int)(len - 19), name, i, name + len - 14);
            which = other;
        }
        err = open_part(c, d, which, i, parts, why);
    }
    if (err)
        return err;
    mlxd_slice meta = mlxd_gguf_metadata(c->files[0].gguf);
    mlxd_sha256_once(meta.data, meta.len, c->meta);
    return take_all(c, why);
}
