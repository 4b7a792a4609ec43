/* err.c - the one table that maps an mlxd_err to exit code, HTTP status and gRPC status, and the
 * functions that write an mlxd_why. See base.h for the two kinds of error. */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* gRPC: 1 CANCELLED 3 INVALID_ARGUMENT 4 DEADLINE_EXCEEDED 5 NOT_FOUND 6 ALREADY_EXISTS
 * 7 PERMISSION_DENIED 8 RESOURCE_EXHAUSTED 9 FAILED_PRECONDITION 11 OUT_OF_RANGE 12 UNIMPLEMENTED
 * 13 INTERNAL 14 UNAVAILABLE 15 DATA_LOSS. Exit codes are those of sysexits.h. */
static const mlxd_err_info table[MLXD_ERR_COUNT] = {
    [MLXD_OK] = {"ok", 0, 200, 0},
    [MLXD_ERR_AGAIN] = {"try again", 75, 503, 14},
    [MLXD_ERR_NOMEM] = {"out of memory", 71, 503, 8},
    [MLXD_ERR_FULL] = {"full", 75, 429, 8},
    [MLXD_ERR_PROTO] = {"protocol error", 76, 400, 3},
    [MLXD_ERR_TIMEOUT] = {"timed out", 75, 504, 4},
    [MLXD_ERR_CANCELLED] = {"cancelled", 1, 499, 1},
    [MLXD_ERR_PEER] = {"peer unavailable", 69, 503, 14},
    [MLXD_ERR_IO] = {"input/output error", 74, 500, 13},
    [MLXD_ERR_INVALID] = {"invalid", 65, 400, 3},
    [MLXD_ERR_NOTFOUND] = {"not found", 66, 404, 5},
    [MLXD_ERR_PERM] = {"not permitted", 77, 403, 7},
    [MLXD_ERR_UNSUPPORTED] = {"not supported", 65, 400, 12},
    [MLXD_ERR_DATA] = {"malformed data", 65, 400, 3},
    [MLXD_ERR_CORRUPT] = {"corrupt data", 65, 500, 15},
    [MLXD_ERR_STATE] = {"wrong state", 69, 503, 9},
    [MLXD_ERR_RANGE] = {"out of range", 65, 400, 11},
    [MLXD_ERR_EXISTS] = {"already exists", 73, 409, 6},
    [MLXD_ERR_USAGE] = {"usage", 64, 400, 3},
    [MLXD_ERR_CONFIG] = {"configuration", 78, 500, 9},
};

const mlxd_err_info *mlxd_err_get(mlxd_err err) {
    MLXD_ASSERT((unsigned)err < MLXD_ERR_COUNT);
    return &table[err];
}

/* What a peer's status means to us; several of our errors share a status, so this is its own row
 * order: the first listed wins. */
mlxd_err mlxd_err_from_grpc(int code) {
    static const mlxd_err first[] = {MLXD_OK,          MLXD_ERR_CANCELLED,   MLXD_ERR_INVALID,
                                     MLXD_ERR_TIMEOUT, MLXD_ERR_NOTFOUND,    MLXD_ERR_EXISTS,
                                     MLXD_ERR_PERM,    MLXD_ERR_FULL,        MLXD_ERR_STATE,
                                     MLXD_ERR_RANGE,   MLXD_ERR_UNSUPPORTED, MLXD_ERR_PEER,
                                     MLXD_ERR_CORRUPT};
    for (size_t i = 0; i < MLXD_COUNT_OF(first); i++)
        if (table[first[i]].grpc_status == code)
            return first[i];
    return MLXD_ERR_IO;
}

const char *mlxd_err_name(mlxd_err err) {
    return mlxd_err_get(err)->name;
}

static void replace_control_bytes(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

mlxd_err mlxd_fail(mlxd_why *why, mlxd_err err, const char *fmt, ...) {
    if (!why)
        return err;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    replace_control_bytes(why->text);
    return err;
}

mlxd_err mlxd_fail_in(mlxd_why *why, mlxd_err err, const char *fmt, ...) {
    if (!why)
        return err;
    mlxd_why old = *why;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    int room = MLXD_WHY_MAX - 3 - n; /* ": " and NUL */
    if (n >= 0 && room > 0)
        snprintf(why->text + n, (size_t)room + 3, ": %.*s", room, old.text);
    replace_control_bytes(why->text);
    return err;
}

void mlxd_assert_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "mlxd: assertion failed: %s (%s:%d)\n", cond, file, line);
    abort();
}

mlxd_slice mlxd_slice_str(const char *s) {
    return (mlxd_slice){(const uint8_t *)s, strlen(s)};
}

bool mlxd_slice_eq(mlxd_slice a, mlxd_slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
