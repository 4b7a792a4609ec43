/* api_errors.c - see api_errors.h. */
#include "serve/api_errors.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool mlxd_api_refuse(mlxd_api_refusal *r, unsigned status, const char *code, const char *param,
                     const char *fmt, ...) {
    MLXD_ASSERT(status >= 400 && status <= 599);
    *r = (mlxd_api_refusal){.status = status, .code = code};
    if (param)
        snprintf(r->param, sizeof r->param, "%s", param);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->message, sizeof r->message, fmt, ap);
    va_end(ap);
    if (status == 429 || status == 503)
        r->retry_after_s = 1;
    return false;
}

static const struct row {
    mlxd_err err;
    unsigned status;
    const char *code;
    const char *should_retry;
} rows[] = {
    {MLXD_ERR_RANGE, 400, "context_length_exceeded", NULL},
    {MLXD_ERR_FULL, 429, "queue_full", NULL},
    {MLXD_ERR_STATE, 503, "model_loading", NULL},
    {MLXD_ERR_CANCELLED, 503, "shutting_down", NULL},
    {MLXD_ERR_NOMEM, 503, "out_of_memory", NULL},
    {MLXD_ERR_AGAIN, 503, "worker_lost", NULL},
    {MLXD_ERR_PEER, 500, "worker_lost", "true"},
    {MLXD_ERR_TIMEOUT, 500, "timeout", "true"},
};

void mlxd_api_refuse_err(mlxd_api_refusal *r, mlxd_err err, const mlxd_why *why) {
    MLXD_ASSERT(err != MLXD_OK);
    struct row row = {err, 500, "internal_error", "false"};
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        if (rows[i].err == err)
            row = rows[i];
    const char *text = why && why->text[0] ? why->text : mlxd_err_name(err);
    if (err == MLXD_ERR_CANCELLED && !(why && why->text[0]))
        text = "the server is shutting down";
    (void)mlxd_api_refuse(r, row.status, row.code, NULL, "%s", text);
    r->should_retry = row.should_retry;
}

void mlxd_api_reply_refusal(mlxd_http_req *req, const mlxd_api_refusal *r) {
    char seconds[16], ms[24];
    mlxd_http_field fields[4];
    size_t n = 0;
    MLXD_ASSERT(r->status != 0);
    if (r->retry_after_s) {
        snprintf(seconds, sizeof seconds, "%u", r->retry_after_s);
        snprintf(ms, sizeof ms, "%llu", r->retry_after_s * 1000ull);
        fields[n++] = (mlxd_http_field){"Retry-After", seconds};
        fields[n++] = (mlxd_http_field){"retry-after-ms", ms};
    }
    if (r->should_retry)
        fields[n++] = (mlxd_http_field){"x-should-retry", r->should_retry};
    fields[n] = (mlxd_http_field){NULL, NULL};
    (void)mlxd_http_reply_error(req, r->status, r->code, r->param[0] ? r->param : NULL, r->message,
                                fields);
}

void mlxd_api_refusal_json(mlxd_buf *out, const mlxd_api_refusal *r) {
    mlxd_http_error_json(out, r->status, r->code, r->param[0] ? r->param : NULL, r->message);
}

void mlxd_api_reply_json(mlxd_http_req *req, unsigned status, const mlxd_buf *body) {
    if (body->failed) {
        mlxd_api_refusal r;
        mlxd_api_refuse_err(&r, MLXD_ERR_NOMEM, NULL);
        mlxd_api_reply_refusal(req, &r);
        return;
    }
    (void)mlxd_http_reply(req, status, "application/json", (mlxd_slice){body->data, body->len},
                          NULL);
}
