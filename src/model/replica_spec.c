/* replica_spec.c - what a replica is a copy of: made from a checkpoint, or checked when it comes
 * from a peer. See replica.h. */
#include "model/replica.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define CHUNK_BYTES (1u << 20)
#define HEAD_MAX (UINT64_C(512) << 20) /* of one file */
#define HEADS_MAX (UINT64_C(2) << 30)  /* of all */
#define FILES_MAX (UINT64_C(1) << 50)  /* bytes of all: more is nonsense */

static mlxd_err digest_head(const mlxd_checkpoint *c, size_t index, mlxd_replica_file *f,
                            mlxd_why *why) {
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t *buf = mlxd_mem_new(CHUNK_BYTES, 1);
    mlxd_err err = sha && buf ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (uint64_t at = 0; at < f->head_bytes && !err;) {
        size_t n = (size_t)MLXD_MIN((uint64_t)CHUNK_BYTES, f->head_bytes - at);
        err = mlxd_checkpoint_part_read(c, index, at, buf, n, why);
        if (!err)
            mlxd_sha256_add(sha, buf, n);
        at += n;
    }
    if (!err)
        mlxd_sha256_get(sha, f->head_sha256);
    mlxd_mem_free(buf);
    mlxd_sha256_close(sha);
    return err;
}

static mlxd_err describe(const mlxd_checkpoint *c, size_t index, mlxd_replica_file *f,
                         mlxd_why *why) {
    mlxd_checkpoint_part part;
    mlxd_err err = mlxd_checkpoint_part_at(c, index, &part, why);
    if (err)
        return err;
    if (strlen(part.name) >= sizeof f->name)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "%s: the name of a file is too long",
                         part.name);
    snprintf(f->name, sizeof f->name, "%s", part.name);
    f->bytes = part.bytes;
    f->head_bytes = part.head_bytes;
    return digest_head(c, index, f, why);
}

mlxd_err mlxd_replica_spec_open(mlxd_replica_spec *out, const mlxd_checkpoint *c,
                                const mlxd_manifest *m, mlxd_why *why) {
    *out = (mlxd_replica_spec){.directory = mlxd_checkpoint_is_directory(c),
                               .n_files = mlxd_checkpoint_parts(c)};
    memcpy(out->model, m->model, sizeof out->model);
    out->files = mlxd_mem_new(out->n_files, sizeof *out->files);
    mlxd_err err = out->files ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < out->n_files && !err; i++)
        err = describe(c, i, &out->files[i], why);
    if (!err)
        err = mlxd_replica_spec_check(out, why);
    if (err)
        mlxd_replica_spec_close(out);
    return err;
}

void mlxd_replica_spec_close(mlxd_replica_spec *s) {
    mlxd_mem_free(s->files);
    *s = (mlxd_replica_spec){0};
}

/* One component of a path, of characters that can be shown, and no hidden file. */
static bool is_plain(const char *name) {
    size_t n = strnlen(name, MLXD_LIMIT_FILE_NAME);
    if (n == 0 || n >= MLXD_LIMIT_FILE_NAME || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f || name[i] == '/' || name[i] == '\\')
            return false;
    return true;
}

mlxd_err mlxd_replica_spec_check(const mlxd_replica_spec *s, mlxd_why *why) {
    uint64_t bytes = 0, heads = 0;
    if (s->n_files == 0 || s->n_files > MLXD_LIMIT_MODEL_FILES)
        return mlxd_fail(why, MLXD_ERR_INVALID, "a model of %zu files, expected 1..%u", s->n_files,
                         MLXD_LIMIT_MODEL_FILES);
    for (size_t i = 0; i < s->n_files; i++) {
        const mlxd_replica_file *f = &s->files[i];
        if (!is_plain(f->name))
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "file %zu of the model is named \"%.80s\", expected a plain name", i,
                             f->name);
        if (f->head_bytes > f->bytes || f->head_bytes > HEAD_MAX ||
            !mlxd_add_u64(bytes, f->bytes, &bytes) || bytes > FILES_MAX ||
            !mlxd_add_u64(heads, f->head_bytes, &heads) || heads > HEADS_MAX)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "file %.80s of the model: %llu bytes, of which %llu describe it, are "
                             "out of range",
                             f->name, (unsigned long long)f->bytes,
                             (unsigned long long)f->head_bytes);
        /* Without case: some file systems do not know it. */
        for (size_t j = 0; j < i; j++)
            if (strcasecmp(s->files[j].name, f->name) == 0)
                return mlxd_fail(why, MLXD_ERR_INVALID, "the model has two files named \"%.80s\"",
                                 f->name);
    }
    return MLXD_OK;
}

mlxd_err mlxd_replica_spec_name(const mlxd_replica_spec *s, char out[MLXD_SHA256_HEX],
                                mlxd_why *why) {
    mlxd_sha256 *sha = mlxd_sha256_open();
    uint8_t digest[MLXD_SHA256_BYTES];
    if (!sha)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_sha256_add(sha, s->directory ? "directory\n" : "file\n", s->directory ? 10 : 5);
    mlxd_sha256_add(sha, s->model, sizeof s->model);
    for (size_t i = 0; i < s->n_files; i++) {
        const mlxd_replica_file *f = &s->files[i];
        char line[64];
        int n = snprintf(line, sizeof line, " %llu %llu\n", (unsigned long long)f->bytes,
                         (unsigned long long)f->head_bytes);
        mlxd_sha256_add(sha, f->name, strlen(f->name));
        mlxd_sha256_add(sha, line, (size_t)n);
        mlxd_sha256_add(sha, f->head_sha256, sizeof f->head_sha256);
    }
    mlxd_sha256_get(sha, digest);
    mlxd_sha256_close(sha);
    mlxd_hex(digest, sizeof digest, out);
    return MLXD_OK;
}
