/* certs_info.h - what a certificate says about itself, for a list that people read (`mlxd certs
 * show`). Nothing is verified here: whether it may be used is mlxd_certs_load's question.
 *
 * Calls block on the disk; any thread.
 */
#ifndef MLXD_NET_CERTS_INFO_H
#define MLXD_NET_CERTS_INFO_H

#include "base/base.h"
#include "net/identity.h"

typedef struct mlxd_certs_info {
    char name[128]; /* common name, cut; control bytes replaced */
    bool is_ca;
    mlxd_identity identity; /* role MLXD_ROLE_NONE: it has none, as the CA */
    int64_t not_before;     /* seconds since 1970 UTC */
    int64_t not_after;
} mlxd_certs_info;

/* The first certificate of a PEM file. NOTFOUND, PERM, IO; DATA: no certificate, or one without
 * readable dates. The text names the file. */
mlxd_err mlxd_certs_info_read(mlxd_certs_info *out, const char *path,
                              mlxd_why *why) MLXD_MUST_CHECK;

#endif
