/* report.c - see report.h. */
#include "cli/report.h"

#include "cli/cli.h"
#include "serve/timings.h"

#include <stdio.h>

static void name_stages(const mlxd_report *r, mlxd_stage_name out[MLXD_LIMIT_STAGES]) {
    for (uint32_t i = 0; i < r->n_stages; i++) {
        const mlxd_stage *s = mlxd_cpu_stage(r->stages[i]);
        out[i] = (mlxd_stage_name){.first = s->first, .end = s->end};
        snprintf(out[i].device, sizeof out[i].device, "%s", s->device);
    }
}

mlxd_err mlxd_report_json(const mlxd_report *r, mlxd_why *why) {
    const mlxd_request *q = r->request;
    mlxd_stage_name names[MLXD_LIMIT_STAGES];
    char digest[MLXD_SHA256_HEX];
    mlxd_buf out;
    mlxd_jsonw w;
    mlxd_buf_init(&out, 0);
    mlxd_jsonw_init(&w, &out);
    name_stages(r, names);
    mlxd_jsonw_object_begin(&w);
    mlxd_jsonw_key(&w, "text");
    mlxd_jsonw_slice(&w, r->text);
    if (r->reasoning.len > 0) {
        mlxd_jsonw_key(&w, "reasoning");
        mlxd_jsonw_slice(&w, r->reasoning);
    }
    mlxd_jsonw_key(&w, "prompt_tokens");
    mlxd_jsonw_array_begin(&w);
    for (uint32_t i = 0; i < q->n_prompt; i++)
        mlxd_jsonw_int(&w, q->tokens[i]);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_key(&w, "tokens");
    mlxd_jsonw_array_begin(&w);
    for (uint32_t i = 0; i < mlxd_generation_tokens(q->generation); i++)
        mlxd_jsonw_int(&w, q->tokens[q->n_prompt + i]);
    mlxd_jsonw_array_end(&w);
    mlxd_jsonw_member_str(&w, "finish_reason",
                          mlxd_finish_name(mlxd_generation_finish(q->generation)));
    mlxd_jsonw_member_uint(&w, "seed", r->seed);
    mlxd_jsonw_member_str(&w, "isa", r->isa);
    mlxd_jsonw_member_uint(&w, "threads", r->threads);
    mlxd_jsonw_key(&w, "stages");
    mlxd_jsonw_array_begin(&w);
    for (uint32_t i = 0; i < r->n_stages; i++)
        mlxd_jsonw_uint(&w, names[i].end - names[i].first);
    mlxd_jsonw_array_end(&w);
    if (mlxd_generation_digest(q->generation, digest))
        mlxd_jsonw_member_str(&w, "logits_sha256", digest);
    mlxd_jsonw_member_double(&w, "load_ms", r->load_ms);
    mlxd_jsonw_key(&w, "timings");
    mlxd_timings_write(&w, q, names, r->n_stages);
    mlxd_jsonw_object_end(&w);
    mlxd_buf_add_byte(&out, '\n');
    mlxd_err err = out.failed ? mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory")
                              : mlxd_cli_print(out.data, out.len, why);
    mlxd_buf_deinit(&out);
    return err;
}

void mlxd_report_speed(const mlxd_report *r) {
    mlxd_speed s = mlxd_timings_speed(r->request);
    fprintf(stderr,
            "\nprompt %u tokens, %.1f tokens/s | generated %u tokens, %.1f tokens/s | "
            "loaded in %.2f s | %s, %u threads | seed %llu\n",
            r->request->n_prompt, s.prompt_per_second,
            mlxd_generation_tokens(r->request->generation), s.predicted_per_second,
            r->load_ms / 1e3, r->isa, r->threads, (unsigned long long)r->seed);
}
