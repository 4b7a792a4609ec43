/* group.h - one row of a quantized group as plain numbers: the reading of format.h that the scalar
 * product and get_row share.
 */
#ifndef MLXD_KERNEL_SCALAR_GROUP_H
#define MLXD_KERNEL_SCALAR_GROUP_H

#include "kernel/format.h"

typedef struct mlxd_group_row {
    int16_t q[MLXD_GROUP]; /* with the zero taken off */
    float d[2], m[2];      /* of the parts; without halves all are the group's */
} mlxd_group_row;

/* Row r of group g of the block at p. */
void mlxd_group_get_row(mlxd_format f, const uint8_t *p, size_t g, size_t r, mlxd_group_row *out);

#endif
