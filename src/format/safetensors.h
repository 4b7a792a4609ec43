/* safetensors.h - strict reader of the safetensors container.
 *
 *     0      u64 N, little-endian
 *     8      N bytes of JSON, beginning with '{', spaces allowed behind it:
 *              {"__metadata__": {"format": "pt", ...},          optional, strings
 *               "model.norm.weight": {"dtype": "BF16", "shape": [2048], "data_offsets": [0, 4096]},
 *               ...}
 *     8+N    data; offsets count from here, at any alignment
 *
 * The parser works on bytes and does no I/O: the caller reads the first 8 bytes, asks how long the
 * head is, and gives all of it. It enforces what the reference implementation does, so a file that
 * is accepted here is accepted there: N <= 100 000 000 and inside the file; no duplicate names; a
 * known dtype; shapes whose bits make whole bytes and do not overflow; data that, sorted, begins at
 * 0, has neither holes nor overlaps, and ends with the file. Tensors without dimensions (one value)
 * and without values are legal. Beyond that, names and numbers of dimensions and tensors are
 * bounded by limits.h. Anything wrong is MLXD_ERR_DATA with the file and tensor in the text.
 *
 * Thread: immutable after open; any thread may read.
 */
#ifndef MLXD_FORMAT_SAFETENSORS_H
#define MLXD_FORMAT_SAFETENSORS_H

#include "base/base.h"
#include "base/limits.h"

#define MLXD_SAFETENSORS_PREFIX 8 /* bytes in front of the JSON */

typedef enum mlxd_dtype {
    MLXD_DTYPE_BOOL,
    MLXD_DTYPE_F4,
    MLXD_DTYPE_F6_E2M3,
    MLXD_DTYPE_F6_E3M2,
    MLXD_DTYPE_U8,
    MLXD_DTYPE_I8,
    MLXD_DTYPE_F8_E5M2,
    MLXD_DTYPE_F8_E4M3,
    MLXD_DTYPE_F8_E8M0,
    MLXD_DTYPE_F8_E4M3FNUZ,
    MLXD_DTYPE_F8_E5M2FNUZ,
    MLXD_DTYPE_I16,
    MLXD_DTYPE_U16,
    MLXD_DTYPE_F16,
    MLXD_DTYPE_BF16,
    MLXD_DTYPE_I32,
    MLXD_DTYPE_U32,
    MLXD_DTYPE_F32,
    MLXD_DTYPE_C64,
    MLXD_DTYPE_F64,
    MLXD_DTYPE_I64,
    MLXD_DTYPE_U64,
    MLXD_DTYPE_COUNT
} mlxd_dtype;

const char *mlxd_dtype_name(mlxd_dtype type); /* "BF16" */
unsigned mlxd_dtype_bits(mlxd_dtype type);

typedef struct mlxd_safetensors mlxd_safetensors;

typedef struct mlxd_safetensors_tensor {
    const char *name; /* NUL-terminated, owned by the mlxd_safetensors */
    mlxd_dtype type;
    uint32_t n_dims;
    uint64_t dims[MLXD_LIMIT_SAFETENSORS_DIMS]; /* outermost first, as in the file */
    uint64_t file_offset;                       /* from the start of the file */
    uint64_t data_bytes;                        /* file_offset + data_bytes <= the file's size */
} mlxd_safetensors_tensor;

/* Bytes of prefix and JSON together, from the first MLXD_SAFETENSORS_PREFIX bytes (`prefix` may
 * hold fewer when the file does). `name` is used in error texts, here and below. */
mlxd_err mlxd_safetensors_head_bytes(mlxd_slice prefix, uint64_t file_bytes, const char *name,
                                     size_t *out, mlxd_why *why) MLXD_MUST_CHECK;
/* Parses `head`, which has exactly that many bytes and is not needed afterwards. */
mlxd_err mlxd_safetensors_open(mlxd_safetensors **out, mlxd_slice head, uint64_t file_bytes,
                               const char *name, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_safetensors_close(mlxd_safetensors *s);

size_t mlxd_safetensors_count(const mlxd_safetensors *s);
/* In the order of their data. */
const mlxd_safetensors_tensor *mlxd_safetensors_at(const mlxd_safetensors *s, size_t index);

#endif
