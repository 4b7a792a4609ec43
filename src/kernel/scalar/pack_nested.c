/* pack_nested.c - see pack_nested.h. Each type has a function that takes the values of one group
 * out of a block, and one that takes out D, M and the integers of all groups.
 *
 * In the types of 2 to 6 bits, 64 columns (4 bits) or 128 (2 bits) share bytes: those of one group
 * stand in the same bits of 32 bytes.
 */
#include "kernel/scalar/pack_nested.h"

#include "kernel/scalar/planes.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define GROUPS 8
#define PARTS 16 /* halves of groups */

/* What a block says about its scales. */
typedef struct nest {
    uint8_t d[2], m[2];             /* f16 */
    uint8_t s[PARTS], t[PARTS / 2]; /* per part; s of Q2_K has t in its high nibble */
} nest;

/* ---- values ---- */

/* `mask` of 32 bytes >> shift. */
static void take(const uint8_t *from, unsigned shift, unsigned mask, uint8_t q[GROUP]) {
    for (size_t i = 0; i < GROUP; i++)
        q[i] = (uint8_t)(from[i] >> shift & mask);
}

/* The same, added above what is there. */
static void take_high(const uint8_t *from, unsigned shift, unsigned mask, unsigned up,
                      uint8_t q[GROUP]) {
    for (size_t i = 0; i < GROUP; i++)
        q[i] |= (uint8_t)((from[i] >> shift & mask) << up);
}

static void values_q2(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    take(b + 16 + g / 4 * 32, g % 4 * 2, 3, q);
}

static void values_q3(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    take(b + 32 + g / 4 * 32, g % 4 * 2, 3, q);
    take_high(b, g, 1, 2, q);
}

static void values_q4(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    take(b + 16 + g / 2 * 32, g % 2 * 4, 15, q);
}

static void values_q5(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    take(b + 48 + g / 2 * 32, g % 2 * 4, 15, q);
    take_high(b + 16, g, 1, 4, q);
}

static void values_q6(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    take(b + g / 4 * 64 + g % 2 * 32, g % 4 / 2 * 4, 15, q);
    take_high(b + 128 + g / 4 * 32, g % 4 * 2, 3, 4, q);
}

static void values_iq4(const uint8_t *b, unsigned g, uint8_t q[GROUP]) {
    for (size_t i = 0; i < GROUP / 2; i++) {
        q[i] = b[8 + 16 * g + i] & 15;
        q[GROUP / 2 + i] = b[8 + 16 * g + i] >> 4;
    }
}

/* ---- scales ---- */

static void nest_q2(const uint8_t *b, nest *n) {
    memcpy(n->s, b, sizeof n->s);
    memcpy(n->d, b + 80, 2);
    memcpy(n->m, b + 82, 2);
}

static void nest_q3(const uint8_t *b, nest *n) {
    const uint8_t *s = b + 96;
    for (unsigned i = 0; i < PARTS; i++) {
        unsigned low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        n->s[i] = (uint8_t)((low | ((unsigned)s[8 + i % 4] >> i / 4 * 2 & 3u) << 4) - 32);
    }
    memcpy(n->d, b + 108, 2);
}

/* Q4_K and Q5_K: the last four pairs have their high bits in the top of the first four's bytes. */
static void nest_q4(const uint8_t *b, nest *n) {
    const uint8_t *s = b + 4;
    memcpy(n->d, b, 2);
    memcpy(n->m, b + 2, 2);
    for (size_t i = 0; i < 4; i++) {
        n->s[i] = s[i] & 63;
        n->t[i] = s[4 + i] & 63;
        n->s[4 + i] = (uint8_t)((s[8 + i] & 15) | s[i] >> 6 << 4);
        n->t[4 + i] = (uint8_t)(s[8 + i] >> 4 | s[4 + i] >> 6 << 4);
    }
}

static void nest_q6(const uint8_t *b, nest *n) {
    memcpy(n->s, b + 192, sizeof n->s);
    memcpy(n->d, b + 208, 2);
}

static void nest_iq4(const uint8_t *b, nest *n) {
    unsigned high = b[2] | (unsigned)b[3] << 8;
    memcpy(n->d, b, 2);
    for (unsigned i = 0; i < GROUPS; i++) {
        unsigned low = (unsigned)b[4 + i / 2] >> i % 2 * 4 & 15u;
        n->s[i] = (uint8_t)((low | (high >> 2 * i & 3) << 4) - 32);
    }
}

/* ---- a block ---- */

static const struct reader {
    void (*values)(const uint8_t *block, unsigned g, uint8_t q[GROUP]);
    void (*nest)(const uint8_t *block, nest *n);
} readers[MLXD_WEIGHT_TYPE_COUNT] = {
    [MLXD_WEIGHT_Q2_K] = {values_q2, nest_q2}, [MLXD_WEIGHT_Q3_K] = {values_q3, nest_q3},
    [MLXD_WEIGHT_Q4_K] = {values_q4, nest_q4}, [MLXD_WEIGHT_Q5_K] = {values_q5, nest_q4},
    [MLXD_WEIGHT_Q6_K] = {values_q6, nest_q6}, [MLXD_WEIGHT_IQ4_XS] = {values_iq4, nest_iq4},
};

/* The scales of row r. */
static void put_nest(mlxd_facts f, const nest *n, size_t r, uint8_t *scales) {
    memcpy(scales + 2 * r, n->d, 2);
    if (f.affine)
        memcpy(scales + 2 * (ROWS + r), n->m, 2);
    uint8_t *to = scales + (f.affine ? 4 : 2) * ROWS + r;
    for (size_t g = 0; g < GROUPS; g++) {
        *to = n->s[f.halves ? 2 * g : g];
        to += ROWS;
        if (f.affine || f.halves) {
            *to = f.halves ? n->s[2 * g + 1] : n->t[g];
            to += ROWS;
        }
    }
}

void mlxd_pack_nested(mlxd_weight_type type, const uint8_t *from, size_t row_bytes, size_t count,
                      uint8_t *to) {
    const struct reader *reader = &readers[type];
    mlxd_format f = mlxd_weight_format(type);
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    size_t payload = mlxd_kind_payload_bytes(f.kind);
    uint8_t q[ROWS][GROUP] = {{0}};
    MLXD_ASSERT(reader->values && f.share == GROUPS);
    for (unsigned g = 0; g < GROUPS; g++) {
        for (size_t r = 0; r < count; r++)
            reader->values(from + r * row_bytes, g, q[r]);
        mlxd_planes_put(facts.stored, q, to + g * payload);
    }
    to += GROUPS * payload;
    for (size_t r = 0; r < count; r++) {
        nest n = {.d = {0}};
        reader->nest(from + r * row_bytes, &n);
        put_nest(facts, &n, r, to);
    }
}
