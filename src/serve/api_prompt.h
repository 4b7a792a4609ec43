/* api_prompt.h - from the messages (or the prompt) of a request to token ids.
 *
 * Messages: roles system, developer (the same as system), user, assistant. Content is a string, for
 * an assistant also null (empty), or an array of {"type":"text","text":...} parts, which are joined
 * with line feeds. Tools, images, audio and files are refused by name. `name`, `refusal`,
 * `annotations` and `reasoning_content` of a message, which SDKs send back, are ignored.
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
