/* digest.h - SHA-256 (libcrypto), and its hexadecimal form.
 *
 *     mlxd_sha256 *s = mlxd_sha256_open();
 *     mlxd_sha256_add(s, row, row_bytes); // as often as wanted
 *     mlxd_sha256_get(s, digest);         // of everything so far
 *     mlxd_sha256_close(s);
 *
 * Thread: one mlxd_sha256 belongs to one thread at a time; the other functions are pure.
 */
#ifndef MLXD_FORMAT_DIGEST_H
#define MLXD_FORMAT_DIGEST_H

#include "base/base.h"

#define MLXD_SHA256_BYTES 32
#define MLXD_SHA256_HEX 65 /* with NUL */

typedef struct mlxd_sha256 mlxd_sha256;

/* NULL: no memory. */
mlxd_sha256 *mlxd_sha256_open(void) MLXD_MUST_CHECK;
void mlxd_sha256_close(mlxd_sha256 *s);
void mlxd_sha256_add(mlxd_sha256 *s, const void *data, size_t len);
/* Digest of what was added so far; more may follow. */
void mlxd_sha256_get(const mlxd_sha256 *s, uint8_t out[MLXD_SHA256_BYTES]);
void mlxd_sha256_once(const void *data, size_t len, uint8_t out[MLXD_SHA256_BYTES]);

/* Lower-case digits and a NUL: 2*len + 1 bytes at `out`. */
void mlxd_hex(const uint8_t *data, size_t len, char *out);
/* false unless `text` is exactly 2*len hexadecimal digits (either case); `out` may then be partly
 * written. */
bool mlxd_unhex(const char *text, uint8_t *out, size_t len);
/* Takes the same time wherever the difference is; for secrets and their hashes. */
bool mlxd_digest_eq(const uint8_t *a, const uint8_t *b, size_t len);

#endif
