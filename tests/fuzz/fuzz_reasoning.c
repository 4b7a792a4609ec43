/* fuzz_reasoning.c - reasoning.h on arbitrary text: the parts are the same however it is cut, and
 * nothing appears that was not there.
 *
 *     byte 0   the form
 *     byte 1   length of the pieces of the second reading
 *     others   text; 01..07 stand for Harmony's control tokens
 */
#include "model/reasoning.h"

#include <string.h>

static const char *const control[] = {"<|start|>",  "<|end|>",  "<|message|>",  "<|channel|>",
                                      "<|return|>", "<|call|>", "<|constrain|>"};

static bool is_control(uint8_t c) {
    return c >= 1 && c <= MLXD_COUNT_OF(control);
}

static void divide(mlxd_reasoning_format f, mlxd_slice text, size_t piece, mlxd_buf *reasoning,
                   mlxd_buf *content) {
    mlxd_reasoning r;
    mlxd_reasoning_init(&r, f, NULL, NULL, 0);
    mlxd_buf_init(reasoning, 0);
    mlxd_buf_init(content, 0);
    for (size_t at = 0, end; at < text.len; at = end) {
        end = at + 1;
        if (is_control(text.data[at])) {
            mlxd_reasoning_control(&r, mlxd_slice_str(control[text.data[at] - 1]), reasoning,
                                   content);
            continue;
        }
        while (end < text.len && end - at < piece && !is_control(text.data[end]))
            end++;
        mlxd_reasoning_add(&r, (mlxd_slice){text.data + at, end - at}, reasoning, content);
    }
    mlxd_reasoning_end(&r, reasoning, content);
}

static bool same(const mlxd_buf *a, const mlxd_buf *b) {
    return mlxd_slice_eq((mlxd_slice){a->data, a->len}, (mlxd_slice){b->data, b->len});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mlxd_buf whole[2], cut[2];
    if (size < 2 || size > 1u << 16)
        return 0;
    mlxd_reasoning_format f = (mlxd_reasoning_format)(data[0] % MLXD_REASONING_FORMATS);
    mlxd_slice text = {data + 2, size - 2};
    divide(f, text, SIZE_MAX, &whole[0], &whole[1]);
    divide(f, text, 1 + data[1] % 8, &cut[0], &cut[1]);
    MLXD_ASSERT(same(&whole[0], &cut[0]) && same(&whole[1], &cut[1]));
    MLXD_ASSERT(whole[0].len + whole[1].len <= text.len); /* a joining line feed had a token */
    for (size_t i = 0; i < 2; i++) {
        mlxd_buf_deinit(&whole[i]);
        mlxd_buf_deinit(&cut[i]);
    }
    return 0;
}
