/* test_experts.c - which experts a token goes to, and with what weights. */
#include <setjmp.h>
#include <stdarg.h>

#include "../../support/random.h"

#include "base/os.h"
#include "kernel/math.h"
#include "model/layers_internal.h"

#include <math.h>
#include <string.h>

#include <cmocka.h>

#define EXPERTS 12

/* Ties go to the lowest number; ids ascend whatever the order of the logits. */
static void the_largest_are_chosen(void **state) {
    (void)state;
    const float logits[] = {1, 5, 5, -2, 5, 7};
    uint32_t ids[3];
    float w[3];
    mlxd_experts_choose(logits, 6, 3, true, ids, w);
    assert_true(ids[0] == 1 && ids[1] == 2 && ids[2] == 5);
    const float low = mlxd_exp_f32(-2), sum = low + low + 1;
    assert_true(w[0] == low / sum && w[1] == low / sum && w[2] == 1 / sum);
    const float equal[6] = {0};
    mlxd_experts_choose(equal, 6, 3, true, ids, w);
    assert_true(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
    mlxd_experts_choose(logits, 1, 1, false, ids, w);
    assert_true(ids[0] == 0 && w[0] == 1);
}

static void weights_are_a_softmax(void **state) {
    random_state rng = random_open("experts");
    (void)state;
    for (int repeat = 0; repeat < 2000; repeat++) {
        float logits[EXPERTS], w[EXPERTS];
        uint32_t ids[EXPERTS], used = 1 + random_below(&rng, EXPERTS);
        bool renorm = random_below(&rng, 2), chosen[EXPERTS] = {false};
        double all = 0, some = 0, least = INFINITY;
        for (size_t e = 0; e < EXPERTS; e++)
            logits[e] = (float)random_below(&rng, 1000) / 100 - 5;
        mlxd_experts_choose(logits, EXPERTS, used, renorm, ids, w);
        for (size_t i = 0; i < used; i++) {
            assert_true(ids[i] < EXPERTS && (i == 0 || ids[i] > ids[i - 1]));
            chosen[ids[i]] = true;
            some += exp(logits[ids[i]]);
            least = fmin(least, logits[ids[i]]);
        }
        for (size_t e = 0; e < EXPERTS; e++) {
            all += exp(logits[e]);
            assert_true(chosen[e] || logits[e] <= least);
        }
        for (size_t i = 0; i < used; i++)
            assert_true(fabs(w[i] - exp(logits[ids[i]]) / (renorm ? some : all)) < 1e-6);
    }
}

/* Whatever the router says, ids are ids; a NaN reaches the result. */
static void nothing_is_out_of_range(void **state) {
    (void)state;
    for (size_t where = 0; where < EXPERTS; where++)
        for (int kind = 0; kind < 3; kind++) {
            float logits[EXPERTS] = {0}, w[3], sum = 0;
            uint32_t ids[3];
            logits[where] = kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
            mlxd_experts_choose(logits, EXPERTS, 3, true, ids, w);
            assert_true(ids[0] < ids[1] && ids[1] < ids[2] && ids[2] < EXPERTS);
            for (size_t i = 0; i < 3; i++)
                sum += w[i];
            assert_true(kind == 2 || sum != sum);
        }
}

static int set_up(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_are_chosen),
        cmocka_unit_test(weights_are_a_softmax),
        cmocka_unit_test(nothing_is_out_of_range),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
