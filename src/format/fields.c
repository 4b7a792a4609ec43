/* fields.c - see fields.h. */
#include "format/fields.h"

#include <string.h>

bool mlxd_field_varint(mlxd_slice *in, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && in->len; shift += 7) {
        uint8_t byte = *in->data++;
        in->len--;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *out = v;
            return shift < 63 || byte <= 1;
        }
    }
    return false;
}

bool mlxd_field_next(mlxd_slice *in, mlxd_field *f) {
    uint64_t key, n = 0;
    *f = (mlxd_field){0};
    if (!mlxd_field_varint(in, &key) || key > UINT32_MAX || key >> 3 == 0)
        return false;
    f->number = (uint32_t)(key >> 3);
    f->wire = (unsigned)(key & 7);
    switch (f->wire) {
    case MLXD_WIRE_VARINT:
        return mlxd_field_varint(in, &f->value);
    case MLXD_WIRE_BYTES:
        if (!mlxd_field_varint(in, &n))
            return false;
        break;
    case MLXD_WIRE_FIXED64:
    case MLXD_WIRE_FIXED32:
        n = f->wire == MLXD_WIRE_FIXED64 ? 8 : 4;
        break;
    default:
        return false;
    }
    if (n > in->len)
        return false;
    f->bytes = (mlxd_slice){in->data, (size_t)n};
    in->data += n;
    in->len -= (size_t)n;
    return true;
}

bool mlxd_field_scan(mlxd_slice m, bool (*take)(void *out, const mlxd_field *f), void *out) {
    mlxd_field f;
    while (m.len)
        if (!mlxd_field_next(&m, &f) || !take(out, &f))
            return false;
    return true;
}

bool mlxd_field_bytes(mlxd_slice *out, const mlxd_field *f) {
    *out = f->bytes;
    return f->wire == MLXD_WIRE_BYTES;
}

bool mlxd_field_double(double *out, const mlxd_field *f) {
    if (f->wire != MLXD_WIRE_FIXED64)
        return false;
    memcpy(out, f->bytes.data, sizeof *out);
    return true;
}

bool mlxd_field_int32(int32_t *out, const mlxd_field *f) {
    *out = (int32_t)(uint32_t)f->value;
    return f->wire == MLXD_WIRE_VARINT;
}

void mlxd_field_add_varint(mlxd_buf *out, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        mlxd_buf_add_byte(out, (uint8_t)(v | 0x80));
    mlxd_buf_add_byte(out, (uint8_t)v);
}

void mlxd_field_add_head(mlxd_buf *out, uint32_t number, size_t len) {
    mlxd_field_add_varint(out, (uint64_t)number << 3 | MLXD_WIRE_BYTES);
    mlxd_field_add_varint(out, len);
}
