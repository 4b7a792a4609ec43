/* cmd_inspect.c - `mlxd inspect`: what a model is, whether this build can run it, and what of it
 * fits on this machine now. Reads metadata only. */
#include "cli/cli.h"

#include "base/os.h"
#include "cli/summary.h"
#include "cli/pull_view.h"
#include "format/json.h"
#include "model/directory.h"
#include "model/kv.h"
#include "model/vocab.h"
#include "serve/host.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct inspect {
    const mlxd_options *o;
    mlxd_checkpoint *checkpoint;
    mlxd_summary facts;
    mlxd_directory *directory; /* NULL: a file */
    bool runs, chats;
    mlxd_why why_not, no_chat;
    uint64_t weights; /* bytes in memory; without `runs`, in the files */
    uint64_t available;
    uint64_t fits; /* positions of one session; 0: not even the weights */
};

/* The numbers that would be computed with: files leave out what their family takes for granted, and
 * name windows that they do not use. */
static void take_config(mlxd_summary *f, const mlxd_config *c) {
    f->layers = c->layers;
    f->hidden = c->hidden;
    f->heads = c->heads;
    f->kv_heads = c->kv_heads;
    f->head_dim = c->head_dim;
    f->context = c->context;
    f->window = c->window;
    f->experts = c->experts;
    f->experts_used = c->experts_used;
    f->kv_bytes_per_token = mlxd_kv_page_bytes(c, c->layers) / MLXD_PAGE;
}

/* What loading would say, without loading. */
static void judge(struct inspect *x) {
    mlxd_host host;
    uint64_t head = 0, layers = 0;
    uint32_t context = 0, pages = 0;
    mlxd_host_params p = {.path = x->o->model, .threads = 1, .cpu = x->o->cpu, .text = true};
    x->weights = x->facts.bytes;
    x->available = mlxd_os_memory_available();
    mlxd_err err = mlxd_host_open(&host, &p, &x->why_not);
    if (!err) {
        take_config(&x->facts, &host.config);
        mlxd_summary_name_tokens(&x->facts, host.tokenizer);
        err = mlxd_layers_size(host.checkpoint, &host.config, 0, host.config.layers, &layers,
                               &x->why_not);
        if (!err)
            err = mlxd_vocab_size(host.checkpoint, &host.config, &head, &x->why_not);
        x->runs = err == MLXD_OK;
        x->chats = host.chat != NULL;
        x->no_chat = host.chat_why;
        if (x->runs)
            x->weights = layers + head;
        if (x->runs && mlxd_host_context(&host, 0, 1, host.config.layers, x->weights, &context,
                                         &pages, NULL) == MLXD_OK)
            x->fits = context;
        mlxd_host_close(&host);
    }
    uint64_t kv = x->facts.kv_bytes_per_token;
    if (!x->runs && kv > 0 && x->available > x->weights)
        x->fits = MLXD_MIN((x->available - x->weights) / 10 * 9 / kv, x->facts.context);
}

static uint64_t file_bytes(const char *folder, const char *name) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &st) == 0 && S_ISREG(st.st_mode)
               ? (uint64_t)st.st_size
               : 0;
}

static const char *format_of(const struct inspect *x) {
    return mlxd_checkpoint_gguf(x->checkpoint) ? "gguf" : "safetensors";
}

/* ---- JSON ---- */

static void json_types(mlxd_jsonw *w, const mlxd_summary *f) {
    mlxd_jsonw_key(w, "types");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < f->n_types; i++) {
        mlxd_jsonw_object_begin(w);
        mlxd_jsonw_member_str(w, "type", f->types[i].label);
        mlxd_jsonw_member_uint(w, "tensors", f->types[i].tensors);
        mlxd_jsonw_member_uint(w, "parameters", f->types[i].elements);
        mlxd_jsonw_member_uint(w, "bytes", f->types[i].bytes);
        mlxd_jsonw_object_end(w);
    }
    mlxd_jsonw_array_end(w);
}

static void json_tokens(mlxd_jsonw *w, const mlxd_summary *f) {
    mlxd_jsonw_key(w, "special_tokens");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < f->n_special; i++) {
        mlxd_jsonw_object_begin(w);
        mlxd_jsonw_member_str(w, "role", f->special[i].role);
        mlxd_jsonw_key(w, "id");
        if (f->special[i].id >= 0)
            mlxd_jsonw_int(w, f->special[i].id);
        else
            mlxd_jsonw_null(w);
        mlxd_jsonw_member_str(w, "text", f->special[i].text[0] ? f->special[i].text : NULL);
        mlxd_jsonw_object_end(w);
    }
    mlxd_jsonw_array_end(w);
}

static void json_template(mlxd_jsonw *w, const struct inspect *x) {
    mlxd_jsonw_key(w, "chat_template");
    if (!x->facts.has_template) {
        mlxd_jsonw_null(w);
        return;
    }
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_uint(w, "bytes", x->facts.template_bytes);
    mlxd_jsonw_member_bool(w, "tools", x->facts.template_tools);
    mlxd_jsonw_member_bool(w, "thinking", x->facts.template_thinking);
    mlxd_jsonw_key(w, "supported");
    if (x->runs)
        mlxd_jsonw_bool(w, x->chats);
    else
        mlxd_jsonw_null(w);
    mlxd_jsonw_object_end(w);
}

static void json_files(mlxd_jsonw *w, const struct inspect *x) {
    mlxd_jsonw_key(w, "files");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; x->directory && i < mlxd_directory_count(x->directory); i++) {
        const char *name = mlxd_directory_at(x->directory, i);
        mlxd_jsonw_object_begin(w);
        mlxd_jsonw_member_str(w, "name", name);
        mlxd_jsonw_member_uint(w, "bytes", file_bytes(x->o->model, name));
        mlxd_jsonw_object_end(w);
    }
    mlxd_jsonw_array_end(w);
}

static void json_layers(mlxd_jsonw *w, const mlxd_summary *f) {
    mlxd_jsonw_key(w, "layer_bytes");
    mlxd_jsonw_array_begin(w);
    for (uint64_t i = 0; i < MLXD_MIN(f->layers, (uint64_t)MLXD_LIMIT_LAYERS); i++)
        mlxd_jsonw_uint(w, f->layer_bytes[i]);
    mlxd_jsonw_array_end(w);
    mlxd_jsonw_member_uint(w, "embedding_bytes", f->embedding_bytes);
    mlxd_jsonw_member_uint(w, "head_bytes", f->head_bytes);
    mlxd_jsonw_member_uint(w, "other_bytes", f->other_bytes);
}

static void write_json(mlxd_buf *out, const struct inspect *x) {
    const mlxd_summary *f = &x->facts;
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "path", x->o->model);
    mlxd_jsonw_member_str(&w, "name", f->name[0] ? f->name : NULL);
    mlxd_jsonw_member_str(&w, "format", format_of(x));
    mlxd_jsonw_member_str(&w, "architecture", f->architecture);
    mlxd_jsonw_member_bool(&w, "runs", x->runs);
    mlxd_jsonw_member_str(&w, "why_not", x->runs ? NULL : x->why_not.text);
    mlxd_jsonw_member_uint(&w, "parameters", f->parameters);
    mlxd_jsonw_member_uint(&w, "bytes", mlxd_checkpoint_bytes(x->checkpoint));
    mlxd_jsonw_member_uint(&w, "tensors", f->tensors);
    json_types(&w, f);
    mlxd_jsonw_member_uint(&w, "layers", f->layers);
    json_layers(&w, f);
    mlxd_jsonw_member_uint(&w, "hidden", f->hidden);
    mlxd_jsonw_member_uint(&w, "heads", f->heads);
    mlxd_jsonw_member_uint(&w, "kv_heads", f->kv_heads);
    mlxd_jsonw_member_uint(&w, "head_dim", f->head_dim);
    mlxd_jsonw_member_uint(&w, "window", f->window);
    mlxd_jsonw_member_uint(&w, "experts", f->experts);
    mlxd_jsonw_member_uint(&w, "experts_used", f->experts_used);
    mlxd_jsonw_member_uint(&w, "context", f->context);
    mlxd_jsonw_member_uint(&w, "kv_bytes_per_token", f->kv_bytes_per_token);
    mlxd_jsonw_member_uint(&w, "vocabulary", f->vocab);
    mlxd_jsonw_member_str(&w, "tokenizer", f->tokenizer[0] ? f->tokenizer : NULL);
    json_tokens(&w, f);
    json_template(&w, x);
    mlxd_jsonw_member_uint(&w, "memory_weights", x->weights);
    mlxd_jsonw_member_uint(&w, "memory_available", x->available);
    mlxd_jsonw_member_uint(&w, "context_that_fits", x->fits);
    json_files(&w, x);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

/* ---- text ---- */

/* "134.5 M" */
static void format_count(uint64_t n, char out[16]) {
    static const char *const units[] = {"", " K", " M", " B", " T"};
    double v = (double)n;
    size_t u = 0;
    for (; v >= 999.95 && u + 1 < MLXD_COUNT_OF(units); u++)
        v /= 1000;
    snprintf(out, 16, u == 0 ? "%.0f%s" : "%.1f%s", v, units[u]);
}

static void text_layers(mlxd_buf *out, const mlxd_summary *f) {
    uint64_t low = UINT64_MAX, high = 0;
    char a[16], b[16], c[16], d[16], e[16];
    for (uint64_t i = 0; i < MLXD_MIN(f->layers, (uint64_t)MLXD_LIMIT_LAYERS); i++) {
        low = MLXD_MIN(low, f->layer_bytes[i]);
        high = MLXD_MAX(high, f->layer_bytes[i]);
    }
    mlxd_cli_bytes(f->layers ? low : 0, a);
    mlxd_cli_bytes(high, b);
    mlxd_cli_bytes(f->embedding_bytes, c);
    mlxd_cli_bytes(f->head_bytes, d);
    mlxd_cli_bytes(f->other_bytes, e);
    bool same = strcmp(a, b) == 0;
    mlxd_buf_addf(out, "layers      %llu of %s%s%s; embeddings %s, head %s, others %s\n",
                  (unsigned long long)f->layers, a, same ? "" : " to ", same ? "" : b, c,
                  f->head_bytes ? d : "the same", e);
    mlxd_buf_addf(out, "attention   %llu heads, %llu of keys and values, of %llu; width %llu",
                  (unsigned long long)f->heads, (unsigned long long)f->kv_heads,
                  (unsigned long long)f->head_dim, (unsigned long long)f->hidden);
    if (f->window > 0)
        mlxd_buf_addf(out, "; window %llu", (unsigned long long)f->window);
    mlxd_buf_add_byte(out, '\n');
    if (f->experts > 0)
        mlxd_buf_addf(out, "experts     %llu, of which %llu are used for a token\n",
                      (unsigned long long)f->experts, (unsigned long long)f->experts_used);
}

static void text_tokens(mlxd_buf *out, const struct inspect *x) {
    const mlxd_summary *f = &x->facts;
    mlxd_buf_addf(out, "tokenizer   %s, %llu tokens;", f->tokenizer[0] ? f->tokenizer : "unknown",
                  (unsigned long long)f->vocab);
    for (size_t i = 0; i < f->n_special; i++) {
        mlxd_buf_addf(out, "%s %s", i ? "," : "", f->special[i].role);
        if (f->special[i].text[0])
            mlxd_buf_addf(out, " %s", f->special[i].text);
        if (f->special[i].id >= 0)
            mlxd_buf_addf(out, " (%lld)", (long long)f->special[i].id);
    }
    if (!f->has_template)
        mlxd_buf_add_str(out, "\ntemplate    none: raw prompts only\n");
    else
        mlxd_buf_addf(out, "\ntemplate    %llu bytes%s%s%s%s\n",
                      (unsigned long long)f->template_bytes, f->template_tools ? ", tools" : "",
                      f->template_thinking ? ", thinking" : "",
                      x->runs && !x->chats ? "; not usable: " : "",
                      x->runs && !x->chats ? x->no_chat.text : "");
}

static void text_memory(mlxd_buf *out, const struct inspect *x) {
    const mlxd_summary *f = &x->facts;
    char kv[16], all[16], weights[16], available[16];
    uint64_t whole = 0;
    if (!mlxd_mul_u64(f->kv_bytes_per_token, f->context, &whole))
        whole = 0;
    mlxd_cli_bytes(f->kv_bytes_per_token, kv);
    mlxd_cli_bytes(whole, all);
    mlxd_cli_bytes(x->weights, weights);
    mlxd_cli_bytes(x->available, available);
    mlxd_buf_addf(out, "context     %llu tokens; KV cache %s a token, %s for all of it\n",
                  (unsigned long long)f->context, kv, all);
    mlxd_buf_addf(out, "memory      %s available; weights take %s; ", available, weights);
    if (x->fits > 0)
        mlxd_buf_addf(out, "a context of %llu tokens fits beside them\n",
                      (unsigned long long)x->fits);
    else if (x->weights >= x->available || x->runs)
        mlxd_buf_add_str(out, "it does not fit on this machine alone\n");
    else
        mlxd_buf_add_str(out, "what context fits beside them is not known\n");
}

static void write_text(mlxd_buf *out, const struct inspect *x) {
    const mlxd_summary *f = &x->facts;
    char count[16], bytes[16];
    format_count(f->parameters, count);
    mlxd_cli_bytes(mlxd_checkpoint_bytes(x->checkpoint), bytes);
    mlxd_buf_addf(out, "model       %s (%s, %s)\n", f->name[0] ? f->name : f->architecture,
                  f->architecture, format_of(x));
    mlxd_buf_addf(out, "runs        %s%s\n",
                  x->runs ? "yes" : "no: ", x->runs ? "" : x->why_not.text);
    mlxd_buf_addf(out, "size        %s; %s parameters in %llu tensors, %.2f bits each\n", bytes,
                  count, (unsigned long long)f->tensors,
                  f->parameters ? (double)f->bytes * 8 / (double)f->parameters : 0);
    for (size_t i = 0; i < f->n_types; i++) {
        format_count(f->types[i].elements, count);
        mlxd_cli_bytes(f->types[i].bytes, bytes);
        mlxd_buf_addf(out, "%s%-32s %5llu tensors %8s parameters %10s\n",
                      i ? "            " : "types       ", f->types[i].label,
                      (unsigned long long)f->types[i].tensors, count, bytes);
    }
    text_layers(out, f);
    text_memory(out, x);
    text_tokens(out, x);
    mlxd_buf_addf(out, "path        %s\n", x->o->model);
    for (size_t i = 0; x->directory && i < mlxd_directory_count(x->directory); i++) {
        const char *name = mlxd_directory_at(x->directory, i);
        mlxd_cli_bytes(file_bytes(x->o->model, name), bytes);
        mlxd_buf_addf(out, "            %10s  %s\n", bytes, name);
    }
}

static mlxd_err open_model(struct inspect *x, mlxd_why *why) {
    struct stat st;
    mlxd_err err = mlxd_checkpoint_open(&x->checkpoint, x->o->model, why);
    if (!err && stat(x->o->model, &st) == 0 && S_ISDIR(st.st_mode))
        err = mlxd_directory_open(&x->directory, x->o->model, why);
    if (!err)
        err = mlxd_summary_read(&x->facts, x->checkpoint, why);
    return err;
}

int mlxd_cmd_inspect(const mlxd_options *o) {
    static struct inspect x; /* too large for every stack */
    mlxd_why why = {0};
    mlxd_buf out;
    x = (struct inspect){.o = o};
    mlxd_buf_init(&out, 0);
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err && !o->model[0])
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "no model: give a path or a name");
    if (!err)
        err = open_model(&x, &why);
    if (!err) {
        judge(&x);
        if (o->json)
            write_json(&out, &x);
        else
            write_text(&out, &x);
        err = out.failed ? mlxd_fail(&why, MLXD_ERR_NOMEM, "out of memory")
                         : mlxd_cli_print(out.data, out.len, &why);
    }
    mlxd_buf_deinit(&out);
    mlxd_directory_close(x.directory);
    mlxd_checkpoint_close(x.checkpoint);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
