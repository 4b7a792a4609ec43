/* utf8.h - UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF (RFC 3629). */
#ifndef MLXD_FORMAT_UTF8_H
#define MLXD_FORMAT_UTF8_H

#include "base/base.h"

#define MLXD_UTF8_BAD UINT32_MAX
#define MLXD_UTF8_REPLACEMENT 0xFFFDu

/* Reads one code point from the `len` >= 1 bytes at `p` and returns how many bytes it took (1..4).
 * When they are ill-formed, *cp is MLXD_UTF8_BAD and the result is the length of the longest prefix
 * that could have begun a character (at least 1): what one U+FFFD stands for (Unicode 3.9, the same
 * as browsers and Python do). */
size_t mlxd_utf8_next(const uint8_t *p, size_t len, uint32_t *cp);
/* Writes `cp`, a scalar value (asserted), and returns the number of bytes, 1..4. */
size_t mlxd_utf8_put(uint32_t cp, uint8_t out[4]);
/* Offset of the first ill-formed byte; s.len when there is none. */
size_t mlxd_utf8_check(mlxd_slice s);

#endif
