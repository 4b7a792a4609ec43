/* test_safetensors.c - the safetensors container: what the reference writes is read, and what it
 * refuses is refused, each by name and without memory that the file did not pay for. */
#include "base/mem.h"
#include "format/json.h"
#include "format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mlxd_buf read_file(const char *path) {
    mlxd_buf b;
    uint8_t chunk[4096];
    size_t n;
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    mlxd_buf_init(&b, 0);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        mlxd_buf_add(&b, chunk, n);
    fclose(f);
    return b;
}

/* Parses a whole file that is at hand. */
static mlxd_err open_bytes(mlxd_safetensors **out, const uint8_t *data, size_t len,
                           uint64_t file_bytes, mlxd_why *why) {
    size_t head;
    mlxd_err err = mlxd_safetensors_head_bytes((mlxd_slice){data, MLXD_MIN(len, (size_t)8)},
                                               file_bytes, "a.safetensors", &head, why);
    if (err)
        return err;
    assert_true(head <= len);
    /* Exactly as long as it says, so that reading beyond it is seen. */
    uint8_t *copy = malloc(head);
    memcpy(copy, data, head);
    err = mlxd_safetensors_open(out, (mlxd_slice){copy, head}, file_bytes, "a.safetensors", why);
    free(copy);
    return err;
}

static int64_t number(const mlxd_json *o, const char *key) {
    int64_t n;
    assert_int_equal(mlxd_json_get_int64(mlxd_json_find(o, key), &n), MLXD_OK);
    return n;
}

static void what_the_reference_writes(void **state) {
    mlxd_buf file = read_file(MLXD_GOLDEN "/checkpoints/dtypes.safetensors");
    mlxd_buf list = read_file(MLXD_GOLDEN "/checkpoints/dtypes.json");
    mlxd_json_doc *doc;
    mlxd_safetensors *s;
    mlxd_why why = {0};
    (void)state;
    assert_int_equal(mlxd_json_parse(&doc, (mlxd_slice){list.data, list.len}, 9, NULL), MLXD_OK);
    const mlxd_json *all = mlxd_json_root(doc);
    if (open_bytes(&s, file.data, file.len, file.len, &why))
        fail_msg("%s", why.text);
    assert_int_equal(mlxd_safetensors_count(s), mlxd_json_count(all));
    for (size_t i = 0; i < mlxd_json_count(all); i++) {
        const mlxd_json *want = mlxd_json_at(all, i), *shape = mlxd_json_find(want, "shape");
        const mlxd_safetensors_tensor *t = mlxd_safetensors_at(s, i);
        assert_true(mlxd_json_is_str(mlxd_json_find(want, "name"), t->name));
        assert_true(mlxd_json_is_str(mlxd_json_find(want, "dtype"), mlxd_dtype_name(t->type)));
        assert_int_equal(t->file_offset, number(want, "at"));
        assert_int_equal(t->data_bytes, number(want, "bytes"));
        assert_int_equal(t->n_dims, mlxd_json_count(shape));
        for (uint32_t d = 0; d < t->n_dims; d++) {
            int64_t n;
            assert_int_equal(mlxd_json_get_int64(mlxd_json_at(shape, d), &n), MLXD_OK);
            assert_int_equal(t->dims[d], n);
        }
    }
    mlxd_safetensors_close(s);
    mlxd_safetensors_close(NULL);
    mlxd_json_close(doc);
    mlxd_buf_deinit(&list);
    mlxd_buf_deinit(&file);
}

/* Cut anywhere, in the head or the data: refused, and never read beyond the cut. */
static void every_truncation(void **state) {
    mlxd_buf file = read_file(MLXD_GOLDEN "/checkpoints/dtypes.safetensors");
    (void)state;
    for (size_t len = 0; len < file.len; len++) {
        mlxd_safetensors *s;
        mlxd_why why = {0};
        assert_int_equal(open_bytes(&s, file.data, len, len, &why), MLXD_ERR_DATA);
        assert_non_null(strstr(why.text, "a.safetensors: "));
    }
    mlxd_buf_deinit(&file);
}

/* A file with this JSON and so many bytes of data. */
static mlxd_err open_json(mlxd_safetensors **out, const char *json, uint64_t data, mlxd_why *why) {
    size_t len = strlen(json);
    uint8_t *file = malloc(8 + len);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)len >> (8 * i));
    memcpy(file + 8, json, len);
    mlxd_err err = open_bytes(out, file, 8 + len, 8 + len + data, why);
    free(file);
    return err;
}

static void accepted(const char *json, uint64_t data, size_t count) {
    mlxd_safetensors *s;
    mlxd_why why = {0};
    if (open_json(&s, json, data, &why))
        fail_msg("%s: %s", json, why.text);
    assert_int_equal(mlxd_safetensors_count(s), count);
    mlxd_safetensors_close(s);
}

static void refused(const char *json, uint64_t data, const char *text) {
    mlxd_safetensors *s;
    mlxd_why why = {0};
    mlxd_err err = open_json(&s, json, data, &why);
    if (err != MLXD_ERR_DATA || !strstr(why.text, text) || !strstr(why.text, "a.safetensors: "))
        fail_msg("%s: expected \"...%s...\", got %s \"%s\"", json, text, mlxd_err_name(err),
                 why.text);
    assert_int_equal(open_json(&s, json, data, NULL), MLXD_ERR_DATA);
}

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void what_is_legal(void **state) {
    (void)state;
    accepted("{}", 0, 0);
    accepted("{}      ", 0, 0);
    accepted("{\"__metadata__\":{\"format\":\"mlx\"}}", 0, 0);
    accepted("{\"t\":" T("F32", "[]", "[0,4]") "}", 4, 1);
    accepted("{\"t\":" T("F32", "[3,0]", "[0,0]") "}", 0, 1);
    accepted("{\"b\":" T("U8", "[2]", "[1,3]") ",\"a\":" T("U8", "[1]", "[0,1]") "}", 3, 2);
    accepted("{\"full\":" T("U8", "[2]", "[0,2]") ",\"none\":" T("U8", "[0]", "[0,0]") "}", 2, 2);
    accepted("{\"t\":" T("F4", "[2,3]", "[0,3]") "}", 3, 1);
    accepted("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}}", 1, 1);
    accepted("{\"t\":" T("U8", "[1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, 1);
}

static void what_is_not(void **state) {
    (void)state;
    refused("", 0, "does not begin with {");
    refused(" {}", 0, "does not begin with {");
    refused("[]", 0, "does not begin with {");
    refused("{", 0, "header: offset 1");
    refused("{}x", 0, "header: offset 2");
    refused("{\"t\":{\"shape\":[[1]]}}", 0, "header: offset");
    refused("{\"t\":" T("U8", "[1]", "[0,1]") ",\"t\":" T("U8", "[1]", "[0,1]") "}", 1,
            "duplicate");
    refused("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "duplicate");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    refused("{\"__metadata__\":[]}", 0, "__metadata__");
    refused("{\"t\":7}", 0, "tensor t is no object");
    refused("{\"\":" T("U8", "[1]", "[0,1]") "}", 1, "name has 0 bytes");
    refused("{\"t\":" T("U7", "[1]", "[0,1]") "}", 1, "dtype is U7");
    refused("{\"t\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype is integer");
    refused("{\"t\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype is nothing");
    refused("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape is not an array");
    refused("{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets is not an array");
    refused("{\"t\":" T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "at most 8 numbers");
    refused("{\"t\":" T("U8", "[-1]", "[0,1]") "}", 1, "number 0 of shape");
    refused("{\"t\":" T("U8", "[1.0]", "[0,1]") "}", 1, "number 0 of shape");
    refused("{\"t\":" T("U8", "[99999999999999999999]", "[0,1]") "}", 1, "number 0 of shape");
    refused("{\"t\":" T("U8", "[1]", "[0,-1]") "}", 1, "number 1 of data_offsets");
    refused("{\"t\":" T("U8", "[1]", "[1,0]") "}", 1, "begin and end");
    refused("{\"t\":" T("U8", "[1]", "[0]") "}", 1, "begin and end");
    refused("{\"t\":" T("U8", "[1]", "[0,1,2]") "}", 1, "at most 2 numbers");
    refused("{\"t\":" T("F4", "[3]", "[0,1]") "}", 1, "whole number of bytes");
    refused("{\"t\":" T("U8", "[4294967296,4294967296]", "[0,0]") "}", 0, "too many");
    refused("{\"t\":" T("U8", "[4294967296,4294967296,0]", "[0,0]") "}", 0, "too many");
    refused("{\"t\":" T("F64", "[1152921504606846976]", "[0,0]") "}", 0, "too many");
    refused("{\"t\":" T("F32", "[2]", "[0,4]") "}", 4, "has 4 bytes, expected 8");
    refused("{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[0,4]") "}", 8, "overlaps");
    refused("{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[3,7]") "}", 7, "overlaps");
    refused("{\"a\":" T("U8", "[1]", "[1,2]") "}", 2, "leaves a hole, expected 0");
    refused("{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[1]", "[2,3]") "}", 3, "hole");
    refused("{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[0]", "[5,5]") "}", 1, "hole");
    refused("{\"a\":" T("U8", "[9]", "[0,9]") "}", 8, "cut short");
    refused("{\"a\":" T("U8", "[9]", "[0,9]") "}", 10, "the tensors end at 9, the data at 10");
    refused("{}", 1, "the tensors end at 0");
}

/* Lengths of the header that the file does not have. */
static void lengths_of_the_header(void **state) {
    static const uint64_t lengths[] = {
        4, 100000000, 100000001, UINT32_MAX, (uint64_t)1 << 63, UINT64_MAX - 7, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(lengths); i++) {
        uint8_t file[8 + 3] = {0};
        size_t head;
        mlxd_why why = {0};
        for (int b = 0; b < 8; b++)
            file[b] = (uint8_t)(lengths[i] >> (8 * b));
        assert_int_equal(
            mlxd_safetensors_head_bytes((mlxd_slice){file, 8}, sizeof file, "x", &head, &why),
            MLXD_ERR_DATA);
        assert_non_null(strstr(why.text, "header of"));
    }
}

static void names_and_their_limit(void **state) {
    char json[600], name[300];
    (void)state;
    for (size_t len = MLXD_LIMIT_TENSOR_NAME - 1; len <= MLXD_LIMIT_TENSOR_NAME; len++) {
        memset(name, 'n', len);
        name[len] = 0;
        snprintf(json, sizeof json, "{\"%s\":" T("U8", "[1]", "[0,1]") "}", name);
        if (len < MLXD_LIMIT_TENSOR_NAME)
            accepted(json, 1, 1);
        else
            refused(json, 1, "name has 256 bytes");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_reference_writes),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(what_is_legal),
        cmocka_unit_test(what_is_not),
        cmocka_unit_test(lengths_of_the_header),
        cmocka_unit_test(names_and_their_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
