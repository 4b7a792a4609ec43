/* tensor_service.h - the contract's gRPC service, tensor_service.TensorService, on coordinator and
 * worker alike. Messages are those of proto/tensor_service.proto.
 *
 *     SendTensor, GetTensor   a bounded store of tensors by id (tensor_store.h)
 *     ForwardPass             layers layer_start..layer_end (inclusive), stateless
 *     HealthCheck, GetClusterStatus   what the node says about itself and its cluster
 *
 * Errors are gRPC statuses with a text; an OK answer has success = true and message = "".
 *
 *     INVALID_ARGUMENT     malformed message; names, shape, dtype, compression, length of the data,
 *                          timeout, a reversed or negative layer range
 *     DATA_LOSS            NaN or infinity in a float tensor, or in the result of a pass
 *     FAILED_PRECONDITION  these layers are not here (the text says which ones are)
 *     OUT_OF_RANGE         a pass over more positions than the context has
 *     RESOURCE_EXHAUSTED   store, queue or a message's length
 *     NOT_FOUND            no such tensor, or it did not come within the timeout
 *     DEADLINE_EXCEEDED, CANCELLED   before any compute, when the call was still waiting
 *     UNAVAILABLE          the node is shutting down
 *
 * THREADS. Callbacks on the gRPC poller only queue. One thread of the service's own owns the store,
 * the callers that wait for a tensor, their timers, and the line of forward passes, of which one at
 * a time is handed to `forward`: the ones behind it can still be cancelled. Health and status are
 * answered on the poller, from `view`.
 */
#ifndef MLXD_CLUSTER_TENSOR_SERVICE_H
#define MLXD_CLUSTER_TENSOR_SERVICE_H

#include "cluster/forward.h" /* mlxd_forward_submit is what a node gives as `forward` */
#include "net/transport.h"

typedef struct mlxd_tensor_service mlxd_tensor_service;

/* Runs layers [first, end) on hidden [n][width] in place, later calls done(done_ctx, err, why)
 * once, on any thread but never inside this call. On error nothing was taken. Like
 * mlxd_forward_submit. */
typedef mlxd_err mlxd_tensor_forward(void *ctx, uint32_t first, uint32_t end, float *hidden,
                                     uint32_t n, uint32_t width, mlxd_forward_done *done,
                                     void *done_ctx);

typedef struct mlxd_tensor_device {
    char device[MLXD_LIMIT_DEVICE_ID + 1];
    char hostname[256];
    uint16_t port;
    const char *role;    /* "coordinator", "worker"; static */
    uint32_t first, end; /* layers [first, end); both 0: none */
    const char *status;  /* "online" ...; static */
} mlxd_tensor_device;

typedef struct mlxd_tensor_view {
    bool healthy;
    mlxd_why text; /* status_message of HealthCheck */
    char coordinator[MLXD_LIMIT_DEVICE_ID + 1];
    uint32_t n_devices;
    mlxd_tensor_device devices[MLXD_LIMIT_NODES];
} mlxd_tensor_view;

typedef struct mlxd_tensor_service_params {
    const char *device;           /* this one */
    uint32_t hidden_max;          /* largest hidden size that the model may have */
    mlxd_tensor_forward *forward; /* NULL: ForwardPass is FAILED_PRECONDITION, "no layers here" */
    /* The model's hidden size and number of layers; false: there is no model (yet). Any thread. */
    bool (*shape)(void *ctx, uint32_t *hidden, uint32_t *layers);
    void *forward_ctx; /* of both */
    /* Fills *out, which is zeroed. On the poller thread: must not block. */
    void (*view)(void *ctx, mlxd_tensor_view *out);
    void *view_ctx;
} mlxd_tensor_service_params;

/* Starts the service's thread. NOMEM. */
mlxd_err mlxd_tensor_service_open(mlxd_tensor_service **out, const mlxd_tensor_service_params *p,
                                  mlxd_why *why) MLXD_MUST_CHECK;
/* The server with our methods must be closed before, what is behind `forward` after. Waits for the
 * pass that is running. NULL is fine. */
void mlxd_tensor_service_close(mlxd_tensor_service *s);

/* Rows for the server's method table. */
#define MLXD_TENSOR_METHODS 5
void mlxd_tensor_service_methods(mlxd_tensor_service *s, mlxd_rpc_method out[MLXD_TENSOR_METHODS]);

#endif
