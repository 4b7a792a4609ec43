/* gguf_writer.h - builds GGUF files in memory for test_gguf.c, valid ones unless asked otherwise,
 * and remembers where each field stands, so that a test can put something else there. */
#ifndef MLXD_TEST_GGUF_WRITER_H
#define MLXD_TEST_GGUF_WRITER_H

#include "base/mem.h"
#include "format/gguf.h"

#include <stdio.h>
#include <string.h>

struct field {
    char name[40]; /* "t0.dim1" */
    size_t at, width;
};

struct writer {
    mlxd_buf b;
    struct field fields[128];
    size_t n_fields;
    size_t data_start;
    uint64_t data_bytes; /* padded sum so far */
    uint32_t alignment;
};

static inline void put(struct writer *w, uint64_t v, size_t width) {
    for (size_t i = 0; i < width; i++)
        mlxd_buf_add_byte(&w->b, (uint8_t)(v >> (8 * i)));
}

static inline void put_field(struct writer *w, const char *name, uint64_t v, size_t width) {
    if (w->n_fields < MLXD_COUNT_OF(w->fields)) {
        struct field *f = &w->fields[w->n_fields++];
        snprintf(f->name, sizeof f->name, "%s", name);
        f->at = w->b.len;
        f->width = width;
    }
    put(w, v, width);
}

static inline void put_str(struct writer *w, const char *field, const char *s) {
    put_field(w, field, strlen(s), 8);
    mlxd_buf_add_str(&w->b, s);
}

static inline void put_key(struct writer *w, const char *key, mlxd_gguf_kv_type type) {
    char name[40];
    snprintf(name, sizeof name, "%.24s.keylen", key);
    put_str(w, name, key);
    snprintf(name, sizeof name, "%.24s.type", key);
    put_field(w, name, type, 4);
}

static inline void put_scalar(struct writer *w, const char *key, mlxd_gguf_kv_type type, uint64_t v,
                              size_t width) {
    put_key(w, key, type);
    put_field(w, key, v, width);
}

static inline void put_array(struct writer *w, const char *key, mlxd_gguf_kv_type type,
                             uint64_t count) {
    char name[40];
    put_key(w, key, MLXD_GGUF_ARRAY);
    snprintf(name, sizeof name, "%.24s.elem", key);
    put_field(w, name, type, 4);
    snprintf(name, sizeof name, "%.24s.count", key);
    put_field(w, name, count, 8);
}

static inline void put_header(struct writer *w, uint32_t version, uint64_t tensors, uint64_t kv) {
    mlxd_buf_init(&w->b, 0);
    w->n_fields = 0;
    w->data_bytes = 0;
    w->alignment = 32;
    mlxd_buf_add_str(&w->b, "GGUF");
    put_field(w, "version", version, 4);
    put_field(w, "n_tensors", tensors, 8);
    put_field(w, "n_kv", kv, 8);
}

static inline void put_tensor(struct writer *w, const char *id, const char *name, uint32_t n_dims,
                              const uint64_t *dims, uint32_t type, uint64_t bytes) {
    char field[40];
    snprintf(field, sizeof field, "%s.namelen", id);
    put_str(w, field, name);
    snprintf(field, sizeof field, "%s.n_dims", id);
    put_field(w, field, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++) {
        snprintf(field, sizeof field, "%s.dim%u", id, i);
        put_field(w, field, dims[i], 8);
    }
    snprintf(field, sizeof field, "%s.type", id);
    put_field(w, field, type, 4);
    snprintf(field, sizeof field, "%s.offset", id);
    put_field(w, field, w->data_bytes, 8);
    w->data_bytes = (w->data_bytes + bytes + w->alignment - 1) / w->alignment * w->alignment;
}

/* Data: each byte is its position modulo 251. */
static inline void put_data(struct writer *w) {
    while (w->b.len % w->alignment != 0)
        mlxd_buf_add_byte(&w->b, 0);
    w->data_start = w->b.len;
    for (uint64_t i = 0; i < w->data_bytes; i++)
        mlxd_buf_add_byte(&w->b, (uint8_t)(i % 251));
}

/* The usual file: every kind of value, three tensors, the last one not a multiple of 32 bytes.
 *   t0 F32 [4, 3] 48 bytes -> 64;  t1 Q4_0 [64, 2] 72 -> 96;  t2 F16 [5] 10 -> 32 */
#define USUAL_KV 18
#define USUAL_TENSORS 3
#define USUAL_LAST_END (64 + 96 + 10) /* of the data, without padding */

static inline void put_usual_metadata(struct writer *w) {
    put_key(w, "general.name", MLXD_GGUF_STRING);
    put_str(w, "general.name.len", "a tiny file");
    put_scalar(w, "general.alignment", MLXD_GGUF_U32, w->alignment, 4);
    put_scalar(w, "v.u8", MLXD_GGUF_U8, 200, 1);
    put_scalar(w, "v.i8", MLXD_GGUF_I8, (uint8_t)-7, 1);
    put_scalar(w, "v.u16", MLXD_GGUF_U16, 60000, 2);
    put_scalar(w, "v.i16", MLXD_GGUF_I16, 300, 2);
    put_scalar(w, "v.u32", MLXD_GGUF_U32, 4000000000u, 4);
    put_scalar(w, "v.i32", MLXD_GGUF_I32, (uint32_t)-2147483647 - 1, 4);
    put_scalar(w, "v.f32", MLXD_GGUF_F32, 0x3fc00000, 4); /* 1.5 */
    put_scalar(w, "v.bool", MLXD_GGUF_BOOL, 1, 1);
    put_scalar(w, "v.u64", MLXD_GGUF_U64, UINT64_MAX, 8);
    put_scalar(w, "v.i64", MLXD_GGUF_I64, INT64_MAX, 8);
    put_scalar(w, "v.f64", MLXD_GGUF_F64, UINT64_C(0xbfd0000000000000), 8); /* -0.25 */
    put_array(w, "a.str", MLXD_GGUF_STRING, 3);
    put_str(w, "a.str.0", "one");
    put_str(w, "a.str.1", "");
    put_str(w, "a.str.2", "three");
    put_array(w, "a.i16", MLXD_GGUF_I16, 2);
    put(w, (uint16_t)-3, 2);
    put(w, 9, 2);
    put_array(w, "a.f32", MLXD_GGUF_F32, 1);
    put(w, 0x3fc00000, 4);
    put_array(w, "a.bool", MLXD_GGUF_BOOL, 2);
    put_field(w, "a.bool.0", 0, 1);
    put_field(w, "a.bool.1", 1, 1);
    put_array(w, "a.none", MLXD_GGUF_U32, 0);
}

static inline void put_usual(struct writer *w, uint32_t version, uint32_t alignment) {
    put_header(w, version, USUAL_TENSORS, USUAL_KV);
    w->alignment = alignment;
    put_usual_metadata(w);
    put_tensor(w, "t0", "norm.weight", 2, (uint64_t[]){4, 3}, MLXD_GGUF_TYPE_F32, 48);
    put_tensor(w, "t1", "attn.weight", 2, (uint64_t[]){64, 2}, MLXD_GGUF_TYPE_Q4_0, 72);
    put_tensor(w, "t2", "bias", 1, (uint64_t[]){5}, MLXD_GGUF_TYPE_F16, 10);
    put_data(w);
}

#endif
