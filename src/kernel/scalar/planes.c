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

void mlxd_planes_get_row(unsigned bits, const uint8_t *p, size_t r, uint8_t q[GROUP]) {
    memset(q, 0, GROUP);
    for (unsigned i = 0, low = 0; i < 2; i++) {
        unsigned width = planes[bits][i];
        for (size_t j = 0; width && j < QUADS; j++) {
            const uint8_t *v = p + VECTOR * vector_of(width, j) + 4 * r;
            unsigned shift = shift_of(width, j), mask = (1u << width) - 1;
            for (size_t b = 0; b < 4; b++)
                q[4 * j + b] |= (uint8_t)((v[b] >> shift & mask) << low);
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
            unsigned shift = shift_of(width, j), mask = (1u << width) - 1;
            for (size_t r = 0; r < ROWS; r++)
                for (size_t b = 0; b < 4; b++)
                    v[4 * r + b] |= (uint8_t)((q[r][4 * j + b] >> low & mask) << shift);
        }
        p += (size_t)64 * width;
        low += width;
    }
}
