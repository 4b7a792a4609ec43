/* gguf.c - see gguf.h. One pass with a cursor: take() is the only function that moves forward, and
 * refuse() the only one that says no; after the first refusal nothing more is read, and open()
 * releases what there is. Nothing is allocated for a count before the bytes that it needs at least
 * were compared with the bytes that are there.
 *
 * Offsets of tensors are redundant in this format (each must be the padded sum of what comes
 * before), so they are compared with that sum: overlaps, holes and wrapped sums cannot be written
 * down in a file that we accept.
 */
#include "format/gguf.h"

#include "base/mem.h"
#include "format/gguf_kv.h"
#include "format/names.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HEADER_BYTES 24
#define KV_BYTES_MIN (8 + 1 + 4 + 1)           /* key of one byte, type, a value of one byte */
#define INFO_BYTES_MIN (8 + 1 + 4 + 8 + 4 + 8) /* name of one byte, one dimension */
#define DIM_MAX (UINT64_C(1) << 40)
#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_MIN 8

struct mlxd_gguf {
    mlxd_gguf_kv_table meta;
    mlxd_gguf_tensor *tensors;
    uint32_t *order; /* tensors by name */
    mlxd_arena *names;
    uint32_t n_tensors, version;
    uint32_t alignment;
};

struct cursor {
    mlxd_slice head;     /* the bytes at hand, the file's first */
    uint64_t file_bytes; /* >= head.len */
    size_t pos;          /* <= head.len */
    const char *name;    /* the file's */
    char where[96];      /* `key "..."` or `tensor "..."` */
    mlxd_why *why;
    mlxd_err err;
};

/* ---- the cursor ---- */

/* Always false. Text: "file: offset N: where: ..." */
MLXD_PRINTF(3, 4)
static bool refuse(struct cursor *c, uint64_t offset, const char *fmt, ...) {
    char text[MLXD_WHY_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->err = mlxd_fail(c->why, MLXD_ERR_DATA, "%s: offset %" PRIu64 ": %s%s%s", c->name, offset,
                       c->where, c->where[0] ? ": " : "", text);
    return false;
}

static bool out_of_memory(struct cursor *c) {
    c->err = mlxd_fail(c->why, MLXD_ERR_NOMEM, "%s: no memory for its metadata", c->name);
    return false;
}

/* In the file, not just in the head. */
static uint64_t left(const struct cursor *c) {
    return c->file_bytes - c->pos;
}

/* The next `n` bytes, or NULL (refused; AGAIN when only the head is too short). */
static const uint8_t *take(struct cursor *c, uint64_t n, const char *what) {
    if (n > left(c)) {
        refuse(c, c->pos, "%s takes %" PRIu64 " bytes, but the file ends after %" PRIu64, what, n,
               left(c));
        return NULL;
    }
    if (n > c->head.len - c->pos) {
        c->err = mlxd_fail(c->why, MLXD_ERR_AGAIN,
                           "%s: metadata goes on beyond the first %zu bytes", c->name, c->head.len);
        return NULL;
    }
    const uint8_t *p = c->head.data + c->pos;
    c->pos += (size_t)n;
    return p;
}

static bool take_u32(struct cursor *c, uint32_t *out, const char *what) {
    const uint8_t *p = take(c, 4, what);
    if (p)
        *out = (uint32_t)mlxd_gguf_load(p, 4);
    return p != NULL;
}

static bool take_u64(struct cursor *c, uint64_t *out, const char *what) {
    const uint8_t *p = take(c, 8, what);
    if (p)
        *out = mlxd_gguf_load(p, 8);
    return p != NULL;
}

static bool take_string(struct cursor *c, size_t bytes_max, mlxd_slice *out, const char *what) {
    uint64_t len = 0;
    size_t start = c->pos;
    if (!take_u64(c, &len, what))
        return false;
    if (len > bytes_max)
        return refuse(c, start, "%s of %" PRIu64 " bytes, expected at most %zu", what, len,
                      bytes_max);
    out->len = (size_t)len;
    out->data = take(c, len, what);
    return out->data != NULL;
}

/* A key or a tensor's name: not empty, no NUL. The copy has one behind it. */
static bool take_name(struct cursor *c, mlxd_arena *arena, const char *what, size_t bytes_max,
                      const char **out, size_t *len) {
    mlxd_slice s = {NULL, 0};
    size_t start = c->pos;
    c->where[0] = 0;
    if (!take_string(c, bytes_max, &s, what))
        return false;
    if (s.len == 0 || memchr(s.data, 0, s.len))
        return refuse(c, start, "%s %s", what, s.len ? "with a NUL byte" : "is empty");
    *out = mlxd_arena_dup(arena, s.data, s.len);
    if (!*out)
        return out_of_memory(c);
    snprintf(c->where, sizeof c->where, "%s \"%.64s\"", what, *out);
    *len = s.len;
    return true;
}

/* ---- header ---- */

static bool take_count(struct cursor *c, const char *what, uint64_t count_max, uint32_t *out) {
    uint64_t count = 0;
    size_t start = c->pos;
    if (!take_u64(c, &count, what))
        return false;
    if (count > count_max)
        return refuse(c, start, "%s %" PRIu64 ", expected at most %" PRIu64, what, count,
                      count_max);
    *out = (uint32_t)count;
    return true;
}

static bool check_version(struct cursor *c, uint32_t version) {
    if (version == 2 || version == 3)
        return true;
    if (version != 0 && (version & 0xFFFF) == 0)
        refuse(c, 4, "the file is big-endian, expected little-endian");
    else
        refuse(c, 4, "version %" PRIu32 ", expected 2 or 3", version);
    c->err = MLXD_ERR_UNSUPPORTED;
    return false;
}

static bool take_header(struct cursor *c, uint32_t *version, uint32_t *n_tensors, uint32_t *n_kv) {
    if (c->file_bytes == 0)
        return refuse(c, 0, "the file is empty");
    const uint8_t *magic = take(c, 4, "the magic");
    if (!magic)
        return false;
    if (memcmp(magic, "GGUF", 4) != 0)
        return refuse(c, 0, "magic %02x %02x %02x %02x, expected \"GGUF\"", magic[0], magic[1],
                      magic[2], magic[3]);
    if (!take_u32(c, version, "the version") || !check_version(c, *version))
        return false;
    if (!take_count(c, "number of tensors", MLXD_LIMIT_GGUF_TENSORS, n_tensors) ||
        !take_count(c, "number of metadata keys", MLXD_LIMIT_GGUF_KV, n_kv))
        return false;
    uint64_t least = (uint64_t)*n_kv * KV_BYTES_MIN + (uint64_t)*n_tensors * INFO_BYTES_MIN;
    if (least > left(c))
        return refuse(c, 8,
                      "%" PRIu32 " tensors and %" PRIu32 " keys need %" PRIu64
                      " bytes or more, but the file ends after %" PRIu64,
                      *n_tensors, *n_kv, least, left(c));
    return true;
}

/* ---- metadata ---- */

static bool check_bools(struct cursor *c, mlxd_slice values) {
    for (size_t i = 0; i < values.len; i++)
        if (values.data[i] > 1)
            return refuse(c, c->pos - values.len + i, "boolean %u, expected 0 or 1",
                          values.data[i]);
    return true;
}

static bool take_type(struct cursor *c, mlxd_gguf_kv_type *out, const char *what) {
    uint32_t type = 0;
    size_t start = c->pos;
    if (!take_u32(c, &type, what))
        return false;
    if (type > MLXD_GGUF_F64)
        return refuse(c, start, "%s %" PRIu32 ", expected 0..12", what, type);
    *out = (mlxd_gguf_kv_type)type;
    return true;
}

static bool take_array(struct cursor *c, mlxd_gguf_array *a) {
    size_t start = c->pos;
    if (!take_type(c, &a->type, "element type"))
        return false;
    if (a->type == MLXD_GGUF_ARRAY)
        return refuse(c, start, "an array of arrays is not accepted");
    if (!take_u64(c, &a->count, "element count"))
        return false;
    size_t size = mlxd_gguf_kv_size(a->type);
    uint64_t least = size ? size : 8; /* a string's length */
    if (a->count > MLXD_LIMIT_GGUF_ARRAY)
        return refuse(c, start + 4, "array of %" PRIu64 " elements, expected at most %u", a->count,
                      MLXD_LIMIT_GGUF_ARRAY);
    if (a->count * least > left(c))
        return refuse(c, start + 4,
                      "array of %" PRIu64 " elements, but the file ends after %" PRIu64 " bytes",
                      a->count, left(c));
    size_t begin = c->pos;
    mlxd_slice element;
    for (uint64_t i = 0; i < a->count && size == 0; i++)
        if (!take_string(c, MLXD_LIMIT_GGUF_STRING, &element, "array element"))
            return false;
    if (size > 0 && !take(c, a->count * size, "array"))
        return false;
    a->data = (mlxd_slice){c->head.data + begin, c->pos - begin};
    return a->type != MLXD_GGUF_BOOL || check_bools(c, a->data);
}

static bool take_kv(struct cursor *c, mlxd_arena *arena, mlxd_gguf_kv *kv) {
    kv->file_offset = c->pos;
    if (!take_name(c, arena, "key", MLXD_LIMIT_GGUF_KEY, &kv->key, &kv->key_len) ||
        !take_type(c, &kv->type, "value type"))
        return false;
    if (kv->type == MLXD_GGUF_ARRAY)
        return take_array(c, &kv->array);
    if (kv->type == MLXD_GGUF_STRING)
        return take_string(c, MLXD_LIMIT_GGUF_STRING, &kv->value, "string");
    kv->value.len = mlxd_gguf_kv_size(kv->type);
    kv->value.data = take(c, kv->value.len, "value");
    return kv->value.data && (kv->type != MLXD_GGUF_BOOL || check_bools(c, kv->value));
}

static bool take_metadata(struct cursor *c, mlxd_gguf *g, uint32_t n_kv) {
    mlxd_gguf_kv_table *m = &g->meta;
    m->kvs = mlxd_mem_new(n_kv, sizeof *m->kvs);
    m->order = mlxd_mem_new(n_kv, sizeof *m->order);
    m->file_name = mlxd_mem_dup_str(c->name);
    if (!m->kvs || !m->order || !m->file_name)
        return out_of_memory(c);
    for (uint32_t i = 0; i < n_kv; i++) {
        m->order[i] = i;
        if (!take_kv(c, g->names, &m->kvs[i]))
            return false;
    }
    m->count = n_kv;
    m->encoded = (mlxd_slice){c->head.data + HEADER_BYTES, c->pos - HEADER_BYTES};
    c->where[0] = 0;
    uint32_t again = mlxd_names_sort(m->order, n_kv, mlxd_gguf_key_at, m->kvs);
    if (again != MLXD_NAMES_NONE)
        return refuse(c, m->kvs[again].file_offset, "duplicate key \"%.64s\"", m->kvs[again].key);
    return true;
}

static bool find_alignment(struct cursor *c, mlxd_gguf *g) {
    const mlxd_gguf_kv *kv = mlxd_gguf_kv_find(g, "general.alignment");
    g->alignment = ALIGNMENT_DEFAULT;
    if (!kv)
        return true;
    uint64_t v = kv->type == MLXD_GGUF_U32 ? mlxd_gguf_load(kv->value.data, 4) : 0;
    if (v < ALIGNMENT_MIN || v > MLXD_LIMIT_GGUF_ALIGNMENT || (v & (v - 1)) != 0)
        return refuse(
            c, kv->file_offset,
            "key \"general.alignment\": %s %" PRIu64 ", expected u32, a power of two in %d..%u",
            mlxd_gguf_kv_type_name(kv->type), v, ALIGNMENT_MIN, MLXD_LIMIT_GGUF_ALIGNMENT);
    g->alignment = (uint32_t)v;
    return true;
}

/* ---- tensors ---- */

static bool take_dims(struct cursor *c, mlxd_gguf_tensor *t) {
    size_t start = c->pos;
    if (!take_u32(c, &t->n_dims, "number of dimensions"))
        return false;
    if (t->n_dims == 0 || t->n_dims > MLXD_LIMIT_GGUF_DIMS)
        return refuse(c, start, "%" PRIu32 " dimensions, expected 1..%d", t->n_dims,
                      MLXD_LIMIT_GGUF_DIMS);
    for (uint32_t i = 0; i < MLXD_LIMIT_GGUF_DIMS; i++)
        t->dims[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        start = c->pos;
        if (!take_u64(c, &t->dims[i], "dimension"))
            return false;
        if (t->dims[i] == 0 || t->dims[i] > DIM_MAX)
            return refuse(c, start, "dimension %" PRIu32 " is %" PRIu64 ", expected 1..2^40", i,
                          t->dims[i]);
    }
    return true;
}

/* Reads the type and computes the size of the data. */
static bool take_tensor_type(struct cursor *c, mlxd_gguf_tensor *t, uint64_t *bytes) {
    uint32_t elems, block_bytes;
    size_t start = c->pos;
    if (!take_u32(c, &t->type, "tensor type"))
        return false;
    if (!mlxd_gguf_type_size(t->type, &elems, &block_bytes))
        return refuse(c, start, "tensor type %" PRIu32 " (%s), expected one that ggml has", t->type,
                      strcmp(mlxd_gguf_type_name(t->type), "unknown") == 0
                          ? "unknown"
                          : "removed from the format");
    if (t->dims[0] % elems != 0)
        return refuse(c, start,
                      "rows of %" PRIu64 " elements, expected a multiple of %" PRIu32 " for %s",
                      t->dims[0], elems, mlxd_gguf_type_name(t->type));
    uint64_t n = t->dims[0]; /* elements: may exceed the bytes, so both are checked */
    *bytes = t->dims[0] / elems;
    bool fits = mlxd_mul_u64(*bytes, block_bytes, bytes);
    for (uint32_t i = 1; i < t->n_dims; i++)
        fits = fits && mlxd_mul_u64(n, t->dims[i], &n) && mlxd_mul_u64(*bytes, t->dims[i], bytes);
    if (!fits || n > INT64_MAX || *bytes > INT64_MAX)
        return refuse(c, start, "the product of the dimensions is beyond 2^63");
    return true;
}

/* *end: where this tensor's data must begin; afterwards where the next one's must. file_offset is
 * from the data start until place_tensors. */
static bool take_tensor(struct cursor *c, mlxd_gguf *g, mlxd_gguf_tensor *t, uint64_t *end) {
    size_t len;
    uint64_t bytes = 0;
    if (!take_name(c, g->names, "tensor", MLXD_LIMIT_GGUF_NAME - 1, &t->name, &len) ||
        !take_dims(c, t) || !take_tensor_type(c, t, &bytes))
        return false;
    size_t start = c->pos;
    if (!take_u64(c, &t->file_offset, "data offset"))
        return false;
    if (t->file_offset != *end)
        return refuse(c, start, "data at %" PRIu64 " %s, expected %" PRIu64, t->file_offset,
                      t->file_offset % g->alignment != 0 ? "is not aligned"
                      : t->file_offset < *end            ? "overlaps the tensor before"
                                                         : "leaves a hole",
                      *end);
    uint64_t last;
    if (!mlxd_add_u64(*end, bytes, &last) || !mlxd_align_u64(last, g->alignment, end))
        return refuse(c, start, "the data ends beyond 2^64");
    t->data_bytes = bytes;
    return true;
}

/* Turns offsets into places in the file. The file ends with the last tensor, padded or not.
 * `whole`: the data is at hand, too. */
static bool place_tensors(struct cursor *c, mlxd_gguf *g, uint64_t padded, bool whole) {
    uint64_t begin, end = c->pos, padded_end;
    if (!mlxd_align_u64(c->pos, g->alignment, &begin) || !mlxd_add_u64(begin, padded, &padded_end))
        return refuse(c, c->pos, "the data ends beyond 2^64");
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        mlxd_gguf_tensor *t = &g->tensors[i];
        t->file_offset += begin; /* <= padded_end, no wrap; so is the next sum */
        end = t->file_offset + t->data_bytes;
        if (end > c->file_bytes)
            return refuse(c, c->file_bytes,
                          "tensor \"%s\": data at %" PRIu64 "..%" PRIu64
                          ", but the file has %" PRIu64 " bytes (cut short?)",
                          t->name, t->file_offset, end, c->file_bytes);
        if (whole)
            t->data = (mlxd_slice){c->head.data + t->file_offset, (size_t)t->data_bytes};
    }
    if (c->file_bytes != end && c->file_bytes != padded_end)
        return refuse(c, end, "the file has %" PRIu64 " bytes, expected %" PRIu64 " or %" PRIu64,
                      c->file_bytes, end, padded_end);
    return true;
}

static mlxd_slice tensor_name_at(const void *ctx, uint32_t i) {
    return mlxd_slice_str(((const mlxd_gguf_tensor *)ctx)[i].name);
}

static bool take_tensors(struct cursor *c, mlxd_gguf *g, uint32_t n_tensors, bool whole) {
    g->tensors = mlxd_mem_new(n_tensors, sizeof *g->tensors);
    g->order = mlxd_mem_new(n_tensors, sizeof *g->order);
    if (!g->tensors || !g->order)
        return out_of_memory(c);
    g->n_tensors = n_tensors;
    size_t infos = c->pos;
    uint64_t padded = 0;
    for (uint32_t i = 0; i < n_tensors; i++) {
        g->order[i] = i;
        if (!take_tensor(c, g, &g->tensors[i], &padded))
            return false;
    }
    c->where[0] = 0;
    uint32_t again = mlxd_names_sort(g->order, n_tensors, tensor_name_at, g->tensors);
    if (again != MLXD_NAMES_NONE)
        return refuse(c, infos, "duplicate tensor \"%s\" (number %" PRIu32 ")",
                      g->tensors[again].name, again);
    return place_tensors(c, g, padded, whole);
}

/* ---- open, close, look up ---- */

static mlxd_err open_container(mlxd_gguf **out, mlxd_slice head, uint64_t file_bytes, bool whole,
                               const char *name, mlxd_why *why) {
    MLXD_ASSERT(out && name && (head.data || head.len == 0));
    MLXD_ASSERT(head.len <= file_bytes);
    struct cursor c = {.head = head, .file_bytes = file_bytes, .name = name, .why = why};
    uint32_t n_tensors = 0, n_kv = 0;
    *out = NULL;
    mlxd_gguf *g = mlxd_mem_new(1, sizeof *g);
    if (!g || !(g->names = mlxd_arena_open(0))) {
        out_of_memory(&c);
        mlxd_gguf_close(g);
        return c.err;
    }
    if (!take_header(&c, &g->version, &n_tensors, &n_kv) || !take_metadata(&c, g, n_kv) ||
        !find_alignment(&c, g) || !take_tensors(&c, g, n_tensors, whole)) {
        MLXD_ASSERT(c.err != MLXD_OK);
        mlxd_gguf_close(g);
        return c.err;
    }
    *out = g;
    return MLXD_OK;
}

mlxd_err mlxd_gguf_open(mlxd_gguf **out, mlxd_slice file, const char *name, mlxd_why *why) {
    return open_container(out, file, file.len, true, name, why);
}

mlxd_err mlxd_gguf_open_head(mlxd_gguf **out, mlxd_slice head, uint64_t file_bytes,
                             const char *name, mlxd_why *why) {
    return open_container(out, head, file_bytes, false, name, why);
}

void mlxd_gguf_close(mlxd_gguf *g) {
    if (!g)
        return;
    mlxd_mem_free(g->meta.kvs);
    mlxd_mem_free(g->meta.order);
    mlxd_mem_free(g->meta.file_name);
    mlxd_mem_free(g->tensors);
    mlxd_mem_free(g->order);
    mlxd_arena_close(g->names);
    mlxd_mem_free(g);
}

uint32_t mlxd_gguf_version(const mlxd_gguf *g) {
    return g->version;
}

const mlxd_gguf_kv_table *mlxd_gguf_table(const mlxd_gguf *g) {
    return &g->meta;
}

mlxd_slice mlxd_gguf_metadata(const mlxd_gguf *g) {
    return g->meta.encoded;
}

size_t mlxd_gguf_tensor_count(const mlxd_gguf *g) {
    return g->n_tensors;
}

const mlxd_gguf_tensor *mlxd_gguf_tensor_at(const mlxd_gguf *g, size_t index) {
    MLXD_ASSERT(index < g->n_tensors);
    return &g->tensors[index];
}

const mlxd_gguf_tensor *mlxd_gguf_tensor_find(const mlxd_gguf *g, const char *name) {
    uint32_t i =
        mlxd_names_find(g->order, g->n_tensors, tensor_name_at, g->tensors, mlxd_slice_str(name));
    return i == MLXD_NAMES_NONE ? NULL : &g->tensors[i];
}
