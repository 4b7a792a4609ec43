/* rope.h - rotary position tables: cos and sin of position * frequency, made once per model in our
 * own double-precision arithmetic and rounded to f32, so every machine has the same bits. They grow
 * as positions are reached: a model's whole context can be millions of numbers, which nobody should
 * wait for at load.
 *
 * With f(i) = theta^(-2i/dims), i < dims/2, the frequencies of a rule (config.h) are
 *
 *   PLAIN     f
 *   LINEAR    f / factor
 *   LLAMA3    w = 2 pi / f:  f / factor  where w > original/low,  f  where w < original/high, and
 *             between  (1-s) f / factor + s f,  s = (original/w - low) / (high - low)
 *   YARN      e f + (1-e) f / factor,  e = 1 - clamp((i - a) / (b - a), 0, 1),
 *             a = max(d(high), 0),  b = min(d(low), dims-1),
 *             d(n) = dims ln(original / (2 pi n)) / (2 ln theta);
 *             with `truncate` a is rounded down and b up
 *   FACTORS   f / list[i]
 *   LONGROPE  f / short[i], or f / long[i] when the table is made for more than `original`
 *             positions. A table never changes: a choice that followed the positions in use, as
 *             some implementations make it, would turn keys that are already in the cache wrong.
 *
 * and cos and sin are multiplied by `attention`.
 * Sources: Su et al., RoFormer (arXiv 2104.09864); Peng et al., YaRN (arXiv 2309.00071); Ding et
 * al., LongRoPE (arXiv 2402.13753).
 */
#ifndef MLXD_MODEL_ROPE_H
#define MLXD_MODEL_ROPE_H

#include "model/config.h"

typedef struct mlxd_rope {
    float *cos, *sin; /* [positions][half], owned; valid below `reached` */
    uint32_t positions, reached;
    uint32_t half; /* of the rotated dimensions */
    double attention;
    double frequency[MLXD_LIMIT_HEAD_DIM / 2];
} mlxd_rope;

/* The table of `rule`; `lists` are those that FACTORS and LONGROPE need, [half] each. */
mlxd_err mlxd_rope_init(mlxd_rope *r, const mlxd_config *c, const mlxd_rope_rule *rule,
                        const float *const lists[MLXD_ROPE_LISTS], uint32_t positions,
                        mlxd_why *why) MLXD_MUST_CHECK;
/* Makes the positions below `end` valid; end <= positions. */
void mlxd_rope_reach(mlxd_rope *r, uint32_t end);
void mlxd_rope_deinit(mlxd_rope *r);

#endif
