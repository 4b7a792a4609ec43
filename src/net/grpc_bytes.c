/* grpc_bytes.c - messages, headers and statuses between gRPC's types and ours.
 *
 * Sending: every part becomes a slice, copied or lent; gRPC writes them one behind the other.
 * Receiving: 1 MiB comes in about 17 slices; they are copied once into one block of ours, which
 * then owes nothing to gRPC and may outlive it.
 */
#include "net/grpc_core.h"

#include <grpc/byte_buffer_reader.h>

#include <string.h>

/* ---- parts ---- */

static grpc_slice slice_of(const mlxd_rpc_part *part) {
    if (part->release)
        return grpc_slice_new_with_user_data((void *)(uintptr_t)part->bytes.data, part->bytes.len,
                                             part->release, part->release_ctx);
    return grpc_slice_from_copied_buffer((const char *)part->bytes.data, part->bytes.len);
}

mlxd_err mlxd_rpc_bytes_len(const mlxd_rpc_part *parts, size_t n, size_t *out) {
    *out = 0;
    if (n > MLXD_RPC_PARTS_MAX)
        return MLXD_ERR_INVALID;
    for (size_t i = 0; i < n; i++)
        if (!mlxd_add_size(*out, parts[i].bytes.len, out) || *out > MLXD_LIMIT_GRPC_MESSAGE)
            return MLXD_ERR_INVALID;
    return MLXD_OK;
}

grpc_byte_buffer *mlxd_rpc_bytes_join(const mlxd_rpc_part *parts, size_t n) {
    grpc_slice slices[MLXD_RPC_PARTS_MAX];
    MLXD_ASSERT(n <= MLXD_RPC_PARTS_MAX);
    for (size_t i = 0; i < n; i++)
        slices[i] = slice_of(&parts[i]);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, n);
    for (size_t i = 0; i < n; i++)
        grpc_slice_unref(slices[i]);
    return buffer;
}

void mlxd_rpc_bytes_release(const mlxd_rpc_part *parts, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (parts[i].release)
            parts[i].release(parts[i].release_ctx);
}

/* ---- messages ---- */

mlxd_rpc_msg *mlxd_rpc_msg_from(grpc_byte_buffer *buffer) {
    size_t len = grpc_byte_buffer_length(buffer), size;
    mlxd_rpc_msg *msg = NULL;
    if (mlxd_add_size(sizeof *msg, len, &size))
        msg = mlxd_mem_resize(NULL, size, 1);
    if (msg) {
        *msg = (mlxd_rpc_msg){.len = len};
        grpc_byte_buffer_reader reader;
        int ok = grpc_byte_buffer_reader_init(&reader, buffer);
        MLXD_ASSERT(ok);
        grpc_slice *slice;
        size_t at = 0;
        while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
            MLXD_ASSERT(GRPC_SLICE_LENGTH(*slice) <= len - at);
            memcpy(msg->data + at, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
            at += GRPC_SLICE_LENGTH(*slice);
        }
        MLXD_ASSERT(at == len);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(buffer);
    return msg;
}

mlxd_slice mlxd_rpc_msg_bytes(const mlxd_rpc_msg *msg) {
    return (mlxd_slice){msg->data, msg->len};
}

void mlxd_rpc_msg_free(mlxd_rpc_msg *msg) {
    if (!msg)
        return;
    void (*freed)(void *owner, size_t len) = msg->freed;
    void *owner = msg->owner;
    size_t len = msg->len;
    mlxd_mem_free(msg);
    if (freed)
        freed(owner, len);
}

/* ---- status ---- */

mlxd_err mlxd_rpc_err_of(int code) {
    static const mlxd_err table[] = {
        [GRPC_STATUS_OK] = MLXD_OK,
        [GRPC_STATUS_CANCELLED] = MLXD_ERR_CANCELLED,
        [GRPC_STATUS_UNKNOWN] = MLXD_ERR_PROTO,
        [GRPC_STATUS_INVALID_ARGUMENT] = MLXD_ERR_INVALID,
        [GRPC_STATUS_DEADLINE_EXCEEDED] = MLXD_ERR_TIMEOUT,
        [GRPC_STATUS_NOT_FOUND] = MLXD_ERR_NOTFOUND,
        [GRPC_STATUS_ALREADY_EXISTS] = MLXD_ERR_EXISTS,
        [GRPC_STATUS_PERMISSION_DENIED] = MLXD_ERR_PERM,
        [GRPC_STATUS_RESOURCE_EXHAUSTED] = MLXD_ERR_FULL,
        [GRPC_STATUS_FAILED_PRECONDITION] = MLXD_ERR_STATE,
        [GRPC_STATUS_ABORTED] = MLXD_ERR_AGAIN,
        [GRPC_STATUS_OUT_OF_RANGE] = MLXD_ERR_RANGE,
        [GRPC_STATUS_UNIMPLEMENTED] = MLXD_ERR_UNSUPPORTED,
        [GRPC_STATUS_INTERNAL] = MLXD_ERR_IO,
        [GRPC_STATUS_UNAVAILABLE] = MLXD_ERR_PEER,
        [GRPC_STATUS_DATA_LOSS] = MLXD_ERR_CORRUPT,
        [GRPC_STATUS_UNAUTHENTICATED] = MLXD_ERR_PERM,
    };
    return code >= 0 && (size_t)code < MLXD_COUNT_OF(table) ? table[code] : MLXD_ERR_PROTO;
}

void mlxd_rpc_status_set(mlxd_rpc_status *status, int code, const char *text) {
    *status = (mlxd_rpc_status){.err = mlxd_rpc_err_of(code), .code = code};
    if (status->err)
        (void)mlxd_fail(&status->why, status->err, "%s", text);
}

grpc_slice mlxd_rpc_text_slice(const char *text) {
    return grpc_slice_from_copied_string(text ? text : "");
}

/* ---- headers ---- */

/* Path and headers of a call in one block: rows, then the bytes they point into. */
typedef struct headers {
    size_t count;
    struct {
        mlxd_slice key;
        mlxd_slice value;
    } rows[];
} headers;

static mlxd_slice copy_slice(grpc_slice from, uint8_t **at) {
    mlxd_slice to = {*at, GRPC_SLICE_LENGTH(from)};
    if (to.len)
        memcpy(*at, GRPC_SLICE_START_PTR(from), to.len);
    *at += to.len;
    return to;
}

bool mlxd_rpc_info_own(mlxd_rpc_info *info, const char *path, const grpc_metadata_array *array) {
    headers *h;
    size_t count = array ? array->count : 0, path_size = strlen(path) + 1;
    size_t size = sizeof *h + count * sizeof h->rows[0] + path_size;
    for (size_t i = 0; i < count; i++) /* bounded by MLXD_LIMIT_GRPC_METADATA */
        size +=
            GRPC_SLICE_LENGTH(array->metadata[i].key) + GRPC_SLICE_LENGTH(array->metadata[i].value);
    h = mlxd_mem_new(1, size);
    if (!h)
        return false;
    uint8_t *at = (uint8_t *)&h->rows[count];
    h->count = count;
    for (size_t i = 0; i < count; i++) {
        h->rows[i].key = copy_slice(array->metadata[i].key, &at);
        h->rows[i].value = copy_slice(array->metadata[i].value, &at);
    }
    memcpy(at, path, path_size);
    info->path = (const char *)at;
    info->metadata = h;
    return true;
}

void mlxd_rpc_info_disown(mlxd_rpc_info *info) {
    mlxd_mem_free((void *)(uintptr_t)info->metadata);
    info->metadata = NULL;
    info->path = NULL;
}

bool mlxd_rpc_info_metadata(const mlxd_rpc_info *info, const char *key, mlxd_slice *out) {
    const headers *h = info->metadata;
    for (size_t i = 0; h && i < h->count; i++)
        if (mlxd_slice_eq(h->rows[i].key, mlxd_slice_str(key))) {
            *out = h->rows[i].value;
            return true;
        }
    *out = (mlxd_slice){0};
    return false;
}

mlxd_err mlxd_rpc_request_id_check(const char *id, mlxd_why *why) {
    size_t len = strlen(id);
    if (len == 0 || len > 128)
        return mlxd_fail(why, MLXD_ERR_INVALID, "request id has %zu bytes, expected 1 to 128", len);
    for (size_t i = 0; i < len; i++)
        if (id[i] <= 0x20 || id[i] > 0x7e)
            return mlxd_fail(why, MLXD_ERR_INVALID,
                             "request id has byte 0x%02x at %zu, expected printable ASCII",
                             (unsigned)(unsigned char)id[i], i);
    return MLXD_OK;
}
