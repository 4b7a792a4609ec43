/* test_step.c - micro-batches: rows are added, left out and cut to what is wanted, and the tokens
 * and hidden states of the others stay theirs. */
#include "../../support/random.h"

#include "backend/stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define WIDTH 3

/* Token t of session s, and its hidden state. */
static int32_t token_of(uint64_t s, uint32_t t) {
    return (int32_t)(s * 1000 + t);
}

static float state_of(uint64_t s, uint32_t t, uint32_t i) {
    return (float)(s * 10000 + t * 10 + i);
}

static bool add(mlxd_step *s, uint64_t session, uint32_t n, uint32_t n_out) {
    int32_t tokens[64];
    for (uint32_t t = 0; t < n; t++)
        tokens[t] = token_of(session, t);
    mlxd_row row = {.session = session,
                    .prefix_hash = session * 7,
                    .position = (uint32_t)session * 3,
                    .n_tokens = n,
                    .n_out = n_out,
                    .tokens = tokens};
    uint32_t at = s->n_tokens;
    /* Any pointer tells generations apart. */
    if (!mlxd_step_add(s, &row, n_out ? (mlxd_generation *)(uintptr_t)(session + 1) : NULL))
        return false;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < WIDTH; i++)
            s->hidden[(at + t) * WIDTH + i] = state_of(session, t, i);
    return true;
}

/* The step holds exactly these sessions; `compact`: only wanted states. */
static void check(const mlxd_step *s, const uint64_t *sessions, const uint32_t *n,
                  const uint32_t *n_out, uint32_t count, bool compact) {
    uint32_t tokens = 0, states = 0;
    assert_int_equal(s->n_rows, count);
    for (uint32_t r = 0; r < count; r++) {
        const mlxd_row *row = &s->rows[r];
        assert_true(row->session == sessions[r] && row->n_tokens == n[r] && row->n_out == n_out[r]);
        assert_true(row->prefix_hash == sessions[r] * 7 && row->position == sessions[r] * 3);
        assert_ptr_equal(row->tokens, s->tokens + tokens);
        assert_int_equal((uintptr_t)s->generations[r], n_out[r] ? sessions[r] + 1 : 0);
        for (uint32_t t = 0; t < n[r]; t++)
            assert_int_equal(row->tokens[t], token_of(sessions[r], t));
        for (uint32_t t = compact ? n[r] - n_out[r] : 0; t < n[r]; t++, states++)
            for (uint32_t i = 0; i < WIDTH; i++)
                assert_true(s->hidden[states * WIDTH + i] == state_of(sessions[r], t, i));
        tokens += n[r];
    }
    assert_int_equal(s->n_tokens, tokens);
    assert_int_equal(s->n_hidden, states);
}

static bool in_set(void *ctx, uint64_t session) {
    return *(uint64_t *)ctx >> session & 1;
}

static void rows_come_and_go(void **state) {
    random_state rng = random_open("step");
    mlxd_step *s = mlxd_step_open(8, 60, WIDTH);
    (void)state;
    assert_non_null(s);
    for (int round = 0; round < 1000; round++) {
        uint64_t sessions[8], gone;
        uint32_t n[8], n_out[8], count = 0, tokens = 0;
        mlxd_step_clear(s);
        for (uint64_t id = 0; id < 10; id++) {
            uint32_t want = 1 + random_below(&rng, random_below(&rng, 4) ? 6 : 40);
            uint32_t out = random_below(&rng, 2) ? random_below(&rng, want + 1) : 0;
            bool fits = count < 8 && tokens + want <= 60;
            assert_int_equal(add(s, id, want, out), fits);
            if (fits) {
                sessions[count] = id;
                n[count] = want;
                n_out[count++] = out;
                tokens += want;
            }
        }
        check(s, sessions, n, n_out, count, false);
        for (int i = 0; i < 2; i++) { /* twice: after a step was cut, and again */
            uint32_t left = 0;
            gone = random_u64(&rng) & random_u64(&rng);
            mlxd_step_remove(s, in_set, &gone);
            for (uint32_t r = 0; r < count; r++)
                if (!(gone >> sessions[r] & 1)) {
                    sessions[left] = sessions[r];
                    n[left] = n[r];
                    n_out[left++] = n_out[r];
                }
            count = left;
            check(s, sessions, n, n_out, count, false);
        }
        mlxd_step_compact(s);
        check(s, sessions, n, n_out, count, true);
    }
    mlxd_step_close(s);
    mlxd_step_close(NULL);
}

static void all_rows_gone(void **state) {
    mlxd_step *s = mlxd_step_open(2, 10, WIDTH);
    uint64_t all = UINT64_MAX;
    (void)state;
    assert_true(add(s, 1, 4, 1) && add(s, 2, 6, 0));
    assert_false(add(s, 3, 1, 0));
    mlxd_step_remove(s, in_set, &all);
    assert_true(s->n_rows == 0 && s->n_tokens == 0 && s->n_hidden == 0);
    mlxd_step_compact(s);
    assert_int_equal(s->n_hidden, 0);
    assert_true(add(s, 3, 10, 10)); /* and there is room again */
    mlxd_step_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_and_go),
        cmocka_unit_test(all_rows_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
