/* probe_amx.c - the multiplication of probe.h with AMX: tdpbssd multiplies a tile of 16 x 64 bytes
 * with one of 64 x 16 and adds to 16 x 16 sums of 32 bits. One starts every 16 cycles and takes
 * about 52, so six sums keep the unit busy; two tiles remain for the operands. */
#include "kernel/tables.h"

#include <immintrin.h>

#define SUMS 6
#define ROWS 16
#define ROW_BYTES 64

/* What ldtilecfg reads. */
struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

uint64_t mlxd_probe_int8_amx(uint64_t rounds) {
    _Alignas(64) struct tile_config config = {.palette = 1};
    _Alignas(64) int8_t tile[ROWS * ROW_BYTES];
    for (size_t i = 0; i < sizeof tile; i++)
        tile[i] = (int8_t)(i % 15);
    for (int i = 0; i < SUMS + 2; i++) {
        config.rows[i] = ROWS;
        config.row_bytes[i] = ROW_BYTES;
    }
    __asm__ volatile("" ::: "memory"); /* GCC 12 does not see that the configuration is read */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, tile, ROW_BYTES);
    _tile_loadd(7, tile, ROW_BYTES);
    for (uint64_t r = 0; r < rounds; r++) {
        _tile_dpbssd(0, 6, 7);
        _tile_dpbssd(1, 6, 7);
        _tile_dpbssd(2, 6, 7);
        _tile_dpbssd(3, 6, 7);
        _tile_dpbssd(4, 6, 7);
        _tile_dpbssd(5, 6, 7);
    }
    _tile_release();
    return rounds * SUMS * ROWS * 16 * 64 * 2;
}
