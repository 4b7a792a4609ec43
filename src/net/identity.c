/* identity.c - see identity.h. */
#include "net/identity.h"

#include <stdio.h>
#include <string.h>

static const struct {
    mlxd_role role;
    const char *name;
} roles[] = {
    {MLXD_ROLE_COORDINATOR, "coordinator"},
    {MLXD_ROLE_WORKER, "worker"},
    {MLXD_ROLE_OPERATOR, "operator"},
};

const char *mlxd_role_name(mlxd_role role) {
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++)
        if (roles[i].role == role)
            return roles[i].name;
    MLXD_ASSERT(role == MLXD_ROLE_NONE);
    return "none";
}

bool mlxd_role_parse(mlxd_slice name, mlxd_role *out) {
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++)
        if (mlxd_slice_eq(name, mlxd_slice_str(roles[i].name))) {
            *out = roles[i].role;
            return true;
        }
    return false;
}

void mlxd_role_mask_text(unsigned mask, char *out, size_t size) {
    MLXD_ASSERT(size >= 1);
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < MLXD_COUNT_OF(roles); i++) {
        if (!(mask & (unsigned)roles[i].role) || len >= size)
            continue;
        int n = snprintf(out + len, size - len, "%s%s", len ? " or " : "", roles[i].name);
        len += n > 0 ? (size_t)n : 0;
    }
    if (len == 0)
        snprintf(out, size, "none");
}

static bool is_label_byte(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

mlxd_err mlxd_identity_check_id(mlxd_slice id, mlxd_why *why) {
    if (id.len == 0)
        return mlxd_fail(why, MLXD_ERR_INVALID, "empty, expected 1 to %d of a-z, 0-9 and '-'",
                         MLXD_LIMIT_DEVICE_ID);
    if (id.len > MLXD_LIMIT_DEVICE_ID)
        return mlxd_fail(why, MLXD_ERR_INVALID, "%zu bytes long, at most %d are allowed", id.len,
                         MLXD_LIMIT_DEVICE_ID);
    for (size_t i = 0; i < id.len; i++)
        if (!is_label_byte(id.data[i]))
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "\"%.*s\" has byte 0x%02x at %zu, expected a-z, 0-9 or '-'",
                             (int)id.len, (const char *)id.data, id.data[i], i);
    if (id.data[0] == '-' || id.data[id.len - 1] == '-')
        return mlxd_fail(why, MLXD_ERR_INVALID, "\"%.*s\" begins or ends with '-'", (int)id.len,
                         (const char *)id.data);
    return MLXD_OK;
}

static mlxd_err copy_id(char out[MLXD_LIMIT_DEVICE_ID + 1], mlxd_slice id, const char *field,
                        mlxd_why *why) {
    mlxd_err err = mlxd_identity_check_id(id, why);
    if (err)
        return mlxd_fail_in(why, err, "%s name", field);
    memcpy(out, id.data, id.len);
    out[id.len] = 0;
    return MLXD_OK;
}

mlxd_err mlxd_identity_init(mlxd_identity *out, mlxd_role role, const char *cluster,
                            const char *device, mlxd_why *why) {
    MLXD_ASSERT(role == MLXD_ROLE_COORDINATOR || role == MLXD_ROLE_WORKER ||
                role == MLXD_ROLE_OPERATOR);
    mlxd_identity id = {.role = role};
    *out = (mlxd_identity){0};
    mlxd_err err = copy_id(id.cluster, mlxd_slice_str(cluster), "cluster", why);
    if (!err)
        err = copy_id(id.device, mlxd_slice_str(device), "device", why);
    if (!err)
        *out = id;
    return err;
}

/* Cuts off what stands before the next '/'; false when there is none. */
static bool cut(mlxd_slice *rest, mlxd_slice *head) {
    const uint8_t *slash = rest->len ? memchr(rest->data, '/', rest->len) : NULL;
    if (!slash)
        return false;
    size_t len = (size_t)(slash - rest->data);
    *head = (mlxd_slice){rest->data, len};
    *rest = (mlxd_slice){slash + 1, rest->len - len - 1};
    return true;
}

mlxd_err mlxd_identity_parse_uri(mlxd_slice uri, mlxd_identity *out, mlxd_why *why) {
    static const char scheme[] = "spiffe://";
    const size_t scheme_len = sizeof scheme - 1;
    *out = (mlxd_identity){0};
    if (uri.len >= MLXD_IDENTITY_URI_MAX || uri.len < scheme_len ||
        memcmp(uri.data, scheme, scheme_len) != 0)
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "\"%.*s\" is not spiffe://<cluster>/<role>/<device>",
                         (int)MLXD_MIN(uri.len, (size_t)MLXD_IDENTITY_URI_MAX),
                         uri.len ? (const char *)uri.data : "");
    mlxd_slice rest = {uri.data + scheme_len, uri.len - scheme_len};
    mlxd_slice cluster, role;
    mlxd_identity id = {0};
    if (!cut(&rest, &cluster) || !cut(&rest, &role) || !mlxd_role_parse(role, &id.role))
        return mlxd_fail(why, MLXD_ERR_INVALID,
                         "\"%.*s\" has no role coordinator, worker or operator after the cluster",
                         (int)uri.len, (const char *)uri.data);
    mlxd_err err = copy_id(id.cluster, cluster, "cluster", why);
    if (!err)
        err = copy_id(id.device, rest, "device", why);
    if (!err)
        *out = id;
    return err;
}

void mlxd_identity_uri(const mlxd_identity *id, char out[MLXD_IDENTITY_URI_MAX]) {
    MLXD_ASSERT(id->role != MLXD_ROLE_NONE);
    snprintf(out, MLXD_IDENTITY_URI_MAX, "spiffe://%s/%s/%s", id->cluster, mlxd_role_name(id->role),
             id->device);
}

void mlxd_identity_dns(const char *cluster, const char *device, char out[MLXD_IDENTITY_DNS_MAX]) {
    int n = snprintf(out, MLXD_IDENTITY_DNS_MAX, "%s.%s.mlxd", device, cluster);
    MLXD_ASSERT(n > 0 && n < MLXD_IDENTITY_DNS_MAX);
}
