/* tokenizer_gguf.c - reads a tokenizer from the metadata of a GGUF file, tokenizer.ggml.*:
 *
 *     model              gpt2 (byte-level BPE) or llama (SentencePiece by scores)
 *     pre                gpt2: the name of the pre-tokenizer, see pretok_names.c
 *     tokens, token_type texts, and what they are (tokenizer.h)
 *     merges             gpt2: "left right", by rank
 *     scores             llama: of each token; the higher, the earlier it is made
 *     add_space_prefix   llama: U+2581 goes in front of every text between added tokens
 *     {bos,eos,eot,eom,unknown}_token_id, add_bos_token
 */
#include "model/tokenizer_internal.h"

#include "base/limits.h"

#include <string.h>

#define KEY(name) "tokenizer.ggml." name

/* ---- ids ---- */

/* An id from the file; *out = -1 when the key is absent. */
static mlxd_err read_id(const mlxd_tokenizer *t, const mlxd_gguf *g, const char *key, int32_t *out,
                        mlxd_why *why) {
    *out = -1;
    if (!mlxd_gguf_has(g, key))
        return MLXD_OK;
    uint64_t id;
    mlxd_err err = mlxd_gguf_get_u64(g, key, &id, why);
    if (err)
        return err;
    if (id >= t->lexicon.count)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: token %llu of a vocabulary of %zu", key,
                         (unsigned long long)id, t->lexicon.count);
    *out = (int32_t)id;
    return MLXD_OK;
}

static mlxd_err read_ids(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    int32_t eot, eom;
    mlxd_err err = read_id(t, g, KEY("bos_token_id"), &t->bos, why);
    if (!err)
        err = read_id(t, g, KEY("eos_token_id"), &t->eos, why);
    if (!err)
        err = read_id(t, g, KEY("eot_token_id"), &eot, why);
    if (!err)
        err = read_id(t, g, KEY("eom_token_id"), &eom, why);
    if (!err && mlxd_gguf_has(g, KEY("add_bos_token")))
        err = mlxd_gguf_get_bool(g, KEY("add_bos_token"), &t->add_bos, why);
    else if (!err && t->bos < 0)
        t->add_bos = false; /* the family would, but the file has none */
    if (!err && eot >= 0)
        err = mlxd_tokenizer_add_end(t, eot, why);
    if (!err && eom >= 0)
        err = mlxd_tokenizer_add_end(t, eom, why);
    if (!err && t->add_bos && t->bos < 0)
        err = mlxd_fail(why, MLXD_ERR_DATA,
                        KEY("add_bos_token") " is true, and there is no bos_token_id");
    return err;
}

/* ---- tokens ---- */

static bool is_integer(mlxd_gguf_kv_type type) {
    return type != MLXD_GGUF_STRING && type != MLXD_GGUF_F32 && type != MLXD_GGUF_F64 &&
           type != MLXD_GGUF_BOOL;
}

static mlxd_err get_arrays(const mlxd_gguf *g, mlxd_gguf_array *texts, mlxd_gguf_array *types,
                           mlxd_why *why) {
    mlxd_err err = mlxd_gguf_get_array(g, KEY("tokens"), texts, why);
    if (!err)
        err = mlxd_gguf_get_array(g, KEY("token_type"), types, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "no array " KEY("tokens") " or " KEY("token_type"));
    if (err)
        return err;
    if (texts->type != MLXD_GGUF_STRING)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("tokens") ": expected strings, found type %d",
                         (int)texts->type);
    if (!is_integer(types->type))
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("token_type") ": expected integers, found type %d",
                         (int)types->type);
    if (texts->count < 1 || texts->count > MLXD_LIMIT_VOCAB)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("tokens") ": %llu tokens, expected 1..%u",
                         (unsigned long long)texts->count, MLXD_LIMIT_VOCAB);
    if (texts->count != types->count)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("token_type") ": %llu types for %llu tokens",
                         (unsigned long long)types->count, (unsigned long long)texts->count);
    return MLXD_OK;
}

/* The type that a token really has; see the remark on wrong types in tokenizer.h. */
static mlxd_token_type true_type(mlxd_token_type type, mlxd_slice text) {
    if (!mlxd_lexicon_looks_special(text))
        return type;
    if (type == MLXD_TOKEN_USER_DEFINED ||
        (type == MLXD_TOKEN_NORMAL && mlxd_lexicon_names_end(text)))
        return MLXD_TOKEN_CONTROL;
    return type;
}

static bool is_added(mlxd_token_type type) {
    return type == MLXD_TOKEN_UNKNOWN || type == MLXD_TOKEN_CONTROL ||
           type == MLXD_TOKEN_USER_DEFINED;
}

/* Fills `defs` and the table of added tokens. */
static mlxd_err read_tokens(mlxd_tokenizer *t, mlxd_gguf_array *texts, mlxd_gguf_array *types,
                            mlxd_token_def *defs, mlxd_why *why) {
    size_t cursor = 0;
    for (size_t id = 0; id < texts->count; id++) {
        mlxd_slice text = mlxd_gguf_array_next_str(texts, &cursor);
        int64_t type = mlxd_gguf_array_int(types, id);
        if (type < MLXD_TOKEN_NORMAL || type > MLXD_TOKEN_BYTE)
            return mlxd_fail(why, MLXD_ERR_DATA,
                             KEY("token_type") ": token %zu has type %lld, expected 1..6", id,
                             (long long)type);
        mlxd_token_type true_one = true_type((mlxd_token_type)type, text);
        defs[id] = (mlxd_token_def){text, true_one, true_one == MLXD_TOKEN_NORMAL};
        if (!is_added(true_one) || text.len == 0)
            continue;
        mlxd_special_entry e = {.id = (int32_t)id, .trusted = true_one != MLXD_TOKEN_USER_DEFINED};
        if (mlxd_special_add(&t->added, e, text))
            return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for added tokens");
    }
    return MLXD_OK;
}

static mlxd_err read_lexicon(mlxd_tokenizer *t, const mlxd_gguf *g, bool byte_alphabet,
                             mlxd_why *why) {
    mlxd_gguf_array texts, types;
    mlxd_err err = get_arrays(g, &texts, &types, why);
    if (err)
        return err;
    mlxd_token_def *defs = mlxd_mem_new((size_t)texts.count, sizeof *defs);
    if (!defs)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a vocabulary of %llu tokens",
                         (unsigned long long)texts.count);
    mlxd_lexicon_style style = {.where = KEY("tokens"), .byte_alphabet = byte_alphabet};
    if (!byte_alphabet) {
        style.shown[0].from = mlxd_slice_str("\xe2\x96\x81");
        style.shown[0].to = mlxd_slice_str(" ");
        style.n_shown = 1;
    }
    err = read_tokens(t, &texts, &types, defs, why);
    if (!err)
        err = mlxd_lexicon_init(&t->lexicon, defs, (size_t)texts.count, &style, why);
    mlxd_mem_free(defs);
    return err;
}

/* ---- byte-level BPE ---- */

/* "left right"; the blank is searched behind the first character, for a token may begin with it. */
static mlxd_err read_merges(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    mlxd_gguf_array merges;
    mlxd_err err = mlxd_gguf_get_array(g, KEY("merges"), &merges, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "no array " KEY("merges"));
    if (err)
        return err;
    if (merges.type != MLXD_GGUF_STRING)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("merges") ": expected strings, found type %d",
                         (int)merges.type);
    if (merges.count > MLXD_LIMIT_GGUF_ARRAY)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY("merges") ": %llu merges, limit %u",
                         (unsigned long long)merges.count, MLXD_LIMIT_GGUF_ARRAY);
    err = mlxd_bpe_init(&t->bpe, &t->lexicon, (size_t)merges.count, why);
    if (err)
        return mlxd_fail_in(why, err, KEY("tokens"));
    size_t cursor = 0;
    for (uint32_t rank = 0; rank < merges.count && !err; rank++) {
        mlxd_slice text = mlxd_gguf_array_next_str(&merges, &cursor);
        const uint8_t *blank = text.len > 1 ? memchr(text.data + 1, ' ', text.len - 1) : NULL;
        mlxd_bpe_rule rule = {.left = text, .rank = rank};
        if (blank) {
            rule.left.len = (size_t)(blank - text.data);
            rule.right = (mlxd_slice){blank + 1, text.len - rule.left.len - 1};
        }
        err = mlxd_bpe_add(&t->bpe, rule, false, why);
    }
    return err ? mlxd_fail_in(why, err, KEY("merges")) : MLXD_OK;
}

static mlxd_err get_name(const mlxd_gguf *g, const char *key, mlxd_slice *out, mlxd_why *why) {
    mlxd_err err = mlxd_gguf_get_str(g, key, out, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s is missing", key);
    return err;
}

static mlxd_err read_gpt2(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    mlxd_slice pre;
    mlxd_pretok_family family;
    mlxd_err err = get_name(g, KEY("pre"), &pre, why);
    if (err)
        return err;
    err = mlxd_pretok_add_named(&t->pretok, pre, true, &family, why);
    if (err)
        return mlxd_fail_in(why, err, KEY("pre"));
    mlxd_normalizer_step nfc = {.kind = MLXD_NORMALIZE_FORM, .form = MLXD_UNICODE_NFC};
    if (family.nfc)
        err = mlxd_normalizer_add(&t->normalizer, nfc, (mlxd_slice){0}, why);
    if (!err)
        err = read_lexicon(t, g, true, why);
    if (!err)
        err = read_merges(t, g, why);
    t->bpe.ignore_merges = family.ignore_merges;
    t->add_bos = family.add_bos;
    return err;
}

/* ---- SentencePiece ---- */

static mlxd_err read_scores(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    mlxd_gguf_array scores;
    mlxd_err err = mlxd_gguf_get_array(g, KEY("scores"), &scores, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "no array " KEY("scores"));
    if (err)
        return err;
    if (scores.type != MLXD_GGUF_F32 || scores.count != t->lexicon.count)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         KEY("scores") ": expected %zu of type f32, found %llu of type %s",
                         t->lexicon.count, (unsigned long long)scores.count,
                         mlxd_gguf_kv_type_name(scores.type));
    float *values = mlxd_mem_new(t->lexicon.count, sizeof *values);
    if (!values)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu scores", t->lexicon.count);
    for (size_t i = 0; i < t->lexicon.count; i++)
        values[i] = (float)mlxd_gguf_array_float(&scores, i);
    err = mlxd_bpe_init_scores(&t->bpe, &t->lexicon, values, why);
    mlxd_mem_free(values);
    return err ? mlxd_fail_in(why, err, KEY("scores")) : MLXD_OK;
}

/* Byte tokens, and the one for what cannot be spelled. */
static mlxd_err read_fallback(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    for (size_t id = 0; id < t->lexicon.count; id++) {
        if (mlxd_lexicon_type(&t->lexicon, (int32_t)id) != MLXD_TOKEN_BYTE)
            continue;
        uint8_t byte = mlxd_lexicon_shown(&t->lexicon, (int32_t)id).data[0];
        mlxd_bpe_set_byte(&t->bpe, byte, (int32_t)id);
        t->bpe.fallback = true;
    }
    return read_id(t, g, KEY("unknown_token_id"), &t->bpe.unknown, why);
}

static mlxd_err read_blanks(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    bool prefix = true;
    mlxd_err err = MLXD_OK;
    if (mlxd_gguf_has(g, KEY("add_space_prefix")))
        err = mlxd_gguf_get_bool(g, KEY("add_space_prefix"), &prefix, why);
    mlxd_slice mark = mlxd_slice_str("\xe2\x96\x81");
    mlxd_normalizer_step prepend = {.kind = MLXD_NORMALIZE_PREPEND};
    mlxd_normalizer_step replace = {.kind = MLXD_NORMALIZE_REPLACE};
    if (!err && prefix)
        err = mlxd_normalizer_add(&t->normalizer, prepend, mark, why);
    if (!err)
        err = mlxd_regex_open_text(&replace.pattern, mlxd_slice_str(" "), why);
    if (!err)
        err = mlxd_normalizer_add(&t->normalizer, replace, mark, why);
    t->strip.blanks = prefix;
    return err;
}

static mlxd_err read_llama(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    t->add_bos = true;
    mlxd_err err = read_lexicon(t, g, false, why);
    if (!err)
        err = read_scores(t, g, why);
    if (!err)
        err = read_fallback(t, g, why);
    return err ? err : read_blanks(t, g, why);
}

/* ---- open ---- */

static const struct {
    const char *model;
    mlxd_err (*read)(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why);
} models[] = {
    {"gpt2", read_gpt2},
    {"llama", read_llama},
};

static mlxd_err read_all(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    mlxd_slice model;
    mlxd_err err = get_name(g, KEY("model"), &model, why);
    if (err)
        return err;
    size_t i = 0;
    while (i < MLXD_COUNT_OF(models) && !mlxd_slice_eq(model, mlxd_slice_str(models[i].model)))
        i++;
    if (i == MLXD_COUNT_OF(models))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         KEY("model") ": tokenizer \"%.*s\" is not known; known: gpt2, llama",
                         (int)MLXD_MIN(model.len, 64), (const char *)model.data);
    err = models[i].read(t, g, why);
    if (!err)
        err = read_ids(t, g, why);
    return err ? err : mlxd_tokenizer_finish(t, KEY("tokens"), why);
}

mlxd_err mlxd_tokenizer_open(mlxd_tokenizer **out, const mlxd_gguf *g, mlxd_why *why) {
    MLXD_ASSERT(out && g);
    *out = NULL;
    mlxd_tokenizer *t = mlxd_tokenizer_new(why);
    if (!t)
        return MLXD_ERR_NOMEM;
    mlxd_err err = read_all(t, g, why);
    if (err) {
        mlxd_tokenizer_close(t);
        return err;
    }
    *out = t;
    return MLXD_OK;
}
