/* names.h - a sorted index over names that come from a file or a client: finds duplicates while it
 * is built, then looks a name up in log n.
 *
 * It is sorted rather than hashed because the names may be chosen by an enemy: heapsort is n log n
 * for every input and needs neither memory nor a secret, a hash table would need both. The names
 * stay where they are; the index is the caller's array of ids, any numbers that it can map to
 * names.
 *
 * Thread: none of its own; a finished index may be read by many.
 */
#ifndef MLXD_FORMAT_NAMES_H
#define MLXD_FORMAT_NAMES_H

#include "base/base.h"

#define MLXD_NAMES_NONE UINT32_MAX

/* The name of item `id` of the collection `ctx`. */
typedef mlxd_slice (*mlxd_names_at)(const void *ctx, uint32_t id);

/* Sorts the `count` distinct ids in `order` by their names' bytes (a name sorts before its own
 * extensions; equal names by id). Returns the lowest id whose name a lower id has, too, or
 * MLXD_NAMES_NONE when all names differ. */
uint32_t mlxd_names_sort(uint32_t *order, uint32_t count, mlxd_names_at at, const void *ctx);
/* The id of `name` in a sorted `order`, or MLXD_NAMES_NONE. */
uint32_t mlxd_names_find(const uint32_t *order, uint32_t count, mlxd_names_at at, const void *ctx,
                         mlxd_slice name);

#endif
