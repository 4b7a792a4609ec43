/* test_certs_info.c - what `mlxd certs show` reads from a certificate file, also from one that is
 * none. */
#include "net/certs_info.h"

#include "base/clock.h"
#include "net/certs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static const char *at(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mlxd-info-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    static const char *const names[] = {"ca.crt", "ca.key", "w1.crt", "w1.key", "junk", "pipe"};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(names); i++)
        (void)unlink(at(names[i]));
    return rmdir(dir);
}

static void reads_what_was_made(void **state) {
    (void)state;
    mlxd_certs_info info;
    mlxd_why why = {0};
    int64_t now = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S);
    mlxd_certs_node_options o = {.role = MLXD_ROLE_WORKER, .device = "w1", .days = 7};
    assert_int_equal(mlxd_certs_init(dir, "home", false, &why), MLXD_OK);
    assert_int_equal(mlxd_certs_node(dir, &o, &why), MLXD_OK);

    assert_int_equal(mlxd_certs_info_read(&info, at("ca.crt"), &why), MLXD_OK);
    assert_true(info.is_ca);
    assert_string_equal(info.name, "mlxd CA home");
    assert_int_equal(info.identity.role, MLXD_ROLE_NONE);

    assert_int_equal(mlxd_certs_info_read(&info, at("w1.crt"), &why), MLXD_OK);
    assert_false(info.is_ca);
    assert_string_equal(info.name, "w1");
    assert_int_equal(info.identity.role, MLXD_ROLE_WORKER);
    assert_string_equal(info.identity.device, "w1");
    assert_string_equal(info.identity.cluster, "home");
    assert_true(info.not_before <= now);
    assert_in_range(info.not_after - now, 7 * 86400 - 60, 7 * 86400 + 60);
}

static void refuses_other_files(void **state) {
    (void)state;
    mlxd_certs_info info;
    mlxd_why why = {0};
    FILE *f = fopen(at("junk"), "w");
    assert_non_null(f);
    fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", f);
    fclose(f);
    assert_int_equal(mlxd_certs_info_read(&info, at("junk"), &why), MLXD_ERR_DATA);
    assert_non_null(strstr(why.text, "junk: expected a certificate"));
    assert_int_equal(mlxd_certs_info_read(&info, at("ca.key"), &why), MLXD_ERR_DATA);
    assert_int_equal(mlxd_certs_info_read(&info, at("nothing"), &why), MLXD_ERR_NOTFOUND);
    assert_int_equal(mlxd_certs_info_read(&info, dir, &why), MLXD_ERR_DATA);
    /* A pipe that nobody writes to is refused at once. */
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    assert_int_equal(mlxd_certs_info_read(&info, at("pipe"), &why), MLXD_ERR_DATA);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_made),
        cmocka_unit_test(refuses_other_files),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
