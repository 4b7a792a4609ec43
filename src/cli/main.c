/* main.c - the mlxd binary: a table of subcommands. */
#include "cli/cli.h"

#include "base/log.h"
#include "base/os.h"
#include "cli/models.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const mlxd_command commands[] = {
    {"run", MLXD_CMD_RUN, "a conversation, or one prompt, in this process",
     "mlxd run MODEL [-p TEXT] [options]\n\n"
     "Answers one prompt (-p, or standard input) on standard output, and ends. Without a prompt,\n"
     "on a terminal, it is a conversation, in which /help lists the commands. Nothing is sent\n"
     "over a network. With --json one object with text, token ids, timings and the digest of the\n"
     "logits.\n",
     mlxd_cmd_run},
    {"serve", MLXD_CMD_SERVE, "coordinator: the OpenAI API over this machine and its workers",
     "mlxd serve -m FILE [--worker ID=HOST:PORT]... [options]\n\n"
     "Serves the OpenAI API. The model's layers are split over this process and the workers\n"
     "named. Links to workers are mutual TLS (see `mlxd certs`). SIGTERM drains and ends it.\n",
     mlxd_cmd_serve},
    {"worker", MLXD_CMD_WORKER, "computes the layers that a coordinator assigns to it",
     "mlxd worker -m FILE [options]\n\n"
     "Waits for its coordinator, loads the layers it is given from its own copy of the model\n"
     "file, and computes. Its REST port answers health, metrics and stats only.\n",
     mlxd_cmd_worker},
    {"plan", MLXD_CMD_PLAN, "show how layers would be split over devices, and what that predicts",
     "mlxd plan -m FILE [-d ID:GIB[:SPEED]]... [--layers ID:A-B,...] [options]\n\n"
     "Shows which device would compute which layers, what that leaves of its memory, and predicts\n"
     "tokens per second for the first 1 to n devices, so that one sees whether another one pays.\n"
     "The first device is the coordinator. Without devices: this machine alone. SPEED is relative\n"
     "to this machine, which is measured (default 1).\n",
     mlxd_cmd_plan},
    {"bench", MLXD_CMD_BENCH, "measure prompts and generation, and what limits them",
     "mlxd bench -m FILE [-p N,...] [-n N,...] [-b N,...] [-d N,...] [-t N,...] [options]\n\n"
     "Times the model alone, without tokenizer, sampler and network, as llama-bench does: a "
     "prompt\n"
     "of N tokens (pp512), the generation of N tokens (tg128), also behind a depth of positions "
     "in\n"
     "the KV cache (tg128 @ d4096) and for a batch of sequences (tg128 b8). Every combination is "
     "a\n"
     "test. Beside each speed stand the machine's limits, measured before and after it: what the\n"
     "threads read from memory, which bounds generation, and the operations on bytes they do,\n"
     "which bounds prompts.\n",
     mlxd_cmd_bench},
    {"pull", MLXD_CMD_PULL, "fetch a model from the hub",
     "mlxd pull NAME [options]\n\n"
     "Fetches org/name (safetensors, or from a GGUF repository one quantization),\n"
     "org/name:Q4_K_M, org/name/file.gguf, each with @REVISION if wanted, or a pasted address,\n"
     "into the cache that it shares with Hugging Face's programs, and prints the path. What is\n"
     "there is not fetched again; what was interrupted goes on where it ended. Every file is\n"
     "checked against its digest. HF_TOKEN for gated models, HF_HUB_CACHE for another place.\n",
     mlxd_cmd_pull},
    {"ls", MLXD_CMD_LS, "list the models in the cache",
     "mlxd ls [--json]\n\n"
     "Models by the name that -m takes, with revision, format, size and when they were used last;\n"
     "also those that other programs have put there, and what is unfinished.\n",
     mlxd_cmd_ls},
    {"rm", MLXD_CMD_RM, "remove a model from the cache",
     "mlxd rm NAME [--yes]\n\n"
     "org/name removes all of it, org/name@REVISION one revision, org/name:Q4_K_M one model.\n"
     "Files that another revision uses stay. Asks first, unless --yes.\n",
     mlxd_cmd_rm},
    {"inspect", MLXD_CMD_INSPECT, "show what a model is, and what of it fits here",
     "mlxd inspect MODEL [--json]\n\n"
     "Family, quantization, sizes, context, tokenizer and template of a path or a name in the\n"
     "cache; whether this build runs it, and which context fits into the memory that is free.\n",
     mlxd_cmd_inspect},
    {"template", MLXD_CMD_TEMPLATE, "show what a model's chat template makes of a conversation",
     "mlxd template MODEL [--messages FILE] [--tools FILE] [--kwargs JSON] [options]\n\n"
     "Renders a conversation with the chat template of the model, without loading its weights, "
     "and\n"
     "prints the text; on a terminal control tokens stand out. With --tokens a line for each\n"
     "token, with --source the template itself.\n",
     mlxd_cmd_template},
    {"certs", MLXD_CMD_CERTS, "make the cluster's CA and node certificates",
     "mlxd certs init [--certs DIR] [--cluster NAME]\n"
     "       mlxd certs node --device ID --role ROLE [--san NAME]... [--certs DIR]\n"
     "       mlxd certs show [--certs DIR]\n\n"
     "init makes the CA, once; node makes a certificate for one device (role coordinator, worker\n"
     "or operator); show lists what is there, whether it may be used and until when. Give a node\n"
     "ca.crt and its own two files; keep ca.key where it was made.\n",
     mlxd_cmd_certs},
    {"healthcheck", MLXD_CMD_HEALTHCHECK, "ask a node's grpc.health.v1 (for container probes)",
     "mlxd healthcheck [--address HOST:PORT] [--service NAME] [--device ID]\n\n"
     "Exit code 0: serving. 69: not serving or not reachable within 5 s.\n",
     mlxd_cmd_healthcheck},
    {"version", MLXD_CMD_VERSION, "print version and build", "mlxd version [--json]\n",
     mlxd_cmd_version},
};

static void print_overview(FILE *out) {
    fprintf(out, "mlxd serves one large language model from a few everyday machines.\n\n"
                 "Usage: mlxd COMMAND [options]\n\nCommands:\n");
    for (size_t i = 0; i < MLXD_COUNT_OF(commands); i++)
        fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].summary);
    fprintf(out,
            "\n`mlxd COMMAND --help` explains one. Settings come from flags, then the "
            "environment,\nthen mlxd.yaml, then defaults.\n"
            "Exit codes: 0 ok, 64 usage, 65 bad data, 66 missing, 69 unavailable, 71 no memory,"
            "\n73 exists, 74 I/O, 75 try later, 76 protocol, 77 permission, 78 configuration,\n"
            "130 interrupted.\n");
}

int mlxd_cli_fail(mlxd_err err, const mlxd_why *why) {
    fprintf(stderr, "mlxd: %s\n", why->text[0] ? why->text : mlxd_err_name(err));
    return mlxd_err_get(err)->exit_code;
}

mlxd_err mlxd_cli_log(const mlxd_options *o, const char *fallback, mlxd_why *why) {
    mlxd_log_level level;
    const char *name = o->log_level[0] ? o->log_level : fallback;
    if (!mlxd_log_parse_level(name, &level))
        return mlxd_fail(why, MLXD_ERR_CONFIG,
                         "log level \"%.20s\": expected error, warn, info or debug", name);
    mlxd_log_init(level, o->log_json);
    return MLXD_OK;
}

mlxd_err mlxd_cli_print(const void *data, size_t len, mlxd_why *why) {
    if (fwrite(data, 1, len, stdout) != len || fflush(stdout) != 0)
        return mlxd_fail(why, MLXD_ERR_IO, "standard output: write failed: %s",
                         errno == EPIPE ? "nobody reads it" : "no room or closed");
    return MLXD_OK;
}

/* Descriptors 0 to 2 must be open, or a file opened later would get their numbers. All of them for
 * reading: what is written to a closed standard output must not count as delivered. */
static void open_standard_files(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd)
            _exit(71);
}

/* A model that is named is made a path first. */
static int run(const mlxd_command *c, mlxd_options *o) {
    mlxd_why why = {0};
    mlxd_err err = c->bit & MLXD_CMD_MODEL ? mlxd_cli_locate(o, c->bit, &why) : MLXD_OK;
    if (!err)
        return c->run(o);
    int code = mlxd_cli_fail(err, &why);
    return err == MLXD_ERR_CANCELLED ? 130 : code;
}

int main(int argc, char **argv) {
    open_standard_files();
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_overview(stderr);
        return mlxd_err_get(MLXD_ERR_USAGE)->exit_code;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        name = "version";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_overview(stdout);
        return 0;
    }
    for (size_t i = 0; i < MLXD_COUNT_OF(commands); i++) {
        const mlxd_command *c = &commands[i];
        mlxd_options o;
        mlxd_why why = {0};
        if (strcmp(name, c->name) != 0)
            continue;
        mlxd_err err = mlxd_options_read(&o, c->bit, argc, argv, &why);
        int code = 0;
        if (err) {
            code = mlxd_cli_fail(err, &why);
            if (err == MLXD_ERR_USAGE)
                fprintf(stderr, "Try: mlxd %s --help\n", c->name);
        } else if (o.help) {
            printf("Usage: %s", c->usage);
            mlxd_options_help(c->bit);
            code = mlxd_cli_print("", 0, &why) ? mlxd_cli_fail(MLXD_ERR_IO, &why) : 0;
        } else {
            code = run(c, &o);
        }
        mlxd_options_deinit(&o);
        return code;
    }
    fprintf(stderr, "mlxd: unknown command \"%.40s\"\n\n", name);
    print_overview(stderr);
    return mlxd_err_get(MLXD_ERR_USAGE)->exit_code;
}
