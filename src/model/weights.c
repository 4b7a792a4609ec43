/* weights.c - see weights.h. Each matrix and vector lies 64-byte aligned in one region. A digest
 * takes a tensor's bytes in order, packing does not: so a tensor is one task that hashes it and,
 * beside it, one task per piece of a few megabytes that packs it. Both read the file into a small
 * buffer of their own; the second to come finds the bytes in the page cache. That both found the
 * same is checked with a sum over the rows that were packed, so the digest is that of what was
 * packed. */
#include "model/weights.h"

#include "base/mem.h"
#include "kernel/pack.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)1 << 20) /* what a task reads at a time */
#define PIECE_BYTES ((size_t)8 << 20)  /* what a packing task takes */
#define NONE SIZE_MAX
#define LANES 4

/* A spec in the tensor's terms: `count` matrices of stored_rows, of which `rows` are packed. For
 * vectors that is one matrix, a row for each of them. */
struct item {
    const mlxd_weight_spec *spec;
    const mlxd_checkpoint_tensor *tensor; /* NULL: optional and absent */
    mlxd_format format;
    size_t count, stored_rows, rows, first, step;
    size_t row_bytes;      /* of all streams together */
    size_t offset, stride; /* in the region: of the first result, between two of them */
    size_t digest, next;   /* its tensor's digest; the next item of the same tensor, or NONE */
    _Atomic uint64_t packed, hashed; /* sums of both readings of its rows */
};

/* Rows [row, row + some) of one matrix of an item; or the digest of its tensor. */
struct task {
    size_t item, matrix, row;
    bool digest;
};

struct mlxd_weights {
    uint8_t *region;
    size_t bytes;
    mlxd_tensor_digest *digests;
    size_t count;
};

/* ---- checks ---- */

static size_t count_of(const mlxd_weight_spec *s) {
    return s->count ? s->count : 1;
}

static mlxd_err refuse_shape(const char *path, const mlxd_weight_spec *s,
                             const mlxd_checkpoint_tensor *t, size_t stored, mlxd_why *why) {
    char want[64];
    if (s->vector)
        snprintf(want, sizeof want, "[%zu, %zu]", stored, count_of(s));
    else if (count_of(s) > 1)
        snprintf(want, sizeof want, "[%zu, %zu, %zu]", s->cols, stored, count_of(s));
    else
        snprintf(want, sizeof want, "[%zu, %zu]", s->cols, stored);
    return mlxd_fail(why, MLXD_ERR_DATA,
                     "%s: tensor %s has shape [%llu, %llu, %llu, %llu], expected %s", path, s->name,
                     (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                     (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], want);
}

/* The encodings of small floats, as the kernels name them. */
static bool mx_mode(mlxd_encoding_kind kind, mlxd_mx_mode *out) {
    static const mlxd_mx_mode modes[] = {[MLXD_ENCODING_MXFP4] = MLXD_MX_MXFP4,
                                         [MLXD_ENCODING_MXFP8] = MLXD_MX_MXFP8,
                                         [MLXD_ENCODING_NVFP4] = MLXD_MX_NVFP4};
    if (kind < MLXD_ENCODING_MXFP4 || kind > MLXD_ENCODING_NVFP4)
        return false;
    *out = modes[kind];
    return true;
}

static bool packed_format(const mlxd_encoding *e, mlxd_format *out) {
    mlxd_mx mx = {0};
    if (e->kind == MLXD_ENCODING_ROWS)
        *out = mlxd_weight_format(e->type);
    else if (e->kind == MLXD_ENCODING_AFFINE)
        *out = mlxd_affine_format(
            &(mlxd_affine){.bits = e->bits, .group = e->group, .type = e->scales});
    else if (mx_mode(e->kind, &mx.mode))
        *out = mlxd_mx_format(&mx);
    else
        return false;
    return true;
}

/* Sizes of the results of `it`: one is `stride` bytes, 64-byte aligned. */
static bool size_item(struct item *it) {
    const mlxd_weight_spec *s = it->spec;
    size_t bytes;
    uint64_t aligned;
    if (s->vector) {
        if (!mlxd_mul_size(s->cols, sizeof(float), &bytes) ||
            !mlxd_mul_size(bytes, count_of(s), &bytes))
            return false;
    } else if (!mlxd_format_packed_bytes(it->format, s->rows, s->cols, &bytes)) {
        return false;
    }
    if (!mlxd_align_u64(bytes, 64, &aligned) || aligned > SIZE_MAX)
        return false;
    it->stride = (size_t)aligned;
    return true;
}

/* Finds and checks the tensor of one spec. */
static mlxd_err check(const mlxd_checkpoint *c, const mlxd_weight_spec *s, struct item *it,
                      mlxd_why *why) {
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(c, s->name);
    const char *path = mlxd_checkpoint_path(c);
    const size_t wanted = s->matrix ? s->rows : s->cols, step = s->row_step ? s->row_step : 1;
    const size_t stored = s->rows_total ? s->rows_total : wanted;
    MLXD_ASSERT((s->matrix != NULL) != (s->vector != NULL));
    MLXD_ASSERT(wanted > 0 && s->row_first + (wanted - 1) * step < stored);
    it->spec = s;
    it->next = NONE;
    if (!t && s->optional)
        return MLXD_OK;
    if (!t)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: tensor %s is missing", path, s->name);
    const uint64_t shape[MLXD_LIMIT_GGUF_DIMS] = {s->matrix ? s->cols : stored,
                                                  s->matrix ? stored : count_of(s),
                                                  s->matrix ? count_of(s) : 1, 1};
    if (memcmp(t->dims, shape, sizeof shape) != 0)
        return refuse_shape(path, s, t, stored, why);
    if (!packed_format(&t->encoding, &it->format))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "%s: tensor %s has type %s, which is not supported (supported: F32, F16, "
                         "BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4, "
                         "NVFP4, and MLX's affine, mxfp4, mxfp8, nvfp4)",
                         path, s->name, t->encoding.label);
    if (s->vector && mlxd_format_is_quantized(it->format))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: vector %s has quantized type %s", path,
                         s->name, t->encoding.label);
    it->tensor = t;
    it->count = s->matrix ? count_of(s) : 1;
    it->stored_rows = s->matrix ? stored : count_of(s);
    it->rows = s->matrix ? s->rows : count_of(s);
    it->first = s->matrix ? s->row_first : 0;
    it->step = s->matrix ? step : 1;
    for (size_t i = 0; i < t->n_streams; i++)
        it->row_bytes += (size_t)t->streams[i].row_bytes;
    if (!size_item(it))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: tensor %s is too large", path, s->name);
    return MLXD_OK;
}

/* Checks all specs and lays them out; *total = bytes of the region. */
static mlxd_err lay_out(const mlxd_checkpoint *c, const mlxd_weight_spec *specs, size_t count,
                        struct item *items, size_t *total, mlxd_why *why) {
    uint64_t at = 0, bytes;
    for (size_t i = 0; i < count; i++) {
        mlxd_err err = check(c, &specs[i], &items[i], why);
        if (err)
            return err;
        items[i].offset = (size_t)at;
        if (!mlxd_mul_u64(items[i].stride, items[i].count, &bytes) ||
            !mlxd_add_u64(at, bytes, &at) || at > SIZE_MAX)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "weights are too large");
    }
    *total = (size_t)at;
    return MLXD_OK;
}

mlxd_err mlxd_weights_size(const mlxd_checkpoint *c, const mlxd_weight_spec *specs, size_t count,
                           uint64_t *out, mlxd_why *why) {
    struct item *items = mlxd_mem_new(count, sizeof *items);
    if (!items)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    size_t total = 0;
    mlxd_err err = lay_out(c, specs, count, items, &total, why);
    *out = total;
    mlxd_mem_free(items);
    return err;
}

/* ---- reading ---- */

struct load {
    const mlxd_checkpoint *checkpoint;
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

/* Whole panels of rows of `it` that make up about so many bytes to read. */
static size_t rows_of(const struct item *it, size_t bytes) {
    return MLXD_MAX(bytes / (it->row_bytes * it->step * MLXD_PANEL_ROWS), (size_t)1) *
           MLXD_PANEL_ROWS;
}

static void mix(uint64_t lanes[LANES], const uint8_t *p, size_t bytes) {
    uint64_t words[LANES] = {0};
    memcpy(words, p, bytes);
    for (size_t i = 0; i < LANES; i++)
        lanes[i] = (lanes[i] ^ words[i]) * 0x9e3779b97f4a7c15u;
}

/* A sum over a row that no changed word leaves as it was: every step is a bijection. */
static uint64_t sum_row(size_t stream, uint64_t row, const uint8_t *p, size_t bytes) {
    uint64_t lanes[LANES] = {row, stream}, sum = 0;
    size_t at = 0;
    for (; at + sizeof lanes <= bytes; at += sizeof lanes)
        mix(lanes, p + at, sizeof lanes);
    mix(lanes, p + at, bytes - at);
    for (size_t i = 0; i < LANES; i++)
        sum = (sum ^ lanes[i] ^ (lanes[i] >> 29)) * 0xbf58476d1ce4e5b9u;
    return sum;
}

/* ---- packing ---- */

/* Widens the values of `rows` vectors from `row` on. */
static void place_vectors(const struct item *it, uint8_t *dst, const uint8_t *buf, size_t row,
                          size_t rows) {
    const mlxd_weight_spec *s = it->spec;
    const size_t step = s->row_step ? s->row_step : 1, bytes = mlxd_float_bytes(it->format.type);
    float *out = (float *)(void *)dst + row * s->cols;
    for (size_t r = 0; r < rows; r++, buf += it->row_bytes, out += s->cols) {
        for (size_t i = 0; i < s->cols; i++)
            mlxd_widen(it->format.type, buf + (s->row_first + i * step) * bytes, 1, out + i);
        for (size_t i = 0; s->plus != 0 && i < s->cols; i++)
            out[i] += s->plus;
    }
}

/* Packs `rows` rows from `row` on, a multiple of the panel height; their streams lie in buf one
 * after the other. */
static void place_rows(const struct item *it, uint8_t *dst, const uint8_t *buf, size_t row,
                       size_t rows) {
    const mlxd_weight_spec *s = it->spec;
    const mlxd_checkpoint_tensor *t = it->tensor;
    const mlxd_encoding *e = &t->encoding;
    const uint8_t *parts[MLXD_CHECKPOINT_STREAMS] = {buf};
    for (size_t i = 1; i < t->n_streams; i++)
        parts[i] = parts[i - 1] + rows * t->streams[i - 1].row_bytes;
    const mlxd_affine affine = {e->bits, e->group, e->scales, rows,
                                s->cols, parts[0], parts[1],  parts[2]};
    mlxd_mx mx = {.rows = rows, .cols = s->cols, .q = parts[0], .scales = parts[1]};
    bool is_mx = mx_mode(e->kind, &mx.mode);
    size_t panel_bytes = mlxd_format_panel_bytes(it->format, s->cols);
    dst += row / MLXD_PANEL_ROWS * panel_bytes;
    for (size_t p = 0; p * MLXD_PANEL_ROWS < rows; p++, dst += panel_bytes)
        if (e->kind == MLXD_ENCODING_AFFINE)
            mlxd_pack_affine(&affine, p, dst);
        else if (is_mx)
            mlxd_pack_mx(&mx, p, dst);
        else
            mlxd_pack_gguf(e->type, rows, s->cols, buf, p, dst);
}

/* Reads `rows` rows of a matrix of `it` from `row` on: of each stream all rows from the first to
 * the last, of which those that are wanted are moved together. `span` has room for them. */
static mlxd_err read_rows(struct load *l, struct item *it, size_t matrix, size_t row, size_t rows,
                          uint8_t *span, mlxd_why *why) {
    uint64_t stored = (uint64_t)matrix * it->stored_rows + it->first + row * it->step, sum = 0;
    uint8_t *out = span;
    for (size_t i = 0; i < it->tensor->n_streams; i++) {
        size_t bytes = (size_t)it->tensor->streams[i].row_bytes;
        size_t len = ((rows - 1) * it->step + 1) * bytes;
        mlxd_err err =
            mlxd_checkpoint_read(l->checkpoint, it->tensor, i, stored * bytes, out, len, why);
        if (err)
            return err;
        for (size_t r = 0; r < rows; r++) {
            memmove(out + r * bytes, out + r * it->step * bytes, bytes);
            sum += sum_row(i, stored + r * it->step, out + r * bytes, bytes);
        }
        out += rows * bytes;
    }
    atomic_fetch_add(&it->packed, sum);
    return MLXD_OK;
}

/* Reads and packs the piece of `t`, a buffer at a time. */
static mlxd_err pack_piece(struct load *l, const struct task *t, mlxd_why *why) {
    struct item *it = &l->items[t->item];
    size_t row = t->row, end = MLXD_MIN(row + rows_of(it, PIECE_BYTES), it->rows);
    size_t step = MLXD_MIN(rows_of(it, BUFFER_BYTES), end - row);
    uint8_t *dst = l->w->region + it->offset + t->matrix * it->stride;
    uint8_t *buf = mlxd_mem_new(step * it->step, it->row_bytes);
    mlxd_err err = buf ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (; row < end && !err; row += step) {
        size_t rows = MLXD_MIN(step, end - row), bytes = rows * it->row_bytes;
        err = read_rows(l, it, t->matrix, row, rows, buf, why);
        if (err)
            break;
        (it->spec->vector ? place_vectors : place_rows)(it, dst, buf, row, rows);
        uint64_t done = atomic_fetch_add(&l->done, bytes) + bytes;
        if (l->progress)
            l->progress->fn(l->progress->ctx, done, l->total);
        if (atomic_load(&l->failed))
            err = MLXD_ERR_CANCELLED;
    }
    mlxd_mem_free(buf);
    return err;
}

/* ---- digests ---- */

static bool takes_row(const struct item *it, uint64_t row) {
    uint64_t r = row % it->stored_rows;
    return r >= it->first && (r - it->first) % it->step == 0 &&
           (r - it->first) / it->step < it->rows;
}

/* Adds a row to the sums of the items that packed it, too. */
static void add_hashed(struct load *l, size_t first_item, size_t stream, uint64_t row,
                       const uint8_t *p, size_t bytes) {
    uint64_t sum = sum_row(stream, row, p, bytes);
    for (size_t i = first_item; i != NONE; i = l->items[i].next)
        if (takes_row(&l->items[i], row))
            atomic_fetch_add(&l->items[i].hashed, sum);
}

/* Hashes a stream of the tensor of item `first_item`. */
static mlxd_err digest_stream(struct load *l, size_t first_item, size_t stream, mlxd_sha256 *sha,
                              mlxd_why *why) {
    const mlxd_checkpoint_tensor *t = l->items[first_item].tensor;
    const mlxd_stream *s = &t->streams[stream];
    size_t row_bytes = (size_t)s->row_bytes, step = MLXD_MAX(BUFFER_BYTES / row_bytes, (size_t)1);
    uint64_t rows = s->bytes / row_bytes;
    step = (size_t)MLXD_MIN((uint64_t)step, rows);
    uint8_t *buf = mlxd_mem_new(step, row_bytes);
    mlxd_err err = buf ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (uint64_t row = 0; row < rows && !err; row += step) {
        size_t n = (size_t)MLXD_MIN(rows - row, (uint64_t)step);
        err = mlxd_checkpoint_read(l->checkpoint, t, stream, row * row_bytes, buf, n * row_bytes,
                                   why);
        if (err)
            break;
        mlxd_sha256_add(sha, buf, n * row_bytes);
        for (size_t i = 0; i < n; i++)
            add_hashed(l, first_item, stream, row + i, buf + i * row_bytes, row_bytes);
        if (atomic_load(&l->failed))
            err = MLXD_ERR_CANCELLED;
    }
    mlxd_mem_free(buf);
    return err;
}

static mlxd_err digest_item(struct load *l, const struct task *t, mlxd_why *why) {
    const struct item *it = &l->items[t->item];
    mlxd_sha256 *sha = mlxd_sha256_open();
    mlxd_err err = sha ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < it->tensor->n_streams && !err; i++)
        err = digest_stream(l, t->item, i, sha, why);
    if (!err)
        mlxd_sha256_get(sha, l->w->digests[it->digest].sha256);
    mlxd_sha256_close(sha);
    return err;
}

/* ---- all together ---- */

static void load_task(void *ctx, size_t task, unsigned thread) {
    struct load *l = ctx;
    const struct task *t = &l->tasks[task];
    mlxd_why why = {0};
    (void)thread;
    if (atomic_load(&l->failed))
        return;
    mlxd_err err = (t->digest ? digest_item : pack_piece)(l, t, &why);
    if (err && err != MLXD_ERR_CANCELLED && !atomic_exchange(&l->failed, true)) {
        l->err = err;
        l->why = why;
        l->failed_item = t->item;
    }
}

/* The items' tasks, one item after the other; returns their number, or fills `tasks`. */
static size_t list_tasks(const struct load *l, size_t count, struct task *tasks) {
    size_t n = 0;
    for (size_t i = 0, digests = 0; i < count; i++) {
        const struct item *it = &l->items[i];
        if (!it->tensor)
            continue;
        if (it->digest == digests) { /* the first of its tensor */
            if (tasks)
                tasks[n] = (struct task){.item = i, .digest = true};
            n++;
            digests++;
        }
        for (size_t m = 0; m < it->count; m++)
            for (size_t row = 0; row < it->rows; row += rows_of(it, PIECE_BYTES), n++)
                if (tasks)
                    tasks[n] = (struct task){.item = i, .matrix = m, .row = row};
    }
    return n;
}

/* Both readings of every item must have found the same bytes. */
static mlxd_err compare_readings(struct load *l, size_t count, mlxd_why *why) {
    for (size_t i = 0; i < count; i++)
        if (atomic_load(&l->items[i].packed) != atomic_load(&l->items[i].hashed))
            return mlxd_fail(why, MLXD_ERR_CORRUPT,
                             "tensor %s: two readings of the file differ; was it written to?",
                             l->items[i].spec->name);
    return MLXD_OK;
}

static mlxd_err run_load(struct load *l, size_t count, mlxd_pool *pool, mlxd_why *why) {
    l->n_tasks = list_tasks(l, count, NULL);
    l->tasks = mlxd_mem_new(l->n_tasks, sizeof *l->tasks);
    if (!l->tasks)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    (void)list_tasks(l, count, l->tasks);
    mlxd_pool_run(pool, l->n_tasks, load_task, l);
    mlxd_err err = atomic_load(&l->failed)
                       ? mlxd_fail(why, l->err, "tensor %s: %s",
                                   l->items[l->failed_item].spec->name, l->why.text)
                       : compare_readings(l, count, why);
    mlxd_mem_free(l->tasks);
    return err;
}

/* Gives each distinct tensor a digest, and chains the items of one. `last`: of each tensor of the
 * checkpoint the last item so far, plus one. */
static mlxd_err list_digests(struct load *l, size_t count, mlxd_why *why) {
    size_t n = mlxd_checkpoint_count(l->checkpoint);
    const mlxd_checkpoint_tensor *all = n ? mlxd_checkpoint_at(l->checkpoint, 0) : NULL;
    size_t *last = mlxd_mem_new(n, sizeof *last);
    if (!last)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct item *it = &l->items[i];
        if (!it->tensor)
            continue;
        size_t *before = &last[it->tensor - all];
        if (*before) {
            it->digest = l->items[*before - 1].digest;
            l->items[*before - 1].next = i;
        } else {
            it->digest = l->w->count++;
            snprintf(l->w->digests[it->digest].name, sizeof l->w->digests[0].name, "%s",
                     it->tensor->name);
        }
        *before = i + 1;
        l->total += (uint64_t)it->count * it->rows * it->row_bytes;
    }
    mlxd_mem_free(last);
    return MLXD_OK;
}

/* Hands the packed tensors to the places the specs name. */
static void publish(mlxd_weights *w, const struct item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const mlxd_weight_spec *s = items[i].spec;
        const uint8_t *data = items[i].tensor ? w->region + items[i].offset : NULL;
        if (s->vector)
            *s->vector = (const float *)(const void *)data;
        for (size_t m = 0; s->matrix && m < count_of(s); m++)
            s->matrix[m] = (mlxd_matrix){items[i].format, s->rows, s->cols,
                                         data ? data + m * items[i].stride : NULL};
    }
}

mlxd_err mlxd_weights_load(mlxd_weights **out, const mlxd_checkpoint *c,
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
    err = lay_out(c, specs, count, items, &w->bytes, why);
    if (err)
        goto fail;
    w->region = mlxd_mem_map(w->bytes);
    if (!w->region) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "cannot reserve %zu MiB for weights", w->bytes >> 20);
        goto fail;
    }
    struct load l = {.checkpoint = c, .items = items, .w = w, .progress = progress};
    err = list_digests(&l, count, why);
    if (!err)
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
