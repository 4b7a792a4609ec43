/* matmul_256.h - the product with quantized weights on 256-bit registers; the part that AVX2 and
 * AVX-VNNI share. Only matmul_avx2.c and matmul_avxvnni.c include it, and say before how a register
 * of weights is multiplied with activations:
 *
 *   sums       a type: eight int32 that are being summed, one per row
 *   begin      sums that start from given values
 *   add_quad   adds the i-th of the `quads` quads of a part (format.h)
 *   end        the eight int32
 *   taken_off  what add_quad takes off every q of `bits` bits by itself
 *
 * A register holds eight of a panel's sixteen rows, one quad (four columns) each; the activations
 * of that quad are one broadcast dword:
 *
 *   weights      r0c0 r0c1 r0c2 r0c3 | r1c0 r1c1 r1c2 r1c3 | ... r7c3      32 bytes
 *   activations   a0   a1   a2   a3  |  a0   a1   a2   a3  | ...           broadcast
 *
 * Up to four tokens share what is loaded and unpacked; their sums fill the registers. Few tokens:
 * quads are unpacked in registers, the accumulators stay there too. More tokens: a group is
 * unpacked to bytes in memory (512 B), once for all fours of a tile, and their accumulators are in
 * memory. The panel stays in the nearest caches from tile to tile. One token does not gain from two
 * panels side by side: groups do not depend on each other, so the CPU runs ahead until memory is
 * the limit.
 *
 * (float)isum costs no conversion: sums start from the bits of 1.5 * 2^23, next to which f32 is
 * spaced by one, so what comes out is 1.5 * 2^23 + isum, and a subtraction, which is exact, leaves
 * isum: its size is at most 32*255*127 < 2^22. With symmetric formats sums also start from
 * -zero * asum, so that sums over unsigned q become ones over q - zero. A book is a shuffle of
 * bytes.
 */
#ifndef MLXD_KERNEL_X86_MATMUL_256_H
#define MLXD_KERNEL_X86_MATMUL_256_H

#include "kernel/tables.h"
#include "kernel/x86/avx2.h"

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TILE MLXD_TILE
#define SOME 4     /* tokens that share what is loaded, at most */
#define AHEAD 2048 /* bytes that are prefetched ahead: twice the speed from DRAM */
#define MAGIC 0x1.8p23f
#define MAGIC_BITS 0x4b400000

/* A product, as product() gets it. */
typedef struct task {
    const mlxd_matrix *w;
    const mlxd_activations *a;
    size_t panel0, panel1;
    bool add;
    float *y;
    size_t ldy;
} task;

/* ---- weights ---- */

MLXD_INLINE __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* Quad j of eight rows in a plane of `width` bits (format.h), moved up by `to` bits. */
MLXD_INLINE __m256i load_plane(const uint8_t *p, const int width, const int j, const int to) {
    const int vector = width == 4 ? j % 4 : j * width / 8;
    const int from = width == 4 ? j / 4 * 4 : j * width % 8;
    __m256i v = load(p + 64 * vector);
    if (width == 8)
        return v;
    if (from > to)
        v = _mm256_srli_epi16(v, from - to);
    if (from < to)
        v = _mm256_slli_epi16(v, to - from);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(((1 << width) - 1) << to)));
}

/* Quad j of a group: q of eight rows, unsigned bytes. Rows 8-15 lie 32 bytes behind rows 0-7. */
MLXD_INLINE __m256i load_quad(const int bits, const uint8_t *p, const int j) {
    const int wide = bits == 8 ? 8 : bits >= 4 ? 4 : 2;
    __m256i q = load_plane(p, wide, j, 0);
    if (bits > wide)
        q = _mm256_or_si256(q, load_plane(p + 64 * wide, bits - wide, j, wide));
    return q;
}

/* The same as q: looked up where the kind has a book. */
MLXD_INLINE __m256i load_q(const mlxd_kind kind, const uint8_t *p, const int j) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    __m256i q = load_quad(f.stored, p, j);
    if (f.book == MLXD_BOOK_NONE)
        return q;
    const __m128i *book = (const __m128i *)(const void *)mlxd_books[f.book];
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(book)), q);
}

/* The i-th quad of a part to go to: nibbles pair quads four apart. */
MLXD_INLINE int quad_at(const bool halves, const int part, const int i) {
    return halves ? 4 * part + i : i / 2 + i % 2 * 4;
}

/* A group's q as bytes. */
MLXD_INLINE const uint8_t *unpack(const mlxd_kind kind, const uint8_t *p, uint8_t *room) {
    if (mlxd_kind_facts(kind).stored == 8)
        return p;
    MLXD_UNROLL
    for (int i = 0; i < 16; i++) {
        const int j = quad_at(false, 0, i / 2), half = i % 2 * 32;
        __m256i q = load_q(kind, p + half, j);
        _mm256_storeu_si256((__m256i *)(void *)(room + 64 * j + half), q);
    }
    return room;
}

/* Scales and offsets of parts, f32; in a nested block first D and -M of the block. */
typedef struct scales {
    mlxd_avx2_pair d[2], m[2];
} scales;

/* What a block has for all its groups; p: behind its payloads. */
MLXD_INLINE scales load_scales(const mlxd_kind kind, mlxd_float type, const uint8_t *p) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const size_t next = ROWS * mlxd_float_bytes(type);
    scales s;
    s.d[0] = s.d[1] = s.m[0] = s.m[1] = mlxd_avx2_widen(type, p);
    if (f.affine)
        s.m[0] = mlxd_avx2_widen(type, p + next);
    else if (f.halves && !f.nested)
        s.d[1] = mlxd_avx2_widen(type, p + next);
    MLXD_UNROLL
    for (int i = 0; i < 2; i++)
        if (f.affine && f.nested)
            s.m[0].half[i] = _mm256_xor_ps(s.m[0].half[i], _mm256_set1_ps(-0.0f));
    return s;
}

/* d times the sixteen int8 at p, or their low or high nibbles. */
MLXD_INLINE mlxd_avx2_pair times_factors(mlxd_avx2_pair d, const uint8_t *p, const int nibble) {
    __m128i s = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (nibble >= 0)
        s = _mm_and_si128(_mm_srli_epi16(s, nibble), _mm_set1_epi8(15));
    d.half[0] = _mm256_mul_ps(d.half[0], _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)));
    s = _mm_unpackhi_epi64(s, s);
    d.half[1] = _mm256_mul_ps(d.half[1], _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)));
    return d;
}

/* The parts of group g. */
MLXD_INLINE scales scales_of(const mlxd_kind kind, const scales *block, const uint8_t *p,
                             size_t g) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    scales s = *block;
    if (!f.nested)
        return s;
    p += (size_t)(f.affine ? 4 : 2) * ROWS + g * mlxd_kind_factor_bytes(kind);
    s.d[0] = times_factors(block->d[0], p, f.affine && f.halves ? 0 : -1);
    if (f.halves)
        s.d[1] = times_factors(block->d[0], p + ROWS, f.affine ? 0 : -1);
    if (f.affine)
        s.m[0] = times_factors(block->m[0], f.halves ? p : p + ROWS, f.halves ? 4 : -1);
    if (f.affine && f.halves)
        s.m[1] = times_factors(block->m[0], p + ROWS, 4);
    return s;
}

/* ---- one group of a panel times its tokens ---- */

MLXD_INLINE __m256i broadcast_quad(const int8_t *a) {
    int32_t v;
    memcpy(&v, a, sizeof v);
    return _mm256_set1_epi32(v);
}

/* What the sums of a token's part start from. */
MLXD_INLINE __m256i first_value(const mlxd_kind kind, const int part, int32_t pair) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const __m256i magic = _mm256_set1_epi32(MAGIC_BITS);
    const int missing = (f.affine ? 0 : 1 << (f.bits - 1)) - taken_off(f.bits);
    const int32_t factors = mlxd_quants_pair(f.halves && part == 1 ? 0 : -missing,
                                             f.halves && part == 0 ? 0 : -missing);
    if (missing == 0)
        return magic;
    return _mm256_add_epi32(magic,
                            _mm256_madd_epi16(_mm256_set1_epi32(pair), _mm256_set1_epi32(factors)));
}

/* acc[t] += the group's part, in the order and with the roundings of matmul.h. p: its payload, or
 * its q as bytes. */
MLXD_INLINE void add_part(const mlxd_kind kind, const bool bytes, const int part, const int tokens,
                          const uint8_t *p, const scales *s, mlxd_quants z, mlxd_avx2_pair *acc) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    const int quads = f.halves ? 4 : 8;
    sums dot[SOME][2];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        dot[t][0] = dot[t][1] = begin(first_value(kind, part, z.sums[t]));
    MLXD_UNROLL
    for (int i = 0; i < quads; i++) {
        const int j = quad_at(f.halves, part, i);
        __m256i w0 = bytes ? load(p + 64 * j) : load_q(kind, p, j);
        __m256i w1 = bytes ? load(p + 64 * j + 32) : load_q(kind, p + 32, j);
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m256i a = broadcast_quad(z.q + GROUP * t + 4 * j);
            add_quad(f.bits, quads, i, w0, a, &dot[t][0]);
            add_quad(f.bits, quads, i, w1, a, &dot[t][1]);
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        __m256 scale = _mm256_broadcast_ss(z.scale + t), offset = scale;
        if (f.affine && f.halves)
            offset = _mm256_mul_ps(
                scale, _mm256_set1_ps((float)mlxd_quants_asum(z.sums[t], (size_t)part)));
        else if (f.affine)
            offset = _mm256_broadcast_ss(z.offset + t);
        MLXD_UNROLL
        for (int i = 0; i < 2; i++) {
            __m256 isum = _mm256_castsi256_ps(end(dot[t][i]));
            isum = _mm256_sub_ps(isum, _mm256_set1_ps(MAGIC));
            __m256 v = acc[t].half[i];
            v = _mm256_fmadd_ps(_mm256_mul_ps(s->d[part].half[i], scale), isum, v);
            if (f.affine)
                v = _mm256_fmadd_ps(s->m[part].half[i], offset, v);
            acc[t].half[i] = v;
        }
    }
}

MLXD_INLINE void add_group(const mlxd_kind kind, const bool bytes, const int tokens,
                           const uint8_t *p, const scales *s, mlxd_quants z, mlxd_avx2_pair *acc) {
    add_part(kind, bytes, 0, tokens, p, s, z, acc);
    if (mlxd_kind_facts(kind).halves)
        add_part(kind, bytes, 1, tokens, p, s, z, acc);
}

/* ---- the same for n tokens, a multiple of 4, once q is bytes; kinds with the same arithmetic then
 * share a function, since these take long to compile ---- */

typedef void add_fn(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                    mlxd_avx2_pair *acc);

MLXD_INLINE void add_bytes(const mlxd_kind kind, const uint8_t *q, const scales *s, mlxd_quants z,
                           size_t n, mlxd_avx2_pair *acc) {
    for (size_t t = 0; t < n; t += 4)
        add_group(kind, true, 4, q, s, mlxd_quants_skip(z, t), acc + t);
}

static void add_symmetric_4(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                            mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_SYMMETRIC_4, q, s, z, n, acc);
}

static void add_symmetric_5(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                            mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_SYMMETRIC_5, q, s, z, n, acc);
}

static void add_symmetric_8(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                            mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_SYMMETRIC_8, q, s, z, n, acc);
}

static void add_affine_4(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_AFFINE_4, q, s, z, n, acc);
}

static void add_affine_5(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_AFFINE_5, q, s, z, n, acc);
}

static void add_affine_6(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_AFFINE_6, q, s, z, n, acc);
}

static void add_affine_8(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_AFFINE_8, q, s, z, n, acc);
}

static void add_halves_fp4(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                           mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_HALVES_FP4, q, s, z, n, acc);
}

static void add_nested_2(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_NESTED_2, q, s, z, n, acc);
}

static void add_nested_3(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_NESTED_3, q, s, z, n, acc);
}

static void add_nested_6(const uint8_t *q, const scales *s, mlxd_quants z, size_t n,
                         mlxd_avx2_pair *acc) {
    add_bytes(MLXD_KIND_NESTED_6, q, s, z, n, acc);
}

static add_fn *const adds[MLXD_KIND_COUNT] = {
    [MLXD_KIND_SYMMETRIC_4] = add_symmetric_4, [MLXD_KIND_SYMMETRIC_5] = add_symmetric_5,
    [MLXD_KIND_SYMMETRIC_8] = add_symmetric_8, [MLXD_KIND_AFFINE_2] = add_affine_4,
    [MLXD_KIND_AFFINE_3] = add_affine_4,       [MLXD_KIND_AFFINE_4] = add_affine_4,
    [MLXD_KIND_AFFINE_5] = add_affine_5,       [MLXD_KIND_AFFINE_6] = add_affine_6,
    [MLXD_KIND_AFFINE_8] = add_affine_8,       [MLXD_KIND_BOOK_IQ4] = add_symmetric_8,
    [MLXD_KIND_BOOK_FP4] = add_symmetric_5,    [MLXD_KIND_HALVES_FP4] = add_halves_fp4,
    [MLXD_KIND_NESTED_2] = add_nested_2,       [MLXD_KIND_NESTED_3] = add_nested_3,
    [MLXD_KIND_NESTED_4] = add_affine_4,       [MLXD_KIND_NESTED_5] = add_affine_5,
    [MLXD_KIND_NESTED_6] = add_nested_6,       [MLXD_KIND_NESTED_IQ4] = add_symmetric_8,
};

/* ---- a panel times some tokens ---- */

/* A group's payload and, with the first of a block, what is behind the payloads of that block. */
MLXD_INLINE void prefetch(const mlxd_kind kind, const mlxd_matrix *w, const uint8_t *block,
                          size_t g) {
    const size_t payload = mlxd_kind_payload_bytes(kind), all = w->format.share * payload;
    mlxd_avx2_prefetch(block + g * payload, AHEAD, payload + 64);
    if (mlxd_kind_facts(kind).nested && g == 0)
        mlxd_avx2_prefetch(block + all, AHEAD, mlxd_format_block_bytes(w->format) - all);
}

/* `tokens` tokens of a tile, whose groups are `stride` tokens apart; all in registers. */
MLXD_INLINE void run_tokens(const mlxd_kind kind, const int tokens, const mlxd_matrix *w,
                            const uint8_t *p, mlxd_quants z, size_t stride,
                            mlxd_avx2_pair out[SOME]) {
    const size_t payload = mlxd_kind_payload_bytes(kind), share = w->format.share;
    const size_t bytes = mlxd_format_block_bytes(w->format), blocks = w->cols / (GROUP * share);
    mlxd_avx2_pair acc[SOME];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        acc[t].half[0] = acc[t].half[1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, p += bytes) {
        scales block = load_scales(kind, w->format.type, p + share * payload);
        for (size_t g = 0; g < share; g++, z = mlxd_quants_skip(z, stride)) {
            scales s = scales_of(kind, &block, p + share * payload, g);
            prefetch(kind, w, p, g);
            add_group(kind, false, tokens, p + g * payload, &s, z, acc);
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        out[t] = acc[t];
}

/* n tokens of a tile, a multiple of 4. */
MLXD_INLINE void run_fours(const mlxd_kind kind, const mlxd_matrix *w, const uint8_t *p,
                           mlxd_quants z, size_t stride, size_t n, mlxd_avx2_pair *acc) {
    const size_t payload = mlxd_kind_payload_bytes(kind), share = w->format.share;
    const size_t bytes = mlxd_format_block_bytes(w->format), blocks = w->cols / (GROUP * share);
    uint8_t room[ROWS * GROUP] __attribute__((aligned(64)));
    for (size_t t = 0; t < n; t++)
        acc[t].half[0] = acc[t].half[1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, p += bytes) {
        scales block = load_scales(kind, w->format.type, p + share * payload);
        for (size_t g = 0; g < share; g++, z = mlxd_quants_skip(z, stride)) {
            const uint8_t *q = unpack(kind, p + g * payload, room);
            scales s = scales_of(kind, &block, p + share * payload, g);
            prefetch(kind, w, p, g);
            if (kind == MLXD_KIND_AFFINE_4) /* a call costs prompts of small models 4 % */
                add_bytes(kind, q, &s, z, n, acc);
            else
                adds[kind](q, &s, z, n, acc);
        }
    }
}

/* ---- the product ---- */

/* Fewer tokens have weights unpacked in registers. Only kinds that are unpacked by a shift and a
 * mask, or not at all, gain from it with four and more. */
MLXD_INLINE size_t few(const mlxd_kind kind) {
    const mlxd_facts f = mlxd_kind_facts(kind);
    return f.stored % 4 == 0 && f.book == MLXD_BOOK_NONE ? 8 : 4;
}

/* A panel times a tile. */
MLXD_INLINE void run_tile(const mlxd_kind kind, const mlxd_matrix *w, const uint8_t *p,
                          mlxd_quants z, size_t n, mlxd_avx2_pair acc[TILE]) {
    size_t t = 0;
    if (n >= few(kind)) {
        t = n / 4 * 4;
        run_fours(kind, w, p, z, n, t, acc);
    } else if (n >= 4) {
        t = 4;
        run_tokens(kind, 4, w, p, z, n, acc);
    }
    if (n - t >= 2) {
        run_tokens(kind, 2, w, p, mlxd_quants_skip(z, t), n, acc + t);
        t += 2;
    }
    if (n - t >= 1)
        run_tokens(kind, 1, w, p, mlxd_quants_skip(z, t), n, acc + t);
}

/* The constant makes one loop of each kind. */
MLXD_INLINE void run_kind(const mlxd_kind kind, const task *k) {
    size_t panel_bytes = mlxd_format_panel_bytes(k->w->format, k->w->cols), n = k->a->n;
    mlxd_avx2_pair acc[TILE];
    for (size_t panel = k->panel0; panel < k->panel1; panel++)
        for (size_t t0 = 0; t0 < n; t0 += TILE) {
            const uint8_t *p = k->w->data + panel * panel_bytes;
            mlxd_activations a = mlxd_activations_part(k->a, t0, MLXD_MIN(n - t0, (size_t)TILE));
            float *y = k->y + t0 * k->ldy + (panel - k->panel0) * ROWS;
            run_tile(kind, k->w, p, a.z, a.n, acc);
            for (size_t t = 0; t < a.n; t++)
                mlxd_avx2_store_rows(acc[t], k->w->rows - panel * ROWS, k->add, y + t * k->ldy);
        }
}

/* ---- one instance of the loops per kind of weights: as one function they compile badly ---- */

#include "kernel/run_kinds.h"

static void run(const task *k) {
    runs[k->w->format.kind](k);
}

#endif
