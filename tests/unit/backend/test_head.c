/* test_head.c - embeddings in front, logits and draws behind: for any number of rows, each row as
 * if it were alone. */
#include "../../support/model_file.h"

#include "backend/head.h"

#define WIDTH 48
#define ROWS 40 /* more than are projected at a time */

static mlxd_checkpoint *file;
static mlxd_config config;
static mlxd_tokenizer *tokenizer;
static mlxd_driver *driver;
static mlxd_head *head;
static mlxd_queue *results;

struct result {
    mlxd_step *step;
    bool drawn;
    mlxd_err err;
};

static void on_done(void *ctx, mlxd_step *step, bool drawn, mlxd_err err, const mlxd_why *why) {
    struct result r = {step, drawn, err};
    if (err && !why->text[0])
        abort();
    if (mlxd_queue_push(ctx, &r))
        abort();
}

static void load_job(mlxd_pool *pool, void *a, void *b) {
    (void)b;
    mlxd_why why = {0};
    if (mlxd_vocab_open(a, file, &config, mlxd_kernels_scalar(), pool, NULL, &why))
        abort();
}

static int set_up(void **state) {
    mlxd_why why = {0};
    mlxd_vocab *vocab;
    (void)state;
    mlxd_os_fpu_init();
    file = model_file_open(MLXD_GOLDEN "/tiny-untied.gguf");
    model_file_check(mlxd_config_read(&config, file, &why), &why);
    model_file_check(mlxd_tokenizer_open(&tokenizer, mlxd_checkpoint_gguf(file), &why), &why);
    model_file_check(mlxd_driver_open(&driver, 3, &why), &why);
    mlxd_driver_run(driver, (mlxd_job){load_job, &vocab, NULL});
    model_file_check(mlxd_head_open(&head, driver, vocab, &config, &why), &why);
    results = mlxd_queue_open(sizeof(struct result), 10);
    mlxd_head_set_done(head, on_done, results);
    assert_ptr_equal(mlxd_head_vocab(head), vocab);
    assert_int_equal(config.hidden, WIDTH);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_head_close(head);
    mlxd_head_close(NULL);
    mlxd_driver_close(driver);
    mlxd_tokenizer_close(tokenizer);
    mlxd_queue_close(results);
    mlxd_checkpoint_close(file);
    return 0;
}

static mlxd_err wait_result(mlxd_step *step, bool drawn) {
    struct result r;
    assert_int_equal(mlxd_queue_pop(results, &r, UINT64_MAX), MLXD_OK);
    assert_ptr_equal(r.step, step);
    assert_int_equal(r.drawn, drawn);
    return r.err;
}

static mlxd_generation *open_generation(double temperature, uint64_t seed) {
    mlxd_generation_params p = {.max_tokens = 3};
    mlxd_generation *g;
    mlxd_why why = {0};
    mlxd_sampling_init(&p.sampling);
    p.sampling.temperature = temperature;
    p.sampling.seed = seed;
    p.sampling.digest = true;
    model_file_check(mlxd_generation_open(&g, &p, tokenizer, config.vocab, NULL, 0, &why), &why);
    return g;
}

static void embeddings(void **state) {
    static const char name[] = "token_embd.weight";
    mlxd_step *s = mlxd_step_open(2, 600, WIDTH);
    int32_t tokens[515];
    mlxd_why why = {0};
    float row[WIDTH];
    (void)state;
    for (int i = 0; i < 515; i++)
        tokens[i] = (i * 7) % 515;
    mlxd_row r = {.n_tokens = 515, .tokens = tokens};
    assert_true(mlxd_step_add(s, &r, NULL));
    mlxd_head_embed(head, s);
    assert_int_equal(wait_result(s, false), MLXD_OK);
    const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(file, name);
    for (int i = 0; i < 515; i++) {
        uint64_t at = (uint64_t)tokens[i] * sizeof row;
        model_file_check(mlxd_checkpoint_read(file, t, 0, at, row, sizeof row, &why), &why);
        assert_memory_equal(s->hidden + i * WIDTH, row, sizeof row);
    }
    mlxd_step_close(s);
}

struct drawn {
    int32_t token;
    mlxd_finish finish;
    char digest[MLXD_SHA256_HEX], text[100];
};

static struct drawn take(mlxd_step *s, uint32_t r) {
    struct drawn d = {.token = s->drawn[r], .finish = s->finish[r]};
    assert_true(mlxd_generation_digest(s->generations[r], d.digest));
    snprintf(d.text, sizeof d.text, "%s", mlxd_buf_str(mlxd_generation_text(s->generations[r])));
    return d;
}

/* Rows r in [from, from + n) of a batch of states; every third one draws nothing: it wants no
 * state, or one that nobody draws from. */
static void draw(const float *states, uint32_t from, uint32_t n, struct drawn *out) {
    mlxd_step *s = mlxd_step_open(ROWS, 2 * ROWS, WIDTH);
    int32_t tokens[2] = {1, 2};
    for (uint32_t r = from; r < from + n; r++) {
        bool draws = r % 3 != 0;
        mlxd_row row = {.session = r,
                        .position = r * 5,
                        .n_tokens = 1 + r % 2,
                        .n_out = r % 6 == 0 ? 0 : 1,
                        .tokens = tokens};
        assert_true(mlxd_step_add(s, &row, draws ? open_generation(r % 2 ? 0 : 1.5, r) : NULL));
    }
    s->n_hidden = 0;
    for (uint32_t r = 0; r < s->n_rows; r++)
        if (s->rows[r].n_out)
            memcpy(s->hidden + (size_t)s->n_hidden++ * WIDTH, states + (size_t)(from + r) * WIDTH,
                   WIDTH * sizeof *states);
    mlxd_head_draw(head, s);
    assert_int_equal(wait_result(s, true), MLXD_OK);
    for (uint32_t r = 0; r < s->n_rows; r++)
        if (s->generations[r]) {
            out[r] = take(s, r);
            mlxd_generation_close(s->generations[r]);
        }
    mlxd_step_close(s);
}

static void each_row_as_if_alone(void **state) {
    random_state rng = random_open("head");
    static float states[ROWS * WIDTH];
    static struct drawn together[ROWS], alone;
    (void)state;
    for (size_t i = 0; i < ROWS * WIDTH; i++)
        states[i] = (float)(int32_t)random_below(&rng, 2001) / 500 - 2;
    draw(states, 0, ROWS, together);
    bool differ = false;
    for (uint32_t r = 0; r < ROWS; r++) {
        if (r % 3 == 0)
            continue;
        draw(states, r, 1, &alone);
        assert_int_equal(alone.token, together[r].token);
        assert_int_equal(alone.finish, together[r].finish);
        assert_string_equal(alone.digest, together[r].digest);
        assert_string_equal(alone.text, together[r].text);
        assert_true(alone.token >= 0 && (uint32_t)alone.token < config.vocab);
        differ = differ || alone.token != together[1].token;
    }
    assert_true(differ);
}

static void states_that_are_not_finite(void **state) {
    mlxd_step *s = mlxd_step_open(2, 2, WIDTH);
    int32_t token = 1;
    (void)state;
    for (uint32_t r = 0; r < 2; r++) {
        mlxd_row row = {.session = r, .n_tokens = 1, .n_out = 1, .tokens = &token};
        assert_true(mlxd_step_add(s, &row, open_generation(0, 0)));
        for (int i = 0; i < WIDTH; i++)
            s->hidden[r * WIDTH + (uint32_t)i] = (float)i;
    }
    s->hidden[WIDTH + 3] = 0.0f / 0.0f;
    mlxd_head_draw(head, s);
    assert_int_equal(wait_result(s, true), MLXD_ERR_CORRUPT);
    mlxd_generation_close(s->generations[0]);
    mlxd_generation_close(s->generations[1]);
    mlxd_step_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings),
        cmocka_unit_test(each_row_as_if_alone),
        cmocka_unit_test(states_that_are_not_finite),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
