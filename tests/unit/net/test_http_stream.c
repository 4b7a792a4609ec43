/* test_http_stream.c - replies that come later, event streams, and clients that leave.
 *
 * The handler only puts the request into a queue; the test's own thread takes it out and plays the
 * engine. So every reply here is made on another thread than the server's.
 */
#include "net/http.h"

#include "base/clock.h"
#include "base/thread.h"

#include <errno.h>
#include <stdatomic.h>

#include "http_client.h"

#define GET_KEEP "GET /keep HTTP/1.1\r\nHost: localhost\r\n\r\n"
#define STREAM_MAX (256u << 10)

static mlxd_http *server;
static uint16_t port;
static mlxd_queue *requests; /* of mlxd_http_req * */
static atomic_int gone_calls;
static atomic_uint_fast64_t gone_ns; /* when the last came */

static void note_gone(void *ctx) {
    assert_ptr_equal(ctx, &gone_calls);
    atomic_store(&gone_ns, mlxd_clock_now_ns());
    atomic_fetch_add(&gone_calls, 1);
}

static void keep(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    (void)mlxd_http_on_gone(req, note_gone, &gone_calls);
    assert_int_equal(mlxd_queue_push(requests, &req), MLXD_OK);
}

static void at_once(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    assert_int_equal(mlxd_http_stream_begin(req, 200, "text/event-stream", NULL), MLXD_OK);
    assert_int_equal(mlxd_http_stream_write(req, "data: 1\n\n", 9), MLXD_OK);
    mlxd_http_stream_end(req);
}

static void drop(void *ctx, mlxd_http_req *req) {
    (void)ctx;
    mlxd_http_stream_abort(req);
}

static const mlxd_http_route ROUTES[] = {
    {MLXD_HTTP_GET, "/keep", 0, keep},
    {MLXD_HTTP_GET, "/at-once", 0, at_once},
    {MLXD_HTTP_GET, "/drop", 0, drop},
};

static int open_server(void **state) {
    (void)state;
    mlxd_http_config config = {
        .routes = ROUTES,
        .routes_len = MLXD_COUNT_OF(ROUTES),
        .stream_bytes_max = STREAM_MAX,
        .idle_deadline_ms = 1000,
        .header_deadline_ms = 1000,
    };
    mlxd_why why;
    mlxd_err err = mlxd_http_start(&server, &config, &why);
    if (err)
        fail_msg("%s", why.text);
    port = mlxd_http_port(server);
    requests = mlxd_queue_open(sizeof(mlxd_http_req *), 1024);
    assert_non_null(requests);
    atomic_store(&gone_calls, 0);
    return 0;
}

static int close_server(void **state) {
    (void)state;
    mlxd_http_stop(server);
    server = NULL;
    mlxd_queue_close(requests);
    return 0;
}

/* The next request that a handler has kept. */
static mlxd_http_req *take(void) {
    mlxd_http_req *req = NULL;
    uint64_t deadline = mlxd_clock_now_ns() + 10 * MLXD_NS_PER_S;
    assert_int_equal(mlxd_queue_pop(requests, &req, deadline), MLXD_OK);
    return req;
}

static mlxd_http_req *take_stream(void) {
    mlxd_http_req *req = take();
    assert_int_equal(mlxd_http_stream_begin(req, 200, "text/event-stream", NULL), MLXD_OK);
    return req;
}

static void wait_gone(int calls) {
    uint64_t deadline = mlxd_clock_now_ns() + 5 * MLXD_NS_PER_S;
    while (atomic_load(&gone_calls) < calls) {
        assert_true(mlxd_clock_now_ns() < deadline);
        pause_us(100);
    }
    assert_int_equal(atomic_load(&gone_calls), calls);
}

static mlxd_err reply(mlxd_http_req *req, const char *text) {
    return mlxd_http_reply(req, 200, "text/plain", mlxd_slice_str(text), NULL);
}

/* ---- replies ---- */

static void test_later(void **state) {
    (void)state;
    client c = client_open(port);
    for (int i = 0; i < 3; i++) {
        assert_true(client_say(&c, GET_KEEP));
        mlxd_http_req *req = take();
        pause_us(i == 1 ? 0 : 30000);
        assert_false(mlxd_http_gone(req));
        assert_int_equal(reply(req, "later"), MLXD_OK);
        answer a = client_read(&c);
        assert_int_equal(a.status, 200);
        assert_string_equal(a.body, "later");
        answer_free(&a);
    }
    client_close(&c);
    assert_int_equal(atomic_load(&gone_calls), 0);
}

/* The limit for idle connections is 1 s here; a request that waits is not idle. */
static void test_long_wait(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take();
    pause_us(2500000);
    assert_int_equal(mlxd_http_stream_begin(req, 200, "text/event-stream", NULL), MLXD_OK);
    pause_us(2500000);
    assert_int_equal(mlxd_http_stream_write(req, "x", 1), MLXD_OK);
    mlxd_http_stream_end(req);
    answer a = client_read(&c);
    assert_string_equal(a.body, "x");
    assert_true(a.complete);
    answer_free(&a);
    client_close(&c);
}

static void test_pipelined_behind(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP GET_KEEP));
    assert_int_equal(reply(take(), "first"), MLXD_OK);
    assert_int_equal(reply(take(), "second"), MLXD_OK);
    answer a = client_read(&c);
    assert_string_equal(a.body, "first");
    answer_free(&a);
    a = client_read(&c);
    assert_string_equal(a.body, "second");
    answer_free(&a);
    client_close(&c);
}

/* ---- streams ---- */

#define PIECES 1000

static size_t piece(int i, char out[256]) {
    return (size_t)snprintf(out, 256, "data: {\"i\":%d,\"pad\":\"%.*s\"}\n\n", i, i * 37 % 97,
                            "................................................................"
                            "................................");
}

static void produce(void *arg) {
    mlxd_http_req *req = arg;
    for (int i = 0; i < PIECES; i++) {
        char text[256];
        assert_int_equal(mlxd_http_stream_write(req, text, piece(i, text)), MLXD_OK);
        if (i % 100 == 0)
            pause_us(1000); /* lets the stream run dry now and then */
    }
    mlxd_http_stream_end(req);
}

static void check_pieces(const char *body) {
    for (int i = 0; i < PIECES; i++) {
        char want[256];
        size_t n = piece(i, want);
        assert_int_equal(strncmp(body, want, n), 0);
        body += n;
    }
    assert_string_equal(body, "");
}

static void test_stream(void **state) {
    (void)state;
    client c = client_open(port);
    for (int round = 0; round < 3; round++) { /* the connection is kept alive */
        assert_true(client_say(&c, GET_KEEP));
        mlxd_thread t;
        assert_int_equal(
            mlxd_thread_start(&t, "produce", MLXD_PRIORITY_NORMAL, produce, take_stream()), 0);
        answer a = client_read(&c);
        mlxd_thread_join(&t);
        assert_int_equal(a.status, 200);
        assert_true(a.chunked && a.complete);
        assert_string_equal(answer_header(&a, "Content-Type"), "text/event-stream");
        assert_string_equal(answer_header(&a, "Cache-Control"), "no-cache");
        assert_string_equal(answer_header(&a, "X-Accel-Buffering"), "no");
        assert_non_null(answer_header(&a, "x-request-id"));
        check_pieces(a.body);
        answer_free(&a);
    }
    client_close(&c);
}

static void test_stream_http10(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, "GET /keep HTTP/1.0\r\n\r\n"));
    mlxd_thread t;
    assert_int_equal(mlxd_thread_start(&t, "produce", MLXD_PRIORITY_NORMAL, produce, take_stream()),
                     0);
    answer a = client_read(&c);
    mlxd_thread_join(&t);
    assert_false(a.chunked);
    check_pieces(a.body);
    answer_free(&a);
    client_close(&c);
}

static void test_stream_in_handler(void **state) {
    (void)state;
    answer a = ask(port, "GET /at-once HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(a.complete);
    assert_string_equal(a.body, "data: 1\n\n");
    answer_free(&a);
    a = ask(port, "GET /drop HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_int_equal(a.status, 0);
    answer_free(&a);
}

/* Each piece reaches the client before the next one is written: nothing waits for more. */
static void test_flush(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take_stream();
    size_t at = 0;
    assert_true(client_until(&c, "\r\n\r\n", &at));
    client_consume(&c, at + 4);
    uint64_t t0 = mlxd_clock_now_ns();
    for (int i = 0; i < 500; i++) {
        char text[32];
        int n = snprintf(text, sizeof text, "piece %d!", i);
        assert_int_equal(mlxd_http_stream_write(req, text, (size_t)n), MLXD_OK);
        assert_true(client_until(&c, text, &at));
        client_consume(&c, at + (size_t)n);
    }
    double us = (double)(mlxd_clock_now_ns() - t0) / 500e3;
    assert_int_equal(mlxd_http_stream_pending(req), 0);
    t0 = mlxd_clock_now_ns();
    mlxd_http_stream_end(req);
    assert_true(client_until(&c, "0\r\n\r\n", &at));
    print_message("write to received: %.0f us; end to terminating chunk: %.0f us\n", us,
                  (double)(mlxd_clock_now_ns() - t0) / 1e3);
    client_close(&c);
}

static void test_abort(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take_stream();
    assert_int_equal(mlxd_http_stream_write(req, "abc", 3), MLXD_OK);
    size_t at = 0;
    assert_true(client_until(&c, "abc", &at));
    mlxd_http_stream_abort(req);
    while (client_more(&c)) {
    }
    assert_null(strstr(c.buf, "0\r\n\r\n")); /* cut, not ended */
    client_close(&c);
    assert_int_equal(atomic_load(&gone_calls), 0);
}

static void test_many_streams(void **state) {
    (void)state;
    enum { STREAMS = 200, ROUNDS = 50 };
    static client clients[STREAMS];
    static mlxd_http_req *reqs[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        char text[128];
        clients[i] = client_open(port);
        snprintf(text, sizeof text, "GET /keep?%d HTTP/1.1\r\nHost: localhost\r\n\r\n", i);
        assert_true(client_say(&clients[i], text));
    }
    for (int i = 0; i < STREAMS; i++) {
        mlxd_http_req *req = take_stream();
        reqs[atoi(mlxd_http_query(req))] = req;
    }
    mlxd_http_stats stats;
    mlxd_http_stats_get(server, &stats);
    assert_int_equal(stats.requests_live, STREAMS);
    assert_int_equal(stats.connections_open, STREAMS);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < STREAMS; i++) {
            char text[32];
            int n = snprintf(text, sizeof text, "%d/%d ", i, round);
            assert_int_equal(mlxd_http_stream_write(reqs[i], text, (size_t)n), MLXD_OK);
        }
    for (int i = 0; i < STREAMS; i++)
        mlxd_http_stream_end(reqs[i]);
    for (int i = 0; i < STREAMS; i++) {
        char want[ROUNDS * 32];
        int n = 0;
        for (int round = 0; round < ROUNDS; round++)
            n += snprintf(want + n, sizeof want - (size_t)n, "%d/%d ", i, round);
        answer a = client_read(&clients[i]);
        assert_true(a.complete);
        assert_string_equal(a.body, want);
        answer_free(&a);
        client_close(&clients[i]);
    }
    assert_int_equal(atomic_load(&gone_calls), 0);
}

/* ---- clients that leave ---- */

typedef enum moment { BEFORE_REPLY, SILENT_STREAM, MID_STREAM, HALF_CLOSE, RESET, MOMENTS } moment;

static void leave(client *c, moment when) {
    struct linger now = {.l_onoff = 1};
    if (when == RESET)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    if (when == HALF_CLOSE)
        shutdown(c->fd, SHUT_WR);
    else
        client_close(c);
}

static void test_gone(void **state) {
    (void)state;
    static const char *const names[] = {"before reply", "silent stream", "mid stream", "half close",
                                        "reset"};
    for (int when = 0; when < MOMENTS; when++) {
        client c = client_open(port);
        assert_true(client_say(&c, GET_KEEP));
        mlxd_http_req *req = take();
        size_t at = 0;
        if (when != BEFORE_REPLY) {
            assert_int_equal(mlxd_http_stream_begin(req, 200, "text/event-stream", NULL), 0);
            assert_true(client_until(&c, "\r\n\r\n", &at));
        }
        for (int i = 0; when == MID_STREAM && i < 100; i++)
            assert_int_equal(mlxd_http_stream_write(req, "0123456789", 10), MLXD_OK);
        pause_us(20000); /* now all is silent */
        uint64_t t0 = mlxd_clock_now_ns();
        leave(&c, (moment)when);
        wait_gone(when + 1);
        print_message("on_gone, %s: %.2f ms\n", names[when],
                      (double)(atomic_load(&gone_ns) - t0) / 1e6);
        assert_true(mlxd_http_gone(req));
        assert_false(mlxd_http_on_gone(req, note_gone, &gone_calls));
        if (when == BEFORE_REPLY) {
            assert_int_equal(reply(req, "nobody"), MLXD_ERR_CANCELLED);
            continue;
        }
        assert_int_equal(mlxd_http_stream_write(req, "x", 1), MLXD_ERR_CANCELLED);
        if (when == MID_STREAM)
            mlxd_http_stream_end(req);
        else
            mlxd_http_stream_abort(req);
        if (c.fd >= 0)
            client_close(&c);
    }
    uint64_t deadline = mlxd_clock_now_ns() + 5 * MLXD_NS_PER_S;
    mlxd_http_stats stats;
    do { /* the connections are given back, too */
        pause_us(1000);
        mlxd_http_stats_get(server, &stats);
    } while (stats.connections_open > 0 && mlxd_clock_now_ns() < deadline);
    assert_int_equal(stats.connections_open, 0);
    assert_int_equal(stats.requests_live, 0);
    assert_int_equal(stats.gone, MOMENTS);
}

/* A client that leaves while the server writes to it all the time. */
static void test_gone_busy(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take_stream();
    uint64_t t0 = 0;
    mlxd_err err = MLXD_OK;
    for (int i = 0; err == MLXD_OK; i++) {
        assert_true(i < 100000);
        if (i == 20) {
            t0 = mlxd_clock_now_ns();
            client_close(&c);
        }
        err = mlxd_http_stream_write(req, "data: token\n\n", 13);
        pause_us(100);
    }
    assert_int_equal(err, MLXD_ERR_CANCELLED);
    wait_gone(1);
    print_message("on_gone, busy stream: %.2f ms\n", (double)(atomic_load(&gone_ns) - t0) / 1e6);
    mlxd_http_stream_end(req);
}

static void test_slow_reader(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take_stream();
    static char block[10000];
    memset(block, 'x', sizeof block);
    mlxd_err err = MLXD_OK;
    size_t sent = 0;
    while ((err = mlxd_http_stream_write(req, block, sizeof block)) == MLXD_OK) {
        sent += sizeof block;
        assert_true(sent < (256u << 20));
        if (sent % 100000 == 0)
            pause_us(1000);
    }
    assert_int_equal(err, MLXD_ERR_FULL);
    size_t pending = mlxd_http_stream_pending(req);
    assert_true(pending <= STREAM_MAX && pending > STREAM_MAX - sizeof block);
    assert_false(mlxd_http_gone(req)); /* slow is not gone */
    mlxd_http_stream_end(req);         /* what was taken still arrives, all of it */
    answer a = client_read(&c);
    assert_true(a.complete);
    assert_int_equal(a.body_len, sent);
    answer_free(&a);
    client_close(&c);
}

static void test_head_stream(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, "HEAD /keep HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    mlxd_http_req *req = take_stream();
    answer a = client_read_opt(&c, true);
    assert_int_equal(a.status, 200);
    answer_free(&a);
    wait_gone(1); /* nobody wants the body */
    assert_int_equal(mlxd_http_stream_write(req, "x", 1), MLXD_ERR_CANCELLED);
    mlxd_http_stream_end(req);
    assert_false(client_more(&c)); /* nothing behind the headers */
    client_close(&c);
}

static void abort_from_gone(void *ctx) {
    mlxd_http_stream_abort(ctx);
    atomic_fetch_add(&gone_calls, 1);
}

static void test_finish_in_gone(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_http_req *req = take_stream();
    assert_true(mlxd_http_on_gone(req, abort_from_gone, req));
    client_close(&c);
    wait_gone(1);
}

/* The client leaves at the very moment at which the owner finishes. Once the finishing call has
 * returned, on_gone neither runs nor comes: the owner may free what its ctx points to. */
typedef struct race {
    atomic_bool told;
    atomic_bool finished;
    atomic_bool wrong;
} race;

static void slow_on_gone(void *ctx) {
    race *r = ctx;
    atomic_store(&r->told, true);
    pause_us(300);
    if (atomic_load(&r->finished))
        atomic_store(&r->wrong, true);
}

static void leave_soon(void *arg) {
    client_close(arg);
}

static void test_finish_races_gone(void **state) {
    (void)state;
    enum { RACES = 300 };
    static race races[RACES];
    int told = 0;
    for (int i = 0; i < RACES; i++) {
        race *r = &races[i];
        client c = client_open(port);
        assert_true(client_say(&c, GET_KEEP));
        mlxd_http_req *req = i % 2 ? take_stream() : take();
        assert_true(mlxd_http_on_gone(req, slow_on_gone, r));
        mlxd_thread t;
        assert_int_equal(mlxd_thread_start(&t, "leave", MLXD_PRIORITY_NORMAL, leave_soon, &c), 0);
        pause_us(i * 7 % 200);
        if (i % 2)
            mlxd_http_stream_end(req);
        else
            (void)reply(req, "x");
        atomic_store(&r->finished, true);
        told += atomic_load(&r->told);
        mlxd_thread_join(&t);
    }
    pause_us(10000);
    int told_at_last = 0;
    for (int i = 0; i < RACES; i++) {
        assert_false(atomic_load(&races[i].wrong));
        told_at_last += atomic_load(&races[i].told);
    }
    assert_int_equal(told_at_last, told);
    print_message("the client left first in %d of %d\n", told, RACES);
}

/* ---- stop ---- */

static void test_stop_with_live(void **state) {
    (void)state;
    enum { CLIENTS = 40 };
    client clients[CLIENTS];
    mlxd_http_req *reqs[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(port);
        assert_true(client_say(&clients[i], GET_KEEP));
        reqs[i] = i % 2 ? take_stream() : take();
    }
    assert_false(mlxd_http_drain(server, 50));
    mlxd_http_stop(server);
    server = NULL;
    assert_int_equal(atomic_load(&gone_calls), CLIENTS);
    for (int i = 0; i < CLIENTS; i++) { /* late calls are harmless */
        assert_string_equal(mlxd_http_path(reqs[i]), "/keep");
        if (i % 2) {
            assert_int_equal(mlxd_http_stream_write(reqs[i], "x", 1), MLXD_ERR_CANCELLED);
            mlxd_http_stream_end(reqs[i]);
        } else {
            assert_int_equal(reply(reqs[i], "x"), MLXD_ERR_CANCELLED);
        }
        while (client_more(&clients[i])) {
        }
        client_close(&clients[i]);
    }
    assert_int_equal(atomic_load(&gone_calls), CLIENTS);
}

static void finish_later(void *arg) {
    pause_us(100000);
    assert_int_equal(reply(arg, "done"), MLXD_OK);
}

static void test_drain_waits(void **state) {
    (void)state;
    client c = client_open(port);
    assert_true(client_say(&c, GET_KEEP));
    mlxd_thread t;
    assert_int_equal(mlxd_thread_start(&t, "finish", MLXD_PRIORITY_NORMAL, finish_later, take()),
                     0);
    assert_true(mlxd_http_drain(server, 10000));
    answer a = client_read(&c);
    assert_string_equal(a.body, "done");
    answer_free(&a);
    mlxd_thread_join(&t);
    client_close(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_later, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_long_wait, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_pipelined_behind, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_stream, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_stream_http10, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_stream_in_handler, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_flush, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_abort, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_many_streams, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_gone, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_gone_busy, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_slow_reader, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_head_stream, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_finish_in_gone, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_finish_races_gone, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_stop_with_live, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_drain_waits, open_server, close_server),
    };
    return cmocka_run_group_tests_name("http_stream", tests, NULL, NULL);
}
