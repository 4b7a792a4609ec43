/* certs.h - makes and checks the certificates of a cluster (`mlxd certs`), with OpenSSL 3.
 *
 * A cluster has one CA and a certificate per node. All keys are EC P-256, signatures ECDSA with
 * SHA-256, serial numbers 128 random bits. Files in the directory, all PEM:
 *
 *     ca.crt ca.key            the CA; ca.key is only needed to make more certificates
 *     <device>.crt .key        one node: its certificate and private key
 *     server.crt server.key    the same pair under the names of the contract, when asked for
 *
 * Keys have mode 0600, certificates 0644. Every file is written to a temporary name, synced and
 * renamed (linked, when it must not replace one), so a reader sees the old file, the new file or
 * none; a pair is refused as a whole when one of its files exists and `force` is not set.
 *
 *     CA     basicConstraints critical CA:TRUE pathlen 0; keyUsage critical keyCertSign cRLSign;
 *            SKI; subject CN "mlxd CA <cluster>"
 *     node   basicConstraints critical CA:FALSE; keyUsage critical digitalSignature; SKI, AKI;
 *            extendedKeyUsage serverAuth + clientAuth (operators: clientAuth only, so that an
 *            operator can never stand in for a node); SAN as in identity.h + the hosts given;
 *            subject CN "<device>"
 *
 * Calls block on the disk and on entropy; any thread, not two at once on the same directory.
 */
#ifndef MLXD_NET_CERTS_H
#define MLXD_NET_CERTS_H

#include "base/base.h"
#include "net/identity.h"

#define MLXD_CERTS_CA_DAYS 3650
#define MLXD_CERTS_NODE_DAYS 90      /* default of `mlxd certs node` */
#define MLXD_CERTS_NODE_DAYS_MAX 825 /* what common verifiers still accept */

/* Makes the CA of `cluster` in `dir` (created with mode 0700 when missing; its parent must exist).
 * INVALID: cluster name; EXISTS: a file is there and !force; IO: named file. */
mlxd_err mlxd_certs_init(const char *dir, const char *cluster, bool force,
                         mlxd_why *why) MLXD_MUST_CHECK;

typedef struct mlxd_certs_node_options {
    mlxd_role role;           /* one role */
    const char *device;       /* DNS label; also the stem of the file names ("ca" and "server" are
                                 refused: those names are taken) */
    const char *const *hosts; /* more names: IPv4/IPv6 addresses or DNS names */
    size_t host_count;
    int days;         /* 1..MLXD_CERTS_NODE_DAYS_MAX; 0 = MLXD_CERTS_NODE_DAYS; never longer than
                         the CA lives */
    bool server_pair; /* also write server.crt and server.key */
    bool force;       /* replace existing files */
} mlxd_certs_node_options;

/* Makes a node certificate signed by the CA in `dir`; the cluster's name comes from the CA.
 * NOTFOUND: no CA there; DATA: CA unreadable or key and certificate do not match; STATE: CA
 * expired; INVALID: an option; EXISTS; IO. */
mlxd_err mlxd_certs_node(const char *dir, const mlxd_certs_node_options *options,
                         mlxd_why *why) MLXD_MUST_CHECK;

/* What a checked set of files holds. PEM text as the file had it, NUL-terminated. */
typedef struct mlxd_certs_bundle {
    char *ca_pem;   /* owned */
    char *cert_pem; /* owned; the leaf first */
    char *key_pem;  /* owned; wiped by mlxd_certs_bundle_deinit */
    mlxd_identity identity;
    int64_t not_before; /* seconds since 1970 UTC, of the leaf */
    int64_t not_after;
} mlxd_certs_bundle;

/* Reads the three files and checks what would otherwise fail later in a handshake without a
 * reason: readable PEM, key belongs to the certificate, certificate signed by the CA and valid at
 * `now_s` (seconds since 1970; pass the wall clock), 112 bits of strength along the chain (no
 * SHA-1, no RSA below 2048), not a CA itself, exactly one URI SAN and it is an identity, the
 * matching DNS SAN (operators need none), key file not open to others. Every error text names the
 * file. NOTFOUND, IO, DATA (not PEM, no identity), CORRUPT (key or CA does not match, weak), STATE
 * (expired or not yet valid; the text has the date), PERM. On error *out is empty. */
mlxd_err mlxd_certs_load(mlxd_certs_bundle *out, const char *ca_path, const char *cert_path,
                         const char *key_path, int64_t now_s, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_certs_bundle_deinit(mlxd_certs_bundle *bundle);

/* "2026-11-23 15:04 UTC, in 89 days" / "..., 3 days ago"; `size` >= 48. */
void mlxd_certs_expiry_text(int64_t not_after, int64_t now_s, char *out, size_t size);

#endif
