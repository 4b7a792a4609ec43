/* test_transport.c - calls and streams over mTLS on loopback: contents, order, back-pressure, late
 * answers, cancellation, lost servers, limits, shutdown with work in flight. Refusals of peers are
 * in test_transport_peers.c. */
#include "rpc_fixture.h"

/* ---- unary ---- */

static void unary_echo(void **state) {
    static const size_t sizes[] = {0, 1, 23, 4096, 65537, 1u << 20, 8u << 20};
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    uint8_t *bytes = mlxd_mem_new(8u << 20, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8u << 20; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < MLXD_COUNT_OF(sizes); i++) {
        answer a;
        ask(channel, "/t.T/Echo", (mlxd_slice){bytes, sizes[i]}, 10, &a);
        assert_true(wait_for(&a.done, 1));
        assert_string_equal(a.status.why.text, "");
        assert_int_equal(a.status.err, MLXD_OK);
        assert_true(mlxd_slice_eq(mlxd_rpc_msg_bytes(a.reply), (mlxd_slice){bytes, sizes[i]}));
        mlxd_rpc_msg_free(a.reply);
    }
    mlxd_mem_free(bytes);
    assert_int_equal(seen.peer.role, MLXD_ROLE_COORDINATOR);
    assert_string_equal(seen.peer.device, "mini1");
    assert_string_equal(seen.peer.cluster, "home");
    assert_string_equal(seen.request_id, "req-7");
    assert_true(seen.deadline_ns > mlxd_clock_now_ns() && seen.deadline_ns < SECONDS(11));
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void count_release(void *ctx) {
    count(ctx);
}

/* Copied and lent parts together; every lent one is released exactly once, before close returns. */
static void parts_are_joined_and_released(void **state) {
    static unsigned released;
    answer a = {0};
    mlxd_why why;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    mlxd_rpc_part parts[4] = {{mlxd_slice_str("one "), NULL, NULL},
                              {mlxd_slice_str("two "), count_release, &released},
                              {mlxd_slice_str(""), count_release, &released},
                              {mlxd_slice_str("three"), count_release, &released}};
    mlxd_rpc_request r = {.path = "/t.T/Echo",
                          .deadline_ns = SECONDS(10),
                          .parts = parts,
                          .n = 4,
                          .on_reply = on_answer,
                          .user = &a};
    assert_int_equal(mlxd_rpc_channel_call(channel, &r, &why), 0);
    assert_true(wait_for(&a.done, 1));
    assert_non_null(a.reply);
    assert_true(mlxd_slice_eq(mlxd_rpc_msg_bytes(a.reply), mlxd_slice_str("one two three")));
    mlxd_rpc_msg_free(a.reply);
    r.path = "no slash"; /* refused: nothing is taken */
    assert_int_equal(mlxd_rpc_channel_call(channel, &r, &why), MLXD_ERR_INVALID);
    r.path = "/t.T/Echo";
    r.request_id = "line\nbreak";
    assert_int_equal(mlxd_rpc_channel_call(channel, &r, &why), MLXD_ERR_INVALID);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
    assert_int_equal(get(&released), 3);
}

static void answer_later(void *arg) {
    (void)arg;
    sleep_ms(50);
    answer_held();
}

static void reply_from_another_thread(void **state) {
    mlxd_thread thread;
    answer a;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    ask(channel, "/t.T/Hold", mlxd_slice_str("x"), 10, &a);
    assert_true(wait_for(&seen.held_count, 1));
    assert_int_equal(get(&a.done), 0);
    assert_int_equal(mlxd_thread_start(&thread, "later", MLXD_PRIORITY_NORMAL, answer_later, NULL),
                     0);
    assert_true(wait_for(&a.done, 1));
    mlxd_thread_join(&thread);
    assert_true(mlxd_slice_eq(mlxd_rpc_msg_bytes(a.reply), mlxd_slice_str("late")));
    mlxd_rpc_msg_free(a.reply);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

/* Every error travels with its text; the code is the one of the one mapping table. */
static void errors_travel(void **state) {
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, operator);
    for (int err = MLXD_OK + 1; err < MLXD_ERR_COUNT; err++) {
        uint8_t byte = (uint8_t)err;
        mlxd_rpc_status st = call_status(channel, "/t.T/Fail", (mlxd_slice){&byte, 1});
        assert_int_equal(st.code, mlxd_err_get((mlxd_err)err)->grpc_status);
        assert_int_equal(mlxd_err_get(st.err)->grpc_status, st.code);
        assert_string_equal(st.why.text, "because of \xc3\xa4 test: 100%");
    }
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void over_the_cap(void **state) {
    static uint8_t bytes[(1u << 20) + 1];
    client_stream c;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    unsigned calls = get(&seen.calls), messages = get(&seen.messages);
    mlxd_rpc_status st = call_status(channel, "/t.T/Fail", (mlxd_slice){bytes, 101});
    assert_int_equal(st.code, 8);
    assert_non_null(strstr(st.why.text, "101 bytes"));
    assert_int_equal(get(&seen.calls), calls);
    open_stream(&c, channel);
    mlxd_rpc_part part = {.bytes = {bytes, sizeof bytes}};
    assert_int_equal(mlxd_rpc_stream_send(c.s, &part, 1), 0);
    assert_true(end_stream(&c));
    assert_int_equal(c.status.code, 8);
    assert_non_null(strstr(c.status.why.text, "at most 1048576"));
    assert_int_equal(get(&seen.messages), messages);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

/* A budget of one megabyte: the second such message waits until the first is freed; a line that is
 * too long is refused. Small messages pass by. */
static void peer_budget(void **state) {
    static answer a[MLXD_LIMIT_GRPC_PEER_WAITING + 2], small;
    enum { N = MLXD_LIMIT_GRPC_PEER_WAITING + 2 };
    static uint8_t bytes[1u << 20];
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 17u << 20);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    /* 16 held megabytes leave one; the next one takes it; then calls wait. */
    for (unsigned i = 0; i < 17; i++)
        ask(channel, "/t.T/Hold", (mlxd_slice){bytes, sizeof bytes}, 30, &a[i]);
    assert_true(wait_for(&seen.held_count, 17));
    ask(channel, "/t.T/Hold", (mlxd_slice){bytes, 10}, 30, &a[17]);
    sleep_ms(100);
    assert_int_equal(get(&seen.held_count), 17);
    for (unsigned i = 18; i < N; i++)
        ask(channel, "/t.T/Hold", (mlxd_slice){bytes, 10}, 30, &a[i]);
    for (unsigned i = 0; i < 20; i++) { /* fills the line up to 64, then is refused */
        static answer more[20];
        ask(channel, "/t.T/Hold", (mlxd_slice){bytes, 10}, 30, &more[i]);
        if (i == 19) {
            assert_true(wait_for(&more[i].done, 1));
            assert_int_equal(more[i].status.code, 8);
            assert_non_null(strstr(more[i].status.why.text, "memory budget"));
        }
    }
    assert_int_equal(get(&seen.held_count), 17);
    /* Another peer has its own. */
    mlxd_rpc_channel *other = dial(server, operator);
    ask(other, "/t.T/Echo", (mlxd_slice){bytes, 10}, 30, &small);
    assert_true(wait_for(&small.done, 1));
    assert_int_equal(small.status.err, MLXD_OK);
    mlxd_rpc_msg_free(small.reply);
    answer_held();
    for (unsigned i = 0; i < N; i++) {
        for (int tries = 0; tries < 500 && !get(&a[i].done); tries++) {
            answer_held();
            sleep_ms(10);
        }
        assert_int_equal(a[i].status.err, MLXD_OK);
        mlxd_rpc_msg_free(a[i].reply);
    }
    mlxd_rpc_channel_close(other);
    sleep_ms(50);
    answer_held();
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
    answer_held();
}

/* ---- streams ---- */

/* The echo keeps what it cannot send yet; nobody loses, doubles or reorders a message, and the
 * sender is told to wait. */
static void stream_in_order(void **state) {
    enum { N = 1000 };
    client_stream c;
    unsigned full = 0;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    unsigned ends = get(&seen.ends), closes = get(&seen.closes);
    open_stream(&c, channel);
    for (uint32_t i = 0; i < N; i++) {
        unsigned writable = get(&c.writable);
        mlxd_err err = send_number(&c, i, 4 + i * 61);
        while (err == MLXD_ERR_FULL) {
            full++;
            assert_true(wait_for(&c.writable, writable + 1));
            writable = get(&c.writable);
            err = send_number(&c, i, 4 + i * 61);
        }
        assert_int_equal(err, MLXD_OK);
    }
    mlxd_rpc_stream_finish(c.s, MLXD_OK, NULL); /* behind what is queued on either side */
    assert_true(end_stream(&c));
    assert_int_equal(c.wrong, 0);
    assert_int_equal(c.got, N);
    assert_int_equal(c.status.code, 0);
    assert_true(full > 0);
    assert_true(wait_for(&seen.closes, closes + 1));
    assert_int_equal(get(&seen.ends), ends + 1);
    assert_int_equal(seen.closed.err, MLXD_OK);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

/* Messages kept by the receiver stop the sender: nothing piles up between them. */
static mlxd_rpc_msg *kept[256];
static unsigned kept_count;

static void keep_message(void *ctx, mlxd_rpc_stream *s, mlxd_rpc_msg *msg) {
    (void)ctx;
    (void)s;
    lock();
    kept[kept_count++] = msg;
    unlock();
}

static void slow_reader_stops_the_sender(void **state) {
    client_stream c;
    mlxd_why why;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    c = (client_stream){0};
    mlxd_rpc_stream_options o = {
        .path = "/t.T/Stream",
        .deadline_ns = UINT64_MAX,
        .events = {.on_message = keep_message,
                   .on_writable = client_writable,
                   .on_close = client_close},
        .limits = {.send_count_max = 4, .recv_count_max = 3, .recv_bytes_max = 64u << 20},
        .ctx = &c};
    assert_int_equal(mlxd_rpc_stream_open(&c.s, channel, &o, &why), 0);
    unsigned sent = 0;
    uint64_t until = SECONDS(10);
    for (int idle = 0; idle < 30 && sent < 256 && mlxd_clock_now_ns() < until;) {
        if (send_number(&c, sent, 1u << 20) == MLXD_OK) {
            sent++;
            idle = 0;
        } else {
            idle++;
            sleep_ms(10);
        }
    }
    /* What the queues, HTTP/2 windows and socket buffers of both directions take, not more. */
    assert_int_equal(get(&kept_count), 3);
    print_message("stopped after %u MiB\n", sent);
    assert_true(sent < 256);
    lock();
    unsigned echoed = kept_count;
    unlock();
    unsigned freed = 0;
    while (freed < sent) { /* reading again lets everything through */
        assert_true(wait_for(&kept_count, freed + 1));
        lock();
        mlxd_rpc_msg *msg = kept[freed];
        unlock();
        uint32_t number;
        memcpy(&number, mlxd_rpc_msg_bytes(msg).data, sizeof number);
        assert_int_equal(number, freed);
        mlxd_rpc_msg_free(msg);
        freed++;
    }
    assert_true(echoed < sent);
    mlxd_rpc_stream_finish(c.s, MLXD_OK, NULL);
    assert_true(end_stream(&c));
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void cancel_is_seen_by_the_server(void **state) {
    client_stream c;
    answer a;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    unsigned closes = get(&seen.closes), cancels = get(&seen.cancels), opens = get(&seen.opens);
    open_stream(&c, channel);
    assert_int_equal(send_number(&c, 0, 100), 0);
    assert_true(wait_for(&c.got, 1));
    uint64_t begin = mlxd_clock_now_ns();
    mlxd_rpc_stream_cancel(c.s);
    assert_true(wait_for(&seen.closes, closes + 1));
    assert_true(mlxd_clock_now_ns() - begin < 2 * MLXD_NS_PER_S);
    assert_int_equal(seen.closed.err, MLXD_ERR_CANCELLED);
    assert_true(end_stream(&c));
    assert_int_equal(c.status.err, MLXD_ERR_CANCELLED);
    assert_int_equal(get(&seen.opens), opens + 1);
    /* A unary call whose deadline passes. */
    ask(channel, "/t.T/Hold", mlxd_slice_str("x"), 1, &a);
    assert_true(wait_for(&seen.held_count, 1));
    assert_false(mlxd_rpc_call_cancelled(seen.held[0]));
    assert_true(wait_for(&a.done, 1));
    assert_int_equal(a.status.err, MLXD_ERR_TIMEOUT);
    assert_true(wait_for(&seen.cancels, cancels + 1));
    assert_true(mlxd_rpc_call_cancelled(seen.held[0]));
    answer_held();
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

static void lost_server_is_seen_and_found_again(void **state) {
    client_stream c;
    answer a;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    int port = mlxd_rpc_server_port(server);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    open_stream(&c, channel);
    assert_int_equal(send_number(&c, 0, 100), 0);
    assert_true(wait_for(&c.got, 1));
    mlxd_rpc_server_close(server, 0);
    assert_true(end_stream(&c));
    assert_int_not_equal(c.status.err, MLXD_OK);
    mlxd_rpc_status st = call_status(channel, "/t.T/Echo", mlxd_slice_str("x"));
    assert_int_equal(st.err, MLXD_ERR_PEER);
    server = serve_with(worker, port, 0);
    for (int tries = 0; tries < 50; tries++) {
        ask(channel, "/t.T/Echo", mlxd_slice_str("x"), 10, &a);
        assert_true(wait_for(&a.done, 1));
        mlxd_rpc_msg_free(a.reply);
        if (a.status.err == MLXD_OK)
            break;
        sleep_ms(100);
    }
    assert_int_equal(a.status.err, MLXD_OK);
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

/* Sends after the end are errors that take nothing. */
static void late_use_is_harmless(void **state) {
    client_stream c;
    size_t queued = 1;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    open_stream(&c, channel);
    mlxd_rpc_stream_finish(c.s, MLXD_OK, NULL);
    assert_int_equal(send_number(&c, 0, 10), MLXD_ERR_PEER);
    assert_true(wait_for(&c.closed, 1));
    assert_int_equal(c.status.code, 0);
    assert_int_equal(send_number(&c, 0, 10), MLXD_ERR_PEER);
    mlxd_rpc_stream_finish(c.s, MLXD_OK, NULL);
    mlxd_rpc_stream_cancel(c.s);
    mlxd_rpc_stream_queued(c.s, &queued, NULL);
    assert_int_equal(queued, 0);
    assert_true(end_stream(&c));
    mlxd_rpc_channel_close(channel);
    mlxd_rpc_server_close(server, 1000);
}

/* ---- shutdown ---- */

static void shutdown_with_work_in_flight(void **state) {
    client_stream c;
    answer a, queued;
    mlxd_why why;
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    unsigned closes = get(&seen.closes), cancels = get(&seen.cancels);
    open_stream(&c, channel);
    assert_int_equal(send_number(&c, 0, 100), 0);
    assert_true(wait_for(&c.got, 1));
    ask(channel, "/t.T/Hold", mlxd_slice_str("x"), 30, &a);
    assert_true(wait_for(&seen.held_count, 1));
    mlxd_rpc_server_close(server, 50);
    assert_int_equal(get(&seen.closes), closes + 1);
    assert_int_equal(get(&seen.cancels), cancels + 1);
    assert_true(end_stream(&c));
    answer_held(); /* after its server is gone */
    assert_true(wait_for(&a.done, 1));
    assert_int_not_equal(a.status.err, MLXD_OK);
    /* A channel with a call that cannot reach anybody and a stream that is opening. */
    mlxd_rpc_part part = {.bytes = mlxd_slice_str("x")};
    queued = (answer){0};
    mlxd_rpc_request r = {.path = "/t.T/Echo",
                          .deadline_ns = SECONDS(60),
                          .wait_for_ready = true,
                          .parts = &part,
                          .n = 1,
                          .on_reply = on_answer,
                          .user = &queued};
    assert_int_equal(mlxd_rpc_channel_call(channel, &r, &why), 0);
    open_stream(&c, channel);
    mlxd_rpc_channel_close(channel);
    assert_int_equal(queued.done, 1);
    assert_int_equal(queued.status.err, MLXD_ERR_CANCELLED);
    assert_int_equal(c.closed, 1);
    assert_true(end_stream(&c)); /* the handle may outlive its channel */
}

/* Streams opened, used and cancelled from several threads while the server goes away. */
static void stress_thread(void *arg) {
    mlxd_rpc_channel *channel = arg;
    for (int i = 0; i < 30; i++) {
        client_stream *c = test_malloc(sizeof *c);
        answer a;
        open_stream(c, channel);
        for (uint32_t n = 0; n < 10; n++) {
            uint8_t bytes[64] = {0};
            mlxd_rpc_part part = {.bytes = {bytes, sizeof bytes}};
            mlxd_err err = mlxd_rpc_stream_send(c->s, &part, 1);
            if (err)
                break;
        }
        ask(channel, "/t.T/Echo", mlxd_slice_str("hello"), 10, &a);
        if (i % 2)
            mlxd_rpc_stream_finish(c->s, MLXD_OK, NULL);
        else
            mlxd_rpc_stream_cancel(c->s);
        MLXD_ASSERT(end_stream(c) && wait_for(&a.done, 1));
        mlxd_rpc_msg_free(a.reply);
        test_free(c);
    }
}

static void stress(void **state) {
    mlxd_thread threads[4];
    (void)state;
    mlxd_rpc_server *server = serve_with(worker, 0, 0);
    mlxd_rpc_channel *channel = dial(server, coordinator);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            mlxd_thread_start(&threads[i], "stress", MLXD_PRIORITY_NORMAL, stress_thread, channel),
            0);
    sleep_ms(100);
    mlxd_rpc_server_close(server, 20);
    for (int i = 0; i < 4; i++)
        mlxd_thread_join(&threads[i]);
    mlxd_rpc_channel_close(channel);
    assert_int_equal(seen.opens, seen.closes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_echo),
        cmocka_unit_test(parts_are_joined_and_released),
        cmocka_unit_test(reply_from_another_thread),
        cmocka_unit_test(errors_travel),
        cmocka_unit_test(over_the_cap),
        cmocka_unit_test(peer_budget),
        cmocka_unit_test(stream_in_order),
        cmocka_unit_test(slow_reader_stops_the_sender),
        cmocka_unit_test(cancel_is_seen_by_the_server),
        cmocka_unit_test(lost_server_is_seen_and_found_again),
        cmocka_unit_test(late_use_is_harmless),
        cmocka_unit_test(shutdown_with_work_in_flight),
        cmocka_unit_test(stress),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
