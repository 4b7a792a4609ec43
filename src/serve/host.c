/* host.c - see host.h. */
#include "serve/host.h"

#include "base/os.h"
#include "model/speed.h"

#include <string.h>

/* The head is loaded on the driver thread, whose pool does the packing. */
struct load_head {
    mlxd_host *host;
    const mlxd_progress *progress;
    mlxd_err err;
    mlxd_why *why;
};

static void load_head_job(mlxd_pool *pool, void *a, void *b) {
    struct load_head *l = a;
    mlxd_host *h = l->host;
    mlxd_vocab *vocab;
    (void)b;
    l->err =
        mlxd_vocab_open(&vocab, h->checkpoint, &h->config, h->kernels, pool, l->progress, l->why);
    if (l->err)
        return;
    l->err = mlxd_head_open(&h->head, h->driver, vocab, &h->config, l->why);
    if (l->err)
        mlxd_vocab_close(vocab);
}

/* Reads one of the model's documents, if it is there; errors name it. */
static mlxd_err read_document(mlxd_host *h, const char *name,
                              mlxd_err (*read)(mlxd_generation_config *, mlxd_slice, mlxd_why *),
                              mlxd_why *why) {
    mlxd_slice text = mlxd_checkpoint_document(h->checkpoint, name);
    mlxd_err err = text.len > 0 ? read(&h->defaults, text, why) : MLXD_OK;
    return err ? mlxd_fail_in(why, err, "%s", name) : MLXD_OK;
}

/* Ends that the model cannot say are left out, unless there are no others: a file that was made for
 * a larger vocabulary names some. */
static mlxd_err add_ends(mlxd_host *h, mlxd_why *why) {
    const size_t vocab = mlxd_tokenizer_vocab(h->tokenizer);
    int32_t beyond = -1;
    mlxd_err err = MLXD_OK;
    for (size_t i = 0; i < h->defaults.n_ends && !err; i++) {
        int32_t id = h->defaults.ends[i];
        if ((size_t)id >= vocab)
            beyond = id;
        else
            err = mlxd_tokenizer_add_end(h->tokenizer, id, why);
    }
    if (!err && beyond >= 0 && !mlxd_tokenizer_has_end(h->tokenizer))
        err = mlxd_fail(why, MLXD_ERR_DATA, "end-of-turn token %d of a vocabulary of %zu, no other",
                        (int)beyond, vocab);
    return err ? mlxd_fail_in(why, err, "eos_token_id") : MLXD_OK;
}

/* How the model is sampled, and when its turns end. */
static mlxd_err read_defaults(mlxd_host *h, mlxd_why *why) {
    const mlxd_gguf *g = mlxd_checkpoint_gguf(h->checkpoint);
    mlxd_err err = g ? mlxd_generation_config_read_gguf(&h->defaults, g, why) : MLXD_OK;
    if (!err)
        err = read_document(h, "generation_config.json", mlxd_generation_config_read_json, why);
    if (!err)
        err = read_document(h, "config.json", mlxd_generation_config_read_ends, why);
    if (!err)
        err = add_ends(h, why);
    return err ? mlxd_fail_in(why, err, "%s", mlxd_checkpoint_path(h->checkpoint)) : MLXD_OK;
}

static mlxd_err read_reasoning(mlxd_host *h, const char *name, mlxd_why *why) {
    if (!name || !*name || strcmp(name, "auto") == 0) {
        mlxd_slice source = h->chat ? mlxd_chat_template(h->chat, false) : (mlxd_slice){0};
        h->reasoning = mlxd_reasoning_detect(source, h->tokenizer);
        return MLXD_OK;
    }
    if (mlxd_reasoning_find(mlxd_slice_str(name), &h->reasoning))
        return MLXD_OK;
    return mlxd_fail(why, MLXD_ERR_CONFIG,
                     "reasoning format \"%.40s\": expected auto, none, think, mistral or harmony",
                     name);
}

static mlxd_slice document(const mlxd_host *h, const char *name) {
    return mlxd_checkpoint_document(h->checkpoint, name);
}

static mlxd_err open_tokenizer(mlxd_host *h, mlxd_why *why) {
    const mlxd_gguf *g = mlxd_checkpoint_gguf(h->checkpoint);
    if (g)
        return mlxd_tokenizer_open(&h->tokenizer, g, why);
    mlxd_tokenizer_files files = {.tokenizer = document(h, "tokenizer.json"),
                                  .config = document(h, "tokenizer_config.json"),
                                  .special_map = document(h, "special_tokens_map.json")};
    if (files.tokenizer.len == 0)
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "tokenizer.json is missing (tokenizer.model, tekken.json, and vocab.json "
                         "with merges.txt are not read)");
    return mlxd_tokenizer_open_json(&h->tokenizer, &files, why);
}

static mlxd_err open_chat(mlxd_host *h, mlxd_why *why) {
    const mlxd_gguf *g = mlxd_checkpoint_gguf(h->checkpoint);
    if (g)
        return mlxd_chat_open_gguf(&h->chat, g, h->tokenizer, why);
    mlxd_chat_files files = {.jinja = document(h, "chat_template.jinja"),
                             .config = document(h, "tokenizer_config.json"),
                             .special_map = document(h, "special_tokens_map.json"),
                             .processor = document(h, "chat_template.json")};
    return mlxd_chat_open_files(&h->chat, &files, why);
}

static mlxd_err open_text(mlxd_host *h, const char *reasoning, mlxd_why *why) {
    mlxd_err err = open_tokenizer(h, why);
    if (!err)
        err = mlxd_tokenizer_fit(h->tokenizer, h->config.vocab, why);
    if (err)
        return mlxd_fail_in(why, err, "%s", mlxd_checkpoint_path(h->checkpoint));
    /* Without a template that works the model still answers raw prompts. */
    err = open_chat(h, &h->chat_why);
    if (err == MLXD_ERR_NOMEM)
        return mlxd_fail(why, err, "%s: %s", mlxd_checkpoint_path(h->checkpoint), h->chat_why.text);
    err = read_defaults(h, why);
    return err ? err : read_reasoning(h, reasoning, why);
}

mlxd_err mlxd_host_open(mlxd_host *h, const mlxd_host_params *p, mlxd_why *why) {
    *h = (mlxd_host){0};
    MLXD_ASSERT(p->path || (!p->text && !p->head));
    mlxd_generation_config_init(&h->defaults);
    unsigned threads = p->threads ? p->threads : MLXD_MIN(mlxd_os_cpus(), MLXD_LIMIT_THREADS);
    mlxd_err err = mlxd_kernels_get(&h->kernels, p->cpu && *p->cpu ? p->cpu : NULL, why);
    if (!err && p->path)
        err = mlxd_checkpoint_open(&h->checkpoint, p->path, why);
    if (!err && p->path) {
        err = mlxd_config_read(&h->config, h->checkpoint, why);
        if (err)
            err = mlxd_fail_in(why, err, "%s", p->path);
    }
    if (!err && p->text)
        err = open_text(h, p->reasoning, why);
    if (!err)
        err = mlxd_driver_open(&h->driver, threads, why);
    if (!err && p->pin)
        err = mlxd_driver_pin(h->driver, why);
    if (!err && p->head) {
        struct load_head l = {h, p->progress, MLXD_OK, why};
        mlxd_driver_run(h->driver, (mlxd_job){load_head_job, &l, NULL});
        err = l.err;
    }
    if (err)
        mlxd_host_close(h);
    return err;
}

void mlxd_host_close(mlxd_host *h) {
    mlxd_head_close(h->head);
    mlxd_driver_close(h->driver);
    mlxd_chat_close(h->chat);
    mlxd_tokenizer_close(h->tokenizer);
    mlxd_checkpoint_close(h->checkpoint);
    *h = (mlxd_host){0};
}

struct speed {
    const mlxd_kernels *kernels;
    double bytes_per_s;
};

static void speed_job(mlxd_pool *pool, void *a, void *b) {
    struct speed *s = a;
    (void)b;
    s->bytes_per_s = mlxd_speed_measure(s->kernels, pool);
}

double mlxd_host_speed(const mlxd_host *h) {
    struct speed s = {.kernels = h->kernels};
    mlxd_driver_run(h->driver, (mlxd_job){speed_job, &s, NULL});
    return s.bytes_per_s;
}

mlxd_err mlxd_host_context(const mlxd_host *h, uint64_t ctx, uint64_t parallel, uint32_t kv_layers,
                           uint64_t weights_bytes, uint32_t *context, uint32_t *kv_pages,
                           mlxd_why *why) {
    MLXD_ASSERT(parallel > 0 && kv_layers > 0);
    uint64_t page = mlxd_kv_page_bytes(&h->config, kv_layers);
    uint64_t available = mlxd_os_memory_available();
    uint64_t room = available > weights_bytes ? available - weights_bytes : 0;
    /* A tenth stays free for everything else of this machine. */
    uint64_t pages_max = room / 10 * 9 / page;
    uint64_t wish = ctx ? ctx : h->config.context;
    if (pages_max == 0 || (ctx && mlxd_kv_pages(ctx) > pages_max))
        return mlxd_fail(
            why, MLXD_ERR_NOMEM,
            "a context of %llu tokens needs %llu MiB beside %llu MiB of weights, "
            "%llu MiB are available",
            (unsigned long long)wish, (unsigned long long)(mlxd_kv_pages(wish) * page >> 20),
            (unsigned long long)(weights_bytes >> 20), (unsigned long long)(available >> 20));
    uint64_t positions = MLXD_MIN(wish, pages_max * MLXD_PAGE);
    *context = (uint32_t)positions;
    *kv_pages = (uint32_t)MLXD_MIN(mlxd_kv_pages(positions) * parallel, pages_max);
    return MLXD_OK;
}
