/* log.h - log lines on stderr, one write() each.
 *
 * Text form for terminals, JSON lines for machines:
 *     15:04:05.123 info  worker  session opened {session=7}
 *     {"ts":"2026-11-23T15:04:05.123Z","level":"info","component":"worker","msg":"..."}
 * Control bytes are escaped. Never prompts, outputs or keys.
 */
#ifndef MLXD_BASE_LOG_H
#define MLXD_BASE_LOG_H

#include "base/base.h"

typedef enum mlxd_log_level {
    MLXD_LOG_ERROR,
    MLXD_LOG_WARN,
    MLXD_LOG_INFO,
    MLXD_LOG_DEBUG
} mlxd_log_level;

/* Before threads start. Default: WARN, text. */
void mlxd_log_init(mlxd_log_level level, bool json);
bool mlxd_log_enabled(mlxd_log_level level);
/* "error|warn|info|debug" -> level; false when unknown. */
bool mlxd_log_parse_level(const char *name, mlxd_log_level *out);
/* Any thread. `component` is a short constant ("engine", "http"). */
void mlxd_log(mlxd_log_level level, const char *component, const char *fmt, ...) MLXD_PRINTF(3, 4);

#endif
