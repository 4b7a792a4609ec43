/* test_speed.c - the measurements give a number one can plan with, whatever the machine is; how
 * large it is, no test can say. */
#include "model/speed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mlxd_checkpoint *open_model(const char *name, mlxd_config *c) {
    char path[1024];
    mlxd_checkpoint *f;
    mlxd_why why;
    snprintf(path, sizeof path, "%s/%s", MLXD_GOLDEN, name);
    assert_int_equal(mlxd_checkpoint_open(&f, path, &why), MLXD_OK);
    assert_int_equal(mlxd_config_read(c, f, &why), MLXD_OK);
    return f;
}

static void measures_every_kernel(void **state) {
    (void)state;
    mlxd_os_fpu_init();
    mlxd_pool *pool = mlxd_pool_open(2);
    assert_non_null(pool);
    for (size_t i = 0; i < mlxd_kernels_count(); i++) {
        double speed = mlxd_speed_measure(mlxd_kernels_at(i), pool);
        assert_true(isfinite(speed) && speed > 0);
    }
    mlxd_pool_close(pool);
}

/* Quantized and float layers; all of them are loaded and decoded with. */
static void measures_a_model(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-f32.gguf", "tiny-q4_1.gguf", "tiny-untied.gguf",
                                        "families/qwen3_moe_mlx4"};
    mlxd_os_fpu_init();
    mlxd_pool *pool = mlxd_pool_open(1);
    assert_non_null(pool);
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++) {
        mlxd_config c;
        mlxd_why why = {0};
        double speed = 0;
        mlxd_checkpoint *f = open_model(names[i], &c);
        mlxd_err err = mlxd_speed_measure_model(&speed, f, &c, mlxd_kernels_scalar(), pool, &why);
        if (err)
            fail_msg("%s: %s", names[i], why.text);
        assert_true(isfinite(speed) && speed > 0);
        mlxd_checkpoint_close(f);
    }
    mlxd_pool_close(pool);
}

/* A file that lacks what its configuration promises is an error with a name, not a number. */
static void refuses_a_model_without_its_layers(void **state) {
    (void)state;
    mlxd_config c;
    mlxd_why why = {0};
    double speed;
    mlxd_pool *pool = mlxd_pool_open(1);
    mlxd_checkpoint *f = open_model("tiny-f32.gguf", &c);
    assert_non_null(pool);
    c.layers++;
    assert_int_equal(mlxd_speed_measure_model(&speed, f, &c, mlxd_kernels_scalar(), pool, &why),
                     MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "is missing"));
    mlxd_checkpoint_close(f);
    mlxd_pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_every_kernel),
        cmocka_unit_test(measures_a_model),
        cmocka_unit_test(refuses_a_model_without_its_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
