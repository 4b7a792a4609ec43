/* checkpoint.h - a model as it lies on disk, whatever wrote it: one set of named tensors and the
 * documents beside them.
 *
 * A checkpoint is opened by the path of
 *
 *     a GGUF file            model-Q4_K_M.gguf
 *     a part of a split one  model-00001-of-00003.gguf: all parts are opened
 *     a directory as Hugging Face's and MLX's tools write it: config.json and model.safetensors,
 *         or the files that model.safetensors.index.json names, or else all model*.safetensors
 *     a directory with one GGUF model (mmproj-* and mtp-* are not counted)
 *
 * What links in a directory may lead to is written in directory.h.
 *
 * Tensors are found under their canonical names, which are GGUF's ("blk.3.attn_q.weight"; hf_name.h
 * translates others). Experts that are stored one by one are one tensor here. Quantized tensors of
 * MLX, stored as three, are one, too. A tensor that no name or encoding is known for is there all
 * the same, so that a model that needs it, or must not ignore it, can say so.
 *
 * A tensor is a row-major array of `dims[2]` stacked matrices of `dims[1]` rows and `dims[0]`
 * columns (a vector has one row). It is stored as one to three streams, each a sequence of rows of
 * equal length, as many as the tensor has: the weights, and for some encodings their scales and
 * biases. Where a stream's bytes are is the checkpoint's business: they may lie in several pieces,
 * in several files, at any alignment. They are read, never mapped.
 *
 * Thread: immutable after open; any thread may read.
 */
#ifndef MLXD_MODEL_CHECKPOINT_H
#define MLXD_MODEL_CHECKPOINT_H

#include "format/digest.h"
#include "format/gguf.h"
#include "kernel/pack.h"

#define MLXD_CHECKPOINT_STREAMS 3
#define MLXD_ENCODING_NO_GGUF UINT32_MAX

typedef enum mlxd_encoding_kind {
    MLXD_ENCODING_ROWS,   /* one stream of rows in GGUF's layout of `type` */
    MLXD_ENCODING_AFFINE, /* MLX: quantized weights, scales, biases */
    MLXD_ENCODING_MXFP4,  /* MLX and gpt_oss: weights, scales */
    MLXD_ENCODING_MXFP8,
    MLXD_ENCODING_NVFP4,
    MLXD_ENCODING_OTHER /* there, but nothing that can be loaded; `label` says what it is */
} mlxd_encoding_kind;

typedef struct mlxd_encoding {
    mlxd_encoding_kind kind;
    mlxd_weight_type type; /* ROWS */
    uint32_t gguf;         /* the number that GGUF files have for it, or MLXD_ENCODING_NO_GGUF */
    uint8_t bits, group;   /* AFFINE to NVFP4: of an element; columns with one scale */
    mlxd_float scales;     /* AFFINE: type of scales and biases */
    char label[32];        /* for people: "Q4_K", "BF16", "affine 4 bits, group 64, F16" */
} mlxd_encoding;

/* A piece of a stream. */
typedef struct mlxd_extent {
    uint32_t file; /* number among the checkpoint's files */
    uint64_t offset, bytes;
} mlxd_extent;

typedef struct mlxd_stream {
    uint64_t row_bytes; /* 0 for OTHER */
    uint64_t bytes;     /* of all its extents */
    const mlxd_extent *extents;
    size_t n_extents;
} mlxd_stream;

typedef struct mlxd_checkpoint_tensor {
    const char *name; /* canonical; owned by the checkpoint */
    mlxd_encoding encoding;
    uint32_t n_dims;
    uint64_t dims[MLXD_LIMIT_GGUF_DIMS]; /* columns first; missing ones are 1 */
    uint64_t bytes;                      /* of all streams */
    uint32_t n_streams;
    mlxd_stream streams[MLXD_CHECKPOINT_STREAMS];
} mlxd_checkpoint_tensor;

typedef struct mlxd_checkpoint mlxd_checkpoint;

/* NOTFOUND, PERM, DATA (malformed), UNSUPPORTED, IO, NOMEM; texts begin with the path of the file
 * that is meant. */
mlxd_err mlxd_checkpoint_open(mlxd_checkpoint **out, const char *path,
                              mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_checkpoint_close(mlxd_checkpoint *c);

/* As given to open. */
const char *mlxd_checkpoint_path(const mlxd_checkpoint *c);
/* Of all its files together. */
uint64_t mlxd_checkpoint_bytes(const mlxd_checkpoint *c);
/* The container whose metadata describes the model; NULL when it is not GGUF. */
const mlxd_gguf *mlxd_checkpoint_gguf(const mlxd_checkpoint *c);
/* The bytes of a file beside the tensors; empty when there is none. Known are config.json,
 * generation_config.json, tokenizer.json, tokenizer_config.json, special_tokens_map.json and
 * chat_template.jinja, and only where the tensors are no GGUF. */
mlxd_slice mlxd_checkpoint_document(const mlxd_checkpoint *c, const char *name);
/* Digest of what describes the model: configuration, tokenizer, template. */
void mlxd_checkpoint_meta_digest(const mlxd_checkpoint *c, uint8_t out[MLXD_SHA256_BYTES]);
/* The key under which digests are remembered; it changes with any of the files. "" while one of
 * them is so new that another write may leave no trace. */
const char *mlxd_checkpoint_identity(const mlxd_checkpoint *c);

size_t mlxd_checkpoint_count(const mlxd_checkpoint *c);
/* In the order of the files. */
const mlxd_checkpoint_tensor *mlxd_checkpoint_at(const mlxd_checkpoint *c, size_t index);
const mlxd_checkpoint_tensor *mlxd_checkpoint_find(const mlxd_checkpoint *c, const char *name);

/* Reads `len` bytes of stream `stream` of `t` from its byte `at` on; asserts that they are inside.
 * IO, or DATA when the file became shorter. */
mlxd_err mlxd_checkpoint_read(const mlxd_checkpoint *c, const mlxd_checkpoint_tensor *t,
                              size_t stream, uint64_t at, void *out, size_t len,
                              mlxd_why *why) MLXD_MUST_CHECK;

/* ---- as files: what a copy of it needs ---- */

/* One of the files it was opened from: those that extents number first, then documents. */
typedef struct mlxd_checkpoint_part {
    const char *name; /* without its directory; owned by the checkpoint */
    uint64_t bytes;
    uint64_t head_bytes; /* from its begin: all that open reads of it */
} mlxd_checkpoint_part;

size_t mlxd_checkpoint_parts(const mlxd_checkpoint *c);
mlxd_err mlxd_checkpoint_part_at(const mlxd_checkpoint *c, size_t index, mlxd_checkpoint_part *out,
                                 mlxd_why *why) MLXD_MUST_CHECK;
/* Reads bytes of a part; asserts that they are inside. As mlxd_checkpoint_read. */
mlxd_err mlxd_checkpoint_part_read(const mlxd_checkpoint *c, size_t index, uint64_t offset,
                                   void *out, size_t len, mlxd_why *why) MLXD_MUST_CHECK;
/* A copy is opened by its directory; else by the name of its first part. */
bool mlxd_checkpoint_is_directory(const mlxd_checkpoint *c);

#endif
