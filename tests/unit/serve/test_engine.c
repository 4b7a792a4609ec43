/* test_engine.c - the engine's core, driven by hand: admission, order of work, cancels and losses
 * at every moment, and a long random life in which nothing may ever go wrong. See engine_world.h
 * for what is checked after every event. */
#include "engine_world.h"

static world w;

static const mlxd_engine_params small = {
    .width = 1, .prefill_chunk = 4, .step_tokens = 12, .sessions_max = 3, .queue_max = 4};

static void open_world(uint32_t stages) {
    world_open(&w, &small);
    world_pipeline(&w, stages, 1000, 100);
}

static void complete(uint32_t place) {
    random_state rng = {1};
    world_complete(&w, world_at(&w, place), WORLD_WELL, &rng, 0);
}

static void complete_with(uint32_t place, world_fault fault) {
    random_state rng = {1};
    world_complete(&w, world_at(&w, place), fault, &rng, 0);
}

/* Head, then every stage, then head: one step from its embedding to its draw. */
static void complete_round(void) {
    for (uint32_t i = 0; i <= w.stages; i++)
        complete(i);
    if (w.head.len > 0)
        complete(0);
}

static const mlxd_engine_stats *stats(void) {
    return mlxd_engine_get_stats(w.e);
}

static const world_request *ended(uint64_t id, mlxd_err err) {
    const world_request *q = world_find(&w, id);
    if (q->ended != 1 || q->err != err)
        fail_msg("request %llu: ended %u times, %s (%s), expected %s", (unsigned long long)id,
                 q->ended, mlxd_err_name(q->err), q->why, mlxd_err_name(err));
    return q;
}

static void alive(uint64_t id) {
    assert_int_equal(world_find(&w, id)->ended, 0);
}

/* ---- admission ---- */

static void requests_are_refused_when_nothing_can_serve_them(void **state) {
    (void)state;
    world_open(&w, &small);
    assert_non_null(strstr(ended(world_ask(&w, 1, 1), MLXD_ERR_STATE)->why, "still loading"));
    world_pipeline(&w, 2, 100, 3);
    /* The last token is drawn but never computed on. */
    alive(world_ask(&w, 60, 41));
    const world_request *q = ended(world_ask(&w, 60, 42), MLXD_ERR_RANGE);
    assert_non_null(strstr(q->why, "101 positions do not fit the context of 100"));
    ended(world_ask(&w, 2000, UINT32_MAX / 1024), MLXD_ERR_RANGE);
    world_pipeline(&w, 0, 0, 0);
    /* What was there once may come back: try again. */
    assert_non_null(strstr(ended(world_ask(&w, 1, 1), MLXD_ERR_AGAIN)->why, "mini2 is gone"));
    world_pipeline(&w, 1, 1000, 3); /* the context is longer than the pool */
    ended(world_ask(&w, 150, 50), MLXD_ERR_RANGE);
    alive(world_ask(&w, 150, 43));
    world_stop(&w);
    assert_non_null(strstr(ended(world_ask(&w, 1, 1), MLXD_ERR_STATE)->why, "shutting down"));
    assert_int_equal(stats()->rejected, 0);
    world_close(&w);
}

static void admission_is_by_pages_and_in_order(void **state) {
    (void)state;
    world_open(&w, &small);
    world_pipeline(&w, 1, 1000, 4);
    uint64_t a = world_ask(&w, 100, 2);  /* 2 pages */
    uint64_t b = world_ask(&w, 100, 30); /* 3: does not fit beside a */
    uint64_t c = world_ask(&w, 1, 1);    /* 1: would fit, but b is before it */
    assert_true(stats()->running == 1 && stats()->waiting == 2);
    assert_int_equal(stats()->kv_pages_reserved, 2);
    world_cancel(&w, b);
    ended(b, MLXD_ERR_CANCELLED);
    assert_true(stats()->running == 2 && stats()->waiting == 0);
    assert_int_equal(stats()->kv_pages_reserved, 3);
    world_run(&w);
    ended(a, MLXD_OK);
    ended(c, MLXD_OK);
    assert_true(stats()->succeeded == 2 && stats()->cancelled == 1);
    world_close(&w);
}

static void a_full_queue_refuses(void **state) {
    uint64_t id[8];
    (void)state;
    open_world(1);
    for (int i = 0; i < 7; i++)
        id[i] = world_ask(&w, 1, 2);
    assert_true(stats()->running == 3 && stats()->waiting == 4);
    id[7] = world_ask(&w, 1, 1);
    assert_non_null(strstr(ended(id[7], MLXD_ERR_FULL)->why, "4 requests are waiting already"));
    assert_int_equal(stats()->rejected, 1);
    world_cancel(&w, id[5]); /* from the middle of the queue */
    alive(world_ask(&w, 1, 1));
    world_run(&w);
    for (int i = 0; i < 7; i++)
        ended(id[i], i == 5 ? MLXD_ERR_CANCELLED : MLXD_OK);
    world_close(&w);
}

/* ---- order of work ---- */

static void chunks_of_one_prompt_follow_each_other(void **state) {
    (void)state;
    open_world(3);
    uint64_t a = world_ask(&w, 30, 2);
    assert_int_equal(w.head.len, 3); /* as many chunks as stages */
    assert_int_equal(world_find(&w, a)->submitted, 12);
    complete(0);
    complete(0);
    complete(1);
    assert_true(w.head.len == 1 && w.stage[0].len == 1 && w.stage[1].len == 1);
    assert_int_equal(stats()->in_flight, 3);
    world_run(&w);
    ended(a, MLXD_OK);
    /* 8 chunks of at most 4 tokens, then one decode step: the second token is the last. */
    assert_int_equal(stats()->steps, 9);
    assert_int_equal(stats()->step_tokens, 31);
    assert_int_equal(stats()->generated_tokens, 2);
    assert_int_equal(w.tokens, 1);
    world_close(&w);
}

static void decode_rows_travel_with_prefill(void **state) {
    (void)state;
    open_world(1);
    uint64_t a = world_ask(&w, 2, 20), b = world_ask(&w, 1, 20);
    for (int i = 0; i < 2; i++)
        complete_round();
    assert_true(world_find(&w, a)->n_tokens > 2 && world_find(&w, b)->n_tokens > 1);
    uint64_t c = world_ask(&w, 30, 2);
    complete_round();
    const mlxd_step *s = w.head.work[w.head.head].step;
    assert_int_equal(s->n_rows, 3); /* two that decode, then a chunk */
    assert_true(s->rows[0].n_tokens == 1 && s->rows[1].n_tokens == 1);
    assert_true(s->rows[2].session == c && s->rows[2].n_tokens == 4);
    world_run(&w);
    ended(a, MLXD_OK);
    ended(b, MLXD_OK);
    ended(c, MLXD_OK);
    world_close(&w);
}

/* Sessions are dealt over the stages, so that each has something to do, also when they once shared
 * a step because there was no other. */
static void sessions_are_dealt_over_the_stages(void **state) {
    (void)state;
    open_world(3);
    uint64_t a = world_ask(&w, 30, 5);
    world_ask(&w, 1, 50);
    world_ask(&w, 1, 50);
    for (uint32_t place = 0; place <= 3; place++)
        complete(place); /* the first chunk has landed, the next step takes everybody */
    assert_int_equal(w.head.work[(w.head.head + 2) % WORLD_QUEUE].step->n_rows, 3);
    world_cancel(&w, a);
    for (uint32_t place = 0; stats()->generated_tokens == 0; place = (place + 1) % 4)
        if (world_at(&w, place)->len > 0)
            complete(place);
    assert_int_equal(stats()->generated_tokens, 2);
    assert_int_equal(w.head.len, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(w.head.work[(w.head.head + i) % WORLD_QUEUE].step->n_rows, 1);
    world_run(&w);
    world_close(&w);
}

/* With room for all decode rows beside a chunk nobody waits long, whoever comes and goes. */
static void nobody_starves(void **state) {
    random_state rng = random_open("fairness");
    (void)state;
    for (uint32_t stages = 1; stages <= 4; stages++) {
        mlxd_engine_params p = {.width = 1,
                                .prefill_chunk = 4,
                                .step_tokens = 4 + 12,
                                .sessions_max = 12,
                                .queue_max = 100};
        world_open(&w, &p);
        world_pipeline(&w, stages, 10000, 10000);
        uint64_t waited = 0;
        for (int i = 0; i < 2500; i++) {
            if (stats()->waiting < 3 && w.n_requests < 500)
                world_ask(&w, 1 + random_below(&rng, random_below(&rng, 3) ? 10 : 80),
                          1 + random_below(&rng, 40));
            uint32_t place = random_below(&rng, stages + 1);
            if (world_at(&w, place)->len > 0)
                world_complete(&w, world_at(&w, place), WORLD_WELL, &rng, 30);
            for (uint32_t r = 0; r < w.n_requests; r++) {
                world_request *q = &w.requests[r];
                if (!world_ready(&w, r + 1) || q->served == 0)
                    q->served = w.steps; /* its wait begins when it is ready */
                waited = MLXD_MAX(waited, w.steps - q->served);
            }
        }
        if (waited > 12 + 2 * stages)
            fail_msg("%u stages: a session waited for %llu steps", stages,
                     (unsigned long long)waited);
        assert_true(stats()->succeeded > 20);
        world_close(&w);
    }
}

/* ---- cancels at every moment ---- */

static void cancel_while_a_chunk_is_in_flight(void **state) {
    (void)state;
    for (uint32_t moment = 0; moment < 4; moment++) {
        open_world(2);
        uint64_t a = world_ask(&w, 20, 5), b = world_ask(&w, 3, 2);
        for (uint32_t i = 0; i < moment; i++)
            complete(i % 3);
        world_cancel(&w, a);
        world_cancel(&w, a); /* again: harmless */
        assert_int_equal(w.drops, 2);
        alive(a); /* a step still carries it */
        world_run(&w);
        ended(a, MLXD_ERR_CANCELLED);
        ended(b, MLXD_OK);
        assert_true(world_find(&w, a)->submitted < 20);
        world_close(&w);
    }
}

static void cancel_while_decoding(void **state) {
    (void)state;
    for (uint32_t moment = 0; moment < 4; moment++) { /* embed, stage 0, stage 1, head */
        open_world(2);
        uint64_t a = world_ask(&w, 3, 50);
        for (int i = 0; i < 4; i++)
            complete_round();
        uint32_t n = world_find(&w, a)->n_tokens;
        assert_true(n > 4);
        for (uint32_t i = 0; i < moment; i++)
            complete(i);
        assert_int_equal(w.out, 1);
        uint64_t tokens = w.tokens;
        world_cancel(&w, a);
        alive(a);
        complete(moment == 3 ? 0 : moment); /* where the step is now: it goes no further */
        ended(a, MLXD_ERR_CANCELLED);
        assert_int_equal(w.out, 0);
        assert_int_equal(w.tokens, tokens);
        assert_true(mlxd_engine_idle(w.e));
        world_close(&w);
    }
}

static void cancel_of_what_is_not_there(void **state) {
    (void)state;
    open_world(1);
    uint64_t a = world_ask(&w, 1, 1);
    world_cancel(&w, 4711);
    world_run(&w);
    ended(a, MLXD_OK);
    world_cancel(&w, a); /* has ended */
    assert_int_equal(stats()->cancelled, 0);
    world_close(&w);
}

/* One row of a shared step goes, the others go on. */
static void cancel_leaves_the_others(void **state) {
    (void)state;
    open_world(1);
    uint64_t a = world_ask(&w, 2, 5), b = world_ask(&w, 2, 5), c = world_ask(&w, 2, 5);
    complete_round(); /* a alone: it came first */
    complete(0);
    const mlxd_step *s = w.stage[0].work[w.stage[0].head].step;
    assert_int_equal(s->n_rows, 3);
    world_cancel(&w, b);
    complete(1);
    assert_int_equal(s->n_rows, 2);
    world_run(&w);
    ended(a, MLXD_OK);
    ended(b, MLXD_ERR_CANCELLED);
    ended(c, MLXD_OK);
    world_close(&w);
}

/* ---- failures ---- */

static void a_step_that_fails_ends_those_who_ride_it(void **state) {
    (void)state;
    for (uint32_t place = 0; place < 3; place++) {
        open_world(2);
        uint64_t a = world_ask(&w, 2, 5), b = world_ask(&w, 2, 5);
        if (place > 0)
            complete(0);
        if (place > 1)
            complete(1);
        complete_with(place, WORLD_FAIL);
        assert_non_null(strstr(ended(a, MLXD_ERR_CORRUPT)->why, "fails"));
        alive(b);
        world_run(&w);
        ended(b, MLXD_OK);
        assert_int_equal(stats()->failed, 1);
        world_close(&w);
    }
}

/* A stage is gone and fails one step after the other, before anybody has said so. */
static void two_steps_of_a_session_fail(void **state) {
    (void)state;
    open_world(3);
    uint64_t a = world_ask(&w, 30, 5);
    for (int i = 0; i < 3; i++)
        complete(0);
    assert_int_equal(w.stage[0].len, 3);
    complete_with(1, WORLD_FAIL);
    alive(a);
    complete_with(1, WORLD_FAIL);
    alive(a);
    complete_with(1, WORLD_FAIL);
    ended(a, MLXD_ERR_CORRUPT);
    assert_int_equal(stats()->kv_pages_reserved, 0);
    world_close(&w);
}

static void a_cancelled_step_fails(void **state) {
    (void)state;
    open_world(1);
    uint64_t a = world_ask(&w, 2, 5);
    complete(0);
    world_cancel(&w, a);
    complete_with(1, WORLD_FAIL);
    ended(a, MLXD_ERR_CANCELLED); /* it was cancelled before it failed */
    assert_int_equal(stats()->running, 0);
    world_close(&w);
}

/* A stage may leave out only what was dropped: otherwise a request would wait for ever. */
static void a_stage_that_leaves_a_request_out(void **state) {
    static const world_fault faults[] = {WORLD_LEAVE_OUT, WORLD_GIVE_UP};
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(faults); i++)
        for (uint32_t place = 1; place <= 2; place++) {
            open_world(2);
            uint64_t a = world_ask(&w, 2, 5);
            complete(0);
            if (place == 2)
                complete(1);
            complete_with(place, faults[i]);
            world_run(&w);
            assert_non_null(strstr(ended(a, MLXD_ERR_PEER)->why, "left the request out"));
            uint64_t b = world_ask(&w, 2, 5);
            world_run(&w);
            ended(b, MLXD_OK);
            world_close(&w);
        }
}

static void a_lost_pipeline_ends_everything(void **state) {
    (void)state;
    open_world(3);
    uint64_t a = world_ask(&w, 30, 5), b = world_ask(&w, 2, 5), c = world_ask(&w, 2, 5);
    uint64_t d = world_ask(&w, 2, 5); /* waits */
    complete(0);
    complete(0);
    complete(1);
    uint32_t out = w.out;
    assert_int_equal(out, 3);
    world_pipeline(&w, 0, 0, 0);
    ended(d, MLXD_ERR_PEER);
    assert_non_null(strstr(ended(d, MLXD_ERR_PEER)->why, "mini2 is gone"));
    ended(world_ask(&w, 1, 1), MLXD_ERR_AGAIN);
    /* A new pipeline serves while steps of the old one are still somewhere. */
    world_pipeline(&w, 2, 1000, 100);
    uint64_t e = world_ask(&w, 10, 3);
    assert_int_equal(stats()->in_flight, 2);
    assert_int_equal(w.out, out + 2);
    world_run(&w);
    ended(a, MLXD_ERR_PEER);
    ended(b, MLXD_ERR_PEER);
    ended(c, MLXD_ERR_PEER);
    ended(e, MLXD_OK);
    assert_int_equal(stats()->stale_steps, 3);
    assert_int_equal(stats()->epoch, 3);
    world_close(&w);
}

/* Pipelines come and go while every step of each is still out: none is lost, and the last one gets
 * to work when the first ones have come back. */
static void pipelines_that_change_in_a_row(void **state) {
    (void)state;
    open_world(2);
    for (int i = 0; i < 5; i++) {
        world_ask(&w, 20, 5);
        world_pipeline(&w, 2, 1000, 100);
    }
    uint64_t a = world_ask(&w, 20, 2);
    world_run(&w);
    ended(a, MLXD_OK);
    assert_true(stats()->stale_steps > 0);
    world_close(&w);
}

static void stop_ends_everything(void **state) {
    (void)state;
    open_world(2);
    uint64_t a = world_ask(&w, 20, 5), id[5];
    for (int i = 0; i < 5; i++)
        id[i] = world_ask(&w, 2, 2);
    world_stop(&w);
    ended(id[4], MLXD_ERR_CANCELLED); /* waited */
    assert_false(mlxd_engine_idle(w.e));
    world_run(&w);
    ended(a, MLXD_ERR_CANCELLED);
    assert_true(mlxd_engine_idle(w.e));
    world_close(&w);
}

/* The transcript is full although the head says "go on": the request ends and nothing is written
 * behind its end. */
static void a_head_that_never_stops(void **state) {
    (void)state;
    open_world(1);
    w.endless = true;
    uint64_t a = world_ask(&w, 2, 3);
    world_run(&w);
    ended(a, MLXD_OK);
    assert_int_equal(stats()->generated_tokens, 3);
    world_close(&w);
}

/* ---- a long life ---- */

static uint32_t random_length(random_state *rng, uint32_t most) {
    return 1 + random_below(rng, random_below(rng, 4) ? 12 : most);
}

static void random_event(random_state *rng, uint32_t faults) {
    uint32_t what = random_below(rng, 1000);
    if (what < 120 && w.n_requests < WORLD_REQUESTS - 1) {
        world_ask(&w, random_length(rng, 300), random_length(rng, 200));
    } else if (what < 160 && w.n_requests > 0) {
        uint32_t near = MLXD_MIN(w.n_requests, 20u);
        world_cancel(&w, w.n_requests - random_below(rng, near));
    } else if (what < 160 + faults / 4) {
        world_pipeline(&w, random_below(rng, WORLD_STAGES + 1), 100 + random_below(rng, 400),
                       1 + random_below(rng, 40));
    } else {
        uint32_t place = random_below(rng, WORLD_STAGES + 1);
        bool bad = random_below(rng, 1000) < faults;
        while (w.out > 0 && world_at(&w, place)->len == 0)
            place = (place + 1) % (WORLD_STAGES + 1);
        world_place *p = world_at(&w, place);
        if (p->len > 0)
            world_complete(&w, p, bad ? (world_fault)(1 + random_below(rng, 3)) : WORLD_WELL, rng,
                           20);
    }
}

static void a_random_life(void **state) {
    random_state rng = random_open("engine");
    mlxd_engine_stats total = {0};
    (void)state;
    for (int round = 0; round < 30; round++) {
        uint32_t chunk = 1 + random_below(&rng, 40);
        mlxd_engine_params p = {.width = 1,
                                .prefill_chunk = chunk,
                                .step_tokens = chunk + random_below(&rng, 60),
                                .sessions_max = 1 + random_below(&rng, 20),
                                .queue_max = 1 + random_below(&rng, 20)};
        world_open(&w, &p);
        uint32_t faults = round % 3 == 0 ? 0 : random_below(&rng, 40);
        world_pipeline(&w, 1 + random_below(&rng, WORLD_STAGES), 500, 60);
        for (int i = 0; i < 2500; i++)
            random_event(&rng, faults);
        world_stop(&w);
        world_run(&w);
        const mlxd_engine_stats *s = stats();
        assert_int_equal(s->requests, w.n_requests);
        assert_int_equal(s->succeeded + s->failed + s->cancelled + s->rejected, s->requests);
        total.succeeded += s->succeeded;
        total.failed += s->failed;
        total.cancelled += s->cancelled;
        total.rejected += s->rejected;
        total.stale_steps += s->stale_steps;
        world_close(&w);
    }
    assert_true(total.succeeded > 300 && total.failed > 100 && total.cancelled > 300);
    assert_true(total.rejected > 10 && total.stale_steps > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_refused_when_nothing_can_serve_them),
        cmocka_unit_test(admission_is_by_pages_and_in_order),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(chunks_of_one_prompt_follow_each_other),
        cmocka_unit_test(decode_rows_travel_with_prefill),
        cmocka_unit_test(sessions_are_dealt_over_the_stages),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(cancel_while_a_chunk_is_in_flight),
        cmocka_unit_test(cancel_while_decoding),
        cmocka_unit_test(cancel_of_what_is_not_there),
        cmocka_unit_test(cancel_leaves_the_others),
        cmocka_unit_test(a_step_that_fails_ends_those_who_ride_it),
        cmocka_unit_test(two_steps_of_a_session_fail),
        cmocka_unit_test(a_cancelled_step_fails),
        cmocka_unit_test(a_stage_that_leaves_a_request_out),
        cmocka_unit_test(a_lost_pipeline_ends_everything),
        cmocka_unit_test(pipelines_that_change_in_a_row),
        cmocka_unit_test(stop_ends_everything),
        cmocka_unit_test(a_head_that_never_stops),
        cmocka_unit_test(a_random_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
