/* checkpoint_gather.c - one tensor out of what safetensors files hold of it: a matrix and its
 * scales, or the experts of a layer one by one. Shapes are in the order of the files (rows before
 * columns) until they become those of the tensor.
 */
#include "model/checkpoint_internal.h"

#include <stdio.h>
#include <string.h>

/* The pieces of one part: one, or one per expert. */
struct part {
    const mlxd_checkpoint_piece *pieces;
    size_t n;
};

struct gather {
    mlxd_checkpoint *c;
    const mlxd_hf_config *config;
    const char *name;
    struct part parts[MLXD_CHECKPOINT_STREAMS];
    mlxd_checkpoint_tensor *t;
    mlxd_why *why;
};

static const mlxd_safetensors_tensor *first(const struct gather *g, mlxd_hf_part part) {
    return g->parts[part].n ? g->parts[part].pieces[0].stored : NULL;
}

static mlxd_err refuse(const struct gather *g, const char *text) {
    return mlxd_fail(g->why, MLXD_ERR_DATA, "tensor %s (%s): %s", g->name,
                     first(g, MLXD_HF_WEIGHT) ? first(g, MLXD_HF_WEIGHT)->name : "?", text);
}

/* ---- parts ---- */

/* Splits the pieces by part. Of a part there is one piece, or every expert's from 0 on, all of one
 * type and shape. */
static mlxd_err split(struct gather *g, const mlxd_checkpoint_piece *pieces, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct part *p = &g->parts[pieces[i].name.part];
        if (p->n++ == 0)
            p->pieces = &pieces[i];
        const mlxd_safetensors_tensor *s = pieces[i].stored, *t = p->pieces[0].stored;
        uint32_t expert = pieces[i].name.expert;
        if (p->n > 1 && (expert == MLXD_HF_NO_EXPERT || pieces[i - 1].name.expert == expert))
            return mlxd_fail(g->why, MLXD_ERR_DATA, "tensor %s is there twice: as %s and as %s",
                             g->name, pieces[i - 1].stored->name, s->name);
        if (expert != MLXD_HF_NO_EXPERT && expert != p->n - 1)
            return mlxd_fail(g->why, MLXD_ERR_DATA, "tensor %s: expert %zu is missing", g->name,
                             p->n - 1);
        if (s->type != t->type || s->n_dims != t->n_dims ||
            memcmp(s->dims, t->dims, sizeof s->dims) != 0)
            return mlxd_fail(g->why, MLXD_ERR_DATA, "tensor %s: %s and %s differ in type or shape",
                             g->name, t->name, s->name);
    }
    if (g->parts[MLXD_HF_WEIGHT].n == 0)
        return refuse(g, "scales without what they belong to");
    for (size_t i = 1; i < MLXD_CHECKPOINT_STREAMS; i++)
        if (g->parts[i].n && g->parts[i].n != g->parts[0].n)
            return refuse(g, "another number of experts has scales");
    return MLXD_OK;
}

/* All but the last dimension are the same. */
static bool same_rows(const mlxd_safetensors_tensor *a, const mlxd_safetensors_tensor *b) {
    if (a->n_dims != b->n_dims || a->n_dims == 0)
        return false;
    return memcmp(a->dims, b->dims, (a->n_dims - 1) * sizeof a->dims[0]) == 0;
}

static uint64_t last(const mlxd_safetensors_tensor *s) {
    return s->dims[s->n_dims - 1];
}

/* ---- encodings ---- */

static bool float_type(mlxd_dtype type, mlxd_float *out) {
    static const struct {
        mlxd_dtype type;
        mlxd_float is;
    } floats[] = {{MLXD_DTYPE_F16, MLXD_FLOAT_F16},
                  {MLXD_DTYPE_BF16, MLXD_FLOAT_BF16},
                  {MLXD_DTYPE_F32, MLXD_FLOAT_F32}};
    for (size_t i = 0; i < MLXD_COUNT_OF(floats); i++)
        if (floats[i].type == type) {
            *out = floats[i].is;
            return true;
        }
    return false;
}

/* A tensor that is stored as it is. */
static mlxd_encoding encode_plain(const mlxd_checkpoint_piece *piece) {
    static const uint32_t gguf[] = {[MLXD_FLOAT_F16] = MLXD_GGUF_TYPE_F16,
                                    [MLXD_FLOAT_BF16] = MLXD_GGUF_TYPE_BF16,
                                    [MLXD_FLOAT_F32] = MLXD_GGUF_TYPE_F32};
    mlxd_encoding e = {.kind = MLXD_ENCODING_OTHER, .gguf = MLXD_ENCODING_NO_GGUF};
    mlxd_dtype type = piece->stored->type;
    mlxd_float is;
    if (!piece->name.transposed && float_type(type, &is))
        return mlxd_checkpoint_encode_gguf(gguf[is]);
    snprintf(e.label, sizeof e.label, "%s%s", mlxd_dtype_name(type),
             piece->name.transposed ? ", transposed" : "");
    return e;
}

/* Checks what MLX quantized, as its rule and the shapes say. *cols = columns. */
static mlxd_err encode_mlx(struct gather *g, const mlxd_hf_rule *rule, uint64_t *cols) {
    const mlxd_safetensors_tensor *w = first(g, MLXD_HF_WEIGHT), *s = first(g, MLXD_HF_SCALES);
    const mlxd_safetensors_tensor *b = first(g, MLXD_HF_BIASES);
    mlxd_encoding *e = &g->t->encoding;
    bool affine = rule && rule->kind == MLXD_ENCODING_AFFINE;
    uint64_t bits, wide;
    if (!rule || rule->kind == MLXD_ENCODING_OTHER)
        return refuse(g, "has scales, but config.json does not say that it is quantized");
    *e = (mlxd_encoding){.kind = rule->kind,
                         .gguf = MLXD_ENCODING_NO_GGUF,
                         .bits = rule->bits,
                         .group = rule->group};
    if (w->type != MLXD_DTYPE_U32 || !same_rows(w, s) || affine != (b != NULL))
        return refuse(g, "weight, scales and biases do not belong together");
    if (affine && (!float_type(s->type, &e->scales) || b->type != s->type || !same_rows(b, s) ||
                   last(b) != last(s)))
        return refuse(g, "scales and biases are not of one shape and type F16, BF16 or F32");
    if (!affine && s->type != MLXD_DTYPE_U8)
        return refuse(g, "scales are not U8");
    if (!mlxd_mul_u64(last(w), 32, &bits) || !mlxd_mul_u64(last(s), rule->group, cols) ||
        !mlxd_mul_u64(*cols, rule->bits, &wide) || bits != wide || *cols % MLXD_GROUP != 0)
        return mlxd_fail(g->why, MLXD_ERR_DATA,
                         "tensor %s: rows of %llu words and %llu scales are not %u bits in groups "
                         "of %u, as config.json says",
                         g->name, (unsigned long long)last(w), (unsigned long long)last(s),
                         rule->bits, rule->group);
    if (affine)
        snprintf(e->label, sizeof e->label, "affine %u bits, group %u, %s", e->bits, e->group,
                 mlxd_dtype_name(s->type));
    else
        snprintf(e->label, sizeof e->label, "%s",
                 e->kind == MLXD_ENCODING_NVFP4   ? "nvfp4"
                 : e->kind == MLXD_ENCODING_MXFP8 ? "mxfp8"
                                                  : "mxfp4");
    return MLXD_OK;
}

/* The experts of gpt_oss: blocks [experts][rows][groups][16], scales [experts][rows][groups]. */
static mlxd_err encode_blocks(struct gather *g, uint64_t *cols) {
    const mlxd_safetensors_tensor *w = first(g, MLXD_HF_WEIGHT), *s = first(g, MLXD_HF_SCALES);
    if (!mlxd_hf_config_has_blocks(g->config))
        return refuse(g, "blocks, but quant_method in config.json is not mxfp4");
    if (!s || w->type != MLXD_DTYPE_U8 || s->type != MLXD_DTYPE_U8 || w->n_dims != 4 ||
        s->n_dims != 3 || w->dims[3] != 16 || memcmp(w->dims, s->dims, 3 * sizeof w->dims[0]) != 0)
        return refuse(g, "blocks and scales do not belong together");
    g->t->encoding = (mlxd_encoding){.kind = MLXD_ENCODING_MXFP4,
                                     .gguf = MLXD_ENCODING_NO_GGUF,
                                     .bits = 4,
                                     .group = 32,
                                     .label = "mxfp4"};
    *cols = s->dims[2] * 32; /* no overflow: half of it is bytes of the file */
    return MLXD_OK;
}

/* ---- shape and streams ---- */

/* Columns first: `cols` of them, then the first n_dims of what is stored, from behind. What is
 * beyond the last place makes one dimension. */
static void set_dims(struct gather *g, const mlxd_safetensors_tensor *w, uint32_t n_dims,
                     uint64_t cols) {
    mlxd_checkpoint_tensor *t = g->t;
    const struct part *weight = &g->parts[MLXD_HF_WEIGHT];
    bool gathered = weight->pieces[0].name.expert != MLXD_HF_NO_EXPERT;
    t->n_dims = 1;
    t->dims[0] = cols;
    for (uint32_t i = 1; i < MLXD_LIMIT_GGUF_DIMS; i++)
        t->dims[i] = 1;
    for (uint32_t i = n_dims; i-- > 0;) {
        if (t->n_dims < MLXD_LIMIT_GGUF_DIMS)
            t->n_dims++;
        t->dims[t->n_dims - 1] *= w->dims[i]; /* the parser multiplied them all */
    }
    if (gathered && weight->n > 0) {
        if (n_dims == 0)
            t->dims[1] = weight->n;
        else
            t->dims[2] *= weight->n;
        t->n_dims = n_dims == 0 ? 2 : 3;
    }
}

static mlxd_err add_stream(struct gather *g, const struct part *p) {
    mlxd_checkpoint_tensor *t = g->t;
    mlxd_stream *s = &t->streams[t->n_streams++];
    mlxd_extent *extents = mlxd_arena_new(g->c->arena, p->n, sizeof *extents);
    uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];
    if (!extents)
        return mlxd_fail(g->why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < p->n; i++) {
        const mlxd_safetensors_tensor *stored = p->pieces[i].stored;
        extents[i] = (mlxd_extent){p->pieces[i].file, stored->file_offset, stored->data_bytes};
        if (!mlxd_add_u64(s->bytes, stored->data_bytes, &s->bytes))
            return refuse(g, "too many bytes");
    }
    s->extents = extents;
    s->n_extents = p->n;
    s->row_bytes = rows ? s->bytes / rows : 0;
    return mlxd_add_u64(t->bytes, s->bytes, &t->bytes) ? MLXD_OK : refuse(g, "too many bytes");
}

mlxd_err mlxd_checkpoint_gather(mlxd_checkpoint *c, const mlxd_hf_config *config,
                                const mlxd_checkpoint_piece *pieces, size_t n,
                                mlxd_checkpoint_tensor *t, mlxd_why *why) {
    struct gather g = {.c = c, .config = config, .t = t, .why = why};
    const char *canonical = pieces[0].name.canonical;
    *t = (mlxd_checkpoint_tensor){0};
    t->name = g.name = mlxd_arena_dup(c->arena, canonical, strlen(canonical));
    if (!t->name)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_err err = split(&g, pieces, n);
    if (err)
        return err;
    const mlxd_safetensors_tensor *w = first(&g, MLXD_HF_WEIGHT);
    uint64_t cols = w->n_dims ? last(w) : 1;
    uint32_t outer = w->n_dims ? w->n_dims - 1 : 0;
    if (pieces[0].name.blocks) {
        err = encode_blocks(&g, &cols);
        outer = 2;
    } else if (g.parts[MLXD_HF_SCALES].n || g.parts[MLXD_HF_BIASES].n) {
        err = first(&g, MLXD_HF_SCALES)
                  ? encode_mlx(&g, mlxd_hf_config_find(config, t->name), &cols)
                  : refuse(&g, "biases without scales");
    } else {
        t->encoding = encode_plain(&pieces[0]);
    }
    if (err)
        return err;
    set_dims(&g, w, outer, cols);
    for (size_t i = 0; i < MLXD_CHECKPOINT_STREAMS && !err; i++)
        if (g.parts[i].n)
            err = add_stream(&g, &g.parts[i]);
    if (!err && t->bytes == 0) /* nothing to load, and no row to divide by */
        t->encoding.kind = MLXD_ENCODING_OTHER;
    return err;
}
