/* trace_names.h - names of engine events in a trace, shared by its writer and its reader. */
#ifndef MLXD_SERVE_TRACE_NAMES_H
#define MLXD_SERVE_TRACE_NAMES_H

#include "serve/engine.h"

extern const char *const mlxd_trace_event_names[MLXD_EVENT_TYPES];

#endif
