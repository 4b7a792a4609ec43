/* node.c - words of node.h. */
#include "serve/node.h"

const char *mlxd_device_status_name(mlxd_device_status s) {
    static const char *const names[] = {"offline", "connecting", "loading", "online"};
    MLXD_ASSERT((unsigned)s < MLXD_COUNT_OF(names));
    return names[s];
}

void mlxd_node_say_fetching(mlxd_why *out, uint32_t first, uint32_t end, uint64_t done,
                            uint64_t total) {
    bool large = total >= 1000000000;
    double unit = large ? 1e9 : 1e6;
    (void)mlxd_fail(out, MLXD_ERR_AGAIN, "downloading layers %u..%u: %.1f of %.1f %s", first,
                    end > 0 ? end - 1 : 0, (double)done / unit, (double)total / unit,
                    large ? "GB" : "MB");
}
