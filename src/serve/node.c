/* node.c - names of node.h. */
#include "serve/node.h"

const char *mlxd_device_status_name(mlxd_device_status s) {
    static const char *const names[] = {"offline", "connecting", "loading", "online"};
    MLXD_ASSERT((unsigned)s < MLXD_COUNT_OF(names));
    return names[s];
}
