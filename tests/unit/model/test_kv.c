/* test_kv.c - the KV cache against a reference that keeps whole transcripts and no pages. */
#include "../../support/random.h"

#include "base/mem.h"
#include "model/kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LAYERS 2
#define SLOTS (2 * MLXD_LIMIT_SESSIONS) /* as in kv.c */

static const mlxd_config config = {.kv_heads = 2, .head_dim = 4};

static mlxd_kv *open_kv(uint32_t pages) {
    mlxd_kv *kv;
    mlxd_why why = {0};
    if (mlxd_kv_open(&kv, &config, LAYERS, pages, &why))
        fail_msg("%s", why.text);
    return kv;
}

static uint64_t hash_of(const int32_t *tokens, uint32_t n) {
    uint64_t h = mlxd_kv_hash_init();
    for (uint32_t i = 0; i < n; i++)
        h = mlxd_kv_hash_add(h, tokens[i]);
    return h;
}

static mlxd_err begin(mlxd_kv *kv, uint64_t id, uint32_t position, const int32_t *tokens,
                      uint32_t count) {
    mlxd_kv_session *s;
    return mlxd_kv_begin(kv, id, position, hash_of(tokens, position), tokens + position, count, &s,
                         NULL);
}

/* ---- the reference ---- */

#define SESSIONS 12
#define LENGTH_MAX 500

struct ref {
    uint64_t id;
    uint32_t length;
    int32_t tokens[LENGTH_MAX];
    uint16_t mark[LENGTH_MAX / MLXD_PAGE + 1]; /* written into each page when it was taken */
};

static uint32_t ref_pages(const struct ref *r, size_t n) {
    uint32_t pages = 0;
    for (size_t i = 0; i < n; i++)
        pages += (r[i].length + MLXD_PAGE - 1) / MLXD_PAGE;
    return pages;
}

/* Each corner of a page: first and last value of K and V of every layer and head. */
static void each_corner(mlxd_kv *kv, const mlxd_kv_session *s, uint32_t page, uint16_t mark,
                        bool write) {
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t head = 0; head < config.kv_heads; head++) {
            uint16_t *planes[] = {mlxd_kv_k(kv, s, layer, page, head),
                                  mlxd_kv_v(kv, s, layer, page, head)};
            for (uint16_t i = 0; i < 2; i++) {
                uint16_t *last = planes[i] + config.head_dim * MLXD_PAGE - 1;
                uint16_t want = (uint16_t)(mark + layer * 4 + head * 2 + i);
                if (write)
                    *planes[i] = *last = want;
                if (*planes[i] != want || *last != want)
                    fail_msg("page %u belongs to two sessions", page);
            }
        }
}

/* One random step; returns what the cache should say to it. */
static mlxd_err expect(const struct ref *r, const struct ref *all, uint32_t pages_max,
                       uint32_t position, bool right_hash, uint32_t count) {
    if (position > r->length)
        return MLXD_ERR_RANGE;
    if (!right_hash)
        return MLXD_ERR_STATE;
    struct ref cut = *r;
    cut.length = position + count;
    uint32_t others = ref_pages(all, SESSIONS) - ref_pages(r, 1);
    return others + ref_pages(&cut, 1) > pages_max ? MLXD_ERR_FULL : MLXD_OK;
}

static void random_begin(random_state *rng, mlxd_kv *kv, struct ref *all, struct ref *r) {
    uint32_t position = r->length, count = 1 + random_below(rng, random_below(rng, 3) ? 5 : 150);
    if (random_below(rng, 4) == 0 || position == LENGTH_MAX) /* a repeated step, or a gap */
        position = random_below(rng, MLXD_MIN(r->length + 3, LENGTH_MAX));
    count = MLXD_MIN(count, LENGTH_MAX - position);
    bool right_hash = random_below(rng, 10) > 0;
    int32_t tokens[150] = {0};
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = (int32_t)random_below(rng, 3); /* alike, so that prefixes repeat */
    uint64_t hash = hash_of(r->tokens, MLXD_MIN(position, r->length));
    mlxd_why why = {0};
    mlxd_kv_session *s;
    mlxd_err want = expect(r, all, mlxd_kv_pages_max(kv), position, right_hash, count);
    mlxd_err got =
        mlxd_kv_begin(kv, r->id, position, right_hash ? hash : hash ^ 1, tokens, count, &s, &why);
    if (got != want)
        fail_msg("position %u of %u, %u tokens: %s, expected %s (%s)", position, r->length, count,
                 mlxd_err_name(got), mlxd_err_name(want), why.text);
    if (got)
        return;
    memcpy(r->tokens + position, tokens, count * sizeof *tokens);
    r->length = position + count;
    for (uint32_t p = (position + MLXD_PAGE - 1) / MLXD_PAGE; p * MLXD_PAGE < r->length; p++) {
        r->mark[p] = (uint16_t)random_u64(rng);
        each_corner(kv, s, p, r->mark[p], true);
    }
}

/* Pages that a session has kept still hold what was written into them. Begins at the end of the
 * session, which changes nothing but needs a free place, and cuts back. */
static void check_pages(mlxd_kv *kv, struct ref *r) {
    mlxd_kv_session *s;
    int32_t token = 0;
    if (r->length == 0 ||
        mlxd_kv_begin(kv, r->id, r->length, hash_of(r->tokens, r->length), &token, 1, &s, NULL))
        return;
    for (uint32_t p = 0; p * MLXD_PAGE < r->length; p++)
        each_corner(kv, s, p, r->mark[p], false);
    mlxd_kv_truncate(kv, r->id, r->length);
}

static void check_counts(mlxd_kv *kv, const struct ref *all) {
    uint32_t sessions = 0;
    for (size_t i = 0; i < SESSIONS; i++)
        sessions += all[i].length > 0;
    assert_int_equal(mlxd_kv_session_count(kv), sessions);
    assert_int_equal(mlxd_kv_pages_used(kv), ref_pages(all, SESSIONS));
}

static void it_behaves_like_the_reference(void **state) {
    random_state rng = random_open("kv");
    static struct ref all[SESSIONS];
    (void)state;
    for (int round = 0; round < 12; round++) {
        mlxd_kv *kv = open_kv(1 + random_below(&rng, 40));
        memset(all, 0, sizeof all);
        for (size_t i = 0; i < SESSIONS; i++)
            all[i].id = round % 2 ? i : random_u64(&rng);
        for (int i = 0; i < 3000; i++) {
            struct ref *r = &all[random_below(&rng, SESSIONS)];
            uint32_t what = random_below(&rng, 100);
            if (what < 80) {
                random_begin(&rng, kv, all, r);
            } else if (what < 90) {
                uint32_t to = random_below(&rng, r->length + 5);
                mlxd_kv_truncate(kv, r->id, to);
                r->length = MLXD_MIN(r->length, to);
            } else if (what < 99) {
                mlxd_kv_drop(kv, r->id);
                r->length = 0;
            } else {
                mlxd_kv_drop_all(kv);
                for (size_t j = 0; j < SESSIONS; j++)
                    all[j].length = 0;
            }
            check_counts(kv, all);
            check_pages(kv, &all[random_below(&rng, SESSIONS)]);
            check_counts(kv, all);
        }
        mlxd_kv_close(kv);
    }
}

/* ---- single properties ---- */

static void other_tokens_are_refused(void **state) {
    int32_t tokens[200], other[200];
    mlxd_kv *kv = open_kv(8);
    mlxd_kv_session *s;
    mlxd_why why;
    (void)state;
    for (int i = 0; i < 200; i++)
        other[i] = tokens[i] = i;
    assert_int_equal(begin(kv, 5, 0, tokens, 130), MLXD_OK);
    for (uint32_t at = 0; at < 130; at++) { /* one other token, anywhere before */
        other[at] = -1;
        assert_int_equal(mlxd_kv_begin(kv, 5, 130, hash_of(other, 130), tokens + 130, 1, &s, &why),
                         MLXD_ERR_STATE);
        other[at] = tokens[at];
    }
    assert_non_null(strstr(why.text, "session 5"));
    assert_int_equal(mlxd_kv_begin(kv, 5, 0, 0, tokens, 1, &s, &why), MLXD_ERR_STATE);
    assert_int_equal(begin(kv, 5, 131, tokens, 1), MLXD_ERR_RANGE);
    assert_int_equal(begin(kv, 6, 1, tokens, 1), MLXD_ERR_RANGE);
    assert_int_equal(mlxd_kv_pages_used(kv), 3);
    /* A repeated step with other tokens cuts the session back and gives it another history. */
    other[64] = -7;
    assert_int_equal(mlxd_kv_begin(kv, 5, 64, hash_of(tokens, 64), other + 64, 10, &s, &why),
                     MLXD_OK);
    assert_int_equal(mlxd_kv_pages_used(kv), 2);
    assert_int_equal(begin(kv, 5, 74, tokens, 1), MLXD_ERR_STATE);
    assert_int_equal(begin(kv, 5, 74, other, 1), MLXD_OK);
    mlxd_kv_close(kv);
}

static void hashes_differ(void **state) {
    int32_t a[] = {1, 2, 3}, b[] = {1, 3, 2}, zeros[3] = {0};
    (void)state;
    assert_true(hash_of(a, 3) != hash_of(b, 3));
    assert_true(hash_of(a, 2) != hash_of(a, 3));
    for (uint32_t i = 0; i < 3; i++) /* a zero counts */
        assert_true(hash_of(zeros, i) != hash_of(zeros, i + 1));
    assert_true(mlxd_kv_hash_add(7, -1) != mlxd_kv_hash_add(7, 0));
}

static void full_changes_nothing(void **state) {
    int32_t tokens[64 * 6] = {0};
    mlxd_kv *kv = open_kv(4);
    (void)state;
    assert_int_equal(begin(kv, 1, 0, tokens, 128), MLXD_OK);
    assert_int_equal(begin(kv, 2, 0, tokens, 64), MLXD_OK);
    assert_int_equal(begin(kv, 3, 0, tokens, 65), MLXD_ERR_FULL); /* no trace of session 3 */
    assert_int_equal(mlxd_kv_session_count(kv), 2);
    assert_int_equal(begin(kv, 2, 64, tokens, 65), MLXD_ERR_FULL);
    assert_int_equal(begin(kv, 2, 0, tokens, 64 * 5), MLXD_ERR_FULL); /* more than there is */
    assert_int_equal(begin(kv, 2, 0, tokens, UINT32_MAX), MLXD_ERR_FULL);
    assert_int_equal(mlxd_kv_pages_used(kv), 3);
    /* Session 2 has kept its tokens; its own pages count as free when it is cut back. */
    assert_int_equal(begin(kv, 2, 64, tokens, 64), MLXD_OK);
    assert_int_equal(begin(kv, 2, 128, tokens, 1), MLXD_ERR_FULL);
    assert_int_equal(begin(kv, 2, 0, tokens, 128), MLXD_OK);
    mlxd_kv_drop(kv, 1);
    assert_int_equal(begin(kv, 2, 0, tokens, 64 * 4), MLXD_OK);
    assert_int_equal(mlxd_kv_pages_used(kv), 4);
    mlxd_kv_truncate(kv, 2, 0);
    assert_int_equal(mlxd_kv_session_count(kv), 0);
    assert_int_equal(mlxd_kv_pages_used(kv), 0);
    mlxd_kv_close(kv);
}

/* All sessions there can be, with ids that share their places in the table. */
static void as_many_sessions_as_there_can_be(void **state) {
    random_state rng = random_open("sessions");
    static uint64_t ids[MLXD_LIMIT_SESSIONS];
    static uint32_t length[MLXD_LIMIT_SESSIONS];
    int32_t tokens[100] = {0};
    mlxd_kv *kv = open_kv(2 * MLXD_LIMIT_SESSIONS);
    (void)state;
    uint64_t id = random_u64(&rng);
    for (size_t n = 0; n < MLXD_LIMIT_SESSIONS; id++) {
        size_t home = mlxd_kv_hash_add(id, 0) % SLOTS;
        if (home < 20 || home > SLOTS - 20) /* long chains, around the table's end */
            ids[n++] = id;
    }
    for (size_t i = 0; i < MLXD_LIMIT_SESSIONS; i++)
        assert_int_equal(begin(kv, ids[i], 0, tokens, length[i] = 1 + i % 70), MLXD_OK);
    assert_int_equal(begin(kv, 1, 0, tokens, 1), MLXD_ERR_FULL);
    assert_int_equal(mlxd_kv_session_count(kv), MLXD_LIMIT_SESSIONS);
    for (int round = 0; round < 20000; round++) {
        size_t i = random_below(&rng, MLXD_LIMIT_SESSIONS);
        if (length[i] == 0) {
            assert_int_equal(begin(kv, ids[i], 0, tokens, length[i] = 1), MLXD_OK);
        } else if (random_below(&rng, 2)) {
            mlxd_kv_drop(kv, ids[i]);
            length[i] = 0;
        }
        size_t j = random_below(&rng, MLXD_LIMIT_SESSIONS); /* is still found, as it was */
        if (length[j])
            assert_int_equal(begin(kv, ids[j], length[j] + 1, tokens, 1), MLXD_ERR_RANGE);
        if (length[j])
            assert_int_equal(begin(kv, ids[j], length[j] - 1, tokens, 1), MLXD_OK);
        else
            assert_int_equal(begin(kv, ids[j], 1, tokens, 1), MLXD_ERR_RANGE);
    }
    uint32_t alive = 0;
    for (size_t i = 0; i < MLXD_LIMIT_SESSIONS; i++)
        alive += length[i] > 0;
    assert_int_equal(mlxd_kv_session_count(kv), alive);
    mlxd_kv_drop_all(kv);
    assert_int_equal(mlxd_kv_pages_used(kv), 0);
    assert_int_equal(begin(kv, ids[0], 1, tokens, 1), MLXD_ERR_RANGE);
    mlxd_kv_close(kv);
}

/* A session that has begun costs no allocation any more, however long it becomes. */
static void a_step_does_not_allocate(void **state) {
    int32_t tokens[64 * 8] = {0};
    mlxd_kv *kv = open_kv(16);
    (void)state;
    assert_int_equal(begin(kv, 1, 0, tokens, 1), MLXD_OK);
    assert_int_equal(begin(kv, 2, 0, tokens, 1), MLXD_OK);
    uint64_t before = mlxd_mem_count();
    for (uint32_t at = 1; at < 64 * 8; at++) {
        assert_int_equal(begin(kv, 1, at, tokens, 1), MLXD_OK);
        assert_int_equal(begin(kv, 2, at, tokens, 1), MLXD_OK);
    }
    assert_int_equal(mlxd_mem_count(), before);
    mlxd_kv_close(kv);
}

static void sizes(void **state) {
    mlxd_kv *kv;
    mlxd_why why = {0};
    (void)state;
    assert_int_equal(mlxd_kv_page_bytes(&config, 3), 3 * 2 * 2 * 4 * 64 * 2);
    assert_int_equal(mlxd_kv_pages(0), 0);
    assert_int_equal(mlxd_kv_pages(1), 1);
    assert_int_equal(mlxd_kv_pages(64), 1);
    assert_int_equal(mlxd_kv_pages(65), 2);
    mlxd_config huge = {.kv_heads = MLXD_LIMIT_HEADS, .head_dim = MLXD_LIMIT_HEAD_DIM};
    assert_int_equal(mlxd_kv_open(&kv, &huge, MLXD_LIMIT_LAYERS, UINT32_MAX, &why), MLXD_ERR_NOMEM);
    assert_non_null(strstr(why.text, "KV cache"));
    mlxd_kv_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_behaves_like_the_reference),
        cmocka_unit_test(other_tokens_are_refused),
        cmocka_unit_test(hashes_differ),
        cmocka_unit_test(full_changes_nothing),
        cmocka_unit_test(as_many_sessions_as_there_can_be),
        cmocka_unit_test(a_step_does_not_allocate),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
