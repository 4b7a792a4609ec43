/* regex.c - see regex.h: compiling and searching; the syntax is in regex_syntax.c. */
#include "model/regex.h"

#include "base/limits.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* A search begins with few steps. When they do not suffice it is done again with more, and those
 * are taken off the budget, so that many cheap searches are free and no text costs more than a
 * multiple of its length. */
#define STEPS_FIRST 1024u
#define STEPS_GROWTH 16u
#define STEPS_MAX (1u << 30)
#define BUDGET_BASE (4u << 20)
#define BUDGET_PER_BYTE 256u
#define HEAP_KIB (64u << 10)
#define JIT_STACK_FIRST (32u << 10)
#define JIT_STACK_MAX (4u << 20)

struct mlxd_regex {
    pcre2_general_context *memory;
    pcre2_code *code; /* NULL: `text` is searched */
    uint8_t *text;
    size_t text_len;
    bool jit;
};

struct mlxd_regex_work {
    pcre2_general_context *memory;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
    uint64_t budget;
    size_t place; /* in the text, of the last call back */
};

static void *take(size_t bytes, void *unused) {
    (void)unused;
    return mlxd_mem_new(bytes, 1);
}

static void give(void *p, void *unused) {
    (void)unused;
    mlxd_mem_free(p);
}

/* ---- compiling ---- */

static mlxd_err compile(mlxd_regex *r, const mlxd_buf *translated, mlxd_slice pattern, bool linear,
                        mlxd_why *why) {
    pcre2_compile_context *c = pcre2_compile_context_create(r->memory);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a pattern");
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(c, 64);
    int error;
    PCRE2_SIZE offset;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    if (!linear)
        options |= PCRE2_AUTO_CALLOUT;
    r->code = pcre2_compile(translated->data, translated->len, options, &error, &offset, c);
    pcre2_compile_context_free(c);
    if (r->code)
        return MLXD_OK;
    uint8_t text[128] = "";
    pcre2_get_error_message(error, text, sizeof text);
    return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "pattern \"%.*s\": pcre2 says: %s (at %zu)",
                     (int)MLXD_MIN(pattern.len, 256), (const char *)pattern.data,
                     (const char *)text, (size_t)offset);
}

static mlxd_regex *new_regex(mlxd_why *why) {
    mlxd_regex *r = mlxd_mem_new(1, sizeof *r);
    if (r)
        r->memory = pcre2_general_context_create(take, give, NULL);
    if (r && r->memory)
        return r;
    mlxd_regex_close(r);
    mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a pattern");
    return NULL;
}

mlxd_err mlxd_regex_open(mlxd_regex **out, mlxd_slice pattern, mlxd_regex_options options,
                         mlxd_why *why) {
    MLXD_ASSERT(out);
    *out = NULL;
    mlxd_buf translated;
    mlxd_buf_init(&translated, 0);
    mlxd_regex *r = new_regex(why);
    mlxd_err err = r ? mlxd_regex_translate(pattern, &translated, why) : MLXD_ERR_NOMEM;
    if (!err)
        err = compile(r, &translated, pattern, options.linear, why);
    mlxd_buf_deinit(&translated);
    if (err) {
        mlxd_regex_close(r);
        return err;
    }
    r->jit = !options.interpreted && pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
    *out = r;
    return MLXD_OK;
}

mlxd_err mlxd_regex_open_text(mlxd_regex **out, mlxd_slice text, mlxd_why *why) {
    MLXD_ASSERT(out && text.len > 0);
    *out = NULL;
    mlxd_regex *r = new_regex(why);
    if (!r)
        return MLXD_ERR_NOMEM;
    r->text = (uint8_t *)mlxd_mem_dup(text.data, text.len);
    r->text_len = text.len;
    r->jit = true;
    if (!r->text) {
        mlxd_regex_close(r);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a pattern");
    }
    *out = r;
    return MLXD_OK;
}

void mlxd_regex_close(mlxd_regex *r) {
    if (!r)
        return;
    pcre2_code_free(r->code);
    pcre2_general_context_free(r->memory);
    mlxd_mem_free(r->text);
    mlxd_mem_free(r);
}

bool mlxd_regex_jit(const mlxd_regex *r) {
    return r->jit;
}

/* ---- searching ---- */

/* Called before each item of an expression. */
static int charge(pcre2_callout_block *block, void *ctx) {
    mlxd_regex_work *w = ctx;
    size_t at = block->current_position;
    uint64_t cost = 1 + (at > w->place ? at - w->place : 0);
    w->place = at;
    if (cost > w->budget)
        return PCRE2_ERROR_MATCHLIMIT;
    w->budget -= cost;
    return 0;
}

mlxd_regex_work *mlxd_regex_work_open(size_t text_bytes) {
    mlxd_regex_work *w = mlxd_mem_new(1, sizeof *w);
    if (!w)
        return NULL;
    w->budget = BUDGET_BASE + (uint64_t)BUDGET_PER_BYTE * text_bytes;
    w->memory = pcre2_general_context_create(take, give, NULL);
    w->context = w->memory ? pcre2_match_context_create(w->memory) : NULL;
    w->data = w->context ? pcre2_match_data_create(1, w->memory) : NULL;
    if (!w->data) {
        mlxd_regex_work_close(w);
        return NULL;
    }
    pcre2_set_heap_limit(w->context, HEAP_KIB);
    pcre2_set_callout(w->context, charge, w);
    /* Without a stack of its own, machine code makes do with 32 KiB; NULL here means just that. */
    w->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MAX, w->memory);
    if (w->stack)
        pcre2_jit_stack_assign(w->context, NULL, w->stack);
    return w;
}

void mlxd_regex_work_close(mlxd_regex_work *w) {
    if (!w)
        return;
    pcre2_jit_stack_free(w->stack);
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->context);
    pcre2_general_context_free(w->memory);
    mlxd_mem_free(w);
}

static bool find_text(const mlxd_regex *r, mlxd_slice text, size_t from, mlxd_regex_match *match) {
    while (text.len - from >= r->text_len) {
        const uint8_t *p =
            memchr(text.data + from, r->text[0], text.len - from - (r->text_len - 1));
        if (!p)
            return false;
        from = (size_t)(p - text.data);
        if (memcmp(p, r->text, r->text_len) == 0) {
            *match = (mlxd_regex_match){from, from + r->text_len};
            return true;
        }
        from++;
    }
    return false;
}

mlxd_err mlxd_regex_next(const mlxd_regex *r, mlxd_regex_work *w, mlxd_slice text, size_t from,
                         mlxd_regex_match *match, bool *found, mlxd_why *why) {
    MLXD_ASSERT(from <= text.len);
    if (!r->code) {
        *found = find_text(r, text, from, match);
        return MLXD_OK;
    }
    static const uint8_t nothing[1];
    int rc = 0;
    for (uint32_t steps = STEPS_FIRST;;) {
        w->place = from;
        pcre2_set_match_limit(w->context, steps);
        rc = pcre2_match(r->code, text.data ? text.data : nothing, text.len, from,
                         PCRE2_NO_UTF_CHECK, w->data, w->context);
        if (rc != PCRE2_ERROR_MATCHLIMIT || steps >= STEPS_MAX)
            break;
        steps *= STEPS_GROWTH;
        if (w->budget < steps)
            break;
        w->budget -= steps;
    }
    *found = rc > 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return MLXD_OK;
    if (rc < 1)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "the text cannot be split into words at byte %zu: the pattern takes too "
                         "many steps (pcre2 error %d)",
                         from, rc);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->data);
    /* \K could put the start behind the end; the translation lets none through. */
    MLXD_ASSERT(at[0] >= from && at[1] >= at[0] && at[1] <= text.len);
    *match = (mlxd_regex_match){at[0], at[1]};
    return MLXD_OK;
}
