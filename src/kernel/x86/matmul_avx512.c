/* matmul_avx512.c - the product with quantized weights, AVX-512 VNNI.
 *
 * A register holds the sixteen rows of a panel, four columns (one dword) each; vpdpbusd multiplies
 * them with the same four columns of a token's activations, broadcast from memory, and adds the
 * four products to sixteen exact sums:
 *
 *   weights      r0c0 r0c1 r0c2 r0c3 | r1c0 ... | r15c0 ... r15c3    64 unsigned bytes
 *   activations   a0   a1   a2   a3  |  a0  ... |  a0  ...  a3       broadcast
 *
 * Symmetric weights are q - zero: the sums start from -zero * asum. Weights with a book are looked
 * up by vpshufb. After eight quads a group is done (after four its half, where the kind has scales
 * for halves); then acc = fma(d * scale, isum, acc) and, affine, acc = fma(m, offset, acc): every
 * lane is one output element that sees its groups in ascending order.
 *
 * Few tokens are bound by the memory that weights come from. Four panels far apart are read side
 * by side, as four streams: memory serves them faster than one, the more so as each goes on for
 * long (measured on a server: 17.0 GB/s from DRAM and 28.2 from the shared cache, one stream 15.9
 * and 26.8 at best, each at another distance of prefetching). One token keeps the sums of all four
 * in registers. More, up to eight at a time, share the unpacking of a group; their sums fill the
 * registers, so the streams take turns of CHUNK groups.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/quads512.h"

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TOKENS 8   /* most tokens of a pass */
#define STREAMS 4  /* panels that are read side by side */
#define CHUNK 4    /* groups of a turn */
#define AHEAD 1024 /* bytes of a stream that one token prefetches ahead; more tokens twice that */

/* Some tokens of a tile and a part of a panel, or one token and a part of STREAMS panels. */
typedef struct pass {
    const uint8_t *p;
    size_t apart; /* bytes from one stream to the next */
    size_t blocks, share;
    mlxd_float type;
    mlxd_quants z; /* of the first of the tokens */
    size_t stride; /* tokens of the tile */
    bool fetch;    /* the panel is not in a cache yet */
} pass;

/* Exact sums of q - zero, or of q, times a, for a part of the group at p. */
MLXD_INLINE void dot_part(const mlxd_kind kind, const int part, const int tokens, const uint8_t *p,
                          const int8_t *a, const int32_t *sums, __m512i sum[TOKENS]) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const int quads = f.halves ? MLXD_QUADS / 2 : MLXD_QUADS;
    const int zero = f.affine ? 0 : 1 << (f.bits - 1);
    const int32_t factors =
        mlxd_quants_pair(f.halves && part == 1 ? 0 : -zero, f.halves && part == 0 ? 0 : -zero);
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        sum[t] = f.affine
                     ? _mm512_setzero_si512()
                     : _mm512_madd_epi16(_mm512_set1_epi32(sums[t]), _mm512_set1_epi32(factors));
    MLXD_UNROLL
    for (int i = 0; i < quads; i++) {
        const int j = f.halves        ? part * MLXD_QUADS / 2 + i
                      : f.stored == 8 ? i
                                      : i / 2 + i % 2 * 4; /* two quads of one vector together */
        __m512i q = mlxd_quads512_get(kind, p, j);
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            int32_t quad;
            __builtin_memcpy(&quad, a + GROUP * t + 4 * j, sizeof quad);
            sum[t] = _mm512_dpbusd_epi32(sum[t], q, _mm512_set1_epi32(quad));
        }
    }
}

/* The part's share of each element, in the order and with the roundings of matmul.h. */
MLXD_INLINE void add_part(const mlxd_kind kind, const int part, const int tokens, const uint8_t *p,
                          const mlxd_scales512 *s, mlxd_quants z, __m512 acc[TOKENS]) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    __m512i sum[TOKENS];
    dot_part(kind, part, tokens, p, z.q, z.sums, sum);
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        float offset = z.offset[t];
        if (f.halves)
            offset = z.scale[t] * (float)mlxd_quants_asum(z.sums[t], (size_t)part);
        __m512 factor = _mm512_mul_ps(s->d[part], _mm512_set1_ps(z.scale[t]));
        acc[t] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(sum[t]), acc[t]);
        if (f.affine)
            acc[t] = _mm512_fmadd_ps(s->m[part], _mm512_set1_ps(offset), acc[t]);
    }
}

MLXD_INLINE void add_group(const mlxd_kind kind, const int tokens, const uint8_t *p,
                           const mlxd_scales512 *s, mlxd_quants z, __m512 acc[TOKENS]) {
    add_part(kind, 0, tokens, p, s, z, acc);
    if (mlxd_kind_facts(kind).halves)
        add_part(kind, 1, tokens, p, s, z, acc);
}

MLXD_INLINE void fetch(const uint8_t *p, size_t ahead, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)((uintptr_t)p + ahead + i), _MM_HINT_T0);
}

/* Adds to sums [streams * tokens]; one of the two counts is 1. */
MLXD_INLINE void run_pass(const mlxd_kind kind, const int streams, const int tokens, const pass *x,
                          __m512 sums[TOKENS]) {
    const size_t payload = mlxd_kind_payload_bytes(kind);
    const size_t bytes = mlxd_format_block_bytes((mlxd_format){kind, (uint8_t)x->share, x->type});
    const uint8_t *p = x->p;
    mlxd_quants z = x->z;
    __m512 acc[TOKENS];
    MLXD_UNROLL
    for (int i = 0; i < streams * tokens; i++)
        acc[i] = sums[i];
    for (size_t block = 0; block < x->blocks; block++, p += bytes) {
        mlxd_scales512 s[STREAMS];
        MLXD_UNROLL
        for (int i = 0; i < streams; i++) {
            const uint8_t *from = p + (size_t)i * x->apart;
            s[i] = mlxd_scales512_load(kind, x->type, from + x->share * payload);
            if (tokens == 1 || x->fetch)
                fetch(from, tokens == 1 ? AHEAD : 2 * AHEAD, bytes);
        }
        for (size_t g = 0; g < x->share; g++) {
            MLXD_UNROLL
            for (int i = 0; i < streams; i++) {
                const uint8_t *from = p + (size_t)i * x->apart;
                mlxd_scales512 part = mlxd_scales512_of(kind, &s[i], from + x->share * payload, g);
                add_group(kind, tokens, from + g * payload, &part, z, acc + i);
            }
            z = mlxd_quants_skip(z, x->stride);
        }
    }
    MLXD_UNROLL
    for (int i = 0; i < streams * tokens; i++)
        sums[i] = acc[i];
}

/* One token and all streams, or one stream and 1, 2, 3, 4 or 8 tokens. */
MLXD_INLINE void run_shape(const mlxd_kind kind, size_t streams, size_t tokens, const pass *x,
                           __m512 sums[TOKENS]) {
    if (streams == STREAMS)
        run_pass(kind, STREAMS, 1, x, sums);
    else if (tokens == 1)
        run_pass(kind, 1, 1, x, sums);
    else if (tokens == 2)
        run_pass(kind, 1, 2, x, sums);
    else if (tokens == 3)
        run_pass(kind, 1, 3, x, sums);
    else if (tokens == 4)
        run_pass(kind, 1, 4, x, sums);
    else
        run_pass(kind, 1, 8, x, sums);
}

/* ---- one instance of the loops per kind of weights ---- */

typedef void run_fn(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]);

static void run_symmetric_4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_SYMMETRIC_4, streams, tokens, x, sums);
}

static void run_symmetric_5(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_SYMMETRIC_5, streams, tokens, x, sums);
}

static void run_symmetric_8(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_SYMMETRIC_8, streams, tokens, x, sums);
}

static void run_affine_2(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_2, streams, tokens, x, sums);
}

static void run_affine_3(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_3, streams, tokens, x, sums);
}

static void run_affine_4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_4, streams, tokens, x, sums);
}

static void run_affine_5(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_5, streams, tokens, x, sums);
}

static void run_affine_6(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_6, streams, tokens, x, sums);
}

static void run_affine_8(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_AFFINE_8, streams, tokens, x, sums);
}

static void run_book_iq4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_BOOK_IQ4, streams, tokens, x, sums);
}

static void run_book_fp4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_BOOK_FP4, streams, tokens, x, sums);
}

static void run_halves_fp4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_HALVES_FP4, streams, tokens, x, sums);
}

static void run_nested_2(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_2, streams, tokens, x, sums);
}

static void run_nested_3(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_3, streams, tokens, x, sums);
}

static void run_nested_4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_4, streams, tokens, x, sums);
}

static void run_nested_5(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_5, streams, tokens, x, sums);
}

static void run_nested_6(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_6, streams, tokens, x, sums);
}

static void run_nested_iq4(size_t streams, size_t tokens, const pass *x, __m512 sums[TOKENS]) {
    run_shape(MLXD_KIND_NESTED_IQ4, streams, tokens, x, sums);
}

static run_fn *const runs[MLXD_KIND_COUNT] = {
    [MLXD_KIND_SYMMETRIC_4] = run_symmetric_4, [MLXD_KIND_SYMMETRIC_5] = run_symmetric_5,
    [MLXD_KIND_SYMMETRIC_8] = run_symmetric_8, [MLXD_KIND_AFFINE_2] = run_affine_2,
    [MLXD_KIND_AFFINE_3] = run_affine_3,       [MLXD_KIND_AFFINE_4] = run_affine_4,
    [MLXD_KIND_AFFINE_5] = run_affine_5,       [MLXD_KIND_AFFINE_6] = run_affine_6,
    [MLXD_KIND_AFFINE_8] = run_affine_8,       [MLXD_KIND_BOOK_IQ4] = run_book_iq4,
    [MLXD_KIND_BOOK_FP4] = run_book_fp4,       [MLXD_KIND_HALVES_FP4] = run_halves_fp4,
    [MLXD_KIND_NESTED_2] = run_nested_2,       [MLXD_KIND_NESTED_3] = run_nested_3,
    [MLXD_KIND_NESTED_4] = run_nested_4,       [MLXD_KIND_NESTED_5] = run_nested_5,
    [MLXD_KIND_NESTED_6] = run_nested_6,       [MLXD_KIND_NESTED_IQ4] = run_nested_iq4,
};

/* ---- panels by tokens ---- */

/* What a call of product has to do. */
typedef struct work {
    run_fn *run;
    const mlxd_matrix *w;
    const mlxd_activations *a;
    size_t panel0, panel_bytes, block_bytes, blocks;
    bool add;
    float *y;
    size_t ldy;
} work;

static void store(const work *k, size_t panel, size_t t, __m512 sum) {
    size_t rows = MLXD_MIN(k->w->rows - panel * ROWS, (size_t)ROWS);
    __mmask16 mask = (__mmask16)((1u << rows) - 1);
    float *y = k->y + t * k->ldy + (panel - k->panel0) * ROWS;
    if (k->add)
        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum);
    _mm512_mask_storeu_ps(y, mask, sum);
}

/* Token t, which is x->z, and the panels panel, panel + count, ... (STREAMS of them) at x->p. */
static void run_one(const work *k, size_t panel, size_t count, size_t t, const pass *x) {
    __m512 sums[TOKENS];
    for (size_t s = 0; s < STREAMS; s++)
        sums[s] = _mm512_setzero_ps();
    k->run(STREAMS, 1, x, sums);
    for (size_t s = 0; s < STREAMS; s++)
        store(k, panel + s * count, t, sums[s]);
}

/* The same for tokens t ... t + tokens - 1 and `streams` panels, in turns. */
static void run_turns(const work *k, size_t panel, size_t streams, size_t count, size_t t,
                      size_t tokens, const pass *x) {
    size_t turn = MLXD_MAX(CHUNK / x->share, (size_t)1);
    __m512 sums[STREAMS][TOKENS];
    for (size_t s = 0; s < streams; s++)
        for (size_t i = 0; i < tokens; i++)
            sums[s][i] = _mm512_setzero_ps();
    for (size_t b = 0; b < k->blocks; b += turn) {
        pass part = *x;
        part.blocks = MLXD_MIN(turn, k->blocks - b);
        part.z = mlxd_quants_skip(x->z, b * x->share * x->stride);
        for (size_t s = 0; s < streams; s++) {
            part.p = x->p + s * x->apart + b * k->block_bytes;
            k->run(1, tokens, &part, sums[s]);
        }
    }
    for (size_t s = 0; s < streams; s++)
        for (size_t i = 0; i < tokens; i++)
            store(k, panel + s * count, t + i, sums[s][i]);
}

/* Panels panel, panel + count, ... (streams of them) times all tokens. */
static void run_panels(const work *k, size_t panel, size_t streams, size_t count) {
    const mlxd_activations *a = k->a;
    const mlxd_format *f = &k->w->format;
    pass x = {.p = k->w->data + panel * k->panel_bytes,
              .apart = count * k->panel_bytes,
              .blocks = k->blocks,
              .share = f->share,
              .type = f->type};
    for (size_t t = 0, tokens; t < a->n; t += tokens) {
        size_t left = MLXD_MIN(a->n, (t / MLXD_TILE + 1) * MLXD_TILE) - t;
        tokens = left >= TOKENS ? TOKENS : MLXD_MIN(left, (size_t)4);
        x.z = mlxd_quants_row(a->z, a->n, a->k, t, &x.stride);
        x.fetch = t == 0;
        if (tokens == 1 && streams == STREAMS)
            run_one(k, panel, count, t, &x);
        else
            run_turns(k, panel, streams, count, t, tokens, &x);
    }
}

void mlxd_product_avx512(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0,
                         size_t panel1, bool add, float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    if (!mlxd_format_is_quantized(w->format)) {
        mlxd_product_float_avx512(w, a, panel0, panel1, add, y, ldy);
        return;
    }
    const work k = {.run = runs[w->format.kind],
                    .w = w,
                    .a = a,
                    .panel0 = panel0,
                    .panel_bytes = mlxd_format_panel_bytes(w->format, w->cols),
                    .block_bytes = mlxd_format_block_bytes(w->format),
                    .blocks = w->cols / mlxd_format_block_cols(w->format),
                    .add = add,
                    .y = y,
                    .ldy = ldy};
    size_t count = (panel1 - panel0) / STREAMS;
    for (size_t i = 0; i < count; i++)
        run_panels(&k, panel0 + i, STREAMS, count);
    for (size_t panel = panel0 + STREAMS * count; panel < panel1; panel++)
        run_panels(&k, panel, 1, 0);
}
#endif
