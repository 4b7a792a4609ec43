/* api_chunks.h - the text of an answer: the chunks of a stream, or one whole object, and the
 * collecting of text and log-probabilities for it. Only formats; api_answer.c sends.
 *
 * Thread: one at a time; the engine's once the request is submitted.
 */
#ifndef MLXD_SERVE_API_CHUNKS_H
#define MLXD_SERVE_API_CHUNKS_H

#include "serve/api_calls.h"
#include "serve/api_fields.h"
#include "serve/timings.h"

typedef struct mlxd_chunks {
    /* Set by init, except where said. */
    unsigned api; /* MLXD_API_CHAT or MLXD_API_TEXT */
    bool stream, include_usage, digest, timings, logprobs_wanted;
    char ignored[1024];
    char id[48];                     /* by the caller; so are the next ones */
    const char *model, *fingerprint; /* lent */
    const mlxd_tokenizer *tokenizer; /* lent */
    int64_t created;                 /* seconds since 1970 */
    mlxd_stage_name *stages;         /* owned; for timings, may be NULL */
    uint32_t n_stages;
    /* Private. */
    bool role_sent;
    mlxd_api_calls *calls; /* owned; NULL: the request has no tools, or there was no memory */
    size_t calls_sent;
    uint32_t seen;      /* tokens whose log-probabilities were taken */
    mlxd_buf text;      /* not sent yet; of a whole answer all of it */
    mlxd_buf reasoning; /* the same */
    mlxd_buf logprobs;  /* the same: "[{...},{...}" */
    mlxd_buf json;      /* one chunk in the making */
    /* What is to be sent; the caller clears it when it has. Its `failed` tells of lost memory. */
    mlxd_buf out;
} mlxd_chunks;

void mlxd_chunks_init(mlxd_chunks *c, unsigned api, const mlxd_api_fields *f);
void mlxd_chunks_deinit(mlxd_chunks *c);

/* A token was drawn: takes its text. A stream's chunk, if there is one, is appended to `out`. */
void mlxd_chunks_token(mlxd_chunks *c, mlxd_generation *g);
/* The request has ended well: the rest of the stream, or the whole object, is appended to `out`. */
void mlxd_chunks_end(mlxd_chunks *c, const mlxd_request *r);
/* The error event of a stream that has begun, and [DONE], are appended to `out`. */
void mlxd_chunks_error(mlxd_chunks *c, const mlxd_api_refusal *r);

#endif
