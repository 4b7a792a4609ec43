/* planes.h - the payload of a group as single values: the plain reading of format.h that packing,
 * the scalar product and get_row share.
 */
#ifndef MLXD_KERNEL_SCALAR_PLANES_H
#define MLXD_KERNEL_SCALAR_PLANES_H

#include "kernel/format.h"

/* q of row r of one group from its payload. */
void mlxd_planes_get_row(unsigned bits, const uint8_t *p, size_t r, uint8_t q[MLXD_GROUP]);
/* The payload from q of all rows. */
void mlxd_planes_put(unsigned bits, const uint8_t q[MLXD_PANEL_ROWS][MLXD_GROUP], uint8_t *p);

#endif
