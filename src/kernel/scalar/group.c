/* group.c - see group.h. */
#include "kernel/scalar/group.h"

#include "kernel/scalar/planes.h"

#define ROWS MLXD_PANEL_ROWS
#define GROUP MLXD_GROUP

static void get_values(mlxd_facts f, const uint8_t *payload, size_t r, int16_t out[GROUP]) {
    int zero = f.affine ? 0 : 1 << (f.bits - 1);
    uint8_t q[GROUP];
    mlxd_planes_get_row(f.stored, payload, r, q);
    for (size_t i = 0; i < GROUP; i++)
        out[i] = (int16_t)((f.book ? mlxd_books[f.book][q[i]] : q[i]) - zero);
}

static void get_plain(mlxd_format f, mlxd_facts facts, const uint8_t *scales, size_t r,
                      mlxd_group_row *out) {
    size_t one = mlxd_float_bytes(f.type);
    mlxd_widen(f.type, scales + r * one, 1, &out->d[0]);
    out->d[1] = out->d[0];
    if (facts.halves)
        mlxd_widen(f.type, scales + (ROWS + r) * one, 1, &out->d[1]);
    if (facts.affine)
        mlxd_widen(f.type, scales + (ROWS + r) * one, 1, &out->m[0]);
    out->m[1] = out->m[0];
}

static void get_nested(mlxd_format f, mlxd_facts facts, const uint8_t *scales, size_t g, size_t r,
                       mlxd_group_row *out) {
    float d, m = 0;
    const uint8_t *factors = scales + (facts.affine ? 4 : 2) * ROWS;
    factors += g * mlxd_kind_factor_bytes(f.kind) + r;
    mlxd_widen(MLXD_FLOAT_F16, scales + 2 * r, 1, &d);
    if (facts.affine)
        mlxd_widen(MLXD_FLOAT_F16, scales + 2 * (ROWS + r), 1, &m);
    for (size_t i = 0; i < 2; i++) {
        const uint8_t *at = factors + (facts.halves ? i * ROWS : 0);
        if (facts.affine && facts.halves) {
            out->d[i] = d * (float)(*at & 15);
            out->m[i] = -m * (float)(*at >> 4);
            continue;
        }
        out->d[i] = d * (float)(int8_t)*at;
        if (facts.affine)
            out->m[i] = -m * (float)(int8_t)at[ROWS];
    }
}

void mlxd_group_get_row(mlxd_format f, const uint8_t *p, size_t g, size_t r, mlxd_group_row *out) {
    mlxd_facts facts = mlxd_kind_facts(f.kind);
    size_t payload = mlxd_kind_payload_bytes(f.kind);
    *out = (mlxd_group_row){.d = {0}};
    get_values(facts, p + g * payload, r, out->q);
    if (facts.nested)
        get_nested(f, facts, p + f.share * payload, g, r, out);
    else
        get_plain(f, facts, p + f.share * payload, r, out);
}
