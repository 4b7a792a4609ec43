/* test_weights.c - tensors of a file: packed values, digests, and what is refused by name. */
#include "../../support/model_file.h"

#include "kernel/kernel.h"
#include "model/weights.h"

#include <stdatomic.h>

#define IQ2_XXS 16

static mlxd_pool *pool;

static int set_up(void **state) {
    mlxd_os_fpu_init();
    pool = mlxd_pool_open(3);
    return pool ? model_file_set_up(state) : -1;
}

static int tear_down(void **state) {
    mlxd_pool_close(pool);
    return model_file_tear_down(state);
}

static mlxd_weight_spec matrix_spec(const char *name, size_t rows, size_t cols, mlxd_matrix *m) {
    mlxd_weight_spec s = {.rows = rows, .cols = cols, .matrix = m};
    snprintf(s.name, sizeof s.name, "%s", name);
    return s;
}

static mlxd_weight_spec vector_spec(const char *name, size_t cols, const float **v) {
    mlxd_weight_spec s = {.cols = cols, .vector = v};
    snprintf(s.name, sizeof s.name, "%s", name);
    return s;
}

/* ---- what a tensor's values are, read from the file's bytes by themselves ---- */

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return mlxd_f16_to_f32(h);
}

static int nibble(const uint8_t *p, size_t i) {
    return i < 16 ? p[i] & 15 : p[i - 16] >> 4;
}

static int fifth_bit(const uint8_t *p, size_t i) {
    return (p[i / 8] >> (i % 8) & 1) << 4;
}

static double value_at(uint32_t type, const uint8_t *row, size_t col) {
    const uint8_t *b;
    size_t i = col % 32;
    float f;
    uint16_t h;
    switch (type) {
    case MLXD_GGUF_TYPE_F32:
        memcpy(&f, row + 4 * col, 4);
        return (double)f;
    case MLXD_GGUF_TYPE_F16:
        return (double)half_at(row + 2 * col);
    case MLXD_GGUF_TYPE_BF16:
        memcpy(&h, row + 2 * col, 2);
        return (double)mlxd_bf16_to_f32(h);
    case MLXD_GGUF_TYPE_Q8_0:
        b = row + col / 32 * 34;
        return (double)half_at(b) * (int8_t)b[2 + i];
    case MLXD_GGUF_TYPE_Q4_0:
        b = row + col / 32 * 18;
        return (double)half_at(b) * (nibble(b + 2, i) - 8);
    case MLXD_GGUF_TYPE_Q5_0:
        b = row + col / 32 * 22;
        return (double)half_at(b) * (fifth_bit(b + 2, i) + nibble(b + 6, i) - 16);
    case MLXD_GGUF_TYPE_Q5_1:
        b = row + col / 32 * 24;
        return (double)half_at(b) * (fifth_bit(b + 4, i) + nibble(b + 8, i)) +
               (double)half_at(b + 2);
    default: /* Q4_1 */
        b = row + col / 32 * 20;
        return (double)half_at(b) * nibble(b + 4, i) + (double)half_at(b + 2);
    }
}

static void check_matrix(const mlxd_matrix *m, uint32_t type, const uint8_t *data) {
    uint32_t elems, block;
    assert_true(mlxd_gguf_type_size(type, &elems, &block));
    size_t row_bytes = m->cols / elems * block;
    float *row = mlxd_mem_new(m->cols, sizeof *row);
    for (size_t r = 0; r < m->rows; r++) {
        mlxd_matrix_get_row(m, r, row);
        for (size_t c = 0; c < m->cols; c++) {
            double want = value_at(type, data + r * row_bytes, c);
            if (want != want ? row[c] == row[c] : (float)want != row[c])
                fail_msg("row %zu, column %zu: %g, expected %g", r, c, (double)row[c], want);
        }
    }
    mlxd_mem_free(row);
}

struct progress {
    _Atomic uint64_t most, calls;
    uint64_t total;
};

static void on_progress(void *ctx, uint64_t done, uint64_t total) {
    struct progress *p = ctx;
    uint64_t most = atomic_load(&p->most);
    while (done > most && !atomic_compare_exchange_weak(&p->most, &most, done))
        continue;
    atomic_fetch_add(&p->calls, 1);
    if (total != p->total)
        abort();
}

/* All types; row counts that fill no panel; a tensor that is read in several pieces. */
static void every_type_is_read(void **state) {
    static const struct {
        uint32_t type;
        uint64_t rows, cols;
    } t[] = {
        {MLXD_GGUF_TYPE_F32, 16, 32},      {MLXD_GGUF_TYPE_F32, 1, 7},
        {MLXD_GGUF_TYPE_F32, 700, 1000},   {MLXD_GGUF_TYPE_F16, 33, 48},
        {MLXD_GGUF_TYPE_BF16, 17, 5},      {MLXD_GGUF_TYPE_Q8_0, 15, 64},
        {MLXD_GGUF_TYPE_Q4_0, 31, 32},     {MLXD_GGUF_TYPE_Q4_1, 5, 96},
        {MLXD_GGUF_TYPE_Q5_0, 19, 64},     {MLXD_GGUF_TYPE_Q5_1, 33, 96},
        {MLXD_GGUF_TYPE_Q8_0, 1500, 1024},
    };
    enum { N = sizeof t / sizeof t[0] };
    random_state r = random_open("weights");
    model_file file = {0};
    size_t at[N], n;
    mlxd_matrix m[N];
    mlxd_weight_spec specs[N];
    uint8_t want[MLXD_SHA256_BYTES];
    mlxd_why why = {0};
    uint64_t size, bytes = 0;
    (void)state;
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "t.%d", i);
        at[i] = model_file_add(&file, name, t[i].type, (uint64_t[]){t[i].cols, t[i].rows}, 2, &r);
        specs[N - 1 - i] = matrix_spec(name, t[i].rows, t[i].cols, &m[i]); /* any order */
    }
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "types.gguf"));
    for (int i = 0; i < N; i++)
        bytes += mlxd_gguf_tensor_at(mlxd_checkpoint_gguf(f), (size_t)i)->data_bytes;
    struct progress progress = {.total = bytes};
    mlxd_weights *w;
    model_file_check(
        mlxd_weights_load(&w, f, specs, N, pool, &(mlxd_progress){on_progress, &progress}, &why),
        &why);
    assert_int_equal(atomic_load(&progress.most), bytes);
    assert_true(atomic_load(&progress.calls) > N);
    model_file_check(mlxd_weights_size(f, specs, N, &size, &why), &why);
    assert_int_equal(mlxd_weights_bytes(w), size);
    const mlxd_tensor_digest *d = mlxd_weights_digests(w, &n);
    assert_int_equal(n, N);
    for (int i = 0; i < N; i++) {
        const mlxd_gguf_tensor *g = mlxd_gguf_tensor_at(mlxd_checkpoint_gguf(f), (size_t)i);
        check_matrix(&m[i], t[i].type, file.data.data + at[i]);
        mlxd_sha256_once(file.data.data + at[i], g->data_bytes, want);
        assert_string_equal(d[N - 1 - i].name, g->name);
        assert_memory_equal(d[N - 1 - i].sha256, want, sizeof want);
        assert_int_equal((uintptr_t)m[i].data % 64, 0);
    }
    mlxd_weights_close(w);
    mlxd_weights_close(NULL);
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

static void vectors_are_widened(void **state) {
    static const uint32_t types[] = {MLXD_GGUF_TYPE_F32, MLXD_GGUF_TYPE_F16, MLXD_GGUF_TYPE_BF16};
    random_state r = random_open("vectors");
    model_file file = {0};
    const float *v[3];
    size_t at[3];
    mlxd_weight_spec specs[3];
    mlxd_why why = {0};
    (void)state;
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "v.%d", i);
        at[i] = model_file_add(&file, name, types[i], (uint64_t[]){99}, 1, &r);
        specs[i] = vector_spec(name, 99, &v[i]);
    }
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "vectors.gguf"));
    mlxd_weights *w;
    model_file_check(mlxd_weights_load(&w, f, specs, 3, pool, NULL, &why), &why);
    for (int i = 0; i < 3; i++)
        for (size_t c = 0; c < 99; c++) {
            double want = value_at(types[i], file.data.data + at[i], c);
            assert_true(want != want ? v[i][c] != v[i][c] : v[i][c] == (float)want);
        }
    mlxd_weights_close(w);
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

/* ---- parts of tensors, stacks of them, and tensors that may be missing ---- */

/* What the values of F32 data are, row by row. */
static float float_at(const model_file *file, size_t at, size_t index) {
    float f;
    memcpy(&f, file->data.data + at + index * sizeof f, sizeof f);
    return f;
}

/* Row i of the result is row `first + i * step` of matrix `which` of the stored `total` rows. */
static void check_part(const mlxd_matrix *m, const model_file *file, size_t at, size_t which,
                       size_t total, size_t first, size_t step) {
    float row[64];
    assert_int_equal((uintptr_t)m->data % 64, 0);
    for (size_t i = 0; i < m->rows; i++) {
        mlxd_matrix_get_row(m, i, row);
        for (size_t c = 0; c < m->cols; c++) {
            float want = float_at(file, at, (which * total + first + i * step) * m->cols + c);
            assert_memory_equal(&row[c], &want, sizeof want);
        }
    }
}

/* Fused and interleaved rows of stacked matrices: every expert is cut out of its own. The tensor's
 * digest is that of all of it, and there once. */
static void stacked_and_fused_matrices(void **state) {
    enum { EXPERTS = 5, TOTAL = 70, COLS = 24 };
    random_state r = random_open("stacked");
    model_file file = {0};
    mlxd_matrix whole[EXPERTS], gate[EXPERTS], up[EXPERTS], tail[EXPERTS];
    mlxd_why why = {0};
    (void)state;
    size_t at = model_file_add(&file, "experts", MLXD_GGUF_TYPE_F32,
                               (uint64_t[]){COLS, TOTAL, EXPERTS}, 3, &r);
    mlxd_weight_spec specs[4];
    specs[0] = matrix_spec("experts", TOTAL, COLS, whole);
    specs[1] = matrix_spec("experts", TOTAL / 2, COLS, gate);
    specs[2] = matrix_spec("experts", TOTAL / 2, COLS, up);
    specs[3] = matrix_spec("experts", 7, COLS, tail);
    for (int i = 0; i < 4; i++)
        specs[i].count = EXPERTS;
    for (int i = 1; i < 4; i++)
        specs[i].rows_total = TOTAL;
    specs[1].row_step = specs[2].row_step = 2;
    specs[2].row_first = 1;
    specs[3].row_first = TOTAL - 7;
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "stacked.gguf"));
    mlxd_weights *w;
    model_file_check(mlxd_weights_load(&w, f, specs, 4, pool, NULL, &why), &why);
    for (size_t e = 0; e < EXPERTS; e++) {
        check_part(&whole[e], &file, at, e, TOTAL, 0, 1);
        check_part(&gate[e], &file, at, e, TOTAL, 0, 2);
        check_part(&up[e], &file, at, e, TOTAL, 1, 2);
        check_part(&tail[e], &file, at, e, TOTAL, TOTAL - 7, 1);
    }
    size_t n;
    uint8_t want[MLXD_SHA256_BYTES];
    const mlxd_tensor_digest *d = mlxd_weights_digests(w, &n);
    mlxd_sha256_once(file.data.data + at, EXPERTS * TOTAL * COLS * sizeof(float), want);
    assert_int_equal(n, 1);
    assert_string_equal(d[0].name, "experts");
    assert_memory_equal(d[0].sha256, want, sizeof want);
    mlxd_weights_close(w);
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

static void parts_of_vectors(void **state) {
    enum { EXPERTS = 3, TOTAL = 40 };
    random_state r = random_open("vector parts");
    model_file file = {0};
    const float *odd, *norm;
    mlxd_why why = {0};
    (void)state;
    size_t biases =
        model_file_add(&file, "biases", MLXD_GGUF_TYPE_F32, (uint64_t[]){TOTAL, EXPERTS}, 2, &r);
    size_t one = model_file_add(&file, "norm", MLXD_GGUF_TYPE_F32, (uint64_t[]){TOTAL}, 1, &r);
    for (size_t i = 0; i < TOTAL; i++) { /* no NaN: sums are compared */
        float v = (float)i / 64 - 0.25f;
        memcpy(file.data.data + one + i * sizeof v, &v, sizeof v);
    }
    mlxd_weight_spec specs[2] = {vector_spec("biases", TOTAL / 2, &odd),
                                 vector_spec("norm", TOTAL, &norm)};
    specs[0].count = EXPERTS;
    specs[0].row_first = 1;
    specs[0].row_step = 2;
    specs[0].rows_total = TOTAL;
    specs[1].plus = 1;
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "parts.gguf"));
    mlxd_weights *w;
    model_file_check(mlxd_weights_load(&w, f, specs, 2, pool, NULL, &why), &why);
    for (size_t e = 0; e < EXPERTS; e++)
        for (size_t i = 0; i < TOTAL / 2; i++) {
            float want = float_at(&file, biases, e * TOTAL + 2 * i + 1);
            assert_memory_equal(&odd[e * TOTAL / 2 + i], &want, sizeof want);
        }
    for (size_t i = 0; i < TOTAL; i++)
        assert_true(norm[i] == float_at(&file, one, i) + 1);
    mlxd_weights_close(w);
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

static void optional_tensors(void **state) {
    random_state r = random_open("optional");
    model_file file = {0};
    mlxd_matrix there, gone[2] = {{.rows = 1, .data = (const uint8_t *)"x"}};
    const float *bias = (const float *)(const void *)&r;
    mlxd_why why = {0};
    (void)state;
    size_t at = model_file_add(&file, "there", MLXD_GGUF_TYPE_F32, (uint64_t[]){16, 20}, 2, &r);
    mlxd_weight_spec specs[3] = {matrix_spec("gone", 20, 16, gone),
                                 matrix_spec("there", 20, 16, &there),
                                 vector_spec("gone.bias", 16, &bias)};
    for (int i = 0; i < 3; i++)
        specs[i].optional = true;
    specs[0].count = 2;
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "optional.gguf"));
    mlxd_weights *w;
    size_t n;
    model_file_check(mlxd_weights_load(&w, f, specs, 3, pool, NULL, &why), &why);
    assert_null(gone[0].data);
    assert_null(gone[1].data);
    assert_null(bias);
    check_part(&there, &file, at, 0, 20, 0, 1);
    assert_string_equal(mlxd_weights_digests(w, &n)[0].name, "there");
    assert_int_equal(n, 1);
    mlxd_weights_close(w);
    specs[1].rows = 21; /* present, but not as it should be */
    assert_int_equal(mlxd_weights_load(&w, f, specs, 3, pool, NULL, &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "expected [16, 21]"));
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

/* ---- refusals ---- */

static void refused(const mlxd_checkpoint *f, mlxd_weight_spec spec, mlxd_err want,
                    const char *text) {
    mlxd_matrix m;
    const float *v;
    mlxd_weight_spec specs[2] = {matrix_spec("good", 2, 32, &m), spec};
    mlxd_weights *w;
    mlxd_why why = {0};
    uint64_t size;
    if (spec.matrix)
        specs[1].matrix = &m;
    else
        specs[1].vector = &v;
    mlxd_err err = mlxd_weights_load(&w, f, specs, 2, pool, NULL, &why);
    if (err != want || !strstr(why.text, text) || !strstr(why.text, spec.name) ||
        !strstr(why.text, mlxd_checkpoint_path(f)))
        fail_msg("expected %s \"...%s...\", got %s \"%s\"", mlxd_err_name(want), text,
                 mlxd_err_name(err), why.text);
    assert_int_equal(mlxd_weights_size(f, specs, 2, &size, &why), want);
}

static void what_does_not_fit_is_refused_by_name(void **state) {
    random_state r = {1};
    model_file file = {0};
    mlxd_matrix m;
    const float *v;
    (void)state;
    model_file_add(&file, "good", MLXD_GGUF_TYPE_F32, (uint64_t[]){32, 2}, 2, &r);
    model_file_add(&file, "wide", MLXD_GGUF_TYPE_F32, (uint64_t[]){64, 2}, 2, &r);
    model_file_add(&file, "deep", MLXD_GGUF_TYPE_F32, (uint64_t[]){32, 2, 2}, 3, &r);
    model_file_add(&file, "deeper", MLXD_GGUF_TYPE_F32, (uint64_t[]){32, 2, 1, 2}, 4, &r);
    model_file_add(&file, "odd", IQ2_XXS, (uint64_t[]){256, 2}, 2, &r);
    model_file_add(&file, "small", MLXD_GGUF_TYPE_Q8_0, (uint64_t[]){32}, 1, &r);
    mlxd_checkpoint *f = model_file_open(model_file_write(&file, "refused.gguf"));
    refused(f, matrix_spec("gone", 2, 32, &m), MLXD_ERR_DATA, "is missing");
    refused(f, matrix_spec("wide", 2, 32, &m), MLXD_ERR_DATA,
            "shape [64, 2, 1, 1], expected [32, 2]");
    refused(f, matrix_spec("wide", 3, 64, &m), MLXD_ERR_DATA, "expected [64, 3]");
    refused(f, matrix_spec("wide", 64, 2, &m), MLXD_ERR_DATA, "expected [2, 64]");
    refused(f, matrix_spec("deep", 2, 32, &m), MLXD_ERR_DATA, "[32, 2, 2, 1]");
    refused(f, matrix_spec("deeper", 2, 32, &m), MLXD_ERR_DATA, "[32, 2, 1, 2]");
    refused(f, matrix_spec("odd", 2, 256, &m), MLXD_ERR_UNSUPPORTED, "type IQ2_XXS");
    refused(f, vector_spec("wide", 64, &v), MLXD_ERR_DATA, "expected [64, 1]");
    refused(f, vector_spec("small", 32, &v), MLXD_ERR_UNSUPPORTED, "quantized type Q8_0");
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

/* A file that was cut after it was opened: the tensor is named, whichever thread met it. */
static void a_file_that_shrinks_while_loading(void **state) {
    random_state r = {1};
    model_file file = {0};
    mlxd_matrix m[20];
    mlxd_weight_spec specs[20];
    (void)state;
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "tensor.%02d", i);
        model_file_add(&file, name, MLXD_GGUF_TYPE_F16, (uint64_t[]){64, 50}, 2, &r);
        specs[i] = matrix_spec(name, 50, 64, &m[i]);
    }
    const char *path = model_file_write(&file, "cut.gguf");
    mlxd_checkpoint *f = model_file_open(path);
    for (int keep = 0; keep < 20; keep += 3) {
        const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(mlxd_checkpoint_gguf(f), (size_t)keep);
        mlxd_weights *w;
        mlxd_why why = {0};
        assert_int_equal(truncate(path, (off_t)(t->file_offset + 100)), 0);
        assert_int_equal(mlxd_weights_load(&w, f, specs, 20, pool, NULL, &why), MLXD_ERR_DATA);
        assert_non_null(strstr(why.text, "tensor.")); /* one that is not there any more */
        assert_true(atoi(strstr(why.text, "tensor.") + 7) >= keep);
        assert_non_null(strstr(why.text, "the file ends here"));
        assert_int_equal(mlxd_weights_load(&w, f, specs, 20, pool, NULL, NULL), MLXD_ERR_DATA);
        keep += truncate(path, (off_t)mlxd_checkpoint_bytes(f)) != 0; /* longer again, zeros */
    }
    mlxd_checkpoint_close(f);
    model_file_free(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_read),
        cmocka_unit_test(vectors_are_widened),
        cmocka_unit_test(stacked_and_fused_matrices),
        cmocka_unit_test(parts_of_vectors),
        cmocka_unit_test(optional_tensors),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(a_file_that_shrinks_while_loading),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
