/* pack_nested.h - GGUF's blocks of 256 columns to panels; a part of pack.c.
 */
#ifndef MLXD_KERNEL_SCALAR_PACK_NESTED_H
#define MLXD_KERNEL_SCALAR_PACK_NESTED_H

#include "kernel/pack.h"

/* Packs one block (pack.h) of `count` rows, which are row_bytes apart, into the block (format.h) at
 * `to`; the rows that are not there become zeros. */
void mlxd_pack_nested(mlxd_weight_type type, const uint8_t *from, size_t row_bytes, size_t count,
                      uint8_t *to);

#endif
