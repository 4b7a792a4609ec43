/* talk.h - a conversation with a model on the terminal: `mlxd run MODEL` without a prompt.
 *
 * Each turn the whole conversation is rendered and tokenized anew; the engine keeps the KV cache of
 * the turn before, and only the tokens behind what both have in common are computed. Ctrl-C stops
 * an answer; what was said until then stays. When the context is full, the oldest turns are left
 * out, and that is said. Lines that begin with "/" are commands (talk_commands.c).
 */
#ifndef MLXD_CLI_TALK_H
#define MLXD_CLI_TALK_H

#include "cli/conversation.h"
#include "cli/local.h"
#include "cli/screen.h"

typedef struct mlxd_talk {
    mlxd_local *local;
    mlxd_conversation said;
    mlxd_screen screen;
    mlxd_sampling sampling;
    bool seeded;             /* sampling.seed is to be used; otherwise each answer has its own */
    uint32_t max_tokens;     /* of an answer; 0: what the context holds */
    mlxd_json_doc *thinking; /* true or false, for the template; NULL: as the template has it */
    mlxd_request *last;      /* the last turn, whose KV is kept; NULL: none yet */
    bool done;               /* the conversation is over */
} mlxd_talk;

/* Talks until the user ends it. CANCELLED after SIGTERM; IO when standard output is gone. */
mlxd_err mlxd_talk_run(mlxd_local *l, mlxd_why *why) MLXD_MUST_CHECK;

/* Answers the conversation as it is, which ends with a user's message. What does not work is told
 * to the user, and that message removed; only an output that is gone is an error. */
mlxd_err mlxd_talk_answer(mlxd_talk *c, mlxd_why *why) MLXD_MUST_CHECK;

/* Does what the line says; it begins with "/". Errors as mlxd_talk_answer. */
mlxd_err mlxd_talk_command(mlxd_talk *c, const char *line, mlxd_why *why) MLXD_MUST_CHECK;

/* A line from us to the user, not from the model; control characters are made visible. */
void mlxd_talk_say(const char *fmt, ...) MLXD_PRINTF(1, 2);

#endif
