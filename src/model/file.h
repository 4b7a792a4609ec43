/* file.h - one file of a model: opened, checked to be a regular file, readable at any place. It is
 * read with pread(), never mapped: a file that shrinks while we read is an error, not a signal.
 *
 * Thread: after open any thread may read.
 */
#ifndef MLXD_MODEL_FILE_H
#define MLXD_MODEL_FILE_H

#include "base/base.h"

#define MLXD_MODEL_FILE_IDENTITY 96

typedef struct mlxd_model_file mlxd_model_file;

/* NOTFOUND, PERM, DATA (not a regular file), IO; texts begin with the path. */
mlxd_err mlxd_model_file_open(mlxd_model_file **out, const char *path,
                              mlxd_why *why) MLXD_MUST_CHECK;
/* The same for a path without links, under another name for people. */
mlxd_err mlxd_model_file_open_as(mlxd_model_file **out, const char *path, const char *shown,
                                 mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_model_file_close(mlxd_model_file *f);

const char *mlxd_model_file_path(const mlxd_model_file *f);
uint64_t mlxd_model_file_bytes(const mlxd_model_file *f);
/* Device, inode, size and times of the opened file: the key under which digests are remembered. ""
 * while the file is so new that another write may leave no trace in them. */
const char *mlxd_model_file_identity(const mlxd_model_file *f);

/* Reads exactly `len` bytes at `offset`; IO or DATA (file became shorter). */
mlxd_err mlxd_model_file_read(const mlxd_model_file *f, uint64_t offset, void *out, size_t len,
                              mlxd_why *why) MLXD_MUST_CHECK;

#endif
