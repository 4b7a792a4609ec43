/* test_kernel_matmul.c - packed weights, quantized activations and their product.
 *
 * The scalar table is checked against matmul.h restated here from the bytes that a model file holds
 * (GGUF's blocks, MLX's bit streams), element by element; every other table against the scalar one,
 * by bits; and one digest of fixed inputs per format holds every machine to the same bits.
 */
#include "matmul_fixture.h"

/* ---- tests ---- */

static void test_sizes(void **state) {
    (void)state;
    size_t out;
    const mlxd_format f32 = mlxd_weight_format(MLXD_WEIGHT_F32);
    const mlxd_format q4_1 = mlxd_weight_format(MLXD_WEIGHT_Q4_1);
    const mlxd_format q8_0 = mlxd_weight_format(MLXD_WEIGHT_Q8_0);
    const mlxd_affine mlx = {.bits = 3, .group = 128, .type = BF16};
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F32, 7), 28);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_BF16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_0, 64), 36);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, 64), 40);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q5_0, 64), 44);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q5_1, 64), 48);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q8_0, 64), 68);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q2_K, 512), 168);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q3_K, 512), 220);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_K, 512), 288);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q5_K, 512), 352);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q6_K, 512), 420);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_IQ4_NL, 64), 36);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_IQ4_XS, 512), 272);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_MXFP4, 64), 34);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_NVFP4, 128), 72);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_Q4_0), 32), 288);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_Q2_K), 256), 84 * 16);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_Q4_K), 256), 148 * 16);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_Q6_K), 256), 210 * 16);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_MXFP4), 32), 17 * 16);
    assert_int_equal(mlxd_format_panel_bytes(q4_1, 32), 320);
    assert_int_equal(mlxd_format_panel_bytes(q8_0, 32), 544);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_affine_format(&mlx), 128), 4 * 192 + 64);
    assert_true(mlxd_format_packed_bytes(q4_1, 17, 64, &out));
    assert_int_equal(out, 2 * 640);
    assert_true(!mlxd_format_packed_bytes(f32, SIZE_MAX, 1, &out));
    assert_true(!mlxd_format_packed_bytes(f32, 1, SIZE_MAX, &out));
    assert_true(!mlxd_format_packed_bytes(q8_0, SIZE_MAX / 64, 1u << 16, &out));
    assert_true(!mlxd_format_is_quantized(mlxd_weight_format(MLXD_WEIGHT_BF16)));
    assert_true(mlxd_format_is_quantized(mlxd_affine_format(&mlx)));
}

/* The quad and shift of column c in a plane, as format.h draws them. */
static unsigned plane_bits(const uint8_t *plane, unsigned width, size_t r, size_t c) {
    size_t j = c / 4, b = c % 4, vector = 0, shift = 0;
    if (width == 8)
        vector = j;
    else if (width == 4)
        vector = j % 4, shift = j < 4 ? 0 : 4;
    else if (width == 2)
        vector = j / 4, shift = 2 * (j % 4);
    else
        shift = j;
    return plane[64 * vector + 4 * r + b] >> shift & ((1u << width) - 1);
}

/* d and m of row r and column c of the block at p, as format.h draws them. */
static void layout_scales(const source *s, mlxd_format f, const uint8_t *p, size_t r, size_t c,
                          float *d, float *m) {
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    size_t one = mlxd_float_bytes(s->type), g = c / 32, half = facts.halves ? c % 32 / 16 : 0;
    const uint8_t *scales = p + f.share * 64u * s->bits;
    *m = 0;
    if (!facts.nested) {
        mlxd_widen(s->type, scales + (16 * half + r) * one, 1, d);
        if (facts.affine)
            mlxd_widen(s->type, scales + (16 + r) * one, 1, m);
        return;
    }
    float outer = float_at(F16, scales + 2 * r), low = float_at(F16, scales + 32 + 2 * r);
    const uint8_t *factors = scales + (facts.affine ? 64 : 32);
    if (facts.affine && facts.halves) {
        uint8_t byte = factors[32 * g + 16 * half + r];
        *d = outer * (float)(byte & 15);
        *m = -low * (float)(byte >> 4);
    } else if (facts.affine) {
        *d = outer * (float)(int8_t)factors[32 * g + r];
        *m = -low * (float)(int8_t)factors[32 * g + 16 + r];
    } else {
        *d = outer * (float)(int8_t)factors[(facts.halves ? 32 : 16) * g + 16 * half + r];
    }
}

/* The layout that format.h draws, value by value, and zeros in the rows that are not there. */
static void test_panel_layout(void **state) {
    (void)state;
    rng_state = 1;
    for (size_t i = 0; i < MLXD_COUNT_OF(sources); i++) {
        const source *s = &sources[i];
        fixture f;
        if (!s->bits)
            continue;
        make_fixture(&f, s, PLAIN, 19, 512, 1);
        const unsigned wide = s->bits == 8 ? 8 : s->bits >= 4 ? 4 : 2, narrow = s->bits - wide;
        mlxd_facts facts = mlxd_kind_facts(f.w.format.kind);
        int zero = facts.affine ? 0 : 1 << (facts.bits - 1);
        size_t block = mlxd_format_block_bytes(f.w.format), cols = f.w.format.share * 32u;
        for (size_t r = 0; r < 32; r++)
            for (size_t c = 0; c < 512; c++) {
                const uint8_t *p = f.packed + r / 16 * f.panel_bytes + c / cols * block;
                const uint8_t *payload = p + c % cols / 32 * 64 * s->bits;
                unsigned q = plane_bits(payload, wide, r % 16, c % 32);
                float d, m;
                if (narrow)
                    q |= plane_bits(payload + 64 * wide, narrow, r % 16, c % 32) << wide;
                layout_scales(s, f.w.format, p, r % 16, c % cols, &d, &m);
                int value = (int)(facts.book ? mlxd_books[facts.book][q] : q) - zero;
                if (r < 19) {
                    weight w = weight_at(&f, r, c);
                    assert_int_equal(value, w.q);
                    assert_true(d == w.d && m == w.m);
                } else {
                    assert_true(q == 0 && d * (float)value == 0 && m == 0);
                }
            }
        free_fixture(&f);
    }
}

static void test_get_row(void **state) {
    (void)state;
    rng_start("get_row");
    const size_t rows[] = {1, 15, 16, 17, 33};
    float out[256];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
            for (int k = 0; k < KIND_COUNT; k++) {
                fixture f;
                make_fixture(&f, &sources[s], (input_kind)k, rows[i], 256, 1);
                for (size_t r = 0; r < rows[i]; r++) {
                    mlxd_matrix_get_row(&f.w, r, out);
                    for (size_t c = 0; c < 256; c++) {
                        float expected = dequantized(&f, r, c);
                        assert_true(same_floats(&out[c], &expected, 1));
                    }
                }
                free_fixture(&f);
            }
}

static void test_product_is_its_definition(void **state) {
    (void)state;
    rng_start("definition");
    static float y[19 * 40];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (int k = 0; k < KIND_COUNT; k++) {
            fixture f;
            make_fixture(&f, &sources[s], (input_kind)k, 35, fits(&sources[s], 128) ? 128 : 256,
                         19);
            mlxd_kernels_scalar()->matmul.product(&f.w, &f.a, 0, f.panels, false, y, 40);
            for (size_t t = 0; t < 19; t++)
                for (size_t r = 0; r < 35; r++) {
                    float expected = expected_element(&f, t, r);
                    if (!same_floats(&y[t * 40 + r], &expected, 1)) {
                        print_message("%s kind %d t %zu r %zu\n", sources[s].name, k, t, r);
                        assert_true(false);
                    }
                }
            free_fixture(&f);
        }
}

/* What a person would call right: close to the product of the dequantized weights in double. */
static void test_product_is_a_product(void **state) {
    (void)state;
    rng_start("product");
    float y[2 * 48], row[768];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++) {
        fixture f;
        make_fixture(&f, &sources[s], PLAIN, 48, 768, 2);
        mlxd_kernels_scalar()->matmul.product(&f.w, &f.a, 0, 3, false, y, 48);
        for (size_t t = 0; t < 2; t++)
            for (size_t r = 0; r < 48; r++) {
                double exact = 0, size = 0;
                mlxd_matrix_get_row(&f.w, r, row);
                for (size_t k = 0; k < 768; k++) {
                    exact += (double)row[k] * f.x[t * 768 + k];
                    size += fabs((double)row[k] * f.x[t * 768 + k]);
                }
                double tolerance = sources[s].bits ? 1e-2 : 1e-5;
                assert_true(fabs(y[t * 48 + r] - exact) <= tolerance * size);
            }
        free_fixture(&f);
    }
}

/* All rows into y, whose elements were `before`; with sentinels behind each row that no kernel may
 * touch. */
static void run(const mlxd_kernels *k, const fixture *f, bool add, float before, float *y,
                size_t ldy) {
    for (size_t i = 0; i < f->a.n * ldy; i++)
        y[i] = i % ldy < f->w.rows ? before : 12345.0f;
    k->matmul.product(&f->w, &f->a, 0, f->panels, add, y, ldy);
    for (size_t t = 0; t < f->a.n; t++)
        for (size_t r = f->w.rows; r < ldy; r++)
            assert_true(y[t * ldy + r] == 12345.0f);
}

static void check_tables(const source *s, input_kind kind, size_t rows, size_t cols, size_t n) {
    fixture f;
    make_fixture(&f, s, kind, rows, cols, n);
    size_t ldy = rows + 3;
    bool add = rng_below(3) == 0;
    float before = rng_unit();
    float *expected = must_alloc(n * ldy * sizeof(float));
    float *got = must_alloc(n * ldy * sizeof(float));
    run(mlxd_kernels_scalar(), &f, add, before, expected, ldy);
    for (size_t i = 1; i < table_count(); i++) {
        run(mlxd_kernels_at(i), &f, add, before, got, ldy);
        if (!same_floats(got, expected, n * ldy)) {
            print_message("%s %s kind %d: %zu x %zu, n %zu\n", mlxd_kernels_at(i)->isa, s->name,
                          (int)kind, rows, cols, n);
            assert_true(false);
        }
    }
    free(expected);
    free(got);
    free_fixture(&f);
}

static void test_tables_agree_on_shapes(void **state) {
    (void)state;
    rng_start("shapes");
    const size_t rows[] = {1, 3, 15, 16, 17, 33, 63, 64, 65, 131, 515};
    const size_t cols[] = {128, 256, 640, 32, 64, 96, 160, 576, 2048};
    const size_t n[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 64, 130, 200};
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t r = 0; r < MLXD_COUNT_OF(rows); r++)
            for (size_t c = 0; c < MLXD_COUNT_OF(cols); c++)
                for (size_t t = 0; t < MLXD_COUNT_OF(n); t++) {
                    size_t work = rows[r] * cols[c] * n[t];
                    if (fits(&sources[s], cols[c]) && work < 4000000 &&
                        (work < 30000 || rng_below(16) == 0))
                        check_tables(&sources[s], PLAIN, rows[r], cols[c], n[t]);
                }
}

/* Long rows, and more tokens than a cache holds. */
static void test_tables_agree_on_blocking(void **state) {
    (void)state;
    rng_start("blocking");
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++) {
        check_tables(&sources[s], PLAIN, 35, 8192 + 256, 33);
        check_tables(&sources[s], PLAIN, 17, 512, 515);
    }
}

static void test_tables_agree_on_extremes(void **state) {
    (void)state;
    rng_start("extremes");
    const size_t n[] = {1, 2, 3, 4, 5, 8, 16, 19};
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (int k = 0; k < KIND_COUNT; k++)
            for (size_t t = 0; t < MLXD_COUNT_OF(n); t++)
                for (int repeat = 0; repeat < 4; repeat++)
                    check_tables(&sources[s], (input_kind)k, 33, 256, n[t]);
}

/* The scales of a block of 16 rows all 1, the offsets all 0. */
static void put_ones(mlxd_format f, uint8_t *scales) {
    static const uint32_t ones[] = {[MLXD_FLOAT_F16] = 0x3c00,
                                    [MLXD_FLOAT_BF16] = 0x3f80,
                                    [MLXD_FLOAT_F32] = 0x3f800000,
                                    [MLXD_FLOAT_E8M0] = 128};
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    size_t one = mlxd_float_bytes(f.type), numbers = facts.halves && !facts.nested ? 32 : 16;
    memset(scales, 0, mlxd_format_block_bytes(f) - f.share * mlxd_kind_payload_bytes(f.kind));
    for (size_t i = 0; i < numbers; i++)
        memcpy(scales + i * one, &ones[f.type], one);
    if (!facts.nested)
        return;
    scales += facts.affine ? 64 : 32;
    for (size_t g = 0; g < f.share; g++, scales += mlxd_kind_factor_bytes(f.kind))
        memset(scales, 1, facts.halves ? 32 : 16);
}

/* Largest integer sums, unscaled: weights and activations at their ends in every combination. */
static void test_integer_sums_do_not_saturate(void **state) {
    (void)state;
    enum { N = 17, COLS = 256 };
    const uint8_t bytes[] = {0, 0xff, 0x77};
    rng_state = 2;
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (int combination = 0; combination < 6 && sources[s].bits; combination++) {
            fixture f;
            make_fixture(&f, &sources[s], ZERO, 16, COLS, N);
            mlxd_format format = f.w.format;
            mlxd_facts facts = mlxd_kind_facts(format.kind);
            uint8_t byte = bytes[combination / 2];
            int a = combination % 2 ? -127 : 127;
            size_t payload = format.share * mlxd_kind_payload_bytes(format.kind);
            for (size_t b = 0; b < COLS / 32u / format.share; b++) {
                uint8_t *p = f.packed + b * mlxd_format_block_bytes(format);
                memset(p, byte, payload);
                put_ones(format, p + payload);
            }
            memset(f.a.z.q, a, N * COLS);
            for (size_t i = 0; i < N * (COLS / 32); i++) {
                f.a.z.scale[i] = 1;
                f.a.z.offset[i] = (float)(32 * a);
                f.a.z.sums[i] = mlxd_quants_pair(16 * a, 16 * a);
            }
            float row[COLS], y[N * 16];
            mlxd_matrix_get_row(&f.w, 0, row);
            double w = 0;
            for (size_t c = 0; c < COLS; c++)
                w += row[c];
            if (facts.book == MLXD_BOOK_NONE && byte != 0x77)
                assert_true(row[0] == (byte ? (1 << facts.bits) - 1 : 0) -
                                          (facts.affine ? 0 : 1 << (facts.bits - 1)));
            for (size_t k = 0; k < table_count(); k++) {
                mlxd_kernels_at(k)->matmul.product(&f.w, &f.a, 0, 1, false, y, 16);
                for (size_t e = 0; e < N * 16; e++)
                    assert_true(y[e] == w * a);
            }
            free_fixture(&f);
        }
}

/* The same tokens, quantized alone: a tile of one. */
static void product_of_one(const mlxd_kernels *k, const fixture *f, size_t t, float *y) {
    mlxd_activations one = {f->x + t * f->a.k, new_quants(1, f->a.k), 1, f->a.k};
    quantize_all(k, &one);
    k->matmul.product(&f->w, &one, 0, f->panels, false, y, f->w.rows);
    free_quants(one.z);
}

/* n tokens at once = one by one; panels and tiles in parts = whole. */
static void test_batch_and_split_do_not_show(void **state) {
    (void)state;
    rng_start("batch");
    enum { ROWS = 83, COLS = 256, N = 43, LDY = 96 };
    static float whole[N * LDY], part[N * LDY];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t i = 0; i < table_count(); i++) {
            const mlxd_kernels *k = mlxd_kernels_at(i);
            fixture f;
            make_fixture(&f, &sources[s], PLAIN, ROWS, COLS, N);
            run(k, &f, false, 0, whole, LDY);
            memcpy(part, whole, sizeof part);
            for (size_t t = 0; t < N; t++)
                product_of_one(k, &f, t, part + t * LDY);
            assert_memory_equal(whole, part, sizeof whole);
            for (size_t cut = 0; cut <= f.panels; cut++)
                for (size_t t0 = 0; t0 < N; t0 += 16) {
                    mlxd_activations tile =
                        mlxd_activations_part(&f.a, t0, MLXD_MIN((size_t)16, N - t0));
                    float *y = part + t0 * LDY;
                    for (size_t t = 0; t < tile.n; t++)
                        memset(y + t * LDY, 0, ROWS * sizeof(float));
                    k->matmul.product(&f.w, &tile, cut, f.panels, false, y + 16 * cut, LDY);
                    k->matmul.product(&f.w, &tile, 0, cut, false, y, LDY);
                }
            assert_memory_equal(whole, part, sizeof whole);
            free_fixture(&f);
        }
}

/* ---- activations to int8 ---- */

typedef struct group {
    int8_t q[32];
    float scale, offset;
    int32_t sums;
} group;

static group expected_group(const float *x) {
    group e = {{0}, 0, 0, 0};
    float amax = 0;
    for (size_t i = 0; i < 32; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    if (amax < 0x1p-100f)
        return e;
    float inverse = 127.0f / amax;
    int first = 0, last = 0;
    for (size_t i = 0; i < 32; i++) {
        e.q[i] = (int8_t)lrintf(x[i] * inverse);
        *(i < 16 ? &first : &last) += e.q[i];
    }
    e.scale = amax / 127.0f;
    e.offset = e.scale * (float)(first + last);
    e.sums = (int32_t)((uint32_t)last << 16 | ((uint32_t)first & 0xffff));
    return e;
}

static void check_quantize(const float *x, size_t groups, size_t stride) {
    mlxd_quants z = new_quants(stride, groups * 32);
    for (size_t k = 0; k < table_count(); k++) {
        memset(z.q, 0x55, groups * stride * 32);
        mlxd_kernels_at(k)->matmul.quantize(x, groups * 32, z, stride);
        for (size_t g = 0; g < groups; g++) {
            group e = expected_group(x + 32 * g);
            assert_memory_equal(z.q + 32 * g * stride, e.q, 32);
            assert_true(same_floats(&z.scale[g * stride], &e.scale, 1));
            assert_true(same_floats(&z.offset[g * stride], &e.offset, 1));
            assert_int_equal(z.sums[g * stride], e.sums);
            for (size_t i = 32; i < 32 * stride; i++)
                assert_int_equal(z.q[32 * g * stride + i], 0x55);
        }
    }
    free_quants(z);
}

static void test_quantize(void **state) {
    (void)state;
    rng_start("quantize");
    float x[1024];
    for (int repeat = 0; repeat < 2000; repeat++) {
        size_t groups = 1 + rng_below(32);
        float size = float_of((uint32_t)(1 + rng_below(253)) << 23);
        for (size_t i = 0; i < groups * 32; i++)
            x[i] = repeat % 4 == 0 ? rng_finite() : rng_unit() * size;
        check_quantize(x, groups, 1 + rng_below(16));
    }
}

static void test_quantize_edges(void **state) {
    (void)state;
    const float tops[] = {0,
                          0x1p-149f,
                          0x1.fffffep-101f, /* the last below 2^-100 */
                          0x1p-100f,
                          0x1.000002p-100f,
                          127,
                          254,
                          1e38f,
                          0x1.fffffep127f};
    float x[32];
    for (size_t i = 0; i < MLXD_COUNT_OF(tops); i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            for (int j = 0; j < 32; j++) /* with a top of 127 the others are ties: j - 15.5 */
                x[j] = tops[i] == 127 ? (float)j - 15.5f : tops[i] * ((float)(j - 16) / 16.0f);
            x[31] = (float)sign * tops[i];
            check_quantize(x, 1, 1);
        }
    /* 127 gives inverse 1: ties go to the even integer. */
    int8_t q[32];
    float scale, offset;
    int32_t sums;
    const float ties[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f};
    const int8_t even[] = {127, 0, 2, 2, 0, -2, -2, 126, -126};
    memset(x, 0, sizeof x);
    memcpy(x, ties, sizeof ties);
    for (size_t k = 0; k < table_count(); k++) {
        mlxd_kernels_at(k)->matmul.quantize(x, 32, (mlxd_quants){q, &scale, &offset, &sums}, 1);
        assert_memory_equal(q, even, sizeof even);
        assert_true(scale == 1.0f && offset == 127.0f && sums == 127);
    }
}

/* A group with NaN or infinity makes every product with it NaN; its neighbours do not notice. */
static void test_quantize_not_finite(void **state) {
    (void)state;
    const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001, 0x7fffffff};
    enum { N = 18 };
    rng_state = 3;
    for (size_t b = 0; b < MLXD_COUNT_OF(bad); b++)
        for (size_t where = 0; where < 32; where++)
            for (size_t k = 0; k < table_count(); k++) {
                float x[96], scale[3], offset[3];
                int32_t sums[3];
                int8_t q[96], zero[32] = {0};
                for (size_t i = 0; i < 96; i++)
                    x[i] = rng_unit();
                x[32 + where] = float_of(bad[b]);
                mlxd_kernels_at(k)->matmul.quantize(x, 96, (mlxd_quants){q, scale, offset, sums},
                                                    1);
                assert_true(is_nan(scale[1]) && is_nan(offset[1]) && sums[1] == 0);
                assert_memory_equal(q + 32, zero, 32);
                assert_true(scale[0] > 0 && scale[0] < 1 && scale[2] > 0 && scale[2] < 1);
            }
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++) {
        fixture f;
        if (!sources[s].bits)
            continue;
        float y[N * 17];
        make_fixture(&f, &sources[s], PLAIN, 17, 256, N);
        f.x[2 * 256 + 40] = float_of(0x7f800000);
        for (size_t k = 0; k < table_count(); k++) {
            quantize_all(mlxd_kernels_at(k), &f.a);
            mlxd_kernels_at(k)->matmul.product(&f.w, &f.a, 0, 2, false, y, 17);
            for (size_t i = 0; i < N * 17; i++)
                assert_int_equal(is_nan(y[i]), i / 17 == 2);
        }
        free_fixture(&f);
    }
}

/* Fixed inputs, fixed bits: what makes a cluster of different machines one machine. */
static void test_digest(void **state) {
    (void)state;
    enum { N = 19, ROWS = 49 };
    static float y[N * ROWS], row[768];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t k = 0; k < table_count(); k++) {
            const mlxd_kernels *table = mlxd_kernels_at(k);
            const size_t cols = fits(&sources[s], 640) ? 640 : 768;
            fixture f;
            rng_state = 20240229;
            make_fixture(&f, &sources[s], PLAIN, ROWS, cols, N);
            quantize_all(table, &f.a);
            table->matmul.product(&f.w, &f.a, 0, f.panels, false, y, ROWS);
            mlxd_matrix_get_row(&f.w, ROWS - 1, row);
            uint64_t h = digest(DIGEST_START, y, sizeof y);
            h = digest(h, row, cols * sizeof *row);
            h = digest(h, f.a.z.q, N * cols);
            h = digest(h, f.a.z.scale, N * (cols / 32) * sizeof(float));
            h = digest(h, f.a.z.offset, N * (cols / 32) * sizeof(float));
            h = digest(h, f.packed, f.panels * f.panel_bytes);
            assert_digest(sources[s].name, h, sources[s].digest);
            free_fixture(&f);
        }
}

/* ---- benchmark ---- */

/* One thread, a matrix that caches do not hold (decode) or that they do (many tokens). */
static void bench(void) {
    const size_t n[] = {1, 8, 128};
    printf("%-8s %-28s %6s %10s %10s\n", "isa", "product 2048 columns", "tokens", "GB/s", "GOPS");
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t t = 0; t < MLXD_COUNT_OF(n); t++) {
            fixture f;
            size_t rows = n[t] == 1 ? 16384 : 2048;
            rng_state = 4;
            make_fixture(&f, &sources[s], PLAIN, rows, 2048, n[t]);
            float *y = must_alloc(n[t] * rows * sizeof(float));
            for (size_t k = 0; k < table_count(); k++) {
                const mlxd_kernels *table = mlxd_kernels_at(k);
                double seconds = 1e9;
                for (int repeat = 0; repeat < (k == 0 ? 1 : 5); repeat++) {
                    double from = bench_seconds();
                    table->matmul.product(&f.w, &f.a, 0, f.panels, false, y, rows);
                    seconds = MLXD_MIN(seconds, bench_seconds() - from);
                }
                double bytes = (double)(f.panels * f.panel_bytes);
                double ops = 2.0 * (double)rows * 2048 * (double)n[t];
                printf("%-8s %-28s %6zu %10.1f %10.0f\n", table->isa, sources[s].name, n[t],
                       bytes / seconds / 1e9, ops / seconds / 1e9);
            }
            free(y);
            free_fixture(&f);
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_panel_layout),
        cmocka_unit_test(test_get_row),
        cmocka_unit_test(test_product_is_its_definition),
        cmocka_unit_test(test_product_is_a_product),
        cmocka_unit_test(test_tables_agree_on_shapes),
        cmocka_unit_test(test_tables_agree_on_blocking),
        cmocka_unit_test(test_tables_agree_on_extremes),
        cmocka_unit_test(test_integer_sums_do_not_saturate),
        cmocka_unit_test(test_batch_and_split_do_not_show),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_quantize_edges),
        cmocka_unit_test(test_quantize_not_finite),
        cmocka_unit_test(test_digest),
    };
    if (bench_wanted(argc, argv)) {
        bench();
        return 0;
    }
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
