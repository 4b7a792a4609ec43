/* planes.c - see planes.h. A plane of `width` bits holds 8/width quads in each of its vectors:
 *
 *     width  vectors  quads in a byte     quad j is in        shift
 *     8      8        1                   vector j            0
 *     4      4        2, four apart       vector j % 4        4 * (j / 4)
 *     2      2        4, neighbours       vector j / 4        2 * (j % 4)
 *     1      1        8                   vector 0            j
 */
#include "kernel/scalar/planes.h"

#include <string.h>

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP
#define VECTOR (4 * ROWS)
#define QUADS (GROUP / 4)

/* Widths of the planes of q with `bits` bits, in the order in which they lie; 0: none. */
static const unsigned char planes[9][2] = {
    [2] = {2, 0}, [3] = {2, 1}, [4] = {4, 0}, [5] = {4, 1}, [6] = {4, 2}, [8] = {8, 0},
};

static size_t vector_of(unsigned width, size_t quad) {
    return width == 4 ? quad % 4 : quad * width / 8;
}

static unsigned shift_of(unsigned width, size_t quad) {
    return width == 4 ? 4 * (unsigned)(quad / 4) : (unsigned)(quad * width % 8);
}

/* `width` bits of each of four bytes. */
static uint32_t mask_of(unsigned width) {
    return ((1u << width) - 1) * 0x01010101u;
}

static uint32_t load_quad(const uint8_t *p) {
    uint32_t quad;
    memcpy(&quad, p, sizeof quad);
    return quad;
}

void mlxd_planes_get_row(unsigned bits, const uint8_t *p, size_t r, uint8_t q[GROUP]) {
    memset(q, 0, GROUP);
    for (unsigned i = 0, low = 0; i < 2; i++) {
        unsigned width = planes[bits][i];
        for (size_t j = 0; width && j < QUADS; j++) {
            const uint8_t *v = p + VECTOR * vector_of(width, j) + 4 * r;
            uint32_t quad = (load_quad(v) >> shift_of(width, j) & mask_of(width)) << low;
            quad |= load_quad(q + 4 * j);
            memcpy(q + 4 * j, &quad, sizeof quad);
        }
        p += (size_t)64 * width;
        low += width;
    }
}

void mlxd_planes_put(unsigned bits, const uint8_t q[ROWS][GROUP], uint8_t *p) {
    memset(p, 0, (size_t)64 * bits);
    for (unsigned i = 0, low = 0; i < 2; i++) {
        unsigned width = planes[bits][i];
        for (size_t j = 0; width && j < QUADS; j++) {
            uint8_t *v = p + VECTOR * vector_of(width, j);
            unsigned shift = shift_of(width, j);
            for (size_t r = 0; r < ROWS; r++) {
                uint32_t quad = (load_quad(q[r] + 4 * j) >> low & mask_of(width)) << shift;
                quad |= load_quad(v + 4 * r);
                memcpy(v + 4 * r, &quad, sizeof quad);
            }
        }
        p += (size_t)64 * width;
        low += width;
    }
}
