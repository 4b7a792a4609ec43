/* tensor_store.h - tensors as the contract's messages describe them: a checked value, its encoding,
 * memory that is counted, and the bounded store behind SendTensor and GetTensor.
 *
 *     message bytes --> mlxd_tensor (slices of the message) --check--> store: a block of its own
 *                                                                        |
 *     answer: header bytes | data of the block, lent to gRPC  <----------+
 *
 * A block is reference counted, because a tensor of a gigabyte that is still on its way to a slow
 * reader may meanwhile be replaced. Its bytes count until the last reference is gone, so replacing
 * and not reading cannot take more memory than the pool has.
 *
 * The contract has no call that removes a tensor: ids are for using again.
 */
#ifndef MLXD_CLUSTER_TENSOR_STORE_H
#define MLXD_CLUSTER_TENSOR_STORE_H

#include "base/limits.h"
#include "format/fields.h"
#include "base/mem.h"

/* ---- the value ---- */

/* Slices are lent by whatever the tensor was read from. Data is little-endian, row-major. */
typedef struct mlxd_tensor {
    mlxd_slice id;
    mlxd_slice dtype;          /* float32, float16, bfloat16, int8, uint8, int32, int64 */
    mlxd_slice compression;    /* "" or "none" */
    mlxd_slice source, target; /* devices; informative */
    int32_t shape[MLXD_LIMIT_TENSOR_DIMS];
    uint32_t n_dims;  /* as many as came; the first MLXD_LIMIT_TENSOR_DIMS are in shape */
    double timestamp; /* informative, any value */
    mlxd_slice data;
} mlxd_tensor;

/* Is it 1..MLXD_LIMIT_TENSOR_ID bytes of UTF-8 without control characters? INVALID names `what`. */
mlxd_err mlxd_tensor_check_id(const char *what, mlxd_slice id, mlxd_why *why) MLXD_MUST_CHECK;
/* Everything that does not need the data's values; an empty id is fine here. INVALID: a name, an
 * unknown dtype or compression, not 1..MLXD_LIMIT_TENSOR_DIMS dimensions, one below 1, a product
 * that overflows, or one that times the dtype's size is not the length of the data. */
mlxd_err mlxd_tensor_check(const mlxd_tensor *t, mlxd_why *why) MLXD_MUST_CHECK;
/* CORRUPT with the first index when a float tensor holds a NaN or an infinity. Reads all data of a
 * tensor that passed mlxd_tensor_check. */
mlxd_err mlxd_tensor_check_finite(const mlxd_tensor *t, mlxd_why *why) MLXD_MUST_CHECK;

/* ---- TensorData on the wire ---- */

/* Messages are read by a field scan that leaves the data in place and keeps protobuf's rules:
 * fields in any order, the last value of a field wins, a message field that comes twice is merged,
 * `shape` packed or not, unknown fields skipped. A field of a wrong wire type is malformed. */

/* Merges a field that is a TensorData into *t, which begins zeroed. Not checked yet. */
bool mlxd_tensor_read(mlxd_tensor *t, const mlxd_field *f) MLXD_MUST_CHECK;

/* Appends a TensorData that was checked, up to the bytes of `data`: they are its last field, so
 * that they can be sent from where they lie. */
void mlxd_tensor_write(mlxd_buf *out, const mlxd_tensor *t);

/* ---- counted memory ---- */

/* Any thread. Blocks may outlive the pool. */
typedef struct mlxd_tensor_pool mlxd_tensor_pool;
typedef struct mlxd_tensor_block mlxd_tensor_block;
#define MLXD_TENSOR_ALIGN 64

/* Blocks of up to `bytes_max` bytes together; NULL: no memory. */
mlxd_tensor_pool *mlxd_tensor_pool_open(size_t bytes_max) MLXD_MUST_CHECK;
void mlxd_tensor_pool_close(mlxd_tensor_pool *pool); /* NULL is fine */
/* Bytes of all blocks that exist. */
size_t mlxd_tensor_pool_bytes(const mlxd_tensor_pool *pool);
/* A block with one reference, not initialized. FULL with the numbers, or NOMEM. */
mlxd_err mlxd_tensor_block_open(mlxd_tensor_block **out, mlxd_tensor_pool *pool, size_t bytes,
                                mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_tensor_block_ref(mlxd_tensor_block *block);
/* Gives a reference back. Takes a void pointer so that it can be a message part's release. */
void mlxd_tensor_block_unref(void *block);
/* Aligned to MLXD_TENSOR_ALIGN. */
uint8_t *mlxd_tensor_block_data(mlxd_tensor_block *block);

/* ---- the store ---- */

/* One thread at a time. */
typedef struct mlxd_tensor_store mlxd_tensor_store;

/* Up to `count_max` tensors and `bytes_max` bytes of data and names; NULL: no memory. */
mlxd_tensor_store *mlxd_tensor_store_open(size_t count_max, size_t bytes_max) MLXD_MUST_CHECK;
void mlxd_tensor_store_close(mlxd_tensor_store *store); /* NULL is fine */
/* Checks the tensor (id, mlxd_tensor_check, finiteness), copies it, replaces the one of the same
 * id. On error nothing has changed: INVALID, CORRUPT, FULL (count or bytes), NOMEM. */
mlxd_err mlxd_tensor_store_put(mlxd_tensor_store *store, const mlxd_tensor *t,
                               mlxd_why *why) MLXD_MUST_CHECK;
/* Fills *out; its slices point into *block, which has been given one reference for the caller.
 * False when there is no tensor of that id. */
bool mlxd_tensor_store_get(const mlxd_tensor_store *store, mlxd_slice id, mlxd_tensor *out,
                           mlxd_tensor_block **block) MLXD_MUST_CHECK;
size_t mlxd_tensor_store_count(const mlxd_tensor_store *store);
size_t mlxd_tensor_store_bytes(const mlxd_tensor_store *store);

#endif
