/* yaml.c - see yaml.h. libyaml turns the text into events; we build the tree from them and refuse
 * every event that a configuration does not need. The text is checked before libyaml sees it,
 * because its own messages for bad bytes carry no line.
 *
 * Nodes stand in one array in the order of the file, as in json.c: a container is followed by all
 * that is inside it, a mapping by key, value, key, value. Containers get an index of their children
 * (a mapping a second one, sorted by key) when the tree is complete.
 */
#include "format/yaml.h"

#include "base/mem.h"
#include "format/names.h"
#include "format/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

struct mlxd_yaml {
    const mlxd_yaml_doc *doc;
    const char *text;      /* SCALAR */
    const uint32_t *index; /* containers: items or keys as offsets from this node */
    const uint32_t *order; /* MAPPING: the same offsets, sorted by key */
    uint32_t len;          /* items or members */
    uint32_t span;         /* this node and all inside it */
    uint32_t line;
    uint8_t kind;
    bool quoted;
};

struct mlxd_yaml_doc {
    char *name;
    mlxd_arena *texts;
    mlxd_yaml *nodes;
    uint32_t n_nodes, nodes_cap;
    uint32_t *index; /* pool of all containers' indexes */
};

struct reader {
    yaml_parser_t parser;
    mlxd_yaml_doc *doc;
    uint32_t open[MLXD_LIMIT_CONFIG_DEPTH];   /* containers around the current event */
    bool want_value[MLXD_LIMIT_CONFIG_DEPTH]; /* mapping: the key was read, its value is next */
    uint32_t depth;
    mlxd_why *why;
};

/* ---- the text ---- */

/* What libyaml accepts (YAML 1.1, 5.1), less the byte order mark. */
static bool is_printable(uint32_t cp) {
    return cp == '\t' || cp == '\n' || cp == '\r' || (cp >= 0x20 && cp <= 0x7e) || cp == 0x85 ||
           (cp >= 0xA0 && cp != 0xFEFF && cp <= 0xFFFD) || cp >= 0x10000;
}

static mlxd_err check_text(mlxd_slice s, const char *name, mlxd_why *why) {
    uint32_t line = 1;
    if (s.len > MLXD_LIMIT_CONFIG_BYTES)
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s: %zu bytes, expected at most %u", name, s.len,
                         MLXD_LIMIT_CONFIG_BYTES);
    if (s.len >= 2 && (memcmp(s.data, "\xFF\xFE", 2) == 0 || memcmp(s.data, "\xFE\xFF", 2) == 0))
        return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:1: UTF-16 text, expected UTF-8", name);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = mlxd_utf8_next(s.data + i, s.len - i, &cp);
        if (cp == MLXD_UTF8_BAD)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%u: byte 0x%02x is not valid UTF-8", name,
                             line, s.data[i]);
        if (cp == 0)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%u: NUL byte (UTF-16?), expected UTF-8 text",
                             name, line);
        if (cp == 0xFEFF)
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%u: byte order mark, remove it", name, line);
        if (!is_printable(cp))
            return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%u: control character U+%04X", name, line,
                             (unsigned)cp);
        line += cp == '\n';
        i += n;
    }
    return MLXD_OK;
}

/* ---- building the tree ---- */

static mlxd_err out_of_memory(const struct reader *r) {
    return mlxd_fail(r->why, MLXD_ERR_NOMEM, "%s: no memory to read it", r->doc->name);
}

MLXD_PRINTF(3, 4)
static mlxd_err refuse(const struct reader *r, const yaml_mark_t *at, const char *fmt, ...) {
    char text[MLXD_WHY_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mlxd_fail(r->why, MLXD_ERR_CONFIG, "%s:%zu: %s", r->doc->name, at->line + 1, text);
}

/* Appends a node and counts it as a child of the innermost open container. */
static mlxd_err add_node(struct reader *r, mlxd_yaml_kind kind, const yaml_mark_t *at,
                         mlxd_yaml **out) {
    mlxd_yaml_doc *doc = r->doc;
    if (r->depth > 0) {
        mlxd_yaml *parent = &doc->nodes[r->open[r->depth - 1]];
        bool *want_value = &r->want_value[r->depth - 1];
        if (parent->kind == MLXD_YAML_MAPPING && !*want_value && kind != MLXD_YAML_SCALAR)
            return refuse(r, at, "a %s as a key, expected text", mlxd_yaml_kind_name(kind));
        if (parent->kind == MLXD_YAML_MAPPING)
            *want_value = !*want_value;
        parent->len += parent->kind == MLXD_YAML_SEQUENCE || *want_value;
    }
    if (doc->n_nodes == doc->nodes_cap) {
        uint32_t cap = doc->nodes_cap ? 2 * doc->nodes_cap : 64; /* the text's size bounds it */
        mlxd_yaml *nodes = mlxd_mem_resize(doc->nodes, cap, sizeof *nodes);
        if (!nodes)
            return out_of_memory(r);
        doc->nodes = nodes;
        doc->nodes_cap = cap;
    }
    *out = &doc->nodes[doc->n_nodes++];
    **out =
        (mlxd_yaml){.doc = doc, .kind = (uint8_t)kind, .span = 1, .line = (uint32_t)at->line + 1};
    return MLXD_OK;
}

static mlxd_err add_scalar(struct reader *r, const yaml_event_t *e) {
    mlxd_yaml *v;
    const yaml_char_t *text = e->data.scalar.value;
    size_t len = e->data.scalar.length;
    mlxd_err err = add_node(r, MLXD_YAML_SCALAR, &e->start_mark, &v);
    if (err)
        return err;
    if (memchr(text, 0, len))
        return refuse(r, &e->start_mark, "NUL character in a text");
    v->text = mlxd_arena_dup(r->doc->texts, text, len);
    if (!v->text)
        return out_of_memory(r);
    v->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return MLXD_OK;
}

static mlxd_err open_container(struct reader *r, mlxd_yaml_kind kind, const yaml_mark_t *at) {
    mlxd_yaml *v;
    if (r->depth == MLXD_LIMIT_CONFIG_DEPTH)
        return refuse(r, at, "nested deeper than %d levels", MLXD_LIMIT_CONFIG_DEPTH);
    mlxd_err err = add_node(r, kind, at, &v);
    if (err)
        return err;
    r->open[r->depth] = r->doc->n_nodes - 1;
    r->want_value[r->depth] = false;
    r->depth++;
    return MLXD_OK;
}

static void close_container(struct reader *r) {
    MLXD_ASSERT(r->depth > 0); /* libyaml pairs its events */
    uint32_t at = r->open[--r->depth];
    r->doc->nodes[at].span = r->doc->n_nodes - at;
}

/* ---- events ---- */

/* Anchors and tags can stand on three kinds of events. */
static mlxd_err check_properties(const struct reader *r, const yaml_event_t *e) {
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    } else if (e->type == YAML_ALIAS_EVENT) {
        return refuse(r, &e->start_mark, "alias *%.64s, aliases are not accepted",
                      (const char *)e->data.alias.anchor);
    }
    if (anchor)
        return refuse(r, &e->start_mark, "anchor &%.64s, anchors are not accepted",
                      (const char *)anchor);
    if (tag)
        return refuse(r, &e->start_mark, "tag %.64s, tags are not accepted", (const char *)tag);
    return MLXD_OK;
}

static mlxd_err handle_event(struct reader *r, const yaml_event_t *e) {
    mlxd_err err = check_properties(r, e);
    if (err)
        return err;
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (r->doc->n_nodes > 0)
            return refuse(r, &e->start_mark, "a second document begins, expected one");
        if (e->data.document_start.version_directive ||
            e->data.document_start.tag_directives.start !=
                e->data.document_start.tag_directives.end)
            return refuse(r, &e->start_mark, "directives (%%...) are not accepted");
        return MLXD_OK;
    case YAML_SCALAR_EVENT:
        return add_scalar(r, e);
    case YAML_SEQUENCE_START_EVENT:
        return open_container(r, MLXD_YAML_SEQUENCE, &e->start_mark);
    case YAML_MAPPING_START_EVENT:
        return open_container(r, MLXD_YAML_MAPPING, &e->start_mark);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        close_container(r);
        return MLXD_OK;
    default: /* begin and end of the stream, end of the document */
        return MLXD_OK;
    }
}

static mlxd_err libyaml_error(const struct reader *r) {
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return out_of_memory(r);
    const char *problem = p->problem ? p->problem : "not valid YAML";
    if (p->context)
        return refuse(r, &p->problem_mark, "%s %s", problem, p->context);
    return refuse(r, &p->problem_mark, "%s", problem);
}

static mlxd_err read_events(struct reader *r) {
    for (bool more = true; more;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&r->parser, &event))
            return libyaml_error(r);
        more = event.type != YAML_STREAM_END_EVENT;
        mlxd_err err = handle_event(r, &event);
        yaml_event_delete(&event);
        if (err)
            return err;
    }
    MLXD_ASSERT(r->depth == 0);
    return MLXD_OK;
}

/* No document, or one that is an empty plain scalar ("---"), is an empty mapping. */
static mlxd_err check_root(struct reader *r) {
    static const yaml_mark_t begin = {0};
    mlxd_yaml *root = r->doc->nodes;
    if (r->doc->n_nodes == 0)
        return add_node(r, MLXD_YAML_MAPPING, &begin, &root);
    if (root->kind == MLXD_YAML_SCALAR && !root->quoted && root->text[0] == 0)
        root->kind = MLXD_YAML_MAPPING;
    if (root->kind != MLXD_YAML_MAPPING)
        return mlxd_yaml_fail(root, r->why, "a %s, expected a mapping (\"key: value\" lines)",
                              mlxd_yaml_kind_name((mlxd_yaml_kind)root->kind));
    return MLXD_OK;
}

/* ---- the index ---- */

static mlxd_slice key_at(const void *ctx, uint32_t offset) {
    return mlxd_slice_str(((const mlxd_yaml *)ctx + offset)->text);
}

static mlxd_err index_container(mlxd_yaml *v, uint32_t **pool, mlxd_why *why) {
    bool mapping = v->kind == MLXD_YAML_MAPPING;
    uint32_t *index = *pool, *order = index + v->len, at = 1;
    for (uint32_t i = 0; i < v->len; i++) {
        index[i] = at;
        at += mapping;
        at += v[at].span;
    }
    MLXD_ASSERT(at == v->span);
    v->index = index;
    *pool += v->len;
    if (!mapping)
        return MLXD_OK;
    if (v->len > 0)
        memcpy(order, index, v->len * sizeof *order);
    v->order = order;
    *pool += v->len;
    uint32_t again = mlxd_names_sort(order, v->len, key_at, v);
    if (again == MLXD_NAMES_NONE)
        return MLXD_OK;
    uint32_t first = 0;
    while (strcmp(v[index[first]].text, v[again].text) != 0)
        first++;
    return mlxd_yaml_fail(&v[again], why, "duplicate key \"%.64s\", first on line %u",
                          v[again].text, (unsigned)v[index[first]].line);
}

static mlxd_err index_containers(struct reader *r) {
    mlxd_yaml_doc *doc = r->doc;
    size_t total = 0;
    for (uint32_t i = 0; i < doc->n_nodes; i++)
        total += (size_t)doc->nodes[i].len * (doc->nodes[i].kind == MLXD_YAML_MAPPING ? 2 : 1);
    uint32_t *pool = doc->index = mlxd_mem_new(total, sizeof *pool);
    if (!pool)
        return out_of_memory(r);
    for (uint32_t i = 0; i < doc->n_nodes; i++) {
        if (doc->nodes[i].kind == MLXD_YAML_SCALAR)
            continue;
        mlxd_err err = index_container(&doc->nodes[i], &pool, r->why);
        if (err)
            return err;
    }
    MLXD_ASSERT(pool == doc->index + total);
    return MLXD_OK;
}

static mlxd_err read_document(mlxd_yaml_doc *doc, mlxd_slice text, mlxd_why *why) {
    struct reader r = {.doc = doc, .why = why};
    if (!yaml_parser_initialize(&r.parser))
        return out_of_memory(&r);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, text.len ? text.data : (const uint8_t *)"", text.len);
    mlxd_err err = read_events(&r);
    if (!err)
        err = check_root(&r);
    if (!err)
        err = index_containers(&r);
    yaml_parser_delete(&r.parser);
    return err;
}

mlxd_err mlxd_yaml_parse(mlxd_yaml_doc **out, mlxd_slice text, const char *name, mlxd_why *why) {
    MLXD_ASSERT(out && name);
    *out = NULL;
    mlxd_err err = check_text(text, name, why);
    if (err)
        return err;
    mlxd_yaml_doc *doc = mlxd_mem_new(1, sizeof *doc);
    if (doc) {
        doc->name = mlxd_mem_dup_str(name);
        doc->texts = mlxd_arena_open(0);
    }
    if (!doc || !doc->name || !doc->texts)
        err = mlxd_fail(why, MLXD_ERR_NOMEM, "%s: no memory to read it", name);
    else
        err = read_document(doc, text, why);
    if (err) {
        mlxd_yaml_close(doc);
        return err;
    }
    *out = doc;
    return MLXD_OK;
}

void mlxd_yaml_close(mlxd_yaml_doc *doc) {
    if (!doc)
        return;
    mlxd_mem_free(doc->index);
    mlxd_mem_free(doc->nodes);
    mlxd_arena_close(doc->texts);
    mlxd_mem_free(doc->name);
    mlxd_mem_free(doc);
}

/* ---- access ---- */

const mlxd_yaml *mlxd_yaml_root(const mlxd_yaml_doc *doc) {
    MLXD_ASSERT(doc);
    return doc->nodes;
}

mlxd_yaml_kind mlxd_yaml_get_kind(const mlxd_yaml *v) {
    MLXD_ASSERT(v);
    return (mlxd_yaml_kind)v->kind;
}

const char *mlxd_yaml_kind_name(mlxd_yaml_kind kind) {
    static const char *const names[] = {"scalar", "sequence", "mapping"};
    MLXD_ASSERT((size_t)kind < MLXD_COUNT_OF(names));
    return names[kind];
}

uint32_t mlxd_yaml_get_line(const mlxd_yaml *v) {
    MLXD_ASSERT(v);
    return v->line;
}

const char *mlxd_yaml_get_text(const mlxd_yaml *scalar) {
    MLXD_ASSERT(scalar && scalar->kind == MLXD_YAML_SCALAR);
    return scalar->text;
}

bool mlxd_yaml_is_quoted(const mlxd_yaml *scalar) {
    MLXD_ASSERT(scalar && scalar->kind == MLXD_YAML_SCALAR);
    return scalar->quoted;
}

size_t mlxd_yaml_count(const mlxd_yaml *v) {
    MLXD_ASSERT(v && v->kind != MLXD_YAML_SCALAR);
    return v->len;
}

const mlxd_yaml *mlxd_yaml_at(const mlxd_yaml *v, size_t index) {
    MLXD_ASSERT(index < mlxd_yaml_count(v));
    return v + v->index[index] + (v->kind == MLXD_YAML_MAPPING);
}

const mlxd_yaml *mlxd_yaml_key_at(const mlxd_yaml *mapping, size_t index) {
    MLXD_ASSERT(mapping && mapping->kind == MLXD_YAML_MAPPING);
    MLXD_ASSERT(index < mapping->len);
    return mapping + mapping->index[index];
}

const mlxd_yaml *mlxd_yaml_find(const mlxd_yaml *mapping, const char *key) {
    MLXD_ASSERT(mapping && mapping->kind == MLXD_YAML_MAPPING);
    uint32_t at =
        mlxd_names_find(mapping->order, mapping->len, key_at, mapping, mlxd_slice_str(key));
    return at == MLXD_NAMES_NONE ? NULL : mapping + at + 1;
}

mlxd_err mlxd_yaml_fail(const mlxd_yaml *v, mlxd_why *why, const char *fmt, ...) {
    MLXD_ASSERT(v);
    char text[MLXD_WHY_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mlxd_fail(why, MLXD_ERR_CONFIG, "%s:%u: %s", v->doc->name, (unsigned)v->line, text);
}
