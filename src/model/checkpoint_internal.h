/* checkpoint_internal.h - what the readers of the kinds of checkpoints share: the files and the
 * table of tensors that they fill. Only checkpoint*.c include it.
 */
#ifndef MLXD_MODEL_CHECKPOINT_INTERNAL_H
#define MLXD_MODEL_CHECKPOINT_INTERNAL_H

#include "base/mem.h"
#include "format/safetensors.h"
#include "model/checkpoint.h"
#include "model/directory.h"
#include "model/hf_config.h"
#include "model/hf_name.h"

/* One file that holds tensors. */
typedef struct mlxd_checkpoint_file {
    mlxd_model_file *file;
    uint8_t *head; /* GGUF: what the container refers to */
    mlxd_gguf *gguf;
} mlxd_checkpoint_file;

#define MLXD_CHECKPOINT_DOCUMENTS 7

struct mlxd_checkpoint {
    char *path;
    struct {
        uint8_t *data;
        size_t len;
    } documents[MLXD_CHECKPOINT_DOCUMENTS]; /* as mlxd_checkpoint_documents names them */
    mlxd_model_file *index; /* the file that names the safetensors files; NULL: there is none */
    mlxd_checkpoint_file *files;
    size_t n_files;
    mlxd_arena *arena; /* names and extents */
    mlxd_checkpoint_tensor *tensors;
    uint32_t n_tensors;
    uint32_t *order; /* by name */
    uint8_t meta[MLXD_SHA256_BYTES];
    char identity[MLXD_MODEL_FILE_IDENTITY];
};

extern const char *const mlxd_checkpoint_documents[MLXD_CHECKPOINT_DOCUMENTS];

/* Makes room for `n` files. */
mlxd_err mlxd_checkpoint_reserve(mlxd_checkpoint *c, size_t n, mlxd_why *why) MLXD_MUST_CHECK;

/* The part and number of parts in the name of a split GGUF file. */
bool mlxd_checkpoint_is_split(const char *name, uint32_t *part, uint32_t *parts);
/* Opens the GGUF file `name` of the directory, with the other parts when it is one of several; `d`
 * NULL: the file at the path `name`, which is not split. */
mlxd_err mlxd_checkpoint_open_gguf(mlxd_checkpoint *c, const mlxd_directory *d, const char *name,
                                   mlxd_why *why) MLXD_MUST_CHECK;
/* Opens the directory's safetensors files and documents. */
mlxd_err mlxd_checkpoint_open_hf(mlxd_checkpoint *c, const mlxd_directory *d,
                                 mlxd_why *why) MLXD_MUST_CHECK;
/* Are there any? */
bool mlxd_checkpoint_is_hf(const mlxd_directory *d);

/* Tensor of file `file`, from which a tensor of the checkpoint or a part of it is made. */
typedef struct mlxd_checkpoint_piece {
    mlxd_hf_name name;
    const mlxd_safetensors_tensor *stored;
    uint32_t file;
} mlxd_checkpoint_piece;

/* Makes `t` of all the pieces of one canonical name, sorted by part and expert. */
mlxd_err mlxd_checkpoint_gather(mlxd_checkpoint *c, const mlxd_hf_config *config,
                                const mlxd_checkpoint_piece *pieces, size_t n,
                                mlxd_checkpoint_tensor *t, mlxd_why *why) MLXD_MUST_CHECK;

/* The encoding of rows in a type of GGUF's. */
mlxd_encoding mlxd_checkpoint_encode_gguf(uint32_t type);

#endif
