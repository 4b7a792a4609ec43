/* identity.h - who a node is: a role and a device inside a cluster, as written in certificates.
 *
 *     URI SAN  spiffe://<cluster>/<role>/<device>     what the peer may do, checked per call
 *     DNS SAN  <device>.<cluster>.mlxd                the name a client expects in the handshake
 *
 * <cluster> and <device> are single DNS labels in lower case: 1 to 63 of a-z, 0-9 and '-', no '-'
 * at either end. <role> is coordinator, worker or operator. Text is accepted only in exactly this
 * form: no port, no query, no escapes, no trailing slash, no upper case. Pure functions, any
 * thread.
 */
#ifndef MLXD_NET_IDENTITY_H
#define MLXD_NET_IDENTITY_H

#include "base/base.h"
#include "base/limits.h"

/* One bit each, so that a set of allowed roles is a mask. 0 = nobody known (plaintext). */
typedef enum mlxd_role {
    MLXD_ROLE_NONE = 0,
    MLXD_ROLE_COORDINATOR = 1u << 0,
    MLXD_ROLE_WORKER = 1u << 1,
    MLXD_ROLE_OPERATOR = 1u << 2,
} mlxd_role;
#define MLXD_ROLES_ALL                                                                             \
    ((unsigned)MLXD_ROLE_COORDINATOR | (unsigned)MLXD_ROLE_WORKER | (unsigned)MLXD_ROLE_OPERATOR)

typedef struct mlxd_identity {
    mlxd_role role; /* exactly one bit, or MLXD_ROLE_NONE when the peer is not known */
    char cluster[MLXD_LIMIT_DEVICE_ID + 1];
    char device[MLXD_LIMIT_DEVICE_ID + 1];
} mlxd_identity;

#define MLXD_IDENTITY_URI_MAX 160 /* longest URI, with NUL */
#define MLXD_IDENTITY_DNS_MAX 136 /* longest DNS name, with NUL */

/* "coordinator", "worker", "operator"; "none" for MLXD_ROLE_NONE. `role` has at most one bit. */
const char *mlxd_role_name(mlxd_role role);
/* The reverse for the three real roles; false for anything else. */
MLXD_MUST_CHECK bool mlxd_role_parse(mlxd_slice name, mlxd_role *out);
/* "coordinator or operator" of a mask, for error texts; `size` >= 1, always NUL-terminated. */
void mlxd_role_mask_text(unsigned mask, char *out, size_t size);

/* Is `id` usable as device or cluster name? On false the error text says which rule it breaks. */
mlxd_err mlxd_identity_check_id(mlxd_slice id, mlxd_why *why) MLXD_MUST_CHECK;
/* Fills *out after checking both names. INVALID names the field. */
mlxd_err mlxd_identity_init(mlxd_identity *out, mlxd_role role, const char *cluster,
                            const char *device, mlxd_why *why) MLXD_MUST_CHECK;
/* Parses a URI SAN. INVALID with the reason; *out is then zeroed. */
mlxd_err mlxd_identity_parse_uri(mlxd_slice uri, mlxd_identity *out, mlxd_why *why) MLXD_MUST_CHECK;
/* The two SANs of an identity that has a role and valid names. */
void mlxd_identity_uri(const mlxd_identity *id, char out[MLXD_IDENTITY_URI_MAX]);
void mlxd_identity_dns(const char *cluster, const char *device, char out[MLXD_IDENTITY_DNS_MAX]);

#endif
