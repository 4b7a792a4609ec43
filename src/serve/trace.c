/* trace.c - writes the lines of trace.h. Replaying them is in replay.c. */
#include "serve/trace.h"

#include "format/json.h"

#include "serve/trace_names.h"

void mlxd_trace_params(mlxd_buf *out, const mlxd_engine_params *p) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "params");
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_uint(&w, "width", p->width);
    mlxd_jsonw_member_uint(&w, "prefill_chunk", p->prefill_chunk);
    mlxd_jsonw_member_uint(&w, "step_tokens", p->step_tokens);
    mlxd_jsonw_member_uint(&w, "sessions_max", p->sessions_max);
    mlxd_jsonw_member_uint(&w, "queue_max", p->queue_max);
    mlxd_jsonw_object_end(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

/* Rows that came back: sessions, and for a draw how each finished. */
static void write_rows(mlxd_jsonw *w, const mlxd_event *ev) {
    mlxd_jsonw_key(w, "rows");
    mlxd_jsonw_array_begin(w);
    for (uint32_t r = 0; r < ev->step->n_rows; r++) {
        if (ev->type != MLXD_EVENT_DRAWN) {
            mlxd_jsonw_uint(w, ev->step->rows[r].session);
            continue;
        }
        mlxd_jsonw_array_begin(w);
        mlxd_jsonw_uint(w, ev->step->rows[r].session);
        mlxd_jsonw_uint(w, ev->step->generations[r] ? (uint64_t)ev->step->finish[r] : 0);
        mlxd_jsonw_array_end(w);
    }
    mlxd_jsonw_array_end(w);
}

void mlxd_trace_event(mlxd_buf *out, const mlxd_event *ev) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_uint(&w, "t", ev->time_ns);
    mlxd_jsonw_member_str(&w, "event", mlxd_trace_event_names[ev->type]);
    if (ev->type == MLXD_EVENT_REQUEST) {
        mlxd_jsonw_member_uint(&w, "id", ev->request->id);
        mlxd_jsonw_member_uint(&w, "n_prompt", ev->request->n_prompt);
        mlxd_jsonw_member_uint(&w, "max_tokens", ev->request->max_tokens);
        if (ev->request->keep || ev->request->continues) {
            mlxd_jsonw_member_uint(&w, "keep", ev->request->keep);
            mlxd_jsonw_member_uint(&w, "continues", ev->request->continues);
            mlxd_jsonw_member_uint(&w, "cached", ev->request->cached);
        }
    } else if (ev->type == MLXD_EVENT_CANCEL) {
        mlxd_jsonw_member_uint(&w, "id", ev->id);
    } else if (ev->type == MLXD_EVENT_PIPELINE) {
        mlxd_jsonw_member_uint(&w, "stages", ev->stages);
        mlxd_jsonw_member_uint(&w, "epoch", ev->epoch);
        mlxd_jsonw_member_uint(&w, "context", ev->context);
        mlxd_jsonw_member_uint(&w, "kv_pages", ev->kv_pages);
    } else if (ev->type != MLXD_EVENT_STOP) {
        mlxd_jsonw_member_uint(&w, "step", ev->step->id);
        mlxd_jsonw_member_uint(&w, "index", ev->index);
        mlxd_jsonw_member_uint(&w, "err", ev->err);
        write_rows(&w, ev);
    }
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

void mlxd_trace_step(mlxd_buf *out, const char *act, const mlxd_step *step, uint32_t index) {
    mlxd_jsonw w;
    mlxd_jsonw_init(&w, out);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_member_str(&w, "act", act);
    mlxd_jsonw_member_uint(&w, "step", step->id);
    mlxd_jsonw_member_uint(&w, "index", index);
    mlxd_jsonw_key(&w, "rows");
    mlxd_jsonw_array_begin(&w);
    for (uint32_t r = 0; r < step->n_rows; r++) {
        const mlxd_row *row = &step->rows[r];
        mlxd_jsonw_array_begin(&w);
        mlxd_jsonw_uint(&w, row->session);
        mlxd_jsonw_uint(&w, row->position);
        mlxd_jsonw_uint(&w, row->n_tokens);
        mlxd_jsonw_uint(&w, row->n_out);
        mlxd_jsonw_array_end(&w);
    }
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(out, '\n');
}

void mlxd_trace_drop(mlxd_buf *out, uint32_t index, uint64_t session) {
    mlxd_buf_addf(out, "{\"act\":\"drop\",\"index\":%u,\"id\":%llu}\n", index,
                  (unsigned long long)session);
}

void mlxd_trace_request(mlxd_buf *out, const char *act, uint64_t id, mlxd_err err) {
    mlxd_buf_addf(out, "{\"act\":\"%s\",\"id\":%llu,\"err\":%u}\n", act, (unsigned long long)id,
                  (unsigned)err);
}
