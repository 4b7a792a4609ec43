/* render_template.c - renders chat templates for tests/golden/compare_templates.py.
 *
 *     render_template TEMPLATE CASES
 *
 * TEMPLATE is Jinja source; CASES a JSON array of objects, each one context: its members become the
 * variables. Member "_now" is the time for strftime_now. Prints a JSON object per case and line:
 *     {"text": "..."}  or  {"error": "invalid", "why": "..."}
 * A template that cannot be read gives the same error for every case. The variables are untrusted:
 * U+E000 in a trusted part of the text ends the program with code 3. */
#include "model/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mlxd_slice read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    mlxd_buf b;
    mlxd_buf_init(&b, 0);
    uint8_t chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        mlxd_buf_add(&b, chunk, n);
    fclose(f);
    return (mlxd_slice){b.data, b.len};
}

static void report(mlxd_err err, const mlxd_why *why, mlxd_slice text) {
    mlxd_buf b;
    mlxd_jsonw w;
    mlxd_buf_init(&b, 0);
    mlxd_jsonw_init(&w, &b);
    mlxd_jsonw_object_begin(&w);
    if (err) {
        mlxd_jsonw_member_str(&w, "error", mlxd_err_name(err));
        mlxd_jsonw_member_str(&w, "why", why->text);
    } else {
        mlxd_jsonw_key(&w, "text");
        mlxd_jsonw_slice(&w, text);
    }
    mlxd_jsonw_object_end(&w);
    puts(mlxd_buf_str(&b));
    mlxd_buf_deinit(&b);
}

static void check_trust(mlxd_slice text, const mlxd_text_range *spans, size_t n) {
    static const char mark[] = "\xee\x80\x80"; /* U+E000 */
    for (size_t i = 0; i < n; i++)
        for (size_t at = spans[i].start; at < spans[i].end; at++)
            if (memcmp(text.data + at, mark, MLXD_MIN(spans[i].end - at, sizeof mark - 1)) == 0) {
                fprintf(stderr, "text of a variable is trusted: %.*s\n", (int)text.len,
                        (const char *)text.data);
                exit(3);
            }
}

static mlxd_err render(const mlxd_jinja *t, const mlxd_json *c, mlxd_why *why) {
    mlxd_jinja_run *r;
    int64_t now = 0;
    mlxd_slice key, text = {0};
    const mlxd_text_range *spans;
    size_t n;
    const mlxd_json *v = mlxd_json_find(c, "_now");
    if (v && mlxd_json_get_int64(v, &now))
        exit(2);
    mlxd_err err = mlxd_jinja_begin(&r, t, now, why);
    if (err)
        return err;
    for (v = mlxd_json_first(c, &key); v; v = mlxd_json_next(c, v, &key))
        mlxd_jinja_set_json(r, (const char *)key.data, v);
    err = mlxd_jinja_render(r, &text, &spans, &n, why);
    if (!err)
        check_trust(text, spans, n);
    report(err, why, text);
    mlxd_jinja_end(r);
    return MLXD_OK;
}

int main(int argc, char **argv) {
    mlxd_jinja *t;
    mlxd_json_doc *doc;
    mlxd_why why = {{0}};
    if (argc != 3) {
        fprintf(stderr, "usage: render_template TEMPLATE CASES\n");
        return 2;
    }
    if (mlxd_json_parse(&doc, read_file(argv[2]), MLXD_LIMIT_JSON_DEPTH, &why)) {
        fprintf(stderr, "%s: %s\n", argv[2], why.text);
        return 2;
    }
    const mlxd_json *cases = mlxd_json_root(doc);
    mlxd_err err = mlxd_jinja_open(&t, read_file(argv[1]), &why);
    for (size_t i = 0; i < mlxd_json_count(cases); i++) {
        if (err)
            report(err, &why, (mlxd_slice){0});
        else if (render(t, mlxd_json_at(cases, i), &why))
            return 2;
    }
    mlxd_jinja_close(err ? NULL : t);
    mlxd_json_close(doc);
    return 0;
}
