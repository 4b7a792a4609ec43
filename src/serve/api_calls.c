/* api_calls.c - see api_calls.h. */
#include "serve/api_calls.h"

#include <stdio.h>
#include <string.h>

#define OPEN "<tool_call>"
#define CLOSE "</tool_call>"

void mlxd_api_calls_init(mlxd_api_calls *c) {
    *c = (mlxd_api_calls){0};
    mlxd_buf_init(&c->held, 0);
}

void mlxd_api_calls_deinit(mlxd_api_calls *c) {
    for (size_t i = 0; i < c->count; i++) {
        mlxd_mem_free(c->calls[i].name);
        mlxd_mem_free(c->calls[i].arguments);
    }
    mlxd_buf_deinit(&c->held);
    c->count = 0;
}

/* ---- one call ---- */

/* Recursion: a document is at most MLXD_LIMIT_JSON_DEPTH deep, and so is what the writer takes. */
static void copy_json(mlxd_jsonw *w, const mlxd_json *v) {
    mlxd_slice s;
    int64_t i;
    double f = 0;
    bool b = false;
    mlxd_json_kind kind = mlxd_json_get_kind(v);
    if (kind == MLXD_JSON_OBJECT || kind == MLXD_JSON_ARRAY) {
        bool object = kind == MLXD_JSON_OBJECT;
        if (object)
            mlxd_jsonw_object_begin(w);
        else
            mlxd_jsonw_array_begin(w);
        for (const mlxd_json *e = mlxd_json_first(v, &s); e; e = mlxd_json_next(v, e, &s)) {
            if (object)
                mlxd_jsonw_key_slice(w, s);
            copy_json(w, e);
        }
        if (object)
            mlxd_jsonw_object_end(w);
        else
            mlxd_jsonw_array_end(w);
    } else if (!mlxd_json_get_str(v, &s)) {
        mlxd_jsonw_slice(w, s);
    } else if (kind == MLXD_JSON_INT && !mlxd_json_get_int64(v, &i)) {
        mlxd_jsonw_int(w, i);
    } else if (!mlxd_json_get_double(v, &f)) {
        mlxd_jsonw_double(w, f);
    } else if (!mlxd_json_get_bool(v, &b)) {
        mlxd_jsonw_bool(w, b);
    } else {
        mlxd_jsonw_null(w);
    }
}

/* The arguments of a call: an object, or its JSON text; NULL: `call` has none. */
static const mlxd_json *find_arguments(const mlxd_json *call) {
    const mlxd_json *v = mlxd_json_find(call, "arguments");
    v = v ? v : mlxd_json_find(call, "parameters");
    return v && mlxd_json_get_kind(v) == MLXD_JSON_OBJECT ? v : NULL;
}

static bool add_call(mlxd_api_calls *c, const mlxd_json *root) {
    mlxd_slice name;
    mlxd_buf text;
    mlxd_jsonw w;
    if (mlxd_json_get_kind(root) != MLXD_JSON_OBJECT || c->count == MLXD_API_CALLS_MAX)
        return false;
    const mlxd_json *n = mlxd_json_find(root, "name"), *args = find_arguments(root);
    if (!n || !args || mlxd_json_get_str(n, &name) || name.len == 0)
        return false;
    mlxd_buf_init(&text, 0);
    mlxd_jsonw_init(&w, &text);
    copy_json(&w, args);
    mlxd_api_call call = {mlxd_mem_dup(name.data, name.len), mlxd_mem_dup(text.data, text.len)};
    c->failed = c->failed || text.failed || !call.name || !call.arguments;
    mlxd_buf_deinit(&text);
    if (!call.name || !call.arguments) {
        mlxd_mem_free(call.name);
        mlxd_mem_free(call.arguments);
        return true;
    }
    c->calls[c->count++] = call;
    return true;
}

/* Is this text a call? Then it is added. */
static bool parse_call(mlxd_api_calls *c, const uint8_t *data, size_t len) {
    mlxd_json_doc *doc;
    if (mlxd_json_parse(&doc, (mlxd_slice){data, len}, MLXD_LIMIT_JSON_DEPTH, NULL))
        return false;
    bool good = add_call(c, mlxd_json_root(doc));
    mlxd_json_close(doc);
    return good;
}

/* ---- the text ---- */

static size_t find(const mlxd_buf *b, size_t from, const char *what) {
    size_t n = strlen(what);
    for (size_t at = from; at + n <= b->len; at++)
        if (memcmp(b->data + at, what, n) == 0)
            return at;
    return SIZE_MAX;
}

/* How many bytes at the end of the held text could be the beginning of <tool_call>. */
static size_t beginning_at_end(const mlxd_buf *b) {
    for (size_t n = MLXD_MIN(b->len, strlen(OPEN) - 1); n > 0; n--)
        if (memcmp(b->data + b->len - n, OPEN, n) == 0)
            return n;
    return 0;
}

static bool is_blank(uint8_t c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Lets the first `n` held bytes through; white space around calls is dropped. */
static void release(mlxd_api_calls *c, size_t n, mlxd_buf *text) {
    bool blank = true;
    for (size_t i = 0; i < n && blank; i++)
        blank = is_blank(c->held.data[i]);
    if (!blank || c->count == 0)
        mlxd_buf_add(text, c->held.data, n);
    c->begun = c->begun || !blank;
    memmove(c->held.data, c->held.data + n, c->held.len - n);
    c->held.len -= n;
}

static void drop(mlxd_api_calls *c, size_t n) {
    memmove(c->held.data, c->held.data + n, c->held.len - n);
    c->held.len -= n;
}

/* An answer that begins with "{" is a call, or text, when it is complete; one that is only white
 * space so far may become one. */
static bool may_be_object(const mlxd_api_calls *c) {
    size_t i = 0;
    while (i < c->held.len && is_blank(c->held.data[i]))
        i++;
    return !c->begun && c->count == 0 && (i == c->held.len || c->held.data[i] == '{');
}

/* One step over the held text; false: nothing more can be done now. */
static bool advance(mlxd_api_calls *c, mlxd_buf *text, bool end) {
    size_t open = find(&c->held, 0, OPEN), body = strlen(OPEN);
    if (open == SIZE_MAX) {
        size_t keep = end ? 0 : beginning_at_end(&c->held);
        if (c->held.len > keep)
            release(c, c->held.len - keep, text);
        return false;
    }
    if (open > 0) {
        release(c, open, text);
        return true;
    }
    size_t close = find(&c->held, body, CLOSE);
    if (close == SIZE_MAX && !end)
        return false;
    size_t stop = close == SIZE_MAX ? c->held.len : close;
    size_t behind = close == SIZE_MAX ? stop : stop + strlen(CLOSE);
    if (parse_call(c, c->held.data + body, stop - body)) {
        drop(c, behind);
    } else {
        c->begun = true;
        release(c, behind, text);
    }
    return true;
}

void mlxd_api_calls_take(mlxd_api_calls *c, mlxd_buf *text, bool end) {
    mlxd_buf_add(&c->held, text->data, text->len);
    text->len = 0;
    if (c->held.failed) {
        c->failed = true;
        return;
    }
    if (may_be_object(c)) {
        if (!end)
            return;
        if (parse_call(c, c->held.data, c->held.len)) {
            mlxd_buf_clear(&c->held);
            return;
        }
    }
    while (c->held.len > 0 && advance(c, text, end))
        ;
}

void mlxd_api_calls_write(const mlxd_api_calls *c, size_t index, const char *answer_id,
                          bool streamed, mlxd_jsonw *w) {
    const mlxd_api_call *call = &c->calls[index];
    const char *dash = strchr(answer_id, '-');
    char id[80];
    MLXD_ASSERT(index < c->count);
    snprintf(id, sizeof id, "call_%.48s_%zu", dash ? dash + 1 : answer_id, index);
    mlxd_jsonw_object_begin(w);
    if (streamed)
        mlxd_jsonw_member_uint(w, "index", index);
    mlxd_jsonw_member_str(w, "id", id);
    mlxd_jsonw_member_str(w, "type", "function");
    mlxd_jsonw_key(w, "function");
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_str(w, "name", call->name);
    mlxd_jsonw_member_str(w, "arguments", call->arguments);
    mlxd_jsonw_object_end(w);
    mlxd_jsonw_object_end(w);
}
