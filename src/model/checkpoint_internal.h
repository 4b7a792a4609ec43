/* checkpoint_internal.h - what the readers of the kinds of checkpoints share: the files and the
 * table of tensors that they fill. Only checkpoint*.c include it.
 */
#ifndef MLXD_MODEL_CHECKPOINT_INTERNAL_H
#define MLXD_MODEL_CHECKPOINT_INTERNAL_H

#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/file.h"

/* One file that holds tensors. */
typedef struct mlxd_checkpoint_file {
    mlxd_model_file *file;
    uint8_t *head; /* GGUF: what the container refers to */
    mlxd_gguf *gguf;
} mlxd_checkpoint_file;

struct mlxd_checkpoint {
    char *path;
    mlxd_checkpoint_file *files;
    size_t n_files;
    mlxd_arena *arena; /* names and extents */
    mlxd_checkpoint_tensor *tensors;
    uint32_t n_tensors;
    uint32_t *order; /* by name */
    uint8_t meta[MLXD_SHA256_BYTES];
    char identity[MLXD_MODEL_FILE_IDENTITY];
};

/* Opens the GGUF file `path`, with the other parts when it is one of several. */
mlxd_err mlxd_checkpoint_open_gguf(mlxd_checkpoint *c, const char *path,
                                   mlxd_why *why) MLXD_MUST_CHECK;

/* The encoding of rows in a type of GGUF's. */
mlxd_encoding mlxd_checkpoint_encode_gguf(uint32_t type);

#endif
