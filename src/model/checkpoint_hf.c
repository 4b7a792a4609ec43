/* checkpoint_hf.c - a directory of safetensors files as a checkpoint: which files, what is in them,
 * and the tensors that their pieces make (checkpoint_gather.c). Of a file only the head is read.
 */
#include "model/checkpoint_internal.h"

#include "format/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static mlxd_err no_memory(const mlxd_checkpoint *c, mlxd_why *why) {
    return mlxd_fail(why, MLXD_ERR_NOMEM, "%s: out of memory", c->path);
}

/* ---- which files ---- */

static bool is_shard(const char *name) {
    const char *dot = strrchr(name, '.');
    return strncmp(name, "model", 5) == 0 && dot && strcmp(dot, ".safetensors") == 0;
}

bool mlxd_checkpoint_is_hf(const mlxd_directory *d) {
    if (mlxd_directory_has(d, INDEX))
        return true;
    for (size_t i = 0; i < mlxd_directory_count(d); i++)
        if (is_shard(mlxd_directory_at(d, i)))
            return true;
    return false;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of an index, in `names`, which has room for all its tensors. */
static mlxd_err list_index(const mlxd_json *map, const char *path, const char **names, size_t *out,
                           mlxd_why *why) {
    size_t n = 0;
    mlxd_slice key, text;
    for (const mlxd_json *v = mlxd_json_first(map, &key); v; v = mlxd_json_next(map, v, &key)) {
        if (mlxd_json_get_str(v, &text))
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: tensor %s: its file is no string", path,
                             (const char *)key.data);
        const char *name = (const char *)text.data, *dot = strrchr(name, '.');
        if (strchr(name, '/') || strstr(name, "..") || !dot || strcmp(dot, ".safetensors") != 0)
            return mlxd_fail(why, MLXD_ERR_DATA,
                             "%s: tensor %s: \"%s\" is not the name of a .safetensors file beside "
                             "it",
                             path, (const char *)key.data, name);
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, by_text);
    *out = 0;
    for (size_t i = 0; i < n; i++)
        if (*out == 0 || strcmp(names[i], names[*out - 1]) != 0)
            names[(*out)++] = names[i];
    return MLXD_OK;
}

static mlxd_err open_files(mlxd_checkpoint *c, const mlxd_directory *d, const char *const *names,
                           size_t n, mlxd_why *why) {
    if (n == 0 || n > MLXD_LIMIT_MODEL_FILES)
        return mlxd_fail(why, MLXD_ERR_DATA, "%s: %zu files of tensors, expected 1..%u", c->path, n,
                         MLXD_LIMIT_MODEL_FILES);
    mlxd_err err = mlxd_checkpoint_reserve(c, n, why);
    for (size_t i = 0; i < n && !err; i++) {
        if (!mlxd_directory_has(d, names[i]))
            return mlxd_fail(why, MLXD_ERR_NOTFOUND,
                             "%s: %s is missing, of the %zu files of tensors", c->path, names[i],
                             n);
        err = mlxd_directory_open_file(&c->files[i].file, d, names[i], why);
        c->n_files += !err;
    }
    return err;
}

static mlxd_err open_indexed(mlxd_checkpoint *c, const mlxd_directory *d, mlxd_why *why) {
    uint8_t *data;
    size_t len, n = 0;
    mlxd_json_doc *doc = NULL;
    mlxd_err err = mlxd_directory_read(d, INDEX, MLXD_LIMIT_DOCUMENT_BYTES, &data, &len, why);
    if (err)
        return err;
    err = mlxd_json_parse(&doc, (mlxd_slice){data, len}, MLXD_LIMIT_JSON_DEPTH, why);
    mlxd_mem_free(data);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_RANGE ? MLXD_ERR_DATA : err, "%s/%s", c->path,
                            INDEX);
    const mlxd_json *root = mlxd_json_root(doc), *map = NULL;
    if (mlxd_json_get_kind(root) == MLXD_JSON_OBJECT)
        map = mlxd_json_find(root, "weight_map");
    if (!map || mlxd_json_get_kind(map) != MLXD_JSON_OBJECT || mlxd_json_count(map) == 0) {
        mlxd_json_close(doc);
        return mlxd_fail(why, MLXD_ERR_DATA, "%s/%s: no object \"weight_map\" with tensors in it",
                         c->path, INDEX);
    }
    const char **names = mlxd_mem_new(mlxd_json_count(map), sizeof *names);
    err = names ? list_index(map, INDEX, names, &n, why) : no_memory(c, why);
    if (err && names)
        err = mlxd_fail_in(why, err, "%s", c->path);
    if (!err)
        err = open_files(c, d, names, n, why);
    if (!err)
        err = mlxd_directory_open_file(&c->index, d, INDEX, why);
    mlxd_mem_free(names);
    mlxd_json_close(doc);
    return err;
}

static mlxd_err open_globbed(mlxd_checkpoint *c, const mlxd_directory *d, mlxd_why *why) {
    size_t n = 0;
    const char **names = mlxd_mem_new(mlxd_directory_count(d), sizeof *names);
    if (!names)
        return no_memory(c, why);
    for (size_t i = 0; i < mlxd_directory_count(d); i++)
        if (is_shard(mlxd_directory_at(d, i)))
            names[n++] = mlxd_directory_at(d, i);
    mlxd_err err = open_files(c, d, names, n, why);
    mlxd_mem_free(names);
    return err;
}

static mlxd_err open_all(mlxd_checkpoint *c, const mlxd_directory *d, mlxd_why *why) {
    static const char *const single[] = {SINGLE};
    if (mlxd_directory_has(d, SINGLE))
        return open_files(c, d, single, 1, why);
    return mlxd_directory_has(d, INDEX) ? open_indexed(c, d, why) : open_globbed(c, d, why);
}

/* ---- documents ---- */

/* Reads them, and digests names, lengths and bytes. */
static mlxd_err read_documents(mlxd_checkpoint *c, const mlxd_directory *d, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    mlxd_sha256 *sha = mlxd_sha256_open();
    if (!sha)
        return no_memory(c, why);
    for (size_t i = 0; i < MLXD_CHECKPOINT_DOCUMENTS && !err; i++) {
        const char *name = mlxd_checkpoint_documents[i];
        char line[64];
        if (!mlxd_directory_has(d, name))
            continue;
        err = mlxd_directory_read(d, name, MLXD_LIMIT_DOCUMENT_BYTES, &c->documents[i].data,
                                  &c->documents[i].len, why);
        if (err)
            break;
        int n = snprintf(line, sizeof line, "%s %zu\n", name, c->documents[i].len);
        mlxd_sha256_add(sha, line, (size_t)n);
        mlxd_sha256_add(sha, c->documents[i].data, c->documents[i].len);
    }
    if (!err)
        mlxd_sha256_get(sha, c->meta);
    mlxd_sha256_close(sha);
    if (!err && c->documents[0].len == 0)
        return mlxd_fail(why, MLXD_ERR_NOTFOUND, "%s: no %s, or an empty one", c->path,
                         mlxd_checkpoint_documents[0]);
    return err;
}

/* ---- what is in the files ---- */

static mlxd_err parse_head(const mlxd_checkpoint_file *f, mlxd_safetensors **out, mlxd_why *why) {
    uint8_t prefix[MLXD_SAFETENSORS_PREFIX];
    const char *path = mlxd_model_file_path(f->file);
    uint64_t bytes = mlxd_model_file_bytes(f->file);
    size_t n = (size_t)MLXD_MIN(bytes, (uint64_t)sizeof prefix);
    mlxd_err err = mlxd_model_file_read(f->file, 0, prefix, n, why);
    if (!err)
        err = mlxd_safetensors_head_bytes((mlxd_slice){prefix, n}, bytes, path, &n, why);
    if (err)
        return err;
    uint8_t *head = mlxd_mem_new(n, 1);
    err = head ? mlxd_model_file_read(f->file, 0, head, n, why)
               : mlxd_fail(why, MLXD_ERR_NOMEM, "%s: no memory for its header", path);
    if (!err)
        err = mlxd_safetensors_open(out, (mlxd_slice){head, n}, bytes, path, why);
    mlxd_mem_free(head);
    return err;
}

struct pieces {
    mlxd_safetensors **heads; /* one per file */
    mlxd_checkpoint_piece *all;
    size_t n;
};

static int by_name(const void *a, const void *b) {
    const mlxd_checkpoint_piece *p = a, *q = b;
    int c = strcmp(p->name.canonical, q->name.canonical);
    if (c != 0)
        return c;
    if (p->name.part != q->name.part)
        return p->name.part < q->name.part ? -1 : 1;
    if (p->name.expert != q->name.expert)
        return p->name.expert < q->name.expert ? -1 : 1;
    return p->file < q->file ? -1 : p->file > q->file;
}

/* Parses all heads and names the tensors in them. */
static mlxd_err list_pieces(mlxd_checkpoint *c, const mlxd_hf_config *config, struct pieces *p,
                            mlxd_why *why) {
    size_t count = 0;
    for (size_t i = 0; i < c->n_files; i++) {
        mlxd_err err = parse_head(&c->files[i], &p->heads[i], why);
        if (err)
            return err;
        count += mlxd_safetensors_count(p->heads[i]);
        if (count > MLXD_LIMIT_TENSORS)
            return mlxd_fail(why, MLXD_ERR_DATA, "%s: more than %u tensors", c->path,
                             MLXD_LIMIT_TENSORS);
    }
    p->all = mlxd_mem_new(count, sizeof *p->all);
    if (!p->all)
        return no_memory(c, why);
    for (uint32_t i = 0; i < c->n_files; i++)
        for (size_t j = 0; j < mlxd_safetensors_count(p->heads[i]); j++) {
            mlxd_checkpoint_piece *piece = &p->all[p->n];
            piece->stored = mlxd_safetensors_at(p->heads[i], j);
            piece->file = i;
            bool wanted = mlxd_hf_name_read(piece->stored->name,
                                            mlxd_hf_config_has_post_norms(config), &piece->name);
            bool unused =
                mlxd_hf_config_is_tied(config) && strncmp(piece->name.canonical, "output.", 7) == 0;
            p->n += wanted && !unused;
        }
    if (p->n > 0)
        qsort(p->all, p->n, sizeof *p->all, by_name);
    return MLXD_OK;
}

/* Makes tensors of the pieces, all of one name at a time. */
static mlxd_err make_tensors(mlxd_checkpoint *c, const mlxd_hf_config *config,
                             const struct pieces *p, mlxd_why *why) {
    mlxd_err err = MLXD_OK;
    c->tensors = mlxd_mem_new(p->n, sizeof *c->tensors);
    if (!c->tensors)
        return no_memory(c, why);
    for (size_t i = 0, end; i < p->n && !err; i = end) {
        for (end = i + 1; end < p->n; end++)
            if (strcmp(p->all[i].name.canonical, p->all[end].name.canonical) != 0)
                break;
        err =
            mlxd_checkpoint_gather(c, config, p->all + i, end - i, &c->tensors[c->n_tensors], why);
        c->n_tensors += !err;
    }
    return err ? mlxd_fail_in(why, err, "%s", c->path) : MLXD_OK;
}

mlxd_err mlxd_checkpoint_open_hf(mlxd_checkpoint *c, const mlxd_directory *d, mlxd_why *why) {
    struct pieces p = {0};
    mlxd_hf_config *config = NULL;
    char path[256];
    snprintf(path, sizeof path, "%s/%s", c->path, mlxd_checkpoint_documents[0]);
    mlxd_err err = read_documents(c, d, why);
    if (!err)
        err = mlxd_hf_config_open(&config, (mlxd_slice){c->documents[0].data, c->documents[0].len},
                                  path, why);
    if (!err)
        err = open_all(c, d, why);
    if (!err) {
        p.heads = mlxd_mem_new(c->n_files, sizeof *p.heads);
        err = p.heads ? list_pieces(c, config, &p, why) : no_memory(c, why);
    }
    if (!err)
        err = make_tensors(c, config, &p, why);
    for (size_t i = 0; p.heads && i < c->n_files; i++)
        mlxd_safetensors_close(p.heads[i]);
    mlxd_mem_free(p.heads);
    mlxd_mem_free(p.all);
    mlxd_hf_config_close(config);
    return err;
}
