/* chat.h - conversations to prompts, through the chat template of the checkpoint.
 *
 * A checkpoint brings its template as Jinja source (jinja.h says how it is run):
 *     GGUF                   tokenizer.chat_template, and tokenizer.chat_template.tool_use for
 *                            conversations with tools
 *     chat_template.jinja    the source
 *     tokenizer_config.json  "chat_template": the source, or a list of {"name", "template"} with
 *                            the names "default" and "tool_use"
 *     chat_template.json     the same "chat_template", beside models that also see
 * The first of them that has one wins.
 * Without one there is no chat, only raw prompts.
 *
 * What templates see: messages, tools, documents (none when not given), add_generation_prompt, the
 * special tokens (bos_token, eos_token ...) and whatever variables the caller adds
 * (enable_thinking ...). Templates differ in what they can read, so a few conversations are
 * rendered when one is opened, and messages are then given to it in the form that it handles:
 *     content as a list of parts    as it is; otherwise the texts, joined by line feeds
 *     content null                  as it is; otherwise ""
 *     arguments of tool calls       as an object (a JSON text is parsed); otherwise as JSON text
 *     role developer                as it is when the template knows it; otherwise system
 * reasoning_content, thinking and reasoning are names for one thing: templates get the first two.
 *
 * Control tokens count as such only in what the template itself wrote, which includes the special
 * tokens and the names of the usual roles, never in what came with a message, a tool or a document.
 * Otherwise the ids are those of the whole rendered text: nothing is cut at the borders.
 *
 * Thread: immutable after open.
 */
#ifndef MLXD_MODEL_CHAT_H
#define MLXD_MODEL_CHAT_H

#include "format/gguf.h"
#include "format/json.h"
#include "model/tokenizer.h"

typedef struct mlxd_chat mlxd_chat;

/* ---- open ---- */

/* A special token: {"bos_token", "<s>"}. */
typedef struct mlxd_chat_token {
    const char *name;
    mlxd_slice text;
} mlxd_chat_token;

#define MLXD_CHAT_TOKENS_MAX 8

/* Everything is copied by open. */
typedef struct mlxd_chat_source {
    mlxd_slice text;     /* the template */
    mlxd_slice tool_use; /* the one for conversations with tools; data NULL: the same */
    mlxd_chat_token tokens[MLXD_CHAT_TOKENS_MAX];
    size_t n_tokens;
} mlxd_chat_source;

/* NOTFOUND when there is no template; DATA, UNSUPPORTED or RANGE for one that cannot be used, with
 * line and column; NOMEM. */
mlxd_err mlxd_chat_open(mlxd_chat **out, const mlxd_chat_source *source,
                        mlxd_why *why) MLXD_MUST_CHECK;
/* From a GGUF file and its tokenizer, which knows the special tokens. */
mlxd_err mlxd_chat_open_gguf(mlxd_chat **out, const mlxd_gguf *g, const mlxd_tokenizer *t,
                             mlxd_why *why) MLXD_MUST_CHECK;
/* Texts of Hugging Face's files; data NULL: there is no such file. */
typedef struct mlxd_chat_files {
    mlxd_slice jinja;       /* chat_template.jinja */
    mlxd_slice config;      /* tokenizer_config.json */
    mlxd_slice special_map; /* special_tokens_map.json: tokens that the config does not name */
    mlxd_slice processor;   /* chat_template.json */
} mlxd_chat_files;
mlxd_err mlxd_chat_open_files(mlxd_chat **out, const mlxd_chat_files *files,
                              mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_chat_close(mlxd_chat *c);

/* The source that conversations with (or without) tools are rendered by; lent. */
mlxd_slice mlxd_chat_template(const mlxd_chat *c, bool tools);
/* Does the template mention a variable of this name? ("enable_thinking", "tools") */
bool mlxd_chat_mentions(const mlxd_chat *c, const char *name);

/* ---- render ---- */

typedef struct mlxd_chat_message {
    mlxd_slice role;      /* "system", "user", "assistant" ... */
    mlxd_slice content;   /* UTF-8 */
    mlxd_slice reasoning; /* of an assistant; empty: none */
} mlxd_chat_message;

/* A further variable of the template. */
typedef struct mlxd_chat_variable {
    const char *name;
    const mlxd_json *value;
} mlxd_chat_variable;

#define MLXD_CHAT_VARIABLES_MAX 4

/* A conversation: `messages`, or the simpler `list`. Everything is lent. */
typedef struct mlxd_chat_input {
    const mlxd_json *messages; /* an array of objects as in OpenAI's API; NULL: `list` */
    const mlxd_chat_message *list;
    size_t n_list;
    const mlxd_json *tools;     /* NULL or an array */
    const mlxd_json *documents; /* NULL or an array */
    const mlxd_json *kwargs;    /* NULL or an object: its members become variables */
    mlxd_chat_variable variables[MLXD_CHAT_VARIABLES_MAX]; /* win over kwargs */
    size_t n_variables;
    bool add_generation_prompt;
    int64_t now_s; /* seconds since 1970, for templates that name the date */
} mlxd_chat_input;

typedef struct mlxd_chat_prompt {
    mlxd_slice text;
    const mlxd_text_range *trusted; /* what the template wrote */
    size_t n_trusted;
    void *owned;
} mlxd_chat_prompt;

/* INVALID: the conversation is not one that the template takes (its own words), or a text that is
 * not UTF-8. DATA: the template fails. RANGE: a bound. Deinit only after success. */
mlxd_err mlxd_chat_render(const mlxd_chat *c, const mlxd_chat_input *in, mlxd_chat_prompt *out,
                          mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_chat_prompt_deinit(mlxd_chat_prompt *p);
/* Appends its tokens to `out`; control tokens only where the template wrote them. RANGE as
 * below. */
mlxd_err mlxd_chat_prompt_encode(const mlxd_chat_prompt *p, const mlxd_tokenizer *t,
                                 size_t tokens_max, mlxd_tokens *out,
                                 mlxd_why *why) MLXD_MUST_CHECK;
/* Rendered and tokenized; appends to `out`. RANGE when it would hold more than `tokens_max` (0 = no
 * bound); otherwise as render. */
mlxd_err mlxd_chat_encode(const mlxd_chat *c, const mlxd_tokenizer *t, const mlxd_chat_input *in,
                          size_t tokens_max, mlxd_tokens *out, mlxd_why *why) MLXD_MUST_CHECK;

#endif
