/* tokenize.c - text to ids and back, for tests/golden/compare_tokenizers.py
 *
 *     tokenize FOLDER       tokenizer.json and, if they are there, tokenizer_config.json and
 *                           special_tokens_map.json
 *     tokenize FILE.gguf
 *
 * reads requests from standard input and answers each; numbers are 32-bit, little-endian:
 *     request   flags (1: control tokens in the text are trusted), bytes, text
 *     answer    count, ids, bytes, text of the ids;  or -1, bytes, the reason why there are none
 * First it writes one line: what was opened and how long it took, or why it was not opened.
 */
#include "model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static mlxd_slice read_file(const char *folder, const char *name) {
    char path[4096];
    mlxd_slice s = {0};
    snprintf(path, sizeof path, "%s%s%s", folder, *name ? "/" : "", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return s;
    if (fseek(f, 0, SEEK_END) == 0 && ftell(f) > 0) {
        s.len = (size_t)ftell(f);
        uint8_t *data = malloc(s.len);
        rewind(f);
        if (!data || fread(data, 1, s.len, f) != s.len)
            s.len = 0;
        s.data = data;
    }
    fclose(f);
    return s;
}

static mlxd_err open_any(mlxd_tokenizer **out, const char *path, mlxd_why *why) {
    size_t len = strlen(path);
    if (len < 5 || strcmp(path + len - 5, ".gguf") != 0) {
        mlxd_tokenizer_files files = {.tokenizer = read_file(path, "tokenizer.json"),
                                      .config = read_file(path, "tokenizer_config.json"),
                                      .special_map = read_file(path, "special_tokens_map.json")};
        mlxd_err err = mlxd_tokenizer_open_json(out, &files, why);
        free((void *)files.tokenizer.data);
        free((void *)files.config.data);
        free((void *)files.special_map.data);
        return err;
    }
    mlxd_gguf *g;
    mlxd_slice file = read_file(path, "");
    mlxd_err err = mlxd_gguf_open(&g, file, path, why);
    if (err)
        return err;
    err = mlxd_tokenizer_open(out, g, why);
    mlxd_gguf_close(g);
    free((void *)file.data);
    return err;
}

static bool read_u32(uint32_t *out) {
    return fread(out, sizeof *out, 1, stdin) == 1;
}

static void write_bytes(const void *data, size_t len) {
    uint32_t n = (uint32_t)len;
    fwrite(&n, sizeof n, 1, stdout);
    fwrite(data, 1, len, stdout);
}

static void answer(const mlxd_tokenizer *t, mlxd_slice text, bool special) {
    mlxd_tokens ids = {0};
    mlxd_why why = {{0}};
    mlxd_buf back;
    mlxd_detok d;
    int32_t count = -1;
    mlxd_buf_init(&back, 0);
    if (mlxd_tokenizer_encode(t, text, special, 0, &ids, &why) == MLXD_OK) {
        count = (int32_t)ids.count;
        fwrite(&count, sizeof count, 1, stdout);
        fwrite(ids.ids, sizeof *ids.ids, ids.count, stdout);
        mlxd_detok_init(&d);
        for (size_t i = 0; i < ids.count; i++)
            mlxd_detok_add(&d, t, ids.ids[i], &back);
        mlxd_detok_flush(&d, &back);
        write_bytes(back.data, back.len);
    } else {
        fwrite(&count, sizeof count, 1, stdout);
        write_bytes(why.text, strlen(why.text));
    }
    fflush(stdout);
    mlxd_buf_deinit(&back);
    mlxd_tokens_deinit(&ids);
}

int main(int argc, char **argv) {
    mlxd_tokenizer *t;
    mlxd_why why = {{0}};
    if (argc != 2)
        return 64;
    clock_t begin = clock();
    if (open_any(&t, argv[1], &why)) {
        printf("%s\n", why.text);
        return 65;
    }
    printf("%zu tokens, bos %d (%s), eos %d, %.0f ms\n", mlxd_tokenizer_vocab(t),
           mlxd_tokenizer_bos(t), mlxd_tokenizer_add_bos(t) ? "added" : "not added",
           mlxd_tokenizer_eos(t), 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    fflush(stdout);
    uint32_t flags, len;
    while (read_u32(&flags) && read_u32(&len)) {
        uint8_t *text = malloc((size_t)len + 1);
        if (!text || fread(text, 1, len, stdin) != len)
            return 74;
        answer(t, (mlxd_slice){text, len}, flags & 1);
        free(text);
    }
    mlxd_tokenizer_close(t);
    return 0;
}
