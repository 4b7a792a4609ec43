/* api_complete.c - POST /v1/chat/completions and /v1/completions, up to the engine: parse,
 * validate, render, tokenize, check the context, make the generation. On an API thread.
 */
#include "serve/api_answer.h"
#include "serve/api_internal.h"
#include "serve/api_prompt.h"

#include <string.h>

static bool check_model(const mlxd_api *a, mlxd_slice model, mlxd_api_refusal *r) {
    if (model.len == 0 || mlxd_slice_eq(model, mlxd_slice_str(a->p.model_name)))
        return true;
    return mlxd_api_refuse(r, 404, "model_not_found", "model",
                           "model \"%.128s\" is not served here; this server has \"%.200s\"",
                           (const char *)model.data, a->p.model_name);
}

/* Everything that needs no prompt to be checked comes before the tokenizer's work. */
static mlxd_api_fields *read_fields(mlxd_api *a, const mlxd_json *root, unsigned api,
                                    mlxd_api_refusal *r) {
    const mlxd_host *h = a->p.host;
    mlxd_api_defaults d = {
        .model = &h->defaults,
        .reasoning = h->reasoning,
        .vocab = (uint32_t)MLXD_MIN((size_t)h->config.vocab, mlxd_tokenizer_vocab(h->tokenizer))};
    mlxd_api_fields *f = mlxd_mem_new(1, sizeof *f);
    if (!f) {
        mlxd_api_refuse_err(r, MLXD_ERR_NOMEM, NULL);
        return NULL;
    }
    if (mlxd_api_fields_read(f, root, api, &d, r) && check_model(a, f->model, r))
        return f;
    mlxd_mem_free(f);
    return NULL;
}

static mlxd_generation *open_generation(mlxd_api *a, const mlxd_api_fields *f,
                                        const mlxd_tokens *prompt, uint32_t max_tokens,
                                        mlxd_api_refusal *r) {
    const mlxd_host *h = a->p.host;
    mlxd_generation *g = NULL;
    mlxd_why why;
    mlxd_generation_params p = {.sampling = f->sampling,
                                .stop = f->stop,
                                .stop_count = f->stop_count,
                                .max_tokens = max_tokens,
                                .ignore_end = f->ignore_eos,
                                .reasoning = f->reasoning};
    mlxd_err err = mlxd_generation_open(&g, &p, h->tokenizer, h->config.vocab, prompt->ids,
                                        prompt->count, &why);
    if (err == MLXD_ERR_INVALID)
        (void)mlxd_api_refuse(r, 400, "invalid_value", NULL, "%s", why.text);
    else if (err)
        mlxd_api_refuse_err(r, err, &why);
    return g;
}

/* From fields to the engine. False: `req` is still the caller's. */
static bool start(mlxd_api *a, mlxd_http_req *req, unsigned api, mlxd_api_fields *f,
                  mlxd_tokens *prompt, mlxd_api_refusal *r) {
    uint32_t context = mlxd_api_context(a);
    if (!mlxd_api_prompt(a->p.host, context, f, prompt, r))
        return false;
    uint32_t n = (uint32_t)prompt->count;
    uint32_t max_tokens = MLXD_MIN(f->max_tokens, context - n + 1);
    mlxd_generation *g = open_generation(a, f, prompt, max_tokens, r);
    mlxd_answer *x = g ? mlxd_answer_open(a, req, api, f, r) : NULL;
    if (!x) {
        mlxd_generation_close(g);
        return false;
    }
    if (f->n_ignored)
        mlxd_metrics_add_ignored(a->metrics, f->n_ignored);
    mlxd_answer_submit(x, prompt->ids, n, max_tokens, g);
    return true;
}

static void complete(mlxd_api *a, mlxd_http_req *req, unsigned api) {
    mlxd_json_doc *doc = NULL;
    mlxd_tokens prompt = {0};
    mlxd_api_refusal r = {0};
    mlxd_api_fields *f = NULL;
    bool taken = false;
    if (mlxd_api_parse(req, &doc, &r))
        f = read_fields(a, mlxd_json_root(doc), api, &r);
    if (f)
        taken = start(a, req, api, f, &prompt, &r);
    mlxd_tokens_deinit(&prompt);
    mlxd_mem_free(f);
    mlxd_json_close(doc);
    if (!taken)
        mlxd_api_reply_refusal(req, &r);
}

void mlxd_api_do_chat(mlxd_api *a, mlxd_http_req *req) {
    complete(a, req, MLXD_API_CHAT);
}

void mlxd_api_do_completion(mlxd_api *a, mlxd_http_req *req) {
    complete(a, req, MLXD_API_TEXT);
}
