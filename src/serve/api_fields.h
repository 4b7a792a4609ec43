/* api_fields.h - the fields of a completion request, read from JSON and checked.
 *
 * One table (api_fields.c) has a row per known field: name, endpoints, type, range, default.
 *
 *   - A field that is there but null counts as absent.
 *   - What is absent and concerns sampling or length is what the model's files say, otherwise
 *     temperature 0.7, 512 tokens, and no filter or penalty (generation_config.h).
 *   - reasoning_format "none" leaves the reasoning in the content, as the model wrote it; "auto"
 *     (and llama.cpp's "deepseek", which is the same) divides them as the server is set up to.
 *   - max_completion_tokens wins over max_tokens. What does not fit the context beside the prompt
 *     is cut off there; finish_reason is then "length".
 *   - A known field that would change the answer and is not implemented is refused by name (400
 *     unsupported_parameter) unless it has its neutral value: n 1, functions [], response_format
 *     {"type":"text"}, modalities ["text"], ...
 *   - tools, tool_choice ("auto", "none"), documents, enable_thinking, reasoning_effort and
 *     chat_template_kwargs are for the model's chat template (api_prompt.h).
 *   - user, store, metadata, service_tier, prompt_cache_key, safety_identifier, verbosity,
 *     prediction, parallel_tool_calls do not change what is computed here: accepted and ignored.
 *   - Unknown fields are ignored, and named in the response header x-mlxd-ignored; with
 *     "strict_fields": true they are refused (400 unknown_parameter).
 *   - "mlxd": {"logits_digest": true, "timings": true} asks for an object "mlxd" in the answer, or
 *     in the stream's chunk that has the finish_reason.
 */
#ifndef MLXD_SERVE_API_FIELDS_H
#define MLXD_SERVE_API_FIELDS_H

#include "format/json.h"
#include "model/generation_config.h"
#include "model/reasoning.h"
#include "serve/api_errors.h"

/* Endpoints, as bits. */
enum { MLXD_API_CHAT = 1u << 0, MLXD_API_TEXT = 1u << 1 };

typedef struct mlxd_api_fields {
    unsigned api;           /* MLXD_API_CHAT or MLXD_API_TEXT */
    mlxd_sampling sampling; /* seed: random when the request has none */
    mlxd_logit_bias bias[MLXD_LIMIT_LOGIT_BIAS];
    mlxd_slice stop[MLXD_LIMIT_STOP_STRINGS]; /* lent by the document */
    size_t stop_count;
    uint32_t max_tokens;
    mlxd_reasoning_format reasoning; /* text only: NONE */
    mlxd_slice model;                /* lent; empty: none was named */
    const mlxd_json *messages;       /* lent; an array; chat only */
    const mlxd_json *prompt;         /* lent; text only */
    /* for the chat template; lent, NULL: absent or empty */
    const mlxd_json *tools, *documents, *kwargs, *enable_thinking, *reasoning_effort;
    bool tools_off; /* tool_choice "none": the template does not see them */
    bool stream, include_usage, ignore_eos, strict_fields;
    bool digest, timings; /* of the "mlxd" object */
    char ignored[1024];   /* names of ignored fields: "a, b.c" */
    uint32_t n_ignored;
    /* as read; they end up in the members above */
    int64_t n, top_k, top_logprobs, max_tokens_old, max_tokens_new, seed;
    bool has_seed;
} mlxd_api_fields;

typedef struct mlxd_api_defaults {
    const mlxd_generation_config *model;
    mlxd_reasoning_format reasoning;
    uint32_t vocab; /* tokens that logit_bias may name */
} mlxd_api_defaults;

/* Reads `root`, an object. False: *r says what is refused. The struct is large: keep it off the
 * stack. It must not be moved afterwards (sampling.bias points into it). */
bool mlxd_api_fields_read(mlxd_api_fields *f, const mlxd_json *root, unsigned api,
                          const mlxd_api_defaults *d, mlxd_api_refusal *r) MLXD_MUST_CHECK;
/* Notes an unknown field `where`.`name` ("" = top level): false when that is refused. */
bool mlxd_api_fields_unknown(mlxd_api_fields *f, const char *where, mlxd_slice name,
                             mlxd_api_refusal *r) MLXD_MUST_CHECK;

#endif
