/* test_families.c - every family against Hugging Face transformers, and against itself.
 *
 * tests/golden/families holds a tiny checkpoint of each family as transformers saves it, the same
 * weights as GGUF, and quantized ones; step_families.py beside it made them and tells how. Each is
 * compared with transformers' logits, and then computed in other ways, which must not change a bit:
 * kernels, threads, chunks of the prompt, splits of the layers. Then its configuration is spoilt,
 * one switch at a time, and the logits must show it: what they do not show, they do not test. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/golden.h"
#include "../../support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mlxd_json_doc *doc;
static int32_t *tokens, *positions;
static size_t n_tokens, n_positions;

static const mlxd_json *field(const mlxd_json *o, const char *key) {
    const mlxd_json *v = mlxd_json_find(o, key);
    if (!v)
        fail_msg("families/index.json: no %s", key);
    return v;
}

static const char *text(const mlxd_json *o, const char *key) {
    mlxd_slice s;
    assert_int_equal(mlxd_json_get_str(field(o, key), &s), MLXD_OK);
    return (const char *)s.data;
}

static double limit(const mlxd_json *entry, const char *key, double fallback) {
    const mlxd_json *v = mlxd_json_find(field(entry, "tolerance"), key);
    double out = fallback;
    if (v)
        assert_int_equal(mlxd_json_get_double(v, &out), MLXD_OK);
    return out;
}

static size_t count(void) {
    return mlxd_json_count(field(mlxd_json_root(doc), "checkpoints"));
}

static const mlxd_json *at(size_t i) {
    return mlxd_json_at(field(mlxd_json_root(doc), "checkpoints"), i);
}

static int set_up(void **state) {
    (void)state;
    doc = golden_json("families/index.json");
    tokens = golden_ints(field(mlxd_json_root(doc), "tokens"), &n_tokens);
    positions = golden_ints(field(mlxd_json_root(doc), "positions"), &n_positions);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    mlxd_mem_free(tokens);
    mlxd_mem_free(positions);
    mlxd_json_close(doc);
    return 0;
}

static golden_run run_of(const mlxd_json *entry) {
    return (golden_run){.path = text(entry, "file"),
                        .tokens = tokens,
                        .n_tokens = n_tokens,
                        .threads = 1,
                        .kernels = mlxd_kernels_scalar(),
                        .chunk = n_tokens};
}

/* ---- against transformers ---- */

struct distance {
    double worst, kl, same_best;
};

static double log_sum_exp(const float *x, uint32_t n) {
    double max = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* Of logarithms of probabilities: a constant added to all logits says nothing. */
static struct distance measure(const mlxd_json *entry, const float *got, uint32_t vocab) {
    struct distance d = {0};
    mlxd_buf file = golden_read(text(entry, "logits"));
    const float *want = (const float *)(const void *)file.data;
    assert_int_equal(file.len, n_positions * vocab * sizeof *want);
    for (size_t i = 0; i < n_positions; i++, want += vocab) {
        const float *row = got + (size_t)positions[i] * vocab;
        double zw = log_sum_exp(want, vocab), zg = log_sum_exp(row, vocab);
        uint32_t best_want = 0, best_got = 0;
        for (uint32_t t = 0; t < vocab; t++) {
            double a = want[t] - zw, b = row[t] - zg;
            d.worst = fmax(d.worst, fabs(a - b));
            d.kl += exp(a) * (a - b) / (double)n_positions;
            best_want = want[t] > want[best_want] ? t : best_want;
            best_got = row[t] > row[best_got] ? t : best_got;
        }
        d.same_best += (best_want == best_got) / (double)n_positions;
    }
    mlxd_buf_deinit(&file);
    return d;
}

static void every_family_is_what_transformers_computes(void **state) {
    (void)state;
    size_t wrong = 0;
    assert_true(count() >= 25);
    for (size_t i = 0; i < count(); i++) {
        uint32_t vocab;
        golden_run run = run_of(at(i));
        float *got = golden_logits(&run, &vocab);
        struct distance d = measure(at(i), got, vocab);
        bool ok = d.worst <= limit(at(i), "max_abs", 0) && d.kl <= limit(at(i), "mean_kl", 1e-6) &&
                  d.same_best >= limit(at(i), "same_best", 1);
        print_message("%-28s max %.2g of %.2g, KL %.2g, same best %.0f %%%s\n", run.path, d.worst,
                      limit(at(i), "max_abs", 0), d.kl, d.same_best * 100, ok ? "" : "  WRONG");
        wrong += !ok;
        mlxd_mem_free(got);
    }
    assert_int_equal(wrong, 0);
}

/* ---- against themselves ---- */

static void nothing_changes_a_bit(void **state) {
    (void)state;
    random_state rng = random_open("families");
    for (size_t i = 0; i < count(); i++) {
        uint32_t vocab;
        golden_run run = run_of(at(i));
        float *want = golden_logits(&run, &vocab);
        for (size_t k = 0; k < mlxd_kernels_count() * 2; k++) {
            uint32_t layers = golden_layers(run.path), splits[65], n = 0;
            for (uint32_t left = layers; left > 0; left -= splits[n++])
                splits[n] = 1 + random_below(&rng, left);
            splits[n] = 0;
            run.kernels = mlxd_kernels_at(k / 2);
            run.chunk = k % 2 ? 1 : 2 + random_below(&rng, (uint32_t)n_tokens - 2);
            run.threads = 1 + random_below(&rng, 4);
            run.splits = splits;
            float *got = golden_logits(&run, &vocab);
            if (memcmp(got, want, n_tokens * vocab * sizeof *got) != 0)
                fail_msg("%s: %s, chunk %zu, %u threads, %u stages: other bits", run.path,
                         run.kernels->isa, run.chunk, run.threads, n);
            mlxd_mem_free(got);
        }
        mlxd_mem_free(want);
    }
}

/* ---- switches ---- */

static void no_window(mlxd_config *c) {
    for (uint32_t i = 0; i < c->layers; i++)
        c->layer[i] &= (uint8_t)~MLXD_LAYER_WINDOW;
}

static void wider_window(mlxd_config *c) {
    for (uint32_t i = 0; i < c->layers; i++)
        if (c->layer[i] & MLXD_LAYER_WINDOW) {
            c->window++;
            return;
        }
}

static void no_local_rope(mlxd_config *c) {
    for (uint32_t i = 0; i < c->layers; i++)
        c->layer[i] &= (uint8_t)~MLXD_LAYER_LOCAL_ROPE;
}

static void always_rope(mlxd_config *c) {
    for (uint32_t i = 0; i < c->layers; i++)
        c->layer[i] &= (uint8_t)~MLXD_LAYER_NO_ROPE;
}

static void plain_rope(mlxd_config *c) {
    c->rope[0].kind = MLXD_ROPE_PLAIN;
}

static void no_attention_factor(mlxd_config *c) {
    c->rope[0].attention = 1;
}

static void other_list(mlxd_config *c) {
    if (c->rope[0].kind == MLXD_ROPE_LONGROPE)
        c->rope[0].original = c->rope[0].original > 100 ? 10 : 1000;
}

static void other_order(mlxd_config *c) {
    c->rope_pairs = !c->rope_pairs;
}

static void other_truncation(mlxd_config *c) {
    if (c->rope[0].kind == MLXD_ROPE_YARN)
        c->rope[0].truncate = !c->rope[0].truncate;
}

static void other_gate(mlxd_config *c) {
    c->gate = c->gate == MLXD_GATE_SWIGLU ? MLXD_GATE_GEGLU : MLXD_GATE_SWIGLU;
}

static void other_scale(mlxd_config *c) {
    c->attention_scale *= 1.05f;
}

static void no_softcap(mlxd_config *c) {
    c->attention_softcap = 0;
}

static void no_final_softcap(mlxd_config *c) {
    c->final_softcap = 0;
}

static void no_embedding_scale(mlxd_config *c) {
    c->embedding_scale = 1;
}

static void no_residual_scale(mlxd_config *c) {
    c->residual_scale = 1;
}

static void no_divisor(mlxd_config *c) {
    c->logit_divisor = 1;
}

static void no_plus(mlxd_config *c) {
    c->norm_plus = 0;
}

static void other_renorm(mlxd_config *c) {
    c->expert_renorm = c->experts ? !c->expert_renorm : false;
}

static void fewer_experts(mlxd_config *c) {
    c->experts_used = c->experts_used > 1 ? c->experts_used - 1 : 0;
}

static const struct {
    const char *name;
    void (*spoil)(mlxd_config *c);
} switches[] = {
    {"no window", no_window},
    {"wider window", wider_window},
    {"no local rope", no_local_rope},
    {"always rope", always_rope},
    {"plain rope", plain_rope},
    {"no attention factor", no_attention_factor},
    {"other list", other_list},
    {"other order", other_order},
    {"other truncation", other_truncation},
    {"other gate", other_gate},
    {"other scale", other_scale},
    {"no softcap", no_softcap},
    {"no final softcap", no_final_softcap},
    {"no embedding scale", no_embedding_scale},
    {"no residual scale", no_residual_scale},
    {"no divisor", no_divisor},
    {"no plus", no_plus},
    {"other renorm", other_renorm},
    {"fewer experts", fewer_experts},
};

static void every_switch_shows(void **state) {
    size_t shown[MLXD_COUNT_OF(switches)] = {0}, hidden = 0;
    (void)state;
    for (size_t i = 0; i < count(); i++) {
        golden_run run = run_of(at(i));
        const double most = limit(at(i), "max_abs", 0);
        if (most > 0.01) /* quantized ones have too wide a limit */
            continue;
        for (size_t s = 0; s < MLXD_COUNT_OF(switches); s++) {
            uint32_t vocab;
            run.spoil = switches[s].spoil;
            if (!golden_spoils(&run)) /* this family does not have it */
                continue;
            float *got = golden_logits(&run, &vocab);
            struct distance d = measure(at(i), got, vocab);
            mlxd_mem_free(got);
            shown[s]++;
            if (d.worst <= 2 * most) {
                print_message("%s: %s moves logits by %.2g only\n", run.path, switches[s].name,
                              d.worst);
                hidden++;
            }
        }
    }
    for (size_t s = 0; s < MLXD_COUNT_OF(switches); s++)
        if (shown[s] == 0)
            fail_msg("no checkpoint has \"%s\"", switches[s].name);
    assert_int_equal(hidden, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_is_what_transformers_computes),
        cmocka_unit_test(nothing_changes_a_bit),
        cmocka_unit_test(every_switch_shows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
