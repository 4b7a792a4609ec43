/* api_text.c - POST /tokenize and /detokenize, as llama-server and vLLM have them.
 *
 *     /tokenize    {"content"|"text"|"prompt": "...", "add_special": false, "parse_special": false,
 *                   "with_pieces": false}
 *              ->  {"tokens": [..], "count": n, "max_model_len": context}
 *                  with_pieces: {"id": 17, "piece": "..."}, a piece that is not UTF-8 as bytes
 *     /detokenize  {"tokens": [..]}  ->  {"content": "..."}
 *
 * add_special puts BOS in front where the model has one. Control tokens in the text count as such
 * only with parse_special (llama-server: by default), so that what a user wrote is never trusted by
 * accident. /detokenize shows control tokens as their text.
 */
#include "serve/api_internal.h"

#include "format/json.h"
#include "format/utf8.h"

#include <stdio.h>

struct text_request {
    mlxd_slice text;
    bool add_special, parse_special, with_pieces;
};

static bool read_flag(const mlxd_json *root, const char *name, bool *out, mlxd_api_refusal *r) {
    const mlxd_json *v = mlxd_json_find(root, name);
    if (!v || mlxd_json_get_kind(v) == MLXD_JSON_NULL || !mlxd_json_get_bool(v, out))
        return true;
    return mlxd_api_refuse(r, 400, "invalid_type", name, "%s: expected a boolean", name);
}

static bool read_text(const mlxd_json *root, struct text_request *t, mlxd_api_refusal *r) {
    static const char *const names[] = {"content", "text", "prompt"};
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        const mlxd_json *v = mlxd_json_find(root, names[i]);
        if (!v)
            continue;
        if (mlxd_json_get_str(v, &t->text))
            return mlxd_api_refuse(r, 400, "invalid_type", names[i], "%s: expected a string",
                                   names[i]);
        return read_flag(root, "add_special", &t->add_special, r) &&
               read_flag(root, "add_special_tokens", &t->add_special, r) &&
               read_flag(root, "parse_special", &t->parse_special, r) &&
               read_flag(root, "with_pieces", &t->with_pieces, r);
    }
    return mlxd_api_refuse(r, 400, "missing_required_parameter", "content",
                           "content: a text is needed");
}

static void write_piece(mlxd_jsonw *w, const mlxd_tokenizer *t, int32_t id) {
    mlxd_slice bytes = mlxd_tokenizer_bytes(t, id);
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_int(w, "id", id);
    mlxd_jsonw_key(w, "piece");
    if (mlxd_utf8_check(bytes) == bytes.len) {
        mlxd_jsonw_slice(w, bytes);
    } else {
        mlxd_jsonw_array_begin(w);
        for (size_t i = 0; i < bytes.len; i++)
            mlxd_jsonw_uint(w, bytes.data[i]);
        mlxd_jsonw_array_end(w);
    }
    mlxd_jsonw_object_end(w);
}

static void reply_tokens(mlxd_api *a, mlxd_http_req *req, const mlxd_tokens *tokens, bool pieces) {
    mlxd_buf body;
    mlxd_jsonw w;
    mlxd_buf_init(&body, 0);
    mlxd_jsonw_init(&w, &body);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "tokens");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < tokens->count; i++) {
        if (pieces)
            write_piece(&w, a->p.host->tokenizer, tokens->ids[i]);
        else
            mlxd_jsonw_int(&w, tokens->ids[i]);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_member_uint(&w, "count", tokens->count);
    mlxd_jsonw_member_uint(&w, "max_model_len", mlxd_api_context(a));
    mlxd_jsonw_object_end(&w);
    mlxd_api_reply_json(req, 200, &body);
    mlxd_buf_deinit(&body);
}

static mlxd_err encode(const mlxd_tokenizer *t, const struct text_request *text, mlxd_tokens *out,
                       mlxd_why *why) {
    int32_t bos = mlxd_tokenizer_bos(t);
    mlxd_err err = MLXD_OK;
    if (text->add_special && bos >= 0)
        err = mlxd_tokens_add(out, bos, 0);
    if (!err)
        err = mlxd_tokenizer_encode(t, text->text, text->parse_special, 0, out, why);
    return err;
}

void mlxd_api_do_tokenize(mlxd_api *a, mlxd_http_req *req) {
    mlxd_json_doc *doc = NULL;
    mlxd_api_refusal r = {0};
    struct text_request text = {0};
    mlxd_tokens tokens = {0};
    mlxd_why why = {0};
    bool good = mlxd_api_parse(req, &doc, &r) && read_text(mlxd_json_root(doc), &text, &r);
    if (good) {
        mlxd_err err = encode(a->p.host->tokenizer, &text, &tokens, &why);
        if (err)
            mlxd_api_refuse_err(&r, err, &why);
        good = !err;
    }
    if (good)
        reply_tokens(a, req, &tokens, text.with_pieces);
    else
        mlxd_api_reply_refusal(req, &r);
    mlxd_tokens_deinit(&tokens);
    mlxd_json_close(doc);
}

static bool decode(const mlxd_tokenizer *t, const mlxd_json *tokens, mlxd_buf *out,
                   mlxd_api_refusal *r) {
    mlxd_detok d;
    size_t vocab = mlxd_tokenizer_vocab(t);
    if (!tokens || mlxd_json_get_kind(tokens) != MLXD_JSON_ARRAY)
        return mlxd_api_refuse(r, 400, "invalid_type", "tokens",
                               "tokens: expected an array of token ids");
    mlxd_detok_init(&d);
    for (const mlxd_json *v = mlxd_json_first(tokens, NULL); v;
         v = mlxd_json_next(tokens, v, NULL)) {
        int64_t id;
        if (mlxd_json_get_int64(v, &id) || id < 0 || (uint64_t)id >= vocab)
            return mlxd_api_refuse(r, 400, "invalid_value", "tokens",
                                   "tokens: expected token ids from 0 to %zu", vocab - 1);
        mlxd_detok_add_shown(&d, t, (int32_t)id, out);
    }
    mlxd_detok_flush(&d, out);
    return true;
}

void mlxd_api_do_detokenize(mlxd_api *a, mlxd_http_req *req) {
    mlxd_json_doc *doc = NULL;
    mlxd_api_refusal r = {0};
    mlxd_buf text, body;
    mlxd_jsonw w;
    mlxd_buf_init(&text, MLXD_LIMIT_TEXT_BYTES);
    mlxd_buf_init(&body, 0);
    if (mlxd_api_parse(req, &doc, &r) &&
        decode(a->p.host->tokenizer, mlxd_json_find(mlxd_json_root(doc), "tokens"), &text, &r)) {
        mlxd_jsonw_init(&w, &body);
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_key(&w, "content");
        mlxd_jsonw_slice(&w, (mlxd_slice){text.data, text.failed ? 0 : text.len});
        mlxd_jsonw_object_end(&w);
        body.failed = body.failed || text.failed;
        mlxd_api_reply_json(req, 200, &body);
    } else {
        mlxd_api_reply_refusal(req, &r);
    }
    mlxd_buf_deinit(&text);
    mlxd_buf_deinit(&body);
    mlxd_json_close(doc);
}
