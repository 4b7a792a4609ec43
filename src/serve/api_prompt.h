/* api_prompt.h - from the messages (or the prompt) of a request to token ids.
 *
 * Messages: roles system, developer, user, assistant, tool. Content is a string, for an assistant
 * also null, or an array of {"type":"text","text":...} parts. Tool calls of an assistant, and what
 * the request says to the template (tools, documents, chat_template_kwargs, enable_thinking,
 * reasoning_effort) go to the model's chat template as they are; it decides what becomes of them. A
 * field that the template does not mention is refused (chat_template_kwargs: noted as ignored).
 * Images, audio and files are refused by name.
 *
 * Nothing in a message becomes a control token. A raw prompt's text does not, either; its token
 * array may hold any id of the vocabulary.
 */
#ifndef MLXD_SERVE_API_PROMPT_H
#define MLXD_SERVE_API_PROMPT_H

#include "serve/api_fields.h"
#include "serve/host.h"

/* Appends the ids of f->messages, rendered by the model's template, or of f->prompt to `out`.
 * `context`: positions of one request. False: *r says why not; a prompt that does not fit is 400
 * context_length_exceeded with both numbers. `f` is for noting unknown fields. */
bool mlxd_api_prompt(const mlxd_host *h, uint32_t context, mlxd_api_fields *f, mlxd_tokens *out,
                     mlxd_api_refusal *r) MLXD_MUST_CHECK;

#endif
