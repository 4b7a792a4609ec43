/* pretok_names.c - the pre-tokenizers that GGUF files know by name (tokenizer.ggml.pre).
 *
 * A family is a list of expressions that split one after the other, each match isolated: what the
 * family's own tokenizer.json says, for a GGUF file holds only the name. The names are those that
 * llama.cpp's converter writes.
 */
#include "model/pretok.h"

#include <string.h>

/* The contractions of English, in either case or as written. */
#define ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s+(?!\\S)|\\s++"

/* What comes behind words and numbers in most of the families. */
#define REST " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define REST_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define LLAMA3 ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" REST
#define QWEN2 ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" REST
#define QWEN35                                                                                     \
    ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"  \
             "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* A word: at most one other character, upper case, lower case. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define O200K                                                                                      \
    BEFORE UPPER "*" LOWER "+" ANY_CASE "?|" BEFORE UPPER "+" LOWER "*" ANY_CASE                   \
                 "?|\\p{N}{1,3}|" REST_SLASH
#define TEKKEN BEFORE UPPER "*" LOWER "+|" BEFORE UPPER "+" LOWER "*|\\p{N}|" REST_SLASH

#define CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+"
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"                                        \
    "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*"                      \
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* U+4E00..9FA5, U+0800..4E00, U+AC00..D7FF */
#define CJK_OLD "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

#define EXPRESSIONS_MAX 5

static const struct {
    const char *names; /* separated by blanks */
    mlxd_pretok_family family;
    const char *expressions[EXPRESSIONS_MAX];
} families[] = {
    {"gpt-2 phi-2 mpt olmo jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum",
     {0},
     {GPT2}},
    /* A digit alone comes first: it ends a run of blanks as the end of the text does. */
    {"smollm starcoder refact command-r codeshell exaone minerva-7b", {0}, {"\\p{N}", GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     {.ignore_merges = true, .add_bos = true},
     {LLAMA3}},
    {"dbrx smaug-bpe chatglm-bpe glm4", {0}, {LLAMA3}},
    {"qwen2", {.nfc = true}, {QWEN2}},
    {"deepseek-r1-qwen stablelm2 hunyuan megrez", {0}, {QWEN2}},
    {"qwen35", {.nfc = true}, {QWEN35}},
    {"gpt-4o llama4", {.ignore_merges = true}, {O200K}},
    {"tekken", {.ignore_merges = true, .add_bos = true}, {TEKKEN}},
    {"deepseek-v3 hunyuan-dense", {0}, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {"deepseek-coder", {0}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK_OLD, "\\p{N}"}},
    {"falcon", {0}, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"bloom poro-chat gpt3-finnish", {0}, {BLOOM}},
    {"viking", {0}, {BLOOM, "\\p{N}"}},
};

/* As tokenizer.json files spell some of those above. */
static const char *const spellings[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "\\p{N}+",
};

bool mlxd_pretok_knows(mlxd_slice pattern) {
    for (size_t i = 0; i < MLXD_COUNT_OF(families); i++)
        for (size_t e = 0; e < EXPRESSIONS_MAX && families[i].expressions[e]; e++)
            if (mlxd_slice_eq(pattern, mlxd_slice_str(families[i].expressions[e])))
                return true;
    for (size_t i = 0; i < MLXD_COUNT_OF(spellings); i++)
        if (mlxd_slice_eq(pattern, mlxd_slice_str(spellings[i])))
            return true;
    return false;
}

mlxd_slice mlxd_pretok_gpt2(void) {
    return mlxd_slice_str(GPT2);
}

static bool lists(const char *names, mlxd_slice name) {
    while (*names) {
        size_t len = strcspn(names, " ");
        if (mlxd_slice_eq((mlxd_slice){(const uint8_t *)names, len}, name))
            return true;
        names += len + (names[len] == ' ');
    }
    return false;
}

static mlxd_err unknown(mlxd_slice name, mlxd_why *why) {
    mlxd_buf known;
    mlxd_buf_init(&known, 0);
    for (size_t i = 0; i < MLXD_COUNT_OF(families); i++)
        mlxd_buf_addf(&known, "%s%s", i ? " " : "", families[i].names);
    mlxd_fail(why, MLXD_ERR_UNSUPPORTED, "pre-tokenizer \"%.*s\" is not known; known: %s",
              (int)MLXD_MIN(name.len, 64), (const char *)name.data, mlxd_buf_str(&known));
    mlxd_buf_deinit(&known);
    return MLXD_ERR_UNSUPPORTED;
}

mlxd_err mlxd_pretok_add_named(mlxd_pretok *p, mlxd_slice name, bool jit,
                               mlxd_pretok_family *family, mlxd_why *why) {
    MLXD_ASSERT(p && family);
    size_t i = 0;
    while (i < MLXD_COUNT_OF(families) && !lists(families[i].names, name))
        i++;
    if (i == MLXD_COUNT_OF(families))
        return unknown(name, why);
    *family = families[i].family;
    for (size_t e = 0; e < EXPRESSIONS_MAX && families[i].expressions[e]; e++) {
        mlxd_err err = mlxd_pretok_add_split(p, mlxd_slice_str(families[i].expressions[e]),
                                             MLXD_PRETOK_ISOLATED, false, jit, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}
