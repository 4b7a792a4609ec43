/* generation_config.c - see generation_config.h. */
#include "model/generation_config.h"

#include "format/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(mlxd_sampling, member)

static const struct real {
    const char *name, *key; /* in JSON, in GGUF */
    size_t offset;
} reals[] = {
    {"temperature", "general.sampling.temp", AT(temperature)},
    {"top_p", "general.sampling.top_p", AT(top_p)},
    {"min_p", "general.sampling.min_p", AT(min_p)},
    {"repetition_penalty", "general.sampling.penalty_repeat", AT(repetition_penalty)},
};

void mlxd_generation_config_init(mlxd_generation_config *c) {
    *c = (mlxd_generation_config){.max_tokens = 512};
    mlxd_sampling_init(&c->sampling);
    c->sampling.temperature = 0.7;
}

static void store(mlxd_sampling *s, const struct real *r, double v) {
    memcpy((char *)s + r->offset, &v, sizeof v);
}

/* The sampler knows the ranges; the vocabulary only matters for a bias, which there is none of. */
static mlxd_err check(const mlxd_generation_config *c, mlxd_why *why) {
    return mlxd_sampling_check(&c->sampling, 1, NULL, why) ? MLXD_ERR_DATA : MLXD_OK;
}

/* ---- JSON ---- */

/* A member that is there and not null. */
static const mlxd_json *find(const mlxd_json *root, const char *name) {
    const mlxd_json *v = mlxd_json_find(root, name);
    return v && mlxd_json_get_kind(v) != MLXD_JSON_NULL ? v : NULL;
}

static mlxd_err wrong_type(const char *name, const char *expected, const mlxd_json *v,
                           mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected %s, got %s", name, expected,
                     mlxd_json_kind_name(mlxd_json_get_kind(v)));
}

static mlxd_err read_integer(const mlxd_json *root, const char *name, int64_t min, int64_t max,
                             int64_t *out, mlxd_why *why) {
    const mlxd_json *v = find(root, name);
    int64_t value;
    if (!v)
        return MLXD_OK;
    mlxd_json_kind kind = mlxd_json_get_kind(v);
    if (kind != MLXD_JSON_INT && kind != MLXD_JSON_DOUBLE)
        return wrong_type(name, "an integer", v, why);
    if (mlxd_json_get_integral(v, &value) || value < min || value > max)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected an integer from %lld to %lld", name,
                         (long long)min, (long long)max);
    *out = value;
    return MLXD_OK;
}

static mlxd_err add_end(mlxd_generation_config *c, const mlxd_json *v, mlxd_why *why) {
    int64_t id;
    if (mlxd_json_get_kind(v) != MLXD_JSON_INT)
        return wrong_type("eos_token_id", "a token id or a list of them", v, why);
    if (mlxd_json_get_int64(v, &id) || id < 0 || id >= MLXD_LIMIT_VOCAB)
        return mlxd_fail(why, MLXD_ERR_DATA, "eos_token_id: expected token ids from 0 to %u",
                         MLXD_LIMIT_VOCAB - 1);
    if (c->n_ends == MLXD_GENERATION_ENDS)
        return mlxd_fail(why, MLXD_ERR_DATA, "eos_token_id: more than %d tokens",
                         MLXD_GENERATION_ENDS);
    c->ends[c->n_ends++] = (int32_t)id;
    return MLXD_OK;
}

static mlxd_err read_ends(mlxd_generation_config *c, const mlxd_json *root, mlxd_why *why) {
    const mlxd_json *v = find(root, "eos_token_id");
    mlxd_err err = MLXD_OK;
    if (!v)
        return MLXD_OK;
    if (mlxd_json_get_kind(v) != MLXD_JSON_ARRAY)
        return add_end(c, v, why);
    for (const mlxd_json *e = mlxd_json_first(v, NULL); e && !err; e = mlxd_json_next(v, e, NULL))
        err = add_end(c, e, why);
    return err;
}

static mlxd_err read_sampling(mlxd_generation_config *c, const mlxd_json *root, mlxd_why *why) {
    int64_t top_k = c->sampling.top_k, max_tokens = c->max_tokens;
    const mlxd_json *sample = find(root, "do_sample");
    bool sampled = true;
    for (size_t i = 0; i < MLXD_COUNT_OF(reals); i++) {
        const mlxd_json *v = find(root, reals[i].name);
        double value;
        if (v && mlxd_json_get_double(v, &value))
            return wrong_type(reals[i].name, "a number", v, why);
        if (v)
            store(&c->sampling, &reals[i], value);
    }
    if (sample && mlxd_json_get_bool(sample, &sampled))
        return wrong_type("do_sample", "a boolean", sample, why);
    mlxd_err err = read_integer(root, "top_k", -1, INT32_MAX, &top_k, why);
    if (!err)
        err = read_integer(root, "max_new_tokens", 1, MLXD_LIMIT_CONTEXT, &max_tokens, why);
    c->sampling.top_k = (int32_t)top_k;
    c->max_tokens = (uint32_t)max_tokens;
    if (!err)
        err = check(c, why);
    if (!sampled)
        c->sampling.temperature = 0;
    return err;
}

static mlxd_err parse(mlxd_slice text, mlxd_json_doc **doc, mlxd_why *why) {
    mlxd_err err = mlxd_json_parse(doc, text, MLXD_LIMIT_JSON_DEPTH, why);
    if (err == MLXD_ERR_RANGE)
        err = MLXD_ERR_DATA;
    if (!err && mlxd_json_get_kind(mlxd_json_root(*doc)) != MLXD_JSON_OBJECT) {
        err = mlxd_fail(why, MLXD_ERR_DATA, "expected an object, got %s",
                        mlxd_json_kind_name(mlxd_json_get_kind(mlxd_json_root(*doc))));
        mlxd_json_close(*doc);
        *doc = NULL;
    }
    return err;
}

mlxd_err mlxd_generation_config_read_json(mlxd_generation_config *c, mlxd_slice text,
                                          mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_err err = parse(text, &doc, why);
    if (!err)
        err = read_sampling(c, mlxd_json_root(doc), why);
    if (!err)
        err = read_ends(c, mlxd_json_root(doc), why);
    mlxd_json_close(doc);
    return err;
}

mlxd_err mlxd_generation_config_read_ends(mlxd_generation_config *c, mlxd_slice text,
                                          mlxd_why *why) {
    mlxd_json_doc *doc;
    if (c->n_ends > 0)
        return MLXD_OK;
    mlxd_err err = parse(text, &doc, why);
    if (!err)
        err = read_ends(c, mlxd_json_root(doc), why);
    mlxd_json_close(doc);
    return err;
}

/* ---- GGUF ---- */

/* A single-precision 0.95 is meant as 0.95, as generation_config.json has it, not 0.949999988. */
static double as_written(double v) {
    char text[32];
    snprintf(text, sizeof text, "%.7g", v);
    return strtod(text, NULL);
}

mlxd_err mlxd_generation_config_read_gguf(mlxd_generation_config *c, const mlxd_gguf *g,
                                          mlxd_why *why) {
    static const char top_k[] = "general.sampling.top_k";
    mlxd_err err = MLXD_OK;
    for (size_t i = 0; i < MLXD_COUNT_OF(reals) && !err; i++) {
        double v;
        if (!mlxd_gguf_has(g, reals[i].key))
            continue;
        err = mlxd_gguf_get_f64(g, reals[i].key, &v, why);
        if (!err)
            store(&c->sampling, &reals[i], as_written(v));
    }
    if (!err && mlxd_gguf_has(g, top_k)) {
        uint64_t k;
        err = mlxd_gguf_get_u64(g, top_k, &k, why);
        if (!err && k > INT32_MAX)
            err = mlxd_fail(why, MLXD_ERR_DATA, "%s: %llu is out of range", top_k,
                            (unsigned long long)k);
        if (!err)
            c->sampling.top_k = (int32_t)k;
    }
    if (!err && check(c, why))
        err = mlxd_fail_in(why, MLXD_ERR_DATA, "general.sampling");
    return err;
}
