/* hf_config.c - see hf_config.h. */
#include "model/hf_config.h"

#include "base/mem.h"
#include "format/json.h"
#include "format/names.h"
#include "model/hf_name.h"

#include <stdio.h>
#include <string.h>

struct exception {
    char canonical[MLXD_LIMIT_TENSOR_NAME + 16];
    mlxd_hf_rule rule;
};

struct mlxd_hf_config {
    bool post_norms, tied, blocks, quantized;
    mlxd_hf_rule rule;
    struct exception *exceptions;
    uint32_t n_exceptions;
    uint32_t *order; /* by canonical name */
};

/* The modes, with what their parameters are when they are not given. */
static const struct {
    const char *name;
    mlxd_hf_rule rule;
} modes[] = {
    {"affine", {MLXD_ENCODING_AFFINE, 4, 64}},
    {"mxfp4", {MLXD_ENCODING_MXFP4, 4, 32}},
    {"mxfp8", {MLXD_ENCODING_MXFP8, 8, 32}},
    {"nvfp4", {MLXD_ENCODING_NVFP4, 4, 16}},
};

/* ---- one rule ---- */

static bool is_possible(const mlxd_hf_rule *r) {
    for (size_t i = 0; i < MLXD_COUNT_OF(modes); i++)
        if (modes[i].rule.kind == r->kind && r->kind != MLXD_ENCODING_AFFINE)
            return r->bits == modes[i].rule.bits && r->group == modes[i].rule.group;
    return ((r->bits >= 2 && r->bits <= 6) || r->bits == 8) &&
           (r->group == 32 || r->group == 64 || r->group == 128);
}

static bool take_byte(const mlxd_json *o, const char *key, uint8_t *out) {
    const mlxd_json *v = mlxd_json_find(o, key);
    int64_t n;
    if (!v)
        return true;
    if (mlxd_json_get_int64(v, &n) || n < 0 || n > UINT8_MAX)
        return false;
    *out = (uint8_t)n;
    return true;
}

/* The rule of an object with group_size, bits and mode; `where` names it in texts. */
static mlxd_err take_rule(const mlxd_json *o, const char *path, const char *where,
                          mlxd_hf_rule *out, mlxd_why *why) {
    const mlxd_json *mode = mlxd_json_find(o, "mode");
    size_t i = 0;
    while (mode && i < MLXD_COUNT_OF(modes) && !mlxd_json_is_str(mode, modes[i].name))
        i++;
    if (i == MLXD_COUNT_OF(modes)) {
        mlxd_slice text = mlxd_slice_str("no string");
        (void)!mlxd_json_get_str(mode, &text);
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "%s: %s: mode %.*s is not supported (supported: affine, mxfp4, mxfp8, "
                         "nvfp4)",
                         path, where, (int)MLXD_MIN(text.len, (size_t)40), (const char *)text.data);
    }
    *out = modes[i].rule;
    if (!take_byte(o, "bits", &out->bits) || !take_byte(o, "group_size", &out->group) ||
        !is_possible(out))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "%s: %s: mode %s with these bits and group_size is not supported", path,
                         where, modes[i].name);
    return MLXD_OK;
}

/* ---- exceptions ---- */

static mlxd_slice exception_at(const void *ctx, uint32_t i) {
    return mlxd_slice_str(((const struct exception *)ctx)[i].canonical);
}

/* One member of "quantization": a parameter of all, or an exception. */
static mlxd_err take_member(mlxd_hf_config *c, mlxd_slice key, const mlxd_json *v, const char *path,
                            mlxd_why *why) {
    char stored[MLXD_LIMIT_TENSOR_NAME + 16];
    mlxd_hf_name name;
    bool on = false, object = mlxd_json_get_kind(v) == MLXD_JSON_OBJECT;
    if (!object && mlxd_json_get_bool(v, &on))
        return MLXD_OK;
    int n = snprintf(stored, sizeof stored, "%s.weight", (const char *)key.data);
    if (n < 0 || n >= MLXD_LIMIT_TENSOR_NAME)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: a module's name has %zu bytes", path, key.len);
    if (!mlxd_hf_name_read(stored, c->post_norms, &name) || on)
        return MLXD_OK; /* of the vision part; or "true": as all others */
    struct exception *e = &c->exceptions[c->n_exceptions];
    e->rule.kind = MLXD_ENCODING_OTHER;
    mlxd_err err = object ? take_rule(v, path, stored, &e->rule, why) : MLXD_OK;
    if (err)
        return err;
    snprintf(e->canonical, sizeof e->canonical, "%s", name.canonical);
    c->order[c->n_exceptions] = c->n_exceptions;
    c->n_exceptions++;
    return MLXD_OK;
}

static mlxd_err take_quantization(mlxd_hf_config *c, const mlxd_json *o, const char *path,
                                  mlxd_why *why) {
    mlxd_slice key;
    mlxd_err err = take_rule(o, path, "quantization", &c->rule, why);
    if (err)
        return err;
    c->quantized = true;
    c->exceptions = mlxd_mem_new(mlxd_json_count(o), sizeof *c->exceptions);
    c->order = mlxd_mem_new(mlxd_json_count(o), sizeof *c->order);
    if (!c->exceptions || !c->order)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    for (const mlxd_json *v = mlxd_json_first(o, &key); v && !err; v = mlxd_json_next(o, v, &key))
        err = take_member(c, key, v, path, why);
    if (err)
        return err;
    uint32_t again = mlxd_names_sort(c->order, c->n_exceptions, exception_at, c->exceptions);
    if (again != MLXD_NAMES_NONE)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: quantization speaks of %s twice", path,
                         c->exceptions[again].canonical);
    return MLXD_OK;
}

/* ---- the document ---- */

static bool names_post_norms(const mlxd_json *o) {
    mlxd_slice type;
    const mlxd_json *v = mlxd_json_find(o, "model_type");
    return v && !mlxd_json_get_str(v, &type) && mlxd_hf_has_post_norms((const char *)type.data);
}

static bool says_tied(const mlxd_json *o) {
    bool tied = false;
    const mlxd_json *v = mlxd_json_find(o, "tie_word_embeddings");
    return v && !mlxd_json_get_bool(v, &tied) && tied;
}

static const mlxd_json *find_object(const mlxd_json *o, const char *key) {
    const mlxd_json *v = mlxd_json_find(o, key);
    return v && mlxd_json_get_kind(v) == MLXD_JSON_OBJECT ? v : NULL;
}

static mlxd_err take_method(mlxd_hf_config *c, const mlxd_json *method, const char *path,
                            mlxd_why *why) {
    mlxd_slice text = mlxd_slice_str("no string");
    c->blocks = mlxd_json_is_str(method, "mxfp4");
    if (c->blocks)
        return MLXD_OK;
    (void)!mlxd_json_get_str(method, &text);
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                     "%s: quant_method %.*s is not supported (supported: mxfp4, and MLX's own)",
                     path, (int)MLXD_MIN(text.len, (size_t)40), (const char *)text.data);
}

static mlxd_err read_root(mlxd_hf_config *c, const mlxd_json *root, const char *path,
                          mlxd_why *why) {
    if (mlxd_json_get_kind(root) != MLXD_JSON_OBJECT)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: no object", path);
    const mlxd_json *text = find_object(root, "text_config");
    const mlxd_json *mlx = find_object(root, "quantization");
    const mlxd_json *hf = find_object(root, "quantization_config");
    if (!hf && text)
        hf = find_object(text, "quantization_config");
    c->post_norms = names_post_norms(root) || (text && names_post_norms(text));
    c->tied = says_tied(root) || (text && says_tied(text));
    const mlxd_json *method = hf ? mlxd_json_find(hf, "quant_method") : NULL;
    if (mlx)
        return take_quantization(c, mlx, path, why);
    if (method)
        return take_method(c, method, path, why);
    return hf ? take_quantization(c, hf, path, why) : MLXD_OK;
}

mlxd_err mlxd_hf_config_open(mlxd_hf_config **out, mlxd_slice json, const char *path,
                             mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_err err = mlxd_json_parse(&doc, json, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_RANGE ? MLXD_ERR_DATA : err, "%s", path);
    mlxd_hf_config *c = mlxd_mem_new(1, sizeof *c);
    err = c ? read_root(c, mlxd_json_root(doc), path, why)
            : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    mlxd_json_close(doc);
    if (err) {
        mlxd_hf_config_close(c);
        return err;
    }
    *out = c;
    return MLXD_OK;
}

void mlxd_hf_config_close(mlxd_hf_config *c) {
    if (!c)
        return;
    mlxd_mem_free(c->exceptions);
    mlxd_mem_free(c->order);
    mlxd_mem_free(c);
}

bool mlxd_hf_config_has_post_norms(const mlxd_hf_config *c) {
    return c->post_norms;
}

bool mlxd_hf_config_is_tied(const mlxd_hf_config *c) {
    return c->tied;
}

bool mlxd_hf_config_has_blocks(const mlxd_hf_config *c) {
    return c->blocks;
}

const mlxd_hf_rule *mlxd_hf_config_find(const mlxd_hf_config *c, const char *canonical) {
    if (!c->quantized)
        return NULL;
    uint32_t i = mlxd_names_find(c->order, c->n_exceptions, exception_at, c->exceptions,
                                 mlxd_slice_str(canonical));
    return i == MLXD_NAMES_NONE ? &c->rule : &c->exceptions[i].rule;
}
