/* api_stages.h - which devices of a node's snapshot are the stages of the pipeline. */
#ifndef MLXD_SERVE_API_STAGES_H
#define MLXD_SERVE_API_STAGES_H

#include "serve/node.h"

/* Indices into v->devices of the devices that hold layers, in the order of their layers; returns
 * their number. */
uint32_t mlxd_api_stages(const mlxd_node_view *v, uint32_t out[MLXD_LIMIT_NODES]);

#endif
