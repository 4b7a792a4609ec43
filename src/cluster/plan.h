/* plan.h - which device computes which layers, and what that predicts.
 *
 * A plan gives each device a contiguous range of layers, so that together they cover the model
 * exactly and none holds more than its memory. devices[0] is the coordinator: it also holds the
 * head (embeddings and vocabulary projection) and reads it for every token. The ranges follow the
 * order of the devices. Among all such splits the plan is the one with, in this order,
 *
 *   1. the most devices in use: who lists a worker wants it used. A device gets no layers only
 *      when there are fewer layers than devices or when its memory does not hold one;
 *   2. the smallest time of the slowest stage: that is the pipeline's throughput with several
 *      requests in flight;
 *   3. the smallest sum of the stages' times: the time per token of one stream;
 *   4. the most even times (sum of squares), and then more layers for the earlier device.
 *
 * Whether a further device pays is the caller's question: make the plan for the first 1..n devices
 * and compare. A stage's time is modelled as bytes read / speed, because decoding reads every
 * weight once per token; attention at long contexts comes on top. Links have no part in the choice
 * (a device in use costs its round trip whatever it is given) but in the prediction.
 *
 * The search is exact: a dynamic programme over (device, layer) in integer arithmetic, so equal
 * inputs give equal plans on every machine. O(devices x layers^2): under a millisecond for common
 * models, 0.2 s for 64 devices and 1024 layers.
 *
 * Pure functions without I/O; any thread. All structs are plain values.
 */
#ifndef MLXD_CLUSTER_PLAN_H
#define MLXD_CLUSTER_PLAN_H

#include "base/base.h"
#include "base/limits.h"
#include "model/config.h"
#include "model/checkpoint.h"

/* What the model asks of memory and time. */
typedef struct mlxd_plan_model {
    uint32_t layers;                              /* 1..MLXD_LIMIT_LAYERS */
    uint64_t layer_bytes[MLXD_LIMIT_LAYERS];      /* weights of each layer, as packed in memory */
    uint64_t layer_read_bytes[MLXD_LIMIT_LAYERS]; /* of them, read per token: not all experts */
    uint64_t head_bytes;      /* embeddings, output norm and projection: memory of devices[0] */
    uint64_t head_read_bytes; /* what one token reads of them: all of a tied head, else the
                                 projection */
    uint64_t kv_page_bytes;   /* one KV page of one layer */
    uint32_t kv_pages;        /* size of the KV pool: each device holds it for its layers */
    uint32_t parallel;        /* requests in flight; bounds the aggregate prediction; 0: enough */
} mlxd_plan_model;

typedef struct mlxd_plan_device {
    char id[MLXD_LIMIT_DEVICE_ID + 1];
    uint64_t memory_bytes; /* that layers, KV and head may take */
    double speed;          /* weight bytes per second through the product kernel; finite, > 0. With
                              relative speeds the plan is the same and times are in other units */
    double link_s;         /* round trip from the coordinator; 0 for devices[0] or when unknown */
} mlxd_plan_device;

/* One device's part. */
typedef struct mlxd_plan_share {
    uint32_t first, end; /* layers [first, end); both 0: none */
    uint64_t weights_bytes;
    uint64_t kv_bytes;
    uint64_t head_bytes; /* 0 but for devices[0] */
    uint64_t left_bytes; /* memory_bytes less the three above */
    double stage_s;      /* compute time of one token */
} mlxd_plan_share;

typedef struct mlxd_plan {
    uint32_t n_devices;
    uint32_t n_used;                          /* with at least one layer */
    mlxd_plan_share shares[MLXD_LIMIT_NODES]; /* in the order of the devices given */
    double slowest_s;                         /* largest stage_s */
    double stream_s;      /* one token of one stream: stages and round trips, one after the other */
    double stream_tps;    /* predicted tokens/s of one stream: 1 / stream_s */
    double aggregate_tps; /* predicted tokens/s of `parallel` requests, a token of one request per
                             step: min(1 / slowest_s, parallel / stream_s) */
} mlxd_plan;

/* The facts of a model file whose configuration is `c`, for a KV pool of `kv_pages`. Looks at
 * tensor infos only. Errors of mlxd_layers_size and mlxd_vocab_size. */
mlxd_err mlxd_plan_model_read(mlxd_plan_model *out, const mlxd_checkpoint *f, const mlxd_config *c,
                              uint32_t kv_pages, uint32_t parallel, mlxd_why *why) MLXD_MUST_CHECK;

/* The best plan, as defined above. 1 <= n <= MLXD_LIMIT_NODES (asserted).
 * INVALID: an id is empty or given twice, a speed is not a positive number, or the slowest is more
 *          than MLXD_PLAN_SPEED_RATIO_MAX times slower than the fastest
 * NOMEM:   it does not fit; the text has what is needed and what there is */
#define MLXD_PLAN_SPEED_RATIO_MAX 1e6
#define MLXD_PLAN_BYTES_MAX (1ull << 50) /* model with KV; memory of a device beyond is not used */
mlxd_err mlxd_plan_make(mlxd_plan *out, const mlxd_plan_model *m, const mlxd_plan_device *devices,
                        size_t n, mlxd_why *why) MLXD_MUST_CHECK;

/* A wish: "ID:FIRST-LAST", layers counted from 0, LAST inclusive; "ID:N" is one layer. */
typedef struct mlxd_plan_range {
    char id[MLXD_LIMIT_DEVICE_ID + 1];
    uint32_t first, last;
} mlxd_plan_range;

/* INVALID unless `text` has that form. Whether device and layers exist is checked below. */
mlxd_err mlxd_plan_parse_range(const char *text, mlxd_plan_range *out,
                               mlxd_why *why) MLXD_MUST_CHECK;

/* The plan that the operator prescribes, in any order of devices. Every worker must be named once;
 * the coordinator may be left out: it then computes only the head.
 * INVALID: unknown device, device named twice or not at all, layers beyond the model, in two
 *          ranges or in none; NOMEM: a device cannot hold its layers. The text names device and
 *          layers. */
mlxd_err mlxd_plan_prescribe(mlxd_plan *out, const mlxd_plan_model *m,
                             const mlxd_plan_device *devices, size_t n,
                             const mlxd_plan_range *ranges, size_t n_ranges,
                             mlxd_why *why) MLXD_MUST_CHECK;

/* The largest KV pool, at most m->kv_pages, with which the model fits the devices at all; 0 when
 * it does not fit with one page. m and devices as a plan has accepted them or would. A pool that
 * fills the memory leaves the plan no choice of ranges: ask for what is needed, not for all. */
uint32_t mlxd_plan_pages(const mlxd_plan_model *m, const mlxd_plan_device *devices, size_t n);
/* The same for prescribed ranges; those that mlxd_plan_prescribe refuses are not looked at. */
uint32_t mlxd_plan_pages_prescribed(const mlxd_plan_model *m, const mlxd_plan_device *devices,
                                    size_t n, const mlxd_plan_range *ranges, size_t n_ranges);

#endif
