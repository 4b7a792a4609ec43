/* progress.c - see progress.h. Redrawn at most 20 times a second, with one write(). */
#include "cli/progress.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define REDRAW_NS (50 * MLXD_NS_PER_MS)

void mlxd_bar_init(mlxd_bar *b, const char *label, bool quiet) {
    b->label = label;
    b->shown = !quiet && isatty(STDERR_FILENO);
    atomic_store(&b->last_ns, 0);
}

static void draw(void *ctx, uint64_t done, uint64_t total) {
    mlxd_bar *b = ctx;
    uint64_t now = mlxd_clock_now_ns(), last = atomic_load(&b->last_ns);
    if (!b->shown || total == 0 || (done < total && now - last < REDRAW_NS) ||
        !atomic_compare_exchange_strong(&b->last_ns, &last, now))
        return;
    char bar[BAR_WIDTH + 1], line[160];
    size_t filled = (size_t)(done * BAR_WIDTH / total);
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', MLXD_MIN(filled, (size_t)BAR_WIDTH));
    bar[BAR_WIDTH] = 0;
    int n = snprintf(line, sizeof line, "\r%-16s [%s] %4llu / %llu MiB ", b->label, bar,
                     (unsigned long long)(done >> 20), (unsigned long long)(total >> 20));
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        b->shown = false;
}

mlxd_progress mlxd_bar_progress(mlxd_bar *b) {
    return (mlxd_progress){draw, b};
}

void mlxd_bar_text(mlxd_bar *b, const char *text) {
    char line[160];
    int n = snprintf(line, sizeof line, "\r\033[K%.140s", text);
    if (b->shown && write(STDERR_FILENO, line, (size_t)n) < 0)
        b->shown = false;
    atomic_store(&b->last_ns, mlxd_clock_now_ns());
}

void mlxd_bar_clear(mlxd_bar *b) {
    static const char clear[] = "\r\033[K";
    if (b->shown && atomic_load(&b->last_ns) && write(STDERR_FILENO, clear, sizeof clear - 1) < 0)
        b->shown = false;
}
