/* certs_internal.h - shared by certs.c (makes) and certs_load.c (reads and checks). */
#ifndef MLXD_NET_CERTS_INTERNAL_H
#define MLXD_NET_CERTS_INTERNAL_H

#include "net/certs.h"

#include <openssl/x509.h>

#define MLXD_CERTS_PATH_MAX 4096
#define MLXD_CERTS_CA_NAME "mlxd CA " /* + cluster: the CA's common name */

/* Error text from OpenSSL's queue, which is then empty. */
mlxd_err mlxd_certs_openssl_fail(mlxd_why *why, mlxd_err err, const char *what);
mlxd_err mlxd_certs_path(char out[MLXD_CERTS_PATH_MAX], const char *dir, const char *stem,
                         const char *suffix, mlxd_why *why);

/* A CA that can sign: its certificate is a CA, valid now, and belongs to its key. */
typedef struct mlxd_certs_ca {
    X509 *cert;
    EVP_PKEY *key;
    int64_t not_after;
    char cluster[MLXD_LIMIT_DEVICE_ID + 1];
} mlxd_certs_ca;
mlxd_err mlxd_certs_ca_load(mlxd_certs_ca *out, const char *dir, int64_t now_s, mlxd_why *why);
void mlxd_certs_ca_deinit(mlxd_certs_ca *ca);

#endif
