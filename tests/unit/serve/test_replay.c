/* test_replay.c - traces: what an engine did is done again, a trace that says otherwise is reported
 * with its line, and a file that is no trace is refused, whatever is in it. */
#include "engine_world.h"

static world w;

static char *text_of(mlxd_buf *b) {
    char *s = mlxd_mem_dup(b->data, b->len);
    assert_non_null(s);
    return s;
}

static mlxd_err replay(const char *text, mlxd_why *why) {
    *why = (mlxd_why){0};
    return mlxd_trace_replay(mlxd_slice_str(text), why);
}

static void expect(const char *text, mlxd_err want, const char *part) {
    mlxd_why why;
    mlxd_err err = replay(text, &why);
    if (err != want || !strstr(why.text, part))
        fail_msg("expected %s \"...%s...\", got %s \"%s\"", mlxd_err_name(want), part,
                 mlxd_err_name(err), why.text);
}

/* The trace of a random life, as text. */
static char *record(random_state *rng, int events, uint32_t faults) {
    mlxd_buf trace;
    mlxd_engine_params p = {.width = 7,
                            .prefill_chunk = 1 + random_below(rng, 30),
                            .step_tokens = 60,
                            .sessions_max = 1 + random_below(rng, 10),
                            .queue_max = 1 + random_below(rng, 10)};
    mlxd_buf_init(&trace, 0);
    w.trace = &trace;
    world_open(&w, &p);
    world_pipeline(&w, 1 + random_below(rng, 4), 500, 60);
    for (int i = 0; i < events; i++) {
        uint32_t what = random_below(rng, 100);
        bool bad = random_below(rng, 100) < faults;
        world_place *place = world_at(&w, random_below(rng, WORLD_STAGES + 1));
        if (what < 12)
            world_ask(&w, 1 + random_below(rng, 100), 1 + random_below(rng, 30));
        else if (what < 15 && w.n_requests > 0)
            world_cancel(&w, 1 + random_below(rng, w.n_requests));
        else if (what < 16 && bad)
            world_pipeline(&w, random_below(rng, 4), 500, 60);
        else if (place->len > 0)
            world_complete(&w, place, bad ? WORLD_FAIL : WORLD_WELL, rng, 10);
    }
    world_close(&w);
    w.trace = NULL;
    char *text = text_of(&trace);
    mlxd_buf_deinit(&trace);
    return text;
}

/* ---- what was recorded ---- */

static void a_recorded_life_replays(void **state) {
    random_state rng = random_open("replay");
    (void)state;
    for (int round = 0; round < 40; round++) {
        char *text = record(&rng, 400, round % 2 ? 5 : 0);
        expect(text, MLXD_OK, "");
        mlxd_mem_free(text);
    }
}

/* A stage that is very slow: thousands of steps of a new pipeline pass by one of the old. */
static void a_step_that_comes_back_very_late(void **state) {
    random_state rng = random_open("late");
    mlxd_engine_params p = {
        .width = 1, .prefill_chunk = 8, .step_tokens = 16, .sessions_max = 2, .queue_max = 4};
    mlxd_buf trace;
    (void)state;
    mlxd_buf_init(&trace, 0);
    w.trace = &trace;
    world_open(&w, &p);
    world_pipeline(&w, 1, 5000, 200);
    world_ask(&w, 5, 5);
    world_complete(&w, &w.head, WORLD_WELL, &rng, 0);
    world_pipeline(&w, 1, 5000, 200); /* the old step stays in the stage */
    world_place old = w.stage[0];
    w.stage[0].len = 0;
    world_ask(&w, 5, 1500);
    while (w.requests[1].ended == 0)
        world_complete(&w, w.head.len > 0 ? &w.head : &w.stage[0], WORLD_WELL, &rng, 0);
    w.stage[0] = old;
    world_close(&w);
    w.trace = NULL;
    char *text = text_of(&trace);
    expect(text, MLXD_OK, "");
    char *last = strstr(text, "\"event\":\"stop\"");
    assert_non_null(last);
    while (*last != '\n')
        last--;
    last[1] = 0; /* cut there: the old step never came back */
    expect(text, MLXD_OK, "");
    mlxd_mem_free(text);
    mlxd_buf_deinit(&trace);
}

/* ---- what was changed ---- */

/* Start of line `n` (from 0) and its length without the line feed. */
static char *line_at(char *text, unsigned n, size_t *len) {
    for (; n > 0; n--)
        text = strchr(text, '\n') + 1;
    *len = strcspn(text, "\n");
    return text;
}

static unsigned count_lines(const char *text) {
    unsigned n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* Removes, doubles or alters one recorded action: reported at the next event or the end, that is
 * behind the changed line and before any other. */
static void a_changed_action_is_reported(void **state) {
    random_state rng = random_open("changed");
    (void)state;
    for (int round = 0; round < 60; round++) {
        char *text = record(&rng, 150, 3), *line;
        unsigned lines = count_lines(text), n, next, reported;
        size_t len, total = strlen(text);
        do
            line = line_at(text, n = 1 + random_below(&rng, lines - 1), &len);
        while (strncmp(line, "{\"act\":", 7) != 0);
        char *changed = mlxd_mem_new(total + len + 2, 1), *at = changed + (line - text);
        memcpy(changed, text, total);
        for (next = n + 1; next < lines; next++) {
            size_t l;
            if (strncmp(line_at(text, next, &l), "{\"act\":", 7) != 0)
                break;
        }
        switch (round % 3) {
        case 0: /* gone */
            memmove(at, at + len + 1, total - (size_t)(line - text) - len);
            next--;
            break;
        case 1: /* twice */
            memmove(at + len + 1, at, total - (size_t)(line - text) + 1);
            next++;
            break;
        default: /* another number */
            at += strcspn(at, "0123456789");
            *at = *at == '9' ? '8' : (char)(*at + 1);
        }
        mlxd_why why;
        mlxd_err err = replay(changed, &why);
        if (err != MLXD_ERR_CORRUPT || sscanf(why.text, "line %u:", &reported) != 1)
            fail_msg("line %u changed: %s \"%s\"", n + 1, mlxd_err_name(err), why.text);
        assert_int_equal(reported, MLXD_MIN(next + 1, count_lines(changed)));
        mlxd_mem_free(changed);
        mlxd_mem_free(text);
    }
}

/* Another event makes the engine act differently, or cannot happen. */
static void a_missing_event_is_reported(void **state) {
    random_state rng = random_open("missing");
    unsigned reported = 0;
    (void)state;
    for (int round = 0; round < 60; round++) {
        char *text = record(&rng, 100, 3), *line;
        unsigned lines = count_lines(text);
        size_t len;
        do
            line = line_at(text, 1 + random_below(&rng, lines - 1), &len);
        while (strncmp(line, "{\"t\":", 5) != 0);
        bool acted = strncmp(line + len + 1, "{\"act\":", 7) == 0; /* otherwise it may not matter */
        memmove(line, line + len + 1, strlen(line + len));
        mlxd_why why;
        mlxd_err err = replay(text, &why);
        if (acted && err != MLXD_ERR_CORRUPT && err != MLXD_ERR_DATA)
            fail_msg("%s \"%s\"", mlxd_err_name(err), why.text);
        reported += err != MLXD_OK;
        mlxd_mem_free(text);
    }
    assert_true(reported > 20);
}

/* ---- what is no trace ---- */

#define HEAD                                                                                       \
    "{\"params\":{\"width\":1,\"prefill_chunk\":4,\"step_tokens\":8,\"sessions_max\":2,"           \
    "\"queue_max\":2}}\n"
#define SERVE                                                                                      \
    HEAD "{\"t\":1,\"event\":\"pipeline\",\"stages\":1,\"epoch\":1,\"context\":100,\"kv_pages\":"  \
         "9}\n"
#define ASK                                                                                        \
    SERVE "{\"t\":2,\"event\":\"request\",\"id\":1,\"n_prompt\":3,\"max_tokens\":2}\n"             \
          "{\"act\":\"embed\",\"step\":1,\"index\":0,\"rows\":[[1,0,3,1]]}\n"
#define STEP(name, step, index, err, rows)                                                         \
    "{\"t\":3,\"event\":\"" name "\",\"step\":" step ",\"index\":" index ",\"err\":" err           \
    ",\"rows\":" rows "}\n"
#define LAST "{\"act\":\"stage-last\",\"step\":1,\"index\":0,\"rows\":[[1,0,3,1]]}\n"

static void texts_that_are_no_trace(void **state) {
    static const char *const texts[] = {
        "",
        "\n\n",
        "x",
        "[]",
        "{}",
        "{\"params\":3}",
        "{\"params\":{}}",
        "{\"act\":\"embed\"}",
        "{\"params\":{\"width\":1,\"prefill_chunk\":0,\"step_tokens\":8,\"sessions_max\":2,"
        "\"queue_max\":2}}",
        "{\"params\":{\"width\":1,\"prefill_chunk\":9,\"step_tokens\":8,\"sessions_max\":2,"
        "\"queue_max\":2}}",
        "{\"params\":{\"width\":1,\"prefill_chunk\":4,\"step_tokens\":8,\"sessions_max\":1025,"
        "\"queue_max\":2}}",
        "{\"params\":{\"width\":1,\"prefill_chunk\":4,\"step_tokens\":99999999999,"
        "\"sessions_max\":2,\"queue_max\":2}}",
        HEAD "{\"t\":1,\"event\":\"nonsense\"}",
        HEAD "{\"t\":-1,\"event\":\"stop\"}",
        HEAD "{\"event\":\"stop\"}",
        HEAD "{\"t\":1,\"event\":7}",
        HEAD "{\"t\":1}",
        HEAD HEAD,
        HEAD "{\"t\":1,\"event\":\"cancel\"}",
        HEAD "{\"t\":1,\"event\":\"cancel\",\"id\":-1}",
        HEAD "{\"t\":1,\"event\":\"request\",\"id\":1,\"n_prompt\":0,\"max_tokens\":1}",
        HEAD "{\"t\":1,\"event\":\"request\",\"id\":1,\"n_prompt\":1,\"max_tokens\":0}",
        HEAD "{\"t\":1,\"event\":\"request\",\"id\":1,\"n_prompt\":99999999,\"max_tokens\":1}",
        HEAD "{\"t\":1,\"event\":\"request\",\"id\":1,\"n_prompt\":4294967297,\"max_tokens\":1}",
        HEAD "{\"t\":1,\"event\":\"pipeline\",\"stages\":65,\"epoch\":1,\"context\":1,"
             "\"kv_pages\":1}",
        HEAD "{\"t\":1,\"event\":\"pipeline\",\"stages\":1,\"epoch\":0,\"context\":1,"
             "\"kv_pages\":1}",
        HEAD "{\"t\":1,\"event\":\"pipeline\",\"stages\":1,\"epoch\":1,\"context\":1,"
             "\"kv_pages\":4294967296}",
        SERVE "{\"t\":1,\"event\":\"pipeline\",\"stages\":1,\"epoch\":1,\"context\":1,"
              "\"kv_pages\":1}",
        HEAD STEP("embedded", "1", "0", "0", "[]"),
        SERVE STEP("staged", "0", "0", "0", "[]"),
        ASK STEP("embedded", "2", "0", "0", "[1]"),
        ASK STEP("staged", "1", "64", "0", "[1]"),
        ASK STEP("staged", "1", "0", "99", "[1]"),
        ASK STEP("staged", "1", "0", "0", "1"),
        ASK STEP("drawn", "1", "0", "0", "[]"),
        ASK STEP("drawn", "1", "0", "0", "[[1,3]]"),
        ASK STEP("drawn", "1", "0", "0", "[[1,-1]]"),
        ASK STEP("drawn", "1", "0", "0", "[[1]]"),
        ASK STEP("drawn", "1", "0", "0", "[1]"),
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(texts); i++) {
        mlxd_why why;
        mlxd_err err = replay(texts[i], &why);
        if ((err != MLXD_ERR_DATA && err != MLXD_ERR_INVALID) || strncmp(why.text, "line ", 5) != 0)
            fail_msg("%s\n%s \"%s\"", texts[i], mlxd_err_name(err), why.text);
    }
}

/* Well-formed events that no engine loop would ever have written. */
static void events_that_cannot_happen(void **state) {
    static const char *const texts[] = {
        /* back twice: the second time it is not in flight */
        ASK STEP("embedded", "1", "0", "0", "[1]") LAST STEP("staged", "1", "0", "0", "[]")
            STEP("staged", "1", "0", "0", "[]"),
        ASK STEP("embedded", "1", "0", "5", "[1]") STEP("embedded", "1", "0", "0", "[1]"),
        ASK STEP("drawn", "1", "0", "7", "[[1,0]]") STEP("drawn", "1", "0", "7", "[[1,0]]"),
        /* in the wrong order; from a stage that is not there */
        ASK STEP("drawn", "1", "0", "0", "[[1,0]]"),
        ASK STEP("staged", "1", "0", "0", "[1]"),
        ASK STEP("staged", "1", "63", "0", "[1]"),
        ASK STEP("staged", "1", "63", "0", "[77]"),
        ASK STEP("embedded", "1", "0", "0", "[1]") LAST STEP("embedded", "1", "0", "0", "[1]"),
        /* the same id again */
        ASK "{\"t\":2,\"event\":\"request\",\"id\":1,\"n_prompt\":3,\"max_tokens\":2}\n" STEP(
            "drawn", "1", "0", "0", "[[1,0]]") STEP("drawn", "2", "0", "0", "[[1,0]]"),
    };
    (void)state;
    for (size_t i = 0; i < MLXD_COUNT_OF(texts); i++) {
        mlxd_why why;
        mlxd_err err = replay(texts[i], &why);
        if (err != MLXD_ERR_DATA && err != MLXD_ERR_CORRUPT)
            fail_msg("%s\n%s \"%s\"", texts[i], mlxd_err_name(err), why.text);
    }
}

/* More tokens than a request may have: its end, not ours. */
static void a_head_that_never_finishes(void **state) {
    char text[20000];
    size_t n = (size_t)snprintf(text, sizeof text, "%s", SERVE);
    n += (size_t)snprintf(text + n, sizeof text - n,
                          "{\"t\":2,\"event\":\"request\",\"id\":1,\"n_prompt\":3,"
                          "\"max_tokens\":4}\n"
                          "{\"act\":\"embed\",\"step\":1,\"index\":0,\"rows\":[[1,0,3,1]]}\n");
    (void)state;
    for (int i = 1; i <= 4; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"t\":3,\"event\":\"drawn\",\"step\":%d,\"index\":0,\"err\":0,"
                              "\"rows\":[[1,0]]}\n",
                              i);
        if (i < 4)
            n += (size_t)snprintf(text + n, sizeof text - n,
                                  "{\"act\":\"token\",\"id\":1,\"err\":0}\n"
                                  "{\"act\":\"embed\",\"step\":%d,\"index\":0,"
                                  "\"rows\":[[1,%d,1,1]]}\n",
                                  i + 1, i + 2);
    }
    n += (size_t)snprintf(text + n, sizeof text - n,
                          "{\"act\":\"drop\",\"index\":0,\"id\":1}\n"
                          "{\"act\":\"end\",\"id\":1,\"err\":0}\n");
    expect(text, MLXD_OK, "");
}

/* Prompts of gigabytes in a file of kilobytes. */
static void a_small_file_costs_little(void **state) {
    mlxd_buf b;
    (void)state;
    mlxd_buf_init(&b, 0);
    mlxd_buf_add_str(&b, "{\"params\":{\"width\":1,\"prefill_chunk\":4,\"step_tokens\":8,"
                         "\"sessions_max\":2,\"queue_max\":4096}}\n"
                         "{\"t\":1,\"event\":\"pipeline\",\"stages\":1,\"epoch\":1,"
                         "\"context\":16777216,\"kv_pages\":4294967295}\n");
    for (int i = 1; i < 100; i++) {
        mlxd_buf_addf(&b,
                      "{\"t\":1,\"event\":\"request\",\"id\":%d,\"n_prompt\":16000000,"
                      "\"max_tokens\":1}\n",
                      i);
        if (i == 1)
            mlxd_buf_add_str(&b, "{\"act\":\"embed\",\"step\":1,\"index\":0,"
                                 "\"rows\":[[1,0,4,0]]}\n");
    }
    expect(mlxd_buf_str(&b), MLXD_ERR_DATA, "request out of range");
    mlxd_buf_deinit(&b);
}

static void truncated_traces(void **state) {
    random_state rng = random_open("truncated");
    char *text = record(&rng, 60, 3);
    mlxd_why why;
    (void)state;
    size_t total = strlen(text), step = MLXD_MAX(total / 3000, (size_t)1);
    for (size_t n = 0; n < total; n += step) {
        mlxd_err err = mlxd_trace_replay((mlxd_slice){(const uint8_t *)text, n}, &why);
        assert_true(err == MLXD_OK || err == MLXD_ERR_DATA || err == MLXD_ERR_CORRUPT ||
                    err == MLXD_ERR_INVALID);
        assert_true(err == MLXD_OK || strncmp(why.text, "line ", 5) == 0);
    }
    mlxd_mem_free(text);
}

/* Bits, bytes, digits and whole lines in the wrong place. */
static void spoiled_traces(void **state) {
    random_state rng = random_open("spoiled");
    (void)state;
    for (int trace = 0; trace < 12; trace++) {
        char *text = record(&rng, 80, 3);
        size_t total = strlen(text);
        unsigned lines = count_lines(text);
        for (int round = 0; round < 250; round++) {
            char *bad = mlxd_mem_dup(text, total), *from, *to;
            size_t n, m;
            mlxd_why why;
            for (uint32_t i = 1 + random_below(&rng, 4); i > 0; i--)
                switch (random_below(&rng, 4)) {
                case 0:
                    bad[random_below(&rng, (uint32_t)total)] ^= (char)(1 << random_below(&rng, 7));
                    break;
                case 1: /* a digit somewhere */
                    to = bad + random_below(&rng, (uint32_t)total);
                    to += strcspn(to, "0123456789");
                    if (*to)
                        *to = (char)('0' + random_below(&rng, 10));
                    break;
                case 2: /* the start of one line over that of another */
                    if (count_lines(bad) < lines)
                        break;
                    from = line_at(bad, random_below(&rng, lines), &n);
                    to = line_at(bad, random_below(&rng, lines), &m);
                    memmove(to, from, MLXD_MIN(n, m));
                    break;
                default: /* a line becomes a comma, a blank ... */
                    bad[random_below(&rng, (uint32_t)total)] = (char)(32 + random_below(&rng, 95));
                }
            mlxd_err err = mlxd_trace_replay((mlxd_slice){(const uint8_t *)bad, total}, &why);
            if (err && strncmp(why.text, "line ", 5) != 0)
                fail_msg("%s \"%s\"", mlxd_err_name(err), why.text);
            mlxd_mem_free(bad);
        }
        mlxd_mem_free(text);
    }
}

/* ---- an engine that is told nonsense, and the trace of it ---- */

struct nonsense {
    mlxd_engine *e;
    mlxd_buf trace;
    mlxd_step *steps[2 * MLXD_LIMIT_STAGES];
    size_t n_steps;
    uint64_t time, next_id; /* 0: ids are used again, by several at a time */
    random_state rng;
};

static void write_embed(void *ctx, mlxd_step *s) {
    struct nonsense *x = ctx;
    size_t i = 0;
    while (i < x->n_steps && x->steps[i] != s)
        i++;
    if (i == x->n_steps)
        x->steps[x->n_steps++] = s;
    mlxd_trace_step(&x->trace, "embed", s, 0);
}

static void write_stage(void *ctx, mlxd_step *s, uint32_t index, bool last) {
    mlxd_trace_step(&((struct nonsense *)ctx)->trace, last ? "stage-last" : "stage", s, index);
}

static void write_head(void *ctx, mlxd_step *s) {
    mlxd_trace_step(&((struct nonsense *)ctx)->trace, "head", s, 0);
}

static void write_drop(void *ctx, uint32_t index, uint64_t id) {
    mlxd_trace_drop(&((struct nonsense *)ctx)->trace, index, id);
}

static void write_token(void *ctx, mlxd_request *r) {
    mlxd_trace_request(&((struct nonsense *)ctx)->trace, "token", r->id, MLXD_OK);
}

static void write_end(void *ctx, mlxd_request *r, mlxd_err err, const mlxd_why *why) {
    (void)why;
    mlxd_trace_request(&((struct nonsense *)ctx)->trace, "end", r->id, err);
    r->generation = NULL;
    mlxd_request_close(r);
}

static bool coin(void *ctx, uint64_t session) {
    (void)session;
    return random_below(ctx, 8) == 0;
}

/* A step comes back from anywhere, with anything, whatever was asked for. */
static bool step_event(struct nonsense *x, mlxd_event *ev) {
    static const mlxd_event_type types[] = {MLXD_EVENT_EMBEDDED, MLXD_EVENT_STAGED,
                                            MLXD_EVENT_DRAWN};
    if (x->n_steps == 0)
        return false;
    mlxd_step *s = x->steps[random_below(&x->rng, (uint32_t)x->n_steps)];
    if (!mlxd_engine_in_flight(x->e, s))
        return false;
    *ev = (mlxd_event){.type = types[random_below(&x->rng, 3)], .step = s};
    ev->index = random_below(&x->rng, random_below(&x->rng, 8) ? 3 : MLXD_LIMIT_STAGES);
    if (random_below(&x->rng, 12) == 0)
        ev->err = (mlxd_err)random_below(&x->rng, MLXD_ERR_COUNT);
    s->n_hidden = s->n_tokens;
    if (ev->type == MLXD_EVENT_STAGED)
        mlxd_step_remove(s, coin, &x->rng);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        s->drawn[r] = 0;
        s->finish[r] = random_below(&x->rng, 15) ? MLXD_FINISH_NONE : MLXD_FINISH_STOP;
    }
    return true;
}

static bool any_event(struct nonsense *x, mlxd_event *ev) {
    random_state *rng = &x->rng;
    uint32_t what = random_below(rng, 100);
    *ev = (mlxd_event){.id = random_below(rng, 6) + (x->next_id ? x->next_id - 5 : 0)};
    if (what < 70)
        return step_event(x, ev);
    if (what < 75) {
        ev->type = MLXD_EVENT_CANCEL;
    } else if (what < 76) {
        ev->type = MLXD_EVENT_PIPELINE;
        ev->stages = random_below(rng, 4);
        ev->epoch = mlxd_engine_get_stats(x->e)->epoch + 1 + random_below(rng, 3);
        ev->context = random_below(rng, 300);
        ev->kv_pages = random_below(rng, 20);
    } else {
        static const int32_t zeros[200];
        mlxd_request_sink none = {0};
        ev->type = MLXD_EVENT_REQUEST;
        ev->request = mlxd_request_open(zeros, 1 + random_below(rng, 200),
                                        1 + random_below(rng, 20), (mlxd_generation *)x, none);
        assert_non_null(ev->request);
        ev->request->id = x->next_id ? x->next_id++ : random_below(rng, 6);
    }
    return true;
}

static void an_engine_that_is_told_nonsense(void **state) {
    static const mlxd_engine_params p = {
        .width = 1, .prefill_chunk = 20, .step_tokens = 50, .sessions_max = 4, .queue_max = 5};
    static struct nonsense x;
    random_state rng = random_open("nonsense");
    mlxd_engine_ops ops = {write_embed, write_stage, write_head, write_drop,
                           write_token, write_end,   &x};
    (void)state;
    for (int round = 0; round < 150; round++) {
        mlxd_why why = {0};
        mlxd_event ev = {.type = MLXD_EVENT_PIPELINE,
                         .stages = 1 + random_below(&rng, 3),
                         .epoch = 1,
                         .context = 300,
                         .kv_pages = 12};
        x = (struct nonsense){.rng = {random_u64(&rng)}, .next_id = round % 2 ? 10 : 0};
        mlxd_buf_init(&x.trace, 0);
        mlxd_trace_params(&x.trace, &p);
        assert_int_equal(mlxd_engine_open(&x.e, &p, &ops, &why), MLXD_OK);
        for (int i = 0; i < 300 || !mlxd_engine_idle(x.e); i++) {
            if (i == 300)
                ev = (mlxd_event){.type = MLXD_EVENT_STOP};
            else if (i > 0 && !any_event(&x, &ev))
                continue;
            ev.time_ns = x.time++;
            mlxd_trace_event(&x.trace, &ev);
            mlxd_engine_handle(x.e, &ev);
        }
        mlxd_engine_close(x.e);
        char *text = text_of(&x.trace);
        if (x.next_id)
            expect(text, MLXD_OK, "");
        else /* the trace cannot tell two of the same id apart */
            (void)!replay(text, &why);
        mlxd_mem_free(text);
        mlxd_buf_deinit(&x.trace);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recorded_life_replays),
        cmocka_unit_test(a_step_that_comes_back_very_late),
        cmocka_unit_test(a_changed_action_is_reported),
        cmocka_unit_test(a_missing_event_is_reported),
        cmocka_unit_test(texts_that_are_no_trace),
        cmocka_unit_test(events_that_cannot_happen),
        cmocka_unit_test(a_head_that_never_finishes),
        cmocka_unit_test(a_small_file_costs_little),
        cmocka_unit_test(truncated_traces),
        cmocka_unit_test(spoiled_traces),
        cmocka_unit_test(an_engine_that_is_told_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
