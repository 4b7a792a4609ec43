/* test_shards.c - workers without a model file, in one process with their coordinator, over real
 * gRPC: they must give the answer of a single process, receive exactly what they need and that only
 * once, follow their coordinator to another model, mend what is damaged on their disk, and say by
 * name what cannot be mended. */
#include "../../support/golden.h"
#include "cluster_fixture.h"

#include "model/shelf.h"

#define F32 "tiny-f32.gguf"
#define Q4 "tiny-q4_1.gguf"

static uint64_t received(struct worker *w) {
    mlxd_worker_status s;
    mlxd_worker_get_status(w->worker, &s);
    return s.received_bytes;
}

/* Bytes of the tensors of the layers that the plan gave to device `i`. */
static uint64_t layer_bytes(struct coordinator *c, size_t i) {
    mlxd_plan *plan = mlxd_mem_new(1, sizeof *plan);
    uint64_t bytes = 0;
    assert_true(mlxd_members_plan(c->members, plan));
    const mlxd_plan_share *s = &plan->shares[i];
    mlxd_tensor_name names[64];
    size_t n = mlxd_layers_tensors(&c->host.config, s->first, s->end, NULL);
    assert_in_range(n, 1, MLXD_COUNT_OF(names));
    (void)mlxd_layers_tensors(&c->host.config, s->first, s->end, names);
    for (size_t t = 0; t < n; t++)
        bytes += mlxd_checkpoint_find(c->host.checkpoint, names[t].text)->bytes;
    mlxd_mem_free(plan);
    return bytes;
}

static uint64_t head_bytes(struct coordinator *c) {
    mlxd_checkpoint_part part;
    mlxd_why why = {0};
    check(mlxd_checkpoint_part_at(c->host.checkpoint, 0, &part, &why), &why);
    return part.head_bytes;
}

static void one_process(const char *model, char want[2][MLXD_SHA256_HEX]) {
    struct coordinator c = {0};
    start_coordinator(&c, model, NULL, 0, 128);
    assert_true(wait_ready(&c, true));
    ask_two(&c, want[0], want[1]);
    stop_coordinator(&c);
}

static void expect_answer(struct coordinator *c, char want[2][MLXD_SHA256_HEX]) {
    char got[2][MLXD_SHA256_HEX];
    assert_true(wait_ready(c, true));
    ask_two(c, got[0], got[1]);
    assert_string_equal(got[0], want[0]);
    assert_string_equal(got[1], want[1]);
}

static int no_shards(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s/shards-*", dir);
    return system(command);
}

/* ---- what is sent ---- */

static void test_each_byte_once(void **state) {
    char want[2][MLXD_SHA256_HEX];
    struct coordinator c = {0};
    struct worker w[2];
    mlxd_member_view *views = mlxd_mem_new(MLXD_LIMIT_NODES, sizeof *views);
    (void)state;
    one_process(Q4, want);
    start_worker(&w[0], "mini2", NULL, 0);
    start_worker(&w[1], "master", NULL, 0);
    start_coordinator(&c, Q4, w, 2, 32);
    expect_answer(&c, want);
    (void)mlxd_members_view(c.members, views);
    for (size_t i = 0; i < 2; i++) {
        assert_true(layer_bytes(&c, i + 1) > 0);
        assert_int_equal(received(&w[i]), head_bytes(&c) + layer_bytes(&c, i + 1));
        assert_int_equal(views[i + 1].shard_bytes, received(&w[i]));
        assert_true(views[i + 1].facts.takes_shards);
    }
    assert_int_equal(views[0].shard_bytes, 0);
    uint64_t before = received(&w[0]);
    stop_coordinator(&c); /* the next one finds the layers loaded */
    start_coordinator(&c, Q4, w, 2, 32);
    expect_answer(&c, want);
    assert_int_equal(received(&w[0]), before);
    stop_worker(&w[0]); /* and a worker that was restarted finds them on its disk */
    start_worker(&w[0], "mini2", NULL, w[0].port);
    assert_true(wait_ready(&c, false));
    expect_answer(&c, want);
    assert_int_equal(received(&w[0]), 0);
    stop_coordinator(&c);
    stop_worker(&w[0]);
    stop_worker(&w[1]);
    mlxd_mem_free(views);
}

/* One with a file, one without. */
static void test_mixed(void **state) {
    char want[2][MLXD_SHA256_HEX];
    struct coordinator c = {0};
    struct worker w[2];
    (void)state;
    one_process(F32, want);
    start_worker(&w[0], "mini2", F32, 0);
    start_worker(&w[1], "master", NULL, 0);
    start_coordinator(&c, F32, w, 2, 32);
    expect_answer(&c, want);
    assert_int_equal(received(&w[0]), 0);
    assert_int_equal(received(&w[1]), head_bytes(&c) + layer_bytes(&c, 2));
    stop_coordinator(&c);
    stop_worker(&w[0]);
    stop_worker(&w[1]);
}

/* A worker without a model belongs to no model. */
static void test_another_model(void **state) {
    const char *const models[] = {F32, Q4, F32};
    char path[128];
    uint64_t before = 0;
    mlxd_shelf_usage usage;
    mlxd_worker_status status;
    mlxd_why why = {0};
    struct worker w;
    (void)state;
    start_worker(&w, "mini2", NULL, 0);
    mlxd_worker_get_status(w.worker, &status);
    assert_int_equal(status.layers, 0);
    assert_string_equal(status.model, "");
    for (size_t i = 0; i < 3; i++) {
        char want[2][MLXD_SHA256_HEX];
        struct coordinator c = {0};
        one_process(models[i], want);
        start_coordinator(&c, models[i], &w, 1, 32);
        expect_answer(&c, want);
        uint64_t all = head_bytes(&c) + layer_bytes(&c, 1);
        assert_int_equal(received(&w) - before, i < 2 ? all : 0);
        before = received(&w);
        mlxd_worker_get_status(w.worker, &status);
        assert_int_equal(status.layers, c.host.config.layers);
        assert_int_equal(status.hidden, c.host.config.hidden);
        assert_string_equal(status.model, c.host.config.name);
        stop_coordinator(&c);
    }
    snprintf(path, sizeof path, "%s/shards-mini2", dir);
    check(mlxd_shelf_get_usage(path, &usage, &why), &why);
    assert_int_equal(usage.models, 2);
    stop_worker(&w);
}

/* ---- damage ---- */

/* Flips a bit of a tensor in the only replica of mini2, or in the file at `path`. */
static void flip(const mlxd_checkpoint *c, const char *name, const char *path) {
    char command[512], found[400] = "";
    if (!path) {
        snprintf(command, sizeof command, "ls %s/shards-mini2/*/model/*", dir);
        FILE *ls = popen(command, "r");
        assert_non_null(fgets(found, sizeof found, ls));
        assert_int_equal(pclose(ls), 0);
        found[strcspn(found, "\n")] = 0;
        path = found;
    }
    const mlxd_extent *e = &mlxd_checkpoint_find(c, name)->streams[0].extents[0];
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)(e->offset + e->bytes / 2), SEEK_SET), 0);
    int byte = fgetc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(byte ^ 4, f), byte ^ 4);
    assert_int_equal(fclose(f), 0);
}

static void test_damage_is_mended(void **state) {
    static const char *const broken[] = {"blk.4.ffn_up.weight", "blk.4.attn_norm.weight"};
    char want[2][MLXD_SHA256_HEX];
    struct coordinator c = {0};
    struct worker w;
    (void)state;
    one_process(F32, want);
    start_worker(&w, "mini2", NULL, 0);
    start_coordinator(&c, F32, &w, 1, 32);
    expect_answer(&c, want);
    uint64_t bytes = 0;
    stop_worker(&w);
    for (size_t i = 0; i < MLXD_COUNT_OF(broken); i++) {
        flip(c.host.checkpoint, broken[i], NULL);
        bytes += mlxd_checkpoint_find(c.host.checkpoint, broken[i])->bytes;
    }
    assert_true(wait_ready(&c, false));
    start_worker(&w, "mini2", NULL, w.port);
    expect_answer(&c, want);
    assert_int_equal(received(&w), bytes); /* the two tensors, and nothing else */
    stop_worker(&w);
    assert_true(wait_ready(&c, false));
    start_worker(&w, "mini2", NULL, w.port);
    expect_answer(&c, want);
    assert_int_equal(received(&w), 0); /* for good */
    stop_coordinator(&c);
    stop_worker(&w);
}

/* The coordinator's file was changed under it: it sends what it does not have loaded. */
static void test_what_cannot_be_mended_is_named(void **state) {
    char path[128];
    struct coordinator c = {0};
    struct worker w;
    (void)state;
    mlxd_buf file = golden_read(F32);
    snprintf(path, sizeof path, "%s/changed.gguf", dir);
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(file.data, 1, file.len, f), file.len);
    fclose(f);
    mlxd_buf_deinit(&file);
    start_worker(&w, "mini2", NULL, 0);
    stop_worker(&w);
    start_coordinator(&c, path, &w, 1, 32);
    flip(c.host.checkpoint, "blk.4.ffn_up.weight", path);
    start_worker(&w, "mini2", NULL, w.port);
    assert_true(view_says(&c, "tensor blk.4.ffn_up.weight"));
    assert_false(mlxd_loop_ready(c.loop));
    stop_coordinator(&c);
    stop_worker(&w);
}

/* ---- refusals ---- */

static void test_no_room(void **state) {
    struct coordinator c = {0};
    struct worker w;
    (void)state;
    shards_bytes_max = 100000;
    start_worker(&w, "mini2", NULL, 0);
    shards_bytes_max = 0;
    start_coordinator(&c, F32, &w, 1, 32);
    assert_true(view_says(&c, "--shards-max"));
    assert_in_range(received(&w), 0, 100000);
    stop_coordinator(&c);
    stop_worker(&w);
}

struct pass {
    _Atomic bool done;
    mlxd_err err;
    mlxd_why why;
};

static void on_pass(void *ctx, mlxd_err err, const mlxd_why *why) {
    struct pass *p = ctx;
    p->err = err;
    p->why = *why;
    atomic_store(&p->done, true);
}

/* A pass that was made for the model before this one does not run on this one's layers. */
static void test_passes_of_another_width(void **state) {
    struct coordinator c = {0};
    struct worker w;
    struct pass p = {0};
    static float hidden[4096];
    (void)state;
    start_worker(&w, "mini2", NULL, 0);
    start_coordinator(&c, F32, &w, 1, 32);
    assert_true(wait_ready(&c, true));
    mlxd_worker_status s;
    mlxd_worker_get_status(w.worker, &s);
    for (uint32_t more = 0; more <= 32; more += 32) {
        atomic_store(&p.done, false);
        assert_int_equal(mlxd_forward_submit(mlxd_worker_forward(w.worker), s.first, s.end, hidden,
                                             2, s.hidden + more, on_pass, &p),
                         MLXD_OK);
        while (!atomic_load(&p.done))
            nap_us(500);
        assert_int_equal(p.err, more ? MLXD_ERR_STATE : MLXD_OK);
    }
    assert_non_null(strstr(p.why.text, "another one now"));
    stop_coordinator(&c);
    stop_worker(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_each_byte_once, no_shards),
        cmocka_unit_test_setup(test_mixed, no_shards),
        cmocka_unit_test_setup(test_another_model, no_shards),
        cmocka_unit_test_setup(test_damage_is_mended, no_shards),
        cmocka_unit_test_setup(test_what_cannot_be_mended_is_named, no_shards),
        cmocka_unit_test_setup(test_no_room, no_shards),
        cmocka_unit_test_setup(test_passes_of_another_width, no_shards),
    };
    mlxd_log_init(getenv("VERBOSE") ? MLXD_LOG_DEBUG : MLXD_LOG_ERROR, false);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
