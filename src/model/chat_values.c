/* chat_values.c - see chat_values.h. Messages are copied member by member; those that templates
 * take in different forms are changed on the way. */
#include "model/chat_values.h"

#include "format/utf8.h"
#include "model/jinja_internal.h"

#include <string.h>

static const string *key_of(run *r, const char *name) {
    return mlxd_jinja_str(r, mlxd_slice_str(name), false);
}

static void put(run *r, dict *d, const char *name, value v) {
    mlxd_jinja_dict_set(r, d, mlxd_jinja_of_string(key_of(r, name)), v);
}

static const value *get(const dict *d, const char *name) {
    const value *v = mlxd_jinja_dict_find(d, mlxd_slice_str(name));
    return v && v->kind != K_NONE ? v : NULL;
}

static bool is_one_of(mlxd_slice text, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (mlxd_slice_eq(text, mlxd_slice_str(list[i])))
            return true;
    return false;
}

/* ---- role ---- */

/* Templates build control tokens from roles ("<|" + role + "|>"): the usual ones are trusted. */
static value role_of(run *r, mlxd_slice role, const mlxd_chat_form *form) {
    static const char *const usual[] = {"system", "user",     "assistant", "developer",
                                        "tool",   "function", "ipython"};
    if (!form->developer && mlxd_slice_eq(role, mlxd_slice_str("developer")))
        role = mlxd_slice_str("system");
    return mlxd_jinja_of_string(
        mlxd_jinja_str(r, role, is_one_of(role, usual, MLXD_COUNT_OF(usual))));
}

/* ---- content ---- */

static value text_part(run *r, value text) {
    dict *part = mlxd_jinja_dict_new(r);
    seq *list = mlxd_jinja_seq(r, 1);
    put(r, part, "type", mlxd_jinja_of_string(key_of(r, "text")));
    put(r, part, "text", text);
    mlxd_jinja_push(r, list, (value){.kind = K_DICT, .as.dict = part});
    return mlxd_jinja_of_seq(list, K_LIST);
}

/* The texts of parts, joined by line feeds; parts of other types have none. */
static value join_parts(run *r, const seq *parts) {
    builder b = {.r = r};
    bool first = true;
    for (size_t i = 0; i < parts->count && !r->err; i++) {
        value part = parts->items[i];
        const value *text = part.kind == K_DICT ? get(part.as.dict, "text") : NULL;
        if (!text || text->kind != K_STRING)
            continue;
        if (!first)
            mlxd_jinja_put(&b, "\n", 1, false);
        first = false;
        mlxd_jinja_put_string(&b, text->as.s);
    }
    return mlxd_jinja_of_string(mlxd_jinja_built(&b));
}

static value content_of(run *r, value v, const mlxd_chat_form *form) {
    if (v.kind == K_NONE && !form->null_content)
        v = mlxd_jinja_of_string(key_of(r, ""));
    if (v.kind == K_LIST && !form->parts)
        return join_parts(r, v.as.seq);
    if (v.kind == K_STRING && form->only_parts)
        return text_part(r, v);
    return v;
}

/* ---- tool calls ---- */

/* JSON text of arguments to an object; anything that is none stays text. */
static value parse_arguments(run *r, value text) {
    mlxd_json_doc *doc;
    if (mlxd_json_parse(&doc, mlxd_jinja_bytes(text.as.s), MLXD_LIMIT_JSON_DEPTH, NULL))
        return text;
    const mlxd_json *root = mlxd_json_root(doc);
    if (mlxd_json_get_kind(root) == MLXD_JSON_OBJECT) {
        mlxd_jinja_keep(r, doc); /* strings are lent by it */
        return r->err ? text : mlxd_jinja_of_json(r, root);
    }
    mlxd_json_close(doc);
    return text;
}

static value arguments_of(run *r, value v, const mlxd_chat_form *form) {
    if (v.kind == K_STRING && !form->text_arguments)
        return parse_arguments(r, v);
    if (v.kind == K_DICT && form->text_arguments) {
        builder b = {.r = r};
        const json_style style = {.item = key_of(r, ", "), .key = key_of(r, ": ")};
        mlxd_jinja_json(&b, v, &style, 0);
        return mlxd_jinja_of_string(mlxd_jinja_built(&b));
    }
    return v;
}

/* {"function": {"arguments": ..}} or {"arguments": ..}: dicts of this run, changed in place. */
static void fix_call(run *r, value call, const mlxd_chat_form *form) {
    if (call.kind != K_DICT)
        return;
    const value *function = get(call.as.dict, "function");
    dict *d = function && function->kind == K_DICT ? function->as.dict : call.as.dict;
    const value *arguments = get(d, "arguments");
    if (arguments)
        put(r, d, "arguments", arguments_of(r, *arguments, form));
}

static value calls_of(run *r, value v, const mlxd_chat_form *form) {
    for (size_t i = 0; v.kind == K_LIST && i < v.as.seq->count && !r->err; i++)
        fix_call(r, v.as.seq->items[i], form);
    return v;
}

/* ---- messages ---- */

/* One thing under three names; templates read the first two. */
static void alias_reasoning(run *r, dict *d) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const value *found = NULL;
    for (size_t i = 0; i < MLXD_COUNT_OF(names) && !found; i++)
        found = get(d, names[i]);
    if (!found)
        return;
    value v = *found;
    put(r, d, "reasoning_content", v);
    if (!get(d, "thinking"))
        put(r, d, "thinking", v);
}

static value message_of(run *r, const mlxd_json *m, const mlxd_chat_form *form) {
    dict *d = mlxd_jinja_dict_new(r);
    mlxd_slice key, text;
    if (mlxd_json_get_kind(m) != MLXD_JSON_OBJECT)
        return mlxd_jinja_of_json(r, m);
    for (const mlxd_json *f = mlxd_json_first(m, &key); f; f = mlxd_json_next(m, f, &key)) {
        const char *name = (const char *)key.data;
        value v = mlxd_jinja_of_json(r, f);
        if (strcmp(name, "role") == 0 && !mlxd_json_get_str(f, &text))
            v = role_of(r, text, form);
        else if (strcmp(name, "content") == 0)
            v = content_of(r, v, form);
        else if (strcmp(name, "tool_calls") == 0)
            v = calls_of(r, v, form);
        put(r, d, name, v);
    }
    if (d && !mlxd_jinja_dict_find(d, mlxd_slice_str("content")))
        put(r, d, "content", content_of(r, NONE, form));
    if (d)
        alias_reasoning(r, d);
    return (value){.kind = d ? K_DICT : K_UNDEFINED, .as.dict = d};
}

static value text_of(run *r, mlxd_slice text, size_t index, const char *what) {
    size_t good = mlxd_utf8_check(text);
    if (good != text.len)
        mlxd_jinja_reject(r, "message %zu: %s is not UTF-8 at byte %zu", index, what, good);
    return mlxd_jinja_of_string(mlxd_jinja_str(r, text, false));
}

static value plain_message(run *r, const mlxd_chat_message *m, size_t index,
                           const mlxd_chat_form *form) {
    dict *d = mlxd_jinja_dict_new(r);
    (void)text_of(r, m->role, index, "role");
    put(r, d, "role", role_of(r, m->role, form));
    put(r, d, "content", content_of(r, text_of(r, m->content, index, "content"), form));
    if (m->reasoning.len > 0) {
        put(r, d, "reasoning_content", text_of(r, m->reasoning, index, "reasoning"));
        alias_reasoning(r, d);
    }
    return (value){.kind = d ? K_DICT : K_UNDEFINED, .as.dict = d};
}

void mlxd_chat_set_messages(mlxd_jinja_run *r, const mlxd_chat_input *in,
                            const mlxd_chat_form *form) {
    const mlxd_json *list = in->messages;
    seq *s = mlxd_jinja_seq(r, 0);
    if (list)
        for (const mlxd_json *m = mlxd_json_first(list, NULL); m; m = mlxd_json_next(list, m, NULL))
            mlxd_jinja_push(r, s, message_of(r, m, form));
    else
        for (size_t i = 0; i < in->n_list; i++)
            mlxd_jinja_push(r, s, plain_message(r, &in->list[i], i, form));
    mlxd_jinja_set(r, "messages", mlxd_jinja_of_seq(s, K_LIST));
}
