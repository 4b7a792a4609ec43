/* test_layers.c - a range of layers: what shares a step, how a prompt is cut, how many threads and
 * which kernels compute it changes no bit of the result; and what a step refuses. */
#include "../../support/model_file.h"

#include "model/layers.h"
#include "model/vocab.h"

#define CONTEXT 420
#define PAGES 7 /* of a whole context */
#define STEP_MAX 448
#define SESSIONS 5

struct model {
    mlxd_checkpoint *file;
    mlxd_config config;
    mlxd_pool *pool;
    mlxd_vocab *vocab;
};

static struct model open_model(const char *name, unsigned threads) {
    struct model m;
    char path[300];
    mlxd_why why = {0};
    snprintf(path, sizeof path, "%s/%s", MLXD_GOLDEN, name);
    m.file = model_file_open(path);
    model_file_check(mlxd_config_read(&m.config, m.file, &why), &why);
    m.pool = mlxd_pool_open(threads);
    assert_non_null(m.pool);
    model_file_check(
        mlxd_vocab_open(&m.vocab, m.file, &m.config, mlxd_kernels_scalar(), m.pool, NULL, &why),
        &why);
    return m;
}

static void close_model(struct model *m) {
    mlxd_vocab_close(m->vocab);
    mlxd_pool_close(m->pool);
    mlxd_checkpoint_close(m->file);
}

/* Layers [first, end) with their cache. */
struct range {
    uint32_t first, end;
    mlxd_layers *layers;
    mlxd_kv *kv;
};

static struct range open_range(const struct model *m, const mlxd_kernels *k, uint32_t first,
                               uint32_t end, uint32_t pages) {
    struct range r = {.first = first, .end = end};
    mlxd_why why = {0};
    mlxd_layers_params p = {.checkpoint = m->file,
                            .config = &m->config,
                            .kernels = k,
                            .first = first,
                            .end = end,
                            .positions = CONTEXT,
                            .tokens_max = STEP_MAX,
                            .pool = m->pool};
    model_file_check(mlxd_layers_open(&r.layers, &p, &why), &why);
    model_file_check(mlxd_kv_open(&r.kv, &m->config, end - first, pages, &why), &why);
    return r;
}

static void close_range(struct range *r) {
    mlxd_layers_close(r->layers);
    mlxd_kv_close(r->kv);
}

/* ---- sessions and steps ---- */

struct session {
    uint64_t id;
    uint32_t length, done; /* tokens there are, tokens computed */
    int32_t tokens[CONTEXT];
    float *want; /* [length][hidden]: what the layers give when the session is alone */
};

static uint64_t hash_of(const struct session *s, uint32_t n) {
    uint64_t h = mlxd_kv_hash_init();
    for (uint32_t i = 0; i < n; i++)
        h = mlxd_kv_hash_add(h, s->tokens[i]);
    return h;
}

/* Rows of a step under construction. */
struct batch {
    mlxd_row rows[STEP_MAX];
    struct session *sessions[STEP_MAX];
    int32_t tokens[STEP_MAX + CONTEXT];
    uint32_t n_rows, n_tokens;
};

static void add_row(struct batch *b, struct session *s, uint32_t position, uint32_t n) {
    b->rows[b->n_rows] = (mlxd_row){.session = s->id,
                                    .prefix_hash = hash_of(s, position),
                                    .position = position,
                                    .n_tokens = n,
                                    .tokens = b->tokens + b->n_tokens};
    memcpy(b->tokens + b->n_tokens, s->tokens + position, n * sizeof *s->tokens);
    b->sessions[b->n_rows++] = s;
    b->n_tokens += n;
}

static mlxd_err run_step(struct model *m, struct range *r, const struct batch *b, float *hidden,
                         const mlxd_abort *abort, mlxd_why *why) {
    return mlxd_layers_step(r->layers, r->kv, m->pool, r->first, r->end, b->rows, b->n_rows, false,
                            hidden, abort, why);
}

/* Runs the batch through the ranges and compares every hidden state with its session's. */
static void run_and_compare(struct model *m, struct range *ranges, size_t n_ranges,
                            const struct batch *b) {
    float *hidden = mlxd_mem_new((size_t)b->n_tokens * m->config.hidden, sizeof *hidden);
    size_t row_bytes = m->config.hidden * sizeof *hidden;
    mlxd_why why = {0};
    mlxd_vocab_embed(m->vocab, b->tokens, b->n_tokens, hidden);
    for (size_t i = 0; i < n_ranges; i++)
        model_file_check(run_step(m, &ranges[i], b, hidden, NULL, &why), &why);
    const float *at = hidden;
    for (uint32_t r = 0; r < b->n_rows; r++)
        for (uint32_t t = 0; t < b->rows[r].n_tokens; t++, at += m->config.hidden) {
            uint32_t position = b->rows[r].position + t;
            if (memcmp(at, b->sessions[r]->want + (size_t)position * m->config.hidden, row_bytes))
                fail_msg("row %u of %u (session %llu, %u tokens): position %u has other bits", r,
                         b->n_rows, (unsigned long long)b->rows[r].session, b->rows[r].n_tokens,
                         position);
        }
    mlxd_mem_free(hidden);
}

/* Random tokens, and what the scalar kernels make of them when the session is alone. */
static void make_sessions(random_state *rng, struct model *m, struct session *s, size_t n,
                          const uint32_t *length) {
    struct range r = open_range(m, mlxd_kernels_scalar(), 0, m->config.layers, PAGES);
    mlxd_why why = {0};
    for (size_t i = 0; i < n; i++) {
        static struct batch b;
        b.n_rows = b.n_tokens = 0;
        s[i] = (struct session){.id = random_u64(rng), .length = length[i]};
        for (uint32_t t = 0; t < s[i].length; t++)
            s[i].tokens[t] = (int32_t)random_below(rng, m->config.vocab);
        s[i].want = mlxd_mem_new((size_t)s[i].length * m->config.hidden, sizeof(float));
        add_row(&b, &s[i], 0, s[i].length);
        mlxd_vocab_embed(m->vocab, b.tokens, b.n_tokens, s[i].want);
        model_file_check(run_step(m, &r, &b, s[i].want, NULL, &why), &why);
        mlxd_kv_drop(r.kv, s[i].id);
    }
    close_range(&r);
}

static void free_sessions(struct session *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        mlxd_mem_free(s[i].want);
}

/* ---- the same bits ---- */

/* One random step: some sessions, each by some tokens, sometimes again from an earlier position. */
static void random_step(random_state *rng, struct batch *b, struct session *s, size_t n) {
    b->n_rows = b->n_tokens = 0;
    uint32_t first = random_below(rng, (uint32_t)n), chunk = 1 + random_below(rng, 90);
    for (uint32_t i = 0; i < n; i++) {
        struct session *one = &s[(first + i) % n];
        if (random_below(rng, 3) == 0)
            continue;
        if (random_below(rng, 12) == 0)
            one->done = random_below(rng, one->done + 1);
        uint32_t want = random_below(rng, 3) ? 1 + random_below(rng, chunk) : 1;
        uint32_t count = MLXD_MIN(want, one->length - one->done);
        count = MLXD_MIN(count, STEP_MAX - b->n_tokens);
        if (count == 0)
            continue;
        add_row(b, one, one->done, count);
        one->done += count;
    }
}

static bool all_done(const struct session *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i].done < s[i].length)
            return false;
    return true;
}

static void interleave(random_state *rng, struct model *m, struct session *s) {
    static struct batch b;
    const mlxd_kernels *k = mlxd_kernels_at(random_below(rng, (uint32_t)mlxd_kernels_count()));
    uint32_t mid = random_below(rng, m->config.layers);
    struct range ranges[2];
    size_t n = 0;
    if (mid > 0)
        ranges[n++] = open_range(m, k, 0, mid, PAGES * SESSIONS);
    ranges[n++] = open_range(m, k, mid, m->config.layers, PAGES * SESSIONS);
    for (size_t i = 0; i < SESSIONS; i++)
        s[i].done = 0;
    while (!all_done(s, SESSIONS)) {
        random_step(rng, &b, s, SESSIONS);
        if (b.n_rows > 0)
            run_and_compare(m, ranges, n, &b);
        if (random_below(rng, 15) == 0) { /* drop one, it begins anew */
            size_t i = random_below(rng, SESSIONS);
            for (size_t j = 0; j < n; j++)
                mlxd_kv_drop(ranges[j].kv, s[i].id);
            s[i].done = 0;
        }
    }
    for (size_t i = 0; i < n; i++)
        close_range(&ranges[i]);
}

static void company_and_chunks_change_no_bit(void **state) {
    static const char *const models[] = {
        "tiny-bf16.gguf",   "tiny-v2.gguf",          "tiny-q4_0.gguf",          "tiny-q4_1.gguf",
        "tiny-untied.gguf", "families/gpt_oss.gguf", "families/qwen3_moe_mlx4", "families/gemma3",
        "families/olmo2",   "families/granite",      "families/llama_mlx8"};
    random_state rng = random_open("layers");
    static struct session s[SESSIONS];
    (void)state;
    mlxd_os_fpu_init();
    for (size_t i = 0; i < MLXD_COUNT_OF(models); i++) {
        struct model m = open_model(models[i], 1 + random_below(&rng, 4));
        uint32_t length[SESSIONS];
        for (size_t j = 0; j < SESSIONS; j++)
            length[j] = 1 + random_below(&rng, j == 0 ? CONTEXT : 100);
        make_sessions(&rng, &m, s, SESSIONS, length);
        interleave(&rng, &m, s);
        free_sessions(s, SESSIONS);
        close_model(&m);
    }
}

/* One token after the other far into a session: its pages are shared out over the threads. */
static void long_contexts_change_no_bit(void **state) {
    static const unsigned threads[] = {1, 3, 5};
    static struct session s;
    static struct batch b;
    random_state rng = random_open("long");
    const uint32_t length = CONTEXT;
    (void)state;
    mlxd_os_fpu_init();
    static const char *const models[] = {"tiny-q4_0.gguf", "families/gpt_oss.gguf",
                                         "families/gemma2"};
    for (size_t i = 0; i < MLXD_COUNT_OF(threads) * MLXD_COUNT_OF(models); i++) {
        struct model m =
            open_model(models[i % MLXD_COUNT_OF(models)], threads[i / MLXD_COUNT_OF(models)]);
        make_sessions(&rng, &m, &s, 1, &length);
        for (size_t k = 0; k < mlxd_kernels_count(); k++) {
            struct range r = open_range(&m, mlxd_kernels_at(k), 0, m.config.layers, PAGES);
            for (uint32_t at = 0, n = 250; at < length; at += n, n = 1) {
                b.n_rows = b.n_tokens = 0;
                add_row(&b, &s, at, n);
                run_and_compare(&m, &r, 1, &b);
            }
            close_range(&r);
        }
        free_sessions(&s, 1);
        close_model(&m);
    }
}

/* ---- refusals: whatever a step says no to, the same step with the fault mended is right ---- */

struct scene {
    struct model m;
    struct range r;
    struct session s[3];
    struct batch b;
    float hidden[STEP_MAX * 64];
};

/* Only what is wanted: of a chunk nothing, of a prompt its last, a token, three tokens. */
static void wanted_states_are_the_same_in(const char *name) {
    static const uint32_t length[] = {90, 40, 130, 60}, n_out[] = {0, 1, 1, 3};
    static struct session s[4];
    static float hidden[STEP_MAX * 1024];
    random_state rng = random_open("wanted");
    mlxd_os_fpu_init();
    struct model m = open_model(name, 2);
    assert_true(m.config.hidden <= 1024);
    make_sessions(&rng, &m, s, 4, length);
    struct range r = open_range(&m, mlxd_kernels_scalar(), 0, m.config.layers, 20);
    struct batch b = {.n_rows = 0};
    add_row(&b, &s[2], 0, 129);
    run_and_compare(&m, &r, 1, &b);
    b.n_rows = b.n_tokens = 0;
    add_row(&b, &s[0], 0, 70);
    add_row(&b, &s[1], 0, 40);
    add_row(&b, &s[2], 129, 1);
    add_row(&b, &s[3], 0, 60);
    for (size_t i = 0; i < 4; i++)
        b.rows[i].n_out = n_out[i];
    mlxd_why why = {0};
    mlxd_vocab_embed(m.vocab, b.tokens, b.n_tokens, hidden);
    model_file_check(mlxd_layers_step(r.layers, r.kv, m.pool, r.first, r.end, b.rows, b.n_rows,
                                      true, hidden, NULL, &why),
                     &why);
    size_t width = m.config.hidden, at = 0;
    for (size_t i = 0; i < 4; at += b.rows[i++].n_tokens) {
        size_t skip = b.rows[i].n_tokens - n_out[i], position = b.rows[i].position + skip;
        assert_memory_equal(hidden + (at + skip) * width, s[i].want + position * width,
                            n_out[i] * width * sizeof *hidden);
    }
    b.n_rows = b.n_tokens = 0; /* the chunk's K and V are there: the prompt goes on */
    add_row(&b, &s[0], 70, 20);
    run_and_compare(&m, &r, 1, &b);
    free_sessions(s, 4);
    close_range(&r);
    close_model(&m);
}

static void wanted_states_are_the_same(void **state) {
    (void)state;
    wanted_states_are_the_same_in("tiny-v2.gguf");
    wanted_states_are_the_same_in("families/gpt_oss.gguf");
    wanted_states_are_the_same_in("families/qwen3_moe_mlx4");
    wanted_states_are_the_same_in("families/gemma3");
    wanted_states_are_the_same_in("families/olmo2");
}

/* Sessions of 90, 20 and 130 tokens, computed up to 70, 0 and 129. */
static struct scene *open_scene(uint32_t pages) {
    static const uint32_t length[] = {90, 20, 130};
    static struct scene c;
    random_state rng = random_open("scene");
    mlxd_os_fpu_init();
    c.m = open_model("tiny-v2.gguf", 2);
    make_sessions(&rng, &c.m, c.s, 3, length);
    c.r = open_range(&c.m, mlxd_kernels_scalar(), 0, c.m.config.layers, pages);
    c.b.n_rows = c.b.n_tokens = 0;
    add_row(&c.b, &c.s[0], 0, 70);
    add_row(&c.b, &c.s[2], 0, 129);
    run_and_compare(&c.m, &c.r, 1, &c.b);
    return &c;
}

/* The step all tests below spoil: 20 tokens, a whole prompt, one token. */
static void good_step(struct scene *c) {
    c->b.n_rows = c->b.n_tokens = 0;
    add_row(&c->b, &c->s[0], 70, 20);
    add_row(&c->b, &c->s[1], 0, 20);
    add_row(&c->b, &c->s[2], 129, 1);
    mlxd_vocab_embed(c->m.vocab, c->b.tokens, c->b.n_tokens, c->hidden);
}

static void close_scene(struct scene *c) {
    good_step(c);
    run_and_compare(&c->m, &c->r, 1, &c->b);
    free_sessions(c->s, 3);
    close_range(&c->r);
    close_model(&c->m);
}

static void refused(struct scene *c, mlxd_err want, const char *text) {
    mlxd_why why = {0};
    mlxd_err err = run_step(&c->m, &c->r, &c->b, c->hidden, NULL, &why);
    if (err != want || !strstr(why.text, text))
        fail_msg("expected %s \"...%s...\", got %s \"%s\"", mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
    good_step(c);
    run_and_compare(&c->m, &c->r, 1, &c->b);
    good_step(c);
}

static void positions_out_of_range(void **state) {
    struct scene *c = open_scene(12);
    (void)state;
    good_step(c);
    c->b.rows[2].position = 131;
    refused(c, MLXD_ERR_RANGE, "has 129 positions, step starts at 131");
    c->b.rows[2].position = UINT32_MAX;
    refused(c, MLXD_ERR_RANGE, "beyond the context of 420");
    c->b.rows[0].position = CONTEXT - 19;
    refused(c, MLXD_ERR_RANGE, "positions 401..420");
    c->b.rows[2].n_tokens = 0;
    refused(c, MLXD_ERR_RANGE, "1..448 tokens");
    c->b.rows[2].n_tokens = UINT32_MAX;
    refused(c, MLXD_ERR_RANGE, "1..448 tokens");
    c->b.rows[2].n_tokens = STEP_MAX - 39;
    refused(c, MLXD_ERR_RANGE, "1..448 tokens");
    close_scene(c);
}

static void other_tokens(void **state) {
    struct scene *c = open_scene(12);
    (void)state;
    good_step(c);
    c->b.rows[0].prefix_hash++;
    refused(c, MLXD_ERR_STATE, "other tokens");
    c->b.rows[1].prefix_hash = 0;
    refused(c, MLXD_ERR_STATE, "other tokens");
    close_scene(c);
}

/* From a peer that has lost its way; would have two threads write one page. */
static void one_session_twice(void **state) {
    struct scene *c = open_scene(12);
    (void)state;
    good_step(c);
    c->b.rows[2].session = c->b.rows[0].session;
    refused(c, MLXD_ERR_INVALID, "two rows of one session");
    c->b.n_rows = c->b.n_tokens = 0;
    add_row(&c->b, &c->s[2], 0, 129);
    add_row(&c->b, &c->s[2], 0, 1); /* would free the first row's pages */
    refused(c, MLXD_ERR_INVALID, "two rows of one session");
    close_scene(c);
}

static void no_pages(void **state) {
    struct scene *c = open_scene(6); /* 2 + 1 + 3 */
    struct session big = {.id = 7, .length = 1};
    (void)state;
    good_step(c);
    c->b.n_rows = 2;
    c->b.n_tokens = 40;
    add_row(&c->b, &big, 0, 1);
    mlxd_kv_session *s;
    mlxd_why why = {0};
    assert_int_equal(mlxd_kv_begin(c->r.kv, 99, 0, mlxd_kv_hash_init(), big.tokens, 1, &s, &why),
                     MLXD_OK);
    assert_int_equal(run_step(&c->m, &c->r, &c->b, c->hidden, NULL, &why), MLXD_ERR_FULL);
    mlxd_kv_drop(c->r.kv, 99);
    close_scene(c);
}

static void values_that_are_not_finite(void **state) {
    static const float bad[] = {0.0f / 0.0f, 1.0f / 0.0f, -1.0f / 0.0f};
    struct scene *c = open_scene(12);
    (void)state;
    for (int i = 0; i < 9; i++) {
        char text[64];
        uint32_t token = (const uint32_t[]){0, 25, 40}[i / 3], row = (uint32_t)i / 3;
        good_step(c);
        c->hidden[token * c->m.config.hidden + 17] = bad[i % 3];
        snprintf(text, sizeof text, "session %llu", (unsigned long long)c->s[row].id);
        refused(c, MLXD_ERR_CORRUPT, text);
    }
    c->b.n_rows = c->b.n_tokens = 0; /* one token, alone */
    add_row(&c->b, &c->s[2], 129, 1);
    c->hidden[0] = bad[0];
    refused(c, MLXD_ERR_CORRUPT, "session");
    close_scene(c);
}

struct countdown {
    unsigned calls, left;
};

static bool abort_after(void *ctx) {
    struct countdown *d = ctx;
    d->calls++;
    return d->left-- == 0;
}

static void a_step_stops_between_layers(void **state) {
    struct scene *c = open_scene(12);
    mlxd_why why = {0};
    (void)state;
    for (unsigned left = 0; left <= c->m.config.layers; left++) {
        struct countdown d = {.left = left};
        mlxd_abort abort = {abort_after, &d};
        good_step(c);
        mlxd_err err = run_step(&c->m, &c->r, &c->b, c->hidden, &abort, &why);
        assert_int_equal(err, left < c->m.config.layers ? MLXD_ERR_CANCELLED : MLXD_OK);
        assert_int_equal(d.calls, MLXD_MIN(left + 1, c->m.config.layers));
        good_step(c); /* the same rows again are right */
        run_and_compare(&c->m, &c->r, 1, &c->b);
    }
    close_scene(c);
}

/* ---- cost, loading ---- */

static void decoding_does_not_allocate(void **state) {
    struct scene *c = open_scene(12);
    mlxd_why why = {0};
    (void)state;
    good_step(c);
    run_and_compare(&c->m, &c->r, 1, &c->b);
    struct session s[2] = {c->s[0], c->s[2]};
    uint64_t before = mlxd_mem_count();
    for (uint32_t i = 0; i < 70; i++) { /* both sessions pass the end of a page */
        c->b.n_rows = c->b.n_tokens = 0;
        add_row(&c->b, &s[0], 90 + i, 1);
        add_row(&c->b, &s[1], 130 + i, 1);
        mlxd_vocab_embed(c->m.vocab, c->b.tokens, 2, c->hidden);
        model_file_check(run_step(&c->m, &c->r, &c->b, c->hidden, NULL, &why), &why);
    }
    assert_int_equal(mlxd_mem_count(), before);
    close_scene(c);
}

static void names_and_digests(void **state) {
    struct model m = open_model("tiny-untied.gguf", 1);
    struct range r = open_range(&m, mlxd_kernels_scalar(), 1, 3, 1);
    mlxd_why why = {0};
    uint64_t size, all;
    size_t n;
    (void)state;
    const mlxd_tensor_digest *d = mlxd_layers_digests(r.layers, &n);
    mlxd_tensor_name names[64];
    assert_int_equal(n, mlxd_layers_tensors(&m.config, 1, 3, NULL));
    assert_int_equal(n, mlxd_layers_tensors(&m.config, 1, 3, names));
    for (size_t i = 0; i < n; i++) {
        const char *name = names[i].text;
        uint8_t want[MLXD_SHA256_BYTES];
        assert_string_equal(d[i].name, name);
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(m.file, name);
        assert_non_null(t);
        uint8_t *data = mlxd_mem_new(t->bytes, 1);
        model_file_check(mlxd_checkpoint_read(m.file, t, 0, 0, data, t->bytes, &why), &why);
        mlxd_sha256_once(data, t->bytes, want);
        assert_memory_equal(d[i].sha256, want, sizeof want);
        mlxd_mem_free(data);
    }
    model_file_check(mlxd_layers_size(m.file, &m.config, 1, 3, &size, &why), &why);
    model_file_check(mlxd_layers_size(m.file, &m.config, 0, 3, &all, &why), &why);
    assert_true(size > 0 && size < all && mlxd_layers_bytes(r.layers) > size);
    model_file_check(mlxd_layers_size(m.file, &m.config, 2, 2, &size, &why), &why);
    assert_int_equal(size, 0);
    assert_true(mlxd_layers_first(r.layers) == 1 && mlxd_layers_end(r.layers) == 3);
    assert_int_equal(mlxd_layers_tokens_max(r.layers), STEP_MAX);
    close_range(&r);
    mlxd_layers_close(NULL);
    close_model(&m);
}

/* A block with a tensor that would be left out is another model; one without a tensor is none. */
static void tensors_too_many_or_too_few(void **state) {
    static const struct {
        const char *from, *to, *text;
        mlxd_err err;
    } cases[] = {
        {"blk.0.attn_norm.weight", "blk.1.attn_output.bias", "blk.1.attn_output.bias",
         MLXD_ERR_UNSUPPORTED},
        {"blk.1.ffn_up.weight", "blk.1.ffn_uq.weight", "blk.1.ffn_up.weight", MLXD_ERR_DATA},
        {"blk.2.ffn_norm.weight", "blk.2.ffn_nurm.weight", "blk.2.ffn_norm.weight", MLXD_ERR_DATA},
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        mlxd_buf all = golden_read("tiny-untied.gguf");
        struct model m = open_model("tiny-untied.gguf", 1);
        mlxd_why why = {0};
        mlxd_layers *l;
        size_t len = strlen(cases[i].from);
        assert_int_equal(strlen(cases[i].to), len);
        for (size_t at = 8; at + len < all.len; at++)
            if (memcmp(all.data + at, cases[i].from, len) == 0 && all.data[at - 8] == len)
                memcpy(all.data + at, cases[i].to, len);
        mlxd_checkpoint *f = model_file_open(model_file_put("blocks.gguf", all.data, all.len));
        mlxd_layers_params p = {.checkpoint = f,
                                .config = &m.config,
                                .kernels = mlxd_kernels_scalar(),
                                .first = 1,
                                .end = 3,
                                .positions = 64,
                                .tokens_max = 8,
                                .pool = m.pool};
        assert_int_equal(mlxd_layers_open(&l, &p, &why), cases[i].err);
        assert_non_null(strstr(why.text, cases[i].text));
        mlxd_checkpoint_close(f);
        close_model(&m);
        mlxd_buf_deinit(&all);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_contexts_change_no_bit),
        cmocka_unit_test(wanted_states_are_the_same),
        cmocka_unit_test(company_and_chunks_change_no_bit),
        cmocka_unit_test(positions_out_of_range),
        cmocka_unit_test(other_tokens),
        cmocka_unit_test(one_session_twice),
        cmocka_unit_test(no_pages),
        cmocka_unit_test(values_that_are_not_finite),
        cmocka_unit_test(a_step_stops_between_layers),
        cmocka_unit_test(decoding_does_not_allocate),
        cmocka_unit_test(names_and_digests),
        cmocka_unit_test(tensors_too_many_or_too_few),
    };
    return cmocka_run_group_tests(tests, model_file_set_up, model_file_tear_down);
}
