/* base.h - what every file of mlxd may rely on: errors, assertions, checked size arithmetic.
 *
 * Errors come in two kinds. A programmer error hits MLXD_ASSERT, which stays on in release builds
 * and ends the process. An operating error (a bad file, a lost peer, no memory) is returned as an
 * `mlxd_err`; where it meets a person it carries an `mlxd_why`, one line that names the thing, what
 * was expected and what came. The error is logged once, where it is handled.
 *
 *     mlxd_err mlxd_thing_open(mlxd_thing **out, const char *path, mlxd_why *why);
 *     ...
 *     return mlxd_fail(why, MLXD_ERR_DATA, "%s: bad magic, expected \"GGUF\"", path);
 *
 * Sizes that come from a file or a peer are only combined with the checked helpers below.
 * This is the only header (besides kernel/) that uses compiler extensions.
 */
#ifndef MLXD_BASE_BASE_H
#define MLXD_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLXD_MUST_CHECK __attribute__((warn_unused_result))
#define MLXD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MLXD_NORETURN __attribute__((noreturn))
#define MLXD_UNUSED __attribute__((unused))
/* For large local arrays on hot paths: builds fill other locals with zeros. */
#if __has_attribute(uninitialized)
#define MLXD_UNCLEARED __attribute__((uninitialized))
#else
#define MLXD_UNCLEARED
#endif

#define MLXD_COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define MLXD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define MLXD_MAX(a, b) ((a) > (b) ? (a) : (b))

/* Why an operation did not happen. mlxd_err_info() gives each one's name, process exit code, HTTP
 * status and gRPC status; that table (err.c) is the only place where they are mapped. */
typedef enum mlxd_err {
    MLXD_OK = 0,
    MLXD_ERR_AGAIN,       /* not now; the same call may succeed later */
    MLXD_ERR_NOMEM,       /* memory could not be had, or a memory cap would be passed */
    MLXD_ERR_FULL,        /* a bounded queue, table or pool is full: back-pressure */
    MLXD_ERR_PROTO,       /* a peer broke the protocol */
    MLXD_ERR_TIMEOUT,     /* a deadline passed */
    MLXD_ERR_CANCELLED,   /* the one who asked does not want it any more */
    MLXD_ERR_PEER,        /* a peer is gone or cannot be reached */
    MLXD_ERR_IO,          /* the operating system failed a read, write, bind ... */
    MLXD_ERR_INVALID,     /* an argument or field from outside is out of its range */
    MLXD_ERR_NOTFOUND,    /* no such file, model, tensor, session */
    MLXD_ERR_PERM,        /* not permitted */
    MLXD_ERR_UNSUPPORTED, /* known, but not something this build does */
    MLXD_ERR_DATA,        /* a file's content is malformed */
    MLXD_ERR_CORRUPT,     /* content that was well formed is not what it must be (digest, NaN) */
    MLXD_ERR_STATE,       /* the state does not allow it: precondition failed */
    MLXD_ERR_RANGE,       /* position, layer or context beyond what there is */
    MLXD_ERR_EXISTS,      /* already there */
    MLXD_ERR_USAGE,       /* command line */
    MLXD_ERR_CONFIG,      /* configuration file or environment */
    MLXD_ERR_COUNT
} mlxd_err;

typedef struct mlxd_err_info {
    const char *name; /* "not found" */
    int exit_code;    /* sysexits number: 64 usage, 65 data, 66 missing, 69 unavailable ... */
    int http_status;
    int grpc_status;
} mlxd_err_info;

/* The row of the mapping table for `err`; never NULL. */
const mlxd_err_info *mlxd_err_get(mlxd_err err);
/* Nearest mlxd_err of a gRPC status code that a peer sent; IO for those we never send. */
mlxd_err mlxd_err_from_grpc(int code);
/* Short name of `err`, for logs. */
const char *mlxd_err_name(mlxd_err err);

#define MLXD_WHY_MAX 512

/* One line for a person. Plain value; callers put it on the stack. Everything that takes a
 * `mlxd_why *` accepts NULL. Control bytes in arguments are replaced, so that text from a peer or
 * a file cannot forge log lines. */
typedef struct mlxd_why {
    char text[MLXD_WHY_MAX];
} mlxd_why;

/* Writes the text (cut at MLXD_WHY_MAX-1 bytes) and returns `err`. */
mlxd_err mlxd_fail(mlxd_why *why, mlxd_err err, const char *fmt, ...) MLXD_PRINTF(3, 4);
/* Puts "prefix: " in front of the text that is there: callers add where it happened. */
mlxd_err mlxd_fail_in(mlxd_why *why, mlxd_err err, const char *fmt, ...) MLXD_PRINTF(3, 4);

/* Prints the condition with file and line to stderr, then aborts. Never reachable by input. */
MLXD_NORETURN void mlxd_assert_failed(const char *cond, const char *file, int line);
#define MLXD_ASSERT(cond) ((cond) ? (void)0 : mlxd_assert_failed(#cond, __FILE__, __LINE__))

/* Checked arithmetic: false when the result does not fit (then *out is unspecified). */
MLXD_MUST_CHECK static inline bool mlxd_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_add_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_sub_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_sub_overflow(a, b, out);
}
MLXD_MUST_CHECK static inline bool mlxd_mul_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
/* Rounds up to a power of two `align`. */
MLXD_MUST_CHECK static inline bool mlxd_align_u64(uint64_t v, uint64_t align, uint64_t *out) {
    if (!mlxd_add_u64(v, align - 1, out))
        return false;
    *out &= ~(align - 1);
    return true;
}

/* Bytes that somebody else owns. `len` may be 0 with any `data`. Not NUL-terminated. */
typedef struct mlxd_slice {
    const uint8_t *data;
    size_t len;
} mlxd_slice;

/* The bytes of a C string, without its NUL. */
mlxd_slice mlxd_slice_str(const char *s);
bool mlxd_slice_eq(mlxd_slice a, mlxd_slice b);

#endif
