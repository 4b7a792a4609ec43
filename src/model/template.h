/* template.h - reads a chat template (Jinja) into items that can be compared.
 *
 * This does not execute anything. It lexes the template as transformers' Jinja does (trim_blocks,
 * lstrip_blocks, "-" and "+") and writes down what is left when spelling is taken away:
 *
 *     {% for message in messages -%}            STATEMENT  for message in messages
 *       {{ "<|im_start|>" + message['role'] }}  TEXT       <|im_start|>
 *                                               VALUE      message .role
 *       {{- '\n' ~ message.content -}}          TEXT       \n
 *                                               VALUE      message .content
 *     {% endfor %}                              STATEMENT  endfor
 *
 * Text and strings that follow each other become one TEXT, x['y'] becomes x.y, tokens are separated
 * by one blank, comments disappear. Two templates with the same items render the same. An output
 * that is more than operands joined by + or ~ is outside of what is read here.
 *
 * Internal to chat.c. Thread: a plain value.
 */
#ifndef MLXD_MODEL_TEMPLATE_H
#define MLXD_MODEL_TEMPLATE_H

#include "base/mem.h"

#define MLXD_TEMPLATE_ITEMS 64

typedef enum mlxd_template_kind {
    MLXD_TEMPLATE_TEXT,
    MLXD_TEMPLATE_VALUE,
    MLXD_TEMPLATE_STATEMENT
} mlxd_template_kind;

typedef struct mlxd_template {
    mlxd_buf text; /* of all items, back to back */
    struct {
        mlxd_template_kind kind;
        size_t start, len; /* in `text` */
    } items[MLXD_TEMPLATE_ITEMS];
    size_t count;
} mlxd_template;

/* UNSUPPORTED for a template that is outside of what is read, malformed, or has more than
 * MLXD_TEMPLATE_ITEMS items; NOMEM. Deinit also after an error. */
mlxd_err mlxd_template_init(mlxd_template *t, mlxd_slice source) MLXD_MUST_CHECK;
void mlxd_template_deinit(mlxd_template *t);
/* Text of an item; lent. */
mlxd_slice mlxd_template_text(const mlxd_template *t, size_t item);

#endif
