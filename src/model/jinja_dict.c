/* jinja_dict.c - dicts of the interpreter: entries in the order of insertion, and from 8 of them on
 * an index by hash (open addressing, linear probing). Each probe is a step of the run, so that keys
 * which collide on purpose end at the bound of steps. */
#include "model/jinja_internal.h"

#include <math.h>
#include <string.h>

#define INDEX_FROM 8

dict *mlxd_jinja_dict_new(run *r) {
    return mlxd_jinja_new(r, 1, sizeof(dict));
}

static uint64_t hash_bytes(const uint8_t *p, size_t len) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

uint64_t mlxd_jinja_hash(run *r, value v, unsigned depth) {
    int64_t i;
    uint64_t h;
    switch (v.kind) {
    case K_STRING:
        return hash_bytes(v.as.s->data, v.as.s->len);
    case K_FLOAT: /* a whole number hashes as the integer that it equals */
        if (floor(v.as.f) != v.as.f || fabs(v.as.f) >= 9e18)
            return hash_bytes((const uint8_t *)&v.as.f, sizeof v.as.f);
        i = (int64_t)v.as.f;
        return hash_bytes((const uint8_t *)&i, sizeof i);
    case K_BOOL:
    case K_INT:
        i = v.kind == K_BOOL ? v.as.b : v.as.i;
        return hash_bytes((const uint8_t *)&i, sizeof i);
    case K_TUPLE:
        h = v.as.seq->count;
        if (depth >= MLXD_JINJA_NEST)
            mlxd_jinja_fail(r, MLXD_ERR_RANGE, "a value is nested too deeply");
        for (size_t k = 0; k < v.as.seq->count && !r->err; k++)
            h = h * 31 + mlxd_jinja_hash(r, v.as.seq->items[k], depth + 1);
        return h;
    case K_LIST:
    case K_DICT:
        mlxd_jinja_fail(r, MLXD_ERR_DATA, "unhashable type: '%s'", mlxd_jinja_type(v));
        return 0;
    default:
        return (uint64_t)v.kind;
    }
}

static void index_entry(dict *d, size_t at) {
    size_t slot = d->entries[at].hash & (d->index_cap - 1);
    while (d->index[slot])
        slot = (slot + 1) & (d->index_cap - 1);
    d->index[slot] = (uint32_t)at + 1;
}

/* The entry with this key; SIZE_MAX: none. */
static size_t find_entry(run *r, const dict *d, value key, uint64_t hash) {
    if (!d->index) {
        for (size_t i = 0; i < d->count; i++)
            if (d->entries[i].hash == hash && mlxd_jinja_equal(r, d->entries[i].key, key))
                return i;
        return SIZE_MAX;
    }
    for (size_t slot = hash & (d->index_cap - 1); d->index[slot] && mlxd_jinja_step(r, 1);
         slot = (slot + 1) & (d->index_cap - 1)) {
        const entry *e = &d->entries[d->index[slot] - 1];
        if (e->hash == hash && mlxd_jinja_equal(r, e->key, key))
            return d->index[slot] - 1;
    }
    return SIZE_MAX;
}

static bool make_room(run *r, dict *d) {
    if (d->count < d->cap)
        return true;
    size_t cap = d->cap ? d->cap * 2 : 4;
    if (cap > UINT32_MAX / 4) {
        mlxd_jinja_fail(r, MLXD_ERR_RANGE, "a dict has too many entries");
        return false;
    }
    entry *entries = mlxd_jinja_new(r, cap, sizeof *entries);
    uint32_t *index = NULL;
    if (!entries || (cap > INDEX_FROM && !(index = mlxd_jinja_new(r, cap * 2, sizeof *index))))
        return false;
    if (d->count)
        memcpy(entries, d->entries, d->count * sizeof *entries);
    d->entries = entries;
    d->cap = cap;
    d->index = index;
    d->index_cap = index ? cap * 2 : 0;
    for (size_t i = 0; index && i < d->count && mlxd_jinja_step(r, 1); i++)
        index_entry(d, i);
    return true;
}

void mlxd_jinja_dict_set(run *r, dict *d, value key, value v) {
    if (!d || r->err)
        return;
    uint64_t hash = mlxd_jinja_hash(r, key, 0);
    size_t at = find_entry(r, d, key, hash);
    if (at != SIZE_MAX) {
        d->entries[at].value = v;
        return;
    }
    if (r->err || !make_room(r, d))
        return;
    d->entries[d->count] = (entry){key, v, hash};
    if (d->index)
        index_entry(d, d->count);
    d->count++;
}

bool mlxd_jinja_dict_get(run *r, const dict *d, value key, value *out) {
    size_t at = find_entry(r, d, key, mlxd_jinja_hash(r, key, 0));
    if (at == SIZE_MAX || r->err)
        return false;
    *out = d->entries[at].value;
    return true;
}

const value *mlxd_jinja_dict_find(const dict *d, mlxd_slice key) {
    uint64_t hash = hash_bytes(key.data, key.len);
    size_t slot = d->index ? hash & (d->index_cap - 1) : 0;
    for (size_t i = 0; i < (d->index ? d->index_cap : d->count); i++) {
        const entry *e = &d->entries[i];
        if (d->index) {
            if (!d->index[slot])
                return NULL;
            e = &d->entries[d->index[slot] - 1];
            slot = (slot + 1) & (d->index_cap - 1);
        }
        if (e->hash == hash && e->key.kind == K_STRING &&
            mlxd_slice_eq(mlxd_jinja_bytes(e->key.as.s), key))
            return &e->value;
    }
    return NULL;
}
