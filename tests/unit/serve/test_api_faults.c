/* test_api_faults.c - the REST API when something goes wrong: every refusal of a request with its
 * status, code and parameter; full queues; clients that leave or do not read; lost workers; closing
 * while requests run.
 */
#include "../../support/serve_fixture.h"

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* ---- refusals ---- */

struct refusal {
    const char *body;
    int status;
    const char *code, *param; /* param NULL: null */
    const char *text;         /* part of the message; NULL: any */
};

/* One field beside good messages. */
#define FIELD(text) "{" MESSAGES "," text "}"
#define ONE(text) "{\"messages\":[" text "]}"

static const struct refusal refusals[] = {
    /* JSON */
    {"", 400, "invalid_json", NULL, "offset 0"},
    {"{" MESSAGES, 400, "invalid_json", NULL, NULL},
    {"{" MESSAGES "} x", 400, "invalid_json", NULL, NULL},
    {"{\"n\":1,\"n\":1}", 400, "invalid_json", NULL, "duplicate"},
    {"{\"a\":\"\\ud800\"}", 400, "invalid_json", NULL, NULL},
    {"{\"a\":\"\xff\"}", 400, "invalid_json", NULL, NULL},
    {"{\"a\":NaN}", 400, "invalid_json", NULL, NULL},
    {"{\"temperature\":1e999}", 400, "invalid_json", NULL, NULL},
    {"[1]", 400, "invalid_type", NULL, "object"},
    /* model and messages */
    {FIELD("\"model\":\"gpt-4\""), 404, "model_not_found", "model", "tiny-f32"},
    {FIELD("\"model\":7"), 400, "invalid_type", "model", NULL},
    {"{}", 400, "missing_required_parameter", "messages", NULL},
    {"{\"messages\":null}", 400, "missing_required_parameter", "messages", NULL},
    {"{\"messages\":[]}", 400, "invalid_value", "messages", NULL},
    {"{\"messages\":{}}", 400, "invalid_type", "messages", NULL},
    {ONE("7"), 400, "invalid_type", "messages[0]", NULL},
    {ONE("{\"content\":\"x\"}"), 400, "invalid_type", "messages[0].role", NULL},
    {ONE("{\"role\":\"root\",\"content\":\"x\"}"), 400, "invalid_value", "messages[0].role",
     "root"},
    {ONE("{\"role\":\"function\",\"content\":\"x\"}"), 400, "invalid_value", "messages[0].role",
     "function"},
    {ONE("{\"role\":\"user\"}"), 400, "invalid_type", "messages[0].content", NULL},
    {ONE("{\"role\":\"user\",\"content\":null}"), 400, "invalid_type", "messages[0].content", NULL},
    {ONE("{\"role\":\"user\",\"content\":[]}"), 400, "invalid_value", "messages[0].content", NULL},
    {ONE("{\"role\":\"user\",\"content\":[7]}"), 400, "invalid_type", "messages[0].content[0]",
     NULL},
    {ONE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_"
         "url\","
         "\"image_url\":{\"url\":\"http://x/\"}}]}"),
     400, "unsupported_parameter", "messages[0].content[1].type", "image_url"},
    {ONE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), 400, "invalid_type",
     "messages[0].content[0].text", NULL},
    {ONE("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}"), 400, "invalid_type",
     "messages[0].tool_calls[0]", "function"},
    {ONE("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":{}}"), 400, "invalid_type",
     "messages[0].tool_calls", NULL},
    {ONE("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}"), 400,
     "invalid_type", "messages[0].tool_calls[0]", "arguments"},
    {ONE("{\"role\":\"assistant\",\"content\":null,\"function_call\":{}}"), 400,
     "unsupported_parameter", "messages[0].function_call", NULL},
    /* numbers */
    {FIELD("\"max_tokens\":-1"), 400, "invalid_value", "max_tokens", NULL},
    {FIELD("\"max_tokens\":0"), 400, "invalid_value", "max_tokens", NULL},
    {FIELD("\"max_tokens\":1000000000"), 400, "invalid_value", "max_tokens", NULL},
    {FIELD("\"max_tokens\":1e308"), 400, "invalid_value", "max_tokens", NULL},
    {FIELD("\"max_tokens\":\"5\""), 400, "invalid_type", "max_tokens", NULL},
    {FIELD("\"max_tokens\":1.5"), 400, "invalid_type", "max_tokens", NULL},
    {FIELD("\"max_completion_tokens\":0"), 400, "invalid_value", "max_completion_tokens", NULL},
    {FIELD("\"n\":0"), 400, "invalid_value", "n", NULL},
    {FIELD("\"n\":2"), 400, "unsupported_parameter", "n", NULL},
    {FIELD("\"n\":1000000000"), 400, "invalid_value", "n", NULL},
    {FIELD("\"best_of\":2"), 400, "unsupported_parameter", "best_of", NULL},
    {FIELD("\"temperature\":-1"), 400, "invalid_value", "temperature", NULL},
    {FIELD("\"temperature\":1e39"), 400, "invalid_value", "temperature", NULL},
    {FIELD("\"temperature\":\"hot\""), 400, "invalid_type", "temperature", NULL},
    {FIELD("\"top_p\":1.1"), 400, "invalid_value", "top_p", NULL},
    {FIELD("\"min_p\":-0.1"), 400, "invalid_value", "min_p", NULL},
    {FIELD("\"top_k\":-2"), 400, "invalid_value", "top_k", NULL},
    {FIELD("\"top_k\":9999999999"), 400, "invalid_value", "top_k", NULL},
    {FIELD("\"frequency_penalty\":3"), 400, "invalid_value", "frequency_penalty", NULL},
    {FIELD("\"presence_penalty\":-3"), 400, "invalid_value", "presence_penalty", NULL},
    {FIELD("\"repetition_penalty\":0"), 400, "invalid_value", "repetition_penalty", NULL},
    {FIELD("\"seed\":\"x\""), 400, "invalid_value", "seed", NULL},
    {FIELD("\"seed\":1e30"), 400, "invalid_value", "seed", NULL},
    {FIELD("\"logprobs\":3"), 400, "invalid_type", "logprobs", NULL},
    {FIELD("\"top_logprobs\":3"), 400, "invalid_value", "top_logprobs", "logprobs"},
    {FIELD("\"logprobs\":true,\"top_logprobs\":21"), 400, "invalid_value", "top_logprobs", NULL},
    {FIELD("\"logit_bias\":[]"), 400, "invalid_type", "logit_bias", NULL},
    {FIELD("\"logit_bias\":{\"x\":1}"), 400, "invalid_value", "logit_bias", NULL},
    {FIELD("\"logit_bias\":{\"-1\":1}"), 400, "invalid_value", "logit_bias", NULL},
    {FIELD("\"logit_bias\":{\"320\":1}"), 400, "invalid_value", "logit_bias", "320"},
    {FIELD("\"logit_bias\":{\"7\":101}"), 400, "invalid_value", "logit_bias", NULL},
    {FIELD("\"logit_bias\":{\"7\":1,\"07\":1}"), 400, "invalid_value", "logit_bias", "twice"},
    {FIELD("\"logit_bias\":{\"7\":\"x\"}"), 400, "invalid_type", "logit_bias", NULL},
    /* stop, stream */
    {FIELD("\"stop\":\"\""), 400, "invalid_value", "stop", NULL},
    {FIELD("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), 400, "invalid_value", "stop", NULL},
    {FIELD("\"stop\":[7]"), 400, "invalid_type", "stop", NULL},
    {FIELD("\"stream\":\"yes\""), 400, "invalid_type", "stream", NULL},
    {FIELD("\"stream_options\":{\"include_usage\":1}"), 400, "invalid_type",
     "stream_options.include_usage", NULL},
    {FIELD("\"mlxd\":{\"timings\":1}"), 400, "invalid_type", "mlxd.timings", NULL},
    /* what is not implemented */
    {FIELD("\"tools\":[{\"type\":\"web\"}]"), 400, "unsupported_parameter", "tools", NULL},
    {FIELD("\"tools\":[{\"type\":\"function\"}]"), 400, "invalid_value", "tools", "function.name"},
    {FIELD("\"tools\":[7]"), 400, "invalid_type", "tools", NULL},
    {FIELD("\"tools\":{}"), 400, "invalid_type", "tools", NULL},
    {FIELD("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"), 400,
     "unsupported_parameter", "tools", "chat template does not use it"},
    {FIELD("\"tool_choice\":\"required\""), 400, "unsupported_parameter", "tool_choice", NULL},
    {FIELD("\"tool_choice\":{\"type\":\"function\"}"), 400, "unsupported_parameter", "tool_choice",
     NULL},
    {FIELD("\"documents\":[{\"text\":\"t\"}]"), 400, "unsupported_parameter", "documents",
     "chat template does not use it"},
    {FIELD("\"documents\":\"x\""), 400, "invalid_type", "documents", NULL},
    {FIELD("\"enable_thinking\":1"), 400, "invalid_type", "enable_thinking", NULL},
    {FIELD("\"chat_template_kwargs\":[]"), 400, "invalid_type", "chat_template_kwargs", NULL},
    {FIELD("\"reasoning_effort\":3"), 400, "invalid_type", "reasoning_effort", NULL},
    {FIELD("\"functions\":[{}]"), 400, "unsupported_parameter", "functions", NULL},
    {FIELD("\"function_call\":\"auto\""), 400, "unsupported_parameter", "function_call", NULL},
    {FIELD("\"response_format\":{\"type\":\"json_object\"}"), 400, "unsupported_parameter",
     "response_format", NULL},
    {FIELD("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}"), 400,
     "unsupported_parameter", "response_format", NULL},
    {FIELD("\"audio\":{}"), 400, "unsupported_parameter", "audio", NULL},
    {FIELD("\"modalities\":[\"text\",\"audio\"]"), 400, "unsupported_parameter", "modalities",
     NULL},
    {FIELD("\"reasoning_effort\":\"high\""), 400, "unsupported_parameter", "reasoning_effort",
     NULL},
    {FIELD("\"chat_template\":\"{{ x }}\""), 400, "unsupported_parameter", "chat_template", NULL},
    {FIELD("\"guided_regex\":\"(a+)+\""), 400, "unsupported_parameter", "guided_regex", NULL},
    {FIELD("\"grammar\":\"root ::= x\""), 400, "unsupported_parameter", "grammar", NULL},
    /* strict fields */
    {FIELD("\"wibble\":1,\"strict_fields\":true"), 400, "unknown_parameter", "wibble", NULL},
    {FIELD("\"strict_fields\":true,\"mlxd\":{\"y\":1}"), 400, "unknown_parameter", "mlxd.y", NULL},
    {"{\"strict_fields\":true,\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"z\":1}]}", 400,
     "unknown_parameter", "messages[0].z", NULL},
    {FIELD("\"strict_fields\":true,\"enable_thinking\":true"), 400, "unknown_parameter",
     "enable_thinking", NULL},
    {FIELD("\"strict_fields\":true,\"chat_template_kwargs\":{\"q\":1}"), 400, "unknown_parameter",
     "chat_template_kwargs.q", NULL},
    {FIELD("\"strict_fields\":1"), 400, "invalid_type", "strict_fields", NULL},
};

static const struct refusal raw_refusals[] = {
    {"{}", 400, "missing_required_parameter", "prompt", NULL},
    {"{\"prompt\":\"\"}", 400, "invalid_value", "prompt", NULL},
    {"{\"prompt\":7}", 400, "invalid_type", "prompt", NULL},
    {"{\"prompt\":[]}", 400, "invalid_type", "prompt", NULL},
    {"{\"prompt\":[1,320]}", 400, "invalid_value", "prompt", NULL},
    {"{\"prompt\":[1,-1]}", 400, "invalid_value", "prompt", NULL},
    {"{\"prompt\":[1,\"x\"]}", 400, "invalid_value", "prompt", NULL},
    {"{\"prompt\":[\"a\",\"b\"]}", 400, "unsupported_parameter", "prompt", NULL},
    {"{\"prompt\":[[1],[2]]}", 400, "unsupported_parameter", "prompt", NULL},
    {"{\"prompt\":\"a\",\"echo\":true}", 400, "unsupported_parameter", "echo", NULL},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "unsupported_parameter", "suffix", NULL},
    {"{\"prompt\":\"a\",\"logprobs\":1}", 400, "unsupported_parameter", "logprobs", NULL},
    {"{\"prompt\":\"a\",\"best_of\":5}", 400, "unsupported_parameter", "best_of", NULL},
};

static void check_refusal(const answer *a, const struct refusal *r) {
    static const char *const types[] = {[400 - 400] = "invalid_request_error",
                                        [404 - 400] = "not_found_error",
                                        [429 - 400] = "rate_limit_error"};
    if (a->status != r->status)
        fail_msg("%s\n-> %d %s", r->body, a->status, a->body);
    assert_string_equal(answer_header(a, "Content-Type"), "application/json");
    mlxd_json_doc *d = parse_json(a->body, a->body_len);
    assert_int_equal(mlxd_json_count(at(d, "error")), 4);
    const mlxd_json *param = at(d, "error.param");
    if (strcmp(str_at(d, "error.code"), r->code) != 0 ||
        (r->param ? !mlxd_json_is_str(param, r->param)
                  : mlxd_json_get_kind(param) != MLXD_JSON_NULL) ||
        (r->text && !strstr(str_at(d, "error.message"), r->text)))
        fail_msg("%s\n-> %s", r->body, a->body);
    if (a->status < 500)
        assert_string_equal(str_at(d, "error.type"), types[a->status - 400]);
    mlxd_json_close(d);
}

static void test_refusals(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    client c = client_open(f->port);
    for (size_t i = 0; i < MLXD_COUNT_OF(refusals); i++) {
        say_post(&c, "/v1/chat/completions", refusals[i].body);
        answer a = client_read(&c);
        check_refusal(&a, &refusals[i]);
        answer_free(&a);
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(raw_refusals); i++) {
        say_post(&c, "/v1/completions", raw_refusals[i].body);
        answer a = client_read(&c);
        check_refusal(&a, &raw_refusals[i]);
        answer_free(&a);
    }
    client_close(&c);
    assert_int_equal(fixture_stats(f).requests, 0); /* none came near the engine */
    answer a = chat(f->port, FIELD("\"max_tokens\":2"));
    assert_int_equal(a.status, 200);
    answer_free(&a);
    fixture_close(f);
}

static void test_too_deep_or_many(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    static const struct refusal deep = {"depth", 400, "json_too_deep", NULL, NULL};
    static const struct refusal many = {"messages", 400, "invalid_value", "messages", "4096"};
    static const struct refusal biases = {"biases", 400, "invalid_value", "logit_bias", "1024"};
    size_t size = 1 << 20;
    char *body = calloc(1, size);
    memset(body, '[', 10000);
    answer a = chat(f->port, body);
    check_refusal(&a, &deep);
    answer_free(&a);

    int n = snprintf(body, size, "{\"messages\":[");
    for (int i = 0; i <= MLXD_LIMIT_MESSAGES; i++)
        n += snprintf(body + n, size - (size_t)n, "%s{\"role\":\"user\",\"content\":\"\"}",
                      i ? "," : "");
    snprintf(body + n, size - (size_t)n, "]}");
    a = chat(f->port, body);
    check_refusal(&a, &many);
    answer_free(&a);

    n = snprintf(body, size, "{" MESSAGES ",\"logit_bias\":{");
    for (int i = 0; i <= MLXD_LIMIT_LOGIT_BIAS; i++)
        n += snprintf(body + n, size - (size_t)n, "%s\"%d\":1", i ? "," : "", i);
    snprintf(body + n, size - (size_t)n, "}}");
    a = chat(f->port, body);
    check_refusal(&a, &biases);
    answer_free(&a);
    free(body);
    fixture_close(f);
}

/* Both numbers are in the text, whether the prompt is a little or very much too long. */
static void test_context(void **state) {
    (void)state;
    static const struct {
        size_t letters;
        const char *has;
    } rows[] = {{600, "the context holds 512"},
                {2000, "the context holds 512"},
                {200000, "more than 66048 tokens, the context holds 512"}};
    fixture *f = fixture_open(NULL);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        char *body = calloc(1, rows[i].letters + 256);
        strcpy(body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
        memset(body + strlen(body), 'q', rows[i].letters);
        strcat(body, "\"}],\"max_tokens\":1}");
        struct refusal r = {"long prompt", 400, "context_length_exceeded", "messages", rows[i].has};
        answer a = chat(f->port, body);
        check_refusal(&a, &r);
        if (i < 2) { /* one token a letter, and the template's */
            char count[64];
            size_t tokens = strtoul(strstr(a.body, "prompt has ") + 11, NULL, 10);
            snprintf(count, sizeof count, "%zu", tokens);
            assert_true(tokens >= rows[i].letters && tokens < rows[i].letters + 120);
        }
        answer_free(&a);
        free(body);
    }
    assert_int_equal(fixture_stats(f).requests, 0);
    fixture_close(f);
}

/* A model file without a template that works: raw prompts only, and the refusal says why. */
static void test_no_template(void **state) {
    (void)state;
    static const struct refusal r = {"chat", 400, "no_chat_template", "messages",
                                     "odd; POST /v1/completions"};
    fixture *f = fixture_open(NULL);
    mlxd_chat_close(f->host.chat);
    f->host.chat = NULL;
    (void)mlxd_fail(&f->host.chat_why, MLXD_ERR_UNSUPPORTED, "the template is odd");
    answer a = chat(f->port, FIELD("\"n\":1"));
    check_refusal(&a, &r);
    answer_free(&a);
    a = post(f->port, "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    answer_free(&a);
    fixture_close(f);
}

/* What a request says to the template arrives there: this one answers with what it got. */
static void test_template_inputs(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {FIELD("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"x\":1.0}}],"
               "\"tool_choice\":\"auto\""),
         "tools [{'type': 'function', 'function': {'name': 'f', 'x': 1.0}}] None - - -"},
        {FIELD("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
               "\"tool_choice\":\"none\""),
         "tools None None - - -"},
        {FIELD("\"documents\":[{\"title\":\"t\"}],\"enable_thinking\":false"),
         "tools None [{'title': 't'}] False - -"},
        {FIELD("\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"extra\":[1],"
               "\"enable_thinking\":true}"),
         "tools None None True low [1]"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"function\",\"id\":"
         "\"1\","
         "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":2}\"}}]},"
         "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"1\"}]}",
         "assistant calls f 2"},
    };
    fixture *f = fixture_open(NULL);
    mlxd_why why = {{0}};
    mlxd_chat_close(f->host.chat);
    mlxd_chat_source source = {
        .text = mlxd_slice_str(
            "{% if messages[0].tool_calls %}"
            "{{ raise_exception(messages[0].role ~ ' calls ' ~ "
            "messages[0].tool_calls[0].function.name ~ ' ' ~ "
            "messages[0].tool_calls[0].function.arguments.a) }}{% endif %}"
            "{% if messages[0].content != 'MARK' %}"
            "{{ raise_exception('tools ' ~ tools ~ ' ' ~ documents ~ ' ' ~ "
            "enable_thinking | default('-') ~ ' ' ~ reasoning_effort | default('-') ~ ' ' ~ "
            "extra | default('-')) }}{% endif %}")};
    assert_int_equal(mlxd_chat_open(&f->host.chat, &source, &why), MLXD_OK);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        const struct refusal r = {rows[i][0], 400, "invalid_value", "messages", rows[i][1]};
        answer a = chat(f->port, rows[i][0]);
        check_refusal(&a, &r);
        answer_free(&a);
    }
    mlxd_chat_close(f->host.chat);
    source.text = mlxd_slice_str("{{ messages[0].nothing.at_all }}");
    assert_int_equal(mlxd_chat_open(&f->host.chat, &source, &why), MLXD_OK);
    const struct refusal fails = {"fails", 400, "chat_template_failed", "messages",
                                  "chat template, line 1, column 23: "};
    answer a = chat(f->port, FIELD("\"n\":1"));
    check_refusal(&a, &fails);
    answer_free(&a);
    fixture_close(f);
}

/* ---- full ---- */

static void wait_for(fixture *f, uint32_t running, uint32_t waiting) {
    for (int i = 0; i < 5000; i++) {
        mlxd_engine_stats s = fixture_stats(f);
        if (s.running == running && s.waiting == waiting)
            return;
        pause_us(1000);
    }
    fail_msg("never had %u running and %u waiting", running, waiting);
}

#define LONG FIELD("\"max_tokens\":300,\"ignore_eos\":true,\"stream\":true")

static void test_queue_full(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 10, .sessions_max = 1, .queue_max = 1});
    client a = client_open(f->port), b = client_open(f->port);
    say_post(&a, "/v1/chat/completions", LONG);
    wait_for(f, 1, 0);
    say_post(&b, "/v1/chat/completions", LONG);
    wait_for(f, 1, 1);
    answer c = chat(f->port, LONG);
    static const struct refusal full = {"third", 429, "queue_full", NULL, NULL};
    check_refusal(&c, &full);
    assert_string_equal(answer_header(&c, "Retry-After"), "1");
    assert_string_equal(answer_header(&c, "retry-after-ms"), "1000");
    answer_free(&c);
    /* The one that waits leaves, then the one that runs. */
    client_close(&b);
    wait_for(f, 1, 0);
    client_close(&a);
    fixture_wait_idle(f);
    fixture_close(f);
}

/* ---- clients that leave ---- */

static void test_client_leaves(void **state) {
    (void)state;
    static const char *const bodies[] = {LONG, FIELD("\"max_tokens\":300,\"ignore_eos\":true")};
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 5});
    for (size_t i = 0; i < 2; i++) {
        client c = client_open(f->port);
        say_post(&c, "/v1/chat/completions", bodies[i]);
        wait_for(f, 1, 0);
        if (i == 0) {
            size_t at_byte;
            assert_true(client_until(&c, "\"delta\":{\"content\"", &at_byte));
        }
        client_close(&c);
        uint64_t took = fixture_wait_idle(f);
        print_message("session freed after %.1f ms\n", (double)took / 1e6);
    }
    mlxd_engine_stats s = fixture_stats(f);
    assert_int_equal(s.cancelled, 2);
    assert_true(s.generated_tokens < 300);
    fixture_close(f);
}

/* Many that come and go at random moments, some before their request is submitted. */
static void test_clients_come_and_go(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 1, .sessions_max = 3});
    for (int i = 0; i < 150; i++) {
        client c = client_open(f->port);
        say_post(&c, "/v1/chat/completions", i % 3 ? LONG : FIELD("\"max_tokens\":3"));
        pause_us(i % 7 * 400);
        client_close(&c);
    }
    fixture_wait_idle(f);
    answer a = chat(f->port, FIELD("\"max_tokens\":3"));
    assert_int_equal(a.status, 200);
    answer_free(&a);
    fixture_close(f);
}

/* A client that does not read is cut when its buffer is full; others do not notice. */
static void test_slow_reader(void **state) {
    (void)state;
    fixture *f = fixture_open(
        &(fixture_params){.context = 8192, .stream_bytes_max = 64 << 10, .sessions_max = 2});
    client c = client_open(f->port);
    say_post(&c, "/v1/chat/completions",
             FIELD("\"max_tokens\":8000,\"ignore_eos\":true,\"stream\":true,\"logprobs\":true,"
                   "\"top_logprobs\":20"));
    wait_for(f, 1, 0);
    answer other = chat(f->port, FIELD("\"max_tokens\":20"));
    assert_int_equal(other.status, 200);
    answer_free(&other);
    for (int i = 0; i < 12000 && fixture_stats(f).running > 0; i++)
        pause_us(10000); /* the kernel takes some megabytes first */
    fixture_wait_idle(f);
    mlxd_engine_stats s = fixture_stats(f);
    assert_int_equal(s.cancelled, 1);
    print_message("cut after %u tokens\n", (unsigned)s.generated_tokens);
    assert_true(s.generated_tokens < 8000);
    answer a = client_read(&c);
    assert_int_equal(a.status, 200);
    assert_false(a.complete);
    assert_null(strstr(a.body, "[DONE]"));
    answer_free(&a);
    client_close(&c);
    fixture_close(f);
}

/* ---- silence ---- */

static void test_keep_alive(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 200, .keepalive_ms = 40});
    answer a = chat(f->port, FIELD("\"max_tokens\":1,\"stream\":true,\"wibble\":1"));
    assert_int_equal(a.status, 200);
    assert_string_equal(answer_header(&a, "x-mlxd-ignored"), "wibble");
    assert_int_equal(strncmp(a.body, ": keepalive\n\n: keepalive\n\n", 26), 0);
    assert_non_null(strstr(a.body, "\"finish_reason\":\"length\""));
    assert_true(a.complete);
    answer_free(&a);
    /* An error after the headers is an event. */
    atomic_store(&f->fail, MLXD_ERR_CORRUPT);
    a = chat(f->port, FIELD("\"max_tokens\":1,\"stream\":true"));
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body, "data: {\"error\":{\"message\":\"the gate fails steps\","
                                   "\"type\":\"server_error\",\"param\":null,"
                                   "\"code\":\"internal_error\"}}\n\ndata: [DONE]\n\n"));
    assert_true(a.complete);
    answer_free(&a);
    fixture_close(f);
}

/* ---- lost workers ---- */

static void test_errors_before_headers(void **state) {
    (void)state;
    static const struct {
        mlxd_err err;
        int status;
        const char *code, *type, *should_retry;
    } rows[] = {{MLXD_ERR_PEER, 500, "worker_lost", "server_error", "true"},
                {MLXD_ERR_CORRUPT, 500, "internal_error", "server_error", "false"},
                {MLXD_ERR_NOMEM, 503, "out_of_memory", "unavailable_error", NULL}};
    fixture *f = fixture_open(NULL);
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        for (int streamed = 0; streamed < 2; streamed++) {
            atomic_store(&f->fail, (int)rows[i].err);
            answer a = chat(f->port, streamed ? FIELD("\"stream\":true") : FIELD("\"n\":1"));
            assert_int_equal(a.status, rows[i].status);
            mlxd_json_doc *d = parse_json(a.body, a.body_len);
            assert_string_equal(str_at(d, "error.code"), rows[i].code);
            assert_string_equal(str_at(d, "error.type"), rows[i].type);
            assert_string_equal(str_at(d, "error.message"), "the gate fails steps");
            const char *retry = answer_header(&a, "x-should-retry");
            assert_true(rows[i].should_retry ? retry && !strcmp(retry, rows[i].should_retry)
                                             : !retry);
            if (a.status == 503)
                assert_string_equal(answer_header(&a, "Retry-After"), "1");
            mlxd_json_close(d);
            answer_free(&a);
        }
    fixture_close(f);
}

static void test_lost_in_stream(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 5});
    client c = client_open(f->port);
    size_t at_byte;
    say_post(&c, "/v1/chat/completions", LONG);
    assert_true(client_until(&c, "\"delta\":{\"content\"", &at_byte));
    fixture_set_pipeline(f, 2, false);
    answer a = client_read(&c);
    assert_true(a.complete);
    assert_non_null(strstr(a.body, "data: {\"error\":{\"message\":\"mini2 was lost\","
                                   "\"type\":\"server_error\",\"param\":null,"
                                   "\"code\":\"worker_lost\"}}\n\ndata: [DONE]\n\n"));
    assert_null(strstr(a.body, "finish_reason\":\"stop"));
    answer_free(&a);
    client_close(&c);
    /* Nothing can be served until it is back. */
    a = chat(f->port, FIELD("\"stream\":true"));
    assert_int_equal(a.status, 503);
    assert_string_equal(answer_header(&a, "Retry-After"), "1");
    mlxd_json_doc *d = parse_json(a.body, a.body_len);
    assert_string_equal(str_at(d, "error.type"), "unavailable_error");
    assert_string_equal(str_at(d, "error.code"), "worker_lost");
    assert_string_equal(str_at(d, "error.message"), "mini2 was lost");
    mlxd_json_close(d);
    answer_free(&a);
    pause_us(20000); /* the gate still holds a step of the old pipeline */
    fixture_set_pipeline(f, 3, true);
    a = chat(f->port, FIELD("\"max_tokens\":2"));
    assert_int_equal(a.status, 200);
    answer_free(&a);
    fixture_close(f);
}

/* ---- the end ---- */

static void test_close_while_running(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 5, .sessions_max = 2});
    client c[6];
    for (int i = 0; i < 6; i++) {
        c[i] = client_open(f->port);
        say_post(&c[i], "/v1/chat/completions",
                 i % 2 ? LONG : FIELD("\"max_tokens\":300,\"ignore_eos\":true"));
    }
    wait_for(f, 2, 4);
    assert_false(mlxd_api_drain(f->api, 20));
    fixture_close(f);
    for (int i = 0; i < 6; i++)
        client_close(&c[i]);
}

static void test_drain(void **state) {
    (void)state;
    fixture *f = fixture_open(&(fixture_params){.delay_ms = 2});
    client c = client_open(f->port);
    say_post(&c, "/v1/chat/completions", FIELD("\"max_tokens\":30,\"ignore_eos\":true"));
    wait_for(f, 1, 0);
    assert_true(mlxd_api_drain(f->api, 10000));
    answer a = client_read(&c);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    client_close(&c);
    fixture_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_too_deep_or_many),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_no_template),
        cmocka_unit_test(test_template_inputs),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_clients_come_and_go),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_errors_before_headers),
        cmocka_unit_test(test_lost_in_stream),
        cmocka_unit_test(test_close_while_running),
        cmocka_unit_test(test_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
