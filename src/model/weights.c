/* weights.c - see weights.h. Each tensor lies 64-byte aligned in one region. A digest takes its
 * bytes in order, packing does not: so a tensor is one task that hashes it and, beside it, one task
 * per piece of a few megabytes that packs it. Both read the file into a small buffer of their own;
 * the second to come finds the bytes in the page cache. That both found the same is checked with a
 * sum over each piece, so the digest is that of what was packed. */
#include "model/weights.h"

#include "base/mem.h"
#include "kernel/pack.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)1 << 20) /* what a task reads at a time */
#define PIECE_BYTES ((size_t)8 << 20)  /* what a packing task takes */
#define DIGEST SIZE_MAX
#define LANES 4

struct item {
    const mlxd_weight_spec *spec;
    const mlxd_gguf_tensor *tensor;
    mlxd_weight_type type;
    size_t row_bytes;
    size_t offset; /* in the region */
    uint64_t file_bytes;
};

/* A tensor's digest, or a piece of its rows from `row` on with the sums of both readings. */
struct task {
    size_t item, row;
    uint64_t packed[LANES], hashed[LANES];
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
    {MLXD_GGUF_TYPE_F32, MLXD_WEIGHT_F32},       {MLXD_GGUF_TYPE_F16, MLXD_WEIGHT_F16},
    {MLXD_GGUF_TYPE_BF16, MLXD_WEIGHT_BF16},     {MLXD_GGUF_TYPE_Q4_0, MLXD_WEIGHT_Q4_0},
    {MLXD_GGUF_TYPE_Q4_1, MLXD_WEIGHT_Q4_1},     {MLXD_GGUF_TYPE_Q5_0, MLXD_WEIGHT_Q5_0},
    {MLXD_GGUF_TYPE_Q5_1, MLXD_WEIGHT_Q5_1},     {MLXD_GGUF_TYPE_Q8_0, MLXD_WEIGHT_Q8_0},
    {MLXD_GGUF_TYPE_Q2_K, MLXD_WEIGHT_Q2_K},     {MLXD_GGUF_TYPE_Q3_K, MLXD_WEIGHT_Q3_K},
    {MLXD_GGUF_TYPE_Q4_K, MLXD_WEIGHT_Q4_K},     {MLXD_GGUF_TYPE_Q5_K, MLXD_WEIGHT_Q5_K},
    {MLXD_GGUF_TYPE_Q6_K, MLXD_WEIGHT_Q6_K},     {MLXD_GGUF_TYPE_IQ4_NL, MLXD_WEIGHT_IQ4_NL},
    {MLXD_GGUF_TYPE_IQ4_XS, MLXD_WEIGHT_IQ4_XS}, {MLXD_GGUF_TYPE_MXFP4, MLXD_WEIGHT_MXFP4},
    {MLXD_GGUF_TYPE_NVFP4, MLXD_WEIGHT_NVFP4},
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
        return mlxd_fail(
            why, MLXD_ERR_UNSUPPORTED,
            "%s: tensor %s has type %s, which is not supported "
            "(supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, "
            "Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4)",
            path, spec->name, mlxd_gguf_type_name(t->type));
    if (spec->vector && mlxd_format_is_quantized(mlxd_weight_format(it->type)))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: vector %s has quantized type %s", path,
                         spec->name, mlxd_gguf_type_name(t->type));
    it->row_bytes = mlxd_weight_row_bytes(it->type, spec->cols);
    it->file_bytes = (uint64_t)it->row_bytes * rows;
    if (spec->vector)
        *bytes = spec->cols * sizeof(float);
    else if (!mlxd_format_packed_bytes(mlxd_weight_format(it->type), rows, spec->cols, bytes))
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
    struct task *tasks;
    size_t n_tasks;
    _Atomic uint64_t done;
    _Atomic bool failed;
    mlxd_err err; /* of the first task that failed */
    mlxd_why why;
    size_t failed_item;
};

static size_t rows_in(const struct item *it) {
    return it->spec->matrix ? it->spec->rows : 1;
}

/* Whole panels of rows that make up about so many bytes. */
static size_t rows_of(const struct item *it, size_t bytes) {
    return MLXD_MAX(bytes / (it->row_bytes * MLXD_PANEL_ROWS), (size_t)1) * MLXD_PANEL_ROWS;
}

/* Packs the rows of `it` that lie in `buf`; `row` is a multiple of the panel height. */
static void place(const struct item *it, uint8_t *dst, const uint8_t *buf, size_t row,
                  size_t rows) {
    const mlxd_weight_spec *s = it->spec;
    if (s->vector) {
        mlxd_widen(mlxd_weight_format(it->type).type, buf, s->cols, (float *)(void *)dst);
        return;
    }
    size_t panel_bytes = mlxd_format_panel_bytes(mlxd_weight_format(it->type), s->cols);
    for (size_t p = 0; p * MLXD_PANEL_ROWS < rows; p++)
        mlxd_pack_gguf(it->type, rows, s->cols, buf, p,
                       dst + (row / MLXD_PANEL_ROWS + p) * panel_bytes);
}

/* Reads rows [row, end) of `it` a buffer at a time and does `use` with each. */
static mlxd_err read_rows(struct load *l, struct item *it, size_t row, size_t end, mlxd_why *why,
                          void (*use)(struct load *l, struct item *it, void *ctx,
                                      const uint8_t *buf, size_t row, size_t rows),
                          void *ctx) {
    size_t step = rows_of(it, BUFFER_BYTES);
    uint8_t *buf = mlxd_mem_new(MLXD_MIN(step, end - row), it->row_bytes);
    mlxd_err err = buf ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (; row < end && !err; row += step) {
        size_t rows = MLXD_MIN(step, end - row);
        uint64_t offset = it->tensor->file_offset + (uint64_t)row * it->row_bytes;
        err = mlxd_model_file_read(l->file, offset, buf, rows * it->row_bytes, why);
        if (!err)
            use(l, it, ctx, buf, row, rows);
        if (!err && atomic_load(&l->failed))
            err = MLXD_ERR_CANCELLED;
    }
    mlxd_mem_free(buf);
    return err;
}

/* Continues a sum over a piece: every step is a bijection, so no changed word gets lost. */
static void add_sum(uint64_t sum[LANES], const uint8_t *p, size_t bytes) {
    for (size_t at = 0, lane = 0; at < bytes; at += 8, lane = (lane + 1) % LANES) {
        uint64_t word = 0;
        memcpy(&word, p + at, MLXD_MIN(bytes - at, sizeof word));
        sum[lane] = (sum[lane] ^ word) * 0x9e3779b97f4a7c15u;
    }
}

/* What a digest task hands to its readings. */
struct hashing {
    mlxd_sha256 *sha;
    struct task *piece;
};

static void use_digest(struct load *l, struct item *it, void *ctx, const uint8_t *buf, size_t row,
                       size_t rows) {
    struct hashing *h = ctx;
    (void)l;
    (void)row;
    mlxd_sha256_add(h->sha, buf, rows * it->row_bytes);
    add_sum(h->piece->hashed, buf, rows * it->row_bytes);
}

static void use_pack(struct load *l, struct item *it, void *ctx, const uint8_t *buf, size_t row,
                     size_t rows) {
    struct task *piece = ctx;
    size_t bytes = rows * it->row_bytes;
    add_sum(piece->packed, buf, bytes);
    place(it, l->w->region + it->offset, buf, row, rows);
    uint64_t done = atomic_fetch_add(&l->done, bytes) + bytes;
    if (l->progress)
        l->progress->fn(l->progress->ctx, done, l->total);
}

static size_t end_of(const struct load *l, const struct task *piece) {
    const struct item *it = &l->items[piece->item];
    return MLXD_MIN(piece->row + rows_of(it, PIECE_BYTES), rows_in(it));
}

/* The digest of the tensor of task `t`, whose pieces follow it. */
static mlxd_err digest_item(struct load *l, struct task *t, mlxd_why *why) {
    struct hashing h = {mlxd_sha256_open(), t + 1};
    mlxd_err err = h.sha ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (; !err && h.piece < l->tasks + l->n_tasks && h.piece->item == t->item; h.piece++)
        err =
            read_rows(l, &l->items[t->item], h.piece->row, end_of(l, h.piece), why, use_digest, &h);
    if (!err)
        mlxd_sha256_get(h.sha, l->w->digests[t->item].sha256);
    mlxd_sha256_close(h.sha);
    return err;
}

static void load_task(void *ctx, size_t task, unsigned thread) {
    struct load *l = ctx;
    struct task *t = &l->tasks[task];
    mlxd_why why = {0};
    (void)thread;
    if (atomic_load(&l->failed))
        return;
    mlxd_err err = t->row == DIGEST
                       ? digest_item(l, t, &why)
                       : read_rows(l, &l->items[t->item], t->row, end_of(l, t), &why, use_pack, t);
    if (err && err != MLXD_ERR_CANCELLED && !atomic_exchange(&l->failed, true)) {
        l->err = err;
        l->why = why;
        l->failed_item = t->item;
    }
}

/* The tensors' tasks, one tensor after the other; returns their number, or fills `tasks`. */
static size_t list_tasks(const struct item *items, size_t count, struct task *tasks) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        size_t step = rows_of(&items[i], PIECE_BYTES), rows = rows_in(&items[i]);
        if (tasks)
            tasks[n] = (struct task){.item = i, .row = DIGEST};
        n++;
        for (size_t row = 0; row < rows; row += step, n++)
            if (tasks)
                tasks[n] = (struct task){.item = i, .row = row};
    }
    return n;
}

/* Both readings of every piece must have found the same bytes. */
static mlxd_err compare_readings(const struct load *l, mlxd_why *why) {
    for (size_t i = 0; i < l->n_tasks; i++)
        if (memcmp(l->tasks[i].packed, l->tasks[i].hashed, sizeof l->tasks[i].packed) != 0)
            return mlxd_fail(why, MLXD_ERR_CORRUPT,
                             "tensor %s: two readings of the file differ; was it written to?",
                             l->items[l->tasks[i].item].spec->name);
    return MLXD_OK;
}

static mlxd_err run_load(struct load *l, size_t count, mlxd_pool *pool, mlxd_why *why) {
    l->n_tasks = list_tasks(l->items, count, NULL);
    l->tasks = mlxd_mem_new(l->n_tasks, sizeof *l->tasks);
    if (!l->tasks)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    (void)list_tasks(l->items, count, l->tasks);
    mlxd_pool_run(pool, l->n_tasks, load_task, l);
    mlxd_err err = atomic_load(&l->failed)
                       ? mlxd_fail(why, l->err, "tensor %s: %s",
                                   l->items[l->failed_item].spec->name, l->why.text)
                       : compare_readings(l, why);
    mlxd_mem_free(l->tasks);
    return err;
}

/* Hands the packed tensors to the places the specs name. */
static void publish(mlxd_weights *w, struct item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const mlxd_weight_spec *s = items[i].spec;
        const uint8_t *data = w->region + items[i].offset;
        if (s->vector)
            *s->vector = (const float *)(const void *)data;
        else
            *s->matrix = (mlxd_matrix){mlxd_weight_format(items[i].type), s->rows, s->cols, data};
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
    for (size_t i = 0; i < count; i++) {
        l.total += items[i].file_bytes;
        snprintf(w->digests[i].name, sizeof w->digests[i].name, "%s", specs[i].name);
    }
    err = run_load(&l, count, pool, why);
    if (err)
        goto fail;
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
