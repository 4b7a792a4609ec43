/* test_bpe.c - merges against the definition ("join the best pair, again and again", quadratic), on
 * random vocabularies; and the promise of n log n, counted in heap steps, not in time. */
#include "model/bpe.h"

#include "mini_gguf.h"

#include <time.h>

typedef struct fixture {
    mlxd_lexicon lexicon;
    mlxd_bpe bpe;
} fixture;

/* The vocabulary's merged tokens and merges, without a file between. */
static void open_bpe(fixture *f, const mini_vocab *v) {
    mlxd_why why = {{0}};
    mlxd_token_def defs[MINI_TOKENS];
    mlxd_lexicon_style style = {.where = "test", .byte_alphabet = true};
    for (size_t i = 0; i < v->n_tokens; i++)
        defs[i] = (mlxd_token_def){mlxd_slice_str(v->tokens[i]), (mlxd_token_type)v->types[i],
                                   v->types[i] == MLXD_TOKEN_NORMAL};
    mlxd_err err = mlxd_lexicon_init(&f->lexicon, defs, v->n_tokens, &style, &why);
    if (!err)
        err = mlxd_bpe_init(&f->bpe, &f->lexicon, v->n_merges, &why);
    for (size_t i = 0; i < v->n_merges && !err; i++) {
        const char *blank = strchr(v->merges[i], ' ');
        mlxd_bpe_rule rule = {{(const uint8_t *)v->merges[i], (size_t)(blank - v->merges[i])},
                              mlxd_slice_str(blank + 1),
                              (uint32_t)i};
        err = mlxd_bpe_add(&f->bpe, rule, false, &why);
    }
    if (err)
        fail_msg("%s", why.text);
}

static void close_bpe(fixture *f) {
    mlxd_bpe_deinit(&f->bpe);
    mlxd_lexicon_deinit(&f->lexicon);
}

/* ---- the definition ---- */

typedef struct rule {
    char left[32], right[32];
} rule;

static bool is_text(mlxd_slice piece, const char *text) {
    return mlxd_slice_eq(piece, mlxd_slice_str(text));
}

/* Pieces of `word` after all merges; returns how many. */
static size_t merge_by_definition(const rule *rules, size_t n_rules, const char *word,
                                  mlxd_slice *pieces) {
    size_t n = strlen(word);
    for (size_t i = 0; i < n; i++)
        pieces[i] = (mlxd_slice){(const uint8_t *)word + i, 1};
    for (;;) {
        size_t best = n_rules, where = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t r = 0; r < best; r++)
                if (is_text(pieces[i], rules[r].left) && is_text(pieces[i + 1], rules[r].right)) {
                    best = r;
                    where = i;
                }
        if (best == n_rules)
            return n;
        pieces[where].len += pieces[where + 1].len;
        n--;
        for (size_t i = where + 1; i < n; i++)
            pieces[i] = pieces[i + 1];
    }
}

static size_t random_rules(unsigned *seed, mini_vocab *v, rule *rules, size_t wanted) {
    char known[128][32] = {"a", "b", "c"};
    size_t n_known = 3, n = 0;
    for (size_t tries = 0; n < wanted && tries < 500; tries++) {
        rule r;
        strcpy(r.left, known[(size_t)rand_r(seed) % n_known]);
        strcpy(r.right, known[(size_t)rand_r(seed) % n_known]);
        bool there = strlen(r.left) + strlen(r.right) > 12;
        for (size_t i = 0; i < n; i++)
            there |= !strcmp(rules[i].left, r.left) && !strcmp(rules[i].right, r.right);
        if (there)
            continue;
        mini_merge(v, r.left, r.right); /* several rules may make the same token */
        char joined[64];
        snprintf(joined, sizeof joined, "%s%s", r.left, r.right);
        bool seen = false;
        for (size_t i = 0; i < n_known; i++)
            seen |= !strcmp(known[i], joined);
        if (!seen)
            strcpy(known[n_known++], joined);
        rules[n++] = r;
    }
    return n;
}

static void equals_the_definition(void **state) {
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int round = 0; round < 200; round++) {
        mini_vocab *v = mini_vocab_new("smollm");
        rule rules[60];
        size_t n_rules = random_rules(&seed, v, rules, 1 + (size_t)rand_r(&seed) % 60);
        fixture f;
        open_bpe(&f, v);
        mlxd_bpe_work work = {0};
        for (int words = 0; words < 50; words++) {
            char word[128];
            mlxd_slice pieces[128];
            size_t len = (size_t)rand_r(&seed) % 120;
            for (size_t i = 0; i < len; i++)
                word[i] = (char)('a' + rand_r(&seed) % 3);
            word[len] = 0;
            size_t n = merge_by_definition(rules, n_rules, word, pieces);
            mlxd_tokens ids = {0};
            assert_int_equal(mlxd_bpe_encode(&f.bpe, &work, mlxd_slice_str(word), 0, &ids),
                             MLXD_OK);
            assert_int_equal(ids.count, n);
            for (size_t i = 0; i < n; i++)
                assert_true(mlxd_slice_eq(mlxd_lexicon_text(&f.lexicon, ids.ids[i]), pieces[i]));
            mlxd_tokens_deinit(&ids);
        }
        mlxd_bpe_work_deinit(&work);
        close_bpe(&f);
        free(v);
    }
}

/* ---- the promise ---- */

static uint64_t steps_for(const fixture *f, const char *unit, size_t n) {
    char *text = malloc(n);
    size_t unit_len = strlen(unit);
    for (size_t i = 0; i < n; i++)
        text[i] = unit[i % unit_len];
    mlxd_bpe_work work = {0};
    mlxd_tokens ids = {0};
    clock_t begin = clock();
    assert_int_equal(mlxd_bpe_encode(&f->bpe, &work, (mlxd_slice){(uint8_t *)text, n}, 0, &ids),
                     MLXD_OK);
    if (n == 1u << 20)
        print_message("1 MiB of \"%s\" as one word: %zu ids, %.0f ms\n", unit, ids.count,
                      1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    uint64_t steps = work.heap_steps;
    mlxd_tokens_deinit(&ids);
    mlxd_bpe_work_deinit(&work);
    free(text);
    return steps;
}

static void hostile_words_cost_n_log_n(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    char piece[65] = "";
    for (size_t n = 1; n <= 32; n *= 2) { /* a, aa, aaaa ... 64 of them */
        memset(piece, 'a', n);
        piece[n] = 0;
        mini_merge(v, piece, piece);
    }
    mini_merge(v, "a", "b");
    mini_merge(v, "ab", "ab");
    mini_merge(v, "c", "ab"); /* competes with the one before */
    for (const char *s = "xyz"; *s; s++)
        mini_merge(v, (char[]){*s, 0}, (char[]){*s, 0});
    fixture f;
    open_bpe(&f, v);
    static const char *const units[] = {"a", "ab", "cab", "abcabab", "xyz", "xxyyzz", "q"};
    for (size_t i = 0; i < MLXD_COUNT_OF(units); i++) {
        for (size_t n = 1u << 14; n < 1u << 20; n *= 2) {
            uint64_t once = steps_for(&f, units[i], n), twice = steps_for(&f, units[i], 2 * n);
            if (once == 0) /* nothing to merge */
                assert_int_equal(twice, 0);
            else
                assert_true((double)twice / (double)once <= 2.3);
        }
    }
    close_bpe(&f);
    free(v);
}

static void a_bound_is_seen_before_any_work(void **state) {
    (void)state;
    mini_vocab *v = mini_vocab_new("smollm");
    mini_merge(v, "a", "a");
    mini_merge(v, "aa", "aa"); /* the longest token has 4 bytes */
    fixture f;
    open_bpe(&f, v);
    char *text = malloc(1u << 20);
    memset(text, 'a', 1u << 20);
    mlxd_bpe_work work = {0};
    mlxd_tokens ids = {0};
    mlxd_slice word = {(uint8_t *)text, 1u << 20};
    uint64_t allocations = mlxd_mem_count();
    assert_int_equal(mlxd_bpe_encode(&f.bpe, &work, word, (1u << 18) - 1, &ids), MLXD_ERR_RANGE);
    assert_int_equal(mlxd_mem_count(), allocations);
    assert_int_equal(mlxd_bpe_encode(&f.bpe, &work, word, 1u << 18, &ids), MLXD_OK);
    assert_int_equal(ids.count, 1u << 18);
    mlxd_tokens_deinit(&ids);
    mlxd_bpe_work_deinit(&work);
    free(text);
    close_bpe(&f);
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_definition),
        cmocka_unit_test(hostile_words_cost_n_log_n),
        cmocka_unit_test(a_bound_is_seen_before_any_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
