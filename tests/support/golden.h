/* golden.h - for tests: files of tests/golden, and a model run whole without engine or network. */
#ifndef MLXD_TESTS_SUPPORT_GOLDEN_H
#define MLXD_TESTS_SUPPORT_GOLDEN_H

#include "base/mem.h"
#include "format/json.h"
#include "kernel/kernel.h"
#include "model/layers.h"
#include "model/vocab.h"

/* Contents of a file under tests/golden (or an absolute path); fails the test when it is
 * missing. */
mlxd_buf golden_read(const char *name);
mlxd_json_doc *golden_json(const char *name);
/* Integers of a JSON array; *count is set; free with mlxd_mem_free. */
int32_t *golden_ints(const mlxd_json *array, size_t *count);

typedef struct golden_run {
    const char *path; /* absolute, or a name under tests/golden */
    const int32_t *tokens;
    size_t n_tokens;
    const mlxd_kernels *kernels;
    unsigned threads;
    size_t chunk;                  /* tokens per step */
    const uint32_t *splits;        /* layers per stage, 0-terminated; NULL: one stage */
    void (*spoil)(mlxd_config *c); /* changes the configuration; NULL: nothing does */
} golden_run;

/* Logits of every position, [n_tokens][vocab], computed in steps of `chunk`; *vocab is set. Free
 * with mlxd_mem_free. */
float *golden_logits(const golden_run *run, uint32_t *vocab);
/* The model's number of layers. */
uint32_t golden_layers(const char *path);
/* Does run->spoil change this model's configuration? */
bool golden_spoils(const golden_run *run);

#endif
