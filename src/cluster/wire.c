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

/* ---- model files ---- */

void mlxd_wire_hello(mlxd_buf *out, Mlxd__Hello *hello, const mlxd_replica_spec *spec) {
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    Mlxd__Model model = MLXD__MODEL__INIT;
    size_t n = spec ? spec->n_files : 0;
    Mlxd__ModelFile *files = mlxd_mem_new(n, sizeof *files);
    Mlxd__ModelFile **pointers = mlxd_mem_new(n, sizeof *pointers);
    for (size_t i = 0; files && pointers && i < n; i++) {
        const mlxd_replica_file *f = &spec->files[i];
        mlxd__model_file__init(&files[i]);
        files[i].name = (char *)(uintptr_t)f->name;
        files[i].bytes = f->bytes;
        files[i].head_bytes = f->head_bytes;
        files[i].head_sha256 =
            (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)f->head_sha256};
        pointers[i] = &files[i];
        model.n_files = i + 1;
    }
    if (spec) {
        model.model_sha256 =
            (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)spec->model};
        model.directory = spec->directory;
        model.files = pointers;
        hello->model = &model;
    }
    m.body_case = MLXD__WORK_REQUEST__BODY_HELLO;
    m.hello = hello;
    out->failed = out->failed || model.n_files != n;
    mlxd_wire_request(out, &m);
    if (spec)
        hello->model = NULL;
    mlxd_mem_free(pointers);
    mlxd_mem_free(files);
}

mlxd_err mlxd_wire_read_model(mlxd_replica_spec *out, const Mlxd__Model *m, mlxd_why *why) {
    *out = (mlxd_replica_spec){.directory = m->directory, .n_files = m->n_files};
    if (m->n_files == 0 || m->n_files > MLXD_LIMIT_MODEL_FILES)
        return mlxd_fail(why, MLXD_ERR_INVALID, "a model of %zu files, expected 1..%u", m->n_files,
                         MLXD_LIMIT_MODEL_FILES);
    if (m->model_sha256.len != MLXD_SHA256_BYTES)
        return mlxd_fail(why, MLXD_ERR_INVALID, "a malformed digest of the model");
    memcpy(out->model, m->model_sha256.data, MLXD_SHA256_BYTES);
    out->files = mlxd_mem_new(m->n_files, sizeof *out->files);
    mlxd_err err = out->files ? MLXD_OK : mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < m->n_files && !err; i++) {
        const Mlxd__ModelFile *in = m->files[i];
        mlxd_replica_file *f = &out->files[i];
        size_t len = strlen(in->name);
        if (len >= sizeof f->name || in->head_sha256.len != MLXD_SHA256_BYTES) {
            err = mlxd_fail(why, MLXD_ERR_INVALID, "file %zu of the model is malformed", i);
            break;
        }
        memcpy(f->name, in->name, len);
        f->bytes = in->bytes;
        f->head_bytes = in->head_bytes;
        memcpy(f->head_sha256, in->head_sha256.data, MLXD_SHA256_BYTES);
    }
    if (!err)
        err = mlxd_replica_spec_check(out, why);
    if (err)
        mlxd_replica_spec_close(out);
    return err;
}

void mlxd_wire_fetch(mlxd_buf *out, const mlxd_span *span) {
    Mlxd__Fetch fetch = MLXD__FETCH__INIT;
    Mlxd__WorkReply m = MLXD__WORK_REPLY__INIT;
    fetch.file = span->file;
    fetch.offset = span->begin;
    fetch.bytes = (uint32_t)(span->end - span->begin);
    m.body_case = MLXD__WORK_REPLY__BODY_FETCH;
    m.fetch = &fetch;
    mlxd_wire_reply(out, &m);
}

void mlxd_wire_chunk(mlxd_buf *out, const mlxd_span *span,
                     const uint8_t sha256[MLXD_SHA256_BYTES]) {
    Mlxd__Chunk chunk = MLXD__CHUNK__INIT;
    Mlxd__WorkRequest m = MLXD__WORK_REQUEST__INIT;
    chunk.file = span->file;
    chunk.offset = span->begin;
    chunk.sha256 = (ProtobufCBinaryData){MLXD_SHA256_BYTES, (uint8_t *)(uintptr_t)sha256};
    m.body_case = MLXD__WORK_REQUEST__BODY_CHUNK;
    m.chunk = &chunk;
    mlxd_wire_request(out, &m);
    mlxd_wire_hidden(out, (size_t)(span->end - span->begin));
}
