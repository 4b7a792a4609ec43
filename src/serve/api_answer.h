/* api_answer.h - one completion from the API thread that submits it to the last byte of its reply.
 *
 *     API thread    open, submit ------------------------------------------ unref
 *     engine thread          on_token* (text, chunk, write) ... on_end -- finishing call -- unref
 *     HTTP thread               on_gone (the client has left): cancel
 *     timer thread           keep-alive comment into a silent stream
 *
 * An answer is referenced by the API thread until submit returns, by the engine until on_end, and
 * by the timer while it writes. It owns the HTTP request until the finishing call and the engine's
 * request until the last reference is gone; so submit can read the request's id although the answer
 * may have ended meanwhile. The client may leave before the id is known: on_gone then leaves a mark
 * and submit cancels.
 *
 * Headers of a stream go out with its first bytes: with the first token, or with the first
 * keep-alive. A failure before that is an HTTP error with its own status; after it, an error event.
 *
 * Chunks of a stream:
 *     {"delta":{"role":"assistant","content":""}}       chat only
 *     {"delta":{"reasoning_content":"..."}}             whenever there is text that is certain
 *     {"delta":{"content":"..."}}
 *     {"delta":{"tool_calls":[{"index":0, ...}]}}       each call, when it is complete
 *     {"delta":{},"finish_reason":"stop"}               with "mlxd" where asked for
 *     {"choices":[],"usage":{...}}                      include_usage
 *     [DONE]
 */
#ifndef MLXD_SERVE_API_ANSWER_H
#define MLXD_SERVE_API_ANSWER_H

#include "serve/api_fields.h"
#include "serve/api_internal.h"
#include "serve/timings.h"

typedef struct mlxd_answer mlxd_answer;

/* Takes `req` on success. NULL: *r says why (429 when too many are alive). `f` is not kept.
 * API thread. */
mlxd_answer *mlxd_answer_open(mlxd_api *a, mlxd_http_req *req, unsigned api,
                              const mlxd_api_fields *f, mlxd_api_refusal *r) MLXD_MUST_CHECK;
/* Takes `x` and `generation`: makes the request and gives it to the engine, whose sinks reply. */
void mlxd_answer_submit(mlxd_answer *x, const int32_t *prompt, uint32_t n_prompt,
                        uint32_t max_tokens, mlxd_generation *generation);

/* Writes comments into the streams that have been silent for too long. Timer thread. */
void mlxd_answers_keep_alive(mlxd_api *a);
/* Waits until no answer is alive. */
void mlxd_answers_wait(mlxd_api *a);

#endif
