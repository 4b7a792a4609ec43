/* cmd_plan.c - `mlxd plan`: who would compute which layers, what that takes and what it predicts.
 *
 * Reads the head of the model file, measures this machine for a moment and asks cluster/plan.h: for
 * all devices, and for the first 1..n of them, so that one sees whether a further node pays.
 */
#include "cli/cli.h"

#include "base/mem.h"
#include "base/os.h"
#include "cluster/plan.h"
#include "format/json.h"
#include "model/kv.h"
#include "model/speed.h"
#include "net/identity.h"
#include "serve/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((double)(1u << 30))
#define MEMORY_GIB_MAX 1048576.0
#define SPEED_MIN 0.001
#define SPEED_MAX 1000.0
/* A round trip between machines on a wired network, with the message; links are not measured. */
#define LINK_S 0.0005

/* The plan of the first `n` devices. */
struct answer {
    mlxd_err err; /* NOMEM: they cannot hold the model */
    mlxd_why why;
    mlxd_plan plan;
    uint32_t context, kv_pages;
};

struct job {
    const mlxd_options *o;
    mlxd_host host;
    double speed; /* this machine, bytes/s */
    mlxd_plan_model model;
    mlxd_plan_device devices[MLXD_LIMIT_NODES];
    size_t n;
    mlxd_plan_range ranges[MLXD_OPTION_LIST_MAX];
    size_t n_ranges;
    struct answer all;
    struct answer first[MLXD_LIMIT_NODES]; /* first[i]: devices 0..i, layers chosen by us */
};

static unsigned long long mib(uint64_t bytes) {
    return (unsigned long long)((bytes + (1u << 19)) >> 20);
}

/* ---- input ---- */

/* A decimal number between min and max that ends at `end`. */
static bool read_number(const char *s, char end, double min, double max, double *out,
                        const char **next) {
    size_t len = strspn(s, "0123456789.");
    char *stop;
    *out = strtod(s, &stop);
    *next = s + len;
    return len > 0 && stop == s + len && *stop == end && *out >= min && *out <= max;
}

/* "ID:GIB[:SPEED]". */
static mlxd_err read_device(const char *text, double speed, mlxd_plan_device *out, mlxd_why *why) {
    size_t len = strcspn(text, ":");
    double gib, factor = 1;
    const char *s = text + len + 1;
    mlxd_err err = mlxd_identity_check_id((mlxd_slice){(const uint8_t *)text, len}, why);
    if (err)
        return mlxd_fail_in(why, MLXD_ERR_USAGE, "--device-memory \"%.80s\"", text);
    bool ok = text[len] == ':';
    bool has_speed = ok && strchr(s, ':') != NULL;
    ok = ok && read_number(s, has_speed ? ':' : 0, 0, MEMORY_GIB_MAX, &gib, &s);
    if (ok && has_speed)
        ok = read_number(s + 1, 0, SPEED_MIN, SPEED_MAX, &factor, &s);
    if (!ok)
        return mlxd_fail(why, MLXD_ERR_USAGE,
                         "--device-memory \"%.80s\": expected ID:GIB or ID:GIB:SPEED with a speed "
                         "from %g to %g, as in mini1:16:1.5",
                         text, SPEED_MIN, SPEED_MAX);
    *out = (mlxd_plan_device){.memory_bytes = (uint64_t)(gib * GIB), .speed = speed * factor};
    memcpy(out->id, text, len);
    return MLXD_OK;
}

/* The devices named, or this machine with nine tenths of its free memory. */
static mlxd_err list_devices(struct job *j, mlxd_why *why) {
    const mlxd_option_list *list = &j->o->devices;
    mlxd_err err = MLXD_OK;
    j->n = MLXD_MAX(list->count, (size_t)1);
    if (j->n > MLXD_LIMIT_NODES)
        return mlxd_fail(why, MLXD_ERR_USAGE, "more than %d devices", MLXD_LIMIT_NODES);
    j->devices[0] = (mlxd_plan_device){
        .id = "local", .memory_bytes = mlxd_os_memory_available() / 10 * 9, .speed = j->speed};
    for (size_t i = 0; i < list->count && !err; i++) {
        err = read_device(list->items[i], j->speed, &j->devices[i], why);
        j->devices[i].link_s = i ? LINK_S : 0;
    }
    for (; j->n_ranges < j->o->layers.count && !err; j->n_ranges++)
        if (mlxd_plan_parse_range(j->o->layers.items[j->n_ranges], &j->ranges[j->n_ranges], why))
            err = mlxd_fail_in(why, MLXD_ERR_USAGE, "--layers");
    return err;
}

/* On the driver thread, whose pool computes. */
static void measure_job(mlxd_pool *pool, void *a, void *b) {
    struct job *j = a;
    const mlxd_host *h = &j->host;
    j->all.err =
        mlxd_speed_measure_model(&j->speed, h->checkpoint, &h->config, h->kernels, pool, b);
}

/* ---- plans ---- */

/* Plan of the first n devices, with the context asked for, or else what memory holds. */
static mlxd_err plan_first(struct job *j, size_t n, bool prescribed, struct answer *a) {
    const mlxd_options *o = j->o;
    mlxd_plan_model *m = &j->model;
    uint64_t positions = o->ctx ? o->ctx : j->host.config.context;
    uint32_t least = o->ctx ? mlxd_kv_pages(positions) : 1;
    m->kv_pages = mlxd_kv_pages(positions) * (uint32_t)o->parallel;
    uint32_t fits = prescribed
                        ? mlxd_plan_pages_prescribed(m, j->devices, n, j->ranges, j->n_ranges)
                        : mlxd_plan_pages(m, j->devices, n);
    m->kv_pages = MLXD_MAX(fits, least); /* when that is too much, the plan says why */
    a->kv_pages = m->kv_pages;
    a->context = (uint32_t)MLXD_MIN(positions, (uint64_t)m->kv_pages * MLXD_PAGE);
    a->err = prescribed
                 ? mlxd_plan_prescribe(&a->plan, m, j->devices, n, j->ranges, j->n_ranges, &a->why)
                 : mlxd_plan_make(&a->plan, m, j->devices, n, &a->why);
    return a->err;
}

static mlxd_err plan_all(struct job *j, mlxd_why *why) {
    const mlxd_options *o = j->o;
    mlxd_host_params p = {.path = o->model, .threads = (unsigned)o->threads, .cpu = o->cpu};
    mlxd_err err = mlxd_host_open(&j->host, &p, why);
    if (err)
        return err;
    err = mlxd_plan_model_read(&j->model, j->host.checkpoint, &j->host.config, 0,
                               (uint32_t)o->parallel, why);
    if (err)
        return err;
    mlxd_driver_run(j->host.driver, (mlxd_job){measure_job, j, why});
    err = j->all.err;
    if (!err)
        err = list_devices(j, why);
    if (!err && plan_first(j, j->n, j->n_ranges > 0, &j->all)) {
        *why = j->all.why;
        err = j->all.err;
    }
    for (size_t i = 0; i < j->n && !err; i++)
        if (plan_first(j, i + 1, false, &j->first[i]) == MLXD_ERR_INVALID)
            err = mlxd_fail(why, MLXD_ERR_INVALID, "%s", j->first[i].why.text);
    return err;
}

static uint64_t layers_bytes(const struct job *j) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < j->model.layers; i++)
        sum += j->model.layer_bytes[i];
    return sum;
}

/* Part of the compute time of a token that device i takes. */
static double share_of_time(const mlxd_plan *p, size_t i) {
    double sum = 0;
    for (size_t d = 0; d < p->n_devices; d++)
        sum += p->shares[d].stage_s;
    return p->shares[i].stage_s / sum;
}

/* Is it worth having device i, after those before it? Without it nothing fits, or it is slower. */
static const char *judge(const struct job *j, size_t i) {
    const struct answer *now = &j->first[i], *before = i ? &j->first[i - 1] : NULL;
    if (now->err)
        return "does not fit";
    if (before && before->err)
        return "needed to fit";
    if (now->plan.shares[i].end == 0 && i > 0)
        return "gets no layers";
    if (!before)
        return "";
    if (now->plan.aggregate_tps <= before->plan.aggregate_tps)
        return "does not pay";
    return now->plan.stream_tps > before->plan.stream_tps ? "pays" : "pays with several requests";
}

/* ---- output ---- */

static void add_header(const struct job *j, mlxd_buf *out) {
    const mlxd_config *c = &j->host.config;
    const struct answer *a = &j->all;
    mlxd_buf_addf(out, "model    %s: %u layers, %llu MiB; embeddings and head %llu MiB\n", c->name,
                  c->layers, mib(layers_bytes(j)), mib(j->model.head_bytes));
    mlxd_buf_addf(out, "context  %u tokens", a->context);
    if (!j->o->ctx && a->context < c->context)
        mlxd_buf_addf(out, " (the model allows %u, memory does not)", c->context);
    mlxd_buf_addf(out, "; KV cache for %" PRIu64 " tokens in all requests\n",
                  (uint64_t)a->kv_pages * MLXD_PAGE);
    mlxd_buf_addf(out,
                  "speed    1.0 = this machine: %.1f GB of weights per second (%s, %u threads)\n",
                  j->speed / 1e9, j->host.kernels->isa, mlxd_driver_threads(j->host.driver));
}

static int id_width(const struct job *j) {
    size_t width = sizeof "device" - 1;
    for (size_t i = 0; i < j->n; i++)
        width = MLXD_MAX(width, strlen(j->devices[i].id));
    return (int)width;
}

static void add_devices(const struct job *j, mlxd_buf *out) {
    const mlxd_plan *p = &j->all.plan;
    int width = id_width(j);
    mlxd_buf_addf(out, "\n%-*s  %-9s  %11s  %8s  %8s  %8s  %8s\n", width, "device", "layers",
                  "weights MiB", "head MiB", "KV MiB", "left MiB", "time");
    for (size_t i = 0; i < j->n; i++) {
        const mlxd_plan_share *s = &p->shares[i];
        char layers[24] = "none";
        if (s->end)
            snprintf(layers, sizeof layers, "%u-%u", s->first, s->end - 1);
        mlxd_buf_addf(out, "%-*s  %-9s  %11llu  %8llu  %8llu  %8llu  %6.1f %%\n", width,
                      j->devices[i].id, layers, mib(s->weights_bytes), mib(s->head_bytes),
                      mib(s->kv_bytes), mib(s->left_bytes), 100 * share_of_time(p, i));
    }
}

static void add_change(mlxd_buf *out, double now, double before) {
    char change[32] = "";
    if (before > 0)
        snprintf(change, sizeof change, "(%+.0f %%)", 100 * (now / before - 1));
    mlxd_buf_addf(out, "  %9.1f %-9s", now, change);
}

/* Ends a line of padded columns without its blanks. */
static void end_line(mlxd_buf *out) {
    while (out->len > 0 && out->data[out->len - 1] == ' ')
        out->len--;
    mlxd_buf_add_byte(out, '\n');
}

/* One line for the first 1..n devices each. */
static void add_growth(const struct job *j, mlxd_buf *out) {
    int width = id_width(j) + 2;
    mlxd_buf_addf(out, "\n%-*s  %-19s  %s\n", width, "devices", "one stream", "all requests");
    for (size_t i = 0; i < j->n; i++) {
        const struct answer *a = &j->first[i], *before = i ? &j->first[i - 1] : NULL;
        bool compare = before && !before->err;
        mlxd_buf_addf(out, "%s%-*s", i ? "+ " : "", i ? width - 2 : width, j->devices[i].id);
        if (a->err) {
            mlxd_buf_addf(out, "  %9s %-9s  %9s %-9s", "-", "", "-", "");
        } else {
            add_change(out, a->plan.stream_tps, compare ? before->plan.stream_tps : 0);
            add_change(out, a->plan.aggregate_tps, compare ? before->plan.aggregate_tps : 0);
        }
        mlxd_buf_addf(out, "  %s", judge(j, i));
        end_line(out);
    }
}

static void add_text(const struct job *j, mlxd_buf *out) {
    const mlxd_plan *p = &j->all.plan;
    add_header(j, out);
    add_devices(j, out);
    mlxd_buf_addf(out, "\npredicted: one stream %.1f tokens/s", p->stream_tps);
    if (j->o->parallel > 1)
        mlxd_buf_addf(out, "; %" PRIu64 " requests at once %.1f tokens/s together", j->o->parallel,
                      p->aggregate_tps);
    mlxd_buf_add_byte(out, '\n');
    if (j->n > 1) {
        mlxd_buf_addf(out, "\npredicted tokens/s, with %.1f ms assumed for a worker's round trip%s",
                      LINK_S * 1e3, j->n_ranges ? " and layers chosen by mlxd:" : ":");
        add_growth(j, out);
    }
    mlxd_buf_addf(out,
                  "\nPredictions count the weights a token reads; long contexts, prefill and a "
                  "busy machine\ntake more time.\n");
}

static void write_share(const struct job *j, size_t i, mlxd_jsonw *w) {
    const mlxd_plan_share *s = &j->all.plan.shares[i];
    const mlxd_plan_device *d = &j->devices[i];
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "device", d->id);
    mlxd_jsonw_member_str(w, "role", i ? "worker" : "coordinator");
    mlxd_jsonw_key(w, "layers");
    if (s->end) {
        mlxd_jsonw_array_begin(w);
        mlxd_jsonw_uint(w, s->first);
        mlxd_jsonw_uint(w, s->end - 1);
        mlxd_jsonw_array_end(w);
    } else {
        mlxd_jsonw_null(w);
    }
    mlxd_jsonw_member_uint(w, "memory_bytes", d->memory_bytes);
    mlxd_jsonw_member_uint(w, "weights_bytes", s->weights_bytes);
    mlxd_jsonw_member_uint(w, "head_bytes", s->head_bytes);
    mlxd_jsonw_member_uint(w, "kv_bytes", s->kv_bytes);
    mlxd_jsonw_member_uint(w, "left_bytes", s->left_bytes);
    mlxd_jsonw_member_double(w, "speed_bytes_per_second", d->speed);
    mlxd_jsonw_member_double(w, "stage_ms", s->stage_s * 1e3);
    mlxd_jsonw_member_double(w, "share_of_time", share_of_time(&j->all.plan, i));
    mlxd_jsonw_object_end(w);
}

static void write_prediction(const struct answer *a, mlxd_jsonw *w) {
    mlxd_jsonw_member_double(w, "predicted_stream_tokens_per_second", a->plan.stream_tps);
    mlxd_jsonw_member_double(w, "predicted_aggregate_tokens_per_second", a->plan.aggregate_tps);
    mlxd_jsonw_member_uint(w, "context", a->context);
    mlxd_jsonw_member_uint(w, "kv_pages", a->kv_pages);
}

static void write_growth(const struct job *j, mlxd_jsonw *w) {
    mlxd_jsonw_key(w, "first_devices");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < j->n; i++) {
        const struct answer *a = &j->first[i];
        mlxd_jsonw_object_begin(w);
        mlxd_jsonw_member_uint(w, "devices", i + 1);
        mlxd_jsonw_member_bool(w, "fits", !a->err);
        if (a->err)
            mlxd_jsonw_member_str(w, "why", a->why.text);
        else
            write_prediction(a, w);
        if (*judge(j, i))
            mlxd_jsonw_member_str(w, "verdict", judge(j, i));
        mlxd_jsonw_object_end(w);
    }
    mlxd_jsonw_array_end(w);
}

static void add_json(const struct job *j, mlxd_buf *out) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "model", j->host.config.name);
    mlxd_jsonw_member_uint(&w, "layers", j->model.layers);
    mlxd_jsonw_member_uint(&w, "weights_bytes", layers_bytes(j));
    mlxd_jsonw_member_uint(&w, "head_bytes", j->model.head_bytes);
    mlxd_jsonw_member_str(&w, "isa", j->host.kernels->isa);
    mlxd_jsonw_member_uint(&w, "threads", mlxd_driver_threads(j->host.driver));
    mlxd_jsonw_member_double(&w, "measured_bytes_per_second", j->speed);
    mlxd_jsonw_member_double(&w, "assumed_round_trip_ms", LINK_S * 1e3);
    mlxd_jsonw_member_uint(&w, "parallel", j->o->parallel);
    write_prediction(&j->all, &w);
    mlxd_jsonw_key(&w, "devices");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < j->n; i++)
        write_share(j, i, &w);
    mlxd_jsonw_array_end(&w);
    write_growth(j, &w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

static mlxd_err print(const struct job *j, mlxd_why *why) {
    mlxd_buf out;
    mlxd_buf_init(&out, 0);
    if (j->o->json)
        add_json(j, &out);
    else
        add_text(j, &out);
    mlxd_err err = out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_cli_print(out.data, out.len, why);
    mlxd_buf_deinit(&out);
    return err;
}

int mlxd_cmd_plan(const mlxd_options *o) {
    mlxd_why why = {0};
    mlxd_err err = mlxd_cli_log(o, "warn", &why);
    if (!err && o->n_args > 0)
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "unexpected argument \"%.40s\"", o->args[0]);
    if (!err && !o->model[0])
        err = mlxd_fail(&why, MLXD_ERR_USAGE, "no model: give -m FILE");
    if (err)
        return mlxd_cli_fail(err, &why);
    struct job *j = mlxd_mem_new(1, sizeof *j); /* large: keep it off the stack */
    if (!j)
        return mlxd_cli_fail(MLXD_ERR_NOMEM, &why);
    j->o = o;
    err = plan_all(j, &why);
    if (!err)
        err = print(j, &why);
    mlxd_host_close(&j->host);
    mlxd_mem_free(j);
    return err ? mlxd_cli_fail(err, &why) : 0;
}
