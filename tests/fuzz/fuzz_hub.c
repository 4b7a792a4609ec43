/* fuzz_hub.c - what comes from the hub and from people who name models: the list of files, the Link
 * header, the index of shards, names and addresses. The first byte says which.
 *
 * Whatever is accepted must be usable as a path below a folder of ours, and a choice must choose
 * only what there is. */
#include "base/mem.h"
#include "hub/choose.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HUB "https://huggingface.co"

static void check_path(const char *path) {
    MLXD_ASSERT(mlxd_hub_path_ok(mlxd_slice_str(path)));
    MLXD_ASSERT(path[0] != '/' && strncmp(path, "../", 3) != 0 && !strstr(path, "/../"));
}

static void choose(const mlxd_hub_files *files, const char *tag, mlxd_slice index) {
    mlxd_hub_choice c;
    mlxd_hub_name n = {.repo = "org/name", .revision = "main"};
    size_t len = MLXD_MIN(strlen(tag), sizeof n.tag - 1);
    memcpy(n.tag, tag, len);
    if (mlxd_hub_choose(&c, files, &n, NULL, 0, NULL) != MLXD_OK)
        return;
    MLXD_ASSERT(!c.open || mlxd_hub_files_find(files, c.open));
    if (c.index)
        (void)!mlxd_hub_choose_shards(&c, files, index, NULL);
    mlxd_hub_choice_deinit(&c);
}

static void try_listing(mlxd_slice json) {
    mlxd_hub_files files;
    if (mlxd_hub_files_init(&files, NULL) != MLXD_OK)
        return;
    if (mlxd_hub_files_add_page(&files, json, NULL) == MLXD_OK &&
        mlxd_hub_files_sort(&files, NULL) == MLXD_OK) {
        for (size_t i = 0; i < files.count; i++) {
            size_t digits = strlen(files.items[i].digest);
            check_path(files.items[i].path);
            MLXD_ASSERT(digits == 40 || digits == 64);
            MLXD_ASSERT(strspn(files.items[i].digest, "0123456789abcdef") == digits);
            MLXD_ASSERT(mlxd_hub_files_find(&files, files.items[i].path) == &files.items[i]);
        }
        choose(&files, "", json);
        choose(&files, "Q4_K_M", json);
    }
    mlxd_hub_files_deinit(&files);
}

static void try_index(mlxd_slice json) {
    static const char *const paths[] = {"config.json", "model.safetensors.index.json", "a", "b"};
    mlxd_hub_files files;
    mlxd_hub_file *f;
    if (mlxd_hub_files_init(&files, NULL) != MLXD_OK)
        return;
    mlxd_err err = MLXD_OK;
    for (size_t i = 0; i < MLXD_COUNT_OF(paths) && !err; i++)
        err = mlxd_hub_files_add(&files, mlxd_slice_str(paths[i]), &f, NULL);
    if (!err && mlxd_hub_files_sort(&files, NULL) == MLXD_OK)
        choose(&files, "", json);
    mlxd_hub_files_deinit(&files);
}

static void try_name(const char *text) {
    mlxd_hub_name n;
    char again[2048];
    if (mlxd_hub_name_parse(&n, text, HUB, NULL) != MLXD_OK)
        return;
    MLXD_ASSERT(mlxd_hub_repo_ok(mlxd_slice_str(n.repo)));
    check_path(n.revision);
    if (n.file[0])
        check_path(n.file);
    MLXD_ASSERT(!n.file[0] || !n.tag[0]);
    mlxd_hub_name_format(&n, again, sizeof again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char next[256];
    if (size == 0)
        return 0;
    char *text = mlxd_mem_dup(data + 1, size - 1);
    if (!text)
        return 0;
    if (data[0] == 'l')
        try_listing((mlxd_slice){data + 1, size - 1});
    else if (data[0] == 'i')
        try_index((mlxd_slice){data + 1, size - 1});
    else if (data[0] == 'n')
        try_name(text);
    else if (mlxd_hub_link_next(text, next, sizeof next))
        MLXD_ASSERT(strlen(next) > 0 && strstr(text, next));
    mlxd_mem_free(text);
    return 0;
}
