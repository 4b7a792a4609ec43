/* matmul_fixture.h - for test_kernel_matmul.c: the formats that are tested, matrices of random
 * bytes in each, and what an element of such a matrix is, read from the bytes of the file one
 * element at a time: GGUF's blocks, MLX's arrays.
 */
#ifndef MLXD_TEST_MATMUL_FIXTURE_H
#define MLXD_TEST_MATMUL_FIXTURE_H

#include "kernel_test.h"

#include <math.h>

#include "kernel/pack.h"

/* ---- what is tested ---- */

typedef enum origin { GGUF, AFFINE, MX } origin;

typedef struct source {
    const char *name;
    origin origin;
    unsigned id;          /* mlxd_weight_type or mlxd_mx_mode */
    unsigned bits, group; /* in the file; group: columns with one scale */
    mlxd_float type;      /* of floats, scales and biases */
    unsigned halves;      /* GGUF: how many f16 a block has, and where they begin */
    unsigned at;
    uint64_t digest;
} source;

#define F16 MLXD_FLOAT_F16
#define BF16 MLXD_FLOAT_BF16
#define F32 MLXD_FLOAT_F32

static const source sources[] = {
    {"F32", GGUF, MLXD_WEIGHT_F32, 0, 0, F32, 0, 0, 0x1d8121a71f04b5bdu},
    {"F16", GGUF, MLXD_WEIGHT_F16, 0, 0, F16, 0, 0, 0xe1ce810df7ba09c7u},
    {"BF16", GGUF, MLXD_WEIGHT_BF16, 0, 0, BF16, 0, 0, 0x59cc178ffbe7b388u},
    {"Q4_0", GGUF, MLXD_WEIGHT_Q4_0, 4, 32, F16, 1, 0, 0x088e39a794e7094du},
    {"Q4_1", GGUF, MLXD_WEIGHT_Q4_1, 4, 32, F16, 2, 0, 0xd6e37b3d5258d5d1u},
    {"Q5_0", GGUF, MLXD_WEIGHT_Q5_0, 5, 32, F16, 1, 0, 0x2706e17ee5ba68c5u},
    {"Q5_1", GGUF, MLXD_WEIGHT_Q5_1, 5, 32, F16, 2, 0, 0xfde92e4ce88e61deu},
    {"Q8_0", GGUF, MLXD_WEIGHT_Q8_0, 8, 32, F16, 1, 0, 0x0f4309c05ae7dccau},
    {"Q2_K", GGUF, MLXD_WEIGHT_Q2_K, 2, 16, F16, 2, 80, 0xd3a7c7568fd46b98u},
    {"Q3_K", GGUF, MLXD_WEIGHT_Q3_K, 3, 16, F16, 1, 108, 0x6653ec65d678aa89u},
    {"Q4_K", GGUF, MLXD_WEIGHT_Q4_K, 4, 32, F16, 2, 0, 0xefa5b62c369de7eau},
    {"Q5_K", GGUF, MLXD_WEIGHT_Q5_K, 5, 32, F16, 2, 0, 0xaefe1c8a865fa83eu},
    {"Q6_K", GGUF, MLXD_WEIGHT_Q6_K, 6, 16, F16, 1, 208, 0xf0f2daf88431c367u},
    {"IQ4_NL", GGUF, MLXD_WEIGHT_IQ4_NL, 4, 32, F16, 1, 0, 0xbb9eb584c5a15fdau},
    {"IQ4_XS", GGUF, MLXD_WEIGHT_IQ4_XS, 4, 32, F16, 1, 0, 0x0d9b291591a2e395u},
    {"MXFP4", GGUF, MLXD_WEIGHT_MXFP4, 4, 32, MLXD_FLOAT_E8M0, 0, 0, 0xcb82b0ce03f22d6du},
    {"NVFP4", GGUF, MLXD_WEIGHT_NVFP4, 4, 16, F16, 0, 0, 0xf06a8773080c289fu},
    {"MLX 2 bits, group 64, F16", AFFINE, 0, 2, 64, F16, 0, 0, 0xabbd23c95ccfdb98u},
    {"MLX 3 bits, group 128, BF16", AFFINE, 0, 3, 128, BF16, 0, 0, 0xd2ecbfc7a99690f3u},
    {"MLX 4 bits, group 64, BF16", AFFINE, 0, 4, 64, BF16, 0, 0, 0x72389aa2b36cc227u},
    {"MLX 4 bits, group 32, F32", AFFINE, 0, 4, 32, F32, 0, 0, 0x23faa4a0ec2d3dc7u},
    {"MLX 5 bits, group 64, F16", AFFINE, 0, 5, 64, F16, 0, 0, 0xd6bab96b7292b6c7u},
    {"MLX 6 bits, group 128, F32", AFFINE, 0, 6, 128, F32, 0, 0, 0x6fc887a85fea8e1eu},
    {"MLX 8 bits, group 64, BF16", AFFINE, 0, 8, 64, BF16, 0, 0, 0x1ea07733146d2e5fu},
    {"MLX mxfp4", MX, MLXD_MX_MXFP4, 4, 32, MLXD_FLOAT_E8M0, 0, 0, 0xcbd751a35de36e09u},
    {"MLX mxfp8", MX, MLXD_MX_MXFP8, 0, 32, BF16, 0, 0, 0xe1d3b9f5479a933bu},
    {"MLX nvfp4", MX, MLXD_MX_NVFP4, 4, 16, F16, 0, 0, 0x9805a1c9bc014918u},
    {"MLX nvfp4, global scale", MX, MLXD_MX_NVFP4, 4, 16, F32, 0, 0, 0xf1c00ceb600e52bau},
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
    uint8_t *file, *scales, *biases; /* MLX: three arrays, or two */
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

/* A scale that is E8M0, or E4M3. */
static uint8_t make_small_scale(bool e8m0, input_kind kind) {
    uint8_t r = (uint8_t)rng_next();
    switch (kind) {
    case PLAIN:
        return (uint8_t)(e8m0 ? 119 + r % 6 : (r & 0x80) | (0x28 + r % 16));
    case ZERO:
        return 0;
    case DENORMAL:
        return e8m0 ? r % 3 : r & 7;
    case POSITIVE:
    case NEGATIVE:
        return e8m0 ? 130 : 0x7e;
    default: /* with the codes that stand for no number */
        return r;
    }
}

/* Fills one row in GGUF's layout. */
static void make_gguf_row(const source *s, input_kind kind, size_t cols, uint8_t *p) {
    mlxd_weight_type type = (mlxd_weight_type)s->id;
    size_t block_cols = mlxd_weight_block_cols(type), bytes;
    if (!s->bits) {
        for (size_t c = 0; c < cols; c++)
            make_float(s->type, kind, p + c * mlxd_float_bytes(s->type));
        return;
    }
    bytes = mlxd_weight_row_bytes(type, block_cols);
    for (size_t b = 0; b < cols / block_cols; b++, p += bytes) {
        for (size_t i = 0; i < s->halves; i++)
            make_float(s->type, kind, p + s->at + 2 * i);
        for (size_t i = 0; i < bytes; i++)
            if (i < s->at || i >= s->at + 2 * s->halves)
                p[i] = make_byte(s->bits == 8, kind);
        if (type == MLXD_WEIGHT_MXFP4)
            p[0] = make_small_scale(true, kind);
        for (size_t i = 0; i < 4 && type == MLXD_WEIGHT_NVFP4; i++)
            p[i] = make_small_scale(false, kind);
    }
}

static void make_gguf(fixture *f, input_kind kind, size_t rows, size_t cols) {
    mlxd_weight_type type = (mlxd_weight_type)f->source->id;
    f->row_bytes = mlxd_weight_row_bytes(type, cols);
    f->file = must_alloc(rows * f->row_bytes);
    for (size_t r = 0; r < rows; r++)
        make_gguf_row(f->source, kind, cols, f->file + r * f->row_bytes);
    for (size_t p = 0; p < f->panels; p++)
        mlxd_pack_gguf(type, rows, cols, f->file, p, f->packed + p * f->panel_bytes);
}

static void make_affine(fixture *f, input_kind kind, size_t rows, size_t cols) {
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

/* The global scale of a source that has one. */
static float global_of(const source *s) {
    return s->origin == MX && s->type == F32 ? 613.0f : 0;
}

static void make_mx(fixture *f, input_kind kind, size_t rows, size_t cols) {
    mlxd_mx m = {.mode = (mlxd_mx_mode)f->source->id, .rows = rows, .cols = cols};
    size_t count = rows * cols / mlxd_mx_group(m.mode);
    f->row_bytes = cols * mlxd_mx_bits(m.mode) / 8;
    f->file = must_alloc(rows * f->row_bytes);
    f->scales = must_alloc(count);
    for (size_t i = 0; i < rows * f->row_bytes; i++) {
        f->file[i] = make_byte(false, kind);
        if (m.mode == MLXD_MX_MXFP8 && kind != WILD && (f->file[i] & 0x7f) == 0x7f)
            f->file[i] ^= 1; /* the largest number instead of NaN */
    }
    for (size_t i = 0; i < count; i++)
        f->scales[i] = make_small_scale(m.mode != MLXD_MX_NVFP4, kind);
    m.q = f->file;
    m.scales = f->scales;
    m.global = global_of(f->source);
    for (size_t p = 0; p < f->panels; p++)
        mlxd_pack_mx(&m, p, f->packed + p * f->panel_bytes);
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
    free(z.sums);
}

static void quantize_all(const mlxd_kernels *k, mlxd_activations *a) {
    for (size_t t = 0, stride; t < a->n; t++) {
        mlxd_quants to = mlxd_quants_row(a->z, a->n, a->k, t, &stride);
        k->matmul.quantize(a->x + t * a->k, a->k, to, stride);
    }
}

static mlxd_format format_of(const source *s) {
    const mlxd_affine a = {.bits = s->bits, .group = s->group, .type = s->type};
    const mlxd_mx m = {.mode = (mlxd_mx_mode)s->id, .global = global_of(s)};
    if (s->origin == GGUF)
        return mlxd_weight_format((mlxd_weight_type)s->id);
    return s->origin == AFFINE ? mlxd_affine_format(&a) : mlxd_mx_format(&m);
}

/* Whether the columns are whole blocks of the file and of the panel. */
static bool fits(const source *s, size_t cols) {
    size_t block = mlxd_format_block_cols(format_of(s));
    if (s->origin == GGUF)
        block = MLXD_MAX(block, mlxd_weight_block_cols((mlxd_weight_type)s->id));
    return cols % MLXD_MAX(block, s->origin == MX ? (size_t)32 : 1) == 0;
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
    if (s->origin == GGUF)
        make_gguf(f, kind, rows, cols);
    else if (s->origin == AFFINE)
        make_affine(f, kind, rows, cols);
    else
        make_mx(f, kind, rows, cols);
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

/* Element c < 32 of blocks of 32 columns with 16-bit scales. */
static weight plain_weight(const source *s, const uint8_t *p, size_t c) {
    bool affine = s->halves == 2;
    weight w = {0, float_at(F16, p), affine ? float_at(F16, p + 2) : 0, affine};
    p += affine ? 4 : 2;
    if (s->bits == 8) {
        w.q = (int8_t)p[c];
        return w;
    }
    if (s->bits == 5) {
        w.q = (p[c / 8] >> (c % 8) & 1) << 4;
        p += 4;
    }
    w.q += c < 16 ? p[c] & 15 : p[c - 16] >> 4;
    if (!affine)
        w.q -= s->bits == 5 ? 16 : 8;
    return w;
}

static int iq4_of(unsigned nibble) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
    return values[nibble];
}

/* Twice an E2M1. */
static int fp4_of(unsigned nibble) {
    int exponent = nibble >> 1 & 3, mantissa = nibble & 1;
    int v = exponent ? (2 + mantissa) << (exponent - 1) : mantissa;
    return nibble & 8 ? -v : v;
}

static float e8m0_of(uint8_t e) {
    return e == 255 ? INFINITY : (float)ldexp(1, e - 127);
}

static float e4m3_of(uint8_t code) {
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double v = exponent ? ldexp(1 + mantissa / 8.0, exponent - 7) : ldexp(mantissa, -9);
    if ((code & 0x7f) == 0x7f)
        v = NAN;
    return (float)(code & 0x80 ? -v : v);
}

/* The six bits of pair j's scale (high = 0) or minimum (high = 1) in the 12 bytes of Q4_K. */
static int six_bits(const uint8_t *s, size_t j, size_t high) {
    if (j < 4)
        return s[j + 4 * high] & 63;
    int low = high ? s[j + 4] >> 4 : s[j + 4] & 15;
    return low | s[j - 4 + 4 * high] >> 6 << 4;
}

static int q3_scale(const uint8_t *s, size_t i) {
    int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
}

/* Element c < 256 of a block with two levels of scales; the types' drawings are in ggml's terms:
 * half h of the block, j-th run of 32 in it, l-th of the run. */
static weight nested_weight(const source *s, const uint8_t *p, size_t c) {
    size_t h = c / 128, j = c % 128 / 32, l = c % 32, part = c / 16, g = c / 32;
    float d = float_at(F16, p + s->at), m = s->halves == 2 ? float_at(F16, p + s->at + 2) : 0;
    int scale = 0, min = 0, q = 0;
    switch (s->id) {
    case MLXD_WEIGHT_Q2_K:
        scale = p[part] & 15;
        min = p[part] >> 4;
        q = p[16 + 32 * h + l] >> 2 * j & 3;
        break;
    case MLXD_WEIGHT_Q3_K:
        scale = q3_scale(p + 96, part);
        q = (p[32 + 32 * h + l] >> 2 * j & 3) - (p[l] >> (4 * h + j) & 1 ? 0 : 4);
        break;
    case MLXD_WEIGHT_Q4_K:
    case MLXD_WEIGHT_Q5_K:
        scale = six_bits(p + 4, g, 0);
        min = six_bits(p + 4, g, 1);
        if (s->id == MLXD_WEIGHT_Q5_K)
            q = (p[16 + l] >> g & 1) << 4;
        p += s->id == MLXD_WEIGHT_Q5_K ? 48 : 16;
        q += g % 2 ? p[32 * (g / 2) + l] >> 4 : p[32 * (g / 2) + l] & 15;
        break;
    case MLXD_WEIGHT_Q6_K:
        scale = (int8_t)p[192 + part];
        q = p[64 * h + 32 * (j % 2) + l];
        q = (j < 2 ? q & 15 : q >> 4) | (p[128 + 32 * h + l] >> 2 * j & 3) << 4;
        q -= 32;
        break;
    default:
        scale = (p[4 + g / 2] >> 4 * (g % 2) & 15) | ((p[2] | p[3] << 8) >> 2 * g & 3) << 4;
        scale -= 32;
        q = iq4_of(l < 16 ? p[8 + 16 * g + l] & 15 : p[8 + 16 * g + l - 16] >> 4);
    }
    return (weight){q, d * (float)scale, -m * (float)min, s->halves == 2};
}

static weight gguf_weight(const fixture *f, size_t r, size_t c) {
    const source *s = f->source;
    mlxd_weight_type type = (mlxd_weight_type)s->id;
    size_t cols = mlxd_weight_block_cols(type);
    const uint8_t *p = f->file + r * f->row_bytes + c / cols * mlxd_weight_row_bytes(type, cols);
    c %= cols;
    unsigned nibble;
    switch (type) {
    case MLXD_WEIGHT_IQ4_NL:
        nibble = c < 16 ? p[2 + c] & 15 : p[2 + c - 16] >> 4;
        return (weight){iq4_of(nibble), float_at(F16, p), 0, false};
    case MLXD_WEIGHT_MXFP4:
        nibble = c < 16 ? p[1 + c] & 15 : p[1 + c - 16] >> 4;
        return (weight){fp4_of(nibble), e8m0_of(p[0]) / 2, 0, false};
    case MLXD_WEIGHT_NVFP4:
        nibble = p[4 + c / 16 * 8 + c % 8] >> (c % 16 < 8 ? 0 : 4) & 15;
        uint8_t code = p[c / 16] & 0x7f;
        return (weight){fp4_of(nibble), code == 0x7f ? 0 : e4m3_of(code) / 2, 0, false};
    default:
        return cols == 256 ? nested_weight(s, p, c) : plain_weight(s, p, c);
    }
}

static weight affine_weight(const fixture *f, size_t r, size_t c) {
    const source *s = f->source;
    const uint8_t *row = f->file + r * f->row_bytes;
    size_t at = (r * (f->w.cols / s->group) + c / s->group) * mlxd_float_bytes(s->type);
    weight w = {0, float_at(s->type, f->scales + at), float_at(s->type, f->biases + at), true};
    for (size_t i = 0, bit = c * s->bits; i < s->bits; i++, bit++)
        w.q |= (row[bit / 8] >> (bit % 8) & 1) << i;
    return w;
}

static weight mx_weight(const fixture *f, size_t r, size_t c) {
    const source *s = f->source;
    uint8_t code = f->scales[r * (f->w.cols / s->group) + c / s->group];
    float d = s->id == MLXD_MX_MXFP4 ? e8m0_of(code) : e4m3_of(code), global = global_of(s);
    if (global != 0)
        d *= global / (448 * 6);
    unsigned nibble = f->file[r * f->row_bytes + c / 2] >> (c % 2 * 4) & 15;
    return (weight){fp4_of(nibble), d / 2, 0, false};
}

static weight weight_at(const fixture *f, size_t r, size_t c) {
    if (f->source->origin == GGUF)
        return gguf_weight(f, r, c);
    return f->source->origin == AFFINE ? affine_weight(f, r, c) : mx_weight(f, r, c);
}

/* What is stored as BF16: the nearest, ties to even. */
static float rounded_to_bf16(float v) {
    uint32_t u = bits_of(v), rest = u & 0xffff, odd = u >> 16 & 1;
    if (is_nan(v))
        return v;
    u = (u >> 16) + (rest > 0x8000 || (rest == 0x8000 && odd));
    return float_of(u << 16);
}

static float plain_at(const fixture *f, size_t r, size_t c) {
    const source *s = f->source;
    if (s->origin == MX)
        return rounded_to_bf16(e4m3_of(f->file[r * f->row_bytes + c]) *
                               e8m0_of(f->scales[(r * f->w.cols + c) / 32]));
    return float_at(s->type, f->file + r * f->row_bytes + c * mlxd_float_bytes(s->type));
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
    size_t stride, part = MLXD_MIN(f->source->group, 32u);
    mlxd_quants z = mlxd_quants_row(f->a.z, f->a.n, f->a.k, t, &stride);
    for (size_t k = 0; k < f->w.cols; k += part) {
        float scale = z.scale[k / 32 * stride];
        weight w = weight_at(f, r, k);
        int32_t isum = 0, asum = 0;
        for (size_t i = k; i < k + part; i++) {
            int a = z.q[i / 32 * stride * 32 + i % 32];
            isum += weight_at(f, r, i).q * a;
            asum += a;
        }
        float factor = w.d * scale, offset = scale * (float)asum;
        acc = fmaf(factor, (float)isum, acc);
        if (w.has_m)
            acc = fmaf(w.m, offset, acc);
    }
    return acc;
}

#endif
