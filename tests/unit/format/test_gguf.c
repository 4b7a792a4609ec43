/* test_gguf.c - the GGUF reader: what it reads, and above all what it refuses and how it says so.
 * Every input is copied into a block of exactly its size, so that AddressSanitizer sees a read of
 * one byte too many. */
#include "gguf_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static mlxd_why why;

/* Uses everything the file offers; what it says must lie inside the file. */
static void walk(const mlxd_gguf *g, mlxd_slice file) {
    mlxd_why ignored;
    for (size_t i = 0; i < mlxd_gguf_tensor_count(g); i++) {
        const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(g, i);
        assert_ptr_equal(mlxd_gguf_tensor_find(g, t->name), t);
        assert_true(t->data.len == t->data_bytes);
        assert_true(t->data.data == file.data + t->file_offset);
        assert_true(t->file_offset <= file.len && t->data.len <= file.len - t->file_offset);
        volatile uint8_t last = t->data.data[t->data.len - 1];
        (void)last;
    }
    for (size_t i = 0; i < mlxd_gguf_kv_count(g); i++) {
        const char *key = mlxd_gguf_kv_key(g, i);
        mlxd_gguf_array a;
        mlxd_slice s;
        uint64_t u;
        double d;
        assert_true(mlxd_gguf_has(g, key));
        if (mlxd_gguf_get_u64(g, key, &u, &ignored) == MLXD_OK ||
            mlxd_gguf_get_f64(g, key, &d, &ignored) == MLXD_OK)
            continue;
        if (mlxd_gguf_get_str(g, key, &s, &ignored) == MLXD_OK)
            assert_true(s.data + s.len <= file.data + file.len);
        if (mlxd_gguf_get_array(g, key, &a, &ignored) != MLXD_OK)
            continue;
        size_t cursor = 0;
        for (uint64_t k = 0; k < a.count; k++)
            if (a.type == MLXD_GGUF_STRING)
                s = mlxd_gguf_array_next_str(&a, &cursor);
            else if (a.type == MLXD_GGUF_F32 || a.type == MLXD_GGUF_F64)
                d = mlxd_gguf_array_float(&a, k);
            else
                u = (uint64_t)mlxd_gguf_array_int(&a, k);
        assert_true(a.type != MLXD_GGUF_STRING || cursor == a.data.len);
    }
}

/* Opens a copy of the bytes and walks through it. */
static mlxd_err open_bytes(const uint8_t *data, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, data, len);
    mlxd_gguf *g = (mlxd_gguf *)1;
    memset(&why, 0, sizeof why);
    mlxd_err err = mlxd_gguf_open(&g, (mlxd_slice){copy, len}, "m.gguf", &why);
    if (err == MLXD_OK) {
        walk(g, (mlxd_slice){copy, len});
        mlxd_gguf_close(g);
    } else {
        assert_null(g);
        assert_memory_equal(why.text, "m.gguf: ", 8);
    }
    free(copy);
    return err;
}

static mlxd_err open_writer(struct writer *w) {
    assert_false(w->b.failed);
    mlxd_err err = open_bytes(w->b.data, w->b.len);
    mlxd_buf_deinit(&w->b);
    return err;
}

static const struct field *find_field(const struct writer *w, const char *name) {
    for (size_t i = 0; i < w->n_fields; i++)
        if (strcmp(w->fields[i].name, name) == 0)
            return &w->fields[i];
    fail_msg("no field %s", name);
    return NULL;
}

static void poke(struct writer *w, const struct field *f, uint64_t v) {
    for (size_t i = 0; i < f->width; i++)
        w->b.data[f->at + i] = (uint8_t)(v >> (8 * i));
}

static void expect_text(const char *part, const char *about) {
    if (!strstr(why.text, part))
        fail_msg("%s: got \"%s\", expected it to contain \"%s\"", about, why.text, part);
}

/* ---- valid files ---- */

static void check_usual(mlxd_gguf *g, uint32_t version) {
    assert_int_equal(mlxd_gguf_version(g), version);
    assert_int_equal(mlxd_gguf_tensor_count(g), USUAL_TENSORS);
    assert_int_equal(mlxd_gguf_kv_count(g), USUAL_KV);
    assert_string_equal(mlxd_gguf_kv_key(g, 2), "v.u8");
    const mlxd_gguf_tensor *t = mlxd_gguf_tensor_find(g, "attn.weight");
    assert_non_null(t);
    assert_int_equal(t->type, MLXD_GGUF_TYPE_Q4_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 64);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(t->data_bytes, 72);
    assert_null(mlxd_gguf_tensor_find(g, "attn.weigh"));
    assert_null(mlxd_gguf_tensor_find(g, ""));
}

static void test_reads_versions_and_alignments(void **state) {
    (void)state;
    static const uint32_t alignments[] = {8, 32, 64, 4096, 65536};
    for (uint32_t version = 2; version <= 3; version++)
        for (size_t i = 0; i < MLXD_COUNT_OF(alignments); i++) {
            struct writer w;
            put_usual(&w, version, alignments[i]);
            mlxd_gguf *g;
            mlxd_slice file = {w.b.data, w.b.len};
            assert_int_equal(mlxd_gguf_open(&g, file, "m.gguf", &why), MLXD_OK);
            check_usual(g, version);
            walk(g, file);
            const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(g, 1);
            size_t second = alignments[i] < 64
                                ? (48 + alignments[i] - 1) / alignments[i] * alignments[i]
                                : alignments[i];
            assert_int_equal(t->file_offset, w.data_start + second);
            for (size_t k = 0; k < t->data.len; k++)
                assert_int_equal(t->data.data[k], (second + k) % 251);
            mlxd_slice meta = mlxd_gguf_metadata(g);
            assert_ptr_equal(meta.data, w.b.data + 24);
            assert_int_equal(meta.len, find_field(&w, "t0.namelen")->at - 24);
            mlxd_gguf_close(g);
            mlxd_buf_deinit(&w.b);
        }
}

static void test_getters(void **state) {
    (void)state;
    struct writer w;
    put_usual(&w, 3, 32);
    mlxd_gguf *g;
    assert_int_equal(mlxd_gguf_open(&g, (mlxd_slice){w.b.data, w.b.len}, "m.gguf", &why), MLXD_OK);
    uint64_t u;
    double d;
    bool b;
    mlxd_slice s;
    static const struct {
        const char *key;
        uint64_t value;
    } integers[] = {{"v.u8", 200},         {"v.u16", 60000},      {"v.i16", 300},
                    {"v.u32", 4000000000}, {"v.u64", UINT64_MAX}, {"v.i64", INT64_MAX}};
    for (size_t i = 0; i < MLXD_COUNT_OF(integers); i++) {
        assert_int_equal(mlxd_gguf_get_u64(g, integers[i].key, &u, &why), MLXD_OK);
        assert_true(u == integers[i].value);
    }
    assert_int_equal(mlxd_gguf_get_u64(g, "v.i8", &u, &why), MLXD_ERR_DATA);
    expect_text("key \"v.i8\" is -7, expected 0 or more", "negative");
    assert_int_equal(mlxd_gguf_get_u64(g, "v.i32", &u, &why), MLXD_ERR_DATA);
    expect_text("is -2147483648,", "most negative");
    assert_int_equal(mlxd_gguf_get_u64(g, "v.f32", &u, &why), MLXD_ERR_DATA);
    expect_text("key \"v.f32\" is f32, expected an integer", "float as integer");
    assert_int_equal(mlxd_gguf_get_u64(g, "v.bool", &u, &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_gguf_get_u64(g, "v.none", &u, &why), MLXD_ERR_NOTFOUND);
    expect_text("m.gguf: key \"v.none\" is missing", "missing");

    assert_int_equal(mlxd_gguf_get_f64(g, "v.f32", &d, &why), MLXD_OK);
    assert_true(d == 1.5);
    assert_int_equal(mlxd_gguf_get_f64(g, "v.f64", &d, &why), MLXD_OK);
    assert_true(d == -0.25);
    assert_int_equal(mlxd_gguf_get_f64(g, "v.u32", &d, &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_gguf_get_bool(g, "v.bool", &b, &why), MLXD_OK);
    assert_true(b);
    assert_int_equal(mlxd_gguf_get_bool(g, "v.u8", &b, &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_gguf_get_str(g, "general.name", &s, &why), MLXD_OK);
    assert_true(mlxd_slice_eq(s, mlxd_slice_str("a tiny file")));
    assert_int_equal(mlxd_gguf_get_str(g, "a.str", &s, &why), MLXD_ERR_DATA);
    expect_text("key \"a.str\" is array, expected string", "array as string");
    mlxd_gguf_close(g);
    mlxd_buf_deinit(&w.b);
}

static void test_arrays(void **state) {
    (void)state;
    struct writer w;
    put_usual(&w, 3, 32);
    mlxd_gguf *g;
    mlxd_gguf_array a;
    size_t cursor = 0;
    assert_int_equal(mlxd_gguf_open(&g, (mlxd_slice){w.b.data, w.b.len}, "m.gguf", &why), MLXD_OK);
    assert_int_equal(mlxd_gguf_get_array(g, "a.str", &a, &why), MLXD_OK);
    assert_int_equal(a.type, MLXD_GGUF_STRING);
    assert_int_equal(a.count, 3);
    assert_true(mlxd_slice_eq(mlxd_gguf_array_next_str(&a, &cursor), mlxd_slice_str("one")));
    assert_int_equal(mlxd_gguf_array_next_str(&a, &cursor).len, 0);
    assert_true(mlxd_slice_eq(mlxd_gguf_array_next_str(&a, &cursor), mlxd_slice_str("three")));
    assert_int_equal(mlxd_gguf_get_array(g, "a.i16", &a, &why), MLXD_OK);
    assert_int_equal(mlxd_gguf_array_int(&a, 0), -3);
    assert_int_equal(mlxd_gguf_array_int(&a, 1), 9);
    assert_int_equal(mlxd_gguf_get_array(g, "a.f32", &a, &why), MLXD_OK);
    assert_true(mlxd_gguf_array_float(&a, 0) == 1.5);
    assert_int_equal(mlxd_gguf_get_array(g, "a.bool", &a, &why), MLXD_OK);
    assert_int_equal(mlxd_gguf_array_int(&a, 1), 1);
    assert_int_equal(mlxd_gguf_get_array(g, "a.none", &a, &why), MLXD_OK);
    assert_int_equal(a.count, 0);
    assert_true(mlxd_gguf_is_array(g, "a.i16"));
    assert_false(mlxd_gguf_is_array(g, "v.i16"));
    assert_false(mlxd_gguf_is_array(g, "a.missing"));
    assert_int_equal(mlxd_gguf_get_array(g, "v.u8", &a, &why), MLXD_ERR_DATA);
    mlxd_gguf_close(g);
    mlxd_buf_deinit(&w.b);
}

static void test_type_table(void **state) {
    (void)state;
    uint32_t elems, bytes, known = 0;
    for (uint32_t type = 0; type < 64; type++)
        known += mlxd_gguf_type_size(type, &elems, &bytes);
    assert_int_equal(known, 43 - 8); /* ids 0..42 less the removed ones */
    static const uint32_t removed[] = {4, 5, 31, 32, 33, 36, 37, 38};
    for (size_t i = 0; i < MLXD_COUNT_OF(removed); i++)
        assert_false(mlxd_gguf_type_size(removed[i], &elems, &bytes));
    assert_true(mlxd_gguf_type_size(12, &elems, &bytes));
    assert_int_equal(elems, 256);
    assert_int_equal(bytes, 144);
    assert_string_equal(mlxd_gguf_type_name(12), "Q4_K");
    assert_string_equal(mlxd_gguf_type_name(43), "unknown");
    assert_string_equal(mlxd_gguf_type_name(UINT32_MAX), "unknown");
}

static void test_file_without_tensors(void **state) {
    (void)state;
    for (int padded = 0; padded < 2; padded++) {
        struct writer w;
        put_header(&w, 3, 0, 1);
        put_scalar(&w, "v.u8", MLXD_GGUF_U8, 1, 1);
        if (padded)
            put_data(&w);
        assert_int_equal(open_writer(&w), MLXD_OK);
    }
}

/* ---- damaged files ---- */

static void test_cut_at_every_byte(void **state) {
    (void)state;
    struct writer w;
    put_usual(&w, 3, 32);
    size_t unpadded = w.data_start + USUAL_LAST_END;
    for (size_t len = 0; len < w.b.len; len++) {
        mlxd_err err = open_bytes(w.b.data, len);
        if (err != (len == unpadded ? MLXD_OK : MLXD_ERR_DATA))
            fail_msg("cut at %zu: %s %s", len, mlxd_err_name(err), why.text);
    }
    assert_int_equal(open_bytes(w.b.data, w.b.len), MLXD_OK);
    mlxd_buf_add_byte(&w.b, 0);
    assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
    expect_text("bytes, expected", "one byte more");
}

static void test_head_of_every_length(void **state) {
    (void)state;
    struct writer w;
    put_usual(&w, 3, 32);
    const struct field *last = find_field(&w, "t2.offset");
    for (size_t len = 0; len <= w.b.len; len++) {
        uint8_t *head = malloc(len ? len : 1);
        assert_non_null(head);
        memcpy(head, w.b.data, len);
        mlxd_gguf *g;
        mlxd_err err = mlxd_gguf_open_head(&g, (mlxd_slice){head, len}, w.b.len, "m.gguf", &why);
        assert_int_equal(err, len < last->at + 8 ? MLXD_ERR_AGAIN : MLXD_OK);
        if (!err) {
            check_usual(g, 3);
            const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(g, 2);
            assert_int_equal(t->data.len, 0);
            assert_int_equal(t->file_offset, w.data_start + 64 + 96);
            assert_int_equal(t->data_bytes, 10);
            mlxd_gguf_close(g);
        }
        free(head);
    }
    /* What the file itself cannot hold is refused, however short the head. */
    poke(&w, find_field(&w, "a.i16.count"), 1000);
    mlxd_gguf *g;
    mlxd_slice head = {w.b.data, last->at};
    assert_int_equal(mlxd_gguf_open_head(&g, head, w.b.len, "m.gguf", &why), MLXD_ERR_DATA);
    mlxd_buf_deinit(&w.b);
}

/* Each single bit of header, metadata and infos: refused, or another valid file. */
static void test_flip_every_bit(void **state) {
    (void)state;
    struct writer w;
    put_usual(&w, 3, 32);
    size_t refused = 0;
    for (size_t bit = 0; bit < w.data_start * 8; bit++) {
        w.b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        mlxd_err err = open_bytes(w.b.data, w.b.len);
        assert_true(err == MLXD_OK || err == MLXD_ERR_DATA || err == MLXD_ERR_UNSUPPORTED);
        refused += err != MLXD_OK;
        w.b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* Flips inside values, names and texts are valid files; those of lengths are not. */
    assert_in_range(refused, 2000, w.data_start * 8);
    mlxd_buf_deinit(&w.b);
}

static void test_random_damage(void **state) {
    (void)state;
    uint32_t seed = 20261123;
    print_message("seed %u\n", seed);
    struct writer w;
    put_usual(&w, 3, 32);
    uint8_t *copy = malloc(w.b.len);
    assert_non_null(copy);
    for (int round = 0; round < 20000; round++) {
        memcpy(copy, w.b.data, w.b.len);
        for (int k = 0; k < 3; k++) {
            seed = seed * 1664525 + 1013904223;
            copy[(seed >> 8) % w.data_start] = (uint8_t)(seed >> 3);
        }
        mlxd_err err = open_bytes(copy, w.b.len);
        assert_true(err == MLXD_OK || err == MLXD_ERR_DATA || err == MLXD_ERR_UNSUPPORTED);
    }
    free(copy);
    mlxd_buf_deinit(&w.b);
}

/* Every field that says how much or where, at the values where arithmetic goes wrong. (The last
 * tensor may shrink within its padding and is still a valid file, so its size is not here.) */
static void test_boundary_values(void **state) {
    (void)state;
    static const uint64_t values[] = {0,
                                      1,
                                      INT32_MAX - 1,
                                      INT32_MAX,
                                      UINT64_C(1) << 31,
                                      (UINT64_C(1) << 31) + 1,
                                      UINT32_MAX,
                                      UINT64_C(1) << 32,
                                      INT64_MAX - 1,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      (UINT64_C(1) << 63) + 1,
                                      UINT64_MAX - 3,
                                      UINT64_MAX};
    static const char *const fields[] = {
        "version",           "n_tensors",  "n_kv",         "v.u8.keylen",
        "v.u16.type",        "a.i16.elem", "a.i16.count",  "a.str.elem",
        "a.str.count",       "a.str.1",    "a.bool.count", "general.name.len",
        "general.alignment", "t0.namelen", "t0.n_dims",    "t0.dim0",
        "t0.dim1",           "t0.type",    "t1.dim0",      "t1.type",
        "t1.offset",         "t2.n_dims",  "t2.offset"};
    struct writer w;
    put_usual(&w, 3, 32);
    for (size_t i = 0; i < MLXD_COUNT_OF(fields); i++) {
        const struct field *f = find_field(&w, fields[i]);
        uint8_t old[8];
        memcpy(old, w.b.data + f->at, f->width);
        for (size_t k = 0; k < MLXD_COUNT_OF(values); k++) {
            if (f->width == 4 && values[k] > UINT32_MAX)
                continue;
            poke(&w, f, values[k]);
            if (memcmp(old, w.b.data + f->at, f->width) != 0 &&
                open_bytes(w.b.data, w.b.len) == MLXD_OK)
                fail_msg("%s = %llu was accepted", fields[i], (unsigned long long)values[k]);
        }
        memcpy(w.b.data + f->at, old, f->width);
    }
    assert_int_equal(open_writer(&w), MLXD_OK);
}

static void test_refusals_name_the_thing(void **state) {
    (void)state;
    static const struct {
        const char *field;
        uint64_t value;
        const char *text;
    } cases[] = {
        {"version", 0, "offset 4: version 0, expected 2 or 3"},
        {"version", 1, "offset 4: version 1, expected 2 or 3"},
        {"version", 99, "offset 4: version 99, expected 2 or 3"},
        {"version", 0x03000000, "offset 4: the file is big-endian, expected little-endian"},
        {"n_tensors", UINT64_MAX,
         "offset 8: number of tensors 18446744073709551615, expected at most 65536"},
        {"n_kv", 65537, "offset 16: number of metadata keys 65537, expected at most 65536"},
        {"n_kv", 65536, "offset 8: 3 tensors and 65536 keys need 917"},
        {"v.u8.keylen", UINT64_C(1) << 63,
         "key of 9223372036854775808 bytes, expected at most 65535"},
        {"v.u8.keylen", 0, "key is empty"},
        {"v.u8.type", 13, "key \"v.u8\": value type 13, expected 0..12"},
        {"v.bool", 2, "key \"v.bool\": boolean 2, expected 0 or 1"},
        {"a.bool.1", 255, "key \"a.bool\": boolean 255, expected 0 or 1"},
        {"general.name.len", (1u << 20) + 1,
         "key \"general.name\": string of 1048577 bytes, expected at most 1048576"},
        {"general.name.len", 1u << 20, "string takes 1048576 bytes, but the file ends after"},
        {"a.i16.elem", MLXD_GGUF_ARRAY, "key \"a.i16\": an array of arrays is not accepted"},
        {"a.i16.elem", 13, "key \"a.i16\": element type 13, expected 0..12"},
        {"a.i16.count", (16u << 20) + 1,
         "key \"a.i16\": array of 16777217 elements, expected at most 16777216"},
        {"a.i16.count", 16u << 20, "array of 16777216 elements, but the file ends after"},
        {"general.alignment", 0, "key \"general.alignment\": u32 0, expected u32, a power of two"},
        {"general.alignment", 3, "u32 3, expected u32, a power of two in 8..65536"},
        {"general.alignment", UINT32_C(1) << 31, "u32 2147483648, expected"},
        {"general.alignment.type", MLXD_GGUF_I32, "\"general.alignment\": i32 0, expected u32"},
        {"t1.namelen", 64, "tensor of 64 bytes, expected at most 63"},
        {"t1.n_dims", 0, "tensor \"attn.weight\": 0 dimensions, expected 1..4"},
        {"t1.n_dims", 5, "tensor \"attn.weight\": 5 dimensions, expected 1..4"},
        {"t1.dim1", 0, "tensor \"attn.weight\": dimension 1 is 0, expected 1..2^40"},
        {"t1.dim0", UINT64_C(1) << 63, "dimension 0 is 9223372036854775808, expected 1..2^40"},
        {"t1.dim0", 65, "rows of 65 elements, expected a multiple of 32 for Q4_0"},
        {"t1.type", 4, "tensor type 4 (removed from the format), expected one that ggml has"},
        {"t1.type", 38, "tensor type 38 (removed from the format)"},
        {"t1.type", 43, "tensor type 43 (unknown)"},
        {"t1.type", UINT32_MAX, "tensor type 4294967295 (unknown)"},
        {"t1.offset", 65, "tensor \"attn.weight\": data at 65 is not aligned, expected 64"},
        {"t1.offset", 32, "data at 32 overlaps the tensor before, expected 64"},
        {"t1.offset", 96, "data at 96 leaves a hole, expected 64"},
        {"t2.offset", UINT64_MAX - 3, "data at 18446744073709551612 is not aligned"},
        {"t2.dim0", 17, "tensor \"bias\": data at "},
        {"t2.dim0", UINT64_C(1) << 40, "(cut short?)"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        struct writer w;
        put_usual(&w, 3, 32);
        const struct field *f = find_field(&w, cases[i].field);
        poke(&w, f, cases[i].value);
        mlxd_err err = open_writer(&w);
        bool version = strcmp(cases[i].field, "version") == 0;
        if (err != (version ? MLXD_ERR_UNSUPPORTED : MLXD_ERR_DATA))
            fail_msg("%s = %llu: %s", cases[i].field, (unsigned long long)cases[i].value,
                     mlxd_err_name(err));
        expect_text(cases[i].text, cases[i].field);
    }
}

static void test_magic_and_empty(void **state) {
    (void)state;
    assert_int_equal(open_bytes(NULL, 0), MLXD_ERR_DATA);
    expect_text("m.gguf: offset 0: the file is empty", "empty");
    assert_int_equal(open_bytes((const uint8_t *)"ggjt\3\0\0\0", 8), MLXD_ERR_DATA);
    expect_text("magic 67 67 6a 74, expected \"GGUF\"", "magic");
}

static void test_duplicates_and_names(void **state) {
    (void)state;
    struct writer w;
    put_header(&w, 3, 0, 3);
    put_scalar(&w, "k.same", MLXD_GGUF_U8, 1, 1);
    put_scalar(&w, "k.sam", MLXD_GGUF_U8, 1, 1);
    put_scalar(&w, "k.same", MLXD_GGUF_U16, 1, 2);
    size_t third = find_field(&w, "k.sam")->at + 1;
    assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
    char text[64];
    snprintf(text, sizeof text, "offset %zu: duplicate key \"k.same\"", third);
    expect_text(text, "key");

    put_header(&w, 3, 2, 0);
    put_tensor(&w, "t0", "same", 1, (uint64_t[]){1}, 0, 4);
    put_tensor(&w, "t1", "same", 1, (uint64_t[]){1}, 0, 4);
    put_data(&w);
    assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
    expect_text("duplicate tensor \"same\"", "tensor");

    put_header(&w, 3, 1, 0);
    put_tensor(&w, "t0", "sXme", 1, (uint64_t[]){1}, 0, 4);
    put_data(&w);
    w.b.data[find_field(&w, "t0.namelen")->at + 9] = 0;
    assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
    expect_text("tensor with a NUL byte", "NUL");
}

/* Products of dimensions and sums of sizes that do not fit 64 bits. */
static void test_sizes_that_wrap(void **state) {
    (void)state;
    const uint64_t big = UINT64_C(1) << 40;
    static const struct {
        uint32_t n_dims;
        uint64_t dims[4];
        uint32_t type;
        const char *text;
    } cases[] = {
        {4, {1 << 30, 1 << 30, 1 << 30, 1 << 30}, 0, "product of the dimensions is beyond 2^63"},
        {2, {UINT64_C(1) << 40, UINT64_C(1) << 24}, 0, "product of the dimensions"}, /* 2^64: 0 */
        {2, {UINT64_C(1) << 40, UINT64_C(1) << 22}, 0, "product of the dimensions"}, /* bytes */
        {2, {UINT64_C(1) << 40, UINT64_C(1) << 23}, 2, "product of the dimensions"}, /* elems */
        {2, {UINT64_C(1) << 40, UINT64_C(1) << 22}, 2, "(cut short?)"}, /* fits, not in the file */
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        struct writer w;
        put_header(&w, 3, 1, 0);
        put_tensor(&w, "t0", "big", cases[i].n_dims, cases[i].dims, cases[i].type, 32);
        put_data(&w);
        assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
        expect_text(cases[i].text, "wrap");
    }
    /* Nine tensors of 2^61 bytes each: the running sum wraps. */
    struct writer w;
    uint64_t bytes = big << 21;
    put_header(&w, 3, 9, 0);
    for (int i = 0; i < 9; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        put_tensor(&w, name, name, 2, (uint64_t[]){big, UINT64_C(1) << 19}, 0, bytes);
    }
    w.data_bytes = 64;
    put_data(&w);
    assert_int_equal(open_writer(&w), MLXD_ERR_DATA);
    expect_text("the data ends beyond 2^64", "sum");
}

/* 64 Ki names that differ only at their end: the index must not be quadratic (this would take
 * minutes, and the test's time limit would end it). */
static void test_many_names(void **state) {
    (void)state;
    struct writer w;
    put_header(&w, 3, MLXD_LIMIT_GGUF_TENSORS, MLXD_LIMIT_GGUF_KV);
    for (unsigned i = 0; i < MLXD_LIMIT_GGUF_KV; i++) {
        char key[64];
        snprintf(key, sizeof key, "a.key.that.begins.like.all.the.others.%05u", i * 7919 % 65536);
        put_scalar(&w, key, MLXD_GGUF_U32, i, 4);
    }
    for (unsigned i = 0; i < MLXD_LIMIT_GGUF_TENSORS; i++) {
        char name[64];
        snprintf(name, sizeof name, "a.tensor.that.begins.like.the.others.%05u", i * 7919 % 65536);
        put_tensor(&w, "t", name, 1, (uint64_t[]){8}, 0, 32);
    }
    put_data(&w);
    mlxd_gguf *g;
    mlxd_slice file = {w.b.data, w.b.len};
    assert_int_equal(mlxd_gguf_open(&g, file, "m.gguf", &why), MLXD_OK);
    walk(g, file);
    mlxd_gguf_close(g);
    mlxd_buf_deinit(&w.b);
}

/* ---- a file made by another program ---- */

static void test_golden_file(void **state) {
    (void)state;
    FILE *f = fopen(MLXD_GOLDEN "/tiny-f32.gguf", "rb");
    if (!f)
        skip();
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    uint8_t block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;)
        mlxd_buf_add(&b, block, n);
    fclose(f);
    mlxd_gguf *g;
    mlxd_slice file = {b.data, b.len}, arch;
    assert_int_equal(mlxd_gguf_open(&g, file, "tiny-f32.gguf", &why), MLXD_OK);
    walk(g, file);
    assert_int_equal(mlxd_gguf_get_str(g, "general.architecture", &arch, &why), MLXD_OK);
    assert_true(mlxd_slice_eq(arch, mlxd_slice_str("llama")));
    const mlxd_gguf_tensor *t = mlxd_gguf_tensor_find(g, "token_embd.weight");
    assert_non_null(t);
    assert_int_equal(t->type, MLXD_GGUF_TYPE_F32);
    assert_true(t->data_bytes == t->dims[0] * t->dims[1] * 4);
    mlxd_gguf_close(g);
    mlxd_buf_deinit(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_versions_and_alignments),
        cmocka_unit_test(test_getters),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_type_table),
        cmocka_unit_test(test_file_without_tensors),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_head_of_every_length),
        cmocka_unit_test(test_flip_every_bit),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_boundary_values),
        cmocka_unit_test(test_refusals_name_the_thing),
        cmocka_unit_test(test_magic_and_empty),
        cmocka_unit_test(test_duplicates_and_names),
        cmocka_unit_test(test_sizes_that_wrap),
        cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_golden_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
