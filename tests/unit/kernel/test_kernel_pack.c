/* test_kernel_pack.c - what the packers make of blocks is what their formats' own libraries make of
 * them: tests/golden/quant.bin, written by quant.py with the package gguf and with MLX.
 */
#include "kernel_test.h"

#include <math.h>

#include "kernel/pack.h"

#define ENTRIES 18
#define COLS 512

/* What an entry is: a GGUF type, or a mode of MLX. */
static const struct {
    const char *name;
    int gguf, mode;
} names[] = {
    {"Q4_0", MLXD_WEIGHT_Q4_0, -1},     {"Q4_1", MLXD_WEIGHT_Q4_1, -1},
    {"Q5_0", MLXD_WEIGHT_Q5_0, -1},     {"Q5_1", MLXD_WEIGHT_Q5_1, -1},
    {"Q8_0", MLXD_WEIGHT_Q8_0, -1},     {"Q2_K", MLXD_WEIGHT_Q2_K, -1},
    {"Q3_K", MLXD_WEIGHT_Q3_K, -1},     {"Q4_K", MLXD_WEIGHT_Q4_K, -1},
    {"Q5_K", MLXD_WEIGHT_Q5_K, -1},     {"Q6_K", MLXD_WEIGHT_Q6_K, -1},
    {"IQ4_NL", MLXD_WEIGHT_IQ4_NL, -1}, {"IQ4_XS", MLXD_WEIGHT_IQ4_XS, -1},
    {"MXFP4", MLXD_WEIGHT_MXFP4, -1},   {"NVFP4", MLXD_WEIGHT_NVFP4, -1},
    {"mxfp4", -1, MLXD_MX_MXFP4},       {"mxfp8", -1, MLXD_MX_MXFP8},
    {"nvfp4", -1, MLXD_MX_NVFP4},       {"nvfp4-global", -1, MLXD_MX_NVFP4},
};

/* One entry of quant.bin; quant.py says how it lies. */
typedef struct entry {
    char name[25];
    uint32_t rows, cols, weight_bytes, scale_bytes;
    uint8_t weights[4 * COLS], scales[3 * COLS / 16];
    float global, values[3 * COLS];
} entry;

static bool read_entry(FILE *f, entry *e) {
    memset(e, 0, sizeof *e);
    if (fread(e->name, 24, 1, f) != 1)
        return false;
    assert_int_equal(fread(&e->rows, sizeof e->rows, 4, f), 4);
    assert_int_equal(e->rows, 3);
    assert_int_equal(e->cols, COLS);
    assert_in_range(e->weight_bytes, 1, sizeof e->weights);
    assert_in_range(e->scale_bytes, 0, sizeof e->scales);
    assert_int_equal(fread(e->weights, 1, e->weight_bytes, f), e->weight_bytes);
    assert_int_equal(fread(e->scales, 1, e->scale_bytes, f), e->scale_bytes);
    assert_int_equal(fread(&e->global, sizeof e->global, 1, f), 1);
    assert_int_equal(fread(e->values, sizeof *e->values, 3 * COLS, f), 3 * COLS);
    return true;
}

/* Packs an entry into `room`. */
static mlxd_matrix pack_entry(const entry *e, uint8_t *room, size_t room_bytes) {
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        if (strcmp(names[i].name, e->name) != 0)
            continue;
        const mlxd_mx m = {.mode = (mlxd_mx_mode)names[i].mode,
                           .rows = e->rows,
                           .cols = e->cols,
                           .q = e->weights,
                           .scales = e->scales,
                           .global = e->global};
        mlxd_weight_type type = (mlxd_weight_type)names[i].gguf;
        bool gguf = names[i].gguf >= 0;
        mlxd_format f = gguf ? mlxd_weight_format(type) : mlxd_mx_format(&m);
        assert_true(mlxd_format_panel_bytes(f, e->cols) <= room_bytes);
        if (gguf) {
            assert_int_equal(mlxd_weight_row_bytes(type, e->cols) * e->rows, e->weight_bytes);
            mlxd_pack_gguf(type, e->rows, e->cols, e->weights, 0, room);
        } else {
            assert_int_equal(e->cols * mlxd_mx_bits(m.mode) / 8 * e->rows, e->weight_bytes);
            assert_int_equal(e->cols / mlxd_mx_group(m.mode) * e->rows, e->scale_bytes);
            mlxd_pack_mx(&m, 0, room);
        }
        return (mlxd_matrix){f, e->rows, e->cols, room};
    }
    fail_msg("unknown entry %s", e->name);
    return (mlxd_matrix){{0}, 0, 0, NULL};
}

static void test_rows_are_what_their_libraries_say(void **state) {
    (void)state;
    static uint8_t room[16 * COLS * 4] __attribute__((aligned(64)));
    FILE *f = fopen(MLXD_GOLDEN "/quant.bin", "rb");
    assert_non_null(f);
    static entry e;
    size_t count = 0;
    for (; read_entry(f, &e); count++) {
        mlxd_matrix w = pack_entry(&e, room, sizeof room);
        for (size_t r = 0; r < e.rows; r++) {
            float row[COLS];
            mlxd_matrix_get_row(&w, r, row);
            for (size_t c = 0; c < COLS; c++)
                if (row[c] != e.values[r * COLS + c]) /* zeros may differ in sign */
                    fail_msg("%s row %zu column %zu: %.9g, expected %.9g", e.name, r, c,
                             (double)row[c], (double)e.values[r * COLS + c]);
        }
    }
    assert_int_equal(count, ENTRIES);
    fclose(f);
}

/* ---- scales and elements that are no numbers, or beyond what is stored ---- */

/* Value of the first element of a matrix of one row. */
static float first_of(mlxd_mx_mode mode, uint8_t element, uint8_t scale, float global) {
    static uint8_t room[16 * 32 * 4] __attribute__((aligned(64)));
    uint8_t q[32], scales[2] = {scale, scale};
    float row[32];
    memset(q, element, sizeof q);
    const mlxd_mx m = {mode, 1, 32, q, scales, global};
    mlxd_pack_mx(&m, 0, room);
    const mlxd_matrix w = {mlxd_mx_format(&m), 1, 32, room};
    mlxd_matrix_get_row(&w, 0, row);
    return row[0];
}

static void test_mx_edges(void **state) {
    (void)state;
    /* mxfp4: the smallest scale is 2^-127; the largest, 255, is no number. */
    assert_true(first_of(MLXD_MX_MXFP4, 1, 0, 0) == 0x1p-128f);
    assert_true(first_of(MLXD_MX_MXFP4, 1, 1, 0) == 0x1p-127f);
    assert_true(first_of(MLXD_MX_MXFP4, 7, 254, 0) == (float)INFINITY); /* 6 * 2^127 */
    assert_true(first_of(MLXD_MX_MXFP4, 15, 252, 0) == -6 * 0x1p125f);
    assert_true(first_of(MLXD_MX_MXFP4, 1, 255, 0) == (float)INFINITY);
    assert_true(is_nan(first_of(MLXD_MX_MXFP4, 0, 255, 0)));
    /* nvfp4: denormal, largest, negative, no number. */
    assert_true(first_of(MLXD_MX_NVFP4, 2, 1, 0) == 0x1p-9f);
    assert_true(first_of(MLXD_MX_NVFP4, 7, 0x7e, 0) == 6 * 448.0f);
    assert_true(first_of(MLXD_MX_NVFP4, 7, 0xfe, 0) == 6 * -448.0f);
    assert_true(first_of(MLXD_MX_NVFP4, 7, 0x7e, 1) == 1.0f);
    assert_true(is_nan(first_of(MLXD_MX_NVFP4, 2, 0x7f, 0)));
    assert_true(is_nan(first_of(MLXD_MX_NVFP4, 2, 0x38, float_of(0x7fc00000))));
    /* mxfp8: what BF16 has no place for. */
    assert_true(first_of(MLXD_MX_MXFP8, 0x7e, 126, 0) == 224.0f);
    assert_true(first_of(MLXD_MX_MXFP8, 1, 3, 0) == 0x1p-133f);
    assert_true(first_of(MLXD_MX_MXFP8, 1, 2, 0) == 0.0f); /* half of that: to even */
    assert_true(first_of(MLXD_MX_MXFP8, 3, 2, 0) == 0x1p-132f);
    assert_true(first_of(MLXD_MX_MXFP8, 0x7e, 246, 0) == 448 * 0x1p119f);
    assert_true(first_of(MLXD_MX_MXFP8, 0xfe, 247, 0) == (float)-INFINITY);
    assert_true(is_nan(first_of(MLXD_MX_MXFP8, 0x7f, 120, 0)));
    assert_true(is_nan(first_of(MLXD_MX_MXFP8, 0, 255, 0)));
}

/* GGUF's NVFP4 has no sign in its scales, and no NaN. */
static void test_gguf_nvfp4_scales(void **state) {
    (void)state;
    static uint8_t room[2 * 16 * 32 * 4] __attribute__((aligned(64)));
    uint8_t block[36] = {0x38, 0xb8, 0x7f, 0xff};
    float row[64];
    memset(block + 4, 0x22, 32); /* 1.0 */
    mlxd_pack_gguf(MLXD_WEIGHT_NVFP4, 1, 64, block, 0, room);
    const mlxd_matrix w = {mlxd_weight_format(MLXD_WEIGHT_NVFP4), 1, 64, room};
    mlxd_matrix_get_row(&w, 0, row);
    for (size_t c = 0; c < 64; c++)
        assert_true(row[c] == (c < 32 ? 1.0f : 0.0f));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_what_their_libraries_say),
        cmocka_unit_test(test_mx_edges),
        cmocka_unit_test(test_gguf_nvfp4_scales),
    };
    return cmocka_run_group_tests(tests, setup_fpu, NULL);
}
