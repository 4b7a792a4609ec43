/* screen.c - see screen.h. */
#include "cli/screen.h"

#include "cli/cli.h"
#include "format/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void mlxd_screen_init(mlxd_screen *s) {
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    *s = (mlxd_screen){.terminal = isatty(STDOUT_FILENO), .line = true};
    s->colour = s->terminal && !(no_colour && *no_colour) && term && strcmp(term, "dumb") != 0;
    mlxd_buf_init(&s->out, 0);
}

void mlxd_screen_deinit(mlxd_screen *s) {
    mlxd_buf_deinit(&s->out);
}

void mlxd_screen_neutralize(mlxd_buf *out, mlxd_slice text) {
    for (size_t at = 0, n; at < text.len; at += n) {
        uint32_t cp;
        n = mlxd_utf8_next(text.data + at, text.len - at, &cp);
        if (cp == '\n' || cp == '\t')
            mlxd_buf_add_byte(out, (uint8_t)cp);
        else if (cp < 0x20 || cp == 0x7f)
            mlxd_buf_addf(out, "^%c", (int)(cp ^ 0x40));
        else if ((cp >= 0x80 && cp < 0xa0) || cp == MLXD_UTF8_BAD)
            mlxd_buf_addf(out, "<U+%04X>", (unsigned)(cp == MLXD_UTF8_BAD ? 0xfffd : cp));
        else
            mlxd_buf_add(out, text.data + at, n);
    }
}

/* Between what is thought and what is said. */
static void change(mlxd_screen *s, bool thinking) {
    if (s->thinking == thinking)
        return;
    s->thinking = thinking;
    if (thinking) {
        if (!s->line)
            mlxd_buf_add_str(&s->out, "\n");
        mlxd_buf_add_str(&s->out, s->colour ? "\033[2m" : "Thinking...\n");
        return;
    }
    if (s->colour)
        mlxd_buf_add_str(&s->out, "\033[0m");
    if (!s->line)
        mlxd_buf_add_str(&s->out, "\n");
    mlxd_buf_add_str(&s->out, s->colour ? "\n" : "...done thinking.\n\n");
}

static mlxd_err flush(mlxd_screen *s, mlxd_why *why) {
    mlxd_err err = s->out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                                 : mlxd_cli_print(s->out.data, s->out.len, why);
    mlxd_buf_clear(&s->out);
    return err;
}

mlxd_err mlxd_screen_write(mlxd_screen *s, bool reasoning, mlxd_slice text, mlxd_why *why) {
    if (text.len == 0 || (reasoning && !s->terminal))
        return MLXD_OK;
    if (!s->terminal)
        return mlxd_cli_print(text.data, text.len, why);
    change(s, reasoning);
    mlxd_screen_neutralize(&s->out, text);
    s->line = text.data[text.len - 1] == '\n';
    return flush(s, why);
}

mlxd_err mlxd_screen_end(mlxd_screen *s, mlxd_why *why) {
    if (s->thinking && s->colour)
        mlxd_buf_add_str(&s->out, "\033[0m");
    if (!s->line || !s->terminal)
        mlxd_buf_add_str(&s->out, "\n");
    s->thinking = false;
    s->line = true;
    return flush(s, why);
}
