/* unicode.h - what tokenizers ask about characters, beyond regular expressions: kinds, lower case,
 * normal forms (utf8proc has the tables). */
#ifndef MLXD_MODEL_UNICODE_H
#define MLXD_MODEL_UNICODE_H

#include "base/mem.h"

bool mlxd_unicode_is_space(uint32_t cp); /* White_Space */
bool mlxd_unicode_is_word(uint32_t cp);  /* \w: alphabetic, marks, decimal digits, connectors */

typedef enum mlxd_unicode_form {
    MLXD_UNICODE_NFC,
    MLXD_UNICODE_NFD,
    MLXD_UNICODE_NFKC,
    MLXD_UNICODE_NFKD
} mlxd_unicode_form;

/* Appends `text` (UTF-8, not checked again) in a normal form (Unicode annex 15). n log n at worst:
 * a long run of combining marks is sorted, not bubbled. A failure sticks to `out`. */
void mlxd_unicode_normalize(mlxd_slice text, mlxd_unicode_form form, mlxd_buf *out);
/* Appends `text` in lower case, character by character (so a final sigma is like any other). */
void mlxd_unicode_lower(mlxd_slice text, mlxd_buf *out);

#endif
