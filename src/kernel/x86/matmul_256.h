/* matmul_256.h - the product with quantized weights on 256-bit registers; the part that AVX2 and
 * AVX-VNNI share. Only matmul_avx2.c and matmul_avxvnni.c include it, and say before how a register
 * of weights is multiplied with activations:
 *
 *   sums       a type: eight int32 that are being summed, one per row
 *   begin      sums that start from given values
 *   add_quad   adds the i-th of the eight quads of a group
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
 * -zero * asum, a multiple of `start`, so that sums over unsigned q become ones over q - zero.
 */
#ifndef MLXD_KERNEL_X86_MATMUL_256_H
#define MLXD_KERNEL_X86_MATMUL_256_H

#include "kernel/tables.h"
#include "kernel/x86/avx2.h"

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define TILE MLXD_TILE
#define SOME 4     /* tokens that share what is loaded */
#define FEW 8      /* fewer tokens have weights unpacked in registers */
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

/* The i-th quad to go to: nibbles pair quads four apart. */
MLXD_INLINE int quad_at(const int i) {
    return i / 2 + i % 2 * 4;
}

/* A group's payload as if it had 8 bits. */
MLXD_INLINE const uint8_t *unpack(const int bits, const uint8_t *p, uint8_t *room) {
    if (bits == 8)
        return p;
    MLXD_UNROLL
    for (int i = 0; i < 16; i++) {
        const int j = quad_at(i / 2), half = i % 2 * 32;
        __m256i q = load_quad(bits, p + half, j);
        _mm256_storeu_si256((__m256i *)(void *)(room + 64 * j + half), q);
    }
    return room;
}

/* Scales and offsets of a block, f32. */
typedef struct scales {
    mlxd_avx2_pair d, m;
} scales;

MLXD_INLINE scales load_scales(mlxd_float type, bool affine, const uint8_t *p) {
    const size_t next = ROWS * mlxd_float_bytes(type);
    scales s;
    s.d = s.m = mlxd_avx2_widen(type, p);
    if (affine)
        s.m = mlxd_avx2_widen(type, p + next);
    return s;
}

/* ---- one group of a panel times its tokens ---- */

MLXD_INLINE __m256i broadcast_quad(const int8_t *a) {
    int32_t v;
    memcpy(&v, a, sizeof v);
    return _mm256_set1_epi32(v);
}

/* What the sums of a token start from. */
MLXD_INLINE __m256i first_value(const int bits, const bool affine, const int32_t *start) {
    const __m256i magic = _mm256_set1_epi32(MAGIC_BITS);
    const int missing = (affine ? 0 : 1 << (bits - 1)) - taken_off(bits);
    __m256i s = _mm256_set1_epi32(*start);
    if (missing == 0)
        return magic;
    s = bits < 4 ? _mm256_srai_epi32(s, 4 - bits) : _mm256_slli_epi32(s, bits - 4);
    return missing > 0 ? _mm256_add_epi32(magic, s) : _mm256_sub_epi32(magic, s);
}

/* acc[t] += the group's part, in the order and with the roundings of matmul.h. p: its payload, or
 * that unpacked, when `stored` is 8. */
MLXD_INLINE void add_group(const int bits, const int stored, const bool affine, const int tokens,
                           const uint8_t *p, const scales *s, mlxd_quants z, mlxd_avx2_pair *acc) {
    sums dot[SOME][2];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        dot[t][0] = dot[t][1] = begin(first_value(bits, affine, z.start + t));
    MLXD_UNROLL
    for (int i = 0; i < 8; i++) {
        const int j = quad_at(i);
        __m256i w0 = load_quad(stored, p, j), w1 = load_quad(stored, p + 32, j);
        MLXD_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m256i a = broadcast_quad(z.q + GROUP * t + 4 * j);
            add_quad(bits, i, w0, a, &dot[t][0]);
            add_quad(bits, i, w1, a, &dot[t][1]);
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++) {
        __m256 scale = _mm256_broadcast_ss(z.scale + t);
        __m256 offset = _mm256_broadcast_ss(z.offset + t);
        MLXD_UNROLL
        for (int i = 0; i < 2; i++) {
            __m256 isum = _mm256_castsi256_ps(end(dot[t][i]));
            isum = _mm256_sub_ps(isum, _mm256_set1_ps(MAGIC));
            __m256 v = acc[t].half[i];
            v = _mm256_fmadd_ps(_mm256_mul_ps(s->d.half[i], scale), isum, v);
            if (affine)
                v = _mm256_fmadd_ps(s->m.half[i], offset, v);
            acc[t].half[i] = v;
        }
    }
}

/* ---- a panel times some tokens ---- */

/* `tokens` tokens of a tile, whose groups are `stride` tokens apart; all in registers. */
MLXD_INLINE void run_tokens(const int bits, const bool affine, const int tokens,
                            const mlxd_matrix *w, const uint8_t *p, mlxd_quants z, size_t stride,
                            mlxd_avx2_pair out[SOME]) {
    const size_t payload = 64 * (size_t)bits;
    const size_t bytes = mlxd_format_block_bytes(w->format), share = w->format.share;
    mlxd_avx2_pair acc[SOME];
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        acc[t].half[0] = acc[t].half[1] = _mm256_setzero_ps();
    for (size_t b = 0; b < w->cols / (GROUP * share); b++, p += bytes) {
        scales s = load_scales(w->format.type, affine, p + share * payload);
        for (size_t g = 0; g < share; g++, z = mlxd_quants_skip(z, stride)) {
            mlxd_avx2_prefetch(p + g * payload, AHEAD, payload + 64);
            add_group(bits, bits, affine, tokens, p + g * payload, &s, z, acc);
        }
    }
    MLXD_UNROLL
    for (int t = 0; t < tokens; t++)
        out[t] = acc[t];
}

/* n tokens of a tile, a multiple of 4. */
MLXD_INLINE void run_fours(const int bits, const bool affine, const mlxd_matrix *w,
                           const uint8_t *p, mlxd_quants z, size_t stride, size_t n,
                           mlxd_avx2_pair *acc) {
    const size_t payload = 64 * (size_t)bits;
    const size_t bytes = mlxd_format_block_bytes(w->format), share = w->format.share;
    uint8_t room[ROWS * GROUP] __attribute__((aligned(64)));
    for (size_t t = 0; t < n; t++)
        acc[t].half[0] = acc[t].half[1] = _mm256_setzero_ps();
    for (size_t b = 0; b < w->cols / (GROUP * share); b++, p += bytes) {
        scales s = load_scales(w->format.type, affine, p + share * payload);
        for (size_t g = 0; g < share; g++, z = mlxd_quants_skip(z, stride)) {
            const uint8_t *q = unpack(bits, p + g * payload, room);
            mlxd_avx2_prefetch(p + g * payload, AHEAD, payload + 64);
            for (size_t t = 0; t < n; t += 4)
                add_group(bits, 8, affine, 4, q, &s, mlxd_quants_skip(z, t), acc + t);
        }
    }
}

/* ---- the product ---- */

/* A panel times a tile. */
MLXD_INLINE void run_tile(const int bits, const bool affine, const mlxd_matrix *w, const uint8_t *p,
                          mlxd_quants z, size_t n, mlxd_avx2_pair acc[TILE]) {
    size_t t = 0;
    if (n >= FEW) {
        t = n / 4 * 4;
        run_fours(bits, affine, w, p, z, n, t, acc);
    } else if (n >= 4) {
        t = 4;
        run_tokens(bits, affine, 4, w, p, z, n, acc);
    }
    if (n - t >= 2) {
        run_tokens(bits, affine, 2, w, p, mlxd_quants_skip(z, t), n, acc + t);
        t += 2;
    }
    if (n - t >= 1)
        run_tokens(bits, affine, 1, w, p, mlxd_quants_skip(z, t), n, acc + t);
}

/* The constants make one loop of each format. */
MLXD_INLINE void run_format(const int bits, const bool affine, const task *k) {
    size_t panel_bytes = mlxd_format_panel_bytes(k->w->format, k->w->cols), n = k->a->n;
    mlxd_avx2_pair acc[TILE];
    for (size_t panel = k->panel0; panel < k->panel1; panel++)
        for (size_t t0 = 0; t0 < n; t0 += TILE) {
            const uint8_t *p = k->w->data + panel * panel_bytes;
            mlxd_activations a = mlxd_activations_part(k->a, t0, MLXD_MIN(n - t0, (size_t)TILE));
            float *y = k->y + t0 * k->ldy + (panel - k->panel0) * ROWS;
            run_tile(bits, affine, k->w, p, a.z, a.n, acc);
            for (size_t t = 0; t < a.n; t++)
                mlxd_avx2_store_rows(acc[t], k->w->rows - panel * ROWS, k->add, y + t * k->ldy);
        }
}

MLXD_INLINE void run_bits(const int bits, const task *k) {
    if (k->w->format.affine)
        run_format(bits, true, k);
    else
        run_format(bits, false, k);
}

static void run(const task *k) {
    switch (k->w->format.bits) {
    case 2:
        run_bits(2, k);
        break;
    case 3:
        run_bits(3, k);
        break;
    case 4:
        run_bits(4, k);
        break;
    case 5:
        run_bits(5, k);
        break;
    case 6:
        run_bits(6, k);
        break;
    default:
        run_bits(8, k);
        break;
    }
}

#endif
