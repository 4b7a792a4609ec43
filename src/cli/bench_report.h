/* bench_report.h - the results of `mlxd bench`, a row for each test: as a Markdown table, as
 * comma-separated values, or as a JSON list whose members have llama-bench's names where it has
 * the same thing, so that one script reads both.
 */
#ifndef MLXD_CLI_BENCH_REPORT_H
#define MLXD_CLI_BENCH_REPORT_H

#include "base/mem.h"
#include "format/json.h"
#include "model/bench.h"

typedef enum mlxd_bench_form {
    MLXD_BENCH_MARKDOWN,
    MLXD_BENCH_CSV,
    MLXD_BENCH_JSON
} mlxd_bench_form;

/* What all rows share; the caller fills in the first part. */
typedef struct mlxd_bench_report {
    mlxd_bench_form form;
    const char *path, *arch, *isa;
    const mlxd_bench_model *model;
    uint32_t chunk;
    double load_ms;
    /* private */
    char cpu[128];
    mlxd_buf out;
    mlxd_jsonw json;
    size_t rows;
    uint64_t rss_peak;
} mlxd_bench_report;

typedef struct mlxd_bench_row {
    const mlxd_bench_test *test;
    unsigned threads;
    uint64_t wall_ns; /* when it began */
    const uint64_t *ns;
    size_t n;                      /* repetitions, at least 1 */
    double read_per_s, int8_per_s; /* the machine's limits; 0 = unknown */
    uint64_t rss_peak;
} mlxd_bench_row;

void mlxd_bench_report_begin(mlxd_bench_report *r);
/* A row is printed at once, except in JSON. */
mlxd_err mlxd_bench_report_row(mlxd_bench_report *r, const mlxd_bench_row *row,
                               mlxd_why *why) MLXD_MUST_CHECK;
/* Prints what is left, also after a failure: the rows that there were. Frees. */
mlxd_err mlxd_bench_report_end(mlxd_bench_report *r, mlxd_why *why) MLXD_MUST_CHECK;

/* "tg128 @ d4096 b8" */
#define MLXD_BENCH_NAME 64
void mlxd_bench_report_name(const mlxd_bench_test *t, char out[MLXD_BENCH_NAME]);

#endif
