/* request.h - one completion request on its way through the engine.
 *
 * Made by the one who asks (REST, `mlxd run`) with everything that needs memory already there,
 * given to the engine with mlxd_engine_submit, and handed back through on_end, exactly once.
 * Between the two it belongs to the engine.
 */
#ifndef MLXD_SERVE_REQUEST_H
#define MLXD_SERVE_REQUEST_H

#include "model/generation.h"

/* Where the time of a request went; nanoseconds. Stage times are of the steps it took part in. */
typedef struct mlxd_timings {
    uint64_t submitted_ns; /* monotonic clock */
    uint64_t admitted_ns;  /* its first step was formed; 0 = never */
    uint64_t first_ns;     /* its first token was drawn; 0 = none */
    uint64_t ended_ns;
    uint32_t stages;
    struct {
        uint64_t compute_ns; /* measured by the stage itself */
        uint64_t total_ns;   /* from hand-over until it came back: compute + queue + wire */
    } stage[MLXD_LIMIT_STAGES];
    uint64_t head_ns; /* embedding, vocabulary projection, sampling */
    uint32_t steps;
} mlxd_timings;

typedef struct mlxd_request mlxd_request;

/* Both run on the engine thread: they must not block. */
typedef struct mlxd_request_sink {
    /* A token was drawn (see the generation). Not called for the last one: on_end follows. */
    void (*on_token)(void *ctx, mlxd_request *r);
    /* The end: err OK (the generation says why it finished), CANCELLED, or a failure with its
     * reason. The request is the callee's again. */
    void (*on_end)(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why);
    void *ctx;
} mlxd_request_sink;

struct mlxd_request {
    uint64_t id;                   /* set by submit; never reused */
    int32_t *tokens;               /* owned: prompt, then what was drawn */
    uint32_t n_tokens;             /* of them; the engine's between submit and on_end */
    uint32_t n_prompt, max_tokens; /* tokens has room for n_prompt + max_tokens */
    /* A conversation: with `keep` the KV cache of a request that ends well, or is cancelled, stays
     * until its pages or its session are needed for others. A later request continues it, once, by
     * its id, and says how many of its first tokens are the same; what of them is still there is
     * not computed again. */
    bool keep;
    uint64_t continues;          /* 0: none */
    uint32_t cached;             /* the same tokens; at the end: those that were there */
    mlxd_generation *generation; /* owned */
    mlxd_request_sink sink;
    mlxd_timings timings;
};

/* Takes `generation`; copies the prompt. NULL: no memory (the generation is then still the
 * caller's). n_prompt >= 1. */
mlxd_request *mlxd_request_open(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens,
                                mlxd_generation *generation,
                                mlxd_request_sink sink) MLXD_MUST_CHECK;
void mlxd_request_close(mlxd_request *r);

#endif
