/* options.h - one table of everything that can be set, from four places: flag > environment > file
 * (mlxd.yaml) > default. `--help`, parsing, range checks and error texts all come from the table.
 */
#ifndef MLXD_CLI_OPTIONS_H
#define MLXD_CLI_OPTIONS_H

#include "base/base.h"

/* Commands, as bits: which options belong to which. */
enum {
    MLXD_CMD_RUN = 1u << 0,
    MLXD_CMD_SERVE = 1u << 1,
    MLXD_CMD_WORKER = 1u << 2,
    MLXD_CMD_PLAN = 1u << 3,
    MLXD_CMD_CERTS = 1u << 4,
    MLXD_CMD_HEALTHCHECK = 1u << 5,
    MLXD_CMD_VERSION = 1u << 6,
    MLXD_CMD_BENCH = 1u << 7,
    MLXD_CMD_PULL = 1u << 8,
    MLXD_CMD_LS = 1u << 9,
    MLXD_CMD_RM = 1u << 10,
    MLXD_CMD_INSPECT = 1u << 11,
    MLXD_CMD_TEMPLATE = 1u << 12,
    MLXD_CMD_ALL = (1u << 13) - 1,
    /* Those whose first word that is no option is the model. */
    MLXD_CMD_MODEL = MLXD_CMD_RUN | MLXD_CMD_SERVE | MLXD_CMD_WORKER | MLXD_CMD_PLAN |
                     MLXD_CMD_BENCH | MLXD_CMD_TEMPLATE | MLXD_CMD_INSPECT,
};

#define MLXD_OPTION_LIST_MAX 64
#define MLXD_OPTION_NUMBERS_MAX 16

/* Texts of a list option. */
typedef struct mlxd_option_list {
    const char *items[MLXD_OPTION_LIST_MAX];
    size_t count;
} mlxd_option_list;

typedef struct mlxd_option_numbers {
    uint64_t items[MLXD_OPTION_NUMBERS_MAX];
    size_t count;
} mlxd_option_numbers;

/* Every option's value. Strings live until mlxd_options_deinit. */
typedef struct mlxd_options {
    /* model and compute */
    const char *model;      /* path or name; after mlxd_cli_locate a path */
    const char *model_name; /* what a person calls it; "" when it is only a path */
    uint64_t threads;       /* 0: all processors */
    uint64_t ctx;           /* 0: the model's */
    uint64_t parallel;      /* sequences whose KV fits at once */
    uint64_t prefill_chunk;
    bool pin;
    const char *cpu; /* cap of the instruction set */
    /* one request */
    const char *prompt;
    uint64_t max_tokens; /* UINT64_MAX, NaN, INT64_MIN: not given, also of the next ones */
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int64_t top_k;
    const char *seed; /* "" = random */
    mlxd_option_list stop;
    const char *reasoning_format;
    const char *system;
    bool raw, json, ignore_eos, verbose;
    mlxd_option_list layers_per_stage;
    /* nodes */
    const char *device, *role;
    const char *host;
    uint64_t port, grpc_port, health_port;
    const char *grpc_host;
    const char *certs, *ca, *cert, *key;
    bool insecure;
    mlxd_option_list workers; /* device=host:port */
    mlxd_option_list layers;  /* device:first-last */
    mlxd_option_list allowed_hosts;
    uint64_t worker_timeout_ms;
    const char *shards;  /* directory; "": the default */
    uint64_t shards_max; /* GB; 0: no limit */
    /* REST */
    const char *api_key_file;
    bool no_auth, metrics_public;
    const char *served_name;
    uint64_t queue;
    const char *trace;
    /* plan */
    mlxd_option_list devices; /* name:memory[:speed] */
    /* bench: each combination is a test */
    mlxd_option_numbers prompt_lengths, gen_lengths, batches, depths, thread_counts;
    uint64_t repetitions;
    bool no_warmup, csv;
    /* template */
    const char *messages, *tools; /* paths of JSON files */
    const char *kwargs;           /* JSON */
    bool no_generation_prompt, tokens, source;
    /* certs */
    const char *cluster;
    mlxd_option_list hosts;
    uint64_t days;
    bool force, server_pair;
    /* healthcheck */
    const char *address, *service;
    /* hub */
    mlxd_option_list files; /* patterns */
    uint64_t connections;
    bool yes;
    /* output */
    const char *config;
    const char *log_level;
    bool log_json, quiet, help;
    /* words that are no options */
    const char *args[8];
    size_t n_args;
    /* private */
    void *owned;
} mlxd_options;

/* Reads defaults, then the file (--config, MLXD_CONFIG, ./mlxd.yaml when it is there), then the
 * environment, then argv[2..] into *o. `command` is one bit. USAGE or CONFIG with a text that names
 * the place. */
mlxd_err mlxd_options_read(mlxd_options *o, unsigned command, int argc, char **argv,
                           mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_options_deinit(mlxd_options *o);
/* A copy of `text` that lives as long as the options; NULL: no memory. */
const char *mlxd_options_keep(mlxd_options *o, const char *text) MLXD_MUST_CHECK;

/* The options part of `--help` for a command. */
void mlxd_options_help(unsigned command);

#endif
