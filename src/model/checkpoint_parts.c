/* checkpoint_parts.c - a checkpoint as a list of files: what a copy of it needs. See checkpoint.h.
 */
#include "model/checkpoint_internal.h"

#include <string.h>

/* All that lies before the first tensor's data; a part of a split file may have none. */
static uint64_t gguf_head_bytes(const mlxd_gguf *g, uint64_t bytes) {
    for (size_t i = 0; i < mlxd_gguf_tensor_count(g); i++)
        bytes = MLXD_MIN(bytes, mlxd_gguf_tensor_at(g, i)->file_offset);
    return bytes;
}

size_t mlxd_checkpoint_parts(const mlxd_checkpoint *c) {
    return c->n_files;
}

mlxd_err mlxd_checkpoint_part_at(const mlxd_checkpoint *c, size_t index, mlxd_checkpoint_part *out,
                                 mlxd_why *why) {
    MLXD_ASSERT(index < c->n_files);
    const mlxd_checkpoint_file *f = &c->files[index];
    const char *path = mlxd_model_file_path(f->file), *slash = strrchr(path, '/');
    (void)why;
    out->name = slash ? slash + 1 : path;
    out->bytes = mlxd_model_file_bytes(f->file);
    out->head_bytes = gguf_head_bytes(f->gguf, out->bytes);
    return MLXD_OK;
}

mlxd_err mlxd_checkpoint_part_read(const mlxd_checkpoint *c, size_t index, uint64_t offset,
                                   void *out, size_t len, mlxd_why *why) {
    MLXD_ASSERT(index < c->n_files);
    const mlxd_model_file *f = c->files[index].file;
    MLXD_ASSERT(offset <= mlxd_model_file_bytes(f) && len <= mlxd_model_file_bytes(f) - offset);
    return mlxd_model_file_read(f, offset, out, len, why);
}

bool mlxd_checkpoint_is_directory(const mlxd_checkpoint *c) {
    return c->files[0].gguf == NULL;
}
