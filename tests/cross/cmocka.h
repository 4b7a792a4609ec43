/* cmocka.h - stands in for cmocka where only a cross compiler and its C library are installed.
 *
 * `make check-cross` links the kernel tests for a machine that we do not have the cmocka library
 * for. This header, found there in place of the real one, has the part of its interface that such
 * tests use (groups, set-up and tear-down, assertions, skip; no mocks), with the same meaning: a
 * failed assertion prints where and what, ends the test by longjmp, and the next test runs;
 * cmocka_run_group_tests returns the number of failed tests.
 *
 * As with cmocka, <stdarg.h>, <stddef.h>, <stdint.h> and <setjmp.h> are included before it. One
 * test program is one C file and has one thread that asserts.
 */
#ifndef MLXD_TESTS_CROSS_CMOCKA_H
#define MLXD_TESTS_CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func;
    CMFixtureFunction teardown_func;
    void *initial_state;
};

#define cmocka_unit_test(f)                                                                        \
    { #f, f, NULL, NULL, NULL }
#define cmocka_unit_test_setup(f, setup)                                                           \
    { #f, f, setup, NULL, NULL }
#define cmocka_unit_test_teardown(f, teardown)                                                     \
    { #f, f, NULL, teardown, NULL }
#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                        \
    { #f, f, setup, teardown, NULL }
#define cmocka_unit_test_prestate(f, state)                                                        \
    { #f, f, NULL, NULL, state }

enum { CROSS_PASSED, CROSS_FAILED, CROSS_SKIPPED };

/* Where an assertion of the running test jumps to. Not every test file uses all of these. */
static jmp_buf cross_test_end;

__attribute__((noreturn, unused, format(printf, 3, 4))) static void
cross_fail(const char *file, int line, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s:%d: error: ", file, line);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    longjmp(cross_test_end, CROSS_FAILED);
}

__attribute__((unused)) static void cross_memory(const void *a, const void *b, size_t size,
                                                 int equal, const char *file, int line) {
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    size_t at = 0;
    while (at < size && x[at] == y[at])
        at++;
    if (equal && at < size)
        cross_fail(file, line, "byte %zu of %zu: 0x%02x != 0x%02x", at, size, x[at], y[at]);
    if (!equal && at == size)
        cross_fail(file, line, "%zu bytes are equal", size);
}

__attribute__((unused)) static void cross_range(uintmax_t value, uintmax_t min, uintmax_t max,
                                                int within, const char *file, int line) {
    if ((value >= min && value <= max) != within)
        cross_fail(file, line, "%ju is %sin %ju..%ju", value, within ? "not " : "", min, max);
}

__attribute__((unused)) static void cross_float(double a, double b, double epsilon, int equal,
                                                const char *file, int line) {
    double distance = a < b ? b - a : a - b;
    if ((distance <= epsilon) != equal)
        cross_fail(file, line, "%.17g %s %.17g (epsilon %.17g)", a, equal ? "!=" : "==", b,
                   epsilon);
}

/* Arguments are evaluated once. Integers are compared as cmocka does: as the widest unsigned. */
#define CROSS_INT(a, b, op)                                                                        \
    do {                                                                                           \
        uintmax_t cross_a = (uintmax_t)(a), cross_b = (uintmax_t)(b);                              \
        if (!(cross_a op cross_b))                                                                 \
            cross_fail(__FILE__, __LINE__, "%s %s %s: 0x%jx, 0x%jx", #a, #op, #b, cross_a,         \
                       cross_b);                                                                   \
    } while (0)
#define CROSS_TRUE(condition, text)                                                                \
    do {                                                                                           \
        if (!(condition))                                                                          \
            cross_fail(__FILE__, __LINE__, "%s", text);                                            \
    } while (0)

#define assert_true(c) CROSS_TRUE(c, #c)
#define assert_false(c) CROSS_TRUE(!(c), "!(" #c ")")
#define assert_null(p) CROSS_TRUE((p) == NULL, #p " == NULL")
#define assert_non_null(p) CROSS_TRUE((p) != NULL, #p " != NULL")
#define assert_ptr_equal(a, b) CROSS_TRUE((const void *)(a) == (const void *)(b), #a " == " #b)
#define assert_ptr_not_equal(a, b) CROSS_TRUE((const void *)(a) != (const void *)(b), #a " != " #b)
#define assert_return_code(rc, error) CROSS_TRUE((rc) >= 0, #rc " >= 0, " #error)
#define assert_int_equal(a, b) CROSS_INT(a, b, ==)
#define assert_int_not_equal(a, b) CROSS_INT(a, b, !=)
#define assert_in_range(v, min, max) cross_range(v, min, max, 1, __FILE__, __LINE__)
#define assert_not_in_range(v, min, max) cross_range(v, min, max, 0, __FILE__, __LINE__)
#define assert_float_equal(a, b, e) cross_float(a, b, e, 1, __FILE__, __LINE__)
#define assert_float_not_equal(a, b, e) cross_float(a, b, e, 0, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) cross_memory(a, b, n, 1, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n) cross_memory(a, b, n, 0, __FILE__, __LINE__)
#define assert_string_equal(a, b)                                                                  \
    do {                                                                                           \
        const char *cross_s = (a), *cross_t = (b);                                                 \
        if (strcmp(cross_s, cross_t) != 0)                                                         \
            cross_fail(__FILE__, __LINE__, "\"%s\" != \"%s\"", cross_s, cross_t);                  \
    } while (0)
#define assert_string_not_equal(a, b) CROSS_TRUE(strcmp(a, b) != 0, #a " != " #b)
#define fail() cross_fail(__FILE__, __LINE__, "%s", "fail()")
#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define skip() longjmp(cross_test_end, CROSS_SKIPPED)
#define print_message(...) printf(__VA_ARGS__)
#define print_error(...) fprintf(stderr, __VA_ARGS__)

/* Runs one test with its fixtures; the state the group has set up is what it starts from. */
static int cross_run_one(const struct CMUnitTest *test, void *state) {
    if (test->initial_state)
        state = test->initial_state;
    if (test->setup_func && test->setup_func(&state) != 0)
        return CROSS_FAILED;
    int result = setjmp(cross_test_end);
    if (result == CROSS_PASSED)
        test->test_func(&state);
    if (test->teardown_func && test->teardown_func(&state) != 0)
        result = CROSS_FAILED;
    return result;
}

__attribute__((unused)) static int cross_run(const struct CMUnitTest *tests, size_t count,
                                             CMFixtureFunction setup, CMFixtureFunction teardown) {
    static const char *const words[] = {"      OK", "  FAILED", " SKIPPED"};
    void *state = NULL;
    int failed = 0;
    if (setup && setup(&state) != 0)
        return (int)count;
    for (size_t i = 0; i < count; i++) {
        if (!tests[i].test_func)
            continue;
        int result = cross_run_one(&tests[i], state);
        printf("[ %s ] %s\n", words[result], tests[i].name);
        fflush(stdout);
        failed += result == CROSS_FAILED;
    }
    if (teardown && teardown(&state) != 0)
        failed++;
    return failed;
}

#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cross_run(tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    (printf("%s\n", name), cmocka_run_group_tests(tests, setup, teardown))

#endif
