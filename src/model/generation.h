/* generation.h - one answer in the making: from a row of logits to text that may be shown.
 *
 *     logits -> sampler -> token -> end of turn? -> detokenizer -> reasoning or content
 *                                                                     |         `-> stop strings
 *                                                                  reasoning            `-> text
 *
 * Stop strings are looked for in the content; max_tokens counts every token. All of it depends on
 * the tokens alone, so an answer that is drawn again comes out the same.
 *
 * A generation belongs to one session. It is touched by the compute thread while a step that draws
 * for it is in flight, and by the engine's side between steps, never by both.
 */
#ifndef MLXD_MODEL_GENERATION_H
#define MLXD_MODEL_GENERATION_H

#include "model/reasoning.h"
#include "model/sampler.h"
#include "model/stop.h"
#include "model/tokenizer.h"

typedef enum mlxd_finish {
    MLXD_FINISH_NONE,   /* goes on */
    MLXD_FINISH_STOP,   /* end-of-turn token or stop string */
    MLXD_FINISH_LENGTH, /* max_tokens reached, or the context is full */
} mlxd_finish;

/* "stop", "length"; "" for NONE. */
const char *mlxd_finish_name(mlxd_finish f);

typedef struct mlxd_generation_params {
    mlxd_sampling sampling;
    const mlxd_slice *stop; /* copied */
    size_t stop_count;
    uint32_t max_tokens; /* >= 1 */
    bool ignore_end;     /* end-of-turn tokens do not finish (ignore_eos) */
    mlxd_reasoning_format reasoning;
} mlxd_generation_params;

typedef struct mlxd_generation mlxd_generation;

/* INVALID: a parameter or stop string out of range. `t` must outlive the generation. `vocab` =
 * length of a logits row. */
mlxd_err mlxd_generation_open(mlxd_generation **out, const mlxd_generation_params *p,
                              const mlxd_tokenizer *t, uint32_t vocab, const int32_t *prompt,
                              size_t prompt_count, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_generation_close(mlxd_generation *g);

/* Draws the next token for `position` (its index in the sequence). The new text is appended to
 * mlxd_generation_text. CORRUPT: logits are not finite. */
mlxd_err mlxd_generation_draw(mlxd_generation *g, mlxd_sampler_scratch *scratch,
                              const float *logits, uint32_t position, int32_t *token,
                              mlxd_finish *finish, mlxd_why *why) MLXD_MUST_CHECK;

/* The last draw: token and log-probabilities. */
const mlxd_sample *mlxd_generation_sample(const mlxd_generation *g);
/* Content that may be shown and was not taken yet. The reader clears the buffer when it has it. */
mlxd_buf *mlxd_generation_text(mlxd_generation *g);
/* The same for reasoning, which comes before the content that was drawn with it. */
mlxd_buf *mlxd_generation_reasoning(mlxd_generation *g);
uint32_t mlxd_generation_tokens(const mlxd_generation *g); /* drawn so far */
/* Those of them that were reasoning, with the tokens that completed its marks. */
uint32_t mlxd_generation_reasoning_tokens(const mlxd_generation *g);
/* Was the last token an end of turn, which is no part of the text? */
bool mlxd_generation_ended(const mlxd_generation *g);
mlxd_finish mlxd_generation_finish(const mlxd_generation *g);
bool mlxd_generation_wants_logprobs(const mlxd_generation *g);
/* Digest of the logits rows so far; false when it was not asked for. */
bool mlxd_generation_digest(const mlxd_generation *g, char hex[MLXD_SHA256_HEX]);

#endif
