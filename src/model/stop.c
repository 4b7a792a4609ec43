/* stop.c - see stop.h.
 *
 * After every byte, matched[i] is the length of the longest suffix of the text that is a prefix of
 * string i (Knuth, Morris, Pratt 1977). The longest of these suffixes is what is held back, and
 * since it equals the beginning of its string, it is taken from there when it has to be shown.
 */
#include "model/stop.h"

#include "format/utf8.h"

#include <string.h>

typedef struct pattern {
    uint8_t *text; /* owned */
    size_t len;
    /* border[n]: length of the longest proper prefix of text[0..n) that is also its suffix */
    uint16_t border[MLXD_LIMIT_STOP_BYTES + 1];
    size_t matched;
} pattern;

struct mlxd_stop {
    pattern patterns[MLXD_LIMIT_STOP_STRINGS];
    size_t count;
    size_t longest; /* index of the pattern with the longest suffix, when something is held */
    size_t held;    /* patterns[longest].matched */
    int which;      /* -1: no match yet */
};

/* Length of the match after `byte`, given its length before. */
static size_t advance(const pattern *p, size_t matched, uint8_t byte) {
    while (matched > 0 && p->text[matched] != byte)
        matched = p->border[matched];
    return p->text[matched] == byte ? matched + 1 : 0;
}

static void find_borders(pattern *p) {
    p->border[0] = p->border[1] = 0;
    for (size_t n = 2; n <= p->len; n++)
        p->border[n] = (uint16_t)advance(p, p->border[n - 1], p->text[n - 1]);
}

mlxd_err mlxd_stop_open(mlxd_stop **out, const mlxd_slice *strings, size_t count, mlxd_why *why) {
    MLXD_ASSERT(out && (strings || count == 0));
    *out = NULL;
    if (count > MLXD_LIMIT_STOP_STRINGS)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%zu stop strings, at most %d", count,
                         MLXD_LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < count; i++) {
        if (strings[i].len == 0 || strings[i].len > MLXD_LIMIT_STOP_BYTES)
            return mlxd_fail(why, MLXD_ERR_INVALID, "stop string %zu has %zu bytes, expected 1..%d",
                             i, strings[i].len, MLXD_LIMIT_STOP_BYTES);
        if (mlxd_utf8_check(strings[i]) != strings[i].len)
            return mlxd_fail(why, MLXD_ERR_INVALID, "stop string %zu is not UTF-8", i);
    }
    mlxd_stop *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for stop strings");
    s->which = -1;
    for (size_t i = 0; i < count; i++) {
        pattern *p = &s->patterns[i];
        p->text = (uint8_t *)mlxd_mem_dup(strings[i].data, strings[i].len);
        if (!p->text) {
            mlxd_stop_close(s);
            return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for stop strings");
        }
        p->len = strings[i].len;
        find_borders(p);
        s->count++;
    }
    *out = s;
    return MLXD_OK;
}

void mlxd_stop_close(mlxd_stop *s) {
    if (!s)
        return;
    for (size_t i = 0; i < MLXD_LIMIT_STOP_STRINGS; i++)
        mlxd_mem_free(s->patterns[i].text);
    mlxd_mem_free(s);
}

/* Shows the first `n` bytes of (what is held, then `byte`). */
static void show(const mlxd_stop *s, size_t n, uint8_t byte, mlxd_buf *out) {
    MLXD_ASSERT(n <= s->held + 1);
    mlxd_buf_add(out, s->patterns[s->longest].text, MLXD_MIN(n, s->held));
    if (n > s->held)
        mlxd_buf_add_byte(out, byte);
}

static void feed_byte(mlxd_stop *s, uint8_t byte, mlxd_buf *out) {
    size_t held = 0, longest = 0;
    for (size_t i = 0; i < s->count; i++) {
        pattern *p = &s->patterns[i];
        p->matched = advance(p, p->matched, byte);
        if (p->matched == p->len && (s->which < 0 || p->len > s->patterns[s->which].len))
            s->which = (int)i;
        if (p->matched > held) {
            held = p->matched;
            longest = i;
        }
    }
    /* After a hit the suffix that matters is the match, even where a longer one was growing. */
    size_t keep = s->which >= 0 ? s->patterns[s->which].len : held;
    show(s, s->held + 1 - keep, byte, out);
    s->held = s->which >= 0 ? 0 : held;
    s->longest = longest;
}

bool mlxd_stop_feed(mlxd_stop *s, mlxd_slice text, mlxd_buf *out) {
    MLXD_ASSERT(s && out);
    if (s->count == 0) {
        mlxd_buf_add(out, text.data, text.len);
        return false;
    }
    for (size_t i = 0; i < text.len && s->which < 0; i++)
        feed_byte(s, text.data[i], out);
    return s->which >= 0;
}

void mlxd_stop_flush(mlxd_stop *s, mlxd_buf *out) {
    mlxd_buf_add(out, s->patterns[s->longest].text, s->held);
    s->held = 0;
    for (size_t i = 0; i < s->count; i++)
        s->patterns[i].matched = 0;
}

int mlxd_stop_which(const mlxd_stop *s) {
    return s->which;
}

size_t mlxd_stop_held(const mlxd_stop *s) {
    return s->held;
}
