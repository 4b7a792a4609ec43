/* trace.h - the engine's events and actions as JSON lines, for replay and for reading.
 *
 *     {"params":{...}}
 *     {"t":123,"event":"request","id":7,"n_prompt":12,"max_tokens":64}
 *     {"act":"embed","step":1,"rows":[[7,0,12,1]]}            session, position, tokens, wanted
 *     {"t":130,"event":"staged","step":1,"index":0,"err":0,"rows":[7]}
 *     {"t":140,"event":"drawn","step":1,"err":0,"rows":[[7,0]]}           session, finish reason
 *
 * An event line is followed by the lines of the actions it caused. Tokens and texts are not in it.
 * mlxd_trace_replay drives a fresh engine with the events and compares every action.
 */
#ifndef MLXD_SERVE_TRACE_H
#define MLXD_SERVE_TRACE_H

#include "serve/engine.h"

/* Each appends one line. */
void mlxd_trace_params(mlxd_buf *out, const mlxd_engine_params *p);
void mlxd_trace_event(mlxd_buf *out, const mlxd_event *ev);
void mlxd_trace_step(mlxd_buf *out, const char *act, const mlxd_step *step, uint32_t index);
void mlxd_trace_drop(mlxd_buf *out, uint32_t index, uint64_t session);
void mlxd_trace_request(mlxd_buf *out, const char *act, uint64_t id, mlxd_err err);

/* Replays a whole trace. DATA: not a trace (with the line); CORRUPT: the engine acted differently
 * (with the line and what it did). */
mlxd_err mlxd_trace_replay(mlxd_slice text, mlxd_why *why) MLXD_MUST_CHECK;

#endif
