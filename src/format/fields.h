/* fields.h - the protobuf wire format, field by field: for messages whose payload must stay where
 * it is, which generated code would copy, and for messages too small for it.
 *
 *     key (varint: number << 3 | wire type), then
 *         0 varint   1 eight bytes   2 varint length + bytes   5 four bytes
 *
 * Groups (3 and 4) are refused: nobody sends them. Pure functions; any thread.
 */
#ifndef MLXD_FORMAT_FIELDS_H
#define MLXD_FORMAT_FIELDS_H

#include "base/mem.h"

typedef enum mlxd_wire {
    MLXD_WIRE_VARINT = 0,
    MLXD_WIRE_FIXED64 = 1,
    MLXD_WIRE_BYTES = 2,
    MLXD_WIRE_FIXED32 = 5
} mlxd_wire;

typedef struct mlxd_field {
    uint32_t number;
    unsigned wire;    /* an mlxd_wire */
    uint64_t value;   /* VARINT */
    mlxd_slice bytes; /* BYTES, FIXED32, FIXED64: inside the message */
} mlxd_field;

/* Reads the next one and moves *in behind it; false when the bytes are malformed. */
bool mlxd_field_next(mlxd_slice *in, mlxd_field *out) MLXD_MUST_CHECK;
bool mlxd_field_varint(mlxd_slice *in, uint64_t *out) MLXD_MUST_CHECK;
/* Hands every field of a message to `take`; false when malformed or when `take` refuses one. */
bool mlxd_field_scan(mlxd_slice message, bool (*take)(void *out, const mlxd_field *f),
                     void *out) MLXD_MUST_CHECK;
/* A field's value as the type it must have; false when it has another. */
bool mlxd_field_bytes(mlxd_slice *out, const mlxd_field *f) MLXD_MUST_CHECK;
bool mlxd_field_double(double *out, const mlxd_field *f) MLXD_MUST_CHECK;
bool mlxd_field_int32(int32_t *out, const mlxd_field *f) MLXD_MUST_CHECK;

/* Appends a varint; key and length of a field of `len` bytes, which follow it. */
void mlxd_field_add_varint(mlxd_buf *out, uint64_t v);
void mlxd_field_add_head(mlxd_buf *out, uint32_t number, size_t len);

#endif
