/* tokenizer_json.c - reads a tokenizer from Hugging Face's files:
 *
 *     tokenizer.json           {"normalizer", "pre_tokenizer", "decoder", "post_processor": see
 *                               tokenizer_steps.c, "added_tokens": [{id, content, special, ...}],
 *                               "model": {"type": "BPE", "vocab": {text: id}, "merges": [...]}}
 *     tokenizer_config.json    bos_token, eos_token, add_bos_token, added_tokens_decoder {id: {}}
 *     special_tokens_map.json  bos_token, eos_token
 *
 * The vocabulary and the added tokens are laid out by id first (defs), whatever their order in the
 * file; then lexicon, merges and added tokens are made of that. Merges that would make or use a
 * control token are left out, so that no text spells one.
 */
#include "model/tokenizer_internal.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define TOKENIZER "tokenizer.json"
#define CONFIG "tokenizer_config.json"
#define SPECIAL_MAP "special_tokens_map.json"
#define DEPTH_MAX 32

typedef struct added_token {
    mlxd_slice text; /* lent by a document */
    int64_t id;
    bool special, normalized, lstrip, rstrip, single_word;
} added_token;

typedef struct reader {
    mlxd_tokenizer *t;
    mlxd_json_doc *docs[3]; /* tokenizer, config, special map; NULL: not there */
    const mlxd_json *root, *config, *special_map, *model;
    mlxd_tokenizer_decoder decoder;
    bool byte_level;    /* bytes are symbols */
    bool byte_fallback; /* the model says so */
    mlxd_token_def *defs;
    size_t count, cap; /* ids that are there */
    added_token *added;
    size_t n_added, added_cap;
    mlxd_why *why;
} reader;

/* ---- members ---- */

static const mlxd_json *member(const mlxd_json *v, const char *key) {
    const mlxd_json *m = v ? mlxd_json_find(v, key) : NULL;
    return m && mlxd_json_get_kind(m) != MLXD_JSON_NULL ? m : NULL;
}

static mlxd_err get_bool(const mlxd_json *v, const char *key, bool otherwise, bool *out,
                         mlxd_why *why) {
    const mlxd_json *m = member(v, key);
    *out = otherwise;
    if (m && mlxd_json_get_bool(m, out))
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected true or false", key);
    return MLXD_OK;
}

static bool is_kind(const mlxd_json *v, mlxd_json_kind kind) {
    return v && mlxd_json_get_kind(v) == kind;
}

/* ---- tokens by id ---- */

static mlxd_err put_def(reader *r, int64_t id, mlxd_token_def def) {
    if (id < 0 || id >= MLXD_LIMIT_VOCAB)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "token \"%.*s\" has id %lld, expected 0..%u",
                         (int)MLXD_MIN(def.text.len, 64), (const char *)def.text.data,
                         (long long)id, MLXD_LIMIT_VOCAB - 1);
    if ((size_t)id >= r->cap) {
        size_t cap = MLXD_MAX(2 * r->cap, (size_t)id + 1);
        mlxd_token_def *p = mlxd_mem_resize(r->defs, cap, sizeof *p);
        if (!p)
            return mlxd_fail(r->why, MLXD_ERR_NOMEM, "no memory for %zu tokens", cap);
        memset(p + r->cap, 0, (cap - r->cap) * sizeof *p);
        r->defs = p;
        r->cap = cap;
    }
    mlxd_token_def *old = &r->defs[id];
    if (old->type && !mlxd_slice_eq(old->text, def.text))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "id %lld is both \"%.*s\" and \"%.*s\"",
                         (long long)id, (int)MLXD_MIN(old->text.len, 64),
                         (const char *)old->text.data, (int)MLXD_MIN(def.text.len, 64),
                         (const char *)def.text.data);
    r->count = MLXD_MAX(r->count, (size_t)id + 1);
    *old = def;
    return MLXD_OK;
}

static mlxd_err read_vocab(reader *r) {
    const mlxd_json *vocab = member(r->model, "vocab");
    mlxd_slice text;
    if (!is_kind(vocab, MLXD_JSON_OBJECT))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "vocab: expected an object");
    if (mlxd_json_count(vocab) > MLXD_LIMIT_VOCAB)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "vocab: %zu tokens, limit %u",
                         mlxd_json_count(vocab), MLXD_LIMIT_VOCAB);
    for (const mlxd_json *v = mlxd_json_first(vocab, &text); v;
         v = mlxd_json_next(vocab, v, &text)) {
        int64_t id;
        uint8_t byte;
        if (mlxd_json_get_int64(v, &id))
            return mlxd_fail(r->why, MLXD_ERR_DATA, "vocab: \"%.*s\": expected an id",
                             (int)MLXD_MIN(text.len, 64), (const char *)text.data);
        mlxd_token_def def = {text, MLXD_TOKEN_NORMAL, true};
        if (r->decoder.byte_fallback && mlxd_lexicon_is_byte(text, &byte))
            def = (mlxd_token_def){text, MLXD_TOKEN_BYTE, false};
        mlxd_err err = put_def(r, id, def);
        if (err)
            return mlxd_fail_in(r->why, err, "vocab");
    }
    return MLXD_OK;
}

/* ---- added tokens ---- */

static mlxd_err add_added(reader *r, added_token a) {
    if (r->n_added == r->added_cap) {
        size_t cap = r->added_cap ? 2 * r->added_cap : 64;
        added_token *p = mlxd_mem_resize(r->added, cap, sizeof *p);
        if (!p)
            return mlxd_fail(r->why, MLXD_ERR_NOMEM, "no memory for added tokens");
        r->added = p;
        r->added_cap = cap;
    }
    r->added[r->n_added++] = a;
    return MLXD_OK;
}

static mlxd_err read_flags(const mlxd_json *v, added_token *a, mlxd_why *why) {
    mlxd_slice text;
    if (!is_kind(v, MLXD_JSON_OBJECT) || !member(v, "content") ||
        mlxd_json_get_str(member(v, "content"), &text))
        return mlxd_fail(why, MLXD_ERR_DATA, "expected an object with a content");
    a->text = text;
    mlxd_err err = get_bool(v, "special", false, &a->special, why);
    if (!err) /* as Hugging Face: special tokens are, unless it is said, not normalized */
        err = get_bool(v, "normalized", !a->special, &a->normalized, why);
    if (!err)
        err = get_bool(v, "lstrip", false, &a->lstrip, why);
    if (!err)
        err = get_bool(v, "rstrip", false, &a->rstrip, why);
    return err ? err : get_bool(v, "single_word", false, &a->single_word, why);
}

static mlxd_err read_added_list(reader *r) {
    const mlxd_json *list = member(r->root, "added_tokens");
    if (!list)
        return MLXD_OK;
    if (!is_kind(list, MLXD_JSON_ARRAY))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "added_tokens: expected an array");
    for (const mlxd_json *v = mlxd_json_first(list, NULL); v; v = mlxd_json_next(list, v, NULL)) {
        added_token a = {0};
        mlxd_err err = read_flags(v, &a, r->why);
        if (!err && (!member(v, "id") || mlxd_json_get_int64(member(v, "id"), &a.id)))
            err = mlxd_fail(r->why, MLXD_ERR_DATA, "id: expected an integer");
        if (!err)
            err = add_added(r, a);
        if (err)
            return mlxd_fail_in(r->why, err, "added_tokens[%zu]", r->n_added);
    }
    return MLXD_OK;
}

static int by_id(const void *pa, const void *pb) {
    const added_token *a = pa, *b = pb;
    return (a->id > b->id) - (a->id < b->id);
}

/* The tokens that only the configuration knows; one that both know is special if either says so. */
static mlxd_err read_added_decoder(reader *r) {
    const mlxd_json *map = member(r->config, "added_tokens_decoder");
    mlxd_slice key;
    if (!map)
        return MLXD_OK;
    if (!is_kind(map, MLXD_JSON_OBJECT))
        return mlxd_fail(r->why, MLXD_ERR_DATA,
                         CONFIG ": added_tokens_decoder: expected an object");
    size_t known = r->n_added;
    if (known > 0)
        qsort(r->added, known, sizeof *r->added, by_id);
    for (const mlxd_json *v = mlxd_json_first(map, &key); v; v = mlxd_json_next(map, v, &key)) {
        char *end;
        added_token a = {.id = strtoll((const char *)key.data, &end, 10)};
        mlxd_err err = read_flags(v, &a, r->why);
        if (!err && (*end != 0 || key.len == 0))
            err = mlxd_fail(r->why, MLXD_ERR_DATA, "expected an id as key");
        added_token *same =
            known > 0 ? bsearch(&a, r->added, known, sizeof *r->added, by_id) : NULL;
        if (!err && !same)
            err = add_added(r, a);
        else if (!err)
            same->special |= a.special;
        if (err)
            return mlxd_fail_in(r->why, err, CONFIG ": added_tokens_decoder[\"%.*s\"]",
                                (int)MLXD_MIN(key.len, 32), (const char *)key.data);
    }
    return MLXD_OK;
}

/* A token is a text, or an object with one; *found false: the file names none. */
static mlxd_err token_text(const mlxd_json *file, const char *key, mlxd_slice *text, bool *found,
                           mlxd_why *why) {
    const mlxd_json *v = member(file, key);
    if (is_kind(v, MLXD_JSON_OBJECT))
        v = member(v, "content");
    *found = v != NULL;
    if (v && mlxd_json_get_str(v, text))
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected a token", key);
    return MLXD_OK;
}

/* BOS and EOS are special, also where only the configuration says so. */
static mlxd_err read_named_special(reader *r) {
    static const char *const keys[] = {"bos_token", "eos_token"};
    const mlxd_json *files[] = {r->config, r->special_map};
    const mlxd_json *vocab = member(r->model, "vocab");
    for (size_t i = 0; i < 4; i++) {
        mlxd_slice text = {0};
        bool found, known = false;
        mlxd_err err = token_text(files[i / 2], keys[i % 2], &text, &found, r->why);
        if (err)
            return mlxd_fail_in(r->why, err, "%s", i < 2 ? CONFIG : SPECIAL_MAP);
        for (size_t k = 0; k < r->n_added && text.len > 0 && !known; k++) {
            known = mlxd_slice_eq(r->added[k].text, text);
            r->added[k].special |= known;
        }
        const mlxd_json *id = NULL;
        if (text.len > 0 && !known && is_kind(vocab, MLXD_JSON_OBJECT))
            id = mlxd_json_find(vocab, (const char *)text.data);
        added_token a = {.text = text, .special = true};
        if (id && mlxd_json_get_int64(id, &a.id) == MLXD_OK)
            err = add_added(r, a);
        if (err)
            return err;
    }
    return MLXD_OK;
}

/* Added tokens among the others: special ones cannot be made by merges any more. */
static mlxd_err place_added(reader *r) {
    for (size_t i = 0; i < r->n_added; i++) {
        added_token *a = &r->added[i];
        bool merged = a->id >= 0 && (size_t)a->id < r->count && r->defs[a->id].merged;
        mlxd_token_def def = {a->text, MLXD_TOKEN_USER_DEFINED, merged};
        if (a->special)
            def = (mlxd_token_def){a->text, MLXD_TOKEN_CONTROL, false};
        mlxd_err err = put_def(r, a->id, def);
        if (err)
            return mlxd_fail_in(r->why, err, "added_tokens");
    }
    return MLXD_OK;
}

/* Into the tables that are searched. The text of a token that wants normalized text is normalized,
 * too. */
static mlxd_err table_added(reader *r) {
    mlxd_tokenizer *t = r->t;
    mlxd_normalizer_work work;
    mlxd_normalizer_work_init(&work);
    mlxd_regex_work *regex = mlxd_regex_work_open(1u << 20);
    mlxd_err err = regex ? MLXD_OK : MLXD_ERR_NOMEM;
    for (size_t i = 0; i < r->n_added && !err; i++) {
        const added_token *a = &r->added[i];
        mlxd_special_entry e = {.id = (int32_t)a->id,
                                .trusted = a->special || mlxd_lexicon_looks_special(a->text),
                                .lstrip = a->lstrip,
                                .rstrip = a->rstrip,
                                .single_word = a->single_word};
        mlxd_slice text = a->text;
        if (a->normalized)
            err =
                mlxd_normalizer_run(&t->normalizer, &work, regex, a->text, 1u << 20, &text, r->why);
        if (!err && text.len > MLXD_LIMIT_SPECIAL_BYTES)
            err = mlxd_fail(r->why, MLXD_ERR_DATA, "added token %lld has %zu bytes, limit %d",
                            (long long)a->id, text.len, MLXD_LIMIT_SPECIAL_BYTES);
        if (!err && text.len > 0)
            err = mlxd_special_add(a->normalized ? &t->normalized : &t->added, e, text);
    }
    mlxd_regex_work_close(regex);
    mlxd_normalizer_work_deinit(&work);
    return err == MLXD_ERR_NOMEM ? mlxd_fail(r->why, err, "no memory for added tokens") : err;
}

/* ---- the model ---- */

static bool is_empty(const mlxd_json *v) {
    return !v || mlxd_json_is_str(v, "");
}

static mlxd_err check_model(reader *r) {
    double dropout = 0;
    r->model = member(r->root, "model");
    if (!is_kind(r->model, MLXD_JSON_OBJECT))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "model: expected an object");
    const mlxd_json *type = member(r->model, "type");
    mlxd_slice name = mlxd_slice_str("BPE"); /* old files do not say */
    if (type && mlxd_json_get_str(type, &name))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "model: type: expected a string");
    if (!mlxd_slice_eq(name, mlxd_slice_str("BPE")) || (!type && !member(r->model, "merges")))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "model: type \"%.*s\" is not known; known: BPE",
                         (int)MLXD_MIN(name.len, 64), (const char *)name.data);
    if (!is_empty(member(r->model, "continuing_subword_prefix")) ||
        !is_empty(member(r->model, "end_of_word_suffix")))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "model: continuing_subword_prefix and end_of_word_suffix are not known");
    const mlxd_json *drop = member(r->model, "dropout");
    if (drop && (mlxd_json_get_double(drop, &dropout) || dropout != 0))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "model: dropout is for training");
    return get_bool(r->model, "byte_fallback", false, &r->byte_fallback, r->why);
}

static bool is_control(const reader *r, mlxd_slice left, mlxd_slice right, mlxd_buf *scratch) {
    mlxd_buf_clear(scratch);
    mlxd_buf_add(scratch, left.data, left.len);
    mlxd_buf_add(scratch, right.data, right.len);
    mlxd_slice texts[] = {left, right, {scratch->data, scratch->len}};
    for (size_t i = 0; i < 3; i++) {
        const mlxd_special *tables[] = {&r->t->added, &r->t->normalized};
        for (size_t k = 0; k < 2; k++) {
            int32_t id = mlxd_special_find(tables[k], texts[i]);
            if (id >= 0 && mlxd_tokenizer_is_control(r->t, id))
                return true;
        }
    }
    return false;
}

/* "left right" or ["left", "right"]. */
static mlxd_err read_rule(const mlxd_json *v, mlxd_bpe_rule *rule, mlxd_why *why) {
    mlxd_slice text;
    if (is_kind(v, MLXD_JSON_ARRAY)) {
        if (mlxd_json_count(v) == 2 && !mlxd_json_get_str(mlxd_json_at(v, 0), &rule->left) &&
            !mlxd_json_get_str(mlxd_json_at(v, 1), &rule->right))
            return MLXD_OK;
    } else if (!mlxd_json_get_str(v, &text)) {
        const uint8_t *blank = memchr(text.data, ' ', text.len);
        if (blank) {
            rule->left = (mlxd_slice){text.data, (size_t)(blank - text.data)};
            rule->right = (mlxd_slice){blank + 1, text.len - rule->left.len - 1};
            return MLXD_OK;
        }
    }
    return mlxd_fail(why, MLXD_ERR_DATA, "merge %u is not two tokens", rule->rank);
}

static mlxd_err read_merges(reader *r) {
    const mlxd_json *list = member(r->model, "merges");
    if (!is_kind(list, MLXD_JSON_ARRAY))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "merges: expected an array");
    mlxd_bpe *b = &r->t->bpe;
    mlxd_err err = mlxd_bpe_init(b, &r->t->lexicon, mlxd_json_count(list), r->why);
    if (err)
        return mlxd_fail_in(r->why, err, "vocab");
    mlxd_buf scratch;
    mlxd_buf_init(&scratch, 0);
    mlxd_bpe_rule rule = {.rank = 0};
    for (const mlxd_json *v = mlxd_json_first(list, NULL); v && !err;
         v = mlxd_json_next(list, v, NULL), rule.rank++) {
        err = read_rule(v, &rule, r->why);
        if (!err)
            err = mlxd_bpe_add(b, rule, true, r->why);
        if (err == MLXD_ERR_DATA && is_control(r, rule.left, rule.right, &scratch))
            err = MLXD_OK;
    }
    mlxd_buf_deinit(&scratch);
    return err ? mlxd_fail_in(r->why, err, "merges") : MLXD_OK;
}

/* The id of a token by its text as the files spell it; -1: none. */
static int32_t find_token(const reader *r, mlxd_slice text) {
    int32_t id = mlxd_tokenizer_find(r->t, text);
    uint8_t bytes[MLXD_LIMIT_SPECIAL_BYTES];
    size_t len;
    if (id < 0 && r->byte_level && text.len <= sizeof bytes &&
        mlxd_lexicon_unspell(text, bytes, &len))
        id = mlxd_lexicon_find(&r->t->lexicon, (mlxd_slice){bytes, len});
    return id;
}

static mlxd_err read_model_flags(reader *r) {
    mlxd_bpe *b = &r->t->bpe;
    mlxd_slice unknown;
    const mlxd_json *v = member(r->model, "unk_token");
    if (v && mlxd_json_get_str(v, &unknown))
        return mlxd_fail(r->why, MLXD_ERR_DATA, "unk_token: expected a string");
    if (v && unknown.len > 0) {
        b->unknown = find_token(r, unknown);
        if (b->unknown < 0)
            return mlxd_fail(r->why, MLXD_ERR_DATA, "unk_token \"%.*s\" is no token",
                             (int)MLXD_MIN(unknown.len, 64), (const char *)unknown.data);
    }
    for (size_t id = 0; id < r->count && r->byte_fallback; id++) {
        uint8_t byte;
        if (r->defs[id].type && mlxd_lexicon_is_byte(r->defs[id].text, &byte))
            mlxd_bpe_set_byte(b, byte, (int32_t)id);
    }
    b->fallback = r->byte_fallback;
    mlxd_err err = get_bool(r->model, "fuse_unk", false, &b->fuse_unknown, r->why);
    return err ? err : get_bool(r->model, "ignore_merges", false, &b->ignore_merges, r->why);
}

static mlxd_err read_model(reader *r) {
    mlxd_lexicon_style *style = &r->decoder.style;
    style->where = TOKENIZER;
    style->byte_alphabet = r->byte_level;
    style->lenient = true;
    mlxd_err err = read_vocab(r);
    if (!err)
        err = place_added(r);
    if (!err && r->count == 0)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "vocab: no tokens");
    if (!err)
        err = mlxd_lexicon_init(&r->t->lexicon, r->defs, r->count, style, r->why);
    if (!err)
        err = table_added(r);
    if (!err) /* before merges: they look for control tokens */
        err = mlxd_tokenizer_finish(r->t, TOKENIZER, r->why);
    if (!err)
        err = read_merges(r);
    return err ? err : read_model_flags(r);
}

/* ---- bos and eos ---- */

/* By the configuration, else by the special map; *id stays -1 if neither names it. */
static mlxd_err read_named(reader *r, const char *key, int32_t *id) {
    const struct {
        const char *name;
        const mlxd_json *file;
    } files[] = {{CONFIG, r->config}, {SPECIAL_MAP, r->special_map}};
    for (size_t i = 0; i < 2; i++) {
        mlxd_slice text = {0};
        bool found;
        mlxd_err err = token_text(files[i].file, key, &text, &found, r->why);
        if (!err && found && text.len > 0) {
            *id = find_token(r, text);
            if (*id < 0)
                err = mlxd_fail(r->why, MLXD_ERR_DATA, "%s \"%.*s\" is no token", key,
                                (int)MLXD_MIN(text.len, 64), (const char *)text.data);
        }
        if (err)
            return mlxd_fail_in(r->why, err, "%s", files[i].name);
        if (found)
            return MLXD_OK;
    }
    return MLXD_OK;
}

static mlxd_err read_ends(reader *r) {
    mlxd_tokenizer *t = r->t;
    mlxd_slice bos = {0};
    mlxd_err err = mlxd_tokenizer_read_post(member(r->root, "post_processor"), &bos, r->why);
    if (!err)
        err = read_named(r, "bos_token", &t->bos);
    if (!err)
        err = read_named(r, "eos_token", &t->eos);
    if (!err && bos.len > 0 && t->bos < 0)
        t->bos = find_token(r, bos);
    if (!err)
        err = get_bool(r->config, "add_bos_token", bos.len > 0, &t->add_bos, r->why);
    if (!err && t->add_bos && t->bos < 0)
        err = mlxd_fail(r->why, MLXD_ERR_DATA,
                        "a text is to begin with BOS, and there is no such token");
    if (!err && t->eos >= 0)
        err = mlxd_tokenizer_add_end(t, t->eos, r->why);
    return err;
}

/* ---- open ---- */

static mlxd_err parse(reader *r, size_t i, const char *name, mlxd_slice text,
                      const mlxd_json **root) {
    *root = NULL;
    if (text.len == 0)
        return MLXD_OK;
    mlxd_err err = MLXD_OK;
    if (text.len > MLXD_LIMIT_TOKENIZER_BYTES)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "%zu bytes, limit %u", text.len,
                        MLXD_LIMIT_TOKENIZER_BYTES);
    if (!err)
        err =
            mlxd_json_parse_file(&r->docs[i], text, DEPTH_MAX, MLXD_LIMIT_TOKENIZER_VALUES, r->why);
    if (!err && !is_kind(mlxd_json_root(r->docs[i]), MLXD_JSON_OBJECT))
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "expected an object");
    if (err)
        return mlxd_fail_in(r->why, err, "%s", name);
    *root = mlxd_json_root(r->docs[i]);
    return MLXD_OK;
}

static mlxd_err read_tokenizer(reader *r) {
    mlxd_tokenizer *t = r->t;
    mlxd_err err = check_model(r);
    if (!err)
        err = mlxd_tokenizer_read_normalizer(t, member(r->root, "normalizer"), r->why);
    if (!err)
        err =
            mlxd_tokenizer_read_pretok(t, member(r->root, "pre_tokenizer"), &r->byte_level, r->why);
    if (!err)
        err = mlxd_tokenizer_read_decoder(t, member(r->root, "decoder"), &r->decoder, r->why);
    if (!err && r->byte_level != r->decoder.byte_level)
        err = mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                        "ByteLevel in only one of pre_tokenizer and decoder");
    if (!err)
        err = read_added_list(r);
    if (!err)
        err = read_added_decoder(r);
    if (!err)
        err = read_named_special(r);
    if (!err)
        err = read_model(r);
    return err ? err : read_ends(r);
}

mlxd_err mlxd_tokenizer_open_json(mlxd_tokenizer **out, const mlxd_tokenizer_files *files,
                                  mlxd_why *why) {
    MLXD_ASSERT(out && files);
    *out = NULL;
    if (files->tokenizer.len == 0)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND, "no " TOKENIZER);
    reader r = {.t = mlxd_tokenizer_new(why), .why = why};
    if (!r.t)
        return MLXD_ERR_NOMEM;
    mlxd_err err = parse(&r, 0, TOKENIZER, files->tokenizer, &r.root);
    if (!err)
        err = parse(&r, 1, CONFIG, files->config, &r.config);
    if (!err)
        err = parse(&r, 2, SPECIAL_MAP, files->special_map, &r.special_map);
    if (!err) {
        err = read_tokenizer(&r);
        if (err)
            mlxd_fail_in(why, err, TOKENIZER);
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(r.docs); i++)
        mlxd_json_close(r.docs[i]);
    mlxd_mem_free(r.defs);
    mlxd_mem_free(r.added);
    if (err) {
        mlxd_tokenizer_close(r.t);
        return err;
    }
    *out = r.t;
    return MLXD_OK;
}
