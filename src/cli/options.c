/* options.c - the table of options.h and the three readers that fill it.
 *
 * A value is a text until it is stored; `struct place` says where it came from, so that every error
 * can name it: "--port", "environment MLXD_PORT", "mlxd.yaml:12: port".
 */
#include "cli/options.h"

#include "base/limits.h"
#include "base/mem.h"
#include "format/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum type { TEXT, UINT, INT, REAL, FLAG, LIST, NUMBERS };

struct option {
    const char *name; /* without "--"; NULL: no flag */
    char letter;      /* 0: none */
    const char *arg;  /* placeholder in --help; NULL for flags */
    const char *env;
    const char *key; /* "section.name" in mlxd.yaml; NULL: not there */
    enum type type;
    size_t offset;
    double min, max;
    const char *fallback;
    unsigned commands;
    const char *help;
};

#define AT(field) offsetof(mlxd_options, field)
#define RUN MLXD_CMD_RUN
#define SERVE MLXD_CMD_SERVE
#define WORKER MLXD_CMD_WORKER
#define PLAN MLXD_CMD_PLAN
#define BENCH MLXD_CMD_BENCH
#define TEMPLATE MLXD_CMD_TEMPLATE
#define CERTS MLXD_CMD_CERTS
#define HEALTH MLXD_CMD_HEALTHCHECK
#define PULL MLXD_CMD_PULL
#define LS MLXD_CMD_LS
#define RM MLXD_CMD_RM
#define INSPECT MLXD_CMD_INSPECT
#define ALL MLXD_CMD_ALL

/* clang-format off */
static const struct option options[] = {
    {"model", 'm', "MODEL", "MLXD_MODEL", "model.path",
     TEXT, AT(model), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|TEMPLATE|INSPECT,
     "model: a path, or a name like org/name:Q4_K_M; run and serve pull a name that is not here"},
    {"threads", 't', "N", "MLXD_THREADS", "compute.threads",
     UINT, AT(threads), 0, MLXD_LIMIT_THREADS, "0", RUN|SERVE|WORKER|PLAN,
     "compute threads; 0 = one per processor"},
    {"threads", 't', "N,..", "MLXD_THREADS", "compute.threads",
     NUMBERS, AT(thread_counts), 0, MLXD_LIMIT_THREADS, "0", BENCH,
     "compute threads; 0 = one per processor"},
    {"pin", 0, NULL, "MLXD_PIN", "compute.pin", FLAG, AT(pin), 0, 0, "", RUN|SERVE|WORKER|BENCH,
     "keep each compute thread on a processor of its own (Linux)"},
    {"ctx", 'c', "N", "MLXD_CTX", "model.ctx",
     UINT, AT(ctx), 0, MLXD_LIMIT_CONTEXT, "0", RUN|SERVE|PLAN,
     "context of one request in tokens; 0 = the smaller of the model's and what memory holds"},
    {"parallel", 0, "N", "MLXD_PARALLEL", "engine.parallel",
     UINT, AT(parallel), 1, MLXD_LIMIT_SESSIONS, "8", SERVE|PLAN,
     "KV cache for this many requests of full context; shorter ones share it"},
    {"prefill-chunk", 0, "C", "MLXD_PREFILL_CHUNK", "engine.prefill_chunk",
     UINT, AT(prefill_chunk), 1, MLXD_LIMIT_STEP_TOKENS, "128", SERVE,
     "prompt tokens per step; more is faster for one prompt, and longer to wait for the others"},
    {"prefill-chunk", 0, "C", "MLXD_PREFILL_CHUNK", "engine.prefill_chunk",
     UINT, AT(prefill_chunk), 1, MLXD_LIMIT_STEP_TOKENS, "512", RUN|BENCH,
     "prompt tokens per step"},
    {"cpu", 0, "ISA", "MLXD_CPU", "compute.cpu",
     TEXT, AT(cpu), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|INSPECT,
     "highest instruction set to use: scalar, avx2, ..."},

    {"prompt", 'p', "TEXT", NULL, NULL, TEXT, AT(prompt), 0, 0, NULL, RUN,
     "the user's message (with --raw: the text to continue); without it, standard input"},
    {"system", 0, "TEXT", NULL, NULL, TEXT, AT(system), 0, 0, "", RUN,
     "system message"},
    {"max-tokens", 'n', "N", NULL, NULL,
     UINT, AT(max_tokens), 1, MLXD_LIMIT_CONTEXT, "", RUN,
     "tokens to generate at most; default: what the model's files say, or 512"},
    {"temp", 0, "T", NULL, NULL, REAL, AT(temperature), 0, 2, "", RUN,
     "temperature, 0 = always the most likely token; default: the model's, or 0.7"},
    {"top-k", 0, "K", NULL, NULL, INT, AT(top_k), -1, MLXD_LIMIT_VOCAB, "", RUN,
     "sample from the K most likely tokens, 0 = all; default: the model's, or 0"},
    {"top-p", 0, "P", NULL, NULL, REAL, AT(top_p), 0, 1, "", RUN,
     "sample from the smallest set of tokens with this probability; default: the model's, or 1"},
    {"min-p", 0, "P", NULL, NULL, REAL, AT(min_p), 0, 1, "", RUN,
     "drop tokens less likely than P times the most likely one; default: the model's, or 0"},
    {"repetition-penalty", 0, "X", NULL, NULL,
     REAL, AT(repetition_penalty), 0.01, 100, "", RUN,
     "divide the logits of tokens that occurred by X, 1 = off; default: the model's, or 1"},
    {"presence-penalty", 0, "X", NULL, NULL, REAL, AT(presence_penalty), -2, 2, "0", RUN,
     "subtract X from the logits of generated tokens"},
    {"frequency-penalty", 0, "X", NULL, NULL, REAL, AT(frequency_penalty), -2, 2, "0", RUN,
     "subtract X for each time a token was generated"},
    {"seed", 's', "N", NULL, NULL, TEXT, AT(seed), 0, 0, "", RUN,
     "seed of the sampler; default: a random one, which the summary tells"},
    {"stop", 0, "TEXT", NULL, NULL, LIST, AT(stop), 0, 0, "", RUN,
     "stop before this text (up to 4 times)"},
    {"reasoning-format", 0, "F", "MLXD_REASONING_FORMAT", "model.reasoning_format",
     TEXT, AT(reasoning_format), 0, 0, "auto", RUN|SERVE,
     "how the model marks what it thinks: think, mistral, harmony, none; auto = as its files show"},
    {"verbose", 'v', NULL, NULL, NULL, FLAG, AT(verbose), 0, 0, "", RUN,
     "in a conversation, tell after each answer how fast it was"},
    {"raw", 0, NULL, NULL, NULL, FLAG, AT(raw), 0, 0, "", RUN,
     "no chat template: continue the prompt's text"},
    {"ignore-eos", 0, NULL, NULL, NULL, FLAG, AT(ignore_eos), 0, 0, "", RUN,
     "do not stop at end-of-turn tokens"},
    {"layers-per-stage", 0, "A,B,..", NULL, NULL, LIST, AT(layers_per_stage), 0, 0, "", RUN,
     "split the model into stages of so many layers inside this process"},

    {"device", 0, "ID", "DEVICE_ID", "node.device",
     TEXT, AT(device), 0, 0, "", SERVE|WORKER|CERTS,
     "name of this node; default: mini1 (serve), mini2 (worker); with certificates, theirs"},
    {"role", 0, "ROLE", "DEVICE_ROLE", "node.role",
     TEXT, AT(role), 0, 0, "", SERVE|WORKER|CERTS,
     "coordinator or worker (certs also: operator); must fit the command"},
    {"host", 0, "ADDR", "MLXD_HOST", "rest.host",
     TEXT, AT(host), 0, 0, "127.0.0.1", SERVE|WORKER,
     "address of the REST port"},
    {"port", 0, "N", "MLXD_PORT", "rest.port", UINT, AT(port), 0, 65535, "", SERVE|WORKER,
     "REST port; default 8100 (serve), 8101 (worker); 0 = any free one"},
    {"grpc-host", 0, "ADDR", "MLXD_GRPC_HOST", "grpc.host",
     TEXT, AT(grpc_host), 0, 0, "", SERVE|WORKER,
     "address of the gRPC port; default: the REST address"},
    {"grpc-port", 0, "N", "MLXD_GRPC_PORT", "grpc.port",
     UINT, AT(grpc_port), 0, 65535, "", SERVE|WORKER,
     "gRPC port (mutual TLS); default: REST port + 1000"},
    {"health-port", 0, "N", "MLXD_HEALTH_PORT", "grpc.health_port",
     UINT, AT(health_port), 0, 65535, "", SERVE|WORKER,
     "plaintext port that answers only grpc.health.v1; default: gRPC port + 100"},
    {"certs", 0, "DIR", "MLXD_CERTS", "tls.dir",
     TEXT, AT(certs), 0, 0, "certs", SERVE|WORKER|CERTS|HEALTH,
     "directory with ca.crt and <device>.crt/.key (or server.crt/.key)"},
    {"ca", 0, "FILE", "MLXD_CA", "tls.ca", TEXT, AT(ca), 0, 0, "", SERVE|WORKER|HEALTH,
     "CA certificate; default: DIR/ca.crt"},
    {"cert", 0, "FILE", "MLXD_CERT", "tls.cert", TEXT, AT(cert), 0, 0, "", SERVE|WORKER|HEALTH,
     "certificate of this node; default: DIR/<device>.crt"},
    {"key", 0, "FILE", "MLXD_KEY", "tls.key", TEXT, AT(key), 0, 0, "", SERVE|WORKER|HEALTH,
     "its private key; default: DIR/<device>.key"},
    {"insecure", 0, NULL, "MLXD_INSECURE", "tls.insecure",
     FLAG, AT(insecure), 0, 0, "", SERVE|WORKER,
     "gRPC without TLS; only on loopback addresses"},
    {"worker", 'w', "ID=HOST:PORT", "MLXD_WORKERS", "cluster.workers",
     LIST, AT(workers), 0, 0, "", SERVE,
     "a worker's device name and gRPC address (repeat, or separate by commas)"},
    {"layers", 0, "ID:A-B", "MLXD_LAYERS", "cluster.layers",
     LIST, AT(layers), 0, 0, "", SERVE|PLAN,
     "give layers A to B (inclusive) to device ID; every worker must be named, or none"},
    {"worker-timeout", 0, "MS", "MLXD_WORKER_TIMEOUT", "cluster.worker_timeout_ms",
     UINT, AT(worker_timeout_ms), 200, 600000, "2000", SERVE,
     "a worker that sends no beat for so long is lost"},
    {"shards", 0, "DIR", "MLXD_SHARDS", "cluster.shards", TEXT, AT(shards), 0, 0, "", WORKER,
     "without --model the coordinator sends the layers, kept here; default: ~/.cache/mlxd/shards"},
    {"shards-max", 0, "GB", "MLXD_SHARDS_MAX", "cluster.shards_max_gb",
     UINT, AT(shards_max), 0, 1000000, "0", WORKER,
     "keep at most so much there, of the models that were used last; 0 = what the disk holds"},
    {"allowed-host", 0, "NAME", "MLXD_ALLOWED_HOSTS", "rest.allowed_hosts",
     LIST, AT(allowed_hosts), 0, 0, "", SERVE|WORKER,
     "accept this name in the Host header, besides loopback names and our address"},
    {"api-key-file", 0, "FILE", "MLXD_API_KEY_FILE", "rest.api_key_file",
     TEXT, AT(api_key_file), 0, 0, "", SERVE|WORKER,
     "REST keys, one per line; must not be readable by others"},
    {"no-auth", 0, NULL, "MLXD_NO_AUTH", "rest.no_auth",
     FLAG, AT(no_auth), 0, 0, "", SERVE|WORKER,
     "no REST keys; only on loopback addresses"},
    {"metrics-public", 0, NULL, "MLXD_METRICS_PUBLIC", "rest.metrics_public",
     FLAG, AT(metrics_public), 0, 0, "", SERVE|WORKER,
     "answer /metrics without a key"},
    {"served-name", 0, "NAME", "MLXD_SERVED_NAME", "rest.served_name",
     TEXT, AT(served_name), 0, 0, "", SERVE,
     "model name in the API; default: the file's name"},
    {"queue", 0, "N", "MLXD_QUEUE", "engine.queue", UINT, AT(queue), 1, 4096, "64", SERVE,
     "requests that may wait; more are answered 429"},
    {"trace", 0, "FILE", "MLXD_TRACE", "engine.trace", TEXT, AT(trace), 0, 0, "", RUN|SERVE,
     "write the engine's events and actions as JSON lines (for debugging)"},

    {"device-memory", 'd', "ID:GIB[:SPEED]", NULL, NULL, LIST, AT(devices), 0, 0, "", PLAN,
     "a device, its memory in GiB and its relative speed (repeat)"},

    {"n-prompt", 'p', "N,..", NULL, NULL,
     NUMBERS, AT(prompt_lengths), 0, MLXD_LIMIT_CONTEXT, "512", BENCH,
     "time a prompt of N tokens; 0 = none"},
    {"n-gen", 'n', "N,..", NULL, NULL,
     NUMBERS, AT(gen_lengths), 0, MLXD_LIMIT_CONTEXT, "128", BENCH,
     "time the generation of N tokens; 0 = none"},
    {"batch", 'b', "N,..", NULL, NULL,
     NUMBERS, AT(batches), 1, MLXD_LIMIT_STEP_ROWS, "1", BENCH,
     "let N sequences generate together, one token of each in a step"},
    {"depth", 'd', "N,..", NULL, NULL,
     NUMBERS, AT(depths), 0, MLXD_LIMIT_CONTEXT, "0", BENCH,
     "positions that are in the KV cache before a test begins"},
    {"repetitions", 'r', "N", NULL, NULL, UINT, AT(repetitions), 1, 1000, "5", BENCH,
     "runs of each test"},
    {"no-warmup", 0, NULL, NULL, NULL, FLAG, AT(no_warmup), 0, 0, "", BENCH,
     "no run of each test before those that count"},

    {"messages", 0, "FILE", NULL, NULL, TEXT, AT(messages), 0, 0, "", TEMPLATE,
     "conversation: a JSON array of messages (- = standard input); default: a short sample"},
    {"tools", 0, "FILE", NULL, NULL, TEXT, AT(tools), 0, 0, "", TEMPLATE,
     "tools: a JSON array, as in a request"},
    {"kwargs", 0, "JSON", NULL, NULL, TEXT, AT(kwargs), 0, 0, "", TEMPLATE,
     "further variables of the template: a JSON object"},
    {"no-generation-prompt", 0, NULL, NULL, NULL,
     FLAG, AT(no_generation_prompt), 0, 0, "", TEMPLATE,
     "end behind the last message, not where the answer begins"},
    {"tokens", 0, NULL, NULL, NULL, FLAG, AT(tokens), 0, 0, "", TEMPLATE,
     "print a line for each token: id, whether it is a control token, text"},
    {"source", 0, NULL, NULL, NULL, FLAG, AT(source), 0, 0, "", TEMPLATE,
     "print the template itself (with --tools the one for tools)"},

    {"cluster", 0, "NAME", NULL, NULL, TEXT, AT(cluster), 0, 0, "mlxd", CERTS,
     "name of the cluster in the certificates"},
    {"san", 0, "NAME", NULL, NULL, LIST, AT(hosts), 0, 0, "", CERTS,
     "further host name or IP address of the node (repeat)"},
    {"days", 0, "N", NULL, NULL, UINT, AT(days), 1, 825, "90", CERTS,
     "days the certificate is valid"},
    {"server-pair", 0, NULL, NULL, NULL, FLAG, AT(server_pair), 0, 0, "", CERTS,
     "also write it as server.crt and server.key"},
    {"force", 0, NULL, NULL, NULL, FLAG, AT(force), 0, 0, "", CERTS,
     "replace files that exist"},

    {"address", 0, "HOST:PORT", "MLXD_ADDRESS", NULL,
     TEXT, AT(address), 0, 0, "127.0.0.1:9200", HEALTH,
     "gRPC address to ask (plaintext health port, or the TLS port with --device)"},
    {"device", 0, "ID", NULL, NULL, TEXT, AT(device), 0, 0, "", HEALTH,
     "ask over mutual TLS; the node must be this device"},
    {"service", 0, "NAME", NULL, NULL, TEXT, AT(service), 0, 0, "", HEALTH,
     "service to ask for: \"\", liveness, readiness, tensor_service.TensorService"},

    {"file", 0, "PATTERN", NULL, NULL, LIST, AT(files), 0, 0, "", PULL,
     "fetch the files that fit instead of choosing, such as '*.json' (repeat)"},
    {"connections", 0, "N", "MLXD_CONNECTIONS", NULL,
     UINT, AT(connections), 1, MLXD_LIMIT_HUB_CONNECTIONS, "4", PULL|RUN|SERVE,
     "files that are fetched at a time when a model is pulled"},
    {"yes", 'y', NULL, NULL, NULL, FLAG, AT(yes), 0, 0, "", RM,
     "do not ask"},

    {"json", 0, NULL, NULL, NULL,
     FLAG, AT(json), 0, 0, "", RUN|PLAN|TEMPLATE|CERTS|HEALTH|MLXD_CMD_VERSION|LS|RM|INSPECT,
     "print one JSON object"},
    {"json", 0, NULL, NULL, NULL, FLAG, AT(json), 0, 0, "", PULL,
     "print what happens as JSON lines; the last one says \"done\" and the path"},
    {"json", 0, NULL, NULL, NULL, FLAG, AT(json), 0, 0, "", BENCH,
     "print a JSON list with an object for each test, named as llama-bench names them"},
    {"csv", 0, NULL, NULL, NULL, FLAG, AT(csv), 0, 0, "", BENCH,
     "print comma-separated values, a line for each test"},
    {"config", 0, "FILE", "MLXD_CONFIG", NULL,
     TEXT, AT(config), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|TEMPLATE,
     "configuration file; default: mlxd.yaml in the working directory, when there is one"},
    {"log-level", 0, "LEVEL", "MLXD_LOG_LEVEL", "log.level",
     TEXT, AT(log_level), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|TEMPLATE|PULL|INSPECT,
     "error, warn, info or debug; default: info (serve, worker), warn (others)"},
    {"log-json", 0, NULL, "MLXD_LOG_JSON", "log.json",
     FLAG, AT(log_json), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|TEMPLATE|PULL|INSPECT,
     "log as JSON lines"},
    {"quiet", 'q', NULL, NULL, NULL,
     FLAG, AT(quiet), 0, 0, "", RUN|SERVE|WORKER|PLAN|BENCH|CERTS|PULL|RM,
     "no progress, no summary"},
    {"help", 'h', NULL, NULL, NULL, FLAG, AT(help), 0, 0, "", ALL,
     "show this help"},
};
/* clang-format on */

/* Where a value stands, for error texts. */
struct place {
    mlxd_err err;
    char text[160];
};

struct text {
    struct text *next;
    char s[];
};

static void *at(mlxd_options *o, const struct option *opt) {
    return (char *)o + opt->offset;
}

/* A copy that lives as long as the options. */
static char *keep(mlxd_options *o, const char *s, size_t len) {
    struct text *t = mlxd_mem_new(1, sizeof *t + len + 1);
    if (!t)
        return NULL;
    memcpy(t->s, s, len);
    t->next = o->owned;
    o->owned = t;
    return t->s;
}

const char *mlxd_options_keep(mlxd_options *o, const char *text) {
    return keep(o, text, strlen(text));
}

static mlxd_err bad_value(const struct place *p, const char *value, mlxd_why *why,
                          const char *expected) {
    return mlxd_fail(why, p->err, "%s: expected %s, got \"%.80s\"", p->text, expected, value);
}

static mlxd_err parse_number(const struct option *opt, const char *value, const struct place *p,
                             double *out, mlxd_why *why) {
    char *end, expected[96];
    errno = 0;
    double v = strtod(value, &end);
    bool whole = opt->type == REAL || (floor(v) == v && strcspn(value, ".eExXnN") == strlen(value));
    *out = v;
    if (*value && !*end && !errno && v >= opt->min && v <= opt->max && whole)
        return MLXD_OK;
    snprintf(expected, sizeof expected, "a%s number from %.15g to %.15g",
             opt->type == REAL ? "" : " whole", opt->min, opt->max);
    return bad_value(p, value, why, expected);
}

static mlxd_err store_number(mlxd_options *o, const struct option *opt, const char *value,
                             const struct place *p, mlxd_why *why) {
    double v;
    mlxd_err err = parse_number(opt, value, p, &v, why);
    if (err)
        return err;
    if (opt->type == REAL)
        *(double *)at(o, opt) = v;
    else if (opt->type == INT)
        *(int64_t *)at(o, opt) = (int64_t)v;
    else
        *(uint64_t *)at(o, opt) = (uint64_t)v;
    return MLXD_OK;
}

/* Adds the comma-separated numbers of `value`. */
static mlxd_err store_numbers(mlxd_options *o, const struct option *opt, const char *value,
                              const struct place *p, mlxd_why *why) {
    mlxd_option_numbers *numbers = at(o, opt);
    for (const char *s = value;;) {
        char item[32];
        double v;
        size_t len = strcspn(s, ",");
        if (len >= sizeof item)
            return bad_value(p, value, why, "numbers");
        snprintf(item, sizeof item, "%.*s", (int)len, s);
        mlxd_err err = parse_number(opt, item, p, &v, why);
        if (err)
            return err;
        if (numbers->count == MLXD_OPTION_NUMBERS_MAX)
            return mlxd_fail(why, p->err, "%s: more than %d numbers", p->text,
                             MLXD_OPTION_NUMBERS_MAX);
        numbers->items[numbers->count++] = (uint64_t)v;
        if (s[len] == 0)
            return MLXD_OK;
        s += len + 1;
    }
}

/* Adds the comma-separated items of `value`; a stop text is one item whatever it holds. */
static mlxd_err store_list(mlxd_options *o, const struct option *opt, const char *value,
                           const struct place *p, mlxd_why *why) {
    mlxd_option_list *list = at(o, opt);
    bool split = opt->offset != AT(stop);
    for (const char *s = value;;) {
        size_t len = split ? strcspn(s, ",") : strlen(s);
        if (len == 0)
            return bad_value(p, value, why, "a text that is not empty");
        if (list->count == MLXD_OPTION_LIST_MAX)
            return mlxd_fail(why, p->err, "%s: more than %d values", p->text, MLXD_OPTION_LIST_MAX);
        const char *copy = keep(o, s, len);
        if (!copy)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
        list->items[list->count++] = copy;
        if (s[len] == 0)
            return MLXD_OK;
        s += len + 1;
    }
}

static mlxd_err store(mlxd_options *o, const struct option *opt, const char *value,
                      const struct place *p, mlxd_why *why) {
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    switch (opt->type) {
    case TEXT: {
        const char *copy = keep(o, value, strlen(value));
        if (!copy)
            return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
        *(const char **)at(o, opt) = copy;
        return MLXD_OK;
    }
    case LIST:
        return store_list(o, opt, value, p, why);
    case NUMBERS:
        return store_numbers(o, opt, value, p, why);
    case FLAG:
        for (size_t i = 0; i < MLXD_COUNT_OF(yes); i++)
            if (strcmp(value, yes[i]) == 0 || strcmp(value, no[i]) == 0) {
                *(bool *)at(o, opt) = strcmp(value, yes[i]) == 0;
                return MLXD_OK;
            }
        return bad_value(p, value, why, "true or false");
    default:
        return store_number(o, opt, value, p, why);
    }
}

/* ---- defaults and environment ---- */

/* The command, or the model, has its own default. */
static void set_absent(mlxd_options *o, const struct option *opt) {
    if (opt->type == REAL)
        *(double *)at(o, opt) = NAN;
    else if (opt->type == INT)
        *(int64_t *)at(o, opt) = INT64_MIN;
    else
        *(uint64_t *)at(o, opt) = UINT64_MAX;
}

static mlxd_err read_defaults(mlxd_options *o, mlxd_why *why) {
    const struct place p = {MLXD_ERR_USAGE, "default"};
    for (size_t i = 0; i < MLXD_COUNT_OF(options); i++) {
        const struct option *opt = &options[i];
        if (opt->type == LIST || opt->type == FLAG || !opt->fallback)
            continue; /* empty, false or NULL: not given */
        if (opt->type != TEXT && opt->fallback[0] == 0) {
            set_absent(o, opt);
            continue;
        }
        mlxd_err err = store(o, opt, opt->fallback, &p, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

static void reset(mlxd_options *o, const struct option *opt) {
    if (opt->type == LIST)
        ((mlxd_option_list *)at(o, opt))->count = 0;
    else if (opt->type == NUMBERS)
        ((mlxd_option_numbers *)at(o, opt))->count = 0;
}

static mlxd_err read_environment(mlxd_options *o, unsigned command, mlxd_why *why) {
    for (size_t i = 0; i < MLXD_COUNT_OF(options); i++) {
        const struct option *opt = &options[i];
        const char *value = opt->env && (opt->commands & command) ? getenv(opt->env) : NULL;
        if (!value || !*value)
            continue;
        struct place p = {.err = MLXD_ERR_CONFIG};
        snprintf(p.text, sizeof p.text, "environment %s", opt->env);
        reset(o, opt);
        mlxd_err err = store(o, opt, value, &p, why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

/* ---- file ---- */

/* How many single-letter edits lie between two short words; for "did you mean". */
static size_t distance(const char *a, const char *b) {
    size_t row[64], na = strlen(a), nb = strlen(b);
    if (na > 62 || nb > 62)
        return 64;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t above = row[j], change = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = MLXD_MIN(change, MLXD_MIN(above, row[j - 1]) + 1);
            diagonal = above;
        }
    }
    return row[nb];
}

static mlxd_err unknown_key(const mlxd_yaml *node, const char *key, mlxd_why *why) {
    const char *best = NULL;
    size_t best_distance = 4;
    for (size_t i = 0; i < MLXD_COUNT_OF(options); i++)
        if (options[i].key && distance(options[i].key, key) < best_distance) {
            best = options[i].key;
            best_distance = distance(best, key);
        }
    if (best)
        return mlxd_yaml_fail(node, why, "unknown key \"%s\", did you mean \"%s\"?", key, best);
    return mlxd_yaml_fail(node, why, "unknown key \"%s\"", key);
}

static mlxd_err store_node(mlxd_options *o, const struct option *opt, const mlxd_yaml *v,
                           mlxd_why *why) {
    struct place p = {.err = MLXD_ERR_CONFIG};
    mlxd_err err = MLXD_OK;
    mlxd_why place;
    (void)mlxd_yaml_fail(v, &place, "%s", opt->key);
    snprintf(p.text, sizeof p.text, "%.150s", place.text);
    reset(o, opt);
    if (mlxd_yaml_get_kind(v) == MLXD_YAML_SCALAR)
        return store(o, opt, mlxd_yaml_get_text(v), &p, why);
    bool many = opt->type == LIST || opt->type == NUMBERS;
    if (mlxd_yaml_get_kind(v) != MLXD_YAML_SEQUENCE || !many)
        return mlxd_yaml_fail(v, why, "%s: expected a %s", opt->key,
                              many ? "list" : "single value");
    if (opt->type == NUMBERS && mlxd_yaml_count(v) == 0)
        return mlxd_yaml_fail(v, why, "%s: expected at least one number", opt->key);
    for (size_t i = 0; i < mlxd_yaml_count(v) && !err; i++) {
        const mlxd_yaml *item = mlxd_yaml_at(v, i);
        err = mlxd_yaml_get_kind(item) == MLXD_YAML_SCALAR
                  ? store(o, opt, mlxd_yaml_get_text(item), &p, why)
                  : mlxd_yaml_fail(item, why, "%s: expected texts", opt->key);
    }
    return err;
}

static mlxd_err read_section(mlxd_options *o, unsigned command, const char *section,
                             const mlxd_yaml *node, mlxd_why *why) {
    if (mlxd_yaml_get_kind(node) != MLXD_YAML_MAPPING)
        return mlxd_yaml_fail(node, why, "\"%s\": expected a mapping", section);
    for (size_t i = 0; i < mlxd_yaml_count(node); i++) {
        char key[160];
        const struct option *found = NULL;
        const mlxd_yaml *name = mlxd_yaml_key_at(node, i);
        snprintf(key, sizeof key, "%.60s.%.90s", section, mlxd_yaml_get_text(name));
        for (size_t j = 0; j < MLXD_COUNT_OF(options); j++)
            if (options[j].key && strcmp(options[j].key, key) == 0 &&
                (!found || (options[j].commands & command)))
                found = &options[j];
        if (!found)
            return unknown_key(name, key, why);
        /* One file may serve both commands: what belongs to the other one is only checked. */
        mlxd_err err = MLXD_OK;
        if (found->commands & command)
            err = store_node(o, found, mlxd_yaml_at(node, i), why);
        if (err)
            return err;
    }
    return MLXD_OK;
}

static mlxd_err read_whole_file(const char *path, mlxd_buf *out, bool required, mlxd_why *why) {
    FILE *f = fopen(path, "re");
    if (!f && errno == ENOENT && !required)
        return MLXD_ERR_NOTFOUND;
    if (!f)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s: cannot read the configuration file: %s", path,
                         errno == ENOENT ? "no such file" : "not readable");
    uint8_t chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        mlxd_buf_add(out, chunk, n);
    bool failed = ferror(f) || out->failed;
    fclose(f);
    return failed ? mlxd_fail(why, MLXD_ERR_CONFIG, "%s: not readable or larger than %u bytes",
                              path, MLXD_LIMIT_CONFIG_BYTES)
                  : MLXD_OK;
}

static mlxd_err read_file(mlxd_options *o, unsigned command, mlxd_why *why) {
    const char *path = o->config[0] ? o->config : "mlxd.yaml";
    mlxd_buf text;
    mlxd_yaml_doc *doc = NULL;
    mlxd_buf_init(&text, MLXD_LIMIT_CONFIG_BYTES);
    mlxd_err err = read_whole_file(path, &text, o->config[0] != 0, why);
    if (!err)
        err = mlxd_yaml_parse(&doc, (mlxd_slice){text.data, text.len}, path, why);
    const mlxd_yaml *root = doc ? mlxd_yaml_root(doc) : NULL;
    for (size_t i = 0; root && i < mlxd_yaml_count(root) && !err; i++)
        err = read_section(o, command, mlxd_yaml_get_text(mlxd_yaml_key_at(root, i)),
                           mlxd_yaml_at(root, i), why);
    mlxd_yaml_close(doc);
    mlxd_buf_deinit(&text);
    return err == MLXD_ERR_NOTFOUND ? MLXD_OK : err;
}

/* ---- flags ---- */

static const struct option *find_flag(unsigned command, const char *name, size_t len, char letter) {
    for (size_t i = 0; i < MLXD_COUNT_OF(options); i++) {
        const struct option *opt = &options[i];
        if (!(opt->commands & command))
            continue;
        if (letter ? opt->letter == letter
                   : strlen(opt->name) == len && memcmp(opt->name, name, len) == 0)
            return opt;
    }
    return NULL;
}

/* One argument that begins with '-'; *i moves over its value. `only`: store just this option. */
static mlxd_err read_flag(mlxd_options *o, unsigned command, int argc, char **argv, int *i,
                          const struct option *only, bool *seen, mlxd_why *why) {
    const char *arg = argv[*i], *value = NULL;
    bool is_long = arg[1] == '-';
    size_t len = is_long ? strcspn(arg + 2, "=") : 1;
    const struct option *opt = find_flag(command, arg + 2, len, is_long ? 0 : arg[1]);
    if (!opt)
        return mlxd_fail(why, MLXD_ERR_USAGE, "unknown option %.80s", arg);
    if (is_long && arg[2 + len] == '=')
        value = arg + 2 + len + 1;
    else if (!is_long && arg[2])
        value = arg + 2;
    if (opt->type == FLAG && !value) {
        value = "true"; /* --flag=false undoes what file or environment say */
    } else if (!value) {
        if (*i + 1 >= argc)
            return mlxd_fail(why, MLXD_ERR_USAGE, "option %.80s needs a value: %s", arg, opt->arg);
        value = argv[++*i];
    }
    if (only && opt != only)
        return MLXD_OK;
    struct place p = {.err = MLXD_ERR_USAGE};
    snprintf(p.text, sizeof p.text, "--%s", opt->name);
    bool *once = &seen[opt - options];
    if (*once && opt->type != LIST && opt->type != NUMBERS)
        return mlxd_fail(why, MLXD_ERR_USAGE, "option --%s is given twice", opt->name);
    if (!*once)
        reset(o, opt);
    *once = true;
    return store(o, opt, value, &p, why);
}

/* `mlxd run MODEL` is `mlxd run -m MODEL`: without the flag the first word is the model. */
static mlxd_err take_model(mlxd_options *o, unsigned command, const bool *seen, mlxd_why *why) {
    const struct place p = {MLXD_ERR_USAGE, "model"};
    const struct option *model = find_flag(command, "model", 5, 0);
    if (!(command & MLXD_CMD_MODEL) || seen[model - options] || o->n_args == 0)
        return MLXD_OK;
    const char *word = o->args[0];
    o->n_args--;
    memmove(o->args, o->args + 1, o->n_args * sizeof *o->args);
    return store(o, model, word, &p, why);
}

static mlxd_err read_flags(mlxd_options *o, unsigned command, int argc, char **argv,
                           const struct option *only, mlxd_why *why) {
    bool seen[MLXD_COUNT_OF(options)] = {false};
    bool plain = false; /* after "--" */
    o->n_args = 0;
    for (int i = 2; i < argc; i++) {
        if (!plain && strcmp(argv[i], "--") == 0) {
            plain = true;
            continue;
        }
        if (plain || argv[i][0] != '-' || argv[i][1] == 0) {
            if (o->n_args == MLXD_COUNT_OF(o->args))
                return mlxd_fail(why, MLXD_ERR_USAGE, "too many arguments");
            o->args[o->n_args++] = argv[i];
            continue;
        }
        mlxd_err err = read_flag(o, command, argc, argv, &i, only, seen, why);
        if (err)
            return err;
    }
    return only ? MLXD_OK : take_model(o, command, seen, why);
}

mlxd_err mlxd_options_read(mlxd_options *o, unsigned command, int argc, char **argv,
                           mlxd_why *why) {
    *o = (mlxd_options){.model_name = ""};
    mlxd_err err = read_defaults(o, why);
    /* The file's name may come from a flag or the environment, so these two are looked at first. */
    const struct option *config = find_flag(command, "config", 6, 0);
    const struct option *help = find_flag(command, "help", 4, 0);
    if (!err)
        err = read_flags(o, command, argc, argv, help, why);
    if (err || o->help)
        return err;
    if (config) {
        const char *env = getenv(config->env);
        const struct place p = {MLXD_ERR_CONFIG, "environment MLXD_CONFIG"};
        if (env && *env)
            err = store(o, config, env, &p, why);
        if (!err)
            err = read_flags(o, command, argc, argv, config, why);
        if (!err)
            err = read_file(o, command, why);
    }
    if (!err)
        err = read_environment(o, command, why);
    if (!err)
        err = read_flags(o, command, argc, argv, NULL, why);
    return err;
}

void mlxd_options_deinit(mlxd_options *o) {
    for (struct text *t = o->owned, *next; t; t = next) {
        next = t->next;
        mlxd_mem_free(t);
    }
    o->owned = NULL;
}

/* Prints `text` from column `at` on, in lines of at most 99 columns. */
static void print_wrapped(const char *text, int at) {
    const int width = 99;
    while (*text) {
        size_t room = (size_t)(width - at), n = strlen(text);
        if (n > room)
            for (n = room; n > 0 && text[n] != ' ';)
                n--;
        n = n ? n : room; /* a word that is wider than the line */
        printf("%.*s\n", (int)n, text);
        text += n + (text[n] == ' ');
        if (*text)
            printf("%*s", at, "");
    }
}

void mlxd_options_help(unsigned command) {
    const int column = 33;
    printf("\nOptions:\n");
    for (size_t i = 0; i < MLXD_COUNT_OF(options); i++) {
        const struct option *opt = &options[i];
        char left[64], text[512];
        if (!(opt->commands & command))
            continue;
        char letter[5] = "    ";
        if (opt->letter)
            snprintf(letter, sizeof letter, "-%c, ", opt->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, opt->name, opt->arg ? " " : "",
                 opt->arg ? opt->arg : "");
        bool shows = opt->fallback && opt->fallback[0] && opt->type != FLAG && opt->type != LIST;
        snprintf(text, sizeof text, "%s%s%s%s%s%s%s", opt->help, shows ? " [" : "",
                 shows ? opt->fallback : "", shows ? "]" : "", opt->env ? " (" : "",
                 opt->env ? opt->env : "", opt->env ? ")" : "");
        int n = printf("  %-30s ", left);
        if (n > column)
            n = printf("\n%*s", column, "") - 1;
        print_wrapped(text, n);
    }
}
