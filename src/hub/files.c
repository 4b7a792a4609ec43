/* files.c - see files.h. */
#include "hub/files.h"

#include "format/json.h"
#include "hub/name.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

mlxd_err mlxd_hub_files_init(mlxd_hub_files *f, mlxd_why *why) {
    *f = (mlxd_hub_files){.arena = mlxd_arena_open(MLXD_LIMIT_HUB_LISTING)};
    return f->arena ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
}

void mlxd_hub_files_deinit(mlxd_hub_files *f) {
    if (f->arena)
        mlxd_arena_close(f->arena);
    mlxd_mem_free(f->items);
    *f = (mlxd_hub_files){.items = NULL};
}

mlxd_err mlxd_hub_files_add(mlxd_hub_files *f, mlxd_slice path, mlxd_hub_file **out,
                            mlxd_why *why) {
    if (!mlxd_hub_path_ok(path))
        return mlxd_fail(why, MLXD_ERR_INVALID, "\"%.*s\" is no path inside a repository",
                         (int)MLXD_MIN(path.len, (size_t)200), (const char *)path.data);
    if (f->count == MLXD_LIMIT_HUB_FILES)
        return mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "more than %u files", MLXD_LIMIT_HUB_FILES);
    if (f->count == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        mlxd_hub_file *items = mlxd_mem_resize(f->items, cap, sizeof *items);
        if (!items)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
        f->items = items;
        f->cap = cap;
    }
    char *copy = mlxd_arena_dup(f->arena, path.data, path.len);
    if (!copy)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for the list of files");
    f->items[f->count] = (mlxd_hub_file){.path = copy};
    *out = &f->items[f->count++];
    return MLXD_OK;
}

/* ---- listing ---- */

static mlxd_err entry_error(mlxd_why *why, const char *path, const char *what) {
    return mlxd_fail(why, MLXD_ERR_DATA, "the hub's list of files: \"%.200s\": %s", path, what);
}

/* Member `key` as a digest of `digits` digits. */
static bool read_digest(const mlxd_json *object, const char *key, size_t digits, char *out) {
    uint8_t bytes[MLXD_SHA256_BYTES];
    mlxd_slice text;
    const mlxd_json *v = mlxd_json_find(object, key);
    if (!v || mlxd_json_get_str(v, &text) || text.len != digits ||
        !mlxd_unhex((const char *)text.data, bytes, digits / 2))
        return false;
    mlxd_hex(bytes, digits / 2, out); /* lower case: it becomes a file's name */
    return true;
}

static bool read_size(const mlxd_json *object, uint64_t *out) {
    int64_t size;
    const mlxd_json *v = mlxd_json_find(object, "size");
    if (!v || mlxd_json_get_integral(v, &size) || size < 0 ||
        (uint64_t)size > MLXD_LIMIT_HUB_FILE_BYTES)
        return false;
    *out = (uint64_t)size;
    return true;
}

static mlxd_err add_entry(mlxd_hub_files *f, const mlxd_json *entry, mlxd_why *why) {
    mlxd_slice path;
    mlxd_hub_file *file;
    if (mlxd_json_get_kind(entry) != MLXD_JSON_OBJECT)
        return mlxd_fail(why, MLXD_ERR_DATA, "the hub's list of files: an entry is no object");
    const mlxd_json *type = mlxd_json_find(entry, "type");
    if (!type || !mlxd_json_is_str(type, "file"))
        return MLXD_OK;
    const mlxd_json *v = mlxd_json_find(entry, "path");
    if (!v || mlxd_json_get_str(v, &path))
        return mlxd_fail(why, MLXD_ERR_DATA, "the hub's list of files: an entry has no path");
    mlxd_err err = mlxd_hub_files_add(f, path, &file, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_INVALID ? MLXD_ERR_DATA : err,
                            "the hub's list of files");
    const mlxd_json *lfs = mlxd_json_find(entry, "lfs");
    if (lfs && mlxd_json_get_kind(lfs) == MLXD_JSON_OBJECT) {
        if (!read_digest(lfs, "oid", 64, file->digest) &&
            !read_digest(lfs, "sha256", 64, file->digest))
            return entry_error(why, file->path, "no SHA-256 of a file in large storage");
        return read_size(lfs, &file->size) || read_size(entry, &file->size)
                   ? MLXD_OK
                   : entry_error(why, file->path, "no size, or one that cannot be");
    }
    if (!read_digest(entry, "oid", 40, file->digest))
        return entry_error(why, file->path, "no digest");
    return read_size(entry, &file->size) ? MLXD_OK : entry_error(why, file->path, "no size");
}

mlxd_err mlxd_hub_files_add_page(mlxd_hub_files *f, mlxd_slice json, mlxd_why *why) {
    mlxd_json_doc *doc;
    mlxd_err err = mlxd_json_parse(&doc, json, MLXD_LIMIT_JSON_DEPTH, why);
    if (err)
        return mlxd_fail_in(why, err == MLXD_ERR_NOMEM ? err : MLXD_ERR_DATA,
                            "the hub's list of files");
    const mlxd_json *root = mlxd_json_root(doc);
    if (mlxd_json_get_kind(root) != MLXD_JSON_ARRAY)
        err = mlxd_fail(why, MLXD_ERR_DATA, "the hub's list of files: expected an array, got %s",
                        mlxd_json_kind_name(mlxd_json_get_kind(root)));
    else
        for (const mlxd_json *v = mlxd_json_first(root, NULL); v && !err;
             v = mlxd_json_next(root, v, NULL))
            err = add_entry(f, v, why);
    mlxd_json_close(doc);
    return err;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const mlxd_hub_file *)a)->path, ((const mlxd_hub_file *)b)->path);
}

mlxd_err mlxd_hub_files_sort(mlxd_hub_files *f, mlxd_why *why) {
    if (f->count > 0)
        qsort(f->items, f->count, sizeof *f->items, by_path);
    for (size_t i = 0; i < f->count; i++) {
        char folder[MLXD_LIMIT_HUB_PATH + 1];
        const char *path = f->items[i].path;
        if (i > 0 && strcmp(f->items[i - 1].path, path) == 0)
            return entry_error(why, path, "it is there twice");
        for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
            memcpy(folder, path, (size_t)(p - path));
            folder[p - path] = 0;
            if (mlxd_hub_files_find(f, folder))
                return entry_error(why, path, "a part of its path is a file");
        }
    }
    return MLXD_OK;
}

const mlxd_hub_file *mlxd_hub_files_find(const mlxd_hub_files *f, const char *path) {
    const mlxd_hub_file key = {.path = path};
    return f->count ? bsearch(&key, f->items, f->count, sizeof *f->items, by_path) : NULL;
}

/* ---- Link: <https://...>; rel="next", <...>; rel="last" ---- */

static bool is_next(const char *params, const char *end) {
    bool quoted = false;
    for (const char *p = params; p < end; p++) {
        quoted = *p == '"' ? !quoted : quoted;
        if (quoted)
            continue;
        if (strncasecmp(p, "rel", 3) != 0 || (p > params && p[-1] != ';' && p[-1] != ' '))
            continue;
        p += 3 + strspn(p + 3, " ");
        if (*p != '=') {
            p--;
            continue;
        }
        const char *value = p + 1 + strspn(p + 1, " \"");
        if (strncasecmp(value, "next", 4) == 0 && strchr("\" ;,", value[4]))
            return true; /* also at the end of the text: strchr finds its NUL */
    }
    return false;
}

bool mlxd_hub_link_next(const char *link, char *out, size_t size) {
    for (const char *p = strchr(link, '<'); p; p = strchr(p, '<')) {
        const char *url = p + 1, *close = strchr(url, '>');
        if (!close)
            return false;
        const char *end = close;
        for (bool quoted = false; *end && (quoted || *end != ','); end++)
            quoted = *end == '"' ? !quoted : quoted;
        size_t len = (size_t)(close - url);
        if (is_next(close + 1, end)) {
            if (len == 0 || len >= size)
                return false;
            memcpy(out, url, len);
            out[len] = 0;
            return true;
        }
        p = end;
    }
    return false;
}
