/* sse.h - server-sent events (the WHATWG text/event-stream format) as bytes in a buffer.
 *
 *     data: {"id":"chatcmpl-1", ...}\n\n       an event; one "data:" line per line of the payload
 *     event: message_stop\ndata: {}\n\n        an event with a name
 *     : keepalive 512/4096\n\n                 a comment: clients ignore it, proxies see traffic
 *     data: [DONE]\n\n                         OpenAI's last event
 *
 * Pure functions; failures stick in the buffer (mem.h), so the caller checks `failed` once.
 */
#ifndef MLXD_FORMAT_SSE_H
#define MLXD_FORMAT_SSE_H

#include "base/base.h"
#include "base/mem.h"

/* Appends one event. Line ends in `data` (LF, CR or CRLF) separate data lines, which a client
 * joins with LF again. */
void mlxd_sse_data(mlxd_buf *out, mlxd_slice data);
/* The same with an event name, a constant without line ends. */
void mlxd_sse_event(mlxd_buf *out, const char *name, mlxd_slice data);
/* Appends a comment; line ends in `text` become spaces. */
void mlxd_sse_comment(mlxd_buf *out, const char *text);
/* Appends "data: [DONE]". */
void mlxd_sse_done(mlxd_buf *out);

#endif
