/* gguf_kv.c - the metadata getters of gguf.h. Lengths and booleans were checked by gguf.c. */
#include "format/gguf_kv.h"

#include "format/names.h"

#include <inttypes.h>
#include <string.h>

static const struct kv_type {
    const char *name;
    size_t size;
    enum { OTHER, UNSIGNED, SIGNED, FLOAT } class;
} kv_types[] = {
    [MLXD_GGUF_U8] = {"u8", 1, UNSIGNED},      [MLXD_GGUF_I8] = {"i8", 1, SIGNED},
    [MLXD_GGUF_U16] = {"u16", 2, UNSIGNED},    [MLXD_GGUF_I16] = {"i16", 2, SIGNED},
    [MLXD_GGUF_U32] = {"u32", 4, UNSIGNED},    [MLXD_GGUF_I32] = {"i32", 4, SIGNED},
    [MLXD_GGUF_F32] = {"f32", 4, FLOAT},       [MLXD_GGUF_BOOL] = {"bool", 1, OTHER},
    [MLXD_GGUF_STRING] = {"string", 0, OTHER}, [MLXD_GGUF_ARRAY] = {"array", 0, OTHER},
    [MLXD_GGUF_U64] = {"u64", 8, UNSIGNED},    [MLXD_GGUF_I64] = {"i64", 8, SIGNED},
    [MLXD_GGUF_F64] = {"f64", 8, FLOAT},
};

const char *mlxd_gguf_kv_type_name(mlxd_gguf_kv_type type) {
    MLXD_ASSERT((size_t)type < MLXD_COUNT_OF(kv_types));
    return kv_types[type].name;
}

size_t mlxd_gguf_kv_size(mlxd_gguf_kv_type type) {
    MLXD_ASSERT((size_t)type < MLXD_COUNT_OF(kv_types));
    return kv_types[type].size;
}

/* ---- decoding ---- */

uint64_t mlxd_gguf_load(const uint8_t *p, size_t size) {
    MLXD_ASSERT(size <= 8);
    uint64_t v = 0;
    for (size_t i = size; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

/* A value of a signed type, extended to 64 bits. */
static int64_t load_signed(const uint8_t *p, size_t size) {
    uint64_t v = mlxd_gguf_load(p, size);
    uint64_t sign = UINT64_C(1) << (8 * size - 1);
    if (!(v & sign))
        return (int64_t)v;
    v |= ~(sign - 1);
    return -(int64_t)~v - 1; /* two's complement without relying on the conversion */
}

static double load_float(const uint8_t *p, size_t size) {
    uint64_t bits = mlxd_gguf_load(p, size);
    uint32_t bits32 = (uint32_t)bits;
    float f;
    double d;
    if (size == 4) {
        memcpy(&f, &bits32, sizeof f);
        return (double)f;
    }
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* ---- look-up ---- */

mlxd_slice mlxd_gguf_key_at(const void *ctx, uint32_t i) {
    const mlxd_gguf_kv *kv = (const mlxd_gguf_kv *)ctx + i;
    return (mlxd_slice){(const uint8_t *)kv->key, kv->key_len};
}

const mlxd_gguf_kv *mlxd_gguf_kv_find(const mlxd_gguf *g, const char *key) {
    const mlxd_gguf_kv_table *m = mlxd_gguf_table(g);
    uint32_t i = mlxd_names_find(m->order, m->count, mlxd_gguf_key_at, m->kvs, mlxd_slice_str(key));
    return i == MLXD_NAMES_NONE ? NULL : &m->kvs[i];
}

size_t mlxd_gguf_kv_count(const mlxd_gguf *g) {
    return mlxd_gguf_table(g)->count;
}

const char *mlxd_gguf_kv_key(const mlxd_gguf *g, size_t index) {
    const mlxd_gguf_kv_table *m = mlxd_gguf_table(g);
    MLXD_ASSERT(index < m->count);
    return m->kvs[index].key;
}

bool mlxd_gguf_has(const mlxd_gguf *g, const char *key) {
    return mlxd_gguf_kv_find(g, key) != NULL;
}

bool mlxd_gguf_is_array(const mlxd_gguf *g, const char *key) {
    const mlxd_gguf_kv *kv = mlxd_gguf_kv_find(g, key);
    return kv && kv->type == MLXD_GGUF_ARRAY;
}

static mlxd_err find(const mlxd_gguf *g, const char *key, const mlxd_gguf_kv **out, mlxd_why *why) {
    *out = mlxd_gguf_kv_find(g, key);
    if (*out)
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_NOTFOUND, "%s: key \"%s\" is missing",
                     mlxd_gguf_table(g)->file_name, key);
}

static mlxd_err wrong_type(const mlxd_gguf *g, const mlxd_gguf_kv *kv, const char *expected,
                           mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_DATA, "%s: offset %zu: key \"%s\" is %s, expected %s",
                     mlxd_gguf_table(g)->file_name, kv->file_offset, kv->key,
                     mlxd_gguf_kv_type_name(kv->type), expected);
}

mlxd_err mlxd_gguf_get_u64(const mlxd_gguf *g, const char *key, uint64_t *out, mlxd_why *why) {
    const mlxd_gguf_kv *kv;
    mlxd_err err = find(g, key, &kv, why);
    if (err)
        return err;
    const struct kv_type *type = &kv_types[kv->type];
    if (type->class == UNSIGNED) {
        *out = mlxd_gguf_load(kv->value.data, type->size);
        return MLXD_OK;
    }
    if (type->class != SIGNED)
        return wrong_type(g, kv, "an integer", why);
    int64_t v = load_signed(kv->value.data, type->size);
    if (v < 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: offset %zu: key \"%s\" is %" PRId64 ", expected 0 or more",
                         mlxd_gguf_table(g)->file_name, kv->file_offset, kv->key, v);
    *out = (uint64_t)v;
    return MLXD_OK;
}

mlxd_err mlxd_gguf_get_f64(const mlxd_gguf *g, const char *key, double *out, mlxd_why *why) {
    const mlxd_gguf_kv *kv;
    mlxd_err err = find(g, key, &kv, why);
    if (err)
        return err;
    if (kv_types[kv->type].class != FLOAT)
        return wrong_type(g, kv, "f32 or f64", why);
    *out = load_float(kv->value.data, kv->value.len);
    return MLXD_OK;
}

mlxd_err mlxd_gguf_get_bool(const mlxd_gguf *g, const char *key, bool *out, mlxd_why *why) {
    const mlxd_gguf_kv *kv;
    mlxd_err err = find(g, key, &kv, why);
    if (err)
        return err;
    if (kv->type != MLXD_GGUF_BOOL)
        return wrong_type(g, kv, "bool", why);
    *out = kv->value.data[0] == 1;
    return MLXD_OK;
}

mlxd_err mlxd_gguf_get_str(const mlxd_gguf *g, const char *key, mlxd_slice *out, mlxd_why *why) {
    const mlxd_gguf_kv *kv;
    mlxd_err err = find(g, key, &kv, why);
    if (err)
        return err;
    if (kv->type != MLXD_GGUF_STRING)
        return wrong_type(g, kv, "string", why);
    *out = kv->value;
    return MLXD_OK;
}

/* ---- arrays ---- */

mlxd_err mlxd_gguf_get_array(const mlxd_gguf *g, const char *key, mlxd_gguf_array *out,
                             mlxd_why *why) {
    const mlxd_gguf_kv *kv;
    mlxd_err err = find(g, key, &kv, why);
    if (err)
        return err;
    if (kv->type != MLXD_GGUF_ARRAY)
        return wrong_type(g, kv, "array", why);
    *out = kv->array;
    return MLXD_OK;
}

mlxd_slice mlxd_gguf_array_next_str(const mlxd_gguf_array *a, size_t *cursor) {
    MLXD_ASSERT(a->type == MLXD_GGUF_STRING);
    MLXD_ASSERT(*cursor <= a->data.len && a->data.len - *cursor >= 8);
    const uint8_t *p = a->data.data + *cursor;
    uint64_t len = mlxd_gguf_load(p, 8);
    MLXD_ASSERT(len <= a->data.len - *cursor - 8);
    *cursor += 8 + (size_t)len;
    return (mlxd_slice){p + 8, (size_t)len};
}

int64_t mlxd_gguf_array_int(const mlxd_gguf_array *a, uint64_t index) {
    const struct kv_type *type = &kv_types[a->type];
    MLXD_ASSERT(index < a->count);
    MLXD_ASSERT(type->class == UNSIGNED || type->class == SIGNED || a->type == MLXD_GGUF_BOOL);
    const uint8_t *p = a->data.data + (size_t)index * type->size;
    if (type->class == SIGNED)
        return load_signed(p, type->size);
    uint64_t v = mlxd_gguf_load(p, type->size);
    return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

double mlxd_gguf_array_float(const mlxd_gguf_array *a, uint64_t index) {
    const struct kv_type *type = &kv_types[a->type];
    MLXD_ASSERT(index < a->count && type->class == FLOAT);
    return load_float(a->data.data + (size_t)index * type->size, type->size);
}
