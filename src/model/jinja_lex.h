/* jinja_lex.h - Jinja source to tokens, with Jinja's rules for white space.
 *
 *     text {% if x -%}  text     TEXT "text "  BLOCK_BEGIN  NAME if  NAME x  BLOCK_END  TEXT "text"
 *
 * trim_blocks: a line feed right behind %} and #} is dropped. lstrip_blocks: blanks between the
 * start of a line and {% or {# are dropped. "-" at either end of a tag drops all white space there,
 * "+" keeps what the two rules would drop. Comments disappear; {% raw %} gives TEXT.
 *
 * Internal to the interpreter. Thread: plain values.
 */
#ifndef MLXD_MODEL_JINJA_LEX_H
#define MLXD_MODEL_JINJA_LEX_H

#include "base/mem.h"

typedef enum mlxd_jinja_token_kind {
    MLXD_JINJA_END, /* of the source; also returned again and again behind it */
    MLXD_JINJA_TEXT,
    MLXD_JINJA_OUTPUT_BEGIN,
    MLXD_JINJA_OUTPUT_END,
    MLXD_JINJA_BLOCK_BEGIN,
    MLXD_JINJA_BLOCK_END,
    MLXD_JINJA_NAME,
    MLXD_JINJA_INTEGER,
    MLXD_JINJA_REAL,
    MLXD_JINJA_STRING, /* with its quotes */
    MLXD_JINJA_OPERATOR,
} mlxd_jinja_token_kind;

typedef struct mlxd_jinja_token {
    mlxd_jinja_token_kind kind;
    mlxd_slice text; /* in the source */
    size_t at;       /* where it begins there */
} mlxd_jinja_token;

typedef struct mlxd_jinja_lexer {
    mlxd_slice source;
    size_t at;
    mlxd_jinja_token_kind end; /* inside a tag: what ends it; otherwise END */
    bool line_start;           /* what is before `at` ended with a line feed, or nothing is */
    bool raw;                  /* inside {% raw %} */
    bool strip;                /* the tag before ended with "-": skip white space */
    size_t opened;             /* brackets that are open inside the tag */
    char brackets[128];        /* which */
    const char *error;         /* what is wrong at `at`; NULL: nothing */
} mlxd_jinja_lexer;

/* `source` is well-formed UTF-8 with "\n" as its only line end. */
void mlxd_jinja_lexer_init(mlxd_jinja_lexer *l, mlxd_slice source);
/* False: l->error at l->at. */
bool mlxd_jinja_lexer_next(mlxd_jinja_lexer *l, mlxd_jinja_token *out) MLXD_MUST_CHECK;

#endif
