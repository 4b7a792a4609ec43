/* conversation.h - the messages of a conversation on the terminal: what the model is given each
 * turn, cut to what its context holds, and the file that it can be kept in.
 *
 * A file is a JSON object with OpenAI's messages, so it can be sent to a server as it is:
 *
 *     {"model":"...","messages":[{"role":"system","content":"..."},
 *                                {"role":"user","content":"..."},
 *                                {"role":"assistant","content":"...","reasoning_content":"..."}]}
 *
 * Thread: a plain value, one at a time.
 */
#ifndef MLXD_CLI_CONVERSATION_H
#define MLXD_CLI_CONVERSATION_H

#include "model/chat.h"

typedef enum mlxd_role { MLXD_ROLE_SYSTEM, MLXD_ROLE_USER, MLXD_ROLE_ASSISTANT } mlxd_role;

typedef struct mlxd_message {
    mlxd_role role;
    mlxd_buf content, reasoning; /* owned */
} mlxd_message;

typedef struct mlxd_conversation {
    mlxd_message *messages; /* owned; a system message, if there is one, is the first */
    size_t count, cap;
} mlxd_conversation; /* {0} is an empty one */

void mlxd_conversation_deinit(mlxd_conversation *c);
/* NULL: out of memory, or MLXD_LIMIT_MESSAGES are there. */
mlxd_message *mlxd_conversation_add(mlxd_conversation *c, mlxd_role role, mlxd_slice content);
/* Removes the messages from `first` on. */
void mlxd_conversation_cut(mlxd_conversation *c, size_t first);
/* Sets the system message; an empty text removes it. NOMEM. */
mlxd_err mlxd_conversation_set_system(mlxd_conversation *c, mlxd_slice text) MLXD_MUST_CHECK;
/* Is the first message a system message? */
bool mlxd_conversation_has_system(const mlxd_conversation *c);

/* What makes a prompt of it; all lent. */
typedef struct mlxd_conversation_form {
    const mlxd_chat *chat;
    const mlxd_tokenizer *tokenizer;
    const mlxd_json *enable_thinking; /* NULL: as the template has it */
    int64_t now_s;                    /* seconds since 1970 */
} mlxd_conversation_form;

/* Appends the ids of the conversation, as the template renders it, to `out`. While they are more
 * than `tokens_max`, the oldest turn (a user's message and what follows it, up to the next one) is
 * removed; *dropped counts them. The last turn and the system message stay: RANGE when these are
 * too long. After an error nothing was removed. */
mlxd_err mlxd_conversation_encode(mlxd_conversation *c, const mlxd_conversation_form *form,
                                  size_t tokens_max, mlxd_tokens *out, size_t *dropped,
                                  mlxd_why *why) MLXD_MUST_CHECK;

/* IO, NOMEM. An existing file is replaced. */
mlxd_err mlxd_conversation_save(const mlxd_conversation *c, const char *path, const char *model,
                                mlxd_why *why) MLXD_MUST_CHECK;
/* Replaces `c` by what the file says. NOTFOUND, IO, DATA: `c` is as before. */
mlxd_err mlxd_conversation_load(mlxd_conversation *c, const char *path,
                                mlxd_why *why) MLXD_MUST_CHECK;

#endif
