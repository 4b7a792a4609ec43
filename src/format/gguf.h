/* gguf.h - strict reader of the GGUF container, versions 2 and 3 (little-endian).
 *
 *     0   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
 *     24  n_kv x { string key, u32 type, value }           string = u64 length + bytes
 *         n_tensors x { string name, u32 n_dims, u64 dims[n_dims] (innermost first),
 *                       u32 type, u64 offset from the data start }
 *         padding to general.alignment (u32, a power of two, default 32)
 *         tensor data, each tensor padded to the alignment, in the order of the infos; the
 *         padding of the last one may be missing, and nothing may follow
 *
 * The parser works on bytes and does no I/O: the caller gives a slice of the whole file (usually a
 * mapping) that must stay valid while the mlxd_gguf lives. Every size is checked before it is used:
 * counts against limits.h, dims and offsets against each other and against the file's end, tensors
 * against holes and overlaps, names and keys against duplicates, booleans against 0 and 1, nested
 * arrays and an alignment that is no power of two in 8..64 Ki are refused. Anything wrong is
 * MLXD_ERR_DATA with the byte offset and the key or tensor in the text, e.g. (all found at open)
 *     model.gguf: offset 4711: tensor "blk.3.attn_q.weight": dimension 2 is 0, expected 1..2^40
 * Other versions and big-endian files are MLXD_ERR_UNSUPPORTED; MLXD_ERR_NOMEM is possible too. The
 * index over keys and tensors is sorted, so 64 Ki hostile names cost no more than others.
 *
 * A tensor type this build cannot compute with is not an error here: the header names it, and the
 * model refuses it by name when it needs that tensor. Types that never were or are no more are.
 *
 * Thread: immutable after open; any thread may read.
 */
#ifndef MLXD_FORMAT_GGUF_H
#define MLXD_FORMAT_GGUF_H

#include "base/base.h"
#include "base/limits.h"

/* Types of metadata values, numbered as in the file. */
typedef enum mlxd_gguf_kv_type {
    MLXD_GGUF_U8 = 0,
    MLXD_GGUF_I8,
    MLXD_GGUF_U16,
    MLXD_GGUF_I16,
    MLXD_GGUF_U32,
    MLXD_GGUF_I32,
    MLXD_GGUF_F32,
    MLXD_GGUF_BOOL,
    MLXD_GGUF_STRING,
    MLXD_GGUF_ARRAY,
    MLXD_GGUF_U64,
    MLXD_GGUF_I64,
    MLXD_GGUF_F64
} mlxd_gguf_kv_type;

/* Tensor types that mlxd computes with, numbered as in the file (the others are only sized). */
enum {
    MLXD_GGUF_TYPE_F32 = 0,
    MLXD_GGUF_TYPE_F16 = 1,
    MLXD_GGUF_TYPE_Q4_0 = 2,
    MLXD_GGUF_TYPE_Q4_1 = 3,
    MLXD_GGUF_TYPE_Q5_0 = 6,
    MLXD_GGUF_TYPE_Q5_1 = 7,
    MLXD_GGUF_TYPE_Q8_0 = 8,
    MLXD_GGUF_TYPE_Q2_K = 10,
    MLXD_GGUF_TYPE_Q3_K = 11,
    MLXD_GGUF_TYPE_Q4_K = 12,
    MLXD_GGUF_TYPE_Q5_K = 13,
    MLXD_GGUF_TYPE_Q6_K = 14,
    MLXD_GGUF_TYPE_IQ4_NL = 20,
    MLXD_GGUF_TYPE_IQ4_XS = 23,
    MLXD_GGUF_TYPE_BF16 = 30,
    MLXD_GGUF_TYPE_MXFP4 = 39,
    MLXD_GGUF_TYPE_NVFP4 = 40
};

typedef struct mlxd_gguf mlxd_gguf;

typedef struct mlxd_gguf_tensor {
    const char *name; /* NUL-terminated, owned by the mlxd_gguf */
    uint32_t type;    /* number in the file */
    uint32_t n_dims;
    uint64_t dims[MLXD_LIMIT_GGUF_DIMS]; /* innermost first; missing ones are 1 */
    uint64_t file_offset;                /* from the start of the file */
    uint64_t data_bytes;                 /* file_offset + data_bytes <= the file's size */
    mlxd_slice data;                     /* the same bytes; empty after open_head */
} mlxd_gguf_tensor;

/* Parses `file`; `name` is used in error texts. On success *out is owned by the caller. */
mlxd_err mlxd_gguf_open(mlxd_gguf **out, mlxd_slice file, const char *name,
                        mlxd_why *why) MLXD_MUST_CHECK;
/* The same, but `head` is only the first part of a file of `file_bytes`: AGAIN when the metadata
 * and tensor infos go on beyond it (give a longer head; never when it is the whole file). Tensors'
 * `data` slices are empty; their place is file_offset and data_bytes. `head` must stay valid while
 * the mlxd_gguf lives. */
mlxd_err mlxd_gguf_open_head(mlxd_gguf **out, mlxd_slice head, uint64_t file_bytes,
                             const char *name, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_gguf_close(mlxd_gguf *g);

uint32_t mlxd_gguf_version(const mlxd_gguf *g);
/* The encoded key-value section, first key to last value: what a fingerprint covers. */
mlxd_slice mlxd_gguf_metadata(const mlxd_gguf *g);
size_t mlxd_gguf_tensor_count(const mlxd_gguf *g);
const mlxd_gguf_tensor *mlxd_gguf_tensor_at(const mlxd_gguf *g, size_t index);
const mlxd_gguf_tensor *mlxd_gguf_tensor_find(const mlxd_gguf *g, const char *name); /* or NULL */

/* Name of a tensor type ("Q4_K"; also of one that was removed), "unknown" beyond the table. */
const char *mlxd_gguf_type_name(uint32_t type);
/* Elements per block and bytes per block; false for a type that never was or is no more. */
bool mlxd_gguf_type_size(uint32_t type, uint32_t *block_elems, uint32_t *block_bytes);

/* Metadata. The getters say NOTFOUND when the key is absent and DATA (with the key, the type it
 * has and the type that was expected) when it has another type; any integer type that holds the
 * value is accepted for u64, any float type for f64. */
size_t mlxd_gguf_kv_count(const mlxd_gguf *g);
const char *mlxd_gguf_kv_key(const mlxd_gguf *g, size_t index);
bool mlxd_gguf_has(const mlxd_gguf *g, const char *key);
/* The key is there and holds an array (per-layer values such as head_count_kv may). */
bool mlxd_gguf_is_array(const mlxd_gguf *g, const char *key);
const char *mlxd_gguf_kv_type_name(mlxd_gguf_kv_type type); /* "u32", "string", ... */
mlxd_err mlxd_gguf_get_u64(const mlxd_gguf *g, const char *key, uint64_t *out,
                           mlxd_why *why) MLXD_MUST_CHECK;
mlxd_err mlxd_gguf_get_f64(const mlxd_gguf *g, const char *key, double *out,
                           mlxd_why *why) MLXD_MUST_CHECK;
mlxd_err mlxd_gguf_get_bool(const mlxd_gguf *g, const char *key, bool *out,
                            mlxd_why *why) MLXD_MUST_CHECK;
/* The string's bytes inside the file: not NUL-terminated, UTF-8 not checked. */
mlxd_err mlxd_gguf_get_str(const mlxd_gguf *g, const char *key, mlxd_slice *out,
                           mlxd_why *why) MLXD_MUST_CHECK;

/* An array value: element type and count; elements are fetched by walking. */
typedef struct mlxd_gguf_array {
    mlxd_gguf_kv_type type; /* of the elements; never ARRAY */
    uint64_t count;
    mlxd_slice data; /* the encoded elements */
} mlxd_gguf_array;
mlxd_err mlxd_gguf_get_array(const mlxd_gguf *g, const char *key, mlxd_gguf_array *out,
                             mlxd_why *why) MLXD_MUST_CHECK;
/* Walk: start with *cursor = 0, call `count` times. Asserts the element type; lengths were checked
 * at open. */
mlxd_slice mlxd_gguf_array_next_str(const mlxd_gguf_array *a, size_t *cursor);
/* Element `index` of an array of integers (any width; BOOL counts) or floats; asserts both. A u64
 * above INT64_MAX gives INT64_MAX. */
int64_t mlxd_gguf_array_int(const mlxd_gguf_array *a, uint64_t index);
double mlxd_gguf_array_float(const mlxd_gguf_array *a, uint64_t index);

#endif
