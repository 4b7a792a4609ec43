/* tokenizer.c - see tokenizer.h: lets text run through the parts that the readers have filled. */
#include "model/tokenizer_internal.h"

#include "base/limits.h"
#include "format/utf8.h"

/* Normalizing makes a text longer: decompositions up to 18 characters for one, prefixes, U+2581
 * for a blank. Each step is bounded by this. */
#define NORMALIZED_MAX ((size_t)8 * MLXD_LIMIT_TEXT_BYTES)

/* ---- making and closing ---- */

mlxd_tokenizer *mlxd_tokenizer_new(mlxd_why *why) {
    mlxd_tokenizer *t = mlxd_mem_new(1, sizeof *t);
    if (!t) {
        mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the tokenizer");
        return NULL;
    }
    mlxd_special_init(&t->added);
    mlxd_special_init(&t->normalized);
    t->bos = t->eos = -1;
    return t;
}

static bool in_vocab(const mlxd_tokenizer *t, int64_t id) {
    return id >= 0 && (uint64_t)id < t->lexicon.count;
}

mlxd_err mlxd_tokenizer_add_end(mlxd_tokenizer *t, int64_t id, mlxd_why *why) {
    MLXD_ASSERT(t);
    if (!in_vocab(t, id))
        return mlxd_fail(why, MLXD_ERR_DATA, "end-of-turn token %lld of a vocabulary of %zu",
                         (long long)id, t->lexicon.count);
    if (mlxd_tokenizer_is_end(t, (int32_t)id))
        return MLXD_OK;
    if (t->n_ends == MLXD_TOKENIZER_ENDS_MAX)
        return mlxd_fail(why, MLXD_ERR_DATA, "more than %d end-of-turn tokens",
                         MLXD_TOKENIZER_ENDS_MAX);
    t->ends[t->n_ends++] = (int32_t)id;
    return MLXD_OK;
}

bool mlxd_tokenizer_has_end(const mlxd_tokenizer *t) {
    return t->n_ends > 0;
}

static bool has_control(const mlxd_tokenizer *t, const char *text) {
    int32_t id = mlxd_special_find(&t->added, mlxd_slice_str(text));
    return id >= 0 && mlxd_tokenizer_is_control(t, id);
}

static mlxd_err add_named_ends(mlxd_tokenizer *t, mlxd_why *why) {
    /* In Harmony a turn is several messages, each of which <|end|> ends. */
    bool harmony = has_control(t, "<|return|>") && has_control(t, "<|call|>");
    const mlxd_special *tables[] = {&t->added, &t->normalized};
    mlxd_err err = MLXD_OK;
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < tables[k]->count && !err; i++) {
            mlxd_special_entry e = tables[k]->entries[i];
            mlxd_slice text = {tables[k]->texts.data + e.at, e.len};
            if (mlxd_tokenizer_is_control(t, e.id) && mlxd_lexicon_names_end(text) &&
                !(harmony && mlxd_slice_eq(text, mlxd_slice_str("<|end|>"))))
                err = mlxd_tokenizer_add_end(t, e.id, why);
        }
    }
    return err;
}

mlxd_err mlxd_tokenizer_finish(mlxd_tokenizer *t, const char *where, mlxd_why *why) {
    mlxd_err err = mlxd_special_finish(&t->added, where, why);
    if (!err)
        err = mlxd_special_finish(&t->normalized, where, why);
    if (!err && t->eos >= 0)
        err = mlxd_tokenizer_add_end(t, t->eos, why);
    return err ? err : add_named_ends(t, why);
}

/* Can a text without added tokens give an id from `rows` on? */
static bool makes_beyond(const mlxd_tokenizer *t, size_t rows) {
    bool beyond = t->bpe.unknown >= (int64_t)rows;
    for (size_t i = 0; i < 256; i++)
        beyond |= t->bpe.byte_ids[i] >= (int64_t)rows;
    for (size_t id = rows; id < t->lexicon.count && !beyond; id++) {
        mlxd_slice text = mlxd_lexicon_text(&t->lexicon, (int32_t)id);
        beyond = mlxd_lexicon_find(&t->lexicon, text) == (int32_t)id;
    }
    return beyond;
}

mlxd_err mlxd_tokenizer_fit(mlxd_tokenizer *t, size_t rows, mlxd_why *why) {
    MLXD_ASSERT(t);
    if (rows >= t->lexicon.count)
        return MLXD_OK;
    if (makes_beyond(t, rows))
        return mlxd_fail(why, MLXD_ERR_DATA, "the tokenizer has %zu tokens, the embedding %zu rows",
                         t->lexicon.count, rows);
    if (t->add_bos && t->bos >= (int64_t)rows)
        return mlxd_fail(why, MLXD_ERR_DATA, "a text is to begin with token %d of %zu", t->bos,
                         rows);
    t->bos = t->bos < (int64_t)rows ? t->bos : -1;
    t->eos = t->eos < (int64_t)rows ? t->eos : -1;
    t->lexicon.count = rows;
    mlxd_special_cut(&t->added, (int32_t)rows);
    mlxd_special_cut(&t->normalized, (int32_t)rows);
    size_t kept = 0;
    for (size_t i = 0; i < t->n_ends; i++)
        if (in_vocab(t, t->ends[i]))
            t->ends[kept++] = t->ends[i];
    t->n_ends = kept;
    return MLXD_OK;
}

void mlxd_tokenizer_close(mlxd_tokenizer *t) {
    if (!t)
        return;
    mlxd_special_deinit(&t->added);
    mlxd_special_deinit(&t->normalized);
    mlxd_pretok_deinit(&t->pretok);
    mlxd_normalizer_deinit(&t->normalizer);
    mlxd_bpe_deinit(&t->bpe);
    mlxd_lexicon_deinit(&t->lexicon);
    mlxd_mem_free(t);
}

/* ---- what is in it ---- */

size_t mlxd_tokenizer_vocab(const mlxd_tokenizer *t) {
    return t->lexicon.count;
}

int32_t mlxd_tokenizer_bos(const mlxd_tokenizer *t) {
    return t->bos;
}

int32_t mlxd_tokenizer_eos(const mlxd_tokenizer *t) {
    return t->eos;
}

bool mlxd_tokenizer_add_bos(const mlxd_tokenizer *t) {
    return t->add_bos;
}

bool mlxd_tokenizer_jit(const mlxd_tokenizer *t) {
    return mlxd_pretok_jit(&t->pretok);
}

bool mlxd_tokenizer_is_end(const mlxd_tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id)
            return true;
    return false;
}

bool mlxd_tokenizer_is_control(const mlxd_tokenizer *t, int32_t id) {
    if (!in_vocab(t, id))
        return false;
    mlxd_token_type type = mlxd_lexicon_type(&t->lexicon, id);
    return type == MLXD_TOKEN_CONTROL || type == MLXD_TOKEN_UNKNOWN;
}

mlxd_slice mlxd_tokenizer_bytes(const mlxd_tokenizer *t, int32_t id) {
    return in_vocab(t, id) ? mlxd_lexicon_shown(&t->lexicon, id) : (mlxd_slice){0};
}

int32_t mlxd_tokenizer_find(const mlxd_tokenizer *t, mlxd_slice text) {
    int32_t id = mlxd_special_find(&t->added, text);
    if (id < 0)
        id = mlxd_special_find(&t->normalized, text);
    return id >= 0 ? id : mlxd_lexicon_find(&t->lexicon, text);
}

/* ---- encode ---- */

void mlxd_tokens_deinit(mlxd_tokens *t) {
    mlxd_mem_free(t->ids);
    *t = (mlxd_tokens){0};
}

mlxd_err mlxd_tokens_add(mlxd_tokens *t, int32_t id, size_t tokens_max) {
    if (tokens_max && t->count >= tokens_max)
        return MLXD_ERR_RANGE;
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        int32_t *p = mlxd_mem_resize(t->ids, cap, sizeof *p);
        if (!p)
            return MLXD_ERR_NOMEM;
        t->ids = p;
        t->cap = cap;
    }
    t->ids[t->count++] = id;
    return MLXD_OK;
}

/* One call of encode. */
typedef struct job {
    const mlxd_tokenizer *t;
    mlxd_regex_work *regex;
    mlxd_normalizer_work normalize;
    mlxd_pretok_work pretok;
    mlxd_bpe_work bpe;
    size_t tokens_max;
    mlxd_tokens *out;
    mlxd_why *why;
} job;

static mlxd_err explain(const job *j, mlxd_err err) {
    if (err == MLXD_ERR_RANGE)
        return mlxd_fail(j->why, err, "the text has more than %zu tokens", j->tokens_max);
    if (err == MLXD_ERR_NOMEM)
        return mlxd_fail(j->why, err, "no memory for tokenizing");
    return err;
}

static mlxd_err encode_word(void *ctx, mlxd_slice word) {
    job *j = ctx;
    mlxd_err err = mlxd_bpe_encode(&j->t->bpe, &j->bpe, word, j->tokens_max, j->out);
    return err ? explain(j, err) : MLXD_OK;
}

static mlxd_err add_id(job *j, int32_t id) {
    mlxd_err err = mlxd_tokens_add(j->out, id, j->tokens_max);
    return err ? explain(j, err) : MLXD_OK;
}

/* Gets a text between added tokens; `first`: it begins the whole text. */
typedef mlxd_err (*plain_fn)(job *j, mlxd_special_scan piece, bool first);

/* The part [start, end) of `whole`, with the ranges from there on. Parts are taken in order. */
static mlxd_special_scan part_of(mlxd_special_scan *whole, size_t start, size_t end) {
    while (whole->n_plain > 0 && whole->plain->end <= whole->base + start) {
        whole->plain++;
        whole->n_plain--;
    }
    return (mlxd_special_scan){
        .text = {whole->text.data + start, end - start},
        .plain = whole->plain,
        .n_plain = whole->n_plain,
        .base = whole->base + start,
    };
}

/* The added tokens of `table` become ids, what is between them goes to `plain`. */
static mlxd_err encode_between(job *j, const mlxd_special *table, mlxd_special_scan whole,
                               bool first, plain_fn plain) {
    mlxd_special_scan scan = whole;
    for (size_t at = 0; at < whole.text.len;) {
        mlxd_special_match m = {whole.text.len, whole.text.len, -1};
        bool found = mlxd_special_next(table, &scan, &m);
        mlxd_err err = MLXD_OK;
        if (m.start > at)
            err = plain(j, part_of(&whole, at, m.start), first && at == 0);
        if (!err && found)
            err = add_id(j, m.id);
        if (err)
            return err;
        at = m.end;
    }
    return MLXD_OK;
}

static mlxd_err encode_words(job *j, mlxd_special_scan piece, bool first) {
    return mlxd_pretok_run(&j->t->pretok, &j->pretok, piece.text, first, encode_word, j, j->why);
}

static mlxd_err encode_raw(job *j, mlxd_special_scan piece, bool first) {
    mlxd_slice text;
    mlxd_err err = mlxd_normalizer_run(&j->t->normalizer, &j->normalize, j->regex, piece.text,
                                       NORMALIZED_MAX, &text, j->why);
    if (err)
        return err;
    mlxd_text_range all = {0, text.len};
    bool mixed = piece.n_plain > 0 && piece.plain->start < piece.base + piece.text.len;
    if (mlxd_slice_eq(text, piece.text)) {
        piece.text = text;
    } else { /* where a range begins in the new text is not known: all of it is untrusted */
        piece = (mlxd_special_scan){.text = text, .plain = &all, .n_plain = mixed};
    }
    return encode_between(j, &j->t->normalized, piece, first, encode_words);
}

mlxd_err mlxd_tokenizer_encode_parts(const mlxd_tokenizer *t, mlxd_slice text,
                                     const mlxd_text_range *plain, size_t n_plain,
                                     size_t tokens_max, mlxd_tokens *out, mlxd_why *why) {
    MLXD_ASSERT(t && out);
    for (size_t i = 0; i < n_plain; i++)
        MLXD_ASSERT(plain[i].start <= plain[i].end && plain[i].end <= text.len &&
                    (i == 0 || plain[i - 1].end <= plain[i].start));
    if (text.len > MLXD_LIMIT_TEXT_BYTES)
        return mlxd_fail(why, MLXD_ERR_RANGE, "the text has %zu bytes, limit %u", text.len,
                         MLXD_LIMIT_TEXT_BYTES);
    size_t good = mlxd_utf8_check(text);
    if (good != text.len)
        return mlxd_fail(why, MLXD_ERR_INVALID, "the text is not UTF-8 at byte %zu", good);
    job j = {.t = t, .tokens_max = tokens_max, .out = out, .why = why};
    j.regex = mlxd_regex_work_open(text.len);
    if (!j.regex)
        return explain(&j, MLXD_ERR_NOMEM);
    mlxd_normalizer_work_init(&j.normalize);
    mlxd_pretok_work_init(&j.pretok, j.regex);
    mlxd_special_scan whole = {.text = text, .plain = plain, .n_plain = n_plain};
    mlxd_err err = encode_between(&j, &t->added, whole, true, encode_raw);
    mlxd_bpe_work_deinit(&j.bpe);
    mlxd_pretok_work_deinit(&j.pretok);
    mlxd_normalizer_work_deinit(&j.normalize);
    mlxd_regex_work_close(j.regex);
    return err;
}

mlxd_err mlxd_tokenizer_encode(const mlxd_tokenizer *t, mlxd_slice text, bool special,
                               size_t tokens_max, mlxd_tokens *out, mlxd_why *why) {
    mlxd_text_range all = {0, text.len};
    return mlxd_tokenizer_encode_parts(t, text, &all, special ? 0 : 1, tokens_max, out, why);
}
