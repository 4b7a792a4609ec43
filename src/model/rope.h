/* rope.h - rotary position tables: cos and sin of position * theta^(-2i/d), made once per model in
 * our own double-precision arithmetic and rounded to f32, so every machine has the same bits. They
 * grow as positions are reached: a model's whole context can be millions of numbers, which nobody
 * should wait for at load.
 * Source: Su et al., RoFormer (arXiv 2104.09864).
 */
#ifndef MLXD_MODEL_ROPE_H
#define MLXD_MODEL_ROPE_H

#include "model/config.h"

typedef struct mlxd_rope {
    float *cos, *sin; /* [positions][rope_dims / 2], owned; valid below `reached` */
    uint32_t positions, reached;
    uint32_t half; /* rope_dims / 2 */
    uint32_t dims;
    double theta, scale;
} mlxd_rope;

mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, uint32_t positions,
                        mlxd_why *why) MLXD_MUST_CHECK;
/* Makes the positions below `end` valid; end <= positions. */
void mlxd_rope_reach(mlxd_rope *r, uint32_t end);
void mlxd_rope_deinit(mlxd_rope *r);

#endif
