/* test_log.c - log lines as they arrive on stderr, and the clock's text. */
#include "../../support/random.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Runs fn with stderr in a file and returns what was written. */
static const char *captured(void (*fn)(void)) {
    static char text[1 << 20];
    FILE *f = tmpfile();
    assert_non_null(f);
    int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0 && dup2(fileno(f), STDERR_FILENO) >= 0);
    fn();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

static size_t count_of(const char *text, char c) {
    size_t n = 0;
    for (; *text; text++)
        n += *text == c;
    return n;
}

static void say_each_level(void) {
    mlxd_log(MLXD_LOG_ERROR, "worker", "e%d", 1);
    mlxd_log(MLXD_LOG_WARN, "worker", "w%d", 2);
    mlxd_log(MLXD_LOG_INFO, "worker", "i%d", 3);
    mlxd_log(MLXD_LOG_DEBUG, "worker", "d%d", 4);
}

static void levels(void **state) {
    mlxd_log_level level;
    (void)state;
    mlxd_log_init(MLXD_LOG_INFO, false);
    const char *text = captured(say_each_level);
    assert_int_equal(count_of(text, '\n'), 3);
    assert_non_null(strstr(text, " error worker   e1\n"));
    assert_non_null(strstr(text, " warn  worker   w2\n"));
    assert_non_null(strstr(text, " info  worker   i3\n"));
    assert_true(text[2] == ':' && text[5] == ':' && text[8] == '.');
    assert_true(mlxd_log_enabled(MLXD_LOG_ERROR) && !mlxd_log_enabled(MLXD_LOG_DEBUG));
    mlxd_log_init(MLXD_LOG_ERROR, false);
    assert_int_equal(count_of(captured(say_each_level), '\n'), 1);
    assert_true(mlxd_log_parse_level("debug", &level) && level == MLXD_LOG_DEBUG);
    assert_true(mlxd_log_parse_level("error", &level) && level == MLXD_LOG_ERROR);
    assert_false(mlxd_log_parse_level("Info", &level));
    assert_false(mlxd_log_parse_level("", &level));
}

static void say_hostile(void) {
    mlxd_log(MLXD_LOG_ERROR, "http", "a\"b\\c\nERROR\x1b[2J\x7f\xc3\xa4");
}

static void a_line_cannot_be_forged(void **state) {
    (void)state;
    mlxd_log_init(MLXD_LOG_INFO, false);
    const char *text = captured(say_hostile);
    assert_int_equal(count_of(text, '\n'), 1);
    assert_non_null(strstr(text, "a\"b\\c\\u000aERROR\\u001b[2J\\u007f\xc3\xa4\n"));
    mlxd_log_init(MLXD_LOG_INFO, true);
    text = captured(say_hostile);
    assert_non_null(
        strstr(text, "\"msg\":\"a\\\"b\\\\c\\u000aERROR\\u001b[2J\\u007f\xc3\xa4\"}\n"));
    assert_int_equal(strncmp(text, "{\"ts\":\"20", 9), 0);
    assert_non_null(strstr(text, "\"level\":\"error\",\"component\":\"http\","));
}

static const char *bytes;

static void say_bytes(void) {
    mlxd_log(MLXD_LOG_ERROR, "x", "<%s>", bytes);
}

/* JSON is UTF-8: what is none becomes U+FFFD, byte by byte. */
static void json_lines_are_utf8(void **state) {
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"\xff", "\\ufffd"},
        {"\xc3", "\\ufffd"},
        {"\xc3(", "\\ufffd("},
        {"\xc0\x80", "\\ufffd\\ufffd"},
        {"\xe0\x80\x80", "\\ufffd\\ufffd\\ufffd"},
        {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"},
        {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {"\xf0\x9f\x98", "\\ufffd\\ufffd\\ufffd"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"\xe2\x82\xac", "\xe2\x82\xac"},
        {"\xef\xbf\xbd", "\xef\xbf\xbd"},
    };
    (void)state;
    mlxd_log_init(MLXD_LOG_INFO, true);
    for (size_t i = 0; i < MLXD_COUNT_OF(cases); i++) {
        char want[64];
        bytes = cases[i].in;
        snprintf(want, sizeof want, "\"msg\":\"<%s>\"}\n", cases[i].out);
        assert_non_null(strstr(captured(say_bytes), want));
    }
}

/* Whatever is said, in whatever length: one whole line. */
static void lines_are_whole(void **state) {
    random_state r = random_open("log");
    static char text[5001];
    (void)state;
    for (int round = 0; round < 200; round++) {
        size_t n = random_below(&r, sizeof text - 1);
        for (size_t i = 0; i < n; i++)
            text[i] = round % 2 ? (char)(1 + random_below(&r, 255)) : '\n';
        text[n] = 0;
        bytes = text;
        mlxd_log_init(MLXD_LOG_INFO, round % 4 < 2);
        const char *out = captured(say_bytes);
        size_t len = strlen(out);
        assert_true(len > 20 && len < 2300 && out[len - 1] == '\n');
        assert_int_equal(count_of(out, '\n'), 1);
        if (round % 4 < 2)
            assert_true(out[0] == '{' && out[len - 2] == '}' && out[len - 3] == '"');
    }
}

static void talk(void *arg) {
    for (int i = 0; i < 200; i++)
        mlxd_log(MLXD_LOG_ERROR, "talk", "%s", (const char *)arg);
}

static void talk_all(void) {
    static char said[2][301];
    mlxd_thread t[2];
    for (int i = 0; i < 2; i++) {
        memset(said[i], 'a' + i, 300);
        assert_int_equal(mlxd_thread_start(&t[i], "talk", MLXD_PRIORITY_NORMAL, talk, said[i]),
                         MLXD_OK);
    }
    for (int i = 0; i < 2; i++)
        mlxd_thread_join(&t[i]);
}

static void threads_do_not_mix_lines(void **state) {
    (void)state;
    mlxd_log_init(MLXD_LOG_INFO, false);
    const char *text = captured(talk_all);
    assert_int_equal(count_of(text, '\n'), 400);
    assert_null(strstr(text, "ab"));
    assert_null(strstr(text, "ba"));
}

static void times_as_text(void **state) {
    char text[25];
    (void)state;
    mlxd_clock_format(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00.000Z");
    mlxd_clock_format(UINT64_C(1795619045123999999), text);
    assert_string_equal(text, "2026-11-25T15:04:05.123Z");
    mlxd_clock_format(UINT64_MAX, text);
    assert_int_equal(strlen(text), 24);
    uint64_t a = mlxd_clock_now_ns(), b = mlxd_clock_real()->now_ns(NULL);
    assert_true(b >= a && b - a < 60 * MLXD_NS_PER_S);
    assert_true(mlxd_clock_wall_ns() > UINT64_C(1700000000) * MLXD_NS_PER_S);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),
        cmocka_unit_test(a_line_cannot_be_forged),
        cmocka_unit_test(json_lines_are_utf8),
        cmocka_unit_test(lines_are_whole),
        cmocka_unit_test(threads_do_not_mix_lines),
        cmocka_unit_test(times_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
