/* request.c - see request.h. */
#include "serve/request.h"

#include "base/mem.h"

#include <string.h>

mlxd_request *mlxd_request_open(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens,
                                mlxd_generation *generation, mlxd_request_sink sink) {
    MLXD_ASSERT(n_prompt > 0 && max_tokens > 0);
    mlxd_request *r = mlxd_mem_new(1, sizeof *r);
    if (!r)
        return NULL;
    r->tokens = mlxd_mem_new((size_t)n_prompt + max_tokens, sizeof *r->tokens);
    if (!r->tokens) {
        mlxd_mem_free(r);
        return NULL;
    }
    memcpy(r->tokens, prompt, n_prompt * sizeof *prompt);
    r->n_prompt = r->n_tokens = n_prompt;
    r->max_tokens = max_tokens;
    r->generation = generation;
    r->sink = sink;
    return r;
}

void mlxd_request_close(mlxd_request *r) {
    if (!r)
        return;
    mlxd_generation_close(r->generation);
    mlxd_mem_free(r->tokens);
    mlxd_mem_free(r);
}
