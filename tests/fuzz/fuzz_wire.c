/* fuzz_wire.c - messages of a Work stream as a worker gets them: whatever comes, it is refused or
 * every size in it agrees; a model that is offered is refused or has the name of a folder. */
#include "cluster/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void offer(const Mlxd__Model *m) {
    mlxd_replica_spec spec;
    char name[MLXD_SHA256_HEX];
    mlxd_why why;
    if (mlxd_wire_read_model(&spec, m, &why))
        return;
    for (size_t i = 0; i < spec.n_files; i++)
        MLXD_ASSERT(spec.files[i].head_bytes <= spec.files[i].bytes &&
                    spec.files[i].name[0] != '.');
    MLXD_ASSERT(mlxd_replica_spec_name(&spec, name, &why) == MLXD_OK);
    mlxd_replica_spec_close(&spec);
}

static void step(const Mlxd__Step *m, mlxd_slice hidden) {
    mlxd_step *s = mlxd_step_open(8, 64, 32);
    mlxd_why why;
    bool last;
    if (s && mlxd_wire_read_step(s, m, hidden, &last, &why) == MLXD_OK)
        MLXD_ASSERT(hidden.len == (size_t)s->n_tokens * s->width * sizeof(float));
    mlxd_step_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mlxd_slice header, payload;
    mlxd_why why;
    if (mlxd_wire_split((mlxd_slice){data, size}, &header, &payload, &why))
        return 0;
    MLXD_ASSERT(header.len + payload.len <= size);
    Mlxd__WorkRequest *m = mlxd__work_request__unpack(NULL, header.len, header.data);
    if (m && m->body_case == MLXD__WORK_REQUEST__BODY_HELLO && m->hello->model)
        offer(m->hello->model);
    if (m && m->body_case == MLXD__WORK_REQUEST__BODY_STEP)
        step(m->step, payload);
    if (m)
        mlxd__work_request__free_unpacked(m, NULL);
    return 0;
}
