/* normalize.c - see normalize.h. */
#include "model/normalize.h"

#include "format/utf8.h"

mlxd_err mlxd_normalizer_add(mlxd_normalizer *n, mlxd_normalizer_step step, mlxd_slice text,
                             mlxd_why *why) {
    MLXD_ASSERT(n && !step.text);
    mlxd_err err = MLXD_OK;
    if (n->count == MLXD_LIMIT_TOKENIZER_STEPS)
        err =
            mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "more than %d steps", MLXD_LIMIT_TOKENIZER_STEPS);
    step.text = mlxd_mem_dup(text.data, text.len);
    step.text_len = text.len;
    if (!err && !step.text)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the normalizer");
    if (err) {
        mlxd_mem_free(step.text);
        mlxd_regex_close(step.pattern);
        return err;
    }
    n->steps[n->count++] = step;
    return MLXD_OK;
}

void mlxd_normalizer_deinit(mlxd_normalizer *n) {
    for (size_t i = 0; i < n->count; i++) {
        mlxd_regex_close(n->steps[i].pattern);
        mlxd_mem_free(n->steps[i].text);
    }
    *n = (mlxd_normalizer){0};
}

void mlxd_normalizer_work_init(mlxd_normalizer_work *w) {
    mlxd_buf_init(&w->texts[0], 0);
    mlxd_buf_init(&w->texts[1], 0);
}

void mlxd_normalizer_work_deinit(mlxd_normalizer_work *w) {
    mlxd_buf_deinit(&w->texts[0]);
    mlxd_buf_deinit(&w->texts[1]);
}

static mlxd_err replace(const mlxd_normalizer_step *s, mlxd_regex_work *r, mlxd_slice text,
                        mlxd_buf *out, mlxd_why *why) {
    size_t done = 0, from = 0, last = SIZE_MAX; /* end of the last match */
    while (from <= text.len) {
        mlxd_regex_match m;
        bool found;
        mlxd_err err = mlxd_regex_next(s->pattern, r, text, from, &m, &found, why);
        if (err)
            return err;
        if (!found)
            break;
        if (m.start < m.end || m.start != last) {
            mlxd_buf_add(out, text.data + done, m.start - done);
            mlxd_buf_add(out, s->text, s->text_len);
            done = last = m.end;
        }
        from = m.end;
        if (m.start == m.end) { /* the next one begins a character further */
            uint32_t cp;
            from += from < text.len ? mlxd_utf8_next(text.data + from, text.len - from, &cp) : 1;
        }
    }
    mlxd_buf_add(out, text.data + done, text.len - done);
    return MLXD_OK;
}

static mlxd_err run_step(const mlxd_normalizer_step *s, mlxd_regex_work *r, mlxd_slice text,
                         mlxd_buf *out, mlxd_why *why) {
    switch (s->kind) {
    case MLXD_NORMALIZE_FORM:
        mlxd_unicode_normalize(text, s->form, out);
        break;
    case MLXD_NORMALIZE_LOWER:
        mlxd_unicode_lower(text, out);
        break;
    case MLXD_NORMALIZE_PREPEND:
        mlxd_buf_add(out, s->text, s->text_len);
        mlxd_buf_add(out, text.data, text.len);
        break;
    case MLXD_NORMALIZE_REPLACE:
        return replace(s, r, text, out, why);
    }
    return MLXD_OK;
}

mlxd_err mlxd_normalizer_run(const mlxd_normalizer *n, mlxd_normalizer_work *w, mlxd_regex_work *r,
                             mlxd_slice text, size_t bytes_max, mlxd_slice *out, mlxd_why *why) {
    MLXD_ASSERT(n && w && out);
    for (size_t i = 0; i < n->count && text.len > 0; i++) {
        mlxd_buf *to = &w->texts[i % 2];
        mlxd_buf_clear(to);
        to->bytes_max = bytes_max;
        mlxd_err err = run_step(&n->steps[i], r, text, to, why);
        if (err)
            return err;
        if (to->failed)
            return mlxd_fail(why, MLXD_ERR_NOMEM,
                             "no memory for the normalized text, or it passes %zu bytes",
                             bytes_max);
        text = (mlxd_slice){to->data, to->len};
    }
    *out = text;
    return MLXD_OK;
}
