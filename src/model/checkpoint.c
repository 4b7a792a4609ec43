/* checkpoint.c - see checkpoint.h: what all kinds of checkpoints have in common. */
#include "model/checkpoint_internal.h"

#include "format/names.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const char *const mlxd_checkpoint_documents[MLXD_CHECKPOINT_DOCUMENTS] = {
    "config.json",           "generation_config.json",  "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json",
};

/* ---- open and close ---- */

mlxd_err mlxd_checkpoint_reserve(mlxd_checkpoint *c, size_t n, mlxd_why *why) {
    MLXD_ASSERT(!c->files);
    c->files = mlxd_mem_new(n, sizeof *c->files);
    return c->files ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
}

static bool ends_with(const char *text, const char *ending) {
    size_t len = strlen(text), tail = strlen(ending);
    return len >= tail && strcmp(text + len - tail, ending) == 0;
}

static bool begins_with(const char *text, const char *beginning) {
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* A GGUF file that is a model's first or only one. */
static bool is_model(const char *name) {
    uint32_t part = 1, parts;
    return ends_with(name, ".gguf") && !begins_with(name, "mmproj-") &&
           !begins_with(name, "mtp-") &&
           (!mlxd_checkpoint_is_split(name, &part, &parts) || part == 1);
}

/* The only GGUF model of a directory. */
static mlxd_err find_gguf(const mlxd_checkpoint *c, const mlxd_directory *d, const char **out,
                          mlxd_why *why) {
    *out = NULL;
    for (size_t i = 0; i < mlxd_directory_count(d); i++) {
        const char *name = mlxd_directory_at(d, i);
        if (!is_model(name))
            continue;
        if (*out)
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "%s: several models (%s, %s ...), expected one: name its file",
                             c->path, *out, name);
        *out = name;
    }
    return *out ? MLXD_OK
                : mlxd_fail(why, MLXD_ERR_NOTFOUND,
                            "%s: no model in this directory, expected config.json with "
                            "*.safetensors files, or a .gguf file",
                            c->path);
}

static mlxd_err open_directory(mlxd_checkpoint *c, mlxd_why *why) {
    mlxd_directory *d;
    const char *name;
    mlxd_err err = mlxd_directory_open(&d, c->path, why);
    if (err)
        return err;
    if (mlxd_checkpoint_is_hf(d)) {
        err = mlxd_checkpoint_open_hf(c, d, why);
    } else {
        err = find_gguf(c, d, &name, why);
        if (!err)
            err = mlxd_checkpoint_open_gguf(c, d, name, why);
    }
    mlxd_directory_close(d);
    return err;
}

/* A part of a split model: the others are looked for beside it. */
static mlxd_err open_split(mlxd_checkpoint *c, const char *name, mlxd_why *why) {
    size_t len = (size_t)(name - c->path);
    char *beside = len > 1 ? mlxd_mem_dup(c->path, len - 1) : mlxd_mem_dup_str(len ? "/" : ".");
    mlxd_directory *d = NULL;
    mlxd_err err = beside ? mlxd_directory_open(&d, beside, why)
                          : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
    mlxd_mem_free(beside);
    if (!err)
        err = mlxd_checkpoint_open_gguf(c, d, name, why);
    mlxd_directory_close(d);
    return err;
}

static mlxd_err open_any(mlxd_checkpoint *c, mlxd_why *why) {
    const char *slash = strrchr(c->path, '/'), *name = slash ? slash + 1 : c->path;
    uint32_t part, parts;
    struct stat st;
    if (stat(c->path, &st) == 0 && S_ISDIR(st.st_mode))
        return open_directory(c, why);
    if (mlxd_checkpoint_is_split(name, &part, &parts))
        return open_split(c, name, why);
    return mlxd_checkpoint_open_gguf(c, NULL, c->path, why);
}

static mlxd_slice name_at(const void *ctx, uint32_t i) {
    return mlxd_slice_str(((const mlxd_checkpoint_tensor *)ctx)[i].name);
}

static mlxd_err sort_names(mlxd_checkpoint *c, mlxd_why *why) {
    c->order = mlxd_mem_new(c->n_tensors, sizeof *c->order);
    if (!c->order)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
    for (uint32_t i = 0; i < c->n_tensors; i++)
        c->order[i] = i;
    uint32_t again = mlxd_names_sort(c->order, c->n_tensors, name_at, c->tensors);
    if (again != MLXD_NAMES_NONE)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: tensor %s is there twice", c->path,
                         c->tensors[again].name);
    return MLXD_OK;
}

/* One file: its own identity; several: the digest of theirs. */
static mlxd_err set_identity(mlxd_checkpoint *c, mlxd_why *why) {
    if (c->n_files == 1) {
        snprintf(c->identity, sizeof c->identity, "%s", mlxd_model_file_identity(c->files[0].file));
        return MLXD_OK;
    }
    mlxd_sha256 *sha = mlxd_sha256_open();
    if (!sha)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
    bool settled = true;
    for (size_t i = 0; i < c->n_files; i++) {
        const char *identity = mlxd_model_file_identity(c->files[i].file);
        mlxd_sha256_add(sha, identity, strlen(identity) + 1);
        settled = settled && *identity;
    }
    uint8_t digest[MLXD_SHA256_BYTES];
    mlxd_sha256_get(sha, digest);
    mlxd_sha256_close(sha);
    if (settled)
        mlxd_hex(digest, sizeof digest, c->identity);
    return MLXD_OK;
}

mlxd_err mlxd_checkpoint_open(mlxd_checkpoint **out, const char *path, mlxd_why *why) {
    MLXD_ASSERT(out && path);
    mlxd_checkpoint *c = mlxd_mem_new(1, sizeof *c);
    mlxd_err err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", path);
    if (!c)
        return err;
    c->path = mlxd_mem_dup_str(path);
    c->arena = mlxd_arena_open(0);
    if (c->path && c->arena)
        err = open_any(c, why);
    if (!err)
        err = sort_names(c, why);
    if (!err)
        err = set_identity(c, why);
    if (err) {
        mlxd_checkpoint_close(c);
        return err;
    }
    *out = c;
    return MLXD_OK;
}

void mlxd_checkpoint_close(mlxd_checkpoint *c) {
    if (!c)
        return;
    for (size_t i = 0; i < c->n_files; i++) {
        mlxd_gguf_close(c->files[i].gguf);
        mlxd_mem_free(c->files[i].head);
        mlxd_model_file_close(c->files[i].file);
    }
    for (size_t i = 0; i < MLXD_CHECKPOINT_DOCUMENTS; i++)
        mlxd_mem_free(c->documents[i].data);
    mlxd_model_file_close(c->index);
    mlxd_mem_free(c->files);
    mlxd_mem_free(c->order);
    mlxd_mem_free(c->tensors);
    mlxd_arena_close(c->arena);
    mlxd_mem_free(c->path);
    mlxd_mem_free(c);
}

/* ---- facts ---- */

const char *mlxd_checkpoint_path(const mlxd_checkpoint *c) {
    return c->path;
}

uint64_t mlxd_checkpoint_bytes(const mlxd_checkpoint *c) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < c->n_files; i++)
        bytes += mlxd_model_file_bytes(c->files[i].file);
    return bytes;
}

const mlxd_gguf *mlxd_checkpoint_gguf(const mlxd_checkpoint *c) {
    return c->files[0].gguf;
}

mlxd_slice mlxd_checkpoint_document(const mlxd_checkpoint *c, const char *name) {
    for (size_t i = 0; i < MLXD_CHECKPOINT_DOCUMENTS; i++)
        if (strcmp(mlxd_checkpoint_documents[i], name) == 0)
            return (mlxd_slice){c->documents[i].data, c->documents[i].len};
    return (mlxd_slice){0};
}

void mlxd_checkpoint_meta_digest(const mlxd_checkpoint *c, uint8_t out[MLXD_SHA256_BYTES]) {
    memcpy(out, c->meta, MLXD_SHA256_BYTES);
}

const char *mlxd_checkpoint_identity(const mlxd_checkpoint *c) {
    return c->identity;
}

size_t mlxd_checkpoint_count(const mlxd_checkpoint *c) {
    return c->n_tensors;
}

const mlxd_checkpoint_tensor *mlxd_checkpoint_at(const mlxd_checkpoint *c, size_t index) {
    MLXD_ASSERT(index < c->n_tensors);
    return &c->tensors[index];
}

const mlxd_checkpoint_tensor *mlxd_checkpoint_find(const mlxd_checkpoint *c, const char *name) {
    uint32_t i = mlxd_names_find(c->order, c->n_tensors, name_at, c->tensors, mlxd_slice_str(name));
    return i == MLXD_NAMES_NONE ? NULL : &c->tensors[i];
}

/* ---- reading ---- */

mlxd_err mlxd_checkpoint_read(const mlxd_checkpoint *c, const mlxd_checkpoint_tensor *t,
                              size_t stream, uint64_t at, void *out, size_t len, mlxd_why *why) {
    MLXD_ASSERT(stream < t->n_streams);
    const mlxd_stream *s = &t->streams[stream];
    MLXD_ASSERT(at <= s->bytes && len <= s->bytes - at);
    uint8_t *p = out;
    for (size_t i = 0; len > 0; i++) {
        const mlxd_extent *e = &s->extents[i];
        MLXD_ASSERT(i < s->n_extents);
        if (at >= e->bytes) {
            at -= e->bytes;
            continue;
        }
        size_t n = (size_t)MLXD_MIN(e->bytes - at, (uint64_t)len);
        mlxd_err err = mlxd_model_file_read(c->files[e->file].file, e->offset + at, p, n, why);
        if (err)
            return err;
        p += n;
        len -= n;
        at = 0;
    }
    return MLXD_OK;
}
