/* dispatch.c - the tables of kernels and the choice among them.
 *
 * The scalar table is complete and runs everywhere; an overlay's table follows it. The CPU is asked
 * once (under a hypervisor its answer costs many microseconds). A cap names a rung of an
 * architecture's ladder, also one that this build has no kernels for: what is chosen is the best
 * table that stands on that rung or below.
 */
#include "kernel/kernel.h"

#include "base/os.h"
#include "kernel/tables.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights, KV pages and the wire are little-endian and read in place"
#endif

static const mlxd_kernels scalar = {
    .isa = "scalar",
    .matmul = {.quantize = mlxd_quantize_scalar, .product = mlxd_product_scalar},
    .vector = {.rmsnorm = mlxd_rmsnorm_scalar,
               .add = mlxd_add_scalar,
               .swiglu = mlxd_swiglu_scalar,
               .rope_pairs = mlxd_rope_pairs_scalar,
               .to_f16 = mlxd_to_f16_scalar,
               .is_finite = mlxd_is_finite_scalar},
    .attention = {.page = mlxd_attention_page_scalar,
                  .merge = mlxd_attention_merge_scalar,
                  .finish = mlxd_attention_finish_scalar},
};

#if defined(__x86_64__)
static const mlxd_kernels avx2 = {
    .isa = "avx2",
    .matmul = {.quantize = mlxd_quantize_avx2, .product = mlxd_product_avx2},
    .vector = {.rmsnorm = mlxd_rmsnorm_avx2,
               .add = mlxd_add_avx2,
               .swiglu = mlxd_swiglu_avx2,
               .rope_pairs = mlxd_rope_pairs_avx2,
               .to_f16 = mlxd_to_f16_avx2,
               .is_finite = mlxd_is_finite_avx2},
    .attention = {.page = mlxd_attention_page_avx2,
                  .merge = mlxd_attention_merge_avx2,
                  .finish = mlxd_attention_finish_avx2},
};
#endif

/* Every name that a cap may have. Rungs are comparable within one architecture. */
typedef struct rung {
    const char *name;
    enum { ANY, X86, ARM } arch;
    int strength;
} rung;

static const rung rungs[] = {
    {"scalar", ANY, 0}, {"avx2", X86, 1}, {"avxvnni", X86, 2}, {"avx512", X86, 3},
    {"amx", X86, 4},    {"neon", ARM, 1}, {"dotprod", ARM, 2}, {"i8mm", ARM, 3},
};

/* Tables of this build, weakest first, with what the CPU must have. */
typedef struct entry {
    const mlxd_kernels *table;
    unsigned flags; /* mlxd_cpu_flag */
} entry;

static const entry entries[] = {
    {&scalar, 0},
#if defined(__x86_64__)
    {&avx2, MLXD_CPU_AVX2},
#endif
};

/* Whoever comes first asks; two at once get the same answer. */
static unsigned cpu_flags(void) {
    static _Atomic unsigned known;
    const unsigned asked = 1u << 31;
    unsigned flags = atomic_load_explicit(&known, memory_order_relaxed);
    if (flags == 0) {
        flags = mlxd_os_cpu_flags() | asked;
        atomic_store_explicit(&known, flags, memory_order_relaxed);
    }
    return flags;
}

static const rung *find_rung(const char *name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(rungs); i++)
        if (strcmp(rungs[i].name, name) == 0)
            return &rungs[i];
    return NULL;
}

static bool allowed(const rung *cap, const mlxd_kernels *table) {
    const rung *own = find_rung(table->isa);
    MLXD_ASSERT(own != NULL);
    return own->arch == ANY || (own->arch == cap->arch && own->strength <= cap->strength);
}

mlxd_err mlxd_kernels_get(const mlxd_kernels **out, const char *cap, mlxd_why *why) {
    const rung *limit = cap ? find_rung(cap) : NULL;
    if (cap && !limit)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "unknown instruction set \"%s\": expected scalar, avx2, avxvnni, avx512, "
                         "amx (x86-64) or scalar, neon, dotprod, i8mm (arm64)",
                         cap);
    for (size_t i = 0; i < mlxd_kernels_count(); i++)
        if (!limit || allowed(limit, mlxd_kernels_at(i)))
            *out = mlxd_kernels_at(i);
    return MLXD_OK;
}

const mlxd_kernels *mlxd_kernels_scalar(void) {
    return &scalar;
}

size_t mlxd_kernels_count(void) {
    unsigned have = cpu_flags();
    size_t count = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(entries); i++)
        count += (entries[i].flags & ~have) == 0;
    return count;
}

const mlxd_kernels *mlxd_kernels_at(size_t index) {
    unsigned have = cpu_flags();
    for (size_t i = 0; i < MLXD_COUNT_OF(entries); i++)
        if ((entries[i].flags & ~have) == 0 && index-- == 0)
            return entries[i].table;
    mlxd_assert_failed("index < mlxd_kernels_count()", __FILE__, __LINE__);
}
