/* checkpoint_parts.c - a checkpoint as a list of files: what a copy of it needs. See checkpoint.h.
 * First its files of tensors, then the index that names them, then documents.
 */
#include "model/checkpoint_internal.h"

#include <string.h>

/* All that lies before the first tensor's data; a part of a split file may have none. */
static uint64_t gguf_head_bytes(const mlxd_gguf *g, uint64_t bytes) {
    for (size_t i = 0; i < mlxd_gguf_tensor_count(g); i++)
        bytes = MLXD_MIN(bytes, mlxd_gguf_tensor_at(g, i)->file_offset);
    return bytes;
}

static mlxd_err safetensors_head_bytes(const mlxd_model_file *f, uint64_t *out, mlxd_why *why) {
    uint8_t prefix[MLXD_SAFETENSORS_PREFIX];
    size_t n = (size_t)MLXD_MIN(mlxd_model_file_bytes(f), (uint64_t)sizeof prefix);
    mlxd_err err = mlxd_model_file_read(f, 0, prefix, n, why);
    if (!err)
        err = mlxd_safetensors_head_bytes((mlxd_slice){prefix, n}, mlxd_model_file_bytes(f),
                                          mlxd_model_file_path(f), &n, why);
    *out = n;
    return err;
}

/* The `index`-th part behind the files of tensors: a file, or the number of a document. */
static const mlxd_model_file *beside(const mlxd_checkpoint *c, size_t index, size_t *document) {
    if (c->index && index == 0)
        return c->index;
    index -= c->index != NULL;
    for (*document = 0; *document < MLXD_CHECKPOINT_DOCUMENTS; ++*document)
        if (c->documents[*document].data && index-- == 0)
            return NULL;
    MLXD_ASSERT(false);
    return NULL;
}

size_t mlxd_checkpoint_parts(const mlxd_checkpoint *c) {
    size_t n = c->n_files + (c->index != NULL);
    for (size_t i = 0; i < MLXD_CHECKPOINT_DOCUMENTS; i++)
        n += c->documents[i].data != NULL;
    return n;
}

static const char *base_name(const mlxd_model_file *f) {
    const char *path = mlxd_model_file_path(f), *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

mlxd_err mlxd_checkpoint_part_at(const mlxd_checkpoint *c, size_t index, mlxd_checkpoint_part *out,
                                 mlxd_why *why) {
    size_t document = 0;
    const mlxd_model_file *f =
        index < c->n_files ? c->files[index].file : beside(c, index - c->n_files, &document);
    *out =
        (mlxd_checkpoint_part){.name = f ? base_name(f) : mlxd_checkpoint_documents[document],
                               .bytes = f ? mlxd_model_file_bytes(f) : c->documents[document].len};
    out->head_bytes = out->bytes;
    if (index >= c->n_files)
        return MLXD_OK;
    if (!c->files[index].gguf)
        return safetensors_head_bytes(f, &out->head_bytes, why);
    out->head_bytes = gguf_head_bytes(c->files[index].gguf, out->bytes);
    return MLXD_OK;
}

mlxd_err mlxd_checkpoint_part_read(const mlxd_checkpoint *c, size_t index, uint64_t offset,
                                   void *out, size_t len, mlxd_why *why) {
    size_t document = 0;
    const mlxd_model_file *f =
        index < c->n_files ? c->files[index].file : beside(c, index - c->n_files, &document);
    uint64_t bytes = f ? mlxd_model_file_bytes(f) : c->documents[document].len;
    MLXD_ASSERT(offset <= bytes && len <= bytes - offset);
    if (f)
        return mlxd_model_file_read(f, offset, out, len, why);
    if (len > 0)
        memcpy(out, c->documents[document].data + offset, len);
    return MLXD_OK;
}

bool mlxd_checkpoint_is_directory(const mlxd_checkpoint *c) {
    return c->files[0].gguf == NULL;
}
