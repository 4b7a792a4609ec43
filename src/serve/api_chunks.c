/* api_chunks.c - see api_chunks.h. */
#include "serve/api_chunks.h"

#include "format/sse.h"

#include <stdio.h>
#include <string.h>

void mlxd_chunks_init(mlxd_chunks *c, unsigned api, const mlxd_api_fields *f) {
    *c = (mlxd_chunks){.api = api,
                       .stream = f->stream,
                       .include_usage = f->include_usage,
                       .digest = f->digest,
                       .timings = f->timings,
                       .logprobs_wanted = f->sampling.logprobs};
    snprintf(c->ignored, sizeof c->ignored, "%s", f->ignored);
    mlxd_buf_init(&c->text, 0);
    mlxd_buf_init(&c->reasoning, 0);
    mlxd_buf_init(&c->logprobs, 0);
    mlxd_buf_init(&c->json, 0);
    mlxd_buf_init(&c->out, 0);
    if (f->tools && !f->tools_off) {
        c->calls = mlxd_mem_new(1, sizeof *c->calls);
        c->out.failed = !c->calls;
        if (c->calls)
            mlxd_api_calls_init(c->calls);
    }
}

void mlxd_chunks_deinit(mlxd_chunks *c) {
    mlxd_buf_deinit(&c->text);
    mlxd_buf_deinit(&c->reasoning);
    mlxd_buf_deinit(&c->logprobs);
    mlxd_buf_deinit(&c->json);
    mlxd_buf_deinit(&c->out);
    mlxd_mem_free(c->stages);
    c->stages = NULL;
    if (c->calls)
        mlxd_api_calls_deinit(c->calls);
    mlxd_mem_free(c->calls);
    c->calls = NULL;
}

/* ---- collecting ---- */

static void write_token(mlxd_jsonw *w, const mlxd_chunks *c, int32_t token, double logprob) {
    mlxd_slice bytes = mlxd_tokenizer_bytes(c->tokenizer, token);
    mlxd_jsonw_key(w, "token");
    mlxd_jsonw_slice(w, bytes);
    mlxd_jsonw_member_double(w, "logprob", logprob);
    mlxd_jsonw_key(w, "bytes");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < bytes.len; i++)
        mlxd_jsonw_uint(w, bytes.data[i]);
    mlxd_jsonw_array_end(w);
}

static void add_logprobs(mlxd_chunks *c, const mlxd_sample *s) {
    mlxd_jsonw w;
    mlxd_buf_add_byte(&c->logprobs, c->logprobs.len ? ',' : '[');
    mlxd_jsonw_init(&w, &c->logprobs);
    mlxd_jsonw_object_begin(&w);
    write_token(&w, c, s->token, s->logprob);
    mlxd_jsonw_key(&w, "top_logprobs");
    mlxd_jsonw_array_begin(&w);
    for (uint32_t i = 0; i < s->top_count; i++) {
        mlxd_jsonw_object_begin(&w);
        write_token(&w, c, s->top[i].token, s->top[i].logprob);
        mlxd_jsonw_object_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_end(&w);
}

static void move(mlxd_buf *to, mlxd_buf *from) {
    mlxd_buf_add(to, from->data, from->len);
    mlxd_buf_clear(from);
}

/* Takes what the last draw brought. The token that ends a turn is no part of the content, and
 * neither are tool calls. `end_of_text`: nothing follows. */
static void take(mlxd_chunks *c, mlxd_generation *g, bool end_of_text) {
    mlxd_buf *text = mlxd_generation_text(g);
    if (c->calls) {
        mlxd_api_calls_take(c->calls, text, end_of_text);
        c->out.failed = c->out.failed || c->calls->failed;
    }
    move(&c->text, text);
    move(&c->reasoning, mlxd_generation_reasoning(g));
    if (mlxd_generation_tokens(g) == c->seen)
        return;
    c->seen = mlxd_generation_tokens(g);
    if (c->logprobs_wanted && !mlxd_generation_ended(g))
        add_logprobs(c, mlxd_generation_sample(g));
}

/* ---- parts of an object ---- */

static const char *object_name(const mlxd_chunks *c) {
    if (c->api == MLXD_API_TEXT)
        return "text_completion";
    return c->stream ? "chat.completion.chunk" : "chat.completion";
}

static void begin_object(const mlxd_chunks *c, mlxd_jsonw *w) {
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "id", c->id);
    mlxd_jsonw_member_str(w, "object", object_name(c));
    mlxd_jsonw_member_int(w, "created", c->created);
    mlxd_jsonw_member_str(w, "model", c->model);
    mlxd_jsonw_member_str(w, "system_fingerprint", c->fingerprint);
    mlxd_jsonw_key(w, "choices");
    mlxd_jsonw_array_begin(w);
}

static void write_logprobs(mlxd_chunks *c, mlxd_jsonw *w) {
    mlxd_jsonw_key(w, "logprobs");
    if (c->api != MLXD_API_CHAT || !c->logprobs_wanted) {
        mlxd_jsonw_null(w);
        return;
    }
    mlxd_buf_add_str(&c->logprobs, c->logprobs.len ? "]" : "[]");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_key(w, "content");
    if (c->logprobs.failed) {
        mlxd_jsonw_null(w);
        c->out.failed = true;
    } else {
        mlxd_jsonw_raw(w, (mlxd_slice){c->logprobs.data, c->logprobs.len});
    }
    mlxd_jsonw_key(w, "refusal");
    mlxd_jsonw_null(w);
    mlxd_jsonw_object_end(w);
    mlxd_buf_clear(&c->logprobs);
}

static void write_usage(mlxd_jsonw *w, const mlxd_request *r) {
    uint32_t drawn = mlxd_generation_tokens(r->generation);
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "prompt_tokens", r->n_prompt);
    mlxd_jsonw_member_uint(w, "completion_tokens", drawn);
    mlxd_jsonw_member_uint(w, "total_tokens", (uint64_t)r->n_prompt + drawn);
    mlxd_jsonw_key(w, "prompt_tokens_details");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "cached_tokens", r->cached);
    mlxd_jsonw_object_end(w);
    mlxd_jsonw_key(w, "completion_tokens_details");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "reasoning_tokens", mlxd_generation_reasoning_tokens(r->generation));
    mlxd_jsonw_object_end(w);
    mlxd_jsonw_object_end(w);
}

/* The member "mlxd", where it was asked for. */
static void write_extension(const mlxd_chunks *c, mlxd_jsonw *w, const mlxd_request *r) {
    char hex[MLXD_SHA256_HEX];
    if (!c->digest && !c->timings)
        return;
    mlxd_jsonw_key(w, "mlxd");
    mlxd_jsonw_object_begin(w);
    if (c->digest && mlxd_generation_digest(r->generation, hex))
        mlxd_jsonw_member_str(w, "logits_sha256", hex);
    if (c->timings) {
        mlxd_jsonw_key(w, "timings");
        mlxd_timings_write(w, r, c->stages, c->n_stages);
    }
    mlxd_jsonw_object_end(w);
}

static void write_text(mlxd_chunks *c, mlxd_jsonw *w, const char *key, mlxd_buf *text) {
    if (text->failed)
        c->out.failed = true;
    mlxd_jsonw_key(w, key);
    mlxd_jsonw_slice(w, (mlxd_slice){text->data, text->failed ? 0 : text->len});
    mlxd_buf_clear(text);
}

/* ---- chunks ---- */

/* Ends the choices and the object, and makes an event of it. `ended`: what only the chunk with the
 * finish_reason has. */
static void end_chunk(mlxd_chunks *c, mlxd_jsonw *w, const mlxd_request *ended) {
    mlxd_jsonw_array_end(w);
    if (c->include_usage) {
        mlxd_jsonw_key(w, "usage");
        mlxd_jsonw_null(w);
    }
    if (ended)
        write_extension(c, w, ended);
    mlxd_jsonw_object_end(w);
    if (c->json.failed)
        c->out.failed = true;
    else
        mlxd_sse_data(&c->out, (mlxd_slice){c->json.data, c->json.len});
    mlxd_buf_clear(&c->json);
}

static void begin_choice(mlxd_chunks *c, mlxd_jsonw *w) {
    mlxd_jsonw_init(w, &c->json);
    begin_object(c, w);
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "index", 0);
}

static void add_role_chunk(mlxd_chunks *c) {
    mlxd_jsonw w;
    c->role_sent = true;
    if (c->api != MLXD_API_CHAT)
        return;
    begin_choice(c, &w);
    mlxd_jsonw_key(&w, "delta");
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "role", "assistant");
    mlxd_jsonw_member_str(&w, "content", "");
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_member_str(&w, "logprobs", NULL);
    mlxd_jsonw_member_str(&w, "finish_reason", NULL);
    mlxd_jsonw_object_end(&w);
    end_chunk(c, &w, NULL);
}

/* `key` and `text`: reasoning_content or content. */
static void add_text_chunk(mlxd_chunks *c, const char *key, mlxd_buf *text) {
    mlxd_jsonw w;
    begin_choice(c, &w);
    if (c->api == MLXD_API_CHAT) {
        mlxd_jsonw_key(&w, "delta");
        mlxd_jsonw_object_begin(&w);
        write_text(c, &w, key, text);
        mlxd_jsonw_object_end(&w);
    } else {
        write_text(c, &w, "text", text);
    }
    write_logprobs(c, &w);
    mlxd_jsonw_member_str(&w, "finish_reason", NULL);
    mlxd_jsonw_object_end(&w);
    end_chunk(c, &w, NULL);
}

/* What there is; with log-probabilities also when they alone are left. */
static void add_text_chunks(mlxd_chunks *c, bool all) {
    if (c->reasoning.len > 0 || c->reasoning.failed)
        add_text_chunk(c, "reasoning_content", &c->reasoning);
    if (c->text.len > 0 || c->text.failed || (all && c->logprobs.len > 0))
        add_text_chunk(c, "content", &c->text);
}

/* A chunk for each call that is complete and not sent. */
static void add_call_chunks(mlxd_chunks *c) {
    for (; c->calls && c->calls_sent < c->calls->count; c->calls_sent++) {
        mlxd_jsonw w;
        begin_choice(c, &w);
        mlxd_jsonw_key(&w, "delta");
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_key(&w, "tool_calls");
        mlxd_jsonw_array_begin(&w);
        mlxd_api_calls_write(c->calls, c->calls_sent, c->id, true, &w);
        mlxd_jsonw_array_end(&w);
        mlxd_jsonw_object_end(&w);
        mlxd_jsonw_member_str(&w, "logprobs", NULL);
        mlxd_jsonw_member_str(&w, "finish_reason", NULL);
        mlxd_jsonw_object_end(&w);
        end_chunk(c, &w, NULL);
    }
}

static const char *finish_name(const mlxd_chunks *c, const mlxd_request *r) {
    mlxd_finish finish = mlxd_generation_finish(r->generation);
    bool calls = c->calls && c->calls->count > 0 && finish == MLXD_FINISH_STOP;
    return calls ? "tool_calls" : mlxd_finish_name(finish);
}

static void add_finish_chunk(mlxd_chunks *c, const mlxd_request *r) {
    mlxd_jsonw w;
    begin_choice(c, &w);
    if (c->api == MLXD_API_CHAT) {
        mlxd_jsonw_key(&w, "delta");
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_object_end(&w);
    } else {
        mlxd_jsonw_member_str(&w, "text", "");
    }
    mlxd_jsonw_member_str(&w, "logprobs", NULL);
    mlxd_jsonw_member_str(&w, "finish_reason", finish_name(c, r));
    mlxd_jsonw_object_end(&w);
    end_chunk(c, &w, r);
}

static void add_usage_chunk(mlxd_chunks *c, const mlxd_request *r) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, &c->json);
    begin_object(c, &w);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key(&w, "usage");
    write_usage(&w, r);
    mlxd_jsonw_object_end(&w);
    if (c->json.failed)
        c->out.failed = true;
    else
        mlxd_sse_data(&c->out, (mlxd_slice){c->json.data, c->json.len});
    mlxd_buf_clear(&c->json);
}

void mlxd_chunks_token(mlxd_chunks *c, mlxd_generation *g) {
    take(c, g, false);
    if (!c->stream)
        return;
    if (!c->role_sent)
        add_role_chunk(c);
    add_text_chunks(c, false);
    add_call_chunks(c);
}

/* ---- the end ---- */

static void end_stream(mlxd_chunks *c, const mlxd_request *r) {
    if (!c->role_sent)
        add_role_chunk(c);
    add_text_chunks(c, true);
    add_call_chunks(c);
    add_finish_chunk(c, r);
    if (c->include_usage)
        add_usage_chunk(c, r);
    mlxd_sse_done(&c->out);
}

/* The content, null when there is nothing but calls, and the calls. */
static void write_content(mlxd_chunks *c, mlxd_jsonw *w) {
    size_t count = c->calls ? c->calls->count : 0;
    if (count > 0 && c->text.len == 0)
        mlxd_jsonw_member_str(w, "content", NULL);
    else
        write_text(c, w, "content", &c->text);
    if (count == 0)
        return;
    mlxd_jsonw_key(w, "tool_calls");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < count; i++)
        mlxd_api_calls_write(c->calls, i, c->id, false, w);
    mlxd_jsonw_array_end(w);
}

static void end_whole(mlxd_chunks *c, const mlxd_request *r) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, &c->out);
    begin_object(c, &w);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_uint(&w, "index", 0);
    if (c->api == MLXD_API_CHAT) {
        mlxd_jsonw_key(&w, "message");
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "role", "assistant");
        write_content(c, &w);
        if (c->reasoning.len > 0 || c->reasoning.failed)
            write_text(c, &w, "reasoning_content", &c->reasoning);
        mlxd_jsonw_member_str(&w, "refusal", NULL);
        mlxd_jsonw_object_end(&w);
    } else {
        write_text(c, &w, "text", &c->text);
    }
    write_logprobs(c, &w);
    mlxd_jsonw_member_str(&w, "finish_reason", finish_name(c, r));
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key(&w, "usage");
    write_usage(&w, r);
    write_extension(c, &w, r);
    mlxd_jsonw_object_end(&w);
}

void mlxd_chunks_end(mlxd_chunks *c, const mlxd_request *r) {
    take(c, r->generation, true);
    if (c->stream)
        end_stream(c, r);
    else
        end_whole(c, r);
}

void mlxd_chunks_error(mlxd_chunks *c, const mlxd_api_refusal *r) {
    MLXD_ASSERT(c->stream);
    mlxd_buf_clear(&c->json);
    mlxd_api_refusal_json(&c->json, r);
    if (c->json.failed)
        c->out.failed = true;
    else
        mlxd_sse_data(&c->out, (mlxd_slice){c->json.data, c->json.len});
    mlxd_buf_clear(&c->json);
    mlxd_sse_done(&c->out);
}
