/* kv.h - the KV cache of one layer range: f16 pages of 64 positions, and the sessions that own
 * them.
 *
 * A page holds positions [64p, 64p+64) of one session for every layer of the range:
 *
 *   per layer:  K  [kv_heads][head_dim][64]   f16, dimension-major
 *               V  [kv_heads][64][head_dim]   f16, position-major
 *
 * Pages come from a pool of fixed size, so KV memory is bounded; memory of a page is touched when
 * it is first used. A session knows, besides its pages, a rolling hash of the tokens at each
 * position (the prefix hash), so that a step can never be computed on the KV of other tokens.
 * Memory is taken when the cache opens and for the page table of a new session, never by a later
 * step.
 *
 * Thread: one at a time (the compute driver).
 */
#ifndef MLXD_MODEL_KV_H
#define MLXD_MODEL_KV_H

#include "kernel/attention.h"
#include "model/config.h"

typedef struct mlxd_kv mlxd_kv;
typedef struct mlxd_kv_session mlxd_kv_session;

/* Bytes of one page of `layers` layers. */
size_t mlxd_kv_page_bytes(const mlxd_config *c, uint32_t layers);
/* Pages that `positions` need. */
uint32_t mlxd_kv_pages(uint64_t positions);

mlxd_err mlxd_kv_open(mlxd_kv **out, const mlxd_config *c, uint32_t layers, uint32_t pages_max,
                      mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_kv_close(mlxd_kv *kv);

/* Prefix hash: of nothing, and after one more token. */
uint64_t mlxd_kv_hash_init(void);
uint64_t mlxd_kv_hash_add(uint64_t hash, int32_t token);

/* Makes session `id` ready for `count` tokens at `position`: opens it when position is 0, cuts it
 * back when it is longer (a repeated step), takes the pages that are missing.
 *   RANGE  a gap: the session has fewer positions
 *   STATE  `prefix_hash` is not the hash of the session's tokens before `position`
 *   FULL   no free page or session slot
 *   NOMEM  no memory for the page table of a new session
 * After an error nothing has changed.
 * The new positions count as stored; the caller fills them layer by layer. */
mlxd_err mlxd_kv_begin(mlxd_kv *kv, uint64_t id, uint32_t position, uint64_t prefix_hash,
                       const int32_t *tokens, uint32_t count, mlxd_kv_session **out,
                       mlxd_why *why) MLXD_MUST_CHECK;
/* Cuts the session to `positions` (0 drops it). Unknown ids are ignored. */
void mlxd_kv_truncate(mlxd_kv *kv, uint64_t id, uint32_t positions);
void mlxd_kv_drop(mlxd_kv *kv, uint64_t id);
void mlxd_kv_drop_all(mlxd_kv *kv);

/* K and V of page `page` of session `s`: layer counts from the range's first. */
uint16_t *mlxd_kv_k(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t layer, uint32_t page,
                    uint32_t kv_head);
uint16_t *mlxd_kv_v(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t layer, uint32_t page,
                    uint32_t kv_head);

uint32_t mlxd_kv_session_count(const mlxd_kv *kv);
uint32_t mlxd_kv_pages_used(const mlxd_kv *kv);
uint32_t mlxd_kv_pages_max(const mlxd_kv *kv);

#endif
