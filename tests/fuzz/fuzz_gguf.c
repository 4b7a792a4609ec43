/* fuzz_gguf.c - the GGUF container: any file is refused or can be looked at in every part; its
 * first half is enough, asks for more, or is refused, but never read beyond. */
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t visit_array(const mlxd_gguf_array *a) {
    size_t cursor = 0;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < a->count; i++)
        switch (a->type) {
        case MLXD_GGUF_STRING:
            sum += mlxd_gguf_array_next_str(a, &cursor).len;
            break;
        case MLXD_GGUF_F32:
        case MLXD_GGUF_F64:
            sum += mlxd_gguf_array_float(a, i) > 0;
            break;
        default:
            sum += (uint64_t)mlxd_gguf_array_int(a, i);
        }
    return sum;
}

static uint64_t visit(const mlxd_gguf *g, uint64_t file_bytes) {
    uint64_t sum = 0, u;
    double f;
    bool b;
    mlxd_slice s;
    mlxd_gguf_array a;
    mlxd_why why;
    for (size_t i = 0; i < mlxd_gguf_kv_count(g); i++) {
        const char *key = mlxd_gguf_kv_key(g, i);
        MLXD_ASSERT(mlxd_gguf_has(g, key));
        sum += mlxd_gguf_get_u64(g, key, &u, &why) ? 0 : u;
        sum += mlxd_gguf_get_f64(g, key, &f, &why) ? 0 : f > 0;
        sum += mlxd_gguf_get_bool(g, key, &b, &why) ? 0 : b;
        sum += mlxd_gguf_get_str(g, key, &s, &why) ? 0 : s.len;
        sum += mlxd_gguf_get_array(g, key, &a, &why) ? 0 : visit_array(&a);
    }
    for (size_t i = 0; i < mlxd_gguf_tensor_count(g); i++) {
        const mlxd_gguf_tensor *t = mlxd_gguf_tensor_at(g, i);
        MLXD_ASSERT(mlxd_gguf_tensor_find(g, t->name) == t);
        MLXD_ASSERT(t->file_offset <= file_bytes && t->data_bytes <= file_bytes - t->file_offset);
        sum += t->data.len ? t->data.data[t->data.len - 1] : 0;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static volatile uint64_t result; /* so that looking is not left out */
    mlxd_gguf *g;
    mlxd_why why;
    mlxd_err err = mlxd_gguf_open(&g, (mlxd_slice){data, size}, "f", &why);
    if (!err) {
        result += visit(g, size);
        mlxd_gguf_close(g);
    }
    mlxd_err half = mlxd_gguf_open_head(&g, (mlxd_slice){data, size / 2}, size, "f", &why);
    MLXD_ASSERT(half == MLXD_ERR_AGAIN || half == err);
    if (!half) {
        result += visit(g, size);
        mlxd_gguf_close(g);
    }
    return 0;
}
