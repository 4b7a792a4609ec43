/* wire.h - messages of mlxd.StageService as values: encoded into a header and, for steps, a payload
 * that is sent from where it lies; decoded with every size checked before anything is believed.
 *
 * A message on the wire is the protobuf message of proto/stage_service.proto whose last field is
 * `hidden` (tag 1000):   header bytes | tag, length | hidden states, little-endian f32
 */
#ifndef MLXD_CLUSTER_WIRE_H
#define MLXD_CLUSTER_WIRE_H

#include "backend/stage.h"
#include "base/mem.h"
#include "model/replica.h"

#include <stage_service.pb-c.h>

#define MLXD_WIRE_PROTOCOL 2 /* raised by every change that an older node would not understand */
#define MLXD_WIRE_WORK "/mlxd.StageService/Work"
#define MLXD_WIRE_BEAT "/mlxd.StageService/Beat"
/* Unsent bytes of one Work stream: several steps of the largest size. */
#define MLXD_WIRE_UNSENT_MAX (4u * MLXD_LIMIT_GRPC_STREAM_MESSAGE)

/* Splits a received message at its `hidden` field. `hidden` is empty when there is none. PROTO: not
 * a protobuf message, or something follows `hidden`. */
mlxd_err mlxd_wire_split(mlxd_slice message, mlxd_slice *header, mlxd_slice *hidden,
                         mlxd_why *why) MLXD_MUST_CHECK;

/* Appends an encoded WorkRequest / WorkReply without hidden states. */
void mlxd_wire_request(mlxd_buf *out, const Mlxd__WorkRequest *m);
void mlxd_wire_reply(mlxd_buf *out, const Mlxd__WorkReply *m);
/* Appends tag and length of `hidden`; the payload is sent behind it. */
void mlxd_wire_hidden(mlxd_buf *out, size_t bytes);

/* ---- steps ---- */

/* Appends the header of a step, up to the payload (n_tokens x width f32). */
void mlxd_wire_step(mlxd_buf *out, const mlxd_step *s, bool last);
/* Fills `s` from a received step. PROTO with the reason unless rows, tokens and hidden states agree
 * and fit. *last is set. */
mlxd_err mlxd_wire_read_step(mlxd_step *s, const Mlxd__Step *m, mlxd_slice hidden, bool *last,
                             mlxd_why *why) MLXD_MUST_CHECK;
/* Appends the header of the answer to a step: rows kept, time; payload n_hidden x width f32. */
void mlxd_wire_step_reply(mlxd_buf *out, const mlxd_step *s, mlxd_err err, const mlxd_why *why);
/* Applies a received answer to the step it belongs to: leaves out rows that the worker left out and
 * takes over the hidden states. Returns the worker's error (with its text), or PROTO. */
mlxd_err mlxd_wire_read_step_reply(mlxd_step *s, bool last, const Mlxd__StepReply *m,
                                   mlxd_slice hidden, mlxd_why *why) MLXD_MUST_CHECK;

/* ---- model files ---- */

/* Fetches of one worker that may wait for their chunk, and how many of them a worker of ours has
 * (the rest is room for the moment between a chunk's arrival and its sender's knowing of it). */
#define MLXD_WIRE_FETCHES_MAX 16
#define MLXD_WIRE_FETCH_WINDOW 8
#define MLXD_WIRE_FETCH_BYTES (1u << 20) /* of one fetch of ours */

/* Appends an encoded hello with `spec` as its model (NULL: as it is). */
void mlxd_wire_hello(mlxd_buf *out, Mlxd__Hello *hello, const mlxd_replica_spec *spec);
/* The model of a received hello, checked; the caller closes *out. INVALID, NOMEM. */
mlxd_err mlxd_wire_read_model(mlxd_replica_spec *out, const Mlxd__Model *m,
                              mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_wire_fetch(mlxd_buf *out, const mlxd_span *span);
/* Appends the header of a chunk; its bytes follow as the payload. */
void mlxd_wire_chunk(mlxd_buf *out, const mlxd_span *span, const uint8_t sha256[MLXD_SHA256_BYTES]);

#endif
