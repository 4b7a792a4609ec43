/* config.c - see config.h. Keys are "<architecture>.<what>" as in the GGUF specification. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct reader {
    const mlxd_gguf *g;
    const char *arch;
    mlxd_why *why;
    mlxd_err err; /* sticky: the first failure */
};

/* Integer key in [min, max]; `fallback` when absent (0 = the key is required). */
static uint32_t read_u32(struct reader *r, const char *what, uint64_t min, uint64_t max,
                         uint64_t fallback) {
    char key[96];
    uint64_t v = fallback;
    if (r->err)
        return 0;
    snprintf(key, sizeof key, "%s.%s", r->arch, what);
    mlxd_err err = mlxd_gguf_get_u64(r->g, key, &v, r->why);
    if (err == MLXD_ERR_NOTFOUND && fallback)
        err = MLXD_OK;
    if (err == MLXD_ERR_NOTFOUND)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is missing", key);
    if (!err && (v < min || v > max))
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is %llu, expected %llu..%llu", key,
                        (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
    r->err = err;
    return err ? 0 : (uint32_t)v;
}

static double read_f64(struct reader *r, const char *what, double min, double max,
                       double fallback) {
    char key[96];
    double v = fallback;
    if (r->err)
        return 0;
    snprintf(key, sizeof key, "%s.%s", r->arch, what);
    mlxd_err err = mlxd_gguf_get_f64(r->g, key, &v, r->why);
    if (err == MLXD_ERR_NOTFOUND && fallback > 0)
        err = MLXD_OK;
    if (err == MLXD_ERR_NOTFOUND)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is missing", key);
    if (!err && !(v >= min && v <= max))
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "metadata key %s is %g, expected %g..%g", key, v,
                        min, max);
    r->err = err;
    return v;
}

static mlxd_err copy_string(const mlxd_gguf *g, const char *key, char *out, size_t size,
                            mlxd_why *why) {
    mlxd_slice s;
    mlxd_err err = mlxd_gguf_get_str(g, key, &s, why);
    if (err)
        return err;
    size_t n = MLXD_MIN(s.len, size - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = s.data[i] < 0x20 || s.data[i] == 0x7f ? '?' : (char)s.data[i];
    out[n] = 0;
    return MLXD_OK;
}

/* Only "none" and "linear" change nothing but the position; the others bend frequencies. */
static mlxd_err read_rope_scaling(mlxd_config *c, struct reader *r) {
    char key[96];
    mlxd_slice type;
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->arch);
    c->rope_scale = 1;
    mlxd_err err = mlxd_gguf_get_str(r->g, key, &type, r->why);
    if (!err && mlxd_slice_eq(type, mlxd_slice_str("linear")))
        c->rope_scale = read_f64(r, "rope.scaling.factor", 1e-3, 1e4, 0);
    else if (!err && !mlxd_slice_eq(type, mlxd_slice_str("none")))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "rope scaling \"%.*s\" is not supported",
                         (int)MLXD_MIN(type.len, (size_t)32), (const char *)type.data);
    else if (err == MLXD_ERR_NOTFOUND && !r->err)
        c->rope_scale = read_f64(r, "rope.scale_linear", 1e-3, 1e4, 1);
    else if (err && err != MLXD_ERR_NOTFOUND)
        return err;
    if (mlxd_gguf_tensor_find(r->g, "rope_freqs.weight"))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "rope frequency factors (tensor rope_freqs.weight) are not supported");
    return r->err;
}

static mlxd_err check_relations(const mlxd_config *c, const mlxd_gguf *g, mlxd_why *why) {
    if (c->heads % c->kv_heads != 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%u attention heads are no multiple of %u key/value heads", c->heads,
                         c->kv_heads);
    if (c->rope_dims % 2 != 0 || c->rope_dims > c->head_dim)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "rope dimension count is %u, expected an even number up to %u",
                         c->rope_dims, c->head_dim);
    if (mlxd_gguf_has(g, "llama.expert_count")) {
        uint64_t n = 0;
        mlxd_err err = mlxd_gguf_get_u64(g, "llama.expert_count", &n, why);
        if (err)
            return err;
        if (n > 0)
            return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                             "mixture-of-experts (%llu experts) is not supported",
                             (unsigned long long)n);
    }
    return MLXD_OK;
}

mlxd_err mlxd_config_read(mlxd_config *c, const mlxd_gguf *g, mlxd_why *why) {
    *c = (mlxd_config){0};
    mlxd_err err = copy_string(g, "general.architecture", c->arch, sizeof c->arch, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "metadata key general.architecture is missing");
    if (err)
        return err;
    if (strcmp(c->arch, "llama") != 0)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "architecture \"%s\" is not supported (supported: llama)", c->arch);
    if (copy_string(g, "general.name", c->name, sizeof c->name, NULL) != MLXD_OK)
        snprintf(c->name, sizeof c->name, "%s", c->arch);

    struct reader r = {g, c->arch, why, MLXD_OK};
    c->layers = read_u32(&r, "block_count", 1, MLXD_LIMIT_LAYERS, 0);
    c->hidden = read_u32(&r, "embedding_length", 1, MLXD_LIMIT_HIDDEN, 0);
    c->ffn = read_u32(&r, "feed_forward_length", 1, MLXD_LIMIT_FFN, 0);
    c->heads = read_u32(&r, "attention.head_count", 1, MLXD_LIMIT_HEADS, 0);
    c->context = read_u32(&r, "context_length", 1, MLXD_LIMIT_CONTEXT, 0);
    c->rms_eps = (float)read_f64(&r, "attention.layer_norm_rms_epsilon", 0, 1, 0);
    c->rope_theta = read_f64(&r, "rope.freq_base", 1, 1e12, 10000);
    if (r.err)
        return r.err;
    c->kv_heads = read_u32(&r, "attention.head_count_kv", 1, c->heads, c->heads);
    bool has_head_dim = mlxd_gguf_has(g, "llama.attention.key_length");
    if (!r.err && !has_head_dim && c->hidden % c->heads != 0)
        return mlxd_fail(why, MLXD_ERR_DATA, "hidden size %u is no multiple of %u heads", c->hidden,
                         c->heads);
    c->head_dim = read_u32(&r, "attention.key_length", 2, MLXD_LIMIT_HEAD_DIM,
                           MLXD_MAX(c->hidden / c->heads, 1u));
    uint32_t v_dim = read_u32(&r, "attention.value_length", 2, MLXD_LIMIT_HEAD_DIM, c->head_dim);
    c->rope_dims = read_u32(&r, "rope.dimension_count", 2, MLXD_LIMIT_HEAD_DIM, c->head_dim);
    if (!r.err && v_dim != c->head_dim)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "value length %u differs from key length %u: not supported", v_dim,
                         c->head_dim);
    if (!r.err)
        r.err = read_rope_scaling(c, &r);
    if (r.err)
        return r.err;

    const mlxd_gguf_tensor *embd = mlxd_gguf_tensor_find(g, "token_embd.weight");
    if (!embd || embd->n_dims != 2 || embd->dims[1] < 1 || embd->dims[1] > MLXD_LIMIT_VOCAB)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "tensor token_embd.weight is missing or has no sensible shape");
    c->vocab = (uint32_t)embd->dims[1];
    c->tied = mlxd_gguf_tensor_find(g, "output.weight") == NULL;
    return check_relations(c, g, why);
}
