/* test_api_node.c - everything of the REST API that is no completion: what a node says about
 * itself, keys, metrics, tokenize and detokenize, registration, and the API of a worker.
 */
#include "../../support/prometheus.h"
#include "../../support/serve_fixture.h"

#include <fcntl.h>

#define KEY "test-key-0123456789abcdef"
#define BEARER "Authorization: Bearer " KEY "\r\n"

static mlxd_json_doc *get_json(uint16_t port, const char *path, int status) {
    answer a = get(port, path);
    if (a.status != status)
        fail_msg("%s: %d %s", path, a.status, a.body);
    assert_string_equal(answer_header(&a, "Content-Type"), "application/json");
    mlxd_json_doc *d = parse_json(a.body, a.body_len);
    answer_free(&a);
    return d;
}

static mlxd_json_doc *post_json(uint16_t port, const char *path, const char *body, int status) {
    answer a = post(port, path, body);
    if (a.status != status)
        fail_msg("%s %s: %d %s", path, body, a.status, a.body);
    mlxd_json_doc *d = parse_json(a.body, a.body_len);
    answer_free(&a);
    return d;
}

/* ---- coordinator ---- */

static void test_health(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = get_json(f->port, "/health", 200);
    assert_string_equal(str_at(d, "status"), "healthy");
    assert_string_equal(str_at(d, "device"), "mini1");
    assert_string_equal(str_at(d, "model"), FIXTURE_MODEL);
    assert_true(double_at(d, "timestamp") > 1.7e9);
    assert_false(bool_at(d, "degraded"));
    assert_string_equal(str_at(d, "exactness"), "bitwise");
    mlxd_json_close(d);
    atomic_store(&f->degraded, true);
    d = get_json(f->port, "/health", 200); /* it still serves */
    assert_string_equal(str_at(d, "status"), "healthy");
    assert_true(bool_at(d, "degraded"));
    mlxd_json_close(d);
    d = get_json(f->port, "/ready", 200);
    assert_true(bool_at(d, "ready"));
    mlxd_json_close(d);
    fixture_set_pipeline(f, 2, false);
    d = get_json(f->port, "/health", 503);
    assert_string_equal(str_at(d, "status"), "unhealthy");
    mlxd_json_close(d);
    d = get_json(f->port, "/ready", 503);
    assert_false(bool_at(d, "ready"));
    assert_string_equal(str_at(d, "reason"), "layers 0..4 have no device");
    mlxd_json_close(d);
    fixture_close(f);
}

static void test_models(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = get_json(f->port, "/v1/models", 200);
    assert_string_equal(str_at(d, "object"), "list");
    assert_int_equal(mlxd_json_count(at(d, "data")), 1);
    assert_string_equal(str_at(d, "data.0.id"), FIXTURE_MODEL);
    assert_string_equal(str_at(d, "data.0.object"), "model");
    assert_string_equal(str_at(d, "data.0.owned_by"), "mlx-distributed");
    assert_int_equal(int_at(d, "data.0.created"), 1700000000);
    assert_int_equal(int_at(d, "data.0.meta.context_length"), FIXTURE_CONTEXT);
    mlxd_json_close(d);
    d = get_json(f->port, "/v1/models/" FIXTURE_MODEL, 200);
    assert_string_equal(str_at(d, "id"), FIXTURE_MODEL);
    mlxd_json_close(d);
    d = get_json(f->port, "/v1/models/org/other", 404);
    assert_string_equal(str_at(d, "error.code"), "model_not_found");
    assert_non_null(strstr(str_at(d, "error.message"), FIXTURE_MODEL));
    mlxd_json_close(d);
    fixture_close(f);
}

static void test_devices(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = get_json(f->port, "/", 200);
    assert_string_equal(str_at(d, "role"), "coordinator");
    assert_string_equal(str_at(d, "status"), "ready");
    assert_non_null(at(d, "message"));
    mlxd_json_close(d);
    d = get_json(f->port, "/version", 200);
    assert_string_equal(str_at(d, "version"), "9.8.7");
    mlxd_json_close(d);
    d = get_json(f->port, "/device-info", 200);
    assert_string_equal(str_at(d, "device_id"), "mini1");
    assert_string_equal(str_at(d, "hostname"), "mini1.example");
    assert_int_equal(int_at(d, "port"), 8100);
    assert_int_equal(int_at(d, "grpc_port"), 9100);
    assert_int_equal(mlxd_json_count(at(d, "layers")), 5);
    assert_int_equal(int_at(d, "layers.4"), 4);
    assert_string_equal(str_at(d, "mlx_device"), "cpu");
    assert_false(bool_at(d, "metal_available"));
    assert_true(bool_at(d, "model_loaded"));
    assert_true(bool_at(d, "distributed_engine_ready"));
    assert_true(bool_at(d, "distributed_stats.is_coordinator"));
    mlxd_json_close(d);
    d = get_json(f->port, "/cluster-status", 200);
    assert_string_equal(str_at(d, "coordinator"), "mini1");
    assert_int_equal(mlxd_json_count(at(d, "devices")), 2);
    assert_string_equal(str_at(d, "devices.mini1.status"), "online");
    assert_true(double_at(d, "devices.mini1.last_seen") > 1.7e9);
    assert_string_equal(str_at(d, "devices.mini2.role"), "worker");
    assert_string_equal(str_at(d, "devices.mini2.status"), "connecting");
    assert_string_equal(str_at(d, "devices.mini2.reason"), "nobody is there");
    assert_int_equal(int_at(d, "devices.mini2.port"), 9101);
    assert_true(is_null_at(d, "devices.mini2.last_seen"));
    mlxd_json_close(d);
    fixture_close(f);
}

static void test_stats(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    for (int i = 0; i < 3; i++) {
        answer a = chat(f->port, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                                 "\"max_tokens\":4,\"ignore_eos\":true}");
        assert_int_equal(a.status, 200);
        answer_free(&a);
    }
    fixture_wait_idle(f);
    mlxd_json_doc *d = get_json(f->port, "/distributed-stats", 200);
    assert_int_equal(int_at(d, "total_requests"), 3);
    assert_int_equal(int_at(d, "successful_requests"), 3);
    assert_int_equal(int_at(d, "failed_requests"), 0);
    assert_int_equal(int_at(d, "total_tokens_generated"), 12);
    assert_true(double_at(d, "average_processing_time") > 0);
    assert_int_equal(int_at(d, "connected_devices"), 1);
    assert_string_equal(str_at(d, "device_id"), "mini1");
    assert_true(bool_at(d, "is_coordinator"));
    assert_int_equal(mlxd_json_count(at(d, "assigned_layers")), 5);
    assert_string_equal(str_at(d, "exactness"), "bitwise");
    mlxd_json_close(d);
    fixture_close(f);
}

static void test_register(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = post_json(f->port, "/register",
                                 "{\"device_id\":\"mini2\",\"hostname\":\"h\",\"port\":9101,"
                                 "\"layers\":[1,2]}",
                                 200);
    assert_string_equal(str_at(d, "status"), "registered");
    assert_string_equal(str_at(d, "device_id"), "mini2");
    mlxd_json_close(d);
    d = post_json(f->port, "/register", "{\"device_id\":\"evil\"}", 404);
    assert_string_equal(str_at(d, "error.param"), "device_id");
    mlxd_json_close(d);
    mlxd_json_close(post_json(f->port, "/register", "{\"device_id\":\"\"}", 404));
    mlxd_json_close(post_json(f->port, "/register", "{}", 400));
    mlxd_json_close(
        post_json(f->port, "/register", "{\"device_id\":\"mini2\",\"port\":\"x\"}", 400));
    fixture_close(f);
}

/* ---- text ---- */

static void test_tokenize(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    mlxd_json_doc *d = post_json(f->port, "/tokenize", "{\"content\":\"hello <|im_end|>\"}", 200);
    size_t plain = mlxd_json_count(at(d, "tokens"));
    assert_true(plain > 5); /* the control token's text is text */
    assert_int_equal(int_at(d, "count"), plain);
    mlxd_json_close(d);
    d = post_json(f->port, "/tokenize",
                  "{\"prompt\":\"hello <|im_end|>\",\"parse_special\":true,\"add_special\":true}",
                  200);
    size_t n = mlxd_json_count(at(d, "tokens"));
    assert_true(n < plain);
    char last[32];
    snprintf(last, sizeof last, "tokens.%zu", n - 1);
    assert_int_equal(int_at(d, "tokens.0"), mlxd_tokenizer_bos(f->host.tokenizer));
    assert_int_equal(int_at(d, last),
                     mlxd_tokenizer_find(f->host.tokenizer, mlxd_slice_str("<|im_end|>")));
    mlxd_json_close(d);
    d = post_json(f->port, "/tokenize", "{\"text\":\"a\\u00ff\",\"with_pieces\":true}", 200);
    assert_string_equal(str_at(d, "tokens.0.piece"), "a");
    assert_int_equal(int_at(d, "tokens.1.piece.0"), 0xc3); /* half a character */
    mlxd_json_close(d);
    mlxd_json_close(post_json(f->port, "/tokenize", "{}", 400));
    mlxd_json_close(post_json(f->port, "/tokenize", "{\"content\":7}", 400));
    mlxd_json_close(post_json(f->port, "/tokenize", "{\"text\":\"a\",\"add_special\":7}", 400));
    fixture_close(f);
}

/* Texts come back as they were. */
static void test_round_trip(void **state) {
    (void)state;
    static const char *const texts[] = {"hello world",      "caf\xc3\xa9 \xe4\xb8\x96\xe7\x95\x8c",
                                        "\xf0\x9f\x98\x80", "<|im_start|>user",
                                        " a\tb\n\n",        ""};
    fixture *f = fixture_open(NULL);
    for (size_t i = 0; i < MLXD_COUNT_OF(texts); i++)
        for (int special = 0; special < 2; special++) {
            mlxd_buf body;
            mlxd_jsonw w;
            mlxd_buf_init(&body, 0);
            mlxd_jsonw_init(&w, &body);
            mlxd_jsonw_object_begin(&w);
            mlxd_jsonw_member_str(&w, "content", texts[i]);
            mlxd_jsonw_member_bool(&w, "parse_special", special);
            mlxd_jsonw_object_end(&w);
            answer a = post(f->port, "/tokenize", mlxd_buf_str(&body));
            assert_int_equal(a.status, 200);
            mlxd_json_doc *d = post_json(f->port, "/detokenize", a.body, 200);
            assert_string_equal(str_at(d, "content"), texts[i]);
            mlxd_json_close(d);
            answer_free(&a);
            mlxd_buf_deinit(&body);
        }
    mlxd_json_close(post_json(f->port, "/detokenize", "{\"tokens\":[320]}", 400));
    mlxd_json_close(post_json(f->port, "/detokenize", "{\"tokens\":[-1]}", 400));
    mlxd_json_close(post_json(f->port, "/detokenize", "{\"tokens\":\"x\"}", 400));
    mlxd_json_close(post_json(f->port, "/detokenize", "{}", 400));
    fixture_close(f);
}

/* ---- keys ---- */

static mlxd_auth *open_keys(void) {
    char path[64];
    mlxd_auth *a = NULL;
    mlxd_why why = {0};
    snprintf(path, sizeof path, "/tmp/mlxd-test-keys-%ld", (long)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, "me:" KEY "\n", strlen("me:" KEY "\n")) > 0);
    close(fd);
    if (mlxd_auth_open(&a, path, NULL, &why))
        fail_msg("%s", why.text);
    unlink(path);
    return a;
}

/* Every route, and one that does not exist: without a key, with a wrong one, with a good one. */
static void test_keys(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool is_public;
        int status; /* of GET with a good key */
    } rows[] = {{"/", true, 200},
                {"/health", true, 200},
                {"/ready", true, 200},
                {"/version", false, 200},
                {"/metrics", false, 200},
                {"/device-info", false, 200},
                {"/distributed-stats", false, 200},
                {"/cluster-status", false, 200},
                {"/v1/models", false, 200},
                {"/v1/models/" FIXTURE_MODEL, false, 200},
                {"/register", false, 405},
                {"/v1/chat/completions", false, 405},
                {"/v1/completions", false, 405},
                {"/tokenize", false, 405},
                {"/detokenize", false, 405},
                {"/nothing", false, 404}};
    mlxd_auth *auth = open_keys();
    fixture *f = fixture_open(&(fixture_params){.auth = auth});
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        answer a = get(f->port, rows[i].path);
        assert_int_equal(a.status, rows[i].is_public ? 200 : 401);
        if (!rows[i].is_public)
            assert_string_equal(answer_header(&a, "WWW-Authenticate"), "Bearer");
        answer_free(&a);
        a = get_with(f->port, rows[i].path, "X-API-Key: wrong-key-0123456789\r\n");
        assert_int_equal(a.status, rows[i].is_public ? 200 : 403);
        if (!rows[i].is_public) {
            assert_non_null(strstr(a.body, "\"message\":\"Invalid API Key\""));
            assert_non_null(strstr(a.body, "\"type\":\"permission_error\""));
        }
        answer_free(&a);
        a = get_with(f->port, rows[i].path, BEARER);
        assert_int_equal(a.status, rows[i].status);
        answer_free(&a);
        a = get_with(f->port, rows[i].path, "X-API-Key: " KEY "\r\n");
        assert_int_equal(a.status, rows[i].status);
        answer_free(&a);
    }
    client c = client_open(f->port);
    say_post_with(&c, "/v1/chat/completions", BEARER,
                  "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2}");
    answer a = client_read(&c);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    client_close(&c);
    fixture_close(f);
    mlxd_auth_close(auth);
}

static void test_wrong_keys_are_limited(void **state) {
    (void)state;
    mlxd_auth *auth = open_keys();
    fixture *f = fixture_open(&(fixture_params){.auth = auth, .metrics_public = true});
    int limited = 0;
    for (int i = 0; i < MLXD_AUTH_WRONG_PER_MINUTE + 5; i++) {
        answer a = get_with(f->port, "/v1/models", "X-API-Key: wrong-key-0123456789\r\n");
        assert_true(a.status == 403 || a.status == 429);
        limited += a.status == 429;
        answer_free(&a);
    }
    assert_int_equal(limited, 5);
    answer a = get_with(f->port, "/v1/models", BEARER);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    a = get(f->port, "/metrics"); /* public here */
    assert_int_equal(a.status, 200);
    prom *p = prom_parse(a.body);
    assert_true(prom_get(p, "mlx_wrong_api_keys_total") == MLXD_AUTH_WRONG_PER_MINUTE + 5);
    free(p);
    answer_free(&a);
    fixture_close(f);
    mlxd_auth_close(auth);
}

/* Without a key the public pages name the model, but tell no reason, version or address. */
static void test_public_pages_are_bare(void **state) {
    (void)state;
    static const char *const paths[] = {"/", "/health", "/ready"};
    mlxd_auth *auth = open_keys();
    fixture *f = fixture_open(&(fixture_params){.auth = auth});
    fixture_set_pipeline(f, 2, false);
    for (size_t i = 0; i < MLXD_COUNT_OF(paths); i++) {
        answer a = get(f->port, paths[i]);
        assert_null(strstr(a.body, "9.8.7"));
        assert_null(strstr(a.body, "example"));
        assert_null(strstr(a.body, "have no device"));
        answer_free(&a);
    }
    answer a = get_with(f->port, "/ready", BEARER);
    assert_non_null(strstr(a.body, "have no device"));
    answer_free(&a);
    fixture_close(f);
    mlxd_auth_close(auth);
}

static void test_refuses_public_bind(void **state) {
    (void)state;
    static const char *const hosts[] = {"0.0.0.0", "::", "192.0.2.1", "127.0.0.1.example",
                                        "128.0.0.1"};
    fixture f = {.p = {.worker = true}};
    for (size_t i = 0; i < MLXD_COUNT_OF(hosts); i++) {
        f.p.bind_host = hosts[i];
        mlxd_api_params p = fixture_api_params(&f);
        mlxd_why why = {0};
        assert_int_equal(mlxd_api_open(&f.api, &p, &why), MLXD_ERR_PERM);
        assert_non_null(strstr(why.text, hosts[i]));
        assert_non_null(strstr(why.text, "--api-key-file"));
    }
    mlxd_auth *auth = open_keys();
    fixture *g =
        fixture_open(&(fixture_params){.worker = true, .bind_host = "0.0.0.0", .auth = auth});
    answer a = get(g->port, "/health");
    assert_int_equal(a.status, 200);
    answer_free(&a);
    fixture_close(g);
    mlxd_auth_close(auth);
    g = fixture_open(&(fixture_params){.worker = true, .bind_host = "localhost"});
    fixture_close(g);
}

/* ---- metrics ---- */

static prom *scrape(uint16_t port) {
    answer a = get(port, "/metrics");
    assert_int_equal(a.status, 200);
    assert_string_equal(answer_header(&a, "Content-Type"),
                        "text/plain; version=0.0.4; charset=utf-8");
    prom *p = prom_parse(a.body);
    answer_free(&a);
    return p;
}

static void test_metrics(void **state) {
    (void)state;
    fixture *f = fixture_open(NULL);
    answer a = chat(f->port, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"wibble\":1,"
                             "\"max_tokens\":9,\"ignore_eos\":true,\"a\":{},\"stream\":true}");
    assert_int_equal(a.status, 200);
    answer_free(&a);
    a = chat(f->port, "{}");
    assert_int_equal(a.status, 400);
    answer_free(&a);
    fixture_wait_idle(f);
    prom *p = scrape(f->port);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/v1/chat/completions\",code=\"200\"}") ==
                1);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/v1/chat/completions\",code=\"400\"}") ==
                1);
    assert_true(prom_get(p, "mlx_generated_tokens_total") == 9);
    assert_true(prom_get(p, "mlx_prompt_tokens_total") > 10);
    assert_true(prom_get(p, "mlx_finished_total{reason=\"length\"}") == 1);
    assert_true(prom_get(p, "mlx_ignored_fields_total") == 2);
    assert_true(prom_get(p, "mlx_inter_token_latency_seconds_count") == 7);
    assert_true(prom_get(p, "mlx_time_to_first_token_seconds_count") == 1);
    assert_true(prom_get(p, "mlx_request_output_tokens_sum") == 9);
    assert_true(prom_get(p, "mlx_stage_compute_seconds_total{stage=\"0\",device=\"mini1\"}") > 0);
    assert_true(prom_get(p, "mlx_compute_busy_seconds_total{device=\"mini1\"}") > 0);
    assert_true(prom_get(p, "mlx_inference_latency_ms{device=\"mini1\"}") > 0);
    assert_true(prom_get(p, "mlx_memory_usage_mb{device=\"mini1\"}") > 1);
    assert_true(prom_get(p, "mlx_ready") == 1);
    assert_true(prom_get(p, "mlx_worker_up{device=\"mini2\"}") == 0);
    assert_true(prom_get(p, "process_cpu_seconds_total") > 0);
    free(p);
    /* The utilisation needs two samples, a second apart. */
    for (int i = 0; i < 40; i++) {
        p = scrape(f->port);
        bool there = prom_has(p, "mlx_gpu_utilization{device=\"mini1\"}");
        double v = there ? prom_get(p, "mlx_gpu_utilization{device=\"mini1\"}") : -1;
        free(p);
        if (there) {
            assert_true(v >= 0 && v <= 100);
            break;
        }
        assert_true(i < 39);
        pause_us(100000);
    }
    fixture_close(f);
}

/* ---- worker ---- */

static void test_worker(void **state) {
    (void)state;
    static const char *const absent[] = {"/v1/models", "/v1/chat/completions", "/tokenize"};
    fixture *f = fixture_open(&(fixture_params){.worker = true});
    mlxd_json_doc *d = get_json(f->port, "/", 200);
    assert_string_equal(str_at(d, "role"), "worker");
    mlxd_json_close(d);
    mlxd_json_close(get_json(f->port, "/health", 200));
    mlxd_json_close(get_json(f->port, "/ready", 200));
    d = get_json(f->port, "/device-info", 200);
    assert_string_equal(str_at(d, "role"), "worker");
    mlxd_json_close(d);
    d = get_json(f->port, "/distributed-stats", 200);
    assert_false(bool_at(d, "is_coordinator"));
    mlxd_json_close(d);
    d = get_json(f->port, "/cluster-status", 200);
    assert_string_equal(str_at(d, "device"), "mini1");
    assert_string_equal(str_at(d, "status"), "online");
    assert_null(at(d, "devices"));
    mlxd_json_close(d);
    d = post_json(f->port, "/register", "{\"device_id\":\"mini2\"}", 403);
    assert_string_equal(str_at(d, "error.code"), "not_coordinator");
    mlxd_json_close(d);
    for (size_t i = 0; i < MLXD_COUNT_OF(absent); i++)
        mlxd_json_close(get_json(f->port, absent[i], 404));
    prom *p = scrape(f->port);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/health\",code=\"200\"}") == 1);
    assert_true(prom_get(p, "mlx_memory_usage_mb{device=\"mini1\"}") > 1);
    free(p);
    fixture_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_wrong_keys_are_limited),
        cmocka_unit_test(test_public_pages_are_bare),
        cmocka_unit_test(test_refuses_public_bind),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
