/* test_api_chat.c - completions over REST as a client sees them: whole answers and streams to the
 * byte, log-probabilities, stop strings, usage, digests, several at once. Failures and clients that
 * leave are in test_api_faults.c.
 */
#include "../../support/serve_fixture.h"

#include "format/utf8.h"

#define CHAT "/v1/chat/completions"
#define MESSAGE "\"messages\":[{\"role\":\"user\",\"content\":\"hello world\"}]"
/* Token 3 is the byte 0 (see parse_json). */
#define NO_NUL "\"logit_bias\":{\"3\":-100}"
#define HELLO MESSAGE "," NO_NUL
#define MAX_TEXT 65536

/* ---- reading streams ---- */

/* The events of a whole stream; comments are left out. */
typedef struct stream {
    answer a;
    mlxd_json_doc *events[2048];
    size_t n_events;
    char text[MAX_TEXT];
} stream;

static void stream_add_text(stream *s, const mlxd_json_doc *event) {
    const mlxd_json *v = at(event, "choices.0.delta.content");
    mlxd_slice text;
    if (!v)
        v = at(event, "choices.0.text");
    if (!v || mlxd_json_get_str(v, &text))
        return;
    size_t used = strlen(s->text);
    assert_true(used + text.len < MAX_TEXT);
    memcpy(s->text + used, text.data, text.len + 1);
}

static stream *stream_read(answer a) {
    static const char mark[] = "data: ";
    stream *s = calloc(1, sizeof *s);
    bool done = false;
    assert_non_null(s);
    s->a = a;
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    for (char *p = a.body, *end; *p; p = end + 2) {
        end = strstr(p, "\n\n");
        assert_non_null(end);
        assert_false(done);
        if (*p == ':')
            continue;
        assert_int_equal(strncmp(p, mark, 6), 0);
        p += 6;
        if (end - p == 6 && strncmp(p, "[DONE]", 6) == 0) {
            done = true;
            continue;
        }
        assert_true(s->n_events < MLXD_COUNT_OF(s->events));
        s->events[s->n_events] = parse_json(p, (size_t)(end - p));
        stream_add_text(s, s->events[s->n_events++]);
    }
    assert_true(done);
    return s;
}

static void stream_free(stream *s) {
    for (size_t i = 0; i < s->n_events; i++)
        mlxd_json_close(s->events[i]);
    answer_free(&s->a);
    free(s);
}

/* The answer to a chat request as a document. */
static mlxd_json_doc *whole(uint16_t port, const char *body) {
    answer a = chat(port, body);
    if (a.status != 200)
        fail_msg("%d: %s", a.status, a.body);
    assert_string_equal(answer_header(&a, "Content-Type"), "application/json");
    mlxd_json_doc *doc = parse_json(a.body, a.body_len);
    answer_free(&a);
    return doc;
}

/* ---- whole answers ---- */

static void test_whole(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = whole(f->port, "{\"model\":\"tiny-f32\"," HELLO ",\"max_tokens\":12,"
                                      "\"temperature\":0,\"ignore_eos\":true}");
    assert_int_equal(strncmp(str_at(d, "id"), "chatcmpl-", 9), 0);
    assert_int_equal(strspn(str_at(d, "id") + 9, "0123456789abcdef"), 24);
    assert_string_equal(str_at(d, "object"), "chat.completion");
    assert_true(int_at(d, "created") > 1700000000);
    assert_string_equal(str_at(d, "model"), "tiny-f32");
    assert_int_equal(strncmp(str_at(d, "system_fingerprint"), "mlxd-9.8.7-", 11), 0);
    assert_int_equal(strlen(str_at(d, "system_fingerprint")), 11 + 8);
    assert_int_equal(mlxd_json_count(at(d, "choices")), 1);
    assert_int_equal(int_at(d, "choices.0.index"), 0);
    assert_string_equal(str_at(d, "choices.0.message.role"), "assistant");
    assert_true(strlen(str_at(d, "choices.0.message.content")) > 0);
    assert_true(is_null_at(d, "choices.0.message.refusal"));
    assert_true(is_null_at(d, "choices.0.logprobs"));
    assert_string_equal(str_at(d, "choices.0.finish_reason"), "length");
    assert_int_equal(int_at(d, "usage.completion_tokens"), 12);
    assert_true(int_at(d, "usage.prompt_tokens") > 20);
    assert_int_equal(int_at(d, "usage.total_tokens"), int_at(d, "usage.prompt_tokens") + 12);
    assert_int_equal(int_at(d, "usage.prompt_tokens_details.cached_tokens"), 0);
    assert_int_equal(int_at(d, "usage.completion_tokens_details.reasoning_tokens"), 0);
    assert_null(at(d, "mlxd"));
    mlxd_json_close(d);
    fixture_close(f);
}

/* Roles, parts and null fields: what is the same conversation has the same prompt. */
static void test_messages(void **state) {
    (void)state;
    static const char *const same[] = {
        "{\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},"
        "{\"role\":\"user\",\"content\":\"one\\ntwo\"},{\"role\":\"assistant\",\"content\":\"\"},"
        "{\"role\":\"user\",\"content\":\"x\"}],%s}",
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\",\"name\":\"d\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},"
        "{\"type\":\"text\",\"text\":\"two\"}]},"
        "{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":[]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],"
        "\"n\":1,\"tools\":[],\"tool_choice\":\"none\",\"stop\":null,\"top_p\":null,"
        "\"response_format\":{\"type\":\"text\"},\"modalities\":[\"text\"],\"user\":\"u\","
        "\"store\":true,\"metadata\":{\"a\":\"b\"},\"parallel_tool_calls\":true,"
        "\"max_completion_tokens\":6,\"logit_bias\":null,\"seed\":3,%s}",
    };
    char digest[2][MLXD_SHA256_HEX];
    fixture *f = fixture_open(NULL);
    for (size_t i = 0; i < 2; i++) {
        char body[2048];
        snprintf(body, sizeof body, same[i],
                 i == 0 ? "\"max_tokens\":6,\"seed\":3,\"mlxd\":{\"logits_digest\":true}"
                        : "\"max_tokens\":400,\"mlxd\":{\"logits_digest\":true}");
        mlxd_json_doc *d = whole(f->port, body);
        snprintf(digest[i], sizeof digest[i], "%s", str_at(d, "mlxd.logits_sha256"));
        assert_true(int_at(d, "usage.completion_tokens") <= 6);
        mlxd_json_close(d);
    }
    assert_string_equal(digest[0], digest[1]);
    fixture_close(f);
}

/* max_tokens that the context cannot hold beside the prompt ends with "length", no error. */
static void test_fills_context(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = whole(f->port, "{" HELLO ",\"max_tokens\":100000,\"ignore_eos\":true}");
    assert_string_equal(str_at(d, "choices.0.finish_reason"), "length");
    assert_int_equal(int_at(d, "usage.total_tokens"), FIXTURE_CONTEXT + 1);
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- streams ---- */

static void add_chunk(mlxd_buf *out, const stream *s, const char *choices, const char *more) {
    const mlxd_json_doc *first = s->events[0];
    mlxd_buf_addf(out,
                  "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%lld,"
                  "\"model\":\"tiny-f32\",\"system_fingerprint\":\"%s\",\"choices\":[%s]%s}\n\n",
                  str_at(first, "id"), (long long)int_at(first, "created"),
                  str_at(first, "system_fingerprint"), choices, more);
}

/* Every byte of the stream, but for id, time and how the text is cut. */
static void check_bytes(const stream *s, bool usage) {
    mlxd_buf out, choice;
    mlxd_jsonw w;
    const char *more = usage ? ",\"usage\":null" : "";
    mlxd_buf_init(&out, 0);
    mlxd_buf_init(&choice, 0);
    add_chunk(&out, s,
              "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
              "\"logprobs\":null,\"finish_reason\":null}",
              more);
    size_t texts = s->n_events - (usage ? 3 : 2);
    for (size_t i = 0; i < texts; i++) {
        mlxd_buf_clear(&choice);
        mlxd_buf_add_str(&choice, "{\"index\":0,\"delta\":{\"content\":");
        mlxd_jsonw_init(&w, &choice);
        mlxd_jsonw_str(&w, str_at(s->events[1 + i], "choices.0.delta.content"));
        mlxd_buf_add_str(&choice, "},\"logprobs\":null,\"finish_reason\":null}");
        add_chunk(&out, s, mlxd_buf_str(&choice), more);
    }
    add_chunk(&out, s, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}",
              more);
    if (usage) {
        char text[512];
        const mlxd_json_doc *last = s->events[s->n_events - 1];
        snprintf(text, sizeof text,
                 ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":40,\"total_tokens\":%d,"
                 "\"prompt_tokens_details\":{\"cached_tokens\":0},"
                 "\"completion_tokens_details\":{\"reasoning_tokens\":0}}",
                 (int)int_at(last, "usage.prompt_tokens"),
                 (int)int_at(last, "usage.prompt_tokens") + 40);
        add_chunk(&out, s, "", text);
    }
    mlxd_buf_add_str(&out, "data: [DONE]\n\n");
    assert_string_equal(s->a.body, mlxd_buf_str(&out));
    mlxd_buf_deinit(&out);
    mlxd_buf_deinit(&choice);
}

static void test_stream(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = whole(f->port, "{" HELLO ",\"max_tokens\":40,\"seed\":5,\"temperature\":1,"
                                      "\"ignore_eos\":true}");
    for (int usage = 0; usage < 2; usage++) {
        char body[512];
        snprintf(body, sizeof body,
                 "{" HELLO ",\"max_tokens\":40,\"seed\":5,\"temperature\":1,\"ignore_eos\":true,"
                 "\"stream\":true%s}",
                 usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
        stream *s = stream_read(chat(f->port, body));
        assert_string_equal(answer_header(&s->a, "Content-Type"), "text/event-stream");
        assert_string_equal(answer_header(&s->a, "Cache-Control"), "no-cache");
        assert_string_equal(answer_header(&s->a, "X-Accel-Buffering"), "no");
        assert_true(s->a.chunked);
        assert_true(s->n_events > 10);
        check_bytes(s, usage);
        assert_string_equal(s->text, str_at(d, "choices.0.message.content"));
        for (size_t i = 0; i < s->n_events; i++) { /* no chunk splits a character */
            const mlxd_json *v = at(s->events[i], "choices.0.delta.content");
            mlxd_slice text;
            if (v && !mlxd_json_get_str(v, &text))
                assert_int_equal(mlxd_utf8_check(text), text.len);
        }
        stream_free(s);
    }
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- stop strings ---- */

static void test_stop(void **state) {
    (void)state;
    char body[1024], stop[8] = "";
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d =
        whole(f->port, "{" HELLO ",\"max_tokens\":60,\"temperature\":0,\"ignore_eos\":true}");
    const char *text = str_at(d, "choices.0.message.content"), *found = NULL;
    /* Two characters of plain ASCII somewhere behind the beginning, and their first occurrence. */
    for (const char *p = text + 8; *p && p[1] && !found; p++)
        if (p[0] > ' ' && p[0] < 0x7f && p[1] > ' ' && p[1] < 0x7f && !strchr("\"\\", p[0]) &&
            !strchr("\"\\", p[1])) {
            memcpy(stop, p, 2);
            found = strstr(text, stop);
        }
    assert_non_null(found);
    for (int streamed = 0; streamed < 2; streamed++) {
        snprintf(body, sizeof body,
                 "{" HELLO ",\"max_tokens\":60,\"temperature\":0,\"ignore_eos\":true,"
                 "\"stop\":[\"never said\",\"%s\"],\"stream\":%s}",
                 stop, streamed ? "true" : "false");
        if (streamed) {
            stream *s = stream_read(chat(f->port, body));
            assert_int_equal(strlen(s->text), found - text);
            assert_memory_equal(s->text, text, (size_t)(found - text));
            assert_string_equal(str_at(s->events[s->n_events - 1], "choices.0.finish_reason"),
                                "stop");
            stream_free(s);
        } else {
            mlxd_json_doc *e = whole(f->port, body);
            assert_int_equal(strlen(str_at(e, "choices.0.message.content")), found - text);
            assert_memory_equal(str_at(e, "choices.0.message.content"), text,
                                (size_t)(found - text));
            assert_string_equal(str_at(e, "choices.0.finish_reason"), "stop");
            assert_true(int_at(e, "usage.completion_tokens") < 60);
            mlxd_json_close(e);
        }
    }
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- log-probabilities ---- */

/* Appends what the entries' bytes say, and checks each entry. */
static size_t check_entries(const mlxd_json *content, size_t top, mlxd_detok *detok,
                            mlxd_buf *text) {
    size_t n = 0;
    for (const mlxd_json *e = mlxd_json_first(content, NULL); e;
         e = mlxd_json_next(content, e, NULL), n++) {
        double logprob, best;
        uint8_t bytes[64];
        size_t n_bytes = 0;
        const mlxd_json *b = mlxd_json_find(e, "bytes");
        for (const mlxd_json *v = mlxd_json_first(b, NULL); v; v = mlxd_json_next(b, v, NULL)) {
            int64_t byte;
            assert_int_equal(mlxd_json_get_int64(v, &byte), MLXD_OK);
            assert_true(byte >= 0 && byte <= 255 && n_bytes < sizeof bytes);
            bytes[n_bytes++] = (uint8_t)byte;
        }
        mlxd_detok_add_bytes(detok, (mlxd_slice){bytes, n_bytes}, text);
        assert_int_equal(mlxd_json_get_double(mlxd_json_find(e, "logprob"), &logprob), MLXD_OK);
        assert_true(logprob <= 0);
        const mlxd_json *tops = mlxd_json_find(e, "top_logprobs");
        assert_int_equal(mlxd_json_count(tops), top);
        double last = 0;
        for (size_t i = 0; i < top; i++) {
            const mlxd_json *t = mlxd_json_at(tops, i);
            assert_int_equal(mlxd_json_get_double(mlxd_json_find(t, "logprob"), &best), MLXD_OK);
            assert_true(best <= last); /* most likely first */
            last = best;
            if (i == 0) /* greedy */
                assert_true(best == logprob);
        }
    }
    return n;
}

static void test_logprobs(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    static const char body[] = "{" HELLO ",\"max_tokens\":30,\"temperature\":0,\"ignore_eos\":true,"
                               "\"logprobs\":true,\"top_logprobs\":3%s}";
    char text[512];
    mlxd_buf said;
    mlxd_detok detok;
    mlxd_buf_init(&said, 0);
    mlxd_detok_init(&detok);
    snprintf(text, sizeof text, body, "");
    mlxd_json_doc *d = whole(f->port, text);
    assert_int_equal(check_entries(at(d, "choices.0.logprobs.content"), 3, &detok, &said), 30);
    mlxd_detok_flush(&detok, &said);
    assert_string_equal(mlxd_buf_str(&said), str_at(d, "choices.0.message.content"));
    assert_true(is_null_at(d, "choices.0.logprobs.refusal"));

    snprintf(text, sizeof text, body, ",\"stream\":true");
    stream *s = stream_read(chat(f->port, text));
    size_t n = 0;
    mlxd_buf_clear(&said);
    mlxd_detok_init(&detok);
    for (size_t i = 0; i < s->n_events; i++) {
        const mlxd_json *content = at(s->events[i], "choices.0.logprobs.content");
        n += content ? check_entries(content, 3, &detok, &said) : 0;
    }
    mlxd_detok_flush(&detok, &said);
    assert_int_equal(n, 30);
    assert_string_equal(mlxd_buf_str(&said), s->text);
    assert_string_equal(s->text, str_at(d, "choices.0.message.content"));
    stream_free(s);
    mlxd_buf_deinit(&said);
    mlxd_json_close(d);
    fixture_close(f);
}

/* A ban of every token but one decides the answer, and an end-of-turn token is no content. */
static void test_bias_and_end(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    int32_t end = mlxd_tokenizer_find(f->host.tokenizer, mlxd_slice_str("<|im_end|>"));
    int32_t he = mlxd_tokenizer_find(f->host.tokenizer, mlxd_slice_str("he"));
    char body[512];
    assert_true(end >= 0 && he >= 0);
    snprintf(body, sizeof body,
             "{" MESSAGE ",\"max_tokens\":4,\"temperature\":0,\"logprobs\":true,"
             "\"logit_bias\":{\"%d\":100}}",
             end);
    mlxd_json_doc *d = whole(f->port, body);
    assert_string_equal(str_at(d, "choices.0.finish_reason"), "stop");
    assert_string_equal(str_at(d, "choices.0.message.content"), "");
    assert_int_equal(mlxd_json_count(at(d, "choices.0.logprobs.content")), 0);
    assert_int_equal(int_at(d, "usage.completion_tokens"), 1);
    mlxd_json_close(d);
    snprintf(body, sizeof body,
             "{" MESSAGE ",\"max_tokens\":4,\"temperature\":0,\"logit_bias\":{\"%d\":100}}", he);
    d = whole(f->port, body);
    mlxd_slice one = mlxd_tokenizer_bytes(f->host.tokenizer, he);
    assert_int_equal(strlen(str_at(d, "choices.0.message.content")), 4 * one.len);
    assert_memory_equal(str_at(d, "choices.0.message.content") + 3 * one.len, one.data, one.len);
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- digest and timings ---- */

static void test_digest(void **state) {
    (void)state;
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":25,\"seed\":11,"
        "\"temperature\":0.9," NO_NUL
        ",\"mlxd\":{\"logits_digest\":true,\"timings\":true},\"stream\":%s}";
    char text[512], first[MLXD_SHA256_HEX];
    fixture *f = fixture_open(NULL);
    snprintf(text, sizeof text, body, "hello", "false");
    mlxd_json_doc *d = whole(f->port, text), *again = whole(f->port, text);
    snprintf(first, sizeof first, "%s", str_at(d, "mlxd.logits_sha256"));
    assert_int_equal(strspn(first, "0123456789abcdef"), 64);
    assert_string_equal(str_at(again, "mlxd.logits_sha256"), first);
    assert_string_equal(str_at(d, "choices.0.message.content"),
                        str_at(again, "choices.0.message.content"));
    assert_int_equal(int_at(d, "mlxd.timings.prompt_n"), int_at(d, "usage.prompt_tokens"));
    assert_int_equal(int_at(d, "mlxd.timings.predicted_n"), int_at(d, "usage.completion_tokens"));
    assert_true(double_at(d, "mlxd.timings.prompt_ms") > 0);
    assert_string_equal(str_at(d, "mlxd.timings.stages.0.device"), "mini1");
    assert_int_equal(int_at(d, "mlxd.timings.stages.0.layers.1"), 4);
    assert_true(double_at(d, "mlxd.timings.stages.0.compute_ms") > 0);

    snprintf(text, sizeof text, body, "hello", "true");
    stream *s = stream_read(chat(f->port, text));
    const mlxd_json_doc *last = s->events[s->n_events - 1];
    assert_string_equal(str_at(last, "mlxd.logits_sha256"), first);
    assert_string_equal(str_at(last, "mlxd.timings.stages.0.device"), "mini1");
    assert_string_equal(s->text, str_at(d, "choices.0.message.content"));
    for (size_t i = 0; i + 1 < s->n_events; i++)
        assert_null(at(s->events[i], "mlxd"));
    stream_free(s);
    mlxd_json_close(d);
    mlxd_json_close(again);

    snprintf(text, sizeof text, body, "hullo", "false");
    d = whole(f->port, text);
    assert_string_not_equal(str_at(d, "mlxd.logits_sha256"), first);
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- unknown fields ---- */

static void test_ignored(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    static const char *const bodies[] = {
        "{" HELLO ",\"max_tokens\":2,\"wibble\":1,\"mlxd\":{\"x\\ny\":1},\"a,b\\u00e9\":[]}",
        "{" HELLO ",\"max_tokens\":2,\"wibble\":1,\"mlxd\":{\"x\\ny\":1},\"a,b\\u00e9\":[],"
        "\"stream\":true}",
    };
    for (size_t i = 0; i < 2; i++) {
        answer a = chat(f->port, bodies[i]);
        assert_int_equal(a.status, 200);
        assert_string_equal(answer_header(&a, "x-mlxd-ignored"), "wibble, mlxd.x?y, a?b??");
        answer_free(&a);
    }
    answer a = chat(f->port, "{" HELLO ",\"max_tokens\":2,\"user\":\"me\",\"verbosity\":\"low\"}");
    assert_int_equal(a.status, 200);
    assert_null(answer_header(&a, "x-mlxd-ignored"));
    answer_free(&a);
    fixture_close(f);
}

/* ---- raw prompts ---- */

static void test_completions(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    answer a = post(f->port, "/v1/completions",
                    "{\"prompt\":\"hello\"," NO_NUL
                    ",\"max_tokens\":8,\"temperature\":0,\"ignore_eos\":true,"
                    "\"mlxd\":{\"logits_digest\":true}}");
    assert_int_equal(a.status, 200);
    mlxd_json_doc *d = parse_json(a.body, a.body_len);
    answer_free(&a);
    assert_int_equal(strncmp(str_at(d, "id"), "cmpl-", 5), 0);
    assert_string_equal(str_at(d, "object"), "text_completion");
    assert_true(strlen(str_at(d, "choices.0.text")) > 0);
    assert_string_equal(str_at(d, "choices.0.finish_reason"), "length");
    assert_true(is_null_at(d, "choices.0.logprobs"));
    assert_int_equal(int_at(d, "usage.completion_tokens"), 8);

    mlxd_tokens ids = {0};
    assert_int_equal(
        mlxd_tokenizer_encode(f->host.tokenizer, mlxd_slice_str("hello"), false, 0, &ids, NULL),
        MLXD_OK);
    char body[512];
    int n = snprintf(body, sizeof body, "{\"prompt\":[");
    for (size_t i = 0; i < ids.count; i++)
        n += snprintf(body + n, sizeof body - (size_t)n, "%s%d", i ? "," : "", ids.ids[i]);
    snprintf(body + n, sizeof body - (size_t)n,
             "]," NO_NUL ",\"max_tokens\":8,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
             "\"mlxd\":{\"logits_digest\":true}}");
    stream *s = stream_read(post(f->port, "/v1/completions", body));
    assert_string_equal(s->text, str_at(d, "choices.0.text"));
    assert_string_equal(str_at(s->events[s->n_events - 1], "choices.0.finish_reason"), "length");
    assert_string_equal(str_at(s->events[s->n_events - 1], "mlxd.logits_sha256"),
                        str_at(d, "mlxd.logits_sha256"));
    stream_free(s);
    mlxd_tokens_deinit(&ids);
    mlxd_json_close(d);
    fixture_close(f);
}

/* ---- many at once ---- */

#define CLIENTS 12

struct asker {
    fixture *f;
    unsigned index;
    char digest[MLXD_SHA256_HEX];
    mlxd_thread thread;
};

static void ask_body(unsigned index, bool streamed, char *out, size_t size) {
    snprintf(out, size,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"question %u\"}],\"max_tokens\":%u,"
             "\"seed\":%u,\"stream\":%s," NO_NUL
             ",\"mlxd\":{\"logits_digest\":true},\"ignore_eos\":true}",
             index, 10 + index, index, streamed ? "true" : "false");
}

static void asker_main(void *arg) {
    struct asker *k = arg;
    char body[512];
    ask_body(k->index, k->index % 2, body, sizeof body);
    answer a = chat(k->f->port, body);
    const char *p = a.status == 200 ? strstr(a.body, "\"logits_sha256\":\"") : NULL;
    if (p)
        snprintf(k->digest, sizeof k->digest, "%.64s", p + 17);
    answer_free(&a);
}

static void test_concurrent(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.sessions_max = 4});
    struct asker askers[CLIENTS] = {0};
    for (unsigned i = 0; i < CLIENTS; i++) {
        askers[i].f = f;
        askers[i].index = i;
        assert_int_equal(mlxd_thread_start(&askers[i].thread, "client", MLXD_PRIORITY_NORMAL,
                                           asker_main, &askers[i]),
                         MLXD_OK);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        mlxd_thread_join(&askers[i].thread);
    for (unsigned i = 0; i < CLIENTS; i++) { /* alone it is the same */
        char body[512];
        ask_body(i, false, body, sizeof body);
        mlxd_json_doc *d = whole(f->port, body);
        assert_string_equal(askers[i].digest, str_at(d, "mlxd.logits_sha256"));
        mlxd_json_close(d);
    }
    fixture_wait_idle(f);
    mlxd_engine_stats s = fixture_stats(f);
    assert_int_equal(s.succeeded, 2 * CLIENTS);
    fixture_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),         cmocka_unit_test(test_messages),
        cmocka_unit_test(test_fills_context), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stop),          cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_bias_and_end),  cmocka_unit_test(test_digest),
        cmocka_unit_test(test_ignored),       cmocka_unit_test(test_completions),
        cmocka_unit_test(test_concurrent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
