/* api_stages.c - see api_stages.h. */
#include "serve/api_stages.h"

uint32_t mlxd_api_stages(const mlxd_node_view *v, uint32_t out[MLXD_LIMIT_NODES]) {
    uint32_t n = 0;
    MLXD_ASSERT(v->n_devices <= MLXD_LIMIT_NODES);
    for (uint32_t i = 0; i < v->n_devices; i++) {
        const mlxd_device_view *d = &v->devices[i];
        if (d->end <= d->first)
            continue;
        uint32_t at = n++;
        for (; at > 0 && v->devices[out[at - 1]].first > d->first; at--)
            out[at] = out[at - 1];
        out[at] = i;
    }
    return n;
}
