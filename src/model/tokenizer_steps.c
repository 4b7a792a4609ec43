/* tokenizer_steps.c - the normalizer, pre-tokenizer, decoder and post-processor of tokenizer.json.
 *
 *     normalizer      NFC NFD NFKC NFKD Lowercase Strip Prepend Replace
 *     pre_tokenizer   Split ByteLevel Digits Metaspace Whitespace WhitespaceSplit Punctuation
 *                     CharDelimiterSplit
 *     decoder         ByteLevel Replace ByteFallback Fuse Strip Metaspace
 *     post_processor  TemplateProcessing ByteLevel
 *
 * and Sequence in each. Another one, or one of these with a meaning that mlxd does not give it, is
 * refused by name. Each table has a row per type: the function that reads it.
 */
#include "model/tokenizer_internal.h"

#include "base/limits.h"
#include "format/utf8.h"

#include <string.h>

#define MARK "\xe2\x96\x81" /* U+2581, the blank of SentencePiece */

/* ---- members ---- */

static const mlxd_json *member(const mlxd_json *v, const char *key) {
    const mlxd_json *m = mlxd_json_find(v, key);
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

static mlxd_err get_str(const mlxd_json *v, const char *key, mlxd_slice *out, mlxd_why *why) {
    const mlxd_json *m = member(v, key);
    if (!m || mlxd_json_get_str(m, out))
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: expected a string", key);
    return MLXD_OK;
}

/* A pattern is {"String": text} or {"Regex": expression}. */
static mlxd_err get_pattern(const mlxd_json *v, mlxd_regex **out, mlxd_why *why) {
    const mlxd_json *pattern = member(v, "pattern");
    mlxd_slice text;
    *out = NULL;
    if (!pattern || mlxd_json_get_kind(pattern) != MLXD_JSON_OBJECT)
        return mlxd_fail(why, MLXD_ERR_DATA, "pattern: expected an object");
    if (member(pattern, "Regex")) {
        mlxd_err err = get_str(pattern, "Regex", &text, why);
        mlxd_regex_options options = {.linear = mlxd_pretok_knows(text)};
        return err ? err : mlxd_regex_open(out, text, options, why);
    }
    mlxd_err err = get_str(pattern, "String", &text, why);
    if (!err && text.len == 0)
        err = mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "pattern: an empty string");
    return err ? err : mlxd_regex_open_text(out, text, why);
}

/* ---- the walk over steps ---- */

typedef struct reader {
    mlxd_tokenizer *t;
    mlxd_tokenizer_decoder *decoder;
    mlxd_slice bos;
    bool byte_level; /* ByteLevel was there: nothing may follow */
    bool fused;      /* the decoder's Fuse was there */
    mlxd_why *why;
} reader;

typedef struct step_type {
    const char *name;
    mlxd_err (*read)(reader *r, const mlxd_json *v);
} step_type;

typedef struct step_kind {
    const char *members; /* of a Sequence */
    const step_type *types;
    size_t count;
} step_kind;

static mlxd_err unknown_type(const step_kind *kind, mlxd_slice type, mlxd_why *why) {
    mlxd_buf known;
    mlxd_buf_init(&known, 0);
    for (size_t i = 0; i < kind->count; i++)
        mlxd_buf_addf(&known, " %s", kind->types[i].name);
    mlxd_err err =
        mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "\"%.*s\" is not known; known:%s Sequence",
                  (int)MLXD_MIN(type.len, 64), (const char *)type.data, mlxd_buf_str(&known));
    mlxd_buf_deinit(&known);
    return err;
}

/* As deep as the document is nested. */
static mlxd_err read_steps(reader *r, const step_kind *kind, const mlxd_json *v) {
    mlxd_slice type;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "expected an object");
    mlxd_err err = get_str(v, "type", &type, r->why);
    if (err)
        return err;
    for (size_t i = 0; i < kind->count; i++) {
        if (!mlxd_slice_eq(type, mlxd_slice_str(kind->types[i].name)))
            continue;
        if (r->byte_level) /* it turns text into bytes, of which the next one would know nothing */
            return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "%s behind ByteLevel",
                             kind->types[i].name);
        err = kind->types[i].read(r, v);
        return err ? mlxd_fail_in(r->why, err, "%s", kind->types[i].name) : MLXD_OK;
    }
    if (!mlxd_slice_eq(type, mlxd_slice_str("Sequence")))
        return unknown_type(kind, type, r->why);
    const mlxd_json *list = member(v, kind->members);
    if (!list || mlxd_json_get_kind(list) != MLXD_JSON_ARRAY)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "%s: expected an array", kind->members);
    for (const mlxd_json *s = mlxd_json_first(list, NULL); s && !err;
         s = mlxd_json_next(list, s, NULL))
        err = read_steps(r, kind, s);
    return err;
}

static mlxd_err read_part(reader *r, const char *name, const step_kind *kind, const mlxd_json *v) {
    if (!v || mlxd_json_get_kind(v) == MLXD_JSON_NULL)
        return MLXD_OK;
    mlxd_err err = read_steps(r, kind, v);
    return err ? mlxd_fail_in(r->why, err, "%s", name) : MLXD_OK;
}

/* ---- normalizer ---- */

static mlxd_err add_form(reader *r, mlxd_unicode_form form) {
    mlxd_normalizer_step s = {.kind = MLXD_NORMALIZE_FORM, .form = form};
    return mlxd_normalizer_add(&r->t->normalizer, s, (mlxd_slice){0}, r->why);
}

static mlxd_err read_nfc(reader *r, const mlxd_json *v) {
    (void)v;
    return add_form(r, MLXD_UNICODE_NFC);
}

static mlxd_err read_nfd(reader *r, const mlxd_json *v) {
    (void)v;
    return add_form(r, MLXD_UNICODE_NFD);
}

static mlxd_err read_nfkc(reader *r, const mlxd_json *v) {
    (void)v;
    return add_form(r, MLXD_UNICODE_NFKC);
}

static mlxd_err read_nfkd(reader *r, const mlxd_json *v) {
    (void)v;
    return add_form(r, MLXD_UNICODE_NFKD);
}

static mlxd_err read_lowercase(reader *r, const mlxd_json *v) {
    (void)v;
    mlxd_normalizer_step s = {.kind = MLXD_NORMALIZE_LOWER};
    return mlxd_normalizer_add(&r->t->normalizer, s, (mlxd_slice){0}, r->why);
}

/* Strip: white space at the ends, as replacements. */
static mlxd_err read_strip(reader *r, const mlxd_json *v) {
    static const char *const keys[] = {"strip_left", "strip_right"};
    static const char *const patterns[] = {"\\A\\s+", "\\s+\\z"};
    for (size_t i = 0; i < 2; i++) {
        bool wanted;
        mlxd_err err = get_bool(v, keys[i], true, &wanted, r->why);
        mlxd_normalizer_step s = {.kind = MLXD_NORMALIZE_REPLACE};
        if (!err && wanted)
            err = mlxd_regex_open(&s.pattern, mlxd_slice_str(patterns[i]), (mlxd_regex_options){0},
                                  r->why);
        if (!err && wanted)
            err = mlxd_normalizer_add(&r->t->normalizer, s, (mlxd_slice){0}, r->why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

static mlxd_err read_prepend(reader *r, const mlxd_json *v) {
    mlxd_slice text;
    mlxd_normalizer_step s = {.kind = MLXD_NORMALIZE_PREPEND};
    mlxd_err err = get_str(v, "prepend", &text, r->why);
    return err ? err : mlxd_normalizer_add(&r->t->normalizer, s, text, r->why);
}

static mlxd_err read_replace(reader *r, const mlxd_json *v) {
    mlxd_slice text;
    mlxd_normalizer_step s = {.kind = MLXD_NORMALIZE_REPLACE};
    mlxd_err err = get_str(v, "content", &text, r->why);
    if (!err)
        err = get_pattern(v, &s.pattern, r->why);
    return err ? err : mlxd_normalizer_add(&r->t->normalizer, s, text, r->why);
}

mlxd_err mlxd_tokenizer_read_normalizer(mlxd_tokenizer *t, const mlxd_json *v, mlxd_why *why) {
    static const step_type types[] = {
        {"NFC", read_nfc},
        {"NFD", read_nfd},
        {"NFKC", read_nfkc},
        {"NFKD", read_nfkd},
        {"Lowercase", read_lowercase},
        {"Strip", read_strip},
        {"Prepend", read_prepend},
        {"Replace", read_replace},
    };
    static const step_kind kind = {"normalizers", types, MLXD_COUNT_OF(types)};
    reader r = {.t = t, .why = why};
    return read_part(&r, "normalizer", &kind, v);
}

/* ---- pre-tokenizer ---- */

static mlxd_err get_behavior(const mlxd_json *v, mlxd_pretok_behavior *out, mlxd_why *why) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    mlxd_slice name = {0};
    mlxd_err err = get_str(v, "behavior", &name, why);
    if (err)
        return err;
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        *out = (mlxd_pretok_behavior)i;
        if (mlxd_slice_eq(name, mlxd_slice_str(names[i])))
            return MLXD_OK;
    }
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "behavior \"%.*s\" is not known",
                     (int)MLXD_MIN(name.len, 64), (const char *)name.data);
}

static mlxd_err add_split(reader *r, const char *pattern, mlxd_pretok_behavior behavior,
                          bool invert) {
    return mlxd_pretok_add_split(&r->t->pretok, mlxd_slice_str(pattern), behavior, invert, true,
                                 r->why);
}

static mlxd_err read_split(reader *r, const mlxd_json *v) {
    mlxd_pretok_step s = {0};
    mlxd_err err = get_behavior(v, &s.behavior, r->why);
    if (!err)
        err = get_bool(v, "invert", false, &s.invert, r->why);
    if (!err)
        err = get_pattern(v, &s.pattern, r->why);
    return err ? err : mlxd_pretok_add(&r->t->pretok, s, r->why);
}

static mlxd_err read_byte_level(reader *r, const mlxd_json *v) {
    bool prefix, split;
    mlxd_err err = get_bool(v, "add_prefix_space", true, &prefix, r->why);
    if (!err)
        err = get_bool(v, "use_regex", true, &split, r->why);
    mlxd_pretok_step s = {.prefix = MLXD_PRETOK_ALWAYS};
    if (!err && prefix)
        err = mlxd_pretok_add(&r->t->pretok, s, r->why);
    if (!err && split)
        err = mlxd_pretok_add_split(&r->t->pretok, mlxd_pretok_gpt2(), MLXD_PRETOK_ISOLATED, false,
                                    true, r->why);
    r->byte_level = true;
    return err;
}

static mlxd_err read_digits(reader *r, const mlxd_json *v) {
    bool single;
    mlxd_err err = get_bool(v, "individual_digits", false, &single, r->why);
    return err ? err : add_split(r, single ? "\\p{N}" : "\\p{N}+", MLXD_PRETOK_ISOLATED, false);
}

/* Where a Metaspace puts its mark; older files say it with add_prefix_space. */
static mlxd_err get_scheme(const mlxd_json *v, mlxd_pretok_prefix *out, mlxd_why *why) {
    static const char *const names[] = {"never", "first", "always"};
    mlxd_slice mark, name;
    bool prefix;
    mlxd_err err = get_str(v, "replacement", &mark, why);
    if (!err && !mlxd_slice_eq(mark, mlxd_slice_str(MARK)))
        err = mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "replacement \"%.*s\", expected U+2581",
                        (int)MLXD_MIN(mark.len, 64), (const char *)mark.data);
    if (!err)
        err = get_bool(v, "add_prefix_space", true, &prefix, why);
    if (err)
        return err;
    *out = prefix ? MLXD_PRETOK_ALWAYS : MLXD_PRETOK_NEVER;
    if (!member(v, "prepend_scheme"))
        return MLXD_OK;
    err = get_str(v, "prepend_scheme", &name, why);
    if (err)
        return err;
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        *out = (mlxd_pretok_prefix)i;
        if (mlxd_slice_eq(name, mlxd_slice_str(names[i])))
            return MLXD_OK;
    }
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "prepend_scheme \"%.*s\" is not known",
                     (int)MLXD_MIN(name.len, 64), (const char *)name.data);
}

static mlxd_err read_metaspace(reader *r, const mlxd_json *v) {
    bool split;
    mlxd_pretok_step s = {.metaspace = true, .behavior = MLXD_PRETOK_MERGED_WITH_NEXT};
    mlxd_err err = get_scheme(v, &s.prefix, r->why);
    if (!err)
        err = get_bool(v, "split", true, &split, r->why);
    if (!err && split)
        err = mlxd_regex_open_text(&s.pattern, mlxd_slice_str(MARK), r->why);
    return err ? err : mlxd_pretok_add(&r->t->pretok, s, r->why);
}

/* \w of the library that Whitespace uses: not all numbers, but the joiners. */
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"                       \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

static mlxd_err read_whitespace(reader *r, const mlxd_json *v) {
    (void)v;
    return add_split(r, "[" WORD "]+|[^" WORD "\\s]+", MLXD_PRETOK_REMOVED, true);
}

static mlxd_err read_whitespace_split(reader *r, const mlxd_json *v) {
    (void)v;
    return add_split(r, "\\s", MLXD_PRETOK_REMOVED, false);
}

static mlxd_err read_punctuation(reader *r, const mlxd_json *v) {
    mlxd_pretok_behavior behavior = MLXD_PRETOK_ISOLATED;
    mlxd_err err = member(v, "behavior") ? get_behavior(v, &behavior, r->why) : MLXD_OK;
    return err ? err : add_split(r, "[\\p{P}$+<=>^`|~]", behavior, false);
}

static mlxd_err read_delimiter(reader *r, const mlxd_json *v) {
    mlxd_slice text;
    mlxd_pretok_step s = {.behavior = MLXD_PRETOK_REMOVED};
    mlxd_err err = get_str(v, "delimiter", &text, r->why);
    if (!err && text.len == 0)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "delimiter: an empty string");
    if (!err)
        err = mlxd_regex_open_text(&s.pattern, text, r->why);
    return err ? err : mlxd_pretok_add(&r->t->pretok, s, r->why);
}

mlxd_err mlxd_tokenizer_read_pretok(mlxd_tokenizer *t, const mlxd_json *v, bool *byte_level,
                                    mlxd_why *why) {
    static const step_type types[] = {
        {"Split", read_split},
        {"ByteLevel", read_byte_level},
        {"Digits", read_digits},
        {"Metaspace", read_metaspace},
        {"Whitespace", read_whitespace},
        {"WhitespaceSplit", read_whitespace_split},
        {"Punctuation", read_punctuation},
        {"CharDelimiterSplit", read_delimiter},
    };
    static const step_kind kind = {"pretokenizers", types, MLXD_COUNT_OF(types)};
    reader r = {.t = t, .why = why};
    mlxd_err err = read_part(&r, "pre_tokenizer", &kind, v);
    *byte_level = r.byte_level;
    return err;
}

/* ---- decoder ---- */

static mlxd_err decode_byte_level(reader *r, const mlxd_json *v) {
    (void)v;
    r->decoder->byte_level = r->byte_level = true;
    return MLXD_OK;
}

/* Replacements are made in each token, once, when the vocabulary is read. */
static mlxd_err decode_replacement(reader *r, mlxd_slice from, mlxd_slice to) {
    mlxd_lexicon_style *s = &r->decoder->style;
    if (r->fused)
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "it stands behind Fuse");
    if (s->n_shown == MLXD_LEXICON_SHOWN_MAX)
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "more than %d replacements",
                         MLXD_LEXICON_SHOWN_MAX);
    s->shown[s->n_shown].from = from;
    s->shown[s->n_shown++].to = to;
    return MLXD_OK;
}

static mlxd_err decode_replace(reader *r, const mlxd_json *v) {
    const mlxd_json *pattern = member(v, "pattern");
    mlxd_slice from = {0}, to;
    mlxd_err err = get_str(v, "content", &to, r->why);
    if (err)
        return err;
    if (!pattern || mlxd_json_get_kind(pattern) != MLXD_JSON_OBJECT || !member(pattern, "String"))
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "a pattern that is not a String");
    err = get_str(pattern, "String", &from, r->why);
    if (!err && from.len == 0)
        err = mlxd_fail(r->why, MLXD_ERR_DATA, "an empty pattern");
    return err ? err : decode_replacement(r, from, to);
}

static mlxd_err decode_byte_fallback(reader *r, const mlxd_json *v) {
    (void)v;
    if (r->fused)
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED, "it stands behind Fuse");
    r->decoder->byte_fallback = true;
    return MLXD_OK;
}

static mlxd_err decode_fuse(reader *r, const mlxd_json *v) {
    (void)v;
    r->fused = true;
    return MLXD_OK;
}

static mlxd_err decode_strip(reader *r, const mlxd_json *v) {
    mlxd_slice text;
    int64_t start, stop;
    const mlxd_json *first = member(v, "start"), *last = member(v, "stop");
    mlxd_err err = get_str(v, "content", &text, r->why);
    if (err)
        return err;
    if (!first || mlxd_json_get_int64(first, &start) || !last || mlxd_json_get_int64(last, &stop) ||
        start < 0)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "start, stop: expected integers");
    if (!r->fused || !mlxd_slice_eq(text, mlxd_slice_str(" ")) || stop != 0 || start > UINT8_MAX)
        return mlxd_fail(r->why, MLXD_ERR_UNSUPPORTED,
                         "only blanks at the beginning, behind Fuse, are known");
    r->t->strip.blanks = (uint8_t)start;
    return MLXD_OK;
}

static mlxd_err decode_metaspace(reader *r, const mlxd_json *v) {
    mlxd_pretok_prefix prefix;
    mlxd_err err = get_scheme(v, &prefix, r->why);
    if (err)
        return err;
    r->t->strip.first_token = prefix != MLXD_PRETOK_NEVER;
    return decode_replacement(r, mlxd_slice_str(MARK), mlxd_slice_str(" "));
}

mlxd_err mlxd_tokenizer_read_decoder(mlxd_tokenizer *t, const mlxd_json *v,
                                     mlxd_tokenizer_decoder *out, mlxd_why *why) {
    static const step_type types[] = {
        {"ByteLevel", decode_byte_level},
        {"Replace", decode_replace},
        {"ByteFallback", decode_byte_fallback},
        {"Fuse", decode_fuse},
        {"Strip", decode_strip},
        {"Metaspace", decode_metaspace},
    };
    static const step_kind kind = {"decoders", types, MLXD_COUNT_OF(types)};
    reader r = {.t = t, .decoder = out, .why = why};
    if (!v || mlxd_json_get_kind(v) == MLXD_JSON_NULL)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "decoder: none, which would put blanks between all tokens");
    return read_part(&r, "decoder", &kind, v);
}

/* ---- post-processor ---- */

/* {"SpecialToken": {"id": text}}; the empty slice: something else. */
static mlxd_slice special_token(const mlxd_json *v) {
    mlxd_slice text = {0};
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return text;
    const mlxd_json *token = member(v, "SpecialToken");
    if (!token || mlxd_json_get_kind(token) != MLXD_JSON_OBJECT)
        return text;
    const mlxd_json *id = member(token, "id");
    if (!id || mlxd_json_get_str(id, &text))
        return (mlxd_slice){0};
    return text;
}

/* One token in front of the text is BOS; of several ([gMASK]<sop>), none is. */
static mlxd_err post_template(reader *r, const mlxd_json *v) {
    const mlxd_json *single = member(v, "single");
    if (!single || mlxd_json_get_kind(single) != MLXD_JSON_ARRAY)
        return mlxd_fail(r->why, MLXD_ERR_DATA, "single: expected an array");
    size_t count = mlxd_json_count(single);
    if (count > 0 && (count == 1 || special_token(mlxd_json_at(single, 1)).len == 0))
        r->bos = special_token(mlxd_json_at(single, 0));
    return MLXD_OK;
}

static mlxd_err post_byte_level(reader *r, const mlxd_json *v) {
    (void)r;
    (void)v;
    return MLXD_OK;
}

mlxd_err mlxd_tokenizer_read_post(const mlxd_json *v, mlxd_slice *bos, mlxd_why *why) {
    static const step_type types[] = {
        {"TemplateProcessing", post_template},
        {"ByteLevel", post_byte_level},
    };
    static const step_kind kind = {"processors", types, MLXD_COUNT_OF(types)};
    reader r = {.why = why};
    mlxd_err err = read_part(&r, "post_processor", &kind, v);
    *bos = r.bos;
    return err;
}
