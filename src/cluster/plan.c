/* plan.c - see plan.h.
 *
 * Time is counted in integers, so that ties are ties: a stage costs (KiB of its weights) x (price
 * of its device), where the fastest device has the lowest price and all sums stay below 2^62.
 *
 * best[d][l] is the best way to give layers [0, l) to devices 0..d; it extends best[d-1][a] by the
 * range [a, l) for device d. Two such searches: the first minimises (devices without layers,
 * slowest stage), the second (devices without layers, sum, sum of squares) among the splits whose
 * stages are no slower than the first one's result. Each pair is additive or a maximum, so the
 * best whole consists of best parts, and the search is exact.
 */
#include "cluster/plan.h"

#include "base/mem.h"
#include "model/kv.h"
#include "model/layers.h"
#include "model/vocab.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COST_MAX (1ull << 61)
#define PRICE                                                                                      \
    11531520           /* of the fastest device: 2^8 3^2 5 7 11 13, so that times of devices whose
                          speeds are as 1 : 1.5 : 2 can be equal; speeds are kept to 1e-7 */
#define SQUARE_BITS 28 /* of a number whose square is summed over all devices */

/* The task in the units of the search. Index 0..layers of a prefix sum: what lies before. */
struct task {
    uint32_t layers, n;
    uint64_t bytes[MLXD_LIMIT_LAYERS + 1]; /* weights and KV */
    uint64_t kib[MLXD_LIMIT_LAYERS + 1];   /* weights read per token */
    uint64_t head_kib;                     /* read per token by device 0 */
    uint64_t kv_layer_bytes;
    uint64_t room[MLXD_LIMIT_NODES]; /* bytes for layers */
    uint64_t price[MLXD_LIMIT_NODES];
};

struct cost {
    uint32_t idle; /* devices without layers; UINT32_MAX: impossible */
    uint64_t time; /* slowest stage, or sum */
    uint64_t squares;
};

struct search {
    const struct task *task;
    bool sums;            /* the second search */
    uint64_t slowest_max; /* bound of the second search */
    unsigned shift;       /* brings times below 2^SQUARE_BITS */
    struct cost rows[2][MLXD_LIMIT_LAYERS + 1];
    uint16_t from[MLXD_LIMIT_NODES][MLXD_LIMIT_LAYERS + 1]; /* first layer of the last range */
};

static unsigned long long mib(uint64_t bytes) {
    return (unsigned long long)((bytes + (1u << 20) - 1) >> 20);
}

static uint64_t to_kib(uint64_t bytes) {
    return (bytes + 1023) >> 10;
}

/* ---- facts ---- */

mlxd_err mlxd_plan_model_read(mlxd_plan_model *out, const mlxd_checkpoint *f, const mlxd_config *c,
                              uint32_t kv_pages, uint32_t parallel, mlxd_why *why) {
    MLXD_ASSERT(c->layers > 0 && c->layers <= MLXD_LIMIT_LAYERS);
    *out = (mlxd_plan_model){.layers = c->layers,
                             .kv_page_bytes = mlxd_kv_page_bytes(c, 1),
                             .kv_pages = kv_pages,
                             .parallel = parallel};
    mlxd_err err = mlxd_vocab_size(f, c, &out->head_bytes, why);
    for (uint32_t i = 0; i < c->layers && !err; i++) {
        err = mlxd_layers_size(f, c, i, i + 1, &out->layer_bytes[i], why);
        if (!err)
            err = mlxd_layers_read_size(f, c, i, i + 1, &out->layer_read_bytes[i], why);
    }
    if (err)
        return err;
    out->head_read_bytes = out->head_bytes;
    if (!c->tied) {
        const mlxd_checkpoint_tensor *t = mlxd_checkpoint_find(f, "output.weight");
        out->head_read_bytes = MLXD_MIN(t->bytes, out->head_bytes);
    }
    return MLXD_OK;
}

/* Prefix sums of what the layers take; false when it is beyond MLXD_PLAN_BYTES_MAX. */
static bool add_up(struct task *t, const mlxd_plan_model *m) {
    MLXD_ASSERT(m->layers > 0 && m->layers <= MLXD_LIMIT_LAYERS);
    t->layers = m->layers;
    t->head_kib = to_kib(m->head_read_bytes);
    t->bytes[0] = t->kib[0] = 0;
    if (!mlxd_mul_u64(m->kv_page_bytes, m->kv_pages, &t->kv_layer_bytes) ||
        t->kv_layer_bytes > MLXD_PLAN_BYTES_MAX || m->head_bytes > MLXD_PLAN_BYTES_MAX ||
        m->head_read_bytes > MLXD_PLAN_BYTES_MAX)
        return false;
    for (uint32_t i = 0; i < m->layers; i++) {
        if (m->layer_bytes[i] > MLXD_PLAN_BYTES_MAX || m->layer_read_bytes[i] > m->layer_bytes[i])
            return false;
        t->bytes[i + 1] = t->bytes[i] + m->layer_bytes[i] + t->kv_layer_bytes;
        t->kib[i + 1] = t->kib[i] + to_kib(m->layer_read_bytes[i]);
        if (t->bytes[i + 1] > MLXD_PLAN_BYTES_MAX)
            return false;
    }
    return true;
}

/* Memory of each device for layers; false when the coordinator's does not hold the head. */
static bool make_room(struct task *t, const mlxd_plan_model *m, const mlxd_plan_device *devices,
                      size_t n) {
    t->n = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        t->room[i] = MLXD_MIN(devices[i].memory_bytes, MLXD_PLAN_BYTES_MAX);
    if (t->room[0] < m->head_bytes)
        return false;
    t->room[0] -= m->head_bytes;
    return true;
}

/* How many layers, from the first on, the devices' memory holds in their order. */
static uint32_t count_layers_held(const struct task *t) {
    uint32_t l = 0;
    for (uint32_t d = 0; d < t->n; d++) {
        uint64_t before = t->bytes[l];
        while (l < t->layers && t->bytes[l + 1] - before <= t->room[d])
            l++;
    }
    return l;
}

static mlxd_err check_devices(const mlxd_plan_device *devices, size_t n, mlxd_why *why) {
    MLXD_ASSERT(n > 0 && n <= MLXD_LIMIT_NODES);
    size_t slow = 0, fast = 0;
    for (size_t i = 0; i < n; i++) {
        const mlxd_plan_device *d = &devices[i];
        if (d->id[0] == 0 || !memchr(d->id, 0, sizeof d->id))
            return mlxd_fail(why, MLXD_ERR_INVALID, "device %zu has no name", i + 1);
        for (size_t j = 0; j < i; j++)
            if (strcmp(d->id, devices[j].id) == 0)
                return mlxd_fail(why, MLXD_ERR_INVALID, "device %s is given twice", d->id);
        if (!isfinite(d->speed) || d->speed <= 0 || !isfinite(d->link_s) || d->link_s < 0)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "device %s: speed %g and round trip %g s, expected a positive number "
                             "and one that is not negative",
                             d->id, d->speed, d->link_s);
        slow = d->speed < devices[slow].speed ? i : slow;
        fast = d->speed > devices[fast].speed ? i : fast;
    }
    if (devices[fast].speed / devices[slow].speed > MLXD_PLAN_SPEED_RATIO_MAX)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "device %s is more than %g times slower than %s: leave it out",
                         devices[slow].id, MLXD_PLAN_SPEED_RATIO_MAX, devices[fast].id);
    return MLXD_OK;
}

/* Integer prices such that everything on the slowest device costs at most COST_MAX. */
static void set_prices(struct task *t, const mlxd_plan_device *devices) {
    double slow = devices[0].speed, fast = slow;
    for (uint32_t i = 1; i < t->n; i++) {
        slow = MLXD_MIN(slow, devices[i].speed);
        fast = MLXD_MAX(fast, devices[i].speed);
    }
    double all = (double)(t->kib[t->layers] + t->head_kib + 1) * (fast / slow);
    double scale = MLXD_MIN((double)PRICE, (double)COST_MAX / all);
    for (uint32_t i = 0; i < t->n; i++) /* rounded; at least 1 because all < COST_MAX */
        t->price[i] = (uint64_t)(scale * (fast / devices[i].speed) + 0.5);
}

static mlxd_err prepare(struct task *t, const mlxd_plan_model *m, const mlxd_plan_device *devices,
                        size_t n, mlxd_why *why) {
    mlxd_err err = check_devices(devices, n, why);
    if (err)
        return err;
    if (!add_up(t, m))
        return mlxd_fail(why, MLXD_ERR_NOMEM,
                         "the model with its KV cache needs more than %llu MiB",
                         mib(MLXD_PLAN_BYTES_MAX));
    if (!make_room(t, m, devices, n))
        return mlxd_fail(why, MLXD_ERR_NOMEM,
                         "the coordinator %s must hold the head, %llu MiB, and has %llu MiB",
                         devices[0].id, mib(m->head_bytes),
                         (unsigned long long)(devices[0].memory_bytes >> 20));
    set_prices(t, devices);
    return MLXD_OK;
}

/* ---- search ---- */

static bool is_better(const struct cost *a, const struct cost *b) {
    if (a->idle != b->idle)
        return a->idle < b->idle;
    if (a->time != b->time)
        return a->time < b->time;
    return a->squares < b->squares;
}

/* `before` and then layers [a, l) on device d. False: memory or bound is passed, and would be by
 * every smaller a, too. */
static bool extend(const struct search *s, const struct cost *before, uint32_t d, uint32_t a,
                   uint32_t l, struct cost *out) {
    const struct task *t = s->task;
    uint64_t kib = t->kib[l] - t->kib[a] + (d == 0 ? t->head_kib : 0);
    uint64_t time = kib * t->price[d], part = time >> s->shift;
    if (t->bytes[l] - t->bytes[a] > t->room[d] || (s->sums && time > s->slowest_max))
        return false;
    *out = *before;
    if (before->idle == UINT32_MAX)
        return true;
    out->idle += a == l;
    out->time = s->sums ? before->time + time : MLXD_MAX(before->time, time);
    out->squares = s->sums ? before->squares + part * part : 0;
    return true;
}

/* Fills s->from and returns the cost of all layers on all devices. */
static struct cost run_search(struct search *s) {
    const struct task *t = s->task;
    const struct cost impossible = {.idle = UINT32_MAX};
    struct cost *before = s->rows[0], *now = s->rows[1], *swap;
    for (uint32_t l = 0; l <= t->layers; l++)
        before[l] = impossible;
    before[0] = (struct cost){0};
    for (uint32_t d = 0; d < t->n; d++) {
        for (uint32_t l = 0; l <= t->layers; l++) {
            struct cost c;
            now[l] = impossible;
            s->from[d][l] = (uint16_t)l;
            /* From the shortest range on, and only a real improvement replaces: a tie leaves the
             * layers to the earlier device. */
            for (uint32_t a = l; extend(s, &before[a], d, a, l, &c); a--) {
                if (is_better(&c, &now[l])) {
                    now[l] = c;
                    s->from[d][l] = (uint16_t)a;
                }
                if (a == 0)
                    break;
            }
        }
        swap = before;
        before = now;
        now = swap;
    }
    return before[t->layers];
}

/* ---- results ---- */

static void fill_share(mlxd_plan_share *s, const struct task *t, const mlxd_plan_model *m,
                       const mlxd_plan_device *d, bool coordinator) {
    uint64_t kv = t->kv_layer_bytes * (s->end - s->first);
    s->kv_bytes = kv;
    s->weights_bytes = t->bytes[s->end] - t->bytes[s->first] - kv;
    s->head_bytes = coordinator ? m->head_bytes : 0;
    s->left_bytes = d->memory_bytes - s->weights_bytes - s->kv_bytes - s->head_bytes;
    uint64_t read = s->weights_bytes + (coordinator ? m->head_read_bytes : 0);
    s->stage_s = (double)read / d->speed;
}

/* Everything that follows from the ranges. */
static void fill(mlxd_plan *p, const struct task *t, const mlxd_plan_model *m,
                 const mlxd_plan_device *devices) {
    p->n_devices = t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        mlxd_plan_share *s = &p->shares[i];
        bool used = s->first < s->end;
        fill_share(s, t, m, &devices[i], i == 0);
        p->n_used += used;
        p->slowest_s = MLXD_MAX(p->slowest_s, s->stage_s);
        p->stream_s += s->stage_s + (used ? devices[i].link_s : 0);
    }
    MLXD_ASSERT(p->n_used > 0);
    double one = 1 / p->stream_s, all = 1 / p->slowest_s;
    p->stream_tps = one;
    p->aggregate_tps = m->parallel ? MLXD_MIN(all, one * m->parallel) : all;
}

static mlxd_err no_fit(const struct task *t, const mlxd_plan_device *devices, mlxd_why *why) {
    uint64_t have = 0;
    for (uint32_t i = 0; i < t->n; i++)
        have += t->room[i];
    return mlxd_fail(why, MLXD_ERR_NOMEM,
                     "the model does not fit: its %u layers with their KV cache need %llu MiB, "
                     "%s%s %llu MiB for layers and %s %u of them",
                     t->layers, mib(t->bytes[t->layers]), t->n == 1 ? devices[0].id : "the devices",
                     t->n == 1 ? " has" : " have", (unsigned long long)(have >> 20),
                     t->n == 1 ? "holds" : "hold", count_layers_held(t));
}

mlxd_err mlxd_plan_make(mlxd_plan *out, const mlxd_plan_model *m, const mlxd_plan_device *devices,
                        size_t n, mlxd_why *why) {
    struct task task;
    *out = (mlxd_plan){0};
    mlxd_err err = prepare(&task, m, devices, n, why);
    if (err)
        return err;
    struct search *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    s->task = &task;
    struct cost best = run_search(s);
    if (best.idle == UINT32_MAX) {
        mlxd_mem_free(s);
        return no_fit(&task, devices, why);
    }
    s->sums = true;
    s->slowest_max = best.time;
    while (best.time >> s->shift >> SQUARE_BITS)
        s->shift++;
    best = run_search(s);
    MLXD_ASSERT(best.idle != UINT32_MAX);
    for (uint32_t d = task.n, end = task.layers; d-- > 0;) {
        uint32_t first = s->from[d][end];
        if (first < end)
            out->shares[d] = (mlxd_plan_share){.first = first, .end = end};
        end = first;
    }
    mlxd_mem_free(s);
    fill(out, &task, m, devices);
    return MLXD_OK;
}

uint32_t mlxd_plan_pages(const mlxd_plan_model *m, const mlxd_plan_device *devices, size_t n) {
    mlxd_plan_model with = *m;
    struct task t;
    uint32_t holds = 0, wanted = m->kv_pages;
    while (holds < wanted) {
        with.kv_pages = wanted - (wanted - holds) / 2; /* the upper half's first */
        if (add_up(&t, &with) && make_room(&t, &with, devices, n) &&
            count_layers_held(&t) == t.layers)
            holds = with.kv_pages;
        else
            wanted = with.kv_pages - 1;
    }
    return holds;
}

/* ---- prescribed ranges ---- */

/* "layer 7", "layers 10-18". */
struct range_text {
    char text[40];
};

static struct range_text say_range(uint32_t first, uint32_t last) {
    struct range_text r;
    if (first == last)
        snprintf(r.text, sizeof r.text, "layer %u", first);
    else
        snprintf(r.text, sizeof r.text, "layers %u-%u", first, last);
    return r;
}

/* A number from 0 to MLXD_LIMIT_LAYERS; moves *s behind it. */
static bool read_layer(const char **s, uint32_t *out) {
    char *end;
    if (**s < '0' || **s > '9')
        return false;
    unsigned long v = strtoul(*s, &end, 10);
    *out = (uint32_t)MLXD_MIN(v, (unsigned long)MLXD_LIMIT_LAYERS);
    *s = end;
    return true;
}

mlxd_err mlxd_plan_parse_range(const char *text, mlxd_plan_range *out, mlxd_why *why) {
    size_t len = strcspn(text, ":");
    const char *s = text + len + 1;
    *out = (mlxd_plan_range){0};
    bool ok =
        len > 0 && len <= MLXD_LIMIT_DEVICE_ID && text[len] == ':' && read_layer(&s, &out->first);
    out->last = out->first;
    if (ok && *s == '-') {
        s++;
        ok = read_layer(&s, &out->last);
    }
    if (!ok || *s || out->last < out->first)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "\"%.80s\": expected device:first-last, layers counted from 0 "
                         "(mini1:0-9)",
                         text);
    memcpy(out->id, text, len);
    return MLXD_OK;
}

/* Index of the device named `id`; n: there is none. */
static size_t find_device(const mlxd_plan_device *devices, size_t n, const char *id) {
    size_t d = 0;
    while (d < n && strcmp(devices[d].id, id) != 0)
        d++;
    return d;
}

static mlxd_err place_range(mlxd_plan *p, const struct task *t, const mlxd_plan_device *devices,
                            const mlxd_plan_range *r, mlxd_why *why) {
    size_t d = find_device(devices, t->n, r->id);
    if (d == t->n)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%s: there is no device %s",
                         say_range(r->first, r->last).text, r->id);
    mlxd_plan_share *s = &p->shares[d];
    if (r->first > r->last || r->last >= t->layers)
        return mlxd_fail(why, MLXD_ERR_INVALID, "device %s: %s: the model has %s", r->id,
                         say_range(r->first, r->last).text, say_range(0, t->layers - 1).text);
    if (s->end)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "device %s is given %s and %s: one range per device", r->id,
                         say_range(s->first, s->end - 1).text, say_range(r->first, r->last).text);
    s->first = r->first;
    s->end = r->last + 1;
    uint64_t need = t->bytes[s->end] - t->bytes[s->first];
    if (need > t->room[d])
        return mlxd_fail(why, MLXD_ERR_NOMEM,
                         "device %s: %s with KV cache need %llu MiB, it has %llu MiB for layers",
                         r->id, say_range(r->first, r->last).text, mib(need),
                         (unsigned long long)(t->room[d] >> 20));
    return MLXD_OK;
}

/* Every layer in exactly one range, every worker with one. */
static mlxd_err check_cover(const mlxd_plan *p, const struct task *t,
                            const mlxd_plan_device *devices, mlxd_why *why) {
    for (uint32_t at = 0; at < t->layers;) {
        uint32_t next = t->layers, holder = t->n, end = at;
        for (uint32_t d = 0; d < t->n; d++) {
            const mlxd_plan_share *s = &p->shares[d];
            if (s->first <= at && at < s->end) {
                if (holder < t->n)
                    return mlxd_fail(
                        why, MLXD_ERR_INVALID, "%s: given to both %s and %s",
                        say_range(at, MLXD_MIN(s->end, p->shares[holder].end) - 1).text,
                        devices[holder].id, devices[d].id);
                holder = d;
                end = s->end;
            } else if (s->first > at) {
                next = MLXD_MIN(next, s->first);
            }
        }
        if (holder == t->n)
            return mlxd_fail(why, MLXD_ERR_INVALID, "%s: given to no device",
                             say_range(at, next - 1).text);
        at = MLXD_MIN(end, next);
    }
    for (uint32_t d = 1; d < t->n; d++)
        if (p->shares[d].end == 0)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "device %s is given no layers: name every worker, or none",
                             devices[d].id);
    return MLXD_OK;
}

mlxd_err mlxd_plan_prescribe(mlxd_plan *out, const mlxd_plan_model *m,
                             const mlxd_plan_device *devices, size_t n,
                             const mlxd_plan_range *ranges, size_t n_ranges, mlxd_why *why) {
    struct task task;
    *out = (mlxd_plan){0};
    mlxd_err err = prepare(&task, m, devices, n, why);
    for (size_t i = 0; i < n_ranges && !err; i++)
        err = place_range(out, &task, devices, &ranges[i], why);
    if (!err)
        err = check_cover(out, &task, devices, why);
    if (!err)
        fill(out, &task, m, devices);
    return err;
}

uint32_t mlxd_plan_pages_prescribed(const mlxd_plan_model *m, const mlxd_plan_device *devices,
                                    size_t n, const mlxd_plan_range *ranges, size_t n_ranges) {
    mlxd_plan_model without = *m;
    struct task t;
    uint32_t pages = m->kv_pages;
    without.kv_pages = 0;
    if (!add_up(&t, &without) || !make_room(&t, m, devices, n))
        return 0;
    for (size_t i = 0; i < n_ranges; i++) {
        const mlxd_plan_range *r = &ranges[i];
        size_t d = find_device(devices, n, r->id);
        if (d == n || r->first > r->last || r->last >= m->layers)
            continue;
        uint64_t need = t.bytes[r->last + 1] - t.bytes[r->first], page;
        if (need > t.room[d] ||
            !mlxd_mul_u64(m->kv_page_bytes, (uint64_t)(r->last + 1) - r->first, &page))
            return 0;
        if (page)
            pages = (uint32_t)MLXD_MIN((uint64_t)pages, (t.room[d] - need) / page);
    }
    return pages;
}
