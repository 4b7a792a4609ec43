/* bench.h - how long a model takes for a prompt and for tokens: embedding, all layers and the
 * vocabulary projection, without tokenizer, sampler, server and network.
 *
 * A test is one of two. A prompt of n tokens goes through in chunks, and the logits of its last
 * token are computed. Or `batch` sequences generate n tokens each, one step after the other: a
 * step takes one token of each sequence and computes the logits of all. Token ids are arbitrary.
 *
 * Either may begin at a depth: so many positions are then in the KV cache before. They are filled
 * with random numbers, not computed: what attention reads takes its time whatever it says. That is
 * not timed, and done again only when a test wants another depth or batch.
 *
 *     mlxd_bench_open(&b, &params, &why);           loads the model, makes room for the tests
 *     mlxd_bench_run(b, pool, &test, NULL, &ns, &why);   one repetition, as often as wanted
 *     mlxd_bench_close(b);
 *
 * Thread: one at a time (the compute driver).
 */
#ifndef MLXD_MODEL_BENCH_H
#define MLXD_MODEL_BENCH_H

#include "model/layers.h"

/* Exactly one of n_prompt and n_gen is not 0. */
typedef struct mlxd_bench_test {
    uint32_t n_prompt;
    uint32_t n_gen; /* per sequence */
    uint32_t depth;
    uint32_t batch; /* sequences; 1 for a prompt */
} mlxd_bench_test;

typedef struct mlxd_bench_params {
    const mlxd_checkpoint *checkpoint;
    const mlxd_config *config;
    const mlxd_kernels *kernels;
    const mlxd_bench_test *tests; /* all that will be run */
    size_t n_tests;
    uint32_t chunk;  /* prompt tokens of a step */
    mlxd_pool *pool; /* used for loading; not kept */
    const mlxd_progress *progress;
} mlxd_bench_params;

/* What the model is, and what its tests cost at least. */
typedef struct mlxd_bench_model {
    const char *type;        /* of most of its bytes: "Q4_0" */
    uint64_t file_bytes;     /* of the tensors in the file */
    uint64_t params;         /* weights of all tensors */
    uint64_t layer_params;   /* of the matrices of all layers that a token is multiplied with */
    uint64_t last_params;    /* those of the last layer that only a wanted result needs: not K, V */
    uint64_t head_params;    /* of the vocabulary projection */
    uint64_t weights_bytes;  /* packed, in memory */
    uint64_t step_bytes;     /* packed, read by a step: without an embedding of its own; of
                                experts those of one token, as many as it uses */
    uint64_t position_bytes; /* KV of one position */
    bool quantized;          /* matrices of the layers are multiplied as bytes */
} mlxd_bench_model;

typedef struct mlxd_bench mlxd_bench;

/* RANGE: a test goes beyond the model's context; NOMEM, before anything is loaded, when weights
 * and KV cache do not fit into the available memory; or an error of loading. */
mlxd_err mlxd_bench_open(mlxd_bench **out, const mlxd_bench_params *p,
                         mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_bench_close(mlxd_bench *b);
const mlxd_bench_model *mlxd_bench_get_model(const mlxd_bench *b);

/* Runs `t`, one of the tests given to open, once; *ns = its time. `abort` may be NULL; CANCELLED
 * when it said so. CORRUPT: a result is not finite. */
mlxd_err mlxd_bench_run(mlxd_bench *b, mlxd_pool *pool, const mlxd_bench_test *t,
                        const mlxd_abort *abort, uint64_t *ns, mlxd_why *why) MLXD_MUST_CHECK;

/* Tokens that a run of `t` processes. */
uint64_t mlxd_bench_tokens(const mlxd_bench_test *t);
/* Bytes of weights and KV that all steps of a generation read. */
double mlxd_bench_read_bytes(const mlxd_bench_model *m, const mlxd_bench_test *t);
/* Multiplications and additions that the products of a run need, attention not counted. Of a prompt
 * only the last token's result is wanted. */
double mlxd_bench_operations(const mlxd_bench_model *m, const mlxd_bench_test *t);
/* Bytes of the KV pages that `t` uses. */
uint64_t mlxd_bench_kv_bytes(const mlxd_bench_model *m, const mlxd_bench_test *t);

#endif
