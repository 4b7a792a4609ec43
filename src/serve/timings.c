/* timings.c - see timings.h. */
#include "serve/timings.h"

static double ms(uint64_t from, uint64_t to) {
    return from && to > from ? (double)(to - from) / 1e6 : 0;
}

mlxd_speed mlxd_timings_speed(const mlxd_request *r) {
    const mlxd_timings *t = &r->timings;
    uint32_t drawn = mlxd_generation_tokens(r->generation);
    mlxd_speed s = {.queue_ms = ms(t->submitted_ns, t->admitted_ns),
                    .prompt_ms = ms(t->admitted_ns, t->first_ns),
                    .predicted_ms = ms(t->first_ns, t->ended_ns)};
    if (s.prompt_ms > 0)
        s.prompt_per_second = (r->n_prompt - r->cached) * 1e3 / s.prompt_ms;
    if (s.predicted_ms > 0 && drawn > 1)
        s.predicted_per_second = (drawn - 1) * 1e3 / s.predicted_ms;
    return s;
}

void mlxd_timings_write(mlxd_jsonw *w, const mlxd_request *r, const mlxd_stage_name *stages,
                        uint32_t n_stages) {
    const mlxd_timings *t = &r->timings;
    mlxd_speed s = mlxd_timings_speed(r);
    mlxd_jsonw_object_begin(w);
    mlxd_jsonw_member_double(w, "queue_ms", s.queue_ms);
    mlxd_jsonw_member_uint(w, "prompt_n", r->n_prompt);
    mlxd_jsonw_member_double(w, "prompt_ms", s.prompt_ms);
    mlxd_jsonw_member_double(w, "prompt_per_second", s.prompt_per_second);
    mlxd_jsonw_member_uint(w, "predicted_n", mlxd_generation_tokens(r->generation));
    mlxd_jsonw_member_double(w, "predicted_ms", s.predicted_ms);
    mlxd_jsonw_member_double(w, "predicted_per_second", s.predicted_per_second);
    mlxd_jsonw_member_double(w, "head_ms", (double)t->head_ns / 1e6);
    mlxd_jsonw_key(w, "stages");
    mlxd_jsonw_array_begin(w);
    for (uint32_t i = 0; i < t->stages && i < n_stages; i++) {
        uint64_t hop =
            t->stage[i].total_ns - MLXD_MIN(t->stage[i].compute_ns, t->stage[i].total_ns);
        mlxd_jsonw_object_begin(w);
        mlxd_jsonw_member_str(w, "device", stages[i].device);
        mlxd_jsonw_key(w, "layers");
        mlxd_jsonw_array_begin(w);
        mlxd_jsonw_uint(w, stages[i].first);
        mlxd_jsonw_uint(w, stages[i].end - 1);
        mlxd_jsonw_array_end(w);
        mlxd_jsonw_member_double(w, "compute_ms", (double)t->stage[i].compute_ns / 1e6);
        mlxd_jsonw_member_double(w, "hop_ms", (double)hop / 1e6);
        mlxd_jsonw_object_end(w);
    }
    mlxd_jsonw_array_end(w);
    mlxd_jsonw_object_end(w);
}
