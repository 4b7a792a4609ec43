/* matmul_amx.c - the product with quantized weights and many tokens, on AMX tiles.
 *
 * For 16 rows of weights, 16 tokens and one group of 32 columns, one tile instruction gives the 256
 * exact sums of the group:
 *
 *   A (16 tokens x 32 B)  a tile of quantized activations as matmul.h lays it out
 *   B (8 x 64 B)          a group of a panel, unpacked: row j is quad j of the panel's 16 rows
 *   C (16 x 64 B)         isum[token][row], int32
 *
 * The float part, which the definition wants group by group, runs on AVX-512 from a copy of C in
 * memory, one accumulator per token with the panel's rows in its lanes. It is the limit: while
 * tiles are in use, this generation issues one 512-bit multiplication, fma or conversion per cycle,
 * but two additions. So a sum becomes a float without a conversion: added to the bits of 1.5 * 2^23
 * it is the float 1.5 * 2^23 + isum, from which 1.5 * 2^23 is subtracted, exactly.
 *
 * Loops: block of tokens (its activations stay in L2) > panel > chunk of columns (unpacked weights
 * and partial sums stay in L1) > tile of tokens > group. The tile instruction of a group is started
 * two groups before its sums are used, so that neither side waits.
 *
 * Tokens that do not fill a tile go through AVX-512, and so do kinds with scales for halves: tiles
 * of 16 columns would be half as deep, for twice the work between them, which is the limit.
 */
#if defined(__x86_64__)
#include "kernel/tables.h"

#include "kernel/x86/quads512.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TILE MLXD_TILE
#define TILES 8  /* of a block of tokens */
#define CHUNK 32 /* groups of a chunk at most */
#define A_BYTES (TILE * GROUP)
#define B_BYTES (ROWS * GROUP)

/* ---- the weights of a chunk ---- */

typedef struct chunk {
    uint8_t b[CHUNK][B_BYTES];
    float d[CHUNK][ROWS], m[CHUNK][ROWS];
    float sums[TILES][TILE][ROWS]; /* what earlier chunks have added up */
    int32_t c[2][TILE][ROWS];      /* copies of C */
} chunk;

/* `count` groups from group g0 of the panel at p; symmetric ones become q - zero, int8. */
MLXD_INLINE void unpack_groups(const mlxd_kind kind, mlxd_format f, const uint8_t *p, size_t g0,
                               size_t count, chunk *to) {
    const mlxd_facts facts = mlxd_kind_facts(kind);
    const size_t payload = mlxd_kind_payload_bytes(kind), block_bytes = mlxd_format_block_bytes(f);
    const __m512i zero = _mm512_set1_epi8((char)(facts.affine ? 0 : 1 << (facts.bits - 1)));
    for (size_t i = 0; i < count; i++) {
        const uint8_t *block = p + (g0 + i) / f.share * block_bytes;
        const uint8_t *scales = block + f.share * payload;
        const size_t g = (g0 + i) % f.share;
        for (int j = 0; j < MLXD_QUADS; j++)
            _mm512_store_si512(
                to->b[i] + 64 * j,
                _mm512_sub_epi8(mlxd_quads512_get(kind, block + g * payload, j), zero));
        mlxd_scales512 s = mlxd_scales512_load(kind, f.type, scales);
        s = mlxd_scales512_of(kind, &s, scales, g);
        _mm512_store_ps(to->d[i], s.d[0]);
        if (facts.affine)
            _mm512_store_ps(to->m[i], s.m[0]);
    }
}

static void unpack(mlxd_format f, const uint8_t *p, size_t g0, size_t count, chunk *to) {
    switch (f.kind) {
    case MLXD_KIND_SYMMETRIC_4:
        unpack_groups(MLXD_KIND_SYMMETRIC_4, f, p, g0, count, to);
        break;
    case MLXD_KIND_SYMMETRIC_5:
        unpack_groups(MLXD_KIND_SYMMETRIC_5, f, p, g0, count, to);
        break;
    case MLXD_KIND_SYMMETRIC_8:
        unpack_groups(MLXD_KIND_SYMMETRIC_8, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_2:
        unpack_groups(MLXD_KIND_AFFINE_2, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_3:
        unpack_groups(MLXD_KIND_AFFINE_3, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_4:
        unpack_groups(MLXD_KIND_AFFINE_4, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_5:
        unpack_groups(MLXD_KIND_AFFINE_5, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_6:
        unpack_groups(MLXD_KIND_AFFINE_6, f, p, g0, count, to);
        break;
    case MLXD_KIND_AFFINE_8:
        unpack_groups(MLXD_KIND_AFFINE_8, f, p, g0, count, to);
        break;
    case MLXD_KIND_BOOK_IQ4:
        unpack_groups(MLXD_KIND_BOOK_IQ4, f, p, g0, count, to);
        break;
    case MLXD_KIND_BOOK_FP4:
        unpack_groups(MLXD_KIND_BOOK_FP4, f, p, g0, count, to);
        break;
    case MLXD_KIND_NESTED_4:
        unpack_groups(MLXD_KIND_NESTED_4, f, p, g0, count, to);
        break;
    case MLXD_KIND_NESTED_5:
        unpack_groups(MLXD_KIND_NESTED_5, f, p, g0, count, to);
        break;
    case MLXD_KIND_NESTED_IQ4:
        unpack_groups(MLXD_KIND_NESTED_IQ4, f, p, g0, count, to);
        break;
    default:
        MLXD_ASSERT(mlxd_kind_facts(f.kind).halves);
    }
}

/* ---- a chunk times a block of tokens ---- */

/* Where the next tile instruction takes its operands; behind the last it starts again, so that the
 * two instructions that nobody waits for read something. */
typedef struct cursor {
    const int8_t *a, *base;
    size_t tile_bytes; /* from one tile of tokens to the next */
    size_t group, groups, tile, tiles;
} cursor;

MLXD_INLINE void advance(cursor *c) {
    c->a += A_BYTES;
    if (++c->group < c->groups)
        return;
    c->group = 0;
    c->tile = c->tile + 1 < c->tiles ? c->tile + 1 : 0;
    c->a = c->base + c->tile * c->tile_bytes;
}

/* Stores C to `sums`, unless that is NULL, and starts C = A . B for the cursor's group. (Tile
 * numbers must be plain digits. Loads come first: one that follows a store to an address with the
 * same low twelve bits would wait for it.) */
MLXD_INLINE void next_tile(const bool affine, const chunk *w, cursor *c, int32_t *sums) {
    _tile_loadd(1, c->a, GROUP);
    _tile_loadd(2, w->b[c->group], 64);
    if (sums)
        _tile_stored(0, sums, 64);
    _tile_zero(0);
    if (affine)
        _tile_dpbsud(0, 1, 2);
    else
        _tile_dpbssd(0, 1, 2);
    advance(c);
}

MLXD_INLINE __m512 sums_as_floats(const int32_t *c) {
    __m512i bits = _mm512_add_epi32(_mm512_load_si512((const void *)c),
                                    _mm512_set1_epi32(0x4b400000)); /* 1.5 * 2^23 */
    return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1.8p23f));
}

/* What becomes of the sums of a tile when its last chunk is done. */
typedef struct output {
    float *y; /* of the block's first token */
    size_t ldy;
    __mmask16 rows;
    bool add;
} output;

MLXD_INLINE void store_tile(const output *out, size_t tile, __m512 acc[TILE]) {
    MLXD_UNROLL
    for (size_t t = 0; t < TILE; t++) {
        float *y = out->y + (tile * TILE + t) * out->ldy;
        if (out->add)
            acc[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(out->rows, y), acc[t]);
        _mm512_mask_storeu_ps(y, out->rows, acc[t]);
    }
}

/* Groups [g0, g0 + count) of all tiles; `out` is NULL while more chunks follow. */
MLXD_INLINE void run_chunk(const bool affine, chunk *w, const mlxd_activations *a, size_t g0,
                           size_t count, const output *out) {
    size_t tiles = a->n / TILE, groups = a->k / GROUP;
    cursor next = {
        .base = a->z.q + g0 * A_BYTES, .tile_bytes = TILE * a->k, .groups = count, .tiles = tiles};
    next.a = next.base;
    __asm__ volatile("" : : "r"(w) : "memory"); /* tile loads do not say that they read memory */
    next_tile(affine, w, &next, NULL);
    next_tile(affine, w, &next, w->c[0][0]);
    size_t now = 0;
    for (size_t i = 0; i < tiles; i++) {
        const float *scale = a->z.scale + (i * groups + g0) * TILE;
        const float *offset = a->z.offset + (i * groups + g0) * TILE;
        __m512 acc[TILE];
        MLXD_UNROLL
        for (size_t t = 0; t < TILE; t++)
            acc[t] = g0 == 0 ? _mm512_setzero_ps() : _mm512_load_ps(w->sums[i][t]);
        for (size_t g = 0; g < count; g++, scale += TILE, offset += TILE, now ^= 1) {
            __m512 d = _mm512_load_ps(w->d[g]), m = affine ? _mm512_load_ps(w->m[g]) : d;
            next_tile(affine, w, &next, w->c[now ^ 1][0]);
            MLXD_UNROLL
            for (size_t t = 0; t < TILE; t++) {
                __m512 factor = _mm512_mul_ps(d, _mm512_set1_ps(scale[t]));
                acc[t] = _mm512_fmadd_ps(factor, sums_as_floats(w->c[now][t]), acc[t]);
                if (affine)
                    acc[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(offset[t]), acc[t]);
            }
        }
        if (out) {
            store_tile(out, i, acc);
            continue;
        }
        MLXD_UNROLL
        for (size_t t = 0; t < TILE; t++)
            _mm512_store_ps(w->sums[i][t], acc[t]);
    }
}

static void run_symmetric(chunk *w, const mlxd_activations *a, size_t g0, size_t count,
                          const output *out) {
    run_chunk(false, w, a, g0, count, out);
}

static void run_affine(chunk *w, const mlxd_activations *a, size_t g0, size_t count,
                       const output *out) {
    run_chunk(true, w, a, g0, count, out);
}

/* ---- the product ---- */

/* C, A and B of the head of this file in tiles 0, 1 and 2. */
static void configure(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    c.row_bytes[0] = 64;
    c.rows[0] = TILE;
    c.row_bytes[1] = GROUP;
    c.rows[1] = TILE;
    c.row_bytes[2] = 64;
    c.rows[2] = MLXD_QUADS;
    __asm__ volatile("" : : "r"(&c) : "memory"); /* GCC 12 drops the stores without it */
    _tile_loadconfig(&c);
}

/* One panel times a block of whole tiles. */
static void run_panel(const mlxd_matrix *w, const mlxd_activations *a, const uint8_t *p, chunk *c,
                      const output *out) {
    size_t groups = w->cols / GROUP, chunks = (groups + CHUNK - 1) / CHUNK;
    bool affine = mlxd_kind_facts(w->format.kind).affine;
    for (size_t i = 0; i < chunks; i++) {
        size_t g0 = groups * i / chunks, count = groups * (i + 1) / chunks - g0;
        unpack(w->format, p, g0, count, c);
        (affine ? run_affine : run_symmetric)(c, a, g0, count, i + 1 == chunks ? out : NULL);
    }
}

void mlxd_product_amx(const mlxd_matrix *w, const mlxd_activations *a, size_t panel0, size_t panel1,
                      bool add, float *y, size_t ldy) {
    MLXD_ASSERT(w->cols == a->k);
    bool tiles = mlxd_format_is_quantized(w->format) && !mlxd_kind_facts(w->format.kind).halves;
    size_t whole = tiles ? a->n / TILE * TILE : 0;
    if (whole < a->n) {
        mlxd_activations rest = mlxd_activations_part(a, whole, a->n - whole);
        mlxd_product_avx512(w, &rest, panel0, panel1, add, y + whole * ldy, ldy);
    }
    if (whole == 0)
        return;
    _Alignas(64) chunk c;
    size_t panel_bytes = mlxd_format_panel_bytes(w->format, w->cols);
    configure();
    for (size_t t = 0; t < whole; t += TILES * TILE) {
        mlxd_activations block =
            mlxd_activations_part(a, t, MLXD_MIN(whole - t, (size_t)TILES * TILE));
        for (size_t panel = panel0; panel < panel1; panel++) {
            size_t rows = MLXD_MIN(w->rows - panel * ROWS, (size_t)ROWS);
            const output out = {y + t * ldy + (panel - panel0) * ROWS, ldy,
                                (__mmask16)((1u << rows) - 1), add};
            run_panel(w, &block, w->data + panel * panel_bytes, &c, &out);
        }
    }
    _tile_release();
}
#endif
