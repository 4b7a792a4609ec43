/* test_cpu.c - a stage of this process: results are those of its layers, dropped sessions are left
 * out at whatever moment they are dropped, and stateless calls leave nothing behind. */
#include "../../support/model_file.h"

#include "backend/cpu.h"

#include <stdatomic.h>
#include <time.h>

#define CONTEXT 400
#define WIDTH 64
#define STEP_TOKENS 300
#define PAGES 20

static mlxd_checkpoint *file;
static mlxd_config config;
static mlxd_driver *driver;
static mlxd_cpu *cpu;
static mlxd_stage *stage;
static mlxd_queue *results;

struct result {
    mlxd_step *step;
    mlxd_err err;
    char text[100];
};

static void on_done(void *ctx, mlxd_stage *s, mlxd_step *step, mlxd_err err, const mlxd_why *why) {
    struct result r = {step, err, ""};
    if (s != stage || ctx != results)
        abort();
    if (err)
        snprintf(r.text, sizeof r.text, "%.99s", why->text);
    if (mlxd_queue_push(results, &r))
        abort();
}

static int set_up(void **state) {
    mlxd_why why = {0};
    (void)state;
    mlxd_os_fpu_init();
    file = model_file_open(MLXD_GOLDEN "/tiny-v2.gguf");
    model_file_check(mlxd_config_read(&config, file, &why), &why);
    model_file_check(mlxd_driver_open(&driver, 2, &why), &why);
    mlxd_cpu_params p = {.driver = driver,
                         .layers = {.checkpoint = file,
                                    .config = &config,
                                    .kernels = mlxd_kernels_scalar(),
                                    .first = 0,
                                    .end = config.layers,
                                    .positions = CONTEXT,
                                    .tokens_max = STEP_TOKENS},
                         .kv_pages = PAGES,
                         .device = "mini1"};
    model_file_check(mlxd_cpu_open(&cpu, &p, &why), &why);
    results = mlxd_queue_open(sizeof(struct result), 100);
    stage = mlxd_cpu_stage(cpu);
    stage->done = on_done;
    stage->done_ctx = results;
    assert_int_equal(config.hidden, WIDTH);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    stage->ops->close(stage);
    mlxd_cpu_close(NULL);
    mlxd_driver_close(driver);
    mlxd_driver_close(NULL);
    mlxd_queue_close(results);
    mlxd_checkpoint_close(file);
    return 0;
}

/* ---- what is right ---- */

/* Token and input state of position t of any session are functions of the session. */
static int32_t token_of(uint64_t session, uint32_t t) {
    return (int32_t)((session * 131 + t * 17) % 300);
}

static void input_of(uint64_t session, uint32_t t, float *x) {
    random_state r = {session << 32 | t};
    for (int i = 0; i < WIDTH; i++)
        x[i] = (float)(int32_t)random_below(&r, 2001) / 1000 - 1;
}

/* States of positions [0, n) of a session after layers [first, end). */
static float *reference(uint64_t session, uint32_t n, uint32_t first, uint32_t end) {
    mlxd_layers *l;
    mlxd_kv *kv;
    mlxd_why why = {0};
    mlxd_pool *pool = mlxd_pool_open(1);
    mlxd_layers_params p = {.checkpoint = file,
                            .config = &config,
                            .kernels = mlxd_kernels_scalar(),
                            .first = first,
                            .end = end,
                            .positions = CONTEXT,
                            .tokens_max = CONTEXT,
                            .pool = pool};
    int32_t tokens[CONTEXT];
    float *x = mlxd_mem_new((size_t)n * WIDTH, sizeof *x);
    model_file_check(mlxd_layers_open(&l, &p, &why), &why);
    model_file_check(mlxd_kv_open(&kv, &config, end - first, 10, &why), &why);
    for (uint32_t t = 0; t < n; t++) {
        tokens[t] = token_of(session, t);
        input_of(session, t, x + t * WIDTH);
    }
    mlxd_row row = {1, mlxd_kv_hash_init(), 0, n, n, tokens};
    model_file_check(mlxd_layers_step(l, kv, pool, first, end, &row, 1, false, x, NULL, &why),
                     &why);
    mlxd_kv_close(kv);
    mlxd_layers_close(l);
    mlxd_pool_close(pool);
    return x;
}

static void add_row(mlxd_step *s, uint64_t session, uint32_t position, uint32_t n, uint32_t n_out) {
    int32_t tokens[CONTEXT];
    uint64_t hash = mlxd_kv_hash_init();
    for (uint32_t t = 0; t < position; t++)
        hash = mlxd_kv_hash_add(hash, token_of(session, t));
    for (uint32_t t = 0; t < n; t++) {
        tokens[t] = token_of(session, position + t);
        input_of(session, position + t, s->hidden + (s->n_tokens + t) * WIDTH);
    }
    mlxd_row row = {session, hash, position, n, n_out, tokens};
    assert_true(mlxd_step_add(s, &row, NULL));
}

static void check_states(const mlxd_step *s, uint32_t at, uint64_t session, uint32_t position,
                         uint32_t n) {
    float *want = reference(session, position + n, 0, config.layers);
    assert_memory_equal(s->hidden + (size_t)at * WIDTH, want + (size_t)position * WIDTH,
                        (size_t)n * WIDTH * sizeof(float));
    mlxd_mem_free(want);
}

static mlxd_step *open_step(void) {
    mlxd_step *s = mlxd_step_open(8, STEP_TOKENS, WIDTH);
    assert_non_null(s);
    return s;
}

static struct result wait_result(mlxd_step *step) {
    struct result r;
    assert_int_equal(mlxd_queue_pop(results, &r, UINT64_MAX), MLXD_OK);
    assert_ptr_equal(r.step, step);
    return r;
}

static void nothing(mlxd_pool *pool, void *a, void *b) {
    (void)pool;
    (void)a;
    (void)b;
}

static mlxd_cpu_stats settled(void) {
    mlxd_cpu_stats s;
    mlxd_driver_run(driver, (mlxd_job){nothing, NULL, NULL});
    mlxd_cpu_stats_get(cpu, &s);
    return s;
}

static void nothing_is_left(void) {
    mlxd_cpu_stats s = settled();
    assert_int_equal(s.sessions, 0);
    assert_int_equal(s.kv_pages_used, 0);
    assert_int_equal(mlxd_queue_len(results), 0);
}

/* ---- holding the driver, so that what follows is queued behind ---- */

static _Atomic bool held, release;

static void hold_job(mlxd_pool *pool, void *a, void *b) {
    nothing(pool, a, b);
    atomic_store(&held, true);
    while (!atomic_load(&release))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    atomic_store(&held, false);
}

static void hold(void) {
    atomic_store(&release, false);
    mlxd_driver_post(driver, (mlxd_job){hold_job, NULL, NULL});
    while (!atomic_load(&held))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void let_go(void) {
    atomic_store(&release, true);
}

/* ---- tests ---- */

static void steps_are_those_of_the_layers(void **state) {
    mlxd_step *a = open_step(), *b = open_step();
    (void)state;
    assert_string_equal(stage->device, "mini1");
    assert_true(stage->first == 0 && stage->end == config.layers);
    mlxd_cpu_stats before = settled();
    add_row(a, 1, 0, 70, 0);
    add_row(a, 2, 0, 3, 3);
    stage->ops->submit(stage, a, false);
    add_row(b, 2, 3, 1, 1); /* submitted while the first one is on its way */
    add_row(b, 1, 70, 60, 2);
    stage->ops->submit(stage, b, true);
    assert_int_equal(wait_result(a).err, MLXD_OK);
    assert_int_equal(a->n_hidden, 73);
    assert_true(a->compute_ns > 0);
    check_states(a, 0, 1, 0, 70);
    check_states(a, 70, 2, 0, 3);
    assert_int_equal(wait_result(b).err, MLXD_OK);
    assert_int_equal(b->n_hidden, 3); /* the last stage: only what is wanted */
    check_states(b, 0, 2, 3, 1);
    check_states(b, 1, 1, 128, 2);
    mlxd_cpu_stats s = settled();
    assert_true(s.sessions == 2 && s.kv_pages_used == 4 && s.kv_pages_max == PAGES);
    assert_true(s.steps == before.steps + 2 && s.tokens == before.tokens + 134);
    assert_true(s.compute_ns > before.compute_ns);
    assert_true(s.memory_bytes > PAGES * mlxd_kv_page_bytes(&config, config.layers));
    stage->ops->drop(stage, 1);
    stage->ops->drop(stage, 2);
    stage->ops->drop(stage, 77); /* never heard of */
    nothing_is_left();
    mlxd_step_close(a);
    mlxd_step_close(b);
}

static void a_session_dropped_before_its_step_runs(void **state) {
    mlxd_step *a = open_step(), *b = open_step(), *c = open_step();
    (void)state;
    hold();
    add_row(a, 11, 0, 5, 1);
    add_row(a, 12, 0, 7, 7);
    add_row(a, 13, 0, 70, 1);
    stage->ops->submit(stage, a, true);
    stage->ops->drop(stage, 11);
    add_row(b, 12, 7, 2, 2);
    add_row(b, 13, 70, 3, 1);
    stage->ops->submit(stage, b, false);
    stage->ops->drop(stage, 13);
    add_row(c, 11 + 100, 0, 1, 1); /* all rows of this one go */
    stage->ops->submit(stage, c, true);
    stage->ops->drop(stage, 111);
    let_go();
    assert_int_equal(wait_result(a).err, MLXD_OK);
    assert_true(a->n_rows == 1 && a->rows[0].session == 12 && a->n_hidden == 7);
    check_states(a, 0, 12, 0, 7);
    assert_int_equal(wait_result(b).err, MLXD_OK);
    assert_true(b->n_rows == 1 && b->n_hidden == 2);
    check_states(b, 0, 12, 7, 2);
    assert_int_equal(wait_result(c).err, MLXD_ERR_CANCELLED);
    assert_int_equal(settled().sessions, 1);
    stage->ops->drop(stage, 12);
    nothing_is_left();
    mlxd_step_close(a);
    mlxd_step_close(b);
    mlxd_step_close(c);
}

/* More drops than are remembered: a row may then be computed in vain, but nothing stays. */
static void very_many_drops(void **state) {
    mlxd_step *a = open_step();
    (void)state;
    hold();
    add_row(a, 21, 0, 5, 1);
    add_row(a, 22, 0, 5, 1);
    stage->ops->submit(stage, a, true);
    stage->ops->drop(stage, 21);
    for (uint64_t id = 1000; id < 6000; id++)
        stage->ops->drop(stage, id);
    let_go();
    assert_int_equal(wait_result(a).err, MLXD_OK);
    check_states(a, a->n_rows - 1, 22, 4, 1);
    assert_int_equal(settled().sessions, 1);
    stage->ops->drop(stage, 22);
    nothing_is_left();
    mlxd_step_close(a);
}

/* Dropped while it is computed, at whatever moment. */
static void a_session_dropped_under_way(void **state) {
    mlxd_step *a = open_step();
    unsigned cancelled = 0;
    (void)state;
    for (uint64_t id = 30; id < 45; id++) {
        mlxd_step_clear(a);
        add_row(a, id, 0, 250, 1);
        stage->ops->submit(stage, a, true);
        nanosleep(&(struct timespec){.tv_nsec = (long)(id - 30) * 300000}, NULL);
        stage->ops->drop(stage, id);
        struct result r = wait_result(a);
        assert_true(r.err == MLXD_OK || r.err == MLXD_ERR_CANCELLED);
        cancelled += r.err != MLXD_OK;
        nothing_is_left();
    }
    assert_true(cancelled > 0);
    mlxd_step_close(a);
}

static void failures_are_told(void **state) {
    mlxd_step *a = open_step();
    (void)state;
    add_row(a, 61, 0, 5, 1);
    a->rows[0].position = 1;
    stage->ops->submit(stage, a, true);
    struct result r = wait_result(a);
    assert_int_equal(r.err, MLXD_ERR_RANGE);
    assert_non_null(strstr(r.text, "session 61"));
    mlxd_step_clear(a);
    add_row(a, 61, 0, 5, 1);
    a->hidden[4 * WIDTH] = 1.0f / 0.0f;
    stage->ops->submit(stage, a, true);
    assert_int_equal(wait_result(a).err, MLXD_ERR_CORRUPT);
    mlxd_cpu_drop_all(cpu);
    nothing_is_left();
    mlxd_step_close(a);
}

static void drop_all_keeps_its_place(void **state) {
    mlxd_step *a = open_step(), *b = open_step();
    (void)state;
    hold();
    add_row(a, 71, 0, 5, 1);
    stage->ops->submit(stage, a, true);
    mlxd_cpu_drop_all(cpu);
    add_row(b, 71, 0, 6, 1); /* of another life of the same id */
    add_row(b, 72, 0, 1, 1);
    stage->ops->submit(stage, b, true);
    let_go();
    assert_int_equal(wait_result(a).err, MLXD_OK);
    check_states(a, 0, 71, 4, 1);
    assert_int_equal(wait_result(b).err, MLXD_OK);
    check_states(b, 0, 71, 5, 1);
    assert_int_equal(settled().sessions, 2);
    mlxd_cpu_drop_all(cpu);
    nothing_is_left();
    mlxd_step_close(a);
    mlxd_step_close(b);
}

/* ---- stateless calls ---- */

static float *inputs(uint64_t session, uint32_t n) {
    float *x = mlxd_mem_new((size_t)n * WIDTH, sizeof *x);
    for (uint32_t t = 0; t < n; t++)
        input_of(session, t, x + t * WIDTH);
    return x;
}

static void forward_computes_any_part(void **state) {
    static const struct {
        uint32_t first, end, n;
    } cases[] = {{0, 2, 1}, {0, 1, 65}, {1, 2, 7}, {0, 2, 399}};
    mlxd_why why = {0};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        float *x = inputs(i, cases[i].n);
        float *want = reference(i, cases[i].n, cases[i].first, cases[i].end);
        for (int again = 0; again < 2; again++) { /* the same each time: nothing is kept */
            float *y = inputs(i, cases[i].n);
            model_file_check(
                mlxd_cpu_forward(cpu, cases[i].first, cases[i].end, y, cases[i].n, &why), &why);
            assert_memory_equal(y, want, (size_t)cases[i].n * WIDTH * sizeof *y);
            mlxd_mem_free(y);
        }
        mlxd_mem_free(want);
        mlxd_mem_free(x);
        nothing_is_left();
    }
}

static void forward_refuses(void **state) {
    float *x = inputs(1, CONTEXT + 1);
    mlxd_why why = {0};
    (void)state;
    assert_int_equal(mlxd_cpu_forward(cpu, 0, config.layers + 1, x, 1, &why), MLXD_ERR_STATE);
    assert_non_null(strstr(why.text, "layers 0..2 are not on this device, which holds 0..1"));
    assert_int_equal(mlxd_cpu_forward(cpu, 1, 1, x, 1, &why), MLXD_ERR_STATE);
    assert_int_equal(mlxd_cpu_forward(cpu, 0, 0, x, 1, &why), MLXD_ERR_STATE);
    assert_int_equal(mlxd_cpu_forward(cpu, UINT32_MAX, 1, x, 1, &why), MLXD_ERR_STATE);
    assert_int_equal(mlxd_cpu_forward(cpu, 0, UINT32_MAX, x, 1, &why), MLXD_ERR_STATE);
    assert_int_equal(mlxd_cpu_forward(cpu, 0, 2, x, CONTEXT + 1, &why), MLXD_ERR_RANGE);
    assert_int_equal(mlxd_cpu_forward(cpu, 0, 2, x, CONTEXT + 1, NULL), MLXD_ERR_RANGE);
    nothing_is_left();
    x[WIDTH] = 0.0f / 0.0f;
    assert_int_equal(mlxd_cpu_forward(cpu, 0, 2, x, 2, &why), MLXD_ERR_CORRUPT);
    nothing_is_left();
    mlxd_mem_free(x);
}

/* Sessions that live keep their pages, a stateless call takes what is left or says that it cannot.
 * */
static void forward_beside_sessions(void **state) {
    mlxd_step *a = open_step();
    float *x = inputs(5, 200);
    mlxd_why why = {0};
    (void)state;
    for (uint64_t id = 81; id < 86; id++) { /* 17 of 20 pages */
        mlxd_step_clear(a);
        add_row(a, id, 0, id == 85 ? 10 : 250, 1);
        stage->ops->submit(stage, a, true);
        assert_int_equal(wait_result(a).err, MLXD_OK);
    }
    assert_int_equal(settled().kv_pages_used, 17);
    assert_int_equal(mlxd_cpu_forward(cpu, 0, 2, x, 200, &why), MLXD_ERR_FULL);
    assert_int_equal(settled().kv_pages_used, 17);
    mlxd_mem_free(x);
    x = inputs(5, 192);
    model_file_check(mlxd_cpu_forward(cpu, 0, 2, x, 192, &why), &why);
    mlxd_step_clear(a);
    add_row(a, 82, 250, 3, 3);
    stage->ops->submit(stage, a, true);
    assert_int_equal(wait_result(a).err, MLXD_OK);
    check_states(a, 0, 82, 250, 3);
    mlxd_cpu_drop_all(cpu);
    nothing_is_left();
    mlxd_mem_free(x);
    mlxd_step_close(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_those_of_the_layers),
        cmocka_unit_test(a_session_dropped_before_its_step_runs),
        cmocka_unit_test(very_many_drops),
        cmocka_unit_test(a_session_dropped_under_way),
        cmocka_unit_test(failures_are_told),
        cmocka_unit_test(drop_all_keeps_its_place),
        cmocka_unit_test(forward_computes_any_part),
        cmocka_unit_test(forward_refuses),
        cmocka_unit_test(forward_beside_sessions),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
