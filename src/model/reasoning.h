/* reasoning.h - divides an answer into what the model thinks and what it says.
 *
 * Models that reason mark it in their text. Two forms are known:
 *
 *   markers   <think> ... </think> (Qwen3, DeepSeek-R1, SmolLM3) or [THINK] ... [/THINK] (Mistral)
 *
 *             <think>\nHmm, two and two.\n</think>\n\nFour.
 *                     ^--------------^               ^---^
 *                     reasoning                      content
 *
 *   harmony   messages in channels (gpt_oss), divided by control tokens:
 *
 *             <|channel|>analysis<|message|>Two and two.<|end|>
 *                                           ^----------^  reasoning
 *             <|start|>assistant<|channel|>final<|message|>Four.<|return|>
 *                                                          ^---^  content
 *
 * Markers. They count whether they come as one token or as several, as a control token or as text.
 * The first one counts only where an answer begins, behind nothing but white space: a text that
 * speaks about <think> is left alone. A prompt that ends with the first marker (templates do that)
 * begins inside; one that ends with the second, behind it. White space (blank, tab, line feed,
 * carriage return) next to a marker is dropped; at the end of the reasoning at most
 * MLXD_REASONING_SPACE bytes of it. An answer whose reasoning never ends is all reasoning.
 *
 * Harmony. The channel "analysis" is reasoning; "final", "commentary" and a message without a
 * channel are content; a message with a recipient (" to=...") is a call of a tool, and neither.
 * Messages of one kind are joined by a line feed. Text where a header is expected becomes content
 * when it is longer than a header can be, or when the answer ends there and no channel was named:
 * a model that does not speak Harmony after all is not silenced. <|return|> and <|call|> end the
 * turn; <|end|> only ends a message.
 *
 * The result depends on the bytes and control tokens alone, not on how the text is cut; what comes
 * out is whole characters when what goes in is.
 *
 * Thread: a plain value, one at a time. Nothing is allocated but what the buffers need.
 */
#ifndef MLXD_MODEL_REASONING_H
#define MLXD_MODEL_REASONING_H

#include "model/tokenizer.h"

#define MLXD_REASONING_SPACE 64
#define MLXD_REASONING_HEADER 256 /* bytes of a Harmony header */

typedef enum mlxd_reasoning_format {
    MLXD_REASONING_NONE,    /* all is content */
    MLXD_REASONING_THINK,   /* <think> */
    MLXD_REASONING_MISTRAL, /* [THINK] */
    MLXD_REASONING_HARMONY,
    MLXD_REASONING_FORMATS
} mlxd_reasoning_format;

/* "none", "think", "mistral", "harmony". */
const char *mlxd_reasoning_name(mlxd_reasoning_format f);
/* False: no such name. */
bool mlxd_reasoning_find(mlxd_slice name, mlxd_reasoning_format *out) MLXD_MUST_CHECK;
/* What a model needs: the form whose marks its chat template or its added tokens contain. `t` may
 * be NULL. */
mlxd_reasoning_format mlxd_reasoning_detect(mlxd_slice chat_template, const mlxd_tokenizer *t);
/* Does this token end the turn? As the tokenizer says, but for Harmony's three. */
bool mlxd_reasoning_is_end(mlxd_reasoning_format f, const mlxd_tokenizer *t, int32_t id);

typedef struct mlxd_reasoning {
    mlxd_reasoning_format format;
    uint8_t state; /* enum in reasoning.c */
    /* markers */
    bool trim; /* white space is dropped: nothing else has come since the marker */
    uint8_t n_space, n_mark;
    uint8_t space[MLXD_REASONING_SPACE]; /* held back: white space, then n_mark bytes of a marker */
    /* harmony */
    bool shown[2];       /* there has been reasoning, content */
    bool between;        /* the next text begins another message of its kind */
    bool answers;        /* the header is the answer's first one */
    bool has_channel;    /* the header has named one, at header[channel] */
    uint16_t channel;    /* */
    uint16_t n_header;   /* bytes of `header` */
    uint16_t own_header; /* of those, the prompt's */
    uint8_t header[MLXD_REASONING_HEADER];
} mlxd_reasoning;

/* For an answer to `prompt`, of which the last tokens are looked at. */
void mlxd_reasoning_init(mlxd_reasoning *r, mlxd_reasoning_format f, const mlxd_tokenizer *t,
                         const int32_t *prompt, size_t prompt_count);
/* Takes text, and appends to the buffers what is certain. */
void mlxd_reasoning_add(mlxd_reasoning *r, mlxd_slice text, mlxd_buf *reasoning, mlxd_buf *content);
/* Does the control token with this text mean something here? Then text before it must be complete
 * (mlxd_detok_flush), and it is to be given to mlxd_reasoning_control. */
bool mlxd_reasoning_wants(const mlxd_reasoning *r, mlxd_slice name);
void mlxd_reasoning_control(mlxd_reasoning *r, mlxd_slice name, mlxd_buf *reasoning,
                            mlxd_buf *content);
/* The answer has ended: appends what was held back. */
void mlxd_reasoning_end(mlxd_reasoning *r, mlxd_buf *reasoning, mlxd_buf *content);
/* Is what comes next reasoning, as far as is known? */
bool mlxd_reasoning_inside(const mlxd_reasoning *r);

#endif
