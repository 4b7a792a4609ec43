/* reasoning.c - see reasoning.h. Both forms are read byte by byte, so the cuts cannot matter.
 *
 * Markers:   BEFORE --<think>--> INSIDE --</think>--> AFTER
 *               `----anything else but white space------^
 *            REOPEN: inside, and one more <think> may be coming before the first word
 * Harmony:   HEADER --<|message|>--> INSIDE, AFTER or TOOL --<|end|>, <|start|>--> HEADER
 */
#include "model/reasoning.h"

#include <string.h>

enum { BEFORE, INSIDE, REOPEN, AFTER, HEADER, TOOL };

/* The first byte of a marker occurs nowhere else in it: after a mismatch no shorter part of what
 * was read can be the beginning of one, except the byte that did not match. The two markers of a
 * form have the first byte in common, and the second one not. */
static const struct form {
    const char *name, *open, *close;
} forms[MLXD_REASONING_FORMATS] = {
    [MLXD_REASONING_NONE] = {"none", NULL, NULL},
    [MLXD_REASONING_THINK] = {"think", "<think>", "</think>"},
    [MLXD_REASONING_MISTRAL] = {"mistral", "[THINK]", "[/THINK]"},
    [MLXD_REASONING_HARMONY] = {"harmony", NULL, NULL},
};

#define TAIL_TOKENS 64 /* of a prompt that are looked at */
#define TAIL_BYTES 256

const char *mlxd_reasoning_name(mlxd_reasoning_format f) {
    MLXD_ASSERT((unsigned)f < MLXD_REASONING_FORMATS);
    return forms[f].name;
}

bool mlxd_reasoning_find(mlxd_slice name, mlxd_reasoning_format *out) {
    for (int i = 0; i < MLXD_REASONING_FORMATS; i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(forms[i].name))) {
            *out = (mlxd_reasoning_format)i;
            return true;
        }
    return false;
}

static bool is(mlxd_slice text, const char *name) {
    return mlxd_slice_eq(text, mlxd_slice_str(name));
}

/* ---- which form a model needs ---- */

static bool contains(mlxd_slice text, const char *part) {
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= text.len; i++)
        if (memcmp(text.data + i, part, n) == 0)
            return true;
    return false;
}

static bool has_token(const mlxd_tokenizer *t, const char *name) {
    return t && mlxd_tokenizer_find(t, mlxd_slice_str(name)) >= 0;
}

mlxd_reasoning_format mlxd_reasoning_detect(mlxd_slice chat_template, const mlxd_tokenizer *t) {
    if (contains(chat_template, "<|channel|>") ||
        (has_token(t, "<|channel|>") && has_token(t, "<|message|>")))
        return MLXD_REASONING_HARMONY;
    for (int i = 0; i < MLXD_REASONING_FORMATS; i++)
        if (forms[i].open &&
            (contains(chat_template, forms[i].open) || has_token(t, forms[i].open)))
            return (mlxd_reasoning_format)i;
    return MLXD_REASONING_NONE;
}

bool mlxd_reasoning_is_end(mlxd_reasoning_format f, const mlxd_tokenizer *t, int32_t id) {
    if (f == MLXD_REASONING_HARMONY && mlxd_tokenizer_is_control(t, id)) {
        mlxd_slice name = mlxd_tokenizer_bytes(t, id);
        if (is(name, "<|end|>"))
            return false;
        if (is(name, "<|return|>") || is(name, "<|call|>"))
            return true;
    }
    return mlxd_tokenizer_is_end(t, id);
}

/* ---- how the prompt leaves it ---- */

static bool ends_with(mlxd_slice text, const char *part) {
    size_t n = strlen(part);
    return text.len >= n && memcmp(text.data + text.len - n, part, n) == 0;
}

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The text of the prompt's last tokens, control tokens included, without white space behind it. */
static mlxd_slice read_tail(const mlxd_tokenizer *t, const int32_t *prompt, size_t count,
                            uint8_t out[TAIL_BYTES]) {
    size_t at = TAIL_BYTES;
    for (size_t i = 0; i < count && i < TAIL_TOKENS; i++) {
        mlxd_slice bytes = mlxd_tokenizer_bytes(t, prompt[count - 1 - i]);
        if (bytes.len > at)
            break;
        at -= bytes.len;
        if (bytes.len > 0)
            memcpy(out + at, bytes.data, bytes.len);
    }
    mlxd_slice tail = {out + at, TAIL_BYTES - at};
    while (tail.len > 0 && is_space(tail.data[tail.len - 1]))
        tail.len--;
    return tail;
}

static void begin_header(mlxd_reasoning *r);

/* Reads the header, or the beginning of a message, that the template has written for the model. */
static void read_prompt(mlxd_reasoning *r, const mlxd_tokenizer *t, const int32_t *prompt,
                        size_t count) {
    size_t first = count;
    mlxd_buf none;
    for (size_t i = count; i-- > 0 && count - i <= TAIL_TOKENS && first == count;)
        if (mlxd_tokenizer_is_control(t, prompt[i]) &&
            is(mlxd_tokenizer_bytes(t, prompt[i]), "<|start|>"))
            first = i + 1;
    mlxd_buf_init(&none, 0);
    for (size_t i = first; i < count; i++) {
        mlxd_slice bytes = mlxd_tokenizer_bytes(t, prompt[i]);
        if (mlxd_tokenizer_is_control(t, prompt[i]))
            mlxd_reasoning_control(r, bytes, &none, &none);
        else if (r->state == HEADER)
            mlxd_reasoning_add(r, bytes, &none, &none);
    }
    mlxd_buf_deinit(&none);
}

void mlxd_reasoning_init(mlxd_reasoning *r, mlxd_reasoning_format f, const mlxd_tokenizer *t,
                         const int32_t *prompt, size_t prompt_count) {
    const struct form *form = &forms[f];
    *r = (mlxd_reasoning){.format = f, .state = AFTER};
    if (f == MLXD_REASONING_HARMONY) {
        begin_header(r);
        read_prompt(r, t, prompt, prompt_count);
        r->own_header = r->n_header;
        r->answers = r->state == HEADER;
    } else if (form->open) {
        uint8_t bytes[TAIL_BYTES];
        mlxd_slice tail = read_tail(t, prompt, prompt_count, bytes);
        r->state = ends_with(tail, form->open)    ? INSIDE
                   : ends_with(tail, form->close) ? AFTER
                                                  : BEFORE;
        r->trim = r->state != BEFORE;
    }
}

/* ---- markers ---- */

static void release(mlxd_reasoning *r, const char *mark, mlxd_buf *out) {
    mlxd_buf_add(out, r->space, r->n_space);
    mlxd_buf_add(out, mark, r->n_mark);
    r->n_space = r->n_mark = 0;
}

/* Before the answer's first word: the marker, or content that begins with what was held. */
static void add_before(mlxd_reasoning *r, const struct form *form, uint8_t c, mlxd_buf *content) {
    if (c == (uint8_t)form->open[r->n_mark]) {
        if (form->open[++r->n_mark])
            return;
        r->n_space = r->n_mark = 0;
        r->state = INSIDE;
        r->trim = true;
        return;
    }
    if (r->n_mark == 0 && is_space(c) && r->n_space < MLXD_REASONING_SPACE) {
        r->space[r->n_space++] = c;
        return;
    }
    release(r, form->open, content);
    mlxd_buf_add_byte(content, c);
    r->state = AFTER;
}

static void add_inside(mlxd_reasoning *r, const struct form *form, uint8_t c, mlxd_buf *out) {
    const char *mark = r->state == REOPEN ? form->open : form->close;
    if (r->state == INSIDE && r->trim && r->n_mark == 1 && c == (uint8_t)form->open[1]) {
        r->state = REOPEN;
        mark = form->open;
    }
    if (c == (uint8_t)mark[r->n_mark]) {
        if (mark[++r->n_mark])
            return;
        r->n_space = r->n_mark = 0;
        r->state = r->state == REOPEN ? INSIDE : AFTER;
        r->trim = true;
        return;
    }
    if (r->n_mark > 0) {
        release(r, mark, out);
        r->state = INSIDE;
        r->trim = false;
        add_inside(r, form, c, out); /* once: nothing is held of a marker now */
        return;
    }
    if (is_space(c) && r->trim)
        return;
    if (!is_space(c) || r->n_space == MLXD_REASONING_SPACE)
        release(r, mark, out);
    if (is_space(c))
        r->space[r->n_space++] = c;
    else
        mlxd_buf_add_byte(out, c);
    r->trim = false;
}

static void add_marked(mlxd_reasoning *r, mlxd_slice text, mlxd_buf *reasoning, mlxd_buf *content) {
    const struct form *form = &forms[r->format];
    size_t i = 0;
    for (; i < text.len && r->state != AFTER; i++) {
        if (r->state == BEFORE)
            add_before(r, form, text.data[i], content);
        else
            add_inside(r, form, text.data[i], reasoning);
    }
    while (r->trim && i < text.len && is_space(text.data[i]))
        i++;
    if (i == text.len)
        return;
    r->trim = false;
    mlxd_buf_add(content, text.data + i, text.len - i);
}

/* ---- harmony ---- */

static void begin_header(mlxd_reasoning *r) {
    r->state = HEADER;
    r->n_header = r->own_header = 0;
    r->has_channel = r->answers = false;
}

/* Text of a message, of the kind that the state says. */
static void add_message(mlxd_reasoning *r, mlxd_slice text, mlxd_buf *reasoning,
                        mlxd_buf *content) {
    if (r->state == TOOL || text.len == 0)
        return;
    mlxd_buf *out = r->state == INSIDE ? reasoning : content;
    if (r->between)
        mlxd_buf_add_byte(out, '\n');
    mlxd_buf_add(out, text.data, text.len);
    r->between = false;
    r->shown[r->state == AFTER] = true;
}

/* What stands where a header was expected is the answer itself. */
static void give_up_header(mlxd_reasoning *r, mlxd_buf *reasoning, mlxd_buf *content) {
    r->state = AFTER;
    r->between = r->shown[1];
    add_message(r, (mlxd_slice){r->header + r->own_header, (size_t)r->n_header - r->own_header},
                reasoning, content);
}

static void add_harmony(mlxd_reasoning *r, mlxd_slice text, mlxd_buf *reasoning,
                        mlxd_buf *content) {
    size_t n = 0;
    if (r->state == HEADER) {
        n = MLXD_MIN(text.len, (size_t)MLXD_REASONING_HEADER - r->n_header);
        if (n > 0)
            memcpy(r->header + r->n_header, text.data, n);
        r->n_header = (uint16_t)(r->n_header + n);
        if (n == text.len)
            return;
        give_up_header(r, reasoning, content);
    }
    add_message(r, (mlxd_slice){text.data + n, text.len - n}, reasoning, content);
}

/* The word of the header that begins at or behind `*at`; moves behind it. */
static mlxd_slice next_word(const mlxd_reasoning *r, size_t *at) {
    while (*at < r->n_header && is_space(r->header[*at]))
        ++*at;
    size_t start = *at;
    while (*at < r->n_header && !is_space(r->header[*at]))
        ++*at;
    return (mlxd_slice){r->header + start, *at - start};
}

static void end_header(mlxd_reasoning *r) {
    size_t at = r->channel;
    mlxd_slice channel = r->has_channel ? next_word(r, &at) : (mlxd_slice){0};
    r->state = is(channel, "analysis") ? INSIDE : AFTER;
    at = 0;
    for (mlxd_slice w = next_word(r, &at); w.len > 0; w = next_word(r, &at))
        if (w.len > 3 && memcmp(w.data, "to=", 3) == 0)
            r->state = TOOL;
    r->between = r->state != TOOL && r->shown[r->state == AFTER];
}

/* A control token divides words. */
static void divide_header(mlxd_reasoning *r) {
    if (r->n_header < MLXD_REASONING_HEADER)
        r->header[r->n_header++] = ' ';
}

static void control_harmony(mlxd_reasoning *r, mlxd_slice name) {
    if (is(name, "<|message|>")) {
        if (r->state == HEADER)
            end_header(r);
    } else if (is(name, "<|channel|>")) {
        if (r->state != HEADER)
            begin_header(r);
        divide_header(r);
        r->has_channel = true;
        r->channel = r->n_header;
    } else if (is(name, "<|constrain|>")) {
        if (r->state == HEADER)
            divide_header(r);
    } else {
        begin_header(r); /* <|start|> or the end of a message */
    }
}

/* ---- both ---- */

bool mlxd_reasoning_wants(const mlxd_reasoning *r, mlxd_slice name) {
    static const char *const harmony[] = {"<|start|>",   "<|channel|>", "<|constrain|>",
                                          "<|message|>", "<|return|>",  "<|call|>",
                                          "<|end|>"};
    if (forms[r->format].open)
        return is(name, forms[r->format].open) || is(name, forms[r->format].close);
    for (size_t i = 0; r->format == MLXD_REASONING_HARMONY && i < MLXD_COUNT_OF(harmony); i++)
        if (is(name, harmony[i]))
            return true;
    return false;
}

void mlxd_reasoning_add(mlxd_reasoning *r, mlxd_slice text, mlxd_buf *reasoning,
                        mlxd_buf *content) {
    if (r->format == MLXD_REASONING_HARMONY)
        add_harmony(r, text, reasoning, content);
    else if (text.len > 0)
        add_marked(r, text, reasoning, content);
}

void mlxd_reasoning_control(mlxd_reasoning *r, mlxd_slice name, mlxd_buf *reasoning,
                            mlxd_buf *content) {
    if (!mlxd_reasoning_wants(r, name))
        return;
    if (r->format == MLXD_REASONING_HARMONY)
        control_harmony(r, name);
    else
        add_marked(r, name, reasoning, content);
}

void mlxd_reasoning_end(mlxd_reasoning *r, mlxd_buf *reasoning, mlxd_buf *content) {
    const struct form *form = &forms[r->format];
    if (r->state == BEFORE) {
        release(r, form->open, content);
    } else if (r->state == INSIDE || r->state == REOPEN) {
        if (r->n_mark > 0)
            release(r, r->state == REOPEN ? form->open : form->close, reasoning);
        r->n_space = 0;
    } else if (r->state == HEADER && r->answers && !r->has_channel) {
        give_up_header(r, reasoning, content);
    }
}

bool mlxd_reasoning_inside(const mlxd_reasoning *r) {
    return r->state == INSIDE || r->state == REOPEN;
}
