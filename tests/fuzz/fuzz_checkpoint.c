/* fuzz_checkpoint.c - a directory of Hugging Face's: any config.json, index and file of tensors are
 * refused or make tensors that can be read to the end, and loaded when they are of a known kind.
 *
 *     input: config.json 00 model.safetensors.index.json 00 a.safetensors
 *
 * An empty index means that there is none; the tensors are then in model.safetensors. */
#include "base/mem.h"
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VALUES_MAX (1u << 16)

static char dir[64];

static void put(const char *name, const uint8_t *data, size_t len) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
    FILE *f = len ? fopen(path, "wb") : NULL;
    if (!f)
        return;
    MLXD_ASSERT(fwrite(data, 1, len, f) == len);
    MLXD_ASSERT(fclose(f) == 0);
}

static void read_tensor(const mlxd_checkpoint *c, const mlxd_checkpoint_tensor *t) {
    uint8_t buf[300];
    mlxd_why why;
    uint64_t bytes = 0;
    MLXD_ASSERT(mlxd_checkpoint_find(c, t->name) == t);
    for (size_t s = 0; s < t->n_streams; bytes += t->streams[s++].bytes)
        for (uint64_t at = 0, n; at < t->streams[s].bytes; at += n) {
            n = MLXD_MIN(t->streams[s].bytes - at, (uint64_t)sizeof buf);
            MLXD_ASSERT(mlxd_checkpoint_read(c, t, s, at, buf, (size_t)n, &why) == MLXD_OK);
        }
    MLXD_ASSERT(bytes == t->bytes);
}

/* What has a known encoding and the shape of a matrix loads; nothing else does. */
static void load_tensor(const mlxd_checkpoint *c, const mlxd_checkpoint_tensor *t,
                        mlxd_pool *pool) {
    mlxd_weights *w;
    mlxd_why why;
    mlxd_weight_spec spec = {
        .rows = (size_t)t->dims[1], .cols = (size_t)t->dims[0], .count = (size_t)t->dims[2]};
    if (t->bytes > VALUES_MAX || t->bytes == 0 || strlen(t->name) >= sizeof spec.name)
        return;
    memcpy(spec.name, t->name, strlen(t->name) + 1);
    spec.matrix = mlxd_mem_new(spec.count, sizeof *spec.matrix);
    if (spec.matrix && mlxd_weights_load(&w, c, &spec, 1, pool, NULL, &why) == MLXD_OK) {
        MLXD_ASSERT(t->encoding.kind != MLXD_ENCODING_OTHER && t->dims[3] == 1);
        mlxd_weights_close(w);
    }
    mlxd_mem_free(spec.matrix);
}

static void remove_dir(void) {
    put("config.json", NULL, 0);
    put("model.safetensors", NULL, 0);
    put("model.safetensors.index.json", NULL, 0);
    put("a.safetensors", NULL, 0);
    (void)rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mlxd_pool *pool;
    mlxd_checkpoint *c;
    mlxd_why why;
    if (!pool) {
        snprintf(dir, sizeof dir, "/tmp/mlxd-fuzz-XXXXXX");
        pool = mlxd_pool_open(1);
        MLXD_ASSERT(pool && mkdtemp(dir));
        atexit(remove_dir);
    }
    const uint8_t *index = size ? memchr(data, 0, size) : NULL;
    const uint8_t *end = data + size;
    const uint8_t *file =
        index && index + 1 < end ? memchr(index + 1, 0, (size_t)(end - index) - 1) : NULL;
    if (!file)
        return 0;
    put("config.json", data, (size_t)(index - data));
    put("model.safetensors.index.json", index + 1, (size_t)(file - index) - 1);
    put("a.safetensors", NULL, 0);
    put("model.safetensors", NULL, 0);
    put(file == index + 1 ? "model.safetensors" : "a.safetensors", file + 1,
        (size_t)(end - file) - 1);
    if (mlxd_checkpoint_open(&c, dir, &why))
        return 0;
    for (size_t i = 0; i < mlxd_checkpoint_count(c); i++) {
        read_tensor(c, mlxd_checkpoint_at(c, i));
        load_tensor(c, mlxd_checkpoint_at(c, i), pool);
    }
    mlxd_checkpoint_close(c);
    return 0;
}
