/* dispatch.c - the tables of kernels and the choice among them.
 *
 * The scalar table is complete and runs everywhere; overlays follow, weakest first. The CPU is
 * asked once (under a hypervisor its answer costs many microseconds). A cap names a rung of an
 * architecture's ladder, also one of another architecture: what is chosen is the best table that
 * stands on that rung or below.
 */
#include "kernel/kernel.h"

#include "base/os.h"
#include "kernel/tables.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights, KV pages and the wire are little-endian and read in place"
#endif

#define VECTOR_SCALAR                                                                              \
    {                                                                                              \
        .rmsnorm = mlxd_rmsnorm_scalar, .swiglu = mlxd_swiglu_scalar, .geglu = mlxd_geglu_scalar,  \
        .clipglu = mlxd_clipglu_scalar, .softcap = mlxd_softcap_scalar,                            \
        .rope_pairs = mlxd_rope_pairs_scalar, .rope_halves = mlxd_rope_halves_scalar,              \
        .to_f16 = mlxd_to_f16_scalar, .is_finite = mlxd_is_finite_scalar,                          \
    }
#define ATTENTION_SCALAR                                                                           \
    {                                                                                              \
        .page = mlxd_attention_page_scalar, .merge = mlxd_attention_merge_scalar,                  \
        .finish = mlxd_attention_finish_scalar,                                                    \
    }

static const mlxd_kernels scalar = {
    .isa = "scalar",
    .matmul = {.quantize = mlxd_quantize_scalar, .product = mlxd_product_scalar},
    .vector = VECTOR_SCALAR,
    .attention = ATTENTION_SCALAR,
    .probe = {.read = mlxd_probe_read_scalar, .int8 = mlxd_probe_int8_scalar},
};

#if defined(__x86_64__)
#define VECTOR_AVX2                                                                                \
    {                                                                                              \
        .rmsnorm = mlxd_rmsnorm_avx2, .swiglu = mlxd_swiglu_avx2, .geglu = mlxd_geglu_avx2,        \
        .clipglu = mlxd_clipglu_avx2, .softcap = mlxd_softcap_avx2,                                \
        .rope_pairs = mlxd_rope_pairs_avx2, .rope_halves = mlxd_rope_halves_avx2,                  \
        .to_f16 = mlxd_to_f16_avx2, .is_finite = mlxd_is_finite_avx2,                              \
    }
#define ATTENTION_AVX2                                                                             \
    {                                                                                              \
        .page = mlxd_attention_page_avx2, .merge = mlxd_attention_merge_avx2,                      \
        .finish = mlxd_attention_finish_avx2,                                                      \
    }

static const mlxd_kernels avx2 = {
    .isa = "avx2",
    .matmul = {.quantize = mlxd_quantize_avx2, .product = mlxd_product_avx2},
    .vector = VECTOR_AVX2,
    .attention = ATTENTION_AVX2,
    .probe = {.read = mlxd_probe_read_avx2, .int8 = mlxd_probe_int8_avx2},
};

static const mlxd_kernels avxvnni = {
    .isa = "avxvnni",
    .matmul = {.quantize = mlxd_quantize_avx2, .product = mlxd_product_avxvnni},
    .vector = VECTOR_AVX2,
    .attention = ATTENTION_AVX2,
    .probe = {.read = mlxd_probe_read_avx2, .int8 = mlxd_probe_int8_avxvnni},
};

#define VECTOR_AVX512                                                                              \
    {                                                                                              \
        .rmsnorm = mlxd_rmsnorm_avx512, .swiglu = mlxd_swiglu_avx512, .geglu = mlxd_geglu_avx512,  \
        .clipglu = mlxd_clipglu_avx512, .softcap = mlxd_softcap_avx512,                            \
        .rope_pairs = mlxd_rope_pairs_avx512, .rope_halves = mlxd_rope_halves_avx512,              \
        .to_f16 = mlxd_to_f16_avx512, .is_finite = mlxd_is_finite_avx512,                          \
    }
#define ATTENTION_AVX512                                                                           \
    {                                                                                              \
        .page = mlxd_attention_page_avx512, .merge = mlxd_attention_merge_avx512,                  \
        .finish = mlxd_attention_finish_avx512,                                                    \
    }

static const mlxd_kernels avx512 = {
    .isa = "avx512",
    .matmul = {.quantize = mlxd_quantize_avx512, .product = mlxd_product_avx512},
    .vector = VECTOR_AVX512,
    .attention = ATTENTION_AVX512,
    .probe = {.read = mlxd_probe_read_avx512, .int8 = mlxd_probe_int8_avx512},
};

static const mlxd_kernels amx = {
    .isa = "amx",
    .matmul = {.quantize = mlxd_quantize_avx512, .product = mlxd_product_amx},
    .vector = VECTOR_AVX512,
    .attention = ATTENTION_AVX512,
    .probe = {.read = mlxd_probe_read_avx512, .int8 = mlxd_probe_int8_amx},
};

#elif defined(__aarch64__)
#define VECTOR_NEON                                                                                \
    {                                                                                              \
        .rmsnorm = mlxd_rmsnorm_neon, .swiglu = mlxd_swiglu_neon, .geglu = mlxd_geglu_neon,        \
        .clipglu = mlxd_clipglu_neon, .softcap = mlxd_softcap_neon,                                \
        .rope_pairs = mlxd_rope_pairs_neon, .rope_halves = mlxd_rope_halves_neon,                  \
        .to_f16 = mlxd_to_f16_neon, .is_finite = mlxd_is_finite_neon,                              \
    }
#define ATTENTION_NEON                                                                             \
    {                                                                                              \
        .page = mlxd_attention_page_neon, .merge = mlxd_attention_merge_neon,                      \
        .finish = mlxd_attention_finish_neon,                                                      \
    }

static const mlxd_kernels neon = {
    .isa = "neon",
    .matmul = {.quantize = mlxd_quantize_neon, .product = mlxd_product_neon},
    .vector = VECTOR_NEON,
    .attention = ATTENTION_NEON,
    .probe = {.read = mlxd_probe_read_neon, .int8 = mlxd_probe_int8_neon},
};

static const mlxd_kernels dotprod = {
    .isa = "dotprod",
    .matmul = {.quantize = mlxd_quantize_neon, .product = mlxd_product_dotprod},
    .vector = VECTOR_NEON,
    .attention = ATTENTION_NEON,
    .probe = {.read = mlxd_probe_read_neon, .int8 = mlxd_probe_int8_dotprod},
};

static const mlxd_kernels i8mm = {
    .isa = "i8mm",
    .matmul = {.quantize = mlxd_quantize_neon, .product = mlxd_product_i8mm},
    .vector = VECTOR_NEON,
    .attention = ATTENTION_NEON,
    .probe = {.read = mlxd_probe_read_neon, .int8 = mlxd_probe_int8_i8mm},
};
#endif

/* The ladders, weakest first: what a cap may name, the table of this build, what the CPU must have
 * for it. Rungs are comparable within one architecture. */
typedef struct rung {
    const char *name;
    enum { ANY, X86, ARM } arch;
    const mlxd_kernels *table; /* NULL: of another architecture */
    unsigned flags;            /* mlxd_cpu_flag */
} rung;

#if defined(__x86_64__)
#define X86_TABLE(t) &t
#define ARM_TABLE(t) NULL
#elif defined(__aarch64__)
#define X86_TABLE(t) NULL
#define ARM_TABLE(t) &t
#else
#define X86_TABLE(t) NULL
#define ARM_TABLE(t) NULL
#endif

static const rung rungs[] = {
    {"scalar", ANY, &scalar, 0},
    {"avx2", X86, X86_TABLE(avx2), MLXD_CPU_AVX2},
    {"avxvnni", X86, X86_TABLE(avxvnni), MLXD_CPU_AVXVNNI},
    {"avx512", X86, X86_TABLE(avx512), MLXD_CPU_AVX512},
    {"amx", X86, X86_TABLE(amx), MLXD_CPU_AMX},
    {"neon", ARM, ARM_TABLE(neon), MLXD_CPU_NEON},
    {"dotprod", ARM, ARM_TABLE(dotprod), MLXD_CPU_DOTPROD},
    {"i8mm", ARM, ARM_TABLE(i8mm), MLXD_CPU_DOTPROD | MLXD_CPU_I8MM},
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

static bool runs_here(const rung *r) {
    return r->table && (r->flags & ~cpu_flags()) == 0;
}

static const rung *find_rung(const char *name) {
    for (size_t i = 0; i < MLXD_COUNT_OF(rungs); i++)
        if (strcmp(rungs[i].name, name) == 0)
            return &rungs[i];
    return NULL;
}

mlxd_err mlxd_kernels_get(const mlxd_kernels **out, const char *cap, mlxd_why *why) {
    const rung *limit = cap ? find_rung(cap) : &rungs[MLXD_COUNT_OF(rungs)];
    if (!limit)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "unknown instruction set \"%s\": expected scalar, avx2, avxvnni, avx512, "
                         "amx (x86-64) or scalar, neon, dotprod, i8mm (arm64)",
                         cap);
    for (const rung *r = rungs; r <= limit && r < rungs + MLXD_COUNT_OF(rungs); r++)
        if (runs_here(r) && (!cap || r->arch == ANY || r->arch == limit->arch))
            *out = r->table;
    return MLXD_OK;
}

const mlxd_kernels *mlxd_kernels_scalar(void) {
    return &scalar;
}

size_t mlxd_kernels_count(void) {
    size_t count = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(rungs); i++)
        count += runs_here(&rungs[i]);
    return count;
}

const mlxd_kernels *mlxd_kernels_at(size_t index) {
    for (size_t i = 0; i < MLXD_COUNT_OF(rungs); i++)
        if (runs_here(&rungs[i]) && index-- == 0)
            return rungs[i].table;
    mlxd_assert_failed("index < mlxd_kernels_count()", __FILE__, __LINE__);
}
