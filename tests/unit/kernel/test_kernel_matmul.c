/* test_kernel_matmul.c - packed weights, quantized activations and their product.
 *
 * The scalar table is checked against matmul.h restated here from the bytes that a model file holds
 * (GGUF's blocks, MLX's bit streams), element by element; every other table against the scalar one,
 * by bits; and one digest of fixed inputs per format holds every machine to the same bits.
 */
#include "kernel_test.h"

#include <math.h>

#include "kernel/pack.h"

/* ---- what is tested: every type of GGUF, and MLX's affine groups ---- */

typedef struct source {
    const char *name;
    int gguf; /* mlxd_weight_type, or -1: MLX */
    unsigned bits, group;
    mlxd_float type;
    uint64_t digest;
} source;

static const source sources[] = {
    {"F32", MLXD_WEIGHT_F32, 0, 0, MLXD_FLOAT_F32, 0x1d8121a71f04b5bdu},
    {"F16", MLXD_WEIGHT_F16, 0, 0, MLXD_FLOAT_F16, 0xe1ce810df7ba09c7u},
    {"BF16", MLXD_WEIGHT_BF16, 0, 0, MLXD_FLOAT_BF16, 0x59cc178ffbe7b388u},
    {"Q4_0", MLXD_WEIGHT_Q4_0, 4, 32, MLXD_FLOAT_F16, 0x088e39a794e7094du},
    {"Q4_1", MLXD_WEIGHT_Q4_1, 4, 32, MLXD_FLOAT_F16, 0xd6e37b3d5258d5d1u},
    {"Q5_0", MLXD_WEIGHT_Q5_0, 5, 32, MLXD_FLOAT_F16, 0x2706e17ee5ba68c5u},
    {"Q5_1", MLXD_WEIGHT_Q5_1, 5, 32, MLXD_FLOAT_F16, 0xfde92e4ce88e61deu},
    {"Q8_0", MLXD_WEIGHT_Q8_0, 8, 32, MLXD_FLOAT_F16, 0x0f4309c05ae7dccau},
    {"MLX 2 bits, group 64, F16", -1, 2, 64, MLXD_FLOAT_F16, 0xabbd23c95ccfdb98u},
    {"MLX 3 bits, group 128, BF16", -1, 3, 128, MLXD_FLOAT_BF16, 0xd2ecbfc7a99690f3u},
    {"MLX 4 bits, group 64, BF16", -1, 4, 64, MLXD_FLOAT_BF16, 0x72389aa2b36cc227u},
    {"MLX 4 bits, group 32, F32", -1, 4, 32, MLXD_FLOAT_F32, 0x23faa4a0ec2d3dc7u},
    {"MLX 5 bits, group 64, F16", -1, 5, 64, MLXD_FLOAT_F16, 0xd6bab96b7292b6c7u},
    {"MLX 6 bits, group 128, F32", -1, 6, 128, MLXD_FLOAT_F32, 0x6fc887a85fea8e1eu},
    {"MLX 8 bits, group 64, BF16", -1, 8, 64, MLXD_FLOAT_BF16, 0x1ea07733146d2e5fu},
};

/* ---- a matrix with its file's bytes and activations ---- */

typedef enum input_kind {
    PLAIN,    /* ordinary scales, random weights and activations */
    WILD,     /* any finite scale and value */
    POSITIVE, /* extreme: weights at the top, activations +127 */
    NEGATIVE, /* extreme: weights at the bottom, activations -127 */
    MIXED,    /* extremes of either sign, scales at the largest f16 */
    ZERO,     /* zeros of both signs */
    DENORMAL, /* denormal scales and values */
    KIND_COUNT
} input_kind;

typedef struct fixture {
    const source *source;
    mlxd_matrix w;
    mlxd_activations a;
    size_t row_bytes;
    uint8_t *file, *scales, *biases; /* MLX: three arrays */
    uint8_t *packed;
    float *x;
    size_t panels, panel_bytes;
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

static uint8_t make_byte(bool is_signed, input_kind kind) {
    uint8_t top = is_signed ? 0x7f : 0xff, bottom = is_signed ? 0x80 : 0x00;
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

static void make_float(mlxd_float type, input_kind kind, uint8_t *p) {
    float v = make_value(kind);
    uint16_t h = type == MLXD_FLOAT_F16 ? make_half(kind) : (uint16_t)(bits_of(v) >> 16);
    memcpy(p, type == MLXD_FLOAT_F32 ? (void *)&v : (void *)&h, mlxd_float_bytes(type));
}

/* Fills one row in GGUF's layout. */
static void make_gguf_row(const source *s, input_kind kind, size_t cols, uint8_t *p) {
    mlxd_format f = mlxd_weight_format((mlxd_weight_type)s->gguf);
    if (!s->bits) {
        for (size_t c = 0; c < cols; c++)
            make_float(s->type, kind, p + c * mlxd_float_bytes(s->type));
        return;
    }
    for (size_t g = 0; g < cols / 32; g++) {
        for (int i = 0; i <= f.affine; i++, p += 2)
            make_float(s->type, kind, p);
        for (size_t i = 0; i < 4 * s->bits; i++)
            *p++ = make_byte(s->bits == 8, kind);
    }
}

static void make_gguf(fixture *f, input_kind kind, size_t rows, size_t cols) {
    mlxd_weight_type type = (mlxd_weight_type)f->source->gguf;
    f->row_bytes = mlxd_weight_row_bytes(type, cols);
    f->file = must_alloc(rows * f->row_bytes);
    for (size_t r = 0; r < rows; r++)
        make_gguf_row(f->source, kind, cols, f->file + r * f->row_bytes);
    for (size_t p = 0; p < f->panels; p++)
        mlxd_pack_gguf(type, rows, cols, f->file, p, f->packed + p * f->panel_bytes);
}

static void make_mlx(fixture *f, input_kind kind, size_t rows, size_t cols) {
    const source *s = f->source;
    size_t blocks = rows * (cols / s->group), one = mlxd_float_bytes(s->type);
    f->row_bytes = cols * s->bits / 8;
    f->file = must_alloc(rows * f->row_bytes);
    f->scales = must_alloc(blocks * one);
    f->biases = must_alloc(blocks * one);
    for (size_t i = 0; i < rows * f->row_bytes; i++)
        f->file[i] = make_byte(false, kind);
    for (size_t i = 0; i < blocks; i++) {
        make_float(s->type, kind, f->scales + i * one);
        make_float(s->type, kind, f->biases + i * one);
    }
    const mlxd_affine a = {s->bits, s->group, s->type, rows, cols, f->file, f->scales, f->biases};
    for (size_t p = 0; p < f->panels; p++)
        mlxd_pack_affine(&a, p, f->packed + p * f->panel_bytes);
}

static mlxd_quants new_quants(size_t n, size_t k) {
    size_t groups = n * (k / 32);
    return (mlxd_quants){must_alloc(n * k), must_alloc(groups * 4), must_alloc(groups * 4),
                         must_alloc(groups * 4)};
}

static void free_quants(mlxd_quants z) {
    free(z.q);
    free(z.scale);
    free(z.offset);
    free(z.start);
}

static void quantize_all(const mlxd_kernels *k, mlxd_activations *a) {
    for (size_t t = 0, stride; t < a->n; t++) {
        mlxd_quants to = mlxd_quants_row(a->z, a->n, a->k, t, &stride);
        k->matmul.quantize(a->x + t * a->k, a->k, to, stride);
    }
}

static mlxd_format format_of(const source *s) {
    const mlxd_affine a = {.bits = s->bits, .group = s->group, .type = s->type};
    return s->gguf >= 0 ? mlxd_weight_format((mlxd_weight_type)s->gguf) : mlxd_affine_format(&a);
}

static void make_fixture(fixture *f, const source *s, input_kind kind, size_t rows, size_t cols,
                         size_t n) {
    size_t bytes;
    *f = (fixture){.source = s, .panels = (rows + 15) / 16};
    f->w = (mlxd_matrix){format_of(s), rows, cols, NULL};
    f->panel_bytes = mlxd_format_panel_bytes(f->w.format, cols);
    assert_true(mlxd_format_packed_bytes(f->w.format, rows, cols, &bytes));
    assert_int_equal(bytes, f->panels * f->panel_bytes);
    f->packed = must_alloc(bytes);
    memset(f->packed, 0xa5, bytes);
    if (s->gguf >= 0)
        make_gguf(f, kind, rows, cols);
    else
        make_mlx(f, kind, rows, cols);
    f->w.data = f->packed;
    f->x = must_alloc(n * cols * sizeof(float));
    for (size_t i = 0; i < n * cols; i++)
        f->x[i] = make_value(kind);
    f->a = (mlxd_activations){f->x, new_quants(n, cols), n, cols};
    quantize_all(mlxd_kernels_scalar(), &f->a);
}

static void free_fixture(fixture *f) {
    free(f->file);
    free(f->scales);
    free(f->biases);
    free(f->packed);
    free(f->x);
    free_quants(f->a.z);
}

/* ---- matmul.h restated from the file's bytes ---- */

static float float_at(mlxd_float type, const uint8_t *p) {
    uint16_t h;
    float v;
    if (type == MLXD_FLOAT_F32) {
        memcpy(&v, p, 4);
        return v;
    }
    memcpy(&h, p, 2);
    return type == MLXD_FLOAT_F16 ? mlxd_f16_to_f32(h) : float_of((uint32_t)h << 16);
}

/* w = d * q + m, or d * q when has_m is false. */
typedef struct weight {
    int q;
    float d, m;
    bool has_m;
} weight;

static weight gguf_weight(const fixture *f, size_t r, size_t c) {
    const uint8_t *p = f->file + r * f->row_bytes + c / 32 * (f->row_bytes / (f->w.cols / 32));
    bool affine = f->w.format.affine;
    weight w = {0, float_at(MLXD_FLOAT_F16, p), affine ? float_at(MLXD_FLOAT_F16, p + 2) : 0,
                affine};
    p += affine ? 4 : 2;
    c %= 32;
    if (f->source->bits == 8) {
        w.q = (int8_t)p[c];
        return w;
    }
    if (f->source->bits == 5) {
        w.q = (p[c / 8] >> (c % 8) & 1) << 4;
        p += 4;
    }
    w.q += c < 16 ? p[c] & 15 : p[c - 16] >> 4;
    if (!affine)
        w.q -= f->source->bits == 5 ? 16 : 8;
    return w;
}

static weight mlx_weight(const fixture *f, size_t r, size_t c) {
    const source *s = f->source;
    const uint8_t *row = f->file + r * f->row_bytes;
    size_t at = (r * (f->w.cols / s->group) + c / s->group) * mlxd_float_bytes(s->type);
    weight w = {0, float_at(s->type, f->scales + at), float_at(s->type, f->biases + at), true};
    for (size_t i = 0, bit = c * s->bits; i < s->bits; i++, bit++)
        w.q |= (row[bit / 8] >> (bit % 8) & 1) << i;
    return w;
}

static weight weight_at(const fixture *f, size_t r, size_t c) {
    return f->source->gguf >= 0 ? gguf_weight(f, r, c) : mlx_weight(f, r, c);
}

static float plain_at(const fixture *f, size_t r, size_t c) {
    return float_at(f->source->type,
                    f->file + r * f->row_bytes + c * mlxd_float_bytes(f->source->type));
}

static float dequantized(const fixture *f, size_t r, size_t c) {
    if (!f->source->bits)
        return plain_at(f, r, c);
    weight w = weight_at(f, r, c);
    return w.has_m ? fmaf(w.d, (float)w.q, w.m) : w.d * (float)w.q;
}

static float expected_element(const fixture *f, size_t t, size_t r) {
    const float *x = f->x + t * f->a.k;
    float acc = 0;
    if (!f->source->bits) {
        for (size_t k = 0; k < f->w.cols; k++)
            acc = fmaf(plain_at(f, r, k), x[k], acc);
        return acc;
    }
    size_t stride;
    mlxd_quants z = mlxd_quants_row(f->a.z, f->a.n, f->a.k, t, &stride);
    for (size_t g = 0; g < f->w.cols / 32; g++) {
        float scale = z.scale[g * stride];
        weight w = weight_at(f, r, 32 * g);
        int32_t isum = 0, asum = 0;
        for (size_t i = 0; i < 32; i++) {
            int a = z.q[g * stride * 32 + i];
            isum += weight_at(f, r, 32 * g + i).q * a;
            asum += a;
        }
        float factor = w.d * scale, offset = scale * (float)asum;
        acc = fmaf(factor, (float)isum, acc);
        if (w.has_m)
            acc = fmaf(w.m, offset, acc);
    }
    return acc;
}

/* ---- tests ---- */

static void test_sizes(void **state) {
    (void)state;
    size_t out;
    const mlxd_format f32 = mlxd_weight_format(MLXD_WEIGHT_F32);
    const mlxd_format q4_1 = mlxd_weight_format(MLXD_WEIGHT_Q4_1);
    const mlxd_format q8_0 = mlxd_weight_format(MLXD_WEIGHT_Q8_0);
    const mlxd_affine mlx = {.bits = 3, .group = 128, .type = MLXD_FLOAT_BF16};
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F32, 7), 28);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_F16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_BF16, 7), 14);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_0, 64), 36);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q4_1, 64), 40);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q5_0, 64), 44);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q5_1, 64), 48);
    assert_int_equal(mlxd_weight_row_bytes(MLXD_WEIGHT_Q8_0, 64), 68);
    assert_int_equal(mlxd_format_panel_bytes(mlxd_weight_format(MLXD_WEIGHT_Q4_0), 32), 288);
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

/* The layout that format.h draws, value by value, and zeros in the rows that are not there. */
static void test_panel_layout(void **state) {
    (void)state;
    rng_state = 1;
    for (size_t i = 0; i < MLXD_COUNT_OF(sources); i++) {
        const source *s = &sources[i];
        fixture f;
        if (!s->bits)
            continue;
        make_fixture(&f, s, PLAIN, 19, 256, 1);
        const unsigned wide = s->bits == 8 ? 8 : s->bits >= 4 ? 4 : 2, narrow = s->bits - wide;
        int zero = f.w.format.affine ? 0 : 1 << (s->bits - 1);
        size_t one = mlxd_float_bytes(s->type);
        size_t block = s->group / 32 * 64 * s->bits + (f.w.format.affine ? 32 : 16) * one;
        for (size_t r = 0; r < 32; r++)
            for (size_t c = 0; c < 256; c++) {
                const uint8_t *p = f.packed + r / 16 * f.panel_bytes + c / s->group * block;
                const uint8_t *d = p + s->group / 32 * 64 * s->bits + r % 16 * one;
                const uint8_t *payload = p + c % s->group / 32 * 64 * s->bits;
                unsigned q = plane_bits(payload, wide, r % 16, c % 32);
                if (narrow)
                    q |= plane_bits(payload + 64 * wide, narrow, r % 16, c % 32) << wide;
                weight w = {-zero, 0, 0, f.w.format.affine};
                if (r < 19)
                    w = weight_at(&f, r, c);
                assert_int_equal((int)q - zero, w.q);
                assert_true(float_at(s->type, d) == w.d);
                if (w.has_m)
                    assert_true(float_at(s->type, d + 16 * one) == w.m);
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
            make_fixture(&f, &sources[s], (input_kind)k, 35, 128, 19);
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
    float y[2 * 48], row[640];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++) {
        fixture f;
        make_fixture(&f, &sources[s], PLAIN, 48, 640, 2);
        mlxd_kernels_scalar()->matmul.product(&f.w, &f.a, 0, 3, false, y, 48);
        for (size_t t = 0; t < 2; t++)
            for (size_t r = 0; r < 48; r++) {
                double exact = 0, size = 0;
                mlxd_matrix_get_row(&f.w, r, row);
                for (size_t k = 0; k < 640; k++) {
                    exact += (double)row[k] * f.x[t * 640 + k];
                    size += fabs((double)row[k] * f.x[t * 640 + k]);
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
                    if (cols[c] % mlxd_format_block_cols(format_of(&sources[s])) == 0 &&
                        work < 4000000 && (work < 300000 || rng_below(4) == 0))
                        check_tables(&sources[s], PLAIN, rows[r], cols[c], n[t]);
                }
}

/* Long rows, and more tokens than a cache holds. */
static void test_tables_agree_on_blocking(void **state) {
    (void)state;
    rng_start("blocking");
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++) {
        check_tables(&sources[s], PLAIN, 35, 8192 + 128, 33);
        check_tables(&sources[s], PLAIN, 17, 2048, 515);
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
                    check_tables(&sources[s], (input_kind)k, 33, 128, n[t]);
}

/* Largest integer sums, unscaled: weights and activations at their ends in every combination. */
static void test_integer_sums_do_not_saturate(void **state) {
    (void)state;
    enum { N = 17 };
    rng_state = 2;
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (int combination = 0; combination < 4 && sources[s].bits; combination++) {
            fixture f;
            make_fixture(&f, &sources[s], ZERO, 16, 128, N);
            mlxd_format format = f.w.format;
            uint8_t byte = combination & 1 ? 0xff : 0;
            int a = combination & 2 ? -127 : 127;
            size_t payload = mlxd_format_payload_bytes(format);
            size_t block = mlxd_format_block_bytes(format), one = mlxd_float_bytes(format.type);
            const uint32_t ones[] = {0x3c00, 0x3f80, 0x3f800000}; /* 1 as f16, bf16, f32 */
            for (size_t b = 0; b < 4u / format.share; b++) {
                uint8_t *p = f.packed + b * block;
                memset(p, byte, format.share * payload);
                memset(p + format.share * payload, 0, block - format.share * payload);
                for (size_t r = 0; r < 16; r++)
                    memcpy(p + format.share * payload + r * one, &ones[format.type], one);
            }
            memset(f.a.z.q, a, N * 128);
            for (size_t i = 0; i < N * 4; i++) {
                f.a.z.scale[i] = 1;
                f.a.z.offset[i] = (float)(32 * a);
                f.a.z.start[i] = -8 * 32 * a;
            }
            int w = combination & 1 ? (1 << format.bits) - 1 : 0;
            if (!format.affine)
                w -= 1 << (format.bits - 1);
            for (size_t k = 0; k < table_count(); k++) {
                float y[N * 16];
                mlxd_kernels_at(k)->matmul.product(&f.w, &f.a, 0, 1, false, y, 16);
                for (size_t e = 0; e < N * 16; e++)
                    assert_int_equal((long)y[e], 128l * w * a);
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
    int32_t start;
} group;

static group expected_group(const float *x) {
    group e = {{0}, 0, 0, 0};
    float amax = 0;
    for (size_t i = 0; i < 32; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    if (amax < 0x1p-100f)
        return e;
    float inverse = 127.0f / amax;
    int total = 0;
    for (size_t i = 0; i < 32; i++) {
        e.q[i] = (int8_t)lrintf(x[i] * inverse);
        total += e.q[i];
    }
    e.scale = amax / 127.0f;
    e.offset = e.scale * (float)total;
    e.start = -8 * total;
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
            assert_int_equal(z.start[g * stride], e.start);
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
    int32_t start;
    const float ties[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f};
    const int8_t even[] = {127, 0, 2, 2, 0, -2, -2, 126, -126};
    memset(x, 0, sizeof x);
    memcpy(x, ties, sizeof ties);
    for (size_t k = 0; k < table_count(); k++) {
        mlxd_kernels_at(k)->matmul.quantize(x, 32, (mlxd_quants){q, &scale, &offset, &start}, 1);
        assert_memory_equal(q, even, sizeof even);
        assert_true(scale == 1.0f && offset == 127.0f && start == -8 * 127);
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
                int32_t start[3];
                int8_t q[96], zero[32] = {0};
                for (size_t i = 0; i < 96; i++)
                    x[i] = rng_unit();
                x[32 + where] = float_of(bad[b]);
                mlxd_kernels_at(k)->matmul.quantize(x, 96, (mlxd_quants){q, scale, offset, start},
                                                    1);
                assert_true(is_nan(scale[1]) && is_nan(offset[1]) && start[1] == 0);
                assert_memory_equal(q + 32, zero, 32);
                assert_true(scale[0] > 0 && scale[0] < 1 && scale[2] > 0 && scale[2] < 1);
            }
    for (size_t s = 3; s < MLXD_COUNT_OF(sources); s++) {
        fixture f;
        float y[N * 17];
        make_fixture(&f, &sources[s], PLAIN, 17, 128, N);
        f.x[2 * 128 + 40] = float_of(0x7f800000);
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
    enum { N = 19, ROWS = 49, COLS = 640 };
    static float y[N * ROWS], row[COLS];
    for (size_t s = 0; s < MLXD_COUNT_OF(sources); s++)
        for (size_t k = 0; k < table_count(); k++) {
            const mlxd_kernels *table = mlxd_kernels_at(k);
            fixture f;
            rng_state = 20240229;
            make_fixture(&f, &sources[s], PLAIN, ROWS, COLS, N);
            quantize_all(table, &f.a);
            table->matmul.product(&f.w, &f.a, 0, f.panels, false, y, ROWS);
            mlxd_matrix_get_row(&f.w, ROWS - 1, row);
            uint64_t h = digest(DIGEST_START, y, sizeof y);
            h = digest(h, row, sizeof row);
            h = digest(h, f.a.z.q, N * COLS);
            h = digest(h, f.a.z.scale, N * (COLS / 32) * sizeof(float));
            h = digest(h, f.a.z.offset, N * (COLS / 32) * sizeof(float));
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
