/* bench_report.c - see bench_report.h. A row becomes a list of named values, which the two forms
 * for programs print as they are; the table picks what a person looks at. */
#include "cli/bench_report.h"

#include "base/clock.h"
#include "base/os.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>

#define FIELDS_MAX 40
#define GIGA 1e9

/* ---- statistics ---- */

typedef struct stats {
    double avg, stddev; /* of a sample: n - 1 */
} stats;

static double tokens_per_s(const mlxd_bench_row *row, size_t i) {
    double ns = (double)MLXD_MAX(row->ns[i], (uint64_t)1);
    return (double)mlxd_bench_tokens(row->test) * (double)MLXD_NS_PER_S / ns;
}

static double ns_of(const mlxd_bench_row *row, size_t i) {
    return (double)row->ns[i];
}

static stats stats_of(const mlxd_bench_row *row, double (*value)(const mlxd_bench_row *, size_t)) {
    stats s = {0, 0};
    for (size_t i = 0; i < row->n; i++)
        s.avg += value(row, i) / (double)row->n;
    for (size_t i = 0; i < row->n && row->n > 1; i++)
        s.stddev += (value(row, i) - s.avg) * (value(row, i) - s.avg) / (double)(row->n - 1);
    s.stddev = sqrt(s.stddev);
    return s;
}

/* What the test needed in a second, as a share of what the machine can do; NaN: says nothing. */
static double share(double amount, double ns, double limit) {
    return limit > 0 ? amount * (double)MLXD_NS_PER_S / ns / limit : NAN;
}

static double share_of_read(const mlxd_bench_report *r, const mlxd_bench_row *row) {
    if (row->test->n_gen == 0)
        return NAN;
    return share(mlxd_bench_read_bytes(r->model, row->test), stats_of(row, ns_of).avg,
                 row->read_per_s);
}

static double share_of_int8(const mlxd_bench_report *r, const mlxd_bench_row *row) {
    if (row->test->n_prompt == 0 || !r->model->quantized)
        return NAN;
    return share(mlxd_bench_operations(r->model, row->test), stats_of(row, ns_of).avg,
                 row->int8_per_s);
}

/* ---- a row as named values ---- */

typedef struct field {
    const char *name;
    enum { TEXT, WHOLE, REAL } kind;
    const char *text;
    uint64_t whole;
    double real; /* NaN: nothing */
} field;

typedef struct fields {
    field at[FIELDS_MAX];
    size_t count;
    char model_type[64], time[25];
} fields;

static void add(fields *f, field v) {
    MLXD_ASSERT(f->count < FIELDS_MAX);
    f->at[f->count++] = v;
}

static void add_text(fields *f, const char *name, const char *text) {
    add(f, (field){.name = name, .kind = TEXT, .text = text});
}

static void add_whole(fields *f, const char *name, uint64_t whole) {
    add(f, (field){.name = name, .kind = WHOLE, .whole = whole});
}

static void add_real(fields *f, const char *name, double real) {
    add(f, (field){.name = name, .kind = REAL, .real = real});
}

/* 1.24 B, 134.52 M */
static void format_params(double params, const char *blank, char *out, size_t size) {
    if (params >= 1e9)
        snprintf(out, size, "%.2f%sB", params / 1e9, blank);
    else
        snprintf(out, size, "%.2f%sM", params / 1e6, blank);
}

static void format_model(const mlxd_bench_report *r, char *out, size_t size) {
    char params[32];
    format_params((double)r->model->params, "", params, sizeof params);
    snprintf(out, size, "%s %s %s", r->arch, params, r->model->type);
}

static void list_fields(fields *f, const mlxd_bench_report *r, const mlxd_bench_row *row) {
    const mlxd_bench_test *t = row->test;
    stats ns = stats_of(row, ns_of), ts = stats_of(row, tokens_per_s);
    f->count = 0;
    format_model(r, f->model_type, sizeof f->model_type);
    mlxd_clock_format(row->wall_ns, f->time);
    f->time[19] = 'Z'; /* whole seconds */
    f->time[20] = 0;
    add_text(f, "build_commit", MLXD_COMMIT);
    add_text(f, "cpu_info", r->cpu);
    add_text(f, "isa", r->isa);
    add_text(f, "model_filename", r->path);
    add_text(f, "model_type", f->model_type);
    add_whole(f, "model_size", r->model->file_bytes);
    add_whole(f, "model_n_params", r->model->params);
    add_whole(f, "n_batch", r->chunk);
    add_whole(f, "n_threads", row->threads);
    add_whole(f, "n_prompt", t->n_prompt);
    add_whole(f, "n_gen", t->n_gen);
    add_whole(f, "n_depth", t->depth);
    add_whole(f, "batch", t->batch);
    add_text(f, "test_time", f->time);
    add_whole(f, "avg_ns", (uint64_t)ns.avg);
    add_whole(f, "stddev_ns", (uint64_t)ns.stddev);
    add_real(f, "avg_ts", ts.avg);
    add_real(f, "stddev_ts", ts.stddev);
    add_real(f, "read_gbs", row->read_per_s > 0 ? row->read_per_s / GIGA : NAN);
    add_real(f, "int8_gops", row->int8_per_s > 0 ? row->int8_per_s / GIGA : NAN);
    add_real(f, "share_of_read", share_of_read(r, row));
    add_real(f, "share_of_int8", share_of_int8(r, row));
    add_whole(f, "weight_bytes", r->model->weights_bytes);
    add_whole(f, "kv_bytes", mlxd_bench_kv_bytes(r->model, t));
    add_real(f, "load_ms", r->load_ms);
    add_whole(f, "rss_peak", row->rss_peak);
}

/* ---- JSON ---- */

static void write_json(mlxd_bench_report *r, const fields *f, const mlxd_bench_row *row) {
    mlxd_jsonw *w = &r->json;
    mlxd_jsonw_object_begin(w);
    for (size_t i = 0; i < f->count; i++) {
        mlxd_jsonw_key(w, f->at[i].name);
        if (f->at[i].kind == TEXT)
            mlxd_jsonw_str(w, f->at[i].text);
        else if (f->at[i].kind == WHOLE)
            mlxd_jsonw_uint(w, f->at[i].whole);
        else
            mlxd_jsonw_double(w, f->at[i].real);
    }
    mlxd_jsonw_key(w, "samples_ns");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < row->n; i++)
        mlxd_jsonw_uint(w, row->ns[i]);
    mlxd_jsonw_array_end(w);
    mlxd_jsonw_key(w, "samples_ts");
    mlxd_jsonw_array_begin(w);
    for (size_t i = 0; i < row->n; i++)
        mlxd_jsonw_double(w, tokens_per_s(row, i));
    mlxd_jsonw_array_end(w);
    mlxd_jsonw_object_end(w);
}

/* ---- CSV ---- */

/* In quotes, those inside doubled (RFC 4180). */
static void write_quoted(mlxd_buf *out, const char *text) {
    mlxd_buf_add_byte(out, '"');
    for (; *text; text++) {
        if (*text == '"')
            mlxd_buf_add_byte(out, '"');
        mlxd_buf_add_byte(out, (uint8_t)*text);
    }
    mlxd_buf_add_byte(out, '"');
}

static void write_csv(mlxd_bench_report *r, const fields *f) {
    for (size_t i = 0; i < f->count && r->rows == 0; i++)
        mlxd_buf_addf(&r->out, "%s%s", i ? "," : "", f->at[i].name);
    if (r->rows == 0)
        mlxd_buf_add_byte(&r->out, '\n');
    for (size_t i = 0; i < f->count; i++) {
        const field *v = &f->at[i];
        mlxd_buf_add_str(&r->out, i ? "," : "");
        if (v->kind == TEXT)
            write_quoted(&r->out, v->text);
        else if (v->kind == WHOLE)
            mlxd_buf_addf(&r->out, "%llu", (unsigned long long)v->whole);
        else if (isfinite(v->real))
            mlxd_buf_addf(&r->out, "%.6f", v->real);
    }
    mlxd_buf_add_byte(&r->out, '\n');
}

/* ---- table ---- */

static void format_bytes(double bytes, char *out, size_t size) {
    if (bytes >= 0x1p30)
        snprintf(out, size, "%.2f GiB", bytes / 0x1p30);
    else
        snprintf(out, size, "%.2f MiB", bytes / 0x1p20);
}

void mlxd_bench_report_name(const mlxd_bench_test *t, char out[MLXD_BENCH_NAME]) {
    char depth[24] = "", batch[24] = "";
    if (t->depth)
        snprintf(depth, sizeof depth, " @ d%u", t->depth);
    if (t->batch > 1)
        snprintf(batch, sizeof batch, " b%u", t->batch);
    snprintf(out, MLXD_BENCH_NAME, "%s%u%s%s", t->n_prompt ? "pp" : "tg",
             t->n_prompt ? t->n_prompt : t->n_gen, depth, batch);
}

static void write_table(mlxd_bench_report *r, const mlxd_bench_row *row) {
    char model[64], size[32], params[32], name[MLXD_BENCH_NAME], limit[32] = "";
    double read = share_of_read(r, row), int8 = share_of_int8(r, row);
    stats ts = stats_of(row, tokens_per_s);
    if (r->rows == 0)
        mlxd_buf_addf(&r->out,
                      "| %-26s | %10s | %8s | %-7s | %7s | %18s | %20s | %9s | %10s | %10s |\n"
                      "| -------------------------- | ---------: | -------: | ------- | ------: | "
                      "-----------------: | -------------------: | --------: | ---------: | "
                      "---------: |\n",
                      "model", "size", "params", "isa", "threads", "test", "t/s", "read GB/s",
                      "int8 GOP/s", "of limit");
    format_model(r, model, sizeof model);
    format_bytes((double)r->model->file_bytes, size, sizeof size);
    format_params((double)r->model->params, " ", params, sizeof params);
    mlxd_bench_report_name(row->test, name);
    if (isfinite(read))
        snprintf(limit, sizeof limit, "%.0f %% read", read * 100);
    else if (isfinite(int8))
        snprintf(limit, sizeof limit, "%.0f %% int8", int8 * 100);
    mlxd_buf_addf(&r->out, "| %-26s | %10s | %8s | %-7s | %7u | %18s | %11.2f \302\261 %6.2f ",
                  model, size, params, r->isa, row->threads, name, ts.avg, ts.stddev);
    mlxd_buf_addf(&r->out, "| %9.1f | %10.0f | %10s |\n", row->read_per_s / GIGA,
                  row->int8_per_s / GIGA, limit);
}

static void write_footer(mlxd_bench_report *r) {
    char weights[32], rss[32];
    format_bytes((double)r->model->weights_bytes, weights, sizeof weights);
    format_bytes((double)r->rss_peak, rss, sizeof rss);
    mlxd_buf_addf(
        &r->out, "\n%s | weights in memory %s, resident at most %s | loaded in %.2f s | build %s\n",
        r->cpu, weights, rss, r->load_ms / 1e3, MLXD_COMMIT);
}

/* ---- the report ---- */

void mlxd_bench_report_begin(mlxd_bench_report *r) {
    r->rows = 0;
    r->rss_peak = 0;
    mlxd_os_cpu_name(r->cpu, sizeof r->cpu);
    mlxd_buf_init(&r->out, 0);
    mlxd_jsonw_init(&r->json, &r->out);
    if (r->form == MLXD_BENCH_JSON)
        mlxd_jsonw_array_begin(&r->json);
}

static mlxd_err flush(mlxd_bench_report *r, mlxd_why *why) {
    mlxd_err err = r->out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                                 : mlxd_cli_print(r->out.data, r->out.len, why);
    mlxd_buf_clear(&r->out);
    return err;
}

mlxd_err mlxd_bench_report_row(mlxd_bench_report *r, const mlxd_bench_row *row, mlxd_why *why) {
    MLXD_ASSERT(row->n > 0);
    fields f;
    mlxd_err err = MLXD_OK;
    list_fields(&f, r, row);
    if (r->form == MLXD_BENCH_JSON)
        write_json(r, &f, row);
    else if (r->form == MLXD_BENCH_CSV)
        write_csv(r, &f);
    else
        write_table(r, row);
    if (r->form != MLXD_BENCH_JSON)
        err = flush(r, why);
    r->rows++;
    r->rss_peak = MLXD_MAX(r->rss_peak, row->rss_peak);
    return err;
}

mlxd_err mlxd_bench_report_end(mlxd_bench_report *r, mlxd_why *why) {
    if (r->form == MLXD_BENCH_JSON) {
        mlxd_jsonw_array_end(&r->json);
        mlxd_buf_add_byte(&r->out, '\n');
    } else if (r->form == MLXD_BENCH_MARKDOWN && r->rows > 0) {
        write_footer(r);
    }
    mlxd_err err = flush(r, why);
    mlxd_buf_deinit(&r->out);
    return err;
}
