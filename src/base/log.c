/* log.c - see log.h. A line is built on the stack and written with one write(). */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static mlxd_log_level max_level = MLXD_LOG_WARN;
static bool as_json;

static const char *const names[] = {"error", "warn", "info", "debug"};

void mlxd_log_init(mlxd_log_level level, bool json) {
    max_level = level;
    as_json = json;
}

bool mlxd_log_enabled(mlxd_log_level level) {
    return level <= max_level;
}

bool mlxd_log_parse_level(const char *name, mlxd_log_level *out) {
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (mlxd_log_level)i;
            return true;
        }
    return false;
}

/* Bytes of the UTF-8 character at `s` (NUL-terminated, first byte >= 0x80); 0: it is none. */
static size_t utf8_len(const unsigned char *s) {
    size_t len = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    /* The second byte also excludes long forms, surrogates and what is beyond U+10FFFF. */
    unsigned min = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned max = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (len && (s[1] < min || s[1] > max))
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

/* Copies `s` with control bytes (and, for JSON, quotes, backslashes and what is not UTF-8)
 * escaped: a text from a peer, or one that was cut, must not break the line for its reader. */
static void escape(char *out, size_t size, const char *s) {
    size_t n = 0;
    while (*s && n + 8 < size) {
        unsigned char c = (unsigned char)*s;
        size_t len = as_json && c >= 0x80 ? utf8_len((const unsigned char *)s) : 1;
        if (len == 0)
            n += (size_t)snprintf(out + n, size - n, "\\ufffd");
        else if (c < 0x20 || c == 0x7f)
            n += (size_t)snprintf(out + n, size - n, "\\u%04x", c);
        else if (as_json && (c == '"' || c == '\\'))
            n += (size_t)snprintf(out + n, size - n, "\\%c", c);
        else
            for (size_t i = 0; i < len; i++)
                out[n++] = s[i];
        s += MLXD_MAX(len, (size_t)1);
    }
    out[n] = 0;
}

void mlxd_log(mlxd_log_level level, const char *component, const char *fmt, ...) {
    if (!mlxd_log_enabled(level))
        return;
    char msg[LINE_MAX_BYTES], safe[LINE_MAX_BYTES], line[LINE_MAX_BYTES + 128], ts[25];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    escape(safe, sizeof safe, msg);
    mlxd_clock_format(mlxd_clock_wall_ns(), ts);
    int n;
    if (as_json)
        n = snprintf(line, sizeof line,
                     "{\"ts\":\"%s\",\"level\":\"%s\",\"component\":\"%s\",\"msg\":\"%s\"}\n", ts,
                     names[level], component, safe);
    else
        n = snprintf(line, sizeof line, "%.12s %-5s %-8s %s\n", ts + 11, names[level], component,
                     safe);
    if (n > 0 && write(STDERR_FILENO, line, MLXD_MIN((size_t)n, sizeof line - 1)) < 0)
        return; /* nowhere left to say it */
}
