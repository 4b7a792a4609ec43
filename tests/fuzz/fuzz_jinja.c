/* fuzz_jinja.c - chat templates: any source is refused, fails, or renders to UTF-8 with spans in
 * order, within the bounds. What stands behind the first NUL is a JSON object of variables. */
#include "format/utf8.h"
#include "model/jinja.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(mlxd_slice text, const mlxd_span *spans, size_t n) {
    MLXD_ASSERT(mlxd_utf8_check(text) == text.len);
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        MLXD_ASSERT(spans[i].start < spans[i].end && spans[i].end <= text.len);
        MLXD_ASSERT(i == 0 || spans[i].start > end);
        end = spans[i].end;
    }
}

static void render(const mlxd_jinja *t, const mlxd_json *context) {
    mlxd_jinja_run *r;
    mlxd_why why;
    mlxd_slice key, text;
    const mlxd_span *spans;
    size_t n;
    if (mlxd_jinja_begin(&r, t, 1735787045, &why))
        return;
    for (const mlxd_json *v = context ? mlxd_json_first(context, &key) : NULL; v;
         v = mlxd_json_next(context, v, &key))
        mlxd_jinja_set_json(r, (const char *)key.data, v);
    mlxd_jinja_set_str(r, "bos_token", mlxd_slice_str("<s>"), true);
    if (mlxd_jinja_render(r, &text, &spans, &n, &why) == MLXD_OK)
        check(text, spans, n);
    mlxd_jinja_end(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mlxd_jinja *t;
    mlxd_why why;
    mlxd_json_doc *doc = NULL;
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t len = end ? (size_t)(end - data) : size;
    const mlxd_json *context = NULL;
    if (mlxd_jinja_open(&t, (mlxd_slice){data, len}, &why))
        return 0;
    if (end &&
        !mlxd_json_parse(&doc, (mlxd_slice){end + 1, size - len - 1}, MLXD_LIMIT_JSON_DEPTH,
                         &why) &&
        mlxd_json_get_kind(mlxd_json_root(doc)) == MLXD_JSON_OBJECT)
        context = mlxd_json_root(doc);
    render(t, context);
    mlxd_json_close(doc);
    mlxd_jinja_close(t);
    return 0;
}
