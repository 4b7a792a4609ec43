/* gguf_kv.h - what gguf.c (parsing) and gguf_kv.c (the typed getters) share; not for others. */
#ifndef MLXD_FORMAT_GGUF_KV_H
#define MLXD_FORMAT_GGUF_KV_H

#include "format/gguf.h"

typedef struct mlxd_gguf_kv {
    const char *key; /* NUL-terminated, in the mlxd_gguf's arena */
    size_t key_len;
    size_t file_offset; /* of the key */
    mlxd_gguf_kv_type type;
    mlxd_slice value;      /* scalars: the encoded bytes; STRING: its text */
    mlxd_gguf_array array; /* ARRAY only */
} mlxd_gguf_kv;

typedef struct mlxd_gguf_kv_table {
    mlxd_gguf_kv *kvs; /* in the order of the file */
    uint32_t *order;   /* by key */
    uint32_t count;
    char *file_name;    /* for error texts */
    mlxd_slice encoded; /* all of it, as in the file */
} mlxd_gguf_kv_table;

const mlxd_gguf_kv_table *mlxd_gguf_table(const mlxd_gguf *g);
const mlxd_gguf_kv *mlxd_gguf_kv_find(const mlxd_gguf *g, const char *key); /* or NULL */
/* An mlxd_names_at over an array of mlxd_gguf_kv. */
mlxd_slice mlxd_gguf_key_at(const void *ctx, uint32_t i);
/* Bytes of a value, 0 for STRING and ARRAY. */
size_t mlxd_gguf_kv_size(mlxd_gguf_kv_type type);
/* Little-endian number of 1, 2, 4 or 8 bytes. */
uint64_t mlxd_gguf_load(const uint8_t *p, size_t size);

#endif
