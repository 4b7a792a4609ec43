/* fuzz_tokenizer.c - a tokenizer.json, byte 0xff (which no JSON has), and a text: the file is
 * refused or opened, and then the text is encoded or refused, in bounded time, and its ids show the
 * same however the stream is looked at. */
#include "base/mem.h"
#include "format/utf8.h"
#include "model/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void show(const mlxd_tokenizer *t, const mlxd_tokens *ids, mlxd_buf *out, bool whole) {
    mlxd_detok d;
    mlxd_detok_init(&d);
    mlxd_buf_clear(out);
    for (size_t i = 0; i < ids->count; i++) {
        mlxd_detok_add(&d, t, ids->ids[i], out);
        MLXD_ASSERT(whole || mlxd_utf8_check((mlxd_slice){out->data, out->len}) == out->len);
    }
    mlxd_detok_flush(&d, out);
}

static void use(const mlxd_tokenizer *t, mlxd_slice text, bool special) {
    mlxd_tokens ids = {0};
    mlxd_buf stream, whole;
    mlxd_why why;
    mlxd_buf_init(&stream, 0);
    mlxd_buf_init(&whole, 0);
    if (mlxd_tokenizer_encode(t, text, special, 10000, &ids, &why) == MLXD_OK) {
        for (size_t i = 0; i < ids.count; i++) {
            MLXD_ASSERT(ids.ids[i] >= 0 && (size_t)ids.ids[i] < mlxd_tokenizer_vocab(t));
        }
        show(t, &ids, &stream, false);
        show(t, &ids, &whole, true);
        MLXD_ASSERT(stream.len == whole.len);
    }
    mlxd_text_range half = {text.len / 2, text.len};
    ids.count = 0;
    (void)!mlxd_tokenizer_encode_parts(t, text, &half, 1, 10000, &ids, NULL);
    mlxd_buf_deinit(&stream);
    mlxd_buf_deinit(&whole);
    mlxd_tokens_deinit(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0xff, size);
    size_t len = end ? (size_t)(end - data) : size;
    mlxd_tokenizer_files files = {.tokenizer = {data, len}};
    mlxd_slice text = {data + len, 0};
    if (end)
        text = (mlxd_slice){end + 1, size - len - 1};
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    if (mlxd_tokenizer_open_json(&t, &files, &why) == MLXD_OK) {
        use(t, text, true);
        use(t, text, false);
        mlxd_tokenizer_close(t);
    } else {
        MLXD_ASSERT(why.text[0]);
    }
    return 0;
}
