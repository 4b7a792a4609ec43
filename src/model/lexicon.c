/* lexicon.c - see lexicon.h. Texts lie back to back in one block, found by where they begin. */
#include "model/lexicon.h"

#include "base/limits.h"
#include "format/utf8.h"

#include <string.h>

/* Longest run of full slots that is accepted. With half of them free it is below 200 for the
 * largest vocabulary; only a file made for collisions passes it. */
#define PROBES_MAX 4096

/* Ends of turns and texts in the families that exist (llama.cpp keeps the same kind of list). The
 * last one is DeepSeek's, with full-width bars and U+2581 between the words. */
static const char *const end_names[] = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|eom|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",
};

bool mlxd_lexicon_names_end(mlxd_slice text) {
    for (size_t i = 0; i < MLXD_COUNT_OF(end_names); i++)
        if (mlxd_slice_eq(text, mlxd_slice_str(end_names[i])))
            return true;
    return false;
}

static bool begins(mlxd_slice s, const char *with) {
    size_t n = strlen(with);
    return s.len >= n && memcmp(s.data, with, n) == 0;
}

static bool ends(mlxd_slice s, const char *with) {
    size_t n = strlen(with);
    return s.len >= n && memcmp(s.data + s.len - n, with, n) == 0;
}

bool mlxd_lexicon_looks_special(mlxd_slice s) {
    return (s.len > 4 && begins(s, "<|") && ends(s, "|>")) ||
           (s.len > 8 && begins(s, "<\xef\xbd\x9c") && ends(s, "\xef\xbd\x9c>"));
}

/* ---- spellings ---- */

/* The byte that a character stands for; -1: none. */
static int unspell_char(uint32_t cp) {
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
        return (int)cp;
    if (cp >= 0x100 && cp <= 0x120) /* 00..20 */
        return (int)cp - 0x100;
    if (cp >= 0x121 && cp <= 0x142) /* 7f..a0 */
        return (int)cp - 0x121 + 0x7f;
    return cp == 0x143 ? 0xad : -1;
}

bool mlxd_lexicon_unspell(mlxd_slice text, uint8_t *out, size_t *len) {
    size_t n = 0;
    for (size_t at = 0; at < text.len;) {
        uint32_t cp;
        size_t took = mlxd_utf8_next(text.data + at, text.len - at, &cp);
        int byte = cp == MLXD_UTF8_BAD ? -1 : unspell_char(cp);
        if (byte < 0) {
            *len = at;
            return false;
        }
        out[n++] = (uint8_t)byte;
        at += took;
    }
    *len = n;
    return true;
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool mlxd_lexicon_is_byte(mlxd_slice text, uint8_t *byte) {
    if (text.len != 6 || !begins(text, "<0x") || text.data[5] != '>')
        return false;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    if (high < 0 || low < 0)
        return false;
    *byte = (uint8_t)(high * 16 + low);
    return true;
}

/* ---- tokens by text ---- */

static uint64_t hash_bytes(mlxd_slice s) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, then mixed so that the low bits are good */
    for (size_t i = 0; i < s.len; i++)
        h = (h ^ s.data[i]) * 0x100000001b3u;
    h ^= h >> 32;
    return h * 0x9e3779b97f4a7c15u >> 16;
}

int32_t mlxd_lexicon_find(const mlxd_lexicon *x, mlxd_slice text) {
    MLXD_ASSERT(x->slots);
    if (text.len == 0 || text.len > x->longest)
        return -1;
    for (size_t i = hash_bytes(text) & x->slot_mask;; i = (i + 1) & x->slot_mask) {
        int32_t id = x->slots[i];
        if (id < 0 || mlxd_slice_eq(mlxd_lexicon_text(x, id), text))
            return id;
    }
}

static mlxd_err index_token(mlxd_lexicon *x, int32_t id, const char *where, mlxd_why *why) {
    mlxd_slice text = mlxd_lexicon_text(x, id);
    size_t i = hash_bytes(text) & x->slot_mask;
    for (size_t probes = 0; x->slots[i] >= 0; i = (i + 1) & x->slot_mask) {
        if (mlxd_slice_eq(mlxd_lexicon_text(x, x->slots[i]), text))
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: tokens %d and %d are the same", where,
                             x->slots[i], id);
        if (++probes > PROBES_MAX)
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: made for hash collisions", where);
    }
    x->slots[i] = id;
    x->longest = MLXD_MAX(x->longest, text.len);
    return MLXD_OK;
}

static mlxd_err index_tokens(mlxd_lexicon *x, const mlxd_token_def *defs, const char *where,
                             mlxd_why *why) {
    size_t slots = 16;
    while (slots < x->count * 2)
        slots *= 2;
    x->slots = mlxd_mem_new(slots, sizeof *x->slots);
    if (!x->slots)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu vocabulary slots", slots);
    x->slot_mask = slots - 1;
    memset(x->slots, 0xff, slots * sizeof *x->slots); /* -1 */
    for (size_t id = 0; id < x->count; id++) {
        if (!defs[id].merged || x->text_at[id] == x->text_at[id + 1])
            continue;
        mlxd_err err = index_token(x, (int32_t)id, where, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

/* ---- reading ---- */

static mlxd_err check_token(const mlxd_token_def *d, size_t id, const char *where, mlxd_why *why) {
    bool named = d->type == MLXD_TOKEN_UNKNOWN || d->type == MLXD_TOKEN_CONTROL ||
                 (d->type == MLXD_TOKEN_USER_DEFINED && !d->merged);
    size_t most = named ? MLXD_LIMIT_SPECIAL_BYTES : MLXD_LIMIT_TOKEN_BYTES;
    if (d->text.len > most)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: %stoken %zu has %zu bytes, limit %zu", where,
                         named ? "control or user-defined " : "", id, d->text.len, most);
    size_t good = mlxd_utf8_check(d->text);
    if (good != d->text.len)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: token %zu is not UTF-8 at byte %zu", where, id,
                         good);
    return MLXD_OK;
}

/* Appends `text` with every `from` replaced by `to`. */
static void add_replaced(mlxd_buf *out, mlxd_slice text, mlxd_slice from, mlxd_slice to) {
    for (size_t at = 0; at < text.len;) {
        if (text.len - at >= from.len && memcmp(text.data + at, from.data, from.len) == 0) {
            mlxd_buf_add(out, to.data, to.len);
            at += from.len;
        } else {
            mlxd_buf_add_byte(out, text.data[at++]);
        }
    }
}

static void add_shown(mlxd_lexicon *x, const mlxd_lexicon_style *style, mlxd_slice text,
                      mlxd_buf scratch[2]) {
    for (size_t i = 0; i < style->n_shown; i++) {
        mlxd_buf *to = &scratch[i % 2];
        mlxd_buf_clear(to);
        add_replaced(to, text, style->shown[i].from, style->shown[i].to);
        x->shown.failed |= to->failed;
        text = (mlxd_slice){to->data, to->len};
    }
    mlxd_buf_add(&x->shown, text.data, text.len);
}

static mlxd_err add_spelled(mlxd_lexicon *x, const mlxd_lexicon_style *style,
                            const mlxd_token_def *d, size_t id, mlxd_why *why) {
    size_t len = 0;
    uint8_t *out = mlxd_buf_reserve(&x->texts, d->text.len);
    if (!out)
        return MLXD_OK; /* init sees that it failed */
    if (mlxd_lexicon_unspell(d->text, out, &len)) {
        x->texts.len += len;
    } else if (style->lenient) {
        mlxd_buf_add(&x->texts, d->text.data, d->text.len);
    } else {
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "%s: token %zu, \"%.*s\", is normal, and byte %zu is not of the byte "
                         "alphabet",
                         style->where, id, (int)MLXD_MIN(d->text.len, 64),
                         (const char *)d->text.data, len);
    }
    return MLXD_OK;
}

static mlxd_err add_token(mlxd_lexicon *x, const mlxd_lexicon_style *style, const mlxd_token_def *d,
                          size_t id, mlxd_buf scratch[2], mlxd_why *why) {
    uint8_t byte = 0;
    mlxd_err err = check_token(d, id, style->where, why);
    if (err || d->type == MLXD_TOKEN_UNUSED)
        return err;
    if (d->type == MLXD_TOKEN_BYTE && !mlxd_lexicon_is_byte(d->text, &byte))
        return mlxd_fail(
            why, MLXD_ERR_DATA, "%s: token %zu, \"%.*s\", is a byte, expected <0x00>..<0xFF>",
            style->where, id, (int)MLXD_MIN(d->text.len, 64), (const char *)d->text.data);
    if (d->type == MLXD_TOKEN_BYTE)
        mlxd_buf_add_byte(x->byte_alphabet ? &x->texts : &x->shown, byte);
    else if (x->byte_alphabet && d->merged)
        return add_spelled(x, style, d, id, why);
    else
        mlxd_buf_add(&x->texts, d->text.data, d->text.len);
    if (x->byte_alphabet || d->type == MLXD_TOKEN_BYTE)
        return MLXD_OK;
    if (d->type == MLXD_TOKEN_NORMAL || d->type == MLXD_TOKEN_USER_DEFINED)
        add_shown(x, style, d->text, scratch);
    else
        mlxd_buf_add(&x->shown, d->text.data, d->text.len);
    return MLXD_OK;
}

static mlxd_err add_tokens(mlxd_lexicon *x, const mlxd_token_def *defs,
                           const mlxd_lexicon_style *style, mlxd_why *why) {
    mlxd_buf scratch[2];
    mlxd_buf_init(&scratch[0], 0);
    mlxd_buf_init(&scratch[1], 0);
    mlxd_err err = MLXD_OK;
    for (size_t id = 0; id < x->count && !err; id++) {
        mlxd_token_def d = defs[id];
        if (d.type == 0)
            d = (mlxd_token_def){.type = MLXD_TOKEN_UNUSED};
        x->types[id] = (uint8_t)d.type;
        err = add_token(x, style, &d, id, scratch, why);
        x->text_at[id + 1] = (uint32_t)x->texts.len;
        if (x->shown_at)
            x->shown_at[id + 1] = (uint32_t)x->shown.len;
    }
    mlxd_buf_deinit(&scratch[0]);
    mlxd_buf_deinit(&scratch[1]);
    if (!err && (x->texts.failed || x->shown.failed))
        err = mlxd_fail(why, MLXD_ERR_NOMEM,
                        "no memory for a vocabulary of %zu tokens, or they pass %d MiB", x->count,
                        MLXD_LIMIT_VOCAB_BYTES >> 20);
    return err;
}

mlxd_err mlxd_lexicon_init(mlxd_lexicon *x, const mlxd_token_def *defs, size_t count,
                           const mlxd_lexicon_style *style, mlxd_why *why) {
    MLXD_ASSERT(x && defs && style && count > 0 && count <= MLXD_LIMIT_VOCAB);
    *x = (mlxd_lexicon){.count = count, .byte_alphabet = style->byte_alphabet};
    mlxd_buf_init(&x->texts, MLXD_LIMIT_VOCAB_BYTES);
    mlxd_buf_init(&x->shown, MLXD_LIMIT_VOCAB_BYTES);
    x->text_at = mlxd_mem_new(count + 1, sizeof *x->text_at);
    x->types = mlxd_mem_new(count, sizeof *x->types);
    if (!x->byte_alphabet)
        x->shown_at = mlxd_mem_new(count + 1, sizeof *x->shown_at);
    /* Room for one byte, so that there is a block to point into, were all texts empty. */
    bool room = mlxd_buf_reserve(&x->texts, 1) && mlxd_buf_reserve(&x->shown, 1);
    if (!room || !x->text_at || !x->types || (!x->byte_alphabet && !x->shown_at))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a vocabulary of %zu tokens", count);
    mlxd_err err = add_tokens(x, defs, style, why);
    return err ? err : index_tokens(x, defs, style->where, why);
}

void mlxd_lexicon_deinit(mlxd_lexicon *x) {
    mlxd_buf_deinit(&x->texts);
    mlxd_buf_deinit(&x->shown);
    mlxd_mem_free(x->text_at);
    mlxd_mem_free(x->shown_at);
    mlxd_mem_free(x->types);
    mlxd_mem_free(x->slots);
    *x = (mlxd_lexicon){0};
}

mlxd_slice mlxd_lexicon_text(const mlxd_lexicon *x, int32_t id) {
    MLXD_ASSERT(id >= 0 && (size_t)id < x->count);
    uint32_t start = x->text_at[id];
    return (mlxd_slice){x->texts.data + start, x->text_at[id + 1] - start};
}

mlxd_slice mlxd_lexicon_shown(const mlxd_lexicon *x, int32_t id) {
    if (x->byte_alphabet)
        return mlxd_lexicon_text(x, id);
    MLXD_ASSERT(id >= 0 && (size_t)id < x->count);
    uint32_t start = x->shown_at[id];
    return (mlxd_slice){x->shown.data + start, x->shown_at[id + 1] - start};
}

mlxd_token_type mlxd_lexicon_type(const mlxd_lexicon *x, int32_t id) {
    MLXD_ASSERT(id >= 0 && (size_t)id < x->count);
    return (mlxd_token_type)x->types[id];
}
