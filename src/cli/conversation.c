/* conversation.c - see conversation.h. */
#include "cli/conversation.h"

#include "format/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const role_names[] = {"system", "user", "assistant"};

static mlxd_slice slice_of(const mlxd_buf *b) {
    return (mlxd_slice){b->data, b->len};
}

void mlxd_conversation_deinit(mlxd_conversation *c) {
    mlxd_conversation_cut(c, 0);
    mlxd_mem_free(c->messages);
    *c = (mlxd_conversation){0};
}

mlxd_message *mlxd_conversation_add(mlxd_conversation *c, mlxd_role role, mlxd_slice content) {
    if (c->count == MLXD_LIMIT_MESSAGES)
        return NULL;
    if (c->count == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        mlxd_message *more = mlxd_mem_resize(c->messages, cap, sizeof *more);
        if (!more)
            return NULL;
        c->messages = more;
        c->cap = cap;
    }
    mlxd_message *m = &c->messages[c->count];
    *m = (mlxd_message){.role = role};
    mlxd_buf_init(&m->content, MLXD_LIMIT_BODY_BYTES);
    mlxd_buf_init(&m->reasoning, MLXD_LIMIT_BODY_BYTES);
    mlxd_buf_add(&m->content, content.data, content.len);
    if (m->content.failed) {
        mlxd_buf_deinit(&m->content);
        return NULL;
    }
    c->count++;
    return m;
}

static void free_message(mlxd_message *m) {
    mlxd_buf_deinit(&m->content);
    mlxd_buf_deinit(&m->reasoning);
}

void mlxd_conversation_cut(mlxd_conversation *c, size_t first) {
    while (c->count > first)
        free_message(&c->messages[--c->count]);
}

/* Removes messages [first, end). */
static void remove_messages(mlxd_conversation *c, size_t first, size_t end) {
    for (size_t i = first; i < end; i++)
        free_message(&c->messages[i]);
    memmove(c->messages + first, c->messages + end, (c->count - end) * sizeof *c->messages);
    c->count -= end - first;
}

bool mlxd_conversation_has_system(const mlxd_conversation *c) {
    return c->count > 0 && c->messages[0].role == MLXD_ROLE_SYSTEM;
}

mlxd_err mlxd_conversation_set_system(mlxd_conversation *c, mlxd_slice text) {
    if (mlxd_conversation_has_system(c))
        remove_messages(c, 0, 1);
    if (text.len == 0)
        return MLXD_OK;
    if (!mlxd_conversation_add(c, MLXD_ROLE_SYSTEM, text))
        return MLXD_ERR_NOMEM;
    mlxd_message m = c->messages[c->count - 1];
    memmove(c->messages + 1, c->messages, (c->count - 1) * sizeof m);
    c->messages[0] = m;
    return MLXD_OK;
}

/* ---- tokens ---- */

/* Where the turn behind `first` begins; 0: it is the last one. */
static size_t next_turn(const mlxd_conversation *c, size_t first) {
    for (size_t i = first + 1; i < c->count; i++)
        if (c->messages[i].role == MLXD_ROLE_USER)
            return i;
    return 0;
}

/* The system message, if there is one, and the messages from `first` on. */
static mlxd_err encode_from(const mlxd_conversation *c, size_t first,
                            const mlxd_conversation_form *form, size_t tokens_max, mlxd_tokens *out,
                            mlxd_why *why) {
    mlxd_chat_message *list = mlxd_mem_new(c->count, sizeof *list);
    mlxd_chat_input in = {.list = list, .add_generation_prompt = true, .now_s = form->now_s};
    if (!list)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < c->count; i++) {
        const mlxd_message *m = &c->messages[i];
        if (i >= first || m->role == MLXD_ROLE_SYSTEM)
            list[in.n_list++] = (mlxd_chat_message){.role = mlxd_slice_str(role_names[m->role]),
                                                    .content = slice_of(&m->content),
                                                    .reasoning = slice_of(&m->reasoning)};
    }
    if (form->enable_thinking)
        in.variables[in.n_variables++] =
            (mlxd_chat_variable){"enable_thinking", form->enable_thinking};
    out->count = 0;
    mlxd_err err = mlxd_chat_encode(form->chat, form->tokenizer, &in, tokens_max, out, why);
    mlxd_mem_free(list);
    return err;
}

mlxd_err mlxd_conversation_encode(mlxd_conversation *c, const mlxd_conversation_form *form,
                                  size_t tokens_max, mlxd_tokens *out, size_t *dropped,
                                  mlxd_why *why) {
    size_t oldest = mlxd_conversation_has_system(c), first = oldest, turns = 0;
    mlxd_err err = encode_from(c, first, form, tokens_max, out, why);
    *dropped = 0;
    while (err == MLXD_ERR_RANGE) {
        size_t next = next_turn(c, first);
        if (!next)
            return err;
        first = next;
        turns++;
        err = encode_from(c, first, form, tokens_max, out, why);
    }
    if (err)
        return err;
    remove_messages(c, oldest, first);
    *dropped = turns;
    return MLXD_OK;
}

/* ---- files ---- */

static void write_json(const mlxd_conversation *c, const char *model, mlxd_buf *out) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "model", model);
    mlxd_jsonw_key(&w, "messages");
    mlxd_jsonw_array_begin(&w);
    for (size_t i = 0; i < c->count; i++) {
        const mlxd_message *m = &c->messages[i];
        mlxd_jsonw_object_begin(&w);
        mlxd_jsonw_member_str(&w, "role", role_names[m->role]);
        mlxd_jsonw_key(&w, "content");
        mlxd_jsonw_slice(&w, slice_of(&m->content));
        if (m->reasoning.len > 0) {
            mlxd_jsonw_key(&w, "reasoning_content");
            mlxd_jsonw_slice(&w, slice_of(&m->reasoning));
        }
        mlxd_jsonw_object_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

mlxd_err mlxd_conversation_save(const mlxd_conversation *c, const char *path, const char *model,
                                mlxd_why *why) {
    mlxd_buf text;
    mlxd_err err = MLXD_OK;
    mlxd_buf_init(&text, 0);
    write_json(c, model, &text);
    FILE *f = text.failed ? NULL : fopen(path, "we");
    if (text.failed) {
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    } else if (!f) {
        err = mlxd_fail(why, MLXD_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    } else {
        bool good = fwrite(text.data, 1, text.len, f) == text.len;
        good = fclose(f) == 0 && good;
        if (!good)
            err = mlxd_fail(why, MLXD_ERR_IO, "%s: not written completely", path);
    }
    mlxd_buf_deinit(&text);
    return err;
}

static mlxd_err read_message(mlxd_conversation *c, const mlxd_json *v, mlxd_why *why) {
    mlxd_slice content = {0}, reasoning = {0};
    size_t role = 0;
    if (mlxd_json_get_kind(v) != MLXD_JSON_OBJECT)
        return mlxd_fail(why, MLXD_ERR_DATA, "expected an object");
    const mlxd_json *name = mlxd_json_find(v, "role"), *text = mlxd_json_find(v, "content");
    const mlxd_json *thought = mlxd_json_find(v, "reasoning_content");
    while (role < MLXD_COUNT_OF(role_names) && !(name && mlxd_json_is_str(name, role_names[role])))
        role++;
    if (role == MLXD_COUNT_OF(role_names))
        return mlxd_fail(why, MLXD_ERR_DATA,
                         "role: expected \"system\", \"user\" or \"assistant\"");
    if (role == MLXD_ROLE_SYSTEM && c->count > 0)
        return mlxd_fail(why, MLXD_ERR_DATA, "a system message must be the first");
    if (!text || mlxd_json_get_str(text, &content))
        return mlxd_fail(why, MLXD_ERR_DATA, "content: expected a string");
    if (thought && mlxd_json_get_str(thought, &reasoning))
        return mlxd_fail(why, MLXD_ERR_DATA, "reasoning_content: expected a string");
    mlxd_message *m = mlxd_conversation_add(c, (mlxd_role)role, content);
    if (m)
        mlxd_buf_add(&m->reasoning, reasoning.data, reasoning.len);
    return m && !m->reasoning.failed ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "too much text");
}

static mlxd_err read_messages(mlxd_conversation *c, const mlxd_json *root, mlxd_why *why) {
    const mlxd_json *list =
        mlxd_json_get_kind(root) == MLXD_JSON_OBJECT ? mlxd_json_find(root, "messages") : NULL;
    mlxd_err err = MLXD_OK;
    size_t i = 0;
    if (!list || mlxd_json_get_kind(list) != MLXD_JSON_ARRAY)
        return mlxd_fail(why, MLXD_ERR_DATA, "expected an object with an array \"messages\"");
    for (const mlxd_json *v = mlxd_json_first(list, NULL); v && !err; i++) {
        err = read_message(c, v, why);
        if (err)
            err = mlxd_fail_in(why, err, "messages[%zu]", i);
        v = mlxd_json_next(list, v, NULL);
    }
    return err;
}

static mlxd_err read_file(const char *path, mlxd_buf *out, mlxd_why *why) {
    uint8_t chunk[4096];
    size_t n;
    FILE *f = fopen(path, "re");
    if (!f)
        return mlxd_fail(why, errno == ENOENT ? MLXD_ERR_NOTFOUND : MLXD_ERR_IO,
                         "%s: cannot be read: %s", path, strerror(errno));
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && !out->failed)
        mlxd_buf_add(out, chunk, n);
    bool failed = ferror(f) || out->failed;
    fclose(f);
    return failed ? mlxd_fail(why, MLXD_ERR_IO, "%s: not readable, or larger than %u bytes", path,
                              MLXD_LIMIT_BODY_BYTES)
                  : MLXD_OK;
}

mlxd_err mlxd_conversation_load(mlxd_conversation *c, const char *path, mlxd_why *why) {
    mlxd_conversation loaded = {0};
    mlxd_json_doc *doc = NULL;
    mlxd_buf text;
    mlxd_buf_init(&text, MLXD_LIMIT_BODY_BYTES);
    mlxd_err err = read_file(path, &text, why);
    if (!err) {
        err = mlxd_json_parse(&doc, (mlxd_slice){text.data, text.len}, MLXD_LIMIT_JSON_DEPTH, why);
        if (!err)
            err = read_messages(&loaded, mlxd_json_root(doc), why);
        if (err)
            err = mlxd_fail_in(why, err, "%s", path);
    }
    mlxd_json_close(doc);
    mlxd_buf_deinit(&text);
    if (err) {
        mlxd_conversation_deinit(&loaded);
        return err;
    }
    mlxd_conversation_deinit(c);
    *c = loaded;
    return MLXD_OK;
}
