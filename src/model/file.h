/* file.h - a model file: opened, checked to be a regular file, its container parsed, its tensors
 * readable by name. Weights are read with pread(), never mapped: a file that shrinks while we read
 * is an error, not a signal.
 *
 * Thread: after open any thread may read.
 */
#ifndef MLXD_MODEL_FILE_H
#define MLXD_MODEL_FILE_H

#include "format/digest.h"
#include "format/gguf.h"

typedef struct mlxd_model_file mlxd_model_file;

/* NOTFOUND, PERM, DATA (not a regular file, malformed), IO; texts begin with the path. */
mlxd_err mlxd_model_file_open(mlxd_model_file **out, const char *path,
                              mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_model_file_close(mlxd_model_file *f);

const mlxd_gguf *mlxd_model_file_gguf(const mlxd_model_file *f);
const char *mlxd_model_file_path(const mlxd_model_file *f);
uint64_t mlxd_model_file_bytes(const mlxd_model_file *f);
/* Digest of everything before the tensor infos: configuration, tokenizer, template. */
void mlxd_model_file_meta_digest(const mlxd_model_file *f, uint8_t out[MLXD_SHA256_BYTES]);
/* Device, inode, size and times of the opened file: the key under which digests are remembered. ""
 * while the file is so new that another write may leave no trace in them. */
const char *mlxd_model_file_identity(const mlxd_model_file *f);

/* Reads exactly `len` bytes at `offset`; IO or DATA (file became shorter). */
mlxd_err mlxd_model_file_read(const mlxd_model_file *f, uint64_t offset, void *out, size_t len,
                              mlxd_why *why) MLXD_MUST_CHECK;

#endif
