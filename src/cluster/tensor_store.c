/* tensor_store.c - see tensor_store.h. A stored tensor is one block: its data, then its names. The
 * store itself is an array that is searched from the front: a thousand short comparisons cost less
 * than one answer.
 */
#include "cluster/tensor_store.h"

#include "format/utf8.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX 64 /* of a name that is quoted in an error */

/* ---- the value ---- */

typedef struct dtype {
    const char *name;
    uint32_t bytes;
    uint32_t exponent; /* all ones in it: not finite; 0 for integers */
} dtype;

static const dtype dtypes[] = {
    {"float32", 4, 0x7f800000u},
    {"float16", 2, 0x7c00u},
    {"bfloat16", 2, 0x7f80u},
    {"int8", 1, 0},
    {"uint8", 1, 0},
    {"int32", 4, 0},
    {"int64", 8, 0},
};

static const dtype *find_dtype(mlxd_slice name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(dtypes); i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(dtypes[i].name)))
            return &dtypes[i];
    return NULL;
}

static void quote(char out[TEXT_MAX + 1], mlxd_slice s) {
    size_t n = MLXD_MIN(s.len, (size_t)TEXT_MAX);
    if (n)
        memcpy(out, s.data, n);
    out[n] = 0;
}

mlxd_err mlxd_tensor_check_id(const char *what, mlxd_slice id, mlxd_why *why) {
    if (id.len == 0)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s is empty", what);
    if (id.len > MLXD_LIMIT_TENSOR_ID)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s has %zu bytes, at most %d are allowed", what,
                         id.len, MLXD_LIMIT_TENSOR_ID);
    if (mlxd_utf8_check(id) != id.len)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s is not UTF-8", what);
    for (size_t i = 0; i < id.len; i++)
        if (id.data[i] < 0x20 || id.data[i] == 0x7f)
            return mlxd_fail(why, MLXD_ERR_INVALID, "%s has the control character 0x%02x", what,
                             (unsigned)id.data[i]);
    return MLXD_OK;
}

static mlxd_err check_names(const mlxd_tensor *t, mlxd_why *why) {
    const struct {
        const char *what;
        mlxd_slice value;
    } names[] = {{"tensor_id", t->id}, {"device_source", t->source}, {"device_target", t->target}};
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        mlxd_err err =
            names[i].value.len ? mlxd_tensor_check_id(names[i].what, names[i].value, why) : MLXD_OK;
        if (err)
            return err;
    }
    return MLXD_OK;
}

static mlxd_err check_shape(const mlxd_tensor *t, const dtype *d, mlxd_why *why) {
    size_t bytes = d->bytes;
    if (t->n_dims == 0 || t->n_dims > MLXD_LIMIT_TENSOR_DIMS)
        return mlxd_fail(why, MLXD_ERR_INVALID, "shape has %u dimensions, expected 1..%d",
                         t->n_dims, MLXD_LIMIT_TENSOR_DIMS);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] < 1)
            return mlxd_fail(why, MLXD_ERR_INVALID, "dimension %u of the shape is %d", i,
                             (int)t->shape[i]);
        if (!mlxd_mul_size(bytes, (size_t)t->shape[i], &bytes))
            return mlxd_fail(why, MLXD_ERR_INVALID, "the shape's product overflows");
    }
    if (bytes != t->data.len)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%zu bytes of data, shape x %s is %zu", t->data.len,
                         d->name, bytes);
    return MLXD_OK;
}

mlxd_err mlxd_tensor_check(const mlxd_tensor *t, mlxd_why *why) {
    char text[TEXT_MAX + 1];
    mlxd_err err = check_names(t, why);
    if (err)
        return err;
    const dtype *d = find_dtype(t->dtype);
    if (!d) {
        quote(text, t->dtype);
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "dtype \"%s\" is unknown, expected float32, float16, bfloat16, int8, "
                         "uint8, int32 or int64",
                         text);
    }
    if (t->compression.len && !mlxd_slice_eq(t->compression, mlxd_slice_str("none"))) {
        quote(text, t->compression);
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "compression \"%s\" is unknown, expected \"none\" or nothing", text);
    }
    return check_shape(t, d, why);
}

static uint32_t load(const uint8_t *p, uint32_t bytes) {
    uint32_t wide = 0;
    uint16_t half;
    if (bytes == sizeof wide) {
        memcpy(&wide, p, sizeof wide);
        return wide;
    }
    memcpy(&half, p, sizeof half);
    return half;
}

/* Are all of them finite? Without an early exit, so that it runs at the speed of memory. */
static bool all_finite(const uint8_t *p, size_t n, const dtype *d) {
    uint32_t bad = 0;
    if (d->bytes == 4)
        for (size_t i = 0; i < n; i++)
            bad |= (load(p + i * 4, 4) & d->exponent) == d->exponent;
    else
        for (size_t i = 0; i < n; i++)
            bad |= (load(p + i * 2, 2) & d->exponent) == d->exponent;
    return !bad;
}

mlxd_err mlxd_tensor_check_finite(const mlxd_tensor *t, mlxd_why *why) {
    const dtype *d = find_dtype(t->dtype);
    MLXD_ASSERT(d && t->data.len % d->bytes == 0);
    size_t n = t->data.len / d->bytes, step = 1u << 16;
    if (!d->exponent)
        return MLXD_OK;
    for (size_t at = 0; at < n; at += step) {
        size_t count = MLXD_MIN(step, n - at);
        if (all_finite(t->data.data + at * d->bytes, count, d))
            continue;
        while ((load(t->data.data + at * d->bytes, d->bytes) & d->exponent) != d->exponent)
            at++;
        return mlxd_fail(why, MLXD_ERR_CORRUPT, "element %zu of %zu is not finite", at, n);
    }
    return MLXD_OK;
}

/* ---- protobuf: reading ---- */

static void add_dim(mlxd_tensor *t, uint64_t value) {
    if (t->n_dims < MLXD_LIMIT_TENSOR_DIMS)
        t->shape[t->n_dims] = (int32_t)(uint32_t)value;
    t->n_dims++; /* at most one per byte of a message */
}

static bool take_shape(mlxd_tensor *t, const mlxd_field *f) {
    mlxd_slice packed = f->bytes;
    uint64_t value;
    if (f->wire == MLXD_WIRE_VARINT)
        add_dim(t, f->value);
    while (packed.len) {
        if (!mlxd_field_varint(&packed, &value))
            return false;
        add_dim(t, value);
    }
    return f->wire == MLXD_WIRE_VARINT || f->wire == MLXD_WIRE_BYTES;
}

static bool take_tensor_field(void *out, const mlxd_field *f) {
    mlxd_tensor *t = out;
    switch (f->number) {
    case 1:
        return mlxd_field_bytes(&t->id, f);
    case 2:
        return take_shape(t, f);
    case 3:
        return mlxd_field_bytes(&t->dtype, f);
    case 4:
        return mlxd_field_bytes(&t->data, f);
    case 5:
        return mlxd_field_bytes(&t->compression, f);
    case 6:
        return mlxd_field_bytes(&t->source, f);
    case 7:
        return mlxd_field_bytes(&t->target, f);
    case 8:
        return mlxd_field_double(&t->timestamp, f);
    default:
        return true;
    }
}

bool mlxd_tensor_read(mlxd_tensor *t, const mlxd_field *f) {
    return f->wire == MLXD_WIRE_BYTES && mlxd_field_scan(f->bytes, take_tensor_field, t);
}

/* ---- protobuf: writing ---- */

static void add_text(mlxd_buf *out, uint32_t number, mlxd_slice text) {
    if (text.len == 0)
        return;
    mlxd_field_add_head(out, number, text.len);
    mlxd_buf_add(out, text.data, text.len);
}

void mlxd_tensor_write(mlxd_buf *out, const mlxd_tensor *t) {
    mlxd_buf shape;
    mlxd_buf_init(&shape, 0);
    for (uint32_t i = 0; i < t->n_dims; i++)
        mlxd_field_add_varint(&shape, (uint64_t)t->shape[i]); /* checked: positive */
    add_text(out, 1, t->id);
    add_text(out, 2, (mlxd_slice){shape.data, shape.len});
    add_text(out, 3, t->dtype);
    add_text(out, 5, t->compression);
    add_text(out, 6, t->source);
    add_text(out, 7, t->target);
    mlxd_field_add_varint(out, 8 << 3 | MLXD_WIRE_FIXED64);
    mlxd_buf_add(out, &t->timestamp, sizeof t->timestamp);
    mlxd_field_add_head(out, 4, t->data.len);
    out->failed = out->failed || shape.failed;
    mlxd_buf_deinit(&shape);
}

/* ---- counted memory ---- */

struct mlxd_tensor_pool {
    size_t bytes_max;
    atomic_size_t bytes;
    atomic_size_t refs; /* the owner's, and one of each block */
};

struct mlxd_tensor_block {
    mlxd_tensor_pool *pool;
    size_t bytes;
    uint8_t *data;
    atomic_size_t refs;
};

mlxd_tensor_pool *mlxd_tensor_pool_open(size_t bytes_max) {
    mlxd_tensor_pool *pool = mlxd_mem_new(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->bytes_max = bytes_max;
    atomic_init(&pool->bytes, 0);
    atomic_init(&pool->refs, 1);
    return pool;
}

static void unref_pool(mlxd_tensor_pool *pool) {
    if (atomic_fetch_sub(&pool->refs, 1) == 1)
        mlxd_mem_free(pool);
}

void mlxd_tensor_pool_close(mlxd_tensor_pool *pool) {
    if (pool)
        unref_pool(pool);
}

size_t mlxd_tensor_pool_bytes(const mlxd_tensor_pool *pool) {
    return atomic_load(&pool->bytes);
}

/* `credit` bytes of other blocks are about to be freed. */
static mlxd_err open_block(mlxd_tensor_block **out, mlxd_tensor_pool *pool, size_t bytes,
                           size_t credit, mlxd_why *why) {
    size_t size;
    size_t taken = atomic_fetch_add(&pool->bytes, bytes);
    mlxd_tensor_block *b = NULL;
    if (taken - credit > pool->bytes_max || bytes > pool->bytes_max - (taken - credit)) {
        atomic_fetch_sub(&pool->bytes, bytes);
        return mlxd_fail(why, MLXD_ERR_FULL, "%zu bytes do not fit: %zu of %zu are taken", bytes,
                         taken, pool->bytes_max);
    }
    if (mlxd_add_size(bytes, sizeof *b + MLXD_TENSOR_ALIGN - 1, &size))
        b = mlxd_mem_resize(NULL, size, 1);
    if (!b) {
        atomic_fetch_sub(&pool->bytes, bytes);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu bytes", bytes);
    }
    uintptr_t at = (uintptr_t)(b + 1), aligned = at + MLXD_TENSOR_ALIGN - 1;
    aligned &= ~(uintptr_t)(MLXD_TENSOR_ALIGN - 1);
    *b = (mlxd_tensor_block){.pool = pool, .bytes = bytes};
    b->data = (uint8_t *)(b + 1) + (aligned - at);
    atomic_init(&b->refs, 1);
    atomic_fetch_add(&pool->refs, 1);
    *out = b;
    return MLXD_OK;
}

mlxd_err mlxd_tensor_block_open(mlxd_tensor_block **out, mlxd_tensor_pool *pool, size_t bytes,
                                mlxd_why *why) {
    return open_block(out, pool, bytes, 0, why);
}

void mlxd_tensor_block_ref(mlxd_tensor_block *b) {
    atomic_fetch_add(&b->refs, 1);
}

void mlxd_tensor_block_unref(void *block) {
    mlxd_tensor_block *b = block;
    if (atomic_fetch_sub(&b->refs, 1) != 1)
        return;
    mlxd_tensor_pool *pool = b->pool;
    atomic_fetch_sub(&pool->bytes, b->bytes);
    mlxd_mem_free(b);
    unref_pool(pool);
}

uint8_t *mlxd_tensor_block_data(mlxd_tensor_block *b) {
    return b->data;
}

/* ---- the store ---- */

struct entry {
    mlxd_tensor t; /* slices into block; dtype into the table */
    mlxd_tensor_block *block;
};

struct mlxd_tensor_store {
    mlxd_tensor_pool *pool;
    size_t count, count_max;
    struct entry entries[];
};

mlxd_tensor_store *mlxd_tensor_store_open(size_t count_max, size_t bytes_max) {
    mlxd_tensor_store *s;
    size_t size;
    if (!mlxd_mul_size(count_max, sizeof s->entries[0], &size) ||
        !mlxd_add_size(size, sizeof *s, &size))
        return NULL;
    s = mlxd_mem_new(1, size);
    if (!s)
        return NULL;
    s->count_max = count_max;
    s->pool = mlxd_tensor_pool_open(bytes_max);
    if (!s->pool) {
        mlxd_mem_free(s);
        return NULL;
    }
    return s;
}

void mlxd_tensor_store_close(mlxd_tensor_store *s) {
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++)
        mlxd_tensor_block_unref(s->entries[i].block);
    mlxd_tensor_pool_close(s->pool);
    mlxd_mem_free(s);
}

/* Index of the tensor; count when there is none. */
static size_t find(const mlxd_tensor_store *s, mlxd_slice id) {
    size_t i = 0;
    while (i < s->count && !mlxd_slice_eq(s->entries[i].t.id, id))
        i++;
    return i;
}

static mlxd_slice copy(uint8_t **at, mlxd_slice from) {
    mlxd_slice to = {*at, from.len};
    if (from.len)
        memcpy(*at, from.data, from.len);
    *at += from.len;
    return to;
}

mlxd_err mlxd_tensor_store_put(mlxd_tensor_store *s, const mlxd_tensor *t, mlxd_why *why) {
    mlxd_tensor_block *block = NULL;
    mlxd_err err = mlxd_tensor_check_id("tensor_id", t->id, why);
    if (!err)
        err = mlxd_tensor_check(t, why);
    if (!err)
        err = mlxd_tensor_check_finite(t, why);
    if (err)
        return err;
    size_t at = find(s, t->id);
    if (at == s->count_max)
        return mlxd_fail(why, MLXD_ERR_FULL, "%zu tensors are stored, that is the most", s->count);
    size_t names = t->id.len + t->source.len + t->target.len; /* checked: short */
    size_t bytes = t->data.len + names;
    /* A replaced tensor that nobody is reading makes room; for a moment both exist. */
    struct entry *e = &s->entries[at];
    bool replaces = at < s->count;
    size_t credit = replaces && atomic_load(&e->block->refs) == 1 ? e->block->bytes : 0;
    err = open_block(&block, s->pool, bytes, credit, why);
    if (err)
        return err;
    if (replaces)
        mlxd_tensor_block_unref(e->block);
    else
        s->count++;
    uint8_t *p = mlxd_tensor_block_data(block);
    *e = (struct entry){*t, block};
    e->t.data = copy(&p, t->data);
    e->t.id = copy(&p, t->id);
    e->t.source = copy(&p, t->source);
    e->t.target = copy(&p, t->target);
    e->t.dtype = mlxd_slice_str(find_dtype(t->dtype)->name);
    e->t.compression = (mlxd_slice){0};
    return MLXD_OK;
}

bool mlxd_tensor_store_get(const mlxd_tensor_store *s, mlxd_slice id, mlxd_tensor *out,
                           mlxd_tensor_block **block) {
    size_t at = find(s, id);
    if (at == s->count)
        return false;
    *out = s->entries[at].t;
    *block = s->entries[at].block;
    mlxd_tensor_block_ref(*block);
    return true;
}

size_t mlxd_tensor_store_count(const mlxd_tensor_store *s) {
    return s->count;
}

size_t mlxd_tensor_store_bytes(const mlxd_tensor_store *s) {
    return mlxd_tensor_pool_bytes(s->pool);
}
