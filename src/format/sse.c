/* sse.c - see sse.h. */
#include "format/sse.h"

#include <string.h>

void mlxd_sse_data(mlxd_buf *out, mlxd_slice data) {
    size_t at = 0;
    for (;;) {
        size_t end = at;
        while (end < data.len && data.data[end] != '\n' && data.data[end] != '\r')
            end++;
        mlxd_buf_add_str(out, "data: ");
        if (end > at)
            mlxd_buf_add(out, data.data + at, end - at);
        mlxd_buf_add_byte(out, '\n');
        if (end == data.len)
            break;
        bool crlf = data.data[end] == '\r' && end + 1 < data.len && data.data[end + 1] == '\n';
        at = end + (crlf ? 2 : 1);
    }
    mlxd_buf_add_byte(out, '\n');
}

void mlxd_sse_event(mlxd_buf *out, const char *name, mlxd_slice data) {
    MLXD_ASSERT(strpbrk(name, "\r\n") == NULL);
    mlxd_buf_add_str(out, "event: ");
    mlxd_buf_add_str(out, name);
    mlxd_buf_add_byte(out, '\n');
    mlxd_sse_data(out, data);
}

void mlxd_sse_comment(mlxd_buf *out, const char *text) {
    mlxd_buf_add_str(out, ": ");
    for (; *text; text++)
        mlxd_buf_add_byte(out, *text == '\n' || *text == '\r' ? ' ' : (uint8_t)*text);
    mlxd_buf_add_str(out, "\n\n");
}

void mlxd_sse_done(mlxd_buf *out) {
    mlxd_buf_add_str(out, "data: [DONE]\n\n");
}
