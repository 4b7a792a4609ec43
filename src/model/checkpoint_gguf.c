/* checkpoint_gguf.c - GGUF files as a checkpoint. A container's head is read in growing pieces
 * until the parser has all it wants, so a file of any size costs no more memory than its metadata.
 */
#include "model/checkpoint_internal.h"

#include <stdio.h>
#include <string.h>

#define HEAD_FIRST ((size_t)4 << 20)
#define HEAD_MAX ((size_t)512 << 20)

static const struct {
    uint32_t gguf;
    mlxd_weight_type type;
} types[] = {
    {MLXD_GGUF_TYPE_F32, MLXD_WEIGHT_F32},   {MLXD_GGUF_TYPE_F16, MLXD_WEIGHT_F16},
    {MLXD_GGUF_TYPE_BF16, MLXD_WEIGHT_BF16}, {MLXD_GGUF_TYPE_Q4_0, MLXD_WEIGHT_Q4_0},
    {MLXD_GGUF_TYPE_Q4_1, MLXD_WEIGHT_Q4_1}, {MLXD_GGUF_TYPE_Q5_0, MLXD_WEIGHT_Q5_0},
    {MLXD_GGUF_TYPE_Q5_1, MLXD_WEIGHT_Q5_1}, {MLXD_GGUF_TYPE_Q8_0, MLXD_WEIGHT_Q8_0},
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

mlxd_err mlxd_checkpoint_open_gguf(mlxd_checkpoint *c, const char *path, mlxd_why *why) {
    c->files = mlxd_mem_new(1, sizeof *c->files);
    if (!c->files)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    mlxd_err err = mlxd_model_file_open(&c->files[0].file, path, why);
    c->n_files = err ? 0 : 1;
    if (!err)
        err = parse_head(&c->files[0], why);
    if (err)
        return err;
    mlxd_slice meta = mlxd_gguf_metadata(c->files[0].gguf);
    mlxd_sha256_once(meta.data, meta.len, c->meta);
    c->tensors = mlxd_mem_new(mlxd_gguf_tensor_count(c->files[0].gguf), sizeof *c->tensors);
    if (!c->tensors || !take_tensors(c, 0))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    return MLXD_OK;
}
