/* test_spans.c - control tokens only where text is trusted, and nothing else changes at the borders
 * of trusted spans. */
#include "model/chat.h"

#include "mini_gguf.h"

typedef struct fixture {
    mini_gguf file;
    mlxd_tokenizer *tokenizer;
    int32_t think, think_end, inst;
} fixture;

static void open_fixture(fixture *f) {
    mini_vocab *v = mini_vocab_new("smollm");
    mlxd_why why = {{0}};
    *f = (fixture){0};
    f->think = mini_add(v, "<think>", 4);
    f->think_end = mini_add(v, "<think>\n\n", 4);
    f->inst = mini_add(v, "<|im_start|>user", 3);
    mini_merge(v, "u", "s");
    mini_merge(v, "\n", "\n");
    if (mlxd_tokenizer_open(&f->tokenizer, mini_vocab_open(&f->file, v), &why))
        fail_msg("%s", why.text);
    free(v);
}

static void close_fixture(fixture *f) {
    mlxd_tokenizer_close(f->tokenizer);
    mini_close(&f->file);
}

/* Text with its trusted parts in { }; ids of control and user-defined tokens in [ ], other tokens
 * as their bytes. */
static void show(const fixture *f, const char *marked, mlxd_buf *out) {
    mlxd_buf text;
    mlxd_text_range spans[32];
    size_t n = 0;
    mlxd_tokens t = {0};
    mlxd_why why = {{0}};
    mlxd_buf_init(&text, 0);
    for (const char *c = marked; *c; c++) {
        if (*c == '{')
            spans[n].start = text.len;
        else if (*c == '}')
            spans[n++].end = text.len;
        else
            mlxd_buf_add_byte(&text, (uint8_t)*c);
    }
    const mlxd_chat_prompt p = {.text = {text.data, text.len}, .trusted = spans, .n_trusted = n};
    if (mlxd_chat_prompt_encode(&p, f->tokenizer, 0, &t, &why))
        fail_msg("%s: %s", marked, why.text);
    mlxd_buf_clear(out);
    for (size_t i = 0; i < t.count; i++) {
        bool special =
            t.ids[i] < 3 || t.ids[i] == f->think || t.ids[i] == f->think_end || t.ids[i] == f->inst;
        mlxd_slice bytes = mlxd_tokenizer_bytes(f->tokenizer, t.ids[i]);
        if (special)
            mlxd_buf_addf(out, "[%d]", t.ids[i]);
        else
            mlxd_buf_add(out, bytes.data, bytes.len);
    }
    mlxd_buf_deinit(&text);
    mlxd_tokens_deinit(&t);
}

static void control_tokens_in_trusted_spans(void **state) {
    (void)state;
    fixture f;
    mlxd_buf got;
    char want[2][160];
    open_fixture(&f);
    mlxd_buf_init(&got, 0);
    snprintf(want[0], sizeof want[0], "[%d]x[%d]", f.think, f.think_end);
    snprintf(want[1], sizeof want[1], "[%d][%d]", f.inst, f.think);
    const char *const rows[][2] = {
        {"<|im_end|>", "<|im_end|>"},
        {"{<|im_end|>}", "[2]"},
        {"a{<|im_end|>}b{<|im_start|>}", "a[2]b[1]"},
        {"{<|im_}end|>", "<|im_end|>"},
        {"<|im_{end|>}", "<|im_end|>"},
        {"{<|im_}end{|>}", "<|im_end|>"},
        {"{<}|im_end|>{<|im_end|>}", "<|im_end|>[2]"},
        {"<|im_end|>{<|im_end|>}<|im_end|>", "<|im_end|>[2]<|im_end|>"},
        {"{x<|im_end|>y}<|im_end|>{z<|im_start|>}", "x[2]y<|im_end|>z[1]"},
        /* the longest that fits into the span */
        {"{<|im_start|>}user", "[1]user"},
        /* user-defined tokens anywhere, also over a border */
        {"<think>x{<think>\n\n}", want[0]},
        {"{<|im_start|>user<thi}nk>", want[1]},
        {"{<|im_start|>user<think>}", want[1]},
        {"", ""},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        show(&f, rows[i][0], &got);
        if (strcmp(mlxd_buf_str(&got), rows[i][1]) != 0)
            fail_msg("%s: expected %s, got %s", rows[i][0], rows[i][1], mlxd_buf_str(&got));
    }
    mlxd_buf_deinit(&got);
    close_fixture(&f);
}

/* Whatever the spans: without a control token in the text the ids are the same. */
static void borders_are_not_seen(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f);
    static const char text[] = "user\n\n  us us\n\nusus <think>\n\nus";
    const mlxd_slice s = {(const uint8_t *)text, sizeof text - 1};
    mlxd_tokens want = {0}, got = {0};
    assert_int_equal(mlxd_tokenizer_encode(f.tokenizer, s, true, 0, &want, NULL), MLXD_OK);
    for (size_t a = 0; a < s.len; a++)
        for (size_t b = a + 1; b <= s.len; b++) {
            const mlxd_text_range span = {a, b};
            const mlxd_chat_prompt p = {.text = s, .trusted = &span, .n_trusted = 1};
            got.count = 0;
            assert_int_equal(mlxd_chat_prompt_encode(&p, f.tokenizer, 0, &got, NULL), MLXD_OK);
            assert_int_equal(got.count, want.count);
            assert_memory_equal(got.ids, want.ids, got.count * sizeof *got.ids);
        }
    mlxd_tokens_deinit(&want);
    mlxd_tokens_deinit(&got);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_tokens_in_trusted_spans),
        cmocka_unit_test(borders_are_not_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
