/* wire.c - see wire.h. Hosts are little-endian, so hidden states are copied as they are. */
#include "cluster/wire.h"

#include "format/fields.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian; this host needs a conversion"
#endif

#define HIDDEN_TAG 1000u
#define TEXT_MAX 400 /* of an error on the wire */

/* ---- messages ---- */

mlxd_err mlxd_wire_split(mlxd_slice m, mlxd_slice *header, mlxd_slice *hidden, mlxd_why *why) {
    mlxd_slice rest = m;
    *header = m;
    *hidden = (mlxd_slice){0};
    while (rest.len > 0) {
        size_t start = m.len - rest.len;
        mlxd_field f;
        if (!mlxd_field_next(&rest, &f))
            return mlxd_fail(why, MLXD_ERR_PROTO, "malformed message at byte %zu of %zu", start,
                             m.len);
        if (f.number != HIDDEN_TAG)
            continue;
        if (rest.len > 0 || !mlxd_field_bytes(hidden, &f))
            return mlxd_fail(why, MLXD_ERR_PROTO, "hidden states are not the last field");
        header->len = start;
    }
    return MLXD_OK;
}

void mlxd_wire_hidden(mlxd_buf *out, size_t bytes) {
    mlxd_field_add_head(out, HIDDEN_TAG, bytes);
}

void mlxd_wire_request(mlxd_buf *out, const Mlxd__WorkRequest *m) {
    size_t n = mlxd__work_request__get_packed_size(m);
    uint8_t *p = mlxd_buf_reserve(out, n);
    if (p)
        out->len += mlxd__work_request__pack(m, p);
}

void mlxd_wire_reply(mlxd_buf *out, const Mlxd__WorkReply *m) {
    size_t n = mlxd__work_reply__get_packed_size(m);
    uint8_t *p = mlxd_buf_reserve(out, n);
    if (p)
        out->len += mlxd__work_reply__pack(m, p);
}

/* ---- steps ---- */

void mlxd_wire_step(mlxd_buf *out, const mlxd_step *s, bool last) {
    Mlxd__Row rows[MLXD_LIMIT_STEP_ROWS], *pointers[MLXD_LIMIT_STEP_ROWS];
    Mlxd__Step step = MLXD__STEP__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    MLXD_ASSERT(s->n_rows <= MLXD_LIMIT_STEP_ROWS && s->n_hidden == s->n_tokens);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        const mlxd_row *row = &s->rows[r];
        mlxd__row__init(&rows[r]);
        rows[r].session = row->session;
        rows[r].prefix_hash = row->prefix_hash;
        rows[r].position = row->position;
        rows[r].n_tokens = row->n_tokens;
        rows[r].n_out = row->n_out;
        pointers[r] = &rows[r];
    }
    step.id = s->id;
    step.epoch = s->epoch;
    step.last = last;
    step.n_rows = s->n_rows;
    step.rows = pointers;
    step.n_tokens = s->n_tokens;
    step.tokens = s->tokens;
    m.body_case = MLXD__WORK_REQUEST__BODY_STEP;
    m.step = &step;
    mlxd_wire_request(out, &m);
    mlxd_wire_hidden(out, (size_t)s->n_hidden * s->width * sizeof(float));
}

mlxd_err mlxd_wire_read_step(mlxd_step *s, const Mlxd__Step *m, mlxd_slice hidden, bool *last,
                             mlxd_why *why) {
    mlxd_step_clear(s);
    s->id = m->id;
    s->epoch = m->epoch;
    *last = m->last;
    if (m->n_rows == 0 || m->n_rows > s->rows_max || m->n_tokens > s->tokens_max)
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "a step of %zu rows and %zu tokens, expected 1..%u and up to %u",
                         m->n_rows, m->n_tokens, s->rows_max, s->tokens_max);
    size_t at = 0;
    for (size_t r = 0; r < m->n_rows; r++) {
        const Mlxd__Row *in = m->rows[r];
        if (in->n_tokens == 0 || in->n_tokens > m->n_tokens - at || in->n_out > in->n_tokens)
            return mlxd_fail(why, MLXD_ERR_PROTO, "row %zu has %u tokens (%u wanted) of %zu", r,
                             in->n_tokens, in->n_out, m->n_tokens - at);
        mlxd_row row = {.session = in->session,
                        .prefix_hash = in->prefix_hash,
                        .position = in->position,
                        .n_tokens = in->n_tokens,
                        .n_out = in->n_out,
                        .tokens = m->tokens + at};
        if (!mlxd_step_add(s, &row, NULL))
            return mlxd_fail(why, MLXD_ERR_PROTO, "the step's rows do not fit");
        at += in->n_tokens;
    }
    if (at != m->n_tokens)
        return mlxd_fail(why, MLXD_ERR_PROTO, "%zu tokens belong to no row", m->n_tokens - at);
    if (hidden.len != at * s->width * sizeof(float))
        return mlxd_fail(why, MLXD_ERR_PROTO, "%zu bytes of hidden states, expected %zu",
                         hidden.len, at * s->width * sizeof(float));
    memcpy(s->hidden, hidden.data, hidden.len);
    return MLXD_OK;
}

void mlxd_wire_step_reply(mlxd_buf *out, const mlxd_step *s, mlxd_err err, const mlxd_why *why) {
    uint64_t sessions[MLXD_LIMIT_STEP_ROWS];
    char text[TEXT_MAX + 1] = "";
    Mlxd__StepReply reply = MLXD__STEP_REPLY__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    MLXD_ASSERT(s->n_rows <= MLXD_LIMIT_STEP_ROWS);
    for (uint32_t r = 0; r < s->n_rows; r++)
        sessions[r] = s->rows[r].session;
    reply.id = s->id;
    reply.status = (uint32_t)mlxd_err_get(err)->grpc_status;
    if (err) {
        size_t n = strnlen(why->text, TEXT_MAX);
        memcpy(text, why->text, n);
        reply.message = text;
    }
    reply.n_sessions = s->n_rows;
    reply.sessions = sessions;
    reply.compute_ns = s->compute_ns;
    m.body_case = MLXD__WORK_REPLY__BODY_STEP;
    m.step = &reply;
    mlxd_wire_reply(out, &m);
    if (!err)
        mlxd_wire_hidden(out, (size_t)s->n_hidden * s->width * sizeof(float));
}

static bool not_in_reply(void *ctx, uint64_t session) {
    const Mlxd__StepReply *m = ctx;
    for (size_t i = 0; i < m->n_sessions; i++)
        if (m->sessions[i] == session)
            return false;
    return true;
}

mlxd_err mlxd_wire_read_step_reply(mlxd_step *s, bool last, const Mlxd__StepReply *m,
                                   mlxd_slice hidden, mlxd_why *why) {
    if (m->id != s->id)
        return mlxd_fail(why, MLXD_ERR_PROTO, "answer to step %llu, expected %llu",
                         (unsigned long long)m->id, (unsigned long long)s->id);
    s->compute_ns = m->compute_ns;
    if (m->status != 0)
        return mlxd_fail(why, mlxd_err_from_grpc((int)m->status), "%.*s", TEXT_MAX, m->message);
    if (m->n_sessions > s->n_rows)
        return mlxd_fail(why, MLXD_ERR_PROTO, "%zu rows came back of %u", m->n_sessions, s->n_rows);
    mlxd_step_remove(s, not_in_reply, (void *)(uintptr_t)m);
    uint32_t n = 0;
    for (uint32_t r = 0; r < s->n_rows; r++)
        n += last ? s->rows[r].n_out : s->rows[r].n_tokens;
    if (s->n_rows != m->n_sessions || hidden.len != (size_t)n * s->width * sizeof(float))
        return mlxd_fail(why, MLXD_ERR_PROTO,
                         "%zu rows and %zu bytes of hidden states came back, "
                         "expected %u and %zu",
                         m->n_sessions, hidden.len, s->n_rows,
                         (size_t)n * s->width * sizeof(float));
    for (uint32_t r = 0; r < s->n_rows; r++)
        if (m->sessions[r] != s->rows[r].session)
            return mlxd_fail(why, MLXD_ERR_PROTO, "rows came back in another order");
    if (n > 0)
        memcpy(s->hidden, hidden.data, hidden.len);
    s->n_hidden = n;
    return MLXD_OK;
}
