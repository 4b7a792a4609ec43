/* kv.c - see kv.h. Free pages are a stack of indices; sessions are found through an open-addressing
 * hash of their ids. Prefix hashes lie beside the pages, one per position. Nothing is allocated
 * after a session's page table exists. */
#include "model/kv.h"

#include "base/mem.h"

#define SLOTS (2 * MLXD_LIMIT_SESSIONS) /* a power of two, at most half full */

struct mlxd_kv_session {
    uint64_t id;
    bool used;
    uint32_t length; /* positions stored */
    uint32_t n_pages;
    uint32_t *pages; /* index of each page in the pool; room for pages_max */
};

struct mlxd_kv {
    uint32_t layers, kv_heads, head_dim;
    uint32_t pages_max, n_free, sessions;
    size_t plane_halves; /* one layer's K (or V) of one page */
    size_t page_halves;
    uint16_t *pool;
    uint64_t *hashes; /* [pages_max][MLXD_PAGE]: prefix hash behind each position */
    uint32_t *free_pages;
    mlxd_kv_session slots[SLOTS];
};

size_t mlxd_kv_page_bytes(const mlxd_config *c, uint32_t layers) {
    return (size_t)layers * 2 * c->kv_heads * c->head_dim * MLXD_PAGE * sizeof(uint16_t);
}

uint32_t mlxd_kv_pages(uint64_t positions) {
    return (uint32_t)((positions + MLXD_PAGE - 1) / MLXD_PAGE);
}

mlxd_err mlxd_kv_open(mlxd_kv **out, const mlxd_config *c, uint32_t layers, uint32_t pages_max,
                      mlxd_why *why) {
    MLXD_ASSERT(layers > 0 && pages_max > 0);
    size_t page_bytes = mlxd_kv_page_bytes(c, layers), bytes, hash_bytes;
    mlxd_kv *kv = mlxd_mem_new(1, sizeof *kv);
    bool ok = kv && mlxd_mul_size(page_bytes, pages_max, &bytes) &&
              mlxd_mul_size(MLXD_PAGE * sizeof *kv->hashes, pages_max, &hash_bytes);
    if (ok) {
        kv->layers = layers;
        kv->kv_heads = c->kv_heads;
        kv->head_dim = c->head_dim;
        kv->pages_max = kv->n_free = pages_max;
        kv->plane_halves = (size_t)c->kv_heads * c->head_dim * MLXD_PAGE;
        kv->page_halves = page_bytes / sizeof(uint16_t);
        kv->free_pages = mlxd_mem_new(pages_max, sizeof *kv->free_pages);
        kv->pool = mlxd_mem_map(bytes);
        kv->hashes = mlxd_mem_map(hash_bytes);
        ok = kv->free_pages && kv->pool && kv->hashes;
    }
    if (!ok) {
        mlxd_kv_close(kv);
        return mlxd_fail(why, MLXD_ERR_NOMEM, "cannot reserve %llu MiB for the KV cache",
                         (unsigned long long)((uint64_t)page_bytes * pages_max >> 20));
    }
    for (uint32_t i = 0; i < pages_max; i++)
        kv->free_pages[i] = pages_max - 1 - i;
    *out = kv;
    return MLXD_OK;
}

void mlxd_kv_close(mlxd_kv *kv) {
    if (!kv)
        return;
    for (size_t i = 0; i < SLOTS; i++)
        mlxd_mem_free(kv->slots[i].pages);
    if (kv->hashes)
        mlxd_mem_unmap(kv->hashes, (size_t)kv->pages_max * MLXD_PAGE * sizeof *kv->hashes);
    if (kv->pool)
        mlxd_mem_unmap(kv->pool, kv->page_halves * kv->pages_max * sizeof(uint16_t));
    mlxd_mem_free(kv->free_pages);
    mlxd_mem_free(kv);
}

/* ---- prefix hash: a 64-bit finalizer (splitmix64) over the running value and the token ---- */

uint64_t mlxd_kv_hash_init(void) {
    return 0x6d6c78642d6b7631u; /* "mlxd-kv1" */
}

uint64_t mlxd_kv_hash_add(uint64_t hash, int32_t token) {
    uint64_t z = hash + 0x9e3779b97f4a7c15u * ((uint64_t)(uint32_t)token + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- sessions ---- */

static size_t home(uint64_t id) {
    return (size_t)(mlxd_kv_hash_add(id, 0) & (SLOTS - 1));
}

static mlxd_kv_session *find(mlxd_kv *kv, uint64_t id) {
    for (size_t i = home(id);; i = (i + 1) & (SLOTS - 1)) {
        mlxd_kv_session *s = &kv->slots[i];
        if (!s->used)
            return NULL;
        if (s->id == id)
            return s;
    }
}

/* NULL: no memory for its page table. */
static mlxd_kv_session *add(mlxd_kv *kv, uint64_t id) {
    MLXD_ASSERT(kv->sessions < MLXD_LIMIT_SESSIONS);
    size_t i = home(id);
    while (kv->slots[i].used)
        i = (i + 1) & (SLOTS - 1);
    mlxd_kv_session *s = &kv->slots[i];
    if (!s->pages)
        s->pages = mlxd_mem_new(kv->pages_max, sizeof *s->pages);
    if (!s->pages)
        return NULL;
    s->id = id;
    s->used = true;
    s->length = s->n_pages = 0;
    kv->sessions++;
    return s;
}

static void free_pages_from(mlxd_kv *kv, mlxd_kv_session *s, uint32_t keep) {
    while (s->n_pages > keep)
        kv->free_pages[kv->n_free++] = s->pages[--s->n_pages];
}

/* Removes slot `hole` and moves later entries of its probe chain up, so that chains have no gaps.
 * A moved entry takes its page table with it; the hole's stays for the next session. */
static void remove_slot(mlxd_kv *kv, size_t hole) {
    for (size_t i = (hole + 1) & (SLOTS - 1); kv->slots[i].used; i = (i + 1) & (SLOTS - 1)) {
        size_t h = home(kv->slots[i].id);
        if (((i - h) & (SLOTS - 1)) < ((i - hole) & (SLOTS - 1)))
            continue;
        mlxd_kv_session t = kv->slots[hole];
        kv->slots[hole] = kv->slots[i];
        kv->slots[i] = t;
        hole = i;
    }
    kv->slots[hole].used = false;
    kv->sessions--;
}

void mlxd_kv_drop(mlxd_kv *kv, uint64_t id) {
    mlxd_kv_session *s = find(kv, id);
    if (!s)
        return;
    free_pages_from(kv, s, 0);
    remove_slot(kv, (size_t)(s - kv->slots));
}

void mlxd_kv_drop_all(mlxd_kv *kv) {
    for (size_t i = 0; i < SLOTS; i++)
        if (kv->slots[i].used) {
            free_pages_from(kv, &kv->slots[i], 0);
            kv->slots[i].used = false;
        }
    kv->sessions = 0;
}

void mlxd_kv_truncate(mlxd_kv *kv, uint64_t id, uint32_t positions) {
    mlxd_kv_session *s = find(kv, id);
    if (!s || s->length <= positions)
        return;
    if (positions == 0) {
        mlxd_kv_drop(kv, id);
        return;
    }
    s->length = positions;
    free_pages_from(kv, s, mlxd_kv_pages(positions));
}

/* Where the prefix hash behind `position` is kept. */
static uint64_t *hash_behind(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t position) {
    return &kv->hashes[(size_t)s->pages[position / MLXD_PAGE] * MLXD_PAGE + position % MLXD_PAGE];
}

mlxd_err mlxd_kv_begin(mlxd_kv *kv, uint64_t id, uint32_t position, uint64_t prefix_hash,
                       const int32_t *tokens, uint32_t count, mlxd_kv_session **out,
                       mlxd_why *why) {
    MLXD_ASSERT(count > 0);
    mlxd_kv_session *s = find(kv, id);
    uint32_t length = s ? s->length : 0;
    if (position > length)
        return mlxd_fail(why, MLXD_ERR_RANGE, "session %llu has %u positions, step starts at %u",
                         (unsigned long long)id, length, position);
    uint64_t hash = position == 0 ? mlxd_kv_hash_init() : *hash_behind(kv, s, position - 1);
    if (hash != prefix_hash)
        return mlxd_fail(why, MLXD_ERR_STATE, "session %llu: other tokens before position %u",
                         (unsigned long long)id, position);
    uint64_t end = (uint64_t)position + count;
    uint32_t have_pages = s ? MLXD_MIN(s->n_pages, mlxd_kv_pages(position)) : 0;
    if (end > (uint64_t)kv->pages_max * MLXD_PAGE ||
        mlxd_kv_pages(end) - have_pages > kv->n_free + (s ? s->n_pages - have_pages : 0))
        return mlxd_fail(why, MLXD_ERR_FULL, "no free KV pages (%u in all)", kv->pages_max);
    if (!s && kv->sessions == MLXD_LIMIT_SESSIONS)
        return mlxd_fail(why, MLXD_ERR_FULL, "no free session slot (%u in all)",
                         MLXD_LIMIT_SESSIONS);
    if (!s && !(s = add(kv, id)))
        return mlxd_fail(why, MLXD_ERR_NOMEM, "no memory for a session's page table");
    free_pages_from(kv, s, mlxd_kv_pages(position));
    while (s->n_pages < mlxd_kv_pages(end))
        s->pages[s->n_pages++] = kv->free_pages[--kv->n_free];
    for (uint32_t i = 0; i < count; i++) {
        hash = mlxd_kv_hash_add(hash, tokens[i]);
        *hash_behind(kv, s, position + i) = hash;
    }
    s->length = (uint32_t)end;
    *out = s;
    return MLXD_OK;
}

/* ---- pages ---- */

static uint16_t *plane(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t layer, uint32_t page,
                       uint32_t kv_head, size_t which) {
    MLXD_ASSERT(page < s->n_pages && layer < kv->layers && kv_head < kv->kv_heads);
    return kv->pool + s->pages[page] * kv->page_halves +
           ((size_t)layer * 2 + which) * kv->plane_halves +
           (size_t)kv_head * kv->head_dim * MLXD_PAGE;
}

uint16_t *mlxd_kv_k(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t layer, uint32_t page,
                    uint32_t kv_head) {
    return plane(kv, s, layer, page, kv_head, 0);
}

uint16_t *mlxd_kv_v(const mlxd_kv *kv, const mlxd_kv_session *s, uint32_t layer, uint32_t page,
                    uint32_t kv_head) {
    return plane(kv, s, layer, page, kv_head, 1);
}

uint32_t mlxd_kv_session_count(const mlxd_kv *kv) {
    return kv->sessions;
}

uint32_t mlxd_kv_pages_used(const mlxd_kv *kv) {
    return kv->pages_max - kv->n_free;
}

uint32_t mlxd_kv_pages_max(const mlxd_kv *kv) {
    return kv->pages_max;
}
