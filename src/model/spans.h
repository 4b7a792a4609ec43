/* spans.h - a set of byte ranges of numbered files: which parts of a copy are there.
 *
 * Kept sorted by file and begin, without overlaps; neighbours that touch are one. Plain value,
 * zeroed is empty.
 */
#ifndef MLXD_MODEL_SPANS_H
#define MLXD_MODEL_SPANS_H

#include "base/base.h"

typedef struct mlxd_span {
    uint32_t file;
    uint64_t begin, end; /* bytes [begin, end) */
} mlxd_span;

typedef struct mlxd_spans {
    mlxd_span *items; /* owned */
    size_t count, room;
} mlxd_spans;

void mlxd_spans_deinit(mlxd_spans *s);
/* false: no memory; the set is as before. An empty range changes nothing. */
bool mlxd_spans_add(mlxd_spans *s, const mlxd_span *span) MLXD_MUST_CHECK;
bool mlxd_spans_remove(mlxd_spans *s, const mlxd_span *span) MLXD_MUST_CHECK;
/* The first piece of `span` that is not in the set; false: all of it is. */
bool mlxd_spans_gap(const mlxd_spans *s, const mlxd_span *span, mlxd_span *out);
/* Bytes of `span` that are not in the set. */
uint64_t mlxd_spans_missing(const mlxd_spans *s, const mlxd_span *span);
/* Bytes in the set. */
uint64_t mlxd_spans_bytes(const mlxd_spans *s);

#endif
