/* detok.c - token bytes to whole characters, see tokenizer.h.
 *
 * Bytes come one at a time. What is held is always a proper prefix of a well-formed character, so
 * it is at most 3 bytes; a byte that cannot continue it turns it into one U+FFFD (Unicode 3.9,
 * "maximal subpart") and is then looked at anew. As nothing else is remembered, the output does not
 * depend on how the bytes were divided between tokens.
 */
#include "format/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

void mlxd_detok_init(mlxd_detok *d) {
    *d = (mlxd_detok){0};
}

static void add_replacement(mlxd_buf *out) {
    uint8_t utf8[4];
    mlxd_buf_add(out, utf8, mlxd_utf8_put(MLXD_UTF8_REPLACEMENT, utf8));
}

/* Could `lead` begin a character of several bytes? */
static bool is_lead(uint8_t lead) {
    return lead >= 0xc2 && lead <= 0xf4;
}

static void add_byte(mlxd_detok *d, uint8_t byte, mlxd_buf *out) {
    MLXD_ASSERT(d->n_held < sizeof d->held);
    d->held[d->n_held++] = byte;
    while (d->n_held > 0) {
        uint32_t cp;
        size_t took = mlxd_utf8_next(d->held, d->n_held, &cp);
        if (cp != MLXD_UTF8_BAD)
            mlxd_buf_add(out, d->held, took);
        else if (took == d->n_held && is_lead(d->held[0]))
            return; /* all of it may still become a character */
        else
            add_replacement(out);
        d->n_held = (uint8_t)(d->n_held - took);
        memmove(d->held, d->held + took, d->n_held);
    }
}

void mlxd_detok_add_bytes(mlxd_detok *d, mlxd_slice bytes, mlxd_buf *out) {
    for (size_t i = 0; i < bytes.len; i++)
        add_byte(d, bytes.data[i], out);
}

/* Leaves out the blanks that belong to the beginning of every text, until something else comes. */
static mlxd_slice strip(mlxd_detok *d, const mlxd_tokenizer_strip *s, mlxd_slice bytes) {
    while (bytes.len > 0 && bytes.data[0] == ' ' && (s->first_token || d->stripped < s->blanks)) {
        bytes.data++;
        bytes.len--;
        d->stripped += !s->first_token;
    }
    d->begun = s->first_token || bytes.len > 0 || d->stripped >= s->blanks;
    return bytes;
}

void mlxd_detok_add_shown(mlxd_detok *d, const mlxd_tokenizer *t, int32_t id, mlxd_buf *out) {
    mlxd_slice bytes = mlxd_tokenizer_bytes(t, id);
    if (!d->begun && bytes.len > 0)
        bytes = strip(d, &t->strip, bytes);
    mlxd_detok_add_bytes(d, bytes, out);
}

void mlxd_detok_add(mlxd_detok *d, const mlxd_tokenizer *t, int32_t id, mlxd_buf *out) {
    if (!mlxd_tokenizer_is_control(t, id))
        mlxd_detok_add_shown(d, t, id, out);
}

void mlxd_detok_flush(mlxd_detok *d, mlxd_buf *out) {
    if (d->n_held > 0)
        add_replacement(out);
    d->n_held = 0;
}
