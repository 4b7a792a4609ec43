/* chat_values.h - conversations to values of a template's run. Internal to chat.c. */
#ifndef MLXD_MODEL_CHAT_VALUES_H
#define MLXD_MODEL_CHAT_VALUES_H

#include "model/chat.h"
#include "model/jinja.h"

/* In what form a template takes messages; see chat.h. */
typedef struct mlxd_chat_form {
    bool parts;          /* content may be a list of parts */
    bool only_parts;     /* content must be one */
    bool null_content;   /* content may be none */
    bool text_arguments; /* arguments of tool calls are JSON text */
    bool developer;      /* knows the role */
} mlxd_chat_form;

/* Sets `messages`. A failure is kept in the run, INVALID for a text that is not UTF-8. */
void mlxd_chat_set_messages(mlxd_jinja_run *r, const mlxd_chat_input *in,
                            const mlxd_chat_form *form);

#endif
