/* auth.h - the REST API's keys.
 *
 * Key file: one key per line, optionally with a name in front, which logs and audit show instead
 * of the key. Blank lines and lines that begin with '#' are skipped, blanks around a line too.
 *
 *     # made with: openssl rand -hex 32
 *     alice:mlxd_6c1f...
 *     mlxd_0b77...
 *
 * A key has 16 to 512 visible ASCII characters without ':'; a name 1 to 63 of [A-Za-z0-9._-]; keys
 * without one are called "key-LINE". The file must be a regular one that only its owner can read
 * (mode 0600 or less).
 *
 * Only SHA-256 digests of the keys stay in memory: keys are long and random, so a slow hash would
 * add nothing. A key is compared with all entries, without early exit, each in constant time.
 *
 * Wrong keys are answered 403; an address (IPv6: a /64 network) that sends more than 20 wrong ones
 * within a minute gets 429 for every further wrong one until the minute is over. Right keys are
 * always let in: behind a proxy or NAT one misconfigured client must not lock out the others, and
 * keys of this length are not found by trying.
 *
 * Thread: opened and closed anywhere; mlxd_auth_check has a lock inside.
 */
#ifndef MLXD_SERVE_AUTH_H
#define MLXD_SERVE_AUTH_H

#include "base/clock.h"
#include "net/http.h"

#define MLXD_AUTH_WRONG_PER_MINUTE 20

typedef struct mlxd_auth mlxd_auth;

/* Reads the key file. NOTFOUND, IO; PERM: others may read it; CONFIG, with the line: no key in it,
 * too many, malformed, or a key or name that is there twice. The texts name the file, never a key.
 * `clock` NULL: the machine's. */
mlxd_err mlxd_auth_open(mlxd_auth **out, const char *path, const mlxd_clock *clock,
                        mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_auth_close(mlxd_auth *a);

size_t mlxd_auth_count(const mlxd_auth *a);
/* Name of the key with this id (1 ..); "" for 0 and unknown ids. */
const char *mlxd_auth_name(const mlxd_auth *a, uint32_t key_id);

/* Judges `key` (NULL: none came) from address `peer`; see mlxd_http_auth. *key_id is set on OK. */
mlxd_http_verdict mlxd_auth_check(mlxd_auth *a, const char *key, const char *peer,
                                  uint32_t *key_id);
/* Wrong keys seen so far, limited ones included. */
uint64_t mlxd_auth_wrong(mlxd_auth *a);

#endif
