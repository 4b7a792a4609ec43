/* directory.h - the directory of a model: what is in it, and its files opened safely.
 *
 * Files are taken by name only. A symbolic link may point to something beneath the directory, and,
 * when the directory lies in Hugging Face's cache (.../models--org--name/snapshots/commit), beneath
 * models--org--name, where that cache keeps the contents; a link that leads elsewhere is refused,
 * so that a downloaded repository cannot make us read other files of this machine.
 *
 * Thread: immutable after open.
 */
#ifndef MLXD_MODEL_DIRECTORY_H
#define MLXD_MODEL_DIRECTORY_H

#include "model/file.h"

typedef struct mlxd_directory mlxd_directory;

/* NOTFOUND, PERM, IO, DATA (no directory, too many entries), NOMEM; texts begin with the path. */
mlxd_err mlxd_directory_open(mlxd_directory **out, const char *path, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_directory_close(mlxd_directory *d);

/* Names of the entries, in the order of their bytes. */
size_t mlxd_directory_count(const mlxd_directory *d);
const char *mlxd_directory_at(const mlxd_directory *d, size_t index);
bool mlxd_directory_has(const mlxd_directory *d, const char *name);

/* Opens the entry `name`. As mlxd_model_file_open; PERM when a link leaves the model, INVALID when
 * `name` is no plain name. */
mlxd_err mlxd_directory_open_file(mlxd_model_file **out, const mlxd_directory *d, const char *name,
                                  mlxd_why *why) MLXD_MUST_CHECK;
/* All of the entry `name`, at most `bytes_max` of it (DATA), in memory of the caller's. */
mlxd_err mlxd_directory_read(const mlxd_directory *d, const char *name, size_t bytes_max,
                             uint8_t **out, size_t *len, mlxd_why *why) MLXD_MUST_CHECK;

#endif
