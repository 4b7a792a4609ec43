/* pretok.c - see pretok.h. */
#include "model/pretok.h"

#include "base/mem.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Far above what the expressions need (a few steps), far below what could be felt. */
#define MATCH_LIMIT 100000
#define DEPTH_LIMIT 1000
#define HEAP_LIMIT_KIB 1024

/* White_Space, inside a class. pcre2's own \s also has U+180E, which left White_Space in 2013. */
#define S "\\t-\\r\\x{85}\\p{Z}"

#define CONTRACTIONS "'(?:[stmd]|re|ve|ll)"

static const struct {
    const char *name;
    const char *expression;
} known[] = {
    {"gpt-2", CONTRACTIONS "| ?\\p{L}++| ?\\p{N}++| ?[^" S "\\p{L}\\p{N}]++"
                           "|[" S "]+(?![^" S "])|[" S "]++"},
    {"smollm", CONTRACTIONS "|\\p{N}| ?\\p{L}++| ?[^" S "\\p{L}\\p{N}]++"
                            "|[" S "]+(?![^" S "\\p{N}])|[" S "]++"},
};

const char *mlxd_pretok_names(void) {
    return "gpt-2, smollm";
}

struct mlxd_pretok {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *code;
    bool jit;
};

struct mlxd_pretok_scan {
    const mlxd_pretok *pretok;
    pcre2_match_data *match;
};

static void *take(size_t bytes, void *unused) {
    (void)unused;
    return mlxd_mem_new(bytes, 1);
}

static void give(void *p, void *unused) {
    (void)unused;
    mlxd_mem_free(p);
}

static const char *expression_of(mlxd_slice name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(known); i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(known[i].name)))
            return known[i].expression;
    return NULL;
}

mlxd_err mlxd_pretok_open(mlxd_pretok **out, mlxd_slice name, bool jit, mlxd_why *why) {
    MLXD_ASSERT(out);
    *out = NULL;
    const char *expression = expression_of(name);
    if (!expression)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "tokenizer.ggml.pre: pre-tokenizer \"%.*s\" is not known; known: %s",
                         (int)MLXD_MIN(name.len, 64), (const char *)name.data, mlxd_pretok_names());
    mlxd_pretok *p = mlxd_mem_new(1, sizeof *p);
    if (!p)
        goto nomem;
    p->memory = pcre2_general_context_create(take, give, NULL);
    p->limits = p->memory ? pcre2_match_context_create(p->memory) : NULL;
    pcre2_compile_context *compile = p->limits ? pcre2_compile_context_create(p->memory) : NULL;
    if (!compile)
        goto nomem;
    int error;
    PCRE2_SIZE offset;
    p->code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C,
                            &error, &offset, compile);
    pcre2_compile_context_free(compile);
    if (!p->code) {
        mlxd_pretok_close(p);
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED,
                         "this build of pcre2 cannot compile \"%s\": error %d at %zu", expression,
                         error, (size_t)offset);
    }
    pcre2_set_match_limit(p->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(p->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(p->limits, HEAP_LIMIT_KIB);
    p->jit = jit && pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    *out = p;
    return MLXD_OK;
nomem:
    mlxd_pretok_close(p);
    return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the pre-tokenizer");
}

void mlxd_pretok_close(mlxd_pretok *p) {
    if (!p)
        return;
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limits);
    pcre2_general_context_free(p->memory);
    mlxd_mem_free(p);
}

bool mlxd_pretok_jit(const mlxd_pretok *p) {
    return p->jit;
}

mlxd_pretok_scan *mlxd_pretok_scan_open(const mlxd_pretok *p) {
    MLXD_ASSERT(p);
    mlxd_pretok_scan *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return NULL;
    s->pretok = p;
    s->match = pcre2_match_data_create(1, p->memory);
    if (!s->match) {
        mlxd_mem_free(s);
        return NULL;
    }
    return s;
}

void mlxd_pretok_scan_close(mlxd_pretok_scan *s) {
    if (!s)
        return;
    pcre2_match_data_free(s->match);
    mlxd_mem_free(s);
}

mlxd_err mlxd_pretok_next(mlxd_pretok_scan *s, mlxd_slice text, size_t start, size_t *end,
                          mlxd_why *why) {
    MLXD_ASSERT(start < text.len);
    const mlxd_pretok *p = s->pretok;
    int rc =
        pcre2_match(p->code, text.data, text.len, start, PCRE2_NO_UTF_CHECK, s->match, p->limits);
    if (rc < 1)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "the text cannot be split into words at byte %zu (pcre2 error %d)", start,
                         rc);
    *end = pcre2_get_ovector_pointer(s->match)[1];
    MLXD_ASSERT(*end > start && *end <= text.len);
    return MLXD_OK;
}
