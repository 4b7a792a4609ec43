/* pull_view.c - see pull_view.h. */
#include "cli/pull_view.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "format/json.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_NS (10 * MLXD_NS_PER_S)
#define SLOT_NS (250 * MLXD_NS_PER_MS)
#define ROWS_MAX 8 /* files with a bar of their own */

void mlxd_cli_bytes(uint64_t bytes, char out[16]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1023.95 && u + 1 < MLXD_COUNT_OF(units); u++)
        v /= 1024;
    snprintf(out, 16, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

void mlxd_pull_view_init(mlxd_pull_view *v, bool quiet, bool json) {
    *v = (mlxd_pull_view){.quiet = quiet, .json = json};
    v->terminal = !quiet && !json && isatty(STDERR_FILENO);
}

/* ---- rate ---- */

static double rate(mlxd_pull_view *v, uint64_t now, uint64_t bytes) {
    unsigned newest = (v->slot + MLXD_PULL_RATE_SLOTS - 1) % MLXD_PULL_RATE_SLOTS;
    if (now - v->slots[newest].ns >= SLOT_NS) {
        v->slots[v->slot].ns = now;
        v->slots[v->slot].bytes = bytes;
        v->slot = (v->slot + 1) % MLXD_PULL_RATE_SLOTS;
    }
    unsigned oldest = v->slots[v->slot].ns ? v->slot : 0;
    uint64_t span = now - v->slots[oldest].ns, before = v->slots[oldest].bytes;
    return span > 0 && bytes > before ? (double)(bytes - before) * 1e9 / (double)span : 0;
}

static void format_eta(double seconds, char out[16]) {
    unsigned long s = seconds > 359999 ? 359999 : (unsigned long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, 16, "%lu:%02lu:%02lu", s / 3600 % 100, s / 60 % 60, s % 60);
    else
        snprintf(out, 16, "%lu:%02lu", s / 60, s % 60);
}

/* ---- a terminal ---- */

static int columns(void) {
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

/* "name  [####....]  1.0 / 2.0 GiB  tail", cut to the terminal's width. */
static void add_bar(mlxd_buf *out, const char *name, uint64_t done, uint64_t total,
                    const char *tail) {
    char a[16], b[16], line[512], bar[31];
    int width = columns() - 1, wide = width < 100 ? 12 : 30;
    const char *shown = name;
    size_t len = strlen(name), room = width < 100 ? 24 : 44;
    if (len > room) /* the end tells more: -00002-of-00007.safetensors */
        shown = name + (len - room);
    int filled = total ? (int)(MLXD_MIN(done, total) * (uint64_t)wide / total) : wide;
    memset(bar, '.', sizeof bar);
    memset(bar, '#', (size_t)filled);
    mlxd_cli_bytes(done, a);
    mlxd_cli_bytes(total, b);
    int n = snprintf(line, sizeof line, "%-*.*s [%.*s] %10s / %-10s %s", (int)room, (int)room,
                     shown, wide, bar, a, b, tail);
    mlxd_buf_addf(out, "%.*s\033[K\n", MLXD_MIN(n, width), line);
}

static void add_rows(mlxd_pull_view *v, const mlxd_hub_progress *p, mlxd_buf *out) {
    for (size_t i = 0; i < p->count && v->drawn < ROWS_MAX; i++) {
        const mlxd_hub_state *s = &p->states[i];
        const char *tail = s->status == MLXD_HUB_LOCKED     ? "another process fetches it"
                           : s->status == MLXD_HUB_CHECKING ? "checking"
                           : s->status == MLXD_HUB_RETRYING ? s->note
                                                            : "";
        if (s->status == MLXD_HUB_QUEUED || s->status >= MLXD_HUB_PRESENT)
            continue;
        add_bar(out, p->files[i]->path, s->done, p->files[i]->size, tail);
        v->drawn++;
    }
}

static void draw(mlxd_pull_view *v, const mlxd_hub_progress *p, double bytes_per_s) {
    char tail[64], per_s[16], eta[16] = "";
    mlxd_buf out;
    mlxd_buf_init(&out, 1u << 16);
    if (v->drawn > 0)
        mlxd_buf_addf(&out, "\033[%uA\r\033[J", v->drawn);
    v->drawn = 0;
    add_rows(v, p, &out);
    mlxd_cli_bytes((uint64_t)bytes_per_s, per_s);
    if (bytes_per_s > 0)
        format_eta((double)(p->bytes_total - p->bytes_done) / bytes_per_s, eta);
    snprintf(tail, sizeof tail, "%s/s  %s", per_s, eta);
    add_bar(&out, p->repo, p->bytes_done, p->bytes_total, tail);
    v->drawn++;
    if (!out.failed && write(STDERR_FILENO, out.data, out.len) < 0)
        v->terminal = false;
    mlxd_buf_deinit(&out);
}

void mlxd_pull_view_deinit(mlxd_pull_view *v) {
    if (v->terminal && v->drawn > 0)
        fprintf(stderr, "\033[%uA\r\033[J", v->drawn);
    v->drawn = 0;
    mlxd_mem_free(v->seen);
    v->seen = NULL;
}

/* ---- lines, for people and for programs ---- */

static const char *status_name(mlxd_hub_status s) {
    static const char *const names[] = {"queued",   "locked",  "checking", "fetching",
                                        "retrying", "present", "done",     "failed"};
    return names[s];
}

static void print_json(mlxd_buf *out) {
    mlxd_buf_add_byte(out, '\n');
    if (!out->failed) /* a reader that has gone is found out at the end */
        (void)fwrite(out->data, 1, out->len, stdout);
    (void)fflush(stdout);
}

static void json_file(const mlxd_hub_progress *p, size_t i) {
    const mlxd_hub_state *s = &p->states[i];
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    mlxd_jsonw_init(&w, &out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "event", "file");
    mlxd_jsonw_member_str(&w, "path", p->files[i]->path);
    mlxd_jsonw_member_str(&w, "status", status_name(s->status));
    mlxd_jsonw_member_uint(&w, "done", s->done);
    mlxd_jsonw_member_uint(&w, "resumed", s->resumed);
    mlxd_jsonw_member_uint(&w, "total", p->files[i]->size);
    if (s->status == MLXD_HUB_RETRYING || s->status == MLXD_HUB_FAILED)
        mlxd_jsonw_member_str(&w, "reason", s->note);
    mlxd_jsonw_object_end(&w);
    print_json(&out);
    mlxd_buf_deinit(&out);
}

static void json_total(const mlxd_hub_progress *p, const char *event) {
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    mlxd_jsonw_init(&w, &out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "event", event);
    mlxd_jsonw_member_str(&w, "repo", p->repo);
    mlxd_jsonw_member_str(&w, "commit", p->commit);
    mlxd_jsonw_member_uint(&w, "files", p->count);
    mlxd_jsonw_member_uint(&w, "done", p->bytes_done);
    mlxd_jsonw_member_uint(&w, "total", p->bytes_total);
    mlxd_jsonw_object_end(&w);
    print_json(&out);
    mlxd_buf_deinit(&out);
}

static void line_file(const mlxd_hub_progress *p, size_t i) {
    const mlxd_hub_state *s = &p->states[i];
    char size[16], had[16];
    mlxd_cli_bytes(p->files[i]->size, size);
    mlxd_cli_bytes(s->resumed, had);
    if (s->status == MLXD_HUB_DONE && s->resumed > 0)
        fprintf(stderr, "  %s  %s (%s of it were there)\n", p->files[i]->path, size, had);
    else if (s->status == MLXD_HUB_DONE || s->status == MLXD_HUB_PRESENT)
        fprintf(stderr, "  %s  %s%s\n", p->files[i]->path, size,
                s->status == MLXD_HUB_PRESENT ? " (is there)" : "");
    else if (s->status == MLXD_HUB_LOCKED)
        fprintf(stderr, "  %s  waiting: another process fetches it\n", p->files[i]->path);
    else if (s->status == MLXD_HUB_RETRYING)
        fprintf(stderr, "  %s  trying again: %s\n", p->files[i]->path, s->note);
}

static void begin(mlxd_pull_view *v, const mlxd_hub_progress *p, uint64_t now) {
    char size[16];
    v->begun = true;
    v->begun_ns = v->told_ns = now;
    v->seen = mlxd_mem_new(p->count + 1, sizeof *v->seen);
    v->slots[0].ns = now;
    v->slots[0].bytes = p->bytes_done;
    v->slot = 1;
    mlxd_cli_bytes(p->bytes_total, size);
    if (v->json)
        json_total(p, "plan");
    else if (!v->quiet)
        fprintf(stderr, "pulling %s (commit %.12s): %zu files, %s\n", p->repo, p->commit, p->count,
                size);
}

void mlxd_pull_view_show(mlxd_pull_view *v, const mlxd_hub_progress *p) {
    uint64_t now = mlxd_clock_now_ns();
    if (!p || (v->quiet && !v->json))
        return;
    if (!v->begun)
        begin(v, p, now);
    for (size_t i = 0; i < p->count && v->seen; i++) {
        if (v->seen[i] == p->states[i].status)
            continue;
        v->seen[i] = p->states[i].status;
        if (v->json)
            json_file(p, i);
        else if (!v->terminal)
            line_file(p, i);
    }
    double bytes_per_s = rate(v, now, p->bytes_done);
    if (v->terminal) {
        draw(v, p, bytes_per_s);
    } else if (now - v->told_ns >= (v->json ? MLXD_NS_PER_S : LINE_NS)) {
        char done[16], total[16], per_s[16];
        v->told_ns = now;
        mlxd_cli_bytes(p->bytes_done, done);
        mlxd_cli_bytes(p->bytes_total, total);
        mlxd_cli_bytes((uint64_t)bytes_per_s, per_s);
        if (v->json)
            json_total(p, "progress");
        else
            fprintf(stderr, "  %s of %s, %s/s\n", done, total, per_s);
    }
}
