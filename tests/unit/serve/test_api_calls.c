/* test_api_calls.c - tool calls in the text of an answer: what is a call, what stays text, however
 * the text is cut, and the chunks and objects that a client gets. */
#include "serve/api_calls.h"

#include "../../support/model_file.h"

#include "serve/api_chunks.h"

#define WEATHER                                                                                    \
    "{\"name\": \"weather\", \"arguments\": {\"city\": \"K\xc3\xb6ln\", \"n\": [1, 2.5]}}"
#define WEATHER_ARGUMENTS "{\"city\":\"K\xc3\xb6ln\",\"n\":[1,2.5]}"

/* Text that is let through, then a line per call. */
static void split(const char *in, size_t piece, mlxd_buf *out) {
    mlxd_api_calls c;
    mlxd_buf text;
    size_t len = strlen(in);
    mlxd_api_calls_init(&c);
    mlxd_buf_init(&text, 0);
    for (size_t at = 0; at < len; at += piece) {
        mlxd_buf_clear(&text);
        mlxd_buf_add(&text, in + at, MLXD_MIN(piece, len - at));
        mlxd_api_calls_take(&c, &text, false);
        mlxd_buf_add(out, text.data, text.len);
    }
    mlxd_buf_clear(&text);
    mlxd_api_calls_take(&c, &text, true);
    mlxd_buf_add(out, text.data, text.len);
    for (size_t i = 0; i < c.count; i++)
        mlxd_buf_addf(out, "\n%s %s", c.calls[i].name, c.calls[i].arguments);
    assert_false(c.failed);
    mlxd_buf_deinit(&text);
    mlxd_api_calls_deinit(&c);
}

static void calls_and_text(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"Just text.", "Just text."},
        {"", ""},
        {"a < b and <tool", "a < b and <tool"},
        {"<tool_call>\n" WEATHER "\n</tool_call>", "\nweather " WEATHER_ARGUMENTS},
        {"Let me see.\n<tool_call>" WEATHER "</tool_call>\n<tool_call>\n{\"name\":\"now\","
         "\"arguments\":{}}</tool_call>\n",
         "Let me see.\n\nweather " WEATHER_ARGUMENTS "\nnow {}"},
        /* the end of turn in place of the closing tag */
        {"<tool_call>" WEATHER, "\nweather " WEATHER_ARGUMENTS},
        /* the form of Llama 3 */
        {" {\"name\": \"f\", \"parameters\": {\"x\": null}}", "\nf {\"x\":null}"},
        {"{\"name\": \"f\", \"x\": 1}", "{\"name\": \"f\", \"x\": 1}"},
        {"{\"name\": \"f\", \"parameters\": {}} and more",
         "{\"name\": \"f\", \"parameters\": {}} and more"},
        {"{ not JSON", "{ not JSON"},
        {"Text {\"name\": \"f\", \"parameters\": {}}",
         "Text {\"name\": \"f\", \"parameters\": {}}"},
        /* what looks like a call */
        {"<tool_call>oops</tool_call>", "<tool_call>oops</tool_call>"},
        {"<tool_call>{\"name\":\"\",\"arguments\":{}}</tool_call>",
         "<tool_call>{\"name\":\"\",\"arguments\":{}}</tool_call>"},
        {"<tool_call>{\"name\":\"f\",\"arguments\":\"x\"}</tool_call>!",
         "<tool_call>{\"name\":\"f\",\"arguments\":\"x\"}</tool_call>!"},
        {"<tool_call><tool_call>" WEATHER "</tool_call>",
         "<tool_call><tool_call>" WEATHER "</tool_call>"},
        {"<<tool_call>" WEATHER "</tool_call>>", "<>\nweather " WEATHER_ARGUMENTS},
        {"<tool_call", "<tool_call"},
        {"  \n", "  \n"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        for (size_t piece = 1; piece < 40; piece += piece < 4 ? 1 : 7) {
            mlxd_buf out;
            mlxd_buf_init(&out, 0);
            split(rows[i][0], piece, &out);
            if (strcmp(mlxd_buf_str(&out), rows[i][1]) != 0)
                fail_msg("%s in pieces of %zu: expected %s, got %s", rows[i][0], piece, rows[i][1],
                         mlxd_buf_str(&out));
            mlxd_buf_deinit(&out);
        }
}

static void many_calls_are_bounded(void **state) {
    (void)state;
    mlxd_buf in, out;
    mlxd_buf_init(&in, 0);
    mlxd_buf_init(&out, 0);
    for (int i = 0; i < MLXD_API_CALLS_MAX + 1; i++)
        mlxd_buf_add_str(&in, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>");
    split(mlxd_buf_str(&in), 1000, &out);
    const char *text = mlxd_buf_str(&out);
    assert_memory_equal(text, "<tool_call>{\"name\":\"f\"", 22); /* the last one is text */
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, "\nf {}")); p++)
        n++;
    assert_int_equal(n, MLXD_API_CALLS_MAX);
    mlxd_buf_deinit(&in);
    mlxd_buf_deinit(&out);
}

/* ---- what a client gets ---- */

#define ROW 320

/* Runs the tokens of `text`, then the end of turn, through the chunks of a request with tools. */
static void answer(const char *text, bool stream, mlxd_buf *out) {
    static float row[ROW];
    mlxd_why why = {0};
    mlxd_tokenizer *t;
    mlxd_generation *g;
    mlxd_tokens tokens = {0};
    mlxd_checkpoint *file = model_file_open(MLXD_GOLDEN "/tiny-f32.gguf");
    model_file_check(mlxd_tokenizer_open(&t, mlxd_checkpoint_gguf(file), &why), &why);
    mlxd_checkpoint_close(file);
    model_file_check(mlxd_tokenizer_encode(t, mlxd_slice_str(text), false, 0, &tokens, &why), &why);
    assert_int_equal(mlxd_tokens_add(&tokens, mlxd_tokenizer_eos(t), 0), MLXD_OK);
    mlxd_generation_params p = {.max_tokens = 4096};
    mlxd_sampling_init(&p.sampling);
    p.sampling.temperature = 0;
    int32_t prompt = 5;
    model_file_check(mlxd_generation_open(&g, &p, t, ROW, &prompt, 1, &why), &why);
    mlxd_request *r = mlxd_request_open(&prompt, 1, 4096, g, (mlxd_request_sink){0});
    mlxd_sampler_scratch *scratch = mlxd_sampler_scratch_open(ROW);
    mlxd_api_fields *f = calloc(1, sizeof *f);
    mlxd_json_doc *tools;
    model_file_check(mlxd_json_parse(&tools, mlxd_slice_str("[{}]"), 3, &why), &why);
    f->stream = stream;
    f->tools = mlxd_json_root(tools);
    mlxd_chunks c;
    mlxd_chunks_init(&c, MLXD_API_CHAT, f);
    snprintf(c.id, sizeof c.id, "chatcmpl-0011");
    c.model = "m";
    c.fingerprint = "p";
    c.tokenizer = t;
    for (size_t i = 0; i < tokens.count; i++) {
        int32_t drawn;
        mlxd_finish finish;
        for (size_t k = 0; k < ROW; k++)
            row[k] = (int32_t)k == tokens.ids[i] ? 9 : 0;
        model_file_check(
            mlxd_generation_draw(g, scratch, row, (uint32_t)i + 1, &drawn, &finish, &why), &why);
        if (finish == MLXD_FINISH_NONE)
            mlxd_chunks_token(&c, g);
        else
            assert_int_equal(i, tokens.count - 1);
    }
    mlxd_chunks_end(&c, r);
    assert_false(c.out.failed);
    mlxd_buf_add(out, c.out.data, c.out.len);
    mlxd_chunks_deinit(&c);
    mlxd_json_close(tools);
    free(f);
    mlxd_sampler_scratch_close(scratch);
    mlxd_request_close(r);
    mlxd_tokens_deinit(&tokens);
    mlxd_tokenizer_close(t);
}

static void expect_part(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("no %s in %s", part, text);
}

static void whole_answers(void **state) {
    (void)state;
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    answer("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", false, &out);
    const char *text = mlxd_buf_str(&out);
    expect_part(text, "\"message\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                      "\"id\":\"call_0011_0\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                      "\"arguments\":\"{\\\"x\\\":1}\"}}],\"refusal\":null}");
    expect_part(text, "\"finish_reason\":\"tool_calls\"");
    mlxd_buf_clear(&out);
    answer("No tool.", false, &out);
    text = mlxd_buf_str(&out);
    expect_part(text, "\"content\":\"No tool.\",\"refusal\":null}");
    expect_part(text, "\"finish_reason\":\"stop\"");
    assert_null(strstr(text, "tool_calls"));
    mlxd_buf_deinit(&out);
}

static void streams(void **state) {
    (void)state;
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    answer("Hm. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"
           "<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
           true, &out);
    const char *text = mlxd_buf_str(&out);
    assert_null(strstr(text, "tool_call>"));
    expect_part(text, "\"delta\":{\"content\":\"H\"}");
    const char *f = strstr(text, "\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_0011_0\","
                                 "\"type\":\"function\",\"function\":{\"name\":\"f\","
                                 "\"arguments\":\"{}\"}}]},\"logprobs\":null,"
                                 "\"finish_reason\":null");
    const char *g = strstr(text, "\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"call_0011_1\"");
    const char *end =
        strstr(text, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"tool_calls\"");
    assert_true(f && g && end && f < g && g < end);
    expect_part(end, "data: [DONE]");
    mlxd_buf_deinit(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_and_text),
        cmocka_unit_test(many_calls_are_bounded),
        cmocka_unit_test(whole_answers),
        cmocka_unit_test(streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
