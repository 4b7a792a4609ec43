/* line.c - see line.h.
 *
 * libedit reads through read_char below, which waits with signals let in only while it waits, so
 * that none can slip between looking and waiting, and which decodes UTF-8 itself.
 */
#include "cli/line.h"

#include "cli/local.h"
#include "format/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(wchar_t) == 4, "a wide character is a code point");

#define HISTORY_LINES 1000
#define PASTE_ON "\033[?2004h"
#define PASTE_OFF "\033[?2004l"

struct mlxd_line {
    EditLine *edit;
    HistoryW *history;
    char path[4096];
    const wchar_t *prompt;
    bool interrupted;
    uint8_t held[4]; /* bytes of a character that is not complete */
    size_t n_held;
    mlxd_buf wide; /* scratch: wide characters */
    struct sigaction old_winch, old_cont;
};

/* ---- the terminal ---- */

static volatile sig_atomic_t resized, continued;

static void on_signal(int sig) {
    if (sig == SIGWINCH)
        resized = 1;
    else
        continued = 1;
}

/* Waits until a byte can be read. False: interrupted. */
static bool wait_input(mlxd_line *l) {
    sigset_t some, old;
    sigemptyset(&some);
    sigaddset(&some, SIGINT);
    sigaddset(&some, SIGTERM);
    sigaddset(&some, SIGWINCH);
    sigaddset(&some, SIGCONT);
    pthread_sigmask(SIG_BLOCK, &some, &old);
    for (;;) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(STDIN_FILENO, &set);
        l->interrupted = mlxd_local_interrupted();
        if (l->interrupted)
            break;
        if (resized) {
            resized = 0;
            el_resize(l->edit);
        }
        if (continued) {
            continued = 0;
            el_wset(l->edit, EL_PREP_TERM, 1);
            el_wset(l->edit, EL_REFRESH);
        }
        if (pselect(STDIN_FILENO + 1, &set, NULL, NULL, NULL, &old) >= 0 || errno != EINTR)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return !l->interrupted;
}

/* One character: 1, 0 at the end, -1 when interrupted or broken. */
static int read_char(EditLine *edit, wchar_t *out) {
    mlxd_line *l;
    el_wget(edit, EL_CLIENTDATA, &l);
    for (;;) {
        uint32_t cp;
        if (!wait_input(l)) {
            errno = EINTR;
            return -1;
        }
        ssize_t n = read(STDIN_FILENO, l->held + l->n_held, 1);
        if (n <= 0)
            return n == 0 ? 0 : -1;
        l->n_held++;
        size_t took = mlxd_utf8_next(l->held, l->n_held, &cp);
        if (cp == MLXD_UTF8_BAD && took == l->n_held && l->held[0] >= 0xc2 && l->held[0] <= 0xf4)
            continue; /* the beginning of a character */
        l->n_held = 0;
        *out = (wchar_t)(cp == MLXD_UTF8_BAD ? MLXD_UTF8_REPLACEMENT : cp);
        return 1;
    }
}

static void use_paste(bool on) {
    const char *term = getenv("TERM");
    if (term && strcmp(term, "dumb") != 0) {
        fputs(on ? PASTE_ON : PASTE_OFF, stdout);
        fflush(stdout);
    }
}

/* What a terminal puts between ESC [ 200 ~ and ESC [ 201 ~: into the line, as it is. Line ends come
 * as carriage returns. */
static unsigned char paste(EditLine *edit, wint_t key) {
    static const wchar_t end[] = L"\033[201~";
    mlxd_line *l;
    size_t matched = 0;
    wchar_t c;
    (void)key;
    el_wget(edit, EL_CLIENTDATA, &l);
    mlxd_buf_clear(&l->wide);
    while (end[matched]) {
        if (read_char(edit, &c) != 1)
            return CC_EOF;
        matched = c == end[matched] ? matched + 1 : c == end[0] ? 1 : 0;
        c = c == L'\r' ? L'\n' : c;
        if (c != 0)
            mlxd_buf_add(&l->wide, &c, sizeof c);
        if (l->wide.failed)
            return CC_ERROR;
    }
    l->wide.len -= (MLXD_COUNT_OF(end) - 1) * sizeof c;
    c = 0;
    mlxd_buf_add(&l->wide, &c, sizeof c);
    if (l->wide.failed ||
        (l->wide.len > sizeof c && el_winsertstr(edit, (const wchar_t *)(void *)l->wide.data) != 0))
        return CC_ERROR;
    return CC_REFRESH;
}

static wchar_t *give_prompt(EditLine *edit) {
    mlxd_line *l;
    static wchar_t prompt[8];
    el_wget(edit, EL_CLIENTDATA, &l);
    wcsncpy(prompt, l->prompt, MLXD_COUNT_OF(prompt) - 1);
    return prompt;
}

/* ---- history ---- */

void mlxd_line_history_path(char *out, size_t size) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (state && state[0] == '/')
        n = snprintf(out, size, "%s/mlxd/history", state);
    else if (home && home[0] == '/')
        n = snprintf(out, size, "%s/.local/state/mlxd/history", home);
    if (n <= 0 || (size_t)n >= size)
        out[0] = 0;
}

/* Makes the folders of the path and the file, for the user alone. */
static mlxd_err make_file(char *path, mlxd_why *why) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        if (failed)
            (void)mlxd_fail(why, MLXD_ERR_IO, "%s: cannot be made: %s", path, strerror(errno));
        *slash = '/';
        if (failed)
            return MLXD_ERR_IO;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0 && fchmod(fd, 0600) == 0;
    if (!good)
        (void)mlxd_fail(why, MLXD_ERR_IO, "%s: no history: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return good ? MLXD_OK : MLXD_ERR_IO;
}

static void open_history(mlxd_line *l, const char *path, mlxd_why *why) {
    HistEventW event;
    history_w(l->history, &event, H_SETSIZE, HISTORY_LINES);
    history_w(l->history, &event, H_SETUNIQUE, 1);
    if (!*path)
        return;
    snprintf(l->path, sizeof l->path, "%s", path);
    if (make_file(l->path, why))
        l->path[0] = 0;
    else
        history_w(l->history, &event, H_LOAD, l->path); /* fails for a new, empty file */
}

/* ---- open, close ---- */

/* libedit shows characters through the locale: one with UTF-8, if there is any. */
static void use_utf8(void) {
    static const char *const names[] = {"", "C.UTF-8", "en_US.UTF-8", "UTF-8"};
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        if (setlocale(LC_CTYPE, names[i]) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0)
            return;
}

static void set_up(mlxd_line *l) {
    EditLine *e = l->edit;
    el_wset(e, EL_CLIENTDATA, l);
    el_wset(e, EL_PROMPT, give_prompt);
    el_wset(e, EL_EDITOR, L"emacs");
    el_wset(e, EL_HIST, history_w, l->history);
    el_wset(e, EL_GETCFN, read_char);
    el_wset(e, EL_ADDFN, L"mlxd-paste", L"Insert pasted text", paste);
    el_wset(e, EL_BIND, L"\\e[200~", L"mlxd-paste", NULL);
    el_wset(e, EL_BIND, L"^R", L"em-inc-search-prev", NULL);
    el_source(e, NULL);
}

mlxd_err mlxd_line_open(mlxd_line **out, const char *history, mlxd_why *why) {
    struct sigaction sa = {.sa_handler = on_signal};
    mlxd_line *l = mlxd_mem_new(1, sizeof *l);
    *why = (mlxd_why){0};
    if (!l)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    mlxd_buf_init(&l->wide, MLXD_LIMIT_BODY_BYTES);
    sigaction(SIGWINCH, &sa, &l->old_winch);
    sigaction(SIGCONT, &sa, &l->old_cont);
    use_utf8();
    l->prompt = L"";
    l->history = history_winit();
    l->edit = el_init("mlxd", stdin, stdout, stderr);
    if (!l->history || !l->edit) {
        mlxd_line_close(l);
        return mlxd_fail(why, MLXD_ERR_STATE, "the terminal cannot be used for a conversation");
    }
    open_history(l, history, why);
    set_up(l);
    *out = l;
    return MLXD_OK;
}

void mlxd_line_close(mlxd_line *l) {
    if (!l)
        return;
    if (l->edit)
        el_end(l->edit);
    if (l->history)
        history_wend(l->history);
    sigaction(SIGWINCH, &l->old_winch, NULL);
    sigaction(SIGCONT, &l->old_cont, NULL);
    mlxd_buf_deinit(&l->wide);
    mlxd_mem_free(l);
}

/* ---- reading ---- */

/* One line, without its end, appended to `out`. */
static mlxd_line_result read_line(mlxd_line *l, const wchar_t *prompt, mlxd_buf *out) {
    int n = 0;
    l->prompt = prompt;
    l->n_held = 0;
    /* Before the prompt: libedit does it behind it, where keys that were quick enough would have
     * been taken for the terminal's own. */
    el_wset(l->edit, EL_PREP_TERM, 1);
    use_paste(true);
    const wchar_t *line = el_wgets(l->edit, &n);
    use_paste(false);
    if (!line || n <= 0) {
        bool empty = el_wline(l->edit)->lastchar == el_wline(l->edit)->buffer;
        if (!l->interrupted)
            return MLXD_LINE_END;
        mlxd_local_forget();
        return empty ? MLXD_LINE_INTERRUPT : MLXD_LINE_DROPPED;
    }
    for (int i = 0; i < n && !(i == n - 1 && line[i] == L'\n'); i++) {
        uint8_t utf8[4];
        uint32_t cp = (uint32_t)line[i];
        bool scalar = cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff);
        mlxd_buf_add(out, utf8, mlxd_utf8_put(scalar ? cp : MLXD_UTF8_REPLACEMENT, utf8));
    }
    return MLXD_LINE_TEXT;
}

static bool ends_with(const mlxd_buf *b, size_t from, const char *part) {
    size_t n = strlen(part);
    return b->len >= from + n && memcmp(b->data + b->len - n, part, n) == 0;
}

static void remember(mlxd_line *l, const mlxd_buf *text, size_t from) {
    HistEventW event;
    wchar_t c;
    mlxd_buf_clear(&l->wide);
    for (size_t at = from, n; at < text->len; at += n) {
        uint32_t cp;
        n = mlxd_utf8_next(text->data + at, text->len - at, &cp);
        c = (wchar_t)cp;
        mlxd_buf_add(&l->wide, &c, sizeof c);
    }
    c = 0;
    mlxd_buf_add(&l->wide, &c, sizeof c);
    if (l->wide.failed)
        return;
    history_w(l->history, &event, H_ENTER, (const wchar_t *)(void *)l->wide.data);
    if (l->path[0])
        history_w(l->history, &event, H_SAVE, l->path);
}

/* Takes the quotes off, and the line feeds beside them. */
static void unquote(mlxd_buf *b, size_t from) {
    uint8_t *text = b->data + from;
    size_t start = 3, end = b->len - from - 3;
    if (end > start && text[start] == '\n')
        start++;
    if (end > start && text[end - 1] == '\n')
        end--;
    memmove(text, text + start, end - start);
    b->len = from + end - start;
}

mlxd_line_result mlxd_line_read(mlxd_line *l, mlxd_buf *out) {
    static const char quotes[] = "\"\"\"";
    size_t from = out->len;
    bool quoted = false;
    mlxd_line_result r = read_line(l, L">>> ", out);
    if (r == MLXD_LINE_TEXT && out->len >= from + 3)
        quoted = memcmp(out->data + from, quotes, 3) == 0 &&
                 (out->len < from + 6 || !ends_with(out, from, quotes));
    while (r == MLXD_LINE_TEXT && (quoted || ends_with(out, from, "\\"))) {
        if (!quoted)
            out->len--;
        mlxd_buf_add_byte(out, '\n');
        r = read_line(l, L"... ", out);
        quoted = quoted && !ends_with(out, from + 3, quotes);
    }
    if (r != MLXD_LINE_TEXT) {
        bool dropped = r == MLXD_LINE_INTERRUPT && out->len > from;
        out->len = from;
        return dropped ? MLXD_LINE_DROPPED : r;
    }
    if (out->len > from && !out->failed)
        remember(l, out, from);
    if (out->len >= from + 6 && memcmp(out->data + from, quotes, 3) == 0 &&
        ends_with(out, from + 3, quotes))
        unquote(out, from);
    return r;
}
