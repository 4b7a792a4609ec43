/* report.h - what `mlxd run` says at the end: a line of speeds, or one JSON object. */
#ifndef MLXD_CLI_REPORT_H
#define MLXD_CLI_REPORT_H

#include "backend/cpu.h"
#include "serve/request.h"

typedef struct mlxd_report {
    const mlxd_request *request; /* ended */
    mlxd_slice text, reasoning;
    uint64_t seed;
    const char *isa;
    unsigned threads;
    uint32_t n_stages;
    mlxd_cpu *const *stages;
    double load_ms;
} mlxd_report;

/* One object on standard output. */
mlxd_err mlxd_report_json(const mlxd_report *r, mlxd_why *why) MLXD_MUST_CHECK;
/* A line of speeds on stderr. */
void mlxd_report_speed(const mlxd_report *r);

#endif
