/* attention_avx512.c - attention over one KV page as two matrix products with a softmax between.
 *
 * Scores are queries x K page: per dimension a row of 64 positions. Outputs are e x V page: per
 * position a row of head_dim values. Both are "for rows ascending: acc = fma(x[row], m[row][...],
 * acc)", and run_tile() is that for up to 6 queries by 4 vectors of a row: 24 accumulators stay in
 * registers, 4 loads and 6 broadcasts feed 24 fma.
 *
 * A page's f16 must be widened. Up to 6 queries (one token that decodes) do it on the fly, as they
 * pass over the page once. For more, slabs of 64 x 64 values (16 KiB, so that they stay in the L1
 * cache) are widened once and all queries pass over them, in chunks of 64 that keep what happens
 * between the two products. So the order of loops is
 *
 *     chunk of queries:  K slab: block of 6 queries: scores += ...   (64 dimensions a slab)
 *                        each query: softmax
 *                        V slab: block of 6 queries: output, merge   (64 columns a slab)
 *
 * Queries of a block run together over the positions that all of them see; what one sees beyond is
 * added for it alone, so that V is never multiplied where it does not count.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/avx512.h"

#include <math.h>

#define PAGE MLXD_PAGE
#define LANES 16
#define BLOCK 6    /* queries that share a pass */
#define VECTORS 4  /* vectors of a row that a pass covers */
#define SLAB 64    /* rows and columns of a slab: PAGE, and VECTORS * LANES */
#define CHUNK 64   /* queries between the two products */
#define LINES 128  /* bytes that are prefetched per row: a row of K */
#define AHEAD 1024 /* bytes by which that runs ahead of the rows */

_Static_assert(SLAB == PAGE && SLAB == VECTORS * LANES, "a slab is a page of positions");

/* One pass: acc[q] = start[q], then for rows ascending fma(x[q][row], m[row], acc[q]). It is stored
 * to out[q], or merged: out[q] = fma(out[q], own[q], acc[q] * other[q]). */
typedef struct pass {
    const float *x[BLOCK];
    const void *m;      /* first row: f32, or f16 when not widened */
    size_t stride;      /* values from row to row */
    size_t rows, cols;  /* cols: 1..SLAB */
    const float *start; /* [queries][SLAB], or NULL: +0 */
    float *out[BLOCK];  /* [cols] */
    bool merge;
    float own[BLOCK], other[BLOCK];
    const void *ahead; /* not widened: what will be read next, LINES bytes per row */
} pass;

/* ---- the product ---- */

/* A hint, no access: it may lie behind the page. */
MLXD_INLINE void prefetch(uintptr_t at) {
    _mm_prefetch((const char *)at, _MM_HINT_T0);
    _mm_prefetch((const char *)(at + LINES / 2), _MM_HINT_T0);
}

MLXD_INLINE void finish_tile(const int queries, const int vectors, const pass *p,
                             __m512 acc[BLOCK][VECTORS]) {
    __mmask16 last = mlxd_avx512_mask(p->cols - (size_t)(vectors - 1) * LANES);
    MLXD_UNROLL
    for (int q = 0; q < queries; q++) {
        float *out = p->out[q];
        __m512 own = _mm512_set1_ps(p->own[q]), other = _mm512_set1_ps(p->other[q]);
        MLXD_UNROLL
        for (int i = 0; i < vectors; i++) {
            __mmask16 mask = i == vectors - 1 ? last : 0xffff;
            __m512 v = acc[q][i];
            if (p->merge)
                v = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, out + i * LANES), own,
                                    _mm512_mul_ps(v, other));
            _mm512_mask_storeu_ps(out + i * LANES, mask, v);
        }
    }
}

MLXD_INLINE void run_tile(const int queries, const int vectors, const bool wide, const pass *p) {
    __m512 acc[BLOCK][VECTORS];
    const float *x[BLOCK];
    const uint8_t *m = p->m;
    const size_t one = wide ? sizeof(float) : sizeof(uint16_t);
    const size_t step = p->stride * one, rows = p->rows;
    MLXD_UNROLL
    for (int q = 0; q < queries; q++) {
        x[q] = p->x[q];
        MLXD_UNROLL
        for (int i = 0; i < vectors; i++)
            acc[q][i] =
                p->start ? _mm512_loadu_ps(p->start + q * SLAB + i * LANES) : _mm512_setzero_ps();
    }
    for (size_t row = 0; row < rows; row++, m += step) {
        __m512 v[VECTORS];
        MLXD_UNROLL
        for (int i = 0; i < vectors; i++) {
            const uint8_t *at = m + (size_t)(i * LANES) * one;
            v[i] = wide ? _mm512_loadu_ps(at) : mlxd_avx512_load_f16(at);
        }
        if (!wide) {
            prefetch((uintptr_t)m + AHEAD);
            prefetch((uintptr_t)p->ahead + LINES * row);
        }
        MLXD_UNROLL
        for (int q = 0; q < queries; q++) {
            __m512 factor = _mm512_set1_ps(x[q][row]);
            MLXD_UNROLL
            for (int i = 0; i < vectors; i++)
                acc[q][i] = _mm512_fmadd_ps(factor, v[i], acc[q][i]);
        }
    }
    finish_tile(queries, vectors, p, acc);
}

MLXD_INLINE void run_queries(const int queries, const bool wide, const pass *p) {
    size_t vectors = (p->cols + LANES - 1) / LANES;
    if (vectors == 4)
        run_tile(queries, 4, wide, p);
    else if (vectors == 3)
        run_tile(queries, 3, wide, p);
    else if (vectors == 2)
        run_tile(queries, 2, wide, p);
    else
        run_tile(queries, 1, wide, p);
}

MLXD_INLINE void run_shape(size_t queries, const bool wide, const pass *p) {
    switch (queries) {
    case 1:
        run_queries(1, wide, p);
        break;
    case 2:
        run_queries(2, wide, p);
        break;
    case 3:
        run_queries(3, wide, p);
        break;
    case 4:
        run_queries(4, wide, p);
        break;
    case 5:
        run_queries(5, wide, p);
        break;
    default:
        run_queries(BLOCK, wide, p);
        break;
    }
}

static void run_wide(size_t queries, const pass *p) {
    run_shape(queries, true, p);
}

static void run_halves(size_t queries, const pass *p) {
    run_shape(queries, false, p);
}

/* rows x cols values of f16, `stride` apart from row to row, to a slab; cols is filled up with
 * zeros to whole vectors. */
static void widen(const uint16_t *from, size_t stride, size_t rows, size_t cols, float *slab) {
    for (size_t r = 0; r < rows; r++, from += stride, slab += SLAB) {
        if (cols == SLAB) {
            MLXD_UNROLL
            for (size_t c = 0; c < SLAB; c += LANES)
                _mm512_store_ps(slab + c, mlxd_avx512_load_f16(from + c));
        } else {
            for (size_t c = 0; c < cols; c += LANES) {
                __m256i h = _mm256_maskz_loadu_epi16(mlxd_avx512_mask(cols - c), from + c);
                _mm512_store_ps(slab + c, _mm512_cvtph_ps(h));
            }
        }
    }
}

/* ---- a chunk of queries on their way through a page ---- */

typedef struct chunk {
    mlxd_query *query;
    size_t n;
    bool halves;                    /* the pages are read as they are, not through slabs */
    float *slab;                    /* [SLAB][SLAB] */
    float (*e)[PAGE];               /* scores, then their exponentials */
    float max[CHUNK], sum[CHUNK];   /* of this page */
    float own[CHUNK], other[CHUNK]; /* what gathered output and this page's are scaled by */
} chunk;

/* Positions that at least one query of those sees, or (all) that each of them sees. */
static void see(const mlxd_query *query, size_t n, size_t *some, size_t *all) {
    *some = *all = query[0].visible;
    for (size_t i = 1; i < n; i++) {
        *some = MLXD_MAX(*some, (size_t)query[i].visible);
        *all = MLXD_MIN(*all, (size_t)query[i].visible);
    }
}

static void run(const chunk *c, size_t queries, const pass *p) {
    if (c->halves)
        run_halves(queries, p);
    else
        run_wide(queries, p);
}

static void score(const chunk *c, const uint16_t *k_page, const uint16_t *v_page, size_t head_dim) {
    size_t rows = c->halves ? head_dim : SLAB;
    for (size_t d = 0; d < head_dim; d += rows) {
        rows = MLXD_MIN(rows, head_dim - d);
        pass p = {.m = k_page, .stride = PAGE, .rows = rows, .ahead = v_page};
        if (!c->halves) {
            widen(k_page + d * PAGE, PAGE, rows, PAGE, c->slab);
            p.m = c->slab;
        }
        for (size_t i = 0, n; i < c->n; i += n) {
            size_t all;
            n = MLXD_MIN(c->n - i, (size_t)BLOCK);
            see(c->query + i, n, &p.cols, &all);
            for (size_t q = 0; q < n; q++) {
                p.x[q] = c->query[i + q].q + d;
                p.out[q] = c->e[i + q];
            }
            p.start = d > 0 ? c->e[i] : NULL;
            run(c, n, &p);
        }
    }
}

/* Lanes of vector i that lie in [from, visible). */
MLXD_INLINE __mmask16 seen(size_t from, size_t visible, int i) {
    return (__mmask16)((~(uint64_t)0 >> (PAGE - visible) & ~(uint64_t)0 << from) >> (i * LANES));
}

/* Scales s and returns the largest of its visible values. */
MLXD_INLINE float largest(float s[PAGE], size_t from, size_t visible, float scale) {
    __m512 top = _mm512_set1_ps(-INFINITY);
    MLXD_UNROLL
    for (int i = 0; i < VECTORS; i++) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(s + i * LANES), _mm512_set1_ps(scale));
        _mm512_storeu_ps(s + i * LANES, v);
        top = _mm512_mask_max_ps(top, seen(from, visible, i), top, v);
    }
    return _mm512_reduce_max_ps(top) + 0.0f;
}

/* Turns s[p] into e[p] for from <= p < visible, other lanes become +0; returns the sum. */
MLXD_INLINE float exponentials(float s[PAGE], size_t from, size_t visible, float max) {
    __m512 lanes = _mm512_setzero_ps();
    MLXD_UNROLL
    for (int i = 0; i < VECTORS; i++) {
        __m512 v = _mm512_sub_ps(_mm512_loadu_ps(s + i * LANES), _mm512_set1_ps(max));
        v = _mm512_maskz_mov_ps(seen(from, visible, i), mlxd_avx512_exp(v));
        _mm512_storeu_ps(s + i * LANES, v);
        lanes = _mm512_add_ps(lanes, v);
    }
    return mlxd_avx512_lanes_sum(lanes);
}

/* Folds max2 and sum2 of n <= 16 partials into max and sum; *own and *other are the factors. */
MLXD_INLINE void fold(float *max, float *sum, __m512 max2, __m512 sum2, __m512 *own,
                      __m512 *other) {
    __m512 max1 = _mm512_loadu_ps(max), sum1 = _mm512_loadu_ps(sum);
    __m512 m = _mm512_add_ps(_mm512_max_ps(max1, max2), _mm512_setzero_ps());
    *own = mlxd_avx512_exp(_mm512_sub_ps(max1, m));
    *other = mlxd_avx512_exp(_mm512_sub_ps(max2, m));
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(sum1, *own, _mm512_mul_ps(sum2, *other)));
    _mm512_storeu_ps(max, m);
}

/* Scores to exponentials, with the largest score and the sum. The two loops are apart so that many
 * independent chains are under way at once. */
static void softmax(chunk *c, mlxd_score score) {
    for (size_t i = 0; i < c->n; i++) {
        size_t from = c->query[i].from, visible = c->query[i].visible;
        MLXD_ASSERT(visible >= 1 && visible <= PAGE && from < visible);
        float scale = score.scale;
        if (score.softcap > 0) {
            mlxd_vector_scale(scale, PAGE, c->e[i]);
            mlxd_softcap_avx512(c->e[i], PAGE, score.softcap);
            scale = 1;
        }
        c->max[i] = from == 0 && visible == PAGE ? largest(c->e[i], 0, PAGE, scale)
                                                 : largest(c->e[i], from, visible, scale);
    }
    for (size_t i = 0; i < c->n; i++) {
        size_t from = c->query[i].from, visible = c->query[i].visible;
        c->sum[i] = from == 0 && visible == PAGE ? exponentials(c->e[i], 0, PAGE, c->max[i])
                                                 : exponentials(c->e[i], from, visible, c->max[i]);
    }
}

/* Brings max and sum of this page to the queries, and leaves the factors for their outputs. */
static void weigh(chunk *c, bool first) {
    for (size_t i = 0; i < c->n && first; i++) {
        c->query[i].max = c->max[i];
        c->query[i].sum = c->sum[i];
        c->own[i] = c->other[i] = 0; /* not used */
    }
    for (size_t i = 0; i < c->n && !first; i += LANES) {
        size_t n = MLXD_MIN(c->n - i, (size_t)LANES);
        float max[LANES] = {0}, sum[LANES] = {0};
        __m512 own, other;
        for (size_t j = 0; j < n; j++) {
            max[j] = c->query[i + j].max;
            sum[j] = c->query[i + j].sum;
        }
        fold(max, sum, _mm512_loadu_ps(c->max + i), _mm512_loadu_ps(c->sum + i), &own, &other);
        _mm512_storeu_ps(c->own + i, own);
        _mm512_storeu_ps(c->other + i, other);
        for (size_t j = 0; j < n; j++) {
            c->query[i + j].max = max[j];
            c->query[i + j].sum = sum[j];
        }
    }
}

/* Columns d ... d+cols of the output of queries i ... i+n. */
static void output_block(const chunk *c, size_t i, size_t n, pass p, size_t d) {
    _Alignas(64) float part[BLOCK][SLAB];
    size_t some, all;
    see(c->query + i, n, &some, &all);
    for (size_t q = 0; q < n; q++) {
        p.x[q] = c->e[i + q];
        p.out[q] = some == all ? c->query[i + q].out + d : part[q];
        p.own[q] = c->own[i + q];
        p.other[q] = c->other[i + q];
    }
    p.rows = all;
    if (some == all) {
        run(c, n, &p);
        return;
    }
    bool merge = p.merge;
    p.merge = false;
    run(c, n, &p);
    p.merge = merge;
    p.m = (const uint8_t *)p.m + all * p.stride * (c->halves ? sizeof(uint16_t) : sizeof(float));
    for (size_t q = 0; q < n; q++) {
        p.x[0] = c->e[i + q] + all;
        p.start = part[q];
        p.rows = c->query[i + q].visible - all;
        p.out[0] = c->query[i + q].out + d;
        p.own[0] = c->own[i + q];
        p.other[0] = c->other[i + q];
        run(c, 1, &p);
    }
}

static void output(const chunk *c, const uint16_t *v_page, size_t head_dim, bool first) {
    size_t some, all;
    see(c->query, c->n, &some, &all);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        size_t cols = MLXD_MIN(head_dim - d, (size_t)SLAB);
        pass p = {.m = v_page + d, .stride = head_dim, .cols = cols, .merge = !first};
        p.ahead = p.m;
        if (!c->halves) {
            widen(v_page + d, head_dim, some, cols, c->slab);
            p.m = c->slab;
            p.stride = SLAB;
        }
        for (size_t i = 0; i < c->n; i += BLOCK)
            output_block(c, i, MLXD_MIN(c->n - i, (size_t)BLOCK), p, d);
    }
}

void mlxd_attention_page_avx512(mlxd_query *query, size_t n, const uint16_t *k_page,
                                const uint16_t *v_page, size_t head_dim, mlxd_score how,
                                bool first) {
    _Alignas(64) float slab[SLAB * SLAB], e[CHUNK][PAGE];
    chunk c;
    c.halves = n <= BLOCK && head_dim % LANES == 0; /* tails need a slab */
    c.slab = slab;
    c.e = e;
    for (size_t i = 0; i < n; i += CHUNK) {
        c.query = query + i;
        c.n = MLXD_MIN(n - i, (size_t)CHUNK);
        score(&c, k_page, v_page, head_dim);
        softmax(&c, how);
        weigh(&c, first);
        output(&c, v_page, head_dim, first);
    }
}

void mlxd_attention_merge_avx512(mlxd_query *into, const mlxd_query *from, size_t head_dim) {
    float max[LANES] = {into->max}, sum[LANES] = {into->sum};
    __m512 own, other;
    fold(max, sum, _mm512_set1_ps(from->max), _mm512_set1_ps(from->sum), &own, &other);
    into->max = max[0];
    into->sum = sum[0];
    own = _mm512_set1_ps(_mm512_cvtss_f32(own));
    other = _mm512_set1_ps(_mm512_cvtss_f32(other));
    for (size_t d = 0; d < head_dim; d += LANES) {
        __mmask16 mask = mlxd_avx512_mask(head_dim - d);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from->out + d), other);
        v = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, into->out + d), own, v);
        _mm512_mask_storeu_ps(into->out + d, mask, v);
    }
}

void mlxd_attention_finish_avx512(mlxd_query *query, size_t head_dim) {
    __m512 divisor = _mm512_set1_ps(query->sum);
    for (size_t d = 0; d < head_dim; d += LANES) {
        __mmask16 mask = mlxd_avx512_mask(head_dim - d);
        __m512 v = _mm512_maskz_loadu_ps(mask, query->out + d);
        _mm512_mask_storeu_ps(query->out + d, mask, _mm512_div_ps(v, divisor));
    }
}
#endif
