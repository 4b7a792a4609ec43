/* prometheus.h - for tests: a strict reader of Prometheus' text format 0.0.4. It fails the test at
 * the first line that a careful scraper would not like:
 *
 *   - each family: HELP, TYPE, then all of its samples, once in the text;
 *   - names and labels are well formed, values are numbers, no series comes twice;
 *   - counters end in _total and are not negative;
 *   - histograms have rising le up to +Inf, counts that do not fall, and _sum and _count that fit.
 */
#ifndef MLXD_TESTS_PROMETHEUS_H
#define MLXD_TESTS_PROMETHEUS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PROM_SAMPLES_MAX 4096
#define PROM_FAMILIES_MAX 256

typedef struct prom_sample {
    char series[256]; /* name and labels, as written */
    double value;
} prom_sample;

typedef struct prom {
    prom_sample samples[PROM_SAMPLES_MAX];
    size_t n;
    char families[PROM_FAMILIES_MAX][96];
    size_t n_families;
} prom;

static inline size_t prom_name(const char *p) {
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n > 0 && !(*p >= '0' && *p <= '9') ? n : 0;
}

/* The end of {a="b",c="d"}; the same place when there is none. */
static inline const char *prom_labels(const char *p, const char *line) {
    if (*p != '{')
        return p;
    do {
        size_t n = prom_name(++p);
        if (n == 0 || strncmp(p + n, "=\"", 2) != 0)
            fail_msg("bad label: %s", line);
        for (p += n + 2; *p != '"'; p++) {
            if (*p == '\\' && !strchr("\\\"n", *++p))
                fail_msg("bad escape: %s", line);
            if (*p == 0)
                fail_msg("open label: %s", line);
        }
        p++;
    } while (*p == ',');
    if (*p != '}')
        fail_msg("labels do not end: %s", line);
    return p + 1;
}

static inline void prom_add(prom *m, const char *line, const char *family, const char *type) {
    size_t base = strlen(family), name = prom_name(line);
    const char *suffix = line + base, *end = prom_labels(line + name, line);
    char *rest;
    if (strncmp(line, family, base) != 0)
        fail_msg("not of family %s: %s", family, line);
    if (strcmp(type, "histogram") == 0
            ? strncmp(suffix, "_bucket{", 8) && strncmp(suffix, "_sum ", 5) &&
                  strncmp(suffix, "_count ", 7)
            : name != base)
        fail_msg("not of family %s: %s", family, line);
    if (*end != ' ' || (size_t)(end - line) >= sizeof m->samples[0].series)
        fail_msg("no value: %s", line);
    double v = strtod(end + 1, &rest);
    if (rest == end + 1 || *rest != 0)
        fail_msg("bad value: %s", line);
    if (strcmp(type, "gauge") != 0 && !(v >= 0))
        fail_msg("negative: %s", line);
    assert_true(m->n < PROM_SAMPLES_MAX);
    prom_sample *s = &m->samples[m->n];
    snprintf(s->series, sizeof s->series, "%.*s", (int)(end - line), line);
    s->value = v;
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->samples[i].series, s->series) == 0)
            fail_msg("twice: %s", s->series);
    m->n++;
}

/* The buckets of the histogram that begins at sample `i`. */
static inline void prom_histogram(const prom *m, size_t i, const char *family) {
    double last = 0, bound = -1, sum = 0;
    bool inf = false;
    for (; i < m->n && strstr(m->samples[i].series, "_bucket{le=\""); i++) {
        const char *le = strstr(m->samples[i].series, "le=\"") + 4;
        double b = strncmp(le, "+Inf", 4) == 0 ? 1e300 : strtod(le, NULL);
        if (inf || b <= bound || m->samples[i].value < last)
            fail_msg("%s: buckets do not rise", family);
        inf = b >= 1e300;
        bound = b;
        last = m->samples[i].value;
    }
    if (!inf || m->n - i != 2 || m->samples[i + 1].value != last)
        fail_msg("%s: not a whole histogram", family);
    sum = m->samples[i].value;
    if (last == 0 && sum != 0)
        fail_msg("%s: a sum of nothing", family);
}

static inline void prom_family(prom *m, const char *family, const char *type) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    bool known = false;
    for (size_t i = 0; i < 3; i++)
        known = known || strcmp(type, types[i]) == 0;
    size_t n = strlen(family);
    bool total = n > 6 && strcmp(family + n - 6, "_total") == 0;
    if (!known || total != (strcmp(type, "counter") == 0))
        fail_msg("%s is a %s", family, type);
    for (size_t i = 0; i < m->n_families; i++)
        if (strcmp(m->families[i], family) == 0)
            fail_msg("family %s comes twice", family);
    assert_true(m->n_families < PROM_FAMILIES_MAX);
    snprintf(m->families[m->n_families++], sizeof m->families[0], "%s", family);
}

static inline prom *prom_parse(const char *text) {
    prom *m = calloc(1, sizeof *m);
    char line[1024], family[96] = "", type[32] = "", help[96];
    size_t first = 0;
    assert_non_null(m);
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (text[n] != '\n' || n >= sizeof line)
            fail_msg("a line that does not end: %.60s", text);
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        text += n + 1;
        if (strncmp(line, "# HELP ", 7) == 0) {
            if (strcmp(type, "histogram") == 0)
                prom_histogram(m, first, family);
            if (sscanf(line, "# HELP %95s", help) != 1 || strlen(line) < 12 + strlen(help))
                fail_msg("no help: %s", line);
            n = strcspn(text, "\n");
            snprintf(line, sizeof line, "%.*s", (int)n, text);
            text += n + 1;
            if (sscanf(line, "# TYPE %95s %31s", family, type) != 2 || strcmp(family, help) != 0)
                fail_msg("TYPE must follow HELP: %s", line);
            prom_family(m, family, type);
            first = m->n;
        } else {
            prom_add(m, line, family, type);
        }
    }
    return m;
}

/* The value of a series; fails the test when it is not there. */
static inline double prom_get(const prom *m, const char *series) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->samples[i].series, series) == 0)
            return m->samples[i].value;
    fail_msg("no %s", series);
    return 0;
}

static inline bool prom_has(const prom *m, const char *series) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->samples[i].series, series) == 0)
            return true;
    return false;
}

#endif
