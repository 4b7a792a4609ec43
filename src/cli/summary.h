/* summary.h - what a model's files say about it, read leniently: also of a model that this build
 * cannot run. Nothing is computed with these numbers; those that are come from model/config.h.
 *
 * A number that a file does not tell is 0. Where layers differ (heads of keys and values), it is
 * that of the first one, and kv_bytes_per_token the sum over all.
 */
#ifndef MLXD_CLI_SUMMARY_H
#define MLXD_CLI_SUMMARY_H

#include "model/checkpoint.h"
#include "model/tokenizer.h"

#define MLXD_SUMMARY_TYPES 64
#define MLXD_SUMMARY_TOKENS 16

typedef struct mlxd_summary_type {
    char label[32]; /* "Q4_K", "affine 4 bits, group 64, F16" */
    uint64_t tensors, elements, bytes;
} mlxd_summary_type;

typedef struct mlxd_summary_token {
    char role[16]; /* "bos", "eos" */
    int64_t id;    /* -1: only the text is known */
    char text[64]; /* "" when only the number is known */
} mlxd_summary_token;

typedef struct mlxd_summary {
    char architecture[64], name[128];
    uint64_t layers, hidden, heads, kv_heads, head_dim, vocab, context, window;
    uint64_t experts, experts_used;
    uint64_t kv_bytes_per_token; /* K and V of all layers in f16 */

    uint64_t tensors, parameters, bytes; /* bytes: of all tensors */
    uint64_t layer_bytes[MLXD_LIMIT_LAYERS], layer_parameters[MLXD_LIMIT_LAYERS];
    uint64_t embedding_bytes, head_bytes, other_bytes; /* head_bytes 0: the embedding is used */
    mlxd_summary_type types[MLXD_SUMMARY_TYPES];       /* by bytes, largest first */
    size_t n_types;

    bool has_template, template_tools, template_thinking;
    uint64_t template_bytes;
    char tokenizer[64]; /* "gpt2", "LlamaTokenizerFast" */
    mlxd_summary_token special[MLXD_SUMMARY_TOKENS];
    size_t n_special;
} mlxd_summary;

/* DATA only when config.json or another document is no JSON. */
mlxd_err mlxd_summary_read(mlxd_summary *out, const mlxd_checkpoint *c,
                           mlxd_why *why) MLXD_MUST_CHECK;
/* Gives the special tokens whose numbers are known the texts that `t` has for them. */
void mlxd_summary_name_tokens(mlxd_summary *f, const mlxd_tokenizer *t);

#endif
