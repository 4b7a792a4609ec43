/* test_tensor_store.c - what is a tensor and what is refused, its encoding against protobuf-c, the
 * bounds of the store and of memory that is lent out. */
#include "cluster/tensor_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <tensor_service.pb-c.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {{"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"int8", 1},
              {"uint8", 1},   {"int32", 4},   {"int64", 8}};

static mlxd_slice text(const char *s) {
    return mlxd_slice_str(s);
}

static bool is_text(mlxd_slice s, const char *expected) {
    return mlxd_slice_eq(s, mlxd_slice_str(expected));
}

/* float32 [2, 3], all ones. */
static mlxd_tensor good(void) {
    static const float ones[6] = {1, 1, 1, 1, 1, 1};
    return (mlxd_tensor){.id = text("t"),
                         .dtype = text("float32"),
                         .shape = {2, 3},
                         .n_dims = 2,
                         .data = {(const uint8_t *)ones, sizeof ones}};
}

static mlxd_tensor bytes_tensor(const char *id, const uint8_t *data, size_t len) {
    return (mlxd_tensor){.id = text(id),
                         .dtype = text("uint8"),
                         .shape = {(int32_t)len},
                         .n_dims = 1,
                         .data = {data, len}};
}

/* ---- checks ---- */

static void bad_tensors_are_named(void **state) {
    static char longest[MLXD_LIMIT_TENSOR_ID + 2];
    static const uint8_t data[64];
    const char *const expected[] = {"tensor_id is empty",
                                    "tensor_id has 257 bytes",
                                    "tensor_id is not UTF-8",
                                    "control character 0x00",
                                    "device_source has",
                                    "device_target has",
                                    "dtype \"\"",
                                    "dtype \"float64\"",
                                    "dtype \"float3\"",
                                    "compression \"zstd\"",
                                    "shape has 0 dimensions",
                                    "shape has 9 dimensions",
                                    "dimension 1 of the shape is 0",
                                    "dimension 0 of the shape is -2",
                                    "overflows",
                                    "24 bytes of data",
                                    "20 bytes of data",
                                    "0 bytes of data"};
    mlxd_tensor t[MLXD_COUNT_OF(expected)];
    mlxd_tensor_store *store = mlxd_tensor_store_open(10, 1000);
    (void)state;
    assert_non_null(store);
    memset(longest, 'a', MLXD_LIMIT_TENSOR_ID + 1);
    for (size_t i = 0; i < MLXD_COUNT_OF(t); i++)
        t[i] = good();
    size_t i = 0;
    t[i++].id.len = 0;
    t[i++].id = text(longest);
    t[i++].id = text("\xff");
    t[i++].id = (mlxd_slice){(const uint8_t *)"a\0b", 3};
    t[i++].source = text(longest);
    t[i++].target = text(longest);
    t[i++].dtype.len = 0;
    t[i++].dtype = text("float64");
    t[i++].dtype.len = 6;
    t[i++].compression = text("zstd");
    t[i++].n_dims = 0;
    t[i++].n_dims = 9;
    t[i++].shape[1] = 0;
    t[i].shape[0] = -2;
    t[i++].shape[1] = -3;
    for (uint32_t d = 0; d < MLXD_LIMIT_TENSOR_DIMS; d++)
        t[i].shape[d] = 1 << 30;
    t[i++].n_dims = MLXD_LIMIT_TENSOR_DIMS;
    t[i++].shape[0] = 1;
    t[i++].data.len = 20;
    t[i++].data = (mlxd_slice){data, 0};
    assert_int_equal(i, MLXD_COUNT_OF(t));
    for (i = 0; i < MLXD_COUNT_OF(t); i++) {
        mlxd_why why = {0};
        assert_int_equal(mlxd_tensor_store_put(store, &t[i], &why), MLXD_ERR_INVALID);
        if (!strstr(why.text, expected[i]))
            fail_msg("\"%s\" does not say \"%s\"", why.text, expected[i]);
    }
    assert_int_equal(mlxd_tensor_store_count(store), 0);
    assert_int_equal(mlxd_tensor_store_bytes(store), 0);
    longest[MLXD_LIMIT_TENSOR_ID] = 0;
    t[0] = good(); /* at the limits */
    t[0].id = text(longest);
    t[0].compression = text("none");
    t[0].n_dims = MLXD_LIMIT_TENSOR_DIMS;
    for (uint32_t d = 2; d < MLXD_LIMIT_TENSOR_DIMS; d++)
        t[0].shape[d] = 1;
    assert_int_equal(mlxd_tensor_store_put(store, &t[0], NULL), MLXD_OK);
    mlxd_tensor_store_close(store);
}

/* NaN and infinities of each float type at many places, named by index; everything else passes. */
static void not_finite(void **state) {
    enum { N = 200001 };
    static const struct {
        const char *dtype;
        size_t bytes;
        uint32_t bad[4], fine[4];
    } cases[] = {{"float32",
                  4,
                  {0x7f800000, 0xff800000, 0x7fc00000, 0xff800001},
                  {0x7f7fffff, 1, 0x80000000}},
                 {"float16", 2, {0x7c00, 0xfc00, 0x7e00, 0xfc01}, {0x7bff, 1, 0x8000, 0x03ff}},
                 {"bfloat16", 2, {0x7f80, 0xff80, 0x7fc0, 0xff81}, {0x7f7f, 1, 0x8000, 0x7c00}}};
    static const size_t places[] = {0, 1, 65535, 65536, 65537, 131072, N - 1};
    static uint8_t data[N * 4 + 1];
    (void)state;
    for (size_t c = 0; c < MLXD_COUNT_OF(cases); c++) {
        size_t bytes = cases[c].bytes;
        /* One byte off: a message's data has any alignment. */
        mlxd_tensor t = {.id = text("t"), .shape = {N}, .n_dims = 1, .data = {data + 1, N * bytes}};
        t.dtype = text(cases[c].dtype);
        for (size_t i = 0; i < N; i++)
            memcpy(data + 1 + i * bytes, &cases[c].fine[i % 4], bytes);
        assert_int_equal(mlxd_tensor_check(&t, NULL), MLXD_OK);
        assert_int_equal(mlxd_tensor_check_finite(&t, NULL), MLXD_OK);
        for (size_t p = 0; p < MLXD_COUNT_OF(places); p++) {
            char expected[64];
            mlxd_why why = {0};
            memcpy(data + 1 + places[p] * bytes, &cases[c].bad[p % 4], bytes);
            memcpy(data + 1 + (N - 1) * bytes, &cases[c].bad[p % 4], bytes);
            snprintf(expected, sizeof expected, "element %zu of %d", places[p], N);
            assert_int_equal(mlxd_tensor_check_finite(&t, &why), MLXD_ERR_CORRUPT);
            assert_non_null(strstr(why.text, expected));
            memcpy(data + 1 + places[p] * bytes, &cases[c].fine[0], bytes);
        }
        if (bytes == 4) {
            t.dtype = text("int32"); /* the same bits mean something else */
            assert_int_equal(mlxd_tensor_check_finite(&t, NULL), MLXD_OK);
        }
    }
}

/* ---- the store ---- */

static void every_dtype_comes_back(void **state) {
    uint8_t data[8 * 15];
    mlxd_tensor_store *store = mlxd_tensor_store_open(10, 10000);
    (void)state;
    assert_non_null(store);
    for (size_t d = 0; d < MLXD_COUNT_OF(dtypes); d++) {
        memset(data, (int)(d + 1), sizeof data);
        mlxd_tensor t = {.id = text(dtypes[d].name),
                         .dtype = text(dtypes[d].name),
                         .source = text("mini1"),
                         .target = text("mini2"),
                         .shape = {3, 1, 5},
                         .n_dims = 3,
                         .timestamp = 0.5,
                         .data = {data, 15 * dtypes[d].bytes}};
        assert_int_equal(mlxd_tensor_store_put(store, &t, NULL), MLXD_OK);
        memset(data, 0xee, sizeof data); /* it is a copy */
    }
    assert_int_equal(mlxd_tensor_store_count(store), MLXD_COUNT_OF(dtypes));
    for (size_t d = 0; d < MLXD_COUNT_OF(dtypes); d++) {
        mlxd_tensor out;
        mlxd_tensor_block *block;
        assert_true(mlxd_tensor_store_get(store, text(dtypes[d].name), &out, &block));
        assert_true(is_text(out.id, dtypes[d].name) && is_text(out.dtype, dtypes[d].name));
        assert_true(is_text(out.source, "mini1") && is_text(out.target, "mini2"));
        assert_true(out.n_dims == 3 && out.shape[0] == 3 && out.shape[2] == 5);
        assert_true(out.timestamp == 0.5);
        assert_int_equal(out.data.len, 15 * dtypes[d].bytes);
        for (size_t i = 0; i < out.data.len; i++)
            assert_int_equal(out.data.data[i], d + 1);
        assert_true(out.data.data == mlxd_tensor_block_data(block));
        assert_int_equal((uintptr_t)out.data.data % MLXD_TENSOR_ALIGN, 0);
        mlxd_tensor_block_unref(block);
    }
    mlxd_tensor out;
    mlxd_tensor_block *block;
    assert_false(mlxd_tensor_store_get(store, text("float3"), &out, &block));
    mlxd_tensor_store_close(store);
}

static void a_full_store_says_so(void **state) {
    static const uint8_t data[100];
    mlxd_tensor_store *store = mlxd_tensor_store_open(3, 200);
    mlxd_why why = {0};
    (void)state;
    assert_non_null(store);
    mlxd_tensor a = bytes_tensor("a", data, 98), b = bytes_tensor("b", data, 99);
    mlxd_tensor small = bytes_tensor("c", data, 1);
    assert_int_equal(mlxd_tensor_store_put(store, &a, NULL), MLXD_OK); /* 98 bytes and a name */
    assert_int_equal(mlxd_tensor_store_put(store, &b, NULL), MLXD_OK);
    assert_int_equal(mlxd_tensor_store_bytes(store), 199);
    assert_int_equal(mlxd_tensor_store_put(store, &small, &why), MLXD_ERR_FULL);
    assert_non_null(strstr(why.text, "199 of 200"));
    /* Replacing frees what was there; a replacement that does not fit changes nothing. */
    b = bytes_tensor("b", data, 100);
    assert_int_equal(mlxd_tensor_store_put(store, &b, NULL), MLXD_OK);
    assert_int_equal(mlxd_tensor_store_bytes(store), 200);
    mlxd_tensor big = bytes_tensor("a", data, 99);
    assert_int_equal(mlxd_tensor_store_put(store, &big, NULL), MLXD_ERR_FULL);
    assert_int_equal(mlxd_tensor_store_bytes(store), 200);
    b = bytes_tensor("b", data, 1);
    assert_int_equal(mlxd_tensor_store_put(store, &b, NULL), MLXD_OK);
    assert_int_equal(mlxd_tensor_store_put(store, &small, NULL), MLXD_OK);
    mlxd_tensor fourth = bytes_tensor("d", data, 1);
    assert_int_equal(mlxd_tensor_store_put(store, &fourth, &why), MLXD_ERR_FULL);
    assert_non_null(strstr(why.text, "3 tensors are stored"));
    assert_int_equal(mlxd_tensor_store_put(store, &small, NULL), MLXD_OK); /* replaces */
    assert_int_equal(mlxd_tensor_store_count(store), 3);
    mlxd_tensor_store_close(store);
}

/* A tensor that is still being sent keeps its bytes and its place in the budget. */
static void lent_tensors_count(void **state) {
    static uint8_t ones[100], twos[100];
    mlxd_tensor_store *store = mlxd_tensor_store_open(3, 250);
    mlxd_tensor out;
    mlxd_tensor_block *lent, *newer;
    (void)state;
    assert_non_null(store);
    memset(ones, 1, sizeof ones);
    memset(twos, 2, sizeof twos);
    mlxd_tensor a = bytes_tensor("a", ones, 100), a2 = bytes_tensor("a", twos, 100);
    assert_int_equal(mlxd_tensor_store_put(store, &a, NULL), MLXD_OK);
    assert_true(mlxd_tensor_store_get(store, text("a"), &out, &lent));
    assert_int_equal(mlxd_tensor_store_put(store, &a2, NULL), MLXD_OK);
    assert_int_equal(mlxd_tensor_store_bytes(store), 202);
    assert_memory_equal(out.data.data, ones, 100);
    assert_true(mlxd_tensor_store_get(store, text("a"), &out, &newer));
    assert_memory_equal(out.data.data, twos, 100);
    assert_int_equal(mlxd_tensor_store_put(store, &a, NULL), MLXD_ERR_FULL); /* both are lent */
    mlxd_tensor_block_unref(lent);
    assert_int_equal(mlxd_tensor_store_bytes(store), 101);
    assert_int_equal(mlxd_tensor_store_put(store, &a, NULL), MLXD_OK);
    mlxd_tensor_store_close(store); /* what is lent outlives the store */
    assert_memory_equal(out.data.data, twos, 100);
    mlxd_tensor_block_unref(newer);
}

static void pools_are_bounded(void **state) {
    mlxd_tensor_pool *pool = mlxd_tensor_pool_open(1000);
    mlxd_tensor_block *a, *b;
    mlxd_why why = {0};
    (void)state;
    assert_non_null(pool);
    assert_int_equal(mlxd_tensor_block_open(&a, pool, 1001, NULL), MLXD_ERR_FULL);
    assert_int_equal(mlxd_tensor_block_open(&a, pool, SIZE_MAX, NULL), MLXD_ERR_FULL);
    assert_int_equal(mlxd_tensor_block_open(&a, pool, 600, NULL), MLXD_OK);
    assert_int_equal(mlxd_tensor_block_open(&b, pool, 401, &why), MLXD_ERR_FULL);
    assert_non_null(strstr(why.text, "600 of 1000"));
    assert_int_equal(mlxd_tensor_block_open(&b, pool, 400, NULL), MLXD_OK);
    mlxd_tensor_block_ref(a);
    mlxd_tensor_block_unref(a);
    assert_int_equal(mlxd_tensor_pool_bytes(pool), 1000);
    memset(mlxd_tensor_block_data(a), 1, 600); /* all of it is ours */
    mlxd_tensor_block_unref(b);
    assert_int_equal(mlxd_tensor_pool_bytes(pool), 600);
    mlxd_tensor_pool_close(pool);
    mlxd_tensor_block_unref(a);
}

/* ---- the encoding ---- */

static bool take_outer(void *out, const mlxd_field *f) {
    return f->number != 1 || mlxd_tensor_read(out, f);
}

/* Reads a SendTensorRequest. */
static bool read_request(mlxd_slice m, mlxd_tensor *t) {
    *t = (mlxd_tensor){0};
    return mlxd_field_scan(m, take_outer, t);
}

static bool bytes_text(mlxd_slice s, const char *expected) {
    return s.len == strlen(expected) && (s.len == 0 || memcmp(s.data, expected, s.len) == 0);
}

static void same_as_protobuf_c(const mlxd_tensor *t, const TensorService__TensorData *m) {
    assert_true(bytes_text(t->id, m->tensor_id) && bytes_text(t->dtype, m->dtype));
    assert_true(bytes_text(t->compression, m->compression));
    assert_true(bytes_text(t->source, m->device_source));
    assert_true(bytes_text(t->target, m->device_target));
    assert_int_equal(t->n_dims, m->n_shape);
    for (size_t i = 0; i < MLXD_MIN(m->n_shape, (size_t)MLXD_LIMIT_TENSOR_DIMS); i++)
        assert_int_equal(t->shape[i], m->shape[i]);
    assert_memory_equal(&t->timestamp, &m->timestamp, sizeof t->timestamp);
    assert_int_equal(t->data.len, m->data.len);
    if (t->data.len)
        assert_memory_equal(t->data.data, m->data.data, t->data.len);
}

static uint64_t seed, rng;

static uint32_t random_below(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(((rng >> 32) * n) >> 32);
}

/* A valid tensor of random shape; data and names in static memory. */
static mlxd_tensor random_tensor(void) {
    static uint8_t data[4096];
    static char id[200];
    size_t d = random_below(MLXD_COUNT_OF(dtypes)), len = 1 + random_below(150), n = 1;
    mlxd_tensor t = {.dtype = text(dtypes[d].name), .n_dims = 1 + random_below(4)};
    for (size_t i = 0; i < len; i++)
        id[i] = (char)('a' + random_below(26));
    t.id = (mlxd_slice){(uint8_t *)id, len};
    if (random_below(2))
        t.source = text("mini1");
    if (random_below(2))
        t.compression = text("none");
    for (uint32_t i = 0; i < t.n_dims; i++) {
        t.shape[i] = (int32_t)(1 + random_below(4));
        n *= (size_t)t.shape[i];
    }
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)random_below(0x70); /* finite in every type */
    t.timestamp = random_below(2) ? 1.5e9 : 0;
    t.data = (mlxd_slice){data, n * dtypes[d].bytes};
    return t;
}

/* What we write protobuf-c reads, and what it packs we read. */
static void encoding_agrees(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        mlxd_tensor t = random_tensor(), back;
        mlxd_buf out, message;
        mlxd_buf_init(&out, 0);
        mlxd_buf_init(&message, 0);
        mlxd_tensor_write(&out, &t);
        mlxd_field_add_head(&message, 1, out.len + t.data.len);
        mlxd_buf_add(&message, out.data, out.len);
        mlxd_buf_add(&message, t.data.data, t.data.len);
        assert_false(message.failed);
        TensorService__SendTensorRequest *m =
            tensor_service__send_tensor_request__unpack(NULL, message.len, message.data);
        assert_non_null(m);
        same_as_protobuf_c(&t, m->tensor);
        uint8_t packed[8192];
        size_t n = tensor_service__send_tensor_request__pack(m, packed);
        assert_true(read_request((mlxd_slice){packed, n}, &back));
        same_as_protobuf_c(&back, m->tensor);
        assert_int_equal(mlxd_tensor_check(&back, NULL), MLXD_OK);
        tensor_service__send_tensor_request__free_unpacked(m, NULL);
        mlxd_buf_deinit(&message);
        mlxd_buf_deinit(&out);
    }
}

/* Data first, shape unpacked and in two parts, fields twice, the message itself twice, unknown
 * fields of every type in between. */
static void any_order_and_merging(void **state) {
    static const uint8_t bytes[] = {
        0xca, 0x3e, 1,    9,                               /* unknown 1001, bytes */
        0x0a, 11,   0x22, 2,    7,    8,                   /* tensor { data: overwritten below */
        0x10, 2,                                           /*   shape: 2, unpacked */
        0x1a, 3,    'i',  'n',  't',                       /*   dtype "int": overwritten below } */
        0xc0, 0x3e, 0x85, 0x80, 0x00,                      /* unknown 1000, varint with padding */
        0xcd, 0x3e, 1,    2,    3,    4,                   /* unknown 1001, fixed32 */
        0xc9, 0x3e, 1,    2,    3,    4,   5,   6,   7, 8, /* unknown 1001, fixed64 */
        0x0a, 18,   0x1a, 4,    'i',  'n', 't', '8',       /* tensor again { dtype "int8" */
        0x12, 2,    3,    1,                               /*   shape: 3, 1, packed */
        0x22, 6,    1,    2,    3,    4,   5,   6,         /*   data of 2 x 3 x 1 } */
        0x0a, 3,    0x0a, 1,    'x',                       /* tensor { id } */
    };
    mlxd_tensor t;
    (void)state;
    assert_true(read_request((mlxd_slice){bytes, sizeof bytes}, &t));
    assert_int_equal(mlxd_tensor_check(&t, NULL), MLXD_OK);
    assert_true(is_text(t.id, "x") && is_text(t.dtype, "int8"));
    assert_true(t.n_dims == 3 && t.shape[0] == 2 && t.shape[1] == 3 && t.shape[2] == 1);
    assert_int_equal(t.data.len, 6);
    TensorService__SendTensorRequest *m =
        tensor_service__send_tensor_request__unpack(NULL, sizeof bytes, bytes);
    assert_non_null(m);
    same_as_protobuf_c(&t, m->tensor);
    tensor_service__send_tensor_request__free_unpacked(m, NULL);
}

static void malformed_messages(void **state) {
    static const struct {
        uint8_t bytes[16];
        size_t len;
    } bad[] = {
        {{0x0a}, 1},       /* no length */
        {{0x0a, 5, 1}, 3}, /* beyond the end */
        {{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 11}, /* 2^64-1 */
        {{0x80}, 1},                                                              /* key cut */
        {{0x00, 0x00}, 2},                                                        /* field 0 */
        {{0x0b, 0x0c}, 2},                                                        /* group */
        {{0x0f}, 1},                                                              /* wire type 7 */
        {{0x08, 1}, 2},                         /* tensor as a varint */
        {{0x0a, 2, 0x20, 1}, 4},                /* data as a varint */
        {{0x0a, 5, 0x15, 1, 2, 3, 4}, 7},       /* shape as fixed32 */
        {{0x0a, 5, 0x45, 1, 2, 3, 4}, 7},       /* timestamp as fixed32 */
        {{0x88, 0x80, 0x80, 0x80, 0x10, 1}, 6}, /* field number above 2^29-1 */
        {{0xc0, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
         12}, /* 65 bits */
        {{0xc0, 0x3e, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}, 13},
    };
    mlxd_tensor t;
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++)
        if (read_request((mlxd_slice){bad[i].bytes, bad[i].len}, &t))
            fail_msg("malformed message %zu was read", i);
}

static bool has_nul(const mlxd_tensor *t) {
    const mlxd_slice all[] = {t->id, t->dtype, t->compression, t->source, t->target};
    for (size_t i = 0; i < MLXD_COUNT_OF(all); i++)
        if (all[i].len && memchr(all[i].data, 0, all[i].len))
            return true;
    return false;
}

/* Damaged and truncated messages: nothing outside the message is touched (the copy on the heap is
 * exactly as long), and what we take for a tensor protobuf-c reads alike. */
static void damage(void **state) {
    unsigned read = 0, compared = 0;
    (void)state;
    for (int round = 0; round < 100000; round++) {
        mlxd_tensor t = random_tensor(), back;
        static mlxd_buf out, message;
        mlxd_buf_clear(&out);
        mlxd_buf_clear(&message);
        t.data.len = MLXD_MIN(t.data.len, (size_t)32);
        mlxd_tensor_write(&out, &t);
        mlxd_field_add_head(&message, 1, out.len + t.data.len);
        mlxd_buf_add(&message, out.data, out.len);
        mlxd_buf_add(&message, t.data.data, t.data.len);
        size_t len = random_below(4) ? message.len : random_below((uint32_t)message.len + 1);
        for (uint32_t i = random_below(4); i > 0; i--)
            message.data[random_below((uint32_t)message.len)] = (uint8_t)random_below(256);
        uint8_t *exact = malloc(len ? len : 1);
        assert_non_null(exact);
        memcpy(exact, message.data, len);
        if (read_request((mlxd_slice){exact, len}, &back)) {
            read++;
            (void)!mlxd_tensor_check(&back, NULL);
            TensorService__SendTensorRequest *m =
                tensor_service__send_tensor_request__unpack(NULL, len, exact);
            if (m && m->tensor && !has_nul(&back)) { /* where protobuf-c's strings end */
                same_as_protobuf_c(&back, m->tensor);
                compared++;
            }
            if (m)
                tensor_service__send_tensor_request__free_unpacked(m, NULL);
        }
        free(exact);
        if (round == 99999) {
            mlxd_buf_deinit(&out);
            mlxd_buf_deinit(&message);
        }
    }
    print_message("%u of 100000 were read, %u compared\n", read, compared);
    assert_true(compared > 10000);
}

int main(void) {
    const char *given = getenv("MLXD_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    rng = seed;
    print_message("MLXD_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_tensors_are_named),  cmocka_unit_test(not_finite),
        cmocka_unit_test(every_dtype_comes_back), cmocka_unit_test(a_full_store_says_so),
        cmocka_unit_test(lent_tensors_count),     cmocka_unit_test(pools_are_bounded),
        cmocka_unit_test(encoding_agrees),        cmocka_unit_test(any_order_and_merging),
        cmocka_unit_test(malformed_messages),     cmocka_unit_test(damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
