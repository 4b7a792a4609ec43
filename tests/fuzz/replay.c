/* replay.c - main() for a fuzz harness that is not linked with a fuzzer: gives the harness every
 * file below the folders named, so that what a fuzzer once found stays found. Part of `make check`;
 * `make fuzz` explores.
 *
 *     fuzz_gguf FOLDER...
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX ((size_t)1 << 20)

static int replay(const char *path) {
    FILE *in = fopen(path, "re");
    if (!in) {
        fprintf(stderr, "%s: cannot open\n", path);
        return 1;
    }
    /* Exactly as large as the input, so that a sanitizer sees the first byte beyond it. */
    uint8_t *whole = malloc(INPUT_MAX);
    size_t size = whole ? fread(whole, 1, INPUT_MAX, in) : 0;
    uint8_t *data = malloc(size ? size : 1);
    int failed = !whole || !data || ferror(in);
    if (!failed) {
        memcpy(data, whole, size);
        (void)LLVMFuzzerTestOneInput(data, size);
    }
    free(data);
    free(whole);
    fclose(in);
    return failed;
}

int main(int argc, char **argv) {
    int failed = argc < 2;
    unsigned inputs = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            fprintf(stderr, "%s: no such folder\n", argv[i]);
            return 1;
        }
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            char path[4096];
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            failed |= replay(path);
            inputs++;
        }
        closedir(dir);
    }
    printf("%u inputs\n", inputs);
    return failed || inputs == 0;
}
