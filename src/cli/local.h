/* local.h - a model that answers in this process, without a network: what `mlxd run` is made of.
 * The same engine, stages and head as the server's; with --layers-per-stage several stages, so that
 * splits can be compared bit by bit.
 *
 * Thread: the main one. Text reaches it from the engine's thread through a mailbox.
 */
#ifndef MLXD_CLI_LOCAL_H
#define MLXD_CLI_LOCAL_H

#include "backend/cpu.h"
#include "cli/options.h"
#include "serve/engine_loop.h"
#include "serve/host.h"

/* Text that was drawn one after the other, of one kind. */
typedef struct mlxd_local_run {
    size_t len;
    bool reasoning;
} mlxd_local_run;

typedef struct mlxd_local {
    const mlxd_options *o;
    mlxd_host host;
    mlxd_cpu *stages[MLXD_LIMIT_STAGES];
    uint32_t n_stages;
    mlxd_loop *loop;
    uint32_t context, kv_pages;
    double load_ms;
    /* the mailbox; under lock */
    mlxd_mutex lock;
    mlxd_cond changed;
    mlxd_buf text, runs; /* `runs`: of mlxd_local_run, how the text is divided */
    bool ended;
    mlxd_err err;
    mlxd_why why;
} mlxd_local;

/* Loads the model, with a progress bar. Close it also after an error, and a zeroed one. */
mlxd_err mlxd_local_open(mlxd_local *l, const mlxd_options *o, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_local_close(mlxd_local *l);

/* The sampling of the options; what they do not say is the model's. The seed is random if none was
 * given. */
mlxd_err mlxd_local_sampling(const mlxd_local *l, mlxd_sampling *out,
                             mlxd_why *why) MLXD_MUST_CHECK;
/* A request for `prompt` (1 .. context tokens); max_tokens is cut to what the context holds. */
mlxd_err mlxd_local_request(mlxd_local *l, const mlxd_tokens *prompt, mlxd_generation_params *p,
                            mlxd_request **out, mlxd_why *why) MLXD_MUST_CHECK;

/* Where the text goes, piece by piece; an error of it cancels the request. */
typedef mlxd_err mlxd_local_sink(void *ctx, bool reasoning, mlxd_slice text, mlxd_why *why);
/* Lets the engine answer and hands on the text until the request has ended; the request is still
 * the caller's. CANCELLED when it was interrupted: what was drawn before stays. */
mlxd_err mlxd_local_answer(mlxd_local *l, mlxd_request *r, mlxd_local_sink *sink, void *ctx,
                           mlxd_why *why) MLXD_MUST_CHECK;

/* SIGINT and SIGTERM are noted from now on. `once`: the second one ends the process. */
void mlxd_local_catch(bool once);
/* Has there been one since the last mlxd_local_forget? */
bool mlxd_local_interrupted(void);
/* Forgets a SIGINT; a SIGTERM stays. */
void mlxd_local_forget(void);
/* Was it SIGTERM? Then the process is to end. */
bool mlxd_local_terminated(void);

#endif
