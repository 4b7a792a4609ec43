/* fuzz_safetensors.c - the safetensors container: any head is refused or describes tensors that
 * follow each other to the end of the file. */
#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The tensors are all of the data, and nothing twice. */
static void check(const mlxd_safetensors *s, uint64_t at, uint64_t file_bytes) {
    for (size_t i = 0; i < mlxd_safetensors_count(s); i++) {
        const mlxd_safetensors_tensor *t = mlxd_safetensors_at(s, i);
        uint64_t bits = mlxd_dtype_bits(t->type);
        for (uint32_t d = 0; d < t->n_dims; d++)
            MLXD_ASSERT(mlxd_mul_u64(bits, t->dims[d], &bits));
        MLXD_ASSERT(t->file_offset == at && bits == t->data_bytes * 8);
        at += t->data_bytes;
    }
    MLXD_ASSERT(at == file_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint64_t sizes[] = {0, 1, 4, 64, (uint64_t)1 << 40};
    mlxd_safetensors *s;
    mlxd_why why;
    size_t head;
    for (size_t i = 0; i < MLXD_COUNT_OF(sizes); i++) {
        uint64_t bytes = size + sizes[i];
        if (mlxd_safetensors_head_bytes((mlxd_slice){data, size}, bytes, "f", &head, &why) ||
            head > size)
            continue;
        if (mlxd_safetensors_open(&s, (mlxd_slice){data, head}, bytes, "f", &why))
            continue;
        check(s, head, bytes);
        mlxd_safetensors_close(s);
    }
    return 0;
}
