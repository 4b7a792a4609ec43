/* test_plan.c - a plan covers every layer exactly once, inside everybody's memory, is the best one
 * there is (brute force over all splits says so), and says what is wrong when there is none. */
#include "cluster/plan.h"

#include "base/os.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KIB 1024ull
#define MIB (1024 * KIB)

/* ---- helpers ---- */

static uint64_t state; /* of the tests' generator: xorshift64* */

static uint64_t draw(uint64_t n) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 0x2545F4914F6CDD1Dull >> 16) % n;
}

/* MLXD_TEST_SEED repeats a run. */
static void seed(const char *test) {
    const char *given = getenv("MLXD_TEST_SEED");
    assert_true(mlxd_os_random(&state, sizeof state));
    state = given ? strtoull(given, NULL, 10) : state | 1;
    print_message("%s: seed %llu\n", test, (unsigned long long)state);
}

/* `layers` layers of `mib` MiB each, a head, no KV. */
static mlxd_plan_model uniform(uint32_t layers, uint64_t mib, uint64_t head_mib) {
    mlxd_plan_model m = {
        .layers = layers, .head_bytes = head_mib * MIB, .head_read_bytes = head_mib * MIB};
    for (uint32_t i = 0; i < layers; i++)
        m.layer_read_bytes[i] = m.layer_bytes[i] = mib * MIB;
    return m;
}

static mlxd_plan_device device(const char *id, uint64_t mib, double speed) {
    mlxd_plan_device d = {.memory_bytes = mib * MIB, .speed = speed};
    snprintf(d.id, sizeof d.id, "%s", id);
    return d;
}

static uint64_t weights(const mlxd_plan_model *m, uint32_t first, uint32_t end) {
    uint64_t sum = 0;
    for (uint32_t i = first; i < end; i++)
        sum += m->layer_bytes[i];
    return sum;
}

/* What every plan must keep, whatever it optimises. */
static void check(const mlxd_plan *p, const mlxd_plan_model *m, const mlxd_plan_device *d,
                  size_t n) {
    uint32_t at = 0, used = 0;
    double slowest = 0, sum = 0;
    assert_int_equal(p->n_devices, n);
    for (size_t i = 0; i < n; i++) {
        const mlxd_plan_share *s = &p->shares[i];
        uint64_t kv = (s->end - s->first) * m->kv_page_bytes * m->kv_pages;
        uint64_t w = weights(m, s->first, s->end), head = i == 0 ? m->head_bytes : 0;
        assert_int_equal(s->weights_bytes, w);
        assert_int_equal(s->kv_bytes, kv);
        assert_int_equal(s->head_bytes, head);
        assert_true(w + kv + head <= d[i].memory_bytes);
        assert_int_equal(s->left_bytes, d[i].memory_bytes - w - kv - head);
        assert_float_equal(s->stage_s, (w + (i == 0 ? m->head_read_bytes : 0)) / d[i].speed,
                           1e-12 * s->stage_s);
        slowest = fmax(slowest, s->stage_s);
        sum += s->stage_s;
        if (s->first == s->end) {
            assert_int_equal(s->first, 0);
            continue;
        }
        assert_int_equal(s->first, at); /* in order, without gap or overlap */
        at = s->end;
        sum += d[i].link_s;
        used++;
    }
    assert_int_equal(at, m->layers);
    assert_int_equal(p->n_used, used);
    assert_float_equal(p->slowest_s, slowest, 1e-12 * slowest);
    assert_float_equal(p->stream_s, sum, 1e-12 * sum);
    assert_float_equal(p->stream_tps, 1 / sum, 1e-9 / sum);
}

static void assert_layers(const mlxd_plan *p, size_t i, uint32_t first, uint32_t last) {
    assert_int_equal(p->shares[i].first, first);
    assert_int_equal(p->shares[i].end, last + 1);
}

/* The plan must fail like this, and say these words. Ends with NULL. */
static void assert_why(mlxd_err got, mlxd_err expected, const mlxd_why *why, ...) {
    va_list words;
    va_start(words, why);
    assert_int_equal(got, expected);
    for (const char *w = va_arg(words, const char *); w; w = va_arg(words, const char *))
        if (!strstr(why->text, w))
            fail_msg("\"%s\" does not say \"%s\"", why->text, w);
    va_end(words);
}

/* ---- cover ---- */

/* 1..61 layers on 1..7 devices, uneven layers, memories from too small to plenty. */
static void covers_every_split(void **unused) {
    (void)unused;
    static mlxd_plan_model m;
    unsigned fitted = 0, refused = 0;
    seed("cover");
    for (uint32_t layers = 1; layers <= 61; layers++)
        for (size_t n = 1; n <= 7; n++)
            for (int round = 0; round < 12; round++) {
                mlxd_plan_device d[7];
                mlxd_plan p;
                mlxd_why why;
                uint64_t total = 0, have = 0, largest = 0;
                m = uniform(layers, 0, draw(8));
                m.kv_page_bytes = draw(64) * KIB;
                m.kv_pages = (uint32_t)draw(32);
                for (uint32_t i = 0; i < layers; i++) {
                    m.layer_read_bytes[i] = m.layer_bytes[i] =
                        (1 + draw(round % 2 ? 1 : 4)) * MIB + draw(2) * 64;
                    total += m.layer_bytes[i] + m.kv_page_bytes * m.kv_pages;
                    largest = MLXD_MAX(largest, m.layer_bytes[i] + m.kv_page_bytes * m.kv_pages);
                }
                for (size_t i = 0; i < n; i++) {
                    uint64_t fair = (total / n + largest) * (50 + draw(200)) / 100;
                    d[i] = device("x", 0, (double)(1 + draw(1000)) * 1e6);
                    d[i].id[0] = (char)('a' + i);
                    d[i].memory_bytes = fair + (i == 0 ? m.head_bytes : 0);
                    d[i].link_s = i ? (double)draw(1000) * 1e-6 : 0;
                    have += fair;
                }
                mlxd_err err = mlxd_plan_make(&p, &m, d, n, &why);
                if (err) {
                    assert_int_equal(err, MLXD_ERR_NOMEM);
                    /* A device fails to use less than one layer's worth of its memory. */
                    assert_true(have < total + n * largest);
                    refused++;
                    continue;
                }
                check(&p, &m, d, n);
                fitted++;
            }
    print_message("%u plans, %u refusals\n", fitted, refused);
    assert_true(fitted > 1000 && refused > 100);
}

/* Equal devices get equal shares, the first ones the rest, as the contract's 28 = 10 + 9 + 9. */
static void equal_devices_share_evenly(void **unused) {
    (void)unused;
    for (uint32_t layers = 1; layers <= 61; layers++)
        for (size_t n = 1; n <= 7; n++) {
            mlxd_plan_model m = uniform(layers, 10, 0);
            mlxd_plan_device d[7];
            mlxd_plan p;
            for (size_t i = 0; i < n; i++) {
                d[i] = device("x", 100000, 1.0);
                d[i].id[0] = (char)('a' + i);
            }
            assert_int_equal(mlxd_plan_make(&p, &m, d, n, NULL), MLXD_OK);
            check(&p, &m, d, n);
            assert_int_equal(p.n_used, MLXD_MIN(n, (size_t)layers));
            for (size_t i = 0; i < n; i++)
                assert_int_equal(p.shares[i].end - p.shares[i].first,
                                 layers / n + (i < layers % n));
        }
}

/* ---- optimality ---- */

struct score {
    uint32_t used;
    double slowest, sum, squares;
};

static bool is_less(double a, double b) {
    return a < b * (1 - 1e-9);
}

static bool beats(const struct score *a, const struct score *b) {
    if (a->used != b->used)
        return a->used > b->used;
    if (is_less(a->slowest, b->slowest) || is_less(b->slowest, a->slowest))
        return a->slowest < b->slowest;
    if (is_less(a->sum, b->sum) || is_less(b->sum, a->sum))
        return a->sum < b->sum;
    return is_less(a->squares, b->squares);
}

/* Tries every length for device i. */
static void enumerate(const mlxd_plan_model *m, const mlxd_plan_device *d, size_t n, size_t i,
                      uint32_t at, struct score so_far, struct score *best) {
    if (i == n) {
        if (at == m->layers && (best->used == 0 || beats(&so_far, best)))
            *best = so_far;
        return;
    }
    for (uint32_t end = at; end <= m->layers; end++) {
        uint64_t w = weights(m, at, end);
        uint64_t bytes = w + (end - at) * m->kv_page_bytes * m->kv_pages;
        if (bytes + (i == 0 ? m->head_bytes : 0) > d[i].memory_bytes)
            break;
        double t = (double)(w + (i == 0 ? m->head_read_bytes : 0)) / d[i].speed;
        enumerate(m, d, n, i + 1, end,
                  (struct score){so_far.used + (end > at), fmax(so_far.slowest, t), so_far.sum + t,
                                 so_far.squares + t * t},
                  best);
    }
}

static void is_as_good_as_brute_force(void **unused) {
    (void)unused;
    static mlxd_plan_model m;
    unsigned fitted = 0, refused = 0;
    seed("optimum");
    for (int round = 0; round < 6000; round++) {
        size_t n = 1 + draw(5);
        mlxd_plan_device d[5];
        mlxd_plan p;
        bool even = draw(2), plenty = draw(2);
        m = uniform(1 + (uint32_t)draw(10), 0, draw(4));
        m.head_read_bytes = draw(2) ? m.head_bytes : m.head_bytes / 2;
        m.kv_page_bytes = draw(3) * KIB;
        m.kv_pages = 16;
        for (uint32_t i = 0; i < m.layers; i++)
            m.layer_read_bytes[i] = m.layer_bytes[i] = even ? 4 * MIB : (1 + draw(8)) * 512 * KIB;
        for (size_t i = 0; i < n; i++) {
            d[i] = device("x", plenty ? 1000 : draw(24), (double)(1 + draw(6)) * (1 << 20));
            d[i].id[0] = (char)('a' + i);
        }
        struct score best = {0};
        enumerate(&m, d, n, 0, 0, (struct score){0}, &best);
        mlxd_err err = mlxd_plan_make(&p, &m, d, n, NULL);
        assert_int_equal(err, best.used ? MLXD_OK : MLXD_ERR_NOMEM);
        if (err) {
            refused++;
            continue;
        }
        check(&p, &m, d, n);
        struct score got = {p.n_used, p.slowest_s, 0, 0};
        for (size_t i = 0; i < n; i++) {
            got.sum += p.shares[i].stage_s;
            got.squares += p.shares[i].stage_s * p.shares[i].stage_s;
        }
        if (beats(&best, &got))
            fail_msg("round %d: %u devices, slowest %.9g, sum %.9g, squares %.9g; there is %u, "
                     "%.9g, %.9g, %.9g",
                     round, got.used, got.slowest, got.sum, got.squares, best.used, best.slowest,
                     best.sum, best.squares);
        fitted++;
    }
    print_message("%u plans, %u refusals\n", fitted, refused);
    assert_true(fitted > 1000 && refused > 100);
}

/* ---- what a user expects ---- */

static void speed_and_head_move_layers(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(30, 10, 0);
    mlxd_plan_device d[2] = {device("mini1", 1000, 1e9), device("mini2", 1000, 2e9)};
    mlxd_plan p;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 2, NULL), MLXD_OK);
    assert_layers(&p, 0, 0, 9); /* twice as fast: twice the layers */
    assert_layers(&p, 1, 10, 29);
    assert_float_equal(p.slowest_s, 200 * (double)MIB / 2e9, 1e-9);

    /* A head that costs as much as 15 layers leaves the first device few. */
    m = uniform(30, 10, 150);
    d[1].speed = 1e9;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 2, NULL), MLXD_OK);
    assert_layers(&p, 0, 0, 7); /* 150 + 80 against 220 */
    assert_layers(&p, 1, 8, 29);

    /* An untied head of which only the half is read. */
    m.head_read_bytes = 80 * MIB;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 2, NULL), MLXD_OK);
    assert_layers(&p, 0, 0, 10);
    assert_int_equal(p.shares[0].left_bytes, (1000 - 150 - 110) * MIB);
}

static void memory_and_kv_bound_layers(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(10, 10, 20);
    mlxd_plan_device d[3] = {device("a", 55, 1e9), device("b", 40, 1e9), device("c", 35, 1e9)};
    mlxd_plan p;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 3, NULL), MLXD_OK);
    check(&p, &m, d, 3);
    assert_layers(&p, 0, 0, 2); /* 3 + 4 + 3 is the only split that fits */
    assert_layers(&p, 1, 3, 6);
    assert_layers(&p, 2, 7, 9);
    /* Half of each layer again for KV: 3 + 3 + 4 with the memory swapped to the last one. */
    m.kv_page_bytes = MIB;
    m.kv_pages = 5;
    d[0].memory_bytes = 65 * MIB;
    d[1].memory_bytes = 45 * MIB;
    d[2].memory_bytes = 60 * MIB;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 3, NULL), MLXD_OK);
    assert_layers(&p, 0, 0, 2);
    assert_layers(&p, 1, 3, 5);
    assert_layers(&p, 2, 6, 9);
    assert_int_equal(p.shares[2].kv_bytes, 20 * MIB);
    assert_int_equal(p.shares[2].left_bytes, 0);
}

/* A worker that was listed computes, unless it cannot: no memory, or no layer left for it. */
static void listed_workers_are_used(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(12, 10, 5);
    mlxd_plan_device d[4] = {device("a", 1000, 1e9), device("slow", 1000, 1e6),
                             device("tiny", 9, 5e9), device("c", 1000, 1e9)};
    mlxd_plan p;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 4, NULL), MLXD_OK);
    check(&p, &m, d, 4);
    assert_int_equal(p.n_used, 3);
    assert_int_equal(p.shares[1].end - p.shares[1].first, 1);
    assert_int_equal(p.shares[2].end, 0); /* 9 MiB hold no layer of 10 */
    m = uniform(2, 10, 5);
    d[2].memory_bytes = 1000 * MIB;
    assert_int_equal(mlxd_plan_make(&p, &m, d, 4, NULL), MLXD_OK);
    check(&p, &m, d, 4);
    assert_int_equal(p.n_used, 2);
    assert_int_equal(p.shares[1].end, 0); /* the slowest of the four stays out */
}

static void predicts_stream_and_aggregate(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(20, 10, 0);
    mlxd_plan_device d[2] = {device("a", 1000, 1e9), device("b", 1000, 1e9)};
    mlxd_plan one, two;
    assert_int_equal(mlxd_plan_make(&one, &m, d, 1, NULL), MLXD_OK);
    d[1].link_s = 0.01;
    assert_int_equal(mlxd_plan_make(&two, &m, d, 2, NULL), MLXD_OK);
    double t = 200 * (double)MIB / 1e9;
    assert_float_equal(one.stream_tps, 1 / t, 1e-6);
    assert_float_equal(one.aggregate_tps, 1 / t, 1e-6); /* one device: no more than one stream */
    assert_float_equal(two.stream_tps, 1 / (t + 0.01), 1e-6); /* a hop costs */
    assert_float_equal(two.aggregate_tps, 2 / t, 1e-6);       /* two stages at work at once */
    m.parallel = 1;
    assert_int_equal(mlxd_plan_make(&two, &m, d, 2, NULL), MLXD_OK);
    assert_float_equal(two.aggregate_tps, two.stream_tps, 1e-6); /* one request keeps one busy */
}

/* The same plan from relative speeds, and the same plan twice. */
static void scale_of_speed_does_not_matter(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(61, 7, 33);
    mlxd_plan_device d[5];
    mlxd_plan a, b;
    seed("scale");
    for (int round = 0; round < 200; round++) {
        double power[5];
        for (size_t i = 0; i < 5; i++) {
            power[i] = (double)(1 + draw(9));
            d[i] = device("x", 200 + draw(400), power[i]);
            d[i].id[0] = (char)('a' + i);
        }
        mlxd_err err = mlxd_plan_make(&a, &m, d, 5, NULL);
        for (size_t i = 0; i < 5; i++)
            d[i].speed = power[i] * 3.7e9;
        assert_int_equal(mlxd_plan_make(&b, &m, d, 5, NULL), err);
        for (size_t i = 0; i < 5 && !err; i++) {
            assert_int_equal(a.shares[i].first, b.shares[i].first);
            assert_int_equal(a.shares[i].end, b.shares[i].end);
        }
    }
}

/* The largest allowed input is exact, too, and does not overflow. */
static void limits_hold(void **unused) {
    (void)unused;
    static mlxd_plan_model m;
    static mlxd_plan_device d[MLXD_LIMIT_NODES];
    static mlxd_plan p;
    mlxd_why why;
    m = uniform(MLXD_LIMIT_LAYERS, 1000000, 1000);
    for (size_t i = 0; i < MLXD_LIMIT_NODES; i++) {
        d[i] = device("", 0, i % 2 ? 1e-3 : 1e3);
        d[i].memory_bytes = UINT64_MAX;
        snprintf(d[i].id, sizeof d[i].id, "n%zu", i);
    }
    assert_int_equal(mlxd_plan_make(&p, &m, d, MLXD_LIMIT_NODES, &why), MLXD_OK);
    check(&p, &m, d, MLXD_LIMIT_NODES);
    assert_int_equal(p.n_used, MLXD_LIMIT_NODES);
    for (size_t i = 1; i < MLXD_LIMIT_NODES; i += 2)
        assert_int_equal(p.shares[i].end - p.shares[i].first, 1);
    m.kv_page_bytes = UINT64_MAX / 2;
    m.kv_pages = UINT32_MAX;
    assert_why(mlxd_plan_make(&p, &m, d, 1, &why), MLXD_ERR_NOMEM, &why, "needs more than", NULL);
    m.kv_pages = 0;
    m.layer_read_bytes[3] = m.layer_bytes[3] = UINT64_MAX;
    assert_why(mlxd_plan_make(&p, &m, d, 1, &why), MLXD_ERR_NOMEM, &why, "needs more than", NULL);
}

/* ---- refusals ---- */

static void says_what_does_not_fit(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(30, 10, 50);
    mlxd_plan_device d[3] = {device("mini1", 150, 1), device("mini2", 95, 1),
                             device("master", 60, 1)};
    mlxd_plan p;
    mlxd_why why;
    assert_why(mlxd_plan_make(&p, &m, d, 3, &why), MLXD_ERR_NOMEM, &why, "30 layers",
               "need 300 MiB", "the devices have 255 MiB", "hold 25 of them", NULL);
    assert_why(mlxd_plan_make(&p, &m, d, 1, &why), MLXD_ERR_NOMEM, &why, "mini1 has 100 MiB",
               "holds 10 of them", NULL);
    d[0].memory_bytes = 49 * MIB;
    assert_why(mlxd_plan_make(&p, &m, d, 3, &why), MLXD_ERR_NOMEM, &why, "mini1", "50 MiB",
               "49 MiB", NULL);
    /* Enough in all, but whole layers do not fit into the pieces. */
    m = uniform(4, 10, 0);
    d[0] = device("a", 15, 1);
    d[1] = device("b", 15, 1);
    d[2] = device("c", 15, 1);
    assert_why(mlxd_plan_make(&p, &m, d, 3, &why), MLXD_ERR_NOMEM, &why, "need 40 MiB",
               "have 45 MiB", "hold 3 of them", NULL);
}

static void refuses_bad_devices(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(4, 10, 0);
    mlxd_plan p;
    mlxd_why why;
    const double bad[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++) {
        mlxd_plan_device d[2] = {device("a", 100, 1), device("b", 100, bad[i])};
        assert_why(mlxd_plan_make(&p, &m, d, 2, &why), MLXD_ERR_INVALID, &why, "device b", "speed",
                   NULL);
    }
    mlxd_plan_device d[2] = {device("a", 100, 1), device("a", 100, 1)};
    assert_why(mlxd_plan_make(&p, &m, d, 2, &why), MLXD_ERR_INVALID, &why, "a is given twice",
               NULL);
    d[1] = device("", 100, 1);
    assert_why(mlxd_plan_make(&p, &m, d, 2, &why), MLXD_ERR_INVALID, &why, "device 2", "no name",
               NULL);
    d[1] = device("b", 100, 1e7);
    assert_why(mlxd_plan_make(&p, &m, d, 2, &why), MLXD_ERR_INVALID, &why, "device a",
               "slower than b", NULL);
}

/* ---- prescribed ranges ---- */

static void parses_ranges(void **unused) {
    (void)unused;
    const char *const bad[] = {"",           "mini1",      "mini1:",     ":0-3",        "mini1:3-",
                               "mini1:-3",   "mini1:5-3",  "mini1:0-3x", "mini1:0-3,5", "mini1:+1",
                               "mini1: 0-3", "mini1:0--3", "mini1:a-b",  "mini1:0:3"};
    mlxd_plan_range r;
    mlxd_why why;
    assert_int_equal(mlxd_plan_parse_range("mini1:0-9", &r, &why), MLXD_OK);
    assert_string_equal(r.id, "mini1");
    assert_int_equal(r.first, 0);
    assert_int_equal(r.last, 9);
    assert_int_equal(mlxd_plan_parse_range("x:7", &r, &why), MLXD_OK);
    assert_int_equal(r.first, 7);
    assert_int_equal(r.last, 7);
    for (size_t i = 0; i < MLXD_COUNT_OF(bad); i++)
        assert_why(mlxd_plan_parse_range(bad[i], &r, &why), MLXD_ERR_INVALID, &why,
                   "expected device:first-last", NULL);
    char id[80];
    snprintf(id, sizeof id, "%063d:0-1", 0);
    assert_int_equal(mlxd_plan_parse_range(id, &r, &why), MLXD_OK);
    snprintf(id, sizeof id, "%064d:0-1", 0);
    assert_int_equal(mlxd_plan_parse_range(id, &r, &why), MLXD_ERR_INVALID);
    /* A number beyond everything stays beyond the model instead of wrapping around. */
    assert_int_equal(mlxd_plan_parse_range("a:0-99999999999999999999999", &r, &why), MLXD_OK);
    assert_true(r.last >= MLXD_LIMIT_LAYERS);
}

#define RANGES(...)                                                                                \
    (const char *const[]) {                                                                        \
        __VA_ARGS__, NULL                                                                          \
    }

static mlxd_err prescribe(mlxd_plan *p, const mlxd_plan_model *m, const mlxd_plan_device *d,
                          size_t n, const char *const *texts, mlxd_why *why) {
    mlxd_plan_range r[8];
    size_t count = 0;
    for (; texts[count]; count++)
        assert_int_equal(mlxd_plan_parse_range(texts[count], &r[count], why), MLXD_OK);
    return mlxd_plan_prescribe(p, m, d, n, r, count, why);
}

static void keeps_prescribed_ranges(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(28, 10, 50);
    mlxd_plan_device d[3] = {device("mini1", 1000, 1), device("mini2", 200, 1),
                             device("master", 200, 1)};
    mlxd_plan p;
    mlxd_why why;
    assert_int_equal(
        prescribe(&p, &m, d, 3, RANGES("mini1:0-9", "mini2:10-18", "master:19-27"), &why), MLXD_OK);
    check(&p, &m, d, 3);
    assert_layers(&p, 0, 0, 9);
    assert_layers(&p, 1, 10, 18);
    assert_layers(&p, 2, 19, 27);
    /* Any order of devices, and a coordinator that computes only the head. */
    assert_int_equal(prescribe(&p, &m, d, 3, RANGES("master:0-13", "mini2:14-27"), &why), MLXD_OK);
    assert_layers(&p, 2, 0, 13);
    assert_layers(&p, 1, 14, 27);
    assert_int_equal(p.shares[0].end, 0);
    assert_int_equal(p.n_used, 2);
    assert_float_equal(p.slowest_s, 140 * (double)MIB, 1);
}

static void refuses_ranges_by_name(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(28, 10, 50);
    mlxd_plan_device d[3] = {device("mini1", 1000, 1), device("mini2", 100, 1),
                             device("master", 1000, 1)};
    mlxd_plan p;
    mlxd_why why;
    const struct {
        const char *const *ranges;
        mlxd_err err;
        const char *words[3];
    } cases[] = {
        {RANGES("mini1:0-9", "mini2:12-18", "master:19-27"),
         MLXD_ERR_INVALID,
         {"layers 10-11", "no device", ""}},
        {RANGES("mini1:1-9", "mini2:10-18", "master:19-27"),
         MLXD_ERR_INVALID,
         {"layer 0:", "no device", ""}},
        {RANGES("mini1:0-9", "mini2:10-18", "master:19-26"),
         MLXD_ERR_INVALID,
         {"layer 27:", "no device", ""}},
        {RANGES("mini1:0-12", "mini2:10-18", "master:19-27"),
         MLXD_ERR_INVALID,
         {"layers 10-12", "mini1", "mini2"}},
        {RANGES("mini1:0-27", "mini2:5-6", "master:7-8"),
         MLXD_ERR_INVALID,
         {"layers 5-6", "mini1", "mini2"}},
        {RANGES("mini1:0-9", "mini2:10-18", "master:19-28"),
         MLXD_ERR_INVALID,
         {"master", "layers 19-28", "the model has layers 0-27"}},
        {RANGES("mini1:0-9", "mini3:10-18", "master:19-27"),
         MLXD_ERR_INVALID,
         {"layers 10-18", "no device mini3", ""}},
        {RANGES("mini1:0-9", "mini1:10-18", "master:19-27"),
         MLXD_ERR_INVALID,
         {"mini1", "layers 0-9", "layers 10-18"}},
        {RANGES("mini1:0-9", "mini2:10-20", "master:21-27"),
         MLXD_ERR_NOMEM,
         {"mini2: layers 10-20", "need 110 MiB", "100 MiB"}},
        {RANGES("mini1:0-9", "master:10-27"), MLXD_ERR_INVALID, {"mini2", "no layers", ""}},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++)
        assert_why(prescribe(&p, &m, d, 3, cases[i].ranges, &why), cases[i].err, &why,
                   cases[i].words[0], cases[i].words[1], cases[i].words[2], NULL);
    assert_why(mlxd_plan_prescribe(&p, &m, d, 3, NULL, 0, &why), MLXD_ERR_INVALID, &why,
               "layers 0-27: given to no device", NULL);
}

/* ---- KV pool ---- */

/* The pool that is said to fit does, and one page more does not. */
static void finds_the_largest_kv_pool(void **unused) {
    (void)unused;
    static mlxd_plan_model m;
    unsigned found = 0;
    seed("pages");
    for (int round = 0; round < 500; round++) {
        size_t n = 1 + draw(4);
        mlxd_plan_device d[4];
        mlxd_plan p;
        m = uniform(1 + (uint32_t)draw(40), 3, draw(10));
        m.kv_page_bytes = (1 + draw(8)) * 64 * KIB;
        m.kv_pages = 1 + (uint32_t)draw(1000);
        for (size_t i = 0; i < n; i++) {
            d[i] = device("x", draw(400), 1);
            d[i].id[0] = (char)('a' + i);
        }
        uint32_t wanted = m.kv_pages, pages = mlxd_plan_pages(&m, d, n);
        assert_true(pages <= wanted);
        m.kv_pages = pages;
        if (pages) {
            assert_int_equal(mlxd_plan_make(&p, &m, d, n, NULL), MLXD_OK);
            found++;
        }
        if (pages < wanted) {
            m.kv_pages = pages + 1;
            assert_int_equal(mlxd_plan_make(&p, &m, d, n, NULL), MLXD_ERR_NOMEM);
        }
    }
    assert_true(found > 100);
}

/* Prescribed ranges may leave less than the best split would. */
static void finds_the_kv_pool_of_prescribed_ranges(void **unused) {
    (void)unused;
    mlxd_plan_model m = uniform(10, 10, 20);
    m.kv_page_bytes = MIB;
    m.kv_pages = 100;
    mlxd_plan_device d[2] = {device("a", 220, 1), device("b", 220, 1)};
    mlxd_plan_range r[2] = {{"a", 0, 4}, {"b", 5, 9}}, uneven[2] = {{"b", 0, 7}, {"a", 8, 9}};
    mlxd_plan p;
    assert_int_equal(mlxd_plan_pages_prescribed(&m, d, 2, r, 2), 30); /* (200 - 50) / 5 */
    assert_int_equal(mlxd_plan_pages(&m, d, 2), 30);
    assert_int_equal(mlxd_plan_pages_prescribed(&m, d, 2, uneven, 2), 17); /* (220 - 80) / 8 */
    m.kv_pages = 17;
    assert_int_equal(mlxd_plan_prescribe(&p, &m, d, 2, uneven, 2, NULL), MLXD_OK);
    assert_int_equal(mlxd_plan_pages_prescribed(&m, d, 2, uneven, 2), 17);
    m.kv_pages = 18;
    assert_int_equal(mlxd_plan_prescribe(&p, &m, d, 2, uneven, 2, NULL), MLXD_ERR_NOMEM);
    d[1].memory_bytes = 79 * MIB;
    assert_int_equal(mlxd_plan_pages_prescribed(&m, d, 2, uneven, 2), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covers_every_split),
        cmocka_unit_test(equal_devices_share_evenly),
        cmocka_unit_test(is_as_good_as_brute_force),
        cmocka_unit_test(speed_and_head_move_layers),
        cmocka_unit_test(memory_and_kv_bound_layers),
        cmocka_unit_test(listed_workers_are_used),
        cmocka_unit_test(predicts_stream_and_aggregate),
        cmocka_unit_test(scale_of_speed_does_not_matter),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(says_what_does_not_fit),
        cmocka_unit_test(refuses_bad_devices),
        cmocka_unit_test(parses_ranges),
        cmocka_unit_test(keeps_prescribed_ranges),
        cmocka_unit_test(refuses_ranges_by_name),
        cmocka_unit_test(finds_the_largest_kv_pool),
        cmocka_unit_test(finds_the_kv_pool_of_prescribed_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
