/* test_pull.c - the worker's side of a download, against chunks made up here: how much is on its
 * way at a time, what is asked for after an end in the middle, and that silence is noticed. (What
 * is wrong with a chunk is tested over gRPC, in test_shards_protocol.c.) */
#include <setjmp.h>
#include <stdarg.h>

#include "cluster/pull.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define FILE_BYTES (40 * MIB + 12345)

static char root[64];
static mlxd_replica_file file = {.name = "m.gguf", .bytes = FILE_BYTES, .head_bytes = 1000};
static const mlxd_replica_spec spec = {.files = &file, .n_files = 1};
static uint8_t content[MLXD_WIRE_FETCH_BYTES];

static void check(mlxd_err err, const mlxd_why *why) {
    if (err)
        fail_msg("%s: %s", mlxd_err_name(err), why->text);
}

static int empty(void **state) {
    char command[256];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s && mkdir -m 700 %s", root, root);
    return system(command);
}

static int set_up(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/mlxd-pull-XXXXXX");
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * 31 + i / 977);
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)empty(state);
    return rmdir(root);
}

/* ---- a coordinator: a thread that answers what was asked, some of it late ---- */

struct peer {
    mlxd_pull *pull;
    mlxd_queue *asked; /* of mlxd_span */
    mlxd_thread thread;
    unsigned leaves_after; /* chunks; 0: never */
    bool silent, backwards;
    unsigned sent;
    uint64_t bytes;
    _Atomic unsigned waiting, waiting_max;
    uint64_t done, total; /* as progress says */
};

static mlxd_err on_send(void *ctx, mlxd_slice message) {
    struct peer *p = ctx;
    Mlxd__WorkReply *m = mlxd__work_reply__unpack(NULL, message.len, message.data);
    assert_non_null(m);
    assert_int_equal(m->body_case, MLXD__WORK_REPLY__BODY_FETCH);
    mlxd_span span = {m->fetch->file, m->fetch->offset, m->fetch->offset + m->fetch->bytes};
    unsigned now = atomic_fetch_add(&p->waiting, 1) + 1;
    if (now > atomic_load(&p->waiting_max))
        atomic_store(&p->waiting_max, now);
    mlxd__work_reply__free_unpacked(m, NULL);
    assert_int_equal(mlxd_queue_push(p->asked, &span), MLXD_OK);
    return MLXD_OK;
}

static void on_progress(void *ctx, uint64_t done, uint64_t total) {
    struct peer *p = ctx;
    assert_true(done > p->done && done <= total);
    p->done = done;
    p->total = total;
}

static void answer(struct peer *p, const mlxd_span *span) {
    Mlxd__Chunk chunk = MLXD__CHUNK__INIT;
    uint8_t digest[MLXD_SHA256_BYTES];
    size_t len = (size_t)(span->end - span->begin);
    mlxd_why why = {0};
    assert_true(len > 0 && len <= sizeof content);
    mlxd_sha256_once(content, len, digest);
    chunk.file = span->file;
    chunk.offset = span->begin;
    chunk.sha256 = (ProtobufCBinaryData){sizeof digest, digest};
    p->bytes += len;
    p->sent++;
    atomic_fetch_sub(&p->waiting, 1);
    check(mlxd_pull_take(p->pull, NULL, &chunk, (mlxd_slice){content, len}, &why), &why);
}

static void peer_main(void *arg) {
    struct peer *p = arg;
    mlxd_span spans[MLXD_WIRE_FETCH_WINDOW];
    for (;;) {
        size_t n = 0;
        if (mlxd_queue_pop(p->asked, &spans[n++], UINT64_MAX))
            return;
        while (n < MLXD_COUNT_OF(spans) && mlxd_queue_pop(p->asked, &spans[n], 0) == MLXD_OK)
            n++;
        for (size_t i = 0; i < n && !p->silent; i++) {
            if (p->leaves_after && p->sent == p->leaves_after) {
                mlxd_pull_end(p->pull);
                p->silent = true;
                break;
            }
            answer(p, &spans[p->backwards ? n - 1 - i : i]);
        }
    }
}

/* One pull of `wanted`; its error, with the peer as it was at the end. */
static mlxd_err pull(struct peer *p, const mlxd_span *wanted, size_t n, uint64_t silence_ns,
                     uint64_t *had, mlxd_why *why) {
    mlxd_replica *r;
    _Atomic uint64_t received = 0;
    mlxd_pull_params params = {
        .send = on_send, .progress = on_progress, .ctx = p, .silence_ns = silence_ns};
    check(mlxd_replica_open(&r, root, &spec, why), why);
    *had = mlxd_replica_bytes(r);
    p->asked = mlxd_queue_open(sizeof(mlxd_span), 64);
    check(mlxd_pull_open(&p->pull, &params, why), why);
    assert_int_equal(mlxd_thread_start(&p->thread, "peer", MLXD_PRIORITY_NORMAL, peer_main, p),
                     MLXD_OK);
    mlxd_err err = mlxd_pull_run(p->pull, r, wanted, n, &received, why);
    mlxd_queue_shutdown(p->asked);
    mlxd_thread_join(&p->thread);
    mlxd_pull_close(p->pull);
    mlxd_queue_close(p->asked);
    assert_true(err ? received <= p->bytes : received == p->bytes);
    assert_int_equal(p->done, received);
    mlxd_replica_close(r); /* as a crash: only what was listed counts */
    return err;
}

static uint64_t bytes_there(void) {
    mlxd_replica *r;
    mlxd_why why = {0};
    check(mlxd_replica_open(&r, root, &spec, &why), &why);
    uint64_t bytes = mlxd_replica_bytes(r);
    mlxd_replica_close(r);
    return bytes;
}

/* ---- tests ---- */

/* Ranges that begin and end anywhere, touch, and are partly there. */
static void test_what_is_asked(void **state) {
    const mlxd_span wanted[] = {{0, 5000, 5001},
                                {0, 2 * MIB + 7, 12 * MIB + 9},
                                {0, 12 * MIB + 9, 12 * MIB + 10},
                                {0, 30 * MIB, FILE_BYTES}};
    const uint64_t all = 1 + 10 * MIB + 2 + 1 + 10 * MIB + 12345;
    uint64_t had;
    mlxd_why why = {0};
    (void)state;
    struct peer p = {.backwards = true};
    check(pull(&p, wanted, MLXD_COUNT_OF(wanted), 0, &had, &why), &why);
    assert_int_equal(p.bytes, all);
    assert_int_equal(p.total, all);
    assert_in_range(atomic_load(&p.waiting_max), 2, MLXD_WIRE_FETCH_WINDOW);
    assert_int_equal(bytes_there(), all);
    struct peer again = {0};
    check(pull(&again, wanted, MLXD_COUNT_OF(wanted), 0, &had, &why), &why);
    assert_int_equal(again.bytes, 0);
    const mlxd_span more = {0, MIB, 13 * MIB};
    struct peer rest = {0};
    check(pull(&rest, &more, 1, 0, &had, &why), &why);
    assert_int_equal(rest.bytes, 12 * MIB - (10 * MIB + 3));
}

/* Ended again and again, it gets there, and no byte that was listed is sent twice. */
static void test_it_goes_on_where_it_was(void **state) {
    const mlxd_span wanted = {0, 100, FILE_BYTES};
    uint64_t had = 0, sent = 0;
    unsigned rounds = 0;
    mlxd_why why = {0};
    (void)state;
    for (mlxd_err err = MLXD_ERR_CANCELLED; err; rounds++) {
        struct peer p = {.leaves_after = 7};
        err = pull(&p, &wanted, 1, 0, &had, &why);
        assert_true(err == MLXD_OK || err == MLXD_ERR_CANCELLED);
        assert_int_equal(had, sent);
        sent = bytes_there();
        assert_true(err || sent == FILE_BYTES - 100);
        assert_true(sent >= had && sent <= had + p.bytes);
        assert_true(rounds < 50);
    }
    assert_in_range(rounds, 6, 49);
}

static void test_silence(void **state) {
    const mlxd_span wanted = {0, 0, FILE_BYTES};
    uint64_t had, t0 = mlxd_clock_now_ns();
    mlxd_why why = {0};
    (void)state;
    struct peer p = {.silent = true};
    assert_int_equal(pull(&p, &wanted, 1, 50 * MLXD_NS_PER_MS, &had, &why), MLXD_ERR_TIMEOUT);
    assert_non_null(strstr(why.text, "no chunk"));
    assert_true(mlxd_clock_now_ns() - t0 >= 50 * MLXD_NS_PER_MS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_what_is_asked, empty),
        cmocka_unit_test_setup(test_it_goes_on_where_it_was, empty),
        cmocka_unit_test_setup(test_silence, empty),
    };
    mlxd_log_init(MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
