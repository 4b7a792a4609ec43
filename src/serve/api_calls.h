/* api_calls.h - tool calls in the text of an answer.
 *
 * Models write calls as text, in the form that their template taught them. Two are known:
 *
 *     <tool_call>                                       Hermes, Qwen and many others; several may
 *     {"name": "f", "arguments": {"x": 1}}              follow each other, text may stand before
 *     </tool_call>
 *
 *     {"name": "f", "parameters": {"x": 1}}             Llama 3: the whole answer
 *
 * Text goes in as it comes and out again without the calls. What could become one is held back:
 * from the first letter of <tool_call> on, and an answer that begins with "{" as a whole. What
 * looks like a call and is none (malformed JSON, no name) is text.
 *
 * Thread: a plain value.
 */
#ifndef MLXD_SERVE_API_CALLS_H
#define MLXD_SERVE_API_CALLS_H

#include "format/json.h"

#define MLXD_API_CALLS_MAX 128 /* of one answer; what follows is text */

typedef struct mlxd_api_call {
    char *name;      /* owned */
    char *arguments; /* owned; JSON text of an object */
} mlxd_api_call;

typedef struct mlxd_api_calls {
    mlxd_api_call calls[MLXD_API_CALLS_MAX];
    size_t count;
    bool failed; /* no memory */
    /* private */
    mlxd_buf held;
    bool begun; /* something else than white space was let through */
} mlxd_api_calls;

void mlxd_api_calls_init(mlxd_api_calls *c);
void mlxd_api_calls_deinit(mlxd_api_calls *c);
/* Takes `text` and leaves in it what may be shown. `end`: nothing follows, nothing is held back. */
void mlxd_api_calls_take(mlxd_api_calls *c, mlxd_buf *text, bool end);
/* Writes call `index` as an element of "tool_calls"; its id is made of `answer_id`. `streamed`:
 * with its index. */
void mlxd_api_calls_write(const mlxd_api_calls *c, size_t index, const char *answer_id,
                          bool streamed, mlxd_jsonw *w);

#endif
