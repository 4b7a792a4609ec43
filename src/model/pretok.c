/* pretok.c - see pretok.h. */
#include "model/pretok.h"

#include "format/utf8.h"

#include <string.h>

#define METASPACE "\xe2\x96\x81"

mlxd_err mlxd_pretok_add(mlxd_pretok *p, mlxd_pretok_step step, mlxd_why *why) {
    MLXD_ASSERT(p);
    if (p->count == MLXD_LIMIT_TOKENIZER_STEPS) {
        mlxd_regex_close(step.pattern);
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "more than %d steps",
                         MLXD_LIMIT_TOKENIZER_STEPS);
    }
    p->steps[p->count++] = step;
    return MLXD_OK;
}

mlxd_err mlxd_pretok_add_split(mlxd_pretok *p, mlxd_slice pattern, mlxd_pretok_behavior behavior,
                               bool invert, bool jit, mlxd_why *why) {
    mlxd_regex *regex;
    mlxd_regex_options options = {.linear = mlxd_pretok_knows(pattern), .interpreted = !jit};
    mlxd_err err = mlxd_regex_open(&regex, pattern, options, why);
    if (err)
        return err;
    mlxd_pretok_step step = {.pattern = regex, .behavior = behavior, .invert = invert};
    return mlxd_pretok_add(p, step, why);
}

void mlxd_pretok_deinit(mlxd_pretok *p) {
    for (size_t i = 0; i < p->count; i++)
        mlxd_regex_close(p->steps[i].pattern);
    *p = (mlxd_pretok){0};
}

bool mlxd_pretok_jit(const mlxd_pretok *p) {
    for (size_t i = 0; i < p->count; i++)
        if (p->steps[i].pattern && !mlxd_regex_jit(p->steps[i].pattern))
            return false;
    return true;
}

void mlxd_pretok_work_init(mlxd_pretok_work *w, mlxd_regex_work *regex) {
    *w = (mlxd_pretok_work){.regex = regex};
    for (size_t i = 0; i < MLXD_COUNT_OF(w->texts); i++)
        mlxd_buf_init(&w->texts[i], 0);
}

void mlxd_pretok_work_deinit(mlxd_pretok_work *w) {
    for (size_t i = 0; i < MLXD_COUNT_OF(w->texts); i++)
        mlxd_buf_deinit(&w->texts[i]);
}

/* ---- one run ---- */

typedef struct run {
    const mlxd_pretok *p;
    mlxd_pretok_work *w;
    mlxd_pretok_sink sink;
    void *ctx;
    mlxd_why *why;
} run;

/* A text on its way through step `step`, and the piece of it that may still grow. */
typedef struct cutting {
    mlxd_slice text;
    bool first; /* it begins the whole text */
    size_t step;
    size_t start, end; /* the piece; start == end: none */
    bool matched;      /* its last part was a match */
} cutting;

static mlxd_err run_from(const run *r, size_t step, mlxd_slice text, bool first);

static mlxd_err emit(const run *r, cutting *c) {
    if (c->start == c->end)
        return MLXD_OK;
    mlxd_slice piece = {c->text.data + c->start, c->end - c->start};
    bool first = c->first && c->start == 0;
    c->start = c->end;
    return run_from(r, c->step + 1, piece, first);
}

/* The next part of the text, alternately what lies between matches and matches; with `invert` it is
 * the other way round. The behaviors are those of Hugging Face tokenizers. */
static mlxd_err add_part(const run *r, cutting *c, size_t end, bool match) {
    const mlxd_pretok_step *s = &r->p->steps[c->step];
    if (c->end == end && !match)
        return MLXD_OK; /* nothing lies between two matches */
    match ^= s->invert;
    bool grows = false, removed = s->behavior == MLXD_PRETOK_REMOVED && match;
    if (s->behavior == MLXD_PRETOK_MERGED_WITH_PREVIOUS)
        grows = match && !c->matched;
    else if (s->behavior == MLXD_PRETOK_MERGED_WITH_NEXT)
        grows = !match && c->matched;
    else if (s->behavior == MLXD_PRETOK_CONTIGUOUS)
        grows = match == c->matched;
    mlxd_err err = grows ? MLXD_OK : emit(r, c);
    c->end = end;
    c->matched = match;
    if (removed)
        c->start = end;
    return err;
}

static mlxd_err split(const run *r, size_t step, mlxd_slice text, bool first) {
    cutting c = {.text = text, .first = first, .step = step};
    const mlxd_regex *pattern = r->p->steps[step].pattern;
    mlxd_err err = MLXD_OK;
    size_t last = SIZE_MAX; /* end of the last match: an empty one there is none */
    for (size_t from = 0; !err && from < text.len;) {
        mlxd_regex_match m;
        bool found;
        err = mlxd_regex_next(pattern, r->w->regex, text, from, &m, &found, r->why);
        if (err || !found)
            break;
        from = m.end;
        if (m.start < m.end || m.start != last) {
            err = add_part(r, &c, m.start, false);
            if (!err)
                err = add_part(r, &c, m.end, true);
            last = m.end;
        }
        if (m.start == m.end && from < text.len) { /* the next one begins a character further */
            uint32_t cp;
            from += mlxd_utf8_next(text.data + from, text.len - from, &cp);
        }
    }
    if (!err)
        err = add_part(r, &c, text.len, false);
    if (!err)
        err = emit(r, &c);
    return err;
}

static bool begins(mlxd_slice text, mlxd_slice with) {
    return text.len >= with.len && memcmp(text.data, with.data, with.len) == 0;
}

/* Blanks and prefix of a step; the result is `text` itself or lies in the step's buffer. */
static mlxd_err rewrite(const run *r, size_t step, bool first, mlxd_slice *text) {
    const mlxd_pretok_step *s = &r->p->steps[step];
    mlxd_slice mark = mlxd_slice_str(s->metaspace ? METASPACE : " ");
    bool prefix = s->prefix == MLXD_PRETOK_ALWAYS || (s->prefix == MLXD_PRETOK_FIRST && first);
    if (begins(*text, mark) || (s->metaspace && text->data[0] == ' '))
        prefix = false;
    if (!prefix && !(s->metaspace && memchr(text->data, ' ', text->len)))
        return MLXD_OK;
    mlxd_buf *out = &r->w->texts[step];
    mlxd_buf_clear(out);
    if (prefix)
        mlxd_buf_add(out, mark.data, mark.len);
    for (size_t i = 0, end; i < text->len; i = end) {
        const uint8_t *blank = s->metaspace ? memchr(text->data + i, ' ', text->len - i) : NULL;
        end = blank ? (size_t)(blank - text->data) : text->len;
        mlxd_buf_add(out, text->data + i, end - i);
        if (blank) {
            mlxd_buf_add(out, mark.data, mark.len);
            end++;
        }
    }
    if (out->failed)
        return mlxd_fail(r->why, MLXD_ERR_NOMEM, "no memory for the pre-tokenizer");
    *text = (mlxd_slice){out->data, out->len};
    return MLXD_OK;
}

/* As deep as there are steps. */
static mlxd_err run_from(const run *r, size_t step, mlxd_slice text, bool first) {
    if (text.len == 0)
        return MLXD_OK;
    if (step == r->p->count)
        return r->sink(r->ctx, text);
    mlxd_err err = rewrite(r, step, first, &text);
    if (err)
        return err;
    if (!r->p->steps[step].pattern)
        return run_from(r, step + 1, text, first);
    return split(r, step, text, first);
}

mlxd_err mlxd_pretok_run(const mlxd_pretok *p, mlxd_pretok_work *w, mlxd_slice text, bool first,
                         mlxd_pretok_sink sink, void *ctx, mlxd_why *why) {
    MLXD_ASSERT(p && w && sink);
    run r = {p, w, sink, ctx, why};
    return run_from(&r, 0, text, first);
}
