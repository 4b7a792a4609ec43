/* test_kernel_matmul.c - packed weights, quantized activations and their product.
 *
 * The scalar table is checked against matmul.h restated here from GGUF's own blocks, element by
 * element; every other table against the scalar one, by bits; and one digest of fixed inputs holds
 * every machine to the same bits.
 */
#include "kernel_test.h"

#include <math.h>

static const char *const type_names[] = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"};

/* ---- a matrix with its GGUF bytes and activations ---- */

typedef enum input_kind {
    PLAIN,    /* ordinary scales, random weights and activations */
    WILD,     /* any finite scale and value */
    POSITIVE, /* extreme: weights 15 or 127, activations +127 */
    NEGATIVE, /* extreme: weights 0, -8 or -128, activations -127 */
    MIXED,    /* extremes of either sign, scales at the largest f16 */
    ZERO,     /* zeros of both signs */
    DENORMAL, /* denormal scales and values */
    KIND_COUNT
} input_kind;

typedef struct fixture {
    mlxd_matrix w;
    mlxd_activations a;
    uint8_t *gguf, *packed;
    float *x, *scale, *sum;
    int8_t *q;
    size_t panels;
} fixture;

static uint16_t make_half(input_kind kind) {
    uint16_t r = (uint16_t)rng_next();
    switch (kind) {
    case PLAIN: /* +-(2^-10 .. 2^-6) */
        return (uint16_t)(0x1400u + (r & 0x8fffu));
    case POSITIVE:
        return 0x2c00;
    case NEGATIVE:
        return 0xac00;
    case MIXED:
        return r & 1 ? 0x7bff : 0xfbff;
    case ZERO:
        return r & 0x8000u;
    case DENORMAL:
        return r & 0x83ffu;
    default:
        return rng_half();
    }
}

static float make_value(input_kind kind) {
    uint32_t r = (uint32_t)rng_next();
    switch (kind) {
    case PLAIN:
        return rng_unit();
    case POSITIVE:
        return 3.25f;
    case NEGATIVE:
        return -3.25f;
    case MIXED:
        return r & 1 ? 0x1p40f : -0x1p40f;
    case ZERO:
        return float_of(r & 0x80000000u);
    case DENORMAL:
        return float_of(r & 0x807fffffu);
    default:
        return rng_finite();
    }
}

static uint8_t make_byte(mlxd_weight_type type, input_kind kind) {
    bool bytes = type == MLXD_WEIGHT_Q8_0;
    uint8_t top = bytes ? 0x7f : 0xff, bottom = bytes ? 0x80 : 0x00;
    switch (kind) {
    case POSITIVE:
        return top;
    case NEGATIVE:
        return bottom;
    case MIXED:
        return rng_next() & 1 ? top : bottom;
    default:
        return (uint8_t)rng_next();
    }
}

/* Fills one row in GGUF's layout. */
static void make_row(mlxd_weight_type type, input_kind kind, size_t cols, uint8_t *p) {
    size_t scales = type == MLXD_WEIGHT_Q4_1 ? 2 : 1;
    size_t payload = type == MLXD_WEIGHT_Q8_0 ? 32 : 16;
    if (!mlxd_weight_is_quantized(type)) {
        for (size_t c = 0; c < cols; c++) {
            float v = make_value(kind);
            uint16_t h = type == MLXD_WEIGHT_F16 ? make_half(kind) : (uint16_t)(bits_of(v) >> 16);
            memcpy(p + (type == MLXD_WEIGHT_F32 ? 4 : 2) * c,
                   type == MLXD_WEIGHT_F32 ? (void *)&v : (void *)&h,
                   type == MLXD_WEIGHT_F32 ? 4 : 2);
        }
        return;
    }
    for (size_t g = 0; g < cols / 32; g++) {
        for (size_t s = 0; s < scales; s++, p += 2) {
            uint16_t h = make_half(kind);
            memcpy(p, &h, 2);
        }
        for (size_t i = 0; i < payload; i++)
            *p++ = make_byte(type, kind);
    }
}

static void make_fixture(fixture *f, mlxd_weight_type type, input_kind kind, size_t rows,
                         size_t cols, size_t n) {
    size_t row_bytes = mlxd_weight_row_bytes(type, cols), bytes;
    assert_true(mlxd_weight_packed_bytes(type, rows, cols, &bytes));
    f->panels = (rows + 15) / 16;
    assert_int_equal(bytes, f->panels * mlxd_weight_panel_bytes(type, cols));
    f->gguf = must_alloc(rows * row_bytes);
    f->packed = must_alloc(bytes);
    memset(f->packed, 0xa5, bytes);
    for (size_t r = 0; r < rows; r++)
        make_row(type, kind, cols, f->gguf + r * row_bytes);
    for (size_t p = 0; p < f->panels; p++)
        mlxd_weight_pack_panel(type, rows, cols, f->gguf, p,
                               f->packed + p * mlxd_weight_panel_bytes(type, cols));
    f->x = must_alloc(n * cols * sizeof(float));
    for (size_t i = 0; i < n * cols; i++)
        f->x[i] = make_value(kind);
    f->q = must_alloc(n * cols);
    f->scale = must_alloc(n * (cols / 32) * sizeof(float));
    f->sum = must_alloc(n * (cols / 32) * sizeof(float));
    for (size_t t = 0; t < n; t++)
        mlxd_kernels_scalar()->matmul.quantize(f->x + t * cols, cols, f->q + t * cols,
                                               f->scale + t * (cols / 32),
                                               f->sum + t * (cols / 32));
    f->w = (mlxd_matrix){type, rows, cols, f->packed};
    f->a = (mlxd_activations){f->x, f->q, f->scale, f->sum, n, cols};
}

static void free_fixture(fixture *f) {
    free(f->gguf);
    free(f->packed);
    free(f->x);
    free(f->q);
    free(f->scale);
    free(f->sum);
}

/* ---- matmul.h restated from GGUF's blocks ---- */

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return mlxd_f16_to_f32(h);
}

/* Quantized weight of column c in a block whose payload is at p. */
static int quant_at(mlxd_weight_type type, const uint8_t *p, size_t c) {
    if (type == MLXD_WEIGHT_Q8_0)
        return (int8_t)p[c];
    int nibble = c < 16 ? p[c] & 15 : p[c - 16] >> 4;
    return type == MLXD_WEIGHT_Q4_0 ? nibble - 8 : nibble;
}

static float float_at(mlxd_weight_type type, const uint8_t *row, size_t c) {
    uint16_t h;
    float v;
    if (type == MLXD_WEIGHT_F32) {
        memcpy(&v, row + 4 * c, 4);
        return v;
    }
    memcpy(&h, row + 2 * c, 2);
    return type == MLXD_WEIGHT_F16 ? mlxd_f16_to_f32(h) : float_of((uint32_t)h << 16);
}

/* Exact in double but for the last rounding: d*q + m has fewer than 53 bits. */
static float dequantized(mlxd_weight_type type, const uint8_t *row, size_t c) {
    if (!mlxd_weight_is_quantized(type))
        return float_at(type, row, c);
    size_t block = mlxd_weight_row_bytes(type, 32), scales = type == MLXD_WEIGHT_Q4_1 ? 2 : 1;
    const uint8_t *p = row + c / 32 * block;
    double d = half_at(p), m = scales == 2 ? half_at(p + 2) : 0;
    double w = d * quant_at(type, p + 2 * scales, c % 32);
    return (float)(scales == 2 ? w + m : w);
}

static float expected_element(const fixture *f, size_t t, size_t r) {
    mlxd_weight_type type = f->w.type;
    const uint8_t *row = f->gguf + r * mlxd_weight_row_bytes(type, f->w.cols);
    float acc = 0;
    if (!mlxd_weight_is_quantized(type)) {
        for (size_t k = 0; k < f->w.cols; k++)
            acc = fmaf(float_at(type, row, k), f->x[t * f->a.k + k], acc);
        return acc;
    }
    size_t block = mlxd_weight_row_bytes(type, 32), groups = f->w.cols / 32;
    size_t scales = type == MLXD_WEIGHT_Q4_1 ? 2 : 1;
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *p = row + g * block;
        float scale = f->scale[t * groups + g], d = half_at(p) * scale;
        int32_t isum = 0, asum = 0;
        for (size_t i = 0; i < 32; i++) {
            int a = f->q[t * f->a.k + g * 32 + i];
            isum += quant_at(type, p + 2 * scales, i) * a;
            asum += a;
        }
        acc = fmaf(d, (float)isum, acc);
        if (scales == 2) {
            float offset = scale * (float)asum;
            acc = fmaf(half_at(p + 2), offset, acc);
        }
    }
    return acc;
}

/* ---- tests ---- */

static void test_sizes(void **state) {
    (void)state;
    size_t out;
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F32, 7), 28);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_BF16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_0, 64), 36);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, 64), 40);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q8_0, 64), 68);
    assert_int_equal(mlxd_weight_panel_bytes(MLXD_WEIGHT_Q4_0, 32), 288);
    assert_int_equal(mlxd_weight_panel_bytes(MLXD_WEIGHT_Q4_1, 32), 320);
    assert_int_equal(mlxd_weight_panel_bytes(MLXD_WEIGHT_Q8_0, 32), 544);
    assert_true(mlxd_weight_packed_bytes(MLXD_WEIGHT_Q4_1, 17, 64, &out));
    assert_int_equal(out, 2 * 640);
    assert_true(!mlxd_weight_packed_bytes(MLXD_WEIGHT_F32, SIZE_MAX, 1, &out));
    assert_true(!mlxd_weight_packed_bytes(MLXD_WEIGHT_F32, 1, SIZE_MAX, &out));
    assert_true(!mlxd_weight_packed_bytes(MLXD_WEIGHT_Q8_0, SIZE_MAX / 64, 1u << 16, &out));
    assert_true(!mlxd_weight_is_quantized(MLXD_WEIGHT_BF16));
    assert_true(mlxd_weight_is_quantized(MLXD_WEIGHT_Q4_0));
}

/* The layout that matmul.h draws, byte by byte, and zeros in the rows that are not there. */
static void test_panel_layout(void **state) {
    (void)state;
    rng_state = 1;
    fixture f;
    make_fixture(&f, MLXD_WEIGHT_Q4_1, PLAIN, 19, 64, 1);
    for (size_t p = 0; p < 2; p++)
        for (size_t g = 0; g < 2; g++) {
            const uint8_t *group = f.packed + p * 640 + g * 320;
            for (size_t r = 0; r < 16; r++) {
                bool there = p * 16 + r < 19;
                const uint8_t *block = f.gguf + (there ? p * 16 + r : 0) * 40 + g * 20;
                for (size_t i = 0; i < 16; i++)
                    assert_int_equal(group[i / 4 * 64 + 4 * r + i % 4], there ? block[4 + i] : 0);
                for (size_t i = 0; i < 2; i++) {
                    assert_int_equal(group[256 + 2 * r + i], there ? block[i] : 0);
                    assert_int_equal(group[288 + 2 * r + i], there ? block[2 + i] : 0);
                }
            }
        }
    free_fixture(&f);
}

static void test_get_row(void **state) {
    (void)state;
    rng_start("get_row");
    const size_t rows[] = {1, 15, 16, 17, 33};
    float out[160];
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
            for (int k = 0; k < KIND_COUNT; k++) {
                fixture f;
                make_fixture(&f, (mlxd_weight_type)type, (input_kind)k, rows[i], 160, 1);
                for (size_t r = 0; r < rows[i]; r++) {
                    mlxd_matrix_get_row(&f.w, r, out);
                    const uint8_t *row = f.gguf + r * mlxd_weight_row_bytes(f.w.type, 160);
                    for (size_t c = 0; c < 160; c++) {
                        float expected = dequantized(f.w.type, row, c);
                        assert_true(same_floats(&out[c], &expected, 1));
                    }
                }
                free_fixture(&f);
            }
}

static void test_product_is_its_definition(void **state) {
    (void)state;
    rng_start("definition");
    float y[9 * 40];
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (int k = 0; k < KIND_COUNT; k++) {
            fixture f;
            make_fixture(&f, (mlxd_weight_type)type, (input_kind)k, 35, 96, 9);
            mlxd_kernels_scalar()->matmul.product(&f.w, &f.a, 0, f.panels, y, 40);
            for (size_t t = 0; t < 9; t++)
                for (size_t r = 0; r < 35; r++) {
                    float expected = expected_element(&f, t, r);
                    if (!same_floats(&y[t * 40 + r], &expected, 1)) {
                        print_message("%s kind %d t %zu r %zu\n", type_names[type], k, t, r);
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
    float y[2 * 48], row[576];
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++) {
        fixture f;
        make_fixture(&f, (mlxd_weight_type)type, PLAIN, 48, 576, 2);
        mlxd_kernels_scalar()->matmul.product(&f.w, &f.a, 0, 3, y, 48);
        for (size_t t = 0; t < 2; t++)
            for (size_t r = 0; r < 48; r++) {
                double exact = 0, size = 0;
                mlxd_matrix_get_row(&f.w, r, row);
                for (size_t k = 0; k < 576; k++) {
                    exact += (double)row[k] * f.x[t * 576 + k];
                    size += fabs((double)row[k] * f.x[t * 576 + k]);
                }
                double tolerance = mlxd_weight_is_quantized(f.w.type) ? 1e-2 : 1e-5;
                assert_true(fabs(y[t * 48 + r] - exact) <= tolerance * size);
            }
        free_fixture(&f);
    }
}

/* Rows 0 ... of y, with a sentinel behind each row that no kernel may touch. */
static void run(const mlxd_kernels *k, const fixture *f, float *y, size_t ldy) {
    for (size_t i = 0; i < f->a.n * ldy; i++)
        y[i] = 12345.0f;
    k->matmul.product(&f->w, &f->a, 0, f->panels, y, ldy);
    for (size_t t = 0; t < f->a.n; t++)
        for (size_t r = f->w.rows; r < ldy; r++)
            assert_true(y[t * ldy + r] == 12345.0f);
}

static void check_tables(mlxd_weight_type type, input_kind kind, size_t rows, size_t cols,
                         size_t n) {
    fixture f;
    make_fixture(&f, type, kind, rows, cols, n);
    size_t ldy = rows + 3;
    float *expected = must_alloc(n * ldy * sizeof(float));
    float *got = must_alloc(n * ldy * sizeof(float));
    run(mlxd_kernels_scalar(), &f, expected, ldy);
    for (size_t i = 1; i < mlxd_kernels_count(); i++) {
        run(mlxd_kernels_at(i), &f, got, ldy);
        if (!same_floats(got, expected, n * ldy)) {
            print_message("%s %s kind %d: %zu x %zu, n %zu\n", mlxd_kernels_at(i)->isa,
                          type_names[type], (int)kind, rows, cols, n);
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
    const size_t rows[] = {1, 3, 15, 16, 17, 33, 63, 64, 65, 515};
    const size_t cols[] = {32, 64, 96, 160, 576};
    const size_t n[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64};
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (size_t r = 0; r < MLXD_COUNT_OF(rows); r++)
            for (size_t c = 0; c < MLXD_COUNT_OF(cols); c++)
                for (size_t t = 0; t < MLXD_COUNT_OF(n); t++)
                    if (rows[r] < 100 || n[t] % 16 == 1 || n[t] == 4)
                        check_tables((mlxd_weight_type)type, PLAIN, rows[r], cols[c], n[t]);
}

static void test_tables_agree_on_extremes(void **state) {
    (void)state;
    rng_start("extremes");
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (int k = 0; k < KIND_COUNT; k++)
            for (size_t n = 1; n <= 5; n++)
                for (int repeat = 0; repeat < 4; repeat++)
                    check_tables((mlxd_weight_type)type, (input_kind)k, 33, 96, n);
}

/* Largest integer sums, unscaled: weights and activations at their ends in every combination. */
static void test_integer_sums_do_not_saturate(void **state) {
    (void)state;
    const mlxd_weight_type types[] = {MLXD_WEIGHT_Q4_0, MLXD_WEIGHT_Q4_1, MLXD_WEIGHT_Q8_0};
    const uint8_t ends[3][2] = {{0x00, 0xff}, {0x00, 0xff}, {0x80, 0x7f}};
    const int zero[3] = {8, 0, 0};
    rng_state = 2;
    for (size_t i = 0; i < 3; i++)
        for (int combination = 0; combination < 4; combination++) {
            fixture f;
            make_fixture(&f, types[i], ZERO, 16, 32, 4);
            uint8_t byte = ends[i][combination & 1];
            int8_t a = combination & 2 ? -127 : 127;
            size_t payload = types[i] == MLXD_WEIGHT_Q8_0 ? 512 : 256;
            memset(f.packed, byte, payload);
            for (size_t r = 0; r < 16; r++)
                memcpy(f.packed + payload + 2 * r, &(uint16_t){0x3c00}, 2); /* d = 1 */
            memset(f.q, a, 4 * 32);
            for (size_t t = 0; t < 4; t++) {
                f.scale[t] = 1;
                f.sum[t] = (float)(32 * a);
            }
            int w = types[i] == MLXD_WEIGHT_Q8_0 ? (int8_t)byte : (byte & 15) - zero[i];
            for (size_t k = 0; k < mlxd_kernels_count(); k++) {
                float y[64];
                mlxd_kernels_at(k)->matmul.product(&f.w, &f.a, 0, 1, y, 16);
                for (size_t e = 0; e < 64; e++)
                    assert_int_equal((long)y[e], 32l * w * a);
            }
            free_fixture(&f);
        }
}

/* n tokens at once = one by one; panels in parts = whole. */
static void test_batch_and_split_do_not_show(void **state) {
    (void)state;
    rng_start("batch");
    enum { ROWS = 83, COLS = 160, N = 11, LDY = 96 };
    static float whole[N * LDY], part[N * LDY];
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (size_t i = 0; i < mlxd_kernels_count(); i++) {
            const mlxd_kernels *k = mlxd_kernels_at(i);
            fixture f;
            make_fixture(&f, (mlxd_weight_type)type, PLAIN, ROWS, COLS, N);
            run(k, &f, whole, LDY);
            memcpy(part, whole, sizeof part);
            for (size_t t = 0; t < N; t++) {
                mlxd_activations one = {f.x + t * COLS,
                                        f.q + t * COLS,
                                        f.scale + t * (COLS / 32),
                                        f.sum + t * (COLS / 32),
                                        1,
                                        COLS};
                memset(part + t * LDY, 0, ROWS * sizeof(float));
                k->matmul.product(&f.w, &one, 0, f.panels, part + t * LDY, LDY);
            }
            assert_memory_equal(whole, part, sizeof whole);
            for (size_t cut = 0; cut <= f.panels; cut++) {
                for (size_t t = 0; t < N; t++)
                    memset(part + t * LDY, 0, ROWS * sizeof(float));
                k->matmul.product(&f.w, &f.a, cut, f.panels, part, LDY);
                k->matmul.product(&f.w, &f.a, 0, cut, part, LDY);
                assert_memory_equal(whole, part, sizeof whole);
            }
            free_fixture(&f);
        }
}

/* ---- activations to int8 ---- */

static void expected_group(const float *x, int8_t *q, float *scale, float *sum) {
    float amax = 0;
    for (size_t i = 0; i < 32; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    int total = 0;
    *scale = amax < 0x1p-100f ? 0 : amax / 127.0f;
    for (size_t i = 0; i < 32; i++) {
        float inverse = 127.0f / amax;
        q[i] = amax < 0x1p-100f ? 0 : (int8_t)lrintf(x[i] * inverse);
        total += q[i];
    }
    *sum = (float)total;
}

static void check_quantize(const float *x, size_t groups) {
    int8_t q[1024], eq[32];
    float scale[32], sum[32], escale, esum;
    for (size_t k = 0; k < mlxd_kernels_count(); k++) {
        memset(q, 0x55, sizeof q);
        mlxd_kernels_at(k)->matmul.quantize(x, groups * 32, q, scale, sum);
        for (size_t g = 0; g < groups; g++) {
            expected_group(x + 32 * g, eq, &escale, &esum);
            assert_memory_equal(q + 32 * g, eq, 32);
            assert_true(same_floats(&scale[g], &escale, 1));
            assert_true(same_floats(&sum[g], &esum, 1));
        }
    }
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
        check_quantize(x, groups);
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
            check_quantize(x, 1);
        }
    /* 127 gives inverse 1: ties go to the even integer. */
    int8_t q[32];
    float scale, sum;
    const float ties[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f};
    const int8_t even[] = {127, 0, 2, 2, 0, -2, -2, 126, -126};
    memset(x, 0, sizeof x);
    memcpy(x, ties, sizeof ties);
    for (size_t k = 0; k < mlxd_kernels_count(); k++) {
        mlxd_kernels_at(k)->matmul.quantize(x, 32, q, &scale, &sum);
        assert_memory_equal(q, even, sizeof even);
        assert_true(scale == 1.0f && sum == 127.0f);
    }
}

/* A group with NaN or infinity makes every product with it NaN; its neighbours do not notice. */
static void test_quantize_not_finite(void **state) {
    (void)state;
    const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001, 0x7fffffff};
    rng_state = 3;
    for (size_t b = 0; b < MLXD_COUNT_OF(bad); b++)
        for (size_t where = 0; where < 32; where++)
            for (size_t k = 0; k < mlxd_kernels_count(); k++) {
                float x[96], scale[3], sum[3];
                int8_t q[96], zero[32] = {0};
                for (size_t i = 0; i < 96; i++)
                    x[i] = rng_unit();
                x[32 + where] = float_of(bad[b]);
                mlxd_kernels_at(k)->matmul.quantize(x, 96, q, scale, sum);
                assert_true(is_nan(scale[1]));
                assert_true(sum[1] == 0);
                assert_memory_equal(q + 32, zero, 32);
                assert_true(scale[0] > 0 && scale[0] < 1 && scale[2] > 0 && scale[2] < 1);
            }
    fixture f;
    make_fixture(&f, MLXD_WEIGHT_Q4_1, PLAIN, 17, 96, 5);
    f.x[2 * 96 + 40] = float_of(0x7f800000);
    float y[5 * 17];
    for (size_t k = 0; k < mlxd_kernels_count(); k++) {
        const mlxd_kernels *table = mlxd_kernels_at(k);
        table->matmul.quantize(f.x + 2 * 96, 96, f.q + 2 * 96, f.scale + 2 * 3, f.sum + 2 * 3);
        table->matmul.product(&f.w, &f.a, 0, 2, y, 17);
        for (size_t i = 0; i < 5 * 17; i++)
            assert_int_equal(is_nan(y[i]), i / 17 == 2);
    }
    free_fixture(&f);
}

/* Fixed inputs, fixed bits: what makes a cluster of different machines one machine. */
static void test_digest(void **state) {
    (void)state;
    static const uint64_t expected[MLXD_WEIGHT_TYPE_COUNT] = {
        [MLXD_WEIGHT_F32] = 0x8f559ba6f6209479u,  [MLXD_WEIGHT_F16] = 0xb9c879a6eb313ca8u,
        [MLXD_WEIGHT_BF16] = 0x6acd74a078842d2au, [MLXD_WEIGHT_Q4_0] = 0x1d609055646ad369u,
        [MLXD_WEIGHT_Q4_1] = 0x37f35180edb3d861u, [MLXD_WEIGHT_Q8_0] = 0x7169655fc6dbda3fu,
    };
    for (int type = 0; type < MLXD_WEIGHT_TYPE_COUNT; type++)
        for (size_t k = 0; k < mlxd_kernels_count(); k++) {
            const mlxd_kernels *table = mlxd_kernels_at(k);
            rng_state = 20240229;
            fixture f;
            make_fixture(&f, (mlxd_weight_type)type, PLAIN, 49, 576, 5);
            static float y[5 * 49], row[576];
            for (size_t t = 0; t < 5; t++)
                table->matmul.quantize(f.x + t * 576, 576, f.q + t * 576, f.scale + t * 18,
                                       f.sum + t * 18);
            table->matmul.product(&f.w, &f.a, 0, f.panels, y, 49);
            mlxd_matrix_get_row(&f.w, 48, row);
            uint64_t h = digest(DIGEST_START, y, sizeof y);
            h = digest(h, row, sizeof row);
            h = digest(h, f.q, 5 * 576);
            h = digest(h, f.scale, 5 * 18 * sizeof(float));
            h = digest(h, f.sum, 5 * 18 * sizeof(float));
            h = digest(h, f.packed, f.panels * mlxd_weight_panel_bytes(f.w.type, 576));
            assert_digest(type_names[type], h, expected[type]);
            free_fixture(&f);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_panel_layout),
        cmocka_unit_test(test_get_row),
        cmocka_unit_test(test_product_is_its_definition),
        cmocka_unit_test(test_product_is_a_product),
        cmocka_unit_test(test_tables_agree_on_shapes),
        cmocka_unit_test(test_tables_agree_on_extremes),
        cmocka_unit_test(test_integer_sums_do_not_saturate),
        cmocka_unit_test(test_batch_and_split_do_not_show),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_quantize_edges),
        cmocka_unit_test(test_quantize_not_finite),
        cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
