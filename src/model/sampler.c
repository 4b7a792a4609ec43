/* sampler.c - see sampler.h, which defines every step.
 *
 * A draw copies the row into the scratch, applies bias and penalties there (both touch few tokens),
 * and then either takes the best token or collects the *candidates*: an array of (id, key, weight)
 * in ascending id, from which min_p, top_k and top_p only ever remove. The key is the value's f32
 * bits made monotone, so that "x descending" is "key descending" of an unsigned integer, and the
 * cut of top_k and top_p is found by three rounds of counting over its digits: no sorting, and the
 * time is linear whatever the logits are.
 *
 * The tokens that penalties look at are kept as a small array sorted by id, sized at open.
 */
#include "model/sampler.h"

#include "base/mem.h"
#include "kernel/math.h"
#include "model/philox.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define GREEDY_BELOW 1e-5
#define BIAS_MAX 100.0
#define WEIGHT_ONE 0x1p40f  /* weight of the best token */
#define Z_MIN -27.0f        /* exp(-27) * 2^40 = 2.07, so no candidate weighs nothing */
#define EXP_TERM_MIN -700.0 /* smallest exponent in the sum behind log-probabilities */

/* ---- parameters ---- */

typedef struct real_field {
    const char *name;
    size_t offset; /* of a double in mlxd_sampling */
    double min, max, neutral;
} real_field;

#define REAL(field, min, max, neutral)                                                             \
    { #field, offsetof(mlxd_sampling, field), min, max, neutral }
static const real_field real_fields[] = {
    REAL(temperature, 0.0, 2.0, 1.0),
    REAL(top_p, 0.0, 1.0, 1.0),
    REAL(min_p, 0.0, 1.0, 0.0),
    REAL(repetition_penalty, 0.01, 100.0, 1.0),
    REAL(presence_penalty, -2.0, 2.0, 0.0),
    REAL(frequency_penalty, -2.0, 2.0, 0.0),
};

void mlxd_sampling_init(mlxd_sampling *p) {
    MLXD_ASSERT(p != NULL);
    *p = (mlxd_sampling){.temperature = 0};
    for (size_t i = 0; i < MLXD_COUNT_OF(real_fields); i++)
        memcpy((char *)p + real_fields[i].offset, &real_fields[i].neutral, sizeof(double));
}

bool mlxd_sampling_is_greedy(const mlxd_sampling *p) {
    return p->temperature < GREEDY_BELOW;
}

static mlxd_err check_bias(const mlxd_sampling *p, uint32_t vocab, mlxd_why *why) {
    if (p->bias_count > MLXD_LIMIT_LOGIT_BIAS)
        return mlxd_fail(why, MLXD_ERR_INVALID, "logit_bias: at most %d entries, got %zu",
                         MLXD_LIMIT_LOGIT_BIAS, p->bias_count);
    size_t banned = 0;
    for (size_t i = 0; i < p->bias_count; i++) {
        mlxd_logit_bias b = p->bias[i];
        if (b.token < 0 || (uint32_t)b.token >= vocab)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "logit_bias: token %d is not in the vocabulary (0 to %u)",
                             (int)b.token, (unsigned)(vocab - 1));
        if (!(b.bias >= -BIAS_MAX && b.bias <= BIAS_MAX))
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "logit_bias: token %d: expected -100 to 100, got %g", (int)b.token,
                             b.bias);
        for (size_t j = 0; j < i; j++)
            if (p->bias[j].token == b.token)
                return mlxd_fail(why, MLXD_ERR_INVALID, "logit_bias: token %d is given twice",
                                 (int)b.token);
        banned += b.bias == -BIAS_MAX;
    }
    if (banned == vocab)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "logit_bias: every token of the vocabulary is banned");
    return MLXD_OK;
}

mlxd_err mlxd_sampling_check(const mlxd_sampling *p, uint32_t vocab, const char **param,
                             mlxd_why *why) {
    MLXD_ASSERT(p != NULL && vocab > 0);
    const char *unused;
    if (!param)
        param = &unused;
    for (size_t i = 0; i < MLXD_COUNT_OF(real_fields); i++) {
        const real_field *f = &real_fields[i];
        double v;
        memcpy(&v, (const char *)p + f->offset, sizeof v);
        *param = f->name;
        if (!(v >= f->min && v <= f->max)) /* also refuses NaN */
            return mlxd_fail(why, MLXD_ERR_INVALID, "%s: expected %g to %g, got %g", f->name,
                             f->min, f->max, v);
    }
    *param = "top_k";
    if (p->top_k < -1)
        return mlxd_fail(why, MLXD_ERR_INVALID, "top_k: expected -1 or more, got %d",
                         (int)p->top_k);
    *param = "top_logprobs";
    if (p->top_logprobs < 0 || p->top_logprobs > MLXD_LIMIT_TOP_LOGPROBS)
        return mlxd_fail(why, MLXD_ERR_INVALID, "top_logprobs: expected 0 to %d, got %d",
                         MLXD_LIMIT_TOP_LOGPROBS, (int)p->top_logprobs);
    if (p->top_logprobs > 0 && !p->logprobs)
        return mlxd_fail(why, MLXD_ERR_INVALID, "top_logprobs: needs logprobs to be true");
    *param = "logit_bias";
    return check_bias(p, vocab, why);
}

/* ---- working memory ---- */

typedef struct candidate {
    int32_t token;
    uint32_t key; /* larger = larger x */
    uint64_t weight;
} candidate;

#define DIGIT_BITS 11 /* keys are cut into digits of 11, 11 and 10 bits */

struct mlxd_sampler_scratch {
    uint32_t vocab;
    uint32_t count;                  /* candidates in use, in ascending token id */
    uint64_t weight_sum;             /* of them */
    float *x;                        /* [vocab] the row after bias and penalties */
    candidate *candidates;           /* [vocab] */
    uint64_t mass[1u << DIGIT_BITS]; /* per value of the digit that is looked at */
};

mlxd_sampler_scratch *mlxd_sampler_scratch_open(uint32_t vocab) {
    MLXD_ASSERT(vocab >= 1 && vocab <= MLXD_LIMIT_VOCAB);
    mlxd_sampler_scratch *t = mlxd_mem_new(1, sizeof *t);
    if (!t)
        return NULL;
    t->vocab = vocab;
    t->x = mlxd_mem_new(vocab, sizeof *t->x);
    t->candidates = mlxd_mem_new(vocab, sizeof *t->candidates);
    if (!t->x || !t->candidates) {
        mlxd_sampler_scratch_close(t);
        return NULL;
    }
    return t;
}

void mlxd_sampler_scratch_close(mlxd_sampler_scratch *t) {
    if (!t)
        return;
    mlxd_mem_free(t->x);
    mlxd_mem_free(t->candidates);
    mlxd_mem_free(t);
}

/* ---- one sequence ---- */

typedef struct seen_token {
    int32_t token;
    uint32_t drawn; /* times in the output; 0 = only in the prompt */
} seen_token;

struct mlxd_sampler {
    mlxd_sampling params;
    mlxd_logit_bias *bias; /* [params.bias_count] owned; params.bias points here */
    uint32_t row_len;
    uint32_t vocab;
    size_t draws_left;
    float z_min;      /* of candidates: from Z_MIN and min_p */
    bool penalize;    /* some penalty is on, so `seen` is kept */
    seen_token *seen; /* [seen_max] sorted by token; the prompt's only for repetition_penalty */
    size_t seen_count;
    size_t seen_max;
    mlxd_sha256 *digest; /* NULL unless asked for */
};

/* Checks the prompt's ids and counts the different ones; sets their bits in `bits` unless NULL. */
static mlxd_err mark_prompt(const int32_t *prompt, size_t count, uint32_t vocab, uint64_t *bits,
                            size_t *distinct, mlxd_why *why) {
    *distinct = 0;
    for (size_t i = 0; i < count; i++) {
        if (prompt[i] < 0 || (uint32_t)prompt[i] >= vocab)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "prompt: token %d at index %zu is not in the vocabulary (0 to %u)",
                             (int)prompt[i], i, (unsigned)(vocab - 1));
        if (!bits)
            continue;
        uint64_t bit = UINT64_C(1) << (prompt[i] & 63), *word = &bits[prompt[i] >> 6];
        *distinct += !(*word & bit);
        *word |= bit;
    }
    return MLXD_OK;
}

/* Allocates `seen` for the prompt and all draws to come, and enters the prompt's tokens. */
static mlxd_err open_seen(mlxd_sampler *s, const int32_t *prompt, size_t prompt_count,
                          mlxd_why *why) {
    uint64_t *bits = NULL;
    size_t distinct;
    if (s->params.repetition_penalty != 1.0) {
        bits = mlxd_mem_new(s->vocab / 64 + 1, sizeof *bits);
        if (!bits)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "sampler: no memory for the prompt's tokens");
    }
    mlxd_err err = mark_prompt(prompt, prompt_count, s->vocab, bits, &distinct, why);
    if (err == MLXD_OK && s->penalize) {
        s->seen_max = distinct + MLXD_MIN(s->draws_left, s->vocab - distinct);
        s->seen = mlxd_mem_new(s->seen_max, sizeof *s->seen);
        if (!s->seen)
            err = mlxd_fail(why, MLXD_ERR_NOMEM, "sampler: no memory for %zu token counts",
                            s->seen_max);
    }
    for (uint32_t i = 0; err == MLXD_OK && bits && i < s->vocab; i++)
        if (bits[i >> 6] >> (i & 63) & 1)
            s->seen[s->seen_count++] = (seen_token){.token = (int32_t)i};
    mlxd_mem_free(bits);
    return err;
}

mlxd_err mlxd_sampler_open(mlxd_sampler **out, const mlxd_sampling *params, uint32_t row_len,
                           uint32_t vocab, const int32_t *prompt, size_t prompt_count,
                           size_t tokens_max, mlxd_why *why) {
    MLXD_ASSERT(out != NULL && params != NULL && (prompt != NULL || prompt_count == 0));
    MLXD_ASSERT(vocab >= 1 && vocab <= row_len && row_len <= MLXD_LIMIT_VOCAB);
    *out = NULL;
    mlxd_err err = mlxd_sampling_check(params, vocab, NULL, why);
    if (err != MLXD_OK)
        return err;
    mlxd_sampler *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "sampler: no memory");
    s->params = *params;
    s->row_len = row_len;
    s->vocab = vocab;
    s->draws_left = tokens_max;
    s->z_min = params->min_p > 1e-12 ? (float)mlxd_log_f64(params->min_p) : Z_MIN;
    s->z_min = MLXD_MAX(s->z_min, Z_MIN);
    s->penalize = params->repetition_penalty != 1.0 || params->presence_penalty != 0.0 ||
                  params->frequency_penalty != 0.0;
    err = open_seen(s, prompt, prompt_count, why);
    if (err != MLXD_OK)
        goto fail;
    s->bias = mlxd_mem_new(params->bias_count, sizeof *s->bias);
    s->digest = params->digest ? mlxd_sha256_open() : NULL;
    if (!s->bias || (params->digest && !s->digest)) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "sampler: no memory");
        goto fail;
    }
    if (params->bias_count)
        memcpy(s->bias, params->bias, params->bias_count * sizeof *s->bias);
    s->params.bias = s->bias;
    *out = s;
    return MLXD_OK;
fail:
    mlxd_sampler_close(s);
    return err;
}

void mlxd_sampler_close(mlxd_sampler *s) {
    if (!s)
        return;
    mlxd_sha256_close(s->digest);
    mlxd_mem_free(s->bias);
    mlxd_mem_free(s->seen);
    mlxd_mem_free(s);
}

bool mlxd_sampler_get_digest(const mlxd_sampler *s, char hex[MLXD_SHA256_HEX]) {
    MLXD_ASSERT(s != NULL);
    hex[0] = '\0';
    if (!s->digest)
        return false;
    uint8_t digest[MLXD_SHA256_BYTES];
    mlxd_sha256_get(s->digest, digest);
    mlxd_hex(digest, sizeof digest, hex);
    return true;
}

/* ---- steps 1 to 3: the row ---- */

static mlxd_err check_row(const mlxd_sampler *s, const float *logits, uint64_t position,
                          mlxd_why *why) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < s->row_len; i++)
        bad += !(fabsf(logits[i]) <= FLT_MAX);
    if (bad == 0)
        return MLXD_OK;
    uint32_t first = 0;
    while (fabsf(logits[first]) <= FLT_MAX)
        first++;
    return mlxd_fail(why, MLXD_ERR_CORRUPT,
                     "logits for position %llu: %u of %u values are not finite, first token %u",
                     (unsigned long long)position, (unsigned)bad, (unsigned)s->row_len,
                     (unsigned)first);
}

static void add_bias(const mlxd_sampler *s, float *x) {
    for (size_t i = 0; i < s->params.bias_count; i++) {
        mlxd_logit_bias b = s->bias[i];
        x[b.token] = b.bias == -BIAS_MAX ? -INFINITY : x[b.token] + (float)b.bias;
    }
}

static void add_penalties(const mlxd_sampler *s, float *x) {
    float repetition = (float)s->params.repetition_penalty;
    float presence = (float)s->params.presence_penalty;
    float frequency = (float)s->params.frequency_penalty;
    for (size_t i = 0; i < s->seen_count; i++) {
        seen_token seen = s->seen[i];
        float v = x[seen.token];
        if (v == -INFINITY) /* banned */
            continue;
        v = v > 0.0f ? v / repetition : v * repetition;
        v = fminf(fmaxf(v, -FLT_MAX), FLT_MAX);
        if (seen.drawn) {
            v -= frequency * (float)seen.drawn;
            v -= presence;
        }
        x[seen.token] = v;
    }
}

/* Enters one more draw of `token`. open() made room for all of them. */
static void count_token(mlxd_sampler *s, int32_t token) {
    size_t lo = 0, hi = s->seen_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->seen[mid].token < token)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == s->seen_count || s->seen[lo].token != token) {
        MLXD_ASSERT(s->seen_count < s->seen_max);
        memmove(&s->seen[lo + 1], &s->seen[lo], (s->seen_count - lo) * sizeof *s->seen);
        s->seen[lo] = (seen_token){.token = token};
        s->seen_count++;
    }
    s->seen[lo].drawn++;
}

static int32_t find_best(const float *x, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* ---- steps 4 to 8: the candidates ---- */

/* The bits of `x` as an integer of the same order; both zeros give the same one. */
static uint32_t get_key(float x) {
    float v = x + 0.0f; /* -0 becomes 0 */
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Steps 4 and 5. Afterwards t->x holds z. */
static void collect(const mlxd_sampler *s, mlxd_sampler_scratch *t) {
    float *x = t->x;
    float max = x[find_best(x, s->vocab)], temperature = (float)s->params.temperature;
    t->count = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float z = (x[i] - max) / temperature;
        if (z < s->z_min)
            continue;
        t->candidates[t->count++] = (candidate){.token = (int32_t)i, .key = get_key(x[i])};
        x[i] = z;
    }
    MLXD_ASSERT(t->count > 0);
}

static void weigh(mlxd_sampler_scratch *t) {
    t->weight_sum = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        candidate *c = &t->candidates[i];
        c->weight = (uint64_t)(mlxd_exp_f32(t->x[c->token]) * WEIGHT_ONE);
        t->weight_sum += c->weight;
    }
}

/* Steps 6 and 7: keeps the candidates with the largest keys, ties the lowest id, until their mass
 * reaches `need`, 1 <= need <= mass of all. A candidate's mass is its weight or 1. */
static void keep_top(mlxd_sampler_scratch *t, uint64_t need, bool by_weight) {
    MLXD_ASSERT(need >= 1 && need <= (by_weight ? t->weight_sum : t->count));
    uint32_t cut = 0; /* the leading digits of the last key that is kept */
    for (int shift = 32; shift > 0;) {
        int bits = MLXD_MIN(DIGIT_BITS, shift), above = shift;
        shift -= bits;
        uint32_t digit = (1u << bits) - 1;
        memset(t->mass, 0, sizeof t->mass);
        for (uint32_t i = 0; i < t->count; i++) {
            const candidate *c = &t->candidates[i];
            if ((uint64_t)c->key >> above == cut)
                t->mass[c->key >> shift & digit] += by_weight ? c->weight : 1;
        }
        for (; need > t->mass[digit]; digit--)
            need -= t->mass[digit];
        cut = cut << bits | digit;
    }
    uint32_t kept = 0;
    t->weight_sum = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        candidate c = t->candidates[i];
        if (c.key < cut || (c.key == cut && need == 0))
            continue;
        if (c.key == cut)
            need -= MLXD_MIN(need, by_weight ? c.weight : 1);
        t->candidates[kept++] = c;
        t->weight_sum += c.weight;
    }
    t->count = kept;
}

static void keep_top_p(mlxd_sampler_scratch *t, double top_p) {
    double share = top_p * (double)t->weight_sum;
    uint64_t need = (uint64_t)share;
    need += (double)need < share; /* the smallest integer not below `share` */
    keep_top(t, MLXD_MIN(MLXD_MAX(need, 1), t->weight_sum), true);
}

/* Upper half of the 128-bit product. */
static uint64_t multiply_high(uint64_t a, uint64_t b) {
    uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    uint64_t mid = ah * bl + (al * bl >> 32); /* cannot overflow: (2^32-1)^2 + 2^32-1 < 2^64 */
    uint64_t mid2 = al * bh + (uint32_t)mid;
    return ah * bh + (mid >> 32) + (mid2 >> 32);
}

static int32_t pick(const mlxd_sampler *s, const mlxd_sampler_scratch *t, uint64_t position) {
    mlxd_philox_block counter = {
        {(uint32_t)position, (uint32_t)(position >> 32), s->params.choice, 0}};
    mlxd_philox_block random = mlxd_philox_get(counter, s->params.seed);
    uint64_t r = multiply_high(random.word[0] | (uint64_t)random.word[1] << 32, t->weight_sum);
    MLXD_ASSERT(r < t->weight_sum);
    uint32_t i = 0;
    for (; r >= t->candidates[i].weight; i++)
        r -= t->candidates[i].weight;
    return t->candidates[i].token;
}

static int32_t draw_candidate(const mlxd_sampler *s, mlxd_sampler_scratch *t, uint64_t position) {
    collect(s, t);
    if (s->params.top_k > 0 && (uint32_t)s->params.top_k < t->count)
        keep_top(t, (uint32_t)s->params.top_k, false);
    weigh(t);
    if (s->params.top_p < 1.0)
        keep_top_p(t, s->params.top_p);
    return pick(s, t, position);
}

/* ---- log-probabilities ---- */

/* Puts the `n` largest logits, with their ids, into top[], sorted. */
static void find_top(const float *logits, uint32_t vocab, mlxd_logprob *top, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double v = (double)logits[i];
        if (count == n && v <= top[n - 1].logprob)
            continue;
        uint32_t at = count < n ? count++ : n - 1;
        for (; at > 0 && v > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (mlxd_logprob){(int32_t)i, v};
    }
}

static void report_logprobs(const mlxd_sampler *s, const float *logits, mlxd_sample *out) {
    double max = (double)logits[find_best(logits, s->vocab)], sum = 0.0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        double d = (double)logits[i] - max;
        if (d >= EXP_TERM_MIN)
            sum += mlxd_exp_f64(d);
    }
    double log_sum = mlxd_log_f64(sum);
    out->logprob = (double)logits[out->token] - max - log_sum;
    out->top_count = MLXD_MIN((uint32_t)s->params.top_logprobs, s->vocab);
    if (out->top_count)
        find_top(logits, s->vocab, out->top, out->top_count);
    for (uint32_t i = 0; i < out->top_count; i++)
        out->top[i].logprob = out->top[i].logprob - max - log_sum;
}

mlxd_err mlxd_sampler_draw(mlxd_sampler *s, mlxd_sampler_scratch *t, const float *logits,
                           uint64_t position, mlxd_sample *out, mlxd_why *why) {
    MLXD_ASSERT(s != NULL && t != NULL && logits != NULL && out != NULL);
    MLXD_ASSERT(t->vocab >= s->vocab);
    MLXD_ASSERT(s->draws_left > 0);
    mlxd_err err = check_row(s, logits, position, why);
    if (err != MLXD_OK)
        return err;
    memcpy(t->x, logits, s->vocab * sizeof *t->x);
    add_bias(s, t->x);
    add_penalties(s, t->x);
    *out = (mlxd_sample){.token = mlxd_sampling_is_greedy(&s->params)
                                      ? find_best(t->x, s->vocab)
                                      : draw_candidate(s, t, position)};
    if (s->params.logprobs)
        report_logprobs(s, logits, out);
    if (s->penalize)
        count_token(s, out->token);
    if (s->digest)
        mlxd_sha256_add(s->digest, logits, s->row_len * sizeof *logits);
    s->draws_left--;
    return MLXD_OK;
}
