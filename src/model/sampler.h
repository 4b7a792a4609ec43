/* sampler.h - from a row of logits to the next token.
 *
 * One mlxd_sampler belongs to one sequence (a choice of a request) and lives at the coordinator. It
 * knows the parameters, the tokens so far (for penalties) and the running digest. The result of a
 * draw is a pure function of (parameters, prompt, tokens drawn so far, row, position); the
 * definition below fixes it to the last bit, so it is the same on every machine.
 *
 * Definition of a draw. Arithmetic is IEEE f32 unless said; nothing is fused; exp and log are
 * kernel/math.h's. Only the tokens [0, vocab) take part; the rest of the row is padding.
 *
 *   1. row       x[i], the model's raw logits. A value that is not finite, padding included, fails
 *                the draw.
 *   2. bias      x[i] += bias; a bias of -100 bans the token for good (x[i] = -inf), as OpenAI
 *                promises. +100 is only added, which forces the token in practice.
 *   3. penalties tokens of prompt and output: x = x > 0 ? x / r : x * r, kept finite; then tokens
 *                of the output: x -= frequency * (times drawn); then x -= presence.
 *                (vLLM's repetition penalty, OpenAI's other two.)
 *   -- greedy (temperature < 1e-5): the largest x, ties the lowest id. Done.
 *   4. scale     z[i] = (x[i] - max x) / temperature, the logarithm of the probability relative to
 *                the best token's. Tokens with z < -27 (less than 2e-12 of the best) drop out.
 *   5. min_p     keeps z[i] >= log(min_p), computed in f64 and rounded to f32.
 *   6. top_k     keeps the k largest x, ties the lowest id. Cuts exactly at k, also among ties.
 *   7. top_p     w[i] = floor(exp(z[i]) * 2^40), an integer; the best token weighs exactly 2^40.
 *                In the order (x descending, ties the lowest id) keeps the shortest start whose
 *                weights sum to at least top_p * (sum of all that are left): the token that crosses
 *                top_p stays, and at least one token stays.
 *   8. draw      W = sum of the weights left, R = 64 random bits, r = floor(R * W / 2^64); the
 *                token is the first in ascending id at which the running sum of weights exceeds r.
 *
 * Weights are integers so that their sums are exact: the order of additions cannot matter, which
 * lets step 7, like step 6, find its cut by counting (a radix select, linear time) instead of by
 * sorting. min_p and top_k need no exp, so the usual filters leave few of them to compute.
 * 2^22 tokens of 2^40 fit into 64 bits.
 *
 * R is the first two words of Philox4x32-10 with key = seed and counter = (position low, position
 * high, choice, 0). The choice index is in the counter, not mixed into the key, where seed 5 choice
 * 0 could repeat seed 4 choice 1. `position` is the index in the sequence of the token being drawn.
 *
 * Log-probabilities are those of the model itself (vLLM's raw_logprobs): log-softmax of the raw
 * row over [0, vocab), before bias, penalties and temperature, in f64:
 * x[i] - m - log(sum of exp(x[j] - m) in ascending j), m = max x; terms below exp(-700) are left
 * out. Computed only when asked for.
 *
 * The digest is SHA-256 over the raw rows from which tokens were drawn, in order: row_len f32 each,
 * little-endian (as on every platform we build for).
 *
 * Ownership: a sampler copies everything it keeps. Thread: a sampler and a scratch are used by one
 * thread at a time; samplers are independent. draw() allocates nothing.
 */
#ifndef MLXD_MODEL_SAMPLER_H
#define MLXD_MODEL_SAMPLER_H

#include "base/base.h"
#include "base/limits.h"
#include "format/digest.h"

/* ---- parameters ---- */

typedef struct mlxd_logit_bias {
    int32_t token;
    double bias; /* -100 (never) .. 100 */
} mlxd_logit_bias;

/* What a request asks for, as REST and CLI read it. Plain value; start from mlxd_sampling_init. */
typedef struct mlxd_sampling {
    double temperature;          /* 0 .. 2; below 1e-5 greedy; default 1 */
    double top_p;                /* 0 .. 1; 1 = off (default), 0 = the best token only */
    double min_p;                /* 0 .. 1; 0 = off (default) */
    double repetition_penalty;   /* 0.01 .. 100; 1 = off (default); prompt and output */
    double presence_penalty;     /* -2 .. 2; 0 = off (default); output only */
    double frequency_penalty;    /* -2 .. 2; 0 = off (default); output only */
    int32_t top_k;               /* 0 (default) and -1 = off; more than there are = off */
    int32_t top_logprobs;        /* 0 (default) .. 20; needs `logprobs` */
    bool logprobs;               /* report the drawn token's log-probability */
    bool digest;                 /* keep the digest of the logits */
    uint32_t choice;             /* index of this choice in the request */
    uint64_t seed;               /* the caller picks one where the request names none */
    const mlxd_logit_bias *bias; /* borrowed; each token at most once */
    size_t bias_count;           /* <= MLXD_LIMIT_LOGIT_BIAS */
} mlxd_sampling;

/* The defaults: plain sampling at temperature 1, everything else off, seed 0. */
void mlxd_sampling_init(mlxd_sampling *p);
/* INVALID unless every field is in its range (NaN never is) and every bias names a token in
 * [0, vocab) and some token is left. `*param`, unless NULL, is then the request field's name (a
 * constant string). The one place that knows the ranges; open() calls it too. */
mlxd_err mlxd_sampling_check(const mlxd_sampling *p, uint32_t vocab, const char **param,
                             mlxd_why *why) MLXD_MUST_CHECK;
bool mlxd_sampling_is_greedy(const mlxd_sampling *p);

/* ---- working memory ---- */

/* Buffers of one compute thread, for rows of any sampler whose vocab is at most this one's. */
typedef struct mlxd_sampler_scratch mlxd_sampler_scratch;
/* NULL: no memory (20 bytes a token). `vocab` is 1 .. MLXD_LIMIT_VOCAB. */
mlxd_sampler_scratch *mlxd_sampler_scratch_open(uint32_t vocab) MLXD_MUST_CHECK;
void mlxd_sampler_scratch_close(mlxd_sampler_scratch *t);

/* ---- one sequence ---- */

typedef struct mlxd_logprob {
    int32_t token;
    double logprob; /* natural logarithm, <= 0 */
} mlxd_logprob;

typedef struct mlxd_sample {
    int32_t token;
    double logprob;                            /* of `token`; 0 unless logprobs were asked for */
    uint32_t top_count;                        /* min(top_logprobs, vocab) */
    mlxd_logprob top[MLXD_LIMIT_TOP_LOGPROBS]; /* most likely first, ties the lowest id */
} mlxd_sample;

typedef struct mlxd_sampler mlxd_sampler;

/* `row_len`: f32 values of a logits row. `vocab`: the tokenizer's tokens, 1 <= vocab <= row_len
 * <= MLXD_LIMIT_VOCAB; higher ids are never drawn. `prompt`: all ids that precede the first draw.
 * `tokens_max`: draws that will be made at most; with it all memory is reserved here (8 bytes per
 * different token, only where a penalty is on).
 * INVALID: parameters (see check) or a prompt id outside [0, vocab); NOMEM. */
mlxd_err mlxd_sampler_open(mlxd_sampler **out, const mlxd_sampling *params, uint32_t row_len,
                           uint32_t vocab, const int32_t *prompt, size_t prompt_count,
                           size_t tokens_max, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_sampler_close(mlxd_sampler *s);

/* Draws the token at `position` from `logits` (row_len values, not changed) and counts it.
 * CORRUPT: the row holds NaN or infinity; nothing was counted or digested then. More than
 * `tokens_max` draws are a programmer error. */
mlxd_err mlxd_sampler_draw(mlxd_sampler *s, mlxd_sampler_scratch *t, const float *logits,
                           uint64_t position, mlxd_sample *out, mlxd_why *why) MLXD_MUST_CHECK;

/* Hexadecimal digest of the rows so far; false (and "") unless it was asked for. */
bool mlxd_sampler_get_digest(const mlxd_sampler *s, char hex[MLXD_SHA256_HEX]);

#endif
