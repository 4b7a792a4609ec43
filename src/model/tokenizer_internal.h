/* tokenizer_internal.h - what a tokenizer is made of, for tokenizer.c, which runs it, and the
 * readers tokenizer_gguf.c, tokenizer_json.c and tokenizer_steps.c, which fill it. */
#ifndef MLXD_MODEL_TOKENIZER_INTERNAL_H
#define MLXD_MODEL_TOKENIZER_INTERNAL_H

#include "format/json.h"
#include "model/bpe.h"
#include "model/lexicon.h"
#include "model/normalize.h"
#include "model/pretok.h"
#include "model/special.h"
#include "model/tokenizer.h"

#define MLXD_TOKENIZER_ENDS_MAX 64

/* What the decoder leaves out at the beginning of a text. */
typedef struct mlxd_tokenizer_strip {
    uint8_t blanks;   /* so many blanks at most */
    bool first_token; /* all blanks of the first token (Metaspace) */
} mlxd_tokenizer_strip;

struct mlxd_tokenizer {
    mlxd_lexicon lexicon;
    mlxd_bpe bpe;
    mlxd_normalizer normalizer;
    mlxd_pretok pretok;
    mlxd_special added;      /* matched in the text as it comes */
    mlxd_special normalized; /* matched in normalized text */
    mlxd_tokenizer_strip strip;
    int32_t bos, eos; /* -1: none */
    bool add_bos;
    int32_t ends[MLXD_TOKENIZER_ENDS_MAX];
    size_t n_ends;
};

/* A zeroed tokenizer, to be closed by its reader after an error; NULL: no memory. */
mlxd_tokenizer *mlxd_tokenizer_new(mlxd_why *why) MLXD_MUST_CHECK;
/* The last step of opening: sorts the added tokens, and makes ends of eos and of the control tokens
 * with a known name. */
mlxd_err mlxd_tokenizer_finish(mlxd_tokenizer *t, const char *where, mlxd_why *why) MLXD_MUST_CHECK;

/* ---- tokenizer_steps.c: parts of tokenizer.json ---- */

/* `v` is the member of tokenizer.json with that name; NULL and null: no steps. */
mlxd_err mlxd_tokenizer_read_normalizer(mlxd_tokenizer *t, const mlxd_json *v,
                                        mlxd_why *why) MLXD_MUST_CHECK;
/* *byte_level: it ends in ByteLevel, so that bytes are symbols. */
mlxd_err mlxd_tokenizer_read_pretok(mlxd_tokenizer *t, const mlxd_json *v, bool *byte_level,
                                    mlxd_why *why) MLXD_MUST_CHECK;

/* What the decoder says about the spelling of tokens. */
typedef struct mlxd_tokenizer_decoder {
    bool byte_level;
    bool byte_fallback; /* <0xNN> are bytes */
    mlxd_lexicon_style style;
} mlxd_tokenizer_decoder;
/* Fills t->strip and *out, whose texts are lent by the document. */
mlxd_err mlxd_tokenizer_read_decoder(mlxd_tokenizer *t, const mlxd_json *v,
                                     mlxd_tokenizer_decoder *out, mlxd_why *why) MLXD_MUST_CHECK;
/* The token that the post-processor puts in front of a text; the empty slice: none. */
mlxd_err mlxd_tokenizer_read_post(const mlxd_json *v, mlxd_slice *bos,
                                  mlxd_why *why) MLXD_MUST_CHECK;

#endif
