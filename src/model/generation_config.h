/* generation_config.h - how a model wants to be sampled when nobody says otherwise.
 *
 * What a request (or a flag) does not say comes from the model, and what that does not say, from
 * mlxd_generation_config_init: temperature 0.7, 512 tokens, no filters, no penalty.
 *
 *     generation_config.json      GGUF                              here
 *     temperature                 general.sampling.temp             temperature
 *     top_p, top_k, min_p         general.sampling.top_p, ...       the same
 *     repetition_penalty          general.sampling.penalty_repeat   the same
 *     do_sample: false                                              temperature 0
 *     max_new_tokens                                                max_tokens
 *     eos_token_id: 2, [2, 5]     (the tokenizer reads its own)     ends
 *
 * Everything else in these files is not for us (max_length, num_beams, transformers_version ...)
 * and is ignored. A value of a wrong type or outside the sampler's range is DATA, with its name: a
 * file that says nonsense must not be followed in half.
 *
 * Thread: a plain value.
 */
#ifndef MLXD_MODEL_GENERATION_CONFIG_H
#define MLXD_MODEL_GENERATION_CONFIG_H

#include "format/gguf.h"
#include "model/sampler.h"

#define MLXD_GENERATION_ENDS 32

typedef struct mlxd_generation_config {
    mlxd_sampling sampling;
    uint32_t max_tokens;
    int32_t ends[MLXD_GENERATION_ENDS]; /* end-of-turn tokens, besides the tokenizer's */
    size_t n_ends;
} mlxd_generation_config;

void mlxd_generation_config_init(mlxd_generation_config *c);
/* Reads the text of a generation_config.json. After an error `c` holds what was read so far. */
mlxd_err mlxd_generation_config_read_json(mlxd_generation_config *c, mlxd_slice text,
                                          mlxd_why *why) MLXD_MUST_CHECK;
/* Reads the eos_token_id of a config.json, unless ends are known: generation_config.json, which is
 * read first, overrides it. */
mlxd_err mlxd_generation_config_read_ends(mlxd_generation_config *c, mlxd_slice text,
                                          mlxd_why *why) MLXD_MUST_CHECK;
mlxd_err mlxd_generation_config_read_gguf(mlxd_generation_config *c, const mlxd_gguf *g,
                                          mlxd_why *why) MLXD_MUST_CHECK;

#endif
