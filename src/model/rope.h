/* rope.h - rotary position tables: cos and sin of position * theta^(-2i/d), made once per model in
 * our own double-precision arithmetic and rounded to f32, so every machine has the same bits.
 * Source: Su et al., RoFormer (arXiv 2104.09864).
 */
#ifndef MLXD_MODEL_ROPE_H
#define MLXD_MODEL_ROPE_H

#include "model/config.h"

typedef struct mlxd_rope {
    float *cos, *sin; /* [positions][rope_dims / 2], owned */
    uint32_t positions;
    uint32_t half; /* rope_dims / 2 */
} mlxd_rope;

mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, uint32_t positions,
                        mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_rope_deinit(mlxd_rope *r);

#endif
