/* host.h - a model on this machine: what `run`, `serve` and `worker` all begin with. The file, its
 * configuration and tokenizer, the kernels for this CPU and the compute driver.
 */
#ifndef MLXD_SERVE_HOST_H
#define MLXD_SERVE_HOST_H

#include "backend/driver.h"
#include "backend/head.h"
#include "kernel/kernel.h"
#include "model/chat.h"
#include "model/generation_config.h"
#include "model/reasoning.h"

typedef struct mlxd_host {
    mlxd_checkpoint *checkpoint;
    mlxd_config config;
    const mlxd_kernels *kernels;
    mlxd_driver *driver;
    mlxd_tokenizer *tokenizer; /* NULL unless asked for */
    mlxd_chat *chat;           /* NULL: the file has no template that works; chat_why says why */
    mlxd_why chat_why;
    mlxd_generation_config defaults; /* what the model's files say, otherwise ours */
    mlxd_reasoning_format reasoning; /* of its chats */
    mlxd_head *head;                 /* NULL unless asked for */
} mlxd_host;

typedef struct mlxd_host_params {
    const char *path;      /* NULL: no model, only what computes */
    unsigned threads;      /* 0: one per processor */
    bool pin;              /* keep each compute thread on a processor */
    const char *cpu;       /* cap of the instruction set; "" or NULL: none */
    bool text;             /* tokenizer, chat template, defaults */
    const char *reasoning; /* name of a format; NULL, "" or "auto": what the model's files show */
    bool head;             /* embeddings and vocabulary projection */
    const mlxd_progress *progress;
} mlxd_host_params;

mlxd_err mlxd_host_open(mlxd_host *h, const mlxd_host_params *p, mlxd_why *why) MLXD_MUST_CHECK;
/* Stages of this host must be closed before. */
void mlxd_host_close(mlxd_host *h);

/* Bytes of weights per second through the product kernel on all threads; takes 0.2 s. */
double mlxd_host_speed(const mlxd_host *h);

/* Context and KV pool for `parallel` sequences: `ctx` (0: the model's), cut to what memory holds
 * beside `weights_bytes`. NOMEM with both numbers when not even one page fits. */
mlxd_err mlxd_host_context(const mlxd_host *h, uint64_t ctx, uint64_t parallel, uint32_t kv_layers,
                           uint64_t weights_bytes, uint32_t *context, uint32_t *kv_pages,
                           mlxd_why *why) MLXD_MUST_CHECK;

#endif
