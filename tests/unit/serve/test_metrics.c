/* test_metrics.c - the numbers of /metrics and their text: that what was counted is what is shown,
 * and that nothing is shown that is not known.
 */
#include "../../support/prometheus.h"

#include "serve/metrics.h"

static const mlxd_http_route routes[] = {{MLXD_HTTP_GET, "/health", 0, NULL},
                                         {MLXD_HTTP_POST, "/v1/chat/completions", 0, NULL}};

static prom *scrape(mlxd_metrics *m, const mlxd_node_view *v) {
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    mlxd_metrics_scrape s = {.view = v,
                             .now_ns = 100 * 1000000000ull,
                             .wall_ns = 1700000100 * 1000000000ull,
                             .busy_ns = 2500000000ull,
                             .wrong_keys = 3,
                             .work_max = 256,
                             .version = "1.2.3",
                             .commit = "x\"y\\z"};
    mlxd_metrics_write(m, &s, &out);
    prom *p = prom_parse(mlxd_buf_str(&out));
    mlxd_buf_deinit(&out);
    return p;
}

static mlxd_node_view *view_of(bool coordinator) {
    mlxd_node_view *v = calloc(1, sizeof *v);
    assert_non_null(v);
    *v = (mlxd_node_view){.device = "mini1",
                          .coordinator = coordinator,
                          .model = "m",
                          .layers = 10,
                          .context = 64,
                          .isa = "scalar",
                          .ready = true,
                          .started_ns = 40 * 1000000000ull,
                          .n_devices = 3};
    v->devices[0] = (mlxd_device_view){.device = "mini1", .coordinator = coordinator, .end = 4};
    v->devices[1] = (mlxd_device_view){.device = "late",
                                       .first = 7,
                                       .end = 10,
                                       .status = MLXD_DEVICE_ONLINE,
                                       .last_seen_ns = 99500000000ull,
                                       .rtt_ns = 250000,
                                       .kv_pages_max = 8,
                                       .kv_pages_used = 3,
                                       .reconnects = 2};
    v->devices[2] = (mlxd_device_view){.device = "middle", .first = 4, .end = 7};
    return v;
}

static void test_empty(void **state) {
    (void)state;
    mlxd_metrics *m = mlxd_metrics_open(routes, 2);
    mlxd_node_view *v = view_of(true);
    prom *p = scrape(m, v);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/v1/chat/completions\",code=\"200\"}") ==
                0);
    assert_true(prom_get(p, "mlx_finished_total{reason=\"stop\"}") == 0);
    assert_true(prom_get(p, "mlx_time_to_first_token_seconds_count") == 0);
    assert_true(prom_get(p, "mlx_build_info{version=\"1.2.3\",commit=\"x\\\"y\\\\z\",isa=\"scalar"
                            "\"}") == 1);
    assert_true(prom_get(p, "process_start_time_seconds") == 1700000040);
    assert_true(prom_get(p, "mlx_wrong_api_keys_total") == 3);
    assert_true(prom_get(p, "mlx_memory_usage_mb{device=\"mini1\"}") > 0);
    /* Not known: no sample. */
    assert_false(prom_has(p, "mlx_gpu_utilization{device=\"mini1\"}"));
    assert_false(prom_has(p, "mlx_inference_latency_ms{device=\"mini1\"}"));
    assert_false(prom_has(p, "mlx_kv_cache_used_ratio"));
    free(p);
    free(v);
    mlxd_metrics_close(m);
}

static void test_devices_and_stages(void **state) {
    (void)state;
    mlxd_metrics *m = mlxd_metrics_open(routes, 2);
    mlxd_node_view *v = view_of(true);
    v->engine = (mlxd_engine_stats){.succeeded = 4,
                                    .duration_ns = 2000000000,
                                    .kv_pages_reserved = 1,
                                    .kv_pages_max = 4,
                                    .stages = 3,
                                    .running = 2,
                                    .waiting = 5};
    v->engine.stage[1].compute_ns = 1500000000;
    v->engine.stage[1].total_ns = 1750000000;
    prom *p = scrape(m, v);
    assert_true(prom_get(p, "mlx_inference_latency_ms{device=\"mini1\"}") == 500);
    assert_true(prom_get(p, "mlx_kv_cache_used_ratio") == 0.25);
    assert_true(prom_get(p, "mlx_requests_running") == 2);
    assert_true(prom_get(p, "mlx_queue_depth") == 5);
    assert_true(prom_get(p, "mlx_stage_compute_seconds_total{stage=\"1\",device=\"middle\"}") ==
                1.5);
    assert_true(prom_get(p, "mlx_stage_hop_seconds_total{stage=\"1\",device=\"middle\"}") == 0.25);
    assert_true(prom_has(p, "mlx_stage_compute_seconds_total{stage=\"2\",device=\"late\"}"));
    assert_true(prom_get(p, "mlx_worker_up{device=\"late\"}") == 1);
    assert_true(prom_get(p, "mlx_worker_up{device=\"middle\"}") == 0);
    assert_false(prom_has(p, "mlx_worker_up{device=\"mini1\"}"));
    assert_true(prom_get(p, "mlx_worker_heartbeat_age_seconds{device=\"late\"}") == 0.5);
    assert_false(prom_has(p, "mlx_worker_heartbeat_age_seconds{device=\"middle\"}"));
    assert_true(prom_get(p, "mlx_worker_rtt_seconds{device=\"late\"}") == 0.00025);
    assert_true(prom_get(p, "mlx_worker_reconnects_total{device=\"late\"}") == 2);
    assert_true(prom_get(p, "mlx_shard_layers{device=\"mini1\"}") == 4);
    assert_true(prom_get(p, "mlx_kv_cache_pages_used{device=\"late\"}") == 3);
    free(p);
    free(v);
    mlxd_metrics_close(m);
}

static void test_http(void **state) {
    (void)state;
    mlxd_metrics *m = mlxd_metrics_open(routes, 2);
    mlxd_node_view *v = view_of(false);
    mlxd_http_done done = {.route = "/health", .status = 200, .duration_ns = 2000000};
    for (int i = 0; i < 3; i++)
        mlxd_metrics_add_http(m, &done);
    done = (mlxd_http_done){.route = "/health", .status = 200, .gone = true};
    mlxd_metrics_add_http(m, &done);
    done = (mlxd_http_done){.status = 401, .duration_ns = 400 * 1000000000ull};
    mlxd_metrics_add_http(m, &done);
    done = (mlxd_http_done){.route = "/v1/chat/completions", .status = 418};
    mlxd_metrics_add_http(m, &done);
    prom *p = scrape(m, v);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/health\",code=\"200\"}") == 3);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/health\",code=\"499\"}") == 1);
    assert_true(prom_get(p, "mlx_requests_total{route=\"other\",code=\"401\"}") == 1);
    assert_true(prom_get(p, "mlx_requests_total{route=\"/v1/chat/completions\",code=\"other\"}") ==
                1);
    assert_true(prom_get(p, "mlx_request_duration_seconds_bucket{le=\"0.001\"}") == 2);
    assert_true(prom_get(p, "mlx_request_duration_seconds_bucket{le=\"0.0025\"}") == 5);
    assert_true(prom_get(p, "mlx_request_duration_seconds_bucket{le=\"300\"}") == 5);
    assert_true(prom_get(p, "mlx_request_duration_seconds_bucket{le=\"+Inf\"}") == 6);
    /* A worker has no engine to tell about. */
    assert_false(prom_has(p, "mlx_queue_depth"));
    assert_false(prom_has(p, "mlx_time_to_first_token_seconds_count"));
    free(p);
    free(v);
    mlxd_metrics_close(m);
}

static void test_utilization(void **state) {
    (void)state;
    mlxd_metrics *m = mlxd_metrics_open(routes, 2);
    mlxd_node_view *v = view_of(true);
    for (uint64_t s = 0; s <= 100; s++) /* busy for half of the time, later for a quarter */
        mlxd_metrics_sample(m, s * 1000000000ull,
                            s <= 50 ? s * 500000000ull : 50 * 500000000ull + (s - 50) * 250000000);
    prom *p = scrape(m, v);
    assert_true(prom_get(p, "mlx_gpu_utilization{device=\"mini1\"}") == 25);
    assert_true(prom_get(p, "mlx_compute_busy_seconds_total{device=\"mini1\"}") == 2.5);
    free(p);
    free(v);
    mlxd_metrics_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_devices_and_stages),
        cmocka_unit_test(test_http),
        cmocka_unit_test(test_utilization),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
