/* api_errors.h - what the REST API answers when something does not work.
 *
 *     engine or parser       HTTP  type                   code                     headers
 *     RANGE                  400   invalid_request_error  context_length_exceeded
 *     FULL                   429   rate_limit_error       queue_full               Retry-After
 *     STATE                  503   unavailable_error      model_loading            Retry-After
 *     AGAIN                  503   unavailable_error      worker_lost              Retry-After
 *     CANCELLED              503   unavailable_error      shutting_down            Retry-After
 *     NOMEM                  503   unavailable_error      out_of_memory            Retry-After
 *     PEER                   500   server_error           worker_lost              x-should-retry
 *     TIMEOUT                500   server_error           timeout                  x-should-retry
 *     CORRUPT and the rest   500   server_error           internal_error           (false)
 *
 * AGAIN: a worker is away. CANCELLED is for a client that is still there. CORRUPT must not be tried
 * again: the same request meets the same numbers.
 */
#ifndef MLXD_SERVE_API_ERRORS_H
#define MLXD_SERVE_API_ERRORS_H

#include "net/http.h"

/* An error answer in the making. Plain value; {0} is "no error". */
typedef struct mlxd_api_refusal {
    unsigned status;  /* 0: none */
    const char *code; /* constant */
    char param[96];   /* the request's field; "" writes null */
    char message[MLXD_WHY_MAX];
    unsigned retry_after_s;   /* 0: no Retry-After */
    const char *should_retry; /* "true", "false", NULL: unsaid */
} mlxd_api_refusal;

/* Fills in a refusal of the client's request and returns false, so that a check can end with
 *     return mlxd_api_refuse(r, 400, "invalid_value", "n", "n: ..."); */
bool mlxd_api_refuse(mlxd_api_refusal *r, unsigned status, const char *code, const char *param,
                     const char *fmt, ...) MLXD_PRINTF(5, 6);
/* The row of `err` in the table above. */
void mlxd_api_refuse_err(mlxd_api_refusal *r, mlxd_err err, const mlxd_why *why);
/* FINISHING (see http.h): replies with it. */
void mlxd_api_reply_refusal(mlxd_http_req *req, const mlxd_api_refusal *r);
/* {"error":{...}} for an event inside a stream. */
void mlxd_api_refusal_json(mlxd_buf *out, const mlxd_api_refusal *r);
/* FINISHING: replies 200 with a JSON body, 503 when writing it failed. */
void mlxd_api_reply_json(mlxd_http_req *req, unsigned status, const mlxd_buf *body);

#endif
