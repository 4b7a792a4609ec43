/* test_http.c - the HTTP server as a client on a raw socket sees it: plain requests, the table of
 * refusals, uploads, keep-alive and pipelining, deadlines, start and drain. Later replies, streams
 * and clients that leave are in test_http_stream.c.
 */
#include "net/http.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/thread.h"
#include "format/json.h"

#include <errno.h>

#include "http_client.h"

#define OK_HOST "Host: localhost\r\n"
#define KEYED OK_HOST "Authorization: Bearer good\r\n"
#define JSON "Content-Type: application/json\r\n"

static mlxd_http *server;
static uint16_t port;
static int done_calls;     /* written by the HTTP thread, read after stop */
static char last_done[64]; /* "405 DELETE" */

/* ---- the application ---- */

static void reply_json(mlxd_http_req *req, const char *text) {
    (void)mlxd_http_reply(req, 200, "application/json", mlxd_slice_str(text), NULL);
}

static void health(void *ctx, mlxd_http_req *req) {
    assert_ptr_equal(ctx, &port);
    reply_json(req, mlxd_http_authorized(req) ? "{\"status\":\"ok\",\"key\":true}"
                                              : "{\"status\":\"ok\"}");
}

static void echo(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    mlxd_slice body = mlxd_http_body(req);
    assert_int_equal(body.data[body.len], 0);
    const char *type = mlxd_http_header(req, "content-type");
    const mlxd_http_field fields[] = {
        {"x-seen-type", type ? type : ""}, {"x-dirty", "a\r\nb\x01\xc3\xa9"}, {NULL, NULL}};
    (void)mlxd_http_reply(req, 200, "application/octet-stream", body, fields);
}

static void describe(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    char text[1024];
    snprintf(text, sizeof text, "%d|%s|%s|%s|%s|%u", mlxd_http_req_method(req), mlxd_http_path(req),
             mlxd_http_param(req), mlxd_http_query(req), mlxd_http_peer(req),
             mlxd_http_key_id(req));
    (void)mlxd_http_reply(req, 200, "text/plain", mlxd_slice_str(text), NULL);
}

static void teapot(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    (void)mlxd_http_reply_error(req, 400, "bad_field", "messages[0]", "say \"what\"\n\x02", NULL);
}

static mlxd_http_verdict judge(void *ctx, const char *key, const char *peer, uint32_t *key_id) {
    assert_ptr_equal(ctx, &port);
    assert_string_equal(peer, "127.0.0.1");
    if (!key)
        return MLXD_HTTP_AUTH_MISSING;
    if (strcmp(key, "flood") == 0)
        return MLXD_HTTP_AUTH_LIMITED;
    *key_id = 7;
    return strcmp(key, "good") == 0 ? MLXD_HTTP_AUTH_OK : MLXD_HTTP_AUTH_WRONG;
}

static void note_done(void *ctx, const mlxd_http_done *done) {
    (void)ctx;
    done_calls++;
    snprintf(last_done, sizeof last_done, "%u %s %s", done->status, done->method,
             done->route ? done->route : "-");
}

static const mlxd_http_route ROUTES[] = {
    {MLXD_HTTP_GET, "/health", MLXD_HTTP_PUBLIC, health},
    {MLXD_HTTP_POST, "/echo", MLXD_HTTP_JSON, echo},
    {MLXD_HTTP_POST, "/drop", 0, describe},
    {MLXD_HTTP_GET, "/v1/models", 0, describe},
    {MLXD_HTTP_GET, "/v1/models/{id}", 0, describe},
    {MLXD_HTTP_POST, "/v1/models/load", MLXD_HTTP_JSON, echo},
    {MLXD_HTTP_GET, "/both", 0, describe},
    {MLXD_HTTP_POST, "/both", MLXD_HTTP_JSON, echo},
    {MLXD_HTTP_GET, "/teapot", MLXD_HTTP_PUBLIC, teapot},
};

static int open_server(void **state) {
    (void)state;
    static const char *const hosts[] = {"mini1.example"};
    mlxd_http_config config = {
        .routes = ROUTES,
        .routes_len = MLXD_COUNT_OF(ROUTES),
        .ctx = &port,
        .auth = judge,
        .done = note_done,
        .hosts = hosts,
        .hosts_len = 1,
        .body_bytes_max = 100000,
        .header_deadline_ms = 400,
        .body_deadline_ms = 500,
        .idle_deadline_ms = 3000,
    };
    mlxd_why why;
    mlxd_err err = mlxd_http_start(&server, &config, &why);
    if (err)
        fail_msg("%s", why.text);
    port = mlxd_http_port(server);
    return 0;
}

static int close_server(void **state) {
    (void)state;
    mlxd_http_stop(server);
    server = NULL;
    return 0;
}

/* ---- good requests ---- */

static void test_get(void **state) {
    (void)state;
    answer a = ask(port, "GET /health HTTP/1.1\r\n" OK_HOST "\r\n");
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "{\"status\":\"ok\"}");
    assert_string_equal(answer_header(&a, "Content-Type"), "application/json");
    assert_int_equal(strncmp(answer_header(&a, "x-request-id"), "req-", 4), 0);
    answer_free(&a);
    a = ask(port, "GET /health?x=1 HTTP/1.1\r\n" KEYED "X-Request-Id: client_1.2-3\r\n\r\n");
    assert_string_equal(a.body, "{\"status\":\"ok\",\"key\":true}");
    assert_string_equal(answer_header(&a, "x-request-id"), "client_1.2-3");
    answer_free(&a);
    a = ask(port, "GET /health HTTP/1.1\r\n" OK_HOST "X-Request-Id: a b\r\n\r\n");
    assert_int_equal(strncmp(answer_header(&a, "x-request-id"), "req-", 4), 0);
    answer_free(&a);
    a = ask(port, "GET /health HTTP/1.0\r\n\r\n"); /* no Host in 1.0; ends by close */
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "{\"status\":\"ok\"}");
    answer_free(&a);
}

static void test_fields(void **state) {
    (void)state;
    answer a = ask(port, "GET /v1/models?limit=%31&a=b HTTP/1.1\r\n" KEYED "\r\n");
    assert_string_equal(a.body, "0|/v1/models||limit=%31&a=b|127.0.0.1|7");
    answer_free(&a);
    a = ask(port, "GET /v1/models/org%2Fmodel-1.5:q4 HTTP/1.1\r\n" KEYED "\r\n");
    assert_string_equal(a.body, "0|/v1/models/org%2Fmodel-1.5:q4|org/model-1.5:q4||127.0.0.1|7");
    answer_free(&a);
    a = ask(port, "GET /v1/models/org/model HTTP/1.1\r\n" KEYED "\r\n");
    assert_string_equal(a.body, "0|/v1/models/org/model|org/model||127.0.0.1|7");
    answer_free(&a);
    a = ask(port, "POST /v1/models/load HTTP/1.1\r\n" KEYED JSON "Content-Length: 2\r\n\r\n{}");
    assert_string_equal(a.body, "{}");
    assert_string_equal(answer_header(&a, "x-dirty"), "a??b???");
    assert_string_equal(answer_header(&a, "x-seen-type"), "application/json");
    answer_free(&a);
    a = ask(port, "POST /drop HTTP/1.1\r\n" KEYED "Content-Length: 3\r\n\r\nabc");
    assert_int_equal(a.status, 200);
    answer_free(&a);
}

static void test_error_text(void **state) {
    (void)state;
    answer a = ask(port, "GET /teapot HTTP/1.1\r\n" OK_HOST "\r\n");
    assert_int_equal(a.status, 400);
    assert_string_equal(a.body, "{\"error\":{\"message\":\"say \\\"what\\\"\\n\\u0002\",\"type\":"
                                "\"invalid_request_error\",\"param\":\"messages[0]\",\"code\":"
                                "\"bad_field\"}}");
    answer_free(&a);
}

static void test_head(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, "HEAD /health HTTP/1.1\r\n" OK_HOST "\r\n"
                               "GET /health HTTP/1.1\r\n" OK_HOST "\r\n"));
    answer a = client_read_opt(&c, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(answer_header(&a, "Content-Length"), "15");
    answer_free(&a);
    a = client_read(&c); /* right behind: no body was sent */
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "{\"status\":\"ok\"}");
    answer_free(&a);
    client_close(&c);
}

static void test_keep_alive(void **state) {
    (void)state;
    mlxd_http_stats before, after;
    mlxd_http_stats_get(server, &before);
    client c = client_open(port);
    for (int i = 0; i < 20; i++) {
        bool miss = i % 3 == 1; /* a refusal without body keeps the connection, too */
        assert_true(client_say(&c, miss ? "GET /nope HTTP/1.1\r\n" KEYED "\r\n"
                                        : "GET /health HTTP/1.1\r\n" OK_HOST "\r\n"));
        answer a = client_read(&c);
        assert_int_equal(a.status, miss ? 404 : 200);
        answer_free(&a);
    }
    client_close(&c);
    mlxd_http_stats_get(server, &after);
    assert_int_equal(after.connections, before.connections + 1);
    assert_true(after.replies[2] >= before.replies[2] + 12);
}

static void test_pipeline(void **state) {
    (void)state;
    client c = client_open(port);
    for (int i = 0; i < 50; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: 4\r\n\r\n%04d", i);
        assert_true(client_say(&c, text));
    }
    for (int i = 0; i < 50; i++) {
        answer a = client_read(&c);
        assert_int_equal(a.status, 200);
        assert_int_equal(atoi(a.body), i);
        answer_free(&a);
    }
    client_close(&c);
}

/* ---- bodies ---- */

static char *pattern(size_t len) {
    char *p = malloc(len + 1);
    assert_non_null(p);
    for (size_t i = 0; i < len; i++)
        p[i] = (char)('a' + i * 7 % 23);
    p[len] = '\0';
    return p;
}

static void test_upload(void **state) {
    (void)state;
    size_t len = 100000; /* exactly the limit */
    char *body = pattern(len);
    char head[256];
    client c = client_open(port);
    snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: %zu\r\n\r\n",
             len);
    assert_true(client_say(&c, head) && client_send(&c, body, len));
    answer a = client_read(&c);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body_len, len);
    assert_memory_equal(a.body, body, len);
    answer_free(&a);
    /* the same in chunks of odd sizes, on the same connection */
    assert_true(
        client_say(&c, "POST /echo HTTP/1.1\r\n" KEYED JSON "Transfer-Encoding: chunked\r\n\r\n"));
    for (size_t at = 0, n = 1; at < len; at += n) {
        n = (n * 5 + 3) % 4099 + 1;
        n = n < len - at ? n : len - at;
        snprintf(head, sizeof head, "%zx\r\n", n);
        assert_true(client_say(&c, head) && client_send(&c, body + at, n) &&
                    client_say(&c, "\r\n"));
    }
    assert_true(client_say(&c, "0\r\n\r\n"));
    a = client_read(&c);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body_len, len);
    assert_memory_equal(a.body, body, len);
    answer_free(&a);
    client_close(&c);
    free(body);
}

/* Sends `total` bytes in chunks; false when the server cut the connection. */
static bool send_chunked(client *c, size_t total) {
    char piece[1000];
    memset(piece, 'x', sizeof piece);
    for (size_t sent = 0; sent < total; sent += sizeof piece)
        if (!client_say(c, "3e8\r\n") || !client_send(c, piece, sizeof piece) ||
            !client_say(c, "\r\n"))
            return false;
    return client_say(c, "0\r\n\r\n");
}

static void test_chunked_too_large(void **state) {
    (void)state;
    static const char head[] =
        "POST /echo HTTP/1.1\r\n" KEYED JSON "Transfer-Encoding: chunked\r\n\r\n";
    client c = client_open(port);
    assert_true(client_say(&c, head) && send_chunked(&c, 150000));
    answer a = client_read(&c);
    assert_int_equal(a.status, 413);
    assert_non_null(strstr(a.body, "body_too_large"));
    answer_free(&a);
    client_close(&c);
    c = client_open(port); /* far too large: cut */
    assert_true(client_say(&c, head));
    (void)send_chunked(&c, 4000000);
    a = client_read(&c);
    assert_int_equal(a.status, 0);
    answer_free(&a);
    client_close(&c);
}

static void test_expect(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, "POST /echo HTTP/1.1\r\n" KEYED JSON
                               "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"));
    answer a = client_read_opt(&c, true);
    assert_int_equal(a.status, 100);
    answer_free(&a);
    assert_true(client_say(&c, "{}"));
    a = client_read(&c);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    client_close(&c);
    /* refused: the final answer comes instead of 100 */
    a = ask(port, "POST /echo HTTP/1.1\r\n" KEYED JSON
                  "Content-Length: 200000\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(a.status, 413);
    answer_free(&a);
}

/* A client that has sent its whole body before it looks must still see why it was refused, and not
 * a reset connection. */
static void test_refusal_survives_upload(void **state) {
    (void)state;
    size_t len = 8u << 20;
    char *body = pattern(len);
    char head[256];
    for (int i = 0; i < 5; i++) {
        client c = client_open(port);
        snprintf(head, sizeof head,
                 "POST /echo HTTP/1.1\r\n" OK_HOST "X-API-Key: wrong\r\n" JSON
                 "Content-Length: %zu\r\n\r\n",
                 len);
        assert_true(client_say(&c, head));
        assert_true(client_send(&c, body, len));
        answer a = client_read(&c);
        assert_int_equal(a.status, 403);
        assert_true(a.complete);
        answer_free(&a);
        client_close(&c);
    }
    free(body);
}

/* ---- refusals ---- */

typedef struct refusal {
    const char *request;
    int status;
    const char *code;  /* in the error object */
    const char *field; /* "Name: value" that the reply must carry; NULL = none */
} refusal;

#define CASE_GET(path, headers, ...)                                                               \
    { "GET " path " HTTP/1.1\r\n" headers "\r\n", __VA_ARGS__ }
#define CASE_POST(path, headers, body, ...)                                                        \
    { "POST " path " HTTP/1.1\r\n" headers "\r\n" body, __VA_ARGS__ }
#define LEN2 "Content-Length: 2\r\n"

static const refusal REFUSALS[] = {
    /* keys */
    CASE_GET("/v1/models", OK_HOST, .status = 401, .code = "invalid_api_key",
             .field = "WWW-Authenticate: Bearer"),
    CASE_GET("/v1/models", OK_HOST "Authorization: Basic Zm9v\r\n", .status = 401,
             .code = "invalid_api_key"),
    CASE_GET("/v1/models?api_key=good", OK_HOST, .status = 401, .code = "invalid_api_key"),
    CASE_GET("/nope", OK_HOST, .status = 401, .code = "invalid_api_key"),
    CASE_GET("/%68ealth", OK_HOST, .status = 401, .code = "invalid_api_key"),
    CASE_GET("/v1/models", OK_HOST "X-API-Key: bad\r\n", .status = 403, .code = "invalid_api_key"),
    CASE_GET("/v1/models", OK_HOST "X-API-Key: good1\r\n", .status = 403,
             .code = "invalid_api_key"),
    CASE_GET("/v1/models", OK_HOST "Authorization: Bearer flood\r\n", .status = 429,
             .code = "too_many_wrong_keys", .field = "Retry-After: 60"),
    CASE_GET("/v1/models", KEYED "X-API-Key: other\r\n", .status = 400,
             .code = "ambiguous_api_key"),
    CASE_GET("/v1/models", KEYED "Authorization: Bearer bad\r\n", .status = 400,
             .code = "ambiguous_api_key"),
    /* paths and methods */
    CASE_GET("/nope", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("//health", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/a/../health", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/health/", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/HEALTH", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/%68ealth", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/health%00x", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("http://localhost/health", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a%00b", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a%252Fb", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/../x", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a%2F%2E%2E%2Fb", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a//b", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a%zz", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/v1/models/a%2", KEYED, .status = 404, .code = "not_found"),
    CASE_GET("/echo", KEYED, .status = 405, .code = "method_not_allowed", .field = "Allow: POST"),
    {.request = "DELETE /both HTTP/1.1\r\n" KEYED "\r\n",
     .status = 405,
     .code = "method_not_allowed",
     .field = "Allow: GET, HEAD, POST"},
    {.request = "OPTIONS /health HTTP/1.1\r\n" OK_HOST "\r\n",
     .status = 405,
     .code = "method_not_allowed",
     .field = "Allow: GET, HEAD"},
    {.request = "FOO /health HTTP/1.1\r\n" OK_HOST "\r\n",
     .status = 405,
     .code = "method_not_allowed",
     .field = "Allow: GET, HEAD"},
    /* types and lengths */
    CASE_POST("/echo", KEYED LEN2, "{}", .status = 415, .code = "unsupported_media_type"),
    CASE_POST("/echo", KEYED LEN2 "Content-Type: text/plain\r\n", "{}", .status = 415,
              .code = "unsupported_media_type"),
    CASE_POST("/echo", KEYED LEN2 "Content-Type: application/jsonx\r\n", "{}", .status = 415,
              .code = "unsupported_media_type"),
    CASE_POST("/echo", KEYED LEN2 "Content-Type: application/json; charset=utf-16\r\n", "{}",
              .status = 415, .code = "unsupported_media_type"),
    CASE_POST("/echo", KEYED LEN2 JSON "Content-Encoding: gzip\r\n", "{}", .status = 415,
              .code = "unsupported_encoding"),
    CASE_POST("/echo", KEYED JSON, "", .status = 411, .code = "length_required"),
    CASE_POST("/echo", KEYED JSON "Content-Length: 100001\r\n", "", .status = 413,
              .code = "body_too_large"),
    CASE_POST("/echo", KEYED JSON "Content-Length: 9999999999999\r\n", "", .status = 413,
              .code = "body_too_large"),
    /* hosts */
    CASE_GET("/health", "", .status = 400, .code = "bad_host"),
    CASE_GET("/health", "Host:\r\n", .status = 400, .code = "bad_host"),
    CASE_GET("/health", OK_HOST OK_HOST, .status = 400, .code = "bad_host"),
    CASE_GET("/health", "Host: localhost:x\r\n", .status = 400, .code = "bad_host"),
    CASE_GET("/health", "Host: evil.example\r\n", .status = 421, .code = "unknown_host"),
    CASE_GET("/v1/models", "Host: localhost.evil.example\r\nX-API-Key: good\r\n", .status = 421,
             .code = "unknown_host"),
    CASE_GET("/health", "Host: 10.1.2.3\r\n", .status = 421, .code = "unknown_host"),
    /* framing */
    CASE_POST("/echo", KEYED JSON LEN2 "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", .status = 400,
              .code = "bad_framing", .field = "Connection: close"),
    CASE_POST("/echo", KEYED JSON LEN2 LEN2, "{}", .status = 400, .code = "bad_framing",
              .field = "Connection: close"),
    CASE_POST("/echo", KEYED JSON "Transfer-Encoding: gzip, chunked\r\n", "", .status = 400,
              .code = "bad_framing", .field = "Connection: close"),
    CASE_POST("/echo", KEYED JSON "Transfer-Encoding: xchunked\r\n", "", .status = 400,
              .code = "bad_framing", .field = "Connection: close"),
    CASE_POST("/echo", KEYED JSON "Content-Length : 3\r\n", "{ }", .status = 400,
              .code = "bad_header", .field = "Connection: close"),
    CASE_GET("/health", OK_HOST "bad name: x\r\n", .status = 400, .code = "bad_header",
             .field = "Connection: close"),
    CASE_POST("/echo", KEYED JSON JSON LEN2, "{}", .status = 400, .code = "bad_header",
              .field = "Connection: close"),
};

static void check_error_shape(const answer *a, const char *code) {
    mlxd_json_doc *doc;
    mlxd_why why;
    assert_string_equal(answer_header(a, "Content-Type"), "application/json");
    assert_non_null(answer_header(a, "x-request-id"));
    assert_int_equal(
        mlxd_json_parse(&doc, (mlxd_slice){(const uint8_t *)a->body, a->body_len}, 4, &why), 0);
    const mlxd_json *error = mlxd_json_find(mlxd_json_root(doc), "error");
    assert_int_equal(mlxd_json_count(error), 4);
    assert_int_equal(mlxd_json_get_kind(mlxd_json_find(error, "message")), MLXD_JSON_STRING);
    assert_int_equal(mlxd_json_get_kind(mlxd_json_find(error, "type")), MLXD_JSON_STRING);
    assert_int_equal(mlxd_json_get_kind(mlxd_json_find(error, "param")), MLXD_JSON_NULL);
    assert_true(mlxd_json_is_str(mlxd_json_find(error, "code"), code));
    mlxd_json_close(doc);
}

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(REFUSALS); i++) {
        const refusal *r = &REFUSALS[i];
        answer a = ask(port, r->request);
        if (a.status != r->status || !strstr(a.body, r->code))
            fail_msg("expected %d %s, got %d %s for:\n%s", r->status, r->code, a.status, a.body,
                     r->request);
        check_error_shape(&a, r->code);
        if (r->field) {
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)strcspn(r->field, ":"), r->field);
            const char *got = answer_header(&a, name);
            assert_non_null(got);
            assert_string_equal(got, strchr(r->field, ':') + 2);
        }
        answer_free(&a);
    }
    answer a = ask(port, "GET /v1/models HTTP/1.1\r\n" OK_HOST "X-API-Key: bad\r\n\r\n");
    assert_non_null(strstr(a.body, "\"message\":\"Invalid API Key\""));
    assert_non_null(strstr(a.body, "permission_error"));
    answer_free(&a);
}

static const char *const ACCEPTED[] = {
    "GET /health HTTP/1.1\r\nHost: 127.0.0.1:8100\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: 127.8.9.1\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: LocalHost\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: MINI1.example:8100\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\n" OK_HOST "X-API-Key: good\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\n" OK_HOST "authorization: bearer   good\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\n" KEYED "X-API-Key: good\r\nX-API-Key: good\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\n" OK_HOST "Authorization: Basic x\r\nX-API-Key: good\r\n\r\n",
    "GET /health HTTP/1.1\r\n" OK_HOST "X-API-Key: wrong\r\n\r\n",
    "GET /health HTTP/1.1\n"
    "Host: localhost\n"
    "\n",
    "POST /echo HTTP/1.1\r\n" KEYED "Content-Type: Application/JSON ; charset=\"UTF-8\"\r\n" LEN2
    "Content-Encoding: identity\r\n\r\n{}",
    "POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: 0\r\n\r\n",
    "POST /echo HTTP/1.1\r\n" KEYED JSON "Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
};

static void test_accepted(void **state) {
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(ACCEPTED); i++) {
        answer a = ask(port, ACCEPTED[i]);
        if (a.status != 200)
            fail_msg("expected 200, got %d %s for:\n%s", a.status, a.body, ACCEPTED[i]);
        answer_free(&a);
    }
}

static void test_many_headers(void **state) {
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        char text[8192];
        int n = snprintf(text, sizeof text, "GET /health HTTP/1.1\r\n" OK_HOST);
        for (int i = 1; i < MLXD_LIMIT_HEADERS + extra; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, "x-%d: 1\r\n", i);
        snprintf(text + n, sizeof text - (size_t)n, "\r\n");
        answer a = ask(port, text);
        assert_int_equal(a.status, extra ? 431 : 200);
        if (extra)
            check_error_shape(&a, "too_many_headers");
        answer_free(&a);
    }
}

/* What libmicrohttpd refuses by itself: any error status or a close will do, but no reply from a
 * handler, and the server goes on. */
static void test_unparsable(void **state) {
    (void)state;
    size_t big = 2u << 20;
    char *key = pattern(big);
    char *long_header = malloc(big + 256);
    assert_non_null(long_header);
    snprintf(long_header, big + 256, "GET /health HTTP/1.1\r\n" OK_HOST "X-API-Key: %s\r\n\r\n",
             key);
    char *long_path = malloc(big + 256);
    assert_non_null(long_path);
    snprintf(long_path, big + 256, "GET /%s HTTP/1.1\r\n" OK_HOST "\r\n", key);
    const char *const bad[] = {
        long_header,
        long_path,
        "GET /health HTTP/9.9\r\n" OK_HOST "\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: -1\r\n\r\n{}",
        "POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: 99999999999999999999999\r\n\r\n{}",
        "POST /echo HTTP/1.1\r\n" KEYED JSON "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        "no request at all\r\n\r\n",
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        client c = client_open(port);
        (void)client_say(&c, bad[i]);
        (void)shutdown(c.fd, SHUT_WR);
        answer a = client_read(&c);
        assert_true(a.status == 0 || a.status >= 400);
        answer_free(&a);
        client_close(&c);
        a = ask(port, "GET /health HTTP/1.1\r\n" OK_HOST "\r\n");
        assert_int_equal(a.status, 200);
        answer_free(&a);
    }
    free(key);
    free(long_header);
    free(long_path);
}

/* ---- deadlines ---- */

/* Sends `drip` every 50 ms until the server closes; returns how long that took. */
static double ms_until_closed(const char *start, const char *drip) {
    client c = client_open(port);
    struct timeval tick = {.tv_usec = 50000};
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick);
    uint64_t t0 = mlxd_clock_now_ns();
    assert_true(client_say(&c, start));
    for (;;) {
        char byte;
        ssize_t n = recv(c.fd, &byte, 1, 0);
        uint64_t ns = mlxd_clock_now_ns() - t0;
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            client_close(&c);
            return (double)ns / 1e6;
        }
        assert_true(n < 0); /* no reply */
        assert_true(ns < 10 * MLXD_NS_PER_S);
        (void)client_say(&c, drip);
    }
}

static void test_deadlines(void **state) {
    (void)state;
    mlxd_http_stats before, after;
    mlxd_http_stats_get(server, &before);
    double header = ms_until_closed("GET /health HTTP/1.1\r\n", "x-slow: 1\r\n");
    double line = ms_until_closed("GET /", "a");
    double body =
        ms_until_closed("POST /echo HTTP/1.1\r\n" KEYED JSON "Content-Length: 1000\r\n\r\n", "a");
    print_message("closed after: header %.0f ms (400), request line %.0f ms (400), body %.0f ms "
                  "(500)\n",
                  header, line, body);
    assert_true(header >= 390 && line >= 390 && body >= 490);
    mlxd_http_stats_get(server, &after);
    assert_int_equal(after.deadlines, before.deadlines + 3);
}

/* ---- start, drain, stop ---- */

static void test_addresses(void **state) {
    (void)state;
    mlxd_why why;
    mlxd_http *h = NULL;
    mlxd_http_config config = {.routes = ROUTES, .routes_len = 1, .ctx = &port, .port = port};
    assert_int_equal(mlxd_http_start(&h, &config, &why), MLXD_ERR_IO);
    assert_null(h);
    char want[64];
    snprintf(want, sizeof want, "127.0.0.1:%u: Address already in use", port);
    assert_non_null(strstr(why.text, want));
    config.port = 0;
    config.host = "203.0.113.7"; /* documentation range: not ours */
    assert_int_equal(mlxd_http_start(&h, &config, &why), MLXD_ERR_IO);
    assert_non_null(strstr(why.text, "203.0.113.7"));
    config.host = "www.example.com";
    assert_int_equal(mlxd_http_start(&h, &config, &why), MLXD_ERR_INVALID);
    assert_non_null(strstr(why.text, "www.example.com"));
    static const char *const good[] = {"localhost", "0.0.0.0", "::1", "::"};
    for (size_t i = 0; i < MLXD_COUNT_OF(good); i++) {
        config.host = good[i];
        if (mlxd_http_start(&h, &config, &why) != MLXD_OK) {
            print_message("%s\n", why.text); /* no IPv6 here */
            assert_true(strchr(good[i], ':') != NULL);
            continue;
        }
        assert_non_null(strstr(mlxd_http_url(h), strchr(good[i], ':') ? "http://[" : "http://"));
        if (strcmp(good[i], "::1") != 0) {
            answer a = ask(mlxd_http_port(h), "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            assert_int_equal(a.status, 200);
            assert_string_equal(a.body, "{\"status\":\"ok\",\"key\":true}"); /* no auth: all may */
            answer_free(&a);
        }
        mlxd_http_stop(h);
    }
    mlxd_http_stop(NULL);
}

static void test_drain(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, "GET /health HTTP/1.1\r\n" OK_HOST "\r\n"));
    answer a = client_read(&c);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    assert_true(mlxd_http_drain(server, 1000));
    assert_true(client_say(&c, "GET /health HTTP/1.1\r\n" OK_HOST "\r\n"));
    a = client_read(&c);
    assert_int_equal(a.status, 503);
    assert_string_equal(answer_header(&a, "Retry-After"), "5");
    assert_string_equal(answer_header(&a, "Connection"), "close");
    check_error_shape(&a, "draining");
    answer_free(&a);
    client_close(&c);
    int fd = socket(AF_INET, SOCK_STREAM, 0); /* nobody listens any more */
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof in), -1);
    assert_int_equal(errno, ECONNREFUSED);
    close(fd);
}

static void test_done(void **state) {
    (void)state;
    int before = done_calls; /* no request is running */
    answer a = ask(port, "DELETE /echo HTTP/1.1\r\n" KEYED "\r\n");
    answer_free(&a);
    mlxd_http_stop(server);
    server = NULL;
    assert_int_equal(done_calls, before + 1);
    assert_string_equal(last_done, "405 DELETE -");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_get, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_fields, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_error_text, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_head, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_keep_alive, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_pipeline, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_upload, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_chunked_too_large, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_expect, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_refusal_survives_upload, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_refusals, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_accepted, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_many_headers, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_unparsable, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_deadlines, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_addresses, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_drain, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_done, open_server, close_server),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
