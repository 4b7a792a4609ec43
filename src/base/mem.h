/* mem.h - memory: `try` allocation that returns NULL instead of aborting, a growable buffer, an
 * arena for what lives as long as one request, and large regions for weights and KV pages.
 *
 * Every allocation of ours goes through here, so a test can count them: the decode step must not
 * allocate (mlxd_mem_count before and after).
 */
#ifndef MLXD_BASE_MEM_H
#define MLXD_BASE_MEM_H

#include "base/base.h"

/* `count` objects of `size` bytes, zeroed; NULL when the product overflows or memory is out. */
void *mlxd_mem_new(size_t count, size_t size) MLXD_MUST_CHECK;
/* Grows or shrinks; on NULL the old block is still valid. */
void *mlxd_mem_resize(void *p, size_t count, size_t size) MLXD_MUST_CHECK;
void mlxd_mem_free(void *p);
/* Copy of `len` bytes plus a NUL behind them. */
char *mlxd_mem_dup(const void *p, size_t len) MLXD_MUST_CHECK;
char *mlxd_mem_dup_str(const char *s) MLXD_MUST_CHECK;
/* Number of successful allocations of this process so far (all threads). */
uint64_t mlxd_mem_count(void);

/* Growable bytes with a sticky failure, so that a writer checks once at the end:
 *     mlxd_buf b; mlxd_buf_init(&b, MAX); mlxd_buf_add(...); ... if (b.failed) ...
 * `bytes_max` bounds it (0 = no bound). */
typedef struct mlxd_buf {
    uint8_t *data; /* owned; NULL while empty */
    size_t len;
    size_t cap;
    size_t bytes_max;
    bool failed; /* an addition did not fit or memory ran out; contents are then useless */
} mlxd_buf;

void mlxd_buf_init(mlxd_buf *b, size_t bytes_max);
void mlxd_buf_deinit(mlxd_buf *b);
void mlxd_buf_clear(mlxd_buf *b); /* len = 0, memory kept, failure forgotten */
void mlxd_buf_add(mlxd_buf *b, const void *data, size_t len);
void mlxd_buf_add_str(mlxd_buf *b, const char *s);
void mlxd_buf_add_byte(mlxd_buf *b, uint8_t byte);
void mlxd_buf_addf(mlxd_buf *b, const char *fmt, ...) MLXD_PRINTF(2, 3);
/* Makes room for `len` more bytes and returns where they go (len is not advanced); NULL = failed */
uint8_t *mlxd_buf_reserve(mlxd_buf *b, size_t len);
/* NUL-terminates (not counted in len) and returns the text; "" when failed or empty. */
const char *mlxd_buf_str(mlxd_buf *b);

/* Arena: many small allocations freed together. Not thread safe. */
typedef struct mlxd_arena mlxd_arena;
mlxd_arena *mlxd_arena_open(size_t bytes_max) MLXD_MUST_CHECK; /* NULL: no memory */
void mlxd_arena_close(mlxd_arena *a);
void *mlxd_arena_new(mlxd_arena *a, size_t count, size_t size) MLXD_MUST_CHECK; /* zeroed or NULL */
char *mlxd_arena_dup(mlxd_arena *a, const void *p, size_t len) MLXD_MUST_CHECK; /* + NUL */

/* Large zeroed region, 2 MiB aligned, on huge pages where the system has them (they also make a
 * killed process die in milliseconds instead of seconds). NULL: no memory. */
void *mlxd_mem_map(size_t bytes) MLXD_MUST_CHECK;
void mlxd_mem_unmap(void *p, size_t bytes);

#endif
