/* names.c - see names.h: heapsort (Williams; heap built bottom-up, Floyd) and binary search. */
#include "format/names.h"

#include <string.h>

struct names {
    mlxd_names_at at;
    const void *ctx;
};

static int compare_bytes(mlxd_slice a, mlxd_slice b) {
    size_t len = MLXD_MIN(a.len, b.len);
    int c = len ? memcmp(a.data, b.data, len) : 0;
    if (c != 0)
        return c;
    return a.len < b.len ? -1 : a.len > b.len;
}

static bool less(const struct names *n, uint32_t a, uint32_t b) {
    int c = compare_bytes(n->at(n->ctx, a), n->at(n->ctx, b));
    return c != 0 ? c < 0 : a < b;
}

/* order[root..count) is a heap (no parent less than its children) except for its root. */
static void sift_down(uint32_t *order, size_t root, size_t count, const struct names *n) {
    uint32_t id = order[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && less(n, order[child], order[child + 1]))
            child++;
        if (!less(n, id, order[child]))
            break;
        order[root] = order[child];
    }
    order[root] = id;
}

uint32_t mlxd_names_sort(uint32_t *order, uint32_t count, mlxd_names_at at, const void *ctx) {
    MLXD_ASSERT(at && (order || count == 0));
    struct names n = {at, ctx};
    for (size_t i = count / 2; i-- > 0;)
        sift_down(order, i, count, &n);
    for (size_t end = count; end > 1;) {
        end--;
        uint32_t largest = order[0];
        order[0] = order[end];
        order[end] = largest;
        sift_down(order, 0, end, &n);
    }
    uint32_t repeated = MLXD_NAMES_NONE;
    for (size_t i = 1; i < count; i++)
        if (order[i] < repeated && mlxd_slice_eq(at(ctx, order[i - 1]), at(ctx, order[i])))
            repeated = order[i];
    return repeated;
}

uint32_t mlxd_names_find(const uint32_t *order, uint32_t count, mlxd_names_at at, const void *ctx,
                         mlxd_slice name) {
    MLXD_ASSERT(at && (order || count == 0));
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = compare_bytes(name, at(ctx, order[middle]));
        if (c == 0)
            return order[middle];
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return MLXD_NAMES_NONE;
}
