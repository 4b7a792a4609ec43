/* safetensors.c - see safetensors.h. The JSON reader refuses duplicate keys and bounds its own
 * memory; what remains is to take each tensor's three members, sort by place and look for gaps. */
#include "format/safetensors.h"

#include "base/mem.h"
#include "format/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define JSON_MAX 100000000u
#define JSON_DEPTH 3 /* {"name": {"shape": [ */

static const struct {
    const char *name;
    unsigned bits;
} dtypes[MLXD_DTYPE_COUNT] = {
    [MLXD_DTYPE_BOOL] = {"BOOL", 8},
    [MLXD_DTYPE_F4] = {"F4", 4},
    [MLXD_DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [MLXD_DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [MLXD_DTYPE_U8] = {"U8", 8},
    [MLXD_DTYPE_I8] = {"I8", 8},
    [MLXD_DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [MLXD_DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [MLXD_DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [MLXD_DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [MLXD_DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [MLXD_DTYPE_I16] = {"I16", 16},
    [MLXD_DTYPE_U16] = {"U16", 16},
    [MLXD_DTYPE_F16] = {"F16", 16},
    [MLXD_DTYPE_BF16] = {"BF16", 16},
    [MLXD_DTYPE_I32] = {"I32", 32},
    [MLXD_DTYPE_U32] = {"U32", 32},
    [MLXD_DTYPE_F32] = {"F32", 32},
    [MLXD_DTYPE_C64] = {"C64", 64},
    [MLXD_DTYPE_F64] = {"F64", 64},
    [MLXD_DTYPE_I64] = {"I64", 64},
    [MLXD_DTYPE_U64] = {"U64", 64},
};

struct mlxd_safetensors {
    mlxd_arena *names;
    mlxd_safetensors_tensor *tensors;
    size_t count;
};

const char *mlxd_dtype_name(mlxd_dtype type) {
    MLXD_ASSERT(type < MLXD_DTYPE_COUNT);
    return dtypes[type].name;
}

unsigned mlxd_dtype_bits(mlxd_dtype type) {
    MLXD_ASSERT(type < MLXD_DTYPE_COUNT);
    return dtypes[type].bits;
}

mlxd_err mlxd_safetensors_head_bytes(mlxd_slice prefix, uint64_t file_bytes, const char *name,
                                     size_t *out, mlxd_why *why) {
    uint64_t n = 0;
    if (file_bytes < MLXD_SAFETENSORS_PREFIX || prefix.len < MLXD_SAFETENSORS_PREFIX)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: the file has %" PRIu64 " bytes, expected at least %d", name,
                         file_bytes, MLXD_SAFETENSORS_PREFIX);
    for (int i = MLXD_SAFETENSORS_PREFIX - 1; i >= 0; i--)
        n = n << 8 | prefix.data[i];
    if (n > JSON_MAX)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: a header of %" PRIu64 " bytes, expected at most %u", name, n,
                         JSON_MAX);
    if (n > file_bytes - MLXD_SAFETENSORS_PREFIX)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64 " (cut short?)",
                         name, n, file_bytes);
    *out = (size_t)n + MLXD_SAFETENSORS_PREFIX;
    return MLXD_OK;
}

/* ---- one tensor ---- */

/* Where we are, for error texts. */
struct cursor {
    const char *file, *tensor;
    mlxd_why *why;
};

static mlxd_err take_dtype(const struct cursor *c, const mlxd_json *v, mlxd_dtype *out) {
    mlxd_slice text = {(const uint8_t *)"nothing", 7};
    for (size_t i = 0; v && i < MLXD_DTYPE_COUNT; i++)
        if (mlxd_json_is_str(v, dtypes[i].name)) {
            *out = (mlxd_dtype)i;
            return MLXD_OK;
        }
    if (v && mlxd_json_get_str(v, &text))
        text = mlxd_slice_str(mlxd_json_kind_name(mlxd_json_get_kind(v)));
    return mlxd_fail(c->why, MLXD_ERR_DATA, "%s: tensor %s: dtype is %.*s, expected a known one",
                     c->file, c->tensor, (int)MLXD_MIN(text.len, (size_t)32),
                     (const char *)text.data);
}

/* An array of at most `max` numbers, none below 0; `what` names it. */
static mlxd_err take_numbers(const struct cursor *c, const mlxd_json *v, const char *what,
                             size_t max, uint64_t *out, size_t *count) {
    if (!v || mlxd_json_get_kind(v) != MLXD_JSON_ARRAY || mlxd_json_count(v) > max)
        return mlxd_fail(c->why, MLXD_ERR_DATA,
                         "%s: tensor %s: %s is not an array of at most %zu numbers", c->file,
                         c->tensor, what, max);
    *count = mlxd_json_count(v);
    for (size_t i = 0; i < *count; i++) {
        int64_t n;
        if (mlxd_json_get_int64(mlxd_json_at(v, i), &n) || n < 0)
            return mlxd_fail(c->why, MLXD_ERR_DATA,
                             "%s: tensor %s: number %zu of %s is not one from 0 to 2^63-1", c->file,
                             c->tensor, i, what);
        out[i] = (uint64_t)n;
    }
    return MLXD_OK;
}

/* Bytes of its values; false when they overflow or make no whole bytes. */
static bool size_tensor(const mlxd_safetensors_tensor *t, uint64_t *out) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (!mlxd_mul_u64(n, t->dims[i], &n))
            return false;
    if (!mlxd_mul_u64(n, dtypes[t->type].bits, &n))
        return false;
    *out = n / 8;
    return n % 8 == 0;
}

/* file_offset is from the data start until place_tensors. */
static mlxd_err take_tensor(const struct cursor *c, const mlxd_json *v,
                            mlxd_safetensors_tensor *t) {
    uint64_t offsets[2], bytes;
    size_t n;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return mlxd_fail(c->why, MLXD_ERR_DATA, "%s: tensor %s is no object", c->file, c->tensor);
    mlxd_err err = take_dtype(c, mlxd_json_find(v, "dtype"), &t->type);
    if (!err)
        err = take_numbers(c, mlxd_json_find(v, "shape"), "shape", MLXD_LIMIT_SAFETENSORS_DIMS,
                           t->dims, &n);
    t->n_dims = err ? 0 : (uint32_t)n;
    if (!err)
        err = take_numbers(c, mlxd_json_find(v, "data_offsets"), "data_offsets", 2, offsets, &n);
    if (err)
        return err;
    if (n != 2 || offsets[0] > offsets[1])
        return mlxd_fail(c->why, MLXD_ERR_DATA, "%s: tensor %s: data_offsets are not begin and end",
                         c->file, c->tensor);
    if (!size_tensor(t, &bytes))
        return mlxd_fail(c->why, MLXD_ERR_DATA,
                         "%s: tensor %s: its shape makes no whole number of bytes, or too many",
                         c->file, c->tensor);
    if (offsets[1] - offsets[0] != bytes)
        return mlxd_fail(c->why, MLXD_ERR_DATA,
                         "%s: tensor %s has %" PRIu64 " bytes, expected %" PRIu64
                         " of its shape and dtype",
                         c->file, c->tensor, offsets[1] - offsets[0], bytes);
    t->file_offset = offsets[0];
    t->data_bytes = bytes;
    return MLXD_OK;
}

/* ---- all of them ---- */

/* By place; empty ones come before what begins where they do. Then by name. */
static int by_place(const void *a, const void *b) {
    const mlxd_safetensors_tensor *s = a, *t = b;
    if (s->file_offset != t->file_offset)
        return s->file_offset < t->file_offset ? -1 : 1;
    if ((s->data_bytes == 0) != (t->data_bytes == 0))
        return s->data_bytes == 0 ? -1 : 1;
    return strcmp(s->name, t->name);
}

static mlxd_err place_tensors(mlxd_safetensors *s, size_t head, uint64_t file_bytes,
                              const char *name, mlxd_why *why) {
    uint64_t end = 0, data = file_bytes - head;
    if (s->count > 0)
        qsort(s->tensors, s->count, sizeof *s->tensors, by_place);
    for (size_t i = 0; i < s->count; i++) {
        mlxd_safetensors_tensor *t = &s->tensors[i];
        if (t->file_offset != end)
            return mlxd_fail(
                why, MLXD_ERR_DATA, "%s: tensor %s: data at %" PRIu64 " %s, expected %" PRIu64,
                name, t->name, t->file_offset,
                t->file_offset < end ? "overlaps another tensor" : "leaves a hole", end);
        if (t->data_bytes > data - end)
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "%s: tensor %s: data up to %" PRIu64 ", but the file has %" PRIu64
                             " bytes of it (cut short?)",
                             name, t->name, end + t->data_bytes, data);
        end += t->data_bytes;
        t->file_offset += head;
    }
    if (end != data)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: the tensors end at %" PRIu64 ", the data at %" PRIu64, name, end,
                         data);
    return MLXD_OK;
}

static mlxd_err check_metadata(const mlxd_json *v, const char *name, mlxd_why *why) {
    bool good = mlxd_json_get_kind(v) == MLXD_JSON_OBJECT;
    mlxd_slice key;
    for (const mlxd_json *m = good ? mlxd_json_first(v, &key) : NULL; m;
         m = mlxd_json_next(v, m, &key))
        good = good && mlxd_json_get_kind(m) == MLXD_JSON_STRING;
    return good ? MLXD_OK
                : mlxd_fail(why, MLXD_ERR_DATA, "%s: __metadata__ is no object of strings", name);
}

static mlxd_err take_members(mlxd_safetensors *s, const mlxd_json *root, const char *name,
                             mlxd_why *why) {
    mlxd_slice key;
    size_t max = mlxd_json_count(root);
    if (max > MLXD_LIMIT_TENSORS)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: %zu tensors, expected at most %u", name, max,
                         MLXD_LIMIT_TENSORS);
    s->tensors = mlxd_mem_new(max, sizeof *s->tensors);
    if (!s->tensors)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", name);
    for (const mlxd_json *v = mlxd_json_first(root, &key); v; v = mlxd_json_next(root, v, &key)) {
        mlxd_err err = MLXD_OK;
        if (mlxd_slice_eq(key, mlxd_slice_str("__metadata__"))) {
            err = check_metadata(v, name, why);
        } else if (key.len == 0 || key.len >= MLXD_LIMIT_TENSOR_NAME) {
            err = mlxd_fail(why, MLXD_ERR_DATA, "%s: a tensor's name has %zu bytes, expected 1..%d",
                            name, key.len, MLXD_LIMIT_TENSOR_NAME - 1);
        } else {
            mlxd_safetensors_tensor *t = &s->tensors[s->count++];
            t->name = mlxd_arena_dup(s->names, key.data, key.len);
            const struct cursor c = {name, t->name, why};
            err = t->name ? take_tensor(&c, v, t)
                          : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", name);
        }
        if (err)
            return err;
    }
    return MLXD_OK;
}

mlxd_err mlxd_safetensors_open(mlxd_safetensors **out, mlxd_slice head, uint64_t file_bytes,
                               const char *name, mlxd_why *why) {
    MLXD_ASSERT(out && name && head.len >= MLXD_SAFETENSORS_PREFIX && head.len <= file_bytes);
    mlxd_slice text = {head.data + MLXD_SAFETENSORS_PREFIX, head.len - MLXD_SAFETENSORS_PREFIX};
    mlxd_json_doc *doc = NULL;
    mlxd_safetensors *s = NULL;
    if (text.len == 0 || text.data[0] != '{')
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: its header does not begin with {", name);
    mlxd_err err = mlxd_json_parse(&doc, text, JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_RANGE ? MLXD_ERR_DATA : err, "%s: header", name);
    s = mlxd_mem_new(1, sizeof *s);
    err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", name);
    if (s)
        s->names = mlxd_arena_open(0);
    if (s && s->names)
        err = take_members(s, mlxd_json_root(doc), name, why);
    if (!err)
        err = place_tensors(s, head.len, file_bytes, name, why);
    mlxd_json_close(doc);
    if (err) {
        mlxd_safetensors_close(s);
        return err;
    }
    *out = s;
    return MLXD_OK;
}

void mlxd_safetensors_close(mlxd_safetensors *s) {
    if (!s)
        return;
    mlxd_mem_free(s->tensors);
    mlxd_arena_close(s->names);
    mlxd_mem_free(s);
}

size_t mlxd_safetensors_count(const mlxd_safetensors *s) {
    return s->count;
}

const mlxd_safetensors_tensor *mlxd_safetensors_at(const mlxd_safetensors *s, size_t index) {
    MLXD_ASSERT(index < s->count);
    return &s->tensors[index];
}
