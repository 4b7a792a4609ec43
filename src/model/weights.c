/* weights.c - see weights.h. Each tensor lies 64-byte aligned in one region; a task reads a few
 * panels of rows at a time into its own buffer, adds them to the tensor's digest and packs them. */
#include "model/weights.h"

#include "base/mem.h"
#include "kernel/vector.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES (1u << 20)

struct item {
    const mlxd_weight_spec *spec;
    const mlxd_gguf_tensor *tensor;
    mlxd_weight_type type;
    size_t row_bytes;
    size_t offset; /* in the region */
    uint64_t file_bytes;
    mlxd_err err;
    mlxd_why why;
};

struct mlxd_weights {
    uint8_t *region;
    size_t bytes;
    mlxd_tensor_digest *digests;
    size_t count;
};

static const struct {
    uint32_t gguf;
    mlxd_weight_type type;
} types[] = {
    {MLXD_GGUF_TYPE_F32, MLXD_WEIGHT_F32},   {MLXD_GGUF_TYPE_F16, MLXD_WEIGHT_F16},
    {MLXD_GGUF_TYPE_BF16, MLXD_WEIGHT_BF16}, {MLXD_GGUF_TYPE_Q4_0, MLXD_WEIGHT_Q4_0},
    {MLXD_GGUF_TYPE_Q4_1, MLXD_WEIGHT_Q4_1}, {MLXD_GGUF_TYPE_Q8_0, MLXD_WEIGHT_Q8_0},
};

static bool kernel_type(uint32_t gguf, mlxd_weight_type *out) {
    for (size_t i = 0; i < MLXD_COUNT_OF(types); i++)
        if (types[i].gguf == gguf) {
            *out = types[i].type;
            return true;
        }
    return false;
}

/* Finds and checks the tensor of one spec; *bytes = what it takes in the region. */
static mlxd_err check(const mlxd_model_file *f, const mlxd_weight_spec *spec, struct item *it,
                      size_t *bytes, mlxd_why *why) {
    const mlxd_gguf_tensor *t = mlxd_gguf_tensor_find(mlxd_model_file_gguf(f), spec->name);
    const char *path = mlxd_model_file_path(f);
    if (!t)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: tensor %s is missing", path, spec->name);
    size_t rows = spec->matrix ? spec->rows : 1;
    if (t->dims[0] != spec->cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: tensor %s has shape [%llu, %llu, %llu, %llu], expected [%zu, %zu]",
                         path, spec->name, (unsigned long long)t->dims[0],
                         (unsigned long long)t->dims[1], (unsigned long long)t->dims[2],
                         (unsigned long long)t->dims[3], spec->cols, rows);
    *it = (struct item){.spec = spec, .tensor = t};
    if (!kernel_type(t->type, &it->type))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "%s: tensor %s has type %s, which is not supported "
                         "(supported: F32, F16, BF16, Q4_0, Q4_1, Q8_0)",
                         path, spec->name, mlxd_gguf_type_name(t->type));
    if (spec->vector && mlxd_weight_is_quantized(it->type))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: vector %s has quantized type %s", path,
                         spec->name, mlxd_gguf_type_name(t->type));
    it->row_bytes = mlxd_weight_row_bytes(it->type, spec->cols);
    it->file_bytes = (uint64_t)it->row_bytes * rows;
    if (spec->vector)
        *bytes = spec->cols * sizeof(float);
    else if (!mlxd_weight_packed_bytes(it->type, rows, spec->cols, bytes))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: tensor %s is too large", path, spec->name);
    return MLXD_OK;
}

/* Checks all specs and lays them out; *total = bytes of the region. */
static mlxd_err lay_out(const mlxd_model_file *f, const mlxd_weight_spec *specs, size_t count,
                        struct item *items, size_t *total, mlxd_why *why) {
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        MLXD_ASSERT((specs[i].matrix != NULL) != (specs[i].vector != NULL));
        mlxd_err err = check(f, &specs[i], &items[i], &bytes, why);
        if (err)
            return err;
        items[i].offset = (size_t)at;
        if (!mlxd_add_u64(at, bytes, &at) || !mlxd_align_u64(at, 64, &at) || at > SIZE_MAX)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "weights are too large");
    }
    *total = (size_t)at;
    return MLXD_OK;
}

mlxd_err mlxd_weights_size(const mlxd_model_file *f, const mlxd_weight_spec *specs, size_t count,
                           uint64_t *out, mlxd_why *why) {
    struct item *items = mlxd_mem_new(count, sizeof *items);
    if (!items)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    size_t total = 0;
    mlxd_err err = lay_out(f, specs, count, items, &total, why);
    *out = total;
    mlxd_mem_free(items);
    return err;
}

struct load {
    const mlxd_model_file *file;
    struct item *items;
    mlxd_weights *w;
    const mlxd_progress *progress;
    uint64_t total;
    _Atomic uint64_t done;
    _Atomic bool failed;
};

static void widen_vector(mlxd_weight_type type, const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        if (type == MLXD_WEIGHT_F32) {
            memcpy(&out[i], src + 4 * i, 4);
            continue;
        }
        memcpy(&h, src + 2 * i, 2);
        out[i] = type == MLXD_WEIGHT_F16 ? mlxd_f16_to_f32(h) : mlxd_bf16_to_f32(h);
    }
}

/* Packs the rows of `it` that lie in `buf`; `row` is a multiple of the panel height. */
static void place(const struct item *it, uint8_t *dst, const uint8_t *buf, size_t row,
                  size_t rows) {
    const mlxd_weight_spec *s = it->spec;
    if (s->vector) {
        widen_vector(it->type, buf, s->cols, (float *)(void *)dst);
        return;
    }
    size_t panel_bytes = mlxd_weight_panel_bytes(it->type, s->cols);
    for (size_t p = 0; p * MLXD_PANEL_ROWS < rows; p++)
        mlxd_weight_pack_panel(it->type, rows, s->cols, buf, p,
                               dst + (row / MLXD_PANEL_ROWS + p) * panel_bytes);
}

static mlxd_err load_item(struct load *l, struct item *it, mlxd_sha256 *sha, uint8_t *buf,
                          size_t rows_step) {
    size_t rows = it->spec->matrix ? it->spec->rows : 1;
    for (size_t row = 0; row < rows; row += rows_step) {
        size_t n = MLXD_MIN(rows_step, rows - row), bytes = n * it->row_bytes;
        mlxd_err err = mlxd_model_file_read(
            l->file, it->tensor->file_offset + (uint64_t)row * it->row_bytes, buf, bytes, &it->why);
        if (err)
            return err;
        mlxd_sha256_add(sha, buf, bytes);
        place(it, l->w->region + it->offset, buf, row, n);
        uint64_t done = atomic_fetch_add(&l->done, bytes) + bytes;
        if (l->progress)
            l->progress->fn(l->progress->ctx, done, l->total);
        if (atomic_load(&l->failed))
            return MLXD_ERR_CANCELLED;
    }
    return MLXD_OK;
}

static void load_task(void *ctx, size_t task, unsigned thread) {
    struct load *l = ctx;
    struct item *it = &l->items[task];
    (void)thread;
    if (atomic_load(&l->failed)) {
        it->err = MLXD_ERR_CANCELLED;
        return;
    }
    size_t panel = it->row_bytes * MLXD_PANEL_ROWS;
    size_t panels = MLXD_MAX(CHUNK_BYTES / panel, (size_t)1);
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t *buf = mlxd_mem_new(panels, panel);
    if (sha && buf)
        it->err = load_item(l, it, sha, buf, panels * MLXD_PANEL_ROWS);
    else
        it->err = mlxd_fail(&it->why, MLXD_ERR_NOMEM, "out of memory");
    if (it->err) {
        atomic_store(&l->failed, true);
    } else {
        mlxd_tensor_digest *d = &l->w->digests[task];
        snprintf(d->name, sizeof d->name, "%s", it->spec->name);
        mlxd_sha256_get(sha, d->sha256);
    }
    mlxd_mem_free(buf);
    mlxd_sha256_close(sha);
}

/* Hands the packed tensors to the places the specs name. */
static void publish(mlxd_weights *w, struct item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const mlxd_weight_spec *s = items[i].spec;
        const uint8_t *data = w->region + items[i].offset;
        if (s->vector)
            *s->vector = (const float *)(const void *)data;
        else
            *s->matrix = (mlxd_matrix){items[i].type, s->rows, s->cols, data};
    }
}

mlxd_err mlxd_weights_load(mlxd_weights **out, const mlxd_model_file *f,
                           const mlxd_weight_spec *specs, size_t count, mlxd_pool *pool,
                           const mlxd_progress *progress, mlxd_why *why) {
    mlxd_weights *w = mlxd_mem_new(1, sizeof *w);
    struct item *items = mlxd_mem_new(count, sizeof *items);
    mlxd_err err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    if (!w || !items)
        goto fail;
    w->digests = mlxd_mem_new(count, sizeof *w->digests);
    if (!w->digests)
        goto fail;
    w->count = count;
    err = lay_out(f, specs, count, items, &w->bytes, why);
    if (err)
        goto fail;
    w->region = mlxd_mem_map(w->bytes);
    if (!w->region) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "cannot reserve %zu MiB for weights", w->bytes >> 20);
        goto fail;
    }
    struct load l = {.file = f, .items = items, .w = w, .progress = progress};
    for (size_t i = 0; i < count; i++)
        l.total += items[i].file_bytes;
    mlxd_pool_run(pool, count, load_task, &l);
    for (size_t i = 0; i < count; i++)
        if (items[i].err && items[i].err != MLXD_ERR_CANCELLED) {
            err = mlxd_fail(why, items[i].err, "tensor %s: %s", specs[i].name, items[i].why.text);
            goto fail;
        }
    publish(w, items, count);
    mlxd_mem_free(items);
    *out = w;
    return MLXD_OK;
fail:
    mlxd_mem_free(items);
    mlxd_weights_close(w);
    return err;
}

void mlxd_weights_close(mlxd_weights *w) {
    if (!w)
        return;
    if (w->region)
        mlxd_mem_unmap(w->region, w->bytes);
    mlxd_mem_free(w->digests);
    mlxd_mem_free(w);
}

size_t mlxd_weights_bytes(const mlxd_weights *w) {
    return w->bytes;
}

const mlxd_tensor_digest *mlxd_weights_digests(const mlxd_weights *w, size_t *count) {
    *count = w->count;
    return w->digests;
}
