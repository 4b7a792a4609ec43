/* test_reasoning.c - reasoning and content: samples of both forms, cut at every place, random ones
 * against a search over the whole text, prompts that begin the reasoning, and which form a model
 * needs. */
#include "mini_gguf.h"

#include "model/generation.h"

#include <time.h>

static mlxd_tokenizer *tokenizer;

static int set_up(void **state) {
    static const char *const control[] = {"<|start|>", "<|end|>",    "<|message|>",  "<|channel|>",
                                          "<|call|>",  "<|return|>", "<|constrain|>"};
    mini_vocab *v = mini_vocab_new("gpt-2");
    mini_gguf m;
    mlxd_why why = {0};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(control); i++)
        mini_add(v, control[i], 3);
    mini_add(v, "<think>", 4);
    mini_add(v, "</think>", 4);
    mini_add(v, "[THINK]", 3);
    mini_add(v, "[/THINK]", 3);
    mlxd_err err = mlxd_tokenizer_open(&tokenizer, mini_vocab_open(&m, v), &why);
    if (err)
        print_error("%s\n", why.text);
    mini_close(&m);
    free(v);
    return err ? -1 : 0;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_tokenizer_close(tokenizer);
    return 0;
}

struct parts {
    mlxd_buf reasoning, content;
};

static void parts_init(struct parts *p) {
    mlxd_buf_init(&p->reasoning, 0);
    mlxd_buf_init(&p->content, 0);
}

static void parts_deinit(struct parts *p) {
    mlxd_buf_deinit(&p->reasoning);
    mlxd_buf_deinit(&p->content);
}

/* Length of the control token that `s` begins with (Harmony's, and [THINK]'s); 0: none. */
static size_t control_length(const mlxd_reasoning *r, const char *s) {
    const char *end = *s == '<' ? strstr(s, "|>") : *s == '[' ? strchr(s, ']') : NULL;
    size_t n = end ? (size_t)(end - s) + (*s == '<' ? 2 : 1) : 0;
    return n && mlxd_reasoning_wants(r, (mlxd_slice){(const uint8_t *)s, n}) ? n : 0;
}

/* Gives `text` in two pieces, cut at `cut`; control tokens are never cut. */
static void run(mlxd_reasoning_format f, const char *prompt, const char *text, size_t cut,
                struct parts *p) {
    mlxd_reasoning r;
    mlxd_tokens ids = {0};
    mlxd_why why = {0};
    assert_int_equal(mlxd_tokenizer_encode(tokenizer, mlxd_slice_str(prompt), true, 0, &ids, &why),
                     MLXD_OK);
    mlxd_reasoning_init(&r, f, tokenizer, ids.ids, ids.count);
    for (size_t at = 0, len = strlen(text), end; at < len; at = end) {
        size_t control = f == MLXD_REASONING_THINK ? 0 : control_length(&r, text + at);
        end = at + (control ? control : 1);
        while (!control && end < len && end != cut &&
               (f == MLXD_REASONING_THINK || !control_length(&r, text + end)))
            end++;
        mlxd_slice piece = {(const uint8_t *)text + at, end - at};
        if (control)
            mlxd_reasoning_control(&r, piece, &p->reasoning, &p->content);
        else
            mlxd_reasoning_add(&r, piece, &p->reasoning, &p->content);
    }
    mlxd_reasoning_end(&r, &p->reasoning, &p->content);
    mlxd_tokens_deinit(&ids);
}

/* The same whether it comes in one piece, in two, or in single bytes. */
static void expect(mlxd_reasoning_format f, const char *prompt, const char *text,
                   const char *reasoning, const char *content) {
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        struct parts p;
        parts_init(&p);
        run(f, prompt, text, cut, &p);
        assert_string_equal(mlxd_buf_str(&p.reasoning), reasoning);
        assert_string_equal(mlxd_buf_str(&p.content), content);
        parts_deinit(&p);
    }
}

#define CHATML "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

static void think_markers(void **state) {
    const mlxd_reasoning_format f = MLXD_REASONING_THINK;
    (void)state;
    expect(f, CHATML, "<think>\nHmm, two.\n</think>\n\nFour.\n", "Hmm, two.", "Four.\n");
    expect(f, CHATML, "\n <think>a</think>b", "a", "b");
    expect(f, CHATML, "<think>\n\n</think>\n\nFour.", "", "Four.");
    expect(f, CHATML, "<think></think>Four.", "", "Four.");
    expect(f, CHATML, "<think>a\n\n b \n</thin</think>c", "a\n\n b \n</thin", "c");
    expect(f, CHATML, "<think>a < b <</think>c", "a < b <", "c");
    expect(f, CHATML, "<think>\xc3\xa9</think>\xe2\x82\xac", "\xc3\xa9", "\xe2\x82\xac");
    /* never closed, closed in part, empty */
    expect(f, CHATML, "<think>\nHmm, \n", "Hmm,", "");
    expect(f, CHATML, "<think>Hmm</thi", "Hmm</thi", "");
    expect(f, CHATML, "<think>x yaa<\n", "x yaa<", "");
    expect(f, CHATML, "<think>", "", "");
    expect(f, CHATML, "", "", "");
    /* content that only looks so */
    expect(f, CHATML, "  <thin air>", "", "  <thin air>");
    expect(f, CHATML, "<thi", "", "<thi");
    expect(f, CHATML, " \n", "", " \n");
    expect(f, CHATML, "Use <think>x</think>.", "", "Use <think>x</think>.");
    expect(f, CHATML, "<think>a</think>b<think>c</think>", "a", "b<think>c</think>");
    expect(MLXD_REASONING_NONE, CHATML "<think>", " <think>a</think>", "", " <think>a</think>");
}

static void prompts_that_begin_the_reasoning(void **state) {
    const mlxd_reasoning_format f = MLXD_REASONING_THINK;
    (void)state;
    expect(f, CHATML "<think>\n", "Hmm.\n</think>\n\nFour.", "Hmm.", "Four.");
    expect(f, CHATML "<think>\n", "Hmm.", "Hmm.", "");
    /* the model opens it once more */
    expect(f, CHATML "<think>\n", "\n<think>\nHmm.</think>Four.", "Hmm.", "Four.");
    expect(f, CHATML "<think>\n", "<thin", "<thin", "");
    expect(f, CHATML "<think>\n", "<thin ice</think>a", "<thin ice", "a");
    expect(f, CHATML "<think>\n", "a<think>b</think>c", "a<think>b", "c");
    /* thinking switched off by the template */
    expect(f, CHATML "<think>\n\n</think>\n\n", "\nFour.</think>", "", "Four.</think>");
    /* what a user wrote is not at the prompt's end */
    expect(f, "<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n", "Hi", "", "Hi");
}

static void markers_of_mistral(void **state) {
    const mlxd_reasoning_format f = MLXD_REASONING_MISTRAL;
    (void)state;
    expect(f, CHATML, "[THINK]a[b]\n[/THINK]\nc", "a[b]", "c");
    expect(f, CHATML "[THINK]", "a[/THINK]c", "a", "c");
}

static void white_space_is_bounded(void **state) {
    char text[600], want[600];
    (void)state;
    memset(text, 0, sizeof text);
    memset(text, ' ', MLXD_REASONING_SPACE);
    strcat(text, "<think>a");
    expect(MLXD_REASONING_THINK, CHATML, text, "a", "");
    memset(text, ' ', MLXD_REASONING_SPACE + 8);
    strcpy(text + MLXD_REASONING_SPACE + 1, "<think>a");
    expect(MLXD_REASONING_THINK, CHATML, text, "", text);
    /* Behind the reasoning only so much is dropped as can be held back. */
    strcpy(text, "<think>a");
    memset(text + 8, '\n', MLXD_REASONING_SPACE + 1);
    strcpy(text + 8 + MLXD_REASONING_SPACE + 1, "</think>b");
    memset(want, 0, sizeof want);
    memset(want, '\n', MLXD_REASONING_SPACE + 1);
    want[0] = 'a';
    expect(MLXD_REASONING_THINK, CHATML, text, want, "b");
}

#define HARMONY "<|start|>user<|message|>Hi<|end|><|start|>assistant"
#define ANALYSIS "<|channel|>analysis<|message|>"
#define FINAL "<|channel|>final<|message|>"

static void harmony_channels(void **state) {
    const mlxd_reasoning_format f = MLXD_REASONING_HARMONY;
    (void)state;
    expect(f, HARMONY, ANALYSIS "Two.\n<|end|><|start|>assistant" FINAL "Four.<|return|>", "Two.\n",
           "Four.");
    expect(f, HARMONY, FINAL "Four.", "", "Four.");
    expect(f, HARMONY, ANALYSIS "Two", "Two", "");
    /* several of a kind */
    expect(f, HARMONY,
           ANALYSIS "a<|end|><|start|>assistant" ANALYSIS "b<|end|>"
                    "<|start|>assistant<|channel|>commentary<|message|>c<|end|>"
                    "<|start|>assistant" FINAL "d",
           "a\nb", "c\nd");
    expect(f, HARMONY, ANALYSIS "a<|end|><|start|>assistant" ANALYSIS "<|end|>", "a", "");
    /* calls of tools, the recipient in either place */
    expect(f, HARMONY,
           ANALYSIS "a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
                    "<|constrain|>json<|message|>{\"x\":1}<|call|>",
           "a", "");
    expect(f, HARMONY, " to=functions.f<|channel|>commentary json<|message|>{}<|call|>", "", "");
    expect(f, HARMONY, "<|channel|>analysis to=python code<|message|>1+1<|call|>", "", "");
    /* a message that begins without the end of the one before it */
    expect(f, HARMONY, ANALYSIS "a" FINAL "b", "a", "b");
    /* headers that the prompt has begun */
    expect(f, HARMONY FINAL, "Four.", "", "Four.");
    expect(f, HARMONY ANALYSIS, "Two.<|end|><|start|>assistant" FINAL "Four.", "Two.", "Four.");
    expect(f, HARMONY "<|channel|>", "analysis<|message|>a", "a", "");
    /* cut inside of a header */
    expect(f, HARMONY, ANALYSIS "a<|end|><|start|>assistant<|channel|>fi", "a", "");
    expect(f, HARMONY, ANALYSIS "a<|end|><|start|>assist", "a", "");
}

static void harmony_that_is_none(void **state) {
    const mlxd_reasoning_format f = MLXD_REASONING_HARMONY;
    char text[2 * MLXD_REASONING_HEADER];
    (void)state;
    expect(f, HARMONY, "Four.", "", "Four.");
    expect(f, HARMONY, "Four.<|end|>", "", "");
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    expect(f, HARMONY, text, "", text);
    expect(f, "no header", text, "", text);
}

/* ---- random texts ---- */

static bool begins(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

static const char *skip_space(const char *s) {
    return s + strspn(s, " \n");
}

/* What reasoning.h promises, as a search over the whole text. */
static void search(const char *text, char *reasoning, char *content) {
    const char *s = skip_space(text);
    *reasoning = *content = 0;
    if (!begins(s, "<think>")) {
        strcpy(content, text);
        return;
    }
    while (begins(s, "<think>"))
        s = skip_space(s + strlen("<think>"));
    const char *end = strstr(s, "</think>");
    size_t n = end ? (size_t)(end - s) : strlen(s);
    while (n > 0 && strchr(" \n", s[n - 1]))
        n--;
    memcpy(reasoning, s, n);
    reasoning[n] = 0;
    if (end)
        strcpy(content, skip_space(end + strlen("</think>")));
}

static void equals_a_search_however_it_is_cut(void **state) {
    static const char *const words[] = {"<think>", "</think>", "<", "/",   "think>", "</thi",
                                        "a",       "\n",       " ", "x y", "<think", ">"};
    unsigned seed = (unsigned)time(NULL);
    (void)state;
    print_message("seed %u\n", seed);
    for (int round = 0; round < 20000; round++) {
        char text[256] = "", reasoning[256], content[256];
        int n = rand_r(&seed) % 16;
        if (rand_r(&seed) % 4)
            strcat(text, "<think>");
        for (int i = 0; i < n; i++)
            strcat(text, words[rand_r(&seed) % (int)MLXD_COUNT_OF(words)]);
        search(text, reasoning, content);
        mlxd_reasoning r;
        struct parts p;
        parts_init(&p);
        mlxd_reasoning_init(&r, MLXD_REASONING_THINK, tokenizer, NULL, 0);
        for (size_t at = 0, len = strlen(text); at < len;) {
            size_t take = 1 + (size_t)rand_r(&seed) % 9;
            take = MLXD_MIN(take, len - at);
            mlxd_reasoning_add(&r, (mlxd_slice){(uint8_t *)text + at, take}, &p.reasoning,
                               &p.content);
            at += take;
        }
        mlxd_reasoning_end(&r, &p.reasoning, &p.content);
        assert_string_equal(mlxd_buf_str(&p.reasoning), reasoning);
        assert_string_equal(mlxd_buf_str(&p.content), content);
        parts_deinit(&p);
    }
}

/* Text is shown as soon as it is certain. */
static void nothing_is_held_that_is_certain(void **state) {
    mlxd_reasoning r;
    struct parts p;
    (void)state;
    parts_init(&p);
    mlxd_reasoning_init(&r, MLXD_REASONING_THINK, tokenizer, NULL, 0);
    assert_false(mlxd_reasoning_inside(&r));
    mlxd_reasoning_add(&r, mlxd_slice_str("<think>\nab"), &p.reasoning, &p.content);
    assert_true(mlxd_reasoning_inside(&r));
    assert_string_equal(mlxd_buf_str(&p.reasoning), "ab");
    mlxd_reasoning_add(&r, mlxd_slice_str("\n"), &p.reasoning, &p.content);
    assert_string_equal(mlxd_buf_str(&p.reasoning), "ab");
    mlxd_reasoning_add(&r, mlxd_slice_str("c</thi"), &p.reasoning, &p.content);
    assert_string_equal(mlxd_buf_str(&p.reasoning), "ab\nc");
    mlxd_reasoning_add(&r, mlxd_slice_str("nk>d"), &p.reasoning, &p.content);
    assert_string_equal(mlxd_buf_str(&p.content), "d");
    assert_false(mlxd_reasoning_inside(&r));
    parts_deinit(&p);
}

/* ---- in a generation ---- */

/* Lets a generation draw the tokens of `text` (control tokens included); how it finished. */
static mlxd_finish draw(mlxd_generation *g, mlxd_sampler_scratch *scratch, const char *text) {
    mlxd_tokens ids = {0};
    mlxd_why why = {0};
    mlxd_finish finish = MLXD_FINISH_NONE;
    uint32_t vocab = (uint32_t)mlxd_tokenizer_vocab(tokenizer);
    float *row = calloc(vocab, sizeof *row);
    assert_int_equal(mlxd_tokenizer_encode(tokenizer, mlxd_slice_str(text), true, 0, &ids, &why),
                     MLXD_OK);
    for (size_t i = 0; i < ids.count && finish == MLXD_FINISH_NONE; i++) {
        int32_t drawn;
        row[ids.ids[i]] = 9;
        assert_int_equal(mlxd_generation_draw(g, scratch, row, 1, &drawn, &finish, &why), MLXD_OK);
        assert_int_equal(drawn, ids.ids[i]);
        row[ids.ids[i]] = 0;
    }
    free(row);
    mlxd_tokens_deinit(&ids);
    return finish;
}

/* <|end|> ends a message, <|return|> the turn; a character that a control token cuts is over. */
static void a_generation_in_harmony(void **state) {
    uint32_t vocab = (uint32_t)mlxd_tokenizer_vocab(tokenizer);
    mlxd_sampler_scratch *scratch = mlxd_sampler_scratch_open(vocab);
    mlxd_generation_params p = {.max_tokens = 500, .reasoning = MLXD_REASONING_HARMONY};
    mlxd_generation *g;
    mlxd_why why = {0};
    float row[600] = {[MINI_BYTE(0xe2)] = 9};
    mlxd_finish finish;
    int32_t drawn;
    (void)state;
    mlxd_sampling_init(&p.sampling);
    p.sampling.temperature = 0;
    assert_int_equal(mlxd_generation_open(&g, &p, tokenizer, vocab, NULL, 0, &why), MLXD_OK);
    assert_int_equal(draw(g, scratch, ANALYSIS "Two"), MLXD_FINISH_NONE);
    assert_int_equal(mlxd_generation_draw(g, scratch, row, 1, &drawn, &finish, &why), MLXD_OK);
    assert_int_equal(draw(g, scratch, "<|end|><|start|>assistant" FINAL "Four."), MLXD_FINISH_NONE);
    assert_int_equal(draw(g, scratch, "<|return|>"), MLXD_FINISH_STOP);
    assert_true(mlxd_generation_ended(g));
    assert_string_equal(mlxd_buf_str(mlxd_generation_reasoning(g)), "Two\xef\xbf\xbd");
    assert_string_equal(mlxd_buf_str(mlxd_generation_text(g)), "Four.");
    /* <|message|>, four bytes and <|end|> */
    assert_int_equal(mlxd_generation_reasoning_tokens(g), 6);
    mlxd_generation_close(g);
    /* The same turn as it is written. */
    p.reasoning = MLXD_REASONING_NONE;
    assert_int_equal(mlxd_generation_open(&g, &p, tokenizer, vocab, NULL, 0, &why), MLXD_OK);
    assert_int_equal(draw(g, scratch, "Two<|end|>Four<|return|>"), MLXD_FINISH_STOP);
    assert_string_equal(mlxd_buf_str(mlxd_generation_text(g)), "TwoFour");
    mlxd_generation_close(g);
    mlxd_sampler_scratch_close(scratch);
}

/* ---- which form ---- */

static void the_form_a_model_needs(void **state) {
    mlxd_reasoning_format f;
    (void)state;
    assert_int_equal(mlxd_reasoning_detect(mlxd_slice_str("{{ x }}"), NULL), MLXD_REASONING_NONE);
    assert_int_equal(mlxd_reasoning_detect((mlxd_slice){0}, NULL), MLXD_REASONING_NONE);
    assert_int_equal(mlxd_reasoning_detect(mlxd_slice_str("{{ '<think>\\n' }}"), NULL),
                     MLXD_REASONING_THINK);
    assert_int_equal(mlxd_reasoning_detect(mlxd_slice_str("[THINK]"), NULL),
                     MLXD_REASONING_MISTRAL);
    assert_int_equal(
        mlxd_reasoning_detect(mlxd_slice_str("<|start|>assistant<|channel|>final <think>"), NULL),
        MLXD_REASONING_HARMONY);
    assert_int_equal(mlxd_reasoning_detect((mlxd_slice){0}, tokenizer), MLXD_REASONING_HARMONY);
    for (int i = 0; i < MLXD_REASONING_FORMATS; i++) {
        assert_true(mlxd_reasoning_find(mlxd_slice_str(mlxd_reasoning_name(i)), &f));
        assert_int_equal(f, i);
    }
    assert_false(mlxd_reasoning_find(mlxd_slice_str("deep"), &f));
}

/* A vocabulary that speaks Harmony ends its turns so whatever is done with the text. */
static void ends_of_a_turn(void **state) {
    static const struct {
        const char *name;
        bool end;
    } rows[] = {
        {"<|im_end|>", true}, {"<|end|>", false},     {"<|return|>", true},
        {"<|call|>", true},   {"<|message|>", false}, {"a", false},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        int32_t id = mlxd_tokenizer_find(tokenizer, mlxd_slice_str(rows[i].name));
        assert_true(id >= 0);
        assert_int_equal(mlxd_reasoning_is_end(MLXD_REASONING_NONE, tokenizer, id), rows[i].end);
        assert_int_equal(mlxd_reasoning_is_end(MLXD_REASONING_HARMONY, tokenizer, id), rows[i].end);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(think_markers),
        cmocka_unit_test(prompts_that_begin_the_reasoning),
        cmocka_unit_test(markers_of_mistral),
        cmocka_unit_test(white_space_is_bounded),
        cmocka_unit_test(harmony_channels),
        cmocka_unit_test(harmony_that_is_none),
        cmocka_unit_test(equals_a_search_however_it_is_cut),
        cmocka_unit_test(nothing_is_held_that_is_certain),
        cmocka_unit_test(a_generation_in_harmony),
        cmocka_unit_test(the_form_a_model_needs),
        cmocka_unit_test(ends_of_a_turn),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
