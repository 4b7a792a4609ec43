/* tokenizer.c - see tokenizer.h: opens the parts and lets text run through them.
 *
 *     text --special.c--> control and user-defined tokens, and between them plain text
 *          --pretok.c---> pre-tokens --bpe.c--> ids
 */
#include "model/tokenizer.h"

#include "format/utf8.h"
#include "model/bpe.h"
#include "model/lexicon.h"
#include "model/pretok.h"
#include "model/special.h"

#define ENDS_MAX 64

struct mlxd_tokenizer {
    mlxd_lexicon lexicon;
    mlxd_bpe bpe;
    mlxd_pretok *pretok;
    mlxd_special user;    /* user-defined tokens: matched in every text */
    mlxd_special special; /* those and control tokens: matched in trusted text */
    int32_t bos, eos;     /* -1: none */
    bool add_bos;
    int32_t ends[ENDS_MAX];
    size_t n_ends;
};

/* ---- open ---- */

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

static void add_end(mlxd_tokenizer *t, int32_t id) {
    if (id < 0 || mlxd_tokenizer_is_end(t, id))
        return;
    MLXD_ASSERT(t->n_ends < ENDS_MAX); /* three keys and the names in lexicon.c */
    t->ends[t->n_ends++] = id;
}

static mlxd_err read_ids(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    int32_t eot, eom;
    mlxd_err err = read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, why);
    if (!err)
        err = read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, why);
    if (!err)
        err = read_id(t, g, "tokenizer.ggml.eot_token_id", &eot, why);
    if (!err)
        err = read_id(t, g, "tokenizer.ggml.eom_token_id", &eom, why);
    if (!err && mlxd_gguf_has(g, "tokenizer.ggml.add_bos_token"))
        err = mlxd_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, why);
    if (err)
        return err;
    add_end(t, t->eos);
    add_end(t, eot);
    add_end(t, eom);
    /* In Harmony a turn is several messages, each of which <|end|> ends. */
    bool harmony = mlxd_special_find(&t->special, mlxd_slice_str("<|return|>")) >= 0 &&
                   mlxd_special_find(&t->special, mlxd_slice_str("<|call|>")) >= 0;
    for (size_t i = 0; i < t->special.count; i++) {
        mlxd_special_entry e = t->special.entries[i];
        if (mlxd_tokenizer_is_control(t, e.id) && mlxd_lexicon_names_end(e.text) &&
            !(harmony && mlxd_slice_eq(e.text, mlxd_slice_str("<|end|>"))))
            add_end(t, e.id);
    }
    if (t->add_bos && t->bos < 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "tokenizer.ggml.add_bos_token is true, and there is no bos_token_id");
    return MLXD_OK;
}

static mlxd_err get_name(const mlxd_gguf *g, const char *key, const char *names, mlxd_slice *out,
                         mlxd_why *why) {
    mlxd_err err = mlxd_gguf_get_str(g, key, out, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s is missing; known: %s", key, names);
    return err;
}

static mlxd_err read_parts(mlxd_tokenizer *t, const mlxd_gguf *g, mlxd_why *why) {
    mlxd_slice model, pre;
    mlxd_err err = get_name(g, "tokenizer.ggml.model", "gpt2", &model, why);
    if (err)
        return err;
    if (!mlxd_slice_eq(model, mlxd_slice_str("gpt2")))
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "tokenizer.ggml.model: tokenizer \"%.*s\" is not known; known: gpt2",
                         (int)MLXD_MIN(model.len, 64), (const char *)model.data);
    err = get_name(g, "tokenizer.ggml.pre", mlxd_pretok_names(), &pre, why);
    if (!err)
        err = mlxd_pretok_open(&t->pretok, pre, true, why);
    if (!err)
        err = mlxd_lexicon_init(&t->lexicon, g, why);
    if (!err)
        err = mlxd_bpe_init(&t->bpe, &t->lexicon, g, why);
    if (!err)
        err = mlxd_special_init(&t->user, &t->lexicon, false, why);
    if (!err)
        err = mlxd_special_init(&t->special, &t->lexicon, true, why);
    if (!err)
        err = read_ids(t, g, why);
    return err;
}

mlxd_err mlxd_tokenizer_open(mlxd_tokenizer **out, const mlxd_gguf *g, mlxd_why *why) {
    MLXD_ASSERT(out && g);
    *out = NULL;
    mlxd_tokenizer *t = mlxd_mem_new(1, sizeof *t);
    if (!t)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the tokenizer");
    mlxd_err err = read_parts(t, g, why);
    if (err) {
        mlxd_tokenizer_close(t);
        return err;
    }
    *out = t;
    return MLXD_OK;
}

void mlxd_tokenizer_close(mlxd_tokenizer *t) {
    if (!t)
        return;
    mlxd_special_deinit(&t->special);
    mlxd_special_deinit(&t->user);
    mlxd_bpe_deinit(&t->bpe);
    mlxd_lexicon_deinit(&t->lexicon);
    mlxd_pretok_close(t->pretok);
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
    return mlxd_pretok_jit(t->pretok);
}

static bool in_vocab(const mlxd_tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->lexicon.count;
}

bool mlxd_tokenizer_is_end(const mlxd_tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id)
            return true;
    return false;
}

mlxd_err mlxd_tokenizer_add_end(mlxd_tokenizer *t, int32_t id, mlxd_why *why) {
    if (!in_vocab(t, id))
        return mlxd_fail(why, MLXD_ERR_DATA, "token %d of a vocabulary of %zu", (int)id,
                         t->lexicon.count);
    if (t->n_ends == ENDS_MAX)
        return mlxd_fail(why, MLXD_ERR_DATA, "more than %d end-of-turn tokens", ENDS_MAX);
    add_end(t, id);
    return MLXD_OK;
}

bool mlxd_tokenizer_is_control(const mlxd_tokenizer *t, int32_t id) {
    if (!in_vocab(t, id))
        return false;
    mlxd_token_type type = mlxd_lexicon_type(&t->lexicon, id);
    return type == MLXD_TOKEN_CONTROL || type == MLXD_TOKEN_UNKNOWN;
}

mlxd_slice mlxd_tokenizer_bytes(const mlxd_tokenizer *t, int32_t id) {
    return in_vocab(t, id) ? mlxd_lexicon_bytes(&t->lexicon, id) : (mlxd_slice){0};
}

int32_t mlxd_tokenizer_find(const mlxd_tokenizer *t, mlxd_slice text) {
    int32_t id = mlxd_special_find(&t->special, text);
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
    mlxd_pretok_scan *scan;
    mlxd_bpe_work work;
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

static mlxd_err encode_plain(job *j, mlxd_slice text) {
    for (size_t at = 0, end; at < text.len; at = end) {
        mlxd_err err = mlxd_pretok_next(j->scan, text, at, &end, j->why);
        if (err)
            return err;
        err = mlxd_bpe_encode(&j->t->bpe, &j->work, (mlxd_slice){text.data + at, end - at},
                              j->tokens_max, j->out);
        if (err)
            return explain(j, err);
    }
    return MLXD_OK;
}

/* Where special tokens are looked for: user-defined ones everywhere, control tokens in trusted
 * spans. The next one of each kind is kept until it is passed, so the text is searched once. */
typedef struct finder {
    const mlxd_tokenizer *t;
    mlxd_slice text;
    const mlxd_span *trusted;
    size_t n_trusted, span;
    mlxd_special_match user, any; /* `any`: within one trusted span */
} finder;

/* The first match at or behind `from` inside of a trusted span; none: at the end of the text. */
static mlxd_special_match next_trusted(finder *f, size_t from) {
    mlxd_special_match m;
    for (; f->span < f->n_trusted; f->span++) {
        mlxd_span s = f->trusted[f->span];
        MLXD_ASSERT(s.start < s.end && s.end <= f->text.len);
        size_t at = MLXD_MAX(from, s.start);
        mlxd_slice head = {f->text.data, s.end};
        if (at < s.end && mlxd_special_next(&f->t->special, head, at, &m))
            return m;
    }
    return (mlxd_special_match){f->text.len, f->text.len, -1};
}

/* Leftmost, then longest, of what is allowed at its place. */
static mlxd_special_match next_special(finder *f, size_t from) {
    if (f->user.id >= 0 && f->user.start < from &&
        !mlxd_special_next(&f->t->user, f->text, from, &f->user))
        f->user = (mlxd_special_match){f->text.len, f->text.len, -1};
    if (f->any.id >= 0 && f->any.start < from)
        f->any = next_trusted(f, from);
    bool user =
        f->user.start < f->any.start || (f->user.start == f->any.start && f->user.end > f->any.end);
    return user ? f->user : f->any;
}

static mlxd_err encode_all(job *j, mlxd_slice text, const mlxd_span *trusted, size_t n_trusted) {
    finder f = {.t = j->t, .text = text, .trusted = trusted, .n_trusted = n_trusted};
    if (!mlxd_special_next(&j->t->user, text, 0, &f.user))
        f.user = (mlxd_special_match){text.len, text.len, -1};
    f.any = next_trusted(&f, 0);
    for (size_t at = 0; at < text.len;) {
        mlxd_special_match m = next_special(&f, at);
        mlxd_err err = encode_plain(j, (mlxd_slice){text.data + at, m.start - at});
        if (!err && m.id >= 0)
            err = explain(j, mlxd_tokens_add(j->out, m.id, j->tokens_max));
        if (err)
            return err;
        at = m.end;
    }
    return MLXD_OK;
}

mlxd_err mlxd_tokenizer_encode_spans(const mlxd_tokenizer *t, mlxd_slice text,
                                     const mlxd_span *trusted, size_t n_trusted, size_t tokens_max,
                                     mlxd_tokens *out, mlxd_why *why) {
    MLXD_ASSERT(t && out && (trusted || n_trusted == 0));
    if (text.len > MLXD_LIMIT_TEXT_BYTES)
        return mlxd_fail(why, MLXD_ERR_RANGE, "the text has %zu bytes, limit %u", text.len,
                         MLXD_LIMIT_TEXT_BYTES);
    size_t good = mlxd_utf8_check(text);
    if (good != text.len)
        return mlxd_fail(why, MLXD_ERR_INVALID, "the text is not UTF-8 at byte %zu", good);
    job j = {.t = t, .tokens_max = tokens_max, .out = out, .why = why};
    j.scan = mlxd_pretok_scan_open(t->pretok);
    if (!j.scan)
        return explain(&j, MLXD_ERR_NOMEM);
    mlxd_err err = encode_all(&j, text, trusted, n_trusted);
    mlxd_bpe_work_deinit(&j.work);
    mlxd_pretok_scan_close(j.scan);
    return err;
}

mlxd_err mlxd_tokenizer_encode(const mlxd_tokenizer *t, mlxd_slice text, bool special,
                               size_t tokens_max, mlxd_tokens *out, mlxd_why *why) {
    const mlxd_span all = {0, text.len};
    return mlxd_tokenizer_encode_spans(t, text, &all, special && text.len > 0, tokens_max, out,
                                       why);
}
