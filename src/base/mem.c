/* mem.c - see mem.h. Blocks come from malloc; an arena is a list of chunks that double in size, up
 * to 1 MiB. */
#include "base/mem.h"

#include "base/os.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_FIRST ((size_t)4 << 10)
#define CHUNK_MAX ((size_t)1 << 20) /* a larger object gets a chunk of its own */

static atomic_uint_fast64_t allocations;

void *mlxd_mem_new(size_t count, size_t size) {
    size_t bytes;
    if (!mlxd_mul_size(count, size, &bytes))
        return NULL;
    void *p = calloc(1, bytes ? bytes : 1);
    if (p)
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return p;
}

void *mlxd_mem_resize(void *p, size_t count, size_t size) {
    size_t bytes;
    if (!mlxd_mul_size(count, size, &bytes))
        return NULL;
    void *q = realloc(p, bytes ? bytes : 1);
    if (q)
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return q;
}

void mlxd_mem_free(void *p) {
    free(p);
}

char *mlxd_mem_dup(const void *p, size_t len) {
    size_t bytes;
    if (!mlxd_add_size(len, 1, &bytes))
        return NULL;
    char *s = mlxd_mem_new(bytes, 1);
    if (s && len)
        memcpy(s, p, len);
    return s;
}

char *mlxd_mem_dup_str(const char *s) {
    return mlxd_mem_dup(s, strlen(s));
}

uint64_t mlxd_mem_count(void) {
    return atomic_load_explicit(&allocations, memory_order_relaxed);
}

/* ---- buffer ---- */

void mlxd_buf_init(mlxd_buf *b, size_t bytes_max) {
    *b = (mlxd_buf){.bytes_max = bytes_max};
}

void mlxd_buf_deinit(mlxd_buf *b) {
    mlxd_mem_free(b->data);
    *b = (mlxd_buf){.bytes_max = b->bytes_max};
}

void mlxd_buf_clear(mlxd_buf *b) {
    b->len = 0;
    b->failed = false;
}

/* Room for `len` more bytes and one NUL. */
uint8_t *mlxd_buf_reserve(mlxd_buf *b, size_t len) {
    size_t need, want;
    if (b->failed)
        return NULL;
    if (!mlxd_add_size(b->len, len, &need) || (b->bytes_max && need > b->bytes_max) ||
        !mlxd_add_size(need, 1, &want)) {
        b->failed = true;
        return NULL;
    }
    if (want > b->cap) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap < want)
            cap = cap > SIZE_MAX / 2 ? want : cap * 2;
        uint8_t *p = mlxd_mem_resize(b->data, cap, 1);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->data = p;
        b->cap = cap;
    }
    return b->data + b->len;
}

void mlxd_buf_add(mlxd_buf *b, const void *data, size_t len) {
    uint8_t *p = mlxd_buf_reserve(b, len);
    if (!p)
        return;
    if (len)
        memcpy(p, data, len);
    b->len += len;
}

void mlxd_buf_add_str(mlxd_buf *b, const char *s) {
    mlxd_buf_add(b, s, strlen(s));
}

void mlxd_buf_add_byte(mlxd_buf *b, uint8_t byte) {
    mlxd_buf_add(b, &byte, 1);
}

void mlxd_buf_addf(mlxd_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    MLXD_ASSERT(n >= 0);
    uint8_t *p = mlxd_buf_reserve(b, (size_t)n);
    if (p) {
        vsnprintf((char *)p, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

const char *mlxd_buf_str(mlxd_buf *b) {
    if (b->failed || !mlxd_buf_reserve(b, 0))
        return "";
    b->data[b->len] = 0;
    return (const char *)b->data;
}

/* ---- arena ---- */

struct chunk {
    struct chunk *next;
    size_t used, cap;
    max_align_t data[];
};

struct mlxd_arena {
    struct chunk *head;
    size_t total, bytes_max;
};

mlxd_arena *mlxd_arena_open(size_t bytes_max) {
    mlxd_arena *a = mlxd_mem_new(1, sizeof *a);
    if (a)
        a->bytes_max = bytes_max;
    return a;
}

void mlxd_arena_close(mlxd_arena *a) {
    if (!a)
        return;
    for (struct chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        mlxd_mem_free(c);
    }
    mlxd_mem_free(a);
}

void *mlxd_arena_new(mlxd_arena *a, size_t count, size_t size) {
    MLXD_ASSERT(a);
    size_t bytes;
    uint64_t aligned;
    if (!mlxd_mul_size(count, size, &bytes) ||
        !mlxd_align_u64(bytes ? bytes : 1, sizeof(max_align_t), &aligned) ||
        aligned > SIZE_MAX - sizeof(struct chunk))
        return NULL;
    bytes = (size_t)aligned;
    if (a->bytes_max && (bytes > a->bytes_max || a->total > a->bytes_max - bytes))
        return NULL;
    if (!a->head || a->head->cap - a->head->used < bytes) {
        size_t cap = a->head ? MLXD_MIN(a->head->cap, CHUNK_MAX / 2) * 2 : CHUNK_FIRST;
        cap = MLXD_MAX(cap, bytes);
        struct chunk *c = mlxd_mem_new(1, sizeof *c + cap);
        if (!c)
            return NULL;
        c->cap = cap;
        c->next = a->head;
        a->head = c;
    }
    void *p = (uint8_t *)a->head->data + a->head->used;
    a->head->used += bytes;
    a->total += bytes;
    return p;
}

char *mlxd_arena_dup(mlxd_arena *a, const void *p, size_t len) {
    size_t bytes;
    if (!mlxd_add_size(len, 1, &bytes))
        return NULL;
    char *s = mlxd_arena_new(a, bytes, 1);
    if (s && len)
        memcpy(s, p, len);
    return s;
}

/* ---- large regions ---- */

void *mlxd_mem_map(size_t bytes) {
    void *p = mlxd_os_map(bytes ? bytes : 1);
    if (p)
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return p;
}

void mlxd_mem_unmap(void *p, size_t bytes) {
    mlxd_os_unmap(p, bytes ? bytes : 1);
}
