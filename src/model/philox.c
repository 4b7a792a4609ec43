/* philox.c - see philox.h. Each of the ten rounds multiplies two words by constants, swaps the
 * halves of the products with the other two words and adds the round key; the key advances by the
 * golden ratio and sqrt(3) - 1 between rounds. */
#include "model/philox.h"

#define ROUNDS 10
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

mlxd_philox_block mlxd_philox_get(mlxd_philox_block counter, uint64_t key) {
    mlxd_philox_block c = counter;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * c.word[0];
        uint64_t p1 = (uint64_t)MULTIPLIER_1 * c.word[2];
        c = (mlxd_philox_block){{(uint32_t)(p1 >> 32) ^ c.word[1] ^ k0, (uint32_t)p1,
                                 (uint32_t)(p0 >> 32) ^ c.word[3] ^ k1, (uint32_t)p0}};
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    return c;
}
