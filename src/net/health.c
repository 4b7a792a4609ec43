/* health.c - see health.h. The two messages are so small that they are coded by hand:
 *
 *     request   0a <varint length> <service name>      field 1, length-delimited
 *     response  08 <varint status>                     field 1, varint
 */
#include "net/health.h"

#include "base/mem.h"
#include "format/fields.h"

#include <string.h>

/* ---- wire ---- */

static bool take_service(void *out, const mlxd_field *f) {
    return f->number != 1 || mlxd_field_bytes(out, f);
}

mlxd_err mlxd_health_decode_request(mlxd_slice bytes, mlxd_slice *service) {
    *service = mlxd_slice_str("");
    if (!mlxd_field_scan(bytes, take_service, service))
        return MLXD_ERR_INVALID;
    return service->len <= MLXD_HEALTH_NAME_MAX ? MLXD_OK : MLXD_ERR_INVALID;
}

static bool take_status(void *out, const mlxd_field *f) {
    mlxd_health_status *status = out;
    if (f->number != 1)
        return true;
    *status = f->value == 1   ? MLXD_HEALTH_SERVING
              : f->value == 2 ? MLXD_HEALTH_NOT_SERVING
                              : MLXD_HEALTH_UNKNOWN;
    return f->wire == MLXD_WIRE_VARINT;
}

mlxd_err mlxd_health_decode_response(mlxd_slice bytes, mlxd_health_status *status) {
    *status = MLXD_HEALTH_UNKNOWN;
    return mlxd_field_scan(bytes, take_status, status) ? MLXD_OK : MLXD_ERR_INVALID;
}

/* ---- server ---- */

mlxd_err mlxd_health_add(mlxd_health *health, const char *name,
                         mlxd_health_status (*status)(void *ctx), void *ctx) {
    MLXD_ASSERT(status && strlen(name) <= MLXD_HEALTH_NAME_MAX);
    if (health->count >= MLXD_HEALTH_SERVICES_MAX)
        return MLXD_ERR_FULL;
    health->services[health->count++] = (mlxd_health_service){name, status, ctx};
    return MLXD_OK;
}

static const mlxd_health_service *find(const mlxd_health *health, mlxd_slice name) {
    for (size_t i = 0; i < health->count; i++)
        if (mlxd_slice_eq(mlxd_slice_str(health->services[i].name), name))
            return &health->services[i];
    return NULL;
}

static void on_check(void *ctx, mlxd_rpc_call *call, mlxd_rpc_msg *msg) {
    mlxd_slice name;
    mlxd_err err = mlxd_health_decode_request(mlxd_rpc_msg_bytes(msg), &name);
    const mlxd_health_service *service = err ? NULL : find(ctx, name);
    mlxd_rpc_msg_free(msg);
    if (err) {
        mlxd_rpc_call_fail(call, err, "malformed HealthCheckRequest");
    } else if (!service) {
        mlxd_rpc_call_fail(call, MLXD_ERR_NOTFOUND, "unknown service");
    } else {
        uint8_t reply[2] = {0x08, (uint8_t)service->status(service->ctx)};
        mlxd_rpc_part part = {.bytes = {reply, sizeof reply}};
        mlxd_rpc_call_reply(call, &part, 1);
    }
}

mlxd_rpc_method mlxd_health_method(mlxd_health *health) {
    return (mlxd_rpc_method){.path = "/grpc.health.v1.Health/Check",
                             .kind = MLXD_RPC_UNARY,
                             .roles = MLXD_ROLES_ALL,
                             .ctx = health,
                             .on_call = on_check,
                             .message_max = 4096};
}

/* ---- client ---- */

typedef struct checking {
    void (*on_status)(void *user, const mlxd_rpc_status *rpc, mlxd_health_status status);
    void *user;
} checking;

static void on_reply(void *user, const mlxd_rpc_status *rpc, mlxd_rpc_msg *reply) {
    checking *c = user;
    mlxd_rpc_status result = *rpc;
    mlxd_health_status status = MLXD_HEALTH_UNKNOWN;
    if (reply && mlxd_health_decode_response(mlxd_rpc_msg_bytes(reply), &status))
        result.err = mlxd_fail(&result.why, MLXD_ERR_PROTO, "malformed HealthCheckResponse");
    mlxd_rpc_msg_free(reply);
    c->on_status(c->user, &result, status);
    mlxd_mem_free(c);
}

mlxd_err mlxd_health_check(mlxd_rpc_channel *channel, const mlxd_health_request *request,
                           mlxd_why *why) {
    uint8_t head[3] = {0x0a};
    size_t len = strlen(request->service), head_len = 2;
    if (len > MLXD_HEALTH_NAME_MAX)
        return mlxd_fail(why, MLXD_ERR_INVALID, "service name of %zu bytes, at most %d", len,
                         MLXD_HEALTH_NAME_MAX);
    head[1] = (uint8_t)(len & 0x7f);
    if (len > 0x7f) {
        head[1] |= 0x80;
        head[2] = (uint8_t)(len >> 7);
        head_len = 3;
    }
    checking *c = mlxd_mem_new(1, sizeof *c);
    if (!c)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "health check");
    *c = (checking){request->on_status, request->user};
    mlxd_rpc_part parts[2] = {{.bytes = {head, head_len}},
                              {.bytes = mlxd_slice_str(request->service)}};
    mlxd_rpc_request call = {.path = "/grpc.health.v1.Health/Check",
                             .deadline_ns = request->deadline_ns,
                             .parts = parts,
                             .n = 2,
                             .reply_max = 4096,
                             .on_reply = on_reply,
                             .user = c};
    mlxd_err err = mlxd_rpc_channel_call(channel, &call, why);
    if (err)
        mlxd_mem_free(c);
    return err;
}
