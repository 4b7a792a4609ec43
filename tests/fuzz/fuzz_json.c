/* fuzz_json.c - the strict JSON scanner: any text is refused or becomes a document whose every
 * value can be visited. */
#include "format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t visit(const mlxd_json *v) {
    mlxd_slice key, text;
    size_t sum = mlxd_json_get_str(v, &text) == MLXD_OK ? text.len : 0;
    mlxd_json_kind kind = mlxd_json_get_kind(v);
    if (kind != MLXD_JSON_ARRAY && kind != MLXD_JSON_OBJECT)
        return sum;
    for (const mlxd_json *e = mlxd_json_first(v, &key); e; e = mlxd_json_next(v, e, &key))
        sum += key.len + visit(e);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mlxd_json_doc *doc;
    mlxd_why why;
    if (mlxd_json_parse(&doc, (mlxd_slice){data, size}, MLXD_LIMIT_JSON_DEPTH, &why) == MLXD_OK) {
        MLXD_ASSERT(visit(mlxd_json_root(doc)) <= size);
        mlxd_json_close(doc);
    }
    return 0;
}
