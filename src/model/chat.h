/* chat.h - conversations to prompts.
 *
 * The template is recognised from the template text in the model file (tokenizer.chat_template):
 * ChatML, with or without a default system message (SmolLM2, Qwen and others have one; its wording
 * is taken from the text). The text is compared by structure, so quotes, blanks and the ways to
 * join strings do not matter (template.h). One that is not recognised is refused by name, with its
 * first line; a file without a template has no chat, only raw prompts.
 *
 *     <|im_start|>ROLE\nCONTENT<|im_end|>\n   for each message, then
 *     <|im_start|>assistant\n                 for the answer
 *
 * Control tokens count as such only in the template's own text. The text between two of them
 * ("user\n" + content) is tokenized as one run of plain text, so the ids are those of the whole
 * rendered text, and nothing a user writes becomes a control token.
 *
 * Thread: immutable after open.
 */
#ifndef MLXD_MODEL_CHAT_H
#define MLXD_MODEL_CHAT_H

#include "model/tokenizer.h"

typedef struct mlxd_chat_message {
    mlxd_slice role;    /* "system", "user", "assistant" ...; written as it is */
    mlxd_slice content; /* UTF-8 */
} mlxd_chat_message;

typedef struct mlxd_chat mlxd_chat;

/* NOTFOUND when the file has no template, UNSUPPORTED when it is not one we know. */
mlxd_err mlxd_chat_open(mlxd_chat **out, const mlxd_gguf *g, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_chat_close(mlxd_chat *c);
const char *mlxd_chat_name(const mlxd_chat *c); /* "chatml" */
/* What the template says when a conversation does not begin with a system message; empty: nothing.
 * Lent. */
mlxd_slice mlxd_chat_default_system(const mlxd_chat *c);

/* The rendered text, for inspection and tests (add_generation_prompt as in transformers). NOMEM
 * when `out` is at its bound. */
mlxd_err mlxd_chat_render(const mlxd_chat *c, const mlxd_chat_message *messages, size_t count,
                          bool add_generation_prompt, mlxd_buf *out, mlxd_why *why) MLXD_MUST_CHECK;
/* Rendered, with the generation prompt, and tokenized; the same ids as encoding the rendered text
 * with `special` whenever the messages contain no control token. Appends to `out`. RANGE when it
 * would hold more than `tokens_max` (0 = no bound), INVALID with the message's index for text that
 * is not UTF-8. */
mlxd_err mlxd_chat_encode(const mlxd_chat *c, const mlxd_tokenizer *t,
                          const mlxd_chat_message *messages, size_t count, size_t tokens_max,
                          mlxd_tokens *out, mlxd_why *why) MLXD_MUST_CHECK;

#endif
