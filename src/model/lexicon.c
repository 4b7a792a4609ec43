/* lexicon.c - see lexicon.h. The GGUF arrays are walked once; all bytes lie in one block, which the
 * spelled texts bound (unspelling never lengthens). */
#include "model/lexicon.h"

#include "base/mem.h"
#include "format/utf8.h"

#include <string.h>

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"

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
    "<end_of_turn>",
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

/* <|this|>, also with the full-width bars that DeepSeek uses. */
static bool looks_special(mlxd_slice s) {
    return (s.len > 4 && begins(s, "<|") && ends(s, "|>")) ||
           (s.len > 8 && begins(s, "<\xef\xbd\x9c") && ends(s, "\xef\xbd\x9c>"));
}

/* ---- byte alphabet ---- */

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

/* ---- normal tokens by bytes ---- */

static uint64_t hash_bytes(mlxd_slice s) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, then mixed so that the low bits are good */
    for (size_t i = 0; i < s.len; i++)
        h = (h ^ s.data[i]) * 0x100000001b3u;
    h ^= h >> 32;
    return h * 0x9e3779b97f4a7c15u >> 16;
}

int32_t mlxd_lexicon_find(const mlxd_lexicon *x, mlxd_slice bytes) {
    MLXD_ASSERT(x->slots);
    for (size_t i = hash_bytes(bytes) & x->slot_mask;; i = (i + 1) & x->slot_mask) {
        int32_t id = x->slots[i];
        if (id < 0 || mlxd_slice_eq(mlxd_lexicon_bytes(x, id), bytes))
            return id;
    }
}

static mlxd_err index_token(mlxd_lexicon *x, int32_t id, mlxd_why *why) {
    mlxd_slice bytes = mlxd_lexicon_bytes(x, id);
    size_t i = hash_bytes(bytes) & x->slot_mask;
    for (size_t probes = 0; x->slots[i] >= 0; i = (i + 1) & x->slot_mask) {
        if (mlxd_slice_eq(mlxd_lexicon_bytes(x, x->slots[i]), bytes))
            return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": tokens %d and %d are the same",
                             x->slots[i], id);
        if (++probes > PROBES_MAX)
            return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": made for hash collisions");
    }
    x->slots[i] = id;
    x->longest = MLXD_MAX(x->longest, bytes.len);
    return MLXD_OK;
}

static mlxd_err index_tokens(mlxd_lexicon *x, mlxd_why *why) {
    size_t slots = 16;
    while (slots < x->count * 2)
        slots *= 2;
    x->slots = mlxd_mem_new(slots, sizeof *x->slots);
    if (!x->slots)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for %zu vocabulary slots", slots);
    x->slot_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        x->slots[i] = -1;
    for (size_t id = 0; id < x->count; id++) {
        if (x->types[id] != MLXD_TOKEN_NORMAL || x->starts[id] == x->starts[id + 1])
            continue;
        mlxd_err err = index_token(x, (int32_t)id, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

/* ---- reading ---- */

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* <0xNN> */
static bool unspell_byte_token(mlxd_slice text, uint8_t *out) {
    if (text.len != 6 || !begins(text, "<0x") || text.data[5] != '>')
        return false;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    if (high < 0 || low < 0)
        return false;
    *out = (uint8_t)(high * 16 + low);
    return true;
}

/* The type that a token really has; see the remark on wrong types in tokenizer.h. */
static mlxd_token_type true_type(mlxd_token_type type, mlxd_slice text) {
    if (!looks_special(text))
        return type;
    if (type == MLXD_TOKEN_USER_DEFINED ||
        (type == MLXD_TOKEN_NORMAL && mlxd_lexicon_names_end(text)))
        return MLXD_TOKEN_CONTROL;
    return type;
}

static mlxd_err check_token(size_t id, int64_t type, mlxd_slice text, mlxd_why *why) {
    if (type < MLXD_TOKEN_NORMAL || type > MLXD_TOKEN_BYTE)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TYPES ": token %zu has type %lld, expected 1..6",
                         id, (long long)type);
    if (text.len > MLXD_LIMIT_TOKEN_BYTES)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": token %zu has %zu bytes, limit %d", id,
                         text.len, MLXD_LIMIT_TOKEN_BYTES);
    size_t good = mlxd_utf8_check(text);
    if (good != text.len)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": token %zu is not UTF-8 at byte %zu", id,
                         good);
    return MLXD_OK;
}

/* Writes the bytes of token `id`, which was checked, at `out` (room for text.len); sets *len. */
static mlxd_err put_token(size_t id, mlxd_token_type type, mlxd_slice text, uint8_t *out,
                          size_t *len, mlxd_why *why) {
    int shown = (int)MLXD_MIN(text.len, 64);
    *len = 0;
    switch (type) {
    case MLXD_TOKEN_UNUSED:
        return MLXD_OK;
    case MLXD_TOKEN_NORMAL:
        if (mlxd_lexicon_unspell(text, out, len))
            return MLXD_OK;
        return mlxd_fail(why, MLXD_ERR_DATA,
                         KEY_TOKENS ": token %zu, \"%.*s\", is normal, and byte %zu is not of the "
                                    "byte alphabet",
                         id, shown, (const char *)text.data, *len);
    case MLXD_TOKEN_BYTE:
        *len = 1;
        if (unspell_byte_token(text, out))
            return MLXD_OK;
        return mlxd_fail(why, MLXD_ERR_DATA,
                         KEY_TOKENS ": token %zu, \"%.*s\", is a byte, expected <0x00>..<0xFF>", id,
                         shown, (const char *)text.data);
    case MLXD_TOKEN_UNKNOWN:
    case MLXD_TOKEN_CONTROL:
    case MLXD_TOKEN_USER_DEFINED:
        break;
    }
    if (text.len > MLXD_LIMIT_SPECIAL_BYTES)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         KEY_TOKENS ": control or user-defined token %zu has %zu bytes, limit %d",
                         id, text.len, MLXD_LIMIT_SPECIAL_BYTES);
    if (text.len)
        memcpy(out, text.data, text.len);
    *len = text.len;
    return MLXD_OK;
}

static mlxd_err get_arrays(const mlxd_gguf *g, mlxd_gguf_array *texts, mlxd_gguf_array *types,
                           mlxd_why *why) {
    mlxd_err err = mlxd_gguf_get_array(g, KEY_TOKENS, texts, why);
    if (!err)
        err = mlxd_gguf_get_array(g, KEY_TYPES, types, why);
    if (err == MLXD_ERR_NOTFOUND)
        return mlxd_fail(why, MLXD_ERR_DATA, "no array " KEY_TOKENS " or " KEY_TYPES);
    if (err)
        return err;
    if (texts->type != MLXD_GGUF_STRING)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": expected strings, found type %d",
                         (int)texts->type);
    if (types->type == MLXD_GGUF_STRING || types->type == MLXD_GGUF_F32 ||
        types->type == MLXD_GGUF_F64 || types->type == MLXD_GGUF_BOOL)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TYPES ": expected integers, found type %d",
                         (int)types->type);
    if (texts->count < 1 || texts->count > MLXD_LIMIT_VOCAB)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TOKENS ": %llu tokens, expected 1..%u",
                         (unsigned long long)texts->count, MLXD_LIMIT_VOCAB);
    if (texts->count != types->count)
        return mlxd_fail(why, MLXD_ERR_DATA, KEY_TYPES ": %llu types for %llu tokens",
                         (unsigned long long)types->count, (unsigned long long)texts->count);
    return MLXD_OK;
}

mlxd_err mlxd_lexicon_init(mlxd_lexicon *x, const mlxd_gguf *g, mlxd_why *why) {
    MLXD_ASSERT(x && g);
    *x = (mlxd_lexicon){0};
    mlxd_gguf_array texts, types;
    mlxd_err err = get_arrays(g, &texts, &types, why);
    if (err)
        return err;
    size_t count = (size_t)texts.count;
    x->bytes = mlxd_mem_new(texts.data.len, 1);
    x->starts = mlxd_mem_new(count + 1, sizeof *x->starts);
    x->types = mlxd_mem_new(count, sizeof *x->types);
    if (!x->bytes || !x->starts || !x->types)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a vocabulary of %zu tokens", count);
    size_t cursor = 0, used = 0;
    for (size_t id = 0; id < count; id++) {
        mlxd_slice text = mlxd_gguf_array_next_str(&texts, &cursor);
        int64_t type = mlxd_gguf_array_int(&types, id);
        err = check_token(id, type, text, why);
        if (err)
            return err;
        x->types[id] = (uint8_t)true_type((mlxd_token_type)type, text);
        size_t len;
        err = put_token(id, (mlxd_token_type)x->types[id], text, x->bytes + used, &len, why);
        if (err)
            return err;
        used += len;
        x->starts[id + 1] = used;
    }
    MLXD_ASSERT(used <= texts.data.len);
    x->count = count;
    uint8_t *fit = mlxd_mem_resize(x->bytes, used, 1); /* the lengths in the file are not needed */
    if (fit)
        x->bytes = fit;
    return index_tokens(x, why);
}

void mlxd_lexicon_deinit(mlxd_lexicon *x) {
    mlxd_mem_free(x->bytes);
    mlxd_mem_free(x->starts);
    mlxd_mem_free(x->types);
    mlxd_mem_free(x->slots);
    *x = (mlxd_lexicon){0};
}

mlxd_slice mlxd_lexicon_bytes(const mlxd_lexicon *x, int32_t id) {
    MLXD_ASSERT(id >= 0 && (size_t)id < x->count);
    size_t start = x->starts[id];
    return (mlxd_slice){x->bytes + start, x->starts[id + 1] - start};
}

mlxd_token_type mlxd_lexicon_type(const mlxd_lexicon *x, int32_t id) {
    MLXD_ASSERT(id >= 0 && (size_t)id < x->count);
    return (mlxd_token_type)x->types[id];
}
