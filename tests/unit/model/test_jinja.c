/* test_jinja.c - the template interpreter: against jinja2 (tests/golden/templates.json), where its
 * errors point, what hostile templates get, and whether text keeps its marks of trust. */
#include "model/jinja.h"

#include "mini_gguf.h"

#include <time.h>

/* When the goldens were made: strftime_now shows it. */
#define NOW 1735787045

typedef struct result {
    mlxd_err err;
    mlxd_why why;
    mlxd_buf text;   /* with NUL */
    mlxd_buf marked; /* the text, untrusted runs in [ ] */
} result;

static void mark(result *r, mlxd_slice text, const mlxd_text_range *spans, size_t n) {
    size_t at = 0;
    for (size_t i = 0; i <= n; i++) {
        size_t start = i < n ? spans[i].start : text.len, end = i < n ? spans[i].end : text.len;
        assert_true(start >= at && end >= start && end <= text.len);
        assert_true(i == n || end > start);
        assert_true(i == 0 || i == n || start > at); /* spans do not touch */
        if (start > at) {
            mlxd_buf_add_byte(&r->marked, '[');
            mlxd_buf_add(&r->marked, text.data + at, start - at);
            mlxd_buf_add_byte(&r->marked, ']');
        }
        mlxd_buf_add(&r->marked, text.data + start, end - start);
        at = end;
    }
}

static result render_with(mlxd_slice source, const mlxd_json *context) {
    result r = {0};
    mlxd_jinja *t;
    mlxd_jinja_run *run;
    mlxd_slice key, text = {0};
    const mlxd_text_range *spans;
    size_t n;
    r.err = mlxd_jinja_open(&t, source, &r.why);
    if (r.err)
        return r;
    assert_int_equal(mlxd_jinja_begin(&run, t, NOW, &r.why), MLXD_OK);
    for (const mlxd_json *v = context ? mlxd_json_first(context, &key) : NULL; v;
         v = mlxd_json_next(context, v, &key))
        mlxd_jinja_set_json(run, (const char *)key.data, v);
    mlxd_jinja_set_str(run, "ours", mlxd_slice_str("<|us|>"), true);
    mlxd_jinja_set_str(run, "theirs", mlxd_slice_str("<|them|>"), false);
    r.err = mlxd_jinja_render(run, &text, &spans, &n, &r.why);
    if (!r.err) {
        mlxd_buf_add(&r.text, text.data, text.len);
        mark(&r, text, spans, n);
    }
    mlxd_jinja_end(run);
    mlxd_jinja_close(t);
    return r;
}

static result render(const char *source) {
    return render_with(mlxd_slice_str(source), NULL);
}

static void drop(result *r) {
    mlxd_buf_deinit(&r->text);
    mlxd_buf_deinit(&r->marked);
}

/* ---- goldens ---- */

static void check_case(const mlxd_json *context, const mlxd_json *c) {
    mlxd_slice source, want;
    const mlxd_json *text = mlxd_json_find(c, "text"), *raised = mlxd_json_find(c, "raised");
    assert_int_equal(mlxd_json_get_str(mlxd_json_find(c, "template"), &source), MLXD_OK);
    result r = render_with(source, context);
    const char *got = r.err ? r.why.text : mlxd_buf_str(&r.text);
    if (text) {
        assert_int_equal(mlxd_json_get_str(text, &want), MLXD_OK);
        if (r.err || !mlxd_slice_eq((mlxd_slice){r.text.data, r.text.len}, want))
            fail_msg("%s\n  expected %s\n  got      %s", (const char *)source.data,
                     (const char *)want.data, got);
    } else if (raised) {
        assert_int_equal(mlxd_json_get_str(raised, &want), MLXD_OK);
        if (r.err != MLXD_ERR_INVALID || strcmp(got, (const char *)want.data) != 0)
            fail_msg("%s: raises %s, got %s", (const char *)source.data, (const char *)want.data,
                     got);
    } else if (r.err == MLXD_OK || r.err == MLXD_ERR_INVALID ||
               strncmp(got, "chat template, ", 15)) {
        fail_msg("%s: must fail, got %s", (const char *)source.data, got);
    }
    drop(&r);
}

static void equals_jinja2(void **state) {
    (void)state;
    char path[4096];
    size_t len;
    mlxd_json_doc *doc;
    mlxd_why why = {{0}};
    snprintf(path, sizeof path, "%s/templates.json", MLXD_GOLDEN);
    uint8_t *text = mini_read_file(path, &len);
    if (!text || mlxd_json_parse(&doc, (mlxd_slice){text, len}, MLXD_LIMIT_JSON_DEPTH, &why))
        fail_msg("%s: %s", path, why.text);
    const mlxd_json *root = mlxd_json_root(doc), *cases = mlxd_json_find(root, "cases");
    assert_true(mlxd_json_count(cases) >= 270);
    for (size_t i = 0; i < mlxd_json_count(cases); i++)
        check_case(mlxd_json_find(root, "context"), mlxd_json_at(cases, i));
    mlxd_json_close(doc);
    free(text);
}

/* What differs from jinja2 on purpose; see jinja.h. */
static void own_ways(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}", "[1, 2]"},
        {"{% do [1].append(2) %}ok", "ok"},
        {"{% set l = [1, 2, 3] %}{{ l.pop() }}{{ l.pop(0) }}{{ l }}", "31[2]"},
        {"{% set l = [1, 2, 3] %}{% for x in l %}{{ x }}{{ loop.revindex }}{% do l.pop() %}"
         "{% endfor %}",
         "1321"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        result r = render(rows[i][0]);
        assert_int_equal(r.err, MLXD_OK);
        assert_string_equal(mlxd_buf_str(&r.text), rows[i][1]);
        drop(&r);
    }
}

/* ---- errors ---- */

static void errors_name_the_place(void **state) {
    (void)state;
    static const struct {
        const char *source;
        mlxd_err err;
        const char *text;
    } rows[] = {
        {"a\n  b {{ x.y }}", MLXD_ERR_DATA,
         "chat template, line 2, column 9: 'x' is undefined: b {{ x.y }}"},
        {"\xc3\xa9\xc3\xa9{{ 1 + 'a' }} tail\nnext", MLXD_ERR_DATA,
         "chat template, line 1, column 8: unsupported operand types for +: 'int' and 'str': "
         "\xc3\xa9\xc3\xa9{{ 1 + 'a' }} tail"},
        {"{% macro m(v) %}{{ v.a.b }}{% endmacro %}\n{{ m({}) }}", MLXD_ERR_DATA,
         "chat template, line 1, column 23: 'dict object' has no attribute 'a': "
         "{% macro m(v) %}{{ v.a.b }}{% endmacro %}"},
        {"{% if x %}\n{% else %}\n", MLXD_ERR_DATA,
         "chat template, line 2, column 11: expected {% endif %}: {% else %}"},
        {"{{ 'x' | nosuch }}", MLXD_ERR_DATA,
         "chat template, line 1, column 10: no filter named 'nosuch': {{ 'x' | nosuch }}"},
        {"{% for x in y recursive %}{% endfor %}", MLXD_ERR_UNSUPPORTED,
         "chat template, line 1, column 15: recursive loops are not supported: "
         "{% for x in y recursive %}{% endfor %}"},
        {"{{ '%d' % 5 }}", MLXD_ERR_UNSUPPORTED,
         "chat template, line 1, column 9: formatting with % is not supported: {{ '%d' % 5 }}"},
        {"{{ raise_exception('no\ttools') }}", MLXD_ERR_INVALID, "no?tools"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        result r = render(rows[i].source);
        assert_int_equal(r.err, rows[i].err);
        assert_string_equal(r.why.text, rows[i].text);
    }
}

/* ---- hostile templates ---- */

/* A source that is `head`, then `middle` n times, then `tail`. */
static char *repeat(const char *head, const char *middle, size_t n, const char *tail) {
    size_t m = strlen(middle), h = strlen(head);
    char *s = calloc(1, h + m * n + strlen(tail) + 1);
    assert_non_null(s);
    memcpy(s, head, h);
    for (size_t i = 0; i < n; i++)
        memcpy(s + h + i * m, middle, m);
    strcpy(s + h + m * n, tail);
    return s;
}

static void expect_refused(const char *source, const char *part) {
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    result r = render(source);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    if (r.err == MLXD_OK || r.err == MLXD_ERR_INVALID || !strstr(r.why.text, part))
        fail_msg("%.80s: error %d: %s", source, r.err, r.why.text);
    assert_true(t1.tv_sec - t0.tv_sec < 60); /* not for ever; sanitizers are slow */
    drop(&r);
}

static void bounded_time_and_memory(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
         "range"},
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "MiB"},
        {"{% set l = range(99999) %}{% for a in l %}{% for b in l %}x{% endfor %}{% endfor %}",
         "steps"},
        {"{{ 'a' * 10**9 }}", "steps"},
        {"{{ 'aaaaaaaaaaaaaaaa' * 10**8 }}", "bytes"},
        {"{{ [0] * 10**9 }}", "MiB"},
        {"{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
         "{% endfor %}",
         "MiB"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
         "{% endfor %}",
         "MiB"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"},
        {"{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
         "nested too deeply"},
        {"{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
         "MiB"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x | tojson }}",
         "nested too deeply"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x }}",
         "nested too deeply"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
         "{% endfor %}{{ ns.x }}",
         "e"},
        {"{% set a = [] %}{% set b = [] %}{% do a.append(a) %}{% do b.append(b) %}{{ a == b }}",
         "nested too deeply"},
        {"{% set a = [] %}{% do a.append(a) %}{{ a | tojson }}", "nested too deeply"},
        {"{% set a = [1] %}{% for x in a %}{% do a.append(x) %}{% endfor %}", "e"},
        {"{{ 9223372036854775807 + 1 }}", "integer overflow in +"},
        {"{{ -9223372036854775807 - 2 }}", "integer overflow in -"},
        {"{{ 3037000500 * 3037000500 }}", "integer overflow in *"},
        {"{{ 10 ** 19 }}", "integer overflow in **"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", "integer overflow"},
        {"{{ (-9223372036854775807 - 1) | abs }}", "integer overflow"},
        {"{{ 9223372036854775808 }}", "too large"},
        {"{{ 10.0 ** 400 }}", "too large"},
        {"{{ 'x' | center(10**9) }}", "e"},
        {"{{ 'x' | indent(10**9, true) }}", "steps"},
        {"{{ ('a' * 1000000).replace('', 'b' * 1000) }}", "e"},
        {"{{ [1] | batch(10**12, 0) | list }}", "e"},
        {"{{ {'a': 1} | tojson(indent=10**9) }}", "steps"},
        {"{{ ''.__class__.__mro__ }}", "no attribute '__class__'"},
        {"{{ namespace.__init__.__globals__ }}", "no attribute '__init__'"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++)
        expect_refused(rows[i][0], rows[i][1]);
}

static void bounded_source(void **state) {
    (void)state;
    static const struct {
        const char *head, *middle;
        size_t n;
        const char *tail, *part;
    } rows[] = {
        {"{{ ", "(", 100000, "1", "levels deep"},
        {"{{ ", "[", 120, "1", "levels deep"},
        {"{{ ", "not ", 100000, "1 }}", "levels deep"},
        {"{{ ", "-", 100000, "1 }}", "levels deep"},
        {"", "{% if x %}", 100000, "", "levels deep"},
        {"{{ 1", " + 1", 100000, " }}", "too large"},
        {"{{ 1", " + 1", 2000, " }}", "nested too deeply"},
        {"{{ x", ".x", 2000, " }}", "nested too deeply"},
        {"{{ 1", " if 1 else 1", 50000, " }}", "levels deep"},
        {"", "{{ 1 }}", 100000, "", "too large"},
        {"{# ", "x", 2000000, "#}", "limit"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        char *s = repeat(rows[i].head, rows[i].middle, rows[i].n, rows[i].tail);
        expect_refused(s, rows[i].part);
        free(s);
    }
    /* Not UTF-8, and every beginning of a template. */
    result r = render("{{ '\xff' }}");
    assert_int_equal(r.err, MLXD_ERR_DATA);
    static const char all[] =
        "{%- for k, v in {'a': [1, 2.5][::-1]}.items() if v is not none -%}\n"
        "{# c #}{{ k ~ v | join('x') | upper if loop.first else \"\\u00e9\" }}"
        "{% raw %}{{{% endraw %}{% endfor %}";
    for (size_t n = 0; n < sizeof all; n++) {
        r = render_with((mlxd_slice){(const uint8_t *)all, n}, NULL);
        assert_int_not_equal(r.err, MLXD_ERR_INVALID);
        drop(&r);
    }
}

/* Keys that collide, long strings that are searched: work is counted, not only nodes. */
static void work_is_counted(void **state) {
    (void)state;
    expect_refused("{% set s = 'a' * 10000000 %}{% for i in range(99999) %}"
                   "{% if 'b' in s %}{% endif %}{% endfor %}",
                   "steps");
    expect_refused("{% set s = 'a' * 10000000 %}{% for i in range(99999) %}"
                   "{% if s == s ~ '' %}{% endif %}{% endfor %}",
                   "e");
    expect_refused("{% set s = '\xc3\xa9' * 1000000 %}{% for i in range(99999) %}"
                   "{% if s[-1] %}{% endif %}{% endfor %}",
                   "steps");
}

/* ---- trust ---- */

static void text_keeps_its_marks(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"<s>{{ theirs }}</s>", "<s>[<|them|>]</s>"},
        {"{{ ours }}{{ theirs }}{{ 'x' }}", "<|us|>[<|them|>]x"},
        {"{{ ours + theirs + ours }}", "<|us|>[<|them|>]<|us|>"},
        {"{{ '<|' ~ theirs[2:6] ~ '|>' }}", "<|[them]|>"},
        {"{{ (ours ~ theirs)[4:10] }}", "|>[<|th]"},
        {"{{ (ours ~ theirs)[::-1] }}", "[>|meht|<]>|su|<"},
        {"{{ (ours ~ theirs) | upper }}", "<|US|>[<|THEM|>]"},
        {"{{ (' ' ~ ours ~ theirs ~ ' ') | trim }}", "<|us|>[<|them|>]"},
        {"{{ theirs.replace('them', 'me') }}", "[<|]me[|>]"},
        {"{{ 'a,b'.replace(',', theirs) }}", "a[<|them|>]b"},
        {"{{ (ours ~ ',' ~ theirs).split(',')[1] }}", "[<|them|>]"},
        {"{{ [ours, theirs] | join('-') }}", "<|us|>-[<|them|>]"},
        {"{{ theirs | tojson }}", "[\"<|them|>\"]"},
        {"{{ [ours] | tojson }}", "[[\"]<|us|>[\"]]"},
        {"{{ [theirs, 1] }}", "[['<|them|>', ]1[]]"},
        {"{{ theirs | indent(2, true) }}", "  [<|them|>]"},
        {"{{ theirs * 2 }}", "[<|them|><|them|>]"},
        {"{{ '{} {}'.format(ours, theirs) }}", "<|us|> [<|them|>]"},
        {"{% set x %}a{{ theirs }}b{% endset %}{{ x }}{{ x | length }}", "a[<|them|>]b10"},
        {"{% macro m(v) %}<{{ v }}>{% endmacro %}{{ m(theirs) }}", "<[<|them|>]>"},
        {"{% for c in theirs[:2] ~ ours[:2] %}{{ c }}{% endfor %}", "[<|]<|"},
        {"{% filter lower %}A{{ theirs | upper }}{% endfilter %}", "a[<|them|>]"},
        {"{{ theirs | title }}{{ theirs | safe }}{{ theirs | string }}",
         "[<|them|><|them|><|them|>]"},
        {"{{ {theirs: 1} | tojson }}", "[{\"<|them|>\": ]1[}]"},
        {"{{ theirs.split('|') | first }}{{ theirs.strip('<') }}", "[<|them|>]"},
        {"{{ ('x' ~ theirs) | replace('x', ours) }}", "<|us|>[<|them|>]"},
        {"{{ 1 }}{{ true }}{{ none }}{{ 1.5 }}{{ undefined_thing }}", "1TrueNone1.5"},
        {"{{ theirs | escape }}", "[&lt;|them|&gt;]"},
    };
    for (size_t i = 0; i < MLXD_COUNT_OF(rows); i++) {
        result r = render(rows[i][0]);
        if (r.err)
            fail_msg("%s: %s", rows[i][0], r.why.text);
        if (strcmp(mlxd_buf_str(&r.marked), rows[i][1]) != 0)
            fail_msg("%s: expected %s, got %s", rows[i][0], rows[i][1], mlxd_buf_str(&r.marked));
        drop(&r);
    }
}

static void json_numbers_that_do_not_fit(void **state) {
    (void)state;
    mlxd_json_doc *doc;
    assert_int_equal(
        mlxd_json_parse(&doc, mlxd_slice_str("{\"x\":[18446744073709551616,1e3,-0.0]}"), 2, NULL),
        MLXD_OK);
    result r = render_with(mlxd_slice_str("{{ x | tojson }}"), mlxd_json_root(doc));
    assert_string_equal(mlxd_buf_str(&r.text), "[1.8446744073709552e+19, 1000.0, -0.0]");
    drop(&r);
    mlxd_json_close(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_jinja2),         cmocka_unit_test(own_ways),
        cmocka_unit_test(errors_name_the_place), cmocka_unit_test(bounded_time_and_memory),
        cmocka_unit_test(bounded_source),        cmocka_unit_test(work_is_counted),
        cmocka_unit_test(text_keeps_its_marks),  cmocka_unit_test(json_numbers_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
